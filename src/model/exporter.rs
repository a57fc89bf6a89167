//! The exporter: the steps of a move, a purge and a revocation, and where frames go.
//!
//! Kernel counterparts: drivers/gpu/drm/ttm/ttm_bo.c, drivers/gpu/drm/drm_gem_shmem_helper.c
//! (`drm_gem_shmem_purge`), drivers/dma-buf/heaps/, mm/page_alloc.c (`alloc_contig_range`).
//!
//! The order of the steps is the rule's ([`super::ExporterRules`]), not this module's: each step
//! does its own part and nothing else, so that leaving one out or swapping two does what it would
//! do in a driver.
//!
//! **Locking**: `dma_resv` of the buffer, taken by `lock` and released by `unlock`. An operation
//! that fails gives back its frames and the lock.

use super::core::Core;
use super::moving::{self, Copying, FrameRole, FrameTable, PageFrames, Pinned};
use super::objects::{EMPTY_PAGE, Life, Owner, Page, Slot};
use super::operation::Operation;
use super::rules::{
    Blocks, ExporterStep, FaultPurged, ImporterMmap, MoveNotify, PagePool, Placement,
};
use super::step::{Cost, Effect, Errno, Hazard, HazardKind, Reply, Sink, Via};
use crate::units::{ActorId, AttachmentId, BufId, FrameId, PageId, SgId};

