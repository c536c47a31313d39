/* SPDX-License-Identifier: BSD-3-Clause
 *
 * watch.c - what the event thread keeps of the mount, and who is woken
 */
#define _GNU_SOURCE
#include <sched.h>
#include <signal.h>

#include "ifd_test.h"

/* await_state waits until a slot has a state. */
static void await_state(DWORD lun, enum cf_state want)
{
	struct cf_slot *s = cf_get(lun);
	int64_t until = cf_now() + PATIENT_MS;

	pthread_mutex_lock(&cf_slots_lock);
	while (s->state != want)
		CHECK(cf_wait_change(s, until), "the state is %d, not %d", s->state, want);
	pthread_mutex_unlock(&cf_slots_lock);
	cf_put(s);
}

/* "Two mounts have slots of the same numbers": an event is for those of its mount. */
void test_two_mounts(void)
{
	begin("the reader of another mount");
	for (int i = 0; i < 2; i++) {
		fake_arrive(i * OTHER, 1, false);
		fake_insert(i * OTHER);
		EQUAL(create((DWORD)i << 16, i == 0 ? "cardfs:/fake/0" : "cardfs:/other/0"), IFD_SUCCESS);
		up((DWORD)i << 16);
	}
	fake_followed();
	fake_remove(0);
	await_state(0, CF_EMPTY);
	fake_followed();
	EQUAL(IFDHICCPresence(0), IFD_ICC_NOT_PRESENT);
	EQUAL(IFDHICCPresence(0x10000), IFD_ICC_PRESENT);
	works(0x10000);
	EQUAL(fake_commands(OTHER), 1);
	fake_remove(OTHER);
	await_state(0x10000, CF_EMPTY);
	fake_insert(0);
	await_state(0, CF_CARD);
	fake_followed();
	EQUAL(IFDHICCPresence(0x10000), IFD_ICC_NOT_PRESENT);
	EQUAL(IFDHCloseChannel(0), IFD_SUCCESS);
	EQUAL(IFDHCloseChannel(0x10000), IFD_SUCCESS);
	end();
}

/* An event file has arrived, ready, failed, inserted, removed and left. */
void test_states(void)
{
	struct cf_slot *s;

	begin("the state after each event");
	EQUAL(create(0, "cardfs:/fake/0"), IFD_SUCCESS);
	fake_followed();
	fake_arrive(0, 1, true);
	await_state(0, CF_STARTING);
	fake_fail(0);
	await_state(0, CF_EMPTY);
	fake_leave(0);
	await_state(0, CF_AWAY);
	fake_arrive(0, 1, true);
	await_state(0, CF_STARTING);
	fake_ready(0);
	await_state(0, CF_EMPTY);
	fake_insert(0);
	await_state(0, CF_CARD);
	/* The card could not be powered, and is still there. */
	fake_line("98 0 failed error=the_card_does_not_answer");
	fake_followed();
	await_state(0, CF_CARD);
	EQUAL(IFDHICCPresence(0), IFD_ICC_PRESENT);
	/* "gone": the reader left, and its event has not come yet. */
	fake_gone(0);
	fake_line("99 - lost=1");
	await_state(0, CF_AWAY);
	EQUAL(IFDHCloseChannel(0), IFD_SUCCESS);
	end();

	begin("what ended with an old card is not the new one's");
	fake_arrive(0, 1, false);
	fake_insert(0);
	EQUAL(create(0, "cardfs:/fake/0"), IFD_SUCCESS);
	s = cf_get(0);
	cf_card_gone(s, cf_card(s) - 1, CF_EMPTY);
	EQUAL(cf_state_of(s), CF_CARD);
	cf_card_gone(s, cf_card(s), CF_EMPTY);
	EQUAL(cf_state_of(s), CF_EMPTY);
	cf_put(s);
	EQUAL(IFDHCloseChannel(0), IFD_SUCCESS);
	end();
}

