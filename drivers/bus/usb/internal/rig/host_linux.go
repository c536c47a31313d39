package rig

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cardfs/cardfs/drivers/bus/usb"
	"github.com/cardfs/cardfs/drivers/bus/usb/hotplug"
	"github.com/cardfs/cardfs/reader"
	"github.com/cardfs/cardfs/tests/vm/machine"
)

// Timeout is longer than anything here takes, however busy the machine is.
const Timeout = 30 * time.Second

// Driver is a driver that has IDs but opens nothing.
type Driver struct {
	Called string
	Has    []reader.ID
}

func (d Driver) Name() string          { return d.Called }
func (d Driver) IDs() []reader.ID      { return d.Has }
func (d Driver) CountSlots([]byte) int { return 2 }
func (d Driver) Open(context.Context, reader.Device) (reader.Reader, error) {
	return nil, reader.ErrUnsupported
}

var (
	LoopDriver     = Driver{"loop", []reader.ID{{Vendor: 0x1209, Product: 0x0001, Model: "a loop"}}}
	CCIDDriver     = Driver{"ccid", []reader.ID{{Class: 0x0B, Model: "CCID reader"}}}
	KeyboardDriver = Driver{"keyboard", []reader.ID{{Vendor: 0x0627, Product: 0x0001}}} // QEMU's
)

// Host collects announced devices. Its lock is a leaf.
type Host struct {
	mu   sync.Mutex
	all  []reader.Device
	News chan reader.Device
}

func NewHost() *Host { return &Host{News: make(chan reader.Device, 1000)} }

func (h *Host) Announce(d reader.Device) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.all = append(h.all, d)
	h.News <- d
	return nil
}

// Count returns the number of announced devices.
func (h *Host) Count() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.all)
}

// Next waits for the next announcement.
func (h *Host) Next(t *testing.T) reader.Device {
	t.Helper()
	select {
	case d := <-h.News:
		return d
	case <-time.After(Timeout):
		t.Fatal("nothing is announced")
		panic("unreachable")
	}
}

func gone(d reader.Device) <-chan struct{} {
	return d.Link.Gone()
}

// AwaitGone waits until an announced device has left.
func AwaitGone(t *testing.T, d reader.Device) {
	t.Helper()
	select {
	case <-gone(d):
	case <-time.After(Timeout):
		t.Fatalf("%s does not leave", d.Address)
	}
}

// IsGone reports whether an announced device has left.
func IsGone(d reader.Device) bool {
	select {
	case <-gone(d):
		return true
	default:
		return false
	}
}

// Logger logs to the test.
func Logger(t *testing.T) *slog.Logger {
	return slog.New(slog.NewTextHandler(t.Output(), nil))
}

// Watch starts a watcher for the devices of these drivers. It ends with the test.
func Watch(t *testing.T, open usb.Transport, drivers ...reader.Driver) (*hotplug.Watcher, *Host) {
	t.Helper()
	h := NewHost()
	w := hotplug.New(open, Logger(t))
	if err := w.Watch(t.Context(), h, drivers); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.Close() })
	return w, h
}

// TakeOut unplugs a device of QEMU and waits until the kernel has noticed, so that the
// next test does not meet it.
func TakeOut(t *testing.T, g *machine.Guest, id string, d reader.Device) {
	t.Helper()
	if err := machine.Unplug(context.Background(), g, id); err != nil {
		t.Error(err)
	}
	AwaitGone(t, d)
}

// PowerOn activates the card of a CCID reader: PC_to_RDR_IccPowerOn, then
// RDR_to_PC_DataBlock (CCID 1.1 §6.1.1, §6.2.1). It returns the ATR.
func PowerOn(t *testing.T, c usb.Conn) []byte {
	t.Helper()
	in, out := BulkEndpoints(c)
	for seq := byte(0); ; seq++ {
		if _, err := c.Out(t.Context(), out, []byte{0x62, 0, 0, 0, 0, 0, seq, 0, 0, 0}, false, Timeout); err != nil {
			t.Fatal(err)
		}
		p := make([]byte, 271)
		n, err := c.In(t.Context(), in, p, Timeout)
		if err != nil || n < 10 || p[0] != 0x80 || p[6] != seq {
			t.Fatalf("IccPowerOn: % X, %v", p[:n], err)
		}
		if p[7]&0xC0 == 0 {
			return p[10:n]
		}
		if seq == 50 {
			t.Fatalf("IccPowerOn: no card: % X", p[:n])
		}
		time.Sleep(20 * time.Millisecond) // the emulated card appears by itself
	}
}

// BulkEndpoints returns those of the first interface.
func BulkEndpoints(c usb.Conn) (in, out uint8) {
	for _, e := range usb.Interfaces(c.Descriptors())[0].Endpoints {
		if e.Attributes&3 == 2 && e.Address&0x80 != 0 {
			in = e.Address
		} else if e.Attributes&3 == 2 {
			out = e.Address
		}
	}
	return in, out
}

// Find waits for the device with this serial number and returns its place.
func Find(t *testing.T, serial string) usb.Place {
	t.Helper()
	for end := time.Now().Add(Timeout); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		dirs, _ := filepath.Glob("/sys/bus/usb/devices/*/serial")
		for _, f := range dirs {
			if b, _ := os.ReadFile(f); strings.TrimSpace(string(b)) == serial {
				d := filepath.Dir(f)
				// Interfaces come after the attributes.
				if ifs, _ := filepath.Glob(d + "/*:*"); len(ifs) == 0 {
					continue
				}
				return place(d)
			}
		}
	}
	t.Fatalf("no device with serial number %q appeared", serial)
	panic("unreachable")
}

// place reads sysfs as the watcher does.
func place(dir string) usb.Place {
	at := usb.Place{Name: "usb:test", Bus: Number(dir, "busnum"), Number: Number(dir, "devnum"), Config: uint8(Number(dir, "bConfigurationValue"))}
	at.Path = fmt.Sprintf("/dev/bus/usb/%03d/%03d", at.Bus, at.Number)
	all, _ := os.ReadFile(filepath.Join(dir, "descriptors"))
	at.Descriptors, _ = usb.ActiveDescriptors(all, at.Config)
	return at
}

// Number reads a number from sysfs.
func Number(dir, attr string) (n int) {
	b, _ := os.ReadFile(filepath.Join(dir, attr))
	fmt.Sscan(string(b), &n)
	return n
}
