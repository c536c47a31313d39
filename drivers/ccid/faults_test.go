package ccid

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cardfs/cardfs/drivers/bus/usb/usbtest"
	"github.com/cardfs/cardfs/drivers/ccid/emu"
	"github.com/cardfs/cardfs/reader"
	"github.com/cardfs/cardfs/reader/core"
)

// All faults of the emulator: each ends in the right error within the protocol's time,
// the card sees no command twice, and the reader works afterwards or is gone.
func TestFaults(t *testing.T) {
	type outcome struct {
		err  error         // of Transmit; nil: the response still comes
		late time.Duration // upper bound of the time it takes
		gone bool
	}
	const soon = 100 * time.Millisecond
	answered := outcome{nil, soon, false}
	protocol := outcome{reader.ErrProtocol, soon, false}
	// The time of the longest exchange with the card, plus one second for recovery;
	// without a protocol run by the host.
	silent := outcome{reader.ErrTimeout, 20 * time.Second, false}
	menu := []struct {
		name  string
		fault emu.Fault
		want  outcome
	}{
		{"stall instead of the answer", emu.Fault{Kind: emu.StallIn}, silent},
		{"stall before the answer", emu.Fault{Kind: emu.StallInLate}, answered},
		{"stall of the command", emu.Fault{Kind: emu.StallOut}, protocol},
		{"runt", emu.Fault{Kind: emu.Runt}, protocol},
		{"truncated", emu.Fault{Kind: emu.Truncated}, protocol},
		{"long", emu.Fault{Kind: emu.Long}, answered},
		{"wrong dwLength", emu.Fault{Kind: emu.LengthLie}, protocol},
		{"stale answer first", emu.Fault{Kind: emu.StaleFirst}, answered},
		{"wrong bSeq", emu.Fault{Kind: emu.WrongSeq}, silent},
		{"wrong bSlot", emu.Fault{Kind: emu.WrongSlot}, silent},
		{"wrong type", emu.Fault{Kind: emu.WrongType}, protocol},
		{"babble", emu.Fault{Kind: emu.Babble}, protocol},
		{"flood", emu.Fault{Kind: emu.Flood}, protocol},
		{"empty packet", emu.Fault{Kind: emu.Empty}, answered},
		{"silence", emu.Fault{Kind: emu.Silence}, silent},
		{"hang until reset", emu.Fault{Kind: emu.Hang}, outcome{reader.ErrTimeout, 25 * time.Second, false}},
		{"hang for ever", emu.Fault{Kind: emu.Stone}, outcome{reader.ErrGone, 30 * time.Second, true}},
		{"endless time extension", emu.Fault{Kind: emu.Endless}, outcome{reader.ErrTimeout, exchangeLimit + 10*time.Second, false}},
		{"parity error", emu.Fault{Kind: emu.Fail, Code: 0xFD}, protocol},
		{"hardware error", emu.Fault{Kind: emu.Fail, Code: 0xFB}, protocol},
		{"mute", emu.Fault{Kind: emu.Fail, Code: 0xFE}, outcome{reader.ErrTimeout, soon, false}},
		{"slot busy", emu.Fault{Kind: emu.Fail, Code: 0xE0}, protocol},
		{"unplugged", emu.Fault{Kind: emu.Detach}, outcome{reader.ErrGone, soon, true}},
	}
	readers := []emu.Config{emu.ShortAPDUReader(), emu.ExtendedAPDUReader(), emu.TPDUReader(), emu.CharacterReader()}
	for _, cfg := range readers {
		for _, atr := range [][]byte{atrT0, atrT1IFSC} {
			for _, c := range menu {
				t.Run(fmt.Sprintf("%s/%X/%s", cfg.Name, atr[1], c.name), func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) {
						card := &testCard{atr: atr}
						b := plug(t, cfg, card)
						s := b.session(0)
						transmit(t, s, unhex("00 84 00 00 04"), unhex("00 01 02 03 90 00"))
						before := card.count()
						c.fault.On = 0x6F
						b.e.Inject(c.fault)
						start := time.Now()
						rx, err := s.Transmit(context.Background(), unhex("00 84 00 00 04"), nil)
						took := time.Since(start)
						// T=1 recovers from any single transmission fault (rule 7),
						// except loss of power and a delay of an hour.
						overcome := cfg.Level <= reader.TPDU && atr[1] == 0x80
						if overcome && !c.want.gone && c.fault.Kind != emu.Hang && c.fault.Kind != emu.Endless {
							c.want.err = nil
							c.want.late = max(c.want.late, silent.late)
						}
						if !errors.Is(err, c.want.err) {
							t.Errorf("% X, error %v, want %v", rx, err, c.want.err)
						}
						if err == nil != (string(rx) == "\x00\x01\x02\x03\x90\x00") {
							t.Errorf("% X, error %v", rx, err)
						}
						if errors.Is(err, reader.ErrStale) {
							t.Error("the card may have seen it:", err)
						}
						if took > c.want.late {
							t.Errorf("it took %v, the bound is %v", took, c.want.late)
						}
						if n := card.count() - before; n > 1 {
							t.Errorf("the card saw the command %d times", n)
						}
						if c.want.gone {
							b.departed(c.fault.Kind)
							return
						}
						again := b.session(0)
						transmit(t, again, unhex("00 84 00 00 04"), unhex("00 01 02 03 90 00"))
					})
				})
			}
		}
	}
}

