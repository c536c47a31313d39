package usb

import (
	"errors"
	"testing"

	"github.com/cardfs/cardfs/reader"
)

// What programs are told of a transfer that failed: the kinds that the core tells apart.
func TestErrorKinds(t *testing.T) {
	for _, tt := range []struct{ err, kind error }{
		{ErrTimeout, reader.ErrTimeout},
		{ErrStall, reader.ErrProtocol},
		{ErrOverflow, reader.ErrProtocol},
	} {
		if !errors.Is(tt.err, tt.kind) {
			t.Errorf("%v is not %v", tt.err, tt.kind)
		}
	}
}
