package core

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cardfs/cardfs/reader"
)

func (r *rig) numbers() string {
	var n []string
	for _, b := range r.Slots() {
		n = append(n, fmt.Sprint(b.Number()))
	}
	return strings.Join(n, " ")
}

// "A new reader takes the lowest free number. A reader that comes back takes its
// old number again while the daemon lives, if it is free."
func TestNumbers(t *testing.T) {
	bubble(t, Options{}, func(t *testing.T, r *rig) {
		here := make(map[string]*fakeReader)
		plug := func(serial string, slots int, want ...int) {
			t.Helper()
			dev := reader.Device{Address: "at " + serial, Serial: serial, Slots: slots}
			var fakes []*fakeSlot
			for range slots {
				fakes = append(fakes, newFakeSlot(t))
			}
			fake := newFakeReader(fakes...)
			first := r.plugReader(dev, fake)
			synctest.Wait()
			here[serial] = fake
			if got := first.Info().Siblings; !slices.Equal(got, want) {
				t.Errorf("%s took %v, want %v", serial, got, want)
			}
		}
		unplug := func(serial string) {
			here[serial].unplug()
			synctest.Wait()
		}
		plug("A", 1, 0)
		plug("B", 2, 1, 2)
		plug("C", 1, 3)
		unplug("A")
		plug("A", 1, 0) // back at its own
		unplug("A")
		plug("D", 1, 0) // the lowest free one
		plug("A", 1, 4) // its old one is taken
		unplug("D")
		unplug("A")
		plug("A", 1, 4) // the one it had last
		unplug("B")
		plug("E", 1, 0)
		plug("F", 1, 1)
		plug("B", 2, 5, 2) // of its two numbers one is free
		if r.numbers() != "0 1 2 3 4 5" {
			t.Errorf("numbers: %s", r.numbers())
		}
	})
}

// What was opened before a reader left "answers ENODEV for ever, even after
// another reader took the number".
func TestNothingWorksAfterDeparture(t *testing.T) {
	bg := context.Background()
	bubble(t, Options{}, func(t *testing.T, r *rig) {
		first, old := r.plug(reader.Device{}, newFakeSlot(t))
		s := mustOpen(t, old, someone())
		events := old.Follow()
		defer events.Close()
		first.unplug()
		synctest.Wait()
		second := newFakeSlot(t)
		_, b := r.plug(reader.Device{}, second)
		if b == old || b.Number() != old.Number() || b.Serial() == old.Serial() {
			t.Fatalf("slot %d serial %d came after %d serial %d", b.Number(), b.Serial(), old.Number(), old.Serial())
		}
		mustOpen(t, b, someone())
		calls := len(second.calls())
		_, err := s.Transmit(bg, hexb("00 01 00 00"), nil)
		wantErr(t, "an old session's command", err, reader.ErrGone)
		wantErr(t, "a reset through the old directory", old.Power(bg, ResetWarm, someone()), reader.ErrGone)
		_, err = old.Open(bg, someone())
		wantErr(t, "an open through the old directory", err, reader.ErrGone)
		if len(second.calls()) != calls {
			t.Errorf("it reached the new reader: %q", second.calls()[calls:])
		}
		var last Event
		for {
			e, _, err := events.Next(bg)
			if err != nil {
				wantErr(t, "the old slot's events", err, reader.ErrGone)
				break
			}
			last = e
		}
		if last.What != Left {
			t.Errorf("the old slot's last event is %s", last.What)
		}
	})
}

// namesItself is slow to identify itself.
type namesItself struct {
	*fakeReader
	hold chan struct{}
}

func (n namesItself) Identify() (string, map[string]string) {
	<-n.hold
	return "Slow", map[string]string{"version": "1"}
}

// A reader that is slow to identify itself does not hold up others.
func TestSlowIdentify(t *testing.T) {
	bubble(t, Options{}, func(t *testing.T, r *rig) {
		hold := make(chan struct{})
		r.driver.open = func(context.Context, reader.Device) (reader.Reader, error) {
			return namesItself{newFakeReader(newFakeSlot(t)), hold}, nil
		}
		b := r.announce(reader.Device{ID: reader.ID{Model: "?"}})
		synctest.Wait()
		if i := b.Info(); i.Model != "?" || i.State != "starting" || len(r.Slots()) != 1 {
			t.Errorf("meanwhile: %+v", i)
		}
		close(hold)
		synctest.Wait()
		if i := b.Info(); i.Model != "Slow" || i.More["version"] != "1" || i.State != "present" {
			t.Errorf("then: %+v", i)
		}
	})
}

