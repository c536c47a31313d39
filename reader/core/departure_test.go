package core

import (
	"context"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cardfs/cardfs/reader"
)

// "What its link and its reader say counts before anybody has noticed it": the first who
// looks hears it. A reader that died leaves where its link tells nothing.
func TestPresentAtFirstLook(t *testing.T) {
	for _, linkTells := range []bool{false, true} {
		for name, tt := range map[string]struct {
			do      func(o *opening, died, left chan struct{})
			present bool
			err     error
			leaves  bool
		}{
			"nothing":                  {func(*opening, chan struct{}, chan struct{}) {}, true, reader.ErrGone, false},
			"its reader died":          {func(_ *opening, died, _ chan struct{}) { close(died) }, false, reader.ErrGone, !linkTells},
			"it failed":                {func(o *opening, _, _ chan struct{}) { o.end(reader.ErrFailed) }, false, reader.ErrFailed, false},
			"it failed and was closed": {func(o *opening, died, _ chan struct{}) { o.end(reader.ErrFailed); close(died) }, false, reader.ErrFailed, false},
			"a command found it dead":  {func(o *opening, _, _ chan struct{}) { o.lost(reader.ErrGone) }, false, reader.ErrGone, !linkTells},
			"detached":                 {func(o *opening, _, _ chan struct{}) { o.ifd.leave() }, false, reader.ErrGone, true},
			"its device left":          {func(_ *opening, _, left chan struct{}) { close(left) }, !linkTells, reader.ErrGone, linkTells},
		} {
			d := &ifd{}
			d.ctx, d.cancel = context.WithCancelCause(context.Background())
			died, left := make(chan struct{}), make(chan struct{})
			if linkTells {
				d.linkGone = left
			}
			o := newOpening(d)
			var gone <-chan struct{} = died
			o.died.Store(&gone)
			tt.do(o, died, left)
			for range 2 {
				if got := o.present(); got != tt.present {
					t.Errorf("%s, link tells %v: present %v", name, linkTells, got)
				}
			}
			wantErr(t, name, o.err(), tt.err)
			if got := closed(d.ctx.Done()); got != tt.leaves {
				t.Errorf("%s, link tells %v: the device left: %v", name, linkTells, got)
			}
			d.leave()
		}
	}
}

// Nothing is sent to a reader that an exchange found dead, by whoever comes before its
// directory is away.
func TestNothingIsSentToTheDead(t *testing.T) {
	bg := context.Background()
	bubble(t, Options{Drivers: []reader.Driver{linkDriver{}}}, func(t *testing.T, r *rig) {
		slot := newFakeSlot(t)
		slot.exchange = func(_ context.Context, _ reader.Transfer, dst []byte) ([]byte, error) { return dst, reader.ErrGone }
		revivals(t, r, func(int) (*fakeReader, error) { return newFakeReader(slot), nil })
		b := r.Slot(0)
		s := mustOpen(t, b, someone())
		r.mu.Lock() // so that the directory stays
		for range 3 {
			_, err := s.Transmit(bg, hexb("00 01 00 00"), nil)
			wantErr(t, "transmit", err, reader.ErrGone)
		}
		_, err := b.Open(bg, someone())
		wantErr(t, "open", err, reader.ErrGone)
		r.mu.Unlock()
		if n := slot.count("exchange 00 01 00 00"); n != 1 {
			t.Errorf("sent %d times", n)
		}
	})
}

// A driver that makes neither a reader nor an error has failed; that is no panic.
func TestNoReader(t *testing.T) {
	var log strings.Builder
	bubble(t, Options{Log: newTextLog(&log)}, func(t *testing.T, r *rig) {
		r.driver.open = func(context.Context, reader.Device) (reader.Reader, error) { return nil, nil }
		b := r.announce(reader.Device{})
		synctest.Wait()
		i := b.Info()
		if i.State != StateFailed || i.Err == nil || i.Err.Error() != "fake a: the driver made no reader" {
			t.Errorf("state %s, error %v", i.State, i.Err)
		}
	})
	if strings.Contains(log.String(), "panic") {
		t.Error(log.String())
	}
}

