/* SPDX-License-Identifier: BSD-3-Clause
 *
 * find.h - which slot a name means, and where it is on the mount
 */
#ifndef CARDFS_FIND_H
#define CARDFS_FIND_H

#include <limits.h>
#include <stdbool.h>

enum cf_state {
	CF_AWAY,     /* no such directory, no mount, no daemon */
	CF_STARTING, /* announced; the driver initialises it */
	CF_EMPTY,    /* no card, or the driver failed */
	CF_CARD,
};

/* How a DEVICENAME or channel number says which slot it means. */
struct cf_name {
	enum { CF_BY_NUMBER, CF_BY_ID, CF_BY_USB } kind;
	unsigned number;        /* of the directory */
	char id[NAME_MAX + 1];  /* below by-id */
	unsigned bus, device;   /* as the kernel numbers them */
	unsigned interface;
	unsigned slots;         /* told by the name, 0 if not */
	char root[PATH_MAX / 2]; /* the mount point */
};

/* What a look at the mount shows. */
struct cf_view {
	enum cf_state state;
	int number;        /* of the directory, -1: there is none */
	unsigned siblings; /* slots of the reader */
	bool foreign;      /* the device is there, but by another interface */
};

/* cf_parse reads a DEVICENAME: "cardfs:[slots=N:]/mnt/cards/0",
 * "cardfs:/mnt/cards/by-id/NAME", "usb:vvvv/pppp:libudev:I:/dev/bus/usb/B/D". */
bool cf_parse(const char *device, struct cf_name *name);
/* cf_numbered names slot directory n of the default mount point. */
bool cf_numbered(unsigned long n, struct cf_name *name);

/* cf_look looks for slot index of the reader that is so named. It never waits. */
struct cf_view cf_look(const struct cf_name *name, unsigned index);

#endif
