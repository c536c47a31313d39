//go:build cgo

package gousb

import (
	"errors"
	"os"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/cardfs/cardfs/drivers/bus/usb"
)

// beside is the device file, opened once more beside libusb. It moves nothing.
type beside struct {
	file *os.File
	raw  syscall.RawConn
}

func openBeside(at usb.Place) (*beside, error) {
	fd, err := unix.Open(at.Path, unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, at.Refused(err)
	}
	b := &beside{file: os.NewFile(uintptr(fd), at.Path)}
	if b.raw, err = b.file.SyscallConn(); err != nil {
		b.file.Close()
		return nil, at.Refused(err)
	}
	return b, nil
}

// await reports true when the device has left, false after close. The runtime's poller
// wakes it up: usbfs hangs up the file then.
func (b *beside) await() bool {
	left := false
	_ = b.raw.Read(func(fd uintptr) bool {
		_, err := usb.KernelDriver(int(fd), 0)
		left = errors.Is(err, unix.ENODEV)
		return left
	})
	return left
}

// ask says what became of an interface.
func (b *beside) ask(iface uint8) fate {
	f := unknown
	_ = b.raw.Control(func(fd uintptr) { f = fateOf(usb.KernelDriver(int(fd), uint32(iface))) })
	return f
}

// fateOf is what the kernel's word on an interface's driver means.
func fateOf(owner string, err error) fate {
	switch {
	case errors.Is(err, unix.ENODEV):
		return left
	case err != nil:
		return unknown
	case owner == "usbfs":
		return claimed
	case owner == "":
		return free
	}
	return kernels
}

func (b *beside) close() { b.file.Close() }
