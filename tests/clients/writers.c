/* Writers that would notice a lost update: each counts in its own word of every page of a dma-buf
 * and looks, before each store, whether its last one is still there. They map the buffer in every
 * way that a program can: threads, fork and fork again, a second mapping of a part, what is left
 * after munmap of the middle, mremap, exec, a descriptor from another process, map and unmap in
 * turn. Usage: writers SECONDS; prints one line for each writer; exits 0 if nothing was
 * lost. "exec-fd N" is how it executes itself. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/dma-buf.h>
#include <linux/dma-heap.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define PAGES 64
#define PAGE sysconf(_SC_PAGESIZE)

static double deadline;

struct writer {
	const char *name;
	int slot;
	/* Where page n of the buffer is mapped, or 0. */
	volatile char *at[PAGES];
	uint64_t count[PAGES];
	uint64_t stores, lost;
};

static double now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec + ts.tv_nsec / 1e9;
}

static void die(const char *what)
{
	printf("%s: %s\n", what, strerror(errno));
	fflush(stdout);
	_exit(2);
}

static void put(struct writer *w, int page)
{
	volatile uint64_t *word = (volatile uint64_t *)(w->at[page] + w->slot * 8);

	if (*word != w->count[page]) {
		w->lost++;
		w->count[page] = *word;
	}
	*word = ++w->count[page];
	w->stores++;
}

static void *write_all(void *arg)
{
	struct writer *w = arg;

	/* Once at least, however late it was woken. */
	for (int n = 0; !w->stores; n++)
		if (w->at[n % PAGES])
			put(w, n % PAGES);
	while (now() < deadline)
		for (int n = 0; n < 50 * PAGES; n++)
			if (w->at[(n * 7) % PAGES])
				put(w, (n * 7) % PAGES);
	return 0;
}

static void spread(struct writer *w, char *map, int from, int to)
{
	for (int page = from; page < to; page++)
		w->at[page] = map + (page - from) * PAGE;
}

static char *map(int fd, int from, int to)
{
	char *at = mmap(0, (to - from) * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd,
			from * PAGE);

	if (at == MAP_FAILED)
		die("mmap");
	return at;
}

static struct writer *writer(const char *name, int slot)
{
	struct writer *w = calloc(1, sizeof *w);

	w->name = name;
	w->slot = slot;
	return w;
}

/* Counts on what is in the buffer when the writer begins. */
static void adopt(struct writer *w)
{
	for (int page = 0; page < PAGES; page++)
		if (w->at[page])
			w->count[page] = *(volatile uint64_t *)(w->at[page] + w->slot * 8);
}

/* Whether everything counted is in the buffer, seen through `seen`. */
static int check(struct writer *w, volatile char *seen)
{
	for (int page = 0; seen && page < PAGES; page++)
		if (w->at[page] &&
		    *(volatile uint64_t *)(seen + page * PAGE + w->slot * 8) != w->count[page])
			w->lost++;
	printf("%s: %llu stores, %llu lost\n", w->name, (unsigned long long)w->stores,
	       (unsigned long long)w->lost);
	fflush(stdout);
	return w->lost || !w->stores;
}

static void *churn(void *arg)
{
	struct writer *w = arg;
	int fd = (int)(intptr_t)w->at[0];

	do {
		int many = now() < deadline ? 2000 : 1;
		char *at = map(fd, 8, 24);

		memset(w->at, 0, sizeof w->at);
		spread(w, at, 8, 24);
		for (int n = 0; n < many; n++)
			put(w, 8 + n % 16);
		munmap(at, 16 * PAGE);
	} while (now() < deadline);
	return 0;
}

static const char *self, *seconds;

static int in_child(int (*body)(int, char *), int fd, char *shared)
{
	int pid;

	fflush(stdout);
	pid = fork();
	if (pid < 0)
		die("fork");
	if (pid == 0) {
		int status;

		/* Nobody waits for ever for a parent that died. */
		alarm(atoi(seconds) + 30);
		status = body(fd, shared);

		fflush(stdout);
		_exit(status);
	}
	return pid;
}

static int plain_child(int fd, char *shared)
{
	struct writer *w = writer("fork", 2);

	spread(w, shared, 0, PAGES);
	adopt(w);
	write_all(w);
	return check(w, shared);
}

static int grandchild(int fd, char *shared)
{
	struct writer *w = writer("fork of fork", 3);

	spread(w, shared, 0, PAGES);
	adopt(w);
	write_all(w);
	return check(w, shared);
}

static int forking_child(int fd, char *shared)
{
	int pid = in_child(grandchild, fd, shared), status, bad;
	struct writer *w = writer("fork, a child of its own", 4);
	pthread_t thread;

	spread(w, shared, 0, PAGES);
	adopt(w);
	pthread_create(&thread, 0, write_all, w);
	pthread_join(thread, 0);
	bad = check(w, shared);
	waitpid(pid, &status, 0);
	return bad || status;
}

static int holes_child(int fd, char *shared)
{
	struct writer *w = writer("munmap of the middle", 5);
	char *at = map(fd, 0, PAGES);

	munmap(at + 20 * PAGE, 9 * PAGE);
	spread(w, at, 0, 20);
	spread(w, at + 29 * PAGE, 29, PAGES);
	adopt(w);
	write_all(w);
	return check(w, shared);
}

