/* SPDX-License-Identifier: BSD-3-Clause
 *
 * case_status.c - SCardStatus, pcsc_stringify_error, fork, threads
 */
#include <pthread.h>
#include <sys/wait.h>

#include "diff.h"

/* full_status tells all that SCardStatus says. */
static void full_status(SCARDHANDLE h, enum reader r)
{
	char name[2 * MAX_READERNAME];
	uint8_t atr[2 * MAX_ATR_SIZE];
	DWORD n = sizeof name, m = sizeof atr, state = 0x55, protocol = 0x55;

	memset(name, FILL, sizeof name);
	memset(atr, FILL, sizeof atr);
	if (rc("", SCardStatus(h, name, &n, &state, &protocol, atr, &m)) != SCARD_S_SUCCESS) {
		say(n == sizeof name ? "n=room" : "n=%lu", n);
		say(m == sizeof atr ? "atr=room" : "atr=%lu", m);
		say(state == 0x55 ? "state=untouched" : "state=%lx", state);
		say(protocol == 0x55 ? "protocol=untouched" : "protocol=%lx", protocol);
		say(name[0] == (char)FILL ? "name=untouched" : "name=written");
		return;
	}
	say_length("n", n, strlen(reader_names[r]) + 1);
	say_name("", name);
	say_state("", state);
	say_protocol("", protocol);
	say_bytes("atr", atr, m);
	if (atr[m] != FILL)
		say("(written behind)");
}

