/* SPDX-License-Identifier: BSD-3-Clause
 *
 * case_transaction.c - SCardBeginTransaction, SCardEndTransaction
 */
#include "diff.h"

static const struct {
	DWORD mode;
	const char *name;
} dispositions[] = {
	{SCARD_LEAVE_CARD, "leave"}, {SCARD_RESET_CARD, "reset"}, {SCARD_UNPOWER_CARD, "unpower"},
	{SCARD_EJECT_CARD, "eject"}, {4, "4"}, {0xFFFFFFFF, "ffffffff"},
};
enum { DISPOSITIONS = sizeof dispositions / sizeof *dispositions };

/* two connects the actor and the case to the same card. */
static SCARDHANDLE two(struct actor *a, SCARDCONTEXT *c)
{
	*c = context();
	must("connect", act(a, A_CONNECT, R_T1, SCARD_SHARE_SHARED, SCARD_PROTOCOL_ANY));
	return connect_to(*c, R_T1, SCARD_SHARE_SHARED, SCARD_PROTOCOL_ANY);
}

GROUP(transactions)
{
	SCARDCONTEXT c;
	SCARDHANDLE h, g;
	struct actor *a, *b;
	struct told t;
	DWORD p;

	uses(BIT(R_T1));
	CASE("transaction.bad") {
		rc("begin", SCardBeginTransaction(BAD_HANDLE));
		rc("end", SCardEndTransaction(BAD_HANDLE, SCARD_LEAVE_CARD));
	}
	CASE("transaction.zero") {
		rc("begin", SCardBeginTransaction(0));
		rc("end", SCardEndTransaction(0, SCARD_LEAVE_CARD));
	}
	CASE("transaction.context_handle") {
		c = context();
		rc("begin", SCardBeginTransaction(c));
		rc("end", SCardEndTransaction(c, SCARD_LEAVE_CARD));
	}
	CASE("transaction.disconnected") {
		c = context();
		h = connect_to(c, R_T1, SCARD_SHARE_SHARED, SCARD_PROTOCOL_ANY);
		SCardDisconnect(h, SCARD_LEAVE_CARD);
		rc("begin", SCardBeginTransaction(h));
		rc("end", SCardEndTransaction(h, SCARD_LEAVE_CARD));
	}
	CASE("transaction.plain") {
		c = context();
		h = connect_to(c, R_T1, SCARD_SHARE_SHARED, SCARD_PROTOCOL_ANY);
		rc("begin", SCardBeginTransaction(h));
		transmit("", h, SELECT_MF);
		rc("end", SCardEndTransaction(h, SCARD_LEAVE_CARD));
		transmit("", h, SELECT_MF);
	}
	for (size_t i = 0; i < DISPOSITIONS; i++)
		CASE("transaction.end_without_begin.%s", dispositions[i].name) {
			a = actor(PROCESS);
			h = two(a, &c);
			rc("", SCardEndTransaction(h, dispositions[i].mode));
			status("own", h);
			rc("other", act_told(a, A_TRANSMIT, 0, 0, 0, SELECT_MF, &t));
		}
	for (size_t i = 0; i < DISPOSITIONS; i++)
		CASE("transaction.end.%s", dispositions[i].name) {
			a = actor(PROCESS);
			h = two(a, &c);
			transmit("", h, "00A4000C025000");
			rc("begin", SCardBeginTransaction(h));
			rc("end", SCardEndTransaction(h, dispositions[i].mode));
			status("own", h);
			transmit("own", h, "00B0810002");
			ask(a, A_STATUS, 0, 0, 0, NULL);
			waits("other", a, &t);
			rc("again", SCardEndTransaction(h, SCARD_LEAVE_CARD));
		}
	for (size_t i = 0; i < DISPOSITIONS; i++)
		CASE("transaction.end_in_others.%s", dispositions[i].name) {
			a = actor(PROCESS);
			h = two(a, &c);
			rc("begin", SCardBeginTransaction(h));
			rc("other ends", act(a, A_END, (long)dispositions[i].mode, 0, 0));
			ask(a, A_TRANSMIT, 0, 0, 0, SELECT_MF);
			waits("other", a, &t);
			status("own", h);
			rc("end", SCardEndTransaction(h, SCARD_LEAVE_CARD));
			then("other", a, &t);
		}
	CASE("transaction.nested") {
		a = actor(PROCESS);
		h = two(a, &c);
		for (int i = 0; i < 3; i++)
			rc("begin", SCardBeginTransaction(h));
		ask(a, A_BEGIN, 0, 0, 0, NULL);
		for (int i = 0; i < 3; i++) {
			if (i > 0)
				say("end");
			waits("other", a, &t);
			rc("end", SCardEndTransaction(h, SCARD_LEAVE_CARD));
		}
		then("other", a, &t);
		rc("end", SCardEndTransaction(h, SCARD_LEAVE_CARD));
		rc("other", act(a, A_END, SCARD_LEAVE_CARD, 0, 0));
		rc("own", SCardBeginTransaction(h));
		rc("own", SCardEndTransaction(h, SCARD_LEAVE_CARD));
	}
	CASE("transaction.nested_reset_first") {
		a = actor(PROCESS);
		h = two(a, &c);
		rc("begin", SCardBeginTransaction(h));
		rc("begin", SCardBeginTransaction(h));
		rc("end", SCardEndTransaction(h, SCARD_RESET_CARD));
		status("own", h);
		ask(a, A_STATUS, 0, 0, 0, NULL);
		waits("other", a, &t);
		rc("end", SCardEndTransaction(h, SCARD_LEAVE_CARD));
	}
	/* What others may do meanwhile. */
	static const struct {
		const char *name;
		enum act what;
		long x, y, z;
		const char *text;
	} acts[] = {
		{"begin", A_BEGIN, 0, 0, 0, NULL},
		{"transmit", A_TRANSMIT, 0, 0, 0, SELECT_MF},
		{"status", A_STATUS, 0, 0, 0, NULL},
		{"control", A_CONTROL, CM_IOCTL_GET_FEATURE_REQUEST, 0, 0, NULL},
		{"control_unknown", A_CONTROL, 0x42424242, 0, 0, NULL},
		{"attrib", A_ATTRIB, SCARD_ATTR_ATR_STRING, 0, 0, NULL},
		{"reconnect_leave", A_RECONNECT, SCARD_SHARE_SHARED, SCARD_PROTOCOL_ANY, SCARD_LEAVE_CARD, NULL},
		{"reconnect_reset", A_RECONNECT, SCARD_SHARE_SHARED, SCARD_PROTOCOL_ANY, SCARD_RESET_CARD, NULL},
		{"connect_shared", A_CONNECT, R_T1, SCARD_SHARE_SHARED, SCARD_PROTOCOL_ANY, NULL},
		{"connect_direct", A_CONNECT, R_T1, SCARD_SHARE_DIRECT, SCARD_PROTOCOL_ANY, NULL},
		{"connect_exclusive", A_CONNECT, R_T1, SCARD_SHARE_EXCLUSIVE, SCARD_PROTOCOL_ANY, NULL},
		{"connect_other_reader", A_CONNECT, R_T0, SCARD_SHARE_SHARED, SCARD_PROTOCOL_ANY, NULL},
		{"changes", A_CHANGES, 0, 0, R_T1, NULL},
		{"disconnect_leave", A_DISCONNECT, SCARD_LEAVE_CARD, 0, 0, NULL},
		{"disconnect_reset", A_DISCONNECT, SCARD_RESET_CARD, 0, 0, NULL},
		{"release", A_RELEASE, 0, 0, 0, NULL},
		{"list", A_LIST, 0, 0, 0, NULL},
	};
	for (int kind = PROCESS; kind <= THREAD; kind++)
		for (size_t i = 0; i < sizeof acts / sizeof *acts; i++)
			CASE("transaction.%s.%s", kind == PROCESS ? "process" : "thread", acts[i].name) {
				a = actor(kind);
				h = two(a, &c);
				rc("begin", SCardBeginTransaction(h));
				ask(a, acts[i].what, acts[i].x, acts[i].y, acts[i].z, acts[i].text);
				waits("other", a, &t);
				transmit("own", h, SELECT_MF);
				rc("end", SCardEndTransaction(h, SCARD_LEAVE_CARD));
				then("other", a, &t);
				if (acts[i].what == A_CHANGES)
					say_event("", t.a);
				if (acts[i].what == A_BEGIN)
					rc("end", act(a, A_END, SCARD_LEAVE_CARD, 0, 0));
				status("own", h);
			}
	/* A second handle of the same context is another client. */
	CASE("transaction.same_context_other_handle") {
		a = actor(SAME);
		c = context();
		h = connect_to(c, R_T1, SCARD_SHARE_SHARED, SCARD_PROTOCOL_ANY);
		g = connect_to(c, R_T1, SCARD_SHARE_SHARED, SCARD_PROTOCOL_ANY);
		lend(a, c, g);
		rc("begin", SCardBeginTransaction(h));
		ask(a, A_BEGIN, 0, 0, 0, NULL);
		waits("second handle", a, &t);
	}
	CASE("transaction.same_handle_other_thread") {
		a = actor(SAME);
		c = context();
		h = connect_to(c, R_T1, SCARD_SHARE_SHARED, SCARD_PROTOCOL_ANY);
		lend(a, c, h);
		rc("begin", SCardBeginTransaction(h));
		rc("transmit", act_told(a, A_TRANSMIT, 0, 0, 0, SELECT_MF, &t));
		rc("begin", act(a, A_BEGIN, 0, 0, 0));
		rc("end", act(a, A_END, SCARD_LEAVE_CARD, 0, 0));
		rc("end", SCardEndTransaction(h, SCARD_LEAVE_CARD));
	}
	CASE("transaction.exclusive") {
		c = context();
		h = connect_to(c, R_T1, SCARD_SHARE_EXCLUSIVE, SCARD_PROTOCOL_ANY);
		rc("begin", SCardBeginTransaction(h));
		transmit("", h, SELECT_MF);
		rc("end", SCardEndTransaction(h, SCARD_LEAVE_CARD));
	}
	CASE("transaction.direct") {
		c = context();
		h = connect_to(c, R_T1, SCARD_SHARE_DIRECT, 0);
		rc("begin", SCardBeginTransaction(h));
		rc("end", SCardEndTransaction(h, SCARD_LEAVE_CARD));
	}
	CASE("transaction.direct_holds") {
		a = actor(PROCESS);
		c = context();
		must("connect", act(a, A_CONNECT, R_T1, SCARD_SHARE_SHARED, SCARD_PROTOCOL_ANY));
		h = connect_to(c, R_T1, SCARD_SHARE_DIRECT, 0);
		rc("begin", SCardBeginTransaction(h));
		ask(a, A_TRANSMIT, 0, 0, 0, SELECT_MF);
		waits("other", a, &t);
		rc("end", SCardEndTransaction(h, SCARD_LEAVE_CARD));
		then("other", a, &t);
	}
	uses(BIT(R_EMPTY));
	CASE("transaction.direct_empty") {
		c = context();
		h = connect_to(c, R_EMPTY, SCARD_SHARE_DIRECT, 0);
		rc("begin", SCardBeginTransaction(h));
		rc("end", SCardEndTransaction(h, SCARD_LEAVE_CARD));
	}
	uses(BIT(R_T1));
	/* Disconnected inside. */
	for (size_t i = 0; i < 4; i++)
		CASE("transaction.disconnect_inside.%s", dispositions[i].name) {
			a = actor(PROCESS);
			h = two(a, &c);
			rc("begin", SCardBeginTransaction(h));
			ask(a, A_BEGIN, 0, 0, 0, NULL);
			waits("other", a, &t);
			rc("disconnect", SCardDisconnect(h, dispositions[i].mode));
			then("other", a, &t);
			rc("transmit", act_told(a, A_TRANSMIT, 0, 0, 0, SELECT_MF, &t));
		}
	for (size_t i = 0; i < 3; i++)
		CASE("transaction.reconnect_inside.%s", dispositions[i].name) {
			a = actor(PROCESS);
			h = two(a, &c);
			rc("begin", SCardBeginTransaction(h));
			rc("reconnect", SCardReconnect(h, SCARD_SHARE_SHARED, SCARD_PROTOCOL_ANY, dispositions[i].mode, &p));
			ask(a, A_TRANSMIT, 0, 0, 0, SELECT_MF);
			waits("other", a, &t);
			transmit("own", h, SELECT_MF);
			rc("end", SCardEndTransaction(h, SCARD_LEAVE_CARD));
		}
	/* Death of the holder. */
	CASE("transaction.killed") {
		a = actor(PROCESS);
		b = actor(PROCESS);
		h = two(a, &c);
		must("connect", act(b, A_CONNECT, R_T1, SCARD_SHARE_SHARED, SCARD_PROTOCOL_ANY));
		rc("begin", act(a, A_BEGIN, 0, 0, 0));
		ask(b, A_BEGIN, 0, 0, 0, NULL);
		waits("other", b, &t);
		ask(a, A_KILL, 0, 0, 0, NULL);
		then("other", b, &t);
		status("own", h);
		transmit("own", h, SELECT_MF);
		rc("reconnect", SCardReconnect(h, SCARD_SHARE_SHARED, SCARD_PROTOCOL_ANY, SCARD_LEAVE_CARD, &p));
		transmit("own", h, SELECT_MF);
	}
	CASE("transaction.killed_nobody_waits") {
		a = actor(PROCESS);
		h = two(a, &c);
		rc("begin", act(a, A_BEGIN, 0, 0, 0));
		ask(a, A_KILL, 0, 0, 0, NULL);
		/* A transmit would wait until pcscd has heard of the death; then the card was reset. */
		transmit("own", h, SELECT_MF);
		status("own", h);
	}
	CASE("transaction.killed_without") {
		a = actor(PROCESS);
		h = two(a, &c);
		ask(a, A_KILL, 0, 0, 0, NULL);
		pause_ms(200);
		transmit("own", h, SELECT_MF);
		status("own", h);
	}
	CASE("transaction.killed_exclusive") {
		a = actor(PROCESS);
		c = context();
		must("connect", act(a, A_CONNECT, R_T1, SCARD_SHARE_EXCLUSIVE, SCARD_PROTOCOL_ANY));
		rc("begin", act(a, A_BEGIN, 0, 0, 0));
		ask(a, A_KILL, 0, 0, 0, NULL);
		wait_state(R_T1, SCARD_STATE_PRESENT, SCARD_STATE_EXCLUSIVE);
		h = connect_to(c, R_T1, SCARD_SHARE_EXCLUSIVE, SCARD_PROTOCOL_ANY);
		transmit("", h, SELECT_MF);
	}
	/* The card inside a transaction. */
	CASE("transaction.removed_inside") {
		a = actor(PROCESS);
		h = two(a, &c);
		rc("begin", SCardBeginTransaction(h));
		ask(a, A_BEGIN, 0, 0, 0, NULL);
		waits("other", a, &t);
		ctl("sim %d remove", R_T1);
		wait_state(R_T1, SCARD_STATE_EMPTY, 0);
		transmit("own", h, SELECT_MF);
		rc("begin", SCardBeginTransaction(h));
		rc("end", SCardEndTransaction(h, SCARD_LEAVE_CARD));
		then("other", a, &t);
		ctl("sim %d insert", R_T1);
		wait_state(R_T1, SCARD_STATE_PRESENT, 0);
		transmit("own", h, SELECT_MF);
		rc("end", SCardEndTransaction(h, SCARD_LEAVE_CARD));
		rc("reconnect", SCardReconnect(h, SCARD_SHARE_SHARED, SCARD_PROTOCOL_ANY, SCARD_LEAVE_CARD, &p));
		rc("end", SCardEndTransaction(h, SCARD_LEAVE_CARD));
		rc("begin", SCardBeginTransaction(h));
		transmit("own", h, SELECT_MF);
	}
	CASE("transaction.begin_after_removal") {
		c = context();
		h = connect_to(c, R_T1, SCARD_SHARE_SHARED, SCARD_PROTOCOL_ANY);
		ctl("sim %d remove", R_T1);
		wait_state(R_T1, SCARD_STATE_EMPTY, 0);
		rc("begin", SCardBeginTransaction(h));
		rc("end", SCardEndTransaction(h, SCARD_LEAVE_CARD));
		ctl("sim %d insert", R_T1);
		wait_state(R_T1, SCARD_STATE_PRESENT, 0);
	}
	for (size_t i = 0; i < 3; i++)
		CASE("transaction.end_after_removal.%s", dispositions[i].name) {
			c = context();
			h = connect_to(c, R_T1, SCARD_SHARE_SHARED, SCARD_PROTOCOL_ANY);
			rc("begin", SCardBeginTransaction(h));
			ctl("sim %d remove", R_T1);
			wait_state(R_T1, SCARD_STATE_EMPTY, 0);
			rc("end", SCardEndTransaction(h, dispositions[i].mode));
			rc("again", SCardEndTransaction(h, dispositions[i].mode));
			ctl("sim %d insert", R_T1);
			wait_state(R_T1, SCARD_STATE_PRESENT, 0);
			status("status", h);
		}
	CASE("transaction.begin_waits_while_card_is_reset") {
		a = actor(PROCESS);
		h = two(a, &c);
		rc("begin", SCardBeginTransaction(h));
		ask(a, A_BEGIN, 0, 0, 0, NULL);
		waits("other", a, &t);
		rc("end", SCardEndTransaction(h, SCARD_RESET_CARD));
		then("other", a, &t);
		rc("other reconnect", act(a, A_RECONNECT, SCARD_SHARE_SHARED, SCARD_PROTOCOL_ANY, SCARD_LEAVE_CARD));
		rc("other", act(a, A_BEGIN, 0, 0, 0));
	}
	CASE("transaction.many_wait") {
		struct actor *many[6];
		int got = 0;

		for (int i = 0; i < 6; i++)
			many[i] = actor(i % 2 ? THREAD : PROCESS);
		c = context();
		h = connect_to(c, R_T1, SCARD_SHARE_SHARED, SCARD_PROTOCOL_ANY);
		for (int i = 0; i < 6; i++)
			must("connect", act(many[i], A_CONNECT, R_T1, SCARD_SHARE_SHARED, SCARD_PROTOCOL_ANY));
		rc("begin", SCardBeginTransaction(h));
		for (int i = 0; i < 6; i++)
			ask(many[i], A_BEGIN, 0, 0, 0, NULL);
		rc("end", SCardEndTransaction(h, SCARD_LEAVE_CARD));
		/* Each in turn, in whatever order. */
		for (long long end = now_ms() + SOON; got < 6 && now_ms() < end;)
			for (int i = 0; i < 6; i++)
				if (many[i] != NULL && answer(many[i], &t, 10)) {
					if (t.code != SCARD_S_SUCCESS)
						rc("begin", t.code);
					if (act(many[i], A_END, SCARD_LEAVE_CARD, 0, 0) != SCARD_S_SUCCESS)
						say("end failed");
					many[i] = NULL;
					got++;
				}
		say("%d", got);
	}
	CASE("transaction.long_transmit_of_another") {
		/* A command that takes a second, without a transaction. */
		a = actor(PROCESS);
		h = two(a, &c);
		ask(a, A_TRANSMIT, 0, 0, 0, "80E80064");
		waits("other", a, &t);
		transmit("own", h, SELECT_MF);
		rc("begin", SCardBeginTransaction(h));
		then("other", a, &t);
		rc("end", SCardEndTransaction(h, SCARD_LEAVE_CARD));
	}
}
