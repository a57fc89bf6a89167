//! System calls made by another process because we say so.
//!
//! A userfaultfd belongs to the address space that opened it, so a program that does not open one
//! has to be made to. The thread to use is one that sleeps in a seccomp notification: it is known
//! where it is, and the call that it waits for has not begun.
//!
//! 1. [`Seized::new`] attaches and asks for a stop (PTRACE_SEIZE, PTRACE_INTERRUPT);
//! 2. the caller answers the notification: the thread returns from its call and stops before its
//!    next instruction;
//! 3. [`Seized::stopped`] waits for that; [`Stopped::call`] makes the thread execute the
//!    instruction that it has just left, with other registers;
//! 4. [`Stopped::finish`] restores the registers, with the result that its call shall have had, and
//!    detaches.
//!
//! A fork is followed instead: [`Seized::for_fork`], then the notification is let go, and
//! [`Seized::forked`] catches the child before its first instruction.
//!
//! A thread that [`trace`] has attached for good is used as it is and stays attached.
//!
//! If this process dies meanwhile, so does the thread's process (PTRACE_O_EXITKILL): it can't go on
//! with half of its registers ours.
//!
//! **Differs from Linux**: a signal that arrives meanwhile is delivered afterwards. A program that
//! is traced already (a debugger, strace) can't be attached to.

#![allow(unsafe_code, reason = "kcmp(2) has no safe wrapper")]

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use nix::unistd::Pid;
use rustix::io::Errno;

use super::arch::{CALL_BYTES, Registers};
use super::trace::{self, Follow, Stop};

/// Time between looks whether a fork has failed.
const FORK_LOOK: Duration = Duration::from_millis(5);

/// Longest wait for a thread to stop.
const STOP_TIME_MAX: Duration = Duration::from_secs(2);

/// Why a thread could not be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InjectError {
    /// EPERM: a debugger has it, it is not dumpable, or a security module forbids ptrace.
    #[error(
        "it can't be traced (EPERM): a debugger has it, it is not dumpable, or ptrace is forbidden"
    )]
    NotPermitted,
    /// ESRCH, or it ended meanwhile.
    #[error("it has ended")]
    Gone,
    /// It did not stop in time.
    #[error("it did not stop within {} s", STOP_TIME_MAX.as_secs())]
    TimedOut,
    /// Anything else.
    #[error("tracing it failed: {0}")]
    Other(Errno),
}

impl From<Errno> for InjectError {
    fn from(errno: Errno) -> Self {
        match errno {
            Errno::PERM | Errno::ACCESS => Self::NotPermitted,
            Errno::SRCH | Errno::CHILD => Self::Gone,
            Errno::TIME => Self::TimedOut,
            other => Self::Other(other),
        }
    }
}

/// A thread that is attached and will stop.
#[derive(Debug)]
pub struct Seized {
    tid: i32,
    kept: bool,
}

/// A thread that is stopped.
#[derive(Debug)]
pub struct Stopped {
    tid: i32,
    saved: Registers,
    attached: bool,
    kept: bool,
}

impl Seized {
    /// Attaches to a thread and asks it to stop. It can't while it waits for the answer to a
    /// notification, and will before it executes anything.
    ///
    /// # Errors
    /// [`InjectError`].
    pub fn new(tid: i32) -> Result<Self, InjectError> {
        let seized = Self::attach(tid, Follow { children: false, die_with_us: true })?;
        trace::interrupt(tid)?;
        Ok(seized)
    }

    /// Attaches to a thread that is about to fork.
    ///
    /// # Errors
    /// [`InjectError`].
    pub fn for_fork(tid: i32) -> Result<Self, InjectError> {
        Self::attach(tid, Follow { children: true, die_with_us: true })
    }

