/* The kernel's accesses to a buffer's mapping, each kind in a loop: what was asked for arrives, whole and
 * right, and no EFAULT comes that hardware would not give. Usage: accesses SECONDS KIND...; a kind that
 * the system has not is said. `aio`, `uring` and `mmsg` count an EFAULT and try again, since a plain
 * user's moves can't see these calls. Prints "KIND: N rounds, N retried, N lost". */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/aio_abi.h>
#include <linux/dma-heap.h>
#include <linux/futex.h>
#include <linux/io_uring.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#define PAGE 4096
#define LEN (4 * PAGE)

static unsigned char *map, *plain;
static int file, pipes[2], pair[2];
static double end;
static unsigned long rounds, retried, lost;
static unsigned char seed;

static double now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec + ts.tv_nsec / 1e9;
}

/* A call that did not do all: its errno is kept for who looks. */
static int all(long got, long want, const char *what)
{
	if (got == want)
		return 1;
	if (got < 0 && errno == EFAULT) {
		retried++;
		return 0;
	}
	printf("%s: %ld of %ld: %s\n", what, got, want, strerror(errno));
	lost++;
	return 0;
}

static void same(const unsigned char *bytes, long len, const char *what)
{
	for (long i = 0; i < len; i++)
		if (bytes[i] != (unsigned char)(seed + i / PAGE)) {
			printf("%s: byte %ld is another\n", what, i);
			lost++;
			return;
		}
}

static void fill(unsigned char *bytes, long len)
{
	seed++;
	for (long i = 0; i < len; i++)
		bytes[i] = (unsigned char)(seed + i / PAGE);
}

static void by_read(void)
{
	fill(map, LEN);
	if (all(pwrite(file, map, LEN, 0), LEN, "pwrite")) {
		memset(map, 0, LEN);
		if (all(pread(file, map, LEN, 0), LEN, "pread"))
			same(map, LEN, "pread");
	}
}

static void by_readv(void)
{
	struct iovec iov[2] = { { map, 5000 }, { map + 5000, LEN - 5000 } };

	fill(map, LEN);
	if (all(pwritev(file, iov, 2, 0), LEN, "pwritev")) {
		memset(map, 0, LEN);
		if (all(preadv(file, iov, 2, 0), LEN, "preadv"))
			same(map, LEN, "preadv");
	}
}

/* A file goes through a pipe to the buffer. */
static void by_splice(void)
{
	loff_t at = 0;

	fill(plain, PAGE);
	if (pwrite(file, plain, PAGE, 0) != PAGE || splice(file, &at, pipes[1], NULL, PAGE, 0) != PAGE)
		exit(77);
	if (all(read(pipes[0], map, PAGE), PAGE, "read of a splice"))
		same(map, PAGE, "splice");
	else
		while (read(pipes[0], plain, PAGE) > 0)
			break;
}

static void by_sendfile(void)
{
	off_t at = 0;

	fill(plain, PAGE);
	if (pwrite(file, plain, PAGE, 0) != PAGE || sendfile(pair[0], file, &at, PAGE) != PAGE)
		exit(77);
	if (all(recv(pair[1], map, PAGE, 0), PAGE, "recv of a sendfile"))
		same(map, PAGE, "sendfile");
}

/* Copies of the buffer's pages in a pipe: a stream of their bytes, whatever moves meanwhile. */
static void by_vmsplice(void)
{
	struct iovec iov = { map, PAGE }, into = { map + PAGE, PAGE };

	fill(plain, PAGE);
	memcpy(map, plain, PAGE);
	if (write(pipes[1], plain, PAGE) != PAGE)
		exit(77);
	/* Out of a pipe into the buffer it copies. */
	if (all(vmsplice(pipes[0], &into, 1, 0), PAGE, "vmsplice from a pipe"))
		same(map + PAGE, PAGE, "vmsplice");
	else if (read(pipes[0], plain, PAGE) != PAGE)
		exit(77);
	(void)iov;
}

static void by_process_vm(void)
{
	struct iovec from = { plain, LEN }, to = { map, LEN };

	fill(plain, LEN);
	memset(map, 0, LEN);
	if (all(process_vm_writev(getpid(), &from, 1, &to, 1, 0), LEN, "process_vm_writev"))
		same(map, LEN, "process_vm_writev");
	memset(plain, 0, LEN);
	if (all(process_vm_readv(getpid(), &from, 1, &to, 1, 0), LEN, "process_vm_readv"))
		same(plain, LEN, "process_vm_readv");
}

