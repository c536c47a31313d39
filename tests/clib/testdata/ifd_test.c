/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The IFD handler over a mount that keeps its contract: what pcscd is to see.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <time.h>
#include <unistd.h>

#include "check.h"
#include "fake.h"
#include "file.h"
#include "ifd.h"
#include "memory.h"
#include "presence.h"
#include "slots.h"
#include "times.h"

static const UCHAR token[] = {0x3B, 0xB7, 0x94, 0x00, 0x81, 0x31, 0xFE, 0x65,
			      0x53, 0x50, 0x4B, 0x32, 0x33, 0x90, 0x00, 0xD1};

/* pcscd's event thread, as pcsc-lite's eventhandler.c runs it: presence,
 * power-up on insertion, poll, power-down of what nobody uses. */
struct pcscd {
	DWORD lun;
	RESPONSECODE (*poll)(DWORD, int);
	RESPONSECODE (*stop)(DWORD);
	pthread_t thread;
	pthread_mutex_t mu;
	pthread_cond_t changed;
	bool present, mute, leaving;
	int inserted, removed, mutes;
};

static void *event_thread(void *arg)
{
	struct pcscd *p = arg;

	for (bool leaving = false; !leaving;) {
		RESPONSECODE rv = IFDHICCPresence(p->lun);

		pthread_mutex_lock(&p->mu);
		if (rv == IFD_ICC_NOT_PRESENT && p->present) {
			p->present = p->mute = false;
			p->removed++;
		} else if (rv == IFD_ICC_PRESENT && !p->present) {
			UCHAR atr[33];
			DWORD n = sizeof atr;

			p->present = true;
			/* A power-up is refused where the slot is empty by now. */
			rv = IFDHICCPresence(p->lun);
			if (rv == IFD_ICC_PRESENT)
				rv = IFDHPowerICC(p->lun, IFD_POWER_UP, atr, &n);
			p->mute = rv != IFD_SUCCESS || n != sizeof token;
			p->mutes += p->mute;
			p->inserted++;
		} else if (rv != IFD_ICC_PRESENT && rv != IFD_ICC_NOT_PRESENT) {
			abort();
		}
		pthread_cond_broadcast(&p->changed);
		pthread_mutex_unlock(&p->mu);
		EQUAL(p->poll(p->lun, 600000), IFD_SUCCESS);
		pthread_mutex_lock(&p->mu);
		leaving = p->leaving;
		pthread_mutex_unlock(&p->mu);
	}
	return NULL;
}

static RESPONSECODE create(DWORD lun, const char *name)
{
	char device[128];

	snprintf(device, sizeof device, "%s", name);
	return IFDHCreateChannelByName(lun, device);
}

static void pcscd_start(struct pcscd *p, DWORD lun, const char *device)
{
	DWORD n = sizeof p->poll;

	memset(p, 0, sizeof *p);
	p->lun = lun;
	pthread_mutex_init(&p->mu, NULL);
	pthread_cond_init(&p->changed, NULL);
	EQUAL(create(lun, device), IFD_SUCCESS);
	EQUAL(IFDHGetCapabilities(lun, TAG_IFD_POLLING_THREAD_WITH_TIMEOUT, &n, (PUCHAR)&p->poll), 0);
	EQUAL(n, sizeof p->poll);
	EQUAL(IFDHGetCapabilities(lun, TAG_IFD_STOP_POLLING_THREAD, &n, (PUCHAR)&p->stop), 0);
	IFDHICCPresence(lun);
	EQUAL(pthread_create(&p->thread, NULL, event_thread, p), 0);
}

static void pcscd_end(struct pcscd *p)
{
	pthread_mutex_lock(&p->mu);
	p->leaving = true;
	pthread_mutex_unlock(&p->mu);
	p->stop(p->lun);
	pthread_join(p->thread, NULL);
	EQUAL(IFDHCloseChannel(p->lun), IFD_SUCCESS);
	pthread_mutex_destroy(&p->mu);
	pthread_cond_destroy(&p->changed);
}

/* settled waits until pcscd has seen that many insertions and removals. */
static void settled(struct pcscd *p, int inserted, int removed)
{
	struct timespec until;

	clock_gettime(CLOCK_REALTIME, &until);
	until.tv_sec += 60;
	pthread_mutex_lock(&p->mu);
	while (p->inserted < inserted || p->removed < removed)
		CHECK(pthread_cond_timedwait(&p->changed, &p->mu, &until) == 0,
		      "%d inserted, %d removed", p->inserted, p->removed);
	EQUAL(p->inserted, inserted);
	EQUAL(p->removed, removed);
	EQUAL(p->present, inserted > removed);
	EQUAL(p->mutes, 0);
	pthread_mutex_unlock(&p->mu);
}

static RESPONSECODE transmit(DWORD lun, const UCHAR *tx, DWORD ntx, UCHAR *rx, DWORD *nrx)
{
	SCARD_IO_HEADER send = {1, sizeof send}, got = {0, 0};
	UCHAR *exact = sized(ntx);
	RESPONSECODE rv;

	memcpy(exact, tx, ntx);
	rv = IFDHTransmitToICC(lun, send, exact, ntx, rx, nrx, &got);
	if (rv == IFD_SUCCESS)
		EQUAL(got.Protocol, 1);
	free(exact);
	return rv;
}

static const UCHAR select_mf[] = {0x00, 0xA4, 0x00, 0x0C, 0x02, 0x3F, 0x00};

