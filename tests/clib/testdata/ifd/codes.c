/* SPDX-License-Identifier: BSD-3-Clause
 *
 * codes.c - which code of the IFD handler an errno becomes
 */
#define _GNU_SOURCE
#include "ifd_test.h"

/* ready is a powered card at lun 0. */
static void ready(const char *name)
{
	begin(name);
	fake_arrive(0, 1, false);
	fake_insert(0);
	EQUAL(create(0, "cardfs:/fake/0"), IFD_SUCCESS);
	up(0);
}

static void fail_from(int at, int error)
{
	fake_fault((struct fault){.shape = ERRNO, .error = error, .at = at, .from_then_on = true});
}

static void done(void)
{
	fake_fault((struct fault){NONE});
	EQUAL(IFDHCloseChannel(0), IFD_SUCCESS);
	end();
}

void test_codes(void)
{
	static const struct {
		int error;
		RESPONSECODE power, protocol, control;
	} table[] = {
		{ENOMEDIUM, IFD_ICC_NOT_PRESENT, IFD_ICC_NOT_PRESENT, IFD_ICC_NOT_PRESENT},
		{ENODEV, IFD_ICC_NOT_PRESENT, IFD_ICC_NOT_PRESENT, IFD_ICC_NOT_PRESENT},
		{ENOTCONN, IFD_ICC_NOT_PRESENT, IFD_ICC_NOT_PRESENT, IFD_ICC_NOT_PRESENT},
		{ENOENT, IFD_ICC_NOT_PRESENT, IFD_PROTOCOL_NOT_SUPPORTED, IFD_ERROR_NOT_SUPPORTED},
		{EAGAIN, IFD_ICC_NOT_PRESENT, IFD_ICC_NOT_PRESENT, IFD_ICC_NOT_PRESENT},
		{ETIMEDOUT, IFD_RESPONSE_TIMEOUT, IFD_ERROR_PTS_FAILURE, IFD_RESPONSE_TIMEOUT},
		{EPROTO, IFD_COMMUNICATION_ERROR, IFD_ERROR_PTS_FAILURE, IFD_COMMUNICATION_ERROR},
		{EBUSY, IFD_ERROR_POWER_ACTION, IFD_COMMUNICATION_ERROR, IFD_COMMUNICATION_ERROR},
		{EINVAL, IFD_COMMUNICATION_ERROR, IFD_PROTOCOL_NOT_SUPPORTED, IFD_COMMUNICATION_ERROR},
		{ENOTTY, IFD_COMMUNICATION_ERROR, IFD_COMMUNICATION_ERROR, IFD_ERROR_NOT_SUPPORTED},
		{EIO, IFD_COMMUNICATION_ERROR, IFD_COMMUNICATION_ERROR, IFD_COMMUNICATION_ERROR},
	};
	UCHAR atr[33], rx[8];
	DWORD n;

	for (size_t i = 0; i < sizeof table / sizeof table[0]; i++) {
		int e = table[i].error;

		ready(strerror(e));
		fail_from(1, e);
		n = sizeof atr;
		CHECK(IFDHPowerICC(0, IFD_RESET, atr, &n) == table[i].power, "power, errno %d", e);
		EQUAL(n, 0);
		/* Without a session there is no ATR. */
		n = sizeof atr;
		EQUAL(IFDHGetCapabilities(0, TAG_IFD_ATR, &n, atr), IFD_SUCCESS);
		EQUAL(n, 0);
		done();

		ready(strerror(e));
		fail_from(1, e);
		CHECK(IFDHSetProtocolParameters(0, 1, 0, 0, 0, 0) == table[i].protocol, "protocol, errno %d", e);
		done();

		ready(strerror(e));
		fail_from(1, e);
		n = 99;
		CHECK(IFDHControl(0, 0x42000D48, NULL, 0, rx, 8, &n) == table[i].control, "control, errno %d", e);
		EQUAL(n, 0);
		done();
	}
}

/* The last of what a session leaves. */
void test_session_end(void)
{
	UCHAR b, rx[400];
	DWORD n;
	int files;
	static const UCHAR get[] = {0x80, 0xEC, 0x01, 0x2C, 0x00}; /* 300 bytes */

	ready("no ATR without power");
	EQUAL(IFDHPowerICC(0, IFD_POWER_DOWN, NULL, NULL), IFD_SUCCESS);
	n = 1;
	EQUAL(IFDHGetCapabilities(0, SCARD_ATTR_ICC_INTERFACE_STATUS, &n, &b), IFD_SUCCESS);
	EQUAL(b, 0);
	done();

	ready("no ATR without a card");
	fake_followed();
	fake_remove(0);
	fake_followed();
	n = 1;
	EQUAL(IFDHGetCapabilities(0, SCARD_ATTR_ICC_INTERFACE_STATUS, &n, &b), IFD_SUCCESS);
	EQUAL(b, 0);
	n = sizeof rx;
	EQUAL(IFDHGetCapabilities(0, SCARD_ATTR_ATR_STRING, &n, rx), IFD_SUCCESS);
	EQUAL(n, 0);
	done();

	ready("the session with a reader that left is over");
	fake_followed();
	files = fake_open_files();
	fake_fault((struct fault){.shape = ERRNO, .error = ENODEV, .at = 1});
	n = sizeof rx;
	EQUAL(transmit(0, select_mf, sizeof select_mf, rx, &n), IFD_COMMUNICATION_ERROR);
	EQUAL(fake_open_files(), files - 1);
	fake_fault((struct fault){NONE});
	EQUAL(transmit(0, select_mf, sizeof select_mf, rx, &n), IFD_COMMUNICATION_ERROR);
	EQUAL(fake_calls(), 0);
	done();

	ready("an answer of known length is read to there, and no further");
	fake_fault((struct fault){NONE});
	n = 302;
	EQUAL(transmit(0, get, sizeof get, rx, &n), IFD_SUCCESS);
	EQUAL(n, 302);
	EQUAL(fake_calls(), 2); /* ioctl, read */
	done();

	ready("an error in the place of the rest of an answer");
	fake_fault((struct fault){.shape = ERRNO, .error = EIO, .at = 2});
	n = sizeof rx;
	EQUAL(transmit(0, get, sizeof get, rx, &n), IFD_COMMUNICATION_ERROR);
	n = sizeof rx;
	EQUAL(transmit(0, select_mf, sizeof select_mf, rx, &n), IFD_COMMUNICATION_ERROR);
	EQUAL(fake_count(0, select_mf, sizeof select_mf), 0);
	done();

	ready("T=15 is not T=1");
	fake_protocols(0, "T=0 T=15");
	EQUAL(IFDHSetProtocolParameters(0, 2, 0, 0, 0, 0), IFD_PROTOCOL_NOT_SUPPORTED);
	fake_protocols(0, "T=0 T=15 T=1");
	EQUAL(IFDHSetProtocolParameters(0, 2, 0, 0, 0, 0), IFD_SUCCESS);
	done();

	begin("control does not wait for a reader that starts");
	fake_arrive(0, 1, true);
	EQUAL(create(0, "cardfs:/fake/0"), IFD_SUCCESS);
	EQUAL(IFDHControl(0, 0x42000D48, NULL, 0, rx, 8, &n), IFD_ICC_NOT_PRESENT);
	EQUAL(IFDHCloseChannel(0), IFD_SUCCESS);
	end();
}
