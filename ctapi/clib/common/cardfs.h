/* SPDX-License-Identifier: BSD-3-Clause
 *
 * cardfs.h - the ioctls of a mounted cardfs, version 1
 *
 * They work on the exchange files of a slot: apdu, control, ctbcs. Each needs a
 * descriptor that is open for reading and writing, else it fails with EBADF. Any
 * other file or request fails with ENOTTY.
 */
#ifndef CARDFS_H
#define CARDFS_H

#include <stdint.h>
#include <sys/ioctl.h>

#define CARDFS_VERSION 1
#define CARDFS_IOC_MAGIC 0xCF

/* Linux has 14 bits in a request for the size of the buffer. */
#define CARDFS_EXCHANGE_MAX 16383

struct cardfs_exchange {
	uint32_t length;  /* in: bytes of the command; out: bytes of the answer */
	uint8_t data[];   /* in: the command; out: the answer */
};

/*
 * One exchange in one call. size is the size of the whole buffer, header included:
 * at least 4 + length bytes, at most CARDFS_EXCHANGE_MAX.
 *
 *   ioctl(fd, CARDFS_EXCHANGE(sizeof buf), buf)
 *
 * Returns the length of the answer. If the answer is longer than size - 4, length is
 * set, data holds nothing of it, and read(2) on this descriptor returns all of it: the
 * command was carried out and must not be sent again. The bytes of data after the
 * answer are unchanged or 0: clear them if they held a PIN.
 *
 * Fails with EINTR only if the command was not sent. Once it was sent, the call
 * returns when the card has answered, whatever signals arrive.
 */
#define CARDFS_EXCHANGE(size) \
	_IOC(_IOC_READ | _IOC_WRITE, CARDFS_IOC_MAGIC, 1, (size))

/*
 * From now on read(2) and write(2) on this open file carry raw bytes: one write is one
 * command, one read is one answer. An answer that is longer than the buffer continues
 * with the next read. When all of it was read, the next read returns 0.
 */
#define CARDFS_BINARY _IO(CARDFS_IOC_MAGIC, 2)

/*
 * From now on this open file, which must be ctbcs, carries what CT_data of CT-API takes
 * and returns: dad, sad and the command; dad, sad and the answer. They travel by read
 * and write as after CARDFS_BINARY, or by CARDFS_EXCHANGE. dad may address a card: the
 * terminal keeps this program's state of each card. dad and sad without a command are
 * CT_close: the cards that this program activated are powered off, unless another
 * program uses them. Fails with ENOTTY on other files.
 */
#define CARDFS_CTAPI _IO(CARDFS_IOC_MAGIC, 3)

/* How a PC/SC client shares a slot, with the numbers of winscard.h. */
enum {
	CARDFS_SHARE_NONE,       /* no connection */
	CARDFS_SHARE_EXCLUSIVE,
	CARDFS_SHARE_SHARED,
	CARDFS_SHARE_DIRECT
};

struct cardfs_connection {
	uint32_t share;    /* in: CARDFS_SHARE_...; out: the same */
	uint32_t card;     /* out: 0 none, 1 present, 2 powered */
	uint32_t active;   /* out: protocol in force: 1 T=0, 2 T=1, 4 raw, 0 none; a memory card: 1 */
	uint32_t offered;  /* out: the protocols that card and reader both have, the same bits */
	uint32_t changes;  /* out: cards put in or taken out since the reader arrived */
	uint32_t epoch;    /* out: another number after each reset, loss of power, exchange of the card */
	uint32_t connections; /* out: how many there are, this one included */
	uint32_t locked;   /* out: 1 while an open, whoever made it, holds flock(2) on apdu */
	uint32_t natr;     /* out: bytes of atr, 0 unless powered */
	uint8_t atr[36];   /* out: the ATR; a memory card's: 3B 04 and its four bytes */
	char reader[128];  /* out: the reader's name for PC/SC, NUL-terminated */
};

/*
 * A PC/SC client's connection to a slot: on control alone, which needs no card. Says how
 * the client shares the slot from now on, and returns what is in the slot. With the mode
 * that is in force it only asks. The connection lasts until CARDFS_SHARE_NONE or the end
 * of the open.
 *
 * While one has CARDFS_SHARE_EXCLUSIVE only its process and its descendants use the slot:
 * others' commands, resets, protocol, control and memory fail with EBUSY at once, and
 * their flock(2) waits. CARDFS_SHARE_SHARED and CARDFS_SHARE_DIRECT are the same to others.
 *
 * Fails with EBUSY, and what was before stays, for CARDFS_SHARE_EXCLUSIVE while another
 * connection exists or another process holds flock(2) on apdu, and for every mode while
 * another connection is exclusive. It never waits for a card or a command; a refusal
 * comes a little late, since close(2) returns before a connection has ended, and is
 * EINTR where a signal came first. EOPNOTSUPP: CARDFS_SHARE_EXCLUSIVE of a process that
 * cardfs cannot know (another pid namespace). EINVAL: another mode. ENOTTY: other files.
 */
#define CARDFS_CONNECT _IOWR(CARDFS_IOC_MAGIC, 4, struct cardfs_connection)

/*
 * A PC/SC client's transaction: flock(2) on this open of apdu, LOCK_EX | LOCK_NB and LOCK_UN,
 * if the card is still what it was when CARDFS_CONNECT returned epoch.
 *
 *   ioctl(fd, CARDFS_BEGIN, epoch)
 *   ioctl(fd, CARDFS_END, epoch)
 *
 * Both fail with ESTALE if it is not, and CARDFS_BEGIN with EBUSY, at once, while another holds
 * the lock or has an exclusive connection: nothing has changed then. ENOTTY on other files.
 */
#define CARDFS_BEGIN _IO(CARDFS_IOC_MAGIC, 5)
#define CARDFS_END _IO(CARDFS_IOC_MAGIC, 6)

#endif
