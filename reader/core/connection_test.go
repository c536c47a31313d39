package core

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cardfs/cardfs/reader"
)

// lag of a Share that is refused.
const lag = 20 * time.Millisecond

// of returns a caller of a process.
func of(process string, by Caller) Caller {
	by.Process = process
	return by
}

// client is a program with a connection to a slot.
type client struct {
	*Connection
	process string
}

func newClient(b *Slot, process string) *client {
	return &client{b.NewConnection(of(process, hasty())), process}
}

// share is Share for a client whose other opens pass.
func (c *client) share(how Share) error {
	_, err := c.Share(context.Background(), how, lag, c.admits)
	return err
}

func (c *client) admits(by Caller) bool { return by.Process == c.process }

// "A connection EXCLUSIVE is refused with EBUSY while another PC/SC connection exists;
// SHARED and DIRECT are refused while another has EXCLUSIVE."
func TestShare(t *testing.T) {
	modes := []Share{ShareNone, ShareExclusive, ShareShared, ShareDirect}
	for _, first := range modes {
		for _, before := range modes {
			for _, second := range modes {
				granted := second == ShareNone || second == before || first == ShareNone ||
					first != ShareExclusive && second != ShareExclusive
				possible := first == ShareNone || before == ShareNone || first != ShareExclusive && before != ShareExclusive
				if !possible {
					continue
				}
				for _, process := range []string{"first", "second"} { // "of the same process is refused, too"
					t.Run(fmt.Sprint(first, before, second, process), func(t *testing.T) {
						bubble(t, Options{}, func(t *testing.T, r *rig) {
							_, b := r.plug(reader.Device{}, newFakeSlot(t))
							a, c := newClient(b, "first"), newClient(b, process)
							if err := a.share(first); err != nil {
								t.Fatal(err)
							}
							if err := c.share(before); err != nil {
								t.Fatal(err)
							}
							began := time.Now()
							err := c.share(second)
							if took := time.Since(began); took > 0 && granted {
								t.Errorf("it waited %v", took)
							}
							now := second
							if granted && err != nil {
								t.Errorf("refused: %v", err)
							} else if !granted {
								wantErr(t, "the second", err, reader.ErrLocked)
								now = before // "what was before stays"
							}
							n, exclusive := 0, false
							for _, share := range []Share{first, now} {
								if share != ShareNone {
									n++
								}
								exclusive = exclusive || share == ShareExclusive
							}
							if i := b.Info(); i.Connections != n || i.Exclusive != exclusive {
								t.Errorf("status: %d connections, exclusive: %v", i.Connections, i.Exclusive)
							}
						})
					})
				}
			}
		}
	}
}

