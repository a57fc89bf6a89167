//! What an actor can do in one go, and what comes of it.

pub use super::answer::{Errno, Signal};
use super::objects::{Owner, Pte, Reservations, Target};
use super::operation::Operation;
use super::rule::rule;
use super::rules::{ExporterStep, Usage};
use crate::units::{
    ActorId, AttachmentId, BufId, FenceId, FrameId, ImporterId, PageId, PageSet, PinId, SgId, VmaId,
};

/// FOLL_* flags of a `get_user_pages` call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Foll {
    /// FOLL_WRITE.
    pub write: bool,
    /// FOLL_FORCE.
    pub force: bool,
    /// FOLL_LONGTERM.
    pub longterm: bool,
    /// FOLL_GET instead of FOLL_PIN, as vmsplice has it. Never with FOLL_LONGTERM
    /// (`is_valid_gup_args`, mm/gup.c, 6.12).
    pub get: bool,
}

/// What a device does its DMA through.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Handle {
    /// A `get_user_pages` pin or a cached pfn.
    Pin(PinId),
    /// An sg_table.
    Sg(SgId),
}

/// Direction of a DMA.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dir {
    /// The device reads memory (DMA_TO_DEVICE).
    Read,
    /// The device writes memory (DMA_FROM_DEVICE).
    Write(u8),
    /// The device reads and throws away what it read (allowed until unmap).
    Prefetch,
}

/// Direction of a CPU access bracket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SyncAccess {
    /// DMA_BUF_SYNC_READ.
    pub read: bool,
    /// DMA_BUF_SYNC_WRITE.
    pub write: bool,
}

/// An mmap request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mmap {
    /// Where it goes.
    pub vma: VmaId,
    /// What is mapped; none for anonymous memory.
    pub buf: BufId,
    /// Page of the buffer to begin with.
    pub offset: u8,
    /// MAP_SHARED.
    pub shared: bool,
    /// PROT_READ.
    pub read: bool,
    /// PROT_WRITE.
    pub write: bool,
    /// Through whose file; none for the dma-buf's own.
    pub via: ImporterId,
    /// Through the exporter's device node: `drm_gem_mmap`, which finds the buffer by its fake offset and
    /// never passes by `dma_buf_mmap`. The zap finds such a VMA as well: the node and a DRM dma-buf have
    /// one `address_space` (`drm_gem_prime_mmap`, drivers/gpu/drm/drm_prime.c, 6.12).
    pub node: bool,
}

