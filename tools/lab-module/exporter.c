// SPDX-License-Identifier: GPL-2.0
/*
 * The exporter: a dma-buf whose mmap, fault handler and moves follow rules that
 * the caller names, each with the kernel's own function for it.
 */
#include <linux/dma-mapping.h>
#include <linux/fs.h>
#include <linux/highmem.h>
#include <linux/huge_mm.h>
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

#if LINUX_VERSION_CODE < KERNEL_VERSION(6, 12, 0)
#define lab_mapcount(page) page_mapcount(page)
#else
#define lab_mapcount(page) folio_mapcount(page_folio(page))
#endif

#if LINUX_VERSION_CODE < KERNEL_VERSION(7, 1, 0)
#define lab_zap_vma(vma, addr, size) zap_vma_ptes(vma, addr, size)
#else
#define lab_zap_vma(vma, addr, size) zap_special_vma_range(vma, addr, size)
#endif

#if LINUX_VERSION_CODE < KERNEL_VERSION(7, 0, 0)
#define lab_invalidate(dmabuf) dma_buf_move_notify(dmabuf)
#else
#define lab_invalidate(dmabuf) dma_buf_invalidate_mappings(dmabuf)
#endif

/* A mapping: which page of the buffer is at which offset of the file. */
struct lab_vma {
	struct kref refs;
	struct lab_buf *buf;
	unsigned long pgoff;
	u32 page;
	enum lab_via via;
};

static void lab_buf_free(struct kref *refs)
{
	struct lab_buf *buf = container_of(refs, struct lab_buf, refs);

	lab_put(buf->lab);
	lab_dealloc(buf);
}

void lab_buf_put(struct lab_buf *buf)
{
	kref_put(&buf->refs, lab_buf_free);
}

/* The laboratory lets go of a buffer; it lives on while somebody maps it. */
void lab_buf_forget(struct lab_buf *buf)
{
	bool ours = buf->ours;

	buf->ours = false;
	if (ours)
		dma_buf_put(buf->dmabuf);
	lab_buf_put(buf);
}

/* False when somebody else holds the lock; the holder of a LOCK step has it already. */
bool lab_lock(struct lab_buf *buf)
{
	return READ_ONCE(buf->locker) == current || dma_resv_trylock(buf->dmabuf->resv);
}

