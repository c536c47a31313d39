package core

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cardfs/cardfs/reader"
	"github.com/cardfs/cardfs/reader/iso7816"
)

// bomb is a slot, reader and driver with every optional interface. The method that where
// names panics.
type bomb struct {
	*fakeSlot
	where string
	gone  chan struct{}
}

func (b *bomb) at(where string) {
	if b.where == where {
		var none []int
		_ = none[len(where)] // a runtime error, as most panics are
	}
}

func (b *bomb) Changes() <-chan struct{} { b.at("Changes"); return b.fakeSlot.Changes() }
func (b *bomb) Status(ctx context.Context) (reader.Status, error) {
	b.at("Status")
	return b.fakeSlot.Status(ctx)
}
func (b *bomb) PowerOn(ctx context.Context, how reader.Reset) ([]byte, error) {
	b.at("PowerOn")
	return b.fakeSlot.PowerOn(ctx, how)
}
func (b *bomb) PowerOff(ctx context.Context) error { b.at("PowerOff"); return b.fakeSlot.PowerOff(ctx) }
func (b *bomb) Traits() reader.Traits              { b.at("Traits"); return b.fakeSlot.Traits() }
func (b *bomb) Exchange(ctx context.Context, x reader.Transfer, dst []byte) ([]byte, error) {
	b.at("Exchange")
	return b.fakeSlot.Exchange(ctx, x, dst)
}
func (b *bomb) SetParams(context.Context, iso7816.Params) error { b.at("SetParams"); return nil }
func (b *bomb) Supports(byte) bool                              { b.at("Supports"); return true }
func (b *bomb) Eject(context.Context) error                     { b.at("Eject"); return nil }
func (b *bomb) Escape(context.Context, []byte) ([]byte, error)  { b.at("Escape"); return nil, nil }
func (b *bomb) Show(context.Context, string, time.Duration) error {
	b.at("Show")
	return nil
}
func (b *bomb) Input(context.Context, reader.KeyInput) ([]byte, error) {
	b.at("Input")
	return nil, nil
}
func (b *bomb) Describe() map[string]string { b.at("Describe"); return nil }
func (b *bomb) PINSupport() reader.PINSupport {
	b.at("PINSupport")
	return reader.PINSupport{Verify: true, Modify: true}
}
func (b *bomb) VerifyPIN(context.Context, *reader.PINVerify, []byte) ([]byte, error) {
	b.at("VerifyPIN")
	return hexb("90 00"), nil
}
func (b *bomb) ModifyPIN(context.Context, *reader.PINModify, []byte) ([]byte, error) {
	b.at("ModifyPIN")
	return hexb("90 00"), nil
}

// Reader.
func (b *bomb) Slots() []reader.Slot  { b.at("Slots"); return []reader.Slot{b, newFakeSlotOf(b)} }
func (b *bomb) Gone() <-chan struct{} { b.at("Gone"); return b.gone }
func (b *bomb) Err() error            { b.at("Err"); return nil }
func (b *bomb) Close() error {
	select {
	case <-b.gone:
	default:
		close(b.gone)
	}
	b.at("Close")
	return nil
}
func (b *bomb) Identify() (string, map[string]string) { b.at("Identify"); return "bomb", nil }

func newFakeSlotOf(b *bomb) *fakeSlot {
	s := newFakeSlot(b.t)
	s.gone = b.gone
	return s
}

// Driver.
func (b *bomb) Name() string     { return "bomb" }
func (b *bomb) IDs() []reader.ID { return nil }
func (b *bomb) Open(_ context.Context, dev reader.Device) (reader.Reader, error) {
	b.at("Open")
	if b.where == "Go" {
		reader.Go(dev.Host, func() { b.at("Go") })
	}
	return b, nil
}
func (b *bomb) Attach(dev reader.Device) (reader.Device, error) {
	b.at("Attach")
	dev.Slots = 2
	return dev, nil
}
func (b *bomb) Command(context.Context, reader.Device, []string) error {
	b.at("Command")
	return nil
}
func (b *bomb) Usage() []string { b.at("Usage"); return []string{"bomb N tick"} }

