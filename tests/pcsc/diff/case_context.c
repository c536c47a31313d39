/* SPDX-License-Identifier: BSD-3-Clause
 *
 * case_context.c - contexts, reader lists, memory that the library allocates
 */
#include "diff.h"

GROUP(contexts)
{
	static const DWORD scopes[] = {
		SCARD_SCOPE_USER, SCARD_SCOPE_TERMINAL, SCARD_SCOPE_SYSTEM, SCARD_SCOPE_GLOBAL, 4, 0xFFFFFFFF,
	};
	SCARDCONTEXT c = 0;

	for (size_t i = 0; i < sizeof scopes / sizeof *scopes; i++)
		CASE("establish.scope.%lx", scopes[i]) {
			c = -1;
			rc("", SCardEstablishContext(scopes[i], NULL, NULL, &c));
			say(c == -1 ? "untouched" : c == 0 ? "zero" : "set");
			if (c != 0 && c != -1)
				rc("release", SCardReleaseContext(c));
		}
	CASE("establish.null")
		rc("", SCardEstablishContext(SCARD_SCOPE_SYSTEM, NULL, NULL, NULL));
	CASE("establish.bad_scope_and_null")
		rc("", SCardEstablishContext(99, NULL, NULL, NULL));
	CASE("establish.reserved") {
		rc("", SCardEstablishContext(SCARD_SCOPE_SYSTEM, "x", "y", &c));
		rc("release", SCardReleaseContext(c));
	}
	CASE("valid.yes") {
		c = context();
		rc("", SCardIsValidContext(c));
	}
	CASE("valid.zero")
		rc("", SCardIsValidContext(0));
	CASE("valid.bad")
		rc("", SCardIsValidContext(BAD_HANDLE));
	CASE("valid.minus_one")
		rc("", SCardIsValidContext(-1));
	CASE("valid.released") {
		c = context();
		SCardReleaseContext(c);
		rc("", SCardIsValidContext(c));
	}
	uses(BIT(R_T1));
	CASE("valid.card_handle") {
		c = context();
		rc("", SCardIsValidContext(connect_to(c, R_T1, SCARD_SHARE_SHARED, SCARD_PROTOCOL_ANY)));
	}
	uses(0);
	CASE("release.zero")
		rc("", SCardReleaseContext(0));
	CASE("release.bad")
		rc("", SCardReleaseContext(BAD_HANDLE));
	CASE("release.twice") {
		c = context();
		rc("", SCardReleaseContext(c));
		rc("again", SCardReleaseContext(c));
	}
	uses(BIT(R_T1));
	CASE("release.card_handle") {
		c = context();
		rc("", SCardReleaseContext(connect_to(c, R_T1, SCARD_SHARE_SHARED, SCARD_PROTOCOL_ANY)));
		rc("valid", SCardIsValidContext(c));
	}
	CASE("release.ends_connection") {
		struct actor *a = actor(PROCESS);
		SCARDHANDLE h;

		c = context();
		h = connect_to(c, R_T1, SCARD_SHARE_EXCLUSIVE, SCARD_PROTOCOL_ANY);
		rc("other", act(a, A_CONNECT, R_T1, SCARD_SHARE_SHARED, SCARD_PROTOCOL_ANY));
		rc("release", SCardReleaseContext(c));
		rc("status", SCardStatus(h, NULL, NULL, NULL, NULL, NULL, NULL));
		rc("other", act(a, A_CONNECT, R_T1, SCARD_SHARE_SHARED, SCARD_PROTOCOL_ANY));
	}
	CASE("release.ends_transaction") {
		struct actor *a = actor(PROCESS);
		struct told t;
		SCARDHANDLE h;

		c = context();
		h = connect_to(c, R_T1, SCARD_SHARE_SHARED, SCARD_PROTOCOL_ANY);
		must("connect", act(a, A_CONNECT, R_T1, SCARD_SHARE_SHARED, SCARD_PROTOCOL_ANY));
		rc("begin", SCardBeginTransaction(h));
		ask(a, A_BEGIN, 0, 0, 0, NULL);
		waits("other", a, &t);
		rc("release", SCardReleaseContext(c));
		then("other", a, &t);
		act_told(a, A_TRANSMIT, 0, 0, 0, SELECT_MF, &t);
		rc("transmit", t.code);
	}
	CASE("release.while_another_waits") {
		struct actor *a = actor(SAME), *b = actor(SAME);
		struct told t;

		c = context();
		lend(a, c, 0);
		lend(b, c, 0);
		ask(a, A_CHANGES, 1000, SCARD_STATE_PRESENT, R_T1, NULL);
		waits("changes", a, &t);
		ask(b, A_RELEASE, 0, 0, 0, NULL);
		waits("release", b, &t);
		then("changes", a, &t);
		then("release", b, &t);
	}
	uses(0);
	CASE("many.64") {
		SCARDCONTEXT many[64];
		int ok = 0, different = 1;

		for (int i = 0; i < 64; i++) {
			many[i] = 0;
			if (SCardEstablishContext(SCARD_SCOPE_SYSTEM, NULL, NULL, &many[i]) == SCARD_S_SUCCESS)
				ok++;
			for (int j = 0; j < i; j++)
				if (many[i] == many[j])
					different = 0;
		}
		say("%d different=%d", ok, different);
		for (int i = 0; i < 64; i++)
			if (SCardIsValidContext(many[i]) == SCARD_S_SUCCESS && SCardReleaseContext(many[i]) == SCARD_S_SUCCESS)
				ok--;
		say("left=%d", ok);
	}
	CASE("many.reused") {
		SCARDCONTEXT first = context(), second;
		bool same = false;

		SCardReleaseContext(first);
		for (int i = 0; i < 50; i++) {
			second = context();
			same = same || second == first;
			SCardReleaseContext(second);
		}
		say(same ? "reused" : "not reused");
	}
}

