/* SPDX-License-Identifier: BSD-3-Clause
 *
 * ctsh LIBRARY: a CT-API program that does what it is told, a line for a command
 * and a line for its answer.
 *
 *	init CTN PORT                the code
 *	data CTN DAD HEX [ROOM]      the code, dad, sad and the answer in hex
 *	close CTN                    the code
 *	many N CTN PORT              N times init, a command, close: ok, or what grew
 *	timer US RESTART             a signal every so many microseconds during the calls;
 *	                             RESTART 1: with SA_RESTART; ok
 *	echo CTN N                   N commands whose answers tell them apart; the number of
 *	                             signals meanwhile, or what was wrong
 *	fork CTN DAD HEX             a child's codes of data and close, and what its exit is
 */
#include <dirent.h>
#include <dlfcn.h>
#include <malloc.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

static char (*ct_init)(unsigned short, unsigned short);
static char (*ct_data)(unsigned short, unsigned char *, unsigned char *, unsigned short, unsigned char *,
		       unsigned short *, unsigned char *);
static char (*ct_close)(unsigned short);

static int descriptors(void)
{
	DIR *d = opendir("/proc/self/fd");
	int n = 0;

	while (readdir(d) != NULL)
		n++;
	closedir(d);
	return n;
}

static volatile sig_atomic_t signals;

static void count(int sig)
{
	(void)sig;
	signals++;
}

/* Signals come only while the library is called: this program's own calls are not
 * prepared for them. */
static void alarms(int how)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGALRM);
	sigprocmask(how, &set, NULL);
}

static void timer(long us, int restart)
{
	struct sigaction a = {.sa_handler = count, .sa_flags = restart ? SA_RESTART : 0};
	struct itimerval t = {{us / 1000000, us % 1000000}, {us / 1000000, us % 1000000}};

	alarms(SIG_BLOCK);
	sigaction(SIGALRM, &a, NULL);
	setitimer(ITIMER_REAL, &t, NULL);
}

static int call(unsigned ctn, unsigned char *dad, unsigned char *sad, unsigned short ntx, unsigned char *tx,
		unsigned short *n, unsigned char *rx)
{
	int code;

	alarms(SIG_UNBLOCK);
	code = (signed char)ct_data((unsigned short)ctn, dad, sad, ntx, tx, n, rx);
	alarms(SIG_BLOCK);
	return code;
}

/* echo gives the card 80EE, which it answers with the data, and every fifth time the
 * terminal a GET STATUS, by turns of different lengths. */
static void echo(unsigned ctn, int times)
{
	signals = 0;
	for (int i = 0; i < times; i++) {
		unsigned char tx[300] = {0x80, 0xEE, 0, 0, 0}, rx[300], dad = i % 5 == 0, sad = 2;
		unsigned short n = sizeof rx, ntx = 5, want = 0;
		int code, length = 4 + i % 200;

		if (dad == 0) {
			tx[4] = (unsigned char)length;
			memcpy(tx + 5, &i, 4);
			for (int k = 4; k < length; k++)
				tx[5 + k] = (unsigned char)(i + k);
			ntx = (unsigned short)(5 + length + 1);
			want = (unsigned short)(length + 2);
		} else {
			memcpy(tx, i % 10 == 0 ? "\x20\x13\x00\x46" : "\x20\x13\x00\x80", 4);
			want = i % 10 == 0 ? 19 : 5;
		}
		code = call(ctn, &dad, &sad, ntx, tx, &n, rx);
		if (code != 0 || n != want || sad != (i % 5 == 0) || memcmp(rx + n - 2, "\x90\x00", 2) != 0 ||
		    memcmp(rx, sad == 0 ? tx + 5 : tx + 3, sad == 0 ? (size_t)length : 1) != 0) {
			printf("%d: code %d, unit %d, %d bytes, want %d\n", i, code, sad, n, want);
			return;
		}
	}
	printf("%d\n", (int)signals);
}

