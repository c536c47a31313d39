package icc

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"
)

// Memory is an emulated synchronous (memory) card. It has no answer to an asynchronous reset
// and no protocol: an emulated reader resets it with Contact.ActivateMemory, and gives it
// single commands with Contact.Clock.
//
// Nothing is undone by power or removal: bytes that were locked stay so, and so do tries that
// were burned.
type Memory struct {
	chip
	kind string

	mu  sync.Mutex // a leaf
	log []string
}

// chip is what differs from bus to bus. A Contact calls it with its lock held.
type chip interface {
	// reset is what the chip sends after a reset, in which cold takes the security state.
	reset(cold bool) []byte
	// command answers one command with n bytes, and says how long it is busy afterwards. ok is false if it
	// does not acknowledge (I2C).
	command(out []byte, n int, now time.Time) (in []byte, busy time.Duration, ok bool)
	// contents are the cells.
	contents() []byte
}

// chips are the kinds of memory cards. Times and sizes are those of the data sheets.
var chips = []struct {
	name string
	make func() chip
}{
	{"sle4432", func() chip { return newTwoWire(false) }},
	{"sle4442", func() chip { return newTwoWire(true) }},
	{"sle4418", func() chip { return newThreeWire(false) }},
	{"sle4428", func() chip { return newThreeWire(true) }},
	{"at24c01", func() chip { return newI2C(128, 8) }},
	{"at24c02", func() chip { return newI2C(256, 8) }},
	{"at24c04", func() chip { return newI2C(512, 16) }},
	{"at24c08", func() chip { return newI2C(1024, 16) }},
	{"at24c16", func() chip { return newI2C(2048, 16) }},
	{"at24c32", func() chip { return newI2C(4096, 32) }},
	{"at24c64", func() chip { return newI2C(8192, 32) }},
	{"at24c128", func() chip { return newI2C(16384, 64) }},
	{"at24c256", func() chip { return newI2C(32768, 64) }},
	{"at24c512", func() chip { return newI2C(65536, 128) }},
	{"sle4406", func() chip { return newCounter(104) }},
	{"sle4436", func() chip { return newCounter(237) }},
}

// MemoryNames lists the kinds.
func MemoryNames() []string {
	var names []string
	for _, c := range chips {
		names = append(names, c.name)
	}
	return names
}

// NewMemory makes a card of that kind; nil if there is none. Its PSC is FFFFFF or FFFF.
func NewMemory(name string) *Memory {
	for _, c := range chips {
		if c.name == name {
			return &Memory{chip: c.make(), kind: name}
		}
	}
	return nil
}

// Kind is the name by which it was made.
func (m *Memory) Kind() string { return m.kind }

// ATR is nil: the card is mute for a reader that resets it like a processor card.
func (m *Memory) ATR() []byte { return nil }

// Reset is not what resets a memory card.
func (m *Memory) Reset(bool) {}

// Process is never called: no protocol leads to it.
func (m *Memory) Process([]byte) []byte { return nil }

// Contents are the bytes of the card, as they are now, for tests.
func (m *Memory) Contents() []byte {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.contents())
}

// Fill sets the bytes from at on, as the factory does: no rule of the chip counts.
func (m *Memory) Fill(at int, p []byte) {
	m.mu.Lock()
	defer m.mu.Unlock()
	copy(m.contents()[at:], p)
}

// Log is every command that the chip got, in hex: what was clocked out to it, and behind a
// slash how many bytes were clocked in; "reset" for a reset.
func (m *Memory) Log() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.log)
}

// ClearLog empties the log.
func (m *Memory) ClearLog() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.log = nil
}

// maxLog bounds the log of a simulated card that is used for days.
const maxLog = 10000

func (m *Memory) note(format string, args ...any) {
	if len(m.log) < maxLog {
		m.log = append(m.log, fmt.Sprintf(format, args...))
	}
}

// MemoryBits is what the PSC's counter and the protect bits of a card are, for tests.
type MemoryBits struct {
	Counter  byte // a bit that is 1 is a try that is left
	PSC      []byte
	Locked   []bool // by address
	Verified bool
}

// Bits returns them; nothing of a card that has none.
func (m *Memory) Bits() MemoryBits {
	m.mu.Lock()
	defer m.mu.Unlock()
	if s, ok := m.chip.(interface{ bits() MemoryBits }); ok {
		return s.bits()
	}
	return MemoryBits{}
}

// ActivateMemory powers a memory card and resets it. It returns what the card sends then: H1 to
// H4, or bytes FF, which is a line that nobody drives. Errors: ErrNoCard; ErrMute for another card; ctx.Err().
func (c *Contact) ActivateMemory(ctx context.Context) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.card == nil {
		return nil, ErrNoCard
	}
	cold := !c.powered
	c.changed()
	c.powered, c.fresh, c.muteATR = true, true, true
	m, ok := c.card.(*Memory)
	if !ok || c.faults.Mute {
		return nil, ErrMute
	}
	c.clocked = true
	m.mu.Lock()
	defer m.mu.Unlock()
	m.note("reset")
	return m.reset(cold), nil
}

// Clock gives a memory card one command and clocks n bytes in. It returns when the card is
// done; an I2C card is busy by itself, and does not acknowledge meanwhile. ok is false if the
// card did not acknowledge, left, lost its power or is none.
func (c *Contact) Clock(ctx context.Context, out []byte, n int) (in []byte, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	m, ok := c.card.(*Memory)
	if !ok || !c.powered || !c.clocked || c.faults.Mute {
		return nil, false
	}
	m.mu.Lock()
	m.note("% X/%d", out, n)
	in, busy, ok := m.command(out, n, time.Now())
	m.mu.Unlock()
	if !ok || !c.pass(ctx, busy, 0) {
		return nil, false
	}
	return in, true
}

// high is a line that nobody drives.
func high(n int) []byte {
	in := make([]byte, n)
	for i := range in {
		in[i] = 0xFF
	}
	return in
}

// cycle is the time in which a cell is erased, or written (SLE 4442 and SLE 4428 data sheets).
const cycle = 2500 * time.Microsecond

// change puts a byte into a cell and returns how long that takes: a bit becomes 1 by erasing, 0 by
// writing.
func change(cell *byte, to byte) (busy time.Duration) {
	if to&^*cell != 0 {
		busy += cycle
	}
	if *cell&^to != 0 || to&^*cell != 0 && to != 0xFF {
		busy += cycle
	}
	*cell = to
	return busy
}
