/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The IFD handler: what pcscd calls, in terms of slots and cards. A reader that
 * is not there is a reader without a card, never an error: pcscd drops for good
 * what fails at the start, and looks for it no more.
 */
#define _GNU_SOURCE
#include "ifd.h"

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "card.h"
#include "file.h"
#include "slots.h"

/* pcscd's own log, where there is one. Its priorities: 1 info, 2 error. */
extern void log_msg(int priority, const char *format, ...)
	__attribute__((weak, format(printf, 2, 3)));

enum { LOG_INFO = 1, LOG_ERROR = 2 };

#define say(priority, ...)                                    \
	do {                                                  \
		if (log_msg != NULL)                          \
			log_msg(priority, "cardfs: " __VA_ARGS__); \
	} while (0)

static RESPONSECODE no_card(ssize_t error)
{
	switch (error) {
	case -ENOMEDIUM:
	case -ENODEV:
	case -ENOENT:
	case -ENOTCONN:
	case -EAGAIN: /* still starting */
		return IFD_ICC_NOT_PRESENT;
	}
	return IFD_SUCCESS;
}

/* code maps what a card operation ended with; other is for what has no code. */
static RESPONSECODE code(ssize_t error, RESPONSECODE other)
{
	if (error >= 0)
		return IFD_SUCCESS;
	if (no_card(error) != IFD_SUCCESS)
		return no_card(error);
	switch (error) {
	case -ETIMEDOUT:
		return IFD_RESPONSE_TIMEOUT;
	case CF_TOO_LONG:
		return IFD_ERROR_INSUFFICIENT_BUFFER;
	}
	return other;
}

static void complain(const struct cf_slot *s, const char *what, ssize_t error)
{
	if (error < 0 && no_card(error) == IFD_SUCCESS)
		say(LOG_ERROR, "%s, reader %lx: %s; the slot's status file has the reason",
		    what, s->lun, strerror((int)-error));
}

/* ---- channels ------------------------------------------------------------- */

/* look says why there will be no card at all: later that is no event, so that
 * nothing could be logged without flooding the log. */
static void look(DWORD lun, const char *root)
{
	char path[PATH_MAX];

	snprintf(path, sizeof path, "%s/ctl", root);
	if (access(path, F_OK) == 0)
		return;
	if (errno == EACCES)
		say(LOG_ERROR, "reader %lx: %s: no permission: cardfs mount --allow-other --group lets users in, SupplementaryGroups= puts pcscd into a group",
		    lun, root);
	else
		say(LOG_INFO, "reader %lx: no cardfs at %s yet (%s), no card until it is there",
		    lun, root, strerror(errno));
}

static RESPONSECODE create(DWORD lun, const struct cf_name *name)
{
	unsigned index = (unsigned)(lun & 0xFFFF);
	struct cf_slot *s = cf_add(lun, name, index);
	bool foreign, found = true;

	if (s == NULL)
		return IFD_COMMUNICATION_ERROR;
	look(lun, name->root);
	/* pcscd saw the device; cardfs may be about to. The number of its slots
	 * is asked for only now. */
	if (name->kind == CF_BY_USB)
		found = cf_found(s);
	foreign = !found && cf_foreign(s);
	if (!found && !foreign)
		say(LOG_INFO, "reader %lx: not on %s yet, no card until it is", lun, name->root);
	if (foreign)
		cf_remove(s);
	cf_put(s);
	/* A device with several interfaces is offered once for each. */
	return foreign ? IFD_NO_SUCH_DEVICE : IFD_SUCCESS;
}

RESPONSECODE IFDHCreateChannelByName(DWORD Lun, LPSTR DeviceName)
{
	struct cf_name name;

	if (DeviceName == NULL || !cf_parse(DeviceName, &name)) {
		say(LOG_ERROR, "DEVICENAME %s: use cardfs:/mnt/cards/0 or cardfs:/mnt/cards/by-id/NAME",
		    DeviceName == NULL ? "missing" : DeviceName);
		return IFD_COMMUNICATION_ERROR;
	}
	return create(Lun, &name);
}

RESPONSECODE IFDHCreateChannel(DWORD Lun, DWORD Channel)
{
	struct cf_name name;

	if (!cf_numbered(Channel, &name)) {
		say(LOG_ERROR, "CHANNELID %lu is no number of a slot's directory", Channel);
		return IFD_COMMUNICATION_ERROR;
	}
	return create(Lun, &name);
}

