/* SPDX-License-Identifier: BSD-3-Clause
 *
 * card.c - what the card, the terminal and the power file answer
 */
#define _GNU_SOURCE
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "mount.h"

/* keep logs a command. */
static void keep(struct file *f, struct slot *s, const uint8_t *c, size_t n)
{
	uint8_t *bytes = __real_malloc(n == 0 ? 1 : n);

	if (s->commands == COMMANDS) {
		fprintf(stderr, "fake: too many commands\n");
		abort();
	}
	for (size_t i = 0; i < n; i++)
		bytes[i] = (uint8_t)~c[i];
	s->log[s->commands].n = n;
	s->log[s->commands].bytes = bytes;
	s->commands++;
	f->logged = s;
}

static void word(struct slot *s, const char *w)
{
	strcat(s->words, s->words[0] == '\0' ? "" : " ");
	strcat(s->words, w);
}

/* card answers a command of a card or of the terminal. */
static size_t card(uint8_t *to, const uint8_t *c, size_t n)
{
	size_t want = 0;

	if (c[0] == 0x80 && c[1] == 0xEC)
		want = (size_t)c[2] << 8 | c[3];
	else if (c[0] == 0x80 && c[1] == 0xEF) /* the longest, and one more */
		want = 65536 + c[2];
	else if (c[0] == 0x80 && c[1] == 0xEE)
		want = n < 65536 ? n : 65536;
	else if (c[0] == 0x80 && c[1] == 0xED) /* the command, far behind its own length */
		want = n + 100;
	for (size_t i = 0; i < want; i++)
		to[i] = c[1] == 0xEE ? c[i] : c[1] == 0xED && i >= 100 ? c[i - 100] : (uint8_t)i;
	to[want] = 0x90;
	to[want + 1] = 0x00;
	if (c[0] == 0x80 && c[1] == 0xE1) /* an answer of c[2] bytes, without SW1 SW2 */
		return c[2];
	return want + 2;
}

/* addressed answers what CT_data sends, by the reader's own rules. For a missing
 * card the terminal answers 64A1. */
static int addressed(struct file *f, const uint8_t *c, size_t n)
{
	struct slot *s = &slot[f->slot];
	int dad, at;

	if (n == 2) {
		word(s, "close");
		memcpy(f->answer, "\2\1", 2);
		f->nanswer = 2;
		return 0;
	}
	if (n < 6)
		return EINVAL;
	dad = c[0];
	at = dad == 0 ? 0 : dad == 3 && s->siblings == 2 ? 1 : dad - 1;
	if (dad != 1 && at >= s->siblings)
		return EINVAL;
	f->answer[0] = c[1] == 5 ? 5 : 2;
	f->answer[1] = (uint8_t)dad;
	if (dad == 1) {
		keep(f, s, c + 2, n - 2);
	} else {
		s = &slot[s->first + at];
		if (s->lock)
			return EBUSY;
		if (!s->card) {
			memcpy(f->answer + 1, "\x01\x64\xA1", 3);
			f->nanswer = 4;
			return 0;
		}
		keep(f, s, c + 2, n - 2);
	}
	f->nanswer = 2 + card(f->answer + 2, c + 2, n - 2);
	return 0;
}

/* answer answers one command into f->answer; 0 or an errno. */
int answer(struct file *f, const uint8_t *c, size_t n)
{
	struct slot *s = &slot[f->slot];

	if (is(f, "apdu")) {
		if (!s->card)
			return ENOMEDIUM;
		if (f->epoch != s->epoch)
			return ESTALE;
		if (s->lock)
			return EBUSY;
		if (n < 4)
			return EINVAL;
	}
	if (f->answer == NULL)
		f->answer = __real_malloc(ANSWER);
	f->logged = NULL;
	if (f->addressed)
		return addressed(f, c, n);
	keep(f, s, c, n);
	if (is(f, "control")) {
		/* code 1 is not known, the rest echo their data */
		if (n >= 4 && memcmp(c, "\0\0\0\1", 4) == 0)
			return EOPNOTSUPP;
		f->nanswer = n - 4;
		memcpy(f->answer, c + 4, n - 4);
		return 0;
	}
	f->nanswer = card(f->answer, c, n);
	return 0;
}

int power(struct file *f, const char *text, size_t n)
{
	struct slot *s = &slot[f->slot];
	char w[16];
	bool off;

	snprintf(w, sizeof w, "%.*s", (int)n, text);
	word(s, w);
	off = strcmp(w, "off") == 0 || strcmp(w, "release") == 0;
	if (s->lock || (strcmp(w, "release") == 0 && s->sessions > 0))
		return EBUSY;
	if (!s->card)
		return ENOMEDIUM;
	s->epoch++;
	s->powered = !off;
	event(f->slot, s->powered ? "reset" : "powered power=off");
	return 0;
}
