package readertest

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/cardfs/cardfs/reader"
)

func testOpen(t *testing.T, b *bench) {
	_, r := b.device()
	a, c := r.Slots(), r.Slots()
	for i := range a {
		if a[i] != c[i] {
			t.Errorf("slot %d changes between two calls of Slots", i)
		}
	}
	select {
	case <-r.Gone():
		t.Error("gone at once")
	default:
	}
}

// Open ends early with ctx, and says so. A driver that opens a device without a transfer
// may succeed; the reader must then work.
func testOpenCancelled(t *testing.T, b *bench) {
	f := b.make(t)
	if f.Close != nil {
		defer f.Close()
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	var r reader.Reader
	err := within(t, "Open", func() (err error) {
		r, err = f.Driver.Open(ctx, f.Device)
		return err
	})
	if err != nil {
		if r != nil || !errors.Is(err, context.Canceled) {
			t.Errorf("reader %v, error %v; want none, %v", r, err, context.Canceled)
		}
		return
	}
	defer r.Close()
	if got := len(r.Slots()); got != len(f.Slots) {
		t.Errorf("%d slots, the device has %d", got, len(f.Slots))
	}
	b.becomes(r.Slots()[0], reader.Present)
	b.check(f, b.connect(r.Slots()[0], reader.Cold))
}

// Status follows what happens to the card.
func testStatus(t *testing.T, b *bench) {
	f, r := b.device()
	for i, s := range r.Slots() {
		b.becomes(s, reader.Present)
		b.connect(s, reader.Cold)
		b.status(s, reader.Powered)
		if err := s.PowerOff(context.Background()); err != nil {
			t.Errorf("slot %d: power off: %v", i, err)
		}
		b.status(s, reader.Present)
		if f.Slots[i].Fixed {
			continue
		}
		b.tells(s, "taken out", f.Slots[i].Remove)
		b.becomes(s, reader.Absent)
		b.tells(s, "put in", f.Slots[i].Insert)
		b.becomes(s, reader.Present)
	}
}

// Cold, warm, twice, off, on again: the same ATR and a working card each time.
func testPower(t *testing.T, b *bench) {
	f, r := b.device()
	for _, s := range r.Slots() {
		var atr []byte
		for _, how := range []reader.Reset{reader.Cold, reader.Warm, reader.Warm, reader.Cold} {
			l := b.connect(s, how)
			if atr == nil {
				atr = l.atr
			}
			if !bytes.Equal(l.atr, atr) {
				t.Errorf("%v reset: ATR % X, was % X", how, l.atr, atr)
			}
			b.check(f, l)
		}
		for range 2 { // off twice is no error
			if err := s.PowerOff(context.Background()); err != nil {
				t.Errorf("power off: %v", err)
			}
		}
		b.check(f, b.connect(s, reader.Warm)) // warm without power is cold
	}
}

func testExchange(t *testing.T, b *bench) {
	f, r := b.device()
	for _, s := range r.Slots() {
		l := b.connect(s, reader.Cold)
		for range 50 {
			b.check(f, l)
		}
	}
}

// The answer is appended to dst, which keeps what it had.
func testDst(t *testing.T, b *bench) {
	f, r := b.device()
	l := b.connect(r.Slots()[0], reader.Cold)
	x := l.first(f.Command, time.Minute)
	dst := append(make([]byte, 0, 600), "before"...)
	var got []byte
	err := within(t, "Exchange", func() (err error) {
		got, err = r.Slots()[0].Exchange(context.Background(), x, dst)
		return err
	})
	if err != nil || !bytes.HasPrefix(got, dst) || len(got) == len(dst) {
		t.Errorf("appended to %q: %q, %v", dst, got, err)
	}
}

// Slots of one reader work at the same time.
func testSlotsApart(t *testing.T, b *bench) {
	f, r := b.device()
	var wg sync.WaitGroup
	for _, s := range r.Slots() {
		l := b.connect(s, reader.Cold)
		wg.Go(func() {
			for range 20 {
				rx, err := l.Transmit(context.Background(), f.Command, nil)
				if err != nil || !bytes.Equal(rx, f.Answer) {
					t.Errorf("% X, %v", rx, err)
					return
				}
			}
		})
	}
	within(t, "Exchange", func() error { wg.Wait(); return nil })
}

func testNoCard(t *testing.T, b *bench) {
	f, r := b.device()
	b.removable(f)
	for i, s := range r.Slots() {
		if f.Slots[i].Fixed {
			continue
		}
		l := b.connect(s, reader.Cold)
		x := l.first(f.Command, time.Second)
		f.Slots[i].Remove()
		b.becomes(s, reader.Absent)
		if err := within(t, "PowerOn", func() error {
			_, err := s.PowerOn(context.Background(), reader.Cold)
			return err
		}); !errors.Is(err, reader.ErrNoCard) {
			t.Errorf("power on without a card: %v", err)
		}
		if err := b.exchange(context.Background(), s, x); !errors.Is(err, reader.ErrNoCard) {
			t.Errorf("exchange without a card: %v", err)
		}
		within(t, "PowerOff", func() error { return s.PowerOff(context.Background()) })
		f.Slots[i].Insert()
		b.becomes(s, reader.Present)
		b.check(f, b.connect(s, reader.Cold))
	}
}

// exchange does one transfer and returns its error.
func (b *bench) exchange(ctx context.Context, s reader.Slot, x reader.Transfer) error {
	b.Helper()
	return within(b, "Exchange", func() error {
		dst := []byte("before")
		got, err := s.Exchange(ctx, x, dst)
		if err != nil && len(got) > 0 && !bytes.HasPrefix(got, dst) {
			b.Errorf("with %v: dst is %q", err, got)
		}
		return err
	})
}

// stalled starts an exchange that a silent card leaves unanswered for a minute, or for
// Fixture.Wait.
func (b *bench) stalled(ctx context.Context, f *Fixture, r reader.Reader) (s reader.Slot, end <-chan error) {
	b.Helper()
	b.silenceable(f)
	s = r.Slots()[0]
	l := b.connect(s, reader.Cold)
	x := l.first(f.Command, cmp.Or(f.Wait, time.Minute))
	f.Slots[0].Silent(true)
	done := make(chan error, 1)
	go func() {
		_, err := s.Exchange(ctx, x, nil)
		done <- err
	}()
	return s, done
}

func (b *bench) ended(what string, end <-chan error) error {
	b.Helper()
	return within(b, what, func() error { return <-end })
}

// A card that is taken out ends what waits for it.
func testRemoved(t *testing.T, b *bench) {
	b.sweep(func(delay time.Duration) {
		f, r := b.device()
		b.removable(f)
		s, end := b.stalled(context.Background(), f, r)
		time.Sleep(delay)
		f.Slots[0].Remove()
		if err := b.ended("exchange with a card that was taken out", end); !errors.Is(err, reader.ErrNoCard) {
			t.Errorf("after %v: %v, want %v", delay, err, reader.ErrNoCard)
		}
		f.Slots[0].Silent(false)
		f.Slots[0].Insert()
		b.becomes(s, reader.Present)
		b.check(f, b.connect(s, reader.Cold))
		b.end()
	})
}

func testMute(t *testing.T, b *bench) {
	f, r := b.device()
	b.silenceable(f)
	for i, s := range r.Slots() {
		f.Slots[i].Silent(true)
		if err := within(t, "PowerOn", func() error {
			_, err := s.PowerOn(context.Background(), reader.Cold)
			return err
		}); !errors.Is(err, reader.ErrMute) {
			t.Errorf("power on of a mute card: %v", err)
		}
		f.Slots[i].Silent(false)
		b.check(f, b.connect(s, reader.Cold))
	}
}

// A card that stays silent ends the exchange with an error, when its time is over
// and not before; after a reset it works.
func testTimeout(t *testing.T, b *bench) {
	f, r := b.device()
	b.silenceable(f)
	s := r.Slots()[0]
	l := b.connect(s, reader.Cold)
	x := l.first(f.Command, 500*time.Millisecond)
	f.Slots[0].Silent(true)
	start := time.Now()
	err := b.exchange(context.Background(), s, x)
	if took := time.Since(start); took < x.Wait {
		t.Errorf("the card had %v, less than %v", took, x.Wait)
	}
	if !errors.Is(err, reader.ErrTimeout) {
		t.Errorf("%v, want %v", err, reader.ErrTimeout)
	}
	f.Slots[0].Silent(false)
	b.check(f, b.connect(s, reader.Cold))
}

// A call whose ctx has already ended does nothing.
func testCancelledBefore(t *testing.T, b *bench) {
	f, r := b.device()
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	for _, s := range r.Slots() {
		l := b.connect(s, reader.Cold)
		x := l.first(f.Command, time.Minute)
		if err := b.exchange(ctx, s, x); !errors.Is(err, context.Canceled) {
			t.Errorf("exchange: %v", err)
		}
		if err := within(t, "PowerOn", func() error { _, err := s.PowerOn(ctx, reader.Cold); return err }); !errors.Is(err, context.Canceled) {
			t.Errorf("power on: %v", err)
		}
		within(t, "Status", func() error { _, err := s.Status(ctx); return err })
		within(t, "PowerOff", func() error { return s.PowerOff(ctx) })
		b.check(f, b.connect(s, reader.Cold))
	}
}

// A ctx that ends in the middle ends the call; after a reset the card works.
func testCancelledDuring(t *testing.T, b *bench) {
	f, r := b.device()
	b.sweep(func(delay time.Duration) {
		ctx, cancel := context.WithCancel(context.Background())
		defer cancel()
		s, end := b.stalled(ctx, f, r)
		time.Sleep(delay)
		cancel()
		if err := b.ended("exchange whose ctx ended", end); !errors.Is(err, context.Canceled) {
			t.Errorf("after %v: %v, want %v", delay, err, context.Canceled)
		}
		f.Slots[0].Silent(false)
		b.check(f, b.connect(s, reader.Cold))
	})
}

// calls are the calls of a Slot that a device may leave in.
var calls = []struct {
	name string
	// may: the call needs no device and may succeed without it.
	may  bool
	call func(s reader.Slot, x reader.Transfer) error
}{
	{"Status", true, func(s reader.Slot, _ reader.Transfer) error {
		_, err := s.Status(context.Background())
		return err
	}},
	{"PowerOn", false, func(s reader.Slot, _ reader.Transfer) error {
		_, err := s.PowerOn(context.Background(), reader.Cold)
		return err
	}},
	{"PowerOff", true, func(s reader.Slot, _ reader.Transfer) error { return s.PowerOff(context.Background()) }},
	{"Exchange", false, func(s reader.Slot, x reader.Transfer) error {
		_, err := s.Exchange(context.Background(), x, nil)
		return err
	}},
}

// A device that left: Gone is closed, and every call says so at once.
func testGoneBefore(t *testing.T, b *bench) {
	f, r := b.device()
	var xs []reader.Transfer
	for _, s := range r.Slots() {
		xs = append(xs, b.connect(s, reader.Cold).first(f.Command, time.Minute))
	}
	f.Unplug()
	within(t, "waiting for Gone", func() error { <-r.Gone(); return nil })
	for i, s := range r.Slots() {
		for _, c := range calls {
			err := within(t, c.name, func() error { return c.call(s, xs[i]) })
			if !errors.Is(err, reader.ErrGone) && !(c.may && err == nil) {
				t.Errorf("%s after the device left: %v", c.name, err)
			}
		}
	}
	b.end() // Close must work as well
}

// A device that leaves in the middle of any call ends it with ErrGone, unless
// the call was faster.
func testGoneDuring(t *testing.T, b *bench) {
	for _, c := range calls {
		b.sweep(func(delay time.Duration) {
			f, r := b.device()
			s := r.Slots()[0]
			x := b.connect(s, reader.Cold).first(f.Command, time.Minute)
			end := make(chan error, 1)
			go func() {
				for {
					if err := c.call(s, x); err != nil {
						end <- err
						return
					}
					select {
					case <-r.Gone():
						end <- nil
						return
					default:
					}
					if c.may || b.bubble {
						time.Sleep(time.Microsecond) // in a bubble no time passes otherwise
					}
				}
			}()
			time.Sleep(delay)
			f.Unplug()
			err := b.ended(c.name+" of a device that left", end)
			// Repeating one T=1 block may also end as a broken protocol.
			broken := c.name == "Exchange" && (errors.Is(err, reader.ErrProtocol) || errors.Is(err, reader.ErrTimeout))
			if err != nil && !errors.Is(err, reader.ErrGone) && !broken {
				t.Errorf("%s, device left after %v: %v", c.name, delay, err)
			}
			within(t, "waiting for Gone", func() error { <-r.Gone(); return nil })
			b.end()
		})
	}
	b.sweep(func(delay time.Duration) {
		f, r := b.device()
		if f.Slots[0].NeverSilent != "" {
			return
		}
		_, end := b.stalled(context.Background(), f, r)
		time.Sleep(delay)
		f.Unplug()
		if err := b.ended("exchange with a device that left", end); !errors.Is(err, reader.ErrGone) {
			t.Errorf("device left after %v: %v", delay, err)
		}
		b.end()
	})
}

// Close ends what is under way.
func testCloseDuring(t *testing.T, b *bench) {
	b.sweep(func(delay time.Duration) {
		f, r := b.device()
		_, end := b.stalled(context.Background(), f, r)
		time.Sleep(delay)
		within(t, "Close", r.Close)
		if err := b.ended("exchange of a reader that was closed", end); err == nil {
			t.Error("an exchange with a silent card succeeded")
		}
		b.end()
	})
}
