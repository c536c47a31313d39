package fs

import (
	"context"
	"errors"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/cardfs/cardfs/reader"
)

// errnos is the only place where the errors of the core become errno. The
// first that matches counts.
var errnos = []errnoOf{
	{reader.ErrInDoubt, syscall.EIO}, // whatever else happened, such as a departure
	{reader.ErrGone, syscall.ENODEV}, // first: a reader that leaves ends every wait, which is not a signal
	{reader.ErrInterrupted, syscall.EINTR},
	{reader.ErrAborted, syscall.EIO},
	{reader.ErrNoCard, syscall.ENOMEDIUM},
	{reader.ErrStale, syscall.ESTALE},
	{reader.ErrLocked, syscall.EBUSY},
	{reader.ErrNotReady, syscall.EAGAIN},
	{reader.ErrInvalid, syscall.EINVAL},
	{reader.ErrUnsupported, syscall.EOPNOTSUPP},
	{reader.ErrNoPermission, syscall.EACCES},
	{reader.ErrReadOnly, syscall.EPERM},
	{reader.ErrNoSpace, syscall.ENOSPC},
	{reader.ErrClaimed, syscall.EBUSY},
	{reader.ErrFailed, syscall.EIO},
	{reader.ErrTimeout, syscall.ETIMEDOUT},
	{reader.ErrProtocol, syscall.EPROTO},
	{reader.ErrMute, syscall.EIO},
	{errNoRoom, syscall.ENOBUFS},
}

type errnoOf struct {
	err   error
	errno syscall.Errno
}

// toErrno maps err. An unknown error is EIO; `status` has its words.
func toErrno(err error) syscall.Errno {
	if err == nil {
		return 0
	}
	for _, e := range errnos {
		if errors.Is(err, e.err) {
			return e.errno
		}
	}
	return syscall.EIO
}

// errnoName is e's name in the manual pages.
func errnoName(e syscall.Errno) string {
	switch name := unix.ErrnoName(e); {
	case e == syscall.EOPNOTSUPP:
		return "EOPNOTSUPP" // x/sys has its other name, ENOTSUP
	case name == "":
		return "E" + strconv.Itoa(int(e))
	default:
		return name
	}
}

// waitErrno is toErrno for a call that waited with ctx. The waiting may have been ended by
// --open-timeout rather than by a signal.
func waitErrno(ctx context.Context, err error) syscall.Errno {
	if toErrno(err) == syscall.EINTR && errors.Is(context.Cause(ctx), context.DeadlineExceeded) {
		return syscall.ETIMEDOUT
	}
	return toErrno(err)
}
