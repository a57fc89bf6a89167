//! System calls that may be copying to or from a buffer right now.
//!
//! An unprivileged userfaultfd traps user mode only: where the kernel itself comes upon a page that
//! is protected or absent, the call fails with EFAULT, which no hardware does. So a buffer that such
//! an address space maps does not move while a call that was given a pointer to it is executed.
//!
//! * Buffers are mapped in [`REGION`], and the filter hands over every call with an argument that
//!   points there, and those whose pointers lie behind a pointer (readv, sendmsg and their like).
//! * A call that was let go is *in flight* until its thread is seen outside of it: by its next
//!   call, in /proc/TID/syscall, or, where that says `running`, by a stop, which a thread makes
//!   only outside of the kernel.
//! * While a move waits for a buffer, further calls on it are held back.
//! * A userfaultfd that traps the kernel, which takes privilege, lets it wait for a page instead. It
//!   does not help a call that has pinned its pages and goes on with them: direct I/O,
//!   process_vm_readv and process_vm_writev (get_user_pages), ioctls. Those are waited for there too.
//!
//! **Not seen**: io_uring, direct I/O of Linux AIO after io_submit has returned, the addresses that a
//! program insists on with MAP_FIXED. They may get EFAULT, or where a copy is cut off, a short count.

use std::collections::BTreeMap;

use super::{caller, now_ns};
use crate::device::live::space::REGION;
use crate::sys::inject::Seized;
use crate::sys::notify::Call;
use crate::sys::seccomp::Filter;

/// How long a thread that runs is given to leave its call by itself.
const GRACE_NS: u64 = 2_000_000;

/// What a call may copy to or from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Aims {
    /// Addresses in the region.
    pub(super) addrs: Vec<u64>,
    /// Whether it may pin its pages.
    pub(super) pins: bool,
}

/// A call that was let go.
#[derive(Clone, Debug)]
struct Flight {
    call: Call,
    since_ns: u64,
    aims: Aims,
}

/// Calls in flight, by thread.
#[derive(Debug, Default)]
pub(super) struct Flights {
    flights: BTreeMap<i32, Flight>,
}

/// Adds the calls with pointers into the region to a filter.
pub(super) fn add_rules(filter: &mut Filter) {
    let messages = WITH_MESSAGES.iter().chain(&WITH_MANY_MESSAGES);
    for nr in FILE_IOVECS.iter().chain(&OTHER_IOVECS).chain(messages) {
        filter.always(*nr);
    }
    filter.always(libc::SYS_io_submit);
    let upper = |addr: u64| u32::try_from(addr >> 32).unwrap_or(u32::MAX);
    let size = upper(REGION.end - REGION.start);
    filter.pointers(!(size - 1), upper(REGION.start), &WITHOUT_POINTERS);
}

/// Calls that take no pointer, and that a program makes with whatever is left in its registers: where
/// nobody is there to answer any more, they go on to work.
const WITHOUT_POINTERS: [i64; 12] = [
    libc::SYS_rt_sigreturn,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_sched_yield,
    libc::SYS_getpid,
    libc::SYS_gettid,
    libc::SYS_getppid,
    libc::SYS_getuid,
    libc::SYS_geteuid,
    libc::SYS_getgid,
    libc::SYS_getegid,
    libc::SYS_restart_syscall,
];

/// Calls that copy between a file and an iovec, which is argument 1, its length argument 2.
const FILE_IOVECS: [i64; 6] = [
    libc::SYS_readv,
    libc::SYS_writev,
    libc::SYS_preadv,
    libc::SYS_pwritev,
    libc::SYS_preadv2,
    libc::SYS_pwritev2,
];

/// Other calls with an iovec there, and process_vm_* with another after it.
const OTHER_IOVECS: [i64; 3] =
    [libc::SYS_vmsplice, libc::SYS_process_vm_readv, libc::SYS_process_vm_writev];

/// Calls that copy between a file and one piece of memory.
const FILE_PIECES: [i64; 4] =
    [libc::SYS_read, libc::SYS_write, libc::SYS_pread64, libc::SYS_pwrite64];

/// Calls with a struct msghdr in argument 1.
const WITH_MESSAGES: [i64; 2] = [libc::SYS_sendmsg, libc::SYS_recvmsg];

