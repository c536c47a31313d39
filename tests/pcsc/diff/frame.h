/* SPDX-License-Identifier: BSD-3-Clause
 *
 * frame.h - what main.c, readers.c and say.c have among themselves
 */
#ifndef PCSC_FRAME_H
#define PCSC_FRAME_H

#include <stdarg.h>

/* start_warden starts the process that has a context all the time, on the mount dir. */
void start_warden(const char *dir);
/* settle brings a set of readers into their first state. */
void settle(unsigned set);
/* service has the test end (false) or start the service, by the descriptors 3 and 4. */
void service(bool on);
void add_text(const char *format, va_list args);

#endif
