// SPDX-License-Identifier: GPL-2.0
/*
 * What an exporter does with a buffer: the steps of a move, a purge and a
 * revocation, the locks that it takes for them, and a look at it.
 */
#include <linux/fs.h>
#include <linux/highmem.h>
#include <linux/io.h>
#include <linux/version.h>

#include "lab.h"

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
	unmap_mapping_range(mapping, lab_mistake == LAB_ZAP_FINDS ? 0 : lab_zap_offset(buf),
			    size, 1);
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
	if (frame != LAB_NO_FRAME && !lab_has_frame(lab, frame))
		return -EINVAL;
	if (step->op == DRIFTHEAP_LAB_BIND) {
		buf->frame[step->page] = frame;
		lab_hold(buf, step->page, frame, LAB_NOW);
	} else if (step->op == DRIFTHEAP_LAB_SHADOW) {
		buf->shadow[step->page] = frame;
	} else {
		buf->next[step->page] = frame;
	}
	return 0;
}

/* A page, of which one end at least may be memory without struct page. */
static void lab_copy_frame(struct lab *lab, u32 to, u32 from)
{
	bool from_bar = lab_is_bar(lab, from), to_bar = lab_is_bar(lab, to);
	u64 word;
	u32 at;

	if (!from_bar && !to_bar) {
		copy_highpage(lab_page(lab, to), lab_page(lab, from));
	} else if (!to_bar) {
		memcpy_fromio(page_address(lab_page(lab, to)), lab_bar_at(from), PAGE_SIZE);
	} else if (!from_bar) {
		memcpy_toio(lab_bar_at(to), page_address(lab_page(lab, from)), PAGE_SIZE);
	} else {
		for (at = 0; at < PAGE_SIZE; at += sizeof(word)) {
			word = readq(lab_bar_at(from) + at);
			writeq(word, lab_bar_at(to) + at);
		}
	}
}

static long lab_copy(struct lab *lab, struct lab_buf *buf, u32 page)
{
	u32 from, to;

	if (page >= buf->pages)
		return -EINVAL;
	/* Where processes run free, there may be none to come from. */
	if (lab->pooled && buf->next[page] == LAB_NO_FRAME &&
	    (!lab_holds(buf, page, buf->old[page], LAB_OLD) ||
	     !lab_holds(buf, page, buf->frame[page], LAB_NOW)))
		return 0;
	if (buf->next[page] != LAB_NO_FRAME) {
		from = buf->frame[page];
		to = buf->next[page];
	} else {
		/* The buffer is its new frames already: a copy that runs by itself. */
		from = buf->old[page];
		to = buf->frame[page];
	}
	if (!lab_has_frame(lab, from) || !lab_has_frame(lab, to))
		return -ENOENT;
	if (lab_mistake != LAB_COPY_NOTHING)
		lab_copy_frame(lab, to, from);
	return 0;
}

static void lab_rebind(struct lab_buf *buf)
{
	unsigned int i;

	for (i = 0; i < buf->pages; i++) {
		if (buf->next[i] == LAB_NO_FRAME)
			continue;
		/* What was given back already is not given back once more. */
		if (!buf->lab->pooled || lab_holds(buf, i, buf->frame[i], LAB_NOW)) {
			buf->old[i] = buf->frame[i];
			lab_hold(buf, i, buf->old[i], LAB_OLD);
		}
		buf->frame[i] = buf->next[i];
		buf->next[i] = LAB_NO_FRAME;
		lab_hold(buf, i, buf->frame[i], LAB_NOW);
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
		if (step->flags & DRIFTHEAP_LAB_LOCK_TICKET)
			left = lab_lock_under_ticket(buf);
		else if (!dma_resv_trylock(buf->dmabuf->resv))
			left = -EDEADLK;
		if (left)
			return left;
		WRITE_ONCE(buf->locker, current);
		/* Whoever has it has a reference: between the steps of one that runs free, too. */
		buf->locker_refers = buf->lab->pooled && lab_file_get(buf->dmabuf->file);
		if ((step->flags & DRIFTHEAP_LAB_LOCK_LIVE) && buf->life != LAB_LIVE) {
			lab_unlock(buf);
			return -EINVAL;
		}
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

/*
 * LOCK for who waits: in the mutex's own queue, without the laboratory's lock.
 * Then it is tried again, with it, as any step is taken.
 */
long lab_wait_lock(struct lab *lab, struct driftheap_lab_step *step)
{
	struct dma_buf *dmabuf;
	struct lab_buf *buf;
	long ret;

	for (;;) {
		if (mutex_lock_killable(&lab->lock))
			return -EINTR;
		buf = lab_buf_of(lab, step->obj);
		ret = -EINVAL;
		if (buf && !buf->released)
			ret = lab_locked_step(buf, step);
		if (ret != -EDEADLK && ret != -EBUSY)
			break;
		dmabuf = buf->dmabuf;
		if (!lab_file_get(dmabuf->file)) {
			ret = -EINVAL;
			break;
		}
		mutex_unlock(&lab->lock);
		ret = dma_resv_lock_interruptible(dmabuf->resv, NULL);
		if (!ret)
			dma_resv_unlock(dmabuf->resv);
		dma_buf_put(dmabuf);
		if (ret)
			return ret;
	}
	mutex_unlock(&lab->lock);
	return ret;
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
	if (step->op == DRIFTHEAP_LAB_WHERE) {
		if (step->page >= buf->pages)
			return -EINVAL;
		step->value = buf->released ? LAB_NO_FRAME : buf->frame[step->page];
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
	case DRIFTHEAP_LAB_TAKE:
	case DRIFTHEAP_LAB_GIVE:
	case DRIFTHEAP_LAB_ABANDON:
		return lab_pooled_step(buf, step);
	default:
		return -EINVAL;
	}
}
