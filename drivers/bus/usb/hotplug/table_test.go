package hotplug

import (
	"context"
	"slices"
	"strings"
	"testing"

	"github.com/cardfs/cardfs/reader"
)

// testDriver has IDs and nothing else.
type testDriver struct {
	name string
	ids  []reader.ID
}

func (d testDriver) Name() string     { return d.name }
func (d testDriver) IDs() []reader.ID { return d.ids }
func (d testDriver) Open(context.Context, reader.Device) (reader.Reader, error) {
	return nil, reader.ErrUnsupported
}

var (
	byClass = testDriver{"class", []reader.ID{{Class: 0x0B, Model: "a class"}}}
	byPair  = testDriver{"pair", []reader.ID{{Vendor: 0x1209, Product: 0x0001, Model: "a pair"}}}
)

// madeup describes a device with one interface of a class.
func madeup(vendor, product uint16, class byte) []byte {
	return slices.Concat(
		[]byte{18, 1, 0, 2, 0, 0, 0, 64, byte(vendor), byte(vendor >> 8), byte(product), byte(product >> 8), 0, 1, 1, 2, 3, 1},
		[]byte{9, 2, 18, 0, 1, 1, 0, 0x80, 50},
		[]byte{9, 4, 0, 0, 0, class, 0, 0, 0})
}

// "the first that names an ID has it", and "an ID pair goes before a class".
func TestMatch(t *testing.T) {
	pair := reader.ID{Vendor: 0x1209, Product: 1}
	class := reader.ID{Class: 0x0B}
	table := newTable([]reader.Driver{
		testDriver{"first", []reader.ID{class, {Vendor: 0x1209, Product: 2}, {}}},
		testDriver{"second", []reader.ID{class, pair, {Class: 0xFF}}},
		testDriver{"third", []reader.ID{pair, {Vendor: 0x1209, Product: 2}, {Class: 0xFF}}},
	})
	two := append(madeup(0x08E6, 1, 0x03), 9, 4, 1, 0, 0, 0x0B, 0, 0, 0)
	for _, tt := range []struct {
		desc []byte
		want string
	}{
		{madeup(0x1209, 1, 0x0B), "second"}, // the pair goes first
		{madeup(0x1209, 2, 0x03), "first"},
		{madeup(0x1209, 3, 0x0B), "first"},
		{madeup(0x1209, 3, 0xFF), "second"},
		{madeup(0x1209, 3, 0x03), ""},
		{madeup(0x0912, 0x0100, 0x03), ""}, // the other order of bytes
		{madeup(0x1209, 0x0101, 0x03), ""},
		{madeup(0, 0, 0x03), ""}, // an ID without numbers matches nothing
		{madeup(0, 0, 0x00), ""},
		{two, "first"}, // by its second interface
	} {
		d, id, ok := table.match(tt.desc)
		got := ""
		if ok {
			got = d.Name()
		}
		if got != tt.want {
			t.Errorf("% X: %q (%+v), want %q", tt.desc, got, id, tt.want)
		}
	}
}

