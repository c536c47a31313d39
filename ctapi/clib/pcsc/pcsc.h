/* SPDX-License-Identifier: BSD-3-Clause
 *
 * pcsc.h - what the files of the PC/SC library share
 *
 *   winscard.c  the functions that programs call: checks of arguments, buffers, contexts
 *   winscard_card.c  those that take a card's handle
 *   handles.c   contexts and handles
 *   readers.c   the readers of a mount and their names
 *   card.c      a connection: files of one slot
 *   lock.c      its transactions
 *   command.c   its commands, state, attributes
 *   change.c    SCardGetStatusChange, SCardCancel
 *   words.c     errors in words, debug output
 *
 * A connection is an open control file, which the mount counts (CARDFS_CONNECT), and an
 * open apdu file once there is a card. The mount keeps what clients share: who is
 * exclusive, who has the transaction, whether the card was reset. So nothing here has to be
 * told to other clients, and everything ends with the process.
 *
 * Locks, in the order in which they are taken:
 *
 *   context.changing  held during SCardGetStatusChange: one at a time in a context
 *   card.io           held during a call with a card's handle: its calls take turns
 *   pc_lock           contexts, cards, and their refs; held for moments, never during a
 *                     call into the mount
 *
 * Each call takes a reference to its context or card. Releasing takes it out of the list,
 * and the last call frees it.
 */
#ifndef CARDFS_PCSC_H
#define CARDFS_PCSC_H

#include <limits.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "abi.h"
#include "cardfs.h"

/* ---- readers ---------------------------------------------------------------- */

enum pc_state { PC_STARTING, PC_FAILED, PC_EMPTY, PC_PRESENT, PC_POWERED };

/* What the status file of a slot says. */
struct pc_reader {
	unsigned number; /* of the directory */
	char name[MAX_READERNAME];
	enum pc_state state;
	bool exclusive;       /* an exclusive connection exists */
	unsigned connections; /* PC/SC connections, any */
	uint16_t changes;     /* cards inserted and removed, as the upper word of a state */
	unsigned natr;        /* 0: the card has no power */
	uint8_t atr[MAX_ATR_SIZE];
};

/* pc_root copies the path where slots are looked for. */
void pc_root(char *root, size_t size);
/* pc_available reports whether readers can be reached at root: SCARD_S_SUCCESS,
 * SCARD_E_NO_SERVICE if nothing is mounted, SCARD_W_SECURITY_VIOLATION. */
LONG pc_available(const char *root);
/* pc_list returns all readers at root, ordered by their directories' numbers; *list is
 * malloc'ed. Without any it returns SCARD_E_NO_READERS_AVAILABLE, or what pc_available
 * says. */
LONG pc_list(const char *root, struct pc_reader **list, size_t *n);
/* pc_count counts the slots at root, and reads none. */
LONG pc_count(const char *root, size_t *n);
/* pc_find returns the directory's number of a reader, or -1. With anew, what was seen
 * before does not count. */
int pc_find(const char *root, const char *name, bool anew);
/* pc_likely opens the directory of the reader that was last connected to, if that is still
 * there; else it returns -1. */
int pc_likely(const char *root, unsigned *number);
/* pc_used notes the reader for pc_likely. */
void pc_used(const char *root, unsigned number);
/* pc_parse takes the text of a status file apart. */
bool pc_parse(const char *text, struct pc_reader *r);
/* pc_dir opens a slot's directory. Its files say ENODEV once the reader left. */
int pc_dir(const char *root, unsigned number);

/* ---- contexts and handles --------------------------------------------------- */

struct pc_watch; /* change.c */

struct pc_context {
	/* Guarded by pc_lock. */
	SCARDCONTEXT handle;
	struct pc_context *next;
	unsigned refs;
	bool released;
	int dir; /* that of slot number, which the next connection may want; -1: none */
	unsigned number;

	char root[PATH_MAX / 2]; /* fixed */
	int cancel;              /* an eventfd; fixed */
	atomic_bool waiting;     /* in SCardGetStatusChange: SCardCancel has an effect */

	pthread_mutex_t changing;
	struct pc_watch *watch; /* guarded by changing */
};

struct pc_card {
	/* Guarded by pc_lock. */
	SCARDHANDLE handle;
	struct pc_card *next;
	unsigned refs;
	struct pc_context *context; /* has a reference to it */

	char name[MAX_READERNAME]; /* fixed */

	pthread_mutex_t io; /* guards the rest */
	int dir;            /* the slot's directory */
	int control;        /* the connection; -1: ended */
	int apdu;           /* -1: none, for want of a card, or not needed yet */
	bool binary;        /* apdu carries bytes, for what does not fit an ioctl */
	int lock;           /* what the transaction's flock is on: apdu, or an open of its own */
	unsigned nested;    /* SCardBeginTransaction without SCardEndTransaction */
	DWORD share;
	DWORD protocol;
	struct cardfs_connection seen; /* at the last connect or reconnect */
	LONG event; /* SCARD_W_RESET_CARD, SCARD_W_REMOVED_CARD, until SCardReconnect */
};

extern pthread_mutex_t pc_lock;

