//! What a scenario is about: frames, pages, buffers, VMAs, entries, pins, attachments, fences, DMAs.
//!
//! Plain data. [`super::State`] has a table of each.

use super::rules::{Placement, Usage};
use crate::units::{ActorId, BufId, FrameId, PageId, PageSet, PinId, PteId, VmaId};

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
    /// What a device reaches instead of this page: a bounce page of its attachment.
    Bounce(PageId),
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

impl Life {
    /// Its name.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Unallocated => "unallocated",
            Self::Live => "live",
            Self::Purged => "purged",
            Self::Revoked => "revoked",
            Self::Quiesced => "quiesced",
            Self::Released => "released",
        }
    }
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
    /// Whether the KERNEL fence of a copy that runs by itself is unsignalled.
    pub moving: bool,
    /// Whether the lock's holder has it for whatever it does next ([`super::Step::ResvLock`]): an operation
    /// of its own goes on with it, and leaves it.
    pub kept: bool,
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
    /// Nowhere: the importer's own fault handler maps the pages of its sg_table.
    ///
    /// **Differs from Linux**: the entries are made at mmap, which is when the buffer is imported.
    SgTable,
    /// With the importer's device: its `move_notify` takes the entries of its aperture away, and so does
    /// unmapping the sg_table. No zap of the exporter finds them.
    Aperture,
    /// Nowhere: anonymous memory.
    Anon,
}

/// A virtual memory area.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Vma {
    /// Bit per page that is mapped; 0 when the VMA does not exist.
    pub mapped: PageSet,
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

impl Vma {
    /// How many pages are mapped before the first one that is not.
    #[must_use]
    pub fn pages_before_hole(&self) -> u8 {
        u8::try_from(self.mapped.trailing_ones()).unwrap_or(u8::MAX)
    }

    /// Whether mprotect meets a hole between two parts, the first of which Linux would change: a VMA here
    /// has one right, so that the model can't.
    #[must_use]
    pub fn splits_on_mprotect(&self, write: bool) -> bool {
        let before = self.pages_before_hole();
        before != 0
            && self.mapped != crate::units::first_pages(before)
            && (self.read, self.write) != (true, write)
    }
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

/// What the CPUs of a process with threads have in their TLBs of one page table slot, and what
/// `mmu_gather` holds until they have it no more.
///
/// ```text
/// nobody --access--> cpus --entry cleared--> cpus, stale --flush--> nobody
///                                             gathered -- tlb_finish_mmu --> nobody
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Translation {
    /// Whose CPUs have it, a bit each.
    pub cpus: u16,
    /// Which of these may write through it.
    pub writers: u16,
    /// Where it leads, and what is gathered; none while nobody has it and nothing is.
    pub frame: FrameId,
    /// `mmu_gather` holds a reference to the page that the entry held, until the flush is over.
    pub gathered: bool,
}

impl Translation {
    pub(super) const NONE: Self =
        Self { cpus: 0, writers: 0, frame: FrameId::NONE, gathered: false };

    /// All CPUs forget it.
    pub const fn forget(&mut self) {
        (self.cpus, self.writers) = (0, 0);
        if !self.gathered {
            self.frame = FrameId::NONE;
        }
    }
}

/// Pages that a munmap under way has taken out of an address space: no fault finds them, a zap does while
/// they are linked, and they are a reference to the buffer until they are closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Detached {
    /// The VMA that they were, or were a part of; `mapped` says which pages. None while no munmap is
    /// under way.
    pub area: Vma,
    /// Whether they are in the exporter's `address_space`: `unlink_file_vma` has not been.
    pub linked: bool,
}

impl Detached {
    pub(super) const NONE: Self = Self { area: EMPTY_VMA, linked: false };
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

/// An attachment's sg_table is a slot. What the importer's calls and `move_notify` do to it is said here
/// once; the live device asks it, too.
///
/// ```text
///            map                    move_notify
/// None ----------------> Held ------------------> Invalid --map--> Held
///   `--ENODEV--> Failed    `--unmap--> Dropped <--unmap--'
/// ```
impl Slot {
    /// Mapped, and not unmapped since: a move waits for it, and dma_buf_detach would leak it.
    #[must_use]
    pub const fn is_mapped(self) -> bool {
        matches!(self, Self::Held | Self::Invalid)
    }

