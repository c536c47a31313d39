/* SPDX-License-Identifier: BSD-3-Clause
 *
 * modes.h - shares, initializations and protocols that the cases go through
 */
#ifndef MODES_H
#define MODES_H

#include "diff.h"

static const struct {
	DWORD mode;
	const char *name;
} shares[] = {
	{SCARD_SHARE_EXCLUSIVE, "exclusive"}, {SCARD_SHARE_SHARED, "shared"}, {SCARD_SHARE_DIRECT, "direct"},
	{0, "0"}, {4, "4"},
}, initializations[] = {
	{SCARD_LEAVE_CARD, "leave"}, {SCARD_RESET_CARD, "reset"}, {SCARD_UNPOWER_CARD, "unpower"},
	{SCARD_EJECT_CARD, "eject"}, {4, "4"}, {0xFFFFFFFF, "ffffffff"},
}, protocols[] = {
	{0, "none"}, {SCARD_PROTOCOL_T0, "T0"}, {SCARD_PROTOCOL_T1, "T1"}, {SCARD_PROTOCOL_ANY, "any"},
	{SCARD_PROTOCOL_RAW, "RAW"}, {SCARD_PROTOCOL_T15, "T15"},
	{SCARD_PROTOCOL_RAW | SCARD_PROTOCOL_ANY, "any+RAW"}, {SCARD_PROTOCOL_T15 | SCARD_PROTOCOL_ANY, "any+T15"},
	{0x10, "10"}, {0x10 | SCARD_PROTOCOL_ANY, "any+10"}, {0x80000000, "80000000"},
};
enum {
	SHARES = sizeof shares / sizeof *shares,
	INITIALIZATIONS = sizeof initializations / sizeof *initializations,
	PROTOCOLS = sizeof protocols / sizeof *protocols,
	FIRST_PROTOCOLS = 5, /* the usual ones */
};

#endif