/// Calls with an array of struct mmsghdr in argument 1, its length argument 2.
const WITH_MANY_MESSAGES: [i64; 2] = [libc::SYS_sendmmsg, libc::SYS_recvmmsg];

/// Bytes of a struct mmsghdr, which begins with a struct msghdr.
const MMSGHDR_BYTES: u64 = 64;

/// Most messages of a call that are looked at (UIO_MAXIOV), and most iocbs.
const MESSAGES_MAX: u64 = 1024;

/// Bytes of a struct iocb.
const IOCB_BYTES: usize = 64;

/// Calls that take an address and copy nothing.
const ABOUT_ADDRESSES: [i64; 5] =
    [libc::SYS_mmap, libc::SYS_munmap, libc::SYS_mprotect, libc::SYS_mremap, libc::SYS_msync];

fn in_region(addr: u64) -> bool {
    REGION.contains(&addr)
}

/// What a call may copy to or from, as far as it is in the region.
pub(super) fn aims(call: &Call) -> Aims {
    let addrs = pointers(call);
    let pins = !addrs.is_empty() && pins(call);
    Aims { addrs, pins }
}

/// Whether a call may pin its pages: copies between a file and memory do so where the file was opened
/// with O_DIRECT.
fn pins(call: &Call) -> bool {
    match call.nr {
        libc::SYS_process_vm_readv | libc::SYS_process_vm_writev | libc::SYS_ioctl => true,
        nr if FILE_PIECES.contains(&nr) || FILE_IOVECS.contains(&nr) => {
            is_direct(call.tid, super::int(call.args[0]))
        }
        _ => false,
    }
}

/// Whether a file is open for direct I/O; one that can't be looked at may be.
fn is_direct(tid: i32, fd: i32) -> bool {
    let Ok(text) = std::fs::read_to_string(format!("/proc/{tid}/fdinfo/{fd}")) else { return true };
    let flags = text.lines().find_map(|line| line.strip_prefix("flags:"));
    let flags = flags.and_then(|flags| i32::from_str_radix(flags.trim(), 8).ok());
    flags.is_none_or(|flags| flags & libc::O_DIRECT != 0)
}

/// The addresses in the region that a call may copy to or from.
pub(super) fn pointers(call: &Call) -> Vec<u64> {
    if ABOUT_ADDRESSES.contains(&call.nr) {
        return Vec::new();
    }
    let [_, a1, a2, a3, a4, _] = call.args;
    let mut found: Vec<u64> = call.args.into_iter().filter(|&arg| in_region(arg)).collect();
    if FILE_IOVECS.contains(&call.nr) || OTHER_IOVECS.contains(&call.nr) {
        found.extend(bases(call.tid, a1, a2));
    }
    if call.nr == libc::SYS_process_vm_readv || call.nr == libc::SYS_process_vm_writev {
        found.extend(bases(call.tid, a3, a4));
    }
    if WITH_MESSAGES.contains(&call.nr) {
        found.extend(message(call.tid, a1));
    }
    if WITH_MANY_MESSAGES.contains(&call.nr) {
        for n in 0..u64::from(super::uint(a2)).min(MESSAGES_MAX) {
            found.extend(message(call.tid, a1.saturating_add(n * MMSGHDR_BYTES)));
        }
    }
    if call.nr == libc::SYS_io_submit {
        let len = usize::try_from(a1.min(MESSAGES_MAX) * 8).unwrap_or(0);
        let list = caller::read(call.tid, a2, len).unwrap_or_default();
        for at in (0..list.len()).step_by(8) {
            found.extend(control_block(call.tid, caller::word(&list, at)));
        }
    }
    found
}

/// The addresses in the region of a struct msghdr: name, namelen, iov, iovlen, control, controllen, flags.
fn message(tid: i32, addr: u64) -> Vec<u64> {
    let bytes = caller::read(tid, addr, 48).unwrap_or_default();
    let own = [caller::word(&bytes, 0), caller::word(&bytes, 32)]
        .into_iter()
        .filter(|&addr| in_region(addr));
    own.chain(bases(tid, caller::word(&bytes, 16), caller::word(&bytes, 24))).collect()
}

