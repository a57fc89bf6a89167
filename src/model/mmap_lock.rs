//! `mmap_lock`: who looks at an address space, and who changes it.
//!
//! The order is `mmap_lock`, then `dma_resv`, then what a shrinker takes: `dma_resv_lockdep`
//! (drivers/dma-buf/dma-resv.c, since b2a8116e2592, 5.5) teaches lockdep that. A driver that faults, or
//! pins user memory, with a `dma_resv` held turns it round.
//!
//! Kernel counterparts, read from 6.12: `lock_mm_and_find_vma` (mm/memory.c) for a fault,
//! `__get_user_pages_locked` (mm/gup.c), `vm_mmap_pgoff` (mm/util.c), `__vm_munmap` (mm/mmap.c),
//! `dup_mmap` (kernel/fork.c). There being locks of single VMAs makes no difference to a driver's fault
//! handler: who has no `map_pages` is called with `mmap_lock` held (`vmf_can_call_fault`, mm/memory.c).
//! No reader gets past a writer that waits (`rwsem_down_read_slowpath`, kernel/locking/rwsem.c), so that
//! two readers can wait for each other if a third wants to write.
//!
//! A step takes the lock and gives it back in one go, which nobody can tell from holding it for longer,
//! but in two places: a fault that waits for the exporter holds it, and a writer stands in line.
//!
//! **Differs from Linux**: a fault of anonymous memory takes the lock, too, where since 6.4 that of its VMA
//! may be enough (`lock_vma_under_rcu`, `do_anonymous_page`, mm/memory.c): a deadlock of such a fault with
//! who holds `mmap_lock` alone need not be one. TTM's fault handler gives the lock up for its first wait (`ttm_bo_vm_reserve`,
//! drivers/gpu/drm/ttm/ttm_bo_vm.c), here every handler keeps it; what waits for a notifier does not
//! hold it, since a notifier waits for a device alone.

pub(super) mod need;

use need::{Need, need};

use super::core::{Core, View};
use super::objects::Slot;
use super::step::{Handle, Reply, Sink, Step};
use crate::units::ActorId;

/// Where a step stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum InLine {
    /// It has the lock, can have it, or needs none.
    Passes,
    /// It can't have what it waits for. To be waiting is a step of its own: others see it.
    Joins,
    /// It waits already, or is a reader that does not even get in line.
    Stays,
}

const fn bit(actor: ActorId) -> u16 {
    1 << actor.0
}

impl View<'_> {
    /// What a step takes in this state: nothing where an access does not fault, or where what was asked
    /// for is there.
    fn need(&self, step: &Step) -> Need {
        match need(self.world, self.actor, step) {
            Need::Access(vma, page, write) => {
                let pte = self.world.pte(vma, page).map(|id| self.state.ptes[id.index()]);
                if self.is_translated(vma, page, write)
                    || pte.is_some_and(|pte| pte.present() && (!write || pte.write))
                {
                    return Need::Nothing;
                }
                Need::Read(self.world.mm_of(vma), Some((vma, page)))
            }
            needs @ Need::Read(..) => {
                if let Step::GupSlow { pin, vma, foll, .. } = *step {
                    if !matches!(self.state.pins[pin.index()].slot, Slot::None | Slot::Failed) {
                        return Need::Nothing;
                    }
                    if !self.gup_allowed(vma, foll) {
                        return Need::Read(self.world.mm_of(vma), None);
                    }
                }
                if let Step::FollowPfn { pin, vma, .. } = *step {
                    if matches!(self.state.pins[pin.index()].slot, Slot::Held | Slot::Taking) {
                        return Need::Nothing;
                    }
                    if !self.followed(vma) {
                        return Need::Read(self.world.mm_of(vma), None);
                    }
                }
                if let Step::DmaStart { via: Handle::Pin(pin), .. } = *step {
                    let entry = &self.state.pins[pin.index()];
                    if entry.slot != Slot::Invalid {
                        return Need::Nothing;
                    }
                    let (vma, page) = self.world.vma_of(entry.pte);
                    return Need::Read(self.world.mm_of(vma), Some((vma, page)));
                }
                needs
            }
            needs @ (Need::Nothing | Need::Write(_) | Need::Release) => needs,
        }
    }

    /// Whether the `mmap_lock` lets a step pass.
    pub(super) fn mmap_lock(&self, step: &Step) -> InLine {
        if self.state.mms.is_empty() {
            return InLine::Passes;
        }
        let (me, explicit) = (bit(self.actor), matches!(step, Step::MmapLock { .. }));
        match self.need(step) {
            Need::Nothing | Need::Access(..) | Need::Release => InLine::Passes,
            Need::Write(mm) => {
                let lock = self.state.mms[mm.index()];
                let own = lock.writer == self.actor && !explicit;
                if own || lock.readers | lock.faults == 0 && lock.writer.is_none() {
                    InLine::Passes
                } else if lock.queued & me == 0 {
                    InLine::Joins
                } else {
                    InLine::Stays
                }
            }
            Need::Read(mm, faults) => {
                let lock = self.state.mms[mm.index()];
                // get_user_pages is called with the lock held, where its caller has it; the fault of an
                // access takes it once more, and waits for whatever a reader waits for.
                let access = matches!(step, Step::Load { .. } | Step::Store { .. });
                let own = lock.writer == self.actor || lock.readers & me != 0;
                if lock.faults & me != 0 || own && !explicit && !access {
                    return InLine::Passes;
                }
                if lock.writer.is_some() || lock.queued != 0 {
                    return InLine::Stays;
                }
                let waits = faults.is_some_and(|(vma, page)| self.fault_blocked(vma, page));
                if waits { InLine::Joins } else { InLine::Passes }
            }
        }
    }
}

