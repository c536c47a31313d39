/* SPDX-License-Identifier: BSD-3-Clause
 *
 * files.c - the calls on open files: read, write, ioctl, epoll, close
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "cardfs.h"
#include "mount.h"

struct file *of(int fd)
{
	return fd >= FIRST && fd < FIRST + FILES && file[fd - FIRST].used ? &file[fd - FIRST] : NULL;
}

static int dead(const struct file *f)
{
	if (f->era != era || !alive)
		return ENOTCONN;
	if (f->slot >= 0 && (!slot[f->slot].there || slot[f->slot].serial != f->serial))
		return ENODEV;
	return 0;
}

bool is(const struct file *f, const char *kind)
{
	return strcmp(f->kind, kind) == 0;
}

static void (*on_close)(void);

void fake_on_close(void (*f)(void))
{
	on_close = f;
}

int __wrap_close(int fd)
{
	void (*call)(void) = own ? on_close : NULL;
	struct file *f;

	if (fd < FIRST)
		return __real_close(fd);
	if (call != NULL) {
		on_close = NULL;
		call();
	}
	enter();
	f = of(fd);
	if (f == NULL) {
		fprintf(stderr, "fake: close of %d, which is not open\n", fd);
		abort();
	}
	if (f->answer != NULL)
		explicit_bzero(f->answer, ANSWER);
	free(f->answer);
	f->answer = NULL;
	f->used = false;
	leave();
	return 0;
}

static void unlock_mu(void *arg)
{
	(void)arg;
	pthread_mutex_unlock(&mu);
}

int __wrap_fcntl(int fd, int command, long arg)
{
	struct file *f;

	if (fd < FIRST)
		return __real_fcntl(fd, command, arg);
	enter();
	f = of(fd);
	if (f == NULL || command != F_SETFL)
		return refuse(EBADF);
	f->flags = (int)arg;
	leave();
	return 0;
}

static int waiting; /* threads in wait_event */

/* unread reports whether a follower has something to read, or is reading it. */
static bool unread(void)
{
	int followers = 0;

	for (int i = 0; i < FILES; i++)
		if (file[i].used && is(&file[i], "event")) {
			followers++;
			if (file[i].ntext > 0 || file[i].pos < mount[file[i].mount].nevents)
				return true;
		}
	return followers > waiting;
}

void fake_followed(void)
{
	enter();
	while (waiting == 0 || unread())
		pthread_cond_wait(&changed, &mu);
	leave();
}

static void wait_over(void *arg)
{
	waiting--;
	unlock_mu(arg);
}

/* wait_event is where the event thread waits, and where it may be cancelled. A
 * fault of its next call also ends the wait. */
static void wait_event(struct file *f)
{
	pthread_cleanup_push(wait_over, NULL);
	waiting++;
	pthread_cond_broadcast(&changed);
	while (dead(f) == 0 && f->ntext == 0 && f->pos >= mount[f->mount].nevents && struck(1) == NONE)
		pthread_cond_wait(&changed, &mu);
	waiting--;
	pthread_cleanup_pop(0);
}

/* The file that an epoll descriptor watches: the event thread has one of each. */
static int watched[FIRST];

int __wrap_epoll_ctl(int ep, int op, int fd, struct epoll_event *e)
{
	if (fd < FIRST)
		return __real_epoll_ctl(ep, op, fd, e);
	enter();
	watched[ep] = fd;
	leave();
	return 0;
}

int __wrap_epoll_wait(int ep, struct epoll_event *e, int most, int timeout)
{
	struct file *f;

	if (ep >= FIRST || watched[ep] == 0)
		return __real_epoll_wait(ep, e, most, timeout);
	enter();
	f = of(watched[ep]);
	if (f == NULL || !is(f, "event") || timeout >= 0) {
		fprintf(stderr, "fake: an epoll_wait that nobody should do\n");
		abort();
	}
	wait_event(f);
	e->events = EPOLLIN;
	leave();
	return 1;
}

