package ccid

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/cardfs/cardfs/drivers/bus/usb"
	"github.com/cardfs/cardfs/drivers/ccid/emu"
	"github.com/cardfs/cardfs/reader"
	"github.com/cardfs/cardfs/reader/iso7816"
)

// bError and bmICCStatus as errors of package reader, for each command that may fail
// (CCID 1.1 table 6.2-2 and makers' own).
func TestErrorKinds(t *testing.T) {
	const all, active, inactive, absent = -1, 0x40, 0x41, 0x42
	for _, tt := range []struct {
		command byte
		status  int
		codes   []byte
		want    error
	}{
		{cmdXfrBlock, active, []byte{0xFE}, reader.ErrTimeout},
		{cmdXfrBlock, inactive, []byte{0xFE}, reader.ErrStale},
		{cmdSecure, inactive, []byte{0xFE}, reader.ErrStale},
		{cmdSetParameters, inactive, []byte{0xFE}, reader.ErrStale},
		{cmdGetParameters, inactive, []byte{0xFE}, reader.ErrStale},
		{cmdSetRate, inactive, []byte{0xFE}, reader.ErrStale},
		{cmdEscape, inactive, []byte{0xFE}, reader.ErrTimeout},
		{cmdPowerOff, inactive, []byte{0xFE}, reader.ErrTimeout},
		{cmdXfrBlock, absent, []byte{0xFE, 0xFD, 0xFB, 0xF6, 0x07, 0xA2}, reader.ErrNoCard},
		{cmdPowerOn, absent, []byte{0xFE, 0xFD, 0xFB, 0xF6, 0x07, 0xA2}, reader.ErrNoCard},
		{cmdXfrBlock, absent, []byte{0x00, 0x05}, reader.ErrUnsupported},
		{cmdPowerOn, inactive, []byte{0xFE, 0xFD, 0xFC, 0xFB, 0xF8, 0xF7, 0xA2, 0xA3}, reader.ErrMute},
		{cmdPowerOn, active, []byte{0xFE, 0xFD, 0xFC, 0xFB, 0xF8, 0xF7, 0xA2, 0xA3}, reader.ErrMute},
		{cmdXfrBlock, active, []byte{0xFD, 0xFC, 0xFB, 0xA2, 0xFF, 0xF4, 0xF3, 0xF2, 0xE0, 0xEF, 0xEE, 0xBB, 0xBE, 0x80, 0x81, 0xC0}, reader.ErrProtocol},
		{cmdXfrBlock, active, []byte{0xF8, 0xF7, 0xA3}, reader.ErrMute},
		{cmdPowerOn, inactive, []byte{0xF6, 0xF5, 0x00, 0x01, 0x07, 0x7F}, reader.ErrUnsupported},
		{cmdXfrBlock, active, []byte{0xF6, 0xF5, 0x00, 0x01, 0x07, 0x7F}, reader.ErrUnsupported},
		{cmdSecure, active, []byte{0xF0}, reader.ErrTimeout},
		{cmdPowerOn, inactive, []byte{0xBB, 0xF2, 0xE0}, reader.ErrProtocol},
	} {
		for _, code := range tt.codes {
			e := &Error{Command: tt.command, Status: byte(tt.status), Code: code}
			if got := e.Unwrap(); got != tt.want {
				t.Errorf("%s, bStatus %02X, bError %02X: %v, want %v", commandName(tt.command), tt.status, code, got, tt.want)
			}
			if s := e.Error(); !strings.Contains(s, fmt.Sprintf("bError %02X", code)) || strings.Contains(s, "undefined") && code != 0x80 {
				t.Errorf("%02X: %s", code, s)
			}
		}
	}
	// If the reader waited for the card first, the card may have seen the command.
	if got := (&Error{Command: cmdXfrBlock, Status: inactive, Code: 0xFE, waited: true}).Unwrap(); got != reader.ErrTimeout {
		t.Error(got)
	}
	words := map[byte]string{0xFF: "aborted", 0xFE: "absent or mute", 0xFD: "parity", 0xFC: "overrun", 0xFB: "hardware", 0xF8: "bad TS", 0xF7: "bad TCK",
		0xF6: "protocol not supported", 0xF5: "class not supported", 0xF4: "procedure byte", 0xF3: "deactivated", 0xF2: "automatic sequence", 0xF0: "no PIN",
		0xEF: "cancelled", 0xEE: "differ", 0xE0: "busy", 0x00: "not supported", 0x01: "wrong length", 0x05: "does not exist", 0x0D: "offset 13", 0xA2: "short circuit",
		0xA3: "longer than 33", 0xAB: "nothing was exchanged", 0xB0: "EMV mode", 0xBB: "EMV rules", 0xBD: "T=1 failed", 0xBE: "C-APDU", 0x90: "maker's own", 0xC1: "undefined", 0x80: "undefined"}
	for code, want := range words {
		if got := describe(code); !strings.Contains(got, want) {
			t.Errorf("%02X: %q, want %q", code, got, want)
		}
	}
	for hardware, want := range map[byte]string{0: "", 1: "overcurrent", 2: "hardware error 02"} {
		if s := (&Error{Hardware: hardware}).Error(); !strings.Contains(s, want) || hardware == 0 && strings.Contains(s, "reports") {
			t.Error(s)
		}
	}
}

