package serial

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cardfs/cardfs/drivers/bus/internal/byname"
	"github.com/cardfs/cardfs/drivers/bus/internal/devfile"
	"github.com/cardfs/cardfs/drivers/bus/internal/holders"
	"github.com/cardfs/cardfs/reader"
)

// tty is a Port on a terminal of the kernel.
//
// A hang-up wakes whoever reads or writes, and also the watcher, a goroutine that sleeps
// while the port is idle.
type tty struct {
	name   string // for errors
	pseudo bool
	device uint64 // number of the device
	file   *devfile.File
	mine   bool // nobody else has it
	mode   Mode
	was    *settings // before it was borrowed; nil: Close leaves it as it is

	watcher *devfile.Watcher
	asleep  chan struct{} // closed when the watcher has ended
	closed  sync.Once

	// What came behind a character with wrong parity, as the kernel marked it.
	left  []byte
	marks [256]byte
}

// OpenTTY opens the terminal with that name, in mode m, with DTR and RTS on and nothing to
// read. Nobody else may have it. log may be nil.
func OpenTTY(ctx context.Context, name string, m Mode, log *slog.Logger) (Port, error) {
	path, err := byname.Resolve(name)
	if err != nil {
		return nil, err
	}
	return openAt(ctx, name, path, m, log)
}

// Borrow is OpenTTY for a look at a port that may be another's: Close leaves the port set as
// it was. A port that some program has open is not opened, whether or not that program
// keeps others out.
func Borrow(ctx context.Context, name string, m Mode, log *slog.Logger) (Port, error) {
	path, err := byname.Resolve(name)
	if err != nil {
		return nil, err
	}
	if !isTerminal(path) {
		return nil, refused(name, unix.ENOTTY)
	}
	if len(holders.Of(path)) > 0 {
		return nil, claimed(name, path)
	}
	return openPort(ctx, name, path, m, log, true)
}

// isTerminal reports whether a device is a terminal, as far as can be told without opening
// it.
func isTerminal(path string) bool {
	var st unix.Stat_t
	if unix.Stat(path, &st) != nil {
		return true // opening it says what is wrong
	}
	subsystem, err := os.Readlink(fmt.Sprintf("/sys/dev/char/%d:%d/subsystem", unix.Major(uint64(st.Rdev)), unix.Minor(uint64(st.Rdev))))
	return st.Mode&unix.S_IFMT == unix.S_IFCHR && (err != nil || filepath.Base(subsystem) == "tty")
}

// openAt is OpenTTY for a name that leads to path.
func openAt(ctx context.Context, name, path string, m Mode, log *slog.Logger) (Port, error) {
	return openPort(ctx, name, path, m, log, false)
}

func openPort(ctx context.Context, name, path string, m Mode, log *slog.Logger, borrow bool) (Port, error) {
	if err := m.Valid(); err != nil {
		return nil, err
	}
	type outcome struct {
		t   *tty
		err error
	}
	opened := make(chan outcome)
	left := make(chan struct{})
	defer close(left)
	go func() { // an adapter that hangs holds open(2) up
		t, err := openTTY(name, path, m, log, borrow)
		select {
		case opened <- outcome{t, err}:
		case <-left:
			if err == nil {
				t.Close()
			}
		}
	}()
	select {
	case o := <-opened:
		if o.err != nil {
			return nil, o.err
		}
		return o.t, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// refused wraps the error of a port that cannot be opened.
func refused(name string, err error) error {
	switch {
	case errors.Is(err, os.ErrPermission):
		err = fmt.Errorf("%w; may this user open it? (usually the members of the group dialout)", reader.ErrNoPermission)
	case absent(err):
		err = reader.ErrGone
	case errors.Is(err, unix.ENOTTY):
		err = errNotSerial
	}
	return fmt.Errorf("%s: open: %w", name, err)
}

// absent reports whether err is that of a port that is not there.
func absent(err error) bool {
	return errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ENXIO) || errors.Is(err, unix.ENODEV)
}

// claimed is the error of a port that another program has.
func claimed(name, path string) error {
	return fmt.Errorf("%s: %w: %s", name, reader.ErrClaimed, holders.Hint(path))
}

// inUse are the terminals that this process has open, by the number of their device. One
// that is in use is not opened at all: that alone would switch its DTR and RTS on.
var inUse sync.Map

// openTTY opens path, which has no links in it.
func openTTY(name, path string, m Mode, log *slog.Logger, borrow bool) (*tty, error) {
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		return nil, refused(name, err)
	}
	device := uint64(st.Rdev)
	if _, taken := inUse.LoadOrStore(device, true); taken {
		return nil, claimed(name, path)
	}
	file, err := devfile.Open(path)
	if err != nil {
		inUse.Delete(device)
		if errors.Is(err, unix.EBUSY) {
			return nil, claimed(name, path)
		}
		return nil, refused(name, err)
	}
	t := &tty{name: name, device: device, file: file, asleep: make(chan struct{})}
	if err = t.file.Control(func(fd int) error { return t.setUp(fd, path, m, borrow) }); err == nil {
		if t.watcher, err = t.file.Watcher(); err != nil {
			err = t.failed("open", err)
		}
	}
	if err != nil {
		close(t.asleep)
		t.Close()
		return nil, err
	}
	go func() {
		defer close(t.asleep)
		if reader.Guard(log, name, t.watcher.Watch) != nil {
			t.file.Leave()
		}
	}()
	return t, nil
}

