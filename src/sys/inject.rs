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
//! A thread that [`trace`](super::trace) has attached for good is used as it is and stays attached.
//!
//! If this process dies meanwhile, so does the thread's process (PTRACE_O_EXITKILL): it can't go on
//! with half of its registers ours.
//!
//! **Differs from Linux**: a signal that arrives meanwhile is delivered afterwards. A program that
//! is traced already (a debugger, strace) can't be attached to.

#![allow(unsafe_code, reason = "PTRACE_SETSIGMASK and kcmp(2) have no safe wrapper")]

use std::time::{Duration, Instant};

use nix::sys::ptrace::{self, Options};
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use rustix::io::Errno;
use rustix::process::{WaitId, WaitIdOptions};

use super::arch::{CALL_BYTES, Registers};

/// Time between looks whether a fork has failed.
const FORK_LOOK: Duration = Duration::from_millis(5);

/// Longest wait for a thread to stop.
const STOP_TIME_MAX: Duration = Duration::from_secs(2);

/// Longest that a call that we inject may take.
const CALL_TIME_MAX: Duration = Duration::from_secs(20);

/// Lets a thread go that stopped, perhaps for a signal, only after we had lost patience with it.
pub fn let_go(tid: i32, signal: Option<i32>) {
    let signal = signal.and_then(|signal| Signal::try_from(signal).ok());
    // One that is not ours to let go is a child that was stopped by a signal.
    let _ = ptrace::detach(Pid::from_raw(tid), signal);
}

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

impl InjectError {
    fn of(errno: nix::errno::Errno) -> Self {
        match Errno::from_raw_os_error(errno as i32) {
            Errno::PERM | Errno::ACCESS => Self::NotPermitted,
            Errno::SRCH | Errno::CHILD => Self::Gone,
            other => Self::Other(other),
        }
    }
}

/// A thread that is attached and will stop.
#[derive(Debug)]
pub struct Seized {
    pid: Pid,
    kept: bool,
}

/// A thread that is stopped.
#[derive(Debug)]
pub struct Stopped {
    pid: Pid,
    saved: Registers,
    mask: u64,
    attached: bool,
    kept: bool,
}

const PTRACE_EVENT_STOP: i32 = 128;
const PTRACE_GETSIGMASK: libc::c_uint = 0x420a;
const PTRACE_SETSIGMASK: libc::c_uint = 0x420b;

impl Seized {
    /// Attaches to a thread and asks it to stop. It can't while it waits for the answer to a
    /// notification, and will before it executes anything.
    ///
    /// # Errors
    /// [`InjectError`].
    pub fn new(tid: i32) -> Result<Self, InjectError> {
        let seized = Self::attach(tid, Options::empty())?;
        ptrace::interrupt(seized.pid).map_err(InjectError::of)?;
        Ok(seized)
    }

    /// Attaches to a thread that is about to fork.
    ///
    /// # Errors
    /// [`InjectError`].
    pub fn for_fork(tid: i32) -> Result<Self, InjectError> {
        let events = Options::PTRACE_O_TRACEFORK
            | Options::PTRACE_O_TRACEVFORK
            | Options::PTRACE_O_TRACECLONE;
        Self::attach(tid, events)
    }

    fn attach(tid: i32, options: Options) -> Result<Self, InjectError> {
        let pid = Pid::from_raw(tid);
        let options = options | Options::PTRACE_O_TRACESYSGOOD | Options::PTRACE_O_EXITKILL;
        match super::reaper::seize(pid, options) {
            Ok(()) => Ok(Self { pid, kept: false }),
            Err(nix::errno::Errno::EPERM) if super::trace::is_ours(tid) => {
                Ok(Self { pid, kept: true })
            }
            Err(errno) => Err(InjectError::of(errno)),
        }
    }

    /// Waits for the stop.
    ///
    /// # Errors
    /// [`InjectError::TimedOut`], [`InjectError::Gone`].
    pub fn stopped(self) -> Result<Stopped, InjectError> {
        let deadline = Instant::now() + STOP_TIME_MAX;
        loop {
            let status = match wait(self.pid, deadline) {
                Err(InjectError::Other(Errno::INVAL)) => {
                    self.deliver(libc::PTRACE_CONT)?;
                    continue;
                }
                status => status?,
            };
            if matches!(status, WaitStatus::PtraceEvent(_, _, PTRACE_EVENT_STOP)) {
                break;
            }
            // A signal that was on its way: deliver it, the stop comes next.
            ptrace::cont(self.pid, signal_of(status)).map_err(InjectError::of)?;
        }
        Stopped::new(self.pid, self.kept)
    }

