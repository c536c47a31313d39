package ccid

import (
	"time"

	"github.com/cardfs/cardfs/reader/iso7816"
)

// Time limits of messages. CCID 1.1 defines none. These are the values with which libccid
// serves readers in use, unless a reason is given.
const (
	writeLimit  = 5 * time.Second
	statusLimit = 3 * time.Second
	syncLimit   = time.Second // for the answer of an idle reader during recovery

	// exchangeLimit ends an exchange by the clock if the reader keeps asking for time
	// and the core sets no limit. It also caps every wait computed from a device's
	// numbers.
	exchangeLimit = time.Hour

	// ownLimit is the same for commands that wait for no card, such as GetSlotStatus.
	ownLimit = time.Minute

	// After this many requests for more time in quick succession, the reader is read
	// only every extensionPause.
	extensionBurst = 100
	extensionPause = 10 * time.Millisecond

	// noiseLimit is the number of stray messages that one command skips: leftovers of an
	// earlier command, and empty packets.
	noiseLimit = 32
)

// longest returns the limit of a command whose reader keeps asking for time.
func longest(kind byte) time.Duration {
	switch kind {
	case cmdXfrBlock, cmdSecure, cmdEscape:
		return exchangeLimit
	}
	return ownLimit
}

// times returns d*n, at most exchangeLimit: d or n may come from a device and overflow.
func times(d time.Duration, n int) time.Duration {
	if n > 0 && d > exchangeLimit/time.Duration(n) {
		return exchangeLimit
	}
	return d * time.Duration(n)
}

// earlier returns the earlier of two times; a zero until does not count.
func earlier(t, until time.Time) time.Time {
	if !until.IsZero() && until.Before(t) {
		return until
	}
	return t
}

// clockHz returns the clock for computing waiting times. A card runs at 1 MHz or more
// (ISO/IEC 7816-3:2006 §5.2.3), even if its reader announces less.
func (f *function) clockHz() int { return int(max(f.DefaultClock, isoClockKHz)) * 1000 }

// unreadable is the timing of a card whose ATR cannot be parsed; some readers pass such
// ones on. It has the greatest values in use.
var unreadable = iso7816.Timing{Char: 10 * time.Millisecond, Wait: 30 * time.Second, Gap: time.Second}

// timingOf returns the timing of a card with this ATR before any negotiation. atr is nil
// if it cannot be parsed.
func (f *function) timingOf(atr *iso7816.ATR) iso7816.Timing {
	if atr == nil {
		return unreadable
	}
	return atr.Slowest(f.timing)
}

// timing returns the timing of a card with these parameters in this reader.
func (f *function) timing(p iso7816.Params) iso7816.Timing {
	t := p.Timing(f.clockHz())
	if p.T == 1 {
		t.Wait += f.extraT1
	}
	return t
}

// exchangeTime returns how long the reader may be silent during an exchange of n
// characters with the card. A reader measures the card's waiting times itself and reports
// when they are over, or asks for more time; this limit is for one that does neither.
func exchangeTime(t iso7816.Timing, n, wtx int) time.Duration {
	const way = 2 * time.Second // to the reader and back
	return min(t.Limit(n, wtx), exchangeLimit-way) + way
}
