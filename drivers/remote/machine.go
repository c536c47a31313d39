package remote

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/cardfs/cardfs/drivers/remote/sshfs"
	"github.com/cardfs/cardfs/reader"
)

// answerTime is how long a file system may take to open and read a text file before the way
// to it counts as lost.
const answerTime = 30 * time.Second

// machine is an attached machine, as long as it is attached. It is the Link of its hub.
//
//	away --its files are there--> connected (a line) --the line ends--> away
//	  any --detached--> over
type machine struct {
	driver  *Driver
	address string        // the directory, or ssh://…
	url     bool          // it is ssh://…
	ssh     sshfs.Options // for that
	leaves  bool          // lost=leave
	log     *slog.Logger
	gone    chan struct{} // closed when it was detached

	mu      sync.Mutex
	over    bool
	host    string          // what by-id calls it; "" until that is known
	readers map[string]*far // by far.key: those that are announced
	shunned map[string]bool // by the same: those that were detached, until they leave there
	line    *line           // nil: away
}

var (
	_ reader.Link     = (*machine)(nil)
	_ reader.Detacher = (*machine)(nil)
)

// Gone is closed when the machine was detached.
func (m *machine) Gone() <-chan struct{} { return m.gone }

// Detached makes its readers leave with it.
func (m *machine) Detached() {
	m.mu.Lock()
	if m.over {
		m.mu.Unlock()
		return
	}
	m.over = true
	l := m.line
	for _, f := range m.readers {
		f.leave()
	}
	m.mu.Unlock()
	close(m.gone)
	if l != nil {
		l.end(reader.ErrGone)
	}
}

// away is the error of a machine that may come back.
func (m *machine) away(err error) error {
	return fmt.Errorf("remote %s: %w: %w", m.address, err, reader.ErrAway)
}

// open connects to the machine.
func (m *machine) open(ctx context.Context, host reader.Host) (reader.Reader, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, answerTime, errors.New("its file system does not answer"))
	defer cancel()
	l, err := m.connect(ctx, host)
	switch {
	case err == nil:
		return &hub{l}, nil
	case errors.Is(err, reader.ErrInvalid), errors.Is(err, reader.ErrUnsupported):
		return nil, fmt.Errorf("remote %s: %w", m.address, err)
	case ctx.Err() != nil:
		err = context.Cause(ctx)
	}
	return nil, m.away(err)
}

// hub is an open machine.
type hub struct{ line *line }

// Slots is empty: the readers are announced.
func (h *hub) Slots() []reader.Slot { return nil }

// Gone is closed when the way is lost.
func (h *hub) Gone() <-chan struct{} { return h.line.ctx.Done() }

// Err says why.
func (h *hub) Err() error { return h.line.err() }

// Close gives the way up.
func (h *hub) Close() error {
	h.line.end(reader.ErrGone)
	return nil
}

// announce announces a reader, or finds the one that was there before the way was lost. It
// returns nil if the reader was refused.
func (m *machine) announce(l *line, p place, number int) *far {
	via := strings.Join(append([]string{l.instance}, p.via...), ",")
	m.mu.Lock()
	if m.over || m.line != l || m.shunned[p.reader] {
		m.mu.Unlock()
		return nil
	}
	old := m.readers[p.reader]
	switch {
	case old != nil && old.line == l && len(old.slots) == p.index: // another slot of it
		m.mu.Unlock()
		return old
	case old != nil && old.line == nil && old.via == via && p.index == 0:
		old.line = l
		m.mu.Unlock()
		return old
	case old != nil:
		old.leave()
	}
	f := &far{machine: m, key: p.reader, via: via, line: l, gone: make(chan struct{}), changed: make(chan struct{})}
	m.readers[p.reader] = f
	name := m.host
	m.mu.Unlock()
	dev := reader.Device{
		Driver: m.driver.Name(), Address: fmt.Sprintf("%s/%d", m.address, number), Bus: "remote", Port: name + ":" + p.reader,
		Slots: 1, Via: via, Link: f,
	}
	if l.single {
		dev.Address = m.address + "/."
	}
	if err := l.host.Announce(dev); err != nil {
		m.log.Warn("a reader of the machine is not served", "slot", number, "error", err)
		m.mu.Lock()
		f.leave()
		m.mu.Unlock()
		return nil
	}
	return f
}

