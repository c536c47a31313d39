/* SPDX-License-Identifier: BSD-3-Clause
 *
 * case_moves.c - SCardGetStatusChange while something happens, SCardCancel
 */
#include "diff.h"

static const struct {
	const char *name;
	DWORD how;
} resets[] = {{"reset", SCARD_RESET_CARD}, {"unpower", SCARD_UNPOWER_CARD}};

/* What a waiting client is told when something happens. */
GROUP(changes_moves)
{
	struct actor *a, *b;
	struct told t;
	SCARDCONTEXT c;
	DWORD base;

	uses(BIT(R_T1));
	CASE("moves.remove") {
		a = actor(THREAD);
		base = counter_of(R_T1);
		ask(a, A_CHANGES, (long)INFINITE, SCARD_STATE_PRESENT, R_T1, NULL);
		waits("", a, &t);
		ctl("sim %d remove", R_T1);
		then("removed", a, &t);
		say_event("", t.a);
		say("counter=%+d", (int)((t.a >> 16) - base));
		ask(a, A_CHANGES, (long)INFINITE, (long)(t.a & ~(DWORD)SCARD_STATE_CHANGED), R_T1, NULL);
		waits("", a, &t);
		ctl("sim %d insert", R_T1);
		then("inserted", a, &t);
		say_event("", t.a);
		say("counter=%+d", (int)((t.a >> 16) - base));
	}
	CASE("moves.remove_seen_by_process") {
		a = actor(PROCESS);
		ask(a, A_CHANGES, (long)INFINITE, SCARD_STATE_PRESENT, R_T1, NULL);
		waits("", a, &t);
		ctl("sim %d remove", R_T1);
		then("removed", a, &t);
		say_event("", t.a);
		ctl("sim %d insert", R_T1);
		wait_state(R_T1, SCARD_STATE_PRESENT, 0);
	}
	CASE("moves.two_wait") {
		a = actor(THREAD);
		b = actor(THREAD);
		ask(a, A_CHANGES, (long)INFINITE, SCARD_STATE_PRESENT, R_T1, NULL);
		ask(b, A_CHANGES, (long)INFINITE, SCARD_STATE_PRESENT, R_T1, NULL);
		waits("a", a, &t);
		waits("b", b, &t);
		ctl("sim %d remove", R_T1);
		then("a", a, &t);
		then("b", b, &t);
		ctl("sim %d insert", R_T1);
		wait_state(R_T1, SCARD_STATE_PRESENT, 0);
	}
	CASE("moves.other_reader") {
		a = actor(THREAD);
		ask(a, A_CHANGES, 900, SCARD_STATE_PRESENT, R_T0, NULL);
		waits("", a, &t);
		ctl("sim %d remove", R_T1);
		wait_state(R_T1, SCARD_STATE_EMPTY, 0);
		ctl("sim %d insert", R_T1);
		wait_state(R_T1, SCARD_STATE_PRESENT, 0);
		then("", a, &t);
		say_event("", t.a);
	}
	CASE("moves.back_before_the_call") {
		/* Out and in again: only the counter tells. */
		base = counter_of(R_T1);
		ctl("sim %d remove", R_T1);
		wait_state(R_T1, SCARD_STATE_EMPTY, 0);
		ctl("sim %d insert", R_T1);
		wait_state(R_T1, SCARD_STATE_PRESENT, 0);
		c = context();
		say_change(c, R_T1, SCARD_STATE_PRESENT, base, 0);
		say_change(c, R_T1, SCARD_STATE_PRESENT | base << 16, base, 0);
		say_change(c, R_T1, SCARD_STATE_PRESENT | (base + 2) << 16, base, 0);
	}
	CASE("moves.out_before_the_call") {
		base = counter_of(R_T1);
		ctl("sim %d remove", R_T1);
		wait_state(R_T1, SCARD_STATE_EMPTY, 0);
		c = context();
		say_change(c, R_T1, SCARD_STATE_PRESENT, base, 0);
		say_change(c, R_T1, SCARD_STATE_PRESENT | base << 16, base, 0);
		say_change(c, R_T1, SCARD_STATE_EMPTY | base << 16, base, 0);
		say_change(c, R_T1, SCARD_STATE_EMPTY, base, 0);
		say_change(c, R_T1, SCARD_STATE_EMPTY | SCARD_STATE_UNKNOWN, base, 0);
		ctl("sim %d insert", R_T1);
		wait_state(R_T1, SCARD_STATE_PRESENT, 0);
	}
	CASE("moves.other_card") {
		base = counter_of(R_T1);
		c = context();
		ctl("sim %d remove", R_T1);
		wait_state(R_T1, SCARD_STATE_EMPTY, 0);
		ctl("sim %d insert dual", R_T1);
		wait_state(R_T1, SCARD_STATE_PRESENT, 0);
		say_change(c, R_T1, SCARD_STATE_PRESENT | base << 16, base, 0);
		ctl("sim %d remove", R_T1);
		wait_state(R_T1, SCARD_STATE_EMPTY, 0);
		ctl("sim %d insert token", R_T1);
		wait_state(R_T1, SCARD_STATE_PRESENT, 0);
		say_change(c, R_T1, SCARD_STATE_UNAWARE, base, 0);
	}
	CASE("moves.mute_card") {
		base = counter_of(R_T1);
		c = context();
		ctl("sim %d remove", R_T1);
		wait_state(R_T1, SCARD_STATE_EMPTY, 0);
		ctl("sim %d mute", R_T1);
		ctl("sim %d insert", R_T1);
		wait_state(R_T1, SCARD_STATE_PRESENT | SCARD_STATE_MUTE, 0);
		say_change(c, R_T1, SCARD_STATE_PRESENT, base, 0);
		say_change(c, R_T1, SCARD_STATE_UNAWARE, base, 0);
		ctl("sim %d remove", R_T1);
		wait_state(R_T1, SCARD_STATE_EMPTY, 0);
		ctl("sim %d normal", R_T1);
		ctl("sim %d insert", R_T1);
		wait_state(R_T1, SCARD_STATE_PRESENT, SCARD_STATE_MUTE);
		say_change(c, R_T1, SCARD_STATE_PRESENT | SCARD_STATE_MUTE, base, 0);
	}
	/* Sharing. */
	static const struct {
		const char *name;
		DWORD current, share;
	} sharing[] = {
		{"shared", SCARD_STATE_PRESENT, SCARD_SHARE_SHARED},
		{"exclusive", SCARD_STATE_PRESENT, SCARD_SHARE_EXCLUSIVE},
		{"direct", SCARD_STATE_PRESENT, SCARD_SHARE_DIRECT},
	};
	for (size_t i = 0; i < sizeof sharing / sizeof *sharing; i++)
		CASE("moves.connect_%s_wakes", sharing[i].name) {
			a = actor(THREAD);
			b = actor(THREAD);
			ask(a, A_CHANGES, 900, (long)sharing[i].current, R_T1, NULL);
			waits("", a, &t);
			rc("connect", act(b, A_CONNECT, R_T1, (long)sharing[i].share, SCARD_PROTOCOL_ANY));
			then("", a, &t);
			say_event("", t.a);
		}
	for (size_t i = 0; i < sizeof sharing / sizeof *sharing; i++)
		CASE("moves.disconnect_%s_wakes", sharing[i].name) {
			a = actor(THREAD);
			b = actor(THREAD);
			rc("connect", act(b, A_CONNECT, R_T1, (long)sharing[i].share, SCARD_PROTOCOL_ANY));
			ask(a, A_CHANGES, 900,
			    (long)(SCARD_STATE_PRESENT |
				   (sharing[i].share == SCARD_SHARE_EXCLUSIVE ? SCARD_STATE_EXCLUSIVE : SCARD_STATE_INUSE)),
			    R_T1, NULL);
			waits("", a, &t);
			rc("disconnect", act(b, A_DISCONNECT, SCARD_LEAVE_CARD, 0, 0));
			then("", a, &t);
			say_event("", t.a);
		}
	for (size_t i = 0; i < sizeof resets / sizeof *resets; i++)
		CASE("moves.%s_wakes", resets[i].name) {
			a = actor(THREAD);
			b = actor(THREAD);
			base = counter_of(R_T1);
			rc("connect", act(b, A_CONNECT, R_T1, SCARD_SHARE_SHARED, SCARD_PROTOCOL_ANY));
			ask(a, A_CHANGES, 900, SCARD_STATE_PRESENT | SCARD_STATE_INUSE, R_T1, NULL);
			waits("", a, &t);
			rc(resets[i].name, act(b, A_RECONNECT, SCARD_SHARE_SHARED, SCARD_PROTOCOL_ANY, (long)resets[i].how));
			then("", a, &t);
			say_event("", t.a);
			say("counter=%+d", (int)((t.a >> 16) - base));
		}
	CASE("moves.client_dies_wakes") {
		b = actor(PROCESS);
		a = actor(THREAD);
		rc("connect", act(b, A_CONNECT, R_T1, SCARD_SHARE_EXCLUSIVE, SCARD_PROTOCOL_ANY));
		ask(a, A_CHANGES, 900, SCARD_STATE_PRESENT | SCARD_STATE_EXCLUSIVE, R_T1, NULL);
		waits("", a, &t);
		ask(b, A_KILL, 0, 0, 0, NULL);
		then("", a, &t);
		say_event("", t.a);
	}
	CASE("moves.begin_wakes") {
		a = actor(THREAD);
		b = actor(THREAD);
		rc("connect", act(b, A_CONNECT, R_T1, SCARD_SHARE_SHARED, SCARD_PROTOCOL_ANY));
		ask(a, A_CHANGES, 700, SCARD_STATE_PRESENT | SCARD_STATE_INUSE, R_T1, NULL);
		waits("", a, &t);
		rc("begin", act(b, A_BEGIN, 0, 0, 0));
		then("", a, &t);
		say_event("", t.a);
		rc("end", act(b, A_END, SCARD_LEAVE_CARD, 0, 0));
	}
}

