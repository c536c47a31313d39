package cm4000

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cardfs/cardfs/drivers/bus/chardev"
	"github.com/cardfs/cardfs/drivers/bus/chardev/chardevtest"
	"github.com/cardfs/cardfs/drivers/cm4000/emu"
	"github.com/cardfs/cardfs/reader"
	"github.com/cardfs/cardfs/reader/icc"
	"github.com/cardfs/cardfs/reader/readertest"
)

var (
	unhex   = readertest.Hex
	pattern = readertest.Pattern
	connect = readertest.Connect
)

type card = readertest.Card

const (
	bare = card("3B 02 14 50")
	t0   = card("3B 12 18 14 50")
	t1   = card("3B 80 81 31 FE 45 8B")
)

func device(link reader.Link) reader.Device {
	return reader.Device{Driver: "cm4000", Address: "/dev/cmm0", ID: reader.ID{Model: model}, Link: link}
}

func wants(t *testing.T, err, is error) {
	t.Helper()
	if !errors.Is(err, is) {
		t.Errorf("%v, want %v", err, is)
	}
}

func newReader(t testing.TB, c icc.Card) *emu.Reader {
	t.Helper()
	e := emu.New()
	e.Patience = 600 * time.Millisecond
	readertest.Insert(t, &e.Contact, c)
	return e
}

func open(t testing.TB, link reader.Link) *slot {
	t.Helper()
	_, s := readertest.Open(t, Driver{}, device(link))
	return s.(*slot)
}

// The emulated reader answers the session's calls.
func TestReaderPlaysSession(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := emu.New()
		n, p := plugged(t, e)
		defer n.Close()
		replay(t, n, map[string]func(){
			"the card comes": func() { e.Contact.Insert(bare) }, "the card leaves": func() { e.Contact.Remove() }, "unplug": p.Unplug,
		}, loadSession(t))
	})
}

func TestSuite(t *testing.T) {
	for _, c := range []card{bare, t0, t1} {
		t.Run(string(c), func(t *testing.T) {
			readertest.PausingSuite(t, func(t *testing.T) *readertest.Fixture {
				e := newReader(t, c)
				p := chardevtest.Plug(e)
				return readertest.Emulated(Driver{}, device(p), p.Unplug, readertest.Contact(&e.Contact, false))
			})
		})
	}
}

// Commands and answers of every length arrive whole, each by one write and one read.
func TestLengths(t *testing.T) {
	for _, c := range []card{t0, t1} {
		synctest.Test(t, func(t *testing.T) {
			p := chardevtest.Plug(newReader(t, c))
			defer p.Unplug()
			s := open(t, p)
			defer s.Close()
			readertest.EveryLength(t, connect(t, s))
			if !bytes.Equal(s.buf[:], make([]byte, len(s.buf))) {
				t.Error("the last answer is still there")
			}
		})
	}
}

// node is a device file in a test's hands.
type node struct {
	chardev.Node
	status []uint32 // one after the other; the last stays
	atr    int32
	calls  []string
	fails  map[string]error
	short  bool // a write takes a part
	wait   map[string]time.Duration
}

func (n *node) OpenNode(context.Context) (chardev.Node, error) { return n, nil }
func (n *node) Gone() <-chan struct{}                          { return nil }
func (n *node) Close() error                                   { n.calls = append(n.calls, "close"); return nil }

func (n *node) called(what string, wait time.Duration) error {
	n.calls = append(n.calls, what)
	if n.wait == nil {
		n.wait = map[string]time.Duration{}
	}
	n.wait[what] = wait
	return n.fails[what]
}

func (n *node) Ioctl(_ context.Context, request uint, data []byte, wait time.Duration) error {
	switch request {
	case ioStatus:
		binary.NativeEndian.PutUint32(data, n.status[0])
		if len(n.status) > 1 {
			n.status = n.status[1:]
		}
		return n.called("status", wait)
	case ioATR:
		binary.NativeEndian.PutUint32(data, uint32(n.atr))
		copy(data[4:], bare.ATR())
		return n.called("atr", wait)
	case ioCardOff:
		return n.called("off", wait)
	}
	return syscall.ENOTTY
}

func (n *node) Write(_ context.Context, p []byte, wait time.Duration) (int, error) {
	if n.short {
		return len(p) - 1, n.called("write", wait)
	}
	return len(p), n.called("write", wait)
}

func (n *node) Read(_ context.Context, p []byte, wait time.Duration) (int, error) {
	return copy(p, "\x90\x00"), n.called("read", wait)
}

