//! mmap, munmap, mremap, and what an exporter, an importer and the core say to them.
//!
//! Kernel counterparts: `mm/mmap.c`, `mm/mremap.c`, `dma_buf_mmap` (drivers/dma-buf/dma-buf.c) and
//! `drm_gem_mmap` (drivers/gpu/drm/drm_gem.c), read from 6.12.

use super::core::Core;
use super::moving;
use super::objects::{EMPTY_VMA, Life, Owner, Pte, Reach, Slot, Target, Vma, VmaKind};
use super::rules::{Cow, FaultPurged, ImporterMmap, MmapCheck, MmapKind, PatReserve, Placement};
use super::step::{Cost, Effect, Errno, HazardKind, Mmap, Reply, Sink};
use crate::units::{BufId, PageSet, PteId, VmaId, first_pages};

impl<S: Sink> Core<'_, S> {
    pub(super) fn mmap(&mut self, mmap: &Mmap) -> Reply {
        let pages = self.world.vma_pages(mmap.vma);
        let mapped = first_pages(pages);
        let mut entry = Vma {
            mapped,
            buf: mmap.buf,
            offset: mmap.offset,
            shared: mmap.shared,
            read: mmap.read,
            write: mmap.write,
            ..EMPTY_VMA
        };
        if self.state.vmas[mmap.vma.index()].mapped != 0 {
            return Reply::Errno(Errno::Einval);
        }
        if mmap.buf.is_some()
            && let Err(errno) = self.mmap_buf(mmap, pages, &mut entry)
        {
            return Reply::Errno(errno);
        }
        self.state.vmas[mmap.vma.index()] = entry;
        self.emit(Effect::VmaMapped(mmap.vma));
        if self.remapped(&entry) {
            for page in 0..pages {
                let behind = self.buffer_page(mmap.vma, page);
                if let Some(frame) = behind.and_then(|behind| self.ensure_frame(mmap.buf, behind)) {
                    self.install(mmap.vma, page, frame, entry.write && entry.shared);
                }
            }
        }
        Reply::Done
    }

    /// Whether all entries are made at mmap and none by a fault.
    pub(super) fn remapped(&self, entry: &Vma) -> bool {
        match entry.reach {
            Reach::Shadow | Reach::SgTable | Reach::Aperture | Reach::Anon => false,
            Reach::Exporter | Reach::WrongPgoff | Reach::Importer => {
                self.world.exporter_of(entry.buf).mmap == MmapKind::RemapPfnRange
            }
        }
    }

    /// Whether one range of pfns covers what is mapped.
    fn one_range(&self, mmap: &Mmap, pages: u8) -> bool {
        let frame = |index| {
            let page = self.world.page(mmap.buf, mmap.offset + index)?;
            Some(self.state.pages[page.index()].frame).filter(|frame| frame.is_some())
        };
        frame(0).is_some_and(|first| {
            (0..pages).all(|index| {
                frame(index).is_some_and(|frame| {
                    frame.index() == first.index() + usize::from(index)
                        && self.world.placement(frame) == self.world.placement(first)
                })
            })
        })
    }

    /// The exporter's (or the importer's) mmap.
    fn mmap_buf(&mut self, mmap: &Mmap, pages: u8, entry: &mut Vma) -> Result<(), Errno> {
        let rules = self.world.exporter_of(mmap.buf);
        let life = self.state.bufs[mmap.buf.index()].life;
        if matches!(life, Life::Unallocated | Life::Released | Life::Revoked | Life::Quiesced) {
            return Err(Errno::Enodev);
        }
        if usize::from(mmap.offset) + usize::from(pages)
            > usize::from(self.world.buf(mmap.buf).pages)
        {
            return Err(Errno::Einval);
        }
        entry.kind = match rules.mmap {
            MmapKind::Pfnmap | MmapKind::RemapPfnRange | MmapKind::PfnmapUnmarked => {
                VmaKind::Pfnmap
            }
            MmapKind::MixedmapInsertPfn | MmapKind::MixedmapInsertPage => VmaKind::Mixedmap,
            MmapKind::Shmem => VmaKind::Normal,
        };
        entry.reach = Reach::Exporter;
        if mmap.via.is_some() {
            match self.world.importer(mmap.via).mmap {
                ImporterMmap::Redirect => {}
                ImporterMmap::KeepFile => entry.reach = Reach::Importer,
                ImporterMmap::WrongPgoff => entry.reach = Reach::WrongPgoff,
                ImporterMmap::Forbid => return Err(Errno::Einval),
                ImporterMmap::Shadow => {
                    entry.reach = Reach::Shadow;
                    entry.kind = VmaKind::Normal;
                    return self.shadow(mmap.buf);
                }
                ImporterMmap::Bypass => {
                    entry.reach = Reach::SgTable;
                    entry.kind = VmaKind::Normal;
                    return if life == Life::Live { Ok(()) } else { Err(Errno::Enodev) };
                }
                ImporterMmap::Aperture if !mmap.shared => return Err(Errno::Einval),
                ImporterMmap::Aperture => {
                    entry.reach = Reach::Aperture;
                    entry.kind = VmaKind::Pfnmap;
                    return if life == Life::Live { Ok(()) } else { Err(Errno::Enodev) };
                }
            }
        }
        let refused = !mmap.shared && rules.cow == Cow::Reject
            || rules.mmap == MmapKind::RemapPfnRange
                && (life != Life::Live || !mmap.shared && !self.one_range(mmap, pages));
        self.mmap_check(mmap, !refused && entry.kind == VmaKind::Pfnmap, !refused)?;
        if refused {
            return Err(Errno::Einval);
        }
        if rules.mmap == MmapKind::RemapPfnRange && rules.pat == PatReserve::PerPfn {
            let ranges = if self.one_range(mmap, pages) { 1 } else { pages.into() };
            self.cost(Cost::PatSteps, ranges);
        }
        self.state.bufs[mmap.buf.index()].vma_pointer = mmap.vma;
        Ok(())
    }

    /// The check that the patch adds behind `dmabuf->ops->mmap()`: it looks at the VMA whatever that
    /// answered, and an exporter that refuses leaves no flag there. `drm_gem_mmap` has no such check.
    fn mmap_check(&mut self, mmap: &Mmap, pfnmap: bool, mapped: bool) -> Result<(), Errno> {
        if mmap.node || pfnmap {
            return Ok(());
        }
        match self.world.host.dma_buf_mmap_check {
            MmapCheck::Refuse if mapped => return Err(Errno::Einval),
            MmapCheck::Off | MmapCheck::Refuse => {}
            MmapCheck::Warn => {
                self.state.warned = true;
                self.emit(Effect::Warned("WARN_ON(!(vma->vm_flags & VM_PFNMAP))"));
            }
        }
        Ok(())
    }

    /// Backing of the importer's own, allocated at the first mmap.
    fn shadow(&mut self, buf: BufId) -> Result<(), Errno> {
        for page in self.world.pages(buf) {
            if self.state.pages[page.index()].shadow.is_none() {
                let frame = self
                    .state
                    .take_frame(self.world, Placement::System, Owner::Shadow(page))
                    .ok_or(Errno::Enomem)?;
                self.state.frames[frame.index()].value = 0;
                self.state.pages[page.index()].shadow = frame;
                self.emit(Effect::FrameFilled(frame, Owner::Shadow(page), 0));
            }
        }
        Ok(())
    }

    pub(super) fn munmap(&mut self, vma: VmaId, pages: PageSet) -> Reply {
        let entry = self.state.vmas[vma.index()];
        let gone = entry.mapped & pages;
        if gone == 0 {
            return Reply::Skipped;
        }
        // A huge entry of pfns does not split: all of it goes, and the rest faults again
        // (__split_huge_pmd_locked, mm/huge_memory.c, 6.12).
        let huge = |page: &u8| {
            let pte = self.world.pte(vma, *page).map(|id| self.state.ptes[id.index()]);
            gone & (1 << page) != 0 || pte.is_some_and(|pte| pte.huge)
        };
        let cleared = (0..self.world.vma_pages(vma)).filter(huge);
        let cleared = cleared.fold(0, |set: PageSet, page| set | 1 << page);
        let in_parts = self.world.has_threads(self.world.mm_of(vma));
        if in_parts {
            self.detach_pages(vma, gone, cleared);
        } else {
            for page in (0..self.world.vma_pages(vma)).filter(|page| cleared & (1 << page) != 0) {
                self.zap_pte(vma, page);
            }
        }
        self.state.vmas[vma.index()].mapped &= !gone;
        if self.state.vmas[vma.index()].mapped == 0 {
            self.state.vmas[vma.index()] = EMPTY_VMA;
        }
        self.emit(Effect::VmaUnmapped(vma, gone));
        if !in_parts {
            self.close_vma(vma, entry.buf);
        }
        Reply::Done
    }

    /// `remove_vma`: what was unmapped is closed, and its reference to the buffer goes.
    pub(super) fn close_vma(&mut self, vma: VmaId, buf: BufId) {
        if buf.is_some() && self.state.bufs[buf.index()].vma_pointer == vma {
            // A driver with one pointer forgets it in vm_ops->close, which a part's end calls too.
            self.state.bufs[buf.index()].vma_pointer = VmaId::NONE;
        }
        self.unmapped(buf);
        self.maybe_release(buf);
    }

    /// Whether anybody maps the buffer, with entries or without.
    pub(super) fn is_mapped(&self, buf: BufId) -> bool {
        let maps = |vma: &Vma| vma.mapped != 0 && vma.buf == buf;
        self.state.vmas.iter().any(maps) || self.state.detached.iter().any(|vma| maps(&vma.area))
    }

    /// A purge gives nothing back: an array of pages lives as long as a mapping does. Who has an entry
    /// goes on at once, who has none after the next fault.
    pub(super) fn kept(&mut self, buf: BufId) {
        for page in self.world.pages(buf) {
            let frame = self.state.pages[page.index()].frame;
            if frame.is_none() {
                continue;
            }
            if self.state.counted_pins(frame) > 0 {
                self.frame_hazard(HazardKind::OrphanPin, buf, frame);
            }
            if self.state.ptes.iter().any(|pte| pte.frame == frame) {
                self.frame_hazard(HazardKind::OrphanMapping, buf, frame);
            }
        }
    }

    /// `drm_gem_shmem_vm_close`: what a purge left for the last mapping goes with it.
    fn unmapped(&mut self, buf: BufId) {
        let keeps = |buf| self.world.exporter_of(buf).fault_purged == FaultPurged::OldPage;
        if buf.is_some()
            && keeps(buf)
            && self.state.bufs[buf.index()].life == Life::Purged
            && !self.is_mapped(buf)
        {
            for page in self.world.pages(buf) {
                moving::free_all(self, page);
            }
        }
    }

    pub(super) fn mremap(&mut self, to: VmaId, from: VmaId) -> Reply {
        if self.state.vmas[from.index()].mapped == 0
            || self.state.vmas[to.index()].mapped != 0
            || self.world.vma_pages(to) < self.world.vma_pages(from)
        {
            return Reply::Errno(Errno::Efault);
        }
        self.state.vmas[to.index()] = self.state.vmas[from.index()];
        self.state.vmas[from.index()] = EMPTY_VMA;
        for page in 0..self.world.vma_pages(from) {
            if let (Some(new), Some(old)) = (self.world.pte(to, page), self.world.pte(from, page)) {
                self.notify_mmu(old);
                self.state.ptes[new.index()] = self.state.ptes[old.index()];
                self.state.ptes[old.index()] = Pte::ABSENT;
                self.flush_cpus(old);
                self.follow_mremap(old, new);
            }
        }
        self.emit(Effect::VmaMoved { to, from });
        Reply::Done
    }

    /// `mprotect_fixup` and `change_protection` (mm/mprotect.c, 6.12). Entries of a shared mapping take the
    /// VMA's right: no exporter here has a `page_mkwrite`, nor is any file written back
    /// (`vma_wants_writenotify`, mm/mmap.c). Of a private one the next write asks, but for an anonymous page
    /// that is the process's alone (`can_change_private_pte_writable`). A huge entry stays whole, since all of
    /// it changes (`change_huge_pmd`, mm/huge_memory.c). Notifiers are told where there is an entry
    /// (MMU_NOTIFY_PROTECTION_VMA in `change_pmd_range`), and nothing happens where nothing changes.
    ///
    /// Linux goes as far as the first page that is not mapped, and answers ENOMEM there (`do_mprotect_pkey`).
    ///
    /// **Differs from Linux**: with a hole in the middle nothing changes, because a VMA here has one right;
    /// every file is open for writing (VM_MAYWRITE), so that nothing answers EACCES; TLBs are flushed in the
    /// same step.
    pub(super) fn mprotect(&mut self, vma: VmaId, write: bool) -> Reply {
        let pages = self.world.vma_pages(vma);
        let entry = self.state.vmas[vma.index()];
        let whole = entry.mapped == first_pages(pages);
        let reply = if whole { Reply::Done } else { Reply::Errno(Errno::Enomem) };
        let unchanged = (entry.read, entry.write) == (true, write);
        if entry.pages_before_hole() == 0 || entry.splits_on_mprotect(write) || unchanged {
            return reply;
        }
        let area = &mut self.state.vmas[vma.index()];
        (area.read, area.write) = (true, write);
        self.emit(Effect::Protected(vma, write));
        for id in (0..pages).filter_map(|page| self.world.pte(vma, page)) {
            let pte = self.state.ptes[id.index()];
            if !pte.present() {
                continue;
            }
            self.notify_mmu(id);
            let now = write && (entry.shared || pte.exclusive);
            if now != pte.write {
                self.state.ptes[id.index()].write = now;
                self.flush_cpus(id);
            }
        }
        reply
    }

    /// Pins stay on the page, which is now at another address; who has a notifier watches the old one.
    fn follow_mremap(&mut self, old: PteId, new: PteId) {
        for pin in &mut self.state.pins {
            if pin.pte == old && pin.slot != Slot::Invalid {
                pin.pte = new;
            }
            if pin.target == Target::Va(old) {
                pin.target = Target::Va(new);
            }
        }
        // Whoever ends a DMA declares all VMAs, and whoever begins one through a pin declares the pin.
        for dma in self.state.dmas.unnoted_mut() {
            if dma.target == Target::Va(old) {
                dma.target = Target::Va(new);
            }
        }
    }
}
