/* Maps a buffer MAP_PRIVATE and keeps another one until it exits. */
#include <fcntl.h>
#include <linux/dma-buf.h>
#include <linux/dma-heap.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#define PAGE sysconf(_SC_PAGESIZE)

static int alloc(int heap)
{
	struct dma_heap_allocation_data data = { .len = 2 * PAGE, .fd_flags = O_RDWR | O_CLOEXEC };

	return ioctl(heap, DMA_HEAP_IOCTL_ALLOC, &data) ? -1 : (int)data.fd;
}

int main(void)
{
	struct dma_heap_allocation_data data = { .len = PAGE, .fd_flags = O_RDWR };
	int heap = open("/dev/dma_heap/system", O_RDONLY | O_CLOEXEC);
	int fd = alloc(heap);
	char *map;

	if (ioctl(fd, DMA_BUF_SET_NAME, "frame"))
		return 1;
#ifdef BUGGY
	map = mmap(NULL, 2 * PAGE, PROT_READ, MAP_PRIVATE, fd, 0); /* BUG: private-mapping */
	if (map != MAP_FAILED)
		munmap(map, 2 * PAGE);
#endif
	map = mmap(NULL, 2 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (map == MAP_FAILED)
		return 1;
	munmap(map, 2 * PAGE);
	close(fd);
	if (ioctl(heap, DMA_HEAP_IOCTL_ALLOC, &data)) /* BUG: leaked-fd */
		return 1;
#ifndef BUGGY
	close(data.fd);
#endif
	return 0;
}
