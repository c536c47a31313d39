/* SPDX-License-Identifier: BSD-3-Clause
 *
 * case_transmit.c - SCardTransmit
 */
#include "diff.h"

static uint8_t answer_bytes[MAX_BUFFER_SIZE_EXTENDED + 100];

static const SCARD_IO_REQUEST *pci_of(enum reader r)
{
	return r == R_T0 || r == R_SLOT2 || r == R_MEMORY ? SCARD_PCI_T0 : SCARD_PCI_T1;
}

/* send gives the answer `room` bytes, and tells what is behind them. */
static LONG send(SCARDHANDLE h, const SCARD_IO_REQUEST *pci, const uint8_t *p, size_t n, DWORD room)
{
	DWORD got = room;
	LONG e;

	memset(answer_bytes, FILL, sizeof answer_bytes);
	e = rc("", SCardTransmit(h, pci, p, n, NULL, answer_bytes, &got));
	if (e == SCARD_S_SUCCESS)
		say_bytes("", answer_bytes, got);
	else if (got == room)
		say("n=room");
	else
		say("n=%lu", got);
	if (e == SCARD_S_SUCCESS && got <= room && answer_bytes[got] != FILL)
		say("(written behind)");
	if (e != SCARD_S_SUCCESS && answer_bytes[0] != FILL)
		say("(written)");
	return e;
}

static LONG send_hex(SCARDHANDLE h, const SCARD_IO_REQUEST *pci, const char *hex, DWORD room)
{
	uint8_t command[600];

	return send(h, pci, command, unhex(hex, command, sizeof command), room);
}

