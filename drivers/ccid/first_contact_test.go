package ccid

import (
	"bytes"
	"errors"
	"testing"
	"testing/synctest"

	"github.com/cardfs/cardfs/drivers/ccid/emu"
	"github.com/cardfs/cardfs/reader"
)

// statusOnce asks after the first reset only: the session has one status.
func statusOnce(t *testing.T, s *slot, how reader.Reset) (reader.Status, error) {
	if s.lane.seq != 1 {
		return reader.Powered, nil
	}
	return s.Status(ctx)
}

func check(t *testing.T, got []byte, err error, want []byte, wantErr error) {
	t.Helper()
	if !errors.Is(err, wantErr) || wantErr == nil && err != nil {
		t.Errorf("error %v, want %v", err, wantErr)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("got % X, want % X", got, want)
	}
}

// What an earlier user left in the reader does not count as the first contact, whose
// failure is the failure of Open.
func TestFirstContact(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		opened(t, play(t, emu.TPDUReader(), `
			OUT 02 | 65 00 00 00 00  00 00 00 00 00
			IN  81 | 80 02 00 00 00  00 17 00 00 00  90 00
			IN  81 | 81 00 00 00 00  00 00 01 00 00
		`))
	})
	synctest.Test(t, func(t *testing.T) {
		tp := play(t, emu.TPDUReader(), `
			OUT 02 | 65 00 00 00 00  00 00 00 00 00
			IN  81 | timeout
			OUT 21 01 0100 0000 0000 | timeout
			OUT 02 | 72 00 00 00 00  00 01 00 00 00
			IN  81 | timeout
			clear 81
			clear 02
			OUT 02 | 65 00 00 00 00  00 02 00 00 00
			IN  81 | timeout
			reset
			OUT 02 | 65 00 00 00 00  00 03 00 00 00
			IN  81 | timeout
		`)
		_, err := Driver{}.Open(ctx, reader.Device{Link: tp})
		check(t, nil, err, nil, reader.ErrTimeout)
		if errors.Is(err, reader.ErrGone) {
			t.Error("a reader that is plugged in is not gone:", err)
		}
	})
}
