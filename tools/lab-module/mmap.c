// SPDX-License-Identifier: GPL-2.0
/*
 * How a buffer is mapped: mmap and fault handlers that follow rules which the
 * caller names, each with the kernel's own function for it.
 */
#include <linux/fs.h>
#include <linux/mm.h>
#include <linux/version.h>
#if LINUX_VERSION_CODE < KERNEL_VERSION(6, 17, 0)
#include <linux/pfn_t.h>
#endif

#include "lab.h"

#if LINUX_VERSION_CODE < KERNEL_VERSION(6, 17, 0)
#define lab_insert_mixed(vma, addr, pfn) \
	vmf_insert_mixed(vma, addr, __pfn_to_pfn_t(pfn, 0))
#define lab_insert_pmd(vmf, pfn, write, devmap) \
	vmf_insert_pfn_pmd(vmf, __pfn_to_pfn_t(pfn, (devmap) ? PFN_DEV | PFN_MAP : 0), write)
#else
#define lab_insert_mixed(vma, addr, pfn) vmf_insert_mixed(vma, addr, pfn)
/* There is no such entry any more. */
#define lab_insert_pmd(vmf, pfn, write, devmap) \
	((devmap) ? VM_FAULT_FALLBACK : vmf_insert_pfn_pmd(vmf, pfn, write))
#endif

/* What huge_fault is told of the entry's size. */
#if LINUX_VERSION_CODE < KERNEL_VERSION(6, 6, 0)
#define lab_entry_size enum page_entry_size
#define LAB_ENTRY_HUGE PE_SIZE_PMD
#else
#define lab_entry_size unsigned int
#define LAB_ENTRY_HUGE LAB_BLOCK_ORDER
#endif

/* A mapping: which page of the buffer is at which offset of the file. */
struct lab_vma {
	struct kref refs;
	struct lab_buf *buf;
	unsigned long pgoff;
	u32 page;
	enum lab_via via;
};

static void lab_vma_free(struct kref *refs)
{
	lab_dealloc(container_of(refs, struct lab_vma, refs));
}

static void lab_vma_open(struct vm_area_struct *vma)
{
	struct lab_vma *mapping = vma->vm_private_data;

	kref_get(&mapping->refs);
}

static void lab_vma_close(struct vm_area_struct *vma)
{
	struct lab_vma *mapping = vma->vm_private_data;
	struct lab_buf *buf = mapping->buf;

	spin_lock(&buf->lab->vma_lock);
	if (buf->vma == vma)
		buf->vma = NULL;
	spin_unlock(&buf->lab->vma_lock);
	kref_put(&mapping->refs, lab_vma_free);
}

/* Whether the exporter's own rules say what is mapped, and how. */
static bool lab_own(const struct lab_vma *mapping)
{
	return mapping->via == LAB_VIA_FD || mapping->via == LAB_VIA_NODE;
}

/* The frame that a mapping shows of a page; LAB_NO_FRAME: SIGBUS. */
static u32 lab_shown(struct lab_vma *mapping, unsigned long page)
{
	struct lab_buf *buf = mapping->buf;

	if (mapping->via == LAB_VIA_SHADOW)
		return buf->shadow[page];
	/* As vgem_gem_fault() did: what the sg_table said, wherever the buffer is by now. */
	if (mapping->via == LAB_VIA_BYPASS)
		return READ_ONCE(buf->imported[page]);
	/* As drm_gem_shmem_fault() did until 5.12: what its array of pages has. */
	if (buf->life == LAB_PURGED && (buf->rules & DRIFTHEAP_LAB_FAULT_PURGED))
		return buf->frame[page];
	return buf->life == LAB_LIVE ? buf->frame[page] : LAB_NO_FRAME;
}