    /// After `dma_buf_move_notify`, which calls dynamic importers only.
    #[must_use]
    pub const fn notified(self) -> Self {
        match self {
            Self::Held => Self::Invalid,
            Self::None | Self::Taking | Self::Invalid | Self::Failed | Self::Dropped => self,
        }
    }

    /// How many `dma_buf_pin`s of the buffer the mapping stands for: the core pins for an importer that is
    /// not told of moves (`dma_buf_map_attachment`, drivers/dma-buf/dma-buf.c, 6.12).
    #[must_use]
    pub const fn pins(self, dynamic: bool) -> u8 {
        (self.is_mapped() && !dynamic) as u8
    }
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

/// The `mmap_lock` of an address space: who has it, and who stands in line. A bit is an actor.
///
/// ```text
///                    readers gone
/// writer queued ------------------> writer     no reader gets past a writer that is queued
///
///               the lock of the buffer is taken
/// fault begins ---------------------------------> faults --- it is free ---> served
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct MmapLock {
    /// Who holds it for reading.
    pub readers: u16,
    /// Who holds it for reading in a fault that waits for the exporter.
    pub faults: u16,
    /// Who holds it for writing.
    pub writer: ActorId,
    /// Who waits for it to write.
    pub queued: u16,
}

impl MmapLock {
    pub(super) const FREE: Self = Self { readers: 0, faults: 0, writer: ActorId::NONE, queued: 0 };
}

/// A ticket to take several reservations under: what an actor has of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Ticket {
    /// 1 is the oldest of those that are drawn; 0: none is.
    pub age: u8,
    /// How many reservations are held under it (`ww_acquire_ctx.acquired`).
    pub held: u8,
    /// The buffer for which all were given back, to be taken first.
    pub contended: BufId,
}

impl Ticket {
    pub(super) const NONE: Self = Self { age: 0, held: 0, contended: BufId::NONE };

    /// Whether both are drawn, and this one was before `other`.
    #[must_use]
    pub const fn is_older(self, other: Self) -> bool {
        self.age > 0 && self.age < other.age
    }
}

/// The buffers that are reserved under one ticket, in the order in which they are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reservations([BufId; Self::MAX]);

impl Reservations {
    /// How many there may be.
    pub const MAX: usize = 4;

    /// The first [`Self::MAX`] of `bufs`.
    #[must_use]
    pub fn new(bufs: impl IntoIterator<Item = BufId>) -> Self {
        let mut all = [BufId::NONE; Self::MAX];
        all.iter_mut().zip(bufs).for_each(|(slot, buf)| *slot = buf);
        Self(all)
    }

    /// One after the other.
    pub fn iter(self) -> impl Iterator<Item = BufId> {
        self.0.into_iter().filter(|buf| buf.is_some())
    }
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

pub(super) const EMPTY_ATTACHMENT: Attachment =
    Attachment { slot: Slot::None, buf: BufId::NONE, dynamic: false, pins: 0 };

pub(super) const EMPTY_FENCE: Fence = Fence {
    slot: Slot::None,
    buf: BufId::NONE,
    usage: Usage::Kernel,
    actor: ActorId::NONE,
    writes: false,
};

pub(super) const fn unallocated(placement: Placement) -> DmaBuf {
    DmaBuf {
        life: Life::Unallocated,
        lock: ActorId::NONE,
        pins: 0,
        fds: 0,
        placement,
        dest: placement,
        vma_pointer: VmaId::NONE,
        begun: false,
        moving: false,
        kept: false,
    }
}

pub(super) const ZERO_PAGE: Frame = Frame {
    owner: Owner::Zero,
    value: 0,
    cached: false,
    dirty: false,
    cache_value: 0,
    rank: 0,
    write_combined: false,
};
