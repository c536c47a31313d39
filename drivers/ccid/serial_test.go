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

	"github.com/cardfs/cardfs/drivers/bus/serial/serialtest"
	"github.com/cardfs/cardfs/drivers/ccid/emu"
	"github.com/cardfs/cardfs/reader"
	"github.com/cardfs/cardfs/reader/core"
	"github.com/cardfs/cardfs/reader/readertest"
)

// openSerial opens a reader on a serial line with the driver alone.
func openSerial(t *testing.T, link reader.Link, params ...string) *slot {
	t.Helper()
	r, err := openedSerial(link, params...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	return r.Slots()[0].(*slot)
}

func openedSerial(link reader.Link, params ...string) (reader.Reader, error) {
	dev := reader.Device{Driver: "ccid", Address: "/dev/ttyS0", Link: link, Params: map[string]string{}}
	for _, p := range params {
		k, v, _ := strings.Cut(p, "=")
		dev.Params[k] = v
	}
	return Driver{}.Open(ctx, dev)
}

func TestDriverPlaysSerialSession(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		session, err := serialtest.Load("testdata/serial.txt")
		if err != nil {
			t.Fatal(err)
		}
		p := serialtest.NewPlayer(t, session)
		s := openSerial(t, p)
		p.Step("power on")
		got, err := s.PowerOn(ctx, reader.Cold)
		check(t, got, err, atrT0, nil)
		exchange := func(tx, rx string) {
			t.Helper()
			got, err := s.Exchange(ctx, reader.Transfer{Out: unhex(tx)}, nil)
			check(t, got, err, unhex(rx), nil)
		}
		p.Step("a command")
		exchange("00 84 00 00 04", "00 01 02 03 90 00")
		p.Step("the line changes a command")
		exchange("00 84 00 00 04", "00 01 02 03 90 00")
		<-s.Changes() // what was damaged may have been a notice
		p.Step("a command of 0.7 s, with a request for time")
		extended := 0
		got, err = s.Exchange(ctx, reader.Transfer{Out: unhex("80 E8 00 07 00"), Extended: func() { extended++ }}, nil)
		check(t, got, err, unhex("90 00"), nil)
		if extended != 1 {
			t.Errorf("%d requests for time, want 1", extended)
		}
		p.Step("the card leaves, and comes back")
		<-s.Changes()
		p.Step("it is back")
		<-s.Changes()
		p.Step("power off")
		if err := s.PowerOff(ctx); err != nil {
			t.Error(err)
		}
		<-s.gone
		if _, err := s.Status(ctx); !errors.Is(err, reader.ErrGone) {
			t.Errorf("status after the reader left: %v", err)
		}
	})
}

func TestTwinPlaysSession(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		session, err := serialtest.Load("testdata/serial.txt")
		if err != nil {
			t.Fatal(err)
		}
		e := emu.NewTwin()
		e.Requests = true
		card := &testCard{atr: atrT0}
		e.Contacts()[0].Insert(card)
		p := serialtest.Plug(e)
		toDevice := 0
		p.Observe(func(e serialtest.Entry) {
			if e.Kind == serialtest.Out {
				toDevice += len(e.Data)
			}
		})
		serialtest.Replay(t, session, p, map[string]func(){
			"a character changes": func() { p.Inject(serialtest.Fault{At: toDevice + 14, Kind: serialtest.Change}) },
			"the card leaves":     func() { e.Contacts()[0].Remove() },
			"the card comes":      func() { e.Contacts()[0].Insert(card) },
		})
		p.Unplug()
	})
}

// What the core relies on.
func TestSerialSuite(t *testing.T) {
	for _, c := range []struct {
		name string
		make func() *emu.Serial
		atr  []byte
	}{
		{"twin", emu.NewTwin, atrT1},
		{"pinpad", emu.NewPinPad, atrT0},
		{"gemcore", func() *emu.Serial { return emu.NewGemCore(5) }, atrT1},
		{"sec1210", func() *emu.Serial { return emu.NewSEC1210(2) }, atrT0},
	} {
		t.Run(c.name, func(t *testing.T) {
			readertest.Suite(t, func(t *testing.T) *readertest.Fixture {
				e := c.make()
				var slots []readertest.Slot
				for _, contact := range e.Contacts() {
					contact.Insert(&testCard{atr: c.atr})
					slots = append(slots, readertest.Contact(contact, false))
				}
				p := serialtest.Plug(e)
				return &readertest.Fixture{
					Driver:  Driver{},
					Device:  reader.Device{Driver: "ccid", Address: "/dev/ttyS0", Link: p, Slots: len(slots), Params: map[string]string{"model": c.name}},
					Command: unhex("00 84 00 00 04"), Answer: unhex("00 01 02 03 90 00"),
					Slots:  slots,
					Unplug: p.Unplug, Close: p.Unplug,
				}
			})
		})
	}
}

