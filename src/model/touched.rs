//! What a step touches in the state at hand: finer than [`super::objects()`], which holds in all states.
//!
//! Two steps that are both ready and touch nothing of each other's commute here, and a search need
//! follow one order of them only. That what a step touches is within its answer is tested, as it is of
//! [`super::objects()`] (`tests/footprint.rs`), and that steps commute (`tests/properties.rs`).
//!
//! Finer is the answer for what most programs are made of: mmap of a buffer, accesses and faults of
//! shared mappings, what devices do with an sg_table that is valid, and the steps of a move that goes
//! well. Each is told from what the step looks at itself, so that nothing which touches none of it
//! can change the answer. Everywhere else a step that touches memory touches all of it.

use super::contents::Contents;
use super::footprint::{
    ATTACHMENTS, BUFS, CALLERS_FIRST, FENCES, FREE, MEMORY, MMS, Objects, SGS, VMAS,
};
use super::objects::{Life, Owner, Page, Reach, Slot, Target};
use super::operation::Operation;
use super::rules::{
    Coherency, ExporterStep, FaultPage, Huge, ImporterMmap, MmapKind, Notifier, OnDmaBufPin,
    OnForeignPin, Placement, Recycle, ZapReach,
};
use super::state::State;
use super::step::{Dir, Handle, Mmap, Step};
use super::world::World;
use crate::units::{ActorId, AttachmentId, BufId, FenceId, FrameId, PageId, SgId, VmaId};

/// What the objects buffers and memory consist of: sets of pages, frames and locks, a bit each.
/// Those beyond the 64th share bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Details {
    /// Pages: which frame is theirs.
    pub now: u64,
    /// Pages: which frames a move has for them, or has left.
    pub moving: u64,
    /// Pages: what they should hold.
    pub ghosts: u64,
    /// Frames: whose they are.
    pub owners: u64,
    /// Frames: what they and the cache's lines of them hold.
    pub values: u64,
    /// Who holds the locks of buffers, by the bits that buffers have in [`Objects`].
    pub locks: u128,
    /// Which VMA the driver of a buffer remembers, by the same bits.
    pub pointers: u128,
}

impl Details {
    const NONE: Self =
        Self { now: 0, moving: 0, ghosts: 0, owners: 0, values: 0, locks: 0, pointers: 0 };

    /// What is in `objects`, whole.
    const fn of(objects: u128) -> Self {
        let all = if objects & MEMORY == 0 { 0 } else { u64::MAX };
        let bufs = objects & BUFS.all();
        Self {
            now: all,
            moving: all,
            ghosts: all,
            owners: all,
            values: all,
            locks: bufs,
            pointers: bufs,
        }
    }

    const fn with(self, other: Self) -> Self {
        Self {
            now: self.now | other.now,
            moving: self.moving | other.moving,
            ghosts: self.ghosts | other.ghosts,
            owners: self.owners | other.owners,
            values: self.values | other.values,
            locks: self.locks | other.locks,
            pointers: self.pointers | other.pointers,
        }
    }

    const fn meets(self, other: Self) -> bool {
        self.now & other.now != 0
            || self.moving & other.moving != 0
            || self.ghosts & other.ghosts != 0
            || self.owners & other.owners != 0
            || self.values & other.values != 0
            || self.locks & other.locks != 0
            || self.pointers & other.pointers != 0
    }
}

/// The bit of a page or a frame.
const fn bit(index: u8) -> u64 {
    1 << (index % 64)
}

/// The bits of frames, those of none left out.
fn bits(frames: impl IntoIterator<Item = FrameId>) -> u64 {
    let some = frames.into_iter().filter(|frame| frame.is_some());
    some.fold(0, |set, frame| set | bit(frame.0))
}

/// What a step looks at and changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Touched {
    /// Everything but memory and locks.
    pub objects: Objects,
    /// Memory and locks that are looked at.
    pub reads: Details,
    /// Memory and locks that are changed.
    pub writes: Details,
}

impl Touched {
    /// Whether the order of the two steps may matter.
    #[must_use]
    pub const fn conflicts(&self, other: &Self) -> bool {
        let (own, others) = (self.objects, other.objects);
        own.writes & (others.reads | others.writes) != 0
            || others.writes & own.reads != 0
            || self.writes.meets(other.reads.with(other.writes))
            || other.writes.meets(self.reads)
    }

