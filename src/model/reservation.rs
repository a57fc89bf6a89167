//! `dma_resv`: who has a buffer reserved, and how several are.
//!
//! `dma_resv` is a `ww_mutex` of a Wait-Die class (`DEFINE_WD_CLASS(reservation_ww_class)`,
//! drivers/dma-buf/dma-resv.c). Who takes several under one ticket (`struct ww_acquire_ctx`) never waits
//! for an older ticket with one of them held: `dma_resv_lock` answers EDEADLK, and the caller gives all of
//! them back, waits for the contended one with none held, and begins again (`__ww_mutex_check_kill`,
//! kernel/locking/ww_mutex.h; `drm_exec_lock_obj`, drivers/gpu/drm/drm_exec.c;
//! `ttm_eu_reserve_buffers`, drivers/gpu/drm/ttm/ttm_execbuf_util.c; 6.12). So who waits is older than
//! whom it waits for, and nobody waits in a circle.
//!
//! ```text
//! drawn --one is free--> some held --the last is free--> all held --the last is given back--> no ticket
//!                          |    ^
//!    an older ticket has   |    |  the contended one is free
//!    the next: EDEADLK     v    |  (dma_resv_lock_slow)
//!                        none held
//! ```
//!
//! Who holds a reservation without a ticket is waited for, whatever the waiter holds: its age is not known
//! (`hold_ctx` is NULL).
//!
//! **Differs from Linux**: nobody stands in line for a reservation, whoever comes first has it; a waiter
//! that is younger than another waiter backs off there at once, here when the other has the lock.

use super::core::{Core, View};
use super::objects::{Life, Reservations, Ticket};
use super::step::{Effect, Errno, Reply, Sink};
use crate::units::{ActorId, BufId, SgId};

/// What taking the next reservation of several comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    /// There is no such buffer.
    Gone,
    /// It is free.
    Free(BufId),
    /// An older ticket has it, and some are held.
    Older(BufId),
    /// Somebody has it who is waited for.
    Waits,
    /// All are held.
    None,
}

impl View<'_> {
    /// For who goes on if the lock is its own: `dma_buf_map_attachment` is called with it held,
    /// `dma_buf_map_attachment_unlocked` takes it.
    pub(super) fn lock_free(&self, buf: BufId) -> bool {
        let holder = self.state.bufs[buf.index()].lock;
        holder.is_none() || holder == self.actor
    }

    /// For who takes it: a mutex is not recursive, its holder waits for itself.
    pub(super) fn lock_untaken(&self, buf: BufId) -> bool {
        self.state.bufs[buf.index()].lock.is_none()
    }

    pub(super) fn sg_lock_free(&self, sg: SgId) -> bool {
        let attachment = &self.state.attachments[self.world.attachment_of(sg).index()];
        attachment.buf.is_none() || self.lock_free(attachment.buf)
    }

    fn ticket(&self, actor: ActorId) -> Ticket {
        let known = !self.state.tickets.is_empty() && actor.is_some();
        if known { self.state.tickets[actor.index()] } else { Ticket::NONE }
    }

    fn next_of(&self, bufs: Reservations) -> Next {
        let own = self.ticket(self.actor);
        let wanted = if own.contended.is_some() {
            Some(own.contended)
        } else {
            bufs.iter().find(|buf| self.state.bufs[buf.index()].lock != self.actor)
        };
        let Some(buf) = wanted else { return Next::None };
        let entry = &self.state.bufs[buf.index()];
        if matches!(entry.life, Life::Unallocated | Life::Released) {
            return Next::Gone;
        }
        if entry.lock.is_none() {
            return Next::Free(buf);
        }
        if own.held > 0 && self.ticket(entry.lock).is_older(own) {
            Next::Older(buf)
        } else {
            Next::Waits
        }
    }

    /// Whether taking several reservations goes on, be it by giving them back.
    pub(super) fn reserves(&self, bufs: Reservations) -> bool {
        self.next_of(bufs) != Next::Waits
    }
}

impl<S: Sink> Core<'_, S> {
    /// `dma_resv_lock`, by whoever has a reference.
    pub(super) fn resv_lock(&mut self, buf: BufId) -> Reply {
        if matches!(self.state.bufs[buf.index()].life, Life::Unallocated | Life::Released) {
            return Reply::Errno(Errno::Einval);
        }
        let entry = &mut self.state.bufs[buf.index()];
        (entry.lock, entry.kept) = (self.actor, true);
        self.emit(Effect::Locked(buf, true));
        Reply::Done
    }

    pub(super) fn resv_unlock(&mut self, buf: BufId) -> Reply {
        if self.state.bufs[buf.index()].lock != self.actor {
            return Reply::Skipped;
        }
        self.unlock(buf);
        if !self.state.tickets.is_empty() {
            let ticket = &mut self.state.tickets[self.actor.index()];
            ticket.held = ticket.held.saturating_sub(1);
            if ticket.held == 0 {
                self.tear_ticket();
            }
        }
        Reply::Done
    }

    /// `ww_acquire_init`: the youngest.
    pub(super) fn draw_ticket(&mut self) -> Reply {
        if self.state.tickets.is_empty() || self.state.tickets[self.actor.index()].age > 0 {
            return Reply::Skipped;
        }
        let drawn = self.state.tickets.iter().filter(|ticket| ticket.age > 0).count();
        let age = u8::try_from(drawn + 1).unwrap_or(u8::MAX);
        self.state.tickets[self.actor.index()] = Ticket { age, ..Ticket::NONE };
        Reply::Done
    }

    /// `ww_acquire_fini`: ages count those that are there.
    fn tear_ticket(&mut self) {
        let own = self.state.tickets[self.actor.index()];
        self.state.tickets[self.actor.index()] = Ticket::NONE;
        for index in 0..self.state.tickets.len() {
            if own.is_older(self.state.tickets[index]) {
                self.state.tickets[index].age -= 1;
            }
        }
    }

    /// The next of several reservations under the ticket, or all of them given back.
    pub(super) fn lock_all(&mut self, bufs: Reservations) -> Reply {
        if self.state.tickets.is_empty() {
            return Reply::Skipped;
        }
        let next = View { world: self.world, state: self.state, actor: self.actor }.next_of(bufs);
        match next {
            Next::Free(buf) => {
                self.resv_lock(buf);
                let ticket = &mut self.state.tickets[self.actor.index()];
                ticket.held = ticket.held.saturating_add(1);
                ticket.contended = BufId::NONE;
                let own = |buf: BufId| self.state.bufs[buf.index()].lock == self.actor;
                if bufs.iter().all(own) { Reply::Done } else { Reply::Again }
            }
            Next::Older(buf) => {
                self.give_back(bufs);
                self.state.tickets[self.actor.index()].contended = buf;
                Reply::Again
            }
            Next::Gone => {
                self.give_back(bufs);
                self.tear_ticket();
                Reply::Errno(Errno::Einval)
            }
            Next::None | Next::Waits => Reply::Done,
        }
    }

    fn give_back(&mut self, bufs: Reservations) {
        for buf in bufs.iter() {
            self.unlock(buf);
        }
        self.state.tickets[self.actor.index()].held = 0;
    }
}
