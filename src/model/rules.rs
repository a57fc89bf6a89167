//! Exporter, importer and host rules as data.
//!
//! A rule is a named toggle: one enum, one word per value, and a source for each. The
//! litmus language, `driftheap matrix` and the device all use the names in these tables,
//! so a rule is spelled the same wherever it appears.
//!
//! **Differs from Linux**: a real driver has no such switches; each value is what one
//! driver or one posted patch did.

pub use super::importer_rules::*;
use super::rule::{RuleSpec, RuleText, RuleValues, rule, rules};
pub use super::terms::{Placement, Usage, WaitFor};

rule! {
    /// One step of a move, a purge or a revocation. Steps happen in the order in which the
    /// rule lists them, and anything else may happen between two of them.
    ///
    /// The reference order of a move is TTM's (`drivers/gpu/drm/ttm/ttm_bo.c`,
    /// `ttm_bo_handle_move_mem`, 6.12): reserved, `move_notify`, unmap, wait, copy, assign, free.
    ExporterStep {
        /// `dma_resv_lock`; waits while another actor holds it.
        Lock = "lock",
        /// `dma_buf_move_notify` (`dma_buf_invalidate_mappings` from 2026): tell dynamic importers.
        Notify = "notify",
        /// `unmap_mapping_range` over the buffer's fake offset range.
        Zap = "zap",
        /// `dma_resv_wait_timeout` for the fences that the rule `wait` names.
        Wait = "wait",
        /// Look for pins: `dma_buf_pin` counts and elevated page references. Answers EBUSY as the
        /// rules `on-dma-buf-pin` and `on-foreign-pin` say.
        CheckPins = "check-pins",
        /// Write back and invalidate the CPU's cache lines of the old frames.
        Flush = "flush",
        /// Take frames at the destination, ENOMEM when there are none.
        Reserve = "reserve",
        /// Put a KERNEL fence into the `dma_resv` for a copy that runs by itself
        /// (`ttm_bo_move_accel_cleanup`, drivers/gpu/drm/ttm/ttm_bo_util.c, 6.12).
        Fence = "fence",
        /// Copy every page to its new frame, one page a step. Behind `rebind` it is a copy that runs while
        /// the buffer is its new frames already.
        Copy = "copy",
        /// The copy is done, its KERNEL fence signals.
        Signal = "signal",
        /// From here on the buffer *is* its new frames.
        Rebind = "rebind",
        /// Give the old frames back as the rule `recycle` says.
        Free = "free",
        /// Mark the buffer purged or revoked: faults answer SIGBUS, `map` answers ENODEV.
        Mark = "mark",
        /// Wait until every importer has unmapped (`dma_buf_unmap_attachment`).
        WaitUnmap = "wait-unmap",
        /// `dma_resv_unlock`.
        Unlock = "unlock",
    }
}

rule! {
    /// How the exporter fills page tables, what decides get_user_pages.
    ///
    /// Source: [PATCH 1/2] dma-buf: Require VM_PFNMAP vma for mmap, cover letter and comments 4-14.
    MmapKind {
        /// VM_PFNMAP and `vmf_insert_pfn`: no struct page is ever looked at.
        Pfnmap = "pfnmap",
        /// VM_MIXEDMAP and `vmf_insert_mixed`: special where the architecture has a special bit.
        MixedmapInsertPfn = "mixedmap-insert-pfn",
        /// VM_MIXEDMAP and `vm_insert_page`: an ordinary, counted page.
        MixedmapInsertPage = "mixedmap-insert-page",
        /// An ordinary shmem file mapping.
        Shmem = "shmem",
        /// `remap_pfn_range` (`dma_mmap_attrs` in CMA): VM_IO, VM_PFNMAP and every entry at mmap; what
        /// is zapped is never faulted in again. MAP_PRIVATE answers EINVAL unless one range of pfns
        /// covers the VMA (`remap_pfn_range_notrack`, mm/memory.c, 6.12: vm_pgoff has to hold it).
        RemapPfnRange = "remap-pfn-range",
        /// VM_PFNMAP set by hand over the ordinary entries of a fault handler that returns a page
        /// (John Stultz's fix for the heaps, comment 11): gup_fast sees no special entry.
        PfnmapUnmarked = "pfnmap-unmarked",
    }
}

