/* SPDX-License-Identifier: BSD-3-Clause
 *
 * cacard-vpcd - libcacard's emulated CAC card as a virtual card of the vpcd protocol
 *
 *   cacard-vpcd DATABASE ADDRESS
 *
 * DATABASE is the directory of an NSS database with the certificates cert1,
 * cert2 and cert3 and their keys (mkdb makes one); ADDRESS is HOST:PORT or
 * unix:/PATH of a program that speaks the reader's side: cardfs's vpcd driver,
 * vsmartcard's libifdvpcd under pcscd. It says "connected" on stdout once it is,
 * and ends when the reader closes the connection, or with SIGTERM or SIGINT.
 */
#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <glib.h>
#include <libcacard.h>

/* The one-byte messages; longer ones are C-APDUs. */
enum { CTL_OFF = 0, CTL_ON = 1, CTL_RESET = 2, CTL_ATR = 4 };

enum { HEADER = 2, LONGEST = 0xFFFF };

static volatile sig_atomic_t stopping, connection = -1;

/* Ends the read that waits for the next command, or comes to wait for it. */
static void stop(int sig)
{
	(void)sig;
	stopping = 1;
	if (connection >= 0)
		shutdown(connection, SHUT_RD);
}

static int connect_unix(const char *path)
{
	struct sockaddr_un sa = {.sun_family = AF_UNIX};
	if (strlen(path) >= sizeof sa.sun_path) {
		errno = ENAMETOOLONG;
		return -1;
	}
	strcpy(sa.sun_path, path);
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd >= 0 && connect(fd, (struct sockaddr *)&sa, sizeof sa) != 0) {
		close(fd);
		return -1;
	}
	return fd;
}

static int connect_tcp(const char *address)
{
	char *host = g_strdup(address), *port = strrchr(host, ':');
	struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *list = NULL;
	int fd = -1, one = 1;

	if (port == NULL) {
		fprintf(stderr, "cacard-vpcd: %s: give HOST:PORT or unix:/PATH\n", address);
		exit(2);
	}
	*port++ = 0;
	int err = getaddrinfo(host, port, &hints, &list);
	if (err != 0) {
		fprintf(stderr, "cacard-vpcd: %s: %s\n", address, gai_strerror(err));
		exit(1);
	}
	for (struct addrinfo *a = list; a != NULL && fd < 0; a = a->ai_next) {
		fd = socket(a->ai_family, a->ai_socktype | SOCK_CLOEXEC, a->ai_protocol);
		if (fd >= 0 && connect(fd, a->ai_addr, a->ai_addrlen) != 0) {
			close(fd);
			fd = -1;
		}
	}
	freeaddrinfo(list);
	g_free(host);
	if (fd >= 0)
		setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
	return fd;
}

/* Reads n bytes. Returns 1, or 0 if the reader has left or a signal said stop. */
static int read_all(int fd, uint8_t *p, size_t n)
{
	while (n > 0 && !stopping) {
		ssize_t r = read(fd, p, n);
		if (r < 0 && errno == EINTR)
			continue;
		if (r <= 0)
			return 0;
		p += r;
		n -= (size_t)r;
	}
	return !stopping;
}

/* Sends the message, which follows room for its header, in one write. */
static int send_message(int fd, uint8_t *message, size_t n)
{
	uint8_t *p = message;
	p[0] = (uint8_t)(n >> 8);
	p[1] = (uint8_t)n;
	for (n += HEADER; n > 0;) {
		ssize_t w = send(fd, p, n, MSG_NOSIGNAL);
		if (w < 0 && errno == EINTR && !stopping)
			continue;
		if (w <= 0)
			return 0;
		p += w;
		n -= (size_t)w;
	}
	return 1;
}

static void serve(int fd, VReader *card)
{
	static uint8_t in[LONGEST], out[HEADER + LONGEST], head[HEADER];
	uint8_t atr[64];
	int atr_len = sizeof atr;

	/* libifdvpcd asks for the ATR to see whether the card is there, also while
	 * it has no power. libcacard makes the ATR with a reset, so it is kept. */
	if (vreader_power_on(card, atr, &atr_len) != VREADER_OK)
		atr_len = 0;
	vreader_power_off(card);

	while (read_all(fd, head, HEADER)) {
		size_t n = (size_t)head[0] << 8 | head[1];
		if (!read_all(fd, in, n))
			return;
		if (n > 1) {
			int len = LONGEST;
			if (vreader_xfr_bytes(card, in, (int)n, out + HEADER, &len) != VREADER_OK) {
				out[HEADER] = 0x6F; /* without power, or not a command */
				out[HEADER + 1] = 0x00;
				len = 2;
			}
			if (!send_message(fd, out, (size_t)len))
				return;
			continue;
		}
		if (n == 0)
			continue;
		switch (in[0]) {
		case CTL_OFF:
			vreader_power_off(card);
			break;
		case CTL_ON:
		case CTL_RESET:
			atr_len = sizeof atr;
			if (vreader_power_on(card, atr, &atr_len) != VREADER_OK)
				atr_len = 0;
			break;
		case CTL_ATR:
			memcpy(out + HEADER, atr, (size_t)atr_len);
			if (!send_message(fd, out, (size_t)atr_len))
				return;
			break;
		}
	}
}

int main(int argc, char **argv)
{
	if (argc != 3) {
		fprintf(stderr, "usage: cacard-vpcd DATABASE HOST:PORT | unix:/PATH\n");
		return 2;
	}
	struct sigaction sa = {.sa_handler = stop};
	sigaction(SIGTERM, &sa, NULL);
	sigaction(SIGINT, &sa, NULL);

	/* soft=(slot, reader's name, card type, its parameters, certificates…) */
	char *args = g_strdup_printf(
		"db=\"sql:%s\" use_hw=no soft=(,cacard-vpcd,CAC,,cert1,cert2,cert3)", argv[1]);
	VCardEmulOptions *options = vcard_emul_options(args);
	if (options == NULL || vcard_emul_init(options) != VCARD_EMUL_OK) {
		fprintf(stderr, "cacard-vpcd: no card from the NSS database in %s\n", argv[1]);
		return 1;
	}
	VReader *card = vreader_get_reader_by_name("cacard-vpcd");
	if (card == NULL || vreader_card_is_present(card) != VREADER_OK) {
		fprintf(stderr, "cacard-vpcd: %s has no cert1, cert2 and cert3\n", argv[1]);
		return 1;
	}

	int fd = strncmp(argv[2], "unix:", 5) == 0 ? connect_unix(argv[2] + 5)
	                                           : connect_tcp(argv[2]);
	if (fd < 0) {
		fprintf(stderr, "cacard-vpcd: connect to %s: %s\n", argv[2], strerror(errno));
		return 1;
	}
	connection = fd;
	puts("connected");
	fflush(stdout);
	serve(fd, card);
	connection = -1;
	close(fd);
	vreader_free(card);
	vcard_emul_finalize();
	g_free(args);
	return 0;
}
