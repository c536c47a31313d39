package serial

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cardfs/cardfs/drivers/bus/internal/termios"
	"github.com/cardfs/cardfs/reader"
)

// do has f called with the descriptor. The kernel may block f: an adapter on USB that
// hangs, or a line that does not take what was written. When ctx or the time ends first, f
// goes on alone, and what has not left is dropped, so that it ends.
func (t *tty) do(ctx context.Context, what string, limit time.Duration, f func(fd int) error) error {
	err := t.file.Do(ctx, limit, f)
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil, errors.Is(err, reader.ErrTimeout):
		_ = t.file.Control(func(fd int) error { return unix.IoctlSetInt(fd, unix.TCFLSH, unix.TCOFLUSH) })
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
	return t.failed(what, err)
}

// Drain is Port.
func (t *tty) Drain(ctx context.Context) error {
	return t.do(ctx, "drain", t.drainTime(), drain)
}

// drainTime is how long a drain may take.
func (t *tty) drainTime() time.Duration {
	queued := 0
	_ = t.file.Control(func(fd int) (err error) {
		queued, err = unix.IoctlGetInt(fd, unix.TIOCOUTQ)
		return err
	})
	return stuck + t.mode.Time(queued)
}

// drain waits until what was written has left. TCSBRK with 1 sends no break, it is what
// tcdrain(3) does (tty_ioctl(4)).
func drain(fd int) error { return unix.IoctlSetInt(fd, unix.TCSBRK, 1) }

// SetMode is Port.
func (t *tty) SetMode(ctx context.Context, m Mode) error {
	if err := m.Valid(); err != nil {
		return fmt.Errorf("%s: %w", t.name, err)
	}
	if m == t.mode {
		return t.Drain(ctx)
	}
	if t.mode.Check && !m.Check { // what is left has marks
		t.left = plain(t.left)
	}
	err := t.do(ctx, "set "+m.String(), t.drainTime(), func(fd int) error {
		if err := drain(fd); err != nil {
			return err
		}
		return setMode(fd, m, t.pseudo)
	})
	if err == nil {
		t.mode = m
	}
	return err
}

// Flush is Port.
func (t *tty) Flush() error {
	t.left = nil
	if err := t.file.Control(func(fd int) error { return unix.IoctlSetInt(fd, unix.TCFLSH, unix.TCIFLUSH) }); err != nil {
		return t.failed("flush", err)
	}
	return nil
}

// lineBits are the modem lines in tty_ioctl(4)'s words.
var lineBits = []struct {
	line Lines
	bit  int
}{
	{DTR, unix.TIOCM_DTR}, {RTS, unix.TIOCM_RTS}, {CTS, unix.TIOCM_CTS},
	{DSR, unix.TIOCM_DSR}, {CD, unix.TIOCM_CD}, {RI, unix.TIOCM_RI},
}

func bits(l Lines) (bits int) {
	for _, b := range lineBits {
		if l&b.line != 0 {
			bits |= b.bit
		}
	}
	return bits
}

// SetLines is Port.
func (t *tty) SetLines(ctx context.Context, on, off Lines) error {
	if (on|off)&^(DTR|RTS) != 0 || on&off != 0 {
		return fmt.Errorf("%s: switch %v on and %v off: %w", t.name, on, off, reader.ErrInvalid)
	}
	return t.lines(t.do(ctx, "switch modem lines", stuck, func(fd int) error {
		if on != 0 {
			if err := unix.IoctlSetPointerInt(fd, unix.TIOCMBIS, bits(on)); err != nil {
				return err
			}
		}
		if off != 0 {
			return unix.IoctlSetPointerInt(fd, unix.TIOCMBIC, bits(off))
		}
		return nil
	}))
}

// Lines is Port.
func (t *tty) Lines(ctx context.Context) (Lines, error) {
	var got int
	err := t.do(ctx, "read modem lines", stuck, func(fd int) (err error) {
		got, err = unix.IoctlGetInt(fd, unix.TIOCMGET)
		return err
	})
	if err != nil {
		return 0, t.lines(err)
	}
	var l Lines
	for _, b := range lineBits {
		if got&b.bit != 0 {
			l |= b.line
		}
	}
	return l, nil
}

