package ctbcs

import (
	"fmt"
	"time"

	"github.com/cardfs/cardfs/reader"
)

// pinSeconds is how long a user has for a PIN if nobody says it.
const pinSeconds = 30

// Verification is PERFORM VERIFICATION: the terminal asks for a PIN and sends the card its
// command with it. prompt is what it asks with; "": its own words.
func Verification(unit byte, prompt string, v *reader.PINVerify) ([]byte, error) {
	control, position, err := insertion(v)
	if err != nil {
		return nil, err
	}
	b := Object(make([]byte, 0, 3+2+len(prompt)+4+len(v.APDU)), TagSeconds, seconds(v))
	if prompt != "" {
		b = Object(b, TagText, []byte(prompt)...)
	}
	b = append(b, tagPerform, byte(2+len(v.APDU)), control, position)
	return Command(insVerify, unit, append(b, v.APDU...)), nil
}

func seconds(v *reader.PINVerify) byte {
	if v.Timeout == 0 {
		return pinSeconds
	}
	return v.Timeout
}

// EntryTimes are for a Verification. The terminal may ask for time while it waits for the
// user, or keep silent.
func EntryTimes(v *reader.PINVerify) Times {
	entry := time.Duration(seconds(v)) * time.Second
	return Times{Wait: entry + AnswerWait, Until: time.Now().Add(entry + TerminalLimit)}
}

// insertion returns control byte and insertion position of a PIN, 1 for CLA. The terminal puts
// a PIN of digits there, from the left, in BCD or T.50; nothing else of PC/SC part 10 can be
// told to it.
func insertion(v *reader.PINVerify) (control, position byte, err error) {
	const header = 5 // CLA INS P1 P2 Lc
	refuse := func(what string) (byte, byte, error) {
		return 0, 0, fmt.Errorf("%s: the terminal cannot do it: %w", what, reader.ErrUnsupported)
	}
	switch v.Format & 0x03 {
	case 1: // BCD
	case 2:
		control = 1 // T.50
	default:
		return refuse("a PIN in binary")
	}
	at := int(v.Format >> 3 & 0x0F)
	switch {
	case v.Format&0x04 != 0:
		return refuse("a PIN that stands to the right")
	case v.Block>>4 != 0:
		return refuse("the length of the PIN in the command")
	case at > 0 && v.Format&0x80 == 0:
		return refuse("a PIN that does not begin with a byte")
	case len(v.APDU) < 4:
		return 0, 0, fmt.Errorf("no command: %w", reader.ErrInvalid)
	case 2+len(v.APDU) > MaxObject:
		return refuse("a command that long")
	}
	if v.MinDigits == v.MaxDigits && v.MinDigits <= 0x0F {
		control |= v.MinDigits << 4 // else the OK key ends the entry
	}
	return control, byte(header + 1 + at), nil
}