static vm_fault_t lab_insert(struct vm_fault *vmf, struct lab_vma *mapping)
{
	struct vm_area_struct *vma = vmf->vma;
	struct lab_buf *buf = mapping->buf;
	unsigned long at = vmf->pgoff - mapping->pgoff;
	unsigned long page = at / buf->lab->stride + mapping->page;
	struct page *behind;
	unsigned long pfn;
	u32 frame, rule;
	int err;

	/* As drm_gem_shmem_fault() counts, which knows fake offsets alone. */
	if (lab_own(mapping) && (buf->rules & DRIFTHEAP_LAB_FAULT_START) &&
	    lab_mistake != LAB_FAULT_OFFSET)
		page = ((vmf->address - vma->vm_start) >> PAGE_SHIFT) / buf->lab->stride;
	if (page >= buf->pages)
		return VM_FAULT_SIGBUS;
	frame = lab_shown(mapping, page);
	if (frame == LAB_NO_FRAME)
		return VM_FAULT_SIGBUS;
	if (lab_mistake == LAB_MAP_NEIGHBOUR && frame)
		frame--;
	if (!lab_has_frame(buf->lab, frame))
		return VM_FAULT_SIGBUS;
	pfn = lab_frame_pfn(buf->lab, frame) + at % buf->lab->stride;
	/* What there is a page for, the kernel says. */
	behind = pfn_valid(pfn) ? pfn_to_page(pfn) : NULL;
	rule = buf->rules & DRIFTHEAP_LAB_MMAP_MASK;
	switch (lab_own(mapping) ? rule : DRIFTHEAP_LAB_MMAP_SHMEM) {
	case DRIFTHEAP_LAB_MMAP_PFNMAP:
		return vmf_insert_pfn(vma, vmf->address, pfn);
	case DRIFTHEAP_LAB_MMAP_MIXED_PFN:
		return lab_insert_mixed(vma, vmf->address, pfn);
	case DRIFTHEAP_LAB_MMAP_MIXED_PAGE:
		if (!behind)
			return VM_FAULT_SIGBUS;
		err = vm_insert_page(vma, vmf->address, behind);
		/* EBUSY: another thread has served this fault. */
		if (err && err != -EBUSY)
			return vmf_error(err);
		return VM_FAULT_NOPAGE;
	default:
		if (!behind)
			return VM_FAULT_SIGBUS;
		get_page(behind);
		vmf->page = behind;
		return 0;
	}
}

/*
 * Whether a copy is under way that a fault would wait for, as in
 * ttm_bo_vm_fault_idle(). Nobody could signal its fence meanwhile: SIGBUS, which
 * the caller did not expect.
 */
static bool lab_copying(struct lab_buf *buf)
{
	return !(buf->rules & DRIFTHEAP_LAB_FAULT_GOES_ON) &&
	       !dma_resv_test_signaled(buf->dmabuf->resv, DMA_RESV_USAGE_KERNEL);
}

/* What no fault handler answers: it waits, and is asked again. */
#define LAB_FAULT_WAITS ((__force vm_fault_t)0x80000000)

/* Who runs free waits for the copy, and the fault is taken once more. */
static vm_fault_t lab_wait_for_copy(struct lab_buf *buf)
{
	dma_resv_wait_timeout(buf->dmabuf->resv, DMA_RESV_USAGE_KERNEL, true, HZ);
	return VM_FAULT_NOPAGE;
}

static vm_fault_t lab_fault(struct vm_fault *vmf)
{
	struct lab_vma *mapping = vmf->vma->vm_private_data;
	struct lab_buf *buf = mapping->buf;
	bool locks = lab_own(mapping) && !(buf->rules & DRIFTHEAP_LAB_FAULT_UNLOCKED);
	vm_fault_t ret;

	/* It would wait for itself; who runs free does. */
	if (locks && READ_ONCE(buf->locker) == current && !buf->lab->pooled)
		return VM_FAULT_SIGBUS;
	if (locks && dma_resv_lock_interruptible(buf->dmabuf->resv, NULL))
		return VM_FAULT_NOPAGE;
	if (lab_own(mapping) && lab_copying(buf))
		ret = buf->lab->pooled ? LAB_FAULT_WAITS : VM_FAULT_SIGBUS;
	else
		ret = lab_insert(vmf, mapping);
	if (locks)
		dma_resv_unlock(buf->dmabuf->resv);
	return ret == LAB_FAULT_WAITS ? lab_wait_for_copy(buf) : ret;
}

static const struct vm_operations_struct lab_vm_ops = {
	.open = lab_vma_open,
	.close = lab_vma_close,
	.fault = lab_fault,
};

