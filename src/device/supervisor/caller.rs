//! A calling thread's memory and files, reached from outside.
//!
//! Everything is copied once; the caller's other threads may change what is behind a pointer at
//! any time, and what was copied is what counts. After the last copy the supervisor asks whether
//! the notification is still valid before it acts on what it read.

use std::collections::BTreeMap;
use std::io::{IoSlice, IoSliceMut};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::sys::uio::{RemoteIoVec, process_vm_readv, process_vm_writev};
use nix::unistd::Pid;
use rustix::event::epoll;
use rustix::io::Errno;
use rustix::process::{PidfdFlags, PidfdGetfdFlags};

use super::held_up;
use crate::uapi::page_size;

/// Most pidfds kept; when there are more, all are dropped and opened again as needed.
const PIDFDS_MAX: usize = 256;

/// PIDFD_THREAD (6.9): a pidfd for a thread that leads no process.
const PIDFD_THREAD: u32 = 0o200;

/// pidfds of the threads that called lately. One of a dead process answers ESRCH for ever, so a
/// process id used again can't be mistaken for its first owner. It is dropped as its thread ends.
#[derive(Debug, Default)]
pub struct Callers {
    pidfds: BTreeMap<i32, OwnedFd>,
    /// An epoll of them, readable when a thread has ended.
    ends: Option<OwnedFd>,
}

/// A copy of a program's descriptor. Its last use here must not wait for the program.
#[derive(Debug)]
pub struct Copied(Option<OwnedFd>);

impl AsFd for Copied {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.0 {
            Some(file) => file.as_fd(),
            // Never: it is taken as the copy ends.
            None => rustix::stdio::stdin(),
        }
    }
}

impl Drop for Copied {
    fn drop(&mut self) {
        if let Some(file) = self.0.take() {
            held_up::close(file);
        }
    }
}

impl Copied {
    /// Whether it is a regular file or a directory, and not memory. The file system is not asked.
    pub fn is_stored(&self) -> bool {
        self.0.as_ref().is_some_and(held_up::can_be_flushed)
    }

    /// The descriptor of a file that is of no program's file system.
    pub fn into_inner(mut self) -> Result<OwnedFd, Errno> {
        self.0.take().ok_or(Errno::BADF)
    }
}

fn errno(error: nix::errno::Errno) -> Errno {
    Errno::from_raw_os_error(error as i32)
}

fn address(addr: u64) -> Result<usize, Errno> {
    usize::try_from(addr).map_err(|_| Errno::FAULT)
}

/// Copies `len` bytes from the caller.
///
/// # Errors
/// EFAULT: some of it is not mapped or not readable. EPERM: the caller is not dumpable.
pub fn read(tid: i32, addr: u64, len: usize) -> Result<Vec<u8>, Errno> {
    if len == 0 {
        return Ok(Vec::new());
    }
    let remote = [RemoteIoVec { base: address(addr)?, len }];
    let copy = move || {
        let mut bytes = vec![0; len];
        let copied =
            process_vm_readv(Pid::from_raw(tid), &mut [IoSliceMut::new(&mut bytes)], &remote)
                .map_err(errno)?;
        if copied == len { Ok(bytes) } else { Err(Errno::FAULT) }
    };
    if held_up::is_possible(tid, addr, len) { held_up::repeatable(copy) } else { copy() }
}

/// Copies a C string from the caller, without its terminator; `max` bytes if it is longer.
///
/// # Errors
/// EFAULT: it runs into memory that is not mapped before its terminator.
pub fn read_text(tid: i32, addr: u64, max: usize) -> Result<Vec<u8>, Errno> {
    let mut text = Vec::new();
    let mut at = addr;
    while text.len() < max {
        // Up to the end of the page: the next one may not exist.
        let in_page = usize::try_from(page_size() - at % page_size()).unwrap_or(1);
        let chunk = read(tid, at, in_page.min(max - text.len()))?;
        if let Some(end) = chunk.iter().position(|&byte| byte == 0) {
            text.extend_from_slice(&chunk[..end]);
            return Ok(text);
        }
        at = at.checked_add(chunk.len() as u64).ok_or(Errno::FAULT)?;
        text.extend(chunk);
    }
    Ok(text)
}

