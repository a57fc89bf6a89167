//! The static half of a scenario: rules, and how many of everything there are.

use std::sync::Arc;

use super::mentions::{FRAMES_MAX, FrameSet, one, placement_index};
use super::objects::{Reach, Vma};
use super::policy::ExporterPolicy;
use super::rules::{
    DeviceTlb, ExporterRules, HostRules, Huge, ImporterMmap, ImporterRules, MmapKind, Notifier,
    Placement,
};
use crate::units::{
    ActorId, AttachmentId, BufId, ExporterId, FrameId, ImporterId, MAX_OBJECTS, MAX_PAGES, PageId,
    PinId, PteId, SgId, VmaId,
};

/// A dma-buf as it is declared.
#[derive(Debug, Clone)]
pub struct BufDecl {
    /// Who exports it.
    pub exporter: ExporterId,
    /// Its pages are `first_page .. first_page + pages`.
    pub first_page: PageId,
    /// Size in pages, 1 to [`MAX_PAGES`].
    pub pages: u8,
    /// Where it is allocated.
    pub placement: Placement,
    /// Whether it exists from the start; otherwise [`super::Step::Alloc`] makes it.
    pub allocated: bool,
    /// What every page holds when it is allocated.
    pub fill: u8,
    /// Whether some step may close it; see [`World::never_closed`].
    pub closed: bool,
}

/// A virtual memory area that some step may create.
#[derive(Debug, Clone)]
pub struct VmaDecl {
    /// The process whose `mm` it belongs to.
    pub mm: ActorId,
    /// Its page table slots are `first_pte .. first_pte + pages`.
    pub first_pte: PteId,
    /// Size in pages.
    pub pages: u8,
    /// The only buffer that is ever mapped here; none for anonymous memory.
    pub buf: BufId,
    /// Whether it is ever mapped MAP_PRIVATE.
    pub private: bool,
}

/// A pin that some step may take.
#[derive(Debug, Clone)]
pub struct PinDecl {
    /// What the driver that holds it registered on the range.
    pub notifier: Notifier,
    /// Whether it is an entry of a `frame_vector`, to be used only when all of it is there.
    pub vector: bool,
}

/// An sg_table that some step may map.
#[derive(Debug, Clone)]
pub struct SgDecl {
    /// The attachment that it is mapped through.
    pub attachment: AttachmentId,
    /// Its addresses are `first .. first + MAX_PAGES` of the table of addresses.
    pub first: usize,
}

/// An attachment that some step may make.
#[derive(Debug, Clone)]
pub struct AttachmentDecl {
    /// Whose rules the importing driver follows.
    pub importer: ImporterId,
}

/// A table would exceed [`MAX_OBJECTS`], or a buffer [`MAX_PAGES`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("too many {what}: {count}, the limit is {limit}")]
pub struct TooMany {
    /// Of what there are too many.
    pub what: &'static str,
    /// How many there would be.
    pub count: usize,
    /// How many there may be.
    pub limit: usize,
}

/// Rules and tables of a scenario; what does not change while it runs.
///
/// Build one with [`World::new`] and the `add_*` methods, then make a
/// [`super::State`] of it. Adding to a world invalidates states made before.
#[derive(Debug, Clone)]
pub struct World {
    /// Architecture and core kernel.
    pub host: HostRules,
    pub(super) exporters: Vec<ExporterRules>,
    pub(super) policies: Vec<Option<Arc<dyn ExporterPolicy>>>,
    pub(super) importers: Vec<ImporterRules>,
    pub(super) bufs: Vec<BufDecl>,
    pages_max: u8,
    pub(super) page_bufs: Vec<BufId>,
    pub(super) frames: Vec<Placement>,
    /// By placement, its first frame, and all of the first 63: see [`super::mentions`].
    pub(super) places: [(u8, FrameSet); 3],
    /// The zero page, where there is anonymous memory that may map it.
    pub(super) zero: FrameId,
    pub(super) vmas: Vec<VmaDecl>,
    pub(super) pte_vmas: Vec<VmaId>,
    pub(super) pins: Vec<PinDecl>,
    pub(super) attachments: Vec<AttachmentDecl>,
    pub(super) sgs: Vec<SgDecl>,
    pub(super) fences: usize,
    pub(super) actors: usize,
    /// Whose address space each actor is in: its own, or that of the process whose thread it is.
    mms: Vec<ActorId>,
    /// The address spaces that several actors are in, a bit each.
    threaded: u16,
    /// Whether each address space has an `mmap_lock`.
    pub(super) mmap_locks: bool,
    /// Whether anybody reserves several buffers under a ticket.
    pub(super) tickets: bool,
}