// departed checks the remains of a reader: an unplugged one leaves nothing, a dead one
// leaves a directory that says why.
func (b *bench) departed(why emu.FaultKind) {
	b.t.Helper()
	time.Sleep(time.Minute)
	slot := b.m.Slot(0)
	if why == emu.Detach {
		if slot != nil {
			b.t.Error("the reader is still there")
		}
		return
	}
	if slot == nil {
		b.t.Fatal("the reader is gone, and nothing says why")
	}
	_, err := b.open(0)
	if !errors.Is(err, reader.ErrFailed) || !strings.Contains(err.Error(), "does not answer") && !strings.Contains(err.Error(), "timed out") {
		b.t.Errorf("error %v", err)
	}
	b.e.Unplug()
	synctest.Wait()
	if b.m.Slot(0) != nil {
		b.t.Error("unplugged and still there")
	}
}

// A reader that died gives the reason for `status`; an unplugged one has none to give.
func TestReasonOfDeath(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newDevice(emu.TwoSlotReader())
		r := open(t, e)
		if err := r.Err(); err != nil {
			t.Errorf("a reader that is alive: %v", err)
		}
		e.Inject(emu.Fault{Kind: emu.Stone, On: cmdSlotStatus})
		if _, err := r.slots[1].Status(ctx); !errors.Is(err, reader.ErrGone) {
			t.Fatal(err)
		}
		<-r.Gone()
		err := r.Err()
		if err == nil || errors.Is(err, reader.ErrGone) || !strings.Contains(err.Error(), "GetSlotStatus") || !strings.HasSuffix(err.Error(), "the reader does not answer after a USB reset either") {
			t.Errorf("reason %v", err)
		}
		if _, err := r.slots[0].Status(ctx); !errors.Is(err, reader.ErrGone) {
			t.Errorf("the other slot: %v", err)
		}
	})
	for _, cfg := range []emu.Config{emu.TPDUReader(), emu.ICCDB()} {
		synctest.Test(t, func(t *testing.T) {
			e := newDevice(cfg)
			r := open(t, e)
			e.Unplug()
			<-r.Gone()
			if err := r.Err(); err != nil {
				t.Errorf("unplugged: %v", err)
			}
		})
	}
	// While the core waits to open it again, `status` shows the reason.
	synctest.Test(t, func(t *testing.T) {
		b := plug(t, emu.TPDUReader(), &testCard{atr: atrT1})
		s := b.session(0)
		b.e.Inject(emu.Fault{Kind: emu.Stone, On: cmdXfrBlock})
		if _, err := s.Transmit(context.Background(), unhex("00 84 00 00 04"), nil); !errors.Is(err, reader.ErrGone) {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		synctest.Wait()
		slot := b.m.Slot(0)
		if slot == nil {
			t.Fatal("no directory says why")
		}
		status := fmt.Sprint(slot.Info().Err)
		if !strings.Contains(status, "the reader died (") || !strings.Contains(status, "after a USB reset") {
			t.Errorf("status\n%s", status)
		}
	})
}

