/* SPDX-License-Identifier: BSD-3-Clause
 *
 * words.c - errors in words, and debug output
 */
#define _GNU_SOURCE
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "pcsc.h"

const char *pcsc_stringify_error(LONG code)
{
	/* A buffer for each thread: a code that is not known is written into it. */
	static _Thread_local char unknown[48];
	static const struct {
		LONG code;
		const char *words;
	} errors[] = {
		{SCARD_S_SUCCESS, "Command successful."},
		{SCARD_F_INTERNAL_ERROR, "Internal error."},
		{SCARD_E_CANCELLED, "Command cancelled."},
		{SCARD_E_INVALID_HANDLE, "Invalid handle."},
		{SCARD_E_INVALID_PARAMETER, "Invalid parameter given."},
		{0x80100005L, "Invalid target given."},
		{SCARD_E_NO_MEMORY, "Not enough memory."},
		{0x80100007L, "Waited too long."},
		{SCARD_E_INSUFFICIENT_BUFFER, "Insufficient buffer."},
		{SCARD_E_UNKNOWN_READER, "Unknown reader specified."},
		{SCARD_E_TIMEOUT, "Command timeout."},
		{SCARD_E_SHARING_VIOLATION, "Sharing violation."},
		{SCARD_E_NO_SMARTCARD, "No smart card inserted."},
		{0x8010000DL, "Unknown card."},
		{0x8010000EL, "Cannot dispose handle."},
		{SCARD_E_PROTO_MISMATCH, "Card protocol mismatch."},
		{0x80100010L, "Subsystem not ready."},
		{SCARD_E_INVALID_VALUE, "Invalid value given."},
		{0x80100012L, "System cancelled."},
		{SCARD_F_COMM_ERROR, "RPC transport error."},
		{0x80100014L, "Unknown error."},
		{0x80100015L, "Invalid ATR."},
		{SCARD_E_NOT_TRANSACTED, "Transaction failed."},
		{SCARD_E_READER_UNAVAILABLE, "Reader is unavailable."},
		{0x80100018L, "Server shutting down."},
		{0x80100019L, "PCI struct too small."},
		{0x8010001AL, "Reader is unsupported."},
		{0x8010001BL, "Reader already exists."},
		{0x8010001CL, "Card is unsupported."},
		{SCARD_E_NO_SERVICE, "Service not available."},
		{0x8010001EL, "Service was stopped."},
		{SCARD_E_UNSUPPORTED_FEATURE, "Feature not supported."},
		{0x80100020L, "No primary provider can be found for the smart card."},
		{0x80100021L, "The requested order of object creation is not supported."},
		{0x80100023L, "The identified directory does not exist in the smart card."},
		{0x80100024L, "The identified file does not exist in the smart card."},
		{0x80100025L, "The supplied path does not represent a smart card directory."},
		{0x80100026L, "The supplied path does not represent a smart card file."},
		{0x80100027L, "Access is denied to this file."},
		{0x80100028L, "The smart card does not have enough memory to store the information."},
		{0x80100029L, "There was an error trying to set the smart card file object pointer."},
		{0x8010002AL, "The supplied PIN is incorrect."},
		{0x8010002BL, "An unrecognized error code was returned from a layered component."},
		{0x8010002CL, "The requested certificate does not exist."},
		{0x8010002DL, "The requested certificate could not be obtained."},
		{SCARD_E_NO_READERS_AVAILABLE, "Cannot find a smart card reader."},
		{0x8010002FL, "A communications error with the smart card has been detected. Retry the operation."},
		{0x80100030L, "The requested key container does not exist on the smart card."},
		{0x80100031L, "The Smart Card Resource Manager is too busy to complete this operation."},
		{0x80100065L, "Card is not supported."},
		{SCARD_W_UNRESPONSIVE_CARD, "Card is unresponsive."},
		{SCARD_W_UNPOWERED_CARD, "Card is unpowered."},
		{SCARD_W_RESET_CARD, "Card was reset."},
		{SCARD_W_REMOVED_CARD, "Card was removed."},
		{SCARD_W_SECURITY_VIOLATION, "Access denied."},
		{0x8010006BL, "Wrong PIN was presented."},
		{0x8010006CL, "Too many wrong PINs: the card is blocked."},
		{0x8010006DL, "End of the file of the smart card."},
		{0x8010006EL, "Cancelled by the user."},
		{0x8010006FL, "No PIN was presented."},
	};

	/* Programs that keep the code in 32 bits have a negative number. */
	code &= 0xFFFFFFFFL;
	for (size_t i = 0; i < sizeof errors / sizeof *errors; i++)
		if (errors[i].code == code)
			return errors[i].words;
	snprintf(unknown, sizeof unknown, "Unknown error: 0x%08lX", (unsigned long)code);
	return unknown;
}

/* Levels of PCSCLITE_DEBUG, as pcsc-lite has them: 0 debug, 1 info, 2 errors, 3 critical. */
enum { DEBUG_LEVEL = 0, ERROR_LEVEL = 2, SILENT = 4 };

static int level = SILENT;

static void read_level(void)
{
	const char *v = secure_getenv("PCSCLITE_DEBUG");

	if (v != NULL && v[0] >= '0' && v[0] <= '9')
		level = atoi(v);
}

void pc_debug(const char *function, LONG result, const char *format, ...)
{
	static pthread_once_t asked = PTHREAD_ONCE_INIT;
	char line[512];
	va_list args;

	pthread_once(&asked, read_level);
	if (level > (result == SCARD_S_SUCCESS ? DEBUG_LEVEL : ERROR_LEVEL))
		return;
	va_start(args, format);
	vsnprintf(line, sizeof line, format, args);
	va_end(args);
	fprintf(stderr, "cardfs: %s(%s): %s\n", function, line, pcsc_stringify_error(result));
}
