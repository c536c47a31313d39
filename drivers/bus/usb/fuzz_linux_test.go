package usb

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"slices"
	"testing"
)

// seedDevice is a device with two configurations; the second has a CCID
// interface with an alternate setting and an interface with no endpoint.
var seedDevice = func() []byte {
	config := func(value uint8, parts ...[]byte) []byte {
		c := slices.Concat(append([][]byte{{9, configDesc, 0, 0, 1, value, 0, 0x80, 50}}, parts...)...)
		binary.LittleEndian.PutUint16(c[2:], uint16(len(c)))
		return c
	}
	return slices.Concat(
		[]byte{18, deviceDesc, 0, 2, 0, 0, 0, 64, 0xE6, 8, 0x33, 0x44, 0, 1, 1, 2, 3, 2},
		config(1, []byte{9, interfaceDesc, 0, 0, 0, 3, 0, 0, 0}),
		config(2,
			[]byte{9, interfaceDesc, 1, 0, 2, 0x0B, 0, 0, 4},
			[]byte{4, 0x21, 0x10, 0x01},
			[]byte{7, endpointDesc, 0x81, 3, 8, 0, 10},
			[]byte{7, endpointDesc, 0x02, 2, 0, 2, 0},
			[]byte{9, interfaceDesc, 1, 1, 1, 0x0B, 0, 0, 4},
			[]byte{7, endpointDesc, 0x85, 2, 64, 0, 0},
			[]byte{9, interfaceDesc, 7, 0, 0, 0xFF, 1, 2, 0},
		),
	)
}()

func TestInterfaces(t *testing.T) {
	second, err := ActiveDescriptors(seedDevice, 2)
	if err != nil {
		t.Fatal(err)
	}
	got := Interfaces(second)
	if len(got) != 2 || got[0].Number != 1 || got[0].Class != 0x0B || len(got[0].Endpoints) != 2 ||
		got[0].Endpoints[1] != (Endpoint{2, 2, 512, 0}) || !bytes.Equal(got[0].Extra, []byte{4, 0x21, 0x10, 0x01}) || got[1].Number != 7 {
		t.Errorf("%+v", got)
	}
	first, err := ActiveDescriptors(seedDevice, 0)
	if err != nil || len(first) != 36 || Interfaces(first)[0].Class != 3 {
		t.Errorf("% X, %v", first, err)
	}
	types, err := endpointTypes(second, 1)
	if err != nil || len(types) != 2 || types[0x81] != urbInterrupt || types[0x02] != urbBulk {
		t.Errorf("%v, %v", types, err)
	}
	for name, bad := range map[string][]byte{
		"empty": nil, "short": seedDevice[:17], "no configuration": seedDevice[:18], "cut": seedDevice[:30],
		"too long": slices.Concat(seedDevice[:18], []byte{9, 2, 0xFF, 0xFF, 1, 1, 0, 0, 0}),
	} {
		if d, err := ActiveDescriptors(bad, 0); err == nil {
			t.Errorf("%s: % X, want an error", name, d)
		}
	}
	if _, err := ActiveDescriptors(seedDevice, 3); err == nil {
		t.Error("configuration 3 is not there, want an error")
	}
}

