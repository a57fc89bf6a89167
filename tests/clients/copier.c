/* System calls that copy to and from a dma-buf's mapping, in a loop, by two threads: write, read,
 * writev, pwrite, pread, a pipe. On hardware none of them ever fails. Usage: copier SECONDS; exits 0
 * when every call copied all that it was asked for, and what came back is what went in. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/dma-heap.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#define PAGE sysconf(_SC_PAGESIZE)
#define HALF (32 * PAGE)

static double deadline;
static char *map;
static int bad;
static unsigned long calls;

static double now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec + ts.tv_nsec / 1e9;
}

static void expect(const char *what, long got, long want)
{
	__sync_fetch_and_add(&calls, 1);
	if (got == want)
		return;
	printf("%s: %ld of %ld: %s\n", what, got, want, got < 0 ? strerror(errno) : "short");
	bad = 1;
}

static void *copy(void *arg)
{
	char *half = map + (intptr_t)arg * HALF, path[] = "/tmp/copier-XXXXXX";
	int file = mkstemp(path), pipes[2];
	unsigned char seed = 0;

	unlink(path);
	if (file < 0 || pipe(pipes))
		exit(2);
	while (now() < deadline && !bad) {
		char *from = half, *to = half + 16 * PAGE;
		long len = 9 * PAGE + 123;
		struct iovec iov[2] = { { from, 5000 }, { from + 5000, len - 5000 } };

		memset(from, ++seed, len);
		memset(to, 0, len);
		expect("pwrite", pwrite(file, from, len, 0), len);
		expect("pread", pread(file, to, len, 0), len);
		if (memcmp(from, to, len))
			printf("pread: other bytes\n"), bad = 1;
		lseek(file, 0, SEEK_SET);
		expect("writev", writev(file, iov, 2), len);
		memset(to, 0, len);
		lseek(file, 0, SEEK_SET);
		expect("read", read(file, to, len), len);
		if (memcmp(from, to, len))
			printf("read: other bytes\n"), bad = 1;
		expect("write to a pipe", write(pipes[1], from + 100, 5000), 5000);
		memset(to, 0, 5000);
		if (bad)
			break;
		expect("read of a pipe", read(pipes[0], to, 5000), 5000);
		if (memcmp(from + 100, to, 5000))
			printf("pipe: other bytes\n"), bad = 1;
	}
	return 0;
}

int main(int argc, char **argv)
{
	struct dma_heap_allocation_data data = { .len = 2 * HALF, .fd_flags = O_RDWR };
	int heap = open("/dev/dma_heap/system", O_RDONLY | O_CLOEXEC);
	pthread_t threads[2];

	deadline = now() + atof(argv[1]);
	if (heap < 0 || ioctl(heap, DMA_HEAP_IOCTL_ALLOC, &data))
		return 2;
	map = mmap(0, 2 * HALF, PROT_READ | PROT_WRITE, MAP_SHARED, data.fd, 0);
	if (map == MAP_FAILED)
		return 2;
	for (intptr_t n = 0; n < 2; n++)
		pthread_create(&threads[n], 0, copy, (void *)n);
	for (int n = 0; n < 2; n++)
		pthread_join(threads[n], 0);
	printf("%lu calls\n", calls);
	return bad;
}
