package link

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/cardfs/cardfs/reader"
)

// Bytes are shown as a block, without LEN, only if their length matches LEN. Otherwise the
// bytes at the place of NAD and PCB may be anything.
func TestWholeBlock(t *testing.T) {
	for _, crc := range []bool{false, true} {
		l := &Link{}
		l.params.CRC = crc
		edc := 1
		if crc {
			edc = 2
		}
		for _, n := range []int{0, 1, 5, 254} {
			block := make([]byte, 3+n+edc)
			block[2] = byte(n)
			if !l.wholeBlock(block) {
				t.Errorf("CRC %v: a block of %d bytes is none", crc, n)
			}
			if l.wholeBlock(block[:len(block)-1]) || l.wholeBlock(append(block, 0)) {
				t.Errorf("CRC %v: a block of %d bytes with one less, or more", crc, n)
			}
			if block[0] = 1; l.wholeBlock(block) {
				t.Errorf("CRC %v: NAD 01", crc)
			}
		}
	}
	if (&Link{}).wholeBlock([]byte{0, 0}) {
		t.Error("two bytes")
	}
}

// A PIN command is secret whatever its template says, until its answer came; after an
// error the card may still say in the next exchange what belongs to it.
func TestPINIsConcealed(t *testing.T) {
	for _, fault := range []error{nil, reader.ErrTimeout} {
		l := &Link{}
		_, err := l.enterPIN(t.Context(), []byte{0, 0xA4, 0, 0}, func([3]byte, []byte) ([]byte, error) {
			if !l.masked || !l.wireMasked {
				t.Error("a PIN command is shown")
			}
			return []byte{0x90, 0}, fault
		})
		if !errors.Is(err, fault) {
			t.Error(err)
		}
		if l.masked || l.wireMasked {
			t.Errorf("after %v: what comes next is masked as the PIN command was", fault)
		}
		if l.late != (fault != nil) || !l.Secret() {
			t.Errorf("after %v: late %v, secret %v", fault, l.late, l.Secret())
		}
	}
}

func TestPINWithoutPad(t *testing.T) {
	l := &Link{}
	if _, err := l.VerifyPIN(t.Context(), &reader.PINVerify{}); !errors.Is(err, reader.ErrUnsupported) {
		t.Errorf("verify: %v", err)
	}
	if _, err := l.ModifyPIN(t.Context(), &reader.PINModify{}); !errors.Is(err, reader.ErrUnsupported) {
		t.Errorf("modify: %v", err)
	}
}

