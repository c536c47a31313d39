package memcard

import (
	"context"
	"errors"
	"fmt"
	"math/bits"

	"github.com/cardfs/cardfs/reader"
)

// Dialect is how a reader that knows the chips by itself is asked. Its commands look like
// C-APDUs, and their answers end with SW1 SW2; a driver whose reader frames them differently translates in
// Commands.Send.
type Dialect struct {
	CLA, Read, Update byte // class, and instructions for reading and writing at the address P1 P2
	MaxRead, MaxWrite int  // bytes in one command; 0: 256 and 255
	// PSC is nil where the reader has no commands for it.
	PSC *PSCDialect
	// Protection makes the command that reads the protect bits of 8·n bytes from address at on, 8
	// in a byte, lowest first, 0 where locked; nil: there is none.
	Protection func(c reader.Chip, at, n int) []byte
}

// PSCDialect has the commands around a PSC. The reader keeps the order of a verification.
type PSCDialect struct {
	// Tries makes the command whose answer begins with the counter.
	Tries func(c reader.Chip) []byte
	// Verify makes the command that presents the PSC. Right reports whether it was, by SW1 SW2.
	Verify func(c reader.Chip, psc []byte) []byte
	Right  func(c reader.Chip, sw uint16) bool
	// Change makes the command that sets another PSC.
	Change func(c reader.Chip, psc []byte) []byte
}

// Terminal is the dialect of CT-BCS terminals (KAAN, B1) to the card's unit. Of their
// commands for a PSC nothing is known.
var Terminal = Dialect{CLA: 0x00, Read: 0xB0, Update: 0xD0}

// ACS is the dialect of the readers of Advanced Card Systems: in messages of their own (ACR38
// Reference Manual 1.9 §8.2) or of CCID (ACR38x (CCID) Reference Manual 6.04 §9.3, ACR39x 1.03
// §8, ACR3801 2.01 §8.3, ACR33U-A1 1.00 §8.2). The card's type is selected first, by SelectACS.
var ACS = Dialect{
	CLA: 0xFF, Read: 0xB0, Update: 0xD0, MaxRead: 255,
	PSC: &PSCDialect{
		Tries: func(c reader.Chip) []byte {
			return []byte{0xFF, 0xB1, 0, 0, byte(c.PSC + 1)}
		},
		Verify: func(c reader.Chip, psc []byte) []byte {
			return append([]byte{0xFF, 0x20, 0, 0, byte(len(psc))}, psc...)
		},
		Right: func(c reader.Chip, sw uint16) bool { // 90, and the counter after it
			return c.Bus == reader.TwoWire && sw == 0x9000|twoWireTries || c.Bus == reader.ThreeWire && sw == 0x9000|threeWireTries
		},
		Change: func(c reader.Chip, psc []byte) []byte {
			if c.Bus == reader.TwoWire {
				return append([]byte{0xFF, 0xD2, 0, 1, byte(len(psc))}, psc...)
			}
			at := counterAddress + 1
			return append([]byte{0xFF, 0xD0, byte(at >> 8), byte(at), byte(len(psc))}, psc...)
		},
	},
	Protection: func(c reader.Chip, at, n int) []byte {
		if c.Bus == reader.TwoWire {
			return []byte{0xFF, 0xB2, 0, 0, byte(n)}
		}
		return []byte{0xFF, 0xB2, byte(at >> 8), byte(at), byte(n)}
	},
}

// SelectACS is the command, the first after the card was put in, that tells an ACS reader what the card is,
// powers it and resets it.
func SelectACS(c reader.Chip) []byte {
	kind := byte(1) // I2C of 1 to 16 kbit
	switch {
	case c.Bus == reader.TwoWire:
		kind = 6
	case c.Bus == reader.ThreeWire:
		kind = 5
	case c.Bus == reader.CounterCard:
		kind = 7
	case c.Size > longestShort:
		kind = 2
	}
	return []byte{0xFF, 0xA4, 0, 0, 1, kind}
}

// PageACS tells an ACS reader the page of an I2C card (ACR38 §8.2.2.2).
func PageACS(c reader.Chip) []byte {
	return []byte{0xFF, 0x01, 0, 0, 1, byte(bits.TrailingZeros(uint(c.Page)))}
}

