// SPDX-License-Identifier: GPL-2.0
/*
 * The importer: attachments, sg_tables, fences, and an importer's own file.
 *
 * Two things that dma-buf's core did otherwise before the model's kernels are
 * done here as it does them now, so that an older kernel can be asked the rest:
 * - a static importer was pinned and mapped by dma_buf_attach() (until 6.15),
 *   now it is by dma_buf_map_attachment();
 * - without CONFIG_DMABUF_MOVE_NOTIFY, which Debian did not set, mapping for a
 *   dynamic importer pinned the buffer for as long as it was mapped.
 * From 7.0 on there is no such option, and the core does both by itself.
 */
#include <linux/anon_inodes.h>
#include <linux/file.h>
#include <linux/version.h>

#include "lab.h"

/* Whether the core pins for who can't be told of moves, and for nobody else. */
#define LAB_CORE_PINS (LINUX_VERSION_CODE >= KERNEL_VERSION(7, 0, 0))

static DEFINE_SPINLOCK(lab_fence_lock);

static const char *lab_fence_name(struct dma_fence *fence)
{
	return "driftheap_lab";
}

static void lab_fence_release(struct dma_fence *fence)
{
	lab_object_gone();
	dma_fence_free(fence);
}

static const struct dma_fence_ops lab_fence_ops = {
	.get_driver_name = lab_fence_name,
	.get_timeline_name = lab_fence_name,
	.release = lab_fence_release,
};

static void lab_move_notify(struct dma_buf_attachment *attach)
{
	struct lab_attachment *attachment = attach->importer_priv;
	unsigned int i;

	if (!attachment->dynamic)
		return;
	attachment->buf->notified++;
	if (attachment->deaf)
		return;
	for (i = 0; i < DRIFTHEAP_LAB_SGS; i++) {
		struct lab_sg *sg = &attachment->lab->sgs[i];

		if (sg->attachment == attachment && sg->sgt)
			sg->invalid = true;
	}
}

static const struct dma_buf_attach_ops lab_attach_ops = {
	.allow_peer2peer = true,
#if LINUX_VERSION_CODE < KERNEL_VERSION(7, 0, 0)
	.move_notify = lab_move_notify,
#else
	.invalidate_mappings = lab_move_notify,
#endif
};

/* Who can't be told has none. An older core is told otherwise: lab_move_notify() looks. */
static const struct dma_buf_attach_ops *lab_attach_ops_of(const struct lab_attachment *attachment)
{
	return LAB_CORE_PINS && !attachment->dynamic ? NULL : &lab_attach_ops;
}

static long lab_attach(struct lab *lab, struct driftheap_lab_step *step)
{
	struct lab_buf *buf = lab_buf_of(lab, step->page);
	struct lab_attachment *attachment;

	if (step->obj >= DRIFTHEAP_LAB_ATTACHMENTS || !buf)
		return -EINVAL;
	if (lab->attachments[step->obj])
		return -EEXIST;
	if (buf->released || buf->life != LAB_LIVE)
		return -ENODEV;
	/* dma_buf_dynamic_attach() would wait for it, and nobody could release it meanwhile. */
	if (dma_resv_is_locked(buf->dmabuf->resv))
		return -EDEADLK;
	/* An attachment holds no reference by itself: who attached has the dma-buf. */
	if (!lab_file_get(buf->dmabuf->file))
		return -ENODEV;
	attachment = lab_alloc(sizeof(*attachment));
	if (!attachment) {
		dma_buf_put(buf->dmabuf);
		return -ENOMEM;
	}
	attachment->lab = lab;
	attachment->buf = buf;
	attachment->dynamic = step->flags & 1;
	attachment->deaf = step->flags & 2;
	attachment->bounces = step->flags & 4;
	attachment->tlb = step->flags & 8;
	attachment->attach = dma_buf_dynamic_attach(buf->dmabuf, lab_dma_device(),
						    lab_attach_ops_of(attachment), attachment);
	if (IS_ERR(attachment->attach)) {
		long err = PTR_ERR(attachment->attach);

		lab_dealloc(attachment);
		dma_buf_put(buf->dmabuf);
		return err;
	}
	lab->attachments[step->obj] = attachment;
	return 0;
}

