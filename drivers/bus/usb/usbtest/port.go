package usbtest

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/cardfs/cardfs/drivers/bus/usb"
	"github.com/cardfs/cardfs/reader"
)

// Port is the place where a device is plugged in. It ends when the device is unplugged; the
// next Plug returns another.
//
// It is a usb.Opener for drivers in this process. For a kernel, through usbip.Plug, it has
// transfers without a claim, as on a bus.
type Port struct {
	d       *Device
	ctx     context.Context // ends when the device is unplugged
	leave   context.CancelFunc
	control chan struct{} // full while a control transfer is under way
	claims  map[uint8]bool
}

var _ usb.Opener = (*Port)(nil)

// Device returns the device that is plugged in.
func (p *Port) Device() *Device { return p.d }

// Gone is closed when the device is unplugged.
func (p *Port) Gone() <-chan struct{} { return p.ctx.Done() }

// Unplug unplugs the device, if it is still plugged in here.
func (p *Port) Unplug() {
	p.d.plugging.Lock()
	defer p.d.plugging.Unlock()
	p.d.mu.Lock()
	here := p.d.port == p
	p.d.mu.Unlock()
	if here {
		p.d.unplug()
	}
}

// Descriptors are the device's.
func (p *Port) Descriptors() []byte { return p.d.Descriptors() }

// String returns string descriptor i.
func (p *Port) String(i uint8) string { return p.d.String(i) }

// Control does a control transfer.
func (p *Port) Control(ctx context.Context, s usb.Setup, data []byte, timeout time.Duration) (int, error) {
	return p.doControl(&wait{Context: ctx, port: p, timeout: timeout}, s, data)
}

// Out writes to an OUT endpoint.
func (p *Port) Out(ctx context.Context, ep uint8, data []byte, zlp bool, timeout time.Duration) (int, error) {
	return p.doOut(&wait{Context: ctx, port: p, timeout: timeout}, ep, data, zlp)
}

// In reads from an IN endpoint.
func (p *Port) In(ctx context.Context, ep uint8, data []byte, timeout time.Duration) (int, error) {
	return p.doIn(&wait{Context: ctx, port: p, timeout: timeout}, ep, data)
}

// ClearHalt ends the halt of an endpoint.
func (p *Port) ClearHalt(ctx context.Context, ep uint8) error {
	if err := (&wait{Context: ctx, port: p}).Err(); err != nil {
		return err
	}
	p.d.clearHalt(ep)
	return nil
}

// Reset resets the port, as another program or the system may.
func (p *Port) Reset() { p.d.reset() }

// doControl does one control transfer at a time, as the bus does.
func (p *Port) doControl(w *wait, s usb.Setup, data []byte) (int, error) {
	defer w.stop()
	if err := w.Err(); err != nil {
		return 0, err
	}
	if err := w.turn(p.control); err != nil {
		return 0, err
	}
	defer func() { <-p.control }()
	line := Line{Kind: Transfer, In: s.In(), Control: true, Setup: s, Asked: len(data), Timeout: w.timeout}
	var n int
	var err error
	if w.fault = p.d.befalls(line); w.fault == nil {
		n, err = p.d.control(w, s, data)
	} else {
		n, err = p.d.spoil(w, line, data, func(data []byte) (int, error) { return p.d.control(w, s, data) })
	}
	if line.Data, line.Err = data, err; line.In {
		line.Data = data[:n]
	}
	p.d.mu.Lock()
	p.d.note(line)
	p.d.mu.Unlock()
	return n, err
}

func (p *Port) doOut(w *wait, ep uint8, data []byte, zlp bool) (int, error) {
	defer w.stop()
	line := Line{Kind: Transfer, Endpoint: ep, Timeout: w.timeout}
	if w.fault = p.d.befalls(line); w.fault == nil {
		return p.d.out(w, ep, data, zlp)
	}
	n, err := p.d.spoil(w, line, data, func(data []byte) (int, error) { return p.d.out(w, ep, data, zlp) })
	line.Data, line.Err = data, err
	p.d.mu.Lock()
	defer p.d.mu.Unlock()
	p.d.note(line)
	return n, err
}

