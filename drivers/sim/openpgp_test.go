package sim

import (
	"slices"
	"strings"
	"testing"

	"github.com/cardfs/cardfs/reader/core"
	"github.com/cardfs/cardfs/reader/iso7816"
)

// An OpenPGP card in readers of all levels, by both protocols, through the core: short and
// extended answers, and a chain.
func TestOpenPGPThroughTheCore(t *testing.T) {
	for _, words := range []string{
		"openpgp", "apdu card=openpgp", "t1 card=openpgp", "t0 card=openpgp atr=t0", "char-t1 card=openpgp",
		"char-t0 card=openpgp atr=t0", "ccid card=openpgp", "ccid card=openpgp atr=t0", "ccid-char card=openpgp", "ccid-char card=openpgp atr=t0",
		"ccid-ext card=openpgp", "ccid-ext card=openpgp atr=t0", "ccid-ext card=openpgp atr=contactless", "apdu card=openpgp atr=contactless",
		"acr38 card=openpgp",
	} {
		t.Run(words, func(t *testing.T) {
			m, _ := manager(t)
			ctl(t, m, "attach sim "+words)
			s := open(t, m, 0)
			presents(t, s, words)
			name := strings.Repeat("41", 39)
			for _, x := range [][2]string{
				{"00A40400 06 D27600012401", "90 00"},
				{"00200081", "63 C3"},
				{"00200083 08 3132333435363738", "90 00"},
				{"10DA005B 14 " + name[:40], "90 00"},
				{"00DA005B 13 " + name[40:], "90 00"},
				{"00CA005B 00", strings.Repeat("41 ", 39) + "90 00"},
				{"00CA005F 00", "6A 88"},
			} {
				if got := transmit(t, s, x[0]); got != x[1] {
					t.Errorf("%s: %s", x[0], got)
				}
			}
			login := strings.Repeat("42", 200)
			for _, x := range [][2]string{{"10DA005E C8 " + login, "90 00"}, {"00DA005E C8 " + login, "90 00"},
				{"00CA005E 000000", strings.Repeat("42 ", 400) + "90 00"}} {
				if got := transmit(t, s, x[0]); got != x[1] {
					t.Errorf("%.20s…: %.20s…%s", x[0], got, got[len(got)-5:])
				}
			}
		})
	}
}

// presents checks the ATR that atr= asks for, and that the protocol is the one that it offers.
func presents(t *testing.T, s *core.Session, words string) {
	t.Helper()
	i := s.Slot().Info()
	answer, err := iso7816.ParseATR(i.ATR)
	if err != nil {
		t.Fatalf("ATR % X: %v", i.ATR, err)
	}
	offered := []int{1}
	switch {
	case strings.Contains(words, "atr=t0"):
		offered = []int{0}
	case strings.Contains(words, "atr=contactless"): // PC/SC part 3 §3.1.3.2.3.1: 3B 8N 80 01
		offered = []int{0, 1}
	}
	if got := answer.Protocols(); !slices.Equal(got, offered) || !slices.Contains(offered, i.Params.T) {
		t.Errorf("the card offers %v, and T=%d is used; want %v", got, i.Params.T, offered)
	}
	if i.Fallback != "" {
		t.Errorf("what the card offers was not taken: %s", i.Fallback)
	}
}
