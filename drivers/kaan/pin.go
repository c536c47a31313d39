package kaan

import (
	"context"
	"fmt"
	"time"

	"github.com/cardfs/cardfs/drivers/ctbcs"
	"github.com/cardfs/cardfs/reader"
)

var (
	_ reader.PINPad  = (*slot)(nil)
	_ reader.Display = display{}
)

// PINSupport: a terminal with a keypad can verify a PIN. CT-BCS has a change too, of which
// nothing was observed.
func (s *slot) PINSupport() reader.PINSupport {
	p := reader.PINSupport{Verify: s.has(unitKeypad)}
	if s.has(unitDisplay) {
		p.Lines, p.Columns = displayLines, displayColumns
	}
	return p
}

// The display takes 32 characters; CT-BCS asks for two lines of 16.
const displayLines, displayColumns = 2, 16

// VerifyPIN is PERFORM VERIFICATION. The terminal asks with its own words.
func (s *slot) VerifyPIN(ctx context.Context, v *reader.PINVerify, dst []byte) ([]byte, error) {
	if !s.PINSupport().Verify {
		return dst, s.fail("PIN", fmt.Errorf("the terminal has no keypad: %w", reader.ErrUnsupported))
	}
	command, err := ctbcs.Verification(unit(s.number), "", v)
	if err != nil {
		return dst, s.fail("PIN", err)
	}
	dst, err = s.do(ctx, ctbcs.Terminal, command, ctbcs.EntryTimes(v), dst)
	return dst, s.fail("PIN", err)
}

// ModifyPIN is not known to work.
func (s *slot) ModifyPIN(_ context.Context, _ *reader.PINModify, dst []byte) ([]byte, error) {
	return dst, s.fail("PIN", fmt.Errorf("the change of a PIN at the terminal: %w", reader.ErrUnsupported))
}

// display is a slot of a terminal with a display.
type display struct{ *slot }

// Show shows up to 32 characters.
func (s display) Show(ctx context.Context, text string, d time.Duration) error {
	if len(text) > maxText {
		return s.fail("display", fmt.Errorf("a text of %d characters, %d fit: %w", len(text), maxText, reader.ErrInvalid))
	}
	seconds := min((d+time.Second-1)/time.Second, 0xFF)
	_, sw, err := s.ask(ctx, output(text, byte(seconds)))
	if err == nil && sw != ctbcs.Done {
		err = ctbcs.Error(sw)
	}
	return s.fail("display", err)
}