void lab_unlock(struct lab_buf *buf)
{
	WRITE_ONCE(buf->locker, NULL);
	dma_resv_unlock(buf->dmabuf->resv);
}

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
	u32 frame;
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
	behind = lab_page(buf->lab, frame);
	if (!behind)
		return VM_FAULT_SIGBUS;
	behind += at % buf->lab->stride;
	switch (lab_own(mapping) ? buf->rules & DRIFTHEAP_LAB_MMAP_MASK : DRIFTHEAP_LAB_MMAP_SHMEM) {
	case DRIFTHEAP_LAB_MMAP_PFNMAP:
		return vmf_insert_pfn(vma, vmf->address, page_to_pfn(behind));
	case DRIFTHEAP_LAB_MMAP_MIXED_PFN:
		return lab_insert_mixed(vma, vmf->address, page_to_pfn(behind));
	case DRIFTHEAP_LAB_MMAP_MIXED_PAGE:
		err = vm_insert_page(vma, vmf->address, behind);
		/* EBUSY: another thread has served this fault. */
		if (err && err != -EBUSY)
			return vmf_error(err);
		return VM_FAULT_NOPAGE;
	default:
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

static vm_fault_t lab_fault(struct vm_fault *vmf)
{
	struct lab_vma *mapping = vmf->vma->vm_private_data;
	struct lab_buf *buf = mapping->buf;
	bool locks = lab_own(mapping) && !(buf->rules & DRIFTHEAP_LAB_FAULT_UNLOCKED);
	vm_fault_t ret;

	/* It would wait for itself. */
	if (locks && READ_ONCE(buf->locker) == current)
		return VM_FAULT_SIGBUS;
	if (locks && dma_resv_lock_interruptible(buf->dmabuf->resv, NULL))
		return VM_FAULT_NOPAGE;
	if (lab_own(mapping) && lab_copying(buf))
		ret = VM_FAULT_SIGBUS;
	else
		ret = lab_insert(vmf, mapping);
	if (locks)
		dma_resv_unlock(buf->dmabuf->resv);
	return ret;
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
	if (locks && READ_ONCE(buf->locker) == current)
		return VM_FAULT_SIGBUS;
	if (locks && dma_resv_lock_interruptible(buf->dmabuf->resv, NULL))
		return VM_FAULT_NOPAGE;
	ret = lab_copying(buf) ? VM_FAULT_SIGBUS : lab_insert_huge(vmf, mapping);
	if (locks)
		dma_resv_unlock(buf->dmabuf->resv);
	return ret;
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
		int ret;

		if (frame == LAB_NO_FRAME)
			return -EINVAL;
		for (run = 1; i + run < pages; run++)
			if (buf->frame[page + i + run] != frame + run)
				break;
		ret = remap_pfn_range(vma, vma->vm_start + ((unsigned long)i << PAGE_SHIFT),
				      page_to_pfn(buf->lab->frames[frame]),
				      (unsigned long)run << PAGE_SHIFT, vma->vm_page_prot);
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

static int lab_mmap(struct dma_buf *dmabuf, struct vm_area_struct *vma)
{
	struct lab_buf *buf = dmabuf->priv;

	return lab_mmap_from(buf, vma, vma->vm_pgoff / buf->lab->stride, LAB_VIA_FD);
}

static int lab_pin(struct dma_buf_attachment *attach)
{
	struct lab_buf *buf = attach->dmabuf->priv;

	buf->pins++;
	return 0;
}

static void lab_unpin(struct dma_buf_attachment *attach)
{
	struct lab_buf *buf = attach->dmabuf->priv;

	buf->pins--;
}

/* Whether the kernel maps for a device; else its address is the physical one. */
static bool lab_maps(struct lab_attachment *attachment)
{
	return attachment->bounces || lab_has_edu();
}

static struct sg_table *lab_map(struct dma_buf_attachment *attach, enum dma_data_direction dir)
{
	struct lab_attachment *attachment = attach->importer_priv;
	struct lab_buf *buf = attach->dmabuf->priv;
	struct scatterlist *sg;
	struct sg_table *sgt;
	unsigned int i;
	int err;

	if (buf->life != LAB_LIVE)
		return ERR_PTR(-ENODEV);
	sgt = lab_alloc(sizeof(*sgt));
	if (!sgt)
		return ERR_PTR(-ENOMEM);
	if (sg_alloc_table(sgt, buf->pages, GFP_KERNEL)) {
		lab_dealloc(sgt);
		return ERR_PTR(-ENOMEM);
	}
	for_each_sgtable_sg(sgt, sg, i) {
		struct page *page = lab_page(buf->lab, buf->frame[i]);

		if (!page) {
			sg_free_table(sgt);
			lab_dealloc(sgt);
			return ERR_PTR(-ENODEV);
		}
		sg_set_page(sg, page, PAGE_SIZE, 0);
		/* A device without an IOMMU: its address is the physical one. */
		sg_dma_address(sg) = page_to_phys(page);
		sg_dma_len(sg) = PAGE_SIZE;
	}
	/* With swiotlb=force the device reaches bounce pages alone, behind an IOMMU what is mapped. */
	err = lab_maps(attachment) ? dma_map_sgtable(attach->dev, sgt, dir, 0) : 0;
	if (err) {
		sg_free_table(sgt);
		lab_dealloc(sgt);
		return ERR_PTR(err);
	}
	buf->maps++;
	return sgt;
}

static void lab_unmap(struct dma_buf_attachment *attach, struct sg_table *sgt,
		      enum dma_data_direction dir)
{
	struct lab_attachment *attachment = attach->importer_priv;
	struct lab_buf *buf = attach->dmabuf->priv;

	buf->maps--;
	if (lab_maps(attachment) && lab_mistake != LAB_UNMAP_NOTHING)
		dma_unmap_sgtable(attach->dev, sgt, dir, 0);
	sg_free_table(sgt);
	lab_dealloc(sgt);
}

static void lab_dmabuf_release(struct dma_buf *dmabuf)
{
	struct lab_buf *buf = dmabuf->priv;

	/* A caller that ended it by a LOCK step: the lock goes with it. */
	if (buf->locker)
		lab_unlock(buf);
	buf->released = true;
	lab_buf_put(buf);
}

/* As system_heap_dma_buf_begin_cpu_access() does; under the laboratory's lock. */
static int lab_begin(struct dma_buf *dmabuf, enum dma_data_direction dir)
{
	struct lab_buf *buf = dmabuf->priv;
	unsigned int i;

	for (i = 0; i < DRIFTHEAP_LAB_SGS && lab_mistake != LAB_SYNC_NOTHING; i++) {
		struct lab_sg *sg = &buf->lab->sgs[i];

		if (sg->sgt && sg->attachment->bounces && sg->attachment->buf == buf)
			dma_sync_sgtable_for_cpu(lab_dma_device(), sg->sgt, dir);
	}
	return 0;
}

static int lab_end(struct dma_buf *dmabuf, enum dma_data_direction dir)
{
	struct lab_buf *buf = dmabuf->priv;
	unsigned int i;

	for (i = 0; i < DRIFTHEAP_LAB_SGS && lab_mistake != LAB_SYNC_NOTHING; i++) {
		struct lab_sg *sg = &buf->lab->sgs[i];

		if (sg->sgt && sg->attachment->bounces && sg->attachment->buf == buf)
			dma_sync_sgtable_for_device(lab_dma_device(), sg->sgt, dir);
	}
	return 0;
}

static const struct dma_buf_ops lab_dmabuf_ops = {
	.pin = lab_pin,
	.unpin = lab_unpin,
	.map_dma_buf = lab_map,
	.unmap_dma_buf = lab_unmap,
	.begin_cpu_access = lab_begin,
	.end_cpu_access = lab_end,
	.release = lab_dmabuf_release,
	.mmap = lab_mmap,
};

/* A buffer without frames and without a dma-buf. */
static struct lab_buf *lab_new_buf(struct lab *lab, u32 pages)
{
	struct lab_buf *buf = lab_alloc(sizeof(*buf));
	unsigned int i;

	if (!buf)
		return NULL;
	kref_init(&buf->refs);
	buf->lab = lab_get(lab);
	buf->pages = pages;
	for (i = 0; i < DRIFTHEAP_LAB_PAGES; i++) {
		buf->frame[i] = buf->next[i] = buf->old[i] = LAB_NO_FRAME;
		buf->shadow[i] = buf->imported[i] = LAB_NO_FRAME;
	}
	return buf;
}

/* EXPORT: a new dma-buf without pages; BIND gives it some. */
long lab_export(struct lab *lab, struct driftheap_lab_step *step)
{
	DEFINE_DMA_BUF_EXPORT_INFO(info);
	struct lab_buf *old = lab_buf_of(lab, step->obj);
	struct lab_buf *buf;

	if (step->obj >= DRIFTHEAP_LAB_BUFS || !step->page || step->page > DRIFTHEAP_LAB_PAGES)
		return -EINVAL;
	if (old && !old->released)
		return -EEXIST;
	buf = lab_new_buf(lab, step->page);
	if (!buf)
		return -ENOMEM;
	buf->rules = step->flags;
	info.exp_name = "driftheap_lab";
	info.ops = &lab_dmabuf_ops;
	info.size = (size_t)step->page * lab->stride << PAGE_SHIFT;
	info.flags = O_RDWR;
	info.priv = buf;
	buf->dmabuf = dma_buf_export(&info);
	if (IS_ERR(buf->dmabuf)) {
		long err = PTR_ERR(buf->dmabuf);

		lab_buf_put(buf);
		return err;
	}
	/* The dma-buf's own reference, which lab_dmabuf_release() drops. */
	kref_get(&buf->refs);
	buf->ours = true;
	lab->bufs[step->obj] = buf;
	if (old)
		lab_buf_put(old);
	return 0;
}

/* Which pages another driver's buffer is, in their order. */
static long lab_learn(struct lab_buf *buf)
{
	struct dma_buf_attachment *attach = dma_buf_attach(buf->dmabuf, lab_dma_device());
	struct sg_page_iter at;
	struct sg_table *sgt;
	u32 i = 0;

	if (IS_ERR(attach))
		return PTR_ERR(attach);
	sgt = dma_buf_map_attachment_unlocked(attach, DMA_BIDIRECTIONAL);
	if (!IS_ERR(sgt)) {
		for_each_sgtable_page(sgt, &at, 0)
			if (i < buf->pages)
				buf->theirs[i++] = sg_page_iter_page(&at);
		dma_buf_unmap_attachment_unlocked(attach, sgt, DMA_BIDIRECTIONAL);
	}
	dma_buf_detach(buf->dmabuf, attach);
	if (IS_ERR(sgt))
		return PTR_ERR(sgt);
	return i == buf->pages ? 0 : -EINVAL;
}

/*
 * ADOPT: a dma-buf that another driver exports. What maps it, faults it in and
 * maps it for a device is that driver; it is mapped, attached and looked at as
 * any other, and none of our exporter's steps is taken on it.
 */
long lab_adopt(struct lab *lab, struct driftheap_lab_step *step)
{
	struct lab_buf *buf;
	long err;

	if (step->obj >= DRIFTHEAP_LAB_BUFS || !step->page || step->page > DRIFTHEAP_LAB_PAGES ||
	    step->value > INT_MAX || lab->per_block)
		return -EINVAL;
	if (lab->bufs[step->obj])
		return -EEXIST;
	buf = lab_new_buf(lab, step->page);
	if (!buf)
		return -ENOMEM;
	buf->dmabuf = dma_buf_get(step->value);
	if (IS_ERR(buf->dmabuf)) {
		err = PTR_ERR(buf->dmabuf);
		goto no_buf;
	}
	err = -EINVAL;
	if (buf->dmabuf->ops == &lab_dmabuf_ops || buf->dmabuf->size != (size_t)buf->pages << PAGE_SHIFT)
		goto not_this;
	err = lab_learn(buf);
	if (err)
		goto not_this;
	buf->ours = true;
	lab->bufs[step->obj] = buf;
	return 0;

not_this:
	dma_buf_put(buf->dmabuf);
no_buf:
	lab_buf_put(buf);
	return err;
}

/* Where a zap begins, as an offset of the file: 0, but for exporters that get it wrong. */
static loff_t lab_zap_offset(struct lab_buf *buf)
{
	unsigned long start = 0;

	if (buf->rules & DRIFTHEAP_LAB_ZAP_LATE)
		return PAGE_SIZE * buf->lab->stride;
	/* drm_gem_shmem_mmap() until 5.12: the VMA is in the reverse map without its fake offset. */
	if (buf->rules & DRIFTHEAP_LAB_ZAP_NODE)
		return (loff_t)LAB_NODE_PGOFF << PAGE_SHIFT;
	if (buf->rules & DRIFTHEAP_LAB_ZAP_START) {
		spin_lock(&buf->lab->vma_lock);
		if (buf->vma)
			start = buf->vma->vm_start;
		spin_unlock(&buf->lab->vma_lock);
	}
	return start;
}

static long lab_zap(struct lab_buf *buf)
{
	struct address_space *mapping = buf->dmabuf->file->f_mapping;
	loff_t size = (loff_t)buf->pages * buf->lab->stride << PAGE_SHIFT;
	struct vm_area_struct *vma;

	if (lab_mistake == LAB_ZAP_NOTHING)
		return 0;
	if (buf->rules & DRIFTHEAP_LAB_ZAP_POINTER) {
		/* As a driver does it that remembers one VMA. */
		spin_lock(&buf->lab->vma_lock);
		vma = buf->vma;
		spin_unlock(&buf->lab->vma_lock);
		if (!vma)
			return 0;
		if (!(vma->vm_flags & VM_PFNMAP))
			return -EOPNOTSUPP;
		lab_zap_vma(vma, vma->vm_start, vma->vm_end - vma->vm_start);
		return 0;
	}
	unmap_mapping_range(mapping, lab_mistake == LAB_ZAP_FINDS ? 0 : lab_zap_offset(buf), size, 1);
	return 0;
}

static long lab_check_pins(struct lab *lab, struct lab_buf *buf)
{
	unsigned int i;

	if (lab_mistake == LAB_PINS_UNSEEN)
		return 0;
	if (buf->pins && !(buf->rules & DRIFTHEAP_LAB_PINS_IGNORED))
		return -EBUSY;
	if (!(buf->rules & DRIFTHEAP_LAB_REFS_REFUSE))
		return 0;
	for (i = 0; i < buf->pages; i++) {
		struct page *page = lab_page(lab, buf->frame[i]);

		/* More references than ours and those of page tables. */
		if (page && page_count(page) > 1 + lab_mapcount(page))
			return -EBUSY;
	}
	return 0;
}

static long lab_bind(struct lab *lab, struct lab_buf *buf, struct driftheap_lab_step *step)
{
	u32 frame = step->value;

	if (step->page >= buf->pages)
		return -EINVAL;
	if (buf->theirs[0]) {
		/* It is where it is: the frame is a name for it. */
		if (step->op != DRIFTHEAP_LAB_BIND || frame >= DRIFTHEAP_LAB_FRAMES)
			return -EINVAL;
		lab->foreign[frame] = buf->theirs[step->page];
		return 0;
	}
	if (frame != LAB_NO_FRAME && !lab_page(lab, frame))
		return -EINVAL;
	if (step->op == DRIFTHEAP_LAB_BIND)
		buf->frame[step->page] = frame;
	else if (step->op == DRIFTHEAP_LAB_SHADOW)
		buf->shadow[step->page] = frame;
	else
		buf->next[step->page] = frame;
	return 0;
}

static long lab_copy(struct lab *lab, struct lab_buf *buf, u32 page)
{
	struct page *from, *to;

	if (page >= buf->pages)
		return -EINVAL;
	if (buf->next[page] != LAB_NO_FRAME) {
		from = lab_page(lab, buf->frame[page]);
		to = lab_page(lab, buf->next[page]);
	} else {
		/* The buffer is its new frames already: a copy that runs by itself. */
		from = lab_page(lab, buf->old[page]);
		to = lab_page(lab, buf->frame[page]);
	}
	if (!from || !to)
		return -ENOENT;
	if (lab_mistake != LAB_COPY_NOTHING)
		copy_highpage(to, from);
	return 0;
}

static void lab_rebind(struct lab_buf *buf)
{
	unsigned int i;

	for (i = 0; i < buf->pages; i++) {
		if (buf->next[i] == LAB_NO_FRAME)
			continue;
		buf->old[i] = buf->frame[i];
		buf->frame[i] = buf->next[i];
		buf->next[i] = LAB_NO_FRAME;
	}
}

static long lab_sync(struct lab_buf *buf, struct driftheap_lab_step *step)
{
	enum dma_data_direction dir;

	switch (step->flags) {
	case 1:
		dir = DMA_FROM_DEVICE;
		break;
	case 2:
		dir = DMA_TO_DEVICE;
		break;
	case 3:
		dir = DMA_BIDIRECTIONAL;
		break;
	default:
		return -EINVAL;
	}
	/* It would wait for fences, and whoever signals them could not take a step meanwhile. */
	if (step->op == DRIFTHEAP_LAB_SYNC_START &&
	    !dma_resv_test_signaled(buf->dmabuf->resv, dma_resv_usage_rw(dir != DMA_FROM_DEVICE)))
		return -ETIME;
	if (step->op == DRIFTHEAP_LAB_SYNC_START)
		return dma_buf_begin_cpu_access(buf->dmabuf, dir);
	return dma_buf_end_cpu_access(buf->dmabuf, dir);
}

static struct lab_ticket *lab_ticket_of(struct lab *lab, struct task_struct *task)
{
	unsigned int i;

	for (i = 0; i < LAB_MMS; i++)
		if (lab->tickets[i].task == task)
			return &lab->tickets[i];
	return NULL;
}

/* The caller draws a ticket, or is done with it. */
long lab_ticket_step(struct lab *lab, struct driftheap_lab_step *step)
{
	struct lab_ticket *ticket = lab_ticket_of(lab, current);

	if (step->obj || step->flags > 1)
		return -EINVAL;
	if (step->flags) {
		if (!ticket)
			return -EPERM;
		if (ticket->ctx.acquired)
			return -EBUSY;
		ww_acquire_fini(&ticket->ctx);
		ticket->task = NULL;
		return 0;
	}
	if (ticket)
		return -EALREADY;
	ticket = lab_ticket_of(lab, NULL);
	if (!ticket)
		return -ENOMEM;
	ww_acquire_init(&ticket->ctx, &reservation_ww_class);
	ticket->task = current;
	return 0;
}

/*
 * The kernel is asked for a lock that an older ticket has: it has to refuse at
 * once. What it would wait for is not asked for, with the laboratory's lock held.
 */
static long lab_lock_under_ticket(struct lab_buf *buf)
{
	struct lab_ticket *ticket = lab_ticket_of(buf->lab, current);
	struct dma_resv *resv = buf->dmabuf->resv;
	struct ww_acquire_ctx *holder;

	if (!ticket)
		return -EPERM;
	if (ww_mutex_trylock(&resv->lock, &ticket->ctx))
		return 0;
	holder = READ_ONCE(resv->lock.ctx);
	if (!ticket->ctx.acquired || !holder || (long)(ticket->ctx.stamp - holder->stamp) <= 0)
		return -EBUSY;
	return dma_resv_lock_interruptible(resv, &ticket->ctx);
}

static long lab_locked_step(struct lab_buf *buf, struct driftheap_lab_step *step)
{
	unsigned int before;
	long left;

	switch (step->op) {
	case DRIFTHEAP_LAB_LOCK:
		if (buf->locker == current)
			return -EALREADY;
		left = 0;
		if (step->flags & 1)
			left = lab_lock_under_ticket(buf);
		else if (!dma_resv_trylock(buf->dmabuf->resv))
			left = -EDEADLK;
		if (left)
			return left;
		WRITE_ONCE(buf->locker, current);
		return 0;
	case DRIFTHEAP_LAB_UNLOCK:
		if (buf->locker != current)
			return -EPERM;
		lab_unlock(buf);
		return 0;
	case DRIFTHEAP_LAB_NOTIFY:
		/* A rule may forget the lock; move_notify takes it for granted. */
		before = buf->notified;
		if (lab_mistake != LAB_NOTIFY_NOBODY)
			lab_invalidate(buf->dmabuf);
		step->value = buf->notified - before;
		return 0;
	default:
		if (step->flags > DMA_RESV_USAGE_BOOKKEEP)
			return -EINVAL;
		left = dma_resv_wait_timeout(buf->dmabuf->resv, step->flags, true, 0);
		return left > 0 ? 0 : left ? left : -ETIME;
	}
}

/* A bit for each usage whose fences, and those before it, have not all signalled. */
static u32 lab_busy(struct lab_buf *buf)
{
	u32 busy = 0, usage;

	if (buf->released)
		return 0;
	for (usage = 0; usage <= DMA_RESV_USAGE_BOOKKEEP; usage++)
		if (!dma_resv_test_signaled(buf->dmabuf->resv, usage))
			busy |= 1 << usage;
	return busy;
}

/* A step of the exporter, or a look at a buffer. */
long lab_exporter_step(struct lab *lab, struct driftheap_lab_step *step)
{
	struct lab_buf *buf = lab_buf_of(lab, step->obj);

	if (!buf)
		return -EINVAL;
	if (step->op == DRIFTHEAP_LAB_BUF) {
		step->value = buf->released | (u64)buf->pins << 8 | (u64)buf->maps << 16 |
			      (u64)(buf->notified & 255) << 24 | (u64)lab->warned << 32 |
			      (u64)lab_busy(buf) << 40;
		return 0;
	}
	if (buf->released)
		return -ENODEV;
	/* What only an exporter may do, another does; and its end would not be seen. */
	if (buf->theirs[0] && step->op != DRIFTHEAP_LAB_BIND && step->op != DRIFTHEAP_LAB_LOCK &&
	    step->op != DRIFTHEAP_LAB_UNLOCK && step->op != DRIFTHEAP_LAB_WAIT &&
	    step->op != DRIFTHEAP_LAB_SYNC_START && step->op != DRIFTHEAP_LAB_SYNC_END)
		return -EINVAL;
	switch (step->op) {
	case DRIFTHEAP_LAB_BIND:
	case DRIFTHEAP_LAB_SHADOW:
	case DRIFTHEAP_LAB_RESERVE:
		return lab_bind(lab, buf, step);
	case DRIFTHEAP_LAB_CLOSE:
		if (!buf->ours)
			return -EBADF;
		buf->ours = false;
		dma_buf_put(buf->dmabuf);
		return 0;
	case DRIFTHEAP_LAB_LOCK ... DRIFTHEAP_LAB_NOTIFY:
	case DRIFTHEAP_LAB_WAIT:
		return lab_locked_step(buf, step);
	case DRIFTHEAP_LAB_ZAP:
		return lab_zap(buf);
	case DRIFTHEAP_LAB_CHECK_PINS:
		return lab_check_pins(lab, buf);
	case DRIFTHEAP_LAB_COPY:
		return lab_copy(lab, buf, step->page);
	case DRIFTHEAP_LAB_REBIND:
		lab_rebind(buf);
		return 0;
	case DRIFTHEAP_LAB_MARK:
		if (step->flags != LAB_PURGED && step->flags != LAB_REVOKED)
			return -EINVAL;
		buf->life = step->flags;
		return 0;
	case DRIFTHEAP_LAB_WAIT_UNMAP:
		return buf->maps ? -ETIME : 0;
	case DRIFTHEAP_LAB_SYNC_START:
	case DRIFTHEAP_LAB_SYNC_END:
		return lab_sync(buf, step);
	default:
		return -EINVAL;
	}
}
