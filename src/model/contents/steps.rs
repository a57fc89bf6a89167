//! What the steps of a scenario do with contents, read off the steps themselves.

use super::Looks;
use crate::model::footprint::refills;
use crate::model::operation::Operation;
use crate::model::rules::{Coherency, ExporterStep, ImporterMmap, Placement, Recycle};
use crate::model::step::{Dir, Handle, Step};
use crate::model::world::World;
use crate::units::{BufId, PageId, PinId, SgId, VmaId};

/// The steps of all programs, each with its actor and its place in the program.
pub(super) struct Steps<'a>(pub(super) &'a [(usize, usize, Step)]);

/// A step that takes frames or gives them back: actor, place, placements (a bit each).
type Traffic = (usize, usize, u8);

/// The value that a step brings in.
pub(super) fn value_of(world: &World, step: &Step) -> Option<u8> {
    if let Step::Store { value, .. } | Step::DmaFinish { dir: Dir::Write(value), .. } = *step {
        Some(value)
    } else if let Step::Alloc(buf) = *step {
        Some(world.buf(buf).fill)
    } else {
        None
    }
}

pub(super) const fn bit(placement: Placement) -> u8 {
    match placement {
        Placement::Vram => 1,
        Placement::System => 2,
        Placement::Cma => 4,
    }
}

/// Whether what follows knows what a step does with contents: a step that is new here must be looked
/// at in every function of this file.
const fn understood(step: &Step) -> bool {
    match step {
        Step::Mmap(_)
        | Step::Munmap { .. }
        | Step::Mremap { .. }
        | Step::Mprotect { .. }
        | Step::Load { .. }
        | Step::Store { .. }
        | Step::GupFast { .. }
        | Step::GupSlow { .. }
        | Step::FollowPfn { .. }
        | Step::FrameVectorCheck { .. }
        | Step::Unpin(_)
        | Step::Attach { .. }
        | Step::Detach(_)
        | Step::Map(_)
        | Step::Unmap(_)
        | Step::Validate { .. }
        | Step::Submit { .. }
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
        | Step::FinishMmu(_) => true,
    }
}