// Candidates are the chips to try, by selecting and reading, where the reader does not know what the card is: what
// the user told, or those that say it by themselves.
func Candidates(told reader.Chip) []reader.Chip {
	if told.Size > 0 {
		return []reader.Chip{told}
	}
	return []reader.Chip{twoWire, threeWire}
}

// Commands is a reader.Memory over a reader's own commands. A driver's slot embeds it, and
// calls Activate in its PowerOn.
type Commands struct {
	Dialect Dialect
	// Send sends a command to the reader and appends its answer to dst.
	Send func(ctx context.Context, command, dst []byte) ([]byte, error)

	chip reader.Chip
}

var _ reader.Memory = (*Commands)(nil)

// Chip is the card that Activate found.
func (m *Commands) Chip() reader.Chip { return m.chip }

// Activate makes chip, as which the reader powered the card, the card, and returns its ATR. What
// the user did not tell, the card must say itself: else it is ErrMute.
func (m *Commands) Activate(ctx context.Context, chip, told reader.Chip) (atr []byte, err error) {
	m.chip = chip
	h, err := m.ReadMemory(ctx, 0, header, make([]byte, 0, header))
	if err == nil {
		var found reader.Chip
		found, atr, err = Recognise(h, told)
		if errors.Is(err, ErrSize) || err == nil && found.Bus != chip.Bus {
			err = fmt.Errorf("it does not answer as a %v card: %w", chip.Bus, reader.ErrMute)
		}
	}
	if err != nil {
		m.chip = reader.Chip{}
		return nil, err
	}
	if m.Dialect.PSC == nil {
		return atr, nil
	}
	m.chip.PSC, m.chip.Reserved, err = m.findPSC(ctx)
	if err != nil {
		m.chip = reader.Chip{}
		return nil, err
	}
	return atr, nil
}

// findPSC tells the chips with a PSC from those without, by what Clocked.Activate goes by.
func (m *Commands) findPSC(ctx context.Context) (psc, reserved int, err error) {
	switch m.chip.Bus {
	case reader.TwoWire:
		with := m.chip
		with.PSC = twoWirePSC
		got, err := m.do(ctx, "counter of tries", m.Dialect.PSC.Tries(with), nil)
		if errors.Is(err, errRefused) { // the reader knows that there is none
			return 0, 0, nil
		}
		if err != nil || len(got) == 0 || got[0]&^twoWireTries != 0 {
			return 0, 0, err
		}
		return twoWirePSC, 0, nil
	case reader.ThreeWire:
		got, err := m.ReadMemory(ctx, counterAddress+1, threeWirePSC, nil)
		if err != nil || got[0] != 0 || got[1] != 0 {
			return 0, 0, err
		}
		return threeWirePSC, 1 + threeWirePSC, nil
	}
	return 0, 0, nil
}

// errRefused: an answer has another status word than 9000.
var errRefused = fmt.Errorf("the reader refuses it: %w", reader.ErrProtocol)

// do sends a command that must be answered by 9000, and appends the answer's data to dst.
func (m *Commands) do(ctx context.Context, what string, command, dst []byte) ([]byte, error) {
	got, err := m.Send(ctx, command, dst)
	if err != nil {
		return dst, err
	}
	n := len(got) - 2
	if n < len(dst) {
		return dst, fmt.Errorf("memory card, %s: %d bytes came, SW1 SW2 at least must: %w", what, len(got)-len(dst), reader.ErrProtocol)
	}
	if sw := uint16(got[n])<<8 | uint16(got[n+1]); sw != swDone && sw != swEnd {
		return dst, fmt.Errorf("memory card, %s: %04X: %w", what, sw, errRefused)
	}
	return got[:n], nil
}

