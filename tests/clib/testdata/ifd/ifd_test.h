/* SPDX-License-Identifier: BSD-3-Clause
 *
 * ifd_test.h - pcscd as the IFD handler meets it, and what the tests of the handler share
 */
#ifndef IFD_TEST_H
#define IFD_TEST_H

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

static const UCHAR token[] __attribute__((unused)) = {0x3B, 0xB7, 0x94, 0x00, 0x81, 0x31, 0xFE, 0x65,
			      0x53, 0x50, 0x4B, 0x32, 0x33, 0x90, 0x00, 0xD1};

typedef RESPONSECODE poll_function(DWORD, int);

/* pcscd's event thread, as pcsc-lite's eventhandler.c runs it: presence,
 * power-up on insertion, poll, power-down of what nobody uses. */
struct pcscd {
	DWORD lun;
	poll_function *poll;
	RESPONSECODE (*stop)(DWORD);
	pthread_t thread;
	pthread_mutex_t mu;
	pthread_cond_t changed;
	bool present, mute, leaving;
	int inserted, removed, mutes;
};

static inline void *event_thread(void *arg)
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
			/* A power-up is refused if the slot has become empty. */
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

static inline RESPONSECODE create(DWORD lun, const char *name)
{
	char device[128];

	snprintf(device, sizeof device, "%s", name);
	return IFDHCreateChannelByName(lun, device);
}

/* The function that pcscd's event thread waits in. */
static inline poll_function *polling(DWORD lun)
{
	poll_function *poll = NULL;
	DWORD n = sizeof poll;

	EQUAL(IFDHGetCapabilities(lun, TAG_IFD_POLLING_THREAD_WITH_TIMEOUT, &n, (PUCHAR)&poll), 0);
	EQUAL(n, sizeof poll);
	return poll;
}

/* Exchanges the card in the fake's slot 0, which is the handler's. The handler has
 * then read the events. */
static inline void swap_card(void)
{
	struct cf_slot *s = cf_get(0);
	uint64_t card = cf_card(s);

	fake_followed();
	fake_swap(0);
	fake_followed();
	CHECK(cf_card(s) > card, "no event");
	cf_put(s);
}

static inline void pcscd_start(struct pcscd *p, DWORD lun, const char *device)
{
	DWORD n = sizeof p->stop;

	memset(p, 0, sizeof *p);
	p->lun = lun;
	pthread_mutex_init(&p->mu, NULL);
	pthread_cond_init(&p->changed, NULL);
	EQUAL(create(lun, device), IFD_SUCCESS);
	p->poll = polling(lun);
	EQUAL(IFDHGetCapabilities(lun, TAG_IFD_STOP_POLLING_THREAD, &n, (PUCHAR)&p->stop), 0);
	IFDHICCPresence(lun);
	EQUAL(pthread_create(&p->thread, NULL, event_thread, p), 0);
}

static inline void pcscd_end(struct pcscd *p)
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
static inline void settled(struct pcscd *p, int inserted, int removed)
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

static inline RESPONSECODE transmit(DWORD lun, const UCHAR *tx, DWORD ntx, UCHAR *rx, DWORD *nrx)
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

static const UCHAR select_mf[] __attribute__((unused)) = {0x00, 0xA4, 0x00, 0x0C, 0x02, 0x3F, 0x00};

static inline void works(DWORD lun)
{
	UCHAR rx[65548];
	DWORD n = sizeof rx;

	EQUAL(transmit(lun, select_mf, sizeof select_mf, rx, &n), IFD_SUCCESS);
	EQUAL(n, 2);
	EQUAL(rx[0] << 8 | rx[1], 0x9000);
}

/* Long enough for anything on any machine. */
enum { PATIENT_MS = 120000 };

static inline void begin(const char *name)
{
	check_test = name;
	fake_reset();
}

static inline void end(void)
{
	EQUAL(fake_open_files(), 0);
}

static inline void power_up(DWORD lun)
{
	UCHAR atr[33];
	DWORD n = sizeof atr;

	EQUAL(IFDHPowerICC(lun, IFD_POWER_UP, atr, &n), IFD_SUCCESS);
}

static inline void up(DWORD lun)
{
	EQUAL(IFDHICCPresence(lun), IFD_ICC_PRESENT);
	power_up(lun);
}

static inline int descriptors(void)
{
	int n = 0;

	for (int fd = 3; fd < 200; fd++)
		n += fcntl(fd, F_GETFD) >= 0;
	return n;
}

/* coming.c */
void test_coming_and_going(void);
void test_quick_swap(void);
void test_daemon(void);
void test_lost_events(void);
void test_two_at_once(void);
void test_close_waits(void);
void test_told(void);
void test_false_alarm(void);
void test_foreign_reset(void);
void test_own_reset(void);
void test_starting(void);
void test_stop(void);

/* watch.c */
void test_two_mounts(void);
void test_states(void);
void test_broken_stream(void);
void test_signals(void);
void test_unplugged(void);
void test_look_of_another(void);
void test_swap_before_poll(void);
void test_poll_ends(void);
void test_broken_answer(void);
void test_nothing_mounted(void);

/* codes.c */
void test_codes(void);
void test_session_end(void);

/* exchange.c */
void test_lengths(void);
void test_small_buffer(void);
void test_lock(void);
void test_passing(void);
void test_interrupted(void);
void test_given_up(void);
void test_endless(void);
void test_sessions_of_others(void);
void test_protocol(void);
void test_control(void);

/* process.c */
void test_fork(void);
void test_wiped(void);
void test_threads(void);

/* sizes.c */
void test_text(void);
void test_atr_sizes(void);
void test_answer_sizes(void);

/* names.c */
void test_capabilities(void);
void test_names(void);
void test_usb_names(void);

#endif
