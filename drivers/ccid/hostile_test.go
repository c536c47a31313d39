package ccid

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cardfs/cardfs/drivers/bus/usb"
	"github.com/cardfs/cardfs/drivers/ccid/emu"
	"github.com/cardfs/cardfs/reader"
)

// A device chooses its IDs, its interfaces and their protocols freely. No choice may
// crash the daemon, and every reader that opens is usable. The test combines each ID of
// the table of quirks with each pair of bInterfaceProtocol, in both orders.
func TestQuirksOfAnyDevice(t *testing.T) {
	ids := map[model]bool{}
	for _, q := range quirks {
		for _, m := range q.models {
			if m.product == 0 {
				m.product = 0x34C2
			}
			ids[m] = true
		}
	}
	kinds := map[string]func() emu.Config{"CCID": emu.TPDUReader, "ICCD A": emu.ICCDA, "ICCD B": emu.ICCDB,
		"PIN pad": emu.PINPadReader, "characters": emu.CharacterReader, "extended": emu.ExtendedAPDUReader}
	for id := range ids {
		for first, a := range kinds {
			for second, b := range kinds {
				synctest.Test(t, func(t *testing.T) {
					name := fmt.Sprintf("%04X:%04X, %s and %s", id.vendor, id.product, first, second)
					c := newComposite(as(a(), id.vendor, id.product, 0x9999), as(b(), id.vendor, id.product, 0x9999))
					for _, p := range c.parts {
						p.Contact(0).Insert(&testCard{atr: atrT0})
						defer p.Unplug()
					}
					r, err := Driver{}.Open(ctx, reader.Device{Link: c})
					if err != nil {
						t.Errorf("%s: %v", name, err)
						return
					}
					defer r.Close()
					if n := (Driver{}).CountSlots(c.desc); n != len(r.Slots()) {
						t.Errorf("%s: %d slots announced, %d there", name, n, len(r.Slots()))
					}
					r.(reader.Identifier).Identify()
					for n, s := range r.Slots() {
						s.Traits()
						if _, err := s.PowerOn(ctx, reader.Cold); err != nil {
							t.Errorf("%s: slot %d: power on: %v", name, n, err)
						}
						if st, err := s.Status(ctx); st != reader.Powered || err != nil {
							t.Errorf("%s: slot %d: status %v, %v", name, n, st, err)
						}
						x := reader.Transfer{Out: unhex("00 84 00 00 01"), Want: 3}
						if _, err := s.Exchange(ctx, x, nil); err != nil {
							t.Errorf("%s: slot %d: exchange: %v", name, n, err)
						}
						if p, ok := s.(reader.PINPad); ok {
							c.parts[min(n, 1)].Press(0, "1234\r")
							_, err := p.VerifyPIN(ctx, &reader.PINVerify{PINFormat: format2()}, nil)
							kind(t, err) // the emulator does not have every quirk
						}
						if err := s.PowerOff(ctx); err != nil {
							t.Errorf("%s: slot %d: power off: %v", name, n, err)
						}
					}
				})
			}
		}
	}
}

// descriptorsOf returns a device with that many interfaces of the class, each with that
// bMaxSlotIndex, numbered by number. The first of them have endpoints of their own.
func descriptorsOf(cfg emu.Config, interfaces int, maxSlotIndex byte, number func(int) byte) []byte {
	one := edited(cfg, func(c []byte) { c[4], c[53] = maxSlotIndex, 0xFF })
	part := one[18+9:]
	d := bytes.Clone(one[:18+9])
	for n := range interfaces {
		p := bytes.Clone(part)
		p[2] = number(n)
		address := func(k int) byte { return byte(k+k/15+1) & 0x7F } // never endpoint 0
		in := []byte{address(2 * n), address(2*n + 1)}
		for e := p; len(e) > 0; e = e[e[0]:] {
			switch {
			case e[1] == 5 && e[2]&0x80 != 0:
				e[2], in = in[0]|0x80, in[1:]
			case e[1] == 5:
				e[2] = address(n)
			}
		}
		d = append(d, p...)
	}
	return d
}

