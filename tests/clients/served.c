/* Writers of a buffer of `driftheap serve --socket`, which moves under them: threads of two processes,
 * each with a connection of its own. Each counts in its own word of every page and looks, before each
 * store, whether its last one is still there.
 *
 *   served SOCKET SECONDS [wrong]
 *
 * `wrong`: the second process stores through a mapping that the exporter's zap does not reach, until one
 * is lost. Prints a line for each writer, then "M moves"; exits 0 if nothing was lost and the exporter has
 * reported nothing, 1 if something was, 2 if it could not try. */
#define _GNU_SOURCE
#include "driftheap.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>

#define PAGES 16
#define WRITERS 2

/* What a writer that loses stores waits for at most. */
#define PATIENCE 60

static double deadline;
static atomic_int done;

struct writer {
	const char *name;
	int slot;
	dh_mapping *map;
	dh_importer_mapping *through; /* or NULL */
	uint64_t count[PAGES];
	uint64_t stores, lost;
};

static double now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec + ts.tv_nsec / 1e9;
}

static void must(int ok, const char *what)
{
	if (!ok) {
		printf("%s: %s\n", what, dh_error());
		fflush(stdout);
		_exit(2);
	}
}

static uint64_t load(struct writer *w, size_t at)
{
	uint64_t value = 0;

	must(dh_load(w->map, at, &value, sizeof value) == 0, "load");
	return value;
}

static void store(struct writer *w, size_t at, uint64_t value)
{
	uint64_t before = value - 1;

	if (!w->through) {
		must(dh_store(w->map, at, &value, sizeof value) == 0, "store");
		return;
	}
	for (size_t n = 0; n < sizeof value; n++)
		if (((uint8_t *)&value)[n] != ((uint8_t *)&before)[n])
			must(dh_importer_store(w->through, at + n, ((uint8_t *)&value)[n]) == 0, "store");
}

static void *write_all(void *arg)
{
	struct writer *w = arg;

	/* Once at least, however late it was woken. */
	do {
		for (int page = 0; page < PAGES; page++) {
			size_t at = page * DH_PAGE_SIZE + w->slot * 8;
			uint64_t found = load(w, at);

			if (found != w->count[page]) {
				w->lost++;
				w->count[page] = found;
			}
			store(w, at, ++w->count[page]);
			w->stores++;
		}
	} while (now() < deadline || (w->through && !w->lost && now() < deadline + PATIENCE));
	return NULL;
}

static int write_by_threads(dh_buffer *buffer, const char *name, int first, int wrong)
{
	struct writer w[WRITERS] = { { 0 } };
	pthread_t threads[WRITERS];
	int lost = 0;

	for (int n = 0; n < WRITERS; n++) {
		w[n].name = name;
		w[n].slot = first + n;
		must((w[n].map = dh_map(buffer)) != NULL, "map");
		if (wrong)
			must((w[n].through = dh_map_through_importer(buffer)) != NULL, "map through the importer");
		pthread_create(&threads[n], NULL, write_all, &w[n]);
	}
	for (int n = 0; n < WRITERS; n++) {
		pthread_join(threads[n], NULL);
		for (int page = 0; page < PAGES; page++)
			w[n].lost += load(&w[n], page * DH_PAGE_SIZE + w[n].slot * 8) != w[n].count[page];
		printf("%s %d: %llu stores, %llu lost\n", w[n].name, n + 1, (unsigned long long)w[n].stores,
		       (unsigned long long)w[n].lost);
		lost |= w[n].lost != 0;
		dh_importer_unmap(w[n].through);
		dh_unmap(w[n].map);
	}
	fflush(stdout);
	return lost;
}

static void *move_it(void *arg)
{
	intptr_t moves = 0;

	do {
		enum dh_work to = moves % 2 ? DH_MOVE_TO_VRAM : DH_MOVE_TO_SYSTEM;
		int failed = dh_make(arg, to);

		/* EBUSY: somebody held the lock for too long, as a thread that is given no time may. */
		must(failed == 0 || failed == -EBUSY, "move");
		moves += failed == 0;
	} while (!atomic_load(&done));
	return (void *)moves;
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
	must(sendmsg(sock, &msg, 0) == 1, "sendmsg");
}

static int take(int sock)
{
	char byte, space[CMSG_SPACE(sizeof(int))];
	struct iovec iov = { &byte, 1 };
	struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = space,
			      .msg_controllen = sizeof space };
	int fd = -1;

	must(recvmsg(sock, &msg, 0) == 1 && CMSG_FIRSTHDR(&msg), "recvmsg");
	memcpy(&fd, CMSG_DATA(CMSG_FIRSTHDR(&msg)), sizeof fd);
	return fd;
}

/* Another client, which was given the buffer's file. */
static int second_process(const char *path, int sock, int wrong)
{
	dh_heap *heap = dh_open(path, "second");
	int fd = take(sock), lost;
	dh_buffer *buffer;

	must(heap != NULL, "open");
	must((buffer = dh_import(heap, fd)) != NULL, "import");
	close(fd);
	lost = write_by_threads(buffer, wrong ? "second, wrong" : "second", WRITERS, wrong);
	dh_buffer_free(buffer);
	dh_close(heap);
	return lost;
}

int main(int argc, char **argv)
{
	int wrong = argc == 4 && !strcmp(argv[3], "wrong"), pair[2], status, bad;
	dh_buffer *buffer;
	pthread_t mover;
	dh_heap *heap;
	void *moves;
	char *report;
	pid_t child;

	if (argc != 3 && !wrong) {
		fprintf(stderr, "usage: served SOCKET SECONDS [wrong]\n");
		return 2;
	}
	deadline = now() + atof(argv[2]);
	must(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) == 0, "socketpair");
	child = fork();
	must(child >= 0, "fork");
	if (child == 0) {
		/* Nobody waits for ever for a parent that died. */
		alarm((unsigned)atoi(argv[2]) + 2 * PATIENCE);
		_exit(second_process(argv[1], pair[1], wrong));
	}
	must((heap = dh_open(argv[1], "first")) != NULL, "open");
	must((buffer = dh_alloc(heap, "system", PAGES * DH_PAGE_SIZE)) != NULL, "alloc");
	must(dh_set_name(buffer, "frame") == 0, "name");
	give(pair[0], dh_buffer_fd(buffer));
	pthread_create(&mover, NULL, move_it, buffer);
	bad = write_by_threads(buffer, "first", 0, 0);
	bad |= waitpid(child, &status, 0) != child || status != 0;
	atomic_store(&done, 1);
	pthread_join(mover, &moves);
	must((report = dh_findings(heap)) != NULL, "findings");
	printf("%ld moves\n%s", (long)(intptr_t)moves, report);
	bad |= *report != 0;
	dh_text_free(report);
	dh_buffer_free(buffer);
	dh_close(heap);
	return bad || !moves;
}
