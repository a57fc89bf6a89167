// SPDX-License-Identifier: MIT OR Apache-2.0
/*
 * gup-probe [DIRECT-FILE]: what the running kernel answers to each way of reaching a
 * mapping, above all to those that pin its pages (get_user_pages, mm/gup.c).
 *
 * Prints `mapping<TAB>access<TAB>answer` for each mapping that this machine has. An answer is
 * "ok", an errno, "short N" for a transfer that stopped early, or "wrong bytes". A mapping or
 * an access that can't be tried here is left out, with the reason on stderr.
 *
 * DIRECT-FILE is a file or block device that takes O_DIRECT and may be overwritten; its first
 * page is. Without it the O_DIRECT rows are left out: tmpfs and ramfs take no pins.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/dma-heap.h>
#include <linux/futex.h>
#include <linux/if_packet.h>
#include <linux/io_uring.h>
#include <linux/udmabuf.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#define PAGE 4096L
#define LENGTH (2 * PAGE)
#define NOT_TRIED (-4000L) /* below every errno */
#define WRONG_BYTES (-4001L)
#define PATTERN 0x5a

#ifndef __NR_memfd_secret
#define __NR_memfd_secret 447
#endif
#ifndef SO_ZEROCOPY
#define SO_ZEROCOPY 60
#endif
#ifndef MSG_ZEROCOPY
#define MSG_ZEROCOPY 0x4000000
#endif

/* The DRM calls vgem needs; the headers are not part of linux-libc-dev everywhere. */
struct drm_version { int v[3]; size_t name_len; char *name; size_t date_len; char *date; size_t desc_len; char *desc; };
struct drm_create_dumb { uint32_t height, width, bpp, flags, handle, pitch; uint64_t size; };
struct drm_map_dumb { uint32_t handle, pad; uint64_t offset; };
struct drm_prime_handle { uint32_t handle, flags; int32_t fd; };
#define DRM_IOCTL_VERSION _IOWR('d', 0x00, struct drm_version)
#define DRM_IOCTL_MODE_CREATE_DUMB _IOWR('d', 0xb2, struct drm_create_dumb)
#define DRM_IOCTL_MODE_MAP_DUMB _IOWR('d', 0xb3, struct drm_map_dumb)
#define DRM_IOCTL_PRIME_HANDLE_TO_FD _IOWR('d', 0x2d, struct drm_prime_handle)

static const char *direct_path;

/* A call's result: what it returned, or minus its errno. */
static long result(long returned)
{
	return returned < 0 ? -errno : returned;
}

static void unavailable(const char *what, const char *remedy)
{
	fprintf(stderr, "gup-probe: %s: %s%s\n", what, strerror(errno), remedy);
}

/* ---- accesses: each returns the bytes it moved (0 where it moves none), or minus an errno ---- */

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
		unavailable(direct_path, ": name a file that takes O_DIRECT");
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

