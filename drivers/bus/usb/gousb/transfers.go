//go:build cgo

package gousb

import (
	"context"
	"errors"
	"fmt"
	"time"

	lib "github.com/google/gousb"

	"github.com/cardfs/cardfs/drivers/bus/usb"
	"github.com/cardfs/cardfs/reader"
)

// begin joins the current era. It returns a context that ends with the era, whose cause
// says why. using is held for reading until done is called.
func (c *conn) begin(ctx context.Context, timeout time.Duration) (_ context.Context, done func(), err error) {
	if err := ctx.Err(); err != nil {
		return nil, nil, err
	}
	c.using.RLock()
	c.mu.Lock()
	era, closed := c.era, c.closed
	c.mu.Unlock()
	if closed {
		c.using.RUnlock()
		return nil, nil, errClosed
	}
	ctx, cancel := context.WithCancelCause(ctx)
	stop := context.AfterFunc(era, func() { cancel(context.Cause(era)) })
	var timer *time.Timer
	if timeout > 0 {
		timer = time.AfterFunc(timeout, func() { cancel(usb.ErrTimeout) })
	}
	return ctx, func() {
		stop()
		if timer != nil {
			timer.Stop()
		}
		cancel(nil)
		c.using.RUnlock()
	}, nil
}

// move does a transfer on an endpoint and finds out how it ended. A transfer of less than
// n bytes without an error may have been ended by the kernel.
func (c *conn) move(ctx context.Context, ep uint8, n int, timeout time.Duration, transfer func(context.Context) (int, error)) (int, error) {
	during, done, err := c.begin(ctx, timeout)
	if err != nil {
		return 0, err
	}
	defer done()
	moved, err := transfer(during)
	var code lib.Error
	if errors.As(err, &code) && code != lib.ErrorNoDevice && c.ask() == kernels {
		// Another program's reset took the interface from us and gave it to a driver of
		// the kernel. The next transfer claims it again.
		if c.detach() == nil {
			moved, err = transfer(during)
		}
	}
	var status lib.TransferStatus
	switch {
	case err == nil && moved == n:
		return moved, nil
	case err == nil && ep&0x80 != 0:
		switch c.ask() {
		case claimed, unknown:
			return moved, nil
		}
		return moved, c.whyEnded(ctx)
	case err == nil:
		return moved, c.whyEnded(ctx)
	case errors.As(err, &status):
		switch status {
		case lib.TransferCancelled:
			if err := ctx.Err(); err != nil {
				return moved, err
			}
			if err := context.Cause(during); err != nil {
				return moved, err
			}
			return moved, c.whyEnded(ctx)
		case lib.TransferStall:
			return moved, usb.ErrStall
		case lib.TransferOverflow:
			return moved, usb.ErrOverflow
		case lib.TransferNoDevice: // or a reset
			return moved, c.whyEnded(ctx)
		}
		return moved, usb.Lost(ctx, c.gone, fmt.Errorf("%w (%w)", usb.ErrBus, err))
	case errors.As(err, &code):
		return moved, c.refused(ctx, code)
	}
	return moved, err
}

// refused returns the error of a transfer that libusb did not accept.
func (c *conn) refused(ctx context.Context, err error) error {
	switch c.ask() {
	case left:
		c.leave()
		return reader.ErrGone
	case claimed:
		if errors.Is(err, lib.ErrorNoDevice) { // usbfs says otherwise
			return usb.Lost(ctx, c.gone, usb.ErrReset)
		}
	}
	if errors.Is(err, lib.ErrorNoDevice) {
		return reader.ErrGone
	}
	if err = sortError(err); errors.Is(err, usb.ErrBus) {
		err = usb.Lost(ctx, c.gone, err)
	}
	return err
}

// whyEnded returns the reason why the kernel ended a transfer by itself. The interface is ours
// until the kernel has noticed a departure, too.
func (c *conn) whyEnded(ctx context.Context) error {
	switch c.ask() {
	case left:
		c.leave()
		return reader.ErrGone
	case unknown, claimed:
		return usb.Lost(ctx, c.gone, usb.ErrReset)
	}
	return usb.ErrReset
}

// Out implements Conn.
func (c *conn) Out(ctx context.Context, ep uint8, p []byte, zlp bool, timeout time.Duration) (int, error) {
	e, ok := c.outEndpoint(ep)
	if !ok {
		return 0, c.noEndpoint("OUT", ep)
	}
	if len(p) > usb.MaxTransfer {
		return 0, c.tooLong(ep, len(p))
	}
	n, err := c.move(ctx, ep, len(p), timeout, func(ctx context.Context) (int, error) { return e.WriteContext(ctx, p) })
	if err == nil && zlp && len(p) > 0 && e.packet > 0 && len(p)%e.packet == 0 {
		_, err = c.move(ctx, ep, 0, timeout, func(ctx context.Context) (int, error) { return e.WriteContext(ctx, nil) })
	}
	if err != nil {
		return n, fmt.Errorf("%s: endpoint %02X: %w", c.at.Name, ep, err)
	}
	return n, nil
}