// "While it lasts others' commands, resets, protocol, control and memory say EBUSY at once
// (also for openers without O_NONBLOCK), their flock waits." The client's own opens pass.
func TestExclusiveKeepsOthersOut(t *testing.T) {
	bg := context.Background()
	bubble(t, Options{}, func(t *testing.T, r *rig) {
		slot := newFakeSlot(t)
		_, b := r.plug(reader.Device{}, slot)
		mine, other := of("client", hasty()), of("other", someone())
		ms, os := mustOpen(t, b, mine), mustOpen(t, b, other)
		c := newClient(b, "client")
		if err := c.share(ShareExclusive); err != nil {
			t.Fatal(err)
		}
		if i := b.Info(); i.Process != "client" {
			t.Errorf("status: exclusive of %v", i.Process)
		}
		late := mustOpen(t, b, other) // "opens that need no power-on succeed"
		for name, s := range map[string]*Session{"early": os, "late": late} {
			_, err := s.Transmit(bg, hexb("00 01 00 00"), nil)
			wantErr(t, name+" open: a command", err, reader.ErrLocked)
			_, err = s.ReadMemory(bg, 0, 1, nil)
			wantErr(t, name+" open: memory", err, reader.ErrLocked)
			_, err = s.WriteMemory(bg, 0, []byte{1})
			wantErr(t, name+" open: memory", err, reader.ErrLocked)
		}
		for a, name := range map[Action]string{PowerUp: "on", ResetWarm: "reset", ResetCold: "cold", PowerDown: "off", Eject: "eject", Release: "release"} {
			wantErr(t, "power "+name, b.Power(bg, a, other), reader.ErrLocked)
		}
		wantErr(t, "protocol", b.SelectProtocol(bg, 1, other), reader.ErrLocked)
		for _, code := range []uint32{CtlGetFeatures, ctlFeature + featureTLVProperties, CtlEscape} {
			_, err := b.Control(bg, code, nil, other)
			wantErr(t, fmt.Sprintf("control %08X", code), err, reader.ErrLocked)
		}
		locks := async(func() (int, error) { return 0, b.Lock(bg, other, nil) })
		synctest.Wait()
		if !locks.pending() {
			t.Error("another's flock does not wait")
		}
		quick := other
		quick.Wait = false
		wantErr(t, "flock with LOCK_NB", b.TryLock(bg, quick, lag, nil), reader.ErrLocked)
		if len(slot.sent) > 0 {
			t.Errorf("something was sent: % X", slot.sent)
		}

		wantAnswer(t, ms, "00 01 00 00", "00 01 00 00 90 00")
		if _, err := b.Control(bg, CtlGetFeatures, nil, mine); err != nil {
			t.Errorf("the client's own control: %v", err)
		}
		if err := b.Lock(bg, mine, nil); err != nil {
			t.Errorf("the client's own flock: %v", err)
		}
		b.Unlock(mine.Owner)
		synctest.Wait()
		if !locks.pending() {
			t.Error("another's flock was granted when the client's own ended")
		}

		// "Changing EXCLUSIVE to SHARED always works and wakes waiters."
		if err := c.share(ShareShared); err != nil {
			t.Fatal(err)
		}
		if _, err := locks.get(); err != nil {
			t.Error(err)
		}
		wantAnswer(t, os, "00 02 00 00", "00 02 00 00 90 00")
	})
}

// "It is refused with EBUSY while another holds the lock; mere opens of files do not count."
// The lock of the client's own process does not hinder it.
func TestExclusiveAndLock(t *testing.T) {
	bg := context.Background()
	for _, tt := range []struct {
		holder  string
		admit   bool
		granted bool
	}{{"client", true, true}, {"client", false, false}, {"other", true, false}, {"other", false, false}} {
		bubble(t, Options{}, func(t *testing.T, r *rig) {
			_, b := r.plug(reader.Device{}, newFakeSlot(t))
			holder := of(tt.holder, someone())
			mustOpen(t, b, holder)
			mustOpen(t, b, of("third", someone()))
			admit := func(by Caller) bool { return tt.admit && by.Process == tt.holder }
			if err := b.Lock(bg, holder, admit); err != nil {
				t.Fatal(err)
			}
			c := newClient(b, "client")
			if err := c.share(ShareShared); err != nil {
				t.Fatalf("shared beside a lock: %v", err)
			}
			began := time.Now()
			err := c.share(ShareExclusive)
			if tt.granted && (err != nil || time.Since(began) > 0) {
				t.Errorf("%+v: %v", tt, err)
			} else if !tt.granted {
				wantErr(t, fmt.Sprintf("%+v", tt), err, reader.ErrLocked)
				if time.Since(began) != lag {
					t.Errorf("%+v: refused after %v", tt, time.Since(began))
				}
			}
			b.Unlock(holder.Owner)
			if err := c.share(ShareExclusive); err != nil {
				t.Errorf("%+v: after the lock: %v", tt, err)
			}
		})
	}
}