fn bounded(what: &'static str, count: usize, limit: usize) -> Result<(), TooMany> {
    if count > limit { Err(TooMany { what, count, limit }) } else { Ok(()) }
}

impl Default for World {
    fn default() -> Self {
        Self::new(HostRules::default())
    }
}

impl World {
    /// A world without anything in it.
    #[must_use]
    pub const fn new(host: HostRules) -> Self {
        Self {
            host,
            exporters: Vec::new(),
            policies: Vec::new(),
            importers: Vec::new(),
            bufs: Vec::new(),
            pages_max: 0,
            page_bufs: Vec::new(),
            frames: Vec::new(),
            places: [(0, 0); 3],
            zero: FrameId::NONE,
            vmas: Vec::new(),
            pte_vmas: Vec::new(),
            pins: Vec::new(),
            attachments: Vec::new(),
            sgs: Vec::new(),
            fences: 0,
            actors: 0,
            mms: Vec::new(),
            threaded: 0,
            mmap_locks: false,
            tickets: false,
        }
    }

    /// Give every address space its `mmap_lock`. It makes for more states, and for no other answers
    /// where nobody takes a lock of his own ([`super::Step::ResvLock`], [`super::Step::MmapLock`]):
    /// who waits for an `mmap_lock` then has nothing that somebody else waits for.
    pub const fn lock_address_spaces(&mut self) {
        self.mmap_locks = true;
    }

    /// Give every actor room for a ticket: [`super::Step::DrawTicket`] does nothing without.
    pub const fn draw_tickets(&mut self) {
        self.tickets = true;
    }

    /// Whether they have it.
    #[must_use]
    pub const fn locks_address_spaces(&self) -> bool {
        self.mmap_locks
    }

    /// Add `frames` page frames to `placement`. Frames of one placement must be added together,
    /// before any state is made.
    ///
    /// # Errors
    /// [`TooMany`] above [`MAX_OBJECTS`] frames.
    ///
    /// # Panics
    /// When there is room for anonymous memory already: its zero page is the last frame.
    pub fn add_frames(&mut self, placement: Placement, frames: usize) -> Result<(), TooMany> {
        assert!(self.zero.is_none(), "frames are added before VMAs");
        bounded("frames", self.frames.len() + frames, MAX_OBJECTS)?;
        let index = placement_index(placement);
        for frame in (self.frames.len()..self.frames.len() + frames).map(FrameId::at) {
            let (first, all) = &mut self.places[index];
            if !self.frames.contains(&placement) {
                *first = frame.0;
            }
            *all |= if frame.index() < FRAMES_MAX { one(frame) } else { 0 };
            self.frames.push(placement);
        }
        Ok(())
    }

    /// Add an exporter.
    ///
    /// # Errors
    /// [`TooMany`] above [`MAX_OBJECTS`].
    pub fn add_exporter(&mut self, rules: ExporterRules) -> Result<ExporterId, TooMany> {
        bounded("exporters", self.exporters.len() + 1, MAX_OBJECTS)?;
        self.exporters.push(rules);
        self.policies.push(None);
        Ok(ExporterId::at(self.exporters.len() - 1))
    }

    /// The rules of all exporters, to try others.
    pub fn exporters_mut(&mut self) -> &mut [ExporterRules] {
        &mut self.exporters
    }

    /// The rules of all importers, to try others.
    pub fn importers_mut(&mut self) -> &mut [ImporterRules] {
        &mut self.importers
    }

    /// Let `policy` decide for `exporter` where the rules leave something to decide.
    pub fn set_policy(&mut self, exporter: ExporterId, policy: Arc<dyn ExporterPolicy>) {
        if let Some(steps) = policy.move_steps() {
            self.exporters[exporter.index()].move_steps = steps;
        }
        self.policies[exporter.index()] = Some(policy);
    }

    /// Add an importer.
    ///
    /// # Errors
    /// [`TooMany`] above [`MAX_OBJECTS`].
    pub fn add_importer(&mut self, rules: ImporterRules) -> Result<ImporterId, TooMany> {
        bounded("importers", self.importers.len() + 1, MAX_OBJECTS)?;
        self.importers.push(rules);
        Ok(ImporterId::at(self.importers.len() - 1))
    }

