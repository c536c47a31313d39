/* SPDX-License-Identifier: BSD-3-Clause
 *
 * CT-API: a terminal is an open of ctbcs, a command one exchange on it. What a
 * program may do with which card is kept behind that file.
 */
#define _GNU_SOURCE
#include "ctapi.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cardfs.h"
#include "file.h"
#include "find.h"

#pragma GCC visibility push(default)
char CT_init(unsigned short, unsigned short);
char CT_data(unsigned short, unsigned char *, unsigned char *, unsigned short, unsigned char *,
	     unsigned short *, unsigned char *);
char CT_close(unsigned short);
#pragma GCC visibility pop

enum { ADDRESSES = 2 }; /* dad, sad: in front of a command and of its answer */

struct terminal {
	unsigned short ctn;
	struct terminal *next;
	unsigned refs; /* as next, guarded by the lock */

	pthread_mutex_t busy; /* for what follows */
	bool open;
	int ctbcs; /* -1, though open: it was given up */
	uint8_t message[ADDRESSES + CF_ANSWER_MAX];
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct terminal *terminals;

static int code(ssize_t error)
{
	switch (error) {
	case -EINVAL:
		return ERR_INVALID;
	case -ENOMEM:
	case CF_TOO_LONG:
		return ERR_MEMORY;
	case -EBUSY:
	case -EAGAIN:
	case -ENOBUFS:
		return ERR_CT;
	case -ENODEV:
	case -ENOMEDIUM:
	case -EIO:
	case -EPROTO:
	case -ETIMEDOUT:
	case -ESTALE:
		return ERR_TRANS;
	case CF_BROKEN:
	case -ENOTCONN:
	case -ECONNABORTED:
	case -ENOENT:
	case -ENOTTY:
	case -EOPNOTSUPP:
		return ERR_HTSI;
	}
	return error < 0 ? ERR_HOST : OK;
}

/* ---- terminals ---------------------------------------------------------------- */

static struct terminal *find(unsigned short ctn)
{
	struct terminal *t;

	for (t = terminals; t != NULL && t->ctn != ctn; t = t->next)
		;
	return t;
}

static struct terminal *get(unsigned short ctn)
{
	struct terminal *t;

	pthread_mutex_lock(&lock);
	t = find(ctn);
	if (t != NULL)
		t->refs++;
	pthread_mutex_unlock(&lock);
	if (t == NULL)
		return NULL;
	pthread_mutex_lock(&t->busy);
	return t;
}

static void put(struct terminal *t)
{
	bool last;

	pthread_mutex_unlock(&t->busy);
	pthread_mutex_lock(&lock);
	last = --t->refs == 0;
	pthread_mutex_unlock(&lock);
	if (!last)
		return;
	pthread_mutex_destroy(&t->busy);
	free(t);
}

/* add makes a terminal that is not open yet; the caller has it as from get. */
static struct terminal *add(unsigned short ctn, int *error)
{
	struct terminal *t = calloc(1, sizeof *t);

