package usbtest

import (
	"strings"
	"time"

	"github.com/cardfs/cardfs/drivers/bus/usb"
	"github.com/cardfs/cardfs/reader"
)

// FaultKind is one way for a transfer to go wrong.
type FaultKind int

const (
	// Stalled: the transfer stalls, and an endpoint other than the default pipe
	// halts.
	Stalled FaultKind = iota + 1
	// Silent: the device does not answer, and the transfer ends when the host
	// gives it up.
	Silent
	// Unplugged: the device leaves.
	Unplugged
	// Dead: the device stops answering until its port is reset, as after Die.
	Dead
	// Noise: the transfer fails with usb.ErrBus.
	Noise
	// Short: N bytes are moved, at least one fewer than there are.
	Short
	// Long: N bytes more come to the host, at least one. More than it asked for
	// are usb.ErrOverflow.
	Long
	// Garbage: the host gets other bytes, of the same number.
	Garbage
	// Late: the transfer ends after Delay. A host that gave it up before has lost
	// what was moved.
	Late
)

var faultNames = [...]string{Stalled: "stalled", Silent: "silent", Unplugged: "unplugged", Dead: "dead",
	Noise: "noise", Short: "short", Long: "long", Garbage: "garbage", Late: "late"}

func (k FaultKind) String() string { return faultNames[k] }

// Phase is the point in a transfer at which a fault of the first five kinds happens.
type Phase int

const (
	// Before: the device has not seen the transfer.
	Before Phase = iota
	// During: half of the bytes were moved. A device does nothing with half of
	// what it is sent.
	During
	// After: the device has done what it was asked, but the host is not told. Data for the
	// host is lost.
	After
)

func (p Phase) String() string { return [...]string{"before", "during", "after"}[p] }

// Fault is something that goes wrong with a transfer.
type Fault struct {
	Kind  FaultKind
	When  Phase
	N     int           // bytes, for Short and Long
	Delay time.Duration // for Late
	// On selects the transfers that fail: their lines, in the notation of a session with
	// one space between words, begin with it, as in "OUT 41 17" or "IN 81". Empty selects
	// every transfer but the standard requests.
	On string
	// Skip is the number of such transfers that pass before. Count is the number that
	// fail; 0 means one, and -1 all.
	Skip, Count int
}

func (f Fault) String() string {
	s := f.Kind.String()
	if f.Kind <= Noise {
		s += " " + f.When.String()
	}
	if f.On != "" {
		s += " " + f.On
	}
	return s
}

// Menu has every kind of fault once, in each phase that differs.
func Menu() []Fault {
	var all []Fault
	for _, kind := range []FaultKind{Stalled, Silent, Unplugged, Dead, Noise} {
		for _, when := range []Phase{Before, During, After} {
			all = append(all, Fault{Kind: kind, When: when})
		}
	}
	return append(all,
		Fault{Kind: Short}, Fault{Kind: Short, N: 1}, Fault{Kind: Short, N: 3},
		Fault{Kind: Long, N: 1}, Fault{Kind: Long, N: 300},
		Fault{Kind: Garbage}, Fault{Kind: Late, Delay: time.Second}, Fault{Kind: Late, Delay: time.Hour})
}

// Inject adds faults. They apply to transfers that begin afterwards.
func (d *Device) Inject(faults ...Fault) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, f := range faults {
		if f.Count == 0 {
			f.Count = 1
		}
		d.faults = append(d.faults, &f)
	}
}

// Heal takes back what Inject and Die did.
func (d *Device) Heal() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.faults, d.dead, d.forGood = nil, false, false
	d.wakeAll()
}

// befalls returns the fault that applies to a transfer, if any, and counts it.
func (d *Device) befalls(l Line) *Fault {
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.faults) == 0 || l.Control && isStandard(l.Setup) {
		return nil
	}
	words := l.address()
	return Due(&d.faults, func(f *Fault) bool {
		return strings.HasPrefix(words, f.On) && (l.In || f.Kind != Long && f.Kind != Garbage)
	}, func(f *Fault) (skip, count *int) { return &f.Skip, &f.Count })
}

// Due returns the first fault that applies now, or nil. counts returns pointers to the Skip
// and Count of a fault, which Due decrements.
func Due[F any](faults *[]*F, befalls func(*F) bool, counts func(*F) (skip, count *int)) *F {
	for i, f := range *faults {
		if !befalls(f) {
			continue
		}
		skip, count := counts(f)
		if *skip > 0 {
			*skip--
			continue
		}
		if *count > 0 {
			if *count--; *count == 0 {
				*faults = append((*faults)[:i:i], (*faults)[i+1:]...)
			}
		}
		return f
	}
	return nil
}

// spoil carries out a transfer with its fault.
func (d *Device) spoil(w *wait, l Line, data []byte, do func([]byte) (int, error)) (n int, err error) {
	f := w.fault
	if err := w.Err(); err != nil {
		return 0, err
	}
	switch f.Kind {
	case Short:
		if l.In {
			n, err = do(data)
			return min(max(0, n-1), f.N), err
		}
		n = min(max(0, len(data)-1), f.N)
		if l.Control {
			return n, nil // a data stage that is not whole is no request
		}
		return do(data[:n])
	case Long:
		if n, err = do(data); err != nil {
			return n, err
		}
		more := max(1, f.N)
		if n+more > len(data) {
			return 0, usb.ErrOverflow
		}
		return n + garbage(data[n:n+more]), nil
	case Garbage:
		n, err = do(data)
		return garbage(data[:n]), err
	case Late:
		n, err = do(data)
		if end := w.pause(f.Delay); end != nil {
			return 0, end
		}
		return n, err
	}
	if f.When == During && !l.In {
		n = len(data) / 2
	} else if f.When != Before {
		if n, err = do(data); err != nil {
			return n, err
		}
		if n /= 2; f.When == After {
			n = 0
		}
	}
	return n, d.fail(w, l, f.Kind)
}

// fail returns how the transfer of l ends because of a fault.
func (d *Device) fail(w *wait, l Line, kind FaultKind) error {
	switch kind {
	case Stalled:
		if !l.Control {
			d.Halt(l.Endpoint)
		}
		return usb.ErrStall
	case Unplugged:
		d.Drop()
		return reader.ErrGone
	case Dead:
		d.Die(false)
	case Noise:
		return usb.ErrBus
	}
	return w.until(nil)
}

// garbage fills p with bytes that are the same each time.
func garbage(p []byte) int {
	for i := range p {
		p[i] = byte(0xA5 + 0x4D*i)
	}
	return len(p)
}