impl Steps<'_> {
    /// Whether every step is known here.
    pub(super) fn are_understood(&self) -> bool {
        self.0.iter().all(|(.., step)| understood(step))
    }

    pub(super) fn any(&self, is_it: impl Fn(&Step) -> bool) -> bool {
        self.0.iter().any(|(.., step)| is_it(step))
    }

    /// Where the frames of `buf` and of what stands in for it may be.
    pub(super) fn places(&self, world: &World, buf: BufId) -> u8 {
        let mut places = bit(world.buf(buf).placement);
        for (.., step) in self.0 {
            if let Step::Exporter { buf: of, operation: Operation::Move(dest), .. } = *step
                && of == buf
            {
                places |= bit(dest);
            } else if let Step::Mmap(mmap) = *step
                && mmap.buf == buf
                && shadows(world, step)
            {
                places |= bit(Placement::System);
            }
        }
        places
    }

    /// Where frames may be that a move gives back when it fails here: those it has reserved before.
    fn reserved(&self, world: &World, buf: BufId, (actor, place): (usize, usize)) -> u8 {
        let before = |at: usize, by: usize| by != actor || at < place;
        let reserved = self.0.iter().any(|(by, at, step)| {
            let is_it = matches!(step, Step::Exporter { step: ExporterStep::Reserve, buf: of, .. }
                if *of == buf);
            is_it && before(*at, *by)
        });
        if reserved { self.places(world, buf) } else { 0 }
    }

    /// Whether a frame of a placement may be given back and taken again.
    #[expect(clippy::too_many_lines, reason = "one arm a step, nothing to share")]
    pub(super) fn recycles(&self, world: &World, placement: u8) -> bool {
        let (mut takes, mut frees): (Vec<Traffic>, Vec<Traffic>) = (Vec::new(), Vec::new());
        let all = |bufs: &mut dyn Iterator<Item = BufId>| {
            bufs.fold(0, |places, buf| places | self.places(world, buf))
        };
        let orphans = |buf: BufId| world.exporter_of(buf).recycle == Recycle::Allocator;
        let dropped = |buf: &BufId| world.buf(*buf).closed || orphans(*buf);
        let dropped = all(&mut world.buf_ids().filter(dropped));
        let refilled = all(&mut world.buf_ids().filter(|buf| refills(world, *buf)));
        for (actor, place, step) in self.0 {
            let (mut taken, mut freed) = (0, 0);
            match *step {
                Step::Alloc(buf) => taken = bit(world.buf(buf).placement),
                Step::Exporter {
                    step: ExporterStep::Reserve,
                    operation: Operation::Move(dest),
                    buf,
                    ..
                } => {
                    taken = bit(dest);
                    freed = self.reserved(world, buf, (*actor, *place));
                }
                Step::Exporter { step: ExporterStep::CheckPins, buf, .. } => {
                    freed = self.reserved(world, buf, (*actor, *place));
                }
                Step::Exporter { step: ExporterStep::Free, buf, .. } => {
                    freed = self.places(world, buf);
                }
                Step::Mmap(_) if shadows(world, step) => taken = bit(Placement::System),
                Step::Mmap(_)
                | Step::Munmap { .. }
                | Step::Mremap { .. }
                | Step::Mprotect { .. }
                | Step::Load { .. }
                | Step::Store { .. }
                | Step::GupFast { .. }
                | Step::GupSlow { .. }
                | Step::FollowPfn { .. }
                | Step::FrameVectorCheck { .. }
                | Step::Unpin(_)
                | Step::Attach { .. }
                | Step::Detach(_)
                | Step::Map(_)
                | Step::Unmap(_)
                | Step::Validate { .. }
                | Step::Submit { .. }
                | Step::Signal(_)
                | Step::DmaStart { .. }
                | Step::DmaFinish { .. }
                | Step::DmaBufPin(_)
                | Step::DmaBufUnpin(_)
                | Step::SyncStart { .. }
                | Step::SyncEnd { .. }
                | Step::Exporter { .. }
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
            // Whoever drops a reference may drop the last; whoever looks at a page may fill it again.
            freed |= dropped;
            taken |= refilled;
            takes.push((*actor, *place, taken));
            frees.push((*actor, *place, freed));
        }
        let is_here = |(.., places): &&Traffic| places & placement != 0;
        takes.iter().filter(is_here).any(|take| {
            let after = |free: &Traffic| free.0 == take.0 && free.1 >= take.1;
            frees.iter().filter(is_here).any(|free| !after(free))
        })
    }

    /// The pages that may be meant by page `page` of a VMA.
    fn through_vma(&self, world: &World, vma: VmaId, page: u8) -> Vec<PageId> {
        let buf = world.vmas[vma.index()].buf;
        if buf.is_none() {
            return Vec::new();
        }
        let moved = self.any(|step| matches!(step, Step::Mremap { .. } | Step::Fork { .. }));
        if moved {
            return world.pages(buf).collect();
        }
        let offset = |(.., step): &(usize, usize, Step)| {
            if let Step::Mmap(mmap) = step
                && mmap.vma == vma
            {
                world.page(buf, mmap.offset.checked_add(page)?)
            } else {
                None
            }
        };
        self.0.iter().filter_map(offset).collect()
    }

    fn through_pin(&self, world: &World, pin: PinId) -> Vec<PageId> {
        let mut pages = Vec::new();
        for (.., step) in self.0 {
            if let Step::GupFast { pin: of, vma, page, .. }
            | Step::GupSlow { pin: of, vma, page, .. }
            | Step::FollowPfn { pin: of, vma, page, .. } = *step
                && of == pin
            {
                pages.extend(self.through_vma(world, vma, page));
            }
        }
        pages
    }

    fn through_sg(&self, world: &World, sg: SgId, page: u8) -> Vec<PageId> {
        let mut pages = Vec::new();
        for (.., step) in self.0 {
            if let Step::Attach { attachment, buf, via, .. } = *step
                && attachment == world.attachment_of(sg)
            {
                let buf = if via.is_some() { world.vmas[via.index()].buf } else { buf };
                pages.extend(world.page(buf, page));
            }
        }
        pages
    }

    /// The rows at which a step looks for more than to remove them.
    ///
    /// A zap, or a move's notification, leaves the same behind whether there was something or not.
    #[expect(clippy::too_many_lines, reason = "one arm a step, nothing to share")]
    pub(super) fn looks(&self, world: &World, step: &Step) -> Looks {
        let mut looks = Looks::default();
        let mut entry = |vma: VmaId, page: u8| {
            looks.vmas.add(vma.index());
            if let Some(pte) = world.pte(vma, page) {
                looks.ptes.add(pte.index());
            }
        };
        match *step {
            Step::Load { vma, page }
            | Step::Store { vma, page, .. }
            | Step::GupFast { vma, page, .. }
            | Step::GupSlow { vma, page, .. }
            | Step::FollowPfn { vma, page, .. } => entry(vma, page),
            // Whether the page is still mapped where it was pinned tells a use after revocation.
            Step::DmaFinish { via: Handle::Pin(pin), .. } => {
                for (.., other) in self.0 {
                    if let Step::GupFast { pin: of, vma, page, .. }
                    | Step::GupSlow { pin: of, vma, page, .. }
                    | Step::FollowPfn { pin: of, vma, page, .. } = *other
                        && of == pin
                    {
                        entry(vma, page);
                    }
                }
            }
            Step::Mmap(mmap) => looks.vmas.add(mmap.vma.index()),
            Step::Mprotect { vma, .. } => looks.vmas.add(vma.index()),
            Step::Munmap { vma, .. } | Step::FreePgtables(vma) | Step::FinishMmu(vma) => {
                looks.vmas.add(vma.index());
            }
            Step::Attach { attachment, via, .. } => {
                if via.is_some() {
                    looks.vmas.add(via.index());
                }
                looks.attachments.add(attachment.index());
            }
            Step::Detach(attachment)
            | Step::DmaBufPin(attachment)
            | Step::DmaBufUnpin(attachment) => looks.attachments.add(attachment.index()),
            Step::Map(sg) | Step::Unmap(sg) | Step::FlushTlb(sg) => looks.sgs.add(sg.index()),
            Step::Validate { sg, .. } | Step::Submit { sg, .. } => looks.sgs.add(sg.index()),
            Step::DmaStart { via: Handle::Sg(sg), page, .. } => {
                looks.sgs.add(sg.index());
                looks.addresses.add(world.sgs[sg.index()].first + usize::from(page));
            }
            Step::Exporter { step: ExporterStep::WaitUnmap, .. } => looks.waits_for_unmap = true,
            Step::Mremap { .. }
            | Step::FrameVectorCheck { .. }
            | Step::Unpin(_)
            | Step::DmaStart { .. }
            | Step::DmaFinish { .. }
            | Step::Signal(_)
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
            | Step::MmapUnlock(_) => {}
        }
        for index in 0..world.sgs.len() {
            if looks.sgs.has(index) {
                looks.attachments.add(world.attachment_of(SgId::at(index)).index());
            }
        }
        looks
    }

    /// The pages for which a step may fill a frame with zeros that somebody compares.
    pub(super) fn zeroed(&self, world: &World, step: &Step, recycled: u8) -> Vec<PageId> {
        if world.buf_ids().any(|buf| refills(world, buf)) {
            return (0..world.page_bufs.len()).map(PageId::at).collect();
        }
        if let Step::Mmap(mmap) = *step
            && shadows(world, step)
        {
            world.pages(mmap.buf).collect()
        } else if let Step::Exporter { step: ExporterStep::Reserve, buf, .. } = *step {
            let seen =
                |page: &PageId| !self.copied_over(world, buf, world.page_index(*page), recycled);
            world.pages(buf).filter(seen).collect()
        } else {
            Vec::new()
        }
    }

    /// Whether the zeros that `reserve` leaves for a page are always copied over before anybody
    /// looks: the one move that there is copies the page before it rebinds the buffer, nobody knows the
    /// frame from before, and nothing else takes the page's frame away.
    pub(super) fn copied_over(&self, world: &World, buf: BufId, page: u8, recycled: u8) -> bool {
        // A page without a frame is not copied.
        let decl = world.buf(buf);
        if !decl.allocated || decl.closed {
            return false;
        }
        let mut copied = None;
        let mut owner = None;
        for (actor, _, step) in self.0 {
            let Step::Exporter { buf: of, step, page: at, operation } = *step else { continue };
            if of != buf {
                continue;
            }
            if !matches!(operation, Operation::Move(dest) if recycled & bit(dest) == 0) {
                return false;
            }
            let is_ours = *owner.get_or_insert(*actor) == *actor;
            match step {
                ExporterStep::Reserve if is_ours && copied.is_none() => copied = Some(false),
                ExporterStep::Copy if is_ours && at != page => {}
                ExporterStep::Copy if is_ours && copied == Some(false) => copied = Some(true),
                ExporterStep::Rebind if !is_ours || copied != Some(true) => return false,
                ExporterStep::Reserve | ExporterStep::Copy => return false,
                ExporterStep::Rebind
                | ExporterStep::Lock
                | ExporterStep::Notify
                | ExporterStep::Zap
                | ExporterStep::Wait
                | ExporterStep::CheckPins
                | ExporterStep::Flush
                | ExporterStep::Fence
                | ExporterStep::Signal
                | ExporterStep::Free
                | ExporterStep::Mark
                | ExporterStep::WaitUnmap
                | ExporterStep::Unlock => {}
            }
        }
        true
    }

    /// The pages whose contents a step reads, and those it writes.
    pub(super) fn contents(&self, world: &World, step: &Step) -> (Vec<PageId>, Vec<PageId>) {
        let handle = |via: Handle, page| match via {
            Handle::Pin(pin) => self.through_pin(world, pin),
            Handle::Sg(sg) => self.through_sg(world, sg, page),
        };
        let none = Vec::new();
        match *step {
            Step::Load { vma, page } => (self.through_vma(world, vma, page), none),
            Step::Store { vma, page, .. } => (none, self.through_vma(world, vma, page)),
            Step::DmaFinish { via, page, dir: Dir::Write(_) } => (none, handle(via, page)),
            // What is read and discarded does harm by where it is read, not by what it is.
            Step::DmaFinish { via, page, dir: Dir::Read } => (handle(via, page), none),
            Step::Alloc(buf) => (none, world.pages(buf).collect()),
            Step::Exporter { step: ExporterStep::Copy, buf, page, .. } => {
                (world.page(buf, page).into_iter().collect(), none)
            }
            Step::Exporter { step: ExporterStep::Rebind, buf, .. } => {
                (world.pages(buf).collect(), none)
            }
            // A line that is written back may be another buffer's by now.
            Step::Exporter { step: ExporterStep::Flush, .. }
            | Step::SyncStart { .. }
            | Step::SyncEnd { .. }
            | Step::EvictCache(_)
                if world.exporters.iter().any(|rules| rules.coherency == Coherency::Incoherent) =>
            {
                ((0..world.page_bufs.len()).map(PageId::at).collect(), none)
            }
            Step::Mmap(_)
            | Step::Munmap { .. }
            | Step::Mremap { .. }
            | Step::Mprotect { .. }
            | Step::GupFast { .. }
            | Step::GupSlow { .. }
            | Step::FollowPfn { .. }
            | Step::FrameVectorCheck { .. }
            | Step::Unpin(_)
            | Step::Attach { .. }
            | Step::Detach(_)
            | Step::Map(_)
            | Step::Unmap(_)
            | Step::Validate { .. }
            | Step::Submit { .. }
            | Step::Signal(_)
            | Step::DmaStart { .. }
            | Step::DmaFinish { .. }
            | Step::DmaBufPin(_)
            | Step::DmaBufUnpin(_)
            | Step::SyncStart { .. }
            | Step::SyncEnd { .. }
            | Step::Exporter { .. }
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
            | Step::FinishMmu(_) => (none.clone(), none),
        }
    }
}

fn shadows(world: &World, step: &Step) -> bool {
    matches!(step, Step::Mmap(mmap)
        if mmap.via.is_some() && world.importer(mmap.via).mmap == ImporterMmap::Shadow)
}
