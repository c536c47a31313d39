/* SPDX-License-Identifier: BSD-3-Clause
 *
 * file.h - one file of a mounted cardfs: what both libraries do with it
 *
 * A file is named as for openat(2): a directory and a path below it. Functions
 * return a count or 0, or a negative errno. Signals are of no account: a call that
 * one interrupted is made again, however often. Only time ends it, so that no
 * function loops for ever, whatever lies below it.
 */
#ifndef CARDFS_FILE_H
#define CARDFS_FILE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/* The longest C-APDU: header, extended Lc, 65,535 bytes, extended Le. */
#define CF_COMMAND_MAX (4 + 3 + 65535 + 2)
/* The longest R-APDU: 65,536 bytes, SW1 SW2. */
#define CF_ANSWER_MAX (65536 + 2)
/* status, atr, protocol: the size that the mount shows for them. */
#define CF_TEXT_MAX 4096

/* How long something that is expected to end soon is waited for: a reader that
 * is starting, a transaction of somebody else. */
#ifndef CF_SOON_MS
#define CF_SOON_MS 5000
#endif

/* How long a call is made again. The daemon bounds every exchange by itself: by
 * the protocol's own times, and while the card asks for more by the hour or so of
 * --exchange-limit, for some tokens make keys for a quarter of one. This is only for
 * a mount that keeps to nothing. */
#ifndef CF_ANSWER_MS
#define CF_ANSWER_MS 86400000
#endif

/* The answer did not fit into the caller's buffer; the command was done. */
#define CF_TOO_LONG (-EMSGSIZE)
/* The file broke its contract, or an answer was given up. What the channel would
 * say next is not known: it was closed. */
#define CF_BROKEN (-EBADMSG)

/* cf_open opens without ever waiting, unless flags says otherwise. */
int cf_open(int at, const char *path, int flags);
void cf_close(int *fd);

/* cf_read reads a text file, at most size - 1 bytes, and ends it with NUL. */
ssize_t cf_read(int at, const char *path, char *text, size_t size);

/* cf_write writes one word to power or protocol; it returns when the card did it. */
int cf_write(int at, const char *path, const char *word);

/* cf_value copies the value of a "key value" line of a status text. */
bool cf_value(const char *text, const char *key, char *value, size_t size);

/* cf_hex reads blank-separated hex bytes; it returns how many, or -EINVAL. */
ssize_t cf_hex(const char *text, uint8_t *bytes, size_t size);

/* cf_channel opens an exchange file for raw bytes by one of the ioctls of cardfs.h.
 * flags is O_NONBLOCK or 0, and counts for the open alone: reads wait. */
int cf_channel(int at, const char *path, int flags, unsigned long mode);

/*
 * One exchange on such a channel; the command is never sent twice, and no exchange
 * gets the answer of an earlier one: with CF_BROKEN *fd was closed and is -1.
 * cf_exchange takes the ioctl where the command fits one: the fastest way, but deaf
 * to signals until the card answered. cf_converse writes and reads: for what may
 * take as long as a person does. The first head bytes of a command and of its answer
 * are addresses: 2 after CARDFS_CTAPI, else 0.
 */
ssize_t cf_exchange(int *fd, const uint8_t *tx, size_t ntx, uint8_t *rx, size_t nrx, unsigned head);
ssize_t cf_converse(int *fd, const uint8_t *tx, size_t ntx, uint8_t *rx, size_t nrx, unsigned head);

/* cf_patient is cf_exchange that waits a while for the end of another's
 * transaction, where the mount says EBUSY: nothing was sent. */
ssize_t cf_patient(int *fd, const uint8_t *tx, size_t ntx, uint8_t *rx, size_t nrx, unsigned head);

/* A wait that grows from call to call, up to a deadline. */
struct cf_wait {
	int64_t until; /* cf_now() at its end */
	int ms;        /* the next pause */
};

int64_t cf_now(void); /* milliseconds of the monotonic clock */
struct cf_wait cf_wait_for(int64_t ms);
bool cf_pause(struct cf_wait *w); /* false: the time is over */

#endif
