package ccid

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cardfs/cardfs/drivers/bus/usb"
	"github.com/cardfs/cardfs/drivers/bus/usb/usbtest"
	"github.com/cardfs/cardfs/drivers/ccid/emu"
	"github.com/cardfs/cardfs/reader"
	"github.com/cardfs/cardfs/reader/iso7816"
)

// summary lists the effects that differ from those of a reader without quirks.
func summary(e effects) string {
	var list []string
	plain := reflect.ValueOf(lookup(usb.Device{Vendor: 1, Product: 1}))
	v := reflect.ValueOf(e)
	for n := range v.NumField() {
		name, got := v.Type().Field(n).Name, v.Field(n)
		if fmt.Sprint(got) == fmt.Sprint(plain.Field(n)) {
			continue
		}
		text := fmt.Sprint(got)
		switch {
		case got.Kind() == reflect.Slice && got.Type().Elem().Kind() == reflect.Uint8:
			text = fmt.Sprintf("% X", got.Bytes())
		case got.Type() == reflect.TypeFor[time.Duration]():
			text = time.Duration(got.Int()).String()
		case name == "minFirmware":
			text = fmt.Sprintf("%04X", got.Uint())
		case got.Kind() == reflect.Bool:
			list = append(list, name)
			continue
		}
		list = append(list, name+"="+text)
	}
	return strings.Join(list, " ")
}

