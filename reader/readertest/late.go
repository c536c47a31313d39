package readertest

import (
	"bytes"
	"errors"
	"testing"
	"time"

	"github.com/cardfs/cardfs/reader"
	"github.com/cardfs/cardfs/reader/icc"
)

// Late tests that an answer which comes too late, of n bytes and SW1 SW2, is not taken for that
// of the next command. The slot takes APDUs, or T=0, of a Card in c that has power. The card is
// a second too slow, or more; the reader keeps its settings.
func Late(t testing.TB, s reader.Slot, c *icc.Contact, slow time.Duration, n byte) {
	t.Helper()
	before := c.APDUs()
	c.SetFaults(icc.Faults{Slow: slow})
	x := reader.Transfer{Out: []byte{0x80, 0xE2, 0, n, n}, Wait: time.Second}
	if _, err := s.Exchange(t.Context(), x, nil); !errors.Is(err, reader.ErrTimeout) {
		t.Fatal(err)
	}
	c.SetFaults(icc.Faults{})
	if st, err := s.Status(t.Context()); st != reader.Powered || err != nil {
		t.Errorf("status %v, %v", st, err)
	}
	got, err := s.Exchange(t.Context(), reader.Transfer{Out: Challenge, Wait: time.Second}, nil)
	if err != nil || !bytes.Equal(got, Response) {
		t.Errorf("% X, %v", got, err)
	}
	if n := c.APDUs() - before; n != 2 {
		t.Errorf("the card saw %d commands", n)
	}
}
