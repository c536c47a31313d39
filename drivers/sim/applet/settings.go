package applet

import (
	"fmt"
	"slices"
	"strings"

	"github.com/cardfs/cardfs/reader"
)

// Settings is what the user says of a card when it is made.
type Settings struct {
	Serial string // of the reader it comes with
	State  string // state file; empty: in memory
	Keys   string // directory of PEM files to import, one for each key
	Seed   string // of the keys that the card generates; empty: at random
	Model  string // a product to imitate; empty: what the specification says
	ATR    string // one of ATRs; empty: the first
	Real   bool   // as slow as a real card
	Cost   Cost   // of PINs; 0: Normal
}

// ATRs are how a card can present itself: by T=1, by T=0, or as a contactless reader does
// for it (PC/SC part 3 §3.1.3.2.3).
var ATRs = []string{"t1", "t0", "contactless"}

// Keys are the parameters of attach that NewSettings reads.
var Keys = []string{"atr", "keys", "model", "seed", "state"}

// NewSettings reads the parameters of attach.
func NewSettings(serial string, params map[string]string) Settings {
	return Settings{Serial: serial, State: params["state"], Keys: params["keys"], Seed: params["seed"],
		Model: params["model"], ATR: params["atr"], Real: params["slow"] == "real"}
}

// Normalize fills in what the user did not say and checks the rest. models are those that the card can imitate.
func (s *Settings) Normalize(models ...string) error {
	if s.ATR == "" {
		s.ATR = ATRs[0]
	}
	if s.Cost == 0 {
		s.Cost = Normal
	}
	switch {
	case !slices.Contains(ATRs, s.ATR):
		return fmt.Errorf("atr=%s: is none of %s: %w", s.ATR, strings.Join(ATRs, ", "), reader.ErrInvalid)
	case s.Model != "" && !slices.Contains(models, s.Model):
		return fmt.Errorf("model=%s: is none of %s: %w", s.Model, strings.Join(models, ", "), reader.ErrInvalid)
	}
	return nil
}