    /// Add a buffer of `pages` pages.
    ///
    /// # Errors
    /// [`TooMany`] when the buffer has more than [`MAX_PAGES`] pages or the tables are full.
    pub fn add_buf(
        &mut self,
        exporter: ExporterId,
        pages: u8,
        placement: Placement,
        allocated: bool,
        fill: u8,
    ) -> Result<BufId, TooMany> {
        bounded("pages of a buffer", usize::from(pages), MAX_PAGES)?;
        bounded("pages", self.page_bufs.len() + usize::from(pages), MAX_OBJECTS)?;
        bounded("buffers", self.bufs.len() + 1, MAX_OBJECTS)?;
        let first_page = PageId::at(self.page_bufs.len());
        let buf = BufId::at(self.bufs.len());
        self.page_bufs.extend(std::iter::repeat_n(buf, usize::from(pages)));
        let closed = true;
        let decl = BufDecl { exporter, first_page, pages, placement, allocated, fill, closed };
        self.bufs.push(decl);
        self.pages_max = self.pages_max.max(pages);
        Ok(buf)
    }

    /// Promise that [`super::Step::Close`] is never taken on `buf`: it makes for smaller footprints
    /// ([`super::objects()`]), nothing else.
    pub fn never_closed(&mut self, buf: BufId) {
        self.bufs[buf.index()].closed = false;
    }

    /// Add room for a VMA of `pages` pages in the address space of `mm`, for mappings of `buf`
    /// (none: anonymous memory), MAP_PRIVATE or not.
    ///
    /// # Errors
    /// [`TooMany`] when it has more than [`MAX_PAGES`] pages or the tables are full.
    pub fn add_vma(
        &mut self,
        mm: ActorId,
        pages: u8,
        buf: BufId,
        private: bool,
    ) -> Result<VmaId, TooMany> {
        bounded("pages of a VMA", usize::from(pages), MAX_PAGES)?;
        bounded("page table slots", self.pte_vmas.len() + usize::from(pages), MAX_OBJECTS)?;
        bounded("VMAs", self.vmas.len() + 1, MAX_OBJECTS)?;
        if buf.is_none() && self.zero.is_none() {
            bounded("frames", self.frames.len() + 1, MAX_OBJECTS)?;
            self.zero = FrameId::at(self.frames.len());
            self.frames.push(Placement::System);
        }
        let vma = VmaId::at(self.vmas.len());
        let first_pte = PteId::at(self.pte_vmas.len());
        self.pte_vmas.extend(std::iter::repeat_n(vma, usize::from(pages)));
        self.vmas.push(VmaDecl { mm, first_pte, pages, buf, private });
        Ok(vma)
    }

    /// Add room for a pin (or cached pfn) whose holder registered `notifier`; `vector` for an entry
    /// of a `frame_vector`.
    ///
    /// # Errors
    /// [`TooMany`] above [`MAX_OBJECTS`].
    pub fn add_pin(&mut self, notifier: Notifier, vector: bool) -> Result<PinId, TooMany> {
        bounded("pins", self.pins.len() + 1, MAX_OBJECTS)?;
        self.pins.push(PinDecl { notifier, vector });
        Ok(PinId::at(self.pins.len() - 1))
    }

    /// Add room for an attachment of `importer`.
    ///
    /// # Errors
    /// [`TooMany`] above [`MAX_OBJECTS`].
    pub fn add_attachment(&mut self, importer: ImporterId) -> Result<AttachmentId, TooMany> {
        bounded("attachments", self.attachments.len() + 1, MAX_OBJECTS)?;
        self.attachments.push(AttachmentDecl { importer });
        Ok(AttachmentId::at(self.attachments.len() - 1))
    }

    /// Add room for an sg_table mapped through `attachment`.
    ///
    /// # Errors
    /// [`TooMany`] above [`MAX_OBJECTS`].
    pub fn add_sg(&mut self, attachment: AttachmentId) -> Result<SgId, TooMany> {
        bounded("sg_tables", self.sgs.len() + 1, MAX_OBJECTS / MAX_PAGES)?;
        self.sgs.push(SgDecl { attachment, first: self.sgs.len() * MAX_PAGES });
        Ok(SgId::at(self.sgs.len() - 1))
    }

    /// Add room for a fence.
    ///
    /// # Errors
    /// [`TooMany`] above [`MAX_OBJECTS`].
    pub fn add_fence(&mut self) -> Result<crate::units::FenceId, TooMany> {
        bounded("fences", self.fences + 1, MAX_OBJECTS)?;
        self.fences += 1;
        Ok(crate::units::FenceId::at(self.fences - 1))
    }

