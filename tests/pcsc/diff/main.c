/* SPDX-License-Identifier: BSD-3-Clause
 *
 * main.c - runs the cases, each in a process of its own
 *
 *	pcscdiff readers           prints how the readers are attached
 *	pcscdiff run DIR [GROUP…]  runs the groups on the mount DIR: all, or those named
 *
 * The runner calls no function of the library: a child of fork(2) must not inherit its state. A
 * second process, the warden, has a context all the time. It finds the names of the readers,
 * and brings them back to their first state before each case.
 */
#include <errno.h>
#include <signal.h>
#include <stdarg.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>

#include "diff.h"
#include "frame.h"

enum { CASE_LIMIT = 30 }; /* seconds */

static struct group *groups, **last_group = &groups;
static unsigned used;
static bool in_case;
static int failures;
static bool times; /* asked for by the environment: where the time goes */
static long long began, settled;

/* The line of the case; shared, so that it is there when the case crashed. */
struct line {
	size_t n;
	char text[1 << 16];
};
static struct line *line;

void add_group(struct group *g)
{
	*last_group = g;
	last_group = &g->next;
}

void uses(unsigned set)
{
	used = set;
}

long long now_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000LL + t.tv_nsec / 1000000;
}

void pause_ms(int ms)
{
	const struct timespec t = {.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000L};

	nanosleep(&t, NULL);
}

void die(const char *format, ...)
{
	va_list args;

	fprintf(stderr, "pcscdiff: ");
	va_start(args, format);
	vfprintf(stderr, format, args);
	va_end(args);
	fprintf(stderr, "\n");
	_exit(2);
}

void add_text(const char *format, va_list args)
{
	int n = vsnprintf(line->text + line->n, sizeof line->text - line->n, format, args);

	if (n > 0)
		line->n += (size_t)n;
	if (line->n >= sizeof line->text)
		line->n = sizeof line->text - 1;
}

void say(const char *format, ...)
{
	va_list args;

	if (line->n < sizeof line->text - 1)
		line->text[line->n++] = ' ';
	va_start(args, format);
	add_text(format, args);
	va_end(args);
}

void service(bool on)
{
	char done;

	if (write(3, on ? "+" : "-", 1) != 1 || read(4, &done, 1) != 1)
		die("the service cannot be %s", on ? "started" : "ended");
}

static void timed_out(int signal)
{
	(void)signal;
}

/* wait_case waits for the end of the case. */
static void wait_case(pid_t pid)
{
	int status;
	struct sigaction on_alarm = {.sa_handler = timed_out};
	static const char hang[] = " HANGS";

	sigaction(SIGALRM, &on_alarm, NULL);
	alarm(CASE_LIMIT);
	if (waitpid(pid, &status, 0) < 0) {
		kill(-pid, SIGKILL);
		waitpid(pid, &status, 0);
		line->n += (size_t)sprintf(line->text + line->n, "%s", hang);
	} else if (WIFSIGNALED(status)) {
		line->n += (size_t)sprintf(line->text + line->n, " CRASH %s", strsignal(WTERMSIG(status)));
	} else if (WEXITSTATUS(status) != 0) {
		line->n += (size_t)sprintf(line->text + line->n, " FAILED");
		failures++;
	}
	alarm(0);
	/* What the case left behind. */
	kill(-pid, SIGKILL);
	printf("%.*s\n", (int)line->n, line->text);
	fflush(stdout);
	if (times)
		fprintf(stderr, "%5lld %5lld %s\n", settled - began, now_ms() - settled, line->text);
}

bool start_case(const char *format, ...)
{
	va_list args;
	pid_t pid;

	if (in_case) {
		fflush(stdout);
		_exit(0);
	}
	began = now_ms();
	settle(used);
	settled = now_ms();
	line->n = 0;
	va_start(args, format);
	add_text(format, args);
	va_end(args);
	line->text[line->n++] = ':';
	pid = fork();
	if (pid < 0)
		die("fork: %s", strerror(errno));
	if (pid == 0) {
		setpgid(0, 0);
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		in_case = true;
		return true;
	}
	setpgid(pid, pid);
	wait_case(pid);
	return false;
}

static bool wanted(const char *group, char **names)
{
	if (*names == NULL)
		return strncmp(group, "only_", 5) != 0;
	for (; *names != NULL; names++)
		if (strcmp(*names, group) == 0)
			return true;
	return false;
}

int main(int argc, char **argv)
{
	if (argc == 2 && strcmp(argv[1], "readers") == 0) {
		print_readers(stdout);
		return 0;
	}
	if (argc < 3 || strcmp(argv[1], "run") != 0)
		die("usage: pcscdiff readers | pcscdiff run DIR [GROUP...]");
	times = getenv("PCSCDIFF_TIMES") != NULL;
	signal(SIGPIPE, SIG_IGN);
	line = mmap(NULL, sizeof *line, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (line == MAP_FAILED)
		die("mmap: %s", strerror(errno));
	start_warden(argv[2]);
	for (struct group *g = groups; g != NULL; g = g->next) {
		if (!wanted(g->name, argv + 3))
			continue;
		uses(0);
		g->run();
		if (in_case)
			_exit(0);
	}
	return failures > 0;
}
