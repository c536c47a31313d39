package ccid

import (
	"cmp"
	"context"
	"encoding/binary"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/cardfs/cardfs/drivers/bus/usb"
	"github.com/cardfs/cardfs/reader"
)

// serialModel is a kind of reader on a serial line, or with a device file. Such a reader has no descriptors: the
// driver makes them from this.
type serialModel struct {
	maker, name string
	// vendor and product are the reader's numbers on USB, or those of its next relative:
	// the quirks are found by them.
	vendor, product uint16
	slots           byte
	clock, rate     uint32 // kHz; the fastest, bit/s
	features        Features
	voltages        byte // bVoltageSupport; 0: 5 V, 3 V, 1.8 V
	pinpad          bool
	polled          bool // it does not tell of cards that come and go
	// firmware is the Escape whose answer names the firmware.
	firmware byte
	// slow: it wakes up at 9600 bit/s.
	slow bool
}

// gemalto is what Gemalto's readers on a line have in common. They take TPDUs, and leave
// voltage, PPS and S(IFS) to the host; clock and rate follow the parameters.
func gemalto(product uint16, name string) serialModel {
	return serialModel{
		maker: "Gemalto", name: name, vendor: 0x08E6, product: product, slots: 1, clock: 4000, rate: 500_000,
		features: LevelTPDU | AnyNAD | AutoClock | AutoBaud, firmware: 0x02,
	}
}

// microchip is what the two kinds of the SEC1210 have in common.
func microchip(name string, slots byte) serialModel {
	return serialModel{
		maker: "Microchip", name: name, vendor: 0x0424, product: 0x1202, slots: slots, clock: 4800, rate: 826_000,
		features: LevelTPDU | AutoParamsATR | AutoClock | AutoBaud | AutoPPS, firmware: 0x06, polled: true,
	}
}

// serialModels are the values of the parameter model. All of it is how libccid treats these
// readers. How one with several slots tells of their cards is not known: it is asked.
var serialModels = func() map[string]serialModel {
	twin, pinpad := gemalto(0x3437, "GemPC Twin"), gemalto(0x3478, "GemPC PinPad")
	pos, sim := gemalto(0x3479, "GemCore POS Pro"), gemalto(0x3480, "GemCore SIM Pro")
	twin.rate, pinpad.pinpad = 344_086, true
	pos.slots, pos.polled = 5, true
	sim.slots, sim.polled = 2, true
	sim2 := sim
	sim2.name, sim2.clock, sim2.rate, sim2.slow = "GemCore SIM Pro 2", 4800, 825_806, true
	return map[string]serialModel{
		"twin": twin, "pinpad": pinpad, "gemcore": pos, "simpro": sim, "simpro2": sim2,
		"sec1210": microchip("SEC1210", 2), "sec1210urt": microchip("SEC1210URT", 1),
	}
}()

// serialModelOf returns the model that the parameters of `attach` name: a GemPC Twin if
// none.
func serialModelOf(params map[string]string) (serialModel, error) {
	name, given := params["model"]
	if !given {
		name = "twin"
	}
	m, ok := serialModels[name]
	if !ok {
		return m, fmt.Errorf("ccid: model=%s: there are %s: %w", name,
			strings.Join(append(slices.Sorted(maps.Keys(serialModels)), slices.Sorted(maps.Keys(nodeModels))...), ", "), reader.ErrInvalid)
	}
	return m, nil
}

// Addresses of what stands in for endpoints.
const (
	serialOut  = 0x01
	serialIn   = 0x81
	serialIntr = 0x82
)

// serialMost is dwMaxCCIDMessageLength of readers for TPDUs: the header, a T=0 header and
// 256 bytes.
const serialMost = 271

// descriptors returns the input of Parse.
func (m *serialModel) descriptors() []byte {
	le := binary.LittleEndian
	dev := make([]byte, 18)
	dev[0], dev[1], dev[7] = 18, 1, 64
	le.PutUint16(dev[2:], 0x0200)
	le.PutUint16(dev[8:], m.vendor)
	le.PutUint16(dev[10:], m.product)
	dev[14], dev[15], dev[17] = 1, 2, 1 // strings; one configuration

	class := make([]byte, classLen)
	class[0], class[1] = classLen, descClass
	le.PutUint16(class[2:], 0x0100)
	class[4] = m.slots - 1
	class[5] = cmp.Or(m.voltages, 7)
	le.PutUint32(class[6:], 3) // T=0, T=1
	le.PutUint32(class[10:], m.clock)
	le.PutUint32(class[14:], m.clock)
	le.PutUint32(class[19:], m.clock*1000/372)
	le.PutUint32(class[23:], m.rate)
	le.PutUint32(class[28:], maxIFSD)
	le.PutUint32(class[40:], uint32(m.features))
	le.PutUint32(class[44:], serialMost)
	class[48], class[49], class[53] = 0xFF, 0xFF, 1
	if m.pinpad {
		class[52] = 3 // verify, modify
	}

	endpoints := []byte{
		7, 5, serialOut, 2, 64, 0, 0,
		7, 5, serialIn, 2, 64, 0, 0,
	}
	if !m.polled {
		endpoints = append(endpoints, 7, 5, serialIntr, 3, 8, 0, 10)
	}
	conf := []byte{9, 2, 0, 0, 1, 1, 0, 0x80, 0,
		9, 4, 0, 0, byte(len(endpoints) / 7), classCCID, 0, ProtocolCCID, 0}
	conf = append(append(conf, class...), endpoints...)
	le.PutUint16(conf[2:], uint16(len(conf)))
	return append(dev, conf...)
}

// noUSB is what a usb.Conn of a reader without USB has from its model, and what it lacks.
type noUSB struct{ model serialModel }

// Descriptors is usb.Conn.
func (d *noUSB) Descriptors() []byte { return d.model.descriptors() }

// String is usb.Conn.
func (d *noUSB) String(i uint8) string {
	switch i {
	case 1:
		return d.model.maker
	case 2:
		return d.model.name
	}
	return ""
}

// errNoReset is the error of Reset.
var errNoReset = fmt.Errorf("only USB has a reset: %w", reader.ErrUnsupported)

// Reset is usb.Conn.
func (*noUSB) Reset(context.Context) error { return errNoReset }

// Control is usb.Conn: there are no requests.
func (*noUSB) Control(context.Context, usb.Setup, []byte, time.Duration) (int, error) {
	return 0, usb.ErrStall
}

// ClearHalt is usb.Conn.
func (*noUSB) ClearHalt(context.Context, uint8) error { return nil }
