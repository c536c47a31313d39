/* SPDX-License-Identifier: BSD-3-Clause
 *
 * card.h - power, protocol and commands of the card in a slot
 *
 * A power-up opens the slot's apdu file: that open is pcscd's session with the card.
 * Functions return 0, a count or a negative errno. Each takes the slot's io lock, but
 * for cf_control.
 */
#ifndef CARDFS_CARD_H
#define CARDFS_CARD_H

#include <stdint.h>
#include <sys/types.h>

#include "slots.h"

/* cf_power_up begins a session with the card; it powers a card that is off. With reset
 * it resets the card first. atr has room for CF_ATR_MAX bytes; the count is the length
 * of the ATR. */
ssize_t cf_power_up(struct cf_slot *s, bool reset, uint8_t *atr);

/* cf_power_down ends the session and powers the card off, unless other programs have
 * sessions with it or the transaction: then their sessions go on, and the next one of
 * pcscd begins with a reset. It does not wait for them. */
int cf_power_down(struct cf_slot *s);

/* cf_protocol makes T=t the active protocol; -ENOTSUP if card or reader lack it. */
int cf_protocol(struct cf_slot *s, int t);

/* cf_transmit sends a C-APDU and returns the length of the R-APDU. -ESTALE: not sent,
 * because another program reset the card; pcscd will see it removed and inserted. */
ssize_t cf_transmit(struct cf_slot *s, const uint8_t *tx, size_t ntx, uint8_t *rx, size_t nrx);

/* cf_control sends a control code and its data to the reader. */
ssize_t cf_control(struct cf_slot *s, uint32_t code, const uint8_t *tx, size_t ntx,
		   uint8_t *rx, size_t nrx);

/* cf_atr copies the ATR of the last power-up; atr has room for CF_ATR_MAX bytes. */
ssize_t cf_atr(struct cf_slot *s, uint8_t *atr);

/* cf_end_session ends the session, as pcscd closes the slot. */
void cf_end_session(struct cf_slot *s);

#endif
