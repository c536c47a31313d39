/* SPDX-License-Identifier: BSD-3-Clause
 *
 * case_connect.c - SCardConnect, and what connections hinder each other
 */
#include "diff.h"
#include "modes.h"

static void connect_says(SCARDCONTEXT c, const char *name, DWORD share, DWORD mask)
{
	SCARDHANDLE h = 0x1234;
	DWORD active = 0x77;
	LONG e = rc("", SCardConnect(c, name, share, mask, &h, &active));

	if (active == 0x77)
		say("untouched");
	else
		say_protocol("", active);
	say("handle=%s", h == 0x1234 ? "untouched" : h == 0 ? "0" : "set");
	if (e != SCARD_S_SUCCESS)
		return;
	status("status", h);
	rc("disconnect", SCardDisconnect(h, SCARD_LEAVE_CARD));
}

GROUP(connect)
{
	static const enum reader rs[] = {R_T1, R_T0, R_DUAL, R_MEMORY, R_EMPTY, R_MUTE};
	SCARDCONTEXT c;
	SCARDHANDLE h = 0, g = 0;
	DWORD p = 0;

	for (size_t i = 0; i < sizeof rs / sizeof *rs; i++)
		for (size_t s = 0; s < SHARES; s++)
			for (size_t m = 0; m < PROTOCOLS; m++) {
				/* A direct connection leaves the card as it is: powered or not,
				 * which depends on the time. Another comes first. */
				uses(BIT(rs[i]));
				CASE("connect.%s.%s.%s", reader_words[rs[i]], shares[s].name, protocols[m].name) {
					c = context();
					connect_says(c, reader_names[rs[i]], shares[s].mode, protocols[m].mode);
				}
			}
	uses(BIT(R_T1));
	CASE("connect.null_reader") {
		c = context();
		connect_says(c, NULL, SCARD_SHARE_SHARED, SCARD_PROTOCOL_ANY);
	}
	CASE("connect.empty_name") {
		c = context();
		connect_says(c, "", SCARD_SHARE_SHARED, SCARD_PROTOCOL_ANY);
	}
	CASE("connect.unknown_reader") {
		c = context();
		connect_says(c, "Nobody 00 00", SCARD_SHARE_SHARED, SCARD_PROTOCOL_ANY);
	}
	CASE("connect.unknown_reader_bad_share") {
		c = context();
		connect_says(c, "Nobody 00 00", 9, SCARD_PROTOCOL_ANY);
	}
	CASE("connect.unknown_reader_no_protocol") {
		c = context();
		connect_says(c, "Nobody 00 00", SCARD_SHARE_SHARED, 0);
	}
	CASE("connect.pnp") {
		c = context();
		connect_says(c, "\\\\?PnP?\\Notification", SCARD_SHARE_SHARED, SCARD_PROTOCOL_ANY);
	}
	CASE("connect.cut_name") {
		char cut[MAX_READERNAME];

		snprintf(cut, sizeof cut, "%s", reader_names[R_T1]);
		cut[strlen(cut) - 1] = '\0';
		c = context();
		connect_says(c, cut, SCARD_SHARE_SHARED, SCARD_PROTOCOL_ANY);
	}
	for (size_t n = 127; n <= 129; n++)
		CASE("connect.name_of_%zu", n) {
			char name[256];

			memset(name, 'x', n);
			name[n] = '\0';
			c = context();
			connect_says(c, name, SCARD_SHARE_SHARED, SCARD_PROTOCOL_ANY);
		}
	CASE("connect.null_handle") {
		c = context();
		rc("", SCardConnect(c, reader_names[R_T1], SCARD_SHARE_SHARED, SCARD_PROTOCOL_ANY, NULL, &p));
	}
	CASE("connect.null_active") {
		c = context();
		rc("", SCardConnect(c, reader_names[R_T1], SCARD_SHARE_SHARED, SCARD_PROTOCOL_ANY, &h, NULL));
	}
	CASE("connect.bad_context") {
		h = 0x1234;
		rc("", SCardConnect(BAD_HANDLE, reader_names[R_T1], SCARD_SHARE_SHARED, SCARD_PROTOCOL_ANY, &h, &p));
		say("handle=%s", h == 0x1234 ? "untouched" : h == 0 ? "0" : "set");
	}
	CASE("connect.zero_context")
		rc("", SCardConnect(0, reader_names[R_T1], SCARD_SHARE_SHARED, SCARD_PROTOCOL_ANY, &h, &p));
	CASE("connect.bad_context_null_reader")
		rc("", SCardConnect(BAD_HANDLE, NULL, SCARD_SHARE_SHARED, SCARD_PROTOCOL_ANY, &h, &p));
	CASE("connect.bad_context_unknown_reader")
		rc("", SCardConnect(BAD_HANDLE, "Nobody", SCARD_SHARE_SHARED, SCARD_PROTOCOL_ANY, &h, &p));
	CASE("connect.released_context") {
		c = context();
		SCardReleaseContext(c);
		rc("", SCardConnect(c, reader_names[R_T1], SCARD_SHARE_SHARED, SCARD_PROTOCOL_ANY, &h, &p));
	}
	CASE("connect.twice_same_context") {
		c = context();
		h = connect_to(c, R_T1, SCARD_SHARE_SHARED, SCARD_PROTOCOL_ANY);
		rc("", SCardConnect(c, reader_names[R_T1], SCARD_SHARE_SHARED, SCARD_PROTOCOL_ANY, &g, &p));
		say(g == h ? "same handle" : "other handle");
		transmit("first", h, SELECT_MF);
		transmit("second", g, SELECT_MF);
		rc("disconnect", SCardDisconnect(h, SCARD_LEAVE_CARD));
		transmit("second", g, SELECT_MF);
		rc("disconnect", SCardDisconnect(g, SCARD_LEAVE_CARD));
	}
	CASE("connect.handle_not_reused") {
		bool same = false;

		c = context();
		h = connect_to(c, R_T1, SCARD_SHARE_SHARED, SCARD_PROTOCOL_ANY);
		SCardDisconnect(h, SCARD_LEAVE_CARD);
		for (int i = 0; i < 20; i++) {
			g = connect_to(c, R_T1, SCARD_SHARE_SHARED, SCARD_PROTOCOL_ANY);
			same = same || g == h;
			SCardDisconnect(g, SCARD_LEAVE_CARD);
		}
		say(same ? "reused" : "not reused");
		rc("old", SCardStatus(h, NULL, NULL, NULL, NULL, NULL, NULL));
	}
	CASE("connect.32_handles") {
		int ok = 0;

		c = context();
		for (int i = 0; i < 32; i++)
			if (SCardConnect(c, reader_names[R_T1], SCARD_SHARE_SHARED, SCARD_PROTOCOL_ANY, &h, &p) == SCARD_S_SUCCESS)
				ok++;
		say("%d", ok);
		transmit("last", h, SELECT_MF);
	}
	/* A protocol that is in use. */
	uses(BIT(R_DUAL));
	for (size_t first = 1; first <= 4; first++)
		for (size_t second = 1; second <= 4; second++)
			CASE("connect.dual.%s_then_%s", protocols[first].name, protocols[second].name) {
				c = context();
				h = connect_to(c, R_DUAL, SCARD_SHARE_SHARED, protocols[first].mode);
				connect_says(c, reader_names[R_DUAL], SCARD_SHARE_SHARED, protocols[second].mode);
			}
	for (size_t first = 1; first <= 2; first++)
		CASE("connect.dual.%s_left_then_other", protocols[first].name) {
			/* Kept after the last disconnection, unless that resets. */
			c = context();
			h = connect_to(c, R_DUAL, SCARD_SHARE_SHARED, protocols[first].mode);
			SCardDisconnect(h, SCARD_LEAVE_CARD);
			connect_says(c, reader_names[R_DUAL], SCARD_SHARE_SHARED, protocols[3 - first].mode);
			connect_says(c, reader_names[R_DUAL], SCARD_SHARE_SHARED, SCARD_PROTOCOL_ANY);
			h = connect_to(c, R_DUAL, SCARD_SHARE_SHARED, SCARD_PROTOCOL_ANY);
			SCardDisconnect(h, SCARD_RESET_CARD);
			connect_says(c, reader_names[R_DUAL], SCARD_SHARE_SHARED, protocols[3 - first].mode);
		}
}

