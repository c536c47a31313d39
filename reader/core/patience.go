package core

import (
	"errors"
	"time"

	"github.com/cardfs/cardfs/reader"
)

// Some devices need time after they were plugged in, reset by their hub, or woken with the
// system. Until then they stall, are silent, or answer something else. So a first contact or
// a power-up that failed is tried again for a few seconds, while those who open the slot's
// files wait. Drivers try nothing twice.
//
// Nothing is tried again that could have reached a card as a command. Nor does time help with a
// card that is mute or damaged. Only of a card that cannot be taken out (reader.Traits.Fixed)
// can this not be said; with others it counts that a transfer failed (reader.ErrTransfer).

const (
	// patienceLimit is the time from the first try until the last one begins.
	patienceLimit = 5 * time.Second
	// patienceAgain is for how long nobody waits again after it was in vain, unless a
	// power-up has succeeded.
	patienceAgain = time.Minute
)

// patience counts the tries of one thing.
type patience struct {
	began time.Time
	tries int
}

func newPatience() patience { return patience{began: time.Now()} }

// next returns how long to wait before another try, and false if there is to be none.
func (p *patience) next() (pause time.Duration, ok bool) {
	pause = min(100*time.Millisecond<<min(p.tries, 10), time.Second)
	p.tries++
	return pause, time.Since(p.began)+pause <= patienceLimit
}

// unsettled reports whether err may be that of a device which only needs more time.
func unsettled(err error) bool {
	for _, final := range []error{reader.ErrGone, reader.ErrNoCard, reader.ErrUnsupported, reader.ErrInvalid, reader.ErrFailed,
		reader.ErrNoPermission, reader.ErrClaimed, reader.ErrAborted} {
		if errors.Is(err, final) {
			return false
		}
	}
	for _, passing := range []error{reader.ErrMute, reader.ErrTimeout, reader.ErrProtocol, reader.ErrTransfer} {
		if errors.Is(err, passing) {
			return true
		}
	}
	return false
}

// needsTime is unsettled for the power-up of a card.
func needsTime(err error, fixed bool) bool {
	return unsettled(err) && (fixed || errors.Is(err, reader.ErrTransfer) && !errors.Is(err, reader.ErrMute))
}