static long lab_detach(struct lab *lab, u32 obj)
{
	struct lab_attachment *attachment;
	struct dma_buf *dmabuf;
	unsigned int i;

	if (obj >= DRIFTHEAP_LAB_ATTACHMENTS || !lab->attachments[obj])
		return -EINVAL;
	attachment = lab->attachments[obj];
	for (i = 0; i < DRIFTHEAP_LAB_SGS; i++)
		if (lab->sgs[i].attachment == attachment && lab->sgs[i].sgt)
			return -EBUSY;
	dmabuf = attachment->buf->dmabuf;
	/* dma_buf_detach() takes it, too. */
	if (!dma_resv_trylock(dmabuf->resv))
		return -EDEADLK;
	for (; attachment->pins; attachment->pins--)
		dma_buf_unpin(attachment->attach);
	dma_resv_unlock(dmabuf->resv);
	for (i = 0; i < DRIFTHEAP_LAB_SGS; i++)
		if (lab->sgs[i].attachment == attachment)
			lab->sgs[i].attachment = NULL;
	lab->attachments[obj] = NULL;
	dma_buf_detach(dmabuf, attachment->attach);
	lab_dealloc(attachment);
	dma_buf_put(dmabuf);
	return 0;
}

/* Under the lock. */
static long lab_map_sg(struct lab_sg *sg, struct lab_attachment *attachment)
{
	struct dma_buf_attachment *attach = attachment->attach;
	struct lab_buf *buf = attachment->buf;
	unsigned int pins = buf->pins;
	struct sg_dma_page_iter page;
	struct scatterlist *at;
	struct sg_table *sgt;
	unsigned int i;

	/* The core waits for these fences, and whoever signals them could not take a step meanwhile. */
	if (!attach->importer_ops &&
	    !dma_resv_test_signaled(buf->dmabuf->resv, DMA_RESV_USAGE_KERNEL))
		return -ETIME;
	sgt = dma_buf_map_attachment(attach, DMA_BIDIRECTIONAL);
	if (IS_ERR(sgt))
		return PTR_ERR(sgt);
	/* See the top of this file. */
	if (!LAB_CORE_PINS)
		buf->pins = pins;
	sg->attachment = attachment;
	sg->sgt = sgt;
	sg->invalid = false;
	sg->pages = buf->pages;
	sg->has_tlb = attachment->tlb;
	i = 0;
	for_each_sgtable_dma_page(sgt, &page, 0)
		if (i < buf->pages)
			sg->addr[i++] = sg_page_iter_dma_address(&page);
	if (lab_mistake == LAB_IMPORT_NOTHING)
		return 0;
	for_each_sgtable_sg(sgt, at, i)
		WRITE_ONCE(buf->imported[i],
			   lab_frame_of(attachment->lab, page_to_pfn(sg_page(at))));
	return 0;
}

/* Under the lock. */
static void lab_unmap_sg(struct lab_sg *sg)
{
	struct lab_buf *buf = sg->attachment->buf;
	unsigned int pins = buf->pins;
	unsigned int i;

	for (i = 0; i < buf->pages; i++) {
		WRITE_ONCE(buf->imported[i], LAB_NO_FRAME);
		if (sg->has_tlb && !sg->tlb[i])
			sg->tlb[i] = sg->addr[i];
	}
	dma_buf_unmap_attachment(sg->attachment->attach, sg->sgt, DMA_BIDIRECTIONAL);
	if (!LAB_CORE_PINS)
		buf->pins = pins;
	sg->sgt = NULL;
	sg->invalid = false;
}

static long lab_flush_tlb(struct lab *lab, u32 obj)
{
	if (obj >= DRIFTHEAP_LAB_SGS)
		return -EINVAL;
	if (lab_mistake != LAB_FLUSH_NOTHING)
		memset(lab->sgs[obj].tlb, 0, sizeof(lab->sgs[obj].tlb));
	return 0;
}

static long lab_sg_step(struct lab *lab, struct driftheap_lab_step *step)
{
	struct lab_sg *sg;
	struct lab_attachment *attachment;
	struct lab_buf *buf;
	long ret = 0;

	if (step->obj >= DRIFTHEAP_LAB_SGS)
		return -EINVAL;
	sg = &lab->sgs[step->obj];
	if (step->op == DRIFTHEAP_LAB_MAP) {
		if (step->page >= DRIFTHEAP_LAB_ATTACHMENTS || sg->sgt)
			return -EINVAL;
		attachment = lab->attachments[step->page];
	} else {
		attachment = sg->sgt ? sg->attachment : NULL;
	}
	if (!attachment)
		return -EINVAL;
	buf = attachment->buf;
	if (!lab_lock(buf))
		return -EDEADLK;
	switch (step->op) {
	case DRIFTHEAP_LAB_MAP:
		ret = lab_map_sg(sg, attachment);
		if (!ret && !attachment->dynamic && !LAB_CORE_PINS) {
			ret = dma_buf_pin(attachment->attach);
			attachment->pins += !ret;
		}
		break;
	case DRIFTHEAP_LAB_UNMAP:
		lab_unmap_sg(sg);
		if (!attachment->dynamic && attachment->pins && !LAB_CORE_PINS) {
			attachment->pins--;
			dma_buf_unpin(attachment->attach);
		}
		break;
	default:
		step->value = sg->invalid;
		/*
		 * "All mappings should be destroyed and re-created" (struct
		 * dma_buf_attach_ops): what can't be re-created is gone.
		 */
		if (sg->invalid) {
			lab_unmap_sg(sg);
			ret = lab_map_sg(sg, attachment);
			if (ret)
				memset(sg->addr, 0, sizeof(sg->addr));
		}
		break;
	}
	if (buf->locker != current)
		dma_resv_unlock(buf->dmabuf->resv);
	return ret;
}