/// Copies bytes to the caller, honouring the protection of its pages.
///
/// # Errors
/// EFAULT: some of it is not mapped or not writable.
pub fn write(tid: i32, addr: u64, bytes: &[u8]) -> Result<(), Errno> {
    if bytes.is_empty() {
        return Ok(());
    }
    let remote = [RemoteIoVec { base: address(addr)?, len: bytes.len() }];
    if !held_up::is_possible(tid, addr, bytes.len()) {
        return copy_to(tid, remote, bytes);
    }
    // The pages come before anything is written, so that the call can still be looked at anew.
    let last = addr.saturating_add(bytes.len() as u64 - 1);
    for page in addr / page_size()..=last / page_size() {
        let absent = read(tid, addr.max(page * page_size()), 1).is_err();
        if absent && held_up::has_come() {
            return Err(Errno::FAULT);
        }
    }
    let bytes = bytes.to_vec();
    held_up::once(move || copy_to(tid, remote, &bytes))
}

fn copy_to(tid: i32, remote: [RemoteIoVec; 1], bytes: &[u8]) -> Result<(), Errno> {
    let copied =
        process_vm_writev(Pid::from_raw(tid), &[IoSlice::new(bytes)], &remote).map_err(errno)?;
    if copied == bytes.len() { Ok(()) } else { Err(Errno::FAULT) }
}

/// One line of /proc/TID/status.
pub fn status(tid: i32, key: &str) -> Option<String> {
    look(tid, key).ok()
}

/// One line of /proc/TID/status. A process's name may be any bytes.
///
/// # Errors
/// ESRCH: the thread is gone. EMFILE, ENFILE, ENOMEM, and others: it can't be looked into.
fn look(tid: i32, key: &str) -> Result<String, Errno> {
    let text = std::fs::read(format!("/proc/{tid}/status")).map_err(|error| {
        let errno = error.raw_os_error().map_or(Errno::IO, Errno::from_raw_os_error);
        if errno == Errno::NOENT { Errno::SRCH } else { errno }
    })?;
    let text = String::from_utf8_lossy(&text);
    let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
    Ok(line.ok_or(Errno::SRCH)?.trim().to_owned())
}

/// The process that a thread belongs to, or why that can't be told.
///
/// # Errors
/// ESRCH: the thread is gone. EMFILE, ENFILE, ENOMEM: it can't be looked into.
pub fn look_tgid(tid: i32) -> Result<i32, Errno> {
    look(tid, "Tgid")?.parse().map_err(|_| Errno::SRCH)
}

/// The process that a thread belongs to.
pub fn tgid(tid: i32) -> Option<i32> {
    status(tid, "Tgid")?.parse().ok()
}

/// Whether a signal that it does not block waits for the thread.
pub fn has_signal(tid: i32) -> bool {
    let mask =
        |key| status(tid, key).and_then(|text| u64::from_str_radix(&text, 16).ok()).unwrap_or(0);
    (mask("SigPnd") | mask("ShdPnd")) & !mask("SigBlk") & !mask("SigIgn") != 0
}

impl Callers {
    /// Drops the pidfds of threads that are gone.
    pub fn prune(&mut self) {
        self.pidfds.retain(|tid, _| std::path::Path::new(&format!("/proc/{tid}")).exists());
    }

    /// Drops every pidfd; they are opened again as needed.
    pub fn clear(&mut self) {
        self.pidfds.clear();
    }

