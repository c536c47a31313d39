package sim

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/cardfs/cardfs/reader"
	"github.com/cardfs/cardfs/reader/core"
)

// A replugged reader is announced under the same identity with a new link. By the link the
// core knows that the unplugged reader is gone.
func TestReplug(t *testing.T) {
	d, h := New(), new(host)
	dev, _ := d.Attach(reader.Device{Driver: "sim", Address: "t1"})
	dev.Host = h
	do := func(words string) {
		t.Helper()
		if err := d.Command(context.Background(), dev, strings.Fields(words)); err != nil {
			t.Fatal(err)
		}
	}
	r, err := d.Open(context.Background(), dev)
	if err != nil {
		t.Fatal(err)
	}
	do("unplug")
	<-r.Gone()
	<-dev.Link.(*plug).Gone()
	if _, err := r.Slots()[0].Status(context.Background()); !errors.Is(err, reader.ErrGone) {
		t.Error(err)
	}
	do("plug")
	if h.count() != 1 || h.heard[0].Serial != dev.Serial || h.heard[0].Address != dev.Address || h.heard[0].Link == dev.Link {
		t.Fatalf("announced %+v", h.heard)
	}
	if err := r.Close(); err != nil {
		t.Error(err)
	}
	// Unplugged before it was opened.
	do("unplug")
	for _, stale := range []reader.Device{dev, h.heard[0]} {
		if _, err := d.Open(context.Background(), stale); !errors.Is(err, reader.ErrGone) {
			t.Error(err)
		}
	}
	do("plug")
	// A reader that was closed while plugged in can be opened again, with its card unchanged.
	for range 2 {
		r, err := d.Open(context.Background(), h.heard[1])
		if err != nil {
			t.Fatal(err)
		}
		if now, err := r.Slots()[0].Status(context.Background()); now != reader.Present || err != nil {
			t.Error(now, err)
		}
		r.Close()
	}
	h.heard[1].Link.(*plug).Detached()
	if err := d.Command(context.Background(), dev, []string{"plug"}); err == nil || !strings.Contains(err.Error(), "was detached; attach it again") {
		t.Error(err)
	}
	if again, _ := d.Attach(reader.Device{Driver: "sim", Address: "t1"}); again.Serial != dev.Serial {
		t.Errorf("attached again as %s, was %s", again.Serial, dev.Serial)
	}
}

// Through the core, plugged and unplugged as fast as ctl accepts it. The reader keeps its
// number, and works in the end.
func TestReplugStorm(t *testing.T) {
	before := goleak.IgnoreCurrent()
	d := New()
	m := core.NewManager(core.Options{Drivers: []reader.Driver{d}})
	for _, line := range []string{"attach sim t1", "attach sim ikey3k start=2ms", "attach sim char-t0"} {
		ctl(t, m, line)
	}
	for i := range 200 {
		for n := range 3 {
			ctl(t, m, fmt.Sprintf("sim %d unplug", n))
			if i%3 == 0 {
				time.Sleep(time.Duration(i) * 10 * time.Microsecond)
			}
			ctl(t, m, fmt.Sprintf("sim %d plug", n))
		}
	}
	for n := range 3 {
		// The last plug may have to wait until the core has closed the previous reader.
		for end := time.Now().Add(time.Minute); ; time.Sleep(time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("slot %d does not come back", n)
			}
			slot := m.Slot(n)
			if slot == nil {
				continue
			}
			s, err := slot.Open(context.Background(), core.Caller{Owner: t, Wait: true})
			if errors.Is(err, reader.ErrGone) {
				continue
			}
			if err != nil {
				t.Fatalf("slot %d: %v", n, err)
			}
			if got := transmit(t, s, "00A4000C023F00"); got != "90 00" {
				t.Errorf("slot %d: %s", n, got)
			}
			break
		}
	}
	m.Close(t.Context())
	goleak.VerifyNone(t, before)
}

// Written data survives unplugging; access granted by a PIN does not.
func TestStateAcrossReplug(t *testing.T) {
	m, _ := manager(t)
	ctl(t, m, "attach sim ikey3k")
	s := open(t, m, 0)
	transmit(t, s, "00D6810002AABB")
	transmit(t, s, "00200001 04 31323334")
	ctl(t, m, "sim 0 unplug")
	<-s.Slot().Done()
	ctl(t, m, "sim 0 plug")
	for m.Slot(0) == nil {
		runtime.Gosched()
	}
	s = open(t, m, 0)
	if got := transmit(t, s, "00B0810002"); got != "AA BB 90 00" {
		t.Error(got)
	}
	if got := transmit(t, s, "00200001"); got != "63 C3" {
		t.Error(got)
	}
}