// The readers in use with the most slots have 8, but a device may announce 256 on each of
// hundreds of interfaces. 16 slots of an interface count, 32 of a device, and the first
// interface of a number. `status` says what was left out.
func TestSlotsAreBounded(t *testing.T) {
	for _, tt := range []struct {
		name       string
		interfaces int
		max        byte
		number     func(int) byte
		slots      int
		note       string
	}{
		{"the most of an interface", 1, 15, func(int) byte { return 0 }, 16, ""},
		{"one more", 1, 16, func(int) byte { return 0 }, 16, "bMaxSlotIndex 16: 16 slots are taken"},
		{"256 slots", 1, 255, func(int) byte { return 0 }, 16, "bMaxSlotIndex 255: 16 slots are taken"},
		{"the most of a device", 2, 15, func(n int) byte { return byte(n) }, 32, ""},
		{"770 interfaces of 256 slots", 770, 255, func(n int) byte { return byte(n) }, 32, "more than 32 slots: 30 interfaces left out"},
		{"256 of them count at all", 770, 255, func(n int) byte { return byte(n) }, 32, "more than 32 interfaces: 224 left out"},
		{"32 interfaces of one slot", 32, 0, func(n int) byte { return byte(n) }, 32, ""},
		{"33 interfaces of one slot", 33, 0, func(n int) byte { return byte(n) }, 32, "more than 32 interfaces: 1 left out"},
		{"one interface, 770 times", 770, 0, func(int) byte { return 3 }, 1, ""},
		{"three of 11 slots: one more than a device has", 3, 10, func(n int) byte { return byte(n) }, 22, "more than 32 slots: 1 interfaces left out"},
		{"two of 16 slots, and 30 more", 32, 15, func(n int) byte { return byte(n) }, 32, "30 interfaces left out"},
		{"one that does not fit between two that do", 3, 15, func(n int) byte { return byte(n) }, 32, "1 interfaces left out"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			d := descriptorsOf(emu.TPDUReader(), tt.interfaces, tt.max, tt.number)
			if n := (Driver{}).CountSlots(d); n != tt.slots {
				t.Errorf("%d slots, want %d", n, tt.slots)
			}
			dev, ifs, err := Parse(d)
			if err != nil {
				t.Fatal(err)
			}
			use := usable(ifs, lookup(dev), anyInterface)
			if notes := strings.Join(use[0].Notes, "; "); !strings.Contains(notes, tt.note) || tt.note == "" && (strings.Contains(notes, "slots are taken") || strings.Contains(notes, "left out")) {
				t.Errorf("notes %q, want %q", notes, tt.note)
			}
			for _, i := range use {
				if int(i.MaxBusySlots) > i.slots() {
					t.Errorf("%d busy of %d slots", i.MaxBusySlots, i.slots())
				}
			}
		})
	}
	// The interface asked for counts, whatever precedes it.
	_, ifs, err := Parse(descriptorsOf(emu.TPDUReader(), 20, 15, func(n int) byte { return byte(n) }))
	if use := usable(ifs, effects{}, 19); err != nil || len(use) != 1 || use[0].Number != 19 {
		t.Errorf("%v, %v", use, err)
	}
}

// Driver and transport agree on the interfaces: alternate setting 0, and the first
// descriptor of a number. Otherwise one would claim endpoints that the other does not
// know.
func TestInterfacesAsTheTransportHasThem(t *testing.T) {
	part := newDevice(emu.TPDUReader()).Descriptors()[18+9:]
	with := func(number, alternate, in byte) []byte {
		p := bytes.Clone(part)
		p[2], p[3] = number, alternate
		for _, at := range []int{9 + 54 + 7 + 2} { // behind the class descriptor: OUT, then IN
			if p[at] != 0x81 {
				t.Fatal("the descriptor has changed")
			}
			p[at] = in
		}
		return p
	}
	head := newDevice(emu.TPDUReader()).Descriptors()[:18+9]
	for name, parts := range map[string][][]byte{
		"the same number twice":         {with(0, 0, 0x81), with(0, 0, 0x85)},
		"an alternate setting behind":   {with(0, 0, 0x81), with(0, 1, 0x85)},
		"an alternate setting in front": {with(0, 1, 0x85), with(0, 0, 0x81)},
		"both":                          {with(0, 2, 0x86), with(0, 0, 0x81), with(0, 1, 0x85), with(0, 0, 0x87)},
	} {
		d := bytes.Clone(head)
		for _, p := range parts {
			d = append(d, p...)
		}
		_, ifs, err := Parse(d)
		if err != nil || len(ifs) != 1 || ifs[0].In.Address != 0x81 {
			t.Errorf("%s: driver has %+v, %v", name, ifs, err)
		}
		all := usb.Interfaces(d)
		if len(all) != 1 || all[0].Endpoints[1].Address != 0x81 {
			t.Errorf("%s: transport has %+v", name, all)
		}
	}
}