static const struct access {
	const char *name;
	long (*try)(unsigned char *map);
	long complete; /* what it returns when all of it worked */
	int stores;    /* into the mapping from here, so not for a read-only one */
} accesses[] = {
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

/* ---- mappings: each returns a file to map, or -1 with errno set ---- */

static int memfd_of_pages(unsigned int flags)
{
	int fd = memfd_create("gup-probe", MFD_CLOEXEC | flags);

	return fd >= 0 && ftruncate(fd, LENGTH) ? -1 : fd;
}

static int plain_memfd(off_t *offset)
{
	(void)offset;
	return memfd_of_pages(0);
}

static int secret_memfd(off_t *offset)
{
	int fd = syscall(__NR_memfd_secret, O_CLOEXEC);

	(void)offset;
	return fd >= 0 && ftruncate(fd, LENGTH) ? -1 : fd;
}

static int system_heap(off_t *offset)
{
	struct dma_heap_allocation_data request = { .len = LENGTH, .fd_flags = O_RDWR | O_CLOEXEC };
	int heap = open("/dev/dma_heap/system", O_RDWR | O_CLOEXEC);

	(void)offset;
	return heap < 0 || ioctl(heap, DMA_HEAP_IOCTL_ALLOC, &request) ? -1 : (int)request.fd;
}

static int udmabuf(off_t *offset)
{
	struct udmabuf_create request = { .size = LENGTH };
	int device = open("/dev/udmabuf", O_RDWR | O_CLOEXEC);

	(void)offset;
	if (device < 0)
		return -1;
	request.memfd = memfd_of_pages(MFD_ALLOW_SEALING);
	fcntl((int)request.memfd, F_ADD_SEALS, F_SEAL_SHRINK);
	return ioctl(device, UDMABUF_CREATE, &request);
}

/* The DRM node that vgem made, among those of other drivers. */
static int vgem_node(void)
{
	char path[32], name[16];
	int i, fd;

	for (i = 0; i < 16; i++) {
		struct drm_version version = { .name_len = sizeof(name) - 1, .name = name };

		memset(name, 0, sizeof(name));
		snprintf(path, sizeof(path), "/dev/dri/card%d", i);
		fd = open(path, O_RDWR | O_CLOEXEC);
		if (fd >= 0 && !ioctl(fd, DRM_IOCTL_VERSION, &version) && !strcmp(name, "vgem"))
			return fd;
		if (fd >= 0)
			close(fd);
	}
	errno = ENODEV;
	return -1;
}

static int vgem_handle(off_t *offset)
{
	struct drm_create_dumb create = { .height = 1, .width = LENGTH / 4, .bpp = 32 };
	struct drm_map_dumb map = { 0 };
	int node = vgem_node();

	if (node < 0 || ioctl(node, DRM_IOCTL_MODE_CREATE_DUMB, &create))
		return -1;
	map.handle = create.handle;
	if (ioctl(node, DRM_IOCTL_MODE_MAP_DUMB, &map))
		return -1;
	*offset = (off_t)map.offset;
	return node;
}

static int vgem_prime(off_t *offset)
{
	struct drm_create_dumb create = { .height = 1, .width = LENGTH / 4, .bpp = 32 };
	struct drm_prime_handle prime = { .flags = O_RDWR | O_CLOEXEC };
	int node = vgem_node();

	(void)offset;
	if (node < 0 || ioctl(node, DRM_IOCTL_MODE_CREATE_DUMB, &create))
		return -1;
	prime.handle = create.handle;
	return ioctl(node, DRM_IOCTL_PRIME_HANDLE_TO_FD, &prime) ? -1 : prime.fd;
}

/*
 * A driver that maps with vm_insert_page (packet_mmap, net/packet/af_packet.c): no dma-buf, but
 * the mapping that a heap would have if it inserted pages. No protocol, so no packet comes.
 */
static int packet_ring(off_t *offset)
{
	struct tpacket_req request = {
		.tp_block_size = LENGTH, .tp_block_nr = 1, .tp_frame_size = PAGE, .tp_frame_nr = LENGTH / PAGE,
	};
	int s = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, 0);

	(void)offset;
	return s < 0 || setsockopt(s, SOL_PACKET, PACKET_RX_RING, &request, sizeof(request)) ? -1 : s;
}

