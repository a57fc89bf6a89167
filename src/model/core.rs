//! [`ready`] and [`step`]: the two functions through which everything happens.

use super::mmap_lock::InLine;
use super::objects::{Life, Reach, Slot, Target};
use super::operation::Operation;
use super::policy::{Admission, Request};
use super::reach::zapped_pages;
use super::rules::{
    ExporterStep, FaultLock, FaultWait, KernelFence, Notifier, Placement, SyncForward, Usage,
};
use super::state::State;
use super::step::{Dir, Effect, Errno, Handle, Hazard, Reply, Sink, Step, SyncAccess};
use super::world::World;
use crate::units::{ActorId, BufId, FrameId, ImporterId, PageId, PageSet, SgId, VmaId};

/// One step under way: everything it needs, so that the rules read as methods.
pub(super) struct Core<'a, S: Sink> {
    pub(super) world: &'a World,
    pub(super) state: &'a mut State,
    pub(super) actor: ActorId,
    pub(super) sink: &'a mut S,
}

/// Whether `actor` could take `step` now. A step that is not ready waits (for a lock, a fence, a
/// notifier, or for somebody to ask for what it needs); it is not refused.
#[must_use]
pub fn ready(world: &World, state: &State, actor: ActorId, step: &Step) -> bool {
    if admission(world, state, actor, step) == Admission::Wait {
        return false;
    }
    let view = View { world, state, actor };
    match view.mmap_lock(step) {
        InLine::Passes => ready_with_mmap_lock(&view, step),
        InLine::Joins => true,
        InLine::Stays => false,
    }
}

/// The same of a step that has the `mmap_lock`, where it needs one.
#[expect(clippy::too_many_lines, reason = "one arm a step, nothing to share")]
fn ready_with_mmap_lock(view: &View<'_>, step: &Step) -> bool {
    let View { world, state, .. } = *view;
    match *step {
        Step::Load { vma, page } => {
            view.is_translated(vma, page, false) || !view.fault_blocked(vma, page)
        }
        Step::Store { vma, page, .. } => {
            view.is_translated(vma, page, true)
                || !view.fault_blocked(vma, page) && !view.copy_waits(vma, page)
        }
        Step::GupSlow { pin, vma, page, foll } => {
            let slot = state.pins[pin.index()].slot;
            !matches!(slot, Slot::None | Slot::Failed)
                || !view.gup_allowed(vma, foll)
                || !view.fault_blocked(vma, page)
                    && !((foll.write || !foll.get) && view.copy_waits(vma, page))
                    && !(foll.longterm && view.migration_waits())
        }
        Step::FollowPfn { pin, vma, page, .. } => {
            matches!(state.pins[pin.index()].slot, Slot::Held | Slot::Taking)
                || !view.followed(vma)
                || !view.fault_blocked(vma, page)
        }
        Step::Mmap(mmap) => !view.unmap_under_way(world.mm_of(mmap.vma)),
        Step::Munmap { vma, pages } => {
            !view.unmap_under_way(world.mm_of(vma)) && !view.notifier_waits(vma, pages)
        }
        Step::Mremap { from, .. } => {
            !view.unmap_under_way(world.mm_of(from)) && !view.notifier_waits(from, PageSet::MAX)
        }
        Step::Mprotect { vma, .. } => {
            !view.unmap_under_way(world.mm_of(vma)) && !view.notifier_waits(vma, PageSet::MAX)
        }
        Step::Unpin(pin) => !matches!(state.pins[pin.index()].slot, Slot::None | Slot::Taking),
        // Both take the lock for the list of attachments (dma_buf_dynamic_attach, dma_buf_detach,
        // drivers/dma-buf/dma-buf.c, 6.12).
        Step::Attach { buf, via, .. } => {
            let buf =
                if buf.is_none() && via.is_some() { state.vmas[via.index()].buf } else { buf };
            buf.is_none() || state.bufs[buf.index()].life != Life::Live || view.lock_untaken(buf)
        }
        Step::Detach(attachment) => {
            let entry = &state.attachments[attachment.index()];
            entry.slot != Slot::Held || view.lock_untaken(entry.buf)
        }
        Step::Map(sg) => {
            let attachment = &state.attachments[world.attachment_of(sg).index()];
            attachment.slot != Slot::None
                && (attachment.slot != Slot::Held
                    || view.lock_free(attachment.buf)
                        && !view.migration_for_waits(sg)
                        && (attachment.dynamic || !state.bufs[attachment.buf.index()].moving))
        }
        Step::Unmap(sg) => state.sgs[sg.index()] != Slot::None && view.sg_lock_free(sg),
        Step::Validate { sg, .. } => state.sgs[sg.index()] != Slot::None && view.sg_lock_free(sg),
        Step::Signal(fence) => {
            !matches!(state.fences[fence.index()].slot, Slot::None | Slot::Taking)
        }
        Step::DmaStart { via, dir, .. } => view.dma_ready(via, dir),
        Step::DmaBufPin(attachment) => {
            let entry = &state.attachments[attachment.index()];
            entry.slot != Slot::None && (entry.slot != Slot::Held || view.lock_free(entry.buf))
        }
        Step::SyncStart { buf, access, via } => {
            view.sync_dropped(via) || !state.fence_pending(buf, sync_usage(access))
        }
        Step::Exporter { buf, step, operation, .. } => view.exporter_ready(buf, step, operation),
        Step::Fork { parent_first, count, .. } => {
            let parents = (parent_first.0..parent_first.0.saturating_add(count)).map(VmaId);
            let private = |vma: &VmaId| !state.vmas[vma.index()].shared;
            !view.unmap_under_way(world.mm(view.actor))
                && !parents.filter(private).any(|vma| view.notifier_waits(vma, PageSet::MAX))
        }
        Step::Alloc(buf) => world.buf(buf).placement != Placement::Cma || !view.migration_waits(),
        Step::ResvLock(buf) => view.lock_untaken(buf),
        Step::LockAll(bufs) => view.reserves(bufs),
        Step::FlushTlb(sg) => state.sgs[sg.index()] != Slot::None && !view.translated(sg),
        Step::GupFast { .. }
        | Step::FrameVectorCheck { .. }
        | Step::Submit { .. }
        | Step::DmaFinish { .. }
        | Step::DmaBufUnpin(_)
        | Step::SyncEnd { .. }
        | Step::Close(_)
        | Step::EvictCache(_)
        | Step::ResvUnlock(_)
        | Step::DrawTicket
        | Step::MmapLock { .. }
        | Step::MmapUnlock(_)
        | Step::FreePgtables(_)
        | Step::FinishMmu(_) => true,
    }
}

