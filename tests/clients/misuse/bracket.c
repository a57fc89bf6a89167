/* Touches a buffer outside of SYNC brackets, and writes in one for reading. */
#include <fcntl.h>
#include <linux/dma-buf.h>
#include <linux/dma-heap.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

static int sync_buffer(int fd, unsigned long long flags)
{
	struct dma_buf_sync sync = { .flags = flags };

	return ioctl(fd, DMA_BUF_IOCTL_SYNC, &sync);
}

int main(void)
{
	struct dma_heap_allocation_data data = { .len = 65536, .fd_flags = O_RDWR | O_CLOEXEC };
	int heap = open("/dev/dma_heap/system", O_RDONLY | O_CLOEXEC);
	volatile char *map;
	int seen = 0;

	if (ioctl(heap, DMA_HEAP_IOCTL_ALLOC, &data))
		return 1;
	map = mmap(NULL, 65536, PROT_READ | PROT_WRITE, MAP_SHARED, data.fd, 0);
	if (map == MAP_FAILED)
		return 1;
#ifdef BUGGY
	map[4100] = 1; /* BUG: unbracketed-access */
#endif
	sync_buffer(data.fd, DMA_BUF_SYNC_START | DMA_BUF_SYNC_RW);
	memset((char *)map, 7, 65536);
	seen += map[4100];
	sync_buffer(data.fd, DMA_BUF_SYNC_END | DMA_BUF_SYNC_RW);
#ifdef BUGGY
	seen += map[4100]; /* BUG: unbracketed-access */
	seen += map[4101]; /* BUG: unbracketed-access */
	memset((char *)map, 7, 65536); /* BUG: unbracketed-access */
#endif
	sync_buffer(data.fd, DMA_BUF_SYNC_START | DMA_BUF_SYNC_READ);
	seen += map[0];
#ifdef BUGGY
	map[0] = 9; /* BUG: write-in-read-bracket */
#endif
	sync_buffer(data.fd, DMA_BUF_SYNC_END | DMA_BUF_SYNC_READ);
	sync_buffer(data.fd, DMA_BUF_SYNC_START | DMA_BUF_SYNC_READ);
	if (map[0] != 7 && map[0] != 9)
		return 2;
	sync_buffer(data.fd, DMA_BUF_SYNC_END | DMA_BUF_SYNC_READ);
	munmap((char *)map, 65536);
	close(data.fd);
	return seen > 0 ? 0 : 3;
}
