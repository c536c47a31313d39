/* SPDX-License-Identifier: BSD-3-Clause */
#define _GNU_SOURCE
#include "file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdalign.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "cardfs.h"

/* A call that was interrupted this often in a row is not going to succeed. */
enum { PATIENCE = 100 };

enum { LONGEST_PAUSE = 20 };

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
	if (w->ms < LONGEST_PAUSE)
		w->ms *= 2;
	return true;
}

int cf_open(int at, const char *path, int flags)
{
	for (int i = 0; i < PATIENCE; i++) {
		int fd = openat(at, path, flags | O_CLOEXEC | O_NOCTTY);

		if (fd >= 0)
			return fd;
		if (errno != EINTR)
			return -errno;
	}
	return -EINTR;
}

void cf_close(int *fd)
{
	if (*fd >= 0)
		close(*fd);
	*fd = -1;
}

static ssize_t read_once(int fd, void *buf, size_t n)
{
	for (int i = 0; i < PATIENCE; i++) {
		ssize_t got = read(fd, buf, n);

		if (got >= 0)
			return got;
		if (errno != EINTR)
			return -errno;
	}
	return -EINTR;
}

ssize_t cf_read(int at, const char *path, char *text, size_t size)
{
	size_t n = 0;
	int fd = cf_open(at, path, O_RDONLY | O_NONBLOCK);

	text[0] = '\0';
	if (fd < 0)
		return fd;
	while (n < size - 1) {
		ssize_t got = read_once(fd, text + n, size - 1 - n);

		if (got < 0) {
			text[0] = '\0';
			cf_close(&fd);
			return got;
		}
		if (got == 0)
			break;
		n += (size_t)got;
	}
	text[n] = '\0';
	cf_close(&fd);
	return (ssize_t)n;
}

int cf_write(int at, const char *path, const char *word)
{
	size_t n = strlen(word);
	int fd = cf_open(at, path, O_WRONLY | O_NONBLOCK);
	int result = -EINTR;

	if (fd < 0)
		return fd;
	/* To say a state or a reset once more does no harm. */
	for (int i = 0; i < PATIENCE && result == -EINTR; i++) {
		ssize_t put = write(fd, word, n);

		if (put < 0)
			result = -errno;
		else
			result = (size_t)put == n ? 0 : CF_BROKEN;
	}
	cf_close(&fd);
	return result;
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

int cf_channel(int at, const char *path, int flags)
{
	int fd = cf_open(at, path, O_RDWR | flags);
	int result = -EINTR;

	if (fd < 0)
		return fd;
	for (int i = 0; i < PATIENCE && result == -EINTR; i++)
		result = ioctl(fd, CARDFS_BINARY) < 0 ? -errno : 0;
	if (result < 0) {
		cf_close(&fd);
		return result;
	}
	return fd;
}

/* receive is read_once that waits, on a channel whose open did not. */
static ssize_t receive(int fd, void *buf, size_t n, struct cf_wait *w)
{
	for (;;) {
		ssize_t got = read_once(fd, buf, n);

		if (got != -EAGAIN)
			return got;
		if (!cf_pause(w))
			return -ETIMEDOUT;
	}
}

/*
 * collect reads one whole answer, so that the next exchange does not find the
 * rest of it. An answer ends with a read that gives less than asked for; want,
 * if not 0, is how long it is.
 */
static ssize_t collect(int fd, uint8_t *rx, size_t nrx, size_t want)
{
	struct cf_wait w = cf_wait_for(CF_ANSWER_MS);
	uint8_t rest[512];
	size_t n = 0;

	do {
		size_t room = n < nrx ? nrx - n : sizeof rest;
		ssize_t got = receive(fd, n < nrx ? rx + n : rest, room, &w);

		if (got < 0)
			return got;
		n += (size_t)got;
		if (n > CF_ANSWER_MAX)
			return CF_BROKEN;
		if ((size_t)got < room)
			break;
	} while (want == 0 || n < want);
	explicit_bzero(rest, sizeof rest);
	if (want != 0 && n != want)
		return CF_BROKEN;
	return n > nrx ? CF_TOO_LONG : (ssize_t)n;
}

ssize_t cf_converse(int fd, const uint8_t *tx, size_t ntx, uint8_t *rx, size_t nrx)
{
	ssize_t put;

	if (ntx == 0 || ntx > CF_COMMAND_MAX + 4)
		return -EINVAL;
	/* Not repeated when interrupted: whether it was sent is not known then. */
	put = write(fd, tx, ntx);
	if (put < 0)
		return -errno;
	if ((size_t)put != ntx)
		return CF_BROKEN;
	return collect(fd, rx, nrx, 0);
}

/*
 * Sized by what a command may bring: an answer that does not fit waits for a
 * read, at the price of one more system call, while every byte of the size is
 * copied in and out.
 */
static size_t exchange_size(const uint8_t *tx, size_t ntx)
{
	size_t data = 256 + 2;
	size_t header = sizeof(struct cardfs_exchange);

	if (ntx > 5 + 255 + 1 || (ntx >= 7 && tx[4] == 0))
		return CARDFS_EXCHANGE_MAX;
	return header + (ntx > data ? ntx : data);
}

ssize_t cf_exchange(int fd, const uint8_t *tx, size_t ntx, uint8_t *rx, size_t nrx)
{
	alignas(struct cardfs_exchange) uint8_t buf[CARDFS_EXCHANGE_MAX];
	struct cardfs_exchange *x = (struct cardfs_exchange *)buf;
	size_t room = sizeof buf - sizeof *x;
	size_t size;
	ssize_t n = -EINTR;

	if (ntx == 0)
		return -EINVAL;
	if (ntx > room)
		return cf_converse(fd, tx, ntx, rx, nrx);
	size = exchange_size(tx, ntx);
	room = size - sizeof *x;
	/* EINTR: the command was not sent, so that it can be sent again. */
	for (int i = 0; i < PATIENCE && n == -EINTR; i++) {
		x->length = (uint32_t)ntx;
		memcpy(x->data, tx, ntx);
		memset(x->data + ntx, 0, room - ntx);
		n = ioctl(fd, CARDFS_EXCHANGE(size), buf);
		if (n < 0)
			n = -errno;
	}
	if (n > CF_ANSWER_MAX || (n >= 0 && x->length != (uint32_t)n)) {
		n = CF_BROKEN;
	} else if (n >= 0 && (size_t)n > room) {
		n = collect(fd, rx, nrx, (size_t)n);
	} else if (n >= 0 && (size_t)n > nrx) {
		n = CF_TOO_LONG;
	} else if (n >= 0) {
		memcpy(rx, x->data, (size_t)n);
	}
	explicit_bzero(buf, size); /* a PIN may have been in it */
	return n;
}

ssize_t cf_patient(int fd, const uint8_t *tx, size_t ntx, uint8_t *rx, size_t nrx)
{
	struct cf_wait w = cf_wait_for(CF_SOON_MS);
	ssize_t n;

	do
		n = cf_exchange(fd, tx, ntx, rx, nrx);
	while (n == -EBUSY && cf_pause(&w));
	return n;
}
