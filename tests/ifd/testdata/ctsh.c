/* SPDX-License-Identifier: BSD-3-Clause
 *
 * ctsh LIBRARY: a CT-API program that does what it is told, a line for a command
 * and a line for its answer.
 *
 *	init CTN PORT                the code
 *	data CTN DAD HEX [ROOM]      the code, dad, sad and the answer in hex
 *	close CTN                    the code
 *	many N CTN PORT              N times init, a command, close: ok, or what grew
 */
#include <dirent.h>
#include <dlfcn.h>
#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

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
	return (signed char)ct_data((unsigned short)ctn, dad, sad, ntx, tx, n, rx);
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
		} else {
			printf("what?\n");
		}
	}
	return dlclose(lib);
}