static struct actor *other(int kind)
{
	return actor(kind == 0 ? PROCESS : THREAD);
}

GROUP(sharing)
{
	static const char *const kinds[] = {"process", "thread"};
	SCARDCONTEXT c;
	SCARDHANDLE h = 0, g = 0;
	struct actor *a;
	struct told t;
	DWORD p = 0;

	uses(BIT(R_T1));
	for (int k = 0; k < 2; k++)
		for (size_t i = 0; i < 3; i++)
			for (size_t j = 0; j < 3; j++)
				CASE("share.%s.%s_then_%s", kinds[k], shares[i].name, shares[j].name) {
					a = other(k);
					c = context();
					h = connect_to(c, R_T1, shares[i].mode, SCARD_PROTOCOL_ANY);
					rc("other", act_told(a, A_CONNECT, R_T1, (long)shares[j].mode, SCARD_PROTOCOL_ANY, NULL, &t));
					if (t.code == SCARD_S_SUCCESS)
						say_protocol("", t.b);
					transmit("own", h, SELECT_MF);
					rc("disconnect", SCardDisconnect(h, SCARD_LEAVE_CARD));
					rc("other", act(a, A_CONNECT, R_T1, (long)shares[j].mode, SCARD_PROTOCOL_ANY));
				}
	for (size_t i = 0; i < 3; i++)
		for (size_t j = 0; j < 3; j++)
			CASE("share.same_context.%s_then_%s", shares[i].name, shares[j].name) {
				c = context();
				h = connect_to(c, R_T1, shares[i].mode, SCARD_PROTOCOL_ANY);
				rc("", SCardConnect(c, reader_names[R_T1], shares[j].mode, SCARD_PROTOCOL_ANY, &g, &p));
			}
	CASE("share.exclusive_then_bad_protocol") {
		a = other(0);
		c = context();
		h = connect_to(c, R_T1, SCARD_SHARE_EXCLUSIVE, SCARD_PROTOCOL_ANY);
		rc("T0", act(a, A_CONNECT, R_T1, SCARD_SHARE_SHARED, SCARD_PROTOCOL_T0));
		rc("none", act(a, A_CONNECT, R_T1, SCARD_SHARE_SHARED, 0));
		rc("bad share", act(a, A_CONNECT, R_T1, 7, SCARD_PROTOCOL_T0));
	}
	CASE("share.killed_exclusive") {
		a = other(0);
		c = context();
		rc("connect", act(a, A_CONNECT, R_T1, SCARD_SHARE_EXCLUSIVE, SCARD_PROTOCOL_ANY));
		rc("other", SCardConnect(c, reader_names[R_T1], SCARD_SHARE_SHARED, SCARD_PROTOCOL_ANY, &h, &p));
		ask(a, A_KILL, 0, 0, 0, NULL);
		wait_state(R_T1, SCARD_STATE_PRESENT, SCARD_STATE_EXCLUSIVE | SCARD_STATE_INUSE);
		rc("after", SCardConnect(c, reader_names[R_T1], SCARD_SHARE_SHARED, SCARD_PROTOCOL_ANY, &h, &p));
		transmit("", h, SELECT_MF);
	}
	CASE("share.two_slots_are_two") {
		a = other(0);
		c = context();
		h = connect_to(c, R_SLOT1, SCARD_SHARE_EXCLUSIVE, SCARD_PROTOCOL_ANY);
		rc("second slot", act(a, A_CONNECT, R_SLOT2, SCARD_SHARE_EXCLUSIVE, SCARD_PROTOCOL_ANY));
		rc("first slot", act(a, A_CONNECT, R_SLOT1, SCARD_SHARE_SHARED, SCARD_PROTOCOL_ANY));
	}
	/* After an exclusive client left, a shared one, and the other way round. */
	CASE("share.exclusive_release_is_seen") {
		a = other(0);
		c = context();
		for (int i = 0; i < 3; i++) {
			h = connect_to(c, R_T1, SCARD_SHARE_EXCLUSIVE, SCARD_PROTOCOL_ANY);
			rc("", act(a, A_CONNECT, R_T1, SCARD_SHARE_EXCLUSIVE, SCARD_PROTOCOL_ANY));
			SCardDisconnect(h, SCARD_LEAVE_CARD);
			rc("", act(a, A_CONNECT, R_T1, SCARD_SHARE_EXCLUSIVE, SCARD_PROTOCOL_ANY));
			rc("", act(a, A_DISCONNECT, SCARD_LEAVE_CARD, 0, 0));
		}
	}
}