/* One entry for the whole of an aligned range: ttm_bo_vm_insert_huge() of 5.8 asks the same. */
static vm_fault_t lab_insert_huge(struct vm_fault *vmf, struct lab_vma *mapping)
{
	struct vm_area_struct *vma = vmf->vma;
	unsigned long addr = vmf->address & PMD_MASK;
	struct lab_buf *buf = mapping->buf;
	struct lab *lab = buf->lab;
	bool devmap = (buf->rules & DRIFTHEAP_LAB_HUGE_DEVMAP) && lab_mistake != LAB_DEVMAP_PLAIN;
	vm_fault_t ret;
	u32 page, i;

	if (!lab->per_block || addr < vma->vm_start || addr + PMD_SIZE > vma->vm_end)
		return VM_FAULT_FALLBACK;
	page = ((addr - vma->vm_start) >> PAGE_SHIFT) / lab->stride + mapping->page;
	if (buf->life != LAB_LIVE || page + lab->per_block > buf->pages)
		return VM_FAULT_FALLBACK;
	if (buf->frame[page] == LAB_NO_FRAME || buf->frame[page] % lab->per_block)
		return VM_FAULT_FALLBACK;
	for (i = 1; i < lab->per_block; i++)
		if (buf->frame[page + i] != buf->frame[page] + i)
			return VM_FAULT_FALLBACK;
	ret = lab_insert_pmd(vmf, page_to_pfn(lab_page(lab, buf->frame[page])),
			     vmf->flags & FAULT_FLAG_WRITE, devmap);
	if (ret == VM_FAULT_NOPAGE && (buf->rules & DRIFTHEAP_LAB_HUGE_PLAIN)) {
		spinlock_t *lock = pmd_lock(vma->vm_mm, vmf->pmd);

		if (pmd_present(*vmf->pmd))
			set_pmd(vmf->pmd, __pmd(pmd_val(*vmf->pmd) & ~_PAGE_SPECIAL));
		spin_unlock(lock);
	}
	return ret;
}

static vm_fault_t lab_huge_fault(struct vm_fault *vmf, lab_entry_size size)
{
	struct lab_vma *mapping = vmf->vma->vm_private_data;
	struct lab_buf *buf = mapping->buf;
	bool locks = !(buf->rules & DRIFTHEAP_LAB_FAULT_UNLOCKED);
	vm_fault_t ret;

	if (size != LAB_ENTRY_HUGE || !lab_own(mapping) || !(vmf->vma->vm_flags & VM_SHARED))
		return VM_FAULT_FALLBACK;
	if (locks && READ_ONCE(buf->locker) == current && !buf->lab->pooled)
		return VM_FAULT_SIGBUS;
	if (locks && dma_resv_lock_interruptible(buf->dmabuf->resv, NULL))
		return VM_FAULT_NOPAGE;
	if (lab_copying(buf))
		ret = buf->lab->pooled ? LAB_FAULT_WAITS : VM_FAULT_SIGBUS;
	else
		ret = lab_insert_huge(vmf, mapping);
	if (locks)
		dma_resv_unlock(buf->dmabuf->resv);
	return ret == LAB_FAULT_WAITS ? lab_wait_for_copy(buf) : ret;
}

static const struct vm_operations_struct lab_huge_vm_ops = {
	.open = lab_vma_open,
	.close = lab_vma_close,
	.fault = lab_fault,
	.huge_fault = lab_huge_fault,
};

/* What remap_pfn_range() has mapped is never faulted in again. */
static const struct vm_operations_struct lab_remapped_vm_ops = {
	.open = lab_vma_open,
	.close = lab_vma_close,
};

/* Every entry now: a call for each range of pfns, as a driver does it with an sg_table. */
static int lab_remap(struct lab_buf *buf, struct vm_area_struct *vma, u32 page)
{
	u32 pages = vma_pages(vma);
	u32 i, run;

	if (buf->life != LAB_LIVE || page + pages > buf->pages || buf->lab->per_block)
		return -EINVAL;
	for (i = 0; i < pages; i += run) {
		u32 frame = buf->frame[page + i];
		pgprot_t prot = vma->vm_page_prot;
		unsigned long pfn;
		int ret;

		if (frame == LAB_NO_FRAME)
			return -EINVAL;
		pfn = lab_frame_pfn(buf->lab, frame);
		/* As the kernel itself has it mapped, else it is refused. */
		if (lab_is_bar(buf->lab, frame))
			prot = pgprot_noncached(prot);
		for (run = 1; i + run < pages; run++)
			if (buf->frame[page + i + run] != frame + run ||
			    lab_frame_pfn(buf->lab, frame + run) != pfn + run)
				break;
		ret = remap_pfn_range(vma, vma->vm_start + ((unsigned long)i << PAGE_SHIFT),
				      pfn, (unsigned long)run << PAGE_SHIFT, prot);
		if (ret)
			return ret;
	}
	return 0;
}

