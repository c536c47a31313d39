package fs

import (
	"context"
	"errors"
	"fmt"
	"syscall"
	"testing"
	"time"

	"github.com/cardfs/cardfs/reader"
)

// The contract's table of errno, for each error of the core: plain, wrapped once, wrapped
// twice, and joined with an unknown error.
func TestErrno(t *testing.T) {
	unknown := errors.New("anything else")
	for _, tt := range []struct {
		err  error
		want syscall.Errno
	}{
		{reader.ErrNoCard, syscall.ENOMEDIUM},
		{reader.ErrGone, syscall.ENODEV},
		{reader.ErrStale, syscall.ESTALE},
		{reader.ErrLocked, syscall.EBUSY},
		{reader.ErrTimeout, syscall.ETIMEDOUT},
		{reader.ErrProtocol, syscall.EPROTO},
		{reader.ErrUnsupported, syscall.EOPNOTSUPP},
		{reader.ErrInvalid, syscall.EINVAL},
		{reader.ErrInterrupted, syscall.EINTR},
		{reader.ErrNotReady, syscall.EAGAIN},
		{reader.ErrNoPermission, syscall.EACCES},
		{reader.ErrClaimed, syscall.EBUSY},
		{reader.ErrFailed, syscall.EIO},
		{reader.ErrMute, syscall.EIO},
		{reader.ErrCancelled, syscall.EIO},
		{reader.ErrAborted, syscall.EIO},
		{unknown, syscall.EIO},
		{context.Canceled, syscall.EIO},
	} {
		for _, err := range []error{
			tt.err,
			fmt.Errorf("tried something: %w", tt.err),
			fmt.Errorf("slot 0: %w", fmt.Errorf("tried something: %w", tt.err)),
			fmt.Errorf("%w: %w", unknown, tt.err),
			errors.Join(tt.err, unknown),
		} {
			if got := toErrno(err); got != tt.want {
				t.Errorf("%v: %v, want %v", err, got, tt.want)
			}
		}
	}
	if toErrno(nil) != 0 {
		t.Errorf("no error: %v", toErrno(nil))
	}
}

// When an error wraps two, the one that tells the caller what to do decides the errno. The
// order of wrapping does not matter.
func TestErrnoOfTwo(t *testing.T) {
	for _, tt := range []struct {
		first, second error
		want          syscall.Errno
		why           string
	}{
		{reader.ErrGone, reader.ErrInterrupted, syscall.ENODEV, "the reader left, and no signal came"},
		{reader.ErrInDoubt, reader.ErrGone, syscall.EIO, "the command may have been carried out"},
		{reader.ErrGone, reader.ErrNoCard, syscall.ENODEV, "there is no reader that could have a card"},
		{reader.ErrGone, reader.ErrStale, syscall.ENODEV, "no new open helps"},
		{reader.ErrGone, reader.ErrTimeout, syscall.ENODEV, "its link broke in an exchange"},
		{reader.ErrGone, reader.ErrProtocol, syscall.ENODEV, "its link broke in an exchange"},
		{reader.ErrInterrupted, reader.ErrLocked, syscall.EINTR, "it waited for the lock"},
		{reader.ErrNoCard, reader.ErrStale, syscall.ENOMEDIUM, "the card was taken out"},
		{reader.ErrAborted, reader.ErrTimeout, syscall.EIO, "the owner ended it, not the clock"},
		{reader.ErrAborted, reader.ErrGone, syscall.ENODEV, "the reader left meanwhile"},
		{reader.ErrNoCard, reader.ErrTimeout, syscall.ENOMEDIUM, "the card was taken out"},
		{reader.ErrStale, reader.ErrTimeout, syscall.ESTALE, "reopen"},
		{reader.ErrStale, reader.ErrLocked, syscall.ESTALE, "waiting would not help"},
		{reader.ErrInvalid, reader.ErrProtocol, syscall.EINVAL, "nothing was sent"},
		{reader.ErrUnsupported, reader.ErrProtocol, syscall.EOPNOTSUPP, "nothing was sent"},
		{reader.ErrFailed, reader.ErrNoPermission, syscall.EACCES, "why it failed to start"},
		{reader.ErrFailed, reader.ErrClaimed, syscall.EBUSY, "why it failed to start"},
		{reader.ErrFailed, reader.ErrTimeout, syscall.EIO, "a start that timed out is no exchange"},
		{reader.ErrFailed, reader.ErrProtocol, syscall.EIO, "a start is no exchange"},
		{reader.ErrTimeout, reader.ErrMute, syscall.ETIMEDOUT, "it is mute because it timed out"},
		{reader.ErrProtocol, reader.ErrMute, syscall.EPROTO, "a broken ATR is one"},
	} {
		for _, err := range []error{fmt.Errorf("%w: %w", tt.first, tt.second), fmt.Errorf("%w: %w", tt.second, tt.first)} {
			if got := toErrno(err); got != tt.want {
				t.Errorf("%v: %v, want %v: %s", err, got, tt.want, tt.why)
			}
		}
	}
}

// "ETIMEDOUT after the mount's --open-timeout", and EINTR after a signal. Any other error
// that ended the wait keeps its own errno.
func TestWaitErrno(t *testing.T) {
	late, cancel := context.WithDeadline(bg, time.Unix(0, 0))
	defer cancel()
	signalled, cancel := context.WithCancel(bg)
	cancel()
	both, cancel := context.WithTimeout(signalled, time.Hour)
	defer cancel()
	for _, tt := range []struct {
		ctx  context.Context
		err  error
		want syscall.Errno
	}{
		{late, reader.ErrInterrupted, syscall.ETIMEDOUT},
		{late, fmt.Errorf("open: %w", reader.ErrInterrupted), syscall.ETIMEDOUT},
		{late, reader.ErrNoCard, syscall.ENOMEDIUM},
		{late, reader.ErrGone, syscall.ENODEV},
		{late, fmt.Errorf("%w: %w", reader.ErrGone, reader.ErrInterrupted), syscall.ENODEV},
		{signalled, reader.ErrInterrupted, syscall.EINTR},
		{both, reader.ErrInterrupted, syscall.EINTR},
		{bg, reader.ErrInterrupted, syscall.EINTR},
		{bg, nil, 0},
	} {
		if got := waitErrno(tt.ctx, tt.err); got != tt.want {
			t.Errorf("%v, %v: %v, want %v", tt.ctx.Err(), tt.err, got, tt.want)
		}
	}
}

// Errors have the names of the contract's table, in `stats` and in lines of text.
func TestErrnoName(t *testing.T) {
	for e, want := range map[syscall.Errno]string{
		syscall.ENOMEDIUM: "ENOMEDIUM", syscall.ENODEV: "ENODEV", syscall.ESTALE: "ESTALE", syscall.EBUSY: "EBUSY",
		syscall.ETIMEDOUT: "ETIMEDOUT", syscall.EPROTO: "EPROTO", syscall.EOPNOTSUPP: "EOPNOTSUPP",
		syscall.EINVAL: "EINVAL", syscall.EIO: "EIO", syscall.EAGAIN: "EAGAIN", 160: "E160",
	} {
		if got := errnoName(e); got != want {
			t.Errorf("%d: %s, want %s", int(e), got, want)
		}
	}
}
