/* SPDX-License-Identifier: BSD-3-Clause
 *
 * main.c - CT-API over a mount that keeps its contract, then over one that does not
 */
#define _GNU_SOURCE
#include "hostile.h"
#include "ctapi_test.h"

static void hostile_exchange(unsigned dad, const void *command, unsigned n, unsigned room)
{
	struct result *r = exchange(1, dad, command, n, room);

	CHECK(r->code == OK || r->code == ERR_INVALID || r->code == ERR_CT || r->code == ERR_TRANS ||
	      r->code == ERR_MEMORY || r->code == ERR_HOST || r->code == ERR_HTSI, "%d", r->code);
	CHECK(fake_count(0, command, n) <= 1, "sent %d times", fake_count(0, command, n));
}

static void scenario(void)
{
	static const unsigned char eject[] = {0x20, 0x15, 0x01, 0x00};
	static const unsigned char verify[] = {0x00, 0x20, 0x00, 0x01, 0x04, 0x31, 0x32, 0x33, 0x34};
	static const unsigned char get[] = {0x80, 0xEC, 0x01, 0x2C, 0x00};
	static unsigned char big[17000] = {0x00, 0xD6};

	fake_arrive(0, 2, false);
	fake_insert(0);
	init(1, 0);
	hostile_exchange(CT_CT, request, 5, 258);
	hostile_exchange(CT_ICC1, verify, 9, 258);
	hostile_exchange(CT_ICC1, get, 5, 302);
	hostile_exchange(CT_ICC1, big, sizeof big, 258);
	hostile_exchange(CT_ICC2, select_mf, 7, 258);
	hostile_exchange(CT_CT, eject, 4, 258);
	hostile_exchange(CT_ICC1, select_mf, 7, 258);
	closes(1);
}

static void recovered(void)
{
	closes(1);
	EQUAL(init(1, 0), OK);
	sw(1, CT_CT, reset_ct, 4, 0x9000, CT_CT);
	sw(1, CT_ICC1, request, 5, 0x9000, CT_ICC1);
	EQUAL(closes(1), OK);
}

int main(void)
{
	setenv("CARDFS_MOUNT", "/fake/", 1);
	test_units();
	test_codes();
	test_busy();
	test_interrupted();
	test_given_up();
	test_fork();
	test_wiped();
	test_parameters();
	test_unplugged();
	test_lengths();
	test_threads();
	hostile(scenario, recovered, stride());
	fake_reset();
	printf("ok: %d runs\n", hostile_runs);
	return 0;
}