RESPONSECODE IFDHCloseChannel(DWORD Lun)
{
	struct cf_slot *s = cf_get(Lun);

	if (s == NULL)
		return IFD_COMMUNICATION_ERROR;
	cf_leave(s);
	cf_remove(s);
	cf_put(s);
	return IFD_SUCCESS;
}

/* ---- events ---------------------------------------------------------------- */

static RESPONSECODE poll_with_timeout(DWORD lun, int timeout)
{
	struct cf_slot *s = cf_get(lun);

	if (s == NULL)
		return IFD_COMMUNICATION_ERROR;
	cf_poll(s, timeout);
	cf_put(s);
	return IFD_SUCCESS;
}

static RESPONSECODE stop_polling(DWORD lun)
{
	struct cf_slot *s = cf_get(lun);

	if (s == NULL)
		return IFD_COMMUNICATION_ERROR;
	cf_stop(s);
	cf_put(s);
	return IFD_SUCCESS;
}

RESPONSECODE IFDHICCPresence(DWORD Lun)
{
	struct cf_slot *s = cf_get(Lun);
	bool present;

	if (s == NULL)
		return IFD_ICC_NOT_PRESENT;
	present = cf_presence(s);
	cf_put(s);
	return present ? IFD_ICC_PRESENT : IFD_ICC_NOT_PRESENT;
}

/* ---- capabilities ------------------------------------------------------------ */

/* answer stores a value, or says how much room it takes if there is no buffer. */
static RESPONSECODE answer(const void *from, size_t n, PDWORD length, PUCHAR value)
{
	if (value != NULL && *length < n) {
		*length = n;
		return IFD_ERROR_INSUFFICIENT_BUFFER;
	}
	*length = n;
	if (value != NULL && n > 0)
		memcpy(value, from, n);
	return IFD_SUCCESS;
}

static RESPONSECODE answer_byte(unsigned byte, PDWORD length, PUCHAR value)
{
	UCHAR b = (UCHAR)byte;

	return answer(&b, 1, length, value);
}

/* PC/SC part 3 has 4-byte values; clients get them in the host's order. */
static RESPONSECODE answer_word(uint32_t word, PDWORD length, PUCHAR value)
{
	return answer(&word, sizeof word, length, value);
}

/* from_status answers with what the status file tells. */
static RESPONSECODE from_status(struct cf_slot *s, DWORD tag, PDWORD length, PUCHAR value)
{
	char text[CF_TEXT_MAX + 1], v[CF_TEXT_MAX];
	unsigned a = 0, b = 0, c = 0;

	if (!cf_status(s, text, sizeof text))
		return IFD_ERROR_TAG;
	switch (tag) {
	case SCARD_ATTR_VENDOR_NAME:
		if (cf_value(text, "reader", v, sizeof v))
			return answer(v, strlen(v) + 1, length, value);
		break;
	case SCARD_ATTR_VENDOR_IFD_SERIAL_NO:
		if (cf_value(text, "serial", v, sizeof v))
			return answer(v, strlen(v) + 1, length, value);
		break;
	case SCARD_ATTR_VENDOR_IFD_VERSION: /* 0xMMmmbbbb */
		if ((cf_value(text, "firmware", v, sizeof v) || cf_value(text, "version", v, sizeof v)) &&
		    sscanf(v, "%3u.%3u.%5u", &a, &b, &c) >= 1)
			return answer_word((a & 0xFF) << 24 | (b & 0xFF) << 16 | (c & 0xFFFF),
					   length, value);
		break;
	case SCARD_ATTR_CHANNEL_ID: /* 0x0020: USB; bus and address */
		if (cf_value(text, "usb", v, sizeof v) && sscanf(v, "%3u/%3u", &a, &b) == 2)
			return answer_word(0x0020U << 16 | (a & 0xFF) << 8 | (b & 0xFF),
					   length, value);
		break;
	}
	return IFD_ERROR_TAG;
}

