/* SPDX-License-Identifier: BSD-3-Clause
 *
 * ctapi.h - CT-API 1.1 over a mounted cardfs (libctapi-cardfs.so)
 *
 * The port number is that of a slot directory of the mount point, which the
 * environment's CARDFS_MOUNT names; /mnt/cards without. The terminal there is
 * the whole reader: of a reader with two slots, ICC1 is the first and ICC2 the
 * second at either slot's port.
 */
#ifndef CARDFS_CTAPI_H
#define CARDFS_CTAPI_H

#ifdef __cplusplus
extern "C" {
#endif

#define OK 0
#define ERR_INVALID -1   /* a parameter is wrong: no such port, unit, buffer */
#define ERR_CT -8        /* not now: ctn in use or unknown, card held by another program */
#define ERR_TRANS -10    /* the reader is gone, or reader or card do not answer as they should */
#define ERR_MEMORY -11   /* no memory, or the answer does not fit into the buffer */
#define ERR_HOST -127    /* the system refused: nothing mounted, no permission */
#define ERR_HTSI -128    /* cardfs ended, or answered nonsense: until CT_close */

/* Units for dad and sad; the second and further slots are 2 to 14. */
#define CT_ICC1 0
#define CT_CT 1
#define CT_ICC2 2
#define CT_HOST 2

/*
 * The results are these codes in 8 bits: where char is unsigned, -1 reads as
 * 255. All functions may be called from any thread; calls for one ctn wait for
 * each other. Signals end no call. A child of fork(2) has none of its parent's
 * terminals, each ctn is unknown to it, but may open its own.
 */

/* CT_init waits for a reader that is starting. */
char CT_init(unsigned short ctn, unsigned short pn);

/*
 * CT_data sends a command to a unit. *lenr is the size of response, then the
 * length of the answer, 0 with an error. After it *dad is the host and *sad the
 * unit whose SW1 SW2 it is: the terminal's own are 64A1, no card, and 64A2, the
 * card is not active; the latter also after somebody else reset it: its
 * security state is lost, and RESET CT or REQUEST ICC begins anew.
 */
char CT_data(unsigned short ctn, unsigned char *dad, unsigned char *sad,
	     unsigned short lenc, unsigned char *command,
	     unsigned short *lenr, unsigned char *response);

/* CT_close powers the cards off that RESET CT or REQUEST ICC activated, unless
 * another program holds them. The end of a program without it leaves them on. */
char CT_close(unsigned short ctn);

#ifdef __cplusplus
}
#endif

#endif
