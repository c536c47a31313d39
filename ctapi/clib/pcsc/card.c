/* SPDX-License-Identifier: BSD-3-Clause
 *
 * card.c - a connection: the files control, apdu, power and protocol of one slot
 *
 * Whatever may have happened to the card, the mount knows it. A connection remembers the
 * mount's count of resets (epoch) and of cards (changes) as they were when it was made: if
 * they are others now, the program has to reconnect.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <poll.h>
#include <unistd.h>

#include "file.h"
#include "pcsc.h"
#include "slot.h"

enum { CARD_ABSENT = 0 }; /* cardfs_connection.card */

enum { POWER_TRIES = 3 };

LONG pc_error(ssize_t error, LONG other)
{
	switch (error) {
	case -ENODEV:
	case -ENOENT:
		return SCARD_E_READER_UNAVAILABLE;
	case -ENOTCONN:
	case -ECONNABORTED:
		return SCARD_E_NO_SERVICE;
	case -ENOMEDIUM:
		return SCARD_E_NO_SMARTCARD;
	case -EBUSY:
		return SCARD_E_SHARING_VIOLATION;
	case -EACCES:
	case -EPERM:
		return SCARD_W_SECURITY_VIOLATION;
	case -ENOMEM:
	case -EMFILE:
	case -ENFILE:
		return SCARD_E_NO_MEMORY;
	}
	return other;
}

/* ---- what the mount says -------------------------------------------------------- */

/* ask makes a connection, changes it, or with the same share just asks. */
static LONG ask(struct pc_card *c, DWORD share, struct cardfs_connection *now)
{
	struct cf_wait w = cf_wait_for(CF_ANSWER_MS);
	int result;

	memset(now, 0, sizeof *now);
	now->share = (uint32_t)share;
	do
		result = ioctl(c->control, CARDFS_CONNECT, now);
	while (result < 0 && errno == EINTR && cf_now() < w.until);
	if (result < 0)
		return pc_error(-errno, SCARD_F_COMM_ERROR);
	now->reader[sizeof now->reader - 1] = '\0';
	if (now->natr > MAX_ATR_SIZE)
		return SCARD_F_COMM_ERROR;
	return SCARD_S_SUCCESS;
}

/* next_change is for a question that is asked again after each change of the slot. It opens
 * *status the first time, and waits from then on. It returns false if status cannot be read. */
static bool next_change(struct pc_card *c, int *status)
{
	char text[CF_TEXT_MAX];

	if (*status < 0)
		*status = cf_open(c->dir, "status", O_RDONLY | O_NONBLOCK);
	else
		poll(&(struct pollfd){.fd = *status, .events = POLLPRI}, 1, -1);
	/* What comes after this read makes it ready again. */
	return *status >= 0 && pread(*status, text, sizeof text, 0) >= 0;
}

bool pc_wait_unlocked(struct pc_card *c)
{
	struct cardfs_connection now;
	int status = -1;
	LONG result;

	do
		result = ask(c, c->share, &now);
	while (result == SCARD_S_SUCCESS && now.locked && next_change(c, &status));
	cf_close(&status);
	return result == SCARD_S_SUCCESS && !now.locked;
}

LONG pc_look(struct pc_card *c, struct cardfs_connection *now)
{
	LONG result;

	if (c->control < 0)
		return SCARD_E_READER_UNAVAILABLE;
	result = ask(c, c->share, now);
	if (result != SCARD_S_SUCCESS || c->event != 0)
		return result;
	if (c->seen.card == CARD_ABSENT && now->changes - c->seen.changes <= 1)
		c->seen = *now; /* a card came to a connection without one */
	if (now->changes != c->seen.changes)
		pc_happened(c, SCARD_W_REMOVED_CARD);
	else if (now->epoch != c->seen.epoch)
		pc_happened(c, SCARD_W_RESET_CARD);
	return SCARD_S_SUCCESS;
}

LONG pc_check(struct pc_card *c, struct cardfs_connection *now)
{
	LONG result = pc_look(c, now);

	return result == SCARD_S_SUCCESS ? c->event : result;
}

