/* SPDX-License-Identifier: BSD-3-Clause
 *
 * card.h - power, protocol and commands of the card in a slot
 *
 * Each takes the slot's io lock and returns 0, a count or a negative errno.
 */
#ifndef CARDFS_CARD_H
#define CARDFS_CARD_H

#include <stdint.h>
#include <sys/types.h>

#include "slots.h"

/* cf_power_up begins a session with the card, powering it where it is off;
 * with reset, after a reset. atr has CF_ATR_MAX bytes; the count is its length. */
ssize_t cf_power_up(struct cf_slot *s, bool reset, uint8_t *atr);

/* cf_power_down ends the session and takes the power off the card, unless other
 * programs have sessions with it or the transaction: theirs go on, and ours begins
 * with a reset. It waits for none of them. */
int cf_power_down(struct cf_slot *s);

/* cf_protocol makes T=t the active protocol. -ENOTSUP: card or reader cannot. */
int cf_protocol(struct cf_slot *s, int t);

/* cf_transmit sends a C-APDU. -ESTALE: not sent, as the card was reset by
 * somebody else; pcscd is going to see it leave and come. */
ssize_t cf_transmit(struct cf_slot *s, const uint8_t *tx, size_t ntx, uint8_t *rx, size_t nrx);

/* cf_control sends a command to the reader: code, then the data. */
ssize_t cf_control(struct cf_slot *s, uint32_t code, const uint8_t *tx, size_t ntx,
		   uint8_t *rx, size_t nrx);

/* cf_atr copies the ATR of the last power-up. */
ssize_t cf_atr(struct cf_slot *s, uint8_t *atr);

/* cf_leave ends the session at the end of the channel. */
void cf_leave(struct cf_slot *s);

#endif
