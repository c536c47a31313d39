/* SPDX-License-Identifier: BSD-3-Clause
 *
 * filebench - time exchanges through a mounted cardfs (benchmarks only)
 *
 *   filebench ioctl  COUNT APDU FILE    CARDFS_EXCHANGE
 *   filebench text   COUNT APDU FILE    write(2) of a line of hex, read(2) of one
 *   filebench binary COUNT APDU FILE    the same in raw bytes (CARDFS_BINARY)
 *   filebench open   COUNT APDU DIR     what `cat DIR/atr` does, and one exchange
 *                                       by an open of DIR/apdu of its own
 *   filebench many MILLISECONDS APDU MOUNT N
 *                                       N threads, each on its own MOUNT/i/apdu;
 *                                       prints exchanges a second in total, with all
 *                                       of them under way: not their start and end
 *
 *   filebench follow N MOUNT            one epoll loop follows MOUNT/i/event of N slots,
 *                                       as asyncio would; prints "at rest" once it has
 *                                       read how things stand, and at the end of stdin
 *                                       how often it woke since
 *
 * The first four print COUNT samples; each is preceded by a tenth as much unmeasured. `text` works
 * on any file that answers what was written to it.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/epoll.h>
#include <sys/stat.h>
#include <unistd.h>

#include "bench.h"
#include "cardfs.h"

enum { ROOM = 1024 };

static uint8_t apdu[300];
static int apdu_len;
static char line[2 * sizeof apdu + 2];
static int line_len;

static void die(const char *what, const char *name)
{
	fprintf(stderr, "filebench: %s %s: %s\n", what, name, strerror(errno));
	exit(1);
}

static void check(long got, long least, const char *what)
{
	if (got >= least)
		return;
	fprintf(stderr, "filebench: %s: %s\n", what, got < 0 ? strerror(errno) : "too short an answer");
	exit(1);
}

static void by_ioctl(int fd)
{
	static _Thread_local struct {
		uint32_t length;
		uint8_t data[ROOM - 4];
	} x;
	x.length = (uint32_t)apdu_len;
	memcpy(x.data, apdu, (size_t)apdu_len);
	check(ioctl(fd, CARDFS_EXCHANGE(ROOM), &x), 2, "CARDFS_EXCHANGE");
}

static void by_text(int fd)
{
	char answer[ROOM];
	check(write(fd, line, (size_t)line_len), line_len, "write");
	check(read(fd, answer, sizeof answer), 5, "read");
}

static void by_binary(int fd)
{
	char answer[ROOM];
	check(write(fd, apdu, (size_t)apdu_len), apdu_len, "write");
	check(read(fd, answer, sizeof answer), 2, "read");
}

static int open_or_die(const char *name, int flags)
{
	int fd = open(name, flags | O_CLOEXEC);
	if (fd < 0)
		die("open", name);
	return fd;
}

/* As cat(1) does: fstat, then read until the end. */
static void cat(const char *name)
{
	char buf[131072];
	struct stat st;
	ssize_t n;
	long total = 0;
	int fd = open_or_die(name, O_RDONLY);
	fstat(fd, &st);
	while ((n = read(fd, buf, sizeof buf)) > 0)
		total += n;
	check(n < 0 ? n : total, 5, name);
	close(fd);
}

static void by_open(const char *dir)
{
	char name[4096];
	snprintf(name, sizeof name, "%s/atr", dir);
	cat(name);
	snprintf(name, sizeof name, "%s/apdu", dir);
	int fd = open_or_die(name, O_RDWR);
	by_ioctl(fd);
	close(fd);
}

static atomic_int stop;
static pthread_barrier_t start;

struct client {
	_Alignas(64) pthread_t thread; /* no two threads share a cache line */
	int fd;
	atomic_long done;
};

static long total(struct client *c, int n)
{
	long sum = 0;
	for (int i = 0; i < n; i++)
		sum += atomic_load_explicit(&c[i].done, memory_order_relaxed);
	return sum;
}

static void *client(void *arg)
{
	struct client *c = arg;
	long done = 0;
	pthread_barrier_wait(&start);
	while (!atomic_load_explicit(&stop, memory_order_relaxed)) {
		by_ioctl(c->fd);
		atomic_store_explicit(&c->done, ++done, memory_order_relaxed);
	}
	return NULL;
}

