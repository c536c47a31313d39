/* SPDX-License-Identifier: BSD-3-Clause
 *
 * seen.c - what a program is told of a reader: its status, and what in it is a change
 *
 * A program may learn of a card before anybody used it. It expects the ATR then, as pcscd
 * powers every card: so a card without power is powered here.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "file.h"
#include "seen.h"

void pc_away(struct seen *s)
{
	cf_close(&s->status);
	cf_close(&s->dir);
}

/* read_status reads status anew. A short read is its end. */
static bool read_status(struct seen *s)
{
	char text[CF_TEXT_MAX + 1];
	struct cf_wait w = cf_wait_for(CF_ANSWER_MS);
	ssize_t n;

	s->fresh = false;
	if (s->status < 0)
		return false;
	do
		n = pread(s->status, text, sizeof text - 1, 0);
	while (n < 0 && errno == EINTR && cf_now() < w.until);
	if (n > 0) {
		text[n] = '\0';
		s->fresh = pc_parse(text, &s->now) && strcmp(s->now.name, s->name) == 0;
		if (s->fresh)
			return true;
	}
	pc_away(s);
	return false;
}

bool pc_see(struct pc_context *x, struct seen *s)
{
	if (read_status(s))
		return true;
	for (int anew = 0; anew <= 1; anew++) {
		int number = pc_find(x->root, s->name, anew);

		if (number < 0)
			continue;
		s->dir = pc_dir(x->root, (unsigned)number);
		if (s->dir >= 0)
			s->status = cf_open(s->dir, "status", O_RDONLY | O_NONBLOCK);
		if (read_status(s))
			return true;
		pc_away(s);
	}
	return false;
}

/* open_atr powers a card, if there is one. It returns a negative errno, or 0. */
static int open_atr(const struct seen *s)
{
	int fd = cf_open(s->dir, "atr", O_RDONLY | O_NONBLOCK);
	int error = fd < 0 ? fd : 0;

	cf_close(&fd);
	return error;
}

/* is_mute reports whether an error of open_atr is the card's. */
static bool is_mute(int error)
{
	switch (error) {
	case 0:
	case -EBUSY: /* another program has the card, and powers it */
	case -EAGAIN:
	case -ENOMEDIUM:
	case -ENODEV:
	case -ENOENT:
		return false;
	}
	return true;
}

/* power powers a card, to know its ATR. It does not wait for another program's
 * transaction: the ATR comes with the next change then. */
static void power(struct seen *s)
{
	if (s->now.state != PC_PRESENT)
		return;
	if (s->natr > 0 && s->atr_changes == s->now.changes) {
		/* The card is off, but it is the same one. */
		s->now.natr = s->natr;
		memcpy(s->now.atr, s->atr, s->natr);
		return;
	}
	if (s->mute && s->mute_changes == s->now.changes)
		return;
	s->mute = is_mute(open_atr(s));
	s->mute_changes = s->now.changes;
	read_status(s);
}

void pc_expect_card(struct seen *s)
{
	if (s->now.state != PC_EMPTY)
		return;
	s->mute = is_mute(open_atr(s));
	s->mute_changes = (uint16_t)(s->now.changes + 1);
}

bool pc_refresh(struct pc_context *x, struct seen *s)
{
	if (!s->fresh && !pc_see(x, s))
		return false;
	power(s);
	s->fresh = false;
	if (s->status < 0)
		return false;
	if (s->now.state == PC_POWERED) {
		s->mute = false;
		s->natr = s->now.natr;
		memcpy(s->atr, s->now.atr, s->natr);
		s->atr_changes = s->now.changes;
	}
	return true;
}

/* ---- states ------------------------------------------------------------------------ */

bool pc_differs(const struct seen *s, SCARD_READERSTATE *r)
{
	const struct pc_reader *now = &s->now;
	bool present = now->state == PC_PRESENT || now->state == PC_POWERED;
	bool mute = s->mute && s->mute_changes == now->changes && now->state == PC_PRESENT;
	DWORD had = r->dwCurrentState, state = 0;
	bool changed = had == SCARD_STATE_UNAWARE;

	if (had & SCARD_STATE_UNKNOWN) /* it came back */
		changed = true;
	if (had >> 16 != 0 && had >> 16 != now->changes)
		changed = true;
	if (now->state == PC_FAILED || now->state == PC_STARTING) {
		state = SCARD_STATE_UNAVAILABLE;
		changed |= !(had & SCARD_STATE_UNAVAILABLE);
	} else {
		changed |= (had & SCARD_STATE_UNAVAILABLE) != 0;
	}
	r->cbAtr = 0;
	if (present) {
		state |= SCARD_STATE_PRESENT;
		changed |= (had & SCARD_STATE_EMPTY) != 0;
		if (mute)
			state |= SCARD_STATE_MUTE;
		changed |= mute != ((had & SCARD_STATE_MUTE) != 0);
		r->cbAtr = now->natr;
		memcpy(r->rgbAtr, now->atr, now->natr);
	} else if (now->state == PC_EMPTY) {
		state |= SCARD_STATE_EMPTY;
		changed |= (had & SCARD_STATE_PRESENT) != 0;
	}
	if (now->exclusive) {
		state |= SCARD_STATE_EXCLUSIVE;
		changed |= (had & SCARD_STATE_INUSE) != 0;
	} else if (now->connections > 0) {
		if (present) {
			state |= SCARD_STATE_INUSE;
			changed |= (had & SCARD_STATE_EXCLUSIVE) != 0;
		}
	} else {
		changed |= (had & (SCARD_STATE_INUSE | SCARD_STATE_EXCLUSIVE)) != 0;
	}
	r->dwEventState = state | (DWORD)now->changes << 16 | (changed ? SCARD_STATE_CHANGED : 0);
	return changed;
}

bool pc_unknown(SCARD_READERSTATE *r)
{
	bool changed = !(r->dwCurrentState & SCARD_STATE_UNKNOWN);

	r->dwEventState = SCARD_STATE_UNKNOWN | SCARD_STATE_UNAVAILABLE |
			  (changed ? SCARD_STATE_CHANGED : 0);
	return changed;
}
