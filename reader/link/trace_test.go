package link

import (
	"errors"
	"testing"

	"github.com/cardfs/cardfs/reader"
)

// ISO/IEC 7816-4:2013 §5.3.4: SW1 is 6X or 9X. Of a masked answer nothing else is shown,
// and not the last two bytes either where they are no SW1 SW2.
func TestMaskedAnswer(t *testing.T) {
	for answer, want := range map[string]string{
		"":                 masked,
		"\x90":             masked,
		"\x90\x00":         "90 00",
		"\x63\xC2":         "63 C2",
		"\x12\x34":         masked,
		"\x80\x00":         masked,
		"\x12\x34\x56":     masked,
		"\x12\x34\x90\x00": masked + " 90 00",
		"\x12\x34\x6A\x82": masked + " 6A 82",
		"\x12\x34\x70\x00": masked,
		"\x12\x34\xA0\x00": masked,
	} {
		if got := maskedAnswer([]byte(answer)); got != want {
			t.Errorf("% X: %q, want %q", answer, got, want)
		}
	}
}

// A block is shown as one, without its LEN, only where it is as long as that says: else
// what stands at the place of NAD and PCB may be anything.
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
