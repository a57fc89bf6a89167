/* Waits for a device's first write: in a bracket that it keeps open, or in brackets that it ends. */
#include <fcntl.h>
#include <linux/dma-buf.h>
#include <linux/dma-heap.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#define SYNC(how) ioctl(data.fd, DMA_BUF_IOCTL_SYNC, &(struct dma_buf_sync){ .flags = (how) })

int main(void)
{
	struct dma_heap_allocation_data data = { .len = 4096, .fd_flags = O_RDWR | O_CLOEXEC };
	int heap = open("/dev/dma_heap/system", O_RDONLY | O_CLOEXEC);
	volatile char *map;
	char seen = 0;

	if (ioctl(heap, DMA_HEAP_IOCTL_ALLOC, &data))
		return 1;
	map = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, data.fd, 0);
#ifdef BUGGY
	SYNC(DMA_BUF_SYNC_START | DMA_BUF_SYNC_READ);
#endif
	while (!seen) {
#ifndef BUGGY
		SYNC(DMA_BUF_SYNC_START | DMA_BUF_SYNC_READ);
#endif
		seen = map[0];
#ifndef BUGGY
		SYNC(DMA_BUF_SYNC_END | DMA_BUF_SYNC_READ);
#endif
		usleep(2000);
	}
#ifdef BUGGY
	SYNC(DMA_BUF_SYNC_END | DMA_BUF_SYNC_READ);
#endif
	munmap((char *)map, 4096);
	close(data.fd);
	return 0;
}
