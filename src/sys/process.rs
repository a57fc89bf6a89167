//! Child processes that can't be left behind.
//!
//! Two ways to make one:
//! * [`spawn`] executes a program with one end of a [`Link`]. Sound from any thread, so a conductor
//!   (or a test harness, which has many) starts its first actor with it. The program asks for its
//!   end with [`inherited_link`].
//! * [`fork`] duplicates this process and runs a closure in the copy. Only a process with one
//!   thread may: with more, the copy could find malloc's lock held by a thread that it does not
//!   have. The count is checked, so this is an error and not a hope. It is what a litmus `fork`
//!   statement needs: real copy-on-write of real page tables.
//!
//! A [`Child`] is killed and reaped when dropped. It dies with its parent *thread* too
//! (PR_SET_PDEATHSIG, set again by each child because fork clears it), which is why `Child` is
//! not `Send`: the thread that made it must be the one that ends it. A process whose actors fork
//! calls [`become_subreaper`] and [`reap_orphans`], so that grandchildren are reaped by it.
//!
//! **Differs from Linux:** nothing; these are processes.

#![allow(unsafe_code, reason = "fork, and a hook that runs between fork and exec")]

use std::ffi::OsStr;
use std::marker::PhantomData;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::io::{Errno, FdFlags};
use rustix::process::{Pid, PidfdFlags, Signal, WaitId, WaitIdOptions};

use super::link::{Link, LinkError};
use super::map::{last_errno, refill_holes_after_fork};
use super::uffd::poll_in;

/// How long a killed child may take to be gone before that is an error.
pub const REAP_TIMEOUT: Duration = Duration::from_secs(5);

/// Exit code of a forked child whose closure panicked.
pub const EXIT_PANICKED: u8 = 101;
/// Exit code of a forked child that could not be set up.
pub const EXIT_SETUP: u8 = 102;

/// How a child ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// It exited with this code.
    Code(i32),
    /// It was killed by this signal.
    Signal(i32),
}

/// Why there is no child.
#[derive(Debug, thiserror::Error)]
pub enum SpawnError {
    /// fork was asked for in a process with other threads.
    #[error("fork needs a process with one thread, this one has {0}: start an actor with spawn")]
    ManyThreads(usize),
    /// EAGAIN: RLIMIT_NPROC or the cgroup's pids.max.
    #[error("no more processes are allowed (EAGAIN): raise `ulimit -u` or the cgroup's pids.max")]
    TooMany,
    /// ENOMEM.
    #[error("no memory for another process (ENOMEM)")]
    NoMemory,
    /// EMFILE, ENFILE.
    #[error("no file descriptor left: raise `ulimit -n`")]
    NoFd,
    /// The program could not be executed.
    #[error("{program} can't be started: {source}")]
    Program {
        /// Which.
        program: String,
        /// Why.
        source: std::io::Error,
    },
    /// The link to it could not be made.
    #[error("no link to a new process: {0}")]
    Link(#[from] LinkError),
    /// Anything else.
    #[error("starting a process failed: {0}")]
    Other(Errno),
}

impl SpawnError {
    fn of(errno: Errno) -> Self {
        match errno {
            Errno::AGAIN => Self::TooMany,
            Errno::NOMEM => Self::NoMemory,
            Errno::MFILE | Errno::NFILE => Self::NoFd,
            other => Self::Other(other),
        }
    }
}

/// A child process, killed and reaped on drop; see the [module](self).
#[derive(Debug)]
pub struct Child {
    pid: Pid,
    pidfd: OwnedFd,
    exit: Option<Exit>,
    /// PR_SET_PDEATHSIG watches the thread that made the child: not Send.
    thread: PhantomData<*const ()>,
}

impl Child {
    fn new(pid: Pid) -> Result<Self, SpawnError> {
        match rustix::process::pidfd_open(pid, PidfdFlags::empty()) {
            Ok(pidfd) => Ok(Self { pid, pidfd, exit: None, thread: PhantomData }),
            Err(errno) => {
                // Without a pidfd it can't be managed: end it here, it is still ours to reap.
                let killed = rustix::process::kill_process(pid, Signal::KILL);
                debug_assert_eq!(killed, Ok(()), "an unreaped child can be signalled");
                wait_blocking(WaitId::Pid(pid));
                Err(SpawnError::of(errno))
            }
        }
    }

