/* SPDX-License-Identifier: BSD-3-Clause
 *
 * readers.c - the simulated readers, and the warden that brings them back to their first state
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <sys/prctl.h>

#include "diff.h"
#include "frame.h"

const char *const reader_words[READERS] = {
	[R_T1] = "T1", [R_T0] = "T0", [R_DUAL] = "dual", [R_MEMORY] = "memory",
	[R_EMPTY] = "empty", [R_MUTE] = "mute", [R_PINPAD] = "pinpad",
	[R_SLOT1] = "slot1", [R_SLOT2] = "slot2", [R_APDU] = "apdu", [R_AWAY] = "away",
};

/* A second slot comes with the first. */
static const char *const attach[READERS] = {
	[R_T1] = "t1", [R_T0] = "t0", [R_DUAL] = "ccid card=dual",
	[R_MEMORY] = "memory card=sle4442", [R_EMPTY] = "t1 card=none", [R_MUTE] = "t1 card=none",
	[R_PINPAD] = "pinpad", [R_SLOT1] = "twoslot", [R_APDU] = "apdu", [R_AWAY] = "t1",
};

char reader_names[READERS][MAX_READERNAME];
int reader_count;
static char mount_dir[4096];
static int to_warden, from_warden;

void print_readers(FILE *to)
{
	for (int r = 0; r < READERS; r++)
		if (attach[r] != NULL)
			fprintf(to, "attach sim %s\n", attach[r]);
	fprintf(to, "sim %d mute\nsim %d insert token\n", R_MUTE, R_MUTE);
}

static bool try_ctl(const char *line)
{
	char path[sizeof mount_dir + 8];
	ssize_t n = (ssize_t)strlen(line);
	int fd, saved;
	bool ok;

	snprintf(path, sizeof path, "%s/ctl", mount_dir);
	fd = open(path, O_WRONLY | O_CLOEXEC);
	ok = fd >= 0 && write(fd, line, (size_t)n) == n;
	saved = errno;
	close(fd);
	errno = saved;
	return ok;
}

void ctl(const char *format, ...)
{
	char text[256];
	va_list args;
	int n;

	va_start(args, format);
	n = vsnprintf(text, sizeof text - 1, format, args);
	va_end(args);
	strcpy(text + n, "\n");
	if (!try_ctl(text))
		die("%.*s: %s", n, text, strerror(errno));
}

static DWORD first_state(int r)
{
	switch (r) {
	case R_EMPTY:
		return SCARD_STATE_EMPTY;
	case R_MUTE:
		return SCARD_STATE_PRESENT | SCARD_STATE_MUTE;
	}
	return SCARD_STATE_PRESENT;
}

/* await waits on context c for a state of the reader. */
static bool await(SCARDCONTEXT c, int r, DWORD want, DWORD not, DWORD *last)
{
	SCARD_READERSTATE s = {.szReader = reader_names[r]};

	for (long long end = now_ms() + SOON; now_ms() < end; pause_ms(5)) {
		LONG e;

		s.dwCurrentState = SCARD_STATE_UNAWARE;
		e = SCardGetStatusChange(c, 0, &s, 1);
		*last = s.dwEventState;
		if (e == SCARD_S_SUCCESS && (s.dwEventState & want) == want && !(s.dwEventState & not) &&
		    (s.dwEventState & (SCARD_STATE_MUTE | SCARD_STATE_EMPTY) || s.cbAtr > 0))
			return true;
	}
	return false;
}

void wait_state(enum reader r, DWORD want, DWORD not)
{
	SCARDCONTEXT c = context();
	DWORD last = 0;

	if (!await(c, r, want, not, &last))
		say("NEVER(%s)", reader_words[r]);
	SCardReleaseContext(c);
}

DWORD counter_of(enum reader r)
{
	SCARDCONTEXT c = context();
	DWORD event = 0;

	changes(c, 0, reader_names[r], SCARD_STATE_UNAWARE, &event);
	SCardReleaseContext(c);
	return event >> 16;
}

/* ---- the warden -------------------------------------------------------------------------- */

static SCARDCONTEXT wardens;

