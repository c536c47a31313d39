/* SPDX-License-Identifier: BSD-3-Clause
 *
 * What pcscd is told of a card. pcscd 1.9 to 2.5 notices a change only by two
 * answers of IFDHICCPresence that differ, both asked for by the thread that
 * also calls the polling function. A card that was changed, reset or powered
 * off between two of these must therefore be shown as absent once, to that
 * thread, and to nobody as present meanwhile:
 *
 *                     card == told
 *        ┌───────────── known ◀───────────────┐ presence says 615:
 *        │ card changes or leaves             │ told = card
 *        ▼                                    │
 *      lapsed ── poll returns ─▶ hidden ── next poll ─▶ unknown
 *     (presence: 616)        (presence: 616)            told = 0
 *
 * A power-up asks for the presence too: at the wrong moment it finds the slot
 * empty and fails, and the two steps that follow bring pcscd to power it up anew.
 */
#define _GNU_SOURCE
#include "slots.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "events.h"
#include "file.h"

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct cf_slot *slots;
static struct cf_mount *mounts;

/* ---- fork ------------------------------------------------------------------
 * Slots and sessions are the parent's: a child has neither, nor the threads, and
 * may make its own. The memory stays, as it may be in use where the fork came from. */

static struct cf_slot *slots_left_behind;
static struct cf_mount *mounts_left_behind;

static void before_fork(void)
{
	pthread_mutex_lock(&lock);
}

static void in_parent(void)
{
	pthread_mutex_unlock(&lock);
}

static void in_child(void)
{
	struct cf_slot **s;
	struct cf_mount **m;

	for (s = &slots; *s != NULL; s = &(*s)->next)
		cf_close(&(*s)->apdu);
	*s = slots_left_behind;
	slots_left_behind = slots;
	slots = NULL;
	for (m = &mounts; *m != NULL; m = &(*m)->next)
		cf_forked(*m);
	*m = mounts_left_behind;
	mounts_left_behind = mounts;
	mounts = NULL;
	pthread_mutex_unlock(&lock);
}

__attribute__((constructor)) static void watch_forks(void)
{
	pthread_atfork(before_fork, in_parent, in_child);
}

/* ---- state; the lock is held -------------------------------------------- */

static void set_state(struct cf_slot *s, enum cf_state state)
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

static void take(struct cf_slot *s, const struct cf_view *v)
{
	s->number = v->number;
	s->foreign = v->foreign;
	s->missed = 0;
	if (v->state != CF_AWAY)
		s->siblings = v->siblings;
	set_state(s, v->state);
	pthread_cond_broadcast(&s->changed);
}

static void unref(struct cf_slot *s)
{
	if (--s->refs > 0)
		return;
	cf_close(&s->apdu);
	if (s->mount != NULL)
		cf_release(s->mount);
	pthread_cond_destroy(&s->changed);
	pthread_mutex_destroy(&s->io);
	free(s);
}

/* probe looks until nothing happened meanwhile, so that what it saw is not
 * older than what the events told. It drops the lock while it looks. */
static void probe(struct cf_slot *s)
{
	struct cf_mount *m = s->mount;

	for (int i = 0; i < 10; i++) {
		uint64_t seen = m->version;
		struct cf_view v;

		pthread_mutex_unlock(&lock);
		v = cf_look(&s->name, s->index);
		pthread_mutex_lock(&lock);
		if (m->version == seen || i == 9) {
			take(s, &v);
			return;
		}
	}
}

/* ---- what the event thread calls ----------------------------------------- */

/* is_news tells the events after which a reader may be there that was not. */
static bool is_news(const char *what)
{
	return strcmp(what, "arrived") == 0 || strcmp(what, "ready") == 0 ||
	       strcmp(what, "inserted") == 0;
}

void cf_event(struct cf_mount *m, unsigned number, const char *what)
{
	pthread_mutex_lock(&lock);
	m->version++;
	for (struct cf_slot *s = slots; s != NULL; s = s->next) {
		if (s->mount != m)
			continue;
		if (s->state == CF_AWAY) {
			/* It may be the one that this name is for. */
			if (is_news(what))
				s->probe = true;
			continue;
		}
		if (s->number != (int)number)
			continue;
		if (strcmp(what, "left") == 0) {
			set_state(s, CF_AWAY);
			s->number = -1;
			/* The one that comes back may have arrived before this one
			 * had left, and taken the name over just now. */
			s->probe = true;
		} else if (strcmp(what, "removed") == 0 || strcmp(what, "failed") == 0) {
			set_state(s, CF_EMPTY);
		} else if (strcmp(what, "ready") == 0) {
			if (s->state == CF_STARTING)
				set_state(s, CF_EMPTY);
		} else if (strcmp(what, "inserted") == 0) {
			set_state(s, CF_CARD);
		}
		/* Whoever waits for the end of something tries again. */
		pthread_cond_broadcast(&s->changed);
	}
	pthread_mutex_unlock(&lock);
}