/// Take `step`, which must be [`ready`]: change `state`, tell `sink` what was done, and say what
/// the caller of the system call (or the CPU, or the device) gets.
///
/// [`Reply::Again`] means that something else had to be done first (a fault served, an sg_table
/// mapped again): the same step is to be taken once more, and everything may happen in between.
pub fn step<S: Sink>(
    world: &World,
    state: &mut State,
    actor: ActorId,
    step: &Step,
    sink: &mut S,
) -> Reply {
    debug_assert!(ready(world, state, actor, step), "{step:?} of {actor:?} is not ready");
    let refusal = admission(world, state, actor, step);
    let mut core = Core { world, state, actor, sink };
    if let Admission::Refuse(errno) = refusal {
        core.state.refuse(step);
        if let Step::Exporter { buf, .. } = *step {
            core.abandon(buf);
        }
        return Reply::Errno(errno);
    }
    if core.joins_line(step) {
        return Reply::Again;
    }
    match *step {
        Step::Mmap(mmap) => core.mmap(&mmap),
        Step::Munmap { vma, pages } => core.munmap(vma, pages),
        Step::Mremap { to, from } => core.mremap(to, from),
        Step::Mprotect { vma, write } => core.mprotect(vma, write),
        Step::Load { vma, page } => core.load(vma, page),
        Step::Store { vma, page, value } => core.store(vma, page, value),
        Step::GupFast { pin, vma, page, foll } => core.gup_fast(pin, vma, page, foll),
        Step::GupSlow { pin, vma, page, foll } => core.gup_slow(pin, vma, page, foll),
        Step::FollowPfn { pin, vma, page, write } => core.follow_pfn(pin, vma, page, write),
        Step::FrameVectorCheck { first, count, importer } => {
            core.frame_vector_check(first, count, importer)
        }
        Step::Unpin(pin) => core.unpin(pin),
        Step::Attach { attachment, buf, via, dynamic } => {
            core.attach(attachment, buf, via, dynamic)
        }
        Step::Detach(attachment) => core.detach(attachment),
        Step::Map(sg) => core.map(sg),
        Step::Unmap(sg) => core.unmap(sg),
        Step::Validate { fence, sg } => core.validate(fence, sg),
        Step::Submit { fence, sg, usage, writes } => core.submit(fence, sg, usage, writes),
        Step::Signal(fence) => core.signal(fence),
        Step::DmaStart { via, page, dir } => core.dma_start(via, page, dir),
        Step::DmaFinish { via, page, dir } => core.dma_finish(via, page, dir),
        Step::DmaBufPin(attachment) => core.dma_buf_pin(attachment, true),
        Step::DmaBufUnpin(attachment) => core.dma_buf_pin(attachment, false),
        Step::SyncStart { buf, access, via } => core.sync_start(buf, access, via),
        Step::SyncEnd { buf, access, via } => core.sync_end(buf, access, via),
        Step::Exporter { buf, step, page, operation } => {
            core.exporter_step(buf, step, page, operation)
        }
        Step::Alloc(buf) => core.alloc(buf),
        Step::Close(buf) => core.close(buf),
        Step::Fork { child, parent_first, child_first, count } => {
            core.fork(child, parent_first, child_first, count)
        }
        Step::EvictCache(page) => core.evict_cache(page),
        Step::ResvLock(buf) => core.resv_lock(buf),
        Step::ResvUnlock(buf) => core.resv_unlock(buf),
        Step::DrawTicket => core.draw_ticket(),
        Step::LockAll(bufs) => core.lock_all(bufs),
        Step::MmapLock { mm, write } => core.lock_mm(mm, write),
        Step::MmapUnlock(mm) => core.unlock_mm(mm),
        Step::FlushTlb(sg) => core.flush_tlb(sg),
        Step::FreePgtables(vma) => core.free_pgtables(vma),
        Step::FinishMmu(vma) => core.finish_mmu(vma),
    }
}