    /// What is declared for every state.
    #[must_use]
    pub const fn within(objects: Objects) -> Self {
        Self {
            reads: Details::of(objects.reads),
            writes: Details::of(objects.writes),
            objects: Objects { reads: objects.reads & !MEMORY, writes: objects.writes & !MEMORY },
        }
    }

    const fn of(reads: u128, writes: u128) -> Self {
        let objects = Objects { reads, writes };
        Self { objects, reads: Details::NONE, writes: Details::NONE }
    }
}

/// What `step`, which is ready, touches in `state`; `declared` is what it may touch in any, the
/// caller's own objects and the `mmap_lock`s among it.
#[must_use]
pub fn touched(
    world: &World,
    contents: &Contents,
    state: &State,
    actor: ActorId,
    step: &Step,
    declared: Objects,
) -> Touched {
    let coarse = Touched::within(declared);
    // A flush of a TLB waits for what is in flight.
    if !contents.known() || world.device_tlbs() {
        return coarse;
    }
    let here = Here { world, state, actor };
    let finer = match *step {
        Step::Mmap(mmap) => here.mmap(&mmap),
        Step::Load { vma, page } => here.access(vma, page, false),
        Step::Store { vma, page, .. } => here.access(vma, page, true),
        Step::Attach { attachment, buf, via, .. } => here.attach(attachment, buf, via),
        Step::Map(sg) => here.map(sg),
        Step::Validate { fence, sg } => here.validate(fence, sg),
        Step::Submit { fence, sg, .. } => {
            here.buf_of(sg).and_then(|buf| here.unlock(buf, FENCES.one(fence.0)))
        }
        Step::DmaStart { via: Handle::Sg(sg), page, .. } => here.dma_start(sg, page),
        Step::DmaFinish { via: Handle::Sg(_), dir, .. } => here.dma_finish(dir),
        Step::Exporter { step, buf, page, operation, .. } => {
            here.exporter(step, buf, page, operation)
        }
        Step::Alloc(buf) => here.alloc(buf),
        Step::DmaStart { via: Handle::Pin(_), .. }
        | Step::DmaFinish { via: Handle::Pin(_), .. }
        | Step::Munmap { .. }
        | Step::Mremap { .. }
        | Step::Mprotect { .. }
        | Step::GupFast { .. }
        | Step::GupSlow { .. }
        | Step::FollowPfn { .. }
        | Step::FrameVectorCheck { .. }
        | Step::Unpin(_)
        | Step::Detach(_)
        | Step::Unmap(_)
        | Step::Signal(_)
        | Step::DmaBufPin(_)
        | Step::DmaBufUnpin(_)
        | Step::SyncStart { .. }
        | Step::SyncEnd { .. }
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
        | Step::FinishMmu(_) => None,
    };
    finer.map_or(coarse, |finer| {
        let others = |bits: u128| bits >> CALLERS_FIRST << CALLERS_FIRST | bits & MMS;
        let Objects { reads, writes } = finer.objects;
        let reads = reads | others(declared.reads);
        let writes = writes | others(declared.writes);
        Touched { objects: Objects { reads, writes }, ..finer }
    })
}

/// A step at a state. Where a method does not know, it answers none.
struct Here<'a> {
    world: &'a World,
    state: &'a State,
    actor: ActorId,
}

