/* SPDX-License-Identifier: BSD-3-Clause
 *
 * slot.c - what PC/SC asks of a slot, whether through pcscd or without it
 */
#define _GNU_SOURCE
#include "slot.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cardfs.h"
#include "file.h"

static const uint8_t memory_prefix[] = { 0x3B, 0x04 };

size_t cf_memory_atr(uint8_t *atr, size_t n, size_t room)
{
	if (n != CF_MEMORY_ATR || room < n + sizeof memory_prefix)
		return n;
	memmove(atr + sizeof memory_prefix, atr, n);
	memcpy(atr, memory_prefix, sizeof memory_prefix);
	return n + sizeof memory_prefix;
}

static ssize_t word(uint32_t n, uint8_t *value)
{
	memcpy(value, &n, sizeof n);
	return sizeof n;
}

static ssize_t text(const char *status, const char *key, uint8_t *value)
{
	if (!cf_value(status, key, (char *)value, CF_TEXT_MAX))
		return -ENOENT;
	return (ssize_t)strlen((char *)value) + 1;
}

ssize_t cf_attribute(const char *status, unsigned long id, uint8_t *value)
{
	char v[CF_TEXT_MAX];
	unsigned a = 0, b = 0, c = 0;

	switch (id) {
	case CF_ATTR_VENDOR_NAME:
		return text(status, "reader", value);
	case CF_ATTR_VENDOR_IFD_SERIAL_NO:
		return text(status, "serial", value);
	case CF_ATTR_VENDOR_IFD_VERSION: /* 0xMMmmbbbb */
		if ((cf_value(status, "firmware", v, sizeof v) ||
		     cf_value(status, "version", v, sizeof v)) &&
		    sscanf(v, "%3u.%3u.%5u", &a, &b, &c) >= 1)
			return word((a & 0xFF) << 24 | (b & 0xFF) << 16 | (c & 0xFFFF), value);
		break;
	case CF_ATTR_CHANNEL_ID: /* 0x0020: USB; bus and address */
		if (cf_value(status, "usb", v, sizeof v) && sscanf(v, "%3u/%3u", &a, &b) == 2)
			return word(0x0020U << 16 | (a & 0xFF) << 8 | (b & 0xFF), value);
		break;
	}
	return -ENOENT;
}

ssize_t cf_control_at(int at, const char *path, int flags, uint32_t code, const uint8_t *tx,
		      size_t ntx, uint8_t *rx, size_t nrx)
{
	uint8_t *command;
	ssize_t n;
	int fd;

	if (ntx > CF_COMMAND_MAX)
		return -EINVAL;
	fd = cf_channel(at, path, flags, CARDFS_BINARY);
	if (fd < 0)
		return fd;
	command = malloc(4 + ntx);
	if (command == NULL) {
		cf_close(&fd);
		return -ENOMEM;
	}
	command[0] = (uint8_t)(code >> 24);
	command[1] = (uint8_t)(code >> 16);
	command[2] = (uint8_t)(code >> 8);
	command[3] = (uint8_t)code;
	if (ntx > 0)
		memcpy(command + 4, tx, ntx);
	/* A person may be typing a PIN. */
	n = cf_write_read(&fd, command, 4 + ntx, rx, nrx, 0);
	explicit_bzero(command, 4 + ntx);
	free(command);
	cf_close(&fd);
	return n;
}
