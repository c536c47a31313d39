package remote

import (
	"context"
	"testing"
	"time"

	"github.com/cardfs/cardfs/reader/core"
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
	for !h.Slot(0).Info().Locked {
		time.Sleep(time.Millisecond) // no event says so
	}
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
	theirs, err := far.Slot(0).Open(t.Context(), core.Caller{Owner: new(int), Wait: true})
	if err != nil {
		t.Fatal(err)
	}
	defer theirs.Close()
	if _, err := theirs.Transmit(t.Context(), numbered(2), nil); err != nil {
		t.Errorf("a lock that nobody waits for any more holds others off: %v", err)
	}
}