static long lab_pin_step(struct lab *lab, struct driftheap_lab_step *step)
{
	struct lab_attachment *attachment;
	long ret = 0;

	if (step->obj >= DRIFTHEAP_LAB_ATTACHMENTS || !lab->attachments[step->obj])
		return -EINVAL;
	attachment = lab->attachments[step->obj];
	if (step->op == DRIFTHEAP_LAB_UNPIN && !attachment->pins)
		return -EINVAL;
	if (!lab_lock(attachment->buf))
		return -EDEADLK;
	if (step->op == DRIFTHEAP_LAB_PIN) {
		ret = dma_buf_pin(attachment->attach);
		attachment->pins += !ret;
	} else {
		dma_buf_unpin(attachment->attach);
		attachment->pins--;
	}
	if (attachment->buf->locker != current)
		dma_resv_unlock(attachment->buf->dmabuf->resv);
	return ret;
}

static long lab_fence_step(struct lab *lab, struct driftheap_lab_step *step)
{
	struct lab_buf *buf;
	struct dma_fence *fence;
	long ret;

	if (step->obj >= DRIFTHEAP_LAB_FENCES)
		return -EINVAL;
	fence = lab->fences[step->obj];
	if (step->op == DRIFTHEAP_LAB_SIGNAL) {
		if (!fence)
			return -EINVAL;
		lab->fences[step->obj] = NULL;
		dma_fence_signal(fence);
		dma_fence_put(fence);
		return 0;
	}
	buf = lab_buf_of(lab, step->page);
	if (fence || !buf || buf->released || step->flags > DMA_RESV_USAGE_BOOKKEEP)
		return -EINVAL;
	if (!lab_lock(buf))
		return -EDEADLK;
	ret = dma_resv_reserve_fences(buf->dmabuf->resv, 1);
	fence = ret ? NULL : lab_alloc(sizeof(*fence));
	if (fence) {
		/* A context each: the fences of one laboratory signal in any order. */
		dma_fence_init(fence, &lab_fence_ops, &lab_fence_lock,
			       dma_fence_context_alloc(1), 1);
		if (lab_mistake != LAB_FENCE_NOTHING)
			dma_resv_add_fence(buf->dmabuf->resv, fence, step->flags);
		lab->fences[step->obj] = fence;
	} else if (!ret) {
		ret = -ENOMEM;
	}
	if (buf->locker != current)
		dma_resv_unlock(buf->dmabuf->resv);
	return ret;
}

/* A step of an importer or of its device's driver. */
long lab_importer_step(struct lab *lab, struct driftheap_lab_step *step)
{
	switch (step->op) {
	case DRIFTHEAP_LAB_ATTACH:
		return lab_attach(lab, step);
	case DRIFTHEAP_LAB_DETACH:
		return lab_detach(lab, step->obj);
	case DRIFTHEAP_LAB_MAP:
	case DRIFTHEAP_LAB_UNMAP:
	case DRIFTHEAP_LAB_REMAP:
		return lab_sg_step(lab, step);
	case DRIFTHEAP_LAB_FLUSH_TLB:
		return lab_flush_tlb(lab, step->obj);
	case DRIFTHEAP_LAB_PIN:
	case DRIFTHEAP_LAB_UNPIN:
		return lab_pin_step(lab, step);
	default:
		return lab_fence_step(lab, step);
	}
}

