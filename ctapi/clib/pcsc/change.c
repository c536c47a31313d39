/* SPDX-License-Identifier: BSD-3-Clause
 *
 * change.c - SCardGetStatusChange, SCardCancel
 *
 * A change is waited for in one poll(2): on the status file of each named reader, which
 * the mount makes ready (POLLPRI) when a line in it changed, on the event file of the
 * mount where an arrival counts, and on an eventfd for SCardCancel. The context keeps
 * the files open between calls, so a call that finds nothing new costs a read of each
 * status and the poll. After the poll only what it names is read again.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

#include "file.h"
#include "pcsc.h"
#include "seen.h"

struct pc_watch {
	struct seen *seen;
	int event; /* the mount's, -1: not open */
};

/* A mount that always has something to read is no cardfs. */
enum { MOST_READS = 1 << 16 };

static const char pnp[] = "\\\\?PnP?\\Notification";

static bool is_pnp(const char *name)
{
	return strcasecmp(name, pnp) == 0;
}

void pc_watch_free(struct pc_context *x)
{
	struct pc_watch *w = x->watch;

	if (w == NULL)
		return;
	while (w->seen != NULL) {
		struct seen *s = w->seen;

		w->seen = s->next;
		pc_away(s);
		free(s);
	}
	cf_close(&w->event);
	free(w);
	x->watch = NULL;
}

static struct seen *seen_of(struct pc_watch *w, const char *name)
{
	struct seen *s;

	for (s = w->seen; s != NULL; s = s->next)
		if (strcmp(s->name, name) == 0)
			return s;
	s = calloc(1, sizeof *s);
	if (s == NULL)
		return NULL;
	snprintf(s->name, sizeof s->name, "%s", name);
	s->dir = s->status = -1;
	s->next = w->seen;
	w->seen = s;
	return s;
}

/* ---- waiting ------------------------------------------------------------------------- */

/* One call. */
struct change {
	struct pc_context *x;
	SCARD_READERSTATE *states;
	DWORD n;
	struct seen **of; /* of each state, NULL for the special name */
	struct pollfd *fds;
	size_t readers; /* how many there are, for the special name */
	bool pnp;
	bool followed; /* the mount's event file is open, if it has one */
};

/* drain reads the lines that are there: what they say is looked up. It returns false if
 * the mount is gone. */
static bool drain(struct pc_watch *w)
{
	char lines[4096];

	for (int i = 0; i < MOST_READS; i++) {
		ssize_t n = read(w->event, lines, sizeof lines);

		if (n > 0 && (size_t)n < sizeof lines)
			return true; /* of what comes after that, poll tells */
		if (n == 0 || (n < 0 && errno != EINTR))
			return n < 0 && errno == EAGAIN;
	}
	return false;
}

/* expects reports whether an arrival counts. The departure of a reader that is there makes
 * its status ready. */
static bool expects(const struct change *c)
{
	for (DWORD i = 0; i < c->n; i++)
		if (c->of[i] != NULL && c->of[i]->status < 0 &&
		    !(c->states[i].dwCurrentState & SCARD_STATE_IGNORE))
			return true;
	return c->pnp;
}

static void follow(struct change *c)
{
	struct pc_watch *w = c->x->watch;
	char path[PATH_MAX];

	c->followed = expects(c);
	if (!c->followed) {
		cf_close(&w->event);
		return;
	}
	if (w->event >= 0 && !drain(w))
		cf_close(&w->event);
	if (w->event >= 0)
		return;
	snprintf(path, sizeof path, "%s/event", c->x->root);
	w->event = cf_open(AT_FDCWD, path, O_RDONLY | O_NONBLOCK);
	if (w->event >= 0 && !drain(w))
		cf_close(&w->event);
}

/* compare compares all states. *changed: the program has to be told; *starting: a reader
 * is not ready yet. */
static LONG compare(struct change *c, bool *changed, bool *starting)
{
	*changed = *starting = false;
	for (DWORD i = 0; i < c->n; i++) {
		SCARD_READERSTATE *r = &c->states[i];
		struct seen *s = c->of[i];

		if (s == NULL && !(r->dwCurrentState & SCARD_STATE_IGNORE)) {
			size_t n;
			LONG result = pc_count(c->x->root, &n);

			if (result != SCARD_S_SUCCESS)
				return result;
			if (n != c->readers) {
				c->readers = n;
				r->dwEventState |= SCARD_STATE_CHANGED;
				*changed = true;
			}
		}
		if (s == NULL || r->dwCurrentState & SCARD_STATE_IGNORE)
			continue;
		if (pc_refresh(c->x, s)) {
			*changed |= pc_differs(s, r);
			*starting |= s->now.state == PC_STARTING;
			continue;
		}
		if (pc_available(c->x->root) == SCARD_E_NO_SERVICE)
			return SCARD_E_NO_SERVICE;
		*changed |= pc_unknown(r);
	}
	return SCARD_S_SUCCESS;
}

/* watched reports whether poll tells of changes of state i. */
static bool watched(const struct change *c, DWORD i)
{
	return c->of[i] != NULL && c->of[i]->status >= 0 &&
	       !(c->states[i].dwCurrentState & SCARD_STATE_IGNORE);
}