// A trace's form of commands and answers at each level. Of secret ones it shows only the header
// without P3 and LEN, and SW1 SW2.
func TestTrace(t *testing.T) {
	for _, tt := range []struct {
		name   string
		level  reader.Level
		script string
		capdus []string
		trace  string
	}{
		{"power-up", reader.TPDU, `
			cold
			< 3B 90 12 01 83
			> FF 11 12 FC
			! timeout
			cold
			< 3B 90 12 01 83`, nil, `
			cold reset
			ATR 3B 90 12 01 83
			PPS > FF 11 12 FC < 
			! PPS for T=1 TA1=12: the script's: no answer in the time the protocol allows
			cold reset
			ATR 3B 90 12 01 83`},
		{"T=1", reader.TPDU, cardT1 + `
			> 00 00 05 00 84 00 00 02 83
			! timeout
			> 00 82 00 82
			< 00 00 04 11 22 90 00 A7`, []string{"00 84 00 00 02"}, `
			> C-APDU 00 84 00 00 02 GET CHALLENGE
			>   00 00 05 00 84 00 00 02 83  I(0)
			<   (nothing)
			>   00 82 00 82  R(0, other error)
			<   00 00 04 11 22 90 00 A7  I(0)
			< R-APDU 11 22 90 00`},
		{"T=1, secret", reader.TPDU, cardT1 + `
			> 00 00 07 00 20 00 01 02 31 32 27
			< 00 00 02 63 C2 A3
			> 00 40 05 00 84 00 00 02 C3
			! gone`, []string{"00 20 00 01 02 31 32", "00 84 00 00 02"}, `
			> C-APDU 00 20 00 01 [masked] VERIFY
			>   00 00 [masked]  I(0)
			<   00 00 [masked]  I(0)
			< R-APDU 63 C2
			> C-APDU 00 84 00 00 02 GET CHALLENGE
			>   00 40 05 00 84 00 00 02 C3  I(1)
			<   (nothing)
			! the script's: the reader is gone`},
		{"T=0", reader.TPDU, cardT0 + "> 00 84 00 00 02\n< 11 22 90 00", []string{"00 84 00 00 02"}, `
			> C-APDU 00 84 00 00 02 GET CHALLENGE
			>   00 84 00 00 02
			<   11 22 90 00
			< R-APDU 11 22 90 00`},
		{"T=0, secret, and what GET RESPONSE fetches", reader.TPDU, cardT0 + `
			> 00 2A 80 86 02 31 32
			< 61 02
			> 00 C0 00 00 02
			< 33 34 90 00
			> 00 C0 00 00 01
			< 35 90 00
			> 00 B0 00 00 01
			< 36 90 00
			> 00 C0 00 00 01
			< 37 90 00`, []string{"00 2A 80 86 02 31 32", "00 C0 00 00 02", "00 C0 00 00 01", "00 B0 00 00 01", "00 C0 00 00 01"}, `
			> C-APDU 00 2A 80 86 [masked] PERFORM SECURITY OPERATION
			>   00 2A 80 86 [masked]
			<   61 02
			< R-APDU 61 02
			> C-APDU 00 C0 00 00 [masked] GET RESPONSE
			>   00 C0 00 00 [masked]
			<   [masked] 90 00
			< R-APDU [masked] 90 00
			> C-APDU 00 C0 00 00 [masked] GET RESPONSE
			>   00 C0 00 00 [masked]
			<   [masked] 90 00
			< R-APDU [masked] 90 00
			> C-APDU 00 B0 00 00 01 READ BINARY
			>   00 B0 00 00 01
			<   36 90 00
			< R-APDU 36 90 00
			> C-APDU 00 C0 00 00 01 GET RESPONSE
			>   00 C0 00 00 01
			<   37 90 00
			< R-APDU 37 90 00`},
		{"characters, secret", reader.Character, cardT0 + `
			> 00 20 00 01 02 +1
			< 20
			> 31 32 +1
			< 90
			> +1
			< 00`, []string{"00 20 00 01 02 31 32"}, `
			> C-APDU 00 20 00 01 [masked] VERIFY
			>   [masked]
			<   [masked]
			>   [masked]
			<   [masked]
			<   [masked]
			< R-APDU 90 00`},
		{"after an error the card may still say what belongs to the command before", reader.TPDU, cardT1 + `
			> 00 00 07 00 20 00 01 02 31 32 27
			< 00 00 01 31 30
			> 00 40 05 00 84 00 00 02 C3
			< 00 40 02 31 32 41
			> 00 00 05 00 84 00 00 02 83
			< 00 00 02 90 00 92`, []string{"00 20 00 01 02 31 32", "00 84 00 00 02", "00 84 00 00 02"}, `
			> C-APDU 00 20 00 01 [masked] VERIFY
			>   00 00 [masked]  I(0)
			<   00 00 [masked]  I(0)
			! T=1: the response has N bytes; SW1 SW2 are the least: the answer breaks the protocol; the card may have executed the command
			> C-APDU 00 84 00 00 02 GET CHALLENGE
			>   00 40 [masked]  I(1)
			<   00 40 [masked]  I(1)
			< R-APDU 31 32
			> C-APDU 00 84 00 00 02 GET CHALLENGE
			>   00 00 05 00 84 00 00 02 83  I(0)
			<   00 00 02 90 00 92  I(0)
			< R-APDU 90 00`},
		{"APDUs", reader.ShortAPDU, cardT1 + "> 00 20 00 01 02 31 32\n< 63 C2\n> 31 32 33 34 35 36\n! invalid", []string{"00 20 00 01 02 31 32", "31 32 33 34 35 36"}, `
			> C-APDU 00 20 00 01 [masked] VERIFY
			< R-APDU 63 C2
			> malformed C-APDU [masked]
			! malformed command`},
		{"GET RESPONSE without Le", reader.ShortAPDU, cardT1 + "> 00 2A 80 86 02 31 32\n< 61 02\n> 00 C0 00 00\n< 33 34 90 00", []string{"00 2A 80 86 02 31 32", "00 C0 00 00"}, `
			> C-APDU 00 2A 80 86 [masked] PERFORM SECURITY OPERATION
			< R-APDU 61 02
			> C-APDU 00 C0 00 00 GET RESPONSE
			< R-APDU [masked] 90 00`},
		{"a command of a header alone has nothing to hide", reader.ShortAPDU, cardT1 + "> 00 20 00 01\n< 63 C2", []string{"00 20 00 01"}, `
			> C-APDU 00 20 00 01 VERIFY
			< R-APDU 63 C2`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			play(t, tt.script, "", func(t *testing.T, s *script, l *Link) {
				trace := new(lines)
				s.Level, s.IFSD = tt.level, 32
				l.Trace = trace
				powerUp(t, l)
				if len(tt.capdus) > 0 {
					*trace = nil
				}
				for _, capdu := range tt.capdus {
					l.Transmit(t.Context(), unhex(t, capdu), nil)
				}
				want := strings.Split(strings.ReplaceAll(strings.TrimPrefix(tt.trace, "\n"), "\t", ""), "\n")
				if !slices.Equal(*trace, want) {
					t.Errorf("%s\nwant\n%s", strings.Join(*trace, "\n"), strings.Join(want, "\n"))
				}
			})
		})
	}
}

