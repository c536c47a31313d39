/* SPDX-License-Identifier: BSD-3-Clause
 *
 * hostile.h - every fault at every call of a scenario
 */
#ifndef HOSTILE_H
#define HOSTILE_H

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>

#include "check.h"
#include "fake.h"

static const int hostile_errors[] = {
	EINTR, EAGAIN, EBUSY, ENODEV, ENOMEDIUM, ESTALE, ETIMEDOUT, EIO, EPROTO, EINVAL,
	ENOENT, ENOTCONN, ECONNABORTED, EACCES, EMFILE, ENOTTY, EOPNOTSUPP, ENOMEM, ENOBUFS,
};

static int hostile_runs;

static void hostile_run(void (*scenario)(void), void (*recovered)(void), struct fault f)
{
	static char name[128];

	snprintf(name, sizeof name, "shape %d errno %d at call %d%s%s", f.shape, f.error, f.at,
		 f.from_then_on ? " and all after it" : "", f.of_others ? " of the event thread" : "");
	check_test = name;
	fake_reset();
	fake_fault(f);
	scenario();
	fake_fault((struct fault){NONE});
	recovered();
	EQUAL(fake_open_files(), 0);
	hostile_runs++;
}

/* hostile runs the scenario with every fault. Each run contains the whole of a
 * program's life. recovered must then find that everything works again, and close
 * it. With a stride of n only every nth run is done. */
static void hostile(void (*scenario)(void), void (*recovered)(void), int stride)
{
	int calls, others, n = 0;

	fake_reset();
	check_test = "no fault";
	scenario();
	calls = fake_calls() + 3;
	others = fake_calls_of_others() + 3;
	recovered();
	EQUAL(fake_open_files(), 0);

	for (int variant = 0; variant < 4; variant++) {
		bool of_others = variant & 1, then_on = variant & 2;
		int last = of_others ? others : calls;

		for (int at = 1; at <= last; at++) {
			for (int shape = ERRNO; shape < SHAPES; shape++) {
				int errors = sizeof hostile_errors / sizeof hostile_errors[0];

				if (shape > ERRNO_LATE)
					errors = 1;
				for (int e = 0; e < errors; e++) {
					int error = hostile_errors[e];

					/* These mean that nothing was done. EAGAIN does where a read
					 * does not wait, as the event thread's. */
					if (shape == ERRNO_LATE && (error == EINTR || error == EBUSY ||
								    (of_others && error == EAGAIN)))
						continue;
					if (n++ % stride == 0)
						hostile_run(scenario, recovered, (struct fault){
							.shape = shape, .error = error, .at = at,
							.from_then_on = then_on, .of_others = of_others});
				}
			}
		}
	}

	/* Memory and threads run out. */
	check_test = "starved";
	for (int at = 1;; at++) {
		int had;

		fake_reset();
		fake_starve(at);
		scenario();
		had = fake_allocations();
		fake_starve(0);
		recovered();
		EQUAL(fake_open_files(), 0);
		hostile_runs++;
		if (had < at)
			break;
	}
}

static int stride(void)
{
	const char *s = getenv("STRIDE");

	return s == NULL || atoi(s) < 1 ? 1 : atoi(s);
}

#endif
