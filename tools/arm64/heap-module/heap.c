// SPDX-License-Identifier: GPL-2.0
/* The kernel's own dma-heap and system heap, unchanged, as a module for kernels that are configured
 * without them: CONFIG_DMABUF_HEAPS can't be a module, and Debian's arm64 kernels lack it. */
#include <linux/init.h>
#include <linux/module.h>

#undef subsys_initcall
#define subsys_initcall(begin) static int (*const begin_class)(void) = begin
#include "dma-heap.c"

#undef module_init
#define module_init(begin) static int (*const begin_heap)(void) = begin
#include "system_heap.c"

static int __init heap_init(void)
{
	int failed = begin_class();

	return failed ? failed : begin_heap();
}

#undef module_init
#define module_init(begin) int init_module(void) __copy(begin) __attribute__((alias(#begin)))
module_init(heap_init);
MODULE_DESCRIPTION("the kernel's own dma-heaps");
MODULE_LICENSE("GPL");
MODULE_IMPORT_NS(DMA_BUF);
