/* SPDX-License-Identifier: BSD-3-Clause
 *
 * slots.c - the list of slots, and their state as the event threads report it
 *
 * slots.h has the order of the locks. What a slot's state means to pcscd is in
 * presence.c.
 */
#define _GNU_SOURCE
#include "slots.h"

#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "events.h"
#include "file.h"

pthread_mutex_t cf_slots_lock = PTHREAD_MUTEX_INITIALIZER;

/* A mount point with slots. */
struct cf_mount {
	char root[PATH_MAX / 2];
	struct cf_follower *follower;
	atomic_uint refs; /* one for each slot that exists, one for the event thread */

	/* Guarded by the lock. */
	struct cf_mount *next;
	unsigned users;   /* slots in the list; the thread ends with the last */
	uint64_t version; /* counts what the thread reported */
	bool absent;      /* the thread looked, and nothing is mounted there */
};

static struct cf_slot *slots;
static struct cf_mount *mounts;

/* ---- fork ------------------------------------------------------------------
 * Slots and sessions belong to the parent. A child has no event threads; it starts
 * without slots and may open its own. It does not free the parent's: the code that
 * forked may be using one. */

static struct cf_slot *parents_slots;
static struct cf_mount *parents_mounts;

static void before_fork(void)
{
	pthread_mutex_lock(&cf_slots_lock);
}

static void in_parent(void)
{
	pthread_mutex_unlock(&cf_slots_lock);
}

static void in_child(void)
{
	struct cf_slot **s;
	struct cf_mount **m;

	for (s = &slots; *s != NULL; s = &(*s)->next)
		cf_close(&(*s)->apdu);
	*s = parents_slots;
	parents_slots = slots;
	slots = NULL;
	for (m = &mounts; *m != NULL; m = &(*m)->next)
		cf_follower_forked((*m)->follower);
	*m = parents_mounts;
	parents_mounts = mounts;
	mounts = NULL;
	pthread_mutex_unlock(&cf_slots_lock);
}

__attribute__((constructor)) static void watch_forks(void)
{
	pthread_atfork(before_fork, in_parent, in_child);
}

/* ---- state; the lock is held -------------------------------------------- */

void cf_set_state(struct cf_slot *s, enum cf_state state)
{
	if (s->closed)
		state = CF_AWAY;
	if (state == s->state)
		return;
	if (state == CF_CARD)
		s->card++;
	if (state == CF_STARTING)
		s->started = cf_now();
	s->state = state;
	pthread_cond_broadcast(&s->changed);
}

/* take sets the state of s to what a look at the mount found. */
static void take(struct cf_slot *s, const struct cf_view *v)
{
	s->number = v->number;
	s->other_interface = v->other_interface;
	s->no_event = 0;
	if (v->state != CF_AWAY)
		s->siblings = v->siblings;
	cf_set_state(s, v->state);
	pthread_cond_broadcast(&s->changed);
}

/* If events keep arriving during a look, what it found may be older than they are: look
 * again, but not for ever. */
void cf_probe(struct cf_slot *s)
{
	enum { LOOKS = 10 };
	struct cf_mount *m = s->mount;

	for (int i = 1; i <= LOOKS; i++) {
		uint64_t seen = m->version;
		struct cf_view v;

		pthread_mutex_unlock(&cf_slots_lock);
		v = cf_look(&s->name, s->index);
		pthread_mutex_lock(&cf_slots_lock);
		if (m->version == seen || i == LOOKS) {
			take(s, &v);
			return;
		}
	}
}

bool cf_wait_change(struct cf_slot *s, int64_t until)
{
	struct timespec t = {.tv_sec = until / 1000, .tv_nsec = until % 1000 * 1000000};

	if (cf_now() >= until)
		return false;
	return pthread_cond_timedwait(&s->changed, &cf_slots_lock, &t) != ETIMEDOUT;
}

static void unref_mount(struct cf_mount *m)
{
	if (atomic_fetch_sub(&m->refs, 1) == 1)
		free(m);
}

/* unref gives a reference back. It returns true if that was the last one: the caller
 * then has to call free_slot, after giving up the lock. */
static bool unref(struct cf_slot *s)
{
	if (--s->refs > 0)
		return false;
	unref_mount(s->mount);
	return true;
}

/* free_slot is called without the lock: close(2) may wait for the daemon. */
static void free_slot(struct cf_slot *s)
{
	cf_close(&s->apdu);
	pthread_cond_destroy(&s->changed);
	pthread_mutex_destroy(&s->io);
	free(s);
}

/* ---- what the event thread reports ----------------------------------------- */

/* may_appear reports whether a reader may be there after such an event that was not
 * before. */
static bool may_appear(const char *what)
{
	return strcmp(what, "arrived") == 0 || strcmp(what, "ready") == 0 ||
	       strcmp(what, "inserted") == 0;
}

