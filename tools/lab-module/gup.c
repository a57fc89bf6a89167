// SPDX-License-Identifier: GPL-2.0
/*
 * get_user_pages, follow_pfnmap, page tables, and a device that reaches memory
 * by its address, half a transfer at a time.
 */
#include <linux/dma-mapping.h>
#include <linux/highmem.h>
#include <linux/io.h>
#include <linux/mm.h>
#include <linux/mmu_notifier.h>
#include <linux/pgtable.h>
#include <linux/sched/mm.h>

#include "lab.h"

/* The last argument went in 6.5. */
#if LINUX_VERSION_CODE < KERNEL_VERSION(6, 5, 0)
#define lab_get_user_pages(addr, foll, page) get_user_pages(addr, 1, foll, page, NULL)
#define lab_pin_user_pages(addr, foll, page) pin_user_pages(addr, 1, foll, page, NULL)
#else
#define lab_get_user_pages(addr, foll, page) get_user_pages(addr, 1, foll, page)
#define lab_pin_user_pages(addr, foll, page) pin_user_pages(addr, 1, foll, page)
#endif

/* What a device writes where nothing should be. */
#define LAB_STRAY 0xee

/* What get_user_pages or an access would have done before it looks at the entry again. */
static long lab_handle_fault(struct driftheap_lab_step *step)
{
	struct mm_struct *mm = current->mm;
	unsigned int flags = 0;
	struct vm_area_struct *vma;
	vm_fault_t fault;

	if (step->flags & 1)
		flags |= FAULT_FLAG_WRITE;
	if (step->flags & 2)
		flags |= FAULT_FLAG_UNSHARE;
	mmap_read_lock(mm);
	vma = vma_lookup(mm, step->addr);
	fault = vma ? handle_mm_fault(vma, step->addr, flags, NULL) : VM_FAULT_SIGSEGV;
	mmap_read_unlock(mm);
	if (fault & VM_FAULT_OOM)
		return -ENOMEM;
	if (fault & VM_FAULT_SIGSEGV)
		return -EACCES;
	return fault & VM_FAULT_ERROR ? -EFAULT : 0;
}

static unsigned int lab_foll(u32 flags)
{
	unsigned int foll = 0;

	if (flags & DRIFTHEAP_LAB_FOLL_WRITE)
		foll |= FOLL_WRITE;
	if (flags & DRIFTHEAP_LAB_FOLL_FORCE)
		foll |= FOLL_FORCE;
	if (flags & DRIFTHEAP_LAB_FOLL_LONGTERM)
		foll |= FOLL_LONGTERM;
	if (flags & DRIFTHEAP_LAB_FOLL_NOFAULT)
		foll |= FOLL_NOFAULT;
	return foll;
}

static int lab_gup_call(unsigned long addr, u32 flags, struct page **page)
{
	unsigned int foll = lab_foll(flags);
	int got;

	if (flags & DRIFTHEAP_LAB_FOLL_FAST)
		return flags & DRIFTHEAP_LAB_FOLL_GET ?
			       get_user_pages_fast(addr, 1, foll, page) :
			       pin_user_pages_fast(addr, 1, foll, page);
	mmap_read_lock(current->mm);
	if (flags & DRIFTHEAP_LAB_FOLL_GET)
		got = lab_get_user_pages(addr, foll, page);
	else
		got = lab_pin_user_pages(addr, foll, page);
	mmap_read_unlock(current->mm);
	return got;
}

/* Under pin_lock: the page goes back. */
static void lab_pin_put(struct lab_pin *pin)
{
	if (pin->held && pin->counted && lab_mistake != LAB_PUT_NOTHING) {
		if (pin->get)
			put_page(pin->page);
		else
			unpin_user_page(pin->page);
	}
	pin->held = false;
	pin->invalid = false;
}

/* What is there changes: a driver lets go, and looks again when it needs the page. */
static bool lab_invalidate(struct mmu_interval_notifier *notifier,
			   const struct mmu_notifier_range *range, unsigned long seq)
{
	struct lab_pin *pin = container_of(notifier, struct lab_pin, notifier);

	if (lab_mistake == LAB_NOTIFIER_DEAF)
		return true;
	spin_lock(&pin->lab->pin_lock);
	mmu_interval_set_seq(notifier, seq);
	if (pin->held) {
		lab_pin_put(pin);
		pin->invalid = true;
	}
	spin_unlock(&pin->lab->pin_lock);
	return true;
}

