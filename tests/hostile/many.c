/* Many buffers, mapped, then a fork: parent and child count in every page of each, and look whether the
 * last count is still there. Where there is too little of something a call may fail, and with this errno
 * alone; what was mapped counts on. Usage: many BUFFERS SECONDS LEAST [CALL:ERRNO]...; LEAST: of a hundred
 * buffers, or of a hundred descriptors where they are fewer, so many are made and mapped. */
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
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define PAGES 8
#define BUFFERS_MAX 4096

static volatile uint64_t *maps[BUFFERS_MAX];
static int mapped;

static double now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec + ts.tv_nsec / 1e9;
}

static char **allowed;

/* Whether the call that has just failed may do so, with this errno. */
static int may_fail(const char *call)
{
	static const struct { const char *name; int value; } names[] = {
		{ "EMFILE", EMFILE }, { "ENOMEM", ENOMEM }, { "EAGAIN", EAGAIN },
	};
	size_t len = strlen(call);
	int why = errno;

	for (char **one = allowed; *one; one++)
		for (unsigned i = 0; i < sizeof(names) / sizeof(*names); i++)
			if (!strncmp(*one, call, len) && (*one)[len] == ':' && !strcmp(*one + len + 1, names[i].name) && why == names[i].value)
				return 1;
	printf("%s: %s\n", call, strerror(why));
	return 0;
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
	int many = argc > 3 ? atoi(argv[1]) : -1, heap = open("/dev/dma_heap/system", O_RDONLY | O_CLOEXEC), status = 0;
	struct rlimit files;

	if (heap < 0 || many < 0 || many > BUFFERS_MAX || getrlimit(RLIMIT_NOFILE, &files)) {
		perror("many");
		return 2;
	}
	allowed = argv + 4;
	for (; mapped < many; mapped++) {
		struct dma_heap_allocation_data data = { .len = PAGES * 4096, .fd_flags = O_RDWR };

		if (ioctl(heap, DMA_HEAP_IOCTL_ALLOC, &data)) {
			if (may_fail("alloc"))
				break;
			return 1;
		}
		maps[mapped] = mmap(0, PAGES * 4096, PROT_READ | PROT_WRITE, MAP_SHARED, data.fd, 0);
		if (maps[mapped] == MAP_FAILED) {
			if (may_fail("mmap"))
				break;
			return 1;
		}
	}
	long of = (long)files.rlim_cur < many ? (long)files.rlim_cur : many;
	printf("%d buffers, %ld of a hundred\n", mapped, mapped * 100 / of);
	fflush(stdout);
	if (mapped * 100 < atoi(argv[3]) * of) {
		printf("too few\n");
		return 1;
	}
	int pid = fork();
	if (pid < 0 && !may_fail("fork"))
		return 1;
	if (!pid)
		_exit(count("child", 1, atof(argv[2])));
	int bad = count("parent", 0, atof(argv[2]));
	if (pid > 0 && waitpid(pid, &status, 0) != pid)
		return 1;
	if (status)
		printf("the child ended with %#x\n", status);
	return bad || status;
}
