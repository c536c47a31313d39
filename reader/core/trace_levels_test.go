package core_test

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/cardfs/cardfs/reader"
)

// secrets are commands whose data field and answer never show.
var secrets = []struct{ name, header string }{
	{"VERIFY", "00 20 00 01"},
	{"VERIFY, BER-TLV", "00 21 00 01"},
	{"VERIFY, chained", "10 20 00 01"},
	{"VERIFY, secure messaging", "0C 20 00 01"},
	{"VERIFY, channel 3", "03 20 00 01"},
	{"VERIFY, channel 19", "4F 20 00 01"},
	{"VERIFY, channel 4, secure messaging, chained", "70 20 00 01"},
	{"VERIFY CHV", "A0 20 00 01"},
	{"VERIFY of a card's own class", "80 20 00 01"},
	{"PSC of a memory card", "FF 20 00 00"},
	{"CHANGE REFERENCE DATA", "00 24 00 01"},
	{"CHANGE REFERENCE DATA, BER-TLV", "00 25 00 01"},
	{"PIN CHANGE/UNBLOCK", "84 24 00 02"},
	{"DISABLE VERIFICATION REQUIREMENT", "00 26 00 01"},
	{"ENABLE VERIFICATION REQUIREMENT", "00 28 00 01"},
	{"RESET RETRY COUNTER", "00 2C 00 81"},
	{"UNBLOCK CHV", "A0 2C 00 00"},
	{"RESET RETRY COUNTER, BER-TLV", "00 2D 00 81"},
	{"EXTERNAL AUTHENTICATE", "00 82 00 01"},
	{"EXTERNAL AUTHENTICATE (GlobalPlatform)", "84 82 01 00"},
	{"LOAD KEYS", "FF 82 00 00"},
	{"GENERAL AUTHENTICATE", "00 86 00 00"},
	{"GENERAL AUTHENTICATE, BER-TLV", "00 87 03 9B"},
	{"GENERAL AUTHENTICATE, chained", "10 87 07 9D"},
	{"PSO: DECIPHER", "00 2A 80 86"},
	{"PSO: DECIPHER, padding told", "00 2A 80 84"},
	{"PSO: ENCIPHER", "00 2A 86 80"},
	{"PSO: ENCIPHER, plain cryptogram", "00 2A 82 80"},
	{"VERIFY KEY (Cryptoflex)", "F0 2A 00 01"},
	{"ENVELOPE", "00 C2 00 00"},
	{"ENVELOPE, BER-TLV", "00 C3 00 00"},
	{"PUT KEY", "80 D8 00 81"},
	{"PUT KEY, secure messaging", "84 D8 01 81"},
	{"PUT DATA: resetting code", "00 DA 00 D3"},
	{"GET DATA: KDF-DO", "00 CA 00 F9"},
	{"PUT DATA: key import", "00 DB 3F FF"},
	{"PUT DATA: key import, chained", "10 DB 3F FF"},
	{"STORE DATA", "80 E2 00 00"},
	{"WRITE KEY (STARCOS)", "80 F4 00 01"},
	{"PIV: set management key", "00 FF FF FF"},
	{"PIV: set management key, touch", "00 FF FF FE"},
	{"PIV: import key", "00 FE 07 9A"},
	{"OATH: PUT", "00 01 00 00"},
	{"OATH: SET CODE", "00 03 00 00"},
	{"OATH: PUT, channel 1", "01 01 00 00"},
	{"DESFire: CHANGE KEY", "90 C4 00 00"},
	{"MuscleCard: SETUP", "B0 2A 00 00"},
	{"MuscleCard: IMPORT KEY", "B0 32 00 00"},
	{"MuscleCard: EXPORT KEY", "B0 34 00 00"},
	{"MuscleCard: COMPUTE CRYPT", "B0 36 00 01"},
	{"MuscleCard: EXTERNAL AUTHENTICATE", "B0 38 00 00"},
	{"MuscleCard: WRITE OBJECT", "B0 54 00 00"},
	{"MuscleCard: CREATE PIN", "B0 40 01 03"},
	{"MuscleCard: VERIFY PIN", "B0 42 00 00"},
	{"MuscleCard: CHANGE PIN", "B0 44 00 00"},
	{"MuscleCard: UNBLOCK PIN", "B0 46 00 00"},
	{"MuscleCard, between its PIN commands", "B0 45 00 00"},
	{"a sector trailer of a storage card", "FF D6 00 03"},
	{"pseudo-APDU to the reader", "FF 00 00 00"},
}

