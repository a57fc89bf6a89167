/* SPDX-License-Identifier: GPL-2.0 */
#ifndef LAB_H
#define LAB_H

#include <linux/dma-buf.h>
#include <linux/dma-fence.h>
#include <linux/dma-resv.h>
#include <linux/fs.h>
#include <linux/kref.h>
#include <linux/mm.h>
#include <linux/mmu_notifier.h>
#include <linux/mutex.h>
#include <linux/scatterlist.h>
#include <linux/version.h>
#include <linux/workqueue.h>
#include <linux/ww_mutex.h>

#include "driftheap_lab.h"

#if LINUX_VERSION_CODE < KERNEL_VERSION(6, 3, 0)
static inline void vm_flags_set(struct vm_area_struct *vma, unsigned long flags)
{
	vma->vm_flags |= flags;
}
#endif

#if LINUX_VERSION_CODE < KERNEL_VERSION(7, 3, 0)
#define lab_is_cow(vma) is_cow_mapping((vma)->vm_flags)
#else
#define lab_is_cow(vma) vma_is_cow_mapping(vma)
#endif

#define LAB_NO_FRAME U32_MAX
#define LAB_MMS 16
/* Where a DRM device's fake offsets begin: DRM_FILE_PAGE_OFFSET_START. */
#define LAB_NODE_PGOFF ((0xFFFFFFFFUL >> PAGE_SHIFT) + 1)
#define LAB_BLOCK_ORDER (PMD_SHIFT - PAGE_SHIFT)
#define LAB_BLOCK_PAGES ((unsigned int)BIT(LAB_BLOCK_ORDER))

/* Steps that are done wrongly on purpose: the module's parameter "mistake". */
enum lab_mistake {
	LAB_NO_MISTAKE,
	LAB_ZAP_NOTHING,
	LAB_COPY_NOTHING,
	LAB_NOTIFY_NOBODY,
	LAB_PINS_UNSEEN,
	LAB_MAP_NEIGHBOUR,
	LAB_DMA_WRONG,
	LAB_PUT_NOTHING,
	LAB_NOTIFIER_DEAF,
	LAB_COPY_AT_FORK,
	LAB_ZAP_FINDS,
	LAB_FAULT_OFFSET,
	LAB_FENCE_NOTHING,
	LAB_IMPORT_NOTHING,
	LAB_SYNC_NOTHING,
	LAB_NODE_CHECKED,
	LAB_DEVMAP_PLAIN,
	LAB_UNMAP_NOTHING,
	LAB_FLUSH_NOTHING,
	LAB_BAR_PAGES,
};

extern unsigned int lab_mistake;

enum lab_life { LAB_LIVE, LAB_PURGED, LAB_REVOKED };

/* Where frames are, for who runs free: video memory, system memory, a contiguous area. */
#define LAB_POOLS 3
#define LAB_POOL_VRAM 0

/* As what a page of a buffer has a frame. */
enum lab_role { LAB_NOBODY, LAB_NOW, LAB_NEXT, LAB_OLD, LAB_FREE, LAB_ORPHAN };

/* Whose a frame is: the buffer's and page's numbers, and where it is free. */
struct lab_frame {
	u8 role;
	u8 obj;
	u8 page;
	u8 pool;
};

/* Frames that are free; the last one is taken next. */
struct lab_pool {
	u32 count;
	u8 frames[DRIFTHEAP_LAB_FRAMES];
};

/* A reference to a file that may be on its way out; false: it is. */
#if LINUX_VERSION_CODE < KERNEL_VERSION(6, 13, 0)
#define lab_file_get(file) atomic_long_inc_not_zero(&(file)->f_count)
#else
#define lab_file_get(file) file_ref_get(&(file)->f_ref)
#endif

/* Through what a buffer is mapped: whose pages, and who looks at the VMA. */
enum lab_via { LAB_VIA_FD, LAB_VIA_NODE, LAB_VIA_SHADOW, LAB_VIA_BYPASS };

/* A process's ticket to take several dma_resv under. */
struct lab_ticket {
	struct task_struct *task;
	struct ww_acquire_ctx ctx;
};

struct lab;

