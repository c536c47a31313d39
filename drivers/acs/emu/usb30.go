package emu

import (
	"context"
	"strings"

	"github.com/cardfs/cardfs/drivers/bus/usb"
	"github.com/cardfs/cardfs/drivers/bus/usb/usbtest"
	"github.com/cardfs/cardfs/reader/icc"
)

// USB30 is an emulated ACR30U.
type USB30 struct {
	core30
	*usbtest.Device
	// Bare: the last packet of an answer is not filled up.
	Bare     bool
	commands usbtest.Commands
}

// NewACR30 makes an ACR30U.
func NewACR30(serial string) *USB30 {
	r := &USB30{}
	r.Device = usbtest.New(usbtest.Model{
		Identity: usbtest.Identity{
			Vendor: 0x072F, Product: 0x0001,
			Manufacturer: "ACS", Name: "ACR30U", Serial: serial,
			Interfaces: []usb.Interface{{Class: 0x00, Endpoints: []usb.Endpoint{usbtest.Interrupt(0x81, 8, 10)}}},
		},
		Control: func(_ context.Context, s usb.Setup, data []byte) (int, error) {
			if s != (usb.Setup{RequestType: 0x40}) || len(data) == 0 || data[0] != 2 {
				return 0, usb.ErrStall
			}
			r.commands.Out(0, append([]byte(nil), data...))
			return len(data), nil
		},
		Reset:     r.powerLost,
		Unplugged: r.powerLost,
	})
	r.commands = usbtest.Commands{
		Device: r.Device, In: 0x81,
		Length: func(p []byte) int {
			if end := strings.IndexByte(string(p), 3); end > 0 {
				return end + 1
			}
			return -1 // a control transfer has all of it
		},
		Answer: func(ctx context.Context, p []byte) []byte {
			if frame := r.answer30(ctx, string(p[1:len(p)-1])); frame != "" {
				return r.filled(frame)
			}
			return nil
		},
	}
	r.restart()
	r.Contact.OnChange(func() {
		if p := r.filled(r.news()); len(p) > 0 {
			r.SendPackets(0x81, p, false)
		}
	})
	return r
}

// Contacts returns the one card position.
func (r *USB30) Contacts() []*icc.Contact { return []*icc.Contact{&r.Contact} }

func (r *USB30) powerLost() {
	r.commands.Lost()
	r.restart()
}

// filled is a frame with zeros behind it, up to the end of its last packet of 8.
func (r *USB30) filled(frame string) []byte {
	p := []byte(frame)
	for !r.Bare && len(p)%8 != 0 {
		p = append(p, 0)
	}
	return p
}
