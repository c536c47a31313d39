package ccid

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"github.com/cardfs/cardfs/drivers/ccid/emu"
	"github.com/cardfs/cardfs/reader"
)

// edited returns the descriptors of an emulated reader after a change.
func edited(cfg emu.Config, edit func(class []byte)) []byte {
	cfg.Lie = func(c []byte) []byte {
		edit(c)
		return c
	}
	return newDevice(cfg).Descriptors()
}

func TestParse(t *testing.T) {
	cfg := emu.Config{Vendor: 0x1234, Product: 0x5678, Release: 0x0210, Level: reader.TPDU, Slots: 2,
		Features: emu.AutoParamsATR | emu.AutoPPS, Clock: 4800, DataRate: 12903, MaxRate: 825806, Rates: []uint32{1, 2}, PINPad: true}
	for _, last := range []bool{false, true} { // CCID 1.1 §5: behind the interface; Oz776: behind the endpoints
		cfg.DescriptorLast = last
		dev, ifs, err := Parse(newDevice(cfg).Descriptors())
		if err != nil {
			t.Fatal(err)
		}
		if dev.Vendor != 0x1234 || dev.Product != 0x5678 || dev.Release != 0x0210 {
			t.Errorf("device %+v", dev)
		}
		want := Interface{Number: 0, Class: 0x0B, In: Endpoint{0x81, 64}, Out: Endpoint{0x02, 64}, Intr: Endpoint{0x83, 8},
			Descriptor: Descriptor{Release: 0x0110, MaxSlotIndex: 1, VoltageSupport: 7, Protocols: 3, DefaultClock: 4800, MaximumClock: 4800,
				DataRate: 12903, MaxDataRate: 825806, NumDataRates: 2, MaxIFSD: 254, Features: 0x10082, MaxMessage: 271,
				ClassGetResp: 0xFF, ClassEnvelope: 0xFF, LCDLayout: 0x0210, PINSupport: 3, MaxBusySlots: 2}}
		if len(ifs) != 1 || ifs[0].Descriptor != want.Descriptor || ifs[0].In != want.In || ifs[0].Out != want.Out || ifs[0].Intr != want.Intr || len(ifs[0].Notes) > 0 {
			t.Errorf("got  %+v\nwant %+v", ifs, want)
		}
	}
}

// Impossible values are corrected with a note, or refused with the reason.
func TestParseLies(t *testing.T) {
	put32 := func(off int, v uint32) func([]byte) {
		return func(c []byte) { c[off], c[off+1], c[off+2], c[off+3] = byte(v), byte(v>>8), byte(v>>16), byte(v>>24) }
	}
	ok := emu.TPDUReader()
	class := func(cfg emu.Config, c uint8) emu.Config {
		cfg.Class = c
		return cfg
	}
	proto := func(cfg emu.Config, p uint8) []byte {
		d := newDevice(cfg).Descriptors()
		d[18+9+7] = p
		return d
	}
	cases := []struct {
		name  string
		desc  []byte
		err   error
		say   string // part of the error or of a note
		check func(Interface) bool
	}{
		{"message length 0", edited(ok, put32(44, 0)), reader.ErrProtocol, "dwMaxCCIDMessageLength 0", nil},
		{"message length 14", edited(ok, put32(44, 14)), reader.ErrProtocol, "dwMaxCCIDMessageLength 14", nil},
		{"message length FFFFFFFF", edited(ok, put32(44, 0xFFFFFFFF)), nil, "65554 is enough", func(i Interface) bool { return i.MaxMessage == 65554 }},
		{"two levels", edited(ok, put32(40, 0x70000)), nil, "more than one exchange level", func(i Interface) bool { return i.Features == LevelExtended }},
		{"no voltage", edited(ok, func(c []byte) { c[5] = 0 }), nil, "no voltage", func(i Interface) bool { return i.VoltageSupport == 7 }},
		{"no protocol", edited(ok, put32(6, 0)), nil, "neither", func(i Interface) bool { return i.Protocols == 3 }},
		{"protocols one byte up", edited(ok, put32(6, 0x200)), nil, "neither", func(i Interface) bool { return i.Protocols == 2 }},
		{"clock 0", edited(ok, put32(10, 0)), nil, "dwDefaultClock", func(i Interface) bool { return i.DefaultClock == 3580 }},
		{"clock in Hz", edited(ok, put32(10, 4_000_000)), nil, "dwDefaultClock", func(i Interface) bool { return i.DefaultClock >= 1000 && i.DefaultClock <= 20000 }},
		{"IFSD 0", edited(ok, put32(28, 0)), nil, "dwMaxIFSD 0", func(i Interface) bool { return i.MaxIFSD == 254 }},
		{"rate below the default", edited(ok, put32(23, 1)), nil, "dwMaxDataRate", func(i Interface) bool { return i.MaxDataRate == 9600 }},
		{"busy slots 0", edited(ok, func(c []byte) { c[53] = 0 }), nil, "bMaxCCIDBusySlots 0", func(i Interface) bool { return i.MaxBusySlots == 1 }},
		{"busy slots FF", edited(ok, func(c []byte) { c[53] = 0xFF }), nil, "bMaxCCIDBusySlots 255", func(i Interface) bool { return i.MaxBusySlots == 1 }},
		{"mechanics", edited(ok, put32(36, 0x03000002)), nil, "dwMechanical", func(i Interface) bool { return i.Mechanical == 2 }},
		{"packets of 0 bytes", bytes.Replace(newDevice(ok).Descriptors(), unhex("07 05 81 02 40"), unhex("07 05 81 02 00"), 1), nil,
			"endpoint 81 has packets of 0 bytes: 64", func(i Interface) bool { return i.In.PacketSize == 64 && i.Out.PacketSize == 64 }},
		{"class descriptor short", edited(ok, func(c []byte) { c[0] = 20 }), reader.ErrProtocol, "", nil},
		{"class descriptor of length 0", edited(ok, func(c []byte) { c[0] = 0 }), reader.ErrProtocol, "", nil},
		{"protocol 3", proto(ok, 3), reader.ErrUnsupported, "bInterfaceProtocol 03", nil},
		{"CCID without endpoints", proto(emu.ICCDB(), 0), reader.ErrProtocol, "bulk endpoints", nil},
		{"class FF", newDevice(class(ok, 0xFF)).Descriptors(), nil, "", func(i Interface) bool { return i.Class == 0xFF }},
		{"another class", newDevice(class(ok, 0x08)).Descriptors(), reader.ErrUnsupported, "no CCID interface", nil},
		{"class FF, descriptor type FF", edited(class(ok, 0xFF), func(c []byte) { c[1] = 0xFF }), nil, "", func(i Interface) bool { return true }},
		{"ICCD with slots", edited(emu.ICCDB(), func(c []byte) { c[4], c[53] = 7, 8 }), nil, "an ICCD has one card", func(i Interface) bool { return i.MaxSlotIndex == 0 }},
		{"nothing", nil, reader.ErrProtocol, "0 bytes", nil},
		{"device descriptor alone", newDevice(ok).Descriptors()[:18], reader.ErrUnsupported, "", nil},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			_, ifs, err := Parse(c.desc)
			if !errors.Is(err, c.err) {
				t.Fatalf("error %v, want %v", err, c.err)
			}
			said := ""
			if err != nil {
				said = err.Error()
			} else {
				said = strings.Join(ifs[0].Notes, "; ")
				if !c.check(ifs[0]) {
					t.Errorf("%+v", ifs[0])
				}
			}
			if !strings.Contains(said, c.say) {
				t.Errorf("says %q, want %q in it", said, c.say)
			}
		})
	}
}