// open are commands that say nothing that is secret.
var open = []struct{ name, header string }{
	{"SELECT", "00 A4 04 00"},
	{"SELECT, channel 1", "01 A4 04 00"},
	{"READ BINARY", "00 B0 00 00"},
	{"READ BINARY of a storage card", "FF B0 00 04"},
	{"READ BINARY, BER-TLV", "00 B1 00 00"},
	{"READ RECORD", "00 B2 01 0C"},
	{"UPDATE BINARY", "00 D6 00 00"},
	{"UPDATE RECORD", "00 DC 01 04"},
	{"APPEND RECORD", "00 E2 00 00"},
	{"GET DATA", "00 CA 00 6E"},
	{"GET DATA, BER-TLV", "00 CB 3F FF"},
	{"GET DATA of a contactless card", "FF CA 00 00"},
	{"GET CHALLENGE", "00 84 00 00"},
	{"INTERNAL AUTHENTICATE", "00 88 00 00"},
	{"MANAGE SECURITY ENVIRONMENT", "00 22 41 B6"},
	{"PSO: COMPUTE DIGITAL SIGNATURE", "00 2A 9E 9A"},
	{"PSO: HASH", "00 2A 90 80"},
	{"PSO: COMPUTE CRYPTOGRAPHIC CHECKSUM", "00 2A 8E 80"},
	{"PSO: VERIFY CERTIFICATE", "00 2A 00 BE"},
	{"GENERATE ASYMMETRIC KEY PAIR", "00 47 00 9A"},
	{"MANAGE CHANNEL", "00 70 00 00"},
	{"INITIALIZE UPDATE", "80 50 00 00"},
	{"INSTALL", "80 E6 0C 00"},
	{"GET STATUS", "80 F2 40 00"},
	{"MuscleCard: READ OBJECT", "B0 56 00 00"},
	{"MuscleCard: LIST OBJECTS", "B0 58 00 00"},
	{"a class of its own, INS 40", "80 40 00 00"},
	{"a class of its own, INS 42", "00 42 00 00"},
}

// beginsPPS reports whether T=0 cannot carry the class: FF is PPSS.
func beginsPPS(level reader.Level, atr, header string) bool {
	return level < reader.ShortAPDU && atr == atrT0 && strings.HasPrefix(header, "FF")
}

func command(header string, nc int, le bool) []byte {
	c := unhex(header)
	switch {
	case nc > 255:
		c = append(c, 0, byte(nc>>8), byte(nc))
	case nc > 0:
		c = append(c, byte(nc))
	}
	c = append(c, bytes.Repeat([]byte{marker}, nc)...)
	if le {
		c = append(c, 0)
		if nc > 255 {
			c = append(c, 0)
		}
	}
	return c
}

func answer(n int, sw string) []byte {
	return append(bytes.Repeat([]byte{marker}, n), unhex(sw)...)
}

// "No byte of a command or an answer is in status, an error or the log; masked in
// trace besides PINs: keys on their way to a card", at every level, in every
// block of a chain, in one byte as in hundreds.
func TestTraceShowsNoSecret(t *testing.T) {
	for _, level := range levels {
		for _, secret := range secrets {
			if beginsPPS(level.level, level.atr, secret.header) {
				continue
			}
			t.Run(level.name+"/"+secret.name, func(t *testing.T) {
				onStage(t, level.level, level.atr, func(sc *scene) {
					for _, nc := range []int{0, 1, 8, 40, 255, 300} {
						for _, a := range [][]byte{answer(0, "63C2"), answer(1, "9000"), answer(2, "9000"), answer(250, "9000"), answer(8, "6282")} {
							sc.card.answer, sc.card.incoming = a, nc > 0
							capdu := command(secret.header, nc, len(a) > 2)
							got, err := sc.transmit(capdu)
							if err != nil && strings.Contains(err.Error(), "reset") {
								t.Errorf("%X… of %d: %v", capdu[:4], len(capdu), err)
							}
							if err == nil && len(a) > 2 && !bytes.Equal(got, a) && level.level != reader.Character && level.atr != atrT0 {
								t.Errorf("%X… of %d: %d bytes, want %d", capdu[:4], len(capdu), len(got), len(a))
							}
							sc.wantSecret(fmt.Sprintf("%d bytes, answer of %d", nc, len(a)), err == nil && nc+len(a) > 2)
						}
					}
					if t.Failed() {
						return
					}
					// And the next command is shown again.
					sc.card.answer, sc.card.incoming = answer(3, "9000"), false
					sc.transmit(unhex("00 B0 00 00 03"))
					if trace, _ := sc.said(); !strings.Contains(trace, "> C-APDU 00 B0 00 00 03") || !strings.Contains(trace, "E7 E7 E7 90 00") {
						t.Errorf("READ BINARY is masked:\n%s", trace)
					}
				})
			})
		}
	}
}