/* pc_context_new makes a context, which then owns dir; NULL: no memory, no descriptors. */
struct pc_context *pc_context_new(int dir, unsigned number);
/* pc_context_get finds a context and takes a reference; NULL: there is none. */
struct pc_context *pc_context_get(SCARDCONTEXT handle);
void pc_context_put(struct pc_context *x);
/* pc_context_dir takes over the directory of slot number, or returns -1. */
int pc_context_dir(struct pc_context *x, unsigned number);
/* pc_context_release ends a context and its cards. */
void pc_context_release(struct pc_context *x);

/* pc_card_add gives a card a handle. It returns false if the context was released. */
bool pc_card_add(struct pc_context *x, struct pc_card *c);
struct pc_card *pc_card_get(SCARDHANDLE handle);
void pc_card_put(struct pc_card *c);
/* pc_card_remove takes a card's handle away. Whoever has a reference may go on. */
void pc_card_remove(struct pc_card *c);

/* ---- connections (card.c) --------------------------------------------------- */

/* pc_connect makes a card without a handle. */
LONG pc_connect(struct pc_context *x, const char *name, DWORD share, DWORD protocols,
		struct pc_card **card);
/* pc_end closes a card's files; the mount ends the connection and the transaction. */
void pc_end(struct pc_card *c);

/* All of these are called with c->io held. */

/* pc_look asks the mount for the state of the slot, and notices what happened to the card
 * (c->event). pc_check returns that as an error. */
LONG pc_look(struct pc_card *c, struct cardfs_connection *now);
LONG pc_check(struct pc_card *c, struct cardfs_connection *now);
/* pc_wait_unlocked waits until the mount says that no program has the transaction. It returns
 * false if the mount does not answer. Another program may have it again by then. */
bool pc_wait_unlocked(struct pc_card *c);
/* pc_happened sets c->event. */
void pc_happened(struct pc_card *c, LONG event);
/* pc_open_apdu opens a session with the card, which powers it if need be. EAGAIN and EBUSY
 * are over soon: the reader starts, another program resets the card. */
int pc_open_apdu(struct pc_card *c);
/* pc_power writes a word to the file power. It waits for another program's transaction. */
int pc_power(struct pc_card *c, const char *word);

LONG pc_reconnect(struct pc_card *c, DWORD share, DWORD protocols, DWORD initialization);
LONG pc_disconnect(struct pc_card *c, DWORD disposition);

/* Transactions (lock.c). */
LONG pc_begin(struct pc_card *c);
LONG pc_finish(struct pc_card *c, DWORD disposition);
/* pc_wait_lock waits for another program's transaction to end, and does not hold it then.
 * It returns false if the mount does not let it wait. */
bool pc_wait_lock(struct pc_card *c);
/* pc_unlock ends the transaction, however often it was begun. */
void pc_unlock(struct pc_card *c);
/* pc_relock takes it again, on another session. */
LONG pc_relock(struct pc_card *c, unsigned nested);

/* pc_session opens a session for a direct connection, which has none yet. */
LONG pc_session(struct pc_card *c);
/* Commands (command.c). pc_transmit and pc_control set *nrx to the length of the answer,
 * also where that is more than there is room. */
LONG pc_transmit(struct pc_card *c, DWORD protocol, const uint8_t *tx, size_t ntx, uint8_t *rx,
		 size_t *nrx);
LONG pc_control(struct pc_card *c, uint32_t code, const uint8_t *tx, size_t ntx, uint8_t *rx,
		size_t *nrx);
/* pc_status asks the mount for the state of the slot. While another program has the
 * transaction, it waits. */
LONG pc_status(struct pc_card *c, struct cardfs_connection *now);
/* pc_attribute copies an attribute's value, which has room for CF_TEXT_MAX bytes. */
LONG pc_attribute(struct pc_card *c, DWORD id, uint8_t *value, size_t *n);
/* pc_settable returns the error of setting an attribute. */
LONG pc_settable(struct pc_card *c, DWORD id);

/* ---- buffers (winscard.c) ----------------------------------------------------- */

/* pc_hand_out copies n bytes into a program's buffer of *length bytes, or into one that it
 * allocates (SCARD_AUTOALLOCATE). Without a buffer, it says how much room is needed. */
LONG pc_hand_out(const void *from, size_t n, void *buffer, DWORD *length);
/* pc_hand_out_cut does so for a buffer of room bytes, and fills one that is too short. */
LONG pc_hand_out_cut(const void *from, size_t n, void *buffer, DWORD *length, DWORD room);

/* ---- the rest ----------------------------------------------------------------- */

LONG pc_status_change(struct pc_context *x, DWORD timeout, SCARD_READERSTATE *states, DWORD n);
void pc_cancel(struct pc_context *x);
void pc_watch_free(struct pc_context *x);

/* pc_error maps a negative errno of a file of a slot to a code of PC/SC; other is for what
 * has none. */
LONG pc_error(ssize_t error, LONG other);

/* pc_debug writes a line to stderr if PCSCLITE_DEBUG asks for it. Nothing that went to a
 * card or came from it is ever written, its length at most. */
void pc_debug(const char *function, LONG result, const char *format, ...)
	__attribute__((format(printf, 3, 4)));

#endif
