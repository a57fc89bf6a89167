/* An END that was forgotten does not cover what comes behind the next END; a store is called a
 * store, also through a mapping for writing alone. */
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

	if (ioctl(heap, DMA_HEAP_IOCTL_ALLOC, &data))
		return 1;
	map = mmap(NULL, 4096, PROT_WRITE, MAP_SHARED, data.fd, 0);
	if (map == MAP_FAILED)
		return 1;
#ifdef BUGGY
	SYNC(DMA_BUF_SYNC_START | DMA_BUF_SYNC_RW); /* BUG: unended-bracket */
	map[0] = 1;
#endif
	SYNC(DMA_BUF_SYNC_START | DMA_BUF_SYNC_RW); /* BUG: nested-bracket */
	map[1] = 2;
	SYNC(DMA_BUF_SYNC_END | DMA_BUF_SYNC_RW);
#ifdef BUGGY
	map[2] = 3; /* BUG: unbracketed-access */
#endif
	munmap((char *)map, 4096);
	close(data.fd);
	return 0;
}