static void by_recvmsg(void)
{
	struct iovec in = { map, PAGE }, out = { map + PAGE, PAGE };
	struct msghdr send = { .msg_iov = &in, .msg_iovlen = 1 }, receive = { .msg_iov = &out, .msg_iovlen = 1 };

	fill(map, PAGE);
	if (!all(sendmsg(pair[0], &send, 0), PAGE, "sendmsg"))
		return;
	if (all(recvmsg(pair[1], &receive, 0), PAGE, "recvmsg"))
		same(map + PAGE, PAGE, "recvmsg");
}

static void by_mmsg(void)
{
	struct iovec in[2] = { { map, 64 }, { map + PAGE, 64 } };
	struct iovec out[2] = { { map + 2 * PAGE, 64 }, { map + 3 * PAGE, 64 } };
	struct mmsghdr send[2] = { { .msg_hdr = { .msg_iov = &in[0], .msg_iovlen = 1 } },
				   { .msg_hdr = { .msg_iov = &in[1], .msg_iovlen = 1 } } };
	struct mmsghdr receive[2] = { { .msg_hdr = { .msg_iov = &out[0], .msg_iovlen = 1 } },
				      { .msg_hdr = { .msg_iov = &out[1], .msg_iovlen = 1 } } };
	int sent = 0, got = 0;

	fill(map, 2 * PAGE);
	while (sent < 2) {
		int count = sendmmsg(pair[0], send + sent, 2 - sent, 0);

		if (count > 0)
			sent += count;
		else if (!all(count, 1, "sendmmsg") && errno != EFAULT)
			return;
	}
	while (got < 2) {
		int count = recvmmsg(pair[1], receive + got, 2 - got, 0, NULL);

		if (count > 0)
			got += count;
		else if (!all(count, 1, "recvmmsg") && errno != EFAULT)
			return;
	}
	if (memcmp(map, map + 2 * PAGE, 64) || memcmp(map + PAGE, map + 3 * PAGE, 64)) {
		printf("recvmmsg: other bytes\n");
		lost++;
	}
}

static aio_context_t aio;

static void one_aio(int op, const char *what)
{
	struct iocb cb = { .aio_fildes = file, .aio_lio_opcode = op, .aio_buf = (uintptr_t)map, .aio_nbytes = LEN };
	struct iocb *list[] = { &cb };
	struct io_event event = { .res = -EFAULT };

	while (event.res == -EFAULT && now() < end + 60) {
		if (syscall(SYS_io_submit, aio, 1, list) != 1 || syscall(SYS_io_getevents, aio, 1, 1, &event, NULL) != 1) {
			perror("aio");
			exit(77);
		}
		errno = event.res < 0 ? -event.res : 0;
		all(event.res < 0 ? -1 : event.res, LEN, what);
	}
}

static void by_aio(void)
{
	if (!aio && syscall(SYS_io_setup, 4, &aio)) {
		printf("SKIP: no aio: %s\n", strerror(errno));
		exit(77);
	}
	fill(map, LEN);
	one_aio(IOCB_CMD_PWRITE, "aio write");
	memset(map, 0, LEN);
	one_aio(IOCB_CMD_PREAD, "aio read");
	same(map, LEN, "aio");
}

static struct { int fd; unsigned *sq_tail, *sq_mask, *sq_array, *cq_head, *cq_tail, *cq_mask; struct io_uring_sqe *sqes; struct io_uring_cqe *cqes; } ring;

static void make_ring(void)
{
	struct io_uring_params p = { 0 };

	ring.fd = syscall(SYS_io_uring_setup, 4, &p);
	if (ring.fd < 0) {
		printf("SKIP: no io_uring: %s\n", strerror(errno));
		exit(77);
	}
	char *sq = mmap(0, p.sq_off.array + p.sq_entries * 4, 3, MAP_SHARED, ring.fd, IORING_OFF_SQ_RING);
	char *cq = mmap(0, p.cq_off.cqes + p.cq_entries * sizeof(*ring.cqes), 3, MAP_SHARED, ring.fd, IORING_OFF_CQ_RING);
	ring.sqes = mmap(0, p.sq_entries * sizeof(*ring.sqes), 3, MAP_SHARED, ring.fd, IORING_OFF_SQES);
	ring.sq_tail = (void *)(sq + p.sq_off.tail), ring.sq_mask = (void *)(sq + p.sq_off.ring_mask);
	ring.sq_array = (void *)(sq + p.sq_off.array), ring.cq_head = (void *)(cq + p.cq_off.head);
	ring.cq_tail = (void *)(cq + p.cq_off.tail), ring.cq_mask = (void *)(cq + p.cq_off.ring_mask);
	ring.cqes = (void *)(cq + p.cq_off.cqes);
}

