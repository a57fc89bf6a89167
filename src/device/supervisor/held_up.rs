//! What a program can hold up: an access to its memory, and a file of a file system of its own.
//!
//! A page that the program's own userfaultfd fills, or that a file system in user space of its own
//! fills, makes process_vm_readv(2) sleep until the program has filled it. What fills it may be
//! waiting for the supervisor, which is one thread. So as soon as a program of the tree may have
//! either, an access to a page that is not there is made by a thread of its own. One that takes
//! long puts its call aside (`pending`): the call is looked at anew when the access is over, which
//! has then brought the page in. (A program that takes the page away between the look and the
//! access still makes us wait: this is a test device, no sandbox.)
//!
//! Closing a copy of a descriptor flushes its file (`fuse_flush`, fs/fuse/file.c), which asks the
//! file system and waits for its answer. Where there is such a file system, files and directories
//! are closed by a thread of their own too.

use std::cell::RefCell;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::time::Duration;

use rustix::io::Errno;

use crate::uapi::page_size;

/// How long the supervisor waits for an access before it puts the call aside.
const PATIENCE: Duration = Duration::from_millis(50);

/// How long it waits for one that can't be repeated.
const LAST_PATIENCE: Duration = Duration::from_secs(1);

/// Most accesses that sleep at once; the next one is answered EFAULT.
const SLEEPING_MAX: usize = 256;

/// Whether a program may hold up an access.
static POSSIBLE: AtomicBool = AtomicBool::new(false);

/// Whether there is a file system in user space.
static FILES_POSSIBLE: AtomicBool = AtomicBool::new(false);

/// How the names begin that the kernel gives to memfds and secret memory.
const MEMORY: [&[u8]; 2] = [b"/memfd:", b"/secretmem"];

/// Accesses that sleep.
static SLEEPING: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    /// The access of this thread's that was held up, until somebody asks.
    static LATEST: RefCell<Option<HeldUp>> = const { RefCell::new(None) };
}

/// An access that goes on.
#[derive(Debug)]
pub(super) struct HeldUp {
    goes_on: Arc<AtomicBool>,
}

impl HeldUp {
    /// Whether it is over by now.
    pub(super) fn is_over(&self) -> bool {
        !self.goes_on.load(Ordering::Acquire)
    }
}

/// A program of the tree has something that fills pages on demand.
pub(super) fn becomes_possible() {
    POSSIBLE.store(true, Ordering::Release);
}

/// There is a file system in user space, or there will be.
pub(super) fn files_become_possible() {
    FILES_POSSIBLE.store(true, Ordering::Release);
}

/// Whether a mount of /proc/self/mountinfo is of a file system in user space.
pub(super) fn has_user_file_system(mountinfo: &str) -> bool {
    let kind = |line: &str| Some(line.split_once(" - ")?.1.split(' ').next()?.to_owned());
    let is_fuse = |kind: String| {
        kind.strip_prefix("fuse")
            .is_some_and(|rest| matches!(rest, "" | "blk") || rest.starts_with('.'))
    };
    mountinfo.lines().filter_map(kind).any(is_fuse)
}

/// Closes a copy of a program's descriptor.
pub(super) fn close(file: OwnedFd) {
    if FILES_POSSIBLE.load(Ordering::Acquire) && can_be_flushed(&file) {
        close_elsewhere(file);
    }
}

/// Whether it is a file or a directory, and not memory: a buffer's file must not stay open here.
pub(super) fn can_be_flushed(file: &OwnedFd) -> bool {
    use rustix::fs::{AtFlags, FileType, StatxFlags};
    let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
    let known = rustix::fs::statx(file.as_fd(), "", flags, StatxFlags::TYPE);
    let kind = known.map(|known| FileType::from_raw_mode(known.stx_mode.into()));
    let is_memory = || {
        let name = std::fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd()));
        let name = name.unwrap_or_default().into_os_string().into_encoded_bytes();
        MEMORY.iter().any(|memory| name.starts_with(memory))
    };
    matches!(kind, Ok(FileType::RegularFile | FileType::Directory)) && !is_memory()
}

