/* SPDX-License-Identifier: BSD-3-Clause
 *
 * file.c - the system calls of both libraries on the files of a mount
 *
 * The daemon behind the mount is not trusted: it may return too much, too little, an
 * error where there is none, or nothing at all. An exchange that goes wrong must
 * neither send its command twice nor leave a piece of its answer to the next one.
 */
#define _GNU_SOURCE
#include "file.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "cardfs.h"

enum { LONG_PAUSE_MS = 20 };

int64_t cf_now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

struct cf_wait cf_wait_for(int64_t ms)
{
	return (struct cf_wait){.until = cf_now() + ms, .ms = 1};
}

bool cf_pause(struct cf_wait *w)
{
	int64_t left = w->until - cf_now();
	struct timespec t;

	if (left <= 0)
		return false;
	if (w->ms < left)
		left = w->ms;
	t = (struct timespec){.tv_nsec = left * 1000000};
	nanosleep(&t, NULL);
	if (w->ms < LONG_PAUSE_MS)
		w->ms *= 2;
	return true;
}

/* interrupted reports whether the call that returned result should be made again. It
 * must come right after the call, before anything else sets errno. */
static bool interrupted(ssize_t result, const struct cf_wait *w)
{
	return result < 0 && errno == EINTR && cf_now() < w->until;
}

int cf_open(int at, const char *path, int flags)
{
	struct cf_wait w = cf_wait_for(CF_ANSWER_MS);
	int fd;

	do
		fd = openat(at, path, flags | O_CLOEXEC | O_NOCTTY);
	while (interrupted(fd, &w));
	return fd < 0 ? -errno : fd;
}

void cf_close(int *fd)
{
	if (*fd >= 0)
		close(*fd);
	*fd = -1;
}

ssize_t cf_read(int at, const char *path, char *text, size_t size)
{
	struct cf_wait w = cf_wait_for(CF_ANSWER_MS);
	size_t n = 0;
	ssize_t got = 0;
	int fd = cf_open(at, path, O_RDONLY | O_NONBLOCK);

	text[0] = '\0';
	if (fd < 0)
		return fd;
	while (n < size - 1) {
		do
			got = read(fd, text + n, size - 1 - n);
		while (interrupted(got, &w));
		if (got <= 0)
			break;
		n += (size_t)got;
	}
	if (got < 0) {
		n = 0;
		got = -errno;
	}
	text[n] = '\0';
	cf_close(&fd);
	return got < 0 ? got : (ssize_t)n;
}

int cf_write(int at, const char *path, const char *word)
{
	struct cf_wait w = cf_wait_for(CF_ANSWER_MS);
	size_t n = strlen(word);
	ssize_t put;
	int fd = cf_open(at, path, O_WRONLY | O_NONBLOCK);

	if (fd < 0)
		return fd;
	/* Writing a state or a reset a second time does no harm. */
	do
		put = write(fd, word, n);
	while (interrupted(put, &w));
	if (put < 0)
		put = -errno;
	else
		put = (size_t)put == n ? 0 : CF_BROKEN;
	cf_close(&fd);
	return (int)put;
}

bool cf_value(const char *text, const char *key, char *value, size_t size)
{
	size_t nkey = strlen(key);

	for (const char *line = text; *line != '\0';) {
		size_t n = strcspn(line, "\n");

		if (n > nkey && line[nkey] == ' ' && strncmp(line, key, nkey) == 0) {
			const char *from = line + nkey + 1;
			size_t len = n - nkey - 1;

			if (len >= size)
				return false;
			memcpy(value, from, len);
			value[len] = '\0';
			return true;
		}
		line += n;
		if (*line == '\n')
			line++;
	}
	return false;
}

static int digit(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	if (c >= 'A' && c <= 'F')
		return c - 'A' + 10;
	if (c >= 'a' && c <= 'f')
		return c - 'a' + 10;
	return -1;
}

ssize_t cf_hex(const char *text, uint8_t *bytes, size_t size)
{
	size_t n = 0;

	for (;;) {
		int high, low;

		text += strspn(text, " \t\r\n");
		if (*text == '\0')
			return (ssize_t)n;
		high = digit(text[0]);
		low = high < 0 ? -1 : digit(text[1]);
		if (low < 0 || n == size)
			return -EINVAL;
		bytes[n++] = (uint8_t)(high << 4 | low);
		text += 2;
	}
}

int cf_channel(int at, const char *path, int flags, unsigned long mode)
{
	struct cf_wait w = cf_wait_for(CF_ANSWER_MS);
	int fd = cf_open(at, path, O_RDWR | flags);
	int result;

	if (fd < 0)
		return fd;
	do
		result = ioctl(fd, mode);
	while (interrupted(result, &w));
	if (result < 0) {
		result = -errno;
		cf_close(&fd);
		return result;
	}
	if (flags & O_NONBLOCK)
		fcntl(fd, F_SETFL, 0); /* if it fails, receive polls */
	return fd;
}

