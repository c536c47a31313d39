package emulators_test

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cardfs/cardfs/drivers/bus/usb/usbtest"
	"github.com/cardfs/cardfs/drivers/emulators"
	"github.com/cardfs/cardfs/drivers/sim"
	"github.com/cardfs/cardfs/reader"
	"github.com/cardfs/cardfs/reader/core"
	"github.com/cardfs/cardfs/reader/icc"
)

// counted is a card that counts its commands.
type counted struct {
	icc.Card
	commands atomic.Int32
}

func (c *counted) Process(p []byte) []byte {
	c.commands.Add(1)
	return c.Card.Process(p)
}

func (c *counted) Incoming(cla, ins byte) bool {
	in, ok := c.Card.(interface{ Incoming(cla, ins byte) bool })
	return ok && in.Incoming(cla, ins)
}

// served is an emulated USB device under the core.
type served struct {
	t      *testing.T
	port   *usbtest.Port
	device *usbtest.Device
	card   *counted
	*core.Manager
}

// serve plugs in the emulated device e after prepare.
func serve(t *testing.T, e emulators.Emulator, prepare func(d *usbtest.Device)) *served {
	t.Helper()
	device := e.New("S7").(emulators.USB)
	s := &served{t: t}
	for n, contact := range device.Contacts() {
		card, _ := sim.NewCard(e.Cards[n], "S7")
		c := &counted{Card: card}
		if n == 0 {
			s.card = c
		}
		if err := contact.Insert(c); err != nil {
			t.Fatal(err)
		}
	}
	log := slog.New(slog.DiscardHandler)
	driver := e.Driver(log)
	s.Manager = core.NewManager(core.Options{Drivers: []reader.Driver{driver}})
	t.Cleanup(func() { s.Close(context.Background()) })
	s.port = device.Plug()
	s.device = s.port.Device()
	prepare(s.device)
	if err := s.Announce(reader.Device{Driver: driver.Name(), Address: "a", ID: e.ID, Link: s.port}); err != nil {
		t.Fatal(err)
	}
	return s
}

// open opens the slot, or the next if the reader that has it is being revived.
func (s *served) open() (session *core.Session) {
	s.t.Helper()
	err := reader.ErrGone
	for errors.Is(err, reader.ErrGone) {
		if slot := s.Slot(0); slot != nil {
			session, err = slot.Open(s.t.Context(), core.Caller{Owner: new(int), Wait: true})
		} else {
			time.Sleep(time.Millisecond)
		}
	}
	if err != nil {
		s.t.Fatalf("open: %v", err)
	}
	if atr := s.card.ATR(); !slices.Equal(session.ATR(), atr) {
		s.t.Errorf("ATR % X, want % X", session.ATR(), atr)
	}
	return session
}

var whoAreYou = []byte{0x00, 0xCA, 0x00, 0x5A, 0x00}

func (s *served) answers(session *core.Session) {
	s.t.Helper()
	want := s.card.Card.Process(whoAreYou)
	got, err := session.Transmit(s.t.Context(), whoAreYou, nil)
	if err != nil || !slices.Equal(got, want) {
		s.t.Errorf("% X, %v; want % X", got, err, want)
	}
}

// each runs f with every emulated USB device, in its own time.
func each(t *testing.T, f func(t *testing.T, e emulators.Emulator)) {
	for _, e := range emulators.All() {
		if _, ok := e.New("").(emulators.USB); !ok {
			continue
		}
		t.Run(e.Name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { f(t, e) })
		})
	}
}

// "The core's patience and retries belong to the core": a token that does not do what it
// should in its first seconds opens when it has come to rest.
func TestTokensThatNeedTime(t *testing.T) {
	always := func(f usbtest.Fault) usbtest.Fault { f.Count = -1; return f }
	for _, tt := range []struct {
		name  string
		fault usbtest.Fault
		lasts time.Duration // 0: until Count is used up
	}{
		{"stalls the first request", usbtest.Fault{Kind: usbtest.Stalled}, 0},
		{"stalls the first request, having done it", usbtest.Fault{Kind: usbtest.Stalled, When: usbtest.After}, 0},
		{"stalls the second request", usbtest.Fault{Kind: usbtest.Stalled, Skip: 1}, 0},
		{"stalls two requests", usbtest.Fault{Kind: usbtest.Stalled, Count: 2}, 0},
		{"stalls eight requests", usbtest.Fault{Kind: usbtest.Stalled, Count: 8}, 0},
		{"stalls for three seconds", always(usbtest.Fault{Kind: usbtest.Stalled}), 3 * time.Second},
		{"noise for three seconds", always(usbtest.Fault{Kind: usbtest.Noise}), 3 * time.Second},
		{"is silent to the first request", usbtest.Fault{Kind: usbtest.Silent}, 0},
		{"is silent for two seconds", always(usbtest.Fault{Kind: usbtest.Silent}), 2 * time.Second},
		{"garbage for two seconds", always(usbtest.Fault{Kind: usbtest.Garbage}), 2 * time.Second},
		{"empty answers for two seconds", always(usbtest.Fault{Kind: usbtest.Short}), 2 * time.Second},
		{"answers late for two seconds", always(usbtest.Fault{Kind: usbtest.Late, Delay: 300 * time.Millisecond}), 2 * time.Second},
		{"shares its hub with many", always(usbtest.Fault{Kind: usbtest.Late, Delay: 200 * time.Millisecond}), time.Hour},
	} {
		t.Run(tt.name, func(t *testing.T) {
			each(t, func(t *testing.T, e emulators.Emulator) {
				s := serve(t, e, func(d *usbtest.Device) {
					d.Inject(tt.fault)
					if tt.lasts > 0 {
						time.AfterFunc(tt.lasts, d.Heal)
					}
				})
				begin := time.Now()
				session := s.open()
				t.Logf("opened after %v", time.Since(begin))
				s.answers(session)
			})
		})
	}
}

// A token that has forgotten everything while the system slept, and needs time: the command is
// not sent twice, the session ends, and the next open succeeds.
func TestTokensThatForget(t *testing.T) {
	for _, kind := range []usbtest.FaultKind{usbtest.Stalled, usbtest.Noise, usbtest.Garbage, usbtest.Silent} {
		t.Run(kind.String(), func(t *testing.T) {
			each(t, func(t *testing.T, e emulators.Emulator) {
				if kind == usbtest.Garbage && !e.Fixed {
					t.Skip("a card that is put in may be damaged")
				}
				s := serve(t, e, func(*usbtest.Device) {})
				session := s.open()
				s.answers(session)
				s.port.Reset()
				s.device.Inject(usbtest.Fault{Kind: kind, Count: -1})
				time.AfterFunc(2*time.Second, s.device.Heal)
				before := s.card.commands.Load()
				answer, err := session.Transmit(t.Context(), whoAreYou, nil)
				if err == nil {
					t.Errorf("a card that lost its power answers % X", answer)
				}
				if n := s.card.commands.Load() - before; n > 1 {
					t.Errorf("the command was sent %d times", n)
				}
				if _, again := session.Transmit(t.Context(), whoAreYou, nil); again == nil {
					t.Errorf("after %v the session goes on", err)
				}
				t.Logf("%v", err)
				s.answers(s.open())
			})
		})
	}
}