impl<S: Sink> Core<'_, S> {
    pub(super) fn exporter_step(
        &mut self,
        buf: BufId,
        step: ExporterStep,
        page: u8,
        operation: Operation,
    ) -> Reply {
        let life = || self.state.bufs[buf.index()].life;
        if let Some(life) = moving::life_after(operation, step, life) {
            self.state.bufs[buf.index()].life = life;
        }
        match step {
            ExporterStep::Lock => return self.lock(buf, operation),
            ExporterStep::Unlock => self.end_with_lock(buf),
            ExporterStep::Notify => self.notify(buf),
            ExporterStep::Zap => self.zap(buf),
            // Their waiting is in `ready`.
            ExporterStep::Wait | ExporterStep::WaitUnmap => {}
            ExporterStep::CheckPins => return self.check_pins(buf),
            ExporterStep::Flush => self.flush(buf),
            ExporterStep::Reserve => return self.reserve(buf, operation),
            ExporterStep::Fence => self.state.bufs[buf.index()].moving = true,
            ExporterStep::Copy => self.copy(buf, page),
            ExporterStep::Signal => self.copied(buf),
            ExporterStep::Rebind => self.rebind(buf),
            ExporterStep::Free => self.free(buf, operation),
            ExporterStep::Mark => self.emit(Effect::LifeChanged(buf)),
        }
        Reply::Done
    }

    fn lock(&mut self, buf: BufId, operation: Operation) -> Reply {
        if self.state.bufs[buf.index()].life != Life::Live {
            if self.world.exporter_of(buf).locks_late(operation) {
                self.abandon(buf);
            }
            return Reply::Errno(Errno::Einval);
        }
        let entry = &self.state.bufs[buf.index()];
        if entry.lock != self.actor || !entry.kept {
            self.state.bufs[buf.index()].lock = self.actor;
            self.emit(Effect::Locked(buf, true));
        }
        Reply::Done
    }

    /// The end of an operation: who had the lock before goes on with it, as the callers of
    /// `ttm_bo_validate` and `drm_gem_shmem_purge_locked` do.
    fn end_with_lock(&mut self, buf: BufId) {
        if !self.state.bufs[buf.index()].kept || self.state.bufs[buf.index()].lock != self.actor {
            self.unlock(buf);
        }
    }

    /// Release the lock, and with it the reference that its holder has.
    pub(super) fn unlock(&mut self, buf: BufId) {
        let entry = &mut self.state.bufs[buf.index()];
        if entry.lock == self.actor {
            (entry.lock, entry.kept) = (ActorId::NONE, false);
            self.emit(Effect::Locked(buf, false));
            self.maybe_release(buf);
        }
    }

    /// Undo what an operation that failed has in hand.
    pub(super) fn abandon(&mut self, buf: BufId) {
        for page in self.world.pages(buf) {
            moving::abandon(self, page);
        }
        self.copied(buf);
        self.end_with_lock(buf);
    }

    pub(super) fn notify(&mut self, buf: BufId) {
        for index in 0..self.state.attachments.len() {
            let entry = self.state.attachments[index];
            if entry.slot != Slot::Held || entry.buf != buf || !entry.dynamic {
                continue;
            }
            let attachment = AttachmentId::at(index);
            self.emit(Effect::Notified(attachment, buf));
            if self.world.importer_of(attachment).move_notify == MoveNotify::Ignored {
                continue;
            }
            if self.world.importer_of(attachment).mmap == ImporterMmap::Aperture {
                self.release_apertures(buf);
            }
            for sg in (0..self.state.sgs.len()).map(SgId::at) {
                let slot = self.state.sgs[sg.index()];
                if slot.notified() != slot && self.world.attachment_of(sg) == attachment {
                    self.state.sgs[sg.index()] = slot.notified();
                }
            }
        }
    }

    fn check_pins(&mut self, buf: BufId) -> Reply {
        let pinned_page = || {
            let frames = self.world.pages(buf).map(|page| self.state.pages[page.index()].frame);
            frames.into_iter().find(|frame| frame.is_some() && self.state.counted_pins(*frame) > 0)
        };
        let buffer_is_pinned = self.state.bufs[buf.index()].pins > 0;
        let rules = self.world.exporter_of(buf);
        let Err(pinned) = moving::check_pins(rules, buffer_is_pinned, pinned_page) else {
            return Reply::Done;
        };
        if let Pinned::Page(frame) = pinned {
            self.frame_hazard(HazardKind::PinBlocksMove, buf, frame);
        }
        self.abandon(buf);
        Reply::Errno(Errno::Ebusy)
    }

    pub(super) fn frame_hazard(&mut self, kind: HazardKind, buf: BufId, frame: FrameId) {
        let owner = self.state.frames[frame.index()].owner;
        self.hazard(Hazard {
            kind,
            actor: self.actor,
            via: Via::Exporter(buf),
            target: None,
            frame,
            owner,
            value: None,
            expected: None,
        });
    }

    pub(super) fn flush(&mut self, buf: BufId) {
        for page in self.world.pages(buf) {
            let frame = self.state.pages[page.index()].frame;
            if frame.is_some() {
                self.drop_cache(frame);
            }
        }
    }

    /// Write back a dirty line; the line stays.
    pub(super) fn write_back(&mut self, frame: FrameId) {
        let entry = &mut self.state.frames[frame.index()];
        if !entry.dirty {
            return;
        }
        let (before, value, owner) = (entry.value, entry.cache_value, entry.owner);
        entry.value = value;
        entry.dirty = false;
        self.emit(Effect::CacheWrittenBack(frame, value));
        if let Owner::Page(page) = owner
            && self.alive(super::Target::Page(page))
        {
            let expected = self.state.pages[page.index()].ghost;
            if value != expected && before == expected {
                self.hazard(Hazard {
                    kind: HazardKind::Incoherent,
                    actor: self.actor,
                    via: Via::Cache,
                    target: Some(super::Target::Page(page)),
                    frame,
                    owner,
                    value: Some(value),
                    expected: Some(expected),
                });
            }
        }
    }

    pub(super) fn drop_cache(&mut self, frame: FrameId) {
        self.write_back(frame);
        let entry = &mut self.state.frames[frame.index()];
        if entry.cached {
            entry.cached = false;
            entry.cache_value = 0;
            self.emit(Effect::CacheDropped(frame));
        }
    }

    /// Drop a line without writing it back (`dcache_inval_poc`): what only it held is lost.
    pub(super) fn invalidate(&mut self, frame: FrameId) {
        let entry = &mut self.state.frames[frame.index()];
        if !entry.cached {
            return;
        }
        let (lost, value, owner) =
            (entry.dirty.then_some(entry.cache_value), entry.value, entry.owner);
        (entry.cached, entry.dirty, entry.cache_value) = (false, false, 0);
        self.emit(Effect::CacheDropped(frame));
        if let (Some(lost), Owner::Page(page)) = (lost, owner) {
            let target = super::Target::Page(page);
            let expected = self.state.pages[page.index()].ghost;
            if self.alive(target) && lost == expected && value != expected {
                self.hazard(Hazard {
                    kind: HazardKind::Incoherent,
                    actor: self.actor,
                    via: Via::Cache,
                    target: Some(target),
                    frame,
                    owner,
                    value: Some(value),
                    expected: Some(expected),
                });
            }
        }
    }

    pub(super) fn evict_cache(&mut self, page: PageId) -> Reply {
        let frame = self.state.pages[page.index()].frame;
        if frame.is_none() || !self.state.frames[frame.index()].cached {
            return Reply::Skipped;
        }
        self.drop_cache(frame);
        Reply::Done
    }

    fn reserve(&mut self, buf: BufId, operation: Operation) -> Reply {
        let Operation::Move(dest) = operation else { return Reply::Done };
        let pages: Vec<PageId> = self.world.pages(buf).collect();
        if !moving::reserve(self, &pages, dest) {
            self.abandon(buf);
            return Reply::Errno(Errno::Enomem);
        }
        self.state.bufs[buf.index()].dest = dest;
        Reply::Done
    }

    pub(super) fn copy(&mut self, buf: BufId, page: u8) {
        let Some(page) = self.world.page(buf, page) else { return };
        match moving::copying(self, page) {
            Some(Copying::Ahead(from, to)) => {
                let value = self.state.frames[from.index()].value;
                self.state.frames[to.index()].value = value;
                self.emit(Effect::FrameCopied { from, to });
                self.check_copy(buf, page, from, value);
            }
            Some(Copying::Late(from, to)) => self.copy_late(page, from, to),
            None => {}
        }
    }

    /// A copy that runs while the buffer is its new frames already: what was written there before is
    /// overwritten.
    fn copy_late(&mut self, page: PageId, old: FrameId, new: FrameId) {
        let value = self.state.frames[old.index()].value;
        self.state.frames[new.index()].value = value;
        self.emit(Effect::FrameCopied { from: old, to: new });
        let dirty = self.state.frames[old.index()].dirty;
        self.check_filled(
            page,
            new,
            if dirty { HazardKind::Incoherent } else { HazardKind::LostWrite },
        );
    }

    /// The fence of a copy signals: whoever waited for it takes the new frames for filled.
    fn copied(&mut self, buf: BufId) {
        if !self.state.bufs[buf.index()].moving {
            return;
        }
        self.state.bufs[buf.index()].moving = false;
        for page in self.world.pages(buf) {
            let frame = self.state.pages[page.index()].frame;
            if frame.is_some() && self.state.frames[frame.index()].owner == Owner::Page(page) {
                self.check_filled(page, frame, HazardKind::LostWrite);
            }
        }
    }

    /// A page of a live buffer holds what it should, or the CPU's cache line of it does.
    pub(super) fn check_filled(&mut self, page: PageId, frame: FrameId, kind: HazardKind) {
        let expected = self.state.pages[page.index()].ghost;
        let entry = self.state.frames[frame.index()];
        let holds = entry.value == expected
            || entry.cached && entry.cache_value == expected
            || self.state.bounced(page).any(|bounce| bounce.value == expected);
        let target = super::Target::Page(page);
        if !holds && self.alive(target) {
            self.hazard(Hazard {
                kind,
                actor: self.actor,
                via: Via::Exporter(self.world.buf_of(page)),
                target: Some(target),
                frame,
                owner: entry.owner,
                value: Some(entry.value),
                expected: Some(expected),
            });
        }
    }

    pub(super) fn rebind(&mut self, buf: BufId) {
        let mut moved = false;
        for page in self.world.pages(buf) {
            if let Some((before, now)) = moving::rebind(self, page) {
                moved = true;
                self.emit(Effect::Rebound(page, now));
                self.check_rebound(page, before.unwrap_or(FrameId::NONE), now);
            }
        }
        if moved {
            let entry = &mut self.state.bufs[buf.index()];
            entry.placement = entry.dest;
        }
    }

    /// The new frame must hold what the old one did, or what was lost if that was given away.
    fn check_rebound(&mut self, page: PageId, old: FrameId, new: FrameId) {
        let expected = self.state.pages[page.index()].ghost;
        let value = self.state.frames[new.index()].value;
        let own = self.state.frames.get(old.index());
        let own = own.filter(|old| old.owner == Owner::Retired(page));
        let (before, dirty) = own.map_or((expected, false), |old| (old.cpu_value(), old.dirty));
        let lost = value != expected && before == expected;
        if lost && !self.state.copy_pending(self.world, page) {
            self.hazard(Hazard {
                kind: if dirty { HazardKind::Incoherent } else { HazardKind::LostWrite },
                actor: self.actor,
                via: Via::Exporter(self.world.buf_of(page)),
                target: Some(super::Target::Page(page)),
                frame: new,
                owner: Owner::Page(page),
                value: Some(value),
                expected: Some(expected),
            });
        }
    }

    pub(super) fn free(&mut self, buf: BufId, operation: Operation) {
        let kept = self.world.exporter_of(buf).fault_purged == FaultPurged::OldPage;
        if kept && operation == Operation::Purge && self.is_mapped(buf) {
            return self.kept(buf);
        }
        for page in self.world.pages(buf) {
            match operation {
                Operation::Move(_) => moving::free_left(self, page),
                Operation::Purge | Operation::Revoke => moving::free_all(self, page),
            }
        }
    }

    /// The last reference to a buffer was dropped: what it and its importers have goes back.
    pub(super) fn release(&mut self, buf: BufId) {
        // An importer's own backing is not the exporter's to give, but goes with the buffer.
        for page in self.world.pages(buf) {
            moving::free_all(self, page);
        }
        for page in self.world.pages(buf) {
            let shadow = self.state.pages[page.index()].shadow;
            self.state.pages[page.index()].shadow = FrameId::NONE;
            if shadow.is_some() {
                moving::put(self, shadow, page);
            }
        }
        for page in self.world.pages(buf) {
            for frame in &mut self.state.frames {
                if frame.owner == Owner::Bounce(page) {
                    frame.owner = Owner::Orphan;
                }
            }
        }
        self.state.bufs[buf.index()].life = Life::Released;
        self.emit(Effect::LifeChanged(buf));
    }

    /// The frame of a live buffer's page. One whose pages were given up without marking the
    /// buffer is filled with zeros again, as the shmem helper does: what it held is lost.
    pub(super) fn ensure_frame(&mut self, buf: BufId, page: PageId) -> Option<FrameId> {
        let frame = self.state.pages[page.index()].frame;
        if frame.is_some() {
            return Some(frame);
        }
        let placement = self.state.bufs[buf.index()].placement;
        let frame = self.state.take_frame(self.world, placement, Owner::Page(page))?;
        self.state.frames[frame.index()].value = 0;
        self.state.pages[page.index()].frame = frame;
        self.emit(Effect::FrameFilled(frame, Owner::Page(page), 0));
        self.hazard(Hazard {
            kind: HazardKind::LostWrite,
            actor: self.actor,
            via: Via::Exporter(buf),
            target: Some(super::Target::Page(page)),
            frame,
            owner: Owner::Page(page),
            value: Some(0),
            expected: None,
        });
        Some(frame)
    }

    pub(super) fn alloc(&mut self, buf: BufId) -> Reply {
        let decl = self.world.buf(buf);
        let (placement, pages) = (decl.placement, usize::from(decl.pages));
        if !matches!(self.state.bufs[buf.index()].life, Life::Unallocated | Life::Released) {
            return Reply::Errno(Errno::Einval);
        }
        if placement == Placement::Cma
            && let Err(errno) = self.make_room_in_cma(buf, pages)
        {
            return Reply::Errno(errno);
        }
        let cached = self.world.exporter_of(buf).fills_in_cache();
        if !self.state.allocate(self.world, buf, cached) {
            return Reply::Errno(Errno::Enomem);
        }
        let mut changes = 0;
        for page in self.world.pages(buf) {
            let frame = self.state.pages[page.index()].frame;
            let fill = self.world.buf(buf).fill;
            self.emit(if cached {
                Effect::FrameFilledInCache(frame, Owner::Page(page), fill)
            } else {
                Effect::FrameFilled(frame, Owner::Page(page), fill)
            });
            if !self.state.frames[frame.index()].write_combined {
                self.state.frames[frame.index()].write_combined = true;
                changes += 1;
            }
        }
        if changes > 0 {
            self.cost(Cost::AttributeChanges, changes);
            self.cost(Cost::TlbFlushes, 1);
        }
        Reply::Done
    }

    /// `alloc_contig_range`: migrate movable pages out, EBUSY when one is pinned.
    fn make_room_in_cma(&mut self, buf: BufId, pages: usize) -> Result<(), Errno> {
        let frames: Vec<FrameId> = (0..self.world.frames())
            .map(FrameId::at)
            .filter(|frame| self.world.placement(*frame) == Placement::Cma)
            .collect();
        for frame in frames {
            if self.state.free_frames(self.world, Placement::Cma) >= pages {
                break;
            }
            if !self.movable(frame) {
                // A page that was freed under a pin is nobody's, and not free.
                let orphan = self.state.frames[frame.index()].owner == Owner::Orphan;
                if orphan && self.state.counted_pins(frame) > 0 {
                    self.frame_hazard(HazardKind::PinBlocksMove, buf, frame);
                    return Err(Errno::Ebusy);
                }
                continue;
            }
            if let Err(errno) = self.migrate_out(frame) {
                if errno == Errno::Ebusy {
                    self.frame_hazard(HazardKind::PinBlocksMove, buf, frame);
                }
                return Err(errno);
            }
        }
        Ok(())
    }
}

