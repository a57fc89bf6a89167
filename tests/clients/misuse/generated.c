/* Code that the program generates touches a buffer: who called it is told, and where it lies. */
#include <fcntl.h>
#include <linux/dma-buf.h>
#include <linux/dma-heap.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#define SYNC(how) ioctl(data.fd, DMA_BUF_IOCTL_SYNC, &(struct dma_buf_sync){ .flags = (how) })

/* Stores a 1 where its argument points. */
#ifdef __aarch64__
static const unsigned int code[] = { 0x52800021, 0x39000001, 0xd65f03c0 };
#else
static const unsigned char code[] = { 0xc6, 0x07, 0x01, 0xc3 };
#endif

int main(void)
{
	struct dma_heap_allocation_data data = { .len = 4096, .fd_flags = O_RDWR | O_CLOEXEC };
	int heap = open("/dev/dma_heap/system", O_RDONLY | O_CLOEXEC);
	void *made = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	void (*store)(char *) = (void (*)(char *))made;
	char *map;

	if (ioctl(heap, DMA_HEAP_IOCTL_ALLOC, &data))
		return 1;
	map = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, data.fd, 0);
	memcpy(made, code, sizeof(code));
	mprotect(made, 4096, PROT_READ | PROT_EXEC);
	__builtin___clear_cache((char *)made, (char *)made + sizeof(code));
	SYNC(DMA_BUF_SYNC_START | DMA_BUF_SYNC_RW);
	store(map);
	SYNC(DMA_BUF_SYNC_END | DMA_BUF_SYNC_RW);
#ifdef BUGGY
	store(map + 1); /* BUG: unbracketed-access */
#endif
	munmap(map, 4096);
	close(data.fd);
	return 0;
}
