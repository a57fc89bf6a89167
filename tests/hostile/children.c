/* A server keeps a buffer; short children watch it with epolls of their own, poll it, and end. Nobody
 * may be refused for what those before it have left. Usage: children N. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/dma-buf.h>
#include <linux/dma-heap.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/wait.h>
#include <unistd.h>

#define EPOLLS 4

static void need(int good, const char *what)
{
	if (!good) {
		printf("%s: %s\n", what, strerror(errno));
		fflush(stdout);
		_exit(1);
	}
}

/* Watches `fd` in `epoll` until it is writable, which an idle buffer is. */
static void watch(int epoll, int fd)
{
	struct epoll_event event = { .events = EPOLLOUT, .data.u64 = 77 };

	need(!epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event), "watch");
	event.data.u64 = 0;
	need(epoll_wait(epoll, &event, 1, 60000) == 1 && event.data.u64 == 77, "epoll_wait");
}

static void child(int fd, int inherited)
{
	struct dma_buf_sync sync = { DMA_BUF_SYNC_START | DMA_BUF_SYNC_RW };
	struct pollfd wait = { fd, POLLOUT, 0 };
	struct epoll_event event = { .events = EPOLLOUT, .data.u64 = 78 };

	for (int i = 0; i < EPOLLS; i++)
		watch(epoll_create1(EPOLL_CLOEXEC), fd);
	/* The server's own watch, in the server's epoll. */
	need(!epoll_ctl(inherited, EPOLL_CTL_MOD, fd, &event), "change what was inherited");
	need(epoll_wait(inherited, &event, 1, 60000) == 1 && event.data.u64 == 78, "epoll_wait");
	need(poll(&wait, 1, 60000) == 1, "poll");
	need(!ioctl(fd, DMA_BUF_IOCTL_SYNC, &sync), "sync");
	_exit(0);
}

int main(int argc, char **argv)
{
	struct dma_heap_allocation_data data = { .len = 4096, .fd_flags = O_RDWR | O_CLOEXEC };
	int heap = open("/dev/dma_heap/system", O_RDONLY | O_CLOEXEC), own = epoll_create1(0), status;

	need(argc == 2 && heap >= 0 && !ioctl(heap, DMA_HEAP_IOCTL_ALLOC, &data), "alloc");
	watch(own, data.fd);
	for (int i = atoi(argv[1]); i > 0; i--) {
		int pid = fork();

		if (!pid)
			child(data.fd, own);
		need(pid > 0 && waitpid(pid, &status, 0) == pid && !status, "a child");
	}
	struct epoll_event event = { 0 };
	need(epoll_wait(own, &event, 1, 60000) == 1 && event.data.u64 == 78, "the server's watch");
	need(!epoll_ctl(own, EPOLL_CTL_DEL, data.fd, NULL), "end of the server's watch");
	printf("ok\n");
	return 0;
}
