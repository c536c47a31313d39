/* SPDX-License-Identifier: BSD-3-Clause
 *
 * scbench - time PC/SC (benchmarks only)
 *
 *   scbench transmit READER COUNT APDU     an exchange
 *   scbench transaction READER COUNT APDU  an exchange in a transaction of its own
 *   scbench connect READER COUNT           what a program does around its exchanges:
 *                                          establish, connect, disconnect, release
 *   scbench watch READER         a line "1 NS" or "0 NS" when SCardGetStatusChange tells
 *                                that a card came or went, NS being CLOCK_MONOTONIC
 *   scbench hold READER APDU     a line "held" once it has a transaction and an answer;
 *                                ends with its stdin
 *   scbench threads N MILLISECONDS APDU
 *   scbench processes N MILLISECONDS APDU
 *                                N clients, each on a reader of its own; prints exchanges
 *                                a second in total, with all of them under way
 *
 * READER is the first reader whose name contains it. The first three print COUNT samples;
 * they are preceded by a tenth as many unmeasured.
 *
 * PCSCLITE_CSOCK_NAME says which pcscd is meant, LD_LIBRARY_PATH and CARDFS_MOUNT that it is
 * cardfs. A reader or card that is not there yet is waited for, 20 seconds long.
 */
#include <pthread.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>
#include <winscard.h>

#include "bench.h"

static void check(LONG rv, const char *what)
{
	if (rv == SCARD_S_SUCCESS)
		return;
	fprintf(stderr, "scbench: %s: %s\n", what, pcsc_stringify_error(rv));
	exit(1);
}

/* The name of the first reader that contains part. with_card: wait until it has a
 * card. */
static char *find(SCARDCONTEXT ctx, const char *part, int with_card)
{
	int64_t deadline = now() + INT64_C(20000000000);
	while (now() < deadline) {
		LPSTR names = NULL;
		DWORD len = SCARD_AUTOALLOCATE;
		char *found = NULL;
		if (SCardListReaders(ctx, NULL, (LPSTR)&names, &len) == SCARD_S_SUCCESS) {
			for (char *p = names; *p && !found; p += strlen(p) + 1)
				if (strstr(p, part) != NULL)
					found = strdup(p);
			SCardFreeMemory(ctx, names);
		}
		/* Without a reader: wait until the list of readers changes. */
		SCARD_READERSTATE st = {.szReader = found ? found : "\\\\?PnP?\\Notification"};
		SCardGetStatusChange(ctx, 0, &st, 1);
		if (found && !with_card)
			return found;
		if (found && (st.dwEventState & SCARD_STATE_PRESENT) && !(st.dwEventState & SCARD_STATE_MUTE))
			return found;
		st.dwCurrentState = st.dwEventState & ~(DWORD)SCARD_STATE_CHANGED;
		SCardGetStatusChange(ctx, 1000, &st, 1);
		free(found);
	}
	fprintf(stderr, "scbench: no %s named %s\n", with_card ? "card in a reader" : "reader", part);
	exit(1);
}

static void watch(SCARDCONTEXT ctx, const char *name)
{
	SCARD_READERSTATE st = {.szReader = name};
	int was = -1;
	for (;;) {
		check(SCardGetStatusChange(ctx, INFINITE, &st, 1), "SCardGetStatusChange");
		int64_t t = now();
		int is = (st.dwEventState & SCARD_STATE_PRESENT) != 0;
		if (is != was)
			printf("%d %lld\n", is, (long long)t);
		fflush(stdout);
		was = is;
		st.dwCurrentState = st.dwEventState & ~(DWORD)SCARD_STATE_CHANGED;
	}
}

static uint8_t apdu[300];
static int apdu_len;

struct connection {
	SCARDCONTEXT ctx;
	SCARDHANDLE card;
	const SCARD_IO_REQUEST *pci;
};

static void establish(struct connection *c)
{
	check(SCardEstablishContext(SCARD_SCOPE_SYSTEM, NULL, NULL, &c->ctx), "SCardEstablishContext");
}

static void connect_to(struct connection *c, const char *name)
{
	DWORD protocol;

	check(SCardConnect(c->ctx, name, SCARD_SHARE_SHARED, SCARD_PROTOCOL_T0 | SCARD_PROTOCOL_T1, &c->card,
	                   &protocol),
	      "SCardConnect");
	c->pci = protocol == SCARD_PROTOCOL_T0 ? SCARD_PCI_T0 : SCARD_PCI_T1;
}

static void end(struct connection *c)
{
	check(SCardDisconnect(c->card, SCARD_LEAVE_CARD), "SCardDisconnect");
	check(SCardReleaseContext(c->ctx), "SCardReleaseContext");
}

static void exchange(struct connection *c)
{
	uint8_t answer[300];
	DWORD got = sizeof answer;

	check(SCardTransmit(c->card, c->pci, apdu, (DWORD)apdu_len, NULL, answer, &got), "SCardTransmit");
	if (got < 2) {
		fprintf(stderr, "scbench: an answer of %lu bytes\n", (unsigned long)got);
		exit(1);
	}
}

/* ---- what is timed ------------------------------------------------------------- */

static void transmit(struct connection *c, const char *name)
{
	(void)name;
	exchange(c);
}

static void transaction(struct connection *c, const char *name)
{
	(void)name;
	check(SCardBeginTransaction(c->card), "SCardBeginTransaction");
	exchange(c);
	check(SCardEndTransaction(c->card, SCARD_LEAVE_CARD), "SCardEndTransaction");
}

static void whole(struct connection *c, const char *name)
{
	struct connection own;

	(void)c;
	establish(&own);
	connect_to(&own, name);
	end(&own);
}

