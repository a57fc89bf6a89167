//! Calls on a descriptor: mmap, lseek, fstatfs, poll and leases always, the rest under `--strict`.

use std::os::fd::AsFd;

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::OFlags;
use rustix::io::Errno;

use super::caller::Copied;
use super::paths::{blank_stat, blank_statx};
use super::pending::Waiting;
use super::{Decision, Supervisor, caller, int, lock, now_ns, uint};
use crate::device::buffer::MmapArgs;
use crate::device::path::DeviceNode;
use crate::device::{Buffer, BufferId, Call as FileCall, Device, Object, Verdict};
use crate::sys::arch::{O_LARGEFILE, legacy};
use crate::sys::notify::Call;
use crate::uapi::dma_buf::MAGIC;
use crate::uapi::page_size;
use crate::uapi::stat::Statfs;

/// O_ASYNC, which rustix leaves out.
const O_ASYNC: u32 = libc::O_ASYNC.cast_unsigned();

/// Most descriptors of a poll that is answered here; a longer one is the kernel's.
const POLL_FDS_MAX: usize = 1024;

/// A poll that waits.
#[derive(Debug)]
pub(super) struct PollCall {
    addr: u64,
    entries: Vec<PollEntry>,
    deadline_ns: Option<u64>,
}

#[derive(Debug)]
struct PollEntry {
    fd: i32,
    events: u16,
    polled: Polled,
}

/// What a poll names. A copy is kept of what has to be asked only: a buffer is known here.
#[derive(Debug)]
enum Polled {
    /// No open descriptor.
    Nothing,
    Buffer(BufferId),
    /// A regular file or a directory, which is always ready (`DEFAULT_POLLMASK`) and never asked: it
    /// may be of a file system of the program's own.
    Stored,
    File(Copied),
}

impl PollCall {
    /// Descriptors.
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether its time has come.
    pub(super) fn is_late(&self, now_ns: u64) -> bool {
        self.deadline_ns.is_some_and(|deadline_ns| now_ns >= deadline_ns)
    }

    /// Whether a buffer is ready.
    pub(super) fn is_over(&self, device: &Device) -> bool {
        let ready = |entry: &PollEntry| match entry.polled {
            Polled::Buffer(id) => buffer_events(device, id) & entry.events != 0,
            Polled::Nothing | Polled::Stored | Polled::File(_) => false,
        };
        self.entries.iter().any(ready)
    }
}

const POLL_IN: u16 = 0x1;
const POLL_OUT: u16 = 0x4;
const POLL_RDNORM: u16 = 0x40;
const POLL_WRNORM: u16 = 0x100;

/// What a buffer is ready for; one that has gone, for all.
fn buffer_events(device: &Device, id: BufferId) -> u16 {
    let readiness = |buffer: &Buffer| buffer.readiness(device.fences());
    let (read, write) = device.buffer(id).map_or((true, true), readiness);
    (if read { POLL_IN } else { 0 }) | (if write { POLL_OUT } else { 0 })
}

impl Supervisor {
    pub(super) fn mmap(&mut self, call: &Call) -> Decision {
        const MAP_ANONYMOUS: u32 = 0x20;
        let [_, len, prot, flags, fd, offset] = call.args;
        if uint(flags) & MAP_ANONYMOUS != 0 {
            return Decision::Native;
        }
        let args = MmapArgs { len, prot: uint(prot), flags: uint(flags), offset };
        match self.look(call.tid, int(fd)) {
            // It may be a buffer, whose mapping has to be ours.
            Err(_) => Decision::Fail(Errno::NOMEM),
            Ok(Some((object, _))) => {
                let verdict = lock(&self.shared).device.call(object, FileCall::Mmap(args));
                self.watch_mmap(call, object, args, verdict);
                match (verdict, object) {
                    (Verdict::Native, Object::Buffer(id)) => self.map_buffer(call, id, args),
                    _ => verdict.into(),
                }
            }
            Ok(None) => self.mmap_unseen(call),
        }
    }

    /// mmap of a buffer that the device has granted.
    fn map_buffer(&mut self, call: &Call, id: BufferId, args: MmapArgs) -> Decision {
        if let Some(answer) = self.map_scattered(call, id, args) {
            return answer;
        }
        let followed = self.followed(call, id);
        match (self.mmap_live(call, id, args), followed) {
            (Decision::Native, Some(pid)) => self.check_mmap(call, pid, id, args),
            (answer, _) => answer,
        }
    }

