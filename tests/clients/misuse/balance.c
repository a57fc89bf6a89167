/* SYNC brackets that do not balance: an END that was forgotten, one too many, of another direction,
 * and a START too many. */
#include <fcntl.h>
#include <linux/dma-buf.h>
#include <linux/dma-heap.h>
#include <pthread.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#define START DMA_BUF_SYNC_START
#define END DMA_BUF_SYNC_END
#define READ DMA_BUF_SYNC_READ
#define WRITE DMA_BUF_SYNC_WRITE
#define RW DMA_BUF_SYNC_RW

static int heap;

static int make(void)
{
	struct dma_heap_allocation_data data = { .len = 4096, .fd_flags = O_RDWR | O_CLOEXEC };

	return ioctl(heap, DMA_HEAP_IOCTL_ALLOC, &data) ? -1 : (int)data.fd;
}

/* A macro, so that the line is the caller's. */
#define SYNC(fd, how) ioctl(fd, DMA_BUF_IOCTL_SYNC, &(struct dma_buf_sync){ .flags = (how) })

static void *other_thread(void *arg)
{
	int fd = *(int *)arg;

	SYNC(fd, START | READ);
	SYNC(fd, END | READ);
	return NULL;
}

int main(void)
{
	pthread_t thread;
	int one, two, three, four;

	heap = open("/dev/dma_heap/system", O_RDONLY | O_CLOEXEC);
	one = make();
	two = make();
	three = make();
	four = make();
	if (one < 0 || two < 0 || three < 0 || four < 0)
		return 1;

	/* Right: one after the other, in a wider one, and beside another thread's. */
	for (int round = 0; round < 3; round++) {
		SYNC(one, START | RW);
		SYNC(one, END | RW);
	}
	SYNC(one, START | READ);
	SYNC(one, START | WRITE);
	SYNC(one, END | WRITE);
	SYNC(one, END | READ);
	SYNC(one, START | RW);
	if (pthread_create(&thread, NULL, other_thread, &one))
		return 1;
	pthread_join(thread, NULL);
	SYNC(one, END | RW);

#ifdef BUGGY
	SYNC(one, END | RW); /* BUG: end-without-start */
	SYNC(one, START | WRITE);
	SYNC(one, END | READ); /* BUG: mismatched-end */
	/* Two STARTs, one END. */
	SYNC(two, START | RW); /* BUG: unended-bracket */
	SYNC(two, START | RW); /* BUG: nested-bracket */
	SYNC(two, END | RW);
	/* No END, and the buffer goes before the program does. */
	SYNC(three, START | READ); /* BUG: unended-bracket */
	close(three);
	/* No END, and the program goes. */
	SYNC(four, START | WRITE); /* BUG: unended-bracket */
#else
	close(three);
#endif
	close(one);
	close(two);
	close(four);
	return 0;
}
