/* SPDX-License-Identifier: BSD-3-Clause
 *
 * slots.h - the slots that pcscd opened, and what the mount says of each
 *
 * A slot outlives its reader and the daemon: it is CF_AWAY until the event file reports
 * a reader that its name means. One thread for each mount point follows the event file
 * (events.h) and keeps the state of all slots there: asking for the state costs no
 * system call, and waiting for a change is waiting on a condition variable.
 *
 * Locks, in the order in which they are taken:
 *
 *   cf_slot.io    one for each slot; held during an exchange or a change of power
 *   cf_slots_lock one for all: the list of slots, the mounts, the state of each slot;
 *                 held for moments, never during a call into the mount
 *
 * pcscd calls from any thread: each entry point takes a reference by cf_get and gives
 * it back by cf_put, so that closing a slot does not free it under a running command.
 */
#ifndef CARDFS_SLOTS_H
#define CARDFS_SLOTS_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "find.h"
#include "slot.h"

struct cf_slot {
	/* Set when the slot is made, then fixed. */
	unsigned long lun;
	struct cf_name name;
	unsigned index; /* of the slot in its reader */
	struct cf_mount *mount;

	/* Guarded by cf_slots_lock. */
	struct cf_slot *next;
	unsigned refs;
	pthread_cond_t changed;
	enum cf_state state;
	int number;           /* of the directory at present, -1: not known */
	unsigned siblings;    /* how many slots the reader has, as last seen */
	bool other_interface; /* the mount has the USB device by another interface */
	bool probe;           /* the event thread has to look at it */
	bool closed;          /* by pcscd, or the device was reported removed */
	uint64_t card;        /* counts the cards that were seen */

	/* Guarded by cf_slots_lock: what pcscd was told (presence.c). */
	int64_t started;   /* when the slot became CF_STARTING */
	int64_t no_event;  /* when cf_card_gone ran; 0: the mount was looked at since */
	uint64_t reported; /* the card that pcscd knows of, 0: none */
	bool hiding;       /* show pcscd an empty slot until its next poll */
	bool stop;         /* the next poll returns at once */
	bool polling;      /* pcscd asked for the polling function */
	bool polled;       /* pcscd called it, in the thread poller */
	pthread_t poller;

	/* Guarded by io. */
	pthread_mutex_t io;
	int apdu;         /* the session with the card, -1: none */
	uint64_t session; /* the cf_card of that session */
	bool reset_due;   /* pcscd powered the card off, but other programs use it */
	uint8_t atr[CF_ATR_MAX];
	unsigned natr;
};

/* cf_add makes a slot, in place of one with the same lun, and looks for its reader. The
 * caller has a reference. It returns NULL if there is no memory or no thread. */
struct cf_slot *cf_add(unsigned long lun, const struct cf_name *name, unsigned index);
/* cf_get finds a slot and takes a reference, to be given back with cf_put. */
struct cf_slot *cf_get(unsigned long lun);
void cf_put(struct cf_slot *s);
/* cf_remove takes a slot out of the list. Whoever has a reference may go on using it.
 * The event thread of a mount ends with the last slot there. */
void cf_remove(struct cf_slot *s);
/* cf_unplugged makes all slots of the reader of s CF_AWAY for ever: pcscd saw the
 * device leave. */
void cf_unplugged(struct cf_slot *s);

enum cf_state cf_state_of(struct cf_slot *s);
/* cf_siblings returns how many slots the reader has, as far as known. */
unsigned cf_siblings(struct cf_slot *s);
/* cf_other_interface reports whether the mount has the USB device by another interface. */
bool cf_other_interface(struct cf_slot *s);
/* cf_path makes the path of a file of the slot. It returns false while the reader is
 * away. */
bool cf_path(struct cf_slot *s, const char *file, char *path, size_t size);
/* cf_status reads the slot's status file. */
bool cf_status(struct cf_slot *s, char *text, size_t size);

/* cf_wait_found waits up to CF_SOON_MS for a reader that the mount has not announced
 * yet, and reports whether it is there. If nothing is mounted it does not wait. */
bool cf_wait_found(struct cf_slot *s);

/* For presence.c. */
extern pthread_mutex_t cf_slots_lock;
/* cf_set_state changes the state of s and wakes who waits for it. The lock is held. */
void cf_set_state(struct cf_slot *s, enum cf_state state);
/* cf_probe looks at the mount and sets the state of s. The lock is held, but not while
 * it looks. */
void cf_probe(struct cf_slot *s);
/* cf_wait_change waits for a change of s, until the moment until of cf_now at the
 * latest. It returns false if that has passed. The lock is held. */
bool cf_wait_change(struct cf_slot *s, int64_t until);

#endif
