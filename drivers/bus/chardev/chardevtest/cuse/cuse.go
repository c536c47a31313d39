//go:build linux

// Package cuse gives an emulated device a file in /dev, by CUSE: the kernel's module for
// character devices in user space. It is for tests, which have the kernel between a driver and
// the device.
//
// The messages are those of linux/fuse.h, protocol 7.
package cuse

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/cardfs/cardfs/drivers/bus/chardev/chardevtest"
)

// Numbers of messages.
const (
	opOpen      = 14
	opRead      = 15
	opWrite     = 16
	opRelease   = 18
	opInterrupt = 36
	opIoctl     = 39
	opPoll      = 40
	opInit      = 4096

	headSize     = 40 // struct fuse_in_header
	unrestricted = 1  // CUSE_UNRESTRICTED_IOCTL
	retry        = 4  // FUSE_IOCTL_RETRY
	mostData     = 4096
	notify       = 1 // FUSE_POLL_SCHEDULE_NOTIFY, and FUSE_NOTIFY_POLL
)

// Copies is how much an ioctl copies to the program. The number of an ioctl says that too, but
// not every driver has it right.
type Copies func(request uint) int

// File is a device file.
type File struct {
	device chardevtest.Device
	copies Copies
	conn   *os.File
	ready  chan struct{} // closed when the file is there
	done   chan struct{}

	ctx   context.Context
	leave context.CancelFunc
	calls sync.WaitGroup

	mu    sync.Mutex // of the following
	open  bool
	ended map[uint64]context.CancelFunc // calls under way, by number
}

// Serve makes /dev/NAME. It returns when the file is announced.
func Serve(name string, d chardevtest.Device, copies Copies) (*File, error) {
	fd, err := unix.Open("/dev/cuse", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0) // so that Close ends a read
	if err != nil {
		return nil, fmt.Errorf("/dev/cuse: %w", err)
	}
	f := &File{
		device: d, copies: copies, conn: os.NewFile(uintptr(fd), "/dev/cuse"),
		ready: make(chan struct{}), done: make(chan struct{}), ended: map[uint64]context.CancelFunc{},
	}
	f.ctx, f.leave = context.WithCancel(context.Background())
	go f.serve(name)
	select {
	case <-f.ready:
		return f, nil
	case <-f.done:
		return nil, errors.New("cuse: the kernel takes no such device")
	}
}

// Close removes the file, as if the device had left.
func (f *File) Close() {
	f.mu.Lock() // no call begins any more
	f.leave()
	f.mu.Unlock()
	if d, ok := f.device.(interface{ Unplugged() }); ok {
		d.Unplugged()
	}
	f.calls.Wait()
	f.conn.Close()
	<-f.done
}

// serve reads messages until the file is closed.
func (f *File) serve(name string) {
	defer close(f.done)
	buf := make([]byte, 1<<17)
	for {
		n, err := f.conn.Read(buf)
		switch {
		case errors.Is(err, syscall.EINTR):
			continue
		case err != nil || n < headSize:
			return
		}
		m := message{file: f, op: binary.NativeEndian.Uint32(buf[4:]), unique: binary.NativeEndian.Uint64(buf[8:]), body: bytes.Clone(buf[headSize:n])}
		switch m.op {
		case opInit:
			m.init(name)
			close(f.ready)
		case opInterrupt:
			f.mu.Lock()
			if end := f.ended[binary.NativeEndian.Uint64(m.body)]; end != nil {
				end()
			}
			f.mu.Unlock()
		default:
			ctx, cancel := context.WithCancel(f.ctx)
			f.mu.Lock()
			left := f.ctx.Err() != nil
			if !left {
				f.ended[m.unique] = cancel
				f.calls.Add(1)
			}
			f.mu.Unlock()
			if left { // the kernel ends it when the file is closed
				cancel()
				continue
			}
			go func() {
				defer f.calls.Done()
				m.serve(ctx)
				f.mu.Lock()
				delete(f.ended, m.unique)
				f.mu.Unlock()
				cancel()
			}()
		}
	}
}

// message is a request of the kernel.
type message struct {
	file   *File
	op     uint32
	unique uint64
	body   []byte
}

