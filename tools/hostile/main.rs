//! A client that means harm, or has lost its mind: random calls, arguments that change under the
//! supervisor's eyes, full descriptor tables, sudden death, more buffers than anybody needs.
//!
//! Usage: hostile MODE [SEED]. Prints what it counted and, last, what became of its parent (the
//! supervisor): descriptors, threads and resident memory before and after.
#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_possible_wrap,
    clippy::print_stdout,
    dead_code,
    reason = "raw system calls take and return words; each tool uses a part of the kit"
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

use std::sync::atomic::{AtomicBool, Ordering};

use kit::*;
use raw::{call, in_child, poke, ptr};

/// xorshift64*: the same seed gives the same calls.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }
    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
    fn pick(&mut self, from: &[u64]) -> u64 {
        from[self.below(from.len() as u64) as usize]
    }
}

/// Descriptors, threads and resident KiB of the supervisor.
fn parent() -> (usize, u64, u64) {
    let ppid = call(libc::SYS_getppid, &[]).unwrap_or(0);
    let fds = std::fs::read_dir(format!("/proc/{ppid}/fd")).map_or(0, Iterator::count);
    let status = read_text(&format!("/proc/{ppid}/status"));
    let field = |key: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(key));
        let digits = line.map(|line| line.trim().trim_end_matches(" kB").to_owned());
        digits.and_then(|digits| digits.parse().ok()).unwrap_or(0)
    };
    (fds, field("Threads:"), field("VmRSS:"))
}

/// Commands that mean something to some object, and some that do not.
const COMMANDS: [u64; 18] = [
    ALLOC,
    SYNC,
    SET_NAME_A,
    SET_NAME_B,
    0xc008_6202,
    0x4008_6203,
    0xc030_3e03,
    0xc038_3e04,
    0x4010_3e05,
    0xc028_5700,
    0x4004_5701,
    0x4018_7542,
    0x4008_7543,
    0x5401,
    0x5421,
    0,
    0xffff_ffff,
    0xffff_4800,
];

/// One random call on a random descriptor with a random pointer.
fn random_call(random: &mut Random, memory: u64, last_page: u64) {
    let fd = random.below(24);
    let pointer = match random.below(6) {
        0 => 0,
        1 => u64::MAX - random.below(8192),
        2 => 0xffff_8000_0000_0000 | random.next() >> 20,
        3 => last_page + page_size() - random.below(64),
        _ => memory + random.below(2048),
    };
    for at in 0..96 {
        poke(memory + random.below(4096), if at % 3 == 0 { random.next() as u8 } else { 0 });
    }
    let cmd = match random.below(3) {
        0 => random.next() & 0xffff_ffff,
        _ => random.pick(&COMMANDS) ^ (u64::from(random.below(8) == 0) << random.below(32)),
    };
    let any = random.next();
    let _ = match random.below(9) {
        0 => call(libc::SYS_openat, &[any, pointer, random.below(1 << 23)]),
        1 => call(libc::SYS_lseek, &[fd, any, random.below(7)]),
        2 => {
            let len = random.below(1 << 16);
            let offset = random.below(64) * 1024;
            call(libc::SYS_mmap, &[0, len, random.below(8), random.below(4), fd, offset])
        }
        3 => call(libc::SYS_newfstatat, &[any, pointer, memory, random.below(1 << 14)]),
        4 => call(libc::SYS_epoll_ctl, &[fd, random.below(5), random.below(24), pointer]),
        _ => call(libc::SYS_ioctl, &[fd, cmd, pointer]),
    };
}

fn random_calls(seed: u64) -> String {
    let mut died = 0;
    for round in 0..20 {
        let result = in_child(60, || {
            let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) + round + 1);
            let memory = anonymous(2, PROT_RW);
            let last_page = anonymous(2, PROT_RW);
            let _ = call(libc::SYS_munmap, &[last_page + page_size(), page_size()]);
            for _ in 0..4 {
                heap();
            }
            let _ = open("/dev/udmabuf", 2);
            let _ = open("/sys/kernel/debug/sync/sw_sync", 2);
            let _ = alloc(4096, RDWR);
            let _ = call(libc::SYS_epoll_create1, &[0]);
            // A SYNC that waits for a fence that nobody signals must not stop the test.
            raw::interrupt_every(20);
            for _ in 0..1000 {
                random_call(&mut random, memory, last_page);
            }
            "done".into()
        });
        died += u32::from(result != "done");
    }
    format!("20 clients of 1000 random calls, {died} died")
}

