/* SPDX-License-Identifier: BSD-3-Clause
 *
 * case_control.c - SCardControl, SCardGetAttrib, SCardSetAttrib
 */
#include "diff.h"

static uint8_t bytes[70000];

static LONG control(const char *what, SCARDHANDLE h, DWORD code, const char *hex, DWORD room)
{
	uint8_t command[300];
	size_t n = unhex(hex, command, sizeof command);
	DWORD got = 7777;
	LONG e;

	memset(bytes, FILL, sizeof bytes);
	e = rc(what, SCardControl(h, code, command, n, bytes, room, &got));
	if (e == SCARD_S_SUCCESS)
		say_bytes("", bytes, got);
	else if (got == 7777)
		say("n=untouched");
	else
		say("n=%lu", got);
	if (got <= room && bytes[got] != FILL)
		say("(written behind)");
	return e;
}

/* feature finds the control code of a PC/SC part 10 feature; 0: the reader has none. */
static DWORD feature(SCARDHANDLE h, uint8_t tag)
{
	uint8_t list[200];
	DWORD n = 0;

	if (SCardControl(h, CM_IOCTL_GET_FEATURE_REQUEST, NULL, 0, list, sizeof list, &n) != SCARD_S_SUCCESS)
		return 0;
	for (DWORD i = 0; i + 6 <= n; i += 6)
		if (list[i] == tag)
			return (DWORD)list[i + 2] << 24 | (DWORD)list[i + 3] << 16 | (DWORD)list[i + 4] << 8 | list[i + 5];
	return 0;
}

/* VERIFY of PIN 2 in DF 5000, entered at the reader. */
#define VERIFY_BLOCK "1E1E" "82" "08" "00" "0804" "02" "00" "0904" "00" "000000" "0D000000" "0020008108FFFFFFFFFFFFFFFF"

