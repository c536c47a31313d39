/* SPDX-License-Identifier: BSD-3-Clause
 *
 * stdioclient FILE COMMAND… - exchanges through one stdio stream, which C wants to be
 * repositioned between writing and reading (ISO/IEC 9899:2011 7.21.5.3).
 */
#include <stdio.h>

int main(int argc, char **argv)
{
	char line[4096];
	FILE *f = argc > 2 ? fopen(argv[1], "r+") : NULL;

	if (f == NULL) {
		perror("stdioclient");
		return 1;
	}
	for (int i = 2; i < argc; i++) {
		if (fseek(f, 0, SEEK_SET) != 0 || fprintf(f, "%s\n", argv[i]) < 0 || fseek(f, 0, SEEK_SET) != 0 ||
		    fgets(line, sizeof line, f) == NULL) {
			perror("stdioclient");
			return 1;
		}
		fputs(line, stdout);
	}
	return fclose(f) != 0;
}