impl State {
    /// Record that what `step` would have made will never be: whoever waits for it goes on.
    pub fn refuse(&mut self, step: &Step) {
        match *step {
            Step::GupSlow { pin, .. } | Step::FollowPfn { pin, .. } => {
                let entry = &mut self.pins[pin.index()];
                if entry.slot == Slot::None {
                    entry.slot = Slot::Failed;
                }
            }
            Step::Attach { attachment, .. } => {
                self.attachments[attachment.index()].slot = Slot::Failed;
            }
            Step::Map(sg) => self.sgs[sg.index()] = Slot::Failed,
            Step::Validate { fence, .. } | Step::Submit { fence, .. } => {
                self.fence_mut(fence).slot = Slot::Failed;
            }
            Step::Mmap(_)
            | Step::Munmap { .. }
            | Step::Mremap { .. }
            | Step::Mprotect { .. }
            | Step::Load { .. }
            | Step::Store { .. }
            | Step::GupFast { .. }
            | Step::FrameVectorCheck { .. }
            | Step::Unpin(_)
            | Step::Detach(_)
            | Step::Unmap(_)
            | Step::Signal(_)
            | Step::DmaStart { .. }
            | Step::DmaFinish { .. }
            | Step::DmaBufPin(_)
            | Step::DmaBufUnpin(_)
            | Step::SyncStart { .. }
            | Step::SyncEnd { .. }
            | Step::Exporter { .. }
            | Step::Alloc(_)
            | Step::Close(_)
            | Step::Fork { .. }
            | Step::EvictCache(_)
            | Step::ResvLock(_)
            | Step::ResvUnlock(_)
            | Step::DrawTicket
            | Step::LockAll(_)
            | Step::MmapLock { .. }
            | Step::MmapUnlock(_)
            | Step::FlushTlb(_)
            | Step::FreePgtables(_)
            | Step::FinishMmu(_) => {}
        }
    }
}

