/* SPDX-License-Identifier: BSD-3-Clause
 *
 * files.c - the calls on files: open, read, write, ioctl, epoll, close
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

/* fill_text is what a text file says at its open. */
static void fill_text(struct file *f)
{
	struct slot *s = f->slot >= 0 ? &slot[f->slot] : NULL;
	char *t = f->text;
	size_t n = 0, size = sizeof f->text;

	if (strcmp(f->kind, "status") == 0) {
		n += (size_t)snprintf(t + n, size - n, "state %s\n",
			s->gone ? "gone" : s->starting ? "starting" : s->failed ? "failed" : !s->card ? "empty" :
			s->powered ? "powered" : "present");
		n += (size_t)snprintf(t + n, size - n, "reader Fake reader\nserial 4711\nversion 1.02\n");
		n += (size_t)snprintf(t + n, size - n, "slot %d of %d\nsiblings", f->slot - s->first, s->siblings);
		for (int i = 0; i < s->siblings; i++)
			n += (size_t)snprintf(t + n, size - n, " %d", s->first % SLOTS + i);
		n += (size_t)snprintf(t + n, size - n, "\nsessions %d\n", s->sessions);
		if (s->bus >= 0)
			n += (size_t)snprintf(t + n, size - n, "usb %03d/%03d\ninterface %d\n",
				s->bus, s->device, s->interface);
	} else if (strcmp(f->kind, "atr") == 0) {
		n = (size_t)snprintf(t, size, "%s\n", atr != NULL ? atr : "3B B7 94 00 81 31 FE 65 53 50 4B 32 33 90 00 D1");
	} else if (strcmp(f->kind, "protocol") == 0) {
		n = s->protocols != NULL ? (size_t)snprintf(t, size, "%s\n", s->protocols) :
			(size_t)snprintf(t, size, "T=%c T=%c\n", s->protocol, s->protocol == '1' ? '0' : '1');
	}
	for (int i = 0; is(f, "event") && i < SLOTS; i++) {
		s = &slot[f->mount * SLOTS + i];
		if (s->there)
			n += (size_t)snprintf(t + n, size - n, "0 %d arrived driver=fake\n", i);
		if (s->there && !s->starting && !s->failed)
			n += (size_t)snprintf(t + n, size - n, "0 %d ready\n", i);
		if (s->card)
			n += (size_t)snprintf(t + n, size - n, "0 %d inserted\n", i);
	}
	f->ntext = n;
}

static bool known(const char *kind)
{
	static const char *const kinds[] = {"status", "atr", "power", "apdu", "control",
		"ctbcs", "protocol", "event", "."};

	for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++)
		if (strcmp(kind, kinds[i]) == 0)
			return true;
	return false;
}

/* below returns what path has below the root of a mount, NULL: nothing. */
static const char *below(const char *path, int m)
{
	size_t n = strlen(mount[m].root);

	return strncmp(path, mount[m].root, n) == 0 && (path[n] == '/' || path[n] == '\0') ? path + n : NULL;
}

/* find_path splits "/fake/0/apdu" or "apdu" below an open directory. */
static bool find_path(int at, const char *path, struct file *f)
{
	const char *rest = NULL;
	int used = 0;

	memset(f, 0, sizeof *f);
	f->slot = -1;
	if (path[0] != '/') {
		struct file *dir = of(at);

		if (dir == NULL)
			return false;
		f->mount = dir->mount;
		f->slot = dir->slot;
		f->serial = dir->serial;
		snprintf(f->kind, sizeof f->kind, "%s", path);
		return true;
	}
	for (int m = 0; m < MOUNTS && rest == NULL; m++) {
		rest = below(path, m);
		f->mount = m;
	}
	if (rest == NULL)
		return false;
	if (strcmp(rest, "/event") == 0) {
		strcpy(f->kind, "event");
		return true;
	}
	if (sscanf(rest, "/%d%n", &f->slot, &used) != 1 || f->slot < 0 || f->slot >= SLOTS)
		return false;
	snprintf(f->kind, sizeof f->kind, "%s", rest[used] == '\0' ? "." : rest + used + 1);
	f->slot += f->mount * SLOTS;
	f->serial = slot[f->slot].serial;
	return true;
}

/* openable tells with which error an open fails; it powers the card. */
static int openable(struct file *f)
{
	struct slot *s;

	if (!alive)
		return ENOTCONN;
	if (!known(f->kind))
		return ENOENT;
	if (f->slot < 0)
		return 0;
	s = &slot[f->slot];
	if (f->serial != s->serial)
		return ENODEV;
	if (!s->there)
		return ENOENT;
	if (is(f, "status") || is(f, "event") || is(f, "."))
		return 0;
	if (s->starting)
		return EAGAIN; /* the tests never block there */
	if (s->failed)
		return EIO;
	if (is(f, "atr") || is(f, "apdu")) {
		if (!s->card)
			return ENOMEDIUM;
		if (!s->powered) {
			s->powered = true;
			s->epoch++;
			event(f->slot, "powered");
		}
	}
	return 0;
}

/* check_flags knows the rules of opening: no program that is started inherits a
 * descriptor, and where an open may wait without a limit it must not wait. That may
 * only an open of the terminal, and of control where the reader does not start. */
static void check_flags(const struct file *f, int flags)
{
	if (!(flags & O_CLOEXEC))
		broken("opened without O_CLOEXEC", f);
	if (flags & (O_NONBLOCK | O_PATH) || is(f, "ctbcs") || is(f, "."))
		return;
	if (!is(f, "control") || slot[f->slot].starting)
		broken("an open that may wait", f);
}

static int fake_open(int at, const char *path, int flags)
{
	struct file f;
	enum shape shape;
	int error, i;

	enter();
	shape = strike();
	if (shape == ERRNO || shape == ERRNO_LATE)
		return refuse(fault.error);
	if (!find_path(at, path, &f))
		return refuse(ENOENT);
	check_flags(&f, flags);
	error = openable(&f);
	if (error != 0)
		return refuse(error);
	for (i = 0; i < FILES && file[i].used; i++)
		;
	if (i == FILES)
		return refuse(EMFILE);
	f.used = true;
	f.flags = flags;
	f.era = era;
	if (f.slot >= 0)
		f.epoch = slot[f.slot].epoch;
	if (is(&f, "event"))
		f.pos = mount[f.mount].nevents; /* the present state comes first, then what is new */
	fill_text(&f);
	file[i] = f;
	leave();
	return FIRST + i;
}

bool ours(int at, const char *path)
{
	for (int m = 0; m < MOUNTS; m++)
		if (below(path, m) != NULL)
			return true;
	return path[0] != '/' && at >= FIRST;
}

int __wrap_openat(int at, const char *path, int flags, ...)
{
	return ours(at, path) ? fake_open(at, path, flags) : __real_openat(at, path, flags);
}

int __wrap_open(const char *path, int flags, ...)
{
	return ours(-1, path) ? fake_open(-1, path, flags) : __real_open(path, flags);
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

/* unread reports whether a follower has something to read, or is at it. */
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

/* wait_event is where the event thread waits, and may be cancelled. A fault of its next
 * call ends the waiting, too. */
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

/* The file that an epoll descriptor tells of: the event thread has one of each. */
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
		/* An error in the place of the answer. EBUSY: nothing was sent. */
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
		return refuse(EAGAIN); /* it is to be waited for in epoll_wait(2) */
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
		x->length = (uint32_t)room + 1; /* and nothing to read */
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