    fn attach(tid: i32, follow: Follow) -> Result<Self, InjectError> {
        match trace::attach(tid, follow) {
            Ok(()) => Ok(Self { tid, kept: false }),
            Err(Errno::PERM) if trace::is_ours(tid) => Ok(Self { tid, kept: true }),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Waits for the stop.
    ///
    /// # Errors
    /// [`InjectError::TimedOut`], [`InjectError::Gone`].
    pub fn stopped(self) -> Result<Stopped, InjectError> {
        let deadline = Instant::now() + STOP_TIME_MAX;
        loop {
            match trace::wait_until(self.tid, deadline)? {
                Stop::Asked | Stop::Group => break,
                // One that was on its way: the stop comes next.
                Stop::Signal(signal) => trace::resume(self.tid, Some(signal))?,
                Stop::Call | Stop::Child(_) | Stop::Exec | Stop::Other => {
                    trace::resume(self.tid, None)?;
                }
            }
        }
        let saved = trace::registers(self.tid)?;
        Ok(Stopped { tid: self.tid, saved, attached: true, kept: self.kept })
    }

    /// Waits for the fork and returns the child, stopped before its first instruction; `None` if
    /// there was no fork. The parent goes on.
    ///
    /// # Errors
    /// [`InjectError`].
    pub fn forked(self) -> Result<Option<Stopped>, InjectError> {
        let soon = Instant::now() + STOP_TIME_MAX / 8;
        let waited = loop {
            match trace::wait_until(self.tid, soon.min(Instant::now() + FORK_LOOK)) {
                Err(Errno::TIME) if Instant::now() < soon && !self.sleeps_elsewhere() => {}
                waited => break waited,
            }
        };
        let stop = match waited {
            Err(Errno::TIME) => {
                // It failed and the thread went on; or it has not begun, and will be trapped anew.
                trace::interrupt(self.tid)?;
                trace::wait_until(self.tid, Instant::now() + STOP_TIME_MAX)?
            }
            stop => stop?,
        };
        let (child, signal) = match stop {
            Stop::Child(child) => (Some(Self { tid: child, kept: self.kept }.stopped()), None),
            // It came first, or the fork has failed and the thread gone on. Its tracer is to judge,
            // where it has one: it may be a fault of the tracer's making.
            Stop::Signal(signal) if self.kept => {
                super::reaper::keep(self.tid, signal);
                return Ok(None);
            }
            Stop::Signal(signal) => (None, Some(signal)),
            Stop::Call | Stop::Asked | Stop::Group | Stop::Exec | Stop::Other => (None, None),
        };
        let child = child.transpose();
        leave(self.tid, self.kept, signal)?;
        child
    }

    /// Whether a thread that was let go to fork sleeps outside of fork, so that it has failed: in another
    /// call, or trapped in its next one. A thread that was woken and has not run yet does not sleep.
    fn sleeps_elsewhere(&self) -> bool {
        let read = |file| std::fs::read_to_string(format!("/proc/{}/{file}", self.tid));
        let (Ok(call), Ok(place)) = (read("syscall"), read("wchan")) else { return false };
        let nr = call.split_ascii_whitespace().next().and_then(|word| word.parse::<i64>().ok());
        // "running" is not a number, and -1 is a thread that was preempted.
        let Some(nr) = nr.filter(|&nr| nr >= 0) else { return false };
        let forks = [libc::SYS_clone, libc::SYS_clone3, super::arch::legacy::SYS_fork];
        !forks.contains(&nr) || place.starts_with("seccomp_do_user_notification")
    }

    /// Detaches from a thread that need not be stopped after all: it stops once and goes on.
    pub fn release(self) {
        if let Ok(stopped) = self.stopped() {
            stopped.leave();
        }
    }
}

impl Stopped {
    /// The thread.
    #[must_use]
    pub const fn tid(&self) -> i32 {
        self.tid
    }

    /// Makes the thread execute a system call; the value or the errno that it returned.
    ///
    /// # Errors
    /// [`InjectError`] when the thread could not; the call's own errno is in the value.
    pub fn call(&mut self, nr: i64, args: [u64; 6]) -> Result<Result<u64, Errno>, InjectError> {
        let gate = self.saved.pc() - CALL_BYTES;
        let result = trace::call(self.tid, gate, &self.saved, nr, args);
        Ok(result.inspect_err(|&error| {
            // It must not go on with our registers, whenever that would be. A thread that has
            // ended, as the others do when one of them executes a program, does not.
            if error != Errno::SRCH {
                let _ = nix::sys::signal::kill(Pid::from_raw(self.tid), Signal::SIGKILL);
            }
        })?)
    }

    /// Lets the thread go on as if its own call had returned this.
    ///
    /// # Errors
    /// [`InjectError`]: the thread has ended.
    pub fn finish(mut self, result: Result<u64, Errno>) -> Result<(), InjectError> {
        self.saved.set_result(result);
        self.detach()
    }

    /// Lets the thread go on where it was.
    pub fn leave(mut self) {
        let _ = self.detach();
    }

    fn detach(&mut self) -> Result<(), InjectError> {
        self.attached = false;
        let restored = trace::set_registers(self.tid, &self.saved);
        let detached = leave(self.tid, self.kept, None);
        Ok(restored.and(detached)?)
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        if self.attached {
            let _ = self.detach();
        }
    }
}

/// Lets a thread go on, attached if it was so before.
fn leave(tid: i32, kept: bool, signal: Option<i32>) -> Result<(), Errno> {
    if kept { trace::resume(tid, signal) } else { trace::detach(tid, signal) }
}

/// Whether two processes share one address space. `None`: it can't be told (no CONFIG_KCMP, or one of
/// them is gone or not ours to look into).
#[must_use]
pub fn share_memory(one: i32, other: i32) -> Option<bool> {
    const KCMP_VM: libc::c_int = 1;
    // SAFETY: kcmp takes scalars only.
    let order = unsafe { libc::syscall(libc::SYS_kcmp, one, other, KCMP_VM, 0, 0) };
    (order >= 0).then_some(order == 0)
}