rule! {
    /// Huge page table entries for a buffer mapping.
    ///
    /// Source: PFNMAP thread, comments 16-21 (TTM huge faults); `pmd_special` today.
    Huge {
        /// 4 KiB entries only.
        None = "none",
        /// A huge PMD with no mark: `gup_fast` takes it, whatever the VMA says.
        Plain = "plain",
        /// A huge PMD marked special (`pmd_special`, 6.12): the fast path refuses it. The slow path refuses
        /// VM_IO and VM_PFNMAP, never looks at the mark, and takes what else there is (`follow_huge_pmd`,
        /// mm/gup.c, 6.12; measured).
        Special = "special",
        /// A huge PMD that is devmap, with no page map behind it, as the thread tried (PFN_DEV | PFN_MAP,
        /// comment 21): `get_dev_pagemap` finds nothing, and both paths refuse it.
        Devmap = "devmap",
    }
}

rule! {
    /// MAP_PRIVATE of a buffer.
    ///
    /// Source: PFNMAP thread, comments 1-7 and 22-26; CVE-2024-39497.
    Cow {
        /// Accepted; a write copies the page, which no device will see.
        Allow = "allow",
        /// `is_cow_mapping()` answers EINVAL at mmap.
        Reject = "reject",
    }
}

rule! {
    /// Whether the fault handler takes the reservation lock.
    ///
    /// Source: `ttm_bo_vm_reserve` (drivers/gpu/drm/ttm/ttm_bo_vm.c) takes it.
    FaultLock {
        /// A fault waits while a move holds the lock.
        Locked = "locked",
        /// A fault can put back an entry that a running move has just zapped.
        Unlocked = "unlocked",
    }
}

rule! {
    /// What the fault handler waits for, beside the lock.
    ///
    /// Source: `ttm_bo_vm_fault_idle` (drivers/gpu/drm/ttm/ttm_bo_vm.c, 6.12).
    FaultWait {
        /// KERNEL fences: a copy that is under way.
        Kernel = "kernel",
        /// Nothing.
        Nothing = "nothing",
    }
}

rule! {
    /// What the exporter's zap reaches.
    ///
    /// Source: vgem thread (wrong `address_space`), CVE-2023-4211 and CVE-2021-1905 (one VMA
    /// pointer per buffer).
    ZapReach {
        /// Every VMA of the buffer's `address_space` in the buffer's range.
        AddressSpace = "address-space",
        /// The one VMA that the driver remembered at mmap time.
        VmaPointer = "vma-pointer",
        /// The range begins a page too late.
        WrongRange = "wrong-range",
        /// The buffer's fake range (`drm_vma_node_unmap`), where none of its VMAs is: mmap took the fake
        /// offset off `vm_pgoff`, and the reverse map is made after mmap (`drm_gem_shmem_mmap`,
        /// drivers/gpu/drm/drm_gem_shmem_helper.c, before 5.12; `mmap_region`, mm/mmap.c).
        WrongPgoff = "wrong-pgoff",
        /// A range that begins at `vma->vm_start`: an address where an offset into the file is asked for
        /// (`unmap_mapping_range`, include/linux/mm.h; NVIDIA/gdrcopy issue 54), and so none of the buffer.
        VmStart = "vm-start",
    }
}

rule! {
    /// Which page of the buffer the exporter's fault handler shows.
    ///
    /// Source: measured on vgem of 6.12, mapped at an offset; `drm_gem_shmem_fault`
    /// (drivers/gpu/drm/drm_gem_shmem_helper.c) counts from `vma->vm_start`, for DRM nodes are mapped whole.
    FaultPage {
        /// The one behind the mapping's offset.
        AtOffset = "at-offset",
        /// Counted from the start of the VMA, whatever its offset is.
        FromStart = "from-start",
    }
}

rule! {
    /// What the exporter's fault handler does with a buffer that was purged.
    ///
    /// Source: `drm_gem_shmem_fault` and `drm_gem_shmem_put_pages_locked`
    /// (drivers/gpu/drm/drm_gem_shmem_helper.c), before and after "drm/shmem-helper: Check for purged
    /// buffers in fault handler" (d611b4a0907c, 5.12).
    FaultPurged {
        /// SIGBUS: it looks for the purge.
        Sigbus = "sigbus",
        /// It does not look: it shows the page that its array has, which lives as long as a mapping of the
        /// buffer. A purge gives nothing back before the last one goes.
        OldPage = "old-page",
    }
}

