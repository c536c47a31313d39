package piv

import (
	"testing"
	"time"

	"github.com/cardfs/cardfs/drivers/sim/applet"
)

// How long a command takes depends on its algorithm.
func TestTakes(t *testing.T) {
	h := newHost(t, cheap)
	for command, want := range map[string]time.Duration{
		"0087079A 00": 250 * time.Millisecond, "0087059A 00": 843750 * time.Microsecond, "0087169A 00": 2 * time.Second,
		"0087119A 00": applet.TimeCurve, "0087E09A 00": applet.TimeCurve, "0087039B 00": applet.TimeCommand, "00870C9B 00": applet.TimeCommand,
		"0047009A 05 AC03800107": 9 * time.Second, "0047009A 05 AC03800116": 144 * time.Second, "0047009A 05 AC03800114": applet.TimeCurveKey, "0047009A": applet.TimeCommand,
		"00200080 01 AA": applet.TimePIN, "00DB3FFF 01 AA": applet.TimeWrite, "00CB3FFF 01 AA": applet.TimeCommand,
	} {
		if k, ok := applet.Parse(unhex(command)); !ok || h.app.Takes(k) != want {
			t.Errorf("%s takes %v, want %v", command, h.app.Takes(k), want)
		}
	}
}
