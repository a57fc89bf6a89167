/* Paths that go on behind a device, and openat2(2) with everything in its open_how: what Linux refuses
 * is refused, whatever the path, and what leads to a device opens it. Usage: opens. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/dma-heap.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifndef HEAP
#define HEAP "/dev/dma_heap/system"
#endif

static int bad;

/* `got` is a descriptor or -1; `want` an errno or 0. */
static void expect(const char *what, int got, int want)
{
	int is = got < 0 ? errno : 0;

	if (is != want) {
		printf("%s: %s, not %s\n", what, strerror(is), strerror(want));
		bad = 1;
	}
	if (got > 2)
		close(got);
}

/* With the bytes behind the struct that a later kernel may know: `more` of them, one of them `value`. */
static int how(const char *path, __u64 flags, __u64 mode, __u64 resolve, size_t size, char value)
{
	struct { struct open_how how; char more[64]; } arg = { { flags, mode, resolve }, { 0 } };

	arg.more[7] = value;
	return syscall(SYS_openat2, AT_FDCWD, path, &arg, size);
}

static void behind(const char *path, int slashes)
{
	struct stat stat_of;
	char text[64];

	expect(path, open(path, O_RDWR), ENOTDIR);
	expect(path, open(path, O_RDONLY | O_CLOEXEC), ENOTDIR);
	expect(path, open(path, O_PATH), ENOTDIR);
	expect(path, open(path, O_RDWR | O_CREAT, 0600), slashes ? EISDIR : ENOTDIR);
	expect(path, how(path, O_RDWR, 0, 0, 24, 0), ENOTDIR);
	expect(path, stat(path, &stat_of), ENOTDIR);
	expect(path, access(path, R_OK), ENOTDIR);
	expect(path, readlink(path, text, sizeof(text)), ENOTDIR);
}

int main(void)
{
	const size_t size = sizeof(struct open_how);
	/* Flags of today and of never. */
	const __u64 invalid[] = { 1ull << 32, 1ull << 63, 1ull << 31, 0x8000000ull };

	behind(HEAP "/", 1);
	behind(HEAP "//", 1);
	behind(HEAP "/.", 0);
	behind(HEAP "/..", 0);
	behind(HEAP "/../system", 0);
	behind(HEAP "/x", 0);
	behind("/dev/udmabuf/", 1);
	behind("/dev/udmabuf/x/y", 0);
	expect("the directory", open("/dev/dma_heap/", O_RDONLY | O_DIRECTORY), 0);
	expect("the directory", open("/dev/dma_heap/.", O_RDONLY), 0);
	expect("a heap", open("/dev/dma_heap/./system", O_RDWR), 0);

	if (how("/dev/null", O_RDWR, 0, 0, size, 0) < 0 && errno == ENOSYS) {
		printf("SKIP: no openat2\n");
		return 77;
	}
	expect("openat2", how(HEAP, O_RDWR | O_CLOEXEC, 0, 0, size, 0), 0);
	expect("of a longer struct", how(HEAP, O_RDWR, 0, 0, size + 64, 0), 0);
	expect("that means something", how(HEAP, O_RDWR, 0, 0, size + 64, 1), E2BIG);
	expect("of a shorter one", how(HEAP, O_RDWR, 0, 0, size - 1, 0), EINVAL);
	expect("of none", how(HEAP, O_RDWR, 0, 0, 0, 0), EINVAL);
	expect("of more than a page", how(HEAP, O_RDWR, 0, 0, 1 << 20, 0), E2BIG);
	expect("a mode and no O_CREAT", how(HEAP, O_RDWR, 0600, 0, size, 0), EINVAL);
	expect("a mode of too many bits", how(HEAP, O_RDWR | O_CREAT, 0x10000, 0, size, 0), EINVAL);
	for (unsigned i = 0; i < sizeof(invalid) / sizeof(*invalid); i++)
		expect("a flag that is none", how(HEAP, O_RDWR | invalid[i], 0, 0, size, 0), EINVAL);
	expect("a RESOLVE that is none", how(HEAP, O_RDWR, 0, 1 << 20, size, 0), EINVAL);
	expect("below the root", how(HEAP, O_RDWR, 0, RESOLVE_BENEATH, size, 0), EXDEV);
	expect("no links on the way", how(HEAP, O_RDWR, 0, RESOLVE_NO_SYMLINKS, size, 0), 0);
	expect("no magic on the way", how(HEAP, O_RDWR, 0, RESOLVE_NO_MAGICLINKS, size, 0), 0);
	/* An argument that is nowhere. */
	expect("a struct at 8", syscall(SYS_openat2, AT_FDCWD, HEAP, 8, size), EFAULT);
	expect("a path at 8", syscall(SYS_openat2, AT_FDCWD, 8, &(struct open_how){ 0 }, size), EFAULT);

	/* The device is as before. */
	struct dma_heap_allocation_data data = { .len = 4096, .fd_flags = O_RDWR };
	int heap = how(HEAP, O_RDWR, 0, 0, size, 0);
	expect("ALLOC", ioctl(heap, DMA_HEAP_IOCTL_ALLOC, &data), 0);
	close(data.fd);
	if (!bad)
		printf("ok\n");
	return bad;
}
