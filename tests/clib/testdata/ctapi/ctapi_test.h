/* SPDX-License-Identifier: BSD-3-Clause
 *
 * ctapi_test.h - what the tests of CT-API share
 */
#ifndef CTAPI_TEST_H
#define CTAPI_TEST_H

#include <errno.h>
#include <pthread.h>
#include <stdint.h>

#include "check.h"
#include "ctapi.h"
#include "fake.h"
#include "memory.h"
#include "times.h"

/* The codes in 8 bits, whatever the signedness of char. */
static inline int init(unsigned ctn, unsigned pn)
{
	return (signed char)CT_init((unsigned short)ctn, (unsigned short)pn);
}

static inline int closes(unsigned ctn)
{
	return (signed char)CT_close((unsigned short)ctn);
}

struct result {
	int code;
	unsigned char dad, sad;
	unsigned short n;
	unsigned sw;
	unsigned char data[65535];
};

/* exchange takes buffers of exactly these lengths. */
static inline struct result *exchange(unsigned ctn, unsigned dad, const void *command, unsigned ntx, unsigned room)
{
	static struct result r;
	unsigned char *tx = sized(ntx), *rx = sized(room);

	memcpy(tx, command, ntx);
	r.dad = (unsigned char)dad;
	r.sad = CT_HOST;
	r.n = (unsigned short)room;
	r.code = (signed char)CT_data((unsigned short)ctn, &r.dad, &r.sad, (unsigned short)ntx, tx, &r.n, rx);
	CHECK(r.n <= room, "%u of %u", r.n, room);
	CHECK(r.code == OK ? r.n >= 2 : r.n == 0, "code %d with %u bytes", r.code, r.n);
	r.sw = r.n >= 2 ? (unsigned)rx[r.n - 2] << 8 | rx[r.n - 1] : 0;
	memcpy(r.data, rx, r.n);
	free(tx);
	free(rx);
	return &r;
}

static const unsigned char select_mf[] __attribute__((unused)) = {0x00, 0xA4, 0x00, 0x0C, 0x02, 0x3F, 0x00};
static const unsigned char request[] __attribute__((unused)) = {0x20, 0x12, 0x01, 0x01, 0x00};
static const unsigned char reset_ct[] __attribute__((unused)) = {0x20, 0x11, 0x00, 0x00};

static inline void begin(const char *name)
{
	check_test = name;
	fake_reset();
}

static inline void end(void)
{
	EQUAL(fake_open_files(), 0);
}

static inline void sw(unsigned ctn, unsigned dad, const void *command, unsigned n, unsigned want, unsigned unit)
{
	struct result *r = exchange(ctn, dad, command, n, 258);

	EQUAL(r->code, OK);
	EQUAL(r->sw, want);
	EQUAL(r->sad, unit);
	EQUAL(r->dad, CT_HOST);
}

/* commands.c */
void test_units(void);
void test_codes(void);
void test_busy(void);
void test_parameters(void);
void test_unplugged(void);
void test_lengths(void);

/* process.c */
void test_interrupted(void);
void test_given_up(void);
void test_fork(void);
void test_wiped(void);
void test_threads(void);

#endif
