package applet

import (
	"bytes"
	"time"

	"github.com/cardfs/cardfs/reader/icc"
)

// App is an application on a card. Calls never overlap.
type App interface {
	// AID is the full name by which SELECT finds the application.
	AID() []byte
	// Select answers SELECT. If another application was selected, Reset was called before.
	Select() Answer
	// Reset forgets the security state: the card was reset, or another application selected.
	Reset()
	// Process answers a command other than SELECT by AID and GET RESPONSE. Its CLA has
	// neither the bit of chaining nor a logical channel nor secure messaging. Its Data is
	// valid until the answer; what the App keeps, it copies.
	Process(Command) Answer
	// Incoming reports whether an instruction brings data along; T=0 asks.
	Incoming(ins byte) bool
	// Takes is how long a real card computes for a command that it executes.
	Takes(Command) time.Duration
}

// Warning is what `status` says of a slot with such a card.
const Warning = "the card is simulated: no place for keys that matter"

// MaxData bounds the data of a chained command. It is more than any certificate needs.
const MaxData = 1 << 16

// Card is a card with applications. The first is selected after a reset.
type Card struct {
	atr   []byte
	store *Store
	apps  []App

	// Slow has the card take the time that a real one needs.
	Slow bool

	selected App
	chain    []byte  // data of a chain so far
	head     [4]byte // its CLA INS P1 P2, without the bit of chaining
	chained  bool
	rest     []byte // for GET RESPONSE; empty: nothing
	restSW   int
	busy     time.Duration
	out      []byte
}

var (
	_ icc.Card      = (*Card)(nil)
	_ icc.Busier    = (*Card)(nil)
	_ icc.T0Card    = (*Card)(nil)
	_ icc.WholeCard = (*Card)(nil)
)

// NewCard makes a card whose applications keep their state in store.
func NewCard(atr []byte, store *Store, apps ...App) *Card {
	return &Card{atr: atr, store: store, apps: apps, selected: apps[0]}
}

// ATR is what the card sends after a reset.
func (c *Card) ATR() []byte { return c.atr }

// Reset selects the first application.
func (c *Card) Reset(bool) {
	for _, a := range c.apps {
		a.Reset()
	}
	c.selected = c.apps[0]
	c.drop()
}

// drop forgets a chain and the rest of an answer.
func (c *Card) drop() {
	clear(c.chain)
	clear(c.rest)
	c.chain, c.chained, c.rest = c.chain[:0], false, c.rest[:0]
}

// Close gives the state file free.
func (c *Card) Close() error { return c.store.Close() }

// Busy is how long the last command takes.
func (c *Card) Busy([]byte) time.Duration { return c.busy }

// Incoming tells the T=0 engine which commands have data.
func (c *Card) Incoming(_, ins byte) bool { return ins == insSelect || c.selected.Incoming(ins) }

// Process answers a C-APDU. An answer longer than a short Le ends in 61xx, and GET
// RESPONSE fetches the rest.
func (c *Card) Process(capdu []byte) []byte {
	k, ok := Parse(capdu)
	a := Status(SWLength)
	switch {
	case !ok:
		c.busy = 0
		c.drop()
	case k.INS == insGetResponse && k.CLA == 0:
		c.busy = 0
		a = c.getResponse(k)
	default:
		a = c.run(k)
	}
	return c.reply(k, a)
}

// Whole answers as Process does, but whatever Le says the answer is whole.
func (c *Card) Whole(capdu []byte) []byte {
	k, ok := Parse(capdu)
	if !ok {
		c.busy = 0
		c.drop()
		return c.append(Status(SWLength))
	}
	return c.append(c.run(k))
}

func (c *Card) getResponse(k Command) Answer {
	switch {
	case k.P1P2() != 0:
		return Status(SWP1P2)
	case len(k.Data) > 0:
		return Status(SWLength)
	case len(c.rest) == 0:
		return Status(SWConditions)
	}
	return Answer{c.rest, c.restSW}
}

// reply cuts an answer that Le has no room for. A command without Le counts as one with
// Le = 00, as with Java cards: PIV tools leave it out where they expect an answer.
func (c *Card) reply(k Command, a Answer) []byte {
	most := k.Le
	switch {
	case most == 0 && k.Extended:
		most = maxExtended
	case most == 0:
		most = maxShort
	}
	if len(a.Data) <= most {
		c.rest = c.rest[:0]
		return c.append(a)
	}
	left := len(a.Data) - most
	more := swMore
	if left < maxShort {
		more |= left
	}
	rx := c.append(Answer{a.Data[:most], more})
	c.rest, c.restSW = append(c.rest[:0], a.Data[most:]...), a.SW
	return rx
}

func (c *Card) append(a Answer) []byte {
	clear(c.out)
	c.out = append(append(c.out[:0], a.Data...), byte(a.SW>>8), byte(a.SW))
	return c.out
}

// run collects chains (ISO/IEC 7816-4:2013 §5.3.3) and executes whole commands. Another
// command in the middle of a chain ends the chain.
func (c *Card) run(k Command) Answer {
	c.rest, c.busy = c.rest[:0], 0
	more := k.CLA&claChained != 0
	k.CLA &^= claChained
	if sw := classOf(k.CLA); sw != OK {
		c.drop()
		return Status(sw)
	}
	head := [4]byte{k.CLA, k.INS, k.P1, k.P2}
	if c.chained && c.head != head {
		c.drop()
	}
	if len(c.chain)+len(k.Data) > MaxData {
		c.drop()
		return Status(SWLength)
	}
	if more {
		c.chain, c.head, c.chained = append(c.chain, k.Data...), head, true
		return Status(OK)
	}
	if c.chained {
		c.chain = append(c.chain, k.Data...)
		k.Data = c.chain
	}
	a := c.dispatch(k)
	clear(c.chain)
	c.chain, c.chained = c.chain[:0], false
	if err := c.store.Flush(); err != nil {
		c.selected.Reset() // what was not written was not granted
		return Status(SWMemory)
	}
	if c.Slow {
		c.busy = TimeCommand
		if a.SW == OK { // what is refused is refused at once
			c.busy = c.selected.Takes(k)
		}
	}
	return a
}

// classOf checks a class without its bit of chaining (ISO/IEC 7816-4:2013 §5.4.1). Classes
// of 80 and above are the application's.
func classOf(cla byte) int {
	switch {
	case cla&0x80 != 0:
		return OK
	case cla&0xE0 == 0x20:
		return SWCLA
	case cla&0x43 != 0:
		return SWChannel
	case cla&0x0C != 0:
		return SWSecureMsg
	}
	return OK
}

func (c *Card) dispatch(k Command) Answer {
	if k.CLA == 0 && k.INS == insSelect && k.P1 == 0x04 {
		return c.selectApp(k)
	}
	return c.selected.Process(k)
}

// selectApp is SELECT by a whole AID or the beginning of one (ISO/IEC 7816-4:2013 §11.1.1).
// When nothing has that name, everything stays as it was.
func (c *Card) selectApp(k Command) Answer {
	switch {
	case k.P2&^0x0C != 0:
		return Status(SWP1P2)
	case len(k.Data) == 0 || len(k.Data) > 16:
		return Status(SWData)
	}
	for _, a := range c.apps {
		if !bytes.HasPrefix(a.AID(), k.Data) {
			continue
		}
		if a != c.selected {
			c.selected.Reset()
			c.selected = a
		}
		return a.Select()
	}
	return Status(SWNotFound)
}
