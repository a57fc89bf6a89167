//! ptrace of threads that stay attached: stops, steps, and system calls made in their place.
//!
//! Attached with PTRACE_SEIZE, a thread runs as before until it gets a signal, forks, executes a
//! program or is asked to stop. [`wait_any`] and [`wait_for`] say what happened; the thread goes on
//! with [`resume`], by one instruction with [`step`], or after [`call`] has made it execute a system
//! call of ours. Signals are numbers here: real-time signals have no name in `nix`.
//!
//! All of it has to be done by the one thread that attached. When that thread ends, the kernel kills
//! who is attached with [`Follow::die_with_us`], so that nobody is left with half of its registers
//! or protections ours.
//!
//! **Differs from Linux**: a program that is traced already (by a debugger or strace) can't be
//! attached to, and one that wants to trace its own children finds them taken.
#![allow(unsafe_code, reason = "ptrace(2) and waitpid(2) with signals that nix can't name")]

use std::time::{Duration, Instant};

use nix::sys::ptrace;
use nix::unistd::Pid;
use rustix::io::Errno;

pub use super::arch::Registers;
use super::arch::{CALL_BYTES, Discarded};

/// Longest wait for a thread that was asked for something.
pub const WAIT_MAX: Duration = Duration::from_secs(5);

/// Longest that a call of ours may take.
const CALL_TIME_MAX: Duration = Duration::from_secs(20);

const PTRACE_EVENT_STOP: i32 = 128;
/// SIGTRAP with the bit of PTRACE_O_TRACESYSGOOD.
const SIGTRAP_OF_CALL: i32 = libc::SIGTRAP | 0x80;
const PTRACE_LISTEN: libc::c_uint = 0x4208;
const PTRACE_GETSIGMASK: libc::c_uint = 0x420a;
const PTRACE_SETSIGMASK: libc::c_uint = 0x420b;

/// Why an attached thread stands still.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// A signal is about to be delivered.
    Signal(i32),
    /// It enters or leaves a system call, as [`resume_to_call`] asked.
    Call,
    /// It was asked to stop, or has just been born.
    Asked,
    /// The whole process was stopped by a signal (SIGSTOP, SIGTSTP).
    Group,
    /// It made a child process or thread, which is attached too.
    Child(i32),
    /// It executed a program.
    Exec,
    /// Something else that has no consequence.
    Other,
}

/// What happened to a child or an attached thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// It ended with this status.
    Exited(i32),
    /// This signal ended it.
    Killed(i32),
    /// It stands still.
    Stopped(Stop),
}

/// What to be told of an attached thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Follow {
    /// Attach its children and threads too, and report them and execs.
    pub children: bool,
    /// Kill it when we end.
    pub die_with_us: bool,
}

fn errno(error: nix::errno::Errno) -> Errno {
    Errno::from_raw_os_error(error as i32)
}

/// Attaches to a thread, which goes on running.
///
/// # Errors
/// EPERM: somebody traces it, it is not dumpable, or a security module forbids it. ESRCH: it is gone.
pub fn attach(tid: i32, follow: Follow) -> Result<(), Errno> {
    use ptrace::Options;
    // So that crate::sys::inject can tell the stops it asks for.
    let mut options = Options::PTRACE_O_TRACESYSGOOD;
    if follow.children {
        options |= Options::PTRACE_O_TRACEFORK
            | Options::PTRACE_O_TRACEVFORK
            | Options::PTRACE_O_TRACECLONE
            | Options::PTRACE_O_TRACEEXEC;
    }
    if follow.die_with_us {
        options |= Options::PTRACE_O_EXITKILL;
    }
    super::reaper::seize(Pid::from_raw(tid), options).map_err(errno)
}

/// Whether this process traces a thread already.
pub fn is_ours(tid: i32) -> bool {
    status_is(tid, "TracerPid:", &std::process::id().to_string())
}

/// Whether a thread has ended and is only not reaped yet, as a process's first thread is while
/// others go on.
pub fn has_ended(tid: i32) -> bool {
    status_is(tid, "State:", "Z (zombie)") || status_is(tid, "State:", "X (dead)")
}

fn status_is(tid: i32, key: &str, value: &str) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{tid}/status")).unwrap_or_default();
    status.lines().find_map(|line| line.strip_prefix(key)).is_some_and(|text| text.trim() == value)
}

/// Asks a thread to stop. One that waits for the answer to a seccomp notification stops when it has
/// got it, before its next instruction.
///
/// # Errors
/// ESRCH: it is gone or not attached.
pub fn interrupt(tid: i32) -> Result<(), Errno> {
    ptrace::interrupt(Pid::from_raw(tid)).map_err(errno)
}

/// # Safety
/// `request` must take `data` as a number or as a pointer to what lives through the call.
unsafe fn raw(request: libc::c_uint, tid: i32, addr: usize, data: usize) -> Result<(), Errno> {
    // SAFETY: the caller vouches for the request and its data.
    let result = unsafe { libc::ptrace(request, tid, addr, data) };
    if result < 0 { Err(errno(nix::errno::Errno::last())) } else { Ok(()) }
}

