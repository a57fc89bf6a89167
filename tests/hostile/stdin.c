/* /dev/stdin, and other names for a buffer's descriptor, where a buffer stands on descriptor 0. On
 * hardware open(2) of such a name answers ENXIO, as for any anonymous file that has no open of its own.
 * Here it may succeed or fail; it must do so at once, and the buffer is as before. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/dma-buf.h>
#include <linux/dma-heap.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define BYTES 8192
/* A lease that is broken is waited for, 45 seconds by default; no machine is so slow otherwise. */
#define SECONDS_MAX 20

static void need(int good, const char *what)
{
	if (!good) {
		printf("%s: %s\n", what, strerror(errno));
		exit(1);
	}
}

static void as_before(void)
{
	struct dma_buf_sync sync = { DMA_BUF_SYNC_START | DMA_BUF_SYNC_RW };

	need(!ioctl(0, DMA_BUF_IOCTL_SYNC, &sync), "SYNC");
	need(lseek(0, 0, SEEK_END) == BYTES, "lseek");
}

int main(void)
{
	struct dma_heap_allocation_data data = { .len = BYTES, .fd_flags = O_RDWR };
	int heap = open("/dev/dma_heap/system", O_RDONLY | O_CLOEXEC);
	char link[64], own[64];
	const char *names[] = { "/dev/stdin", "/dev/fd/0", "/proc/self/fd/0", own, link };
	int flags[] = { O_RDONLY, O_RDWR, O_WRONLY, O_RDONLY | O_NONBLOCK, O_RDWR | O_CLOEXEC };

	need(heap >= 0 && !ioctl(heap, DMA_HEAP_IOCTL_ALLOC, &data), "alloc");
	need(dup2(data.fd, 0) == 0 && !close(data.fd), "dup2");
	snprintf(own, sizeof(own), "/proc/%d/fd/0", getpid());
	snprintf(link, sizeof(link), "link-%d", getpid());
	need(!symlink("/proc/self/fd/0", link), "symlink");
	for (unsigned i = 0; i < sizeof(names) / sizeof(*names); i++)
		for (unsigned j = 0; j < sizeof(flags) / sizeof(*flags); j++) {
			struct timespec begun, ended;
			struct dma_buf_sync sync = { DMA_BUF_SYNC_START | DMA_BUF_SYNC_RW };

			clock_gettime(CLOCK_MONOTONIC, &begun);
			int fd = open(names[i], flags[j]);
			int why = errno;
			clock_gettime(CLOCK_MONOTONIC, &ended);
			if (ended.tv_sec - begun.tv_sec > SECONDS_MAX) {
				printf("open of %s took %ld s\n", names[i],
				       (long)(ended.tv_sec - begun.tv_sec));
				return 1;
			}
			errno = why;
			if (fd < 0) {
				need(errno == ENXIO, names[i]);
			} else {
				need(!ioctl(fd, DMA_BUF_IOCTL_SYNC, &sync), "SYNC of another name");
				close(fd);
			}
			as_before();
		}
	unlink(link);
	printf("ok\n");
	return 0;
}