/* give_up closes a channel whose next answer is not known. */
static ssize_t give_up(int *fd)
{
	cf_close(fd);
	return CF_BROKEN;
}

/* receive reads what is there of an answer. */
static ssize_t receive(int fd, void *buf, size_t n, struct cf_wait *w)
{
	for (;;) {
		ssize_t got = read(fd, buf, n);

		if (got >= 0)
			return got;
		switch (errno) {
		case EINTR:
			if (cf_now() >= w->until)
				return CF_BROKEN;
			break;
		case EAGAIN:
			if (!cf_pause(w))
				return CF_BROKEN;
			break;
		default:
			return -errno;
		}
	}
}

/*
 * collect reads one whole answer, also what does not fit into rx, so that the next
 * exchange does not read the rest of it. An answer ends with a read that returns less
 * than was asked for. want is its length if that is known, else 0; most is the longest
 * that is possible. An error instead of an answer is the result of the command.
 */
static ssize_t collect(int *fd, uint8_t *rx, size_t nrx, size_t want, size_t most)
{
	struct cf_wait w = cf_wait_for(CF_ANSWER_MS);
	uint8_t rest[512];
	size_t n = 0, room;
	ssize_t got;

	do {
		room = n < nrx ? nrx - n : sizeof rest;
		got = receive(*fd, n < nrx ? rx + n : rest, room, &w);
		if (got > 0)
			n += (size_t)got;
	} while (got > 0 && (size_t)got == room && n <= most && (want == 0 || n < want));
	explicit_bzero(rest, sizeof rest);
	if (got < 0 && n == 0 && want == 0 && got != CF_BROKEN)
		return got;
	if (got < 0 || n > most || (want != 0 && n != want))
		return give_up(fd);
	return n > nrx ? CF_TOO_LONG : (ssize_t)n;
}

ssize_t cf_write_read(int *fd, const uint8_t *tx, size_t ntx, uint8_t *rx, size_t nrx, unsigned head)
{
	ssize_t put;

	if (ntx == 0 || ntx > CF_COMMAND_MAX + 4)
		return -EINVAL;
	put = write(*fd, tx, ntx);
	/* If the write was interrupted, the command may have been sent. */
	if (put < 0 && errno != EINTR)
		return -errno;
	if (put < 0 || (size_t)put != ntx)
		return give_up(fd);
	return collect(fd, rx, nrx, 0, head + CF_ANSWER_MAX);
}

/*
 * exchange_size is the size of the buffer for a command: room for the longest answer
 * of a short command, all there is for an extended one. The kernel copies every byte
 * of it in and out, while a longer answer costs just one more system call, the read.
 */
static size_t exchange_size(const uint8_t *tx, size_t ntx, unsigned head)
{
	size_t data = head + 256 + 2;
	size_t header = sizeof(struct cardfs_exchange);

	if (ntx > head + 5 + 255 + 1 || (ntx >= head + 7 && tx[head + 4] == 0))
		return CARDFS_EXCHANGE_MAX;
	return header + (ntx > data ? ntx : data);
}

ssize_t cf_exchange(int *fd, const uint8_t *tx, size_t ntx, uint8_t *rx, size_t nrx, unsigned head)
{
	union {
		struct cardfs_exchange exchange;
		uint8_t bytes[CARDFS_EXCHANGE_MAX];
	} buf;
	struct cardfs_exchange *x = &buf.exchange;
	struct cf_wait w = cf_wait_for(CF_ANSWER_MS);
	size_t room = sizeof buf.bytes - sizeof *x;
	size_t size;
	ssize_t n;

	if (ntx == 0)
		return -EINVAL;
	if (ntx > room)
		return cf_write_read(fd, tx, ntx, rx, nrx, head);
	size = exchange_size(tx, ntx, head);
	room = size - sizeof *x;
	/* After EINTR the command was not sent (cardfs.h). */
	do {
		x->length = (uint32_t)ntx;
		memcpy(x->data, tx, ntx);
		memset(x->data + ntx, 0, room - ntx);
		n = ioctl(*fd, CARDFS_EXCHANGE(size), &buf);
	} while (interrupted(n, &w));
	if (n < 0)
		n = -errno;
	else if ((size_t)n > head + CF_ANSWER_MAX || x->length != (uint32_t)n)
		n = give_up(fd);
	else if ((size_t)n > room)
		n = collect(fd, rx, nrx, (size_t)n, head + CF_ANSWER_MAX);
	else if ((size_t)n > nrx)
		n = CF_TOO_LONG;
	else
		memcpy(rx, x->data, (size_t)n);
	explicit_bzero(&buf, size); /* it may have held a PIN */
	return n;
}

ssize_t cf_exchange_wait(int *fd, const uint8_t *tx, size_t ntx, uint8_t *rx, size_t nrx, unsigned head)
{
	struct cf_wait w = cf_wait_for(CF_SOON_MS);
	ssize_t n;

	do
		n = cf_exchange(fd, tx, ntx, rx, nrx, head);
	while (n == -EBUSY && cf_pause(&w));
	return n;
}
