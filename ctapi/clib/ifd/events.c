/* SPDX-License-Identifier: BSD-3-Clause */
#define _GNU_SOURCE
#include "events.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <time.h>
#include <unistd.h>

#include "file.h"

/* While nothing is mounted, a change of the mount table ends the wait. This is
 * for where there is no /proc. */
enum { LOOK_AGAIN_MS = 1000, LEAST_MS = 10 };

/* A daemon that hangs does not answer an interrupted read. */
enum { JOIN_SECONDS = 2 };

/* A line is a number, a number, a word and pairs; what is longer is no event. */
enum { LINE = 1024 };

struct reader {
	struct cf_mount *mount;
	char line[LINE];
	size_t n;
	bool skipping; /* to the end of an overlong line */
	int pause;     /* milliseconds until the next look at a mount that is not there */
};

/*
 * The thread can be cancelled only where it waits, and holds no lock there.
 * Cancelling interrupts a read that waits in the daemon, without a signal
 * handler in somebody else's process.
 */
static void cancellable(bool on)
{
	pthread_setcancelstate(on ? PTHREAD_CANCEL_ENABLE : PTHREAD_CANCEL_DISABLE, NULL);
}

static void one_event(struct reader *r)
{
	unsigned long long seq;
	unsigned number;
	char what[32];

	if (strstr(r->line, "lost=") != NULL)
		cf_resync(r->mount);
	if (sscanf(r->line, "%llu %u %31s", &seq, &number, what) == 3)
		cf_event(r->mount, number, what);
}

static void feed(struct reader *r, const char *p, size_t n)
{
	for (; n > 0; p++, n--) {
		if (*p != '\n') {
			if (r->n == LINE - 1)
				r->skipping = true;
			else
				r->line[r->n++] = *p == '\0' ? '?' : *p;
			continue;
		}
		r->line[r->n] = '\0';
		if (r->skipping)
			cf_resync(r->mount);
		else
			one_event(r);
		r->n = 0;
		r->skipping = false;
	}
}

/*
 * next waits in epoll_wait(2) and reads what is there.
 *
 * A thread that waits in a call to a FUSE file system cannot be frozen, so that the
 * machine would not go to sleep: read(2) is out, and so is poll(2), which asks the file
 * system once more when the freezer wakes it.
 */
static ssize_t next(struct cf_mount *m, char *buf, size_t size)
{
	struct epoll_event ready;

	if (epoll_wait(m->epoll, &ready, 1, -1) < 0)
		return -1;
	return read(m->events, buf, size);
}

/* listen_to has epoll tell of fd; m->epoll is its descriptor. */
static bool listen_to(struct cf_mount *m, int fd)
{
	struct epoll_event in = {.events = EPOLLIN};

	m->epoll = epoll_create1(EPOLL_CLOEXEC);
	return m->epoll >= 0 && epoll_ctl(m->epoll, EPOLL_CTL_ADD, fd, &in) == 0;
}

/* stream reads until the daemon ends; false: nothing came. */
static bool stream(struct reader *r)
{
	char path[PATH_MAX], buf[4096];
	int *events = &r->mount->events;
	const struct timespec least = {.tv_nsec = LEAST_MS * 1000000L};
	bool useful = false;

	snprintf(path, sizeof path, "%s/event", r->mount->root);
	r->n = 0;
	r->skipping = false;
	cancellable(true);
	*events = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
	cancellable(false);
	if (*events < 0)
		return false;
	if (!listen_to(r->mount, *events)) {
		cf_close(&r->mount->epoll);
		cf_close(events);
		return false;
	}
	/* Looked at after the stream began: what changes from now on is in it. */
	cf_resync(r->mount);
	cf_probe(r->mount);
	for (;;) {
		ssize_t n;

		cancellable(true);
		n = next(r->mount, buf, sizeof buf);
		cancellable(false);
		/* All signals are blocked; a debugger's and SIGSTOP interrupt even so. */
		if (n < 0 && (errno == EINTR || errno == EAGAIN)) {
			nanosleep(&least, NULL);
			continue;
		}
		if (n <= 0)
			break;
		useful = true;
		feed(r, buf, (size_t)n);
		cf_probe(r->mount);
	}
	cf_close(&r->mount->epoll);
	cf_close(events);
	return useful;
}

/* pause_for waits until something was mounted or unmounted. */
static void pause_for(struct reader *r)
{
	struct pollfd p = {.fd = r->mount->table, .events = POLLPRI};
	struct timespec least = {.tv_nsec = LEAST_MS * 1000000L};

	cancellable(true);
	/* Not at once again, whatever the mount table does. */
	nanosleep(&least, NULL);
	poll(&p, p.fd < 0 ? 0 : 1, r->pause);
	cancellable(false);
	r->pause = r->pause * 2 < LOOK_AGAIN_MS ? r->pause * 2 : LOOK_AGAIN_MS;
}

static void finish(void *arg)
{
	struct reader *r = arg;
	struct cf_mount *m = r->mount;

	cf_close(&m->epoll);
	cf_close(&m->events);
	cf_close(&m->table);
	free(r);
	cf_release(m);
}

static void *follow(void *arg)
{
	struct reader *r = arg;

	pthread_cleanup_push(finish, r);
	cancellable(false);
	/* Opened before the first look, so that no later mount goes unseen. */
	r->mount->table = open("/proc/self/mountinfo", O_RDONLY | O_CLOEXEC);
	for (;;) {
		if (stream(r))
			r->pause = LEAST_MS;
		cf_lost(r->mount);
		pause_for(r);
	}
	pthread_cleanup_pop(1);
	return NULL;
}

struct cf_mount *cf_follow(const char *root)
{
	struct cf_mount *m = calloc(1, sizeof *m);
	struct reader *r = calloc(1, sizeof *r);
	sigset_t all, old;
	int failed;

	if (m == NULL || r == NULL) {
		free(m);
		free(r);
		return NULL;
	}
	snprintf(m->root, sizeof m->root, "%s", root);
	atomic_init(&m->refs, 2);
	m->events = m->epoll = m->table = -1;
	*r = (struct reader){.mount = m, .pause = LEAST_MS};
	/* The process's signals are for its own threads. */
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	failed = pthread_create(&m->thread, NULL, follow, r);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	if (failed) {
		free(m);
		free(r);
		return NULL;
	}
	return m;
}

void cf_unfollow(struct cf_mount *m)
{
	struct timespec until;

	pthread_cancel(m->thread);
	clock_gettime(CLOCK_MONOTONIC, &until);
	until.tv_sec += JOIN_SECONDS;
	if (pthread_clockjoin_np(m->thread, NULL, CLOCK_MONOTONIC, &until) != 0)
		pthread_detach(m->thread); /* it ends by itself when the daemon does */
}

void cf_forked(struct cf_mount *m)
{
	cf_close(&m->epoll);
	cf_close(&m->events);
	cf_close(&m->table);
}

void cf_release(struct cf_mount *m)
{
	if (atomic_fetch_sub(&m->refs, 1) == 1)
		free(m);
}
