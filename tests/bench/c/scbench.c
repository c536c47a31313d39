/* SPDX-License-Identifier: BSD-3-Clause
 *
 * scbench - time SCardTransmit (benchmarks only)
 *
 *   scbench READER COUNT APDU    COUNT exchanges with the first reader whose name
 *                                contains READER, after a tenth as many unmeasured
 *   scbench READER watch         a line "1 NS" or "0 NS" when SCardGetStatusChange tells
 *                                that a card came or went, NS being CLOCK_MONOTONIC
 *
 * PCSCLITE_CSOCK_NAME says which pcscd is meant. A reader or card that is not
 * there yet is waited for, 20 seconds long.
 */
#include <winscard.h>

#include "bench.h"

static void check(LONG rv, const char *what)
{
	if (rv == SCARD_S_SUCCESS)
		return;
	fprintf(stderr, "scbench: %s: %s\n", what, pcsc_stringify_error(rv));
	exit(1);
}

/* The name of the first reader that contains part. with_card: wait until it has a
 * card. */
static char *find(SCARDCONTEXT ctx, const char *part, int with_card)
{
	int64_t deadline = now() + INT64_C(20000000000);
	while (now() < deadline) {
		LPSTR names = NULL;
		DWORD len = SCARD_AUTOALLOCATE;
		char *found = NULL;
		if (SCardListReaders(ctx, NULL, (LPSTR)&names, &len) == SCARD_S_SUCCESS) {
			for (char *p = names; *p && !found; p += strlen(p) + 1)
				if (strstr(p, part) != NULL)
					found = strdup(p);
			SCardFreeMemory(ctx, names);
		}
		/* Without a reader: wait until the list of readers changes. */
		SCARD_READERSTATE st = {.szReader = found ? found : "\\\\?PnP?\\Notification"};
		SCardGetStatusChange(ctx, 0, &st, 1);
		if (found && !with_card)
			return found;
		if (found && (st.dwEventState & SCARD_STATE_PRESENT) && !(st.dwEventState & SCARD_STATE_MUTE))
			return found;
		st.dwCurrentState = st.dwEventState & ~(DWORD)SCARD_STATE_CHANGED;
		SCardGetStatusChange(ctx, 1000, &st, 1);
		free(found);
	}
	fprintf(stderr, "scbench: no %s named %s\n", with_card ? "card in a reader" : "reader", part);
	exit(1);
}

static void watch(SCARDCONTEXT ctx, const char *name)
{
	SCARD_READERSTATE st = {.szReader = name};
	int was = -1;
	for (;;) {
		check(SCardGetStatusChange(ctx, INFINITE, &st, 1), "SCardGetStatusChange");
		int64_t t = now();
		int is = (st.dwEventState & SCARD_STATE_PRESENT) != 0;
		if (is != was)
			printf("%d %lld\n", is, (long long)t);
		fflush(stdout);
		was = is;
		st.dwCurrentState = st.dwEventState & ~(DWORD)SCARD_STATE_CHANGED;
	}
}

int main(int argc, char **argv)
{
	uint8_t apdu[300], answer[300];
	int watching = argc == 3 && strcmp(argv[2], "watch") == 0;
	int count = argc == 4 ? atoi(argv[2]) : 0;
	int len = argc == 4 ? unhex(argv[3], apdu, sizeof apdu) : 0;
	if (!watching && (count <= 0 || len < 4)) {
		fprintf(stderr, "usage: scbench READER COUNT APDU | READER watch\n");
		return 2;
	}

	SCARDCONTEXT ctx;
	SCARDHANDLE card;
	DWORD protocol;
	check(SCardEstablishContext(SCARD_SCOPE_SYSTEM, NULL, NULL, &ctx), "SCardEstablishContext");
	char *name = find(ctx, argv[1], !watching);
	if (watching)
		watch(ctx, name);
	check(SCardConnect(ctx, name, SCARD_SHARE_SHARED, SCARD_PROTOCOL_T0 | SCARD_PROTOCOL_T1, &card,
	                   &protocol),
	      "SCardConnect");
	const SCARD_IO_REQUEST *pci = protocol == SCARD_PROTOCOL_T0 ? SCARD_PCI_T0 : SCARD_PCI_T1;
	int64_t *ns = calloc((size_t)count + 1, sizeof *ns);
	for (int i = -count / 10; i < count; i++) {
		DWORD got = sizeof answer;
		int64_t t = now();
		check(SCardTransmit(card, pci, apdu, (DWORD)len, NULL, answer, &got), "SCardTransmit");
		if (i >= 0)
			ns[i] = now() - t;
		if (got < 2) {
			fprintf(stderr, "scbench: an answer of %lu bytes\n", (unsigned long)got);
			return 1;
		}
	}
	print_samples(ns, count);
	free(ns);
	free(name);
	SCardDisconnect(card, SCARD_LEAVE_CARD);
	SCardReleaseContext(ctx);
	return 0;
}