GROUP(statuses)
{
	SCARDCONTEXT c;
	SCARDHANDLE h, g;
	struct actor *a;
	struct told t;
	char name[2 * MAX_READERNAME], *allocated_name;
	uint8_t atr[100], *allocated_atr;
	DWORD n, m, state = 0, protocol = 0, p;

	for (int r = 0; r < READERS; r++) {
		uses(BIT(r));
		CASE("status.%s", reader_words[r]) {
			c = context();
			h = connect_to(c, r, r == R_EMPTY || r == R_MUTE ? SCARD_SHARE_DIRECT : SCARD_SHARE_SHARED, SCARD_PROTOCOL_ANY);
			full_status(h, r);
		}
	}
	uses(BIT(R_T1));
	CASE("status.direct") {
		c = context();
		h = connect_to(c, R_T1, SCARD_SHARE_DIRECT, 0);
		full_status(h, R_T1);
	}
	/* A set bit: that pointer is NULL. */
	for (unsigned set = 0; set < 64; set++)
		CASE("status.null.%02x", set) {
			c = context();
			h = connect_to(c, R_T1, SCARD_SHARE_SHARED, SCARD_PROTOCOL_ANY);
			n = sizeof name;
			m = sizeof atr;
			rc("", SCardStatus(h, set & 1 ? NULL : name, set & 2 ? NULL : &n, set & 4 ? NULL : &state,
					   set & 8 ? NULL : &protocol, set & 16 ? NULL : atr, set & 32 ? NULL : &m));
			say_length("n", n, set & 2 ? sizeof name : strlen(reader_names[R_T1]) + 1);
			say("atr=%lu", m);
		}
	CASE("status.null_bad") {
		n = m = 100;
		rc("", SCardStatus(BAD_HANDLE, NULL, &n, NULL, NULL, NULL, &m));
		say("n=%lu,%lu", n, m);
		rc("all null", SCardStatus(BAD_HANDLE, NULL, NULL, NULL, NULL, NULL, NULL));
		rc("zero", SCardStatus(0, NULL, NULL, NULL, NULL, NULL, NULL));
	}
	for (int i = -2; i <= 1; i++)
		CASE("status.name_room.%+d", i) {
			DWORD full = strlen(reader_names[R_T1]) + 1;

			c = context();
			h = connect_to(c, R_T1, SCARD_SHARE_SHARED, SCARD_PROTOCOL_ANY);
			n = (DWORD)((long)full + i);
			m = sizeof atr;
			memset(name, FILL, sizeof name);
			memset(atr, FILL, sizeof atr);
			rc("", SCardStatus(h, name, &n, &state, &protocol, atr, &m));
			say_length("n", n, full);
			say("atr=%lu", m);
			say_state("", state);
			say("name=%s", name[0] == (char)FILL ? "untouched" : i < 0 && name[(long)full + i] != (char)FILL ? "overrun" :
				strncmp(name, reader_names[R_T1], (size_t)((long)full + (i < 0 ? i - 1 : -1))) == 0 ? "begun" : "other");
			if (i < 0)
				say("ends=%s", name[(long)full + i - 1] == '\0' ? "yes" : "no");
			say("atr=%s", atr[0] == FILL ? "untouched" : "written");
		}
	for (DWORD room = 0; room <= 17; room += room == 0 ? 15 : 1)
		CASE("status.atr_room.%lu", room) {
			c = context();
			h = connect_to(c, R_T1, SCARD_SHARE_SHARED, SCARD_PROTOCOL_ANY);
			n = sizeof name;
			m = room;
			memset(atr, FILL, sizeof atr);
			rc("", SCardStatus(h, name, &n, &state, &protocol, atr, &m));
			say_length("n", n, strlen(reader_names[R_T1]) + 1);
			say("atr=%lu", m);
			say_bytes("", atr, 18);
		}
	CASE("status.name_room_0") {
		c = context();
		h = connect_to(c, R_T1, SCARD_SHARE_SHARED, SCARD_PROTOCOL_ANY);
		n = 0;
		m = sizeof atr;
		rc("", SCardStatus(h, name, &n, &state, &protocol, atr, &m));
		say_length("n", n, strlen(reader_names[R_T1]) + 1);
	}
	for (int which = 1; which <= 3; which++)
		CASE("status.autoallocate.%d", which) {
			c = context();
			h = connect_to(c, R_T1, SCARD_SHARE_SHARED, SCARD_PROTOCOL_ANY);
			n = which & 1 ? SCARD_AUTOALLOCATE : sizeof name;
			m = which & 2 ? SCARD_AUTOALLOCATE : sizeof atr;
			allocated_name = NULL;
			allocated_atr = NULL;
			rc("", SCardStatus(h, which & 1 ? (LPSTR)&allocated_name : name, &n, &state, &protocol,
					   which & 2 ? (LPBYTE)&allocated_atr : atr, &m));
			say_length("n", n, strlen(reader_names[R_T1]) + 1);
			say("atr=%lu", m);
			if (allocated_name != NULL) {
				say_name("", allocated_name);
				rc("free", SCardFreeMemory(c, allocated_name));
			}
			if (allocated_atr != NULL) {
				say_bytes("", allocated_atr, m);
				rc("free", SCardFreeMemory(c, allocated_atr));
			}
		}
	for (int which = 1; which <= 3; which++)
		CASE("status.autoallocate_null.%d", which) {
			c = context();
			h = connect_to(c, R_T1, SCARD_SHARE_SHARED, SCARD_PROTOCOL_ANY);
			n = which & 1 ? SCARD_AUTOALLOCATE : sizeof name;
			m = which & 2 ? SCARD_AUTOALLOCATE : sizeof atr;
			rc("", SCardStatus(h, which & 1 ? NULL : name, &n, &state, &protocol, which & 2 ? NULL : atr, &m));
		}
	CASE("status.after_removal") {
		c = context();
		h = connect_to(c, R_T1, SCARD_SHARE_SHARED, SCARD_PROTOCOL_ANY);
		ctl("sim %d remove", R_T1);
		wait_state(R_T1, SCARD_STATE_EMPTY, 0);
		full_status(h, R_T1);
		ctl("sim %d insert", R_T1);
		wait_state(R_T1, SCARD_STATE_PRESENT, 0);
		full_status(h, R_T1);
	}
	CASE("status.after_reset") {
		a = actor(PROCESS);
		c = context();
		h = connect_to(c, R_T1, SCARD_SHARE_SHARED, SCARD_PROTOCOL_ANY);
		must("connect", act(a, A_CONNECT, R_T1, SCARD_SHARE_SHARED, SCARD_PROTOCOL_ANY));
		must("reset", act(a, A_RECONNECT, SCARD_SHARE_SHARED, SCARD_PROTOCOL_ANY, SCARD_RESET_CARD));
		full_status(h, R_T1);
	}
	CASE("status.direct_while_card_comes") {
		ctl("sim %d remove", R_T1);
		wait_state(R_T1, SCARD_STATE_EMPTY, 0);
		c = context();
		h = connect_to(c, R_T1, SCARD_SHARE_DIRECT, 0);
		full_status(h, R_T1);
		ctl("sim %d insert", R_T1);
		wait_state(R_T1, SCARD_STATE_PRESENT, 0);
		full_status(h, R_T1);
	}
	CASE("status.other_took_raw") {
		/* The protocol is the reader's, not the connection's. */
		c = context();
		h = connect_to(c, R_T1, SCARD_SHARE_SHARED, SCARD_PROTOCOL_ANY);
		rc("raw", SCardConnect(c, reader_names[R_T1], SCARD_SHARE_SHARED, SCARD_PROTOCOL_RAW, &g, &p));
		status("first", h);
		transmit("first", h, SELECT_MF);
	}
	CASE("status.disconnected") {
		c = context();
		h = connect_to(c, R_T1, SCARD_SHARE_SHARED, SCARD_PROTOCOL_ANY);
		SCardDisconnect(h, SCARD_LEAVE_CARD);
		full_status(h, R_T1);
	}
	CASE("status.context_handle") {
		c = context();
		full_status(c, R_T1);
	}
	(void)t;
}

