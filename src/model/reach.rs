//! What an exporter's zap reaches.

use super::objects::{Reach, Vma};
use super::rules::ZapReach;
use super::state::State;
use super::world::World;
use crate::units::{BufId, PageSet, VmaId};

/// The pages of `vma` that the exporter's zap of `buf` reaches, a bit each. Of a huge entry none goes
/// alone: one that is not anonymous is cleared, not split (`zap_pmd_range`, mm/memory.c;
/// `__split_huge_pmd_locked`, mm/huge_memory.c, 6.12).
pub(super) fn zapped_pages(world: &World, state: &State, buf: BufId, vma: VmaId) -> PageSet {
    let entry = &state.vmas[vma.index()];
    if entry.buf != buf || entry.reach != Reach::Exporter {
        return 0;
    }
    let huge = |page| world.pte(vma, page).is_some_and(|pte| state.ptes[pte.index()].huge);
    let pages = reached(world, state, (buf, vma), entry);
    let part = pages != 0 && pages != entry.mapped;
    if part && (0..world.vma_pages(vma)).any(huge) { entry.mapped } else { pages }
}

/// The pages of an area in the exporter's `address_space` that its zap goes to.
pub(super) fn reached(
    world: &World,
    state: &State,
    (buf, vma): (BufId, VmaId),
    area: &Vma,
) -> PageSet {
    match world.exporter_of(buf).zap {
        ZapReach::AddressSpace => area.mapped,
        ZapReach::VmaPointer if state.bufs[buf.index()].vma_pointer == vma => area.mapped,
        ZapReach::VmaPointer | ZapReach::WrongPgoff | ZapReach::VmStart => 0,
        // Begins at page 1 of the buffer.
        ZapReach::WrongRange if area.offset == 0 => area.mapped & !1,
        ZapReach::WrongRange => area.mapped,
    }
}
