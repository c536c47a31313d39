/* SPDX-License-Identifier: BSD-3-Clause
 *
 * process.c - signals, fork, PINs in memory, threads
 */
#define _GNU_SOURCE
#include "ctapi_test.h"

/* Long enough for any number of interrupts on any machine. */
enum { PATIENT_MS = 120000 };

/* EINTR never counts: "once a command was taken, only time ends the wait". */
void test_interrupted(void)
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
		if (at == 4) /* the ioctl: not sent unless the fault says otherwise */
			fake_fault((struct fault){.shape = ERRNO, .error = EINTR, .at = 1, .times = 1000});
		sw(1, CT_ICC1, select_mf, 7, 0x9000, CT_ICC1);
		/* A long command goes by write and read, with interrupts between two reads. */
		for (unsigned i = 5; i < sizeof big; i++)
			big[i] = (unsigned char)(i * 7);
		fake_fault((struct fault){.shape = ERRNO, .error = EINTR, .at = at, .times = at == 1 ? 0 : 1000});
		r = exchange(1, CT_ICC1, big, sizeof big, 65535);
		if (at == 1) { /* the write: nobody knows whether it was sent */
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

/* An exchange that was given up closes the channel: the next command never reads
 * the answer to the one before. */
void test_given_up(void)
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
	/* The child may open its own. */
	EQUAL(init(2, 0), OK);
	sw(2, CT_ICC1, select_mf, 7, 0x9000, CT_ICC1);
	in_child(child_again);
	sw(2, CT_ICC1, select_mf, 7, 0x9000, CT_ICC1);
	EQUAL(closes(2), OK);
}

void test_fork(void)
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

void test_wiped(void)
{
	static const int errors[] = {0, EIO, EINTR, EBUSY};

	begin("a PIN stays nowhere in the process, however its command ends");
	check_scan();
	fake_arrive(0, 1, false);
	fake_insert(0);
	EQUAL(init(1, 0), OK);
	for (int kind = 0; kind < 3; kind++) /* short, long, an answer longer than its command */
		for (size_t i = 0; i < sizeof errors / sizeof errors[0]; i++) {
			unsigned n = kind == 1 ? 17000 : 13;
			unsigned char *tx = sized(n), rx[200];
			unsigned char dad = CT_ICC1, sad = CT_HOST;
			unsigned short room = kind == 2 ? sizeof rx : 16;

			memcpy(tx, kind == 2 ? "\x80\xED\x00\x01\x08" : "\x80\xEE\x00\x01\x08", 5); /* it is echoed, too */
			pin_into(tx + n - 8);
			if (errors[i] != 0)
				fake_fault((struct fault){.shape = ERRNO, .error = errors[i], .at = kind == 1 ? 2 : 1, .from_then_on = true});
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

void test_threads(void)
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
