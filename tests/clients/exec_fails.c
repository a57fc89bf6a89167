/* A process whose execve, execveat, clone3, unshare, setns or fork fails, or comes back, goes on as it was: it forks, and both count in
 * their own word of every page of a dma-buf and look, before each store, whether the last one is
 * still there. Usage: exec_fails SECONDS; one line for each writer; exits 0 if nothing was lost. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/dma-heap.h>
#include <pthread.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define PAGES 64
#define PAGE 4096

static volatile char *map;
static double seconds;
static char *const args[] = { "nothing", 0 };
static const char nowhere[] = "/nowhere/there is no such program";

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

static int count(const char *how, const char *who, int slot)
{
	uint64_t counts[PAGES], stores = 0, lost = 0;
	double end = now() + seconds;

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
	printf("%s, %s: %llu stores, %llu lost\n", how, who, (unsigned long long)stores,
	       (unsigned long long)lost);
	fflush(stdout);
	return lost != 0;
}

static void by_execve(void)
{
	must(execve(nowhere, args, args + 1) < 0 && errno == ENOENT, "execve");
}

static void by_execveat(void)
{
	must(syscall(SYS_execveat, AT_FDCWD, nowhere, args, args + 1, 0) < 0 && errno == ENOENT,
	     "execveat");
}

static void *in_thread(void *unused)
{
	(void)unused;
	by_execve();
	return 0;
}

static void by_a_thread(void)
{
	pthread_t thread;

	must(!pthread_create(&thread, 0, in_thread, 0), "thread");
	pthread_join(thread, 0);
}

static void by_a_vforked_child(void)
{
	int status, pid = vfork();

	if (!pid) {
		execve(nowhere, args, args + 1);
		_exit(7);
	}
	waitpid(pid, &status, 0);
	must(WIFEXITED(status) && WEXITSTATUS(status) == 7, "vfork");
	pid = vfork();
	if (!pid) {
		char *const true_[] = { "true", 0 };

		execve("/bin/true", true_, true_ + 1);
		_exit(7);
	}
	waitpid(pid, &status, 0);
	must(WIFEXITED(status) && !WEXITSTATUS(status), "exec in a vforked child");
}

static void by_clone3(void)
{
	/* An exit signal that does not exist, and an address that does not. */
	uint64_t bad[11] = { 0, 0, 0, 0, 1000 };

	must(syscall(SYS_clone3, bad, sizeof bad) < 0, "clone3");
	must(syscall(SYS_clone3, 8, sizeof bad) < 0, "clone3");
}

static void by_unshare(void)
{
	must(unshare(0x1) < 0 && errno == EINVAL, "unshare of nothing");
	must(!unshare(CLONE_FS | CLONE_FILES | CLONE_SYSVSEM), "unshare of files");
}

static void by_setns(void)
{
	int own = open("/proc/self/ns/uts", O_RDONLY | O_CLOEXEC);

	must(setns(-1, 0) < 0 && errno == EBADF, "setns of nothing");
	/* Its own: root may, others may not. */
	must(own >= 0 && (!setns(own, CLONE_NEWUTS) || errno == EPERM), "setns");
	close(own);
}

/* More forks than its user may have processes; root may have any number. */
static void by_fork(void)
{
	struct rlimit before, none = { 0, 0 };

	must(!getrlimit(RLIMIT_NPROC, &before), "getrlimit");
	none.rlim_max = before.rlim_max;
	must(!setrlimit(RLIMIT_NPROC, &none), "setrlimit");
	for (int i = 0; i < 20; i++) {
		int status, pid = fork();

		if (!pid)
			_exit(0);
		must(pid < 0 ? errno == EAGAIN : waitpid(pid, &status, 0) == pid && !status, "fork");
	}
	must(!setrlimit(RLIMIT_NPROC, &before), "setrlimit");
}

int main(int argc, char **argv)
{
	struct dma_heap_allocation_data data = { .len = PAGES * PAGE, .fd_flags = O_RDWR };
	struct {
		const char *name;
		void (*fail)(void);
	} ways[] = { { "execve", by_execve },
		     { "execveat", by_execveat },
		     { "execve in a thread", by_a_thread },
		     { "execve in a vforked child", by_a_vforked_child },
		     { "clone3", by_clone3 },
		     { "unshare", by_unshare },
		     { "setns", by_setns },
		     { "fork", by_fork } };
	int heap = open("/dev/dma_heap/system", O_RDONLY | O_CLOEXEC), bad = 0;

	must(argc == 2, "usage");
	seconds = atof(argv[1]);
	must(heap >= 0 && !ioctl(heap, DMA_HEAP_IOCTL_ALLOC, &data), "alloc");
	map = mmap(0, PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, data.fd, 0);
	must(map != MAP_FAILED, "mmap");
	for (unsigned n = 0; n < sizeof ways / sizeof *ways; n++) {
		int status, pid;

		ways[n].fail();
		pid = fork();
		must(pid >= 0, "fork");
		if (!pid)
			_exit(count(ways[n].name, "child", 2 * n + 1));
		bad |= count(ways[n].name, "parent", 2 * n);
		must(waitpid(pid, &status, 0) == pid, "wait");
		bad |= status;
	}
	return !!bad;
}