/* Give back what importers have; no dma_resv is held by a LOCK step. */
void lab_importer_reset(struct lab *lab)
{
	unsigned int i;

	for (i = 0; i < DRIFTHEAP_LAB_FENCES; i++) {
		struct dma_fence *fence = lab->fences[i];

		lab->fences[i] = NULL;
		if (fence) {
			dma_fence_signal(fence);
			dma_fence_put(fence);
		}
	}
	for (i = 0; i < DRIFTHEAP_LAB_SGS; i++) {
		struct lab_sg *sg = &lab->sgs[i];
		struct dma_resv *resv;

		if (!sg->sgt)
			continue;
		resv = sg->attachment->buf->dmabuf->resv;
		dma_resv_lock(resv, NULL);
		lab_unmap_sg(sg);
		dma_resv_unlock(resv);
	}
	/* Only a fault of a process that still maps a buffer can have its lock, and not for long. */
	for (i = 0; i < DRIFTHEAP_LAB_ATTACHMENTS; i++)
		while (lab->attachments[i] && lab_detach(lab, i) == -EDEADLK)
			cond_resched();
	memset(lab->sgs, 0, sizeof(lab->sgs));
}

/* An importer's file: a buffer seen through another driver. */
struct lab_import {
	struct dma_buf *dmabuf;
	u32 how;
};

static int lab_import_mmap(struct file *file, struct vm_area_struct *vma)
{
	struct lab_import *import = file->private_data;
	struct dma_buf *dmabuf = import->dmabuf;
	struct lab_buf *buf = dmabuf->priv;
	u32 page = vma->vm_pgoff / buf->lab->stride;

	if (vma->vm_pgoff + vma_pages(vma) > buf->pages * buf->lab->stride)
		return -EINVAL;
	switch (import->how) {
	case DRIFTHEAP_LAB_IMPORT_REDIRECT:
		return dma_buf_mmap(dmabuf, vma, vma->vm_pgoff);
	case DRIFTHEAP_LAB_IMPORT_KEEP_FILE:
		return lab_mmap_from(buf, vma, page, LAB_VIA_FD);
	case DRIFTHEAP_LAB_IMPORT_WRONG_PGOFF:
		vma_set_file(vma, dmabuf->file);
		vma->vm_pgoff += 0x100000;
		return lab_mmap_from(buf, vma, page, LAB_VIA_FD);
	case DRIFTHEAP_LAB_IMPORT_SHADOW:
		return lab_mmap_from(buf, vma, page, LAB_VIA_SHADOW);
	case DRIFTHEAP_LAB_IMPORT_NODE:
		vma_set_file(vma, dmabuf->file);
		return lab_mmap_from(buf, vma, page, LAB_VIA_NODE);
	case DRIFTHEAP_LAB_IMPORT_BYPASS:
		return lab_mmap_from(buf, vma, page, LAB_VIA_BYPASS);
	default:
		return -EINVAL;
	}
}

static int lab_import_release(struct inode *inode, struct file *file)
{
	struct lab_import *import = file->private_data;

	dma_buf_put(import->dmabuf);
	lab_dealloc(import);
	return 0;
}

static const struct file_operations lab_import_fops = {
	.owner = THIS_MODULE,
	.mmap = lab_import_mmap,
	.release = lab_import_release,
};

/* A new descriptor in the calling process: the dma-buf's, or an importer's of it. */
long lab_importer_fd(struct lab *lab, struct driftheap_lab_step *step)
{
	struct lab_import *import;
	struct dma_buf *dmabuf = NULL;
	struct lab_buf *buf;
	int fd;

	mutex_lock(&lab->lock);
	buf = lab_buf_of(lab, step->obj);
	/* An importer's file wants an exporter of ours. */
	if (buf && !buf->released && (step->op == DRIFTHEAP_LAB_FD || !buf->theirs[0]) &&
	    lab_file_get(buf->dmabuf->file))
		dmabuf = buf->dmabuf;
	mutex_unlock(&lab->lock);
	if (!dmabuf)
		return -ENODEV;
	if (step->op == DRIFTHEAP_LAB_FD) {
		fd = dma_buf_fd(dmabuf, O_CLOEXEC);
		if (fd < 0)
			dma_buf_put(dmabuf);
	} else {
		import = lab_alloc(sizeof(*import));
		if (!import) {
			dma_buf_put(dmabuf);
			return -ENOMEM;
		}
		import->dmabuf = dmabuf;
		import->how = step->flags;
		fd = anon_inode_getfd("[driftheap_lab_importer]", &lab_import_fops, import,
				      O_RDWR | O_CLOEXEC);
		if (fd < 0) {
			dma_buf_put(dmabuf);
			lab_dealloc(import);
		}
	}
	if (fd < 0)
		return fd;
	step->value = fd;
	return 0;
}
