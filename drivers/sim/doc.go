// Package sim is the driver of simulated readers, which have a virtual ISO 7816-4 card in
// them. They serve to develop card scripts and programs without hardware, and to try what
// happens when things go wrong.
//
// # Readers
//
// `attach sim DEVICE [key=value…]`, or `cardfs mount --sim DEVICE`, makes one.
// `cardfs help sim` lists what DEVICE may be: the emulated devices of package emulators,
// at the level of their USB transfers and served by their own drivers, and t1, t0, apdu,
// char-t1, char-t0 and memory, which have no bus and need no other driver.
//
// Keys: card=CARD (the card in it at the start, or `none`), memory=CHIP (what a memory card is
// that does not say it itself; card= says it, too), start=DURATION (how long the
// driver takes to open it), slow=DURATION (each command takes that much longer),
// serial=WORD; for cards with an application slow=real, atr=t1|t0|contactless, state=FILE,
// keys=DIR, seed=WORD and model=NAME (package applet). Several readers of one DEVICE may be attached; they are numbered.
//
// # Cards
//
//	token       T=1, ATR 3B B7 94 00 81 31 FE 65 53 50 4B 32 33 90 00 D1
//	t0          T=0, ATR 3B 77 94 00 00 53 49 4D 54 30 90 00
//	dual        T=0 first and T=1, negotiable
//	crc         T=1 with a CRC instead of an LRC
//	datakey     T=1, the ATR of a Datakey 330
//	cryptoflex  T=0, the ATR of a Cryptoflex 32K e-gate
//	epass       T=0, the ATR of an ePass3000
//	echo        T=1; answers any command with the command's data and 9000
//
//	sle4432 sle4442            2-wire memory cards of package icc, and so on: at24c01
//	sle4418 sle4428            to at24c512, sle4406, sle4436; their PSC is FFFFFF or FFFF
//
//	piv         T=1; a PIV card, see package piv
//	openpgp     T=1; an OpenPGP card, see package openpgp
//
// A reader without a bus that has a memory card at attach, or memory=, clocks its commands; for
// others it is mute. All other cards but echo, piv and openpgp hold the same files:
//
//	3F00           MF
//	  2F00         EF.DIR, linear fixed, 4 × 48, SFI 30: the application's template
//	  2F02         EF.GDO, transparent, 12 bytes, SFI 2: 5A 0A and the serial number
//	  1001         transparent, 128 bytes, SFI 1, anybody may write
//	  5000         DF, AID F0 63 61 72 64 66 73 01
//	    5001       transparent, 256 bytes, SFI 1; write: PIN 1
//	    5002       linear fixed, 8 × 16, 4 records in use, SFI 2; write: PIN 1
//	    5003       cyclic, 5 × 8, SFI 3, anybody may write
//	    5004       transparent, 64 bytes, SFI 4; read: PIN 1; write: PIN 2
//	    5005       transparent, 32,768 bytes, SFI 5, anybody may write; byte n is n mod 251
//
// PIN 1 is reference 01, "1234"; PIN 2 is reference 81, "5678", known in DF 5000
// and verified until another DF is selected. Each allows 3 tries and is unblocked
// by the PUK "12345678", which allows 10. They are 4 to 8 characters of ASCII, optionally
// padded with FF to 8 bytes. Written data stays until the reader is detached: removing the
// card or unplugging the reader does not erase it.
//
// # Commands
//
// ISO/IEC 7816-4:2013, CLA 00: SELECT by FID, AID (cut short too, first and next
// occurrence), path, parent, with FCI, FCP or no answer; READ and UPDATE BINARY;
// READ, UPDATE and APPEND RECORD; VERIFY (without data: the tries left), CHANGE
// REFERENCE DATA, RESET RETRY COUNTER; GET CHALLENGE; GET DATA (005A serial
// number, 5F52 historical bytes, 0101 commands since the card was made, four
// bytes); in T=0 GET RESPONSE and ENVELOPE. An answer is given where Le asks for
// one: 00A40000023F00 is answered 9000, 00A40000023F0000 with the FCI.
//
// CLA 80, for tests:
//
//	80EE0000 Lc data Le   echo: answers the data
//	80ECnnnn [Le]         answers nnnn bytes 00 01 02 … FF 00 …; nnnn 0000: Le bytes
//	80E8nnnn              takes nnnn times 10 ms
//	80E6xxyy              answers SW1 SW2 = xxyy (61..6F, 90..9F)
//
// # Commands in ctl
//
//	sim N unplug           the reader leaves
//	sim N plug             and comes back, as it was, under its old number
//	sim N remove           take the card out (not of a token)
//	sim N insert [CARD]    put it back in, or a new one
//	sim N mute             the card answers nothing, no reset either
//	sim N slow DURATION    each command takes that much longer
//	sim N noisy [1/N]      one in N T=1 blocks arrives damaged; 1/8 if not said
//	sim N normal           no more of mute, slow, noisy
//	sim N keys KEYS…       press keys of a PIN pad: 1234 (and OK; 1234- without), ok,
//	                       cancel, clear
//
// In a reader with several slots, N says which one. Keys pressed before the reader
// asks for any wait until it does. What the PIN pad's display shows is the line
// "display" of status. The damage of noisy follows from the serial number: the same commands after the
// same `noisy` meet the same noise. In T=0 at character level noise means NULL
// bytes and single-byte transfer instead; at the other levels there is no line
// between reader and card that could be noisy.
//
// # Lock order
//
// Driver.mu and device.mu are never held together. Under device.mu the driver of the
// emulated device is called, to open and to end it. Under Driver.mu the contacts are
// called. The lock of a PIN pad protects its text only and is a leaf.
package sim
