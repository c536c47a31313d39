// Package chardevtest has emulated devices with a file, for drivers that use package
// chardev.
package chardevtest

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"syscall"
	"time"

	"github.com/cardfs/cardfs/drivers/bus/chardev"
	"github.com/cardfs/cardfs/reader"
)

// Device is an emulated device: what its driver in the kernel does in the calls on its
// file. A call that has to wait does so until ctx ends, which is also when the device is
// unplugged. An error is that of the system, such as syscall.EIO; ENODEV says that the device
// has left. It outlives being unplugged, of which it learns by a method Unplugged if it has one.
type Device interface {
	Read(ctx context.Context, p []byte) (int, error)
	Write(ctx context.Context, p []byte) (int, error)
	Ioctl(ctx context.Context, request uint, data []byte) error
	// Opened and Closed are the open and the close of the file. One program has it open
	// at a time.
	Opened()
	Closed()
}

// Poller is a Device whose driver has a poll: cm4040_cs, and not cm4000_cs. Poll reports whether
// a read would not wait, and has change, if not nil, called when that may be so.
type Poller interface {
	Poll(change func()) (readable bool)
}

// Plugged is a device that is plugged in: a chardev.Opener for its driver. Another Plug
// makes another.
type Plugged struct {
	device Device
	ctx    context.Context
	leave  context.CancelFunc

	mu   sync.Mutex
	open bool
}

var _ chardev.Opener = (*Plugged)(nil)

// Plug plugs a device in.
func Plug(d Device) *Plugged {
	p := &Plugged{device: d}
	p.ctx, p.leave = context.WithCancel(context.Background())
	return p
}

// Unplug unplugs the device.
func (p *Plugged) Unplug() {
	p.leave()
	if d, ok := p.device.(interface{ Unplugged() }); ok {
		d.Unplugged()
	}
}

// Gone is closed when the device is unplugged.
func (p *Plugged) Gone() <-chan struct{} { return p.ctx.Done() }

// OpenNode is chardev.Opener.
func (p *Plugged) OpenNode(ctx context.Context) (chardev.Node, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case p.ctx.Err() != nil:
		return nil, fail("open", reader.ErrGone)
	case p.open:
		return nil, fail("open", reader.ErrClaimed)
	}
	p.open = true
	p.device.Opened()
	n := &node{p: p}
	n.ctx, n.leave = context.WithCancel(p.ctx)
	return n, nil
}

func fail(what string, err error) error { return fmt.Errorf("device: %s: %w", what, err) }

// node is one opening.
type node struct {
	p     *Plugged
	ctx   context.Context
	leave context.CancelFunc
	once  sync.Once
}

// do runs a call of the device's.
func (n *node) do(ctx context.Context, what string, wait time.Duration, call func(ctx context.Context) (int, error)) (int, error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	if n.ctx.Err() != nil {
		return 0, fail(what, reader.ErrGone)
	}
	inner, cancel := context.WithCancel(n.ctx)
	if wait > 0 {
		inner, cancel = context.WithTimeout(n.ctx, wait)
	}
	defer cancel()
	defer context.AfterFunc(ctx, cancel)()
	got, err := call(inner)
	switch {
	case err == nil:
		return got, nil
	case errors.Is(err, syscall.ENODEV): // it left by itself
		n.p.Unplug()
		err = reader.ErrGone
	case n.ctx.Err() != nil:
		err = reader.ErrGone
	case ctx.Err() != nil:
		return 0, ctx.Err()
	case inner.Err() != nil:
		err = reader.ErrTimeout
	}
	return got, fail(what, err)
}

// Read is chardev.Node.
func (n *node) Read(ctx context.Context, p []byte, wait time.Duration) (int, error) {
	return n.do(ctx, "read", wait, func(ctx context.Context) (int, error) { return n.p.device.Read(ctx, p) })
}

// Write is chardev.Node.
func (n *node) Write(ctx context.Context, p []byte, wait time.Duration) (int, error) {
	return n.do(ctx, "write", wait, func(ctx context.Context) (int, error) { return n.p.device.Write(ctx, p) })
}

// Ioctl is chardev.Node.
func (n *node) Ioctl(ctx context.Context, request uint, data []byte, wait time.Duration) error {
	_, err := n.do(ctx, fmt.Sprintf("ioctl %08X", request), wait, func(ctx context.Context) (int, error) {
		return 0, n.p.device.Ioctl(ctx, request, data)
	})
	return err
}

// Gone is chardev.Node.
func (n *node) Gone() <-chan struct{} { return n.ctx.Done() }

// Close is chardev.Node.
func (n *node) Close() error {
	n.once.Do(func() {
		n.leave()
		n.p.mu.Lock()
		defer n.p.mu.Unlock()
		n.p.open = false
		n.p.device.Closed()
	})
	return nil
}