// The known faults of readers in use, written down a second time from libccid and OpenCT:
// refused firmware, and the remedies for wrong descriptors. "release" is bcdDevice.
func TestQuirksByModel(t *testing.T) {
	const gemalto = "conditionMask modifyIndexes"
	known := make(map[model]bool)
	for _, tt := range []struct {
		vendor, product, release uint16
		want                     string
	}{
		// Refused firmware, and the first version that is accepted.
		{0x04E6, 0xE001, 0x0515, "minFirmware=0516"}, {0x04E6, 0xE001, 0x0516, ""},
		{0x04E6, 0x5111, 0x0619, "minFirmware=0620"}, {0x04E6, 0x5111, 0x0620, ""},
		{0x04E6, 0xE003, 0x050F, "minFirmware=0510 modifyIndexes appendPIN=80 02 00"}, {0x04E6, 0xE003, 0x0510, "modifyIndexes appendPIN=80 02 00"},
		{0x0D46, 0x3001, 0x0036, "minFirmware=0037"}, {0x0D46, 0x3001, 0x0037, ""},
		{0x0D46, 0x3002, 0x0036, "minFirmware=0037"}, {0x0D46, 0x3002, 0x0037, ""},
		{0x09C3, 0x0008, 0x0202, "minFirmware=0203"}, {0x09C3, 0x0008, 0x0203, ""},
		{0x0DC3, 0x1004, 0x0501, "minFirmware=0502"}, {0x0DC3, 0x1004, 0x0502, ""},
		{0x0DC3, 0x1102, 0x0606, "minFirmware=0607"}, {0x0DC3, 0x1102, 0x0607, ""},
		{0x058F, 0x9520, 0x0101, "minFirmware=0102"}, {0x058F, 0x9520, 0x0102, ""},
		{0x062D, 0x0001, 0x0101, "minFirmware=0102"}, {0x062D, 0x0001, 0x0102, ""},
		{0x072F, 0x2200, 0x0205, "minFirmware=0206 openFactor=10"}, {0x072F, 0x2200, 0x0206, "openFactor=10"},
		{0x08C3, 0x0402, 0x4FFF, "minFirmware=5000"}, {0x08C3, 0x0402, 0x5000, ""},
		{0x08C3, 0x0401, 0x4FFF, "minFirmware=5000"}, {0x08C3, 0x0401, 0x5000, ""},
		{0x0B0C, 0x0050, 0x0100, "minFirmware=0101"}, {0x0B0C, 0x0050, 0x0101, ""},
		{0x0DC3, 0x0900, 0x01FF, "minFirmware=0200"}, {0x0DC3, 0x0900, 0x0200, ""},
		{0x03F0, 0x0036, 0x0123, "minFirmware=0124 noPINPad"}, {0x03F0, 0x0036, 0x0124, "noPINPad"},
		{0x04E6, 0x5291, 0x0111, "minFirmware=0112"}, {0x04E6, 0x5291, 0x0112, ""},
		// Wrong descriptors.
		{0x09BE, 0x0002, 0x0100, "ifsd=254"},
		{0x0B97, 0x7762, 0x0111, "maxRate=9600 noPPS split64"}, {0x0B97, 0x7772, 0x0100, "maxRate=9600 noPPS split64"},
		{0x058F, 0x9540, 0x0100, "maxRate=200000 dropRates forgive"},
		{0x076B, 0x3A21, 0x0100, "noPINPad chains"}, {0x076B, 0x3031, 0x0100, "noPINPad chains"}, {0x076B, 0x6632, 0x0100, "noPINPad chains"},
		{0x046A, 0x00A7, 0x0100, "noPINPad chains"}, {0x0BF8, 0x1024, 0x0100, "noPINPad chains"},
		{0x25DD, 0x3111, 0x0100, "noPINPad"}, {0x0783, 0x0006, 0x0100, "noPINPad"},
		{0x03F0, 0x1024, 0x0100, "noPINPad"}, {0x0BF8, 0x1017, 0x0100, "noPINPad"}, {0x04F2, 0x1469, 0x0100, "noPINPad"},
		{0x0D46, 0x3010, 0x0100, fmt.Sprintf("level=%d", LevelShort)}, {0x2F7C, 0x6007, 0x0100, "chains"},
		{0x046A, 0x00A1, 0x00FF, "notZero"}, {0x046A, 0x00A1, 0x0100, "chains notZero"}, {0x046A, 0x00A1, 0x0101, "notZero"},
		{0x0529, 0x0620, 0x0011, ""}, {0x0529, 0x0620, 0x0012, "autoIFSD"}, {0x0529, 0x0620, 0x0013, "autoIFSD"}, {0x0529, 0x0620, 0x0014, ""},
		// Times.
		{0x0B81, 0x0200, 0x0100, "startDelay=1s factor=20"},
		{0x09D8, 0x0427, 0x0100, "openFactor=10"}, {0x09D8, 0x0428, 0x0100, "openFactor=10"}, {0x04E6, 0x5293, 0x0100, "openFactor=4"},
		{0x04E6, 0x5790, 0x0100, "factor=4"}, {0x04E6, 0x5791, 0x0100, "factor=4"}, {0x04E6, 0x5724, 0x0100, "factor=4"},
		{0x08E6, 0x34D2, 0x0100, "extraT1=5m0s " + gemalto}, {0x08E6, 0x3437, 0x0200, gemalto}, {0x08E6, 0x3438, 0x0200, gemalto},
		{0x413C, 0x2101, 0x0100, "secureDelay=250ms verifyMessages=0 modifyMessages=0"}, {0x413C, 0x2100, 0x0100, "secureDelay=250ms verifyMessages=0 modifyMessages=0 swapDigits"},
		// Cards and slots.
		{0x0D46, 0x301D, 0x0100, "offFirst"}, {0x046A, 0x0005, 0x0100, "isoMode=1F 01"}, {0x08E6, 0x4433, 0x0100, "noPINPad isoMode=1F 01 " + gemalto},
		{0x0424, 0x1202, 0x0100, "offFirst mirror"},
		{0x08E6, 0x3480, 0x01FF, "slotRates=[10753 21505 43011 125000] phantom " + gemalto}, {0x08E6, 0x3480, 0x0200, "slotRates=[10753 21505 43011 125000] " + gemalto},
		{0x08E6, 0x3479, 0x0100, "slotRates=[10753 21505 43011 125000] " + gemalto},
		{0x08E6, 0x5503, 0x0100, "exclusive escapes " + gemalto}, {0x08E6, 0x5504, 0x0100, "exclusive escapes " + gemalto},
		{0x2947, 0x0112, 0x0100, "interfaces=00"}, {0x2947, 0x0105, 0x0100, "interfaces=00 01 02"}, {0x2947, 0x0106, 0x0100, ""},
		// PINs.
		{0x08E6, 0x3478, 0x0100, "verifyMessages=1 verifyOKOnly " + gemalto}, {0x0982, 0x0008, 0x0100, "verifyMessages=1 verifyOKOnly modifyIndexes"},
		{0x08E6, 0x1234, 0x0100, gemalto}, {0x046A, 0x003E, 0x0100, "modifyIndexes"}, {0x046A, 0x0010, 0x0100, "modifyMessages=3"},
		{0x046A, 0x0011, 0x0100, ""},
	} {
		known[model{tt.vendor, tt.product}] = true
		if got := summary(lookup(usb.Device{Vendor: tt.vendor, Product: tt.product, Release: tt.release})); got != tt.want {
			t.Errorf("%04X:%04X %04X: %q, want %q", tt.vendor, tt.product, tt.release, got, tt.want)
		}
	}
	for _, q := range quirks {
		for _, m := range q.models {
			if m.product != 0 && !known[m] {
				t.Errorf("%04X:%04X is not above", m.vendor, m.product)
			}
		}
	}
}