static int remap_child(int fd, char *shared)
{
	struct writer *w = writer("mremap", 6);
	char *at = map(fd, 0, PAGES), *to;

	at = mremap(at, PAGES * PAGE, 40 * PAGE, 0);
	if (at == MAP_FAILED)
		die("mremap");
	adopt(w);
	do {
		int many = now() < deadline ? 4000 : 1;

		to = mmap(0, 40 * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		at = mremap(at, 40 * PAGE, 40 * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, to);
		if (at == MAP_FAILED)
			die("mremap");
		memset(w->at, 0, sizeof w->at);
		spread(w, at, 0, 40);
		for (int n = 0; n < many; n++)
			put(w, n % 40);
	} while (now() < deadline);
	return check(w, shared);
}

static int overlay_child(int fd, char *shared)
{
	struct writer *w = writer("MAP_FIXED over a part", 7);
	char *at = map(fd, 0, PAGES);

	if (mmap(at + 10 * PAGE, 10 * PAGE, PROT_READ | PROT_WRITE,
		 MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == MAP_FAILED)
		die("mmap fixed");
	memset(at + 10 * PAGE, 1, 10 * PAGE);
	/* Pages 30 to 40 of the buffer once more, in the middle of the old mapping. */
	if (mmap(at + 50 * PAGE, 10 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd,
		 30 * PAGE) == MAP_FAILED)
		die("mmap fixed");
	spread(w, at, 0, 10);
	spread(w, at + 50 * PAGE, 30, 40);
	adopt(w);
	write_all(w);
	return check(w, shared);
}

static int socket_of_child = -1;

static int stranger(int fd, char *shared)
{
	struct writer *w = writer("descriptor from a socket", 8);
	char byte, space[CMSG_SPACE(sizeof fd)];
	struct iovec iov = { &byte, 1 };
	struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = space,
			      .msg_controllen = sizeof space };

	if (recvmsg(socket_of_child, &msg, 0) != 1)
		die("recvmsg");
	memcpy(&fd, CMSG_DATA(CMSG_FIRSTHDR(&msg)), sizeof fd);
	shared = map(fd, 0, PAGES);
	spread(w, shared, 0, PAGES);
	write_all(w);
	return check(w, shared);
}

static void give(int sock, int fd)
{
	char byte = 0, space[CMSG_SPACE(sizeof fd)] = { 0 };
	struct iovec iov = { &byte, 1 };
	struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = space,
			      .msg_controllen = sizeof space };
	struct cmsghdr *cmsg = CMSG_FIRSTHDR(&msg);

	cmsg->cmsg_level = SOL_SOCKET;
	cmsg->cmsg_type = SCM_RIGHTS;
	cmsg->cmsg_len = CMSG_LEN(sizeof fd);
	memcpy(CMSG_DATA(cmsg), &fd, sizeof fd);
	if (sendmsg(sock, &msg, 0) != 1)
		die("sendmsg");
}

static int executed(int fd)
{
	struct writer *w = writer("exec", 9);
	char *shared = map(fd, 0, PAGES);

	spread(w, shared, 0, PAGES);
	adopt(w);
	write_all(w);
	return check(w, shared);
}

static int exec_child(int fd, char *shared)
{
	char number[16];

	/* The old image uses the buffer first. */
	shared[9 * 8] = 0;
	sprintf(number, "%d", fd);
	execl(self, self, seconds, "exec-fd", number, (char *)0);
	die("exec");
	return 1;
}

int main(int argc, char **argv)
{
	struct dma_heap_allocation_data data = { .len = PAGES * PAGE, .fd_flags = O_RDWR };
	struct writer *w[4];
	int (*ways[])(int, char *) = { plain_child, forking_child, holes_child, remap_child,
				       overlay_child, exec_child };
	int heap, pair[2], pids[16], count = 0, bad = 0, status;
	pthread_t threads[4];
	char *shared, *part;

	self = argv[0];
	seconds = argv[1];
	deadline = now() + atof(argv[1]);
	if (argc > 3 && !strcmp(argv[2], "exec-fd"))
		return executed(atoi(argv[3]));
	socketpair(AF_UNIX, SOCK_SEQPACKET, 0, pair);
	socket_of_child = pair[1];
	pids[count++] = in_child(stranger, -1, 0);
	heap = open("/dev/dma_heap/system", O_RDONLY | O_CLOEXEC);
	if (heap < 0 || ioctl(heap, DMA_HEAP_IOCTL_ALLOC, &data))
		die("alloc");
	give(pair[0], data.fd);
	shared = map(data.fd, 0, PAGES);
	part = map(data.fd, 16, 48);
	for (unsigned n = 0; n < sizeof ways / sizeof *ways; n++)
		pids[count++] = in_child(ways[n], data.fd, shared);
	w[0] = writer("thread", 0);
	spread(w[0], shared, 0, PAGES);
	w[1] = writer("second mapping", 1);
	spread(w[1], part, 16, 48);
	w[2] = writer("map and unmap", 10);
	w[2]->at[0] = (char *)(intptr_t)data.fd;
	pthread_create(&threads[0], 0, write_all, w[0]);
	pthread_create(&threads[1], 0, write_all, w[1]);
	pthread_create(&threads[2], 0, churn, w[2]);
	for (int n = 0; n < 3; n++)
		pthread_join(threads[n], 0);
	bad |= check(w[0], shared) | check(w[1], shared) | check(w[2], 0);
	while (count) {
		waitpid(pids[--count], &status, 0);
		bad |= status;
	}
	return !!bad;
}