fn close_elsewhere(file: OwnedFd) {
    if SLEEPING.load(Ordering::Relaxed) >= SLEEPING_MAX {
        // Better a descriptor too many than nobody served.
        std::mem::forget(file);
        return;
    }
    SLEEPING.fetch_add(1, Ordering::Relaxed);
    let started = std::thread::Builder::new().name("close".to_owned()).spawn(move || {
        drop(file);
        SLEEPING.fetch_sub(1, Ordering::Relaxed);
    });
    if started.is_err() {
        SLEEPING.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The access that was held up since this was last asked.
pub(super) fn take() -> Option<HeldUp> {
    LATEST.with(RefCell::take)
}

/// Makes accesses that no call waits for.
pub(super) fn aside<T>(act: impl FnOnce() -> T) -> T {
    let before = take();
    let result = act();
    LATEST.with(|latest| *latest.borrow_mut() = before);
    result
}

/// Whether an access was held up that nobody has asked about.
pub(super) fn has_come() -> bool {
    LATEST.with(|latest| latest.borrow().is_some())
}

/// Whether an access to `len` bytes of a thread's memory may be held up: a program may do so, and a
/// page is not there, or can't be written to at once.
pub(super) fn is_possible(tid: i32, addr: u64, len: usize) -> bool {
    POSSIBLE.load(Ordering::Acquire) && !is_there(tid, addr, len).unwrap_or(false)
}

/// Whether all pages are in memory or swapped out by the kernel, and none is write-protected by a
/// userfaultfd (Documentation/admin-guide/mm/pagemap.rst).
fn is_there(tid: i32, addr: u64, len: usize) -> std::io::Result<bool> {
    const PRESENT: u64 = 1 << 63;
    const SWAPPED: u64 = 1 << 62;
    const WRITE_PROTECTED: u64 = 1 << 57;
    let pagemap = std::fs::File::open(format!("/proc/{tid}/pagemap"))?;
    let last = addr.saturating_add((len as u64).saturating_sub(1));
    for page in addr / page_size()..=last / page_size() {
        let mut entry = [0; 8];
        pagemap.read_exact_at(&mut entry, page * 8)?;
        let entry = u64::from_ne_bytes(entry);
        if entry & (PRESENT | SWAPPED) == 0 || entry & WRITE_PROTECTED != 0 {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Makes an access that is possibly held up, of a call that may be looked at anew.
///
/// # Errors
/// Those of the access. EFAULT: it is held up, or too many are. ENOMEM: no thread could be started.
pub(super) fn repeatable<T: Send + 'static>(
    access: impl FnOnce() -> Result<T, Errno> + Send + 'static,
) -> Result<T, Errno> {
    let held_up = |access| LATEST.with(|latest| *latest.borrow_mut() = Some(access));
    bounded(access, PATIENCE, held_up)
}

/// Makes an access that changes what its call would find if it were looked at anew.
///
/// # Errors
/// As [`repeatable`].
pub(super) fn once<T: Send + 'static>(
    access: impl FnOnce() -> Result<T, Errno> + Send + 'static,
) -> Result<T, Errno> {
    bounded(access, LAST_PATIENCE, drop)
}

fn bounded<T: Send + 'static>(
    access: impl FnOnce() -> Result<T, Errno> + Send + 'static,
    patience: Duration,
    held_up: impl FnOnce(HeldUp),
) -> Result<T, Errno> {
    if SLEEPING.load(Ordering::Relaxed) >= SLEEPING_MAX {
        return Err(Errno::FAULT);
    }
    let goes_on = Arc::new(AtomicBool::new(true));
    let (send, receive) = sync_channel(1);
    let over = Arc::clone(&goes_on);
    SLEEPING.fetch_add(1, Ordering::Relaxed);
    let started = std::thread::Builder::new().name("access".to_owned()).spawn(move || {
        // Nobody listens any more to one that was held up.
        let _unheard = send.send(access());
        SLEEPING.fetch_sub(1, Ordering::Relaxed);
        over.store(false, Ordering::Release);
    });
    if started.is_err() {
        SLEEPING.fetch_sub(1, Ordering::Relaxed);
        return Err(Errno::NOMEM);
    }
    match receive.recv_timeout(patience) {
        Ok(result) => result,
        Err(RecvTimeoutError::Disconnected) => Err(Errno::FAULT),
        Err(RecvTimeoutError::Timeout) => {
            held_up(HeldUp { goes_on });
            Err(Errno::FAULT)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_systems_in_user_space_are_seen() {
        let mount =
            |kind: &str| format!("36 35 98:0 / /mnt rw,noatime shared:1 - {kind} /dev/x rw\n");
        for (kind, expected) in [
            ("fuse", true),
            ("fuseblk", true),
            ("fuse.sshfs", true),
            ("fusectl", false),
            ("ext4", false),
        ] {
            assert_eq!(has_user_file_system(&(mount("tmpfs") + &mount(kind))), expected, "{kind}");
        }
    }

    #[test]
    fn an_access_that_sleeps_holds_nobody_up() {
        assert_eq!(repeatable(|| Ok(7)), Ok(7));
        assert!(take().is_none());
        let (wake, sleep) = sync_channel::<()>(0);
        let slow = move || sleep.recv().map_err(|_| Errno::IO);
        assert_eq!(repeatable(slow), Err(Errno::FAULT));
        let held = take().expect("it goes on");
        assert!(take().is_none(), "told once");
        let (_kept, never) = sync_channel::<()>(0);
        let sleeps = move || never.recv().map_err(|_| Errno::IO);
        assert_eq!(aside(|| repeatable(sleeps)), Err(Errno::FAULT));
        assert!(take().is_none(), "nobody waits for it");
        assert!(!held.is_over());
        wake.send(()).expect("somebody sleeps");
        while !held.is_over() {
            std::thread::yield_now();
        }
    }
}
