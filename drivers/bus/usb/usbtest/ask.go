package usbtest

import (
	"context"
	"fmt"
	"time"

	"github.com/cardfs/cardfs/drivers/bus/usb"
)

// Ask does a control transfer of n bytes, zeros if they go to the device. It returns the bytes
// that were moved, in hexadecimal with spaces, or what the error says.
func (p *Port) Ask(s usb.Setup, n int) string {
	data := make([]byte, n)
	n, err := p.Control(context.Background(), s, data, time.Second)
	if err != nil {
		return err.Error()
	}
	return fmt.Sprintf("% X", data[:n])
}

// Fuzz does control transfers that a fuzzer has chosen, each with this time-out. Seven bytes of
// in are a setup packet: bmRequestType, bRequest, wValue and wIndex, low bytes first, and
// wLength. What goes to the device has its data behind it. A transfer moves no more bytes than
// wLength says, and none if it fails.
func Fuzz(t T, p *Port, in []byte, timeout time.Duration) {
	t.Helper()
	for len(in) >= 7 {
		s := usb.Setup{RequestType: in[0], Request: in[1],
			Value: uint16(in[2]) | uint16(in[3])<<8, Index: uint16(in[4]) | uint16(in[5])<<8}
		data := make([]byte, in[6])
		in = in[7:]
		if !s.In() {
			in = in[copy(data, in):]
		}
		if n, err := p.Control(context.Background(), s, data, timeout); n < 0 || n > len(data) || err != nil && n != 0 {
			t.Errorf("%v: %d, %v", s, n, err)
			return
		}
	}
}
