package ctapi

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cardfs/cardfs/drivers/sim"
	"github.com/cardfs/cardfs/reader"
	"github.com/cardfs/cardfs/reader/core"
)

// acting is the sim driver with slots that report each act that a card, a reader or a card
// holder can notice.
type acting struct {
	*sim.Driver
	act func(what string)
}

type actingReader struct {
	reader.Reader
	slots []reader.Slot
}

func (r actingReader) Slots() []reader.Slot { return r.slots }

// actingSlot is a slot of a reader with keys and a display.
type actingSlot struct {
	actingPlain
	reader.PINPad
	reader.Display
	reader.Keypad
}

type actingPlain struct {
	reader.Slot
	act func(what string)
}

func (s actingPlain) Unwrap() reader.Slot { return s.Slot }

func (s actingPlain) PowerOn(ctx context.Context, how reader.Reset) ([]byte, error) {
	s.act("on")
	return s.Slot.PowerOn(ctx, how)
}

func (d acting) Open(ctx context.Context, dev reader.Device) (reader.Reader, error) {
	r, err := d.Driver.Open(ctx, dev)
	if err != nil {
		return nil, err
	}
	a := actingReader{Reader: r}
	for _, s := range r.Slots() {
		plain := actingPlain{s, d.act}
		if f := reader.FeaturesOf(s); f.PINPad != nil && f.Display != nil {
			a.slots = append(a.slots, actingSlot{plain, f.PINPad, f.Display, f.Keypad})
		} else {
			a.slots = append(a.slots, plain)
		}
	}
	return a, nil
}

func (s actingPlain) PowerOff(ctx context.Context) error {
	s.act("off")
	return s.Slot.PowerOff(ctx)
}

func (s actingSlot) Show(ctx context.Context, text string, d time.Duration) error {
	s.act("show " + text)
	return s.Display.Show(ctx, text, d)
}

func (s actingSlot) Input(ctx context.Context, in reader.KeyInput) ([]byte, error) {
	s.act("input")
	return s.Keypad.Input(ctx, in)
}

func (s actingSlot) VerifyPIN(ctx context.Context, v *reader.PINVerify, dst []byte) ([]byte, error) {
	s.act("verify")
	return s.PINPad.VerifyPIN(ctx, v, dst)
}

func (s actingSlot) ModifyPIN(ctx context.Context, m *reader.PINModify, dst []byte) ([]byte, error) {
	s.act("modify")
	return s.PINPad.ModifyPIN(ctx, m, dst)
}

