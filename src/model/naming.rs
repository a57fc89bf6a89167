//! Other names for actors and what is theirs: a state or a step as it would be had they been named so.
//!
//! Buffers, pages and frames keep their names; so do the values that are there without anybody's step,
//! which are zero and what a buffer is filled with. Pages of a buffer can't be renamed: the allocator
//! tells them apart, since a move gives page 0 the frame that was given back last, and some other
//! process may still look at that frame.

use super::objects::{Detached, Dma, Fence, MmapLock, Pin, Pte, Target, Translation, Vma};
use super::state::State;
use super::step::{Dir, Handle, Mmap, Step};
use super::table::Table;
use super::world::World;
use crate::units::{
    ActorId, AttachmentId, FenceId, ImporterId, MAX_PAGES, PinId, PteId, SgId, VmaId,
};

/// What can have another name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Named {
    /// [`ActorId`].
    Actor,
    /// [`VmaId`], and the page table slots of it.
    Vma,
    /// [`PinId`].
    Pin,
    /// [`AttachmentId`].
    Attachment,
    /// [`SgId`], and its addresses.
    Sg,
    /// [`FenceId`].
    Fence,
    /// [`ImporterId`].
    Importer,
    /// What a page holds. Nothing but whether two are equal depends on it.
    Value,
}

const KINDS: usize = 8;

/// New names by old ones. What is nothing stays nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Naming {
    names: [[u8; 256]; KINDS],
}

impl Naming {
    /// Everything keeps its name.
    pub const SAME: Self = {
        let mut same = [0; 256];
        let mut name = 0;
        while name < u8::MAX {
            same[name as usize] = name;
            name += 1;
        }
        same[u8::MAX as usize] = u8::MAX;
        Self { names: [same; KINDS] }
    };

    /// Call `old` by the name `new`. Something else should get the name `old`.
    pub const fn set(&mut self, kind: Named, old: u8, new: u8) {
        self.names[kind as usize][old as usize] = new;
    }

    /// The new name.
    #[must_use]
    pub const fn of(&self, kind: Named, old: u8) -> u8 {
        self.names[kind as usize][old as usize]
    }

    const fn actor(&self, old: ActorId) -> ActorId {
        ActorId(self.of(Named::Actor, old.0))
    }

    const fn vma(&self, old: VmaId) -> VmaId {
        VmaId(self.of(Named::Vma, old.0))
    }

    fn pte(&self, world: &World, old: PteId) -> PteId {
        if old.is_none() {
            return old;
        }
        let (vma, page) = world.vma_of(old);
        world.pte(self.vma(vma), page).unwrap_or(PteId::NONE)
    }

    fn target(&self, world: &World, old: Target) -> Target {
        match old {
            Target::Page(page) => Target::Page(page),
            Target::Va(pte) => Target::Va(self.pte(world, pte)),
        }
    }

    fn actors(&self, old: u16) -> u16 {
        let named = |actor: u8| 1 << self.of(Named::Actor, actor);
        (0..16).filter(|actor| old >> actor & 1 != 0).fold(0, |set, actor| set | named(actor))
    }

    /// The step with new names.
    #[must_use]
    pub fn step(&self, step: &Step) -> Step {
        let mut named = *step;
        each_name(&mut named, &mut |kind, name| *name = self.of(kind, *name));
        named
    }

