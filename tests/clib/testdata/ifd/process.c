/* SPDX-License-Identifier: BSD-3-Clause
 *
 * process.c - fork, PINs in memory, threads
 */
#define _GNU_SOURCE
#include "ifd_test.h"

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

void test_fork(void)
{
	struct pcscd p;

	begin("a child has nothing of its parent's");
	descriptors_before = descriptors();
	fake_arrive(0, 1, false);
	fake_insert(0);
	pcscd_start(&p, 0, "cardfs:/fake/0");
	settled(&p, 1, 0);
	works(0);
	fake_followed(); /* what a thread is just opening is the child's, too */
	in_child(child);
	works(0);
	EQUAL(strcmp(fake_power(0), ""), 0);
	fake_remove(0);
	settled(&p, 1, 1);
	pcscd_end(&p);
	end();
}

void test_wiped(void)
{
	static const int errors[] = {0, EIO, EINTR, EBUSY};
	UCHAR rx[16];

	begin("a PIN stays nowhere in the process, however its command ends");
	check_scan();
	fake_arrive(0, 1, false);
	fake_insert(0);
	EQUAL(create(0, "cardfs:/fake/0"), IFD_SUCCESS);
	for (int kind = 0; kind < 4; kind++) /* short, long, control, an answer longer than its command */
		for (size_t i = 0; i < sizeof errors / sizeof errors[0]; i++) {
			DWORD ntx = kind == 1 ? 17000 : kind == 2 ? 60 : 13, n = sizeof rx;
			UCHAR *tx = sized(ntx);
			SCARD_IO_HEADER send = {1, sizeof send};

			power_up(0);
			memcpy(tx, kind == 3 ? "\x80\xED\x00\x01\x08" : "\x80\xEE\x00\x01\x08", 5); /* it is echoed, too */
			pin_into(tx + ntx - 8);
			if (errors[i] != 0)
				fake_fault((struct fault){.shape = ERRNO, .error = errors[i],
					.at = kind == 1 ? 2 : kind == 2 ? 5 : 1, .from_then_on = true});
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

void test_threads(void)
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
