package serialtest

import "github.com/cardfs/cardfs/drivers/bus/serial"

// FaultKind is what happens to a character.
type FaultKind int

const (
	Lose     FaultKind = iota // it does not arrive
	Double                    // it arrives twice
	Change                    // it arrives as another, its parity right by chance
	Parity                    // it arrives with wrong parity
	Noise                     // a character that nobody sent arrives before it
	Silence                   // it does not arrive, nor any after it
	HangUp                    // the device loses its power instead
	lastKind = HangUp
)

var faultNames = [...]string{"lose", "double", "change", "parity", "noise", "silence", "hang-up"}

// String names the kind, for the name of a test.
func (k FaultKind) String() string { return faultNames[k] }

// Fault is one fault of a line. It happens once.
type Fault struct {
	ToHost bool // the direction
	At     int  // which character it happens to, counted from Plug
	Kind   FaultKind
}

// Menu is every kind of fault, for the character at that place.
func Menu(toHost bool, at int) []Fault {
	var all []Fault
	for k := range lastKind + 1 {
		all = append(all, Fault{toHost, at, k})
	}
	return all
}

const (
	toDevice = 0
	toHost   = 1
)

// disturb is what arrives of a character. l.mu is held.
func (l *Line) disturb(direction int, in char, from, to serial.Mode) []char {
	at := l.sent[direction]
	l.sent[direction]++
	out := []char{garble(in, from, to)}
	for _, f := range l.faults {
		if f.At != at || f.ToHost != (direction == toHost) {
			continue
		}
		switch f.Kind {
		case Lose:
			out = nil
		case Double:
			out = append(out, out...)
		case Change:
			for i := range out {
				out[i].c ^= 0x50
			}
		case Parity:
			for i := range out {
				out[i].wrong = !out[i].wrong
			}
		case Noise:
			out = append([]char{{0xFE, false}}, out...)
		case Silence:
			l.silent[direction] = true
		case HangUp:
			out = nil
			l.drop()
		}
	}
	if l.silent[direction] || l.ctx.Err() != nil {
		return nil
	}
	return out
}
