package link

import (
	"strings"
	"unicode"

	"github.com/cardfs/cardfs/reader/iso7816"
)

// secret reports whether a command or its answer may hold reference data, a key,
// or what a key protects. Bytes that are no command may be a PIN typed into the
// wrong place.
//
// Most rules leave the class open: cards use the instruction in classes of their own,
// or with a logical channel, chaining or secure messaging. An odd instruction is the
// even one with BER-TLV data (ISO/IEC 7816-4:2013 §5.4.2).
func secret(capdu []byte) bool {
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
	_, err := iso7816.ParseCommand(capdu)
	return err != nil
}

// Conceal is the error of a secret command, see concealed.
func Conceal(err error) error { return concealed{err} }

// concealed is the error of a secret command without the numbers in its text. Any number
// may be a length, and VERIFY's length tells the PIN's.
type concealed struct{ error }

func (c concealed) Unwrap() error { return c.error }

// Error has N in place of each number, but for those of T=0 and T=1.
func (c concealed) Error() string {
	text := c.error.Error()
	var out strings.Builder
	for len(text) > 0 {
		n := strings.IndexFunc(text, alphanumeric)
		if n != 0 { // what is between words, or all that is left
			if n < 0 {
				n = len(text)
			}
			out.WriteString(text[:n])
			text = text[n:]
			continue
		}
		if n = strings.IndexFunc(text, func(r rune) bool { return !alphanumeric(r) }); n < 0 {
			n = len(text)
		}
		word := text[:n]
		text = text[n:]
		protocol := strings.HasSuffix(out.String(), "T=") && (word == "0" || word == "1")
		if word[0] >= '0' && word[0] <= '9' && !protocol {
			word = "N"
		}
		out.WriteString(word)
	}
	return out.String()
}

func alphanumeric(r rune) bool { return unicode.IsLetter(r) || unicode.IsDigit(r) }
