package ctapi

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cardfs/cardfs/drivers/sim"
	"github.com/cardfs/cardfs/reader"
	"github.com/cardfs/cardfs/reader/core"
)

const (
	tokenATR  = "3B B7 94 00 81 31 FE 65 53 50 4B 32 33 90 00 D1"
	tokenHist = "53 50 4B 32 33 90 00"
	t0ATR     = "3B 77 94 00 00 53 49 4D 54 30 90 00"
)

// Classes, instructions and forms that are no command of the terminal.
func TestForm(t *testing.T) {
	play(t, "t1", `
		# the classes are 20, 80 and 00: 6E00
		> 40 11 00 00
		< 6E 00
		> FF 11 00 00 00
		< 6E 00
		# an instruction that the class does not have: 6D00
		> 20 1A 00 00
		< 6D 00
		> 20 70 00 00
		< 6D 00
		> 80 61 01 00
		< 6D 00
		> 00 20 00 01
		< 6D 00
		# of a malformed one, too
		> 20 99 00 00 05 01
		< 6D 00
		> 21 11 00 00 05 01
		< 6E 00
		# Lc says more or less than follows: 6700
		> 20 12 01 00 02 80
		< 67 00
		> 20 12 01 00 01 14 00 00
		< 67 00
		# six bytes and more with Lc 00, and with it extended length: 6700
		> 20 12 01 00 00 00
		< 67 00
		> 20 12 01 00 00 00 01 05
		< 67 00
		# no keypad, no display, no PIN pad: 6D00
		> 20 16 50 00 08
		< 6D 00
		> 20 17 40 00 04 50 02 'Hi'
		< 6D 00
		> 20 18 01 00 08 52 06 00 06 00 20 00 01
		< 6D 00
		> 20 19 01 00 09 52 07 00 06 0E 00 24 00 01
		< 6D 00
	`)
}

func TestCheck(t *testing.T) {
	for n := range 4 {
		if err := Check(make([]byte, n)); !errors.Is(err, reader.ErrInvalid) {
			t.Errorf("%d bytes: %v", n, err)
		}
	}
	if err := Check([]byte{0x20, 0x11, 0, 0}); err != nil {
		t.Error(err)
	}
}

func TestResetCT(t *testing.T) {
	play(t, "t1", `
		# P1 00: the terminal; its cards lose their power
		> 20 11 01 01 00
		< `+tokenATR+` 90 01
		> 20 13 00 80 00
		< 80 01 05 90 00
		> 20 11 00 00
		< 90 00
		> 20 13 00 80 00
		< 80 01 03 90 00
		> 20 11 00 00 00
		< 90 00
		# P1 of a slot: 9001 for an asynchronous card; P2 00 no data, 01 ATR, 02 historical bytes
		> 20 11 01 00
		< 90 01
		> 20 11 01 00 00
		< 90 01
		> 20 11 01 01 00
		< `+tokenATR+` 90 01
		> 20 11 01 02 00
		< `+tokenHist+` 90 01
		# the form of B1 terminals does the same
		> 20 10 00 00
		< 90 00
		> 20 10 01 00 00
		< 90 01
		> 20 10 01 01 00
		< `+tokenATR+` 90 01
		> 20 10 01 02 00
		< `+tokenHist+` 90 01
		# P1 or P2 not allowed: 6A00
		> 20 11 00 01
		< 6A 00
		> 20 11 02 00
		< 6A 00
		> 20 11 0F 00
		< 6A 00
		> 20 11 50 00
		< 6A 00
		> 20 11 01 03 00
		< 6A 00
		> 20 11 01 11 00
		< 6A 00
		# P2 asks for data and Le is not 00, or does not and is: 6700
		> 20 11 01 01
		< 67 00
		> 20 11 01 01 20
		< 67 00
		> 20 11 01 00 01
		< 67 00
		> 20 11 00 00 05
		< 67 00
		> 20 11 00 00 01 00
		< 67 00
		# no card: 6400, in the B1 form 64A1
		ctl sim 0 remove
		> 20 11 01 01 00
		< 64 00
		> 20 10 01 01 00
		< 64 A1
		> 20 11 00 00
		< 90 00
		# a card that is mute: 6400
		ctl sim 0 insert
		ctl sim 0 mute
		> 20 11 01 01 00
		< 64 00
		ctl sim 0 normal
		> 20 11 01 01 00
		< `+tokenATR+` 90 01
		# another holds the transaction: 6985, and nothing was done
		lock
		> 20 11 01 00
		< 69 85
		> 20 11 00 00
		< 69 85
		> 20 13 00 80 00
		< 80 01 05 90 00
		unlock
		> 20 11 01 00
		< 90 01
	`)
}

