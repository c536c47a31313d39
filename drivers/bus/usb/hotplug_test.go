package usb_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/cardfs/cardfs/drivers/bus/usb"
	"github.com/cardfs/cardfs/drivers/bus/usb/usbip"
	"github.com/cardfs/cardfs/reader"
	"github.com/cardfs/cardfs/tests/vm/machine"
)

// idDriver only has IDs.
type idDriver struct {
	name string
	ids  []reader.ID
}

func (d idDriver) Name() string          { return d.name }
func (d idDriver) IDs() []reader.ID      { return d.ids }
func (d idDriver) CountSlots([]byte) int { return 2 }
func (d idDriver) Open(context.Context, reader.Device) (reader.Reader, error) {
	return nil, reader.ErrUnsupported
}

var (
	loopDriver = idDriver{"loop", []reader.ID{{Vendor: 0x1209, Product: 0x0001, Model: "a loop"}}}
	ccidDriver = idDriver{"ccid", []reader.ID{{Class: 0x0B, Model: "CCID reader"}}}
)

// host collects what is announced.
type host struct {
	mu   sync.Mutex
	all  []reader.Device
	news chan reader.Device
}

func newHost() *host { return &host{news: make(chan reader.Device, 1000)} }

func (h *host) Announce(d reader.Device) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.all = append(h.all, d)
	h.news <- d
	return nil
}

func (h *host) count() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.all)
}

// next waits for the next announcement.
func (h *host) next(t *testing.T) reader.Device {
	t.Helper()
	select {
	case d := <-h.news:
		return d
	case <-time.After(patience):
		t.Fatal("nothing is announced")
		panic("unreachable")
	}
}

func awaitGone(t *testing.T, d reader.Device) {
	t.Helper()
	select {
	case <-d.Link.(interface{ Gone() <-chan struct{} }).Gone():
	case <-time.After(patience):
		t.Fatalf("%s does not leave", d.Address)
	}
}

func isGone(d reader.Device) bool {
	select {
	case <-d.Link.(interface{ Gone() <-chan struct{} }).Gone():
		return true
	default:
		return false
	}
}

func logger(t *testing.T) *slog.Logger {
	return slog.New(slog.NewTextHandler(t.Output(), nil))
}

func watch(t *testing.T, drivers ...reader.Driver) (*usb.Watcher, *host) {
	t.Helper()
	h := newHost()
	w, err := usb.Watch(t.Context(), h, drivers, logger(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.Close() })
	return w, h
}

// What is there at start is announced before Watch returns, what comes later as
// it comes; each leaves once.
func TestUSBHotplug(t *testing.T) {
	machine.NeedGuest(t)
	early := newLoop()
	early.serial = "early"
	plug(t, early)
	find(t, early.serial)
	_, h := watch(t, loopDriver, ccidDriver)
	if h.count() != 1 {
		t.Fatalf("%d devices announced at start, want 1", h.count())
	}
	d := h.next(t)
	if d.Driver != "loop" || d.Bus != "usb" || d.Address != "usb:"+d.Port || d.Serial != "early" || d.Slots != 2 ||
		d.ID != (reader.ID{Vendor: 0x1209, Product: 1, Model: "a loop"}) {
		t.Errorf("announced %+v", d)
	}
	for i := range 5 {
		l := newLoop()
		l.serial = fmt.Sprintf("late-%d", i)
		begin := time.Now()
		port := plug(t, l)
		d := h.next(t)
		came := time.Since(begin)
		if d.Serial != l.serial {
			t.Fatalf("announced %+v, want serial number %s", d, l.serial)
		}
		// At once: the kernel may not have configured the device yet.
		c, err := usb.Open(t.Context(), d, 0)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.Out(t.Context(), bulkOut, pattern(3), false, patience); err != nil {
			t.Error(err)
		}
		opened := time.Since(begin)
		begin = time.Now()
		if err := port.Unplug(); err != nil {
			t.Error(err)
		}
		<-c.Gone()
		connGone := time.Since(begin)
		awaitGone(t, d)
		t.Logf("announced after %v, used after %v; gone after %v by the connection, %v by the watcher", came, opened, connGone, time.Since(begin))
		c.Close()
		if _, err := usb.Open(t.Context(), d, 0); !errors.Is(err, reader.ErrGone) {
			t.Errorf("open what has left: %v", err)
		}
	}
	if isGone(d) || h.count() != 6 {
		t.Errorf("the first device has left, or %d were announced, want 6", h.count())
	}
}

// QEMU's reader is found by its class, a keyboard is not.
func TestUSBHotplugClass(t *testing.T) {
	g := machine.NeedGuest(t)
	ctx := t.Context()
	_, h := watch(t, loopDriver, ccidDriver)
	if err := machine.Plug(ctx, g, "keyboard", "kbd"); err != nil {
		t.Fatal(err)
	}
	defer machine.Unplug(ctx, g, "kbd")
	for range 3 {
		begin := time.Now()
		if err := machine.Plug(ctx, g, "ccid", "r1"); err != nil {
			t.Fatal(err)
		}
		d := h.next(t)
		if d.Driver != "ccid" || d.ID.Vendor != 0x08E6 || d.ID.Product != 0x4433 || d.ID.Model != "QEMU USB CCID" {
			t.Errorf("announced %+v", d)
		}
		c, err := usb.Open(ctx, d, 0)
		if err != nil {
			t.Fatal(err)
		}
		atr := powerOn(t, c)
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
		awaitGone(t, d)
		c.Close()
	}
	if h.count() != 3 {
		t.Errorf("%d announced, want 3", h.count())
	}
}

