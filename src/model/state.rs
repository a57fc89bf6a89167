//! The dynamic half of a scenario.
//!
//! Plain data in flat tables, so that `clone_from` between two states of one
//! world copies a few hundred bytes and allocates nothing.

use super::mentions::Mentions;
use super::objects::{
    Attachment, Detached, Dma, DmaBuf, EMPTY_ATTACHMENT, EMPTY_FENCE, EMPTY_PAGE, EMPTY_PIN,
    EMPTY_VMA, Fence, Frame, Life, MmapLock, Owner, Page, Pin, Pte, Slot, Ticket, Translation, Vma,
    ZERO_PAGE, unallocated,
};
use super::rules::{Placement, Usage};
use super::table::{Notes, Table};
use super::world::World;
use crate::units::{BufId, FenceId, FrameId, MAX_PAGES, PageId, SgId};

macro_rules! state {
    ($($(#[$doc:meta])* $field:ident: $ty:ty,)*) => {
        /// Everything that changes while a scenario runs.
        #[derive(Debug, PartialEq, Eq, Hash)]
        pub struct State {
            $($(#[$doc])* pub $field: Table<$ty>,)*
            /// Bit per [`super::HazardKind`] that has happened.
            pub hazards: u16,
            /// Whether a WARN_ON fired.
            pub warned: bool,
            /// Who looks at the free lists, which are in the frames' ranks.
            pub(super) lists: Notes,
            /// What the parts mention of the bytes that it was decoded from.
            pub(super) mentions: Mentions,
        }

        #[cfg(debug_assertions)]
        impl State {
            /// Forget what was noted of who looked at what: see [`super::noted`].
            pub fn forget_notes(&self) {
                $(self.$field.notes.clear();)*
                self.lists.clear();
            }
        }

        impl State {
            /// Make it what `base` is, from which it was copied or restored before, and since when
            /// `base` was only decoded anew: what neither has changed is left alone.
            pub fn restore(&mut self, base: &mut Self) {
                $(self.$field.restore(&mut base.$field);)*
                self.hazards = base.hazards;
                self.warned = base.warned;
                self.mentions = base.mentions;
            }
        }

        impl Clone for State {
            fn clone(&self) -> Self {
                Self {
                    $($field: self.$field.clone(),)*
                    hazards: self.hazards,
                    warned: self.warned,
                    lists: Notes::default(),
                    mentions: self.mentions,
                }
            }

            fn clone_from(&mut self, other: &Self) {
                $(self.$field.clone_from(&other.$field);)*
                self.hazards = other.hazards;
                self.warned = other.warned;
                self.mentions = other.mentions;
            }
        }
    };
}

state! {
    /// Frames of all placements.
    frames: Frame,
    /// Pages of all buffers.
    pages: Page,
    /// Buffers.
    bufs: DmaBuf,
    /// VMAs.
    vmas: Vma,
    /// Page table slots of all VMAs.
    ptes: Pte,
    /// Pins and cached pfns.
    pins: Pin,
    /// Attachments.
    attachments: Attachment,
    /// sg_tables.
    sgs: Slot,
    /// Addresses of all sg_tables, [`MAX_PAGES`] each.
    sg_frames: FrameId,
    /// What devices have in their TLBs and not in their page tables any more, by the same addresses; none
    /// where no device has a TLB.
    tlb: FrameId,
    /// Fences.
    fences: Fence,
    /// One DMA engine per actor.
    dmas: Dma,
    /// The `mmap_lock` of every actor; none where nobody would notice ([`World::lock_address_spaces`]).
    mms: MmapLock,
    /// The ticket of every actor; none where nobody draws one ([`World::draw_tickets`]).
    tickets: Ticket,
    /// What CPUs have in their TLBs, by page table slot; none where no process has a thread.
    translations: Translation,
    /// What a munmap under way has taken out, by VMA; none where no process has a thread.
    detached: Detached,
}

impl State {
    /// The initial state of `world`: declared-allocated buffers hold their fill value, nothing is
    /// mapped. A buffer for which its placement has no frames left is not allocated.
    #[must_use]
    pub fn new(world: &World) -> Self {
        let bufs = world.bufs.iter().map(|decl| unallocated(decl.placement));
        let mut state = Self {
            frames: initial_frames(world).into(),
            pages: vec![EMPTY_PAGE; world.page_bufs.len()].into(),
            bufs: bufs.collect::<Vec<_>>().into(),
            vmas: vec![EMPTY_VMA; world.vmas.len()].into(),
            ptes: vec![Pte::ABSENT; world.pte_vmas.len()].into(),
            pins: vec![EMPTY_PIN; world.pins.len()].into(),
            attachments: vec![EMPTY_ATTACHMENT; world.attachments.len()].into(),
            sgs: vec![Slot::None; world.sgs.len()].into(),
            sg_frames: vec![FrameId::NONE; world.sgs.len() * MAX_PAGES].into(),
            tlb: vec![
                FrameId::NONE;
                if world.device_tlbs() { world.sgs.len() * MAX_PAGES } else { 0 }
            ]
            .into(),
            fences: vec![EMPTY_FENCE; world.fences].into(),
            dmas: vec![Dma::IDLE; world.actors].into(),
            mms: vec![MmapLock::FREE; if world.mmap_locks { world.actors } else { 0 }].into(),
            tickets: vec![Ticket::NONE; if world.tickets { world.actors } else { 0 }].into(),
            translations: vec![
                Translation::NONE;
                if world.threads() { world.pte_vmas.len() } else { 0 }
            ]
            .into(),
            detached: vec![Detached::NONE; if world.threads() { world.vmas.len() } else { 0 }]
                .into(),
            hazards: 0,
            warned: false,
            lists: Notes::default(),
            mentions: Mentions::default(),
        };
        for index in 0..world.bufs.len() {
            if world.bufs[index].allocated {
                state.allocate(world, BufId::at(index), false);
            }
        }
        state
    }

    /// Give `buf` frames and its fill value, which stays in the CPU's cache if `cached`; false, and
    /// nothing changed, when there are too few.
    pub(super) fn allocate(&mut self, world: &World, buf: BufId, cached: bool) -> bool {
        let decl = world.buf(buf);
        if self.free_frames(world, decl.placement) < usize::from(decl.pages) {
            return false;
        }
        for page in world.pages(buf) {
            let owner = Owner::Page(page);
            let taken = if world.exporter_of(buf).keeps_lines() {
                self.take_with_lines(world, decl.placement, owner)
            } else {
                self.take_frame(world, decl.placement, owner)
            };
            let Some(frame) = taken else { return false };
            let entry = &mut self.frames[frame.index()];
            if cached {
                (entry.cached, entry.dirty, entry.cache_value) = (true, true, decl.fill);
            } else {
                entry.value = decl.fill;
            }
            self.pages[page.index()] = Page { frame, ghost: decl.fill, ..EMPTY_PAGE };
        }
        let entry = &mut self.bufs[buf.index()];
        *entry = DmaBuf { life: Life::Live, fds: 1, ..unallocated(decl.placement) };
        true
    }

    /// Free frames of `placement`.
    #[must_use]
    pub fn free_frames(&self, world: &World, placement: Placement) -> usize {
        self.lists.read(0);
        let free = |(frame, at): (&Frame, &Placement)| frame.rank > 0 && *at == placement;
        self.frames.unnoted().iter().zip(&world.frames).filter(|pair| free(*pair)).count()
    }

    /// Take the frame that was given back last. What its last owner left in the CPU's cache is gone.
    pub(super) fn take_frame(
        &mut self,
        world: &World,
        placement: Placement,
        owner: Owner,
    ) -> Option<FrameId> {
        let taken = self.take_with_lines(world, placement, owner)?;
        let frame = &mut self.frames[taken.index()];
        frame.cached = false;
        frame.dirty = false;
        frame.cache_value = 0;
        Some(taken)
    }

    fn take_with_lines(
        &mut self,
        world: &World,
        placement: Placement,
        owner: Owner,
    ) -> Option<FrameId> {
        self.lists.write(0);
        let ranks = self.frames.unnoted();
        let top = (0..ranks.len())
            .filter(|&index| ranks[index].rank > 0 && world.frames[index] == placement)
            .max_by_key(|&index| ranks[index].rank)?;
        let frame = &mut self.frames[top];
        frame.rank = 0;
        frame.owner = owner;
        Some(FrameId::at(top))
    }

    /// Put `frame` on top of its free list.
    pub(super) fn push_free(&mut self, world: &World, frame: FrameId) {
        self.lists.write(0);
        let rank = self.free_frames(world, world.placement(frame)) + 1;
        let entry = &mut self.frames[frame.index()];
        assert!(entry.rank == 0, "double free of {frame:?}");
        entry.owner = Owner::Free;
        entry.rank = u8::try_from(rank).unwrap_or(u8::MAX);
    }

    /// Page references to `frame`: counted entries, those that `mmu_gather` holds, and counted pins.
    #[must_use]
    pub fn references(&self, frame: FrameId) -> usize {
        let entries = self.ptes.iter().filter(|pte| pte.frame == frame && pte.counted).count();
        entries + self.gathered(frame) + self.counted_pins(frame)
    }

    /// Those that `mmu_gather` holds.
    #[must_use]
    pub fn gathered(&self, frame: FrameId) -> usize {
        self.translations.iter().filter(|entry| entry.gathered && entry.frame == frame).count()
    }

    /// `get_user_pages` pins of `frame`.
    #[must_use]
    pub fn counted_pins(&self, frame: FrameId) -> usize {
        let held = |pin: &&Pin| {
            let held = matches!(pin.slot, Slot::Held | Slot::Taking);
            pin.counted && pin.frame == frame && held
        };
        self.pins.iter().filter(held).count()
    }

    /// `folio_maybe_dma_pinned`: whether a FOLL_PIN holds `frame`.
    #[must_use]
    pub fn dma_pinned(&self, frame: FrameId) -> bool {
        let held = |pin: &Pin| matches!(pin.slot, Slot::Held | Slot::Taking);
        self.pins.iter().any(|pin| pin.counted && !pin.get && pin.frame == frame && held(pin))
    }

    /// Whether a fence of `buf` at most as high as `usage` is unsignalled.
    #[must_use]
    pub fn fence_pending(&self, buf: BufId, usage: Usage) -> bool {
        let pending =
            |fence: &Fence| fence.slot == Slot::Held && fence.buf == buf && fence.usage <= usage;
        // A copy's fence is a KERNEL one, which everybody waits for.
        self.bufs[buf.index()].moving || self.fences.iter().any(pending)
    }

    /// References to `buf` that keep it alive: fds, VMAs, attachments, and that of whoever holds its
    /// lock (an eviction takes one first, `ttm_bo_get_unless_zero`).
    #[must_use]
    pub fn buf_references(&self, buf: BufId) -> usize {
        let maps = |vma: &Vma| vma.mapped != 0 && vma.buf == buf;
        let vmas = self.vmas.iter().filter(|vma| maps(vma)).count();
        let detached = self.detached.iter().filter(|vma| maps(&vma.area)).count();
        let attached = |entry: &&Attachment| entry.slot == Slot::Held && entry.buf == buf;
        let attachments = self.attachments.iter().filter(attached).count();
        let entry = &self.bufs[buf.index()];
        usize::from(entry.fds) + usize::from(entry.lock.is_some()) + vmas + detached + attachments
    }

    /// A property of every state: the ghost equals memory, or the CPU's cache line of it, for every
    /// page of every live buffer. Where the two differ, whoever looks at the wrong one commits the
    /// hazard. A page whose frame a broken exporter has given away is nowhere: whoever looks for it
    /// there commits the hazard.
    #[must_use]
    pub fn ghost_matches_memory(&self, world: &World) -> bool {
        self.pages.iter().enumerate().all(|(index, page)| {
            let live = self.bufs[world.page_bufs[index].index()].life == Life::Live;
            // What a copy is still to fill holds nothing yet.
            !live || self.copy_pending(world, PageId::at(index)) || page.frame.is_none() || {
                let frame = &self.frames[page.frame.index()];
                if frame.owner != Owner::Page(PageId::at(index)) {
                    return true;
                }
                frame.value == page.ghost
                    || frame.cached && frame.cache_value == page.ghost
                    || self.bounced(PageId::at(index)).any(|frame| frame.value == page.ghost)
            }
        })
    }

    /// Whether a copy that runs by itself is still to fill `page`, with a fence or without.
    pub(super) fn copy_pending(&self, world: &World, page: PageId) -> bool {
        let buf = world.buf_of(page);
        self.bufs[buf.index()].moving
            || self.pages[page.index()].old.is_some() && world.exporter_of(buf).copies_late()
    }

    /// The bounce pages that devices reach instead of `page`.
    pub(super) fn bounced(&self, page: PageId) -> impl Iterator<Item = &Frame> {
        self.frames.iter().filter(move |frame| frame.owner == Owner::Bounce(page))
    }

    pub(super) fn fence_mut(&mut self, fence: FenceId) -> &mut Fence {
        &mut self.fences[fence.index()]
    }

    /// Whether the sg_table is mapped, valid or not.
    #[must_use]
    pub fn sg_mapped(&self, sg: SgId) -> bool {
        self.sgs[sg.index()].is_mapped()
    }
}

fn initial_frames(world: &World) -> Vec<Frame> {
    let frame = |index: usize| {
        let at = |other: usize| FrameId::at(other) != world.zero;
        let same = |other: &usize| at(*other) && world.frames[*other] == world.frames[index];
        let same_above = (index..world.frames.len()).filter(same);
        if !at(index) {
            return ZERO_PAGE;
        }
        Frame {
            owner: Owner::Free,
            value: 0,
            cached: false,
            dirty: false,
            cache_value: 0,
            rank: u8::try_from(same_above.count()).unwrap_or(u8::MAX),
            write_combined: false,
        }
    };
    (0..world.frames.len()).map(frame).collect()
}