/* A daemon may end in the middle of a line, or with an end of file. */
void test_broken_stream(void)
{
	struct pcscd p;
	int before;

	begin("half a line of a daemon that died");
	EQUAL(create(0, "cardfs:/fake/0"), IFD_SUCCESS);
	fake_followed();
	fake_piece("99 0 rem");
	fake_followed();
	fake_daemon(false);
	fake_daemon(true);
	fake_followed();
	fake_arrive(0, 1, true);
	await_state(0, CF_STARTING);
	EQUAL(IFDHCloseChannel(0), IFD_SUCCESS);
	end();

	begin("an end of file is the daemon's end, and leaves no descriptor");
	fake_arrive(0, 1, false);
	fake_insert(0);
	pcscd_start(&p, 0, "cardfs:/fake/0");
	settled(&p, 1, 0);
	fake_followed();
	before = descriptors();
	for (int i = 1; i <= 3; i++) {
		fake_fault((struct fault){.shape = EMPTY, .at = 1, .of_others = true});
		settled(&p, i + 1, i);
		fake_followed();
		EQUAL(descriptors(), before);
	}
	pcscd_end(&p);
	end();
}

static void ignore(int sig)
{
	(void)sig;
}

/* pcscd handles its signals in a thread of its own: the event thread takes none. */
void test_signals(void)
{
	sigset_t one, before, after, pending;

	begin("signals are the program's");
	signal(SIGUSR2, ignore);
	sigemptyset(&one);
	sigaddset(&one, SIGUSR2);
	pthread_sigmask(SIG_UNBLOCK, &one, &before);
	EQUAL(create(0, "cardfs:/fake/0"), IFD_SUCCESS);
	pthread_sigmask(SIG_BLOCK, NULL, &after);
	EQUAL(sigismember(&after, SIGUSR2), 0);
	fake_followed();
	/* Only this thread may take the signal, and it does not. */
	pthread_sigmask(SIG_BLOCK, &one, NULL);
	kill(getpid(), SIGUSR2);
	sigpending(&pending);
	EQUAL(sigismember(&pending, SIGUSR2), 1);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	EQUAL(IFDHCloseChannel(0), IFD_SUCCESS);
	end();
}

/* TAG_IFD_DEVICE_REMOVED: the slots of that reader are gone for good. */
void test_unplugged(void)
{
	static const UCHAR yes = 1, no = 0;

	begin("what was unplugged does not come back");
	fake_arrive(0, 2, false);
	fake_insert(0);
	fake_insert(1);
	EQUAL(create(0x20000, "cardfs:/fake/0"), IFD_SUCCESS);
	EQUAL(create(0x20001, "cardfs:/fake/0"), IFD_SUCCESS);
	EQUAL(create(0x30000, "cardfs:/fake/0"), IFD_SUCCESS);
	EQUAL(IFDHSetCapabilities(0x20000, TAG_IFD_DEVICE_REMOVED, 1, (PUCHAR)(uintptr_t)&no), IFD_SUCCESS);
	up(0x20000);
	fake_followed();
	EQUAL(IFDHSetCapabilities(0x20000, TAG_IFD_DEVICE_REMOVED, 1, (PUCHAR)(uintptr_t)&yes), IFD_SUCCESS);
	fake_swap(0);
	fake_swap(1);
	fake_followed();
	EQUAL(IFDHICCPresence(0x20000), IFD_ICC_NOT_PRESENT);
	EQUAL(IFDHICCPresence(0x20001), IFD_ICC_NOT_PRESENT);
	EQUAL(IFDHPowerICC(0x20000, IFD_POWER_UP, NULL, NULL), IFD_ICC_NOT_PRESENT);
	EQUAL(IFDHICCPresence(0x30000), IFD_ICC_PRESENT); /* another of pcscd's readers */
	EQUAL(IFDHCloseChannel(0x20000), IFD_SUCCESS);
	EQUAL(IFDHCloseChannel(0x20001), IFD_SUCCESS);
	EQUAL(IFDHCloseChannel(0x30000), IFD_SUCCESS);
	end();
}

static void *look(void *arg)
{
	EQUAL(IFDHICCPresence(*(DWORD *)arg), IFD_ICC_PRESENT);
	return NULL;
}

