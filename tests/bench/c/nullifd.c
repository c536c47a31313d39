/* SPDX-License-Identifier: BSD-3-Clause
 *
 * nullifd - an IFD handler 3.0 whose card answers at once (benchmarks only)
 *
 * What pcscd costs when nothing below it costs anything. Every command is
 * answered with 90 00. The handler has no polling function: pcscd asks
 * IFDHICCPresence every 400 ms, as with any handler of that kind.
 */
#include <string.h>

#include <ifdhandler.h>

static const UCHAR atr[] = {0x3B, 0x80, 0x80, 0x01, 0x01}; /* T=0 and T=1 */

RESPONSECODE IFDHCreateChannelByName(DWORD lun, LPSTR device)
{
	(void)lun, (void)device;
	return IFD_SUCCESS;
}

RESPONSECODE IFDHCreateChannel(DWORD lun, DWORD channel)
{
	(void)lun, (void)channel;
	return IFD_SUCCESS;
}

RESPONSECODE IFDHCloseChannel(DWORD lun)
{
	(void)lun;
	return IFD_SUCCESS;
}

RESPONSECODE IFDHGetCapabilities(DWORD lun, DWORD tag, PDWORD length, PUCHAR value)
{
	(void)lun;
	switch (tag) {
	case TAG_IFD_ATR:
		if (*length < sizeof atr)
			return IFD_ERROR_INSUFFICIENT_BUFFER;
		memcpy(value, atr, sizeof atr);
		*length = sizeof atr;
		return IFD_SUCCESS;
	case TAG_IFD_SIMULTANEOUS_ACCESS:
		*length = 1;
		*value = 255;
		return IFD_SUCCESS;
	case TAG_IFD_THREAD_SAFE:
	case TAG_IFD_SLOTS_NUMBER:
		*length = 1;
		*value = 1;
		return IFD_SUCCESS;
	}
	return IFD_ERROR_TAG;
}

RESPONSECODE IFDHSetCapabilities(DWORD lun, DWORD tag, DWORD length, PUCHAR value)
{
	(void)lun, (void)tag, (void)length, (void)value;
	return IFD_ERROR_TAG;
}

RESPONSECODE IFDHSetProtocolParameters(DWORD lun, DWORD protocol, UCHAR flags, UCHAR pts1,
                                       UCHAR pts2, UCHAR pts3)
{
	(void)lun, (void)protocol, (void)flags, (void)pts1, (void)pts2, (void)pts3;
	return IFD_SUCCESS;
}

RESPONSECODE IFDHPowerICC(DWORD lun, DWORD action, PUCHAR out, PDWORD length)
{
	(void)lun;
	if (action == IFD_POWER_DOWN)
		return IFD_SUCCESS;
	memcpy(out, atr, sizeof atr); /* pcscd passes room for MAX_ATR_SIZE */
	*length = sizeof atr;
	return IFD_SUCCESS;
}

RESPONSECODE IFDHTransmitToICC(DWORD lun, SCARD_IO_HEADER send_pci, PUCHAR tx, DWORD tx_length,
                               PUCHAR rx, PDWORD rx_length, PSCARD_IO_HEADER recv_pci)
{
	(void)lun, (void)tx, (void)tx_length;
	if (*rx_length < 2)
		return IFD_ERROR_INSUFFICIENT_BUFFER;
	rx[0] = 0x90;
	rx[1] = 0x00;
	*rx_length = 2;
	recv_pci->Protocol = send_pci.Protocol;
	return IFD_SUCCESS;
}

RESPONSECODE IFDHControl(DWORD lun, DWORD code, PUCHAR tx, DWORD tx_length, PUCHAR rx,
                         DWORD rx_length, LPDWORD returned)
{
	(void)lun, (void)code, (void)tx, (void)tx_length, (void)rx, (void)rx_length;
	*returned = 0;
	return IFD_ERROR_NOT_SUPPORTED;
}

RESPONSECODE IFDHICCPresence(DWORD lun)
{
	(void)lun;
	return IFD_ICC_PRESENT;
}
