//! What the device costs: `cargo bench --bench device`. Every figure stands beside the bare
//! mechanism that it is made of, measured in the same run, once on one CPU and once across.
//!
//! The program runs itself again: under a bare supervisor that does nothing but ADDFD, and under
//! `driftheap run`.
#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    dead_code,
    missing_docs,
    reason = "a benchmark prints, and stops when something is missing"
)]

#[path = "../../src/conformance/exporters.rs"]
mod exporters;
#[path = "../../src/conformance/kit.rs"]
mod kit;
#[path = "../../src/conformance/node.rs"]
mod node;
#[path = "../../src/sys/raw.rs"]
mod raw;

/// Where the kit looks for it.
mod sys {
    pub(crate) use super::raw;
    pub(crate) use driftheap::sys::arch;
}

use std::ffi::CString;
use std::os::fd::AsFd;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use driftheap::device::supervisor::caller;
use driftheap::sys::backing;
use driftheap::sys::seccomp::{ArgTest, Filter};
use driftheap::sys::supervise::spawn;
use kit::{ALLOC, Alloc, RDWR, SYNC, close, heap, ioctl, mmap};
use raw::{call, peek, poke, ptr};

const ROUNDS: u32 = 5000;
/// A command of nobody's, which the bare supervisor answers.
const BARE_ADDFD: u64 = 0x7f01;
const BARE_REPLY: u64 = 0x7f02;
/// Answered with everything that an ALLOC can't do without, and nothing else.
const BARE_ALLOC: u64 = 0x7f03;

/// Nanoseconds of one call, median of five runs.
fn time(mut one: impl FnMut()) -> f64 {
    let mut runs: Vec<f64> = (0..5)
        .map(|_| {
            let started = Instant::now();
            for _ in 0..ROUNDS / 5 {
                one();
            }
            started.elapsed().as_nanos() as f64 / f64::from(ROUNDS / 5)
        })
        .collect();
    runs.sort_by(f64::total_cmp);
    runs[2]
}

fn child_bare() {
    let addfd = time(|| {
        let fd = call(libc::SYS_ioctl, &[0, BARE_ADDFD, 0]).unwrap();
        close(fd as u64).unwrap();
    });
    let reply = time(|| {
        call(libc::SYS_ioctl, &[0, BARE_REPLY, 0]).unwrap();
    });
    let steps = time(|| {
        let mut arg = Alloc { len: 4096, fd_flags: RDWR, ..Alloc::default() };
        ioctl(0, BARE_ALLOC, &mut arg).unwrap();
        close(u64::from(arg.fd)).unwrap();
    });
    let memfd = time(|| {
        let mut name = *b"m\0";
        let fd = call(libc::SYS_memfd_create, &[ptr(&mut name), 1]).unwrap() as u64;
        call(libc::SYS_ftruncate, &[fd, 4096]).unwrap();
        close(fd).unwrap();
    });
    println!("addfd {addfd}\nreply {reply}\nsteps {steps}\nmemfd {memfd}");
}

fn child_device() {
    let heap = heap();
    let alloc = time(|| {
        let mut arg = Alloc { len: 4096, fd_flags: RDWR, ..Alloc::default() };
        ioctl(heap, ALLOC, &mut arg).unwrap();
        close(u64::from(arg.fd)).unwrap();
    });
    let fd = kit::buffer(1);
    let sync = time(|| {
        let mut flags = 3u64;
        ioctl(fd, SYNC, &mut flags).unwrap();
    });
    let other = time(|| {
        let _ = call(libc::SYS_getppid, &[]);
    });
    let write = {
        let mut byte = [0u8];
        let null = kit::open("/dev/null", 1).unwrap() as u64;
        time(|| {
            call(libc::SYS_write, &[null, ptr(&mut byte), 1]).unwrap();
        })
    };
    let open = time(|| {
        close(kit::open("/dev/null", 0).unwrap() as u64).unwrap();
    });
    println!("alloc {alloc}\nsync {sync}\nuntrapped {other}\nwrite {write}\nopen {open}");
    bandwidth();
}

