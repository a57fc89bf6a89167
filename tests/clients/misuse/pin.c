/* Pins pages of a buffer through its mapping, and has the buffer moved while the pins are alive.
 * $CTL is a command that takes a verb and an inode. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/dma-buf.h>
#include <linux/dma-heap.h>
#include <linux/io_uring.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#define PAGE sysconf(_SC_PAGESIZE)

static int fd;

static void sync_buffer(unsigned long long flags)
{
	struct dma_buf_sync sync = { .flags = flags };

	if (ioctl(fd, DMA_BUF_IOCTL_SYNC, &sync))
		exit(10);
}

static void move(void)
{
	char command[512];
	struct stat stat;

	fstat(fd, &stat);
	snprintf(command, sizeof(command), "%s move %lu >/dev/null", getenv("CTL"), (unsigned long)stat.st_ino);
	if (system(command))
		exit(11);
}

static int drain(int pipe)
{
	char bytes[2 * PAGE];

	return read(pipe, bytes, sizeof(bytes)) == (ssize_t)sizeof(bytes) ? 0 : 12;
}

int main(void)
{
	struct dma_heap_allocation_data data = { .len = 4 * PAGE, .fd_flags = O_RDWR | O_CLOEXEC };
	struct io_uring_params params = { 0 };
	int heap = open("/dev/dma_heap/system", O_RDONLY | O_CLOEXEC);
	int ring = syscall(SYS_io_uring_setup, 4, &params);
	struct iovec both, last;
	int pipes[2];
	char *map;

	if (ioctl(heap, DMA_HEAP_IOCTL_ALLOC, &data) || pipe(pipes) || ring < 0)
		return 1;
	fd = data.fd;
	map = mmap(NULL, 4 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (map == MAP_FAILED)
		return 1;
	sync_buffer(DMA_BUF_SYNC_START | DMA_BUF_SYNC_RW);
	memset(map, 3, 4 * PAGE);
	both = (struct iovec){ map, 2 * PAGE };
	last = (struct iovec){ map + 3 * PAGE, PAGE };
	/* A pin that is gone before the buffer moves does no harm. */
	if (vmsplice(pipes[1], &both, 1, 0) != 2 * PAGE || drain(pipes[0]))
		return 2;
	if (syscall(SYS_io_uring_register, ring, IORING_REGISTER_BUFFERS, &last, 1))
		return 3;
	if (syscall(SYS_io_uring_register, ring, IORING_UNREGISTER_BUFFERS, NULL, 0))
		return 4;
#ifdef BUGGY
	if (vmsplice(pipes[1], &both, 1, 0) != 2 * PAGE) /* BUG: pin-across-move */
		return 5;
	if (syscall(SYS_io_uring_register, ring, IORING_REGISTER_BUFFERS, &last, 1)) /* BUG: pin-across-move */
		return 6;
#endif
	sync_buffer(DMA_BUF_SYNC_END | DMA_BUF_SYNC_RW);
	move();
#ifdef BUGGY
	if (drain(pipes[0]))
		return 7;
#endif
	move();
	close(ring);
	munmap(map, 4 * PAGE);
	close(fd);
	return 0;
}
