//! The kinds of attacks.

use super::served::Kind;
use super::table::Column;

/// The random client, which is a Rust program.
pub(crate) const CLIENT: &str = "tools/hostile/main.rs";

/// How driftheap runs the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    Plain,
    Strict,
    Chaos,
    Misuse,
}

impl Mode {
    /// The options of `driftheap run`.
    pub(crate) fn options(self) -> &'static [&'static str] {
        match self {
            Self::Plain => &[],
            Self::Strict => &["--strict"],
            // About 5000 pages a second and more.
            Self::Chaos => &["--chaos", "1,rate=5000,kinds=move"],
            Self::Misuse => &["--misuse"],
        }
    }
}

const EVERY: &[Mode] = &[Mode::Plain, Mode::Strict, Mode::Chaos, Mode::Misuse];
const MOVES: &[Mode] = &[Mode::Chaos];

/// What else happens to it.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Beside {
    Nothing,
    /// So many descriptors for each process, the supervisor too.
    Descriptors(u32),
    /// So many KiB of address space.
    AddressSpace(u32),
    /// So many MiB of memory for the whole tree, by a control group.
    Memory(u32),
    /// /dev/shm and the directory for temporary files are full.
    NoSpace,
    /// driftheap serves clients at a socket or a mount, and these attack it.
    Served(Kind),
    /// driftheap is stopped for a second.
    Stop,
    /// driftheap is killed after so many milliseconds.
    Kill(u64),
    /// Its guardian is.
    KillGuardian(u64),
    /// Options that make driftheap go wrong.
    Options(&'static [&'static str]),
}

/// A kind: a program, and the ways in which it is run.
#[derive(Debug)]
pub(crate) struct Attack {
    pub(crate) kind: &'static str,
    pub(crate) program: &'static str,
    pub(crate) arguments: &'static [&'static str],
    pub(crate) modes: &'static [Mode],
    pub(crate) beside: &'static [Beside],
}

/// One way.
#[derive(Clone, Debug)]
pub(crate) struct Run {
    pub(crate) attack: &'static Attack,
    pub(crate) mode: Mode,
    pub(crate) plain_user: bool,
    pub(crate) beside: Beside,
}

impl Attack {
    /// As root and as a plain user, in every mode, with everything that happens beside it.
    pub(crate) fn runs(&'static self) -> Vec<Run> {
        let users: &[bool] =
            if rustix::process::geteuid().is_root() { &[false, true] } else { &[true] };
        let mut runs = Vec::new();
        for &beside in self.beside {
            for &mode in self.modes {
                for &plain_user in users {
                    runs.push(Run { attack: self, mode, plain_user, beside });
                }
            }
        }
        runs
    }
}

const NOTHING: &[Beside] = &[Beside::Nothing];

/// An attack in every mode, without anything beside.
const fn every(
    kind: &'static str,
    program: &'static str,
    arguments: &'static [&'static str],
) -> Attack {
    Attack { kind, program, arguments, modes: EVERY, beside: NOTHING }
}

/// Faults made on purpose, and the column that each is in.
pub(crate) const SEEDED: &[(Attack, Column)] = &[
    (seed("ends well", &[]), Column::Survived),
    (seed("never ends", &["hangs"]), Column::Hung),
    (seed("kills itself", &["crashes"]), Column::Crashed),
    (
        Attack {
            kind: "a supervisor that dies",
            program: "tests/clients/writers.c",
            arguments: &["1"],
            modes: MOVES,
            beside: &[Beside::Options(&["--sabotage", "die-at-copy:20"])],
        },
        Column::Crashed,
    ),
    (seed("holds buffers", &["holds"]), Column::Leaked),
    (seed("leaves a file", &["keeps"]), Column::Leaked),
    (
        Attack {
            kind: "moves without write protection",
            program: "tests/clients/writers.c",
            arguments: &["2"],
            modes: MOVES,
            beside: &[Beside::Options(&["--sabotage", "no-protect"])],
        },
        Column::Lost,
    ),
    (seed("answers wrongly", &["answers"]), Column::Wrong),
];

