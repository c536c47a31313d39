//go:build cgo

package gousb

import (
	"errors"
	"os"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/cardfs/cardfs/drivers/bus/usb"
)

// beside is the device file, opened a second time beside libusb. No data goes through it.
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

// await returns true when the device has left, false after close. usbfs hangs up the file
// of a device that left, so the runtime's poller wakes await.
func (b *beside) await() bool {
	left := false
	_ = b.raw.Read(func(fd uintptr) bool {
		_, err := usb.KernelDriver(int(fd), 0)
		left = errors.Is(err, unix.ENODEV)
		return left
	})
	return left
}

// ask returns the owner of an interface.
func (b *beside) ask(iface uint8) fate {
	f := unknown
	_ = b.raw.Control(func(fd uintptr) { f = fateOf(usb.KernelDriver(int(fd), uint32(iface))) })
	return f
}

// fateOf interprets the result of usb.KernelDriver.
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
