/* SPDX-License-Identifier: BSD-3-Clause */
#define _GNU_SOURCE
#include "fake.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

#include "cardfs.h"
#include "times.h"

int test_soon_ms = SOON_MS, test_answer_ms = ANSWER_MS;

enum { FIRST = 5000, FILES = 256, LOG = 1 << 16, COMMANDS = 2048, ANSWER = 70000 };

struct slot {
	bool there, starting, failed, card, powered, lock;
	int first, siblings, sessions;
	unsigned serial, epoch;
	int bus, device, interface;
	char protocol;
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
	int slot;
	unsigned serial, epoch, era;
	int flags;
	size_t pos;
	char text[8192];
	size_t ntext;
	uint8_t *answer;
	size_t nanswer;
	bool pending;
	struct slot *logged; /* where the command is that the answer is to; NULL: nowhere */
};

static pthread_mutex_t mu = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static struct slot slot[SLOTS];
static struct file file[FILES];
static char events[LOG];
static size_t nevents;
static unsigned seq, serials, era;
static bool alive;
static struct fault fault;
static int calls, calls_of_others;
static int allocations, starve_at;
static const char *atr; /* the text of the atr file, if not the usual one */
static __thread bool own;

int __real_open(const char *, int, ...);
int __real_openat(int, const char *, int, ...);
int __real_close(int);
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
int __real_pthread_create(pthread_t *, const pthread_attr_t *, void *(*)(void *), void *);

/* ---- what the test does ------------------------------------------------------ */

static void enter(void)
{
	pthread_mutex_lock(&mu);
}

static void leave(void)
{
	pthread_cond_broadcast(&changed);
	pthread_mutex_unlock(&mu);
}

/* A fork finds the lock free, as the kernel's would be. */
static void in_child(void)
{
	/* Its waiters are the parent's; a broadcast would wait for them to leave. */
	changed = (pthread_cond_t)PTHREAD_COND_INITIALIZER;
	leave();
}

__attribute__((constructor)) static void watch_forks(void)
{
	pthread_atfork(enter, leave, in_child);
}

static void emit(const char *format, ...)
{
	va_list ap;

	va_start(ap, format);
	nevents += (size_t)vsnprintf(events + nevents, LOG - nevents, format, ap);
	va_end(ap);
	if (nevents > LOG - 4096) {
		fprintf(stderr, "fake: too many events\n");
		abort();
	}
}

static void event(int n, const char *what)
{
	emit("%u %d %s\n", ++seq, n, what);
}

static void drop_log(struct slot *s)
{
	for (int i = 0; i < s->commands; i++)
		free(s->log[i].bytes);
}

void fake_reset(void)
{
	enter();
	own = true;
	for (int i = 0; i < SLOTS; i++) {
		drop_log(&slot[i]);
		memset(&slot[i], 0, sizeof slot[i]);
	}
	nevents = 0;
	seq = 0;
	era++;
	alive = true;
	fault = (struct fault){NONE};
	calls = calls_of_others = 0;
	starve_at = 0;
	test_soon_ms = SOON_MS;
	test_answer_ms = ANSWER_MS;
	atr = NULL;
	leave();
}

void fake_daemon(bool on)
{
	enter();
	alive = on;
	era++;
	nevents = 0;
	seq = 0;
	for (int i = 0; i < SLOTS; i++)
		slot[i].there = false;
	leave();
}

void fake_arrive(int n, int siblings, bool starting)
{
	enter();
	for (int i = n; i < n + siblings; i++) {
		drop_log(&slot[i]);
		memset(&slot[i], 0, sizeof slot[i]);
		slot[i] = (struct slot){.there = true, .starting = starting, .first = n,
			.siblings = siblings, .serial = ++serials, .bus = -1, .protocol = '1'};
		event(i, "arrived driver=fake");
		if (!starting)
			event(i, "ready");
	}
	leave();
}

void fake_ready(int n)
{
	enter();
	slot[n].starting = false;
	event(n, "ready");
	leave();
}

void fake_fail(int n)
{
	enter();
	slot[n].starting = false;
	slot[n].failed = true;
	event(n, "failed error=it_does_not_answer");
	leave();
}

void fake_leave(int n)
{
	enter();
	slot[n].there = slot[n].card = slot[n].powered = false;
	slot[n].serial = ++serials;
	event(n, "left");
	leave();
}