// serialBench is a reader on a serial line behind the core, as programs see it.
func serialBench(t *testing.T, e *emu.Serial, card *testCard) (*serialtest.Plugged, *core.Manager) {
	t.Helper()
	e.Contacts()[0].Insert(card)
	p := serialtest.Plug(e)
	m := core.NewManager(core.Options{Drivers: []reader.Driver{Driver{}}})
	if err := m.Announce(reader.Device{Driver: "ccid", Address: "/dev/ttyS0", Link: p}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		m.Close(context.Background())
		p.Unplug()
	})
	return p, m
}

func TestSerialExchanges(t *testing.T) {
	for _, atr := range [][]byte{atrT0, atrT0Fast, atrT1, atrT1IFSC, atrT1Fast, atrInverse} {
		t.Run(fmt.Sprintf("% X", atr), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				_, m := serialBench(t, emu.NewTwin(), &testCard{atr: atr})
				synctest.Wait()
				s := (&bench{t: t, m: m}).session(0)
				exercise(t, s, 255)
			})
		})
	}
}

// faultySerial runs power-up and a VERIFY with one fault, and returns how often the card saw it.
// Nothing may hang, the card must not see the command twice, an answer must be the right
// one, and the reader must work afterwards unless it left.
func faultySerial(t *testing.T, e *emu.Serial, inject func(p *serialtest.Plugged, toDev, toHost int)) (err error) {
	t.Helper()
	card := &testCard{atr: atrT0}
	e.Contacts()[0].Insert(card)
	p := serialtest.Plug(e)
	defer p.Unplug()
	r, err := openedSerial(p)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	s := r.Slots()[0].(*slot)
	if _, err := s.PowerOn(ctx, reader.Cold); err != nil {
		t.Fatal(err)
	}
	dev, host := p.Sent()
	inject(p, dev, host)
	verify := unhex("00 20 00 01 04 31 32 33 34")
	got, err := s.Exchange(ctx, reader.Transfer{Out: verify}, nil)
	if n := card.count(); n > 1 || err == nil && n != 1 {
		t.Errorf("the card saw the command %d times; the exchange ended with %v", n, err)
	}
	if err == nil && !bytes.Equal(got, unhex("90 00")) {
		t.Errorf("% X", got)
	}
	if err != nil && errors.Is(err, reader.ErrGone) {
		select {
		case <-r.Gone():
		case <-time.After(time.Minute):
			t.Error("gone, but not Gone")
		}
		return err
	}
	// "What held a command is cleared after use."
	c := s.conn.(*serialConn)
	c.mu.Lock()
	if len(c.frame) > 0 || bytes.ContainsAny(c.frame[:cap(c.frame)], "234") {
		t.Errorf("the command is still in the driver; it ended with %v", err)
	}
	c.mu.Unlock()
	e.Corrupt(nil)
	got, again := s.Exchange(ctx, reader.Transfer{Out: unhex("00 84 00 00 04")}, nil)
	if again != nil || !bytes.Equal(got, unhex("00 01 02 03 90 00")) {
		t.Errorf("the command after it: % X, %v; it ended with %v", got, again, err)
	}
	return err
}

// Each character of a command, its echo and its answer, and each fault.
func TestSerialFaults(t *testing.T) {
	for _, echo := range []bool{true, false} {
		for _, toHost := range []bool{true, false} {
			const frame = 2 + 10 + 9 + 1
			n := frame
			if toHost {
				n = 2 + 10 + 2 + 1
				if echo {
					n += frame
				}
			}
			for at := range n {
				for _, f := range serialtest.Menu(toHost, at) {
					t.Run(fmt.Sprintf("echo %v, to host %v, %d, %v", echo, toHost, at, f.Kind), func(t *testing.T) {
						synctest.Test(t, func(t *testing.T) {
							e := emu.NewTwin()
							e.Echo = echo
							err := faultySerial(t, e, func(p *serialtest.Plugged, dev, host int) {
								f := f
								if f.At += dev; toHost {
									f.At += host - dev
								}
								p.Inject(f)
							})
							switch f.Kind {
							case serialtest.Change, serialtest.Lose, serialtest.Double, serialtest.Noise, serialtest.Parity:
								// A frame that the reader does not see, it does not refuse.
								unseen := !toHost && (at < 2 || errors.Is(err, reader.ErrTimeout)) && !(f.Kind == serialtest.Change && at > 6)
								if err != nil && !unseen {
									t.Errorf("one character, and no repetition: %v", err)
								}
							case serialtest.HangUp, serialtest.Silence:
								if !errors.Is(err, reader.ErrGone) {
									t.Errorf("%v, want ErrGone", err)
								}
							}
						})
					})
				}
			}
		}
	}
}

func TestSerialOpenFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := serialtest.Plug(serialtest.DeviceFunc(func(l *serialtest.Line) {
			for {
				if _, ok := l.Char(); !ok {
					return
				}
			}
		}))
		defer p.Unplug()
		if _, err := openedSerial(p); !errors.Is(err, reader.ErrTimeout) || errors.Is(err, reader.ErrGone) || !strings.Contains(err.Error(), "no reader answers") {
			t.Error(err)
		}
	})
}

func TestSerialAttach(t *testing.T) {
	for _, c := range []struct {
		address, params, model string
	}{
		{"/dev/ttyS0", "", "Gemalto GemPC Twin"},
		{"/dev/ttyS0", "model=twin", "Gemalto GemPC Twin"},
		{"/dev/serial/by-id/usb-A-B", "model=pinpad", "Gemalto GemPC PinPad"},
		{"/dev/ttyS0", "model=gemcore", "Gemalto GemCore POS Pro"},
		{"/dev/ttyS0", "model=simpro", "Gemalto GemCore SIM Pro"},
		{"/dev/ttyS0", "model=sec1210", "Microchip SEC1210"},
		{"/dev/ttyS0", "model=", ""},
		{"/dev/ttyS0", "model=Twin", ""},
		{"/dev/ttyS0", "interface=1", ""},
	} {
		dev := reader.Device{Driver: "ccid", Address: c.address, Params: map[string]string{}}
		if k, v, ok := strings.Cut(c.params, "="); ok {
			dev.Params[k] = v
		}
		got, err := Driver{}.Attach(dev)
		switch {
		case c.model == "" && !errors.Is(err, reader.ErrInvalid):
			t.Errorf("%s %s: %v", c.address, c.params, err)
		case c.model == "":
		case err != nil || got.ID.Model != c.model || got.Bus != "serial" || got.Link == nil:
			t.Errorf("%s %s: %+v, %v", c.address, c.params, got, err)
		}
		if d, ok := got.Link.(reader.Detacher); ok {
			d.Detached()
		}
	}
	if dev, err := (Driver{}).Attach(reader.Device{Address: "usb:1-2"}); err != nil || dev.Link != nil {
		t.Errorf("a USB address: %+v, %v", dev, err)
	}
}

// The models' descriptors are ones that the driver need not correct.
func TestSerialModels(t *testing.T) {
	for name, m := range serialModels {
		info, ifs, err := Parse(m.descriptors())
		if err != nil || len(ifs) != 1 || len(ifs[0].Notes) > 0 {
			t.Fatalf("%s: %+v, %v", name, ifs, err)
		}
		i := ifs[0]
		if info.Vendor != m.vendor || info.Product != m.product || i.slots() != int(m.slots) || i.MaxMessage != 271 || i.Features.Level() != reader.TPDU {
			t.Errorf("%s: %+v %+v", name, info, i)
		}
		if pin := i.PINSupport == 3; pin != (name == "pinpad") {
			t.Errorf("%s: PIN pad %v", name, pin)
		}
		if notes := i.Intr.Address != 0; notes == m.polled {
			t.Errorf("%s: notices %v", name, notes)
		}
	}
}

func TestSerialIdentify(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for text, want := range map[string]string{"GemTwin-V2.00   ": "GemTwin-V2.00", "": "unknown", "a\x00b": "unknown"} {
			e := emu.NewTwin()
			e.Firmware = text
			p := serialtest.Plug(e)
			s := openSerial(t, p)
			if name, more := s.Identify(); name != "Gemalto GemPC Twin" || more["version"] != want || more["level"] != "TPDU" {
				t.Errorf("%q: %q %v", text, name, more)
			}
			p.Unplug()
		}
	})
}

