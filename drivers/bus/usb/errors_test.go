package usb

import (
	"errors"
	"fmt"
	"testing"

	"github.com/cardfs/cardfs/reader"
)

// The kinds of failed transfers that the core distinguishes, as programs see them.
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

// Errors "never carry bytes of a command". That of a control transfer has the kind and the
// request, but not wValue and wIndex: they are the first bytes of an iKey's block.
func TestSetupInErrors(t *testing.T) {
	for setup, want := range map[Setup]string{
		{RequestType: 0x41, Request: 0x17, Value: 0x2031, Index: 0x3233}: "OUT 41 17",
		{RequestType: 0xC1, Request: 0x01, Value: 0x3435, Index: 0x3637}: "IN C1 01",
	} {
		if got := setup.String(); got != want {
			t.Errorf("%q, want %q", got, want)
		}
		if got := fmt.Sprintf("%v", setup); got != want {
			t.Errorf("printed: %q, want %q", got, want)
		}
	}
}