    /// The process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.pid.as_raw_nonzero().get().unsigned_abs()
    }

    /// The pidfd: readable once the process has ended.
    #[must_use]
    pub fn pidfd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }

    /// Waits for the end and reaps. `None`: still running after `timeout`.
    ///
    /// # Errors
    /// As waitid(2); ECHILD would mean that somebody else reaped it.
    pub fn wait(&mut self, timeout: Duration) -> Result<Option<Exit>, Errno> {
        if self.exit.is_none() && poll_in(&self.pidfd, timeout)? {
            let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
            let status = rustix::process::waitid(WaitId::PidFd(self.pidfd.as_fd()), options)?;
            self.exit = status.map(|status| match status.exit_status() {
                Some(code) => Exit::Code(code),
                None => Exit::Signal(status.terminating_signal().unwrap_or(0)),
            });
        }
        Ok(self.exit)
    }

    /// Sends SIGKILL, which also ends a process that sleeps in a userfaultfd fault.
    ///
    /// # Errors
    /// ESRCH: it has been reaped.
    pub fn kill(&self) -> Result<(), Errno> {
        rustix::process::pidfd_send_signal(&self.pidfd, Signal::KILL)
    }

    /// Kills, waits up to [`REAP_TIMEOUT`] and reaps. Returns how it ended, which is not
    /// `Signal(9)` when it had ended before.
    ///
    /// # Errors
    /// ETIME: it did not go away (asleep in an uninterruptible operation). Else as waitid(2).
    pub fn end(&mut self) -> Result<Exit, Errno> {
        if self.exit.is_none() {
            self.kill()?;
        }
        self.wait(REAP_TIMEOUT)?.ok_or(Errno::TIME)
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if self.exit.is_none() {
            // Nothing more can be done about a failure: the process has been sent SIGKILL.
            let _ = self.end();
        }
    }
}

/// Executes `program args… FD` with FD one end of a new link, the other end being returned.
///
/// stdin is /dev/null; stdout and stderr are inherited.
///
/// # Errors
/// [`SpawnError`].
pub fn spawn(program: &Path, args: &[&OsStr]) -> Result<(Child, Link), SpawnError> {
    let (ours, theirs) = Link::pair()?;
    let fd = theirs.as_fd().as_raw_fd();
    let parent = rustix::process::getpid();
    let mut command = Command::new(program);
    command.args(args).arg(fd.to_string()).stdin(Stdio::null());
    // SAFETY: the hook makes system calls only: no allocation, no lock.
    unsafe {
        command.pre_exec(move || {
            die_with_parent(parent)?;
            // In the child alone: no concurrent spawn can inherit the fd.
            Ok(rustix::io::fcntl_setfd(theirs.as_fd(), FdFlags::empty())?)
        });
    }
    let child = command.spawn().map_err(|source| match Errno::from_io_error(&source) {
        Some(errno @ (Errno::AGAIN | Errno::MFILE | Errno::NFILE)) => SpawnError::of(errno),
        _ => SpawnError::Program { program: program.display().to_string(), source },
    })?;
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    // The kernel's pids are positive and fit; std's handle neither kills nor reaps on drop.
    let pid = pid.ok_or(SpawnError::Other(Errno::SRCH))?;
    Ok((Child::new(pid)?, ours))
}

/// The link that [`spawn`] gave this process, from the last argument.
///
/// # Errors
/// [`LinkError::NotInherited`] when the argument is not the number of such an fd, or when it has
/// been asked for already.
pub fn inherited_link(arg: &OsStr) -> Result<Link, LinkError> {
    let fd = arg.to_str().and_then(|text| text.parse::<RawFd>().ok()).filter(|&fd| fd > 2);
    Link::from_inherited(fd.ok_or(LinkError::NotInherited)?)
}