/// One atomic action. Everything else may happen between two steps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// mmap(2). EINVAL where a rule forbids it, EACCES, ENODEV for a buffer that is gone.
    Mmap(Mmap),
    /// munmap(2) of the pages in `pages` (a bit each).
    Munmap {
        /// Of which VMA.
        vma: VmaId,
        /// Bit per page.
        pages: PageSet,
    },
    /// mremap(2): `to` takes over the entries of `from`. EFAULT when there is nothing to move.
    Mremap {
        /// The new VMA.
        to: VmaId,
        /// The old one.
        from: VmaId,
    },
    /// mprotect(2) of the whole mapping, to PROT_READ or to both. ENOMEM where a part is not mapped.
    Mprotect {
        /// Which VMA.
        vma: VmaId,
        /// PROT_WRITE.
        write: bool,
    },
    /// A CPU load. May fault first ([`Reply::Again`]).
    Load {
        /// Through which VMA.
        vma: VmaId,
        /// Which page of it.
        page: u8,
    },
    /// A CPU store. May fault first.
    Store {
        /// Through which VMA.
        vma: VmaId,
        /// Which page of it.
        page: u8,
        /// What.
        value: u8,
    },
    /// The fast path of get_user_pages: looks at the page table alone. Never an error: when it
    /// can't, [`Step::GupSlow`] is to follow.
    GupFast {
        /// The pin.
        pin: PinId,
        /// Where.
        vma: VmaId,
        /// Which page.
        page: u8,
        /// FOLL_*.
        foll: Foll,
    },
    /// The slow path of get_user_pages, a no-op when the fast path has succeeded. May fault
    /// first. EFAULT.
    GupSlow {
        /// The pin.
        pin: PinId,
        /// Where.
        vma: VmaId,
        /// Which page.
        page: u8,
        /// FOLL_*.
        foll: Foll,
    },
    /// `follow_pfn`: a no-op when `pin` is already held (a frame_vector's page was pinned). May
    /// fault first (`fixup_user_fault`). EINVAL for ordinary memory, EFAULT.
    FollowPfn {
        /// The cached pfn.
        pin: PinId,
        /// Where.
        vma: VmaId,
        /// Which page.
        page: u8,
        /// The device will write.
        write: bool,
    },
    /// The end of `get_vaddr_frames`: pages and pfns in one vector as the rule `frame-vector`
    /// says. EFAULT.
    FrameVectorCheck {
        /// First entry.
        first: PinId,
        /// Number of entries.
        count: u8,
        /// Whose rules.
        importer: ImporterId,
    },
    /// `unpin_user_page`, or forgetting a pfn.
    Unpin(PinId),
    /// `dma_buf_attach` / `dma_buf_dynamic_attach`. ENODEV for a buffer that is gone.
    Attach {
        /// The attachment.
        attachment: AttachmentId,
        /// To what; none when found through `via`.
        buf: BufId,
        /// The VMA whose dma-buf is looked up.
        via: VmaId,
        /// Whether it handles `move_notify`.
        dynamic: bool,
    },
    /// `dma_buf_detach`.
    Detach(AttachmentId),
    /// `dma_buf_map_attachment`, under the reservation lock. ENODEV.
    Map(SgId),
    /// `dma_buf_unmap_attachment`, under the reservation lock.
    Unmap(SgId),
    /// First half of submitting a job: take the reservation lock, and map again if `move_notify`
    /// said so. ENODEV.
    Validate {
        /// The fence that the second half adds.
        fence: FenceId,
        /// What the operation uses.
        sg: SgId,
    },
    /// Second half: add the fence and release the lock.
    Submit {
        /// The fence.
        fence: FenceId,
        /// What the operation uses.
        sg: SgId,
        /// The fence's usage.
        usage: Usage,
        /// Whether the operation writes the buffer.
        writes: bool,
    },
    /// `dma_fence_signal`. Takes no lock.
    Signal(FenceId),
    /// First half of a DMA: translate the address.
    DmaStart {
        /// Through what.
        via: Handle,
        /// Which page.
        page: u8,
        /// Direction.
        dir: Dir,
    },
    /// Second half of a DMA: transfer.
    DmaFinish {
        /// Through what.
        via: Handle,
        /// Which page.
        page: u8,
        /// Direction.
        dir: Dir,
    },
    /// `dma_buf_pin`, under the reservation lock.
    DmaBufPin(AttachmentId),
    /// `dma_buf_unpin`.
    DmaBufUnpin(AttachmentId),
    /// DMA_BUF_IOCTL_SYNC with START: waits for fences, then `begin_cpu_access`.
    SyncStart {
        /// Which buffer.
        buf: BufId,
        /// Direction.
        access: SyncAccess,
        /// Through whose file; none for the dma-buf's own.
        via: ImporterId,
    },
    /// DMA_BUF_IOCTL_SYNC with END: `end_cpu_access`.
    SyncEnd {
        /// Which buffer.
        buf: BufId,
        /// Direction.
        access: SyncAccess,
        /// Through whose file; none for the dma-buf's own.
        via: ImporterId,
    },
    /// One step of a move, purge or revocation. EBUSY, ENOMEM, EINVAL when the buffer is gone.
    Exporter {
        /// Of which buffer.
        buf: BufId,
        /// Which step.
        step: ExporterStep,
        /// Page of the buffer, for [`ExporterStep::Copy`].
        page: u8,
        /// What it is part of.
        operation: Operation,
    },
    /// Allocate a declared buffer. ENOMEM; EBUSY when a pinned page is in the way in CMA.
    Alloc(BufId),
    /// close(2) of the one fd.
    Close(BufId),
    /// fork(2): `child`'s VMAs become copies of `parent`'s, pairwise.
    Fork {
        /// The new process.
        child: ActorId,
        /// The first VMA of the parent.
        parent_first: VmaId,
        /// The first VMA of the child.
        child_first: VmaId,
        /// How many.
        count: u8,
    },
    /// The CPU drops a cache line of a page, writing it back if it is dirty.
    EvictCache(PageId),
    /// `dma_resv_lock` by a driver, for whatever it does next. EINVAL for a buffer that is gone.
    ResvLock(BufId),
    /// `dma_resv_unlock`.
    ResvUnlock(BufId),
    /// `ww_acquire_init`: a ticket to take several reservations under.
    DrawTicket,
    /// `dma_resv_lock` of all of these under the ticket, with whatever backing off it takes.
    LockAll(Reservations),
    /// `mmap_read_lock` or `mmap_write_lock`.
    MmapLock {
        /// Of whose address space.
        mm: ActorId,
        /// For writing.
        write: bool,
    },
    /// `mmap_read_unlock` or `mmap_write_unlock`.
    MmapUnlock(ActorId),
    /// The importer's driver invalidates what its device has cached of the table's addresses.
    FlushTlb(SgId),
    /// The second part of a munmap in a process with threads, `free_pgtables`: `unlink_file_vma` takes what
    /// [`Step::Munmap`] has detached out of its file's `address_space`.
    FreePgtables(VmaId),
    /// The last part: `tlb_finish_mmu` flushes the TLBs and gives up the pages that were gathered, then the
    /// VMA is closed.
    FinishMmu(VmaId),
}

