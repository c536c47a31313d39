package ikey3k

import (
	"context"
	"errors"
	"sync"
	"time"
	"unicode/utf16"

	"github.com/cardfs/cardfs/drivers/bus/usb"
	"github.com/cardfs/cardfs/reader"
	"github.com/cardfs/cardfs/reader/icc"
)

// Emulator is an iKey 3000 at the level of its USB transfers, standard requests
// included. What the real token does beyond the requests of its old driver is
// unknown; the emulator stalls there. Its zero value has no card: insert one
// into Contact.
type Emulator struct {
	// Contact holds the card inside. Its faults are the emulator's.
	Contact icc.Contact
	// Serial is the serial number string; the real token is not known to have one.
	Serial string

	mu      sync.Mutex
	answer  []byte // to the latest request 16 or 17
	have    bool   // answer counts
	pending []byte // block that the card has not seen yet
	config  byte
}

// identity is what the token answers to the identify request.
var identity = [identifyLen]byte{0x0A, 0x61, 0x00, 0x07, 0x2D, 0x2D, 0xC0, 0x80, 0x80, 0x60}

// padding follows the ATR up to the length asked for. The real token pads; with
// which bytes is unknown.
var padding [atrAsked]byte

// surplus was seen behind the token's answer to S(IFS request).
var surplus = []byte{0x40, 0x98, 0xC1}

// errSilent: the card does not answer, and the token holds the transfer.
var errSilent = errors.New("ikey3k: the card is silent")

// Transfer does one control transfer as the device sees it: in an IN transfer
// data is filled (its length is wLength), in an OUT transfer it is the data
// stage. It returns the bytes moved. usb.ErrStall is a stall. When the card is
// silent, Transfer holds the transfer until ctx ends and returns ctx.Err(). An
// answer takes as long as the card.
func (e *Emulator) Transfer(ctx context.Context, s usb.Setup, data []byte) (int, error) {
	n, err := e.transfer(ctx, s, data)
	if err == errSilent {
		<-ctx.Done()
		return 0, ctx.Err()
	}
	return n, err
}

// transfer is Transfer without waiting for ctx where the card is silent.
func (e *Emulator) transfer(ctx context.Context, s usb.Setup, data []byte) (int, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	switch {
	case s == setupIdentify:
		return copy(data, identity[:]), nil
	case s == setupFetch:
		return e.fetch(ctx, data)
	case s.RequestType == typeOut && s.Request == reqControl:
		return e.control(ctx, s, data)
	case s.RequestType == typeOut && s.Request == reqBlock:
		e.have = false
		e.pending = unpackBlock(e.pending[:0], s, data)
		return len(data), nil
	case s.RequestType&0x60 == 0:
		return e.standard(s, data)
	}
	return 0, usb.ErrStall
}

func (e *Emulator) control(ctx context.Context, s usb.Setup, data []byte) (int, error) {
	if s.Index != 0 || len(data) > 1 {
		return 0, usb.ErrStall
	}
	// The predecessor of OpenCT's driver sent one data byte along with PPS.
	e.pending, e.answer, e.have = e.pending[:0], e.answer[:0], true
	switch s.Value {
	case cmdReset:
		e.Contact.Deactivate()
		e.answer = append(e.answer, 0)
	case cmdATR:
		atr, err := e.Contact.Activate(ctx, false)
		if err != nil || len(atr) >= atrAsked {
			atr = nil
		}
		e.answer = append(append(e.answer, byte(len(atr))), atr...)
		e.answer = append(e.answer, padding[:atrAsked-len(e.answer)]...)
	case cmdPPS:
		rx := e.Contact.PPS([]byte{0xFF, 0x11, 0x11, 0xFF})
		e.answer = append(e.answer, rx...)
		e.have = rx != nil
	default:
		e.have = false
		return 0, usb.ErrStall
	}
	return len(data), nil
}