static void on_event(void *arg, unsigned number, const char *what)
{
	struct cf_mount *m = arg;

	pthread_mutex_lock(&cf_slots_lock);
	m->version++;
	for (struct cf_slot *s = slots; s != NULL; s = s->next) {
		if (s->mount != m)
			continue;
		if (s->state == CF_AWAY) {
			/* It may be the reader that this name means. */
			if (may_appear(what))
				s->probe = true;
			continue;
		}
		if (s->number != (int)number)
			continue;
		if (strcmp(what, "left") == 0) {
			cf_set_state(s, CF_AWAY);
			s->number = -1;
			/* The reader may have come back, and taken its name over, before
			 * the old one had left: that event was not for this slot. */
			s->probe = true;
		} else if (strcmp(what, "removed") == 0) {
			cf_set_state(s, CF_EMPTY);
		} else if (strcmp(what, "failed") == 0) {
			/* The reader, or the card: a mute card is still there, and status
			 * says so. */
			s->probe = true;
		} else if (strcmp(what, "ready") == 0) {
			if (s->state == CF_STARTING)
				cf_set_state(s, CF_EMPTY);
		} else if (strcmp(what, "inserted") == 0) {
			cf_set_state(s, CF_CARD);
		}
		/* Any event may end what somebody waits for. */
		pthread_cond_broadcast(&s->changed);
	}
	pthread_mutex_unlock(&cf_slots_lock);
}

static void on_resync(void *arg)
{
	struct cf_mount *m = arg;

	pthread_mutex_lock(&cf_slots_lock);
	m->version++;
	m->absent = false;
	for (struct cf_slot *s = slots; s != NULL; s = s->next)
		if (s->mount == m)
			s->probe = true;
	pthread_mutex_unlock(&cf_slots_lock);
}

static void on_settled(void *arg)
{
	struct cf_mount *m = arg;
	struct cf_slot *s;

	pthread_mutex_lock(&cf_slots_lock);
	for (;;) {
		for (s = slots; s != NULL && !(s->mount == m && s->probe); s = s->next)
			;
		if (s == NULL)
			break;
		s->probe = false;
		s->refs++;
		cf_probe(s);
		if (unref(s)) {
			pthread_mutex_unlock(&cf_slots_lock);
			free_slot(s);
			pthread_mutex_lock(&cf_slots_lock);
		}
	}
	pthread_mutex_unlock(&cf_slots_lock);
}

static void on_lost(void *arg)
{
	struct cf_mount *m = arg;

	pthread_mutex_lock(&cf_slots_lock);
	m->version++;
	m->absent = true;
	for (struct cf_slot *s = slots; s != NULL; s = s->next)
		if (s->mount == m) {
			cf_set_state(s, CF_AWAY);
			s->number = -1;
			pthread_cond_broadcast(&s->changed);
		}
	pthread_mutex_unlock(&cf_slots_lock);
}

static void on_end(void *arg)
{
	unref_mount(arg);
}

static const struct cf_listener listener = {
	.event = on_event,
	.resync = on_resync,
	.settled = on_settled,
	.lost = on_lost,
	.end = on_end,
};

/* ---- the list -------------------------------------------------------------- */

/* mount_of finds or makes the mount, whose event thread then runs, and takes a
 * reference. The lock is held. */
static struct cf_mount *mount_of(const char *root)
{
	struct cf_mount *m;

	for (m = mounts; m != NULL && strcmp(m->root, root) != 0; m = m->next)
		;
	if (m == NULL) {
		m = calloc(1, sizeof *m);
		if (m == NULL)
			return NULL;
		snprintf(m->root, sizeof m->root, "%s", root);
		atomic_init(&m->refs, 1); /* the thread's */
		m->follower = cf_follow(m->root, &listener, m);
		if (m->follower == NULL) {
			free(m);
			return NULL;
		}
		m->next = mounts;
		mounts = m;
	}
	atomic_fetch_add(&m->refs, 1);
	m->users++;
	return m;
}

/* leave_mount counts a slot out. It returns the follower to be ended after the last
 * one, else NULL. The lock is held. */
static struct cf_follower *leave_mount(struct cf_mount *m)
{
	if (--m->users > 0)
		return NULL;
	for (struct cf_mount **p = &mounts; *p != NULL; p = &(*p)->next)
		if (*p == m) {
			*p = m->next;
			break;
		}
	return m->follower;
}

static struct cf_slot *new_slot(unsigned long lun, const struct cf_name *name, unsigned index)
{
	struct cf_slot *s = calloc(1, sizeof *s);
	pthread_condattr_t monotonic;

