// Package ftdi emulates an adapter from USB to a serial line, FTDI's FT232BM (0403:6001),
// with an emulated device behind it. usbip.Plug gives it to the kernel, whose ftdi_sio
// makes it /dev/ttyUSB0: a real terminal with parity, modem lines and a plug to pull.
//
// The requests and the two status bytes of each packet are those that Linux
// drivers/usb/serial/ftdi_sio.h describes.
package ftdi

import (
	"context"
	"encoding/binary"
	"errors"
	"slices"
	"sync"

	"github.com/cardfs/cardfs/drivers/bus/serial"
	"github.com/cardfs/cardfs/drivers/bus/serial/serialtest"
	"github.com/cardfs/cardfs/drivers/bus/usb"
	"github.com/cardfs/cardfs/drivers/bus/usb/usbtest"
)

const (
	in, out = 0x81, 0x02
	packet  = 64
)

// descriptors are the device descriptor and the configuration.
var descriptors = []byte{
	18, 1, 0x10, 0x01, 0, 0, 0, 8, 0x03, 0x04, 0x01, 0x60, 0x00, 0x04, 1, 2, 3, 1,
	9, 2, 32, 0, 1, 1, 0, 0xA0, 45,
	9, 4, 0, 0, 2, 0xFF, 0xFF, 0xFF, 2,
	7, 5, in, 2, packet, 0, 0,
	7, 5, out, 2, packet, 0, 0,
}

// adapter is one adapter, from plugging in to unplugging.
type adapter struct {
	usb     *usbtest.Device
	plugged *serialtest.Plugged
	port    serial.Port

	mu      sync.Mutex
	queue   [][]byte // packets for the host
	latency byte
}

// Plug plugs an adapter in, with the device behind it. The device has power while the
// adapter has.
func Plug(d serialtest.Device, number string) *usbtest.Port {
	a := &adapter{latency: 16, plugged: serialtest.Plug(d)}
	var err error
	a.port, err = a.plugged.Connect(serial.Mode{Baud: 9600, Frame: serial.Frame8N1, Check: true}, 0)
	if err != nil {
		panic(err) // nobody else has it
	}
	a.usb = usbtest.New(usbtest.Model{
		Descriptors: descriptors,
		Strings:     []string{"FTDI", "USB <-> Serial", number},
		Control:     a.control,
		Out:         func(_ uint8, p []byte) { _ = a.port.Write(context.Background(), p) },
		In:          a.next,
		Unplugged: func() {
			a.port.Close()
			a.plugged.Unplug()
		},
	})
	port := a.usb.Plug()
	a.usb.Go(func() { a.receive(a.usb.Context()) })
	a.usb.Go(func() { a.watch(a.usb.Context()) })
	return port
}

// receive takes what the device sends. A character with wrong parity is alone in its
// packet: the status is the packet's.
func (a *adapter) receive(ctx context.Context) {
	var buf [packet - 2]byte
	for {
		n, err := a.port.Read(ctx, buf[:], 0)
		wrong := errors.Is(err, serial.ErrParity)
		if err != nil && !wrong {
			a.usb.Drop() // the device has no power, and so has the adapter
			return
		}
		p := buf[:n]
		if wrong {
			if n > 1 {
				a.push(0, p[:n-1])
			}
			a.push(parityError, p[n-1:])
		} else {
			a.push(0, p)
		}
	}
}

// deviceHas are the modem lines that the device drives.
const deviceHas = serial.CTS | serial.DSR | serial.CD | serial.RI

// watch reports changes of the device's modem lines.
func (a *adapter) watch(ctx context.Context) {
	line := a.plugged.Line()
	told, now := serial.Lines(0), line.Lines()
	for ok := true; ok; now, ok = line.AwaitLines(ctx, now) {
		if now&deviceHas != told {
			told = now & deviceHas
			a.push(0, nil)
		}
	}
}

// Bits of the two status bytes.
const (
	statusCTS, statusDSR, statusRI, statusCD = 0x10, 0x20, 0x40, 0x80

	empty       = 0x60 // the transmitter
	parityError = 0x04
)

// status are the two status bytes.
func (a *adapter) status(flags byte) [2]byte {
	s, lines := byte(0x01), a.plugged.Line().Lines()
	for line, bit := range map[serial.Lines]byte{serial.CTS: statusCTS, serial.DSR: statusDSR, serial.RI: statusRI, serial.CD: statusCD} {
		if lines&line != 0 {
			s |= bit
		}
	}
	return [2]byte{s, empty | flags}
}