/**
 * struct lab_buf - what the exporter knows of a dma-buf
 * @refs: the laboratory's and the dma-buf's
 * @lab: whose frames it uses
 * @obj: its number there
 * @dmabuf: the dma-buf; valid while @released is false
 * @rules: DRIFTHEAP_LAB_MMAP_* and the other flags of EXPORT
 * @pages: its size
 * @frame: where each page is
 * @next: where a running move takes it
 * @old: where each page was before the last move
 * @shadow: an importer's own backing
 * @imported: what an importer's sg_table says of each page
 * @life: live, purged or revoked
 * @locker: who holds the dma_resv by a LOCK step, across steps
 * @locker_refers: whether it has a reference to the dma-buf for that
 * @vma: the VMA that an exporter with one pointer remembers, under @lab's vma_lock
 * @pins: dma_buf_pin
 * @maps: sg_tables that are mapped
 * @notified: how many importers move_notify has reached
 * @ours: whether the laboratory still has the reference that "the one fd" stands for
 * @released: whether the last reference to the dma-buf is gone; under @lab's lock
 * @forgotten: whether the laboratory has let go of it
 * @theirs: the pages of a dma-buf that another driver exports; NULL: it is ours
 */
struct lab_buf {
	struct kref refs;
	struct lab *lab;
	u32 obj;
	struct dma_buf *dmabuf;
	u32 rules;
	u32 pages;
	u32 frame[DRIFTHEAP_LAB_PAGES];
	u32 next[DRIFTHEAP_LAB_PAGES];
	u32 old[DRIFTHEAP_LAB_PAGES];
	u32 shadow[DRIFTHEAP_LAB_PAGES];
	u32 imported[DRIFTHEAP_LAB_PAGES];
	enum lab_life life;
	struct task_struct *locker;
	bool locker_refers;
	struct vm_area_struct *vma;
	unsigned int pins;
	unsigned int maps;
	unsigned int notified;
	bool ours;
	bool released;
	bool forgotten;
	struct page *theirs[DRIFTHEAP_LAB_PAGES];
};

/* An importer's attachment. */
struct lab_attachment {
	struct dma_buf_attachment *attach;
	struct lab_buf *buf;
	struct lab *lab;
	bool dynamic;
	bool deaf;
	bool bounces;
	bool tlb;
	unsigned int pins;
};

/*
 * A mapped sg_table; its addresses outlive it, as a device's copy of them does. A
 * device with a TLB has those in @tlb until a flush, whatever the table says.
 */
struct lab_sg {
	struct lab_attachment *attachment;
	struct sg_table *sgt;
	bool invalid;
	u32 pages;
	dma_addr_t addr[DRIFTHEAP_LAB_PAGES];
	bool has_tlb;
	dma_addr_t tlb[DRIFTHEAP_LAB_PAGES];
};

/* The mmap_lock of a process, held from one step to the next, and who took it. */
struct lab_mm {
	struct mm_struct *mm;
	struct task_struct *task;
	bool write;
};

/**
 * struct lab_flight - a transfer that has begun
 * @busy: whether there is one
 * @bus: where it goes, as the device sees memory
 * @mapped: whether @bus was mapped for this transfer alone
 */
struct lab_flight {
	bool busy;
	dma_addr_t bus;
	bool mapped;
};

/**
 * struct lab_pin - a page that get_user_pages gave, or a pfn that was looked up
 * @lab: whose it is, where @watched
 * @notifier: tells of changes at @addr, where @watched
 * @addr: the address of the process that asked
 * @page: the page
 * @pfn: its number
 * @watched: whether @notifier is registered; under the laboratory's watch_lock
 * @held: whether there is a page, or a pfn; this and the rest under its pin_lock
 * @invalid: whether @notifier took it away
 * @get: FOLL_GET, not FOLL_PIN
 * @counted: a page, not a pfn
 */
struct lab_pin {
	struct lab *lab;
	struct mmu_interval_notifier notifier;
	unsigned long addr;
	struct page *page;
	unsigned long pfn;
	bool watched;
	bool held;
	bool invalid;
	bool get;
	bool counted;
};

/**
 * struct lab - one open file
 * @refs: the file's and its buffers'
 * @lock: everything below; not held where a step may fault
 * @vma_lock: the buffers' @vma
 * @watch_lock: registering the pins' notifiers; inside @lock, outside of mmap_lock
 * @pin_lock: the pins' @held and what belongs to it
 * @per_block: frames of a huge page; 0: frames are small pages
 * @stride: pages of a frame
 * @loose: whether @blocks[1] are meant, which are not compound
 * @blocks: huge pages, allocated when a frame of theirs is first named
 * @mm_watch: looks whether who holds an mmap_lock is about to end
 * @warned: whether an mmap was warned about
 * @pooled: whether processes run free: frames come from @pools
 * @pools: frames that are free
 * @known: whose each frame is
 * @foreign: the frames that are pages of another driver's buffer, instead of @frames
 * @bar: the frames that are memory without struct page, instead of @frames
 */
