/* SPDX-License-Identifier: BSD-3-Clause
 *
 * CT-API: commands for the terminal go to the slot's ctbcs file as they are,
 * commands for a card to its apdu file. Which state a card is in for the
 * program at hand is all that is kept here:
 *
 *   CT_init ──▶ idle ──────────── first command ──────────▶ open
 *                                                          ▲    │
 *      EJECT or DEACTIVATE ICC; reset, changed or powered  │    │
 *      off by somebody else                                │    ▼
 *                           RESET CT, REQUEST ICC ──────── inactive
 */
#define _GNU_SOURCE
#include "ctapi.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "file.h"
#include "find.h"

#pragma GCC visibility push(default)
char CT_init(unsigned short, unsigned short);
char CT_data(unsigned short, unsigned char *, unsigned char *, unsigned short, unsigned char *,
	     unsigned short *, unsigned char *);
char CT_close(unsigned short);
#pragma GCC visibility pop

enum { ICC_MAX = 14 };

struct icc {
	int dir;  /* the slot's directory: another reader's after it never */
	int apdu; /* -1: no session */
	bool inactive;
	bool ours; /* activated by a command of ours */
};

struct terminal {
	unsigned short ctn;
	struct terminal *next;
	unsigned refs; /* as next, guarded by the lock */

	pthread_mutex_t busy; /* for what follows */
	bool open;
	int ctbcs;
	unsigned slots;
	struct icc icc[ICC_MAX];
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
	for (unsigned i = 0; i < ICC_MAX; i++)
		t->icc[i].dir = t->icc[i].apdu = -1;
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

/* drop closes all that t has, and takes it out; put frees it. */
static void drop(struct terminal *t)
{
	t->open = false;
	cf_close(&t->ctbcs);
	for (unsigned i = 0; i < ICC_MAX; i++) {
		cf_close(&t->icc[i].apdu);
		cf_close(&t->icc[i].dir);
	}
	pthread_mutex_lock(&lock);
	for (struct terminal **p = &terminals; *p != NULL; p = &(*p)->next)
		if (*p == t) {
			*p = t->next;
			t->refs--;
			break;
		}
	pthread_mutex_unlock(&lock);
}

static int open_slot(struct icc *icc, const char *root, unsigned number)
{
	char path[PATH_MAX];

	snprintf(path, sizeof path, "%s/%u", root, number);
	icc->dir = cf_open(AT_FDCWD, path, O_PATH | O_DIRECTORY);
	return icc->dir < 0 ? icc->dir : 0;
}

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
	unsigned numbers[ICC_MAX], n;
	struct cf_name name;
	int result;

	if (!cf_numbered(pn, &name))
		return ERR_HOST;
	n = cf_reader(&name, numbers, ICC_MAX);
	if (n == 0)
		return mounted(name.root);
	for (t->slots = 0; t->slots < n; t->slots++) {
		result = open_slot(&t->icc[t->slots], name.root, numbers[t->slots]);
		if (result < 0)
			return code(result);
	}
	/* Here the driver is waited for. The directories are held: they cannot
	 * become another reader's meanwhile. */
	t->ctbcs = cf_channel(t->icc[0].dir, "ctbcs", 0);
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

	if (t == NULL)
		return (char)ERR_CT;
	if (!t->open) {
		put(t);
		return (char)ERR_CT;
	}
	for (unsigned i = 0; i < t->slots; i++) {
		cf_close(&t->icc[i].apdu);
		/* Not if another program holds the card, nor if it is gone. */
		if (t->icc[i].ours)
			cf_write(t->icc[i].dir, "power", "off");
	}
	drop(t);
	put(t);
	return OK;
}

/* ---- commands ------------------------------------------------------------------- */

/* own_sw answers for the terminal. */
static ssize_t own_sw(unsigned sw, unsigned char *response, unsigned char *unit)
{
	response[0] = (unsigned char)(sw >> 8);
	response[1] = (unsigned char)sw;
	*unit = CT_CT;
	return 2;
}

enum { NO_CARD = 0x64A1, NOT_ACTIVE = 0x64A2 };

static ssize_t to_card(struct icc *icc, const unsigned char *command, size_t n,
		       unsigned char *response, size_t room, unsigned char *unit)
{
	struct cf_wait w = cf_wait_for(CF_SOON_MS);
	ssize_t got;

	if (icc->inactive)
		return own_sw(NOT_ACTIVE, response, unit);
	while (icc->apdu < 0) {
		/* With O_NONBLOCK, as no card is a fact to tell, not to wait out. */
		icc->apdu = cf_channel(icc->dir, "apdu", O_NONBLOCK);
		if (icc->apdu == -ENOMEDIUM)
			return own_sw(NO_CARD, response, unit);
		if (icc->apdu < 0 && ((icc->apdu != -EAGAIN && icc->apdu != -EBUSY) || !cf_pause(&w)))
			return icc->apdu;
	}
	got = cf_patient(icc->apdu, command, n, response, room);
	switch (got) {
	case 0:
	case 1:
		got = CF_BROKEN;
		break;
	case -ENOMEDIUM:
		cf_close(&icc->apdu);
		icc->inactive = true;
		return own_sw(NO_CARD, response, unit);
	case -ESTALE:
		cf_close(&icc->apdu);
		icc->inactive = true;
		return own_sw(NOT_ACTIVE, response, unit);
	}
	if (got == CF_BROKEN) {
		cf_close(&icc->apdu);
		icc->inactive = true;
	}
	return got;
}

