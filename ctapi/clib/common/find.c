/* SPDX-License-Identifier: BSD-3-Clause
 *
 * find.c - parses names of slots, and finds the slot by the files of the mount
 */
#define _GNU_SOURCE
#include "find.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "file.h"

static bool set_root(struct cf_name *name, const char *root, size_t n)
{
	while (n > 1 && root[n - 1] == '/')
		n--;
	if (n == 0 || n >= sizeof name->root)
		return false;
	memcpy(name->root, root, n);
	name->root[n] = '\0';
	return true;
}

static bool default_root(struct cf_name *name)
{
	const char *root = secure_getenv("CARDFS_MOUNT");

	if (root == NULL || root[0] != '/')
		root = "/mnt/cards";
	return set_root(name, root, strlen(root));
}

/* decimal parses a number of digits alone, at most INT_MAX; *rest is what follows. */
static bool decimal(const char *text, unsigned *value, const char **rest)
{
	uint64_t n = 0; /* 32 bits would overflow unseen */
	const char *p = text;

	while (*p >= '0' && *p <= '9' && n <= INT_MAX)
		n = n * 10 + (uint64_t)(*p++ - '0');
	if (p == text || n > INT_MAX)
		return false;
	*value = (unsigned)n;
	*rest = p;
	return true;
}

static bool parse_path(const char *path, struct cf_name *name)
{
	size_t n = strlen(path);
	const char *last, *rest;

	while (n > 1 && path[n - 1] == '/')
		n--;
	last = path + n;
	while (last > path && last[-1] != '/')
		last--;
	n -= (size_t)(last - path);
	if (last == path || n == 0 || n > NAME_MAX)
		return false;
	memcpy(name->id, last, n);
	name->id[n] = '\0';
	n = (size_t)(last - path);
	if (n > 7 && strncmp(last - 7, "/by-id/", 7) == 0) {
		name->kind = CF_BY_ID;
		return strcmp(name->id, ".") != 0 && strcmp(name->id, "..") != 0 &&
		       set_root(name, path, n - 6);
	}
	name->kind = CF_BY_NUMBER;
	return decimal(name->id, &name->number, &rest) && *rest == '\0' &&
	       set_root(name, path, n);
}

static bool parse_usb(const char *device, struct cf_name *name)
{
	const char *at = strstr(device, ":/dev/bus/usb/");
	const char *from, *rest;

	if (at == NULL)
		return false;
	for (from = at; from > device && from[-1] != ':'; from--)
		;
	name->kind = CF_BY_USB;
	return decimal(from, &name->interface, &rest) && rest == at &&
	       decimal(at + 14, &name->bus, &rest) && *rest == '/' &&
	       decimal(rest + 1, &name->device, &rest) && *rest == '\0' &&
	       default_root(name);
}

bool cf_parse(const char *device, struct cf_name *name)
{
	memset(name, 0, sizeof *name);
	if (strncmp(device, "usb:", 4) == 0)
		return parse_usb(device, name);
	if (strncmp(device, "cardfs:", 7) != 0)
		return false;
	device += 7;
	if (strncmp(device, "slots=", 6) == 0) {
		if (!decimal(device + 6, &name->slots, &device) || *device != ':' ||
		    name->slots < 1 || name->slots > 255)
			return false;
		device++;
	}
	return device[0] == '/' && parse_path(device, name);
}

bool cf_numbered(unsigned long n, struct cf_name *name)
{
	memset(name, 0, sizeof *name);
	name->kind = CF_BY_NUMBER;
	name->number = (unsigned)n;
	return n <= INT_MAX && default_root(name);
}

/* ---- looking for a slot --------------------------------------------------- */

static bool status_at(const char *root, unsigned number, char *text, size_t size)
{
	char path[PATH_MAX];

	snprintf(path, sizeof path, "%s/%u/status", root, number);
	return cf_read(AT_FDCWD, path, text, size) > 0;
}

