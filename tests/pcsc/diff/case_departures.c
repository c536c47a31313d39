/* SPDX-License-Identifier: BSD-3-Clause
 *
 * case_departures.c - readers that leave, and come back
 */
#include "diff.h"

/* A reader that leaves, and comes back. */
GROUP(departures)
{
	SCARDCONTEXT c;
	SCARDHANDLE h, g = 0;
	struct actor *a;
	struct told t;
	DWORD p, n, event;
	char list[READERS * MAX_READERNAME];

	uses(BIT(R_AWAY));
	CASE("away.lists") {
		c = context();
		ctl("sim %d unplug", R_AWAY);
		/* No event tells that it has left: a state does. */
		for (long long end = now_ms() + SOON; now_ms() < end; pause_ms(10))
			if (changes(c, 0, reader_names[R_AWAY], SCARD_STATE_UNAWARE, &event) != SCARD_S_SUCCESS || event & SCARD_STATE_EMPTY)
				break;
		n = sizeof list;
		rc("", SCardListReaders(c, NULL, list, &n));
		say_readers("", list, n);
		rc("changes", changes(c, 0, reader_names[R_AWAY], SCARD_STATE_UNAWARE, &event));
		say_event("", event);
		rc("present", changes(c, 0, reader_names[R_AWAY], SCARD_STATE_PRESENT, &event));
		say_event("", event);
		rc("connect", SCardConnect(c, reader_names[R_AWAY], SCARD_SHARE_SHARED, SCARD_PROTOCOL_ANY, &g, &p));
		rc("direct", SCardConnect(c, reader_names[R_AWAY], SCARD_SHARE_DIRECT, 0, &g, &p));
		ctl("sim %d plug", R_AWAY);
		wait_state(R_AWAY, SCARD_STATE_PRESENT, 0);
		n = sizeof list;
		rc("back", SCardListReaders(c, NULL, list, &n));
		say_readers("", list, n);
	}
	CASE("away.waiting") {
		a = actor(THREAD);
		ask(a, A_CHANGES, (long)INFINITE, SCARD_STATE_PRESENT, R_AWAY, NULL);
		waits("", a, &t);
		ctl("sim %d unplug", R_AWAY);
		then("left", a, &t);
		say_event("", t.a);
		ctl("sim %d plug", R_AWAY);
		wait_state(R_AWAY, SCARD_STATE_PRESENT, 0);
	}
	CASE("away.waiting_pnp") {
		a = actor(THREAD);
		ask(a, A_CHANGES, 900, 0, -1, NULL);
		waits("", a, &t);
		ctl("sim %d unplug", R_AWAY);
		then("left", a, &t);
		say_event("", t.a);
		ask(a, A_CHANGES, 900, 0, -1, NULL);
		waits("", a, &t);
		ctl("sim %d plug", R_AWAY);
		then("back", a, &t);
		say_event("", t.a);
		wait_state(R_AWAY, SCARD_STATE_PRESENT, 0);
	}
	CASE("away.other_reader_waits") {
		a = actor(THREAD);
		ask(a, A_CHANGES, 900, SCARD_STATE_PRESENT, R_T1, NULL);
		waits("", a, &t);
		ctl("sim %d unplug", R_AWAY);
		then("", a, &t);
		say_event("", t.a);
		ctl("sim %d plug", R_AWAY);
		wait_state(R_AWAY, SCARD_STATE_PRESENT, 0);
	}
	CASE("away.connected") {
		c = context();
		h = connect_to(c, R_AWAY, SCARD_SHARE_SHARED, SCARD_PROTOCOL_ANY);
		ctl("sim %d unplug", R_AWAY);
		for (long long end = now_ms() + SOON; now_ms() < end; pause_ms(10))
			if (changes(c, 0, reader_names[R_AWAY], SCARD_STATE_UNAWARE, &event) != SCARD_S_SUCCESS || event & SCARD_STATE_EMPTY)
				break;
		transmit("", h, SELECT_MF);
		status("status", h);
		rc("begin", SCardBeginTransaction(h));
		rc("end", SCardEndTransaction(h, SCARD_LEAVE_CARD));
		n = sizeof list;
		rc("control", SCardControl(h, CM_IOCTL_GET_FEATURE_REQUEST, NULL, 0, list, sizeof list, &n));
		n = sizeof list;
		rc("attrib", SCardGetAttrib(h, SCARD_ATTR_VENDOR_NAME, (LPBYTE)list, &n));
		rc("reconnect", SCardReconnect(h, SCARD_SHARE_SHARED, SCARD_PROTOCOL_ANY, SCARD_RESET_CARD, &p));
		ctl("sim %d plug", R_AWAY);
		wait_state(R_AWAY, SCARD_STATE_PRESENT, 0);
		transmit("back", h, SELECT_MF);
		rc("reconnect", SCardReconnect(h, SCARD_SHARE_SHARED, SCARD_PROTOCOL_ANY, SCARD_LEAVE_CARD, &p));
		transmit("", h, SELECT_MF);
		rc("disconnect", SCardDisconnect(h, SCARD_LEAVE_CARD));
		rc("valid", SCardIsValidContext(c));
		h = connect_to(c, R_AWAY, SCARD_SHARE_SHARED, SCARD_PROTOCOL_ANY);
		transmit("new", h, SELECT_MF);
	}
	for (int d = SCARD_LEAVE_CARD; d <= SCARD_UNPOWER_CARD; d++)
		CASE("away.disconnect.%d", d) {
			c = context();
			h = connect_to(c, R_AWAY, SCARD_SHARE_SHARED, SCARD_PROTOCOL_ANY);
			ctl("sim %d unplug", R_AWAY);
			for (long long end = now_ms() + SOON; now_ms() < end; pause_ms(10))
				if (changes(c, 0, reader_names[R_AWAY], SCARD_STATE_UNAWARE, &event) != SCARD_S_SUCCESS || event & SCARD_STATE_EMPTY)
					break;
			rc("", SCardDisconnect(h, (DWORD)d));
			rc("again", SCardDisconnect(h, (DWORD)d));
			ctl("sim %d plug", R_AWAY);
			wait_state(R_AWAY, SCARD_STATE_PRESENT, 0);
		}
	CASE("away.during_transmit") {
		a = actor(PROCESS);
		must("connect", act(a, A_CONNECT, R_AWAY, SCARD_SHARE_SHARED, SCARD_PROTOCOL_ANY));
		ask(a, A_TRANSMIT, 0, 0, 0, "80E803E8");
		waits("", a, &t);
		ctl("sim %d unplug", R_AWAY);
		then("", a, &t);
		ctl("sim %d plug", R_AWAY);
		wait_state(R_AWAY, SCARD_STATE_PRESENT, 0);
	}
	CASE("away.exclusive_is_over") {
		a = actor(PROCESS);
		c = context();
		h = connect_to(c, R_AWAY, SCARD_SHARE_EXCLUSIVE, SCARD_PROTOCOL_ANY);
		ctl("sim %d unplug", R_AWAY);
		for (long long end = now_ms() + SOON; now_ms() < end; pause_ms(10))
			if (changes(c, 0, reader_names[R_AWAY], SCARD_STATE_UNAWARE, &event) != SCARD_S_SUCCESS || event & SCARD_STATE_EMPTY)
				break;
		ctl("sim %d plug", R_AWAY);
		wait_state(R_AWAY, SCARD_STATE_PRESENT, 0);
		rc("other", act(a, A_CONNECT, R_AWAY, SCARD_SHARE_SHARED, SCARD_PROTOCOL_ANY));
	}
}