// An ordinary command shows as it is, on the wire too.
func TestTraceShowsTheRest(t *testing.T) {
	for _, level := range levels {
		for _, x := range open {
			if beginsPPS(level.level, level.atr, x.header) {
				continue
			}
			t.Run(level.name+"/"+x.name, func(t *testing.T) {
				onStage(t, level.level, level.atr, func(sc *scene) {
					sc.card.answer, sc.card.incoming = answer(3, "9000"), true
					capdu := command(x.header, 4, true)
					if _, err := sc.transmit(capdu); err != nil {
						t.Fatal(err)
					}
					trace, rest := sc.said()
					if strings.Contains(trace, "masked") {
						t.Errorf("masked:\n%s", trace)
					}
					for _, want := range []string{fmt.Sprintf("> C-APDU % X", capdu), "< R-APDU E7 E7 E7 90 00"} {
						if !strings.Contains(trace, want) {
							t.Errorf("%q is missing:\n%s", want, trace)
						}
					}
					if level.level < reader.ShortAPDU && strings.Count(trace, "E7 E7 E7 E7") < 2 {
						t.Errorf("the wire does not show the data:\n%s", trace)
					}
					if strings.Contains(strings.ToUpper(rest), "E7") {
						t.Errorf("elsewhere: %s", rest)
					}
				})
			})
		}
	}
}

// GET RESPONSE fetches what belongs to the command before it, and is no secret
// after another.
func TestTraceGetResponse(t *testing.T) {
	for _, level := range levels {
		t.Run(level.name, func(t *testing.T) {
			onStage(t, level.level, level.atr, func(sc *scene) {
				sc.card.answer, sc.card.incoming = unhex("61 08"), true
				sc.transmit(command("00 2A 80 86", 8, false))
				sc.card.answer, sc.card.incoming = answer(8, "61 04"), false
				sc.transmit(unhex("00 C0 00 00 08"))
				sc.card.answer = answer(4, "90 00")
				sc.transmit(unhex("00 C0 00 00 04"))
				sc.wantSecret("GET RESPONSE", true)
				sc.card.answer = answer(2, "90 00")
				sc.transmit(unhex("00 B0 00 00 02"))
				sc.said()
				sc.transmit(unhex("00 C0 00 00 02"))
				if trace, _ := sc.said(); strings.Contains(trace, "masked") {
					t.Errorf("masked:\n%s", trace)
				}
			})
		})
	}
}