    /// Readable when a thread that called lately has ended; none before there was one.
    pub fn ends(&self) -> Option<BorrowedFd<'_>> {
        self.ends.as_ref().map(AsFd::as_fd)
    }

    /// Drops the pidfds of those that have ended.
    pub fn drop_ended(&mut self) {
        let Some(ends) = &self.ends else { return };
        let mut events = Vec::with_capacity(PIDFDS_MAX);
        let now = rustix::event::Timespec::default();
        let buffer = rustix::buffer::spare_capacity(&mut events);
        if epoll::wait(ends, buffer, Some(&now)).is_ok() {
            for event in events {
                let tid = i32::try_from(event.data.u64()).unwrap_or(0);
                self.pidfds.remove(&tid);
            }
        }
    }

    /// Keeps a pidfd until its thread ends.
    fn keep(&mut self, tid: i32, pidfd: OwnedFd) {
        if self.pidfds.len() >= PIDFDS_MAX {
            self.pidfds.clear();
        }
        if self.ends.is_none() {
            self.ends = epoll::create(epoll::CreateFlags::CLOEXEC).ok();
        }
        if let Some(ends) = &self.ends {
            let data = epoll::EventData::new_u64(u64::from(tid.unsigned_abs()));
            // One that is not watched is dropped at the next look.
            let _unwatched = epoll::add(ends, &pidfd, data, epoll::EventFlags::IN);
        }
        self.pidfds.insert(tid, pidfd);
    }

    /// A copy of the caller's file descriptor.
    ///
    /// # Errors
    /// EBADF: it is not open. EPERM: the caller is not dumpable. ESRCH: the caller is gone.
    pub fn file(&mut self, tid: i32, fd: i32) -> Result<Copied, Errno> {
        self.descriptor(tid, fd).map(|file| Copied(Some(file)))
    }

    fn descriptor(&mut self, tid: i32, fd: i32) -> Result<OwnedFd, Errno> {
        if let Some(pidfd) = self.pidfds.get(&tid) {
            match getfd(pidfd.as_fd(), fd) {
                Err(Errno::SRCH) => {}
                result => return result,
            }
        }
        let pidfd = open_pidfd(tid)?;
        let result = getfd(pidfd.as_fd(), fd);
        self.keep(tid, pidfd);
        result
    }
}

fn open_pidfd(tid: i32) -> Result<OwnedFd, Errno> {
    let open = |id, flags| {
        let pid = rustix::process::Pid::from_raw(id).ok_or(Errno::SRCH)?;
        rustix::process::pidfd_open(pid, flags)
    };
    open(tid, PidfdFlags::empty())
        .or_else(|_| open(tid, PidfdFlags::from_bits_retain(PIDFD_THREAD)))
        .or_else(|_| open(tgid(tid).ok_or(Errno::SRCH)?, PidfdFlags::empty()))
}

fn getfd(pidfd: BorrowedFd<'_>, fd: i32) -> Result<OwnedFd, Errno> {
    if fd < 0 {
        return Err(Errno::BADF);
    }
    rustix::process::pidfd_getfd(pidfd, fd, PidfdGetfdFlags::empty())
}

/// Most elements of an iovec (UIO_MAXIOV).
const IOVECS_MAX: u64 = 1024;

/// The word at an offset of a structure; 0 where it is cut short.
pub fn word(bytes: &[u8], at: usize) -> u64 {
    let bytes = bytes.get(at..).and_then(<[u8]>::first_chunk);
    bytes.map_or(0, |bytes| u64::from_ne_bytes(*bytes))
}

/// Base and length of the elements of an iovec array.
pub fn iovecs(tid: i32, addr: u64, count: u64) -> Vec<(u64, u64)> {
    let len = usize::try_from(count.min(IOVECS_MAX) * 16).unwrap_or(0);
    let bytes = read(tid, addr, len).unwrap_or_default();
    bytes.chunks_exact(16).map(|iovec| (word(iovec, 0), word(iovec, 8))).collect()
}
