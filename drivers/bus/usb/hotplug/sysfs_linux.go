package hotplug

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/cardfs/cardfs/drivers/bus/usb"
	"github.com/cardfs/cardfs/reader"
)

// deviceNumber distinguishes a device from the next one in the same port. The kernel
// reuses numbers after 127 devices, but never the inode of a directory in sysfs.
type deviceNumber struct {
	bus, dev int
	inode    uint64
}

// is reports whether the device has these numbers, which come from a uevent or the path of
// a device file.
func (d deviceNumber) is(bus, dev int) bool { return d.bus == bus && d.dev == dev }

// sight is the state of a device in sysfs at one moment. It is taken without a lock: while
// the kernel is busy with a device, which can be seconds, it blocks reads of some
// attributes (Linux drivers/usb/core/sysfs.c, usb_lock_device_interruptible).
type sight struct {
	number     deviceNumber // zero if there is no device
	incomplete bool         // its directory is being made, or cannot be read at the moment
	err        error        // its descriptors are bad
	configured bool
	served     bool // by driver and id
	driver     reader.Driver
	id         reader.ID
	desc       []byte // nil unless served
	strings    map[uint8]string
}

// see takes a sight of the device with that name.
func (w *Watcher) see(name string) (s sight) {
	dir := filepath.Join(w.sys, name)
	var st unix.Stat_t
	if err := unix.Stat(dir, &st); err != nil {
		s.incomplete = !notThere(err)
		return s
	}
	number := deviceNumber{inode: uint64(st.Ino)}
	for attr, n := range map[string]*int{"busnum": &number.bus, "devnum": &number.dev} {
		b, err := readSysfs(filepath.Join(dir, attr))
		if err != nil && !notThere(err) {
			s.incomplete = true
			return s
		}
		*n = decimal(bytes.TrimSpace(b))
	}
	if number.dev == 0 { // gone, or not a device
		return s
	}
	s.number = number
	all, err := readSysfs(filepath.Join(dir, "descriptors"))
	if err != nil {
		s.incomplete = true
		return s
	}
	if len(all) > 4 && all[4] == classHub {
		// Most attributes of a hub can be read only after it has brought up the devices
		// behind it, and those must not wait for this look.
		return s
	}
	config, err := readSysfs(filepath.Join(dir, "bConfigurationValue"))
	if err != nil && !notThere(err) {
		s.incomplete = true
		return s
	}
	config = bytes.TrimSpace(config)
	s.configured = len(config) > 0
	if s.desc, s.err = usb.ActiveDescriptors(all, uint8(decimal(config))); s.err != nil {
		return s
	}
	if s.driver, s.id, s.served = w.serves.match(s.desc); !s.served {
		s.desc = nil
		return s
	}
	s.strings = kernelStrings(dir, s.desc)
	return s
}

// notThere reports whether an error of sysfs means that there is no such file or device,
// rather than that it cannot be read at the moment.
func notThere(err error) bool {
	return errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENODEV) || errors.Is(err, unix.ENXIO) || errors.Is(err, unix.ENOTDIR)
}

// charDevice returns the name of a USB device in /sys/dev/char: major number 189, 128
// minor numbers for each bus (Linux Documentation/admin-guide/devices.txt).
func charDevice(bus, dev int) string {
	return fmt.Sprintf("189:%d", (bus-1)*128+dev-1)
}

func readAttr(dir, name string) string {
	b, err := readSysfs(filepath.Join(dir, name))
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}

// maxSysfs bounds the length of one file: the kernel accepts at most 8 configurations,
// whose descriptors have 512 KiB.
const maxSysfs = 1 << 20

// readSysfs reads a file of sysfs or procfs. One read returns all that fits into the
// buffer, so three system calls are enough where os.ReadFile makes nine. A dozen of these
// files are read between plugging and the first APDU.
func readSysfs(name string) ([]byte, error) {
	fd, err := uninterrupted(func() (int, error) { return unix.Open(name, unix.O_RDONLY|unix.O_CLOEXEC, 0) })
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: name, Err: err}
	}
	defer unix.Close(fd)
	b := make([]byte, 0, 512)
	for {
		// A read may wait until the kernel is done with the device. Signals of the Go
		// runtime can interrupt it.
		n, err := uninterrupted(func() (int, error) { return unix.Read(fd, b[len(b):cap(b)]) })
		if err != nil {
			return nil, &os.PathError{Op: "read", Path: name, Err: err}
		}
		b = b[:len(b)+n]
		if len(b) < cap(b) {
			return b, nil
		}
		if len(b) >= maxSysfs {
			return nil, fmt.Errorf("%s: more than %d bytes: %w", name, maxSysfs, reader.ErrProtocol)
		}
		b = slices.Grow(b, cap(b))
	}
}

func uninterrupted(call func() (int, error)) (n int, err error) {
	for {
		if n, err = call(); err != unix.EINTR {
			return n, err
		}
	}
}
