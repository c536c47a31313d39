//go:build cgo

package gousb

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	lib "github.com/google/gousb"

	"github.com/cardfs/cardfs/drivers/bus/usb"
	"github.com/cardfs/cardfs/reader"
)

// Missing is nil: this program has gousb.
func Missing() error { return nil }

var _ usb.Transport = Open

// fate is the owner of an interface, as the kernel reports it.
type fate int

const (
	unknown fate = iota
	claimed      // by us, or by another program
	free
	kernels // bound to a driver of the kernel
	left    // the device has left
)

// conn is a usb.Conn on gousb.
//
// A transfer holds using for reading until it has ended. Reset and Close need the device
// exclusively: they end the era, which cancels the transfers, and then lock using for
// writing.
//
// Lock order: using, then mu.
type conn struct {
	at    usb.Place
	iface uint8

	lib    *lib.Context
	dev    *lib.Device
	h      handle
	beside *beside
	// Calls of the fields above for a transfer; tests replace them.
	ask     func() fate // who owns the interface
	detach  func() error
	request func(s usb.Setup, data []byte, timeout time.Duration) (int, error)

	using  sync.RWMutex
	config *lib.Config
	intf   *lib.Interface
	in     map[uint8]reading
	out    map[uint8]outEndpoint

	control chan struct{} // holds a value while no control transfer runs
	work    sync.WaitGroup

	mu     sync.Mutex
	closed bool
	era    context.Context // ends with Reset or Close, whose error is its cause
	end    context.CancelCauseFunc

	gone     chan struct{}
	goneOnce sync.Once
	closing  chan struct{}

	strings *usb.StringTable
}

// reading and writing are the methods of gousb's endpoints that a transfer needs.
type (
	reading interface {
		ReadContext(ctx context.Context, p []byte) (int, error)
	}
	writing interface {
		WriteContext(ctx context.Context, p []byte) (int, error)
	}
)

type outEndpoint struct {
	writing
	packet int
}

var errClosed = fmt.Errorf("closed: %w", reader.ErrGone)

// Open is the Transport.
func Open(at usb.Place, iface uint8) (usb.Conn, error) {
	return guarded(at, func() (*conn, error) { return open(at, iface) })
}

// guarded calls open and turns a panic into an error. gousb panics if libusb cannot start,
// and on unexpected descriptors.
func guarded(at usb.Place, open func() (*conn, error)) (usb.Conn, error) {
	var c *conn
	var err error
	if perr := reader.Guard(at.Log, at.Name+": gousb", func() { c, err = open() }); perr != nil {
		err = fmt.Errorf("%s: gousb panicked, as it does where a device on the bus has odd descriptors; --usb=usbfs copes with them: %w", at.Name, perr)
	}
	if err != nil {
		return nil, err
	}
	return c, nil
}

func newConn(at usb.Place, iface uint8) *conn {
	c := &conn{
		at: at, iface: iface,
		control: make(chan struct{}, 1), gone: make(chan struct{}), closing: make(chan struct{}),
	}
	c.control <- struct{}{}
	c.era, c.end = context.WithCancelCause(context.Background())
	c.strings = usb.NewStringTable(c.Control, at.Strings)
	c.ask = func() fate { return c.beside.ask(iface) }
	c.detach = func() error { return c.h.detach(iface) }
	c.request = func(s usb.Setup, data []byte, timeout time.Duration) (int, error) {
		c.dev.ControlTimeout = timeout
		return c.dev.Control(s.RequestType, s.Request, s.Value, s.Index, data)
	}
	return c
}

func open(at usb.Place, iface uint8) (_ *conn, err error) {
	c := newConn(at, iface)
	c.lib = lib.NewContext()
	opened := false
	defer func() { // also after a panic
		if !opened {
			c.letGo()
		}
	}()
	devices, err := c.lib.OpenDevices(func(d *lib.DeviceDesc) bool { return d.Bus == at.Bus && d.Address == at.Number })
	switch {
	case len(devices) > 0: // err, if any, concerns another device
		c.dev = devices[0]
	case errors.Is(err, lib.ErrorAccess):
		return nil, at.Refused(reader.ErrNoPermission)
	case err == nil, errors.Is(err, lib.ErrorNoDevice):
		return nil, at.Refused(reader.ErrGone)
	default:
		return nil, at.Refused(err)
	}
	if c.h, err = handleOf(c.dev); err != nil {
		return nil, c.failed("open", err)
	}
	if err := c.claim(); err != nil {
		return nil, err
	}
	if c.beside, err = openBeside(at); err != nil {
		return nil, err
	}
	opened = true
	c.work.Go(func() {
		if c.beside.await() {
			c.leave()
		}
	})
	if at.Gone != nil {
		c.work.Go(func() {
			select {
			case <-at.Gone:
				c.goneOnce.Do(func() { close(c.gone) })
			case <-c.closing:
			}
		})
	}
	return c, nil
}

