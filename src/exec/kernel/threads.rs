//! Threads: two are one process here, whose munmap is one system call.

use super::super::conduct::Halt;
use super::Bench;
use crate::model::{Effect, Reply, State, Step};
use crate::question::scenario::ScheduleStep;
use crate::units::ActorId;

/// Whether a munmap under way holds what the call, which has returned here, does not: pages that were
/// gathered, or the last reference to a buffer.
pub(super) fn holds_on(model: &State) -> bool {
    let gathered = model.translations.iter().any(|entry| entry.gathered);
    let last = model.detached.iter().any(|detached| {
        let area = &detached.area;
        area.mapped != 0 && area.buf.is_some() && model.bufs[area.buf.index()].fds == 0
    });
    gathered || last
}

impl Bench<'_> {
    /// The process that a thread is of, or the process itself.
    pub(super) fn home(&self, actor: usize) -> usize {
        self.scenario.world.mm(ActorId::at(actor)).index()
    }

    /// Whether what threads do can be asked: none goes by its TLB alone, waits while another is to go on,
    /// or sees a munmap half done.
    pub(super) fn is_one_call(
        &self,
        before: &State,
        event: &ScheduleStep,
        step: &Step,
    ) -> Result<(), Halt> {
        let not = |why: &str| Err(Halt::Inexpressible(why.to_owned()));
        if !self.scenario.world.threads() {
            return Ok(());
        }
        if event.effects.iter().any(|effect| matches!(effect, Effect::TlbHit(..))) {
            return not(
                "a thread goes by what its CPU's TLB still holds: when a real one is flushed can't be told",
            );
        }
        let own = matches!(step, Step::FreePgtables(_) | Step::FinishMmu(_));
        if holds_on(before) && !own {
            return not("munmap(2) is one call: nobody gets between its parts here");
        }
        let mm = self.scenario.world.mm(ActorId::at(event.actor));
        let waits = event.after.model.mms.iter().any(|lock| lock.faults | lock.queued != 0);
        if event.reply == Reply::Again && waits && self.scenario.world.has_threads(mm) {
            return not(
                "the threads of a process are one here: none can wait while another goes on",
            );
        }
        Ok(())
    }
}
