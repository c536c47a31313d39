/* SPDX-License-Identifier: BSD-3-Clause
 *
 * events.h - a thread that follows the event file of a mount
 *
 * It follows the mount point through all that happens there: while nothing is mounted
 * it waits for a mount, and after the daemon ended for the next one.
 */
#ifndef CARDFS_EVENTS_H
#define CARDFS_EVENTS_H

/*
 * What the thread reports. It calls these functions one at a time, holding no lock,
 * with the arg of cf_follow.
 */
struct cf_listener {
	/* One line of the event file: what happened to slot directory number. */
	void (*event)(void *arg, unsigned number, const char *what);
	/* Anything may have changed: the file was opened, or events were lost. */
	void (*resync)(void *arg);
	/* All events that were there have been reported, and there was at least one
	 * event or resync. */
	void (*settled)(void *arg);
	/* The daemon ended, or is not there. */
	void (*lost)(void *arg);
	/* The thread ends: this is the last call. */
	void (*end)(void *arg);
};

struct cf_follower;

/* cf_follow starts a thread that follows the mount at root. It returns NULL if there
 * is no memory or no thread for it; then listener->end is not called. */
struct cf_follower *cf_follow(const char *root, const struct cf_listener *listener, void *arg);

/* cf_unfollow makes the thread end, and f invalid. It waits for the end, but not if
 * the thread hangs in the daemon: then the last call may come after it returned. */
void cf_unfollow(struct cf_follower *f);

/* cf_follower_forked closes what the thread has open, in a child, which does not have
 * the thread. */
void cf_follower_forked(struct cf_follower *f);

#endif
