// Package usbip plugs emulated USB devices into the running Linux kernel. It speaks the
// USB/IP protocol (Linux Documentation/usb/usbip_protocol.rst) to the kernel's virtual
// host controller, vhci_hcd. So usbfs, libusb and every program that uses them see a
// device like any other:
//
//	port, err := usbip.Plug(emulator, usbip.Full)
//	defer port.Unplug()
//
// Lock order: server.mu and server.wmu are leaves. attach is held during Plug only.
package usbip

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"syscall"
	"time"

	"github.com/cardfs/cardfs/drivers/bus/usb"
	"github.com/cardfs/cardfs/reader"
)

// Device is an emulated device as the bus sees it: the transfers of usb.Conn. Standard
// requests are control transfers like any other; package usbtest answers them.
type Device interface {
	Control(ctx context.Context, s usb.Setup, data []byte, timeout time.Duration) (int, error)
	Out(ctx context.Context, ep uint8, p []byte, zlp bool, timeout time.Duration) (int, error)
	// In must lose no data when ctx ends: it returns whatever it has taken from the
	// device's queue.
	In(ctx context.Context, ep uint8, p []byte, timeout time.Duration) (int, error)
	// Gone, when closed, unplugs the device.
	Gone() <-chan struct{}
}

// Resetter is a Device that is to know when its port is reset.
type Resetter interface{ Reset() }

// Commands, and the sizes of the protocol's parts.
const (
	cmdSubmit = 1
	cmdUnlink = 2
	retSubmit = 3
	retUnlink = 4

	headerLen = 48
	maxBuffer = 16 << 20 // usbfs allows no more
)

// Transfer flags of a submission (include/linux/usb.h).
const flagZeroPacket = 0x0040

// urb is one transfer that the kernel submitted.
type urb struct {
	seq    uint32
	in     bool
	ep     uint8 // number, without direction
	flags  uint32
	setup  [8]byte
	buf    []byte
	ctx    context.Context
	cancel context.CancelFunc

	// Under server.mu.
	started, dropped, unlinked bool
	unlink                     uint32 // sequence number of the unlink
}

// server is the device's side of one connection.
type server struct {
	dev  Device
	conn io.ReadWriteCloser

	wmu sync.Mutex // serialises answers

	configured bool // since the last reset; of the worker of endpoint 0

	mu     sync.Mutex
	queues map[uint8]chan *urb // by endpoint address
	urbs   map[uint32]*urb     // not answered yet
}

// queueLen bounds the transfers waiting on one endpoint. It is more than the kernel keeps
// in flight for any driver.
const queueLen = 256

// Serve answers the kernel on conn until ctx or conn ends or the device is gone. It then
// closes conn, which unplugs the device. Transfers on one endpoint are done one at a time,
// in order; endpoints do not wait for each other.
func Serve(ctx context.Context, conn io.ReadWriteCloser, dev Device) error {
	ctx, cancel := context.WithCancel(ctx)
	s := &server{
		dev: dev, conn: conn,
		queues: map[uint8]chan *urb{},
		urbs:   map[uint32]*urb{},
	}
	var workers sync.WaitGroup
	workers.Go(func() {
		select {
		case <-ctx.Done():
		case <-dev.Gone():
		}
		conn.Close()
	})
	err := s.read(ctx, &workers)
	cancel()
	workers.Wait()
	if errors.Is(err, io.EOF) || errors.Is(err, net.ErrClosed) || errors.Is(err, io.ErrClosedPipe) {
		return nil
	}
	return err
}

func (s *server) read(ctx context.Context, workers *sync.WaitGroup) error {
	var h [headerLen]byte
	be := binary.BigEndian
	for {
		if _, err := io.ReadFull(s.conn, h[:]); err != nil {
			return err
		}
		seq := be.Uint32(h[4:])
		switch cmd := be.Uint32(h[0:]); cmd {
		case cmdSubmit:
			u := &urb{seq: seq, in: be.Uint32(h[12:]) == 1, ep: uint8(be.Uint32(h[16:]) & 15), flags: be.Uint32(h[20:])}
			n := be.Uint32(h[24:])
			if n > maxBuffer {
				return fmt.Errorf("usbip: transfer of %d bytes, at most %d are allowed", n, maxBuffer)
			}
			if packets := int32(be.Uint32(h[32:])); packets > 0 {
				return errors.New("usbip: isochronous transfers are not supported")
			}
			copy(u.setup[:], h[40:48])
			u.buf = make([]byte, n)
			if !u.in {
				if _, err := io.ReadFull(s.conn, u.buf); err != nil {
					return err
				}
			}
			u.ctx, u.cancel = context.WithCancel(ctx)
			if err := s.enqueue(ctx, u, workers); err != nil {
				return err
			}
		case cmdUnlink:
			if err := s.unlink(seq, be.Uint32(h[20:])); err != nil {
				return err
			}
		default:
			return fmt.Errorf("usbip: unknown command %d", cmd)
		}
	}
}

func (s *server) enqueue(ctx context.Context, u *urb, workers *sync.WaitGroup) error {
	addr := u.ep
	if u.in && u.ep != 0 {
		addr |= 0x80
	}
	s.mu.Lock()
	s.urbs[u.seq] = u
	q := s.queues[addr]
	if q == nil {
		q = make(chan *urb, queueLen)
		s.queues[addr] = q
		workers.Go(func() { s.work(ctx, addr, q) })
	}
	s.mu.Unlock()
	select {
	case q <- u:
		return nil
	default:
		return fmt.Errorf("usbip: more than %d transfers wait on endpoint %02X", queueLen, addr)
	}
}

