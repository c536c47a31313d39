/* SPDX-License-Identifier: BSD-3-Clause
 *
 * winscard.c - the functions of PC/SC that programs call: contexts and readers
 *
 * Each checks its arguments in the order in which pcsc-lite checks them, since programs
 * depend on the code that comes first, finds its context or card, and lets the other
 * files do the work. Where pcsc-lite would crash for a null pointer, the answer is
 * SCARD_E_INVALID_PARAMETER.
 */
#define _GNU_SOURCE
#include <stdlib.h>
#include <string.h>

#include "file.h"
#include "pcsc.h"

const SCARD_IO_REQUEST g_rgSCardT0Pci = {SCARD_PROTOCOL_T0, sizeof(SCARD_IO_REQUEST)};
const SCARD_IO_REQUEST g_rgSCardT1Pci = {SCARD_PROTOCOL_T1, sizeof(SCARD_IO_REQUEST)};
const SCARD_IO_REQUEST g_rgSCardRawPci = {SCARD_PROTOCOL_RAW, sizeof(SCARD_IO_REQUEST)};

/* ---- buffers ------------------------------------------------------------------------ */

LONG pc_hand_out(const void *from, size_t n, void *buffer, DWORD *length)
{
	DWORD room = *length;

	*length = n;
	if (room == SCARD_AUTOALLOCATE) {
		void *own;

		if (buffer == NULL)
			return SCARD_E_INVALID_PARAMETER;
		own = malloc(n > 0 ? n : 1);
		if (own == NULL)
			return SCARD_E_NO_MEMORY;
		memcpy(own, from, n);
		memcpy(buffer, &own, sizeof own);
		return SCARD_S_SUCCESS;
	}
	if (buffer == NULL)
		return SCARD_S_SUCCESS;
	if (room < n)
		return SCARD_E_INSUFFICIENT_BUFFER;
	memcpy(buffer, from, n);
	return SCARD_S_SUCCESS;
}

LONG pc_hand_out_cut(const void *from, size_t n, void *buffer, DWORD *length, DWORD room)
{
	LONG result;

	*length = room;
	result = pc_hand_out(from, n, buffer, length);
	if (result == SCARD_E_INSUFFICIENT_BUFFER)
		memcpy(buffer, from, room);
	return result;
}

/* ---- contexts ----------------------------------------------------------------------- */

static LONG establish(DWORD scope, SCARDCONTEXT *handle)
{
	struct pc_context *x;
	char root[PATH_MAX / 2];
	LONG result = SCARD_S_SUCCESS;
	unsigned number;
	int dir;

	if (handle == NULL)
		return SCARD_E_INVALID_PARAMETER;
	*handle = 0;
	pc_root(root, sizeof root);
	/* The mount is asked once, for itself and for the reader. */
	dir = pc_likely(root, &number);
	if (dir < 0)
		result = pc_available(root);
	if (result == SCARD_S_SUCCESS && scope > SCARD_SCOPE_GLOBAL)
		result = SCARD_E_INVALID_VALUE;
	if (result == SCARD_S_SUCCESS) {
		x = pc_context_new(dir, number);
		if (x != NULL) {
			*handle = x->handle;
			return SCARD_S_SUCCESS;
		}
		result = SCARD_E_NO_MEMORY;
	}
	cf_close(&dir);
	return result;
}

LONG SCardEstablishContext(DWORD dwScope, LPCVOID pvReserved1, LPCVOID pvReserved2,
			   SCARDCONTEXT *phContext)
{
	LONG result = establish(dwScope, phContext);

	(void)pvReserved1;
	(void)pvReserved2;
	pc_debug(__func__, result, "scope %lu", dwScope);
	return result;
}

LONG SCardReleaseContext(SCARDCONTEXT hContext)
{
	struct pc_context *x = pc_context_get(hContext);
	LONG result = x == NULL ? SCARD_E_INVALID_HANDLE : SCARD_S_SUCCESS;

	if (x != NULL) {
		pc_context_release(x);
		pc_context_put(x);
	}
	pc_debug(__func__, result, "context %lX", hContext);
	return result;
}

LONG SCardIsValidContext(SCARDCONTEXT hContext)
{
	struct pc_context *x = pc_context_get(hContext);

	if (x == NULL)
		return SCARD_E_INVALID_HANDLE;
	pc_context_put(x);
	return SCARD_S_SUCCESS;
}