static void one_uring(int op, const char *what)
{
	long got = -EFAULT;

	while (got == -EFAULT && now() < end + 60) {
		unsigned at = *ring.sq_tail & *ring.sq_mask;

		ring.sqes[at] = (struct io_uring_sqe){ .opcode = op, .fd = file, .addr = (uintptr_t)map, .len = LEN };
		ring.sq_array[at] = at;
		__atomic_store_n(ring.sq_tail, *ring.sq_tail + 1, __ATOMIC_RELEASE);
		if (syscall(SYS_io_uring_enter, ring.fd, 1, 1, IORING_ENTER_GETEVENTS, NULL, 0) != 1) {
			perror("io_uring_enter");
			exit(77);
		}
		got = ring.cqes[*ring.cq_head & *ring.cq_mask].res;
		__atomic_store_n(ring.cq_head, *ring.cq_head + 1, __ATOMIC_RELEASE);
		errno = got < 0 ? -got : 0;
		/* A copy that a move cut off is a short count: the rest is asked for anew. */
		if (got > 0 && got < LEN)
			retried++, got = -EFAULT;
		else
			all(got < 0 ? -1 : got, LEN, what);
	}
}

static void by_uring(void)
{
	if (!ring.sqes)
		make_ring();
	fill(map, LEN);
	one_uring(IORING_OP_WRITE, "io_uring write");
	memset(map, 0, LEN);
	one_uring(IORING_OP_READ, "io_uring read");
	same(map, LEN, "io_uring");
}

static void *wake(void *word)
{
	usleep(200);
	__atomic_store_n((uint32_t *)word, 1, __ATOMIC_SEQ_CST);
	syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
	return NULL;
}

/* A futex in the buffer, of one address space: get_user_pages is not needed for it. */
static void by_futex(void)
{
	uint32_t *word = (uint32_t *)(map + 128);
	struct timespec second = { 1, 0 };
	pthread_t thread;

	*word = 0;
	if (pthread_create(&thread, NULL, wake, word))
		exit(77);
	while (__atomic_load_n(word, __ATOMIC_SEQ_CST) == 0)
		if (syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, 0, &second, NULL, 0) && errno == EFAULT)
			all(-1, 0, "futex");
	pthread_join(thread, NULL);
}

int main(int argc, char **argv)
{
	struct { const char *name; void (*access)(void); } kinds[] = {
		{ "read", by_read }, { "readv", by_readv }, { "splice", by_splice }, { "sendfile", by_sendfile },
		{ "vmsplice", by_vmsplice }, { "process_vm", by_process_vm }, { "recvmsg", by_recvmsg },
		{ "mmsg", by_mmsg }, { "aio", by_aio }, { "uring", by_uring }, { "futex", by_futex },
	};
	struct dma_heap_allocation_data data = { .len = LEN, .fd_flags = O_RDWR };
	char path[512];
	int heap = open("/dev/dma_heap/system", O_RDONLY | O_CLOEXEC), bad = 0;

	snprintf(path, sizeof(path), "%s/accesses-XXXXXX", getenv("TMPDIR") ? getenv("TMPDIR") : "/tmp");
	file = mkstemp(path);
	unlink(path);
	plain = malloc(LEN);
	if (argc < 3 || file < 0 || heap < 0 || pipe(pipes) || socketpair(AF_UNIX, SOCK_SEQPACKET, 0, pair) ||
	    ioctl(heap, DMA_HEAP_IOCTL_ALLOC, &data))
		return 2;
	map = mmap(0, LEN, PROT_READ | PROT_WRITE, MAP_SHARED, data.fd, 0);
	if (map == MAP_FAILED)
		return 2;
	for (int i = 2; i < argc; i++)
		for (unsigned k = 0; k < sizeof(kinds) / sizeof(*kinds); k++) {
			if (strcmp(argv[i], kinds[k].name))
				continue;
			rounds = retried = lost = 0;
			for (end = now() + atof(argv[1]); now() < end; rounds++)
				kinds[k].access();
			printf("%s: %lu rounds, %lu retried, %lu lost\n", argv[i], rounds, retried, lost);
			fflush(stdout);
			bad |= lost || (retried && strcmp(argv[i], "aio") && strcmp(argv[i], "uring") && strcmp(argv[i], "mmsg"));
		}
	return bad;
}