// Alternate setting 0 of the first descriptor of a number counts, and 32 interfaces at most.
// A wrong length ends the list, or hides the descriptors behind it. Endpoints that belong to
// no counted setting are left out.
func TestInterfacesOfALyingDevice(t *testing.T) {
	device := seedDevice[:18]
	config := []byte{9, configDesc, 0, 0, 1, 1, 0, 0x80, 50}
	iface := func(number, alternate, class byte) []byte {
		return []byte{9, interfaceDesc, number, alternate, 1, class, 0, 0, 0}
	}
	ep := func(address byte) []byte { return []byte{7, endpointDesc, address, 2, 64, 0, 0} }
	var many [][]byte
	for n := range 770 {
		many = append(many, iface(byte(n), 0, 0x0B), ep(byte(n)))
	}
	for _, tt := range []struct {
		name  string
		parts [][]byte
		want  string
	}{
		{"a number twice", [][]byte{iface(0, 0, 1), ep(0x81), iface(0, 0, 2), ep(0x82)}, "0:1[81] "},
		{"alternate settings first", [][]byte{iface(0, 1, 1), ep(0x81), iface(0, 0, 2), ep(0x82)}, "0:2[82] "},
		{"no setting 0", [][]byte{iface(0, 1, 1), ep(0x81), iface(1, 0, 2), ep(0x82)}, "1:2[82] "},
		{"length 0", [][]byte{iface(0, 0, 1), ep(0x81), {0, interfaceDesc, 1, 0}, iface(2, 0, 2)}, "0:1[81] "},
		{"length 1", [][]byte{iface(0, 0, 1), {1}, ep(0x81)}, "0:1[] "},
		{"longer than what is left", [][]byte{iface(0, 0, 1), ep(0x81), {9, interfaceDesc, 1, 0}}, "0:1[81] "},
		{"an interface shorter than its fields", [][]byte{iface(0, 0, 1), {8, interfaceDesc, 1, 0, 0, 2, 0, 0}, ep(0x81)}, "0:1[81] "},
		{"an interface longer than its fields", [][]byte{{11, interfaceDesc, 4, 0, 1, 1, 0, 0, 0, 7, 7}, ep(0x81)}, "4:1[81] "},
		{"an endpoint shorter than its fields", [][]byte{iface(0, 0, 1), {6, endpointDesc, 0x85, 2, 64, 0}, ep(0x81)}, "0:1[81] "},
		{"an endpoint of none", [][]byte{ep(0x85), ep(0x81), iface(0, 0, 1), ep(0x81)}, "0:1[81] "},
		{"an endpoint twice", [][]byte{iface(0, 0, 1), ep(0x81), ep(2), ep(0x81)}, "0:1[812] "},
		{"another interface's endpoint", [][]byte{iface(0, 0, 1), ep(0x81), iface(1, 0, 2), ep(0x81), ep(1)}, "0:1[81] 1:2[1] "},
		{"the endpoint of another one's alternate setting", [][]byte{iface(0, 0, 1), iface(0, 1, 1), ep(0x81), iface(1, 0, 2), ep(0x81), ep(0x82)}, "0:1[] 1:2[82] "},
		{"the own endpoint in an alternate setting", [][]byte{iface(0, 1, 1), ep(0x81), iface(0, 0, 2), ep(0x81), iface(0, 2, 3), ep(0x81)}, "0:2[81] "},
		{"an endpoint of a setting that does not count", [][]byte{iface(0, 0, 1), ep(0x81), iface(0, 0, 2), ep(0x82), iface(1, 0, 3), ep(0x82)}, "0:1[81] 1:3[82] "},
		{"a descriptor that hides an interface", [][]byte{iface(0, 0, 1), {11, 0x21}, iface(1, 0, 2), ep(0x81)}, "0:1[81]+11 "},
		{"a configuration in a configuration", [][]byte{iface(0, 0, 1), config, ep(0x81), device}, "0:1[81] "},
		{"nothing", nil, ""},
	} {
		got := ""
		for _, i := range Interfaces(slices.Concat(append([][]byte{device, config}, tt.parts...)...)) {
			got += fmt.Sprintf("%d:%d[", i.Number, i.Class)
			for _, e := range i.Endpoints {
				got += fmt.Sprintf("%X", e.Address)
			}
			got += "]"
			if n := len(i.Extra); n > 0 {
				got += fmt.Sprintf("+%d", n)
			}
			got += " "
		}
		if got != tt.want {
			t.Errorf("%s: %s, want %s", tt.name, got, tt.want)
		}
	}
	// A byte has room for 256 numbers.
	all := slices.Concat(append([][]byte{device, config}, many...)...)
	if n, more := len(Interfaces(all)), Beyond(all); n != MaxInterfaces || more != 256-MaxInterfaces {
		t.Errorf("%d interfaces, and %d beyond", n, more)
	}
	if n := Beyond(slices.Concat(append([][]byte{device, config}, many[:2*MaxInterfaces]...)...)); n != 0 {
		t.Errorf("%d interfaces beyond", n)
	}
	// "Interface claimed only": a transfer to the address finds no way to the first.
	two := slices.Concat(device, config, iface(0, 0, 3), ep(0x81), iface(1, 0, 0x0B), ep(0x81), ep(0x02))
	types, err := endpointTypes(two, 1)
	if err != nil || len(types) != 1 || types[0x02] != urbBulk {
		t.Errorf("endpoints of interface 1: %v, %v", types, err)
	}
}

// A device may send anything as descriptors.
func FuzzDescriptors(f *testing.F) {
	f.Add(seedDevice, uint8(0))
	f.Add(seedDevice, uint8(2))
	f.Add(seedDevice[:40], uint8(1))
	f.Add(slices.Concat(seedDevice[:36], []byte{0, 4}), uint8(0))
	f.Fuzz(func(t *testing.T, all []byte, value uint8) {
		desc, err := ActiveDescriptors(all, value)
		if err != nil {
			return
		}
		if len(desc) > len(all) || !bytes.Equal(desc[:deviceLen], all[:deviceLen]) {
			t.Errorf("% X of % X", desc, all)
		}
		seen := map[uint8]bool{}
		interfaces := Interfaces(desc)
		if len(interfaces) > MaxInterfaces {
			t.Errorf("%d interfaces", len(interfaces))
		}
		for _, i := range interfaces {
			extra := 0
			i.Split(func(d []byte) { extra += len(d) })
			if extra != len(i.Extra) {
				t.Errorf("%d bytes of %d of % X", extra, len(i.Extra), i.Extra)
			}
			if seen[i.Number] {
				t.Errorf("interface %d twice in % X", i.Number, desc)
			}
			seen[i.Number] = true
			if _, err := endpointTypes(desc, i.Number); err != nil {
				t.Errorf("interface %d of % X: %v", i.Number, desc, err)
			}
		}
	})
}
