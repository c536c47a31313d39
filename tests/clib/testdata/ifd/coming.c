/* SPDX-License-Identifier: BSD-3-Clause
 *
 * coming.c - insertion and removal: what pcscd is to see
 */
#define _GNU_SOURCE
#include "ifd_test.h"

void test_coming_and_going(void)
{
	struct pcscd p;

	begin("a reader absent at the start, its card, its leaving and coming back");
	pcscd_start(&p, 0, "cardfs:/fake/0");
	fake_arrive(0, 1, false);
	fake_insert(0);
	settled(&p, 1, 0);
	works(0);
	fake_remove(0);
	settled(&p, 1, 1);
	fake_insert(0);
	settled(&p, 2, 1);
	fake_leave(0);
	settled(&p, 2, 2);
	fake_arrive(0, 1, true);
	fake_ready(0);
	fake_insert(0);
	settled(&p, 3, 2);
	works(0);
	pcscd_end(&p);
	end();
}

void test_quick_swap(void)
{
	struct pcscd p;

	/* pcscd's rule: a card removed and inserted between polls must be shown
	 * as absent at least once. */
	begin("a card changed too fast to see");
	fake_arrive(0, 1, false);
	fake_insert(0);
	pcscd_start(&p, 0, "cardfs:/fake/0");
	settled(&p, 1, 0);
	for (int i = 1; i <= 50; i++) {
		fake_followed();
		fake_swap(0);
		settled(&p, 1 + i, i);
		works(0);
	}
	pcscd_end(&p);
	end();
}

void test_daemon(void)
{
	struct pcscd p;

	begin("the daemon dies and is started again");
	fake_arrive(0, 1, false);
	fake_insert(0);
	pcscd_start(&p, 0x30000, "cardfs:/fake/by-id/reader-0");
	settled(&p, 1, 0);
	for (int i = 1; i <= 3; i++) {
		fake_daemon(false);
		settled(&p, i, i);
		fake_daemon(true);
		fake_arrive(0, 1, false);
		fake_insert(0);
		settled(&p, i + 1, i);
		works(0x30000);
	}
	pcscd_end(&p);
	end();
}

void test_lost_events(void)
{
	struct pcscd p;
	UCHAR rx[258];
	DWORD n = sizeof rx;

	begin("what is no event is none");
	fake_arrive(0, 1, false);
	fake_insert(0);
	pcscd_start(&p, 0, "cardfs:/fake/0");
	settled(&p, 1, 0);
	fake_line("this is 0 no event");
	fake_line("99 0");
	fake_line("99 0 hopped");
	fake_line("99 4294967295 removed");
	fake_line("99 77 inserted");
	fake_line("99 1 removed");
	fake_remove(0);
	settled(&p, 1, 1);
	/* "A slow reader is told how many it lost (lost=N)": the slot is looked at. */
	fake_insert(0);
	settled(&p, 2, 1);
	fake_followed();
	fake_remove_unseen(0);
	fake_line("99 - lost=12");
	settled(&p, 2, 2);
	pcscd_end(&p);
	end();

	/* The longest line that is read, and longer ones, behind which the next begins
	 * anew: as if they were lost. */
	for (int length = 1020; length <= 1030; length++) {
		char line[2000];

		begin("long lines");
		fake_arrive(0, 1, false);
		fake_insert(0);
		pcscd_start(&p, 0, "cardfs:/fake/0");
		settled(&p, 1, 0);
		sprintf(line, "99 0 hopped %0*d", length - 12, 0);
		EQUAL(strlen(line), length);
		/* A look that comes before the events it has seen would count them twice. */
		fake_followed();
		fake_line(line);
		fake_followed();
		fake_remove(0);
		settled(&p, 1, 1);
		fake_insert(0);
		settled(&p, 2, 1);
		fake_followed();
		fake_remove_unseen(0);
		if (length < 1024)
			sprintf(line, "99 0 removed %0*d", length - 13, 0);
		fake_line(line);
		settled(&p, 2, 2);
		pcscd_end(&p);
		end();
	}

	begin("a removal that only a command tells of");
	fake_arrive(0, 1, false);
	fake_insert(0);
	pcscd_start(&p, 0, "cardfs:/fake/0");
	settled(&p, 1, 0);
	fake_followed();
	fake_swap(0); /* all earlier events have been read, then */
	settled(&p, 2, 1);
	fake_remove_unseen(0);
	EQUAL(transmit(0, select_mf, sizeof select_mf, rx, &n), IFD_COMMUNICATION_ERROR);
	settled(&p, 2, 2);
	pcscd_end(&p);
	end();
}

