package ccid

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cardfs/cardfs/drivers/bus/usb"
	"github.com/cardfs/cardfs/drivers/bus/usb/usbtest"
	"github.com/cardfs/cardfs/drivers/ccid/emu"
	"github.com/cardfs/cardfs/reader"
	"github.com/cardfs/cardfs/reader/core"
	"github.com/cardfs/cardfs/reader/icc"
	"github.com/cardfs/cardfs/reader/readertest"
)

// testCard echoes data, returns counting bytes and takes its time.
//
//	00 84 00 00 Le     Le bytes 00 01 02 …
//	80 EE 00 00 Lc … Le  the data
//	00 20 00 01 Lc …   keeps the data in pin
//	80 E8 00 n         takes n·100 ms
//	00 A4 …            9000
type testCard struct {
	atr []byte

	mu    sync.Mutex
	pin   []byte
	calls int
	last  []byte
	slow  time.Duration // that any command takes
}

func (c *testCard) ATR() []byte { return c.atr }
func (c *testCard) Reset(bool)  {}

func (c *testCard) Busy(capdu []byte) time.Duration {
	if len(capdu) >= 4 && capdu[1] == 0xE8 {
		return time.Duration(capdu[3]) * 100 * time.Millisecond
	}
	return c.slow
}

func (c *testCard) Incoming(cla, ins byte) bool {
	return ins == 0xEE || ins == 0x20 || ins == 0x24 || ins == 0xA4
}

func (c *testCard) Process(capdu []byte) []byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.calls++
	c.last = append(c.last[:0], capdu...)
	var data []byte
	le := 0
	switch n := len(capdu); {
	case n == 5:
		if le = int(capdu[4]); le == 0 {
			le = 256
		}
	case n > 5 && capdu[4] != 0:
		data = capdu[5 : 5+int(capdu[4])]
	case n == 7:
		if le = int(capdu[5])<<8 | int(capdu[6]); le == 0 {
			le = 65536
		}
	case n > 7:
		data = capdu[7 : 7+int(capdu[5])<<8+int(capdu[6])]
	}
	switch capdu[1] {
	case 0x84:
		r := make([]byte, le, le+2)
		for i := range r {
			r[i] = byte(i)
		}
		return append(r, 0x90, 0)
	case 0xEE:
		return append(append([]byte(nil), data...), 0x90, 0)
	case 0x20, 0x24:
		c.pin = append([]byte(nil), data...)
		return []byte{0x90, 0}
	case 0xA4, 0xE8:
		return []byte{0x90, 0}
	}
	return []byte{0x6D, 0}
}

func (c *testCard) count() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.calls
}

// ATRs and their properties.
var (
	atrT0       = unhex("3B 02 14 50")                            // T=0, default rate
	atrT0Fast   = unhex("3B 12 95 14 50")                         // T=0, F 512 D 16
	atrT1       = unhex("3B 80 81 01 00")                         // T=1, IFSC 32 by default
	atrT1IFSC   = unhex("3B 80 81 11 FE 00")                      // T=1, IFSC 254
	atrT1CRC    = unhex("3B 80 81 71 40 4D 01 7C")                // T=1 with CRC, IFSC 64
	atrT1Fast   = unhex("3B D2 96 FF 81 B1 FE 45 1F 03 41 42 2F") // T=1, F 512 D 32
	atrBoth     = unhex("3B 90 95 80 01 84")                      // T=0 and T=1, F 512 D 16
	atrSpecific = unhex("3B 90 95 91 81 11 FE 00")                // T=1, specific mode with TA1
	atrInverse  = unhex("3F 02 14 50")
)

func init() {
	for _, a := range [][]byte{atrT1, atrT1IFSC, atrT1CRC, atrBoth, atrSpecific} {
		var tck byte
		for _, b := range a[1 : len(a)-1] {
			tck ^= b
		}
		a[len(a)-1] = tck
	}
}

var unhex = readertest.Hex

// device is an emulated reader that is plugged in.
type device struct {
	*emu.Reader
	port *usbtest.Port
}

var _ usb.Opener = (*device)(nil)

func newDevice(c emu.Config) *device {
	e := emu.New(c)
	return &device{e, e.Plug()}
}

func (d *device) Gone() <-chan struct{} { return d.port.Gone() }

