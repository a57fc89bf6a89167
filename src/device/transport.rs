//! What the transports share: the clock, a lock that outlives a panic, a file's identity.

use std::os::fd::BorrowedFd;
use std::sync::{Mutex, MutexGuard, PoisonError};

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

/// The inode behind a descriptor.
///
/// # Errors
/// The errno of fstat(2).
pub fn inode(fd: BorrowedFd<'_>) -> Result<Inode, Errno> {
    let stat = rustix::fs::fstat(fd)?;
    Ok(Inode { dev: stat.st_dev, ino: stat.st_ino })
}