    /// Answers a call on a descriptor that needs no more than the device's word.
    fn file_call(&mut self, call: &Call, fd: u64, file_call: FileCall) -> Decision {
        match self.object(call.tid, int(fd)) {
            Some((object, _)) => lock(&self.shared).device.call(object, file_call).into(),
            None => Decision::Native,
        }
    }

    /// The answer for a call's first descriptor or, if that is not ours, for its second.
    fn unless_ours(&mut self, first: Decision, call: &Call, second: u64) -> Decision {
        if matches!(first, Decision::Native) {
            return self.file_call(call, second, FileCall::Stream);
        }
        first
    }

    pub(super) fn strict(&mut self, call: &Call) -> Decision {
        let [a0, a1, a2, ..] = call.args;
        match call.nr {
            libc::SYS_lseek => {
                let seek = FileCall::Lseek { offset: a1.cast_signed(), whence: uint(a2) };
                self.file_call(call, a0, seek)
            }
            libc::SYS_fstat => self.fstat(call, call.tid, int(a0), a1),
            libc::SYS_fstatfs => self.fstatfs(call, int(a0), a1),
            libc::SYS_read | libc::SYS_write | libc::SYS_readv | libc::SYS_writev => {
                self.file_call(call, a0, FileCall::Stream)
            }
            libc::SYS_pread64 | libc::SYS_pwrite64 | libc::SYS_preadv | libc::SYS_pwritev => {
                self.file_call(call, a0, FileCall::Positional)
            }
            libc::SYS_preadv2 | libc::SYS_pwritev2 => {
                // Position -1 is the file's own (do_preadv2 in fs/read_write.c).
                let own = call.args[3] == u64::MAX;
                let kind = if own { FileCall::Stream } else { FileCall::Positional };
                self.file_call(call, a0, kind)
            }
            libc::SYS_sendfile => {
                let source = self.file_call(call, a1, FileCall::Positional);
                self.unless_ours(source, call, a0)
            }
            libc::SYS_splice | libc::SYS_copy_file_range => {
                let source = self.file_call(call, a0, FileCall::Stream);
                self.unless_ours(source, call, a2)
            }
            libc::SYS_ftruncate => self.file_call(call, a0, FileCall::Ftruncate),
            libc::SYS_fallocate => self.file_call(call, a0, FileCall::Fallocate),
            libc::SYS_fsync | libc::SYS_fdatasync => self.file_call(call, a0, FileCall::Fsync),
            libc::SYS_sync_file_range => self.file_call(call, a0, FileCall::SyncRange),
            libc::SYS_fgetxattr => self.file_call(call, a0, FileCall::GetXattr),
            libc::SYS_fsetxattr | libc::SYS_fremovexattr => {
                self.file_call(call, a0, FileCall::SetXattr)
            }
            libc::SYS_fcntl => self.fcntl(call),
            legacy::SYS_poll => self.poll(call, a0, a1, poll_timeout(int(a2))),
            libc::SYS_ppoll => {
                let timeout = self.ppoll_timeout(call, a2);
                self.poll(call, a0, a1, timeout)
            }
            _ => self.on_address(call),
        }
    }

    /// The buffer behind a descriptor, with the file's own stat.
    fn buffer(&mut self, call: &Call, fd: i32) -> Option<(Buffer, Copied)> {
        let (object, file) = self.object(call.tid, fd)?;
        let Object::Buffer(id) = object else { return None };
        let buffer = lock(&self.shared).device.buffer(id)?.clone();
        Some((buffer, file))
    }

    /// A dma-buf's inode has mode 0600 and no type bits (`alloc_anon_inode`).
    pub(super) fn fstat(&mut self, call: &Call, tid: i32, fd: i32, buf: u64) -> Decision {
        let Some((object, file)) = self.object(tid, fd) else { return Decision::Native };
        let Ok(own) = rustix::fs::fstat(&file) else { return Decision::Native };
        let mut stat = blank_stat();
        (stat.dev, stat.ino, stat.uid, stat.gid) = (own.st_dev, own.st_ino, own.st_uid, own.st_gid);
        let (mode, size) = self.mode_and_size(object);
        stat.mode = mode;
        stat.size = size.cast_signed();
        stat.blocks = (size / 512).cast_signed();
        if mode & 0o170_000 != 0 {
            stat.rdev = rustix::fs::makedev(249, 0);
        }
        caller::write(call.tid, buf, &stat.to_bytes()).map(|()| Decision::Value(0)).into()
    }