// close(2) returns before the RELEASE comes: what refuses may be about to end.
func TestShareWaitsForRelease(t *testing.T) {
	bg := context.Background()
	bubble(t, Options{}, func(t *testing.T, r *rig) {
		fake, b := r.plug(reader.Device{}, newFakeSlot(t))
		first, second := newClient(b, "first"), newClient(b, "second")
		if err := first.share(ShareExclusive); err != nil {
			t.Fatal(err)
		}
		begin := func(ctx context.Context, c *client) *outcome[Connected] {
			o := async(func() (Connected, error) { return c.Share(ctx, ShareShared, time.Hour, nil) })
			synctest.Wait()
			if !o.pending() {
				t.Fatal("it does not wait")
			}
			return o
		}
		o := begin(bg, second)
		first.Close()
		if _, err := o.get(); err != nil {
			t.Error(err)
		}
		second.share(ShareExclusive)

		ctx, cancel := context.WithCancel(bg)
		o = begin(ctx, newClient(b, "third"))
		cancel()
		_, err := o.get()
		wantErr(t, "a signal", err, reader.ErrInterrupted)

		// Who was killed gets nothing any more, although the call goes on.
		killed := newClient(b, "killed")
		o = begin(bg, killed)
		killed.Close()
		second.share(ShareNone)
		_, err = o.get()
		wantErr(t, "a call of a closed open", err, reader.ErrGone)
		if n := b.Info().Connections; n != 0 {
			t.Errorf("%d connections", n)
		}

		if err := second.share(ShareExclusive); err != nil {
			t.Fatal(err)
		}
		o = begin(bg, newClient(b, "fourth"))
		fake.unplug()
		_, err = o.get()
		wantErr(t, "the reader leaves", err, reader.ErrGone)
		synctest.Wait()
		wantErr(t, "asking afterwards", second.share(ShareExclusive), reader.ErrGone)
		wantErr(t, "ending afterwards", second.share(ShareNone), reader.ErrGone)
		second.Close()
		if i := b.Info(); i.Connections != 0 || i.Exclusive {
			t.Errorf("the reader left: %d connections, exclusive: %v", i.Connections, i.Exclusive)
		}
	})
}

// "A power-on that another's open of apdu would cause is refused too (EBUSY), opens that need no
// power-on succeed."
func TestExclusiveAndPowerOn(t *testing.T) {
	bg := context.Background()
	bubble(t, Options{}, func(t *testing.T, r *rig) {
		slot := newFakeSlot(t)
		_, b := r.plug(reader.Device{}, slot)
		c := newClient(b, "client")
		if err := c.share(ShareExclusive); err != nil {
			t.Fatal(err)
		}
		for _, by := range []Caller{someone(), hasty()} {
			_, err := b.Open(bg, by)
			wantErr(t, "an open that needs a power-on", err, reader.ErrLocked)
		}
		slot.card(reader.Absent)
		synctest.Wait()
		waits := asyncOpen(b, bg, someone())
		synctest.Wait()
		if !waits.pending() {
			t.Error("an open does not wait for a card")
		}
		slot.card(reader.Present)
		_, err := waits.get()
		wantErr(t, "an open that waited for a card", err, reader.ErrLocked)
		if n := slot.count("power on cold"); n != 0 {
			t.Errorf("%d power-ons", n)
		}
		mustOpen(t, b, of("client", someone()))
		mustOpen(t, b, someone())
	})
	// A power-on that waits for its turn when the connection is made: another's is refused,
	// and the client's own open does not share its fate.
	bubble(t, Options{}, func(t *testing.T, r *rig) {
		slot := newFakeSlot(t)
		_, b := r.plug(reader.Device{}, slot)
		if err := b.acquire(bg); err != nil {
			t.Fatal(err)
		}
		other := asyncOpen(b, bg, someone())
		synctest.Wait()
		mine := asyncOpen(b, bg, of("client", someone()))
		synctest.Wait()
		if err := newClient(b, "client").share(ShareExclusive); err != nil {
			t.Fatal(err)
		}
		b.release()
		if _, err := mine.get(); err != nil {
			t.Errorf("the client's own open: %v", err)
		}
		if s, err := other.get(); err == nil { // it may come after the client's power-on
			_, err = s.Transmit(bg, hexb("00 01 00 00"), nil)
			wantErr(t, "another's command", err, reader.ErrLocked)
		} else {
			wantErr(t, "another's open", err, reader.ErrLocked)
		}
		if n := slot.count("power on cold"); n != 1 {
			t.Errorf("%d power-ons", n)
		}
	})
}

