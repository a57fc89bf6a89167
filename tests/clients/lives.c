/* Buffers that live and end, by every way to hold one. Says "ok", or what went wrong. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

struct alloc { uint64_t len; uint32_t fd, fd_flags; uint64_t heap_flags; };
struct create { uint32_t memfd, flags; uint64_t offset, size; };
struct item { uint32_t memfd, pad; uint64_t offset, size; };
struct list { uint32_t flags, count; struct item items[3]; };
struct fence { uint32_t value; char name[32]; int32_t fence; };
#define ALLOC _IOWR('H', 0, struct alloc)
#define SYNC _IOW('b', 0, uint64_t)
#define CREATE _IOW('u', 0x42, struct create)
#define CREATE_LIST _IOW('u', 0x43, uint64_t)
#define CREATE_FENCE _IOWR('W', 0, struct fence)
#define PAGE sysconf(_SC_PAGESIZE)

#define NEED(what) do { if (!(what)) { printf("line %d: %s: %s\n", __LINE__, #what, strerror(errno)); exit(1); } } while (0)

static int sync_all(int fd) {
    uint64_t start = 3, end = 3 | 4;
    return ioctl(fd, SYNC, &start) || ioctl(fd, SYNC, &end) ? -1 : 0;
}

static int alloc_pages(int heap, int pages) {
    struct alloc arg = { .len = (uint64_t)pages * PAGE, .fd_flags = O_RDWR | O_CLOEXEC };
    return ioctl(heap, ALLOC, &arg) ? -1 : (int)arg.fd;
}

static int memfd_of(int pages) {
    int fd = memfd_create("pool", MFD_ALLOW_SEALING);
    NEED(fd >= 0 && !ftruncate(fd, (off_t)pages * PAGE) && !fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK));
    return fd;
}

static int udmabuf_of(int device, int memfd, int first, int pages) {
    struct create arg = { memfd, 1, (uint64_t)first * PAGE, (uint64_t)pages * PAGE };
    return ioctl(device, CREATE, &arg);
}

static volatile char *map(int fd, int first, int pages) {
    void *at = mmap(0, pages * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, (off_t)first * PAGE);
    return at == MAP_FAILED ? 0 : at;
}

static ino_t inode_of(int fd) {
    struct stat stat;
    NEED(!fstat(fd, &stat));
    return stat.st_ino;
}

/* Several udmabufs of one memfd, with offsets and from several memfds. */
static void udmabufs(void) {
    enum { MANY = 40 };
    int device = open("/dev/udmabuf", O_RDWR);
    NEED(device >= 0);
    int a = memfd_of(MANY), b = memfd_of(4), many[MANY];
    volatile char *own_a = map(a, 0, MANY), *own_b = map(b, 0, 4);
    NEED(own_a && own_b);
    for (int i = 0; i < MANY; i++) {
        own_a[i * PAGE] = (char)(i + 1);
        NEED((many[i] = udmabuf_of(device, a, 0, MANY)) >= 0);
    }
    /* Each is a file of its own. */
    for (int i = 0; i < MANY; i++)
        for (int j = 0; j < i; j++)
            NEED(inode_of(many[i]) != inode_of(many[j]));
    for (int i = 0; i < 4; i++)
        own_b[i * PAGE] = (char)(100 + i);
    char path[64];
    snprintf(path, sizeof path, "/proc/self/fd/%d", a);
    int again = open(path, O_RDWR);
    NEED(again >= 0);
    for (int i = 0; i < MANY; i++) {
        volatile char *at = map(many[i], i, 1);
        NEED(at && *at == (char)(i + 1) && !sync_all(many[i]));
        *at = (char)(i + 2);
        NEED(own_a[i * PAGE] == (char)(i + 2));
    }
    int tail = udmabuf_of(device, a, 5, 2);
    NEED(tail >= 0 && !sync_all(tail) && lseek(tail, 0, SEEK_END) == 2 * PAGE);
    volatile char *at = map(tail, 0, 2);
    NEED(at && at[0] == 7 && at[PAGE] == 8);
    struct list list = { 1, 3, { { b, 0, 2 * PAGE, PAGE }, { a, 0, 0, 2 * PAGE }, { b, 0, 0, PAGE } } };
    int mixed = ioctl(device, CREATE_LIST, &list);
    NEED(mixed >= 0 && !sync_all(mixed) && lseek(mixed, 0, SEEK_END) == 4 * PAGE);
    NEED((at = map(mixed, 0, 4)));
    NEED(at[0] == 102 && at[PAGE] == 2 && at[2 * PAGE] == 3 && at[3 * PAGE] == 100);
    at[3 * PAGE] = 55;
    NEED(own_b[0] == 55);
    own_a[PAGE] = 66;
    NEED(at[2 * PAGE] == 66);
    NEED((at = map(mixed, 2, 2)) && at[0] == 66 && at[PAGE] == 55);
    NEED(mmap(0, PAGE, PROT_READ, MAP_SHARED, mixed, 4 * PAGE) == MAP_FAILED && errno == EINVAL);
    int low = dup(2);
    NEED(low == mixed + 1);
    pid_t child = fork();
    if (!child)
        _exit((at = map(mixed, 0, 1)) && at[0] == 102 && !sync_all(mixed) ? 0 : 1);
    int status;
    NEED(waitpid(child, &status, 0) == child && !status);
    /* Buffers come and go until a look at what lives is due. */
    int heap = open("/dev/dma_heap/system", O_RDWR), fd;
    for (int i = 0; i < 1000; i++)
        NEED((fd = alloc_pages(heap, 1)) >= 0 && !close(fd));
    for (int i = 0; i < MANY; i++)
        NEED(!sync_all(many[i]));
    NEED(!sync_all(tail) && !sync_all(mixed));
}

