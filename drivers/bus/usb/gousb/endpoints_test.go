//go:build cgo

package gousb

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	lib "github.com/google/gousb"

	"github.com/cardfs/cardfs/drivers/bus/usb"
	"github.com/cardfs/cardfs/reader"
)

// madeEndpoint stands in for an endpoint of gousb's.
type madeEndpoint struct {
	number int
	calls  []int // lengths
	text   string
	err    error
}

func (e *madeEndpoint) ReadContext(_ context.Context, p []byte) (int, error) {
	e.calls = append(e.calls, len(p))
	return copy(p, e.text), e.err
}

func (e *madeEndpoint) WriteContext(_ context.Context, p []byte) (int, error) {
	e.calls = append(e.calls, len(p))
	if e.err != nil {
		return 0, e.err
	}
	return len(p), nil
}

var errNoSuch = errors.New("no such endpoint")

// withEndpoints is a connection with the endpoints of an interface that has every kind.
func withEndpoints() *conn {
	c := made(claimed)
	c.find([]usb.Endpoint{
		{Address: 0x84, Attributes: 1}, {Address: 0x04}, // isochronous, control
		{Address: 0x81, Attributes: 2, MaxPacket: 64}, {Address: 0x8F, Attributes: 3, MaxPacket: 8},
		{Address: 0x02, Attributes: 2, MaxPacket: 8}, {Address: 0x0E, Attributes: 0xFF, MaxPacket: 0},
		{Address: 0x83, Attributes: 2}, {Address: 0x03, Attributes: 2}, // gousb does not find these
	}, func(number int) (reading, error) {
		if number == 3 {
			return nil, errNoSuch
		}
		return &madeEndpoint{number: number}, nil
	}, func(number int) (writing, error) {
		if number == 3 {
			return nil, errNoSuch
		}
		return &madeEndpoint{number: number}, nil
	})
	return c
}

// Bulk and interrupt endpoints are kept, by address; gousb counts them by number (USB 2.0 table
// 9-13: bits 3-0 of bEndpointAddress, and bits 1-0 of bmAttributes).
func TestEndpointsOfInterface(t *testing.T) {
	c := withEndpoints()
	if len(c.in) != 2 || len(c.out) != 2 {
		t.Fatalf("in %v, out %v", c.in, c.out)
	}
	for ep, number := range map[uint8]int{0x81: 1, 0x8F: 15} {
		if got := c.in[ep].(*madeEndpoint).number; got != number {
			t.Errorf("%02X has number %d", ep, got)
		}
	}
	for ep, packet := range map[uint8]int{0x02: 8, 0x0E: 0} {
		if got := c.out[ep]; got.writing.(*madeEndpoint).number != int(ep) || got.packet != packet {
			t.Errorf("%02X: %+v", ep, got)
		}
	}
}

// "A transfer that fills its last packet is followed by a zero-length packet only if zlp is set."
func TestOut(t *testing.T) {
	for _, tt := range []struct {
		ep   uint8
		n    int
		zlp  bool
		want []int
	}{
		{2, 8, true, []int{8, 0}}, {2, 16, true, []int{16, 0}}, {2, 8, false, []int{8}}, {2, 7, true, []int{7}},
		{2, 9, true, []int{9}}, {2, 0, true, []int{0}}, {2, 1, false, []int{1}}, {0x0E, 8, true, []int{8}},
		{2, usb.MaxTransfer, false, []int{usb.MaxTransfer}},
	} {
		c := withEndpoints()
		n, err := c.Out(t.Context(), tt.ep, make([]byte, tt.n), tt.zlp, 0)
		if got := c.out[tt.ep].writing.(*madeEndpoint).calls; n != tt.n || err != nil || fmt.Sprint(got) != fmt.Sprint(tt.want) {
			t.Errorf("%+v: %d, %v, written %d", tt, n, err, got)
		}
	}
	c := withEndpoints()
	c.out[2].writing.(*madeEndpoint).err = lib.TransferStall
	if n, err := c.Out(t.Context(), 2, make([]byte, 8), true, 0); n != 0 || !errors.Is(err, usb.ErrStall) || !strings.HasPrefix(err.Error(), "usb:test: endpoint 02: ") {
		t.Errorf("%d, %v", n, err)
	}
	if got := c.out[2].writing.(*madeEndpoint).calls; len(got) != 1 {
		t.Errorf("written %d after a stall", got)
	}
}

// In reads into the caller's buffer, and returns as much as arrives.
func TestIn(t *testing.T) {
	c := withEndpoints()
	e := c.in[0x81].(*madeEndpoint)
	e.text = "hello"
	p := make([]byte, 8)
	if n, err := c.In(t.Context(), 0x81, p, 0); n != 5 || err != nil || !bytes.Equal(p, []byte("hello\x00\x00\x00")) {
		t.Errorf("%d, %v, %q", n, err, p)
	}
	if n, err := c.In(t.Context(), 0x81, make([]byte, usb.MaxTransfer), 0); n != 5 || err != nil {
		t.Errorf("the longest: %d, %v", n, err)
	}
	e.err = lib.TransferOverflow
	if n, err := c.In(t.Context(), 0x81, p, 0); n != 5 || !errors.Is(err, usb.ErrOverflow) || !strings.HasPrefix(err.Error(), "usb:test: endpoint 81: ") {
		t.Errorf("%d, %v", n, err)
	}
}

// An endpoint that the interface lacks, or of a kind that no transport moves, is refused
// before libusb is asked.
func TestRefusedTransfers(t *testing.T) {
	c := withEndpoints()
	for _, ep := range []uint8{0x81, 0x01, 0x03, 0x04, 0x8F, 0x00} {
		if n, err := c.Out(t.Context(), ep, nil, false, 0); n != 0 || !errors.Is(err, reader.ErrInvalid) || !strings.Contains(err.Error(), fmt.Sprintf("no OUT endpoint %02X", ep)) {
			t.Errorf("OUT %02X: %d, %v", ep, n, err)
		}
	}
	for _, ep := range []uint8{0x02, 0x82, 0x83, 0x84, 0x0E, 0x80} {
		if n, err := c.In(t.Context(), ep, nil, 0); n != 0 || !errors.Is(err, reader.ErrInvalid) || !strings.Contains(err.Error(), fmt.Sprintf("no IN endpoint %02X", ep)) {
			t.Errorf("IN %02X: %d, %v", ep, n, err)
		}
	}
	long := make([]byte, usb.MaxTransfer+1)
	if n, err := c.Out(t.Context(), 2, long, false, 0); n != 0 || !errors.Is(err, reader.ErrInvalid) {
		t.Errorf("too long: %d, %v", n, err)
	}
	if n, err := c.In(t.Context(), 0x81, long, 0); n != 0 || !errors.Is(err, reader.ErrInvalid) {
		t.Errorf("too long: %d, %v", n, err)
	}
	if got := len(c.in[0x81].(*madeEndpoint).calls) + len(c.out[2].writing.(*madeEndpoint).calls); got != 0 {
		t.Errorf("%d transfers", got)
	}
}
