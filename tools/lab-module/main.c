// SPDX-License-Identifier: GPL-2.0
/*
 * driftheap's laboratory: a dma-buf exporter, an importer and a device that do
 * one step of a litmus test at a time, with nothing but the kernel's own
 * functions. The schedule comes from outside, and so does which frame a page
 * is given; whatever the kernel decides, it decides here.
 *
 * It lets a process hold a dma_resv between two system calls and hand out stale
 * pages on purpose: load it in a virtual machine only.
 */
#include <linux/anon_inodes.h>
#include <linux/fs.h>
#include <linux/highmem.h>
#include <linux/log2.h>
#include <linux/miscdevice.h>
#include <linux/module.h>
#include <linux/platform_device.h>
#include <linux/slab.h>
#include <linux/uaccess.h>
#include <linux/version.h>

#include "lab.h"

unsigned int lab_mistake;
module_param_named(mistake, lab_mistake, uint, 0600);
MODULE_PARM_DESC(mistake, "do a step wrongly, to see that it is noticed (enum lab_mistake)");

static atomic_t lab_frames = ATOMIC_INIT(0);
static atomic_t lab_labs = ATOMIC_INIT(0);
static atomic_t lab_objects = ATOMIC_INIT(0);
static struct platform_device *lab_platform;
struct device *lab_device;

static int lab_count_get(char *buffer, const struct kernel_param *kp)
{
	return sysfs_emit(buffer, "%d\n", atomic_read(kp->arg));
}

static const struct kernel_param_ops lab_count_ops = { .get = lab_count_get };

module_param_cb(frames, &lab_count_ops, &lab_frames, 0400);
MODULE_PARM_DESC(frames, "pages that laboratories hold now");
module_param_cb(labs, &lab_count_ops, &lab_labs, 0400);
MODULE_PARM_DESC(labs, "laboratories that exist now");
module_param_cb(objects, &lab_count_ops, &lab_objects, 0400);
MODULE_PARM_DESC(objects, "what else the module has allocated now");

/* What this module allocates but for laboratories and frames; 0 when all is given back. */
void *lab_alloc(size_t size)
{
	void *object = kzalloc(size, GFP_KERNEL);

	if (object)
		atomic_inc(&lab_objects);
	return object;
}

/* An object that somebody else frees. */
void lab_object_gone(void)
{
	atomic_dec(&lab_objects);
}

void lab_dealloc(void *object)
{
	lab_object_gone();
	kfree(object);
}

struct lab *lab_get(struct lab *lab)
{
	kref_get(&lab->refs);
	return lab;
}

static void lab_free(struct kref *refs)
{
	struct lab *lab = container_of(refs, struct lab, refs);
	unsigned int i;

	for (i = 0; i < DRIFTHEAP_LAB_FRAMES; i++)
		put_page(lab->frames[i]);
	atomic_sub(DRIFTHEAP_LAB_FRAMES, &lab_frames);
	for (i = 0; i < 2 * DRIFTHEAP_LAB_BLOCKS; i++) {
		struct page *block = lab->blocks[i & 1][i / 2];

		if (!block)
			continue;
		__free_pages(block, LAB_BLOCK_ORDER);
		atomic_sub(LAB_BLOCK_PAGES, &lab_frames);
	}
	atomic_dec(&lab_labs);
	kvfree(lab);
	module_put(THIS_MODULE);
}

void lab_put(struct lab *lab)
{
	kref_put(&lab->refs, lab_free);
}

struct lab_buf *lab_buf_of(struct lab *lab, u32 obj)
{
	return obj < DRIFTHEAP_LAB_BUFS ? lab->bufs[obj] : NULL;
}

/* All frames in a row: frames with neighbouring numbers are one range of pfns. */
static int lab_frames_alloc(struct lab *lab)
{
	unsigned int order = ilog2(DRIFTHEAP_LAB_FRAMES);
	struct page *pages = alloc_pages(GFP_USER | __GFP_ZERO, order);
	unsigned int i;

	BUILD_BUG_ON_NOT_POWER_OF_2(DRIFTHEAP_LAB_FRAMES);
	if (!pages)
		return -ENOMEM;
	split_page(pages, order);
	for (i = 0; i < DRIFTHEAP_LAB_FRAMES; i++)
		lab->frames[i] = pages + i;
	atomic_add(DRIFTHEAP_LAB_FRAMES, &lab_frames);
	return 0;
}

