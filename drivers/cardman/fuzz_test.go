package cardman

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cardfs/cardfs/drivers/bus/usb"
	"github.com/cardfs/cardfs/reader"
	"github.com/cardfs/cardfs/reader/readertest"
)

// Whatever a device sends, nothing panics or hangs, no answer has bytes that did not come, and errors are of a kind
// that the core knows.
func FuzzAnswers(f *testing.F) {
	f.Add(unhex("01 C0 04 3B 02 14 50 02 04 00 01 A4 02 90 00"))
	f.Add(unhex("01 40 08 3B 6F 00 00 80 5A 08 06 08 08 20 01 01 01 02 03 04 03 05 06 07 02 04 00 08 84 11 12 13 14 15 16 17 03 18 90 00"))
	f.Fuzz(func(t *testing.T, in []byte) {
		synctest.Test(t, func(t *testing.T) {
			s := slotOf(nil)
			s.conn = &raw{fake: &fake{}, in: in}
			l := readertest.NewLink(s)
			began := time.Now()
			for range 3 {
				if _, err := s.Status(t.Context()); err != nil && !errors.Is(err, reader.ErrProtocol) && !errors.Is(err, reader.ErrTimeout) {
					t.Error(err)
				}
				if err := l.PowerUp(t.Context(), reader.Cold, -1); err != nil {
					continue
				}
				if rx, err := l.Transmit(t.Context(), challenge, nil); err == nil && (len(rx) < 2 || len(rx) > 10) {
					t.Errorf("% X", rx)
				}
			}
			if took := time.Since(began); took > time.Hour {
				t.Errorf("it took %v", took)
			}
		})
	})
}

// raw is a device whose packets come as they are.
type raw struct {
	*fake
	in []byte
}

func (r *raw) In(ctx context.Context, ep uint8, p []byte, wait time.Duration) (int, error) {
	if len(r.in) == 0 {
		return r.fake.In(ctx, ep, p, wait)
	}
	n := min(int(r.in[0]%9), len(r.in)-1)
	copy(p, r.in[1:1+n])
	r.in = r.in[1+n:]
	return n, nil
}

// The emulated reader survives any transfers.
func FuzzEmulator(f *testing.F) {
	f.Add(unhex("30 01 02 00 20 00 00 00 10 00 00 00 02 00 00 05 00 84 00 00 08 81 01 04 00 FF 10 11 FE 11 00 00 00"))
	f.Fuzz(func(t *testing.T, in []byte) {
		port := newReader(t, t0).Plug()
		defer port.Unplug()
		for len(in) >= 4 {
			s := usb.Setup{RequestType: 0x42, Request: in[0], Value: uint16(in[1]) << 8, Index: uint16(in[2])}
			data := make([]byte, in[3])
			in = in[4:]
			var n int
			var err error
			switch s.Request {
			case 0x81:
				n, err = port.In(t.Context(), 0x81, data, time.Microsecond)
			case 0x00:
				s.RequestType = 0xC2
				n, err = port.Control(t.Context(), s, data, time.Microsecond)
			default:
				in = in[copy(data, in):]
				n, err = port.Control(t.Context(), s, data, time.Microsecond)
			}
			if n < 0 || n > len(data) {
				t.Fatalf("%v: %d, %v", s, n, err)
			}
		}
	})
}
