//! Locks that are held from one step to the next, and who would wait for them.
//!
//! Nobody is made to wait: a step that the model lets wait is asked with a trylock, which has to fail. A
//! fault that waits for its buffer has the `mmap_lock` of its process meanwhile.

use super::super::conduct::Halt;
use super::Bench;
use super::expect::Expect;
use super::steps::{Call, KERNEL};
use crate::model::{Effect, Reply, State, Step};
use crate::question::scenario::ScheduleStep;
use crate::uapi::lab::{MMAP_WRITE, Op, TICKET_FINI, UNDER_TICKET};

impl Bench<'_> {
    /// A driver takes a lock that it has from one step to the next, or gives it back.
    pub(super) fn takes_lock(
        &mut self,
        before: &State,
        event: &ScheduleStep,
        step: &Step,
    ) -> Result<(), Halt> {
        let actor = event.actor;
        if event.reply != Reply::Done {
            return Ok(());
        }
        if let Step::MmapLock { mm, write } = *step {
            return self.mmap_lock(mm.index(), Op::MmapLock, write, Expect::Done);
        }
        if let Step::MmapUnlock(mm) = *step {
            let write = before.mms[mm.index()].writer.index() == actor;
            return self.mmap_lock(mm.index(), Op::MmapUnlock, write, Expect::Done);
        }
        if *step == Step::DrawTicket {
            return self.lab(actor, Op::Ticket, Call::default(), Expect::Done);
        }
        let (Step::ResvLock(buf) | Step::ResvUnlock(buf)) = *step else { return Ok(()) };
        let op = if matches!(step, Step::ResvLock(_)) { Op::Lock } else { Op::Unlock };
        self.lab(actor, op, Call { obj: buf.0, ..Call::default() }, Expect::Done)?;
        self.ticket_ends(before, &event.after.model, actor)
    }

    /// With the last reservation under it.
    fn ticket_ends(&mut self, before: &State, after: &State, actor: usize) -> Result<(), Halt> {
        let drawn = |state: &State| state.tickets.get(actor).is_some_and(|ticket| ticket.age > 0);
        if drawn(before) && !drawn(after) {
            let call = Call { flags: TICKET_FINI, ..Call::default() };
            return self.lab(actor, Op::Ticket, call, Expect::Done);
        }
        Ok(())
    }

    /// The next of several reservations under a ticket. In the hands of an older one the kernel has to
    /// refuse it at once, and all that is held is given back.
    pub(super) fn locks_all(&mut self, before: &State, event: &ScheduleStep) -> Result<(), Halt> {
        let (actor, after) = (event.actor, &event.after.model);
        let contended = |state: &State| state.tickets.get(actor).map(|ticket| ticket.contended);
        let wanted = contended(after).filter(|buf| buf.is_some());
        if let Some(buf) = wanted.filter(|_| contended(before) != contended(after)) {
            let call = Call { obj: buf.0, flags: UNDER_TICKET, ..Call::default() };
            self.lab(actor, Op::Lock, call, Expect::Held)?;
        }
        for effect in &event.effects {
            if let Effect::Locked(buf, takes) = *effect {
                let (op, flags) = if takes { (Op::Lock, UNDER_TICKET) } else { (Op::Unlock, 0) };
                let call = Call { obj: buf.0, flags, ..Call::default() };
                self.lab(actor, op, call, Expect::Done)?;
            }
        }
        self.ticket_ends(before, after, actor)
    }

    /// The `mmap_lock` of a process, which itself is asked: threads are processes here.
    fn mmap_lock(&mut self, mm: usize, op: Op, write: bool, expect: Expect) -> Result<(), Halt> {
        let flags = if write { MMAP_WRITE } else { 0 };
        self.lab(mm, op, Call { flags, ..Call::default() }, expect)
    }

    /// Faults that have waited and do no more give their `mmap_lock` back.
    pub(super) fn faults_go_on(&mut self, before: &State, after: &State) -> Result<(), Halt> {
        for mm in 0..after.mms.len() {
            for _ in 0..(before.mms[mm].faults & !after.mms[mm].faults).count_ones() {
                self.mmap_lock(mm, Op::MmapUnlock, false, Expect::Done)?;
            }
        }
        Ok(())
    }

    /// A step that would wait from here on is not taken: what it would wait for can't be had. A fault
    /// that waits for its buffer has the `mmap_lock`.
    pub(super) fn waits(
        &mut self,
        before: &State,
        event: &ScheduleStep,
        step: &Step,
    ) -> Result<(), Halt> {
        let after = &event.after.model;
        for mm in 0..after.mms.len() {
            if after.mms[mm].faults & !before.mms[mm].faults != 0 {
                self.mmap_lock(mm, Op::MmapLock, false, Expect::Done)?;
            } else if after.mms[mm].queued & !before.mms[mm].queued != 0 {
                return self.mmap_lock(mm, Op::MmapLock, true, Expect::Held);
            }
        }
        let (Step::Load { vma, .. }
        | Step::Store { vma, .. }
        | Step::GupSlow { vma, .. }
        | Step::FollowPfn { vma, .. }) = *step
        else {
            return Ok(());
        };
        let buf = before.vmas[vma.index()].buf;
        if buf.is_none() {
            return Ok(());
        }
        let locked = before.bufs[buf.index()].lock.is_some();
        let op = if locked { Op::Lock } else { Op::Wait };
        let call = Call { obj: buf.0, flags: KERNEL, ..Call::default() };
        self.lab(event.actor, op, call, Expect::Held)
    }
}