// answer sends the answer: an error, or words and data.
func (m *message) answer(err error, parts ...any) {
	var b bytes.Buffer
	for _, p := range parts {
		_ = binary.Write(&b, binary.NativeEndian, p) // numbers and bytes alone
	}
	code := int32(0)
	if err != nil {
		errno := syscall.EIO
		errors.As(err, &errno)
		code = -int32(errno)
		b.Reset()
	}
	var head bytes.Buffer
	_ = binary.Write(&head, binary.NativeEndian, struct {
		Len    uint32
		Error  int32
		Unique uint64
	}{uint32(16 + b.Len()), code, m.unique})
	// An error is that the caller has gone.
	_, _ = m.file.conn.Write(append(head.Bytes(), b.Bytes()...))
}

func (m *message) init(name string) {
	// Behind the words there are ten spare ones.
	m.answer(nil, []uint32{7, 38, 0, unrestricted, mostData, mostData, 0, 0}, make([]byte, 40), []byte("DEVNAME="+name+"\x00"))
}

func (m *message) word(at int) uint32 { return binary.NativeEndian.Uint32(m.body[at:]) }

func (m *message) serve(ctx context.Context) {
	d := m.file.device
	switch m.op {
	case opOpen:
		// As drivers do whose device has one user, and whose open may wait.
		switch {
		case m.word(0)&unix.O_NONBLOCK != 0:
			m.answer(syscall.EAGAIN)
		case m.file.occupy(true):
			d.Opened()
			m.answer(nil, uint64(1), uint32(0), uint32(0))
		default:
			m.answer(syscall.EBUSY)
		}
	case opRelease:
		m.file.occupy(false)
		d.Closed()
		m.answer(nil)
	case opRead:
		p := make([]byte, min(m.word(16), mostData))
		n, err := d.Read(ctx, p)
		m.answer(m.file.gone(err), p[:n])
	case opWrite:
		n, err := d.Write(ctx, m.body[40:][:m.word(16)])
		m.answer(m.file.gone(err), uint32(n), uint32(0))
	case opIoctl:
		m.ioctl(ctx)
	case opPoll:
		m.poll()
	default:
		m.answer(syscall.ENOSYS)
	}
}

// ioctl does an ioctl: what it copies is asked for by a first answer.
func (m *message) ioctl(ctx context.Context) {
	request, arg, out := uint(m.word(12)), binary.NativeEndian.Uint64(m.body[16:]), m.word(28)
	n := m.file.copies(request)
	if n > int(out) && arg != 0 {
		m.answer(nil, int32(0), uint32(retry), uint32(0), uint32(1), arg, uint64(n))
		return
	}
	data := make([]byte, n)
	err := m.file.device.Ioctl(ctx, request, data)
	m.answer(m.file.gone(err), int32(0), uint32(0), uint32(0), uint32(0), data)
}

// poll says whether a read would not wait. A write never does. A device without a poll can
// always be read, as the kernel has it.
func (m *message) poll() {
	d, ok := m.file.device.(chardevtest.Poller)
	if !ok {
		m.answer(syscall.ENOSYS)
		return
	}
	var change func()
	if m.word(16)&notify != 0 {
		handle := binary.NativeEndian.Uint64(m.body[8:])
		change = func() { m.file.changed(handle) }
	}
	events := uint32(unix.POLLOUT)
	if d.Poll(change) || m.file.ctx.Err() != nil {
		events |= unix.POLLIN
	}
	m.answer(nil, events, uint32(0))
}

// changed has the kernel poll again.
func (f *File) changed(handle uint64) {
	var b bytes.Buffer
	_ = binary.Write(&b, binary.NativeEndian, struct {
		Len            uint32
		Code           int32
		Unique, Handle uint64
	}{24, notify, 0, handle})
	_, _ = f.conn.Write(b.Bytes()) // an error is that nobody polls any more
}

// occupy opens or closes the file. It is false if it was open.
func (f *File) occupy(open bool) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	was := f.open
	f.open = open
	return !open || !was
}

// gone is err, or ENODEV of a device that has left.
func (f *File) gone(err error) error {
	if f.ctx.Err() != nil {
		return syscall.ENODEV
	}
	return err
}
