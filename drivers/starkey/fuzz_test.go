package starkey

import (
	"bytes"
	"testing"
	"time"

	"github.com/cardfs/cardfs/drivers/bus/usb"
	"github.com/cardfs/cardfs/reader"
)

// No message and no answer of a token makes the driver panic or accept bytes that did not
// arrive.
func FuzzAnswers(f *testing.F) {
	f.Add(unhex(starcos), answer)
	f.Add([]byte{0}, unhex("00 00 FF"))
	f.Fuzz(func(t *testing.T, atr, block []byte) {
		if len(atr) == 0 {
			return
		}
		_, s := open(t, &fake{Answers: map[string]reply{"IN 81": {Data: atr}, "IN C0 86": {Data: block}}})
		got, err := s.PowerOn(t.Context(), reader.Cold)
		if err != nil || !bytes.Equal(got, atr[:min(32, len(atr))]) {
			t.Errorf("ATR % X of % X, %v", got, atr, err)
		}
		rx, err := s.Exchange(t.Context(), reader.Transfer{Out: make([]byte, 4), Wait: time.Second}, nil)
		if err == nil && (!bytes.HasPrefix(block, rx) || len(rx) < 4 || len(rx) != 4+int(rx[2])) {
			t.Errorf("block % X of % X", rx, block)
		}
	})
}

// The emulated token survives any transfers.
func FuzzEmulator(f *testing.F) {
	f.Add(unhex("81 00 20 40 06 09 00 00 05 00 84 00 00 08 89 C0 86 25"))
	f.Add(unhex("C0 86 25 81 00 01 81 00 20 40 06 25"))
	f.Fuzz(func(t *testing.T, in []byte) {
		port := newToken(t).Plug()
		for len(in) >= 3 {
			s := usb.Setup{RequestType: in[0], Request: in[1]}
			data := make([]byte, in[2])
			in = in[3:]
			if !s.In() {
				in = in[copy(data, in):]
			}
			var n int
			var err error
			if s.RequestType == 0x81 {
				n, err = port.In(t.Context(), 0x81, data, time.Microsecond)
			} else {
				n, err = port.Control(t.Context(), s, data, time.Microsecond)
			}
			if n < 0 || n > len(data) || err != nil && n != 0 {
				t.Fatalf("%v: %d, %v", s, n, err)
			}
		}
	})
}