// What a card or a reader says out of order while a PIN is on its way may be the
// PIN: an echo, a part of a block, a block in front of which something is missing.
func TestTraceOfGarbage(t *testing.T) {
	pin := bytes.Repeat([]byte{marker}, 8)
	garbage := map[string]func(int, []byte) []byte{
		"silence":         func(int, []byte) []byte { return nil },
		"nothing":         func(int, []byte) []byte { return []byte{} },
		"one byte":        func(int, []byte) []byte { return pin[:1] },
		"two bytes":       func(int, []byte) []byte { return pin[:2] },
		"three bytes":     func(int, []byte) []byte { return pin[:3] },
		"the PIN":         func(int, []byte) []byte { return pin },
		"much of it":      func(int, []byte) []byte { return bytes.Repeat(pin, 40) },
		"a zero, PIN":     func(int, []byte) []byte { return append([]byte{0}, pin...) },
		"PIN, LEN fits":   func(int, []byte) []byte { return []byte{marker, marker, 1, marker, marker} },
		"90, PIN":         func(int, []byte) []byte { return append([]byte{0x90}, pin...) },
		"cut short":       func(_ int, rx []byte) []byte { return rx[:len(rx)/2] },
		"a byte more":     func(_ int, rx []byte) []byte { return append(bytes.Clone(rx), marker) },
		"a byte in front": func(_ int, rx []byte) []byte { return append([]byte{marker}, rx...) },
		"damaged now and then": func(n int, rx []byte) []byte {
			if rx = bytes.Clone(rx); n%3 == 1 && len(rx) > 0 {
				rx[len(rx)-1] ^= 0x55
			}
			return rx
		},
	}
	for _, level := range levels {
		for name, garble := range garbage {
			t.Run(level.name+"/"+name, func(t *testing.T) {
				onStage(t, level.level, level.atr, func(sc *scene) {
					sc.card.incoming = true
					for _, a := range [][]byte{answer(0, "9000"), answer(1, "9000"), answer(40, "9000")} {
						sc.card.answer = a
						sc.slot.n, sc.slot.garble = 0, garble
						_, err := sc.transmit(command("00 20 00 01", 40, len(a) > 2))
						if err == nil {
							// It looked like an answer: the caller's.
							continue
						}
						sc.slot.garble = nil
						// What is left of it may come before the next answer.
						sc.card.answer, sc.card.incoming = answer(0, "9000"), false
						sc.transmit(unhex("00 B0 00 00"))
						sc.card.incoming = true
						sc.open()
						time.Sleep(time.Second)
						sc.wantSecret(name, true)
					}
					trace, rest := sc.said()
					if strings.Contains(strings.ToUpper(trace+rest), "E7") {
						t.Errorf("shows:\n%s%s", trace, rest)
					}
				})
			})
		}
	}
}

// A block that belongs to a secret command and comes only during the next one is
// not shown either; that one's own lines are.
func TestTraceOfLateBlock(t *testing.T) {
	onStage(t, reader.TPDU, atrT1, func(sc *scene) {
		sc.slot.garble = func(n int, rx []byte) []byte {
			switch n {
			case 1, 2, 3: // the answer and its repetitions; S(RESYNCH response) comes
				return nil
			case 6: // S(IFS response) is 5
				return []byte{0, 0x40, 3, marker, 0x90, 0x00, 0x43 ^ marker ^ 0x90}
			}
			return rx
		}
		sc.card.answer = answer(0, "9000")
		if _, err := sc.transmit(command("00 2A 80 86", 8, true)); err == nil {
			t.Fatal("no error")
		}
		if _, err := sc.transmit(unhex("00 B0 00 00")); err != nil {
			t.Fatal(err)
		}
		trace, _ := sc.said()
		if strings.Contains(trace, "E7") || !strings.Contains(trace, "> C-APDU 00 B0 00 00 READ BINARY") {
			t.Errorf("trace:\n%s", trace)
		}
		if sc.transmit(unhex("00 B0 00 01")); sc.slot.n < 8 {
			t.Error("the late block was not asked for")
		}
		if trace, _ := sc.said(); strings.Contains(trace, "masked") {
			t.Errorf("masked for longer than needed:\n%s", trace)
		}
	})
}

// A binary message that is no command may be a PIN in the wrong place, and why it
// is none would tell its length.
func TestTraceOfWhatIsNoCommand(t *testing.T) {
	for _, level := range levels {
		t.Run(level.name, func(t *testing.T) {
			onStage(t, level.level, level.atr, func(sc *scene) {
				sc.card.answer = unhex("6A80")
				for n := range 10 {
					if n == 4 || n == 5 {
						continue // CLA INS P1 P2, and Le
					}
					sc.transmit(bytes.Repeat([]byte{marker}, n))
					sc.wantSecret(fmt.Sprintf("%d bytes", n), true)
				}
				sc.transmit(append(unhex("00 20 00 01 07"), bytes.Repeat([]byte{marker}, 5)...))
				if trace, _ := sc.said(); strings.Contains(trace, "7") || strings.Contains(trace, "5") {
					t.Errorf("the length of a malformed VERIFY shows:\n%s", trace)
				}
			})
		})
	}
}
