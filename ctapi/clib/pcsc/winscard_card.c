/* SPDX-License-Identifier: BSD-3-Clause
 *
 * winscard_card.c - the functions of PC/SC that take a card's handle
 */
#define _GNU_SOURCE
#include <stdlib.h>
#include <string.h>

#include "file.h"
#include "pcsc.h"

/* ---- connections -------------------------------------------------------------------- */

static bool valid_share(DWORD share)
{
	return share >= SCARD_SHARE_EXCLUSIVE && share <= SCARD_SHARE_DIRECT;
}

static bool valid_protocols(DWORD share, DWORD protocols)
{
	return share == SCARD_SHARE_DIRECT ||
	       protocols & (SCARD_PROTOCOL_T0 | SCARD_PROTOCOL_T1 | SCARD_PROTOCOL_RAW |
			    SCARD_PROTOCOL_ANY_OLD);
}

static LONG connect_to(SCARDCONTEXT handle, const char *reader, DWORD share, DWORD protocols,
		       SCARDHANDLE *phCard, DWORD *active)
{
	struct pc_context *x;
	struct pc_card *c = NULL;
	LONG result;

	if (phCard == NULL || active == NULL)
		return SCARD_E_INVALID_PARAMETER;
	*phCard = 0;
	if (reader == NULL)
		return SCARD_E_UNKNOWN_READER;
	if (strlen(reader) > MAX_READERNAME)
		return SCARD_E_INVALID_VALUE;
	x = pc_context_get(handle);
	if (x == NULL)
		return SCARD_E_INVALID_HANDLE;
	*active = 0;
	if (!valid_protocols(share, protocols))
		result = SCARD_E_PROTO_MISMATCH;
	else if (!valid_share(share))
		result = SCARD_E_INVALID_VALUE;
	else
		result = pc_connect(x, reader, share, protocols, &c);
	if (result == SCARD_S_SUCCESS) {
		DWORD protocol = c->protocol;

		if (pc_card_add(x, c)) {
			*phCard = c->handle;
			*active = protocol;
		} else {
			pc_end(c);
			pthread_mutex_destroy(&c->io);
			free(c);
			result = SCARD_E_INVALID_HANDLE;
		}
	}
	pc_context_put(x);
	return result;
}

LONG SCardConnect(SCARDCONTEXT hContext, LPCSTR szReader, DWORD dwShareMode,
		  DWORD dwPreferredProtocols, SCARDHANDLE *phCard, LPDWORD pdwActiveProtocol)
{
	LONG result = connect_to(hContext, szReader, dwShareMode, dwPreferredProtocols, phCard,
				 pdwActiveProtocol);

	pc_debug(__func__, result, "context %lX, %s, share %lu, protocols %lX", hContext,
		 szReader == NULL ? "no name" : szReader, dwShareMode, dwPreferredProtocols);
	return result;
}

/* take finds a card and takes its turn; give ends that. */
static struct pc_card *take(SCARDHANDLE handle)
{
	struct pc_card *c = pc_card_get(handle);

	if (c != NULL)
		pthread_mutex_lock(&c->io);
	return c;
}

static void give(struct pc_card *c)
{
	pthread_mutex_unlock(&c->io);
	pc_card_put(c);
}

static LONG reconnect(SCARDHANDLE handle, DWORD share, DWORD protocols, DWORD initialization,
		      DWORD *active)
{
	struct pc_card *c;
	LONG result;

	if (active == NULL)
		return SCARD_E_INVALID_PARAMETER;
	c = take(handle);
	if (c == NULL)
		return SCARD_E_INVALID_HANDLE;
	*active = 0;
	if (!valid_protocols(share, protocols))
		result = SCARD_E_PROTO_MISMATCH;
	else if (!valid_share(share) || initialization > SCARD_UNPOWER_CARD)
		result = SCARD_E_INVALID_VALUE;
	else
		result = pc_reconnect(c, share, protocols, initialization);
	if (result == SCARD_S_SUCCESS)
		*active = c->protocol;
	give(c);
	return result;
}

LONG SCardReconnect(SCARDHANDLE hCard, DWORD dwShareMode, DWORD dwPreferredProtocols,
		    DWORD dwInitialization, LPDWORD pdwActiveProtocol)
{
	LONG result = reconnect(hCard, dwShareMode, dwPreferredProtocols, dwInitialization,
				pdwActiveProtocol);

	pc_debug(__func__, result, "card %lX, share %lu, protocols %lX, initialization %lu", hCard,
		 dwShareMode, dwPreferredProtocols, dwInitialization);
	return result;
}

