/* SPDX-License-Identifier: BSD-3-Clause
 *
 * case_changes.c - SCardGetStatusChange: states and arguments
 */
#include "diff.h"

#define PNP "\\\\?PnP?\\Notification"

static const struct {
	DWORD bits;
	const char *name;
} currents[] = {
	{SCARD_STATE_UNAWARE, "unaware"}, {SCARD_STATE_IGNORE, "ignore"}, {SCARD_STATE_CHANGED, "changed"},
	{SCARD_STATE_UNKNOWN, "unknown"}, {SCARD_STATE_UNAVAILABLE, "unavailable"},
	{SCARD_STATE_EMPTY, "empty"}, {SCARD_STATE_PRESENT, "present"}, {SCARD_STATE_ATRMATCH, "atrmatch"},
	{SCARD_STATE_EXCLUSIVE, "exclusive"}, {SCARD_STATE_INUSE, "inuse"}, {SCARD_STATE_MUTE, "mute"},
	{SCARD_STATE_UNPOWERED, "unpowered"},
	{SCARD_STATE_PRESENT | SCARD_STATE_INUSE, "present+inuse"},
	{SCARD_STATE_PRESENT | SCARD_STATE_EXCLUSIVE, "present+exclusive"},
	{SCARD_STATE_PRESENT | SCARD_STATE_EXCLUSIVE | SCARD_STATE_INUSE, "present+exclusive+inuse"},
	{SCARD_STATE_PRESENT | SCARD_STATE_MUTE, "present+mute"},
	{SCARD_STATE_PRESENT | SCARD_STATE_CHANGED, "present+changed"},
	{SCARD_STATE_PRESENT | SCARD_STATE_EMPTY, "present+empty"},
	{SCARD_STATE_PRESENT | SCARD_STATE_UNKNOWN, "present+unknown"},
	{SCARD_STATE_PRESENT | SCARD_STATE_UNAVAILABLE, "present+unavailable"},
	{SCARD_STATE_EMPTY | SCARD_STATE_UNKNOWN, "empty+unknown"},
	{SCARD_STATE_EMPTY | SCARD_STATE_INUSE, "empty+inuse"},
	{SCARD_STATE_IGNORE | SCARD_STATE_PRESENT, "ignore+present"},
	{0x8000, "8000"},
};
enum { CURRENTS = sizeof currents / sizeof *currents };

