package acs

import (
	"bytes"
	"encoding/hex"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cardfs/cardfs/drivers/acs/emu"
	"github.com/cardfs/cardfs/reader"
	"github.com/cardfs/cardfs/reader/iso7816"
)

// frameOf is a frame of the bytes of text, with a check byte if sum.
func frameOf(text string, sum bool) []byte {
	b := unhex(text)
	if sum {
		var xor byte
		for _, x := range b {
			xor ^= x
		}
		b = append(b, xor)
	}
	return []byte("\x02" + strings.ToUpper(hex.EncodeToString(b)) + "\x03")
}

// Only plausible answers are accepted, and each status has its error.
func TestACR30Answers(t *testing.T) {
	hex := func(s string) []byte { return frameOf(s, true) }
	for _, x := range []struct {
		name   string
		answer []byte
		is     error // nil: accepted
		says   string
	}{
		{"data", hex("01 90 00 02 90 00"), nil, ""},
		{"padded", append(hex("01 90 00 02 90 00"), make([]byte, 8)...), nil, ""},
		{"small letters", bytes.ToLower(hex("01 90 0A 02 90 00")), nil, ""},
		{"after a message", append(append(hex("01 FF 01 00"), 0, 0, 0, 0), hex("01 90 00 02 90 00")...), nil, ""},
		{"long length of a short answer", hex("01 90 00 FF 00 02 90 00"), nil, ""},
		{"cut", hex("01 90 00 03 90 00"), reader.ErrProtocol, "does not end with ETX"},
		{"too long", hex("01 90 00 FF FF FF 90 00"), reader.ErrProtocol, "bytes announced, "},
		{"longer than announced", hex("01 90 00 01 90 00"), reader.ErrProtocol, "does not end with ETX"},
		{"another header", hex("02 90 00 02 90 00"), reader.ErrProtocol, "does not begin with 01"},
		{"wrong check byte", frameOf("01 90 00 02 90 00 04", false), reader.ErrProtocol, "check byte"},
		{"no STX", hex("01 90 00 02 90 00")[1:], reader.ErrProtocol, "does not begin with STX"},
		{"no digit", append(append(hex("01 90 00 02 90 00")[:9], 'G', '0'), hex("01 90 00 02 90 00")[11:]...), reader.ErrProtocol, "no hexadecimal digit"},
		{"no digit in the length", append(append(hex("01 90 00 02 90 00")[:7], 'G', '2'), hex("01 90 00 02 90 00")[9:]...), reader.ErrProtocol, "length"},
		{"only STX", []byte{2}, reader.ErrProtocol, "1 characters"},
		{"no card", hex("01 60 02 00"), reader.ErrNoCard, "6002"},
		{"without power", hex("01 60 04 00"), reader.ErrStale, "no power"},
		{"no type", hex("01 60 01 00"), reader.ErrStale, "no type of card"},
		{"failed", hex("01 60 20 00"), reader.ErrTimeout, "the card failed"},
		{"memory card", hex("01 90 10 00"), reader.ErrMute, "memory card"},
		{"a status nobody knows", hex("01 77 88 00"), reader.ErrProtocol, "status 7788"},
	} {
		t.Run(x.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := newUSB30(t, t0)
				port := e.Plug()
				r, s := open30(t, device30(port))
				defer r.Close()
				connect(t, s)
				e.Send(0x81, x.answer[:min(16, len(x.answer))])
				if len(x.answer) > 16 {
					e.Send(0x81, x.answer[16:])
				}
				got, err := s.Exchange(t.Context(), reader.Transfer{Out: unhex("00 84 00 00 08"), Wait: time.Second}, []byte("before"))
				if x.is == nil {
					if err != nil || !bytes.Equal(got, append([]byte("before"), 0x90, 0x00)) {
						t.Errorf("% X, %v", got, err)
					}
					return
				}
				if !errors.Is(err, x.is) || !strings.Contains(err.Error(), x.says) || !strings.HasPrefix(err.Error(), "acr30 usb:1-2: exchange: ") || string(got) != "before" {
					t.Errorf("%q, %v", got, err)
				}
			})
		})
	}
}

