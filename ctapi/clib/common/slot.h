/* SPDX-License-Identifier: BSD-3-Clause
 *
 * slot.h - what PC/SC asks of a slot, whether through pcscd or without it
 */
#ifndef CARDFS_SLOT_H
#define CARDFS_SLOT_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define CF_ATR_MAX 33 /* TS and 32 characters: ISO/IEC 7816-3:2006 8.1 */

/* The length of a memory card's ATR: H1 to H4 (ISO/IEC 7816-10). */
#define CF_MEMORY_ATR 4

/* cf_memory_atr makes a memory card's four bytes, which have no TS, an ATR that PC/SC takes: 3B 04 H1 H2 H3 H4, a card with T=0, as with readers that
 * answer FF B0 by themselves. It returns the new length; other ATRs it leaves alone. */
size_t cf_memory_atr(uint8_t *atr, size_t n, size_t room);

/* Attributes that the status file answers (PC/SC part 3, 3.1.2). */
enum {
	CF_ATTR_VENDOR_NAME = 0x10100,
	CF_ATTR_VENDOR_IFD_VERSION = 0x10102,
	CF_ATTR_VENDOR_IFD_SERIAL_NO = 0x10103,
	CF_ATTR_CHANNEL_ID = 0x20110,
};

/* cf_attribute copies the value of an attribute, by the text of status; value has room for
 * CF_TEXT_MAX bytes. It returns the length, or -ENOENT if the reader has no such
 * attribute. Numbers are in the host's byte order. */
ssize_t cf_attribute(const char *status, unsigned long id, uint8_t *value);

/* cf_control_at sends a control code and its data to the reader, on a channel of its own, and
 * returns the length of the answer or a negative errno. flags is O_NONBLOCK, which refuses
 * with EBUSY while another program has the transaction, or 0. */
ssize_t cf_control_at(int at, const char *path, int flags, uint32_t code, const uint8_t *tx,
		      size_t ntx, uint8_t *rx, size_t nrx);

#endif