/// Forks this single-threaded process; `body` runs in the child, whose exit code it returns.
///
/// # Errors
/// [`SpawnError::ManyThreads`], or as fork(2).
pub fn fork(body: impl FnOnce() -> u8) -> Result<Child, SpawnError> {
    let threads = count_threads().map_err(SpawnError::of)?;
    if threads != 1 {
        return Err(SpawnError::ManyThreads(threads));
    }
    let parent = rustix::process::getpid();
    // SAFETY: this is the only thread, so the child's copy of every lock is free or its own.
    let pid = unsafe { libc::fork() };
    match pid {
        0 => {
            let ready = refill_holes_after_fork().is_ok() && die_with_parent(parent).is_ok();
            let code = if ready {
                catch_unwind(AssertUnwindSafe(body)).unwrap_or(EXIT_PANICKED)
            } else {
                EXIT_SETUP
            };
            // SAFETY: _exit never returns; the parent's buffers and destructors are not ours.
            unsafe { libc::_exit(i32::from(code)) }
        }
        // from_raw wants no negative number, even though it could refuse it.
        1.. => Child::new(Pid::from_raw(pid).ok_or(SpawnError::Other(Errno::SRCH))?),
        _ => Err(SpawnError::of(last_errno())),
    }
}

/// Makes this process the parent of orphaned descendants (PR_SET_CHILD_SUBREAPER).
///
/// # Errors
/// As prctl(2).
pub fn become_subreaper() -> Result<(), Errno> {
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))
}

/// Reaps every ended child of this process that no [`Child`] stands for. Returns how many.
///
/// For a subreaper that holds no `Child`: it would take their statuses too.
///
/// # Errors
/// As waitpid(2), but having no children is not an error.
pub fn reap_orphans() -> Result<usize, Errno> {
    let mut reaped = 0;
    loop {
        match rustix::process::wait(rustix::process::WaitOptions::NOHANG) {
            Ok(Some(_)) => reaped += 1,
            Ok(None) | Err(Errno::CHILD) => return Ok(reaped),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
}

/// The pidfd of this process's parent, to notice its death.
///
/// # Errors
/// ESRCH: the parent is outside this pid namespace, or gone. Else as pidfd_open(2).
pub fn parent_pidfd() -> Result<OwnedFd, Errno> {
    let parent = rustix::process::getppid().ok_or(Errno::SRCH)?;
    rustix::process::pidfd_open(parent, PidfdFlags::empty())
}

/// Whether the process of a pidfd has ended.
pub(super) fn has_ended(pidfd: BorrowedFd<'_>) -> bool {
    poll_in(pidfd, Duration::ZERO).unwrap_or(true)
}

/// Lets this thread run on one CPU only.
///
/// # Errors
/// EINVAL: there is no such CPU, or it is not in the cpuset.
pub fn pin_to_cpu(cpu: usize) -> Result<(), Errno> {
    if cpu >= rustix::thread::CpuSet::MAX_CPU {
        return Err(Errno::INVAL);
    }
    let mut set = rustix::thread::CpuSet::new();
    set.set(cpu);
    rustix::thread::sched_setaffinity(None, &set)
}

/// Asks for SIGKILL when the parent thread ends. Async-signal-safe.
fn die_with_parent(parent: Pid) -> std::io::Result<()> {
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
    // The parent may have ended before the line above.
    if rustix::process::getppid() == Some(parent) { Ok(()) } else { Err(Errno::SRCH.into()) }
}

/// The threads of this process, without the workers that io_uring starts: those run kernel code
/// only and hold none of our locks.
fn count_threads() -> Result<usize, Errno> {
    let errno = |error: std::io::Error| Errno::from_io_error(&error).unwrap_or(Errno::IO);
    let mut threads = 0;
    for task in std::fs::read_dir("/proc/self/task").map_err(errno)? {
        let name = std::fs::read_to_string(task.map_err(errno)?.path().join("comm"));
        // A thread that ended since is not counted.
        threads += usize::from(name.is_ok_and(|name| !name.starts_with("iou-")));
    }
    Ok(threads)
}

fn wait_blocking(id: WaitId<'_>) {
    while let Err(Errno::INTR) = rustix::process::waitid(id.clone(), WaitIdOptions::EXITED) {}
}
