// Package chardev is the base of drivers for readers that have a driver of their own in the
// kernel, and with it a device file: /dev/cmm0 of a CardMan 4000, /dev/cmx0 of a CM4040.
//
// What a read, a write or an ioctl means is that driver's. Some files can be polled, and a
// read of them waits without a thread; others block the thread, and some cannot even be
// opened otherwise. Here all calls end with their context. One that the kernel blocks then
// goes on alone, and the next waits until it has ended. A read that was left takes nothing,
// if the file's driver can say by poll(2) that there is nothing yet.
package chardev

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/cardfs/cardfs/drivers/bus/internal/byname"
	"github.com/cardfs/cardfs/reader"
)

// Node is an open device file. Its methods are called one at a time, but Gone and Close.
// Each ends with ctx (ctx.Err()), after wait (reader.ErrTimeout; 0: none), and when the
// device leaves (reader.ErrGone). Other errors wrap the system's, such as syscall.EIO.
type Node interface {
	// Read is read(2): one call, which returns what the device has for it.
	Read(ctx context.Context, p []byte, wait time.Duration) (int, error)
	// Write is write(2): one call.
	Write(ctx context.Context, p []byte, wait time.Duration) (int, error)
	// Ioctl is ioctl(2). The argument is the address of data, or 0 if data is nil; data
	// has room for all that the request copies.
	Ioctl(ctx context.Context, request uint, data []byte, wait time.Duration) error
	// Gone is closed when the device has left, even while nothing is under way.
	Gone() <-chan struct{}
	Close() error
}

// Opener is the reader.Device.Link of a device with a file.
type Opener interface {
	reader.Link
	// OpenNode opens the file. It waits for one that is not there yet.
	OpenNode(ctx context.Context) (Node, error)
}

// Open opens the file of dev.
func Open(ctx context.Context, dev reader.Device) (Node, error) {
	o, ok := dev.Link.(Opener)
	if !ok {
		return nil, fmt.Errorf("%s %s: no device file: %w", dev.Driver, dev.Address, reader.ErrInvalid)
	}
	if l, ok := o.(link); ok {
		l.SetHost(dev.Host)
	}
	return o.OpenNode(ctx)
}

// Attach completes the announcement of a reader with a device file, for the
// reader.Attacher of a driver, as serial.Attach does: the file may come later than the
// reader, leave, and come back. log may be nil.
func Attach(dev reader.Device, log *slog.Logger) (reader.Device, error) {
	return byname.Attach(dev, "chardev", func(l *byname.Link) reader.Link { return link{l} }, log)
}

// link is the reader.Device.Link of an attached reader.
type link struct{ *byname.Link }

var _ Opener = link{}

// OpenNode waits for the file.
func (l link) OpenNode(ctx context.Context) (Node, error) {
	n, err := byname.Open(ctx, l.Link, func(ctx context.Context, name, path string) (Node, error) {
		return openAt(ctx, name, path, l.Log())
	})
	if err != nil {
		return nil, err
	}
	return attached{n, l.Use(n.Gone())}, nil
}

// attached is a node in use, of a link.
type attached struct {
	Node
	use *byname.Use
}

// Gone is Node.
func (n attached) Gone() <-chan struct{} { return n.use.Gone() }

// Close is Node.
func (n attached) Close() error { return n.use.Close(n.Node.Close) }
