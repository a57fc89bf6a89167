/* Threads, a child, signals and changes of the mapping between brackets. Exits 0 when all of it
 * went as it does without being checked. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/dma-buf.h>
#include <linux/dma-heap.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

#define PAGE sysconf(_SC_PAGESIZE)

#define SIZE (16 * PAGE)
#define START (DMA_BUF_SYNC_START | DMA_BUF_SYNC_RW)
#define END (DMA_BUF_SYNC_END | DMA_BUF_SYNC_RW)

static int fd;
static volatile char *map;
static volatile sig_atomic_t ticks;
static sigjmp_buf back;

static void sync_buffer(unsigned long long flags)
{
	struct dma_buf_sync sync = { .flags = flags };

	if (ioctl(fd, DMA_BUF_IOCTL_SYNC, &sync))
		exit(10);
}

static void on_tick(int signal)
{
	(void)signal;
	ticks++;
}

static void on_fault(int signal)
{
	(void)signal;
	siglongjmp(back, 1);
}

static void *worker(void *arg)
{
	long lane = (long)arg;

	for (int round = 0; round < 40; round++) {
		sync_buffer(START);
		for (int at = 0; at < PAGE; at++)
			map[lane * PAGE + at]++;
		sync_buffer(END);
	}
	return NULL;
}

int main(void)
{
	struct dma_heap_allocation_data data = { .len = SIZE, .fd_flags = O_RDWR | O_CLOEXEC };
	struct itimerval fast = { { 0, 1000 }, { 0, 1000 } }, never = { { 0, 0 }, { 0, 0 } };
	int heap = open("/dev/dma_heap/system", O_RDONLY | O_CLOEXEC);
	pthread_t threads[4];
	char *moved;
	int status;

	if (ioctl(heap, DMA_HEAP_IOCTL_ALLOC, &data))
		return 1;
	fd = data.fd;
	map = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (map == MAP_FAILED)
		return 1;
	signal(SIGALRM, on_tick);
	setitimer(ITIMER_REAL, &fast, NULL);
	for (long lane = 0; lane < 4; lane++)
		pthread_create(&threads[lane], NULL, worker, (void *)lane);
	for (int lane = 0; lane < 4; lane++)
		pthread_join(threads[lane], NULL);
	setitimer(ITIMER_REAL, &never, NULL);
	sync_buffer(START);
	for (int at = 0; at < 4 * PAGE; at++)
		if (map[at] != 40)
			return 2;
	sync_buffer(END);

	/* The child has the mapping and the right to use it in brackets of its own. */
	if (fork() == 0) {
		sync_buffer(START);
		map[5] = 1;
		sync_buffer(END);
#ifdef BUGGY
		map[6] = 1; /* BUG: unbracketed-access */
#endif
		_exit(7);
	}
	if (wait(&status) < 0 || WEXITSTATUS(status) != 7)
		return 3;
	if (fork() == 0) {
		execl("/bin/true", "true", NULL);
		_exit(1);
	}
	if (wait(&status) < 0 || status != 0)
		return 4;

	/* A hole, then something else in it. */
	munmap((char *)map + 2 * PAGE, PAGE);
	moved = mmap((char *)map + 2 * PAGE, PAGE, PROT_READ | PROT_WRITE,
		     MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
	moved[1] = 3;
	sync_buffer(START);
	sync_buffer(END);
	moved[2] = 3;
	/* Moved elsewhere. */
	moved = mremap((char *)map + 4 * PAGE, 2 * PAGE, 2 * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED,
		       (char *)map + 8 * SIZE * 16);
	if (moved == MAP_FAILED)
		return 5;
	sync_buffer(START);
	moved[0] = 4;
	map[0] = 4;
	sync_buffer(END);
#ifdef BUGGY
	*(volatile char *)(moved + PAGE) = 4; /* BUG: unbracketed-access */
#endif
	/* Its own mprotect, and its own fault. */
	sync_buffer(START);
	mprotect((char *)map, PAGE, PROT_READ);
	signal(SIGSEGV, on_fault);
	if (sigsetjmp(back, 1) == 0) {
		map[0] = 5;
		return 6;
	}
	sync_buffer(END);
	if (sigsetjmp(back, 1) == 0) {
		*(volatile char *)8 = 1;
		return 7;
	}
#ifdef BUGGY
	if (map[0] != 4) /* BUG: unbracketed-access */
		return 8;
#endif
	return ticks > 0 && (close(fd), munmap((char *)map, 2 * PAGE), munmap((char *)map + 3 * PAGE, PAGE),
			     munmap((char *)map + 6 * PAGE, SIZE - 6 * PAGE), munmap(moved, 2 * PAGE)) == 0 ? 0 : 9;
}
