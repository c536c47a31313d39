package usbtest

import "testing"

// Each transfer gets the first fault that matches it. Faults for other transfers, and those
// still to be skipped, do not block later ones.
func TestFaultsInTurn(t *testing.T) {
	d := New(Model{})
	d.Inject(Fault{Kind: Noise, On: "IN 82"}, Fault{Kind: Silent, On: "IN 81", Skip: 1}, Fault{Kind: Stalled, On: "IN 81", Count: 2}, Fault{Kind: Short, On: "OUT 02", Count: -1})
	for i, tt := range []struct {
		line string
		want FaultKind
	}{
		{"IN 81", Stalled}, {"IN 81", Silent}, {"IN 81", Stalled}, {"IN 81", 0}, {"OUT 02", Short}, {"OUT 02", Short}, {"IN 82", Noise}, {"IN 82", 0}, {"OUT 02", Short},
	} {
		got := FaultKind(0)
		if f := d.befalls(parse(t, tt.line)[0]); f != nil {
			got = f.Kind
		}
		if got != tt.want {
			t.Errorf("%d, %s: fault %d, want %d", i, tt.line, got, tt.want)
		}
	}
}

// An endpoint is a number and a direction: there are 16 each way, and no two share a fault.
func TestEndpointsApart(t *testing.T) {
	d := New(Model{})
	seen := map[*endpoint]uint8{}
	for n := range uint8(16) {
		for _, ep := range []uint8{n, n | 0x80} {
			if was, ok := seen[d.at(ep)]; ok {
				t.Errorf("%02X is %02X", ep, was)
			}
			seen[d.at(ep)] = ep
		}
	}
}
