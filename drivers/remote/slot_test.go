package remote

import (
	"context"
	"errors"
	"testing"

	"github.com/cardfs/cardfs/reader"
)

// told lists what Status tells until it repeats itself: A absent, P present, O powered, and for
// ErrStale R reset and S powered off.
func told(t *testing.T, s *slot) (list string) {
	t.Helper()
	for {
		more := len(s.notes) > 0
		st, err := s.Status(t.Context())
		switch {
		case errors.Is(err, reader.ErrStale):
			list += string("?SR"[st])
		case err != nil:
			t.Fatal(err)
		default:
			list += string("APO"[st])
		}
		if !more {
			return list
		}
	}
}

// "Events in the order in which they happen", each once.
func TestOrder(t *testing.T) {
	const (
		in, out, reset, off, on = "inserted", "removed", "reset", "powered off", "powered"
		noCard                  = "ENOMEDIUM" // an answer says so before the event
		open                    = "open"      // a session begins
		late                    = "late"      // a reset before the session, whose event comes in it
	)
	for _, x := range []struct {
		happened []string
		want     string
	}{
		{nil, "A"},
		{[]string{in}, "PP"},
		{[]string{in, out}, "PAA"},
		{[]string{in, out, in, out, in}, "PAPAPP"},
		{[]string{in, noCard}, "PA"},
		{[]string{in, noCard, out}, "PA"},
		{[]string{in, noCard, out, in}, "PPP"},
		{[]string{in, noCard, out, in, out}, "PPAA"},
		{[]string{in, on, open}, "PO"},
		{[]string{in, on, open, reset}, "PRP"},
		{[]string{in, on, open, reset, off}, "PSP"},  // an open would power it again
		{[]string{in, on, open, reset, open}, "POO"}, // an open, or a reset from here, was faster
		{[]string{in, on, open, reset, out}, "PRAA"},
		{[]string{in, on, open, off, on}, "PSP"},
		{[]string{in, on, reset, off, open}, "PO"}, // what was before is not the session's
		{[]string{in, on, open, late}, "PO"},
		{[]string{in, on, open, out}, "PAA"},
	} {
		ctx, cancel := context.WithCancelCause(t.Context())
		s := newSlot(&line{machine: &machine{address: "/far"}, ctx: ctx, cancel: cancel}, 0)
		seq := uint64(1)
		s.happened(event{seq: seq, what: "ready"})
		for _, what := range x.happened {
			seq++
			switch what {
			case noCard:
				if err := s.refused(t.Context(), reader.ErrNoCard); !errors.Is(err, reader.ErrNoCard) {
					t.Error(err)
				}
			case open:
				s.session = &session{since: seq}
			case late:
				s.happened(event{seq: s.session.since, what: reset})
			case off:
				s.happened(event{seq: seq, what: "powered", more: map[string]string{"power": "off"}})
			default:
				s.happened(event{seq: seq, what: what})
			}
		}
		if got := told(t, s); got != x.want {
			t.Errorf("%q: %s, want %s", x.happened, got, x.want)
		}
		cancel(reader.ErrAway)
		if _, err := s.Status(t.Context()); !errors.Is(err, reader.ErrGone) {
			t.Errorf("after the end of the line: %v", err)
		}
	}
}

// More changes than there is room for: the last count, and the state is right in the end.
func TestManyChanges(t *testing.T) {
	s := newSlot(&line{machine: &machine{}, ctx: t.Context()}, 0)
	for i := range uint64(10 * notesMost) {
		s.happened(event{seq: 2 * i, what: "inserted"})
		s.happened(event{seq: 2*i + 1, what: "removed"})
	}
	if got := told(t, s); len(got) > notesMost+1 || got[len(got)-2:] != "AA" {
		t.Errorf("%d changes: %s", len(got), got)
	}
}

// "leave makes every later call fail with ErrGone", not as if only the card had changed.
func TestLeft(t *testing.T) {
	s := newSlot(&line{machine: &machine{}, ctx: t.Context()}, 0)
	s.happened(event{seq: 1, what: "inserted"})
	s.leave()
	_, err := s.Exchange(t.Context(), reader.Transfer{Out: []byte{0, 0, 0, 0}}, nil)
	if _, statusErr := s.Status(t.Context()); !errors.Is(err, reader.ErrGone) || !errors.Is(statusErr, reader.ErrGone) {
		t.Errorf("a command: %v; status: %v", err, statusErr)
	}
}