LONG SCardDisconnect(SCARDHANDLE hCard, DWORD dwDisposition)
{
	struct pc_card *c = take(hCard);
	LONG result = SCARD_E_INVALID_HANDLE;

	if (c != NULL) {
		result = dwDisposition > SCARD_EJECT_CARD ? SCARD_E_INVALID_VALUE :
							    pc_disconnect(c, dwDisposition);
		if (result == SCARD_S_SUCCESS)
			pc_card_remove(c);
		give(c);
	}
	pc_debug(__func__, result, "card %lX, disposition %lu", hCard, dwDisposition);
	return result;
}

LONG SCardBeginTransaction(SCARDHANDLE hCard)
{
	struct pc_card *c = take(hCard);
	LONG result = SCARD_E_INVALID_HANDLE;

	if (c != NULL) {
		result = pc_begin(c);
		give(c);
	}
	pc_debug(__func__, result, "card %lX", hCard);
	return result;
}

LONG SCardEndTransaction(SCARDHANDLE hCard, DWORD dwDisposition)
{
	struct pc_card *c = take(hCard);
	LONG result = SCARD_E_INVALID_HANDLE;

	if (c != NULL) {
		result = dwDisposition > SCARD_EJECT_CARD ? SCARD_E_INVALID_VALUE :
							    pc_finish(c, dwDisposition);
		give(c);
	}
	pc_debug(__func__, result, "card %lX, disposition %lu", hCard, dwDisposition);
	return result;
}

/* ---- state -------------------------------------------------------------------------- */

/* card_state is the state of a slot as SCardStatus has it. */
static DWORD card_state(const struct cardfs_connection *now)
{
	DWORD state = (DWORD)(uint16_t)now->changes << 16;

	if (now->card == 0)
		return state | SCARD_ABSENT;
	if (now->natr == 0)
		return state | SCARD_PRESENT | SCARD_SWALLOWED;
	return state | SCARD_PRESENT | SCARD_POWERED | SCARD_NEGOTIABLE;
}

static LONG status(SCARDHANDLE handle, LPSTR reader, LPDWORD reader_length, LPDWORD state,
		   LPDWORD protocol, LPBYTE atr, LPDWORD atr_length)
{
	struct cardfs_connection now;
	DWORD none = 0, no_atr = 0, reader_room, atr_room;
	struct pc_card *c;
	LONG result, second;

	if (state != NULL)
		*state = 0;
	if (protocol != NULL)
		*protocol = 0;
	if (reader_length == NULL)
		reader_length = &none;
	if (atr_length == NULL)
		atr_length = &no_atr;
	reader_room = *reader_length;
	atr_room = *atr_length;
	*reader_length = *atr_length = 0;
	c = take(handle);
	if (c == NULL)
		return SCARD_E_INVALID_HANDLE;
	result = pc_status(c, &now);
	if (result == SCARD_S_SUCCESS) {
		if (state != NULL)
			*state = card_state(&now);
		if (protocol != NULL)
			*protocol = c->protocol;
		*atr_length = now.natr;
		result = pc_hand_out_cut(c->name, strlen(c->name) + 1, reader, reader_length, reader_room);
		if (result == SCARD_S_SUCCESS || result == SCARD_E_INSUFFICIENT_BUFFER) {
			second = pc_hand_out_cut(now.atr, now.natr, atr, atr_length, atr_room);
			if (second != SCARD_S_SUCCESS)
				result = second;
		}
	}
	give(c);
	return result;
}

LONG SCardStatus(SCARDHANDLE hCard, LPSTR szReaderName, LPDWORD pcchReaderLen, LPDWORD pdwState,
		 LPDWORD pdwProtocol, LPBYTE pbAtr, LPDWORD pcbAtrLen)
{
	LONG result = status(hCard, szReaderName, pcchReaderLen, pdwState, pdwProtocol, pbAtr,
			     pcbAtrLen);

	pc_debug(__func__, result, "card %lX", hCard);
	return result;
}

/* ---- commands ----------------------------------------------------------------------- */

static LONG transmit(SCARDHANDLE handle, const SCARD_IO_REQUEST *send, LPCBYTE tx, DWORD ntx,
		     SCARD_IO_REQUEST *receive, LPBYTE rx, LPDWORD nrx)
{
	struct pc_card *c;
	size_t n;
	LONG result;

	if (tx == NULL || rx == NULL || nrx == NULL || send == NULL)
		return SCARD_E_INVALID_PARAMETER;
	c = take(handle);
	if (c == NULL) {
		*nrx = 0;
		return SCARD_E_INVALID_HANDLE;
	}
	n = *nrx;
	if (ntx > MAX_BUFFER_SIZE_EXTENDED) {
		give(c);
		return SCARD_E_INSUFFICIENT_BUFFER;
	}
	*nrx = 0;
	result = pc_transmit(c, send->dwProtocol, tx, ntx, rx, &n);
	*nrx = n;
	if (result == SCARD_S_SUCCESS && receive != NULL) /* the number, not the bit */
		receive->dwProtocol = send->dwProtocol == SCARD_PROTOCOL_RAW ?
					      SCARD_PROTOCOL_RAW : send->dwProtocol == SCARD_PROTOCOL_T1;
	give(c);
	return result;
}