// A reader that accepts everything and answers nothing does not block the driver's Open
// forever; nor does a device that was detached or unplugged.
func TestOpenOfASilentReader(t *testing.T) {
	for _, cfg := range []emu.Config{emu.TPDUReader(), emu.ICCDA(), emu.ICCDB()} {
		for _, how := range []string{"alone", "detached", "unplugged"} {
			t.Run(cfg.Name+"/"+how, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					e := newDevice(cfg)
					e.Inject(emu.Fault{Kind: emu.Stone, Count: -1})
					e.Die(true)
					some, cancel := context.WithCancel(ctx)
					defer cancel()
					switch how {
					case "detached":
						time.AfterFunc(time.Second/2, cancel)
					case "unplugged":
						time.AfterFunc(time.Second/2, e.Unplug)
					}
					start := time.Now()
					r, err := Driver{}.Open(some, reader.Device{Link: e})
					if err == nil {
						r.Close()
						t.Fatal("opened")
					}
					most := 30 * time.Second
					if how != "alone" {
						most = time.Second/2 + 2*syncLimit
					}
					if took := time.Since(start); took > most {
						t.Errorf("%v after %v", err, took)
					}
					e.Unplug()
				})
			})
		}
	}
}

// Faults of commands other than an exchange.
func TestFaultsElsewhere(t *testing.T) {
	kinds := map[string]emu.FaultKind{"stall in": emu.StallIn, "stall out": emu.StallOut, "runt": emu.Runt, "truncated": emu.Truncated,
		"wrong dwLength": emu.LengthLie, "stale": emu.StaleFirst, "wrong bSeq": emu.WrongSeq, "wrong bSlot": emu.WrongSlot, "wrong type": emu.WrongType,
		"babble": emu.Babble, "flood": emu.Flood, "empty": emu.Empty, "silence": emu.Silence, "hang": emu.Hang, "endless": emu.Endless, "control": emu.StallControl}
	commands := map[string]byte{"IccPowerOn": 0x62, "GetSlotStatus": 0x65, "SetParameters": 0x61, "IccPowerOff": 0x63}
	for name, kind := range kinds {
		for command, code := range commands {
			t.Run(command+"/"+name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					card := &testCard{atr: atrT1Fast}
					e := newDevice(emu.TPDUReader())
					e.Contact(0).Insert(card)
					f := emu.Fault{Kind: kind, On: code}
					if kind == emu.StallControl {
						f.On = 1 // ABORT: with a silent command
						e.Inject(emu.Fault{Kind: emu.Silence, On: code})
					}
					e.Inject(f)
					m := core.NewManager(core.Options{Drivers: []reader.Driver{Driver{}}})
					defer e.Unplug()
					defer m.Close(context.Background())
					if err := m.Announce(reader.Device{Driver: "ccid", Address: "emulator", Link: e}); err != nil {
						t.Fatal(err)
					}
					b := &bench{t, e, m}
					// A single fault costs only time; endless time extensions cost the
					// power-up that they hit.
					open, reset := error(nil), error(nil)
					switch {
					case kind == emu.Endless && (code == cmdPowerOn || code == cmdSetParameters):
						open = reader.ErrTimeout
					case kind == emu.Endless && code == cmdPowerOff:
						reset = reader.ErrTimeout
					}
					s, err := b.open(0)
					if !errors.Is(err, open) {
						t.Fatalf("open: %v, want %v", err, open)
					}
					if err != nil {
						s = b.session(0)
					}
					transmit(t, s, unhex("00 84 00 00 02"), unhex("00 01 90 00"))
					if err := s.Slot().Power(context.Background(), core.ResetCold, core.Caller{Wait: true}); !errors.Is(err, reset) {
						t.Errorf("reset: %v, want %v", err, reset)
					}
					s = b.session(0)
					transmit(t, s, unhex("00 84 00 00 02"), unhex("00 01 90 00"))
				})
			})
		}
	}
}