static void works(DWORD lun)
{
	UCHAR rx[65548];
	DWORD n = sizeof rx;

	EQUAL(transmit(lun, select_mf, sizeof select_mf, rx, &n), IFD_SUCCESS);
	EQUAL(n, 2);
	EQUAL(rx[0] << 8 | rx[1], 0x9000);
}

/* Long enough for anything on any machine. */
enum { PATIENT_MS = 120000 };

static void begin(const char *name)
{
	check_test = name;
	fake_reset();
}

static void end(void)
{
	EQUAL(fake_open_files(), 0);
}

/* ---- insertion and removal ------------------------------------------------------- */

static void test_coming_and_going(void)
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

static void test_quick_swap(void)
{
	struct pcscd p;

	/* ifdhandler.md: a card removed and inserted between polls must be shown
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

static void test_daemon(void)
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

static void test_lost_events(void)
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
		fake_line(line);
		fake_remove(0);
		settled(&p, 1, 1);
		fake_insert(0);
		settled(&p, 2, 1);
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
	fake_swap(0); /* all events before it have been read, then */
	settled(&p, 2, 1);
	fake_remove_unseen(0);
	EQUAL(transmit(0, select_mf, sizeof select_mf, rx, &n), IFD_COMMUNICATION_ERROR);
	settled(&p, 2, 2);
	pcscd_end(&p);
	end();
}

/* The reader that comes back may arrive before the old one left. */
static void test_two_at_once(void)
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
static void test_close_waits(void)
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
	alarm(60); /* it would hang */
	cf_put(s);
	alarm(0);
	EQUAL(IFDHCloseChannel(0x10000), IFD_SUCCESS);
	end();
}

/* ifdhandler.md 4.1, presence.c: between a card's change and the next poll the slot is
 * empty to everybody. */
static void test_told(void)
{
	RESPONSECODE (*poll)(DWORD, int);
	DWORD n = sizeof poll;
	struct cf_slot *s;
	uint64_t card;
	int64_t until = cf_now() + 60000;

	begin("a changed card is not shown before its removal was");
	fake_arrive(0, 1, false);
	fake_insert(0);
	EQUAL(create(0, "cardfs:/fake/0"), IFD_SUCCESS);
	IFDHGetCapabilities(0, TAG_IFD_POLLING_THREAD_WITH_TIMEOUT, &n, (PUCHAR)&poll);
	EQUAL(IFDHICCPresence(0), IFD_ICC_PRESENT);
	poll(0, 1);
	EQUAL(IFDHICCPresence(0), IFD_ICC_PRESENT);
	s = cf_get(0);
	card = cf_card(s);
	fake_followed();
	fake_swap(0);
	while (cf_card(s) == card || cf_state_of(s) != CF_CARD) {
		CHECK(cf_now() < until, "no event");
		usleep(1000);
	}
	cf_put(s);
	for (int i = 0; i < 3; i++)
		EQUAL(IFDHICCPresence(0), IFD_ICC_NOT_PRESENT);
	poll(0, 1); /* it returns as there is news */
	EQUAL(IFDHICCPresence(0), IFD_ICC_NOT_PRESENT);
	poll(0, 1);
	EQUAL(IFDHICCPresence(0), IFD_ICC_PRESENT);
	EQUAL(IFDHCloseChannel(0), IFD_SUCCESS);
	end();
}

/* An exchange is told that the card or the reader is gone, and the event file
 * never tells of it: the slot must not stay empty for ever. */
static void test_false_alarm(void)
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

static void test_foreign_reset(void)
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
	/* The client's command was for a card in another state: not sent. */
	EQUAL(transmit(0, verify, sizeof verify, rx, &n), IFD_COMMUNICATION_ERROR);
	EQUAL(n, 0);
	EQUAL(fake_count(0, verify, sizeof verify), 0);
	/* And pcscd tells all clients, by a removal and an insertion. */
	settled(&p, 2, 1);
	works(0);
	pcscd_end(&p);
	end();
}

static void test_own_reset(void)
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