/* What "dma-buf: Require VM_PFNMAP vma for mmap" proposed for dma_buf_mmap(), which has it not. */
static bool lab_check(struct lab_buf *buf, struct vm_area_struct *vma)
{
	if (vma->vm_flags & VM_PFNMAP)
		return true;
	if (buf->rules & DRIFTHEAP_LAB_CHECK_WARN)
		WRITE_ONCE(buf->lab->warned, true);
	return !(buf->rules & DRIFTHEAP_LAB_CHECK_REFUSE);
}

/**
 * lab_mmap_from - the exporter's mmap
 * @buf: what is mapped
 * @vma: where
 * @page: the buffer's page at the beginning of @vma, whatever vm_pgoff says
 * @via: through what; an importer's own pages and fault handler know no rules of the exporter
 */
int lab_mmap_from(struct lab_buf *buf, struct vm_area_struct *vma, u32 page, enum lab_via via)
{
	bool own = via == LAB_VIA_FD || via == LAB_VIA_NODE;
	bool remaps = (buf->rules & DRIFTHEAP_LAB_MMAP_MASK) == DRIFTHEAP_LAB_MMAP_REMAP;
	struct lab_vma *mapping;

	if (via != LAB_VIA_SHADOW && buf->life == LAB_REVOKED)
		return -ENODEV;
	if (via == LAB_VIA_BYPASS && buf->life != LAB_LIVE)
		return -ENODEV;
	if (own && (buf->rules & DRIFTHEAP_LAB_COW_REJECT) && lab_is_cow(vma))
		return -EINVAL;
	if (own && remaps) {
		int ret = lab_remap(buf, vma, page);

		if (ret)
			return ret;
	}
	mapping = lab_alloc(sizeof(*mapping));
	if (!mapping)
		return -ENOMEM;
	kref_init(&mapping->refs);
	mapping->buf = buf;
	mapping->pgoff = vma->vm_pgoff;
	mapping->page = page;
	mapping->via = via;
	vma->vm_private_data = mapping;
	vma->vm_ops = &lab_vm_ops;
	if (buf->rules & DRIFTHEAP_LAB_HUGE)
		vma->vm_ops = &lab_huge_vm_ops;
	if (remaps && own)
		vma->vm_ops = &lab_remapped_vm_ops;
	vm_flags_set(vma, VM_DONTEXPAND | VM_DONTDUMP);
	if (!own)
		return 0;
	if (buf->rules & DRIFTHEAP_LAB_VM_IO)
		vm_flags_set(vma, VM_IO);
	if ((buf->rules & DRIFTHEAP_LAB_DONTCOPY) && lab_mistake != LAB_COPY_AT_FORK)
		vm_flags_set(vma, VM_DONTCOPY);
	switch (buf->rules & DRIFTHEAP_LAB_MMAP_MASK) {
	case DRIFTHEAP_LAB_MMAP_PFNMAP:
	case DRIFTHEAP_LAB_MMAP_UNMARKED:
		vm_flags_set(vma, VM_PFNMAP);
		break;
	case DRIFTHEAP_LAB_MMAP_MIXED_PFN:
	case DRIFTHEAP_LAB_MMAP_MIXED_PAGE:
		vm_flags_set(vma, VM_MIXEDMAP);
		break;
	default:
		break;
	}
	/* drm_gem_mmap() knows nothing of a check in dma_buf_mmap(). */
	if ((via != LAB_VIA_NODE || lab_mistake == LAB_NODE_CHECKED) && !lab_check(buf, vma)) {
		vma->vm_ops = NULL;
		lab_dealloc(mapping);
		return -EINVAL;
	}
	spin_lock(&buf->lab->vma_lock);
	buf->vma = vma;
	spin_unlock(&buf->lab->vma_lock);
	return 0;
}
