package remote

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/cardfs/cardfs/reader"
	"github.com/cardfs/cardfs/reader/iso7816"
)

// PowerOn opens the card there, which powers it if nobody has. If it is open already, the card
// is reset.
func (s *slot) PowerOn(ctx context.Context, how reader.Reset) ([]byte, error) {
	if err := s.over(); err != nil {
		return nil, err
	}
	ctx, cancel := s.line.bound(ctx)
	defer cancel()
	reset := s.live() != nil
	if reset {
		word := "cold"
		if how == reader.Warm {
			word = "reset"
		}
		if atr, err := s.change(ctx, "power", word); err != nil || atr != nil {
			return atr, err
		}
	}
	s.hangUp()
	atr, err := s.dial(ctx)
	if err != nil {
		s.hangUp()
		return nil, err
	}
	if c := s.live(); c != nil {
		c.reset = reset
	}
	return atr, nil
}

// PowerOff powers the card off there, if it is open here.
func (s *slot) PowerOff(ctx context.Context) error {
	if err := s.over(); err != nil || s.live() == nil {
		s.hangUp()
		return err
	}
	ctx, cancel := s.line.bound(ctx)
	defer cancel()
	defer s.hangUp()
	return s.power(ctx, "off")
}

// Eject has the card ejected there.
func (s *slot) Eject(ctx context.Context) error {
	if err := s.over(); err != nil {
		return err
	}
	ctx, cancel := s.line.bound(ctx)
	defer cancel()
	err := s.power(ctx, "eject")
	if !errors.Is(err, reader.ErrUnsupported) {
		s.hangUp()
	}
	return err
}

// power writes a word for power, in the transaction if there is one.
func (s *slot) power(ctx context.Context, word string) error {
	c, err := s.locked(ctx)
	switch {
	case err != nil:
		return err
	case c == nil:
		return s.command(ctx, "power", word)
	}
	return s.obey(ctx, c, "power", word)
}

// SelectProtocol returns the protocol in force there. If it is another, and the card was reset
// here and not only opened, it is selected there.
func (s *slot) SelectProtocol(ctx context.Context, want iso7816.Params) (iso7816.Params, error) {
	c := s.live()
	var refused error
	if c != nil && c.reset && c.protocol != want.T {
		ctx, cancel := s.line.bound(ctx)
		defer cancel()
		var atr []byte
		atr, refused = s.change(ctx, "protocol", fmt.Sprintf("T=%d", want.T))
		if refused != nil && !errors.Is(refused, reader.ErrUnsupported) {
			return want, refused
		}
		if atr == nil && s.live() == nil {
			if _, err := s.dial(ctx); err != nil {
				return want, err
			}
		}
		c = s.live()
	}
	switch {
	case c == nil:
		return want, fmt.Errorf("%s: %w", s.name(), reader.ErrStale)
	case c.protocol == want.T, c.protocol == iso7816.NoProtocol:
		return want, nil
	}
	return iso7816.DefaultParams(c.protocol), nil
}

// change has the card reset there by a word for a file. In a transaction the session stays, and
// its ATR is returned; another session ends, and atr is nil.
func (s *slot) change(ctx context.Context, file, word string) (atr []byte, err error) {
	c, err := s.locked(ctx)
	switch {
	case err != nil:
		return nil, err
	case c == nil:
		s.hangUp()
		return nil, s.command(ctx, file, word)
	}
	if err := s.obey(ctx, c, file, word); err != nil {
		return nil, err
	}
	if atr, err = s.begin(ctx, c); err != nil {
		s.hangUp()
		return nil, err
	}
	c.reset = true
	return atr, nil
}

// obey writes a word for another file as a line of the session, whose lock admits it. The open
// of that file might be another process's there.
func (s *slot) obey(ctx context.Context, c *session, file, word string) error {
	line, err := c.ask(ctx, []byte(file+" "+word+"\n"), nil)
	if err != nil {
		return s.unanswered(ctx, c, err)
	}
	return s.isOK(ctx, file, line)
}

// command writes a word to a text file, which answers when the card has obeyed.
func (s *slot) command(ctx context.Context, file, word string) error {
	f, _, err := s.line.lanes.openCard(ctx, s.path(file))
	if err != nil {
		return s.line.explain(file, err)
	}
	defer f.Close()
	err = f.Write(ctx, []byte(word+"\n"))
	if err == nil {
		return nil
	}
	if ended(err) {
		return s.line.explain(file+" "+word, err)
	}
	text, readErr := f.Read(ctx, readMost)
	said, refused := strings.CutPrefix(strings.TrimSpace(string(text)), "error ")
	if readErr != nil || !refused {
		return s.line.explain(file+" "+word, err)
	}
	return fmt.Errorf("%s: %s %s: %w", s.name(), file, word, worded(said))
}
