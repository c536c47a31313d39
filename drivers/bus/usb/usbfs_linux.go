package usb

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"sync"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/cardfs/cardfs/reader"
)

// conn is a Conn on a device file of usbfs.
//
// A transfer is a urb, which the kernel processes. One goroutine, the reaper, collects the
// urbs that have ended. The runtime's poller wakes it for that, and also when the device
// leaves: Gone depends neither on a transfer under way nor on a uevent.
//
//	idle --submit--> in flight --reap--> ended --(its caller has read it)--> idle
//	                     |                 ^
//	                     +-----discard-----+   ctx, time-out, Close
//
// It uses the kernel's API rather than libusb: so it sleeps while nothing happens, can
// cancel every transfer, clears its buffers, serves interfaces of any number, and needs no
// cgo. Package gousb is the transport on libusb and lists what it lacks.
//
// A discarded urb is still reaped: the data that it had moved until then is in its buffer
// and goes to the caller.
type conn struct {
	at    Place
	name  string // at.Name, for errors
	iface uint32
	file  *os.File
	raw   syscall.RawConn
	desc  []byte
	types map[uint8]uint8 // transfer type by endpoint address

	gone     chan struct{}
	goneOnce sync.Once
	reaped   chan struct{} // the reaper has ended
	ended    uintptr       // the urb reaped last; owned by the reaper
	pin      runtime.Pinner

	mu       sync.Mutex
	closed   bool
	idle     []*urb
	inFlight map[uintptr]*urb

	strings *StringTable
}

// urb is one transfer. The kernel writes to it while it is in flight, so its
// memory and its buffer's are pinned.
type urb struct {
	kernel usbdevfsURB
	buf    []byte
	used   int           // buf[:used] may hold data
	done   chan struct{} // gets one value when the urb is reaped
	timer  *time.Timer
}

// Usbfs is the Transport on the kernel's own API, usbfs. The device file reports a
// departure, so Place.Gone is not needed.
func Usbfs(at Place, iface uint8) (Conn, error) {
	c, err := openDevice(at, iface)
	if err != nil {
		return nil, err
	}
	return c, nil
}

var _ Transport = Usbfs

func openDevice(at Place, iface uint8) (*conn, error) {
	fd, err := unix.Open(at.Path, unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, at.Refused(err)
	}
	c := &conn{
		at: at, name: at.Name, iface: uint32(iface),
		file:     os.NewFile(uintptr(fd), at.Path),
		gone:     make(chan struct{}),
		reaped:   make(chan struct{}),
		inFlight: map[uintptr]*urb{},
	}
	c.strings = NewStringTable(c.Control, at.Strings)
	if err := c.setUp(fd); err != nil {
		c.file.Close()
		return nil, err
	}
	go func() {
		if reader.Guard(at.Log, at.Name, c.reap) != nil {
			c.die()
		}
	}()
	return c, nil
}

// maxDescriptors bounds their length: the kernel accepts at most 8 configurations, which
// have 512 KiB.
const maxDescriptors = 1 << 20

// readDescriptors reads the descriptors from usbfs; tests replace it.
var readDescriptors = func(f *os.File) ([]byte, error) {
	return io.ReadAll(io.NewSectionReader(f, 0, maxDescriptors))
}

func (c *conn) setUp(fd int) (err error) {
	if c.raw, err = c.file.SyscallConn(); err != nil {
		return fmt.Errorf("%s: %w", c.name, err)
	}
	all, err := readDescriptors(c.file)
	if err != nil && len(all) < 18 {
		return c.failed("read descriptors", err)
	}
	if c.desc, err = ActiveDescriptors(all, c.at.Config); err != nil {
		return fmt.Errorf("%s: %w", c.name, err)
	}
	if c.types, err = endpointTypes(c.desc, uint8(c.iface)); err != nil {
		return fmt.Errorf("%s: %w", c.name, err)
	}
	return c.claim(fd)
}

// claim claims the interface. It detaches a driver of the kernel, but does not take the
// interface from another program.
func (c *conn) claim(fd int) error {
	err := claimInterface(fd, c.iface)
	switch {
	case err == nil:
		return nil
	case errors.Is(err, unix.EBUSY):
		return c.at.Claimed(uint8(c.iface))
	default:
		return c.failed(fmt.Sprintf("claim interface %d", c.iface), err)
	}
}

// failed wraps err with what was tried, mapped by sortError.
func (c *conn) failed(what string, err error) error {
	return fmt.Errorf("%s: %s: %w", c.name, what, sortError(err))
}

