package icc

import (
	"strings"
	"testing"
)

// The interface bytes for T=1 are those of the first group behind TD2 or later that is for T=1
// (ISO/IEC 7816-3:2006 §11.4): IFSC, BWI and CWI, and in bit 1 of TC the redundancy code,
// CRC for 1. TA2 is the specific mode, TC2 the waiting integer of T=0 (§10.2, §8.3).
func TestATRParameters(t *testing.T) {
	base := params{ta1: 0x11, fd: 0x11, wi: 10, ifsc: 32, bwi: 4, cwi: 13}
	with := func(f func(p *params)) params {
		p := base
		f(&p)
		return p
	}
	for _, x := range []struct {
		atr  string
		want params
	}{
		{"3B 00", with(func(p *params) { p.offered = 1 })},
		{"3B 10 95", with(func(p *params) { p.offered, p.ta1 = 1, 0x95 })},
		{"3B 80 01", with(func(p *params) { p.offered, p.t = 2, 1 })},
		{"3B 80 81 41 00", with(func(p *params) { p.offered, p.t = 2, 1 })},
		{"3B 80 81 41 01", with(func(p *params) { p.offered, p.t, p.crc = 2, 1, true })},
		{"3B 80 81 41 02", with(func(p *params) { p.offered, p.t = 2, 1 })},
		{"3B 80 81 41 03", with(func(p *params) { p.offered, p.t, p.crc = 2, 1, true })},
		{"3B 80 81 11 FE", with(func(p *params) { p.offered, p.t, p.ifsc = 2, 1, 254 })},
		{"3B 80 81 21 75", with(func(p *params) { p.offered, p.t, p.bwi, p.cwi = 2, 1, 7, 5 })},
		{"3B 80 81 F1 20 13 01 11 FE", with(func(p *params) { p.offered, p.t, p.ifsc, p.bwi, p.cwi, p.crc = 2, 1, 32, 1, 3, true })},
		{"3B 80 81 F1 20 13 00 71 FE 45 01", with(func(p *params) { p.offered, p.t, p.ifsc, p.bwi, p.cwi = 2, 1, 32, 1, 3 })},
		{"3B 80 80 01", with(func(p *params) { p.offered = 3 })},
		{"3B 80 40 14", with(func(p *params) { p.offered, p.wi = 1, 20 })},
		{"3B 90 95 10 00", with(func(p *params) { p.offered, p.specific, p.ta1, p.fd = 1, true, 0x95, 0x95 })},
		{"3B 90 95 10 11", with(func(p *params) { p.offered, p.specific, p.t, p.ta1 = 3, true, 1, 0x95 })},
		{"3B 80 81 1F 47", with(func(p *params) { p.offered, p.t = 2, 1 })}, // global, of T=15
	} {
		got, err := parseATR(unhex(x.atr))
		if err != nil || got != x.want {
			t.Errorf("%s: %+v, %v; want %+v", x.atr, got, err, x.want)
		}
	}
	for atr, why := range map[string]string{
		"3B 80": "ends within", "3B 10": "ends within", "3B 80 81": "ends within", "3B 80 81 11": "ends within",
		"3B 80 02": "T=0 and T=1 only", "3B 80 81 11 00": "IFSC 0", "3B 80 81 11 FF": "IFSC 255",
	} {
		if _, err := parseATR(unhex(atr)); err == nil || !strings.Contains(err.Error(), why) {
			t.Errorf("%s: %v, want %q", atr, err, why)
		}
	}
}
