package fs

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"

	"github.com/cardfs/cardfs/reader"
)

// flock(2) on a file where it means nothing else is what it is anywhere.
func TestAdvisory(t *testing.T) {
	var a advisory
	const shared, exclusive = true, false
	try := func(owner string, how bool, want error) {
		t.Helper()
		if err := a.lock(bg, owner, how, false); !errors.Is(err, want) {
			t.Errorf("%s, shared %v: %v, want %v", owner, how, err, want)
		}
	}
	try("a", shared, nil)
	try("b", shared, nil)
	try("c", exclusive, reader.ErrLocked)
	try("a", exclusive, reader.ErrLocked) // and a's shared one is gone
	a.unlock("b")
	try("c", exclusive, nil)
	try("c", exclusive, nil)
	try("a", shared, reader.ErrLocked)
	try("c", shared, nil)
	try("a", shared, nil)
	a.unlock("nobody")
	a.unlock("a")
	a.unlock("c")
	try("d", exclusive, nil)
}

func TestAdvisoryWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var a advisory
		a.lock(bg, "a", true, true)
		a.lock(bg, "b", true, true)
		done := make(chan string, 3)
		// Both want theirs to be exclusive: one after the other gets it.
		for _, owner := range []string{"a", "b"} {
			go func() {
				if err := a.lock(bg, owner, false, true); err != nil {
					t.Error(err)
				}
				a.unlock(owner)
				done <- owner
			}()
		}
		<-done
		<-done
		a.lock(bg, "a", false, true)
		ctx, cancel := context.WithCancel(bg)
		go func() {
			if err := a.lock(ctx, "c", true, true); !errors.Is(err, reader.ErrInterrupted) {
				t.Errorf("interrupted: %v", err)
			}
			done <- "c"
		}()
		synctest.Wait()
		cancel()
		<-done
		a.unlock("a")
		if len(a.holders) != 0 {
			t.Errorf("still held: %v", a.holders)
		}
	})
}