rule! {
    /// How the exporter's pages were allocated, which matters where they go back to the page allocator.
    ///
    /// Source: PFNMAP thread, comment 20; `__free_pages` (mm/page_alloc.c, 6.12): of a block without
    /// `__GFP_COMP` the first page's references count, and the rest is freed.
    Blocks {
        /// One by one.
        Order0 = "order-0",
        /// As one block that is not compound: a reference to any page but the first holds nothing, and
        /// `vm_insert_page` refuses such a page (its count is 0).
        NonCompound = "non-compound",
    }
}

rule! {
    /// What becomes of the bytes that an allocation of an incoherent buffer fills it with.
    ///
    /// Source: CVE-2023-4272 (Mali): pages zeroed through the cache and given to the GPU unflushed.
    /// dma_direct_alloc (kernel/dma/direct.c, 6.12) calls arch_dma_prep_coherent to "remove any dirty cache
    /// lines on the kernel alias" that the last owner left.
    AllocFill {
        /// They are in memory (`dma_sync_sgtable_for_device`).
        Cleaned = "cleaned",
        /// They are in the CPU's cache; memory holds what its last owner left.
        Cached = "cached",
        /// They are in memory, past the cache (a device or a write-combined mapping puts them there), and lines
        /// that the last owner left in the cache stay.
        Uncached = "uncached",
    }
}

rule! {
    /// What a `get_user_pages` pin on the buffer's pages does to a move (step `check-pins`).
    ///
    /// Source: shmem-helper commit 8b93d1d7 ("we can't move/reuse these pages anymore").
    OnForeignPin {
        /// The move answers EBUSY.
        Refuse = "refuse",
        /// The exporter never looks at page reference counts.
        Ignore = "ignore",
    }
}

rule! {
    /// What a `dma_buf_pin` does to a move (step `check-pins`).
    ///
    /// Source: `dma_buf_pin` kernel-doc, drivers/dma-buf/dma-buf.c.
    OnDmaBufPin {
        /// The move answers EBUSY.
        Honour = "honour",
        /// An exporter bug: the buffer moves although it is pinned.
        Ignore = "ignore",
    }
}

rule! {
    /// Where a frame goes that the exporter gives back.
    ///
    /// Source: PFNMAP thread, comment 20 ("so that ttm recycles the pages").
    Recycle {
        /// The driver's own pool: the next buffer gets it at once, references or not.
        Pool = "pool",
        /// The page allocator: not before the last page reference is dropped.
        Allocator = "allocator",
    }
}

rule! {
    /// Whether devices see the CPU's caches.
    ///
    /// Source: vgem thread ("cache cacheline dirt soup"); `dma_buf_ops.begin_cpu_access`.
    Coherency {
        /// Devices snoop.
        Coherent = "coherent",
        /// Devices read and write memory; the CPU's lines need write-back and invalidation.
        Incoherent = "incoherent",
    }
}

rule! {
    /// What the exporter's `begin_cpu_access` or `end_cpu_access` does to the CPU's cache lines of
    /// an incoherent buffer. Both are directional: `DMA_BUF_SYNC_READ` is `DMA_FROM_DEVICE`,
    /// `DMA_BUF_SYNC_WRITE` is `DMA_TO_DEVICE`.
    ///
    /// Source: `dma_buf_ioctl` (drivers/dma-buf/dma-buf.c), `arch_sync_dma_for_cpu` and
    /// `arch_sync_dma_for_device` (arch/arm64/mm/dma-mapping.c, 6.12; arch/arm/mm/dma-mapping.c);
    /// `begin_cpu_udmabuf` (drivers/dma-buf/udmabuf.c) before and after commit 1ffe09590121.
    ///
    /// **Differs from Linux**: what END(READ) does to a dirty line depends on the architecture (arm64
    /// cleans it since commit c50f11c6196f, 6.0; arm, csky and openrisc drop it), so that no program
    /// can count on either; here it does nothing.
    CpuSync {
        /// `dma_sync_sgtable_for_cpu`: a read invalidates, a write does nothing. Nothing is written
        /// back: what a dirty line held is lost.
        Invalidate = "invalidate",
        /// `dma_sync_sgtable_for_device`: a write cleans, a read does nothing.
        Clean = "clean",
        /// The buffer's first call maps it (`dma_map_sgtable`, which does what `clean` does), later
        /// ones invalidate.
        Map = "map",
        /// No such callback.
        Nothing = "nothing",
    }
}