func (p *Port) doIn(w *wait, ep uint8, data []byte) (int, error) {
	defer w.stop()
	line := Line{Kind: Transfer, In: true, Endpoint: ep, Asked: len(data), Timeout: w.timeout}
	if w.fault = p.d.befalls(line); w.fault == nil {
		return p.d.in(w, ep, data)
	}
	n, err := p.d.spoil(w, line, data, func(data []byte) (int, error) { return p.d.in(w, ep, data) })
	line.Data, line.Err = data[:n], err
	p.d.mu.Lock()
	defer p.d.mu.Unlock()
	p.d.note(line)
	return n, err
}

// OpenUSB claims an interface.
func (p *Port) OpenUSB(ctx context.Context, iface uint8) (usb.Conn, error) {
	if err := (&wait{Context: ctx, port: p}).Err(); err != nil {
		return nil, err
	}
	all := usb.Interfaces(p.d.model.Descriptors)
	i := slices.IndexFunc(all, func(i usb.Interface) bool { return i.Number == iface })
	if i < 0 {
		return nil, fmt.Errorf("the emulated device has no interface %d: %w", iface, reader.ErrInvalid)
	}
	p.d.mu.Lock()
	if p.claims[iface] {
		p.d.mu.Unlock()
		return nil, reader.ErrClaimed
	}
	p.claims[iface] = true
	p.d.note(Line{Kind: Claim, Endpoint: iface})
	p.d.mu.Unlock()
	if p.d.model.Configured != nil {
		p.d.model.Configured()
	}
	c := &conn{p: p, iface: iface}
	c.ctx, c.cancel = context.WithCancel(context.Background())
	for _, e := range all[i].Endpoints {
		c.endpoints |= 1 << (e.Address&0x0F | e.Address>>3&0x10)
	}
	return c, nil
}

// conn is a claim.
type conn struct {
	p         *Port
	iface     uint8
	endpoints uint32          // a bit each
	ctx       context.Context // ends with Close
	cancel    context.CancelFunc
}

// wait returns what can end a transfer of the claim.
func (c *conn) wait(ctx context.Context, timeout time.Duration) *wait {
	return &wait{Context: ctx, port: c.p, claim: c.ctx, timeout: timeout}
}

// missing refuses an endpoint that the interface does not have.
func (c *conn) missing(ep uint8) error {
	if c.endpoints>>(ep&0x0F|ep>>3&0x10)&1 == 0 {
		return usb.ErrNoEndpoint
	}
	return nil
}

func (c *conn) Control(ctx context.Context, s usb.Setup, data []byte, timeout time.Duration) (int, error) {
	return c.p.doControl(c.wait(ctx, timeout), s, data)
}

func (c *conn) Out(ctx context.Context, ep uint8, p []byte, zlp bool, timeout time.Duration) (int, error) {
	if err := c.missing(ep); err != nil {
		return 0, err
	}
	return c.p.doOut(c.wait(ctx, timeout), ep, p, zlp)
}

func (c *conn) In(ctx context.Context, ep uint8, p []byte, timeout time.Duration) (int, error) {
	if err := c.missing(ep); err != nil {
		return 0, err
	}
	return c.p.doIn(c.wait(ctx, timeout), ep, p)
}

func (c *conn) ClearHalt(ctx context.Context, ep uint8) error {
	if err := c.missing(ep); err != nil {
		return err
	}
	if err := c.wait(ctx, 0).Err(); err != nil {
		return err
	}
	c.p.d.clearHalt(ep)
	return nil
}

func (c *conn) Reset(ctx context.Context) error {
	if err := c.wait(ctx, 0).Err(); err != nil {
		return err
	}
	c.p.d.reset()
	return nil
}

func (c *conn) Descriptors() []byte   { return c.p.Descriptors() }
func (c *conn) String(i uint8) string { return c.p.String(i) }
func (c *conn) Gone() <-chan struct{} { return c.p.Gone() }

// Close ends the transfers of the claim.
func (c *conn) Close() error {
	c.p.d.mu.Lock()
	defer c.p.d.mu.Unlock()
	if c.ctx.Err() == nil {
		c.cancel()
		delete(c.p.claims, c.iface)
		c.p.d.note(Line{Kind: Release, Endpoint: c.iface})
	}
	return nil
}