static void test_starting(void)
{
	begin("a reader that is starting is waited for at the start, but not long");
	fake_arrive(0, 1, true);
	EQUAL(create(0, "cardfs:/fake/0"), IFD_SUCCESS);
	EQUAL(IFDHICCPresence(0), IFD_ICC_NOT_PRESENT);
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

static void test_stop(void)
{
	RESPONSECODE (*poll)(DWORD, int), (*stop)(DWORD);
	DWORD n = sizeof poll;
	int64_t before = cf_now();

	begin("stop before the poll makes the next poll return");
	EQUAL(create(0, "cardfs:/fake/0"), IFD_SUCCESS);
	IFDHGetCapabilities(0, TAG_IFD_POLLING_THREAD_WITH_TIMEOUT, &n, (PUCHAR)&poll);
	IFDHGetCapabilities(0, TAG_IFD_STOP_POLLING_THREAD, &n, (PUCHAR)&stop);
	EQUAL(stop(0), IFD_SUCCESS);
	EQUAL(stop(0), IFD_SUCCESS);
	EQUAL(poll(0, 600000), IFD_SUCCESS);
	EQUAL(poll(0, 20), IFD_SUCCESS); /* the timeout */
	CHECK(cf_now() - before >= 20, "too early");
	EQUAL(IFDHCloseChannel(0), IFD_SUCCESS);
	EQUAL(stop(0), IFD_COMMUNICATION_ERROR);
	EQUAL(poll(0, 600000), IFD_COMMUNICATION_ERROR);
	end();
}

/* ---- exchanges ------------------------------------------------------------------- */

static void power_up(DWORD lun)
{
	UCHAR atr[33];
	DWORD n = sizeof atr;

	EQUAL(IFDHPowerICC(lun, IFD_POWER_UP, atr, &n), IFD_SUCCESS);
}

static void up(DWORD lun)
{
	EQUAL(IFDHICCPresence(lun), IFD_ICC_PRESENT);
	power_up(lun);
}

static void test_lengths(void)
{
	static const int lengths[] = {4, 5, 255, 260, 261, 262, 263, 300, 16378, 16379, 16380,
				      16381, 40000, 65543, 65544};
	UCHAR *tx = sized(65549), *rx = sized(65548);
	DWORD n;

	begin("every length there and back");
	fake_arrive(0, 1, false);
	fake_insert(0);
	EQUAL(create(0, "cardfs:/fake/0"), IFD_SUCCESS);
	up(0);
	for (size_t i = 0; i < sizeof lengths / sizeof lengths[0]; i++) {
		DWORD ntx = (DWORD)lengths[i], back = ntx < 65536 ? ntx : 65536;

		for (DWORD k = 0; k < ntx; k++)
			tx[k] = (UCHAR)(k * 7 + i);
		memcpy(tx, "\x80\xEE\x00\x00\x00", 5); /* echo of the whole, and 9000 */
		n = 65548;
		EQUAL(transmit(0, tx, ntx, rx, &n), IFD_SUCCESS);
		EQUAL(n, back + 2);
		CHECK(memcmp(rx, tx, back) == 0, "%lu bytes", ntx);
		EQUAL(rx[back] << 8 | rx[back + 1], 0x9000);
		EQUAL(fake_count(0, tx, ntx), 1);
	}
	for (DWORD want = 250; want < 65536; want = want < 270 ? want + 1 : want * 2 + 1) {
		UCHAR get[] = {0x80, 0xEC, (UCHAR)(want >> 8), (UCHAR)want, 0x00};

		n = 65548;
		EQUAL(transmit(0, get, sizeof get, rx, &n), IFD_SUCCESS);
		EQUAL(n, want + 2);
		EQUAL(rx[want - 1], (UCHAR)(want - 1));
	}
	n = 65548;
	EQUAL(transmit(0, tx, 65545, rx, &n), IFD_COMMUNICATION_ERROR);
	EQUAL(n, 0);
	n = 65548;
	EQUAL(transmit(0, tx, 3, rx, &n), IFD_COMMUNICATION_ERROR); /* no header */
	works(0);
	free(tx);
	free(rx);
	EQUAL(IFDHCloseChannel(0), IFD_SUCCESS);
	end();
}

static void test_small_buffer(void)
{
	static const DWORD sizes[] = {0, 1, 2, 10, 301, 302};
	static const UCHAR get[] = {0x80, 0xEC, 0x01, 0x2C, 0x00}; /* 300 bytes */

	begin("an answer that does not fit is an error, and the next is not part of it");
	fake_arrive(0, 1, false);
	fake_insert(0);
	EQUAL(create(0, "cardfs:/fake/0"), IFD_SUCCESS);
	up(0);
	for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
		UCHAR *rx = sized(sizes[i]);
		DWORD n = sizes[i];
		RESPONSECODE rv = transmit(0, get, sizeof get, rx, &n);

		EQUAL(rv, sizes[i] < 302 ? IFD_ERROR_INSUFFICIENT_BUFFER : IFD_SUCCESS);
		EQUAL(n, sizes[i] < 302 ? 0 : 302);
		free(rx);
		works(0);
	}
	EQUAL(IFDHCloseChannel(0), IFD_SUCCESS);
	end();
}

static void test_lock(void)
{
	UCHAR rx[258];
	DWORD n = sizeof rx;
	int64_t before;

	begin("another program holds the transaction: waited for a while, then an error");
	fake_arrive(0, 1, false);
	fake_insert(0);
	EQUAL(create(0, "cardfs:/fake/0"), IFD_SUCCESS);
	up(0);
	fake_foreign_lock(0, true);
	EQUAL(transmit(0, select_mf, sizeof select_mf, rx, &n), IFD_COMMUNICATION_ERROR);
	EQUAL(fake_commands(0), 0);
	n = sizeof rx;
	EQUAL(IFDHPowerICC(0, IFD_RESET, rx, &n), IFD_ERROR_POWER_ACTION);
	/* The power-down is in the thread that looks for cards: it does not wait. */
	test_soon_ms = PATIENT_MS;
	before = cf_now();
	EQUAL(IFDHPowerICC(0, IFD_POWER_DOWN, NULL, NULL), IFD_SUCCESS);
	CHECK(cf_now() - before < PATIENT_MS / 2, "%ld ms", (long)(cf_now() - before));
	fake_foreign_lock(0, false);
	up(0);
	works(0);
	/* What could not be powered off is reset before it is used again; once. */
	CHECK(strstr(fake_power(0), "release cold") != NULL, "%s", fake_power(0));
	up(0);
	EQUAL(IFDHPowerICC(0, IFD_POWER_DOWN, NULL, NULL), IFD_SUCCESS);
	up(0);
	CHECK(strstr(fake_power(0), "cold release") != NULL, "%s", fake_power(0));
	CHECK(strstr(strstr(fake_power(0), "cold") + 4, "cold") == NULL, "%s", fake_power(0));
	EQUAL(IFDHCloseChannel(0), IFD_SUCCESS);
	end();
}