rule! {
    /// What the exporter does when somebody maps a buffer in video memory who takes no peer's addresses
    /// (peer to peer, P2P).
    /// An importer says that it does by `allow_peer2peer` in its `dma_buf_attach_ops`; a static one has none.
    ///
    /// Source: `amdgpu_dma_buf_pin` and `amdgpu_dma_buf_map` (drivers/gpu/drm/amd/amdgpu/amdgpu_dma_buf.c);
    /// `struct dma_buf_attach_ops`, include/linux/dma-buf.h (6.12).
    ///
    /// **Differs from Linux**: who attaches dynamically is taken to allow it; the move is one step.
    Peer2Peer {
        /// Every device reaches video memory: it is RAM.
        Reachable = "reachable",
        /// Moves the buffer to system memory, or answers EINVAL if somebody has pinned it where it is
        /// (`amdgpu_bo_pin_restricted`).
        Migrate = "migrate",
        /// An exporter bug: hands addresses out that the device can't reach.
        HandOut = "hand-out",
    }
}

rule! {
    /// Whether allocations come from a pool of pages whose caching is already changed (cost only).
    ///
    /// Source: PFNMAP thread, comments 4-6 ("wbinvd() call + global TLB flush").
    PagePool {
        /// Each allocation changes the pages' caching attributes and flushes TLBs on all CPUs.
        No = "no",
        /// Pages are recycled with their caching; only the first use pays.
        Yes = "yes",
    }
}

rule! {
    /// How the memory types of pfn mappings are looked up (cost only). `remap_pfn_range` asks once for
    /// a range, whatever the rule.
    ///
    /// Source: PFNMAP thread, comments 2 and 3; `track_pfn_insert` and `lookup_memtype`
    /// (arch/x86/mm/pat/memtype.c, 6.12): a walk of the resource tree, which is as long whatever is
    /// mapped. `vmf_insert_mixed` pays it as `vmf_insert_pfn` does since 87744ab3832b (4.9).
    PatReserve {
        /// A look-up for every pfn inserted.
        PerPfn = "per-pfn",
        /// None: the driver reserved all of its aperture when it was loaded (i915's `io_mapping`).
        IoMapping = "io-mapping",
    }
}

rules! {
    /// The rules of one exporter.
    ExporterRules, EXPORTER_RULES {
        words {
            /// How it fills page tables.
            mmap: MmapKind = Pfnmap, "mmap";
            /// Huge entries.
            huge: Huge = None, "huge";
            /// VM_IO beside VM_MIXEDMAP, as `ttm_bo_mmap_vma_setup` sets it (drivers/gpu/drm/ttm/
            /// ttm_bo_vm.c, 5.11): the slow path of get_user_pages refuses it, `follow_pfn` takes it.
            vm_io: YesNo = No, "vm-io";
            /// MAP_PRIVATE.
            cow: Cow = Reject, "cow";
            /// Lock in the fault handler.
            fault: FaultLock = Locked, "fault";
            /// Fences that the fault handler waits for.
            fault_wait: FaultWait = Kernel, "fault-wait";
            /// Which page a fault shows.
            fault_page: FaultPage = AtOffset, "fault-page";
            /// What a fault shows of a purged buffer.
            fault_purged: FaultPurged = Sigbus, "fault-purged";
            /// VM_DONTCOPY: fork leaves the mapping out (`dup_mmap`, kernel/fork.c).
            vm_dontcopy: YesNo = No, "vm-dontcopy";
            /// What a zap reaches.
            zap: ZapReach = AddressSpace, "zap";
            /// Page pins.
            on_foreign_pin: OnForeignPin = Ignore, "on-foreign-pin";
            /// Buffer pins.
            on_dma_buf_pin: OnDmaBufPin = Honour, "on-dma-buf-pin";
            /// Where frames go.
            recycle: Recycle = Pool, "recycle";
            /// How pages were allocated.
            blocks: Blocks = Order0, "blocks";
            /// What an allocation leaves in the cache.
            alloc: AllocFill = Cleaned, "alloc";
            /// CPU caches.
            coherency: Coherency = Coherent, "coherency";
            /// START of DMA_BUF_IOCTL_SYNC.
            begin: CpuSync = Invalidate, "begin";
            /// END of DMA_BUF_IOCTL_SYNC.
            end: CpuSync = Clean, "end";
            /// Which fences a move waits for.
            wait: WaitFor = Bookkeep, "wait";
            /// Video memory behind a bus.
            peer2peer: Peer2Peer = Reachable, "peer2peer";
            /// Page pool (cost).
            page_pool: PagePool = Yes, "page-pool";
            /// Memory type reservations (cost).
            pat: PatReserve = IoMapping, "pat";
        }
        steps {
            /// The ordered steps of a move.
            move_steps = [Lock, Notify, Wait, Zap, CheckPins, Reserve, Flush, Copy, Rebind, Free, Unlock], "move";
            /// The ordered steps of a purge.
            purge_steps = [Lock, Notify, Wait, Zap, CheckPins, Mark, Flush, Free, Unlock], "purge";
            /// The ordered steps of a revocation.
            revoke_steps = [Lock, Mark, Notify, Zap, Wait, Unlock, WaitUnmap, Flush, Free], "revoke";
        }
    }
}

