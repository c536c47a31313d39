/* SPDX-License-Identifier: BSD-3-Clause
 *
 * abi.h - the PC/SC interface of pcsc-lite, as programs were compiled against it
 *
 * Types, values and functions of winscard.h, pcsclite.h and reader.h (pcsc-lite 1.9 to
 * 2.4). They are declared here, so that the library builds without pcsc-lite's headers. The
 * tests compare them with those.
 */
#ifndef CARDFS_PCSC_ABI_H
#define CARDFS_PCSC_ABI_H

typedef long LONG;
typedef unsigned long DWORD;
typedef DWORD *LPDWORD;
typedef unsigned char BYTE;
typedef BYTE *LPBYTE;
typedef const BYTE *LPCBYTE;
typedef char *LPSTR;
typedef const char *LPCSTR;
typedef void *LPVOID;
typedef const void *LPCVOID;

typedef LONG SCARDCONTEXT;
typedef LONG SCARDHANDLE;

enum { MAX_ATR_SIZE = 33, MAX_READERNAME = 128, MAX_BUFFER_SIZE = 264 };
/* A command and an answer, and room for the header of a message. */
enum { MAX_BUFFER_SIZE_EXTENDED = 4 + 3 + (1 << 16) + 3 + 2 };

typedef struct {
	const char *szReader;
	void *pvUserData;
	DWORD dwCurrentState;
	DWORD dwEventState;
	DWORD cbAtr;
	unsigned char rgbAtr[MAX_ATR_SIZE];
} SCARD_READERSTATE;

typedef struct {
	unsigned long dwProtocol;
	unsigned long cbPciLength;
} SCARD_IO_REQUEST;

#define SCARD_AUTOALLOCATE ((DWORD)-1)
#define INFINITE 0xFFFFFFFFUL

#define SCARD_S_SUCCESS 0x00000000L
#define SCARD_F_INTERNAL_ERROR 0x80100001L
#define SCARD_E_CANCELLED 0x80100002L
#define SCARD_E_INVALID_HANDLE 0x80100003L
#define SCARD_E_INVALID_PARAMETER 0x80100004L
#define SCARD_E_NO_MEMORY 0x80100006L
#define SCARD_E_INSUFFICIENT_BUFFER 0x80100008L
#define SCARD_E_UNKNOWN_READER 0x80100009L
#define SCARD_E_TIMEOUT 0x8010000AL
#define SCARD_E_SHARING_VIOLATION 0x8010000BL
#define SCARD_E_NO_SMARTCARD 0x8010000CL
#define SCARD_E_PROTO_MISMATCH 0x8010000FL
#define SCARD_E_INVALID_VALUE 0x80100011L
#define SCARD_F_COMM_ERROR 0x80100013L
#define SCARD_E_NOT_TRANSACTED 0x80100016L
#define SCARD_E_READER_UNAVAILABLE 0x80100017L
#define SCARD_E_NO_SERVICE 0x8010001DL
#define SCARD_E_UNSUPPORTED_FEATURE 0x8010001FL
#define SCARD_E_NO_READERS_AVAILABLE 0x8010002EL
#define SCARD_W_UNRESPONSIVE_CARD 0x80100066L
#define SCARD_W_UNPOWERED_CARD 0x80100067L
#define SCARD_W_RESET_CARD 0x80100068L
#define SCARD_W_REMOVED_CARD 0x80100069L
#define SCARD_W_SECURITY_VIOLATION 0x8010006AL

enum { SCARD_SCOPE_USER, SCARD_SCOPE_TERMINAL, SCARD_SCOPE_SYSTEM, SCARD_SCOPE_GLOBAL };
enum { SCARD_SHARE_EXCLUSIVE = 1, SCARD_SHARE_SHARED, SCARD_SHARE_DIRECT };
enum { SCARD_LEAVE_CARD, SCARD_RESET_CARD, SCARD_UNPOWER_CARD, SCARD_EJECT_CARD };

enum {
	SCARD_PROTOCOL_UNDEFINED = 0,
	SCARD_PROTOCOL_T0 = 0x0001,
	SCARD_PROTOCOL_T1 = 0x0002,
	SCARD_PROTOCOL_RAW = 0x0004,
	SCARD_PROTOCOL_ANY_OLD = 0x1000, /* before pcsc-lite 1.0: T0 and T1 */
};

