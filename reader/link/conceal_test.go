package link

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/cardfs/cardfs/reader"
)

// The rest of the words stays as it is.
func TestConcealed(t *testing.T) {
	for text, want := range map[string]string{
		"":                        "",
		"no number":               "no number",
		"12":                      "N",
		"12 bytes of 7":           "N bytes of N",
		"LEN=12, 7bytes":          "LEN=N, N",
		"T=0: T=1: T=12 T=2 XT=1": "T=0: T=1: T=N T=N XT=1",
		"0B, 0x1f, 1.5s, -3":      "N, N, N.N, -N",
		"SW1 SW2 (bError FB)":     "SW1 SW2 (bError FB)",
		"é9 9é":                   "é9 N",
		"(4)":                     "(N)",
		"…8":                      "…N",
	} {
		if got := (concealed{errors.New(text)}).Error(); got != want {
			t.Errorf("%q: %q, want %q", text, got, want)
		}
	}
}

// Conceal keeps what the error is.
func TestConceal(t *testing.T) {
	err := Conceal(fmt.Errorf("%d bytes: %w", 12, reader.ErrTimeout))
	if !errors.Is(err, reader.ErrTimeout) || !strings.HasPrefix(err.Error(), "N bytes: ") {
		t.Error(err)
	}
}