/* EBUSY and EAGAIN pass: nothing was done, and it is tried again. */
static void test_passing(void)
{
	static const int errors[] = {EBUSY, EAGAIN};
	UCHAR atr[33], rx[8];
	DWORD n;

	for (size_t i = 0; i < 2; i++) {
		struct fault f = {.shape = ERRNO, .error = errors[i], .at = 1};

		begin("a state that passes");
		test_soon_ms = PATIENT_MS;
		fake_arrive(0, 1, false);
		fake_insert(0);
		EQUAL(create(0, "cardfs:/fake/0"), IFD_SUCCESS);
		fake_fault(f); /* the open of apdu */
		up(0);
		for (f.at = 1; f.at <= 2; f.at++) { /* the open of power, the write */
			fake_fault(f);
			n = sizeof atr;
			EQUAL(IFDHPowerICC(0, IFD_RESET, atr, &n), IFD_SUCCESS);
		}
		f.at = 1; /* the exchange */
		f.error = EBUSY;
		fake_fault(f);
		works(0);
		EQUAL(fake_commands(0), 1);
		f.error = errors[i];
		fake_fault(f); /* the open of control */
		EQUAL(IFDHControl(0, 0x42000D48, NULL, 0, rx, 8, &n), IFD_SUCCESS);
		f.at = 4; /* of protocol: open, read, end, and the open for writing */
		fake_fault(f);
		EQUAL(IFDHSetProtocolParameters(0, 1, 0, 0, 0, 0), IFD_SUCCESS);
		works(0);
		EQUAL(IFDHCloseChannel(0), IFD_SUCCESS);
		end();
	}
}

/* ---- signals -------------------------------------------------------------------- */

/* EINTR never counts; after a command was taken, only time ends the wait. */
static void test_interrupted(void)
{
	UCHAR *big = sized(17000), *rx = sized(65548);
	DWORD n;

	for (DWORD i = 0; i < 17000; i++)
		big[i] = (UCHAR)(i * 7);
	memcpy(big, "\x80\xEE\x00\x00\x00", 5);
	for (int at = 1; at <= 6; at++) {
		struct fault f = {.shape = ERRNO, .error = EINTR, .at = at, .times = 1000};

		begin("a thousand interrupts at one call");
		test_answer_ms = PATIENT_MS;
		fake_arrive(0, 1, false);
		fake_insert(0);
		EQUAL(create(0, "cardfs:/fake/0"), IFD_SUCCESS);
		fake_fault(f); /* apdu: open, ioctl; atr: open, read, end */
		up(0);
		fake_fault(f); /* power: open, write; and these */
		n = 33;
		EQUAL(IFDHPowerICC(0, IFD_RESET, rx, &n), IFD_SUCCESS);
		EQUAL(n, sizeof token);
		if (at == 1) {
			fake_fault(f); /* the ioctl */
			works(0);
			EQUAL(fake_commands(0), 1);
		} else {
			fake_fault(f); /* write, read, end */
			n = 65548;
			EQUAL(transmit(0, big, 17000, rx, &n), IFD_SUCCESS);
			EQUAL(n, 17002);
			CHECK(memcmp(big, rx, 17000) == 0, "%d", rx[0]);
			EQUAL(fake_count(0, big, 17000), 1);
			fake_fault(f); /* control: open, open, ioctl; write, read, end */
			n = 0;
			if (at != 4) { /* not the write */
				EQUAL(IFDHControl(0, 0x42000D48, big, 5, rx, 8, &n), IFD_SUCCESS);
				EQUAL(n, 5);
			}
			fake_fault((struct fault){NONE});
			works(0);
		}
		EQUAL(IFDHCloseChannel(0), IFD_SUCCESS);
		end();
	}
	free(big);
	free(rx);
}

/* "The next command gets the answer before it": never. */
static void test_given_up(void)
{
	static const int errors[] = {EINTR, EAGAIN};
	UCHAR *big = sized(17000), *rx = sized(65548);
	DWORD n;

	memset(big, 0x5A, 17000);
	memcpy(big, "\x80\xEE\x00\x00\x00", 5);
	for (int i = 0; i < 4; i++) {
		begin("an answer that does not come, or not to its end");
		fake_arrive(0, 1, false);
		fake_insert(0);
		EQUAL(create(0, "cardfs:/fake/0"), IFD_SUCCESS);
		up(0);
		if (i < 2)
			fake_fault((struct fault){.shape = ERRNO, .error = errors[i], .at = 2, .from_then_on = true});
		else
			fake_fault((struct fault){.shape = ERRNO, .error = EIO, .at = i}); /* after 0, 17,002 bytes */
		n = i == 3 ? 17002 : 65548;
		EQUAL(transmit(0, big, 17000, rx, &n), IFD_COMMUNICATION_ERROR);
		EQUAL(n, 0);
		fake_fault((struct fault){NONE});
		n = 65548;
		if (i != 2) { /* EIO in the answer's place is the command's, and all is well */
			EQUAL(transmit(0, select_mf, sizeof select_mf, rx, &n), IFD_COMMUNICATION_ERROR);
			EQUAL(fake_count(0, select_mf, sizeof select_mf), 0);
			n = 33;
			EQUAL(IFDHPowerICC(0, IFD_POWER_UP, rx, &n), IFD_SUCCESS);
		}
		works(0);
		EQUAL(fake_count(0, big, 17000), 1);
		EQUAL(IFDHCloseChannel(0), IFD_SUCCESS);
		end();
	}
	free(big);
	free(rx);
}