LONG SCardTransmit(SCARDHANDLE hCard, const SCARD_IO_REQUEST *pioSendPci, LPCBYTE pbSendBuffer,
		   DWORD cbSendLength, SCARD_IO_REQUEST *pioRecvPci, LPBYTE pbRecvBuffer,
		   LPDWORD pcbRecvLength)
{
	LONG result = transmit(hCard, pioSendPci, pbSendBuffer, cbSendLength, pioRecvPci,
			       pbRecvBuffer, pcbRecvLength);

	pc_debug(__func__, result, "card %lX, %lu bytes, %lu back", hCard, cbSendLength,
		 pcbRecvLength == NULL ? 0 : *pcbRecvLength);
	return result;
}

static LONG control(SCARDHANDLE handle, DWORD code, LPCVOID tx, DWORD ntx, LPVOID rx, DWORD room,
		    LPDWORD returned)
{
	struct pc_card *c;
	size_t n = 0;
	LONG result;

	if (returned != NULL)
		*returned = 0;
	c = take(handle);
	if (c == NULL)
		return SCARD_E_INVALID_HANDLE;
	if (ntx > MAX_BUFFER_SIZE_EXTENDED)
		result = SCARD_E_INSUFFICIENT_BUFFER;
	else if ((tx == NULL && ntx > 0) || (rx == NULL && room > 0) || code > UINT32_MAX)
		result = SCARD_E_INVALID_PARAMETER;
	else {
		n = room;
		result = pc_control(c, (uint32_t)code, tx, ntx, rx, &n);
	}
	if (returned != NULL && (result == SCARD_S_SUCCESS || result == SCARD_E_INSUFFICIENT_BUFFER))
		*returned = n;
	give(c);
	return result;
}

LONG SCardControl(SCARDHANDLE hCard, DWORD dwControlCode, LPCVOID pbSendBuffer,
		  DWORD cbSendLength, LPVOID pbRecvBuffer, DWORD cbRecvLength,
		  LPDWORD lpBytesReturned)
{
	LONG result = control(hCard, dwControlCode, pbSendBuffer, cbSendLength, pbRecvBuffer,
			      cbRecvLength, lpBytesReturned);

	pc_debug(__func__, result, "card %lX, code %lX, %lu bytes", hCard, dwControlCode,
		 cbSendLength);
	return result;
}

/* ---- attributes --------------------------------------------------------------------- */

static LONG get_attribute(SCARDHANDLE handle, DWORD id, LPBYTE buffer, LPDWORD length)
{
	uint8_t value[CF_TEXT_MAX];
	struct pc_card *c;
	size_t n = 0;
	LONG result;

	if (length == NULL)
		return SCARD_E_INVALID_PARAMETER;
	if (*length == SCARD_AUTOALLOCATE && buffer == NULL)
		return SCARD_E_INVALID_PARAMETER;
	c = take(handle);
	if (c == NULL)
		return SCARD_E_INVALID_HANDLE;
	if (buffer != NULL && *length != SCARD_AUTOALLOCATE && *length > MAX_BUFFER_SIZE)
		result = SCARD_E_INSUFFICIENT_BUFFER; /* so says pcsc-lite */
	else
		result = pc_attribute(c, id, value, &n);
	give(c);
	if (result == SCARD_S_SUCCESS)
		result = pc_hand_out_cut(value, n, buffer, length, *length);
	return result;
}

LONG SCardGetAttrib(SCARDHANDLE hCard, DWORD dwAttrId, LPBYTE pbAttr, LPDWORD pcbAttrLen)
{
	LONG result = get_attribute(hCard, dwAttrId, pbAttr, pcbAttrLen);

	pc_debug(__func__, result, "card %lX, attribute %lX", hCard, dwAttrId);
	return result;
}

LONG SCardSetAttrib(SCARDHANDLE hCard, DWORD dwAttrId, LPCBYTE pbAttr, DWORD cbAttrLen)
{
	LONG result = SCARD_E_INVALID_PARAMETER;
	struct pc_card *c;

	if (pbAttr != NULL && cbAttrLen > 0) {
		c = take(hCard);
		if (c == NULL) {
			result = SCARD_E_INVALID_HANDLE;
		} else {
			/* No reader has an attribute that can be set. */
			result = cbAttrLen > MAX_BUFFER_SIZE ? SCARD_E_INSUFFICIENT_BUFFER :
							       pc_settable(c, dwAttrId);
			give(c);
		}
	}
	pc_debug(__func__, result, "card %lX, attribute %lX", hCard, dwAttrId);
	return result;
}
