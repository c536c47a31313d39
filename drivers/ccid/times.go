package ccid

import (
	"time"

	"github.com/cardfs/cardfs/reader/iso7816"
)

// Limits of the wire. CCID 1.1 gives none; these are what libccid has found to
// suit readers in use, except where a reason is named.
const (
	writeLimit  = 5 * time.Second
	statusLimit = 3 * time.Second
	syncLimit   = time.Second // for an idle reader to answer while it is being brought back

	// exchangeLimit is how long a reader that asks for time has it, by the clock,
	// where the core sets no limit. Nothing at all is waited for longer, whatever the
	// numbers of a device come to.
	exchangeLimit = time.Hour

	// ownLimit is the same for what no card is waited for: GetSlotStatus and the like.
	ownLimit = time.Minute

	// A reader that asks for time without a pause is read at full speed this often,
	// and then every extensionPause.
	extensionBurst = 100
	extensionPause = 10 * time.Millisecond

	// noiseLimit is how many messages that answer nothing are read over in one
	// command: what an earlier command left behind, empty packets.
	noiseLimit = 32
)

// longest is how long a command may take whose reader asks for time.
func longest(kind byte) time.Duration {
	switch kind {
	case cmdXfrBlock, cmdSecure, cmdEscape:
		return exchangeLimit
	}
	return ownLimit
}

// times is d n times, exchangeLimit at most: d or n may be what a device says.
func times(d time.Duration, n int) time.Duration {
	if n > 0 && d > exchangeLimit/time.Duration(n) {
		return exchangeLimit
	}
	return d * time.Duration(n)
}

// earlier is the earlier of two times; a zero until is none.
func earlier(t, until time.Time) time.Time {
	if !until.IsZero() && until.Before(t) {
		return until
	}
	return t
}

// clockHz is the clock to compute waiting times with. A card has 1 MHz at least
// (ISO/IEC 7816-3:2006 §5.2.3), even if its reader says less.
func (f *function) clockHz() int { return int(max(f.DefaultClock, isoClockKHz)) * 1000 }

// unreadable is the timing of a card whose ATR no rule fits, as some readers pass on: the
// greatest values that are in use.
var unreadable = iso7816.Timing{Char: 10 * time.Millisecond, Wait: 30 * time.Second, Gap: time.Second}

// timingOf is that of the card with this ATR, nil where it cannot be read, before
// anything was negotiated.
func (f *function) timingOf(atr *iso7816.ATR) iso7816.Timing {
	if atr == nil {
		return unreadable
	}
	return atr.Slowest(f.timing)
}

// timing is that of a card with these parameters in this reader.
func (f *function) timing(p iso7816.Params) iso7816.Timing {
	t := p.Timing(f.clockHz())
	if p.T == 1 {
		t.Wait += f.extraT1
	}
	return t
}

// exchangeTime is how long the reader may be silent over an exchange of n characters
// with the card. A reader counts the card's waiting times by itself and tells when they
// are over, or asks for more time; this is for one that does neither.
func exchangeTime(t iso7816.Timing, n, wtx int) time.Duration {
	const way = 2 * time.Second // to the reader and back
	return min(t.Limit(n, wtx), exchangeLimit-way) + way
}
