package usbtest

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cardfs/cardfs/drivers/bus/usb"
)

// A line without a time has 30 s, and what the device was seen to take on top ("held with a
// duration, for which the device did not answer"); one with a time has that alone. The device here
// never answers.
func TestReplayTimeouts(t *testing.T) {
	for _, tt := range []struct {
		line string
		want time.Duration
	}{
		{"IN 83 0008 | timeout", 30 * time.Second},
		{"IN 83 0008 held 5s | timeout", 35 * time.Second},
		{"IN 83 0008 2s | timeout", 2 * time.Second},
		{"IN 83 0008 2s held 1s | timeout", 2 * time.Second},
		{"IN C0 04 0000 0000 0001 | timeout", 30 * time.Second},
		{"IN C0 04 0000 0000 0001 held 90s | timeout", 2 * time.Minute},
		{"IN C0 04 0000 0000 0001 1m | timeout", time.Minute},
		{"OUT 02 | 00 timeout", 30 * time.Second},
		{"OUT 02 held 1s | 00 timeout", 31 * time.Second},
		{"wait 7s", 7 * time.Second},
	} {
		synctest.Test(t, func(t *testing.T) {
			m := newMirror()
			defer m.Unplug()
			m.Hold(2, true)
			start := time.Now()
			Replay(t, parse(t, tt.line), m.Plug(), nil)
			if got := time.Since(start); got != tt.want {
				t.Errorf("%s: after %v, want %v", tt.line, got, tt.want)
			}
		})
	}
}

// Replay fails when the device deviates, or when nobody performs the event. It then sends no
// more.
func TestReplayComplains(t *testing.T) {
	for text, want := range map[string]string{
		"IN C0 02 0000 0000 0002 | 01 02\nreset": "line 1\ngot  IN C0 02 0000 0000 0002 | 01 03\nwant IN C0 02 0000 0000 0002 | 01 02",
		"\n* nobody's\nreset":                    `line 2: nothing does "nobody's"`,
		"claim 2\nreset":                         "line 1\ngot  claim 2\nwant claim 2",
	} {
		c := &complaints{TB: t}
		m := newMirror()
		m.stored = []byte{1, 3}
		Replay(c, parse(t, text), m.Plug(), nil)
		if len(c.list) != 1 || c.list[0] != want || m.resets != 0 {
			t.Errorf("%q: %q, want %q; %d resets", text, c.list, want, m.resets)
		}
		if len(m.port.claims) != 0 {
			t.Errorf("%q: claims are left: %v", text, m.port.claims)
		}
		m.Unplug()
	}
}

// The host asks for as much as the line says. Without a length in the line, it asks an IN
// endpoint for any length and the default pipe for wLength.
func TestReplayAsks(t *testing.T) {
	m := newMirror()
	defer m.Unplug()
	var log Log
	m.Observe(log.Add)
	m.stored = []byte{1}
	s := parse(t, "OUT 02 | 01 02\nIN 81 | 01 02\nOUT 02 | 01 02\nIN 81 0007 | 01 02\nIN C0 02 0000 0000 0009 | 01")
	Replay(t, s, m.Plug(), nil)
	var got []int
	for _, l := range log.Session() {
		if l.Kind == Transfer && l.In {
			got = append(got, l.Asked)
		}
	}
	if len(got) != 3 || got[0] != 1<<16 || got[1] != 7 || got[2] != 9 {
		t.Errorf("asked for %d", got)
	}
	// A session without a claim claims the first interface, once, and releases it at the end.
	claims := 0
	for _, l := range log.Session() {
		if l.Kind == Claim {
			claims++
			if l.Endpoint != 0 {
				t.Errorf("%v", l)
			}
		}
	}
	if claims != 1 || len(m.port.claims) != 0 {
		t.Errorf("claimed %d times, left %v", claims, m.port.claims)
	}
}

