package readertest

import (
	"bytes"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/cardfs/cardfs/reader"
	"github.com/cardfs/cardfs/reader/icc"
	"github.com/cardfs/cardfs/reader/link"
)

// Open opens a device until the end of the test, and returns it with its first slot.
func Open(t testing.TB, d reader.Driver, dev reader.Device) (reader.Reader, reader.Slot) {
	t.Helper()
	r, err := d.Open(t.Context(), dev)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	return r, r.Slots()[0]
}

// NewLink makes a link on a slot as the core does. An exchange may take a minute.
func NewLink(s reader.Slot) *link.Link {
	return link.New(link.Config{Slot: s, Features: reader.FeaturesOf(s), Limit: time.Minute})
}

// PowerUp resets the card, and selects a protocol; -1 is the card's choice.
func PowerUp(t testing.TB, l *link.Link, protocol int) {
	t.Helper()
	if err := l.PowerUp(t.Context(), reader.Cold, protocol); err != nil {
		t.Fatal(err)
	}
}

// Refused powers up a card that the reader cannot serve; the error says it.
func Refused(t testing.TB, s reader.Slot, says string) {
	t.Helper()
	err := NewLink(s).PowerUp(t.Context(), reader.Cold, -1)
	if !errors.Is(err, reader.ErrUnsupported) || !strings.Contains(err.Error(), says) {
		t.Errorf("%v; want %s", err, says)
	}
}

// Connect powers up the card of a slot as the core does.
func Connect(t testing.TB, s reader.Slot) *link.Link {
	t.Helper()
	l := NewLink(s)
	PowerUp(t, l, -1)
	return l
}

// Transmit sends a command of which the answer must be want.
func Transmit(t testing.TB, l *link.Link, command, want []byte) {
	t.Helper()
	got, err := l.Transmit(t.Context(), command, nil)
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("% X: % X, %v", command, got, err)
	}
}

// Insert puts a card into a position of an emulated device.
func Insert(t testing.TB, into *icc.Contact, c icc.Card) {
	t.Helper()
	if err := into.Insert(c); err != nil {
		t.Fatal(err)
	}
}
