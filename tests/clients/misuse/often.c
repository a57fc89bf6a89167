/* Makes one mistake, often: what sampling is for. */
#include <fcntl.h>
#include <linux/dma-buf.h>
#include <linux/dma-heap.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#define PAGE sysconf(_SC_PAGESIZE)

static int sync_buffer(int fd, unsigned long long flags)
{
	struct dma_buf_sync sync = { .flags = flags };

	return ioctl(fd, DMA_BUF_IOCTL_SYNC, &sync);
}

int main(void)
{
	struct dma_heap_allocation_data data = { .len = 4 * PAGE, .fd_flags = O_RDWR | O_CLOEXEC };
	int heap = open("/dev/dma_heap/system", O_RDONLY | O_CLOEXEC);
	volatile char *map;

	if (ioctl(heap, DMA_HEAP_IOCTL_ALLOC, &data))
		return 1;
	map = mmap(NULL, 4 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, data.fd, 0);
	for (int round = 0; round < 400; round++) {
		sync_buffer(data.fd, DMA_BUF_SYNC_START | DMA_BUF_SYNC_RW);
		map[round]++;
		sync_buffer(data.fd, DMA_BUF_SYNC_END | DMA_BUF_SYNC_RW);
#ifdef BUGGY
		for (int page = 0; page < 4; page++)
			map[page * PAGE + round]++; /* BUG: unbracketed-access */
#endif
	}
	munmap((char *)map, 4 * PAGE);
	close(data.fd);
	return 0;
}
