/* SPDX-License-Identifier: BSD-3-Clause
 *
 * open.c - opening a file: what there is, what its open waits for, what it says
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>

#include "mount.h"

/* fill_text sets the text that a text file has at its open. */
static void fill_text(struct file *f)
{
	struct slot *s = f->slot >= 0 ? &slot[f->slot] : NULL;
	char *t = f->text;
	size_t n = 0, size = sizeof f->text;

	if (strcmp(f->kind, "status") == 0) {
		n += (size_t)snprintf(t + n, size - n, "state %s\n",
			s->gone ? "gone" : s->starting ? "starting" : s->failed ? "failed" : !s->card ? "empty" :
			s->powered ? "powered" : "present");
		n += (size_t)snprintf(t + n, size - n, "reader Fake reader\nserial 4711\nversion 1.02\n");
		n += (size_t)snprintf(t + n, size - n, "slot %d of %d\nsiblings", f->slot - s->first, s->siblings);
		for (int i = 0; i < s->siblings; i++)
			n += (size_t)snprintf(t + n, size - n, " %d", s->first % SLOTS + i);
		n += (size_t)snprintf(t + n, size - n, "\nsessions %d\n", s->sessions);
		if (s->bus >= 0)
			n += (size_t)snprintf(t + n, size - n, "usb %03d/%03d\ninterface %d\n",
				s->bus, s->device, s->interface);
	} else if (strcmp(f->kind, "atr") == 0) {
		n = (size_t)snprintf(t, size, "%s\n", atr != NULL ? atr : "3B B7 94 00 81 31 FE 65 53 50 4B 32 33 90 00 D1");
	} else if (strcmp(f->kind, "protocol") == 0) {
		n = s->protocols != NULL ? (size_t)snprintf(t, size, "%s\n", s->protocols) :
			(size_t)snprintf(t, size, "T=%c T=%c\n", s->protocol, s->protocol == '1' ? '0' : '1');
	}
	for (int i = 0; is(f, "event") && i < SLOTS; i++) {
		s = &slot[f->mount * SLOTS + i];
		if (s->there)
			n += (size_t)snprintf(t + n, size - n, "0 %d arrived driver=fake\n", i);
		if (s->there && !s->starting && !s->failed)
			n += (size_t)snprintf(t + n, size - n, "0 %d ready\n", i);
		if (s->card)
			n += (size_t)snprintf(t + n, size - n, "0 %d inserted\n", i);
	}
	f->ntext = n;
}

static bool known(const char *kind)
{
	static const char *const kinds[] = {"status", "atr", "power", "apdu", "control",
		"ctbcs", "protocol", "event", "."};

	for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++)
		if (strcmp(kind, kinds[i]) == 0)
			return true;
	return false;
}

/* below returns the part of path below the root of a mount; NULL: path is not on a
 * mount. */
static const char *below(const char *path, int m)
{
	size_t n = strlen(mount[m].root);

	return strncmp(path, mount[m].root, n) == 0 && (path[n] == '/' || path[n] == '\0') ? path + n : NULL;
}

/* find_path splits "/fake/0/apdu" or "apdu" below an open directory. */
static bool find_path(int at, const char *path, struct file *f)
{
	const char *rest = NULL;
	int used = 0;

	memset(f, 0, sizeof *f);
	f->slot = -1;
	if (path[0] != '/') {
		struct file *dir = of(at);

		if (dir == NULL)
			return false;
		f->mount = dir->mount;
		f->slot = dir->slot;
		f->serial = dir->serial;
		snprintf(f->kind, sizeof f->kind, "%s", path);
		return true;
	}
	for (int m = 0; m < MOUNTS && rest == NULL; m++) {
		rest = below(path, m);
		f->mount = m;
	}
	if (rest == NULL)
		return false;
	if (strcmp(rest, "/event") == 0) {
		strcpy(f->kind, "event");
		return true;
	}
	if (sscanf(rest, "/%d%n", &f->slot, &used) != 1 || f->slot < 0 || f->slot >= SLOTS)
		return false;
	snprintf(f->kind, sizeof f->kind, "%s", rest[used] == '\0' ? "." : rest + used + 1);
	f->slot += f->mount * SLOTS;
	f->serial = slot[f->slot].serial;
	return true;
}

/* openable returns the error with which an open fails, or 0. It powers the card. */
static int openable(struct file *f)
{
	struct slot *s;

	if (!alive)
		return ENOTCONN;
	if (!known(f->kind))
		return ENOENT;
	if (f->slot < 0)
		return 0;
	s = &slot[f->slot];
	if (f->serial != s->serial)
		return ENODEV;
	if (!s->there)
		return ENOENT;
	if (is(f, "status") || is(f, "event") || is(f, "."))
		return 0;
	if (s->starting)
		return EAGAIN; /* the tests never block there */
	if (s->failed)
		return EIO;
	if (is(f, "atr") || is(f, "apdu")) {
		if (!s->card)
			return ENOMEDIUM;
		if (!s->powered) {
			s->powered = true;
			s->epoch++;
			event(f->slot, "powered");
		}
	}
	return 0;
}

/* check_flags checks the rules of opening. No child program may inherit a
 * descriptor. An open that may wait without a limit must not wait; only an open of
 * the terminal, or of control if the reader is not starting, may. */
static void check_flags(const struct file *f, int flags)
{
	if (!(flags & O_CLOEXEC))
		broken("opened without O_CLOEXEC", f);
	if (flags & (O_NONBLOCK | O_PATH) || is(f, "ctbcs") || is(f, "."))
		return;
	if (!is(f, "control") || slot[f->slot].starting)
		broken("an open that may wait", f);
}

static int fake_open(int at, const char *path, int flags)
{
	struct file f;
	enum shape shape;
	int error, i;

	enter();
	shape = strike();
	if (shape == ERRNO || shape == ERRNO_LATE)
		return refuse(fault.error);
	if (!find_path(at, path, &f))
		return refuse(ENOENT);
	check_flags(&f, flags);
	error = openable(&f);
	if (error != 0)
		return refuse(error);
	for (i = 0; i < FILES && file[i].used; i++)
		;
	if (i == FILES)
		return refuse(EMFILE);
	f.used = true;
	f.flags = flags;
	f.era = era;
	if (f.slot >= 0)
		f.epoch = slot[f.slot].epoch;
	if (is(&f, "event"))
		f.pos = mount[f.mount].nevents; /* the present state comes first, then the new events */
	fill_text(&f);
	file[i] = f;
	leave();
	return FIRST + i;
}

bool ours(int at, const char *path)
{
	for (int m = 0; m < MOUNTS; m++)
		if (below(path, m) != NULL)
			return true;
	return path[0] != '/' && at >= FIRST;
}

int __wrap_openat(int at, const char *path, int flags, ...)
{
	return ours(at, path) ? fake_open(at, path, flags) : __real_openat(at, path, flags);
}

int __wrap_open(const char *path, int flags, ...)
{
	return ours(-1, path) ? fake_open(-1, path, flags) : __real_open(path, flags);
}