// Each call may fail, and each bit of the status has its meaning.
func TestCalls(t *testing.T) {
	for _, x := range []struct {
		name  string
		n     node
		do    func(s *slot) error
		is    error
		calls string
	}{
		{"no card", node{status: []uint32{0}}, powerOn, reader.ErrNoCard, "status"},
		{"mute", node{status: []uint32{0x21}}, powerOn, reader.ErrMute, "status"},
		{"mute for long", node{status: []uint32{0x03}}, powerOn, reader.ErrMute, "…"},
		{"no reader", node{status: []uint32{0x10}}, powerOn, reader.ErrGone, "status"},
		{"invalid ATR", node{status: []uint32{0x07}, atr: -1}, powerOn, reader.ErrMute, "status status status atr"},
		{"an ATR of nothing", node{status: []uint32{0x0F}}, powerOn, reader.ErrProtocol, "status status off status atr"},
		{"a long ATR", node{status: []uint32{0x0F}, atr: 34}, powerOn, reader.ErrProtocol, "status status off status atr"},
		{"a negative ATR", node{status: []uint32{0x0F}, atr: -2}, powerOn, reader.ErrProtocol, "status status off status atr"},
		{"power on", node{status: []uint32{0x0F}, atr: 4}, powerOn, nil, "status status off status atr"},
		{"it comes late", node{status: []uint32{0x01, 0x03, 0x0F}, atr: 4}, powerOn, nil, "status status status status off status atr"},
		{"it leaves", node{status: []uint32{0x0F, 0x0F, 0x00}}, powerOn, reader.ErrNoCard, "status status off status"},
		{"it leaves before", node{status: []uint32{0x0F, 0x00}}, powerOn, reader.ErrNoCard, "status status"},
		{"off for ever", node{status: []uint32{0x0F}, fails: map[string]error{"off": reader.ErrTimeout}}, powerOn, reader.ErrMute, "status status off"},
		{"the ATR fails", node{status: []uint32{0x0F, 0x0F, 0x0F, 0x00}, fails: map[string]error{"atr": syscall.EIO}}, powerOn, reader.ErrNoCard, "status status off status atr status"},
		{"off and on", node{status: []uint32{0x0F}, atr: 4}, func(s *slot) error {
			return errors.Join(s.PowerOff(context.Background()), powerOn(s))
		}, nil, "status off status atr"},
		{"off twice", node{status: []uint32{0x0F}}, func(s *slot) error {
			return errors.Join(s.PowerOff(context.Background()), s.PowerOff(context.Background()))
		}, nil, "status off"},
		{"off, used and off", node{status: []uint32{0x0F}}, func(s *slot) error {
			return errors.Join(s.PowerOff(context.Background()), exchange(s), s.PowerOff(context.Background()))
		}, nil, "status off write read status off"},
		{"off without a card", node{status: []uint32{0}}, func(s *slot) error { return s.PowerOff(context.Background()) }, nil, "status"},
		{"off fails", node{status: []uint32{0x0F}, fails: map[string]error{"off": syscall.EIO}}, func(s *slot) error { return s.PowerOff(context.Background()) }, syscall.EIO, "status off"},
		{"exchange", node{status: []uint32{0x0F}}, exchange, nil, "write read"},
		{"silent", node{status: []uint32{0x0F}, fails: map[string]error{"write": syscall.EIO}}, exchange, reader.ErrTimeout, "write status"},
		{"left", node{status: []uint32{0x00}, fails: map[string]error{"write": syscall.EIO}}, exchange, reader.ErrNoCard, "write status"},
		{"another card", node{status: []uint32{0x03}, fails: map[string]error{"write": syscall.EIO}}, exchange, reader.ErrStale, "write status"},
		{"the reader left", node{status: []uint32{0x10}, fails: map[string]error{"read": syscall.EIO}}, exchange, reader.ErrGone, "write read status"},
		{"a part", node{status: []uint32{0x0F}, short: true}, exchange, reader.ErrProtocol, "write"},
		{"after EIO", node{status: []uint32{0x0F}, fails: map[string]error{"read": syscall.EIO}}, func(s *slot) error {
			exchange(s)
			return exchange(s)
		}, reader.ErrTimeout, "write read status write read status"},
		{"after a time-out", node{status: []uint32{0x0F}, fails: map[string]error{"write": reader.ErrTimeout}}, func(s *slot) error {
			exchange(s)
			return exchange(s)
		}, reader.ErrTimeout, "write"},
		{"reset after a time-out", node{status: []uint32{0x0F}, atr: 4, fails: map[string]error{"read": reader.ErrTimeout}}, func(s *slot) error {
			exchange(s)
			return errors.Join(powerOn(s), exchange(s))
		}, reader.ErrTimeout, "write read status status off status atr write read"},
		{"no command", node{}, func(s *slot) error {
			_, err := s.Exchange(context.Background(), reader.Transfer{Out: []byte{0, 0, 0}}, nil)
			return err
		}, reader.ErrInvalid, ""},
	} {
		t.Run(x.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := &slot{name: "cm4000 /dev/cmm0", node: &x.n}
				err := x.do(s)
				if !errors.Is(err, x.is) {
					t.Errorf("%v, want %v", err, x.is)
				}
				if err != nil && !strings.HasPrefix(err.Error(), "cm4000 /dev/cmm0: ") {
					t.Error(err)
				}
				if got := strings.Join(x.n.calls, " "); x.calls != "…" && got != x.calls {
					t.Errorf("calls %q, want %q", got, x.calls)
				}
			})
		})
	}
}

