/* SPDX-License-Identifier: BSD-3-Clause
 *
 * sizes.c - texts, ATRs and answers to the last byte
 */
#define _GNU_SOURCE
#include "ifd_test.h"

void test_text(void)
{
	static const char text[] = "state powered\nserialx 1\nserial 4711\nempty \nbare\nlast 12345";
	struct {
		const char *key;
		size_t size;
		const char *want; /* NULL: there is no such value, or no room */
	} values[] = {
		{"serial", 5, "4711"}, {"serial", 4, NULL}, {"serial", 64, "4711"}, {"serial", 1, NULL},
		{"state", 8, "powered"}, {"state", 7, NULL}, {"last", 6, "12345"}, {"last", 5, NULL},
		{"empty", 1, ""}, {"bare", 64, NULL}, {"seria", 64, NULL}, {"powered", 64, NULL}, {"", 64, NULL},
	};
	struct {
		const char *text;
		size_t size;
		int want;
	} hex[] = {
		{"", 0, 0}, {" \n", 0, 0}, {"3B", 1, 1}, {"3B", 0, -EINVAL}, {"3B B7", 2, 2}, {"3B B7", 1, -EINVAL},
		{"3bb7\n", 2, 2}, {"3B B", 2, -EINVAL}, {"3B BG", 2, -EINVAL}, {"3B, B7", 2, -EINVAL}, {"@A", 2, -EINVAL},
		{"0/", 2, -EINVAL}, {"0:", 2, -EINVAL}, {"0`", 2, -EINVAL}, {"0f 9F", 2, 2},
	};

	begin("texts to the last byte");
	for (size_t i = 0; i < sizeof values / sizeof values[0]; i++) {
		char *value = (char *)sized(values[i].size);
		bool found = cf_value(text, values[i].key, value, values[i].size);

		CHECK(found == (values[i].want != NULL), "%s in %zu", values[i].key, values[i].size);
		if (found)
			CHECK(strcmp(value, values[i].want) == 0, "%s", value);
		free(value);
	}
	for (size_t i = 0; i < sizeof hex / sizeof hex[0]; i++) {
		uint8_t *bytes = sized(hex[i].size);

		CHECK(cf_hex(hex[i].text, bytes, hex[i].size) == hex[i].want, "%s in %zu", hex[i].text, hex[i].size);
		if (hex[i].want == 2)
			CHECK((bytes[0] == 0x3B && bytes[1] == 0xB7) || (bytes[0] == 0x0F && bytes[1] == 0x9F), "%s", hex[i].text);
		free(bytes);
	}
	/* A file to the size of the buffer and beyond: cut, and ended by NUL. */
	fake_arrive(0, 1, false);
	fake_insert(0);
	fake_atr("0123456789"); /* and a newline */
	for (size_t size = 1; size < 15; size++) {
		char *t = (char *)sized(size);

		EQUAL(cf_read(AT_FDCWD, "/fake/0/atr", t, size), size <= 11 ? size - 1 : 11);
		CHECK(strncmp(t, "0123456789\n", size - 1) == 0 && strlen(t) < size, "%s", t);
		free(t);
	}
	end();
}

/* "An ATR is TS and 32 characters at most" (ISO/IEC 7816-3:2006 8.1). */
void test_atr_sizes(void)
{
	char text[6000] = "";
	UCHAR rx[33];

	for (int length = 0; length <= 34; length++) {
		UCHAR *atr = sized(33);
		DWORD n = 33, want = length <= 33 ? (DWORD)length : 0;

		begin("the length of an ATR");
		fake_arrive(0, 1, false);
		fake_insert(0);
		fake_atr(text);
		EQUAL(create(0, "cardfs:/fake/0"), IFD_SUCCESS);
		EQUAL(IFDHICCPresence(0), IFD_ICC_PRESENT);
		EQUAL(IFDHPowerICC(0, IFD_POWER_UP, atr, &n), length <= 33 ? IFD_SUCCESS : IFD_COMMUNICATION_ERROR);
		EQUAL(n, want);
		for (DWORD i = 0; i < n; i++)
			EQUAL(atr[i], 0x3F);
		n = want;
		EQUAL(IFDHGetCapabilities(0, TAG_IFD_ATR, &n, rx), IFD_SUCCESS);
		EQUAL(n, want);
		free(atr);
		if (length == 33) { /* with less room than pcscd gives */
			atr = sized(32);
			n = 32;
			EQUAL(IFDHPowerICC(0, IFD_POWER_UP, atr, &n), IFD_SUCCESS);
			EQUAL(n, 32);
			free(atr);
		}
		EQUAL(IFDHCloseChannel(0), IFD_SUCCESS);
		end();
		strcat(text, "3F ");
	}
	begin("no ATR at all");
	memset(text, ' ', 5000);
	strcpy(text + 5000, "3F");
	fake_arrive(0, 1, false);
	fake_insert(0);
	fake_atr(text);
	EQUAL(create(0, "cardfs:/fake/0"), IFD_SUCCESS);
	for (int i = 0; i < 3; i++) {
		DWORD n = 33;

		strcpy(text, i == 0 ? "3F 0" : i == 1 ? "3F 0x" : "3F\1");
		EQUAL(IFDHPowerICC(0, IFD_POWER_UP, rx, &n), IFD_COMMUNICATION_ERROR);
		EQUAL(n, 0);
	}
	EQUAL(IFDHCloseChannel(0), IFD_SUCCESS);
	end();
}

/* An answer has SW1 SW2 and at most 65,536 bytes before it. */
void test_answer_sizes(void)
{
	UCHAR *rx = sized(65548);

	for (int i = 0; i < 4; i++) {
		static const UCHAR gets[][5] = {{0x80, 0xE1, 0}, {0x80, 0xE1, 1}, {0x80, 0xE1, 2}, {0x80, 0xEF, 1}};
		bool fits = i == 2;
		DWORD n = 65548;

		begin("too short or too long an answer");
		fake_arrive(0, 1, false);
		fake_insert(0);
		EQUAL(create(0, "cardfs:/fake/0"), IFD_SUCCESS);
		up(0);
		EQUAL(transmit(0, gets[i], 5, rx, &n), fits ? IFD_SUCCESS : IFD_COMMUNICATION_ERROR);
		EQUAL(n, fits ? 2 : 0);
		n = 65548;
		EQUAL(transmit(0, select_mf, sizeof select_mf, rx, &n), fits ? IFD_SUCCESS : IFD_COMMUNICATION_ERROR);
		power_up(0);
		works(0);
		n = 65548; /* the longest */
		EQUAL(transmit(0, (const UCHAR *)"\x80\xEF\x00\x00\x00", 5, rx, &n), IFD_SUCCESS);
		EQUAL(n, 65538);
		n = 65537;
		EQUAL(transmit(0, (const UCHAR *)"\x80\xEF\x00\x00\x00", 5, rx, &n), IFD_ERROR_INSUFFICIENT_BUFFER);
		works(0);
		EQUAL(IFDHCloseChannel(0), IFD_SUCCESS);
		end();
	}
	free(rx);
}
