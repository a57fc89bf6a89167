/* What the clients here share: buffers of a heap, and a pattern to recognise. */
#include <fcntl.h>
#include <linux/dma-buf.h>
#include <linux/dma-heap.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#define DIE(...) (fprintf(stderr, __VA_ARGS__), fputc('\n', stderr), exit(1))
#define NEED(what) ((what) ? (void)0 : DIE("%s:%d: %s", __FILE__, __LINE__, #what))

static int allocate(size_t bytes)
{
	struct dma_heap_allocation_data data = { .len = bytes, .fd_flags = O_RDWR | O_CLOEXEC };
	int heap = open("/dev/dma_heap/system", O_RDONLY | O_CLOEXEC);

	if (heap < 0 || ioctl(heap, DMA_HEAP_IOCTL_ALLOC, &data))
		DIE("no buffer from /dev/dma_heap/system");
	close(heap);
	return data.fd;
}

static void bracket(int fd, uint64_t flags)
{
	NEED(ioctl(fd, DMA_BUF_IOCTL_SYNC, &(struct dma_buf_sync){ .flags = flags }) == 0);
}

/* A word that is different at each place, with full alpha. */
static uint32_t pattern(uint32_t at)
{
	return 0xff000000u | (at * 2654435761u >> 8);
}

/* The words of a dma-buf that are not as `expect` has them. */
static unsigned differences(int fd, size_t words, uint32_t (*expect)(uint32_t))
{
	uint32_t *map = mmap(NULL, words * 4, PROT_READ, MAP_SHARED, fd, 0);
	unsigned wrong = 0;

	NEED(map != MAP_FAILED);
	bracket(fd, DMA_BUF_SYNC_START | DMA_BUF_SYNC_READ);
	for (uint32_t at = 0; at < words; at++)
		wrong += map[at] != expect(at);
	bracket(fd, DMA_BUF_SYNC_END | DMA_BUF_SYNC_READ);
	munmap(map, words * 4);
	return wrong;
}

static void fill(int fd, size_t words)
{
	uint32_t *map = mmap(NULL, words * 4, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);

	NEED(map != MAP_FAILED);
	bracket(fd, DMA_BUF_SYNC_START | DMA_BUF_SYNC_WRITE);
	for (uint32_t at = 0; at < words; at++)
		map[at] = pattern(at);
	bracket(fd, DMA_BUF_SYNC_END | DMA_BUF_SYNC_WRITE);
	munmap(map, words * 4);
}