// "No driver's panic takes anything but its reader". Whichever call of the core panics, it
// returns an error and the turn is given back. The reader reports failed with the reason and
// is closed. Other readers are not affected.
func TestPanics(t *testing.T) {
	bg := context.Background()
	verify := &reader.PINVerify{PINFormat: reader.PINFormat{APDU: hexb("00 20 00 01 08 FF FF FF FF FF FF FF FF")}}
	modify := &reader.PINModify{PINFormat: reader.PINFormat{APDU: hexb("00 24 00 01 08 FF FF FF FF FF FF FF FF")}}
	command := func(b *Slot) (*Session, error) { return b.Open(bg, someone()) }
	for _, tt := range []struct {
		where string
		do    func(b *Slot) error // what calls it, where announcing does not
	}{
		{"Open", nil}, {"Slots", nil}, {"Gone", nil}, {"Identify", nil}, {"Go", nil},
		{"Status", nil}, {"Changes", nil}, {"Traits", nil},
		{"PowerOn", func(b *Slot) error { _, err := command(b); return err }},
		{"SetParams", func(b *Slot) error { _, err := command(b); return err }},
		{"Supports", func(b *Slot) error { _, err := command(b); return err }},
		{"Exchange", func(b *Slot) error {
			s, err := command(b)
			if err != nil {
				return err
			}
			_, err = s.Transmit(bg, hexb("00 01 00 00"), nil)
			return err
		}},
		{"PowerOff", func(b *Slot) error {
			if _, err := command(b); err != nil {
				return err
			}
			return b.Power(bg, PowerDown, someone())
		}},
		{"Eject", func(b *Slot) error { return b.Power(bg, Eject, someone()) }},
		{"Escape", func(b *Slot) error { _, err := b.Control(bg, CtlEscape, nil, someone()); return err }},
		{"Show", func(b *Slot) error { return b.Show(bg, "hello", 0, someone()) }},
		{"Input", func(b *Slot) error { _, err := b.Input(bg, reader.KeyInput{}, someone()); return err }},
		{"Describe", func(b *Slot) error { b.Info(); return b.Power(bg, PowerUp, someone()) }},
		{"PINSupport", func(b *Slot) error { b.PINSupport(); return b.Power(bg, PowerUp, someone()) }},
		{"VerifyPIN", func(b *Slot) error {
			if _, err := command(b); err != nil {
				return err
			}
			_, err := b.VerifyPIN(bg, verify, someone())
			return err
		}},
		{"ModifyPIN", func(b *Slot) error {
			if _, err := command(b); err != nil {
				return err
			}
			_, err := b.ModifyPIN(bg, modify, someone())
			return err
		}},
	} {
		t.Run(tt.where, func(t *testing.T) {
			var log bytes.Buffer
			synctest.Test(t, func(t *testing.T) {
				d := &bomb{fakeSlot: newFakeSlot(t), where: tt.where, gone: make(chan struct{})}
				d.atr = atrFast
				d.traits.AutoPPS, d.traits.Level = false, reader.TPDU
				d.exchange = func(_ context.Context, x reader.Transfer, dst []byte) ([]byte, error) {
					if x.Out[0] == 0xFF { // PPS
						return append(dst, x.Out...), nil
					}
					return append(dst, hexb("00 E1 01 FE 1E")...), nil // S(IFS response)
				}
				if tt.where == "VerifyPIN" || tt.where == "ModifyPIN" || tt.where == "PowerOff" || tt.where == "Exchange" {
					d.traits.AutoPPS, d.traits.Level, d.exchange = true, reader.ExtendedAPDU, nil
				}
				r := newRig(t, Options{Drivers: []reader.Driver{d}, Log: slog.New(slog.NewTextHandler(&log, nil))})
				defer r.Close(bg)
				_, other := r.plug(reader.Device{Address: "other"}, newFakeSlot(t))
				session := mustOpen(t, other, someone())
				if err := r.Attach("bomb", "x", nil); err != nil {
					t.Fatal(err)
				}
				b := r.Slot(1)
				if tt.do != nil {
					if err := b.WaitReady(bg, true); err != nil {
						t.Fatal(err)
					}
					if err := tt.do(b); !errors.Is(err, reader.ErrFailed) {
						t.Errorf("error %v, want ErrFailed", err)
					}
				}
				synctest.Wait()
				for _, b := range []*Slot{r.Slot(1), r.Slot(2)} {
					// A caller that waits for the turn learns first that the reader failed, so only
					// the turn itself shows whether somebody has it.
					if len(b.turn) != 0 {
						t.Error("the turn was not given back")
					}
					i := b.Info()
					if i.State != StateFailed || !strings.HasPrefix(i.Err.Error(), "bomb x: ") || !strings.Contains(i.Err.Error(), "panic: runtime error: index out of range") {
						t.Errorf("state %s, error %v", i.State, i.Err)
					}
					_, err := b.Open(bg, someone())
					wantErr(t, "open", err, reader.ErrFailed)
					wantErr(t, "power", b.Power(bg, PowerDown, someone()), reader.ErrFailed)
				}
				if d.where != "Open" && !closed(d.gone) {
					t.Error("the reader was not closed")
				}
				if n := strings.Count(log.String(), "msg=panic"); n != 1 {
					t.Errorf("logged %d times:\n%s", n, log.String())
				}
				if !strings.Contains(log.String(), "(*bomb)."+tt.where) && tt.where != "Go" {
					t.Errorf("the log does not say where:\n%s", log.String())
				}
				wantAnswer(t, session, "00 01 00 00", "00 01 00 00 90 00")
				// Once the fault is gone the reader works as before.
				d.where, d.gone = "", make(chan struct{})
				r.Rescan()
				synctest.Wait()
				mustOpen(t, r.Slot(2), someone())
			})
		})
	}
}