// In implements Conn.
func (c *conn) In(ctx context.Context, ep uint8, p []byte, timeout time.Duration) (int, error) {
	e, ok := c.inEndpoint(ep)
	if !ok {
		return 0, c.noEndpoint("IN", ep)
	}
	if len(p) > usb.MaxTransfer {
		return 0, c.tooLong(ep, len(p))
	}
	n, err := c.move(ctx, ep, len(p), timeout, func(ctx context.Context) (int, error) { return e.ReadContext(ctx, p) })
	if err != nil {
		return n, fmt.Errorf("%s: endpoint %02X: %w", c.at.Name, ep, err)
	}
	return n, nil
}

// An endpoint remains valid across a reset: it uses gousb's handle of the device, which
// remains open.
func (c *conn) outEndpoint(ep uint8) (outEndpoint, bool) {
	c.using.RLock()
	defer c.using.RUnlock()
	e, ok := c.out[ep]
	return e, ok
}

func (c *conn) inEndpoint(ep uint8) (reading, bool) {
	c.using.RLock()
	defer c.using.RUnlock()
	e, ok := c.in[ep]
	return e, ok
}

func (c *conn) noEndpoint(dir string, ep uint8) error {
	return fmt.Errorf("%s: interface %d has no %s endpoint %02X: %w", c.at.Name, c.iface, dir, ep, reader.ErrInvalid)
}

func (c *conn) tooLong(ep uint8, n int) error {
	return fmt.Errorf("%s: endpoint %02X: transfer of %d bytes, at most %d are possible: %w", c.at.Name, ep, n, usb.MaxTransfer, reader.ErrInvalid)
}

// controlMost is the longest data stage that libusb moves (MAX_CTRL_BUFFER_LENGTH of its
// linux_usbfs.h).
const controlMost = 4096

// controlLimit is the time-out of a control transfer without one, see the package comment.
const controlLimit = 5 * time.Second

// Control implements Conn.
func (c *conn) Control(ctx context.Context, s usb.Setup, data []byte, timeout time.Duration) (int, error) {
	part := data
	var err error
	n := 0
	switch {
	case len(data) <= controlMost:
	case s.In():
		part = data[:controlMost]
	default:
		err = fmt.Errorf("data stage of %d bytes, libusb moves at most %d: %w", len(data), controlMost, reader.ErrUnsupported)
	}
	if err == nil {
		n, err = c.controlTransfer(ctx, s, part, timeout)
	}
	if err == nil && n < len(data) && n == controlMost {
		err = fmt.Errorf("the answer may be longer than the %d bytes that libusb takes: %w", controlMost, usb.ErrOverflow)
	}
	if err != nil {
		return n, fmt.Errorf("%s: control %v: %w", c.at.Name, s, err)
	}
	return n, nil
}

func (c *conn) controlTransfer(ctx context.Context, s usb.Setup, data []byte, timeout time.Duration) (int, error) {
	if timeout <= 0 {
		timeout = controlLimit
	}
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	// An earlier transfer that was given up may still run, and gousb has one time-out for
	// all control transfers.
	waited := time.NewTimer(timeout)
	defer waited.Stop()
	select {
	case <-c.control:
	case <-ctx.Done():
		return 0, ctx.Err()
	case <-c.gone:
		return 0, reader.ErrGone
	case <-c.closing:
		return 0, errClosed
	case <-waited.C:
		return 0, fmt.Errorf("the one before still runs, gousb cannot cancel it: %w", usb.ErrTimeout)
	}
	type result struct {
		n   int
		err error
	}
	// A buffer of its own: the transfer may outlive the caller.
	buf := make([]byte, len(data))
	if !s.In() {
		copy(buf, data)
	}
	ended, away := make(chan result), make(chan struct{})
	defer close(away)
	c.using.RLock()
	c.mu.Lock()
	closed := c.closed
	c.mu.Unlock()
	if closed {
		c.using.RUnlock()
		c.control <- struct{}{}
		return 0, errClosed
	}
	go func() {
		// libusb's time-outs are in milliseconds, and 0 means none: round up.
		n, err := c.request(s, buf, (timeout + time.Millisecond - 1).Truncate(time.Millisecond))
		c.using.RUnlock()
		c.control <- struct{}{}
		select {
		case ended <- result{max(n, 0), err}:
		case <-away:
			clear(buf) // it may contain a PIN
		}
	}()
	select {
	case r := <-ended:
		if s.In() {
			copy(data, buf[:r.n])
		}
		clear(buf)
		var code lib.Error
		if errors.As(r.err, &code) {
			switch code {
			case lib.ErrorPipe, lib.ErrorTimeout, lib.ErrorOverflow:
				return r.n, sortError(code)
			}
			return r.n, c.refused(ctx, code)
		}
		return r.n, r.err
	case <-ctx.Done():
		return 0, ctx.Err()
	}
}

// ClearHalt implements Conn.
func (c *conn) ClearHalt(ctx context.Context, ep uint8) error {
	_, done, err := c.begin(ctx, 0)
	if err == nil {
		defer done()
		if err = c.h.clearHalt(ep); errors.Is(err, lib.ErrorNoDevice) {
			c.leave()
		}
	}
	if err != nil {
		return c.failed(fmt.Sprintf("clear halt of endpoint %02X", ep), err)
	}
	return nil
}