// A call that the departure cut off reports that the reader is gone, and not the driver's error.
func TestPowerOffCutOff(t *testing.T) {
	bubble(t, Options{}, func(t *testing.T, r *rig) {
		slot := newFakeSlot(t)
		slot.off = func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }
		_, b := r.plug(reader.Device{}, slot)
		mustOpen(t, b, someone())
		off := async(func() (int, error) { return 0, b.Power(context.Background(), PowerDown, someone()) })
		synctest.Wait()
		if err := r.Detach(b.Number()); err != nil {
			t.Fatal(err)
		}
		_, err := off.get()
		wantErr(t, "power off", err, reader.ErrGone)
	})
}

// "The directory appears as soon as the device is announced": a slow Open does not hold up
// others. The departure of the device ends the Open and its waiters.
func TestSlowOpen(t *testing.T) {
	bubble(t, Options{}, func(t *testing.T, r *rig) {
		ended := make(chan error, 1)
		r.driver.open = func(ctx context.Context, _ reader.Device) (reader.Reader, error) {
			<-ctx.Done()
			ended <- ctx.Err()
			return nil, ctx.Err()
		}
		slow := r.announce(reader.Device{Address: "slow"})
		_, quick := r.plug(reader.Device{Address: "quick"}, newFakeSlot(t))
		mustOpen(t, quick, someone())
		o := asyncOpen(slow, context.Background(), someone())
		synctest.Wait()
		if !o.pending() || slow.Info().State != "starting" {
			t.Fatalf("state %s", slow.Info().State)
		}
		if err := r.Detach(slow.Number()); err != nil {
			t.Fatal(err)
		}
		_, err := o.get()
		wantErr(t, "open", err, reader.ErrGone)
		<-ended
		synctest.Wait()
		if r.numbers() != "1" {
			t.Errorf("numbers: %s", r.numbers())
		}
	})
}

// If a driver finishes Open after the device left, the reader is closed.
func TestOpenFinishesAfterDeparture(t *testing.T) {
	bubble(t, Options{}, func(t *testing.T, r *rig) {
		fake, finish := newFakeReader(newFakeSlot(t)), make(chan struct{})
		r.driver.open = func(context.Context, reader.Device) (reader.Reader, error) { <-finish; return fake, nil }
		b := r.announce(reader.Device{})
		r.Detach(b.Number())
		synctest.Wait()
		if r.numbers() != "" {
			t.Error("the directory waits for the driver")
		}
		close(finish)
		synctest.Wait()
		if n := fake.closes.Load(); n != 1 {
			t.Errorf("Close was called %d times", n)
		}
	})
}

// A failing Open leaves a directory that says why, until the device leaves.
func TestFailingOpen(t *testing.T) {
	bg := context.Background()
	bubble(t, Options{}, func(t *testing.T, r *rig) {
		r.driver.open = func(context.Context, reader.Device) (reader.Reader, error) {
			return nil, fmt.Errorf("claim interface 0: %w", reader.ErrClaimed)
		}
		b := r.announce(reader.Device{})
		_, err := b.Open(bg, someone())
		wantErr(t, "open", err, reader.ErrFailed)
		wantErr(t, "open", err, reader.ErrClaimed)
		wantErr(t, "power", b.Power(bg, PowerUp, someone()), reader.ErrFailed)
		if i := b.Info(); i.State != StateFailed || !strings.HasPrefix(i.Err.Error(), "fake a: claim interface 0: the device is in use") {
			t.Errorf("state %s, error %v", i.State, i.Err)
		}
		if err := r.Detach(b.Number()); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		_, err = b.Open(bg, someone())
		wantErr(t, "open", err, reader.ErrGone)
		if r.numbers() != "" {
			t.Errorf("numbers: %s", r.numbers())
		}
		wantErr(t, "detach of nothing", r.Detach(b.Number()), reader.ErrInvalid)
		_, again := r.plug(reader.Device{}, newFakeSlot(t))
		mustOpen(t, again, someone())
	})
}