// Corrections of a descriptor by the quirks.
func TestQuirksApplied(t *testing.T) {
	one := func(e effects) Interface {
		_, ifs, err := Parse(newDevice(emu.PINPadReader()).Descriptors())
		if err != nil {
			t.Fatal(err)
		}
		e.apply(&ifs[0])
		return ifs[0]
	}
	plain := one(effects{})
	for name, got := range map[string]bool{
		"nothing":      plain.MaxIFSD == 254 && plain.MaxDataRate == 344086 && plain.PINSupport == 3 && plain.Features.Level() == reader.ShortAPDU && !plain.long,
		"IFSD":         one(effects{ifsd: 77}).MaxIFSD == 77,
		"rate":         one(effects{maxRate: 9600}).MaxDataRate == 9600,
		"rate above":   one(effects{maxRate: 1_000_000}).MaxDataRate == 344086,
		"no PIN pad":   one(effects{noPINPad: true}).PINSupport == 0,
		"level":        one(effects{level: LevelTPDU}).Features.Level() == reader.TPDU,
		"level rest":   one(effects{level: LevelTPDU}).Features&^levelMask == plain.Features&^levelMask,
		"IFSD by self": one(effects{autoIFSD: true}).Features == plain.Features|AutoIFSD,
	} {
		if !got {
			t.Error(name)
		}
	}
	for n, long := range map[int]bool{262: false, 263: true, 264: false, 271: false} {
		cfg := emu.ShortAPDUReader()
		cfg.MaxMessage = n
		_, ifs, err := Parse(newDevice(cfg).Descriptors())
		if err != nil {
			t.Fatal(err)
		}
		(&effects{}).apply(&ifs[0])
		if ifs[0].long != long {
			t.Errorf("dwMaxCCIDMessageLength %d: long %v", n, ifs[0].long)
		}
	}
}

