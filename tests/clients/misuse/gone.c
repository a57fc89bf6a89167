/* Touches a buffer after its exporter has purged it, and another one after a revoke. $CTL is a
 * command that takes a verb and an inode. */
#include <fcntl.h>
#include <linux/dma-buf.h>
#include <linux/dma-heap.h>
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define PAGE sysconf(_SC_PAGESIZE)

static sigjmp_buf back;

static void on_bus(int signal)
{
	(void)signal;
	siglongjmp(back, 1);
}

static void sync_buffer(int fd, unsigned long long flags)
{
	struct dma_buf_sync sync = { .flags = flags };

	/* A dead buffer may refuse. */
	ioctl(fd, DMA_BUF_IOCTL_SYNC, &sync);
}

static void order(const char *verb, int fd)
{
	char command[512];
	struct stat stat;

	fstat(fd, &stat);
	snprintf(command, sizeof(command), "%s %s %lu >/dev/null", getenv("CTL"), verb,
		 (unsigned long)stat.st_ino);
	if (system(command))
		exit(11);
}

int main(void)
{
	struct dma_heap_allocation_data one = { .len = 2 * PAGE, .fd_flags = O_RDWR | O_CLOEXEC };
	struct dma_heap_allocation_data two = { .len = 2 * PAGE, .fd_flags = O_RDWR | O_CLOEXEC };
	int heap = open("/dev/dma_heap/system", O_RDONLY | O_CLOEXEC);
	volatile char *first, *second;

	if (ioctl(heap, DMA_HEAP_IOCTL_ALLOC, &one) || ioctl(heap, DMA_HEAP_IOCTL_ALLOC, &two))
		return 1;
	first = mmap(NULL, 2 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, one.fd, 0);
	second = mmap(NULL, 2 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, two.fd, 0);
	if (first == MAP_FAILED || second == MAP_FAILED)
		return 1;
	sync_buffer(one.fd, DMA_BUF_SYNC_START | DMA_BUF_SYNC_RW);
	sync_buffer(two.fd, DMA_BUF_SYNC_START | DMA_BUF_SYNC_RW);
	first[0] = second[0] = 1;
	order("purge", one.fd);
	order("revoke", two.fd);
	signal(SIGBUS, on_bus);
#ifdef BUGGY
	if (sigsetjmp(back, 1) == 0) {
		first[4097] = 1; /* BUG: access-after-purge */
		return 2;
	}
	if (sigsetjmp(back, 1) == 0) {
		one.len += second[5]; /* BUG: access-after-revoke */
		return 3;
	}
#endif
	sync_buffer(one.fd, DMA_BUF_SYNC_END | DMA_BUF_SYNC_RW);
	sync_buffer(two.fd, DMA_BUF_SYNC_END | DMA_BUF_SYNC_RW);
	munmap((char *)first, 2 * PAGE);
	munmap((char *)second, 2 * PAGE);
	close(one.fd);
	close(two.fd);
	return 0;
}
