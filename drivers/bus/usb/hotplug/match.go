package hotplug

import (
	"cmp"
	"fmt"
	"slices"

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

// match finds the driver for the device with these descriptors.
func (t table) match(desc []byte) (reader.Driver, reader.ID, bool) {
	d, err := usb.ParseDevice(desc)
	if err != nil {
		return nil, reader.ID{}, false
	}
	var classes []uint8
	for _, i := range usb.Interfaces(desc) {
		classes = append(classes, i.Class)
	}
	return t.find(d.Vendor, d.Product, classes)
}

// find finds the driver for a device: by its IDs, or else by the class of one of its
// interfaces.
func (t table) find(vendor, product uint16, classes []uint8) (reader.Driver, reader.ID, bool) {
	if s, ok := t.ids[[2]uint16{vendor, product}]; ok {
		return s.driver, s.id, true
	}
	for _, class := range classes {
		if s, ok := t.classes[class]; ok {
			return s.driver, s.id, true
		}
	}
	return nil, reader.ID{}, false
}

// Find returns the driver that the Watcher would choose for a device with these IDs and
// these classes of interfaces.
func Find(drivers []reader.Driver, vendor, product uint16, classes []uint8) (reader.Driver, reader.ID, bool) {
	return newTable(drivers).find(vendor, product, classes)
}

// Known is a USB device that a driver serves by its IDs.
type Known struct {
	ID     string `json:"usb_id"` // vendor and product in hex, "04b9:1300"
	Name   string `json:"reader"` // model
	Driver string `json:"driver"`
}

// KnownIDs lists the devices that drivers serve by their IDs, sorted by ID. pcscd finds
// these by the bundle.
func KnownIDs(drivers []reader.Driver) (list []Known) {
	for pair, s := range newTable(drivers).ids {
		list = append(list, Known{fmt.Sprintf("%04x:%04x", pair[0], pair[1]), cmp.Or(s.id.Model, s.driver.Name()), s.driver.Name()})
	}
	slices.SortFunc(list, func(a, b Known) int { return cmp.Compare(a.ID, b.ID) })
	return list
}
