/* SPDX-License-Identifier: BSD-3-Clause
 *
 * presence.c - what pcscd is told of a card
 *
 * pcscd 1.9 to 2.5 notices a change only if two answers of IFDHICCPresence differ. The
 * thread that calls the polling function is the one that asks for both. A card that was
 * exchanged, reset or powered off between two answers therefore has to be absent once,
 * for that thread, and may not be present for any other meanwhile:
 *
 *                  card == reported
 *      +--------------- known <---------------+ presence: 615 (present),
 *      | the card changes or leaves           | reported = card
 *      v                                      |
 *   changed --- poll returns ---> hiding --- next poll ---> unknown
 *   (presence: 616, absent)       (presence: 616)           reported = 0
 *
 * A power-up asks for the presence too. If it does so at the wrong moment, it finds the
 * slot empty and fails; the two steps that follow make pcscd power the card up again.
 *
 * Everything here is guarded by cf_slots_lock (slots.h).
 */
#define _GNU_SOURCE
#include "presence.h"

#include "file.h"

/* current returns the number of the card that is there, 0: none. */
static uint64_t current(const struct cf_slot *s)
{
	return s->state == CF_CARD ? s->card : 0;
}

bool cf_presence(struct cf_slot *s)
{
	bool present;

	pthread_mutex_lock(&cf_slots_lock);
	/* Before the first poll, wait for a reader that is starting: the client that made
	 * pcscd start should find its card. Later the poll reports it, and waiting here
	 * would only hold up other clients. */
	while (!s->polled && s->state == CF_STARTING && !s->stop)
		if (!cf_wait_change(s, s->started + CF_SOON_MS))
			break;
	present = current(s) != 0 && !s->hiding && (s->reported == 0 || s->reported == s->card);
	if (!s->polled || pthread_equal(s->poller, pthread_self())) {
		if (present)
			s->reported = s->card;
		else if (!s->polling) /* no poll will do it */
			s->reported = 0;
	}
	pthread_mutex_unlock(&cf_slots_lock);
	return present;
}

void cf_poll(struct cf_slot *s, int timeout)
{
	int64_t until = cf_now() + (timeout > 0 ? timeout : 0);

	pthread_mutex_lock(&cf_slots_lock);
	s->polled = true;
	s->poller = pthread_self();
	if (s->hiding) {
		s->hiding = false;
		s->reported = 0;
	}
	while (!s->stop && current(s) == s->reported) {
		bool look = s->no_event != 0 && s->no_event + CF_SOON_MS < until;

		if (cf_wait_change(s, look ? s->no_event + CF_SOON_MS : until))
			continue;
		if (!look)
			break;
		cf_probe(s);
	}
	s->stop = s->closed;
	s->hiding = s->reported != 0 && current(s) != s->reported;
	pthread_mutex_unlock(&cf_slots_lock);
}

void cf_stop(struct cf_slot *s)
{
	pthread_mutex_lock(&cf_slots_lock);
	s->stop = true;
	pthread_cond_broadcast(&s->changed);
	pthread_mutex_unlock(&cf_slots_lock);
}

void cf_polling(struct cf_slot *s)
{
	pthread_mutex_lock(&cf_slots_lock);
	s->polling = true;
	pthread_mutex_unlock(&cf_slots_lock);
}

uint64_t cf_card(struct cf_slot *s)
{
	uint64_t card;

	pthread_mutex_lock(&cf_slots_lock);
	card = s->card;
	pthread_mutex_unlock(&cf_slots_lock);
	return card;
}

void cf_card_changed(struct cf_slot *s)
{
	pthread_mutex_lock(&cf_slots_lock);
	s->card++;
	pthread_cond_broadcast(&s->changed);
	pthread_mutex_unlock(&cf_slots_lock);
}

void cf_card_gone(struct cf_slot *s, uint64_t card, enum cf_state state)
{
	pthread_mutex_lock(&cf_slots_lock);
	if (s->state == CF_CARD && s->card == card) {
		cf_set_state(s, state);
		if (state == CF_AWAY)
			s->number = -1;
		s->no_event = cf_now();
	}
	pthread_mutex_unlock(&cf_slots_lock);
}
