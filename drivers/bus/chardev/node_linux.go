package chardev

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/cardfs/cardfs/drivers/bus/internal/byname"
	"github.com/cardfs/cardfs/drivers/bus/internal/devfile"
	"github.com/cardfs/cardfs/drivers/bus/internal/holders"
	"github.com/cardfs/cardfs/reader"
)

// node is a Node of the kernel.
type node struct {
	name  string
	file  *devfile.File
	watch *byname.Watch // of the file's name
}

// OpenFile opens the device file with that name. log may be nil.
func OpenFile(ctx context.Context, name string, log *slog.Logger) (Node, error) {
	path, err := byname.Resolve(name)
	if err != nil {
		return nil, err
	}
	return openAt(ctx, name, path, log)
}

// openAt is OpenFile for a name that leads to path.
func openAt(ctx context.Context, name, path string, log *slog.Logger) (Node, error) {
	type outcome struct {
		n   *node
		err error
	}
	opened := make(chan outcome)
	left := make(chan struct{})
	defer close(left)
	go func() { // the kernel may block open(2)
		n, err := open(name, path, log)
		select {
		case opened <- outcome{n, err}:
		case <-left:
			if err == nil {
				n.Close()
			}
		}
	}()
	select {
	case o := <-opened:
		if o.err != nil {
			return nil, o.err
		}
		return o.n, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func open(name, path string, log *slog.Logger) (*node, error) {
	file, err := devfile.Open(path)
	if err != nil {
		return nil, refused(name, path, err)
	}
	n := &node{name: name, file: file}
	// A device that leaves takes its file away; the file itself does not tell.
	if n.watch, err = byname.WatchRemoval(path, file.Leave); err != nil && log != nil {
		log.Warn("it will not be noticed at once when the reader leaves", "reader", name, "error", err)
	}
	return n, nil
}

// refused wraps the error of a file that cannot be opened.
func refused(name, path string, err error) error {
	switch {
	case errors.Is(err, os.ErrPermission):
		err = reader.ErrNoPermission
	case errors.Is(err, unix.EBUSY):
		err = fmt.Errorf("%w: %s", reader.ErrClaimed, holders.Hint(path))
	case left(err):
		err = reader.ErrGone
	case errors.Is(err, unix.ENOTTY):
		err = fmt.Errorf("no character device: %w", reader.ErrUnsupported)
	}
	return fmt.Errorf("%s: open: %w", name, err)
}

// left reports whether err says that the device has left. A server of CUSE that ended says
// ENOTCONN and ECONNABORTED.
func left(err error) bool {
	return slices.ContainsFunc([]error{os.ErrNotExist, unix.ENODEV, unix.ENXIO, unix.ENOTCONN, unix.ECONNABORTED},
		func(e error) bool { return errors.Is(err, e) })
}

func (n *node) failed(ctx context.Context, what string, err error) error {
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return ctx.Err()
	case left(err):
		n.file.Leave()
		err = reader.ErrGone
	case errors.Is(err, reader.ErrTimeout), errors.Is(err, reader.ErrGone):
	case errors.Is(err, unix.ENOTTY):
		err = fmt.Errorf("the device does not know it: %w", reader.ErrUnsupported)
	}
	return fmt.Errorf("%s: %s: %w", n.name, what, err)
}

func until(wait time.Duration) (t time.Time) {
	if wait > 0 {
		t = time.Now().Add(wait)
	}
	return t
}

// Read is Node.
func (n *node) Read(ctx context.Context, p []byte, wait time.Duration) (int, error) {
	got, err := n.file.Read(ctx, p, until(wait))
	return got, n.failed(ctx, "read", err)
}

// Write is Node.
func (n *node) Write(ctx context.Context, p []byte, wait time.Duration) (int, error) {
	wrote, err := n.file.Write(ctx, p, until(wait))
	return wrote, n.failed(ctx, "write", err)
}

// Ioctl is Node.
func (n *node) Ioctl(ctx context.Context, request uint, data []byte, wait time.Duration) error {
	own := slices.Clone(data)
	err := n.file.Do(ctx, wait, func(fd int) error {
		var arg unsafe.Pointer
		if len(own) > 0 {
			arg = unsafe.Pointer(&own[0])
		}
		if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), uintptr(request), uintptr(arg)); errno != 0 {
			return errno
		}
		return nil
	})
	if err != nil {
		return n.failed(ctx, fmt.Sprintf("ioctl %08X", request), err)
	}
	copy(data, own)
	return nil
}

// Gone is Node.
func (n *node) Gone() <-chan struct{} { return n.file.Gone() }

// Close is Node.
func (n *node) Close() error {
	n.watch.Close()
	if err := n.file.Close(); err != nil {
		return fmt.Errorf("%s: close: %w", n.name, err)
	}
	return nil
}