// "An ioctl says EINTR only while its command was not yet sent; from then on it returns
// the answer, whatever signals come": a command whose ctx ends at its first act answers
// as one whose ctx does not, and one whose ctx ended before does nothing.
func TestInterruptedActs(t *testing.T) {
	const on = "20 12 01 00"
	const pinpad, dual = "pinpad", "t1 card=dual"
	for _, tt := range []struct{ device, before, command string }{
		{pinpad, on, "20 11 00 00"},
		{pinpad, on, "20 10 01 01 00"},
		{pinpad, on, "20 11 01 01 00"},
		{dual, on, "20 11 01 00 03 FF 11 94"},
		{dual, "80 60 01 00 03 22 01 02", "20 12 01 01 00"},
		{pinpad, "remove", "20 12 01 01 09 50 04 'Card' 80 01 02 00"},
		{pinpad, "", "20 12 01 02 00"},
		{pinpad, on, "20 14 01 00"},
		{pinpad, on, "20 15 01 00"},
		{pinpad, on, "20 15 01 00 01 05"},
		{pinpad, on, "20 15 01 00 09 50 04 'Take' 80 01 02"},
		{pinpad, "keys 0815", "20 16 50 00 08"},
		{pinpad, "", "20 17 40 00 07 50 05 'Hello'"},
		{pinpad, "keys 1234", "20 18 01 00 08 52 06 01 06 00 20 00 01"},
		{pinpad, "keys 1234", "20 18 01 00 13 50 09 'Your code' 52 06 01 06 00 20 00 01"},
		{pinpad, "keys 1234 5678 5678", "20 19 01 00 09 52 07 01 06 0E 00 24 00 01"},
		{pinpad, "keys 1234 5678 5678", "20 19 01 00 10 50 05 'Codes' 52 07 01 06 0E 00 24 00 01"},
		{dual, on, "80 60 01 00 03 22 01 02"},
		{pinpad, on, "end"},
	} {
		// Whether ctx ends: never, at the first act, before the command.
		run := func(when string) (answer string, acts []string, failed error) {
			synctest.Test(t, func(t *testing.T) {
				var act func(string)
				m := core.NewManager(core.Options{Drivers: []reader.Driver{acting{sim.New(), func(what string) { act(what) }}}})
				defer m.Close(context.Background())
				act = func(string) {}
				if err := ctl(m, "attach sim "+tt.device); err != nil {
					t.Fatal(err)
				}
				synctest.Wait()
				// A stale session: its command takes its turn and fails.
				stale, err := m.Slot(0).Open(context.Background(), core.Caller{Owner: "another"})
				if err != nil {
					t.Fatal(err)
				}
				if err := m.Slot(0).Power(context.Background(), core.PowerDown, core.Caller{Owner: "another"}); err != nil {
					t.Fatal(err)
				}
				terminal := New(m.Slot(0), core.Caller{Owner: t, Wait: true})
				defer terminal.Close()
				switch word, _, _ := strings.Cut(tt.before, " "); word {
				case "keys":
					terminal.Exchange(context.Background(), unhex(on), nil)
					if when != "before" {
						ctl(m, "sim 0 "+tt.before)
					}
				case "remove":
					ctl(m, "sim 0 remove")
				case "":
				default:
					terminal.Exchange(context.Background(), unhex(tt.before), nil)
				}
				synctest.Wait()
				ctx, cancel := context.WithCancel(context.Background())
				defer cancel()
				if when == "before" { // it waits for its turn while another has the reader
					act = func(string) { time.Sleep(time.Hour) }
					go m.Slot(0).Power(context.Background(), core.ResetCold, core.Caller{Owner: "another"})
					go m.Slot(0).Input(context.Background(), reader.KeyInput{}, core.Caller{Owner: "another"})
					synctest.Wait()
					time.AfterFunc(time.Second, cancel)
				}
				act = func(what string) {
					acts = append(acts, what)
					if when == "at" && len(acts) == 1 { // and its next step has to wait for its turn
						cancel()
						for range 4 {
							go stale.Transmit(context.Background(), unhex("00 A4 00 00"), nil)
						}
						synctest.Wait()
					}
				}
				var got []byte
				if tt.command == "end" {
					got, failed = terminal.Data(ctx, []byte{1, 2}, nil)
				} else {
					got, failed = terminal.Exchange(ctx, unhex(tt.command), nil)
				}
				answer = fmt.Sprintf("% X", got)
				act = func(string) {}
			})
			return answer, acts, failed
		}
		want, done, err := run("never")
		if err != nil || len(done) == 0 {
			t.Errorf("%s: %s, %v, did %q: the test is of no use", tt.command, want, err, done)
		}
		if got, acts, err := run("at"); got != want || err != nil || !slices.Equal(acts, done) {
			t.Errorf("%s, interrupted at its first act: %s, %v, did %q; want %s, %q", tt.command, got, err, acts, want, done)
		}
		if _, acts, err := run("before"); !errors.Is(err, reader.ErrInterrupted) || len(acts) > 0 {
			t.Errorf("%s, interrupted before: %v, did %q", tt.command, err, acts)
		}
	}
}

// RESET CT and CT_close switch off all the program's cards, even if the signal comes after the
// first card and another program is using the second one at that moment.
func TestInterruptedBetweenCards(t *testing.T) {
	for _, command := range []string{"01 02 20 11 00 00", "01 02"} {
		synctest.Test(t, func(t *testing.T) {
			bg := context.Background()
			act := func(string) {}
			m := core.NewManager(core.Options{Drivers: []reader.Driver{acting{sim.New(), func(what string) { act(what) }}}})
			defer m.Close(bg)
			if err := ctl(m, "attach sim twoslot"); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
			terminal := New(m.Slot(0), core.Caller{Owner: t, Wait: true})
			defer terminal.Close()
			for _, slot := range []string{"01", "02"} {
				if got, err := terminal.Data(bg, unhex("01 02 20 12 "+slot+" 00"), nil); err != nil || got[2] != 0x90 {
					t.Fatalf("REQUEST ICC: % X, %v", got, err)
				}
			}
			ctx, cancel := context.WithCancel(bg)
			act = func(string) {
				act = func(what string) {
					if what == "on" {
						time.Sleep(time.Minute)
					}
				}
				go m.Slot(1).Power(bg, core.ResetCold, core.Caller{Owner: "another"})
				synctest.Wait()
				cancel()
			}
			if _, err := terminal.Data(ctx, unhex(command), nil); err != nil {
				t.Errorf("%s: %v", command, err)
			}
			if ctx.Err() == nil {
				t.Error("nothing was switched off")
			}
			for n := range 2 {
				if state := m.Slot(n).Info().State; state != "present" {
					t.Errorf("%s: the card in slot %d is %s", command, n, state)
				}
			}
			act = func(string) {}
		})
	}
}