GROUP(lists)
{
	char list[READERS * MAX_READERNAME];
	char *allocated;
	DWORD n, full;
	SCARDCONTEXT c;

	CASE("list.size") {
		c = context();
		n = 12345;
		rc("", SCardListReaders(c, NULL, NULL, &n));
		say_length("n", n, readers_length());
	}
	CASE("list.all") {
		c = context();
		n = sizeof list;
		memset(list, FILL, sizeof list);
		rc("", SCardListReaders(c, NULL, list, &n));
		say_length("n", n, readers_length());
		say_readers("", list, n);
		say("behind=%s", list[n] == (char)FILL ? "untouched" : "written");
	}
	CASE("list.exact") {
		c = context();
		full = n = readers_length();
		memset(list, FILL, sizeof list);
		rc("", SCardListReaders(c, NULL, list, &n));
		say_length("n", n, full);
		say_readers("", list, n);
	}
	CASE("list.one_too_small") {
		c = context();
		full = readers_length();
		n = full - 1;
		memset(list, FILL, sizeof list);
		rc("", SCardListReaders(c, NULL, list, &n));
		say_length("n", n, full);
		say("buffer=%s", list[0] == (char)FILL ? "untouched" : "written");
	}
	CASE("list.zero_room") {
		c = context();
		n = 0;
		rc("", SCardListReaders(c, NULL, list, &n));
		say_length("n", n, readers_length());
	}
	CASE("list.null_length") {
		c = context();
		rc("", SCardListReaders(c, NULL, list, NULL));
	}
	CASE("list.null_both") {
		c = context();
		rc("", SCardListReaders(c, NULL, NULL, NULL));
	}
	CASE("list.autoallocate") {
		c = context();
		n = SCARD_AUTOALLOCATE;
		allocated = NULL;
		rc("", SCardListReaders(c, NULL, (LPSTR)&allocated, &n));
		say_length("n", n, readers_length());
		say_readers("", allocated, n);
		rc("free", SCardFreeMemory(c, allocated));
	}
	CASE("list.autoallocate_null") {
		c = context();
		n = SCARD_AUTOALLOCATE;
		rc("", SCardListReaders(c, NULL, NULL, &n));
		say_length("n", n, readers_length());
	}
	CASE("list.autoallocate_32_bits") {
		c = context();
		n = 0xFFFFFFFF;
		allocated = NULL;
		memset(list, 0, sizeof list);
		rc("", SCardListReaders(c, NULL, list, &n));
		say_length("n", n, readers_length());
	}
	static const struct {
		const char *name, *groups;
	} groups[] = {
		{"default", "SCard$DefaultReaders\0"}, {"all", "SCard$AllReaders\0"}, {"wrong", "Wrong\0"},
		{"empty", "\0"}, {"two", "SCard$DefaultReaders\0Other\0"},
	};
	for (size_t i = 0; i < sizeof groups / sizeof *groups; i++)
		CASE("list.group.%s", groups[i].name) {
			c = context();
			n = sizeof list;
			rc("", SCardListReaders(c, groups[i].groups, list, &n));
			say_length("n", n, readers_length());
		}
	CASE("list.bad_context") {
		n = sizeof list;
		rc("", SCardListReaders(BAD_HANDLE, NULL, list, &n));
		say(n == sizeof list ? "untouched" : "changed");
	}
	CASE("list.zero_context") {
		n = sizeof list;
		rc("", SCardListReaders(0, NULL, list, &n));
	}
	CASE("list.bad_context_null_length")
		rc("", SCardListReaders(BAD_HANDLE, NULL, list, NULL));
	CASE("list.released_context") {
		c = context();
		SCardReleaseContext(c);
		n = sizeof list;
		rc("", SCardListReaders(c, NULL, list, &n));
	}
	CASE("list.while_waiting_in_same_context") {
		struct actor *a = actor(SAME);
		struct told t;

		c = context();
		lend(a, c, 0);
		ask(a, A_CHANGES, 1000, SCARD_STATE_PRESENT, R_T1, NULL);
		waits("changes", a, &t);
		n = sizeof list;
		rc("list", SCardListReaders(c, NULL, list, &n));
		then("changes", a, &t);
	}

	CASE("groups.size") {
		c = context();
		n = 12345;
		rc("", SCardListReaderGroups(c, NULL, &n));
		say("n=%lu", n);
	}
	CASE("groups.all") {
		c = context();
		n = sizeof list;
		memset(list, FILL, sizeof list);
		rc("", SCardListReaderGroups(c, list, &n));
		say_bytes("", list, n);
	}
	for (DWORD room = 0; room < 24; room += room == 0 ? 20 : 1)
		CASE("groups.room.%lu", room) {
			c = context();
			n = room;
			memset(list, FILL, sizeof list);
			rc("", SCardListReaderGroups(c, list, &n));
			say("n=%lu", n);
			say_bytes("", list, 24);
		}
	CASE("groups.null_length") {
		c = context();
		rc("", SCardListReaderGroups(c, list, NULL));
	}
	CASE("groups.autoallocate") {
		c = context();
		n = SCARD_AUTOALLOCATE;
		allocated = NULL;
		rc("", SCardListReaderGroups(c, (LPSTR)&allocated, &n));
		say("n=%lu", n);
		say_bytes("", allocated, n);
		rc("free", SCardFreeMemory(c, allocated));
	}
	CASE("groups.autoallocate_null") {
		c = context();
		n = SCARD_AUTOALLOCATE;
		rc("", SCardListReaderGroups(c, NULL, &n));
		say("n=%lu", n);
	}
	CASE("groups.bad_context") {
		n = sizeof list;
		rc("", SCardListReaderGroups(BAD_HANDLE, list, &n));
	}
	CASE("groups.bad_context_null_length")
		rc("", SCardListReaderGroups(BAD_HANDLE, list, NULL));

	CASE("free.null") {
		c = context();
		rc("", SCardFreeMemory(c, NULL));
	}
	CASE("free.bad_context")
		rc("", SCardFreeMemory(BAD_HANDLE, NULL));
	CASE("free.zero_context")
		rc("", SCardFreeMemory(0, NULL));
	CASE("free.bad_context_memory")
		rc("", SCardFreeMemory(BAD_HANDLE, malloc(10)));
	CASE("free.other_context") {
		SCARDCONTEXT d = context();

		c = context();
		n = SCARD_AUTOALLOCATE;
		allocated = NULL;
		rc("", SCardListReaders(c, NULL, (LPSTR)&allocated, &n));
		rc("free", SCardFreeMemory(d, allocated));
	}
}

