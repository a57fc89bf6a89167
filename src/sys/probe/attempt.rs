//! Trying in a child what would change this process for good.

#![allow(unsafe_code, reason = "runs a hook between fork and exec")]

use std::io;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use rustix::io::Errno;

/// Runs `hook` in a forked child, which then ends; returns the errno that the hook met.
///
/// The child is one that std would execute a program in: its `pre_exec` hooks run first, and an
/// error from one of them travels back and ends the child. A hook that always answers an error
/// (ECANCELED for "all went well") therefore makes a child that runs nothing else, is reaped by
/// std, and can be made from a process with many threads.
///
/// # Safety
/// `hook` must do only what is async-signal-safe: system calls on memory prepared beforehand.
pub(super) unsafe fn attempt(
    mut hook: impl FnMut() -> Result<(), Errno> + Send + Sync + 'static,
) -> Result<(), Errno> {
    let mut command = Command::new("/");
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let never_executes = move || match hook() {
        Ok(()) => Err(io::Error::from(Errno::CANCELED)),
        Err(errno) => Err(io::Error::from(errno)),
    };
    // SAFETY: the caller vouches for the hook; an io::Error of an errno does not allocate.
    unsafe { command.pre_exec(never_executes) };
    match command.spawn() {
        // A directory can't be executed, and the hook answers an error anyway.
        Ok(_) => Err(Errno::NOSYS),
        Err(error) => match Errno::from_io_error(&error) {
            Some(Errno::CANCELED) => Ok(()),
            Some(errno) => Err(errno),
            None => Err(Errno::IO),
        },
    }
}
