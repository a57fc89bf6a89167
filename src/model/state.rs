//! The dynamic half of a scenario.
//!
//! Plain data in flat tables, so that `clone_from` between two states of one
//! world copies a few hundred bytes and allocates nothing.

use super::rules::{Placement, Usage};
use super::table::{Notes, Table};
use super::world::World;
use crate::units::{
    ActorId, BufId, FenceId, FrameId, MAX_PAGES, PageId, PinId, PteId, SgId, VmaId,
};

/// Whose memory a frame is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Owner {
    /// Nobody's: on the placement's free list.
    Free,
    /// A page of a buffer: its current frame.
    Page(PageId),
    /// The destination of a move that has not rebound yet.
    Reserved(PageId),
    /// The source of a move that has rebound and not freed yet.
    Retired(PageId),
    /// The importer's own backing for an imported page.
    Shadow(PageId),
    /// Anonymous memory of some process.
    Anon,
    /// Given back while page references remained; freed with the last of them.
    Orphan,
    /// Everybody's: the one page of zeros that read faults of anonymous memory map.
    Zero,
}

/// A page frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Frame {
    /// Whose it is.
    pub owner: Owner,
    /// What memory holds.
    pub value: u8,
    /// Whether the CPU's cache has a line of it (incoherent buffers only).
    pub cached: bool,
    /// Whether that line is newer than memory.
    pub dirty: bool,
    /// What that line holds.
    pub cache_value: u8,
    /// Position on the free list, 1 at the bottom; 0 while in use. The top is taken next.
    pub rank: u8,
    /// Whether its caching attribute was changed (costs only; no behaviour depends on it).
    pub write_combined: bool,
}

impl Frame {
    /// What the CPU sees.
    #[must_use]
    pub const fn cpu_value(&self) -> u8 {
        if self.cached { self.cache_value } else { self.value }
    }
}

/// A page of a buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Page {
    /// Its frame now.
    pub frame: FrameId,
    /// Where a running move will put it.
    pub next: FrameId,
    /// The frame that a running move has left and not freed.
    pub old: FrameId,
    /// The importer's own backing, where a rule gives it one.
    pub shadow: FrameId,
    /// The ghost: what it holds if every access reached the buffer.
    pub ghost: u8,
    /// A private copy of it was written after the buffer was.
    pub private_newer: bool,
}

/// Life of a buffer.
///
/// ```text
/// Unallocated --alloc--> Live --last reference--> Released
///                         |--purge--> Purged ---> Released
///                         `--revoke-> Revoked --unlock--> Quiesced --> Released
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Life {
    /// Declared, not allocated.
    Unallocated,
    /// In use.
    Live,
    /// Contents given up by the exporter; faults answer SIGBUS.
    Purged,
    /// Taken away by the exporter; faults answer SIGBUS, `map` ENODEV.
    Revoked,
    /// Revoked, and every access announced before has retired: what importers still have mapped
    /// they may only read and discard.
    Quiesced,
    /// The last reference was dropped.
    Released,
}

/// A dma-buf.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct DmaBuf {
    /// Where it is in its life.
    pub life: Life,
    /// Who holds its reservation lock.
    pub lock: ActorId,
    /// `dma_buf_pin` count.
    pub pins: u8,
    /// File descriptors that refer to it.
    pub fds: u8,
    /// Where it is.
    pub placement: Placement,
    /// Where a running move takes it.
    pub dest: Placement,
    /// The VMA that a driver with one VMA pointer remembers.
    pub vma_pointer: VmaId,
    /// Whether `begin_cpu_access` was called before (rule `begin = map`).
    pub begun: bool,
}

/// Which kind of VMA the exporter made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum VmaKind {
    /// VM_PFNMAP.
    Pfnmap,
    /// VM_MIXEDMAP.
    Mixedmap,
    /// Neither: ordinary memory.
    Normal,
}

/// Where a zap of the exporter finds a VMA.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reach {
    /// In the exporter's `address_space`, at the right offset.
    Exporter,
    /// In the exporter's `address_space`, at an offset that the zap does not look at.
    WrongPgoff,
    /// In the importer's `address_space`.
    Importer,
    /// Nowhere: it maps the importer's shadow backing.
    Shadow,
    /// Nowhere: anonymous memory.
    Anon,
}

/// A virtual memory area.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Vma {
    /// Bit per page that is mapped; 0 when the VMA does not exist.
    pub mapped: u8,
    /// The buffer; none for anonymous memory.
    pub buf: BufId,
    /// Page of the buffer at the VMA's first page.
    pub offset: u8,
    /// VM_SHARED.
    pub shared: bool,
    /// VM_READ.
    pub read: bool,
    /// VM_WRITE.
    pub write: bool,
    /// VM_PFNMAP, VM_MIXEDMAP or neither.
    pub kind: VmaKind,
    /// Where zaps find it.
    pub reach: Reach,
}

