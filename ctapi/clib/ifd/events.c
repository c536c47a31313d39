/* SPDX-License-Identifier: BSD-3-Clause
 *
 * events.c - the thread that follows the event file of a mount
 *
 * The thread owns its follower and frees it when it ends. It can be cancelled only
 * where it waits; no lock is held there, and nothing is half done.
 */
#define _GNU_SOURCE
#include "events.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <time.h>
#include <unistd.h>

#include "file.h"

/* While nothing is mounted, a change of the mount table ends the wait. LOOK_AGAIN_MS is
 * for systems without /proc. */
enum { LOOK_AGAIN_MS = 1000, LEAST_MS = 10 };

/* How long cf_unfollow waits for a thread that may hang in the daemon. */
enum { JOIN_SECONDS = 2 };

/* A line is two numbers, a word and key=value pairs. A longer line is no event. */
enum { LINE = 1024 };

struct cf_follower {
	char root[PATH_MAX / 2];
	const struct cf_listener *listener;
	void *arg;
	pthread_t thread;

	/* The thread's own. */
	int events, epoll, table; /* descriptors, -1: none */
	char line[LINE];
	size_t n;
	bool skipping; /* to the end of an overlong line */
	int pause;     /* milliseconds until the next look at a mount that is not there */
};

/* cancellable says whether the thread may be cancelled. Cancelling interrupts a read
 * that waits in the daemon, without a signal handler in a process that is not ours. */
static void cancellable(bool on)
{
	pthread_setcancelstate(on ? PTHREAD_CANCEL_ENABLE : PTHREAD_CANCEL_DISABLE, NULL);
}

static void one_event(struct cf_follower *f)
{
	unsigned number;
	char what[32];

	if (strstr(f->line, "lost=") != NULL)
		f->listener->resync(f->arg);
	/* A sequence number, the slot, the event. Nine digits fit into an unsigned. */
	if (sscanf(f->line, "%*[0-9] %9u %31s", &number, what) == 2)
		f->listener->event(f->arg, number, what);
}

static void feed(struct cf_follower *f, const char *p, size_t n)
{
	for (; n > 0; p++, n--) {
		if (*p != '\n') {
			if (f->n == LINE - 1)
				f->skipping = true;
			else
				f->line[f->n++] = *p == '\0' ? '?' : *p;
			continue;
		}
		f->line[f->n] = '\0';
		if (f->skipping)
			f->listener->resync(f->arg);
		else
			one_event(f);
		f->n = 0;
		f->skipping = false;
	}
}

/*
 * next waits in epoll_wait(2) and reads what is there.
 *
 * Linux cannot freeze a thread that waits in a call to a FUSE file system, and then does
 * not suspend the machine. So the thread may not wait in read(2), nor in poll(2), which
 * asks the file system again when the freezer wakes it.
 */
static ssize_t next(struct cf_follower *f, char *buf, size_t size)
{
	struct epoll_event ready;

	if (epoll_wait(f->epoll, &ready, 1, -1) < 0)
		return -1;
	return read(f->events, buf, size);
}

/* watch adds the event file to an epoll. */
static bool watch(struct cf_follower *f)
{
	struct epoll_event in = {.events = EPOLLIN};

	f->epoll = epoll_create1(EPOLL_CLOEXEC);
	return f->epoll >= 0 && epoll_ctl(f->epoll, EPOLL_CTL_ADD, f->events, &in) == 0;
}

/* stream reads until the daemon ends. It returns false if nothing came. */
static bool stream(struct cf_follower *f)
{
	char path[PATH_MAX], buf[4096];
	const struct timespec least = {.tv_nsec = LEAST_MS * 1000000L};
	bool useful = false;

	snprintf(path, sizeof path, "%s/event", f->root);
	f->n = 0;
	f->skipping = false;
	cancellable(true);
	f->events = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
	cancellable(false);
	if (f->events < 0)
		return false;
	if (!watch(f)) {
		cf_close(&f->epoll);
		cf_close(&f->events);
		return false;
	}
	/* What changes from now on is an event; what changed before is seen by a look. */
	f->listener->resync(f->arg);
	f->listener->settled(f->arg);
	for (;;) {
		ssize_t n;

		cancellable(true);
		n = next(f, buf, sizeof buf);
		cancellable(false);
		/* All signals are blocked, but a debugger and SIGSTOP interrupt all the same. */
		if (n < 0 && (errno == EINTR || errno == EAGAIN)) {
			nanosleep(&least, NULL);
			continue;
		}
		if (n <= 0)
			break;
		useful = true;
		feed(f, buf, (size_t)n);
		f->listener->settled(f->arg);
	}
	cf_close(&f->epoll);
	cf_close(&f->events);
	return useful;
}

/* pause_for_mount waits until something was mounted or unmounted. */
static void pause_for_mount(struct cf_follower *f)
{
	struct pollfd p = {.fd = f->table, .events = POLLPRI};
	struct timespec least = {.tv_nsec = LEAST_MS * 1000000L};

	cancellable(true);
	/* However often the mount table changes, the thread must not spin. */
	nanosleep(&least, NULL);
	poll(&p, p.fd < 0 ? 0 : 1, f->pause);
	cancellable(false);
	f->pause = f->pause * 2 < LOOK_AGAIN_MS ? f->pause * 2 : LOOK_AGAIN_MS;
}

static void close_files(struct cf_follower *f)
{
	cf_close(&f->epoll);
	cf_close(&f->events);
	cf_close(&f->table);
}

static void finish(void *arg)
{
	struct cf_follower *f = arg;
	const struct cf_listener *listener = f->listener;

	close_files(f);
	arg = f->arg;
	free(f);
	listener->end(arg);
}

static void *follow(void *arg)
{
	struct cf_follower *f = arg;

	pthread_cleanup_push(finish, f);
	cancellable(false);
	/* Opened before the first look, so that no later mount is missed. */
	f->table = open("/proc/self/mountinfo", O_RDONLY | O_CLOEXEC);
	for (;;) {
		if (stream(f))
			f->pause = LEAST_MS;
		f->listener->lost(f->arg);
		pause_for_mount(f);
	}
	pthread_cleanup_pop(1);
	return NULL;
}

struct cf_follower *cf_follow(const char *root, const struct cf_listener *listener, void *arg)
{
	struct cf_follower *f = calloc(1, sizeof *f);
	sigset_t all, old;
	int failed;

	if (f == NULL)
		return NULL;
	snprintf(f->root, sizeof f->root, "%s", root);
	f->listener = listener;
	f->arg = arg;
	f->events = f->epoll = f->table = -1;
	f->pause = LEAST_MS;
	/* The process handles its signals in its own threads. */
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	failed = pthread_create(&f->thread, NULL, follow, f);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	if (failed) {
		free(f);
		return NULL;
	}
	return f;
}

void cf_unfollow(struct cf_follower *f)
{
	pthread_t thread = f->thread; /* f is the thread's */
	struct timespec until;

	pthread_cancel(thread);
	clock_gettime(CLOCK_MONOTONIC, &until);
	until.tv_sec += JOIN_SECONDS;
	if (pthread_clockjoin_np(thread, NULL, CLOCK_MONOTONIC, &until) != 0)
		pthread_detach(thread); /* it ends when the daemon does */
}

void cf_follower_forked(struct cf_follower *f)
{
	close_files(f);
}
