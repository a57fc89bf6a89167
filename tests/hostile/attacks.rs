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
    /// Every access is checked, by ptrace.
    Checked,
    /// Buffers move, and misuse is told.
    ChaosMisuse,
    /// Buffers move, and every access is checked.
    ChaosChecked,
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
            Self::Checked => &["--check-access", "exhaustive"],
            Self::ChaosMisuse => &["--misuse", "--chaos", "1,rate=5000,kinds=move"],
            Self::ChaosChecked => {
                &["--check-access", "exhaustive", "--chaos", "1,rate=5000,kinds=move"]
            }
        }
    }

    /// Whether what it does not need moves.
    pub(crate) fn moves(self) -> bool {
        matches!(self, Self::Chaos | Self::ChaosMisuse | Self::ChaosChecked)
    }

    /// Whether it names the program's own source lines, whose symbols stay in memory.
    pub(crate) fn reports(self) -> bool {
        !matches!(self, Self::Plain | Self::Strict | Self::Chaos)
    }
}

const EVERY: &[Mode] = &[Mode::Plain, Mode::Strict, Mode::Chaos, Mode::Misuse];
const MOVES: &[Mode] = &[Mode::Chaos];
const TRACED: &[Mode] = &[Mode::ChaosMisuse, Mode::Checked, Mode::ChaosChecked];

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
    /// Both are, the guardian first.
    KillBoth(u64),
    /// The signals that are passed on are sent to it.
    Signals,
    /// So many processes and threads of the user's; root has no such limit.
    Processes(u32),
    /// Files of so many bytes, by the limit that a program may raise and by the one that it may not.
    FileSize(&'static str),
    /// Its stderr can't be written.
    FullStderr,
    /// The socket that it is told to listen at was left by one that is gone.
    StaleSocket,
    /// It is process 1 of a pid namespace.
    First,
    /// What happens is recorded, and the recording asked.
    Record,
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
    (
        Attack {
            kind: "a call that holds everybody up",
            program: "tests/clients/writers.c",
            arguments: &["1"],
            modes: MOVES,
            beside: &[Beside::Options(&["--sabotage", "hold-up:2500"])],
        },
        Column::Hung,
    ),
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

const fn with(
    kind: &'static str,
    program: &'static str,
    arguments: &'static [&'static str],
    modes: &'static [Mode],
    beside: &'static [Beside],
) -> Attack {
    Attack { kind, program, arguments, modes, beside }
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
    every("paths behind a device, and openat2", "tests/hostile/opens.c", &[]),
    every("two processes of one address space", "tests/hostile/halves.c", &["0.2"]),
    with(
        "two processes of one address space, checked",
        "tests/hostile/halves.c",
        &["0.1"],
        &[Mode::ChaosMisuse],
        NOTHING,
    ),
    with("exec beside ptrace", "tests/clients/exec_threads.c", &["10"], TRACED, NOTHING),
    with("failed exec and fork, checked", "tests/clients/exec_fails.c", &["0.05"], TRACED, NOTHING),
    with(
        "threads, mremap and a first thread that ends, checked",
        "tests/clients/misuse/threads.c",
        &[],
        TRACED,
        NOTHING,
    ),
    with("a busy program, checked", "tests/clients/misuse/busy.c", &[], TRACED, NOTHING),
    with(
        "code in files that lie",
        "tests/hostile/elves.c",
        &["30", "7"],
        &[Mode::Misuse, Mode::ChaosChecked],
        NOTHING,
    ),
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
        arguments: &["300", "0.3", "40", "alloc:EMFILE", "mmap:ENOMEM", "fork:EAGAIN"],
        modes: &[Mode::Plain, Mode::Strict, Mode::Chaos, Mode::Misuse, Mode::ChaosChecked],
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
        arguments: &[
            "200",
            "0.3",
            "10",
            "alloc:ENOMEM",
            "mmap:ENOMEM",
            "fork:EAGAIN",
            "fork:ENOMEM",
        ],
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
        arguments: &["50", "0.3", "100"],
        modes: EVERY,
        beside: &[Beside::NoSpace],
    },
    with(
        "no process more: fork and threads fail",
        "tests/hostile/many.c",
        &["50", "0.2", "100", "fork:EAGAIN"],
        &[Mode::Strict, Mode::Chaos, Mode::Misuse, Mode::ChaosChecked],
        &[Beside::Processes(2), Beside::Processes(4), Beside::Processes(7)],
    ),
    with(
        "files of few bytes",
        "tests/hostile/many.c",
        &["20", "0.2", "100"],
        EVERY,
        &[Beside::FileSize("20000:unlimited")],
    ),
    with(
        "files of few bytes, and no way to more",
        "tests/hostile/many.c",
        &["20", "0.2", "0", "alloc:ENOMEM"],
        EVERY,
        &[Beside::FileSize("20000:20000")],
    ),
    with(
        "stderr on a full disk",
        "tests/clients/writers.c",
        &["1"],
        &[Mode::Strict, Mode::Chaos, Mode::ChaosMisuse],
        &[Beside::FullStderr],
    ),
    with(
        "driftheap as process 1",
        "tests/clients/writers.c",
        &["1"],
        &[Mode::Plain, Mode::Chaos, Mode::Misuse],
        &[Beside::First],
    ),
    with("signals to driftheap", "tests/hostile/signals.c", &[], EVERY, &[Beside::Signals]),
    with(
        "a control socket that one left",
        "tests/clients/lives.c",
        &["loop", "3000"],
        &[Mode::Plain],
        &[Beside::StaleSocket],
    ),
    with(
        "a recording of what has no words",
        "tests/hostile/escapes.c",
        &[],
        &[Mode::Plain, Mode::Misuse],
        &[Beside::Record],
    ),
    socket("socket: broken messages", &[Beside::Served(Kind::Messages)]),
    socket("socket: wrong descriptors", &[Beside::Served(Kind::Descriptors)]),
    socket("socket: a thousand connections", &[Beside::Served(Kind::Crowd)]),
    socket("socket: clients that do not read", &[Beside::Served(Kind::Slow)]),
    socket("socket: move_notify never answered", &[Beside::Served(Kind::Silent)]),
    socket("socket: views and attachments without end", &[Beside::Served(Kind::Hoard)]),
    socket("socket: another user", &[Beside::Served(Kind::Stranger)]),
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
    with(
        "SIGKILL of driftheap and of the guardian",
        "tests/clients/writers.c",
        &["1"],
        MOVES,
        &[Beside::KillBoth(311), Beside::KillBoth(523), Beside::KillBoth(709)],
    ),
];