fn admission(world: &World, state: &State, actor: ActorId, step: &Step) -> Admission {
    if world.policies.iter().all(Option::is_none) {
        return Admission::Default;
    }
    let Some(buf) = buf_of(world, state, step) else { return Admission::Default };
    let policy = &world.policies[world.buf(buf).exporter.index()];
    policy.as_ref().map_or(Admission::Default, |policy| {
        policy.admit(world, state, &Request { actor, buf, step: *step })
    })
}

/// The buffer that a step concerns, where it concerns one that can be told beforehand.
fn buf_of(world: &World, state: &State, step: &Step) -> Option<BufId> {
    let of_vma = |vma: VmaId| state.vmas[vma.index()].buf;
    let of_sg = |sg: SgId| state.attachments[world.attachment_of(sg).index()].buf;
    let buf = match *step {
        Step::Mmap(mmap) => mmap.buf,
        Step::Munmap { vma, .. }
        | Step::Mprotect { vma, .. }
        | Step::Load { vma, .. }
        | Step::Store { vma, .. }
        | Step::GupFast { vma, .. }
        | Step::GupSlow { vma, .. }
        | Step::FollowPfn { vma, .. } => of_vma(vma),
        Step::Mremap { from, .. } => of_vma(from),
        Step::Attach { buf, via, .. } if buf.is_none() => of_vma(via),
        Step::Attach { buf, .. }
        | Step::SyncStart { buf, .. }
        | Step::SyncEnd { buf, .. }
        | Step::Exporter { buf, .. }
        | Step::Alloc(buf)
        | Step::Close(buf)
        | Step::ResvLock(buf)
        | Step::ResvUnlock(buf) => buf,
        Step::Detach(attachment) | Step::DmaBufPin(attachment) | Step::DmaBufUnpin(attachment) => {
            state.attachments[attachment.index()].buf
        }
        Step::Map(sg)
        | Step::Unmap(sg)
        | Step::Validate { sg, .. }
        | Step::Submit { sg, .. }
        | Step::FlushTlb(sg)
        | Step::DmaStart { via: Handle::Sg(sg), .. }
        | Step::DmaFinish { via: Handle::Sg(sg), .. } => of_sg(sg),
        Step::Signal(fence) => state.fences[fence.index()].buf,
        Step::EvictCache(page) => world.buf_of(page),
        Step::FrameVectorCheck { .. }
        | Step::Unpin(_)
        | Step::DmaStart { .. }
        | Step::DmaFinish { .. }
        | Step::Fork { .. }
        | Step::DrawTicket
        | Step::LockAll(_)
        | Step::MmapLock { .. }
        | Step::MmapUnlock(_)
        | Step::FreePgtables(_)
        | Step::FinishMmu(_) => BufId::NONE,
    };
    buf.is_some().then_some(buf)
}

/// DMA_BUF_IOCTL_SYNC waits for KERNEL and WRITE before a CPU read, for READ too before a write.
fn sync_usage(access: SyncAccess) -> Usage {
    if access.write { Usage::Read } else { Usage::Write }
}

/// A step not taken yet: what [`ready`] looks at.
pub(super) struct View<'a> {
    pub(super) world: &'a World,
    pub(super) state: &'a State,
    pub(super) actor: ActorId,
}