// takeOut unplugs a device of QEMU's and waits until the kernel has seen it, so that
// the next test does not.
func takeOut(t *testing.T, g *machine.Guest, id string, d reader.Device) {
	t.Helper()
	if err := machine.Unplug(context.Background(), g, id); err != nil {
		t.Error(err)
	}
	awaitGone(t, d)
}

// powerOn activates the card of a CCID reader: PC_to_RDR_IccPowerOn, then
// RDR_to_PC_DataBlock (CCID 1.1 §6.1.1, §6.2.1).
func powerOn(t *testing.T, c usb.Conn) []byte {
	t.Helper()
	in, out := bulkEndpoints(c)
	for seq := byte(0); ; seq++ {
		if _, err := c.Out(t.Context(), out, []byte{0x62, 0, 0, 0, 0, 0, seq, 0, 0, 0}, false, patience); err != nil {
			t.Fatal(err)
		}
		p := make([]byte, 271)
		n, err := c.In(t.Context(), in, p, patience)
		if err != nil || n < 10 || p[0] != 0x80 || p[6] != seq {
			t.Fatalf("IccPowerOn: % X, %v", p[:n], err)
		}
		if p[7]&0xC0 == 0 {
			return p[10:n]
		}
		if seq == 50 {
			t.Fatalf("IccPowerOn: no card: % X", p[:n])
		}
		time.Sleep(20 * time.Millisecond) // the emulated card comes by itself
	}
}

func bulkEndpoints(c usb.Conn) (in, out uint8) {
	for _, e := range usb.Interfaces(c.Descriptors())[0].Endpoints {
		if e.Attributes&3 == 2 && e.Address&0x80 != 0 {
			in = e.Address
		} else if e.Attributes&3 == 2 {
			out = e.Address
		}
	}
	return in, out
}

// Many at once, and gone at once, none is missed: more than the socket holds.
func TestUSBHotplugStorm(t *testing.T) {
	machine.NeedGuest(t)
	_, h := watch(t, loopDriver)
	const n = 14
	var ports []*usbip.Port
	for i := range n {
		l := newLoop()
		l.serial = fmt.Sprintf("storm-%d", i)
		ports = append(ports, plug(t, l))
	}
	var all []reader.Device
	for range n {
		all = append(all, h.next(t))
	}
	for _, p := range ports {
		go p.Unplug()
	}
	for _, d := range all {
		awaitGone(t, d)
	}
	seen := map[string]bool{}
	for _, d := range all {
		if seen[d.Serial] {
			t.Errorf("%s announced twice", d.Serial)
		}
		seen[d.Serial] = true
	}
}

// Where no uevents come, changes of /dev/bus/usb tell.
func TestUSBHotplugWithoutUevents(t *testing.T) {
	machine.NeedGuest(t)
	h := newHost()
	w, err := usb.WatchWithoutUevents(t.Context(), h, []reader.Driver{loopDriver}, logger(t))
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	for range 3 {
		port := plug(t, newLoop())
		d := h.next(t)
		c, err := usb.Open(t.Context(), d, 0)
		if err != nil {
			t.Fatal(err)
		}
		port.Unplug()
		awaitGone(t, d)
		c.Close()
	}
}

// A reset changes nothing for the watcher.
func TestUSBHotplugReset(t *testing.T) {
	machine.NeedGuest(t)
	_, h := watch(t, loopDriver)
	l := newLoop()
	l.serial = "reset"
	plug(t, l)
	d := h.next(t)
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
	if _, err := c.Out(t.Context(), bulkOut, pattern(3), false, patience); err != nil {
		t.Error(err)
	}
	if isGone(d) || h.count() != 1 {
		t.Errorf("after resets: gone %v, announced %d times", isGone(d), h.count())
	}
}

// A device that another program has is announced anew by a rescan, so that it
// is tried again.
func TestUSBHotplugRescan(t *testing.T) {
	machine.NeedGuest(t)
	l := newLoop()
	l.serial = "busy"
	plug(t, l)
	other, err := usb.OpenPath(find(t, l.serial), 0)
	if err != nil {
		t.Fatal(err)
	}
	w, h := watch(t, loopDriver)
	d := h.next(t)
	if _, err := usb.Open(t.Context(), d, 0); !errors.Is(err, reader.ErrClaimed) {
		t.Errorf("%v, want ErrClaimed", err)
	}
	other.Close()
	w.Rescan()
	awaitGone(t, d)
	d = h.next(t)
	c, err := usb.Open(t.Context(), d, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	w.Rescan()
	if isGone(d) || h.count() != 2 {
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
	loopDesc := loopDescriptors(0)
	other := slices.Clone(loopDesc)
	other[8]++
	ccid := slices.Clone(other)
	ccid[18+9+5] = 0x0B
	put("3-1", 5, loopDesc)
	put("3-2.1", 6, other)
	put("3-2.2", 7, loopDesc[:20])
	put("3-1:1.0", 0, nil)
	put("3-4", 9, ccid)

	h := newHost()
	w := usb.NewTestWatcher(h, []reader.Driver{ccidDriver, loopDriver}, sys)
	step := func(what string, want ...string) []reader.Device {
		t.Helper()
		w.Rescan()
		var all []reader.Device
		var got []string
		for len(h.news) > 0 {
			d := <-h.news
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
	if !isGone(first[0]) && !isGone(first[1]) {
		t.Error("the one before has not left")
	}
	if err := os.RemoveAll(filepath.Join(sys, "3-4")); err != nil {
		t.Fatal(err)
	}
	step("one less")
	if !isGone(first[0]) || !isGone(first[1]) {
		t.Error("it has not left")
	}
}