static const struct mmu_interval_notifier_ops lab_notifier_ops = {
	.invalidate = lab_invalidate,
};

/* Under watch_lock. */
static void lab_unwatch(struct lab_pin *pin)
{
	if (pin->watched)
		mmu_interval_notifier_remove(&pin->notifier);
	pin->watched = false;
}

/* From now on the pin is told of changes at an address of this process. */
static int lab_watch(struct lab *lab, struct lab_pin *pin, unsigned long addr)
{
	int ret = 0;

	mutex_lock(&lab->watch_lock);
	if (!pin->watched || pin->addr != addr || pin->notifier.mm != current->mm) {
		lab_unwatch(pin);
		pin->lab = lab;
		pin->addr = addr;
		ret = mmu_interval_notifier_insert(&pin->notifier, current->mm, addr, PAGE_SIZE,
						   &lab_notifier_ops);
		pin->watched = !ret;
	}
	mutex_unlock(&lab->watch_lock);
	return ret;
}

static void lab_pin_drop(struct lab *lab, struct lab_pin *pin)
{
	mutex_lock(&lab->watch_lock);
	lab_unwatch(pin);
	mutex_unlock(&lab->watch_lock);
	spin_lock(&lab->pin_lock);
	lab_pin_put(pin);
	spin_unlock(&lab->pin_lock);
}

/*
 * What a lookup has found; without a page, the pin has none any more. False: what
 * was found has changed meanwhile.
 */
static bool lab_pin_set(struct lab *lab, struct lab_pin *pin, const struct lab_pin *found,
			unsigned long seq, bool watches)
{
	bool valid;

	spin_lock(&lab->pin_lock);
	lab_pin_put(pin);
	pin->page = found->page;
	pin->pfn = found->pfn;
	pin->get = found->get;
	pin->counted = found->counted;
	pin->held = found->held;
	valid = !watches || !mmu_interval_read_retry(&pin->notifier, seq);
	if (!valid)
		lab_pin_put(pin);
	spin_unlock(&lab->pin_lock);
	return valid;
}

static long lab_gup(struct lab *lab, struct driftheap_lab_step *step)
{
	bool watches = step->flags & DRIFTHEAP_LAB_FOLL_WATCH;
	struct lab_pin found = {};
	unsigned long seq = 0;
	struct lab_pin *pin;
	int got;

	if (step->obj >= DRIFTHEAP_LAB_PINS || (step->addr & ~PAGE_MASK))
		return -EINVAL;
	if ((step->flags & DRIFTHEAP_LAB_FOLL_GET) && (step->flags & DRIFTHEAP_LAB_FOLL_LONGTERM))
		return -EINVAL;
	if (step->flags & DRIFTHEAP_LAB_FOLL_PROBE) {
		got = get_user_pages_fast_only(step->addr, 1,
					       lab_foll(step->flags) & FOLL_WRITE, &found.page);
		step->value = got == 1;
		if (got == 1)
			put_page(found.page);
		return 0;
	}
	pin = &lab->pins[step->obj];
	if (watches) {
		got = lab_watch(lab, pin, step->addr);
		if (got)
			return got;
		seq = mmu_interval_read_begin(&pin->notifier);
	}
	got = lab_gup_call(step->addr, step->flags, &found.page);
	if (got == 1) {
		found.pfn = page_to_pfn(found.page);
		found.get = step->flags & DRIFTHEAP_LAB_FOLL_GET;
		found.counted = true;
		found.held = true;
		step->value = (u64)lab_frame_of(lab, found.pfn) << 32;
	}
	if (!lab_pin_set(lab, pin, &found, seq, watches))
		return -EAGAIN;
	if (got == 1)
		return 0;
	return got < 0 ? got : -EFAULT;
}

/* What was looked up. */
struct lab_found {
	unsigned long pfn;
	bool writable;
	bool special;
};