impl View<'_> {
    fn sync_dropped(&self, via: ImporterId) -> bool {
        via.is_some() && self.world.importer(via).sync == SyncForward::Dropped
    }

    /// Whether an access would fault now and the fault handler would wait for the lock.
    pub(super) fn fault_blocked(&self, vma: VmaId, page: u8) -> bool {
        let entry = &self.state.vmas[vma.index()];
        let Some(pte) = self.world.pte(vma, page) else { return false };
        let faults = entry.mapped & (1 << page) != 0
            && entry.buf.is_some()
            // An importer's own handler knows neither the exporter's lock nor its fences.
            && !matches!(entry.reach, Reach::Shadow | Reach::SgTable)
            && !self.state.ptes[pte.index()].present();
        if faults && entry.reach == Reach::Aperture {
            return !self.lock_untaken(entry.buf) || self.state.bufs[entry.buf.index()].moving;
        }
        faults && {
            let rules = self.world.exporter_of(entry.buf);
            rules.fault == FaultLock::Locked && !self.lock_untaken(entry.buf)
                || rules.fault_wait == FaultWait::Kernel
                    && self.state.bufs[entry.buf.index()].moving
        }
    }

    /// Whether a notifier that waits for its device holds up the zapping of these pages.
    fn notifier_waits(&self, vma: VmaId, pages: PageSet) -> bool {
        // A DMA through a pin that has a notifier declares the pin as changed when it begins and ends.
        self.state.dmas.unnoted().iter().any(|dma| {
            let waits = dma.busy
                && dma.pin.is_some()
                && self.world.pins[dma.pin.index()].notifier == Notifier::Wait;
            let pte = waits.then(|| self.state.pins[dma.pin.index()].pte);
            pte.is_some_and(|pte| {
                pte.is_some() && {
                    let (at, page) = self.world.vma_of(pte);
                    at == vma && pages & (1 << page) != 0
                }
            })
        })
    }

    fn dma_ready(&self, via: Handle, dir: Dir) -> bool {
        match via {
            Handle::Pin(pin) => {
                let entry = &self.state.pins[pin.index()];
                match entry.slot {
                    Slot::None | Slot::Taking => false,
                    Slot::Invalid => {
                        let (vma, page) = self.world.vma_of(entry.pte);
                        let waits = entry.write && self.copy_waits(vma, page);
                        !waits && !self.fault_blocked(vma, page)
                    }
                    Slot::Held | Slot::Failed | Slot::Dropped => true,
                }
            }
            Handle::Sg(sg) if dir != Dir::Prefetch && self.copy_under_way(sg) => false,
            Handle::Sg(sg) => match self.state.sgs[sg.index()] {
                Slot::None => false,
                Slot::Invalid if dir != Dir::Prefetch => {
                    let attachment = self.world.attachment_of(sg);
                    let buf = self.state.attachments[attachment.index()].buf;
                    self.state.own_fence(buf, self.actor) || self.lock_free(buf)
                }
                Slot::Held | Slot::Taking | Slot::Invalid | Slot::Failed | Slot::Dropped => true,
            },
        }
    }

    /// Whether a DMA to the buffer behind `sg` has an address and has not ended: an invalidation is
    /// complete when nobody uses what it invalidates (PCIe ATS; `intel_gt_invalidate_tlbs` waits for an
    /// answer).
    fn translated(&self, sg: SgId) -> bool {
        if !self.world.has_tlb(sg) {
            return false;
        }
        let buf = self.state.attachments[self.world.attachment_of(sg).index()].buf;
        // A DMA declares all sg_tables as changed when it begins and ends.
        self.state.dmas.unnoted().iter().any(|dma| {
            let page = if let Target::Page(page) = dma.target { page } else { PageId::NONE };
            dma.busy && dma.pin.is_none() && page.is_some() && self.world.buf_of(page) == buf
        })
    }

    /// Whether a job through `sg` waits for the KERNEL fence of a copy.
    fn copy_under_way(&self, sg: SgId) -> bool {
        let id = self.world.attachment_of(sg);
        let attachment = &self.state.attachments[id.index()];
        attachment.slot == Slot::Held
            && attachment.dynamic
            && self.world.importer_of(id).kernel_fence == KernelFence::Waits
            && self.state.bufs[attachment.buf.index()].moving
    }

    /// Whether a write, or an unsharing, has to wait before it may copy what is mapped there: a
    /// notifier that waits is told first.
    fn copy_waits(&self, vma: VmaId, page: u8) -> bool {
        let entry = &self.state.vmas[vma.index()];
        let Some(pte) = self.world.pte(vma, page) else { return false };
        let pte = &self.state.ptes[pte.index()];
        !entry.shared
            && pte.present()
            && !pte.write
            && !pte.exclusive
            && self.notifier_waits(vma, PageSet::checked_shl(1, page.into()).unwrap_or(0))
    }

    /// Whether mapping moves the buffer first, which waits as a move does.
    fn migration_for_waits(&self, sg: SgId) -> bool {
        let id = self.world.attachment_of(sg);
        let buf = self.state.attachments[id.index()].buf;
        let to = Operation::Move(Placement::System);
        self.state.map_migrates(self.world, id)
            && !(self.exporter_ready(buf, ExporterStep::Wait, to)
                && self.exporter_ready(buf, ExporterStep::Zap, to))
    }

    /// Whether a migration out of CMA might have to wait for a device with a notifier.
    fn migration_waits(&self) -> bool {
        self.state.dmas.unnoted().iter().any(|dma| {
            dma.busy
                && dma.pin.is_some()
                && self.world.pins[dma.pin.index()].notifier == Notifier::Wait
                && self.world.placement(dma.frame) == Placement::Cma
        })
    }

    fn exporter_ready(&self, buf: BufId, step: ExporterStep, operation: Operation) -> bool {
        match step {
            // Who has reserved the buffer itself goes on, as `ttm_bo_validate` is called.
            ExporterStep::Lock => self.lock_free(buf),
            ExporterStep::Wait => {
                !self.state.fence_pending(buf, self.world.exporter_of(buf).wait.usage())
            }
            ExporterStep::Zap => {
                let waits = |vma| {
                    let pages = zapped_pages(self.world, self.state, buf, vma);
                    pages != 0 && self.notifier_waits(vma, pages)
                };
                !self.world.vma_ids().any(waits)
            }
            ExporterStep::WaitUnmap => {
                let mapped = |index: usize| {
                    let sg = SgId::at(index);
                    let attachment = self.world.attachment_of(sg);
                    self.state.attachments[attachment.index()].buf == buf
                        && self.state.sg_mapped(sg)
                };
                !(0..self.state.sgs.len()).any(mapped)
            }
            ExporterStep::Notify
            | ExporterStep::CheckPins
            | ExporterStep::Flush
            | ExporterStep::Reserve
            | ExporterStep::Fence
            | ExporterStep::Copy
            | ExporterStep::Signal
            | ExporterStep::Rebind
            | ExporterStep::Free
            | ExporterStep::Mark
            | ExporterStep::Unlock => {
                let _ = operation;
                true
            }
        }
    }
}

