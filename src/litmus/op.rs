//! The statements: what a process can do in one line.

pub use crate::model::Usage as FenceUsage;

use super::ast::{Name, PageRef, Placement, ProcessRef};
use super::words::words;

/// What a statement does. The grammar is in the documentation of [the module](super).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// `mmap V = BUF SHARING PROT [importer NAME|node] [pages=N] [offset=N]`
    Mmap {
        /// The mapping it makes.
        mapping: Name,
        /// What is mapped.
        buffer: Name,
        /// `MAP_SHARED` or `MAP_PRIVATE`.
        sharing: Sharing,
        /// `PROT_READ`, `PROT_WRITE` or both.
        protection: Protection,
        /// Map through this importer's file instead of the dma-buf's.
        importer: Option<Name>,
        /// Map through the exporter's device node (a fake offset in the DRM node's file) instead of the
        /// dma-buf's file; never with an importer.
        node: bool,
        /// Length; the rest of the buffer behind `offset` if not given.
        pages: Option<u8>,
        /// First page; 0 if not given.
        offset: Option<u8>,
    },
    /// `mmap V = anon private PROT [pages=N]`
    MmapAnon {
        /// The mapping it makes.
        mapping: Name,
        /// Never [`Protection::Write`].
        protection: Protection,
        /// Length; 1 if not given.
        pages: Option<u8>,
    },
    /// `munmap V`
    Munmap {
        /// The mapping that goes, whole.
        mapping: Name,
    },
    /// `munmap V[i]`
    MunmapPage {
        /// The page that goes; the VMA splits.
        at: PageRef,
    },
    /// `mremap W = V`
    Mremap {
        /// The mapping it makes.
        new: Name,
        /// The mapping that goes.
        old: Name,
    },
    /// `store V[i] = N`
    Store {
        /// Where to.
        to: PageRef,
        /// The byte.
        value: u8,
    },
    /// `load R = V[i]`
    Load {
        /// The register.
        register: Name,
        /// Where from.
        from: PageRef,
    },
    /// `gup P = V[i] [write] [force] [longterm|get]`
    Gup {
        /// The pin it makes.
        pin: Name,
        /// The user address.
        at: PageRef,
        /// `FOLL_*`.
        flags: GupFlags,
    },
    /// `unpin P`
    Unpin {
        /// The pin that goes.
        pin: Name,
    },
    /// `follow_pfn Q = V[i] [notifier]`
    FollowPfn {
        /// The pfn cache it makes.
        cache: Name,
        /// The user address.
        at: PageRef,
        /// Whether an mmu_notifier guards the cache: one that waits, unless the driver's rule says
        /// otherwise.
        notifier: bool,
    },
    /// `frame_vector F = V[i], W[j], ... [write] [force] [longterm|get]`
    FrameVector {
        /// The frame vector it makes.
        vector: Name,
        /// The user addresses, 1 to 8.
        at: Vec<PageRef>,
        /// `FOLL_*`.
        flags: GupFlags,
    },
    /// `attach T = BUF [static|dynamic]`
    Attach {
        /// The attachment it makes.
        attachment: Name,
        /// What is attached to.
        buffer: Name,
        /// Overrides the importer's rule.
        mode: Option<AttachMode>,
    },
    /// `attach T = dmabuf_of V`
    AttachDmabufOf {
        /// The attachment it makes.
        attachment: Name,
        /// The mapping whose dma-buf is looked up.
        mapping: Name,
    },
    /// `detach T`
    Detach {
        /// The attachment that goes.
        attachment: Name,
    },
    /// `map S = T`
    Map {
        /// The sg_table it makes.
        table: Name,
        /// The attachment that is mapped.
        attachment: Name,
    },
    /// `unmap S`
    Unmap {
        /// The sg_table that goes.
        table: Name,
    },
    /// `submit F = S USAGE`
    Submit {
        /// The fence it makes.
        fence: Name,
        /// The sg_table that the job uses.
        table: Name,
        /// How the fence is entered in the buffer's reservation object.
        usage: FenceUsage,
    },
    /// `signal F`
    Signal {
        /// The fence that signals.
        fence: Name,
    },
    /// `dma_read R = X[i]`
    DmaRead {
        /// The register.
        register: Name,
        /// A page of a pin, pfn cache, frame vector or sg_table.
        from: PageRef,
    },
    /// `dma_write X[i] = N`
    DmaWrite {
        /// A page of a pin, pfn cache, frame vector or sg_table.
        to: PageRef,
        /// The byte.
        value: u8,
    },
    /// `prefetch X[i]`
    Prefetch {
        /// A page of a pin, pfn cache, frame vector or sg_table.
        at: PageRef,
    },
    /// `dma_buf_pin T`
    DmaBufPin {
        /// The attachment.
        attachment: Name,
    },
    /// `dma_buf_unpin T`
    DmaBufUnpin {
        /// The attachment.
        attachment: Name,
    },
    /// `sync PHASE BUF ACCESS [importer NAME]`
    Sync {
        /// `DMA_BUF_SYNC_START` or `_END`.
        phase: SyncPhase,
        /// The buffer.
        buffer: Name,
        /// `DMA_BUF_SYNC_READ`, `_WRITE` or `_RW`.
        access: SyncAccess,
        /// Through this importer's handle.
        importer: Option<Name>,
    },
    /// `move BUF -> PLACEMENT`
    Move {
        /// The buffer.
        buffer: Name,
        /// Where its frames will be.
        to: Placement,
    },
    /// `purge BUF`
    Purge {
        /// The buffer.
        buffer: Name,
    },
    /// `revoke BUF`
    Revoke {
        /// The buffer.
        buffer: Name,
    },
    /// `alloc BUF`
    Alloc {
        /// The buffer.
        buffer: Name,
    },
    /// `close BUF`
    Close {
        /// The buffer.
        buffer: Name,
    },
    /// `fork Pn`
    Fork {
        /// A process of role `child`.
        child: ProcessRef,
    },
    /// `await LABEL`
    Await {
        /// The label of the statement that must have finished.
        label: Name,
    },
    /// `evict_cache BUF[i]`
    EvictCache {
        /// A page of a buffer.
        at: PageRef,
    },
}