// held is a reader whose bulk-IN endpoint gets the transfer's ctx.
type held struct {
	odd
	hold func(ctx context.Context, p []byte) (int, error)
}

func (h *held) OpenUSB(context.Context, uint8) (usb.Conn, error) { return h, nil }

func (h *held) In(ctx context.Context, _ uint8, p []byte, _ time.Duration) (int, error) {
	return h.hold(ctx, p)
}

// reader.Driver: Open ends early with ctx. This holds for a reader that asks for more
// time forever while an abandoned command is being aborted (CCID 1.1 §6.2).
func TestOpenCancelledWhileAborting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		cfg := emu.TPDUReader()
		cfg.NoInterrupt = true
		h := &held{odd: odd{chaos: chaos{desc: newDevice(cfg).Descriptors(), gone: make(chan struct{})}}}
		aborts := 0
		h.hold = func(ctx context.Context, p []byte) (int, error) {
			if h.last[0] == cmdAbort {
				if aborts++; aborts == 1 {
					more := h.answer()
					more[7], more[8] = 0x80, 0xFF
					return copy(p, more), nil
				}
			}
			<-ctx.Done()
			return 0, ctx.Err()
		}
		time.AfterFunc(time.Second, cancel)
		start := time.Now()
		r, err := Driver{}.Open(ctx, reader.Device{Link: h})
		if r != nil || !errors.Is(err, context.Canceled) || time.Since(start) > time.Second {
			t.Errorf("%v, %v after %v", r, err, time.Since(start))
		}
	})
}

// Recovery after an abandoned call ends with Close; the transfer learns of that only
// through its ctx.
func TestCloseWhileAborting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := emu.TPDUReader()
		cfg.NoInterrupt = true
		h := &held{odd: odd{chaos: chaos{desc: newDevice(cfg).Descriptors(), gone: make(chan struct{})}}}
		aborting := make(chan struct{})
		h.hold = func(ctx context.Context, p []byte) (int, error) {
			switch h.last[0] {
			case cmdSlotStatus:
				return copy(p, h.answer()), nil
			case cmdAbort:
				close(aborting)
			}
			<-ctx.Done()
			return 0, ctx.Err()
		}
		r, err := Driver{}.Open(t.Context(), reader.Device{Link: h})
		if err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() {
			_, err := r.Slots()[0].Exchange(ctx, reader.Transfer{Out: []byte{0}, Wait: time.Minute}, nil)
			done <- err
		}()
		synctest.Wait()
		cancel()
		<-aborting
		r.Close()
		if err := <-done; err == nil || time.Since(start) > 0 {
			t.Errorf("%v after %v", err, time.Since(start))
		}
	})
}

// parting is an ICCD device whose host gives up with its first answer.
type parting struct {
	odd
	cancel func()
	closed bool
}

func (p *parting) OpenUSB(context.Context, uint8) (usb.Conn, error) { return p, nil }

func (p *parting) Control(_ context.Context, _ usb.Setup, data []byte, _ time.Duration) (int, error) {
	p.cancel()
	return len(data), nil
}

func (p *parting) Close() error {
	p.closed = true
	return nil
}

// A reader whose Open is cancelled at the last moment is released and not returned.
func TestOpenCancelledAtLast(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		cfg := emu.ICCDB()
		cfg.NoInterrupt = true
		p := &parting{cancel: cancel, odd: odd{chaos: chaos{desc: newDevice(cfg).Descriptors(), gone: make(chan struct{})}}}
		r, err := Driver{}.Open(ctx, reader.Device{Link: p})
		if r != nil || !errors.Is(err, context.Canceled) || !p.closed {
			t.Errorf("%v, %v, closed %v", r, err, p.closed)
		}
	})
}
