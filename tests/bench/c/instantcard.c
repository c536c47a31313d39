/* SPDX-License-Identifier: BSD-3-Clause
 *
 * instantcard - a virtual card of the vpcd protocol that answers at once
 * (benchmarks only)
 *
 *   instantcard 127.0.0.1:PORT | unix:/PATH
 *
 * Its ATR is 3B 80 80 01 01; each command is answered with 90 00. It waits up to
 * 20 seconds for somebody to listen, and ends with the connection.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "bench.h"

static int dial(const char *address)
{
	struct sockaddr_un un = {.sun_family = AF_UNIX};
	struct sockaddr_in in = {.sin_family = AF_INET};
	const struct sockaddr *sa = (struct sockaddr *)&un;
	socklen_t size = sizeof un;
	unsigned port;
	char ip[16];

	if (strncmp(address, "unix:", 5) == 0) {
		snprintf(un.sun_path, sizeof un.sun_path, "%s", address + 5);
	} else if (sscanf(address, "%15[0-9.]:%u", ip, &port) == 2 && port < 65536 &&
	           inet_pton(AF_INET, ip, &in.sin_addr) == 1) {
		in.sin_port = htons((uint16_t)port);
		sa = (struct sockaddr *)&in;
		size = sizeof in;
	} else {
		fprintf(stderr, "instantcard: %s: give IP:PORT or unix:/PATH\n", address);
		exit(2);
	}
	for (int64_t deadline = now() + INT64_C(20000000000);;) {
		int fd = socket(sa->sa_family, SOCK_STREAM, 0), one = 1;
		if (fd >= 0 && connect(fd, sa, size) == 0) {
			setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
			return fd;
		}
		if ((errno != ECONNREFUSED && errno != ENOENT) || now() > deadline) {
			perror("instantcard: connect");
			exit(1);
		}
		close(fd);
		usleep(1000);
	}
}

int main(int argc, char **argv)
{
	static const uint8_t atr[] = {0x00, 0x05, 0x3B, 0x80, 0x80, 0x01, 0x01};
	static const uint8_t ok[] = {0x00, 0x02, 0x90, 0x00};
	static uint8_t buf[2 + 0xFFFF + 1];
	size_t have = 0;

	if (argc != 2) {
		fprintf(stderr, "usage: instantcard 127.0.0.1:PORT | unix:/PATH\n");
		return 2;
	}
	int fd = dial(argv[1]);
	for (;;) {
		ssize_t r = read(fd, buf + have, sizeof buf - have);
		if (r < 0 && errno == EINTR)
			continue;
		if (r <= 0)
			return 0;
		have += (size_t)r;
		for (size_t end; have >= 2 && have >= (end = 2 + ((size_t)buf[0] << 8 | buf[1]));) {
			const uint8_t *answer = end > 3 ? ok : buf[2] == 4 && end == 3 ? atr : NULL;
			size_t size = answer == ok ? sizeof ok : sizeof atr;
			if (answer != NULL && write(fd, answer, size) != (ssize_t)size)
				return 0;
			memmove(buf, buf + end, have -= end);
		}
	}
}