words! {
    /// `MAP_SHARED` or `MAP_PRIVATE`.
    Sharing {
        /// `MAP_SHARED`.
        Shared = "shared",
        /// `MAP_PRIVATE`.
        Private = "private",
    }
}

words! {
    /// `PROT_*` of a mapping.
    Protection {
        /// `PROT_READ`.
        Read = "r",
        /// `PROT_WRITE`.
        Write = "w",
        /// `PROT_READ | PROT_WRITE`.
        ReadWrite = "rw",
    }
}

/// The `FOLL_*` flags of a get_user_pages call.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GupFlags {
    /// `FOLL_WRITE`.
    pub write: bool,
    /// `FOLL_FORCE`.
    pub force: bool,
    /// `FOLL_LONGTERM`.
    pub longterm: bool,
    /// `FOLL_GET` instead of `FOLL_PIN`; never with `longterm`.
    pub get: bool,
}

words! {
    /// What an attachment promises about moves.
    AttachMode {
        /// No `move_notify`: a mapping pins the buffer.
        Static = "static",
        /// With `move_notify`: the importer follows moves.
        Dynamic = "dynamic",
    }
}

words! {
    /// Which end of a CPU access bracket.
    SyncPhase {
        /// `DMA_BUF_SYNC_START`, begin_cpu_access.
        Start = "start",
        /// `DMA_BUF_SYNC_END`, end_cpu_access.
        End = "end",
    }
}

words! {
    /// The direction of a CPU access bracket.
    SyncAccess {
        /// `DMA_BUF_SYNC_READ`.
        Read = "read",
        /// `DMA_BUF_SYNC_WRITE`.
        Write = "write",
        /// `DMA_BUF_SYNC_RW`.
        ReadWrite = "rw",
    }
}
