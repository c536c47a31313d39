/* SPDX-License-Identifier: BSD-3-Clause
 *
 * cycles.c - eight clients of PC/SC, while readers and cards come and go
 *
 * It runs until its standard input ends, then prints what the clients did. It fails if an
 * answer was not that of its command, a code is none that a departure explains, a
 * state contradicts itself, a client does not end, or a descriptor was left.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "abi.h"

enum { CLIENTS = 8, PATIENCE = 120 };

static atomic_bool stop;
static atomic_ulong counts[CLIENTS], answers, changes, removed, reset, gone;
static atomic_ulong wrong;

#define FAIL(...)                                      \
	do {                                           \
		fprintf(stderr, "cycles: " __VA_ARGS__); \
		fputc('\n', stderr);                   \
		atomic_fetch_add(&wrong, 1);           \
	} while (0)

/* departed reports whether a reader or card that comes and goes explains the code. */
static bool departed(LONG code)
{
	switch (code) {
	case SCARD_W_REMOVED_CARD:
		atomic_fetch_add(&removed, 1);
		return true;
	case SCARD_W_RESET_CARD:
		atomic_fetch_add(&reset, 1);
		return true;
	case SCARD_E_READER_UNAVAILABLE:
	case SCARD_E_UNKNOWN_READER:
	case SCARD_E_NO_READERS_AVAILABLE:
		atomic_fetch_add(&gone, 1);
		return true;
	case SCARD_E_NO_SMARTCARD:
	case SCARD_W_UNPOWERED_CARD:
	case SCARD_W_UNRESPONSIVE_CARD:
	case SCARD_E_NOT_TRANSACTED: /* in the middle of a command */
		return true;
	}
	return false;
}

static void check(const char *what, LONG code)
{
	if (code != SCARD_S_SUCCESS && !departed(code))
		FAIL("%s: %s", what, pcsc_stringify_error(code));
}

/* a_reader copies the name of one of the readers. */
static bool a_reader(SCARDCONTEXT x, unsigned *random, char *name)
{
	char *list = NULL, *p;
	DWORD n = SCARD_AUTOALLOCATE;
	LONG code = SCardListReaders(x, NULL, (LPSTR)&list, &n);
	int count = 0, at;

	if (code != SCARD_S_SUCCESS) {
		check("SCardListReaders", code);
		return false;
	}
	for (p = list; *p != '\0'; p += strlen(p) + 1)
		count++;
	at = rand_r(random) % count;
	for (p = list; at > 0; at--)
		p += strlen(p) + 1;
	snprintf(name, MAX_READERNAME, "%s", p);
	SCardFreeMemory(x, list);
	return true;
}

/* echo sends bytes that the card returns. */
static LONG echo(SCARDHANDLE card, DWORD protocol, unsigned *random)
{
	SCARD_IO_REQUEST pci = {protocol, sizeof pci};
	uint8_t tx[5 + 16 + 1] = {0x80, 0xEE, 0, 0, 16}, rx[258];
	DWORD n = sizeof rx;
	LONG code;

	for (int i = 5; i < 5 + 16; i++)
		tx[i] = (uint8_t)rand_r(random);
	code = SCardTransmit(card, &pci, tx, sizeof tx, NULL, rx, &n);
	if (code != SCARD_S_SUCCESS) {
		check("SCardTransmit", code);
		return code;
	}
	if (n != 18 || memcmp(rx, tx + 5, 16) != 0 || rx[16] != 0x90 || rx[17] != 0)
		FAIL("an answer of %lu bytes is not that of its command", n);
	atomic_fetch_add(&answers, 1);
	return code;
}

static void use_card(SCARDCONTEXT x, unsigned *random, bool transactions)
{
	char name[MAX_READERNAME];
	SCARDHANDLE card;
	DWORD protocol;
	LONG code;

	if (!a_reader(x, random, name))
		return;
	code = SCardConnect(x, name, SCARD_SHARE_SHARED, SCARD_PROTOCOL_T0 | SCARD_PROTOCOL_T1, &card,
			    &protocol);
	if (code != SCARD_S_SUCCESS) {
		check("SCardConnect", code);
		return;
	}
	for (int i = rand_r(random) % 8; i >= 0 && !atomic_load(&stop); i--) {
		code = transactions ? SCardBeginTransaction(card) : SCARD_S_SUCCESS;
		check("SCardBeginTransaction", code);
		if (code == SCARD_S_SUCCESS) {
			code = echo(card, protocol, random);
			if (transactions) {
				LONG end = SCardEndTransaction(card, rand_r(random) % 16 == 0 ?
								     SCARD_RESET_CARD : SCARD_LEAVE_CARD);

				if (end != SCARD_E_NOT_TRANSACTED)
					check("SCardEndTransaction", end);
				if (end != SCARD_S_SUCCESS)
					code = end;
			}
		}
		if (code == SCARD_S_SUCCESS)
			continue;
		code = SCardReconnect(card, SCARD_SHARE_SHARED, SCARD_PROTOCOL_T0 | SCARD_PROTOCOL_T1,
				      SCARD_LEAVE_CARD, &protocol);
		check("SCardReconnect", code);
		if (code != SCARD_S_SUCCESS)
			break;
	}
	code = SCardDisconnect(card, rand_r(random) % 8 == 0 ? SCARD_RESET_CARD : SCARD_LEAVE_CARD);
	check("SCardDisconnect", code);
}

