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
	pthread_mutex_lock(&p->mu);
	while (p->inserted < inserted || p->removed < removed)
		pthread_cond_wait(&p->changed, &p->mu);
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

	begin("events are lost: the slot is looked at");
	fake_arrive(0, 1, false);
	fake_insert(0);
	pcscd_start(&p, 0, "cardfs:/fake/0");
	settled(&p, 1, 0);
	fake_line("this is 0 no event");
	fake_line("99 0");
	fake_line("99 0 hopped");
	fake_line("99 4294967295 removed");
	fake_line("99 77 inserted");
	fake_line("99 - lost=12");
	fake_remove(0);
	settled(&p, 1, 1);
	pcscd_end(&p);
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
	CHECK(strcmp(fake_power(0), "reset reset reset off off") == 0, "%s", fake_power(0));
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

static void up(DWORD lun)
{
	UCHAR atr[33];
	DWORD n = sizeof atr;

	EQUAL(IFDHICCPresence(lun), IFD_ICC_PRESENT);
	EQUAL(IFDHPowerICC(lun, IFD_POWER_UP, atr, &n), IFD_SUCCESS);
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
	EQUAL(IFDHPowerICC(0, IFD_POWER_DOWN, NULL, NULL), IFD_ERROR_POWER_ACTION);
	fake_foreign_lock(0, false);
	up(0);
	works(0);
	/* What could not be powered off is reset before it is used again. */
	CHECK(strstr(fake_power(0), "off cold") != NULL, "%s", fake_power(0));
	EQUAL(IFDHCloseChannel(0), IFD_SUCCESS);
	end();
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
	CHECK(fake_power(0)[0] == '\0', "%s", fake_power(0));
	up(0);
	CHECK(strcmp(fake_power(0), "cold") == 0, "%s", fake_power(0));
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
	UCHAR tx[] = {1, 2, 3, 4, 5}, rx[5];
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
	test_false_alarm();
	test_foreign_reset();
	test_own_reset();
	test_starting();
	test_stop();
	test_lengths();
	test_small_buffer();
	test_lock();
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
