// SPDX-License-Identifier: GPL-2.0
/*
 * The exporter: a dma-buf of the laboratory's frames, or of another driver's.
 */
#include <linux/dma-mapping.h>
#include <linux/fs.h>

#include "lab.h"

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

	buf->forgotten = true;
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
	struct dma_buf *dmabuf = buf->dmabuf;
	bool referenced = buf->locker_refers;

	buf->locker_refers = false;
	WRITE_ONCE(buf->locker, NULL);
	dma_resv_unlock(dmabuf->resv);
	if (referenced)
		dma_buf_put(dmabuf);
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

	/*
	 * Under the lock that each step has: of a buffer that is not released the
	 * dma-buf is still there. fput() never comes here by itself, but by way of a
	 * task's return to its program.
	 */
	mutex_lock(&buf->lab->lock);
	/* A caller that ended it by a LOCK step: the lock goes with it. */
	if (buf->locker)
		lab_unlock(buf);
	buf->released = true;
	if (buf->lab->pooled && !buf->forgotten)
		lab_give_all(buf);
	mutex_unlock(&buf->lab->lock);
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
static struct lab_buf *lab_new_buf(struct lab *lab, u32 obj, u32 pages)
{
	struct lab_buf *buf = lab_alloc(sizeof(*buf));
	unsigned int i;

	if (!buf)
		return NULL;
	kref_init(&buf->refs);
	buf->lab = lab_get(lab);
	buf->obj = obj;
	buf->pages = pages;
	for (i = 0; i < DRIFTHEAP_LAB_PAGES; i++) {
		buf->frame[i] = LAB_NO_FRAME;
		buf->next[i] = LAB_NO_FRAME;
		buf->old[i] = LAB_NO_FRAME;
		buf->shadow[i] = LAB_NO_FRAME;
		buf->imported[i] = LAB_NO_FRAME;
	}
	return buf;
}

/* EXPORT: a new dma-buf without pages; BIND gives it some. One as before takes them from a pool. */
long lab_export(struct lab *lab, struct driftheap_lab_step *step)
{
	DEFINE_DMA_BUF_EXPORT_INFO(info);
	struct lab_buf *old = lab_buf_of(lab, step->obj);
	u32 pages = step->page, rules = step->flags;
	struct lab_buf *buf;

	if (step->obj >= DRIFTHEAP_LAB_BUFS || pages > DRIFTHEAP_LAB_PAGES)
		return -EINVAL;
	if (!pages && (!old || !lab->pooled || step->flags >= LAB_POOLS))
		return -EINVAL;
	if (old && !old->released)
		return -EEXIST;
	if (!pages) {
		pages = old->pages;
		rules = old->rules;
	}
	buf = lab_new_buf(lab, step->obj, pages);
	if (!buf)
		return -ENOMEM;
	if (!step->page && lab_take(buf, step->flags, LAB_NOW, step->value)) {
		lab_buf_put(buf);
		return -ENOMEM;
	}
	buf->rules = rules;
	info.exp_name = "driftheap_lab";
	info.ops = &lab_dmabuf_ops;
	info.size = (size_t)pages * lab->stride << PAGE_SHIFT;
	info.flags = O_RDWR;
	info.priv = buf;
	buf->dmabuf = dma_buf_export(&info);
	if (IS_ERR(buf->dmabuf)) {
		long err = PTR_ERR(buf->dmabuf);

		lab_give_all(buf);
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
	buf = lab_new_buf(lab, step->obj, step->page);
	if (!buf)
		return -ENOMEM;
	buf->dmabuf = dma_buf_get(step->value);
	if (IS_ERR(buf->dmabuf)) {
		err = PTR_ERR(buf->dmabuf);
		goto no_buf;
	}
	err = -EINVAL;
	if (buf->dmabuf->ops == &lab_dmabuf_ops ||
	    buf->dmabuf->size != (size_t)buf->pages << PAGE_SHIFT)
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
