package ccid

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/cardfs/cardfs/drivers/bus/usb"
	"github.com/cardfs/cardfs/reader"
	"github.com/cardfs/cardfs/reader/icc"
)

// Emulator is a CCID or ICCD device at the level of its USB transfers: what a
// host sends, and what comes back. Its messages are built and read by its own
// code, not the driver's.
//
// It is a usb.Opener, for reader.Device.Link, and a usb.Conn of its own, for a
// server of USB transfers (USB/IP): Control also answers the standard requests of
// USB 2.0 §9.4. In waits until there is something to send.
type Emulator struct {
	cfg   Config
	slots []*emuSlot
	work  sync.WaitGroup
	ctx   context.Context // ends with Unplug
	stop  context.CancelFunc

	mu      sync.Mutex
	in      queue // bulk-IN
	intr    queue // hardware errors
	changed []bool
	wake    chan struct{} // closed and replaced when something can be sent or a halt ends
	resets  int
	halted  map[uint8]bool
	faults  []*Fault
	dead    bool // answers nothing until Reset
	stone   bool // nor after it
	claimed bool
	emv     bool
	record  func(Record)
	config  uint8
	iccd    iccdState
}

var (
	_ usb.Conn   = (*Emulator)(nil)
	_ usb.Opener = (*Emulator)(nil)
)

// Record is one transfer as it crossed the bus.
type Record struct {
	Endpoint uint8 // bit 7: to the host
	Setup    usb.Setup
	Data     []byte
	Err      error
}

// queue holds transfers that the host has not fetched.
type queue []transfer

type transfer struct {
	data []byte
	err  error // instead of data
}

const (
	epBulkOut = 0x02
	epBulkIn  = 0x81
	epIntr    = 0x83
)

// NewEmulator plugs a reader in. Cards go into Contact(n).
func NewEmulator(c Config) *Emulator {
	e := &Emulator{cfg: c.complete(), wake: make(chan struct{}), halted: make(map[uint8]bool), emv: c.EMV}
	e.ctx, e.stop = context.WithCancel(context.Background())
	e.changed = make([]bool, e.cfg.Slots)
	for n := range e.cfg.Slots {
		s := &emuSlot{e: e, n: n, keys: make(chan byte, 64), ctlSeq: -1, bulkSeq: -1}
		s.contact.OnChange(func() { e.cardMoved(s) })
		e.slots = append(e.slots, s)
	}
	return e
}

// Contact is the card position of slot n.
func (e *Emulator) Contact(n int) *icc.Contact { return &e.slots[n].contact }

// Observe has f called for each transfer, with the bus locked.
func (e *Emulator) Observe(f func(Record)) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.record = f
}

// Unplug ends every transfer with reader.ErrGone, now and later.
func (e *Emulator) Unplug() {
	e.mu.Lock()
	e.stop()
	e.mu.Unlock()
	e.work.Wait()
}

// spawn starts work that Unplug waits for. e.mu is held.
func (e *Emulator) spawn(f func()) {
	if e.ctx.Err() == nil {
		e.work.Go(f)
	}
}

// Gone is closed by Unplug.
func (e *Emulator) Gone() <-chan struct{} { return e.ctx.Done() }

// cardMoved follows the contacts.
func (e *Emulator) cardMoved(s *emuSlot) {
	if s.contact.Present() && e.cfg.Features&AutoActivate != 0 {
		s.contact.Activate(e.ctx, false)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	s.presentParams()
	e.changed[s.n] = true
	e.stir()
}

// stir wakes the transfers that wait. e.mu is held.
func (e *Emulator) stir() {
	close(e.wake)
	e.wake = make(chan struct{})
}

// send queues a transfer for the host.
func (e *Emulator) send(t transfer) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.in = append(e.in, t)
	e.stir()
}

// Out takes one transfer to the bulk-OUT endpoint.
func (e *Emulator) Out(ctx context.Context, ep uint8, p []byte, zlp bool, timeout time.Duration) (int, error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	if e.ctx.Err() != nil {
		return 0, reader.ErrGone
	}
	e.mu.Lock()
	switch {
	case ep != epBulkOut || e.cfg.Protocol != ProtocolCCID || e.halted[ep]:
		e.mu.Unlock()
		return 0, usb.ErrStall
	case e.dead:
		e.mu.Unlock()
		return len(p), nil // buffered by the controller, read by nobody
	}
	e.note(Record{Endpoint: ep, Data: p})
	if f := e.fault(StallOut, p); f != nil {
		e.halted[ep] = true
		e.mu.Unlock()
		return 0, usb.ErrStall
	}
	e.mu.Unlock()
	e.message(append([]byte(nil), p...))
	return len(p), nil
}