/* A file without an end ends, too. */
static void test_endless(void)
{
	UCHAR *big = sized(17000), *rx = sized(65548);
	DWORD n = 65548;

	memset(big, 0x5A, 17000);
	begin("an answer without an end");
	fake_arrive(0, 1, false);
	fake_insert(0);
	EQUAL(create(0, "cardfs:/fake/0"), IFD_SUCCESS);
	up(0);
	fake_fault((struct fault){.shape = LONG, .at = 2, .from_then_on = true});
	EQUAL(transmit(0, big, 17000, rx, &n), IFD_COMMUNICATION_ERROR);
	EQUAL(n, 0);
	EQUAL(IFDHControl(0, 0x42000D48, big, 5, rx, 8, &n), IFD_COMMUNICATION_ERROR);
	fake_fault((struct fault){NONE});
	power_up(0);
	works(0);
	EQUAL(IFDHCloseChannel(0), IFD_SUCCESS);
	end();
	free(big);
	free(rx);
}

/* ---- fork ------------------------------------------------------------------------ */

static int descriptors(void)
{
	int n = 0;

	for (int fd = 3; fd < 200; fd++)
		n += fcntl(fd, F_GETFD) >= 0;
	return n;
}

static int descriptors_before;

static void child(void)
{
	UCHAR rx[258];
	DWORD n = sizeof rx;

	EQUAL(fake_open_files(), 0);
	EQUAL(descriptors(), descriptors_before);
	EQUAL(transmit(0, select_mf, sizeof select_mf, rx, &n), IFD_COMMUNICATION_ERROR);
	EQUAL(IFDHICCPresence(0), IFD_ICC_NOT_PRESENT);
	EQUAL(IFDHPowerICC(0, IFD_POWER_DOWN, NULL, NULL), IFD_COMMUNICATION_ERROR);
	EQUAL(IFDHCloseChannel(0), IFD_COMMUNICATION_ERROR);
	EQUAL(strcmp(fake_power(0), ""), 0);
#ifndef __SANITIZE_THREAD__ /* it has no threads in a child */
	EQUAL(create(0, "cardfs:/fake/0"), IFD_SUCCESS);
	up(0);
	works(0);
	EQUAL(IFDHCloseChannel(0), IFD_SUCCESS);
	EQUAL(fake_open_files(), 0);
#endif
}

static void test_fork(void)
{
	struct pcscd p;

	begin("a child has nothing of its parent's");
	descriptors_before = descriptors();
	fake_arrive(0, 1, false);
	fake_insert(0);
	pcscd_start(&p, 0, "cardfs:/fake/0");
	settled(&p, 1, 0);
	works(0);
	in_child(child);
	works(0);
	EQUAL(strcmp(fake_power(0), ""), 0);
	fake_remove(0);
	settled(&p, 1, 1);
	pcscd_end(&p);
	end();
}

/* ---- PINs ------------------------------------------------------------------------- */

static void test_wiped(void)
{
	static const int errors[] = {0, EIO, EINTR, EBUSY};
	UCHAR rx[16];

	begin("a PIN stays nowhere in the process, however its command ends");
	check_scan();
	fake_arrive(0, 1, false);
	fake_insert(0);
	EQUAL(create(0, "cardfs:/fake/0"), IFD_SUCCESS);
	for (int kind = 0; kind < 3; kind++) /* short, long, control */
		for (size_t i = 0; i < sizeof errors / sizeof errors[0]; i++) {
			DWORD ntx = kind == 1 ? 17000 : kind == 2 ? 60 : 13, n = sizeof rx;
			UCHAR *tx = sized(ntx);
			SCARD_IO_HEADER send = {1, sizeof send};

			power_up(0);
			memcpy(tx, "\x80\xEE\x00\x01\x08", 5); /* it is echoed, too */
			pin_into(tx + ntx - 8);
			if (errors[i] != 0)
				fake_fault((struct fault){.shape = ERRNO, .error = errors[i],
					.at = kind == 0 ? 1 : kind == 1 ? 2 : 5, .from_then_on = true});
			if (kind == 2)
				IFDHControl(0, 0x42000D48, tx, ntx, rx, i % 2 == 0 ? 4 : 16, &n);
			else
				IFDHTransmitToICC(0, send, tx, ntx, rx, &n, NULL);
			fake_fault((struct fault){NONE});
			explicit_bzero(tx, ntx);
			explicit_bzero(rx, sizeof rx);
			free(tx);
			fake_forget_answers();
			EQUAL(pins_in_memory(), 0);
		}
	EQUAL(IFDHCloseChannel(0), IFD_SUCCESS);
	end();
}

/* ---- sizes -------------------------------------------------------------------------- */

static void test_text(void)
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
static void test_atr_sizes(void)
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
static void test_answer_sizes(void)
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


static void test_sessions_of_others(void)
{
	begin("a card that other programs use is not powered off, but ours begins anew");
	fake_arrive(0, 1, false);
	fake_insert(0);
	EQUAL(create(0, "cardfs:/fake/0"), IFD_SUCCESS);
	up(0);
	fake_sessions(0, 1);
	EQUAL(IFDHPowerICC(0, IFD_POWER_DOWN, NULL, NULL), IFD_SUCCESS);
	CHECK(strstr(fake_power(0), "off") == NULL, "%s", fake_power(0));
	up(0);
	CHECK(strstr(fake_power(0), "release cold") != NULL, "%s", fake_power(0));
	works(0);
	EQUAL(IFDHCloseChannel(0), IFD_SUCCESS);
	end();
}

