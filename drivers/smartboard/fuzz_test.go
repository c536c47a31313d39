package smartboard

import (
	"bytes"
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cardfs/cardfs/drivers/bus/serial/serialtest"
	"github.com/cardfs/cardfs/drivers/smartboard/emu"
	"github.com/cardfs/cardfs/reader"
)

// A frame is as long as its second byte says, and no byte more is needed to know that.
func FuzzFrame(f *testing.F) {
	f.Add(unhex("00 05 61 08 00 00 02"))
	f.Add(unhex("00 FF 64"))
	f.Add(unhex("01"))
	f.Fuzz(func(t *testing.T, p []byte) {
		size, err := frameSize(p)
		switch {
		case err != nil:
			if len(p) == 0 || p[0] == 0 && (len(p) < 2 || p[1] != 0) {
				t.Fatalf("% X: %v", p, err)
			}
			return
		case size < 3 || size > longestFrame || len(p) > 1 && size != 2+int(p[1]):
			t.Fatalf("% X: %d bytes", p, size)
		case len(p) < size:
			return
		}
		got := splitFrame(p[:size])
		if again := appendFrame(nil, got.code, got.data); !bytes.Equal(again, p[:size]) {
			t.Fatalf("% X is sent as % X", p[:size], again)
		}
		in, waits, err := parseStatus(got.data)
		if err == nil && (len(got.data) < 4 || waits && !in) {
			t.Fatalf("% X: %v, %v", got.data, in, waits)
		}
	})
}

// Whatever comes from the line, nothing panics or hangs, no answer has bytes that did not come, and errors are of a
// kind that the core knows.
func FuzzAnswers(f *testing.F) {
	f.Add(unhex("07 00 05 61 08 00 00 02 07 00 05 64 3B 02 14 50 03 00 01 62 0B 00 05 64 AA BB 90 00"))
	f.Add(unhex("07 00 05 61 08 00 00 02 06 00 01 63 00 01 63 07 00 05 61 19 01 00 04 00 00"))
	f.Fuzz(func(t *testing.T, in []byte) {
		synctest.Test(t, func(t *testing.T) {
			s, p := slotWith()
			s.Port = &raw{scripted: p, in: in}
			known := func(err error) {
				t.Helper()
				for _, k := range []error{reader.ErrProtocol, reader.ErrTimeout, reader.ErrNoCard, reader.ErrMute, reader.ErrStale} {
					if errors.Is(err, k) {
						return
					}
				}
				if err != nil {
					t.Error(err)
				}
			}
			began := time.Now()
			for range 3 {
				_, err := s.Status(t.Context())
				known(err)
				atr, err := s.PowerOn(t.Context(), reader.Cold)
				known(err)
				if !bytes.Contains(in, atr) {
					t.Errorf("ATR % X", atr)
				}
				rx, err := s.Exchange(t.Context(), reader.Transfer{Out: unhex("00 B0 00 00 02"), Wait: time.Second, Until: time.Now().Add(time.Minute)}, nil)
				known(err)
				if len(rx) > 4 && s.t == 0 {
					t.Errorf("% X", rx)
				}
				known(s.PowerOff(t.Context()))
			}
			if took := time.Since(began); took > 10*time.Minute {
				t.Errorf("it took %v", took)
			}
		})
	})
}

// raw is a port whose characters come in pieces: a length, and so many characters after the next command.
type raw struct {
	*scripted
	in []byte
}

// next is what comes behind a command.
func (r *raw) next() {
	if len(r.in) == 0 {
		return
	}
	n := min(int(r.in[0]), len(r.in)-1)
	r.scripted.in = append(r.scripted.in, r.in[1:1+n]...)
	r.in = r.in[1+n:]
}

func (r *raw) Write(context.Context, []byte) error {
	r.next()
	return nil
}

// The emulated reader survives whatever a host sends.
func FuzzEmulator(f *testing.F) {
	f.Add(unhex("00 01 6A 00 01 60 00 01 65 00 01 62 00 06 61 00 00 0A 00 10 00 06 67 00 84 00 00 08"))
	f.Fuzz(func(t *testing.T, in []byte) {
		synctest.Test(t, func(t *testing.T) {
			p := serialtest.Plug(newReader(t, emu.Options{Events: emu.Unasked}, t0))
			defer p.Unplug()
			port, err := p.OpenSerial(t.Context(), mode)
			if err != nil {
				t.Fatal(err)
			}
			defer port.Close()
			if err := port.Write(t.Context(), in); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Minute)
		})
	})
}
