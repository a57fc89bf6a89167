// SPDX-License-Identifier: MIT OR Apache-2.0
/*
 * The ways of reaching a mapping's memory: those that take its pages (get_user_pages), then
 * those where the kernel copies through the page table.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <linux/io_uring.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include "gup-probe.h"

#define PATTERN 0x5a

#ifndef SO_ZEROCOPY
#define SO_ZEROCOPY 60
#endif
#ifndef MSG_ZEROCOPY
#define MSG_ZEROCOPY 0x4000000
#endif

const char *direct_path;

/* A call's result: what it returned, or minus its errno. */
static long result(long returned)
{
	return returned < 0 ? -errno : returned;
}

/* A plain file in memory, whose first page is PATTERN. */
static int plain_file(void)
{
	static int fd = -1;
	char page[PAGE];

	if (fd < 0) {
		fd = memfd_create("plain", MFD_CLOEXEC);
		memset(page, PATTERN, sizeof(page));
		if (pwrite(fd, page, PAGE, 0) != PAGE)
			exit(2);
	}
	return fd;
}

static int direct_file(void)
{
	static int fd = -1;
	static char page[PAGE] __attribute__((aligned(PAGE)));

	if (!direct_path || fd >= 0)
		return fd;
	fd = open(direct_path, O_RDWR | O_DIRECT | O_CLOEXEC);
	memset(page, PATTERN, sizeof(page));
	if (fd < 0 || pwrite(fd, page, PAGE, 0) != PAGE) {
		fprintf(stderr, "gup-probe: %s: %s: name a file that takes O_DIRECT\n", direct_path, strerror(errno));
		exit(2);
	}
	return fd;
}

/* What a transfer into the mapping returned, having looked that PATTERN arrived. */
static long arrived(volatile unsigned char *map, long moved)
{
	long i;

	for (i = 0; i < moved; i++)
		if (map[i] != PATTERN)
			return WRONG_BYTES;
	return moved;
}

static long direct_read(unsigned char *map)
{
	if (direct_file() < 0)
		return NOT_TRIED;
	return arrived(map, result(pread(direct_file(), map, PAGE, 0)));
}

static long direct_write(unsigned char *map)
{
	if (direct_file() < 0)
		return NOT_TRIED;
	return result(pwrite(direct_file(), map, PAGE, PAGE));
}

static long buffered_read(unsigned char *map)
{
	return arrived(map, result(pread(plain_file(), map, PAGE, 0)));
}

static long buffered_write(unsigned char *map)
{
	return result(pwrite(plain_file(), map, PAGE, PAGE));
}

static long vmsplice_from(unsigned char *map)
{
	struct iovec iov = { map, PAGE };
	int p[2];
	long got;

	if (pipe(p))
		return NOT_TRIED;
	got = result(vmsplice(p[1], &iov, 1, 0));
	close(p[0]);
	close(p[1]);
	return got;
}

static long pipe_write(unsigned char *map)
{
	int p[2];
	long got;

	if (pipe(p))
		return NOT_TRIED;
	got = result(write(p[1], map, PAGE));
	close(p[0]);
	close(p[1]);
	return got;
}

static long pipe_read(unsigned char *map)
{
	char page[PAGE];
	int p[2];
	long got;

	memset(page, PATTERN, sizeof(page));
	if (pipe(p) || write(p[1], page, PAGE) != PAGE)
		return NOT_TRIED;
	got = arrived(map, result(read(p[0], map, PAGE)));
	close(p[0]);
	close(p[1]);
	return got;
}

static long socket_send(unsigned char *map)
{
	int s[2];
	long got;

	if (socketpair(AF_UNIX, SOCK_STREAM, 0, s))
		return NOT_TRIED;
	got = result(send(s[0], map, PAGE, 0));
	close(s[0]);
	close(s[1]);
	return got;
}

static long socket_receive(unsigned char *map)
{
	char page[PAGE];
	int s[2];
	long got;

	memset(page, PATTERN, sizeof(page));
	if (socketpair(AF_UNIX, SOCK_STREAM, 0, s) || send(s[0], page, PAGE, 0) != PAGE)
		return NOT_TRIED;
	got = arrived(map, result(recv(s[1], map, PAGE, MSG_WAITALL)));
	close(s[0]);
	close(s[1]);
	return got;
}

