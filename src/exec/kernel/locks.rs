//! Locks that are held from one step to the next, and who would wait for them.
//!
//! Nobody is made to wait: a step that the model lets wait is asked with a trylock, which has to fail. A
//! fault that waits for its buffer has the `mmap_lock` of its process meanwhile.

use super::super::conduct::Halt;
use super::Bench;
use super::expect::Expect;
use super::steps::{Call, KERNEL};
use crate::model::{Reply, State, Step};
use crate::question::scenario::ScheduleStep;
use crate::uapi::lab::{MMAP_WRITE, Op};

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
        let (Step::ResvLock(buf) | Step::ResvUnlock(buf)) = *step else { return Ok(()) };
        let op = if matches!(step, Step::ResvLock(_)) { Op::Lock } else { Op::Unlock };
        self.lab(actor, op, Call { obj: buf.0, ..Call::default() }, Expect::Done)
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
