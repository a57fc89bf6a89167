//! A process that outlives ours, to finish what we left undone.
//!
//! It is made by two forks, so that it is nobody's child that somebody waits for, in a session of
//! its own, so that a signal to our process group does not reach it, and it holds no descriptor of
//! ours but its end of a [`Link`], so that it keeps no pipe or terminal open. It learns of our death
//! by the link's end.

#![allow(unsafe_code, reason = "fork(2), close_range(2), prctl(2)")]

use std::os::fd::{AsFd, AsRawFd};

use rustix::io::Errno;

use super::link::{Link, LinkError};
use super::map::last_errno;

/// Why there is no such process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GuardError {
    /// No link.
    #[error("no link to a guardian process: {0}")]
    Link(#[from] LinkError),
    /// EAGAIN: RLIMIT_NPROC or the cgroup's pids.max.
    #[error("a guardian process can't be made: {0}")]
    Fork(Errno),
}

const NAME: &std::ffi::CStr = c"driftheap-guard";

/// The process's name, as /proc/PID/comm shows it.
pub const COMM: &str = "driftheap-guard";

/// Makes the process and runs `body` in it, with memory as ours is now; returns our end.
///
/// The caller must be the only thread of its process.
///
/// # Errors
/// [`GuardError`].
pub fn start(body: impl FnOnce(Link)) -> Result<Link, GuardError> {
    let (ours, theirs) = Link::pair()?;
    // SAFETY: the caller is single-threaded, as the contract of this function demands, so the
    // child's copy of every lock is free.
    match unsafe { libc::fork() } {
        -1 => Err(GuardError::Fork(last_errno())),
        0 => {
            let _ = rustix::process::setsid();
            // SAFETY: as above; this child has one thread.
            if unsafe { libc::fork() } == 0 {
                drop(ours);
                become_guard(&theirs);
                body(theirs);
            }
            // SAFETY: ends the process without running the exit handlers of the one it copies.
            unsafe { libc::_exit(0) }
        }
        pid => {
            let between = nix::unistd::Pid::from_raw(pid);
            let _ = nix::sys::wait::waitpid(between, None);
            Ok(ours)
        }
    }
}

fn become_guard(link: &Link) {
    let keep = link.as_fd().as_raw_fd().cast_unsigned();
    // SAFETY: the memory of this process is a copy whose owners never run here; what they believe
    // to be open is closed, and only `body` opens anything from now on.
    unsafe { libc::close_range(keep + 1, libc::c_uint::MAX, 0) };
    if keep > 0 {
        // SAFETY: as above.
        unsafe { libc::close_range(0, keep - 1, 0) };
    }
    let mut files = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    files.current = files.maximum;
    let _ = rustix::process::setrlimit(rustix::process::Resource::Nofile, files);
    let mut all = nix::sys::signal::SigSet::all();
    all.remove(nix::sys::signal::Signal::SIGBUS);
    let _ = all.thread_block();
    // SAFETY: PR_SET_NAME reads a C string.
    unsafe { libc::prctl(libc::PR_SET_NAME, NAME.as_ptr()) };
}
