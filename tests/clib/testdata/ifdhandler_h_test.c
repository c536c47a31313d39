/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Compiled, not run: ifd.h against pcsc-lite's header. Its macros come first
 * and are kept as constants, as ifd.h's names are theirs.
 */
#include <ifdhandler.h>
#include <reader.h>

enum {
	theirs_atr = TAG_IFD_ATR, theirs_slotnum = TAG_IFD_SLOTNUM,
	theirs_slot_safe = TAG_IFD_SLOT_THREAD_SAFE, theirs_safe = TAG_IFD_THREAD_SAFE,
	theirs_slots = TAG_IFD_SLOTS_NUMBER, theirs_many = TAG_IFD_SIMULTANEOUS_ACCESS,
	theirs_poll = TAG_IFD_POLLING_THREAD_WITH_TIMEOUT, theirs_stop = TAG_IFD_STOP_POLLING_THREAD,
	theirs_kill = TAG_IFD_POLLING_THREAD_KILLABLE, theirs_removed = TAG_IFD_DEVICE_REMOVED,
	theirs_up = IFD_POWER_UP, theirs_down = IFD_POWER_DOWN, theirs_reset = IFD_RESET,
	theirs_tag = IFD_ERROR_TAG, theirs_ro = IFD_ERROR_VALUE_READ_ONLY,
	theirs_pts = IFD_ERROR_PTS_FAILURE, theirs_not = IFD_ERROR_NOT_SUPPORTED,
	theirs_protocol = IFD_PROTOCOL_NOT_SUPPORTED, theirs_power = IFD_ERROR_POWER_ACTION,
	theirs_comm = IFD_COMMUNICATION_ERROR, theirs_timeout = IFD_RESPONSE_TIMEOUT,
	theirs_unsupported = IFD_NOT_SUPPORTED, theirs_present = IFD_ICC_PRESENT,
	theirs_absent = IFD_ICC_NOT_PRESENT, theirs_gone = IFD_NO_SUCH_DEVICE,
	theirs_small = IFD_ERROR_INSUFFICIENT_BUFFER, theirs_t0 = SCARD_PROTOCOL_T0,
	theirs_t1 = SCARD_PROTOCOL_T1, theirs_vendor = SCARD_ATTR_VENDOR_NAME,
	theirs_version = SCARD_ATTR_VENDOR_IFD_VERSION, theirs_serial = SCARD_ATTR_VENDOR_IFD_SERIAL_NO,
	theirs_channel = SCARD_ATTR_CHANNEL_ID, theirs_input = SCARD_ATTR_MAXINPUT,
	theirs_icc = SCARD_ATTR_ICC_PRESENCE, theirs_interface = SCARD_ATTR_ICC_INTERFACE_STATUS,
	theirs_string = SCARD_ATTR_ATR_STRING, theirs_success = IFD_SUCCESS,
	theirs_header = sizeof(SCARD_IO_HEADER), theirs_dword = sizeof(DWORD),
	theirs_code = sizeof(RESPONSECODE),
};

/* The same functions, by type. */
static RESPONSECODE (*const theirs[])(DWORD) = {IFDHCloseChannel, IFDHICCPresence};
static RESPONSECODE (*const their_create)(DWORD, LPSTR) = IFDHCreateChannelByName;
static RESPONSECODE (*const their_number)(DWORD, DWORD) = IFDHCreateChannel;
static RESPONSECODE (*const their_get)(DWORD, DWORD, PDWORD, PUCHAR) = IFDHGetCapabilities;
static RESPONSECODE (*const their_set)(DWORD, DWORD, DWORD, PUCHAR) = IFDHSetCapabilities;
static RESPONSECODE (*const their_pts)(DWORD, DWORD, UCHAR, UCHAR, UCHAR, UCHAR) = IFDHSetProtocolParameters;
static RESPONSECODE (*const their_powers)(DWORD, DWORD, PUCHAR, PDWORD) = IFDHPowerICC;
static RESPONSECODE (*const their_transmit)(DWORD, SCARD_IO_HEADER, PUCHAR, DWORD, PUCHAR, PDWORD,
					    PSCARD_IO_HEADER) = IFDHTransmitToICC;
static RESPONSECODE (*const their_control)(DWORD, DWORD, PUCHAR, DWORD, PUCHAR, DWORD, LPDWORD) = IFDHControl;
const void *use[] = {theirs, &their_create, &their_number, &their_get, &their_set, &their_pts,
		     &their_powers, &their_transmit, &their_control};

