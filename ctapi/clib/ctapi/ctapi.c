/* SPDX-License-Identifier: BSD-3-Clause
 *
 * ctapi.c - CT_init, CT_data, CT_close
 *
 * A terminal is an open ctbcs file, and a command is one exchange on it. All state of
 * terminal and cards is kept by the daemon, per open file.
 *
 * Locks, in the order in which they are taken:
 *
 *   terminal.busy  one for each terminal; held during a call
 *   lock           the list of terminals and their refs; held for moments, never during
 *                  a call into the mount
 *
 * The list has a reference to a terminal, and so has each call: CT_close takes the
 * terminal out of the list, and the last call frees it.
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

enum { ADDRESSES = 2 }; /* dad and sad come before a command and its answer */

struct terminal {
	unsigned short ctn;
	struct terminal *next;
	unsigned refs; /* next and refs are guarded by lock */

	pthread_mutex_t busy; /* guards the rest */
	bool open;
	int ctbcs; /* -1 while open: the channel broke */
	uint8_t message[ADDRESSES + CF_ANSWER_MAX];
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct terminal *terminals;

/* code maps an errno to an error of CT-API. */
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

/* find is called with lock held. */
static struct terminal *find(unsigned short ctn)
{
	struct terminal *t;

	for (t = terminals; t != NULL && t->ctn != ctn; t = t->next)
		;
	return t;
}

/* get finds a terminal, waits until it is not busy, and takes a reference. */
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

/* put gives back what get or add returned. */
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

/* add makes a terminal that is not open yet; the caller has it as if from get. */
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

/* drop closes t and takes it out of the list; put frees it. */
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
 * Terminals belong to the parent: the CT_close of a child would power off the parent's
 * cards. A child starts without terminals and may open its own. It does not free the
 * parent's: the code that forked may be using one. */

static struct terminal *parents;

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
	*p = parents;
	parents = terminals;
	terminals = NULL;
	pthread_mutex_unlock(&lock);
}

__attribute__((constructor)) static void watch_forks(void)
{
	pthread_atfork(before_fork, in_parent, in_child);
}

/* ---- the three functions --------------------------------------------------------- */

/* why_missing tells an unknown port from a mount point where nothing is mounted. */
static int why_missing(const char *root)
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
	/* This open waits for a reader that is starting. */
	t->ctbcs = cf_channel(AT_FDCWD, path, 0, CARDFS_CTAPI);
	if (t->ctbcs == -ENOENT || t->ctbcs == -ENOTCONN)
		return why_missing(name.root);
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
		cf_write_read(&t->ctbcs, message, sizeof message, message, sizeof message, ADDRESSES);
	drop(t);
	put(t);
	return OK;
}

/* data sends the n bytes in t->message and puts the answer there. */
static ssize_t data(struct terminal *t, size_t n, size_t room)
{
	ssize_t got;

	if (!t->open)
		return -EBUSY;
	if (t->ctbcs < 0)
		return CF_BROKEN;
	/* The terminal may ask a person for a card or a PIN: not by ioctl(2), which
	 * even SIGKILL does not end before the answer. */
	if (t->message[0] == CT_CT)
		got = cf_write_read(&t->ctbcs, t->message, n, t->message, room, ADDRESSES);
	else
		got = cf_exchange_wait(&t->ctbcs, t->message, n, t->message, room, ADDRESSES);
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
	/* It may have held a PIN. */
	explicit_bzero(t->message, ADDRESSES + (room > lenc ? room : lenc));
	put(t);
	return n < 0 ? (char)code(n) : OK;
}