    /// Add an actor, whoever executes steps.
    ///
    /// # Errors
    /// [`TooMany`] above 16.
    pub fn add_actor(&mut self) -> Result<ActorId, TooMany> {
        bounded("actors", self.actors + 1, 16)?;
        self.actors += 1;
        let actor = ActorId::at(self.actors - 1);
        self.mms.push(actor);
        Ok(actor)
    }

    /// Add an actor that is a thread of `process`: it has a CPU and a TLB of its own, and all else that a
    /// process has is shared.
    ///
    /// # Errors
    /// [`TooMany`] above 16 actors.
    pub fn add_thread(&mut self, process: ActorId) -> Result<ActorId, TooMany> {
        let actor = self.add_actor()?;
        let mm = self.mm(process);
        self.mms[actor.index()] = mm;
        self.threaded |= 1 << mm.0;
        Ok(actor)
    }

    /// In whose address space `actor` is.
    #[must_use]
    pub fn mm(&self, actor: ActorId) -> ActorId {
        self.mms.get(actor.index()).copied().unwrap_or(actor)
    }

    /// Whether several actors are in the address space of `mm`: its CPUs have TLBs then, whose flush takes
    /// time.
    #[must_use]
    pub const fn has_threads(&self, mm: ActorId) -> bool {
        self.threaded != 0 && self.threaded & 1 << mm.0 != 0
    }

    /// Whether any address space has several actors.
    #[must_use]
    pub const fn threads(&self) -> bool {
        self.threaded != 0
    }

    /// How `buf` was declared.
    #[must_use]
    pub fn buf(&self, buf: BufId) -> &BufDecl {
        &self.bufs[buf.index()]
    }

    /// The size of the largest buffer, in pages.
    pub(super) const fn pages_max(&self) -> u8 {
        self.pages_max
    }

    /// Number of buffers.
    #[must_use]
    pub fn bufs(&self) -> usize {
        self.bufs.len()
    }

    /// Number of actors.
    #[must_use]
    pub fn actors(&self) -> usize {
        self.actors
    }

    /// Number of frames of all placements together.
    #[must_use]
    pub fn frames(&self) -> usize {
        self.frames.len()
    }

    /// The zero page (`ZERO_PAGE(0)`); none where there is no anonymous memory.
    #[must_use]
    pub const fn zero_page(&self) -> FrameId {
        self.zero
    }

    /// What the driver that holds a pin registered on the range.
    #[must_use]
    pub fn notifier_of(&self, pin: PinId) -> Notifier {
        self.pins[pin.index()].notifier
    }

    /// Where `frame` is.
    #[must_use]
    pub fn placement(&self, frame: FrameId) -> Placement {
        self.frames[frame.index()]
    }

    /// The rules of the exporter of `buf`.
    #[must_use]
    pub fn exporter_of(&self, buf: BufId) -> &ExporterRules {
        &self.exporters[self.buf(buf).exporter.index()]
    }

    /// The rules of `importer`.
    #[must_use]
    pub fn importer(&self, importer: ImporterId) -> &ImporterRules {
        &self.importers[importer.index()]
    }

    /// The rules of the importer that made `attachment`.
    #[must_use]
    pub fn importer_of(&self, attachment: AttachmentId) -> &ImporterRules {
        self.importer(self.attachments[attachment.index()].importer)
    }

    /// The attachment that `sg` is mapped through.
    #[must_use]
    pub fn attachment_of(&self, sg: SgId) -> AttachmentId {
        self.sgs[sg.index()].attachment
    }

    /// The buffer that `page` is a page of.
    #[must_use]
    pub fn buf_of(&self, page: PageId) -> BufId {
        self.page_bufs[page.index()]
    }

    /// Position of `page` in its buffer.
    #[must_use]
    pub fn page_index(&self, page: PageId) -> u8 {
        page.0 - self.buf(self.buf_of(page)).first_page.0
    }

    /// Page `index` of `buf`, or none when the buffer is shorter.
    #[must_use]
    pub fn page(&self, buf: BufId, index: u8) -> Option<PageId> {
        let decl = self.bufs.get(buf.index())?;
        (index < decl.pages).then(|| PageId(decl.first_page.0 + index))
    }

    /// The pages of `buf`, in order.
    pub fn pages(&self, buf: BufId) -> impl Iterator<Item = PageId> + use<> {
        let decl = self.buf(buf);
        (decl.first_page.0..decl.first_page.0 + decl.pages).map(PageId)
    }

