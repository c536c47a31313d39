/* SPDX-License-Identifier: BSD-3-Clause
 *
 * exchange.c - commands, their answers, power and protocol
 */
#define _GNU_SOURCE
#include "ifd_test.h"

void test_lengths(void)
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

void test_small_buffer(void)
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

void test_lock(void)
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
	/* The power-down runs in the thread that looks for cards, so it does not wait. */
	test_soon_ms = PATIENT_MS;
	before = cf_now();
	EQUAL(IFDHPowerICC(0, IFD_POWER_DOWN, NULL, NULL), IFD_SUCCESS);
	CHECK(cf_now() - before < PATIENT_MS / 2, "%ld ms", (long)(cf_now() - before));
	fake_foreign_lock(0, false);
	up(0);
	works(0);
	/* A card that could not be powered off is reset before it is used again, but
	 * only once. */
	CHECK(strstr(fake_power(0), "release cold") != NULL, "%s", fake_power(0));
	up(0);
	EQUAL(IFDHPowerICC(0, IFD_POWER_DOWN, NULL, NULL), IFD_SUCCESS);
	up(0);
	CHECK(strstr(fake_power(0), "cold release") != NULL, "%s", fake_power(0));
	CHECK(strstr(strstr(fake_power(0), "cold") + 4, "cold") == NULL, "%s", fake_power(0));
	EQUAL(IFDHCloseChannel(0), IFD_SUCCESS);
	end();
}

/* EBUSY and EAGAIN are temporary: nothing was done, and it is tried again. */
void test_passing(void)
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
void test_interrupted(void)
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
void test_given_up(void)
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
		if (i != 2) { /* if i is 2, the EIO stands for the answer, and the channel stays intact */
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

/* Reading a file without an end ends, too. */
void test_endless(void)
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

void test_sessions_of_others(void)
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

void test_protocol(void)
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

void test_control(void)
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
