/* Ten lines that go wrong on hardware. Each mistake is marked with what is reported for it:
 *
 *   cc -g -o ten-lines tools/examples/ten-lines.c
 *   sleep 1 | driftheap run --chaos 1,kinds=move --check-access exhaustive -- ./ten-lines
 *
 * Built with -DFIXED it does the same work correctly and nothing is reported. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/dma-buf.h>
#include <linux/dma-heap.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <unistd.h>

#ifndef FIXED
int main(void)
{
	struct dma_heap_allocation_data buf = { .len = 4096, .fd_flags = O_RDWR };
	int pipes[2], heap = open("/dev/dma_heap/system", O_RDWR);
	ioctl(heap, DMA_HEAP_IOCTL_ALLOC, &buf); /* BUG: leaked-fd */
	char *map = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, buf.fd, 0);
	strcpy(map, "frame"); /* BUG: unbracketed-access */
	mmap(NULL, 4096, PROT_READ, MAP_PRIVATE, buf.fd, 0); /* BUG: private-mapping */
	pipe(pipes);
	vmsplice(pipes[1], &(struct iovec){ map, 4096 }, 1, 0); /* BUG: pin-across-move */
	getchar(); /* The buffer moves meanwhile, and the pipe keeps a page that nobody else sees. */
	return 0;
}
#else
int main(void)
{
	struct dma_heap_allocation_data buf = { .len = 4096, .fd_flags = O_RDWR };
	struct dma_buf_sync start = { DMA_BUF_SYNC_START | DMA_BUF_SYNC_RW };
	struct dma_buf_sync end = { DMA_BUF_SYNC_END | DMA_BUF_SYNC_RW };
	int pipes[2], heap = open("/dev/dma_heap/system", O_RDWR);
	ioctl(heap, DMA_HEAP_IOCTL_ALLOC, &buf);
	char *map = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, buf.fd, 0);
	pipe(pipes);
	ioctl(buf.fd, DMA_BUF_IOCTL_SYNC, &start);
	strcpy(map, "frame");
	write(pipes[1], map, 4096);
	ioctl(buf.fd, DMA_BUF_IOCTL_SYNC, &end);
	munmap(map, 4096);
	getchar();
	close(buf.fd);
	return 0;
}
#endif
