// SPDX-License-Identifier: GPL-2.0
/*
 * mmap_locks that are held from one step to the next.
 */
#include <linux/mm.h>
#include <linux/sched/mm.h>
#include <linux/sched/signal.h>
#include <linux/sched/task.h>
#include <linux/workqueue.h>

#include "lab.h"

/* How often the holders are looked at. */
#define LAB_WATCH_DELAY msecs_to_jiffies(20)

static void lab_mmap_unlock(struct lab_mm *held)
{
	if (!held->mm)
		return;
	if (held->write)
		up_write(&held->mm->mmap_lock);
	else
		mmap_read_unlock(held->mm);
	mmdrop(held->mm);
	put_task_struct(held->task);
	held->mm = NULL;
}

/*
 * Who is killed needs its mmap_lock to end, and would have it given back when it
 * closes its files, which comes later (do_exit()). So it is given back as soon as
 * the end has begun.
 */
void lab_mmap_watch(struct work_struct *work)
{
	struct lab *lab = container_of(to_delayed_work(work), struct lab, mm_watch);
	bool held = true;
	unsigned int i;

	if (mutex_trylock(&lab->lock)) {
		held = false;
		for (i = 0; i < LAB_MMS; i++) {
			struct lab_mm *mm = &lab->mms[i];

			if (!mm->mm)
				continue;
			if (fatal_signal_pending(mm->task) ||
			    (READ_ONCE(mm->task->flags) & PF_EXITING))
				lab_mmap_unlock(mm);
			else
				held = true;
		}
		mutex_unlock(&lab->lock);
	}
	if (held)
		schedule_delayed_work(&lab->mm_watch, LAB_WATCH_DELAY);
}

void lab_mmap_unlock_all(struct lab *lab)
{
	unsigned int i;

	for (i = 0; i < LAB_MMS; i++)
		lab_mmap_unlock(&lab->mms[i]);
}

/* A driver's thread takes an mmap_lock and goes on with it: the caller's, whose mm it is. */
long lab_mmap_lock_step(struct lab *lab, struct driftheap_lab_step *step)
{
	bool write = step->flags & 1, all = step->flags & 2;
	bool takes = step->op == DRIFTHEAP_LAB_MMAP_LOCK;
	struct mm_struct *mm = current->mm;
	struct lab_mm *found = NULL;
	unsigned int i;

	if (step->obj || step->flags > 2)
		return -EINVAL;
	if (!takes && all) {
		lab_mmap_unlock_all(lab);
		return 0;
	}
	for (i = 0; i < LAB_MMS && !found; i++)
		if (takes ? !lab->mms[i].mm : lab->mms[i].mm == mm && lab->mms[i].write == write)
			found = &lab->mms[i];
	if (!found)
		return takes ? -ENOMEM : -EPERM;
	if (!takes) {
		lab_mmap_unlock(found);
		return 0;
	}
	if (!(write ? down_write_trylock(&mm->mmap_lock) : mmap_read_trylock(mm)))
		return -EDEADLK;
	mmgrab(mm);
	found->task = get_task_struct(current);
	found->mm = mm;
	found->write = write;
	schedule_delayed_work(&lab->mm_watch, LAB_WATCH_DELAY);
	return 0;
}
