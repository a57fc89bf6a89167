//! The table of statements: the parser looks words up in it, and `driftheap statement` prints it.
//!
//! `V W` are mappings, `R` registers, `P` pins, `Q` pfn caches, `F` frame vectors, `T` attachments,
//! `S` sg_tables, `J` fences; `X` is a pin, pfn cache, frame vector or sg_table; `[i]` is a page.

/// One statement of the language.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StatementSpec {
    /// The word it begins with.
    pub word: &'static str,
    /// How it is written; more than one way where words behind it change what it is.
    pub forms: &'static [&'static str],
    /// What it does.
    pub meaning: &'static str,
    /// What it can answer under some rule, and when, whatever else the kernel's counterpart can.
    pub fails: &'static [(&'static str, &'static str)],
    /// What it stands for in the kernel.
    pub kernel: &'static str,
    /// Which one it is, for the parser.
    pub(super) keyword: Keyword,
}

/// The statement that begins with `word`.
#[must_use]
pub fn find(word: &str) -> Option<&'static StatementSpec> {
    STATEMENTS.iter().find(|spec| spec.word == word)
}

macro_rules! statements {
    ($($keyword:ident $word:literal: $meaning:literal, in $kernel:literal {
        $($form:literal;)+ $($errno:ident: $when:literal,)*
    })+) => {
        /// The words that statements begin with.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(super) enum Keyword { $($keyword),+ }

        /// Every statement, in the order in which a test usually needs them.
        pub const STATEMENTS: &[StatementSpec] = &[$(StatementSpec {
            word: $word,
            forms: &[$($form),+],
            meaning: $meaning,
            fails: &[$((stringify!($errno), $when)),*],
            kernel: $kernel,
            keyword: Keyword::$keyword,
        }),+];

        /// Their words, in the same order.
        pub(super) const WORDS: &[&str] = &[$($word),+];
    };
}

