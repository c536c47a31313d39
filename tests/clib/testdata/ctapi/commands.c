/* SPDX-License-Identifier: BSD-3-Clause
 *
 * commands.c - commands to their units, parameters and lengths
 */
#define _GNU_SOURCE
#include "ctapi_test.h"

void test_units(void)
{
	begin("each command to its unit, each answer from it; CT_close ends the conversation");
	fake_arrive(0, 2, false);
	EQUAL(init(7, 0), OK);
	sw(7, CT_ICC1, select_mf, 7, 0x64A1, CT_CT);
	EQUAL(fake_commands(0), 0);
	fake_insert(0);
	fake_insert(1);
	sw(7, CT_CT, request, 5, 0x9000, CT_CT);
	EQUAL(fake_count(0, request, 5), 1);
	sw(7, CT_ICC1, select_mf, 7, 0x9000, CT_ICC1);
	EQUAL(fake_count(0, select_mf, 7), 1);
	sw(7, CT_ICC2, select_mf, 7, 0x9000, CT_ICC2);
	sw(7, 3, select_mf, 7, 0x9000, 3);
	EQUAL(fake_count(1, select_mf, 7), 2);
	EQUAL(init(8, 1), OK);
	EQUAL(strcmp(fake_power(0), ""), 0);
	EQUAL(closes(7), OK);
	EQUAL(strcmp(fake_power(0), "close"), 0);
	EQUAL(strcmp(fake_power(1), ""), 0);
	EQUAL(closes(8), OK);
	EQUAL(strcmp(fake_power(1), "close"), 0);
	end();
}

void test_busy(void)
{
	begin("another program holds the transaction: waited for a while, and nothing is sent");
	fake_arrive(0, 1, false);
	fake_insert(0);
	EQUAL(init(1, 0), OK);
	fake_foreign_lock(0, true);
	EQUAL(exchange(1, CT_ICC1, select_mf, 7, 258)->code, ERR_CT);
	EQUAL(fake_commands(0), 0);
	fake_foreign_lock(0, false);
	sw(1, CT_ICC1, select_mf, 7, 0x9000, CT_ICC1);
	EQUAL(closes(1), OK);
	end();
}

void test_parameters(void)
{
	unsigned char dad = 1, sad = 2, buf[300] = {0x20, 0x13, 0x00, 0x46, 0x00};
	unsigned short n = sizeof buf;

	begin("parameters");
	fake_arrive(0, 1, false);
	fake_arrive(1, 1, false);
	fake_insert(0);
	EQUAL(init(1, 2), ERR_INVALID);     /* no such port */
	EQUAL(init(1, 65535), ERR_INVALID);
	EQUAL(closes(1), ERR_CT);           /* not open */
	EQUAL(exchange(1, 1, buf, 5, 258)->code, ERR_CT);
	EQUAL(init(1, 0), OK);
	EQUAL(init(1, 1), ERR_CT);          /* in use: not shadowed */
	EQUAL(init(65535, 1), OK);
	EQUAL((signed char)CT_data(1, NULL, &sad, 5, buf, &n, buf), ERR_INVALID);
	EQUAL((signed char)CT_data(1, &dad, NULL, 5, buf, &n, buf), ERR_INVALID);
	EQUAL((signed char)CT_data(1, &dad, &sad, 5, NULL, &n, buf), ERR_INVALID);
	EQUAL(n, 0);
	EQUAL((signed char)CT_data(1, &dad, &sad, 5, buf, NULL, buf), ERR_INVALID);
	EQUAL((signed char)CT_data(1, &dad, &sad, 5, buf, &n, NULL), ERR_INVALID);
	EQUAL(exchange(1, 1, buf, 3, 258)->code, ERR_INVALID); /* shorter than a header */
	EQUAL(exchange(1, 1, buf, 0, 258)->code, ERR_INVALID);
	EQUAL(exchange(1, 1, buf, 5, 1)->code, ERR_MEMORY);    /* no room for SW1 SW2 */
	EQUAL(exchange(1, 1, buf, 5, 0)->code, ERR_MEMORY);
	for (unsigned unit = 2; unit < 256; unit++) /* one slot */
		EQUAL(exchange(1, unit, select_mf, 7, 258)->code, ERR_INVALID);
	EQUAL(fake_commands(0), 0);
	/* From the remote host, to the remote host. */
	dad = 0;
	sad = 5;
	n = 258;
	memcpy(buf, select_mf, 7);
	EQUAL((signed char)CT_data(1, &dad, &sad, 7, buf, &n, buf), OK); /* in place, too */
	EQUAL(dad, 5);
	EQUAL(sad, CT_ICC1);
	EQUAL(n, 2);
	EQUAL(closes(1), OK);
	EQUAL(closes(1), ERR_CT);
	EQUAL(closes(65535), OK);
	end();

	begin("nothing is mounted, or the daemon died");
	fake_daemon(false);
	EQUAL(init(1, 0), ERR_HOST);
	fake_daemon(true);
	fake_arrive(0, 1, false);
	EQUAL(init(1, 0), OK);
	fake_daemon(false);
	EQUAL(exchange(1, CT_CT, request, 5, 258)->code, ERR_HTSI);
	EQUAL(exchange(1, CT_ICC1, select_mf, 7, 258)->code, ERR_HTSI);
	EQUAL(closes(1), OK);
	end();
}