    pub(super) fn fstatx(&mut self, call: &Call, tid: i32, fd: i32, buf: u64) -> Decision {
        let Some((object, file)) = self.object(tid, fd) else { return Decision::Native };
        let Ok(own) = rustix::fs::fstat(&file) else { return Decision::Native };
        let (mode, size) = self.mode_and_size(object);
        let mut statx = blank_statx(mode);
        (statx.uid, statx.gid, statx.ino) = (own.st_uid, own.st_gid, own.st_ino);
        statx.dev_major = rustix::fs::major(own.st_dev);
        statx.dev_minor = rustix::fs::minor(own.st_dev);
        statx.size = size;
        statx.blocks = size / 512;
        caller::write(call.tid, buf, &statx.to_bytes()).map(|()| Decision::Value(0)).into()
    }

    fn mode_and_size(&self, object: Object) -> (u32, u64) {
        match object {
            Object::Buffer(id) => {
                let shared = lock(&self.shared);
                (0o600, shared.device.buffer(id).map_or(0, |buffer| buffer.size_bytes))
            }
            Object::SyncFile(_) => (0o600, 0),
            Object::Heap(_) | Object::Udmabuf | Object::Timeline(_) => (0o020_666, 0),
        }
    }

    fn fstatfs(&mut self, call: &Call, fd: i32, buf: u64) -> Decision {
        if self.buffer(call, fd).is_none() {
            return Decision::Native;
        }
        let statfs = Statfs {
            kind: MAGIC,
            bsize: page_size(),
            counts: [0; 48],
            namelen: 255,
            frsize: page_size(),
            rest: [0; 40],
        };
        caller::write(call.tid, buf, &statfs.to_bytes()).map(|()| Decision::Value(0)).into()
    }

    /// F_GETFL shows the access mode that ALLOC was asked for; seals are for shmem only, and leases
    /// for regular files and directories (generic_setlease in fs/locks.c).
    fn fcntl(&mut self, call: &Call) -> Decision {
        const F_ADD_SEALS: i32 = 1033;
        const F_GET_SEALS: i32 = 1034;
        let [fd, cmd, ..] = call.args;
        match int(cmd) {
            libc::F_GETFL => {
                let Some((buffer, file)) = self.buffer(call, int(fd)) else {
                    return Decision::Native;
                };
                let Ok(flags) = rustix::fs::fcntl_getfl(&file) else { return Decision::Native };
                // The file behind the buffer shows how it was opened (O_LARGEFILE, O_NOFOLLOW), and
                // that it tells us of its end (O_ASYNC). A dma-buf has none of these.
                let shown = OFlags::from_bits_retain(flags.bits());
                let backing = OFlags::from_bits_retain(O_LARGEFILE | O_ASYNC) | OFlags::NOFOLLOW;
                let own = (shown - OFlags::RWMODE - backing).bits();
                Decision::Value(i64::from(own | buffer.access.mode))
            }
            F_ADD_SEALS | F_GET_SEALS => self.file_call(call, fd, FileCall::Seals),
            libc::F_SETLEASE => self.file_call(call, fd, FileCall::SetLease),
            libc::F_GETLEASE => self.file_call(call, fd, FileCall::GetLease),
            _ => Decision::Native,
        }
    }

    /// The link of /proc/PID/fd/N: `/dmabuf:NAME`.
    pub(super) fn readlink(
        &mut self,
        call: &Call,
        dirfd: i32,
        path: u64,
        buf: u64,
        len: u64,
    ) -> Decision {
        let node = match self.is_empty_path(call, path) {
            // An O_PATH descriptor of the link itself.
            true => self.opened_node(call.tid, dirfd),
            false => self.node(call, dirfd, path),
        };
        let (pid, fd) = match node {
            Some(DeviceNode::FdLink { pid, fd }) => (pid, fd),
            Some(DeviceNode::FdInfo { .. }) | None => return Decision::Native,
            Some(DeviceNode::Behind { .. }) => return Decision::Fail(Errno::NOTDIR),
            Some(_) => return Decision::Fail(Errno::INVAL),
        };
        let Ok(file) = self.callers.file(pid.unwrap_or(call.tid), fd) else {
            return Decision::Native;
        };
        let link = {
            let shared = lock(&self.shared);
            let Some(Object::Buffer(id)) = shared.files.object(file.as_fd()) else {
                return Decision::Native;
            };
            let Some(buffer) = shared.device.buffer(id) else { return Decision::Native };
            buffer.link()
        };
        if int(len) <= 0 {
            return Decision::Fail(Errno::INVAL);
        }
        let cut = link.len().min(usize::try_from(len).unwrap_or(usize::MAX));
        let value = i64::try_from(cut).unwrap_or(0);
        caller::write(call.tid, buf, &link[..cut]).map(|()| Decision::Value(value)).into()
    }

