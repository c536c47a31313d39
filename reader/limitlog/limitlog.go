// Package limitlog limits how often the same message is logged. A device or a program that
// misbehaves can cause one a thousand times a second.
//
// Lock order: the lock of the counts is a leaf.
package limitlog

import (
	"context"
	"log/slog"
	"sync"
	"time"
)

// A message is logged logBurst times, and from then on every logPause, with how often
// it was left out.
const (
	logBurst = 10
	logPause = 10 * time.Second
)

// New returns log with a limit. Messages are counted by their text alone, whatever their
// attributes. A nil log discards.
func New(log *slog.Logger) *slog.Logger {
	if log == nil {
		return slog.New(slog.DiscardHandler)
	}
	return WithBurst(log, logBurst)
}

// WithBurst is New for a message that may be logged burst times at once.
func WithBurst(log *slog.Logger, burst int) *slog.Logger {
	return slog.New(&limitedLog{log.Handler(), &logCounts{burst: burst, of: make(map[string]*logCount)}})
}

type limitedLog struct {
	slog.Handler
	counts *logCounts // shared by all loggers derived from one
}

type logCounts struct {
	burst int

	mu sync.Mutex
	of map[string]*logCount
}

type logCount struct {
	free  int       // how often it may still be logged at once
	last  time.Time // when it was last logged, or free was filled up
	muted int       // how often it was left out since
}

func (l *limitedLog) WithAttrs(a []slog.Attr) slog.Handler {
	return &limitedLog{l.Handler.WithAttrs(a), l.counts}
}

func (l *limitedLog) WithGroup(name string) slog.Handler {
	return &limitedLog{l.Handler.WithGroup(name), l.counts}
}

func (l *limitedLog) Handle(ctx context.Context, r slog.Record) error {
	muted, pass := l.counts.take(r.Message, r.Time)
	if !pass {
		return nil
	}
	if muted > 0 {
		r = r.Clone()
		r.Add("left out", muted)
	}
	return l.Handler.Handle(ctx, r)
}

func (c *logCounts) take(message string, now time.Time) (muted int, pass bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := c.of[message]
	if n == nil {
		n = &logCount{free: c.burst, last: now}
		c.of[message] = n
	}
	if quiet := now.Sub(n.last); quiet >= logPause {
		n.free = min(c.burst, n.free+int(quiet/logPause))
	}
	if n.free == 0 {
		n.muted++
		return 0, false
	}
	n.free--
	muted, n.muted, n.last = n.muted, 0, now
	return muted, true
}
