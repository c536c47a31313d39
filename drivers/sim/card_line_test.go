package sim

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/cardfs/cardfs/reader/icc"
)

// The longest answers: 65,536 bytes, or fewer if the file ends before.
func TestLongAnswers(t *testing.T) {
	c := newCard(atrToken, false, "SIM")
	if r := c.Process(unhex("80 EC 00 00 00 00 00")); len(r) != 65538 || r[65535] != 0xFF {
		t.Errorf("%d bytes", len(r))
	}
	play(t, c, "> 00 A4 04 0C 03 F0 63 61\n< 90 00")
	if r := c.Process(unhex("00 B0 85 00 00 00 00")); len(r) != 32770 || r[32767] != byte(32767%251) {
		t.Errorf("%d bytes", len(r))
	}
}

// The card announces how long a command takes; it does not sleep.
func TestBusy(t *testing.T) {
	c := newCard(atrToken, false, "SIM")
	start := time.Now()
	play(t, c, "> 80 E8 FF FF\n< 90 00")
	if got := c.Busy(nil); got != 65535*10*time.Millisecond || time.Since(start) > time.Minute {
		t.Errorf("busy %v", got)
	}
	play(t, c, "> 80 EE 00 00\n< 90 00")
	if c.Busy(nil) != 0 {
		t.Error("still busy")
	}
}

// Through the T=0 engine, which handles 6Cxx and 61xx itself, once each.
func TestT0Card(t *testing.T) {
	c := new(icc.Contact)
	c.Insert(newCard(atrT0, true, "SIM"))
	if _, err := c.Activate(context.Background(), false); err != nil {
		t.Fatal(err)
	}
	for _, x := range []struct{ tx, rx string }{
		{"00 A4 00 00 02 3F 00", "61 0C"},
		{"00 C0 00 00 0C", "6F 0A 82 01 38 83 02 3F 00 8A 01 05 90 00"},
		{"00 A4 00 0C 02 3F 00", "90 00"},
		{"00 B0 82 00 00", "6C 0C"},
		{"00 B0 82 0A 08", "6C 02"},
		{"80 EC 01 04 00", "PATTERN 61 04"},
		{"00 C0 00 00 04", "00 01 02 03 90 00"},
		{"00 20 00 01 00", "63 C3"},
		{"00 44 00 00 00", "6D 00"},
	} {
		want := x.rx
		if rest, ok := strings.CutPrefix(want, "PATTERN"); ok {
			p := make([]byte, 256)
			for i := range p {
				p[i] = byte(i)
			}
			want = fmt.Sprintf("% X", p) + rest
		}
		if got := fmt.Sprintf("% X", c.TPDU(context.Background(), unhex(x.tx))); got != want {
			t.Errorf("%s: %s, want %s", x.tx, got, want)
		}
	}
}
