package ccid

import (
	"strings"
	"testing"
	"testing/synctest"

	"github.com/cardfs/cardfs/drivers/bus/usb"
	"github.com/cardfs/cardfs/drivers/ccid/emu"
	"github.com/cardfs/cardfs/reader"
)

// Each setting has the effect that its name says, over what the table says of the model, and
// no other; what makes no sense is refused, by name.
func TestUserSettings(t *testing.T) {
	plain := usb.Device{Vendor: 1, Product: 1}
	for key, c := range map[string]struct {
		takes   map[string]string // value: effects
		refuses string
	}{
		"any-firmware":    {map[string]string{"true": "", "false": ""}, "yes 1 TRUE"},
		"auto-ifsd":       {map[string]string{"true": "autoIFSD", "false": ""}, "yes"},
		"chains":          {map[string]string{"true": "chains", "false": ""}, "yes"},
		"ifsd":            {map[string]string{"1": "ifsd=1", "32": "ifsd=32", "254": "ifsd=254"}, "0 255 -1 x"},
		"level":           {map[string]string{"tpdu": "level=65536", "short": "level=131072", "extended": "level=262144"}, "character TPDU 1"},
		"max-rate":        {map[string]string{"9600": "maxRate=9600 dropRates"}, "0 4294967296 9600baud"},
		"no-pinpad":       {map[string]string{"true": "noPINPad", "false": ""}, "yes"},
		"no-pps":          {map[string]string{"true": "noPPS", "false": ""}, "yes"},
		"power-off-first": {map[string]string{"true": "offFirst", "false": ""}, "yes"},
		"start-delay":     {map[string]string{"0s": "", "500ms": "startDelay=500ms", "1m": "startDelay=1m0s"}, "61s -1s 5 x"},
		"time-factor":     {map[string]string{"1": "", "4": "factor=4", "100": "factor=100"}, "0 101 x"},
	} {
		for value, want := range c.takes {
			q := Quirk{1, 1, map[string]string{key: value}}
			if err := CheckSetting(key, value); err != nil {
				t.Errorf("%s=%s: %v", key, value, err)
			}
			if got := summary(lookup(plain, q)); got != want {
				t.Errorf("%s=%s: %q, want %q", key, value, got, want)
			}
		}
		for value := range strings.FieldsSeq(c.refuses) {
			if err := CheckSetting(key, value); err == nil || !strings.HasPrefix(err.Error(), key+": ") {
				t.Errorf("%s=%s: %v", key, value, err)
			}
		}
	}
	if len(Settings()) != 11 {
		t.Errorf("%d settings", len(Settings()))
	}
	if err := CheckSetting("nosuch", "1"); err == nil || !strings.Contains(err.Error(), "there are any-firmware, auto-ifsd") {
		t.Error(err)
	}

	// The table has noPINPad for this model, and a firmware that is too old for that one.
	if got := summary(lookup(usb.Device{Vendor: 0x25DD, Product: 0x3111}, Quirk{0x25DD, 0x3111, map[string]string{"no-pinpad": "false"}})); got != "" {
		t.Error(got)
	}
	if got := summary(lookup(usb.Device{Vendor: 0x04E6, Product: 0x5291, Release: 0x0111}, Quirk{0x04E6, 0x5291, map[string]string{"any-firmware": "true"}})); got != "" {
		t.Error(got)
	}
}

// They count for the devices of that model alone, when these are opened, and `status`
// shows them.
func TestUserQuirks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var own UserQuirks
		quirks := func(d Driver) string {
			r, err := d.Open(ctx, reader.Device{Link: newDevice(as(emu.TPDUReader(), 0x1111, 0x2222, 0x0100))})
			if err != nil {
				t.Fatal(err)
			}
			defer r.Close()
			_, more := r.(reader.Identifier).Identify()
			if got := r.(*ifd).factor; (got == 3) != (more["quirks"] != "") {
				t.Errorf("factor %d, %q", got, more["quirks"])
			}
			return more["quirks"]
		}
		if got := quirks(Driver{}) + quirks(Driver{Quirks: &own}); got != "" {
			t.Error(got)
		}
		settings := map[string]string{"time-factor": "3", "no-pps": "true"}
		for _, other := range []Quirk{{0x1111, 0x2223, settings}, {0x1112, 0x2222, settings}} {
			own.Set([]Quirk{other})
			if got := quirks(Driver{Quirks: &own}); got != "" {
				t.Errorf("%04X:%04X: %s", other.Vendor, other.Product, got)
			}
		}
		own.Set([]Quirk{{0x1111, 0x2222, settings}})
		if got := quirks(Driver{Quirks: &own}); got != "set by the user: no-pps=true time-factor=3" {
			t.Error(got)
		}
		own.Set(nil)
		if got := quirks(Driver{Quirks: &own}); got != "" {
			t.Error(got)
		}
	})
}