// If a driver panics in its Attach, Command, Usage or Close, the call returns an error, and
// nothing else happens.
func TestPanicsOfNoReader(t *testing.T) {
	bubble(t, Options{}, func(t *testing.T, r *rig) {
		d := &bomb{fakeSlot: newFakeSlot(t), gone: make(chan struct{})}
		r.options.Drivers = append(r.options.Drivers, d)
		d.where = "Attach"
		wantErr(t, "attach", r.Attach("bomb", "x", nil), reader.ErrFailed)
		d.where = ""
		if err := r.Attach("bomb", "x", nil); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		d.where = "Command"
		wantErr(t, "command", r.CommandDriver("bomb", 0, []string{"tick"}), reader.ErrFailed)
		d.where = "Usage"
		if usage, b := r.Usage(d), r.Slot(0); len(usage) != 0 || b == nil || b.Brief().State != StatePresent {
			t.Errorf("usage %q, numbers %q", usage, r.numbers())
		}
		d.where = "Close"
		if err := r.Detach(0); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if len(r.ifds) != 0 {
			t.Error("the reader did not leave")
		}
		if err := reader.Guard(slog.New(slog.DiscardHandler), "x", func() { panic("\x1b[2J") }); !errors.Is(err, reader.ErrFailed) || strings.Contains(err.Error(), "\x1b") {
			t.Errorf("guard: %q", err)
		}
		if err := reader.Guard(nil, "x", func() {}); err != nil {
			t.Error(err)
		}
	})
}

// A command in another slot that is under way when the reader fails reports the failure.
func TestPanicBesideACommand(t *testing.T) {
	bg := context.Background()
	bubble(t, Options{}, func(t *testing.T, r *rig) {
		one, two := newFakeSlot(t), newFakeSlot(t)
		fake := newFakeReader(one, two)
		fake.close = func() error { fake.unplug(); return nil }
		b := r.plugReader(reader.Device{Slots: 2}, fake)
		two.exchange = func(_ context.Context, _ reader.Transfer, dst []byte) ([]byte, error) {
			<-two.gone
			return dst, errors.New("closed")
		}
		under := asyncTransmit(mustOpen(t, r.Slot(1), someone()), bg, "00 01 00 00")
		waiting := asyncTransmit(mustOpen(t, r.Slot(1), someone()), bg, "00 01 00 00")
		synctest.Wait()
		one.exchange = func(context.Context, reader.Transfer, []byte) ([]byte, error) { panic("boom") }
		_, err := mustOpen(t, b, someone()).Transmit(bg, hexb("00 01 00 00"), nil)
		wantErr(t, "transmit", err, reader.ErrFailed)
		i := b.Info()
		if i.State != "failed" || !strings.Contains(i.Err.Error(), "boom") {
			t.Errorf("%+v", i)
		}
		// No trace of a card is left.
		if i.ATR != nil || i.Sessions != 0 || b.hasCard() {
			t.Errorf("a failed slot with a card: %+v", i)
		}
		_, err = under.get()
		wantErr(t, "the command under way", err, reader.ErrFailed)
		_, err = waiting.get()
		wantErr(t, "the command that waits", err, reader.ErrFailed)
		synctest.Wait()
		for _, s := range []*Slot{b, r.Slot(1)} {
			if len(s.turn) != 0 {
				t.Errorf("slot %d: the turn was not given back", s.number)
			}
		}
	})
}