// fetch gives the block to the card when the host asks for the answer: that is
// the transfer that takes as long as the card does.
func (e *Emulator) fetch(ctx context.Context, data []byte) (int, error) {
	if len(e.pending) > 0 {
		tx := e.pending
		e.pending = e.pending[:0]
		rx := e.Contact.TPDU(ctx, tx)
		if rx == nil {
			return 0, errSilent
		}
		e.answer, e.have = append(e.answer[:0], rx...), true
		if len(rx) == 5 && rx[1] == 0xE1 {
			e.answer = append(e.answer, surplus...)
		}
	}
	if !e.have {
		return 0, errSilent
	}
	return copy(data, e.answer), nil
}

// deviceDescriptor: USB 2.0 §9.6.1. The ids and bcdDevice 1.00 are the token's.
var deviceDescriptor = []byte{
	18, 1, 0x00, 0x01, 0xFF, 0x00, 0x00, 8,
	VendorID & 0xFF, VendorID >> 8, ProductID & 0xFF, ProductID >> 8,
	0x00, 0x01, 1, 2, 3, 1,
}

// configDescriptor: USB 2.0 §9.6.3, .5: one interface of the vendor's own class
// without endpoints.
var configDescriptor = []byte{
	9, 2, 18, 0, 1, 1, 0, 0x80, 50,
	9, 4, 0, 0, 0, 0xFF, 0x00, 0x00, 0,
}

func (e *Emulator) str(i uint8) string {
	switch i {
	case 1:
		return "Rainbow Technologies"
	case 2:
		return "iKey 3000"
	case 3:
		return e.Serial
	}
	return ""
}

// standard answers the standard requests (USB 2.0 §9.4).
func (e *Emulator) standard(s usb.Setup, data []byte) (int, error) {
	switch {
	case s.RequestType == 0x80 && s.Request == 6: // GET_DESCRIPTOR
		i := uint8(s.Value)
		switch s.Value >> 8 {
		case 1:
			return copy(data, e.device()), nil
		case 2:
			if i == 0 {
				return copy(data, configDescriptor), nil
			}
		case 3:
			return e.stringDescriptor(i, data)
		}
	case s.RequestType == 0x80 && s.Request == 8: // GET_CONFIGURATION
		return copy(data, []byte{e.config}), nil
	case s.RequestType == 0x00 && s.Request == 9 && s.Value <= 1: // SET_CONFIGURATION
		e.config = byte(s.Value)
		return 0, nil
	case s.RequestType == 0x81 && s.Request == 10: // GET_INTERFACE
		return copy(data, []byte{0}), nil
	case s.RequestType == 0x01 && s.Request == 11 && s.Value == 0: // SET_INTERFACE
		return 0, nil
	case s.In() && s.Request == 0: // GET_STATUS
		return copy(data, []byte{0, 0}), nil
	case s.RequestType == 0x02 && s.Request == 1: // CLEAR_FEATURE(ENDPOINT_HALT)
		return 0, nil
	}
	return 0, usb.ErrStall
}

func (e *Emulator) device() []byte {
	if e.Serial != "" {
		return deviceDescriptor
	}
	d := append([]byte(nil), deviceDescriptor...)
	d[16] = 0
	return d
}

func (e *Emulator) stringDescriptor(i uint8, data []byte) (int, error) {
	if i == 0 {
		return copy(data, []byte{4, 3, 0x09, 0x04}), nil // English (US)
	}
	s := e.str(i)
	if s == "" {
		return 0, usb.ErrStall
	}
	d := []byte{0, 3}
	for _, u := range utf16.Encode([]rune(s)) {
		if len(d)+2 > 255 {
			break
		}
		d = append(d, byte(u), byte(u>>8))
	}
	d[0] = byte(len(d))
	return copy(data, d), nil
}

// Plug gives a connection to the emulated token, as if it was just plugged in:
// its card has no power. Conn.Unplug ends it; then it can be plugged again.
func (e *Emulator) Plug() *Conn {
	e.unplug()
	return &Conn{e: e, gone: make(chan struct{}), closed: make(chan struct{})}
}

