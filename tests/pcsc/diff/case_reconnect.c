/* SPDX-License-Identifier: BSD-3-Clause
 *
 * case_reconnect.c - SCardReconnect, SCardDisconnect
 */
#include "diff.h"
#include "modes.h"

static void reconnect_says(SCARDHANDLE h, DWORD share, DWORD mask, DWORD init)
{
	DWORD active = 0x77;
	LONG e = rc("", SCardReconnect(h, share, mask, init, &active));

	if (active == 0x77)
		say("untouched");
	else
		say_protocol("", active);
	(void)e;
	status("status", h);
}

GROUP(reconnect)
{
	SCARDCONTEXT c;
	SCARDHANDLE h = 0;
	struct actor *a;
	struct told t;
	DWORD p = 0;

	uses(BIT(R_T1));
	for (size_t i = 0; i < 3; i++)
		for (size_t j = 0; j < SHARES; j++)
			CASE("reconnect.%s_to_%s", shares[i].name, shares[j].name) {
				c = context();
				h = connect_to(c, R_T1, shares[i].mode, SCARD_PROTOCOL_ANY);
				reconnect_says(h, shares[j].mode, SCARD_PROTOCOL_ANY, SCARD_LEAVE_CARD);
				say_event("events", (one_event(c, R_T1)));
			}
	for (size_t m = 0; m < PROTOCOLS; m++)
		for (size_t i = 0; i < 2; i++)
			CASE("reconnect.T1.%s.%s", initializations[i].name, protocols[m].name) {
				c = context();
				h = connect_to(c, R_T1, SCARD_SHARE_SHARED, SCARD_PROTOCOL_ANY);
				reconnect_says(h, SCARD_SHARE_SHARED, protocols[m].mode, initializations[i].mode);
				transmit("", h, SELECT_MF);
			}
	uses(BIT(R_DUAL));
	for (size_t first = 1; first <= 4; first++)
		for (size_t m = 0; m < FIRST_PROTOCOLS; m++)
			for (size_t i = 0; i < 3; i++)
				CASE("reconnect.dual.%s.%s.%s", protocols[first].name, protocols[m].name, initializations[i].name) {
					c = context();
					h = connect_to(c, R_DUAL, SCARD_SHARE_SHARED, protocols[first].mode);
					reconnect_says(h, SCARD_SHARE_SHARED, protocols[m].mode, initializations[i].mode);
				}
	uses(BIT(R_T1));
	for (size_t i = 0; i < INITIALIZATIONS; i++)
		CASE("reconnect.T1.init.%s", initializations[i].name) {
			c = context();
			h = connect_to(c, R_T1, SCARD_SHARE_SHARED, SCARD_PROTOCOL_ANY);
			transmit("", h, "00A4000C025000");
			reconnect_says(h, SCARD_SHARE_SHARED, SCARD_PROTOCOL_ANY, initializations[i].mode);
			/* 5001 is in the DF that was selected, and not in the MF that a reset selects. */
			transmit("", h, "00B0810002");
		}
	for (size_t i = 0; i < INITIALIZATIONS; i++)
		CASE("reconnect.other_sees.%s", initializations[i].name) {
			a = actor(PROCESS);
			c = context();
			h = connect_to(c, R_T1, SCARD_SHARE_SHARED, SCARD_PROTOCOL_ANY);
			must("connect", act(a, A_CONNECT, R_T1, SCARD_SHARE_SHARED, SCARD_PROTOCOL_ANY));
			rc("", act(a, A_RECONNECT, SCARD_SHARE_SHARED, SCARD_PROTOCOL_ANY, (long)initializations[i].mode));
			status("status", h);
			transmit("", h, SELECT_MF);
			transmit("again", h, SELECT_MF);
			status("status", h);
			rc("begin", SCardBeginTransaction(h));
			rc("reconnect", SCardReconnect(h, SCARD_SHARE_SHARED, SCARD_PROTOCOL_ANY, SCARD_LEAVE_CARD, &p));
			transmit("", h, SELECT_MF);
			rc("end", SCardEndTransaction(h, SCARD_LEAVE_CARD));
			rc("other", act_told(a, A_TRANSMIT, 0, 0, 0, SELECT_MF, &t));
		}
	CASE("reconnect.null_active") {
		c = context();
		h = connect_to(c, R_T1, SCARD_SHARE_SHARED, SCARD_PROTOCOL_ANY);
		rc("", SCardReconnect(h, SCARD_SHARE_SHARED, SCARD_PROTOCOL_ANY, SCARD_LEAVE_CARD, NULL));
	}
	CASE("reconnect.bad")
		rc("", SCardReconnect(BAD_HANDLE, SCARD_SHARE_SHARED, SCARD_PROTOCOL_ANY, SCARD_LEAVE_CARD, &p));
	CASE("reconnect.bad_null_active")
		rc("", SCardReconnect(BAD_HANDLE, SCARD_SHARE_SHARED, SCARD_PROTOCOL_ANY, SCARD_LEAVE_CARD, NULL));
	CASE("reconnect.zero")
		rc("", SCardReconnect(0, SCARD_SHARE_SHARED, SCARD_PROTOCOL_ANY, SCARD_LEAVE_CARD, &p));
	CASE("reconnect.context_handle") {
		c = context();
		rc("", SCardReconnect(c, SCARD_SHARE_SHARED, SCARD_PROTOCOL_ANY, SCARD_LEAVE_CARD, &p));
	}
	CASE("reconnect.disconnected") {
		c = context();
		h = connect_to(c, R_T1, SCARD_SHARE_SHARED, SCARD_PROTOCOL_ANY);
		SCardDisconnect(h, SCARD_LEAVE_CARD);
		rc("", SCardReconnect(h, SCARD_SHARE_SHARED, SCARD_PROTOCOL_ANY, SCARD_LEAVE_CARD, &p));
	}
	for (size_t i = 0; i < 3; i++)
		CASE("reconnect.exclusive_waits.%s", initializations[i].name) {
			struct actor *b = actor(PROCESS);

			a = actor(PROCESS);
			c = context();
			h = connect_to(c, R_T1, SCARD_SHARE_SHARED, SCARD_PROTOCOL_ANY);
			must("connect", act(a, A_CONNECT, R_T1, SCARD_SHARE_SHARED, SCARD_PROTOCOL_ANY));
			ask(a, A_RECONNECT, SCARD_SHARE_EXCLUSIVE, SCARD_PROTOCOL_ANY, (long)initializations[i].mode, NULL);
			waits("", a, &t);
			status("status", h);
			transmit("", h, SELECT_MF);
			rc("third", act(b, A_CONNECT, R_T1, SCARD_SHARE_SHARED, SCARD_PROTOCOL_ANY));
			rc("third", act(b, A_DISCONNECT, SCARD_LEAVE_CARD, 0, 0));
			rc("disconnect", SCardDisconnect(h, SCARD_LEAVE_CARD));
			then("", a, &t);
			rc("third", act(b, A_CONNECT, R_T1, SCARD_SHARE_SHARED, SCARD_PROTOCOL_ANY));
		}
	for (int first = 0; first < 2; first++)
		CASE("reconnect.%s_then_shared", first ? "to_exclusive" : "exclusive") {
			a = actor(PROCESS);
			c = context();
			h = connect_to(c, R_T1, first ? SCARD_SHARE_SHARED : SCARD_SHARE_EXCLUSIVE, SCARD_PROTOCOL_ANY);
			if (first)
				rc("exclusive", SCardReconnect(h, SCARD_SHARE_EXCLUSIVE, SCARD_PROTOCOL_ANY, SCARD_LEAVE_CARD, &p));
			rc("other", act(a, A_CONNECT, R_T1, SCARD_SHARE_SHARED, SCARD_PROTOCOL_ANY));
			rc("shared", SCardReconnect(h, SCARD_SHARE_SHARED, SCARD_PROTOCOL_ANY, SCARD_LEAVE_CARD, &p));
			ask(a, A_CONNECT, R_T1, SCARD_SHARE_SHARED, SCARD_PROTOCOL_ANY, NULL);
			waits("other", a, &t);
			rc("disconnect", SCardDisconnect(h, SCARD_LEAVE_CARD));
			then("other", a, &t);
		}
	CASE("reconnect.exclusive_again") {
		c = context();
		h = connect_to(c, R_T1, SCARD_SHARE_EXCLUSIVE, SCARD_PROTOCOL_ANY);
		reconnect_says(h, SCARD_SHARE_EXCLUSIVE, SCARD_PROTOCOL_ANY, SCARD_RESET_CARD);
		reconnect_says(h, SCARD_SHARE_EXCLUSIVE, SCARD_PROTOCOL_ANY, SCARD_LEAVE_CARD);
	}
	CASE("reconnect.in_others_transaction") {
		a = actor(PROCESS);
		c = context();
		must("connect", act(a, A_CONNECT, R_T1, SCARD_SHARE_SHARED, SCARD_PROTOCOL_ANY));
		h = connect_to(c, R_T1, SCARD_SHARE_SHARED, SCARD_PROTOCOL_ANY);
		rc("begin", SCardBeginTransaction(h));
		ask(a, A_RECONNECT, SCARD_SHARE_SHARED, SCARD_PROTOCOL_ANY, SCARD_RESET_CARD, NULL);
		waits("other", a, &t);
		rc("end", SCardEndTransaction(h, SCARD_LEAVE_CARD));
		then("other", a, &t);
		status("own", h);
	}
	uses(BIT(R_MEMORY));
	CASE("reconnect.memory.direct_to_shared") {
		c = context();
		h = connect_to(c, R_MEMORY, SCARD_SHARE_DIRECT, 0);
		reconnect_says(h, SCARD_SHARE_SHARED, SCARD_PROTOCOL_ANY, SCARD_LEAVE_CARD);
	}
	uses(BIT(R_EMPTY));
	for (size_t j = 0; j < 3; j++)
		for (size_t i = 0; i < 3; i++)
			CASE("reconnect.empty.direct_to_%s.%s", shares[j].name, initializations[i].name) {
				c = context();
				h = connect_to(c, R_EMPTY, SCARD_SHARE_DIRECT, 0);
				reconnect_says(h, shares[j].mode, SCARD_PROTOCOL_ANY, initializations[i].mode);
			}
	uses(BIT(R_MUTE));
	for (size_t j = 0; j < 3; j++)
		for (size_t i = 0; i < 3; i++)
			CASE("reconnect.mute.direct_to_%s.%s", shares[j].name, initializations[i].name) {
				c = context();
				h = connect_to(c, R_MUTE, SCARD_SHARE_DIRECT, 0);
				reconnect_says(h, shares[j].mode, SCARD_PROTOCOL_ANY, initializations[i].mode);
			}
	uses(BIT(R_T1));
	CASE("reconnect.after_removal") {
		c = context();
		h = connect_to(c, R_T1, SCARD_SHARE_SHARED, SCARD_PROTOCOL_ANY);
		ctl("sim %d remove", R_T1);
		wait_state(R_T1, SCARD_STATE_EMPTY, 0);
		reconnect_says(h, SCARD_SHARE_SHARED, SCARD_PROTOCOL_ANY, SCARD_LEAVE_CARD);
		reconnect_says(h, SCARD_SHARE_SHARED, SCARD_PROTOCOL_ANY, SCARD_RESET_CARD);
		reconnect_says(h, SCARD_SHARE_DIRECT, 0, SCARD_LEAVE_CARD);
		ctl("sim %d insert", R_T1);
		wait_state(R_T1, SCARD_STATE_PRESENT, 0);
		transmit("before", h, SELECT_MF);
		reconnect_says(h, SCARD_SHARE_SHARED, SCARD_PROTOCOL_ANY, SCARD_LEAVE_CARD);
		transmit("after", h, SELECT_MF);
	}
}

