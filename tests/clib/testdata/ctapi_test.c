/* SPDX-License-Identifier: BSD-3-Clause
 *
 * CT-API over a mount that keeps its contract, then over one that does not.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <stdint.h>

#include "ctapi.h"
#include "hostile.h"
#include "memory.h"
#include "times.h"

/* The codes in 8 bits, whatever the signedness of char. */
static int init(unsigned ctn, unsigned pn)
{
	return (signed char)CT_init((unsigned short)ctn, (unsigned short)pn);
}

static int closes(unsigned ctn)
{
	return (signed char)CT_close((unsigned short)ctn);
}

struct result {
	int code;
	unsigned char dad, sad;
	unsigned short n;
	unsigned sw;
	unsigned char data[65535];
};

/* exchange takes buffers of exactly these lengths. */
static struct result *exchange(unsigned ctn, unsigned dad, const void *command, unsigned ntx, unsigned room)
{
	static struct result r;
	unsigned char *tx = sized(ntx), *rx = sized(room);

	memcpy(tx, command, ntx);
	r.dad = (unsigned char)dad;
	r.sad = CT_HOST;
	r.n = (unsigned short)room;
	r.code = (signed char)CT_data((unsigned short)ctn, &r.dad, &r.sad, (unsigned short)ntx, tx, &r.n, rx);
	CHECK(r.n <= room, "%u of %u", r.n, room);
	CHECK(r.code == OK ? r.n >= 2 : r.n == 0, "code %d with %u bytes", r.code, r.n);
	r.sw = r.n >= 2 ? (unsigned)rx[r.n - 2] << 8 | rx[r.n - 1] : 0;
	memcpy(r.data, rx, r.n);
	free(tx);
	free(rx);
	return &r;
}

static const unsigned char select_mf[] = {0x00, 0xA4, 0x00, 0x0C, 0x02, 0x3F, 0x00};
static const unsigned char request[] = {0x20, 0x12, 0x01, 0x01, 0x00};
static const unsigned char reset_ct[] = {0x20, 0x11, 0x00, 0x00};

static void begin(const char *name)
{
	check_test = name;
	fake_reset();
}

static void end(void)
{
	EQUAL(fake_open_files(), 0);
}

static void sw(unsigned ctn, unsigned dad, const void *command, unsigned n, unsigned want, unsigned unit)
{
	struct result *r = exchange(ctn, dad, command, n, 258);

	EQUAL(r->code, OK);
	EQUAL(r->sw, want);
	EQUAL(r->sad, unit);
	EQUAL(r->dad, CT_HOST);
}

static void test_units(void)
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

static void test_busy(void)
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

/* ---- signals -------------------------------------------------------------------- */

/* Long enough for any number of interrupts on any machine. */
enum { PATIENT_MS = 120000 };

/* EINTR never counts: "once a command was taken, only time ends the wait". */
static void test_interrupted(void)
{
	static unsigned char big[17000] = {0x80, 0xEE};

	for (int at = 1; at <= 4; at++) {
		struct result *r;

		begin("a thousand interrupts at one call");
		test_answer_ms = PATIENT_MS;
		fake_arrive(0, 1, false);
		fake_insert(0);
		fake_fault((struct fault){.shape = ERRNO, .error = EINTR, .at = at <= 2 ? at : 1000000, .times = 1000});
		EQUAL(init(1, 0), OK); /* open, ioctl */
		if (at == 3) /* the read of the terminal's answer, after the write */
			fake_fault((struct fault){.shape = ERRNO, .error = EINTR, .at = 2, .times = 1000});
		sw(1, CT_CT, reset_ct, 4, 0x9000, CT_CT);
		if (at == 4) /* the ioctl: not sent until it says otherwise */
			fake_fault((struct fault){.shape = ERRNO, .error = EINTR, .at = 1, .times = 1000});
		sw(1, CT_ICC1, select_mf, 7, 0x9000, CT_ICC1);
		/* A long one goes by write and read: interrupts between two reads. */
		for (unsigned i = 5; i < sizeof big; i++)
			big[i] = (unsigned char)(i * 7);
		fake_fault((struct fault){.shape = ERRNO, .error = EINTR, .at = at, .times = at == 1 ? 0 : 1000});
		r = exchange(1, CT_ICC1, big, sizeof big, 65535);
		if (at == 1) { /* the write: whether it was sent is not known */
			EQUAL(r->code, ERR_HTSI);
			EQUAL(exchange(1, CT_ICC1, select_mf, 7, 258)->code, ERR_HTSI);
		} else {
			EQUAL(r->code, OK);
			EQUAL(r->n, sizeof big + 2);
			CHECK(memcmp(r->data, big, sizeof big) == 0, "%d", r->data[0]);
			EQUAL(fake_count(0, big, sizeof big), 1);
			EQUAL(fake_count(0, select_mf, 7), 1);
		}
		EQUAL(closes(1), OK);
		end();
	}
}

