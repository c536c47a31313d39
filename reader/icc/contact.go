package icc

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"
)

var (
	// ErrNoCard: nothing is in the contacts.
	ErrNoCard = errors.New("no card in the contacts")
	// ErrMute: the card sends no ATR.
	ErrMute = errors.New("the card sends no answer to reset")
	// ErrOccupied: a card is in the contacts already.
	ErrOccupied = errors.New("a card is in the contacts already")
)

// Busier is a Card that computes for some time over some commands. The card's
// engine lets that time pass before it answers, and asks for more as the
// protocol demands it (T=1: S(WTX request), T=0: NULL).
type Busier interface {
	// Busy is how long the command takes; it is asked after Process.
	Busy(capdu []byte) time.Duration
}

// T0Card is a Card that says which of its commands bring data along. In T=0 the
// header alone does not tell (ISO/IEC 7816-3:2006 §10.3.2): a card knows its
// commands. Without it the instructions of ISO/IEC 7816-4:2013 table 4 decide.
type T0Card interface {
	Incoming(cla, ins byte) bool
}

// WholeCard is a Card that keeps the rest of an answer for GET RESPONSE itself when a short Le
// has no room for it (ISO/IEC 7816-4:2013 §5.3.4). In T=0 GET RESPONSE belongs to the
// transmission protocol, so its engine asks for the whole answer.
type WholeCard interface {
	// Whole is Process without regard to Le.
	Whole(capdu []byte) []byte
}

// Contact is one card position of an emulated reader: the card in it, its
// power, and its end of the transmission protocol. An emulator uses the method
// of the level that its reader works at: Chars, TPDU or APDU. In all of them a
// nil answer is silence: the card will not answer what was sent, and how long
// to wait for that is the emulator's business (BlockWait). Silence is also what
// is heard when ctx ends, the card leaves or loses power in the middle.
//
// Answers stay valid until the next call. Exchanges of one Contact come one at
// a time; everything else may be called at any time.
//
//	absent --Insert--> present --Activate--> powered --PPS, first block--> in protocol
//	   ^------Remove------'<----Deactivate-----'  (Remove from any state)
//
// An idle Contact holds no goroutine and no timer. Its mu is the only lock of the package.
// The card is called with mu held; the function of OnChange is called without it.
type Contact struct {
	mu       sync.Mutex
	card     Card
	powered  bool
	muteATR  bool // this activation stayed without an ATR
	clocked  bool // a memory card that was reset as one
	fresh    bool // powered, and nothing was received since the ATR
	p        params
	t1       *t1
	t0       *t0
	chars    *chars
	gen      uint64        // counts insertions, removals, activations, deactivations
	wake     chan struct{} // closed when a wait must look again; nil when nobody waits
	onChange func()
	faults   Faults
	noise    noise

	apdus atomic.Uint64
}

// Insert puts a card into the contacts. Error: ErrOccupied.
func (c *Contact) Insert(card Card) error {
	c.mu.Lock()
	if c.card != nil {
		c.mu.Unlock()
		return ErrOccupied
	}
	c.card = card
	c.changed()
	f := c.onChange
	c.mu.Unlock()
	if f != nil {
		f()
	}
	return nil
}

// Remove takes the card out, whatever it is doing, and returns it; nil if
// there was none.
func (c *Contact) Remove() Card {
	c.mu.Lock()
	card := c.card
	if card == nil {
		c.mu.Unlock()
		return nil
	}
	c.card, c.powered = nil, false
	c.changed()
	f := c.onChange
	c.mu.Unlock()
	if f != nil {
		f()
	}
	return card
}

// OnChange has f called after each Insert and Remove, from the caller's
// goroutine and with no lock held. f asks Present for the state.
func (c *Contact) OnChange(f func()) {
	c.mu.Lock()
	c.onChange = f
	c.mu.Unlock()
}

// Card is the card in the contacts, or nil.
func (c *Contact) Card() Card {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.card
}

// Present reports whether a card is in the contacts.
func (c *Contact) Present() bool { return c.Card() != nil }

