//! Starts a program under a seccomp listener.
//!
//! The child installs the filter in itself, tells the listener's number over a socket, waits until it
//! has been fetched (pidfd_getfd) and executes the program; the filter survives exec and is inherited by every process that it starts.
#![allow(unsafe_code, reason = "fork(2) and execvp(3)")]

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::ptr;

use nix::sys::signal::{SigSet, SigmaskHow};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};
use rustix::process::{PidfdFlags, PidfdGetfdFlags};

use super::notify::Listener;
use super::seccomp;

/// A program on its way to exec.
#[derive(Debug)]
pub struct Child {
    /// Its process id.
    pub pid: i32,
    /// Trapped calls arrive here.
    pub listener: Listener,
    /// Readable at exec: end of file when it succeeded, four bytes of errno when it failed.
    pub exec_status: OwnedFd,
}

/// Bytes of the first message when the filter is installed: zeros, and the listener's number. A
/// shorter one of four bytes is the errno.
const GREETING: usize = 8;

/// Forks, installs `program` in the child and executes `argv` there with signal mask `mask`.
///
/// The caller must be the only thread of its process: the child runs only calls that are safe
/// after fork, but a lock that another thread held would stay held.
///
/// # Errors
/// `argv` is empty; fork failed (EAGAIN: RLIMIT_NPROC or the cgroup's pids.max); the child could
/// not install the filter, with [`seccomp::install`]'s errno.
pub fn spawn(argv: &[CString], program: &[libc::sock_filter], mask: &SigSet) -> io::Result<Child> {
    if argv.is_empty() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let mut pointers: Vec<*const libc::c_char> = argv.iter().map(|arg| arg.as_ptr()).collect();
    pointers.push(ptr::null());
    let (ours, theirs) = rustix::net::socketpair(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )?;
    // SAFETY: the caller is single-threaded, as the contract of this function demands, so the
    // child's copy of every lock is free.
    let pid = unsafe { libc::fork() };
    match pid {
        0 => {
            let status = become_program(&pointers, program, mask, &theirs);
            // SAFETY: ends the child without running the parent's exit handlers in it.
            unsafe { libc::_exit(status) }
        }
        -1 => Err(io::Error::last_os_error()),
        pid => {
            drop(theirs);
            let listener = receive_listener(&ours, pid)?;
            Ok(Child { pid, listener: Listener::new(listener)?, exec_status: ours })
        }
    }
}

/// The child's life until exec; returns the status to exit with when it can't get there.
fn become_program(
    argv: &[*const libc::c_char],
    program: &[libc::sock_filter],
    mask: &SigSet,
    socket: &OwnedFd,
) -> i32 {
    if nix::sys::signal::sigprocmask(SigmaskHow::SIG_SETMASK, Some(mask), None).is_err() {
        return 127;
    }
    // SAFETY: sets a disposition that involves no handler. Rust's runtime ignores SIGPIPE, and
    // an ignored signal stays ignored over exec.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
    // SAFETY: as above; the supervisor ignores SIGIO, which its leases may raise.
    unsafe { libc::signal(libc::SIGIO, libc::SIG_DFL) };
    // SAFETY: as above; the supervisor ignores SIGXFSZ.
    unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_DFL) };
    let listener = match seccomp::install(program) {
        Ok(listener) => listener,
        Err(error) => return report(socket, &error),
    };
    // By `send` and its number, rather than by `sendmsg`, which the filter may trap.
    let mut greeting = [0; GREETING];
    greeting[4..].copy_from_slice(&listener.as_raw_fd().to_ne_bytes());
    let told = rustix::net::send(socket, &greeting, SendFlags::NOSIGNAL).is_ok();
    // Until the parent has its copy.
    if !told || rustix::net::recv(socket, &mut [0; 1], RecvFlags::empty()).is_err() {
        return 127;
    }
    drop(listener);
    // SAFETY: `argv` is a null-terminated array of C strings that `spawn` keeps alive, and after
    // fork this process is single-threaded.
    unsafe { libc::execvp(argv[0], argv.as_ptr()) };
    report(socket, &io::Error::last_os_error())
}

/// Sends an errno to the parent. `send` rather than `write`, which the filter may trap.
fn report(socket: &OwnedFd, error: &io::Error) -> i32 {
    let errno = error.raw_os_error().unwrap_or(libc::EIO);
    let sent = rustix::net::send(socket, &errno.to_ne_bytes(), SendFlags::NOSIGNAL);
    if sent.is_ok() && errno == libc::ENOENT { 127 } else { 126 }
}

fn receive_listener(socket: &OwnedFd, pid: i32) -> io::Result<OwnedFd> {
    let mut greeting = [0; GREETING];
    let (got, _) = rustix::net::recv(socket, &mut greeting, RecvFlags::empty())?;
    let word = |at: usize| greeting[at..].first_chunk().map_or(0, |b| i32::from_ne_bytes(*b));
    match got {
        GREETING => {
            let pid = rustix::process::Pid::from_raw(pid).ok_or(io::ErrorKind::NotFound)?;
            let pidfd = rustix::process::pidfd_open(pid, PidfdFlags::empty())?;
            let flags = PidfdGetfdFlags::empty();
            let listener = rustix::process::pidfd_getfd(&pidfd, word(4), flags)?;
            rustix::net::send(socket, &[0], SendFlags::NOSIGNAL)?;
            Ok(listener)
        }
        4 => Err(io::Error::from_raw_os_error(word(0))),
        _ => Err(io::Error::other("the child died before it had installed its filter")),
    }
}

/// Makes a write beyond RLIMIT_FSIZE an error (EFBIG) and not the end of this process.
pub fn ignore_file_limit() {
    // SAFETY: sets a disposition that involves no handler.
    unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
}

/// Ends this process by `signal`, so that whoever waits for it sees what the program died of. No
/// core is dumped: the program's own is the one that matters. Returns if the signal is ignored.
pub fn die_of(signal: nix::sys::signal::Signal) {
    use nix::sys::signal::{SigHandler, raise};
    let none = rustix::process::Rlimit { current: Some(0), maximum: Some(0) };
    let _ = rustix::process::setrlimit(rustix::process::Resource::Core, none);
    // SAFETY: the default disposition involves no handler.
    let _ = unsafe { nix::sys::signal::signal(signal, SigHandler::SigDfl) };
    let mut set = SigSet::empty();
    set.add(signal);
    let _ = set.thread_unblock();
    let _ = raise(signal);
}