void pc_happened(struct pc_card *c, LONG event)
{
	c->event = event;
	if (event == SCARD_W_REMOVED_CARD)
		pc_unlock(c); /* the transaction was with the card that is gone */
}

/* ---- opening -------------------------------------------------------------------- */

int pc_open_apdu(struct pc_card *c)
{
	struct cf_wait w = cf_wait_for(CF_SOON_MS);
	int fd;

	do
		fd = cf_open(c->dir, "apdu", O_RDWR | O_NONBLOCK);
	while ((fd == -EAGAIN || fd == -EBUSY) && cf_pause(&w));
	if (fd >= 0)
		fcntl(fd, F_SETFL, 0); /* from now on wait */
	return fd;
}

/* set_apdu makes an open of apdu the session, in place of the one before. */
static void set_apdu(struct pc_card *c, int fd)
{
	cf_close(&c->apdu);
	c->apdu = fd;
	c->binary = false;
}

int pc_power(struct pc_card *c, const char *word)
{
	for (;;) {
		struct cardfs_connection now;
		int result = cf_write(c->dir, "power", word);

		if (result != -EBUSY || pc_look(c, &now) != SCARD_S_SUCCESS || !now.locked ||
		    !pc_wait_lock(c))
			return result;
	}
}

/* negotiate makes one of the wanted protocols the active one. Two clients use the same:
 * the second must be content with what the first has. T=1 goes before T=0, as pcscd has it. */
static LONG negotiate(struct pc_card *c, DWORD wanted, bool alone, struct cardfs_connection *now)
{
	DWORD possible = now->offered & wanted;
	DWORD chosen = possible & SCARD_PROTOCOL_T1 ? SCARD_PROTOCOL_T1 : possible & SCARD_PROTOCOL_T0;
	char word[4];
	int result, fd;

	if (!alone && now->active != SCARD_PROTOCOL_UNDEFINED)
		chosen = now->active & wanted;
	if (chosen == 0)
		return SCARD_E_PROTO_MISMATCH;
	if (chosen == now->active)
		return SCARD_S_SUCCESS;
	snprintf(word, sizeof word, "T=%d", chosen == SCARD_PROTOCOL_T1);
	result = cf_write(c->dir, "protocol", word);
	switch (result) {
	case 0:
		break;
	case -EOPNOTSUPP:
	case -EINVAL:
		return SCARD_E_PROTO_MISMATCH;
	default:
		return pc_error(result, SCARD_W_UNRESPONSIVE_CARD);
	}
	/* The card was reset for the PPS (ISO/IEC 7816-3:2006 6.3.1). */
	fd = pc_open_apdu(c);
	if (fd < 0)
		return pc_error(fd, SCARD_W_UNRESPONSIVE_CARD);
	set_apdu(c, fd);
	return ask(c, now->share, now);
}

/* unpowered is the error of a card that did not get power. */
static LONG unpowered(int error)
{
	return error == -EBUSY ? SCARD_E_SHARING_VIOLATION : pc_error(error, SCARD_W_UNPOWERED_CARD);
}

/* keep_power powers a card that lost it again since the session began: another program
 * took the power, or the card was exchanged. */
static LONG keep_power(struct pc_card *c, struct cardfs_connection *now)
{
	LONG result = SCARD_S_SUCCESS;

	for (int i = 0; i < POWER_TRIES && result == SCARD_S_SUCCESS && now->natr == 0; i++) {
		int fd = pc_open_apdu(c);

		if (fd < 0)
			return unpowered(fd);
		set_apdu(c, fd);
		result = ask(c, now->share, now);
	}
	if (result == SCARD_S_SUCCESS && now->natr == 0)
		result = now->card == CARD_ABSENT ? SCARD_E_NO_SMARTCARD : SCARD_W_UNPOWERED_CARD;
	return result;
}

/* settle finds the protocol of a connection. Unless it is a direct one, it has a session.
 * free is whether the card's protocol may change, which resets the card. */
