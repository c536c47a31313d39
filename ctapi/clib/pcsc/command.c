/* SPDX-License-Identifier: BSD-3-Clause
 *
 * command.c - commands to the card and the reader, state, attributes
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

#include "file.h"
#include "pcsc.h"
#include "slot.h"

enum { CARD_ABSENT, CARD_PRESENT }; /* cardfs_connection.card */

/* The longest answer to a command without extended length: 256 bytes, SW1 SW2. */
enum { SHORT_ANSWER = 256 + 2 };

/* failed says what went wrong with a command, and remembers what ends the connection. */
static LONG failed(struct pc_card *c, ssize_t error)
{
	struct cardfs_connection now;

	switch (error) {
	case CF_TOO_LONG:
		return SCARD_E_INSUFFICIENT_BUFFER;
	case -ENOMEDIUM:
		pc_happened(c, SCARD_W_REMOVED_CARD);
		return c->event;
	case -ESTALE:
		/* Reset, or another card? */
		if (pc_look(c, &now) == SCARD_S_SUCCESS && c->event == 0)
			pc_happened(c, SCARD_W_RESET_CARD);
		return c->event != 0 ? c->event : SCARD_E_READER_UNAVAILABLE;
	}
	return pc_error(error, SCARD_E_NOT_TRANSACTED);
}

/* with_room calls exchange with a buffer of most bytes, if the program's is shorter: the
 * program is told how much room its answer needs. */
static LONG with_room(struct pc_card *c, size_t most, uint8_t *rx, size_t *nrx,
		      ssize_t exchange(struct pc_card *c, void *arg, uint8_t *rx, size_t nrx),
		      void *arg, LONG fail(struct pc_card *c, ssize_t error))
{
	uint8_t *buffer = rx;
	size_t room = *nrx;
	LONG result = SCARD_S_SUCCESS;
	ssize_t n;

	*nrx = 0;
	if (room < most && (buffer = malloc(most)) == NULL)
		return SCARD_E_NO_MEMORY;
	n = exchange(c, arg, buffer, room < most ? most : room);
	if (n < 0)
		result = fail(c, n);
	else
		*nrx = (size_t)n;
	if (buffer != rx) {
		if (*nrx > room)
			result = SCARD_E_INSUFFICIENT_BUFFER;
		else if (*nrx > 0)
			memcpy(rx, buffer, *nrx);
		explicit_bzero(buffer, most);
		free(buffer);
	}
	return result;
}

struct command {
	uint32_t code; /* of a control command */
	const uint8_t *tx;
	size_t ntx;
};

static ssize_t exchange(struct pc_card *c, void *arg, uint8_t *rx, size_t nrx)
{
	const struct command *command = arg;
	ssize_t n;

	/* Not at the connection: many programs only look at a card. */
	if (!c->binary && ioctl(c->apdu, CARDFS_BINARY) == 0)
		c->binary = true;
	n = cf_exchange(&c->apdu, command->tx, command->ntx, rx, nrx, 0);
	return n == 0 || n == 1 ? CF_BROKEN : n; /* no SW1 SW2 */
}

/* protocol_fits reports whether a command may go out by that protocol. */
static bool protocol_fits(DWORD wanted, DWORD active)
{
	return wanted == SCARD_PROTOCOL_RAW || wanted == active ||
	       (wanted == SCARD_PROTOCOL_ANY_OLD && active != SCARD_PROTOCOL_UNDEFINED);
}

LONG pc_session(struct pc_card *c)
{
	struct cardfs_connection now;
	LONG result = pc_check(c, &now);
	int fd;

	if (result != SCARD_S_SUCCESS)
		return result;
	if (now.card == CARD_ABSENT)
		return SCARD_E_NO_SMARTCARD;
	fd = pc_open_apdu(c);
	if (fd < 0)
		return pc_error(fd, SCARD_E_NOT_TRANSACTED);
	c->apdu = fd;
	c->binary = false;
	result = pc_check(c, &now);
	if (c->protocol == SCARD_PROTOCOL_UNDEFINED)
		c->protocol = now.active;
	return result;
}