// A panic may leave a lock of the driver locked, so that Close never ends. The slot still
// reports failed and leaves at once when it is unplugged, and the next reader of the same
// name is opened.
func TestPanicAndNoClose(t *testing.T) {
	bg := context.Background()
	for _, how := range []string{"rescan", "replug"} {
		t.Run(how, func(t *testing.T) {
			bubble(t, Options{}, func(t *testing.T, r *rig) {
				slot, let := newFakeSlot(t), make(chan struct{})
				defer close(let)
				slot.exchange = func(context.Context, reader.Transfer, []byte) ([]byte, error) { panic("boom") }
				fake := newFakeReader(slot)
				fake.close = func() error { <-let; return nil }
				healthy := newFakeReader(newFakeSlot(t))
				first := true
				r.driver.open = func(context.Context, reader.Device) (reader.Reader, error) {
					if first {
						first = false
						return fake, nil
					}
					return healthy, nil
				}
				b := r.announce(reader.Device{})
				_, err := mustOpen(t, b, someone()).Transmit(bg, hexb("00 01 00 00"), nil)
				wantErr(t, "transmit", err, reader.ErrFailed)
				synctest.Wait()
				if how == "rescan" {
					r.Rescan()
				} else {
					r.Detach(0)
					if r.Slot(0) != nil {
						t.Error("the directory waits for Close")
					}
					r.announce(reader.Device{})
				}
				time.Sleep(letGoLimit)
				synctest.Wait()
				mustOpen(t, r.Slot(0), someone())
			})
		})
	}
}

// A failed reader is closed, and its slots then report that they are gone. Its state stays
// failed.
func TestGoneAfterPanic(t *testing.T) {
	bubble(t, Options{}, func(t *testing.T, r *rig) {
		one, two := newFakeSlot(t), newFakeSlot(t)
		fake := newFakeReader(one, two)
		fake.close = func() error { fake.unplug(); return nil }
		two.state = func(context.Context) (reader.Status, error) { <-two.gone; return reader.Absent, reader.ErrGone }
		b := r.plugReader(reader.Device{Slots: 2}, fake)
		one.exchange = func(context.Context, reader.Transfer, []byte) ([]byte, error) { panic("boom") }
		_, err := mustOpen(t, b, someone()).Transmit(context.Background(), hexb("00 01 00 00"), nil)
		wantErr(t, "transmit", err, reader.ErrFailed)
		synctest.Wait()
		if other := r.Slot(1); r.Slot(0) != b || b.Info().State != "failed" || other == nil || other.Info().State != "failed" {
			t.Errorf("numbers %q", r.numbers())
		}
	})
}

// A goroutine of the driver that panics while Open still waits ends Open. The reader failed,
// and has not left: its files are there to say why.
func TestPanicWhileOpening(t *testing.T) {
	bubble(t, Options{}, func(t *testing.T, r *rig) {
		driver := &fakeDriver{name: "fake"}
		r.options.Drivers = append(r.options.Drivers, driver)
		err := r.Announce(reader.Device{Driver: "fake", Address: "x", Link: opener(func(ctx context.Context, dev reader.Device) (reader.Reader, error) {
			reader.Go(dev.Host, func() { panic("a fault") })
			<-ctx.Done()
			return nil, ctx.Err()
		})})
		if err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		b := r.Slot(0)
		if i := b.Info(); i.State != "failed" || i.Err == nil || !strings.Contains(i.Err.Error(), "panic: a fault") {
			t.Errorf("state %s, error %v", i.State, i.Err)
		}
		if b.Gone() {
			t.Error("a reader that failed counts as gone")
		}
	})
}
