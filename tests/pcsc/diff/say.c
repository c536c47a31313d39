/* SPDX-License-Identifier: BSD-3-Clause
 *
 * say.c - how what the library answered is printed
 */
#include <ctype.h>

#include "diff.h"

static const struct {
	LONG code;
	const char *name;
} codes[] = {
#define C(x) {SCARD_##x, #x}
	C(S_SUCCESS), C(F_INTERNAL_ERROR), C(E_CANCELLED), C(E_INVALID_HANDLE),
	C(E_INVALID_PARAMETER), C(E_INVALID_TARGET), C(E_NO_MEMORY), C(F_WAITED_TOO_LONG),
	C(E_INSUFFICIENT_BUFFER), C(E_UNKNOWN_READER), C(E_TIMEOUT), C(E_SHARING_VIOLATION),
	C(E_NO_SMARTCARD), C(E_UNKNOWN_CARD), C(E_CANT_DISPOSE), C(E_PROTO_MISMATCH),
	C(E_NOT_READY), C(E_INVALID_VALUE), C(E_SYSTEM_CANCELLED), C(F_COMM_ERROR),
	C(F_UNKNOWN_ERROR), C(E_INVALID_ATR), C(E_NOT_TRANSACTED), C(E_READER_UNAVAILABLE),
	C(P_SHUTDOWN), C(E_PCI_TOO_SMALL), C(E_READER_UNSUPPORTED), C(E_DUPLICATE_READER),
	C(E_CARD_UNSUPPORTED), C(E_NO_SERVICE), C(E_SERVICE_STOPPED), C(E_UNSUPPORTED_FEATURE),
	C(E_NO_READERS_AVAILABLE), C(E_COMM_DATA_LOST), C(E_SERVER_TOO_BUSY),
	C(W_UNSUPPORTED_CARD), C(W_UNRESPONSIVE_CARD), C(W_UNPOWERED_CARD), C(W_RESET_CARD),
	C(W_REMOVED_CARD), C(W_SECURITY_VIOLATION),
#undef C
};

const char *code_name(LONG code)
{
	static _Thread_local char other[32];

	for (size_t i = 0; i < sizeof codes / sizeof *codes; i++)
		if (codes[i].code == code)
			return code == SCARD_S_SUCCESS ? "ok" : codes[i].name + 2;
	snprintf(other, sizeof other, "0x%lX", (unsigned long)code);
	return other;
}

LONG rc(const char *what, LONG code)
{
	say("%s%s%s", what, *what != '\0' ? "=" : "", code_name(code));
	return code;
}

void must(const char *what, LONG code)
{
	if (code == SCARD_S_SUCCESS)
		return;
	rc(what, code);
	say("(END)");
	_exit(0);
}

struct flag {
	DWORD bit;
	const char *name;
};

static void say_flags(const char *what, DWORD value, const struct flag *f, const char *none)
{
	char text[256] = "";
	size_t n = 0;

	for (; f->name != NULL; f++)
		if (value & f->bit) {
			n += (size_t)snprintf(text + n, sizeof text - n, "%s%s", n > 0 ? "|" : "", f->name);
			value &= ~f->bit;
		}
	if (value != 0)
		snprintf(text + n, sizeof text - n, "%s0x%lX", n > 0 ? "|" : "", value);
	say("%s%s%s", what, *what != '\0' ? "=" : "", *text != '\0' ? text : none);
}

void say_event(const char *what, DWORD state)
{
	static const struct flag flags[] = {
		{SCARD_STATE_IGNORE, "IGNORE"}, {SCARD_STATE_CHANGED, "CHANGED"},
		{SCARD_STATE_UNKNOWN, "UNKNOWN"}, {SCARD_STATE_UNAVAILABLE, "UNAVAILABLE"},
		{SCARD_STATE_EMPTY, "EMPTY"}, {SCARD_STATE_PRESENT, "PRESENT"},
		{SCARD_STATE_ATRMATCH, "ATRMATCH"}, {SCARD_STATE_EXCLUSIVE, "EXCLUSIVE"},
		{SCARD_STATE_INUSE, "INUSE"}, {SCARD_STATE_MUTE, "MUTE"},
		{SCARD_STATE_UNPOWERED, "UNPOWERED"}, {0, NULL},
	};

	say_flags(what, state & 0xFFFF, flags, "0");
}

void say_state(const char *what, DWORD state)
{
	static const struct flag flags[] = {
		{SCARD_UNKNOWN, "UNKNOWN"}, {SCARD_ABSENT, "ABSENT"}, {SCARD_PRESENT, "PRESENT"},
		{SCARD_SWALLOWED, "SWALLOWED"}, {SCARD_POWERED, "POWERED"},
		{SCARD_NEGOTIABLE, "NEGOTIABLE"}, {SCARD_SPECIFIC, "SPECIFIC"}, {0, NULL},
	};

	/* pcscd has the reader's event counter in the upper word. */
	say_flags(what, state & 0xFFFF, flags, "0");
}

void say_protocol(const char *what, DWORD protocol)
{
	static const struct flag flags[] = {
		{SCARD_PROTOCOL_T0, "T0"}, {SCARD_PROTOCOL_T1, "T1"}, {SCARD_PROTOCOL_RAW, "RAW"},
		{SCARD_PROTOCOL_T15, "T15"}, {0, NULL},
	};

	say_flags(what, protocol, flags, "none");
}

