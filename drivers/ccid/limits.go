package ccid

import "time"

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