impl State {
    /// Whether `actor` has an unsignalled fence on `buf`: whatever its usage, memory stays where it
    /// is until it signals (`DMA_RESV_USAGE_BOOKKEEP`, include/linux/dma-resv.h, 6.12). Whether
    /// others wait for its writes is another matter, see [`super::HazardKind::MissedFence`].
    pub(super) fn own_fence(&self, buf: BufId, actor: ActorId) -> bool {
        self.fences
            .iter()
            .any(|fence| fence.slot == Slot::Held && fence.buf == buf && fence.actor == actor)
    }
}

impl<S: Sink> Core<'_, S> {
    pub(super) fn emit(&mut self, effect: Effect) {
        self.sink.effect(effect);
    }

    pub(super) fn hazard(&mut self, hazard: Hazard) {
        self.state.hazards |= hazard.kind.bit();
        self.emit(Effect::Hazard(hazard));
    }

    /// A page reference to `frame` was dropped: free it if it lived by references alone.
    pub(super) fn reference_dropped(&mut self, frame: FrameId) {
        use super::objects::Owner;
        let owner = self.state.frames[frame.index()].owner;
        if matches!(owner, Owner::Orphan | Owner::Anon) && self.state.references(frame) == 0 {
            self.state.push_free(self.world, frame);
            self.emit(Effect::FrameFreed(frame));
        }
    }

    /// The last reference to a buffer may be gone: release it then.
    pub(super) fn maybe_release(&mut self, buf: BufId) {
        if buf.is_none() {
            return;
        }
        let entry = &self.state.bufs[buf.index()];
        let gone = matches!(entry.life, Life::Unallocated | Life::Released);
        // Who else refers to it is asked only when no fd does: footprints rely on it.
        if gone || entry.fds > 0 || self.state.buf_references(buf) > 0 {
            return;
        }
        self.release(buf);
    }

    /// An errno that also says "nothing to undo".
    pub(super) fn fail(&mut self, step: &Step, errno: Errno) -> Reply {
        self.state.refuse(step);
        Reply::Errno(errno)
    }
}