/* Holds buffers by a descriptor, a mapping, a child and a message while others come and go. */
static void soak(long rounds) {
    enum { HELD = 60, PER_ROUND = 100 };
    int heap = open("/dev/dma_heap/system", O_RDWR), held[HELD], pair[2], fd;
    int device = open("/dev/udmabuf", O_RDWR), memfd = memfd_of(8);
    NEED(heap >= 0 && device >= 0 && !socketpair(AF_UNIX, SOCK_STREAM, 0, pair));
    for (int i = 0; i < HELD; i++)
        NEED((held[i] = i % 4 ? alloc_pages(heap, 1) : udmabuf_of(device, memfd, i % 8, 1)) >= 0);
    for (long round = 0; round < rounds; round++) {
        /* One is nowhere but in a message. */
        int which = (int)(round % HELD);
        char byte = 0, control[CMSG_SPACE(sizeof(int))] = { 0 };
        struct iovec iov = { &byte, 1 };
        struct msghdr message = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control };
        struct cmsghdr *header = CMSG_FIRSTHDR(&message);
        header->cmsg_level = SOL_SOCKET, header->cmsg_type = SCM_RIGHTS, header->cmsg_len = CMSG_LEN(sizeof(int));
        memcpy(CMSG_DATA(header), &held[which], sizeof(int));
        NEED(sendmsg(pair[0], &message, 0) == 1 && !close(held[which]));
        pid_t child = round % 8 ? 0 : fork();
        if (!child && !(round % 8)) {
            for (int i = 0; i < HELD; i++)
                if (i != which && sync_all(held[i]))
                    _exit(1);
            _exit(0);
        }
        for (int i = 0; i < PER_ROUND; i++)
            NEED((fd = alloc_pages(heap, 1)) >= 0 && !close(fd));
        int status = 0;
        NEED(!child || (waitpid(child, &status, 0) == child && !status));
        NEED(recvmsg(pair[1], &message, MSG_CMSG_CLOEXEC) == 1);
        memcpy(&held[which], CMSG_DATA(CMSG_FIRSTHDR(&message)), sizeof(int));
        for (int i = 0; i < HELD; i++)
            NEED(!sync_all(held[i]));
    }
}

/* A closed timeline lets its waiters go at once, with an error. */
static void timeline(void) {
    for (int round = 0; round < 300; round++) {
        int sw = open("/sys/kernel/debug/sync/sw_sync", O_RDWR);
        struct fence arg = { .value = 1 };
        NEED(sw >= 0 && !ioctl(sw, CREATE_FENCE, &arg));
        struct pollfd wait = { arg.fence, POLLIN, 0 };
        NEED(poll(&wait, 1, 0) == 0);
        NEED(!close(sw));
        NEED(poll(&wait, 1, 0) == 1 && wait.revents == POLLIN);
        struct { char name[32]; int32_t status; uint32_t flags, num, pad; uint64_t info; } info = { .num = 0 };
        NEED(!ioctl(arg.fence, _IOWR('>', 4, info), &info) && info.status == -ENOENT);
        NEED(!close(arg.fence));
    }
}

/* Maps and uses a buffer where userfaultfd(2) is death. */
static void sandbox(void) {
    struct sock_filter filter[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_userfaultfd, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = { sizeof filter / sizeof *filter, filter };
    NEED(!prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) && !prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program));
    int heap = open("/dev/dma_heap/system", O_RDWR), fd = alloc_pages(heap, 4);
    volatile char *at = map(fd, 0, 4);
    NEED(at && !sync_all(fd));
    for (int i = 0; i < 100000; i++)
        at[i % 4 * PAGE]++;
    NEED(at[0] == (char)25000 && !sync_all(fd));
}

/* Allocates and closes, however few descriptors there are. */
static void loop(long rounds) {
    int heap = open("/dev/dma_heap/system", O_RDWR), fd;
    for (long i = 0; i < rounds; i++) {
        NEED((fd = alloc_pages(heap, 1)) >= 0);
        volatile char *at = map(fd, 0, 1);
        NEED(at && !sync_all(fd));
        *at = 1;
        NEED(!munmap((void *)at, PAGE) && !close(fd));
    }
}

/* No client of the device: takes and drops locks until it is killed. */
static void stranger(void) {
    int fd = memfd_create("stranger", 0);
    puts("churning"), fflush(stdout);
    for (;;)
        for (int type = F_WRLCK;; type = F_UNLCK) {
            for (int i = 0; i < 10; i++) {
                struct flock lock = { .l_type = type, .l_start = i * 2, .l_len = 1 };
                fcntl(fd, F_SETLK, &lock);
            }
            if (type == F_UNLCK)
                break;
        }
}

int main(int argc, char **argv) {
    const char *mode = argc > 1 ? argv[1] : "";
    long rounds = argc > 2 ? atol(argv[2]) : 0;
    if (!strcmp(mode, "udmabufs")) udmabufs();
    else if (!strcmp(mode, "soak")) soak(rounds);
    else if (!strcmp(mode, "timeline")) timeline();
    else if (!strcmp(mode, "sandbox")) sandbox();
    else if (!strcmp(mode, "loop")) loop(rounds);
    else if (!strcmp(mode, "stranger")) stranger();
    else return 2;
    puts("ok");
    return 0;
}