// Whatever a model's name contains, the output remains valid rules: each line is empty, a
// comment, a label, or one of our rules.
func TestRulesOfOddModels(t *testing.T) {
	odd := "model\nRUN+=\"/bin/sh\"\r\x00\x7F\v RUN+=x"
	text := UdevRules([]reader.Driver{testDriver{"odd", []reader.ID{
		{Vendor: 0x0ABC, Product: 0x0002, Model: odd}, {Vendor: 0x0ABC, Product: 0x0001}, {Class: 0x0B, Model: odd},
		{Vendor: 0x0ABC, Product: 0x0001, Model: "again"}, {Vendor: 0x0001, Product: 0xFFFF}, {}, {Vendor: 9, Product: 9, Class: 0x0B},
	}}})
	var order []string
	for line := range strings.Lines(text) {
		line = strings.TrimSuffix(line, "\n")
		if strings.ContainsAny(line, "\r\x00\x7F\v") {
			t.Errorf("line %q", line)
		}
		switch {
		case line == "", strings.HasPrefix(line, "#"), strings.HasPrefix(line, "LABEL="), strings.HasSuffix(line, `GOTO="cardfs_end"`),
			line == `ENV{ID_USB_INTERFACES}=="", IMPORT{builtin}="usb_id"`:
		case strings.HasPrefix(line, `SUBSYSTEM=="usb", ENV{DEVTYPE}=="usb_device", `) && strings.HasSuffix(line, grant):
			order = append(order, strings.TrimSuffix(strings.TrimPrefix(line, `SUBSYSTEM=="usb", ENV{DEVTYPE}=="usb_device", `), ", "+grant))
		default:
			t.Errorf("line %q", line)
		}
	}
	// In the order of their numbers, classes last.
	if got, want := strings.Join(order, "; "), `ATTR{idVendor}=="0001", ATTR{idProduct}=="ffff"; ATTR{idVendor}=="0abc", ATTR{idProduct}=="0001"; `+
		`ATTR{idVendor}=="0abc", ATTR{idProduct}=="0002"; ENV{ID_USB_INTERFACES}=="*:0b????:*"`; got != want {
		t.Errorf("rules\n%s, want\n%s", got, want)
	}
	if strings.Contains(text, "again") || strings.Count(text, "# odd\n") != 1 || !strings.HasSuffix(text, "\nLABEL=\"cardfs_end\"\n") {
		t.Errorf("rules\n%s", text)
	}
}

// A message of udevd whose properties reach to its very end is complete; one byte more is
// not. Numbers that do not fit are ignored.
func TestUeventEdges(t *testing.T) {
	props := "ACTION=add\x00DEVPATH=/x/1-1\x00BUSNUM=65536\x00DEVNUM=-1\x00"
	m := udevMessage(props)
	if e, err := parseUevent(m); err != nil || e.bus != 0 || e.dev != 0 || e.action != "add" {
		t.Errorf("%+v, %v", e, err)
	}
	if _, err := parseUevent(m[:len(m)-1]); err == nil {
		t.Error("a byte of the properties is missing")
	}
	if e, err := parseUevent(append(m, "more"...)); err != nil || e.devpath != "/x/1-1" {
		t.Errorf("bytes behind the properties: %+v, %v", e, err)
	}
	for n := range len(m) {
		if _, err := parseUevent(m[:n]); err == nil {
			t.Errorf("cut after %d bytes", n)
		}
	}
	for _, props := range []string{"DEVPATH=/x\x00", "ACTION=add\x00", "ACTION=\x00DEVPATH=/x\x00", "ACTION=add\x00DEVPATH=\x00"} {
		if _, err := parseUevent(udevMessage(props)); err == nil {
			t.Errorf("%q is taken", props)
		}
	}
	for v, want := range map[string]int{"0": 0, "001": 1, "65535": 65535, "65536": 0, "": 0, " 1": 0, "1x": 0, "-1": 0} {
		if got := decimal([]byte(v)); got != want {
			t.Errorf("decimal %q: %d, want %d", v, got, want)
		}
	}
}

// pcscd's bundles match by ID pairs only, so classes are not listed. A pair is listed once, for
// the driver that has it.
func TestKnownIDs(t *testing.T) {
	got := KnownIDs([]reader.Driver{
		testDriver{"one", []reader.ID{{Vendor: 0x1234, Product: 0xABCD, Model: "B"}, {Class: 0x0B, Model: "CCID"}}},
		testDriver{"two", []reader.ID{{Vendor: 0x1234, Product: 0xABCD, Model: "C"}, {Vendor: 0x1234, Product: 1}, {}, {Vendor: 0x1235}, {Product: 2}}},
	})
	if want := []Known{{"0000:0002", "two", "two"}, {"1234:0001", "two", "two"}, {"1234:abcd", "B", "one"}, {"1235:0000", "two", "two"}}; !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
}
