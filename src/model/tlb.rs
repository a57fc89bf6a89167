//! The TLBs of the CPUs on which the threads of a process run, and a munmap in parts.
//!
//! A CPU keeps what a walk of the page table found until it is told to forget it. Where an entry is
//! cleared and flushed under the page table's lock nobody can tell the TLB from the table: a zap, a copy
//! on write (`ptep_clear_flush`), fork, mremap (since eb66ae030829, 4.20) are such steps here. munmap is
//! not: `unmap_vmas` clears entries, `free_pgtables` unlinks the VMA, `tlb_finish_mmu` flushes
//! (`unmap_region`, mm/mmap.c, 5.18; `vms_clear_ptes`, mm/vma.c, 6.12). Pages with a reference count are
//! safe: `mmu_gather` holds them until the flush. Of others see [`MunmapFlush`].
//!
//! **Locking**: munmap downgrades the `mmap_lock` before its first part (`mmap_write_downgrade`), so that
//! faults go on and find no VMA; no other call changes the address space until its last.
//!
//! **Differs from Linux**: a TLB loses nothing by itself; a CPU whose entry was upgraded asks the page
//! table when it needs the right.

use super::core::{Core, View};
use super::objects::{Detached, Pte, Reach, Translation, Vma, VmaKind};
use super::rules::MunmapFlush;
use super::state::State;
use super::step::{Effect, Reply, Sink};
use super::world::World;
use crate::units::{ActorId, FrameId, PageSet, PteId, VmaId};

const fn bit(actor: ActorId) -> u16 {
    1 << actor.0
}

impl State {
    /// Where the TLB of `actor`'s CPU sends an access that means a page table slot; none where it has to
    /// ask the page table.
    pub(super) fn translation(&self, actor: ActorId, id: PteId, write: bool) -> Option<FrameId> {
        let entry = self.translations.get(id.index())?;
        let has = if write { entry.writers } else { entry.cpus };
        (has & bit(actor) != 0).then_some(entry.frame)
    }

    /// The VMA that page `page` of `vma` is a part of, or that a munmap under way has made of it.
    pub(super) fn area(&self, vma: VmaId, page: u8) -> Vma {
        let entry = self.vmas[vma.index()];
        let within = |area: &Vma| area.mapped & (1 << page) != 0;
        if within(&entry) || self.detached.is_empty() {
            return entry;
        }
        let detached = self.detached[vma.index()].area;
        if within(&detached) { detached } else { entry }
    }

    /// A property of every state: what a TLB holds is what the page table says, but for what a munmap
    /// under way has cleared.
    #[must_use]
    pub fn tlbs_match(&self, world: &World) -> bool {
        self.translations.iter().enumerate().all(|(index, entry)| {
            let id = PteId::at(index);
            let (pte, vma) = (&self.ptes[index], world.vma_of(id).0);
            let unmapped = self.detached[vma.index()].area.mapped != 0;
            let none = entry.cpus == 0 && !entry.gathered;
            entry.writers & !entry.cpus == 0
                && none == entry.frame.is_none()
                && (none
                    || unmapped
                    || pte.frame == entry.frame && (entry.writers == 0 || pte.write))
        })
    }
}

impl View<'_> {
    /// Whether the access goes by the TLB alone.
    pub(super) fn is_translated(&self, vma: VmaId, page: u8, write: bool) -> bool {
        let id = self.world.pte(vma, page);
        id.is_some_and(|id| self.state.translation(self.actor, id, write).is_some())
    }

    /// Whether a munmap of that address space is between its parts.
    pub(super) fn unmap_under_way(&self, mm: ActorId) -> bool {
        self.world.has_threads(mm)
            && self.world.vma_ids().any(|vma| {
                self.world.mm_of(vma) == mm && self.state.detached[vma.index()].area.mapped != 0
            })
    }
}

