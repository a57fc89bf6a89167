/* A program whose buffer is taken away by its exporter: says what each access answers then. It waits
 * for the first SIGBUS by reading in a loop. A second buffer must not be affected. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/dma-buf.h>
#include <linux/dma-heap.h>
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#define PAGE sysconf(_SC_PAGESIZE)

#define LEN (16 * PAGE)

static sigjmp_buf back;

static void caught(int signal)
{
	siglongjmp(back, 1);
}

static int alloc(int heap)
{
	struct dma_heap_allocation_data data = { .len = LEN, .fd_flags = O_RDWR };

	return ioctl(heap, DMA_HEAP_IOCTL_ALLOC, &data) ? -1 : (int)data.fd;
}

static void step(const char *what, int ok)
{
	printf("%s: %s\n", what, ok ? "ok" : strerror(errno));
}

/* Whether a load of every page is SIGBUS. */
static int gone(volatile char *map)
{
	volatile int faults = 0;

	for (volatile int page = 0; page < LEN / PAGE; page++)
		if (sigsetjmp(back, 1))
			faults++;
		else
			(void)map[page * PAGE];
	return faults == LEN / PAGE;
}

int main(void)
{
	struct dma_buf_sync sync = { .flags = DMA_BUF_SYNC_START | DMA_BUF_SYNC_RW };
	int heap = open("/dev/dma_heap/system", O_RDONLY | O_CLOEXEC), pipes[2], status;
	int first = alloc(heap), second;
	char *map = mmap(0, LEN, PROT_READ | PROT_WRITE, MAP_SHARED, first, 0);
	volatile char *other;

	if (first < 0 || map == MAP_FAILED || pipe(pipes))
		return 2;
	memset(map, 0x5a, LEN);
	signal(SIGBUS, caught);
	alarm(60);
	if (!sigsetjmp(back, 1))
		for (;;)
			if (((volatile char *)map)[PAGE] != 0x5a)
				return 3;
	printf("load: SIGBUS\n");
	printf("all pages: %s\n", gone(map) ? "SIGBUS" : "not all");
	step("write", write(pipes[1], map, 16) == 16);
	step("sync", ioctl(first, DMA_BUF_IOCTL_SYNC, &sync) == 0);
	step("mmap", mmap(0, LEN, PROT_READ, MAP_SHARED, first, 0) != MAP_FAILED);
	fflush(stdout);
	if (fork() == 0) {
		printf("child: %s\n", gone(map) ? "SIGBUS" : "reads something");
		fflush(stdout);
		_exit(0);
	}
	wait(&status);
	second = alloc(heap);
	other = mmap(0, LEN, PROT_READ | PROT_WRITE, MAP_SHARED, second, 0);
	if (second >= 0 && other != MAP_FAILED) {
		other[5] = 7;
		printf("other buffer: %s\n", other[5] == 7 ? "ok" : "wrong");
	}
	fflush(stdout);
	/* Stays until its standard input is closed. */
	while (read(0, &status, 1) > 0)
		;
	return 0;
}
