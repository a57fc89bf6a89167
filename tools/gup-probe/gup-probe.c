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
#include <linux/if_packet.h>
#include <linux/udmabuf.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "gup-probe.h"

#define LENGTH (2 * PAGE)

#ifndef __NR_memfd_secret
#define __NR_memfd_secret 447
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

static void unavailable(const char *what, const char *remedy)
{
	fprintf(stderr, "gup-probe: %s: %s%s\n", what, strerror(errno), remedy);
}

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
	for (i = 0; i < access_count; i++) {
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
