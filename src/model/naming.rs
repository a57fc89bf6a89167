//! Other names for actors and what is theirs: a state or a step as it would be had they been named so.
//!
//! Buffers, pages and frames keep their names. Pages of a buffer can't be renamed: the allocator
//! tells them apart, since a move gives page 0 the frame that was given back last, and some other
//! process may still look at that frame.

use super::objects::{Dma, Fence, MmapLock, Pin, Target};
use super::state::State;
use super::step::{Handle, Mmap, Step};
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
}

const KINDS: usize = 7;

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
        for buf in to.bufs.unnoted_mut() {
            (buf.lock, buf.vma_pointer) = (self.actor(buf.lock), self.vma(buf.vma_pointer));
        }
        for vma in world.vma_ids() {
            let new = self.vma(vma);
            to.vmas.unnoted_mut()[new.index()] = from.vmas.unnoted()[vma.index()];
            for page in 0..world.vma_pages(vma) {
                if let (Some(old), Some(new)) = (world.pte(vma, page), world.pte(new, page)) {
                    to.ptes.unnoted_mut()[new.index()] = from.ptes.unnoted()[old.index()];
                }
            }
        }
        for (old, pin) in (0u8..).zip(from.pins.unnoted()) {
            let (pte, target) = (self.pte(world, pin.pte), self.target(world, pin.target));
            let new = usize::from(self.of(Named::Pin, old));
            to.pins.unnoted_mut()[new] = Pin { pte, target, ..*pin };
        }
        for (old, attachment) in (0u8..).zip(from.attachments.unnoted()) {
            let new = usize::from(self.of(Named::Attachment, old));
            to.attachments.unnoted_mut()[new] = *attachment;
        }
        for (old, slot) in (0u8..).zip(from.sgs.unnoted()) {
            let new = usize::from(self.of(Named::Sg, old));
            to.sgs.unnoted_mut()[new] = *slot;
            let [old, new] = [usize::from(old), new].map(|sg| world.sgs[sg].first);
            let addresses = |first| first..first + MAX_PAGES;
            for (to, from) in [(&mut to.sg_frames, &from.sg_frames), (&mut to.tlb, &from.tlb)] {
                if let Some(from) = from.unnoted().get(addresses(old)) {
                    to.unnoted_mut()[addresses(new)].copy_from_slice(from);
                }
            }
        }
        for (old, fence) in (0u8..).zip(from.fences.unnoted()) {
            let new = usize::from(self.of(Named::Fence, old));
            to.fences.unnoted_mut()[new] = Fence { actor: self.actor(fence.actor), ..*fence };
        }
        for (old, dma) in (0u8..).zip(from.dmas.unnoted()) {
            let new = usize::from(self.of(Named::Actor, old));
            let (target, pin) =
                (self.target(world, dma.target), PinId(self.of(Named::Pin, dma.pin.0)));
            to.dmas.unnoted_mut()[new] = Dma { target, pin, ..*dma };
        }
        for (old, mm) in (0u8..).zip(from.mms.unnoted()) {
            let new = usize::from(self.of(Named::Actor, old));
            let MmapLock { readers, faults, writer, queued } = *mm;
            let [readers, faults, queued] = [readers, faults, queued].map(|set| self.actors(set));
            let writer = self.actor(writer);
            to.mms.unnoted_mut()[new] = MmapLock { readers, faults, writer, queued };
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
        vmas && pins && attachments && sgs && rules
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
        Step::Munmap { vma: of, .. } | Step::Load { vma: of, .. } | Step::Store { vma: of, .. } => {
            vma(of);
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
        Step::DmaStart { via, .. } | Step::DmaFinish { via, .. } => match via {
            Handle::Pin(PinId(pin)) => visit(Named::Pin, pin),
            Handle::Sg(SgId(sg)) => visit(Named::Sg, sg),
        },
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
        | Step::ResvUnlock(_) => {}
    }
}
