/* A program that shows frames: for three seconds, or for as many as it is told, it reads a buffer
 * called `frame` inside SYNC brackets and counts how often its first byte changed. A device that
 * writes the buffer (`--device camera,writes=frame`) makes it change.
 *
 *   cc -o player tools/examples/player.c
 *   driftheap run --chaos 1 -- ./player */
#include <fcntl.h>
#include <linux/dma-buf.h>
#include <linux/dma-heap.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define BYTES (2 * 4096)

static void check(int ok, const char *what)
{
    if (!ok) {
        perror(what);
        exit(1);
    }
}

static void bracket(int fd, unsigned long long flags)
{
    struct dma_buf_sync arg = {.flags = flags};

    check(ioctl(fd, DMA_BUF_IOCTL_SYNC, &arg) == 0, "DMA_BUF_IOCTL_SYNC");
}

int main(int argc, char **argv)
{
    struct dma_heap_allocation_data data = {.len = BYTES, .fd_flags = O_RDWR | O_CLOEXEC};
    time_t end = time(NULL) + (argc > 1 ? atoi(argv[1]) : 3);
    int heap = open("/dev/dma_heap/system", O_RDWR | O_CLOEXEC);
    int shown = 0, changes = 0, last = 0;
    volatile unsigned char *frame;

    check(heap >= 0, "/dev/dma_heap/system");
    check(ioctl(heap, DMA_HEAP_IOCTL_ALLOC, &data) == 0, "DMA_HEAP_IOCTL_ALLOC");
    check(ioctl((int)data.fd, DMA_BUF_SET_NAME_B, "frame") == 0, "DMA_BUF_SET_NAME");
    frame = mmap(NULL, BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, (int)data.fd, 0);
    check(frame != MAP_FAILED, "mmap");
    while (time(NULL) < end) {
        bracket((int)data.fd, DMA_BUF_SYNC_READ | DMA_BUF_SYNC_START);
        changes += frame[0] != last;
        last = frame[0];
        bracket((int)data.fd, DMA_BUF_SYNC_READ | DMA_BUF_SYNC_END);
        shown++;
        usleep(2000);
    }
    printf("%d frames shown, %d of them new\n", shown, changes);
    return 0;
}