/// ALLOC while another thread writes every field of its argument.
fn race() -> String {
    let heap = heap();
    let page = anonymous(1, PROT_RW);
    let stop = AtomicBool::new(false);
    let (mut ok, mut refused, mut other) = (0, 0, 0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut random = Random(7);
            while !stop.load(Ordering::Relaxed) {
                // len 4096 or 0, fd 0 or 1, flags 2 or 3 bits of nonsense.
                poke(page + 1, 16 * random.below(2) as u8);
                poke(page + 8, random.below(2) as u8);
                poke(page + 12, 2 | (random.below(2) as u8) << 7);
                poke(page + 16, random.below(2) as u8);
            }
        });
        // Until both answers were seen, within reason: who runs when is the scheduler's.
        for round in 0..2_000_000 {
            if round >= 5000 && ok > 0 && refused > 0 {
                break;
            }
            match call(libc::SYS_ioctl, &[heap, ALLOC, page]) {
                Ok(_) => ok += 1,
                Err(libc::EINVAL) => refused += 1,
                Err(libc::EMFILE) => {
                    for fd in 3..1024 {
                        let _ = if fd == heap { Ok(0) } else { close(fd) };
                    }
                }
                Err(_) => other += 1,
            }
        }
        stop.store(true, Ordering::Relaxed);
    });
    for fd in 3..1024 {
        let _ = close(fd);
    }
    format!("raced ALLOCs, {} answered otherwise, both seen {}", other, ok > 0 && refused > 0)
}

fn full_table() -> String {
    let heap = heap();
    let mut limit = [64u64, 64];
    let _ = call(libc::SYS_prlimit64, &[0, 7, ptr(&mut limit), 0]);
    while call(libc::SYS_dup, &[heap]).is_ok() {}
    let mut emfile = 0;
    for _ in 0..2000 {
        let mut arg = Alloc { len: 4096, fd_flags: RDWR, ..Alloc::default() };
        emfile += u32::from(ioctl(heap, ALLOC, &mut arg) == Err(libc::EMFILE));
    }
    for fd in 3..64 {
        let _ = close(fd);
    }
    format!("{emfile} of 2000 EMFILE")
}

fn many() -> String {
    let mut limit = [0u64; 2];
    let _ = call(libc::SYS_prlimit64, &[0, 7, 0, ptr(&mut limit)]);
    limit[0] = limit[1];
    let _ = call(libc::SYS_prlimit64, &[0, 7, ptr(&mut limit), 0]);
    let want = 10_000.min(limit[1] - 64);
    let heap = heap();
    let mut fds = Vec::new();
    for _ in 0..want {
        let mut arg = Alloc { len: 4096, fd_flags: RDWR, ..Alloc::default() };
        if ioctl(heap, ALLOC, &mut arg).is_ok() {
            fds.push(u64::from(arg.fd));
        }
    }
    let mut flags = 3u64;
    let synced = fds.iter().filter(|&&fd| ioctl(fd, SYNC, &mut flags).is_ok()).count();
    let got = fds.len();
    for fd in fds {
        let _ = close(fd);
    }
    let _ = close(heap);
    format!("{got} of {want} buffers, {synced} synced")
}

/// Children that allocate without end and are stopped, continued and killed at random moments.
fn sudden_death(seed: u64) -> String {
    let mut random = Random(seed + 1);
    let mut killed = 0;
    for _ in 0..100 {
        let child = call(libc::SYS_fork, &[]).unwrap_or(0) as u64;
        if child == 0 {
            loop {
                if let Ok(fd) = alloc(4096 * 4, RDWR) {
                    let at = mmap(fd as u64, 4096, PROT_RW, SHARED, 0).unwrap_or(0) as u64;
                    if at != 0 {
                        poke(at, 1);
                        let _ = call(libc::SYS_munmap, &[at, 4096]);
                    }
                    let _ = close(fd as u64);
                }
            }
        }
        let mut pause = [0u64, random.below(4_000_000)];
        let _ = call(libc::SYS_nanosleep, &[ptr(&mut pause), 0]);
        if random.below(2) == 0 {
            let _ = call(libc::SYS_kill, &[child, libc::SIGSTOP as u64]);
            let _ = call(libc::SYS_nanosleep, &[ptr(&mut pause), 0]);
            let _ = call(libc::SYS_kill, &[child, libc::SIGCONT as u64]);
        }
        let _ = call(libc::SYS_kill, &[child, libc::SIGKILL as u64]);
        let mut status = 0i32;
        let _ = call(libc::SYS_wait4, &[child, ptr(&mut status), 0, 0]);
        killed += i32::from(libc::WIFSIGNALED(status));
    }
    format!("{killed} of 100 killed, then alloc {}", e(alloc(4096, RDWR)))
}