impl ExporterRules {
    /// Whether a move of its own may go on copying when the buffer is its new frames already.
    #[must_use]
    pub fn copies_late(&self) -> bool {
        [&self.move_steps, &self.purge_steps, &self.revoke_steps].iter().any(|steps| {
            let at = |step| steps.iter().position(|other| *other == step);
            let rebind = at(ExporterStep::Rebind);
            steps.contains(&ExporterStep::Fence)
                || rebind.is_some_and(|rebind| steps[rebind..].contains(&ExporterStep::Copy))
        })
    }

    /// Whether an allocation's bytes stay in the CPU's cache.
    pub(super) fn fills_in_cache(&self) -> bool {
        self.alloc == AllocFill::Cached && self.coherency == Coherency::Incoherent
    }

    /// Whether an allocation leaves in the CPU's cache what its frames' last owners had there.
    pub(super) fn keeps_lines(&self) -> bool {
        self.alloc == AllocFill::Uncached && self.coherency == Coherency::Incoherent
    }
}

rule! {
    /// A yes/no property of the host.
    YesNo {
        /// It has it.
        Yes = "yes",
        /// It does not.
        No = "no",
    }
}

rule! {
    /// What a device reaches when a CPU pfn is used as its bus address.
    ///
    /// Source: \[PULL\] topic/iomem-mmap-vs-gup ("Just taking a cpu pfn and hoping that matches the
    /// bus addr your device would need is a bit optimistic").
    Bus {
        /// The same frame: no IOMMU, no offset.
        Identity = "identity",
        /// Another frame: the bus sees memory at an offset.
        Offset = "offset",
        /// Nothing: the IOMMU has no entry for it.
        Iommu = "iommu",
    }
}

rule! {
    /// The check that `dma_buf_mmap` makes of the exporter's VMA.
    ///
    /// Source: [PATCH 1/2] dma-buf: Require VM_PFNMAP vma for mmap (v3 warns; never merged).
    MmapCheck {
        /// None.
        Off = "off",
        /// WARN_ON(!(vma->vm_flags & VM_PFNMAP)).
        Warn = "warn",
        /// EINVAL.
        Refuse = "refuse",
    }
}

rule! {
    /// Which small pages the fast path of `get_user_pages` takes.
    ///
    /// Source: `gup_fast_folio_allowed`, mm/gup.c (6.12): with CONFIG_SECRETMEM, a small page that
    /// has no `address_space` is left to the slow path, for it might be secret memory (since "mm:
    /// merge folio_is_secretmem() and folio_fast_pin_allowed() into gup_fast_folio_allowed()", 6.10).
    /// A driver's own pages have none. Since then somebody saw that secret memory always has one ("mm/gup:
    /// fix GUP-fast fallback for NULL-mapping order-0 folios", April 2026; read from 7.3 and measured).
    GupFast {
        /// Those of a file and anonymous ones.
        Mapped = "mapped",
        /// Any that has an entry without a special bit, but for a long-term pin for writing: for that the
        /// page has to be one of a file that may be written so, or anonymous.
        ShortTerm = "short-term",
        /// Any that has an entry without a special bit.
        Any = "any",
    }
}

