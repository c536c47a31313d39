/* SPDX-License-Identifier: BSD-3-Clause
 *
 * ctapi.h - CT-API 1.1 over a mounted cardfs (libctapi-cardfs.so)
 *
 * The port number is the number of a slot directory in the mount point: CARDFS_MOUNT
 * of the environment, or /mnt/cards. The terminal is the whole reader: with a reader of
 * two slots, ICC1 is the first slot and ICC2 the second at the port of either.
 */
#ifndef CARDFS_CTAPI_H
#define CARDFS_CTAPI_H

#ifdef __cplusplus
extern "C" {
#endif

#define OK 0
#define ERR_INVALID -1   /* a parameter is wrong: no such port, unit, buffer */
#define ERR_CT -8        /* not now: ctn in use or unknown, card used by another program */
#define ERR_TRANS -10    /* the reader is gone, or reader or card failed to answer */
#define ERR_MEMORY -11   /* no memory, or the answer does not fit into the buffer */
#define ERR_HOST -127    /* the system refused: nothing mounted, no permission */
#define ERR_HTSI -128    /* cardfs ended or broke its contract; lasts until CT_close */

/* Addresses for dad and sad; ICC2 to ICC14 are the second and further slots. */
#define CT_ICC1 0
#define CT_CT 1
#define CT_ICC2 2
#define CT_HOST 2

/*
 * The functions return these codes in 8 bits: where char is unsigned, -1 reads as 255.
 * They may be called from any thread; calls for one ctn wait for each other. No signal
 * ends a call. A child of fork(2) has none of its parent's terminals, but may open its
 * own.
 */

/* CT_init waits for a reader that is starting. */
char CT_init(unsigned short ctn, unsigned short pn);

/*
 * CT_data sends a command to *dad. *lenr is the size of response, and afterwards the
 * length of the answer, 0 with an error. Afterwards *dad is the host and *sad the unit
 * that answered. The terminal answers for a card with 64A1: there is none, or 64A2: it
 * is not active. A card is not active either once another program reset it: its
 * security state is lost, and RESET CT or REQUEST ICC activates it again.
 */
char CT_data(unsigned short ctn, unsigned char *dad, unsigned char *sad,
	     unsigned short lenc, unsigned char *command,
	     unsigned short *lenr, unsigned char *response);

/* CT_close powers off the cards that RESET CT or REQUEST ICC activated, unless another
 * program uses them. A program that ends without CT_close leaves them powered. */
char CT_close(unsigned short ctn);

#ifdef __cplusplus
}
#endif

#endif
