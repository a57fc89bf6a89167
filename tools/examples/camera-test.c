/* A small client of a dma-buf heap, as a camera's test is: it allocates a few frames, fills each
 * inside a SYNC bracket, reads it back, and says how many were whole.
 *
 *   cc -o camera-test tools/examples/camera-test.c
 *   driftheap run -- ./camera-test */
#include <fcntl.h>
#include <linux/dma-buf.h>
#include <linux/dma-heap.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#define FRAMES 4
#define BYTES (64 * 1024)

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

int main(void)
{
    int heap = open("/dev/dma_heap/system", O_RDWR | O_CLOEXEC);
    int whole = 0;

    check(heap >= 0, "/dev/dma_heap/system");
    for (int frame = 0; frame < FRAMES; frame++) {
        struct dma_heap_allocation_data data = {.len = BYTES, .fd_flags = O_RDWR | O_CLOEXEC};
        unsigned char *bytes;
        int right = 1;

        check(ioctl(heap, DMA_HEAP_IOCTL_ALLOC, &data) == 0, "DMA_HEAP_IOCTL_ALLOC");
        bytes = mmap(NULL, BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, (int)data.fd, 0);
        check(bytes != MAP_FAILED, "mmap");
        bracket((int)data.fd, DMA_BUF_SYNC_RW | DMA_BUF_SYNC_START);
        memset(bytes, frame + 1, BYTES);
        bracket((int)data.fd, DMA_BUF_SYNC_RW | DMA_BUF_SYNC_END);
        bracket((int)data.fd, DMA_BUF_SYNC_READ | DMA_BUF_SYNC_START);
        for (int at = 0; at < BYTES; at++)
            right &= bytes[at] == frame + 1;
        bracket((int)data.fd, DMA_BUF_SYNC_READ | DMA_BUF_SYNC_END);
        munmap(bytes, BYTES);
        close((int)data.fd);
        whole += right;
    }
    close(heap);
    printf("%d of %d frames are whole\n", whole, FRAMES);
    return whole == FRAMES ? 0 : 1;
}
