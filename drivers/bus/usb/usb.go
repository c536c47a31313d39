// Package usb is what drivers of USB devices stand on: a small interface, the
// transports that implement it on real devices, and a parser for descriptors.
//
// # What a USB device is
//
// A device describes itself by descriptors: one of the device, and one for each of its
// configurations, of which one is in force. A configuration has interfaces, and a driver
// serves an interface: a keyboard with a reader has two. An interface has endpoints. Each
// moves data one way, named by its address, whose bit 7 says in. Endpoint 0 belongs to no
// interface and takes control transfers: a request of 8 bytes, with data in or out.
// Readers talk over bulk endpoints, which move data soon and surely, and report a card
// over an interrupt endpoint, which the host asks at intervals.
//
// A transfer is cut into packets. It ends when all was moved, or with a packet that is
// not full; one that fills its last packet may be followed by an empty one (zlp). Each
// packet has a data toggle, 0 or 1 in turn, by which a packet that comes again is known.
// An endpoint that cannot go on stalls, and stays halted until the host clears that,
// which sets the toggle on both sides to 0.
//
// # Who has a device
//
// The system lets one program, or one driver of the kernel, claim an interface. A
// Transport opens a device at a Place and claims one interface: Usbfs on the kernel's own
// interface, package gousb on libusb. Package hotplug finds the devices, and says where
// they are. What a driver gets is a Conn, and an emulated device is one too.
//
// # Lock order
//
// StringTable.mu, held while a descriptor is read, then conn.mu, with which nothing is
// called but the kernel.
package usb

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/cardfs/cardfs/reader"
)

// Setup is the fixed part of a control transfer (USB 2.0 §9.3). Bit 7 of
// RequestType gives the direction of the data stage.
type Setup struct {
	RequestType uint8
	Request     uint8
	Value       uint16
	Index       uint16
}

// In tells whether the data stage goes from device to host.
func (s Setup) In() bool { return s.RequestType&0x80 != 0 }

// String names the transfer, for errors: its direction, bmRequestType and bRequest. wValue
// and wIndex are left out, as they may be bytes of a command.
func (s Setup) String() string {
	dir := "OUT"
	if s.In() {
		dir = "IN"
	}
	return fmt.Sprintf("%s %02X %02X", dir, s.RequestType, s.Request)
}

// Conn is one opened device with one claimed interface. Transfers on different
// endpoints may run at once; a Conn is safe for that. Each transfer ends with
// ctx (ctx.Err()), after timeout (ErrTimeout; 0 means none), or when the
// device leaves (reader.ErrGone).
type Conn interface {
	// Control does one control transfer; data is read into or written from,
	// by direction. It returns the bytes moved in the data stage.
	Control(ctx context.Context, s Setup, data []byte, timeout time.Duration) (int, error)
	// Out writes p to a bulk or interrupt OUT endpoint as one transfer. A
	// transfer that fills its last packet is followed by a zero-length packet
	// only if zlp is set.
	Out(ctx context.Context, ep uint8, p []byte, zlp bool, timeout time.Duration) (int, error)
	// In reads one transfer from a bulk or interrupt IN endpoint (bit 7 set);
	// it ends at len(p) bytes or with a short packet.
	In(ctx context.Context, ep uint8, p []byte, timeout time.Duration) (int, error)
	// ClearHalt ends an endpoint's stall.
	ClearHalt(ctx context.Context, ep uint8) error
	// Reset resets the device's port; the claim survives or ErrGone is returned.
	Reset(ctx context.Context) error
	// Descriptors are the device descriptor followed by the active
	// configuration descriptor, as the device sent them.
	Descriptors() []byte
	// String reads string descriptor i; "" where there is none.
	String(i uint8) string
	// Gone is closed when the device leaves.
	Gone() <-chan struct{}
	Close() error
}

// Poster is a Conn that can begin to read an answer before its command is written whole.
// The host controller then asks for the answer within the frame that carried the command,
// not one frame (1 ms at full speed) later.
type Poster interface {
	Conn
	// OutPost writes p to endpoint out as Conn.Out does, without a zero-length packet
	// behind it, and begins to read up to n bytes from endpoint in, behind the write. After
	// an error, or if it could not begin to read, there is no Posted; what came until then
	// is lost. So the device may owe nothing but the answer to p.
	OutPost(ctx context.Context, out uint8, p []byte, in uint8, n int, timeout time.Duration) (int, Posted, error)
}

// Posted is a read under way. It must be ended.
type Posted interface {
	// Wait ends the read as Conn.In does, and copies what came to p.
	Wait(ctx context.Context, p []byte, timeout time.Duration) (int, error)
	// Cancel ends the read. What came until then is lost.
	Cancel()
}

var (
	// ErrStall: the endpoint stalled (USB 2.0 §8.4.5).
	ErrStall = fmt.Errorf("usb: endpoint stalled: %w", reader.ErrProtocol)
	// ErrTimeout: the transfer did not end in its time.
	ErrTimeout = fmt.Errorf("usb: transfer timed out: %w", reader.ErrTimeout)
	// ErrOverflow: the device sent more than was asked for (babble).
	ErrOverflow = fmt.Errorf("usb: device sent more than asked for: %w", reader.ErrProtocol)
	// ErrReset: the device was reset under the transfer, by Reset, by someone else
	// or by the system's sleep. It is still there, in its initial state.
	ErrReset = errors.New("usb: the device was reset")
	// ErrNoEndpoint: the kernel knows no such interface or endpoint, though the
	// descriptors have it; an address that is there twice, for instance. The device
	// is still there, and trying again is in vain.
	ErrNoEndpoint = errors.New("usb: the kernel knows no such endpoint")
	// ErrBus: the device is there but did not answer on the bus, or only noise came.
	ErrBus = errors.New("usb: no answer on the bus")
)

// Opener opens a device and claims one interface of it. It is what
// reader.Device.Link holds for USB devices.
type Opener interface {
	reader.Link
	// Descriptors are the device's, as Conn's, without opening it; nil where they are
	// not known before.
	Descriptors() []byte
	OpenUSB(ctx context.Context, iface uint8) (Conn, error)
}

// Open claims interface iface of dev.
func Open(ctx context.Context, dev reader.Device, iface uint8) (Conn, error) {
	o, ok := dev.Link.(Opener)
	if !ok {
		return nil, fmt.Errorf("%s %s: not a USB device: %w", dev.Driver, dev.Address, reader.ErrInvalid)
	}
	return o.OpenUSB(ctx, iface)
}
