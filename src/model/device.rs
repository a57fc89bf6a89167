//! Importers and their devices: attachments, sg_tables, fences and DMA in two halves.
//!
//! Kernel counterparts: drivers/dma-buf/dma-buf.c (`dma_buf_dynamic_attach`,
//! `dma_buf_map_attachment`, `dma_buf_pin`), drivers/dma-buf/dma-resv.c, read from 6.12.
//!
//! ```text
//!            map                    move_notify (handled)
//! None ----------------> Held ------------------------------> Invalid
//!   `--ENODEV--> Failed   ^-- map again under the lock (Submit, DmaStart) --'
//!                         `--unmap--> Dropped <--unmap-- (Invalid)
//! ```
//!
//! **Differs from Linux**: a device has one DMA in flight; fences of one actor signal in the order
//! of its steps; signalling takes no lock and is one step.

use super::core::Core;
use super::objects::{Attachment, Dma, Fence, Life, Owner, Slot, Target};
use super::rules::{Bus, CpuSync, ImporterMmap, IotlbFlush, Placement, SyncForward, Usage};
use super::step::{
    Dir, Effect, Errno, Handle, Hazard, HazardKind, Reply, Sink, Step, SyncAccess, Via,
};
use crate::units::{
    AttachmentId, BufId, FenceId, FrameId, ImporterId, MAX_PAGES, PageId, PinId, SgId, VmaId,
};

