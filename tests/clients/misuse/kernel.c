/* Has the kernel read and write a buffer: through write(2) and read(2), in and outside of brackets. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/dma-buf.h>
#include <linux/dma-heap.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/uio.h>
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
	struct iovec iov;
	int pipes[2];
	char *map, byte;

	if (ioctl(heap, DMA_HEAP_IOCTL_ALLOC, &data) || pipe(pipes))
		return 1;
	map = mmap(NULL, 4 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, data.fd, 0);
	if (map == MAP_FAILED)
		return 1;
	iov = (struct iovec){ map + PAGE, 1 };
	sync_buffer(data.fd, DMA_BUF_SYNC_START | DMA_BUF_SYNC_RW);
	map[0] = 'a';
	map[PAGE] = 'b';
	if (write(pipes[1], map, 1) != 1 || read(pipes[0], map + 2 * PAGE, 1) != 1)
		return 2;
	if (map[2 * PAGE] != 'a')
		return 3;
	sync_buffer(data.fd, DMA_BUF_SYNC_END | DMA_BUF_SYNC_RW);
#ifdef BUGGY
	if (write(pipes[1], map, 1) != 1) /* BUG: unbracketed-access */
		return 4;
	if (read(pipes[0], &byte, 1) != 1 || byte != 'a')
		return 5;
	/* The call is over, and the mapping closed again. */
	if (*(volatile char *)map != 'a') /* BUG: unbracketed-access */
		return 5;
#endif
	sync_buffer(data.fd, DMA_BUF_SYNC_START | DMA_BUF_SYNC_READ);
	if (writev(pipes[1], &iov, 1) != 1)
		return 6;
#ifdef BUGGY
	if (read(pipes[0], map + 1, 1) != 1 || map[1] != 'b') /* BUG: write-in-read-bracket */
		return 7;
#else
	if (read(pipes[0], &byte, 1) != 1 || byte != 'b')
		return 7;
#endif
	sync_buffer(data.fd, DMA_BUF_SYNC_END | DMA_BUF_SYNC_READ);
#ifdef BUGGY
	if (writev(pipes[1], &iov, 1) != 1) /* BUG: unbracketed-access */
		return 8;
#endif
	/* About addresses, and no access. */
	if (madvise(map, 4 * PAGE, MADV_NORMAL) || mprotect(map, PAGE, PROT_READ))
		return 9;
	munmap(map, 4 * PAGE);
	close(data.fd);
	return 0;
}
