//! Rows of sync files, and of what waits for fences. The latter need sw_sync.

use super::kit::*;
use super::{Row, row};
use crate::sys::raw::{call, interrupt_every, ptr};

const EXPORT: u64 = 0xc008_6202;
const IMPORT: u64 = 0x4008_6203;
const MERGE: u64 = 0xc030_3e03;
const FILE_INFO: u64 = 0xc038_3e04;
const SET_DEADLINE: u64 = 0x4010_3e05;
const CREATE_FENCE: u64 = 0xc028_5700;
const INC: u64 = 0x4004_5701;
const READ: u32 = 1;
const WRITE: u32 = 2;

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Info {
    name: [u8; 32],
    status: i32,
    flags: u32,
    num_fences: u32,
    pad: u32,
    fences: u64,
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Merge {
    name: [u8; 32],
    fd2: i32,
    fence: i32,
    flags: u32,
    pad: u32,
}

fn export(fd: u64, flags: u32) -> Result<u64, i32> {
    let mut arg = [flags, u32::MAX];
    ioctl(fd, EXPORT, &mut arg)?;
    sync_file_fd(arg[1]).map(|fd| fd as u64)
}

fn exported(flags: u32) -> String {
    match export(buffer(1), flags) {
        Ok(fd) => {
            let cloexec = v(call(libc::SYS_fcntl, &[fd, libc::F_GETFD as u64]));
            format!("ok cloexec {cloexec} {}", poll(fd))
        }
        Err(errno) => name(errno),
    }
}

fn import(fd: u64, flags: u32, sync: u64) -> Result<i64, i32> {
    let mut arg = [flags, super::node::number(sync)];
    ioctl(fd, IMPORT, &mut arg)
}

fn stub() -> u64 {
    export(buffer(1), READ).unwrap_or(u64::MAX)
}

fn merge(arg: Merge) -> Result<u64, i32> {
    let mut arg = Merge { fd2: super::node::number(arg.fd2 as u64) as i32, ..arg };
    ioctl(stub(), MERGE, &mut arg)?;
    sync_file_fd(arg.fence as u32).map(|fd| fd as u64)
}

fn info(fd: u64, arg: Info) -> Result<Info, i32> {
    let mut arg = arg;
    ioctl(fd, FILE_INFO, &mut arg).map(|_| arg)
}

/// A timeline, or a reason to skip.
fn timeline() -> Result<u64, Early> {
    if matches!(place(), BufferSource::Mount(_) | BufferSource::Node(_)) {
        return Err(Early("SKIP a server offers no sw_sync".into()));
    }
    open("/sys/kernel/debug/sync/sw_sync", libc::O_RDWR)
        .map(|fd| fd as u64)
        .map_err(|errno| Early(format!("SKIP no sw_sync: {}", name(errno))))
}

/// A fence on `timeline` that signals at `value`.
fn fence(timeline: u64, value: u32) -> Result<u64, Early> {
    let mut arg = [0u32; 10];
    arg[0] = value;
    ioctl(timeline, CREATE_FENCE, &mut arg)
        .map(|_| u64::from(arg[9]))
        .map_err(|errno| Early(format!("no fence: {}", name(errno))))
}

/// A buffer that has an unsignalled fence for `usage`; the timeline and the buffer.
fn busy(usage: u32) -> Result<(u64, u64), Early> {
    let timeline = timeline()?;
    let fd = buffer(1);
    import(fd, usage, fence(timeline, 1)?)
        .map_err(|errno| Early(format!("import: {}", name(errno))))?;
    Ok((timeline, fd))
}

fn flat(result: Result<String, Early>) -> String {
    result.unwrap_or_else(|Early(answer)| answer)
}

/// What SYNC answers on a busy buffer while a timer interrupts it again and again: EINTR if it
/// waits, for ever without the timer.
fn waits(usage: u32, sync: u64, signalled: bool) -> String {
    flat(busy(usage).map(|(timeline, fd)| {
        if signalled {
            let mut by = 1u32;
            let _ = ioctl(timeline, INC, &mut by);
        }
        interrupt_every(30);
        let mut arg = sync;
        let answer = e(ioctl(fd, SYNC, &mut arg));
        // On a slow machine the next signals would come faster than the answer can be written.
        interrupt_every(0);
        answer
    }))
}

fn busy_poll(usage: u32, then_signal: bool) -> String {
    flat(busy(usage).map(|(timeline, fd)| {
        if then_signal {
            let mut by = 1u32;
            let _ = ioctl(timeline, INC, &mut by);
        }
        poll(fd)
    }))
}

fn deadline(pad: u64) -> String {
    let mut arg = [1_000_000u64, pad];
    e(ioctl(stub(), SET_DEADLINE, &mut arg))
}

pub(crate) const ROWS: &[Row] = &[
    row("export.read", "ok cloexec 1 IN", || exported(READ)),
    row("export.write", "ok cloexec 1 IN", || exported(WRITE)),
    row("export.rw", "ok cloexec 1 IN", || exported(READ | WRITE)),
    row("export.none", "EINVAL", || exported(0)),
    row("export.other-bit", "EINVAL", || exported(READ | 4)),
    row("export.null", "EFAULT", || e(call(libc::SYS_ioctl, &[buffer(1), EXPORT, 0]))),
    row("import.read", "ok", || e(import(buffer(1), READ, stub()))),
    row("import.write", "ok", || e(import(buffer(1), WRITE, stub()))),
    row("import.rw", "ok", || e(import(buffer(1), READ | WRITE, stub()))),
    row("import.none", "EINVAL", || e(import(buffer(1), 0, stub()))),
    row("import.other-bit", "EINVAL", || e(import(buffer(1), 8 | READ, stub()))),
    row("import.not-a-sync-file", "EINVAL", || {
        let fd = buffer(1);
        e(import(fd, READ, fd))
    }),
    row("import.bad-fd", "EINVAL", || e(import(buffer(1), READ, 900))),
    row("import.null", "EFAULT", || e(call(libc::SYS_ioctl, &[buffer(1), IMPORT, 0]))),
    row("merge.ok", "ok IN", || match merge(Merge { fd2: stub() as i32, ..Merge::default() }) {
        Ok(fd) => format!("ok {}", poll(fd)),
        Err(errno) => name(errno),
    }),
    row("merge.name", "both", || {
        let mut name = [0u8; 32];
        name[..4].copy_from_slice(b"both");
        let Ok(fd) = merge(Merge { name, fd2: stub() as i32, ..Merge::default() }) else {
            return "no merge".into();
        };
        info(fd, Info::default()).map_or_else(super::kit::name, |info| {
            String::from_utf8_lossy(&info.name).trim_end_matches('\0').into()
        })
    }),
    row("merge.flags", "EINVAL", || {
        e(merge(Merge { fd2: stub() as i32, flags: 1, ..Merge::default() }).map(|_| 0))
    }),
    row("merge.pad", "EINVAL", || {
        e(merge(Merge { fd2: stub() as i32, pad: 1, ..Merge::default() }).map(|_| 0))
    }),
    row("merge.bad-fd", "ENOENT", || e(merge(Merge { fd2: 900, ..Merge::default() }).map(|_| 0))),
    row("merge.not-a-sync-file", "ENOENT", || {
        e(merge(Merge { fd2: buffer(1) as i32, ..Merge::default() }).map(|_| 0))
    }),
    row("merge.null", "EFAULT", || e(call(libc::SYS_ioctl, &[stub(), MERGE, 0]))),
    row("info.query", "1 fences status 1", || match info(stub(), Info::default()) {
        Ok(info) => format!("{} fences status {}", info.num_fences, info.status),
        Err(errno) => name(errno),
    }),
    row("info.fence", "stub status 1", || {
        let mut fence = [0u8; 80];
        let fences = ptr(&mut fence);
        match info(stub(), Info { num_fences: 1, fences, ..Info::default() }) {
            Ok(_) => format!(
                "{} status {}",
                String::from_utf8_lossy(&fence[32..64]).trim_end_matches('\0'),
                fence[64]
            ),
            Err(errno) => name(errno),
        }
    }),
    row("info.room-to-spare", "1 fences", || {
        let mut fence = [0u8; 320];
        let fences = ptr(&mut fence);
        match info(stub(), Info { num_fences: 4, fences, ..Info::default() }) {
            Ok(info) => format!("{} fences", info.num_fences),
            Err(errno) => name(errno),
        }
    }),
    row(
        "info.flags",
        "EINVAL",
        || e(info(stub(), Info { flags: 1, ..Info::default() }).map(|_| 0)),
    ),
    row("info.pad", "EINVAL", || e(info(stub(), Info { pad: 1, ..Info::default() }).map(|_| 0))),
    row("info.bad-array", "EFAULT", || {
        e(info(stub(), Info { num_fences: 1, fences: BAD, ..Info::default() }).map(|_| 0))
    }),
    row("info.null", "EFAULT", || e(call(libc::SYS_ioctl, &[stub(), FILE_INFO, 0]))),
    row("info.active", "1 fences status 0", || {
        flat(timeline().and_then(|timeline| fence(timeline, 1)).map(|fd| {
            match info(fd, Info::default()) {
                Ok(info) => format!("{} fences status {}", info.num_fences, info.status),
                Err(errno) => name(errno),
            }
        }))
    }),
    row("info.too-little-room", "EINVAL", || {
        flat((|| {
            let (a, b) = (fence(timeline()?, 1)?, fence(timeline()?, 1)?);
            let mut arg = Merge { fd2: b as i32, ..Merge::default() };
            let _ = ioctl(a, MERGE, &mut arg);
            let mut fence = [0u8; 80];
            let fences = ptr(&mut fence);
            Ok(e(info(arg.fence as u64, Info { num_fences: 1, fences, ..Info::default() })
                .map(|_| 0)))
        })())
    }),
    row("deadline.ok", "ok", || deadline(0)),
    row("deadline.pad", "EINVAL", || deadline(1)),
    row("sync-file.ioctl-sync", "ENOTTY", || {
        let mut arg = 3u64;
        e(ioctl(stub(), SYNC, &mut arg))
    }),
    row("sync-file.mmap", "EACCES", || e(mmap(stub(), page_size(), PROT_RW, SHARED, 0))),
    row("sync-file.mmap-r", "ENODEV", || e(mmap(stub(), page_size(), PROT_R, SHARED, 0))),
    row("sync-file.active", "none", || {
        flat(timeline().and_then(|timeline| fence(timeline, 1)).map(poll))
    }),
    row("sync-file.signalled", "IN", || {
        flat(timeline().and_then(|timeline| {
            let fd = fence(timeline, 1)?;
            let mut by = 1u32;
            let _ = ioctl(timeline, INC, &mut by);
            Ok(poll(fd))
        }))
    }),
    row("sync-file.timeline-closed", "IN", || {
        flat(timeline().and_then(|timeline| {
            let fd = fence(timeline, 1)?;
            let mut by = 5u32;
            let _ = ioctl(timeline, INC, &mut by);
            let _ = close(timeline);
            Ok(poll(fd))
        }))
    }),
    row("export.active", "none", || {
        flat(busy(WRITE).map(|(_, fd)| export(fd, READ).map_or_else(name, poll)))
    }),
    row("export.read-ignores-readers", "IN", || {
        flat(busy(READ).map(|(_, fd)| export(fd, READ).map_or_else(name, poll)))
    }),
    row("export.write-sees-readers", "none", || {
        flat(busy(READ).map(|(_, fd)| export(fd, WRITE).map_or_else(name, poll)))
    }),
    row("wait.read-on-writer", "EINTR", || waits(WRITE, 1, false)),
    row("wait.read-on-reader", "ok", || waits(READ, 1, false)),
    row("wait.write-on-reader", "EINTR", || waits(READ, 2, false)),
    row("wait.write-on-writer", "EINTR", || waits(WRITE, 2, false)),
    row("wait.rw-on-reader", "EINTR", || waits(READ, 3, false)),
    row("wait.end-on-writer", "ok", || waits(WRITE, 7, false)),
    row("wait.signalled", "ok", || waits(WRITE, 3, true)),
    row("poll.busy-writer", "none", || busy_poll(WRITE, false)),
    row("poll.busy-reader", "IN", || busy_poll(READ, false)),
    row("poll.signalled", "IN|OUT", || busy_poll(WRITE, true)),
];
