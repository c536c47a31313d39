package reader

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/cardfs/cardfs/reader/iso7816"
)

// Info is what a slot is and how it stands, at one moment.
type Info struct {
	Number   int
	State    string // "starting", "failed", "empty", "present", "powered", "gone"
	Err      error  // the last error, nil if the last thing went well
	Model    string
	More     map[string]string // what the driver adds: firmware version …
	Device   Device
	ByID     string
	Index    int   // of the slot in its reader
	Siblings []int // numbers of all slots of the reader, by index
	ATR      []byte
	Params   iso7816.Params
	Offered  []int // protocols that the ATR offers, its first choice first
	Sessions int   // sessions with the card as it is now
	Locked   bool  // somebody holds the transaction
	// Waiting is how long ago the card, or the reader for it, first asked for more
	// time for the exchange under way; 0: it did not.
	Waiting time.Duration
}

// Info never waits for the device.
func (b *Bay) Info() Info {
	m := b.manager
	m.mu.Lock()
	i := Info{Number: b.number, ByID: b.name, Index: b.index, Device: b.unit.dev, Model: b.unit.model, More: b.unit.more}
	for _, s := range b.unit.bays {
		i.Siblings = append(i.Siblings, s.number)
	}
	m.mu.Unlock()
	b.mu.Lock()
	defer b.mu.Unlock()
	i.Err, i.Locked = b.lastErr, b.lock != nil
	switch {
	case b.phase == starting:
		i.State = "starting"
	case b.phase == failed:
		i.State = "failed"
	case b.phase == gone:
		i.State = "gone"
	case b.card == Absent:
		i.State = "empty"
	case b.card == Present:
		i.State = "present"
	default:
		i.State = "powered"
		i.ATR, i.Params, i.Offered = b.atr, b.params, b.offered
		i.Sessions = len(b.sessions)
		if since := b.waiting.Load(); since != 0 {
			i.Waiting = max(1, time.Since(time.Unix(0, since)))
		}
	}
	if t, ok := i.Device.Link.(Teller); ok {
		i.tell(t)
	}
	if b.phase == ready {
		if t, ok := b.link.slot.(Teller); ok {
			i.tell(t)
		}
	}
	return i
}

func (i *Info) tell(t Teller) {
	more := maps.Clone(i.More)
	if more == nil {
		more = make(map[string]string)
	}
	maps.Copy(more, t.Tell())
	i.More = more
}

// Historical are the historical bytes of the ATR (ISO/IEC 7816-3:2006 §8.2.4).
func (i Info) Historical() []byte {
	atr, err := iso7816.ParseATR(i.ATR)
	if err != nil {
		return nil
	}
	return atr.Historical()
}

// Synchronous tells whether the card has a memory card's ATR: four bytes H1 to
// H4 (ISO/IEC 7816-10:1999 §5), not TS.
func (i Info) Synchronous() bool {
	return len(i.ATR) == 4 && i.ATR[0] != 0x3B && i.ATR[0] != 0x3F
}

// lastingName is a slot's name that survives replugging and reboot, in udev's
// style: bus, model, serial number or port, and the slot in the reader.
func lastingName(dev Device, index int) string {
	where, bus := dev.Serial, dev.Bus
	if where == "" {
		where = dev.Port
	}
	if where == "" {
		where = dev.Address
	}
	if bus == "" {
		bus = dev.Driver
	}
	model := dev.ID.Model
	if model != "" {
		model += "_"
	}
	return fmt.Sprintf("%s-%s%s-slot%d", tame(bus), tame(model), tame(where), index)
}

// tame keeps what udev keeps in names: letters, digits and "#+-.:=@_"; a run of
// anything else becomes one underscore.
func tame(s string) string {
	var out strings.Builder
	for _, r := range strings.TrimSpace(s) {
		switch {
		case r >= '0' && r <= '9', r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', strings.ContainsRune("#+-.:=@_", r):
			out.WriteRune(r)
		case !strings.HasSuffix(out.String(), "_"):
			out.WriteByte('_')
		}
	}
	return out.String()
}

// ByID maps the lasting names of the slots that are there to the slots.
func (m *Manager) ByID() map[string]*Bay {
	m.mu.Lock()
	defer m.mu.Unlock()
	return maps.Clone(m.names)
}

// Named is the slot with that lasting name, nil if there is none.
func (m *Manager) Named(name string) *Bay {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.names[name]
}

// Capable says which optional interfaces the slot has, once its reader is
// ready: a file that makes no sense for a slot is absent.
func (b *Bay) Capable(of func(Slot) bool) bool {
	select {
	case <-b.ctx.Done():
		return false
	default:
	}
	b.mu.Lock()
	isReady := b.phase == ready
	b.mu.Unlock()
	return isReady && of(b.link.slot)
}

// sortedKeys is for output that must not change from run to run.
func sortedKeys(m map[string]string) []string { return slices.Sorted(maps.Keys(m)) }

// Lines renders the info as `status` shows it: "key value" lines, state first.
func (i Info) Lines() []byte {
	var out strings.Builder
	line := func(key, format string, args ...any) {
		text := strings.TrimSpace(fmt.Sprintf(format, args...))
		if text != "" {
			fmt.Fprintf(&out, "%s %s\n", key, strings.Map(oneLine, text))
		}
	}
	line("state", "%s", i.State)
	if i.Err != nil {
		line("error", "%s", i.Err)
	}
	line("reader", "%s", i.Model)
	line("driver", "%s", i.Device.Driver)
	line("device", "%s", i.Device.Address)
	line("bus", "%s", i.Device.Bus)
	if i.Device.ID.Vendor != 0 || i.Device.ID.Product != 0 {
		line("usb-id", "%04x:%04x", i.Device.ID.Vendor, i.Device.ID.Product)
	}
	line("serial", "%s", i.Device.Serial)
	line("port", "%s", i.Device.Port)
	line("by-id", "%s", i.ByID)
	line("slot", "%d of %d", i.Index, max(1, len(i.Siblings)))
	line("siblings", "%s", strings.Trim(fmt.Sprint(i.Siblings), "[]"))
	for _, key := range sortedKeys(i.More) {
		line(key, "%s", i.More[key])
	}
	if i.State == "powered" {
		line("atr", "% X", i.ATR)
		line("protocol", "T=%d", i.Params.T)
		line("sessions", "%d", i.Sessions)
		line("parameters", "%s", i.Params)
		if i.Waiting > 0 {
			line("waiting", "%d", i.Waiting/time.Second)
		}
	}
	if i.Locked {
		line("transaction", "held")
	}
	return []byte(out.String())
}

// oneLine is for strings.Map: what a device calls itself ends no line, and
// commands no terminal.
func oneLine(r rune) rune {
	if unicode.IsControl(r) || unicode.In(r, unicode.Zl, unicode.Zp) {
		return ' '
	}
	return r
}

// oneWord is oneLine for what must have no blanks either.
func oneWord(r rune) rune {
	if r = oneLine(r); unicode.IsSpace(r) {
		return '_'
	}
	return r
}
