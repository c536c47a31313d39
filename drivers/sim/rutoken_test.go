package sim

import (
	"strings"
	"testing"
)

// A rutoken's driver rewrites commands, so that somebody who knows ISO/IEC 7816-4 alone can
// select, read and verify. With rewrite=off the card is spoken to as it is.
func TestRutoken(t *testing.T) {
	mf := "62 3D 81 02 00 20 80 02 00 00 82 02 38 00 83 02 3F 00 8A 01 05 86 28" + strings.Repeat(" 00", 40) + " 90 00"
	ef := "62 3D 81 02 00 A0 80 02 00 80 82 02 01 00 83 02 10 01 8A 01 05 86 28 02 00 01" + strings.Repeat(" 00", 9) + " 02" + strings.Repeat(" 00", 27) + " 90 00"
	for _, tt := range []struct {
		params   string
		commands []string // and answers
	}{
		{"", []string{
			"00 A4 00 00 02 3F 00", mf,
			"00 A4 00 00 02 3F 00 00", mf,
			"00 A4 00 00 02 00 3F 00", "6A 82",
			"00 A4 00 00 02 10 01", ef,
			"00 B0 00 00 04", "00 00 00 00 90 00",
			"00 D6 00 00 02 AA BB", "69 82",
			"00 20 00 02", "63 CA",
			"00 20 00 02 08 31 32 33 34 35 36 37 39", "63 C9",
			"00 20 00 02 08 31 32 33 34 35 36 37 38", "90 00",
			"00 D6 00 00 02 AA BB", "90 00",
			"00 B0 00 00 03", "AA BB 00 90 00",
			"00 B0 00 7E 00", "00 00 90 00",
			"00 CA 00 5A 00", "89 49 SERIAL 90 00",
		}},
		{" rewrite=off", []string{
			"00 A4 00 00 02 3F 00", "6A 82",
			"00 A4 00 00 02 00 3F", "90 00",
			"00 C0 00 00 20", "20 00 00 00 38 00 00 3F 05" + strings.Repeat(" 00", 23) + " 90 00",
			"00 CA 00 5A 00", "89 49 SERIAL 90 00",
		}},
	} {
		t.Run(tt.params, func(t *testing.T) {
			m, _ := manager(t)
			ctl(t, m, "attach sim rutoken serial=S7"+tt.params)
			s := open(t, m, 0)
			for i := 0; i < len(tt.commands); i += 2 {
				got, want := transmit(t, s, tt.commands[i]), tt.commands[i+1]
				if strings.Contains(want, "SERIAL") && len(got) == 35 {
					got = got[:6] + "SERIAL" + got[29:]
				}
				if got != want {
					t.Errorf("%s:\n%s, want\n%s", tt.commands[i], got, want)
				}
			}
		})
	}
}

// A parameter of the device's own driver is checked when the device is attached, and other
// devices do not have it.
func TestParams(t *testing.T) {
	m, _ := manager(t)
	for device, says := range map[string]string{
		"rutoken rewrite=maybe": "rewrite=maybe: is none of on, off",
		"rutoken rewrote=on":    "rewrote=on: is not known; there are card, memory, start, slow, serial, atr, keys, model, seed, state, rewrite",
		"ikey3k rewrite=on":     "rewrite=on: is not known; there are card, memory, start, slow, serial, atr, keys, model, seed, state:",
	} {
		name, param, _ := strings.Cut(device, " ")
		key, value, _ := strings.Cut(param, "=")
		err := m.Attach("sim", name, map[string]string{key: value})
		if err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v, want %q", device, err, says)
		}
	}
	if got := Params("rutoken")["rewrite"]; len(got) != 2 || Params("ikey3k") != nil || Params("none") != nil {
		t.Errorf("%v", got)
	}
}
