package ccid

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cardfs/cardfs/drivers/bus/usb"
	"github.com/cardfs/cardfs/drivers/bus/usb/usbtest"
	"github.com/cardfs/cardfs/drivers/ccid/emu"
	"github.com/cardfs/cardfs/reader"
	"github.com/cardfs/cardfs/reader/core"
)

// tapped is an emulated reader whose control transfers may fail on the bus, before or
// after the device sees them.
type tapped struct {
	*device
	before, after func(usb.Setup) error
}

func (e *tapped) OpenUSB(ctx context.Context, iface uint8) (usb.Conn, error) {
	c, err := e.device.OpenUSB(ctx, iface)
	return &tappedConn{c, e}, err
}

type tappedConn struct {
	usb.Conn
	e *tapped
}

func (c *tappedConn) Control(ctx context.Context, s usb.Setup, data []byte, timeout time.Duration) (int, error) {
	if c.e.before != nil {
		if err := c.e.before(s); err != nil {
			return 0, err
		}
	}
	n, err := c.Conn.Control(ctx, s, data, timeout)
	if c.e.after != nil && err == nil {
		err = c.e.after(s)
	}
	return n, err
}

// once fails the nth request of that kind.
func once(request uint8, nth int, err error) func(usb.Setup) error {
	return func(s usb.Setup) error {
		if s.Request == request {
			if nth--; nth == 0 {
				return err
			}
		}
		return nil
	}
}

// ICCD 1.0 does not number messages: a leftover in the device would be taken for the
// answer to the next command, and so on. After any error between an XFR_BLOCK and the end
// of the last DATA_BLOCK the card loses its power, the session is stale, and until then
// nothing more is sent or read.
func TestICCDLeavesNothing(t *testing.T) {
	eproto := errors.New("protocol error on the bus")
	chained := emu.ICCDB()
	chained.MaxMessage = 15 // parts of 5 bytes
	for _, version := range []struct {
		name string
		cfg  emu.Config
	}{{"A", emu.ICCDA()}, {"B", emu.ICCDB()}, {"B, chained", chained}} {
		for _, request := range []uint8{reqXfrBlock, reqDataBlock, reqStatus} {
			for nth := 1; nth <= 3; nth++ {
				for _, after := range []bool{false, true} {
					for _, fault := range []error{eproto, usb.ErrStall, usb.ErrOverflow, usb.ErrTimeout, usb.ErrReset} {
						t.Run(fmt.Sprintf("%s/%02X %d after %v %v", version.name, request, nth, after, fault), func(t *testing.T) {
							synctest.Test(t, func(t *testing.T) {
								e := &tapped{device: newDevice(version.cfg)}
								card := &testCard{atr: atrT0}
								e.Contact(0).Insert(card)
								m := core.NewManager(core.Options{Drivers: []reader.Driver{Driver{}}})
								defer e.Unplug()
								defer m.Close(context.Background())
								if err := m.Announce(reader.Device{Driver: "ccid", Address: "emulator", Link: e}); err != nil {
									t.Fatal(err)
								}
								b := &bench{t, e.device, m}
								s := b.session(0)
								transmit(t, s, unhex("00 84 00 00 01"), unhex("00 90 00"))
								if hook := once(request, nth, fault); after {
									e.after = hook
								} else {
									e.before = hook
								}
								var sent []uint8
								e.Observe(func(r usbtest.Line) {
									if r.Setup.RequestType&0x60 == 0x20 {
										sent = append(sent, r.Setup.Request)
									}
								})
								_, err := s.Transmit(ctx, unhex("00 84 00 00 0C"), nil)
								if err == nil {
									return // the sequence has fewer requests of this kind
								}
								if n := card.count(); n > 2 {
									t.Errorf("the card saw the command %d times", n-1)
								}
								if off := slices.Index(sent, reqPowerOff); off < 0 && fault != usb.ErrReset && fault != usb.ErrTimeout ||
									off >= 0 && (slices.Contains(sent[off:], reqDataBlock) || slices.Contains(sent[off:], reqXfrBlock)) {
									t.Errorf("what was sent: % X", sent)
								}
								e.before, e.after = nil, nil
								_, err = s.Transmit(ctx, unhex("00 84 00 00 03"), nil)
								if !errors.Is(err, reader.ErrStale) {
									t.Errorf("the same session goes on: %v", err)
								}
								s = b.session(0)
								transmit(t, s, unhex("00 84 00 00 03"), unhex("00 01 02 90 00"))
								transmit(t, s, unhex("00 84 00 00 04"), unhex("00 01 02 03 90 00"))
							})
						})
					}
				}
			}
		}
	}
}