// A reader that panicked, and whose Close takes its time, leaves at once when it is
// unplugged; but the driver does not get the device of the same name before it let go of
// the first, or letGoLimit is over.
func TestUnplugDuringCloseAfterPanic(t *testing.T) {
	for _, tt := range []struct{ takes, opens time.Duration }{
		{time.Second, time.Second},
		{time.Hour, letGoLimit},
	} {
		t.Run(tt.takes.String(), func(t *testing.T) {
			bubble(t, Options{Drivers: []reader.Driver{linkDriver{}}}, func(t *testing.T, r *rig) {
				slot := newFakeSlot(t)
				slot.exchange = func(context.Context, reader.Transfer, []byte) ([]byte, error) { panic("boom") }
				fake := newFakeReader(slot)
				fake.close = func() error { time.Sleep(tt.takes); return nil }
				link, _ := revivals(t, r, func(int) (*fakeReader, error) { return fake, nil })
				began := time.Now()
				old := r.Slot(0)
				_, err := mustOpen(t, old, someone()).Transmit(context.Background(), hexb("00 01 00 00"), nil)
				wantErr(t, "transmit", err, reader.ErrFailed)
				synctest.Wait()
				if fake.closes.Load() != 1 || old.Gone() {
					t.Fatalf("closed %d times, gone %v", fake.closes.Load(), old.Gone())
				}
				close(link.gone)
				synctest.Wait()
				if r.Slot(0) != nil || !old.Gone() {
					t.Error("the directory waits for Close")
				}
				var opened time.Duration
				revivals(t, r, func(int) (*fakeReader, error) {
					opened = time.Since(began)
					return newFakeReader(newFakeSlot(t)), nil
				})
				mustOpen(t, r.Slot(0), someone())
				if opened != tt.opens {
					t.Errorf("opened after %v, want %v", opened, tt.opens)
				}
				if tt.takes > tt.opens {
					time.Sleep(tt.takes)
				}
			})
		})
	}
}

// "SIGTERM: waiting calls end": what was left behind, and waits for others of its kind,
// too. None of it is sent any more.
func TestLeftBehindDuringClose(t *testing.T) {
	bg := context.Background()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, Options{})
		slot, finish := newFakeSlot(t), make(chan struct{})
		slot.exchange = func(_ context.Context, _ reader.Transfer, dst []byte) ([]byte, error) {
			<-finish
			return append(dst, 0x90, 0x00), nil
		}
		_, b := r.plug(reader.Device{}, slot)
		q := NewQueue()
		leave := func() Caller {
			by := someone()
			by.Pass.Leave(q)
			return by
		}
		other := mustOpen(t, b, someone())
		under := asyncTransmit(other, bg, "00 01 00 00")
		synctest.Wait()
		var waiting []*outcome[[]byte]
		for range 5 { // one for the turn, the others for the one
			waiting = append(waiting, asyncTransmit(mustOpen(t, b, leave()), bg, "00 02 00 00"))
			synctest.Wait()
		}
		closing := async(func() (int, error) { r.Close(bg); return 0, nil })
		synctest.Wait()
		for _, o := range waiting {
			if o.pending() {
				t.Fatal("it waits on")
			}
			_, err := o.get()
			wantErr(t, "what was left behind", err, reader.ErrGone)
		}
		if !under.pending() {
			t.Error("the command under way was ended")
		}
		close(finish)
		if _, err := under.get(); err != nil {
			t.Error(err)
		}
		closing.get()
		if n := slot.count("exchange 00 02 00 00"); n != 0 {
			t.Errorf("sent %d times after Close", n)
		}
		if len(q) != 0 {
			t.Error("the queue is not empty")
		}
	})
}

// "When a reader leaves, its path is gone at once. What was opened before answers ENODEV": also to
// those whom the departure itself wakes.
func TestDepartureWakesNobodyEarly(t *testing.T) {
	bubble(t, Options{Drivers: []reader.Driver{linkDriver{}}}, func(t *testing.T, r *rig) {
		revivals(t, r, func(int) (*fakeReader, error) { return newFakeReader(newFakeSlot(t)), nil })
		b := r.Slot(0)
		mustOpen(t, b, someone())
		var mu sync.Mutex
		told := map[string][]bool{}
		tell := func(name string) func() {
			return func() {
				mu.Lock()
				defer mu.Unlock()
				told[name] = append(told[name], b.Gone())
			}
		}
		defer b.Watch(tell("status"))()
		b.Follow().Watch(tell("event"))
		b.FollowTrace().Watch(tell("trace"))
		if err := r.Detach(0); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		mu.Lock()
		defer mu.Unlock()
		for _, name := range []string{"status", "event", "trace"} {
			if len(told[name]) == 0 || slices.Contains(told[name], false) {
				t.Errorf("%s was told %d times, and found the reader gone: %v", name, len(told[name]), told[name])
			}
		}
	})
}
