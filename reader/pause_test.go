package reader

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

func TestPause(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var p Pauser
		gone := make(chan struct{})
		ctx, cancel := context.WithCancel(t.Context())
		pause := func(d, want time.Duration, is error) {
			t.Helper()
			began := time.Now()
			err := p.Pause(ctx, gone, d)
			if !errors.Is(err, is) || err != nil && is == nil || time.Since(began) != want {
				t.Errorf("%v: %v after %v, want %v after %v", d, err, time.Since(began), is, want)
			}
		}
		pause(time.Second, time.Second, nil)
		pause(0, 0, nil)
		pause(-time.Second, 0, nil)
		time.AfterFunc(time.Second, cancel)
		pause(time.Minute, time.Second, context.Canceled)
		pause(0, 0, nil)
		ctx = t.Context()
		pause(2*time.Second, 2*time.Second, nil) // after one that was cut short
		time.AfterFunc(time.Second, func() { close(gone) })
		pause(time.Minute, time.Second, ErrGone)
	})
}

func TestPauseAllocations(t *testing.T) {
	var p Pauser
	_ = p.Pause(t.Context(), nil, time.Nanosecond)
	if n := testing.AllocsPerRun(100, func() { _ = p.Pause(t.Context(), nil, time.Nanosecond) }); n > 0 {
		t.Errorf("%v allocations", n)
	}
}