func (t *tty) setUp(fd int, path string, m Mode, borrow bool) error {
	major := unix.Major(t.device)
	t.pseudo = major >= pseudoFirst && major <= pseudoLast
	// TIOCEXCL keeps others from opening the port, but not root; the lock keeps those out
	// that ask for one, whoever they are.
	err := unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return claimed(t.name, path)
	}
	if err == nil {
		err = unix.IoctlSetInt(fd, unix.TIOCEXCL, 0)
	}
	if err != nil {
		return t.failed("lock", err)
	}
	t.mine = true
	if borrow {
		if t.was, err = settingsOf(fd); err != nil {
			return t.failed("read the settings", err)
		}
	}
	if err = setMode(fd, m, t.pseudo); err != nil {
		return t.failed("set "+m.String(), err)
	}
	t.mode = m
	if err = unix.IoctlSetPointerInt(fd, unix.TIOCMBIS, unix.TIOCM_DTR|unix.TIOCM_RTS); err != nil && !errors.Is(err, unix.ENOTTY) {
		return t.failed("switch DTR and RTS on", err)
	}
	if err = unix.IoctlSetInt(fd, unix.TCFLSH, unix.TCIFLUSH); err != nil {
		return t.failed("flush", err)
	}
	return nil
}

// Major numbers of the slaves of pseudo-terminals (Linux Documentation/admin-guide/devices.txt).
const pseudoFirst, pseudoLast = 136, 143

// hungUp reports whether the terminal was hung up. It stays so for good.
func hungUp(fd int) bool {
	p := []unix.PollFd{{Fd: int32(fd)}}
	n, err := unix.Poll(p, 0)
	return err == nil && n > 0 && p[0].Revents&(unix.POLLHUP|unix.POLLERR) != 0
}

// failed wraps err with the port and what was tried. A hang-up looks like an I/O error;
// then the terminal itself tells.
func (t *tty) failed(what string, err error) error {
	select {
	case <-t.file.Gone():
		err = reader.ErrGone
	default:
	}
	switch {
	case errors.Is(err, unix.EIO):
		hung := false
		_ = t.file.Control(func(fd int) error { hung = hungUp(fd); return nil })
		if !hung {
			break
		}
		fallthrough
	case absent(err):
		t.file.Leave()
		err = reader.ErrGone
	case errors.Is(err, unix.ENOTTY):
		err = errNotSerial
	}
	return fmt.Errorf("%s: %s: %w", t.name, what, err)
}

// errNotSerial is the error of a call that the file does not know.
var errNotSerial = fmt.Errorf("no serial port: %w", reader.ErrUnsupported)

// Gone is Port.
func (t *tty) Gone() <-chan struct{} { return t.file.Gone() }

// Mode is Port.
func (t *tty) Mode() Mode { return t.mode }

// Close is Port. What has not left is dropped: the kernel would wait half a minute for it.
func (t *tty) Close() error {
	t.file.Leave()
	if t.mine {
		_ = t.file.Control(func(fd int) error {
			_ = unix.IoctlSetInt(fd, unix.TCFLSH, unix.TCIOFLUSH)
			t.was.restore(fd)
			return unix.IoctlSetInt(fd, unix.TIOCNXCL, 0)
		})
	}
	if t.watcher != nil {
		t.watcher.Close()
	}
	<-t.asleep
	err := t.file.Close()
	t.closed.Do(func() { inUse.Delete(t.device) })
	if err != nil {
		return fmt.Errorf("%s: close: %w", t.name, err)
	}
	return nil
}

// Read is Port.
func (t *tty) Read(ctx context.Context, p []byte, wait time.Duration) (int, error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	if len(p) == 0 {
		return 0, nil
	}
	var until time.Time
	if wait > 0 {
		until = time.Now().Add(wait)
	}
	if !t.mode.Check {
		if n := copy(p, t.left); n > 0 { // from before SetMode
			t.left = t.left[n:]
			return n, nil
		}
		return t.read(ctx, p, until)
	}
	for {
		n, used, wrong := unmark(p, t.left)
		t.left = t.left[used:]
		if wrong {
			return n, fmt.Errorf("%s: read: %w", t.name, ErrParity)
		}
		if n > 0 {
			return n, nil
		}
		had := copy(t.marks[:], t.left) // of a mark that has not come whole
		more, err := t.read(ctx, t.marks[had:], until)
		t.left = t.marks[:had+more]
		if err != nil {
			return 0, err
		}
	}
}

// read reads what is there, and waits for that until then (zero: no limit).
func (t *tty) read(ctx context.Context, p []byte, until time.Time) (int, error) {
	n, err := t.file.Read(ctx, p, until)
	switch {
	case err == nil && n > 0:
		return n, nil
	case err == nil: // the end, which only a terminal has that was hung up (vhangup(2))
		err = unix.ENXIO
	case ctx.Err() != nil:
		return 0, ctx.Err()
	case errors.Is(err, reader.ErrTimeout):
		err = ErrTimeout
	}
	return 0, t.failed("read", err)
}

// stuck is how long the port may take nothing, or keep a character in, beyond the time
// that the line needs.
const stuck = 10 * time.Second

// Write is Port.
func (t *tty) Write(ctx context.Context, p []byte) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	for len(p) > 0 {
		n, err := t.file.Write(ctx, p, time.Now().Add(stuck+t.mode.Time(len(p))))
		switch {
		case err == nil:
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.Is(err, reader.ErrTimeout):
			return fmt.Errorf("%s: write: the port takes nothing: %w", t.name, reader.ErrTimeout)
		default:
			return t.failed("write", err)
		}
		p = p[n:]
	}
	return nil
}
