package reader

import (
	"fmt"
	"log/slog"
	"runtime"
	"strings"

	"github.com/cardfs/cardfs/reader/words"
)

// A driver's panic takes its own reader with it and nothing else. It is recovered
// where the core calls the driver; where that is done with a slot's turn, the turn is
// given back. The reader is closed and its slots say failed, with the reason, until it
// is plugged in anew or `rescan` is written to ctl.

// PanicError is a panic, recovered. It is an ErrFailed.
type PanicError struct{ what, reason string }

func (e *PanicError) Error() string {
	return fmt.Sprintf("%s: the program has a fault there: panic: %s", e.what, e.reason)
}

func (e *PanicError) Is(target error) bool { return target == ErrFailed }

// Recovered turns the value of recover into an error, and logs where the panic happened.
func Recovered(log *slog.Logger, what string, v any) error {
	reason := fmt.Sprintf("%T", v)
	switch v := v.(type) {
	case error:
		reason = v.Error()
	case string:
		reason = v
	}
	err := &PanicError{what, words.Printable(reason, words.MaxValue)}
	if log == nil {
		return err
	}
	log.Error("panic", "in", what, "reason", err.reason, "stack", stack())
	return err
}

// stack lists the calls that led to the panic which is being recovered: functions and
// lines, without arguments, which may be parts of a command.
func stack() string {
	pcs := make([]uintptr, 64)
	frames := runtime.CallersFrames(pcs[:runtime.Callers(3, pcs)])
	var out strings.Builder
	for {
		f, more := frames.Next()
		fmt.Fprintf(&out, "%s %s:%d; ", f.Function, f.File, f.Line)
		if !more {
			return strings.TrimSuffix(out.String(), "; ")
		}
	}
}

// Go runs f on a goroutine of its own. Drivers start theirs so, with the Host of their
// Device: a panic in f then fails that reader, and does not end the program.
func Go(h Host, f func()) {
	if g, ok := h.(interface{ Go(func()) }); ok {
		g.Go(f)
		return
	}
	go f()
}

// InstanceOf returns what no other running daemon has, see core.Manager.Instance; "" if h does
// not say.
func InstanceOf(h Host) string {
	if i, ok := h.(interface{ Instance() string }); ok {
		return i.Instance()
	}
	return ""
}

// Guard calls f and turns a panic in it into an error. It is for callers of a driver outside
// the core. log may be nil.
func Guard(log *slog.Logger, what string, f func()) (err error) {
	defer func() {
		if v := recover(); v != nil {
			err = Recovered(log, what, v)
		}
	}()
	f()
	return nil
}