/* States of SCardStatus. */
enum {
	SCARD_UNKNOWN = 0x0001,
	SCARD_ABSENT = 0x0002,
	SCARD_PRESENT = 0x0004,
	SCARD_SWALLOWED = 0x0008,
	SCARD_POWERED = 0x0010,
	SCARD_NEGOTIABLE = 0x0020,
	SCARD_SPECIFIC = 0x0040,
};

/* States of SCardGetStatusChange. */
enum {
	SCARD_STATE_UNAWARE = 0x0000,
	SCARD_STATE_IGNORE = 0x0001,
	SCARD_STATE_CHANGED = 0x0002,
	SCARD_STATE_UNKNOWN = 0x0004,
	SCARD_STATE_UNAVAILABLE = 0x0008,
	SCARD_STATE_EMPTY = 0x0010,
	SCARD_STATE_PRESENT = 0x0020,
	SCARD_STATE_ATRMATCH = 0x0040,
	SCARD_STATE_EXCLUSIVE = 0x0080,
	SCARD_STATE_INUSE = 0x0100,
	SCARD_STATE_MUTE = 0x0200,
	SCARD_STATE_UNPOWERED = 0x0400,
};

#define SCARD_ATTR_DEVICE_FRIENDLY_NAME_A 0x7FFF0003UL
#define SCARD_ATTR_DEVICE_SYSTEM_NAME_A 0x7FFF0004UL

#pragma GCC visibility push(default)

extern const SCARD_IO_REQUEST g_rgSCardT0Pci, g_rgSCardT1Pci, g_rgSCardRawPci;

LONG SCardEstablishContext(DWORD dwScope, LPCVOID pvReserved1, LPCVOID pvReserved2,
			   SCARDCONTEXT *phContext);
LONG SCardReleaseContext(SCARDCONTEXT hContext);
LONG SCardIsValidContext(SCARDCONTEXT hContext);
LONG SCardConnect(SCARDCONTEXT hContext, LPCSTR szReader, DWORD dwShareMode,
		  DWORD dwPreferredProtocols, SCARDHANDLE *phCard, LPDWORD pdwActiveProtocol);
LONG SCardReconnect(SCARDHANDLE hCard, DWORD dwShareMode, DWORD dwPreferredProtocols,
		    DWORD dwInitialization, LPDWORD pdwActiveProtocol);
LONG SCardDisconnect(SCARDHANDLE hCard, DWORD dwDisposition);
LONG SCardBeginTransaction(SCARDHANDLE hCard);
LONG SCardEndTransaction(SCARDHANDLE hCard, DWORD dwDisposition);
LONG SCardStatus(SCARDHANDLE hCard, LPSTR szReaderName, LPDWORD pcchReaderLen, LPDWORD pdwState,
		 LPDWORD pdwProtocol, LPBYTE pbAtr, LPDWORD pcbAtrLen);
LONG SCardGetStatusChange(SCARDCONTEXT hContext, DWORD dwTimeout,
			  SCARD_READERSTATE *rgReaderStates, DWORD cReaders);
LONG SCardControl(SCARDHANDLE hCard, DWORD dwControlCode, LPCVOID pbSendBuffer,
		  DWORD cbSendLength, LPVOID pbRecvBuffer, DWORD cbRecvLength,
		  LPDWORD lpBytesReturned);
LONG SCardTransmit(SCARDHANDLE hCard, const SCARD_IO_REQUEST *pioSendPci, LPCBYTE pbSendBuffer,
		   DWORD cbSendLength, SCARD_IO_REQUEST *pioRecvPci, LPBYTE pbRecvBuffer,
		   LPDWORD pcbRecvLength);
LONG SCardListReaderGroups(SCARDCONTEXT hContext, LPSTR mszGroups, LPDWORD pcchGroups);
LONG SCardListReaders(SCARDCONTEXT hContext, LPCSTR mszGroups, LPSTR mszReaders,
		      LPDWORD pcchReaders);
LONG SCardFreeMemory(SCARDCONTEXT hContext, LPCVOID pvMem);
LONG SCardCancel(SCARDCONTEXT hContext);
LONG SCardGetAttrib(SCARDHANDLE hCard, DWORD dwAttrId, LPBYTE pbAttr, LPDWORD pcbAttrLen);
LONG SCardSetAttrib(SCARDHANDLE hCard, DWORD dwAttrId, LPCBYTE pbAttr, DWORD cbAttrLen);
const char *pcsc_stringify_error(LONG pcscError);

#pragma GCC visibility pop

#endif
