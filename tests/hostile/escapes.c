/* Names that a terminal would act on: of the process, of a thread, of its file, of buffers. Buffers are
 * left open and misused, so that reports have to name them. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/dma-buf.h>
#include <linux/dma-heap.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

static const char *names[] = { "\033[2J\033[31mred", "two\nlines\r\tand", "\xff\xfe\x80\xc0", "\033]0;title\007", "\302\233m" };

static void need(int good, const char *what)
{
	if (!good) {
		printf("%s: %s\n", what, strerror(errno));
		exit(1);
	}
}

static void *in_thread(void *name)
{
	struct dma_heap_allocation_data data = { .len = 4096, .fd_flags = O_RDWR };
	struct dma_buf_sync sync = { DMA_BUF_SYNC_END | DMA_BUF_SYNC_RW };
	char path[64], info[1024];
	int heap = open("/dev/dma_heap/system", O_RDONLY);

	prctl(PR_SET_NAME, name);
	need(heap >= 0 && !ioctl(heap, DMA_HEAP_IOCTL_ALLOC, &data), "alloc");
	need(!ioctl(data.fd, DMA_BUF_SET_NAME_B, name), "name");
	/* An END without START, a private mapping, and a buffer that stays. */
	ioctl(data.fd, DMA_BUF_IOCTL_SYNC, &sync);
	mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE, data.fd, 0);
	snprintf(path, sizeof(path), "/proc/self/fdinfo/%d", data.fd);
	int file = open(path, O_RDONLY);
	ssize_t got = read(file, info, sizeof(info) - 1);
	need(got > 0, "fdinfo");
	info[got] = 0;
	/* fdinfo keeps the bytes, up to the 31 that the kernel keeps. */
	need(strstr(info, name) != NULL, "the name in fdinfo");
	return NULL;
}

int main(int argc, char **argv)
{
	char file[128];

	for (unsigned i = 0; argc < 2 && i < sizeof(names) / sizeof(*names); i++) {
		int status, pid;

		snprintf(file, sizeof(file), "./%s", names[i]);
		unlink(file);
		need(!symlink("/proc/self/exe", file) || errno == EEXIST, "a file of this name");
		pid = fork();
		if (!pid) {
			char number[8];

			snprintf(number, sizeof(number), "%u", i);
			execl("/proc/self/exe", names[i], number, NULL);
			_exit(2);
		}
		need(waitpid(pid, &status, 0) == pid && !status, "a child");
		unlink(file);
	}
	if (argc > 1) {
		pthread_t thread;

		prctl(PR_SET_NAME, names[atoi(argv[1])]);
		need(!pthread_create(&thread, NULL, in_thread, (void *)names[atoi(argv[1])]), "thread");
		pthread_join(thread, NULL);
	}
	return 0;
}
