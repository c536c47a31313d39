package core

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cardfs/cardfs/reader"
)

// linked is a device's link. It reports when the device leaves, and opens its reader.
type linked struct {
	gone chan struct{}
	open func(context.Context, reader.Device) (reader.Reader, error)
}

func (l *linked) Gone() <-chan struct{} { return l.gone }

// linkDriver opens a device through its linked.
type linkDriver struct{}

func (linkDriver) Name() string     { return "linked" }
func (linkDriver) IDs() []reader.ID { return nil }
func (linkDriver) Open(ctx context.Context, dev reader.Device) (reader.Reader, error) {
	return dev.Link.(*linked).open(ctx, dev)
}

// revivals announces a device whose readers are made by open; n counts from 1.
func revivals(t *testing.T, r *rig, open func(n int) (*fakeReader, error)) (*linked, *int) {
	t.Helper()
	n := new(int)
	l := &linked{gone: make(chan struct{})}
	l.open = func(context.Context, reader.Device) (reader.Reader, error) {
		*n++
		fake, err := open(*n)
		if fake == nil {
			return nil, err
		}
		return fake, err
	}
	if err := r.Announce(reader.Device{Driver: "linked", Address: "usb:1-1", Serial: "7", Link: l}); err != nil {
		t.Fatal(err)
	}
	synctest.Wait()
	return l, n
}

// whats are the kinds of events that f has now.
func whats(f *Feed[Event]) string {
	var list []string
	for {
		e, _, ok, err := f.TryNext()
		if !ok || err != nil {
			return strings.Join(list, " ")
		}
		list = append(list, string(e.What))
	}
}

// A reader that dies although its device is there is closed and opened again; its
// number and name stay, "what was opened before answers ENODEV for ever".
func TestRevival(t *testing.T) {
	bg := context.Background()
	bubble(t, Options{Drivers: []reader.Driver{linkDriver{}}}, func(t *testing.T, r *rig) {
		var fakes []*fakeReader
		_, opens := revivals(t, r, func(int) (*fakeReader, error) {
			fakes = append(fakes, newFakeReader(newFakeSlot(t)))
			return fakes[len(fakes)-1], nil
		})
		old := r.Slot(0)
		s := mustOpen(t, old, someone())
		events := r.Follow()
		whats(events)
		fakes[0].unplug()
		synctest.Wait()
		if r.Slot(0) != nil || !old.Gone() {
			t.Error("the dead reader's directory is there")
		}
		// No other reader gets the number meanwhile.
		_, other := r.plug(reader.Device{Address: "other"}, newFakeSlot(t))
		if other.Number() != 1 {
			t.Errorf("another reader took number %d", other.Number())
		}
		whats(events)
		time.Sleep(deathPause)
		synctest.Wait()
		b := r.Slot(0)
		if b == nil || *opens != 2 || fakes[0].closes.Load() != 1 {
			t.Fatalf("opened %d times, closed %d times", *opens, fakes[0].closes.Load())
		}
		if got := whats(events); got != "arrived ready inserted" {
			t.Errorf("events %s", got)
		}
		if b.Info().ByID != old.Info().ByID || r.Named(b.Info().ByID) != b {
			t.Errorf("name %s, was %s", b.Info().ByID, old.Info().ByID)
		}
		wantAnswer(t, mustOpen(t, b, someone()), "00 01 00 00", "00 01 00 00 90 00")
		_, err := s.Transmit(bg, hexb("00 01 00 00"), nil)
		wantErr(t, "an old session", err, reader.ErrGone)
	})
}

// An exchange that finds the reader dead has the same outcome.
func TestRevivalAfterExchange(t *testing.T) {
	bubble(t, Options{Drivers: []reader.Driver{linkDriver{}}}, func(t *testing.T, r *rig) {
		_, opens := revivals(t, r, func(n int) (*fakeReader, error) {
			slot := newFakeSlot(t)
			if n == 1 {
				slot.exchange = func(_ context.Context, _ reader.Transfer, dst []byte) ([]byte, error) {
					return dst, fmt.Errorf("the pipe is dead: %w", reader.ErrGone)
				}
			}
			return newFakeReader(slot), nil
		})
		_, err := mustOpen(t, r.Slot(0), someone()).Transmit(context.Background(), hexb("00 01 00 00"), nil)
		wantErr(t, "transmit", err, reader.ErrGone)
		time.Sleep(time.Second)
		synctest.Wait()
		if *opens != 2 {
			t.Fatalf("opened %d times", *opens)
		}
		mustOpen(t, r.Slot(0), someone())
	})
}