static RESPONSECODE capability(struct cf_slot *s, DWORD tag, PDWORD length, PUCHAR value)
{
	RESPONSECODE (*poll)(DWORD, int) = poll_with_timeout;
	RESPONSECODE (*stop)(DWORD) = stop_polling;
	uint8_t atr[CF_ATR_MAX];

	switch (tag) {
	case TAG_IFD_SIMULTANEOUS_ACCESS:
		return answer_byte(255, length, value);
	case TAG_IFD_THREAD_SAFE:
	case TAG_IFD_SLOT_THREAD_SAFE:
	case TAG_IFD_DEVICE_REMOVED:
		return answer_byte(1, length, value);
	case TAG_IFD_SLOTS_NUMBER:
		return answer_byte(cf_siblings(s), length, value);
	case TAG_IFD_POLLING_THREAD_WITH_TIMEOUT:
		cf_polls(s);
		return answer(&poll, sizeof poll, length, value);
	case TAG_IFD_STOP_POLLING_THREAD:
		return answer(&stop, sizeof stop, length, value);
	case TAG_IFD_ATR:
	case SCARD_ATTR_ATR_STRING:
		return answer(atr, (size_t)cf_atr(s, atr), length, value);
	case TAG_IFD_SLOTNUM:
		return answer_byte(s->index, length, value);
	case SCARD_ATTR_ICC_PRESENCE: /* 2: present, in a slot that swallows none */
		return answer_byte(cf_state_of(s) == CF_CARD ? 2 : 0, length, value);
	case SCARD_ATTR_ICC_INTERFACE_STATUS:
		return answer_byte(cf_atr(s, atr) > 0, length, value);
	case SCARD_ATTR_MAXINPUT:
		return answer_word(CF_COMMAND_MAX, length, value);
	}
	/* POLLING_THREAD_KILLABLE among the rest: no thread is to be killed here. */
	return from_status(s, tag, length, value);
}

RESPONSECODE IFDHGetCapabilities(DWORD Lun, DWORD Tag, PDWORD Length, PUCHAR Value)
{
	struct cf_slot *s = cf_get(Lun);
	RESPONSECODE result;

	if (s == NULL || Length == NULL) {
		if (s != NULL)
			cf_put(s);
		return IFD_COMMUNICATION_ERROR;
	}
	result = capability(s, Tag, Length, Value);
	cf_put(s);
	return result;
}

RESPONSECODE IFDHSetCapabilities(DWORD Lun, DWORD Tag, DWORD Length, PUCHAR Value)
{
	struct cf_slot *s = cf_get(Lun);
	RESPONSECODE result = IFD_ERROR_TAG;

	if (s == NULL)
		return IFD_COMMUNICATION_ERROR;
	switch (Tag) {
	case TAG_IFD_DEVICE_REMOVED:
		if (Length == 1 && Value != NULL && *Value != 0)
			cf_dead(s);
		result = IFD_SUCCESS;
		break;
	case TAG_IFD_ATR:
	case SCARD_ATTR_ATR_STRING:
	case TAG_IFD_SLOTNUM:
	case TAG_IFD_SLOTS_NUMBER:
	case TAG_IFD_THREAD_SAFE:
	case TAG_IFD_SLOT_THREAD_SAFE:
	case TAG_IFD_SIMULTANEOUS_ACCESS:
		result = IFD_ERROR_VALUE_READ_ONLY;
		break;
	}
	cf_put(s);
	return result;
}

/* ---- the card ----------------------------------------------------------------- */

RESPONSECODE IFDHPowerICC(DWORD Lun, DWORD Action, PUCHAR Atr, PDWORD AtrLength)
{
	struct cf_slot *s = cf_get(Lun);
	uint8_t atr[CF_ATR_MAX];
	DWORD room = AtrLength == NULL ? 0 : *AtrLength;
	ssize_t n;

	if (AtrLength != NULL)
		*AtrLength = 0;
	if (s == NULL)
		return IFD_COMMUNICATION_ERROR;
	switch (Action) {
	case IFD_POWER_UP:
	case IFD_RESET:
		n = cf_power_up(s, Action == IFD_RESET, atr);
		complain(s, Action == IFD_RESET ? "reset" : "power-up", n);
		if (n > 0 && Atr != NULL && AtrLength != NULL) {
			/* pcscd gives room for any ATR. */
			*AtrLength = (DWORD)n < room ? (DWORD)n : room;
			memcpy(Atr, atr, *AtrLength);
		}
		break;
	case IFD_POWER_DOWN:
		n = cf_power_down(s);
		complain(s, "power-down", n);
		break;
	default:
		cf_put(s);
		return IFD_NOT_SUPPORTED;
	}
	cf_put(s);
	return code(n, n == -EBUSY ? IFD_ERROR_POWER_ACTION : IFD_COMMUNICATION_ERROR);
}