/// A page table entry, and the ghost of a private page.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Pte {
    /// The frame; none while not present.
    pub frame: FrameId,
    /// Writable.
    pub write: bool,
    /// `pte_special` (or a special PMD).
    pub special: bool,
    /// Part of a huge entry.
    pub huge: bool,
    /// Holds a page reference (`get_page` and rmap): an ordinary page, not a bare pfn.
    pub counted: bool,
    /// Anonymous page that this process alone owns (`PageAnonExclusive`).
    pub exclusive: bool,
    /// The page has contents of its own, apart from the buffer: see `ghost`.
    pub own: bool,
    /// What it holds if every access reached it; meaningful while `own`.
    pub ghost: u8,
    /// The buffer page behind was written after this copy.
    pub buffer_newer: bool,
}

impl Pte {
    pub(super) const ABSENT: Self = Self {
        frame: FrameId::NONE,
        write: false,
        special: false,
        huge: false,
        counted: false,
        exclusive: false,
        own: false,
        ghost: 0,
        buffer_newer: false,
    };

    /// Whether there is an entry.
    #[must_use]
    pub const fn present(&self) -> bool {
        self.frame.is_some()
    }
}

/// What a request for something answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Slot {
    /// Not asked for yet.
    None,
    /// Held.
    Held,
    /// An entry of a `frame_vector` that is not complete: held, not to be used yet.
    Taking,
    /// Held, and declared invalid by a notifier or `move_notify`.
    Invalid,
    /// Refused.
    Failed,
    /// Given back.
    Dropped,
}

/// What an access is meant for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Target {
    /// A page of a buffer.
    Page(PageId),
    /// A private page at a virtual address.
    Va(PteId),
}

/// A `get_user_pages` pin or a cached pfn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Pin {
    /// Taken, refused, dropped.
    pub slot: Slot,
    /// Holds a page reference; a cached pfn does not.
    pub counted: bool,
    /// FOLL_WRITE.
    pub write: bool,
    /// FOLL_GET: a reference that fork and unsharing don't take for a pin.
    pub get: bool,
    /// The frame.
    pub frame: FrameId,
    /// The virtual address it was taken at.
    pub pte: PteId,
    /// What its user means to reach.
    pub target: Target,
}

/// A `dma_buf_attachment`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Attachment {
    /// Attached or not.
    pub slot: Slot,
    /// To which buffer.
    pub buf: BufId,
    /// `dma_buf_dynamic_attach`.
    pub dynamic: bool,
    /// `dma_buf_pin` taken through it (0 or more).
    pub pins: u8,
}

/// A fence.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Fence {
    /// `Held` while unsignalled, `Dropped` once signalled.
    pub slot: Slot,
    /// In whose `dma_resv`.
    pub buf: BufId,
    /// What for.
    pub usage: Usage,
    /// Whose work it stands for.
    pub actor: ActorId,
    /// Whether that work writes the buffer.
    pub writes: bool,
}

/// A DMA between its two halves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Dma {
    /// Whether one is in flight.
    pub busy: bool,
    /// The frame that its address translated to.
    pub frame: FrameId,
    /// What it is meant for.
    pub target: Target,
    /// Through which pin, where it is one.
    pub pin: PinId,
}

