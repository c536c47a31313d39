/* SPDX-License-Identifier: BSD-3-Clause
 *
 * times.h - how long the libraries wait, for each test to say: CF_SOON_MS and
 * CF_ANSWER_MS stand for these (clib_test.go)
 */
#ifndef TIMES_H
#define TIMES_H

extern int test_soon_ms, test_answer_ms;

#endif