LONG SCardFreeMemory(SCARDCONTEXT hContext, LPCVOID pvMem)
{
	LONG result = SCardIsValidContext(hContext);

	if (result == SCARD_S_SUCCESS)
		free((void *)pvMem);
	return result;
}

LONG SCardCancel(SCARDCONTEXT hContext)
{
	struct pc_context *x = pc_context_get(hContext);
	LONG result = x == NULL ? SCARD_E_INVALID_HANDLE : SCARD_S_SUCCESS;

	if (x != NULL) {
		pc_cancel(x);
		pc_context_put(x);
	}
	pc_debug(__func__, result, "context %lX", hContext);
	return result;
}

/* ---- readers ------------------------------------------------------------------------ */

LONG SCardListReaderGroups(SCARDCONTEXT hContext, LPSTR mszGroups, LPDWORD pcchGroups)
{
	static const char groups[] = "SCard$DefaultReaders\0";
	LONG result = SCardIsValidContext(hContext);

	if (result != SCARD_S_SUCCESS)
		return result;
	if (pcchGroups == NULL)
		return SCARD_E_INVALID_PARAMETER;
	return pc_hand_out(groups, sizeof groups, mszGroups, pcchGroups);
}

/* multi_string makes the names of readers into one string, each ended by NUL and the last
 * by two. */
static char *multi_string(const struct pc_reader *list, size_t n, size_t *size)
{
	char *s, *p;

	*size = 1;
	for (size_t i = 0; i < n; i++)
		*size += strlen(list[i].name) + 1;
	s = p = malloc(*size);
	for (size_t i = 0; s != NULL && i < n; i++)
		p = stpcpy(p, list[i].name) + 1;
	if (s != NULL)
		*p = '\0';
	return s;
}

static LONG list_readers(SCARDCONTEXT handle, LPSTR readers, LPDWORD length)
{
	struct pc_context *x;
	struct pc_reader *list = NULL;
	size_t n, size;
	char *names;
	LONG result;

	if (length == NULL)
		return SCARD_E_INVALID_PARAMETER;
	x = pc_context_get(handle);
	if (x == NULL)
		return SCARD_E_INVALID_HANDLE;
	result = pc_list(x->root, &list, &n);
	pc_context_put(x);
	if (result != SCARD_S_SUCCESS) {
		*length = result == SCARD_E_NO_READERS_AVAILABLE; /* the last NUL */
		return result;
	}
	names = multi_string(list, n, &size);
	result = names == NULL ? SCARD_E_NO_MEMORY : pc_hand_out(names, size, readers, length);
	free(names);
	free(list);
	return result;
}

LONG SCardListReaders(SCARDCONTEXT hContext, LPCSTR mszGroups, LPSTR mszReaders,
		      LPDWORD pcchReaders)
{
	LONG result = list_readers(hContext, mszReaders, pcchReaders);

	(void)mszGroups; /* all readers are in the one group */
	pc_debug(__func__, result, "context %lX", hContext);
	return result;
}

static LONG status_change(SCARDCONTEXT handle, DWORD timeout, SCARD_READERSTATE *states, DWORD n)
{
	struct pc_context *x;
	bool all_ignored = true;
	LONG result;

	if (states == NULL && n > 0)
		return SCARD_E_INVALID_PARAMETER;
	for (DWORD i = 0; i < n; i++) {
		if (states[i].szReader == NULL)
			return SCARD_E_INVALID_VALUE;
		all_ignored &= (states[i].dwCurrentState & SCARD_STATE_IGNORE) != 0;
	}
	if (all_ignored)
		return SCARD_S_SUCCESS;
	x = pc_context_get(handle);
	if (x == NULL)
		return SCARD_E_INVALID_HANDLE;
	result = pc_status_change(x, timeout, states, n);
	pc_context_put(x);
	return result;
}

LONG SCardGetStatusChange(SCARDCONTEXT hContext, DWORD dwTimeout,
			  SCARD_READERSTATE *rgReaderStates, DWORD cReaders)
{
	LONG result = status_change(hContext, dwTimeout, rgReaderStates, cReaders);

	pc_debug(__func__, result, "context %lX, %lu ms, %lu readers", hContext, dwTimeout, cReaders);
	return result;
}