// A device may have interfaces of other classes, several of this class, and alternate
// settings that are never selected.
func TestParseComposite(t *testing.T) {
	one := newDevice(emu.TPDUReader()).Descriptors()
	part := one[18+9:]
	second := secondInterface(one, 2)
	alternate := bytes.Clone(part)
	alternate[3] = 1
	keyboard := []byte{9, 4, 1, 0, 1, 3, 1, 1, 0, 9, 0x21, 0x11, 1, 0, 1, 0x22, 65, 0, 7, 5, 0x84, 3, 8, 0, 10}
	b := bytes.Clone(one)
	b = append(append(append(b, alternate...), keyboard...), second...)
	_, ifs, err := Parse(b)
	if err != nil || len(ifs) != 2 || ifs[0].Number != 0 || ifs[1].Number != 2 {
		t.Fatalf("%+v, %v", ifs, err)
	}
	if n := (Driver{}).CountSlots(b); n != 2 {
		t.Errorf("CountSlots %d, want 2", n)
	}
	if n := (Driver{}).CountSlots(keyboard); n != 0 {
		t.Errorf("CountSlots of a keyboard %d, want 0", n)
	}
}

func FuzzParse(f *testing.F) {
	for _, c := range []emu.Config{emu.CharacterReader(), emu.TPDUReader(), emu.ExtendedAPDUReader(), emu.TwoSlotReader(), emu.PINPadReader(), emu.ICCDA(), emu.ICCDB()} {
		f.Add(newDevice(c).Descriptors())
	}
	f.Add([]byte{18, 1})
	f.Fuzz(func(t *testing.T, b []byte) {
		dev, ifs, err := Parse(b)
		if err != nil {
			return
		}
		e := lookup(dev)
		for _, i := range ifs {
			e.apply(&i)
			if i.MaxMessage < 15 || i.MaxMessage > 65554 || i.DefaultClock == 0 || i.MaxBusySlots == 0 ||
				int(i.MaxBusySlots) > int(i.MaxSlotIndex)+1 || i.Protocol == 0 && (i.In.PacketSize == 0 || i.Out.PacketSize == 0) {
				t.Errorf("%+v", i)
			}
			tr := (&function{ifd: &ifd{effects: e}, Interface: i}).traits()
			if tr.IFSD < 1 || tr.IFSD > 254 || tr.IFSC < 0 || tr.IFSC > 254 || tr.ClockHz <= 0 {
				t.Errorf("%+v", tr)
			}
		}
	})
}
