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

#endif
