/* Runs a program, and looks at what its supervisor holds before and after: descriptors, watches of
 * epolls, threads, resident memory. Usage: around PROGRAM ARGUMENTS; exits as the program did, 128
 * and the signal's number if one killed it. */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/dma-heap.h>
#include <linux/udmabuf.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define BYTES 16384
/* Until what is let go now and then has been let go. */
#define SETTLE_MS 5000
/* Files that are let go at the next look. */
#define DESCRIPTORS_MORE_MAX 4

struct held { long descriptors, watches, threads, kib; };

static void pause_ms(long ms)
{
	nanosleep(&(struct timespec){ ms / 1000, ms % 1000 * 1000000 }, NULL);
}

static long watches(int pid, const char *fd)
{
	char path[300], line[256];
	long found = 0;

	snprintf(path, sizeof(path), "/proc/%d/fdinfo/%s", pid, fd);
	FILE *file = fopen(path, "re");
	while (file && fgets(line, sizeof(line), file))
		found += !strncmp(line, "tfd:", 4);
	if (file)
		fclose(file);
	return found;
}

static struct held look(int pid)
{
	struct held held = { 0 };
	char path[64], line[256];

	snprintf(path, sizeof(path), "/proc/%d/fd", pid);
	DIR *fds = opendir(path);
	for (struct dirent *entry; fds && (entry = readdir(fds));)
		if (entry->d_name[0] != '.') {
			held.descriptors++;
			held.watches += watches(pid, entry->d_name);
		}
	if (fds)
		closedir(fds);
	snprintf(path, sizeof(path), "/proc/%d/status", pid);
	FILE *status = fopen(path, "re");
	while (status && fgets(line, sizeof(line), status)) {
		sscanf(line, "Threads: %ld", &held.threads);
		sscanf(line, "VmRSS: %ld", &held.kib);
	}
	if (status)
		fclose(status);
	return held;
}

/* What every program makes the supervisor do once. */
static void use_a_buffer(void)
{
	struct dma_heap_allocation_data data = { .len = BYTES, .fd_flags = O_RDWR | O_CLOEXEC };
	int heap = open("/dev/dma_heap/system", O_RDONLY | O_CLOEXEC);

	if (heap < 0 || ioctl(heap, DMA_HEAP_IOCTL_ALLOC, &data))
		return;
	volatile char *map = mmap(NULL, BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, data.fd, 0);
	if (map != MAP_FAILED) {
		map[0] = 1;
		munmap((void *)map, BYTES);
	}
	close(data.fd);
	close(heap);
	/* A piece of a udmabuf is mapped by the thread that waits for programs. */
	int device = open("/dev/udmabuf", O_RDWR | O_CLOEXEC);
	int memory = memfd_create("around", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	struct udmabuf_create piece = { memory, UDMABUF_FLAGS_CLOEXEC, BYTES / 2, BYTES / 2 };
	if (device < 0 || ftruncate(memory, BYTES) || fcntl(memory, F_ADD_SEALS, F_SEAL_SHRINK))
		return;
	int buffer = ioctl(device, UDMABUF_CREATE, &piece);
	map = mmap(NULL, BYTES / 2, PROT_READ | PROT_WRITE, MAP_SHARED, buffer, 0);
	if (map != MAP_FAILED)
		munmap((void *)map, BYTES / 2);
	close(buffer);
	close(memory);
	close(device);
}

static int run(char **argv)
{
	int status, pid = fork();

	if (!pid) {
		if (argv[0]) {
			execv(argv[0], argv);
			perror(argv[0]);
			_exit(127);
		}
		use_a_buffer();
		_exit(0);
	}
	if (pid < 0 || waitpid(pid, &status, 0) != pid)
		return 126;
	return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}

int main(int argc, char **argv)
{
	int supervisor = getppid(), status;
	char *nobody[] = { NULL };

	(void)argc;
	use_a_buffer();
	run(nobody);
	pause_ms(600);
	struct held before = look(supervisor), after = { 0 };
	status = run(argv + 1);
	for (int ms = 0; ms < SETTLE_MS; ms += 100) {
		after = look(supervisor);
		if (after.descriptors <= before.descriptors + DESCRIPTORS_MORE_MAX &&
		    after.watches <= before.watches && after.threads <= before.threads)
			break;
		pause_ms(100);
	}
	printf("supervisor: descriptors %ld %ld watches %ld %ld threads %ld %ld rss %ld %ld\n",
	       before.descriptors, after.descriptors, before.watches, after.watches, before.threads,
	       after.threads, before.kib, after.kib);
	return status;
}