    /// Makes `to` what `from` is with new names. What changes places must be alike in `world`:
    /// [`Self::suits`].
    pub fn state(&self, world: &World, from: &State, to: &mut State) {
        to.clone_from(from);
        // What is not named here has no names in it: buffers, pages and frames alone.
        let State {
            frames: _,
            pages: _,
            bufs: _,
            vmas,
            ptes,
            pins,
            attachments,
            sgs,
            sg_frames,
            tlb,
            fences,
            dmas,
            mms,
            tickets,
            translations,
            detached,
            hazards: _,
            warned: _,
            lists: _,
            mentions: _,
        } = from;
        let value = |old: &mut u8| *old = self.of(Named::Value, *old);
        for frame in to.frames.unnoted_mut() {
            [&mut frame.value, &mut frame.cache_value].into_iter().for_each(value);
        }
        to.pages.unnoted_mut().iter_mut().for_each(|page| value(&mut page.ghost));
        for buf in to.bufs.unnoted_mut() {
            (buf.lock, buf.vma_pointer) = (self.actor(buf.lock), self.vma(buf.vma_pointer));
        }
        self.mappings(world, (vmas, ptes), to);
        self.unmaps(world, (translations, detached), to);
        self.moved(Named::Pin, pins, &mut to.pins, |pin| {
            let (pte, target) = (self.pte(world, pin.pte), self.target(world, pin.target));
            Pin { pte, target, ..pin }
        });
        self.moved(Named::Attachment, attachments, &mut to.attachments, |attachment| attachment);
        self.moved(Named::Sg, sgs, &mut to.sgs, |slot| slot);
        for (old, decl) in (0u8..).zip(&world.sgs) {
            let new = world.sgs[usize::from(self.of(Named::Sg, old))].first;
            for (to, from) in [(&mut to.sg_frames, sg_frames), (&mut to.tlb, tlb)] {
                if let Some(from) = from.unnoted().get(decl.first..decl.first + MAX_PAGES) {
                    to.unnoted_mut()[new..new + MAX_PAGES].copy_from_slice(from);
                }
            }
        }
        self.moved(Named::Fence, fences, &mut to.fences, |fence| Fence {
            actor: self.actor(fence.actor),
            ..fence
        });
        self.moved(Named::Actor, dmas, &mut to.dmas, |dma| {
            let pin = PinId(self.of(Named::Pin, dma.pin.0));
            Dma { target: self.target(world, dma.target), pin, ..dma }
        });
        self.moved(Named::Actor, tickets, &mut to.tickets, |ticket| ticket);
        self.moved(
            Named::Actor,
            mms,
            &mut to.mms,
            |MmapLock { readers, faults, writer, queued }| {
                let [readers, faults, queued] =
                    [readers, faults, queued].map(|set| self.actors(set));
                MmapLock { readers, faults, writer: self.actor(writer), queued }
            },
        );
    }

    /// VMAs and their entries.
    fn mappings(&self, world: &World, (vmas, ptes): (&Table<Vma>, &Table<Pte>), to: &mut State) {
        for vma in world.vma_ids() {
            let new = self.vma(vma);
            to.vmas.unnoted_mut()[new.index()] = vmas.unnoted()[vma.index()];
            for page in 0..world.vma_pages(vma) {
                if let (Some(old), Some(new)) = (world.pte(vma, page), world.pte(new, page)) {
                    let pte = ptes.unnoted()[old.index()];
                    let ghost = self.of(Named::Value, pte.ghost);
                    to.ptes.unnoted_mut()[new.index()] = Pte { ghost, ..pte };
                }
            }
        }
    }

    /// What TLBs have, and what munmaps under way have detached.
    fn unmaps(
        &self,
        world: &World,
        (translations, detached): (&Table<Translation>, &Table<Detached>),
        to: &mut State,
    ) {
        for (index, entry) in translations.unnoted().iter().enumerate() {
            let [cpus, writers] = [entry.cpus, entry.writers].map(|set| self.actors(set));
            let new = self.pte(world, PteId::at(index));
            to.translations.unnoted_mut()[new.index()] = Translation { cpus, writers, ..*entry };
        }
        self.moved(Named::Vma, detached, &mut to.detached, |detached| detached);
    }

    /// The rows of a table in their new places, with new names in them.
    fn moved<T: Copy>(
        &self,
        kind: Named,
        from: &Table<T>,
        to: &mut Table<T>,
        named: impl Fn(T) -> T,
    ) {
        for (old, row) in (0u8..).zip(from.unnoted()) {
            to.unnoted_mut()[usize::from(self.of(kind, old))] = named(*row);
        }
    }

