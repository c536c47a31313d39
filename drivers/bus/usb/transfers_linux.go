package usb

import (
	"context"
	"errors"
	"fmt"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/cardfs/cardfs/reader"
)

// take returns an idle urb with room for n bytes.
func (c *conn) take(n int) (*urb, error) {
	if n > MaxTransfer {
		return nil, fmt.Errorf("transfer of %d bytes, at most %d are possible: %w", n, MaxTransfer, reader.ErrInvalid)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil, fmt.Errorf("closed: %w", reader.ErrGone)
	}
	var u *urb
	if last := len(c.idle) - 1; last >= 0 {
		u, c.idle = c.idle[last], c.idle[:last]
	} else {
		u = &urb{done: make(chan struct{}, 1), timer: time.NewTimer(time.Hour)}
		u.timer.Stop()
		c.pin.Pin(u)
	}
	if n > len(u.buf) {
		// The old buffer stays pinned until Close. As sizes double, all old ones together
		// are smaller than the new one.
		size := 512
		for size < n {
			size *= 2
		}
		u.buf = make([]byte, size)
		c.pin.Pin(&u.buf[0])
	}
	u.used = n
	return u, nil
}

func (c *conn) give(u *urb) {
	clear(u.buf[:u.used]) // it may contain a PIN
	c.mu.Lock()
	c.idle = append(c.idle, u)
	c.mu.Unlock()
}

// submit hands u to the kernel.
func (c *conn) submit(u *urb, kind, ep uint8, n int, flags uint32) error {
	u.kernel = usbdevfsURB{kind: kind, endpoint: ep, flags: flags, bufferLength: int32(n)}
	if len(u.buf) > 0 {
		u.kernel.buffer = uintptr(unsafe.Pointer(&u.buf[0]))
	}
	key := uintptr(unsafe.Pointer(&u.kernel))
	c.mu.Lock()
	c.inFlight[key] = u // before the reaper can meet it
	c.mu.Unlock()
	err := c.do(func(fd int) error {
		err := ioctl(fd, ioSubmit, unsafe.Pointer(&u.kernel))
		if err != unix.EBUSY {
			return err
		}
		// Another program's reset took the interface from us and gave it to a driver of
		// the kernel.
		if err := c.claim(fd); err != nil {
			return err
		}
		return ioctl(fd, ioSubmit, unsafe.Pointer(&u.kernel))
	})
	if err != nil {
		c.mu.Lock()
		_, ours := c.inFlight[key]
		delete(c.inFlight, key)
		c.mu.Unlock()
		if !ours { // the reaper has ended meanwhile and signals u
			<-u.done
		}
	}
	return err
}

// transfer submits u and waits for its end. ctx or the time-out cancel it. transfer
// returns the number of bytes moved, which may be positive even with an error.
func (c *conn) transfer(ctx context.Context, u *urb, kind, ep uint8, n int, flags uint32, timeout time.Duration) (int, error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	if err := c.submit(u, kind, ep, n, flags); err != nil {
		return 0, c.refused(ctx, err)
	}
	return c.wait(ctx, u, ep, timeout)
}

// wait is the second half of transfer, for a u that was submitted.
func (c *conn) wait(ctx context.Context, u *urb, ep uint8, timeout time.Duration) (int, error) {
	var expired <-chan time.Time
	if timeout > 0 {
		u.timer.Reset(timeout)
		expired = u.timer.C
		defer u.timer.Stop()
	}
	var ended error
	select {
	case <-u.done:
	case <-ctx.Done():
		ended = ctx.Err()
		c.discard(u)
	case <-expired:
		ended = ErrTimeout
		c.discard(u)
	}
	moved := int(u.kernel.actualLength)
	if ep&0x80 != 0 {
		u.used = moved // usually much less than n
	}
	switch status := syscall.Errno(-u.kernel.status); status {
	case 0:
		return moved, nil // if it was also discarded, that came too late
	case unix.ENOENT, unix.ECONNRESET, unix.ESHUTDOWN:
		if ended != nil {
			return moved, ended
		}
		return moved, c.whyEnded()
	default:
		err := sortError(status)
		switch {
		case errors.Is(err, ErrBus):
			err = Lost(ctx, c.gone, err)
		case errors.Is(err, reader.ErrGone):
			c.leave()
		}
		return moved, err
	}
}

