//! Calls that wait: for fences, or in poll.
//!
//! A waiting caller sleeps in the kernel. It is let go when its fences signal, when a signal
//! arrives for it (EINTR), or forgotten when it dies. Signals can't be seen from here except by
//! looking, so waiting calls are looked at every [`TICK_MS`].

use rustix::io::Errno;

use super::held_up::HeldUp;
use super::{Decision, Supervisor, caller, lock, strict::PollCall};
use crate::device::{FenceId, Ioctl};
use crate::sys::notify::Call;

/// Time between looks at the waiting calls, while there are any.
pub(super) const TICK_MS: i64 = 10;

/// Most calls that wait at once; the next one answers ENOMEM.
const PENDING_MAX: usize = 4096;

/// What a call waits for.
#[derive(Debug)]
pub(super) enum Waiting {
    /// An ioctl, for all of the fences.
    Ioctl {
        /// The request, asked again when they have signalled.
        request: Ioctl,
        /// What it waits for.
        fences: Vec<FenceId>,
    },
    /// A poll on at least one buffer that is busy.
    Poll(PollCall),
    /// A page that an argument lies in.
    Memory(HeldUp),
}

/// The calls put aside.
#[derive(Debug, Default)]
pub(super) struct Pending {
    calls: Vec<(Call, Waiting)>,
}

impl Pending {
    pub(super) fn push(&mut self, call: Call, waiting: Waiting) -> Result<(), Errno> {
        if self.calls.len() >= PENDING_MAX {
            return Err(Errno::NOMEM);
        }
        self.calls.push((call, waiting));
        Ok(())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.calls.is_empty()
    }
}

impl Supervisor {
    /// Looks at every waiting call once.
    pub(super) fn look_at_pending(&mut self) {
        for (call, waiting) in std::mem::take(&mut self.pending.calls) {
            if !self.listener.id_valid(call.id) {
                continue;
            }
            let answer = match waiting {
                Waiting::Ioctl { request, fences } => {
                    if lock(&self.shared).device.fences().all_signalled(&fences) {
                        self.decide(&call, request, &Default::default())
                    } else {
                        Decision::Later(Waiting::Ioctl { request, fences })
                    }
                }
                Waiting::Poll(poll) => self.poll_again(&call, poll),
                Waiting::Memory(access) if access.is_over() => self.answer_or_wait(&call),
                Waiting::Memory(access) => Decision::Later(Waiting::Memory(access)),
            };
            let interrupted = matches!(answer, Decision::Later(_)) && caller::has_signal(call.tid);
            self.send(call, if interrupted { Decision::Fail(Errno::INTR) } else { answer });
        }
    }
}
