/* SPDX-License-Identifier: BSD-3-Clause
 *
 * dirs.c - the calls on directories and symbolic links
 */
#define _GNU_SOURCE
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "mount.h"

ssize_t __wrap_readlink(const char *path, char *buf, size_t n)
{
	enum shape shape;
	int number;
	char text[32];
	size_t len;

	if (!ours(-1, path))
		return __real_readlink(path, buf, n);
	enter();
	shape = strike();
	if (shape == ERRNO || shape == ERRNO_LATE)
		return refuse(fault.error);
	if (!alive)
		return refuse(ENOTCONN);
	if (sscanf(path, "/fake/by-id/reader-%d", &number) != 1 || number >= SLOTS || !slot[number].there)
		return refuse(ENOENT);
	leave();
	if (shape == EMPTY)
		return 0;
	if (shape == LONG || shape == GARBAGE) {
		memset(buf, shape == LONG ? '7' : '/', n);
		return (ssize_t)n;
	}
	snprintf(text, sizeof text, "../%d", number);
	len = strlen(text);
	if (shape == SHORT)
		len /= 2;
	memcpy(buf, text, len < n ? len : n);
	return (ssize_t)(len < n ? len : n);
}

/* The directory is a list made at its open. */
struct fake_dir {
	struct dirent entry;
	int next;
};

enum { DIRS = 8 };

static struct fake_dir *opened_dirs[DIRS];

DIR *__wrap_opendir(const char *path)
{
	struct fake_dir *d;
	enum shape shape;

	if (!ours(-1, path))
		return __real_opendir(path);
	enter();
	shape = strike();
	if (shape == ERRNO || shape == ERRNO_LATE || !alive) {
		refuse(alive ? fault.error : ENOTCONN);
		return NULL;
	}
	d = __real_calloc(1, sizeof *d);
	for (int i = 0; i < DIRS; i++)
		if (opened_dirs[i] == NULL) {
			opened_dirs[i] = d;
			break;
		}
	leave();
	return (DIR *)d;
}

static bool is_fake_dir(DIR *d, bool forget)
{
	bool found = false;

	enter();
	for (int i = 0; i < DIRS; i++)
		if (opened_dirs[i] == (struct fake_dir *)d) {
			if (forget)
				opened_dirs[i] = NULL;
			found = true;
		}
	leave();
	return found;
}

struct dirent *__wrap_readdir(DIR *dir)
{
	static const char *const names[] = {".", "..", "by-id", "ctl", "event", "3", "1", "2", "0", "99999999999999999999"};
	struct fake_dir *d = (struct fake_dir *)dir;
	enum shape shape;

	if (!is_fake_dir(dir, false))
		return __real_readdir(dir);
	enter();
	shape = strike();
	leave();
	if (shape == EMPTY || shape == ERRNO || d->next == sizeof names / sizeof names[0])
		return NULL;
	strcpy(d->entry.d_name, names[d->next++]);
	if (shape == GARBAGE)
		memset(d->entry.d_name, '9', sizeof d->entry.d_name - 1);
	return &d->entry;
}

int __wrap_closedir(DIR *dir)
{
	if (!is_fake_dir(dir, true))
		return __real_closedir(dir);
	free(dir);
	return 0;
}
