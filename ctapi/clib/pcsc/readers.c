/* SPDX-License-Identifier: BSD-3-Clause
 *
 * readers.c - the readers of a mount, and the names by which PC/SC knows them
 *
 * The mount makes the names and keeps them (status, pcsc). Here is only remembered in which
 * directory a name was last seen: a connection asks there first, and the mount's answer
 * says whether it is still so.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "file.h"
#include "find.h"
#include "pcsc.h"
#include "slot.h"

/* What is mounted is not trusted: its list of slots may have no end. */
enum { MOST_SLOTS = 1 << 16 };

enum { REMEMBERED = 64 };

static struct {
	char name[MAX_READERNAME];
	unsigned number;
} remembered[REMEMBERED]; /* by number; guarded by pc_lock */

void pc_root(char *root, size_t size)
{
	struct cf_name name;

	cf_numbered(0, &name);
	snprintf(root, size, "%s", name.root);
}

/* ---- one reader --------------------------------------------------------------- */

bool pc_parse(const char *text, struct pc_reader *r)
{
	static const char *const states[] = {
		[PC_STARTING] = "starting", [PC_FAILED] = "failed", [PC_EMPTY] = "empty",
		[PC_PRESENT] = "present", [PC_POWERED] = "powered",
	};
	char value[CF_TEXT_MAX];
	ssize_t n;

	if (!cf_value(text, "state", value, sizeof value) ||
	    !cf_value(text, "pcsc", r->name, sizeof r->name))
		return false; /* the reader left, or this is no cardfs */
	r->state = PC_FAILED;
	for (unsigned i = 0; i < sizeof states / sizeof *states; i++)
		if (strcmp(value, states[i]) == 0)
			r->state = (enum pc_state)i;
	r->exclusive = cf_value(text, "exclusive", value, sizeof value);
	r->connections = cf_value(text, "connections", value, sizeof value) ?
				 (unsigned)strtoul(value, NULL, 10) : 0;
	r->changes = cf_value(text, "card-changes", value, sizeof value) ?
			     (uint16_t)strtoul(value, NULL, 10) : 0;
	r->natr = 0;
	if (r->state == PC_POWERED && cf_value(text, "atr", value, sizeof value)) {
		n = cf_hex(value, r->atr, sizeof r->atr);
		r->natr = n < 0 ? 0 : (unsigned)n;
		if (cf_value(text, "memory", value, sizeof value))
			r->natr = (unsigned)cf_memory_atr(r->atr, r->natr, sizeof r->atr);
	}
	return true;
}

int pc_dir(const char *root, unsigned number)
{
	char path[PATH_MAX];

	snprintf(path, sizeof path, "%s/%u", root, number);
	return cf_open(AT_FDCWD, path, O_PATH | O_DIRECTORY);
}

/* used is the reader that was last connected to; root is empty if there was none. Guarded by
 * pc_lock. */
static struct {
	char root[PATH_MAX / 2];
	unsigned number;
} used;

void pc_used(const char *root, unsigned number)
{
	pthread_mutex_lock(&pc_lock);
	snprintf(used.root, sizeof used.root, "%s", root);
	used.number = number;
	pthread_mutex_unlock(&pc_lock);
}

int pc_likely(const char *root, unsigned *number)
{
	bool known;
	int dir;

	pthread_mutex_lock(&pc_lock);
	known = strcmp(used.root, root) == 0;
	*number = used.number;
	pthread_mutex_unlock(&pc_lock);
	if (!known)
		return -1;
	dir = pc_dir(root, *number);
	/* A directory on which a slot was mounted is still there without the slot. */
	if (dir >= 0 && faccessat(dir, "control", F_OK, 0) != 0)
		cf_close(&dir);
	return dir < 0 ? -1 : dir;
}

/* read_slot reads what status says of a slot: 1, 0 if there is no reader, or a negative
 * errno. */
static int read_slot(const char *root, unsigned number, struct pc_reader *r)
{
	char path[PATH_MAX], text[CF_TEXT_MAX + 1];
	ssize_t n;

	snprintf(path, sizeof path, "%s/%u/status", root, number);
	n = cf_read(AT_FDCWD, path, text, sizeof text);
	if (n == -ENOENT || n == -ENODEV)
		return 0;
	if (n < 0)
		return (int)n;
	r->number = number;
	return pc_parse(text, r);
}

/* ---- all readers -------------------------------------------------------------- */

static int by_number(const void *a, const void *b)
{
	const unsigned *x = a, *y = b;

	return (*x > *y) - (*x < *y);
}