GROUP(cancel)
{
	struct actor *a, *b;
	struct told t;
	SCARDCONTEXT c;
	DWORD event;

	CASE("cancel.bad")
		rc("", SCardCancel(BAD_HANDLE));
	CASE("cancel.zero")
		rc("", SCardCancel(0));
	CASE("cancel.released") {
		c = context();
		SCardReleaseContext(c);
		rc("", SCardCancel(c));
	}
	CASE("cancel.nobody_waits") {
		c = context();
		rc("", SCardCancel(c));
		rc("again", SCardCancel(c));
		rc("changes", changes(c, 100, reader_names[R_T1], SCARD_STATE_PRESENT, &event));
		rc("changes", changes(c, 100, reader_names[R_T1], SCARD_STATE_UNAWARE, &event));
	}
	uses(BIT(R_T1));
	for (int pnp = 0; pnp < 2; pnp++)
		CASE("cancel.%s", pnp ? "pnp" : "reader") {
			a = actor(SAME);
			c = context();
			lend(a, c, 0);
			ask(a, A_CHANGES, (long)INFINITE, pnp ? 0 : SCARD_STATE_PRESENT, pnp ? -1 : R_T1, NULL);
			waits("", a, &t);
			rc("cancel", SCardCancel(c));
			then("", a, &t);
			say_event("", t.a);
			rc("after", changes(c, 50, reader_names[R_T1], SCARD_STATE_PRESENT, &event));
		}
	CASE("cancel.twice") {
		a = actor(SAME);
		c = context();
		lend(a, c, 0);
		for (int i = 0; i < 3; i++) {
			ask(a, A_CHANGES, (long)INFINITE, SCARD_STATE_PRESENT, R_T1, NULL);
			waits("", a, &t);
			rc("cancel", SCardCancel(c));
			then("", a, &t);
		}
	}
	CASE("cancel.finite") {
		a = actor(SAME);
		c = context();
		lend(a, c, 0);
		ask(a, A_CHANGES, 20000, SCARD_STATE_PRESENT, R_T1, NULL);
		waits("", a, &t);
		rc("cancel", SCardCancel(c));
		then("", a, &t);
	}
	CASE("cancel.other_context") {
		a = actor(SAME);
		c = context();
		lend(a, c, 0);
		ask(a, A_CHANGES, 1000, SCARD_STATE_PRESENT, R_T1, NULL);
		waits("", a, &t);
		rc("cancel", SCardCancel(context()));
		then("", a, &t);
	}
	CASE("cancel.other_context_waits_too") {
		a = actor(SAME);
		b = actor(SAME);
		c = context();
		lend(a, c, 0);
		lend(b, context(), 0);
		ask(a, A_CHANGES, (long)INFINITE, SCARD_STATE_PRESENT, R_T1, NULL);
		ask(b, A_CHANGES, 1000, SCARD_STATE_PRESENT, R_T1, NULL);
		waits("a", a, &t);
		waits("b", b, &t);
		rc("cancel", SCardCancel(c));
		then("a", a, &t);
		then("b", b, &t);
	}
	CASE("cancel.from_process") {
		/* A context's number is another process's to cancel, too. */
		b = actor(PROCESS);
		a = actor(SAME);
		c = context();
		lend(a, c, 0);
		lend(b, c, 0);
		ask(a, A_CHANGES, 1000, SCARD_STATE_PRESENT, R_T1, NULL);
		waits("", a, &t);
		rc("cancel", act(b, A_CANCEL, 0, 0, 0));
		then("", a, &t);
	}
}
