package serial_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cardfs/cardfs/drivers/bus/serial"
	"github.com/cardfs/cardfs/drivers/bus/serial/serialtest"
	"github.com/cardfs/cardfs/reader"
)

var mode = serial.Mode{Baud: 9600, Frame: serial.Frame8N1}

func TestModes(t *testing.T) {
	for text, want := range map[string]serial.Mode{
		"9600 8N1":         {Baud: 9600, Frame: "8N1"},
		"115200 7E2 check": {Baud: 115200, Frame: "7E2", Check: true},
		"50 5S1":           {Baud: 50, Frame: "5S1"},
		"10753 8M2":        {Baud: 10753, Frame: "8M2"},
	} {
		m, err := serial.ParseMode(text)
		if err != nil || m != want || m.String() != text {
			t.Errorf("%s: %v, %v", text, m, err)
		}
	}
	for _, text := range []string{"", "9600", "8N1", "0 8N1", "-1 8N1", "99999999 8N1", "9600 4N1", "9600 9N1", "9600 8X1", "9600 8N3", "9600 8N0", "9600 8N11", "9600 8N1 checked", "9600 8N1 check it"} {
		if m, err := serial.ParseMode(text); !errors.Is(err, reader.ErrInvalid) {
			t.Errorf("%q: %v, %v", text, m, err)
		}
	}
	// A start bit, the data, perhaps a parity bit, and the stop bits.
	for f, bits := range map[serial.Frame]int{"8N1": 10, "8E1": 11, "8E2": 12, "7O1": 10, "5N2": 8} {
		if got := f.Bits(); got != bits {
			t.Errorf("%s: %d bits, want %d", f, got, bits)
		}
	}
	if d := (serial.Mode{Baud: 9600, Frame: "8E2"}).Time(960); d != 1200*time.Millisecond {
		t.Errorf("960 characters take %v", d)
	}
}

func TestLineNames(t *testing.T) {
	all := serial.DTR | serial.RTS | serial.CTS | serial.DSR | serial.CD | serial.RI
	const names = "DTR RTS CTS DSR CD RI"
	if got := all.String(); got != names {
		t.Error(got)
	}
	if l, err := serial.ParseLines(names); l != all || err != nil {
		t.Error(l, err)
	}
	if l, err := serial.ParseLines("RI CTS"); l != serial.RI|serial.CTS || err != nil {
		t.Error(l, err)
	}
	if _, err := serial.ParseLines("CTS cts"); !errors.Is(err, reader.ErrInvalid) {
		t.Error(err)
	}
}

// paced sends its characters at the given times after the first that comes.
func paced(at ...time.Duration) serialtest.Device {
	return serialtest.DeviceFunc(func(l *serialtest.Line) {
		if _, ok := l.Char(); !ok {
			return
		}
		var was time.Duration
		for i, d := range at {
			select {
			case <-time.After(d - was):
			case <-l.Context().Done():
				return
			}
			was = d
			l.Send(byte(i))
		}
		<-l.Context().Done()
	})
}

// ReadFull "waits for the whole of it, not for each character"; ReadChars has "a time for
// the first character and a time between any two".
func TestReadTimes(t *testing.T) {
	const ms = time.Millisecond
	full := func(wait time.Duration) func(context.Context, serial.Port, []byte) (int, error) {
		return func(ctx context.Context, p serial.Port, b []byte) (int, error) {
			return serial.ReadFull(ctx, p, b, wait)
		}
	}
	chars := func(first, each time.Duration) func(context.Context, serial.Port, []byte) (int, error) {
		return func(ctx context.Context, p serial.Port, b []byte) (int, error) {
			return serial.ReadChars(ctx, p, b, first, each)
		}
	}
	for _, c := range []struct {
		what string
		read func(context.Context, serial.Port, []byte) (int, error)
		at   []time.Duration
		n    int
		took time.Duration
	}{
		{"whole, in time", full(100 * ms), []time.Duration{40 * ms, 80 * ms, 99 * ms}, 3, 99 * ms},
		{"whole, late", full(100 * ms), []time.Duration{40 * ms, 80 * ms, 101 * ms}, 2, 100 * ms},
		{"whole, no limit", full(0), []time.Duration{time.Hour, 2 * time.Hour, 2 * time.Hour}, 3, 2 * time.Hour},
		{"whole, nothing", full(100 * ms), nil, 0, 100 * ms},
		{"each, in time", chars(100*ms, 20*ms), []time.Duration{99 * ms, 118 * ms, 137 * ms}, 3, 137 * ms},
		{"each, first late", chars(100*ms, 200*ms), []time.Duration{101 * ms, 102 * ms, 103 * ms}, 0, 100 * ms},
		{"each, third late", chars(100*ms, 20*ms), []time.Duration{50 * ms, 60 * ms, 81 * ms}, 2, 80 * ms},
	} {
		t.Run(c.what, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				plugged := serialtest.Plug(paced(c.at...))
				defer plugged.Unplug()
				port, err := serial.Open(t.Context(), reader.Device{Link: plugged}, mode)
				if err != nil {
					t.Fatal(err)
				}
				defer port.Close()
				if err := port.Write(t.Context(), []byte{0}); err != nil {
					t.Fatal(err)
				}
				began := time.Now()
				n, err := c.read(t.Context(), port, make([]byte, 3))
				if d := time.Since(began); n != c.n || (n == 3) != (err == nil) || err != nil && !errors.Is(err, serial.ErrTimeout) || d != c.took {
					t.Errorf("%d characters, %v, after %v; want %d after %v", n, err, d, c.n, c.took)
				}
			})
		})
	}
}

func TestOpenNeedsALine(t *testing.T) {
	if _, err := serial.Open(t.Context(), reader.Device{Driver: "d", Address: "a"}, mode); !errors.Is(err, reader.ErrInvalid) {
		t.Error(err)
	}
}