static LONG settle(struct pc_card *c, DWORD share, DWORD wanted, bool free, struct cardfs_connection *now)
{
	LONG result = share == SCARD_SHARE_DIRECT ? SCARD_S_SUCCESS : keep_power(c, now);

	if (result != SCARD_S_SUCCESS)
		return result;
	if (wanted & SCARD_PROTOCOL_ANY_OLD)
		wanted |= SCARD_PROTOCOL_T0 | SCARD_PROTOCOL_T1;
	if (wanted & SCARD_PROTOCOL_RAW) {
		c->protocol = SCARD_PROTOCOL_RAW;
	} else {
		if (share != SCARD_SHARE_DIRECT)
			result = negotiate(c, wanted, free && now->connections <= 1, now);
		if (result == SCARD_S_SUCCESS)
			c->protocol = now->active;
	}
	return result;
}

/* attach connects to the slot in directory number. It returns SCARD_E_UNKNOWN_READER if
 * that is not the named one. */
static LONG attach(struct pc_card *c, struct pc_context *x, int number, DWORD share, DWORD wanted)
{
	struct cardfs_connection now;
	LONG result;
	int error = 0;

	c->dir = pc_context_dir(x, (unsigned)number);
	if (c->dir >= 0)
		c->control = cf_open(c->dir, "control", O_RDWR); /* waits for a reader that starts */
	if (c->control < 0) {
		/* By now another reader, or another mount, may be there. */
		cf_close(&c->dir);
		c->dir = pc_dir(x->root, (unsigned)number);
		if (c->dir < 0)
			return c->dir == -ENOENT ? SCARD_E_UNKNOWN_READER :
						   pc_error(c->dir, SCARD_F_COMM_ERROR);
		c->control = cf_open(c->dir, "control", O_RDWR);
	}
	if (c->control < 0)
		return c->control == -ENODEV || c->control == -ENOENT ?
			       SCARD_E_UNKNOWN_READER : pc_error(c->control, SCARD_E_READER_UNAVAILABLE);
	/* Before the mount is asked, so that it is asked once. */
	if (share != SCARD_SHARE_DIRECT) {
		c->apdu = cf_open(c->dir, "apdu", O_RDWR | O_NONBLOCK);
		error = c->apdu;
	}
	result = ask(c, share, &now);
	if (result != SCARD_S_SUCCESS)
		return result;
	if (strcmp(now.reader, c->name) != 0)
		return SCARD_E_UNKNOWN_READER;
	if (now.locked) {
		pc_wait_lock(c);
		result = ask(c, share, &now);
		if (result != SCARD_S_SUCCESS)
			return result;
	}
	if (share != SCARD_SHARE_DIRECT) {
		if (error == -EBUSY || error == -EAGAIN) {
			c->apdu = error = pc_open_apdu(c);
			result = ask(c, share, &now);
			if (result != SCARD_S_SUCCESS)
				return result;
		} else if (error >= 0) {
			fcntl(c->apdu, F_SETFL, 0);
		}
		if (error < 0)
			return unpowered(error);
	}
	result = settle(c, share, wanted, true, &now);
	c->seen = now;
	return result;
}

LONG pc_connect(struct pc_context *x, const char *name, DWORD share, DWORD wanted,
		struct pc_card **card)
{
	struct pc_card *c = calloc(1, sizeof *c);
	LONG result = SCARD_E_UNKNOWN_READER;

	if (c == NULL)
		return SCARD_E_NO_MEMORY;
	pthread_mutex_init(&c->io, NULL);
	snprintf(c->name, sizeof c->name, "%s", name);
	c->share = share;
	c->dir = c->control = c->apdu = c->lock = -1;
	for (int anew = 0; anew <= 1 && result == SCARD_E_UNKNOWN_READER; anew++) {
		int number = pc_find(x->root, name, anew);

		if (number >= 0)
			result = attach(c, x, number, share, wanted);
		if (result != SCARD_S_SUCCESS)
			pc_end(c);
		else
			pc_used(x->root, (unsigned)number);
	}
	if (result == SCARD_E_UNKNOWN_READER && pc_available(x->root) == SCARD_E_NO_SERVICE)
		result = SCARD_E_NO_SERVICE;
	if (result == SCARD_S_SUCCESS) {
		*card = c;
		return result;
	}
	pthread_mutex_destroy(&c->io);
	free(c);
	return result;
}