/// The addresses in the region of a struct iocb (include/uapi/linux/aio_abi.h): a buffer, or an iovec.
fn control_block(tid: i32, addr: u64) -> Vec<u64> {
    let bytes = caller::read(tid, addr, IOCB_BYTES).unwrap_or_default();
    let buffer = caller::word(&bytes, 24);
    if in_region(buffer) { vec![buffer] } else { bases(tid, buffer, caller::word(&bytes, 32)) }
}

/// The bases in the region of an iovec array.
fn bases(tid: i32, addr: u64, count: u64) -> Vec<u64> {
    let bases = caller::iovecs(tid, addr, count).into_iter().map(|(base, _)| base);
    bases.filter(|&addr| in_region(addr)).collect()
}

impl Flights {
    /// The thread has made another call, so its last one is over.
    pub(super) fn landed(&mut self, tid: i32) {
        self.flights.remove(&tid);
    }

    /// The call is let go.
    pub(super) fn depart(&mut self, call: Call, aims: Aims) {
        if !aims.addrs.is_empty() {
            self.flights.insert(call.tid, Flight { call, since_ns: now_ns(), aims });
        }
    }

    /// A thread whose call may still copy to or from memory that `concerns`. Threads that are found
    /// outside of their calls are forgotten.
    pub(super) fn busy(&mut self, concerns: impl Fn(&Aims) -> bool) -> Option<i32> {
        let concerned = self.flights.iter().filter(|(_, flight)| concerns(&flight.aims));
        let concerned: Vec<i32> = concerned.map(|(&tid, _)| tid).collect();
        for tid in concerned {
            if self.flights.get(&tid).is_some_and(is_flying) {
                return Some(tid);
            }
            self.flights.remove(&tid);
        }
        None
    }

    /// Forgets threads that are gone.
    pub(super) fn prune(&mut self) {
        self.flights.retain(|tid, _| std::path::Path::new(&format!("/proc/{tid}")).exists());
    }
}

fn is_flying(flight: &Flight) -> bool {
    let Ok(text) = std::fs::read_to_string(format!("/proc/{}/syscall", flight.call.tid)) else {
        // A thread that is gone is in no call. One that can't be looked into may be.
        return std::path::Path::new(&format!("/proc/{}", flight.call.tid)).exists();
    };
    match look(&text, &flight.call) {
        Look::Outside => false,
        Look::Inside => true,
        Look::Running if now_ns() < flight.since_ns + GRACE_NS => true,
        // It stops as it returns to user mode, and a thread that is there is not disturbed.
        Look::Running => match Seized::new(flight.call.tid).and_then(Seized::stopped) {
            Ok(stopped) => {
                stopped.leave();
                false
            }
            Err(_) => true,
        },
    }
}

/// What /proc/TID/syscall says about a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Look {
    /// The thread sleeps in it.
    Inside,
    /// It sleeps somewhere else, or in a futex, whose word it has read already.
    Outside,
    /// It runs, in the kernel or not.
    Running,
}