/* What was given up closes the channel: the next command never reads the answer
 * before it. */
static void test_given_up(void)
{
	static const int errors[] = {EINTR, EAGAIN};
	static unsigned char big[17000] = {0x80, 0xEE};

	for (int i = 0; i < 4; i++) {
		const void *command = i < 2 ? (const void *)reset_ct : big;
		unsigned n = i < 2 ? sizeof reset_ct : sizeof big, dad = i < 2 ? CT_CT : CT_ICC1;

		begin("an answer that does not come");
		fake_arrive(0, 1, false);
		fake_insert(0);
		EQUAL(init(1, 0), OK);
		fake_fault((struct fault){.shape = ERRNO, .error = errors[i % 2], .at = 2, .from_then_on = true});
		EQUAL(exchange(1, dad, command, n, 258)->code, ERR_HTSI);
		EQUAL(fake_count(0, command, n), 1);
		fake_fault((struct fault){NONE});
		EQUAL(exchange(1, CT_CT, request, 5, 258)->code, ERR_HTSI);
		EQUAL(exchange(1, CT_ICC1, select_mf, 7, 258)->code, ERR_HTSI);
		EQUAL(fake_commands(0), 1);
		EQUAL(fake_open_files(), 0);
		EQUAL(closes(1), OK);
		EQUAL(init(1, 0), OK);
		sw(1, CT_CT, reset_ct, 4, 0x9000, CT_CT);
		EQUAL(closes(1), OK);
		end();
	}

	begin("EAGAIN for a while");
	test_answer_ms = PATIENT_MS;
	fake_arrive(0, 1, false);
	EQUAL(init(1, 0), OK);
	fake_fault((struct fault){.shape = ERRNO, .error = EAGAIN, .at = 2, .times = 5});
	sw(1, CT_CT, reset_ct, 4, 0x9000, CT_CT);
	EQUAL(closes(1), OK);
	end();

	begin("half an answer, then an error");
	fake_arrive(0, 1, false);
	fake_insert(0);
	EQUAL(init(1, 0), OK);
	fake_fault((struct fault){.shape = ERRNO, .error = EIO, .at = 3});
	EQUAL(exchange(1, CT_ICC1, big, sizeof big, 258)->code, ERR_HTSI);
	EQUAL(exchange(1, CT_ICC1, select_mf, 7, 258)->code, ERR_HTSI);
	EQUAL(closes(1), OK);
	end();

	begin("an error in the answer's place is the command's");
	fake_arrive(0, 1, false);
	EQUAL(init(1, 0), OK);
	fake_fault((struct fault){.shape = ERRNO, .error = EIO, .at = 2});
	EQUAL(exchange(1, CT_CT, reset_ct, 4, 258)->code, ERR_TRANS);
	sw(1, CT_CT, reset_ct, 4, 0x9000, CT_CT);
	EQUAL(closes(1), OK);
	end();
}

