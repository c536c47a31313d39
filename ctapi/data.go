package ctapi

import (
	"context"
	"errors"
	"fmt"

	"github.com/cardfs/cardfs/reader"
	"github.com/cardfs/cardfs/reader/core"
)

// Addresses of CT_data (CT-API 1.1): dad is the destination of a command, sad its source.
// In the answer they are exchanged.
const (
	addrICC1       = 0
	addrCT         = 1
	addrICC2       = 2 // in a command; 3 to 14 are further slots
	addrHost       = 2
	addrRemoteHost = 5
)

// addresses is the number of address bytes before each command and answer of CT_data.
const addresses = 2

// icc is the terminal's state for the card in one slot:
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

// end ends the program's session with the card.
func (i *icc) end() {
	if i.session != nil {
		i.session.Close()
	}
	*i = icc{lapsed: true}
}

// card returns the state of the card in slot (from 1). A session that was ended by others,
// by a reset or a change of the card, has lapsed.
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

// begin opens a session with a card, which is ours if a command of this program activated
// it. That command calls begin at once: before the first command for the card, it could be
// exchanged for another one.
func (t *Terminal) begin(ctx context.Context, b *core.Slot, slot int, ours bool) (*core.Session, error) {
	i := t.card(slot)
	i.end()
	by := t.by
	by.Wait = false // report a missing card instead of waiting for one
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

// forget ends all sessions and resets the state of each card.
func (t *Terminal) forget() {
	for _, i := range t.cards {
		i.end()
	}
	clear(t.cards)
}

// Close ends the conversation. The cards keep their power.
func (t *Terminal) Close() { t.forget() }

// CheckData returns an error if b is too short for Data.
func CheckData(b []byte) error {
	if len(b) == addresses {
		return nil
	}
	if len(b) < addresses+4 {
		return fmt.Errorf("CT-API: dad, sad and a command of at least 4 bytes, here are %d bytes in all: %w", len(b), reader.ErrInvalid)
	}
	return nil
}

// Data answers the input of CT_data: dad, sad, and a command for the terminal or a card.
// The answer is dad, sad, and the answer of the unit in sad. Input without a command is
// CT_close: it powers off the cards that this program activated, unless another program
// holds them.
//
// Unlike a command of CT-BCS, a command for a card can fail with an error. The caller
// converts it to a code of CT-API.
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

// end powers off the cards that this program activated.
func (t *Terminal) end(ctx context.Context) error {
	for n, s := range t.home.Siblings() {
		i := t.card(n + 1)
		if !i.ours {
			continue
		}
		// Power fails if another program holds the transaction or the card is gone, and
		// then nothing needs to be done.
		if err := s.Power(ctx, core.PowerDown, t.by); errors.Is(err, reader.ErrInterrupted) {
			return err
		}
		ctx = context.WithoutCancel(ctx)
	}
	t.forget()
	return nil
}

// slotOf returns the slot that dad addresses, from 1, and 0 if there is none. OpenCT and
// KOBIL count the terminal too, so their programs address the second slot of two as 3.
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

// unitOf returns the address of a slot.
func unitOf(slot int) byte {
	if slot == 1 {
		return addrICC1
	}
	return byte(slot)
}

// toCard sends a command to the card that dad addresses and appends the answer to dst. If
// the card is absent or inactive, the terminal itself answers.
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
			i.lapsed = errors.Is(err, reader.ErrStale) // otherwise the state is unchanged
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