impl<S: Sink> FrameTable for Core<'_, S> {
    type Frame = FrameId;
    type Page = PageId;

    fn frames(&self, page: PageId) -> PageFrames<FrameId> {
        let entry = self.state.pages[page.index()];
        let some = |frame: FrameId| frame.is_some().then_some(frame);
        PageFrames { now: some(entry.frame), next: some(entry.next), old: some(entry.old) }
    }

    fn set_frames(&mut self, page: PageId, frames: PageFrames<FrameId>) {
        let or_none = |frame: Option<FrameId>| frame.unwrap_or(FrameId::NONE);
        let entry = &mut self.state.pages[page.index()];
        entry.frame = or_none(frames.now);
        entry.next = or_none(frames.next);
        entry.old = or_none(frames.old);
    }

    fn clear(&mut self, page: PageId) {
        let entry = &mut self.state.pages[page.index()];
        *entry = Page { shadow: entry.shadow, ..EMPTY_PAGE };
    }

    fn held(&self, frame: FrameId, page: PageId) -> Option<FrameRole> {
        match self.state.frames[frame.index()].owner {
            Owner::Page(of) if of == page => Some(FrameRole::Now),
            Owner::Reserved(of) if of == page => Some(FrameRole::Next),
            Owner::Retired(of) | Owner::Shadow(of) if of == page => Some(FrameRole::Old),
            Owner::Page(_)
            | Owner::Reserved(_)
            | Owner::Retired(_)
            | Owner::Shadow(_)
            | Owner::Free
            | Owner::Bounce(_)
            | Owner::Anon
            | Owner::Orphan
            | Owner::Zero => None,
        }
    }

    fn hold(&mut self, frame: FrameId, page: PageId, held: FrameRole) {
        self.state.frames[frame.index()].owner = match held {
            FrameRole::Now => Owner::Page(page),
            FrameRole::Next => Owner::Reserved(page),
            FrameRole::Old => Owner::Retired(page),
        };
    }

    fn free_in(&self, placement: Placement) -> usize {
        self.state.free_frames(self.world, placement)
    }

    fn take(&mut self, placement: Placement, page: PageId) -> Option<FrameId> {
        let next = self.state.take_frame(self.world, placement, Owner::Reserved(page))?;
        self.state.frames[next.index()].value = 0;
        self.emit(Effect::FrameReserved(next, page));
        Some(next)
    }

    fn give_back(&mut self, frame: FrameId, page: PageId) {
        let buf = self.world.buf_of(page);
        let rules = self.world.exporter_of(buf);
        if rules.page_pool == PagePool::No {
            self.state.frames[frame.index()].write_combined = false;
            self.cost(Cost::AttributeChanges, 1);
            self.cost(Cost::TlbFlushes, 1);
        }
        let tail = rules.blocks == Blocks::NonCompound && self.world.page(buf, 0) != Some(page);
        let is_referenced = || !tail && self.state.references(frame) > 0;
        if moving::goes_free(rules.recycle, self.world.placement(frame), is_referenced) {
            self.push_free(frame);
            return;
        }
        self.state.frames[frame.index()].owner = Owner::Orphan;
        self.emit(Effect::FrameOrphaned(frame));
        let pins = self.state.counted_pins(frame);
        if pins > 0 {
            self.frame_hazard(HazardKind::OrphanPin, buf, frame);
        }
        // What mmu_gather holds is on its way out.
        if self.state.references(frame) > pins + self.state.gathered(frame) {
            self.frame_hazard(HazardKind::OrphanMapping, buf, frame);
        }
    }

    fn push_free(&mut self, frame: FrameId) {
        self.state.push_free(self.world, frame);
        self.emit(Effect::FrameFreed(frame));
    }

    /// "BUG: Bad page state in process".
    fn bad_page_state(&mut self, frame: FrameId, page: PageId) {
        self.frame_hazard(HazardKind::KernelBug, self.world.buf_of(page), frame);
    }

    fn leaves(&mut self, page: PageId, now: Option<FrameId>) {
        let late = self.state.copy_pending(self.world, page);
        let own = now.filter(|&now| self.held(now, page) == Some(FrameRole::Now));
        if let Some(now) = own.filter(|_| late) {
            // From here on nothing will fill it any more.
            self.check_filled(page, now, HazardKind::LostWrite);
        }
    }
}