/* ---- fork ------------------------------------------------------------------------ */

static void child_again(void)
{
	EQUAL(fake_open_files(), 0);
	EQUAL(closes(1), ERR_CT);
	EQUAL(closes(2), ERR_CT);
}

static void child(void)
{
	EQUAL(fake_open_files(), 0);
	EQUAL(exchange(1, CT_ICC1, select_mf, 7, 258)->code, ERR_CT);
	EQUAL(closes(1), ERR_CT);
	EQUAL(strcmp(fake_power(0), ""), 0);
	/* It may open its own. */
	EQUAL(init(2, 0), OK);
	sw(2, CT_ICC1, select_mf, 7, 0x9000, CT_ICC1);
	in_child(child_again);
	sw(2, CT_ICC1, select_mf, 7, 0x9000, CT_ICC1);
	EQUAL(closes(2), OK);
}

static void test_fork(void)
{
	begin("a child has nothing of its parent's");
	fake_arrive(0, 1, false);
	fake_insert(0);
	EQUAL(init(1, 0), OK);
	sw(1, CT_CT, request, 5, 0x9000, CT_CT);
	in_child(child);
	sw(1, CT_ICC1, select_mf, 7, 0x9000, CT_ICC1);
	EQUAL(strcmp(fake_power(0), ""), 0);
	EQUAL(closes(1), OK);
	EQUAL(strcmp(fake_power(0), "close"), 0);
	end();
}

/* ---- PINs ------------------------------------------------------------------------- */

static void test_wiped(void)
{
	static const int errors[] = {0, EIO, EINTR, EBUSY};

	begin("a PIN stays nowhere in the process, however its command ends");
	check_scan();
	fake_arrive(0, 1, false);
	fake_insert(0);
	EQUAL(init(1, 0), OK);
	for (int length = 0; length < 2; length++)
		for (size_t i = 0; i < sizeof errors / sizeof errors[0]; i++) {
			unsigned n = length == 0 ? 13 : 17000;
			unsigned char *tx = sized(n), rx[16];
			unsigned char dad = CT_ICC1, sad = CT_HOST;
			unsigned short room = sizeof rx;

			memcpy(tx, "\x80\xEE\x00\x01\x08", 5); /* it is echoed, too */
			pin_into(tx + n - 8);
			if (errors[i] != 0)
				fake_fault((struct fault){.shape = ERRNO, .error = errors[i], .at = length + 1, .from_then_on = true});
			CT_data(1, &dad, &sad, (unsigned short)n, tx, &room, rx);
			fake_fault((struct fault){NONE});
			explicit_bzero(tx, n);
			explicit_bzero(rx, sizeof rx);
			free(tx);
			fake_forget_answers();
			EQUAL(pins_in_memory(), 0);
			closes(1);
			EQUAL(init(1, 0), OK);
		}
	EQUAL(closes(1), OK);
	end();
}

static void test_parameters(void)
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

static void test_unplugged(void)
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
	EQUAL(strcmp(fake_power(0), "close"), 0); /* of the second alone */
	end();
}

static void test_lengths(void)
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
		r = exchange(1, CT_ICC1, big, n, n + 1); /* one too small */
		EQUAL(r->code, ERR_MEMORY);
		EQUAL(fake_count(0, big, n), 2);
	}
	sw(1, CT_ICC1, select_mf, 7, 0x9000, CT_ICC1);
	/* SW1 SW2 alone fill the least buffer. */
	EQUAL(exchange(1, CT_ICC1, select_mf, 7, 2)->n, 2);
	EQUAL(exchange(1, CT_CT, reset_ct, 4, 2)->n, 2);
	/* The longest answer does not fit any buffer here; the next is its own. */
	EQUAL(exchange(1, CT_ICC1, "\x80\xEF\x00\x00\x00", 5, 65535)->code, ERR_MEMORY);
	sw(1, CT_ICC1, select_mf, 7, 0x9000, CT_ICC1);
	/* One longer there is not. */
	EQUAL(exchange(1, CT_ICC1, "\x80\xEF\x01\x00\x00", 5, 65535)->code, ERR_HTSI);
	EQUAL(exchange(1, CT_ICC1, select_mf, 7, 258)->code, ERR_HTSI);
	EQUAL(closes(1), OK);
	end();

	/* Without SW1 SW2, of the card and of the terminal. */
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

