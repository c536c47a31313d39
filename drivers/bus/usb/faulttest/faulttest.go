// Package faulttest has each transfer of a session with an emulated USB device fail in each
// way that usbtest.Menu lists.
package faulttest

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cardfs/cardfs/drivers/bus/usb"
	"github.com/cardfs/cardfs/drivers/bus/usb/usbtest"
	"github.com/cardfs/cardfs/reader"
	"github.com/cardfs/cardfs/reader/icc"
	"github.com/cardfs/cardfs/reader/link"
)

// Session is a power-up of a card and some commands.
type Session struct {
	Driver reader.Driver
	// New makes the device, without a card.
	New  func() Device
	Card func() icc.Card
	// Commands are C-APDUs and their R-APDUs, in hex with spaces. No two are alike.
	Commands [][2]string
	// Opening has the transfers of Open and of a first status fail, too.
	Opening bool
	// Transfers is the least number of transfers that it takes.
	Transfers int
	// Limit is how long it may take with a fault.
	Limit time.Duration
	// Unseen reports whether nothing tells the driver that the fault f of the transfer l made
	// the card's answer another one.
	Unseen func(l usbtest.Line, f usbtest.Fault) bool
}

// Device is an emulated USB device with one card position.
type Device interface {
	Plug() *usbtest.Port
	Contacts() []*icc.Contact
}

// Run runs the session once for each transfer and fault. What fails ends within the limit, with
// an error that the core can tell apart and that names the device; the card sees no command
// twice; and afterwards the same slot works, or the device has left, and works when it is
// plugged in again.
func (s Session) Run(t *testing.T) {
	var lines []usbtest.Line
	synctest.Test(t, func(t *testing.T) {
		r := s.start(t)
		r.port.Device().Observe(func(l usbtest.Line) {
			if l.Kind == usbtest.Transfer {
				lines = append(lines, l)
			}
		})
		if n, err := r.whole(t); n != len(s.Commands) {
			t.Fatal(err)
		}
	})
	if len(lines) < s.Transfers {
		t.Fatalf("%d transfers, %d are the least", len(lines), s.Transfers)
	}
	for skip, line := range lines {
		for _, f := range usbtest.Menu() {
			if line.In || f.Kind != usbtest.Long && f.Kind != usbtest.Garbage {
				synctest.Test(t, func(t *testing.T) { s.fails(t, lines, skip, f) })
			}
		}
	}
}

// errOther is not an error of the driver's: the card's answer was another one.
var errOther = errors.New("another answer")

var known = []error{reader.ErrProtocol, reader.ErrTimeout, reader.ErrStale, reader.ErrMute, reader.ErrGone, usb.ErrBus}

// fails is the session of lines, in which transfer number skip has the fault f.
func (s Session) fails(t *testing.T, lines []usbtest.Line, skip int, f usbtest.Fault) {
	r := s.start(t)
	f.Skip, f.On = skip, ""
	if f.Kind == usbtest.Long || f.Kind == usbtest.Garbage { // these count the transfers to the host
		f.On, f.Skip = "IN", 0
		for _, p := range lines[:skip] {
			if p.In {
				f.Skip++
			}
		}
	}
	complain := func(format string, args ...any) {
		t.Helper()
		t.Errorf("transfer %d, %v, %v: "+format, append([]any{skip, lines[skip], f}, args...)...)
	}
	r.port.Device().Inject(f)
	start := time.Now()
	answered, err := r.whole(t)
	took := time.Since(start)
	commands := r.card.seen()
	unplugged := f.Kind == usbtest.Unplugged
	unseen := s.Unseen != nil && s.Unseen(lines[skip], f)
	switch {
	case err == nil:
	case err == errOther:
		if !unseen {
			complain("%v", err)
		}
	case unseen && (errors.Is(err, reader.ErrNoCard) || errors.Is(err, reader.ErrUnsupported) || errors.Is(err, reader.ErrProtocol)): // says the status, or the protocol's machine
	case !slices.ContainsFunc(known, func(k error) bool { return errors.Is(err, k) }), !r.named(err) && f.Kind != usbtest.Garbage:
		complain("%v", err)
	case errors.Is(err, reader.ErrGone) != unplugged:
		complain("%v", err)
	case errors.Is(err, reader.ErrStale) && len(commands) != answered:
		complain("the card saw %d commands, %d were answered: %v", len(commands), answered, err)
	}
	if took > s.Limit {
		complain("%v after %v", err, took)
	}
	if seen := slices.Compact(slices.Sorted(slices.Values(commands))); len(seen) != len(commands) {
		complain("the card saw a command twice: %s; %d were answered", commands, answered)
	}
	r.port.Device().Heal()
	time.Sleep(time.Second) // the card may have got a command that failed
	if unplugged {
		r.plug(t)
	}
	before := len(r.card.seen())
	n, err := r.whole(t)
	seen := r.card.seen()[before:]
	if n != len(s.Commands) || len(seen) != n {
		complain("afterwards: %d commands were answered, the card saw %s: %v", n, seen, err)
	}
}