GROUP(disconnect)
{
	SCARDCONTEXT c;
	SCARDHANDLE h = 0;
	struct actor *a;
	struct told t;
	DWORD p = 0;

	uses(BIT(R_T1));
	for (size_t i = 0; i < INITIALIZATIONS; i++)
		CASE("disconnect.%s", initializations[i].name) {
			a = actor(PROCESS);
			c = context();
			must("connect", act(a, A_CONNECT, R_T1, SCARD_SHARE_SHARED, SCARD_PROTOCOL_ANY));
			h = connect_to(c, R_T1, SCARD_SHARE_SHARED, SCARD_PROTOCOL_ANY);
			rc("", SCardDisconnect(h, initializations[i].mode));
			rc("again", SCardDisconnect(h, initializations[i].mode));
			rc("other", act_told(a, A_STATUS, 0, 0, 0, NULL, &t));
			if (t.code == SCARD_S_SUCCESS)
				say_state("", t.a);
			rc("other", act_told(a, A_TRANSMIT, 0, 0, 0, SELECT_MF, &t));
			/* Is it still connected? */
			rc("own again", SCardStatus(h, NULL, NULL, NULL, NULL, NULL, NULL));
			rc("reconnect", act(a, A_RECONNECT, SCARD_SHARE_SHARED, SCARD_PROTOCOL_ANY, SCARD_RESET_CARD));
		}
	for (size_t s = 0; s < 3; s += 2)
		for (size_t i = 0; i < 3; i++)
			CASE("disconnect.%s.%s", shares[s].name, initializations[i].name) {
				c = context();
				h = connect_to(c, R_T1, shares[s].mode, SCARD_PROTOCOL_ANY);
				rc("", SCardDisconnect(h, initializations[i].mode));
				say_event("events", one_event(c, R_T1));
			}
	CASE("disconnect.bad")
		rc("", SCardDisconnect(BAD_HANDLE, SCARD_LEAVE_CARD));
	CASE("disconnect.zero")
		rc("", SCardDisconnect(0, SCARD_LEAVE_CARD));
	CASE("disconnect.bad_disposition_bad_handle")
		rc("", SCardDisconnect(BAD_HANDLE, 17));
	CASE("disconnect.context_handle") {
		c = context();
		rc("", SCardDisconnect(c, SCARD_LEAVE_CARD));
	}
	CASE("disconnect.others_handle") {
		a = actor(PROCESS);
		c = context();
		h = connect_to(c, R_T1, SCARD_SHARE_SHARED, SCARD_PROTOCOL_ANY);
		lend(a, 0, h);
		/* The actor was made before: it knows nothing of the handle. */
		rc("", act(a, A_DISCONNECT, SCARD_LEAVE_CARD, 0, 0));
		transmit("", h, SELECT_MF);
	}
	for (size_t i = 0; i < 3; i++)
		CASE("disconnect.after_removal.%s", initializations[i].name) {
			c = context();
			h = connect_to(c, R_T1, SCARD_SHARE_SHARED, SCARD_PROTOCOL_ANY);
			ctl("sim %d remove", R_T1);
			wait_state(R_T1, SCARD_STATE_EMPTY, 0);
			rc("", SCardDisconnect(h, initializations[i].mode));
			rc("again", SCardDisconnect(h, initializations[i].mode));
			ctl("sim %d insert", R_T1);
			wait_state(R_T1, SCARD_STATE_PRESENT, 0);
		}
	for (size_t i = 0; i < 3; i++)
		CASE("disconnect.after_change_of_card.%s", initializations[i].name) {
			a = actor(PROCESS);
			c = context();
			h = connect_to(c, R_T1, SCARD_SHARE_SHARED, SCARD_PROTOCOL_ANY);
			ctl("sim %d remove", R_T1);
			wait_state(R_T1, SCARD_STATE_EMPTY, 0);
			ctl("sim %d insert", R_T1);
			wait_state(R_T1, SCARD_STATE_PRESENT, 0);
			rc("other", act(a, A_CONNECT, R_T1, SCARD_SHARE_SHARED, SCARD_PROTOCOL_ANY));
			/* It is not the card of this connection. */
			rc("", SCardDisconnect(h, initializations[i].mode));
			rc("other", act_told(a, A_TRANSMIT, 0, 0, 0, SELECT_MF, &t));
		}
	for (size_t i = 0; i < 3; i++)
		CASE("disconnect.after_reset_by_other.%s", initializations[i].name) {
			a = actor(PROCESS);
			c = context();
			h = connect_to(c, R_T1, SCARD_SHARE_SHARED, SCARD_PROTOCOL_ANY);
			must("connect", act(a, A_CONNECT, R_T1, SCARD_SHARE_SHARED, SCARD_PROTOCOL_ANY));
			must("reset", act(a, A_RECONNECT, SCARD_SHARE_SHARED, SCARD_PROTOCOL_ANY, SCARD_RESET_CARD));
			rc("", SCardDisconnect(h, initializations[i].mode));
			rc("other", act_told(a, A_TRANSMIT, 0, 0, 0, SELECT_MF, &t));
		}
	for (size_t i = 0; i < 3; i++)
		CASE("disconnect.in_others_transaction.%s", initializations[i].name) {
			a = actor(PROCESS);
			c = context();
			must("connect", act(a, A_CONNECT, R_T1, SCARD_SHARE_SHARED, SCARD_PROTOCOL_ANY));
			h = connect_to(c, R_T1, SCARD_SHARE_SHARED, SCARD_PROTOCOL_ANY);
			rc("begin", SCardBeginTransaction(h));
			ask(a, A_DISCONNECT, (long)initializations[i].mode, 0, 0, NULL);
			waits("other", a, &t);
			transmit("", h, SELECT_MF);
			if (rc("end", SCardEndTransaction(h, SCARD_LEAVE_CARD)) == SCARD_S_SUCCESS)
				rc("reconnect", SCardReconnect(h, SCARD_SHARE_SHARED, SCARD_PROTOCOL_ANY, SCARD_LEAVE_CARD, &p));
		}
	uses(BIT(R_EMPTY));
	for (size_t i = 0; i < 3; i++)
		CASE("disconnect.empty_direct.%s", initializations[i].name) {
			c = context();
			h = connect_to(c, R_EMPTY, SCARD_SHARE_DIRECT, 0);
			rc("", SCardDisconnect(h, initializations[i].mode));
		}
}