// unlink cancels a transfer that the kernel gave up. The status is ECONNRESET if the
// transfer gets no answer of its own, and 0 if it was answered.
func (s *server) unlink(seq, victim uint32) error {
	s.mu.Lock()
	u := s.urbs[victim]
	switch {
	case u == nil:
		s.mu.Unlock()
		return s.reply(retUnlink, seq, 0, 0, nil)
	case !u.started:
		u.dropped = true
		delete(s.urbs, victim)
		s.mu.Unlock()
		u.cancel()
		return s.reply(retUnlink, seq, -int32(syscall.ECONNRESET), 0, nil)
	}
	// The device may have moved data already: work answers when the transfer has ended.
	u.unlink, u.unlinked = seq, true
	s.mu.Unlock()
	u.cancel()
	return nil
}

// work does the transfers of one endpoint.
func (s *server) work(ctx context.Context, addr uint8, q <-chan *urb) {
	for {
		select {
		case <-ctx.Done():
			return
		case u := <-q:
			s.mu.Lock()
			u.started = true
			dropped := u.dropped
			s.mu.Unlock()
			if dropped {
				continue
			}
			n, err := s.transfer(u, addr)
			u.cancel()
			if ctx.Err() != nil || s.answer(u, n, err) != nil {
				return // read ends too, as conn fails
			}
		}
	}
}

// answer reports to the kernel how a transfer ended.
func (s *server) answer(u *urb, n int, err error) error {
	s.mu.Lock()
	delete(s.urbs, u.seq)
	unlinked, by := u.unlinked, u.unlink
	s.mu.Unlock()
	if unlinked && err != nil && n == 0 {
		return s.reply(retUnlink, by, -int32(syscall.ECONNRESET), 0, nil)
	}
	if unlinked && n > 0 {
		err = nil // moved before it was given up
	}
	data := u.buf[:n]
	if !u.in {
		data = nil
	}
	if err := s.reply(retSubmit, u.seq, status(err), n, data); err != nil || !unlinked {
		return err
	}
	return s.reply(retUnlink, by, 0, 0, nil)
}

func (s *server) reply(cmd, seq uint32, status int32, n int, data []byte) error {
	m := make([]byte, headerLen, headerLen+len(data))
	be := binary.BigEndian
	be.PutUint32(m[0:], cmd)
	be.PutUint32(m[4:], seq)
	be.PutUint32(m[20:], uint32(status))
	if cmd == retSubmit {
		be.PutUint32(m[24:], uint32(n))
	}
	s.wmu.Lock()
	defer s.wmu.Unlock()
	_, err := s.conn.Write(append(m, data...))
	return err
}

// transfer does one transfer, without a time-out: the kernel unlinks it when it gives up.
func (s *server) transfer(u *urb, addr uint8) (int, error) {
	switch {
	case addr == 0:
		setup := usb.Setup{
			RequestType: u.setup[0], Request: u.setup[1],
			Value: binary.LittleEndian.Uint16(u.setup[2:]), Index: binary.LittleEndian.Uint16(u.setup[4:]),
		}
		s.noticeReset(setup, u.buf)
		n, err := s.dev.Control(u.ctx, setup, u.buf, 0)
		if err == nil && setup.RequestType == 0x00 && setup.Request == setConfiguration {
			s.configured = setup.Value > 0
		}
		return n, err
	case u.in:
		return s.dev.In(u.ctx, addr, u.buf, 0)
	default:
		return s.dev.Out(u.ctx, addr, u.buf, u.flags&flagZeroPacket != 0, 0)
	}
}

// Requests of USB 2.0 table 9-4, and a descriptor type of table 9-5.
const (
	getDescriptor    = 6
	setConfiguration = 9
	deviceDescriptor = 1
)

// noticeReset resets the device when the kernel has reset its port. The protocol has no
// message for it, and vhci_hcd keeps SET_ADDRESS to itself. But the kernel then reads the
// device descriptor, of which it does not know the length of the first packet, as it does
// for a new device (hub_port_init in drivers/usb/core/hub.c: GET_DESCRIPTOR_BUFSIZE is 64).
// It asks for 18 bytes at all other times.
func (s *server) noticeReset(setup usb.Setup, data []byte) {
	first := usb.Setup{RequestType: 0x80, Request: getDescriptor, Value: deviceDescriptor << 8}
	if r, ok := s.dev.(Resetter); ok && s.configured && setup == first && len(data) == 64 {
		s.configured = false
		r.Reset()
	}
}

var _ Device = usb.Conn(nil)

var errnos = []struct {
	err   error
	errno syscall.Errno
}{
	{usb.ErrStall, syscall.EPIPE},
	{usb.ErrOverflow, syscall.EOVERFLOW},
	{reader.ErrGone, syscall.ESHUTDOWN},
}

func status(err error) int32 {
	if err == nil {
		return 0
	}
	for _, e := range errnos {
		if errors.Is(err, e.err) {
			return -int32(e.errno)
		}
	}
	return -int32(syscall.EPROTO)
}