fn look(text: &str, call: &Call) -> Look {
    let mut fields = text.split_ascii_whitespace();
    let Some(first) = fields.next() else { return Look::Running };
    if first == "running" {
        return Look::Running;
    }
    let nr = first.parse::<i64>().ok();
    let arg = |text: &str| u64::from_str_radix(text.trim_start_matches("0x"), 16).ok();
    let same = fields.take(6).map(arg).eq(call.args.iter().copied().map(Some));
    if nr == Some(call.nr) && same && call.nr != libc::SYS_futex {
        Look::Inside
    } else {
        Look::Outside
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

    use super::*;

    fn call(nr: i64, args: [u64; 6]) -> Call {
        Call { id: 1, tid: std::process::id().cast_signed(), nr, args, ip: 0, arch: 0 }
    }

    #[test]
    fn what_proc_says() {
        let read = call(0, [3, 0x7ea0_0000_0000, 16, 0, 0, 0]);
        for (text, expect) in [
            ("running\n", Look::Running),
            ("", Look::Running),
            ("-1 0x7ffc 0x4007\n", Look::Outside),
            ("0 0x3 0x7ea000000000 0x10 0x0 0x0 0x0 0x7ffc 0x4007\n", Look::Inside),
            ("0 0x3 0x7ea000000000 0x11 0x0 0x0 0x0 0x7ffc 0x4007\n", Look::Outside),
            ("1 0x3 0x7ea000000000 0x10 0x0 0x0 0x0 0x7ffc 0x4007\n", Look::Outside),
        ] {
            assert_eq!(look(text, &read), expect, "{text}");
        }
        let futex = call(libc::SYS_futex, [0x7ea0_0000_0000, 0, 0, 0, 0, 0]);
        assert_eq!(look("202 0x7ea000000000 0x0 0x0 0x0 0x0 0x0 0x1 0x2", &futex), Look::Outside);
    }

    #[test]
    fn pointers_are_found_behind_pointers() {
        let inside = REGION.start + 4096;
        assert_eq!(pointers(&call(libc::SYS_read, [0, inside, 9, 0, 0, 0])), [inside]);
        assert!(pointers(&call(libc::SYS_munmap, [inside, 9, 0, 0, 0, 0])).is_empty());
        assert!(pointers(&call(libc::SYS_read, [0, REGION.end, 9, 0, 0, 0])).is_empty());
        let iov = [1u64, 8, inside, 8];
        let at = iov.as_ptr() as u64;
        assert_eq!(pointers(&call(libc::SYS_writev, [1, at, 2, 0, 0, 0])), [inside]);
        assert!(pointers(&call(libc::SYS_writev, [1, at, 1, 0, 0, 0])).is_empty());
        let message = [0u64, 0, at, 2, inside + 1, 8, 0];
        let at = message.as_ptr() as u64;
        let sendmsg = call(libc::SYS_sendmsg, [1, at, 0, 0, 0, 0]);
        assert_eq!(pointers(&sendmsg), [inside + 1, inside]);
    }

    #[test]
    fn calls_that_pin_are_told_from_those_that_copy() {
        let inside = REGION.start;
        let file = tempfile::NamedTempFile::new().unwrap();
        let fd =
            |file: &std::fs::File| u64::try_from(std::os::fd::AsRawFd::as_raw_fd(file)).unwrap();
        let read = |fd| aims(&call(libc::SYS_pread64, [fd, inside, 9, 0, 0, 0]));
        assert_eq!(read(fd(file.as_file())), Aims { addrs: vec![inside], pins: false });
        assert!(read(u64::from(u16::MAX)).pins, "it can't be looked at");
        let direct = std::os::unix::fs::OpenOptionsExt::custom_flags(
            std::fs::OpenOptions::new().read(true),
            libc::O_DIRECT,
        )
        .open(file.path());
        // Not every file system has it.
        if let Ok(direct) = direct {
            assert!(read(fd(&direct)).pins);
        }
        let iov = [inside, 8];
        let remote = call(libc::SYS_process_vm_writev, [1, 0, 0, iov.as_ptr() as u64, 1, 0]);
        assert_eq!(aims(&remote), Aims { addrs: vec![inside], pins: true });
        assert!(!aims(&call(libc::SYS_ioctl, [1, 2, 3, 0, 0, 0])).pins, "it aims elsewhere");
    }

    #[test]
    fn a_flight_ends_with_the_next_call() {
        let mut flights = Flights::default();
        let inside = REGION.start;
        let aims = Aims { addrs: vec![inside], pins: false };
        let here = |aims: &Aims| aims.addrs == [inside];
        let read = Call { tid: i32::MAX, ..call(libc::SYS_read, [0, inside, 9, 0, 0, 0]) };
        flights.depart(read, aims.clone());
        assert_eq!(flights.busy(here), None, "no such thread");
        // A thread that runs may be in its call, and this one can't be stopped to make sure: nobody
        // can trace a thread of his own process.
        let stop = AtomicBool::new(false);
        let (sender, receiver) = std::sync::mpsc::channel();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                sender.send(rustix::thread::gettid().as_raw_nonzero().get()).unwrap();
                while !stop.load(Relaxed) {
                    std::hint::spin_loop();
                }
            });
            let tid = receiver.recv().unwrap();
            flights.depart(Call { tid, ..read }, aims.clone());
            // Until it has left the send.
            let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
            while flights.busy(here).is_none() {
                assert!(std::time::Instant::now() < deadline, "it runs, for all we know");
                flights.depart(Call { tid, ..read }, aims.clone());
            }
            assert_eq!(flights.busy(|aims: &Aims| !here(aims)), None, "another buffer");
            flights.landed(tid);
            assert_eq!(flights.busy(here), None);
            stop.store(true, Relaxed);
        });
    }
}
