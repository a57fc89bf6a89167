/* Pages and files that the program itself provides: what the supervisor reads may wait for it. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/fuse.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define PAGE sysconf(_SC_PAGESIZE)
#define NEED(what) do { if (!(what)) { fprintf(stderr, "line %d: %s: %s\n", __LINE__, #what, strerror(errno)); _exit(1); } } while (0)

struct alloc { uint64_t len; uint32_t fd, fd_flags; uint64_t heap_flags; };
#define ALLOC _IOWR('H', 0, struct alloc)

static int heap;

/* What everybody else can do meanwhile. */
static void allocate(int times) {
    for (int i = 0; i < times; i++) {
        struct alloc arg = { PAGE, 0, O_RDWR | O_CLOEXEC, 0 };
        NEED(!ioctl(heap, ALLOC, &arg) && !close((int)arg.fd));
    }
}

/* The largest page that there is. */
static char content[65536] __attribute__((aligned(65536)));
static char *page;
static int uffd;

/* Fills the page, but not before another process has had its calls answered. */
static void *fill(void *unused) {
    struct uffd_msg message;
    NEED(read(uffd, &message, sizeof message) == sizeof message);
    pid_t other = fork();
    if (!other) {
        allocate(50);
        _exit(0);
    }
    int status;
    NEED(waitpid(other, &status, 0) == other && !status);
    struct uffdio_copy copy = { (uintptr_t)page, (uintptr_t)content, PAGE, 0, 0 };
    NEED(!ioctl(uffd, UFFDIO_COPY, &copy));
    return unused;
}

