/* SPDX-License-Identifier: BSD-3-Clause
 *
 * card.c - what pcscd does to a card, by the files power, apdu, atr, protocol and control
 *
 * The files of a slot refuse with EAGAIN while its reader starts, and with EBUSY while
 * another program has the transaction. Both are over soon, as a rule, and nothing was
 * done: the call is made again for CF_SOON_MS. A power-down does not wait.
 */
#define _GNU_SOURCE
#include "card.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>

#include "cardfs.h"
#include "file.h"
#include "presence.h"
#include "slot.h"

/* After close(2) the daemon may count our own session for a moment: close does not wait
 * for it to hear of that. */
enum { CLOSING_MS = 20 };

/* is_temporary reports whether the same call may succeed soon. */
static bool is_temporary(int result)
{
	return result == -EAGAIN || result == -EBUSY;
}

static int write_power(struct cf_slot *s, const char *word, int wait_ms)
{
	struct cf_wait w = cf_wait_for(wait_ms);
	char path[PATH_MAX];
	int result;

	do {
		if (!cf_path(s, "power", path, sizeof path))
			return -ENODEV;
		result = cf_write(AT_FDCWD, path, word);
	} while (is_temporary(result) && cf_pause(&w));
	return result;
}

/* begin starts a session. open(2) may not wait: a wait there has no limit. */
static int begin(struct cf_slot *s)
{
	struct cf_wait w = cf_wait_for(CF_SOON_MS);
	char path[PATH_MAX];
	uint64_t card;
	int fd;

	cf_close(&s->apdu);
	do {
		card = cf_card(s);
		if (!cf_path(s, "apdu", path, sizeof path))
			return -ENODEV;
		fd = cf_channel(AT_FDCWD, path, O_NONBLOCK, CARDFS_BINARY);
	} while (is_temporary(fd) && cf_pause(&w));
	if (fd < 0)
		return fd;
	s->apdu = fd;
	s->session = card;
	return 0;
}

/* MEMORY is the word of the protocol file for a memory card, which has no protocol. */
#define MEMORY "memory"

static bool is_memory(struct cf_slot *s)
{
	char path[PATH_MAX], text[CF_TEXT_MAX + 1];

	return cf_path(s, "protocol", path, sizeof path) &&
	       cf_read(AT_FDCWD, path, text, sizeof text) >= 0 &&
	       strncmp(text, MEMORY, strlen(MEMORY)) == 0;
}

static int read_atr(struct cf_slot *s)
{
	char path[PATH_MAX], text[CF_TEXT_MAX + 1];
	ssize_t n;

	s->natr = 0;
	if (!cf_path(s, "atr", path, sizeof path))
		return -ENODEV;
	n = cf_read(AT_FDCWD, path, text, sizeof text);
	if (n < 0)
		return (int)n;
	n = cf_hex(text, s->atr, sizeof s->atr);
	if (n < 0)
		return CF_BROKEN;
	s->natr = (unsigned)n;
	if (n == CF_MEMORY_ATR && is_memory(s))
		s->natr = (unsigned)cf_memory_atr(s->atr, s->natr, sizeof s->atr);
	return 0;
}

ssize_t cf_power_up(struct cf_slot *s, bool reset, uint8_t *atr)
{
	ssize_t result = 0;

	pthread_mutex_lock(&s->io);
	cf_close(&s->apdu);
	if (s->reset_due)
		result = write_power(s, "cold", CF_SOON_MS);
	else if (reset)
		result = write_power(s, "reset", CF_SOON_MS);
	if (result == 0) {
		s->reset_due = false;
		/* Before the ATR: if the card changes meanwhile, the session ends. */
		result = begin(s);
	}
	if (result == 0)
		result = read_atr(s);
	if (result == 0) {
		result = s->natr;
		memcpy(atr, s->atr, s->natr);
	} else {
		cf_close(&s->apdu);
		s->natr = 0;
	}
	pthread_mutex_unlock(&s->io);
	return result;
}

int cf_power_down(struct cf_slot *s)
{
	int result;

	pthread_mutex_lock(&s->io);
	cf_close(&s->apdu);
	s->natr = 0;
	/* pcscd powers off each card that it does not use, 5 seconds after it was
	 * inserted, in the thread that also looks for cards. "release" powers a card
	 * off only if no other program uses it. */
	result = write_power(s, "release", CLOSING_MS);
	s->reset_due = result == -EBUSY;
	if (result == -EBUSY || result == -ENODEV || result == -ENOENT || result == -ENOTCONN ||
	    result == -ENOMEDIUM || result == -EAGAIN)
		result = 0; /* others use it, or there is no card */
	pthread_mutex_unlock(&s->io);
	return result;
}

