/* SPDX-License-Identifier: BSD-3-Clause
 *
 * file.h - reading, writing and exchanging on one file of a mounted cardfs
 *
 * A file is named as for openat(2): a directory and a path below it. Functions
 * return 0, a count or a negative errno. A call that a signal interrupted is made
 * again, until CF_ANSWER_MS have passed: no function loops for ever, whatever is
 * mounted there.
 *
 * Nothing here keeps state or takes a lock. Several threads may call these functions,
 * each on a descriptor of its own.
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
/* The longest status, atr or protocol file. */
#define CF_TEXT_MAX 4096

/* How long to wait for what should be over soon: a reader that is starting, another
 * program's transaction. */
#ifndef CF_SOON_MS
#define CF_SOON_MS 5000
#endif

/* How long an interrupted call is made again. The daemon ends every exchange by
 * itself: by the protocol's waiting times, and by --exchange-limit if the card keeps
 * asking for more time. This is for a mount that does not. */
#ifndef CF_ANSWER_MS
#define CF_ANSWER_MS 86400000
#endif

/* The answer did not fit into the caller's buffer; the command was carried out. */
#define CF_TOO_LONG (-EMSGSIZE)
/* The file returned what it may not return, or an answer did not come in time. The
 * next read might return an old answer, so the channel was closed. */
#define CF_BROKEN (-EBADMSG)

/* cf_open is openat(2), with O_CLOEXEC. Without O_NONBLOCK in flags it waits for a
 * reader that is starting. */
int cf_open(int at, const char *path, int flags);
void cf_close(int *fd);

/* cf_read reads a text file, at most size - 1 bytes, and terminates it with NUL. */
ssize_t cf_read(int at, const char *path, char *text, size_t size);

/* cf_write writes one word to power or protocol; it returns when it took effect. */
int cf_write(int at, const char *path, const char *word);

/* cf_value copies the value of a "key value" line of a status text. It returns false
 * if there is no such line, or the value does not fit. */
bool cf_value(const char *text, const char *key, char *value, size_t size);

/* cf_hex parses bytes in hex, separated by white space or not. It returns how many
 * there are, or -EINVAL. */
ssize_t cf_hex(const char *text, uint8_t *bytes, size_t size);

/* cf_channel opens an exchange file for raw bytes; mode is CARDFS_BINARY or
 * CARDFS_CTAPI. flags is 0 or O_NONBLOCK, which applies to the open alone: later reads
 * wait. */
int cf_channel(int at, const char *path, int flags, unsigned long mode);

/*
 * One exchange on such a channel. A command is never sent twice, and no exchange
 * returns the answer of an earlier one: after CF_BROKEN *fd is closed and -1. The first
 * head bytes of a command and of its answer are addresses: 2 after CARDFS_CTAPI, else
 * 0. tx and rx may be the same buffer.
 *
 * cf_exchange uses CARDFS_EXCHANGE if the command fits: the fastest way, but not even
 * SIGKILL ends it before the card has answered. cf_write_read uses write(2) and read(2),
 * for what may take as long as a person does.
 */
ssize_t cf_exchange(int *fd, const uint8_t *tx, size_t ntx, uint8_t *rx, size_t nrx, unsigned head);
ssize_t cf_write_read(int *fd, const uint8_t *tx, size_t ntx, uint8_t *rx, size_t nrx, unsigned head);

/* cf_exchange_wait is cf_exchange, but waits up to CF_SOON_MS for another program's
 * transaction to end. The mount refuses with EBUSY meanwhile, and sends nothing. */
ssize_t cf_exchange_wait(int *fd, const uint8_t *tx, size_t ntx, uint8_t *rx, size_t nrx, unsigned head);

/* Pauses between attempts: each is longer than the one before, up to a deadline. */
struct cf_wait {
	int64_t until; /* the deadline, as cf_now has it */
	int ms;        /* the next pause */
};

/* cf_now is the monotonic clock in milliseconds. */
int64_t cf_now(void);
/* cf_wait_for begins a wait of at most ms milliseconds. */
struct cf_wait cf_wait_for(int64_t ms);
/* cf_pause sleeps until it is time for the next attempt. It returns false if the
 * deadline has passed. */
bool cf_pause(struct cf_wait *w);

#endif
