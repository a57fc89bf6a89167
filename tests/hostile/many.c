/* Many buffers, mapped, then a fork: parent and child count in every page of each, and look whether the
 * last count is still there. Where there is too little of something a call may fail, with an errno that
 * says so; what was mapped counts on. Usage: many BUFFERS SECONDS. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/dma-heap.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define PAGES 4
#define BUFFERS_MAX 4096

static volatile uint64_t *maps[BUFFERS_MAX];
static int mapped;

static double now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec + ts.tv_nsec / 1e9;
}

static int short_of_something(void)
{
	return errno == EMFILE || errno == ENFILE || errno == ENOMEM || errno == EAGAIN;
}

static int count(const char *who, int slot, double seconds)
{
	unsigned long stores = 0, lost = 0;
	double end = now() + seconds;
	uint64_t n = 0;

	do {
		n++;
		for (int i = 0; i < mapped; i++)
			for (int page = 0; page < PAGES; page++, stores++) {
				volatile uint64_t *word = maps[i] + page * 512 + slot;

				lost += *word != n - 1;
				*word = n;
			}
	} while (now() < end);
	printf("%s: %lu stores, %lu lost\n", who, stores, lost);
	fflush(stdout);
	return lost != 0;
}

int main(int argc, char **argv)
{
	int many = argc == 3 ? atoi(argv[1]) : 0, heap = open("/dev/dma_heap/system", O_RDONLY | O_CLOEXEC), status = 0;

	if (heap < 0 || many > BUFFERS_MAX)
		return short_of_something() ? 0 : 2;
	for (; mapped < many; mapped++) {
		struct dma_heap_allocation_data data = { .len = PAGES * 4096, .fd_flags = O_RDWR };

		if (ioctl(heap, DMA_HEAP_IOCTL_ALLOC, &data)) {
			if (short_of_something())
				break;
			perror("alloc");
			return 1;
		}
		maps[mapped] = mmap(0, PAGES * 4096, PROT_READ | PROT_WRITE, MAP_SHARED, data.fd, 0);
		if (maps[mapped] == MAP_FAILED) {
			if (short_of_something())
				break;
			perror("mmap");
			return 1;
		}
	}
	int pid = fork();
	if (pid < 0 && !short_of_something()) {
		perror("fork");
		return 1;
	}
	if (!pid)
		_exit(count("child", 1, atof(argv[2])));
	int bad = count("parent", 0, atof(argv[2]));
	if (pid > 0 && waitpid(pid, &status, 0) != pid)
		return 1;
	return bad || status;
}