static void test_protocol(void)
{
	begin("protocols");
	fake_arrive(0, 1, false);
	fake_insert(0);
	EQUAL(create(0, "cardfs:/fake/0"), IFD_SUCCESS);
	EQUAL(IFDHSetProtocolParameters(0, 2, 0, 0, 0, 0), IFD_ICC_NOT_PRESENT); /* not powered */
	up(0);
	EQUAL(IFDHSetProtocolParameters(0, 2, 0, 0, 0, 0), IFD_SUCCESS); /* active */
	works(0);
	EQUAL(IFDHSetProtocolParameters(0, 1, 0, 0, 0, 0), IFD_SUCCESS); /* after a reset */
	works(0);
	EQUAL(IFDHSetProtocolParameters(0, 8, 0, 0, 0, 0), IFD_PROTOCOL_NOT_SUPPORTED);
	EQUAL(IFDHSetProtocolParameters(0, 1, 1, 0x96, 0, 0), IFD_ERROR_NOT_SUPPORTED);
	EQUAL(IFDHCloseChannel(0), IFD_SUCCESS);
	end();
}

static void test_control(void)
{
	UCHAR tx[] = {1, 2, 3, 4, 5}, rx[5], *big, *back;
	DWORD n = 99;

	begin("control: code, then data");
	fake_arrive(0, 1, false);
	EQUAL(create(0, "cardfs:/fake/0"), IFD_SUCCESS);
	EQUAL(IFDHControl(0, 0x42000D48, tx, 5, rx, 5, &n), IFD_SUCCESS);
	EQUAL(n, 5);
	CHECK(memcmp(tx, rx, 5) == 0, "%d", rx[0]);
	EQUAL(fake_count(0, (const uint8_t *)"\x42\x00\x0D\x48\x01\x02\x03\x04\x05", 9), 1);
	EQUAL(IFDHControl(0, 0x42000D48, NULL, 0, NULL, 0, &n), IFD_SUCCESS);
	EQUAL(n, 0);
	EQUAL(IFDHControl(0, 0x42000D48, tx, 5, rx, 4, &n), IFD_ERROR_INSUFFICIENT_BUFFER);
	EQUAL(n, 0);
	big = sized(65545);
	back = sized(65545);
	EQUAL(IFDHControl(0, 0x42000D48, big, 65538, back, 65538, &n), IFD_SUCCESS);
	EQUAL(n, 65538);
	/* The longest command, and one more. */
	EQUAL(IFDHControl(0, 1, big, 65544, back, 65538, &n), IFD_ERROR_NOT_SUPPORTED);
	EQUAL(IFDHControl(0, 1, big, 65545, back, 65538, &n), IFD_COMMUNICATION_ERROR);
	free(big);
	free(back);
	for (DWORD room = 0; room < 8; room++) {
		UCHAR *exact = sized(room);

		EQUAL(IFDHControl(0, 0x42000D48, tx, 5, exact, room, &n),
		      room < 5 ? IFD_ERROR_INSUFFICIENT_BUFFER : IFD_SUCCESS);
		EQUAL(n, room < 5 ? 0 : 5);
		free(exact);
	}
	EQUAL(IFDHControl(0, 1, tx, 5, rx, 5, &n), IFD_ERROR_NOT_SUPPORTED);
	EQUAL(IFDHControl(0, 1, NULL, 5, rx, 5, &n), IFD_COMMUNICATION_ERROR);
	EQUAL(IFDHControl(0, 1UL << 32, tx, 5, rx, 5, &n), IFD_COMMUNICATION_ERROR);
	EQUAL(IFDHControl(7, 1, tx, 5, rx, 5, &n), IFD_COMMUNICATION_ERROR);
	EQUAL(IFDHCloseChannel(0), IFD_SUCCESS);
	end();
}

/* ---- capabilities and names --------------------------------------------------------- */

static DWORD byte_of(DWORD lun, DWORD tag)
{
	UCHAR b = 0xEE;
	DWORD n = 1;

	EQUAL(IFDHGetCapabilities(lun, tag, &n, &b), IFD_SUCCESS);
	EQUAL(n, 1);
	return b;
}

