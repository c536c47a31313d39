/* SPDX-License-Identifier: BSD-3-Clause
 *
 * What the clients of the benchmarks share. Each prints its samples, a number of
 * nanoseconds a line, and leaves the arithmetic to the harness.
 */
#ifndef BENCH_H
#define BENCH_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static inline int64_t now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * INT64_C(1000000000) + t.tv_nsec;
}

/* Reads hex without blanks. Returns the number of bytes, or -1. */
static inline int unhex(const char *s, uint8_t *out, size_t room)
{
	size_t n = strlen(s) / 2;
	if (strlen(s) % 2 != 0 || n > room)
		return -1;
	for (size_t i = 0; i < n; i++)
		if (sscanf(s + 2 * i, "%2hhx", &out[i]) != 1)
			return -1;
	return (int)n;
}

static inline void print_samples(const int64_t *ns, int n)
{
	for (int i = 0; i < n; i++)
		printf("%lld\n", (long long)ns[i]);
}

#endif