func (m *Commands) ReadMemory(ctx context.Context, at, n int, dst []byte) ([]byte, error) {
	most := m.Dialect.MaxRead
	if most == 0 {
		most = 256
	}
	for base := len(dst); len(dst)-base < n; {
		here := at + len(dst) - base
		k := min(most, n-(len(dst)-base))
		got, err := m.do(ctx, "read", []byte{m.Dialect.CLA, m.Dialect.Read, byte(here >> 8), byte(here), byte(k)}, dst)
		if err != nil {
			return dst[:base], err
		}
		if len(got) == len(dst) || len(got) > len(dst)+k {
			return dst[:base], fmt.Errorf("memory card, read at %d: %d of %d bytes came: %w", here, len(got)-len(dst), k, reader.ErrProtocol)
		}
		dst = got
	}
	return dst, nil
}

func (m *Commands) WriteMemory(ctx context.Context, at int, p []byte) error {
	most := m.Dialect.MaxWrite
	if most == 0 {
		most = 255
	}
	for len(p) > 0 {
		n := min(most, len(p))
		command := append([]byte{m.Dialect.CLA, m.Dialect.Update, byte(at >> 8), byte(at), byte(n)}, p[:n]...)
		if _, err := m.do(ctx, "write", command, nil); err != nil {
			return err
		}
		at, p = at+n, p[n:]
	}
	return nil
}

func (m *Commands) ReadProtection(ctx context.Context, at, n int, dst []bool) ([]bool, error) {
	if m.Dialect.Protection == nil {
		return dst, fmt.Errorf("protect bits: %w", reader.ErrUnsupported)
	}
	first := at / 8 * 8
	count := (at + n + 7 - first) / 8
	if m.chip.Bus == reader.TwoWire {
		first, count = 0, twoWire.Protected/8
	}
	got, err := m.do(ctx, "protect bits", m.Dialect.Protection(m.chip, first, count), nil)
	if err != nil {
		return dst, err
	}
	if len(got) != count {
		return dst, fmt.Errorf("memory card, protect bits: %d of %d bytes came: %w", len(got), count, reader.ErrProtocol)
	}
	for i := range n {
		bit := at - first + i
		dst = append(dst, got[bit/8]>>(bit%8)&1 == 0)
	}
	return dst, nil
}

func (m *Commands) psc() (*PSCDialect, error) {
	if m.Dialect.PSC == nil || m.chip.PSC == 0 {
		return nil, fmt.Errorf("PSC: %w", errChip)
	}
	return m.Dialect.PSC, nil
}

func (m *Commands) PSCTries(ctx context.Context) (int, error) {
	p, err := m.psc()
	if err != nil {
		return 0, err
	}
	got, err := m.do(ctx, "counter of tries", p.Tries(m.chip), nil)
	if err != nil {
		return 0, err
	}
	defer clear(got)
	if len(got) == 0 {
		return 0, fmt.Errorf("memory card, counter of tries: nothing came: %w", reader.ErrProtocol)
	}
	return bits.OnesCount8(got[0]), nil
}

// VerifyPSC sends one command, once.
func (m *Commands) VerifyPSC(ctx context.Context, code []byte) (ok bool, left int, err error) {
	p, err := m.psc()
	if err != nil {
		return false, 0, err
	}
	if len(code) != m.chip.PSC {
		return false, 0, fmt.Errorf("a PSC of another length than the card's: %w", reader.ErrInvalid)
	}
	if left, err = m.PSCTries(ctx); err != nil || left == 0 {
		return false, 0, err
	}
	command := p.Verify(m.chip, code)
	defer clear(command)
	got, err := m.Send(ctx, command, nil)
	if err != nil {
		return false, 0, err
	}
	if len(got) != 2 {
		return false, 0, fmt.Errorf("memory card, PSC: %d bytes came, SW1 SW2 must: %w", len(got), reader.ErrProtocol)
	}
	ok = p.Right(m.chip, uint16(got[0])<<8|uint16(got[1]))
	left, err = m.PSCTries(ctx)
	return ok && err == nil, left, err
}

func (m *Commands) ChangePSC(ctx context.Context, code []byte) error {
	p, err := m.psc()
	if err != nil {
		return err
	}
	if len(code) != m.chip.PSC {
		return fmt.Errorf("a PSC of another length than the card's: %w", reader.ErrInvalid)
	}
	command := p.Change(m.chip, code)
	defer clear(command)
	_, err = m.do(ctx, "change of the PSC", command, nil)
	return err
}