	if (s == NULL)
		return NULL;
	s->lun = lun;
	s->name = *name;
	s->index = index;
	s->refs = 2; /* the list's and the caller's */
	s->number = -1;
	s->siblings = 1;
	s->apdu = -1;
	pthread_condattr_init(&monotonic);
	pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
	pthread_cond_init(&s->changed, &monotonic);
	pthread_condattr_destroy(&monotonic);
	pthread_mutex_init(&s->io, NULL);
	return s;
}

struct cf_slot *cf_add(unsigned long lun, const struct cf_name *name, unsigned index)
{
	struct cf_slot *old = cf_get(lun);
	struct cf_slot *s;

	if (old != NULL) {
		cf_remove(old);
		cf_put(old);
	}
	s = new_slot(lun, name, index);
	if (s == NULL)
		return NULL;
	pthread_mutex_lock(&cf_slots_lock);
	s->mount = mount_of(name->root);
	if (s->mount == NULL) {
		pthread_mutex_unlock(&cf_slots_lock);
		free_slot(s);
		return NULL;
	}
	s->next = slots;
	slots = s;
	cf_probe(s);
	pthread_mutex_unlock(&cf_slots_lock);
	return s;
}

struct cf_slot *cf_get(unsigned long lun)
{
	struct cf_slot *s;

	pthread_mutex_lock(&cf_slots_lock);
	for (s = slots; s != NULL && s->lun != lun; s = s->next)
		;
	if (s != NULL)
		s->refs++;
	pthread_mutex_unlock(&cf_slots_lock);
	return s;
}

void cf_put(struct cf_slot *s)
{
	bool last;

	pthread_mutex_lock(&cf_slots_lock);
	last = unref(s);
	pthread_mutex_unlock(&cf_slots_lock);
	if (last)
		free_slot(s);
}

void cf_remove(struct cf_slot *s)
{
	struct cf_follower *idle = NULL;

	pthread_mutex_lock(&cf_slots_lock);
	for (struct cf_slot **p = &slots; *p != NULL; p = &(*p)->next) {
		if (*p != s)
			continue;
		*p = s->next;
		s->closed = s->stop = true;
		cf_set_state(s, CF_AWAY);
		pthread_cond_broadcast(&s->changed);
		idle = leave_mount(s->mount);
		s->refs--; /* the list's; the caller has one */
		break;
	}
	pthread_mutex_unlock(&cf_slots_lock);
	if (idle != NULL)
		cf_unfollow(idle); /* its last calls may take the lock */
}

void cf_unplugged(struct cf_slot *s)
{
	unsigned long reader = s->lun >> 16;

	pthread_mutex_lock(&cf_slots_lock);
	for (struct cf_slot *t = slots; t != NULL; t = t->next)
		if (t->lun >> 16 == reader) {
			t->closed = true;
			cf_set_state(t, CF_AWAY);
			pthread_cond_broadcast(&t->changed);
		}
	pthread_mutex_unlock(&cf_slots_lock);
}

/* ---- one slot -------------------------------------------------------------- */

enum cf_state cf_state_of(struct cf_slot *s)
{
	enum cf_state state;

	pthread_mutex_lock(&cf_slots_lock);
	state = s->state;
	pthread_mutex_unlock(&cf_slots_lock);
	return state;
}

unsigned cf_siblings(struct cf_slot *s)
{
	unsigned n;

	pthread_mutex_lock(&cf_slots_lock);
	n = s->name.slots > s->siblings ? s->name.slots : s->siblings;
	pthread_mutex_unlock(&cf_slots_lock);
	return n;
}

bool cf_other_interface(struct cf_slot *s)
{
	bool other;

	pthread_mutex_lock(&cf_slots_lock);
	other = s->other_interface;
	pthread_mutex_unlock(&cf_slots_lock);
	return other;
}

bool cf_path(struct cf_slot *s, const char *file, char *path, size_t size)
{
	int number;

	pthread_mutex_lock(&cf_slots_lock);
	number = s->closed ? -1 : s->number;
	pthread_mutex_unlock(&cf_slots_lock);
	if (number < 0)
		return false;
	return snprintf(path, size, "%s/%d/%s", s->name.root, number, file) < (int)size;
}

bool cf_status(struct cf_slot *s, char *text, size_t size)
{
	char path[PATH_MAX];

	return cf_path(s, "status", path, sizeof path) &&
	       cf_read(AT_FDCWD, path, text, size) > 0;
}

bool cf_wait_found(struct cf_slot *s)
{
	int64_t until = cf_now() + CF_SOON_MS;
	bool found;

	pthread_mutex_lock(&cf_slots_lock);
	while (s->state == CF_AWAY && !s->other_interface && !s->closed && !s->mount->absent)
		if (!cf_wait_change(s, until))
			break;
	found = s->state != CF_AWAY;
	pthread_mutex_unlock(&cf_slots_lock);
	return found;
}
