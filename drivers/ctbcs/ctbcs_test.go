package ctbcs

import (
	"bytes"
	"errors"
	"testing"

	"github.com/cardfs/cardfs/reader"
	"github.com/cardfs/cardfs/reader/readertest"
)

var unhex = readertest.Hex

// "Older terminals send the value alone."
func TestStatusOf(t *testing.T) {
	for _, x := range []struct {
		data string
		sw   uint16
		want byte
		ok   bool
	}{
		{"80 01 05", Done, 0x05, true},
		{"80 02 03 FF", Done, 0x03, true},
		{"50 01 41 80 01 05", Done, 0x50, true}, // an object of another tag is a value to us
		{"05", Done, 0x05, true},
		{"00", Done, 0x00, true},
		{"", Done, 0, false},
		{"80", Done, 0, false},
		{"80 00", Done, 0, false},
		{"80 02 05", Done, 0, false},
		{"80 81 05", Done, 0, false},
		{"80 01 05", 0x6F00, 0, false},
		{"05", Processor, 0, false},
	} {
		got, err := StatusOf(unhex(x.data), x.sw)
		if got != x.want || (err == nil) != x.ok || err != nil && !errors.Is(err, reader.ErrProtocol) {
			t.Errorf("%s %04X: %02X, %v", x.data, x.sw, got, err)
		}
	}
}

// "Lengths have one byte", and those that lie end the search.
func TestFind(t *testing.T) {
	for _, x := range []struct {
		data string
		tag  byte
		want string
		ok   bool
	}{
		{"50 02 41 42 80 01 07", 0x80, "07", true},
		{"80 01 07 80 01 08", 0x80, "07", true},
		{"80 00", 0x80, "", true},
		{"50 00 80 01 07", 0x80, "07", true},
		{"50 03 41 42", 0x50, "", false},
		{"50 80 41", 0x50, "", false},
		{"50", 0x50, "", false},
		{"", 0x50, "", false},
	} {
		got, ok := Find(unhex(x.data), x.tag)
		if ok != x.ok || !bytes.Equal(got, unhex(x.want)) {
			t.Errorf("%s, %02X: % X, %v", x.data, x.tag, got, ok)
		}
	}
}

// What is built is found again, and what is found is a part of what came.
func FuzzFind(f *testing.F) {
	f.Add(unhex("50 02 41 42 80 01 07"), byte(0x80))
	f.Add(unhex("80 7F"), byte(0x80))
	f.Add(unhex("80 FF 00"), byte(0x80))
	f.Fuzz(func(t *testing.T, b []byte, tag byte) {
		if value, ok := Find(b, tag); ok && (len(value) > MaxObject || !bytes.Contains(b, append([]byte{tag, byte(len(value))}, value...))) {
			t.Errorf("% X, %02X: % X", b, tag, value)
		}
		if len(b) <= MaxObject {
			made := Object(Object(nil, tag^1, 0x00), tag, b...)
			if value, ok := Find(made, tag); !ok || !bytes.Equal(value, b) {
				t.Errorf("% X of % X", value, made)
			}
		}
	})
}

// Control byte, position and prompt of PERFORM VERIFICATION, and what cannot be told to a
// terminal.
func TestVerification(t *testing.T) {
	pin := func(f func(v *reader.PINVerify)) *reader.PINVerify {
		v := &reader.PINVerify{PINFormat: reader.PINFormat{APDU: unhex("00 20 00 01 08 FF FF FF FF FF FF FF FF"), Format: 0x82, MinDigits: 4, MaxDigits: 8}}
		f(v)
		return v
	}
	for _, x := range []struct {
		name, prompt, want string
		v                  *reader.PINVerify
		is                 error
	}{
		{"T.50", "", "20 18 40 00 14 80 01 1E 52 0F 01 06 00 20 00 01 08 FF FF FF FF FF FF FF FF", pin(func(*reader.PINVerify) {}), nil},
		{"prompt and time", "PIN", "20 18 40 00 19 80 01 0A 50 03 50 49 4E 52 0F 01 06 00 20 00 01 08 FF FF FF FF FF FF FF FF", pin(func(v *reader.PINVerify) { v.Timeout = 10 }), nil},
		{"BCD of four digits behind a byte", "", "20 18 40 00 14 80 01 1E 52 0F 40 07 00 20 00 01 08 FF FF FF FF FF FF FF FF", pin(func(v *reader.PINVerify) { v.Format, v.MaxDigits = 0x89, 4 }), nil},
		{"binary", "", "", pin(func(v *reader.PINVerify) { v.Format = 0x80 }), reader.ErrUnsupported},
		{"on the right", "", "", pin(func(v *reader.PINVerify) { v.Format = 0x86 }), reader.ErrUnsupported},
		{"its length in the command", "", "", pin(func(v *reader.PINVerify) { v.Block = 0x40 }), reader.ErrUnsupported},
		{"at a bit", "", "", pin(func(v *reader.PINVerify) { v.Format = 0x0A }), reader.ErrUnsupported},
		{"no command", "", "", pin(func(v *reader.PINVerify) { v.APDU = v.APDU[:3] }), reader.ErrInvalid},
		{"126 bytes", "", "", pin(func(v *reader.PINVerify) { v.APDU = make([]byte, 126) }), reader.ErrUnsupported},
	} {
		got, err := Verification(0x40, x.prompt, x.v)
		if !errors.Is(err, x.is) || !bytes.Equal(got, unhex(x.want)) {
			t.Errorf("%s: % X, %v", x.name, got, err)
		}
	}
}