GROUP(changes_states)
{
	static const enum reader rs[] = {R_T1, R_EMPTY, R_MUTE};
	SCARDCONTEXT c;

	for (size_t i = 0; i < sizeof rs / sizeof *rs; i++)
		for (size_t j = 0; j < CURRENTS; j++) {
			/* pcscd's library takes half a second for each look at a mute card. */
			if (rs[i] == R_MUTE && j % 3 != 1)
				continue;
			uses(BIT(rs[i]));
			CASE("changes.0.%s.%s", reader_words[rs[i]], currents[j].name) {
				c = context();
				say_change(c, rs[i], currents[j].bits, counter_of(rs[i]), 0);
			}
		}
	for (int r = 0; r < READERS; r++) {
		uses(BIT(r));
		CASE("changes.unaware.%s", reader_words[r]) {
			c = context();
			say_change(c, r, SCARD_STATE_UNAWARE, counter_of(r), 0);
		}
	}
	uses(BIT(R_T1));
	for (int delta = -1; delta <= 1; delta++)
		for (size_t j = 0; j < CURRENTS; j++)
			CASE("changes.counter%+d.%s", delta, currents[j].name) {
				DWORD base = counter_of(R_T1);

				c = context();
				/* Only a counter that is not 0 counts. */
				if (delta < 0)
					base = base > 1 ? base : 0xFFFF;
				say_change(c, R_T1, currents[j].bits | ((base + (DWORD)delta) & 0xFFFF) << 16, counter_of(R_T1), 0);
			}
	for (size_t j = 0; j < CURRENTS; j++)
		CASE("changes.shared.%s", currents[j].name) {
			c = context();
			connect_to(c, R_T1, SCARD_SHARE_SHARED, SCARD_PROTOCOL_ANY);
			say_change(c, R_T1, currents[j].bits, counter_of(R_T1), 0);
		}
	for (size_t j = 0; j < CURRENTS; j++)
		CASE("changes.exclusive.%s", currents[j].name) {
			c = context();
			connect_to(c, R_T1, SCARD_SHARE_EXCLUSIVE, SCARD_PROTOCOL_ANY);
			say_change(c, R_T1, currents[j].bits, counter_of(R_T1), 0);
		}
	uses(BIT(R_EMPTY));
	for (int share = SCARD_SHARE_EXCLUSIVE; share <= SCARD_SHARE_DIRECT; share += 2)
		CASE("changes.empty_connected.%s", share == SCARD_SHARE_DIRECT ? "direct" : "exclusive") {
			SCARDHANDLE h = 0;
			DWORD p;

			c = context();
			rc("connect", SCardConnect(c, reader_names[R_EMPTY], (DWORD)share, SCARD_PROTOCOL_ANY, &h, &p));
			say_change(c, R_EMPTY, SCARD_STATE_UNAWARE, counter_of(R_EMPTY), 0);
			say_change(c, R_EMPTY, SCARD_STATE_EMPTY, counter_of(R_EMPTY), 0);
		}
	uses(BIT(R_T1));
	CASE("changes.direct_connected") {
		c = context();
		connect_to(c, R_T1, SCARD_SHARE_DIRECT, 0);
		say_change(c, R_T1, SCARD_STATE_UNAWARE, counter_of(R_T1), 0);
	}
	CASE("changes.two_shared") {
		c = context();
		connect_to(c, R_T1, SCARD_SHARE_SHARED, SCARD_PROTOCOL_ANY);
		connect_to(context(), R_T1, SCARD_SHARE_SHARED, SCARD_PROTOCOL_ANY);
		say_change(c, R_T1, SCARD_STATE_UNAWARE, counter_of(R_T1), 0);
	}
}

