/* Maps buffers, moves the mappings and forks while a timer sends real-time signals all the time. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/dma-heap.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static volatile long signals;

static void count(int signal)
{
	(void)signal;
	signals++;
}

int main(void)
{
	struct sigaction action = { .sa_handler = count, .sa_flags = SA_RESTART };
	struct sigevent event = { .sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGRTMIN + 3 };
	struct itimerspec every = { { 0, 200000 }, { 0, 200000 } };
	timer_t timer;
	sigaction(SIGRTMIN + 3, &action, NULL);
	int heap = open("/dev/dma_heap/system", O_RDWR | O_CLOEXEC);
	if (heap < 0 || timer_create(CLOCK_MONOTONIC, &event, &timer) || timer_settime(timer, 0, &every, NULL))
		return perror("setup"), 2;
	for (int round = 0; round < 300; round++) {
		struct dma_heap_allocation_data buf = { .len = 8192, .fd_flags = O_RDWR | O_CLOEXEC };
		while (ioctl(heap, DMA_HEAP_IOCTL_ALLOC, &buf))
			;
		char *map = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_SHARED, buf.fd, 0);
		if (map == MAP_FAILED)
			return perror("mmap"), 3;
		memset(map, round, 8192);
		map = mremap(map, 8192, 4096, MREMAP_MAYMOVE);
		if (map == MAP_FAILED)
			return perror("mremap"), 4;
		if (round % 10 == 0) {
			pid_t child = fork();
			if (child == 0)
				_exit(map[4095] == (char)round ? 0 : 1);
			int status;
			while (waitpid(child, &status, 0) < 0)
				;
			if (status)
				return fprintf(stderr, "child: %x\n", status), 5;
		}
		if (map[100] != (char)round)
			return fprintf(stderr, "lost in round %d\n", round), 6;
		munmap(map, 4096);
		close(buf.fd);
	}
	printf("realtime ok, %s signals\n", signals > 100 ? "many" : "few");
	return 0;
}