#undef TAG_IFD_ATR
#undef TAG_IFD_SLOTNUM
#undef TAG_IFD_SLOT_THREAD_SAFE
#undef TAG_IFD_THREAD_SAFE
#undef TAG_IFD_SLOTS_NUMBER
#undef TAG_IFD_SIMULTANEOUS_ACCESS
#undef TAG_IFD_POLLING_THREAD
#undef TAG_IFD_POLLING_THREAD_WITH_TIMEOUT
#undef TAG_IFD_STOP_POLLING_THREAD
#undef TAG_IFD_POLLING_THREAD_KILLABLE
#undef TAG_IFD_DEVICE_REMOVED
#undef IFD_POWER_UP
#undef IFD_POWER_DOWN
#undef IFD_RESET
#undef IFD_SUCCESS
#undef IFD_ERROR_TAG
#undef IFD_ERROR_VALUE_READ_ONLY
#undef IFD_ERROR_PTS_FAILURE
#undef IFD_ERROR_NOT_SUPPORTED
#undef IFD_PROTOCOL_NOT_SUPPORTED
#undef IFD_ERROR_POWER_ACTION
#undef IFD_COMMUNICATION_ERROR
#undef IFD_RESPONSE_TIMEOUT
#undef IFD_NOT_SUPPORTED
#undef IFD_ICC_PRESENT
#undef IFD_ICC_NOT_PRESENT
#undef IFD_NO_SUCH_DEVICE
#undef IFD_ERROR_INSUFFICIENT_BUFFER
#undef SCARD_PROTOCOL_T0
#undef SCARD_PROTOCOL_T1
#undef SCARD_ATTR_VENDOR_NAME
#undef SCARD_ATTR_VENDOR_IFD_VERSION
#undef SCARD_ATTR_VENDOR_IFD_SERIAL_NO
#undef SCARD_ATTR_CHANNEL_ID
#undef SCARD_ATTR_MAXINPUT
#undef SCARD_ATTR_ICC_PRESENCE
#undef SCARD_ATTR_ICC_INTERFACE_STATUS
#undef SCARD_ATTR_ATR_STRING
#define DWORD our_dword
#define RESPONSECODE our_code
#define UCHAR our_uchar
#define LPSTR our_lpstr
#define PUCHAR our_puchar
#define PDWORD our_pdword
#define SCARD_IO_HEADER our_header
#define PSCARD_IO_HEADER our_pheader
#define IFDHCreateChannelByName ours_1
#define IFDHCreateChannel ours_2
#define IFDHCloseChannel ours_3
#define IFDHGetCapabilities ours_4
#define IFDHSetCapabilities ours_5
#define IFDHSetProtocolParameters ours_6
#define IFDHPowerICC ours_7
#define IFDHTransmitToICC ours_8
#define IFDHControl ours_9
#define IFDHICCPresence ours_10

#include "ifd.h"

#define SAME(a, b) _Static_assert((long)(a) == (long)(b), #a " differs")

SAME(theirs_atr, TAG_IFD_ATR);
SAME(theirs_slotnum, TAG_IFD_SLOTNUM);
SAME(theirs_slot_safe, TAG_IFD_SLOT_THREAD_SAFE);
SAME(theirs_safe, TAG_IFD_THREAD_SAFE);
SAME(theirs_slots, TAG_IFD_SLOTS_NUMBER);
SAME(theirs_many, TAG_IFD_SIMULTANEOUS_ACCESS);
SAME(theirs_poll, TAG_IFD_POLLING_THREAD_WITH_TIMEOUT);
SAME(theirs_stop, TAG_IFD_STOP_POLLING_THREAD);
SAME(theirs_kill, TAG_IFD_POLLING_THREAD_KILLABLE);
SAME(theirs_removed, TAG_IFD_DEVICE_REMOVED);
SAME(theirs_up, IFD_POWER_UP);
SAME(theirs_down, IFD_POWER_DOWN);
SAME(theirs_reset, IFD_RESET);
SAME(theirs_success, IFD_SUCCESS);
SAME(theirs_tag, IFD_ERROR_TAG);
SAME(theirs_ro, IFD_ERROR_VALUE_READ_ONLY);
SAME(theirs_pts, IFD_ERROR_PTS_FAILURE);
SAME(theirs_not, IFD_ERROR_NOT_SUPPORTED);
SAME(theirs_protocol, IFD_PROTOCOL_NOT_SUPPORTED);
SAME(theirs_power, IFD_ERROR_POWER_ACTION);
SAME(theirs_comm, IFD_COMMUNICATION_ERROR);
SAME(theirs_timeout, IFD_RESPONSE_TIMEOUT);
SAME(theirs_unsupported, IFD_NOT_SUPPORTED);
SAME(theirs_present, IFD_ICC_PRESENT);
SAME(theirs_absent, IFD_ICC_NOT_PRESENT);
SAME(theirs_gone, IFD_NO_SUCH_DEVICE);
SAME(theirs_small, IFD_ERROR_INSUFFICIENT_BUFFER);
SAME(theirs_t0, SCARD_PROTOCOL_T0);
SAME(theirs_t1, SCARD_PROTOCOL_T1);
SAME(theirs_vendor, SCARD_ATTR_VENDOR_NAME);
SAME(theirs_version, SCARD_ATTR_VENDOR_IFD_VERSION);
SAME(theirs_serial, SCARD_ATTR_VENDOR_IFD_SERIAL_NO);
SAME(theirs_channel, SCARD_ATTR_CHANNEL_ID);
SAME(theirs_input, SCARD_ATTR_MAXINPUT);
SAME(theirs_icc, SCARD_ATTR_ICC_PRESENCE);
SAME(theirs_interface, SCARD_ATTR_ICC_INTERFACE_STATUS);
SAME(theirs_string, SCARD_ATTR_ATR_STRING);
SAME(theirs_header, sizeof(our_header));
SAME(theirs_dword, sizeof(our_dword));
SAME(theirs_code, sizeof(our_code));