GROUP(only_none)
{
	char list[1000], *allocated = NULL;
	DWORD n, event;
	SCARDCONTEXT c;

	CASE("none.list_size") {
		c = context();
		n = 123;
		rc("", SCardListReaders(c, NULL, NULL, &n));
		say("n=%lu", n);
	}
	CASE("none.list") {
		c = context();
		n = sizeof list;
		memset(list, FILL, sizeof list);
		rc("", SCardListReaders(c, NULL, list, &n));
		say("n=%lu %s", n, list[0] == (char)FILL ? "untouched" : "written");
	}
	CASE("none.list_autoallocate") {
		c = context();
		n = SCARD_AUTOALLOCATE;
		rc("", SCardListReaders(c, NULL, (LPSTR)&allocated, &n));
		say("n=%lu %s", n, allocated == NULL ? "null" : "allocated");
	}
	CASE("none.list_null_length") {
		c = context();
		rc("", SCardListReaders(c, NULL, list, NULL));
	}
	CASE("none.groups") {
		c = context();
		n = sizeof list;
		rc("", SCardListReaderGroups(c, list, &n));
		say_bytes("", list, n);
	}
	CASE("none.changes_nothing") {
		c = context();
		rc("", SCardGetStatusChange(c, 0, NULL, 0));
	}
	CASE("none.changes_pnp") {
		c = context();
		rc("", changes(c, 0, "\\\\?PnP?\\Notification", SCARD_STATE_UNAWARE, &event));
		say_event("", event);
		rc("short", changes(c, 100, "\\\\?PnP?\\Notification", SCARD_STATE_UNAWARE, &event));
		say_event("", event);
	}
	CASE("none.changes_unknown") {
		c = context();
		rc("", changes(c, 0, "Nobody", SCARD_STATE_UNAWARE, &event));
		say_event("", event);
	}
	CASE("none.connect") {
		SCARDHANDLE h = 0;

		c = context();
		rc("", SCardConnect(c, "Nobody 00 00", SCARD_SHARE_SHARED, SCARD_PROTOCOL_ANY, &h, &n));
		rc("direct", SCardConnect(c, "Nobody 00 00", SCARD_SHARE_DIRECT, 0, &h, &n));
	}
}