// "Lc and Le are present" in a TPDU for the reader.
func TestLcLe(t *testing.T) {
	for _, x := range [][2]string{
		{"00 E4 00 00", "00 E4 00 00 00 00"},
		{"00 E4 00 00 00", "00 E4 00 00 00 00"},
		{"00 B0 00 00 12", "00 B0 00 00 00 12"},
		{"00 A4 00 00 02 3F 00", "00 A4 00 00 02 3F 00 00"},
	} {
		if got := withLcLe(nil, unhex(x[0])); !bytes.Equal(got, unhex(x[1])) {
			t.Errorf("%s: % X", x[0], got)
		}
	}
}

// The frames that OpenCT was seen to send.
func TestFrames(t *testing.T) {
	for _, x := range []struct {
		ins  byte
		data string
		want string
	}{
		{0x06, "02", "0106010204"},
		{0x01, "", "01010000"},
		{0x81, "", "01810080"},
		{0xA0, "00 B0 00 00 00 00", "01A00600B00000000017"},
		{0xA0, "00 E4 00 00 00 00", "01A00600E40000000043"},
		{0xA1, "00 00 07 00 A4 00 00 02 3F 00 9E", "01A10B00000700A40000023F009EAB"},
	} {
		if got := appendFrame(nil, x.ins, unhex(x.data)); string(got) != "\x02"+x.want+"\x03" {
			t.Errorf("%s", got)
		}
	}
	for n, head := range map[int]string{254: "\x0201A0FE", 255: "\x0201A0FF00FF", 258: "\x0201A0FF0102"} {
		if got := appendFrame(nil, 0xA0, make([]byte, n)); !strings.HasPrefix(string(got), head) {
			t.Errorf("%d bytes: %s", n, got[:13])
		}
	}
	if n := len(appendFrame(nil, 0xA0, make([]byte, longest30))); n != mostCommand {
		t.Errorf("the longest command has %d characters", n)
	}
}

// Whatever comes, the data are as long as the answer says, and its check byte is right.
func FuzzHexAnswer(f *testing.F) {
	f.Add(frameOf("01 90 00 02 90 00", true))
	f.Add(frameOf("01 90 00 FF 01 02"+strings.Repeat("5A", 258), true))
	f.Add(frameOf("01 FF 01 00", true))
	f.Add(append(frameOf("01 90 00 02 90 00", true), etx))
	f.Fuzz(func(t *testing.T, p []byte) {
		length, lengthErr := answerLength(p)
		before := bytes.Clone(p)
		sw1, sw2, data, err := parseAnswer(p)
		if err != nil {
			return
		}
		if lengthErr != nil || length != len(before) {
			t.Fatalf("%q: length %d, %v", before, length, lengthErr)
		}
		b := []byte{1, sw1, sw2}
		if length == leastAnswer+2*len(data) {
			b = append(b, byte(len(data)))
		} else {
			b = append(b, 0xFF, byte(len(data)>>8), byte(len(data)))
		}
		if want := frameOf(hex.EncodeToString(append(b, data...)), true); !strings.EqualFold(string(before), string(want)) {
			t.Fatalf("%q is %q", before, want)
		}
	})
}

// Frames of any content neither panic nor hang the driver.
func FuzzACR30(f *testing.F) {
	f.Add([]byte("\x0c\x020190000091\x03\x0c\x020190000091\x03"), byte(8))
	f.Fuzz(func(t *testing.T, in []byte, packet byte) {
		synctest.Test(t, func(t *testing.T) {
			e := emu.NewACR30("")
			port := e.Plug()
			for len(in) > 0 {
				n := min(len(in), 1+int(in[0]))
				e.SendPackets(0x81, in[1:n], false)
				in = in[n:]
			}
			r, err := ACR30{}.Open(t.Context(), device30(port))
			if err != nil {
				return
			}
			defer r.Close()
			s := r.Slots()[0].(*slot30)
			s.Status(t.Context())
			s.PowerOn(t.Context(), reader.Cold)
			s.SelectProtocol(t.Context(), iso7816.Params{T: 1, TA1: 0x11})
			s.Exchange(t.Context(), reader.Transfer{Out: unhex("00 B0 00 00 00"), Wait: time.Second}, nil)
			s.PowerOff(t.Context())
		})
	})
}
