/* SPDX-License-Identifier: GPL-2.0 WITH Linux-syscall-note */
/*
 * The interface of /dev/driftheap_lab: one ioctl, one step of a litmus test.
 *
 * An open file is a laboratory of its own, which every process that has the
 * descriptor shares. Objects are named by numbers that the caller chooses. GUP,
 * PFN, DMA_PIN, DMA_SG and PTE answer the frame in the upper half of the value;
 * (u32)-1 is none of this laboratory's.
 *
 * A frame is a page. After a RESET with N frames to a huge page, frame f is the
 * first page of part f % N of huge page f / N, and so is a page of a buffer or a
 * mapping: sizes and offsets count such parts. Such a huge page may be a block
 * that is not compound; a frame is one of its pages all the same.
 */
#ifndef DRIFTHEAP_LAB_H
#define DRIFTHEAP_LAB_H

#include <linux/ioctl.h>
#include <linux/types.h>

/**
 * struct driftheap_lab_step - one step
 * @op: DRIFTHEAP_LAB_*
 * @obj: the buffer, pin, attachment, sg_table, fence or frame
 * @page: a page of it, or another number that the step takes
 * @flags: as the step says
 * @addr: an address of the calling process, where the step takes one
 * @value: what the step takes or answers
 */
struct driftheap_lab_step {
	__u32 op;
	__u32 obj;
	__u32 page;
	__u32 flags;
	__u64 addr;
	__u64 value;
};

#define DRIFTHEAP_LAB_STEP _IOWR('D', 0x4c, struct driftheap_lab_step)

/* The limits of one laboratory. */
#define DRIFTHEAP_LAB_FRAMES 256
#define DRIFTHEAP_LAB_BLOCKS 32
#define DRIFTHEAP_LAB_BUFS 64
#define DRIFTHEAP_LAB_PAGES 16
#define DRIFTHEAP_LAB_PINS 256
#define DRIFTHEAP_LAB_ATTACHMENTS 64
#define DRIFTHEAP_LAB_SGS 64
#define DRIFTHEAP_LAB_FENCES 256
#define DRIFTHEAP_LAB_FLIGHTS 32