static void many(int milliseconds, const char *mount, int n)
{
	struct client *c = aligned_alloc(64, (size_t)n * sizeof *c);
	pthread_attr_t small;
	memset(c, 0, (size_t)n * sizeof *c);
	pthread_attr_init(&small);
	pthread_attr_setstacksize(&small, 128 << 10);
	pthread_barrier_init(&start, NULL, (unsigned)n + 1);
	for (int i = 0; i < n; i++) {
		char name[4096];
		snprintf(name, sizeof name, "%s/%d/apdu", mount, i);
		c[i].fd = open_or_die(name, O_RDWR);
		by_ioctl(c[i].fd);
		if ((errno = pthread_create(&c[i].thread, &small, client, &c[i])) != 0)
			die("thread for", name);
	}
	pthread_barrier_wait(&start);
	usleep((useconds_t)milliseconds * 100);
	int64_t t = now();
	long before = total(c, n);
	usleep((useconds_t)milliseconds * 1000);
	long after = total(c, n);
	t = now() - t;
	atomic_store(&stop, 1);
	for (int i = 0; i < n; i++)
		pthread_join(c[i].thread, NULL);
	printf("%.0f\n", (double)(after - before) * 1e9 / (double)t);
	free(c);
}

/* drain reads an event file to its present end. */
static void drain(int fd)
{
	char buf[4096];
	ssize_t n;
	do
		n = read(fd, buf, sizeof buf);
	while (n > 0);
	check(n < 0 && errno == EAGAIN ? 0 : -1, 0, "event");
}

static void follow(int n, const char *mount)
{
	int ep = epoll_create1(EPOLL_CLOEXEC);
	struct epoll_event e = {.events = EPOLLIN, .data.fd = 0};
	long woken = 0;
	check(epoll_ctl(ep, EPOLL_CTL_ADD, 0, &e), 0, "epoll of stdin");
	for (int i = 0; i < n; i++) {
		char name[4096];
		snprintf(name, sizeof name, "%s/%d/event", mount, i);
		e.data.fd = open_or_die(name, O_RDONLY | O_NONBLOCK);
		check(epoll_ctl(ep, EPOLL_CTL_ADD, e.data.fd, &e), 0, "epoll");
	}
	while (epoll_wait(ep, &e, 1, 0) == 1)
		drain(e.data.fd);
	puts("at rest");
	fflush(stdout);
	while (epoll_wait(ep, &e, 1, -1) != 1 || e.data.fd != 0) {
		woken++;
		drain(e.data.fd);
	}
	printf("%ld\n", woken);
}

int main(int argc, char **argv)
{
	static const struct {
		const char *name;
		void (*once)(int);
	} modes[] = {{"ioctl", by_ioctl}, {"text", by_text}, {"binary", by_binary}, {"open", NULL}};

	if (argc == 4 && strcmp(argv[1], "follow") == 0 && atoi(argv[2]) > 0) {
		follow(atoi(argv[2]), argv[3]);
		return 0;
	}
	int count = argc >= 5 ? atoi(argv[2]) : 0;
	apdu_len = argc >= 5 ? unhex(argv[3], apdu, sizeof apdu) : 0;
	if (count <= 0 || apdu_len < 4)
		goto usage;
	line_len = snprintf(line, sizeof line, "%s\n", argv[3]);

	if (argc == 6 && strcmp(argv[1], "many") == 0 && atoi(argv[5]) > 0) {
		many(count, argv[4], atoi(argv[5]));
		return 0;
	}
	for (size_t m = 0; argc == 5 && m < sizeof modes / sizeof *modes; m++) {
		if (strcmp(argv[1], modes[m].name) != 0)
			continue;
		int fd = modes[m].once ? open_or_die(argv[4], O_RDWR) : -1;
		if (modes[m].once == by_binary)
			check(ioctl(fd, CARDFS_BINARY), 0, "CARDFS_BINARY");
		int64_t *ns = calloc((size_t)count, sizeof *ns);
		for (int i = -count / 10; i < count; i++) {
			int64_t t = now();
			if (modes[m].once)
				modes[m].once(fd);
			else
				by_open(argv[4]);
			if (i >= 0)
				ns[i] = now() - t;
		}
		print_samples(ns, count);
		free(ns);
		return 0;
	}
usage:
	fprintf(stderr, "usage: filebench ioctl|text|binary|open COUNT APDU FILE | many MS APDU MOUNT N | follow N MOUNT\n");
	return 2;
}