/// More processes than buffers: how many allocations succeed at once.
fn fork_bomb() -> String {
    let mut gate = [0i32; 2];
    let _ = call(libc::SYS_pipe2, &[ptr(&mut gate), 0]);
    let mut report = [0i32; 2];
    let _ = call(libc::SYS_pipe2, &[ptr(&mut report), 0]);
    for _ in 0..64 {
        if call(libc::SYS_fork, &[]) == Ok(0) {
            let _ = close(gate[1] as u64);
            for _ in 0..8 {
                let mut byte = [if alloc(4096, RDWR).is_ok() { b'+' } else { b'-' }];
                let _ = call(libc::SYS_write, &[report[1] as u64, ptr(&mut byte), 1]);
            }
            let mut byte = [0u8];
            let _ = call(libc::SYS_read, &[gate[0] as u64, ptr(&mut byte), 1]);
            let _ = call(libc::SYS_exit_group, &[0]);
        }
    }
    let _ = close(report[1] as u64);
    let (mut ok, mut refused) = (0, 0);
    while ok + refused < 64 * 8 {
        let mut byte = [0u8];
        if call(libc::SYS_read, &[report[0] as u64, ptr(&mut byte), 1]) != Ok(1) {
            break;
        }
        if byte[0] == b'+' { ok += 1 } else { refused += 1 }
    }
    for end in [gate[1], gate[0], report[0]] {
        let _ = close(end as u64);
    }
    while call(libc::SYS_wait4, &[u64::MAX, 0, 0, 0]).is_ok() {}
    format!("{ok} allocated {refused} refused, then alloc {}", e(alloc(4096, RDWR)))
}

fn byte_quota() -> String {
    let large = e(alloc(2 << 20, RDWR));
    let fill: Vec<i64> = (0..300).map_while(|_| alloc(4096, RDWR).ok()).collect();
    let past = e(alloc(4096, RDWR));
    let got = fill.len();
    for fd in fill {
        let _ = close(fd as u64);
    }
    format!("large {large}, {got} pages, then {past}, after closing {}", e(alloc(1 << 20, RDWR)))
}

/// Kills the supervisor, then makes calls that it would have answered.
fn orphan() -> String {
    let ppid = call(libc::SYS_getppid, &[]).unwrap_or(0) as u64;
    let heap = heap();
    let _ = call(libc::SYS_kill, &[ppid, libc::SIGKILL as u64]);
    while call(libc::SYS_getppid, &[]) == Ok(ppid as i64) {
        let mut pause = [0u64, 1_000_000];
        let _ = call(libc::SYS_nanosleep, &[ptr(&mut pause), 0]);
    }
    let mut arg = Alloc { len: 4096, fd_flags: RDWR, ..Alloc::default() };
    let alloc = e(ioctl(heap, ALLOC, &mut arg));
    format!("alloc {alloc} fd {} open {}", arg.fd, e(open("/etc/passwd", 0)))
}

/// Holds two buffers, one of them named, until a signal comes.
fn hold() -> String {
    let named = buffer(2);
    let mut label = *b"camera\0";
    let _ = call(libc::SYS_ioctl, &[named, SET_NAME_B, ptr(&mut label)]);
    let _ = buffer(1);
    let _ = call(libc::SYS_pause, &[]);
    "woken".into()
}

fn main() {
    let mut args = std::env::args().skip(1);
    let mode = args.next().unwrap_or_default();
    let seed = args.next().and_then(|text| text.parse().ok()).unwrap_or(1);
    let before = parent();
    let counted = match mode.as_str() {
        "random" => random_calls(seed),
        "race" => race(),
        "full" => full_table(),
        "many" => many(),
        "death" => sudden_death(seed),
        "bomb" => fork_bomb(),
        "bytes" => byte_quota(),
        "orphan" => orphan(),
        "hold" => hold(),
        _ => "unknown mode".into(),
    };
    println!("{counted}");
    let after = parent();
    println!(
        "supervisor: descriptors {} {} threads {} {} rss {} {}",
        before.0, after.0, before.1, after.1, before.2, after.2
    );
}