/* The page of a frame; NULL: there is no such frame, or it has none. */
struct page *lab_page(struct lab *lab, u32 frame)
{
	struct page **block;

	if (lab_is_bar(lab, frame))
		return NULL;
	if (frame < DRIFTHEAP_LAB_FRAMES && lab->foreign[frame])
		return lab->foreign[frame];
	if (!lab->per_block)
		return frame < DRIFTHEAP_LAB_FRAMES ? lab->frames[frame] : NULL;
	if (frame / lab->per_block >= DRIFTHEAP_LAB_BLOCKS)
		return NULL;
	block = &lab->blocks[lab->loose][frame / lab->per_block];
	if (!*block) {
		*block = alloc_pages(GFP_USER | __GFP_ZERO | (lab->loose ? 0 : __GFP_COMP),
				     LAB_BLOCK_ORDER);
		if (!*block)
			return NULL;
		atomic_add(LAB_BLOCK_PAGES, &lab_frames);
	}
	return *block + frame % lab->per_block * lab->stride;
}

bool lab_has_frame(struct lab *lab, u32 frame)
{
	return lab_is_bar(lab, frame) || lab_page(lab, frame);
}

/* The pfn of a frame that there is. */
unsigned long lab_frame_pfn(struct lab *lab, u32 frame)
{
	return lab_is_bar(lab, frame) ? lab_bar_pfn(frame) : page_to_pfn(lab_page(lab, frame));
}

/* The frame that a pfn is; LAB_NO_FRAME: none of this laboratory. */
u32 lab_frame_of(struct lab *lab, unsigned long pfn)
{
	unsigned long frame = pfn - page_to_pfn(lab->frames[0]);
	u32 i;

	i = lab_bar_frame(lab, pfn);
	if (i != LAB_NO_FRAME)
		return i;
	for (i = 0; i < DRIFTHEAP_LAB_FRAMES; i++)
		if (lab->foreign[i] && page_to_pfn(lab->foreign[i]) == pfn)
			return i;
	if (!lab->per_block)
		return frame < DRIFTHEAP_LAB_FRAMES ? frame : LAB_NO_FRAME;
	for (i = 0; i < DRIFTHEAP_LAB_BLOCKS; i++) {
		struct page *block = lab->blocks[lab->loose][i];

		if (!block)
			continue;
		frame = pfn - page_to_pfn(block);
		if (frame < LAB_BLOCK_PAGES)
			return i * lab->per_block + frame / lab->stride;
	}
	return LAB_NO_FRAME;
}

void lab_fill_page(struct page *page, u8 value)
{
	void *at = kmap_local_page(page);

	memset(at, value, PAGE_SIZE);
	kunmap_local(at);
}

static long lab_fill(struct lab *lab, struct driftheap_lab_step *step)
{
	struct page *page = lab_page(lab, step->obj);

	if (lab_is_bar(lab, step->obj)) {
		memset_io(lab_bar_at(step->obj), (u8)step->value, PAGE_SIZE);
		return 0;
	}
	if (!page)
		return -EINVAL;
	lab_fill_page(page, step->value);
	return 0;
}

/*
 * References but the laboratory's own. FOLL_PIN counts GUP_PIN_COUNTING_BIAS
 * for each pin of a small page.
 */
u32 lab_references(struct page *page)
{
	u32 count = page_count(page);

	/* A page of a block that is not compound has no count but the first one's. */
	if (!count)
		return 0;
	count--;
	/* A huge page counts each pin once, and all its frames' together. */
	if (PageCompound(page))
		return count;
	return count % GUP_PIN_COUNTING_BIAS + count / GUP_PIN_COUNTING_BIAS;
}

