package usb

import (
	"bytes"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"testing"

	"github.com/cardfs/cardfs/reader"
)

// numbered is a device descriptor (USB 2.0 table 9-8) in which every field has a value of its own.
var numbered = []byte{18, 1, 0x00, 0x02, 0xE0, 0xE1, 0xE2, 64, 0x11, 0x12, 0x21, 0x22, 0x31, 0x32, 0x41, 0x42, 0x43, 1}

// Table 9-8: idVendor is at offset 8, idProduct at 10, bcdDevice at 12, each with the low byte
// first; iManufacturer is at 14, iProduct at 15, iSerialNumber at 16.
func TestParseDevice(t *testing.T) {
	want := Device{Vendor: 0x1211, Product: 0x2221, Release: 0x3231, Manufacturer: 0x41, Name: 0x42, Serial: 0x43}
	change := func(at int, to byte) []byte {
		d := bytes.Clone(numbered)
		d[at] = to
		return d
	}
	for _, tt := range []struct {
		what string
		desc []byte
		ok   bool
	}{
		{"18 bytes", numbered, true},
		{"with more behind", append(bytes.Clone(numbered), 9, 2), true},
		{"that says it is longer", change(0, 19), true},
		{"that says it is shorter", change(0, 17), false},
		{"of another type", change(1, 2), false},
		{"of type 0", change(1, 0), false},
		{"17 bytes", numbered[:17], false},
		{"one byte", numbered[:1], false},
		{"nothing", nil, false},
	} {
		got, err := ParseDevice(tt.desc)
		if tt.ok && (err != nil || got != want) {
			t.Errorf("%s: %+v, %v, want %+v", tt.what, got, err, want)
		}
		if !tt.ok && (!errors.Is(err, reader.ErrProtocol) || got != Device{}) {
			t.Errorf("%s: %+v, %v, want ErrProtocol", tt.what, got, err)
		}
	}
}

// The configuration is found by bConfigurationValue, and ends where wTotalLength says (USB
// 2.0 table 9-10). An impossible descriptor is an error, whichever configuration is asked
// for.
func TestActiveDescriptors(t *testing.T) {
	config := func(value byte, total int, more ...byte) []byte {
		return append([]byte{9, 2, byte(total), byte(total >> 8), 1, value, 0, 0x80, 50}, more...)
	}
	long := config(2, 9+0x102, make([]byte, 0x102)...)
	three := slices.Concat(numbered, config(1, 9), long, config(5, 11, 2, 0x21))
	for _, tt := range []struct {
		what  string
		all   []byte
		value uint8
		want  []byte // nil: an error
	}{
		{"the first, by 0", three, 0, slices.Concat(numbered, config(1, 9))},
		{"the first, by its value", three, 1, slices.Concat(numbered, config(1, 9))},
		{"the second, longer than 255", three, 2, slices.Concat(numbered, long)},
		{"the last, to the end", three, 5, slices.Concat(numbered, config(5, 11, 2, 0x21))},
		{"one that is not there", three, 3, nil},
		{"none", numbered, 0, nil},
		{"none of that value", numbered, 1, nil},
		{"a cut one", slices.Concat(numbered, config(1, 9)[:8]), 0, nil},
		{"less than a descriptor behind it", slices.Concat(numbered, config(1, 9), []byte{9, 2}), 0, slices.Concat(numbered, config(1, 9))},
		{"shorter than itself", slices.Concat(numbered, config(1, 8)), 0, nil},
		{"of length 0", slices.Concat(numbered, config(1, 0)), 2, nil},
		{"longer than what is left", slices.Concat(numbered, config(1, 10)), 0, nil},
		{"of another type", slices.Concat(numbered, []byte{9, 4, 9, 0, 0, 1, 0, 0, 0}), 0, nil},
		{"behind one that cannot be", slices.Concat(numbered, config(1, 8), config(2, 9)), 2, nil},
		{"no device", three[1:], 0, nil},
	} {
		all := bytes.Clone(tt.all)
		got, err := ActiveDescriptors(all, tt.value)
		if tt.want == nil {
			if !errors.Is(err, reader.ErrProtocol) || got != nil {
				t.Errorf("%s: % X, %v, want ErrProtocol", tt.what, got, err)
			}
		} else if err != nil || !bytes.Equal(got, tt.want) {
			t.Errorf("%s: % X, %v, want % X", tt.what, got, err, tt.want)
		}
		if !bytes.Equal(all, tt.all) {
			t.Errorf("%s: what was given is changed", tt.what)
		}
	}
}

