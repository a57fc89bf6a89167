//! Calls that wait: for fences, or in poll.
//!
//! A waiting caller sleeps in the kernel. It is let go when its fences signal, when a signal
//! arrives for it (EINTR), or forgotten when it dies. Signals and files of others can't be seen from
//! here except by looking, which costs system calls. So after a call in which a fence has signalled
//! the fences are looked at, in our own memory; everything else every [`TICK_MS`], and of many waiting
//! calls some each time ([`LOOKS_PER_TICK`]), in turn: who waits makes nobody else slow.

use std::collections::VecDeque;

use rustix::io::Errno;

use super::held_up::HeldUp;
use super::{Decision, Supervisor, caller, lock, now_ns, strict::PollCall};
use crate::device::{FenceId, Ioctl};
use crate::sys::notify::Call;

/// Time between looks at the waiting calls, while there are any.
pub(super) const TICK_MS: i64 = 10;

/// Most calls that wait at once; the next one answers ENOMEM.
const PENDING_MAX: usize = 4096;

/// Calls looked at in one tick, a poll of [`FDS_PER_LOOK`] more descriptors counting as one more.
const LOOKS_PER_TICK: usize = 64;

/// Descriptors whose look takes as long as a call's.
const FDS_PER_LOOK: usize = 16;

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
    calls: VecDeque<(Call, Waiting)>,
    next_tick_ns: u64,
    /// Ends of fences ([`Fences::ends`](crate::device::fence::Fences::ends)) by the last look.
    ends: u64,
}

impl Pending {
    pub(super) fn push(&mut self, call: Call, waiting: Waiting) -> Result<(), Errno> {
        if self.calls.len() >= PENDING_MAX {
            return Err(Errno::NOMEM);
        }
        self.calls.push_back((call, waiting));
        Ok(())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.calls.is_empty()
    }
}

impl Waiting {
    /// How many calls' time a look takes.
    fn looks(&self) -> usize {
        match self {
            Self::Poll(poll) => 1 + poll.len() / FDS_PER_LOOK,
            Self::Ioctl { .. } | Self::Memory(_) => 1,
        }
    }
}

impl Supervisor {
    /// Lets those go whose wait is over, as far as that is known here, and looks at some of the others
    /// if a tick has passed.
    pub(super) fn look_at_pending(&mut self) {
        let ends = lock(&self.shared).device.fences().ends();
        let some_ended = std::mem::replace(&mut self.pending.ends, ends) != ends;
        for (call, waiting) in std::mem::take(&mut self.pending.calls) {
            if self.may_be_over(&waiting, some_ended) {
                self.look_at_one(call, waiting);
            } else {
                self.pending.calls.push_back((call, waiting));
            }
        }
        if now_ns() < self.pending.next_tick_ns {
            return;
        }
        self.pending.next_tick_ns = now_ns() + TICK_MS.unsigned_abs() * 1_000_000;
        let mut looks = 0;
        for _ in 0..self.pending.calls.len() {
            // Who still waits is the last one then.
            let Some((call, waiting)) = self.pending.calls.pop_front() else { return };
            looks += waiting.looks();
            self.look_at_one(call, waiting);
            if looks >= LOOKS_PER_TICK {
                return;
            }
        }
    }

    /// Whether a wait is over by what is known here, where fences may have ended since the last look.
    fn may_be_over(&self, waiting: &Waiting, some_ended: bool) -> bool {
        match waiting {
            Waiting::Ioctl { fences, .. } => {
                some_ended && lock(&self.shared).device.fences().all_signalled(fences)
            }
            Waiting::Poll(poll) => {
                poll.is_late(now_ns()) || (some_ended && poll.is_over(&lock(&self.shared).device))
            }
            Waiting::Memory(access) => access.is_over(),
        }
    }

    fn look_at_one(&mut self, call: Call, waiting: Waiting) {
        if !self.listener.id_valid(call.id) {
            return;
        }
        let answer = match waiting {
            Waiting::Ioctl { mut request, fences } => {
                if lock(&self.shared).device.fences().all_signalled(&fences) {
                    request.has_waited = true;
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