void test_unplugged(void)
{
	begin("the reader leaves: an error until CT_close, even if another takes its number");
	fake_arrive(0, 1, false);
	fake_insert(0);
	EQUAL(init(1, 0), OK);
	sw(1, CT_ICC1, select_mf, 7, 0x9000, CT_ICC1);
	fake_leave(0);
	EQUAL(exchange(1, CT_ICC1, select_mf, 7, 258)->code, ERR_TRANS);
	fake_arrive(0, 1, false);
	fake_insert(0);
	EQUAL(exchange(1, CT_ICC1, select_mf, 7, 258)->code, ERR_TRANS);
	EQUAL(exchange(1, CT_CT, request, 5, 258)->code, ERR_TRANS);
	EQUAL(fake_commands(0), 0);
	EQUAL(closes(1), OK);
	EQUAL(init(1, 0), OK);
	sw(1, CT_ICC1, select_mf, 7, 0x9000, CT_ICC1);
	EQUAL(closes(1), OK);
	EQUAL(strcmp(fake_power(0), "close"), 0); /* of the second slot alone */
	end();
}

void test_lengths(void)
{
	static unsigned char big[65535] = {0x80, 0xEE};

	begin("lengths");
	fake_arrive(0, 1, false);
	fake_insert(0);
	EQUAL(init(1, 0), OK);
	for (unsigned n = 4; n <= 65533; n = n < 300 ? n + 1 : n * 2) {
		struct result *r;

		for (unsigned i = 5; i < n; i++)
			big[i] = (unsigned char)(n + i);
		r = exchange(1, CT_ICC1, big, n, n + 2);
		EQUAL(r->code, OK);
		EQUAL(r->n, n + 2);
		CHECK(memcmp(r->data, big, n) == 0, "%u", n);
		r = exchange(1, CT_ICC1, big, n, n + 1); /* one byte too small */
		EQUAL(r->code, ERR_MEMORY);
		EQUAL(fake_count(0, big, n), 2);
	}
	sw(1, CT_ICC1, select_mf, 7, 0x9000, CT_ICC1);
	/* SW1 SW2 alone fill the least buffer. */
	EQUAL(exchange(1, CT_ICC1, select_mf, 7, 2)->n, 2);
	EQUAL(exchange(1, CT_CT, reset_ct, 4, 2)->n, 2);
	/* The longest answer does not fit any buffer here. The next command gets its own
	 * answer. */
	EQUAL(exchange(1, CT_ICC1, "\x80\xEF\x00\x00\x00", 5, 65535)->code, ERR_MEMORY);
	sw(1, CT_ICC1, select_mf, 7, 0x9000, CT_ICC1);
	/* A longer answer does not exist. */
	EQUAL(exchange(1, CT_ICC1, "\x80\xEF\x01\x00\x00", 5, 65535)->code, ERR_HTSI);
	EQUAL(exchange(1, CT_ICC1, select_mf, 7, 258)->code, ERR_HTSI);
	EQUAL(closes(1), OK);
	end();

	/* Answers without SW1 SW2, from the card and from the terminal. */
	for (unsigned dad = CT_ICC1; dad <= CT_CT; dad++)
		for (unsigned char n = 0; n < 2; n++) {
			unsigned char bare[] = {0x80, 0xE1, n, 0x00, 0x00};

			begin("no SW1 SW2");
			fake_arrive(0, 1, false);
			fake_insert(0);
			EQUAL(init(1, 0), OK);
			EQUAL(exchange(1, dad, bare, 5, 258)->code, ERR_HTSI);
			EQUAL(exchange(1, dad, select_mf, 7, 258)->code, ERR_HTSI);
			EQUAL(fake_commands(0), 1);
			EQUAL(closes(1), OK);
			end();
		}
}

/* ctapi.h: what each error is for. */
void test_codes(void)
{
	static const struct {
		int error, code;
	} table[] = {
		{EINVAL, ERR_INVALID}, {ENOMEM, ERR_MEMORY}, {EBUSY, ERR_CT}, {EAGAIN, ERR_CT}, {ENOBUFS, ERR_CT},
		{ENODEV, ERR_TRANS}, {ENOMEDIUM, ERR_TRANS}, {EIO, ERR_TRANS}, {EPROTO, ERR_TRANS},
		{ETIMEDOUT, ERR_TRANS}, {ESTALE, ERR_TRANS}, {ENOTCONN, ERR_HTSI}, {ECONNABORTED, ERR_HTSI},
		{ENOENT, ERR_HTSI}, {ENOTTY, ERR_HTSI}, {EOPNOTSUPP, ERR_HTSI}, {EPERM, ERR_HOST},
	};

	begin("the code of each errno");
	fake_arrive(0, 1, false);
	fake_insert(0);
	EQUAL(init(1, 0), OK);
	for (size_t i = 0; i < sizeof table / sizeof table[0]; i++) {
		fake_fault((struct fault){.shape = ERRNO, .error = table[i].error, .at = 1, .from_then_on = true});
		CHECK(exchange(1, CT_ICC1, select_mf, 7, 258)->code == table[i].code, "errno %d", table[i].error);
	}
	fake_fault((struct fault){NONE});
	EQUAL(fake_commands(0), 0);
	sw(1, CT_ICC1, select_mf, 7, 0x9000, CT_ICC1);
	EQUAL(closes(1), OK);
	end();
}
