package remote

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/cardfs/cardfs/reader"
	"github.com/cardfs/cardfs/reader/core"
	"github.com/cardfs/cardfs/reader/readertest"
)

// "A transaction here holds off clients there": from Lock's return on, until Unlock.
func TestLockHere(t *testing.T) {
	far := machineThere(t, "t1")
	w := newWay(t, far.dir)
	h := machineHere(t, "remote "+w.at)
	h.awaitState(0, core.StatePresent)
	mine := h.open(0)
	me := new(int)
	if err := h.Slot(0).Lock(t.Context(), core.Caller{Owner: me, Wait: true}, nil); err != nil {
		t.Fatal(err)
	}
	theirs, err := far.Slot(0).Open(t.Context(), core.Caller{Owner: new(int), Wait: true})
	if err != nil {
		t.Fatal(err)
	}
	defer theirs.Close()
	if !far.Slot(0).Info().Locked {
		t.Error("there is no transaction there")
	}
	soon, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := theirs.Transmit(soon, numbered(1), nil); err == nil {
		t.Error("a client there used the card in a transaction here")
	}
	_ = mine
	h.Slot(0).Unlock(me)
	if _, err := theirs.Transmit(t.Context(), numbered(2), nil); err != nil {
		t.Errorf("after the transaction: %v", err)
	}
}

// "Sequences never interleave": in a transaction here the card is reset and a PIN entered at the
// reader there, and nobody there gets in between. Over SFTP each open is another process's there.
func TestLockOutlastsResetAndPIN(t *testing.T) {
	far := machineThere(t, "pinpad card=dual")
	w := newWay(t, far.dir)
	h := machineHere(t, "remote "+w.at)
	h.awaitState(0, core.StatePresent)
	h.open(0)
	me := core.Caller{Owner: new(int), Wait: true}
	theirs, err := far.Slot(0).Open(t.Context(), core.Caller{Owner: new(int), Wait: true})
	if err != nil {
		t.Fatal(err)
	}
	if err := h.Slot(0).Lock(t.Context(), me, nil); err != nil {
		t.Fatal(err)
	}
	mine, err := h.Slot(0).Open(t.Context(), me)
	if err != nil {
		t.Fatal(err)
	}
	defer mine.Close()
	if _, err := mine.Transmit(t.Context(), numbered(1), nil); err != nil {
		t.Fatal(err)
	}
	card := logCard(t, far.Slot(0))
	waits := make(chan error, 1)
	go func() {
		for {
			_, err := theirs.Transmit(t.Context(), numbered(99), nil)
			if theirs.Close(); errors.Is(err, reader.ErrStale) { // each reset ends an open of theirs
				theirs, err = far.Slot(0).Open(t.Context(), core.Caller{Owner: new(int), Wait: true})
				if err == nil {
					continue
				}
			}
			waits <- err
			return
		}
	}()
	far.ctl("sim 0 keys 1234")
	pin := &reader.PINVerify{PINFormat: reader.PINFormat{Format: 0x82, MinDigits: 4, MaxDigits: 8, Condition: 2, APDU: []byte{0, 0x20, 0, 1, 0}}}
	for n, step := range []func() error{
		func() error { return h.Slot(0).Power(t.Context(), core.ResetCold, me) },
		func() error { return h.Slot(0).Power(t.Context(), core.ResetWarm, me) },
		func() error { return h.Slot(0).SelectProtocol(t.Context(), 1-h.Slot(0).Info().Params.T, me) },
		func() error {
			answer, err := h.Slot(0).VerifyPIN(t.Context(), pin, me)
			if err == nil && len(answer) != 2 {
				err = fmt.Errorf("an answer of %d bytes", len(answer))
			}
			return err
		},
	} {
		if err := step(); err != nil {
			t.Errorf("step %d: %v", n, err)
		}
		if !far.Slot(0).Info().Locked {
			t.Errorf("after step %d there is no transaction there", n)
		}
		// "A reset that the holder asks for leaves the holder's own opens valid."
		if _, err := mine.Transmit(t.Context(), numbered(2), nil); err != nil {
			t.Errorf("after step %d: %v", n, err)
		}
		if card.drain(); card.seen[fmt.Sprintf("% X", numbered(99))] > 0 {
			t.Fatalf("in step %d another's command came into the transaction", n)
		}
	}
	h.Slot(0).Unlock(me.Owner)
	if err := <-waits; err != nil {
		t.Errorf("after the transaction: %v", err)
	}
}

// A transaction there is waited for here, and a waiter here may give up.
func TestLockThere(t *testing.T) {
	far := machineThere(t, "t1")
	h := machineHere(t, "remote "+far.dir)
	h.awaitState(0, core.StatePresent)
	s := h.open(0)
	holder, me := new(int), new(int)
	if err := far.Slot(0).Lock(t.Context(), core.Caller{Owner: holder, Wait: true}, nil); err != nil {
		t.Fatal(err)
	}
	ctx, giveUp := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- h.Slot(0).Lock(ctx, core.Caller{Owner: me, Wait: true}, nil) }()
	readertest.Eventually(t, "the transaction has begun", func() bool { return h.Slot(0).Info().Locked })
	giveUp()
	if err := <-done; err == nil {
		t.Error("the lock was granted while another has it there")
	}
	if h.Slot(0).Info().Locked {
		t.Error("who gave up waiting has the transaction")
	}
	far.Slot(0).Unlock(holder)
	if _, err := s.Transmit(t.Context(), numbered(1), nil); err != nil {
		t.Error(err)
	}
	// Who does not wait learns that another has it there, and gets it when that is over.
	if err := far.Slot(0).Lock(t.Context(), core.Caller{Owner: holder, Wait: true}, nil); err != nil {
		t.Fatal(err)
	}
	if err := h.Slot(0).TryLock(t.Context(), core.Caller{Owner: me}, patience, nil); !errors.Is(err, reader.ErrLocked) || h.Slot(0).Info().Locked {
		t.Errorf("LOCK_NB while another has the lock there: %v", err)
	}
	far.Slot(0).Unlock(holder)
	if err := h.Slot(0).TryLock(t.Context(), core.Caller{Owner: me}, patience, nil); err != nil || !far.Slot(0).Info().Locked {
		t.Errorf("LOCK_NB while nobody has the lock there: %v", err)
	}
	h.Slot(0).Unlock(me)
	theirs, err := far.Slot(0).Open(t.Context(), core.Caller{Owner: new(int), Wait: true})
	if err != nil {
		t.Fatal(err)
	}
	defer theirs.Close()
	if _, err := theirs.Transmit(t.Context(), numbered(2), nil); err != nil {
		t.Errorf("a lock that nobody waits for any more holds others off: %v", err)
	}
}
