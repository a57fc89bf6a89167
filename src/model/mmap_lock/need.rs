//! Which steps take an `mmap_lock`, and whose.

use crate::model::step::{Handle, Step};
use crate::model::world::World;
use crate::units::{ActorId, VmaId};

/// Which lock a step takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Need {
    Nothing,
    /// To read an entry, and to fault if it is not good enough.
    Access(VmaId, u8, bool),
    /// To read, and perhaps to fault that page.
    Read(ActorId, Option<(VmaId, u8)>),
    /// To change the address space.
    Write(ActorId),
    /// To give it back.
    Release,
}

/// What `step` of `actor` takes, whatever the state.
pub(super) fn need(world: &World, actor: ActorId, step: &Step) -> Need {
    match *step {
        Step::Load { vma, page } => Need::Access(vma, page, false),
        Step::Store { vma, page, .. } => Need::Access(vma, page, true),
        Step::GupSlow { vma, page, .. } | Step::FollowPfn { vma, page, .. } => {
            Need::Read(world.mm_of(vma), Some((vma, page)))
        }
        Step::Attach { via, .. } if via.is_some() => Need::Read(world.mm_of(via), None),
        // Whose page it is, the pin knows.
        Step::DmaStart { via: Handle::Pin(_), .. } => Need::Read(actor, None),
        Step::Mmap(mmap) => Need::Write(world.mm_of(mmap.vma)),
        Step::Munmap { vma, .. } => Need::Write(world.mm_of(vma)),
        Step::Mremap { from, .. } => Need::Write(world.mm_of(from)),
        Step::Mprotect { vma, .. } => Need::Write(world.mm_of(vma)),
        Step::Fork { .. } => Need::Write(world.mm(actor)),
        Step::MmapLock { mm, write } if write => Need::Write(mm),
        Step::MmapLock { mm, .. } => Need::Read(mm, None),
        Step::MmapUnlock(_) | Step::FinishMmu(_) => Need::Release,
        Step::GupFast { .. }
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
        | Step::EvictCache(_)
        | Step::ResvLock(_)
        | Step::ResvUnlock(_)
        | Step::DrawTicket
        | Step::LockAll(_)
        | Step::FlushTlb(_)
        | Step::FreePgtables(_) => Need::Nothing,
    }
}

/// Whether a step may take an `mmap_lock` or give one back.
pub(in crate::model) fn takes_mmap_lock(world: &World, step: &Step) -> bool {
    need(world, ActorId::NONE, step) != Need::Nothing
}
