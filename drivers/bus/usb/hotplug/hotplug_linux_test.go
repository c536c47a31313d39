package hotplug_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/cardfs/cardfs/drivers/bus/usb"
	"github.com/cardfs/cardfs/drivers/bus/usb/hotplug"
	"github.com/cardfs/cardfs/drivers/bus/usb/internal/rig"
	"github.com/cardfs/cardfs/drivers/bus/usb/usbip"
	"github.com/cardfs/cardfs/reader"
	"github.com/cardfs/cardfs/tests/vm/machine"
)

// The watcher's tests need a kernel with USB.
func TestInMachine(t *testing.T) { machine.RunSelf(t, "^TestUSB", machine.Config{}) }

// Devices present at the start are announced before Watch returns, later ones as they
// arrive. Each leaves once.
func TestUSBHotplug(t *testing.T) {
	machine.NeedGuest(t)
	early := rig.NewLoop()
	early.Serial = "early"
	rig.Plug(t, early)
	rig.Find(t, early.Serial)
	_, h := rig.Watch(t, usb.Usbfs, rig.LoopDriver, rig.CCIDDriver)
	if h.Count() != 1 {
		t.Fatalf("%d devices announced at start, want 1", h.Count())
	}
	d := h.Next(t)
	if d.Driver != "loop" || d.Bus != "usb" || d.Address != "usb:"+d.Port || d.Serial != "early" || d.Slots != 2 ||
		d.ID != (reader.ID{Vendor: 0x1209, Product: 1, Model: "a loop"}) {
		t.Errorf("announced %+v", d)
	}
	for i := range 5 {
		l := rig.NewLoop()
		l.Serial = fmt.Sprintf("late-%d", i)
		begin := time.Now()
		port := rig.Plug(t, l)
		d := h.Next(t)
		came := time.Since(begin)
		if d.Serial != l.Serial {
			t.Fatalf("announced %+v, want serial number %s", d, l.Serial)
		}
		// At once: the kernel may not have configured the device yet.
		c, err := usb.Open(t.Context(), d, 0)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.Out(t.Context(), rig.BulkOut, []byte{1, 2, 3}, false, rig.Timeout); err != nil {
			t.Error(err)
		}
		opened := time.Since(begin)
		begin = time.Now()
		if err := port.Unplug(); err != nil {
			t.Error(err)
		}
		<-c.Gone()
		connGone := time.Since(begin)
		rig.AwaitGone(t, d)
		t.Logf("announced after %v, used after %v; gone after %v by the connection, %v by the watcher", came, opened, connGone, time.Since(begin))
		c.Close()
		if _, err := usb.Open(t.Context(), d, 0); !errors.Is(err, reader.ErrGone) {
			t.Errorf("open what has left: %v", err)
		}
	}
	if rig.IsGone(d) || h.Count() != 6 {
		t.Errorf("the first device has left, or %d were announced, want 6", h.Count())
	}
}

// QEMU's reader is found by its class, a keyboard is not.
func TestUSBHotplugClass(t *testing.T) {
	g := machine.NeedGuest(t)
	ctx := t.Context()
	_, h := rig.Watch(t, usb.Usbfs, rig.LoopDriver, rig.CCIDDriver)
	if err := machine.Plug(ctx, g, "keyboard", "kbd"); err != nil {
		t.Fatal(err)
	}
	defer machine.Unplug(ctx, g, "kbd")
	for range 3 {
		begin := time.Now()
		if err := machine.Plug(ctx, g, "ccid", "r1"); err != nil {
			t.Fatal(err)
		}
		d := h.Next(t)
		if d.Driver != "ccid" || d.ID.Vendor != 0x08E6 || d.ID.Product != 0x4433 || d.ID.Model != "QEMU USB CCID" {
			t.Errorf("announced %+v", d)
		}
		c, err := usb.Open(ctx, d, 0)
		if err != nil {
			t.Fatal(err)
		}
		atr := rig.PowerOn(t, c)
		t.Logf("ATR % X, %v after plugging", atr, time.Since(begin))
		pending := make(chan error, 1)
		go func() {
			var err error
			for err == nil { // the card's arrival is reported first
				_, err = c.In(ctx, 0x81, make([]byte, 8), 0)
			}
			pending <- err
		}()
		begin = time.Now()
		if err := machine.Unplug(ctx, g, "r1"); err != nil {
			t.Fatal(err)
		}
		if err := <-pending; !errors.Is(err, reader.ErrGone) {
			t.Errorf("interrupt transfer at unplug: %v", err)
		}
		t.Logf("transfer ended %v after unplugging", time.Since(begin))
		rig.AwaitGone(t, d)
		c.Close()
	}
	if h.Count() != 3 {
		t.Errorf("%d announced, want 3", h.Count())
	}
}