func powerOn(s *slot) error {
	_, err := s.PowerOn(context.Background(), reader.Cold)
	return err
}

func exchange(s *slot) error {
	_, err := s.Exchange(context.Background(), reader.Transfer{Out: unhex("00 84 00 00 08"), Wait: 3 * time.Second}, nil)
	return err
}

// The states of a slot, by what the kernel says and what was done.
func TestStatus(t *testing.T) {
	n := &node{status: []uint32{0x0F}, atr: 4}
	s := &slot{name: "cm4000 /dev/cmm0", node: n}
	state := func(bits uint32, want reader.Status) {
		t.Helper()
		n.status = []uint32{bits}
		if got, err := s.Status(t.Context()); got != want || err != nil {
			t.Errorf("%02X: %v, %v, want %v", bits, got, err, want)
		}
	}
	state(0x00, reader.Absent)
	state(0x0F, reader.Present) // by the kernel, and not for us
	if err := powerOn(s); err != nil {
		t.Fatal(err)
	}
	state(0x0F, reader.Powered)
	state(0x01, reader.Present) // another card
	state(0x0F, reader.Present)
	powerOn(s)
	state(0x00, reader.Absent)
	state(0x0F, reader.Present)
	powerOn(s)
	if err := s.PowerOff(t.Context()); err != nil {
		t.Fatal(err)
	}
	state(0x0F, reader.Present)
	state(0x21, reader.Present) // mute
	n.fails = map[string]error{"status": syscall.EINVAL}
	_, err := s.Status(t.Context())
	wants(t, err, syscall.EINVAL)
}

// A card has the time that the core gives it, and where that gives none the kernel's.
func TestWaits(t *testing.T) {
	n := &node{status: []uint32{0x0F}, atr: 4}
	s := &slot{name: "cm4000", node: n}
	exchange(s)
	powerOn(s)
	if n.wait["write"] != 3*time.Second || n.wait["read"] != callWait || n.wait["off"] != atrWait || n.wait["status"] != callWait || n.wait["atr"] != callWait {
		t.Error(n.wait)
	}
	if _, err := s.Exchange(t.Context(), reader.Transfer{Out: unhex("00 84 00 00 08")}, nil); err != nil || n.wait["write"] != answerWait {
		t.Error(n.wait["write"], err)
	}
}

// Another device's file is refused, and closed again.
func TestOpen(t *testing.T) {
	n := &node{status: []uint32{0}, fails: map[string]error{"status": reader.ErrUnsupported}}
	_, err := Driver{}.Open(t.Context(), device(n))
	wants(t, err, reader.ErrUnsupported)
	if !strings.HasPrefix(err.Error(), "cm4000 /dev/cmm0: open: ") || strings.Join(n.calls, " ") != "status close" {
		t.Error(err, n.calls)
	}
	_, err = Driver{}.Open(t.Context(), device(nil))
	wants(t, err, reader.ErrInvalid)
	dev, err := Driver{}.Attach(reader.Device{Driver: "cm4000", Address: "/dev/cmm0"})
	if _, ok := dev.Link.(chardev.Opener); err != nil || !ok || dev.ID.Model != model {
		t.Errorf("%+v, %v", dev, err)
	}
	_, err = Driver{}.Attach(reader.Device{Driver: "cm4000", Address: "/dev/cmm0", Params: map[string]string{"baud": "1"}})
	wants(t, err, reader.ErrInvalid)
}

// An ATR is as long as the kernel says, or refused.
func FuzzATR(f *testing.F) {
	f.Add(unhex("04 00 00 00 3B 02 14 50"))
	f.Add(unhex("FF FF FF FF"))
	f.Fuzz(func(t *testing.T, p []byte) {
		p = append(p, make([]byte, atreqSize)...)[:atreqSize]
		atr, err := parseATR(p)
		if n := int(int32(binary.NativeEndian.Uint32(p))); err == nil && (len(atr) != n || n < 1 || n > 33) || err != nil && n >= 1 && n <= 33 {
			t.Errorf("%d: % X, %v", n, atr, err)
		}
	})
}