// Powered reports whether the card is activated, ATR or not.
func (c *Contact) Powered() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.powered
}

// Activate powers the card and resets it; warm pulls RST only, if the card has
// power. It returns the ATR as the card sends it. Errors: ErrNoCard; ErrMute,
// which leaves the card powered; ctx.Err().
func (c *Contact) Activate(ctx context.Context, warm bool) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.card == nil {
		return nil, ErrNoCard
	}
	warm = warm && c.powered
	c.changed()
	c.powered, c.fresh, c.muteATR, c.clocked = true, true, true, false
	if c.faults.Mute {
		return nil, ErrMute
	}
	if _, synchronous := c.card.(*Memory); synchronous {
		return nil, ErrMute
	}
	c.card.Reset(warm)
	atr := c.card.ATR()
	p, err := parseATR(atr)
	if err != nil {
		return nil, fmt.Errorf("emulated card: %w", err)
	}
	c.muteATR = false
	c.p = p
	c.startProtocol()
	return atr, nil
}

// Deactivate takes the power away.
func (c *Contact) Deactivate() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.powered {
		c.powered = false
		c.changed()
	}
}

// Protocol is the T in force: the first that the ATR offers or the one that a
// PPS chose; -1 without power.
func (c *Contact) Protocol() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.powered || c.muteATR {
		return -1
	}
	return c.p.t
}

// Rate is F and D in force, as TA1 codes them; 11 without power.
func (c *Contact) Rate() byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.powered || c.muteATR {
		return 0x11
	}
	return c.p.fd
}

// BlockWait is how long the card may take to begin its answer at the default
// clock (3,579,545 Hz): the block waiting time in T=1, the work waiting time
// in T=0; 0 without power.
func (c *Contact) BlockWait() time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.powered {
		return 0
	}
	return c.p.wait()
}

// APDUs counts the commands that reached the card's application since the
// Contact was made: the witness that nothing is sent twice.
func (c *Contact) APDUs() uint64 { return c.apdus.Load() }

// PPS hands a PPS request to the card. The answer is nil if the card stays
// silent: after the first byte of a protocol, in specific mode, or when the
// request is damaged or asks for what the card lacks (ISO/IEC 7816-3:2006 §9).
func (c *Contact) PPS(req []byte) []byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.listening() || !c.fresh {
		return nil
	}
	return c.pps(req)
}

// APDU hands a whole C-APDU to the card, for readers that keep the protocol to
// themselves.
func (c *Contact) APDU(ctx context.Context, capdu []byte) []byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.listening() {
		return nil
	}
	c.fresh = false
	rx, busy := c.process(capdu)
	if !c.pass(ctx, busy, 0) {
		return nil
	}
	return rx
}

// TPDU hands the card what a reader at TPDU level sends, by the protocol in
// force: a T=1 block with its EDC; a T=0 header, with data behind it if the
// command brings data, answered by data and SW1 SW2; a PPS request where that
// may be.
func (c *Contact) TPDU(ctx context.Context, tx []byte) []byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.listening() || len(tx) == 0 {
		return nil
	}
	if c.fresh && !c.p.specific && tx[0] == ppss {
		return c.pps(tx)
	}
	c.fresh = false
	if c.p.t == 1 {
		return c.block(ctx, tx)
	}
	return c.t0.tpdu(ctx, c, tx)
}

// Incoming reports whether a T=0 command brings data along. A reader learns it from the
// card's procedure byte; an emulator that has TPDU to call needs it between the header
// and the data.
func (c *Contact) Incoming(cla, ins byte) bool { return incoming(c.Card(), cla, ins) }

// Chars hands single characters to the card and receives up to want from it.
// Fewer than want means that the card stopped sending. What an earlier call
// left unread is lost when new characters are sent.
func (c *Contact) Chars(ctx context.Context, tx []byte, want int) []byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.listening() {
		return nil
	}
	if c.chars == nil {
		c.chars = new(chars)
	}
	return c.chars.exchange(ctx, c, tx, want)
}

// Partial reports whether the card has the beginning of a block, of a header or of a PPS
// request, by Chars, and waits for the rest.
func (c *Contact) Partial() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.listening() && c.chars != nil && len(c.chars.in) > 0
}