/* What is mapped at an address, as drivers look it up; under mmap_lock. */
static int lab_look_up(unsigned long addr, struct lab_found *found)
{
	struct vm_area_struct *vma = vma_lookup(current->mm, addr);
#if LINUX_VERSION_CODE < KERNEL_VERSION(6, 12, 0)
	return vma ? follow_pfn(vma, addr, &found->pfn) : -EINVAL;
#else
	struct follow_pfnmap_args args = { .vma = vma, .address = addr };
	int ret = vma ? follow_pfnmap_start(&args) : -EINVAL;

	if (ret)
		return ret;
	found->pfn = args.pfn;
	found->writable = args.writable;
	found->special = args.special;
	follow_pfnmap_end(&args);
	return 0;
#endif
}

/*
 * As vfio's follow_fault_pfn() does where there is no entry; under mmap_lock.
 * ENXIO: nor would there be one.
 */
static int lab_fault_in(unsigned long addr, bool write)
{
	struct vm_area_struct *vma = vma_lookup(current->mm, addr);
	vm_fault_t fault;

	if (!vma || !(vma->vm_flags & (VM_IO | VM_PFNMAP)))
		return -ENXIO;
	fault = handle_mm_fault(vma, addr, write ? FAULT_FLAG_WRITE : 0, NULL);
	return fault & VM_FAULT_ERROR ? -EFAULT : 0;
}

/* Looks up, and faults in between where it is to. */
static int lab_follow(struct driftheap_lab_step *step, struct lab_found *found)
{
	bool faults = step->flags & DRIFTHEAP_LAB_FOLL_FAULTS;

	for (;;) {
		int fault = -ENXIO, ret;

		mmap_read_lock(current->mm);
		ret = lab_look_up(step->addr, found);
		if (ret == -EINVAL && faults)
			fault = lab_fault_in(step->addr,
					     step->flags & DRIFTHEAP_LAB_FOLL_WRITE);
		mmap_read_unlock(current->mm);
		if (fault)
			return fault == -EFAULT ? fault : ret;
		if (fatal_signal_pending(current))
			return -EINTR;
	}
}

static long lab_pfn(struct lab *lab, struct driftheap_lab_step *step)
{
	bool watches = step->flags & DRIFTHEAP_LAB_FOLL_WATCH;
	struct lab_found entry = {};
	struct lab_pin found = {};
	unsigned long seq = 0;
	struct lab_pin *pin;
	int ret;

	if (step->obj >= DRIFTHEAP_LAB_PINS || (step->addr & ~PAGE_MASK))
		return -EINVAL;
	pin = &lab->pins[step->obj];
	if (watches) {
		ret = lab_watch(lab, pin, step->addr);
		if (ret)
			return ret;
		seq = mmu_interval_read_begin(&pin->notifier);
	}
	ret = lab_follow(step, &entry);
	/* What was proposed for follow_pfn(): not what vm_normal_page() finds a page for. */
	if (!ret && (step->flags & DRIFTHEAP_LAB_FOLL_NO_PAGE) && !entry.special)
		ret = -EINVAL;
	if (!ret) {
		found.pfn = entry.pfn;
		found.held = true;
		step->value = (u64)lab_frame_of(lab, entry.pfn) << 32 | entry.writable;
	}
	if (!lab_pin_set(lab, pin, &found, seq, watches))
		return -EAGAIN;
	return ret;
}

static long lab_pin_look(struct lab *lab, struct driftheap_lab_step *step)
{
	struct lab_pin *pin;

	if (step->obj >= DRIFTHEAP_LAB_PINS)
		return -EINVAL;
	pin = &lab->pins[step->obj];
	step->value = pin->held | pin->invalid << 1;
	return 0;
}

/* What the fast path of get_user_pages does not take a huge entry's page for. */
#ifdef CONFIG_ARCH_HAS_PTE_DEVMAP
#define LAB_PMD_MARKS (_PAGE_SPECIAL | _PAGE_DEVMAP)
#else
#define LAB_PMD_MARKS _PAGE_SPECIAL
#endif

/* Whether a transfer that has begun goes to a page. */
static bool lab_flown(struct lab *lab, unsigned long pfn)
{
	unsigned int i;

	for (i = 0; i < DRIFTHEAP_LAB_FLIGHTS; i++)
		if (lab->flights[i].busy && PHYS_PFN(lab_bus_phys(lab->flights[i].bus)) == pfn)
			return true;
	return false;
}