/* The returning reader may arrive before the old one has left. */
void test_two_at_once(void)
{
	struct pcscd p;

	begin("the same device under another number");
	fake_arrive(0, 1, false);
	fake_usb(0, 3, 12, 0);
	fake_insert(0);
	pcscd_start(&p, 0, "usb:04b9/1300:libudev:0:/dev/bus/usb/003/012");
	settled(&p, 1, 0);
	fake_followed();
	fake_arrive(1, 1, false);
	fake_usb(1, 3, 12, 0);
	fake_insert(1);
	fake_leave(0);
	settled(&p, 2, 1);
	works(0);
	EQUAL(fake_commands(1), 1);
	pcscd_end(&p);
	end();
}

static void other_slot(void)
{
	EQUAL(IFDHICCPresence(0x10000), IFD_ICC_PRESENT);
}

/* slots.h: cf_slots_lock is never held during a call into the mount, and close(2) is
 * one. A command is under way as its slot is closed: the session ends with it. */
void test_close_waits(void)
{
	DWORD n = 33;
	UCHAR atr[33];
	struct cf_slot *s;

	begin("a close that waits for the daemon holds up no other slot");
	for (int i = 0; i < 2; i++) {
		fake_arrive(i, 1, false);
		fake_insert(i);
		EQUAL(create((DWORD)i << 16, i == 0 ? "cardfs:/fake/0" : "cardfs:/fake/1"), IFD_SUCCESS);
	}
	EQUAL(IFDHPowerICC(0, IFD_POWER_UP, atr, &n), IFD_SUCCESS);
	s = cf_get(0);
	pthread_mutex_lock(&s->io);
	EQUAL(IFDHCloseChannel(0), IFD_SUCCESS);
	pthread_mutex_unlock(&s->io);
	CHECK(s->apdu >= 0, "the session ended before its command");
	fake_on_close(other_slot);
	alarm(60); /* a deadlock would hang */
	cf_put(s);
	alarm(0);
	EQUAL(IFDHCloseChannel(0x10000), IFD_SUCCESS);
	end();
}

/* presence.c: between a card's change and the next poll the slot is
 * empty to everybody. */
void test_told(void)
{
	poll_function *poll;

	begin("a changed card is not shown before its removal was");
	fake_arrive(0, 1, false);
	fake_insert(0);
	EQUAL(create(0, "cardfs:/fake/0"), IFD_SUCCESS);
	poll = polling(0);
	EQUAL(IFDHICCPresence(0), IFD_ICC_PRESENT);
	poll(0, 1);
	EQUAL(IFDHICCPresence(0), IFD_ICC_PRESENT);
	swap_card();
	for (int i = 0; i < 3; i++)
		EQUAL(IFDHICCPresence(0), IFD_ICC_NOT_PRESENT);
	poll(0, 1); /* it returns as soon as there is news */
	EQUAL(IFDHICCPresence(0), IFD_ICC_NOT_PRESENT);
	poll(0, 1);
	EQUAL(IFDHICCPresence(0), IFD_ICC_PRESENT);
	EQUAL(IFDHCloseChannel(0), IFD_SUCCESS);
	end();
}

/* An exchange reports that the card or the reader is gone, but the event file never
 * does. The slot must not stay empty for ever. */
void test_false_alarm(void)
{
	static const int errors[] = {ENODEV, ENOMEDIUM, ENOTCONN};

	for (size_t i = 0; i < sizeof errors / sizeof errors[0]; i++) {
		UCHAR rx[258];
		DWORD n = sizeof rx;
		struct pcscd p;

		begin("an error that no event follows");
		fake_arrive(0, 1, false);
		fake_insert(0);
		pcscd_start(&p, 0, "cardfs:/fake/0");
		settled(&p, 1, 0);
		works(0);
		fake_fault((struct fault){.shape = ERRNO, .error = errors[i], .at = 1});
		EQUAL(transmit(0, select_mf, sizeof select_mf, rx, &n), IFD_COMMUNICATION_ERROR);
		settled(&p, 2, 1);
		works(0);
		pcscd_end(&p);
		end();
	}
}