	if (t == NULL) {
		*error = ERR_MEMORY;
		return NULL;
	}
	t->ctn = ctn;
	t->refs = 2;
	t->ctbcs = -1;
	pthread_mutex_init(&t->busy, NULL);
	pthread_mutex_lock(&t->busy);
	pthread_mutex_lock(&lock);
	if (find(ctn) != NULL) {
		pthread_mutex_unlock(&lock);
		pthread_mutex_unlock(&t->busy);
		pthread_mutex_destroy(&t->busy);
		free(t);
		*error = ERR_CT;
		return NULL;
	}
	t->next = terminals;
	terminals = t;
	pthread_mutex_unlock(&lock);
	return t;
}

/* drop closes t and takes it out; put frees it. */
static void drop(struct terminal *t)
{
	t->open = false;
	cf_close(&t->ctbcs);
	pthread_mutex_lock(&lock);
	for (struct terminal **p = &terminals; *p != NULL; p = &(*p)->next)
		if (*p == t) {
			*p = t->next;
			t->refs--;
			break;
		}
	pthread_mutex_unlock(&lock);
}

/* ---- fork ----------------------------------------------------------------------
 * The terminals are the parent's: if a child had them, its CT_close would take the
 * cards from the parent. A child has none, and may open its own. Their memory stays,
 * as it may be in use where the fork came from. */

static struct terminal *left_behind;

static void before_fork(void)
{
	pthread_mutex_lock(&lock);
}

static void in_parent(void)
{
	pthread_mutex_unlock(&lock);
}

static void in_child(void)
{
	struct terminal **p;

	for (p = &terminals; *p != NULL; p = &(*p)->next) {
		cf_close(&(*p)->ctbcs);
		explicit_bzero((*p)->message, sizeof (*p)->message);
	}
	*p = left_behind;
	left_behind = terminals;
	terminals = NULL;
	pthread_mutex_unlock(&lock);
}

__attribute__((constructor)) static void watch_forks(void)
{
	pthread_atfork(before_fork, in_parent, in_child);
}

/* ---- terminals of a program ------------------------------------------------------ */

/* mounted tells an unknown port from a mount point where nothing is mounted. */
static int mounted(const char *root)
{
	char path[PATH_MAX];
	int fd;

	snprintf(path, sizeof path, "%s/event", root);
	fd = cf_open(AT_FDCWD, path, O_PATH);
	if (fd < 0)
		return ERR_HOST;
	cf_close(&fd);
	return ERR_INVALID;
}

static int open_terminal(struct terminal *t, unsigned short pn)
{
	char path[PATH_MAX];
	struct cf_name name;

	if (!cf_numbered(pn, &name))
		return ERR_HOST;
	snprintf(path, sizeof path, "%s/%u/ctbcs", name.root, name.number);
	/* Here the driver is waited for. */
	t->ctbcs = cf_channel(AT_FDCWD, path, 0, CARDFS_CTAPI);
	if (t->ctbcs == -ENOENT || t->ctbcs == -ENOTCONN)
		return mounted(name.root);
	if (t->ctbcs < 0)
		return code(t->ctbcs);
	t->open = true;
	return OK;
}

char CT_init(unsigned short ctn, unsigned short pn)
{
	int result = OK;
	struct terminal *t = add(ctn, &result);

	if (t == NULL)
		return (char)result;
	result = open_terminal(t, pn);
	if (result != OK)
		drop(t);
	put(t);
	return (char)result;
}

char CT_close(unsigned short ctn)
{
	struct terminal *t = get(ctn);
	uint8_t message[ADDRESSES] = {CT_CT, CT_HOST};

	if (t == NULL)
		return (char)ERR_CT;
	if (!t->open) {
		put(t);
		return (char)ERR_CT;
	}
	if (t->ctbcs >= 0)
		cf_converse(&t->ctbcs, message, sizeof message, message, sizeof message, ADDRESSES);
	drop(t);
	put(t);
	return OK;
}

/* data exchanges what is in t->message. */
static ssize_t data(struct terminal *t, size_t n, size_t room)
{
	ssize_t got;

	if (!t->open)
		return -EBUSY;
	if (t->ctbcs < 0)
		return CF_BROKEN;
	/* By write and read: a person may be asked for a card or a PIN. */
	if (t->message[0] == CT_CT)
		got = cf_converse(&t->ctbcs, t->message, n, t->message, room, ADDRESSES);
	else
		got = cf_patient(&t->ctbcs, t->message, n, t->message, room, ADDRESSES);
	if (got >= 0 && got < ADDRESSES + 2) {
		cf_close(&t->ctbcs);
		return CF_BROKEN;
	}
	return got;
}

char CT_data(unsigned short ctn, unsigned char *dad, unsigned char *sad, unsigned short lenc,
	     unsigned char *command, unsigned short *lenr, unsigned char *response)
{
	struct terminal *t;
	size_t room;
	ssize_t n;

	if (dad == NULL || sad == NULL || lenr == NULL)
		return (char)ERR_INVALID;
	room = *lenr;
	*lenr = 0;
	if (command == NULL || response == NULL || lenc < 4)
		return (char)ERR_INVALID;
	if (room < 2)
		return (char)ERR_MEMORY;
	t = get(ctn);
	if (t == NULL)
		return (char)ERR_CT;
	t->message[0] = *dad;
	t->message[1] = *sad;
	memcpy(t->message + ADDRESSES, command, lenc);
	n = data(t, ADDRESSES + lenc, ADDRESSES + room);
	if (n >= 0) {
		*dad = t->message[0];
		*sad = t->message[1];
		*lenr = (unsigned short)(n - ADDRESSES);
		memcpy(response, t->message + ADDRESSES, *lenr);
	}
	/* A PIN may have been in it. */
	explicit_bzero(t->message, ADDRESSES + (room > lenc ? room : lenc));
	put(t);
	return n < 0 ? (char)code(n) : OK;
}