void say_bytes(const char *what, const void *p, size_t n)
{
	char text[2 * 64 + 1] = "";
	const uint8_t *b = p;
	uint32_t sum = 2166136261U;

	for (size_t i = 0; i < n && i < 64; i++)
		snprintf(text + 2 * i, 3, "%02X", b[i]);
	if (n <= 64) {
		say("%s[%s]", what, text);
		return;
	}
	for (size_t i = 0; i < n; i++)
		sum = (sum ^ b[i]) * 16777619U; /* FNV-1a */
	text[32] = '\0';
	say("%s[%s.. %zu bytes, sum %08X]", what, text, n, sum);
}

static int position(const char *name, size_t n)
{
	for (int r = 0; r < reader_count; r++)
		if (strlen(reader_names[r]) == n && memcmp(reader_names[r], name, n) == 0)
			return r;
	return -1;
}

static void put_name(char *to, size_t room, const char *name)
{
	int r = position(name, strlen(name));

	if (r >= 0)
		snprintf(to, room, "#%s", reader_words[r]);
	else
		snprintf(to, room, "\"%s\"", name);
}

void say_name(const char *what, const char *name)
{
	char text[256];

	put_name(text, sizeof text, name);
	say("%s%s", what, text);
}

void say_readers(const char *what, const char *multi, DWORD n)
{
	char text[1024] = "";
	const char *p = multi;

	while (p < multi + n && *p != '\0') {
		put_name(text + strlen(text), sizeof text - strlen(text), p);
		p += strnlen(p, (size_t)(multi + n - p)) + 1;
		if (p < multi + n && *p != '\0')
			strncat(text, ",", sizeof text - strlen(text) - 1);
	}
	say("%s{%s}", what, text);
	if (p + 1 != multi + n)
		say("(ends at %+ld)", (long)(p + 1 - (multi + n)));
}

void say_length(const char *what, DWORD n, DWORD full)
{
	if (n == full)
		say("%s=full", what);
	else if (n == 0)
		say("%s=0", what);
	else
		say("%s=full%+ld", what, (long)(n - full));
}

DWORD readers_length(void)
{
	DWORD n = 1;

	for (int r = 0; r < reader_count; r++)
		n += strlen(reader_names[r]) + 1;
	return n;
}

size_t unhex(const char *hex, uint8_t *p, size_t room)
{
	size_t n = 0;
	unsigned b;

	for (; sscanf(hex, " %2x", &b) == 1 && n < room; n++) {
		while (isspace((unsigned char)*hex))
			hex++;
		hex += 2;
		p[n] = (uint8_t)b;
	}
	return n;
}

/* ---- short hands ---------------------------------------------------------------------------- */

SCARDCONTEXT context(void)
{
	SCARDCONTEXT c = 0;

	must("establish", SCardEstablishContext(SCARD_SCOPE_SYSTEM, NULL, NULL, &c));
	return c;
}

SCARDHANDLE connect_to(SCARDCONTEXT c, enum reader r, DWORD share, DWORD protocols)
{
	SCARDHANDLE h = 0;
	DWORD active = 0;

	must("connect", SCardConnect(c, reader_names[r], share, protocols, &h, &active));
	return h;
}

LONG transmit(const char *what, SCARDHANDLE h, const char *hex)
{
	static uint8_t answer[MAX_BUFFER_SIZE_EXTENDED];
	uint8_t command[600];
	DWORD n = sizeof answer, protocol = SCARD_PROTOCOL_T1;
	const SCARD_IO_REQUEST *pci = SCARD_PCI_T1;
	LONG e;

	if (SCardStatus(h, NULL, NULL, NULL, &protocol, NULL, NULL) == SCARD_S_SUCCESS)
		pci = protocol == SCARD_PROTOCOL_T0 ? SCARD_PCI_T0 : protocol == SCARD_PROTOCOL_RAW ? SCARD_PCI_RAW : SCARD_PCI_T1;
	e = SCardTransmit(h, pci, command, unhex(hex, command, sizeof command), NULL, answer, &n);
	rc(what, e);
	if (e == SCARD_S_SUCCESS)
		say_bytes("", answer, n);
	return e;
}

LONG changes(SCARDCONTEXT c, DWORD timeout, const char *name, DWORD current, DWORD *event)
{
	SCARD_READERSTATE s = {.szReader = name, .dwCurrentState = current};
	LONG e = SCardGetStatusChange(c, timeout, &s, 1);

	*event = s.dwEventState;
	return e;
}

LONG status(const char *what, SCARDHANDLE h)
{
	DWORD state = 0, protocol = 0;
	LONG e = rc(what, SCardStatus(h, NULL, NULL, &state, &protocol, NULL, NULL));

	if (e == SCARD_S_SUCCESS) {
		say_state("", state);
		say_protocol("", protocol);
	}
	return e;
}

DWORD one_event(SCARDCONTEXT c, enum reader r)
{
	DWORD event = 0;

	changes(c, 0, reader_names[r], SCARD_STATE_UNAWARE, &event);
	return event & 0xFFFF & ~(DWORD)SCARD_STATE_CHANGED;
}

void say_change(SCARDCONTEXT c, enum reader r, DWORD current, DWORD base, DWORD timeout)
{
	SCARD_READERSTATE s = {
		.szReader = reader_names[r], .dwCurrentState = current, .dwEventState = 0xBEEF0000, .cbAtr = 99,
	};
	DWORD before = s.dwCurrentState;

	rc("", SCardGetStatusChange(c, timeout, &s, 1));
	say_event("", s.dwEventState);
	if (s.dwEventState == 0xBEEF0000)
		say("untouched");
	else
		say("counter=%+d", (int)((s.dwEventState >> 16) - base));
	if (s.cbAtr == 99)
		say("atr=untouched");
	else
		say_bytes("atr", s.rgbAtr, s.cbAtr);
	if (s.dwCurrentState != before)
		say("current changed");
	if (s.szReader != reader_names[r])
		say("name changed");
}