fn signal_word(signal: Option<i32>) -> usize {
    signal.and_then(|signal| usize::try_from(signal).ok()).unwrap_or(0)
}

/// Lets a stopped thread go on, with the signal that it stopped for or without.
///
/// # Errors
/// ESRCH: it is gone.
pub fn resume(tid: i32, signal: Option<i32>) -> Result<(), Errno> {
    // SAFETY: CONT takes a signal number.
    unsafe { raw(libc::PTRACE_CONT, tid, 0, signal_word(signal)) }
}

/// Lets a stopped thread go on until it enters or leaves a system call.
///
/// # Errors
/// ESRCH: it is gone.
pub fn resume_to_call(tid: i32) -> Result<(), Errno> {
    // SAFETY: SYSCALL takes a signal number, here none.
    unsafe { raw(libc::PTRACE_SYSCALL, tid, 0, 0) }
}

/// Lets a stopped thread execute one instruction.
///
/// # Errors
/// ESRCH: it is gone.
pub fn step(tid: i32) -> Result<(), Errno> {
    // SAFETY: SINGLESTEP takes a signal number, here none.
    unsafe { raw(libc::PTRACE_SINGLESTEP, tid, 0, 0) }
}

/// Leaves a thread in a group stop stopped, until SIGCONT.
///
/// # Errors
/// ESRCH: it is gone. EIO: it is in no group stop.
pub fn leave_stopped(tid: i32) -> Result<(), Errno> {
    // SAFETY: LISTEN takes no data.
    unsafe { raw(PTRACE_LISTEN, tid, 0, 0) }
}

/// Detaches from a stopped thread, which goes on, with the signal that it stopped for or without.
///
/// # Errors
/// ESRCH: it is gone.
pub fn detach(tid: i32, signal: Option<i32>) -> Result<(), Errno> {
    // SAFETY: DETACH takes a signal number.
    unsafe { raw(libc::PTRACE_DETACH, tid, 0, signal_word(signal)) }
}

/// The signals that a stopped thread blocks, a bit each from 1.
fn mask(tid: i32) -> Result<u64, Errno> {
    let mut mask = 0u64;
    let at = (&raw mut mask).expose_provenance();
    // SAFETY: GETSIGMASK writes 8 bytes, as its address argument says, to a live u64.
    unsafe { raw(PTRACE_GETSIGMASK, tid, 8, at) }?;
    Ok(mask)
}

fn set_mask(tid: i32, mask: u64) -> Result<(), Errno> {
    let at = (&raw const mask).expose_provenance();
    // SAFETY: SETSIGMASK reads 8 bytes of a live u64.
    unsafe { raw(PTRACE_SETSIGMASK, tid, 8, at) }
}

/// The registers of a stopped thread.
///
/// # Errors
/// ESRCH: it is gone or runs.
pub fn registers(tid: i32) -> Result<Registers, Errno> {
    Registers::of(Pid::from_raw(tid)).map_err(errno)
}

/// Sets the registers of a stopped thread.
///
/// # Errors
/// ESRCH: it is gone or runs.
pub fn set_registers(tid: i32, registers: &Registers) -> Result<(), Errno> {
    registers.set(Pid::from_raw(tid)).map_err(errno)
}

/// A memory fault that a signal reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Address.
    pub addr: u64,
    /// `si_code`: SEGV_ACCERR, BUS_ADRERR and their like; positive, as the kernel itself sends it.
    pub code: i32,
}

/// The fault behind the SIGSEGV or SIGBUS that a thread stopped for; `None` if somebody sent it.
pub fn fault(tid: i32) -> Option<Fault> {
    let info = ptrace::getsiginfo(Pid::from_raw(tid)).ok()?;
    let is_fault = matches!(info.si_signo, libc::SIGSEGV | libc::SIGBUS);
    // SI_KERNEL (a general protection fault) has no address.
    if !is_fault || info.si_code <= 0 || info.si_code == 0x80 {
        return None;
    }
    // SAFETY: for these signals, sent by the kernel, the union holds an address.
    let addr = unsafe { info.si_addr() };
    Some(Fault { addr: addr as u64, code: info.si_code })
}

/// Decodes a wait status.
fn change(tid: i32, status: i32) -> Change {
    if libc::WIFEXITED(status) {
        return Change::Exited(libc::WEXITSTATUS(status));
    }
    if libc::WIFSIGNALED(status) {
        return Change::Killed(libc::WTERMSIG(status));
    }
    let signal = libc::WSTOPSIG(status);
    Change::Stopped(match status >> 16 {
        0 if signal == SIGTRAP_OF_CALL => Stop::Call,
        0 => Stop::Signal(signal),
        PTRACE_EVENT_STOP if signal == libc::SIGTRAP => Stop::Asked,
        PTRACE_EVENT_STOP => Stop::Group,
        libc::PTRACE_EVENT_FORK | libc::PTRACE_EVENT_VFORK | libc::PTRACE_EVENT_CLONE => {
            match ptrace::getevent(Pid::from_raw(tid)).ok().and_then(|id| i32::try_from(id).ok()) {
                Some(child) => Stop::Child(child),
                None => Stop::Other,
            }
        }
        libc::PTRACE_EVENT_EXEC => Stop::Exec,
        _ => Stop::Other,
    })
}

