/* SPDX-License-Identifier: BSD-3-Clause
 *
 * actor.c - other clients: processes and threads that do what the case asks
 */
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>

#include "diff.h"

struct order {
	enum act what;
	long x, y, z;
	char text[128];
};

struct actor {
	enum actor_kind kind;
	int ours, theirs;
	pid_t pid;
	pthread_t thread;
	SCARDCONTEXT context;
	SCARDHANDLE handle;
	bool busy; /* asked, and not heard yet */
};

static void do_changes(struct actor *a, const struct order *o, struct told *t)
{
	SCARD_READERSTATE s = {
		.szReader = o->z < 0 ? "\\\\?PnP?\\Notification" : reader_names[o->z],
		.dwCurrentState = (DWORD)o->y,
	};

	t->code = SCardGetStatusChange(a->context, (DWORD)o->x, &s, 1);
	t->a = s.dwEventState;
}

static void perform(struct actor *a, const struct order *o, struct told *t)
{
	uint8_t command[128];
	DWORD n = sizeof t->bytes;

	switch (o->what) {
	case A_ESTABLISH:
		t->code = SCardEstablishContext(SCARD_SCOPE_SYSTEM, NULL, NULL, &a->context);
		break;
	case A_RELEASE:
		t->code = SCardReleaseContext(a->context);
		break;
	case A_CONNECT:
		t->code = SCardConnect(a->context, reader_names[o->x], (DWORD)o->y, (DWORD)o->z, &a->handle, &t->b);
		break;
	case A_RECONNECT:
		t->code = SCardReconnect(a->handle, (DWORD)o->x, (DWORD)o->y, (DWORD)o->z, &t->b);
		break;
	case A_DISCONNECT:
		t->code = SCardDisconnect(a->handle, (DWORD)o->x);
		break;
	case A_BEGIN:
		t->code = SCardBeginTransaction(a->handle);
		break;
	case A_END:
		t->code = SCardEndTransaction(a->handle, (DWORD)o->x);
		break;
	case A_TRANSMIT:
		t->code = SCardTransmit(a->handle, SCARD_PCI_T1, command, unhex(o->text, command, sizeof command),
					NULL, t->bytes, &n);
		t->n = t->code == SCARD_S_SUCCESS ? n : 0;
		break;
	case A_STATUS:
		t->code = SCardStatus(a->handle, NULL, NULL, &t->a, &t->b, NULL, NULL);
		break;
	case A_CONTROL:
		t->code = SCardControl(a->handle, (DWORD)o->x, command, unhex(o->text, command, sizeof command),
				       t->bytes, sizeof t->bytes, &n);
		t->n = t->code == SCARD_S_SUCCESS ? n : 0;
		break;
	case A_ATTRIB:
		t->code = SCardGetAttrib(a->handle, (DWORD)o->x, t->bytes, &n);
		t->n = t->code == SCARD_S_SUCCESS ? n : 0;
		break;
	case A_CHANGES:
		do_changes(a, o, t);
		break;
	case A_CANCEL:
		t->code = SCardCancel(a->context);
		break;
	case A_LIST:
		t->code = SCardListReaders(a->context, NULL, NULL, &t->a);
		break;
	case A_KILL:
		raise(SIGKILL);
	}
}

static void *loop(void *arg)
{
	struct actor *a = arg;
	struct order o;

	while (read(a->theirs, &o, sizeof o) == sizeof o) {
		struct told t = {0};

		perform(a, &o, &t);
		if (write(a->theirs, &t, sizeof t) != sizeof t)
			break;
	}
	return NULL;
}

struct actor *actor(enum actor_kind kind)
{
	struct actor *a = calloc(1, sizeof *a);
	int pair[2];

	if (a == NULL || socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
		die("actor: %s", strerror(errno));
	a->kind = kind;
	a->ours = pair[0];
	a->theirs = pair[1];
	if (kind == PROCESS) {
		a->pid = fork();
		if (a->pid < 0)
			die("fork: %s", strerror(errno));
		if (a->pid == 0) {
			prctl(PR_SET_PDEATHSIG, SIGKILL);
			close(a->ours);
			loop(a);
			_exit(0);
		}
		close(a->theirs);
	} else if (pthread_create(&a->thread, NULL, loop, a) != 0) {
		die("no thread");
	}
	if (kind != SAME)
		must("actor", act(a, A_ESTABLISH, 0, 0, 0));
	return a;
}

void lend(struct actor *a, SCARDCONTEXT c, SCARDHANDLE h)
{
	a->context = c;
	a->handle = h;
}

void ask(struct actor *a, enum act what, long x, long y, long z, const char *text)
{
	struct order o = {.what = what, .x = x, .y = y, .z = z};

	if (text != NULL)
		snprintf(o.text, sizeof o.text, "%s", text);
	if (write(a->ours, &o, sizeof o) != sizeof o)
		die("the actor ended");
	a->busy = what != A_KILL;
	/* Nobody else waits for a child that was killed. */
	if (what == A_KILL)
		waitpid(a->pid, NULL, 0);
}

bool answer(struct actor *a, struct told *t, int ms)
{
	struct pollfd p = {.fd = a->ours, .events = POLLIN};

	if (poll(&p, 1, ms) != 1)
		return false;
	if (read(a->ours, t, sizeof *t) != sizeof *t)
		die("the actor ended");
	a->busy = false;
	return true;
}

LONG act_told(struct actor *a, enum act what, long x, long y, long z, const char *text, struct told *t)
{
	ask(a, what, x, y, z, text);
	if (!answer(a, t, SOON)) {
		say("(actor HANGS)");
		_exit(0);
	}
	return t->code;
}

LONG act(struct actor *a, enum act what, long x, long y, long z)
{
	struct told t;

	return act_told(a, what, x, y, z, NULL, &t);
}

bool waits(const char *what, struct actor *a, struct told *t)
{
	if (answer(a, t, SHORT)) {
		rc(what, t->code);
		return false;
	}
	say("%s=waits", what);
	return true;
}

LONG then(const char *what, struct actor *a, struct told *t)
{
	if (!a->busy)
		return t->code;
	if (!answer(a, t, SOON)) {
		say("%s=HANGS", what);
		_exit(0);
	}
	return rc(what, t->code);
}
