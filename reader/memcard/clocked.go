package memcard

import (
	"context"
	"fmt"
	"math/bits"

	"github.com/cardfs/cardfs/reader"
)

// Clocked is a reader.Memory over a Clock. A driver's slot embeds it, and calls Activate in
// its PowerOn.
type Clocked struct {
	clock Clock
	chip  reader.Chip
	rx    [8]byte // for what a chip says of its PSC
}

var _ reader.Memory = (*Clocked)(nil)

// NewClocked makes one, whose card is not known yet.
func NewClocked(clock Clock) *Clocked { return &Clocked{clock: clock} }

// Chip is the card that Activate found.
func (m *Clocked) Chip() reader.Chip { return m.chip }

// Activate finds out, by reading, what the card is that answers h to a synchronous reset, and
// returns its ATR. h is empty, or begins with FF, for a card without one; told is what the
// user said that it is, or the reader knows.
func (m *Clocked) Activate(ctx context.Context, h []byte, told reader.Chip) (atr []byte, err error) {
	m.chip = reader.Chip{}
	chip, atr, err := Recognise(h, told)
	if err != nil {
		return nil, err
	}
	defer clear(m.rx[:])
	switch chip.Bus {
	case reader.TwoWire:
		// An SLE 4432 has no security memory and leaves the line high. The upper bits of
		// an SLE 4442's counter are 0.
		s, err := m.receive(ctx, chip, readSecurity, 0, 4)
		if err != nil {
			return nil, err
		}
		if s[0]&^twoWireTries == 0 {
			chip.PSC = twoWirePSC
		}
	case reader.ThreeWire:
		// An SLE 4428's PSC reads 00 00 before it was verified. An SLE 4418 has ordinary bytes
		// there, FF FF when it is new.
		s, err := m.receive(ctx, chip, readByte, counterAddress, 3)
		if err != nil {
			return nil, err
		}
		if s[1] == 0 && s[2] == 0 {
			chip.PSC, chip.Reserved = threeWirePSC, 1+threeWirePSC
		}
	}
	m.chip = chip
	return atr, nil
}

// receive reads into the small buffer.
func (m *Clocked) receive(ctx context.Context, chip reader.Chip, control byte, at, n int) ([]byte, error) {
	got, err := m.clock.Receive(ctx, Command{Bus: chip.Bus, Control: control, At: at}, n, m.rx[:0])
	if err == nil && len(got) != n {
		err = fmt.Errorf("memory card, command %02X: %d of %d bytes came: %w", control, len(got), n, reader.ErrProtocol)
	}
	return got, err
}

func (m *Clocked) command(control byte, at int) Command {
	return Command{Bus: m.chip.Bus, Control: control, At: at, Long: m.chip.Bus == reader.I2C && m.chip.Size > longestShort}
}

func (m *Clocked) ReadMemory(ctx context.Context, at, n int, dst []byte) ([]byte, error) {
	base, skip := len(dst), 0
	c := m.command(readMain, at)
	switch m.chip.Bus {
	case reader.ThreeWire:
		c.Control = readByte
	case reader.CounterCard: // it is read from its first bit on
		c.Control, c.At, skip = 0, 0, at
	case reader.I2C:
		c.Control = 0
	}
	got, err := m.clock.Receive(ctx, c, skip+n, dst)
	if err != nil {
		return dst, err
	}
	if len(got)-base != skip+n {
		return dst, fmt.Errorf("memory card, read at %d: %d of %d bytes came: %w", at, len(got)-base-skip, n, reader.ErrProtocol)
	}
	return append(got[:base], got[base+skip:]...), nil
}

func (m *Clocked) WriteMemory(ctx context.Context, at int, p []byte) error {
	control := byte(0)
	switch m.chip.Bus {
	case reader.TwoWire:
		control = updateMain
	case reader.ThreeWire:
		control = writeByte
	case reader.CounterCard:
		return errReadOnly
	}
	return m.clock.Send(ctx, m.command(control, at), p)
}

