/* SPDX-License-Identifier: BSD-3-Clause
 *
 * ifd.c - the entry points of the IFD handler, which pcscd calls
 *
 * Each finds its slot (slots.h), lets presence.h or card.h do the work, and maps the
 * errno to a code of the IFD handler. A reader that is not there is a reader without a
 * card, not an error: pcscd never tries again what failed when it started.
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
#include "presence.h"
#include "slots.h"

/* pcscd's own log; a program that loads the library otherwise has none. */
extern void log_msg(int priority, const char *format, ...)
	__attribute__((weak, format(printf, 2, 3)));

enum { LOG_INFO = 1, LOG_ERROR = 2 };

#define say(priority, ...)                                    \
	do {                                                  \
		if (log_msg != NULL)                          \
			log_msg(priority, "cardfs: " __VA_ARGS__); \
	} while (0)

/* no_card reports whether a card operation failed for want of a card. */
static bool no_card(ssize_t error)
{
	switch (error) {
	case -ENOMEDIUM:
	case -ENODEV:
	case -ENOENT:
	case -ENOTCONN:
	case -EAGAIN: /* the reader is starting */
		return true;
	}
	return false;
}

/* code maps the result of a card operation; other is for what has no code. */
static RESPONSECODE code(ssize_t error, RESPONSECODE other)
{
	if (error >= 0)
		return IFD_SUCCESS;
	if (no_card(error))
		return IFD_ICC_NOT_PRESENT;
	switch (error) {
	case -ETIMEDOUT:
		return IFD_RESPONSE_TIMEOUT;
	case CF_TOO_LONG:
		return IFD_ERROR_INSUFFICIENT_BUFFER;
	}
	return other;
}

/* complain logs a failure that needs a person to look at it. */
static void complain(const struct cf_slot *s, const char *what, ssize_t error)
{
	if (error < 0 && !no_card(error))
		say(LOG_ERROR, "%s, reader %lx: %s; the slot's status file has the reason",
		    what, s->lun, strerror((int)-error));
}

/* ---- channels ------------------------------------------------------------- */

/* explain logs why there will be no card, if the mount cannot be used. It does so once,
 * as the slot is opened: later there is no event to log it at. */
static void explain(DWORD lun, const char *root)
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
	bool other_interface, found = true;

	if (s == NULL)
		return IFD_COMMUNICATION_ERROR;
	explain(lun, name->root);
	/* pcscd saw the device before cardfs did, perhaps. It asks for the number of
	 * slots only once, right after this. */
	if (name->kind == CF_BY_USB)
		found = cf_wait_found(s);
	other_interface = !found && cf_other_interface(s);
	if (!found && !other_interface)
		say(LOG_INFO, "reader %lx: not on %s yet, no card until it is", lun, name->root);
	if (other_interface)
		cf_remove(s);
	cf_put(s);
	/* pcscd offers a device once for each of its interfaces. */
	return other_interface ? IFD_NO_SUCH_DEVICE : IFD_SUCCESS;
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
	cf_end_session(s);
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

/* answer stores a value; without a buffer, it says how much room the value takes. */
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

/* PC/SC part 3 has 4-byte values; clients expect the host's byte order. */
static RESPONSECODE answer_word(uint32_t word, PDWORD length, PUCHAR value)
{
	return answer(&word, sizeof word, length, value);
}

/* from_status answers with a value of the status file. */
static RESPONSECODE from_status(struct cf_slot *s, DWORD tag, PDWORD length, PUCHAR value)
{
	char text[CF_TEXT_MAX + 1];
	uint8_t v[CF_TEXT_MAX];
	ssize_t n;

	if (!cf_status(s, text, sizeof text))
		return IFD_ERROR_TAG;
	n = cf_attribute(text, tag, v);
	return n < 0 ? IFD_ERROR_TAG : answer(v, (size_t)n, length, value);
}

/* atr_now stores the ATR of the card that is in. The last one is kept until pcscd powers the
 * slot off, which it does not do when the card was taken out. */
static size_t atr_now(struct cf_slot *s, uint8_t *atr)
{
	return cf_state_of(s) == CF_CARD ? (size_t)cf_atr(s, atr) : 0;
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
		cf_polling(s);
		return answer(&poll, sizeof poll, length, value);
	case TAG_IFD_STOP_POLLING_THREAD:
		return answer(&stop, sizeof stop, length, value);
	case TAG_IFD_ATR:
	case SCARD_ATTR_ATR_STRING:
		return answer(atr, atr_now(s, atr), length, value);
	case TAG_IFD_SLOTNUM:
		return answer_byte(s->index, length, value);
	case SCARD_ATTR_ICC_PRESENCE: /* 2: present, and the reader does not swallow cards */
		return answer_byte(cf_state_of(s) == CF_CARD ? 2 : 0, length, value);
	case SCARD_ATTR_ICC_INTERFACE_STATUS:
		return answer_byte(atr_now(s, atr) > 0, length, value);
	case SCARD_ATTR_MAXINPUT:
		return answer_word(CF_COMMAND_MAX, length, value);
	}
	/* TAG_IFD_POLLING_THREAD_KILLABLE is not answered: a polling thread must not be
	 * killed, as it may hold a lock. */
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
			cf_unplugged(s);
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
			/* pcscd has room for any ATR. */
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
	if (Flags != 0) /* the mount negotiates PPS1 to PPS3 by itself */
		return IFD_ERROR_NOT_SUPPORTED;
	s = cf_get(Lun);
	if (s == NULL)
		return IFD_COMMUNICATION_ERROR;
	n = cf_protocol(s, Protocol == SCARD_PROTOCOL_T1);
	if (n != -ENOTSUP)
		complain(s, "protocol", n);
	cf_put(s);
	switch (n) {
	case -ENOTSUP: /* the same number as EOPNOTSUPP */
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
	/* Not IFD_ICC_NOT_PRESENT: pcscd would mark the slot empty, in the client's
	 * thread. If its event thread has just powered the next card, that card would
	 * stay unseen (observed in pcscd 1.9.9). The event thread learns of the removal
	 * by itself. */
	if (no_card(n))
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
