/* SPDX-License-Identifier: BSD-3-Clause
 *
 * case_service.c - the service, pcscd or the mount, is not there, ends, and comes back
 */
#include "diff.h"
#include "frame.h"

/* calls tells what each function says to a context and a handle of a service that has ended. */
static void calls(SCARDCONTEXT c, SCARDHANDLE h)
{
	char text[READERS * MAX_READERNAME];
	DWORD n = sizeof text, p, event;

	rc("valid", SCardIsValidContext(c));
	rc("list", SCardListReaders(c, NULL, text, &n));
	rc("changes", changes(c, 0, reader_names[R_T1], SCARD_STATE_UNAWARE, &event));
	rc("cancel", SCardCancel(c));
	transmit("transmit", h, SELECT_MF);
	rc("status", SCardStatus(h, NULL, NULL, NULL, NULL, NULL, NULL));
	rc("begin", SCardBeginTransaction(h));
	rc("reconnect", SCardReconnect(h, SCARD_SHARE_SHARED, SCARD_PROTOCOL_ANY, SCARD_LEAVE_CARD, &p));
	rc("disconnect", SCardDisconnect(h, SCARD_LEAVE_CARD));
	rc("release", SCardReleaseContext(c));
}

/* again tells whether a program that begins anew finds its card. */
static void again(void)
{
	SCARDCONTEXT c;

	wait_state(R_T1, SCARD_STATE_PRESENT, 0);
	c = context();
	transmit("anew", connect_to(c, R_T1, SCARD_SHARE_SHARED, SCARD_PROTOCOL_ANY), SELECT_MF);
}

GROUP(only_nobody)
{
	SCARDCONTEXT c = -1;
	DWORD n = 100;
	char text[100];

	CASE("nobody.establish") {
		rc("", SCardEstablishContext(SCARD_SCOPE_SYSTEM, NULL, NULL, &c));
		say(c == -1 ? "untouched" : c == 0 ? "zero" : "set");
	}
	CASE("nobody.establish_bad_scope")
		rc("", SCardEstablishContext(99, NULL, NULL, &c));
	CASE("nobody.establish_null")
		rc("", SCardEstablishContext(SCARD_SCOPE_SYSTEM, NULL, NULL, NULL));
	CASE("nobody.others") {
		rc("valid", SCardIsValidContext(0));
		rc("list", SCardListReaders(0, NULL, text, &n));
		rc("release", SCardReleaseContext(0));
	}
}

GROUP(only_service)
{
	SCARDCONTEXT c;
	SCARDHANDLE h;
	struct actor *a;
	struct told t;

	CASE("service.ends") {
		c = context();
		h = connect_to(c, R_T1, SCARD_SHARE_SHARED, SCARD_PROTOCOL_ANY);
		transmit("before", h, SELECT_MF);
		service(false);
		calls(c, h);
		service(true);
		again();
	}
	CASE("service.establish_meanwhile") {
		a = actor(THREAD);
		service(false);
		ask(a, A_ESTABLISH, 0, 0, 0, NULL);
		waits("", a, &t);
		service(true);
		then("", a, &t);
		again();
	}
	CASE("service.comes_back") {
		c = context();
		h = connect_to(c, R_T1, SCARD_SHARE_SHARED, SCARD_PROTOCOL_ANY);
		service(false);
		service(true);
		wait_state(R_T1, SCARD_STATE_PRESENT, 0);
		calls(c, h);
		again();
	}
	CASE("service.ends_in_changes") {
		a = actor(THREAD);
		ask(a, A_CHANGES, (long)INFINITE, SCARD_STATE_PRESENT, R_T1, NULL);
		waits("", a, &t);
		service(false);
		then("", a, &t);
		service(true);
		again();
	}
	CASE("service.ends_in_transaction") {
		a = actor(PROCESS);
		c = context();
		must("connect", act(a, A_CONNECT, R_T1, SCARD_SHARE_SHARED, SCARD_PROTOCOL_ANY));
		h = connect_to(c, R_T1, SCARD_SHARE_SHARED, SCARD_PROTOCOL_ANY);
		rc("begin", SCardBeginTransaction(h));
		ask(a, A_BEGIN, 0, 0, 0, NULL);
		waits("other", a, &t);
		service(false);
		then("other", a, &t);
		rc("end", SCardEndTransaction(h, SCARD_LEAVE_CARD));
		service(true);
		again();
	}
}
