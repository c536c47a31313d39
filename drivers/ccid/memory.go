package ccid

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/cardfs/cardfs/reader"
	"github.com/cardfs/cardfs/reader/memcard"
)

// memoryReaders take memory cards by pseudo-APDUs of their maker: ACR38x (CCID) Reference Manual
// 6.04 §9.3, ACR3801 2.01 §8.3, ACR39x 1.03 §8, ACR33U-A1 1.00 §8.2.
var memoryReaders = []model{
	{0x072F, 0x8300}, // ACR33U-A1
	{0x072F, 0x90CC}, // ACR38U-CCID
	{0x072F, 0x90D8}, // ACR3801
	{0x072F, 0xB100}, // ACR39U
	{0x072F, 0xB101}, // ACR39K
	{0x072F, 0xB102}, // ACR39T
}

// memorySlot is a slot of a reader that also reads memory cards. CCID has no commands for
// them. These readers take pseudo-APDUs in XfrBlock. They do not find out what a card is: the
// host says it, and the reader then powers the card and resets it (FF A4). What IccPowerOn makes
// of a memory card is not documented. Here a card that is mute for it, or whose ATR holds H1 to H4, is tried as a
// memory card, by reading alone. None of this was tried on a real reader.
type memorySlot struct {
	*slot
	*memcard.Commands
	told    reader.Chip
	clocked bool // the card is a memory card, and has power
}

var (
	_ reader.Slot   = (*memorySlot)(nil)
	_ reader.Memory = (*memorySlot)(nil)
)

func newMemorySlot(s *slot, dev reader.Device) (*memorySlot, error) {
	value := dev.Params[memcard.Param]
	told, err := memcard.Told(value)
	if err != nil {
		return nil, fmt.Errorf("ccid: %s=%s: %w", memcard.Param, value, err)
	}
	m := &memorySlot{slot: s, told: told}
	m.Commands = &memcard.Commands{Dialect: memcard.ACS, Send: m.send}
	return m, nil
}

// memoryLimit is for a command to a memory card: 255 bytes, written one after the other, take 1.3 s.
const memoryLimit = 10 * time.Second

func (m *memorySlot) send(ctx context.Context, command, dst []byte) ([]byte, error) {
	a, err := m.xfr(ctx, 0, chainWhole, command, memoryLimit)
	if err != nil {
		return dst, err
	}
	return a.appendTo(dst, len(dst)), nil
}

// PowerOn activates a card of either kind.
func (m *memorySlot) PowerOn(ctx context.Context, how reader.Reset) ([]byte, error) {
	if m.clocked { // of such a card there is no warm reset
		if err := m.PowerOff(ctx); err != nil {
			return nil, err
		}
	}
	atr, err := m.slot.PowerOn(ctx, how)
	switch {
	case err == nil && !holdsH1(atr):
		return atr, nil
	case err != nil && !aboutCard(err):
		return nil, err
	}
	for _, chip := range memcard.Candidates(m.told) { // by reading alone
		found, tried := m.activateMemory(ctx, chip)
		if tried == nil {
			m.clocked = true
			return found, nil
		}
		if !aboutCard(tried) {
			return nil, tried
		}
	}
	if err != nil {
		return nil, err
	}
	return m.slot.PowerOn(ctx, reader.Cold) // it is a card with a processor after all
}

// aboutCard reports whether err is about the card, so that another kind may be tried.
func aboutCard(err error) bool {
	var failed *Error
	if errors.Is(err, reader.ErrGone) || errors.Is(err, reader.ErrNoCard) {
		return false
	}
	return errors.As(err, &failed) || errors.Is(err, reader.ErrMute) || errors.Is(err, reader.ErrProtocol)
}

// holdsH1 reports whether an ATR has H1 to H4 of a memory card for historical bytes.
func holdsH1(atr []byte) bool {
	return len(atr) == 6 && atr[0] == 0x3B && atr[1] == 0x04 && atr[2]&0xC0 == 0x80
}

func (m *memorySlot) activateMemory(ctx context.Context, chip reader.Chip) ([]byte, error) {
	commands := [][]byte{memcard.SelectACS(chip)}
	if chip.Bus == reader.I2C {
		commands = append(commands, memcard.PageACS(chip))
	}
	for _, command := range commands {
		a, err := m.send(ctx, command, nil)
		if err != nil {
			return nil, err
		}
		if n := len(a); n < 2 || a[n-2] != 0x90 || a[n-1] != 0 {
			return nil, fmt.Errorf("ccid: the reader does not take the card as %v: %w", chip.Bus, reader.ErrMute)
		}
	}
	return m.Activate(ctx, chip, m.told)
}

// PowerOff sends IccPowerOff.
func (m *memorySlot) PowerOff(ctx context.Context) error {
	m.clocked = false
	return m.slot.PowerOff(ctx)
}

// Exchange is for cards with a processor.
func (m *memorySlot) Exchange(ctx context.Context, t reader.Transfer, dst []byte) ([]byte, error) {
	return m.slot.Exchange(ctx, t, dst)
}

func (m *memorySlot) Traits() reader.Traits {
	t := m.slot.Traits()
	if m.clocked {
		t.Level = reader.Synchronous
	}
	return t
}