    /// Whether what changes places is declared alike.
    #[must_use]
    pub fn suits(&self, world: &World) -> bool {
        let importer =
            |old: ImporterId| world.importers.get(usize::from(self.of(Named::Importer, old.0)));
        let importers = (0..world.importers.len()).map(ImporterId::at);
        let vmas = world.vma_ids().all(|old| {
            let new = self.vma(old);
            world.vmas.get(new.index()).is_some() && {
                let (one, other) = (world.vma_shape(old), world.vma_shape(new));
                one == other && self.actor(world.mm_of(old)) == world.mm_of(new)
            }
        });
        let pins = (0u8..).zip(&world.pins).all(|(old, decl)| {
            let new = world.pins.get(usize::from(self.of(Named::Pin, old)));
            new.is_some_and(|new| (new.notifier, new.vector) == (decl.notifier, decl.vector))
        });
        let attachments = (0u8..).zip(&world.attachments).all(|(old, decl)| {
            let new = world.attachments.get(usize::from(self.of(Named::Attachment, old)));
            new.is_some_and(|new| new.importer.0 == self.of(Named::Importer, decl.importer.0))
        });
        let sgs = (0u8..).zip(&world.sgs).all(|(old, decl)| {
            let new = world.sgs.get(usize::from(self.of(Named::Sg, old)));
            let named = self.of(Named::Attachment, decl.attachment.0);
            new.is_some_and(|new| new.attachment.0 == named)
        });
        let rules = importers.into_iter().all(|old| importer(old) == Some(world.importer(old)));
        let fills = world.bufs.iter().map(|buf| buf.fill).chain([0]);
        let values = fills.into_iter().all(|fill| self.of(Named::Value, fill) == fill);
        // Of several bounce pages of one page the last that is copied back stays, and an importer's own
        // fault handler shows the first sg_table: their order matters there.
        let actors = (0..world.actors()).map(ActorId::at).collect::<Vec<_>>();
        let threads = actors
            .into_iter()
            .all(|actor| self.actor(world.mm(actor)) == world.mm(self.actor(actor)));
        let are_ordered = world.bounces() || world.bypasses() || world.apertures();
        let same = (0u8..).take(world.sgs.len()).all(|sg| self.of(Named::Sg, sg) == sg);
        vmas && threads && pins && attachments && sgs && rules && values && (same || !are_ordered)
    }
}

/// Every name of something that can have another, in one order for steps of one kind.
pub fn each_name(step: &mut Step, visit: &mut dyn FnMut(Named, &mut u8)) {
    let mut vma = |VmaId(name): &mut VmaId| visit(Named::Vma, name);
    match step {
        Step::Mmap(Mmap { vma: to, via, .. }) => {
            vma(to);
            visit(Named::Importer, &mut via.0);
        }
        Step::Munmap { vma: of, .. }
        | Step::Mprotect { vma: of, .. }
        | Step::Load { vma: of, .. }
        | Step::FreePgtables(of)
        | Step::FinishMmu(of) => vma(of),
        Step::Store { vma: of, value, .. } => {
            vma(of);
            visit(Named::Value, value);
        }
        Step::Mremap { to, from } => [to, from].into_iter().for_each(vma),
        Step::GupFast { pin, vma: of, .. }
        | Step::GupSlow { pin, vma: of, .. }
        | Step::FollowPfn { pin, vma: of, .. } => {
            vma(of);
            visit(Named::Pin, &mut pin.0);
        }
        Step::FrameVectorCheck { first, importer, .. } => {
            visit(Named::Pin, &mut first.0);
            visit(Named::Importer, &mut importer.0);
        }
        Step::Unpin(PinId(pin)) => visit(Named::Pin, pin),
        Step::Attach { attachment, via, .. } => {
            vma(via);
            visit(Named::Attachment, &mut attachment.0);
        }
        Step::Detach(AttachmentId(attachment))
        | Step::DmaBufPin(AttachmentId(attachment))
        | Step::DmaBufUnpin(AttachmentId(attachment)) => visit(Named::Attachment, attachment),
        Step::Map(SgId(sg)) | Step::Unmap(SgId(sg)) | Step::FlushTlb(SgId(sg)) => {
            visit(Named::Sg, sg);
        }
        Step::Validate { fence, sg } | Step::Submit { fence, sg, .. } => {
            visit(Named::Fence, &mut fence.0);
            visit(Named::Sg, &mut sg.0);
        }
        Step::Signal(FenceId(fence)) => visit(Named::Fence, fence),
        Step::DmaStart { via, dir, .. } | Step::DmaFinish { via, dir, .. } => {
            match via {
                Handle::Pin(PinId(pin)) => visit(Named::Pin, pin),
                Handle::Sg(SgId(sg)) => visit(Named::Sg, sg),
            }
            if let Dir::Write(value) = dir {
                visit(Named::Value, value);
            }
        }
        Step::SyncStart { via, .. } | Step::SyncEnd { via, .. } => {
            visit(Named::Importer, &mut via.0);
        }
        Step::Fork { child, parent_first, child_first, .. } => {
            [parent_first, child_first].into_iter().for_each(vma);
            visit(Named::Actor, &mut child.0);
        }
        Step::MmapLock { mm, .. } | Step::MmapUnlock(mm) => visit(Named::Actor, &mut mm.0),
        Step::Exporter { .. }
        | Step::Alloc(_)
        | Step::Close(_)
        | Step::EvictCache(_)
        | Step::ResvLock(_)
        | Step::ResvUnlock(_)
        | Step::DrawTicket
        | Step::LockAll(_) => {}
    }
}
