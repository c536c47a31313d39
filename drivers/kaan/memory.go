package kaan

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/cardfs/cardfs/drivers/ctbcs"
	"github.com/cardfs/cardfs/reader"
	"github.com/cardfs/cardfs/reader/memcard"
)

// powerMemory makes the terminal ready for the memory card that it reset, and finds out what
// it is: by the slot's file, or, where the terminal does not know, by reading. It is never
// written to for that.
func (s *slot) powerMemory(ctx context.Context, sw uint16, h []byte) ([]byte, error) {
	if sw == swNoProtocol {
		for _, chip := range memcard.Candidates(s.told) {
			atr, err := s.tryMemory(ctx, chip)
			if err == nil || !errors.Is(err, reader.ErrMute) && !errors.Is(err, reader.ErrProtocol) {
				return atr, err
			}
		}
		return nil, memcard.ErrSize
	}
	if sw == swTypeUnknown && s.files && len(h) == 4 {
		if err := s.setProtocol(ctx, protocolEurochip); err != nil {
			return nil, err
		}
	}
	file, err := s.readFile(ctx, s.number)
	if err != nil {
		return nil, err
	}
	kind, ok := ctbcs.Find(file, tagFileType)
	if !ok || len(kind) != 1 {
		return nil, fmt.Errorf("the slot's file has no type of card: %w", reader.ErrMute)
	}
	bus, ok := busOf(kind[0])
	if !ok {
		return nil, fmt.Errorf("a card of type %02X: %w", kind[0], reader.ErrMute)
	}
	chip, _, err := memcard.Recognise(h, s.told)
	if bus == reader.CounterCard {
		chip, _, err = memcard.Recognise(h, memcard.Counter(counterSize))
	}
	if err != nil {
		return nil, err
	}
	if chip.Bus != bus {
		return nil, fmt.Errorf("the terminal takes the card for %v, but it answers as %v: %w", bus, chip.Bus, reader.ErrMute)
	}
	return s.tryMemory(ctx, chip)
}

// counterSize is how much there is of a counter card: 13 bytes, 104 bits, that all have.
const counterSize = 13

// tryMemory tells the terminal the protocol, and reads the card.
func (s *slot) tryMemory(ctx context.Context, chip reader.Chip) ([]byte, error) {
	if err := s.setProtocol(ctx, protocolOf(chip.Bus)); err != nil {
		return nil, err
	}
	told := s.told
	if chip.Bus == reader.CounterCard {
		told = chip
	}
	atr, err := s.Activate(ctx, chip, told)
	if err == nil {
		s.powered, s.memory = true, true
	}
	return atr, err
}

// sendMemory sends the commands of package memcard to the card's node.
func (s *slot) sendMemory(ctx context.Context, command, dst []byte) ([]byte, error) {
	x := ctbcs.Times{Wait: ctbcs.AnswerWait, Until: time.Now().Add(ctbcs.TerminalLimit)}
	return s.do(ctx, nadCard[s.number], command, x, dst)
}
