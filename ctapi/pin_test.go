package ctapi

import "testing"

func TestOutput(t *testing.T) {
	play(t, "pinpad", `
		> 20 17 40 00 07 50 05 'Hello'
		< 90 00
		display Hello
		sleep 100s
		display Hello
		# object 80: for how long
		> 20 17 40 00 09 50 04 'Wait' 80 01 05
		< 90 00
		display Wait
		sleep 5s
		display
		# no text, or an empty one: 6A82
		> 20 17 40 00 03 80 01 05
		< 6A 82
		> 20 17 40 00 02 50 00
		< 6A 82
		# P1, P2, lengths, tags
		> 20 17 50 00 04 50 02 'Hi'
		< 6A 00
		> 20 17 40 01 04 50 02 'Hi'
		< 6A 00
		> 20 17 40 00
		< 67 00
		> 20 17 40 00 01 05
		< 67 00
		> 20 17 40 00 04 50 02 'Hi' 00
		< 67 00
		> 20 17 40 00 04 50 03 'Hi'
		< 67 00
		> 20 17 40 00 04 51 02 'Hi'
		< 6A 85
		# REQUEST ICC and EJECT ICC show their text while they wait, unless P2 says F
		ctl sim 0 remove
		> 20 17 40 00 04 50 02 'Hi'
		< 90 00
		> 20 12 01 F1 09 50 04 'Card' 80 01 02 00
		< 62 00
		display Hi
		> 20 12 01 01 09 50 04 'Card' 80 01 02 00
		< 62 00
		display
	`)
}

func TestInput(t *testing.T) {
	play(t, "pinpad", `
		# digits until OK
		ctl sim 0 keys 0815
		> 20 16 50 00 08
		< '0815' 90 00
		# Le: how many at most, 00 for 256
		ctl sim 0 keys 12345
		> 20 16 50 00 03
		< '123' 90 00
		ctl sim 0 keys 12345678901234567890
		> 20 16 50 02 00
		< '12345678901234567890' 90 00
		# the first key within 15 s or what the command says, each further one within 5
		> 20 16 50 00 08
		< 64 00
		took 15s
		> 20 16 50 01 03 80 01 1E 08
		< 64 00
		took 30s
		> 20 16 50 01 01 03 08
		< 64 00
		took 3s
		ctl sim 0 keys 12-
		> 20 16 50 01 01 03 08
		< 64 00
		took 5s
		# cancelled
		ctl sim 0 keys 12- cancel
		> 20 16 50 00 08
		< 64 01
		# high half of P2 1: key codes, one by one
		ctl sim 0 keys 7- cancel ok
		> 20 16 50 10 01
		< 07 90 00
		> 20 16 50 10 01
		< 0A 90 00
		> 20 16 50 10 01
		< 0B 90 00
		> 20 16 50 10 02
		< 67 00
		# P1, P2, lengths, tags
		> 20 16 40 00 08
		< 6A 00
		> 20 16 50 03 08
		< 6A 00
		> 20 16 50 20 08
		< 6A 00
		> 20 16 50 00
		< 67 00
		> 20 16 50 00 02 50 00
		< 67 00
		> 20 16 50 00 02 52 00 08
		< 6A 85
	`)
}

// Limits of data object 52: how many digits a format 2 block holds (ISO 9564-1: 4 to
// 12), and how far from the front the keypad of PC/SC part 10 puts them (15 bytes).
func TestPINCommandLimits(t *testing.T) {
	for digits := range 16 {
		_, code := parsePINCommand([]byte{byte(digits)<<4 | pinFormat2, 6, 0x00, 0x20, 0x00, 0x01}, false)
		if want := digits == 0 || digits >= 4 && digits <= 12; (code == swOK) != want {
			t.Errorf("format 2 of %d digits: %04X, want taken %v", digits, uint16(code), want)
		}
	}
	for n := 1; n < 16; n++ { // without a template: as many bytes as the digits take
		for kind, want := range []int{pinBCD: (n + 1) / 2, pinASCII: n} {
			p, code := parsePINCommand([]byte{byte(n<<4 | kind), 6, 0x00, 0x20, 0x00, 0x01}, false)
			if code != swOK || len(p.apdu) != 4+1+want || int(p.apdu[4]) != want {
				t.Errorf("kind %d, %d digits: %d bytes, %04X; want %d bytes of data", kind, n, len(p.apdu), uint16(code), want)
			}
		}
	}
	for kind := range 2 {
		for at := range 20 {
			p, code := parsePINCommand([]byte{byte(4<<4 | kind), byte(6 + at), 0x00, 0x20, 0x00, 0x01}, false)
			if code != swOK {
				t.Fatalf("position %d: %04X", at, uint16(code))
			}
			f, code := p.format(objects{}, false)
			if want := at <= 15; (code == swOK) != want || want && int(f.Format>>3&0x0F) != at {
				t.Errorf("kind %d, position %d: %04X, bmFormatString %02X", kind, at, uint16(code), f.Format)
			}
		}
	}
	for at := range 5 { // in a format 2 block the digits begin a byte and a half behind it
		p, code := parsePINCommand([]byte{pinFormat2, byte(6 + at), 0x00, 0x20, 0x00, 0x01}, false)
		if code != swOK {
			t.Fatalf("position %d: %04X", at, uint16(code))
		}
		if _, code := p.format(objects{}, false); (code == swOK) != (8*at+4 <= 15) {
			t.Errorf("format 2 at %d: %04X", at, uint16(code))
		}
	}
}