// A driver's Open may find that the device is gone or has no slot.
func TestOpenFindsNothing(t *testing.T) {
	bubble(t, Options{}, func(t *testing.T, r *rig) {
		r.driver.open = func(context.Context, reader.Device) (reader.Reader, error) {
			return nil, fmt.Errorf("open: %w", reader.ErrGone)
		}
		// It may be gone before anybody could look for its directory.
		if err := r.Announce(reader.Device{Driver: "fake", Address: "a", Link: opener(r.driver.open)}); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if r.numbers() != "" {
			t.Errorf("a device that left while it was opened is still there: %s", r.numbers())
		}
		empty := newFakeReader()
		b := r.plugReader(reader.Device{}, empty)
		_, err := b.Open(context.Background(), someone())
		wantErr(t, "open", err, reader.ErrFailed)
		if n := empty.closes.Load(); n != 1 {
			t.Errorf("Close was called %d times", n)
		}
	})
}

// A device is unplugged and plugged in again at once. The new reader is there at once, its
// opens wait until the old one is closed, and the driver never has both.
func TestReplugAtOnce(t *testing.T) {
	bubble(t, Options{}, func(t *testing.T, r *rig) {
		first, letGo := newFakeReader(newFakeSlot(t)), make(chan struct{})
		first.close = func() error { <-letGo; return errors.New("it hung a while") }
		old := r.plugReader(reader.Device{}, first)
		synctest.Wait()
		if err := r.Detach(old.Number()); err != nil {
			t.Fatal(err)
		}
		// Twice, before anything else could happen in between.
		second := newFakeReader(newFakeSlot(t))
		b := r.plugReader(reader.Device{}, second)
		if r.Announce(b.ifd.dev) == nil {
			t.Error("the same device was announced twice")
		}
		o := asyncOpen(b, context.Background(), someone())
		synctest.Wait()
		if !o.pending() || r.driver.opens != 1 {
			t.Errorf("the driver opened the device %d times while it still closes it", r.driver.opens)
		}
		close(letGo)
		if _, err := o.get(); err != nil {
			t.Error(err)
		}
		if r.driver.opens != 2 {
			t.Errorf("the driver opened the device %d times", r.driver.opens)
		}
	})
}

