/* SPDX-License-Identifier: BSD-3-Clause
 *
 * slots.h - the slots that pcscd was given, and what the mount says of them
 *
 * One thread for each mount point reads its event file and keeps the state of
 * all slots on it, so that to ask for a card costs nothing and to wait for one
 * is to wait on a condition variable.
 *
 * A slot outlives its reader and the daemon: it is AWAY until the event file
 * tells of a reader by its name again.
 */
#ifndef CARDFS_SLOTS_H
#define CARDFS_SLOTS_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "find.h"

#define CF_ATR_MAX 33 /* TS and 32 characters: ISO/IEC 7816-3:2006 8.1 */

struct cf_slot {
	/* Fixed from creation on. */
	unsigned long lun;
	struct cf_name name;
	unsigned index; /* of the slot in its reader */
	struct cf_mount *mount;

	/* Guarded by the lock of slots.c. */
	struct cf_slot *next;
	unsigned refs;
	pthread_cond_t changed;
	enum cf_state state;
	int number;         /* of the directory at present, -1: not known */
	unsigned siblings;  /* slots of the reader, as last seen */
	bool foreign;       /* the mount has the device by another interface */
	bool probe;         /* the event thread is to look at it */
	bool closed;        /* by pcscd, or the device was reported removed */
	int64_t started;    /* when it became STARTING */
	int64_t missed;     /* when cf_missed was told so, 0: the mount was looked at since */
	uint64_t card;      /* counts the cards that were seen */
	uint64_t told;      /* the card that pcscd knows of, 0: none */
	bool hiding;        /* between two polls, to show pcscd an empty slot */
	bool stop;          /* the next poll is to return at once */
	bool polls;         /* pcscd asked for the polling function */
	bool polled;        /* and has called it, from this thread: */
	pthread_t poller;

	/* Guarded by io, which is held during exchanges. */
	pthread_mutex_t io;
	int apdu;           /* the session with the card, -1: none */
	uint64_t session;   /* which card that is: cf_card */
	bool owes_reset;    /* it was to be powered off, but others use it */
	uint8_t atr[CF_ATR_MAX];
	unsigned natr;
};

/* cf_add makes a slot, replacing one of the same lun, and looks for it. The
 * caller has a reference. NULL: no memory. */
struct cf_slot *cf_add(unsigned long lun, const struct cf_name *name, unsigned index);
/* cf_get finds a slot and takes a reference, to be given back with cf_put. */
struct cf_slot *cf_get(unsigned long lun);
void cf_put(struct cf_slot *s);
/* cf_remove takes a slot out; who still uses it keeps it until cf_put. The
 * event thread of its mount ends with the last slot. */
void cf_remove(struct cf_slot *s);

/* cf_dead makes the reader of s AWAY for ever: pcscd saw it being unplugged. */
void cf_dead(struct cf_slot *s);

enum cf_state cf_state_of(struct cf_slot *s);
/* cf_siblings is how many slots the reader has, as far as known. */
unsigned cf_siblings(struct cf_slot *s);
/* cf_foreign is whether the mount has the device by another interface. */
bool cf_foreign(struct cf_slot *s);
/* cf_path is where a file of the slot is now; false while the reader is away. */
bool cf_path(struct cf_slot *s, const char *file, char *path, size_t size);
/* cf_status reads the slot's status file. */
bool cf_status(struct cf_slot *s, char *text, size_t size);

/* cf_found waits a while for a reader that the mount may not have announced
 * yet; at once false if nothing is mounted there. */
bool cf_found(struct cf_slot *s);

/* cf_presence is whether pcscd is to see a card. */
bool cf_presence(struct cf_slot *s);
/* cf_changed says that the card's state was lost behind pcscd's back. */
void cf_changed(struct cf_slot *s);
/* cf_card is a number for the card that is there. cf_missed says that it is not
 * any more, EMPTY or AWAY, unless the events already told of what came after it.
 * If they go on saying nothing, the poll has a look at the mount. */
uint64_t cf_card(struct cf_slot *s);
void cf_missed(struct cf_slot *s, uint64_t card, enum cf_state state);
/* cf_poll returns when cf_presence has news, after timeout ms, or when told to
 * stop, before or during the call. */
void cf_poll(struct cf_slot *s, int timeout);
void cf_stop(struct cf_slot *s);
void cf_polls(struct cf_slot *s);

#endif