/* presence.c: "The thread that calls the polling function is the one that asks". */
void test_look_of_another(void)
{
	poll_function *poll;
	DWORD lun = 0;
	int64_t before = cf_now();
	pthread_t client;

	begin("what another thread saw is still to be told");
	fake_arrive(0, 1, false);
	EQUAL(create(0, "cardfs:/fake/0"), IFD_SUCCESS);
	poll = polling(0);
	poll(0, 1);
	EQUAL(IFDHICCPresence(0), IFD_ICC_NOT_PRESENT);
	fake_insert(0);
	await_state(0, CF_CARD);
	pthread_create(&client, NULL, look, &lun);
	pthread_join(client, NULL);
	poll(0, PATIENT_MS); /* there is news, so it does not wait */
	CHECK(cf_now() - before < PATIENT_MS / 2, "it waited");
	EQUAL(IFDHICCPresence(0), IFD_ICC_PRESENT);
	EQUAL(IFDHCloseChannel(0), IFD_SUCCESS);
	end();
}

/* A card that was exchanged before the first poll is also absent once. */
void test_swap_before_poll(void)
{
	poll_function *poll;

	begin("a swap before the first poll");
	fake_arrive(0, 1, false);
	fake_insert(0);
	EQUAL(create(0, "cardfs:/fake/0"), IFD_SUCCESS);
	poll = polling(0);
	EQUAL(IFDHICCPresence(0), IFD_ICC_PRESENT);
	swap_card();
	EQUAL(IFDHICCPresence(0), IFD_ICC_NOT_PRESENT);
	poll(0, 1);
	EQUAL(IFDHICCPresence(0), IFD_ICC_NOT_PRESENT);
	poll(0, 1);
	EQUAL(IFDHICCPresence(0), IFD_ICC_PRESENT);
	EQUAL(IFDHCloseChannel(0), IFD_SUCCESS);
	end();
}

static void *poll_long(void *slot)
{
	cf_poll(slot, PATIENT_MS);
	return NULL;
}

/* pcscd's event thread waits in the poll. A stop wakes it, and so does the end. */
void test_poll_ends(void)
{
	for (int i = 0; i < 2; i++) {
		int64_t before = cf_now();
		struct cf_slot *s;
		pthread_t thread;
		bool polled = false;

		begin(i == 0 ? "a stop ends a poll" : "the channel's end ends a poll");
		EQUAL(create(0, "cardfs:/fake/0"), IFD_SUCCESS);
		fake_followed();
		s = cf_get(0);
		pthread_create(&thread, NULL, poll_long, s);
		while (!polled) { /* once the lock is free again, the thread waits */
			pthread_mutex_lock(&cf_slots_lock);
			polled = s->polled;
			pthread_mutex_unlock(&cf_slots_lock);
			sched_yield();
		}
		if (i == 0)
			cf_stop(s);
		else
			EQUAL(IFDHCloseChannel(0), IFD_SUCCESS);
		pthread_join(thread, NULL);
		CHECK(cf_now() - before < PATIENT_MS / 2, "it waited");
		cf_put(s);
		if (i == 0)
			EQUAL(IFDHCloseChannel(0), IFD_SUCCESS);
		end();
	}
}

/* Changes without an event wake the poll, too. */
void test_broken_answer(void)
{
	static const UCHAR bare[] = {0x80, 0xE1, 0x00, 0x00, 0x00};
	UCHAR rx[258];
	DWORD n = sizeof rx;
	struct pcscd p;

	begin("an answer without SW1 SW2 is a card in another state");
	fake_arrive(0, 1, false);
	fake_insert(0);
	pcscd_start(&p, 0, "cardfs:/fake/0");
	settled(&p, 1, 0);
	works(0);
	EQUAL(transmit(0, bare, sizeof bare, rx, &n), IFD_COMMUNICATION_ERROR);
	settled(&p, 2, 1);
	works(0);
	pcscd_end(&p);
	end();
}

/* "If nothing is mounted it does not wait." */
void test_nothing_mounted(void)
{
	int64_t before = cf_now();

	begin("where nothing is mounted there is nothing to wait for");
	fake_daemon(false);
	test_soon_ms = PATIENT_MS;
	EQUAL(create(0, "usb:04b9/1300:libudev:0:/dev/bus/usb/003/012"), IFD_SUCCESS);
	CHECK(cf_now() - before < PATIENT_MS / 2, "it waited");
	EQUAL(IFDHCloseChannel(0), IFD_SUCCESS);
	end();
}
