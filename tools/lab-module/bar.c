// SPDX-License-Identifier: GPL-2.0
/*
 * Memory without struct page: the shared memory behind a PCI BAR of qemu's
 * ivshmem (docs/specs/ivshmem-spec.rst there). Its pages are frames of the one
 * laboratory that has asked for it.
 */
#include <linux/io.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/pci.h>

#include "lab.h"

#define BAR_MEMORY 2
#define BAR_SIZE (DRIFTHEAP_LAB_FRAMES * PAGE_SIZE)

static bool lab_bar_there;
module_param_named(bar, lab_bar_there, bool, 0400);
MODULE_PARM_DESC(bar, "whether there is memory without struct page");

/**
 * struct lab_bar - the one BAR
 * @pci: whose it is; NULL: there is none
 * @at: where the kernel has it mapped
 * @pfn: its first page
 * @owner: the laboratory whose frames its pages are
 */
static struct lab_bar {
	struct pci_dev *pci;
	void __iomem *at;
	unsigned long pfn;
	struct lab *owner;
} lab_bar;

/* Whether a frame is the BAR's. */
bool lab_is_bar(struct lab *lab, u32 frame)
{
	return frame < DRIFTHEAP_LAB_FRAMES && test_bit(frame, lab->bar);
}

/* BAR: frame obj is the BAR's page of that number from here on. */
long lab_bar_step(struct lab *lab, struct driftheap_lab_step *step)
{
	struct lab *owner;

	if (step->obj >= DRIFTHEAP_LAB_FRAMES || lab->per_block || lab->pooled)
		return -EINVAL;
	if (!lab_bar.pci)
		return -ENODEV;
	owner = cmpxchg(&lab_bar.owner, NULL, lab);
	if (owner && owner != lab)
		return -EBUSY;
	if (lab_mistake != LAB_BAR_PAGES)
		set_bit(step->obj, lab->bar);
	return 0;
}

/* Frames are pages again. */
void lab_bar_reset(struct lab *lab)
{
	bitmap_zero(lab->bar, DRIFTHEAP_LAB_FRAMES);
	cmpxchg(&lab_bar.owner, lab, NULL);
}

unsigned long lab_bar_pfn(u32 frame)
{
	return lab_bar.pfn + frame;
}

/* The frame that a pfn is; LAB_NO_FRAME: none of this laboratory. */
u32 lab_bar_frame(struct lab *lab, unsigned long pfn)
{
	unsigned long frame = pfn - lab_bar.pfn;

	return frame < DRIFTHEAP_LAB_FRAMES && test_bit(frame, lab->bar) ? frame : LAB_NO_FRAME;
}

/* Where the kernel reads and writes a frame. */
void __iomem *lab_bar_at(u32 frame)
{
	return lab_bar.at + frame * PAGE_SIZE;
}

static int lab_bar_probe(struct pci_dev *pci, const struct pci_device_id *id)
{
	unsigned long pfn = PHYS_PFN(pci_resource_start(pci, BAR_MEMORY));
	int ret;

	if (lab_bar.pci)
		return -EBUSY;
	if (pci_resource_len(pci, BAR_MEMORY) < BAR_SIZE)
		return -EINVAL;
	/* That is what it is for. */
	if (pfn_valid(pfn))
		return -EINVAL;
	ret = pcim_enable_device(pci);
	if (ret)
		return ret;
	lab_bar.at = pcim_iomap(pci, BAR_MEMORY, 0);
	if (!lab_bar.at)
		return -ENOMEM;
	lab_bar.pfn = pfn;
	lab_bar.pci = pci;
	lab_bar_there = true;
	return 0;
}

static void lab_bar_remove(struct pci_dev *pci)
{
	lab_bar.pci = NULL;
	lab_bar_there = false;
}

static const struct pci_device_id lab_bar_ids[] = {
	{ PCI_DEVICE(0x1af4, 0x1110) },
	{}
};

static struct pci_driver lab_bar_driver = {
	.name = "driftheap_lab_bar",
	.id_table = lab_bar_ids,
	.probe = lab_bar_probe,
	.remove = lab_bar_remove,
	/* A laboratory may have it: no unbinding but with the module. */
	.driver.suppress_bind_attrs = true,
};

int lab_bar_init(void)
{
	return pci_register_driver(&lab_bar_driver);
}

void lab_bar_exit(void)
{
	pci_unregister_driver(&lab_bar_driver);
}