void cf_resync(struct cf_mount *m)
{
	pthread_mutex_lock(&lock);
	m->version++;
	m->absent = false;
	for (struct cf_slot *s = slots; s != NULL; s = s->next)
		if (s->mount == m)
			s->probe = true;
	pthread_mutex_unlock(&lock);
}

void cf_probe(struct cf_mount *m)
{
	struct cf_slot *s;

	pthread_mutex_lock(&lock);
	for (;;) {
		for (s = slots; s != NULL && !(s->mount == m && s->probe); s = s->next)
			;
		if (s == NULL)
			break;
		s->probe = false;
		s->refs++;
		probe(s);
		unref(s);
	}
	pthread_mutex_unlock(&lock);
}

void cf_lost(struct cf_mount *m)
{
	pthread_mutex_lock(&lock);
	m->version++;
	m->absent = true;
	for (struct cf_slot *s = slots; s != NULL; s = s->next)
		if (s->mount == m) {
			set_state(s, CF_AWAY);
			s->number = -1;
			pthread_cond_broadcast(&s->changed);
		}
	pthread_mutex_unlock(&lock);
}

/* ---- slots ---------------------------------------------------------------- */

/* mount_of finds or makes the mount, whose event thread then runs, and takes a
 * reference. The lock is held. */
static struct cf_mount *mount_of(const char *root)
{
	struct cf_mount *m;

	for (m = mounts; m != NULL; m = m->next)
		if (strcmp(m->root, root) == 0) {
			m->users++;
			atomic_fetch_add(&m->refs, 1);
			return m;
		}
	m = cf_follow(root);
	if (m == NULL)
		return NULL;
	m->users = 1;
	m->next = mounts;
	mounts = m;
	return m;
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
	pthread_mutex_lock(&lock);
	s->mount = mount_of(name->root);
	if (s->mount == NULL) {
		s->refs = 1;
		unref(s);
		pthread_mutex_unlock(&lock);
		return NULL;
	}
	s->next = slots;
	slots = s;
	probe(s);
	pthread_mutex_unlock(&lock);
	return s;
}

struct cf_slot *cf_get(unsigned long lun)
{
	struct cf_slot *s;

	pthread_mutex_lock(&lock);
	for (s = slots; s != NULL && s->lun != lun; s = s->next)
		;
	if (s != NULL)
		s->refs++;
	pthread_mutex_unlock(&lock);
	return s;
}

void cf_put(struct cf_slot *s)
{
	pthread_mutex_lock(&lock);
	unref(s);
	pthread_mutex_unlock(&lock);
}

void cf_remove(struct cf_slot *s)
{
	struct cf_mount *idle = NULL;

	pthread_mutex_lock(&lock);
	for (struct cf_slot **p = &slots; *p != NULL; p = &(*p)->next) {
		if (*p != s)
			continue;
		*p = s->next;
		s->closed = s->stop = true;
		set_state(s, CF_AWAY);
		pthread_cond_broadcast(&s->changed);
		if (--s->mount->users == 0) {
			idle = s->mount;
			atomic_fetch_add(&idle->refs, 1);
			for (struct cf_mount **q = &mounts; *q != NULL; q = &(*q)->next)
				if (*q == idle) {
					*q = idle->next;
					break;
				}
		}
		unref(s);
		break;
	}
	pthread_mutex_unlock(&lock);
	if (idle != NULL) {
		cf_unfollow(idle);
		cf_release(idle);
	}
}

void cf_dead(struct cf_slot *s)
{
	unsigned long reader = s->lun >> 16;

	pthread_mutex_lock(&lock);
	for (struct cf_slot *t = slots; t != NULL; t = t->next)
		if (t->lun >> 16 == reader) {
			t->closed = true;
			set_state(t, CF_AWAY);
			pthread_cond_broadcast(&t->changed);
		}
	pthread_mutex_unlock(&lock);
}

enum cf_state cf_state_of(struct cf_slot *s)
{
	enum cf_state state;