// The card echo answers with the data field that it receives.
func TestPerformVerification(t *testing.T) {
	play(t, "pinpad card=echo", `
		> 20 12 01 00
		< 90 01
		# BCD of variable length, no template: filled to 8 bytes
		ctl sim 0 keys 12345
		> 20 18 01 00 08 52 06 00 06 00 20 00 01
		< 12 34 5F FF FF FF FF FF 90 00
		# BCD of 4 digits, of 5: as many bytes as they take; no OK key
		ctl sim 0 keys 1234-
		> 20 18 01 00 08 52 06 40 06 00 20 00 01
		< 12 34 90 00
		ctl sim 0 keys 12345-
		> 20 18 01 00 08 52 06 50 06 00 20 00 01
		< 12 34 5F 90 00
		# ASCII, no template: the digits
		ctl sim 0 keys 12345
		> 20 18 01 00 08 52 06 01 06 00 20 00 01
		< '12345' 90 00
		ctl sim 0 keys 123456-
		> 20 18 01 00 08 52 06 61 06 00 20 00 01
		< '123456' 90 00
		# format 2: 2, number of digits, digits, F
		ctl sim 0 keys 123456
		> 20 18 01 00 08 52 06 02 06 00 20 00 01
		< 26 12 34 56 FF FF FF FF 90 00
		ctl sim 0 keys 12345-
		> 20 18 01 00 08 52 06 52 06 00 20 00 01
		< 25 12 34 5F FF FF FF FF 90 00
		ctl sim 0 keys 123456789012
		> 20 18 01 00 08 52 06 02 06 00 20 00 01
		< 2C 12 34 56 78 90 12 FF 90 00
		# with a template, as libchipcard has them for REINER SCT's and others' terminals
		ctl sim 0 keys 1234
		> 20 18 01 00 11 52 0F 02 06 00 20 00 01 08 28 FF FF FF FF FF FF FF
		< 24 12 34 FF FF FF FF FF 90 00
		ctl sim 0 keys 1234
		> 20 18 01 00 11 52 0F 01 06 00 20 00 01 08 20 20 20 20 20 20 20 20
		< '1234    ' 90 00
		ctl sim 0 keys 1234
		> 20 18 01 00 11 52 0F 00 06 00 20 00 01 08 00 00 00 00 00 00 00 00
		< 12 34 00 00 00 00 00 00 90 00
		# position: 6 is the first byte of the data field
		ctl sim 0 keys 1234
		> 20 18 01 00 12 52 10 01 08 00 20 00 01 09 AA BB FF FF FF FF FF FF FF
		< AA BB '1234' FF FF FF 90 00
		ctl sim 0 keys 1234
		> 20 18 01 00 08 52 06 01 08 00 20 00 01
		< FF FF '1234' FF FF FF FF 90 00
		ctl sim 0 keys 1234
		> 20 18 01 00 12 52 10 02 07 00 20 00 01 09 AA 20 FF FF FF FF FF FF FF
		< AA 24 12 34 FF FF FF FF FF 90 00
		# a place that PC/SC part 10, and so the reader, has no way to say
		> 20 18 01 00 13 52 11 02 08 00 20 00 01 0A AA BB 20 FF FF FF FF FF FF FF
		< 69 85
		> 20 18 01 00 08 52 06 01 16 00 20 00 01
		< 69 85
		# object 51: fewest and most digits; OK after fewer does not count
		ctl sim 0 keys 12 3
		> 20 18 01 00 0C 51 02 03 03 52 06 01 06 00 20 00 01
		< '123' 90 00
		# the display asks for the PIN, with the text of object 50 if there is one
		display-after 2s PIN:
		after 3s sim 0 keys 1234
		> 20 18 01 00 08 52 06 01 06 00 20 00 01
		< '1234' 90 00
		took 3s
		display
		display-after 2s Your code
		after 3s sim 0 keys 1234
		> 20 18 01 00 13 50 09 'Your code' 52 06 01 06 00 20 00 01
		< '1234' 90 00
		display
		# objects 53, 54: the reader's own texts by number
		display-after 2s PIN:
		after 3s sim 0 keys 1234
		ctl sim 0 keys 1234
		> 20 18 01 00 16 50 03 'PIN' 53 01 00 54 01 01 80 01 0A 52 06 01 06 00 20 00 01
		< '1234' 90 00
	`)
	play(t, "pinpad", `
		# no card 64A1, not activated 64A2
		> 20 18 01 00 08 52 06 01 06 00 20 00 01
		< 64 A2
		took 0s
		ctl sim 0 remove
		> 20 18 01 00 08 52 06 01 06 00 20 00 01
		< 64 A1
		ctl sim 0 insert
		> 20 12 01 00
		< 90 01
		# the card's status word
		ctl sim 0 keys 9999
		> 20 18 01 00 08 52 06 01 06 00 20 00 01
		< 63 C2
		ctl sim 0 keys 1234
		> 20 18 01 00 08 52 06 01 06 00 20 00 01
		< 90 00
		ctl sim 0 keys 1234
		> 20 18 01 00 11 52 0F 01 06 00 20 00 01 08 FF FF FF FF FF FF FF FF
		< 90 00
		# time over: 6400, 15 s or object 80; cancelled: 6401
		> 20 18 01 00 08 52 06 01 06 00 20 00 01
		< 64 00
		took 15s
		> 20 18 01 00 0B 80 01 05 52 06 01 06 00 20 00 01
		< 64 00
		took 5s
		ctl sim 0 keys 12- cancel
		> 20 18 01 00 08 52 06 01 06 00 20 00 01
		< 64 01
		# the card is as it was
		> 20 13 00 80 00
		< 80 01 05 90 00
		# P1 is the card's slot, not the keypad
		> 20 18 50 00 08 52 06 01 06 00 20 00 01
		< 6A 00
		> 20 18 02 00 08 52 06 01 06 00 20 00 01
		< 6A 00
		> 20 18 01 01 08 52 06 01 06 00 20 00 01
		< 6A 00
		# low bits of the control byte 03: 6A00
		> 20 18 01 00 08 52 06 03 06 00 20 00 01
		< 6A 00
		> 20 18 01 00 08 52 06 04 06 00 20 00 01
		< 6A 00
		# no object 52, a short one, a position below 6: 6700
		> 20 18 01 00
		< 67 00
		> 20 18 01 00 03 80 01 05
		< 67 00
		> 20 18 01 00 07 52 05 01 06 00 20 00
		< 67 00
		> 20 18 01 00 08 52 06 01 05 00 20 00 01
		< 67 00
		> 20 18 01 00 08 52 06 01 06 00 20 00 01 05
		< 67 00
		# Lc is not the template's length, or there is no room for the PIN: 6700
		> 20 18 01 00 0C 52 0A 01 06 00 20 00 01 04 FF FF FF
		< 67 00
		> 20 18 01 00 09 52 07 01 06 00 20 00 01 00
		< 67 00
		> 20 18 01 00 0C 52 0A 51 06 00 20 00 01 03 FF FF FF
		< 67 00
		> 20 18 01 00 0C 52 0A 02 06 00 20 00 01 03 FF FF FF
		< 67 00
		> 20 18 01 00 0C 52 0A 01 09 00 20 00 01 03 FF FF FF
		< 67 00
		# format 2 of a length outside 4 to 12: 6700
		> 20 18 01 00 08 52 06 32 06 00 20 00 01
		< 67 00
		> 20 18 01 00 08 52 06 D2 06 00 20 00 01
		< 67 00
		# objects
		> 20 18 01 00 0B 51 01 04 52 06 01 06 00 20 00 01
		< 67 00
		> 20 18 01 00 0B 60 01 04 52 06 01 06 00 20 00 01
		< 6A 85
		# another's transaction
		lock
		> 20 18 01 00 08 52 06 01 06 00 20 00 01
		< 69 85
	`)
}

