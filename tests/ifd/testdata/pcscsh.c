/* SPDX-License-Identifier: BSD-3-Clause
 *
 * pcscsh: a PC/SC client that does what it is told, a line for a command and a
 * line for its answer, "ok ..." or the name of the error.
 *
 *	list                         ok NAME|NAME...
 *	state NAME                   ok present|empty|mute|unknown [ATR]
 *	await NAME present|empty [ATR]  waits for that state, at most 20 s
 *	connect NAME [MODE [PROTO]]  MODE shared, exclusive, direct; PROTO 0, 1, any, raw
 *	                             ok T=1
 *	soon NAME                    connect, tried anew while there is no card; at most 20 s
 *	work NAME HEX                connect and send, until it is answered; at most 20 s
 *	                             ok HEX
 *	reconnect leave|reset|unpower
 *	disconnect leave|reset|unpower|eject
 *	send HEX                     ok HEX
 *	big N                        echoes N bytes by 80EE, extended: ok if they come back
 *	get N                        N bytes by 80EC, extended: ok if they are right
 *	control CODE [HEX]           ok HEX
 *	attrib TAG                   ok HEX
 *	begin / end [reset]          a transaction
 */
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include <winscard.h>
#include <reader.h>

static SCARDCONTEXT context;
static SCARDHANDLE card;
static DWORD protocol;
static unsigned char tx[66000], rx[66000];

static const char *name_of(LONG rv)
{
	static const struct { LONG code; const char *name; } names[] = {
		{SCARD_E_NO_SMARTCARD, "NO_SMARTCARD"}, {SCARD_W_REMOVED_CARD, "REMOVED_CARD"},
		{SCARD_W_RESET_CARD, "RESET_CARD"}, {SCARD_W_UNRESPONSIVE_CARD, "UNRESPONSIVE_CARD"},
		{SCARD_W_UNPOWERED_CARD, "UNPOWERED_CARD"}, {SCARD_E_NOT_TRANSACTED, "NOT_TRANSACTED"},
		{SCARD_E_READER_UNAVAILABLE, "READER_UNAVAILABLE"}, {SCARD_E_UNKNOWN_READER, "UNKNOWN_READER"},
		{SCARD_E_PROTO_MISMATCH, "PROTO_MISMATCH"}, {SCARD_E_SHARING_VIOLATION, "SHARING_VIOLATION"},
		{SCARD_E_NO_SERVICE, "NO_SERVICE"}, {SCARD_E_INVALID_HANDLE, "INVALID_HANDLE"},
		{SCARD_E_UNSUPPORTED_FEATURE, "UNSUPPORTED_FEATURE"}, {SCARD_E_TIMEOUT, "TIMEOUT"},
		{SCARD_E_INSUFFICIENT_BUFFER, "INSUFFICIENT_BUFFER"}, {SCARD_E_NO_READERS_AVAILABLE, "NO_READERS"},
		{SCARD_E_INVALID_PARAMETER, "INVALID_PARAMETER"}, {SCARD_F_COMM_ERROR, "COMM_ERROR"},
	};
	static char text[32];

	for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
		if (names[i].code == rv)
			return names[i].name;
	snprintf(text, sizeof text, "ERROR_%08lX", (unsigned long)rv & 0xFFFFFFFF);
	return text;
}

static double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static LONG establish(void)
{
	return context != 0 ? SCARD_S_SUCCESS : SCardEstablishContext(SCARD_SCOPE_SYSTEM, NULL, NULL, &context);
}

/* lost discards a context that a restarted pcscd does not know. */
static LONG lost(LONG rv)
{
	if (rv == SCARD_E_NO_SERVICE || rv == SCARD_E_INVALID_HANDLE || rv == SCARD_F_COMM_ERROR || rv == SCARD_E_SERVICE_STOPPED) {
		SCardReleaseContext(context);
		context = 0;
	}
	return rv;
}

static const char *state_word(DWORD state)
{
	if (state & SCARD_STATE_MUTE)
		return "mute";
	return state & SCARD_STATE_PRESENT ? "present" : state & SCARD_STATE_EMPTY ? "empty" : "unknown";
}

static void hex(const unsigned char *p, DWORD n)
{
	printf("ok ");
	for (DWORD i = 0; i < n; i++)
		printf("%02X", p[i]);
	printf("\n");
}

static DWORD unhex(const char *p, unsigned char *to)
{
	DWORD n = 0;
	unsigned byte;

	for (; p[0] != '\0' && p[1] != '\0' && sscanf(p, "%2x", &byte) == 1; p += 2)
		to[n++] = (unsigned char)byte;
	return n;
}

static void result(LONG rv)
{
	if (rv == SCARD_S_SUCCESS)
		printf("ok\n");
	else
		printf("%s\n", name_of(rv));
}

static LONG transmit(DWORD n, DWORD *got)
{
	*got = sizeof rx;
	return SCardTransmit(card, protocol == SCARD_PROTOCOL_T0 ? SCARD_PCI_T0 : protocol == SCARD_PROTOCOL_T1 ?
			     SCARD_PCI_T1 : SCARD_PCI_RAW, tx, n, NULL, rx, got);
}

