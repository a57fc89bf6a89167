/* A program whose buffer a device writes: `player frames` waits until it has seen a number of
 * frames, each inside a SYNC bracket and after a sync_file of the device's fences has signalled.
 * `player victim` holds a second buffer that nobody writes, and says what becomes of it; `player
 * long` does so for four seconds, whatever becomes of it. */
#include <fcntl.h>
#include <linux/dma-buf.h>
#include <linux/dma-heap.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define BYTES (2 * 4096)
#define FRAMES 20
#define SECONDS 60

#ifndef DMA_BUF_IOCTL_EXPORT_SYNC_FILE
struct dma_buf_export_sync_file {
    __u32 flags;
    __s32 fd;
};
#define DMA_BUF_IOCTL_EXPORT_SYNC_FILE _IOWR(DMA_BUF_BASE, 2, struct dma_buf_export_sync_file)
#endif

static void check(int ok, const char *what)
{
    if (!ok) {
        perror(what);
        exit(2);
    }
}

static unsigned char *buffer(const char *name, int *fd)
{
    struct dma_heap_allocation_data data = {.len = BYTES, .fd_flags = O_RDWR | O_CLOEXEC};
    int heap = open("/dev/dma_heap/system", O_RDWR | O_CLOEXEC);
    unsigned char *bytes;

    check(heap >= 0, "open");
    check(ioctl(heap, DMA_HEAP_IOCTL_ALLOC, &data) == 0, "alloc");
    close(heap);
    *fd = (int)data.fd;
    bytes = mmap(NULL, BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, *fd, 0);
    check(bytes != MAP_FAILED, "mmap");
    check(ioctl(*fd, DMA_BUF_SET_NAME_B, name) == 0, "name");
    return bytes;
}

static void sync_cpu(int fd, unsigned long long flags)
{
    struct dma_buf_sync arg = {.flags = flags};
    check(ioctl(fd, DMA_BUF_IOCTL_SYNC, &arg) == 0, "sync");
}

/* Whether a sync_file of the device's fences had to be waited for. */
static int wait_for_device(int fd)
{
    struct dma_buf_export_sync_file arg = {.flags = DMA_BUF_SYNC_READ, .fd = -1};
    struct pollfd waited;
    int busy;

    check(ioctl(fd, DMA_BUF_IOCTL_EXPORT_SYNC_FILE, &arg) == 0, "export");
    waited.fd = arg.fd;
    waited.events = POLLIN;
    busy = poll(&waited, 1, 0) == 0;
    check(poll(&waited, 1, SECONDS * 1000) == 1, "the fence never signalled: poll");
    close(arg.fd);
    return busy;
}

int main(int argc, char **argv)
{
    int frame_fd, victim_fd, frames = 0, waits = 0, last = 0;
    int is_long = argc > 1 && strcmp(argv[1], "long") == 0;
    time_t end = time(NULL) + (is_long ? 4 : SECONDS);
    unsigned char *frame = buffer("frame", &frame_fd);
    unsigned char *victim = NULL;

    if (is_long || (argc > 1 && strcmp(argv[1], "victim") == 0)) {
        victim = buffer("victim", &victim_fd);
        memset(victim, 0x55, BYTES);
    }
    while (time(NULL) < end) {
        waits += wait_for_device(frame_fd);
        sync_cpu(frame_fd, DMA_BUF_SYNC_READ | DMA_BUF_SYNC_START);
        frames += frame[0] != last;
        last = frame[0];
        sync_cpu(frame_fd, DMA_BUF_SYNC_READ | DMA_BUF_SYNC_END);
        for (int at = 0; victim && !is_long && at < BYTES; at++) {
            if (victim[at] != 0x55) {
                printf("byte %d of victim was 0x55 and is 0x%02x\n", at, victim[at]);
                return 0;
            }
        }
        if (!victim && frames >= FRAMES && waits > 0) {
            printf("%d frames, waited for the device\n", FRAMES);
            return 0;
        }
        usleep(500);
    }
    printf("%d frames, %d waits, victim whole\n", frames, waits);
    return !is_long;
}