// A player's transfer takes the time of its line, but no longer than the host's time-out.
func TestPlayerHolds(t *testing.T) {
	for _, tt := range []struct {
		line string
		give time.Duration
		want time.Duration
		n    int
		err  error
	}{
		{"IN 83 held 3s | 01", 0, 3 * time.Second, 1, nil},
		{"IN 83 held 3s | 01", 4 * time.Second, 3 * time.Second, 1, nil},
		{"IN 83 held 3s | 01", 3 * time.Second, 3 * time.Second, 1, nil},
		{"IN 83 held 3s | 01", 2 * time.Second, 2 * time.Second, 0, usb.ErrTimeout},
		{"IN 83 | timeout", 2 * time.Second, 2 * time.Second, 0, usb.ErrTimeout},
		{"IN 83 held 1s | timeout", 2 * time.Second, 2 * time.Second, 0, usb.ErrTimeout},
		{"IN 83 | 01", time.Second, 0, 1, nil},
		{"IN 83 | stall", time.Second, 0, 0, usb.ErrStall},
		{"IN 83 | 01 02 03 04 05 06 07 08", time.Second, 0, 8, nil},
		{"IN 83 | 01 02 03 04 05 06 07 08 09", time.Second, 0, 0, usb.ErrOverflow},
	} {
		synctest.Test(t, func(t *testing.T) {
			p := NewPlayer(t, parse(t, tt.line))
			start := time.Now()
			n, err := p.In(ctx, 0x83, make([]byte, 8), tt.give)
			if got := time.Since(start); n != tt.n || !errors.Is(err, tt.err) || got != tt.want {
				t.Errorf("%s, given %v: %d, %v after %v, want %d, %v after %v", tt.line, tt.give, n, err, got, tt.n, tt.err, tt.want)
			}
		})
	}
	synctest.Test(t, func(t *testing.T) { // the host gives up, and the session continues
		p := NewPlayer(t, parse(t, "IN 83 held 1m | 01\nreset"))
		short, cancel := context.WithTimeout(ctx, time.Second)
		defer cancel()
		if n, err := p.In(short, 0x83, make([]byte, 8), 0); n != 0 || err != context.DeadlineExceeded {
			t.Errorf("%d, %v", n, err)
		}
		if err := p.Reset(ctx); err != nil {
			t.Error(err)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		c := &complaints{TB: t}
		p := NewPlayer(c, parse(t, "IN 83 | timeout"))
		if n, err := p.In(ctx, 0x83, make([]byte, 8), 0); n != 0 || !errors.Is(err, usb.ErrBus) || len(c.list) != 1 {
			t.Errorf("%d, %v, %q: a time-out cannot come where the host gives none", n, err, c.list)
		}
	})
	// An OUT transfer without a time waits up to a minute for the host's other transfer.
	synctest.Test(t, func(t *testing.T) {
		c := &complaints{TB: t}
		p := NewPlayer(c, parse(t, "IN 83 | 01\nOUT 02 | 01"))
		start := time.Now()
		if n, err := p.Out(ctx, 2, []byte{1}, false, 0); n != 0 || !errors.Is(err, usb.ErrBus) || time.Since(start) != time.Minute || len(c.list) != 1 {
			t.Errorf("%d, %v after %v, %q", n, err, time.Since(start), c.list)
		}
		if _, err := p.In(ctx, 0x83, make([]byte, 8), 0); !errors.Is(err, usb.ErrBus) || len(c.list) != 1 {
			t.Errorf("afterwards: %v, %q", err, c.list)
		}
		c.end()
		if len(c.list) != 1 {
			t.Errorf("complains twice: %q", c.list)
		}
	})
	// The host's pause lasts at least as long as the line says.
	for pause, ok := range map[time.Duration]bool{0: false, time.Second - 1: false, time.Second: true, time.Minute: true} {
		synctest.Test(t, func(t *testing.T) {
			c := &complaints{TB: t}
			p := NewPlayer(c, parse(t, "wait 1s\nreset"))
			time.Sleep(pause)
			if err := p.Reset(ctx); err != nil || (len(c.list) == 0) != ok {
				t.Errorf("after %v: %v, %q", pause, err, c.list)
			}
			c.end()
		})
	}
}

// A full last packet followed by an empty one is zlp. The packet size is the endpoint's.
func TestPlayerZLP(t *testing.T) {
	for _, tt := range []struct {
		n   int
		zlp bool
	}{{8, true}, {16, true}, {7, false}, {9, false}, {0, false}} {
		c := &complaints{TB: t}
		line := Line{Kind: Transfer, Endpoint: 2, ZLP: tt.zlp, Data: make([]byte, tt.n)}
		small := append([]byte(nil), mirrorDescriptors...)
		small[18+9+9+4] = 8
		p := NewPlayer(c, Session{line}).Describe(small)
		if n, err := p.Out(ctx, 2, make([]byte, tt.n), true, 0); n != tt.n || err != nil || len(c.list) != 0 {
			t.Errorf("%d bytes: %d, %v, %q", tt.n, n, err, c.list)
		}
		c.end()
	}
}
