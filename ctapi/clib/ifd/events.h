/* SPDX-License-Identifier: BSD-3-Clause
 *
 * events.h - the thread that reads a mount point's event file
 */
#ifndef CARDFS_EVENTS_H
#define CARDFS_EVENTS_H

#include <limits.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

struct cf_mount {
	char root[PATH_MAX / 2];

	/* Guarded by the lock of slots.c. */
	struct cf_mount *next;
	unsigned users;   /* slots on it */
	uint64_t version; /* counts what was told of it */
	bool absent;      /* looked for, and nothing is mounted there */

	pthread_t thread;
	atomic_uint refs; /* the thread and each slot */
	int events, epoll, table; /* the thread's descriptors, -1: none */
};

/* cf_follow starts the thread; NULL: no memory or no thread to be had. The
 * caller has a reference. */
struct cf_mount *cf_follow(const char *root);
/* cf_unfollow ends the thread. It does not wait for a daemon that hangs. */
void cf_unfollow(struct cf_mount *m);
void cf_release(struct cf_mount *m);
/* cf_forked closes what the thread has open, in a child that does not have the thread. */
void cf_forked(struct cf_mount *m);

/* What the thread calls; no lock is held. */
void cf_event(struct cf_mount *m, unsigned number, const char *what);
/* Everything may have changed: cf_probe is to look at each slot. */
void cf_resync(struct cf_mount *m);
void cf_probe(struct cf_mount *m);
/* The daemon ended, or was not there. */
void cf_lost(struct cf_mount *m);

#endif