// Hold lets d pass while the card is silent, as a reader does before it gives
// the card up. It is false when it ended early: the card left, was inserted or
// lost its power meanwhile, there is none with power, or ctx ended.
func (c *Contact) Hold(ctx context.Context, d time.Duration) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	gen := c.gen
	timer := time.NewTimer(d)
	defer timer.Stop()
	for {
		if ctx.Err() != nil || c.gen != gen || !c.powered {
			return false
		}
		if c.wake == nil {
			c.wake = make(chan struct{})
		}
		wake := c.wake
		c.mu.Unlock()
		over := false
		select {
		case <-timer.C:
			over = true
		case <-wake:
		case <-ctx.Done():
		}
		c.mu.Lock()
		if over {
			return c.gen == gen && ctx.Err() == nil
		}
	}
}

// listening reports whether the card has power and hears what is sent.
func (c *Contact) listening() bool {
	return c.powered && !c.muteATR && !c.faults.Mute
}

// changed marks a new life of the contacts: whoever waits must give up.
func (c *Contact) changed() {
	c.gen++
	c.wakeAll()
}

// wakeAll makes whoever waits look again.
func (c *Contact) wakeAll() {
	if c.wake != nil {
		close(c.wake)
		c.wake = nil
	}
}

// startProtocol puts the engines into the state after a reset or a PPS.
func (c *Contact) startProtocol() {
	switch c.p.t {
	case 1:
		if c.t1 == nil {
			c.t1 = new(t1)
		}
		c.t1.reset(c.p)
	default:
		if c.t0 == nil {
			c.t0 = new(t0)
		}
		c.t0.reset()
	}
	if c.chars != nil {
		c.chars.reset()
	}
}

// process runs a command in the card's application and returns how long it takes.
func (c *Contact) process(capdu []byte) ([]byte, time.Duration) {
	c.apdus.Add(1)
	return c.card.Process(capdu), c.busy(capdu)
}

// processWhole is process for the engine of T=0, which cuts the answer itself.
func (c *Contact) processWhole(capdu []byte) ([]byte, time.Duration) {
	w, ok := c.card.(WholeCard)
	if !ok {
		return c.process(capdu)
	}
	c.apdus.Add(1)
	return w.Whole(capdu), c.busy(capdu)
}

func (c *Contact) busy(capdu []byte) time.Duration {
	if b, ok := c.card.(Busier); ok {
		return b.Busy(capdu)
	}
	return 0
}

// pass lets the time of a command pass: what the card needs and what the fault
// "slow" adds, less what passed already. It reports whether the card is still
// there, powered and willing to answer.
func (c *Contact) pass(ctx context.Context, busy, passed time.Duration) bool {
	if busy == 0 && c.faults.Slow == 0 {
		return true
	}
	left, ok := c.passUpTo(ctx, busy, passed, 0)
	return ok && left <= 0
}

// passUpTo is pass that gives up after limit (0: never) and returns how much
// of the time is left then.
func (c *Contact) passUpTo(ctx context.Context, busy, passed, limit time.Duration) (left time.Duration, ok bool) {
	start := time.Now()
	gen := c.gen
	for {
		gone := time.Since(start)
		// A change of the fault in the middle counts at once.
		left = c.faults.Slow + busy - passed - gone
		if left <= 0 || limit > 0 && gone >= limit {
			return left, true
		}
		d := left
		if limit > 0 && limit-gone < d {
			d = limit - gone
		}
		if end, ok := ctx.Deadline(); ok {
			if d = min(d, time.Until(end)); d <= 0 {
				return left, false
			}
		}
		if c.wake == nil {
			c.wake = make(chan struct{})
		}
		wake := c.wake
		c.mu.Unlock()
		timer := time.NewTimer(d)
		select {
		case <-timer.C:
		case <-wake:
		case <-ctx.Done():
		}
		timer.Stop()
		c.mu.Lock()
		if ctx.Err() != nil || c.gen != gen || c.faults.Mute {
			return 0, false
		}
	}
}