// "A reader that comes back takes its old number again", even if the manager has not yet seen
// it leave. The events are in the order in which things happened.
func TestReplugUnseen(t *testing.T) {
	bubble(t, Options{}, func(t *testing.T, r *rig) {
		first := newFakeReader(newFakeSlot(t))
		old := r.plugReader(reader.Device{}, first)
		synctest.Wait()
		events := r.Follow()
		defer events.Close()
		first.unplug()
		again := r.plugReader(reader.Device{}, newFakeReader(newFakeSlot(t)))
		if again.Number() != old.Number() {
			t.Errorf("number %d, had %d before", again.Number(), old.Number())
		}
		synctest.Wait()
		if r.numbers() != "0" {
			t.Errorf("numbers: %s", r.numbers())
		}
		var got []What
		for len(got) == 0 || got[len(got)-1] != Ready || len(got) < 4 {
			e, _, err := events.Next(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if e.What == Arrived || e.What == Left || e.What == Ready {
				got = append(got, e.What)
			}
		}
		if want := []What{Arrived, Ready, Left, Arrived, Ready}; !slices.Equal(got, want) && !slices.Equal(got, want[1:]) {
			t.Errorf("events %v", got)
		}
	})
}

// The same, but the second leaves before the first is closed.
func TestReplugAndLeaveWhileClosing(t *testing.T) {
	bubble(t, Options{}, func(t *testing.T, r *rig) {
		first, letGo := newFakeReader(newFakeSlot(t)), make(chan struct{})
		first.close = func() error { <-letGo; return nil }
		old := r.plugReader(reader.Device{}, first)
		synctest.Wait()
		r.Detach(old.Number())
		second := newFakeReader(newFakeSlot(t))
		b := r.plugReader(reader.Device{}, second)
		o := asyncOpen(b, context.Background(), someone())
		r.Detach(b.Number())
		_, err := o.get()
		wantErr(t, "open", err, reader.ErrGone)
		third := newFakeReader(newFakeSlot(t))
		c := r.plugReader(reader.Device{}, third)
		synctest.Wait()
		if r.driver.opens != 1 {
			t.Errorf("the driver opened the device %d times while the first still closes it", r.driver.opens)
		}
		close(letGo)
		mustOpen(t, c, someone())
		if r.driver.opens != 2 || second.closes.Load() != 0 {
			t.Errorf("opened %d times; the one that was never opened was closed %d times", r.driver.opens, second.closes.Load())
		}
	})
}

// Clones with one serial number are told apart by their port.
func TestClones(t *testing.T) {
	bubble(t, Options{}, func(t *testing.T, r *rig) {
		_, a := r.plug(reader.Device{Address: "usb:1-1", Port: "1-1", Serial: "0"}, newFakeSlot(t))
		two, b := r.plug(reader.Device{Address: "usb:1-2", Port: "1-2", Serial: "0"}, newFakeSlot(t))
		if a.Number() != 0 || b.Number() != 1 {
			t.Errorf("numbers %d and %d", a.Number(), b.Number())
		}
		if len(r.ByID()) != 2 {
			t.Errorf("by-id names: %v", r.ByID())
		}
		two.unplug()
		synctest.Wait()
		_, b = r.plug(reader.Device{Address: "usb:1-2", Port: "1-2", Serial: "0"}, newFakeSlot(t))
		if b.Number() != 1 {
			t.Errorf("the clone came back as %d", b.Number())
		}
		if len(r.ByID()) != 2 {
			t.Errorf("by-id names: %v", r.ByID())
		}
	})
}

// A reader may have more or fewer slots than were announced. Its slots are independent of each
// other.
func TestMultiSlot(t *testing.T) {
	bg := context.Background()
	bubble(t, Options{}, func(t *testing.T, r *rig) {
		var slots []*fakeSlot
		for range 3 {
			slots = append(slots, newFakeSlot(t))
		}
		fake, b := r.plug(reader.Device{Slots: 2}, slots...)
		if got := b.Info().Siblings; !slices.Equal(got, []int{0, 1, 2}) {
			t.Fatalf("slots %v", got)
		}
		slots[1].exchange = func(_ context.Context, _ reader.Transfer, dst []byte) ([]byte, error) {
			<-slots[1].gone
			return dst, reader.ErrGone
		}
		stuck := asyncTransmit(mustOpen(t, r.Slot(1), someone()), bg, "00 01 00 00")
		synctest.Wait()
		wantAnswer(t, mustOpen(t, r.Slot(0), someone()), "00 02 00 00", "00 02 00 00 90 00")
		wantAnswer(t, mustOpen(t, r.Slot(2), someone()), "00 02 00 00", "00 02 00 00 90 00")
		if !stuck.pending() {
			t.Fatal(stuck.err)
		}
		fake.unplug()
		_, err := stuck.get()
		wantErr(t, "transmit", err, reader.ErrGone)
		synctest.Wait()
		if r.numbers() != "" || fake.closes.Load() != 1 {
			t.Errorf("numbers %q, closed %d times", r.numbers(), fake.closes.Load())
		}
		_, b = r.plug(reader.Device{Slots: 2}, newFakeSlot(t))
		if got := b.Info().Siblings; !slices.Equal(got, []int{0}) {
			t.Errorf("a reader announced with 2 slots that has 1 shows %v", got)
		}
	})
}

// A slot that hangs when it is first asked for its state keeps neither its
// siblings from being used nor the reader from leaving.
func TestFirstStatusHangs(t *testing.T) {
	bg := context.Background()
	bubble(t, Options{}, func(t *testing.T, r *rig) {
		hung, fine := newFakeSlot(t), newFakeSlot(t)
		hung.state = func(ctx context.Context) (reader.Status, error) { <-ctx.Done(); return reader.Absent, ctx.Err() }
		fake := newFakeReader(hung, fine)
		b := r.plugReader(reader.Device{Slots: 2}, fake)
		o := asyncOpen(b, bg, someone())
		mustOpen(t, r.Slot(1), someone())
		fake.unplug()
		_, err := o.get()
		wantErr(t, "open", err, reader.ErrGone)
	})
}

// The methods of a Slot are called one at a time, which the fake checks. This includes Traits
// while the first clients come.
func TestClientsComeWithTheReader(t *testing.T) {
	bubble(t, Options{IdleOff: time.Hour}, func(t *testing.T, r *rig) {
		for i := range 50 {
			slot, powered := newFakeSlot(t), make(chan struct{})
			slot.power = func(context.Context, reader.Reset) ([]byte, error) { <-powered; return atrT1, nil }
			b := r.plugReader(reader.Device{Address: fmt.Sprint(i)}, newFakeReader(slot))
			o := asyncOpen(b, context.Background(), someone())
			synctest.Wait()
			close(powered)
			if _, err := o.get(); err != nil {
				t.Fatal(err)
			}
		}
	})
}