// A PIN entered at the reader: the header alone, and SW1 SW2.
func TestTraceOfPIN(t *testing.T) {
	play(t, cardT1+"verify 00 00 0D\n< 00 00 02 63 C2 A3\nverify 00 40 0D\n! invalid\n> 00 40 05 00 84 00 00 02 C3\n< 00 40 02 90 00 D2", "pin", func(t *testing.T, s *script, l *Link) {
		trace := new(lines)
		s.IFSD, s.pad = 32, reader.PINSupport{Verify: true}
		l.Trace = trace
		powerUp(t, l)
		*trace = nil
		for range 2 {
			l.VerifyPIN(t.Context(), &reader.PINVerify{PINFormat: reader.PINFormat{APDU: template}})
		}
		transmit(t, l, "00 84 00 00 02", "90 00", nil)
		want := []string{
			"> PIN pad: 00 20 00 01 …",
			">   00 00 [masked]  I(0)",
			"<   00 00 [masked]  I(0)",
			"< PIN pad: 63 C2",
			"> PIN pad: 00 20 00 01 …",
			">   00 40 [masked]  I(1)",
			"! the script's: malformed command",
			"> C-APDU 00 84 00 00 02 GET CHALLENGE",
			">   00 40 [masked]  I(1)", // an error: the card may still say something of it
			"<   00 40 [masked]  I(1)",
			"< R-APDU 90 00",
		}
		if !slices.Equal(*trace, want) {
			t.Errorf("%s", strings.Join(*trace, "\n"))
		}
	})
}

// A reset begins anew: nothing of the card's belongs to a command before.
func TestTraceAfterReset(t *testing.T) {
	play(t, cardT0+`
		> 00 20 00 01 02 31 32
		! 33 timeout
		off
		`+cardT0+`
		> 00 C0 00 00 01
		< 36 90 00`, "", func(t *testing.T, s *script, l *Link) {
		trace := new(lines)
		l.Trace = trace
		powerUp(t, l)
		transmit(t, l, "00 20 00 01 02 31 32", "", reader.ErrTimeout)
		if !l.Secret() {
			t.Error("VERIFY is none")
		}
		l.PowerOff(t.Context())
		powerUp(t, l)
		if l.Secret() {
			t.Error("the reset is one")
		}
		*trace = nil
		transmit(t, l, "00 C0 00 00 01", "36 90 00", nil)
		want := []string{"> C-APDU 00 C0 00 00 01 GET RESPONSE", ">   00 C0 00 00 01", "<   36 90 00", "< R-APDU 36 90 00"}
		if !slices.Equal(*trace, want) {
			t.Errorf("%s", strings.Join(*trace, "\n"))
		}
	})
}