    /// Waits for the fork and returns the child, stopped before its first instruction; `None` if
    /// there was no fork. The parent goes on.
    ///
    /// # Errors
    /// [`InjectError`].
    pub fn forked(self) -> Result<Option<Stopped>, InjectError> {
        let soon = Instant::now() + STOP_TIME_MAX / 8;
        let waited = loop {
            match wait(self.pid, soon.min(Instant::now() + FORK_LOOK)) {
                Err(InjectError::TimedOut) if Instant::now() < soon && !self.sleeps_elsewhere() => {
                }
                waited => break waited,
            }
        };
        let status = match waited {
            Err(InjectError::TimedOut) => {
                // It failed and the thread went on; or it has not begun, and will be trapped anew.
                ptrace::interrupt(self.pid).map_err(InjectError::of)?;
                wait(self.pid, Instant::now() + STOP_TIME_MAX)?
            }
            // A real-time signal comes first: the call will be made anew.
            Err(InjectError::Other(Errno::INVAL)) => {
                let request = if self.kept { libc::PTRACE_CONT } else { libc::PTRACE_DETACH };
                return self.deliver(request).map(|()| None);
            }
            status => status?,
        };
        let forked = matches!(
            status,
            WaitStatus::PtraceEvent(
                _,
                _,
                libc::PTRACE_EVENT_FORK | libc::PTRACE_EVENT_VFORK | libc::PTRACE_EVENT_CLONE
            )
        );
        let child = if forked { ptrace::getevent(self.pid).ok() } else { None };
        let signal = signal_of(status);
        let child = child.and_then(|child| i32::try_from(child).ok()).map(Pid::from_raw);
        let child = child.map(|pid| Self { pid, kept: self.kept }.stopped()).transpose();
        leave(self.pid, self.kept, signal)?;
        child
    }

    /// Whether a thread that was let go to fork sleeps outside of fork, so that it has failed: in another
    /// call, or trapped in its next one. A thread that was woken and has not run yet does not sleep.
    fn sleeps_elsewhere(&self) -> bool {
        let read = |file| std::fs::read_to_string(format!("/proc/{}/{file}", self.pid));
        let (Ok(call), Ok(place)) = (read("syscall"), read("wchan")) else { return false };
        let nr = call.split_ascii_whitespace().next().and_then(|word| word.parse::<i64>().ok());
        // "running" is no number, and -1 is a thread that was preempted.
        let Some(nr) = nr.filter(|&nr| nr >= 0) else { return false };
        let forks = [libc::SYS_clone, libc::SYS_clone3, super::arch::legacy::SYS_fork];
        !forks.contains(&nr) || place.starts_with("seccomp_do_user_notification")
    }

    /// Lets a thread that stopped for a real-time signal go on with it: nix has no name for such a
    /// signal, and its `waitpid` answers EINVAL.
    fn deliver(&self, request: libc::c_uint) -> Result<(), InjectError> {
        let info = ptrace::getsiginfo(self.pid).map_err(InjectError::of)?;
        let signal = usize::try_from(info.si_signo).unwrap_or(0);
        // SAFETY: CONT and DETACH take a signal number and no pointer.
        let result = unsafe { libc::ptrace(request, self.pid.as_raw(), 0_usize, signal) };
        if result < 0 { Err(InjectError::of(nix::errno::Errno::last())) } else { Ok(()) }
    }

    /// Detaches from a thread that need not be stopped after all: it stops once and goes on.
    pub fn release(self) {
        if let Ok(stopped) = self.stopped() {
            stopped.leave();
        }
    }
}

impl Stopped {
    fn new(pid: Pid, kept: bool) -> Result<Self, InjectError> {
        let saved = Registers::of(pid).map_err(InjectError::of)?;
        let mut mask = 0;
        // SAFETY: GETSIGMASK writes 8 bytes, as the third argument says, to a live u64.
        unsafe { sigmask(PTRACE_GETSIGMASK, pid, &raw mut mask) }?;
        let mut all = u64::MAX;
        // SAFETY: SETSIGMASK reads 8 bytes of a live u64.
        unsafe { sigmask(PTRACE_SETSIGMASK, pid, &raw mut all) }?;
        Ok(Self { pid, saved, mask, attached: true, kept })
    }

    /// The thread.
    #[must_use]
    pub fn tid(&self) -> i32 {
        self.pid.as_raw()
    }

