/* SPDX-License-Identifier: BSD-3-Clause
 *
 * file.h - one file of a mounted cardfs: what both libraries do with it
 *
 * A file is named as for openat(2): a directory and a path below it. Functions
 * return a count or 0, or a negative errno. No function loops for ever, whatever
 * lies below it: an interrupted call is repeated a limited number of times.
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

/* How long an answer is waited for on a channel that was opened with
 * O_NONBLOCK. The mount bounds every exchange by itself; this is for one that
 * does not. */
#ifndef CF_ANSWER_MS
#define CF_ANSWER_MS 600000
#endif

/* The answer did not fit into the caller's buffer; the command was done. */
#define CF_TOO_LONG (-EMSGSIZE)
/* The file broke its contract; the channel is out of step and to be closed. */
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

/* cf_channel opens an exchange file for raw bytes. flags is O_NONBLOCK or 0. */
int cf_channel(int at, const char *path, int flags);

/*
 * One exchange on such a channel; the command is never sent twice. cf_exchange
 * takes the ioctl where the command fits one: the fastest way, but deaf to
 * signals until the card answered. cf_converse writes and reads: for what may
 * take as long as a person does.
 */
ssize_t cf_exchange(int fd, const uint8_t *tx, size_t ntx, uint8_t *rx, size_t nrx);
ssize_t cf_converse(int fd, const uint8_t *tx, size_t ntx, uint8_t *rx, size_t nrx);

/* cf_patient is cf_exchange that waits a while for the end of another's
 * transaction, where the mount says EBUSY: nothing was sent. */
ssize_t cf_patient(int fd, const uint8_t *tx, size_t ntx, uint8_t *rx, size_t nrx);

/* A wait that grows from call to call, up to a deadline. */
struct cf_wait {
	int64_t until; /* cf_now() at its end */
	int ms;        /* the next pause */
};

int64_t cf_now(void); /* milliseconds of the monotonic clock */
struct cf_wait cf_wait_for(int64_t ms);
bool cf_pause(struct cf_wait *w); /* false: the time is over */

#endif
