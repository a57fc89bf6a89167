// SPDX-License-Identifier: GPL-2.0
/*
 * A real device: qemu's edu (docs/specs/edu.txt there), which copies between a
 * buffer of its own and a bus address. Where the guest has one, it is attached
 * and makes the transfers; what is at an address is then the IOMMU's affair.
 */
#include <linux/dma-mapping.h>
#include <linux/iommu.h>
#include <linux/iopoll.h>
#include <linux/module.h>
#include <linux/pci.h>

#include "lab.h"

#define EDU_SOURCE 0x80
#define EDU_DESTINATION 0x88
#define EDU_COUNT 0x90
#define EDU_COMMAND 0x98
#define EDU_RUN BIT(0)
#define EDU_TO_BUS BIT(1)
#define EDU_BUFFER 0x40000
/* It does not take all of its buffer at once. */
#define EDU_PART (PAGE_SIZE / 2)
#define EDU_TIMEOUT_US (10 * USEC_PER_SEC)

static bool lab_iommu;
module_param_named(iommu, lab_iommu, bool, 0400);
MODULE_PARM_DESC(iommu, "whether an IOMMU translates the addresses of the device");

/**
 * struct lab_edu - the one device
 * @lock: one transfer at a time
 * @pci: NULL: there is none
 * @regs: its registers
 * @page: what it is about to write, or has read
 * @at: where @page is on the bus
 */
static struct lab_edu {
	struct mutex lock;
	struct pci_dev *pci;
	void __iomem *regs;
	u8 *page;
	dma_addr_t at;
} lab_edu = { .lock = __MUTEX_INITIALIZER(lab_edu.lock) };

/* Who is attached and maps. */
struct device *lab_dma_device(void)
{
	return lab_edu.pci ? &lab_edu.pci->dev : lab_device;
}

bool lab_has_edu(void)
{
	return lab_edu.pci;
}

static int lab_edu_copy(u64 from, u64 to, u64 direction)
{
	u64 command;

	writeq(from, lab_edu.regs + EDU_SOURCE);
	writeq(to, lab_edu.regs + EDU_DESTINATION);
	writeq(EDU_PART, lab_edu.regs + EDU_COUNT);
	writeq(EDU_RUN | direction, lab_edu.regs + EDU_COMMAND);
	return readq_poll_timeout(lab_edu.regs + EDU_COMMAND, command, !(command & EDU_RUN),
				  1000, EDU_TIMEOUT_US);
}

/**
 * lab_edu_write - the device writes a page, or a part of one
 * @bus: where, as it sees memory
 * @value: every byte
 * @parts: 2 are a page
 */
long lab_edu_write(dma_addr_t bus, u8 value, unsigned int parts)
{
	unsigned int part;
	long ret = 0;

	mutex_lock(&lab_edu.lock);
	memset(lab_edu.page, value, PAGE_SIZE);
	for (part = 0; part < parts && !ret; part++) {
		ret = lab_edu_copy(lab_edu.at, EDU_BUFFER, 0);
		if (!ret)
			ret = lab_edu_copy(EDU_BUFFER, bus + part * EDU_PART, EDU_TO_BUS);
	}
	mutex_unlock(&lab_edu.lock);
	return ret;
}

/* The device reads a page to @to. */
long lab_edu_read(dma_addr_t bus, u8 *to)
{
	unsigned int part;
	long ret = 0;

	mutex_lock(&lab_edu.lock);
	for (part = 0; part < 2 && !ret; part++) {
		ret = lab_edu_copy(bus + part * EDU_PART, EDU_BUFFER, 0);
		if (!ret)
			ret = lab_edu_copy(EDU_BUFFER, lab_edu.at + part * EDU_PART, EDU_TO_BUS);
	}
	memcpy(to, lab_edu.page, PAGE_SIZE);
	mutex_unlock(&lab_edu.lock);
	return ret;
}

/* What the IOMMU's page table says of a bus address; 0: nothing is there. */
phys_addr_t lab_bus_phys(dma_addr_t bus)
{
	struct iommu_domain *domain = lab_iommu ? iommu_get_domain_for_dev(lab_dma_device()) : NULL;

	return domain ? iommu_iova_to_phys(domain, bus) : bus;
}

static int lab_edu_probe(struct pci_dev *pci, const struct pci_device_id *id)
{
	struct iommu_domain *domain;
	int ret;

	if (lab_edu.pci)
		return -EBUSY;
	ret = pcim_enable_device(pci);
	if (ret)
		return ret;
	ret = dma_set_mask_and_coherent(&pci->dev, DMA_BIT_MASK(32));
	if (ret)
		return ret;
	lab_edu.regs = pcim_iomap(pci, 0, 0);
	if (!lab_edu.regs)
		return -ENOMEM;
	lab_edu.page = dmam_alloc_coherent(&pci->dev, PAGE_SIZE, &lab_edu.at, GFP_KERNEL);
	if (!lab_edu.page)
		return -ENOMEM;
	pci_set_master(pci);
	domain = iommu_get_domain_for_dev(&pci->dev);
	lab_iommu = domain && domain->type != IOMMU_DOMAIN_IDENTITY;
	lab_edu.pci = pci;
	return 0;
}

static void lab_edu_remove(struct pci_dev *pci)
{
	lab_edu.pci = NULL;
	lab_iommu = false;
	pci_clear_master(pci);
}

static const struct pci_device_id lab_edu_ids[] = {
	{ PCI_DEVICE(0x1234, 0x11e8) },
	{}
};

static struct pci_driver lab_edu_driver = {
	.name = "driftheap_lab",
	.id_table = lab_edu_ids,
	.probe = lab_edu_probe,
	.remove = lab_edu_remove,
	/* A laboratory may have it: no unbinding but with the module. */
	.driver.suppress_bind_attrs = true,
};

int lab_edu_init(void)
{
	return pci_register_driver(&lab_edu_driver);
}

void lab_edu_exit(void)
{
	pci_unregister_driver(&lab_edu_driver);
}