/// Sum of all bytes through a mapping of the device and through plain memory.
fn bandwidth() {
    const LEN: u64 = 4 << 20;
    let fd = kit::alloc(LEN, RDWR).unwrap() as u64;
    let map = mmap(fd, LEN, 3, 1, 0).unwrap() as u64;
    let plain = kit::anonymous(LEN / 4096, 3);
    for (name, base) in [("mapped", map), ("plain", plain)] {
        for page in 0..LEN / 4096 {
            poke(base + page * 4096, 1);
        }
        let mut sum = 0u64;
        let started = Instant::now();
        for _ in 0..8 {
            for at in (0..LEN).step_by(4) {
                sum = sum.wrapping_add(u64::from(raw::peek32(base + at)));
            }
        }
        let seconds = started.elapsed().as_secs_f64();
        assert!(sum > 0 && peek(base) == 1);
        println!("{name} {}", 8.0 * LEN as f64 / seconds / f64::from(1 << 30));
    }
}

/// Runs ourselves as `child-bare` under a supervisor that answers two commands and nothing else.
fn bare() -> String {
    let mut filter = Filter::default();
    let cmds = [BARE_ADDFD, BARE_REPLY, BARE_ALLOC].map(|cmd| cmd as u32).to_vec();
    filter.when(libc::SYS_ioctl, vec![ArgTest { arg: 1, mask: u32::MAX, any_of: cmds }]);
    let own = std::env::current_exe().unwrap().display().to_string();
    let out = tempfile::NamedTempFile::new().unwrap();
    let shell = format!("exec {own} child-bare > {}", out.path().display());
    let argv = ["sh", "-c", &shell].map(|arg| CString::new(arg).unwrap());
    let mask = nix::sys::signal::SigSet::empty();
    let child = spawn(&argv, &filter.assemble(), &mask).unwrap();
    child.listener.wake_synchronously();
    let file = backing::memfd("bare").unwrap();
    while let Ok(notified) = child.listener.recv() {
        match notified.args[1] {
            BARE_ADDFD => {
                child.listener.add_fd(notified.id, file.as_fd(), true, true).unwrap();
            }
            BARE_ALLOC => {
                let arg = notified.args[2];
                let mut bytes = caller::read(notified.tid, arg, 24).unwrap();
                let buffer = backing::secret().unwrap();
                rustix::fs::ftruncate(&buffer, 4096).unwrap();
                let fd = child.listener.add_fd(notified.id, buffer.as_fd(), true, false).unwrap();
                bytes[8..12].copy_from_slice(&fd.to_ne_bytes());
                caller::write(notified.tid, arg, &bytes).unwrap();
                child.listener.reply(notified.id, Ok(0)).unwrap();
            }
            _ => child.listener.reply(notified.id, Ok(0)).unwrap(),
        }
    }
    let pid = nix::unistd::Pid::from_raw(child.pid);
    nix::sys::wait::waitpid(pid, None).unwrap();
    std::fs::read_to_string(out.path()).unwrap()
}