// unplug takes the power away, which ends what waits for the card.
func (e *Emulator) unplug() {
	e.Contact.Deactivate()
	e.mu.Lock()
	e.pending, e.answer, e.have, e.config = e.pending[:0], e.answer[:0], false, 0
	e.mu.Unlock()
}

// Conn is the usb.Conn of an emulated token. It is an usb.Opener as well.
type Conn struct {
	e         *Emulator
	gone      chan struct{}
	closed    chan struct{}
	goneOnce  sync.Once
	closeOnce sync.Once
}

var (
	_ usb.Conn   = (*Conn)(nil)
	_ usb.Opener = (*Conn)(nil)
)

// OpenUSB is usb.Opener: the Conn itself.
func (c *Conn) OpenUSB(ctx context.Context, iface uint8) (usb.Conn, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if iface != 0 {
		return nil, usb.ErrStall
	}
	return c, c.live()
}

// Unplug has the device leave.
func (c *Conn) Unplug() {
	c.goneOnce.Do(func() {
		close(c.gone)
		c.e.unplug()
	})
}

// live is the error of a connection that ended.
func (c *Conn) live() error {
	select {
	case <-c.gone:
		return reader.ErrGone
	case <-c.closed:
		return reader.ErrGone
	default:
		return nil
	}
}

// Control is usb.Conn.
func (c *Conn) Control(ctx context.Context, s usb.Setup, data []byte, timeout time.Duration) (int, error) {
	if err := c.live(); err != nil {
		return 0, err
	}
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	timed := deadline{Context: ctx, timeout: timeout}
	defer timed.end()
	n, err := c.e.transfer(&timed, s, data)
	if err != errSilent {
		return n, err
	}
	select {
	case <-c.gone:
	case <-c.closed:
	case <-timed.Done():
		if err := ctx.Err(); err != nil {
			return 0, err
		}
		return 0, usb.ErrTimeout
	}
	return 0, reader.ErrGone
}

// deadline is ctx with a time-out whose timer starts when somebody waits: most
// transfers are answered at once, and a timer costs more than they do. One
// goroutine uses it.
type deadline struct {
	context.Context
	timeout time.Duration
	timed   context.Context
	cancel  context.CancelFunc
}

func (d *deadline) Done() <-chan struct{} {
	if d.timeout <= 0 {
		return d.Context.Done()
	}
	if d.timed == nil {
		d.timed, d.cancel = context.WithTimeout(d.Context, d.timeout)
	}
	return d.timed.Done()
}

func (d *deadline) Err() error {
	if d.timed != nil {
		return d.timed.Err()
	}
	return d.Context.Err()
}

func (d *deadline) end() {
	if d.cancel != nil {
		d.cancel()
	}
}

// Out is usb.Conn; the token has no such endpoint.
func (c *Conn) Out(context.Context, uint8, []byte, bool, time.Duration) (int, error) {
	return 0, usb.ErrStall
}

// In is usb.Conn; the token has no such endpoint.
func (c *Conn) In(context.Context, uint8, []byte, time.Duration) (int, error) {
	return 0, usb.ErrStall
}

// ClearHalt is usb.Conn.
func (c *Conn) ClearHalt(context.Context, uint8) error { return c.live() }

// Reset is usb.Conn.
func (c *Conn) Reset(context.Context) error {
	if err := c.live(); err != nil {
		return err
	}
	c.e.unplug()
	return nil
}

// Descriptors is usb.Conn.
func (c *Conn) Descriptors() []byte {
	return append(append([]byte(nil), c.e.device()...), configDescriptor...)
}

// String is usb.Conn.
func (c *Conn) String(i uint8) string { return c.e.str(i) }

// Gone is usb.Conn.
func (c *Conn) Gone() <-chan struct{} { return c.gone }

// Close is usb.Conn. It ends the transfers under way.
func (c *Conn) Close() error {
	c.closeOnce.Do(func() {
		close(c.closed)
		select {
		case <-c.gone: // plugged again meanwhile, perhaps
		default:
			c.e.Contact.Deactivate()
		}
	})
	return nil
}
