package usbtest_test

import (
	"bytes"
	"reflect"
	"slices"
	"testing"

	"github.com/cardfs/cardfs/drivers/bus/usb"
	"github.com/cardfs/cardfs/drivers/bus/usb/usbtest"
)

// Each field is where USB 2.0 tables 9-8, 9-10, 9-12 and 9-13 have it. No two fields have the
// same value, so that none can stand for another.
func TestIdentity(t *testing.T) {
	id := usbtest.Identity{
		USB: 0x0201, Class: 0x0C, Subclass: 0x0D, Protocol: 0x0E, ControlPacket: 64,
		Vendor: 0x1211, Product: 0x1413, Release: 0x1615, Power: 0x17,
		Manufacturer: "maker", Name: "name", Serial: "ü7",
		Interfaces: []usb.Interface{
			{Number: 0x45, Class: 0x21, Subclass: 0x22, Protocol: 0x23, Name: 0x24, Extra: []byte{4, 0x41, 0x25, 0x26}, Endpoints: []usb.Endpoint{
				usbtest.Bulk(0x02, 512), usbtest.Interrupt(0x83, 0x34, 0x18),
				{Address: 0x84, Attributes: 0x0D, MaxPacket: 0x0314, Interval: 0x19},
			}},
			{Number: 0x46, Class: 0x31, Subclass: 0x32, Protocol: 0x33, Extra: []byte{2, 0x41}},
		},
	}
	device := []byte{
		18,         // bLength
		1,          // bDescriptorType: DEVICE
		0x01, 0x02, // bcdUSB
		0x0C,       // bDeviceClass
		0x0D,       // bDeviceSubClass
		0x0E,       // bDeviceProtocol
		64,         // bMaxPacketSize0
		0x11, 0x12, // idVendor
		0x13, 0x14, // idProduct
		0x15, 0x16, // bcdDevice
		1, // iManufacturer
		2, // iProduct
		3, // iSerialNumber
		1, // bNumConfigurations
	}
	configuration := []byte{
		9,     // bLength
		2,     // bDescriptorType: CONFIGURATION
		54, 0, // wTotalLength: 9 + 9 + 3·7 + 4 + 9 + 2
		2,    // bNumInterfaces
		1,    // bConfigurationValue
		0,    // iConfiguration
		0x80, // bmAttributes: no power of its own, no remote wake-up
		0x17, // bMaxPower
	}
	first := []byte{
		9,    // bLength
		4,    // bDescriptorType: INTERFACE
		0x45, // bInterfaceNumber
		0,    // bAlternateSetting
		3,    // bNumEndpoints
		0x21, // bInterfaceClass
		0x22, // bInterfaceSubClass
		0x23, // bInterfaceProtocol
		0x24, // iInterface
	}
	endpoints := []byte{
		7,          // bLength
		5,          // bDescriptorType: ENDPOINT
		0x02,       // bEndpointAddress: OUT
		2,          // bmAttributes: bulk
		0x00, 0x02, // wMaxPacketSize
		0, // bInterval

		7, 5, 0x83, 3, 0x34, 0x00, 0x18, // interrupt
		7, 5, 0x84, 0x0D, 0x14, 0x03, 0x19,
	}
	second := []byte{9, 4, 0x46, 0, 0, 0x31, 0x32, 0x33, 0}
	extra, extra2 := []byte{4, 0x41, 0x25, 0x26}, []byte{2, 0x41}

	if got, want := id.Descriptors(), slices.Concat(device, configuration, first, extra, endpoints, second, extra2); !bytes.Equal(got, want) {
		t.Errorf("got  % X\nwant % X", got, want)
	}
	if got := usb.Interfaces(id.Descriptors()); !reflect.DeepEqual(got, id.Interfaces) {
		t.Errorf("read back: %+v\nwant %+v", got, id.Interfaces)
	}
	id.ExtraLast = true
	if got, want := id.Descriptors(), slices.Concat(device, configuration, first, endpoints, extra, second, extra2); !bytes.Equal(got, want) {
		t.Errorf("Extra last:\ngot  % X\nwant % X", got, want)
	}
}

// "Index of string descriptor" (USB 2.0 table 9-8): the numbers of the device descriptor are those
// under which the strings are. A device without a serial number has no number for one.
func TestIdentityStrings(t *testing.T) {
	for _, serial := range []string{"", "S7", "ü–7"} {
		d := usbtest.New(usbtest.Model{Identity: usbtest.Identity{Manufacturer: "maker", Name: "name", Serial: serial}})
		p := d.Plug()
		defer d.Unplug()
		index := p.Descriptors()[14:17]
		if p.String(index[0]) != "maker" || p.String(index[1]) != "name" || p.String(index[2]) != serial ||
			(index[2] == 0) != (serial == "") || p.String(4) != "" {
			t.Errorf("serial number %q: numbers % X", serial, index)
		}
	}
}

// What is not said has the value that the field's comment says.
func TestIdentityDefaults(t *testing.T) {
	want := []byte{18, 1, 0x10, 0x01, 0, 0, 0, 8, 0, 0, 0, 0, 0x00, 0x01, 1, 2, 0, 1, 9, 2, 18, 0, 1, 1, 0, 0x80, 50, 9, 4, 0, 0, 0, 0xFF, 0, 0, 0}
	d := usbtest.New(usbtest.Model{Identity: usbtest.Identity{Interfaces: []usb.Interface{{Class: 0xFF}}}})
	if got := d.Descriptors(); !bytes.Equal(got, want) {
		t.Errorf("got  % X\nwant % X", got, want)
	}
}

// A model's own bytes, which may be wrong ones, replace what its identity says.
func TestDescriptorsReplaceIdentity(t *testing.T) {
	own := []byte{18, 1, 0, 2, 0, 0, 0, 64, 1, 0, 2, 0, 0, 1, 0, 0, 0, 1}
	d := usbtest.New(usbtest.Model{Descriptors: own, Strings: []string{"own"}, Identity: usbtest.Identity{Name: "name"}})
	p := d.Plug()
	defer d.Unplug()
	if !bytes.Equal(p.Descriptors(), own) || p.String(1) != "own" || p.String(2) != "" {
		t.Errorf("% X, %q, %q", p.Descriptors(), p.String(1), p.String(2))
	}
}