static void find_readers(void)
{
	char list[READERS * MAX_READERNAME];
	DWORD n = sizeof list;
	int count = 0;

	if (SCardListReaders(wardens, NULL, list, &n) == SCARD_S_SUCCESS)
		for (char *p = list; *p != '\0' && count < READERS; p += strlen(p) + 1)
			snprintf(reader_names[count++], MAX_READERNAME, "%.*s", MAX_READERNAME - 1, p);
	reader_count = count;
}

/* repair does what a case that failed in the middle left undone. */
static void repair(int r)
{
	static const char *const words[] = {"plug", "normal", "remove", "insert"};
	char line[64];

	for (int i = 0; i < (r == R_EMPTY ? 3 : 4); i++) {
		snprintf(line, sizeof line, "sim %d %s\n", r, words[i]);
		(void)try_ctl(line);
	}
}

/* normal brings one reader to its first state: nobody connected, and the card reset, so that no
 * protocol is left over. */
static void normal(int r)
{
	const DWORD busy = SCARD_STATE_INUSE | SCARD_STATE_EXCLUSIVE;
	const bool card = r != R_EMPTY && r != R_MUTE;
	DWORD last = 0, protocol;
	SCARDHANDLE h;
	LONG e = SCARD_S_SUCCESS;

	/* pcscd's library takes half a second for each look at a mute card. */
	if (r != R_MUTE && !await(wardens, r, first_state(r), busy, &last)) {
		fprintf(stderr, "pcscdiff: reader %s was left in state %lx\n", reader_words[r], last);
		repair(r);
		if (!await(wardens, r, first_state(r), busy, &last))
			die("reader %s stays in state %lx", reader_words[r], last);
	}
	for (long long end = now_ms() + SOON; now_ms() < end; pause_ms(5)) {
		e = SCardConnect(wardens, reader_names[r], card ? SCARD_SHARE_EXCLUSIVE : SCARD_SHARE_DIRECT,
				 SCARD_PROTOCOL_ANY | SCARD_PROTOCOL_RAW, &h, &protocol);
		if (e == SCARD_S_SUCCESS)
			break;
		if (e == (LONG)SCARD_W_UNPOWERED_CARD || e == (LONG)SCARD_W_UNRESPONSIVE_CARD)
			repair(r);
	}
	if (e != SCARD_S_SUCCESS)
		die("reader %s: %s", reader_words[r], code_name(e));
	e = SCardDisconnect(h, SCARD_RESET_CARD);
	if (e != SCARD_S_SUCCESS)
		die("reader %s: disconnect: %s", reader_words[r], code_name(e));
}

static void warden(int in, int out)
{
	unsigned set;
	LONG e = SCardEstablishContext(SCARD_SCOPE_SYSTEM, NULL, NULL, &wardens);

	if (e == SCARD_S_SUCCESS) {
		/* pcscd lists a reader before its name is whole: so wait for the cards. */
		for (long long end = now_ms() + SOON; now_ms() < end; pause_ms(20)) {
			find_readers();
			if (reader_count == READERS || reader_count == 0)
				break;
		}
	}
	if (write(out, &reader_count, sizeof reader_count) < 0 ||
	    write(out, reader_names, sizeof reader_names) < 0)
		_exit(1);
	while (read(in, &set, sizeof set) == sizeof set) {
		for (int r = 0; r < reader_count; r++)
			if (set & BIT(r))
				normal(r);
		if (write(out, "k", 1) != 1)
			break;
	}
	_exit(0);
}

void start_warden(const char *dir)
{
	int there[2], back[2];

	snprintf(mount_dir, sizeof mount_dir, "%s", dir);
	if (pipe2(there, O_CLOEXEC) < 0 || pipe2(back, O_CLOEXEC) < 0)
		die("pipe: %s", strerror(errno));
	switch (fork()) {
	case -1:
		die("fork: %s", strerror(errno));
	case 0:
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		close(there[1]);
		close(back[0]);
		warden(there[0], back[1]);
	}
	close(there[0]);
	close(back[1]);
	to_warden = there[1];
	from_warden = back[0];
	if (read(from_warden, &reader_count, sizeof reader_count) != sizeof reader_count ||
	    read(from_warden, reader_names, sizeof reader_names) != sizeof reader_names)
		die("the warden ended");
}

void settle(unsigned set)
{
	char k;

	if (write(to_warden, &set, sizeof set) != sizeof set || read(from_warden, &k, 1) != 1)
		die("the warden ended");
}