fn device(options: &[&str]) -> String {
    let own = std::env::current_exe().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_driftheap"));
    command.args(["run", "-q"]).args(options).arg("--").arg(own).arg("child-device");
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// The best of several runs' figures called `name`: the least time, or the most bandwidth.
fn figure(text: &str, name: &str) -> f64 {
    let named = text.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    let figures = named.map(|figure| figure.parse::<f64>().unwrap());
    let most = matches!(name, "mapped" | "plain");
    let best = figures.reduce(if most { f64::max } else { f64::min });
    best.unwrap_or_else(|| panic!("no {name} in {text}"))
}

/// Seconds of a compilation, natively and under the device, best of `rounds` taken in turn.
fn compile(source: &Path, rounds: u32) -> [f64; 3] {
    let mut best = [f64::MAX; 3];
    let driftheap = env!("CARGO_BIN_EXE_driftheap");
    let prefixes: [&[&str]; 3] =
        [&[], &[driftheap, "run", "-q", "--"], &[driftheap, "run", "-q", "--strict", "--"]];
    for _ in 0..rounds {
        for (best, prefix) in best.iter_mut().zip(prefixes) {
            let words: Vec<&str> =
                prefix.iter().copied().chain(["cc", "-O2", "-c", "-o", "/dev/null"]).collect();
            let started = Instant::now();
            let status = Command::new(words[0]).args(&words[1..]).arg(source).status().unwrap();
            assert!(status.success());
            *best = best.min(started.elapsed().as_secs_f64());
        }
    }
    best
}

/// A source that takes a second or so: many small functions over common headers.
fn source() -> tempfile::NamedTempFile {
    use std::io::Write as _;
    let mut file = tempfile::Builder::new().suffix(".c").tempfile().unwrap();
    for header in ["stdio", "stdlib", "string", "unistd", "fcntl", "errno", "sys/mman", "sys/ioctl"]
    {
        writeln!(file, "#include <{header}.h>").unwrap();
    }
    for n in 0..400 {
        writeln!(
            file,
            "int f{n}(int *a, int n) {{ int s = {n}; for (int i = 0; i < n; i++) {{ \
             a[i] = a[i] * {n} + s; s ^= a[i] >> (i & 7); if (s > {n}00) printf(\"%d\", s); }} \
             return s; }}"
        )
        .unwrap();
    }
    file
}

fn report(which: &str) {
    // In turn, so that a busy moment of the machine hits all of them alike.
    let (mut bare, mut default, mut strict) = (String::new(), String::new(), String::new());
    for _ in 0..3 {
        bare += &self::bare();
        default += &device(&[]);
        strict += &device(&["--strict"]);
    }
    let of = |text: &str, name| figure(text, name);
    println!("\n{which}, nanoseconds");
    println!("  bare ADDFD round trip + close      {:8.0}", of(&bare, "addfd"));
    println!("  bare read, memfd_secret, ADDFD, write, reply + close {:8.0}", of(&bare, "steps"));
    println!("  memfd_create + ftruncate + close   {:8.0}", of(&bare, "memfd"));
    for (level, text) in [("run", &default), ("run --strict", &strict)] {
        println!(
            "  ALLOC + close, {level:<13}       {:8.0}   {:.2} x ADDFD, {:.2} x the bare steps",
            of(text, "alloc"),
            of(text, "alloc") / of(&bare, "addfd"),
            of(text, "alloc") / of(&bare, "steps"),
        );
    }
    println!("  bare reply round trip              {:8.0}", of(&bare, "reply"));
    for (level, text) in [("run", &default), ("run --strict", &strict)] {
        println!(
            "  SYNC, {level:<13}                {:8.0}   {:.2} x reply",
            of(text, "sync"),
            of(text, "sync") / of(&bare, "reply")
        );
        println!(
            "  open + close / write / getppid     {:8.0} / {:.0} / {:.0}",
            of(text, "open"),
            of(text, "write"),
            of(text, "untrapped")
        );
    }
    let bars = [
        ("bare ADDFD + close", &bare, "addfd"),
        ("ALLOC + close, run", &default, "alloc"),
        ("ALLOC + close, --strict", &strict, "alloc"),
        ("bare reply", &bare, "reply"),
        ("SYNC, run", &default, "sync"),
        ("SYNC, --strict", &strict, "sync"),
    ]
    .map(|(label, text, name)| {
        let (label, value) = (label.to_owned(), of(text, name));
        driftheap::report::chart::Bar {
            label,
            value,
            said: format!("{value:.0} ns"),
            marked: false,
        }
    });
    print!("{}", driftheap::report::chart::text(&bars));
    println!(
        "  read through the mapping           {:8.2} GiB/s, plain memory {:.2}: {:.2} x",
        of(&default, "mapped"),
        of(&default, "plain"),
        of(&default, "mapped") / of(&default, "plain")
    );
}

fn main() {
    match std::env::args().nth(1).as_deref() {
        Some("child-bare") => return child_bare(),
        Some("child-device") => return child_device(),
        _ => {}
    }
    let source = source();
    let all = rustix::thread::sched_getaffinity(None).unwrap();
    let mut one = rustix::thread::CpuSet::new();
    one.set(0);
    rustix::thread::sched_setaffinity(None, &one).unwrap();
    report("one CPU");
    rustix::thread::sched_setaffinity(None, &all).unwrap();
    report("all CPUs");
    let [native, run, strict] = compile(source.path(), 12);
    println!("\ncc -O2 of a file, seconds, best of 12 taken in turn");
    println!("  native {native:.3}");
    println!("  run {run:.3}: {:+.1} %", (run / native - 1.0) * 100.0);
    println!("  run --strict {strict:.3}: {:+.1} %", (strict / native - 1.0) * 100.0);
}
