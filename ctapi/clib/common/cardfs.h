/* SPDX-License-Identifier: BSD-3-Clause
 *
 * cardfs.h - the ioctls of a mounted cardfs, version 1
 *
 * They work on the exchange files of a slot: apdu, control, ctbcs. Both need a
 * descriptor that is open for reading and writing (else EBADF); on any other
 * file, and for any other request, ioctl(2) says ENOTTY.
 */
#ifndef CARDFS_H
#define CARDFS_H

#include <stdint.h>
#include <sys/ioctl.h>

#define CARDFS_VERSION 1
#define CARDFS_IOC_MAGIC 0xCF

/* Linux carries the size of the buffer in 14 bits of the request. */
#define CARDFS_EXCHANGE_MAX 16383

struct cardfs_exchange {
	uint32_t length;  /* in: bytes of the command; out: bytes of the answer */
	uint8_t data[];   /* in: the command; out: the answer */
};

/*
 * One exchange in one call. size is that of the whole buffer, header included:
 * at least 4 + length bytes, at most CARDFS_EXCHANGE_MAX.
 *
 *   ioctl(fd, CARDFS_EXCHANGE(sizeof buf), buf)
 *
 * Returns the length of the answer. If that is more than size - 4, length holds it
 * too, data holds none of it, and the whole answer waits for read(2) on this
 * descriptor: the command was done and is not to be sent again. Behind the answer
 * data is as it was, or 0: clear it if a PIN was in it.
 *
 * Fails with EINTR only while the command was not sent; once it was, the call
 * returns when the card answered, whatever signals come.
 */
#define CARDFS_EXCHANGE(size) \
	_IOC(_IOC_READ | _IOC_WRITE, CARDFS_IOC_MAGIC, 1, (size))

/*
 * From now on read(2) and write(2) on this open carry raw bytes: one write is
 * one command, one read is one answer. An answer that is longer than the
 * buffer goes on with the next read; a read of exactly its length ends it.
 */
#define CARDFS_BINARY _IO(CARDFS_IOC_MAGIC, 2)

/*
 * From now on this open of ctbcs carries what CT_data of CT-API takes and gives, by
 * read and write as after CARDFS_BINARY, or by CARDFS_EXCHANGE: dad, sad, then the
 * command; dad, sad, then the answer. dad may name a card, whose state for this
 * program the terminal keeps. dad and sad without a command end the conversation:
 * the cards that it activated lose their power, unless another program holds them.
 * Fails with ENOTTY on other files.
 */
#define CARDFS_CTAPI _IO(CARDFS_IOC_MAGIC, 3)

#endif
