//! Words that rules, states and steps share: where frames live, what fences are for.

use super::rule::rule;
use super::rules::YesNo;

impl YesNo {
    /// Whether it is yes.
    #[must_use]
    pub const fn yes(self) -> bool {
        matches!(self, Self::Yes)
    }
}

rule! {
    /// Where frames live.
    Placement {
        /// A carveout: frames without reference counts, reused at once.
        Vram = "vram",
        /// System memory.
        System = "system",
        /// The contiguous memory area: lent to movable pages until somebody allocates from it.
        Cma = "cma",
    }
}

rule! {
    /// `enum dma_resv_usage`, lowest first.
    Usage {
        /// DMA_RESV_USAGE_KERNEL.
        Kernel = "kernel",
        /// DMA_RESV_USAGE_WRITE.
        Write = "write",
        /// DMA_RESV_USAGE_READ.
        Read = "read",
        /// DMA_RESV_USAGE_BOOKKEEP.
        Bookkeep = "bookkeep",
    }
}

impl Usage {
    /// `dma_resv_usage_rw`: whom a new access has to wait for.
    #[must_use]
    pub const fn to_wait_for(write: bool) -> Self {
        if write { Self::Read } else { Self::Write }
    }
}

rule! {
    /// Which fences the step `wait` waits for; a level includes the lower ones.
    ///
    /// Source: `enum dma_resv_usage`, include/linux/dma-resv.h.
    WaitFor {
        /// Kernel-internal operations only.
        Kernel = "kernel",
        /// And implicit writers.
        Write = "write",
        /// And implicit readers.
        Read = "read",
        /// And everything else: what a move and a revocation need.
        Bookkeep = "bookkeep",
    }
}
