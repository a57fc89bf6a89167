// SPDX-License-Identifier: GPL-2.0
/*
 * Frames that are free, where processes run free: which one a page is given is
 * luck in a kernel, and here the one that was given back last, as the caller
 * expects it. In lockstep the caller says it, and none of this is used.
 */
#include <linux/highmem.h>

#include "lab.h"

/* What is known of a frame; NULL: there is no such one. */
static struct lab_frame *lab_known(struct lab *lab, u32 frame)
{
	return frame < DRIFTHEAP_LAB_FRAMES ? &lab->known[frame] : NULL;
}

/* Whether a page of a buffer has a frame, as that. */
bool lab_holds(struct lab_buf *buf, u32 page, u32 frame, enum lab_role role)
{
	struct lab_frame *known = lab_known(buf->lab, frame);

	return known && known->role == role && known->obj == buf->obj && known->page == page;
}

/* From now on a page of a buffer has it. */
void lab_hold(struct lab_buf *buf, u32 page, u32 frame, enum lab_role role)
{
	struct lab_frame *known = lab_known(buf->lab, frame);

	if (!known)
		return;
	known->role = role;
	known->obj = buf->obj;
	known->page = page;
}

static void lab_push(struct lab *lab, u32 frame)
{
	struct lab_frame *known = lab_known(lab, frame);
	struct lab_pool *pool;

	if (!known || known->role == LAB_FREE || known->pool >= LAB_POOLS)
		return;
	pool = &lab->pools[known->pool];
	known->role = LAB_FREE;
	pool->frames[pool->count++] = frame;
}

/*
 * A frame that a page gives back. What the page allocator gets is free with the
 * last reference to it, which the kernel counts; a carveout counts none.
 */
static void lab_give(struct lab_buf *buf, u32 page, u32 frame)
{
	struct lab_frame *known = lab_known(buf->lab, frame);
	struct page *behind = lab_page(buf->lab, frame);
	bool counts = behind && (buf->rules & DRIFTHEAP_LAB_COUNTED);

	if (!known || known->obj != buf->obj || known->page != page ||
	    known->role == LAB_NOBODY || known->role == LAB_FREE || known->role == LAB_ORPHAN)
		return;
	if (counts && known->pool != LAB_POOL_VRAM && lab_references(behind))
		known->role = LAB_ORPHAN;
	else
		lab_push(buf->lab, frame);
}

/* All that a buffer has. */
void lab_give_all(struct lab_buf *buf)
{
	unsigned int i;

	for (i = 0; i < buf->pages; i++) {
		lab_give(buf, i, buf->frame[i]);
		lab_give(buf, i, buf->next[i]);
		lab_give(buf, i, buf->old[i]);
		buf->frame[i] = LAB_NO_FRAME;
		buf->next[i] = LAB_NO_FRAME;
		buf->old[i] = LAB_NO_FRAME;
	}
}

/* What a move has left; before the move is complete, what the buffer goes on using. */
static void lab_give_left(struct lab_buf *buf)
{
	unsigned int i;

	for (i = 0; i < buf->pages; i++) {
		if (buf->old[i] != LAB_NO_FRAME) {
			lab_give(buf, i, buf->old[i]);
			buf->old[i] = LAB_NO_FRAME;
		} else if (buf->next[i] != LAB_NO_FRAME &&
			   lab_holds(buf, i, buf->frame[i], LAB_NOW)) {
			lab_give(buf, i, buf->frame[i]);
		}
	}
}

/* What a move that fails has taken. */
static void lab_abandon(struct lab_buf *buf)
{
	unsigned int i;

	for (i = 0; i < buf->pages; i++) {
		if (buf->next[i] == LAB_NO_FRAME)
			continue;
		lab_push(buf->lab, buf->next[i]);
		buf->next[i] = LAB_NO_FRAME;
	}
}

/* Frames to which there are no references any more. */
static void lab_reap(struct lab *lab)
{
	u32 i;

	for (i = 0; i < DRIFTHEAP_LAB_FRAMES; i++)
		if (lab->known[i].role == LAB_ORPHAN && !lab_references(lab_page(lab, i)))
			lab_push(lab, i);
}

/* A frame for each page, or none. */
long lab_take(struct lab_buf *buf, u32 number, enum lab_role role, u8 value)
{
	struct lab *lab = buf->lab;
	struct lab_pool *pool;
	unsigned int i;

	if (number >= LAB_POOLS)
		return -EINVAL;
	lab_reap(lab);
	pool = &lab->pools[number];
	if (pool->count < buf->pages)
		return -ENOMEM;
	for (i = 0; i < buf->pages; i++) {
		u32 frame = pool->frames[--pool->count];

		lab_fill_page(lab_page(lab, frame), value);
		lab_hold(buf, i, frame, role);
		if (role == LAB_NOW)
			buf->frame[i] = frame;
		else
			buf->next[i] = frame;
	}
	return 0;
}

/* POOL: processes run free from here on, and a frame is of this pool. */
long lab_pool_step(struct lab *lab, struct driftheap_lab_step *step)
{
	struct lab_frame *known = lab_known(lab, step->obj);

	if (!known || !lab_page(lab, step->obj) || step->page >= LAB_POOLS)
		return -EINVAL;
	lab->pooled = true;
	known->pool = step->page;
	if (step->flags & 1)
		lab_push(lab, step->obj);
	return 0;
}

/* A step that takes frames or gives them back. */
long lab_pooled_step(struct lab_buf *buf, struct driftheap_lab_step *step)
{
	if (!buf->lab->pooled)
		return -EINVAL;
	switch (step->op) {
	case DRIFTHEAP_LAB_TAKE:
		return lab_take(buf, step->page, LAB_NEXT, 0);
	case DRIFTHEAP_LAB_GIVE:
		if (step->flags & 1)
			lab_give_all(buf);
		else
			lab_give_left(buf);
		return 0;
	default:
		lab_abandon(buf);
		return 0;
	}
}

void lab_pools_reset(struct lab *lab)
{
	unsigned int i;

	lab->pooled = false;
	memset(lab->pools, 0, sizeof(lab->pools));
	memset(lab->known, 0, sizeof(lab->known));
	for (i = 0; i < DRIFTHEAP_LAB_FRAMES; i++)
		lab->known[i].pool = LAB_POOLS;
}
