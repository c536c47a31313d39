package core

import (
	"fmt"
	"maps"
	"time"

	"github.com/cardfs/cardfs/reader"
	"github.com/cardfs/cardfs/reader/iso7816"
	"github.com/cardfs/cardfs/reader/words"
)

// State is the state of a slot, in one word.
type State string

const (
	StateStarting State = "starting" // the driver initialises the reader
	StateFailed   State = "failed"   // it could not, or the reader died too often
	StateEmpty    State = "empty"    // no card
	StatePresent  State = "present"  // a card without power
	StatePowered  State = "powered"
	StateGone     State = "gone" // the reader left

	StateReady State = "ready" // of a hub
)

// Info is a snapshot of a slot and its state.
type Info struct {
	Number   int
	State    State
	Err      error // the last error, nil if the last thing went well
	Model    string
	More     map[string]string // what the driver adds: firmware version …
	Device   reader.Device
	ByID     string
	Index    int   // of the slot in its reader
	Siblings []int // numbers of all slots of the reader, by index
	Found    int   // number of slots that the reader reports
	Served   int   // number of them that are served
	ATR      []byte
	Answer   *iso7816.ATR // ATR, taken apart; nil without power
	Params   iso7816.Params
	Chip     reader.Chip // of a memory card, if its reader reads it
	PSC      PSC         // of the same
	Offered  []int       // protocols that the ATR offers, its first choice first
	Fallback string      // what replaced a rate that failed, in words
	Sessions int         // sessions with the card as it is now
	Locked   bool        // somebody holds the transaction
	// PCSC is the slot's name for PC/SC programs.
	PCSC string
	// Connections is the number of PC/SC connections.
	Connections int
	// Exclusive: one of them is exclusive. Process is whose it is, nil if that is not known.
	Exclusive bool
	Process   any
	// Event is the sequence number of the slot's last event, all of which Info has taken in.
	Event uint64
	// Instance is the Manager's.
	Instance string
	// CardChanges is how often a card was put in or taken out since the reader arrived.
	CardChanges uint64
	// Waiting is the time since the card, or the reader on its behalf, first asked for
	// more time for the exchange under way; 0: it did not ask.
	Waiting time.Duration
}

// Info never waits for the device.
func (slot *Slot) Info() Info {
	i := slot.Brief()
	siblings := slot.ifd.list()
	i.Siblings = make([]int, len(siblings))
	for k, s := range siblings {
		i.Siblings[k] = s.number
	}
	if t, ok := i.Device.Link.(reader.Describer); ok {
		i.tell(slot, t)
	}
	if d := slot.Features().Describer; d != nil {
		i.tell(slot, d)
	}
	return i
}

// Brief is Info without what has to be looked up in the device's other slots or the driver.
func (s *Slot) Brief() Info {
	m := s.manager
	m.mu.Lock()
	i := Info{Number: s.number, ByID: s.name, Index: s.index, Device: s.ifd.dev, Model: s.ifd.model, More: s.ifd.more, Found: s.ifd.found, Served: s.ifd.count}
	m.mu.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	i.Err, i.Locked = s.lastErr, s.lock != nil
	i.PCSC, i.Connections, i.CardChanges = s.pcsc, len(s.connections), s.swaps
	i.Event, i.Instance = s.lastEvent, m.instance
	if t := s.exclusive.Load(); t != nil {
		i.Exclusive, i.Process = true, t.process
	}
	switch {
	case s.phase == starting:
		i.State = StateStarting
	case s.phase == failed:
		i.State = StateFailed
	case s.phase == gone:
		i.State = StateGone
	case s.card == reader.Absent:
		i.State = StateEmpty
	case s.card == reader.Present:
		i.State = StatePresent
	default:
		i.State = StatePowered
		i.ATR, i.Params, i.Fallback = s.atr, s.params, s.fallback
		i.Answer, i.Offered = s.answer, s.answer.Protocols()
		i.Chip, i.PSC = s.memory.chip, s.memory.psc
		i.Sessions = len(s.sessions)
		if since := s.waiting.Load(); since != 0 {
			i.Waiting = max(1, time.Since(time.Unix(0, since)))
		}
	}
	return i
}

// add adds to More, which is the ifd's.
func (i *Info) add(key, value string) {
	more := maps.Clone(i.More)
	if more == nil {
		more = make(map[string]string)
	}
	more[key] = value
	i.More = more
}

func (i *Info) tell(s *Slot, t reader.Describer) {
	var err error
	defer s.opening.recovered("Describe", &err)
	for key, value := range words.Tidy(t.Describe()) {
		i.add(key, value)
	}
}

// Historical returns the historical bytes of the ATR (ISO/IEC 7816-3:2006 §8.2.4).
func (i Info) Historical() []byte {
	if i.Answer == nil {
		return nil
	}
	return i.Answer.Historical()
}

// Synchronous reports whether the card that has power is a synchronous (memory) card.
func (i Info) Synchronous() bool { return i.Answer != nil && i.Answer.Synchronous() }

// protocolName is "T=0", "T=1", or "memory" for a card that has none.
func protocolName(p iso7816.Params) string {
	if p.T == iso7816.NoProtocol {
		return "memory"
	}
	return fmt.Sprintf("T=%d", p.T)
}

// Protocol is the name of the protocol in force: "T=0", "T=1", or "memory".
func (i Info) Protocol() string { return protocolName(i.Params) }

// ByID maps the lasting names of the slots that are there to the slots.
func (m *Manager) ByID() map[string]*Slot {
	m.mu.Lock()
	defer m.mu.Unlock()
	return maps.Clone(m.names)
}

// Named returns the slot with a lasting name, or nil.
func (m *Manager) Named(name string) *Slot {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.names[name]
}

// Features returns the optional interfaces of the slot. There are none before its reader is
// ready. Their methods are called with the turn, except for those that never wait.
func (s *Slot) Features() reader.Features {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.phase != ready || s.ctx.Err() != nil {
		return reader.Features{}
	}
	return s.link.Features
}
