package eutron

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cardfs/cardfs/drivers/eutron/emu"
	"github.com/cardfs/cardfs/reader"
	"github.com/cardfs/cardfs/reader/icc"
)

// slow begins an exchange with a card that answers after 1.5 s, and gives it up.
func slow(t *testing.T, e *emu.Token, s reader.Slot) {
	t.Helper()
	e.Contact.SetFaults(icc.Faults{Slow: 1500 * time.Millisecond})
	start := time.Now()
	_, err := message(s, "00 00 05 00 84 00 00 08 89", time.Second)
	if took := time.Since(start); !errors.Is(err, reader.ErrTimeout) || took < time.Second || took > 1100*time.Millisecond {
		t.Fatalf("%v after %v", err, took)
	}
}

// "Wait is how long the card may take until its answer starts": the driver reads once more
// when it is over. The answer that comes later is not taken for that to another message.
func TestLateAnswer(t *testing.T) {
	const (
		late  = "00 00 0A 11 12 13 14 15 16 17 18 90 00 92"
		other = "00 E1 01 FE 1E"
	)
	for name, x := range map[string]struct{ tx, rx string }{
		"another": {"00 C1 01 FE 3E", other},
		"again":   {"00 82 00 82", late},
	} {
		synctest.Test(t, func(t *testing.T) {
			e, s, l := plug(t, cardOS)
			powerUp(t, l, -1)
			slow(t, e, s)
			time.Sleep(2 * time.Second)
			e.Contact.SetFaults(icc.Faults{})
			if rx, err := message(s, x.tx, time.Second); err != nil || !bytes.Equal(rx, unhex(x.rx)) {
				t.Errorf("%s: % X, %v", name, rx, err)
			}
			e.Contact.SetFaults(icc.Faults{})
			rx, err := message(s, "00 40 05 00 84 00 00 08 C9", time.Second)
			if err != nil || !bytes.Equal(rx, unhex("00 40 0A 11 12 13 14 15 16 17 18 90 00 D2")) {
				t.Errorf("%s: then % X, %v", name, rx, err)
			}
		})
	}
	// It comes after a reset began: what is read then is the ATR.
	synctest.Test(t, func(t *testing.T) {
		e, s, l := plug(t, cardOS)
		powerUp(t, l, -1)
		slow(t, e, s)
		time.Sleep(2 * time.Second)
		e.Contact.SetFaults(icc.Faults{})
		powerUp(t, l, -1)
		transmit(t, l, challenge, response)
	})
	// The host gives up, by its context.
	synctest.Test(t, func(t *testing.T) {
		e, s, l := plug(t, cardOS)
		powerUp(t, l, -1)
		e.Contact.SetFaults(icc.Faults{Slow: 1500 * time.Millisecond})
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		start := time.Now()
		_, err := s.Exchange(ctx, reader.Transfer{Out: unhex("00 00 05 00 84 00 00 08 89"), Want: 3, Wait: time.Minute}, nil)
		if !errors.Is(err, context.DeadlineExceeded) || time.Since(start) != time.Second {
			t.Errorf("%v after %v", err, time.Since(start))
		}
		time.Sleep(2 * time.Second)
		e.Contact.SetFaults(icc.Faults{})
		if rx, err := message(s, "00 C1 01 FE 3E", time.Second); err != nil || !bytes.Equal(rx, unhex(other)) {
			t.Errorf("% X, %v", rx, err)
		}
	})
}

// Bytes that belong to no answer: before a reset, behind an ATR, behind an answer, with the
// next answer. None is taken for part of another.
func TestStrayBytes(t *testing.T) {
	junk := unhex("3B 00 FF 01 FE 00 00 02 90 00 92")
	for n := range len(junk) + 1 {
		synctest.Test(t, func(t *testing.T) {
			e, _, l := plug(t, cardOS)
			e.Stray(junk[:n]...)
			powerUp(t, l, -1)
			if got := l.ATR().Bytes(); !bytes.Equal(got, cardOS.ATR()) {
				t.Errorf("ATR % X", got)
			}
			transmit(t, l, challenge, response)
		})
	}
	for _, more := range []string{"FF", "FF 01 FE", "15 FF 00 FF 3B", strings.Repeat("3B", 51)} {
		f := newFake()
		f.reads = []reply{{}, {data: append(cardOS.ATR(), unhex(more)...)}, {data: unhex("FF 01")}, {}, {data: unhex("FF 01 FE")}}
		synctest.Test(t, func(t *testing.T) {
			_, s := open(t, f)
			atr, err := s.PowerOn(t.Context(), reader.Cold)
			if err != nil || !bytes.Equal(atr, cardOS.ATR()) {
				t.Fatalf("%s behind the ATR: % X, %v", more, atr, err)
			}
			pps, err := s.Exchange(t.Context(), reader.Transfer{Out: unhex("FF 01 FE"), Want: 3, Wait: time.Second}, nil)
			if err != nil || !bytes.Equal(pps, unhex("FF 01 FE")) {
				t.Errorf("%s behind the ATR, then % X, %v", more, pps, err)
			}
		})
	}
}

// Two answers' bytes in one read: the second belongs to no message that was sent after it,
// and neither does what the token still holds of it.
func TestTwoAnswersInOneRead(t *testing.T) {
	const one, two = "00 00 02 90 00 92", "00 40 02 6A 82 AA"
	for cut := range len(unhex(two)) + 1 {
		synctest.Test(t, func(t *testing.T) {
			f := newFake()
			_, s := open(t, f)
			old := unhex(two)
			f.reads = []reply{{data: append(unhex(one), old[:cut]...)}, {data: old[cut:]}, {}, {data: unhex("00 40 02 90 00 D2")}}
			if cut == len(old) {
				f.reads = slices.Delete(f.reads, 1, 2)
			}
			if cut == 0 {
				f.reads = f.reads[:1] // nobody can know
			}
			if rx, err := message(s, "00 00 04 00 A4 00 00 A0", time.Second); err != nil || !bytes.Equal(rx, unhex(one)) {
				t.Fatalf("% X, %v", rx, err)
			}
			if cut == 0 {
				f.reads = []reply{{data: unhex("00 40 02 90 00 D2")}}
			}
			if rx, err := message(s, "00 40 04 00 A4 00 00 E0", time.Second); err != nil || !bytes.Equal(rx, unhex("00 40 02 90 00 D2")) {
				t.Errorf("%d bytes of the second answer in the first read: % X, %v", cut, rx, err)
			}
		})
	}
}
