package reader

import (
	"context"
	"fmt"
)

// Memory is a slot whose reader reads and writes synchronous (memory) cards. Its Traits
// say Synchronous after one was activated; the methods are for that card, and are called
// with the slot's turn. Package memcard implements it for readers that clock single commands
// of the chips, and for readers with commands of their own.
//
// Nothing is written to find out what a card is. Reading is free. A programmable security
// code (PSC) guards writing on some chips: a counter in the card has bits for the tries,
// and each VerifyPSC burns one before it compares; nothing else touches the counter, and
// nobody but the caller tries again. What was verified holds until the power goes.
//
// Errors: those of Exchange; ErrUnsupported for what the reader or the chip lacks. A chip does
// not say whether it took what was written: the caller reads it back.
type Memory interface {
	// Chip is what the card is. It must not wait for the device.
	Chip() Chip
	// ReadMemory appends the n bytes from address at on to dst.
	ReadMemory(ctx context.Context, at, n int, dst []byte) ([]byte, error)
	// WriteMemory writes p from address at on, all in one page.
	WriteMemory(ctx context.Context, at int, p []byte) error
	// ReadProtection appends, for each of the n bytes from at on, whether it is locked
	// for ever. All are below Chip.Protected.
	ReadProtection(ctx context.Context, at, n int, dst []bool) ([]bool, error)
	// PSCTries is how many tries the counter has left; 0: blocked.
	PSCTries(ctx context.Context) (int, error)
	// VerifyPSC presents the PSC. ok reports whether it was right, and left how many tries
	// the counter has afterwards. Without tries left it sends nothing.
	VerifyPSC(ctx context.Context, psc []byte) (ok bool, left int, err error)
	// ChangePSC sets another PSC, after VerifyPSC.
	ChangePSC(ctx context.Context, psc []byte) error
}

// Chip is a kind of synchronous card.
type Chip struct {
	Bus  MemoryBus
	Size int // bytes; 0: not known
	Page int // the most that one write may have, and the boundary that it may not cross
	PSC  int // bytes of it; 0: the chip has none
	// Protected is how many bytes, from address 0 on, can be locked.
	Protected int
	// Reserved is how many bytes at the end are the PSC and its counter. They can be read,
	// but only VerifyPSC and ChangePSC write them.
	Reserved int
}

// String is as in `status`: "256 2-wire".
func (c Chip) String() string { return fmt.Sprintf("%d %v", c.Size, c.Bus) }

// MemoryBus is how a synchronous card is clocked.
type MemoryBus int

const (
	I2C         MemoryBus = iota
	TwoWire               // S=10: SLE4432, SLE4442
	ThreeWire             // S=9: SLE4418, SLE4428
	CounterCard           // telephone cards; read only
)

func (b MemoryBus) String() string {
	switch b {
	case I2C:
		return "i2c"
	case TwoWire:
		return "2-wire"
	case ThreeWire:
		return "3-wire"
	}
	return "counter"
}