/* is_usb reports whether status is that of a reader on the named USB interface. */
static bool is_usb(const struct cf_name *name, const char *status, bool *other_interface)
{
	unsigned bus, device, interface;
	char value[64];
	const char *rest;

	if (!cf_value(status, "usb", value, sizeof value) ||
	    !decimal(value, &bus, &rest) || *rest != '/' ||
	    !decimal(rest + 1, &device, &rest) || *rest != '\0' ||
	    bus != name->bus || device != name->device)
		return false;
	if (cf_value(status, "interface", value, sizeof value) &&
	    decimal(value, &interface, &rest) && interface != name->interface) {
		*other_interface = true;
		return false;
	}
	return true;
}

/* find_usb returns the number of the reader's first slot, or -1, and leaves the status
 * of that slot in text. */
static int find_usb(const struct cf_name *name, char *text, size_t size, bool *other_interface)
{
	int found = -1;
	struct dirent *e;
	DIR *d = opendir(name->root);

	if (d == NULL)
		return -1;
	while (found < 0 && (e = readdir(d)) != NULL) {
		unsigned number;
		const char *rest;
		char value[32];

		if (!decimal(e->d_name, &number, &rest) || *rest != '\0' ||
		    !status_at(name->root, number, text, size) ||
		    !is_usb(name, text, other_interface))
			continue;
		if (!cf_value(text, "slot", value, sizeof value) || strncmp(value, "0 ", 2) == 0)
			found = (int)number;
	}
	closedir(d);
	return found;
}

static int find_id(const struct cf_name *name)
{
	char path[PATH_MAX], target[PATH_MAX];
	const char *last, *rest;
	unsigned number;
	ssize_t n;

	snprintf(path, sizeof path, "%s/by-id/%s", name->root, name->id);
	n = readlink(path, target, sizeof target);
	if (n <= 0 || n == (ssize_t)sizeof target) /* cut off */
		return -1;
	target[n] = '\0';
	last = strrchr(target, '/');
	last = last == NULL ? target : last + 1;
	return decimal(last, &number, &rest) && *rest == '\0' ? (int)number : -1;
}

/* sibling returns the number of slot index of the reader whose status this is, or -1;
 * *count is how many slots it has. number is the slot that was named: if that is not
 * the reader's first one, the name means this slot alone. */
static int sibling(const char *status, int number, unsigned index, unsigned *count)
{
	char value[CF_TEXT_MAX];
	const char *p = value;
	int found = index == 0 ? number : -1;
	unsigned n = 0, one;

	*count = 1;
	if (!cf_value(status, "siblings", value, sizeof value))
		return found;
	for (; decimal(p, &one, &p); p += strspn(p, " ")) {
		if (n == 0 && (int)one != number)
			return found;
		if (n == index)
			found = (int)one;
		n++;
	}
	if (n > 0 && n <= 255)
		*count = n;
	return found;
}

static enum cf_state state_word(const char *status)
{
	char word[32];

	if (!cf_value(status, "state", word, sizeof word) || strcmp(word, "gone") == 0)
		return CF_AWAY;
	if (strcmp(word, "starting") == 0)
		return CF_STARTING;
	if (strcmp(word, "present") == 0 || strcmp(word, "powered") == 0)
		return CF_CARD;
	return CF_EMPTY;
}

struct cf_view cf_look(const struct cf_name *name, unsigned index)
{
	struct cf_view v = {.state = CF_AWAY, .number = -1, .siblings = 1};
	char text[CF_TEXT_MAX + 1];
	int base;

	switch (name->kind) {
	case CF_BY_USB:
		base = find_usb(name, text, sizeof text, &v.other_interface);
		break;
	case CF_BY_ID:
		base = find_id(name);
		break;
	default:
		base = (int)name->number;
	}
	if (base < 0)
		return v;
	if (name->kind != CF_BY_USB && !status_at(name->root, (unsigned)base, text, sizeof text))
		return v;
	v.number = sibling(text, base, index, &v.siblings);
	if (v.number < 0)
		return v;
	if (v.number != base && !status_at(name->root, (unsigned)v.number, text, sizeof text))
		return v;
	v.state = state_word(text);
	return v;
}
