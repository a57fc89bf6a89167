/* Calls from code whose file lies: copies of this program, with nonsense in the headers, the unwind tables
 * and the symbols, are mapped to be executed and called, so that a report of misuse has to look into
 * them; those that the kernel takes are executed as well. Usage: elves FILES SEED; "one" is how a copy
 * is executed. */
#define _GNU_SOURCE
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/dma-buf.h>
#include <linux/dma-heap.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static uint64_t state;

static uint64_t next(void)
{
	state ^= state << 13;
	state ^= state >> 7;
	state ^= state << 17;
	return state;
}

static void need(int good, const char *what)
{
	if (!good) {
		printf("%s: %s\n", what, strerror(errno));
		exit(1);
	}
}

/* ioctl(2), without a word of memory of its own: it runs wherever it is mapped. */
__attribute__((noinline, aligned(64), section(".text.elsewhere"))) static long elsewhere(long fd, long command, void *arg)
{
#if defined(__x86_64__)
	long result;

	__asm__ volatile("syscall" : "=a"(result) : "0"((long)SYS_ioctl), "D"(fd), "S"(command), "d"(arg) : "rcx", "r11", "memory");
	return result;
#elif defined(__aarch64__)
	register long x8 __asm__("x8") = SYS_ioctl, x0 __asm__("x0") = fd, x1 __asm__("x1") = command;
	register void *x2 __asm__("x2") = arg;

	__asm__ volatile("svc 0" : "+r"(x0) : "r"(x8), "r"(x1), "r"(x2) : "memory");
	return x0;
#else
	return -1;
#endif
}

static int buffer(void)
{
	struct dma_heap_allocation_data data = { .len = 4096, .fd_flags = O_RDWR | O_CLOEXEC };
	int heap = open("/dev/dma_heap/system", O_RDONLY | O_CLOEXEC);

	need(heap >= 0 && !ioctl(heap, DMA_HEAP_IOCTL_ALLOC, &data), "alloc");
	close(heap);
	return data.fd;
}

/* Numbers that additions meet their end with. */
static uint64_t extreme(void)
{
	static const uint64_t some[] = { 0, 1, 8, 4095, 4096, 1ull << 31, 1ull << 32, 1ull << 47, 1ull << 63, -1ull, -8ull, -4096ull, -4097ull };

	return some[next() % (sizeof(some) / sizeof(*some))];
}

static void lie(unsigned char *bytes, size_t size, int round)
{
	Elf64_Ehdr *head = (Elf64_Ehdr *)bytes;
	Elf64_Phdr *segments = (Elf64_Phdr *)(bytes + head->e_phoff);
	Elf64_Shdr *sections = (Elf64_Shdr *)(bytes + head->e_shoff);
	unsigned segment = next() % head->e_phnum, section = head->e_shnum ? next() % head->e_shnum : 0;

	switch (round % 6) {
	case 0: /* Every loaded segment lies at the end of the address space. */
		for (int i = 0; i < head->e_phnum; i++)
			segments[i].p_vaddr = -(uint64_t)(1 + next() % 8192);
		break;
	case 1:
		segments[segment].p_vaddr = extreme();
		segments[segment].p_offset = extreme();
		segments[segment].p_filesz = extreme();
		break;
	case 2: /* What the kernel does not look at, so that it can be executed. */
		if (head->e_shnum) {
			sections[section].sh_addr = extreme();
			sections[section].sh_offset = extreme();
			sections[section].sh_size = extreme();
			sections[section].sh_link = extreme();
		}
		break;
	case 3: /* The contents of a section that is not code: tables, symbols, strings, DWARF. */
		for (int i = 0; i < head->e_shnum; i++) {
			Elf64_Shdr *it = &sections[i];

			if (it->sh_type == SHT_NOBITS || it->sh_flags & (SHF_EXECINSTR | SHF_WRITE) || it->sh_size < 16 || it->sh_offset + it->sh_size > size)
				continue;
			/* Data that it needs to run stays as it is. */
			if (it->sh_flags & SHF_ALLOC && next() % 4)
				continue;
			for (int n = 0; n < 64; n++)
				bytes[it->sh_offset + next() % it->sh_size] = next();
		}
		break;
	case 4:
		head->e_phoff = extreme(), head->e_phnum = next(), head->e_shoff = extreme();
		head->e_shnum = next(), head->e_shstrndx = next();
		break;
	default:
		for (int n = 0; n < 2000; n++)
			bytes[next() % size] ^= 1 << next() % 8;
	}
}

int main(int argc, char **argv)
{
	struct dma_buf_sync end = { DMA_BUF_SYNC_END | DMA_BUF_SYNC_RW };
	int fd = buffer(), exe = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
	struct stat stat;
	char name[64];

	if (argc > 1 && !strcmp(argv[1], "one")) {
		ioctl(fd, DMA_BUF_IOCTL_SYNC, &end);
		return 0;
	}
	state = argc > 2 ? strtoull(argv[2], NULL, 0) : 1;
	need(argc > 1 && exe >= 0 && !fstat(exe, &stat), "itself");
	unsigned char *own = mmap(0, stat.st_size, PROT_READ, MAP_PRIVATE, exe, 0), *bytes = malloc(stat.st_size);
	need(own != MAP_FAILED && bytes, "memory");
	/* The function, in the file. */
	unsigned char *function = memmem(own, stat.st_size, (void *)elsewhere, 16);
	need(function != NULL, "the function");
	size_t offset = function - own, page = offset & ~4095ul;
	for (int round = 0; round < atoi(argv[1]); round++) {
		snprintf(name, sizeof(name), "elf-%d-%d", getpid(), round);
		memcpy(bytes, own, stat.st_size);
		lie(bytes, stat.st_size, round);
		/* The code itself is right, or else it would be its own fault. */
		memcpy(bytes + offset, own + offset, 64);
		int file = open(name, O_RDWR | O_CREAT | O_EXCL, 0700);
		need(file >= 0 && write(file, bytes, stat.st_size) == stat.st_size && !close(file), "a file");
		file = open(name, O_RDONLY | O_CLOEXEC);
		char *code = mmap(0, 8192, PROT_READ | PROT_EXEC, MAP_PRIVATE, file, page);
		need(code != MAP_FAILED, "code");
		long (*call)(long, long, void *) = (void *)(code + (offset - page));
		call(fd, DMA_BUF_IOCTL_SYNC, &end);
		/* It stays: another address each time, or else the stack is known. */
		need(!close(file), "close");
		int status, pid = fork();
		if (!pid) {
			/* A copy that is broken may die of it. */
			close(1);
			close(2);
			alarm(5);
			execl(name, name, "one", (char *)NULL);
			_exit(0);
		}
		need(pid > 0 && waitpid(pid, &status, 0) == pid && !unlink(name), "a child");
	}
	close(fd);
	printf("ok\n");
	return 0;
}