impl<S: Sink> Core<'_, S> {
    pub(super) fn attach(
        &mut self,
        attachment: AttachmentId,
        buf: BufId,
        via: VmaId,
        dynamic: bool,
    ) -> Reply {
        let refused = Step::Attach { attachment, buf, via, dynamic };
        let buf =
            if buf.is_none() && via.is_some() { self.state.vmas[via.index()].buf } else { buf };
        if buf.is_none() {
            return self.fail(&refused, Errno::Einval);
        }
        if self.state.bufs[buf.index()].life != Life::Live {
            return self.fail(&refused, Errno::Enodev);
        }
        self.state.attachments[attachment.index()] =
            Attachment { slot: Slot::Held, buf, dynamic, pins: 0 };
        Reply::Done
    }

    pub(super) fn detach(&mut self, attachment: AttachmentId) -> Reply {
        let entry = self.state.attachments[attachment.index()];
        if entry.slot != Slot::Held {
            return Reply::Skipped;
        }
        self.state.attachments[attachment.index()].slot = Slot::Dropped;
        let pins = &mut self.state.bufs[entry.buf.index()].pins;
        *pins = pins.saturating_sub(entry.pins);
        self.state.attachments[attachment.index()].pins = 0;
        self.maybe_release(entry.buf);
        Reply::Done
    }

    pub(super) fn map(&mut self, sg: SgId) -> Reply {
        let refused = Step::Map(sg);
        let id = self.world.attachment_of(sg);
        let entry = self.state.attachments[id.index()];
        if entry.slot != Slot::Held {
            self.state.refuse(&refused);
            return Reply::Skipped;
        }
        if self.state.bufs[entry.buf.index()].life == Life::Live
            && let Err(errno) = self.bring_into_reach(id, entry.buf)
        {
            return self.fail(&refused, errno);
        }
        if self.state.bufs[entry.buf.index()].life != Life::Live || !self.fill_sg(sg, entry.buf) {
            return self.fail(&refused, Errno::Enodev);
        }
        if !entry.dynamic {
            self.dma_buf_pin(id, true);
        }
        Reply::Done
    }

    /// Fill an sg_table with the addresses of now.
    fn fill_sg(&mut self, sg: SgId, buf: BufId) -> bool {
        let first = self.world.sgs[sg.index()].first;
        let bounces = self.bounces(sg);
        if bounces
            && self.state.free_frames(self.world, Placement::System) < self.world.pages(buf).count()
        {
            return false;
        }
        for (index, page) in self.world.pages(buf).enumerate() {
            let Some(frame) = self.ensure_frame(buf, page) else { return false };
            let reached = if bounces { self.bounce_page(page, frame) } else { Some(frame) };
            let Some(reached) = reached else { return false };
            self.stays_cached(sg, index, reached);
            self.state.sg_frames[first + index] = reached;
        }
        self.state.sgs[sg.index()] = Slot::Held;
        self.emit(Effect::SgMapped(sg));
        true
    }

    /// An address goes out of the device's page tables, or becomes another: its TLB has it still, until
    /// it is flushed.
    fn stays_cached(&mut self, sg: SgId, index: usize, next: FrameId) {
        let at = self.world.sgs[sg.index()].first + index;
        let was = self.state.sg_frames[at];
        let mapped = self.state.sg_mapped(sg);
        if self.world.has_tlb(sg)
            && mapped
            && was.is_some()
            && was != next
            && self.state.tlb[at].is_none()
        {
            self.state.tlb[at] = was;
        }
    }

    /// `intel_gt_invalidate_tlbs`, `amdgpu_gmc_flush_gpu_tlb`.
    pub(super) fn flush_tlb(&mut self, sg: SgId) -> Reply {
        if !self.world.has_tlb(sg) {
            return Reply::Skipped;
        }
        let first = self.world.sgs[sg.index()].first;
        for at in first..first + MAX_PAGES {
            self.state.tlb[at] = FrameId::NONE;
        }
        self.emit(Effect::TlbFlushed(sg));
        Reply::Done
    }

    /// Whether the device behind `sg` reaches bounce pages.
    fn bounces(&self, sg: SgId) -> bool {
        let id = self.world.attachment_of(sg);
        !self.state.attachments[id.index()].dynamic && self.world.importer_of(id).bounce.yes()
    }

    /// `swiotlb_map`: a bounce page with what `frame` holds.
    fn bounce_page(&mut self, page: PageId, frame: FrameId) -> Option<FrameId> {
        let owner = Owner::Bounce(page);
        let bounce = self.state.take_frame(self.world, Placement::System, owner)?;
        let value = self.state.frames[frame.index()].value;
        self.state.frames[bounce.index()].value = value;
        self.emit(Effect::FrameFilled(bounce, owner, value));
        Some(bounce)
    }

    /// `swiotlb_bounce`: copy between a page and the bounce page of a mapped `sg`, to the device or back.
    fn bounce(&mut self, sg: SgId, index: usize, page: PageId, to_device: bool) {
        let home = self.state.pages[page.index()].frame;
        let bounce = self.state.sg_frames[self.world.sgs[sg.index()].first + index];
        if home.is_none()
            || bounce.is_none()
            || self.state.frames[bounce.index()].owner != Owner::Bounce(page)
        {
            return;
        }
        let (from, to) = if to_device { (home, bounce) } else { (bounce, home) };
        let before = self.state.frames[to.index()].value;
        let value = self.state.frames[from.index()].value;
        self.state.frames[to.index()].value = value;
        self.emit(Effect::FrameCopied { from, to });
        if before == self.state.pages[page.index()].ghost {
            self.check_filled(page, home, HazardKind::Incoherent);
        }
    }

    /// `dma_sync_sgtable_for_device` or `_for_cpu`, of every mapped attachment that bounces.
    fn bounce_all(&mut self, buf: BufId, to_device: bool) {
        for sg in (0..self.state.sgs.len()).map(SgId::at) {
            let attachment = self.world.attachment_of(sg);
            let ours = self.world.importer_of(attachment).bounce.yes()
                && self.state.sg_mapped(sg)
                && self.state.attachments[attachment.index()].buf == buf;
            if ours {
                for (index, page) in self.world.pages(buf).enumerate() {
                    self.bounce(sg, index, page, to_device);
                }
            }
        }
    }

    /// Unmapping copies back and gives the bounce pages back.
    fn unbounce(&mut self, sg: SgId) {
        let id = self.world.attachment_of(sg);
        let buf = self.state.attachments[id.index()].buf;
        let first = self.world.sgs[sg.index()].first;
        for (index, page) in self.world.pages(buf).enumerate() {
            self.bounce(sg, index, page, false);
            let bounce = self.state.sg_frames[first + index];
            let own = self.state.frames.get(bounce.index());
            if own.is_some_and(|own| own.owner == Owner::Bounce(page)) {
                self.state.push_free(self.world, bounce);
                self.emit(Effect::FrameFreed(bounce));
            }
        }
    }

    pub(super) fn unmap(&mut self, sg: SgId) -> Reply {
        if !self.state.sg_mapped(sg) {
            return Reply::Skipped;
        }
        if self.bounces(sg) {
            self.unbounce(sg);
        }
        for index in 0..MAX_PAGES {
            self.stays_cached(sg, index, FrameId::NONE);
        }
        self.state.sgs[sg.index()] = Slot::Dropped;
        let id = self.world.attachment_of(sg);
        if self.world.importer_of(id).mmap == ImporterMmap::Aperture {
            self.release_apertures(self.state.attachments[id.index()].buf);
        }
        if !self.state.attachments[id.index()].dynamic {
            self.dma_buf_pin(id, false);
        }
        self.emit(Effect::SgUnmapped(sg));
        Reply::Done
    }

    pub(super) fn dma_buf_pin(&mut self, attachment: AttachmentId, pin: bool) -> Reply {
        let entry = &mut self.state.attachments[attachment.index()];
        if entry.slot != Slot::Held || (!pin && entry.pins == 0) {
            return Reply::Skipped;
        }
        let buf = &mut self.state.bufs[entry.buf.index()];
        if pin {
            entry.pins = entry.pins.saturating_add(1);
            buf.pins = buf.pins.saturating_add(1);
        } else {
            entry.pins -= 1;
            buf.pins = buf.pins.saturating_sub(1);
        }
        Reply::Done
    }

    pub(super) fn validate(&mut self, fence: FenceId, sg: SgId) -> Reply {
        let refused = Step::Validate { fence, sg };
        let buf = self.state.attachments[self.world.attachment_of(sg).index()].buf;
        if !self.state.sg_mapped(sg) {
            self.state.refuse(&refused);
            return Reply::Skipped;
        }
        if self.state.sgs[sg.index()] == Slot::Invalid
            && let Err(errno) = self.remap(sg, buf)
        {
            return self.fail(&refused, errno);
        }
        // Who has reserved the buffer by itself keeps it: the fence is added with the lock held
        // (`dma_resv_assert_held` in `dma_resv_add_fence`, drivers/dma-buf/dma-resv.c, 6.12).
        if self.state.bufs[buf.index()].lock != self.actor {
            self.state.bufs[buf.index()].lock = self.actor;
            self.state.fence_mut(fence).slot = Slot::Taking;
            self.emit(Effect::Locked(buf, true));
        }
        Reply::Done
    }

    pub(super) fn submit(&mut self, fence: FenceId, sg: SgId, usage: Usage, writes: bool) -> Reply {
        let buf = self.state.attachments[self.world.attachment_of(sg).index()].buf;
        if buf.is_none() {
            return Reply::Skipped;
        }
        let actor = self.actor;
        let entry = self.state.fence_mut(fence);
        let took_the_lock = entry.slot == Slot::Taking;
        *entry = Fence { slot: Slot::Held, buf, usage, actor, writes };
        if took_the_lock {
            self.unlock(buf);
        }
        Reply::Done
    }

    /// Map again what `move_notify` declared invalid; under the lock. The old mapping goes first
    /// ("destroyed and re-created", `struct dma_buf_attach_ops`, include/linux/dma-buf.h, 6.12), so
    /// that what can't be mapped again is not mapped any more.
    pub(super) fn remap(&mut self, sg: SgId, buf: BufId) -> Result<(), Errno> {
        if self.state.bufs[buf.index()].life != Life::Live || !self.fill_sg(sg, buf) {
            self.state.sgs[sg.index()] = Slot::Failed;
            return Err(Errno::Enodev);
        }
        Ok(())
    }

    pub(super) fn signal(&mut self, fence: FenceId) -> Reply {
        let entry = self.state.fence_mut(fence);
        if entry.slot != Slot::Held {
            return Reply::Skipped;
        }
        entry.slot = Slot::Dropped;
        Reply::Done
    }

    pub(super) fn dma_start(&mut self, via: Handle, page: u8, dir: Dir) -> Reply {
        let (frame, target, pin) = match via {
            Handle::Pin(pin) => match self.translate_pin(pin) {
                Ok((frame, target)) => {
                    self.check_pin_write(pin, frame, target, dir);
                    (frame, target, pin)
                }
                Err(reply) => return reply,
            },
            Handle::Sg(sg) => match self.translate_sg(sg, page, dir) {
                Ok((frame, target)) => (frame, target, PinId::NONE),
                Err(reply) => return reply,
            },
        };
        self.state.dmas[self.actor.index()] = Dma { busy: true, frame, target, pin };
        self.emit(Effect::DmaStarted(via, page, frame, dir));
        Reply::Done
    }

    fn translate_pin(&mut self, pin: PinId) -> Result<(FrameId, Target), Reply> {
        let entry = self.state.pins[pin.index()];
        match entry.slot {
            Slot::Held => {}
            Slot::Invalid => return Err(self.revalidate(pin)),
            Slot::None | Slot::Taking | Slot::Failed | Slot::Dropped => return Err(Reply::Skipped),
        }
        let target = self.pin_target(pin);
        let via = Via::Device(Handle::Pin(pin), 0);
        if entry.counted {
            return Ok((entry.frame, target));
        }
        match self.world.host.bus {
            Bus::Identity => Ok((entry.frame, target)),
            Bus::Offset => Ok((self.neighbour(entry.frame), target)),
            Bus::Iommu => {
                self.iommu_fault(via, target, entry.frame);
                Err(Reply::Errno(Errno::Efault))
            }
        }
    }

    /// A device that writes through a pin taken for reading: nobody marks the page dirty, copies it
    /// or asked whether the process may write it (CVE-2022-22706, Mali).
    fn check_pin_write(&mut self, pin: PinId, frame: FrameId, target: Target, dir: Dir) {
        let Dir::Write(value) = dir else { return };
        if self.state.pins[pin.index()].write {
            return;
        }
        // For the report alone: the hazard is one whoever has the frame.
        let owner = self.state.frames.unnoted()[frame.index()].owner;
        self.hazard(Hazard {
            kind: HazardKind::WriteThroughReadPin,
            actor: self.actor,
            via: Via::Device(Handle::Pin(pin), 0),
            target: Some(target),
            frame,
            owner,
            value: Some(value),
            expected: None,
        });
    }

    /// The frame that a bus with an offset reaches for the address of `frame`.
    fn neighbour(&self, frame: FrameId) -> FrameId {
        let placement = self.world.placement(frame);
        let same: Vec<FrameId> = (0..self.world.frames())
            .map(FrameId::at)
            .filter(|other| *other != self.world.zero && self.world.placement(*other) == placement)
            .collect();
        let at = same.iter().position(|other| *other == frame).unwrap_or(0);
        same[(at + 1) % same.len()]
    }

    fn translate_sg(&mut self, sg: SgId, page: u8, dir: Dir) -> Result<(FrameId, Target), Reply> {
        let attachment = self.state.attachments[self.world.attachment_of(sg).index()];
        let slot = self.state.sgs[sg.index()];
        let via = Via::Device(Handle::Sg(sg), page);
        let Some(target) = self.world.page(attachment.buf, page).map(Target::Page) else {
            return Err(Reply::Skipped);
        };
        let at = self.world.sgs[sg.index()].first + usize::from(page);
        let mapped = self.state.sg_frames[at];
        let has_tlb = self.world.has_tlb(sg);
        let cached = if has_tlb { self.state.tlb[at] } else { FrameId::NONE };
        let frame = if cached.is_some() { cached } else { mapped };
        if frame.is_none() || matches!(slot, Slot::None | Slot::Failed) {
            return Err(Reply::Skipped);
        }
        // Until the IOTLB is flushed the device reaches what was there.
        let forgotten = self.world.host.iotlb_flush == IotlbFlush::Strict
            && self.world.host.bus == Bus::Iommu
            || has_tlb && cached.is_none();
        if slot == Slot::Dropped && forgotten {
            self.iommu_fault(via, target, frame);
            return Err(Reply::Errno(Errno::Efault));
        }
        if self.state.is_out_of_reach(self.world, self.world.attachment_of(sg))
            && self.world.placement(frame) == Placement::Vram
        {
            self.iommu_fault(via, target, frame);
            return Err(Reply::Errno(Errno::Efault));
        }
        let fenced = self.state.own_fence(attachment.buf, self.actor);
        if dir != Dir::Prefetch {
            if slot == Slot::Invalid && !fenced {
                return Err(match self.remap(sg, attachment.buf) {
                    Ok(()) => Reply::Again,
                    Err(errno) => Reply::Errno(errno),
                });
            }
            // What is pinned does not move, and needs no fence for that (dma_buf_pin).
            if attachment.dynamic && attachment.pins == 0 && !fenced {
                let owner = self.state.frames[frame.index()].owner;
                self.hazard(Hazard {
                    kind: HazardKind::UnfencedAccess,
                    actor: self.actor,
                    via,
                    target: Some(target),
                    frame,
                    owner,
                    value: None,
                    expected: None,
                });
            }
        }
        Ok((frame, target))
    }

    fn iommu_fault(&mut self, via: Via, target: Target, frame: FrameId) {
        // For the report alone: the fault is one whoever has the frame.
        let owner = self.state.frames.unnoted()[frame.index()].owner;
        self.hazard(Hazard {
            kind: HazardKind::IommuFault,
            actor: self.actor,
            via,
            target: Some(target),
            frame,
            owner,
            value: None,
            expected: None,
        });
    }

    pub(super) fn dma_finish(&mut self, via: Handle, page: u8, dir: Dir) -> Reply {
        let dma = self.state.dmas[self.actor.index()];
        if !dma.busy {
            return Reply::Skipped;
        }
        self.state.dmas[self.actor.index()] = Dma::IDLE;
        let through = Via::Device(via, page);
        let memory = &mut self.state.frames[dma.frame.index()].value;
        match dir {
            Dir::Write(value) => {
                *memory = value;
                self.emit(Effect::DmaFinished(via, page, dma.frame, dir, value));
                self.check_write(dma.frame, dma.target, through, value);
                Reply::Done
            }
            Dir::Read | Dir::Prefetch => {
                let value = *memory;
                let discarded = dir == Dir::Prefetch;
                self.emit(Effect::DmaFinished(via, page, dma.frame, dir, value));
                self.check_read(dma.frame, dma.target, through, value, discarded);
                if discarded { Reply::Done } else { Reply::Value(value) }
            }
        }
    }

    pub(super) fn sync_start(&mut self, buf: BufId, access: SyncAccess, via: ImporterId) -> Reply {
        if via.is_some() && self.world.importer(via).sync == SyncForward::Dropped {
            return Reply::Done;
        }
        self.check_fences(buf);
        let first = !self.state.bufs[buf.index()].begun;
        let rule = self.world.exporter_of(buf).begin;
        if rule == CpuSync::Map {
            self.state.bufs[buf.index()].begun = true;
        }
        self.cpu_sync(buf, access, rule, first);
        Reply::Done
    }

    pub(super) fn sync_end(&mut self, buf: BufId, access: SyncAccess, via: ImporterId) -> Reply {
        let dropped = via.is_some() && self.world.importer(via).sync == SyncForward::Dropped;
        if !dropped {
            let first = !self.state.bufs[buf.index()].begun;
            self.cpu_sync(buf, access, self.world.exporter_of(buf).end, first);
        }
        Reply::Done
    }

    /// What `begin_cpu_access` or `end_cpu_access` does to the buffer's cache lines.
    fn cpu_sync(&mut self, buf: BufId, access: SyncAccess, rule: CpuSync, first: bool) {
        let (to_device, to_cpu) = match rule {
            CpuSync::Clean => (access.write, false),
            CpuSync::Invalidate => (false, access.read),
            CpuSync::Map => (first && access.write, !first && access.read),
            CpuSync::Nothing => (false, false),
        };
        self.cache_sync(buf, access, rule, first);
        if to_device || to_cpu {
            self.bounce_all(buf, to_device);
        }
    }

    /// The CPU's cache lines alone.
    fn cache_sync(&mut self, buf: BufId, access: SyncAccess, rule: CpuSync, first: bool) {
        let (clean, invalidate) = match rule {
            CpuSync::Clean => (true, false),
            CpuSync::Invalidate => (false, true),
            CpuSync::Map => (first, !first),
            CpuSync::Nothing => (false, false),
        };
        for page in self.world.pages(buf) {
            let frame = self.state.pages[page.index()].frame;
            if frame.is_none() {
                continue;
            }
            if clean && access.write {
                self.write_back(frame);
            } else if invalidate && access.read {
                self.invalidate(frame);
            }
        }
    }

    /// SYNC relies on implicit sync: it waits for KERNEL and WRITE (for READ, too, before it
    /// writes). A writer that put its fence in the BOOKKEEP slot is not waited for.
    fn check_fences(&mut self, buf: BufId) {
        let missed = |fence: &Fence| {
            fence.slot == Slot::Held
                && fence.buf == buf
                && fence.writes
                && fence.usage == Usage::Bookkeep
                && fence.actor != self.actor
        };
        let Some(frame) = self.world.page(buf, 0).map(|page| self.state.pages[page.index()].frame)
        else {
            return;
        };
        if frame.is_some() && self.state.fences.iter().any(missed) {
            self.hazard(Hazard {
                kind: HazardKind::MissedFence,
                actor: self.actor,
                via: Via::Exporter(buf),
                target: self.world.page(buf, 0).map(Target::Page),
                frame,
                owner: self.state.frames[frame.index()].owner,
                value: None,
                expected: None,
            });
        }
    }
}
