/* A child that only inherited a descriptor has nothing to give back; one that used the buffer has. */
#include <fcntl.h>
#include <linux/dma-heap.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

int main(void)
{
	struct dma_heap_allocation_data data = { .len = 4096, .fd_flags = O_RDWR };
	int heap = open("/dev/dma_heap/system", O_RDONLY | O_CLOEXEC);
	int closed[2];
	char byte;

	if (pipe(closed) || ioctl(heap, DMA_HEAP_IOCTL_ALLOC, &data)) /* BUG: leaked-fd */
		return 1;
	if (fork() == 0) {
		/* Until the parent has given its own up. */
		close(closed[1]);
		if (read(closed[0], &byte, 1) != 0)
			_exit(1);
#ifdef BUGGY
		mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, data.fd, 0);
#endif
		_exit(0);
	}
	close(data.fd);
	close(closed[1]);
	wait(NULL);
	return 0;
}