/* Its content; who maps it or has its number is counted nowhere. */
static long lab_look_at_bar(struct driftheap_lab_step *step)
{
	u8 *copy = lab_alloc(PAGE_SIZE);

	if (!copy)
		return -ENOMEM;
	memcpy_fromio(copy, lab_bar_at(step->obj), PAGE_SIZE);
	step->value = copy[0] | (u64)!!memchr_inv(copy, copy[0], PAGE_SIZE) << 8;
	lab_dealloc(copy);
	return 0;
}

static long lab_look(struct lab *lab, struct driftheap_lab_step *step)
{
	struct page *page = lab_page(lab, step->obj);
	u8 *at, first;
	bool torn;

	if (lab_is_bar(lab, step->obj))
		return lab_look_at_bar(step);
	if (!page)
		return -EINVAL;
	at = kmap_local_page(page);
	first = at[0];
	torn = !!memchr_inv(at, first, PAGE_SIZE);
	kunmap_local(at);
	step->value = first | (u64)torn << 8 | (u64)lab_references(page) << 16;
	return 0;
}

static void lab_reset(struct lab *lab)
{
	unsigned int i;

	lab_mmap_unlock_all(lab);
	/* Who waits for these locks may hold what the rest of this needs. */
	for (i = 0; i < DRIFTHEAP_LAB_BUFS; i++)
		if (lab->bufs[i] && lab->bufs[i]->locker)
			lab_unlock(lab->bufs[i]);
	memset(lab->tickets, 0, sizeof(lab->tickets));
	lab_gup_reset(lab);
	lab_importer_reset(lab);
	lab->warned = false;
	memset(lab->foreign, 0, sizeof(lab->foreign));
	lab_bar_reset(lab);
	lab_pools_reset(lab);
	for (i = 0; i < DRIFTHEAP_LAB_BUFS; i++) {
		struct lab_buf *buf = lab->bufs[i];

		lab->bufs[i] = NULL;
		if (buf)
			lab_buf_forget(buf);
	}
}

static long lab_do(struct lab *lab, struct driftheap_lab_step *step)
{
	long ret = 0;

	switch (step->op) {
	case DRIFTHEAP_LAB_FD:
	case DRIFTHEAP_LAB_IMPORTER_FD:
		return lab_importer_fd(lab, step);
	case DRIFTHEAP_LAB_FAULT:
	case DRIFTHEAP_LAB_GUP:
	case DRIFTHEAP_LAB_PFN:
	case DRIFTHEAP_LAB_PTE:
		return lab_gup_step(lab, step);
	case DRIFTHEAP_LAB_LOCK:
		if (step->flags & DRIFTHEAP_LAB_LOCK_WAITS)
			return lab_wait_lock(lab, step);
		break;
	default:
		break;
	}
	if (mutex_lock_killable(&lab->lock))
		return -EINTR;
	switch (step->op) {
	case DRIFTHEAP_LAB_RESET:
		if (step->page > DRIFTHEAP_LAB_PAGES ||
		    (step->page && !is_power_of_2(step->page))) {
			ret = -EINVAL;
			break;
		}
		lab_reset(lab);
		lab->per_block = step->page;
		lab->loose = step->page && (step->flags & 1);
		lab->stride = step->page ? LAB_BLOCK_PAGES / step->page : 1;
		break;
	case DRIFTHEAP_LAB_FILL:
		ret = lab_fill(lab, step);
		break;
	case DRIFTHEAP_LAB_FRAME:
		ret = lab_look(lab, step);
		break;
	case DRIFTHEAP_LAB_EXPORT:
		ret = lab_export(lab, step);
		break;
	case DRIFTHEAP_LAB_ADOPT:
		ret = lab_adopt(lab, step);
		break;
	case DRIFTHEAP_LAB_ATTACH ... DRIFTHEAP_LAB_SIGNAL:
	case DRIFTHEAP_LAB_FLUSH_TLB:
		ret = lab_importer_step(lab, step);
		break;
	case DRIFTHEAP_LAB_GUP_PUT:
	case DRIFTHEAP_LAB_DMA_PIN ... DRIFTHEAP_LAB_DMA_READ:
	case DRIFTHEAP_LAB_PINNED:
		ret = lab_gup_step(lab, step);
		break;
	case DRIFTHEAP_LAB_MMAP_LOCK:
	case DRIFTHEAP_LAB_MMAP_UNLOCK:
		ret = lab_mmap_lock_step(lab, step);
		break;
	case DRIFTHEAP_LAB_BAR:
		ret = lab_bar_step(lab, step);
		break;
	case DRIFTHEAP_LAB_POOL:
		ret = lab_pool_step(lab, step);
		break;
	case DRIFTHEAP_LAB_TICKET:
		ret = lab_ticket_step(lab, step);
		break;
	default:
		ret = lab_exporter_step(lab, step);
		break;
	}
	mutex_unlock(&lab->lock);
	return ret;
}

