package usb

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/cardfs/cardfs/reader"
)

// An interrupt endpoint that fails InterruptTries times in a row is given up, and what it
// would have told is asked for every FallbackPoll. The count restarts if the failed transfer
// had been pending for InterruptHealthy: a system that sleeps every night also resets the
// device every night.
const (
	InterruptTries   = 4
	InterruptHealthy = 10 * time.Second
	FallbackPoll     = time.Second
)

// Listener serves an interrupt IN endpoint.
type Listener struct {
	Endpoint uint8
	Size     int // of the longest message; transfers ask for a multiple of 64 bytes
	// Message is called for each message; its bytes are the caller's.
	Message func(p []byte)
	// Missed is called when messages may have been lost: after a reset, when the device has
	// lost its state too, and every second once the endpoint was given up.
	Missed func()
	Log    *slog.Logger
}

// Run keeps one transfer pending until ctx ends or the device leaves. It needs no timer
// unless the endpoint fails.
func (l Listener) Run(ctx context.Context, conn Conn) {
	buf := make([]byte, (max(l.Size, 64)+63)/64*64)
	for failures := 0; failures < InterruptTries; {
		began := time.Now()
		n, err := conn.In(ctx, l.Endpoint, buf, 0)
		if time.Since(began) >= InterruptHealthy {
			failures = 0
		}
		failures++
		switch {
		case ctx.Err() != nil, errors.Is(err, reader.ErrGone):
			return
		case err == nil:
			failures = 0
			l.Message(buf[:n])
			continue
		case errors.Is(err, ErrReset):
			l.Missed()
		case errors.Is(err, ErrNoEndpoint):
			failures = InterruptTries
		case errors.Is(err, ErrStall):
			_ = conn.ClearHalt(ctx, l.Endpoint)
		}
		l.Log.Warn("interrupt endpoint", "error", err)
		select {
		case <-time.After(time.Duration(failures) * 100 * time.Millisecond):
		case <-ctx.Done():
			return
		}
	}
	l.Log.Warn("interrupt endpoint given up, polling instead")
	tick := time.NewTicker(FallbackPoll)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			l.Missed()
		case <-conn.Gone():
			return
		case <-ctx.Done():
			return
		}
	}
}
