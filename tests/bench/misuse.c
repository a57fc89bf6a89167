/* What a program does to a buffer, timed: nanoseconds of each, one line each. */
#include <fcntl.h>
#include <linux/dma-buf.h>
#include <linux/dma-heap.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define LEN (1 << 20)

static int fd;

static double now(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return time.tv_sec * 1e9 + time.tv_nsec;
}

static void sync_buffer(unsigned long long flags)
{
	struct dma_buf_sync sync = { .flags = flags };

	ioctl(fd, DMA_BUF_IOCTL_SYNC, &sync);
}

#define TIME(name, rounds, what)						\
	do {									\
		double start = now();						\
		for (int round = 0; round < (rounds); round++) {		\
			what;							\
		}								\
		printf("%s %.0f\n", name, (now() - start) / (rounds));		\
	} while (0)

int main(void)
{
	struct dma_heap_allocation_data data = { .len = LEN, .fd_flags = O_RDWR | O_CLOEXEC };
	int heap = open("/dev/dma_heap/system", O_RDONLY | O_CLOEXEC), null = open("/dev/null", O_WRONLY);
	volatile char *map;

	ioctl(heap, DMA_HEAP_IOCTL_ALLOC, &data);
	fd = data.fd;
	map = mmap(NULL, LEN, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	sync_buffer(DMA_BUF_SYNC_START | DMA_BUF_SYNC_RW);
	memset((char *)map, 1, LEN);
	sync_buffer(DMA_BUF_SYNC_END | DMA_BUF_SYNC_RW);
	TIME("bracket", 2000, {
		sync_buffer(DMA_BUF_SYNC_START | DMA_BUF_SYNC_RW);
		sync_buffer(DMA_BUF_SYNC_END | DMA_BUF_SYNC_RW);
	});
	TIME("frame", 500, {
		sync_buffer(DMA_BUF_SYNC_START | DMA_BUF_SYNC_RW);
		memset((char *)map, round, LEN);
		sync_buffer(DMA_BUF_SYNC_END | DMA_BUF_SYNC_RW);
	});
	sync_buffer(DMA_BUF_SYNC_START | DMA_BUF_SYNC_RW);
	TIME("inside", 200, memset((char *)map, round, LEN));
	sync_buffer(DMA_BUF_SYNC_END | DMA_BUF_SYNC_RW);
	TIME("mistake", 500, {
		sync_buffer(DMA_BUF_SYNC_START | DMA_BUF_SYNC_RW);
		sync_buffer(DMA_BUF_SYNC_END | DMA_BUF_SYNC_RW);
		for (int at = 0; at < 8; at++)
			map[at] = 1;
	});
	TIME("write", 2000, (void)!write(null, &fd, 1));
	return 0;
}
