//! `tools/lab-module/driftheap_lab.h`: the laboratory module's one ioctl and its steps.

use super::{IOC_READ, IOC_WRITE, ioc};

abi_struct! {
    /// `struct driftheap_lab_step`.
    #[derive(Default)]
    pub struct Step: 32 {
        /// One of [`Op`].
        0 => op: u32,
        /// The buffer, pin, attachment, sg_table, fence, flight or frame.
        4 => obj: u32,
        /// A page of it, or another number that the step takes.
        8 => page: u32,
        /// As the step says.
        12 => flags: u32,
        /// An address of the calling process.
        16 => addr: u64,
        /// What the step takes or answers.
        24 => value: u64,
    }
}

/// DRIFTHEAP_LAB_STEP.
pub const STEP: u32 = ioc(IOC_READ | IOC_WRITE, b'D', 0x4c, Step::SIZE);

/// No frame.
pub const NO_FRAME: u32 = u32::MAX;

macro_rules! ops {
    ($($(#[$doc:meta])* $name:ident = $number:literal, $c:literal;)*) => {
        /// What a step does.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        #[repr(u8)]
        pub enum Op {
            $($(#[$doc])* $name = $number,)*
        }

        impl Op {
            /// All of them, with their names in the header.
            pub const ALL: &[(Self, &str)] = &[$((Self::$name, $c),)*];

            /// The step of a number.
            pub fn of(number: u8) -> Option<Self> {
                Self::ALL.iter().map(|(op, _)| *op).find(|op| *op as u8 == number)
            }
        }
    };
}

ops! {
    /// Give everything back.
    Reset = 1, "RESET";
    /// Fill a frame.
    Fill = 2, "FILL";
    /// `dma_buf_export`.
    Export = 3, "EXPORT";
    /// A buffer's page is this frame.
    Bind = 4, "BIND";
    /// An importer's own page is this frame.
    Shadow = 5, "SHADOW";
    /// A new descriptor of a dma-buf.
    Fd = 6, "FD";
    /// A new descriptor of an importer's.
    ImporterFd = 7, "IMPORTER_FD";
    /// `dma_buf_put`.
    Close = 8, "CLOSE";
    /// `dma_resv_trylock`.
    Lock = 9, "LOCK";
    /// `dma_resv_unlock`.
    Unlock = 10, "UNLOCK";
    /// `dma_buf_move_notify`.
    Notify = 11, "NOTIFY";
    /// `unmap_mapping_range`.
    Zap = 12, "ZAP";
    /// `dma_resv_wait_timeout`.
    Wait = 13, "WAIT";
    /// Look for pins.
    CheckPins = 14, "CHECK_PINS";
    /// The destination of a page.
    Reserve = 15, "RESERVE";
    /// `copy_highpage`.
    Copy = 16, "COPY";
    /// Pages are at their destinations.
    Rebind = 17, "REBIND";
    /// Purged or revoked.
    Mark = 18, "MARK";
    /// Whether importers have unmapped.
    WaitUnmap = 19, "WAIT_UNMAP";
    /// `dma_buf_dynamic_attach`.
    Attach = 20, "ATTACH";
    /// `dma_buf_detach`.
    Detach = 21, "DETACH";
    /// `dma_buf_map_attachment`.
    Map = 22, "MAP";
    /// `dma_buf_unmap_attachment`.
    Unmap = 23, "UNMAP";
    /// Map again what `move_notify` declared invalid.
    Remap = 24, "REMAP";
    /// `dma_buf_pin`.
    Pin = 25, "PIN";
    /// `dma_buf_unpin`.
    Unpin = 26, "UNPIN";
    /// `dma_resv_add_fence`.
    Fence = 27, "FENCE";
    /// `dma_fence_signal`.
    Signal = 28, "SIGNAL";
    /// `dma_buf_begin_cpu_access`.
    SyncStart = 29, "SYNC_START";
    /// `dma_buf_end_cpu_access`.
    SyncEnd = 30, "SYNC_END";
    /// `handle_mm_fault`.
    Fault = 31, "FAULT";
    /// `get_user_pages`.
    Gup = 32, "GUP";
    /// `unpin_user_page`.
    GupPut = 33, "GUP_PUT";
    /// `follow_pfnmap_start`.
    Pfn = 34, "PFN";
    /// A device translates a pin's address.
    DmaPin = 35, "DMA_PIN";
    /// A device translates an sg_table's address.
    DmaSg = 36, "DMA_SG";
    /// It writes.
    DmaWrite = 37, "DMA_WRITE";
    /// It reads.
    DmaRead = 38, "DMA_READ";
    /// The page table entry of an address.
    Pte = 39, "PTE";
    /// A frame's content and references.
    Frame = 40, "FRAME";
    /// A buffer's state.
    Buf = 41, "BUF";
    /// A pin's state.
    Pinned = 42, "PINNED";
    /// The device's TLB forgets an sg_table's addresses.
    FlushTlb = 43, "FLUSH_TLB";
    /// `mmap_read_trylock`, `down_write_trylock`.
    MmapLock = 44, "MMAP_LOCK";
    /// `mmap_read_unlock`, `up_write`.
    MmapUnlock = 45, "MMAP_UNLOCK";
    /// `ww_acquire_init`, `ww_acquire_fini`.
    Ticket = 46, "TICKET";
    /// Another driver's dma-buf.
    Adopt = 47, "ADOPT";
    /// Free frames for a move.
    Take = 48, "TAKE";
    /// Frames that a buffer does not need any more.
    Give = 49, "GIVE";
    /// A move's destinations go back.
    Abandon = 50, "ABANDON";
    /// Where a frame is free.
    Pool = 51, "POOL";
    /// The frame of a page.
    Where = 52, "WHERE";
    /// A frame is memory without struct page.
    Bar = 53, "BAR";
}

/// EXPORT: VM_PFNMAP, `vmf_insert_pfn`.
pub const MMAP_PFNMAP: u16 = 0;
/// EXPORT: VM_MIXEDMAP, `vmf_insert_mixed`.
pub const MMAP_MIXED_PFN: u16 = 1;
/// EXPORT: VM_MIXEDMAP, `vm_insert_page`.
pub const MMAP_MIXED_PAGE: u16 = 2;
/// EXPORT: `vmf->page`.
pub const MMAP_SHMEM: u16 = 3;
/// EXPORT: `remap_pfn_range`.
pub const MMAP_REMAP: u16 = 4;
/// EXPORT: VM_PFNMAP, `vmf->page`.
pub const MMAP_UNMARKED: u16 = 5;
/// EXPORT: EINVAL where `is_cow_mapping()`.
pub const COW_REJECT: u16 = 8;
/// EXPORT: the fault handler takes no lock.
pub const FAULT_UNLOCKED: u16 = 16;
/// EXPORT: zaps the one VMA that it remembers.
pub const ZAP_POINTER: u16 = 32;
/// EXPORT: a zap's range begins a page too late.
pub const ZAP_LATE: u16 = 64;
/// EXPORT: moves although `dma_buf_pin` was called.
pub const PINS_IGNORED: u16 = 128;
/// EXPORT: EBUSY while somebody holds a page.
pub const REFS_REFUSE: u16 = 256;
/// EXPORT: VM_IO, too.
pub const VM_IO: u16 = 512;
/// EXPORT: WARN_ON unless VM_PFNMAP.
pub const CHECK_WARN: u16 = 1024;
/// EXPORT: EINVAL unless VM_PFNMAP.
pub const CHECK_REFUSE: u16 = 2048;
/// EXPORT: `vmf_insert_pfn_pmd` where frames allow.
pub const HUGE: u16 = 4096;
/// EXPORT: its entry without the special bit.
pub const HUGE_PLAIN: u16 = 8192;
/// EXPORT: VM_DONTCOPY.
pub const DONTCOPY: u16 = 16384;
/// EXPORT: a zap is given the VMA's address for an offset.
pub const ZAP_START: u16 = 32768;
/// EXPORT: a zap is given a DRM node's fake offset, which mmap takes away.
pub const ZAP_NODE: u32 = 65536;
/// EXPORT: a fault counts pages from the beginning of the VMA, whatever its offset.
pub const FAULT_START: u32 = 131_072;
/// EXPORT: a huge entry as device memory's, without a page map.
pub const HUGE_DEVMAP: u32 = 524_288;
/// EXPORT: a fault does not wait for KERNEL fences.
pub const FAULT_GOES_ON: u32 = 262_144;
/// EXPORT: a fault shows the pages that a purged buffer still has.
pub const FAULT_PURGED: u32 = 1_048_576;

/// EXPORT: frames are free with the last reference to them.
pub const COUNTED: u32 = 2_097_152;

/// GIVE: all that a buffer has.
pub const GIVE_ALL: u16 = 1;
/// POOL: the frame is free.
pub const POOL_FREE: u32 = 1;
/// DMA_SG: EAGAIN where `move_notify` declared it invalid.
pub const SG_VALID: u16 = 1;

/// LOCK: under the caller's ticket.
pub const UNDER_TICKET: u16 = 1;
/// LOCK: waits for whoever has it.
pub const LOCK_WAITS: u16 = 2;
/// LOCK: EINVAL when the buffer is not live.
pub const LOCK_LIVE: u16 = 4;
/// TICKET: `ww_acquire_fini`.
pub const TICKET_FINI: u16 = 1;

/// RESET: huge pages are blocks that are not compound.
pub const RESET_LOOSE: u32 = 1;

/// MMAP_LOCK, MMAP_UNLOCK: for writing.
pub const MMAP_WRITE: u16 = 1;
/// MMAP_UNLOCK: all that the laboratory has.
pub const MMAP_ALL: u32 = 2;

/// IMPORTER_FD: a DRM node of the exporter's own.
pub const IMPORT_NODE: u8 = 5;
/// IMPORTER_FD: a fault handler of the importer's own, over the pages of its sg_table.
pub const IMPORT_BYPASS: u8 = 6;

/// GUP: FOLL_WRITE.
pub const FOLL_WRITE: u16 = 1;
/// GUP: FOLL_FORCE.
pub const FOLL_FORCE: u16 = 2;
/// GUP: FOLL_LONGTERM.
pub const FOLL_LONGTERM: u16 = 4;
/// GUP: `get_user_pages`, not `pin_user_pages`.
pub const FOLL_GET: u16 = 8;
/// GUP: the fast variant.
pub const FOLL_FAST: u16 = 16;
/// GUP: FOLL_NOFAULT.
pub const FOLL_NOFAULT: u16 = 32;
/// GUP: `get_user_pages_fast_only`, given back at once.
pub const FOLL_PROBE: u16 = 64;
/// PFN: faults where there is no entry.
pub const FOLL_FAULTS: u16 = 256;
/// PFN: EINVAL where the entry is not special.
pub const FOLL_NO_PAGE: u16 = 512;
/// GUP, PFN: with an `mmu_interval_notifier`.
pub const FOLL_WATCH: u16 = 128;

/// PTE: there is an entry.
pub const PTE_PRESENT: u8 = 1;
/// PTE: `pte_write`.
pub const PTE_WRITE: u8 = 2;
/// PTE: `pte_special`.
pub const PTE_SPECIAL: u8 = 4;
/// PTE: a huge one.
pub const PTE_HUGE: u8 = 8;
/// PTE: the zero page.
pub const PTE_ZERO: u8 = 16;
/// PTE: a transfer that has begun goes there.
pub const PTE_FLIGHT: u8 = 32;

#[cfg(test)]
mod tests {
    use super::*;

    /// The number that the header gives a name.
    fn number(name: &str) -> Option<u64> {
        let header = include_str!("../../tools/lab-module/driftheap_lab.h");
        let name = format!("DRIFTHEAP_LAB_{name}");
        let mut words = header.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
        let line =
            words.find(|line| line.first() == Some(&"#define") && line.get(1) == Some(&&*name))?;
        line.get(2)?.parse().ok()
    }

    #[test]
    fn the_numbers_are_the_headers() {
        for (op, name) in Op::ALL {
            assert_eq!(number(name), Some(*op as u64), "{name}");
            assert_eq!(Op::of(*op as u8), Some(*op));
        }
        let flags: [(&str, u16); 33] = [
            ("MMAP_PFNMAP", MMAP_PFNMAP),
            ("MMAP_MIXED_PFN", MMAP_MIXED_PFN),
            ("MMAP_MIXED_PAGE", MMAP_MIXED_PAGE),
            ("MMAP_SHMEM", MMAP_SHMEM),
            ("MMAP_REMAP", MMAP_REMAP),
            ("MMAP_UNMARKED", MMAP_UNMARKED),
            ("COW_REJECT", COW_REJECT),
            ("FAULT_UNLOCKED", FAULT_UNLOCKED),
            ("ZAP_POINTER", ZAP_POINTER),
            ("ZAP_LATE", ZAP_LATE),
            ("PINS_IGNORED", PINS_IGNORED),
            ("REFS_REFUSE", REFS_REFUSE),
            ("VM_IO", VM_IO),
            ("CHECK_WARN", CHECK_WARN),
            ("CHECK_REFUSE", CHECK_REFUSE),
            ("HUGE", HUGE),
            ("HUGE_PLAIN", HUGE_PLAIN),
            ("DONTCOPY", DONTCOPY),
            ("ZAP_START", ZAP_START),
            ("FOLL_WRITE", FOLL_WRITE),
            ("FOLL_FORCE", FOLL_FORCE),
            ("FOLL_LONGTERM", FOLL_LONGTERM),
            ("FOLL_GET", FOLL_GET),
            ("FOLL_FAST", FOLL_FAST),
            ("FOLL_NOFAULT", FOLL_NOFAULT),
            ("FOLL_PROBE", FOLL_PROBE),
            ("FOLL_WATCH", FOLL_WATCH),
            ("FOLL_FAULTS", FOLL_FAULTS),
            ("FOLL_NO_PAGE", FOLL_NO_PAGE),
            ("LOCK_TICKET", UNDER_TICKET),
            ("LOCK_WAITS", LOCK_WAITS),
            ("LOCK_LIVE", LOCK_LIVE),
            ("SG_VALID", SG_VALID),
        ];
        for (name, flag) in flags {
            assert_eq!(number(name), Some(flag.into()), "{name}");
        }
        assert_eq!(number("COUNTED"), Some(COUNTED.into()));
        assert_eq!(number("ZAP_NODE"), Some(ZAP_NODE.into()));
        assert_eq!(number("FAULT_START"), Some(FAULT_START.into()));
        assert_eq!(number("HUGE_DEVMAP"), Some(HUGE_DEVMAP.into()));
        assert_eq!(number("FAULT_GOES_ON"), Some(FAULT_GOES_ON.into()));
        assert_eq!(number("FAULT_PURGED"), Some(FAULT_PURGED.into()));
        assert_eq!(number("IMPORT_NODE"), Some(IMPORT_NODE.into()));
        assert_eq!(number("IMPORT_BYPASS"), Some(IMPORT_BYPASS.into()));
        let entry = [
            ("PTE_PRESENT", PTE_PRESENT),
            ("PTE_WRITE", PTE_WRITE),
            ("PTE_SPECIAL", PTE_SPECIAL),
            ("PTE_HUGE", PTE_HUGE),
            ("PTE_ZERO", PTE_ZERO),
            ("PTE_FLIGHT", PTE_FLIGHT),
        ];
        for (name, flag) in entry {
            assert_eq!(number(name), Some(flag.into()), "{name}");
        }
    }
}