func (d *device) OpenUSB(ctx context.Context, iface uint8) (usb.Conn, error) {
	return d.port.OpenUSB(ctx, iface)
}

// open opens the emulator's reader with the driver alone.
func open(t *testing.T, e *device, params ...string) *ifd {
	t.Helper()
	dev := reader.Device{Driver: "ccid", Address: "emulator", Link: e, Params: map[string]string{}}
	for _, p := range params {
		k, v, _ := strings.Cut(p, "=")
		dev.Params[k] = v
	}
	r, err := Driver{}.Open(context.Background(), dev)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		r.Close()
		e.Unplug()
	})
	return r.(*ifd)
}

// bench is a reader behind the core, as programs see it.
type bench struct {
	t *testing.T
	e *device
	m *core.Manager
}

func plug(t *testing.T, cfg emu.Config, cards ...icc.Card) *bench {
	t.Helper()
	e := newDevice(cfg)
	for n, c := range cards {
		if c != nil {
			if err := e.Contact(n).Insert(c); err != nil {
				t.Fatal(err)
			}
		}
	}
	m := core.NewManager(core.Options{Drivers: []reader.Driver{Driver{}}})
	if err := m.Announce(reader.Device{Driver: "ccid", Address: "emulator", Link: e, Slots: Driver{}.CountSlots(e.Descriptors())}); err != nil {
		t.Fatal(err)
	}
	b := &bench{t, e, m}
	t.Cleanup(func() {
		m.Close(context.Background())
		e.Unplug()
	})
	return b
}

func (b *bench) session(n int) *core.Session {
	b.t.Helper()
	s, err := b.open(n)
	if err != nil {
		b.t.Fatalf("open slot %d: %v", n, err)
	}
	return s
}

func (b *bench) open(n int) (*core.Session, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	slot := b.m.Slot(n)
	if slot == nil {
		return nil, reader.ErrGone
	}
	return slot.Open(ctx, core.Caller{Owner: b.t, Wait: true})
}

// transmit checks one exchange.
func transmit(t *testing.T, s *core.Session, capdu, want []byte) {
	t.Helper()
	got, err := s.Transmit(context.Background(), capdu, nil)
	if err != nil {
		t.Fatalf("> %s: %v", brief(capdu), err)
	}
	if !bytes.Equal(got, want) {
		t.Fatalf("> %s\n< %s\nwant %s", brief(capdu), brief(got), brief(want))
	}
}

func brief(b []byte) string {
	if len(b) <= 24 {
		return fmt.Sprintf("% X", b)
	}
	return fmt.Sprintf("% X … %d bytes", b[:20], len(b))
}

// exercise runs APDUs of all cases with the lengths at the boundaries; extended ones have
// up to longest bytes.
func exercise(t *testing.T, s *core.Session, longest int) {
	t.Helper()
	sw := []byte{0x90, 0x00}
	transmit(t, s, unhex("80 E8 00 00"), sw)                          // case 1
	transmit(t, s, unhex("00 A4 00 00 02 3F 00"), sw)                 // case 3
	for _, le := range []int{1, 44, 53, 54, 55, 118, 182, 255, 256} { // 54+10 bytes fill a packet
		transmit(t, s, []byte{0, 0x84, 0, 0, byte(le)}, append(pattern(le), sw...)) // case 2
	}
	for _, n := range []int{1, 31, 32, 33, 49, 54, 113, 250, 251, 252, 253, 254, 255} {
		capdu := append(append([]byte{0x80, 0xEE, 0, 0, byte(n)}, pattern(n)...), 0) // case 4
		transmit(t, s, capdu, append(pattern(n), sw...))
	}
	for _, n := range []int{256, 1014, 1024, 1025, 4000, 20000, 65535} {
		if n > longest {
			return
		}
		capdu := append([]byte{0x80, 0xEE, 0, 0, 0, byte(n >> 8), byte(n)}, pattern(n)...)
		capdu = append(capdu, 0, 0)
		transmit(t, s, capdu, append(pattern(n), sw...))
	}
	transmit(t, s, []byte{0, 0x84, 0, 0, 0, 0, 0}, append(pattern(65536), sw...))
}

var pattern = readertest.Pattern

var discard = slog.New(slog.DiscardHandler)