const fn seed(kind: &'static str, arguments: &'static [&'static str]) -> Attack {
    let modes = &[Mode::Plain];
    Attack { kind, program: "tests/hostile/seeded.c", arguments, modes, beside: NOTHING }
}

const fn socket(kind: &'static str, beside: &'static [Beside]) -> Attack {
    let program = "tests/hostile/served.rs";
    Attack { kind, program, arguments: &[], modes: &[Mode::Plain], beside }
}

/// The table's rows.
pub(crate) const ATTACKS: &[Attack] = &[
    every("failed exec, clone3, unshare, setns, fork", "tests/clients/exec_fails.c", &["0.2"]),
    every("exec of a process whose threads map", "tests/clients/exec_threads.c", &["10"]),
    every("its own userfaultfd fills its pages", "tests/clients/fills.c", &["pages"]),
    every("its own file system serves its files", "tests/clients/fills.c", &["files", "MOUNT"]),
    every("short children that watch a buffer", "tests/hostile/children.c", &["400"]),
    every("open of /dev/stdin that is a buffer", "tests/hostile/stdin.c", &[]),
    every("many that wait in SYNC and poll", "tests/hostile/waiters.c", &["300"]),
    every("names with terminal escapes", "tests/hostile/escapes.c", &[]),
    every("a seccomp filter of its own", "tests/clients/lives.c", &["sandbox"]),
    every("udmabufs of one memfd", "tests/clients/lives.c", &["udmabufs"]),
    every("timelines closed under their waiters", "tests/clients/lives.c", &["timeline"]),
    every("random calls", CLIENT, &["random", "7"]),
    every("arguments that change meanwhile", CLIENT, &["race"]),
    every("killed at any time", CLIENT, &["death", "5"]),
    every("a full descriptor table", CLIENT, &["full"]),
    every("calls that copy, while pages move", "tests/clients/copier.c", &["1"]),
    Attack {
        kind: "direct I/O and process_vm_writev",
        program: "tests/clients/direct.c",
        arguments: &["1", "FILE"],
        modes: MOVES,
        beside: NOTHING,
    },
    every("real-time signals in every call", "tests/clients/realtime.c", &[]),
    Attack {
        kind: "every kernel access, while pages move",
        program: "tests/hostile/accesses.c",
        arguments: &[
            "0.2",
            "read",
            "readv",
            "splice",
            "sendfile",
            "vmsplice",
            "process_vm",
            "recvmsg",
            "mmsg",
            "aio",
            "uring",
            "futex",
        ],
        modes: MOVES,
        beside: NOTHING,
    },
    Attack {
        kind: "many buffers and few descriptors, then fork",
        program: "tests/hostile/many.c",
        arguments: &["300", "0.3"],
        modes: EVERY,
        beside: &[
            Beside::Descriptors(64),
            Beside::Descriptors(128),
            Beside::Descriptors(256),
            Beside::Descriptors(512),
            Beside::Descriptors(1024),
        ],
    },
    Attack {
        kind: "memory short: a control group, ulimit -v",
        program: "tests/hostile/many.c",
        arguments: &["200", "0.3"],
        modes: &[Mode::Plain, Mode::Chaos],
        beside: &[
            Beside::Memory(64),
            Beside::AddressSpace(2_000_000),
            Beside::AddressSpace(400_000),
        ],
    },
    Attack {
        kind: "no space in /dev/shm and for temporary files",
        program: "tests/hostile/many.c",
        arguments: &["50", "0.3"],
        modes: EVERY,
        beside: &[Beside::NoSpace],
    },
    socket("socket: broken messages", &[Beside::Served(Kind::Messages)]),
    socket("socket: wrong descriptors", &[Beside::Served(Kind::Descriptors)]),
    socket("socket: a thousand connections", &[Beside::Served(Kind::Crowd)]),
    socket("socket: clients that do not read", &[Beside::Served(Kind::Slow)]),
    socket("socket: move_notify never answered", &[Beside::Served(Kind::Silent)]),
    socket("mount: names and files, at once", &[Beside::Served(Kind::Mount)]),
    Attack {
        kind: "few descriptors",
        program: "tests/clients/lives.c",
        arguments: &["loop", "1000"],
        modes: EVERY,
        beside: &[Beside::Descriptors(64), Beside::Descriptors(128), Beside::Descriptors(1024)],
    },
    Attack {
        kind: "SIGSTOP of driftheap",
        program: "tests/clients/writers.c",
        arguments: &["2"],
        modes: MOVES,
        beside: &[Beside::Stop],
    },
    Attack {
        kind: "SIGKILL of driftheap",
        program: "tests/clients/writers.c",
        arguments: &["1"],
        modes: MOVES,
        beside: &[Beside::Kill(311), Beside::Kill(523), Beside::Kill(709), Beside::Kill(887)],
    },
    Attack {
        kind: "SIGKILL at each step of a move",
        program: "tests/clients/writers.c",
        arguments: &["1"],
        modes: MOVES,
        beside: &[
            Beside::Options(&["--sabotage", "die-at-protect:300"]),
            Beside::Options(&["--sabotage", "die-at-copy:300"]),
            Beside::Options(&["--sabotage", "die-at-punch:300"]),
            Beside::Options(&["--sabotage", "die-at-refill:300"]),
            Beside::Options(&["--sabotage", "die-at-release:300"]),
        ],
    },
    Attack {
        kind: "SIGKILL of the guardian",
        program: "tests/clients/writers.c",
        arguments: &["1"],
        modes: MOVES,
        beside: &[Beside::KillGuardian(400)],
    },
];
