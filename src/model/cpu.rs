//! The CPU side: faults, loads and stores, copy on write, fork.
//!
//! Kernel counterparts: `mm/memory.c` (`do_fault`, `do_wp_page`, `copy_pte_range`),
//! `vmf_insert_pfn` and `vm_insert_page`, read from 6.12.
//!
//! **Differs from Linux**: loads and stores are sequentially consistent and a whole page holds one
//! value; a zap of a buffer is one atomic step; fork does not copy file descriptors.

use super::core::Core;
use super::objects::{Life, Owner, Pte, Reach, Slot, Target, Vma, VmaKind};
use super::rules::{
    Blocks, Coherency, FaultPage, FaultPurged, Huge, ImporterMmap, MmapKind, PatReserve, Placement,
    YesNo,
};
use super::step::{Cost, Effect, Errno, Hazard, HazardKind, Reply, Signal, Sink, Via};
use crate::units::{ActorId, BufId, FrameId, PageId, PteId, SgId, VmaId, first_pages};

/// What a fault is to make possible.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Want {
    /// A read.
    Read,
    /// A write.
    Write,
    /// A page of the process's own, read-only (FAULT_FLAG_UNSHARE).
    Unshare,
}

impl<S: Sink> Core<'_, S> {
    pub(super) fn load(&mut self, vma: VmaId, page: u8) -> Reply {
        let (pte, frame) = match self.access(vma, page, false) {
            Ok(found) => found,
            Err(reply) => return reply,
        };
        let area = self.state.area(vma, page);
        if self.incoherent(&area, frame) && !self.state.frames[frame.index()].cached {
            let entry = &mut self.state.frames[frame.index()];
            entry.cached = true;
            entry.cache_value = entry.value;
            let value = entry.value;
            self.emit(Effect::CacheFilled(frame, value));
        }
        let held = &self.state.frames[frame.index()];
        let aperture = area.reach == Reach::Aperture;
        let value = if aperture { held.value } else { held.cpu_value() };
        self.emit(Effect::Loaded(vma, page, frame, value));
        let target = self.target_of(vma, page, pte);
        self.check_read(frame, target, Via::Vma(vma, page), value, false);
        Reply::Value(value)
    }

    pub(super) fn store(&mut self, vma: VmaId, page: u8, value: u8) -> Reply {
        let (pte, frame) = match self.access(vma, page, true) {
            Ok(found) => found,
            Err(reply) => return reply,
        };
        let cached = self.incoherent(&self.state.area(vma, page), frame);
        let entry = &mut self.state.frames[frame.index()];
        if cached {
            entry.cached = true;
            entry.dirty = true;
            entry.cache_value = value;
        } else {
            entry.value = value;
        }
        self.emit(Effect::Stored(vma, page, frame, value));
        let target = self.target_of(vma, page, pte);
        self.check_write(frame, target, Via::Vma(vma, page), value);
        Reply::Done
    }

    /// Whether the CPU's accesses to `frame` through a VMA go through a cache that devices don't
    /// see.
    fn incoherent(&self, entry: &Vma, frame: FrameId) -> bool {
        let buf = entry.buf;
        buf.is_some()
            && entry.reach != Reach::Aperture
            && self.world.exporter_of(buf).coherency == Coherency::Incoherent
            && self.state.frames[frame.index()].owner != Owner::Anon
    }

    /// What an access through a VMA is meant for.
    pub(super) fn target_of(&self, vma: VmaId, page: u8, pte: PteId) -> Target {
        let entry = self.state.area(vma, page);
        if entry.buf.is_none() || !entry.shared {
            return Target::Va(pte);
        }
        self.buffer_page(vma, page).map_or(Target::Va(pte), Target::Page)
    }

    /// The buffer page behind page `page` of a VMA.
    pub(super) fn buffer_page(&self, vma: VmaId, page: u8) -> Option<PageId> {
        let entry = self.state.area(vma, page);
        if entry.buf.is_none() {
            return None;
        }
        self.world.page(entry.buf, entry.offset + page)
    }

    /// The entry to access through and the frame that it leads to, or that the CPU's TLB says; after a
    /// fault if need be.
    fn access(&mut self, vma: VmaId, page: u8, write: bool) -> Result<(PteId, FrameId), Reply> {
        let segv = Err(Reply::Signal(Signal::Sigsegv));
        let Some(id) = self.world.pte(vma, page) else { return segv };
        if let Some(frame) = self.by_tlb((vma, page), id, write) {
            return Ok((id, frame));
        }
        let entry = self.state.vmas[vma.index()];
        // A write implies a read: `access_error` (arch/x86/mm/fault.c), `do_page_fault`
        // (arch/arm64/mm/fault.c), 6.12.
        let allowed = entry.write || !write && entry.read;
        if entry.mapped & (1 << page) == 0 || !allowed {
            return segv;
        }
        let pte = self.state.ptes[id.index()];
        if pte.present() && (!write || pte.write) {
            self.translate(vma, id, &pte);
            return Ok((id, pte.frame));
        }
        let want = if write { Want::Write } else { Want::Read };
        match self.fault(vma, page, want) {
            Ok(()) => Err(Reply::Again),
            Err(signal) => Err(Reply::Signal(signal)),
        }
    }

    /// Serve a fault (`handle_mm_fault`). The caller has checked protection and lock.
    pub(super) fn fault(&mut self, vma: VmaId, page: u8, want: Want) -> Result<(), Signal> {
        let entry = self.state.vmas[vma.index()];
        let Some(id) = self.world.pte(vma, page) else { return Err(Signal::Sigsegv) };
        let pte = self.state.ptes[id.index()];
        if entry.buf.is_none() {
            return self.fault_private(vma, page, id, pte, FrameId::NONE, want);
        }
        if pte.present() {
            return self.fault_private(vma, page, id, pte, pte.frame, want);
        }
        let behind = self.populate(vma, page)?;
        if entry.shared {
            self.install(vma, page, behind, entry.write);
            return Ok(());
        }
        if self.world.exporter_of(entry.buf).mmap == MmapKind::Pfnmap
            && entry.kind == VmaKind::Pfnmap
        {
            // BUG_ON((vma->vm_flags & VM_PFNMAP) && is_cow_mapping(vma->vm_flags))
            self.hazard(Hazard {
                kind: HazardKind::KernelBug,
                actor: self.actor,
                via: Via::Vma(vma, page),
                target: None,
                frame: behind,
                owner: self.state.frames[behind.index()].owner,
                value: None,
                expected: None,
            });
            return Err(Signal::Oops);
        }
        // An exporter's handler that inserts the entry itself answers VM_FAULT_NOPAGE, and the copy
        // is the next fault's (do_cow_fault, mm/memory.c, 6.12).
        if want == Want::Read || entry.kind != VmaKind::Normal {
            self.install(vma, page, behind, false);
            return Ok(());
        }
        self.fault_private(vma, page, id, pte, behind, want)
    }

    /// The frame behind a VMA's page; an exporter that was not told that the buffer is purged
    /// fills it with zeros again.
    fn populate(&mut self, vma: VmaId, page: u8) -> Result<FrameId, Signal> {
        let entry = self.state.vmas[vma.index()];
        let Some(target) = self.buffer_page(vma, page) else { return Err(Signal::Sigbus) };
        if entry.reach == Reach::Shadow {
            return Ok(self.state.pages[target.index()].shadow);
        }
        if entry.reach == Reach::SgTable {
            return self.imported(entry.buf, entry.offset + page).ok_or(Signal::Sigbus);
        }
        if entry.reach == Reach::Aperture {
            return self.bound(entry.buf, entry.offset + page).ok_or(Signal::Sigbus);
        }
        // A VMA without a fault handler has none to ask (`do_fault`, mm/memory.c).
        let rules = self.world.exporter_of(entry.buf);
        let life = self.state.bufs[entry.buf.index()].life;
        let blind = life == Life::Purged && rules.fault_purged == FaultPurged::OldPage;
        if life != Life::Live && !blind || self.remapped(&entry) {
            return Err(Signal::Sigbus);
        }
        let shown = match rules.fault_page {
            FaultPage::AtOffset => Some(target),
            FaultPage::FromStart => self.world.page(entry.buf, page),
        };
        let frame = if blind {
            let kept = shown.map(|shown| self.state.pages[shown.index()].frame);
            kept.filter(|frame| frame.is_some())
        } else {
            shown.and_then(|shown| self.ensure_frame(entry.buf, shown))
        };
        let frame = frame.ok_or(Signal::Sigbus)?;
        if blind {
            self.frame_hazard(HazardKind::OrphanMapping, entry.buf, frame);
        }
        let by_page = match rules.mmap {
            MmapKind::MixedmapInsertPage | MmapKind::Shmem | MmapKind::PfnmapUnmarked => true,
            MmapKind::Pfnmap | MmapKind::MixedmapInsertPfn | MmapKind::RemapPfnRange => false,
        };
        // vm_insert_page: there is no page, or one with a count of 0.
        let tail = rules.blocks == Blocks::NonCompound && shown != self.world.page(entry.buf, 0);
        if by_page && (tail || !self.world.has_page(frame)) {
            return Err(Signal::Sigbus);
        }
        Ok(frame)
    }

    /// What an importer's own fault handler shows: the page that its sg_table says, wherever the buffer
    /// is by now (`vgem_gem_fault`, drivers/gpu/drm/vgem/vgem_drv.c, 5.8).
    fn imported(&self, buf: BufId, page: u8) -> Option<FrameId> {
        self.address(self.table_of(buf, ImporterMmap::Bypass)?, page)
    }

    /// The page behind an aperture: that of the sg_table, which is mapped again if `move_notify` said so.
    fn bound(&mut self, buf: BufId, page: u8) -> Option<FrameId> {
        let sg = self.table_of(buf, ImporterMmap::Aperture)?;
        if self.state.sgs[sg.index()] == Slot::Invalid && self.remap(sg, buf).is_err() {
            return None;
        }
        self.address(sg, page)
    }

    /// The sg_table of an importer whose mmap does so.
    fn table_of(&self, buf: BufId, mmap: ImporterMmap) -> Option<SgId> {
        (0..self.state.sgs.len()).map(SgId::at).find(|&sg| {
            let id = self.world.attachment_of(sg);
            self.state.sg_mapped(sg)
                && self.state.attachments[id.index()].buf == buf
                && self.world.importer_of(id).mmap == mmap
        })
    }

    /// The entries of apertures go, which are made of addresses that do no more.
    pub(super) fn release_apertures(&mut self, buf: BufId) {
        for vma in self.world.vma_ids().collect::<Vec<_>>() {
            let entry = self.state.vmas[vma.index()];
            if entry.reach == Reach::Aperture && entry.buf == buf {
                for page in 0..self.world.vma_pages(vma) {
                    self.zap_pte(vma, page);
                }
            }
        }
    }

    fn address(&self, sg: SgId, page: u8) -> Option<FrameId> {
        let frame = self.state.sg_frames[self.world.sgs[sg.index()].first + usize::from(page)];
        frame.is_some().then_some(frame)
    }

    /// Install an entry as the exporter's rule says.
    pub(super) fn install(&mut self, vma: VmaId, page: u8, frame: FrameId, write: bool) {
        let entry = self.state.vmas[vma.index()];
        let rules = self.world.exporter_of(entry.buf);
        let own = !matches!(entry.reach, Reach::Shadow | Reach::SgTable | Reach::Aperture);
        let by_aperture = entry.reach == Reach::Aperture;
        let by_pfn = own && matches!(rules.mmap, MmapKind::Pfnmap | MmapKind::MixedmapInsertPfn);
        let by_remap = own && self.remapped(&entry);
        if by_pfn && rules.huge != Huge::None && entry.shared && self.makes_huge(vma) {
            for index in 0..self.world.vma_pages(vma) {
                let Some(behind) = self.buffer_page(vma, index) else { continue };
                let frame = self.state.pages[behind.index()].frame;
                if entry.mapped & (1 << index) == 0 || frame.is_none() {
                    continue;
                }
                let special = rules.huge != Huge::Plain;
                self.set_pte(vma, index, Pte { frame, write, special, huge: true, ..Pte::ABSENT });
            }
            return;
        }
        let special = (by_pfn || by_remap || by_aperture) && self.world.host.pte_special.yes();
        if by_pfn && rules.pat == PatReserve::PerPfn {
            self.cost(Cost::PatSteps, 1);
        }
        // Without a special bit VM_MIXEDMAP inserts a counted page (vm_insert_mixed on pfn_valid);
        // VM_PFNMAP never does.
        let ordinary =
            own && rules.mmap == MmapKind::PfnmapUnmarked && self.world.host.pte_special.yes();
        let counted =
            !special && self.world.has_page(frame) && (entry.kind != VmaKind::Pfnmap || ordinary);
        self.set_pte(vma, page, Pte { frame, write, special, counted, ..Pte::ABSENT });
    }

    /// Whether `vmf_insert_pfn_pmd` can map the whole VMA with one entry: all of it is mapped, and
    /// the frames behind are contiguous and aligned to its size, as are the pages of the buffer
    /// (`ttm_bo_vm_insert_huge`, drivers/gpu/drm/ttm/ttm_bo_vm.c, 5.8: "IS_ALIGNED(pfn,
    /// fault_page_size)", and the whole range within the VMA).
    ///
    /// **Differs from Linux**: a huge entry covers as many pages as its VMA has, not 512; the
    /// VMA's address is aligned to its size.
    fn makes_huge(&self, vma: VmaId) -> bool {
        let entry = &self.state.vmas[vma.index()];
        let pages = self.world.vma_pages(vma);
        let first = self.buffer_page(vma, 0).map(|page| self.state.pages[page.index()].frame);
        let Some(first) = first.filter(|frame| frame.is_some()) else { return false };
        let start = (0..first.index())
            .filter(|index| self.world.frames[*index] == self.world.placement(first))
            .count();
        let aligned = |number: usize| number.is_multiple_of(usize::from(pages));
        let whole = entry.mapped == first_pages(pages);
        whole
            && aligned(start)
            && aligned(entry.offset.into())
            && (0..pages).all(|index| {
                self.buffer_page(vma, index).is_some_and(|page| {
                    let frame = self.state.pages[page.index()].frame;
                    frame.is_some()
                        && frame.index() == first.index() + usize::from(index)
                        && self.world.placement(frame) == self.world.placement(first)
                })
            })
    }

    fn set_pte(&mut self, vma: VmaId, page: u8, pte: Pte) {
        if let Some(id) = self.world.pte(vma, page) {
            let old = self.state.ptes[id.index()];
            self.state.ptes[id.index()] = pte;
            if old.present() && (old.frame != pte.frame || old.write && !pte.write) {
                self.flush_cpus(id);
            }
            self.emit(Effect::Faulted(vma, page, pte));
        }
    }

    /// Anonymous memory and copy on write.
    fn fault_private(
        &mut self,
        vma: VmaId,
        page: u8,
        id: PteId,
        pte: Pte,
        behind: FrameId,
        want: Want,
    ) -> Result<(), Signal> {
        let entry = self.state.vmas[vma.index()];
        let anon = pte.present() && self.state.frames[pte.frame.index()].owner == Owner::Anon;
        let may_write = entry.write && want != Want::Unshare;
        if !pte.present() && behind.is_none() && want == Want::Read && self.world.zero.is_some() {
            // do_anonymous_page() of a read: my_zero_pfn(), pte_mkspecial().
            let (frame, special) = (self.world.zero, self.world.host.pte_special.yes());
            let zero = Pte { frame, special, own: true, ..Pte::ABSENT };
            self.set_pte(vma, page, zero);
            return Ok(());
        }
        if anon && (pte.exclusive || self.state.references(pte.frame) == 1) {
            let pte = Pte { write: entry.write, exclusive: true, ..pte };
            self.set_pte(vma, page, pte);
            return Ok(());
        }
        let Some(to) = self.state.take_frame(self.world, Placement::System, Owner::Anon) else {
            return Err(Signal::Sigbus);
        };
        let from = if pte.present() { pte.frame } else { behind };
        let (value, ghost) = if from.is_none() {
            (0, 0)
        } else {
            let expected = self.expected(Target::Va(id));
            (self.state.frames[from.index()].cpu_value(), expected)
        };
        self.state.frames[to.index()].value = value;
        if pte.present() {
            self.notify_mmu(id);
        }
        self.emit(Effect::CowCopied { vma, page, from, to });
        let copy = Pte {
            frame: to,
            write: may_write,
            counted: true,
            exclusive: true,
            own: true,
            ghost,
            ..Pte::ABSENT
        };
        self.set_pte(vma, page, copy);
        if pte.counted {
            self.reference_dropped(pte.frame);
        }
        Ok(())
    }

    pub(super) fn fork(
        &mut self,
        child: ActorId,
        parent_first: VmaId,
        child_first: VmaId,
        count: u8,
    ) -> Reply {
        for index in 0..count {
            let (from, to) = (VmaId(parent_first.0 + index), VmaId(child_first.0 + index));
            let entry = self.state.vmas[from.index()];
            let left_out = entry.mapped == 0 || self.world.is_dontcopy(&entry);
            if left_out || self.state.vmas[to.index()].mapped != 0 {
                continue;
            }
            self.state.vmas[to.index()] = entry;
            for page in 0..self.world.vma_pages(from) {
                self.fork_pte(entry, from, to, page);
            }
        }
        self.emit(Effect::Forked(child));
        Reply::Done
    }

    /// `copy_present_pte`.
    fn fork_pte(&mut self, entry: Vma, from: VmaId, to: VmaId, page: u8) {
        let (Some(old), Some(new)) = (self.world.pte(from, page), self.world.pte(to, page)) else {
            return;
        };
        let pte = self.state.ptes[old.index()];
        // What the child can fault in is not copied: ordinary shared file mappings, and huge entries but
        // those of pmd_special (`vma_needs_copy`, mm/memory.c; `copy_huge_pmd`, mm/huge_memory.c, 6.12).
        let refills = entry.buf.is_some()
            && pte.huge
            && self.world.exporter_of(entry.buf).huge != Huge::Special;
        let faulted = entry.kind == VmaKind::Normal || refills;
        if !pte.present() || entry.shared && faulted {
            return;
        }
        if entry.shared {
            self.state.ptes[new.index()] = pte;
            self.emit(Effect::Faulted(to, page, pte));
            return;
        }
        let anon = self.state.frames[pte.frame.index()].owner == Owner::Anon;
        let pinned = self.state.dma_pinned(pte.frame);
        self.notify_mmu(old);
        if anon && pinned && self.world.host.fork_copies_pinned == YesNo::Yes {
            let Some(copy) = self.state.take_frame(self.world, Placement::System, Owner::Anon)
            else {
                return;
            };
            self.state.frames[copy.index()].value = self.state.frames[pte.frame.index()].value;
            self.emit(Effect::CowCopied { vma: to, page, from: pte.frame, to: copy });
            // maybe_mkwrite() of the child's VMA (copy_present_page, mm/memory.c, 6.12).
            let entry = Pte { frame: copy, write: entry.write, ..pte };
            self.state.ptes[new.index()] = entry;
            self.emit(Effect::Faulted(to, page, entry));
            return;
        }
        let shared = Pte { write: false, exclusive: false, ..pte };
        self.state.ptes[old.index()] = shared;
        self.flush_cpus(old);
        self.state.ptes[new.index()] = shared;
        self.emit(Effect::Faulted(to, page, shared));
    }

    pub(super) fn cost(&mut self, cost: Cost, count: usize) {
        self.emit(Effect::Cost(cost, u32::try_from(count).unwrap_or(u32::MAX)));
    }

    pub(super) fn close(&mut self, buf: BufId) -> Reply {
        let entry = &mut self.state.bufs[buf.index()];
        if entry.fds == 0 {
            return Reply::Errno(Errno::Einval);
        }
        entry.fds -= 1;
        self.maybe_release(buf);
        Reply::Done
    }
}
