package serialtest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cardfs/cardfs/drivers/bus/internal/devfile"
	"github.com/cardfs/cardfs/drivers/bus/internal/termios"
	"github.com/cardfs/cardfs/drivers/bus/serial"
	"github.com/cardfs/cardfs/reader"
)

// PTY is a pseudo-terminal with a device behind it, for programs that want a port by name.
// It carries characters. A pseudo-terminal shows its speed and frame only as they are now,
// and has no modem lines; what was written before a change of the speed may be read after
// it. It never shows parity, which is taken to be the device's.
type PTY struct {
	Name string // /dev/pts/N

	master *devfile.File
	slave  *os.File // keeps the pseudo-terminal while nobody has it open
	port   serial.Port
	cancel context.CancelFunc
	work   sync.WaitGroup
}

// OpenPTY puts the plugged device behind a new pseudo-terminal. It is hung up when the
// device is unplugged, and by Close.
func OpenPTY(p *Plugged) (*PTY, error) {
	master, slave, err := openPTY()
	if err != nil {
		return nil, err
	}
	t := &PTY{Name: slave.Name(), master: master, slave: slave}
	ctx, cancel := context.WithCancel(context.Background())
	t.cancel = cancel
	if t.port, err = p.OpenSerial(ctx, serial.Mode{Baud: 9600, Frame: serial.Frame8N1}); err != nil {
		cancel()
		return nil, errors.Join(err, master.Close(), slave.Close())
	}
	t.work.Go(func() {
		defer master.Close()
		var buf [4096]byte
		for {
			n, err := t.port.Read(ctx, buf[:], 0)
			if err != nil {
				return
			}
			for p := buf[:n]; len(p) > 0; {
				n, err := master.Write(ctx, p, time.Time{})
				if err != nil {
					return
				}
				p = p[n:]
			}
		}
	})
	t.work.Go(func() {
		defer cancel()
		var buf [4096]byte
		for {
			// With a limit it costs least: see devfile.
			n, err := master.Read(ctx, buf[:], time.Now().Add(time.Hour))
			if errors.Is(err, reader.ErrTimeout) {
				continue
			}
			if err != nil {
				return
			}
			mode := t.port.Mode()
			if m := p.Line().Mode(); m.Valid() == nil {
				mode = m
			}
			_ = master.Control(func(fd int) error { mode = ptyMode(fd, mode); return nil })
			if t.port.SetMode(ctx, mode) != nil || t.port.Write(ctx, buf[:n]) != nil {
				return
			}
		}
	})
	return t, nil
}

// Close hangs the pseudo-terminal up. The device stays plugged in.
func (t *PTY) Close() {
	t.cancel()
	t.work.Wait()
	t.slave.Close()
	t.port.Close()
}

// openPTY makes a raw pseudo-terminal.
func openPTY() (master *devfile.File, slave *os.File, err error) {
	path, err := filepath.EvalSymlinks("/dev/ptmx") // pts/ptmx in a container
	if err != nil {
		return nil, nil, err
	}
	if master, err = devfile.Open(path); err != nil {
		return nil, nil, err
	}
	defer func() {
		if err != nil {
			master.Close()
		}
	}()
	var n uint32
	if err := master.Control(func(fd int) (err error) {
		if err = unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err == nil {
			n, err = unix.IoctlGetUint32(fd, unix.TIOCGPTN)
		}
		return err
	}); err != nil {
		return nil, nil, fmt.Errorf("unlock a pseudo-terminal: %w", err)
	}
	name := fmt.Sprintf("/dev/pts/%d", n)
	s, err := unix.Open(name, unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("open %s: %w", name, err)
	}
	raw := unix.Termios{Cflag: unix.CREAD | unix.CLOCAL | unix.CS8 | unix.B9600}
	raw.Cc[unix.VMIN] = 1
	if err := unix.IoctlSetTermios(s, unix.TCSETS, &raw); err != nil {
		unix.Close(s)
		return nil, nil, fmt.Errorf("%s: make it raw: %w", name, err)
	}
	return master, os.NewFile(uintptr(s), name), nil
}

// ptyMode is the mode that the pseudo-terminal has now, with the parity of another mode.
func ptyMode(fd int, before serial.Mode) serial.Mode {
	now, err := unix.IoctlGetTermios(fd, termios.Get)
	if err != nil {
		return before
	}
	stop := byte('1')
	if now.Cflag&unix.CSTOPB != 0 {
		stop = '2'
	}
	data := byte('5' + (now.Cflag&unix.CSIZE)/unix.CS6)
	m := serial.Mode{Baud: int(now.Ospeed), Frame: serial.Frame([]byte{data, before.Frame.Parity(), stop})}
	if m.Valid() != nil {
		return before
	}
	return m
}