/* The entry of an address; 0 where there is none. */
static u64 lab_entry(struct lab *lab, unsigned long addr)
{
	pgd_t *pgd = pgd_offset(current->mm, addr);
	unsigned long pfn;
	u64 value = DRIFTHEAP_LAB_PTE_PRESENT;
	p4d_t *p4d;
	pud_t *pud;
	pmd_t *pmd;
	pte_t pte;

	if (pgd_none(*pgd) || pgd_bad(*pgd))
		return 0;
	p4d = p4d_offset(pgd, addr);
	if (p4d_none(*p4d) || p4d_bad(*p4d))
		return 0;
	pud = pud_offset(p4d, addr);
	if (pud_none(*pud) || pud_bad(*pud))
		return 0;
	pmd = pmd_offset(pud, addr);
	if (pmd_none(*pmd))
		return 0;
	if (pmd_leaf(*pmd)) {
		pfn = pmd_pfn(*pmd) + PFN_DOWN(addr & ~PMD_MASK);
		if (pmd_write(*pmd))
			value |= DRIFTHEAP_LAB_PTE_WRITE;
		if (pmd_val(*pmd) & LAB_PMD_MARKS)
			value |= DRIFTHEAP_LAB_PTE_SPECIAL;
		value |= DRIFTHEAP_LAB_PTE_HUGE;
		return value | (u64)lab_frame_of(lab, pfn) << 32;
	}
	if (pmd_bad(*pmd))
		return 0;
	pte = READ_ONCE(*pte_offset_kernel(pmd, addr));
	if (!pte_present(pte))
		return 0;
	pfn = pte_pfn(pte);
	if (pte_write(pte))
		value |= DRIFTHEAP_LAB_PTE_WRITE;
	if (pte_special(pte))
		value |= DRIFTHEAP_LAB_PTE_SPECIAL;
	if (is_zero_pfn(pfn))
		value |= DRIFTHEAP_LAB_PTE_ZERO;
	if (lab_flown(lab, pfn))
		value |= DRIFTHEAP_LAB_PTE_FLIGHT;
	return value | (u64)lab_frame_of(lab, pfn) << 32;
}

/* Where a device's transfer goes; the address is taken as it is now. */
static long lab_flight(struct lab *lab, struct driftheap_lab_step *step)
{
	struct lab_flight flight = { .busy = true };
	struct lab_pin *pin;
	phys_addr_t phys;

	if (step->obj >= DRIFTHEAP_LAB_FLIGHTS || lab->flights[step->obj].mapped)
		return -EINVAL;
	if (step->op == DRIFTHEAP_LAB_DMA_PIN) {
		if (step->page >= DRIFTHEAP_LAB_PINS)
			return -EINVAL;
		/* A driver takes the page again first. */
		if (lab->pooled && lab->pins[step->page].invalid)
			return -EAGAIN;
		if (!lab->pins[step->page].held)
			return -EINVAL;
		pin = &lab->pins[step->page];
		flight.bus = PFN_PHYS(pin->pfn);
		/* Who has the page maps it. Who has its number takes that for an address. */
		if (pin->counted && lab_has_edu()) {
			flight.bus = dma_map_page(lab_dma_device(), pin->page, 0, PAGE_SIZE,
						  DMA_BIDIRECTIONAL);
			if (dma_mapping_error(lab_dma_device(), flight.bus))
				return -ENOMEM;
			flight.mapped = true;
		}
	} else {
		struct lab_sg *sg;

		if (step->page >= DRIFTHEAP_LAB_SGS || step->value >= DRIFTHEAP_LAB_PAGES ||
		    !lab->sgs[step->page].addr[step->value])
			return -EINVAL;
		sg = &lab->sgs[step->page];
		/* A driver maps it again first. */
		if ((step->flags & DRIFTHEAP_LAB_SG_VALID) && sg->invalid)
			return -EAGAIN;
		flight.bus = sg->addr[step->value];
		if (sg->has_tlb && sg->tlb[step->value])
			flight.bus = sg->tlb[step->value];
		else if (sg->has_tlb && !sg->sgt)
			return -EFAULT;
	}
	phys = lab_bus_phys(flight.bus);
	if (!phys) {
		/* The IOMMU's table has nothing there. The device tries: what it may remember is seen. */
		long ret = lab_edu_write(flight.bus, LAB_STRAY, 1);

		return ret ? ret : -EFAULT;
	}
	lab->flights[step->obj] = flight;
	step->value = (u64)lab_frame_of(lab, PHYS_PFN(phys)) << 32;
	return 0;
}