void pc_end(struct pc_card *c)
{
	/* The connection ends last: a card whose transaction ends with it is reset. */
	if (c->lock != c->apdu)
		cf_close(&c->lock);
	c->lock = -1;
	cf_close(&c->apdu);
	cf_close(&c->control);
	cf_close(&c->dir);
	c->nested = 0;
}

/* ---- reconnect, disconnect --------------------------------------------------------- */

/* renew begins a new session with the card. A transaction goes on. */
static int renew(struct pc_card *c)
{
	unsigned nested = c->nested;
	int fd;

	if (c->lock >= 0 && c->lock == c->apdu)
		pc_unlock(c);
	else
		nested = 0; /* its lock stays */
	set_apdu(c, -1);
	fd = pc_open_apdu(c);
	if (fd < 0)
		return fd;
	set_apdu(c, fd);
	if (nested > 0)
		pc_relock(c, nested);
	return 0;
}

/* become changes how the slot is shared. An exclusive connection comes when the others have
 * ended; pcsc-lite waits for that, too. */
static LONG become(struct pc_card *c, DWORD share, struct cardfs_connection *now)
{
	int status = -1;
	LONG result;

	do
		result = ask(c, share, now);
	while (result == SCARD_E_SHARING_VIOLATION && next_change(c, &status));
	cf_close(&status);
	return result;
}

LONG pc_reconnect(struct pc_card *c, DWORD share, DWORD wanted, DWORD initialization)
{
	struct cardfs_connection now;
	LONG result = pc_look(c, &now);
	int error = 0;

	if (result != SCARD_S_SUCCESS)
		return result;
	if (now.locked && c->nested == 0) {
		pc_wait_lock(c);
		result = pc_look(c, &now);
		if (result != SCARD_S_SUCCESS)
			return result;
	}
	if (now.card == CARD_ABSENT) {
		if (initialization != SCARD_LEAVE_CARD)
			c->event = SCARD_W_RESET_CARD; /* as pcscd has it: it tried */
		return SCARD_E_NO_SMARTCARD;
	}
	if (initialization != SCARD_LEAVE_CARD)
		error = pc_power(c, initialization == SCARD_RESET_CARD ? "reset" : "cold");
	if (error == 0 && (share != SCARD_SHARE_DIRECT || c->apdu >= 0 || now.natr == 0) &&
	    (c->event != 0 || initialization != SCARD_LEAVE_CARD || c->apdu < 0))
		error = renew(c);
	if (error == -EBUSY)
		return SCARD_E_SHARING_VIOLATION;
	if (error != 0) {
		if (initialization != SCARD_LEAVE_CARD)
			c->event = SCARD_W_RESET_CARD;
		return pc_error(error, SCARD_W_UNRESPONSIVE_CARD);
	}
	result = ask(c, c->share, &now);
	/* SCARD_LEAVE_CARD leaves the protocol, too, if there was one. */
	if (result == SCARD_S_SUCCESS)
		result = settle(c, share, wanted, initialization != SCARD_LEAVE_CARD || c->event != 0 ||
				c->share == SCARD_SHARE_DIRECT, &now);
	if (result == SCARD_S_SUCCESS && share != c->share)
		result = become(c, share, &now);
	if (result != SCARD_S_SUCCESS)
		return result;
	c->share = share;
	c->seen = now;
	c->event = 0;
	return SCARD_S_SUCCESS;
}

LONG pc_disconnect(struct pc_card *c, DWORD disposition)
{
	struct cardfs_connection now;

	if (disposition != SCARD_LEAVE_CARD && pc_look(c, &now) == SCARD_S_SUCCESS &&
	    now.card != CARD_ABSENT) {
		/* The mount lets the other connections of a process pass its lock. */
		if (now.locked && c->nested == 0)
			pc_wait_lock(c);
		switch (disposition) {
		case SCARD_RESET_CARD:
			pc_power(c, "reset");
			break;
		case SCARD_UNPOWER_CARD:
			pc_power(c, "off");
			break;
		case SCARD_EJECT_CARD:
			pc_power(c, "eject"); /* few readers can */
			break;
		}
	}
	pc_unlock(c);
	pc_end(c);
	return SCARD_S_SUCCESS;
}