GROUP(strings)
{
	for (LONG code = (LONG)0x80100000; code <= (LONG)0x80100072; code++)
		CASE("stringify.%lx", (unsigned long)code)
			say("%s", pcsc_stringify_error(code));
	static const LONG others[] = {0, 1, -1, 0x80100001 - 0x100000000L, 0x7FFFFFFF, 0x80000000};

	for (size_t i = 0; i < sizeof others / sizeof *others; i++)
		CASE("stringify.%lx", (unsigned long)others[i])
			say("%s", pcsc_stringify_error(others[i]));
}

static void *many_exchanges(void *arg)
{
	SCARDHANDLE h = *(SCARDHANDLE *)arg;
	long bad = 0;

	for (int i = 0; i < 50; i++) {
		uint8_t command[] = {0x80, 0xEE, 0, 0, 4, 0, 0, 0, 0, 0}, back[300];
		DWORD n = sizeof back;
		uintptr_t self = (uintptr_t)&command;

		command[5] = (uint8_t)i;
		memcpy(command + 6, (uint8_t *)&self + 1, 3);
		if (SCardTransmit(h, SCARD_PCI_T1, command, sizeof command, NULL, back, &n) != SCARD_S_SUCCESS ||
		    n != 6 || memcmp(back, command + 5, 4) != 0)
			bad++;
	}
	return (void *)bad;
}