    /// The process that `vma` belongs to.
    #[must_use]
    pub fn mm_of(&self, vma: VmaId) -> ActorId {
        self.vmas[vma.index()].mm
    }

    /// Number of pages of `vma`.
    #[must_use]
    pub fn vma_pages(&self, vma: VmaId) -> u8 {
        self.vmas[vma.index()].pages
    }

    /// The page table slot of page `index` of `vma`, or none beyond its end.
    #[must_use]
    pub fn pte(&self, vma: VmaId, index: u8) -> Option<PteId> {
        let decl = self.vmas.get(vma.index())?;
        (index < decl.pages).then(|| PteId(decl.first_pte.0 + index))
    }

    /// The VMA of a page table slot and the position in it.
    #[must_use]
    pub fn vma_of(&self, pte: PteId) -> (VmaId, u8) {
        let vma = self.pte_vmas[pte.index()];
        (vma, pte.0 - self.vmas[vma.index()].first_pte.0)
    }

    /// Number of pages of `vma`, the buffer that is mapped there, and whether MAP_PRIVATE.
    #[must_use]
    pub fn vma_shape(&self, vma: VmaId) -> (u8, BufId, bool) {
        let decl = &self.vmas[vma.index()];
        (decl.pages, decl.buf, decl.private)
    }

    /// Whether the exporter sets VM_IO on its mappings, beside VM_PFNMAP or without it.
    #[must_use]
    pub fn is_vm_io(&self, vma: &Vma) -> bool {
        vma.buf.is_some()
            && !matches!(vma.reach, Reach::Shadow | Reach::SgTable | Reach::Aperture)
            && {
                let rules = self.exporter_of(vma.buf);
                rules.vm_io.yes() || rules.mmap == MmapKind::RemapPfnRange
            }
    }

    /// Whether the exporter sets VM_DONTCOPY on its mappings.
    #[must_use]
    pub fn is_dontcopy(&self, vma: &Vma) -> bool {
        vma.buf.is_some()
            && !matches!(vma.reach, Reach::Shadow | Reach::SgTable | Reach::Aperture)
            && self.exporter_of(vma.buf).vm_dontcopy.yes()
    }

    /// Whether a frame has a struct page (`pfn_valid`).
    #[must_use]
    pub fn has_page(&self, frame: FrameId) -> bool {
        self.host.vram_pages.yes() || self.placement(frame) != Placement::Vram
    }

    /// Whether some buffer may be mapped by huge entries, or asks for one range: where a frame lies
    /// matters then.
    pub(super) fn huge_entries(&self) -> bool {
        (0..self.bufs.len()).any(|buf| {
            let rules = self.exporter_of(BufId::at(buf));
            rules.huge != Huge::None || rules.mmap == MmapKind::RemapPfnRange
        })
    }

    pub(super) fn buf_ids(&self) -> impl Iterator<Item = BufId> + use<> {
        (0..self.bufs.len()).map(BufId::at)
    }

    /// Whether an allocation may leave in memory, or in the cache, what the frame's last owner wrote: what a
    /// free frame holds matters then.
    pub(super) fn shows_last_owners(&self) -> bool {
        (0..self.bufs.len()).any(|buf| {
            let rules = self.exporter_of(BufId::at(buf));
            rules.fills_in_cache() || rules.keeps_lines()
        })
    }

    /// Whether some importer has a fault handler of its own, which shows what its sg_table says.
    pub(super) fn bypasses(&self) -> bool {
        self.importers.iter().any(|importer| importer.mmap == ImporterMmap::Bypass)
    }

    /// Whether some importer's device has an aperture that the CPU sees.
    pub(crate) fn apertures(&self) -> bool {
        self.importers.iter().any(|importer| importer.mmap == ImporterMmap::Aperture)
    }

    /// Whether some device reaches bounce pages.
    pub(crate) fn bounces(&self) -> bool {
        self.importers.iter().any(|importer| importer.bounce.yes())
    }

    /// Whether the device behind `sg` caches what it translates.
    pub(super) fn has_tlb(&self, sg: SgId) -> bool {
        self.importer_of(self.attachment_of(sg)).device_tlb == DeviceTlb::Cached
    }

    /// Whether any device does.
    pub(crate) fn device_tlbs(&self) -> bool {
        self.importers.iter().any(|importer| importer.device_tlb == DeviceTlb::Cached)
    }

    pub(super) fn vma_ids(&self) -> impl Iterator<Item = VmaId> + use<> {
        (0..self.vmas.len()).map(VmaId::at)
    }
}