rule! {
    /// Which mappings `follow_pfn` takes.
    ///
    /// Source: \[PULL\] topic/iomem-mmap-vs-gup, Linus Torvalds ("keep follow_pfn(), but limit it to the
    /// 'not vm_normal_page()' case, and return error for some real page mapping").
    FollowPfn {
        /// All of VM_IO and VM_PFNMAP.
        Yes = "yes",
        /// Of those the ones where `vm_normal_page` finds no page.
        NoPage = "no-page",
        /// There is no such function (removed by 6.12; `follow_pfnmap_start` replaces it).
        No = "no",
    }
}

rule! {
    /// When the IOMMU forgets an address that was unmapped.
    ///
    /// Source: `iommu.strict`, Documentation/admin-guide/kernel-parameters.txt; `iommu_dma_unmap_sg`,
    /// drivers/iommu/dma-iommu.c (6.12). CVE-2022-0330 (i915) is the same of a GPU's own TLB.
    IotlbFlush {
        /// Before the unmap returns.
        Strict = "strict",
        /// Later: until then the device still reaches what was there.
        Lazy = "lazy",
    }
}

rule! {
    /// What a read-only FOLL_PIN pin unshares first, since a later write would copy it away.
    ///
    /// Source: `gup_must_unshare`, mm/internal.h (6.12); the two halves came with 5.19 and 6.2.
    Unshare {
        /// An anonymous page that is not exclusive; any other page of a private mapping with FOLL_LONGTERM.
        Yes = "yes",
        /// The first of these alone (5.19 to 6.1).
        Anonymous = "anonymous",
        /// Nothing.
        No = "no",
    }
}

rule! {
    /// When munmap flushes the CPUs' TLBs of a VM_PFNMAP or VM_MIXEDMAP mapping: before or after the VMA
    /// leaves the file's `address_space`. An `unmap_mapping_range` in between finds no VMA and flushes
    /// nothing, and no page reference holds the memory. Only a test with threads shows it. Of other mappings
    /// the flush is always the later one: `mmu_gather` holds their pages until then.
    ///
    /// Source: CVE-2022-39188; b67fbebd4cf9 "mmu_gather: Force tlb-flush VM_PFNMAP vmas" (5.19); `unmap_region`,
    /// mm/mmap.c, and `tlb_end_vma`, include/asm-generic/tlb.h.
    MunmapFlush {
        /// `tlb_end_vma`, before `free_pgtables` (since 5.19).
        BeforeUnlink = "before-unlink",
        /// `tlb_finish_mmu`, behind it (to 5.18, on x86).
        AfterUnlink = "after-unlink",
    }
}

rules! {
    /// The rules of the host: architecture and core kernel.
    HostRules, HOST_RULES {
        words {
            /// CONFIG_ARCH_HAS_PTE_SPECIAL, and with it the fast path of get_user_pages.
            pte_special: YesNo = Yes, "pte-special";
            /// Whether a driver's own page is left to the slow path of get_user_pages.
            gup_fast: GupFast = Mapped, "gup-fast";
            /// What `follow_pfn` takes, if it exists.
            follow_pfn: FollowPfn = Yes, "follow-pfn";
            /// Whether video memory has struct pages: reserved RAM has, the BAR of a device has not
            /// (`pfn_valid`), unless it is ZONE_DEVICE.
            vram_pages: YesNo = Yes, "vram-pages";
            /// When an IOMMU (rule `bus`) forgets what was unmapped.
            iotlb_flush: IotlbFlush = Strict, "iotlb-flush";
            /// When munmap flushes the TLBs of a mapping without page references.
            munmap_flush: MunmapFlush = BeforeUnlink, "munmap-flush";
            /// What a bare pfn means on the bus.
            bus: Bus = Identity, "bus";
            /// Read-only FOLL_PIN pins unshare first what a later write would copy away.
            longterm_unshare: Unshare = Yes, "longterm-unshare";
            /// FOLL_LONGTERM pins migrate pages out of CMA first (`check_and_migrate_movable_pages`).
            longterm_migrate: YesNo = Yes, "longterm-migrate";
            /// fork copies pinned anonymous pages for the child (`folio_needs_cow_for_dma`).
            fork_copies_pinned: YesNo = Yes, "fork-copies-pinned";
            /// The core's check of exporters' VMAs.
            dma_buf_mmap_check: MmapCheck = Off, "dma-buf-mmap-check";
        }
        steps {}
    }
}
