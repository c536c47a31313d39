/* SPDX-License-Identifier: BSD-3-Clause
 *
 * presence.h - whether pcscd is told of a card
 */
#ifndef CARDFS_PRESENCE_H
#define CARDFS_PRESENCE_H

#include <stdbool.h>
#include <stdint.h>

#include "slots.h"

/* cf_presence reports whether pcscd should see a card now. */
bool cf_presence(struct cf_slot *s);

/* cf_poll returns when cf_presence may answer otherwise, after timeout ms, or when told
 * to stop, before the call or during it. */
void cf_poll(struct cf_slot *s, int timeout);
/* cf_stop ends a poll. */
void cf_stop(struct cf_slot *s);
/* cf_polling notes that pcscd is going to poll. */
void cf_polling(struct cf_slot *s);

/* cf_card returns the number of the card in the slot: each card has its own. */
uint64_t cf_card(struct cf_slot *s);
/* cf_card_changed notes that the card lost its state without pcscd's doing: pcscd will
 * see it removed and inserted. */
void cf_card_changed(struct cf_slot *s);
/* cf_card_gone notes that an exchange found that card gone: the slot becomes state,
 * CF_EMPTY or CF_AWAY, unless events have reported something newer. If no event
 * follows, cf_poll looks at the mount. */
void cf_card_gone(struct cf_slot *s, uint64_t card, enum cf_state state);

#endif
