/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The IFD handler over a mount that fails, cuts short, overflows and lies, at
 * every single call. Whatever it does: pcscd gets a code that it knows, no
 * buffer is overrun, no command reaches the card twice, nothing leaks, and once
 * the mount behaves again everything works.
 */
#define _GNU_SOURCE
#include <time.h>

#include "file.h"
#include "hostile.h"
#include "ifd.h"

enum { LONG_COMMAND = 17000 };

static const UCHAR commands[][9] = {
	{0x00, 0x20, 0x00, 0x01, 0x04, '1', '2', '3', '4'}, /* a PIN try */
	{0x00, 0x20, 0x00, 0x02, 0x04, '1', '2', '3', '4'}, /* one after a reset */
	{0x80, 0xEC, 0x01, 0x2C, 0x00, 0x00, 0x00, 0x00, 0x00}, /* 300 bytes come back */
};

static UCHAR long_command[LONG_COMMAND];

static void legal(RESPONSECODE rv)
{
	CHECK(rv == IFD_SUCCESS || (rv >= IFD_ERROR_TAG && rv <= IFD_ERROR_INSUFFICIENT_BUFFER),
	      "%ld", rv);
	/* This would make pcscd rescan and drop the reader. */
	CHECK(rv != IFD_NO_SUCH_DEVICE, "617");
}

static void transmit(const UCHAR *tx, DWORD ntx, DWORD room)
{
	UCHAR *exact = sized(ntx), *rx = sized(room);
	SCARD_IO_HEADER send = {1, sizeof send}, got;
	DWORD n = room;
	RESPONSECODE rv;

	memcpy(exact, tx, ntx);
	rv = IFDHTransmitToICC(0, send, exact, ntx, rx, &n, &got);
	legal(rv);
	/* pcscd would mark the slot empty, even if a card was inserted meanwhile. */
	CHECK(rv != IFD_ICC_NOT_PRESENT, "616");
	CHECK(n <= room, "%lu of %lu", n, room);
	CHECK(rv == IFD_SUCCESS ? n >= 2 : n == 0, "%ld with %lu", rv, n);
	free(exact);
	free(rx);
	/* The card receives it at most once, whatever the handler reported. */
	CHECK(fake_count(0, tx, ntx) <= 1, "sent %d times", fake_count(0, tx, ntx));
	if (rv == IFD_SUCCESS)
		EQUAL(fake_count(0, tx, ntx), 1);
}

static void power(DWORD action)
{
	UCHAR *atr = sized(33);
	DWORD n = 33;
	RESPONSECODE rv = IFDHPowerICC(0, action, atr, &n);

	legal(rv);
	CHECK(n <= 33, "%lu", n);
	if (rv != IFD_SUCCESS)
		EQUAL(n, 0);
	free(atr);
}

static void scenario(void)
{
	static const DWORD tags[] = {
		TAG_IFD_ATR, TAG_IFD_SLOTNUM, TAG_IFD_SLOTS_NUMBER, SCARD_ATTR_VENDOR_NAME,
		SCARD_ATTR_VENDOR_IFD_VERSION, SCARD_ATTR_VENDOR_IFD_SERIAL_NO, SCARD_ATTR_CHANNEL_ID,
		SCARD_ATTR_ICC_PRESENCE, 0x4711,
	};
	char device[] = "usb:04b9/1300:libudev:0:/dev/bus/usb/003/012";
	char by_id[] = "cardfs:/fake/by-id/reader-0";
	RESPONSECODE (*poll)(DWORD, int) = NULL;
	UCHAR *buf = sized(64);
	DWORD n = sizeof poll;

	for (int i = 0; i < LONG_COMMAND; i++)
		long_command[i] = (UCHAR)i;
	memcpy(long_command, "\x00\xD6\x00\x00\x00", 5);
	fake_arrive(0, 2, false);
	fake_usb(0, 3, 12, 0);
	fake_insert(0);

	/* Only a lack of memory may keep a reader from being opened. */
	IFDHCreateChannelByName(0, device);
	IFDHCreateChannelByName(0x10001, by_id);
	if (IFDHGetCapabilities(0, TAG_IFD_POLLING_THREAD_WITH_TIMEOUT, &n, (PUCHAR)&poll) != 0)
		poll = NULL;
	legal(IFDHICCPresence(0));
	power(IFD_POWER_UP);
	legal(IFDHSetProtocolParameters(0, 1, 0, 0, 0, 0));
	transmit(commands[0], 9, 65548);
	transmit(commands[2], 5, 302);
	transmit(long_command, LONG_COMMAND, 65548);
	n = 99;
	legal(IFDHControl(0, 0x42000D48, (PUCHAR) "abc", 3, buf, 64, &n));
	CHECK(n <= 64, "%lu", n);
	for (size_t i = 0; i < sizeof tags / sizeof tags[0]; i++) {
		n = 64;
		legal(IFDHGetCapabilities(0, tags[i], &n, buf));
	}
	fake_swap(0);
	if (poll != NULL)
		legal(poll(0, 1));
	legal(IFDHICCPresence(0));
	power(IFD_RESET);
	transmit(commands[1], 9, 258);
	power(IFD_POWER_DOWN);
	free(buf);
}

static void recovered(void)
{
	char device[] = "cardfs:/fake/0";
	UCHAR atr[33], rx[300];
	SCARD_IO_HEADER send = {1, sizeof send};
	RESPONSECODE (*poll)(DWORD, int) = NULL;
	DWORD n = sizeof poll;
	int64_t until = cf_now() + 20000;

	if (IFDHGetCapabilities(0, TAG_IFD_POLLING_THREAD_WITH_TIMEOUT, &n, (PUCHAR)&poll) != 0) {
		EQUAL(IFDHCreateChannelByName(0, device), IFD_SUCCESS);
		EQUAL(IFDHGetCapabilities(0, TAG_IFD_POLLING_THREAD_WITH_TIMEOUT, &n, (PUCHAR)&poll), 0);
	}
	/* pcscd's loop, up to the next command. */
	for (;;) {
		CHECK(cf_now() < until, "it does not come back");
		if (IFDHICCPresence(0) == IFD_ICC_PRESENT) {
			n = sizeof atr;
			if (IFDHPowerICC(0, IFD_RESET, atr, &n) == IFD_SUCCESS) {
				EQUAL(n, 16);
				n = sizeof rx;
				if (IFDHTransmitToICC(0, send, (PUCHAR) "\x00\x84\x00\x00\x08", 5, rx, &n,
						      NULL) == IFD_SUCCESS)
					break;
			}
		}
		poll(0, 5);
	}
	EQUAL(n, 2);
	IFDHCloseChannel(0x10001);
	EQUAL(IFDHCloseChannel(0), IFD_SUCCESS);
}

int main(void)
{
	setenv("CARDFS_MOUNT", "/fake", 1);
	hostile(scenario, recovered, stride());
	fake_reset();
	printf("ok: %d runs\n", hostile_runs);
	return 0;
}