static void measure(struct connection *c, const char *name, int count,
                    void once(struct connection *c, const char *name))
{
	int64_t *ns = calloc((size_t)count + 1, sizeof *ns);
	for (int i = -count / 10; i < count; i++) {
		int64_t t = now();
		once(c, name);
		if (i >= 0)
			ns[i] = now() - t;
	}
	print_samples(ns, count);
	free(ns);
}

/* ---- many clients -------------------------------------------------------------- */

static struct shared {
	pthread_barrier_t start;
	atomic_int stop;
	struct client {
		_Alignas(64) atomic_long done; /* no two clients share a cache line */
		pthread_t thread;
		int number;
	} client[];
} *all;

/* The reader of client i is the i-th in the list. */
static void nth(struct connection *c, int i)
{
	LPSTR names = NULL;
	DWORD len = SCARD_AUTOALLOCATE;
	check(SCardListReaders(c->ctx, NULL, (LPSTR)&names, &len), "SCardListReaders");
	char *p = names;
	while (i-- > 0 && *p)
		p += strlen(p) + 1;
	if (!*p) {
		fprintf(stderr, "scbench: too few readers\n");
		exit(1);
	}
	connect_to(c, p);
	SCardFreeMemory(c->ctx, names);
}

static void *client(void *arg)
{
	struct client *me = arg;
	struct connection c;
	long done = 0;
	establish(&c);
	nth(&c, me->number);
	exchange(&c);
	pthread_barrier_wait(&all->start);
	while (!atomic_load_explicit(&all->stop, memory_order_relaxed)) {
		exchange(&c);
		atomic_store_explicit(&me->done, ++done, memory_order_relaxed);
	}
	end(&c);
	return NULL;
}

static long total(int n)
{
	long sum = 0;
	for (int i = 0; i < n; i++)
		sum += atomic_load_explicit(&all->client[i].done, memory_order_relaxed);
	return sum;
}

static int many(int threads, int n, int milliseconds)
{
	int status = 0, failed = 0;
	all = mmap(NULL, sizeof *all + (size_t)n * sizeof all->client[0], PROT_READ | PROT_WRITE,
	           MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (all == MAP_FAILED) {
		perror("scbench: mmap");
		return 1;
	}
	pthread_barrierattr_t between;
	pthread_barrierattr_init(&between);
	pthread_barrierattr_setpshared(&between, PTHREAD_PROCESS_SHARED);
	pthread_barrier_init(&all->start, &between, (unsigned)n + 1);
	for (int i = 0; i < n; i++) {
		struct client *me = &all->client[i];
		me->number = i;
		if (threads ? pthread_create(&me->thread, NULL, client, me) != 0 : (failed = fork()) < 0) {
			perror("scbench: a client");
			return 1;
		}
		if (!threads && failed == 0) {
			client(me);
			return 0;
		}
	}
	failed = 0;
	alarm(60); /* a client that failed does not come to the start */
	pthread_barrier_wait(&all->start);
	alarm(0);
	usleep((useconds_t)milliseconds * 100);
	int64_t t = now();
	long before = total(n);
	usleep((useconds_t)milliseconds * 1000);
	long after = total(n);
	t = now() - t;
	atomic_store(&all->stop, 1);
	for (int i = 0; i < n; i++)
		if (threads)
			pthread_join(all->client[i].thread, NULL);
		else if (wait(&status) < 0 || status != 0)
			failed = 1;
	printf("%.0f\n", (double)(after - before) * 1e9 / (double)t);
	return failed;
}

static void hold(const char *name)
{
	struct connection c;
	establish(&c);
	connect_to(&c, name);
	check(SCardBeginTransaction(c.card), "SCardBeginTransaction");
	exchange(&c);
	puts("held");
	fflush(stdout);
	while (getchar() != EOF)
		;
	check(SCardEndTransaction(c.card, SCARD_LEAVE_CARD), "SCardEndTransaction");
	end(&c);
}

int main(int argc, char **argv)
{
	static const struct {
		const char *name;
		int argc, apdu; /* where it is, if any */
		void (*once)(struct connection *c, const char *name);
	} modes[] = {
		{"transmit", 5, 4, transmit}, {"transaction", 5, 4, transaction}, {"connect", 4, 0, whole},
		{"watch", 3, 0, NULL}, {"hold", 4, 3, NULL}, {"threads", 5, 4, NULL}, {"processes", 5, 4, NULL},
	}, *mode = NULL;
	struct connection c;

	for (size_t i = 0; argc > 1 && i < sizeof modes / sizeof *modes; i++)
		if (strcmp(argv[1], modes[i].name) == 0 && argc == modes[i].argc)
			mode = &modes[i];
	if (mode && mode->apdu)
		apdu_len = unhex(argv[mode->apdu], apdu, sizeof apdu);
	if (!mode || (mode->apdu && apdu_len < 4) || (mode->once && atoi(argv[3]) <= 0)) {
		fprintf(stderr, "usage: scbench transmit|transaction READER COUNT APDU | connect READER COUNT | "
		                "watch READER | hold READER APDU | threads|processes N MILLISECONDS APDU\n");
		return 2;
	}
	if (mode->argc == 5 && !mode->once)
		return many(argv[1][0] == 't', atoi(argv[2]), atoi(argv[3]));

	establish(&c);
	int watching = strcmp(argv[1], "watch") == 0;
	char *name = find(c.ctx, argv[2], !watching);
	if (watching)
		watch(c.ctx, name);
	if (mode->once == whole || !mode->once) {
		check(SCardReleaseContext(c.ctx), "SCardReleaseContext");
		if (mode->once)
			measure(NULL, name, atoi(argv[3]), whole);
		else
			hold(name);
	} else {
		connect_to(&c, name);
		measure(&c, name, atoi(argv[3]), mode->once);
		end(&c);
	}
	free(name);
	return 0;
}