// Tables 9-12 and 9-13: every field of an interface and of an endpoint, and descriptors of
// other kinds between the interfaces. wMaxPacketSize has the size in bits 10-0.
func TestInterfaceFields(t *testing.T) {
	desc := slices.Concat(numbered, []byte{9, 2, 0, 0, 2, 1, 0, 0x80, 50},
		[]byte{9, 4, 0x51, 0, 2, 0x53, 0x54, 0x55, 0x56},
		[]byte{3, 0x21, 0x61}, []byte{2, 0x22},
		[]byte{7, 5, 0x81, 0x03, 0xFF, 0xFF, 0x63},
		[]byte{9, 5, 0x02, 0x02, 0x40, 0x00, 0x64, 0x65, 0x66}, // audio's endpoints are longer
		[]byte{2, 0x25},
		[]byte{9, 4, 0x71, 0, 0, 0x73, 0x74, 0x75, 0x76},
		[]byte{4, 0x21, 0x77, 0x78},
		[]byte{1, 0x21}) // impossible: the end
	want := []Interface{
		{Number: 0x51, Class: 0x53, Subclass: 0x54, Protocol: 0x55, Name: 0x56,
			Endpoints: []Endpoint{
				{Address: 0x81, Attributes: 3, MaxPacket: 0x7FF, Interval: 0x63},
				{Address: 0x02, Attributes: 2, MaxPacket: 64, Interval: 0x64},
			},
			Extra: []byte{3, 0x21, 0x61, 2, 0x22, 2, 0x25}},
		{Number: 0x71, Class: 0x73, Subclass: 0x74, Protocol: 0x75, Name: 0x76, Extra: []byte{4, 0x21, 0x77, 0x78}},
	}
	if got := Interfaces(desc); !reflect.DeepEqual(got, want) {
		t.Errorf("%+v, want %+v", got, want)
	}
	for _, w := range want {
		if got, err := Find(desc, w.Number); err != nil || !reflect.DeepEqual(got, w) {
			t.Errorf("interface %d: %+v, %v", w.Number, got, err)
		}
	}
	if _, err := Find(desc, 0); !errors.Is(err, reader.ErrInvalid) {
		t.Errorf("interface 0, which is not there: %v", err)
	}
	got := ""
	want[0].Split(func(d []byte) { got += fmt.Sprintf("% X;", d) })
	if got != "03 21 61;02 22;02 25;" {
		t.Errorf("split into %s", got)
	}
	for n := range len(numbered) + 1 {
		if got := Interfaces(desc[:n]); len(got) != 0 || Beyond(desc[:n]) != 0 {
			t.Errorf("the first %d bytes have interfaces: %+v", n, got)
		}
	}
}

// A device may have 32 interfaces. The settings and endpoints of further ones are not added
// to the last one that counts.
func TestMaxInterfaces(t *testing.T) {
	desc := append(bytes.Clone(numbered), 9, 2, 0, 0, 0, 1, 0, 0x80, 50)
	for n := range byte(MaxInterfaces) {
		desc = append(desc, 9, 4, n, 0, 0, 0xFF, 0, 0, 0)
	}
	if n := len(Interfaces(desc)); n != 32 || Beyond(desc) != 0 {
		t.Errorf("%d interfaces, %d beyond", n, Beyond(desc))
	}
	desc = append(desc, 9, 4, 40, 0, 1, 0xFF, 0, 0, 0, 2, 0x21, 7, 5, 0x81, 2, 64, 0, 0, 9, 4, 41, 0, 0, 0xFF, 0, 0, 0)
	all := Interfaces(desc)
	if len(all) != 32 || Beyond(desc) != 2 {
		t.Errorf("%d interfaces, %d beyond", len(all), Beyond(desc))
	}
	if last := all[31]; last.Number != 31 || len(last.Endpoints) != 0 || len(last.Extra) != 0 {
		t.Errorf("the last: %+v", last)
	}
}