    fn ppoll_timeout(&self, call: &Call, addr: u64) -> Option<u64> {
        if addr == 0 {
            return None;
        }
        let bytes = caller::read(call.tid, addr, 16).unwrap_or_else(|_| vec![0; 16]);
        let word =
            |at: usize| bytes[at..].first_chunk().map_or(0, |bytes| u64::from_ne_bytes(*bytes));
        Some(word(0).saturating_mul(1_000_000_000).saturating_add(word(8)))
    }

    /// poll: the kernel's, unless it names a buffer that is busy.
    fn poll(&mut self, call: &Call, addr: u64, count: u64, timeout_ns: Option<u64>) -> Decision {
        let Ok(count) = usize::try_from(count) else { return Decision::Native };
        if count == 0 || count > POLL_FDS_MAX {
            return Decision::Native;
        }
        let Ok(bytes) = caller::read(call.tid, addr, count * 8) else { return Decision::Native };
        let mut busy = false;
        let mut entries = Vec::with_capacity(count);
        for entry in bytes.chunks_exact(8) {
            let (Some(fd), Some(events)) = (entry.first_chunk(), entry[4..].first_chunk()) else {
                return Decision::Native;
            };
            let (fd, events) = (i32::from_ne_bytes(*fd), u16::from_ne_bytes(*events));
            let file = match self.copy_of(call.tid, fd) {
                Ok(file) => Some(file),
                // poll(2) has an errno for that: no descriptor is said to be closed which is not.
                Err(errno) if super::is_shortage(errno) => return Decision::Fail(Errno::NOMEM),
                Err(_) => None,
            };
            let shared = lock(&self.shared);
            let object = file.as_ref().and_then(|file| shared.files.object(file.as_fd()));
            let polled = match (object, file) {
                (Some(Object::Buffer(id)), _) => Polled::Buffer(id),
                (_, None) => Polled::Nothing,
                (None, Some(file)) if file.is_stored() => Polled::Stored,
                (_, Some(file)) => Polled::File(file),
            };
            if let Polled::Buffer(id) = polled {
                busy |= buffer_events(&shared.device, id) != POLL_IN | POLL_OUT;
            }
            entries.push(PollEntry { fd, events, polled });
        }
        if !busy {
            return Decision::Native;
        }
        let deadline_ns = timeout_ns.map(|timeout| now_ns().saturating_add(timeout));
        self.poll_again(call, PollCall { addr, entries, deadline_ns })
    }

    /// One look at everything that a waiting poll names.
    pub(super) fn poll_again(&mut self, call: &Call, poll: PollCall) -> Decision {
        let mut ready = 0;
        let mut bytes = Vec::with_capacity(poll.entries.len() * 8);
        for entry in &poll.entries {
            let revents = self.poll_entry(entry);
            ready += i64::from(revents != 0);
            bytes.extend(entry.fd.to_ne_bytes());
            bytes.extend(entry.events.to_ne_bytes());
            bytes.extend(revents.to_ne_bytes());
        }
        if ready == 0 && poll.deadline_ns.is_none_or(|deadline| now_ns() < deadline) {
            return Decision::Later(Waiting::Poll(poll));
        }
        caller::write(call.tid, poll.addr, &bytes).map(|()| Decision::Value(ready)).into()
    }

    fn poll_entry(&self, entry: &PollEntry) -> u16 {
        const NVAL: u16 = 0x20;
        if entry.fd < 0 {
            return 0;
        }
        let file = match &entry.polled {
            Polled::Buffer(id) => {
                return buffer_events(&lock(&self.shared).device, *id) & entry.events;
            }
            Polled::Stored => {
                return (POLL_IN | POLL_OUT | POLL_RDNORM | POLL_WRNORM) & entry.events;
            }
            Polled::Nothing => return NVAL,
            Polled::File(file) => file,
        };
        let mut fds = [PollFd::new(file, PollFlags::from_bits_retain(entry.events))];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        match rustix::event::poll(&mut fds, Some(&now)) {
            Ok(_) => fds[0].revents().bits(),
            Err(_) => NVAL,
        }
    }
}

/// poll's timeout; `None` is for ever.
fn poll_timeout(ms: i32) -> Option<u64> {
    u64::try_from(ms).ok().map(|ms| ms * 1_000_000)
}
