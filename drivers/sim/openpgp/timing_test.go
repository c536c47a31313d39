package openpgp

import (
	"testing"
	"time"

	"github.com/cardfs/cardfs/drivers/sim/applet"
)

// How long a command takes depends on the algorithm of the slot that it uses.
func TestTakes(t *testing.T) {
	_, a := fuzzCard(t) // P-256
	rsa := func(i, bits int) { a.Slots[i].Attributes = []byte{algRSA, byte(bits >> 8), byte(bits), 0, 32, 0} }
	takes := func(command string, want time.Duration) {
		t.Helper()
		if k, ok := applet.Parse(unhex(command)); !ok || a.Takes(k) != want {
			t.Errorf("%s takes %v, want %v", command, a.Takes(k), want)
		}
	}
	for _, use := range []string{"002A9E9A0101", "002A80860101", "0088000001AA"} {
		takes(use, applet.TimeCurve)
	}
	takes("0047800002B60000", applet.TimeCurveKey)
	rsa(signature, 2048)
	rsa(decryption, 3072)
	rsa(authentication, 4096)
	takes("002A9E9A0101", 250*time.Millisecond)
	takes("002A80860100", 843750*time.Microsecond)
	takes("002A80860102", applet.TimeCommand) // AES
	takes("0088000001AA", 2*time.Second)
	takes("0047800002B60000", 9*time.Second)
	takes("0047800005B8038401 0200", 45562500*time.Microsecond)
	takes("0047800002A40000", 144*time.Second)
	takes("0047810002A40000", applet.TimeCommand) // only read
	takes("00CA006E00", applet.TimeCommand)
	takes("0024008101AA", applet.TimePIN)
	takes("00DB3FFF01AA", applet.TimeWrite)
	a.decipherer = authentication
	takes("002A80860100", 2*time.Second)
}
