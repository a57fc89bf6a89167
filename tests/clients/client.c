/* A client of /dev/dma_heap with raw system calls, as C programs are written. Prints one line for
 * each step and exits 0 when all of them did what they do on hardware. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/dma-buf.h>
#include <linux/dma-heap.h>
#include <linux/magic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/vfs.h>
#include <sys/wait.h>
#include <unistd.h>

static int failed;

static void step(const char *what, int ok)
{
	printf("%s: %s\n", what, ok ? "ok" : strerror(errno));
	failed |= !ok;
}

int main(int argc, char **argv)
{
	int expect_gup = argc > 1 && !strcmp(argv[1], "gup-succeeds");
	struct dma_heap_allocation_data data = { .len = 65536, .fd_flags = O_RDWR | O_CLOEXEC };
	struct dma_buf_sync sync = { .flags = DMA_BUF_SYNC_START | DMA_BUF_SYNC_RW };
	char path[] = "/tmp/driftheap-client-XXXXXX";
	int heap = open("/dev/dma_heap/system", O_RDONLY | O_CLOEXEC);
	int status, file;
	struct statfs fs;
	char *map;

	step("open", heap >= 0);
	step("alloc", ioctl(heap, DMA_HEAP_IOCTL_ALLOC, &data) == 0);
	step("size", lseek(data.fd, 0, SEEK_END) == 65536);
	map = mmap(NULL, 65536, PROT_READ | PROT_WRITE, MAP_SHARED, data.fd, 0);
	step("mmap", map != MAP_FAILED);
	step("sync start", ioctl(data.fd, DMA_BUF_IOCTL_SYNC, &sync) == 0);
	memset(map, 0x5a, 65536);
	sync.flags = DMA_BUF_SYNC_END | DMA_BUF_SYNC_RW;
	step("sync end", ioctl(data.fd, DMA_BUF_IOCTL_SYNC, &sync) == 0);
	step("name", ioctl(data.fd, DMA_BUF_SET_NAME, "client") == 0);

	file = mkstemp(path);
	close(file);
	file = open(path, O_RDWR | O_DIRECT);
	unlink(path);
	/* tmpfs takes O_DIRECT since Linux 6.6, and copies. */
	if (file < 0 || fstatfs(file, &fs) || fs.f_type == TMPFS_MAGIC)
		printf("direct: SKIP, /tmp has no O_DIRECT\n");
	else if (expect_gup)
		step("direct", write(file, map, 4096) == 4096);
	else
		step("direct", write(file, map, 4096) == -1 && errno == EFAULT);

	if (fork() == 0) {
		map[0] = 0x11;
		_exit(lseek(data.fd, 0, SEEK_END) == 65536 ? 0 : 1);
	}
	wait(&status);
	step("child", status == 0 && map[0] == 0x11);
	return failed;
}