// Supports: dwDataRate and dwMaxDataRate are inclusive bounds of the rates; the table
// must contain the rate within 1 bit/s (CCID 1.1 §5.1, §5.3.3).
func TestSupports(t *testing.T) {
	// 3580 kHz: 9623 bit/s at 11, 19247 at 12, 111875 at 95, 223750 at 96.
	for _, tt := range []struct {
		name      string
		low, high uint32
		rates     []uint32
		ta1       byte
		want      bool
	}{
		{"the default, whatever is said", 1_000_000, 1_000_000, []uint32{1}, 0x11, true},
		{"equal to the least", 111875, 344086, nil, 0x95, false},
		{"above the least", 111874, 344086, nil, 0x95, true},
		{"equal to the most", 9600, 111875, nil, 0x95, true},
		{"two above the most", 9600, 111873, nil, 0x95, true},
		{"three above the most", 9600, 111872, nil, 0x95, false},
		{"no end", 9600, 0xFFFFFFFE, nil, 0x95, true},
		{"no end", 9600, 0xFFFFFFFF, nil, 0x95, true},
		{"slower than the default", 1, 344086, nil, 0x01, false},
		{"in the table", 9600, 344086, []uint32{1, 111875}, 0x95, true},
		{"one above", 9600, 344086, []uint32{111876}, 0x95, true},
		{"one below", 9600, 344086, []uint32{111874}, 0x95, true},
		{"two above", 9600, 344086, []uint32{111877}, 0x95, false},
		{"two below", 9600, 344086, []uint32{111873}, 0x95, false},
		{"reserved", 9600, 344086, nil, 0x7F, false},
	} {
		f := &function{ifd: &ifd{}, Interface: Interface{Descriptor: Descriptor{DefaultClock: 3580, DataRate: tt.low, MaxDataRate: tt.high}}, rates: tt.rates}
		if got := (&slot{function: f, lane: &lane{}}).Supports(tt.ta1); got != tt.want {
			t.Errorf("%s: %v", tt.name, got)
		}
	}
	// 08E6:3480: other rates in the second slot.
	f := &function{ifd: &ifd{effects: lookup(usb.Device{Vendor: 0x08E6, Product: 0x3480, Release: 0x200})}, rates: []uint32{111875},
		Interface: Interface{Descriptor: Descriptor{DefaultClock: 4000, DataRate: 9600, MaxDataRate: 344086}}}
	for n, want := range map[byte]map[byte]bool{0: {0x18: false, 0x95: false}, 1: {0x18: false, 0x95: true, 0x12: true, 0x94: false}} {
		for ta1, ok := range want {
			if got := (&slot{function: f, lane: &lane{slot: n}}).Supports(ta1); got != ok {
				t.Errorf("slot %d, TA1 %02X: %v", n, ta1, got)
			}
		}
	}
}

// A GET_DATA_RATES answer that is empty, or whose length is not a multiple of four, is
// not a table (CCID 1.1 §5.3.3).
func TestRateTables(t *testing.T) {
	for back, want := range map[string]int{"98 25 00 00 04 B5 01 00": 2, "98 25 00 00 04 B5 01": 0, "98": 0, "": 0, "98 25 00 00 00 00 00 00 04 B5 01 00": 2, "stall": 0} {
		synctest.Test(t, func(t *testing.T) {
			cfg := emu.TPDUReader()
			cfg.Rates = []uint32{1, 2, 3}
			r := opened(t, play(t, cfg, hello+"IN  A1 03 0000 0000 000C |"+back))
			if got := len(r.functions[0].rates); got != want {
				t.Errorf("%q: %d rates", back, got)
			}
		})
	}
}

// SetDataRateAndClockFrequency sets the rate asked for, within one percent (CCID 1.1
// §6.2.5).
func TestRateThatWasSet(t *testing.T) {
	const asked = 111875
	for _, tt := range []struct {
		got uint32
		err error
	}{{asked, nil}, {asked + 1118, nil}, {asked + 1119, reader.ErrProtocol}, {asked - 1118, nil}, {asked - 1119, reader.ErrProtocol}, {9600, reader.ErrProtocol}, {0, reader.ErrProtocol}} {
		synctest.Test(t, func(t *testing.T) {
			cfg := emu.TPDUReader()
			cfg.Features = emu.AutoVoltage | emu.AutoClock
			r := opened(t, play(t, cfg, hello+fmt.Sprintf(`
				OUT 02 | 61 05 00 00 00  00 01 00 00 00  95 00 00 0A 00
				IN  81 | 82 05 00 00 00  00 01 00 00 00  95 00 00 0A 00
				OUT 02 | 73 08 00 00 00  00 02 00 00 00  FC 0D 00 00  03 B5 01 00
				IN  81 | 84 08 00 00 00  00 02 00 00 00  FC 0D 00 00  %02X %02X %02X 00
			`, byte(tt.got), byte(tt.got>>8), byte(tt.got>>16))))
			s := r.slots[0].(*slot)
			check(t, nil, s.SetParams(ctx, iso7816.Params{T: 0, TA1: 0x95, WI: 10}), nil, tt.err)
			if fast := s.timing(iso7816.Params{T: 0, TA1: 0x95, WI: 10}); (s.pace == fast) != (tt.err == nil) {
				t.Errorf("%d: pace %v", tt.got, s.pace)
			}
		})
	}
}