// claim claims the interface in the active configuration and finds its endpoints. using is
// held for writing, or c is not shared yet.
func (c *conn) claim() error {
	wanted, err := usb.Find(c.at.Descriptors, c.iface)
	if err != nil {
		return fmt.Errorf("%s: %w", c.at.Name, err)
	}
	const value = 18 + 5 // bConfigurationValue, behind the device descriptor (USB 2.0 table 9-10)
	number := int(c.at.Descriptors[value])
	// Config would select a configuration that is not active, and so reset the device.
	switch active, err := c.dev.ActiveConfigNum(); {
	case err != nil:
		return c.failed("configuration", err)
	case active != number:
		return fmt.Errorf("%s: configuration %d is in force, not %d: %w", c.at.Name, active, number, usb.ErrReset)
	}
	for i, d := range c.dev.Desc.Configs[number].Interfaces {
		if d.Number != i {
			return fmt.Errorf("%s: interface %d is in place %d: gousb serves devices whose interfaces are numbered 0, 1, 2 … only, --usb=usbfs serves all: %w",
				c.at.Name, d.Number, i, reader.ErrUnsupported)
		}
	}
	c.h.detaching(true)
	switch err := c.h.claim(c.iface); {
	case errors.Is(err, lib.ErrorBusy):
		return c.at.Claimed(c.iface)
	case err != nil:
		return c.failed(fmt.Sprintf("claim interface %d", c.iface), err)
	}
	config, err := c.dev.Config(number)
	if err == nil {
		c.config = config
		c.intf, err = config.Interface(int(c.iface), 0)
	}
	if err != nil {
		c.h.release(c.iface)
		return c.failed(fmt.Sprintf("claim interface %d", c.iface), err)
	}
	c.find(wanted.Endpoints,
		func(number int) (reading, error) { return c.intf.InEndpoint(number) },
		func(number int) (writing, error) { return c.intf.OutEndpoint(number) })
	return nil
}

// find opens the bulk and interrupt endpoints of the interface. One that gousb does not
// find is left out, as with usbfs.
func (c *conn) find(wanted []usb.Endpoint, in func(number int) (reading, error), out func(number int) (writing, error)) {
	c.in, c.out = map[uint8]reading{}, map[uint8]outEndpoint{}
	for _, e := range wanted {
		if kind := e.Attributes & 3; kind != 2 && kind != 3 {
			continue
		}
		if e.Address&0x80 != 0 {
			if r, err := in(int(e.Address & 0x0F)); err == nil {
				c.in[e.Address] = r
			}
		} else if w, err := out(int(e.Address)); err == nil {
			c.out[e.Address] = outEndpoint{w, e.MaxPacket}
		}
	}
}

// unclaim gives up the interface and the configuration.
func (c *conn) unclaim() {
	if c.intf != nil {
		c.intf.Close()
	}
	if c.config != nil {
		_ = c.config.Close()
	}
	c.intf, c.config = nil, nil
}

// letGo undoes open: the interface goes back to the kernel, and the Context ends with its
// goroutine.
func (c *conn) letGo() {
	if c.beside != nil {
		c.beside.close()
	}
	c.unclaim()
	if c.dev != nil {
		_ = c.dev.Close()
	}
	_ = c.lib.Close()
}

// failed wraps err with what was tried, mapped by sortError.
func (c *conn) failed(what string, err error) error {
	return fmt.Errorf("%s: %s: %w", c.at.Name, what, sortError(err))
}

// sortError maps libusb's errors to those of package usb.
func sortError(err error) error {
	var code lib.Error
	if !errors.As(err, &code) {
		return err
	}
	var what error
	switch code {
	case lib.ErrorNoDevice:
		what = reader.ErrGone
	case lib.ErrorNotFound:
		what = usb.ErrNoEndpoint
	case lib.ErrorPipe:
		return usb.ErrStall
	case lib.ErrorOverflow:
		return usb.ErrOverflow
	case lib.ErrorTimeout:
		return usb.ErrTimeout
	case lib.ErrorIO, lib.ErrorOther:
		what = usb.ErrBus
	case lib.ErrorBusy:
		what = reader.ErrClaimed
	case lib.ErrorAccess:
		what = reader.ErrNoPermission
	default:
		return err
	}
	return fmt.Errorf("%w (%w)", what, err)
}

// leave is called when the device file reports the departure of the device.
func (c *conn) leave() {
	c.goneOnce.Do(func() {
		if c.at.Departed != nil {
			c.at.Departed()
		}
		close(c.gone)
	})
}

// alone ends the transfers under way with that cause and locks using for writing. It
// returns false, without the lock, if the connection is closed.
func (c *conn) alone(cause error, last bool) bool {
	c.mu.Lock()
	if c.closed {
		c.mu.Unlock()
		return false
	}
	c.closed = last
	c.end(cause)
	c.mu.Unlock()
	c.using.Lock()
	return true
}

// Reset implements Conn. gousb resets no device that is claimed, so the claim is given up.
func (c *conn) Reset(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if !c.alone(usb.ErrReset, false) {
		return c.failed("reset", errClosed)
	}
	defer c.using.Unlock()
	c.mu.Lock()
	c.era, c.end = context.WithCancelCause(context.Background())
	if c.closed { // meanwhile
		c.end(errClosed)
	}
	c.mu.Unlock()
	c.h.detaching(false) // keep drivers of the kernel away meanwhile
	c.unclaim()
	if err := c.dev.Reset(); err != nil {
		if f := c.ask(); f == left || f == unknown && errors.Is(err, lib.ErrorNotFound) {
			c.leave()
			err = reader.ErrGone
		}
		return c.failed("reset", err)
	}
	return c.claim()
}

// String implements Conn.
func (c *conn) String(i uint8) string { return c.strings.Get(i) }

// Descriptors implements Conn.
func (c *conn) Descriptors() []byte { return c.at.Descriptors }

// Gone implements Conn.
func (c *conn) Gone() <-chan struct{} { return c.gone }

// Close implements Conn. It waits for a control transfer that was given up, and up to
// 0.1 s for gousb's event loop.
func (c *conn) Close() error {
	if !c.alone(errClosed, true) {
		return nil
	}
	defer c.using.Unlock()
	close(c.closing)
	c.letGo()
	c.work.Wait()
	return nil
}