// The same for a card that is busy for longer than any limit, and for an exchange whose
// caller gives up.
func TestICCDGivenUp(t *testing.T) {
	for _, cfg := range []emu.Config{emu.ICCDA(), emu.ICCDB()} {
		for name, until := range map[string]time.Duration{"an hour": 0, "a minute": time.Minute, "cancelled": -1} {
			t.Run(fmt.Sprintf("%d/%s", cfg.Protocol, name), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					e := newDevice(cfg)
					e.Contact(0).Insert(&slowCard{testCard{atr: atrT0}, 2 * time.Hour})
					s := open(t, e).slots[0]
					power := func() {
						t.Helper()
						if _, err := s.PowerOn(ctx, reader.Cold); err != nil {
							t.Fatal(err)
						}
					}
					power()
					asked := 0
					x := reader.Transfer{Out: unhex("80 E8 00 00 00"), Extended: func() { asked++ }}
					some, want, kind := ctx, time.Hour, error(reader.ErrTimeout)
					switch {
					case until > 0:
						x.Until, want = time.Now().Add(until), until
					case until < 0:
						var cancel context.CancelFunc
						some, cancel = context.WithTimeout(ctx, 10*time.Second)
						defer cancel()
						want, kind = 10*time.Second, context.DeadlineExceeded
					}
					start := time.Now()
					_, err := s.Exchange(some, x, nil)
					if took := time.Since(start); !errors.Is(err, kind) || took < want-time.Second || took > want+time.Second {
						t.Errorf("%v after %v", err, took)
					}
					if asked == 0 {
						t.Error("nobody was told that the card is busy")
					}
					_, err = s.Exchange(ctx, reader.Transfer{Out: unhex("00 84 00 00 03")}, nil)
					check(t, nil, err, nil, reader.ErrStale)
					if st, err := s.Status(ctx); st != reader.Present || err != nil {
						t.Error(st, err)
					}
					power()
					rx, err := s.Exchange(ctx, reader.Transfer{Out: unhex("00 84 00 00 03")}, nil)
					check(t, rx, err, unhex("00 01 02 90 00"), nil)
				})
			})
		}
	}
}

// A power-off that fails is repeated before the next power-on; otherwise the leftover
// would be taken for the ATR.
func TestICCDPowerOffThatFails(t *testing.T) {
	for _, cfg := range []emu.Config{emu.ICCDA(), emu.ICCDB()} {
		synctest.Test(t, func(t *testing.T) {
			e := &tapped{device: newDevice(cfg)}
			e.Contact(0).Insert(&testCard{atr: atrT0})
			r, err := Driver{}.Open(ctx, reader.Device{Link: e})
			if err != nil {
				t.Fatal(err)
			}
			defer e.Unplug()
			defer r.Close()
			s := r.Slots()[0]
			if _, err := s.PowerOn(ctx, reader.Cold); err != nil {
				t.Fatal(err)
			}
			broken := errors.New("broken")
			e.before = func(s usb.Setup) error {
				if s.Request == reqDataBlock || s.Request == reqPowerOff {
					return broken
				}
				return nil
			}
			_, err = s.Exchange(ctx, reader.Transfer{Out: unhex("00 84 00 00 03")}, nil)
			check(t, nil, err, nil, broken)
			_, err = s.PowerOn(ctx, reader.Cold)
			check(t, nil, err, nil, broken)
			var sent []uint8
			e.before = func(s usb.Setup) error {
				sent = append(sent, s.Request)
				return nil
			}
			atr, err := s.PowerOn(ctx, reader.Cold)
			check(t, atr, err, atrT0, nil)
			if len(sent) == 0 || sent[0] != reqPowerOff {
				t.Errorf("% X", sent)
			}
			rx, err := s.Exchange(ctx, reader.Transfer{Out: unhex("00 84 00 00 02")}, nil)
			check(t, rx, err, unhex("00 01 90 00"), nil)
		})
	}
}

