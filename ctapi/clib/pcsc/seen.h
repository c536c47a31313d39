/* SPDX-License-Identifier: BSD-3-Clause
 *
 * seen.h - readers as SCardGetStatusChange has seen them
 */
#ifndef CARDFS_SEEN_H
#define CARDFS_SEEN_H

#include "pcsc.h"

/* A reader whose status was read. */
struct seen {
	struct seen *next;
	char name[MAX_READERNAME];
	int dir, status;        /* -1: the reader is not there */
	struct pc_reader now;   /* if status is open */
	bool fresh;             /* now was just read: what changes after that, poll tells */
	bool mute;              /* the card of mute_changes did not get power */
	uint16_t mute_changes;
	unsigned natr;          /* the last ATR, of the card of atr_changes */
	uint8_t atr[MAX_ATR_SIZE];
	uint16_t atr_changes;
};

/* pc_see opens a reader's status, if it is not open. */
bool pc_see(struct pc_context *x, struct seen *s);

/* pc_away closes its files. */
void pc_away(struct seen *s);

/* pc_expect_card is called when an empty reader has changed: mostly a card came. It is powered
 * before status is read, so that one read says both. */
void pc_expect_card(struct seen *s);

/* pc_refresh looks at a reader, unless it was just read. It returns false if it is not there. */
bool pc_refresh(struct pc_context *x, struct seen *s);

/* pc_differs sets the state of a reader by what was seen of it, and reports whether the
 * program has to be told. Which differences count is pcsc-lite's choice: a card that came
 * into use is not one, but one that is no longer in use is. */
bool pc_differs(const struct seen *s, SCARD_READERSTATE *r);

/* pc_unknown is pc_differs for a reader that is not there. */
bool pc_unknown(SCARD_READERSTATE *r);

#endif