static LONG connect_to(const char *name, const char *mode, const char *proto)
{
	DWORD share = !strcmp(mode, "direct") ? SCARD_SHARE_DIRECT :
		!strcmp(mode, "exclusive") ? SCARD_SHARE_EXCLUSIVE : SCARD_SHARE_SHARED;
	DWORD want = !strcmp(proto, "0") ? SCARD_PROTOCOL_T0 : !strcmp(proto, "1") ? SCARD_PROTOCOL_T1 :
		!strcmp(proto, "raw") ? SCARD_PROTOCOL_RAW : SCARD_PROTOCOL_ANY;
	LONG rv = establish();

	if (share == SCARD_SHARE_DIRECT && want == SCARD_PROTOCOL_ANY)
		want = 0;
	/* One card at a time: pcscd counts the handles. */
	if (card != 0)
		SCardDisconnect(card, SCARD_LEAVE_CARD);
	card = 0;
	if (rv == SCARD_S_SUCCESS)
		rv = SCardConnect(context, name, share, want, &card, &protocol);
	return lost(rv);
}

/* await_state waits until the reader shows (or hides) a card, of this ATR if natr > 0. */
static LONG await_state(const char *name, bool present, const unsigned char *atr, DWORD natr, double until)
{
	SCARD_READERSTATE s = {.szReader = name, .dwCurrentState = SCARD_STATE_UNAWARE};

	for (;;) {
		LONG rv = establish();
		long left = (long)((until - now()) * 1000);

		if (left <= 0)
			return SCARD_E_TIMEOUT;
		if (rv == SCARD_S_SUCCESS)
			rv = lost(SCardGetStatusChange(context, (DWORD)left, &s, 1));
		if (rv == SCARD_S_SUCCESS) {
			if (!!(s.dwEventState & SCARD_STATE_PRESENT) == present &&
			    (natr == 0 || (s.cbAtr == natr && memcmp(s.rgbAtr, atr, natr) == 0)))
				return rv;
			s.dwCurrentState = s.dwEventState & ~(DWORD)SCARD_STATE_CHANGED;
			continue;
		}
		s.dwCurrentState = SCARD_STATE_UNAWARE;
		usleep(5000); /* pcscd is being restarted */
	}
}

static bool again(LONG rv)
{
	return rv == SCARD_E_NO_SMARTCARD || rv == SCARD_W_REMOVED_CARD || rv == SCARD_E_NO_SERVICE ||
	       rv == SCARD_E_UNKNOWN_READER || rv == SCARD_E_READER_UNAVAILABLE || rv == SCARD_F_COMM_ERROR ||
	       rv == SCARD_E_INVALID_HANDLE;
}

/* connect_soon connects as soon as possible. */
static LONG connect_soon(const char *name, double until)
{
	LONG rv = connect_to(name, "shared", "any");

	while (again(rv) && now() < until) {
		if (rv == SCARD_E_NO_SMARTCARD || rv == SCARD_W_REMOVED_CARD)
			await_state(name, true, NULL, 0, until);
		else
			usleep(2000);
		rv = connect_to(name, "shared", "any");
	}
	return rv;
}

/* work is what a program does that only wants its command done: pcscd may still
 * show the card that left a moment ago. */
static LONG work(const char *name, const char *command, double until, DWORD *got)
{
	LONG rv;

	do {
		rv = connect_soon(name, until);
		if (rv != SCARD_S_SUCCESS)
			return rv;
		rv = lost(transmit(unhex(command, tx), got));
	} while ((again(rv) || rv == SCARD_E_NOT_TRANSACTED || rv == SCARD_W_RESET_CARD) && now() < until);
	return rv;
}

static DWORD disposition(const char *word)
{
	return !strcmp(word, "reset") ? SCARD_RESET_CARD : !strcmp(word, "unpower") ? SCARD_UNPOWER_CARD :
		!strcmp(word, "eject") ? SCARD_EJECT_CARD : SCARD_LEAVE_CARD;
}

/* echo and get build extended commands of CLA 80, which the simulated card has. */
static void echo(DWORD n)
{
	DWORD got, ntx = 0;
	LONG rv;

	memcpy(tx, (unsigned char[]){0x80, 0xEE, 0, 0, 0, (unsigned char)(n >> 8), (unsigned char)n}, 7);
	ntx = 7;
	for (DWORD i = 0; i < n; i++)
		tx[ntx++] = (unsigned char)(i * 7 + n);
	tx[ntx++] = 0;
	tx[ntx++] = 0;
	rv = transmit(ntx, &got);
	if (rv != SCARD_S_SUCCESS)
		result(rv);
	else if (got != n + 2 || memcmp(rx, tx + 7, n) != 0)
		printf("WRONG %lu of %lu, SW %02X%02X\n", (unsigned long)got, (unsigned long)n + 2, rx[got - 2], rx[got - 1]);
	else
		hex(rx + n, 2);
}