LONG pc_transmit(struct pc_card *c, DWORD protocol, const uint8_t *tx, size_t ntx, uint8_t *rx,
		 size_t *nrx)
{
	struct command command = {.tx = tx, .ntx = ntx};
	bool extended = ntx > 5 + 255 + 1 || (ntx >= 7 && tx[4] == 0);
	size_t room = *nrx, most = extended ? CF_ANSWER_MAX : SHORT_ANSWER;
	LONG result = SCARD_S_SUCCESS;

	*nrx = 0;
	if (c->control < 0)
		return SCARD_E_READER_UNAVAILABLE;
	if (c->event != 0)
		return c->event;
	if (c->apdu < 0)
		result = pc_session(c);
	if (result == SCARD_E_NO_SMARTCARD && protocol == SCARD_PROTOCOL_RAW)
		result = SCARD_E_NOT_TRANSACTED;
	if (result != SCARD_S_SUCCESS)
		return result;
	if (!protocol_fits(protocol, c->protocol)) {
		struct cardfs_connection now;

		result = pc_check(c, &now);
		return result == SCARD_S_SUCCESS ? SCARD_E_PROTO_MISMATCH : result;
	}
	*nrx = room;
	result = with_room(c, most, rx, nrx, exchange, &command, failed);
	if (result != SCARD_E_SHARING_VIOLATION || c->nested > 0)
		return result;
	/* Another program has the transaction, and nothing was sent: wait for it to end. */
	result = pc_relock(c, 1);
	if (result != SCARD_S_SUCCESS)
		return result;
	*nrx = room;
	result = with_room(c, most, rx, nrx, exchange, &command, failed);
	pc_unlock(c);
	return result;
}

static ssize_t control(struct pc_card *c, void *arg, uint8_t *rx, size_t nrx)
{
	const struct command *command = arg;

	return cf_control_at(c->dir, "control", O_NONBLOCK, command->code, command->tx,
			     command->ntx, rx, nrx);
}

static LONG control_failed(struct pc_card *c, ssize_t error)
{
	(void)c;
	switch (error) {
	case -EOPNOTSUPP:
	case -ENOTTY:
		return SCARD_E_UNSUPPORTED_FEATURE;
	case CF_TOO_LONG:
		return SCARD_E_INSUFFICIENT_BUFFER;
	case -EPERM: /* escape commands are the owner's */
	case -EACCES:
	case -ENOMEDIUM:
		return SCARD_E_NOT_TRANSACTED;
	}
	return pc_error(error, SCARD_E_NOT_TRANSACTED);
}

LONG pc_control(struct pc_card *c, uint32_t code, const uint8_t *tx, size_t ntx, uint8_t *rx,
		size_t *nrx)
{
	struct command command = {.code = code, .tx = tx, .ntx = ntx};
	struct cardfs_connection now;
	size_t room = *nrx;
	LONG result;

	*nrx = 0;
	result = pc_look(c, &now);
	if (result != SCARD_S_SUCCESS)
		return result;
	if (now.locked && c->nested == 0)
		return SCARD_E_SHARING_VIOLATION;
	*nrx = room;
	return with_room(c, CF_ANSWER_MAX, rx, nrx, control, &command, control_failed);
}

/* ---- state -------------------------------------------------------------------------- */

LONG pc_status(struct pc_card *c, struct cardfs_connection *now)
{
	char text[CF_TEXT_MAX];
	LONG result = pc_look(c, now);

	if (result == SCARD_S_SUCCESS && now->locked && c->nested == 0) {
		pc_wait_lock(c);
		result = pc_look(c, now);
	}
	/* pcscd powers every card. A program expects the ATR. */
	if (result == SCARD_S_SUCCESS && c->event == 0 && now->card == CARD_PRESENT &&
	    cf_read(c->dir, "atr", text, sizeof text) > 0)
		result = pc_look(c, now);
	return result == SCARD_S_SUCCESS ? c->event : result;
}

