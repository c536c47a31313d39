package ctapi

import (
	"context"
	"errors"
	"fmt"

	"github.com/cardfs/cardfs/reader"
	"github.com/cardfs/cardfs/reader/core"
)

// Addresses of CT_data (CT-API 1.1): dad says who is to have a command, sad who
// sent it; with the answer they have changed places.
const (
	addrICC1       = 0
	addrCT         = 1
	addrICC2       = 2 // in a command; 3 to 14 are further slots
	addrHost       = 2
	addrRemoteHost = 5
)

// addresses is how many bytes stand before each command and answer of CT_data.
const addresses = 2

// icc is what a terminal knows of the card in one slot:
//
//	New ──▶ idle ──────────── first command ──────────▶ open
//	                                                    ▲    │
//	   EJECT or DEACTIVATE ICC; reset, changed or       │    │
//	   powered off by somebody else                     │    ▼
//	                     RESET CT, REQUEST ICC ──────── lapsed
type icc struct {
	session *core.Session // nil unless open
	ours    bool          // a command of this program activated the card
	lapsed  bool
}

// end ends what the program had with the card.
func (i *icc) end() {
	if i.session != nil {
		i.session.Close()
	}
	*i = icc{lapsed: true}
}

// card is the state of the card in slot (from 1). A session that others ended, by a reset or
// a change of the card, has lapsed.
func (t *Terminal) card(slot int) *icc {
	i := t.cards[slot]
	if i == nil {
		i = &icc{}
		t.cards[slot] = i
	}
	if i.session != nil && i.session.Err() != nil {
		i.end()
	}
	return i
}

// begin opens a session with a card, which is ours if a command of this program
// activated it. That command does it at once: a card that is put in until the first
// command for it would not be the one that was activated.
func (t *Terminal) begin(ctx context.Context, b *core.Slot, slot int, ours bool) (*core.Session, error) {
	i := t.card(slot)
	i.end()
	by := t.by
	by.Wait = false // that there is no card is a fact to tell, not to wait out
	if !ours {
		by.At = t.at
	}
	s, err := b.Open(ctx, by)
	if err != nil {
		return nil, err
	}
	*i = icc{session: s, ours: ours}
	return s, nil
}

// forget ends all sessions and begins anew with each card.
func (t *Terminal) forget() {
	for _, i := range t.cards {
		i.end()
	}
	clear(t.cards)
}

// Close ends the conversation. The cards keep their power.
func (t *Terminal) Close() { t.forget() }

// CheckData refuses what is too short for Data.
func CheckData(b []byte) error {
	if len(b) == addresses {
		return nil
	}
	if len(b) < addresses+4 {
		return fmt.Errorf("CT-API: dad, sad and a command of at least 4 bytes, here are %d bytes in all: %w", len(b), reader.ErrInvalid)
	}
	return nil
}

// Data answers what CT_data sends: dad, sad, a command, for the terminal or for a
// card. The answer is dad, sad, and that of the unit that sad names. Without a
// command it is CT_close: the cards that this program activated lose their power,
// unless another program holds them.
//
// Unlike CT-BCS's commands a card's can fail with an error, which is for the
// caller to put into CT-API's codes.
func (t *Terminal) Data(ctx context.Context, b, dst []byte) ([]byte, error) {
	if err := CheckData(b); err != nil {
		return dst, err
	}
	dad, sad, command := b[0], b[1], b[addresses:]
	host := byte(addrHost)
	if sad == addrRemoteHost {
		host = addrRemoteHost
	}
	answer := append(dst, host, addrCT)
	unit := byte(addrCT)
	var err error
	switch {
	case len(command) == 0:
		err = t.end(ctx)
	case dad == addrCT:
		answer, unit, err = t.exchange(ctx, command, answer)
	default:
		answer, unit, err = t.toCard(ctx, dad, command, answer)
	}
	if err != nil {
		return dst, err
	}
	answer[len(dst)+1] = unit
	return answer, nil
}

// end takes the power off the cards that this program activated.
func (t *Terminal) end(ctx context.Context) error {
	for n, s := range t.home.Siblings() {
		i := t.card(n + 1)
		if !i.ours {
			continue
		}
		// Not if another program holds the transaction, nor if the card is gone.
		if err := s.Power(ctx, core.PowerDown, t.by); errors.Is(err, reader.ErrInterrupted) {
			return err
		}
		ctx = context.WithoutCancel(ctx)
	}
	t.forget()
	return nil
}

// slotOf is the slot that dad addresses, from 1; 0 for none. OpenCT and KOBIL count
// the terminal in, so that the second slot of two is 3 to their programs.
func (t *Terminal) slotOf(dad byte) int {
	slots := len(t.home.Siblings())
	switch {
	case dad == addrICC1:
		return 1
	case dad == 3 && slots == 2:
		return 2
	case dad >= addrICC2 && int(dad) <= slots:
		return int(dad)
	}
	return 0
}

// unitOf is the address of a slot.
func unitOf(slot int) byte {
	if slot == 1 {
		return addrICC1
	}
	return byte(slot)
}

// toCard sends a command to the card that dad addresses, and appends the answer
// to dst. The terminal itself answers for a card that is not there or not active.
func (t *Terminal) toCard(ctx context.Context, dad byte, command, dst []byte) ([]byte, byte, error) {
	err := t.home.WaitReady(ctx, t.by.Wait)
	if err != nil {
		return dst, 0, err
	}
	slot := t.slotOf(dad)
	s := t.slot(byte(slot))
	switch {
	case t.home.Gone():
		return dst, 0, reader.ErrGone
	case s == nil:
		return dst, 0, fmt.Errorf("CT-API: no unit %d here: %w", dad, reader.ErrInvalid)
	}
	i := t.card(slot)
	if i.session == nil && !i.lapsed {
		if _, err = t.begin(ctx, s, slot, false); err != nil {
			i.lapsed = errors.Is(err, reader.ErrStale) // else it is as it was
		}
	}
	if i.session != nil {
		var answer []byte
		if answer, err = i.session.Transmit(ctx, command, dst); err == nil {
			return answer, dad, nil
		}
		if errors.Is(err, reader.ErrNoCard) || errors.Is(err, reader.ErrStale) {
			i.end()
		}
	}
	switch state := s.Info().State; {
	case state == core.StateGone:
		return dst, 0, reader.ErrGone
	case i.lapsed && state != core.StateEmpty:
		return append(dst, byte(swNotActive>>8), byte(swNotActive&0xFF)), addrCT, nil
	case i.lapsed, errors.Is(err, reader.ErrNoCard):
		return append(dst, byte(swNoCard>>8), byte(swNoCard&0xFF)), addrCT, nil
	}
	return dst, 0, err
}