GROUP(changes_calls)
{
	SCARD_READERSTATE s[40];
	SCARDCONTEXT c;
	DWORD event, base;
	long long begin;

	uses(BIT(R_T1));
	CASE("changes.null_array") {
		c = context();
		rc("", SCardGetStatusChange(c, 0, NULL, 1));
	}
	CASE("changes.zero") {
		c = context();
		rc("null", SCardGetStatusChange(c, 0, NULL, 0));
		rc("array", SCardGetStatusChange(c, 0, s, 0));
		rc("infinite", SCardGetStatusChange(c, INFINITE, s, 0));
	}
	CASE("changes.zero_bad_context")
		rc("", SCardGetStatusChange(BAD_HANDLE, 0, NULL, 0));
	CASE("changes.null_array_bad_context")
		rc("", SCardGetStatusChange(BAD_HANDLE, 0, NULL, 1));
	CASE("changes.null_name") {
		c = context();
		rc("", changes(c, 0, NULL, SCARD_STATE_UNAWARE, &event));
	}
	CASE("changes.null_name_bad_context")
		rc("", changes(BAD_HANDLE, 0, NULL, SCARD_STATE_UNAWARE, &event));
	CASE("changes.null_name_ignored") {
		c = context();
		rc("", changes(c, 0, NULL, SCARD_STATE_IGNORE, &event));
	}
	CASE("changes.empty_name") {
		c = context();
		rc("", changes(c, 0, "", SCARD_STATE_UNAWARE, &event));
		say_event("", event);
	}
	CASE("changes.bad_context")
		rc("", changes(BAD_HANDLE, 0, reader_names[R_T1], SCARD_STATE_UNAWARE, &event));
	CASE("changes.zero_context")
		rc("", changes(0, 0, reader_names[R_T1], SCARD_STATE_UNAWARE, &event));
	CASE("changes.ignored_bad_context")
		rc("", changes(BAD_HANDLE, 0, reader_names[R_T1], SCARD_STATE_IGNORE, &event));
	CASE("changes.released_context") {
		c = context();
		SCardReleaseContext(c);
		rc("", changes(c, 0, reader_names[R_T1], SCARD_STATE_UNAWARE, &event));
	}
	for (size_t j = 0; j < CURRENTS; j++)
		CASE("changes.unknown_reader.%s", currents[j].name) {
			c = context();
			event = 0;
			rc("", changes(c, 0, "Nobody 00 00", currents[j].bits, &event));
			say_event("", event);
			say("counter=%lu", event >> 16);
		}
	CASE("changes.unknown_and_known") {
		c = context();
		memset(s, 0, sizeof s);
		s[0].szReader = reader_names[R_T1];
		s[1].szReader = "Nobody 00 00";
		rc("", SCardGetStatusChange(c, 0, s, 2));
		say_event("known", s[0].dwEventState);
		say_event("unknown", s[1].dwEventState);
	}
	CASE("changes.unknown_ignored_and_known") {
		c = context();
		memset(s, 0, sizeof s);
		s[0].szReader = reader_names[R_T1];
		s[1].szReader = "Nobody 00 00";
		s[1].dwCurrentState = SCARD_STATE_IGNORE;
		rc("", SCardGetStatusChange(c, 0, s, 2));
		say_event("known", s[0].dwEventState);
		say_event("unknown", s[1].dwEventState);
	}
	CASE("changes.ignored_and_known") {
		c = context();
		memset(s, 0, sizeof s);
		s[0].szReader = reader_names[R_T1];
		s[1].szReader = reader_names[R_T0];
		s[1].dwCurrentState = SCARD_STATE_IGNORE;
		s[1].dwEventState = 0xBEEF;
		rc("", SCardGetStatusChange(c, 0, s, 2));
		say_event("known", s[0].dwEventState);
		say_event("ignored", s[1].dwEventState);
	}
	CASE("changes.name_case") {
		char upper[MAX_READERNAME];

		c = context();
		snprintf(upper, sizeof upper, "%s", reader_names[R_T1]);
		upper[0] ^= 0x20;
		rc("", changes(c, 0, upper, SCARD_STATE_UNAWARE, &event));
	}
	CASE("changes.name_cut") {
		char cut[MAX_READERNAME];

		c = context();
		snprintf(cut, sizeof cut, "%s", reader_names[R_T1]);
		cut[strlen(cut) - 1] = '\0';
		rc("", changes(c, 0, cut, SCARD_STATE_UNAWARE, &event));
	}
	CASE("changes.twice_same_reader") {
		c = context();
		memset(s, 0, sizeof s);
		s[0].szReader = s[1].szReader = reader_names[R_T1];
		s[1].dwCurrentState = SCARD_STATE_PRESENT;
		rc("", SCardGetStatusChange(c, 0, s, 2));
		say_event("", s[0].dwEventState);
		say_event("", s[1].dwEventState);
	}
	uses(ALL);
	CASE("changes.all_unaware") {
		c = context();
		memset(s, 0, sizeof s);
		for (int r = 0; r < READERS; r++)
			s[r].szReader = reader_names[r];
		rc("", SCardGetStatusChange(c, INFINITE, s, READERS));
		for (int r = 0; r < READERS; r++)
			say_event(reader_words[r], s[r].dwEventState);
	}
	CASE("changes.all_known") {
		c = context();
		memset(s, 0, sizeof s);
		for (int r = 0; r < READERS; r++) {
			s[r].szReader = reader_names[r];
			s[r].dwCurrentState = r == R_EMPTY ? SCARD_STATE_EMPTY : SCARD_STATE_PRESENT;
		}
		rc("", SCardGetStatusChange(c, 50, s, READERS));
		for (int r = 0; r < READERS; r++)
			say_event(reader_words[r], s[r].dwEventState);
	}
	CASE("changes.one_of_all_changed") {
		c = context();
		memset(s, 0, sizeof s);
		for (int r = 0; r < READERS; r++) {
			s[r].szReader = reader_names[r];
			s[r].dwCurrentState = r == R_EMPTY ? SCARD_STATE_EMPTY : SCARD_STATE_PRESENT;
		}
		s[R_T0].dwCurrentState = SCARD_STATE_EMPTY;
		rc("", SCardGetStatusChange(c, INFINITE, s, READERS));
		for (int r = 0; r < READERS; r++)
			say_event(reader_words[r], s[r].dwEventState);
	}
	uses(BIT(R_T1));
	for (DWORD n = 15; n <= 18; n++)
		CASE("changes.%lu_entries", n) {
			c = context();
			memset(s, 0, sizeof s);
			for (DWORD i = 0; i < n; i++)
				s[i].szReader = reader_names[R_T1];
			rc("", SCardGetStatusChange(c, 0, s, n));
		}
	CASE("changes.entries_bad_context") {
		memset(s, 0, sizeof s);
		rc("", SCardGetStatusChange(BAD_HANDLE, 0, s, 20));
	}
	/* Plug and play. */
	for (size_t j = 0; j < CURRENTS; j++)
		CASE("changes.pnp.%s", currents[j].name) {
			c = context();
			event = 0;
			rc("", changes(c, 0, PNP, currents[j].bits, &event));
			say_event("", event);
			say("counter=%lu", event >> 16);
		}
	CASE("changes.pnp.lower_case") {
		c = context();
		rc("", changes(c, 0, "\\\\?pnp?\\notification", SCARD_STATE_UNAWARE, &event));
	}
	CASE("changes.pnp.short") {
		c = context();
		begin = now_ms();
		rc("", changes(c, 200, PNP, SCARD_STATE_UNAWARE, &event));
		say_event("", event);
		say(now_ms() - begin >= 190 ? "waited" : "at once");
	}
	CASE("changes.pnp.counter") {
		c = context();
		rc("", changes(c, 0, PNP, (DWORD)reader_count << 16, &event));
		say_event("", event);
		rc("other", changes(c, 0, PNP, (DWORD)(reader_count + 1) << 16, &event));
		say_event("", event);
	}
	CASE("changes.pnp_and_unaware") {
		c = context();
		memset(s, 0, sizeof s);
		s[0].szReader = PNP;
		s[1].szReader = reader_names[R_T1];
		rc("", SCardGetStatusChange(c, 0, s, 2));
		say_event("pnp", s[0].dwEventState);
		say_event("reader", s[1].dwEventState);
	}
	/* Time-outs. */
	CASE("changes.timeout.200") {
		c = context();
		begin = now_ms();
		rc("", changes(c, 200, reader_names[R_T1], SCARD_STATE_PRESENT, &event));
		say_event("", event);
		say(now_ms() - begin >= 190 ? "waited" : "at once");
	}
	CASE("changes.timeout.1") {
		c = context();
		rc("", changes(c, 1, reader_names[R_T1], SCARD_STATE_PRESENT, &event));
		say_event("", event);
	}
	CASE("changes.timeout.infinite_is_32_bits") {
		struct actor *a = actor(THREAD);
		struct told t;

		ask(a, A_CHANGES, -1L, SCARD_STATE_PRESENT, R_T1, NULL);
		waits("", a, &t);
	}
	CASE("changes.timeout.counter_matches") {
		c = context();
		base = counter_of(R_T1);
		rc("", changes(c, 100, reader_names[R_T1], SCARD_STATE_PRESENT | base << 16, &event));
		say_event("", event);
	}
	CASE("changes.timeout.event_fed_back") {
		c = context();
		changes(c, 0, reader_names[R_T1], SCARD_STATE_UNAWARE, &event);
		rc("", changes(c, 100, reader_names[R_T1], event, &event));
		say_event("", event);
	}
}