statements! {
    Mmap "mmap": "map a buffer, through the importer's file when it is named, through the exporter's DRM node with node; or anonymous memory",
        in "dma_buf_mmap_internal(), dma_buf_mmap(); drm_gem_mmap(); mmap(MAP_ANONYMOUS)" {
        "mmap V = BUF shared|private r|w|rw [importer NAME|node] [pages=N] [offset=N]";
        "mmap V = anon private r|rw [pages=N]";
        EINVAL: "past the end; private where cow = reject; the importer forbids it; dma-buf-mmap-check refuses",
        ENODEV: "the buffer is released or revoked",
        ENOMEM: "no frame for an importer's shadow",
    }
    Munmap "munmap": "unmap all of a mapping, or one page, which splits the VMA", in "munmap()" {
        "munmap V";
        "munmap V[i]";
    }
    Mremap "mremap": "move the mapping to another address", in "mremap(MREMAP_MAYMOVE)" {
        "mremap W = V";
        EFAULT: "nothing is mapped there",
    }
    Mprotect "mprotect": "change what may be done with all of a mapping", in "mprotect()" {
        "mprotect V r|rw";
        ENOMEM: "a part of it is not mapped (unlike Linux, a hole in the middle changes nothing)",
    }
    Store "store": "write a byte", in "a fault, vm_operations_struct.fault" {
        "store V[i] = N";
        SIGBUS: "the buffer is purged or revoked, or has no frame",
        SIGSEGV: "nothing is mapped there, or not for writing",
        OOPS: "the fault handler's BUG_ON: VM_PFNMAP and MAP_PRIVATE, where cow = allow",
    }
    Load "load": "read a byte", in "a fault, vm_operations_struct.fault" {
        "load R = V[i]";
        SIGBUS: "the buffer is purged or revoked, or has no frame",
        SIGSEGV: "nothing is mapped there, or not for reading",
        OOPS: "the fault handler's BUG_ON: VM_PFNMAP and MAP_PRIVATE, where cow = allow",
    }
    Gup "gup": "pin the page behind an address; with get, take a reference alone",
        in "pin_user_pages_fast(), FOLL_WRITE FOLL_FORCE FOLL_LONGTERM; FOLL_GET, get_user_pages_fast()" {
        "gup P = V[i] [write] [force] [longterm|get]";
        EFAULT: "VM_PFNMAP, a special entry, no mapping, or no right to it",
        EBUSY: "it has to leave CMA first and is pinned",
        ENOMEM: "it has to leave CMA first and there is no frame",
        OOPS: "the fault handler's BUG_ON: VM_PFNMAP and MAP_PRIVATE, where cow = allow",
    }
    Unpin "unpin": "drop the pin", in "unpin_user_page()" {
        "unpin P";
    }
    FollowPfn "follow_pfn": "remember the frame number; notifier: with an mmu_notifier, which waits unless the importer's rule says no-wait",
        in "follow_pfn(), follow_pfnmap_start()" {
        "follow_pfn Q = V[i] [notifier]";
        EINVAL: "not VM_PFNMAP, or the host has no follow_pfn",
        EFAULT: "not writable",
    }
    FrameVector "frame_vector": "pin pages, or else remember frame numbers", in "get_vaddr_frames()" {
        "frame_vector F = V[i], W[j].. [write] [force] [longterm|get]";
        EFAULT: "a page can neither be pinned nor followed, or the range is mixed and that is refused",
    }
    Attach "attach": "attach the process's importer, to a buffer or to the one behind a mapping",
        in "dma_buf_attach(), dma_buf_dynamic_attach(); a lookup by vma->vm_file" {
        "attach T = BUF [static|dynamic]";
        "attach T = dmabuf_of V";
        EINVAL: "no dma-buf is mapped there",
        ENODEV: "the buffer is not live",
    }
    Detach "detach": "end the attachment", in "dma_buf_detach()" {
        "detach T";
    }
    Map "map": "get bus addresses", in "dma_buf_map_attachment()" {
        "map S = T";
        ENODEV: "the buffer is not live, or has no frame for a page",
        EINVAL: "a static importer can't reach video memory, and the buffer is pinned there",
        ENOMEM: "it can't, and there are no frames in system memory",
    }
    Unmap "unmap": "give the bus addresses back", in "dma_buf_unmap_attachment()" {
        "unmap S";
    }
    Submit "submit": "start a job, its fence in the buffer's resv",
        in "dma_resv_add_fence(), enum dma_resv_usage" {
        "submit J = S read|write|kernel|bookkeep";
        ENODEV: "what was invalidated can't be mapped again",
    }
    Signal "signal": "the job is done", in "dma_fence_signal()" {
        "signal J";
    }
    DmaRead "dma_read": "the device reads a byte", in "the device" {
        "dma_read R = X[i]";
        EFAULT: "IOMMU fault, or the address is gone",
        ENODEV: "what was invalidated can't be mapped again",
    }
    DmaWrite "dma_write": "the device writes a byte", in "the device" {
        "dma_write X[i] = N";
        EFAULT: "IOMMU fault, or the address is gone",
        ENODEV: "what was invalidated can't be mapped again",
    }
    Prefetch "prefetch": "the device translates the address, for a later access", in "ATS, a device TLB" {
        "prefetch X[i]";
        EFAULT: "IOMMU fault, or the address is gone",
        ENODEV: "what was invalidated can't be mapped again",
    }
    FlushTlb "flush_tlb": "the device forgets what it has cached of the table's addresses",
        in "intel_gt_invalidate_tlbs(), amdgpu_gmc_flush_gpu_tlb()" {
        "flush_tlb S";
    }
    DmaBufPin "dma_buf_pin": "forbid moves", in "dma_buf_pin()" {
        "dma_buf_pin T";
    }
    DmaBufUnpin "dma_buf_unpin": "allow moves again", in "dma_buf_unpin()" {
        "dma_buf_unpin T";
    }
    Sync "sync": "bracket CPU accesses", in "DMA_BUF_IOCTL_SYNC, dma_buf_begin_cpu_access()" {
        "sync start|end BUF read|write|rw [importer NAME]";
    }
    Move "move": "move the buffer, step by step as the exporter's rules say", in "ttm_bo_validate()" {
        "move BUF -> PLACEMENT";
        EINVAL: "the buffer is not live",
        EBUSY: "it is pinned, and the rules look at that",
        ENOMEM: "no frames there",
    }
    Purge "purge": "drop the content and the frames", in "drm_gem_shmem_purge()" {
        "purge BUF";
        EINVAL: "the buffer is not live",
        EBUSY: "it is pinned, and the rules look at that",
    }
    Revoke "revoke": "take the buffer away from everybody", in "dma_buf_move_notify() and waits" {
        "revoke BUF";
        EINVAL: "the buffer is not live",
        EBUSY: "it is pinned, and the rules look at that",
    }
    Alloc "alloc": "give an unallocated buffer frames", in "dma_heap_buffer_alloc()" {
        "alloc BUF";
        EINVAL: "it is live",
        ENOMEM: "no frames there",
        EBUSY: "CMA, where a page is pinned",
    }
    Close "close": "drop the last file reference of the process", in "dma_buf_release()" {
        "close BUF";
        EINVAL: "already closed",
    }
    Fork "fork": "start the child with a copy of the address space", in "fork(), dup_mmap()" {
        "fork Pn";
    }
    Await "await": "wait until a statement has ended, by its label or by what it makes", in "whatever orders the processes" {
        "await LABEL|P|Q|F|T|S|J";
    }
    Lock "lock": "a driver takes the reservations of buffers, for the statements up to unlock; under a ticket it never waits for an older one with some held, but gives all back and begins with the contended one",
        in "dma_resv_lock(); ww_acquire_init(), drm_exec_until_all_locked()" {
        "lock BUF[, BUF..]";
        "lock BUF[, BUF..] ticket";
        EINVAL: "there is no such buffer; those named before it stay locked, under a ticket they are given back",
    }
    Unlock "unlock": "the driver gives the reservations back, and with the last one its ticket", in "dma_resv_unlock(), ww_acquire_fini()" {
        "unlock BUF[, BUF..]";
    }
    MmapLock "mmap_lock": "a driver, or another thread, takes the process's mmap_lock",
        in "mmap_read_lock(), mmap_write_lock()" {
        "mmap_lock Pn read|write";
    }
    MmapUnlock "mmap_unlock": "whoever has the mmap_lock gives it back", in "mmap_read_unlock(), mmap_write_unlock()" {
        "mmap_unlock Pn";
    }
    EvictCache "evict_cache": "the cache line is written back and dropped", in "hardware" {
        "evict_cache BUF[i]";
    }
}
