/* Stores into a buffer outside of brackets from code without landing pads, which is called through a
 * pointer: when the store traps, the processor still remembers the branch (PSTATE.BTYPE). Whoever has the
 * thread make a system call then sends it into libc, whose pages are guarded (PROT_BTI) and whose `svc` is
 * no landing pad.
 *
 * Says first what makes that a test: that libc's code is guarded, and that the same code in a guarded page
 * ends by SIGILL. Prints "N stores, M lost" and exits 0 if M is 0; exits 77 without BTI. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <inttypes.h>
#include <linux/dma-heap.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#ifndef PROT_BTI
#define PROT_BTI 0x10
#endif

typedef void (*store_fn)(volatile char *at, int value);

static store_fn code(int guarded)
{
	static const uint32_t words[] = { 0x39000001 /* strb w1, [x0] */, 0xd65f03c0 /* ret */ };
	long page = sysconf(_SC_PAGESIZE);
	char *at = mmap(NULL, page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (at == MAP_FAILED)
		return NULL;
	memcpy(at, words, sizeof(words));
	__builtin___clear_cache(at, at + sizeof(words));
	if (mprotect(at, page, PROT_READ | PROT_EXEC | (guarded ? PROT_BTI : 0)))
		return NULL;
	return (store_fn)at;
}

/* Whether the mapping of an address says "bt" in its VmFlags. */
static int is_guarded(const void *address)
{
	uintptr_t at = (uintptr_t)address, start, end;
	int inside = 0, guarded = 0;
	char line[512];
	FILE *maps = fopen("/proc/self/smaps", "r");

	while (maps && fgets(line, sizeof(line), maps)) {
		if (sscanf(line, "%" SCNxPTR "-%" SCNxPTR " ", &start, &end) == 2)
			inside = start <= at && at < end;
		else if (inside && !strncmp(line, "VmFlags:", 8))
			guarded = strstr(line, " bt") != NULL;
	}
	if (maps)
		fclose(maps);
	return guarded;
}

int main(void)
{
	long page = sysconf(_SC_PAGESIZE), stores = 0, lost = 0;
	struct dma_heap_allocation_data data = { .len = 4 * page, .fd_flags = O_RDWR | O_CLOEXEC };
	int heap = open("/dev/dma_heap/system", O_RDWR | O_CLOEXEC), status = 0;
	volatile store_fn store = code(0), padless = code(1);
	volatile char *map, byte = 0;

	if (!(getauxval(AT_HWCAP2) & HWCAP2_BTI)) {
		puts("no BTI");
		return 77;
	}
	if (heap < 0 || ioctl(heap, DMA_HEAP_IOCTL_ALLOC, &data) || !store || !padless)
		return 2;
	map = mmap(NULL, 4 * page, PROT_READ | PROT_WRITE, MAP_SHARED, data.fd, 0);
	if (map == MAP_FAILED)
		return 3;
	if (fork() == 0) {
		padless(&byte, 1);
		_exit(0);
	}
	wait(&status);
	printf("libc is %sguarded; a branch past the pads ends by signal %d\n", is_guarded(ioctl) ? "" : "not ",
	       WIFSIGNALED(status) ? WTERMSIG(status) : 0);
	fflush(stdout);
	for (int n = 1; n <= 40; n++) {
		store(map + n % 4 * page + n, n);
		stores++;
		lost += map[n % 4 * page + n] != n;
	}
	printf("%ld stores, %ld lost\n", stores, lost);
	munmap((void *)map, 4 * page);
	close((int)data.fd);
	return lost ? 1 : 0;
}