/// What a step answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reply {
    /// Done.
    Done,
    /// Done, and this was read.
    Value(u8),
    /// Something else was done first (a fault, a migration, a remap); take the same step again.
    Again,
    /// Refused; what the whole operation had in hand has been given back.
    Errno(Errno),
    /// The access was not served.
    Signal(Signal),
    /// Nothing to do: what it needs was refused before.
    Skipped,
}

rule! {
    /// Ways in which memory goes wrong.
    HazardKind {
        /// Read what the buffer no longer holds.
        StaleRead = "stale-read",
        /// Wrote where the buffer no longer is.
        LostWrite = "lost-write",
        /// Read another buffer's page.
        CrossBufferRead = "cross-buffer-read",
        /// Wrote another buffer's page.
        CrossBufferWrite = "cross-buffer-write",
        /// Accessed a frame that nobody owns.
        UseAfterFree = "use-after-free",
        /// A private copy and the buffer went separate ways.
        DivergedCow = "diverged-cow",
        /// CPU cache and memory disagree.
        Incoherent = "incoherent",
        /// A page pin stopped a move or an allocation.
        PinBlocksMove = "pin-blocks-move",
        /// A page pin kept a page that is no longer the buffer's.
        OrphanPin = "orphan-pin",
        /// A dynamic importer accessed the buffer without a fence.
        UnfencedAccess = "unfenced-access",
        /// The kernel would have hit a BUG_ON.
        KernelBug = "kernel-bug",
        /// The IOMMU refused the address.
        IommuFault = "iommu-fault",
        /// Nobody can go on.
        Deadlock = "deadlock",
        /// A device wrote through a pin that was taken for reading.
        WriteThroughReadPin = "write-through-read-pin",
        /// Whoever relies on implicit sync found a writer's fence in the BOOKKEEP slot, and did not
        /// wait for it.
        MissedFence = "missed-fence",
        /// A purge, a free or a move gave a page back that a page table entry still holds: it is not
        /// free, and the process goes on in it.
        OrphanMapping = "orphan-mapping",
    }
}

impl HazardKind {
    /// Its bit in [`super::State::hazards`].
    #[must_use]
    pub const fn bit(self) -> u16 {
        1 << self as u8
    }
}

/// The way an access took.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Via {
    /// A CPU mapping.
    Vma(VmaId, u8),
    /// A pin, a cached pfn or an sg_table, and the page.
    Device(Handle, u8),
    /// The exporter itself.
    Exporter(BufId),
    /// A cache line on its way to memory.
    Cache,
}

/// A hazard, as the oracle saw it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hazard {
    /// Which.
    pub kind: HazardKind,
    /// Who did it.
    pub actor: ActorId,
    /// Which way.
    pub via: Via,
    /// What was meant, where an access is to blame.
    pub target: Option<Target>,
    /// What was reached.
    pub frame: FrameId,
    /// Whose memory that is now.
    pub owner: Owner,
    /// What was read or written.
    pub value: Option<u8>,
    /// What a read should have returned.
    pub expected: Option<u8>,
}