// Effects of the quirks on the wire.
func TestQuirksOnTheWire(t *testing.T) {
	const (
		on    = "OUT 02 | 62 00 00 00 00  00 %02X 00 00 00\nIN  81 | 80 04 00 00 00  00 %02X 00 00 00  3B 02 14 50\n"
		off   = "OUT 02 | 63 00 00 00 00  00 %02X 00 00 00\nIN  81 | 81 00 00 00 00  00 %02X 01 00 01\n"
		block = "OUT 02 | 6F 01 00 00 00  00 %02X 00 00 00  00\nIN  81 | 80 02 00 00 00  00 %02X 00 00 00  90 00\n"
	)
	f := func(parts ...string) string {
		for n, p := range parts {
			parts[n] = strings.ReplaceAll(p, "%02X", fmt.Sprintf("%02X", n+1))
		}
		return hello + strings.Join(parts, "")
	}
	power := func(t *testing.T, s *slot) {
		t.Helper()
		atr, err := s.PowerOn(ctx, reader.Cold)
		check(t, atr, err, atrT0, nil)
	}
	for _, tt := range []struct {
		name   string
		cfg    emu.Config
		script string
		do     func(*testing.T, *slot)
	}{
		{"power off before each power on", as(emu.TPDUReader(), 0x0D46, 0x301D, 0x100), f(off, on, off, on), func(t *testing.T, s *slot) {
			power(t, s)
			if _, err := s.PowerOn(ctx, reader.Warm); err != nil {
				t.Error(err)
			}
		}},
		{"EMV mode", as(emu.TPDUReader(), 0x046A, 0x0005, 0x100), f(
			"OUT 02 | 62 00 00 00 00  00 %02X 00 00 00\nIN  81 | 80 00 00 00 00  00 %02X 41 BB 00\n",
			"OUT 02 | 6B 02 00 00 00  00 %02X 00 00 00  1F 01\nIN  81 | 83 00 00 00 00  00 %02X 01 00 00\n", on), power},
		{"EMV mode of another", emu.TPDUReader(), f("OUT 02 | 62 00 00 00 00  00 %02X 00 00 00\nIN  81 | 80 00 00 00 00  00 %02X 41 BB 00\n"), func(t *testing.T, s *slot) {
			_, err := s.PowerOn(ctx, reader.Cold)
			check(t, nil, err, nil, reader.ErrProtocol)
		}},
		{"parameters forgiven", as(emu.TPDUReader(), 0x058F, 0x9540, 0x100), f(on,
			"OUT 02 | 61 05 00 00 00  00 %02X 00 00 00  95 00 00 0A 00\nIN  81 | 82 00 00 00 00  00 %02X 41 FB 00\n", on, on, block), func(t *testing.T, s *slot) {
			power(t, s)
			check(t, nil, s.SetParams(ctx, iso7816.Params{T: 0, TA1: 0x95, WI: 10}), nil, nil)
			rx, err := s.Exchange(ctx, reader.Transfer{Out: []byte{0}}, nil)
			check(t, rx, err, unhex("90 00"), nil)
		}},
		{"parameters not forgiven", emu.TPDUReader(), f(on,
			"OUT 02 | 61 05 00 00 00  00 %02X 00 00 00  95 00 00 0A 00\nIN  81 | 82 00 00 00 00  00 %02X 41 FB 00\n"), func(t *testing.T, s *slot) {
			power(t, s)
			check(t, nil, s.SetParams(ctx, iso7816.Params{T: 0, TA1: 0x95, WI: 10}), nil, reader.ErrProtocol)
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { tt.do(t, opened(t, play(t, tt.cfg, tt.script)).functions[0].own[0]) })
		})
	}
	t.Run("rates above the most are dropped", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			cfg := as(emu.TPDUReader(), 0x058F, 0x9540, 0x100)
			cfg.Rates = []uint32{1, 2, 3, 4}
			// 9600, 200000, 200001, 223750 bit/s
			s := opened(t, play(t, cfg, hello+"IN  A1 03 0000 0000 0010 | 80 25 00 00 40 0D 03 00 41 0D 03 00 06 6A 03 00")).slots[0].(*slot)
			if fmt.Sprint(s.rates) != "[9600 200000]" || s.Supports(0x96) {
				t.Error(s.rates)
			}
		})
	})
	t.Run("delays", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			start := time.Now()
			oddReader(t, as(emu.TPDUReader(), 0x0B81, 0x0200, 0x100))
			if took := time.Since(start); took != time.Second {
				t.Errorf("opened after %v", took)
			}
			some, cancel := context.WithTimeout(ctx, time.Millisecond)
			defer cancel()
			if _, err := (Driver{}).Open(some, reader.Device{Link: newDevice(as(emu.TPDUReader(), 0x0B81, 0x0200, 0x100))}); !errors.Is(err, context.DeadlineExceeded) {
				t.Error(err)
			}
			o, s := oddReader(t, as(emu.PINPadReader(), 0x413C, 0x2101, 0x100))
			o.in = func(p []byte, _ time.Duration) (int, error) { return copy(p, o.answer(0x90, 0)), nil }
			start = time.Now()
			if _, err := s.VerifyPIN(ctx, &reader.PINVerify{PINFormat: format2()}, nil); err != nil || time.Since(start) != 250*time.Millisecond {
				t.Errorf("%v after %v", err, time.Since(start))
			}
		})
	})
}

// 08E6:5503: one command at a time in both interfaces. Powering on the other one is
// preceded, once, by the Escape that selects it.
func TestOneInterfaceAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newComposite(as(emu.TPDUReader(), 0x08E6, 0x5503, 0x100), as(emu.TPDUReader(), 0x08E6, 0x5503, 0x100))
		var escapes []string
		for n, p := range c.parts {
			p.Contact(0).Insert(&testCard{atr: atrT0})
			p.Observe(func(r usbtest.Line) {
				if r.Endpoint == 0x02 && r.Data[0] == cmdEscape {
					escapes = append(escapes, fmt.Sprintf("%d: % X", n, r.Data[headerLen:]))
				}
			})
		}
		r, err := Driver{}.Open(ctx, reader.Device{Link: c})
		if err != nil {
			t.Fatal(err)
		}
		defer c.parts[0].Unplug()
		defer c.parts[1].Unplug()
		defer r.Close()
		for _, n := range []int{1, 1, 0, 1} {
			if _, err := r.Slots()[n].PowerOn(ctx, reader.Warm); err != nil {
				t.Fatal(err)
			}
		}
		if got := strings.Join(escapes, ", "); got != "1: 52 F8 04 01 00 01, 0: 52 F8 04 01 00 00, 1: 52 F8 04 01 00 01" {
			t.Error(got)
		}
		// Like 80 E8, these 00 A4 take a second each.
		if _, err := r.Slots()[0].PowerOn(ctx, reader.Warm); err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		done := make(chan error, 2)
		for _, s := range r.Slots() {
			go func() {
				_, err := s.Exchange(ctx, reader.Transfer{Out: unhex("80 E8 00 0A 00")}, nil)
				done <- err
			}()
		}
		for range 2 {
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
		if took := time.Since(start); took < 2*time.Second {
			t.Errorf("two seconds' work in %v", took)
		}
	})
}