/* A datagram to ourselves over the loopback, whose pages the kernel takes rather than copies. */
static long zerocopy_send(unsigned char *map)
{
	struct sockaddr_in address = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	socklen_t size = sizeof(address);
	int s = socket(AF_INET, SOCK_DGRAM, 0), on = 1;
	long got = NOT_TRIED;

	if (!bind(s, (void *)&address, size) && !getsockname(s, (void *)&address, &size) &&
	    !connect(s, (void *)&address, size) && !setsockopt(s, SOL_SOCKET, SO_ZEROCOPY, &on, sizeof(on)))
		got = result(send(s, map, PAGE, MSG_ZEROCOPY));
	close(s);
	return got;
}

/* A ring of two entries, mapped; -1 where io_uring is not to be had. */
struct ring {
	int fd;
	struct io_uring_params p;
	unsigned char *rings;
	struct io_uring_sqe *sqes;
};

static struct ring *the_ring(void)
{
	static struct ring r = { .fd = -1 };
	size_t size;

	if (r.fd >= 0)
		return &r;
	r.fd = syscall(__NR_io_uring_setup, 2, &r.p);
	if (r.fd < 0)
		return &r;
	size = r.p.cq_off.cqes + r.p.cq_entries * sizeof(struct io_uring_cqe);
	if (size < r.p.sq_off.array + r.p.sq_entries * sizeof(unsigned))
		size = r.p.sq_off.array + r.p.sq_entries * sizeof(unsigned);
	r.rings = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, r.fd, IORING_OFF_SQ_RING);
	r.sqes = mmap(NULL, r.p.sq_entries * sizeof(struct io_uring_sqe), PROT_READ | PROT_WRITE,
		      MAP_SHARED | MAP_POPULATE, r.fd, IORING_OFF_SQES);
	if (r.rings == MAP_FAILED || r.sqes == MAP_FAILED)
		exit(2);
	return &r;
}

static long ring_read(int file, unsigned char *map)
{
	struct ring *r = the_ring();
	unsigned *tail, *head, index;
	struct io_uring_cqe *cqe;

	if (r->fd < 0 || file < 0)
		return NOT_TRIED;
	tail = (unsigned *)(r->rings + r->p.sq_off.tail);
	index = *tail & (r->p.sq_entries - 1);
	memset(&r->sqes[index], 0, sizeof(r->sqes[index]));
	r->sqes[index].opcode = IORING_OP_READ;
	r->sqes[index].fd = file;
	r->sqes[index].addr = (uintptr_t)map;
	r->sqes[index].len = PAGE;
	((unsigned *)(r->rings + r->p.sq_off.array))[index] = index;
	__atomic_store_n(tail, *tail + 1, __ATOMIC_RELEASE);
	if (syscall(__NR_io_uring_enter, r->fd, 1, 1, IORING_ENTER_GETEVENTS, NULL, 0) < 0)
		return -errno;
	head = (unsigned *)(r->rings + r->p.cq_off.head);
	cqe = (struct io_uring_cqe *)(r->rings + r->p.cq_off.cqes) + (*head & (r->p.cq_entries - 1));
	__atomic_store_n(head, *head + 1, __ATOMIC_RELEASE);
	return arrived(map, cqe->res);
}

static long ring_direct_read(unsigned char *map)
{
	return ring_read(direct_file(), map);
}

static long ring_buffered_read(unsigned char *map)
{
	return ring_read(plain_file(), map);
}

static long ring_register(unsigned char *map)
{
	struct iovec iov = { map, PAGE };
	int fd = the_ring()->fd;

	if (fd < 0)
		return NOT_TRIED;
	if (syscall(__NR_io_uring_register, fd, IORING_REGISTER_BUFFERS, &iov, 1) < 0)
		return -errno;
	syscall(__NR_io_uring_register, fd, IORING_UNREGISTER_BUFFERS, NULL, 0);
	return 0;
}

static long vm_access(long number, void *local, void *remote)
{
	struct iovec here = { local, PAGE }, there = { remote, PAGE };

	return result(syscall(number, (long)getpid(), &here, 1L, &there, 1L, 0L));
}

static long vm_read_remote(unsigned char *map)
{
	char page[PAGE];

	return vm_access(__NR_process_vm_readv, page, map);
}

