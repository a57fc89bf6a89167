/* Executes itself, time and again, while other threads allocate, map and give back buffers. Usage:
 * exec_threads ROUNDS; prints "ok" at the end. */
#include <fcntl.h>
#include <linux/dma-heap.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#define BYTES 16384
#define THREADS 3

static void *map_and_unmap(void *unused)
{
	(void)unused;
	for (;;) {
		struct dma_heap_allocation_data data = { .len = BYTES, .fd_flags = O_RDWR | O_CLOEXEC };
		int heap = open("/dev/dma_heap/system", O_RDONLY | O_CLOEXEC);
		char *map;

		if (ioctl(heap, DMA_HEAP_IOCTL_ALLOC, &data))
			_exit(2);
		close(heap);
		map = mmap(NULL, BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, data.fd, 0);
		if (map != MAP_FAILED) {
			map[0] = 1;
			munmap(map, BYTES);
		}
		close(data.fd);
	}
}

int main(int argc, char **argv)
{
	int rounds = argc > 1 ? atoi(argv[1]) : 0;
	char left[16];
	pthread_t thread;

	if (rounds <= 0) {
		puts("ok");
		return 0;
	}
	for (int i = 0; i < THREADS; i++)
		if (pthread_create(&thread, NULL, map_and_unmap, NULL))
			return 1;
	usleep(5000);
	snprintf(left, sizeof(left), "%d", rounds - 1);
	execl("/proc/self/exe", argv[0], left, (char *)NULL);
	perror("execl");
	return 1;
}