// "At once": also while the client's own command has the turn, and a command that waits for
// the turn is not sent.
func TestExclusiveAtOnce(t *testing.T) {
	bg := context.Background()
	bubble(t, Options{}, func(t *testing.T, r *rig) {
		slot := newFakeSlot(t)
		_, b := r.plug(reader.Device{}, slot)
		os := mustOpen(t, b, of("other", someone()))
		if err := b.acquire(bg); err != nil {
			t.Fatal(err)
		}
		early := asyncTransmit(os, bg, "00 01 00 00")
		resets := async(func() (int, error) { return 0, b.Power(bg, ResetWarm, of("other", someone())) })
		synctest.Wait()
		if err := newClient(b, "client").share(ShareExclusive); err != nil {
			t.Fatal(err)
		}
		_, err := os.Transmit(bg, hexb("00 02 00 00"), nil)
		wantErr(t, "a command", err, reader.ErrLocked)
		wantErr(t, "a reset", b.Power(bg, ResetCold, someone()), reader.ErrLocked)
		wantErr(t, "protocol", b.SelectProtocol(bg, 0, someone()), reader.ErrLocked)
		b.release()
		_, err = early.get()
		wantErr(t, "a command that waited for the turn", err, reader.ErrLocked)
		_, err = resets.get()
		wantErr(t, "a reset that waited for the turn", err, reader.ErrLocked)
		if len(slot.sent) != 0 || slot.count("power on warm") != 0 {
			t.Errorf("%q", slot.calls())
		}
	})
}

// "A reset that the holder asks for leaves the holder's own opens valid; all others say
// ESTALE", and its card is not powered off as idle.
func TestExclusiveIsAHolder(t *testing.T) {
	bg := context.Background()
	bubble(t, Options{IdleOff: time.Minute}, func(t *testing.T, r *rig) {
		_, b := r.plug(reader.Device{}, newFakeSlot(t))
		mine, other := of("client", someone()), of("other", someone())
		ms, os := mustOpen(t, b, mine), mustOpen(t, b, other)
		c := newClient(b, "client")
		if err := c.share(ShareExclusive); err != nil {
			t.Fatal(err)
		}
		if err := b.Power(bg, ResetWarm, of("client", someone())); err != nil {
			t.Fatal(err)
		}
		if err := ms.Err(); err != nil {
			t.Errorf("the client's own open: %v", err)
		}
		wantErr(t, "another's open", os.Err(), reader.ErrStale)
		time.Sleep(time.Hour)
		if s := b.Info().State; s != StatePowered {
			t.Errorf("the card is %s", s)
		}
		c.share(ShareShared)
		time.Sleep(time.Hour)
		if s := b.Info().State; s != StatePresent {
			t.Errorf("without the exclusive connection the idle card is %s", s)
		}
	})
}

// Whom an earlier transaction admitted, a later one does not know yet.
func TestVerdictOfAnEarlierTransaction(t *testing.T) {
	bg := context.Background()
	bubble(t, Options{}, func(t *testing.T, r *rig) {
		_, b := r.plug(reader.Device{}, newFakeSlot(t))
		by, first, second := hasty(), someone(), someone()
		s := mustOpen(t, b, by)
		if err := b.Lock(bg, first, func(Caller) bool { return true }); err != nil {
			t.Fatal(err)
		}
		wantAnswer(t, s, "00 01 00 00", "00 01 00 00 90 00")
		b.Unlock(first.Owner)
		if err := b.Lock(bg, second, func(Caller) bool { return false }); err != nil {
			t.Fatal(err)
		}
		_, err := s.Transmit(bg, hexb("00 02 00 00"), nil)
		wantErr(t, "a command", err, reader.ErrLocked)
	})
}