impl<S: Sink> Core<'_, S> {
    /// Where the TLB of the actor's CPU sends an access to page `page` of a VMA.
    pub(super) fn by_tlb(
        &mut self,
        (vma, page): (VmaId, u8),
        id: PteId,
        write: bool,
    ) -> Option<FrameId> {
        let frame = self.state.translation(self.actor, id, write)?;
        let pte = &self.state.ptes[id.index()];
        if pte.frame != frame || write && !pte.write {
            self.emit(Effect::TlbHit(vma, page, frame));
        }
        Some(frame)
    }

    /// The actor's CPU has walked the page table.
    pub(super) fn translate(&mut self, vma: VmaId, id: PteId, pte: &Pte) {
        if !self.world.has_threads(self.world.mm_of(vma)) {
            return;
        }
        let entry = self.state.translations[id.index()];
        let free = entry.cpus == 0 && !entry.gathered;
        if free || entry.frame == pte.frame {
            let me = bit(self.actor);
            let writers = entry.writers | if pte.write { me } else { 0 };
            let now = Translation { cpus: entry.cpus | me, writers, frame: pte.frame, ..entry };
            if now != entry {
                self.state.translations[id.index()] = now;
            }
        }
    }

    /// All CPUs forget what they have of a page table slot.
    pub(super) fn flush_cpus(&mut self, id: PteId) {
        let Some(entry) = self.state.translations.get(id.index()).copied() else { return };
        if entry.cpus != 0 {
            self.state.translations[id.index()].forget();
        }
    }

    /// All CPUs forget what they have of a VMA.
    fn flush_vma(&mut self, vma: VmaId) {
        let cached = |id: &PteId| self.state.translations[id.index()].cpus != 0;
        let slots: Vec<PteId> =
            (0..self.world.vma_pages(vma)).filter_map(|page| self.world.pte(vma, page)).collect();
        if slots.iter().any(cached) {
            self.emit(Effect::CpuTlbFlushed(vma));
            slots.into_iter().for_each(|id| self.flush_cpus(id));
        }
    }

    /// What a munmap has cleared in that address space is flushed by somebody else.
    pub(super) fn flush_nested(&mut self, mm: ActorId) {
        for vma in self.world.vma_ids().collect::<Vec<_>>() {
            if self.world.mm_of(vma) == mm && self.state.detached[vma.index()].area.mapped != 0 {
                self.flush_vma(vma);
            }
        }
    }

    /// The first part of a munmap, `unmap_vmas`: the pages are detached, and these entries cleared.
    pub(super) fn detach_pages(&mut self, vma: VmaId, gone: PageSet, cleared: PageSet) {
        let entry = self.state.vmas[vma.index()];
        for page in (0..self.world.vma_pages(vma)).filter(|page| cleared & (1 << page) != 0) {
            let Some(id) = self.world.pte(vma, page) else { continue };
            if let Some(pte) = self.clear_pte(vma, page, id)
                && pte.counted
            {
                let slot = &mut self.state.translations[id.index()];
                (slot.frame, slot.gathered) = (pte.frame, true);
            }
        }
        let (area, linked) = (Vma { mapped: gone, ..entry }, entry.reach == Reach::Exporter);
        self.state.detached[vma.index()] = Detached { area, linked };
        // tlb_end_vma() of what has no page references; until then a zap finds the VMA and flushes, too.
        let bare = matches!(entry.kind, VmaKind::Pfnmap | VmaKind::Mixedmap);
        if bare && self.world.host.munmap_flush == MunmapFlush::BeforeUnlink {
            self.flush_vma(vma);
        }
        self.downgrade_mm(self.world.mm_of(vma));
    }

    pub(super) fn free_pgtables(&mut self, vma: VmaId) -> Reply {
        if self.state.detached.is_empty() {
            return Reply::Skipped;
        }
        self.state.detached[vma.index()].linked = false;
        Reply::Done
    }

    pub(super) fn finish_mmu(&mut self, vma: VmaId) -> Reply {
        if self.state.detached.is_empty() {
            return Reply::Skipped;
        }
        self.flush_vma(vma);
        for page in 0..self.world.vma_pages(vma) {
            let Some(id) = self.world.pte(vma, page) else { continue };
            let entry = self.state.translations[id.index()];
            if entry.gathered {
                self.state.translations[id.index()] = Translation::NONE;
                self.reference_dropped(entry.frame);
            }
        }
        let buf = self.state.detached[vma.index()].area.buf;
        self.state.detached[vma.index()] = Detached::NONE;
        self.close_vma(vma, buf);
        self.release_mm(self.world.mm_of(vma));
        Reply::Done
    }
}