void test_foreign_reset(void)
{
	static const UCHAR verify[] = {0x00, 0x20, 0x00, 0x01, 0x04, 0x31, 0x32, 0x33, 0x34};
	UCHAR rx[258];
	DWORD n = sizeof rx;
	struct pcscd p;

	begin("another program on the mount resets the card");
	fake_arrive(0, 1, false);
	fake_insert(0);
	pcscd_start(&p, 0, "cardfs:/fake/0");
	settled(&p, 1, 0);
	works(0);
	fake_foreign_reset(0);
	/* The client's command was meant for a card in another state, and is not sent. */
	EQUAL(transmit(0, verify, sizeof verify, rx, &n), IFD_COMMUNICATION_ERROR);
	EQUAL(n, 0);
	EQUAL(fake_count(0, verify, sizeof verify), 0);
	/* And pcscd tells all clients, by a removal and an insertion. */
	settled(&p, 2, 1);
	works(0);
	pcscd_end(&p);
	end();
}

void test_own_reset(void)
{
	UCHAR atr[33];
	DWORD n = sizeof atr;
	struct pcscd p;

	begin("pcscd's own reset goes unnoticed by it");
	fake_arrive(0, 1, false);
	fake_insert(0);
	pcscd_start(&p, 0, "cardfs:/fake/0");
	settled(&p, 1, 0);
	for (int i = 0; i < 3; i++) {
		n = sizeof atr;
		EQUAL(IFDHPowerICC(0, IFD_RESET, atr, &n), IFD_SUCCESS);
		EQUAL(n, sizeof token);
		CHECK(memcmp(atr, token, n) == 0, "%02X", atr[1]);
		works(0);
	}
	n = sizeof atr;
	EQUAL(IFDHPowerICC(0, IFD_POWER_DOWN, atr, &n), IFD_SUCCESS);
	EQUAL(n, 0);
	n = sizeof atr;
	EQUAL(IFDHPowerICC(0, IFD_POWER_UP, atr, &n), IFD_SUCCESS);
	works(0);
	settled(&p, 1, 0);
	pcscd_end(&p);
	CHECK(strcmp(fake_power(0), "reset reset reset release release") == 0, "%s", fake_power(0));
	end();
}

void test_starting(void)
{
	int64_t before = cf_now();

	begin("a reader that is starting is waited for at the start, but not long");
	fake_arrive(0, 1, true);
	EQUAL(create(0, "cardfs:/fake/0"), IFD_SUCCESS);
	EQUAL(IFDHICCPresence(0), IFD_ICC_NOT_PRESENT);
	CHECK(cf_now() - before >= SOON_MS, "not waited for");
	EQUAL(IFDHCloseChannel(0), IFD_SUCCESS);
	end();

	begin("one whose driver fails is a reader without a card");
	fake_arrive(0, 1, true);
	EQUAL(create(0, "cardfs:/fake/0"), IFD_SUCCESS);
	fake_fail(0);
	EQUAL(IFDHICCPresence(0), IFD_ICC_NOT_PRESENT);
	EQUAL(IFDHCloseChannel(0), IFD_SUCCESS);
	end();
}

void test_stop(void)
{
	poll_function *poll;
	RESPONSECODE (*stop)(DWORD);
	DWORD n = sizeof stop;
	int64_t before;

	begin("stop before the poll makes the next poll return");
	EQUAL(create(0, "cardfs:/fake/0"), IFD_SUCCESS);
	poll = polling(0);
	IFDHGetCapabilities(0, TAG_IFD_STOP_POLLING_THREAD, &n, (PUCHAR)&stop);
	EQUAL(stop(0), IFD_SUCCESS);
	EQUAL(stop(0), IFD_SUCCESS);
	EQUAL(poll(0, 600000), IFD_SUCCESS);
	before = cf_now();
	EQUAL(poll(0, 20), IFD_SUCCESS); /* the timeout */
	CHECK(cf_now() - before >= 20, "too early");
	EQUAL(IFDHCloseChannel(0), IFD_SUCCESS);
	EQUAL(stop(0), IFD_COMMUNICATION_ERROR);
	EQUAL(poll(0, 600000), IFD_COMMUNICATION_ERROR);
	end();
}
