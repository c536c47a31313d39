package icc

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"
)

// BWT at BWI 4 and 3,579,545 Hz: 11 etu + 2^4 · 960 · 372 / f = 1.5973 s.
const bwt = 1597 * time.Millisecond

// Rule 3: a command that does not fit the block waiting time has it extended as
// often as needed, and each time before it ends.
func TestSlowT1(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, card := powered(t, atrT1, Faults{Slow: 2 * time.Second})
		if w := c.BlockWait().Truncate(time.Millisecond); w != bwt {
			t.Errorf("BWT %v, want %v", w, bwt)
		}
		half := c.BlockWait() / 2
		start := time.Now()
		step := func(want time.Duration, lines string) {
			t.Helper()
			trace(t, c, lines)
			if got := time.Since(start); got != want {
				t.Errorf("after %v, want %v", got, want)
			}
		}
		step(half, "> 00 00 05 00 84 00 00 08 89\n< 00 C3 01 01 C3")
		step(half, "> 00 E3 01 02 E0\n< 00 C3 01 01 C3") // another value: rule 7.3
		step(half, "> 00 E3 01 01 E2\n< 00 C3 01 01 C3") // wrong EDC: rule 7.3
		step(2*half, "> 00 E3 01 01 E3\n< 00 C3 01 01 C3")
		step(2*time.Second, "> 00 E3 01 01 E3\n< 00 00 0A 11 22 33 44 55 66 77 88 90 00 12")
		if len(card.calls) != 1 {
			t.Errorf("the card had %v", card.calls)
		}
	})
}

// What fits the block waiting time needs no extension.
func TestSlowWithinBWT(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, _ := powered(t, atrT1, Faults{Slow: 700 * time.Millisecond})
		trace(t, c, "> 00 00 05 00 84 00 00 08 89\n< 00 00 0A 11 22 33 44 55 66 77 88 90 00 12")
	})
}

// T=0 at character level: NULL within each work waiting time (§10.3.3).
func TestSlowChars(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, _ := powered(t, atrT0, Faults{Slow: 1100 * time.Millisecond})
		start := time.Now()
		rx := c.Chars(context.Background(), unhex(challenge), 1)
		for range 10 {
			if !bytes.Equal(rx, []byte{0x60}) {
				break
			}
			rx = c.Chars(context.Background(), nil, 1)
		}
		if !bytes.Equal(rx, []byte{0x84}) || time.Since(start) != 1100*time.Millisecond {
			t.Errorf("% X after %v", rx, time.Since(start))
		}
	})
}

// A slow card at each level ends at once with silence when ctx ends, when the
// card is taken out, when its power goes, and goes on at once when the fault is
// cleared.
func TestInterrupted(t *testing.T) {
	levels := map[string]func(context.Context, *Contact) []byte{
		"TPDU T=1": func(ctx context.Context, c *Contact) []byte {
			return c.TPDU(ctx, unhex("00 00 05 00 84 00 00 08 89"))
		},
		"TPDU T=0": func(ctx context.Context, c *Contact) []byte { return c.TPDU(ctx, unhex(challenge)) },
		"APDU":     func(ctx context.Context, c *Contact) []byte { return c.APDU(ctx, unhex(challenge)) },
		"Chars":    func(ctx context.Context, c *Contact) []byte { return c.Chars(ctx, unhex(challenge), 20) },
	}
	ends := map[string]struct {
		f    func(c *Contact, cancel func())
		done bool
	}{
		"ctx":        {func(c *Contact, cancel func()) { cancel() }, false},
		"remove":     {func(c *Contact, cancel func()) { c.Remove() }, false},
		"deactivate": {func(c *Contact, cancel func()) { c.Deactivate() }, false},
		"reset":      {func(c *Contact, cancel func()) { c.Activate(context.Background(), true) }, false},
		"mute":       {func(c *Contact, cancel func()) { c.SetFaults(Faults{Mute: true}) }, false},
		"normal":     {func(c *Contact, cancel func()) { c.SetFaults(Faults{}) }, true},
	}
	for level, exchange := range levels {
		for end, x := range ends {
			t.Run(level+"/"+end, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					atr := atrT0
					if level == "TPDU T=1" {
						atr = atrT1
					}
					c, card := powered(t, atr, Faults{Slow: 300 * time.Millisecond})
					ctx, cancel := context.WithCancel(context.Background())
					defer cancel()
					start := time.Now()
					time.AfterFunc(100*time.Millisecond, func() { x.f(c, cancel) })
					rx := exchange(ctx, c)
					if (rx != nil) != x.done || time.Since(start) != 100*time.Millisecond {
						t.Errorf("% X after %v", rx, time.Since(start))
					}
					if len(card.calls) != 1 {
						t.Errorf("the card had %v", card.calls)
					}
					// Whatever ended it, the next life of the card is in order.
					c.SetFaults(Faults{})
					c.Remove()
					c.Insert(card)
					if _, err := c.Activate(context.Background(), false); err != nil {
						t.Fatal(err)
					}
					if rx := exchange(context.Background(), c); rx == nil {
						t.Error("silence after a new start")
					}
				})
			})
		}
	}
}

