//! What the mount costs: `cargo bench --bench fuse`. The same ioctl and the same first touch of a
//! page, answered by `driftheap serve --mount` and by a bare loop over /dev/fuse that knows one file.
//!
//! Needs root, for mount(2); otherwise it prints SKIP.
#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
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

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::{AsFd as _, AsRawFd as _, IntoRawFd as _};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use driftheap::uapi::fuse as uapi;
use kit::{ALLOC, Alloc, RDWR, SYNC, ioctl, mmap};

/// Bytes of the file whose pages are touched.
const LEN: u64 = 4 << 20;
const ROUNDS: u32 = 5000;

const LOOKUP: u32 = 1;
const GETATTR: u32 = 3;
const INIT: u32 = 26;
const FOPEN_DIRECT_IO: u32 = 1;
const INIT_EXT: u32 = 1 << 30;
const DIRECT_IO_ALLOW_MMAP_HIGH: u32 = 1 << 4;

/// A reply's body, or an errno.
type Body = Result<Vec<u8>, i32>;

/// `struct fuse_attr` of the root or of the one file.
fn attr(node: u64) -> Vec<u8> {
    let (size, mode) = if node == 1 { (0, 0o040_755_u32) } else { (LEN, 0o100_666) };
    let mut bytes = [node, size, size / 512, 0, 0, 0].map(u64::to_ne_bytes).concat();
    bytes.extend([0, 0, 0, mode, 1, 0, 0, 0, 4096, 0].map(u32::to_ne_bytes).concat());
    bytes
}

/// What the bare loop answers.
fn bare_answer(opcode: u32, node: u64, body: &[u8]) -> Body {
    match opcode {
        INIT => {
            // The kernel's own offer, as `serve` answers it too.
            let readahead = u32::from_ne_bytes(body[8..12].try_into().unwrap());
            let mut out =
                [7, uapi::MINOR, readahead, INIT_EXT, 0, 1 << 16, 1].map(u32::to_ne_bytes).concat();
            out.extend([0, DIRECT_IO_ALLOW_MMAP_HIGH].map(u32::to_ne_bytes).concat());
            out.resize(64, 0);
            Ok(out)
        }
        LOOKUP if node == 1 && body.starts_with(b"f\0") => {
            let mut out = [2, 1, 3600, 3600, 0].map(u64::to_ne_bytes).concat();
            out.extend(attr(2));
            Ok(out)
        }
        LOOKUP => Err(libc::ENOENT),
        GETATTR => Ok([3600_u64.to_ne_bytes().to_vec(), vec![0; 8], attr(node)].concat()),
        uapi::OPEN => Ok([[0; 8], u64::from(FOPEN_DIRECT_IO).to_ne_bytes()].concat()),
        uapi::IOCTL => Ok(vec![0; 16]),
        uapi::READ => {
            let size = u32::from_ne_bytes(body[16..20].try_into().unwrap());
            Ok(vec![0; size as usize])
        }
        uapi::RELEASE => Ok(Vec::new()),
        _ => Err(libc::ENOSYS),
    }
}

/// Serves the one file until it is unmounted.
fn bare_loop(mut dev: File) {
    let mut request = vec![0; 1 << 20];
    while let Ok(len) = dev.read(&mut request) {
        let word = |at: usize| u32::from_ne_bytes(request[at..at + 4].try_into().unwrap());
        let long = |at: usize| u64::from_ne_bytes(request[at..at + 8].try_into().unwrap());
        let (opcode, unique, node) = (word(4), long(8), long(16));
        // FORGET, INTERRUPT, BATCH_FORGET have no reply.
        if matches!(opcode, 2 | 36 | 42) {
            continue;
        }
        let (error, body) = match bare_answer(opcode, node, &request[40..len]) {
            Ok(body) => (0, body),
            Err(errno) => (-errno, Vec::new()),
        };
        let mut reply = (16 + body.len() as u32).to_ne_bytes().to_vec();
        reply.extend(error.to_ne_bytes());
        reply.extend(unique.to_ne_bytes());
        reply.extend(body);
        // ENOENT: whoever asked was killed.
        drop(dev.write(&reply));
    }
}

/// Nanoseconds of one SYNC and of the first touch of one page.
fn measure(buffer: u64) -> [f64; 2] {
    let mut flags = 3_u64;
    let started = Instant::now();
    for _ in 0..ROUNDS {
        ioctl(buffer, SYNC, &mut flags).unwrap();
    }
    let sync = started.elapsed().as_nanos() as f64 / f64::from(ROUNDS);
    let map = mmap(buffer, LEN, 3, 1, 0).unwrap() as u64;
    let started = Instant::now();
    for at in (0..LEN).step_by(4096) {
        raw::peek(map + at);
    }
    [sync, started.elapsed().as_nanos() as f64 / (LEN / 4096) as f64]
}

