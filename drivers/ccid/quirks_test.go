package ccid

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cardfs/cardfs/drivers/bus/usb"
	"github.com/cardfs/cardfs/drivers/ccid/emu"
	"github.com/cardfs/cardfs/reader"
	"github.com/cardfs/cardfs/reader/core"
)

// Every line of the table names the fault, the remedy as an action, and the source.
func TestQuirksTable(t *testing.T) {
	for _, q := range quirks {
		if len(q.models) == 0 || q.wrong == "" || q.does == "" || q.source == "" || q.set == nil || q.to != 0 && q.to < q.from {
			t.Errorf("%+v", q)
		}
		for _, action := range strings.Split(q.does, "; ") {
			if verb, _, _ := strings.Cut(action, " "); !strings.HasSuffix(verb, "s") {
				t.Errorf("%s: cardfs %s: no verb in front", q.wrong, action)
			}
		}
		for _, m := range q.models {
			if d := (usb.Device{Vendor: m.vendor, Product: m.product, Release: max(q.from, q.to)}); !q.matches(d) {
				t.Errorf("%s does not match %+v", q.wrong, d)
			}
			if d := (usb.Device{Vendor: m.vendor, Product: m.product, Release: q.to + 1}); q.to != 0 && q.matches(d) {
				t.Errorf("%s matches %+v", q.wrong, d)
			}
			if d := (usb.Device{Vendor: m.vendor ^ 1, Product: m.product}); q.matches(d) {
				t.Errorf("%s matches %+v", q.wrong, d)
			}
		}
	}
	if e := lookup(usb.Device{Vendor: 1, Product: 1}); e.openFactor != 1 || e.factor != 1 || e.verifyMessages != -1 {
		t.Errorf("%+v", e)
	}
}

func as(c emu.Config, vendor, product, release uint16) emu.Config {
	c.Vendor, c.Product, c.Release = vendor, product, release
	return c
}

func TestOldFirmware(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newDevice(as(emu.TPDUReader(), 0x04E6, 0x5291, 0x0111))
		_, err := Driver{}.Open(ctx, reader.Device{Link: e})
		if !errors.Is(err, reader.ErrUnsupported) || !strings.Contains(err.Error(), "firmware 1.11; below 1.12") {
			t.Error(err)
		}
		open(t, e, "firmware=any")
	})
	synctest.Test(t, func(t *testing.T) { open(t, newDevice(as(emu.TPDUReader(), 0x04E6, 0x5291, 0x0112))) })
}

func TestQuirks(t *testing.T) {
	sw := unhex("90 00")
	emv := as(emu.TPDUReader(), 0x08E6, 0x4433, 0x0100)
	emv.EMV = true
	chains := as(emu.ExtendedAPDUReader(), 0x2F7C, 0x6007, 0x0100)
	chains.MaxMessage = 271
	chains.Lie = func(c []byte) []byte {
		c[42] = 2 // short APDU
		return c
	}
	lies := as(emu.ShortAPDUReader(), 0x0D46, 0x3010, 0x0100)
	lies.Lie = func(c []byte) []byte {
		c[42] = 4 // extended APDU
		return c
	}
	slow := as(emu.TPDUReader(), 0x0B81, 0x0200, 0x0100)
	ifsd := as(emu.TPDUReader(), 0x0529, 0x0620, 0x0012)
	rates := as(emu.TPDUReader(), 0x058F, 0x9540, 0x0100)
	rates.Rates = []uint32{111875, 223750}
	for name, cfg := range map[string]emu.Config{"EMV mode": emv, "chains": chains, "not extended": lies, "slow": slow, "no IFSD": ifsd, "unstable above 200000": rates,
		"off first": as(emu.TPDUReader(), 0x0D46, 0x301D, 0x0100), "minutes": as(emu.TPDUReader(), 0x08E6, 0x34D2, 0x0100)} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := plug(t, cfg, &testCard{atr: atrT1Fast})
				s := b.session(0)
				transmit(t, s, append(append([]byte{0x80, 0xEE, 0, 0, 250}, pattern(250)...), 0), append(pattern(250), sw...))
				if err := s.Slot().Power(ctx, core.ResetCold, core.Caller{Wait: true}); err != nil {
					t.Fatal(err)
				}
				transmit(t, b.session(0), unhex("00 84 00 00 01"), unhex("00 90 00"))
			})
		})
	}
}

// If the reader leaves the voltage to the host, each one that it supports is tried until
// the card answers.
func TestVoltages(t *testing.T) {
	for _, c := range []struct{ reader, card uint8 }{{7, 1}, {7, 2}, {7, 4}, {3, 2}, {6, 4}, {4, 4}} {
		synctest.Test(t, func(t *testing.T) {
			cfg := emu.TPDUReader()
			cfg.Features &^= emu.AutoVoltage
			cfg.Voltages, cfg.CardVoltages = c.reader, c.card
			b := plug(t, cfg, &testCard{atr: atrT1})
			transmit(t, b.session(0), unhex("00 84 00 00 01"), unhex("00 90 00"))
		})
	}
	synctest.Test(t, func(t *testing.T) {
		cfg := emu.TPDUReader()
		cfg.Features &^= emu.AutoVoltage
		cfg.Voltages, cfg.CardVoltages = 3, 4
		b := plug(t, cfg, &testCard{atr: atrT1})
		if _, err := b.open(0); !errors.Is(err, reader.ErrMute) {
			t.Error(err)
		}
	})
}