/// The next change of any child or attached thread. With `block` it waits for one.
///
/// # Errors
/// ECHILD: there is nobody to wait for.
pub fn wait_any(block: bool) -> Result<Option<(i32, Change)>, Errno> {
    if let Some((tid, status)) = super::reaper::take() {
        return Ok(Some((tid, change(tid, status))));
    }
    let flags = libc::__WALL | if block { 0 } else { libc::WNOHANG };
    loop {
        let mut status = 0;
        // SAFETY: waitpid writes one int.
        match unsafe { libc::waitpid(-1, &raw mut status, flags) } {
            0 => return Ok(None),
            tid if tid > 0 => return Ok(Some((tid, change(tid, status)))),
            _ => match errno(nix::errno::Errno::last()) {
                Errno::INTR => {}
                other => return Err(other),
            },
        }
    }
}

/// Waits until an attached thread stops. Its end stays for [`wait_any`].
///
/// # Errors
/// ESRCH: it has ended. ETIME: it did not stop within [`WAIT_MAX`].
pub fn wait_for(tid: i32) -> Result<Stop, Errno> {
    wait_until(tid, Instant::now() + WAIT_MAX)
}

/// Waits until an attached thread stops, no longer than to the deadline.
///
/// # Errors
/// As [`wait_for`].
pub(super) fn wait_until(tid: i32, deadline: Instant) -> Result<Stop, Errno> {
    let mut looks = 0u32;
    loop {
        let mut info = std::mem::MaybeUninit::<libc::siginfo_t>::zeroed();
        let id = libc::id_t::try_from(tid).map_err(|_| Errno::SRCH)?;
        let flags = libc::WEXITED | libc::WSTOPPED | libc::WNOHANG | libc::WNOWAIT | libc::__WALL;
        // SAFETY: waitid writes one siginfo_t.
        let result = unsafe { libc::waitid(libc::P_PID, id, info.as_mut_ptr(), flags) };
        if result != 0 {
            match errno(nix::errno::Errno::last()) {
                Errno::INTR => continue,
                _ => return Err(Errno::SRCH),
            }
        }
        // SAFETY: zeroed before, and any bytes are a valid siginfo_t.
        let code = unsafe { info.assume_init() }.si_code;
        match code {
            0 => {}
            libc::CLD_EXITED | libc::CLD_KILLED | libc::CLD_DUMPED => return Err(Errno::SRCH),
            _ => {
                let mut status = 0;
                // SAFETY: waitpid writes one int.
                let got =
                    unsafe { libc::waitpid(tid, &raw mut status, libc::__WALL | libc::WNOHANG) };
                if got == tid
                    && let Change::Stopped(stop) = change(tid, status)
                {
                    return Ok(stop);
                }
            }
        }
        looks += 1;
        if looks.is_multiple_of(64) && Instant::now() > deadline {
            return Err(Errno::TIME);
        }
        // Most stops come within a few microseconds of the other CPU's time.
        if looks < 64 {
            std::thread::yield_now();
        } else {
            std::thread::sleep(Duration::from_micros(50));
        }
    }
}

/// Makes stopped thread `tid` execute one system call at `gate`, the address of a
/// [`CALL_INSTRUCTION`](super::arch::CALL_INSTRUCTION) in its memory; then its registers are `saved` again. What the call itself answers is
/// the inner result. Signals wait meanwhile, but for SIGTRAP: the end of a step.
///
/// # Errors
/// ESRCH: it has ended. ETIME: the call did not return.
pub fn call(
    tid: i32,
    gate: u64,
    saved: &Registers,
    nr: i64,
    args: [u64; 6],
) -> Result<Result<u64, Errno>, Errno> {
    let own = mask(tid)?;
    set_mask(tid, !(1 << (libc::SIGTRAP - 1)))?;
    // A thread that stands at a load or store has more in its registers than a call leaves there.
    let mut discarded = Discarded::of(Pid::from_raw(tid));
    let mut regs = *saved;
    regs.enter(gate, nr, args);
    set_registers(tid, &regs)?;
    let deadline = Instant::now() + CALL_TIME_MAX;
    let after = loop {
        step(tid)?;
        let stop = wait_until(tid, deadline)?;
        let now = registers(tid)?;
        if stop == Stop::Signal(libc::SIGTRAP) && now.pc() == gate + CALL_BYTES {
            break now;
        }
    };
    set_registers(tid, saved)?;
    discarded
        .restore(Pid::from_raw(tid))
        .map_err(|errno| Errno::from_raw_os_error(errno as i32))?;
    set_mask(tid, own)?;
    Ok(after.result())
}
