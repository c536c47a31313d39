package usbtest

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cardfs/cardfs/drivers/bus/usb"
	"github.com/cardfs/cardfs/reader"
)

// Once the device is unplugged everything ends with reader.ErrGone. That does not deviate
// from the session.
func TestPlayerGone(t *testing.T) {
	do := func(c usb.Conn) map[string]error {
		all := map[string]error{"reset": c.Reset(ctx), "clear": c.ClearHalt(ctx, 0x81)}
		_, all["IN"] = c.In(ctx, 0x81, make([]byte, 8), time.Second)
		_, all["OUT"] = c.Out(ctx, 2, []byte{1}, false, time.Second)
		_, all["control"] = c.Control(ctx, usb.Setup{RequestType: 0xC0}, make([]byte, 8), time.Second)
		return all
	}
	p := NewPlayer(t, parse(t, "claim 0\nreset\nunplug"))
	c, err := p.OpenUSB(ctx, 0)
	if err != nil {
		t.Fatal(err)
	}
	select {
	case <-c.Gone():
		t.Error("gone before it is unplugged")
	default:
	}
	if err := c.Reset(ctx); err != nil {
		t.Error(err)
	}
	<-c.Gone()
	for what, err := range do(c) {
		if err != reader.ErrGone {
			t.Errorf("%s: %v, want ErrGone", what, err)
		}
	}
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	// The session's lines for these transfers are consumed.
	p = NewPlayer(t, parse(t, "unplug\nIN 81 | gone\nOUT 02 | 01 gone"))
	for range 2 {
		for what, err := range do(p) {
			if err != reader.ErrGone {
				t.Errorf("%s: %v, want ErrGone", what, err)
			}
		}
	}
	// Even a claim that is due is refused.
	c2 := &complaints{TB: t}
	p = NewPlayer(c2, parse(t, "unplug\nclaim 0"))
	if _, err := p.OpenUSB(ctx, 0); !errors.Is(err, reader.ErrGone) {
		t.Errorf("claim: %v", err)
	}
	c2.end()
	if len(c2.list) != 1 {
		t.Errorf("%q", c2.list)
	}
}

// A waiting transfer ends when the device leaves.
func TestPlayerLeavesMeanwhile(t *testing.T) {
	for _, session := range []string{"reset\nunplug\nIN 81 | gone", "IN 81 held 1h | 01\nreset"} {
		synctest.Test(t, func(t *testing.T) {
			c := &complaints{TB: t}
			p := NewPlayer(c, parse(t, session))
			ended := make(chan error, 1)
			go func() {
				_, err := p.In(ctx, 0x81, make([]byte, 8), 0)
				ended <- err
			}()
			synctest.Wait()
			if session[0] == 'r' {
				if err := p.Reset(ctx); err != nil {
					t.Error(err)
				}
			} else {
				p.leave()
			}
			start := time.Now()
			if err := <-ended; err != reader.ErrGone || time.Since(start) != 0 {
				t.Errorf("%q: %v after %v, want ErrGone at once", session, err, time.Since(start))
			}
			p.at = len(p.lines)
			c.end()
			if len(c.list) != 0 {
				t.Errorf("%q: %q", session, c.list)
			}
		})
	}
}

// A release is expected where the session has one, once; a claim, too.
func TestPlayerClaims(t *testing.T) {
	p := NewPlayer(t, parse(t, "claim 3\nrelease 3\nreset"))
	c, err := p.OpenUSB(ctx, 3)
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
	c.Close()
	if err := p.Reset(ctx); err != nil {
		t.Error(err)
	}
	for _, session := range []string{"release 4", "claim 3"} {
		c := &complaints{TB: t}
		p := NewPlayer(c, parse(t, session))
		if session == "claim 3" {
			if _, err := p.OpenUSB(ctx, 2); !errors.Is(err, usb.ErrBus) {
				t.Errorf("%q: %v", session, err)
			}
		} else if conn, err := p.OpenUSB(ctx, 2); err != nil {
			t.Error(err)
		} else {
			conn.Close()
		}
		if len(c.list) != 1 {
			t.Errorf("%q: %q", session, c.list)
		}
		c.end()
	}
}

// The session's standard requests supply Descriptors and String, in whatever order they
// came. A failed request supplies nothing.
func TestPlayerKnows(t *testing.T) {
	const device = "IN 80 06 0100 0000 0012 | 12 01 00 02 00 00 00 40 09 12 01 00 00 01 01 02 00 01\n"
	const config = "IN 80 06 0200 0000 0009 | 09 02 09 00 00 01 00 80 32\n"
	for _, text := range []string{device + config, config + device, device + config + device + config} {
		p := NewPlayer(t, parse(t, text+"IN 80 06 0302 0409 00FF | 06 03 61 00 FC 00\nIN 80 06 0303 0409 00FF | 06 03 61 00 FC\nIN 80 06 0304 0409 00FF | stall\nIN 80 06 0200 0000 0009 | stall"))
		got := p.Descriptors()
		if len(got) != 27 || got[0] != 18 || got[18] != 9 || got[26] != 0x32 {
			t.Errorf("% X", got)
		}
		if p.String(2) != "aü" || p.String(3) != "a" || p.String(4) != "" {
			t.Errorf("strings %q, %q, %q", p.String(2), p.String(3), p.String(4))
		}
		if got[0] = 0; p.Descriptors()[0] == 0 {
			t.Error("the caller's changes are the player's")
		}
	}
}

// A claim has the endpoints of its interface, and no others.
func TestEndpointsOfClaims(t *testing.T) {
	m := newMirror()
	defer m.Unplug()
	port := m.Plug()
	for iface, endpoints := range [][]uint8{{0x02, 0x81, 0x83}, {}} {
		c := claim(t, port, uint8(iface))
		for ep := range 256 {
			ep := uint8(ep)
			want := error(usb.ErrNoEndpoint)
			for _, e := range endpoints {
				if ep&0x8F == e { // bits 6-4 are reserved
					want = nil
				}
			}
			if err := c.ClearHalt(ctx, ep); !errors.Is(err, want) {
				t.Errorf("interface %d, endpoint %02X: %v, want %v", iface, ep, err, want)
			}
			_, err := c.Out(ctx, ep, nil, false, time.Second)
			if want != nil && !errors.Is(err, want) {
				t.Errorf("interface %d, OUT %02X: %v, want %v", iface, ep, err, want)
			}
		}
	}
}
