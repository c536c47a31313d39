package core

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/cardfs/cardfs/reader"
	"github.com/cardfs/cardfs/reader/link"
	"github.com/cardfs/cardfs/reader/memcard"
)

// memoryCard is what is known of a memory card without asking it. It is empty for other cards.
//
// "While a verification lasts everybody who may write uses it. It ends with the last open of
// the process whose apdu open verified, with power and with removal; ending it cycles power,
// without ESTALE."
//
//	needed ──── VERIFY, by a process ────▶ verified ──── last open of the last such process ────▶ expired
//	   ▲                                                     whoever has the turn next: power off and on │
//	   └─────────────────────────────────────────────────────────────────────────────────────────────────┘
type memoryCard struct {
	chip      reader.Chip
	psc       PSC
	presented int              // memcard.Card.PSC
	holders   map[any]struct{} // processes, or opens where these are not known, that verified
	expired   bool             // the last of them is gone
}

// ErrNoMemory: there is no memory card that the reader reads.
var ErrNoMemory = fmt.Errorf("no memory card: %w", reader.ErrUnsupported)

// Sizeless reports whether err says that a memory card is there whose size nobody told.
func Sizeless(err error) bool { return errors.Is(err, memcard.ErrSize) }

// PSC is the state of a memory card's PSC.
type PSC struct {
	Tries    int // left
	Verified bool
}

// setMemory starts anew with the card that got power; nil: it is no memory card. s.mu is held.
func (s *Slot) setMemory(c *memcard.Card) {
	s.memory = memoryCard{}
	if c != nil {
		s.memory.chip = c.Chip()
		s.memory.psc.Tries, s.memory.psc.Verified, s.memory.presented = c.PSC()
	}
}

// holder is who holds a verification that by's open made.
func holder(by Caller) any {
	if by.Process != nil {
		return by.Process
	}
	return by.Owner
}

// noteVerification looks whether a command of by verified the PSC, or ended the verification.
func (s *Slot) noteVerification(c *memcard.Card, by Caller) {
	s.mu.Lock()
	defer s.mu.Unlock()
	m := &s.memory
	before := m.psc
	presented := m.presented
	m.psc.Tries, m.psc.Verified, m.presented = c.PSC()
	switch {
	case !m.psc.Verified:
		m.holders = nil
	case m.presented != presented:
		if m.holders == nil {
			m.holders = make(map[any]struct{})
		}
		m.holders[holder(by)] = struct{}{}
	}
	if m.psc != before {
		s.changes.Add(1)
		s.tell()
	}
}

// endVerification is called when an open of by has ended. s.mu is held.
func (s *Slot) endVerification(by Caller) {
	m, leaving := &s.memory, holder(by)
	if _, held := m.holders[leaving]; !held {
		return
	}
	for other := range s.sessions {
		if holder(other.caller) == leaving {
			return
		}
	}
	if delete(m.holders, leaving); len(m.holders) > 0 || s.card != reader.Powered {
		return
	}
	m.expired = true
	s.manager.spawn(func() {
		s.inTurn(s.ctx, func() error { return s.settled(s.relock()) })
	})
}

// relocked is do after a verification that expired was ended.
func relocked(s *Slot, do func(*link.Link) ([]byte, error)) func(*link.Link) ([]byte, error) {
	return func(l *link.Link) ([]byte, error) {
		if err := s.relock(); err != nil {
			return nil, err
		}
		return do(l)
	}
}

// relock takes the power off and on, if a verification expired. A card that does not come back
// as it was is as good as taken out. The caller holds the turn.
func (s *Slot) relock() error {
	s.mu.Lock()
	due := s.memory.expired && s.card == reader.Powered
	s.memory.expired = false
	s.mu.Unlock()
	if !due {
		return nil
	}
	if err := s.link.Relock(s.ctx); err != nil {
		s.link.Abandon()
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.memory.psc.Verified = false
	s.changes.Add(1)
	s.tell()
	return nil
}

// settled is err after settle.
func (s *Slot) settled(err error) error {
	err = s.outcome(err)
	s.settle(err)
	return err
}

// readPiece is how much of a memory card is read in one turn: others come between.
const readPiece = 1024

// writeTime is about how long one WriteMemory may hold the turn.
const writeTime = time.Second

// ReadMemory appends up to n bytes of the memory card, from address at on, to dst: fewer at its
// end, and where ctx or an error ended it after some came. It waits like Transmit.
func (s *Session) ReadMemory(ctx context.Context, at, n int, dst []byte) ([]byte, error) {
	for base := len(dst); len(dst)-base < n; {
		here, before := at+len(dst)-base, len(dst)
		if before > base && ctx.Err() != nil {
			break
		}
		k := min(n-(before-base), readPiece-here%readPiece)
		got, err := s.slot.use(ctx, s.caller, s, func(l *link.Link) ([]byte, error) {
			began := time.Now()
			got, err := l.ReadMemory(s.slot.underWay, here, k, dst)
			took := time.Since(began)
			s.slot.logExchange("memory read", took, err)
			if err == nil {
				s.slot.stats.exchanged(took, 0, len(got)-before, false)
			}
			return got, err
		})
		if err != nil {
			if before > base {
				return dst, nil // the next read reports it
			}
			return dst, err
		}
		if dst = got; len(dst)-before < k {
			break
		}
	}
	return dst, nil
}

// WriteMemory writes p to the memory card, from address at on. It returns how many bytes are on
// the card, as memcard.Card.Write does, but an error only if there are none: whoever goes on with the
// rest gets it then. It does not wait for the end of another's transaction: ErrLocked.
func (s *Session) WriteMemory(ctx context.Context, at int, p []byte) (done int, err error) {
	by := s.caller
	by.Wait = false
	_, err = s.slot.use(ctx, by, s, func(l *link.Link) ([]byte, error) {
		began := time.Now()
		var err error
		done, err = l.WriteMemory(s.slot.underWay, at, p, writeTime)
		took := time.Since(began)
		s.slot.logExchange("memory write", took, err)
		if done > 0 {
			s.slot.stats.exchanged(took, done, 0, false)
			if errors.Is(err, reader.ErrNoSpace) {
				err = nil
			}
		}
		return nil, err
	})
	if done > 0 {
		return done, nil
	}
	return 0, err
}
