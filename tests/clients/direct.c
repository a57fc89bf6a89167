/* Reads a file into a dma-buf by direct I/O, and copies to it by process_vm_writev, and looks each
 * time whether everything arrived. Usage: direct SECONDS FILE; exits 0 if it did, 77 where the file
 * can't be opened for direct I/O. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/dma-heap.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#define PAGE 4096
#define BYTES (16 * PAGE)

static double now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec + ts.tv_nsec / 1e9;
}

static void fill(unsigned char *bytes, unsigned seed)
{
	for (unsigned i = 0; i < BYTES; i++)
		bytes[i] = (unsigned char)(seed + i / PAGE);
}

int main(int argc, char **argv)
{
	struct dma_heap_allocation_data data = { .len = BYTES, .fd_flags = O_RDWR | O_CLOEXEC };
	int heap = open("/dev/dma_heap/system", O_RDONLY | O_CLOEXEC);
	int file = argc == 3 ? open(argv[2], O_RDWR | O_CREAT | O_DIRECT, 0600) : -1;
	unsigned char *bytes = aligned_alloc(PAGE, BYTES), *map;
	struct iovec from = { bytes, BYTES }, to;
	double end = argc == 3 ? now() + atoi(argv[1]) : 0;
	unsigned rounds = 0, lost = 0;

	if (file < 0) {
		perror("a file for direct I/O");
		return 77;
	}
	if (ioctl(heap, DMA_HEAP_IOCTL_ALLOC, &data))
		return 1;
	map = mmap(NULL, BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, data.fd, 0);
	to = (struct iovec){ map, BYTES };
	for (; now() < end; rounds++) {
		fill(bytes, rounds);
		if (pwrite(file, bytes, BYTES, 0) != BYTES) {
			perror("direct write");
			return 77;
		}
		memset(map, 0, BYTES);
		if (pread(file, map, BYTES, 0) != BYTES || memcmp(map, bytes, BYTES))
			lost++;
		fill(bytes, rounds * 3);
		if (process_vm_writev(getpid(), &from, 1, &to, 1, 0) != BYTES ||
		    memcmp(map, bytes, BYTES))
			lost++;
	}
	printf("direct: %u rounds, %u lost\n", rounds, lost);
	return lost != 0;
}