GROUP(transmits)
{
	static const enum reader rs[] = {R_T1, R_T0, R_DUAL, R_MEMORY, R_SLOT1, R_SLOT2, R_APDU, R_PINPAD};
	static const struct {
		const char *name, *hex;
	} commands[] = {
		{"case1", "00A40000"}, {"case2", "00CA005A00"}, {"case2_exact", "00CA005A0C"},
		{"case2_short_le", "00CA005A02"}, {"case2_long_le", "80EC001010"}, {"case2_wrong_le", "80EC001008"},
		{"case3", SELECT_MF}, {"case3_error", "00A4000C021234"}, {"case4", "00A40000023F0000"},
		{"case4_echo", "80EE00000411223344" "00"}, {"case4_echo_no_le", "80EE00000411223344"},
		{"case4_exact", "80EE00000411223344" "04"},
		{"61", "80E66110"}, {"6C", "80E66C10"}, {"6C_case2", "80E66C1010"}, {"9000", "80E69000"},
		{"6A82", "80E66A82"}, {"le256", "80EC010000"}, {"unknown_ins", "00FE0000"},
		{"unknown_cla", "B0A40000"}, {"get_response", "00C0000010"},
		{"verify_tries", "00200001"}, {"lc_too_long", "00A4000C05" "3F00"}, {"lc_0", "00A4000C00"},
		{"extended_case2", "00CA005A000000"}, {"extended_case4", "80EE00000000041122334400" "00"},
		{"cla_ff", "FFCA000000"},
	};
	SCARDCONTEXT c;
	SCARDHANDLE h = 0;
	struct actor *a;
	struct told t;
	uint8_t *big = malloc(1 << 17);
	DWORD n = 0;

	for (size_t i = 0; i < sizeof rs / sizeof *rs; i++)
		for (size_t j = 0; j < sizeof commands / sizeof *commands; j++) {
			uses(BIT(rs[i]));
			CASE("transmit.%s.%s", reader_words[rs[i]], commands[j].name) {
				c = context();
				h = connect_to(c, rs[i], SCARD_SHARE_SHARED, SCARD_PROTOCOL_ANY);
				send_hex(h, pci_of(rs[i]), commands[j].hex, sizeof answer_bytes);
				/* The card is as good as before. */
				send_hex(h, pci_of(rs[i]), SELECT_MF, 300);
			}
		}
	uses(BIT(R_T1));
	for (DWORD room = 0; room <= 4; room++)
		CASE("transmit.room.%lu_for_2", room) {
			c = context();
			h = connect_to(c, R_T1, SCARD_SHARE_SHARED, SCARD_PROTOCOL_ANY);
			send_hex(h, SCARD_PCI_T1, SELECT_MF, room);
			send_hex(h, SCARD_PCI_T1, SELECT_MF, 300);
		}
	for (DWORD room = 17; room <= 19; room++)
		for (int t0 = 0; t0 < 2; t0++) {
			uses(BIT(R_T1) | BIT(R_T0));
			CASE("transmit.room.%lu_for_18.%s", room, t0 ? "T0" : "T1") {
				c = context();
				h = connect_to(c, t0 ? R_T0 : R_T1, SCARD_SHARE_SHARED, SCARD_PROTOCOL_ANY);
				send_hex(h, t0 ? SCARD_PCI_T0 : SCARD_PCI_T1, "80EC001010", room);
				send_hex(h, t0 ? SCARD_PCI_T0 : SCARD_PCI_T1, SELECT_MF, 300);
			}
		}
	uses(BIT(R_T1));
	CASE("transmit.null_answer") {
		c = context();
		h = connect_to(c, R_T1, SCARD_SHARE_SHARED, SCARD_PROTOCOL_ANY);
		n = 100;
		rc("", SCardTransmit(h, SCARD_PCI_T1, (const BYTE *)"\0\xA4\0\0", 4, NULL, NULL, &n));
		say("n=%lu", n);
	}
	CASE("transmit.null_length") {
		c = context();
		h = connect_to(c, R_T1, SCARD_SHARE_SHARED, SCARD_PROTOCOL_ANY);
		rc("", SCardTransmit(h, SCARD_PCI_T1, (const BYTE *)"\0\xA4\0\0", 4, NULL, answer_bytes, NULL));
	}
	CASE("transmit.null_command") {
		c = context();
		h = connect_to(c, R_T1, SCARD_SHARE_SHARED, SCARD_PROTOCOL_ANY);
		n = 100;
		rc("", SCardTransmit(h, SCARD_PCI_T1, NULL, 4, NULL, answer_bytes, &n));
		say("n=%lu", n);
	}
	CASE("transmit.null_command_length_0") {
		c = context();
		h = connect_to(c, R_T1, SCARD_SHARE_SHARED, SCARD_PROTOCOL_ANY);
		n = 100;
		rc("", SCardTransmit(h, SCARD_PCI_T1, NULL, 0, NULL, answer_bytes, &n));
	}
	for (size_t len = 0; len <= 5; len++)
		for (int t0 = 0; t0 < 2; t0++) {
			uses(BIT(R_T1) | BIT(R_T0));
			CASE("transmit.length.%zu.%s", len, t0 ? "T0" : "T1") {
				const uint8_t command[] = {0x00, 0xCA, 0x00, 0x5A, 0x00};

				c = context();
				h = connect_to(c, t0 ? R_T0 : R_T1, SCARD_SHARE_SHARED, SCARD_PROTOCOL_ANY);
				send(h, t0 ? SCARD_PCI_T0 : SCARD_PCI_T1, command, len, 300);
				send_hex(h, t0 ? SCARD_PCI_T0 : SCARD_PCI_T1, SELECT_MF, 300);
			}
		}
	uses(BIT(R_T1) | BIT(R_APDU));
	static const size_t lengths[] = {261, 264, 265, 65535 + 7 + 2, MAX_BUFFER_SIZE_EXTENDED, MAX_BUFFER_SIZE_EXTENDED + 1, 100000};
	for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++)
		for (int apdu = 0; apdu < 2; apdu++)
			CASE("transmit.command_of.%zu.%s", lengths[i], apdu ? "apdu" : "T1") {
				c = context();
				h = connect_to(c, apdu ? R_APDU : R_T1, SCARD_SHARE_SHARED, SCARD_PROTOCOL_ANY);
				memset(big, 0x11, 1 << 17);
				memcpy(big, "\x80\xEE\0\0", 4);
				if (lengths[i] <= 261) {
					big[4] = 255;
				} else {
					size_t lc = lengths[i] - 9;

					big[4] = 0;
					big[5] = (uint8_t)(lc >> 8);
					big[6] = (uint8_t)lc;
				}
				big[lengths[i] - 1] = 0;
				if (lengths[i] > 261)
					big[lengths[i] - 2] = 0;
				send(h, SCARD_PCI_T1, big, lengths[i], sizeof answer_bytes);
			}
	/* Long answers. */
	static const struct {
		const char *hex;
		size_t n;
	} longs[] = {
		{"80EC0100000100", 256}, {"80EC0101000101", 257}, {"80EC7FFF007FFF", 32767}, {"80ECFFFF00FFFF", 65535}, {"80EC0000000000", 65536},
	};
	for (size_t i = 0; i < sizeof longs / sizeof *longs; i++)
		for (int apdu = 0; apdu < 2; apdu++)
			CASE("transmit.answer_of.%zu.%s", longs[i].n, apdu ? "apdu" : "T1") {
				c = context();
				h = connect_to(c, apdu ? R_APDU : R_T1, SCARD_SHARE_SHARED, SCARD_PROTOCOL_ANY);
				send_hex(h, SCARD_PCI_T1, longs[i].hex, MAX_BUFFER_SIZE_EXTENDED);
				send_hex(h, SCARD_PCI_T1, longs[i].hex, (DWORD)longs[i].n + 2);
				send_hex(h, SCARD_PCI_T1, longs[i].hex, (DWORD)longs[i].n + 1);
				send_hex(h, SCARD_PCI_T1, longs[i].hex, (DWORD)sizeof answer_bytes);
			}
	/* Protocol control information. */
	uses(BIT(R_T1) | BIT(R_T0));
	for (int t0 = 0; t0 < 2; t0++) {
		const struct {
			const char *name;
			const SCARD_IO_REQUEST *pci;
			SCARD_IO_REQUEST own;
		} pcis[] = {
			{"T0", SCARD_PCI_T0, {0, 0}}, {"T1", SCARD_PCI_T1, {0, 0}}, {"RAW", SCARD_PCI_RAW, {0, 0}},
			{"null", NULL, {0, 0}}, {"any", NULL, {SCARD_PROTOCOL_ANY, sizeof(SCARD_IO_REQUEST)}},
			{"0", NULL, {0, sizeof(SCARD_IO_REQUEST)}}, {"T15", NULL, {SCARD_PROTOCOL_T15, sizeof(SCARD_IO_REQUEST)}},
			{"no_length", NULL, {t0 ? SCARD_PROTOCOL_T0 : SCARD_PROTOCOL_T1, 0}},
			{"wrong_length", NULL, {t0 ? SCARD_PROTOCOL_T0 : SCARD_PROTOCOL_T1, 99}},
		};
		for (size_t i = 0; i < sizeof pcis / sizeof *pcis; i++)
			CASE("transmit.pci.%s.%s", t0 ? "T0" : "T1", pcis[i].name) {
				c = context();
				h = connect_to(c, t0 ? R_T0 : R_T1, SCARD_SHARE_SHARED, SCARD_PROTOCOL_ANY);
				send_hex(h, pcis[i].own.cbPciLength || pcis[i].own.dwProtocol ? &pcis[i].own : pcis[i].pci, SELECT_MF, 300);
			}
		CASE("transmit.pci.%s.receive", t0 ? "T0" : "T1") {
			SCARD_IO_REQUEST back = {77, 88};

			c = context();
			h = connect_to(c, t0 ? R_T0 : R_T1, SCARD_SHARE_SHARED, SCARD_PROTOCOL_ANY);
			n = 300;
			rc("", SCardTransmit(h, t0 ? SCARD_PCI_T0 : SCARD_PCI_T1, (const BYTE *)"\0\xA4\0\0", 4, &back, answer_bytes, &n));
			say("protocol=%lu length=%lu", back.dwProtocol, back.cbPciLength);
			back = (SCARD_IO_REQUEST){SCARD_PROTOCOL_RAW, 0};
			n = 300;
			rc("", SCardTransmit(h, t0 ? SCARD_PCI_T0 : SCARD_PCI_T1, (const BYTE *)"\0\xA4\0\0", 4, &back, answer_bytes, &n));
			say("protocol=%lu length=%lu", back.dwProtocol, back.cbPciLength);
		}
	}
	uses(BIT(R_T1) | BIT(R_MEMORY) | BIT(R_DUAL));
	static const enum reader raws[] = {R_T1, R_MEMORY, R_DUAL};
	for (size_t i = 0; i < 3; i++)
		CASE("transmit.raw.%s", reader_words[raws[i]]) {
			c = context();
			h = connect_to(c, raws[i], SCARD_SHARE_SHARED, SCARD_PROTOCOL_RAW);
			send_hex(h, SCARD_PCI_RAW, SELECT_MF, 300);
			send_hex(h, SCARD_PCI_T1, SELECT_MF, 300);
			send_hex(h, SCARD_PCI_T0, SELECT_MF, 300);
		}
	uses(BIT(R_T1) | BIT(R_EMPTY) | BIT(R_MUTE));
	CASE("transmit.direct") {
		c = context();
		h = connect_to(c, R_T1, SCARD_SHARE_DIRECT, 0);
		send_hex(h, SCARD_PCI_T1, SELECT_MF, 300);
		send_hex(h, SCARD_PCI_T0, SELECT_MF, 300);
		send_hex(h, SCARD_PCI_RAW, SELECT_MF, 300);
	}
	CASE("transmit.direct_raw") {
		c = context();
		h = connect_to(c, R_T1, SCARD_SHARE_DIRECT, SCARD_PROTOCOL_RAW);
		send_hex(h, SCARD_PCI_RAW, SELECT_MF, 300);
	}
	CASE("transmit.direct_empty") {
		c = context();
		h = connect_to(c, R_EMPTY, SCARD_SHARE_DIRECT, 0);
		send_hex(h, SCARD_PCI_T1, SELECT_MF, 300);
		send_hex(h, SCARD_PCI_RAW, SELECT_MF, 300);
	}
	CASE("transmit.direct_mute") {
		c = context();
		h = connect_to(c, R_MUTE, SCARD_SHARE_DIRECT, 0);
		send_hex(h, SCARD_PCI_T1, SELECT_MF, 300);
		send_hex(h, SCARD_PCI_RAW, SELECT_MF, 300);
	}
	uses(BIT(R_T1));
	CASE("transmit.bad")
		send_hex(BAD_HANDLE, SCARD_PCI_T1, SELECT_MF, 300);
	CASE("transmit.zero")
		send_hex(0, SCARD_PCI_T1, SELECT_MF, 300);
	CASE("transmit.bad_null_pci")
		send_hex(BAD_HANDLE, NULL, SELECT_MF, 300);
	CASE("transmit.bad_null_command")
		rc("", SCardTransmit(BAD_HANDLE, SCARD_PCI_T1, NULL, 4, NULL, answer_bytes, &n));
	CASE("transmit.bad_too_long")
		send(BAD_HANDLE, SCARD_PCI_T1, big, 100000, 300);
	CASE("transmit.context_handle") {
		c = context();
		send_hex(c, SCARD_PCI_T1, SELECT_MF, 300);
	}
	CASE("transmit.disconnected") {
		c = context();
		h = connect_to(c, R_T1, SCARD_SHARE_SHARED, SCARD_PROTOCOL_ANY);
		SCardDisconnect(h, SCARD_LEAVE_CARD);
		send_hex(h, SCARD_PCI_T1, SELECT_MF, 300);
	}
	CASE("transmit.after_reset_wrong_pci") {
		a = actor(PROCESS);
		c = context();
		h = connect_to(c, R_T1, SCARD_SHARE_SHARED, SCARD_PROTOCOL_ANY);
		must("connect", act(a, A_CONNECT, R_T1, SCARD_SHARE_SHARED, SCARD_PROTOCOL_ANY));
		must("reset", act(a, A_RECONNECT, SCARD_SHARE_SHARED, SCARD_PROTOCOL_ANY, SCARD_RESET_CARD));
		send_hex(h, SCARD_PCI_T0, SELECT_MF, 300);
		send_hex(h, SCARD_PCI_T1, SELECT_MF, 0);
		send(h, SCARD_PCI_T1, big, 100000, 300);
	}
	CASE("transmit.after_removal") {
		c = context();
		h = connect_to(c, R_T1, SCARD_SHARE_SHARED, SCARD_PROTOCOL_ANY);
		ctl("sim %d remove", R_T1);
		wait_state(R_T1, SCARD_STATE_EMPTY, 0);
		send_hex(h, SCARD_PCI_T1, SELECT_MF, 300);
		send_hex(h, SCARD_PCI_T0, SELECT_MF, 300);
		send_hex(h, SCARD_PCI_T1, SELECT_MF, 0);
		ctl("sim %d insert", R_T1);
		wait_state(R_T1, SCARD_STATE_PRESENT, 0);
		send_hex(h, SCARD_PCI_T1, SELECT_MF, 300);
	}
	CASE("transmit.direct_after_removal") {
		c = context();
		h = connect_to(c, R_T1, SCARD_SHARE_DIRECT, 0);
		ctl("sim %d remove", R_T1);
		wait_state(R_T1, SCARD_STATE_EMPTY, 0);
		send_hex(h, SCARD_PCI_T1, SELECT_MF, 300);
		status("status", h);
		ctl("sim %d insert", R_T1);
		wait_state(R_T1, SCARD_STATE_PRESENT, 0);
		status("status", h);
	}
	CASE("transmit.during_removal") {
		a = actor(PROCESS);
		c = context();
		must("connect", act(a, A_CONNECT, R_T1, SCARD_SHARE_SHARED, SCARD_PROTOCOL_ANY));
		ask(a, A_TRANSMIT, 0, 0, 0, "80E803E8"); /* ten seconds */
		waits("", a, &t);
		ctl("sim %d remove", R_T1);
		then("", a, &t);
		wait_state(R_T1, SCARD_STATE_EMPTY, 0);
		rc("again", act_told(a, A_TRANSMIT, 0, 0, 0, SELECT_MF, &t));
		ctl("sim %d insert", R_T1);
		wait_state(R_T1, SCARD_STATE_PRESENT, 0);
	}
	/* Two threads on one handle. */
	CASE("transmit.two_threads_one_handle") {
		struct actor *b = actor(SAME);

		a = actor(SAME);
		c = context();
		h = connect_to(c, R_T1, SCARD_SHARE_SHARED, SCARD_PROTOCOL_ANY);
		lend(a, c, h);
		lend(b, c, h);
		ask(a, A_TRANSMIT, 0, 0, 0, "80E80046"); /* 700 ms */
		ask(b, A_TRANSMIT, 0, 0, 0, "80EE0000021234" "00");
		waits("a", a, &t);
		then("b", b, &t);
		say_bytes("", t.bytes, t.n);
		then("a", a, &t);
		say_bytes("", t.bytes, t.n);
	}
	CASE("transmit.two_readers_one_context") {
		SCARDHANDLE g;

		a = actor(SAME);
		c = context();
		h = connect_to(c, R_T1, SCARD_SHARE_SHARED, SCARD_PROTOCOL_ANY);
		g = connect_to(c, R_APDU, SCARD_SHARE_SHARED, SCARD_PROTOCOL_ANY);
		lend(a, c, h);
		ask(a, A_TRANSMIT, 0, 0, 0, "80E80046");
		send_hex(g, SCARD_PCI_T1, SELECT_MF, 300);
		then("slow", a, &t);
	}
	uses(0);
	CASE("pci.values") {
		say("T0=%lu,%lu T1=%lu,%lu RAW=%lu,%lu", g_rgSCardT0Pci.dwProtocol, g_rgSCardT0Pci.cbPciLength,
		    g_rgSCardT1Pci.dwProtocol, g_rgSCardT1Pci.cbPciLength, g_rgSCardRawPci.dwProtocol, g_rgSCardRawPci.cbPciLength);
	}
	free(big);
}