static long lab_ioctl(struct file *file, unsigned int cmd, unsigned long arg)
{
	struct driftheap_lab_step step;
	long ret;

	if (cmd != DRIFTHEAP_LAB_STEP)
		return -ENOTTY;
	if (copy_from_user(&step, (void __user *)arg, sizeof(step)))
		return -EFAULT;
	ret = lab_do(file->private_data, &step);
	if (!ret && copy_to_user((void __user *)arg, &step, sizeof(step)))
		return -EFAULT;
	return ret;
}

static int lab_open(struct inode *inode, struct file *file)
{
	struct lab *lab = kvzalloc(sizeof(*lab), GFP_KERNEL);

	if (!lab)
		return -ENOMEM;
	if (lab_frames_alloc(lab)) {
		kvfree(lab);
		return -ENOMEM;
	}
	kref_init(&lab->refs);
	lab->stride = 1;
	lab_pools_reset(lab);
	mutex_init(&lab->lock);
	spin_lock_init(&lab->vma_lock);
	mutex_init(&lab->watch_lock);
	spin_lock_init(&lab->pin_lock);
	INIT_DELAYED_WORK(&lab->mm_watch, lab_mmap_watch);
	lab->fence_context = dma_fence_context_alloc(1);
	/* Buffers outlive the file while somebody maps them. */
	__module_get(THIS_MODULE);
	atomic_inc(&lab_labs);
	file->private_data = lab;
	return 0;
}

static int lab_release(struct inode *inode, struct file *file)
{
	struct lab *lab = file->private_data;

	mutex_lock(&lab->lock);
	lab_reset(lab);
	mutex_unlock(&lab->lock);
	cancel_delayed_work_sync(&lab->mm_watch);
	lab_put(lab);
	return 0;
}

static const struct file_operations lab_fops = {
	.owner = THIS_MODULE,
	.open = lab_open,
	.release = lab_release,
	.unlocked_ioctl = lab_ioctl,
};

static struct miscdevice lab_misc = {
	.minor = MISC_DYNAMIC_MINOR,
	.name = "driftheap_lab",
	.fops = &lab_fops,
};

static int __init lab_init(void)
{
	int ret;

	lab_platform = platform_device_register_simple("driftheap_lab", -1, NULL, 0);
	if (IS_ERR(lab_platform))
		return PTR_ERR(lab_platform);
	lab_device = &lab_platform->dev;
	ret = lab_edu_init();
	if (ret)
		goto no_driver;
	ret = lab_bar_init();
	if (ret)
		goto no_bar;
	ret = misc_register(&lab_misc);
	if (ret)
		goto no_file;
	return 0;

no_file:
	lab_bar_exit();
no_bar:
	lab_edu_exit();
no_driver:
	platform_device_unregister(lab_platform);
	return ret;
}

static void __exit lab_exit(void)
{
	misc_deregister(&lab_misc);
	lab_bar_exit();
	lab_edu_exit();
	platform_device_unregister(lab_platform);
	/* What dma_fence_put() left to RCU is freed by code of ours no more, but its ops are ours. */
	rcu_barrier();
}

module_init(lab_init);
module_exit(lab_exit);

MODULE_DESCRIPTION("driftheap's laboratory: one step of a litmus test at a time");
MODULE_LICENSE("GPL");
#if LINUX_VERSION_CODE < KERNEL_VERSION(6, 13, 0)
MODULE_IMPORT_NS(DMA_BUF);
#else
MODULE_IMPORT_NS("DMA_BUF");
#endif
