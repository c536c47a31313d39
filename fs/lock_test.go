package fs

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"

	"github.com/cardfs/cardfs/reader"
)

// flock(2) on a file that gives it no other meaning works as on any file system.
func TestAdvisory(t *testing.T) {
	var a advisory
	const shared, exclusive = true, false
	try := func(owner string, how bool, want error) {
		t.Helper()
		if err := a.lock(bg, owner, how, false, nil); !errors.Is(err, want) {
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

// A waiter is woken by everything that can let it in: an unlock, an exclusive lock that
// becomes shared, and a shared lock that its owner gave up to get an exclusive one.
func TestAdvisoryWakes(t *testing.T) {
	const shared, exclusive = true, false
	for _, tt := range []struct {
		name  string
		held  map[string]bool
		wants bool
		gives func(a *advisory)
	}{
		{"unlock of an exclusive one", map[string]bool{"a": exclusive}, exclusive, func(a *advisory) { a.unlock("a") }},
		{"unlock of an exclusive one, for a shared one", map[string]bool{"a": exclusive}, shared, func(a *advisory) { a.unlock("a") }},
		{"unlock of the last shared one", map[string]bool{"a": shared, "b": shared}, exclusive, func(a *advisory) { a.unlock("b"); a.unlock("a") }},
		{"an exclusive one becomes shared", map[string]bool{"a": exclusive}, shared, func(a *advisory) { a.lock(bg, "a", shared, false, nil) }},
		{"a shared one is given up for an exclusive one that may not wait", map[string]bool{"a": shared, "b": shared}, exclusive, func(a *advisory) {
			a.lock(bg, "a", exclusive, false, nil)
			a.lock(bg, "b", exclusive, false, nil)
			a.unlock("b")
		}},
	} {
		synctest.Test(t, func(t *testing.T) {
			var a advisory
			for owner, how := range tt.held {
				if err := a.lock(bg, owner, how, false, nil); err != nil {
					t.Fatal(err)
				}
			}
			granted := make(chan error, 3)
			for _, owner := range []string{"x", "y", "z"} { // each waiter needs its own wake-up
				go func() {
					err := a.lock(bg, owner, tt.wants, true, nil)
					granted <- err
					if !tt.wants {
						a.unlock(owner)
					}
				}()
			}
			synctest.Wait()
			if len(granted) != 0 {
				t.Fatalf("%s: somebody did not wait", tt.name)
			}
			tt.gives(&a)
			synctest.Wait()
			if len(granted) != 3 {
				t.Errorf("%s: %d of 3 who waited were woken", tt.name, len(granted))
			}
			// Let the bubble end.
			for owner := range tt.held {
				a.unlock(owner)
			}
		})
	}
}

func TestAdvisoryWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var a advisory
		a.lock(bg, "a", true, true, nil)
		a.lock(bg, "b", true, true, nil)
		done := make(chan string, 3)
		// Both want to turn theirs into an exclusive lock: they get it one after the other.
		for _, owner := range []string{"a", "b"} {
			go func() {
				if err := a.lock(bg, owner, false, true, nil); err != nil {
					t.Error(err)
				}
				a.unlock(owner)
				done <- owner
			}()
		}
		<-done
		<-done
		a.lock(bg, "a", false, true, nil)
		ctx, cancel := context.WithCancel(bg)
		go func() {
			if err := a.lock(ctx, "c", true, true, nil); !errors.Is(err, reader.ErrInterrupted) {
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

// "When a reader leaves ... what was opened before answers ENODEV for ever". This includes
// flock(2), even when a signal comes at the same time.
func TestAdvisoryOfAReaderThatLeft(t *testing.T) {
	gone := make(chan struct{})
	close(gone)
	ctx, cancel := context.WithCancel(bg)
	cancel()
	var a advisory
	if err := a.lock(bg, "a", false, true, gone); !errors.Is(err, reader.ErrGone) {
		t.Errorf("a lock that is free: %v", err)
	}
	a.lock(bg, "a", false, true, nil)
	for range 50 {
		if err := a.lock(ctx, "b", false, true, gone); !errors.Is(err, reader.ErrGone) {
			t.Fatalf("a lock that is not: %v", err)
		}
	}
	synctest.Test(t, func(t *testing.T) {
		for range 50 {
			var a advisory
			a.lock(bg, "a", false, true, nil)
			gone := make(chan struct{})
			ctx, cancel := context.WithCancel(bg)
			go func() {
				if err := a.lock(ctx, "b", false, true, gone); !errors.Is(err, reader.ErrGone) {
					t.Errorf("while it waits: %v", err)
				}
			}()
			synctest.Wait()
			close(gone)
			cancel()
			synctest.Wait()
		}
	})
}
