//! Attaching to a thread without waiting for ourselves.
//!
//! A thread that executes a program holds `cred_guard_mutex` until every other thread of its process
//! is gone (`de_thread` in fs/exec.c), and one that is traced is not gone before its tracer has reaped
//! it. `ptrace_attach` takes the same mutex. A tracer that attaches to a second thread meanwhile
//! would never get to reap the first. So while [`seize`] takes long, another thread reaps; what it
//! finds waits for [`take`].
//!
//! **Lock**: `STATE` guards when the attaching began and what was reaped. It is held over one wait
//! that does not block, so that nothing is reaped once [`seize`] has returned.
#![allow(unsafe_code, reason = "waitid(2) with __WALL")]

use std::sync::{Mutex, MutexGuard, Once, PoisonError};
use std::time::{Duration, Instant};

use nix::sys::ptrace::{self, Options};
use nix::unistd::Pid;

/// How long attaching may take before somebody is reaped for it.
const PATIENCE: Duration = Duration::from_millis(20);

/// What a reaped process or thread ended with: `si_code` and `si_status`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ended {
    pub(super) id: i32,
    pub(super) code: i32,
    pub(super) status: i32,
}

#[derive(Debug)]
struct State {
    since: Option<Instant>,
    reaped: Vec<Ended>,
}

static STATE: Mutex<State> = Mutex::new(State { since: None, reaped: Vec::new() });
static STARTED: Once = Once::new();

fn state() -> MutexGuard<'static, State> {
    STATE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// PTRACE_SEIZE.
///
/// # Errors
/// EPERM: it can't be traced. ESRCH: it is gone.
pub(super) fn seize(pid: Pid, options: Options) -> nix::Result<()> {
    STARTED.call_once(|| {
        // Without the thread, the rare case that it is for ends in a wait.
        let _no_thread = std::thread::Builder::new().name("reaper".into()).spawn(watch);
    });
    state().since = Some(Instant::now());
    let result = ptrace::seize(pid, options);
    state().since = None;
    result
}

/// One that was reaped while somebody was attached to.
pub(super) fn take() -> Option<Ended> {
    let mut state = state();
    (!state.reaped.is_empty()).then(|| state.reaped.remove(0))
}

fn watch() {
    loop {
        std::thread::sleep(PATIENCE);
        let mut state = state();
        while state.since.is_some_and(|since| since.elapsed() >= PATIENCE) {
            let Some(ended) = reap() else { break };
            state.reaped.push(ended);
        }
    }
}

/// A child or traced thread that has ended, whichever thread of ours traces it.
fn reap() -> Option<Ended> {
    let mut info = std::mem::MaybeUninit::<libc::siginfo_t>::zeroed();
    let flags = libc::WEXITED | libc::WNOHANG | libc::__WALL;
    // SAFETY: waitid writes one siginfo_t.
    if unsafe { libc::waitid(libc::P_ALL, 0, info.as_mut_ptr(), flags) } != 0 {
        return None;
    }
    // SAFETY: zeroed before, and any bytes are a valid siginfo_t.
    let info = unsafe { info.assume_init() };
    // SAFETY: waitid fills in this field, or leaves it zero.
    let id = unsafe { info.si_pid() };
    // SAFETY: the same.
    let status = unsafe { info.si_status() };
    (id != 0).then_some(Ended { id, code: info.si_code, status })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attaching_to_nobody_fails_at_once() {
        let nobody = Pid::from_raw(i32::MAX);
        assert_eq!(seize(nobody, Options::empty()), Err(nix::errno::Errno::ESRCH));
        assert_eq!(state().since, None);
    }
}
