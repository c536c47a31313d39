/* SPDX-License-Identifier: BSD-3-Clause
 *
 * lock.c - transactions
 *
 * A transaction is flock(2) on the session's apdu file. CARDFS_BEGIN and CARDFS_END look at
 * the card in the same call. The mount holds everybody else off meanwhile, programs that know
 * nothing of PC/SC included, and resets the card if the program dies before it unlocked.
 *
 * A connection without a card locks an open of apdu that needs none.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <sys/file.h>

#include "file.h"
#include "pcsc.h"

/* flock_again is flock(2), made again after a signal. */
static int flock_again(int fd, int how)
{
	while (flock(fd, how) != 0)
		if (errno != EINTR)
			return -errno;
	return 0;
}

bool pc_wait_lock(struct pc_card *c)
{
	int error = c->apdu >= 0 ? flock_again(c->apdu, LOCK_EX) : -EBADF, fd;

	if (error == 0) {
		flock(c->apdu, LOCK_UN);
		return true;
	}
	fd = cf_open(c->dir, "apdu", O_RDONLY);
	if (fd < 0)
		return false;
	error = flock_again(fd, LOCK_EX);
	/* Closed while it has the lock, the open would look like a program that died. */
	flock(fd, LOCK_UN);
	cf_close(&fd);
	/* The mount refuses the lock of an open for reading to a process that it does not see:
	 * one in another pid namespace. */
	return error == 0 || pc_wait_unlocked(c);
}

/* lock takes the lock. A program that has to reconnect is told so at once, and does not
 * wait for another's transaction. */
static LONG lock(struct pc_card *c, struct cardfs_connection *now)
{
	LONG result = SCARD_S_SUCCESS;
	int error, fd;

	/* The lock of an open that takes no card lets the program's other connections pass. */
	if (c->apdu < 0)
		pc_session(c);
	fd = c->apdu >= 0 ? c->apdu : cf_open(c->dir, "apdu", O_RDONLY);
	if (fd < 0)
		return pc_error(fd, SCARD_F_COMM_ERROR);
	error = flock_again(fd, LOCK_EX | LOCK_NB);
	if (error == -EWOULDBLOCK) {
		result = pc_check(c, now);
		if (result == SCARD_S_SUCCESS)
			error = flock_again(fd, LOCK_EX);
	}
	if (result == SCARD_S_SUCCESS && error == 0) {
		c->lock = fd;
		return SCARD_S_SUCCESS;
	}
	if (fd != c->apdu)
		cf_close(&fd);
	return result != SCARD_S_SUCCESS ? result : pc_error(error, SCARD_F_COMM_ERROR);
}

void pc_unlock(struct pc_card *c)
{
	c->nested = 0;
	if (c->lock < 0)
		return;
	flock(c->lock, LOCK_UN);
	if (c->lock != c->apdu)
		cf_close(&c->lock);
	c->lock = -1;
}

LONG pc_begin(struct pc_card *c)
{
	struct cardfs_connection now;
	LONG result;

	if (c->nested > 0) {
		result = pc_check(c, &now);
		if (result == SCARD_S_SUCCESS)
			c->nested++;
		return result;
	}
	if (c->control < 0)
		return SCARD_E_READER_UNAVAILABLE;
	if (c->event != 0)
		return c->event;
	/* Mostly nothing hinders it. If this call fails, the others say why, or wait. */
	if (c->apdu >= 0 && ioctl(c->apdu, CARDFS_BEGIN, c->seen.epoch) == 0) {
		c->lock = c->apdu;
		c->nested = 1;
		return SCARD_S_SUCCESS;
	}
	result = lock(c, &now);
	if (result != SCARD_S_SUCCESS)
		return result;
	/* The holder before may have reset the card. */
	result = pc_check(c, &now);
	if (result == SCARD_S_SUCCESS)
		c->nested = 1;
	else
		pc_unlock(c);
	return result;
}

LONG pc_relock(struct pc_card *c, unsigned nested)
{
	struct cardfs_connection now;
	LONG result = nested == 0 ? SCARD_S_SUCCESS : lock(c, &now);

	c->nested = result == SCARD_S_SUCCESS ? nested : 0;
	return result;
}

LONG pc_finish(struct pc_card *c, DWORD disposition)
{
	struct cardfs_connection now;
	LONG result;

	if (disposition == SCARD_LEAVE_CARD && c->nested == 1 && c->event == 0 &&
	    c->lock == c->apdu && ioctl(c->apdu, CARDFS_END, c->seen.epoch) == 0) {
		c->nested = 0;
		c->lock = -1;
		return SCARD_S_SUCCESS;
	}
	result = pc_check(c, &now);
	if (result != SCARD_S_SUCCESS)
		return result;
	if (now.locked && c->nested == 0)
		return SCARD_E_SHARING_VIOLATION;
	/* Without a transaction pcscd disposes of the card, too. */
	switch (disposition) {
	case SCARD_RESET_CARD:
	case SCARD_UNPOWER_CARD:
		if (pc_power(c, disposition == SCARD_RESET_CARD ? "reset" : "cold") != 0)
			result = SCARD_W_UNRESPONSIVE_CARD;
		/* The program that did it has to reconnect as well. */
		c->event = SCARD_W_RESET_CARD;
		break;
	case SCARD_EJECT_CARD:
		if (pc_power(c, "eject") != 0)
			result = SCARD_E_UNSUPPORTED_FEATURE;
		break;
	}
	if (c->nested == 0)
		return result == SCARD_S_SUCCESS ? SCARD_E_NOT_TRANSACTED : result;
	if (--c->nested == 0)
		pc_unlock(c);
	return result;
}