func TestModifyVerificationData(t *testing.T) {
	play(t, "pinpad card=echo", `
		> 20 12 01 00
		< 90 01
		# old PIN, new PIN twice; each at its position
		ctl sim 0 keys 1234 567890 567890
		> 20 19 01 00 1A 52 18 01 06 0E 00 24 00 01 10 20202020202020202020202020202020
		< '1234    567890  ' 90 00
		# format 2; the template may leave the 2 to the terminal
		ctl sim 0 keys 1234 567890 567890
		> 20 19 01 00 1A 52 18 02 06 0E 00 24 00 01 10 FFFFFFFFFFFFFFFF FFFFFFFFFFFFFFFF
		< 24 12 34 FF FF FF FF FF 26 56 78 90 FF FF FF FF 90 00
		# new position 0: 8 bytes behind the old one
		ctl sim 0 keys 1234 567890 567890
		> 20 19 01 00 09 52 07 02 06 00 00 24 00 01
		< 24 12 34 FF FF FF FF FF 26 56 78 90 FF FF FF FF 90 00
		# without a template
		ctl sim 0 keys 1234 5678 5678
		> 20 19 01 00 09 52 07 00 06 0E 00 24 00 01
		< 12 34 FF FF FF FF FF FF 56 78 FF FF FF FF FF FF 90 00
		ctl sim 0 keys 1234- 5678- 5678-
		> 20 19 01 00 09 52 07 41 06 0A 00 24 00 01
		< '12345678' 90 00
		# the new one may come first
		ctl sim 0 keys 1234- 5678- 5678-
		> 20 19 01 00 09 52 07 41 0A 06 00 24 00 01
		< '56781234' 90 00
		# the same position: no old PIN
		ctl sim 0 keys 5678 5678
		> 20 19 01 00 09 52 07 02 06 06 00 24 01 01
		< 24 56 78 FF FF FF FF FF 90 00
		# positions beyond what a verification can have
		ctl sim 0 keys 1234 5678 5678
		> 20 19 01 00 09 52 07 01 06 1E 00 24 00 01
		< '1234' FFFFFFFF FFFFFFFFFFFFFFFF FFFFFFFFFFFFFFFF '5678' FFFFFFFF 90 00
	`)
	play(t, "pinpad", `
		> 20 19 01 00 09 52 07 01 06 0E 00 24 00 01
		< 64 A2
		> 20 12 01 00
		< 90 01
		# the two new PINs differ: 6402
		ctl sim 0 keys 1234 5678 5679
		> 20 19 01 00 09 52 07 01 06 0E 00 24 00 01
		< 64 02
		# time over, cancelled
		ctl sim 0 keys 1234
		> 20 19 01 00 09 52 07 01 06 0E 00 24 00 01
		< 64 00
		ctl sim 0 keys 1234 5678 cancel
		> 20 19 01 00 09 52 07 01 06 0E 00 24 00 01
		< 64 01
		# wrong, then done
		ctl sim 0 keys 9999 5678 5678
		> 20 19 01 00 09 52 07 01 06 0E 00 24 00 01
		< 63 C2
		ctl sim 0 keys 1234 5678 5678
		> 20 19 01 00 09 52 07 01 06 0E 00 24 00 01
		< 90 00
		ctl sim 0 keys 5678
		> 20 18 01 00 08 52 06 01 06 00 20 00 01
		< 90 00
		# two PINs at places that overlap; a command too long; lengths
		> 20 19 01 00 09 52 07 01 06 FF 00 24 00 01
		< 67 00
		> 20 19 01 00 09 52 07 02 06 0A 00 24 00 01
		< 67 00
		> 20 19 01 00 09 52 07 61 06 08 00 24 00 01
		< 67 00
		> 20 19 01 00 09 52 07 01 06 00 00 24 00 01
		< 67 00
		> 20 19 01 00 09 52 07 01 05 0E 00 24 00 01
		< 67 00
		> 20 19 01 00 08 52 06 01 06 0E 00 24 00
		< 67 00
		> 20 19 01 00
		< 67 00
		> 20 19 01 00 09 52 07 03 06 0E 00 24 00 01
		< 6A 00
		> 20 19 50 00 09 52 07 01 06 0E 00 24 00 01
		< 6A 00
	`)
}