func TestMute(t *testing.T) {
	c, _ := powered(t, atrT1, Faults{})
	c.SetFaults(Faults{Mute: true})
	trace(t, c, "> 00 00 05 00 84 00 00 08 89\n< --")
	if _, err := c.Activate(context.Background(), false); !errors.Is(err, ErrMute) {
		t.Errorf("Activate: %v", err)
	}
	if !c.Powered() || c.Protocol() != -1 {
		t.Error("a mute card has power and no protocol")
	}
	c.SetFaults(Faults{})
	trace(t, c, "> 00 00 05 00 84 00 00 08 89\n< --") // it saw no reset
	if _, err := c.Activate(context.Background(), true); err != nil {
		t.Error(err)
	}
	trace(t, c, "> 00 00 05 00 84 00 00 08 89\n< 00 00 0A 11 22 33 44 55 66 77 88 90 00 12")
}

func TestContacts(t *testing.T) {
	c, card := new(Contact), &scripted{atr: unhex(atrT1)}
	changes := 0
	c.OnChange(func() { changes++; c.Present() }) // no lock is held
	if _, err := c.Activate(context.Background(), false); !errors.Is(err, ErrNoCard) {
		t.Errorf("Activate without a card: %v", err)
	}
	if c.Remove() != nil || c.TPDU(context.Background(), []byte{0}) != nil {
		t.Error("something came out of an empty contact")
	}
	if err := c.Insert(card); err != nil || c.Insert(card) == nil {
		t.Error("one card, not two")
	}
	c.Activate(context.Background(), true) // no power yet: cold
	c.Activate(context.Background(), true)
	c.Activate(context.Background(), false)
	c.Deactivate()
	c.Activate(context.Background(), true)
	if fmt.Sprint(card.resets) != "[false true false false]" {
		t.Errorf("resets %v", card.resets)
	}
	if c.Remove() != card || changes != 2 {
		t.Errorf("%d changes", changes)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := c.Activate(ctx, false); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

func TestHold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, _ := powered(t, atrT1, Faults{Mute: false})
		if !c.Hold(context.Background(), time.Second) {
			t.Error("nothing happened, but Hold ended early")
		}
		time.AfterFunc(time.Second, func() { c.SetFaults(Faults{Slow: 1}) }) // no reason to end
		time.AfterFunc(2*time.Second, func() { c.Remove() })
		start := time.Now()
		if c.Hold(context.Background(), time.Minute) || time.Since(start) != 2*time.Second {
			t.Errorf("Hold ended after %v", time.Since(start))
		}
		if c.Hold(context.Background(), time.Minute) {
			t.Error("Hold without a card")
		}
	})
}

// Damage is such that any EDC shows it, and the same seed damages the same.
func TestNoise(t *testing.T) {
	play := func(f Faults) (out string) {
		c, _ := powered(t, atrT1, f)
		for range 40 {
			out += fmt.Sprintf("% X\n", c.TPDU(context.Background(), unhex("00 00 05 00 84 00 00 08 89")))
			c.TPDU(context.Background(), unhex("00 C0 00 C0"))
		}
		return out
	}
	a, b, other := play(Faults{Fraction: .3, Seed: 1}), play(Faults{Fraction: .3, Seed: 1}), play(Faults{Fraction: .3, Seed: 2})
	if a != b || a == other {
		t.Error("a seed must repeat its sequence, and another must not")
	}
	n := noise{every: 1}
	c, _ := powered(t, atrT1, Faults{Every: 1, Seed: 7})
	n = c.noise
	engine := t1{p: c.p, ifsc: 254}
	for range 1000 {
		if block := n.damage(unhex("00 00 05 00 84 00 00 08 89")); engine.check(block) == 0 {
			t.Fatalf("% X passes", block)
		}
	}
}

// Remove, reset and faults from other goroutines while exchanges run.
func TestConcurrent(t *testing.T) {
	c, card := powered(t, atrT1, Faults{})
	stop := make(chan struct{})
	done := make(chan struct{})
	go func() {
		defer close(done)
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
			}
			switch i % 4 {
			case 0:
				c.Remove()
			case 1:
				c.Insert(card)
			case 2:
				c.Activate(context.Background(), false)
			case 3:
				c.SetFaults(Faults{Slow: time.Duration(i % 50), Fraction: .2})
			}
		}
	}()
	for range 2000 {
		c.TPDU(context.Background(), unhex("00 00 05 00 84 00 00 08 89"))
		c.Chars(context.Background(), unhex("00 00 05 00 84"), 4)
		c.Present()
	}
	close(stop)
	<-done
}
