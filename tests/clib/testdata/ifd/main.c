/* SPDX-License-Identifier: BSD-3-Clause
 *
 * main.c - the IFD handler over a mount that keeps its contract
 */
#define _GNU_SOURCE
#include "ifd_test.h"

int main(void)
{
	setenv("CARDFS_MOUNT", "/fake", 1);
	test_coming_and_going();
	test_quick_swap();
	test_daemon();
	test_lost_events();
	test_two_at_once();
	test_told();
	test_close_waits();
	test_false_alarm();
	test_foreign_reset();
	test_own_reset();
	test_starting();
	test_stop();
	test_two_mounts();
	test_states();
	test_broken_stream();
	test_signals();
	test_unplugged();
	test_look_of_another();
	test_swap_before_poll();
	test_poll_ends();
	test_broken_answer();
	test_nothing_mounted();
	test_codes();
	test_session_end();
	test_lengths();
	test_small_buffer();
	test_lock();
	test_passing();
	test_interrupted();
	test_given_up();
	test_endless();
	test_fork();
	test_wiped();
	test_text();
	test_atr_sizes();
	test_answer_sizes();
	test_sessions_of_others();
	test_protocol();
	test_control();
	test_capabilities();
	test_names();
	test_usb_names();
	test_threads();
	fake_reset();
	printf("ok\n");
	return 0;
}
