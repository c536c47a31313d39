// Package acs drives readers of Advanced Card Systems that have the maker's own protocols and
// not CCID: the ACR30 and the ACR38, and what is made of their chips, the PertoSmarts. Both
// take the same instructions, which command.go has. They differ in the framing: bulk.go is
// the ACR38's, hex.go and frame.go are the ACR30's, which is on USB or on a serial port.
//
// The instructions are those of the maker's ACR38 Reference Manual (1.9, 2.2, 6.02) and ACR30
// Reference Manual (3.3). Where they are silent, Debian's libacsccid1 1.1.8, which is the
// maker's driver for the ACR38, and OpenCT 0.6.20 were observed. The readers carry T=0 TPDUs
// and T=1 blocks. With an ACR38 the host does the PPS, an ACR30 does it by itself.
//
// Lock order: device.lock alone.
package acs

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"sync"

	"github.com/cardfs/cardfs/drivers/bus/usb"
	"github.com/cardfs/cardfs/reader"
)

const acs = 0x072F

// models are the ACR38s. Those with a place for a security module (SAM) have two slots.
var models = []struct {
	reader.ID
	sam bool
}{
	{reader.ID{Vendor: acs, Product: 0x9000, Model: "ACS ACR38U"}, false},
	{reader.ID{Vendor: acs, Product: 0x9006, Model: "ACS CryptoMate"}, false},
	{reader.ID{Vendor: acs, Product: 0x9007, Model: "ACS ACR100 SIMFlash"}, false},
	{reader.ID{Vendor: acs, Product: 0x90D0, Model: "PertoSmart EMV"}, false},
	{reader.ID{Vendor: acs, Product: 0x90CF, Model: "ACS ACR38U-SAM"}, true},
	{reader.ID{Vendor: acs, Product: 0x90CE, Model: "ACS ACR38U-SAM"}, true},
	{reader.ID{Vendor: acs, Product: 0x0101, Model: "ACS AET65"}, true},
}

// Driver drives the ACR38.
type Driver struct{ Log *slog.Logger }

// Name is "acr38".
func (Driver) Name() string { return "acr38" }

// IDs lists the models.
func (Driver) IDs() (ids []reader.ID) {
	for _, m := range models {
		ids = append(ids, m.ID)
	}
	return ids
}

var _ reader.SlotCounter = Driver{}

// CountSlots tells the models with a SAM by their product ID.
func (Driver) CountSlots(descriptors []byte) int {
	d, err := usb.ParseDevice(descriptors)
	if err != nil {
		return 1
	}
	return slotCount(d.Product)
}

func slotCount(product uint16) int {
	for _, m := range models {
		if m.Product == product && m.sam {
			return 2
		}
	}
	return 1
}

// Open claims the reader.
func (d Driver) Open(ctx context.Context, dev reader.Device) (reader.Reader, error) {
	log := d.Log
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	r := &acr38{device: newDevice(dev, setting{ins: insOption, value: optionNone})}
	l, err := openBulk(ctx, dev)
	if err != nil {
		return nil, r.fail("open", err)
	}
	if err := r.start(ctx, l); err != nil {
		_ = l.Close()
		return nil, err
	}
	main := &slot38{slot: slot{device: r.device, ins: mainSlot, resetData: []byte{voltageAuto}}, changes: make(chan struct{}, 1)}
	r.changes, r.slots = main.changes, append(r.slots, main)
	if slotCount(dev.ID.Product) > 1 {
		r.slots = append(r.slots, &slot38{slot: slot{device: r.device, ins: samSlot, resetData: main.resetData, sam: true}, changes: make(chan struct{}, 1)})
	}
	r.model = cmp.Or(dev.ID.Model, "ACS ACR38")
	if d, err := usb.ParseDevice(l.Descriptors()); err == nil { // bcdDevice, USB 2.0 table 9-8
		r.version = fmt.Sprintf("%x.%02x", d.Release>>8, d.Release&0xFF)
	}
	r.ctx, r.cancel = context.WithCancel(context.Background())
	listener := usb.Listener{Endpoint: l.intr, Size: 8, Message: r.message, Missed: r.notify, Log: log.With("reader", r.name)}
	r.work.Add(1)
	reader.Go(dev.Host, func() {
		defer r.work.Done()
		listener.Run(r.ctx, l.Conn)
	})
	return r, nil
}

// acr38 is a device that tells of cards.
type acr38 struct {
	*device
	changes chan struct{} // of the slot that is not a SAM's

	ctx    context.Context // of the listener
	cancel context.CancelFunc
	work   sync.WaitGroup
}

func (r *acr38) Close() error {
	r.cancel()
	err := r.device.Close()
	r.work.Wait()
	return err
}

// message takes a message of the interrupt endpoint: 01 C1 00 00 for a card that was put
// in, 01 C0 00 00 for one that was taken out.
func (r *acr38) message(p []byte) {
	if len(p) >= 2 && p[0] == 0x01 && p[1]&0xFE == 0xC0 {
		r.notify()
	}
}

func (r *acr38) notify() {
	select {
	case r.changes <- struct{}{}:
	default:
	}
}