// secondInterface returns the emulator's interface as an additional one of the device,
// with endpoints of its own.
func secondInterface(desc []byte, number byte) []byte {
	second := bytes.Clone(desc[18+9:])
	second[2] = number
	for d := second; len(d) > 0; d = d[d[0]:] {
		if d[1] == 5 {
			d[2] += 8
		}
	}
	return second
}

// composite is a device with two interfaces, each an emulated reader.
type composite struct {
	parts [2]*device
	desc  []byte
}

func newComposite(a, b emu.Config) *composite {
	c := &composite{parts: [2]*device{newDevice(a), newDevice(b)}}
	c.desc = c.parts[0].Descriptors()
	second := secondInterface(c.parts[1].Descriptors(), 1)
	c.desc = append(c.desc, second...)
	return c
}

func (c *composite) Descriptors() []byte   { return c.desc }
func (c *composite) Gone() <-chan struct{} { return nil }

func (c *composite) OpenUSB(ctx context.Context, iface uint8) (usb.Conn, error) {
	conn, err := c.parts[iface].OpenUSB(ctx, 0)
	return part{conn, c}, err
}

func (p part) Out(ctx context.Context, ep uint8, b []byte, zlp bool, timeout time.Duration) (int, error) {
	return p.Conn.Out(ctx, ep&^8, b, zlp, timeout)
}

func (p part) In(ctx context.Context, ep uint8, b []byte, timeout time.Duration) (int, error) {
	return p.Conn.In(ctx, ep&^8, b, timeout)
}

func (p part) ClearHalt(ctx context.Context, ep uint8) error { return p.Conn.ClearHalt(ctx, ep&^8) }

type part struct {
	usb.Conn
	c *composite
}

func (p part) Descriptors() []byte { return p.c.desc }

func (p part) Control(ctx context.Context, s usb.Setup, data []byte, timeout time.Duration) (int, error) {
	s.Index = 0
	return p.Conn.Control(ctx, s, data, timeout)
}

// A device with two interfaces is one reader with the slots of both.
func TestComposite(t *testing.T) {
	for name, id := range map[string][2]uint16{
		"plain":       {0xF055, 1},
		"one at once": {0x08E6, 0x5503},
		"no switch":   {0x0424, 0x1202},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := newComposite(as(emu.TPDUReader(), id[0], id[1], 0x100), as(emu.ExtendedAPDUReader(), id[0], id[1], 0x100))
				if n := (Driver{}).CountSlots(c.desc); n != 2 {
					t.Fatal(n, "slots")
				}
				c.parts[1].Contact(0).Insert(&testCard{atr: atrT1})
				r, err := Driver{}.Open(ctx, reader.Device{Link: c})
				if err != nil {
					t.Fatal(err)
				}
				defer c.parts[1].Unplug()
				defer c.parts[0].Unplug()
				defer r.Close()
				first, second := r.Slots()[0], r.Slots()[1]
				status := func(s reader.Slot, want reader.Status) {
					t.Helper()
					if got, err := s.Status(ctx); got != want || err != nil {
						t.Errorf("status %v, %v", got, err)
					}
				}
				status(first, reader.Absent)
				if name == "no switch" {
					status(second, reader.Absent)
				} else {
					status(second, reader.Present)
				}
				c.parts[0].Contact(0).Insert(&testCard{atr: atrT0})
				status(first, reader.Present)
				status(second, reader.Present)
				for _, s := range r.Slots() {
					if _, err := s.PowerOn(ctx, reader.Cold); err != nil {
						t.Fatal(err)
					}
				}
				rx, err := second.Exchange(ctx, reader.Transfer{Out: unhex("00 84 00 00 01")}, nil)
				check(t, rx, err, unhex("00 90 00"), nil)
				rx, err = first.Exchange(ctx, reader.Transfer{Out: unhex("00 84 00 00 01")}, nil)
				check(t, rx, err, unhex("00 90 00"), nil)
				c.parts[1].Unplug()
				<-r.Gone()
			})
		})
	}
	synctest.Test(t, func(t *testing.T) {
		c := newComposite(emu.TPDUReader(), emu.TPDUReader())
		r, err := Driver{}.Open(ctx, reader.Device{Link: c, Params: map[string]string{"interface": "1"}})
		if err != nil || len(r.Slots()) != 1 {
			t.Fatal(err)
		}
		r.Close()
		for _, bad := range []string{"7", "x"} {
			if _, err := (Driver{}).Open(ctx, reader.Device{Link: c, Params: map[string]string{"interface": bad}}); !errors.Is(err, reader.ErrInvalid) {
				t.Error(err)
			}
		}
	})
}

