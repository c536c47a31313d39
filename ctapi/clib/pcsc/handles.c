/* SPDX-License-Identifier: BSD-3-Clause
 *
 * handles.c - contexts and handles
 *
 * Handles are random: one that was given back is not given out again soon, so a program
 * that uses it once more is told so.
 *
 * A child of fork(2) has none: its descriptors are those of its parent, and two processes
 * would read each other's answers. It has to establish a context of its own.
 */
#define _GNU_SOURCE
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/random.h>
#include <unistd.h>

#include "file.h"
#include "pcsc.h"

pthread_mutex_t pc_lock = PTHREAD_MUTEX_INITIALIZER;
static struct pc_context *contexts;
static struct pc_card *cards;

/* ---- fork(2) ---------------------------------------------------------------- */

static void forking(void)
{
	pthread_mutex_lock(&pc_lock);
}

static void forked_parent(void)
{
	pthread_mutex_unlock(&pc_lock);
}

/* forked_child forgets everything. Only close(2) is allowed here; the memory is lost,
 * since another thread of the parent may have been using it. */
static void forked_child(void)
{
	for (struct pc_card *c = cards; c != NULL; c = c->next) {
		int own = c->lock == c->apdu ? -1 : c->lock;

		cf_close(&own);
		cf_close(&c->apdu);
		cf_close(&c->control);
		cf_close(&c->dir);
	}
	for (struct pc_context *x = contexts; x != NULL; x = x->next) {
		cf_close(&x->cancel);
		cf_close(&x->dir);
	}
	cards = NULL;
	contexts = NULL;
	pthread_mutex_unlock(&pc_lock);
}

static void once(void)
{
	pthread_atfork(forking, forked_parent, forked_child);
}

/* ---- handles ---------------------------------------------------------------- */

/* random_handle is positive in 32 bits: programs keep handles in an int, too. */
static LONG random_handle(void)
{
	uint32_t n;

	do
		while (getrandom(&n, sizeof n, 0) != sizeof n)
			;
	while ((n &= INT32_MAX) == 0);
	return (LONG)n;
}

static struct pc_context *find_context(SCARDCONTEXT handle)
{
	struct pc_context *x = contexts;

	while (x != NULL && x->handle != handle)
		x = x->next;
	return x;
}

static struct pc_card *find_card(SCARDHANDLE handle)
{
	struct pc_card *c = cards;

	while (c != NULL && c->handle != handle)
		c = c->next;
	return c;
}

struct pc_context *pc_context_new(int dir, unsigned number)
{
	static pthread_once_t forks = PTHREAD_ONCE_INIT;
	struct pc_context *x = calloc(1, sizeof *x);

	if (x == NULL)
		return NULL;
	pthread_once(&forks, once);
	x->cancel = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (x->cancel < 0) {
		free(x);
		return NULL;
	}
	pc_root(x->root, sizeof x->root);
	pthread_mutex_init(&x->changing, NULL);
	x->dir = dir;
	x->number = number;
	x->refs = 1;
	pthread_mutex_lock(&pc_lock);
	do
		x->handle = random_handle();
	while (find_context(x->handle) != NULL);
	x->next = contexts;
	contexts = x;
	pthread_mutex_unlock(&pc_lock);
	return x;
}

struct pc_context *pc_context_get(SCARDCONTEXT handle)
{
	struct pc_context *x;

	pthread_mutex_lock(&pc_lock);
	x = find_context(handle);
	if (x != NULL)
		x->refs++;
	pthread_mutex_unlock(&pc_lock);
	return x;
}

int pc_context_dir(struct pc_context *x, unsigned number)
{
	int dir = -1;

	pthread_mutex_lock(&pc_lock);
	if (x->number == number) {
		dir = x->dir;
		x->dir = -1;
	}
	pthread_mutex_unlock(&pc_lock);
	return dir;
}

void pc_context_put(struct pc_context *x)
{
	bool last;

	pthread_mutex_lock(&pc_lock);
	last = --x->refs == 0;
	pthread_mutex_unlock(&pc_lock);
	if (!last)
		return;
	pc_watch_free(x);
	cf_close(&x->cancel);
	cf_close(&x->dir);
	pthread_mutex_destroy(&x->changing);
	free(x);
}

/* unlink_card takes c out of the list. It returns false if another call did. */
static bool unlink_card(struct pc_card *c)
{
	for (struct pc_card **p = &cards; *p != NULL; p = &(*p)->next)
		if (*p == c) {
			*p = c->next;
			return true;
		}
	return false;
}

void pc_context_release(struct pc_context *x)
{
	struct pc_card *mine = NULL;
	bool first = false;

	pthread_mutex_lock(&pc_lock);
	for (struct pc_context **p = &contexts; *p != NULL; p = &(*p)->next)
		if (*p == x) {
			*p = x->next;
			x->released = first = true;
			break;
		}
	for (struct pc_card **p = &cards; *p != NULL;) {
		struct pc_card *c = *p;

		if (c->context != x) {
			p = &c->next;
			continue;
		}
		*p = c->next;
		c->next = mine;
		mine = c;
	}
	pthread_mutex_unlock(&pc_lock);
	while (mine != NULL) {
		struct pc_card *c = mine;

		mine = c->next;
		pthread_mutex_lock(&c->io);
		pc_end(c);
		pthread_mutex_unlock(&c->io);
		pc_card_put(c);
	}
	if (!first)
		return;
	pc_cancel(x);
	pc_context_put(x);
}

bool pc_card_add(struct pc_context *x, struct pc_card *c)
{
	bool ok;

	pthread_mutex_lock(&pc_lock);
	ok = !x->released;
	if (ok) {
		do
			c->handle = random_handle();
		while (find_card(c->handle) != NULL);
		x->refs++;
		c->context = x;
		c->refs = 1;
		c->next = cards;
		cards = c;
	}
	pthread_mutex_unlock(&pc_lock);
	return ok;
}

struct pc_card *pc_card_get(SCARDHANDLE handle)
{
	struct pc_card *c;

	pthread_mutex_lock(&pc_lock);
	c = find_card(handle);
	if (c != NULL)
		c->refs++;
	pthread_mutex_unlock(&pc_lock);
	return c;
}

void pc_card_put(struct pc_card *c)
{
	bool last;

	pthread_mutex_lock(&pc_lock);
	last = --c->refs == 0;
	pthread_mutex_unlock(&pc_lock);
	if (!last)
		return;
	pc_end(c);
	pc_context_put(c->context);
	pthread_mutex_destroy(&c->io);
	free(c);
}

void pc_card_remove(struct pc_card *c)
{
	bool first;

	pthread_mutex_lock(&pc_lock);
	first = unlink_card(c);
	pthread_mutex_unlock(&pc_lock);
	if (first)
		pc_card_put(c);
}
