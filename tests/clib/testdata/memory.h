/* SPDX-License-Identifier: BSD-3-Clause
 *
 * memory.h - is a PIN left somewhere in the memory of this process? And what does
 * a child find in its copy?
 */
#ifndef MEMORY_H
#define MEMORY_H

#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <signal.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "check.h"

/* The PIN, inverted, so that the program itself does not hold it. */
static const unsigned char pin_inverted[8] = {
	0xFF & ~'8', 0xFF & ~'1', 0xFF & ~'5', 0xFF & ~'4', 0xFF & ~'7', 0xFF & ~'1', 0xFF & ~'1', 0xFF & ~'5',
};

static inline void pin_into(volatile unsigned char *to)
{
	for (int i = 0; i < 8; i++)
		to[i] = (unsigned char)~pin_inverted[i];
}

static inline int pins_in(const unsigned char *p, size_t n)
{
	int found = 0;

	for (size_t i = 0; i + 8 <= n; i++) {
		int k = 0;

		while (k < 8 && (p[i + (size_t)k] ^ pin_inverted[k]) == 0xFF)
			k++;
		found += k == 8;
	}
	return found;
}

int __real_open(const char *, int, ...);
ssize_t __real_read(int, void *, size_t);
int __real_close(int);

/* pins_in_memory counts the copies in all writable memory. It does so only if SCAN
 * is set: the sanitizers and valgrind have terabytes of memory of their own. */
static int pins_in_memory(void)
{
	enum { CHUNK = 1 << 16 };
	unsigned char *buf;
	unsigned long from, to;
	char mode[8], line[512];
	int found = 0, mem;
	FILE *maps;

	if (getenv("SCAN") == NULL)
		return 0;
	maps = fopen("/proc/self/maps", "r");
	mem = __real_open("/proc/self/mem", O_RDONLY);
	buf = __real_malloc(CHUNK);
	CHECK(maps != NULL && mem >= 0 && buf != NULL, "no /proc");
	while (fgets(line, sizeof line, maps) != NULL) {
		if (sscanf(line, "%lx-%lx %7s", &from, &to, mode) != 3 || mode[1] != 'w')
			continue;
		for (unsigned long at = from; at < to; at += CHUNK - 8) {
			ssize_t n;

			/* Not its own buffer. */
			if (at < (unsigned long)buf + CHUNK && (unsigned long)buf < at + CHUNK)
				explicit_bzero(buf, CHUNK);
			n = pread(mem, buf, to - at < CHUNK ? to - at : CHUNK, (off_t)at);
			if (n <= 0)
				break;
			found += pins_in(buf, (size_t)n);
			explicit_bzero(buf, CHUNK);
		}
	}
	fclose(maps);
	__real_close(mem);
	free(buf);
	return found;
}

/* The scan finds what is there. */
static inline void check_scan(void)
{
	unsigned char *p = sized(64);

	pin_into(p + 5);
	CHECK(getenv("SCAN") == NULL || pins_in_memory() > 0, "the scan is blind");
	explicit_bzero(p, 64);
	free(p);
	CHECK(pins_in_memory() == 0, "the scan's own");
}

/* in_child runs a check in a child. The child dies by a signal, so that nobody
 * looks for leaks in it: the parent's memory is not the child's to free. */
static inline void in_child(void (*check)(void))
{
	int status;
	pid_t pid = fork();

	CHECK(pid >= 0, "fork");
	if (pid == 0) {
		alarm(120); /* a child that hangs dies of this */
		check();
		kill(getpid(), SIGKILL);
	}
	EQUAL(waitpid(pid, &status, 0), pid);
	CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL, "status %x", (unsigned)status);
}

#endif
