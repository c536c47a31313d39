package emu

import (
	"context"
	"encoding/binary"
	"errors"
	"sync"
	"syscall"
	"time"

	"github.com/cardfs/cardfs/drivers/bus/usb"
	"github.com/cardfs/cardfs/drivers/bus/usb/usbtest"
	"github.com/cardfs/cardfs/reader"
)

// Node is a PC card behind its module in Linux, cm4040_cs or scr24x_cs: the emulated Reader
// with another front, which does what the calls on the module's file do. It was written from
// what is read in the modules' sources (Linux 6.1). What the readers themselves do is not
// known.
type Node struct {
	*Reader
	// NoAbort: the reader waits for the control request beside an Abort, which there is not.
	// Whether real ones do is not known.
	NoAbort bool
	scr     bool // scr24x_cs

	mu   sync.Mutex
	port *usbtest.Port
	conn usb.Conn
	wait time.Duration // for an answer, by the last command

	// What cm4040_cs's poll knows.
	ticks    *time.Timer // nil: nobody has polled yet
	readable bool        // at the last tick, and not asked for since
	change   func()      // of who polls; nil: nobody
}

const (
	kernelBuffer  = 512 // cm4040_cs
	scrBuffer     = 271
	scrPatience   = 2 * time.Second
	shortPatience = 3 * time.Second
)

// NewCM4040 is a CardMan 4040 behind cm4040_cs.
func NewCM4040() *Node { return &Node{Reader: New(pcCard()), wait: shortPatience} }

// NewSCR243 is an SCR243 behind scr24x_cs.
func NewSCR243() *Node { return &Node{Reader: New(pcCard()), wait: scrPatience, scr: true} }

func pcCard() Config {
	return Config{Level: reader.TPDU, Features: AutoClock | AutoBaud, Clock: 4000, DataRate: 10752, MaxRate: 10752, Voltages: 1, NoInterrupt: true}
}

// Opened is chardevtest.Device. The modules tell the reader nothing: what was not read by the
// user before is read by the next.
func (n *Node) Opened() {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.port == nil {
		n.port = n.Plug()
		n.conn, _ = n.port.OpenUSB(context.Background(), 0) // it is alone
	}
}

// Closed is chardevtest.Device.
func (n *Node) Closed() {}

// tick is how often cm4040_cs looks whether there is an answer.
const tick = 10 * time.Millisecond

// Poll is chardevtest.Poller, for cm4040_cs. That looks every 10 ms, and forgets what it saw
// when it is asked. So it may say that there is an answer when that was read just before.
// scr24x_cs has no poll: it can always be read.
func (n *Node) Poll(change func()) bool {
	if n.scr {
		return true
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.ticks == nil {
		n.ticks = time.AfterFunc(tick, n.look)
	}
	was := n.readable
	n.readable = false
	if !was {
		n.change = change
	}
	return was
}

// look is a tick.
func (n *Node) look() {
	n.mu.Lock()
	if n.conn == nil {
		n.ticks = nil
	} else {
		n.ticks.Reset(tick)
	}
	n.readable = n.conn == nil || n.Queued(bulkIn)
	var change func()
	if n.readable {
		change, n.change = n.change, nil
	}
	n.mu.Unlock()
	if change != nil {
		change()
	}
}

// Unplugged is that the PC card was taken out: it has no power any more.
func (n *Node) Unplugged() {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.port != nil {
		n.conn.Close()
		n.Unplug()
		n.port, n.conn = nil, nil
	}
}

// reader is the reader, and how long the module waits for it; nil without one.
func (n *Node) reader() (usb.Conn, time.Duration) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.conn, n.wait
}

// failed is what the kernel says when the reader did not do its part.
func failed(ctx context.Context, err error) error {
	switch {
	case errors.Is(err, reader.ErrGone):
		return syscall.ENODEV
	case ctx.Err() != nil:
		return syscall.EINTR
	}
	return syscall.EIO
}

func pause(ctx context.Context, d time.Duration) { _ = new(reader.Pauser).Pause(ctx, nil, d) }

// Write is chardevtest.Device: a message for the reader.
func (n *Node) Write(ctx context.Context, p []byte) (int, error) {
	switch {
	case n.scr && len(p) > scrBuffer:
		return 0, syscall.EINVAL
	case n.scr:
	case len(p) == 0:
		return 0, nil
	case len(p) < 5 || len(p) > kernelBuffer:
		return 0, syscall.EIO
	}
	conn, _ := n.reader()
	if conn == nil {
		return 0, syscall.ENODEV
	}
	wait := scrPatience
	if !n.scr {
		switch p[0] {
		case 0x6F, 0x69, 0x74, 0x89:
			wait = 150 * time.Second
		case 0x62:
			wait = 35 * time.Second
		default:
			wait = shortPatience
		}
		n.mu.Lock()
		n.wait = wait
		n.mu.Unlock()
	}
	if len(p) >= 10 && p[0] == 0x72 && !n.NoAbort {
		_, _ = conn.Control(ctx, usb.Setup{RequestType: 0x21, Request: 1, Value: uint16(p[6])<<8 | uint16(p[5])}, nil, wait)
	}
	_, err := conn.Out(ctx, bulkOut, p, false, wait)
	if errors.Is(err, usb.ErrStall) { // it takes nothing, for a time
		_ = conn.ClearHalt(ctx, bulkOut)
		pause(ctx, wait)
	}
	if err != nil {
		return 0, failed(ctx, err)
	}
	return len(p), nil
}

// Read is chardevtest.Device: a message of the reader, as long as its header says.
func (n *Node) Read(ctx context.Context, p []byte) (int, error) {
	switch {
	case n.scr && len(p) < 10:
		return 0, syscall.EINVAL
	case len(p) == 0:
		return 0, nil
	case len(p) < 10:
		return 0, syscall.EFAULT
	}
	conn, wait := n.reader()
	if conn == nil {
		return 0, syscall.ENODEV
	}
	until := time.Now().Add(wait)
	for {
		left := time.Until(until)
		if left <= 0 {
			return 0, syscall.EIO
		}
		var buf [1 << 16]byte
		got, err := conn.In(ctx, bulkIn, buf[:], left)
		switch {
		case errors.Is(err, usb.ErrStall): // not known here: the answer is lost
			_ = conn.ClearHalt(ctx, bulkIn)
			continue
		case err == nil && got == 0:
			continue
		case errors.Is(err, usb.ErrOverflow) && !n.scr: // as much as fits
			got, err = kernelBuffer, nil
			binary.LittleEndian.PutUint32(buf[1:], kernelBuffer)
		case err != nil:
			return 0, failed(ctx, err)
		}
		all := 10 + uint64(binary.LittleEndian.Uint32(buf[1:]))
		switch {
		case got >= 10 && n.scr && all > scrBuffer:
			return 0, syscall.EIO
		case !n.scr:
			all = min(all, kernelBuffer, uint64(len(p)))
		}
		if uint64(got) < all { // the rest is waited for
			pause(ctx, time.Until(until))
			return 0, failed(ctx, nil)
		}
		return copy(p, buf[:all]), nil
	}
}

// Ioctl is chardevtest.Device. There are none.
func (n *Node) Ioctl(context.Context, uint, []byte) error { return syscall.ENOTTY }