impl Dma {
    pub(super) const IDLE: Self = Self {
        busy: false,
        frame: FrameId::NONE,
        target: Target::Page(PageId::NONE),
        pin: PinId::NONE,
    };
}

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
        }

        #[cfg(debug_assertions)]
        impl State {
            /// Forget what was noted of who looked at what: see [`super::noted`].
            pub fn forget_notes(&self) {
                $(self.$field.notes.clear();)*
                self.lists.clear();
            }
        }

        impl Clone for State {
            fn clone(&self) -> Self {
                Self {
                    $($field: self.$field.clone(),)*
                    hazards: self.hazards,
                    warned: self.warned,
                    lists: Notes::default(),
                }
            }

            fn clone_from(&mut self, other: &Self) {
                $(self.$field.clone_from(&other.$field);)*
                self.hazards = other.hazards;
                self.warned = other.warned;
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
    /// Fences.
    fences: Fence,
    /// One DMA engine per actor.
    dmas: Dma,
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
            fences: vec![EMPTY_FENCE; world.fences].into(),
            dmas: vec![Dma::IDLE; world.actors].into(),
            hazards: 0,
            warned: false,
            lists: Notes::default(),
        };
        for index in 0..world.bufs.len() {
            if world.bufs[index].allocated {
                state.allocate(world, BufId::at(index));
            }
        }
        state
    }

    /// Give `buf` frames and its fill value; false, and nothing changed, when there are too few.
    pub(super) fn allocate(&mut self, world: &World, buf: BufId) -> bool {
        let decl = world.buf(buf);
        if self.free_frames(world, decl.placement) < usize::from(decl.pages) {
            return false;
        }
        for page in world.pages(buf) {
            let Some(frame) = self.take_frame(world, decl.placement, Owner::Page(page)) else {
                return false;
            };
            self.frames[frame.index()].value = decl.fill;
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

    /// Take the frame that was given back last.
    pub(super) fn take_frame(
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
        frame.cached = false;
        frame.dirty = false;
        frame.cache_value = 0;
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

    /// Page references to `frame`: counted entries and counted pins.
    #[must_use]
    pub fn references(&self, frame: FrameId) -> usize {
        let entries = self.ptes.iter().filter(|pte| pte.frame == frame && pte.counted).count();
        entries + self.counted_pins(frame)
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
        self.fences.iter().any(pending)
    }

    /// References to `buf` that keep it alive: fds, VMAs, attachments, and that of whoever holds its
    /// lock (an eviction takes one first, `ttm_bo_get_unless_zero`).
    #[must_use]
    pub fn buf_references(&self, buf: BufId) -> usize {
        let vmas = self.vmas.iter().filter(|vma| vma.mapped != 0 && vma.buf == buf).count();
        let attached = |entry: &&Attachment| entry.slot == Slot::Held && entry.buf == buf;
        let attachments = self.attachments.iter().filter(attached).count();
        let entry = &self.bufs[buf.index()];
        usize::from(entry.fds) + usize::from(entry.lock.is_some()) + vmas + attachments
    }

    /// A property of every state: the ghost equals memory, or the CPU's cache line of it, for every
    /// page of every live buffer. Where the two differ, whoever looks at the wrong one commits the
    /// hazard. A page whose frame a broken exporter has given away is nowhere: whoever looks for it
    /// there commits the hazard.
    #[must_use]
    pub fn ghost_matches_memory(&self, world: &World) -> bool {
        self.pages.iter().enumerate().all(|(index, page)| {
            let live = self.bufs[world.page_bufs[index].index()].life == Life::Live;
            !live || page.frame.is_none() || {
                let frame = &self.frames[page.frame.index()];
                if frame.owner != Owner::Page(PageId::at(index)) {
                    return true;
                }
                frame.value == page.ghost || frame.cached && frame.cache_value == page.ghost
            }
        })
    }

    pub(super) fn fence_mut(&mut self, fence: FenceId) -> &mut Fence {
        &mut self.fences[fence.index()]
    }

    /// Whether the sg_table is mapped, valid or not.
    #[must_use]
    pub fn sg_mapped(&self, sg: SgId) -> bool {
        matches!(self.sgs[sg.index()], Slot::Held | Slot::Invalid)
    }
}

pub(super) const EMPTY_PAGE: Page = Page {
    frame: FrameId::NONE,
    next: FrameId::NONE,
    old: FrameId::NONE,
    shadow: FrameId::NONE,
    ghost: 0,
    private_newer: false,
};

pub(super) const EMPTY_VMA: Vma = Vma {
    mapped: 0,
    buf: BufId::NONE,
    offset: 0,
    shared: false,
    read: false,
    write: false,
    kind: VmaKind::Normal,
    reach: Reach::Anon,
};

pub(super) const EMPTY_PIN: Pin = Pin {
    slot: Slot::None,
    counted: false,
    write: false,
    get: false,
    frame: FrameId::NONE,
    pte: PteId::NONE,
    target: Target::Page(PageId::NONE),
};

const EMPTY_ATTACHMENT: Attachment =
    Attachment { slot: Slot::None, buf: BufId::NONE, dynamic: false, pins: 0 };

pub(super) const EMPTY_FENCE: Fence = Fence {
    slot: Slot::None,
    buf: BufId::NONE,
    usage: Usage::Kernel,
    actor: ActorId::NONE,
    writes: false,
};

const fn unallocated(placement: Placement) -> DmaBuf {
    DmaBuf {
        life: Life::Unallocated,
        lock: ActorId::NONE,
        pins: 0,
        fds: 0,
        placement,
        dest: placement,
        vma_pointer: VmaId::NONE,
        begun: false,
    }
}

const ZERO_PAGE: Frame = Frame {
    owner: Owner::Zero,
    value: 0,
    cached: false,
    dirty: false,
    cache_value: 0,
    rank: 0,
    write_combined: false,
};

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
