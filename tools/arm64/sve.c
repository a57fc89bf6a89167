/* Stores into a buffer between brackets, where `--check-access exhaustive` traps each first touch, with
 * patterns in the SVE registers and predicates; then looks whether they are as they were.
 *
 * Prints "N stores, M registers changed, V bytes each" and exits 0 if M is 0; exits 77 without SVE. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/dma-buf.h>
#include <linux/dma-heap.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#define VECTORS 32
#define PREDICATES 16
#define BYTES_MAX 256

static uint8_t before[VECTORS * BYTES_MAX], after[VECTORS * BYTES_MAX];
static uint8_t said[PREDICATES * BYTES_MAX / 8], found[PREDICATES * BYTES_MAX / 8];

#define EACH_VECTOR(DO) \
	DO(0) DO(1) DO(2) DO(3) DO(4) DO(5) DO(6) DO(7) DO(8) DO(9) DO(10) DO(11) DO(12) DO(13) DO(14) DO(15) \
	DO(16) DO(17) DO(18) DO(19) DO(20) DO(21) DO(22) DO(23) DO(24) DO(25) DO(26) DO(27) DO(28) DO(29) DO(30) DO(31)
#define EACH_PREDICATE(DO) \
	DO(0) DO(1) DO(2) DO(3) DO(4) DO(5) DO(6) DO(7) DO(8) DO(9) DO(10) DO(11) DO(12) DO(13) DO(14) DO(15)
#define LOAD_Z(N) "ldr z" #N ", [%[before], #" #N ", mul vl]\n"
#define KEEP_Z(N) "str z" #N ", [%[after], #" #N ", mul vl]\n"
#define LOAD_P(N) "ldr p" #N ", [%[said], #" #N ", mul vl]\n"
#define KEEP_P(N) "str p" #N ", [%[found], #" #N ", mul vl]\n"
#define NAME_Z(N) "z" #N,
#define NAME_P(N) "p" #N,

/* One store, of which nobody but this function knows when it ends. */
__attribute__((target("+sve"))) static void store(volatile char *at)
{
	asm volatile(EACH_VECTOR(LOAD_Z) EACH_PREDICATE(LOAD_P) "strb w9, [%[at]]\n" EACH_VECTOR(KEEP_Z)
			     EACH_PREDICATE(KEEP_P)
		     :
		     : [before] "r"(before), [after] "r"(after), [said] "r"(said), [found] "r"(found), [at] "r"(at)
		     : "memory", EACH_VECTOR(NAME_Z) EACH_PREDICATE(NAME_P) "x9");
}

__attribute__((target("+sve"))) static long vector_bytes(void)
{
	long bytes;

	asm("cntb %0" : "=r"(bytes));
	return bytes;
}

int main(int argc, char **argv)
{
	int rounds = argc > 1 ? atoi(argv[1]) : 50;
	long page = sysconf(_SC_PAGESIZE), bytes, stores = 0, changed = 0;
	struct dma_heap_allocation_data data = { .len = 4 * page, .fd_flags = O_RDWR | O_CLOEXEC };
	struct dma_buf_sync start = { DMA_BUF_SYNC_START | DMA_BUF_SYNC_RW };
	struct dma_buf_sync end = { DMA_BUF_SYNC_END | DMA_BUF_SYNC_RW };
	int heap = open("/dev/dma_heap/system", O_RDWR | O_CLOEXEC);
	volatile char *map;

	if (!(getauxval(AT_HWCAP) & HWCAP_SVE)) {
		puts("no SVE");
		return 77;
	}
	if (heap < 0 || ioctl(heap, DMA_HEAP_IOCTL_ALLOC, &data))
		return 2;
	map = mmap(NULL, 4 * page, PROT_READ | PROT_WRITE, MAP_SHARED, data.fd, 0);
	if (map == MAP_FAILED)
		return 3;
	bytes = vector_bytes();
	for (int round = 0; round < rounds; round++) {
		for (size_t at = 0; at < sizeof(before); at++)
			before[at] = (uint8_t)(at * 7 + round + 1);
		for (size_t at = 0; at < sizeof(said); at++)
			said[at] = (uint8_t)(at * 13 + round + 1);
		ioctl(data.fd, DMA_BUF_IOCTL_SYNC, &start);
		ioctl(data.fd, DMA_BUF_IOCTL_SYNC, &end);
		store(map + round % 4 * page + round);
		stores++;
		for (int n = 0; n < VECTORS; n++)
			changed += memcmp(before + n * bytes, after + n * bytes, (size_t)bytes) != 0;
		for (int n = 0; n < PREDICATES; n++)
			changed += memcmp(said + n * bytes / 8, found + n * bytes / 8, (size_t)bytes / 8) != 0;
	}
	printf("%ld stores, %ld registers changed, %ld bytes each\n", stores, changed, bytes);
	munmap((void *)map, 4 * page);
	close((int)data.fd);
	return changed ? 1 : 0;
}
