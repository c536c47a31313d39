/* SPDX-License-Identifier: BSD-3-Clause
 *
 * control.c - what the test does to the fake mounts
 */
#define _GNU_SOURCE
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "mount.h"
#include "times.h"

int test_soon_ms = SOON_MS, test_answer_ms = ANSWER_MS;

pthread_mutex_t mu = PTHREAD_MUTEX_INITIALIZER;
pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
struct mount mount[MOUNTS] = {{.root = "/fake"}, {.root = "/other"}};
struct slot slot[MOUNTS * SLOTS];
struct file file[FILES];
unsigned era;
bool alive;
struct fault fault;
const char *atr;
__thread bool own;

static unsigned seq, serials;
static int calls, calls_of_others;
static int allocations, starve_at;

void enter(void)
{
	pthread_mutex_lock(&mu);
}

void leave(void)
{
	pthread_cond_broadcast(&changed);
	pthread_mutex_unlock(&mu);
}

/* A forked child finds the lock free, as the kernel's would be. */
static void in_child(void)
{
	/* The waiters are the parent's; a broadcast would wait for them to leave. */
	changed = (pthread_cond_t)PTHREAD_COND_INITIALIZER;
	leave();
}

__attribute__((constructor)) static void watch_forks(void)
{
	pthread_atfork(enter, leave, in_child);
}

static void emit(struct mount *m, const char *format, ...)
{
	va_list ap;

	va_start(ap, format);
	m->nevents += (size_t)vsnprintf(m->events + m->nevents, LOG - m->nevents, format, ap);
	va_end(ap);
	if (m->nevents > LOG - 4096) {
		fprintf(stderr, "fake: too many events\n");
		abort();
	}
}

void event(int n, const char *what)
{
	emit(&mount[n / SLOTS], "%u %d %s\n", ++seq, n % SLOTS, what);
}

static void empty(void)
{
	for (int i = 0; i < MOUNTS; i++)
		mount[i].nevents = 0;
	seq = 0;
	era++;
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
	for (int i = 0; i < MOUNTS * SLOTS; i++) {
		drop_log(&slot[i]);
		memset(&slot[i], 0, sizeof slot[i]);
	}
	empty();
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
	empty();
	for (int i = 0; i < MOUNTS * SLOTS; i++)
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

void fake_gone(int n)
{
	enter();
	slot[n].gone = true;
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

void fake_protocols(int n, const char *text)
{
	enter();
	slot[n].protocols = text;
	leave();
}

void fake_piece(const char *text)
{
	enter();
	emit(&mount[0], "%s", text);
	leave();
}

void fake_line(const char *line)
{
	enter();
	emit(&mount[0], "%s\n", line);
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

/* ---- faults -------------------------------------------------------------------- */

/* struck returns what happens to the call after that many; mu is held. */
enum shape struck(int ahead)
{
	int n = (own ? calls : calls_of_others) + ahead;

	if (fault.shape == NONE || own == fault.of_others || fault.at == 0)
		return NONE;
	if (n == fault.at || (n > fault.at && (fault.from_then_on || n < fault.at + fault.times)))
		return fault.shape;
	return NONE;
}

/* strike returns what happens to this call. */
enum shape strike(void)
{
	if (own)
		calls++;
	else
		calls_of_others++;
	return struck(0);
}

void broken(const char *rule, const struct file *f)
{
	fprintf(stderr, "fake: %s: %s\n", f->kind, rule);
	abort();
}

int refuse(int error)
{
	leave();
	errno = error;
	return -1;
}

/* ---- nothing to be had ---------------------------------------------------------- */

bool starved(void)
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

/* ThreadSanitizer knows only pthread_join(3). It takes a thread that was waited for
 * in another way for still running, and its number, which the next thread may get,
 * for in use. */
int __wrap_pthread_clockjoin_np(pthread_t t, void **result, clockid_t clock, const struct timespec *until)
{
#ifdef __SANITIZE_THREAD__
	(void)clock;
	(void)until;
	return pthread_join(t, result);
#else
	return __real_pthread_clockjoin_np(t, result, clock, until);
#endif
}
