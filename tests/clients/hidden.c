/* A program that becomes undumpable, so that nobody may look into it any more, and then maps its
 * buffer once more. Stores through both mappings; exits 0 if no store was lost. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/dma-heap.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <time.h>

#define PAGES 64
#define PAGE 4096

int main(void)
{
	struct dma_heap_allocation_data data = { .len = PAGES * PAGE, .fd_flags = O_RDWR };
	int heap = open("/dev/dma_heap/system", O_RDONLY | O_CLOEXEC);
	unsigned long lost = 0, count = 0;
	volatile char *map[2];
	time_t end;

	if (heap < 0 || ioctl(heap, DMA_HEAP_IOCTL_ALLOC, &data))
		return 2;
	for (int n = 0; n < 2; n++) {
		map[n] = mmap(0, PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, data.fd, 0);
		if (map[n] == MAP_FAILED)
			return 2;
		if (n == 0)
			prctl(PR_SET_DUMPABLE, 0);
	}
	for (end = time(0) + 2; time(0) < end;)
		for (int n = 0; n < 1000 * PAGES; n++) {
			volatile uint64_t *a = (volatile uint64_t *)(map[n & 1] + n % PAGES * PAGE);
			volatile uint64_t *b = (volatile uint64_t *)(map[~n & 1] + n % PAGES * PAGE);

			*a = ++count;
			lost += *b != count;
		}
	printf("hidden: %lu stores, %lu lost\n", count, lost);
	return !!lost;
}