GROUP(controls)
{
	static const struct {
		const char *name;
		enum reader r;
		DWORD share;
	} ways[] = {
		{"T1.shared", R_T1, SCARD_SHARE_SHARED}, {"T1.exclusive", R_T1, SCARD_SHARE_EXCLUSIVE},
		{"T1.direct", R_T1, SCARD_SHARE_DIRECT}, {"pinpad.shared", R_PINPAD, SCARD_SHARE_SHARED},
		{"pinpad.direct", R_PINPAD, SCARD_SHARE_DIRECT}, {"empty.direct", R_EMPTY, SCARD_SHARE_DIRECT},
		{"mute.direct", R_MUTE, SCARD_SHARE_DIRECT}, {"memory.shared", R_MEMORY, SCARD_SHARE_SHARED},
		{"dual.shared", R_DUAL, SCARD_SHARE_SHARED}, {"slot2.shared", R_SLOT2, SCARD_SHARE_SHARED},
	};
	static const struct {
		const char *name;
		DWORD code;
	} codes[] = {
		{"features", CM_IOCTL_GET_FEATURE_REQUEST}, {"features_windows", 0x313520},
		{"verify", 0x42330006}, {"modify", 0x42330007}, {"mct", 0x42330008}, {"pin_properties", 0x4233000A},
		{"tlv_properties", 0x42330012}, {"escape", 0x42000001}, {"escape_windows", 0x3136B0},
		{"usb_path", 0x42000E11}, {"0", 0}, {"1", 1}, {"unknown", 0x42424242}, {"ffffffff", 0xFFFFFFFF},
	};
	SCARDCONTEXT c;
	SCARDHANDLE h;
	struct actor *a;
	DWORD n = 0, code;

	for (size_t i = 0; i < sizeof ways / sizeof *ways; i++)
		for (size_t j = 0; j < sizeof codes / sizeof *codes; j++) {
			uses(BIT(ways[i].r));
			CASE("control.%s.%s", ways[i].name, codes[j].name) {
				c = context();
				h = connect_to(c, ways[i].r, ways[i].share, SCARD_PROTOCOL_ANY);
				control("", h, codes[j].code, "", 1000);
			}
		}
	uses(BIT(R_PINPAD));
	for (int tag = 1; tag <= 0x20; tag++)
		CASE("control.pinpad.feature.%02x", tag) {
			c = context();
			h = connect_to(c, R_PINPAD, SCARD_SHARE_SHARED, SCARD_PROTOCOL_ANY);
			say(feature(h, (uint8_t)tag) != 0 ? "there" : "none");
		}
	for (DWORD room = 0; room <= 40; room += room < 8 ? 1 : 2)
		CASE("control.features.room.%lu", room) {
			c = context();
			h = connect_to(c, R_PINPAD, SCARD_SHARE_SHARED, SCARD_PROTOCOL_ANY);
			control("", h, CM_IOCTL_GET_FEATURE_REQUEST, "", room);
		}
	CASE("control.properties.pin") {
		c = context();
		h = connect_to(c, R_PINPAD, SCARD_SHARE_SHARED, SCARD_PROTOCOL_ANY);
		code = feature(h, FEATURE_IFD_PIN_PROPERTIES);
		control("", h, code, "", 1000);
		for (DWORD room = 0; room <= 4; room++)
			control("room", h, code, "", room);
		control("with data", h, code, "0102", 1000);
	}
	CASE("control.properties.tlv") {
		c = context();
		h = connect_to(c, R_PINPAD, SCARD_SHARE_SHARED, SCARD_PROTOCOL_ANY);
		code = feature(h, FEATURE_GET_TLV_PROPERTIES);
		control("", h, code, "", 1000);
		control("room", h, code, "", 0);
		control("room", h, code, "", 10);
		control("with data", h, code, "0102", 1000);
	}
	CASE("control.verify") {
		c = context();
		h = connect_to(c, R_PINPAD, SCARD_SHARE_SHARED, SCARD_PROTOCOL_ANY);
		transmit("select", h, "00A4000C025000");
		code = feature(h, FEATURE_VERIFY_PIN_DIRECT);
		ctl("sim %d keys 9999", R_PINPAD);
		control("wrong", h, code, VERIFY_BLOCK, 300);
		ctl("sim %d keys 5678", R_PINPAD);
		control("right", h, code, VERIFY_BLOCK, 300);
		ctl("sim %d keys cancel", R_PINPAD);
		control("cancel", h, code, VERIFY_BLOCK, 300);
		ctl("sim %d keys 5678", R_PINPAD);
		control("right", h, code, VERIFY_BLOCK, 2);
		transmit("select", h, SELECT_MF);
	}
	CASE("control.verify_short_room") {
		c = context();
		h = connect_to(c, R_PINPAD, SCARD_SHARE_SHARED, SCARD_PROTOCOL_ANY);
		transmit("select", h, "00A4000C025000");
		ctl("sim %d keys 5678", R_PINPAD);
		control("", h, feature(h, FEATURE_VERIFY_PIN_DIRECT), VERIFY_BLOCK, 1);
	}
	CASE("control.verify_half") {
		c = context();
		h = connect_to(c, R_PINPAD, SCARD_SHARE_SHARED, SCARD_PROTOCOL_ANY);
		code = feature(h, FEATURE_VERIFY_PIN_DIRECT);
		control("", h, code, "1E1E820800", 300);
		control("empty", h, code, "", 300);
	}
	CASE("control.modify") {
		c = context();
		h = connect_to(c, R_PINPAD, SCARD_SHARE_SHARED, SCARD_PROTOCOL_ANY);
		transmit("select", h, "00A4000C025000");
		code = feature(h, FEATURE_MODIFY_PIN_DIRECT);
		ctl("sim %d keys 5678 ok 4321 ok 4322", R_PINPAD);
		control("differ", h, code,
			"1E1E" "82" "08" "00" "0008" "0804" "03" "02" "00" "0904" "000000" "000000" "15000000"
			"0024008110FFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFF", 300);
	}
	CASE("control.direct_verify_without_protocol") {
		c = context();
		h = connect_to(c, R_PINPAD, SCARD_SHARE_DIRECT, 0);
		ctl("sim %d keys 5678", R_PINPAD);
		control("", h, feature(h, FEATURE_VERIFY_PIN_DIRECT), VERIFY_BLOCK, 300);
	}
	CASE("control.null_length") {
		c = context();
		h = connect_to(c, R_PINPAD, SCARD_SHARE_SHARED, SCARD_PROTOCOL_ANY);
		rc("", SCardControl(h, CM_IOCTL_GET_FEATURE_REQUEST, NULL, 0, bytes, 100, NULL));
	}
	CASE("control.null_command") {
		c = context();
		h = connect_to(c, R_PINPAD, SCARD_SHARE_SHARED, SCARD_PROTOCOL_ANY);
		rc("", SCardControl(h, CM_IOCTL_GET_FEATURE_REQUEST, NULL, 5, bytes, 100, &n));
	}
	CASE("control.null_answer") {
		c = context();
		h = connect_to(c, R_PINPAD, SCARD_SHARE_SHARED, SCARD_PROTOCOL_ANY);
		rc("", SCardControl(h, CM_IOCTL_GET_FEATURE_REQUEST, NULL, 0, NULL, 0, &n));
		say("n=%lu", n);
		rc("room", SCardControl(h, CM_IOCTL_GET_FEATURE_REQUEST, NULL, 0, NULL, 100, &n));
	}
	CASE("control.too_long") {
		c = context();
		h = connect_to(c, R_PINPAD, SCARD_SHARE_SHARED, SCARD_PROTOCOL_ANY);
		n = 7;
		rc("65548", SCardControl(h, 0x42424242, bytes, 65548, bytes, 100, &n));
		rc("65549", SCardControl(h, 0x42424242, bytes, 65549, bytes, 100, &n));
		say("n=%lu", n);
		rc("room", SCardControl(h, CM_IOCTL_GET_FEATURE_REQUEST, NULL, 0, bytes, 65549, &n));
	}
	CASE("control.bad") {
		n = 7;
		rc("", SCardControl(BAD_HANDLE, CM_IOCTL_GET_FEATURE_REQUEST, NULL, 0, bytes, 100, &n));
		say("n=%lu", n);
		rc("zero", SCardControl(0, CM_IOCTL_GET_FEATURE_REQUEST, NULL, 0, bytes, 100, &n));
		rc("null length", SCardControl(BAD_HANDLE, CM_IOCTL_GET_FEATURE_REQUEST, NULL, 0, bytes, 100, NULL));
		rc("too long", SCardControl(BAD_HANDLE, CM_IOCTL_GET_FEATURE_REQUEST, bytes, 65549, bytes, 100, &n));
	}
	CASE("control.context_handle") {
		c = context();
		rc("", SCardControl(c, CM_IOCTL_GET_FEATURE_REQUEST, NULL, 0, bytes, 100, &n));
	}
	uses(BIT(R_T1));
	CASE("control.disconnected") {
		c = context();
		h = connect_to(c, R_T1, SCARD_SHARE_SHARED, SCARD_PROTOCOL_ANY);
		SCardDisconnect(h, SCARD_LEAVE_CARD);
		control("", h, CM_IOCTL_GET_FEATURE_REQUEST, "", 100);
	}
	CASE("control.after_reset") {
		a = actor(PROCESS);
		c = context();
		h = connect_to(c, R_T1, SCARD_SHARE_SHARED, SCARD_PROTOCOL_ANY);
		must("connect", act(a, A_CONNECT, R_T1, SCARD_SHARE_SHARED, SCARD_PROTOCOL_ANY));
		must("reset", act(a, A_RECONNECT, SCARD_SHARE_SHARED, SCARD_PROTOCOL_ANY, SCARD_RESET_CARD));
		control("", h, CM_IOCTL_GET_FEATURE_REQUEST, "", 100);
		transmit("", h, SELECT_MF);
	}
	for (int s = 0; s < 2; s++)
		CASE("control.after_removal.%s", s ? "direct" : "shared") {
			c = context();
			h = connect_to(c, R_T1, s ? SCARD_SHARE_DIRECT : SCARD_SHARE_SHARED, SCARD_PROTOCOL_ANY);
			ctl("sim %d remove", R_T1);
			wait_state(R_T1, SCARD_STATE_EMPTY, 0);
			control("", h, CM_IOCTL_GET_FEATURE_REQUEST, "", 100);
			ctl("sim %d insert", R_T1);
			wait_state(R_T1, SCARD_STATE_PRESENT, 0);
			control("", h, CM_IOCTL_GET_FEATURE_REQUEST, "", 100);
		}
}