/* begin begins a session with a card that was just activated, and not with its
 * first command: one that is put in until then is not the one that was requested. */
static void begin(struct icc *icc)
{
	cf_close(&icc->apdu);
	icc->apdu = cf_channel(icc->dir, "apdu", O_NONBLOCK);
	icc->inactive = icc->apdu < 0;
}

/* note keeps what a CT-BCS command did to a card; alone: it was for that one. */
static void note(struct icc *icc, unsigned char ins, unsigned sw, bool alone)
{
	bool done = sw >> 8 == 0x90;

	switch (ins) {
	case 0x10: /* RESET, in the B1 form and CT-BCS's */
	case 0x11:
	case 0x12: /* REQUEST ICC; 6201: it is active, and nothing was done */
		if (alone && (done || (sw == 0x6201 && icc->apdu < 0))) {
			begin(icc);
			icc->ours = true;
		} else if (done || sw == 0x6200) { /* all cards are off; there is none */
			cf_close(&icc->apdu);
			icc->inactive = false;
		}
		break;
	case 0x14: /* DEACTIVATE ICC, EJECT ICC; 6200: off, but not taken out */
	case 0x15:
		if (!done && sw != 0x6200)
			return;
		cf_close(&icc->apdu);
		icc->inactive = true;
		icc->ours = false;
		break;
	}
}

/* from_card tells whether the card answered PERFORM VERIFICATION or MODIFY
 * VERIFICATION DATA: the terminal has these for what it did not send. */
static bool from_card(unsigned char ins, unsigned sw)
{
	static const unsigned own[] = {
		0x6400, 0x6401, 0x6402, NO_CARD, NOT_ACTIVE, 0x6700, 0x6985, 0x6A00, 0x6A85, 0x6D00, 0x6F00,
	};

	for (size_t i = 0; i < sizeof own / sizeof own[0]; i++)
		if (sw == own[i])
			return false;
	return ins == 0x18 || ins == 0x19;
}

static ssize_t to_terminal(struct terminal *t, unsigned char *unit, const unsigned char *command,
			   size_t n, unsigned char *response, size_t room)
{
	/* By write and read: a person may be asked for a card or a PIN. */
	ssize_t got = cf_converse(t->ctbcs, command, n, response, room);
	unsigned sw;

	if (got == 0 || got == 1)
		return CF_BROKEN;
	if (got < 0)
		return got;
	sw = (unsigned)response[got - 2] << 8 | response[got - 1];
	/* SET INTERFACE PARAMETER may reset the card for another protocol. */
	if (command[0] == 0x80 && command[1] == 0x60 && command[2] >= 1 &&
	    command[2] <= t->slots && sw >> 8 == 0x90 && t->icc[command[2] - 1].apdu >= 0)
		begin(&t->icc[command[2] - 1]);
	if (command[0] != 0x20)
		return got;
	if (from_card(command[1], sw))
		*unit = command[2] == 1 ? CT_ICC1 : command[2];
	for (unsigned i = 0; i < t->slots; i++)
		if (command[2] == i + 1 || command[2] == 0)
			note(&t->icc[i], command[1], sw, command[2] != 0);
	return got;
}

/* slot_of is the slot that dad addresses, -1 for none. OpenCT and KOBIL count
 * the terminal in, so that the second slot of two is 3 to their programs. */
static int slot_of(const struct terminal *t, unsigned char dad)
{
	if (dad == CT_ICC1)
		return 0;
	if (dad == 3 && t->slots == 2)
		return 1;
	return dad >= CT_ICC2 && dad <= t->slots ? dad - 1 : -1;
}

static ssize_t data(struct terminal *t, unsigned char *unit, const unsigned char *command,
		    size_t n, unsigned char *response, size_t room)
{
	int slot = slot_of(t, *unit);

	if (*unit == CT_CT)
		return to_terminal(t, unit, command, n, response, room);
	if (slot < 0)
		return -EINVAL;
	return to_card(&t->icc[slot], command, n, response, room, unit);
}

char CT_data(unsigned short ctn, unsigned char *dad, unsigned char *sad, unsigned short lenc,
	     unsigned char *command, unsigned short *lenr, unsigned char *response)
{
	enum { REMOTE_HOST = 5 };
	struct terminal *t;
	size_t room;
	ssize_t n;
	unsigned char unit;

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
	unit = *dad;
	n = t->open ? data(t, &unit, command, lenc, response, room) : -EBUSY;
	put(t);
	if (n < 0)
		return (char)code(n);
	*dad = *sad == REMOTE_HOST ? REMOTE_HOST : CT_HOST;
	*sad = unit;
	*lenr = (unsigned short)n;
	return OK;
}