static void with_page(const void *bytes, size_t length, void (*use)(void)) {
    page = mmap(0, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    memcpy(content, bytes, length);
    struct uffdio_register range = { { (uintptr_t)page, PAGE }, UFFDIO_REGISTER_MODE_MISSING, 0 };
    pthread_t thread;
    NEED(!ioctl(uffd, UFFDIO_REGISTER, &range) && !pthread_create(&thread, 0, fill, 0));
    use();
    NEED(!pthread_join(thread, 0) && !munmap(page, PAGE));
}

static void open_it(void) {
    int fd = open(page, O_RDWR);
    struct alloc arg = { PAGE, 0, O_RDWR, 0 };
    NEED(fd >= 0 && !ioctl(fd, ALLOC, &arg) && !close((int)arg.fd) && !close(fd));
}

static void allocate_it(void) {
    struct alloc *arg = (struct alloc *)page;
    NEED(!ioctl(heap, ALLOC, arg));
    NEED(lseek((int)arg->fd, 0, SEEK_END) == PAGE && !close((int)arg->fd));
}

static void open_elsewhere(void) {
    int fd = open(page, O_RDONLY);
    NEED(fd >= 0 && !close(fd));
}

static int pages(void) {
    uffd = (int)syscall(SYS_userfaultfd, O_CLOEXEC);
    if (uffd < 0) {
        puts("SKIP: a userfaultfd that holds the kernel up needs CAP_SYS_PTRACE, or vm.unprivileged_userfaultfd=1");
        return 77;
    }
    struct uffdio_api api = { .api = UFFD_API };
    NEED(!ioctl(uffd, UFFDIO_API, &api));
    static const char name[] = "/dev/dma_heap/system", other[] = "/dev/null";
    struct alloc arg = { PAGE, 0, O_RDWR | O_CLOEXEC, 0 };
    with_page(name, sizeof name, open_it);
    with_page(other, sizeof other, open_elsewhere);
    with_page(&arg, sizeof arg, allocate_it);
    return 0;
}

/* A file system of one file, whose answers wait for opens of its daemon's own. */
static void serve(int fuse) {
    static char in[1 << 17], out[256];
    for (;;) {
        ssize_t got = read(fuse, in, sizeof in);
        if (got < (ssize_t)sizeof(struct fuse_in_header))
            return;
        struct fuse_in_header *head = (struct fuse_in_header *)in;
        struct fuse_out_header *reply = (struct fuse_out_header *)out;
        memset(out, 0, sizeof out);
        size_t length = 0;
        int error = 0, own = open("/dev/null", O_RDONLY);
        NEED(own >= 0 && !close(own));
        allocate(1);
        struct fuse_attr attr = { .ino = head->nodeid, .mode = head->nodeid == 1 ? S_IFDIR | 0755 : S_IFREG | 0644, .nlink = 1, .size = 5 };
        switch (head->opcode) {
        case FUSE_INIT: {
            struct fuse_init_out init = { .major = FUSE_KERNEL_VERSION, .minor = 31, .max_write = 4096 };
            memcpy(out + sizeof *reply, &init, length = sizeof init);
            break;
        }
        case FUSE_LOOKUP: {
            struct fuse_entry_out entry = { .nodeid = 2, .attr = attr };
            entry.attr.ino = 2, entry.attr.mode = S_IFREG | 0644;
            memcpy(out + sizeof *reply, &entry, length = sizeof entry);
            break;
        }
        case FUSE_GETATTR: {
            struct fuse_attr_out answer = { .attr = attr };
            memcpy(out + sizeof *reply, &answer, length = sizeof answer);
            break;
        }
        case FUSE_OPEN: {
            struct fuse_open_out answer = { .fh = 1 };
            memcpy(out + sizeof *reply, &answer, length = sizeof answer);
            break;
        }
        case FUSE_READ:
            memcpy(out + sizeof *reply, "hello", length = 5);
            break;
        case FUSE_FORGET:
        case FUSE_BATCH_FORGET:
            continue;
        case FUSE_FLUSH:
        case FUSE_RELEASE:
            break;
        default:
            error = -ENOSYS;
        }
        reply->unique = head->unique, reply->error = error;
        reply->len = (uint32_t)(sizeof *reply + (error ? 0 : length));
        if (write(fuse, out, reply->len) < 0 && errno != ENOENT)
            return;
    }
}

struct fence { uint32_t value; char name[32]; int32_t fence; };
struct import { uint32_t flags; int32_t fd; };

/* A busy buffer and a file of the file system's, in one poll: it waits for the one, and asks nobody about
 * the other. */
static void poll_both(int file) {
    struct fence fence = { .value = 1 };
    struct alloc arg = { PAGE, 0, O_RDWR | O_CLOEXEC, 0 };
    int timeline = open("/sys/kernel/debug/sync/sw_sync", O_RDWR);
    NEED(timeline >= 0 && !ioctl(timeline, _IOWR('W', 0, struct fence), &fence) && !ioctl(heap, ALLOC, &arg));
    struct import import = { 3, fence.fence };
    NEED(!ioctl((int)arg.fd, _IOW('b', 3, struct import), &import));
    struct pollfd both[] = { { (int)arg.fd, POLLOUT, 0 }, { file, POLLIN, 0 } }, one[] = { both[0], { file, 0, 0 } };
    NEED(poll(both, 2, 10000) == 1 && !both[0].revents && both[1].revents == POLLIN);
    NEED(poll(one, 2, 50) == 0);
    pid_t other = fork();
    if (!other) {
        uint32_t steps = 1;
        allocate(20);
        NEED(!ioctl(timeline, _IOW('W', 1, uint32_t), &steps));
        _exit(0);
    }
    int status;
    NEED(poll(one, 2, 60000) == 1 && one[0].revents == POLLOUT);
    NEED(waitpid(other, &status, 0) == other && !status);
    close((int)arg.fd), close(fence.fence), close(timeline);
}

static int files(const char *directory) {
    int fuse = open("/dev/fuse", O_RDWR | O_CLOEXEC);
    char options[128], path[512], text[8] = "";
    snprintf(options, sizeof options, "fd=%d,rootmode=40000,user_id=%d,group_id=%d", fuse, getuid(), getgid());
    if (fuse < 0 || mount("fills", directory, "fuse", MS_NOSUID | MS_NODEV, options)) {
        printf("SKIP: can't mount a file system: %s\n", strerror(errno));
        return 77;
    }
    pid_t daemon = fork();
    if (!daemon) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        serve(fuse);
        _exit(0);
    }
    NEED(!close(fuse));
    snprintf(path, sizeof path, "%s/file", directory);
    for (int i = 0; i < 20; i++) {
        struct stat stat;
        int fd = open(path, O_RDONLY);
        NEED(fd >= 0 && !fstat(fd, &stat) && stat.st_size == 5);
        struct pollfd poll_it = { fd, POLLIN, 0 };
        NEED(poll(&poll_it, 1, 1000) == 1);
        NEED(fcntl(fd, F_GETFL) >= 0 && lseek(fd, 0, SEEK_END) == 5 && !lseek(fd, 0, SEEK_SET));
        NEED(read(fd, text, sizeof text) == 5 && !memcmp(text, "hello", 5));
        /* Relative to a directory of it. */
        int dir = open(directory, O_RDONLY | O_DIRECTORY);
        int again = openat(dir, "file", O_RDONLY);
        NEED(dir >= 0 && again >= 0 && !faccessat(dir, "dma_heap", F_OK, 0) && !close(again) && !close(dir));
        allocate(300);
        if (i % 5 == 0)
            poll_both(fd);
        NEED(!close(fd));
    }
    NEED(!umount2(directory, MNT_DETACH));
    int status;
    NEED(waitpid(daemon, &status, 0) == daemon && !status);
    return 0;
}

int main(int argc, char **argv) {
    heap = open("/dev/dma_heap/system", O_RDWR);
    NEED(heap >= 0);
    int status = argc > 2 ? files(argv[2]) : pages();
    if (!status)
        puts("ok");
    return status;
}
