/* SPDX-License-Identifier: BSD-3-Clause */
#ifndef CHECK_H
#define CHECK_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *check_test; /* what runs, for the message */

#define CHECK(what, ...)                                                      \
	do {                                                                  \
		if (!(what)) {                                                \
			fprintf(stderr, "%s:%d: %s: not so: %s", __FILE__,    \
				__LINE__, check_test, #what);                 \
			fprintf(stderr, " (" __VA_ARGS__);                    \
			fprintf(stderr, ")\n");                               \
			abort();                                              \
		}                                                             \
	} while (0)

#define EQUAL(got, want)                                                      \
	do {                                                                  \
		long got_ = (long)(got), want_ = (long)(want);                \
		if (got_ != want_) {                                          \
			fprintf(stderr, "%s:%d: %s: %s is %ld, want %ld\n",   \
				__FILE__, __LINE__, check_test, #got, got_,   \
				want_);                                       \
			abort();                                              \
		}                                                             \
	} while (0)

void *__real_malloc(size_t); /* the real one, which does not run out of memory on purpose */

/* sized makes a buffer of exactly n bytes, so that the sanitizers see the
 * first byte beyond it. */
static inline unsigned char *sized(size_t n)
{
	unsigned char *p = __real_malloc(n == 0 ? 1 : n);

	if (p == NULL)
		abort();
	memset(p, 0xEE, n == 0 ? 1 : n);
	return p;
}

#endif