// In waits for a transfer from a bulk-IN or interrupt-IN endpoint.
func (e *Emulator) In(ctx context.Context, ep uint8, p []byte, timeout time.Duration) (int, error) {
	var late <-chan time.Time
	for resets := -1; ; {
		if err := ctx.Err(); err != nil {
			return 0, err
		}
		if e.ctx.Err() != nil {
			return 0, reader.ErrGone
		}
		e.mu.Lock()
		if resets < 0 {
			resets = e.resets
		}
		if resets != e.resets {
			e.mu.Unlock()
			return 0, usb.ErrReset
		}
		n, err, ok := e.poll(ep, p)
		wake := e.wake
		e.mu.Unlock()
		if ok {
			return n, err
		}
		if late == nil && timeout > 0 {
			t := time.NewTimer(timeout)
			defer t.Stop()
			late = t.C
		}
		select {
		case <-wake:
		case <-late:
			return 0, usb.ErrTimeout
		case <-ctx.Done():
		case <-e.ctx.Done():
		}
	}
}

// poll is one IN transfer, if there is one. e.mu is held.
func (e *Emulator) poll(ep uint8, p []byte) (n int, err error, ok bool) {
	if e.halted[ep] {
		return 0, usb.ErrStall, true
	}
	if e.dead {
		return 0, nil, false
	}
	switch {
	case ep == epIntr && !e.cfg.NoInterrupt:
		return e.pollInterrupt(p)
	case ep != epBulkIn || e.cfg.Protocol != ProtocolCCID:
		return 0, usb.ErrStall, true
	case len(e.in) == 0:
		return 0, nil, false
	}
	t := &e.in[0]
	n = copy(p, t.data)
	switch {
	case t.err != nil:
		n, err = 0, t.err
		if err == usb.ErrStall {
			e.halted[ep] = true
		}
	case n < len(t.data) && n%e.cfg.PacketSize == 0:
		t.data = t.data[n:] // the rest comes with the next transfer
		e.note(Record{Endpoint: ep, Data: p[:n]})
		return n, nil, true
	case n < len(t.data):
		n, err = 0, usb.ErrOverflow
	}
	e.in = e.in[1:]
	e.note(Record{Endpoint: ep, Data: p[:n], Err: err})
	return n, err, true
}

func (e *Emulator) pollInterrupt(p []byte) (int, error, bool) {
	if len(e.intr) > 0 {
		t := e.intr[0]
		e.intr = e.intr[1:]
		if t.err == usb.ErrStall {
			e.halted[epIntr] = true
		}
		e.note(Record{Endpoint: epIntr, Data: t.data, Err: t.err})
		return copy(p, t.data), t.err, true
	}
	news := false
	msg := make([]byte, 1+(e.cfg.Slots+3)/4)
	msg[0] = 0x50
	for n, s := range e.slots {
		var bits byte
		if s.contact.Present() {
			bits = 1
		}
		if e.changed[n] {
			bits |= 2
			news = true
		}
		msg[1+n/4] |= bits << (n % 4 * 2)
	}
	if !news {
		return 0, nil, false
	}
	clear(e.changed)
	e.note(Record{Endpoint: epIntr, Data: msg})
	return copy(p, msg), nil, true
}

func (e *Emulator) note(r Record) {
	if e.record != nil {
		e.record(r)
	}
}

// Control does one control transfer.
func (e *Emulator) Control(ctx context.Context, s usb.Setup, data []byte, timeout time.Duration) (int, error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	if e.ctx.Err() != nil {
		return 0, reader.ErrGone
	}
	e.mu.Lock()
	if e.dead {
		e.mu.Unlock()
		return 0, e.hang(ctx, timeout)
	}
	if f := e.fault(StallControl, []byte{s.Request}); f != nil {
		e.mu.Unlock()
		return 0, usb.ErrStall
	}
	e.mu.Unlock()
	var n int
	var err error
	switch s.RequestType {
	case 0x21, 0xA1:
		n, err = e.class(ctx, s, data, timeout)
	default:
		n, err = e.standard(s, data)
	}
	if err != nil && e.ctx.Err() != nil {
		err = reader.ErrGone
	}
	e.mu.Lock()
	if s.RequestType&0x60 == 0x20 {
		e.note(Record{Setup: s, Data: data[:n], Err: err})
	}
	e.mu.Unlock()
	return n, err
}

