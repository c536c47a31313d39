package core

import (
	"errors"
	"fmt"

	"github.com/cardfs/cardfs/reader"
)

// errUnpowered means that there may be a card, but without power. Programs get ErrNoCard;
// the core draws no conclusion from it.
var errUnpowered = fmt.Errorf("the card is not powered: %w", reader.ErrNoCard)

// kinds are the errors that say all that a log may have of an exchange.
var kinds = []error{
	reader.ErrInDoubt, reader.ErrGone, reader.ErrInterrupted, reader.ErrAborted, reader.ErrNoCard, reader.ErrStale, reader.ErrLocked, reader.ErrNotReady, reader.ErrInvalid, reader.ErrUnsupported,
	reader.ErrNoPermission, reader.ErrClaimed, reader.ErrFailed, reader.ErrTimeout, reader.ErrProtocol, reader.ErrMute, reader.ErrCancelled,
}

// kind describes the kind of err in words, without bytes or lengths.
func kind(err error) string {
	for _, k := range kinds {
		if errors.Is(err, k) {
			return k.Error()
		}
	}
	return "another error"
}