// lines turns the error of a port without modem lines into ErrNoLines. The driver of a
// port that has none says ENOTTY, or EINVAL (TIOCMGET in tty_ioctl(4)).
func (t *tty) lines(err error) error {
	if errors.Is(err, errNotSerial) || errors.Is(err, unix.EINVAL) {
		return fmt.Errorf("%s: %w", t.name, ErrNoLines)
	}
	return err
}

// Break is Port.
func (t *tty) Break(ctx context.Context, d time.Duration) error {
	err := t.do(ctx, "break", t.drainTime(), func(fd int) error {
		if err := drain(fd); err != nil {
			return err
		}
		return unix.IoctlSetInt(fd, unix.TIOCSBRK, 0)
	})
	if err != nil {
		return err
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	case <-t.file.Gone():
	}
	// It ends also when ctx has ended, or else the line would stay at 0.
	err = t.do(context.WithoutCancel(ctx), "end a break", stuck, func(fd int) error { return unix.IoctlSetInt(fd, unix.TIOCCBRK, 0) })
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return err
}

// setMode makes the terminal raw, and its line as m says (termios(3)). No flow control: a
// reader has none, and XON and XOFF are data.
func setMode(fd int, m Mode, pseudo bool) error {
	want := unix.Termios{Cflag: unix.CREAD | unix.CLOCAL | unix.HUPCL | unix.BOTHER, Ispeed: uint32(m.Baud), Ospeed: uint32(m.Baud)}
	want.Cc[unix.VMIN] = 1
	if m.Check {
		want.Iflag = unix.INPCK | unix.PARMRK
	}
	want.Cflag |= []uint32{unix.CS5, unix.CS6, unix.CS7, unix.CS8}[m.Frame.Data()-5]
	switch m.Frame.Parity() {
	case 'E':
		want.Cflag |= unix.PARENB
	case 'O':
		want.Cflag |= unix.PARENB | unix.PARODD
	case 'M':
		want.Cflag |= unix.PARENB | unix.PARODD | unix.CMSPAR
	case 'S':
		want.Cflag |= unix.PARENB | unix.CMSPAR
	}
	if m.Frame.Stop() == 2 {
		want.Cflag |= unix.CSTOPB
	}
	if err := unix.IoctlSetTermios(fd, termios.Set, &want); err != nil {
		return err
	}
	if pseudo { // it has no line: whatever it made of the mode
		return nil
	}
	// A driver changes what it cannot do, and says so only here.
	got, err := unix.IoctlGetTermios(fd, termios.Get)
	if err != nil {
		return err
	}
	const frame = unix.CSIZE | unix.PARENB | unix.PARODD | unix.CMSPAR | unix.CSTOPB
	if got.Cflag&frame != want.Cflag&frame {
		return fmt.Errorf("the port cannot do %s: %w", m.Frame, reader.ErrUnsupported)
	}
	if off := int(got.Ospeed) - m.Baud; max(off, -off)*100 > m.Baud*speedOff {
		return fmt.Errorf("the port cannot do %d bit/s, it would do %d: %w", m.Baud, got.Ospeed, reader.ErrUnsupported)
	}
	return nil
}

// speedOff is by how many percent a speed may be off. A receiver samples the tenth bit of
// a character in its middle, so that both ends together may be 5 % off.
const speedOff = 3

// settings are what a program may have set at a port and the kernel keeps while nobody has
// it open.
type settings struct {
	termios unix.Termios
	lines   int // DTR and RTS; -1: the port has none
}

func settingsOf(fd int) (*settings, error) {
	now, err := unix.IoctlGetTermios(fd, termios.Get)
	if err != nil {
		return nil, err
	}
	lines, err := unix.IoctlGetInt(fd, unix.TIOCMGET)
	if err != nil {
		lines = -1
	}
	return &settings{*now, lines}, nil
}

// restore sets a port as it was. The kernel switches DTR and RTS off behind the last program
// that has the port open, unless the settings say otherwise (HUPCL).
func (s *settings) restore(fd int) {
	if s == nil {
		return
	}
	if s.lines >= 0 {
		const ours = unix.TIOCM_DTR | unix.TIOCM_RTS
		_ = unix.IoctlSetPointerInt(fd, unix.TIOCMBIS, s.lines&ours)
		_ = unix.IoctlSetPointerInt(fd, unix.TIOCMBIC, ^s.lines&ours)
	}
	_ = unix.IoctlSetTermios(fd, termios.Set, &s.termios)
}
