package remote

import (
	"context"
	"fmt"
	"time"

	"github.com/cardfs/cardfs/drivers/ctbcs"
	"github.com/cardfs/cardfs/reader"
)

// The display and the keypad of a far reader are reached by `ctbcs` there, with OUTPUT and
// INPUT of CT-BCS (package ctapi).
const (
	insInput    = 0x16
	insOutput   = 0x17
	unitDisplay = 0x40
	unitKeypad  = 0x50
)

// Status words.
const (
	inTime     = 0x6400 // no key within the time
	cancelled  = 0x6401
	noSuchUnit = 0x6A00 // of a command that there is; else it is 6D00
)

// display and keypad are slots whose reader has one.
type (
	display struct {
		reader.Slot
		far *slot
	}
	keypad struct {
		reader.Slot
		far *slot
	}
)

var (
	_ reader.Display = display{}
	_ reader.Keypad  = keypad{}
)

// Unwrap shows what else the slot can do.
func (d display) Unwrap() reader.Slot { return d.Slot }
func (k keypad) Unwrap() reader.Slot  { return k.Slot }

// withTerminal adds what the reader has to served, which is a slot of it. OUTPUT and INPUT for a
// unit that there is not do nothing, and the answers say whether there are such commands.
func (s *slot) withTerminal(ctx context.Context, served reader.Slot) reader.Slot {
	if _, sw, err := s.terminal(ctx, []byte{0x20, insOutput, 0, 0}, true); err == nil && sw == noSuchUnit {
		served = display{served, s}
	}
	if _, sw, err := s.terminal(ctx, []byte{0x20, insInput, 0, 0}, true); err == nil && sw == noSuchUnit {
		served = keypad{served, s}
	}
	return served
}

// Show has a text shown there.
func (d display) Show(ctx context.Context, text string, t time.Duration) error {
	if text == "" {
		text = " " // CT-BCS has no empty text
	}
	if len(text) > ctbcs.MaxObject {
		return fmt.Errorf("%s: display: a text of %d characters, %d fit: %w", d.far.name(), len(text), ctbcs.MaxObject, reader.ErrInvalid)
	}
	objects := ctbcs.Object(seconds(t), ctbcs.TagText, []byte(text)...)
	_, sw, err := d.far.terminal(ctx, ctbcs.Command(insOutput, unitDisplay, objects), false)
	if err == nil && sw != ctbcs.Done {
		err = fmt.Errorf("%s: display: %w", d.far.name(), ctbcs.Error(sw))
	}
	return err
}

// Input has keys pressed there.
func (k keypad) Input(ctx context.Context, in reader.KeyInput) ([]byte, error) {
	if len(in.Prompt) > ctbcs.MaxObject {
		return nil, fmt.Errorf("%s: keypad: a prompt of %d characters, %d fit: %w", k.far.name(), len(in.Prompt), ctbcs.MaxObject, reader.ErrInvalid)
	}
	objects := seconds(in.First)
	if in.Prompt != "" {
		objects = ctbcs.Object(objects, ctbcs.TagText, []byte(in.Prompt)...)
	}
	command := ctbcs.Command(insInput, unitKeypad, objects)
	if command[3] = byte(in.Echo); in.Raw {
		command[3] |= 0x10
	}
	command = append(command, byte(in.Max)) // Le; 256 is 0
	keys, sw, err := k.far.terminal(ctx, command, false)
	switch {
	case err != nil:
		return nil, err
	case sw == inTime:
		return nil, fmt.Errorf("%s: keypad: no key within the time: %w", k.far.name(), reader.ErrTimeout)
	case sw == cancelled:
		return nil, fmt.Errorf("%s: keypad: %w", k.far.name(), reader.ErrCancelled)
	case sw != ctbcs.Done:
		return nil, fmt.Errorf("%s: keypad: %w", k.far.name(), ctbcs.Error(sw))
	}
	return keys, nil
}

// seconds is the data object for a time, whole seconds of which one at least.
func seconds(t time.Duration) []byte {
	if t <= 0 {
		return nil
	}
	return ctbcs.Object(nil, ctbcs.TagSeconds, byte(min((t+time.Second-1)/time.Second, 0xFF)))
}

// terminal sends a command of CT-BCS to the reader. The lock there is for opens of this session's
// process alone: in a transaction the display would wait for its end, and that for the display.
func (s *slot) terminal(ctx context.Context, command []byte, question bool) (data []byte, sw uint16, err error) {
	if err := s.over(); err != nil {
		return nil, 0, err
	}
	ctx, cancel := s.line.bound(ctx)
	defer cancel()
	c, err := s.locked(ctx)
	switch {
	case err != nil:
		return nil, 0, err
	case c != nil:
		return nil, 0, fmt.Errorf("%s: display and keypad of another machine's reader cannot be used in a transaction: %w", s.name(), reader.ErrLocked)
	}
	answer, err := s.once(ctx, "ctbcs", command, question)
	if err != nil {
		return nil, 0, err
	}
	return ctbcs.Split(answer)
}