RESPONSECODE IFDHSetProtocolParameters(DWORD Lun, DWORD Protocol, UCHAR Flags, UCHAR PTS1,
				       UCHAR PTS2, UCHAR PTS3)
{
	struct cf_slot *s;
	int n;

	(void)PTS1;
	(void)PTS2;
	(void)PTS3;
	if (Protocol != SCARD_PROTOCOL_T0 && Protocol != SCARD_PROTOCOL_T1)
		return IFD_PROTOCOL_NOT_SUPPORTED;
	if (Flags != 0) /* the mount chooses F, D and the like by itself */
		return IFD_ERROR_NOT_SUPPORTED;
	s = cf_get(Lun);
	if (s == NULL)
		return IFD_COMMUNICATION_ERROR;
	n = cf_protocol(s, Protocol == SCARD_PROTOCOL_T1);
	if (n != -ENOTSUP)
		complain(s, "protocol", n);
	cf_put(s);
	switch (n) {
	case -ENOTSUP: /* and EOPNOTSUPP, which is the same number */
	case -EINVAL:
		return IFD_PROTOCOL_NOT_SUPPORTED;
	case -EPROTO:
	case -ETIMEDOUT:
		return IFD_ERROR_PTS_FAILURE;
	}
	return code(n, IFD_COMMUNICATION_ERROR);
}

RESPONSECODE IFDHTransmitToICC(DWORD Lun, SCARD_IO_HEADER SendPci, PUCHAR TxBuffer,
			       DWORD TxLength, PUCHAR RxBuffer, PDWORD RxLength,
			       PSCARD_IO_HEADER RecvPci)
{
	struct cf_slot *s;
	DWORD room;
	ssize_t n;

	if (RxLength == NULL)
		return IFD_COMMUNICATION_ERROR;
	room = *RxLength;
	*RxLength = 0;
	if (TxBuffer == NULL || RxBuffer == NULL || TxLength > CF_COMMAND_MAX)
		return IFD_COMMUNICATION_ERROR;
	s = cf_get(Lun);
	if (s == NULL)
		return IFD_COMMUNICATION_ERROR;
	n = cf_transmit(s, TxBuffer, TxLength, RxBuffer, room);
	complain(s, "exchange", n);
	cf_put(s);
	/* Never "not present": pcscd would mark the slot empty then, in the client's
	 * thread, perhaps after its event thread saw the next card put in and
	 * powered it, and that card would stay unseen (observed in pcscd 1.9.9). The
	 * event thread learns of the removal by itself. */
	if (no_card(n) != IFD_SUCCESS)
		return IFD_COMMUNICATION_ERROR;
	if (n < 0)
		return code(n, IFD_COMMUNICATION_ERROR);
	if (RecvPci != NULL)
		RecvPci->Protocol = SendPci.Protocol;
	*RxLength = (DWORD)n;
	return IFD_SUCCESS;
}

RESPONSECODE IFDHControl(DWORD Lun, DWORD dwControlCode, PUCHAR TxBuffer, DWORD TxLength,
			 PUCHAR RxBuffer, DWORD RxLength, PDWORD pdwBytesReturned)
{
	struct cf_slot *s;
	ssize_t n;

	if (pdwBytesReturned == NULL)
		return IFD_COMMUNICATION_ERROR;
	*pdwBytesReturned = 0;
	if (dwControlCode > UINT32_MAX || (TxBuffer == NULL && TxLength > 0) ||
	    (RxBuffer == NULL && RxLength > 0))
		return IFD_COMMUNICATION_ERROR;
	s = cf_get(Lun);
	if (s == NULL)
		return IFD_COMMUNICATION_ERROR;
	n = cf_control(s, (uint32_t)dwControlCode, TxBuffer, TxLength, RxBuffer, RxLength);
	if (n != -EOPNOTSUPP)
		complain(s, "control", n);
	cf_put(s);
	switch (n) {
	case -EOPNOTSUPP:
	case -ENOENT: /* the reader has no such file */
	case -ENOTTY:
		return IFD_ERROR_NOT_SUPPORTED;
	}
	if (n < 0)
		return code(n, IFD_COMMUNICATION_ERROR);
	*pdwBytesReturned = (DWORD)n;
	return IFD_SUCCESS;
}
