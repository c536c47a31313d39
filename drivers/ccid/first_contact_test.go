package ccid

import (
	"bytes"
	"errors"
	"testing"
	"testing/synctest"

	"github.com/cardfs/cardfs/drivers/ccid/emu"
	"github.com/cardfs/cardfs/reader"
)

// statusOnce asks after the first reset only: the tape has one status.
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

// The first contact is kept apart from what an earlier user left in the reader,
// and its failure is the failure of Open.
func TestFirstContact(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		record(t, emu.TPDUReader(), `
			> 65 00 00 00 00  00 00 00 00 00
			< 80 02 00 00 00  00 17 00 00 00  90 00
			< 81 00 00 00 00  00 00 01 00 00
		`).open(t)
	})
	synctest.Test(t, func(t *testing.T) {
		tp := record(t, emu.TPDUReader(), `
			> 65 00 00 00 00  00 00 00 00 00
			--
			c 21 01 0100 0000: silence
			> 72 00 00 00 00  00 01 00 00 00
			--
			clear 81
			clear 02
			> 65 00 00 00 00  00 02 00 00 00
			--
			reset
			> 65 00 00 00 00  00 03 00 00 00
			--
		`)
		_, err := Driver{}.Open(ctx, reader.Device{Link: tp})
		check(t, nil, err, nil, reader.ErrTimeout)
		if errors.Is(err, reader.ErrGone) {
			t.Error("a reader that is plugged in is not gone:", err)
		}
	})
}