fn bare(dir: &Path) -> [f64; 2] {
    let dev = File::options().read(true).write(true).open("/dev/fuse").unwrap();
    let data = format!("fd={},rootmode=40000,user_id=0,group_id=0", dev.as_raw_fd());
    let data = std::ffi::CString::new(data).unwrap();
    rustix::mount::mount("bench", dir, "fuse", rustix::mount::MountFlags::NODEV, &*data).unwrap();
    // A process of its own: whoever ends with an open file of its own mount waits for itself.
    let own = std::env::current_exe().unwrap();
    let mut server = Command::new(own).arg("bare-loop").stdin(dev).spawn().unwrap();
    let file = File::options().read(true).write(true).open(dir.join("f")).unwrap();
    let figures = measure(file.into_raw_fd() as u64);
    rustix::mount::unmount(dir, rustix::mount::UnmountFlags::DETACH).unwrap();
    server.kill().unwrap();
    server.wait().unwrap();
    figures
}

fn serve(dir: &Path) -> [f64; 2] {
    let mut child: Child = Command::new(env!("CARGO_BIN_EXE_driftheap"))
        .args(["serve", "--mount"])
        .arg(dir)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let path = dir.join("dma_heap/system");
    while !path.exists() {
        assert!(child.try_wait().unwrap().is_none(), "serve ended");
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    let heap = File::options().read(true).write(true).open(path).unwrap().into_raw_fd() as u64;
    let mut arg = Alloc { len: LEN, fd_flags: RDWR, ..Alloc::default() };
    ioctl(heap, ALLOC, &mut arg).unwrap();
    let path = dir.join("buffers").join(arg.fd.to_string());
    let file = File::options().read(true).write(true).open(path).unwrap();
    let figures = measure(file.into_raw_fd() as u64);
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    child.wait().unwrap();
    figures
}

/// The lesser of each figure over several turns.
fn best(turns: impl Iterator<Item = [f64; 2]>) -> [f64; 2] {
    turns.fold([f64::MAX; 2], |best, turn| [best[0].min(turn[0]), best[1].min(turn[1])])
}

fn report(which: &str) {
    let own = std::env::current_exe().unwrap();
    // Each in a process of its own, which ends with its mappings and mounts.
    let of = |what: &str| {
        best((0..5).map(|_| {
            let output = Command::new(&own).arg(what).output().unwrap();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            let text = String::from_utf8(output.stdout).unwrap();
            let mut figures = text.split_whitespace().map(|figure| figure.parse().unwrap());
            [figures.next().unwrap(), figures.next().unwrap()]
        }))
    };
    let (bare, ours) = (of("child-bare"), of("child-serve"));
    println!("\n{which}, nanoseconds       bare loop      serve");
    let mut bars = Vec::new();
    for (name, at) in [("ioctl SYNC", 0), ("first touch of a page", 1)] {
        for (who, ns) in [("bare", bare[at]), ("serve", ours[at])] {
            let (label, said) = (format!("{name}, {who}"), format!("{ns:.0} ns"));
            bars.push(driftheap::report::chart::Bar { label, value: ns, said, marked: false });
        }
        println!("  {name:<24} {:10.0} {:10.0}   {:.2} x", bare[at], ours[at], ours[at] / bare[at]);
    }
    print!("{}", driftheap::report::chart::text(&bars));
}

fn main() {
    let child = std::env::args().nth(1);
    if child.as_deref() == Some("bare-loop") {
        let dev = std::io::stdin().as_fd().try_clone_to_owned().unwrap();
        return bare_loop(File::from(dev));
    }
    if let Some(what @ ("child-bare" | "child-serve")) = child.as_deref() {
        let dir = tempfile::tempdir().unwrap();
        let figures = if what == "child-bare" { bare(dir.path()) } else { serve(dir.path()) };
        println!("{} {}", figures[0], figures[1]);
        return;
    }
    if !rustix::process::geteuid().is_root() || File::open("/dev/fuse").is_err() {
        println!("SKIP: needs root and /dev/fuse");
        return;
    }
    let all = rustix::thread::sched_getaffinity(None).unwrap();
    let mut one = rustix::thread::CpuSet::new();
    one.set(0);
    rustix::thread::sched_setaffinity(None, &one).unwrap();
    report("one CPU");
    rustix::thread::sched_setaffinity(None, &all).unwrap();
    report("all CPUs");
}