// A slow card is waited for as long as the reader asks for time.
func TestTimeExtension(t *testing.T) {
	for _, cfg := range []emu.Config{emu.ShortAPDUReader(), emu.ExtendedAPDUReader(), emu.TPDUReader(), emu.CharacterReader()} {
		for _, atr := range [][]byte{atrT0, atrT1IFSC} {
			t.Run(fmt.Sprintf("%s/%X", cfg.Name, atr[1]), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					b := plug(t, cfg, &testCard{atr: atr})
					s := b.session(0)
					transmit(t, s, unhex("80 E8 00 FF"), unhex("90 00")) // 25.5 s
					transmit(t, s, unhex("00 84 00 00 02"), unhex("00 01 90 00"))
				})
			})
		}
	}
}

// Removing the card in the middle ends the exchange. Put in again, it works.
func TestRemoval(t *testing.T) {
	for _, cfg := range []emu.Config{emu.ShortAPDUReader(), emu.ExtendedAPDUReader(), emu.TPDUReader(), emu.CharacterReader()} {
		t.Run(cfg.Name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				card := &testCard{atr: atrT1IFSC}
				b := plug(t, cfg, card)
				s := b.session(0)
				done := make(chan error, 1)
				go func() {
					_, err := s.Transmit(context.Background(), unhex("80 E8 00 64"), nil)
					done <- err
				}()
				time.Sleep(time.Second)
				b.e.Contact(0).Remove()
				if err := <-done; !errors.Is(err, reader.ErrNoCard) && !errors.Is(err, reader.ErrTimeout) {
					t.Errorf("error %v", err)
				}
				time.Sleep(time.Second)
				b.e.Contact(0).Insert(card)
				transmit(t, b.session(0), unhex("00 84 00 00 02"), unhex("00 01 90 00"))
				if _, err := s.Transmit(context.Background(), unhex("00 84 00 00 02"), nil); !errors.Is(err, reader.ErrStale) {
					t.Errorf("earlier session: %v", err)
				}
			})
		})
	}
}

// An exchange whose caller gives up ends at once. The next command finds the reader in
// order.
func TestCancel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newDevice(emu.ShortAPDUReader())
		e.Contact(0).Insert(&testCard{atr: atrT1})
		resets := 0
		e.Observe(func(l usbtest.Line) {
			if l.Kind == usbtest.Reset {
				resets++
			}
		})
		r := open(t, e)
		s := r.slots[0].(*slot)
		if _, err := s.PowerOn(ctx, reader.Cold); err != nil {
			t.Fatal(err)
		}
		for _, hung := range []bool{false, true} {
			if hung {
				e.Inject(emu.Fault{Kind: emu.Hang, On: 0x6F})
			}
			some, cancel := context.WithTimeout(ctx, time.Second)
			start := time.Now()
			_, err := s.Exchange(some, reader.Transfer{Out: unhex("80 E8 00 64")}, nil)
			cancel()
			if !errors.Is(err, context.DeadlineExceeded) || time.Since(start) > 3*time.Second {
				t.Errorf("error %v after %v", err, time.Since(start))
			}
			if resets > 0 {
				t.Error("whoever gave up waits until the reader is brought back")
			}
			if st, err := s.Status(ctx); err != nil || !hung && st != reader.Powered || hung && st != reader.Present {
				t.Errorf("hung %v: status %v, %v", hung, st, err)
			}
		}
	})
}