/* numbers lists the directories of slots. */
static ssize_t numbers(const char *root, unsigned **list)
{
	size_t n = 0, room = 0;
	struct dirent *e;
	DIR *d = opendir(root);
	ssize_t error = 0;

	*list = NULL;
	if (d == NULL)
		return -errno;
	while (n < MOST_SLOTS && (errno = 0, e = readdir(d)) != NULL) {
		char *rest;
		unsigned long number = strtoul(e->d_name, &rest, 10);

		if (e->d_name[0] < '0' || e->d_name[0] > '9' || *rest != '\0' || number > INT_MAX)
			continue;
		if (n == room) {
			unsigned *more = reallocarray(*list, room = room == 0 ? 16 : 2 * room, sizeof *more);

			if (more == NULL) {
				error = -ENOMEM;
				break;
			}
			*list = more;
		}
		(*list)[n++] = (unsigned)number;
	}
	if (error == 0 && errno != 0)
		error = -errno;
	closedir(d);
	if (error != 0) {
		free(*list);
		*list = NULL;
		return error;
	}
	if (n > 0)
		qsort(*list, n, sizeof **list, by_number);
	return (ssize_t)n;
}

static LONG service(ssize_t error)
{
	switch (error) {
	case -EACCES:
	case -EPERM:
		return SCARD_W_SECURITY_VIOLATION;
	case -ENOMEM:
		return SCARD_E_NO_MEMORY;
	}
	return SCARD_E_NO_SERVICE;
}

static void remember(const struct pc_reader *list, size_t n)
{
	pthread_mutex_lock(&pc_lock);
	for (size_t i = 0; i < n; i++) {
		unsigned at = list[i].number % REMEMBERED;

		memcpy(remembered[at].name, list[i].name, sizeof remembered[at].name);
		remembered[at].number = list[i].number;
	}
	pthread_mutex_unlock(&pc_lock);
}

/* is_mount reports by the file ctl whether root is a mount of its own, and not a directory
 * into which single slots were bound. */
static bool is_mount(const char *root, int *error)
{
	char path[PATH_MAX];

	snprintf(path, sizeof path, "%s/ctl", root);
	*error = 0;
	if (access(path, F_OK) == 0)
		return true;
	*error = -errno;
	return false;
}

/* slots reads all slots. *refused is whether there are some that may not be read. */
static ssize_t slots(const char *root, struct pc_reader **list, bool *refused)
{
	unsigned *number;
	ssize_t n = numbers(root, &number);
	struct pc_reader *r;
	size_t found = 0;

	*list = NULL;
	*refused = false;
	if (n <= 0)
		return n;
	r = calloc((size_t)n, sizeof *r);
	if (r == NULL) {
		free(number);
		return -ENOMEM;
	}
	for (ssize_t i = 0; i < n; i++) {
		int got = read_slot(root, number[i], &r[found]);

		if (got == 1)
			found++;
		else if (got == -EACCES)
			*refused = true;
	}
	free(number);
	if (found == 0) {
		free(r);
		return 0;
	}
	*list = r;
	return (ssize_t)found;
}

LONG pc_available(const char *root)
{
	struct pc_reader *list;
	bool refused;
	int error;
	ssize_t n;

	if (is_mount(root, &error))
		return SCARD_S_SUCCESS;
	if (error != -ENOENT)
		return service(error);
	n = slots(root, &list, &refused);
	free(list);
	if (n > 0)
		return SCARD_S_SUCCESS;
	return refused ? SCARD_W_SECURITY_VIOLATION : service(n < 0 ? n : -ENOENT);
}

LONG pc_list(const char *root, struct pc_reader **list, size_t *count)
{
	bool refused;
	int error;
	ssize_t n = slots(root, list, &refused);

	*count = 0;
	if (n > 0) {
		*count = (size_t)n;
		remember(*list, *count);
		return SCARD_S_SUCCESS;
	}
	if (refused)
		return SCARD_W_SECURITY_VIOLATION;
	if (n < 0)
		return service(n);
	return is_mount(root, &error) ? SCARD_E_NO_READERS_AVAILABLE : service(error);
}

LONG pc_count(const char *root, size_t *count)
{
	unsigned *list;
	int error;
	ssize_t n = numbers(root, &list);

	free(list);
	*count = n > 0 ? (size_t)n : 0;
	if (n < 0)
		return service(n);
	return n > 0 || is_mount(root, &error) ? SCARD_S_SUCCESS : service(error);
}

int pc_find(const char *root, const char *name, bool anew)
{
	struct pc_reader *list;
	int found = -1;
	size_t n;

	pthread_mutex_lock(&pc_lock);
	for (unsigned i = 0; !anew && found < 0 && i < REMEMBERED; i++)
		if (name[0] != '\0' && strcmp(remembered[i].name, name) == 0)
			found = (int)remembered[i].number;
	pthread_mutex_unlock(&pc_lock);
	if (found >= 0 || pc_list(root, &list, &n) != SCARD_S_SUCCESS)
		return found;
	for (size_t i = 0; found < 0 && i < n; i++)
		if (strcmp(list[i].name, name) == 0)
			found = (int)list[i].number;
	free(list);
	return found;
}