/* offers looks for T=t in the text of the protocol file. 0: not there; 1: active, as it
 * comes first, or T=0 of a memory card; 2: offered. */
static int offers(const char *text, int t)
{
	int rank = 1;
	char word[16], wanted[16];
	int used;

	snprintf(wanted, sizeof wanted, "T=%d", t);
	for (; sscanf(text, " %15s%n", word, &used) == 1; text += used, rank = 2)
		if (strcmp(word, wanted) == 0 || (t == 0 && strcmp(word, MEMORY) == 0))
			return rank;
	return 0;
}

int cf_protocol(struct cf_slot *s, int t)
{
	char path[PATH_MAX], text[CF_TEXT_MAX + 1];
	struct cf_wait w = cf_wait_for(CF_SOON_MS);
	int result = -ENODEV;

	pthread_mutex_lock(&s->io);
	if (s->apdu >= 0 && cf_path(s, "protocol", path, sizeof path)) {
		ssize_t n = cf_read(AT_FDCWD, path, text, sizeof text);
		int rank = n < 0 ? 0 : offers(text, t);

		if (n == -ENOENT || (n >= 0 && rank == 0))
			result = -ENOTSUP;
		else if (n < 0)
			result = (int)n;
		else if (rank == 1)
			result = 0;
		else {
			snprintf(text, sizeof text, "T=%d", t);
			do
				result = cf_write(AT_FDCWD, path, text);
			while (is_temporary(result) && cf_pause(&w));
			/* The mount reset the card for the PPS (ISO/IEC 7816-3:2006
			 * 6.3.1), which ended our session. */
			if (result == 0)
				result = begin(s);
		}
	}
	pthread_mutex_unlock(&s->io);
	return result;
}

ssize_t cf_transmit(struct cf_slot *s, const uint8_t *tx, size_t ntx, uint8_t *rx, size_t nrx)
{
	ssize_t n;

	pthread_mutex_lock(&s->io);
	if (s->apdu < 0) {
		n = cf_state_of(s) == CF_CARD ? -ESTALE : -ENOMEDIUM;
	} else {
		n = cf_exchange_wait(&s->apdu, tx, ntx, rx, nrx, 0);
		if (n == 0 || n == 1) /* no SW1 SW2 */
			n = CF_BROKEN;
		switch (n) {
		case -ESTALE:
		case CF_BROKEN:
			cf_card_changed(s);
			cf_close(&s->apdu);
			break;
		/* There will be an event, too, but the client may connect anew before
		 * it comes. */
		case -ENOMEDIUM:
			cf_card_gone(s, s->session, CF_EMPTY);
			cf_close(&s->apdu);
			break;
		case -ENODEV:
		case -ENOTCONN:
		case -ECONNABORTED:
			cf_card_gone(s, s->session, CF_AWAY);
			cf_close(&s->apdu);
			break;
		}
	}
	pthread_mutex_unlock(&s->io);
	return n;
}

ssize_t cf_control(struct cf_slot *s, uint32_t code, const uint8_t *tx, size_t ntx,
		   uint8_t *rx, size_t nrx)
{
	struct cf_wait w = cf_wait_for(CF_SOON_MS);
	char path[PATH_MAX];
	int fd;

	/* Without the io lock: a person may be typing a PIN. pcscd's own lock keeps
	 * other clients off the reader. An open that may wait comes after one that may
	 * not, so that it does not wait for a reader that is starting. */
	do {
		if (!cf_path(s, "control", path, sizeof path))
			return -ENODEV;
		fd = cf_open(AT_FDCWD, path, O_RDWR | O_NONBLOCK);
	} while (is_temporary(fd) && cf_pause(&w));
	if (fd < 0)
		return fd;
	cf_close(&fd);
	return cf_control_at(AT_FDCWD, path, 0, code, tx, ntx, rx, nrx);
}

ssize_t cf_atr(struct cf_slot *s, uint8_t *atr)
{
	ssize_t n;

	pthread_mutex_lock(&s->io);
	n = s->natr;
	memcpy(atr, s->atr, s->natr);
	pthread_mutex_unlock(&s->io);
	return n;
}

void cf_end_session(struct cf_slot *s)
{
	bool open;

	/* pcscd may close a channel while a command is under way. Do not wait for it:
	 * the session ends when that command gives its slot back. */
	if (pthread_mutex_trylock(&s->io) != 0)
		return;
	open = s->apdu >= 0;
	pthread_mutex_unlock(&s->io);
	if (open)
		cf_power_down(s);
}
