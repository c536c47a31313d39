/* SPDX-License-Identifier: BSD-3-Clause
 *
 * diff.h - the frame of the cases that run on two libraries of PC/SC
 *
 * A case prints one line: its name, a colon, and what the library answered. Everything that
 * may differ between two equal runs is masked: a reader is called by its position, an event
 * counter is told as the difference to the one at the case's start.
 */
#ifndef PCSC_DIFF_H
#define PCSC_DIFF_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <winscard.h>
#include <reader.h>

/* ---- readers --------------------------------------------------------------------------- */

/* The simulated readers, by position (readers.c has how each is attached). */
enum reader {
	R_T1,	  /* a card with T=1 */
	R_T0,	  /* a card with T=0 */
	R_DUAL,	  /* a card with both */
	R_MEMORY, /* a memory card */
	R_EMPTY,  /* none */
	R_MUTE,	  /* one that answers no reset */
	R_PINPAD, /* a reader with keys and a display */
	R_SLOT1,  /* two slots of one reader, T=1 and T=0 */
	R_SLOT2,
	R_APDU, /* a reader that takes extended APDUs */
	R_AWAY, /* a reader that leaves and comes back */
	READERS
};

extern const char *const reader_words[READERS]; /* for the names of cases */
extern char reader_names[READERS][MAX_READERNAME];
extern int reader_count; /* as many as the library lists */

/* print_readers prints how the readers are attached, a line each of the mount's ctl. */
void print_readers(FILE *to);

/* ctl writes a line to the mount's ctl, which must be accepted. */
void ctl(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* wait_state waits until the library shows the flags `want` of SCARD_STATE and none of `not`,
 * on a context of its own. */
void wait_state(enum reader r, DWORD want, DWORD not);
DWORD counter_of(enum reader r);

/* ---- cases ------------------------------------------------------------------------------- */

/* A group is a function with cases in it. It runs in a process that calls no function of the
 * library; a case is a child of it:
 *
 *	CASE("connect.%s", word) { ... say(...) ... }
 */
struct group {
	const char *name;
	void (*run)(void);
	struct group *next;
};
void add_group(struct group *g);

#define GROUP(NAME)                                                                  \
	static void NAME(void);                                                      \
	__attribute__((constructor)) static void add_##NAME(void)                    \
	{                                                                            \
		static struct group g = {#NAME, NAME, NULL};                         \
		add_group(&g);                                                       \
	}                                                                            \
	static void NAME(void)

#define CASE(...) if (start_case(__VA_ARGS__))
bool start_case(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* uses says which readers the cases that follow need in their first state: card in, no
 * connection, and the card reset. A set of 1<<R_... */
void uses(unsigned set);
#define BIT(r) (1U << (r))
enum { ALL = (1 << READERS) - 1 };

/* ---- what is printed --------------------------------------------------------------------- */

/* say adds a word to the case's line. */
void say(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* rc adds a return code by its name, and returns it. `what` may be "". */
LONG rc(const char *what, LONG code);
const char *code_name(LONG code);
/* say_change calls SCardGetStatusChange for one reader, and says all that it answers. base is
 * what the reader's counter of events is compared with. */
void say_change(SCARDCONTEXT c, enum reader r, DWORD current, DWORD base, DWORD timeout);
void say_event(const char *what, DWORD state); /* low word of SCARD_STATE_... */
void say_state(const char *what, DWORD state); /* SCARD_PRESENT ... */
void say_protocol(const char *what, DWORD protocol);
void say_bytes(const char *what, const void *p, size_t n);
void say_readers(const char *what, const char *multi, DWORD n); /* a multi-string */
void say_name(const char *what, const char *name);
/* say_length adds a length as the difference to what it should be. */
void say_length(const char *what, DWORD n, DWORD full);
DWORD readers_length(void); /* of the multi-string with all readers */

/* must ends the case if the code is an error: what follows would mean nothing. */
void must(const char *what, LONG code);

/* ---- short hands -------------------------------------------------------------------------- */

SCARDCONTEXT context(void); /* of system scope */
SCARDHANDLE connect_to(SCARDCONTEXT c, enum reader r, DWORD share, DWORD protocols);
/* transmit sends and adds the code and the answer. */
LONG transmit(const char *what, SCARDHANDLE h, const char *hex);
size_t unhex(const char *hex, uint8_t *p, size_t room);
/* changes is SCardGetStatusChange for one reader. It returns the code, and the event state in
 * *event. */
LONG changes(SCARDCONTEXT c, DWORD timeout, const char *name, DWORD current, DWORD *event);
/* one_event is the event state of a reader as it is now, without the counter. */
DWORD one_event(SCARDCONTEXT c, enum reader r);
/* status adds state and protocol as SCardStatus has them. */
LONG status(const char *what, SCARDHANDLE h);

#define SELECT_MF "00A4000C023F00"
#define BAD_HANDLE 0x7FEDCBA9L
#define FILL 0xA5 /* what buffers are filled with */

/* ---- other clients -------------------------------------------------------------------------- */

/* An actor is another client: a process, a thread with a context of its own, or a thread that
 * uses the case's own context and handle. Processes have to be made before the case calls the
 * library. */
struct actor;
enum actor_kind { PROCESS, THREAD, SAME };
struct actor *actor(enum actor_kind kind);
/* lend gives a SAME actor what it works with. */
void lend(struct actor *a, SCARDCONTEXT c, SCARDHANDLE h);

enum act {
	A_ESTABLISH,
	A_RELEASE,
	A_CONNECT,    /* reader, share, protocols */
	A_RECONNECT,  /* share, protocols, initialization */
	A_DISCONNECT, /* disposition */
	A_BEGIN,
	A_END,	   /* disposition */
	A_TRANSMIT, /* text: hex */
	A_STATUS,
	A_CONTROL, /* code; text: hex */
	A_ATTRIB,  /* id */
	A_CHANGES, /* time-out, current state, reader or -1: PnP */
	A_CANCEL,
	A_LIST,
	A_KILL, /* dies by SIGKILL */
};

struct told {
	LONG code;
	DWORD a, b; /* state and protocol, event state */
	size_t n;
	uint8_t bytes[256];
};

/* ask lets the actor begin. answer waits for it up to ms; false: it still waits. */
void ask(struct actor *a, enum act what, long x, long y, long z, const char *text);
bool answer(struct actor *a, struct told *t, int ms);
/* act is both; the code is returned, and the case ends if nothing came in 10 s. */
LONG act(struct actor *a, enum act what, long x, long y, long z);
LONG act_told(struct actor *a, enum act what, long x, long y, long z, const char *text, struct told *t);
/* waits adds `what=waits` if the actor is not back within a short while, else its code. */
bool waits(const char *what, struct actor *a, struct told *t);
/* then waits for the end and adds the code, unless `waits` has heard it. */
LONG then(const char *what, struct actor *a, struct told *t);

enum { SOON = 10000, SHORT = 350 }; /* ms */

void die(const char *format, ...) __attribute__((format(printf, 1, 2), noreturn));
long long now_ms(void);
void pause_ms(int ms);

#endif