/* wait_change waits until something happened. */
static LONG wait_change(struct change *c, int64_t until, bool forever)
{
	nfds_t n = 0;
	uint64_t count;
	int64_t left = forever ? -1 : until - cf_now();
	int got;

	if (!forever && left <= 0)
		return SCARD_E_TIMEOUT;
	if (!c->followed && expects(c))
		return SCARD_S_SUCCESS; /* a reader has left: it may have come back since */
	c->fds[n++] = (struct pollfd){.fd = c->x->cancel, .events = POLLIN};
	c->fds[n++] = (struct pollfd){.fd = c->x->watch->event, .events = POLLIN};
	for (DWORD i = 0; i < c->n; i++)
		if (watched(c, i))
			c->fds[n++] = (struct pollfd){.fd = c->of[i]->status, .events = POLLPRI};
	do
		got = poll(c->fds, n, left > INT_MAX ? INT_MAX : (int)left);
	while (got < 0 && errno == EINTR && (forever || (left = until - cf_now()) > 0));
	n = 2;
	for (DWORD i = 0; got > 0 && i < c->n; i++)
		if (watched(c, i)) {
			c->of[i]->fresh = c->fds[n++].revents == 0;
			if (!c->of[i]->fresh)
				pc_expect_card(c->of[i]);
		}
	if (read(c->x->cancel, &count, sizeof count) == sizeof count)
		return SCARD_E_CANCELLED;
	return SCARD_S_SUCCESS;
}

static LONG run(struct change *c, DWORD timeout)
{
	bool forever = timeout == INFINITE || timeout == (DWORD)-1;
	int64_t start = cf_now(), until = start + (int64_t)(forever ? 0 : timeout);
	bool changed, starting;
	LONG result;

	if (c->pnp) {
		result = pc_count(c->x->root, &c->readers);
		if (result != SCARD_S_SUCCESS)
			return result;
	}
	for (;;) {
		follow(c);
		result = compare(c, &changed, &starting);
		if (result != SCARD_S_SUCCESS)
			return result;
		/* pcscd answers when its readers are ready. */
		if (starting && cf_now() - start < CF_SOON_MS) {
			result = wait_change(c, start + CF_SOON_MS, false);
			if (result == SCARD_E_CANCELLED)
				return result;
			continue;
		}
		if (changed)
			return SCARD_S_SUCCESS;
		result = wait_change(c, until, forever);
		if (result != SCARD_S_SUCCESS)
			return result;
	}
}

/* prepare finds the readers. All must be known. */
static LONG prepare(struct change *c)
{
	for (DWORD i = 0; i < c->n; i++) {
		SCARD_READERSTATE *r = &c->states[i];

		if (is_pnp(r->szReader)) {
			c->pnp = !(r->dwCurrentState & SCARD_STATE_IGNORE);
			continue;
		}
		c->of[i] = seen_of(c->x->watch, r->szReader);
		if (c->of[i] == NULL)
			return SCARD_E_NO_MEMORY;
		if (!pc_see(c->x, c->of[i])) {
			LONG available = pc_available(c->x->root);

			return available == SCARD_S_SUCCESS ? SCARD_E_UNKNOWN_READER : available;
		}
	}
	for (DWORD i = 0; i < c->n; i++)
		c->states[i].dwEventState = 0;
	return SCARD_S_SUCCESS;
}

/* forget closes the files of readers that were not asked for: a program that asks for one
 * reader after another must not open them all. */
static void forget(struct change *c)
{
	struct seen **p = &c->x->watch->seen;

	while (*p != NULL) {
		struct seen *s = *p;
		DWORD i = 0;

		while (i < c->n && c->of[i] != s)
			i++;
		if (i < c->n) {
			p = &s->next;
			continue;
		}
		*p = s->next;
		pc_away(s);
		free(s);
	}
}

LONG pc_status_change(struct pc_context *x, DWORD timeout, SCARD_READERSTATE *states, DWORD n)
{
	struct change c = {.x = x, .states = states, .n = n};
	LONG result = SCARD_E_NO_MEMORY;
	uint64_t count;

	pthread_mutex_lock(&x->changing);
	if (x->watch == NULL) {
		x->watch = calloc(1, sizeof *x->watch);
		if (x->watch != NULL)
			x->watch->event = -1;
	}
	c.of = calloc(n, sizeof *c.of);
	c.fds = calloc(n + 2, sizeof *c.fds);
	if (x->watch != NULL && c.of != NULL && c.fds != NULL) {
		/* A cancellation counts only while there is something to cancel. */
		while (read(x->cancel, &count, sizeof count) > 0)
			;
		atomic_store(&x->waiting, true);
		result = prepare(&c);
		forget(&c);
		if (result == SCARD_S_SUCCESS)
			result = run(&c, timeout);
		atomic_store(&x->waiting, false);
	}
	free(c.of);
	free(c.fds);
	pthread_mutex_unlock(&x->changing);
	return result;
}

void pc_cancel(struct pc_context *x)
{
	uint64_t one = 1;

	if (atomic_load(&x->waiting) && write(x->cancel, &one, sizeof one) < 0)
		return; /* it is cancelled already */
}