func (a *adapter) push(flags byte, data []byte) {
	s := a.status(flags)
	a.mu.Lock()
	a.queue = append(a.queue, append(s[:], data...))
	a.mu.Unlock()
	a.usb.Wake()
}

// next is the next packet. The real adapter also sends its status every few milliseconds.
func (a *adapter) next(uint8) ([]byte, bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.queue) == 0 {
		return nil, false
	}
	p := a.queue[0]
	a.queue = slices.Delete(a.queue, 0, 1)
	return p, true
}

// Requests, bRequest of a vendor's control transfer.
const (
	reset        = 0
	modemControl = 1
	flowControl  = 2
	setBaud      = 3
	setData      = 4
	modemStatus  = 5
	eventChar    = 6
	errorChar    = 7
	setLatency   = 9
	getLatency   = 10
)

func (a *adapter) control(ctx context.Context, s usb.Setup, data []byte) (int, error) {
	m := a.port.Mode()
	var err error
	switch {
	case s.RequestType == 0x40:
		switch s.Request {
		case reset: // wValue: 0 both ways, 1 what came, 2 what is to be sent
			if s.Value <= 1 {
				a.mu.Lock()
				a.queue = nil
				a.mu.Unlock()
				err = a.port.Flush()
			}
		case modemControl:
			err = a.modemControl(ctx, s.Value)
		case setBaud:
			if m.Baud = baud(s.Value, s.Index); m.Baud == 0 {
				return 0, usb.ErrStall
			}
			err = a.port.SetMode(ctx, m)
		case setData:
			m.Frame = frame(s.Value)
			if err = a.port.SetMode(ctx, m); err == nil && s.Value&0x4000 != 0 {
				err = a.port.Break(ctx, 0)
			}
		case setLatency:
			a.mu.Lock()
			a.latency = byte(s.Value)
			a.mu.Unlock()
		case flowControl, eventChar, errorChar:
		default:
			return 0, usb.ErrStall
		}
		if errors.Is(err, serial.ErrNoLines) || err == nil {
			return len(data), nil
		}
	case s.RequestType == 0xC0 && s.Request == modemStatus:
		status := a.status(0)
		return copy(data, status[:]), nil
	case s.RequestType == 0xC0 && s.Request == getLatency:
		a.mu.Lock()
		defer a.mu.Unlock()
		return copy(data, []byte{a.latency}), nil
	}
	return 0, usb.ErrStall
}

// modemControl switches the lines of the mask in the high byte as the low byte says.
func (a *adapter) modemControl(ctx context.Context, value uint16) error {
	var on, off serial.Lines
	for bit, line := range map[uint16]serial.Lines{1: serial.DTR, 2: serial.RTS} {
		switch {
		case value>>8&bit == 0:
		case value&bit != 0:
			on |= line
		default:
			off |= line
		}
	}
	return a.port.SetLines(ctx, on, off)
}

// eighths are the eighths of a divisor that its three bits of fraction stand for.
var eighths = [8]int{0, 4, 2, 1, 3, 5, 6, 7}

// common are speeds that a divisor stands for that is nearly theirs.
var common = []int{300, 600, 1200, 2400, 4800, 9600, 14400, 19200, 28800, 38400, 57600, 76800, 115200, 230400, 460800, 921600}

// baud is the speed of a divisor of 3 MHz: 14 bits and a fraction of 3, of which the
// highest is in wIndex. 0: none.
func baud(value, index uint16) int {
	n := int(value&0x3FFF)*8 + eighths[value>>14|index&1<<2]
	switch {
	case value == 0 && index&1 == 0:
		return 3000000
	case value == 1 && index&1 == 0:
		return 2000000
	case n == 0:
		return 0
	}
	got := 24000000 / n
	for _, b := range common {
		if off := got - b; max(off, -off)*100 < b {
			return b
		}
	}
	return got
}

// frame is the frame of a wValue: data bits, parity, stop bits.
func frame(value uint16) serial.Frame {
	var b [2]byte
	binary.BigEndian.PutUint16(b[:], value)
	data, parity, stop := byte('8'), byte('N'), byte('1')
	if b[1] >= 5 && b[1] <= 8 {
		data = '0' + b[1]
	}
	if p := b[0] & 7; p <= 4 {
		parity = "NOEMS"[p]
	}
	if b[0]>>3&3 == 2 {
		stop = '2'
	}
	return serial.Frame([]byte{data, parity, stop})
}