/* Steps. */
#define DRIFTHEAP_LAB_RESET 1		/* give everything back; page: frames of a huge page, or 0; flags: 1 not compound */
#define DRIFTHEAP_LAB_FILL 2		/* frame obj := value, all over */
#define DRIFTHEAP_LAB_EXPORT 3		/* dma_buf_export; page: size, flags: rules; page 0: as before, flags: a pool, value: content */
#define DRIFTHEAP_LAB_BIND 4		/* page of obj := frame value, (u32)-1: none */
#define DRIFTHEAP_LAB_SHADOW 5		/* an importer's own page := frame value */
#define DRIFTHEAP_LAB_FD 6		/* value := a new fd of the dma-buf */
#define DRIFTHEAP_LAB_IMPORTER_FD 7	/* value := a new fd of an importer; flags: how it maps */
#define DRIFTHEAP_LAB_CLOSE 8		/* dma_buf_put of the exporter's reference */
#define DRIFTHEAP_LAB_LOCK 9		/* dma_resv_trylock; EDEADLK: it is held, EBUSY: under a ticket it would wait; flags: DRIFTHEAP_LAB_LOCK_* */
#define DRIFTHEAP_LAB_UNLOCK 10		/* dma_resv_unlock */
#define DRIFTHEAP_LAB_NOTIFY 11		/* dma_buf_move_notify; value := importers that heard */
#define DRIFTHEAP_LAB_ZAP 12		/* unmap_mapping_range */
#define DRIFTHEAP_LAB_WAIT 13		/* dma_resv_wait_timeout; flags: usage; ETIME */
#define DRIFTHEAP_LAB_CHECK_PINS 14	/* EBUSY as the rules say */
#define DRIFTHEAP_LAB_RESERVE 15	/* the move's destination of page := frame value */
#define DRIFTHEAP_LAB_COPY 16		/* copy_highpage of page to its destination, or from where it was before REBIND */
#define DRIFTHEAP_LAB_REBIND 17		/* every page with a destination is there now */
#define DRIFTHEAP_LAB_MARK 18		/* flags: 1 purged, 2 revoked */
#define DRIFTHEAP_LAB_WAIT_UNMAP 19	/* ETIME: an importer has it mapped */
#define DRIFTHEAP_LAB_ATTACH 20		/* attachment obj of buffer page; flags: 1 dynamic, 2 ignores notify, 4 bounces, 8 has a TLB */
#define DRIFTHEAP_LAB_DETACH 21
#define DRIFTHEAP_LAB_MAP 22		/* sg_table obj of attachment page */
#define DRIFTHEAP_LAB_UNMAP 23
#define DRIFTHEAP_LAB_REMAP 24		/* map again what move_notify declared invalid; value := 1 if it did */
#define DRIFTHEAP_LAB_PIN 25		/* dma_buf_pin of attachment obj */
#define DRIFTHEAP_LAB_UNPIN 26
#define DRIFTHEAP_LAB_FENCE 27		/* fence obj into the resv of buffer page; flags: usage */
#define DRIFTHEAP_LAB_SIGNAL 28
#define DRIFTHEAP_LAB_SYNC_START 29	/* dma_buf_begin_cpu_access; flags: 1 read, 2 write */
#define DRIFTHEAP_LAB_SYNC_END 30
#define DRIFTHEAP_LAB_FAULT 31		/* handle_mm_fault at addr; flags: 1 write, 2 unshare */
#define DRIFTHEAP_LAB_GUP 32		/* pin obj at addr; flags: DRIFTHEAP_LAB_FOLL_* */
#define DRIFTHEAP_LAB_GUP_PUT 33	/* unpin_user_page, put_page */
#define DRIFTHEAP_LAB_PFN 34		/* pin obj := follow_pfnmap_start at addr */
#define DRIFTHEAP_LAB_DMA_PIN 35	/* flight obj := where pin page points */
#define DRIFTHEAP_LAB_DMA_SG 36		/* flight obj := address value of sg_table page; flags: DRIFTHEAP_LAB_SG_VALID */
#define DRIFTHEAP_LAB_DMA_WRITE 37	/* flight obj writes value */
#define DRIFTHEAP_LAB_DMA_READ 38	/* value := what flight obj reads, torn << 32 */
#define DRIFTHEAP_LAB_PTE 39		/* value := the entry at addr: DRIFTHEAP_LAB_PTE_* */
#define DRIFTHEAP_LAB_FRAME 40		/* value := content, torn << 8, references << 16 */
#define DRIFTHEAP_LAB_BUF 41		/* value := released, pins << 8, mapped << 16, notified << 24, warned << 32, busy << 40 */
#define DRIFTHEAP_LAB_FLUSH_TLB 43	/* the device forgets what it had of sg_table obj */
#define DRIFTHEAP_LAB_MMAP_LOCK 44	/* the caller's mmap_lock; flags: 1 write; EDEADLK: it would wait */
#define DRIFTHEAP_LAB_MMAP_UNLOCK 45	/* flags: 1 write, 2 all that the laboratory has locked */
#define DRIFTHEAP_LAB_TICKET 46		/* ww_acquire_init for the caller; flags: 1 ww_acquire_fini */
#define DRIFTHEAP_LAB_ADOPT 47		/* buffer obj := the dma-buf behind descriptor value, another driver's; page: size */
#define DRIFTHEAP_LAB_TAKE 48		/* a move's destinations for obj, of pool page; ENOMEM */
#define DRIFTHEAP_LAB_GIVE 49		/* what a move of obj has left; flags: 1 all its frames */
#define DRIFTHEAP_LAB_ABANDON 50	/* the destinations of obj go back */
#define DRIFTHEAP_LAB_POOL 51		/* processes run free from here on: frame obj is of pool page; flags: 1 it is free */
#define DRIFTHEAP_LAB_WHERE 52		/* value := the frame of page of obj; (u32)-1: none */
#define DRIFTHEAP_LAB_BAR 53		/* frame obj is memory without struct page until the RESET; ENODEV, EBUSY */
#define DRIFTHEAP_LAB_PINNED 42		/* value := pin obj: 1 held, 2 declared invalid */

