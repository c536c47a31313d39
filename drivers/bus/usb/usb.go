// Package usb is the base of drivers for USB devices: a small interface, the transports
// that implement it on real devices, and a parser for descriptors.
//
// # USB devices
//
// A device describes itself by descriptors: one for the device, and one for each of its
// configurations, only one of which is active. A configuration has interfaces, and a
// driver serves one interface: a keyboard with a built-in reader has two. An interface has
// endpoints. An endpoint moves data in one direction; bit 7 of its address is set for
// device to host. Endpoint 0 belongs to no interface and serves control transfers: a
// request of 8 bytes, with data in or out. Readers exchange messages over bulk endpoints,
// which are fast and reliable. They report card changes over an interrupt endpoint, which
// the host polls at intervals.
//
// A transfer is divided into packets. It ends when all data was moved, or with a packet
// that is not full. A transfer that fills its last packet may be followed by an empty one
// (zlp). Packets carry alternately a data toggle of 0 and 1, by which the receiver
// recognises a repeated packet. An endpoint that cannot continue stalls. It stays halted
// until the host clears the halt, which sets the toggle to 0 on both sides.
//
// # Transports
//
// The system lets one program, or one driver of the kernel, claim an interface. A
// Transport opens a device at a Place and claims one interface: Usbfs by the kernel's own
// API, package gousb through libusb. Package hotplug finds the devices and their places. A
// driver works on a Conn, which may also be an emulated device.
//
// # Lock order
//
// StringTable.mu, then conn.mu. The former is held while a descriptor is read. Under the
// latter only the kernel is called.
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

// In reports whether the data stage goes from device to host.
func (s Setup) In() bool { return s.RequestType&0x80 != 0 }

// String names the transfer in errors: its direction, bmRequestType and bRequest. wValue
// and wIndex are left out: they may carry bytes of a command.
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
	// Control does one control transfer. data is the source or the destination of the
	// data stage, by its direction. Control returns the number of bytes moved.
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
	// Descriptors returns the device descriptor followed by the active configuration
	// descriptor, as the device sent them.
	Descriptors() []byte
	// String reads string descriptor i. It returns "" if there is none.
	String(i uint8) string
	// Gone is closed when the device leaves.
	Gone() <-chan struct{}
	Close() error
}

// Poster is a Conn that can start to read an answer before its command is fully written.
// The host controller then asks for the answer in the frame that carried the command, not
// one frame (1 ms at full speed) later.
type Poster interface {
	Conn
	// OutPost writes p to endpoint out as Conn.Out does, without a zero-length packet. It
	// then starts to read up to n bytes from endpoint in. After an error, or if the read
	// could not be started, there is no Posted, and data read so far is lost. So no other
	// data than the answer to p may be due from the device.
	OutPost(ctx context.Context, out uint8, p []byte, in uint8, n int, timeout time.Duration) (int, Posted, error)
}

// Posted is a read under way. Wait or Cancel must be called.
type Posted interface {
	// Wait ends the read as Conn.In does, and copies the data to p.
	Wait(ctx context.Context, p []byte, timeout time.Duration) (int, error)
	// Cancel ends the read. Data read so far is lost.
	Cancel()
}

var (
	// ErrStall: the endpoint stalled (USB 2.0 §8.4.5).
	ErrStall error = &failure{"usb: endpoint stalled: " + reader.ErrProtocol.Error(), []error{reader.ErrProtocol, reader.ErrTransfer}}
	// ErrTimeout: the transfer did not end in its time.
	ErrTimeout = fmt.Errorf("usb: transfer timed out: %w", reader.ErrTimeout)
	// ErrOverflow: the device sent more than was asked for (babble).
	ErrOverflow error = &failure{"usb: device sent more than asked for: " + reader.ErrProtocol.Error(), []error{reader.ErrProtocol, reader.ErrTransfer}}
	// ErrReset: the device was reset during the transfer, by Reset, by another program
	// or by the sleep of the system. It is still there, in its initial state.
	ErrReset error = &failure{"usb: the device was reset", []error{reader.ErrTransfer}}
	// ErrNoEndpoint: the kernel knows no such interface or endpoint, though the
	// descriptors list it, as with a duplicate address. The device is still there, and
	// another try would fail too.
	ErrNoEndpoint = errors.New("usb: the kernel knows no such endpoint")
	// ErrBus: the device is there but did not answer on the bus, or only with noise.
	ErrBus error = &failure{"usb: no answer on the bus", []error{reader.ErrTransfer}}
)

// failure is an error whose kinds are not in its words.
type failure struct {
	words string
	kinds []error
}

func (f *failure) Error() string   { return f.words }
func (f *failure) Unwrap() []error { return f.kinds }

// Opener opens a device and claims one interface of it. It is the reader.Device.Link of
// USB devices.
type Opener interface {
	reader.Link
	// Descriptors returns the same as Conn.Descriptors without opening the device, and
	// nil if they are not known yet.
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