// hang is a transfer that the device does not answer.
func (e *Emulator) hang(ctx context.Context, timeout time.Duration) error {
	if timeout > 0 {
		var cancel context.CancelFunc
		outer := ctx
		ctx, cancel = context.WithTimeout(ctx, timeout)
		defer cancel()
		defer func() { ctx = outer }()
	}
	select {
	case <-ctx.Done():
		if timeout > 0 && ctx.Err() == context.DeadlineExceeded {
			return usb.ErrTimeout
		}
		return ctx.Err()
	case <-e.ctx.Done():
		return reader.ErrGone
	}
}

// ClearHalt ends the halt of an endpoint.
func (e *Emulator) ClearHalt(ctx context.Context, ep uint8) error {
	if e.ctx.Err() != nil {
		return reader.ErrGone
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.halted, ep)
	e.stir()
	return nil
}

// Reset is a reset of the port: the cards lose their power, what was under way ends.
func (e *Emulator) Reset(ctx context.Context) error {
	if e.ctx.Err() != nil {
		return reader.ErrGone
	}
	for _, s := range e.slots {
		s.abort()
		s.contact.Deactivate()
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.in, e.intr = nil, nil
	clear(e.halted)
	e.dead = e.stone
	e.resets++
	for n, s := range e.slots {
		e.changed[n] = e.changed[n] || s.contact.Present()
	}
	e.stir()
	return nil
}

// Close of the emulator's own Conn does nothing: it stays plugged in.
func (e *Emulator) Close() error { return nil }

// OpenUSB claims the interface.
func (e *Emulator) OpenUSB(ctx context.Context, iface uint8) (usb.Conn, error) {
	if e.ctx.Err() != nil {
		return nil, reader.ErrGone
	}
	if iface != 0 {
		return nil, fmt.Errorf("emulated reader has no interface %d: %w", iface, reader.ErrInvalid)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.claimed {
		return nil, reader.ErrClaimed
	}
	e.claimed = true
	for n, s := range e.slots {
		e.changed[n] = s.contact.Present()
	}
	c := &claim{Emulator: e}
	c.ctx, c.close = context.WithCancel(context.Background())
	return c, nil
}

// claim is a Conn whose Close ends its transfers.
type claim struct {
	*Emulator
	ctx   context.Context
	close context.CancelFunc
	once  sync.Once
}

// run does a transfer that ends with the claim.
func (c *claim) run(ctx context.Context, f func(context.Context) (int, error)) (int, error) {
	if c.ctx.Err() != nil {
		return 0, reader.ErrGone
	}
	both, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(c.ctx, func() { cancel(reader.ErrGone) })()
	n, err := f(both)
	if err != nil && c.ctx.Err() != nil && ctx.Err() == nil {
		err = reader.ErrGone
	}
	return n, err
}

func (c *claim) Control(ctx context.Context, s usb.Setup, data []byte, timeout time.Duration) (int, error) {
	return c.run(ctx, func(ctx context.Context) (int, error) { return c.Emulator.Control(ctx, s, data, timeout) })
}

func (c *claim) Out(ctx context.Context, ep uint8, p []byte, zlp bool, timeout time.Duration) (int, error) {
	if c.ctx.Err() != nil {
		return 0, reader.ErrGone
	}
	return c.Emulator.Out(ctx, ep, p, zlp, timeout)
}

func (c *claim) In(ctx context.Context, ep uint8, p []byte, timeout time.Duration) (int, error) {
	if ctx.Err() == nil && c.ctx.Err() == nil && c.Emulator.ctx.Err() == nil {
		c.mu.Lock()
		n, err, ok := c.poll(ep, p)
		c.mu.Unlock()
		if ok {
			return n, err
		}
	}
	return c.run(ctx, func(ctx context.Context) (int, error) { return c.Emulator.In(ctx, ep, p, timeout) })
}

func (c *claim) Close() error {
	c.once.Do(func() {
		c.close()
		c.mu.Lock()
		c.claimed = false
		c.mu.Unlock()
	})
	return nil
}