// sortError maps errors of usbfs and the status of urbs (Linux
// Documentation/driver-api/usb/error-codes.rst) to this package's errors. Only ENODEV
// means that the device has left.
func sortError(err error) error {
	var errno syscall.Errno
	if !errors.As(err, &errno) {
		return err
	}
	var what error
	switch errno {
	case unix.ENODEV:
		what = reader.ErrGone
	case unix.ENOENT, unix.ESRCH:
		what = ErrNoEndpoint
	case unix.EPIPE:
		return ErrStall
	case unix.EOVERFLOW:
		return ErrOverflow
	case unix.ETIMEDOUT:
		return ErrTimeout
	case unix.EPROTO, unix.EILSEQ, unix.ETIME, unix.ECOMM, unix.ENOSR:
		what = ErrBus
	case unix.ESHUTDOWN, unix.EHOSTUNREACH: // the host controller or the device is asleep
		what = ErrReset
	case unix.EBUSY:
		what = reader.ErrClaimed
	case unix.EACCES, unix.EPERM:
		what = reader.ErrNoPermission
	default: // EINVAL, ENOMEM, EAGAIN, ENXIO …: the kernel did not accept the transfer
		return errno
	}
	return fmt.Errorf("%w (%w)", what, errno)
}

// do runs f with the file descriptor. The first ioctl that fails with ENODEV reports the
// departure: the file may be closed before the reaper notices it.
func (c *conn) do(f func(fd int) error) error {
	var err error
	if cerr := c.raw.Control(func(fd uintptr) { err = f(int(fd)) }); cerr != nil {
		return reader.ErrGone // closed
	}
	if errors.Is(err, unix.ENODEV) {
		c.leave()
	}
	return err
}

// reap collects urbs until the device is gone or the file is closed.
func (c *conn) reap() {
	defer close(c.reaped)
	_ = c.raw.Write(func(fd uintptr) bool {
		for {
			switch err := ioctl(int(fd), ioReapNDelay, unsafe.Pointer(&c.ended)); err {
			case nil:
				c.mu.Lock()
				u := c.inFlight[c.ended]
				delete(c.inFlight, c.ended)
				c.mu.Unlock()
				if u != nil {
					u.done <- struct{}{}
				}
			case unix.EAGAIN:
				return false
			default: // ENODEV, once nothing is left to reap
				c.leave()
				return true
			}
		}
	})
	// The device is gone or the file closed: the kernel no longer uses any urb.
	c.mu.Lock()
	defer c.mu.Unlock()
	for key, u := range c.inFlight {
		delete(c.inFlight, key)
		u.kernel.status = -int32(unix.ESHUTDOWN)
		u.done <- struct{}{}
	}
}

// leave is called when the kernel reports the departure of the device. Place.Departed
// comes before Gone: a reader whose Gone is closed counts as dead only, and its device as
// still plugged in.
func (c *conn) leave() {
	c.goneOnce.Do(func() {
		c.at.departed()
		close(c.gone)
	})
}

// die makes the connection useless, whatever the device does.
func (c *conn) die() { c.goneOnce.Do(func() { close(c.gone) }) }

// Gone implements Conn.
func (c *conn) Gone() <-chan struct{} { return c.gone }

// ClearHalt implements Conn. The kernel also resets its own data toggle.
func (c *conn) ClearHalt(ctx context.Context, ep uint8) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := c.do(func(fd int) error { return clearHalt(fd, uint32(ep)) }); err != nil {
		return c.failed(fmt.Sprintf("clear halt of endpoint %02X", ep), err)
	}
	return nil
}

// Reset implements Conn. Transfers under way end with ErrReset. The interface is released
// during the reset: otherwise the kernel takes it away and offers it to its own drivers.
func (c *conn) Reset(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	return c.do(func(fd int) error {
		_ = releaseInterface(fd, c.iface) // lost already, if another program did a reset
		if err := ioctl(fd, ioReset, nil); err != nil {
			return c.failed("reset", err)
		}
		return c.claim(fd)
	})
}

// String implements Conn.
func (c *conn) String(i uint8) string { return c.strings.Get(i) }

// Descriptors implements Conn.
func (c *conn) Descriptors() []byte { return c.desc }

// Close implements Conn. Transfers under way end with ErrGone. The kernel may bind a
// driver of its own to the interface again.
func (c *conn) Close() error {
	c.mu.Lock()
	if c.closed {
		c.mu.Unlock()
		return nil
	}
	c.closed = true
	c.mu.Unlock()
	// Releasing the interface ends its transfers, which the reaper returns to their
	// callers. Control transfers belong to no interface and are discarded one by one.
	_ = c.do(func(fd int) error {
		c.mu.Lock()
		for _, u := range c.inFlight {
			_ = ioctl(fd, ioDiscard, unsafe.Pointer(&u.kernel))
		}
		c.mu.Unlock()
		_ = releaseInterface(fd, c.iface)
		// This is done even if no driver had it at the claim: an earlier cardfs may have
		// detached one and then been killed.
		_ = connectDriver(fd, c.iface)
		return nil
	})
	c.file.Close() // wakes the reaper and waits until it no longer uses the file
	<-c.reaped
	c.mu.Lock()
	defer c.mu.Unlock()
	c.pin.Unpin() // the kernel no longer uses any of them
	return nil
}