static void get(DWORD n)
{
	DWORD got;
	LONG rv;

	memcpy(tx, (unsigned char[]){0x80, 0xEC, (unsigned char)(n >> 8), (unsigned char)n, 0, 0, 0}, 7);
	rv = transmit(7, &got);
	if (rv != SCARD_S_SUCCESS) {
		result(rv);
		return;
	}
	for (DWORD i = 0; got == n + 2 && i < n; i++)
		if (rx[i] != (unsigned char)i)
			got = 1;
	if (got == n + 2)
		hex(rx + n, 2);
	else
		printf("WRONG %lu of %lu\n", (unsigned long)got, (unsigned long)n + 2);
}

int main(void)
{
	static char line[140000];

	setvbuf(stdout, NULL, _IOLBF, 0);
	while (fgets(line, sizeof line, stdin) != NULL) {
		/* Words are separated by tabs, because names of readers contain blanks. */
		char *w[5] = {"", "", "", "", ""};
		int n = 0;
		LONG rv = SCARD_S_SUCCESS;
		DWORD got;

		line[strcspn(line, "\n")] = '\0';
		for (char *p = strtok(line, "\t"); p != NULL && n < 5; p = strtok(NULL, "\t"))
			w[n++] = p;
		if (!strcmp(w[0], "list")) {
			char names[4096];

			got = sizeof names;
			rv = establish();
			if (rv == SCARD_S_SUCCESS)
				rv = lost(SCardListReaders(context, NULL, names, &got));
			if (rv != SCARD_S_SUCCESS) {
				result(rv);
				continue;
			}
			printf("ok ");
			for (char *p = names; *p != '\0'; p += strlen(p) + 1)
				printf("%s%s", p == names ? "" : "|", p);
			printf("\n");
		} else if (!strcmp(w[0], "state")) {
			SCARD_READERSTATE s = {.szReader = w[1]};

			rv = establish();
			if (rv == SCARD_S_SUCCESS)
				rv = lost(SCardGetStatusChange(context, 0, &s, 1));
			if (rv != SCARD_S_SUCCESS) {
				result(rv);
				continue;
			}
			printf("ok %s ", state_word(s.dwEventState));
			for (DWORD i = 0; i < s.cbAtr; i++)
				printf("%02X", s.rgbAtr[i]);
			printf("\n");
		} else if (!strcmp(w[0], "await")) {
			got = unhex(w[3], tx);
			result(await_state(w[1], !strcmp(w[2], "present"), tx, got, now() + 20));
		} else if (!strcmp(w[0], "connect") || !strcmp(w[0], "soon")) {
			rv = !strcmp(w[0], "soon") ? connect_soon(w[1], now() + 20) :
				connect_to(w[1], w[2], n > 3 ? w[3] : "any");
			if (rv != SCARD_S_SUCCESS)
				result(rv);
			else
				printf("ok T=%s\n", protocol == SCARD_PROTOCOL_T0 ? "0" : protocol == SCARD_PROTOCOL_T1 ? "1" : "-");
		} else if (!strcmp(w[0], "work")) {
			rv = work(w[1], w[2], now() + 20, &got);
			if (rv == SCARD_S_SUCCESS)
				hex(rx, got);
			else
				result(rv);
		} else if (!strcmp(w[0], "reconnect")) {
			result(SCardReconnect(card, SCARD_SHARE_SHARED, SCARD_PROTOCOL_ANY, disposition(w[1]), &protocol));
		} else if (!strcmp(w[0], "disconnect")) {
			result(SCardDisconnect(card, disposition(w[1])));
		} else if (!strcmp(w[0], "send")) {
			rv = transmit(unhex(w[1], tx), &got);
			if (rv == SCARD_S_SUCCESS)
				hex(rx, got);
			else
				result(rv);
		} else if (!strcmp(w[0], "big")) {
			echo((DWORD)atol(w[1]));
		} else if (!strcmp(w[0], "get")) {
			get((DWORD)atol(w[1]));
		} else if (!strcmp(w[0], "control")) {
			DWORD ntx = unhex(w[2], tx);

			rv = SCardControl(card, (DWORD)strtoul(w[1], NULL, 16), tx, ntx, rx, sizeof rx, &got);
			if (rv == SCARD_S_SUCCESS)
				hex(rx, got);
			else
				result(rv);
		} else if (!strcmp(w[0], "attrib")) {
			got = 264;
			rv = SCardGetAttrib(card, (DWORD)strtoul(w[1], NULL, 16), rx, &got);
			if (rv == SCARD_S_SUCCESS)
				hex(rx, got);
			else
				result(rv);
		} else if (!strcmp(w[0], "begin")) {
			result(SCardBeginTransaction(card));
		} else if (!strcmp(w[0], "end")) {
			result(SCardEndTransaction(card, disposition(w[1])));
		} else {
			printf("UNKNOWN %s\n", w[0]);
		}
	}
	return 0;
}
