package witness

import (
	"bytes"
	"context"
	"log/slog"
	"testing"
	"time"

	"github.com/cardfs/cardfs/drivers/bus/usb/hotplug"
	"github.com/cardfs/cardfs/drivers/bus/usb/transports"
	"github.com/cardfs/cardfs/drivers/bus/usb/usbtest"
	"github.com/cardfs/cardfs/reader"
	"github.com/cardfs/cardfs/reader/core"
	"github.com/cardfs/cardfs/reader/readertest"
)

// Transports are those of USB.
var Transports = []string{"usbfs", "gousb"}

// Device is a USB device for a driver of this project.
type Device struct {
	Driver reader.Driver
	Port   *usbtest.Port // with a card in the device
	// Module is set if a module of the kernel is to have it first, as a terminal.
	Module    bool
	ATR       []byte // nil: not compared
	Exchanges []Exchange
}

// Cardfs has the driver exchange the commands with the card on a transport. No module of the
// kernel has the device then. At the end it is unplugged.
func (d Device) Cardfs(t *testing.T, transport string) {
	t.Helper()
	var unplug func()
	if d.Module {
		unplug = Plug(t, d.Port)
		OpenTerminal(t).Close()
	}
	c := OnUSB(t, d.Driver, transport)
	if !d.Module {
		unplug = Plug(t, d.Port)
	}
	card := c.Open(0, d.ATR)
	if list, _ := ttys(); len(list) > 0 {
		t.Errorf("the kernel still has %q", list)
	}
	card.Exchange(d.Exchanges)
	unplug()
	if _, err := card.Transmit(c.ctx, readertest.Challenge, nil); err == nil {
		t.Error("an answer after unplugging")
	}
}

// Core is this project's core with one driver, until the test ends. What fails ends the test.
type Core struct {
	*core.Manager
	t      *testing.T
	events *core.Feed[core.Event]
	ctx    context.Context // for what the test is sure of
}

func newCore(t *testing.T, o core.Options) *Core {
	m := core.NewManager(o)
	some, cancel := context.WithTimeout(t.Context(), 3*patient)
	c := &Core{m, t, m.Follow(), some}
	t.Cleanup(func() {
		cancel()
		c.events.Close()
		m.Close(context.Background())
	})
	return c
}

// OnUSB has the core watch the machine's USB.
func OnUSB(t *testing.T, d reader.Driver, transport string) *Core {
	t.Helper()
	open, err := transports.Find(transport)
	if err != nil {
		t.Fatal(err)
	}
	bus := hotplug.New(open, slog.New(slog.DiscardHandler))
	c := newCore(t, core.Options{Drivers: []reader.Driver{d}, Buses: []reader.Bus{bus}})
	c.WatchBuses()
	return c
}

// OnPort attaches a reader to a serial port.
func OnPort(t *testing.T, d reader.Driver, tty string, params map[string]string) *Core {
	t.Helper()
	c := newCore(t, core.Options{Drivers: []reader.Driver{d}, Poll: 20 * time.Millisecond})
	if err := c.Attach(d.Name(), tty, params); err != nil {
		t.Fatal(err)
	}
	return c
}

// Await waits until slot 0 is in a state.
func (c *Core) Await(want core.State) *core.Slot {
	c.t.Helper()
	var got core.State
	for end := time.Now().Add(patient); time.Now().Before(end); time.Sleep(time.Millisecond) {
		if s := c.Slot(0); s != nil {
			if got = s.Info().State; got == want {
				return s
			}
		}
	}
	c.t.Fatalf("slot 0 is %q, want %q", got, want)
	return nil
}

// Card is a session with a card.
type Card struct {
	*core.Session
	c *Core
}

// Open waits for slot n, and opens its card.
func (c *Core) Open(n int, atr []byte) Card {
	c.t.Helper()
	for c.Slot(n) == nil {
		if _, _, err := c.events.Next(c.ctx); err != nil {
			c.t.Fatalf("slot %d: %v", n, err)
		}
	}
	begin := time.Now()
	s, err := c.Slot(n).Open(c.ctx, core.Caller{Owner: c.t, Wait: true})
	if err != nil {
		c.t.Fatalf("slot %d: %v", n, err)
	}
	c.t.Logf("slot %d: opened in %v, %s, TA1 %02X", n, time.Since(begin), s.Slot().Info().Protocol(), s.Slot().Info().Params.TA1)
	if got := s.ATR(); atr != nil && !bytes.Equal(got, atr) {
		c.t.Errorf("slot %d: ATR % X, want % X", n, got, atr)
	}
	return Card{s, c}
}

// Exchange has the card answer the commands.
func (s Card) Exchange(list []Exchange) {
	s.c.t.Helper()
	begin := time.Now()
	for _, x := range list {
		got, err := s.Transmit(s.c.ctx, readertest.Hex(x.Command), nil)
		if err != nil || hex(got) != x.Answer {
			s.c.t.Errorf("cardfs: > %s\n< % X, %v\nwant %s", x.Command, got, err, x.Answer)
		}
	}
	s.c.t.Logf("%d commands in %v", len(list), time.Since(begin))
}
