/* Two processes of one address space (CLONE_VM, no threads) that map a buffer: one of them executes a
 * program, or ends, and the other goes on; it forks, too. Each counts in its own word of every page and
 * looks, before each store, whether the last one is still there. Usage: halves SECONDS. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/dma-heap.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define PAGES 32
#define PAGE 4096
#define STACK (256 * 1024)

static volatile char *map;
static double seconds;
static char *self;
static volatile int go;

static double now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec + ts.tv_nsec / 1e9;
}

static void must(int good, const char *what)
{
	if (!good) {
		printf("%s: %s\n", what, strerror(errno));
		fflush(stdout);
		_exit(2);
	}
}

static void map_buffer(void)
{
	struct dma_heap_allocation_data data = { .len = PAGES * PAGE, .fd_flags = O_RDWR | O_CLOEXEC };
	int heap = open("/dev/dma_heap/system", O_RDONLY | O_CLOEXEC);

	must(heap >= 0 && !ioctl(heap, DMA_HEAP_IOCTL_ALLOC, &data), "alloc");
	map = mmap(0, PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, data.fd, 0);
	must(map != MAP_FAILED, "mmap");
	close(data.fd);
	close(heap);
}

static int count(const char *how, const char *who, int slot)
{
	uint64_t counts[PAGES], stores = 0, lost = 0;
	double end = now() + seconds;
	char line[256];

	for (int page = 0; page < PAGES; page++)
		counts[page] = *(volatile uint64_t *)(map + page * PAGE + slot * 8);
	while (now() < end)
		for (int n = 0; n < 50 * PAGES; n++, stores++) {
			int page = n * 7 % PAGES;
			volatile uint64_t *word = (volatile uint64_t *)(map + page * PAGE + slot * 8);

			if (*word != counts[page]) {
				lost++;
				counts[page] = *word;
			}
			*word = ++counts[page];
		}
	/* One write: the other half has the same buffer of stdio. */
	int len = snprintf(line, sizeof(line), "%s, %s: %llu stores, %llu lost\n", how, who,
			   (unsigned long long)stores, (unsigned long long)lost);
	must(write(1, line, len) == len, "write");
	return lost != 0;
}

/* The half that stays, and a child of its own. */
static int stays(const char *how)
{
	int status, pid = fork();

	if (!pid)
		_exit(count(how, "child", 1));
	int bad = count(how, "other half", 0);
	must(pid > 0 && waitpid(pid, &status, 0) == pid, "a child");
	return bad || status;
}

static void leave(void)
{
	execl("/proc/self/exe", self, "nothing", (char *)NULL);
	must(0, "exec");
}

static int half_that_stays(void *how)
{
	while (!go)
		usleep(100);
	/* After the exec of the other half. */
	usleep(20000);
	_exit(stays(how));
}

static int half_that_leaves(void *maps)
{
	if (maps)
		map_buffer();
	go = 1;
	leave();
	return 0;
}

static int half_that_ends(void *maps)
{
	if (maps)
		map_buffer();
	_exit(0);
}

static int half(int (*body)(void *), void *arg)
{
	char *stack = mmap(0, STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	int pid = clone(body, stack + STACK, CLONE_VM | SIGCHLD, arg);

	must(pid > 0, "clone");
	return pid;
}

static int ended(int pid)
{
	int status;

	must(waitpid(pid, &status, 0) == pid, "wait");
	return status;
}

/* In a process of its own, each: what is done to its address space is its own affair. */
static int in_child(int which)
{
	int status, pid = fork();

	if (pid)
		return waitpid(pid, &status, 0) != pid || status;
	switch (which) {
	case 0: /* The other half maps nothing, and executes a program. */
		map_buffer();
		status = ended(half(half_that_leaves, NULL));
		_exit(stays("the other executes") || status);
	case 1: /* The other half has mapped it, and executes a program. */
		status = ended(half(half_that_leaves, "maps"));
		_exit(stays("the mapper executes") || status);
	case 2: /* The other half has mapped it, and ends. */
		status = ended(half(half_that_ends, "maps"));
		_exit(stays("the mapper ends") || status);
	case 3: /* The one that has mapped it executes a program; its parent waits for the other. */
		must(!prctl(PR_SET_CHILD_SUBREAPER, 1), "subreaper");
		pid = fork();
		if (!pid) {
			map_buffer();
			half(half_that_stays, "the first executes");
			go = 1;
			leave();
		}
		status = 0;
		for (int one; wait(&one) > 0;)
			status |= one;
		_exit(status != 0);
	default: /* The one that has mapped it ends. */
		must(!prctl(PR_SET_CHILD_SUBREAPER, 1), "subreaper");
		pid = fork();
		if (!pid) {
			map_buffer();
			half(half_that_stays, "the first ends");
			go = 1;
			_exit(0);
		}
		status = 0;
		for (int one; wait(&one) > 0;)
			status |= one;
		_exit(status != 0);
	}
}

int main(int argc, char **argv)
{
	int bad = 0;

	self = argv[0];
	if (argc > 1 && !strcmp(argv[1], "nothing"))
		return 0;
	seconds = argc > 1 ? atof(argv[1]) : 0.2;
	for (int which = 0; which < 5; which++)
		bad |= in_child(which);
	return bad;
}
