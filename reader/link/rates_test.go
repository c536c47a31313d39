package link

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/cardfs/cardfs/reader"
)

// §9.2: the initial waiting time of 9600 etu holds for the PPS response.
func TestPPSWaits(t *testing.T) {
	play(t, "cold\n< 3B 10 13\n> FF 10 13 FC\n< FF 10 13 FC", "", func(t *testing.T, s *script, l *Link) {
		s.Slack, s.ClockHz = time.Second, 372_000 // an etu is a millisecond
		l.Limit = time.Minute
		powerUp(t, l)
		if x := s.waited[0]; x.Wait != 10600*time.Millisecond || x.CharWait != x.Wait || !x.Until.Equal(time.Now().Add(PowerLimit)) {
			t.Errorf("%+v", x)
		}
	})
}

// Which protocols can be asked for of a card that has power, and why not.
func TestSelectable(t *testing.T) {
	const ifs = "\n> 00 C1 01 FE 3E\n< 00 E1 01 FE 1E\n"
	for _, tt := range []struct {
		name, has, script string
		level             reader.Level
		auto              bool
		want              [3]bool // T=0, T=1, T=2
	}{
		{"T=0 alone", "", "cold\n< 3B 00", reader.TPDU, false, [3]bool{true}},
		{"both", "", "cold\n< 3B 80 80 01 01", reader.TPDU, false, [3]bool{true, true}},
		{"both, but the reader uses the first", "", "cold\n< 3B 80 80 01 01", reader.TPDU, true, [3]bool{true}},
		{"both, and the reader lets choose", "select", "cold\n< 3B 80 80 01 01\nselect T=0 TA1=11", reader.TPDU, true, [3]bool{true, true}},
		{"both, and the reader chose otherwise than it was asked", "select", "cold\n< 3B 80 80 01 01\nselect T=0 TA1=11\n< T=1 TA1=11" + ifs, reader.TPDU, true, [3]bool{false, true}},
		{"specific mode that can be left", "", "cold\n< 3B 90 13 11 01 93" + ifs, reader.TPDU, false, [3]bool{false, true}},
		{"specific mode that cannot", "", "cold\n< 3B 90 13 11 81 13" + ifs, reader.TPDU, false, [3]bool{false, true}},
		{"specific mode of two protocols that can be left", "", "cold\n< 3B 90 13 90 01 01 13" + ifs, reader.TPDU, false, [3]bool{true, true}},
		{"specific mode of a protocol that is not offered", "", "cold\n< 3B 90 13 10 01" + ifs, reader.TPDU, false, [3]bool{true, true}},
		{"a synchronous card", "", "cold\n< A2 13 10 91", reader.Synchronous, false, [3]bool{}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			play(t, tt.script, tt.has, func(t *testing.T, s *script, l *Link) {
				s.Level, s.AutoPPS = tt.level, tt.auto
				powerUp(t, l)
				for p, want := range tt.want {
					if err := l.Selectable(p); (err == nil) != want || err != nil && !errors.Is(err, reader.ErrUnsupported) {
						t.Errorf("T=%d: %v", p, err)
					}
				}
			})
		})
	}
}

func TestSpeaks(t *testing.T) {
	for _, tt := range []struct {
		has    string
		speaks []int
		want   string
	}{
		{"", nil, "01"}, {"list", nil, "01"}, {"list", []int{0}, "0"}, {"list", []int{1, 14}, "1"}, {"list", []int{}, ""},
	} {
		s := newScript(t, "")
		s.speaks = tt.speaks
		l := New(Config{Slot: slot{s}, Features: s.features(tt.has)})
		got := ""
		for p := -1; p < 16; p++ {
			if l.Speaks(p) {
				got += fmt.Sprint(p)
			}
		}
		if got != tt.want {
			t.Errorf("%s %v: %q, want %q", tt.has, tt.speaks, got, tt.want)
		}
	}
}

// A rate that failed stays failed for the card at the next reset, with the reader's
// refusals; a PPS that was refused, too; of another card they say nothing.
func TestRatesAreRemembered(t *testing.T) {
	play(t, `cold
		< 3B 10 12
		> FF 10 12 FD
		< --
		cold
		< 3B 10 12
		> 00 84 00 00 02
		< 90 00
		off
		cold
		< 3B 10 12
		off
		cold
		< 3B 11 12 00
		> FF 10 12 FD
		< FF 10 12 FD
		off
		cold
		< 3B 90 12 01 83
		> FF 11 12 FC
		< --
		cold
		< 3B 90 12 01 83
		> 00 C1 01 FE 3E
		< 00 E1 01 FE 1E
		> 00 00 05 00 84 00 00 02 83
		< 00 00 02 90 00 92
		cold
		< 3B 90 12 01 83
		> 00 C1 01 FE 3E
		< 00 E1 01 FE 1E`, "", func(t *testing.T, s *script, l *Link) {
		powerUp(t, l)
		transmit(t, l, "00 84 00 00 02", "90 00", nil)
		for _, fallback := range []bool{true, false, true} {
			l.PowerOff(t.Context())
			powerUp(t, l)
			if (l.Fallback() != "") != fallback {
				t.Errorf("fallback %q", l.Fallback())
			}
		}
		transmit(t, l, "00 84 00 00 02", "90 00", nil)
		powerUp(t, l)
	})
}