static long vm_write_remote(unsigned char *map)
{
	char page[PAGE];

	memset(page, PATTERN, sizeof(page));
	return arrived(map, vm_access(__NR_process_vm_writev, page, map));
}

static long vm_read_local(unsigned char *map)
{
	char page[PAGE];

	memset(page, PATTERN, sizeof(page));
	return arrived(map, vm_access(__NR_process_vm_readv, map, page));
}

/* /proc/self/mem goes through FOLL_FORCE. */
static long proc_mem_read(unsigned char *map)
{
	char page[PAGE];
	int fd = open("/proc/self/mem", O_RDWR | O_CLOEXEC);
	long got = result(pread(fd, page, PAGE, (off_t)(uintptr_t)map));

	close(fd);
	return got;
}

static long proc_mem_write(unsigned char *map)
{
	char page[PAGE];
	int fd = open("/proc/self/mem", O_RDWR | O_CLOEXEC);
	long got;

	memset(page, PATTERN, sizeof(page));
	got = result(pwrite(fd, page, PAGE, (off_t)(uintptr_t)map));
	close(fd);
	return arrived(map, got);
}

/* One word of a stopped child's copy of the mapping. */
static long traced(int request, unsigned char *map)
{
	pid_t child = fork();
	long got;

	if (child < 0)
		return NOT_TRIED;
	if (child == 0) {
		ptrace(PTRACE_TRACEME, 0, NULL, NULL);
		raise(SIGSTOP);
		_exit(0);
	}
	waitpid(child, NULL, 0);
	errno = 0;
	ptrace(request, child, map, (void *)1L);
	got = -errno;
	kill(child, SIGKILL);
	waitpid(child, NULL, 0);
	return got;
}

static long ptrace_peek(unsigned char *map)
{
	return traced(PTRACE_PEEKDATA, map);
}

static long ptrace_poke(unsigned char *map)
{
	return traced(PTRACE_POKEDATA, map);
}

static long futex_shared(unsigned char *map)
{
	return result(syscall(__NR_futex, map, FUTEX_WAKE, 1, NULL, NULL, 0));
}

static long futex_private(unsigned char *map)
{
	return result(syscall(__NR_futex, map, FUTEX_WAKE | FUTEX_PRIVATE_FLAG, 1, NULL, NULL, 0));
}

static long random_into(unsigned char *map)
{
	long got = result(getrandom(map, 256, 0));

	return got == 256 ? PAGE : got;
}

static long path_in(unsigned char *map)
{
	struct stat st;

	map[0] = '/';
	map[1] = 0;
	return result(stat((char *)map, &st));
}

const struct access accesses[] = {
	{ "o_direct-read", direct_read, PAGE, 0 },
	{ "o_direct-write", direct_write, PAGE, 0 },
	{ "vmsplice", vmsplice_from, PAGE, 0 },
	{ "msg_zerocopy", zerocopy_send, PAGE, 0 },
	{ "io_uring-register", ring_register, 0, 0 },
	{ "io_uring-o_direct-read", ring_direct_read, PAGE, 0 },
	{ "process_vm_readv", vm_read_remote, PAGE, 0 },
	{ "process_vm_writev", vm_write_remote, PAGE, 0 },
	{ "futex-shared", futex_shared, 0, 0 },
	{ "proc-mem-read", proc_mem_read, PAGE, 0 },
	{ "proc-mem-write", proc_mem_write, PAGE, 0 },
	{ "ptrace-peek", ptrace_peek, 0, 0 },
	{ "ptrace-poke", ptrace_poke, 0, 0 },
	{ "read", buffered_read, PAGE, 0 },
	{ "write", buffered_write, PAGE, 0 },
	{ "pipe-read", pipe_read, PAGE, 0 },
	{ "pipe-write", pipe_write, PAGE, 0 },
	{ "send", socket_send, PAGE, 0 },
	{ "recv", socket_receive, PAGE, 0 },
	{ "io_uring-read", ring_buffered_read, PAGE, 0 },
	{ "process_vm_readv-local", vm_read_local, PAGE, 0 },
	{ "futex-private", futex_private, 0, 0 },
	{ "getrandom", random_into, PAGE, 0 },
	{ "path", path_in, 0, 1 },
};

const size_t access_count = sizeof(accesses) / sizeof(accesses[0]);
