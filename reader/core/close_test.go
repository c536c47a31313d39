package core

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cardfs/cardfs/reader"
)

// "SIGTERM: no new opens, waiting calls end, commands on the wire finish or time
// out, cards are powered off."
func TestClose(t *testing.T) {
	bg := context.Background()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, Options{})
		busy, empty, starting := newFakeSlot(t), newFakeSlot(t), newFakeSlot(t)
		finish := make(chan struct{})
		busy.exchange = func(_ context.Context, x reader.Transfer, dst []byte) ([]byte, error) {
			<-finish
			return append(dst, 0x90, 0x00), nil
		}
		empty.status = reader.Absent
		one, b := r.plug(reader.Device{Address: "busy"}, busy)
		two, e := r.plug(reader.Device{Address: "empty"}, empty)
		r.driver.open = func(ctx context.Context, _ reader.Device) (reader.Reader, error) {
			<-ctx.Done()
			return newFakeReader(starting), nil
		}
		s := r.announce(reader.Device{Address: "starting"})
		session := mustOpen(t, b, someone())
		command := asyncTransmit(session, bg, "00 01 00 00")
		synctest.Wait()
		var waiting []*outcome[*Session]
		for range 500 {
			waiting = append(waiting, asyncOpen(e, bg, someone()), asyncOpen(s, bg, someone()))
		}
		queued := asyncTransmit(session, bg, "00 02 00 00")
		events := r.Follow()
		synctest.Wait()

		closed := async(func() (int, error) { r.Close(bg); return 0, nil })
		for _, o := range waiting {
			_, err := o.get()
			wantErr(t, "waiting open", err, reader.ErrGone)
		}
		_, err := queued.get()
		wantErr(t, "waiting command", err, reader.ErrGone)
		synctest.Wait()
		if !command.pending() || !closed.pending() {
			t.Fatal("Close did not wait for the command on the wire")
		}
		close(finish)
		if answer, err := command.get(); err != nil || len(answer) != 2 {
			t.Errorf("the command on the wire: % X, %v", answer, err)
		}
		closed.get()
		if got := busy.calls(); got[len(got)-1] != "power off" {
			t.Errorf("the card was left powered: %q", got)
		}
		if one.closes.Load() != 1 || two.closes.Load() != 1 {
			t.Errorf("closed %d and %d times", one.closes.Load(), two.closes.Load())
		}
		_, err = b.Open(bg, someone())
		wantErr(t, "open", err, reader.ErrGone)
		wantErr(t, "announce", r.Announce(reader.Device{Driver: "fake", Address: "late"}), reader.ErrGone)
		left := 0
		for {
			e, _, err := events.Next(bg)
			if err != nil {
				break
			}
			if e.What == Left {
				left++
			}
		}
		if left != 3 {
			t.Errorf("%d readers were said to leave, of 3", left)
		}
	})
}

// A command that outlasts the grace is cut off.
func TestCloseCutsOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, Options{})
		slot := newFakeSlot(t)
		slot.exchange = func(ctx context.Context, _ reader.Transfer, dst []byte) ([]byte, error) {
			<-ctx.Done()
			return dst, ctx.Err()
		}
		_, b := r.plug(reader.Device{}, slot)
		o := asyncTransmit(mustOpen(t, b, someone()), context.Background(), "00 01 00 00")
		synctest.Wait()
		grace, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		begin := time.Now()
		r.Close(grace)
		if d := time.Since(begin); d != 10*time.Second {
			t.Errorf("Close took %v", d)
		}
		_, err := o.get()
		wantErr(t, "transmit", err, reader.ErrGone)
	})
}

// A driver that never releases its device does not keep the daemon from ending.
func TestCloseOfADriverThatHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log strings.Builder
		r := newRig(t, Options{Log: newTextLog(&log)})
		fake, letGo := newFakeReader(newFakeSlot(t)), make(chan struct{})
		fake.close = func() error { <-letGo; return nil }
		b := r.plugReader(reader.Device{}, fake)
		mustOpen(t, b, someone())
		begin := time.Now()
		r.Close(context.Background())
		if d := time.Since(begin); d != letGoLimit {
			t.Errorf("Close took %v", d)
		}
		if want := `level=WARN msg="the driver does not let go of the device; leaving without it" reader="fake a"`; strings.Count(log.String(), want) != 1 {
			t.Errorf("no line %s in\n%s", want, log.String())
		}
		close(letGo)
	})
}

// No command goes to a card after Close switched its power off.
func TestNothingIsPoweredDuringClose(t *testing.T) {
	bg := context.Background()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, Options{})
		quick, slow := newFakeSlot(t), newFakeSlot(t)
		finish := make(chan struct{})
		slow.exchange = func(_ context.Context, x reader.Transfer, dst []byte) ([]byte, error) {
			<-finish
			return append(dst, 0x90, 0x00), nil
		}
		_, q := r.plug(reader.Device{Address: "quick"}, quick)
		_, s := r.plug(reader.Device{Address: "slow"}, slow)
		old := mustOpen(t, q, someone())
		o := asyncTransmit(mustOpen(t, s, someone()), bg, "00 01 00 00")
		synctest.Wait()
		closed := async(func() (int, error) { r.Close(bg); return 0, nil })
		synctest.Wait()
		if quick.count("power off") != 1 {
			t.Fatalf("calls %q", quick.calls())
		}
		_, err := q.Open(bg, someone())
		wantErr(t, "open", err, reader.ErrGone)
		wantErr(t, "power", q.Power(bg, PowerUp, someone()), reader.ErrGone)
		_, err = old.Transmit(bg, hexb("00 01 00 00"), nil)
		wantErr(t, "transmit", err, reader.ErrGone)
		close(finish)
		o.get()
		closed.get()
		if got := quick.calls(); got[len(got)-1] != "power off" {
			t.Errorf("calls after Close took the power off: %q", got)
		}
	})
}

// Attaching and detaching a reader many times leaves nothing behind.
func TestNothingPilesUp(t *testing.T) {
	bubble(t, Options{}, func(t *testing.T, r *rig) {
		var left int
		r.OnLeave(func(*Slot) { left++ })
		for range 200 {
			fake, b := r.plug(reader.Device{}, newFakeSlot(t))
			mustOpen(t, b, someone())
			fake.unplug()
			synctest.Wait()
		}
		if left != 200 || len(r.ifds) != 0 || len(r.slots) != 0 || len(r.homes) != 1 || len(r.last) != 1 || len(r.events.state) != 0 {
			t.Errorf("left %d; kept %d ifds, %d slots, %d homes, %d last, %d states",
				left, len(r.ifds), len(r.slots), len(r.homes), len(r.last), len(r.events.state))
		}
	})
}
