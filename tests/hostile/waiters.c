/* Many threads wait in SYNC START and in poll for a fence that nobody signals, while others allocate,
 * SYNC and poll a thousand descriptors; 25 wait in polls of a thousand. Nobody who need not wait waits,
 * and all wake at the end. Usage: waiters THREADS. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/dma-buf.h>
#include <linux/dma-heap.h>
#include <poll.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <unistd.h>

struct fence { uint32_t value; char name[32]; int32_t fence; };
#define CREATE_FENCE _IOWR('W', 0, struct fence)
#define INCREMENT _IOW('W', 1, uint32_t)

#define POLLED 1000
#define ROUNDS 300
#define POLLERS 25

static int busy, woken, begun, busy_names[POLLED];

static void need(int good, const char *what)
{
	if (!good) {
		printf("%s: %s\n", what, strerror(errno));
		fflush(stdout);
		_exit(1);
	}
}

static int alloc(void)
{
	struct dma_heap_allocation_data data = { .len = 4096, .fd_flags = O_RDWR | O_CLOEXEC };
	int heap = open("/dev/dma_heap/system", O_RDONLY | O_CLOEXEC);

	need(heap >= 0 && !ioctl(heap, DMA_HEAP_IOCTL_ALLOC, &data), "alloc");
	close(heap);
	return data.fd;
}

static void *wait_in_sync(void *unused)
{
	struct dma_buf_sync sync = { DMA_BUF_SYNC_START | DMA_BUF_SYNC_RW };

	__sync_fetch_and_add(&begun, 1);
	need(!ioctl(busy, DMA_BUF_IOCTL_SYNC, &sync), "a SYNC that waits");
	__sync_fetch_and_add(&woken, 1);
	return unused;
}

static void *wait_in_poll(void *unused)
{
	struct pollfd wait = { busy, POLLOUT, 0 };

	__sync_fetch_and_add(&begun, 1);
	need(poll(&wait, 1, -1) == 1 && wait.revents == POLLOUT, "a poll that waits");
	__sync_fetch_and_add(&woken, 1);
	return unused;
}

/* A thousand names of the busy buffer: none is ready before the fence signals, none is closed. */
static void *wait_in_long_poll(void *unused)
{
	struct pollfd many[POLLED];

	for (int i = 0; i < POLLED; i++)
		many[i] = (struct pollfd){ busy_names[i], POLLOUT, 0 };
	__sync_fetch_and_add(&begun, 1);
	need(poll(many, POLLED, -1) == POLLED, "a long poll that waits");
	for (int i = 0; i < POLLED; i++)
		need(many[i].revents == POLLOUT, "a busy buffer is writable at last");
	__sync_fetch_and_add(&woken, 1);
	return unused;
}

static void *poll_many(void *fds)
{
	struct pollfd many[POLLED];

	for (int round = 0; round < 20; round++) {
		for (int i = 0; i < POLLED; i++)
			many[i] = (struct pollfd){ ((int *)fds)[i], POLLOUT, 0 };
		need(poll(many, POLLED, 0) == POLLED, "poll of many");
		for (int i = 0; i < POLLED; i++)
			need(many[i].revents == POLLOUT, "an idle buffer is writable");
	}
	return NULL;
}

int main(int argc, char **argv)
{
	struct dma_buf_sync start = { DMA_BUF_SYNC_START | DMA_BUF_SYNC_RW };
	struct dma_buf_sync end = { DMA_BUF_SYNC_END | DMA_BUF_SYNC_RW };
	struct fence fence = { .value = 1 };
	struct rlimit limit;
	uint32_t one = 1;
	int count = argc > 1 ? atoi(argv[1]) : 0, timeline, idle;
	static int polled[POLLED];
	pthread_t threads[count + POLLERS], poller[4];
	pthread_attr_t small;

	getrlimit(RLIMIT_NOFILE, &limit);
	limit.rlim_cur = limit.rlim_max;
	setrlimit(RLIMIT_NOFILE, &limit);
	busy = alloc(), idle = alloc();
	timeline = open("/sys/kernel/debug/sync/sw_sync", O_RDWR);
	need(timeline >= 0 && !ioctl(timeline, CREATE_FENCE, &fence), "a fence");
	struct dma_buf_import_sync_file import = { DMA_BUF_SYNC_RW, fence.fence };
	need(!ioctl(busy, DMA_BUF_IOCTL_IMPORT_SYNC_FILE, &import), "a busy buffer");
	pthread_attr_init(&small);
	pthread_attr_setstacksize(&small, 65536);
	for (int i = 0; i < count; i++)
		need(!pthread_create(&threads[i], &small, i % 2 ? wait_in_sync : wait_in_poll, NULL), "thread");
	for (int i = 0; i < POLLED; i++)
		need((busy_names[i] = dup(busy)) >= 0, "dup");
	for (int i = 0; i < POLLERS; i++)
		need(!pthread_create(&threads[count + i], &small, wait_in_long_poll, NULL), "thread");
	count += POLLERS;
	while (__sync_fetch_and_add(&begun, 0) < count)
		usleep(1000);
	for (int i = 0; i < POLLED; i++)
		polled[i] = i % 8 ? dup(polled[i / 8 * 8]) : alloc();
	for (int i = 0; i < 4; i++)
		need(!pthread_create(&poller[i], NULL, poll_many, polled), "thread");
	for (int i = 0; i < ROUNDS; i++) {
		need(!ioctl(idle, DMA_BUF_IOCTL_SYNC, &start), "SYNC");
		need(!ioctl(idle, DMA_BUF_IOCTL_SYNC, &end), "SYNC");
		need(!close(alloc()), "alloc");
	}
	for (int i = 0; i < 4; i++)
		pthread_join(poller[i], NULL);
	need(__sync_fetch_and_add(&woken, 0) == 0, "nobody wakes before the fence signals");
	need(!ioctl(timeline, INCREMENT, &one), "signal");
	for (int i = 0; i < count; i++)
		pthread_join(threads[i], NULL);
	need(woken == count, "all wake");
	printf("ok\n");
	return 0;
}