static SCARDCONTEXT watcher; /* of one client, which another cancels */
static pthread_mutex_t watcher_lock = PTHREAD_MUTEX_INITIALIZER;

static void watch(SCARDCONTEXT x, unsigned *random)
{
	SCARD_READERSTATE states[2];
	char name[MAX_READERNAME];
	LONG code;

	memset(states, 0, sizeof states);
	states[1].szReader = "\\\\?PnP?\\Notification";
	states[0].szReader = name;
	if (!a_reader(x, random, name)) {
		code = SCardGetStatusChange(x, 100, states + 1, 1);
		if (code != SCARD_E_TIMEOUT && code != SCARD_E_CANCELLED)
			check("SCardGetStatusChange", code);
		return;
	}
	for (int i = 0; i < 10 && !atomic_load(&stop); i++) {
		DWORD s;

		code = SCardGetStatusChange(x, 200, states, 2);
		if (code == SCARD_E_TIMEOUT || code == SCARD_E_CANCELLED)
			continue;
		check("SCardGetStatusChange", code);
		if (code != SCARD_S_SUCCESS)
			return;
		atomic_fetch_add(&changes, 1);
		s = states[0].dwEventState;
		if ((s & SCARD_STATE_PRESENT && s & SCARD_STATE_EMPTY) ||
		    (s & SCARD_STATE_EMPTY && states[0].cbAtr > 0) ||
		    !(s & (SCARD_STATE_PRESENT | SCARD_STATE_EMPTY | SCARD_STATE_UNAVAILABLE)))
			FAIL("state %lX with an ATR of %lu bytes", s, states[0].cbAtr);
		states[0].dwCurrentState = s & ~(DWORD)SCARD_STATE_CHANGED;
		states[1].dwCurrentState = 0;
	}
}

static void *client(void *arg)
{
	unsigned me = (unsigned)(uintptr_t)arg, random = me * 7919 + 1;
	SCARDCONTEXT x = 0;

	while (!atomic_load(&stop)) {
		if (x == 0) {
			check("SCardEstablishContext", SCardEstablishContext(SCARD_SCOPE_SYSTEM, NULL, NULL, &x));
			if (x == 0)
				continue;
			if (me == 0) {
				pthread_mutex_lock(&watcher_lock);
				watcher = x;
				pthread_mutex_unlock(&watcher_lock);
			}
		}
		switch (me) {
		case 0:
		case 1:
		case 2:
			watch(x, &random);
			break;
		case 3: {
			SCARDCONTEXT other;

			use_card(x, &random, false);
			pthread_mutex_lock(&watcher_lock);
			other = watcher;
			if (other != 0)
				SCardCancel(other);
			pthread_mutex_unlock(&watcher_lock);
			break;
		}
		default:
			use_card(x, &random, me % 2 == 0);
		}
		atomic_fetch_add(&counts[me], 1);
		if (rand_r(&random) % 32 == 0) {
			if (me == 0) {
				pthread_mutex_lock(&watcher_lock);
				watcher = 0;
				pthread_mutex_unlock(&watcher_lock);
			}
			check("SCardReleaseContext", SCardReleaseContext(x));
			x = 0;
		}
	}
	if (x != 0)
		SCardReleaseContext(x);
	return NULL;
}

static int descriptors(void)
{
	DIR *d = opendir("/proc/self/fd");
	int n = 0;

	while (d != NULL && readdir(d) != NULL)
		n++;
	closedir(d);
	return n;
}

static void hangs(int signal)
{
	static const char words[] = "cycles: a client does not end\n";

	(void)signal;
	if (write(2, words, sizeof words - 1) > 0)
		abort();
}

int main(void)
{
	pthread_t threads[CLIENTS];
	int before = descriptors();
	char c;

	signal(SIGALRM, hangs);
	for (uintptr_t i = 0; i < CLIENTS; i++)
		pthread_create(&threads[i], NULL, client, (void *)i);
	while (read(0, &c, 1) > 0)
		;
	atomic_store(&stop, true);
	alarm(PATIENCE);
	for (int i = 0; i < CLIENTS; i++)
		pthread_join(threads[i], NULL);
	alarm(0);
	printf("%lu answers, %lu changes seen, %lu times removed, %lu reset, %lu gone; rounds of the clients:",
	       atomic_load(&answers), atomic_load(&changes), atomic_load(&removed),
	       atomic_load(&reset), atomic_load(&gone));
	for (int i = 0; i < CLIENTS; i++)
		printf(" %lu", atomic_load(&counts[i]));
	puts("");
	if (descriptors() != before)
		FAIL("%d descriptors, %d at the start", descriptors(), before);
	if (atomic_load(&answers) == 0 || atomic_load(&changes) == 0)
		FAIL("the clients did nothing");
	return atomic_load(&wrong) != 0;
}