// "Gives up as failed with the reason after a few deaths in a short time": this holds for a
// reader that dies after its start and for one that no longer starts. `rescan` tries again.
func TestRevivalGivesUp(t *testing.T) {
	for _, tt := range []struct {
		name string
		open func(t *testing.T, n int) (*fakeReader, error)
		why  string
	}{
		{"dies at once", func(t *testing.T, n int) (*fakeReader, error) {
			fake := newFakeReader(newFakeSlot(t))
			fake.unplug()
			return fake, nil
		}, "the reader is gone"},
		{"does not start again", func(t *testing.T, n int) (*fakeReader, error) {
			if n > 1 {
				return nil, errors.New("no first contact")
			}
			fake := newFakeReader(newFakeSlot(t))
			fake.unplug()
			return fake, nil
		}, "no first contact"},
		{"is not found where the link is", func(t *testing.T, n int) (*fakeReader, error) {
			return nil, fmt.Errorf("no such file: %w", reader.ErrGone)
		}, "no such file"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			bubble(t, Options{Drivers: []reader.Driver{linkDriver{}}}, func(t *testing.T, r *rig) {
				healthy := false
				l, opens := revivals(t, r, func(n int) (*fakeReader, error) {
					if healthy {
						return newFakeReader(newFakeSlot(t)), nil
					}
					return tt.open(t, n)
				})
				time.Sleep(time.Hour)
				synctest.Wait()
				synctest.Wait()
				if *opens != deathsMost+1 {
					t.Errorf("opened %d times", *opens)
				}
				b := r.Slot(0)
				if b == nil {
					t.Fatal("no directory says that it failed")
				}
				i := b.Info()
				if i.State != StateFailed || !strings.Contains(i.Err.Error(), tt.why) || !strings.Contains(i.Err.Error(), "4 times in a row; plug it in anew, or write rescan to ctl") {
					t.Errorf("state %s, error %v", i.State, i.Err)
				}
				_, err := b.Open(context.Background(), someone())
				wantErr(t, "open", err, reader.ErrFailed)
				if errors.Is(err, reader.ErrGone) {
					t.Error("a reader that is there is said to be gone")
				}
				healthy = true
				r.Rescan()
				synctest.Wait()
				if *opens != deathsMost+2 || r.numbers() != "0" {
					t.Fatalf("opened %d times, numbers %q", *opens, r.numbers())
				}
				mustOpen(t, r.Slot(0), someone())
				close(l.gone)
				synctest.Wait()
				if r.numbers() != "" || len(r.heldNumbers) != 0 || len(r.heldNames) != 0 {
					t.Errorf("numbers %q, held %v %v", r.numbers(), r.heldNumbers, r.heldNames)
				}
			})
		})
	}
}

// "A long healthy life resets the count", and the pauses grow.
func TestRevivalCounts(t *testing.T) {
	bubble(t, Options{Drivers: []reader.Driver{linkDriver{}}}, func(t *testing.T, r *rig) {
		lives := []time.Duration{longOpening - 1, longOpening - 1, longOpening - 1, longOpening, 0, 0, 0}
		var began []time.Time
		_, opens := revivals(t, r, func(n int) (*fakeReader, error) {
			fake := newFakeReader(newFakeSlot(t))
			began = append(began, time.Now())
			time.AfterFunc(lives[n-1], fake.unplug)
			return fake, nil
		})
		time.Sleep(time.Hour)
		synctest.Wait()
		if *opens != len(lives) {
			t.Fatalf("opened %d times, want %d", *opens, len(lives))
		}
		for i, want := range []time.Duration{0, time.Second, 4 * time.Second, 0, time.Second, 4 * time.Second} {
			if got := began[i+1].Sub(began[i]) - lives[i] - deathPause; got != want {
				t.Errorf("pause %d was %v, want %v", i, got, want)
			}
		}
		if b := r.Slot(0); b == nil || b.Info().State != "failed" {
			t.Errorf("not failed: numbers %q", r.numbers())
		}
	})
}

// The reader is usually the first to notice that its device was unplugged. It leaves only
// once.
func TestUnplugIsNoDeath(t *testing.T) {
	bubble(t, Options{Drivers: []reader.Driver{linkDriver{}}}, func(t *testing.T, r *rig) {
		var fake *fakeReader
		l, opens := revivals(t, r, func(int) (*fakeReader, error) {
			fake = newFakeReader(newFakeSlot(t))
			return fake, nil
		})
		events := r.Follow()
		whats(events)
		fake.unplug()
		time.Sleep(deathPause / 2)
		close(l.gone)
		time.Sleep(time.Hour)
		synctest.Wait()
		if got := whats(events); got != "left" || *opens != 1 || len(r.ifds) != 0 {
			t.Errorf("events %q, opened %d times, %d units", got, *opens, len(r.ifds))
		}
	})
}

// A device that is plugged in again while the core waits to revive takes over at once.
func TestReplugDuringRevival(t *testing.T) {
	bubble(t, Options{Drivers: []reader.Driver{linkDriver{}}}, func(t *testing.T, r *rig) {
		make1 := func(n int) (*fakeReader, error) {
			fake := newFakeReader(newFakeSlot(t))
			if n <= deathsMost {
				fake.unplug()
			}
			return fake, nil
		}
		first, _ := revivals(t, r, make1)
		time.Sleep(deathPause / 2)
		if r.Announce(reader.Device{Driver: "linked", Address: "usb:1-1", Serial: "7", Link: first}) == nil {
			t.Error("announced twice")
		}
		close(first.gone)
		revivals(t, r, func(int) (*fakeReader, error) { return newFakeReader(newFakeSlot(t)), nil })
		if r.numbers() != "0" {
			t.Errorf("numbers %q", r.numbers())
		}
		mustOpen(t, r.Slot(0), someone())
		time.Sleep(time.Hour)
		synctest.Wait()
		if r.numbers() != "0" || len(r.ifds) != 1 {
			t.Errorf("numbers %q, %d units", r.numbers(), len(r.ifds))
		}
	})
}

// A reader that leaves while it is dead frees its number: "a new reader takes the
// lowest free number".
func TestNumberOfADeadReaderThatLeft(t *testing.T) {
	bubble(t, Options{Drivers: []reader.Driver{linkDriver{}}}, func(t *testing.T, r *rig) {
		var fake *fakeReader
		l, _ := revivals(t, r, func(int) (*fakeReader, error) {
			fake = newFakeReader(newFakeSlot(t))
			return fake, nil
		})
		fake.unplug()
		synctest.Wait()
		r.plug(reader.Device{Address: "meanwhile"}, newFakeSlot(t)) // gets 1, and passes over 0
		close(l.gone)
		synctest.Wait()
		if _, b := r.plug(reader.Device{Address: "next"}, newFakeSlot(t)); b.Number() != 0 {
			t.Errorf("the next reader is number %d", b.Number())
		}
	})
}