// refused maps the error of a urb that was not accepted. While the system goes to sleep or
// wakes up, the host controller accepts none. Afterwards the device works again or is gone.
func (c *conn) refused(ctx context.Context, err error) error {
	err = sortError(err)
	if errors.Is(err, ErrReset) {
		err = Lost(ctx, c.gone, err)
	}
	return err
}

// whyEnded returns the reason why the kernel ended a transfer by itself.
func (c *conn) whyEnded() error {
	c.mu.Lock()
	closed := c.closed
	c.mu.Unlock()
	if closed {
		return fmt.Errorf("closed: %w", reader.ErrGone)
	}
	// The kernel ends transfers before it reports the departure of a device, but from
	// then on every ioctl fails.
	err := c.do(func(fd int) error {
		_, err := KernelDriver(fd, c.iface)
		return err
	})
	if err != nil {
		return sortError(err)
	}
	return ErrReset
}

// discard cancels u and waits until the kernel no longer uses it.
func (c *conn) discard(u *urb) {
	// An error means that u has ended already and will be reaped.
	_ = c.do(func(fd int) error { return ioctl(fd, ioDiscard, unsafe.Pointer(&u.kernel)) })
	<-u.done
}

// Control implements Conn.
func (c *conn) Control(ctx context.Context, s Setup, data []byte, timeout time.Duration) (int, error) {
	if len(data) > 0xFFFF {
		return 0, fmt.Errorf("%s: control %v: data stage of %d bytes, at most %d are possible: %w", c.name, s, len(data), 0xFFFF, reader.ErrInvalid)
	}
	u, err := c.take(8 + len(data))
	if err != nil {
		return 0, fmt.Errorf("%s: control %v: %w", c.name, s, err)
	}
	defer c.give(u)
	b := u.buf
	b[0], b[1] = s.RequestType, s.Request
	b[2], b[3] = uint8(s.Value), uint8(s.Value>>8)
	b[4], b[5] = uint8(s.Index), uint8(s.Index>>8)
	b[6], b[7] = uint8(len(data)), uint8(len(data)>>8)
	if !s.In() {
		copy(b[8:], data)
	}
	n, err := c.transfer(ctx, u, urbControl, 0, 8+len(data), 0, timeout)
	if s.In() {
		copy(data, b[8:8+n])
	}
	if err != nil {
		return n, fmt.Errorf("%s: control %v: %w", c.name, s, err)
	}
	return n, nil
}

// Out implements Conn.
func (c *conn) Out(ctx context.Context, ep uint8, p []byte, zlp bool, timeout time.Duration) (int, error) {
	kind, ok := c.types[ep]
	if !ok || ep&0x80 != 0 {
		return 0, c.noEndpoint("OUT", ep)
	}
	u, err := c.take(len(p))
	if err != nil {
		return 0, fmt.Errorf("%s: endpoint %02X: %w", c.name, ep, err)
	}
	defer c.give(u)
	copy(u.buf, p)
	var flags uint32
	if zlp {
		flags = urbZeroPacket
	}
	n, err := c.transfer(ctx, u, kind, ep, len(p), flags, timeout)
	if err != nil {
		return n, fmt.Errorf("%s: endpoint %02X: %w", c.name, ep, err)
	}
	return n, nil
}

// In implements Conn.
func (c *conn) In(ctx context.Context, ep uint8, p []byte, timeout time.Duration) (int, error) {
	kind, ok := c.types[ep]
	if !ok || ep&0x80 == 0 {
		return 0, c.noEndpoint("IN", ep)
	}
	u, err := c.take(len(p))
	if err != nil {
		return 0, fmt.Errorf("%s: endpoint %02X: %w", c.name, ep, err)
	}
	defer c.give(u)
	n, err := c.transfer(ctx, u, kind, ep, len(p), 0, timeout)
	n = copy(p, u.buf[:n])
	if err != nil {
		return n, fmt.Errorf("%s: endpoint %02X: %w", c.name, ep, err)
	}
	return n, nil
}

func (c *conn) noEndpoint(dir string, ep uint8) error {
	return fmt.Errorf("%s: interface %d has no %s endpoint %02X: %w", c.name, c.iface, dir, ep, reader.ErrInvalid)
}