// Many devices arrive and leave at once, more than the socket's buffer holds. None is
// missed.
func TestUSBHotplugStorm(t *testing.T) {
	machine.NeedGuest(t)
	_, h := rig.Watch(t, usb.Usbfs, rig.LoopDriver)
	const n = 14
	var ports []*usbip.Port
	for i := range n {
		l := rig.NewLoop()
		l.Serial = fmt.Sprintf("storm-%d", i)
		ports = append(ports, rig.Plug(t, l))
	}
	var all []reader.Device
	for range n {
		all = append(all, h.Next(t))
	}
	for _, p := range ports {
		go p.Unplug()
	}
	for _, d := range all {
		rig.AwaitGone(t, d)
	}
	seen := map[string]bool{}
	for _, d := range all {
		if seen[d.Serial] {
			t.Errorf("%s announced twice", d.Serial)
		}
		seen[d.Serial] = true
	}
}

// Without uevents, changes of /dev/bus/usb report the devices.
func TestUSBHotplugWithoutUevents(t *testing.T) {
	machine.NeedGuest(t)
	h := rig.NewHost()
	w, err := hotplug.WatchWithoutUevents(t.Context(), h, []reader.Driver{rig.LoopDriver}, usb.Usbfs, rig.Logger(t))
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	for range 3 {
		port := rig.Plug(t, rig.NewLoop())
		d := h.Next(t)
		c, err := usb.Open(t.Context(), d, 0)
		if err != nil {
			t.Fatal(err)
		}
		port.Unplug()
		rig.AwaitGone(t, d)
		c.Close()
	}
}

// A reset changes nothing for the watcher.
func TestUSBHotplugReset(t *testing.T) {
	machine.NeedGuest(t)
	_, h := rig.Watch(t, usb.Usbfs, rig.LoopDriver)
	l := rig.NewLoop()
	l.Serial = "reset"
	rig.Plug(t, l)
	d := h.Next(t)
	c, err := usb.Open(t.Context(), d, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for range 3 {
		if err := c.Reset(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := c.Out(t.Context(), rig.BulkOut, []byte{1, 2, 3}, false, rig.Timeout); err != nil {
		t.Error(err)
	}
	if rig.IsGone(d) || h.Count() != 1 {
		t.Errorf("after resets: gone %v, announced %d times", rig.IsGone(d), h.Count())
	}
}

// A rescan announces a device anew that another program had, so that it is tried again.
func TestUSBHotplugRescan(t *testing.T) {
	machine.NeedGuest(t)
	l := rig.NewLoop()
	l.Serial = "busy"
	rig.Plug(t, l)
	other, err := usb.Usbfs(rig.Find(t, l.Serial), 0)
	if err != nil {
		t.Fatal(err)
	}
	w, h := rig.Watch(t, usb.Usbfs, rig.LoopDriver)
	d := h.Next(t)
	if _, err := usb.Open(t.Context(), d, 0); !errors.Is(err, reader.ErrClaimed) {
		t.Errorf("%v, want ErrClaimed", err)
	}
	other.Close()
	w.Rescan()
	rig.AwaitGone(t, d)
	d = h.Next(t)
	c, err := usb.Open(t.Context(), d, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	w.Rescan()
	if rig.IsGone(d) || h.Count() != 2 {
		t.Error("a rescan disturbs a device that is in use")
	}
}

// The table of a container: a made-up sysfs.
func TestHotplugScan(t *testing.T) {
	sys := t.TempDir()
	put := func(name string, devnum int, desc []byte) {
		d := filepath.Join(sys, name)
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
		for k, v := range map[string]string{
			"busnum": "3\n", "devnum": fmt.Sprintf("%d\n", devnum), "descriptors": string(desc),
			"bConfigurationValue": "1\n", "product": "thing\n", "manufacturer": "maker\n",
		} {
			if err := os.WriteFile(filepath.Join(d, k), []byte(v), 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	loopDesc := rig.LoopDescriptors(0)
	other := slices.Clone(loopDesc)
	other[8]++
	ccid := slices.Clone(other)
	ccid[18+9+5] = 0x0B
	put("3-1", 5, loopDesc)
	put("3-2.1", 6, other)
	put("3-2.2", 7, loopDesc[:20])
	put("3-1:1.0", 0, nil)
	put("3-4", 9, ccid)

	h := rig.NewHost()
	w := hotplug.NewTestWatcher(h, []reader.Driver{rig.CCIDDriver, rig.LoopDriver}, sys)
	step := func(what string, want ...string) []reader.Device {
		t.Helper()
		w.Rescan()
		var all []reader.Device
		var got []string
		for len(h.News) > 0 {
			d := <-h.News
			all = append(all, d)
			got = append(got, d.Address+" "+d.Driver+" "+d.ID.Model)
		}
		slices.Sort(got)
		if !slices.Equal(got, want) {
			t.Errorf("%s: announced %q, want %q", what, got, want)
		}
		return all
	}
	first := step("at first", "usb:3-1 loop a loop", "usb:3-4 ccid maker thing")
	step("nothing new")
	put("3-1", 8, loopDesc)
	step("another in the same port", "usb:3-1 loop a loop")
	if !rig.IsGone(first[0]) && !rig.IsGone(first[1]) {
		t.Error("the one before has not left")
	}
	if err := os.RemoveAll(filepath.Join(sys, "3-4")); err != nil {
		t.Fatal(err)
	}
	step("one less")
	if !rig.IsGone(first[0]) || !rig.IsGone(first[1]) {
		t.Error("it has not left")
	}
}