rule! {
    /// Things that cost time and that the threads argue about.
    Cost {
        /// Global TLB flushes.
        TlbFlushes = "tlb-flushes",
        /// Pages whose caching attribute was changed.
        AttributeChanges = "attribute-changes",
        /// Memory types looked up or reserved.
        PatSteps = "pat-steps",
        /// Page table entries zapped.
        ZappedPtes = "zapped-ptes",
    }
}

/// What a step did to memory and page tables: enough to do the same to real ones, and to tell
/// the story afterwards.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// A VMA came into being; its description is in the state.
    VmaMapped(VmaId),
    /// These pages of it are gone.
    VmaUnmapped(VmaId, PageSet),
    /// All of the second VMA is now the first.
    VmaMoved {
        /// New place.
        to: VmaId,
        /// Old place.
        from: VmaId,
    },
    /// What may be done with the VMA is another now, and with the entries that it has: writes, or not.
    Protected(VmaId, bool),
    /// A fault was served for the page and this entry installed.
    Faulted(VmaId, u8, Pte),
    /// A frame was given to this owner and filled through the CPU's cache, which keeps the value.
    FrameFilledInCache(FrameId, Owner, u8),
    /// This entry was removed.
    Zapped(VmaId, u8, Pte),
    /// A private page got a frame of its own, a copy of `from` (none: zeros).
    CowCopied {
        /// In which VMA.
        vma: VmaId,
        /// Which page.
        page: u8,
        /// Copied from.
        from: FrameId,
        /// To.
        to: FrameId,
    },
    /// The CPU read `value`.
    Loaded(VmaId, u8, FrameId, u8),
    /// The CPU wrote `value`.
    Stored(VmaId, u8, FrameId, u8),
    /// A frame was handed out and filled.
    FrameFilled(FrameId, Owner, u8),
    /// A frame was handed out as the destination of a move.
    FrameReserved(FrameId, PageId),
    /// A page was copied between frames.
    FrameCopied {
        /// Copied from.
        from: FrameId,
        /// To.
        to: FrameId,
    },
    /// The buffer's page is this frame from now on.
    Rebound(PageId, FrameId),
    /// A frame went back to its free list.
    FrameFreed(FrameId),
    /// A frame was given back and lives on because of page references.
    FrameOrphaned(FrameId),
    /// A pin was taken by the fast path (`true`) or not.
    Pinned(PinId, VmaId, u8, FrameId, bool),
    /// A pfn was cached.
    PfnCached(PinId, VmaId, u8, FrameId),
    /// A pin or a pfn was given up.
    Unpinned(PinId),
    /// A notifier declared a pin or a pfn invalid.
    PinInvalidated(PinId),
    /// An sg_table was mapped; the addresses are in the state.
    SgMapped(SgId),
    /// An sg_table was unmapped.
    SgUnmapped(SgId),
    /// The device has forgotten what it had cached of the table.
    TlbFlushed(SgId),
    /// The actor's CPU used what its TLB held of the page: the entry was cleared, or is another by now.
    TlbHit(VmaId, u8, FrameId),
    /// The CPUs of the process have forgotten what they had of the VMA.
    CpuTlbFlushed(VmaId),
    /// `move_notify` reached the attachment.
    Notified(AttachmentId, BufId),
    /// A device translated an address.
    DmaStarted(Handle, u8, FrameId, Dir),
    /// A device transferred this value.
    DmaFinished(Handle, u8, FrameId, Dir, u8),
    /// A dirty cache line reached memory.
    CacheWrittenBack(FrameId, u8),
    /// A cache line was dropped.
    CacheDropped(FrameId),
    /// A cache line was filled from memory.
    CacheFilled(FrameId, u8),
    /// The reservation lock was taken (`true`) or released.
    Locked(BufId, bool),
    /// The buffer was marked purged or revoked, or was released.
    LifeChanged(BufId),
    /// A process was forked.
    Forked(ActorId),
    /// A WARN_ON fired.
    Warned(&'static str),
    /// A cost arose.
    Cost(Cost, u32),
    /// The oracle saw a hazard.
    Hazard(Hazard),
}

/// Where effects go. `()` throws them away, which costs an explorer nothing.
pub trait Sink {
    /// Take one.
    fn effect(&mut self, effect: Effect);
}

impl Sink for () {
    #[inline]
    fn effect(&mut self, _effect: Effect) {}
}

impl Sink for Vec<Effect> {
    fn effect(&mut self, effect: Effect) {
        self.push(effect);
    }
}
