//! Attaching to a thread without waiting for ourselves.
//!
//! A thread that executes a program holds `cred_guard_mutex` until every other thread of its process
//! is gone (`de_thread` in fs/exec.c), and one that is traced is not gone before its tracer has reaped
//! it. `ptrace_attach` takes the same mutex. A tracer that attaches to a second thread meanwhile
//! would never get to reap the first. So while [`seize`] takes long, another thread waits in its place;
//! what it finds, ends and stops, is kept for [`take`].
//!
//! **Lock**: `STATE` guards when the attaching began and what was found. It is held over one wait that
//! does not block, so that nobody else waits once [`seize`] has returned.
#![allow(unsafe_code, reason = "waitpid(2) with __WALL")]

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, Once, PoisonError};
use std::time::{Duration, Instant};

use nix::sys::ptrace::{self, Options};
use nix::unistd::Pid;

/// How long attaching may take before somebody is reaped for it.
const PATIENCE: Duration = Duration::from_millis(20);

#[derive(Debug)]
struct State {
    since: Option<Instant>,
    /// Ids and wait statuses.
    found: VecDeque<(i32, i32)>,
}

static STATE: Mutex<State> = Mutex::new(State { since: None, found: VecDeque::new() });
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

/// What was found while somebody was attached to: an id and a wait status, the oldest first.
pub(super) fn take() -> Option<(i32, i32)> {
    state().found.pop_front()
}

/// Keeps the stop of a thread by a signal, which was found by somebody else, for [`take`]. SIGCHLD
/// tells of it still.
pub(super) fn keep(tid: i32, signal: i32) {
    const STOPPED: i32 = 0x7f;
    state().found.push_back((tid, signal << 8 | STOPPED));
}

fn watch() {
    loop {
        std::thread::sleep(PATIENCE);
        let mut state = state();
        while state.since.is_some_and(|since| since.elapsed() >= PATIENCE) {
            let Some(found) = look() else { break };
            state.found.push_back(found);
        }
    }
}

/// A child or traced thread that has ended or stopped, whichever thread of ours traces it. There is no
/// way to ask for the ends alone: a traced thread's stops are told whatever the options say
/// (`wait_task_stopped` in kernel/exit.c).
fn look() -> Option<(i32, i32)> {
    let mut status = 0;
    // SAFETY: waitpid writes one int.
    let id = unsafe { libc::waitpid(-1, &raw mut status, libc::WNOHANG | libc::__WALL) };
    (id > 0).then_some((id, status))
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

    #[test]
    fn what_is_kept_is_a_stop() {
        // Not a thread of anybody's.
        keep(i32::MAX, libc::SIGSEGV);
        let (tid, status) = take().unwrap();
        assert_eq!(tid, i32::MAX);
        assert!(libc::WIFSTOPPED(status));
        assert_eq!(libc::WSTOPSIG(status), libc::SIGSEGV);
    }
}
