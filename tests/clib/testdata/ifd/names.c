/* SPDX-License-Identifier: BSD-3-Clause
 *
 * names.c - capabilities and device names
 */
#define _GNU_SOURCE
#include "ifd_test.h"

static DWORD byte_of(DWORD lun, DWORD tag)
{
	UCHAR b = 0xEE;
	DWORD n = 1;

	EQUAL(IFDHGetCapabilities(lun, tag, &n, &b), IFD_SUCCESS);
	EQUAL(n, 1);
	return b;
}

void test_capabilities(void)
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

void test_names(void)
{
	static const char *const wrong[] = {
		"", "cardfs:", "cardfs:0", "cardfs:/", "cardfs:/fake/x", "cardfs:/fake/0x",
		"cardfs:/fake/99999999999", "cardfs:/fake/by-id/", "cardfs:/fake/by-id/..", "cardfs:/fake/by-id/.",
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
	/* The longest mount point that fits, and a longer one. */
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

	/* By the directory, the by-id name, the channel number, the USB device. */
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
	/* A later slot under its own name is a reader with one slot. */
	EQUAL(create(0x40000, "cardfs:/fake/3"), IFD_SUCCESS);
	/* Another interface of a device that the mount has. */
	EQUAL(create(0x50000, "usb:04b9/1300:libudev:1:/dev/bus/usb/003/012"), IFD_NO_SUCH_DEVICE);
	EQUAL(IFDHICCPresence(0x50000), IFD_ICC_NOT_PRESENT);
	/* A device that the mount does not have yet, with a given number of slots. */
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

/* A USB device is one bus, one address and one interface. The slot is its first
 * one. */
void test_usb_names(void)
{
	struct cf_name name;
	int64_t before;

	begin("USB devices of one bus");
	fake_arrive(0, 1, false);
	fake_usb(0, 3, 11, 0);
	fake_arrive(1, 1, false);
	fake_usb(1, 4, 12, 0);
	fake_arrive(2, 2, false);
	fake_usb(2, 3, 12, 0);
	fake_usb(3, 3, 12, 0);
	fake_insert(2);
	EQUAL(create(0, "usb:04b9/1300:libudev:0:/dev/bus/usb/003/012"), IFD_SUCCESS);
	EQUAL(byte_of(0, TAG_IFD_SLOTS_NUMBER), 2);
	up(0);
	works(0);
	EQUAL(fake_commands(2), 1);
	EQUAL(IFDHCloseChannel(0), IFD_SUCCESS);
	/* No call waits if the mount knows the answer, or if there is none. */
	test_soon_ms = PATIENT_MS;
	before = cf_now();
	EQUAL(create(0, "usb:04b9/1300:libudev:1:/dev/bus/usb/003/012"), IFD_NO_SUCH_DEVICE);
	CHECK(cf_now() - before < PATIENT_MS / 2, "it waited for another interface");
	end();

	/* CARDFS_MOUNT is a path from the root, with or without slashes at its end. */
	begin("the mount point of the environment");
	for (int i = 0; i < 3; i++) {
		static const char *const roots[][2] = {{"fake", "/mnt/cards"}, {"/fake//", "/fake"}, {"/", "/"}};

		setenv("CARDFS_MOUNT", roots[i][0], 1);
		CHECK(cf_numbered(7, &name), "%s", roots[i][0]);
		CHECK(strcmp(name.root, roots[i][1]) == 0, "%s", name.root);
	}
	setenv("CARDFS_MOUNT", "/fake", 1);
	end();
}