static void *hammer(void *arg)
{
	unsigned char rx[258], dad, sad;
	unsigned ctn = (unsigned)(uintptr_t)arg;

	for (int i = 0; i < 40; i++) {
		unsigned short n = sizeof rx;

		CT_init((unsigned short)ctn, (unsigned short)(ctn & 1));
		dad = (unsigned char)(i % 3);
		sad = 2;
		CT_data((unsigned short)ctn, &dad, &sad, 7, (unsigned char *)(uintptr_t)select_mf, &n, rx);
		if (i % 4 == 0)
			CT_close((unsigned short)ctn);
	}
	CT_close((unsigned short)ctn);
	return NULL;
}

static void test_threads(void)
{
	pthread_t t[8];

	begin("threads");
	fake_arrive(0, 1, false);
	fake_arrive(1, 1, false);
	fake_insert(0);
	fake_insert(1);
	for (int i = 0; i < 8; i++)
		pthread_create(&t[i], NULL, hammer, (void *)(uintptr_t)(i / 2));
	for (int i = 0; i < 8; i++)
		pthread_join(t[i], NULL);
	end();
}

/* ---- hostile ------------------------------------------------------------------------ */

static void hostile_exchange(unsigned dad, const void *command, unsigned n, unsigned room)
{
	struct result *r = exchange(1, dad, command, n, room);

	CHECK(r->code == OK || r->code == ERR_INVALID || r->code == ERR_CT || r->code == ERR_TRANS ||
	      r->code == ERR_MEMORY || r->code == ERR_HOST || r->code == ERR_HTSI, "%d", r->code);
	CHECK(fake_count(0, command, n) <= 1, "sent %d times", fake_count(0, command, n));
}

static void scenario(void)
{
	static const unsigned char eject[] = {0x20, 0x15, 0x01, 0x00};
	static const unsigned char verify[] = {0x00, 0x20, 0x00, 0x01, 0x04, 0x31, 0x32, 0x33, 0x34};
	static const unsigned char get[] = {0x80, 0xEC, 0x01, 0x2C, 0x00};
	static unsigned char big[17000] = {0x00, 0xD6};

	fake_arrive(0, 2, false);
	fake_insert(0);
	init(1, 0);
	hostile_exchange(CT_CT, request, 5, 258);
	hostile_exchange(CT_ICC1, verify, 9, 258);
	hostile_exchange(CT_ICC1, get, 5, 302);
	hostile_exchange(CT_ICC1, big, sizeof big, 258);
	hostile_exchange(CT_ICC2, select_mf, 7, 258);
	hostile_exchange(CT_CT, eject, 4, 258);
	hostile_exchange(CT_ICC1, select_mf, 7, 258);
	closes(1);
}

static void recovered(void)
{
	closes(1);
	EQUAL(init(1, 0), OK);
	sw(1, CT_CT, reset_ct, 4, 0x9000, CT_CT);
	sw(1, CT_ICC1, request, 5, 0x9000, CT_ICC1);
	EQUAL(closes(1), OK);
}

int main(void)
{
	setenv("CARDFS_MOUNT", "/fake/", 1);
	test_units();
	test_busy();
	test_interrupted();
	test_given_up();
	test_fork();
	test_wiped();
	test_parameters();
	test_unplugged();
	test_lengths();
	test_threads();
	hostile(scenario, recovered, stride());
	fake_reset();
	printf("ok: %d runs\n", hostile_runs);
	return 0;
}
