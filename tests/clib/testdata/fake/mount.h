/* SPDX-License-Identifier: BSD-3-Clause
 *
 * mount.h - the state of the fake mounts, and what its files share
 */
#ifndef MOUNT_H
#define MOUNT_H

#include <dirent.h>
#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/epoll.h>
#include <sys/types.h>
#include <time.h>

#include "fake.h"

enum { FIRST = 5000, FILES = 256, LOG = 1 << 16, COMMANDS = 2048, ANSWER = 70000 };

struct slot {
	bool there, starting, failed, gone, card, powered, lock;
	int first, siblings, sessions;
	unsigned serial, epoch;
	int bus, device, interface;
	char protocol;
	const char *protocols; /* the text of the protocol file, if not made of that */
	char words[4096];
	int commands;
	struct {
		size_t n;
		uint8_t *bytes;
	} log[COMMANDS];
};

struct file {
	bool used, binary, addressed;
	char kind[16];
	int mount, slot; /* slot -1: a file of the mount */
	unsigned serial, epoch, era;
	int flags;
	size_t pos;
	char text[8192];
	size_t ntext;
	uint8_t *answer;
	size_t nanswer;
	bool pending;
	struct slot *logged; /* the slot that has the command of the answer in its log; NULL: none */
};

/* Everything below is guarded by mu, except own and the allocations. */
extern pthread_mutex_t mu;
extern pthread_cond_t changed;
extern struct mount {
	const char *root;
	char events[LOG];
	size_t nevents;
} mount[MOUNTS];
extern struct slot slot[MOUNTS * SLOTS];
extern struct file file[FILES];
extern unsigned era;
extern bool alive;
extern struct fault fault;
extern const char *atr; /* the text of the atr file, if not the usual one */
extern __thread bool own; /* this is the test's own thread */

/* control.c */
void enter(void);
void leave(void);
/* event adds an event of a slot to its mount. */
void event(int n, const char *what);
/* struck returns what happens to the call after that many, strike what happens to
 * this one. */
enum shape struck(int ahead);
enum shape strike(void);
/* broken ends the test: the library broke a rule of the mount. */
void broken(const char *rule, const struct file *f);
/* refuse ends a call that fails: it unlocks mu and sets errno. */
int refuse(int error);
bool starved(void);

/* files.c */
struct file *of(int fd);
bool is(const struct file *f, const char *kind);
/* ours reports whether a path is on one of the mounts. */
bool ours(int at, const char *path);

/* card.c */
/* answer answers one command into f->answer; power obeys a word. Both return 0 or
 * an errno. */
int answer(struct file *f, const uint8_t *c, size_t n);
int power(struct file *f, const char *text, size_t n);

int __real_open(const char *, int, ...);
int __real_openat(int, const char *, int, ...);
int __real_close(int);
int __real_fcntl(int, int, ...);
ssize_t __real_read(int, void *, size_t);
int __real_epoll_ctl(int, int, int, struct epoll_event *);
int __real_epoll_wait(int, struct epoll_event *, int, int);
ssize_t __real_write(int, const void *, size_t);
int __real_ioctl(int, unsigned long, ...);
ssize_t __real_readlink(const char *, char *, size_t);
DIR *__real_opendir(const char *);
struct dirent *__real_readdir(DIR *);
int __real_closedir(DIR *);
void *__real_malloc(size_t);
void *__real_calloc(size_t, size_t);
int __real_pthread_clockjoin_np(pthread_t, void **, clockid_t, const struct timespec *);
int __real_pthread_create(pthread_t *, const pthread_attr_t *, void *(*)(void *), void *);

#endif