// Through the core: the next command of a session never gets the leftover of an earlier
// one, at any level and after any fault. If a chain was given up half-way, its session is
// stale.
func TestNothingIsLeftForTheNextCommand(t *testing.T) {
	small := emu.ExtendedAPDUReader()
	small.MaxMessage = 15
	type way struct {
		cfg emu.Config
		atr []byte
	}
	for _, way := range []way{{emu.ShortAPDUReader(), atrT0}, {emu.ShortAPDUReader(), atrT1}, {small, atrT0}, {small, atrT1}, {emu.TPDUReader(), atrT0}, {emu.CharacterReader(), atrT0}} {
		cfg, atr := way.cfg, way.atr
		for kind := emu.StallIn; kind <= emu.Endless; kind++ {
			for skip := range 4 {
				if kind == emu.Stone || kind == emu.StallControl {
					continue
				}
				t.Run(fmt.Sprintf("%s/%X/%d/%d", cfg.Name, atr[1], kind, skip), func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) {
						b := plug(t, cfg, &testCard{atr: atr})
						s := b.session(0)
						transmit(t, s, unhex("00 84 00 00 01"), unhex("00 90 00"))
						b.e.Inject(emu.Fault{Kind: kind, On: cmdXfrBlock, Skip: skip})
						_, failed := s.Transmit(ctx, unhex("80 EE 00 00 0C 00 01 02 03 04 05 06 07 08 09 0A 0B 00"), nil)
						b.e.Heal()
						for _, n := range []int{3, 2} {
							rx, err := s.Transmit(ctx, []byte{0, 0x84, 0, 0, byte(n)}, nil)
							if errors.Is(err, reader.ErrStale) {
								break
							}
							check(t, rx, err, append(pattern(n), 0x90, 0), nil)
							if failed != nil && cfg.Level == reader.ExtendedAPDU && skip > 0 {
								t.Error("the session lives on")
							}
						}
						transmit(t, b.session(0), unhex("00 84 00 00 04"), unhex("00 01 02 03 90 00"))
					})
				})
			}
		}
	}
}

// A port reset that a status reports took the card's power: nothing is sent to the card
// before it is activated again.
func TestICCDReset(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := &tapped{device: newDevice(emu.ICCDB())}
		e.Contact(0).Insert(&testCard{atr: atrT0})
		r, err := Driver{}.Open(ctx, reader.Device{Link: e})
		if err != nil {
			t.Fatal(err)
		}
		defer e.Unplug()
		defer r.Close()
		s := r.Slots()[0]
		if _, err := s.PowerOn(ctx, reader.Cold); err != nil {
			t.Fatal(err)
		}
		e.before = func(usb.Setup) error { return usb.ErrReset }
		_, err = s.Status(ctx)
		check(t, nil, err, nil, reader.ErrProtocol)
		e.before = func(s usb.Setup) error {
			t.Errorf("sent: %v", s)
			return nil
		}
		_, err = s.Exchange(ctx, reader.Transfer{Out: unhex("00 84 00 00 03")}, nil)
		check(t, nil, err, nil, reader.ErrStale)
	})
}
