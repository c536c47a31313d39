package remote

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/cardfs/cardfs/drivers/remote/files"
	"github.com/cardfs/cardfs/reader"
	"github.com/cardfs/cardfs/reader/words"
)

// kinds are the errors of the far core, by the errno in a line "error ERRNO WORDS". The words
// tell apart what has one errno.
var kinds = map[string]error{
	"ENODEV": reader.ErrGone, "ENOMEDIUM": reader.ErrNoCard, "ESTALE": reader.ErrStale, "EBUSY": reader.ErrLocked,
	"EINVAL": reader.ErrInvalid, "EOPNOTSUPP": reader.ErrUnsupported, "EACCES": reader.ErrNoPermission,
	"EPERM": reader.ErrReadOnly, "ENOSPC": reader.ErrNoSpace, "ETIMEDOUT": reader.ErrTimeout, "EPROTO": reader.ErrProtocol,
}

// inWords are the errors that a far text file shows in words alone.
var inWords = []error{
	reader.ErrInDoubt, reader.ErrGone, reader.ErrNoCard, reader.ErrStale, reader.ErrLocked, reader.ErrMute, reader.ErrUnsupported,
	reader.ErrNoPermission, reader.ErrInvalid, reader.ErrTimeout, reader.ErrProtocol,
}

// farError is what the far side says of a command.
func farError(errno, said string) error {
	said = words.Printable(said, words.MaxValue)
	if strings.Contains(said, reader.ErrInDoubt.Error()) {
		return fmt.Errorf("at the other side: %w", reader.ErrInDoubt)
	}
	if kind := kinds[errno]; kind != nil {
		return fmt.Errorf("at the other side (%s): %w", said, kind)
	}
	return fmt.Errorf("at the other side: %s (%s)", said, errno)
}

// worded is farError for a text that has no errno.
func worded(said string) error {
	said = words.Printable(said, words.MaxValue)
	for _, kind := range inWords {
		if strings.Contains(said, kind.Error()) {
			return fmt.Errorf("at the other side (%s): %w", said, kind)
		}
	}
	return fmt.Errorf("at the other side: %s", said)
}

// refusals are the errnos by which a cardfs refuses what was written. They go by their names,
// since not every system has each of them. EOPNOTSUPP is ENOTSUP to x/sys.
var refusals = map[string]error{
	"EINVAL": reader.ErrInvalid, "ENODEV": reader.ErrGone, "EBUSY": reader.ErrLocked, "ENOMEDIUM": reader.ErrNoCard,
	"ESTALE": reader.ErrStale, "ENOTSUP": reader.ErrUnsupported, "EACCES": reader.ErrNoPermission, "ENOBUFS": reader.ErrTransfer,
}

// definite reports whether err is a refusal, and which. Over SFTP, which has no errno, none is.
func definite(err error) (error, bool) {
	var errno syscall.Errno
	if errors.As(err, &errno) {
		if kind := refusals[unix.ErrnoName(errno)]; kind != nil {
			return kind, true
		}
	}
	return err, false
}

// ended reports whether err says that a call ended because its context did, or with the process
// for files.
func ended(err error) bool {
	return errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) || errors.Is(err, files.ErrEnded)
}
