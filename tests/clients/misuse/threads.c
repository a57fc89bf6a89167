/* Threads that touch one page in one bracket, at once: each must get its access, whoever's fault
 * opened the page. Then the same after mremap, and after the first thread has ended. Exits 0 when
 * all of it went as it does without being checked. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/dma-buf.h>
#include <linux/dma-heap.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#define SIZE 65536
#define ROUNDS 1000
#define START (DMA_BUF_SYNC_START | DMA_BUF_SYNC_RW)
#define END (DMA_BUF_SYNC_END | DMA_BUF_SYNC_RW)

static int fd;
static volatile char *map;
static pthread_t first;

static void sync_buffer(unsigned long long flags)
{
	struct dma_buf_sync sync = { .flags = flags };

	if (ioctl(fd, DMA_BUF_IOCTL_SYNC, &sync))
		exit(10);
}

static void *count(void *arg)
{
	volatile long *word = (volatile long *)(map + 64 * (long)arg);

	for (int round = 0; round < ROUNDS; round++) {
		long before;

#ifdef BUGGY
		before = *word; /* BUG: unbracketed-access */
#endif
		sync_buffer(START);
		before = *word;
		*word = before + 1;
		if (*word != before + 1)
			exit(11);
		sync_buffer(END);
	}
	return NULL;
}

static void two_threads(void)
{
	pthread_t threads[2];

	for (long n = 0; n < 2; n++)
		if (pthread_create(&threads[n], NULL, count, (void *)n))
			exit(12);
	for (int n = 0; n < 2; n++)
		pthread_join(threads[n], NULL);
}

static void *last(void *arg)
{
	(void)arg;
	pthread_join(first, NULL);
	two_threads();
	sync_buffer(START);
	for (int n = 0; n < 2; n++)
		if (*(volatile long *)(map + 64 * n) != 3 * ROUNDS)
			exit(13);
	sync_buffer(END);
	munmap((void *)map, SIZE);
	close(fd);
	exit(0);
}

int main(void)
{
	struct dma_heap_allocation_data data = { .len = SIZE, .fd_flags = O_RDWR | O_CLOEXEC };
	int heap = open("/dev/dma_heap/system", O_RDONLY | O_CLOEXEC);
	pthread_t thread;
	char *to;

	if (heap < 0 || ioctl(heap, DMA_HEAP_IOCTL_ALLOC, &data))
		return 2;
	fd = data.fd;
	map = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	two_threads();
	/* Still closed, and at an address that nobody was told. */
	to = mmap(NULL, SIZE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	map = mremap((void *)map, SIZE, SIZE, MREMAP_MAYMOVE | MREMAP_FIXED, to);
	two_threads();
	first = pthread_self();
	pthread_create(&thread, NULL, last, NULL);
	pthread_exit(NULL);
}