void fake_usb(int n, unsigned bus, unsigned device, int interface)
{
	enter();
	slot[n].bus = (int)bus;
	slot[n].device = (int)device;
	slot[n].interface = interface;
	leave();
}

static void insert(int n)
{
	slot[n].card = true;
	slot[n].powered = false;
	slot[n].epoch++;
	event(n, "inserted");
}

static void take_out(int n)
{
	slot[n].card = slot[n].powered = false;
	slot[n].epoch++;
	event(n, "removed");
}

void fake_insert(int n)
{
	enter();
	insert(n);
	leave();
}

void fake_remove(int n)
{
	enter();
	take_out(n);
	leave();
}

void fake_swap(int n)
{
	enter();
	take_out(n);
	insert(n);
	leave();
}

void fake_foreign_reset(int n)
{
	enter();
	slot[n].epoch++;
	event(n, "reset");
	leave();
}

void fake_foreign_lock(int n, bool held)
{
	enter();
	slot[n].lock = held;
	leave();
}

void fake_sessions(int n, int others)
{
	enter();
	slot[n].sessions = others;
	leave();
}

void fake_remove_unseen(int n)
{
	enter();
	slot[n].card = false;
	slot[n].powered = false;
	slot[n].epoch++;
	leave();
}

void fake_atr(const char *text)
{
	enter();
	atr = text;
	leave();
}

void fake_line(const char *line)
{
	enter();
	emit("%s\n", line);
	leave();
}

int fake_commands(int n)
{
	int count;

	enter();
	count = slot[n].commands;
	leave();
	return count;
}

/* The log keeps the bytes inverted, so that no PIN is found in it. */
static bool same(const uint8_t *logged, const uint8_t *bytes, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if ((logged[i] ^ bytes[i]) != 0xFF)
			return false;
	return true;
}

int fake_count(int n, const uint8_t *command, size_t length)
{
	int count = 0;

	enter();
	for (int i = 0; i < slot[n].commands; i++)
		count += slot[n].log[i].n == length && same(slot[n].log[i].bytes, command, length);
	leave();
	return count;
}

void fake_forget_answers(void)
{
	enter();
	for (int i = 0; i < FILES; i++)
		if (file[i].used && file[i].answer != NULL)
			explicit_bzero(file[i].answer, ANSWER);
	leave();
}

const char *fake_power(int n)
{
	return slot[n].words;
}

int fake_open_files(void)
{
	int n = 0;

	enter();
	for (int i = 0; i < FILES; i++)
		n += file[i].used;
	leave();
	return n;
}

void fake_fault(struct fault f)
{
	enter();
	fault = f;
	calls = calls_of_others = 0;
	leave();
}

int fake_calls(void)
{
	int n;

	enter();
	n = calls;
	leave();
	return n;
}

int fake_calls_of_others(void)
{
	int n;

	enter();
	n = calls_of_others;
	leave();
	return n;
}

void fake_starve(int n)
{
	__atomic_store_n(&allocations, 0, __ATOMIC_SEQ_CST);
	__atomic_store_n(&starve_at, n, __ATOMIC_SEQ_CST);
}

int fake_allocations(void)
{
	return __atomic_load_n(&allocations, __ATOMIC_SEQ_CST);
}

/* ---- what the libraries see ---------------------------------------------------- */

/* struck tells what happens to the call after so many; mu is held. */
static enum shape struck(int ahead)
{
	int n = (own ? calls : calls_of_others) + ahead;

	if (fault.shape == NONE || own == fault.of_others || fault.at == 0)
		return NONE;
	if (n == fault.at || (n > fault.at && (fault.from_then_on || n < fault.at + fault.times)))
		return fault.shape;
	return NONE;
}

/* strike tells what happens to this call. */
static enum shape strike(void)
{
	if (own)
		calls++;
	else
		calls_of_others++;
	return struck(0);
}

static int refuse(int error)
{
	leave();
	errno = error;
	return -1;
}

static struct file *of(int fd)
{
	return fd >= FIRST && fd < FIRST + FILES && file[fd - FIRST].used ? &file[fd - FIRST] : NULL;
}

static int dead(const struct file *f)
{
	if (f->era != era || !alive)
		return ENOTCONN;
	if (f->slot >= 0 && (!slot[f->slot].there || slot[f->slot].serial != f->serial))
		return ENODEV;
	return 0;
}