    /// Makes the thread execute a system call; the value or the errno that it returned.
    ///
    /// # Errors
    /// [`InjectError`] when the thread could not; the call's own errno is in the value.
    pub fn call(&mut self, nr: i64, args: [u64; 6]) -> Result<Result<u64, Errno>, InjectError> {
        let mut regs = self.saved;
        regs.enter(self.saved.pc() - CALL_BYTES, nr, args);
        regs.set(self.pid).map_err(InjectError::of)?;
        // To the call's entry, then to its exit.
        self.to_syscall_stop()?;
        self.to_syscall_stop()?;
        Ok(Registers::of(self.pid).map_err(InjectError::of)?.result())
    }

    fn to_syscall_stop(&self) -> Result<(), InjectError> {
        let deadline = Instant::now() + CALL_TIME_MAX;
        let mut signal = None;
        loop {
            ptrace::syscall(self.pid, signal).map_err(InjectError::of)?;
            let status = wait(self.pid, deadline).inspect_err(|&error| {
                // It must not go on with our registers, whenever that would be. A thread that has
                // ended, as the others do when one of them executes a program, does not.
                if error != InjectError::Gone {
                    let _ = nix::sys::signal::kill(self.pid, Signal::SIGKILL);
                }
            })?;
            if matches!(status, WaitStatus::PtraceSyscall(_)) {
                return Ok(());
            }
            // Only SIGSTOP can't be blocked.
            signal = signal_of(status);
        }
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
        let restored = self.saved.set(self.pid).map_err(InjectError::of);
        // SAFETY: SETSIGMASK reads 8 bytes of a live u64.
        let unmasked = unsafe { sigmask(PTRACE_SETSIGMASK, self.pid, &raw mut self.mask) };
        let detached = leave(self.pid, self.kept, None);
        restored.and(unmasked).and(detached)
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        if self.attached {
            let _ = self.detach();
        }
    }
}

/// The signal that a thread stopped for, if it did.
fn signal_of(status: WaitStatus) -> Option<Signal> {
    if let WaitStatus::Stopped(_, signal) = status { Some(signal) } else { None }
}

/// Lets a thread go on, attached if it was so before.
fn leave(pid: Pid, kept: bool, signal: Option<Signal>) -> Result<(), InjectError> {
    if kept { ptrace::cont(pid, signal) } else { ptrace::detach(pid, signal) }
        .map_err(InjectError::of)
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

/// # Safety
/// `request` must be PTRACE_GETSIGMASK or PTRACE_SETSIGMASK, `mask` a live u64.
unsafe fn sigmask(request: libc::c_uint, pid: Pid, mask: *mut u64) -> Result<(), InjectError> {
    // SAFETY: the caller vouches for request and mask, whose size is the address argument.
    let result = unsafe { libc::ptrace(request, pid.as_raw(), 8_usize, mask) };
    if result < 0 { Err(InjectError::of(nix::errno::Errno::last())) } else { Ok(()) }
}

/// Waits for the thread's next stop. Its end is left for whoever reaps our children.
fn wait(pid: Pid, deadline: Instant) -> Result<WaitStatus, InjectError> {
    let raw = rustix::process::Pid::from_raw(pid.as_raw()).ok_or(InjectError::Gone)?;
    let peek = WaitIdOptions::EXITED
        | WaitIdOptions::STOPPED
        | WaitIdOptions::NOHANG
        | WaitIdOptions::NOWAIT
        | WaitIdOptions::from_bits_retain(libc::__WALL.cast_unsigned());
    let mut looks = 0u32;
    loop {
        match rustix::process::waitid(WaitId::Pid(raw), peek) {
            Ok(Some(status)) if status.exited() || status.killed() || status.dumped() => {
                return Err(InjectError::Gone);
            }
            Ok(Some(_)) => break,
            Ok(None) | Err(Errno::INTR) => {}
            Err(Errno::CHILD) => return Err(InjectError::Gone),
            Err(errno) => return Err(InjectError::Other(errno)),
        }
        looks += 1;
        if looks.is_multiple_of(64) && Instant::now() > deadline {
            return Err(InjectError::TimedOut);
        }
        // Most stops come within a few microseconds of the other CPU's time.
        if looks < 64 {
            std::thread::yield_now();
        } else {
            std::thread::sleep(Duration::from_micros(50));
        }
    }
    let flags = WaitPidFlag::__WALL | WaitPidFlag::WNOHANG;
    waitpid(pid, Some(flags)).map_err(InjectError::of)
}
