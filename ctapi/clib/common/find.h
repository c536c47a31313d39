/* SPDX-License-Identifier: BSD-3-Clause
 *
 * find.h - which slot a name means, and where that slot is in the mount
 *
 * pcscd and CT-API name a reader in their own ways: by a path, by a number, by the
 * place of a USB device. A name stays valid while the reader comes and goes, so it is
 * looked up anew each time.
 */
#ifndef CARDFS_FIND_H
#define CARDFS_FIND_H

#include <limits.h>
#include <stdbool.h>

enum cf_state {
	CF_AWAY,     /* no such directory, no mount, no daemon */
	CF_STARTING, /* there, but its driver is not ready */
	CF_EMPTY,    /* no card, or the driver failed */
	CF_CARD,
};

/* What a DEVICENAME or channel number says. */
struct cf_name {
	enum { CF_BY_NUMBER, CF_BY_ID, CF_BY_USB } kind;
	unsigned number;        /* of the directory */
	char id[NAME_MAX + 1];  /* below by-id */
	unsigned bus, device;   /* as the kernel numbers them */
	unsigned interface;
	unsigned slots;         /* how many the reader has, 0: the name does not say */
	char root[PATH_MAX / 2]; /* the mount point */
};

/* What a look at the mount found. */
struct cf_view {
	enum cf_state state;
	int number;           /* of the directory, -1: there is none */
	unsigned siblings;    /* how many slots the reader has */
	bool other_interface; /* the USB device is there, by another interface */
};

/* cf_parse reads a DEVICENAME: "cardfs:[slots=N:]/mnt/cards/0",
 * "cardfs:/mnt/cards/by-id/NAME", "usb:vvvv/pppp:libudev:I:/dev/bus/usb/B/D". */
bool cf_parse(const char *device, struct cf_name *name);
/* cf_numbered names directory n of the default mount point: CARDFS_MOUNT of the
 * environment, or /mnt/cards. It returns false if n is too large. */
bool cf_numbered(unsigned long n, struct cf_name *name);

/* cf_look looks for slot index of the named reader. It does not wait for a reader. */
struct cf_view cf_look(const struct cf_name *name, unsigned index);

#endif
