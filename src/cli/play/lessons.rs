//! The bundled tests as lessons, in an order in which each rests on those before it.

/// Lessons that belong together.
#[derive(Debug)]
pub(super) struct Chapter {
    pub(super) title: &'static str,
    /// The name of a bundled test, and what it teaches.
    pub(super) lessons: &'static [(&'static str, &'static str)],
}

pub(super) const CHAPTERS: &[Chapter] = &[
    Chapter {
        title: "A buffer that moves",
        lessons: &[
            (
                "move-copy-zap-order",
                "A move has to take the page table entries away before it copies, or a write is lost.",
            ),
            ("fork-then-move", "A child inherits entries, and the zap has to reach those too."),
            (
                "one-vma-pointer",
                "A driver that remembers one VMA misses what munmap and mremap made of it.",
            ),
            (
                "sigbus-after-purge",
                "A buffer whose memory is gone answers SIGBUS, and nothing else.",
            ),
            ("sigbus-inherited", "A child that is forked after that gets the SIGBUS, too."),
            ("freed-while-mapped", "Memory that is given back while a process is in it."),
            (
                "munmap-late-flush",
                "A thread goes on by its CPU's TLB: munmap has cleared the entry, and not flushed it yet.",
            ),
            (
                "panfrost-purge",
                "What the order of a purge rests on: without the zap the CPU is in somebody else's memory.",
            ),
        ],
    },
    Chapter {
        title: "A pin that stays behind",
        lessons: &[
            (
                "ttm-direct-io",
                "Direct I/O into a mapping, and the buffer is freed before the I/O ends.",
            ),
            (
                "insert-page-and-move",
                "With ordinary pages a pin can be taken, and it outlives the move; VM_PFNMAP refuses it.",
            ),
            (
                "system-heap-insert-page",
                "An exporter that moves nothing: the pin merely keeps a page that is nobody's.",
            ),
            (
                "frames-to-allocator",
                "Pages that go back to the allocator hit no other buffer, but the write is lost.",
            ),
            (
                "exporter-honours-pins",
                "Looking for pins before a move is safe, if it is done after the zap, and costs the move.",
            ),
            ("cma-longterm-pin", "A pin keeps a page of the contiguous area from its owner."),
            ("cma-buffer-pinned", "A buffer of that area that is freed while it is pinned."),
        ],
    },
    Chapter {
        title: "What get_user_pages may take",
        lessons: &[
            (
                "ttm-insert-mixed",
                "VM_MIXEDMAP refuses pins where entries have a special bit; VM_IO beside it everywhere.",
            ),
            ("bar-has-no-pages", "What has no struct page can't be pinned at all."),
            ("pfnmap-by-hand", "The flag alone is not enough: the fast path looks at the entry."),
            (
                "ttm-huge-gup-fast",
                "A huge entry without a mark lets a pin through, whatever the VMA says.",
            ),
            ("ttm-huge-special", "A huge entry with a mark does not."),
            ("huge-needs-contiguity", "A huge entry needs frames that lie together."),
            (
                "mprotect-huge",
                "mprotect changes the entries that are there, and a huge one as a whole.",
            ),
            (
                "high-order-tail",
                "A page in the middle of a block has no count, and get_user_pages takes no such page.",
            ),
            (
                "shmem-helper-insert-pfn",
                "What a helper gained when it began to insert pfns instead of pages.",
            ),
            (
                "dma-buf-mmap-check",
                "A check at mmap prevents what it sees; a warning at the same place only tells.",
            ),
            ("drm-node-mmap", "A check in dma_buf_mmap does not see the device node's mmap."),
        ],
    },
    Chapter {
        title: "mmap through somebody else",
        lessons: &[
            ("aperture-mmap", "The exception: an importer's aperture, which move_notify empties."),
            (
                "importer-mmap-address-space",
                "Entries under another address_space are out of the zap's reach.",
            ),
            (
                "fault-from-start",
                "A fault handler that ignores the mapping's offset shows another page.",
            ),
            (
                "gdrcopy-zap",
                "A zap over an address instead of an offset; a child without the mapping.",
            ),
            (
                "importer-mmap-pgoff",
                "The right file with the wrong offset: the zap looks elsewhere.",
            ),
            (
                "shmem-helper-fake-offset",
                "An exporter that drops its own offset: a purge's zap misses every mapping.",
            ),
            (
                "vgem-import-shmem",
                "An importer with memory of its own shows everything but the buffer.",
            ),
            (
                "ttm-map-private",
                "A private mapping of a buffer is a copy that no device sees, or a BUG_ON.",
            ),
            (
                "private-by-remap",
                "remap_pfn_range refuses a private mapping, unless one range covers it.",
            ),
        ],
    },
    Chapter {
        title: "Devices that cached an address",
        lessons: &[
            (
                "vb2-userptr-follow-pfn",
                "A driver that caches pfns writes wherever the frame went; no VMA flag helps.",
            ),
            (
                "vb2-userptr-pin",
                "With pin_user_pages it is safe on ordinary memory and refused on a buffer.",
            ),
            (
                "userptr-mmu-notifier",
                "An mmu notifier makes cached pfns safe, if it waits for the device.",
            ),
            (
                "notifier-lets-go",
                "A notifier that does not wait gives the page away under the device.",
            ),
            ("notifier-on-cow", "A copy on write has to call the notifiers as a zap does."),
            ("notifier-at-fork", "So has fork, which takes write permission away."),
            ("frame-vector-mixed", "One user range, half ordinary memory, half a buffer."),
            (
                "follow-pfn-without-page",
                "Bare pfns where there is no page: what moves is what that allows.",
            ),
            ("iotlb-flush", "An address that the IOMMU forgets late."),
            ("gpu-tlb-flush", "A GPU's own TLB is flushed late, or not before pages go back."),
            ("gpu-tlb-after-move", "A new address is not used while the old one is cached."),
            ("m2m1shot-bare-pfns", "Bare pfns do not keep a buffer alive."),
            ("pfn-as-bus-address", "A pfn is not a bus address, even if nothing ever moves."),
            (
                "vma-to-dma-buf",
                "The way out: find the dma-buf behind the pointer and attach to it.",
            ),
        ],
    },
    Chapter {
        title: "Importers that play by the rules",
        lessons: &[
            (
                "static-importer-pin",
                "A static importer pins the buffer: that costs EBUSY, and forgetting it corrupts.",
            ),
            (
                "dynamic-importer-move",
                "A dynamic importer has to hear of the move, and the exporter to wait for it.",
            ),
            ("move-notify-order", "All the steps of a move, in a wrong order."),
            (
                "importer-without-fence",
                "DMA without a fence leaves the exporter nothing to wait for.",
            ),
            ("bookkeep-fence", "A move waits for explicit sync, too: BOOKKEEP fences count."),
            ("bookkeep-reader", "But nobody with implicit sync sees a BOOKKEEP fence."),
            (
                "fence-needs-resv",
                "Waiting with the lock held for a fence that needs the lock is a deadlock.",
            ),
            (
                "fault-under-resv",
                "A fault on the buffer that one has reserved oneself waits for ever.",
            ),
            (
                "mmap-lock-inversion",
                "Two readers of mmap_lock wait for each other when a third wants to write.",
            ),
            (
                "amdkfd-svm-evict",
                "Who signals an eviction fence needs a lock that somebody holds who needs the buffer.",
            ),
            (
                "two-reservations",
                "Two buffers in two orders: with tickets the younger backs off, and nobody waits for ever.",
            ),
            ("reuse-under-read-fence", "Memory is used again while a reader's fence is pending."),
            (
                "move-behind-fence",
                "A copy that runs by itself: whoever does not wait for its fence reads zeros.",
            ),
            (
                "peer-to-peer",
                "Who can't reach video memory and maps a buffer there moves it for everybody.",
            ),
            ("revoke-pinned", "A pinned importer is told, and stops or goes on."),
            ("revoke-steps", "Revocation is safe with all of its steps, and with none left out."),
        ],
    },
    Chapter {
        title: "Caches",
        lessons: &[
            ("sync-device-writes", "The CPU reads its old cache line after a device has written."),
            (
                "sync-cpu-writes",
                "A device reads old memory while the new value is in the CPU's cache.",
            ),
            ("sync-start-only", "START does not stand in for an END that was forgotten."),
            ("bounce-buffer", "A device that reaches a copy: without SYNC it is an old one."),
            ("unflushed-zeros", "Zeros in the cache, and the last owner's bytes in memory."),
            ("sync-direction", "begin and end the wrong way round."),
        ],
    },
    Chapter {
        title: "Private pages, FOLL_FORCE, fork",
        lessons: &[
            (
                "read-only-pin-cow",
                "A read-only pin of a private page, then a CPU write: whose page does the device read?",
            ),
            ("anon-read-pin", "The same of memory that was never written: the zero page."),
            ("shared-read-pin", "The same of a page that fork shares."),
            (
                "pin-then-fork",
                "After a fork the parent's write must not leave the pinned page to the child.",
            ),
            ("reference-then-fork", "get_user_pages where pin_user_pages is needed."),
            ("force-write-read-only", "FOLL_FORCE changes the process's copy, never the file."),
            (
                "frame-vector-foll-force",
                "Three ways to ask for memory for output, against every mapping.",
            ),
            (
                "mali-read-only-pin",
                "A write through a read-only pin changes the file for everybody.",
            ),
            ("write-through-read-pin", "A device that writes through a pin taken for reading."),
        ],
    },
    Chapter {
        title: "What it costs",
        lessons: &[
            ("page-pool-cost", "TLB flushes with and without a page pool, counted."),
            ("pat-walk-cost", "Memory types looked up one by one, once a range, or never."),
        ],
    },
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_bundled_test_is_one_lesson() {
        let names: Vec<&str> =
            CHAPTERS.iter().flat_map(|chapter| chapter.lessons).map(|(name, _)| *name).collect();
        let bundled: BTreeSet<&str> =
            driftheap::suite::TESTS.iter().map(|test| test.name).collect();
        assert_eq!(names.iter().copied().collect::<BTreeSet<_>>(), bundled);
        assert_eq!(names.len(), bundled.len(), "twice");
        let sentences = CHAPTERS.iter().flat_map(|chapter| chapter.lessons);
        assert!(sentences.clone().all(|(_, sentence)| sentence.ends_with(['.', '?'])));
    }
}