static void test_capabilities(void)
{
	UCHAR v[64];
	uint32_t word;
	DWORD n;

	begin("tags");
	fake_arrive(0, 2, false);
	fake_usb(0, 3, 12, 0);
	fake_insert(0);
	EQUAL(create(0x20000, "cardfs:/fake/0"), IFD_SUCCESS);
	EQUAL(create(0x20001, "cardfs:/fake/0"), IFD_SUCCESS);
	CHECK(byte_of(0x20000, TAG_IFD_SIMULTANEOUS_ACCESS) > 1, "one reader only");
	EQUAL(byte_of(0x20000, TAG_IFD_THREAD_SAFE), 1);
	EQUAL(byte_of(0x20000, TAG_IFD_SLOT_THREAD_SAFE), 1);
	EQUAL(byte_of(0x20000, TAG_IFD_SLOTS_NUMBER), 2);
	EQUAL(byte_of(0x20000, TAG_IFD_DEVICE_REMOVED), 1);
	EQUAL(byte_of(0x20001, TAG_IFD_SLOTNUM), 1);
	EQUAL(byte_of(0x20000, SCARD_ATTR_ICC_PRESENCE), 2);
	EQUAL(byte_of(0x20001, SCARD_ATTR_ICC_PRESENCE), 0);
	EQUAL(byte_of(0x20000, SCARD_ATTR_ICC_INTERFACE_STATUS), 0);
	up(0x20000);
	EQUAL(byte_of(0x20000, SCARD_ATTR_ICC_INTERFACE_STATUS), 1);
	n = sizeof v;
	EQUAL(IFDHGetCapabilities(0x20000, SCARD_ATTR_ATR_STRING, &n, v), 0);
	EQUAL(n, sizeof token);
	n = 15;
	EQUAL(IFDHGetCapabilities(0x20000, TAG_IFD_ATR, &n, v), IFD_ERROR_INSUFFICIENT_BUFFER);
	n = 0;
	EQUAL(IFDHGetCapabilities(0x20000, TAG_IFD_ATR, &n, NULL), IFD_SUCCESS);
	EQUAL(n, sizeof token);
	n = sizeof v;
	EQUAL(IFDHGetCapabilities(0x20000, SCARD_ATTR_VENDOR_NAME, &n, v), 0);
	EQUAL(strcmp((char *)v, "Fake reader"), 0);
	n = sizeof v;
	EQUAL(IFDHGetCapabilities(0x20000, SCARD_ATTR_VENDOR_IFD_SERIAL_NO, &n, v), 0);
	EQUAL(strcmp((char *)v, "4711"), 0);
	n = 4;
	EQUAL(IFDHGetCapabilities(0x20000, SCARD_ATTR_VENDOR_IFD_VERSION, &n, (PUCHAR)&word), 0);
	EQUAL(word, 0x01020000);
	EQUAL(IFDHGetCapabilities(0x20000, SCARD_ATTR_CHANNEL_ID, &n, (PUCHAR)&word), 0);
	EQUAL(word, 0x0020030C);
	EQUAL(IFDHGetCapabilities(0x20000, SCARD_ATTR_MAXINPUT, &n, (PUCHAR)&word), 0);
	EQUAL(word, 65544);
	EQUAL(IFDHGetCapabilities(0x20000, TAG_IFD_POLLING_THREAD_KILLABLE, &n, v), IFD_ERROR_TAG);
	EQUAL(IFDHGetCapabilities(0x20000, 0x7FFF0003, &n, v), IFD_ERROR_TAG);
	EQUAL(IFDHGetCapabilities(0x20000, 0x20110, NULL, v), IFD_COMMUNICATION_ERROR);
	EQUAL(IFDHSetCapabilities(0x20000, 0x7FFF0003, 1, v), IFD_ERROR_TAG);
	EQUAL(IFDHSetCapabilities(0x20000, TAG_IFD_SLOTNUM, 1, v), IFD_ERROR_VALUE_READ_ONLY);
	/* Unplugged, as pcscd's hotplug says: for both slots, whatever the mount says. */
	v[0] = 1;
	EQUAL(IFDHSetCapabilities(0x20000, TAG_IFD_DEVICE_REMOVED, 1, v), IFD_SUCCESS);
	fake_insert(1);
	EQUAL(IFDHICCPresence(0x20000), IFD_ICC_NOT_PRESENT);
	EQUAL(IFDHICCPresence(0x20001), IFD_ICC_NOT_PRESENT);
	EQUAL(IFDHCloseChannel(0x20001), IFD_SUCCESS);
	EQUAL(IFDHCloseChannel(0x20000), IFD_SUCCESS);
	EQUAL(IFDHCloseChannel(0x20000), IFD_COMMUNICATION_ERROR);
	end();
}

