/* Another user at a socket that is not theirs: says something, and must get nothing. Usage: stranger
 * SOCKET TEXT; prints what came. Exits 0 if it was refused or got nothing, 1 if it was answered. */
#define _GNU_SOURCE
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

int main(int argc, char **argv)
{
	struct sockaddr_un name = { .sun_family = AF_UNIX };
	struct timeval patience = { 20, 0 };
	char bytes[4096] = "";
	int fd = socket(AF_UNIX, SOCK_SEQPACKET, 0);

	if (argc != 3 || fd < 0)
		return 2;
	strncpy(name.sun_path, argv[1], sizeof(name.sun_path) - 1);
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
	if (connect(fd, (struct sockaddr *)&name, sizeof(name))) {
		printf("connect: %s\n", strerror(errno));
		return errno != EACCES && errno != ECONNREFUSED && errno != EPERM;
	}
	uint32_t length = strlen(argv[2]);
	memcpy(bytes, &length, 4);
	memcpy(bytes + 4, argv[2], length);
	/* Whoever is refused at once may not get this far. */
	send(fd, bytes, 4 + length, MSG_NOSIGNAL);
	ssize_t got = recv(fd, bytes, sizeof(bytes) - 1, 0);
	if (got <= 0) {
		printf("nothing: %s\n", got ? strerror(errno) : "the end");
		return got < 0 && errno == EAGAIN;
	}
	bytes[got] = 0;
	for (ssize_t i = 0; i < got; i++)
		if (bytes[i] < ' ')
			bytes[i] = ' ';
	printf("%s\n", bytes);
	return !strstr(bytes, "refused");
}