// Data of more than one byte in RESET CT is a PPS request to use (libtowitoko).
func TestResetPPS(t *testing.T) {
	play(t, "t1 card=dual", `
		> 20 11 01 00
		< 90 01
		> 00 A4 00 00 02 7F 70
		< 00 0A 00 0A 88 00 00 00 00 00 90 00
		> 00 A4 00 00 02 70 21
		< 00 06 00 06 08 00 00 00 00 00 90 00
		> 00 B0 00 00 00
		< 21 01 01 22 01 01 90 00
		> 20 11 01 00 03 FF 11 94
		< 90 01
		> 00 B0 00 00 00
		< 21 01 01 22 01 02 90 00
		# a single byte is none
		> 20 11 01 00 01 FF
		< 90 01
		> 00 B0 00 00 00
		< 21 01 01 22 01 01 90 00
		# what is no PPS request, or of a protocol that there is not
		> 20 11 01 00 02 3B 11
		< 6A 80
		> 20 11 01 00 02 FF 1E
		< 6A 80
	`)
	play(t, "t1", `
		# the card does not offer T=0
		> 20 11 01 00 02 FF 10
		< 64 A3
	`)
}

func TestRequestICC(t *testing.T) {
	play(t, "t1", `
		# a card is there: activate it; P2 low half: nothing, ATR, historical bytes
		> 20 12 01 00
		< 90 01
		> 20 14 01 00
		< 90 00
		> 20 12 01 01 00
		< `+tokenATR+` 90 01
		# it is activated already: 6201, no data, nothing done
		> 20 12 01 01 00
		< 62 01
		> 20 12 01 02 01 0A 00
		< 62 01
		> 20 14 01 00
		< 90 00
		> 20 12 01 02 00
		< `+tokenHist+` 90 01
		# that is for who activated it; to another program the card is new
		2> 20 12 01 01 00
		< `+tokenATR+` 90 01
		2> 20 12 01 01 00
		< 62 01
		# high half of P2: 0 the terminal's own prompt, F none
		> 20 15 01 00
		< 90 00
		> 20 12 01 F1 00
		< `+tokenATR+` 90 01
		# Le may be left out
		> 20 15 01 00
		< 90 00
		> 20 12 01 01
		< `+tokenATR+` 90 01
		# P1, P2
		> 20 12 00 01 00
		< 6A 00
		> 20 12 02 01 00
		< 6A 00
		> 20 12 01 03 00
		< 6A 00
		# Le is 00 or not there
		> 20 12 01 01 05
		< 67 00
		# data objects: unknown 6A85, length wrong 6700
		> 20 12 01 01 03 81 01 05 00
		< 6A 85
		> 20 12 01 01 04 80 02 00 05 00
		< 67 00
		> 20 12 01 01 03 80 02 05 00
		< 67 00
		> 20 12 01 01 02 50 81 00
		< 67 00
	`)
	play(t, "t1 card=none", `
		# no time given: do not wait
		> 20 12 01 01 00
		< 62 00
		took 0s
		> 20 12 01 01 01 00 00
		< 62 00
		took 0s
		# one raw byte, or object 80: seconds to wait
		> 20 12 01 01 01 14 00
		< 62 00
		took 20s
		> 20 12 01 01 03 80 01 05 00
		< 62 00
		took 5s
		# with a text in object 50, in either order
		> 20 12 01 01 09 50 04 'Card' 80 01 02 00
		< 62 00
		took 2s
		> 20 12 01 01 06 50 04 'Card' 00
		< 62 00
		took 0s
		# the card comes meanwhile
		after 3s sim 0 insert token
		> 20 12 01 01 01 14 00
		< `+tokenATR+` 90 01
		took 3s
		# and is mute: 6400
		ctl sim 0 remove
		ctl sim 0 mute
		after 3s sim 0 insert
		> 20 12 01 01 01 14 00
		< 64 00
		# the reader goes: no status word
		ctl sim 0 remove
		after 3s sim 0 unplug
		> 20 12 01 01 01 14 00
		< error
		took 3s
	`)
	play(t, "t1", `
		# activated by nobody, and the transaction is another's
		lock
		> 20 12 01 01 00
		< 69 85
		unlock
		> 20 12 01 01 00
		< `+tokenATR+` 90 01
	`)
}

