package iso7816

import "fmt"

// Masked stands for bytes that are not shown.
const Masked = "[masked]"

// Secrecy follows the commands that one card gets: whether the last one was secret.
type Secrecy bool

// Next takes the command that comes next, and reports whether it and its answer are
// secret. GET RESPONSE fetches what belongs to the command before it.
func (s *Secrecy) Next(capdu []byte) bool {
	fetches := len(capdu) >= 4 && capdu[1]&^1 == 0xC0
	*s = Secrecy(Secret(capdu) || fetches && bool(*s))
	return bool(*s)
}

// MaskedCommand shows only CLA INS P1 P2 of a secret command. Lc would reveal the length of
// a PIN. Bytes that are no command are not shown at all.
func MaskedCommand(capdu []byte) string {
	switch {
	case malformed(capdu):
		return Masked
	case len(capdu) == 4:
		return fmt.Sprintf("% X", capdu)
	}
	return fmt.Sprintf("% X %s", capdu[:4], Masked)
}

// MaskedAnswer shows SW1 SW2 alone, and not even the last two bytes if they cannot be SW1
// SW2 (ISO/IEC 7816-4:2013 §5.3.4).
func MaskedAnswer(rapdu []byte) string {
	n := len(rapdu) - 2
	switch {
	case n < 0 || rapdu[n]&0xF0 != 0x60 && rapdu[n]&0xF0 != 0x90:
		return Masked
	case n == 0:
		return fmt.Sprintf("% X", rapdu)
	}
	return fmt.Sprintf("%s % X", Masked, rapdu[n:])
}

// Secret reports whether a command or its answer may hold reference data, a key,
// or what a key protects. Bytes that are no command may be a PIN typed into the
// wrong place.
//
// Most rules leave the class open: cards use the instruction in classes of their own,
// or with a logical channel, chaining or secure messaging. An odd instruction is the
// even one with BER-TLV data (ISO/IEC 7816-4:2013 §5.4.2).
func Secret(capdu []byte) bool {
	if malformed(capdu) {
		return true
	}
	cla, ins, p1, p2 := capdu[0], capdu[1], capdu[2], capdu[3]
	switch ins &^ 1 {
	// Reference data, ISO/IEC 7816-4:2013 table 4.
	case 0x20, // VERIFY
		0x24, // CHANGE REFERENCE DATA
		0x26, // DISABLE VERIFICATION REQUIREMENT
		0x28, // ENABLE VERIFICATION REQUIREMENT
		0x2C: // RESET RETRY COUNTER
		return true

	// Authentication by a key that some cards take as it is, and the secrets that
	// GENERAL AUTHENTICATE agrees on. LOAD KEYS is FF 82 in PC/SC part 3.
	case 0x82, // EXTERNAL AUTHENTICATE, MUTUAL AUTHENTICATE
		0x86: // GENERAL AUTHENTICATE
		return true

	// Keys on their way to a card.
	case 0xD8, // PUT KEY (GlobalPlatform)
		0xDA, // PUT DATA: OpenPGP's key import and resetting code, CardOS's objects
		0xFE: // PIV tokens: FE imports a key, FF sets the management key
		return true

	// ENVELOPE: any command, in pieces of which only the first shows which.
	case 0xC2:
		return true

	// PERFORM SECURITY OPERATION: P1 names the answer, P2 the data. 80 is a plain
	// value, 82 to 86 are cryptograms (ISO/IEC 7816-8:2016 §5.4): so DECIPHER and
	// ENCIPHER. What is signed or hashed is no secret.
	case 0x2A:
		if p1 == 0x80 || p2 == 0x80 && p1 >= 0x82 && p1 <= 0x86 {
			return true
		}
	}
	switch ins {
	case 0xCA: // GET DATA of OpenPGP's KDF-DO: hashes that count as passwords (OpenPGP card 3.4.1 §4.3.2)
		return cla&0x80 == 0 && p1 == 0x00 && p2 == 0xF9
	case 0x2A: // SETUP (MuscleCard); VERIFY KEY (Cryptoflex)
		return cla == 0xB0 || cla == 0xF0
	case 0x00: // FF 00, a pseudo-APDU that carries a message to the reader or a tag
		return cla == 0xFF
	case 0xD6: // UPDATE BINARY of a storage card: its keys are in a MIFARE card's blocks
		return cla == 0xFF
	case 0x01, 0x03: // OTP and OATH applets: a slot's key, the access code
		return cla&0x80 == 0
	case 0xE2, 0xF4: // STORE DATA (GlobalPlatform); WRITE KEY (STARCOS)
		return cla&0x80 != 0
	case 0xC4: // DESFire: CHANGE KEY
		return cla == 0x90
	}
	if cla == 0xB0 { // MuscleCard and CoolKey
		switch ins {
		case 0x32, 0x34, 0x36, 0x38, 0x54: // import and export of keys, their use, the object they pass through
			return true
		case 0x40, 0x41, 0x42, 0x43, 0x44, 0x45, 0x46: // CREATE, VERIFY, CHANGE, UNBLOCK PIN
			return true
		}
	}
	return false
}

func malformed(capdu []byte) bool {
	_, err := ParseCommand(capdu)
	return err != nil
}