// A card is noticed within no time, also in the middle of a command; right behind one within
// what is nothing to whoever puts it in.
func TestSerialNotices(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := emu.NewTwin()
		p := serialtest.Plug(e)
		defer p.Unplug()
		s := openSerial(t, p)
		synctest.Wait()
		start := time.Now()
		card := &testCard{atr: atrT0}
		for range 3 {
			e.Contacts()[0].Insert(card)
			<-s.Changes()
			if now, err := s.Status(ctx); now != reader.Present || err != nil {
				t.Error(now, err)
			}
			e.Contacts()[0].Remove()
			<-s.Changes()
			if now, err := s.Status(ctx); now != reader.Absent || err != nil {
				t.Error(now, err)
			}
		}
		if d := time.Since(start); d > 6*10*time.Millisecond {
			t.Errorf("it took %v", d)
		}
		time.Sleep(time.Second)
		start = time.Now()
		e.Contacts()[0].Insert(card)
		<-s.Changes()
		if d := time.Since(start); d != 0 {
			t.Errorf("at rest it took %v", d)
		}
		if _, err := s.PowerOn(ctx, reader.Cold); err != nil {
			t.Fatal(err)
		}
		time.AfterFunc(time.Second, func() { e.Contacts()[0].Remove() })
		_, err := s.Exchange(ctx, reader.Transfer{Out: unhex("80 E8 00 40 00")}, nil)
		if !errors.Is(err, reader.ErrNoCard) {
			t.Error(err)
		}
		<-s.Changes()
	})
}

// A reader without notices is polled.
func TestSerialPolled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := serialtest.Plug(emu.NewTwin())
		defer p.Unplug()
		if s := openSerial(t, p, "model=sec1210"); s.Changes() != nil {
			t.Error("it is not polled")
		}
	})
}

// A GemCore SIM Pro 2 wakes up at 9600 bit/s, and is told to go on at 115200. One that was
// told before answers only there; one that is not there at all is an error, in time.
func TestSerialSlowReader(t *testing.T) {
	for _, c := range []struct {
		name string
		make func() *emu.Serial
		wait time.Duration
	}{
		{"9600", emu.NewSIMPro2, 250 * time.Millisecond},
		{"115200", func() *emu.Serial { return emu.NewGemCore(2) }, time.Second},
		{"silent", nil, time.Minute},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				if c.make == nil {
					p := serialtest.Plug(serialtest.DeviceFunc(func(l *serialtest.Line) { <-l.Context().Done() }))
					defer p.Unplug()
					start := time.Now()
					_, err := openedSerial(p, "model=simpro2")
					if took := time.Since(start); err == nil || took > c.wait {
						t.Errorf("%v after %v", err, took)
					}
					return
				}
				e := c.make()
				p := serialtest.Plug(e)
				defer p.Unplug()
				start := time.Now()
				r, err := openedSerial(p, "model=simpro2")
				if took := time.Since(start); err != nil || took > c.wait {
					t.Fatalf("%v after %v", err, took)
				}
				defer r.Close()
				if n := len(r.Slots()); n != 2 {
					t.Errorf("%d slots", n)
				}
				e.Contacts()[1].Insert(&testCard{atr: atrT0})
				got, err := r.Slots()[1].PowerOn(ctx, reader.Cold)
				check(t, got, err, atrT0, nil)
			})
		})
	}
}

// A reader that asks for time for as long as its card works, and one that does so for ever.
func TestSerialMoreTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := emu.NewTwin()
		e.Requests = true
		e.Contacts()[0].Insert(&testCard{atr: atrT0})
		p := serialtest.Plug(e)
		defer p.Unplug()
		s := openSerial(t, p)
		if _, err := s.PowerOn(ctx, reader.Cold); err != nil {
			t.Fatal(err)
		}
		got, err := s.Exchange(ctx, reader.Transfer{Out: unhex("80 E8 00 FF 00")}, nil) // 25.5 s
		check(t, got, err, unhex("90 00"), nil)
		until := time.Now().Add(10 * time.Second)
		_, err = s.Exchange(ctx, reader.Transfer{Out: unhex("80 E8 00 FF 00"), Until: until}, nil)
		if !errors.Is(err, reader.ErrTimeout) || time.Since(until) > 5*time.Second {
			t.Errorf("%v after the limit: %v", time.Since(until), err)
		}
		got, err = s.Exchange(ctx, reader.Transfer{Out: unhex("00 84 00 00 04")}, nil)
		check(t, got, err, unhex("00 01 02 03 90 00"), nil)
	})
}