/* EXPORT: how the exporter maps, and its other rules. */
#define DRIFTHEAP_LAB_MMAP_MASK 7
#define DRIFTHEAP_LAB_MMAP_PFNMAP 0	/* VM_PFNMAP, vmf_insert_pfn */
#define DRIFTHEAP_LAB_MMAP_MIXED_PFN 1	/* VM_MIXEDMAP, vmf_insert_mixed */
#define DRIFTHEAP_LAB_MMAP_MIXED_PAGE 2	/* VM_MIXEDMAP, vm_insert_page */
#define DRIFTHEAP_LAB_MMAP_SHMEM 3	/* vmf->page, an ordinary file's page */
#define DRIFTHEAP_LAB_MMAP_REMAP 4	/* remap_pfn_range, a call for each range of pfns */
#define DRIFTHEAP_LAB_MMAP_UNMARKED 5	/* VM_PFNMAP, vmf->page */
#define DRIFTHEAP_LAB_COW_REJECT 8	/* EINVAL where is_cow_mapping() */
#define DRIFTHEAP_LAB_FAULT_UNLOCKED 16	/* the fault handler takes no lock */
#define DRIFTHEAP_LAB_ZAP_POINTER 32	/* zaps the one VMA that it remembers */
#define DRIFTHEAP_LAB_ZAP_LATE 64	/* the range begins a page too late */
#define DRIFTHEAP_LAB_PINS_IGNORED 128	/* moves although dma_buf_pin was called */
#define DRIFTHEAP_LAB_REFS_REFUSE 256	/* EBUSY while somebody holds a page */
#define DRIFTHEAP_LAB_VM_IO 512		/* VM_IO, too */
#define DRIFTHEAP_LAB_CHECK_WARN 1024	/* WARN_ON(!(vma->vm_flags & VM_PFNMAP)) after mmap */
#define DRIFTHEAP_LAB_CHECK_REFUSE 2048	/* EINVAL instead */
#define DRIFTHEAP_LAB_HUGE 4096		/* vmf_insert_pfn_pmd where frames allow */
#define DRIFTHEAP_LAB_HUGE_PLAIN 8192	/* its entry without the special bit, as until 6.11 */
#define DRIFTHEAP_LAB_DONTCOPY 16384	/* VM_DONTCOPY */
#define DRIFTHEAP_LAB_ZAP_START 32768	/* the VMA's address where a file's offset is asked for */
#define DRIFTHEAP_LAB_FAULT_START 131072 /* a fault counts pages from the VMA's beginning */
#define DRIFTHEAP_LAB_ZAP_NODE 65536	/* zaps at a DRM node's fake offset, which mmap takes away */
#define DRIFTHEAP_LAB_HUGE_DEVMAP 524288 /* its entry as device memory's, without a page map */
#define DRIFTHEAP_LAB_FAULT_GOES_ON 262144 /* a fault does not wait for KERNEL fences */
#define DRIFTHEAP_LAB_FAULT_PURGED 1048576 /* a fault shows the pages that a purged buffer still has */
#define DRIFTHEAP_LAB_COUNTED 2097152	/* frames are free with the last reference: POOL */

/* LOCK. */
#define DRIFTHEAP_LAB_LOCK_TICKET 1	/* under the caller's ticket */
#define DRIFTHEAP_LAB_LOCK_WAITS 2	/* for whoever has it */
#define DRIFTHEAP_LAB_LOCK_LIVE 4	/* EINVAL when the buffer is purged or revoked by then */

/* DMA_SG: EAGAIN where move_notify declared the sg_table invalid. */
#define DRIFTHEAP_LAB_SG_VALID 1

/* IMPORTER_FD: what mmap through the importer does. */
#define DRIFTHEAP_LAB_IMPORT_REDIRECT 0	/* dma_buf_mmap */
#define DRIFTHEAP_LAB_IMPORT_KEEP_FILE 1 /* the exporter's mmap, the importer's file */
#define DRIFTHEAP_LAB_IMPORT_WRONG_PGOFF 2 /* the exporter's file, another offset */
#define DRIFTHEAP_LAB_IMPORT_SHADOW 3	/* pages of the importer's own */
#define DRIFTHEAP_LAB_IMPORT_FORBID 4	/* EINVAL */
#define DRIFTHEAP_LAB_IMPORT_NODE 5	/* a DRM node: the exporter's mmap and file, past dma_buf_mmap */
#define DRIFTHEAP_LAB_IMPORT_BYPASS 6	/* a fault handler of its own, pages of its sg_table */

/* GUP; PFN takes DRIFTHEAP_LAB_FOLL_WATCH. */
#define DRIFTHEAP_LAB_FOLL_WRITE 1
#define DRIFTHEAP_LAB_FOLL_FORCE 2
#define DRIFTHEAP_LAB_FOLL_LONGTERM 4
#define DRIFTHEAP_LAB_FOLL_GET 8	/* get_user_pages, not pin_user_pages */
#define DRIFTHEAP_LAB_FOLL_FAST 16	/* the fast variant */
#define DRIFTHEAP_LAB_FOLL_NOFAULT 32	/* FOLL_NOFAULT */
#define DRIFTHEAP_LAB_FOLL_PROBE 64	/* get_user_pages_fast_only, given back at once */
#define DRIFTHEAP_LAB_FOLL_FAULTS 256	/* PFN: faults where there is no entry */
#define DRIFTHEAP_LAB_FOLL_NO_PAGE 512	/* PFN: EINVAL where the entry is not special */
#define DRIFTHEAP_LAB_FOLL_WATCH 128	/* with an mmu_interval_notifier on the page's address */

/* PTE. */
#define DRIFTHEAP_LAB_PTE_PRESENT 1
#define DRIFTHEAP_LAB_PTE_WRITE 2
#define DRIFTHEAP_LAB_PTE_SPECIAL 4	/* or, of a huge entry, devmap */
#define DRIFTHEAP_LAB_PTE_HUGE 8
#define DRIFTHEAP_LAB_PTE_ZERO 16	/* the zero page */
#define DRIFTHEAP_LAB_PTE_FLIGHT 32	/* a transfer goes there */

#endif