impl Here<'_> {
    fn page(&self, page: PageId) -> Page {
        self.state.pages.unnoted()[page.index()]
    }

    /// The buffer behind an sg_table.
    fn buf_of(&self, sg: SgId) -> Option<BufId> {
        let id = self.world.attachment_of(sg);
        let attachment = &self.state.attachments.unnoted()[id.index()];
        (attachment.slot == Slot::Held).then_some(attachment.buf)
    }

    /// The pages of a buffer, a bit each.
    fn pages(&self, buf: BufId) -> u64 {
        self.world.pages(buf).fold(0, |set, page| set | bit(page.0))
    }

    fn mmap(&self, mmap: &Mmap) -> Option<Touched> {
        if mmap.buf.is_none() {
            return None;
        }
        let rules = self.world.exporter_of(mmap.buf);
        let plain = rules.zap != ZapReach::VmaPointer && rules.mmap != MmapKind::RemapPfnRange;
        let entries = mmap.via.is_some()
            && matches!(
                self.world.importer(mmap.via).mmap,
                ImporterMmap::Shadow | ImporterMmap::Bypass | ImporterMmap::Aperture
            );
        let buf = BUFS.one(mmap.buf.0);
        let writes = Details { pointers: buf, ..Details::NONE };
        (plain && !entries).then_some(Touched { writes, ..Touched::of(buf, VMAS.one(mmap.vma.0)) })
    }

    /// A load or a store, or the fault that comes first.
    fn access(&self, vma: VmaId, page: u8, store: bool) -> Option<Touched> {
        let entry = self.state.vmas.unnoted()[vma.index()];
        let pte = self.state.ptes.unnoted()[self.world.pte(vma, page)?.index()];
        let own = VMAS.one(vma.0);
        let allowed = if store { entry.write } else { entry.read };
        if entry.mapped & (1 << page) == 0 {
            return Some(Touched::of(own, 0));
        }
        if !allowed || !entry.shared || entry.buf.is_none() {
            return None;
        }
        let id = self.world.page(entry.buf, entry.offset + page)?;
        let (behind, buf) = (self.page(id), BUFS.one(entry.buf.0));
        let now = Details { now: bit(id.0), ..Details::NONE };
        if !pte.present() {
            let rules = self.world.exporter_of(entry.buf);
            let plain = rules.fault_page == FaultPage::AtOffset && rules.huge == Huge::None;
            let filled = behind.frame.is_some() && entry.reach != Reach::Shadow;
            let reads = Details { locks: buf, ..now };
            return (plain && filled).then_some(Touched { reads, ..Touched::of(buf, own) });
        }
        let frame = bit(pte.frame.0);
        let reads = Details { ghosts: bit(id.0), owners: frame, values: frame, ..now };
        let touched = Touched { reads, ..Touched::of(own | buf, 0) };
        if store {
            let writes = Details { ghosts: bit(id.0), values: frame, ..Details::NONE };
            return pte.write.then_some(Touched { writes, ..touched });
        }
        // A load may fill a line of the cache; where it reads something else more is looked at.
        let held = self.state.frames.unnoted()[pte.frame.index()];
        let fills = self.world.exporter_of(entry.buf).coherency == Coherency::Incoherent;
        let values = if fills && !held.cached { frame } else { 0 };
        let writes = Details { values, ..Details::NONE };
        (held.cpu_value() == behind.ghost).then_some(Touched { writes, ..touched })
    }

    fn attach(&self, attachment: AttachmentId, buf: BufId, via: VmaId) -> Option<Touched> {
        if buf.is_none() || via.is_some() {
            return None;
        }
        let reads = Details { locks: BUFS.one(buf.0), ..Details::NONE };
        Some(Touched { reads, ..Touched::of(BUFS.one(buf.0), ATTACHMENTS.one(attachment.0)) })
    }

    /// A buffer whose pages have their frames is mapped for a device that is told of moves.
    fn map(&self, sg: SgId) -> Option<Touched> {
        let id = self.world.attachment_of(sg);
        let buf = self.buf_of(sg)?;
        let dynamic = self.state.attachments.unnoted()[id.index()].dynamic;
        let filled = self.world.pages(buf).all(|page| self.page(page).frame.is_some());
        let live = self.state.bufs.unnoted()[buf.index()].life == Life::Live;
        let reads = Details { locks: BUFS.one(buf.0), now: self.pages(buf), ..Details::NONE };
        let objects = Touched::of(ATTACHMENTS.one(id.0) | BUFS.one(buf.0), SGS.one(sg.0));
        (dynamic && filled && live).then_some(Touched { reads, ..objects })
    }

    /// The lock is taken, and the sg_table is valid.
    fn validate(&self, fence: FenceId, sg: SgId) -> Option<Touched> {
        let id = self.world.attachment_of(sg);
        let buf = self.buf_of(sg)?;
        let valid = self.state.sgs.unnoted()[sg.index()] == Slot::Held;
        let locks = Details { locks: BUFS.one(buf.0), ..Details::NONE };
        let objects = Touched::of(ATTACHMENTS.one(id.0) | SGS.one(sg.0), FENCES.one(fence.0));
        valid.then_some(Touched { reads: locks, writes: locks, ..objects })
    }

    /// The lock of a buffer that somebody has open is given up; `also` is written, too.
    fn unlock(&self, buf: BufId, also: u128) -> Option<Touched> {
        let open = self.state.bufs.unnoted()[buf.index()].fds > 0;
        let locks = Details { locks: BUFS.one(buf.0), ..Details::NONE };
        // Through which attachment is looked at, too.
        let objects = Touched::of(BUFS.one(buf.0) | ATTACHMENTS.all(), also);
        open.then_some(Touched { reads: locks, writes: locks, ..objects })
    }

    /// A transfer begins through an sg_table that is valid, or that a fence keeps.
    fn dma_start(&self, sg: SgId, page: u8) -> Option<Touched> {
        let id = self.world.attachment_of(sg);
        let buf = self.buf_of(sg)?;
        let valid = self.state.sgs.unnoted()[sg.index()] == Slot::Held;
        let mut fences = self.state.fences.unnoted().iter();
        let fenced = fences
            .any(|fence| fence.slot == Slot::Held && fence.buf == buf && fence.actor == self.actor);
        let first = self.world.sgs[sg.index()].first;
        let frame = self.state.sg_frames.unnoted()[first + usize::from(page)];
        let reads = ATTACHMENTS.one(id.0) | SGS.one(sg.0) | FENCES.all() | BUFS.one(buf.0);
        // An access without a fence is reported with whose the frame is.
        let owners = if fenced { 0 } else { bits([frame]) };
        let details = Details { owners, locks: BUFS.one(buf.0), ..Details::NONE };
        (valid || fenced).then_some(Touched { reads: details, ..Touched::of(reads, 0) })
    }

    /// A transfer that began through an sg_table ends.
    fn dma_finish(&self, dir: Dir) -> Option<Touched> {
        let dma = self.state.dmas.unnoted()[self.actor.index()];
        if !dma.busy {
            return Some(Touched::of(0, 0));
        }
        let Target::Page(page) = dma.target else { return None };
        let (held, frame) = (self.state.frames.unnoted()[dma.frame.index()], bit(dma.frame.0));
        let page_bit = bit(page.0);
        let reads = Details {
            now: page_bit,
            ghosts: page_bit,
            owners: frame,
            values: frame,
            ..Details::NONE
        };
        let touched = Touched { reads, ..Touched::of(BUFS.one(self.world.buf_of(page).0), 0) };
        let writes = Details { ghosts: page_bit, values: frame, ..Details::NONE };
        match dir {
            Dir::Write(_) => Some(Touched { writes, ..touched }),
            Dir::Read | Dir::Prefetch => (held.value == self.page(page).ghost).then_some(touched),
        }
    }

    /// A step of a move of a live buffer, as far as nothing stands in its way.
    fn exporter(
        &self,
        step: ExporterStep,
        buf: BufId,
        page: u8,
        operation: Operation,
    ) -> Option<Touched> {
        let Operation::Move(to) = operation else { return None };
        let entry = self.state.bufs.unnoted()[buf.index()];
        let own = BUFS.one(buf.0);
        let locks = Details { locks: own, ..Details::NONE };
        match step {
            ExporterStep::Lock => (entry.life == Life::Live).then_some(Touched {
                reads: locks,
                writes: locks,
                ..Touched::of(own, 0)
            }),
            ExporterStep::Unlock => self.unlock(buf, 0),
            ExporterStep::Notify => Some(self.notify(buf)),
            ExporterStep::Zap => self.zap(buf),
            ExporterStep::CheckPins => self.check_pins(buf),
            ExporterStep::Reserve => self.reserve(buf, to),
            ExporterStep::Copy => self.copy(buf, self.world.page(buf, page)?),
            ExporterStep::Wait
            | ExporterStep::WaitUnmap
            | ExporterStep::Flush
            | ExporterStep::Fence
            | ExporterStep::Signal
            | ExporterStep::Rebind
            | ExporterStep::Free
            | ExporterStep::Mark => None,
        }
    }

    /// The sg_tables that are valid and will not be.
    fn notify(&self, buf: BufId) -> Touched {
        let told = |index: &usize| {
            let slot = self.state.sgs.unnoted()[*index];
            self.buf_of(SgId::at(*index)) == Some(buf) && slot.notified() != slot
        };
        let tables = (0..self.state.sgs.unnoted().len()).filter(told);
        let writes = tables.fold(0, |set, index| set | SGS.one(SgId::at(index).0));
        Touched::of(ATTACHMENTS.all() | SGS.all(), writes)
    }

    /// The VMAs that have entries to lose.
    fn zap(&self, buf: BufId) -> Option<Touched> {
        let rules = self.world.exporter_of(buf);
        // Who has a notifier is told, and may be waited for.
        let told = self.world.pins.iter().any(|pin| pin.notifier != Notifier::None);
        if rules.zap != ZapReach::AddressSpace || told {
            return None;
        }
        let (mut written, mut frames) = (0, 0);
        for (index, vma) in self.state.vmas.unnoted().iter().enumerate() {
            let id = VmaId::at(index);
            if vma.mapped == 0 || vma.buf != buf || vma.reach != Reach::Exporter {
                continue;
            }
            for page in 0..self.world.vma_pages(id) {
                let pte = self.state.ptes.unnoted()[self.world.pte(id, page)?.index()];
                if pte.present() {
                    written |= VMAS.one(id.0);
                    frames |= bit(pte.frame.0);
                    let owner = self.state.frames.unnoted()[pte.frame.index()].owner;
                    if matches!(owner, Owner::Orphan | Owner::Anon) {
                        return None;
                    }
                }
            }
        }
        let reads = Details { owners: frames, ..Details::NONE };
        Some(Touched { reads, ..Touched::of(BUFS.one(buf.0) | VMAS.all(), written) })
    }

    fn check_pins(&self, buf: BufId) -> Option<Touched> {
        let rules = self.world.exporter_of(buf);
        let pinned = self.state.bufs.unnoted()[buf.index()].pins > 0
            && rules.on_dma_buf_pin == OnDmaBufPin::Honour;
        let looks = rules.on_foreign_pin == OnForeignPin::Refuse && !self.world.pins.is_empty();
        let now = if rules.on_foreign_pin == OnForeignPin::Refuse { self.pages(buf) } else { 0 };
        let reads = Details { now, ..Details::NONE };
        (!pinned && !looks).then_some(Touched { reads, ..Touched::of(BUFS.one(buf.0), 0) })
    }

    /// The frames that may be taken: those that are free.
    fn free(&self, placement: Placement) -> (usize, u64) {
        let frames = self.state.frames.unnoted().iter().zip(&self.world.frames).enumerate();
        let free = frames.filter(|(_, (frame, at))| frame.rank > 0 && **at == placement);
        free.fold((0, 0), |(count, set), (index, _)| (count + 1, set | bit(FrameId::at(index).0)))
    }

    fn reserve(&self, buf: BufId, to: Placement) -> Option<Touched> {
        let pages = self.pages(buf);
        let (count, frames) = self.free(to);
        let writes = Details { moving: pages, owners: frames, values: frames, ..Details::NONE };
        let reads = Details { now: pages, ..Details::NONE };
        // Where it goes to is noted, too.
        let objects = Touched::of(0, FREE | BUFS.one(buf.0));
        (count >= self.world.pages(buf).count()).then_some(Touched { reads, writes, ..objects })
    }

    /// A page is copied to the frame that it will have.
    fn copy(&self, buf: BufId, id: PageId) -> Option<Touched> {
        let Page { frame, next, old, .. } = self.page(id);
        let own =
            frame.is_some() && self.state.frames.unnoted()[frame.index()].owner == Owner::Page(id);
        let page = bit(id.0);
        let reads = Details {
            now: page,
            moving: page,
            owners: bits([frame, old]),
            values: bits([frame]),
            ..Details::NONE
        };
        let writes = Details { values: bits([next]), ..Details::NONE };
        let objects = Touched::of(BUFS.one(buf.0), 0);
        (own && next.is_some()).then_some(Touched { reads, writes, ..objects })
    }

    fn alloc(&self, buf: BufId) -> Option<Touched> {
        let placement = self.world.buf(buf).placement;
        let recycles = self.world.exporter_of(buf).recycle == Recycle::Allocator;
        let (_, frames) = self.free(placement);
        let pages = self.pages(buf);
        let writes = Details {
            now: pages,
            moving: pages,
            ghosts: pages,
            owners: frames,
            values: frames,
            locks: BUFS.one(buf.0),
            pointers: BUFS.one(buf.0),
        };
        let objects = Touched::of(0, FREE | BUFS.one(buf.0));
        (placement != Placement::Cma && !recycles).then_some(Touched { writes, ..objects })
    }
}