/* ---- attributes -------------------------------------------------------------------- */

/* Attributes beside those of the status file (PC/SC part 3, 3.1.2; libccid). */
enum {
	ATTR_SLOT = 0x0180,
	ATTR_ATR = 0x0303,
	ATTR_ICC_PRESENCE = 0x90300,
	ATTR_ICC_INTERFACE_STATUS = 0x90301,
	ATTR_ATR_STRING = 0x90303,
	ATTR_CURRENT_PROTOCOL_TYPE = 0x80201,
	ATTR_MAXINPUT = 0x7A007,
};

static size_t word(uint8_t *value, uint32_t n)
{
	memcpy(value, &n, sizeof n);
	return sizeof n;
}

/* undisturbed is check, and refuses while another program has the transaction. */
static LONG undisturbed(struct pc_card *c, struct cardfs_connection *now)
{
	LONG result = pc_look(c, now);

	if (result == SCARD_S_SUCCESS && now->locked && c->nested == 0)
		return SCARD_E_SHARING_VIOLATION;
	return result == SCARD_S_SUCCESS ? c->event : result;
}

LONG pc_settable(struct pc_card *c, DWORD id)
{
	struct cardfs_connection now;
	LONG result = undisturbed(c, &now);

	if (result != SCARD_S_SUCCESS)
		return result;
	switch (id) {
	case ATTR_ATR:
	case ATTR_ATR_STRING:
	case ATTR_SLOT:
		return SCARD_E_NOT_TRANSACTED; /* it can only be read */
	}
	return SCARD_E_UNSUPPORTED_FEATURE;
}

LONG pc_attribute(struct pc_card *c, DWORD id, uint8_t *value, size_t *n)
{
	struct cardfs_connection now;
	char text[CF_TEXT_MAX + 1], slot[16];
	LONG result = undisturbed(c, &now);
	ssize_t got;

	if (result != SCARD_S_SUCCESS)
		return result;
	switch (id) {
	case ATTR_ATR:
	case ATTR_ATR_STRING:
		memcpy(value, now.atr, now.natr);
		*n = now.natr;
		return SCARD_S_SUCCESS;
	case ATTR_ICC_PRESENCE: /* 2: present, and the reader does not swallow cards */
		value[0] = now.card == CARD_ABSENT ? 0 : 2;
		*n = 1;
		return SCARD_S_SUCCESS;
	case ATTR_ICC_INTERFACE_STATUS:
		value[0] = now.natr > 0;
		*n = 1;
		return SCARD_S_SUCCESS;
	case ATTR_CURRENT_PROTOCOL_TYPE:
		*n = word(value, c->protocol);
		return SCARD_S_SUCCESS;
	case ATTR_MAXINPUT:
		*n = word(value, CF_COMMAND_MAX);
		return SCARD_S_SUCCESS;
	case SCARD_ATTR_DEVICE_FRIENDLY_NAME_A:
	case SCARD_ATTR_DEVICE_SYSTEM_NAME_A:
		*n = strlen(c->name) + 1;
		memcpy(value, c->name, *n);
		return SCARD_S_SUCCESS;
	}
	got = cf_read(c->dir, "status", text, sizeof text);
	if (got < 0)
		return pc_error(got, SCARD_E_NOT_TRANSACTED);
	if (id == ATTR_SLOT && cf_value(text, "slot", slot, sizeof slot)) {
		value[0] = (uint8_t)atoi(slot);
		*n = 1;
		return SCARD_S_SUCCESS;
	}
	got = cf_attribute(text, id, value);
	if (got < 0)
		return SCARD_E_UNSUPPORTED_FEATURE;
	*n = (size_t)got;
	return SCARD_S_SUCCESS;
}
