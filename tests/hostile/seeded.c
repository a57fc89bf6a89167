/* Faults on purpose, one for each column of the table. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/dma-heap.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

int main(int argc, char **argv)
{
	const char *what = argc > 1 ? argv[1] : "";

	if (!strcmp(what, "hangs"))
		for (;;)
			pause();
	if (!strcmp(what, "crashes"))
		abort();
	if (!strcmp(what, "holds"))
		/* Others that hold buffers for longer than anybody looks. */
		for (int i = 0; i < 8; i++)
			if (!fork()) {
				struct dma_heap_allocation_data data = { .len = 4096, .fd_flags = O_RDWR };
				int heap = open("/dev/dma_heap/system", O_RDONLY);

				ioctl(heap, DMA_HEAP_IOCTL_ALLOC, &data);
				sleep(7);
				return 0;
			}
	if (!strcmp(what, "keeps")) {
		/* A file beside the program's own, where nothing may be left. */
		char path[512];

		snprintf(path, sizeof(path), "%s/kept", getenv("TMPDIR"));
		close(open(path, O_CREAT | O_WRONLY, 0600));
	}
	if (!strcmp(what, "answers"))
		return 1;
	return 0;
}
