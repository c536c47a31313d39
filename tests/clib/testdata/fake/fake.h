/* SPDX-License-Identifier: BSD-3-Clause
 *
 * fake.h - cardfs mounts at /fake and /other, inside the process under test, that
 * can be made to lie
 *
 * It stands where the C library's open, read, write, ioctl ... are, by the
 * linker's --wrap. Left alone it keeps the contract of the mount.
 */
#ifndef FAKE_H
#define FAKE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Slots 0 to SLOTS - 1 are those of /fake; OTHER + n is slot n of /other. */
enum { MOUNTS = 2, SLOTS = 4, OTHER = SLOTS };

/* fake_reset brings back an empty mount, and no faults. */
void fake_reset(void);
/* fake_daemon makes the daemon die or live; the readers go with it. */
void fake_daemon(bool alive);

/* Readers: siblings consecutive slots from slot on. */
void fake_arrive(int slot, int siblings, bool starting);
void fake_ready(int slot); /* the driver is done */
void fake_fail(int slot);  /* the driver gives up */
void fake_leave(int slot);
void fake_gone(int slot); /* its status says so, but no event has come yet */
void fake_usb(int slot, unsigned bus, unsigned device, int interface);
void fake_insert(int slot);
void fake_remove(int slot);
void fake_swap(int slot);  /* remove and insert, before anybody looks */
void fake_foreign_reset(int slot);
void fake_foreign_lock(int slot, bool held);
void fake_sessions(int slot, int others);
/* fake_remove_unseen takes the card out without an event. */
void fake_remove_unseen(int slot);
/* fake_atr sets the text of the atr files until fake_reset. */
void fake_atr(const char *text);
/* fake_protocols sets the text of the protocol file. */
void fake_protocols(int slot, const char *text);
/* fake_piece sends a part of a line. */
void fake_piece(const char *text);
/* fake_line sends a whole line to those who follow the events of /fake. */
void fake_line(const char *line);

/* The card answers with SW 9000, and 80EE data with the data; 80ED data with
 * 100 bytes and the command; 80EC nnnn with nnnn bytes; 80EF nn with 65,536 + nn; 80E1 nn with nn bytes, SW1 SW2 included. So
 * does ctbcs, which also takes addresses; control echoes its data. What it got: */
int fake_commands(int slot);                              /* all */
int fake_count(int slot, const uint8_t *command, size_t n); /* this one */
/* words written to power, and "close" for the end of CT-API; blank-separated */
const char *fake_power(int slot);
int fake_open_files(void);
/* fake_on_close makes the next close of a file on the mount call f first. */
void fake_on_close(void (*f)(void));
/* fake_forget_answers wipes the daemon's copies, which a test would find here. */
void fake_forget_answers(void);

/* Faults: what happens to the call with number at, of those that the test's
 * own thread makes (or the others, if of_others), and to all after it. */
enum shape {
	NONE,
	ERRNO,       /* fails with error, before anything was done */
	ERRNO_LATE,  /* the same, but it was done */
	SHORT,       /* less than asked for */
	EMPTY,       /* nothing */
	LONG,        /* more than there is, or than fits */
	GARBAGE,
	SHAPES
};

struct fault {
	enum shape shape;
	int error;
	int at, times; /* 0 is once, too */
	bool from_then_on;
	bool of_others;
};

void fake_fault(struct fault f);
int fake_calls(void);         /* the calls of the test's own thread so far */
int fake_calls_of_others(void);

/* fake_starve makes the nth allocation or thread creation from now on fail; 0:
 * none. */
void fake_starve(int n);
int fake_allocations(void);

/* fake_followed waits until somebody follows the events, and all followers have
 * read the pending events and acted on them. */
void fake_followed(void);

#endif