static bool is(const struct file *f, const char *kind)
{
	return strcmp(f->kind, kind) == 0;
}

/* fill_text is what a text file says at its open. */
static void fill_text(struct file *f)
{
	struct slot *s = f->slot >= 0 ? &slot[f->slot] : NULL;
	char *t = f->text;
	size_t n = 0, size = sizeof f->text;

	if (strcmp(f->kind, "status") == 0) {
		n += (size_t)snprintf(t + n, size - n, "state %s\n",
			s->starting ? "starting" : s->failed ? "failed" : !s->card ? "empty" :
			s->powered ? "powered" : "present");
		n += (size_t)snprintf(t + n, size - n, "reader Fake reader\nserial 4711\nversion 1.02\n");
		n += (size_t)snprintf(t + n, size - n, "slot %d of %d\nsiblings", f->slot - s->first, s->siblings);
		for (int i = 0; i < s->siblings; i++)
			n += (size_t)snprintf(t + n, size - n, " %d", s->first + i);
		n += (size_t)snprintf(t + n, size - n, "\nsessions %d\n", s->sessions);
		if (s->bus >= 0)
			n += (size_t)snprintf(t + n, size - n, "usb %03d/%03d\ninterface %d\n",
				s->bus, s->device, s->interface);
	} else if (strcmp(f->kind, "atr") == 0) {
		n = (size_t)snprintf(t, size, "%s\n", atr != NULL ? atr : "3B B7 94 00 81 31 FE 65 53 50 4B 32 33 90 00 D1");
	} else if (strcmp(f->kind, "protocol") == 0) {
		n = (size_t)snprintf(t, size, "T=%c T=%c\n", s->protocol, s->protocol == '1' ? '0' : '1');
	}
	for (int i = 0; is(f, "event") && i < SLOTS; i++) {
		if (slot[i].there)
			n += (size_t)snprintf(t + n, size - n, "0 %d arrived driver=fake\n", i);
		if (slot[i].there && !slot[i].starting && !slot[i].failed)
			n += (size_t)snprintf(t + n, size - n, "0 %d ready\n", i);
		if (slot[i].card)
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

/* find_path splits "/fake/0/apdu" or "apdu" below an open directory. */
static bool find_path(int at, const char *path, struct file *f)
{
	int used = 0;

	memset(f, 0, sizeof *f);
	f->slot = -1;
	if (strcmp(path, "/fake/event") == 0) {
		strcpy(f->kind, "event");
		return true;
	}
	if (path[0] != '/') {
		struct file *dir = of(at);

		if (dir == NULL)
			return false;
		f->slot = dir->slot;
		f->serial = dir->serial;
		snprintf(f->kind, sizeof f->kind, "%s", path);
		return true;
	}
	if (sscanf(path, "/fake/%d%n", &f->slot, &used) != 1 || f->slot < 0 || f->slot >= SLOTS)
		return false;
	snprintf(f->kind, sizeof f->kind, "%s", path[used] == '\0' ? "." : path + used + 1);
	f->serial = slot[f->slot].serial;
	return true;
}

/* openable tells with which error an open fails; it powers the card. */
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
		f.pos = nevents; /* the present state comes first, then what is new */
	fill_text(&f);
	file[i] = f;
	leave();
	return FIRST + i;
}

static bool ours(int at, const char *path)
{
	return strncmp(path, "/fake/", 6) == 0 || strcmp(path, "/fake") == 0 ||
	       (path[0] != '/' && at >= FIRST);
}

int __wrap_openat(int at, const char *path, int flags, ...)
{
	return ours(at, path) ? fake_open(at, path, flags) : __real_openat(at, path, flags);
}

int __wrap_open(const char *path, int flags, ...)
{
	return ours(-1, path) ? fake_open(-1, path, flags) : __real_open(path, flags);
}

static void (*on_close)(void);

void fake_on_close(void (*f)(void))
{
	on_close = f;
}

int __wrap_close(int fd)
{
	void (*call)(void) = own ? on_close : NULL;
	struct file *f;

	if (fd < FIRST)
		return __real_close(fd);
	if (call != NULL) {
		on_close = NULL;
		call();
	}
	enter();
	f = of(fd);
	if (f == NULL) {
		fprintf(stderr, "fake: close of %d, which is not open\n", fd);
		abort();
	}
	if (f->answer != NULL)
		explicit_bzero(f->answer, ANSWER);
	free(f->answer);
	f->answer = NULL;
	f->used = false;
	leave();
	return 0;
}

static void unlock_mu(void *arg)
{
	(void)arg;
	pthread_mutex_unlock(&mu);
}

static int waiting; /* threads in wait_event */

void fake_followed(void)
{
	enter();
	while (waiting == 0)
		pthread_cond_wait(&changed, &mu);
	leave();
}

static void wait_over(void *arg)
{
	waiting--;
	unlock_mu(arg);
}

/* wait_event is where the event thread waits, and may be cancelled. A fault of its next
 * call ends the waiting, too. */
static void wait_event(struct file *f)
{
	pthread_cleanup_push(wait_over, NULL);
	waiting++;
	pthread_cond_broadcast(&changed);
	while (dead(f) == 0 && f->ntext == 0 && f->pos >= nevents && struck(1) == NONE)
		pthread_cond_wait(&changed, &mu);
	waiting--;
	pthread_cleanup_pop(0);
}

/* The file that an epoll descriptor tells of: the event thread has one of each. */
static int watched[FIRST];

int __wrap_epoll_ctl(int ep, int op, int fd, struct epoll_event *e)
{
	if (fd < FIRST)
		return __real_epoll_ctl(ep, op, fd, e);
	enter();
	watched[ep] = fd;
	leave();
	return 0;
}

int __wrap_epoll_wait(int ep, struct epoll_event *e, int most, int timeout)
{
	struct file *f;

	if (ep >= FIRST || watched[ep] == 0)
		return __real_epoll_wait(ep, e, most, timeout);
	enter();
	f = of(watched[ep]);
	if (f == NULL || !is(f, "event") || timeout >= 0) {
		fprintf(stderr, "fake: an epoll_wait that nobody should do\n");
		abort();
	}
	wait_event(f);
	e->events = EPOLLIN;
	leave();
	return 1;
}

ssize_t __wrap_read(int fd, void *buf, size_t n)
{
	struct file *f;
	enum shape shape;
	const char *from;
	size_t have;
	int error;

	if (fd < FIRST)
		return __real_read(fd, buf, n);
	enter();
	f = of(fd);
	if (f == NULL)
		return refuse(EBADF);
	shape = strike();
	if (shape == ERRNO && f->pending && fault.error != EINTR && fault.error != EAGAIN) {
		/* An error in the place of the answer. EBUSY: nothing was sent. */
		if (fault.error == EBUSY && f->logged != NULL)
			free(f->logged->log[--f->logged->commands].bytes);
		f->pending = false;
		f->pos = f->ntext;
	}
	if (shape == ERRNO)
		return refuse(fault.error);
	error = dead(f);
	if (error != 0)
		return refuse(error);
	if (is(f, "event") && shape == NONE && f->ntext == 0 && f->pos >= nevents)
		return refuse(EAGAIN); /* it is to be waited for in epoll_wait(2) */
	if (shape == EMPTY) {
		leave();
		return 0;
	}
	if (shape == GARBAGE || shape == LONG) {
		/* LONG: a file without an end. */
		for (size_t i = 0; i < n; i++)
			((char *)buf)[i] = shape == LONG ? "4F "[i % 3] : (char)(i * 37 + n + 11);
		leave();
		return (ssize_t)n;
	}
	if (is(f, "event") && f->ntext > 0) {
		have = f->ntext;
		if (n >= have) {
			memcpy(buf, f->text, have);
			f->ntext = 0;
			if (shape == ERRNO_LATE)
				return refuse(fault.error);
			leave();
			return (ssize_t)have;
		}
		from = f->text;
		n = 0;
	} else if (is(f, "event")) {
		from = events + f->pos;
		have = nevents - f->pos;
	} else if (f->pending) {
		from = (char *)f->answer + f->pos;
		have = f->nanswer - f->pos;
	} else {
		from = f->text + f->pos;
		have = f->ntext - f->pos;
	}
	if (n > have)
		n = have;
	if (shape == SHORT && n > 1)
		n = n / 2;
	memcpy(buf, from, n);
	f->pos += n;
	if (f->pending && f->pos == f->nanswer) {
		f->pending = false;
		f->pos = f->ntext;
	}
	if (shape == ERRNO_LATE)
		return refuse(fault.error);
	leave();
	return (ssize_t)n;
}

/* keep logs a command. */
static void keep(struct file *f, struct slot *s, const uint8_t *c, size_t n)
{
	uint8_t *bytes = __real_malloc(n == 0 ? 1 : n);

	if (s->commands == COMMANDS) {
		fprintf(stderr, "fake: too many commands\n");
		abort();
	}
	for (size_t i = 0; i < n; i++)
		bytes[i] = (uint8_t)~c[i];
	s->log[s->commands].n = n;
	s->log[s->commands].bytes = bytes;
	s->commands++;
	f->logged = s;
}

static void word(struct slot *s, const char *w)
{
	strcat(s->words, s->words[0] == '\0' ? "" : " ");
	strcat(s->words, w);
}

/* card answers a command of a card or of the terminal. */
static size_t card(uint8_t *to, const uint8_t *c, size_t n)
{
	size_t want = 0;

	if (c[0] == 0x80 && c[1] == 0xEC)
		want = (size_t)c[2] << 8 | c[3];
	else if (c[0] == 0x80 && c[1] == 0xEF) /* the longest, and one more */
		want = 65536 + c[2];
	else if (c[0] == 0x80 && c[1] == 0xEE)
		want = n < 65536 ? n : 65536;
	for (size_t i = 0; i < want; i++)
		to[i] = c[1] == 0xEE ? c[i] : (uint8_t)i;
	to[want] = 0x90;
	to[want + 1] = 0x00;
	if (c[0] == 0x80 && c[1] == 0xE1) /* an answer of c[2] bytes, without SW1 SW2 */
		return c[2];
	return want + 2;
}

/* addressed answers what CT_data sends, by the reader's own rules: a card that is
 * not there has the terminal's 64A1. */
static int addressed(struct file *f, const uint8_t *c, size_t n)
{
	struct slot *s = &slot[f->slot];
	int dad, at;

	if (n == 2) {
		word(s, "close");
		memcpy(f->answer, "\2\1", 2);
		f->nanswer = 2;
		return 0;
	}
	if (n < 6)
		return EINVAL;
	dad = c[0];
	at = dad == 0 ? 0 : dad == 3 && s->siblings == 2 ? 1 : dad - 1;
	if (dad != 1 && at >= s->siblings)
		return EINVAL;
	f->answer[0] = c[1] == 5 ? 5 : 2;
	f->answer[1] = (uint8_t)dad;
	if (dad == 1) {
		keep(f, s, c + 2, n - 2);
	} else {
		s = &slot[s->first + at];
		if (s->lock)
			return EBUSY;
		if (!s->card) {
			memcpy(f->answer + 1, "\x01\x64\xA1", 3);
			f->nanswer = 4;
			return 0;
		}
		keep(f, s, c + 2, n - 2);
	}
	f->nanswer = 2 + card(f->answer + 2, c + 2, n - 2);
	return 0;
}

/* answer answers one command into f->answer; 0 or an errno. */
static int answer(struct file *f, const uint8_t *c, size_t n)
{
	struct slot *s = &slot[f->slot];

	if (is(f, "apdu")) {
		if (!s->card)
			return ENOMEDIUM;
		if (f->epoch != s->epoch)
			return ESTALE;
		if (s->lock)
			return EBUSY;
		if (n < 4)
			return EINVAL;
	}
	if (f->answer == NULL)
		f->answer = __real_malloc(ANSWER);
	f->logged = NULL;
	if (f->addressed)
		return addressed(f, c, n);
	keep(f, s, c, n);
	if (is(f, "control")) {
		/* code 1 is not known, the rest echo their data */
		if (n >= 4 && memcmp(c, "\0\0\0\1", 4) == 0)
			return EOPNOTSUPP;
		f->nanswer = n - 4;
		memcpy(f->answer, c + 4, n - 4);
		return 0;
	}
	f->nanswer = card(f->answer, c, n);
	return 0;
}

static int power(struct file *f, const char *text, size_t n)
{
	struct slot *s = &slot[f->slot];
	char w[16];
	bool off;

	snprintf(w, sizeof w, "%.*s", (int)n, text);
	word(s, w);
	off = strcmp(w, "off") == 0 || strcmp(w, "release") == 0;
	if (s->lock || (strcmp(w, "release") == 0 && s->sessions > 0))
		return EBUSY;
	if (!s->card)
		return ENOMEDIUM;
	s->epoch++;
	s->powered = !off;
	event(f->slot, s->powered ? "reset" : "powered power=off");
	return 0;
}

ssize_t __wrap_write(int fd, const void *buf, size_t n)
{
	struct file *f;
	enum shape shape;
	int error;

	if (fd < FIRST)
		return __real_write(fd, buf, n);
	enter();
	f = of(fd);
	if (f == NULL)
		return refuse(EBADF);
	shape = strike();
	if (shape == ERRNO)
		return refuse(fault.error);
	error = dead(f);
	if (error == 0 && is(f, "power"))
		error = power(f, buf, n);
	else if (error == 0 && is(f, "protocol")) {
		slot[f->slot].protocol = ((const char *)buf)[2];
		slot[f->slot].epoch++;
	} else if (error == 0) {
		if (!f->binary) {
			fprintf(stderr, "fake: a text write to %s\n", f->kind);
			abort();
		}
		error = answer(f, buf, n);
		f->pending = error == 0;
		f->pos = 0;
	}
	if (error != 0)
		return refuse(error);
	if (shape == ERRNO_LATE)
		return refuse(fault.error);
	leave();
	if (shape == SHORT || shape == EMPTY)
		return shape == SHORT ? (ssize_t)(n / 2) : 0;
	return (ssize_t)n;
}

int __wrap_ioctl(int fd, unsigned long request, void *arg)
{
	struct cardfs_exchange *x = arg;
	struct file *f;
	enum shape shape;
	size_t size, room;
	int error;

	if (fd < FIRST)
		return __real_ioctl(fd, request, arg);
	enter();
	f = of(fd);
	if (f == NULL)
		return refuse(EBADF);
	shape = strike();
	if (shape == ERRNO)
		return refuse(fault.error);
	error = dead(f);
	if (error != 0)
		return refuse(error);
	if (request == CARDFS_BINARY || (request == CARDFS_CTAPI && is(f, "ctbcs"))) {
		f->binary = true;
		f->addressed = request == CARDFS_CTAPI;
		if (shape == ERRNO_LATE)
			return refuse(fault.error);
		leave();
		return 0;
	}
	size = _IOC_SIZE(request);
	if (request != CARDFS_EXCHANGE(size) || !(is(f, "apdu") || is(f, "control") || is(f, "ctbcs")))
		return refuse(ENOTTY);
	room = size - sizeof *x;
	if (size < sizeof *x || x->length > room)
		return refuse(EINVAL);
	error = answer(f, x->data, x->length);
	if (error != 0)
		return refuse(error);
	if (shape == ERRNO_LATE)
		return refuse(fault.error);
	x->length = (uint32_t)f->nanswer;
	memset(x->data, 0, room);
	if (f->nanswer <= room) {
		memcpy(x->data, f->answer, f->nanswer);
	} else {
		f->pending = true;
		f->pos = 0;
	}
	switch (shape) {
	case SHORT:
		x->length = 1;
		break;
	case EMPTY:
		x->length = 0;
		break;
	case LONG:
		x->length = (uint32_t)room + 1; /* and nothing to read */
		break;
	case GARBAGE:
		memset(arg, 0xA5, size);
		leave();
		return 0x5A5A5A5A;
	default:
		break;
	}
	leave();
	return (int)x->length;
}

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
	static const char *const names[] = {".", "..", "by-id", "ctl", "event", "0", "1", "2", "3", "99999999999999999999"};
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

/* ---- nothing to be had ------------------------------------------------------------ */

static bool starved(void)
{
	int n = __atomic_add_fetch(&allocations, 1, __ATOMIC_SEQ_CST);

	return n == __atomic_load_n(&starve_at, __ATOMIC_SEQ_CST);
}

void *__wrap_malloc(size_t n)
{
	return starved() ? NULL : __real_malloc(n);
}

void *__wrap_calloc(size_t n, size_t size)
{
	return starved() ? NULL : __real_calloc(n, size);
}

int __wrap_pthread_create(pthread_t *t, const pthread_attr_t *a, void *(*f)(void *), void *arg)
{
	return starved() ? EAGAIN : __real_pthread_create(t, a, f, arg);
}