// settle is called once the state of the machine is known: readers that were there before the
// way was lost, and have not come back with it, leave.
func (m *machine) settle(l *line) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, f := range m.readers {
		if f.line == nil && m.line == l {
			f.leave()
		}
	}
}

// lose takes the line from the readers.
func (m *machine) lose(l *line) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.line != l {
		return
	}
	m.line = nil
	for _, f := range m.readers {
		if m.leaves {
			f.leave()
			continue
		}
		f.line, f.slots = nil, nil
		f.touch()
	}
}

// far is a reader of a machine from its announcement until it leaves. It is its Link.
type far struct {
	machine *machine
	key     string        // place.reader
	via     string        // reader.Device.Via
	gone    chan struct{} // closed when it has left

	// The rest is under machine.mu.
	left    bool
	line    *line   // nil while the way is lost
	slots   []*slot // by index, as far as they have arrived
	changed chan struct{}
}

var (
	_ reader.Link      = (*far)(nil)
	_ reader.Detacher  = (*far)(nil)
	_ reader.Describer = (*far)(nil)
)

// Gone is closed when the reader has left its machine, or the machine was detached.
func (f *far) Gone() <-chan struct{} { return f.gone }

// Detached makes the reader stay away until it leaves its machine and comes back.
func (f *far) Detached() {
	f.machine.mu.Lock()
	defer f.machine.mu.Unlock()
	if !f.left {
		f.machine.shunned[f.key] = true
	}
	f.leave()
}

// Describe says where the reader is.
func (f *far) Describe() map[string]string {
	f.machine.mu.Lock()
	defer f.machine.mu.Unlock()
	more := map[string]string{"host": f.machine.host, "line": "lost"}
	if f.line != nil {
		more["line"] = "up"
	}
	return more
}

// leave makes the reader leave. machine.mu is held.
func (f *far) leave() {
	if f.left {
		return
	}
	f.left = true
	if f.machine.readers[f.key] == f {
		delete(f.machine.readers, f.key)
	}
	f.touch()
	close(f.gone)
}

// touch wakes who waits for a change. machine.mu is held.
func (f *far) touch() {
	close(f.changed)
	f.changed = make(chan struct{})
}

// ready waits until all slots of the reader have been initialised there.
func (f *far) ready(ctx context.Context) (*line, []*slot, error) {
	for {
		f.machine.mu.Lock()
		left, l, slots, changed := f.left, f.line, slices.Clone(f.slots), f.changed
		f.machine.mu.Unlock()
		if left {
			return nil, nil, fmt.Errorf("remote: the reader has left its machine: %w", reader.ErrGone)
		}
		ready := l != nil && len(slots) > 0
		for _, s := range slots {
			switch phase, why := s.began(); phase {
			case starting:
				ready = false
			case failed:
				return nil, nil, fmt.Errorf("remote: %s: %w", why, reader.ErrFailed)
			}
		}
		if ready {
			return l, slots, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, nil, ctx.Err()
		}
	}
}

// open opens the reader for one opening of the core's.
func (f *far) open(ctx context.Context) (reader.Reader, error) {
	l, slots, err := f.ready(ctx)
	if err != nil {
		return nil, err
	}
	o := &opened{line: l}
	for i, s := range slots {
		st, err := s.readStatus(ctx)
		if err != nil {
			return nil, l.explain("read status", err)
		}
		if i == 0 {
			o.model, o.driver = st.model, st.driver
		}
		served, err := s.serve(ctx)
		if err != nil {
			return nil, err
		}
		o.own, o.slots = append(o.own, s), append(o.slots, served)
	}
	return o, nil
}

// opened is an open reader.
type opened struct {
	line          *line
	own           []*slot
	slots         []reader.Slot
	model, driver string
}

var (
	_ reader.Reader     = (*opened)(nil)
	_ reader.Identifier = (*opened)(nil)
)

// Slots are the reader's.
func (o *opened) Slots() []reader.Slot { return o.slots }

// Gone is closed when the way is lost.
func (o *opened) Gone() <-chan struct{} { return o.line.ctx.Done() }

// Err says why.
func (o *opened) Err() error { return o.line.err() }

// Identify gives what the other side says of it.
func (o *opened) Identify() (string, map[string]string) {
	return o.model, map[string]string{"far-driver": o.driver}
}

// Close gives the cards up. They keep their power.
func (o *opened) Close() error {
	for _, s := range o.own {
		s.hangUp()
	}
	return nil
}