static void test_names(void)
{
	static const char *const wrong[] = {
		"", "cardfs:", "cardfs:0", "cardfs:/", "cardfs:/fake/x", "cardfs:/fake/0x",
		"cardfs:/fake/99999999999", "cardfs:/fake/by-id/", "cardfs:/fake/by-id/..",
		"cardfs:slots=:/fake/0", "cardfs:slots=0:/fake/0", "cardfs:slots=256:/fake/0",
		"cardfs:slots=2/fake/0", "/fake/0", "usb:04b9/1300", "usb:04b9/1300:libudev:0:/dev/bus/usb/",
		"usb:04b9/1300:libudev:0:/dev/bus/usb/003", "usb:04b9/1300:libudev:x:/dev/bus/usb/003/012",
		"usb:04b9/1300:libudev:0:/dev/bus/usb/003/012x", "usb:04b9/1300:libusb-1.0:3:12:0",
	};
	char *name = malloc(9000);

	begin("device names");
	for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++)
		CHECK(create(0, wrong[i]) == IFD_COMMUNICATION_ERROR, "%s", wrong[i]);
	EQUAL(IFDHCreateChannelByName(0, NULL), IFD_COMMUNICATION_ERROR);
	for (int n = 100; n < 8900; n += 511) { /* too long for a path */
		sprintf(name, "cardfs:/%0*d/0", n, 0);
		if (n > 2048)
			EQUAL(IFDHCreateChannelByName(0, name), IFD_COMMUNICATION_ERROR);
		sprintf(name, "cardfs:/fake/by-id/%0*d", n, 0);
		if (n > 255)
			EQUAL(IFDHCreateChannelByName(0, name), IFD_COMMUNICATION_ERROR);
	}
	/* The longest mount point that there is room for, and one more. */
	for (int n = 2046; n <= 2049; n++) {
		sprintf(name, "cardfs:/%0*d/0", n - 1, 0);
		for (int i = 100; i < n - 1; i += 100)
			name[7 + i] = '/';
		EQUAL(IFDHCreateChannelByName(0, name), n <= 2047 ? IFD_SUCCESS : IFD_COMMUNICATION_ERROR);
	}
	for (int n = 254; n <= 256; n++) {
		sprintf(name, "cardfs:/fake/by-id/%0*d", n, 0);
		EQUAL(IFDHCreateChannelByName(0, name), n <= 255 ? IFD_SUCCESS : IFD_COMMUNICATION_ERROR);
	}
	EQUAL(IFDHCloseChannel(0), IFD_SUCCESS);
	free(name);

	/* By the directory, its lasting name, the channel number, the USB device. */
	fake_arrive(2, 2, false);
	fake_usb(2, 3, 12, 0);
	fake_usb(3, 3, 12, 0);
	fake_insert(2);
	EQUAL(create(0x00000, "cardfs:/fake/2"), IFD_SUCCESS);
	EQUAL(create(0x10000, "cardfs:/fake/by-id/reader-2/"), IFD_SUCCESS);
	EQUAL(create(0x20000, "usb:04b9/1300:libudev:0:/dev/bus/usb/003/012"), IFD_SUCCESS);
	EQUAL(IFDHCreateChannel(0x30000, 2), IFD_SUCCESS);
	/* The second slot of one reader. */
	EQUAL(create(0x20001, "usb:04b9/1300:libudev:0:/dev/bus/usb/003/012"), IFD_SUCCESS);
	/* A later slot by its own name is a reader of one slot. */
	EQUAL(create(0x40000, "cardfs:/fake/3"), IFD_SUCCESS);
	/* Another interface of a device that the mount has. */
	EQUAL(create(0x50000, "usb:04b9/1300:libudev:1:/dev/bus/usb/003/012"), IFD_NO_SUCH_DEVICE);
	EQUAL(IFDHICCPresence(0x50000), IFD_ICC_NOT_PRESENT);
	/* One that the mount does not have yet, and a number of slots told. */
	EQUAL(create(0x50000, "usb:04b9/1300:libudev:0:/dev/bus/usb/003/013"), IFD_SUCCESS);
	EQUAL(create(0x60000, "cardfs:slots=2:/fake/0"), IFD_SUCCESS);
	for (DWORD i = 0; i < 4; i++) {
		EQUAL(byte_of(i << 16, TAG_IFD_SLOTS_NUMBER), 2);
		up(i << 16);
		works(i << 16);
	}
	EQUAL(byte_of(0x40000, TAG_IFD_SLOTS_NUMBER), 1);
	EQUAL(byte_of(0x60000, TAG_IFD_SLOTS_NUMBER), 2);
	EQUAL(IFDHICCPresence(0x20001), IFD_ICC_NOT_PRESENT);
	for (DWORD i = 0; i < 7; i++)
		EQUAL(IFDHCloseChannel(i << 16), IFD_SUCCESS);
	EQUAL(IFDHCloseChannel(0x20001), IFD_SUCCESS);
	end();

	begin("a lun in use is taken over");
	fake_arrive(0, 1, false);
	fake_insert(0);
	for (int i = 0; i < 3; i++) {
		EQUAL(create(0, "cardfs:/fake/0"), IFD_SUCCESS);
		up(0);
		works(0);
	}
	EQUAL(IFDHCloseChannel(0), IFD_SUCCESS);
	EQUAL(IFDHICCPresence(0), IFD_ICC_NOT_PRESENT);
	end();
}

/* ---- many at once ---------------------------------------------------------------------- */

static void *hammer(void *arg)
{
	DWORD lun = (DWORD)(uintptr_t)arg;
	UCHAR rx[258], atr[33];

	for (int i = 0; i < 60; i++) {
		DWORD n = sizeof rx;

		transmit(lun, select_mf, sizeof select_mf, rx, &n);
		n = sizeof atr;
		IFDHGetCapabilities(lun, TAG_IFD_ATR, &n, atr);
		IFDHICCPresence(lun);
		if (i % 8 == 0) {
			n = sizeof atr;
			IFDHPowerICC(lun, i % 16 == 0 ? IFD_RESET : IFD_POWER_UP, atr, &n);
		}
	}
	return NULL;
}

static void test_threads(void)
{
	pthread_t t[8];

	begin("threads, with channels closed under them");
	fake_arrive(0, 1, false);
	fake_arrive(1, 1, false);
	fake_insert(0);
	fake_insert(1);
	for (int round = 0; round < 5; round++) {
		EQUAL(create(0, "cardfs:/fake/0"), IFD_SUCCESS);
		EQUAL(create(0x10000, "cardfs:/fake/1"), IFD_SUCCESS);
		for (int i = 0; i < 8; i++)
			pthread_create(&t[i], NULL, hammer, (void *)(uintptr_t)((DWORD)(i & 1) << 16));
		fake_followed();
		fake_swap(0);
		EQUAL(IFDHCloseChannel(0), IFD_SUCCESS);
		for (int i = 0; i < 8; i++)
			pthread_join(t[i], NULL);
		EQUAL(IFDHCloseChannel(0x10000), IFD_SUCCESS);
		EQUAL(fake_open_files(), 0);
		fake_leave(0);
		fake_leave(1);
		fake_arrive(0, 1, false);
		fake_arrive(1, 1, false);
		fake_insert(0);
		fake_insert(1);
	}
	end();
}

int main(void)
{
	setenv("CARDFS_MOUNT", "/fake", 1);
	test_coming_and_going();
	test_quick_swap();
	test_daemon();
	test_lost_events();
	test_two_at_once();
	test_told();
	test_close_waits();
	test_false_alarm();
	test_foreign_reset();
	test_own_reset();
	test_starting();
	test_stop();
	test_lengths();
	test_small_buffer();
	test_lock();
	test_passing();
	test_interrupted();
	test_given_up();
	test_endless();
	test_fork();
	test_wiped();
	test_text();
	test_atr_sizes();
	test_answer_sizes();
	test_sessions_of_others();
	test_protocol();
	test_control();
	test_capabilities();
	test_names();
	test_threads();
	fake_reset();
	printf("ok\n");
	return 0;
}