ssize_t __wrap_read(int fd, void *buf, size_t n)
{
	struct file *f;
	enum shape shape;
	const char *from;
	size_t have;
	int error;

	if (fd < FIRST)
		return __real_read(fd, buf, n);
	enter();
	f = of(fd);
	if (f == NULL)
		return refuse(EBADF);
	shape = strike();
	if (shape == ERRNO && f->pending && fault.error != EINTR && fault.error != EAGAIN) {
		/* An error in place of the answer. EBUSY: nothing was sent. */
		if (fault.error == EBUSY && f->logged != NULL)
			free(f->logged->log[--f->logged->commands].bytes);
		f->pending = false;
		f->pos = f->ntext;
	}
	if (shape == ERRNO)
		return refuse(fault.error);
	error = dead(f);
	if (error != 0)
		return refuse(error);
	if (is(f, "event") && shape == NONE && f->ntext == 0 && f->pos >= mount[f->mount].nevents)
		return refuse(EAGAIN); /* the library has to wait in epoll_wait(2) */
	if (shape == EMPTY) {
		leave();
		return 0;
	}
	if (shape == GARBAGE || shape == LONG) {
		/* LONG: a file without an end. */
		for (size_t i = 0; i < n; i++)
			((char *)buf)[i] = shape == LONG ? "4F "[i % 3] : (char)(i * 37 + n + 11);
		leave();
		return (ssize_t)n;
	}
	if (is(f, "event") && f->ntext > 0) {
		have = f->ntext;
		if (n >= have) {
			memcpy(buf, f->text, have);
			f->ntext = 0;
			if (shape == ERRNO_LATE)
				return refuse(fault.error);
			leave();
			return (ssize_t)have;
		}
		from = f->text;
		n = 0;
	} else if (is(f, "event")) {
		from = mount[f->mount].events + f->pos;
		have = mount[f->mount].nevents - f->pos;
	} else if (f->pending) {
		from = (char *)f->answer + f->pos;
		have = f->nanswer - f->pos;
	} else {
		from = f->text + f->pos;
		have = f->ntext - f->pos;
	}
	if (n > have)
		n = have;
	if (shape == SHORT && n > 1)
		n = n / 2;
	memcpy(buf, from, n);
	f->pos += n;
	if (f->pending && f->pos == f->nanswer) {
		f->pending = false;
		f->pos = f->ntext;
	}
	if (shape == ERRNO_LATE)
		return refuse(fault.error);
	leave();
	return (ssize_t)n;
}

ssize_t __wrap_write(int fd, const void *buf, size_t n)
{
	struct file *f;
	enum shape shape;
	int error;

	if (fd < FIRST)
		return __real_write(fd, buf, n);
	enter();
	f = of(fd);
	if (f == NULL)
		return refuse(EBADF);
	shape = strike();
	if (shape == ERRNO)
		return refuse(fault.error);
	error = dead(f);
	if (error == 0 && is(f, "power"))
		error = power(f, buf, n);
	else if (error == 0 && is(f, "protocol")) {
		slot[f->slot].protocol = ((const char *)buf)[2];
		slot[f->slot].epoch++;
	} else if (error == 0) {
		if (!f->binary)
			broken("a text write", f);
		if (f->flags & O_NONBLOCK)
			broken("a command whose answer is polled for", f);
		error = answer(f, buf, n);
		f->pending = error == 0;
		f->pos = 0;
	}
	if (error != 0)
		return refuse(error);
	if (shape == ERRNO_LATE)
		return refuse(fault.error);
	leave();
	if (shape == SHORT || shape == EMPTY)
		return shape == SHORT ? (ssize_t)(n / 2) : 0;
	return (ssize_t)n;
}

int __wrap_ioctl(int fd, unsigned long request, void *arg)
{
	struct cardfs_exchange *x = arg;
	struct file *f;
	enum shape shape;
	size_t size, room;
	int error;

	if (fd < FIRST)
		return __real_ioctl(fd, request, arg);
	enter();
	f = of(fd);
	if (f == NULL)
		return refuse(EBADF);
	shape = strike();
	if (shape == ERRNO)
		return refuse(fault.error);
	error = dead(f);
	if (error != 0)
		return refuse(error);
	if (request == CARDFS_BINARY || (request == CARDFS_CTAPI && is(f, "ctbcs"))) {
		f->binary = true;
		f->addressed = request == CARDFS_CTAPI;
		if (shape == ERRNO_LATE)
			return refuse(fault.error);
		leave();
		return 0;
	}
	size = _IOC_SIZE(request);
	if (request != CARDFS_EXCHANGE(size) || !(is(f, "apdu") || is(f, "control") || is(f, "ctbcs")))
		return refuse(ENOTTY);
	room = size - sizeof *x;
	if (size < sizeof *x || x->length > room)
		return refuse(EINVAL);
	for (size_t i = x->length; i < room; i++)
		if (x->data[i] != 0)
			broken("bytes behind the command", f);
	error = answer(f, x->data, x->length);
	if (error != 0)
		return refuse(error);
	if (shape == ERRNO_LATE)
		return refuse(fault.error);
	x->length = (uint32_t)f->nanswer;
	memset(x->data, 0, room);
	if (f->nanswer <= room) {
		memcpy(x->data, f->answer, f->nanswer);
	} else {
		f->pending = true;
		f->pos = 0;
	}
	switch (shape) {
	case SHORT:
		x->length = 1;
		break;
	case EMPTY:
		x->length = 0;
		break;
	case LONG:
		x->length = (uint32_t)room + 1; /* and there is nothing to read */
		break;
	case GARBAGE:
		memset(arg, 0xA5, size);
		leave();
		return 0x5A5A5A5A;
	default:
		break;
	}
	leave();
	return (int)x->length;
}