// run is a session under way.
type run struct {
	Session
	device Device
	card   *counted
	port   *usbtest.Port
	link   *link.Link
}

// start plugs the device in with its card, and opens it unless that is part of the session. It
// leaves at the end of the test.
func (s Session) start(t *testing.T) *run {
	t.Helper()
	r := &run{Session: s, device: s.New(), card: &counted{card: s.Card()}}
	var card icc.Card = r.card
	if c, ok := r.card.card.(icc.T0Card); ok {
		card = countedT0{r.card, c}
	}
	if err := r.device.Contacts()[0].Insert(card); err != nil {
		t.Fatal(err)
	}
	r.plug(t)
	if !s.Opening {
		if err := r.open(t); err != nil {
			t.Fatal(err)
		}
	}
	return r
}

func (r *run) dev() reader.Device {
	return reader.Device{Driver: r.Driver.Name(), Address: "usb:1-2", ID: r.Driver.IDs()[0], Link: r.port}
}

// plug plugs the device in, which has to be opened.
func (r *run) plug(t *testing.T) {
	r.port, r.link = r.device.Plug(), nil
	t.Cleanup(r.port.Unplug)
}

func (r *run) open(t *testing.T) error {
	opened, err := r.Driver.Open(t.Context(), r.dev())
	if err != nil {
		return err
	}
	t.Cleanup(func() { opened.Close() })
	slot := opened.Slots()[0]
	if r.Opening {
		if _, err := slot.Status(t.Context()); err != nil {
			opened.Close()
			return err
		}
	}
	r.link = link.New(link.Config{Slot: slot, Features: reader.FeaturesOf(slot)})
	return nil
}

// whole is the session. It opens the device unless it is open, and returns how many commands
// were answered.
func (r *run) whole(t *testing.T) (answered int, err error) {
	if r.link == nil {
		if err := r.open(t); err != nil {
			return 0, err
		}
	}
	if err := r.link.PowerUp(t.Context(), reader.Cold, -1); err != nil {
		return 0, err
	}
	for _, c := range r.Commands {
		got, err := r.link.Transmit(t.Context(), unhex(t, c[0]), nil)
		switch {
		case err != nil:
			return answered, err
		case !bytes.Equal(got, unhex(t, c[1])):
			return answered, errOther
		}
		answered++
	}
	return answered, nil
}

// named reports whether err names the device. Of a time-out the protocol's machine says all.
func (r *run) named(err error) bool {
	machine := strings.HasPrefix(err.Error(), "T=0: ") || strings.HasPrefix(err.Error(), "T=1: ")
	return strings.Contains(err.Error(), r.dev().Name()+": ") || errors.Is(err, reader.ErrTimeout) && machine
}

func unhex(t *testing.T, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// counted is a card that keeps what it was sent.
type counted struct {
	card icc.Card

	mu       sync.Mutex
	commands []string
}

func (c *counted) ATR() []byte     { return c.card.ATR() }
func (c *counted) Reset(warm bool) { c.card.Reset(warm) }
func (c *counted) Process(command []byte) []byte {
	c.mu.Lock()
	c.commands = append(c.commands, fmt.Sprintf("% X", command))
	c.mu.Unlock()
	return c.card.Process(command)
}

func (c *counted) seen() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.commands)
}

// countedT0 says which commands bring data along.
type countedT0 struct {
	*counted
	icc.T0Card
}