// ReadProtection: a bit that is 0 is locked; it cannot be set again.
func (m *Clocked) ReadProtection(ctx context.Context, at, n int, dst []bool) ([]bool, error) {
	control := byte(readProtection)
	first := at / 8 * 8
	count := (at + n + 7 - first) / 8
	switch m.chip.Bus {
	case reader.TwoWire: // all four bytes, whatever the address
		first, count = 0, twoWire.Protected/8
	case reader.ThreeWire:
		control = readWithBits
	default:
		return dst, fmt.Errorf("protect bits: %w", errChip)
	}
	got, err := m.clock.Receive(ctx, m.command(control, first), count, nil)
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

// errChip: the chip does not have it.
var errChip = fmt.Errorf("this memory card does not have that: %w", reader.ErrUnsupported)

// psc is how a chip's PSC is reached.
type psc struct {
	read, burn, compare, erase, change byte // commands
	counter                            int  // address; that of the PSC follows
	full                               byte // the counter with all tries
}

func (m *Clocked) psc() (psc, error) {
	switch {
	case m.chip.PSC == 0:
	case m.chip.Bus == reader.TwoWire:
		return psc{readSecurity, updateSecurity, compareByte, updateSecurity, updateSecurity, 0, twoWireTries}, nil
	case m.chip.Bus == reader.ThreeWire:
		return psc{readByte, writeCounter, compareByte3, writeByte, writeByte, counterAddress, threeWireTries}, nil
	}
	return psc{}, fmt.Errorf("PSC: %w", errChip)
}

// counter reads the counter of tries. A bit that is 1 is a try that is left.
func (m *Clocked) counter(ctx context.Context, p psc) (byte, error) {
	defer clear(m.rx[:]) // the PSC may follow
	n := 1
	if m.chip.Bus == reader.TwoWire {
		n = 4
	}
	got, err := m.receive(ctx, m.chip, p.read, p.counter, n)
	if err != nil {
		return 0, fmt.Errorf("counter of tries: %w", err)
	}
	if got[0]&^p.full != 0 {
		return 0, fmt.Errorf("counter of tries: it has bits that the chip does not have: %w", reader.ErrProtocol)
	}
	return got[0], nil
}

func (m *Clocked) PSCTries(ctx context.Context) (int, error) {
	p, err := m.psc()
	if err != nil {
		return 0, err
	}
	c, err := m.counter(ctx, p)
	return bits.OnesCount8(c), err
}

// VerifyPSC follows the order that the chips enforce (SLE 4442 and SLE 4428 data sheets, "PSC
// verification"): read the counter, burn one of its bits, compare, erase the counter, which works only if the
// PSC was right, and read it again. Nothing is repeated.
func (m *Clocked) VerifyPSC(ctx context.Context, code []byte) (ok bool, left int, err error) {
	p, err := m.psc()
	if err != nil {
		return false, 0, err
	}
	if len(code) != m.chip.PSC {
		return false, 0, fmt.Errorf("a PSC of another length than the card's: %w", reader.ErrInvalid)
	}
	c, err := m.counter(ctx, p)
	if err != nil || c == 0 {
		return false, 0, err
	}
	for _, step := range []struct {
		control byte
		at      int
		data    []byte
	}{
		{p.burn, p.counter, []byte{c & (c - 1)}},
		{p.compare, p.counter + 1, code},
		{p.erase, p.counter, []byte{0xFF}},
	} {
		if err := m.clock.Send(ctx, m.command(step.control, step.at), step.data); err != nil {
			return false, 0, err
		}
	}
	if c, err = m.counter(ctx, p); err != nil {
		return false, 0, err
	}
	return c == p.full, bits.OnesCount8(c), nil
}

func (m *Clocked) ChangePSC(ctx context.Context, code []byte) error {
	p, err := m.psc()
	if err != nil {
		return err
	}
	if len(code) != m.chip.PSC {
		return fmt.Errorf("a PSC of another length than the card's: %w", reader.ErrInvalid)
	}
	if err := m.clock.Send(ctx, m.command(p.change, p.counter+1), code); err != nil {
		return err
	}
	// Once verified, the chips show their PSC.
	defer clear(m.rx[:])
	at, n, skip := p.counter+1, m.chip.PSC, 0
	if m.chip.Bus == reader.TwoWire {
		at, n, skip = 0, 4, 1
	}
	got, err := m.receive(ctx, m.chip, p.read, at, n)
	if err != nil {
		return err
	}
	if string(got[skip:]) != string(code) {
		return ErrNotTaken
	}
	return nil
}
