//! Removing page table entries, and who is told.

use super::core::Core;
use super::objects::{Pte, Slot};
use super::reach::{reached, zapped_pages};
use super::rules::Notifier;
use super::step::{Cost, Effect, Sink};
use crate::units::{BufId, PinId, PteId, VmaId};

impl<S: Sink> Core<'_, S> {
    /// `unmap_mapping_range`: of what it finds the entries go, and the TLBs are flushed.
    ///
    /// Where it finds a VMA of a process that is in the middle of a munmap, it flushes what that has cleared
    /// and not flushed, too, though no entry is left: `mm_tlb_flush_nested` (`tlb_finish_mmu`,
    /// mm/mmu_gather.c, 6.12). Of a VMA that has been unlinked it knows nothing.
    pub(super) fn zap(&mut self, buf: BufId) {
        let vmas: Vec<VmaId> = self.world.vma_ids().collect();
        for vma in vmas {
            let pages = zapped_pages(self.world, self.state, buf, vma);
            for page in 0..self.world.vma_pages(vma) {
                if pages & (1 << page) != 0 {
                    self.zap_pte(vma, page);
                }
            }
            if self.world.threads() && (pages != 0 || self.finds_detached(buf, vma)) {
                self.flush_nested(self.world.mm_of(vma));
            }
        }
    }

    /// Whether the zap finds pages that a munmap has detached.
    fn finds_detached(&self, buf: BufId, vma: VmaId) -> bool {
        let detached = &self.state.detached[vma.index()];
        detached.linked
            && detached.area.buf == buf
            && reached(self.world, self.state, (buf, vma), &detached.area) != 0
    }

    /// Remove an entry, telling notifiers on it.
    pub(super) fn zap_pte(&mut self, vma: VmaId, page: u8) {
        let Some(id) = self.world.pte(vma, page) else { return };
        let Some(pte) = self.clear_pte(vma, page, id) else { return };
        self.flush_cpus(id);
        if pte.counted {
            self.reference_dropped(pte.frame);
        }
    }

    /// The same without a flush: what was there.
    pub(super) fn clear_pte(&mut self, vma: VmaId, page: u8, id: PteId) -> Option<Pte> {
        let pte = self.state.ptes[id.index()];
        if !pte.present() {
            return None;
        }
        self.state.ptes[id.index()] = Pte::ABSENT;
        self.emit(Effect::Zapped(vma, page, pte));
        self.emit(Effect::Cost(Cost::ZappedPtes, 1));
        self.notify_mmu(id);
        Some(pte)
    }

    /// `mmu_notifier_invalidate_range_start`: the entry goes, or is another from here on. Who has a
    /// notifier on it lets go of the page.
    ///
    /// Called wherever Linux 6.12 does for an entry that changes: munmap (`unmap_vmas`), a zap
    /// (`zap_page_range_single`, for `unmap_mapping_range` too), a copy on write (`wp_page_copy`),
    /// fork's write protection of private mappings (`copy_page_range`; all in mm/memory.c), mremap
    /// (`move_page_tables`, mm/mremap.c), migration (`try_to_migrate_one`, mm/rmap.c).
    pub(super) fn notify_mmu(&mut self, id: PteId) {
        for index in 0..self.state.pins.len() {
            if self.world.pins[index].notifier == Notifier::None {
                continue;
            }
            let pin = &self.state.pins[index];
            if pin.slot == Slot::Held && pin.pte == id {
                let (counted, frame) = (pin.counted, pin.frame);
                self.state.pins[index].slot = Slot::Invalid;
                self.emit(Effect::PinInvalidated(PinId::at(index)));
                if counted {
                    self.reference_dropped(frame);
                }
            }
        }
    }
}