	pthread_mutex_lock(&lock);
	state = s->state;
	pthread_mutex_unlock(&lock);
	return state;
}

unsigned cf_siblings(struct cf_slot *s)
{
	unsigned n;

	pthread_mutex_lock(&lock);
	n = s->name.slots > s->siblings ? s->name.slots : s->siblings;
	pthread_mutex_unlock(&lock);
	return n;
}

bool cf_foreign(struct cf_slot *s)
{
	bool foreign;

	pthread_mutex_lock(&lock);
	foreign = s->foreign;
	pthread_mutex_unlock(&lock);
	return foreign;
}

bool cf_path(struct cf_slot *s, const char *file, char *path, size_t size)
{
	int number;

	pthread_mutex_lock(&lock);
	number = s->closed ? -1 : s->number;
	pthread_mutex_unlock(&lock);
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

/* ---- waiting; the lock is held -------------------------------------------- */

/* await waits for a change of s until a moment of cf_now; false: it is over. */
static bool await(struct cf_slot *s, int64_t until)
{
	struct timespec t = {.tv_sec = until / 1000, .tv_nsec = until % 1000 * 1000000};

	if (cf_now() >= until)
		return false;
	return pthread_cond_timedwait(&s->changed, &lock, &t) != ETIMEDOUT;
}

bool cf_found(struct cf_slot *s)
{
	int64_t until = cf_now() + CF_SOON_MS;
	bool found;

	pthread_mutex_lock(&lock);
	while (s->state == CF_AWAY && !s->foreign && !s->closed && !s->mount->absent)
		if (!await(s, until))
			break;
	found = s->state != CF_AWAY;
	pthread_mutex_unlock(&lock);
	return found;
}

static uint64_t current(const struct cf_slot *s)
{
	return s->state == CF_CARD ? s->card : 0;
}

bool cf_presence(struct cf_slot *s)
{
	bool present;

	pthread_mutex_lock(&lock);
	/* At first a reader that is starting is waited for, so that a client
	 * that made pcscd start does not find it empty. Later, news wake the
	 * poll, and to wait here would only hold up others. */
	while (!s->polled && s->state == CF_STARTING && !s->stop)
		if (!await(s, s->started + CF_SOON_MS))
			break;
	present = current(s) != 0 && !s->hiding && (s->told == 0 || s->told == s->card);
	if (!s->polled || pthread_equal(s->poller, pthread_self())) {
		if (present)
			s->told = s->card;
		else if (!s->polls) /* nobody will: this call is all that counts */
			s->told = 0;
	}
	pthread_mutex_unlock(&lock);
	return present;
}

void cf_changed(struct cf_slot *s)
{
	pthread_mutex_lock(&lock);
	s->card++;
	pthread_cond_broadcast(&s->changed);
	pthread_mutex_unlock(&lock);
}

uint64_t cf_card(struct cf_slot *s)
{
	uint64_t card;

	pthread_mutex_lock(&lock);
	card = s->card;
	pthread_mutex_unlock(&lock);
	return card;
}

void cf_missed(struct cf_slot *s, uint64_t card, enum cf_state state)
{
	pthread_mutex_lock(&lock);
	/* The event of it is on its way, and those of what comes then after it. */
	if (s->state == CF_CARD && s->card == card) {
		set_state(s, state);
		if (state == CF_AWAY)
			s->number = -1;
		s->missed = cf_now();
	}
	pthread_mutex_unlock(&lock);
}

void cf_poll(struct cf_slot *s, int timeout)
{
	int64_t until = cf_now() + (timeout > 0 ? timeout : 0);

	pthread_mutex_lock(&lock);
	s->polled = true;
	s->poller = pthread_self();
	if (s->hiding) {
		s->hiding = false;
		s->told = 0;
	}
	while (!s->stop && current(s) == s->told) {
		bool look = s->missed != 0 && s->missed + CF_SOON_MS < until;

		if (await(s, look ? s->missed + CF_SOON_MS : until))
			continue;
		if (!look)
			break;
		probe(s);
	}
	s->stop = s->closed;
	s->hiding = s->told != 0 && current(s) != s->told;
	pthread_mutex_unlock(&lock);
}

void cf_stop(struct cf_slot *s)
{
	pthread_mutex_lock(&lock);
	s->stop = true;
	pthread_cond_broadcast(&s->changed);
	pthread_mutex_unlock(&lock);
}

void cf_polls(struct cf_slot *s)
{
	pthread_mutex_lock(&lock);
	s->polls = true;
	pthread_mutex_unlock(&lock);
}