static int data(unsigned ctn, unsigned char *dad, unsigned char *sad, const char *hex, unsigned char *rx, unsigned short *n)
{
	unsigned char tx[65535];
	unsigned short ntx = 0;
	unsigned byte;

	for (; sscanf(hex, "%2x", &byte) == 1 && ntx < sizeof tx - 1; hex += 2) {
		tx[ntx++] = (unsigned char)byte;
		if (hex[1] == '\0')
			break;
	}
	return call(ctn, dad, sad, ntx, tx, n, rx);
}

static void forked(unsigned ctn, unsigned to, const char *hex)
{
	pid_t pid = fork();
	int status;

	if (pid == 0) {
		unsigned char rx[258], dad = (unsigned char)to, sad = 2;
		unsigned short n = sizeof rx;
		int code = data(ctn, &dad, &sad, hex, rx, &n);

		printf("%d %d ", code, (signed char)ct_close((unsigned short)ctn));
		exit(0); /* with all that a program's end does */
	}
	waitpid(pid, &status, 0);
	printf("%d\n", status);
}

static void many(int times, unsigned ctn, unsigned port)
{
	unsigned char rx[258], dad, sad;
	int files = 0;
	size_t used = 0;

	for (int i = 0; i < times; i++) {
		unsigned short n = sizeof rx;
		int code = (signed char)ct_init((unsigned short)ctn, (unsigned short)port);

		if (code != 0) {
			printf("init %d: %d\n", i, code);
			return;
		}
		dad = (unsigned char)(i % 2);
		sad = 2;
		code = data(ctn, &dad, &sad, i % 2 ? "2013008000" : "00A4000C023F00", rx, &n);
		if (code != 0 || n < 2) {
			printf("data %d: %d\n", i, code);
			return;
		}
		code = (signed char)ct_close((unsigned short)ctn);
		if (code != 0) {
			printf("close %d: %d\n", i, code);
			return;
		}
		if (i == 10) {
			files = descriptors();
			used = mallinfo2().uordblks;
		}
	}
	if (descriptors() != files || mallinfo2().uordblks != used)
		printf("descriptors %d then %d, bytes %zu then %zu\n", files, descriptors(), used, mallinfo2().uordblks);
	else
		printf("ok\n");
}

int main(int argc, char **argv)
{
	static char line[140000], hex[132000];
	void *lib = argc > 1 ? dlopen(argv[1], RTLD_NOW) : NULL;

	if (lib == NULL) {
		fprintf(stderr, "%s\n", dlerror());
		return 1;
	}
	*(void **)&ct_init = dlsym(lib, "CT_init");
	*(void **)&ct_data = dlsym(lib, "CT_data");
	*(void **)&ct_close = dlsym(lib, "CT_close");
	setvbuf(stdout, NULL, _IOLBF, 0);
	while (fgets(line, sizeof line, stdin) != NULL) {
		unsigned a, b, room = 258;
		int n;

		if (sscanf(line, "init\t%u\t%u", &a, &b) == 2) {
			printf("%d\n", (signed char)ct_init((unsigned short)a, (unsigned short)b));
		} else if (sscanf(line, "data\t%u\t%u\t%131999s\t%u", &a, &b, hex, &room) >= 3) {
			unsigned char dad = (unsigned char)b, sad = 2, *rx = malloc(room + 1);
			unsigned short got = (unsigned short)room;
			int code = data(a, &dad, &sad, hex, rx, &got);

			printf("%d %u %u ", code, dad, sad);
			for (unsigned i = 0; i < got; i++)
				printf("%02X", rx[i]);
			printf("\n");
			free(rx);
		} else if (sscanf(line, "close\t%u", &a) == 1) {
			printf("%d\n", (signed char)ct_close((unsigned short)a));
		} else if (sscanf(line, "many\t%d\t%u\t%u", &n, &a, &b) == 3) {
			many(n, a, b);
		} else if (sscanf(line, "timer\t%u\t%u", &a, &b) == 2) {
			timer(a, (int)b);
			printf("ok\n");
		} else if (sscanf(line, "echo\t%u\t%d", &a, &n) == 2) {
			echo(a, n);
		} else if (sscanf(line, "fork\t%u\t%u\t%131999s", &a, &b, hex) == 3) {
			forked(a, b, hex);
		} else {
			printf("what?\n");
		}
	}
	return dlclose(lib);
}