static void lab_land(struct lab_flight *flight)
{
	if (flight->mapped)
		dma_unmap_page(lab_dma_device(), flight->bus, PAGE_SIZE, DMA_BIDIRECTIONAL);
	memset(flight, 0, sizeof(*flight));
}

static long lab_transfer(struct lab *lab, struct driftheap_lab_step *step)
{
	u8 value = step->value + (lab_mistake == LAB_DMA_WRONG);
	bool writes = step->op == DRIFTHEAP_LAB_DMA_WRITE;
	struct lab_flight *flight;
	u8 *page = NULL, *at;
	long ret = 0;
	u32 bar;

	if (step->obj >= DRIFTHEAP_LAB_FLIGHTS || !lab->flights[step->obj].busy)
		return -EINVAL;
	flight = &lab->flights[step->obj];
	bar = lab_bar_frame(lab, PHYS_PFN(flight->bus));
	if (lab_has_edu() || bar != LAB_NO_FRAME) {
		page = lab_alloc(PAGE_SIZE);
		if (!page)
			return -ENOMEM;
		at = page;
	}
	if (lab_has_edu()) {
		ret = writes ? lab_edu_write(flight->bus, value, 2) : lab_edu_read(flight->bus, at);
	} else if (bar != LAB_NO_FRAME) {
		if (writes)
			memset_io(lab_bar_at(bar), value, PAGE_SIZE);
		else
			memcpy_fromio(at, lab_bar_at(bar), PAGE_SIZE);
	} else {
		at = kmap_local_page(pfn_to_page(PHYS_PFN(flight->bus)));
		if (writes)
			memset(at, value, PAGE_SIZE);
	}
	if (!writes && !ret) {
		step->value = at[0];
		if (memchr_inv(at, at[0], PAGE_SIZE))
			step->value |= 1ULL << 32;
	}
	if (page)
		lab_dealloc(page);
	else
		kunmap_local(at);
	lab_land(flight);
	return ret;
}

/* Called with the laboratory's lock, but for FAULT, GUP, PFN and PTE. */
long lab_gup_step(struct lab *lab, struct driftheap_lab_step *step)
{
	bool locked;

	switch (step->op) {
	case DRIFTHEAP_LAB_FAULT:
		return lab_handle_fault(step);
	case DRIFTHEAP_LAB_GUP:
		return lab_gup(lab, step);
	case DRIFTHEAP_LAB_PFN:
		return lab_pfn(lab, step);
	case DRIFTHEAP_LAB_PTE:
		/* A step may have it for writing; then nobody else changes anything. */
		locked = mmap_read_trylock(current->mm);
		step->value = lab_entry(lab, step->addr);
		if (locked)
			mmap_read_unlock(current->mm);
		return 0;
	case DRIFTHEAP_LAB_GUP_PUT:
		if (step->obj >= DRIFTHEAP_LAB_PINS ||
		    !(lab->pins[step->obj].held || lab->pins[step->obj].invalid))
			return -EINVAL;
		lab_pin_drop(lab, &lab->pins[step->obj]);
		return 0;
	case DRIFTHEAP_LAB_PINNED:
		return lab_pin_look(lab, step);
	case DRIFTHEAP_LAB_DMA_PIN:
	case DRIFTHEAP_LAB_DMA_SG:
		return lab_flight(lab, step);
	default:
		return lab_transfer(lab, step);
	}
}

void lab_gup_reset(struct lab *lab)
{
	unsigned int i;

	for (i = 0; i < DRIFTHEAP_LAB_FLIGHTS; i++)
		lab_land(&lab->flights[i]);
	for (i = 0; i < DRIFTHEAP_LAB_PINS; i++)
		lab_pin_drop(lab, &lab->pins[i]);
}