static LONG attribute(const char *what, SCARDHANDLE h, DWORD id, DWORD room)
{
	DWORD n = room;
	LONG e;

	memset(bytes, FILL, sizeof bytes);
	e = rc(what, SCardGetAttrib(h, id, bytes, &n));
	if (e != SCARD_S_SUCCESS) {
		say(n == room ? "n=room" : "n=%lu", n);
		return e;
	}
	switch (id) {
	case SCARD_ATTR_DEVICE_FRIENDLY_NAME_A:
	case SCARD_ATTR_DEVICE_SYSTEM_NAME_A:
		say_length("n", n, strlen((char *)bytes) + 1);
		say_name("", (char *)bytes);
		break;
	case SCARD_ATTR_CHANNEL_ID:
		say("n=%lu", n); /* a bus and an address */
		break;
	default:
		say_bytes("", bytes, n);
	}
	if (bytes[n] != FILL)
		say("(written behind)");
	return e;
}

GROUP(attributes)
{
	static const struct {
		const char *name;
		DWORD id;
	} ids[] = {
#define A(x) {#x, SCARD_ATTR_##x}
		A(VENDOR_NAME), A(VENDOR_IFD_TYPE), A(VENDOR_IFD_VERSION), A(VENDOR_IFD_SERIAL_NO), A(CHANNEL_ID),
		A(ASYNC_PROTOCOL_TYPES), A(DEFAULT_CLK), A(MAX_CLK), A(DEFAULT_DATA_RATE), A(MAX_DATA_RATE), A(MAX_IFSD),
		A(SYNC_PROTOCOL_TYPES), A(POWER_MGMT_SUPPORT), A(USER_TO_CARD_AUTH_DEVICE), A(USER_AUTH_INPUT_DEVICE),
		A(CHARACTERISTICS), A(CURRENT_PROTOCOL_TYPE), A(CURRENT_CLK), A(CURRENT_F), A(CURRENT_D), A(CURRENT_N),
		A(CURRENT_W), A(CURRENT_IFSC), A(CURRENT_IFSD), A(CURRENT_BWT), A(CURRENT_CWT), A(CURRENT_EBC_ENCODING),
		A(EXTENDED_BWT), A(ICC_PRESENCE), A(ICC_INTERFACE_STATUS), A(CURRENT_IO_STATE), A(ATR_STRING),
		A(ICC_TYPE_PER_ATR), A(ESC_RESET), A(ESC_CANCEL), A(ESC_AUTHREQUEST), A(MAXINPUT), A(DEVICE_UNIT),
		A(DEVICE_IN_USE), A(DEVICE_FRIENDLY_NAME_A), A(DEVICE_SYSTEM_NAME_A), A(DEVICE_FRIENDLY_NAME_W),
		A(DEVICE_SYSTEM_NAME_W), A(SUPRESS_T1_IFS_REQUEST),
#undef A
		/* What a driver knows besides (IFD handler 3.0). */
		{"TAG_IFD_ATR", 0x0303}, {"TAG_IFD_SLOTNUM", 0x0180}, {"TAG_IFD_SLOTS_NUMBER", 0x0FAE},
		{"TAG_IFD_SIMULTANEOUS_ACCESS", 0x0FAF}, {"TAG_IFD_THREAD_SAFE", 0x0FAD}, {"TAG_IFD_SLOT_THREAD_SAFE", 0x0FAC},
		{"TAG_IFD_DEVICE_REMOVED", 0x0FB4}, {"0", 0}, {"31234", 0x31234}, {"ffffffff", 0xFFFFFFFF},
	};
	static const struct {
		const char *name;
		enum reader r;
		DWORD share;
	} ways[] = {
		{"T1", R_T1, SCARD_SHARE_SHARED}, {"T0", R_T0, SCARD_SHARE_SHARED}, {"empty", R_EMPTY, SCARD_SHARE_DIRECT},
		{"pinpad", R_PINPAD, SCARD_SHARE_SHARED}, {"slot2", R_SLOT2, SCARD_SHARE_SHARED}, {"memory", R_MEMORY, SCARD_SHARE_SHARED},
		{"mute", R_MUTE, SCARD_SHARE_DIRECT},
	};
	SCARDCONTEXT c;
	SCARDHANDLE h;
	struct actor *a;
	uint8_t *allocated;
	DWORD n, p;

	for (size_t i = 0; i < sizeof ways / sizeof *ways; i++)
		for (size_t j = 0; j < sizeof ids / sizeof *ids; j++) {
			uses(BIT(ways[i].r));
			CASE("attrib.%s.%s", ways[i].name, ids[j].name) {
				c = context();
				h = connect_to(c, ways[i].r, ways[i].share, SCARD_PROTOCOL_ANY);
				attribute("", h, ids[j].id, 264);
			}
		}
	uses(BIT(R_T1));
	static const DWORD some[] = {SCARD_ATTR_ATR_STRING, SCARD_ATTR_VENDOR_NAME, SCARD_ATTR_ICC_PRESENCE,
				     SCARD_ATTR_MAXINPUT, SCARD_ATTR_DEVICE_FRIENDLY_NAME_A, SCARD_ATTR_VENDOR_IFD_SERIAL_NO};
	for (size_t i = 0; i < sizeof some / sizeof *some; i++) {
		CASE("attrib.size.%lx", some[i]) {
			DWORD full = sizeof bytes;

			c = context();
			h = connect_to(c, R_T1, SCARD_SHARE_SHARED, SCARD_PROTOCOL_ANY);
			full = 264;
			SCardGetAttrib(h, some[i], bytes, &full);
			n = 0;
			rc("null", SCardGetAttrib(h, some[i], NULL, &n));
			say_length("n", n, full);
			n = 1000;
			rc("null, 1000", SCardGetAttrib(h, some[i], NULL, &n));
			say_length("n", n, full);
			n = full;
			rc("exact", SCardGetAttrib(h, some[i], bytes, &n));
			say_length("n", n, full);
			n = full - 1;
			memset(bytes, FILL, sizeof bytes);
			rc("one too small", SCardGetAttrib(h, some[i], bytes, &n));
			say_length("n", n, full);
			say(bytes[0] == FILL ? "untouched" : "written");
			n = 0;
			rc("0", SCardGetAttrib(h, some[i], bytes, &n));
			say_length("n", n, full);
		}
		CASE("attrib.autoallocate.%lx", some[i]) {
			DWORD full = 264;

			c = context();
			h = connect_to(c, R_T1, SCARD_SHARE_SHARED, SCARD_PROTOCOL_ANY);
			SCardGetAttrib(h, some[i], bytes, &full);
			n = SCARD_AUTOALLOCATE;
			allocated = NULL;
			rc("", SCardGetAttrib(h, some[i], (LPBYTE)&allocated, &n));
			say_length("n", n, full);
			if (allocated != NULL) {
				say(memcmp(allocated, bytes, n) == 0 ? "same" : "different");
				rc("free", SCardFreeMemory(c, allocated));
			}
		}
	}
	CASE("attrib.room_263") {
		c = context();
		h = connect_to(c, R_T1, SCARD_SHARE_SHARED, SCARD_PROTOCOL_ANY);
		attribute("263", h, SCARD_ATTR_ATR_STRING, 263);
		attribute("264", h, SCARD_ATTR_ATR_STRING, 264);
		attribute("265", h, SCARD_ATTR_ATR_STRING, 265);
		attribute("65536", h, SCARD_ATTR_ATR_STRING, 65536);
	}
	CASE("attrib.autoallocate_null") {
		c = context();
		h = connect_to(c, R_T1, SCARD_SHARE_SHARED, SCARD_PROTOCOL_ANY);
		n = SCARD_AUTOALLOCATE;
		rc("", SCardGetAttrib(h, SCARD_ATTR_ATR_STRING, NULL, &n));
	}
	CASE("attrib.autoallocate_unknown") {
		c = context();
		h = connect_to(c, R_T1, SCARD_SHARE_SHARED, SCARD_PROTOCOL_ANY);
		n = SCARD_AUTOALLOCATE;
		allocated = NULL;
		rc("", SCardGetAttrib(h, 0x31234, (LPBYTE)&allocated, &n));
		say(allocated == NULL ? "null" : "allocated");
	}
	CASE("attrib.null_length") {
		c = context();
		h = connect_to(c, R_T1, SCARD_SHARE_SHARED, SCARD_PROTOCOL_ANY);
		rc("", SCardGetAttrib(h, SCARD_ATTR_ATR_STRING, bytes, NULL));
	}
	CASE("attrib.bad") {
		n = 100;
		rc("", SCardGetAttrib(BAD_HANDLE, SCARD_ATTR_ATR_STRING, bytes, &n));
		say("n=%lu", n);
		rc("zero", SCardGetAttrib(0, SCARD_ATTR_ATR_STRING, bytes, &n));
		rc("null length", SCardGetAttrib(BAD_HANDLE, SCARD_ATTR_ATR_STRING, bytes, NULL));
		rc("null", SCardGetAttrib(BAD_HANDLE, SCARD_ATTR_ATR_STRING, NULL, &n));
	}
	CASE("attrib.after_reset") {
		a = actor(PROCESS);
		c = context();
		h = connect_to(c, R_T1, SCARD_SHARE_SHARED, SCARD_PROTOCOL_ANY);
		must("connect", act(a, A_CONNECT, R_T1, SCARD_SHARE_SHARED, SCARD_PROTOCOL_ANY));
		must("reset", act(a, A_RECONNECT, SCARD_SHARE_SHARED, SCARD_PROTOCOL_ANY, SCARD_RESET_CARD));
		attribute("", h, SCARD_ATTR_ATR_STRING, 100);
		attribute("", h, SCARD_ATTR_VENDOR_NAME, 100);
		attribute("", h, SCARD_ATTR_DEVICE_FRIENDLY_NAME_A, 200);
	}
	CASE("attrib.after_removal") {
		c = context();
		h = connect_to(c, R_T1, SCARD_SHARE_SHARED, SCARD_PROTOCOL_ANY);
		ctl("sim %d remove", R_T1);
		wait_state(R_T1, SCARD_STATE_EMPTY, 0);
		attribute("", h, SCARD_ATTR_ATR_STRING, 100);
		attribute("", h, SCARD_ATTR_VENDOR_NAME, 100);
		attribute("", h, SCARD_ATTR_ICC_PRESENCE, 100);
		attribute("", h, SCARD_ATTR_DEVICE_FRIENDLY_NAME_A, 200);
		ctl("sim %d insert", R_T1);
		wait_state(R_T1, SCARD_STATE_PRESENT, 0);
		rc("reconnect", SCardReconnect(h, SCARD_SHARE_SHARED, SCARD_PROTOCOL_ANY, SCARD_LEAVE_CARD, &p));
		attribute("", h, SCARD_ATTR_ATR_STRING, 100);
	}
	CASE("attrib.direct_empty_then_card") {
		ctl("sim %d remove", R_T1);
		wait_state(R_T1, SCARD_STATE_EMPTY, 0);
		c = context();
		h = connect_to(c, R_T1, SCARD_SHARE_DIRECT, 0);
		attribute("", h, SCARD_ATTR_ATR_STRING, 100);
		ctl("sim %d insert", R_T1);
		wait_state(R_T1, SCARD_STATE_PRESENT, 0);
		attribute("", h, SCARD_ATTR_ATR_STRING, 100);
		status("status", h);
		rc("reconnect", SCardReconnect(h, SCARD_SHARE_SHARED, SCARD_PROTOCOL_ANY, SCARD_LEAVE_CARD, &p));
		transmit("", h, SELECT_MF);
	}
	/* SCardSetAttrib. */
	for (size_t j = 0; j < sizeof ids / sizeof *ids; j++) {
		if (ids[j].id == 0x0FB4) /* it would end the reader under pcscd */
			continue;
		CASE("set.%s", ids[j].name) {
			c = context();
			h = connect_to(c, R_T1, SCARD_SHARE_SHARED, SCARD_PROTOCOL_ANY);
			rc("", SCardSetAttrib(h, ids[j].id, (LPCBYTE)"\1", 1));
		}
	}
	CASE("set.null") {
		c = context();
		h = connect_to(c, R_T1, SCARD_SHARE_SHARED, SCARD_PROTOCOL_ANY);
		rc("null", SCardSetAttrib(h, SCARD_ATTR_VENDOR_NAME, NULL, 1));
		rc("zero", SCardSetAttrib(h, SCARD_ATTR_VENDOR_NAME, bytes, 0));
		rc("both", SCardSetAttrib(h, SCARD_ATTR_VENDOR_NAME, NULL, 0));
		rc("264", SCardSetAttrib(h, SCARD_ATTR_VENDOR_NAME, bytes, 264));
		rc("265", SCardSetAttrib(h, SCARD_ATTR_VENDOR_NAME, bytes, 265));
		rc("65536", SCardSetAttrib(h, SCARD_ATTR_VENDOR_NAME, bytes, 65536));
	}
	CASE("set.bad") {
		rc("", SCardSetAttrib(BAD_HANDLE, SCARD_ATTR_VENDOR_NAME, bytes, 1));
		rc("null", SCardSetAttrib(BAD_HANDLE, SCARD_ATTR_VENDOR_NAME, NULL, 1));
		rc("zero", SCardSetAttrib(0, SCARD_ATTR_VENDOR_NAME, bytes, 1));
		rc("too long", SCardSetAttrib(BAD_HANDLE, SCARD_ATTR_VENDOR_NAME, bytes, 265));
	}
}
