package hotplug

import (
	"github.com/cardfs/cardfs/drivers/bus/usb"
	"github.com/cardfs/cardfs/reader"
)

// table finds the driver of a device.
type table struct {
	ids     map[[2]uint16]served
	classes map[uint8]served
}

type served struct {
	driver reader.Driver
	id     reader.ID
}

// newTable makes the table. If several drivers name an ID, the first of them gets it.
func newTable(drivers []reader.Driver) table {
	t := table{ids: map[[2]uint16]served{}, classes: map[uint8]served{}}
	for _, d := range drivers {
		for _, id := range d.IDs() {
			s := served{d, id}
			pair := [2]uint16{id.Vendor, id.Product}
			if id.Class != 0 {
				if _, taken := t.classes[id.Class]; !taken {
					t.classes[id.Class] = s
				}
			} else if _, taken := t.ids[pair]; !taken && pair != [2]uint16{} {
				t.ids[pair] = s
			}
		}
	}
	return t
}

// match finds the driver for a device: by its ID pair, or else by the class of one of its
// interfaces.
func (t table) match(desc []byte) (reader.Driver, reader.ID, bool) {
	d, err := usb.ParseDevice(desc)
	if err != nil {
		return nil, reader.ID{}, false
	}
	pair := [2]uint16{d.Vendor, d.Product}
	if s, ok := t.ids[pair]; ok {
		return s.driver, s.id, true
	}
	for _, i := range usb.Interfaces(desc) {
		if s, ok := t.classes[i.Class]; ok {
			return s.driver, s.id, true
		}
	}
	return nil, reader.ID{}, false
}