impl<S: Sink> Core<'_, S> {
    /// Get in line, where all that a step does now is to wait; or leave it.
    pub(super) fn joins_line(&mut self, step: &Step) -> bool {
        if self.state.mms.is_empty() {
            return false;
        }
        let view = View { world: self.world, state: self.state, actor: self.actor };
        let (line, needs) = (view.mmap_lock(step), view.need(step));
        let me = bit(self.actor);
        match (line, needs) {
            (InLine::Joins, Need::Write(mm)) => self.state.mms[mm.index()].queued |= me,
            (InLine::Joins, Need::Read(mm, _)) => self.state.mms[mm.index()].faults |= me,
            _ => {
                self.leave_line(step);
                return false;
            }
        }
        true
    }

    fn leave_line(&mut self, step: &Step) {
        let mm = match need(self.world, self.actor, step) {
            Need::Nothing | Need::Release => return,
            Need::Access(vma, ..) => self.world.mm_of(vma),
            Need::Read(..) if matches!(step, Step::DmaStart { .. }) => return self.leave_lines(),
            Need::Read(mm, _) | Need::Write(mm) => mm,
        };
        self.leave(mm);
    }

    /// A device may have faulted a page of anybody's.
    fn leave_lines(&mut self) {
        for mm in (0..self.state.mms.len()).map(ActorId::at) {
            self.leave(mm);
        }
    }

    fn leave(&mut self, mm: ActorId) {
        let lock = &mut self.state.mms[mm.index()];
        lock.faults &= !bit(self.actor);
        lock.queued &= !bit(self.actor);
    }

    pub(super) fn lock_mm(&mut self, mm: ActorId, write: bool) -> Reply {
        if self.state.mms.is_empty() {
            return Reply::Skipped;
        }
        let lock = &mut self.state.mms[mm.index()];
        if write {
            lock.writer = self.actor;
        } else {
            lock.readers |= bit(self.actor);
        }
        Reply::Done
    }

    pub(super) fn unlock_mm(&mut self, mm: ActorId) -> Reply {
        if self.state.mms.is_empty() {
            return Reply::Skipped;
        }
        let lock = &mut self.state.mms[mm.index()];
        if lock.writer == self.actor {
            lock.writer = ActorId::NONE;
        } else if lock.readers & bit(self.actor) != 0 {
            lock.readers &= !bit(self.actor);
        } else {
            return Reply::Skipped;
        }
        Reply::Done
    }

    /// A munmap in parts gives other readers way (`mmap_write_downgrade`), unless its caller has the lock.
    pub(super) fn downgrade_mm(&mut self, mm: ActorId) {
        if self.state.mms.is_empty() {
            return;
        }
        let lock = &mut self.state.mms[mm.index()];
        if lock.writer != self.actor {
            lock.readers |= bit(self.actor);
        }
    }

    /// It is over.
    pub(super) fn release_mm(&mut self, mm: ActorId) {
        if !self.state.mms.is_empty() {
            self.state.mms[mm.index()].readers &= !bit(self.actor);
        }
    }
}
