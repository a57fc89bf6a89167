//! What the transports share: the clock, a lock that outlives a panic, a file's identity.

use std::os::fd::BorrowedFd;
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::fs::{AtFlags, StatxFlags};
use rustix::io::Errno;

use super::buffer::Inode;

/// CLOCK_MONOTONIC in nanoseconds.
pub fn now_ns() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
    seconds * 1_000_000_000 + u64::try_from(now.tv_nsec).unwrap_or(0)
}

/// Takes the lock; a panic elsewhere does not make the device unusable.
pub fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The inode behind a descriptor, whatever file system it is of.
///
/// # Errors
/// EBADF: it is not open.
pub fn inode(fd: BorrowedFd<'_>) -> Result<Inode, Errno> {
    known_inode(fd, "", AtFlags::EMPTY_PATH)
}

/// The inode behind a path of /proc, whatever file system that leads to.
///
/// # Errors
/// ENOENT, EACCES: there is nothing to see.
pub fn inode_at(path: &str) -> Result<Inode, Errno> {
    known_inode(rustix::fs::CWD, path, AtFlags::empty())
}

/// As the kernel knows it: a file system in user space is not asked (AT_STATX_DONT_SYNC), which may
/// be the program's own and wait for us.
fn known_inode(dir: BorrowedFd<'_>, path: &str, flags: AtFlags) -> Result<Inode, Errno> {
    let flags = flags | AtFlags::STATX_DONT_SYNC;
    let known = rustix::fs::statx(dir, path, flags, StatxFlags::INO)?;
    let dev = rustix::fs::makedev(known.stx_dev_major, known.stx_dev_minor);
    Ok(Inode { dev, ino: known.stx_ino })
}