static const struct mapping {
	const char *name;
	int (*file)(off_t *offset);
	int protection, flags;
	const char *remedy;
} mappings[] = {
	{ "system-heap", system_heap, PROT_READ | PROT_WRITE, MAP_SHARED, ": needs CONFIG_DMABUF_HEAPS_SYSTEM and access to /dev/dma_heap/system" },
	{ "system-heap-read-only", system_heap, PROT_READ, MAP_SHARED, ": needs CONFIG_DMABUF_HEAPS_SYSTEM and access to /dev/dma_heap/system" },
	{ "udmabuf", udmabuf, PROT_READ | PROT_WRITE, MAP_SHARED, ": needs CONFIG_UDMABUF and access to /dev/udmabuf" },
	{ "vgem-prime", vgem_prime, PROT_READ | PROT_WRITE, MAP_SHARED, ": load the vgem module" },
	{ "vgem-handle", vgem_handle, PROT_READ | PROT_WRITE, MAP_SHARED, ": load the vgem module" },
	{ "memfd-secret", secret_memfd, PROT_READ | PROT_WRITE, MAP_SHARED, ": needs CONFIG_SECRETMEM and room in RLIMIT_MEMLOCK" },
	{ "packet-ring", packet_ring, PROT_READ | PROT_WRITE, MAP_SHARED, ": needs CONFIG_PACKET and CAP_NET_RAW" },
	{ "memfd", plain_memfd, PROT_READ | PROT_WRITE, MAP_SHARED, "" },
	{ "memfd-read-only", plain_memfd, PROT_READ, MAP_SHARED, "" },
	{ "memfd-private", plain_memfd, PROT_READ | PROT_WRITE, MAP_PRIVATE, "" },
	{ "memfd-private-read-only", plain_memfd, PROT_READ, MAP_PRIVATE, "" },
};

/* ---- the table ---- */

static void print_answer(const struct access *a, long got)
{
	if (got == a->complete)
		puts("ok");
	else if (got == WRONG_BYTES)
		puts("wrong bytes");
	else if (got < 0)
		puts(strerrorname_np((int)-got) ?: "unknown errno");
	else
		printf("short %ld\n", got);
}

/* The VMA's flags as the kernel shows them: `pf` is VM_PFNMAP, `io` VM_IO, `mm` VM_MIXEDMAP. */
static void print_vm_flags(const char *mapping, unsigned char *map)
{
	char line[512], start[32];
	FILE *smaps = fopen("/proc/self/smaps", "re");
	int ours = 0;

	snprintf(start, sizeof(start), "%lx-", (unsigned long)map);
	while (smaps && fgets(line, sizeof(line), smaps)) {
		if (strchr("0123456789abcdef", line[0]))
			ours = !strncmp(line, start, strlen(start));
		else if (ours && !strncmp(line, "VmFlags: ", 9))
			printf("%s\tvm-flags\t%.*s\n", mapping, (int)strcspn(line + 9, "\n") - 1, line + 9);
	}
	if (smaps)
		fclose(smaps);
}

static void probe(const struct mapping *m)
{
	off_t offset = 0;
	int fd = m->file(&offset);
	unsigned char *map;
	size_t i;

	if (fd < 0) {
		unavailable(m->name, m->remedy);
		return;
	}
	map = mmap(NULL, LENGTH, m->protection, m->flags, fd, offset);
	if (map == MAP_FAILED) {
		unavailable(m->name, m->remedy);
		return;
	}
	print_vm_flags(m->name, map);
	for (i = 0; i < sizeof(accesses) / sizeof(accesses[0]); i++) {
		const struct access *a = &accesses[i];
		long got;

		if (a->stores && !(m->protection & PROT_WRITE))
			continue;
		/* Present and, where that is allowed, dirty: an absent page is another question. */
		if (m->protection & PROT_WRITE)
			*(volatile unsigned char *)map = 1;
		else
			(void)*(volatile unsigned char *)map;
		got = a->try(map);
		if (got == NOT_TRIED) {
			fprintf(stderr, "gup-probe: %s: not to be tried here\n", a->name);
			continue;
		}
		printf("%s\t%s\t", m->name, a->name);
		print_answer(a, got);
		fflush(stdout); /* or a fork would print it twice */
	}
	munmap(map, LENGTH);
	close(fd);
}

int main(int argc, char **argv)
{
	size_t i;

	if (argc > 2 || (argc == 2 && argv[1][0] == '-')) {
		fprintf(stderr, "Usage: gup-probe [DIRECT-FILE]\n"
				"Prints what this kernel answers to each access to each kind of mapping.\n"
				"DIRECT-FILE takes O_DIRECT; its first two pages are overwritten.\n");
		return 2;
	}
	direct_path = argv[1];
	for (i = 0; i < sizeof(mappings) / sizeof(mappings[0]); i++)
		probe(&mappings[i]);
	return 0;
}