GROUP(processes)
{
	SCARDCONTEXT c;
	SCARDHANDLE h;
	struct actor *a;
	struct told t;
	pid_t pid;
	int s;

	uses(BIT(R_T1));
	/* What a child of fork(2) may do with what it inherits. Its words are the case's: the
	 * line is shared. */
	static const char *const uses_of_child[] = {"valid", "list", "transmit", "status", "disconnect", "release", "establish"};
	for (size_t i = 0; i < sizeof uses_of_child / sizeof *uses_of_child; i++)
		CASE("fork.child_%s", uses_of_child[i]) {
			DWORD n = 0;

			c = context();
			h = connect_to(c, R_T1, SCARD_SHARE_SHARED, SCARD_PROTOCOL_ANY);
			pid = fork();
			if (pid == 0) {
				LONG e = 0;

				alarm(5);
				switch (i) {
				case 0: e = SCardIsValidContext(c); break;
				case 1: e = SCardListReaders(c, NULL, NULL, &n); break;
				case 2: {
					uint8_t back[300];
					n = sizeof back;
					e = SCardTransmit(h, SCARD_PCI_T1, (LPCBYTE)"\0\xA4\0\0", 4, NULL, back, &n);
					break;
				}
				case 3: e = SCardStatus(h, NULL, NULL, NULL, NULL, NULL, NULL); break;
				case 4: e = SCardDisconnect(h, SCARD_LEAVE_CARD); break;
				case 5: e = SCardReleaseContext(c); break;
				case 6: e = SCardEstablishContext(SCARD_SCOPE_SYSTEM, NULL, NULL, &c); break;
				}
				/* pipe: the codes fit an exit status by their low byte. */
				_exit((int)(e & 0xFF));
			}
			waitpid(pid, &s, 0);
			if (WIFSIGNALED(s))
				say("child died: %d", WTERMSIG(s));
			else
				rc("child", WEXITSTATUS(s) ? (LONG)(0x80100000L | WEXITSTATUS(s)) : SCARD_S_SUCCESS);
			if (i != 4 && i != 5)
				transmit("parent", h, SELECT_MF);
			else
				rc("parent", SCardStatus(h, NULL, NULL, NULL, NULL, NULL, NULL));
		}
	CASE("fork.child_has_its_own") {
		c = context();
		h = connect_to(c, R_T1, SCARD_SHARE_SHARED, SCARD_PROTOCOL_ANY);
		pid = fork();
		if (pid == 0) {
			SCARDCONTEXT d;
			SCARDHANDLE g;
			DWORD p, n = 300;
			uint8_t back[300];
			bool ok = SCardEstablishContext(SCARD_SCOPE_SYSTEM, NULL, NULL, &d) == SCARD_S_SUCCESS &&
				  SCardConnect(d, reader_names[R_T1], SCARD_SHARE_SHARED, SCARD_PROTOCOL_ANY, &g, &p) == SCARD_S_SUCCESS &&
				  SCardTransmit(g, SCARD_PCI_T1, (LPCBYTE)"\0\xA4\0\0", 4, NULL, back, &n) == SCARD_S_SUCCESS &&
				  SCardDisconnect(g, SCARD_LEAVE_CARD) == SCARD_S_SUCCESS && SCardReleaseContext(d) == SCARD_S_SUCCESS;
			_exit(ok ? 0 : 1);
		}
		waitpid(pid, &s, 0);
		say(s == 0 ? "child works" : "child fails");
		transmit("parent", h, SELECT_MF);
	}
	CASE("fork.child_outlives_parents_connection") {
		int go[2];

		a = actor(PROCESS);
		if (pipe(go) < 0)
			die("pipe");
		c = context();
		h = connect_to(c, R_T1, SCARD_SHARE_EXCLUSIVE, SCARD_PROTOCOL_ANY);
		pid = fork();
		if (pid == 0) {
			char k;

			close(go[1]);
			(void)!read(go[0], &k, 1);
			_exit(0);
		}
		close(go[0]);
		rc("disconnect", SCardDisconnect(h, SCARD_LEAVE_CARD));
		rc("other", act(a, A_CONNECT, R_T1, SCARD_SHARE_EXCLUSIVE, SCARD_PROTOCOL_ANY));
		close(go[1]);
		waitpid(pid, &s, 0);
		(void)t;
	}
	CASE("threads.own_contexts") {
		struct actor *many[8];
		int ok = 0;

		for (int i = 0; i < 8; i++)
			many[i] = actor(THREAD);
		for (int round = 0; round < 10; round++) {
			for (int i = 0; i < 8; i++)
				ask(many[i], A_CONNECT, R_T1, SCARD_SHARE_SHARED, SCARD_PROTOCOL_ANY, NULL);
			for (int i = 0; i < 8; i++)
				ok += answer(many[i], &t, SOON) && t.code == SCARD_S_SUCCESS;
			for (int i = 0; i < 8; i++)
				ask(many[i], A_TRANSMIT, 0, 0, 0, SELECT_MF);
			for (int i = 0; i < 8; i++)
				ok += answer(many[i], &t, SOON) && t.code == SCARD_S_SUCCESS;
			for (int i = 0; i < 8; i++)
				ask(many[i], A_DISCONNECT, SCARD_LEAVE_CARD, 0, 0, NULL);
			for (int i = 0; i < 8; i++)
				ok += answer(many[i], &t, SOON) && t.code == SCARD_S_SUCCESS;
		}
		say("%d", ok);
	}
	CASE("threads.one_handle") {
		pthread_t many[6];
		void *bad;
		long all = 0;

		c = context();
		h = connect_to(c, R_T1, SCARD_SHARE_SHARED, SCARD_PROTOCOL_ANY);
		for (int i = 0; i < 6; i++)
			pthread_create(&many[i], NULL, many_exchanges, &h);
		for (int i = 0; i < 6; i++) {
			pthread_join(many[i], &bad);
			all += (long)bad;
		}
		say("bad=%ld", all);
	}
	CASE("threads.many_processes") {
		struct actor *many[8];
		int ok = 0;

		for (int i = 0; i < 8; i++)
			many[i] = actor(PROCESS);
		for (int i = 0; i < 8; i++)
			ok += act(many[i], A_CONNECT, R_T1, SCARD_SHARE_SHARED, SCARD_PROTOCOL_ANY) == SCARD_S_SUCCESS;
		for (int round = 0; round < 10; round++) {
			for (int i = 0; i < 8; i++)
				ask(many[i], A_TRANSMIT, 0, 0, 0, SELECT_MF);
			for (int i = 0; i < 8; i++)
				ok += answer(many[i], &t, SOON) && t.code == SCARD_S_SUCCESS;
		}
		say("%d", ok);
	}
}