struct lab {
	struct kref refs;
	struct mutex lock;
	spinlock_t vma_lock;
	struct mutex watch_lock;
	spinlock_t pin_lock;
	struct page *frames[DRIFTHEAP_LAB_FRAMES];
	struct lab_buf *bufs[DRIFTHEAP_LAB_BUFS];
	struct lab_pin pins[DRIFTHEAP_LAB_PINS];
	struct lab_attachment *attachments[DRIFTHEAP_LAB_ATTACHMENTS];
	struct lab_sg sgs[DRIFTHEAP_LAB_SGS];
	struct dma_fence *fences[DRIFTHEAP_LAB_FENCES];
	struct lab_flight flights[DRIFTHEAP_LAB_FLIGHTS];
	struct lab_mm mms[LAB_MMS];
	struct delayed_work mm_watch;
	struct lab_ticket tickets[LAB_MMS];
	u64 fence_context;
	u32 per_block;
	u32 stride;
	bool loose;
	struct page *blocks[2][DRIFTHEAP_LAB_BLOCKS];
	bool warned;
	bool pooled;
	struct lab_pool pools[LAB_POOLS];
	struct lab_frame known[DRIFTHEAP_LAB_FRAMES];
	struct page *foreign[DRIFTHEAP_LAB_FRAMES];
	DECLARE_BITMAP(bar, DRIFTHEAP_LAB_FRAMES);
};

/* main.c */
void *lab_alloc(size_t size);
void lab_object_gone(void);
void lab_dealloc(void *object);
struct lab *lab_get(struct lab *lab);
void lab_put(struct lab *lab);
struct lab_buf *lab_buf_of(struct lab *lab, u32 obj);
u32 lab_frame_of(struct lab *lab, unsigned long pfn);
struct page *lab_page(struct lab *lab, u32 frame);
bool lab_has_frame(struct lab *lab, u32 frame);
unsigned long lab_frame_pfn(struct lab *lab, u32 frame);
void lab_fill_page(struct page *page, u8 value);
u32 lab_references(struct page *page);
extern struct device *lab_device;

/* exporter.c */
long lab_export(struct lab *lab, struct driftheap_lab_step *step);
long lab_adopt(struct lab *lab, struct driftheap_lab_step *step);
void lab_buf_put(struct lab_buf *buf);
void lab_buf_forget(struct lab_buf *buf);
bool lab_lock(struct lab_buf *buf);
void lab_unlock(struct lab_buf *buf);

/* mmap.c */
int lab_mmap_from(struct lab_buf *buf, struct vm_area_struct *vma, u32 page, enum lab_via via);

/* steps.c */
long lab_exporter_step(struct lab *lab, struct driftheap_lab_step *step);
long lab_ticket_step(struct lab *lab, struct driftheap_lab_step *step);
long lab_wait_lock(struct lab *lab, struct driftheap_lab_step *step);

/* pool.c */
bool lab_holds(struct lab_buf *buf, u32 page, u32 frame, enum lab_role role);
void lab_hold(struct lab_buf *buf, u32 page, u32 frame, enum lab_role role);
void lab_give_all(struct lab_buf *buf);
long lab_take(struct lab_buf *buf, u32 number, enum lab_role role, u8 value);
long lab_pool_step(struct lab *lab, struct driftheap_lab_step *step);
long lab_pooled_step(struct lab_buf *buf, struct driftheap_lab_step *step);
void lab_pools_reset(struct lab *lab);

/* importer.c */
long lab_importer_step(struct lab *lab, struct driftheap_lab_step *step);
long lab_importer_fd(struct lab *lab, struct driftheap_lab_step *step);
void lab_importer_reset(struct lab *lab);

/* gup.c */
long lab_gup_step(struct lab *lab, struct driftheap_lab_step *step);
void lab_gup_reset(struct lab *lab);

/* mm.c */
long lab_mmap_lock_step(struct lab *lab, struct driftheap_lab_step *step);
void lab_mmap_unlock_all(struct lab *lab);
void lab_mmap_watch(struct work_struct *work);

/* bar.c */
int lab_bar_init(void);
void lab_bar_exit(void);
bool lab_is_bar(struct lab *lab, u32 frame);
long lab_bar_step(struct lab *lab, struct driftheap_lab_step *step);
void lab_bar_reset(struct lab *lab);
unsigned long lab_bar_pfn(u32 frame);
u32 lab_bar_frame(struct lab *lab, unsigned long pfn);
void __iomem *lab_bar_at(u32 frame);

/* edu.c */
int lab_edu_init(void);
void lab_edu_exit(void);
bool lab_has_edu(void);
struct device *lab_dma_device(void);
phys_addr_t lab_bus_phys(dma_addr_t bus);
long lab_edu_write(dma_addr_t bus, u8 value, unsigned int parts);
long lab_edu_read(dma_addr_t bus, u8 *to);

#endif