// A reader that reports a card without one is believed until a power-on fails.
func TestPhantom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newDevice(as(emu.ShortAPDUReader(), 0x08E6, 0x3480, 0x0100))
		e.Contact(0).Insert(&testCard{atr: atrT1})
		s := open(t, e).slots[0].(*slot)
		<-s.Changes()
		e.Inject(emu.Fault{Kind: emu.Fail, On: 0x62, Code: 0xFE})
		_, err := s.PowerOn(ctx, reader.Cold)
		if !errors.Is(err, reader.ErrNoCard) {
			t.Error(err)
		}
		if st, _ := s.Status(ctx); st != reader.Absent {
			t.Error(st)
		}
		e.Contact(0).Remove()
		e.Contact(0).Insert(&testCard{atr: atrT1})
		<-s.Changes()
		if st, _ := s.Status(ctx); st != reader.Present {
			t.Error(st)
		}
	})
}

// The PIN pad through the core, at the level at which the host runs T=1.
func TestPINPadThroughCore(t *testing.T) {
	for _, level := range []reader.Level{reader.TPDU, reader.ShortAPDU} {
		for _, atr := range [][]byte{atrT0, atrT1IFSC} {
			synctest.Test(t, func(t *testing.T) {
				cfg := emu.PINPadReader()
				cfg.Level = level
				cfg.Features = emu.AutoParamsATR | emu.AutoVoltage | emu.AutoClock | emu.AutoBaud
				card := &testCard{atr: atr}
				b := plug(t, cfg, card)
				s := b.session(0)
				transmit(t, s, unhex("00 84 00 00 01"), unhex("00 90 00"))
				for _, c := range []struct{ keys, sw string }{{"1234\r", "90 00"}, {"\x1b", "64 01"}, {"1234\r", "90 00"}, {"", "64 00"}} {
					b.e.Press(0, c.keys)
					f := format2()
					rx, err := s.Slot().VerifyPIN(ctx, &reader.PINVerify{PINFormat: f}, core.Caller{Wait: true})
					check(t, rx, err, unhex(c.sw), nil)
				}
				if !bytes.Equal(card.pin, unhex("24 12 34 FF FF FF FF FF")) {
					t.Errorf("% X", card.pin)
				}
				transmit(t, s, unhex("00 84 00 00 01"), unhex("00 90 00"))
			})
		}
	}
}

func TestIdentify(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := emu.PINPadReader()
		cfg.Serial = "007"
		r := open(t, newDevice(cfg))
		model, more := r.Identify()
		if model != "emulated PIN pad reader" || more["version"] != "1.00" || more["level"] != "short APDU" || more["pinpad"] != "verify, modify" || more["serial"] != "007" {
			t.Error(model, more)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		r := open(t, newDevice(as(emu.Config{Level: reader.TPDU}, 0x09BE, 0x0002, 0x0100)))
		model, more := r.Identify()
		if model != "cardfs emulated CCID reader" || !strings.Contains(more["quirks"], "dwMaxIFSD is wrong: cardfs takes 254 for it") {
			t.Error(model, more)
		}
	})
}

func TestIDs(t *testing.T) {
	seen := map[[2]uint16]bool{}
	ids := Driver{}.IDs()
	if ids[0].Class != 0x0B {
		t.Error("the class is not served")
	}
	for _, id := range ids[1:] {
		pair := [2]uint16{id.Vendor, id.Product}
		if seen[pair] || id.Vendor == 0 || id.Model == "" {
			t.Errorf("%+v", id)
		}
		seen[pair] = true
	}
	for _, l := range readListings(t) {
		if l.device["bInterfaceClass"] == "0xFF" {
			d := l.descriptors(t)
			if pair := [2]uint16{uint16(d[8]) | uint16(d[9])<<8, uint16(d[10]) | uint16(d[11])<<8}; !seen[pair] {
				t.Errorf("%s has class FF and is in no list", l.file)
			}
		}
	}
}

// `eject` ejects the card if dwMechanical says that the reader can, and otherwise does
// not touch its power.
func TestEject(t *testing.T) {
	for _, mechanics := range []uint32{2, 0} {
		synctest.Test(t, func(t *testing.T) {
			cfg := emu.ShortAPDUReader()
			cfg.Mechanical = mechanics
			b := plug(t, cfg, &testCard{atr: atrT1})
			s := b.session(0)
			transmit(t, s, unhex("00 84 00 00 01"), unhex("00 90 00"))
			err := s.Slot().Power(ctx, core.Eject, core.Caller{Wait: true})
			switch {
			case mechanics == 0:
				check(t, nil, err, nil, reader.ErrUnsupported)
				transmit(t, s, unhex("00 84 00 00 01"), unhex("00 90 00"))
			case err != nil || b.e.Contact(0).Present():
				t.Error("the card is still in:", err)
			}
		})
	}
}