// The wait for a card can be interrupted.
func TestRequestInterrupted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := core.NewManager(core.Options{Drivers: []reader.Driver{sim.New()}})
		defer m.Close(context.Background())
		ctl(m, "attach sim t1 card=none")
		ctx, cancel := context.WithCancel(context.Background())
		time.AfterFunc(time.Second, cancel)
		start := time.Now()
		answer, err := New(m.Slot(0), core.Caller{Owner: t, Wait: true}).Exchange(ctx, unhex("20 12 01 01 01 14 00"), nil)
		if !errors.Is(err, reader.ErrInterrupted) || len(answer) > 0 || time.Since(start) != time.Second {
			t.Errorf("% X, %v, after %v", answer, err, time.Since(start))
		}
	})
}

// A program may be too early for the driver, and may not want to wait.
func TestStarting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := core.NewManager(core.Options{Drivers: []reader.Driver{sim.New()}})
		defer m.Close(context.Background())
		ctl(m, "attach sim t1 start=2s")
		_, err := New(m.Slot(0), core.Caller{Owner: t}).Exchange(context.Background(), unhex("20 12 01 01 00"), nil)
		if !errors.Is(err, reader.ErrNotReady) {
			t.Error(err)
		}
		answer, err := New(m.Slot(0), core.Caller{Owner: t, Wait: true}).Exchange(context.Background(), unhex("20 12 01 01 00"), nil)
		if err != nil || string(answer) != string(unhex(tokenATR+"90 01")) {
			t.Errorf("% X, %v", answer, err)
		}
	})
}

func TestGetStatus(t *testing.T) {
	play(t, "t1", `
		# 46: country, maker, type, software version
		> 20 13 00 46 00
		< 46 0F 'EUCFSCRDFS01.00' 90 00
		# 80: 03 card present and not connected, 05 connected, 00 no card
		> 20 13 00 80 00
		< 80 01 03 90 00
		> 20 12 01 00
		< 90 01
		> 20 13 00 80 00
		< 80 01 05 90 00
		> 20 13 01 80 00
		< 80 01 05 90 00
		ctl sim 0 remove
		> 20 13 00 80 00
		< 80 01 00 90 00
		# 81: functional units; this terminal has a slot and nothing else
		> 20 13 00 81 00
		< 81 01 01 90 00
		# another tag, another P1
		> 20 13 00 82 00
		< 6A 00
		> 20 13 01 46 00
		< 6A 00
		> 20 13 02 80 00
		< 6A 00
		# Le must be 00, data there are none
		> 20 13 00 80
		< 67 00
		> 20 13 00 80 01
		< 67 00
		> 20 13 00 80 01 00 00
		< 67 00
	`)
	play(t, "pinpad", `
		# slot, display, keypad
		> 20 13 00 81 00
		< 81 03 01 40 50 90 00
	`)
}

// The effect of the reader's departure on a conversation.
func TestGone(t *testing.T) {
	play(t, "t1", `
		> 20 12 01 00
		< 90 01
		ctl sim 0 unplug
		> 20 13 00 80 00
		< error
		> 20 12 01 01 00
		< error
		> 20 11 00 00
		< error
		> 20 99 00 00
		< 6D 00
	`)
}

// The end of the daemon ends the wait for a card.
func TestRequestClosed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := core.NewManager(core.Options{Drivers: []reader.Driver{sim.New()}})
		ctl(m, "attach sim t1 card=none")
		time.AfterFunc(time.Second, func() { m.Close(context.Background()) })
		start := time.Now()
		_, err := New(m.Slot(0), core.Caller{Owner: t, Wait: true}).Exchange(context.Background(), unhex("20 12 01 01 01 14 00"), nil)
		if !errors.Is(err, reader.ErrGone) || time.Since(start) != time.Second {
			t.Errorf("%v, after %v", err, time.Since(start))
		}
	})
}
