package ctapi

import (
	"bytes"
	"context"
	"errors"
	"testing"
	"testing/synctest"

	"github.com/cardfs/cardfs/drivers/sim"
	"github.com/cardfs/cardfs/reader"
	"github.com/cardfs/cardfs/reader/core"
)

// The answer has dad and sad swapped. dad is the sender of the command: 2 the host or 5 the
// remote host. sad is the one that answered: 1 the terminal, 0 and 2 to 14 the cards.
func TestAddresses(t *testing.T) {
	play(t, "twoslot", `
		@ 01 02 20 13 00 80 00
		< 02 01 80 02 03 03 90 00
		@ 01 05 20 13 00 80 00
		< 05 01 80 02 03 03 90 00
		@ 00 02 00 A4 00 0C 02 3F 00
		< 02 00 90 00
		@ 00 05 00 A4 00 0C 02 3F 00
		< 05 00 90 00
		# the second slot is 2; OpenCT's and KOBIL's programs call that of two 3
		@ 02 02 00 A4 00 0C 02 3F 00
		< 02 02 90 00
		@ 03 02 00 A4 00 0C 02 3F 00
		< 02 03 90 00
		> 20 13 00 80 00
		< 80 02 05 05 90 00
		# no such unit
		@ 04 02 00 A4 00 0C 02 3F 00
		< error
		@ 0F 02 00 A4 00 0C 02 3F 00
		< error
		@ FF 02 00 A4 00 0C 02 3F 00
		< error
	`)
	play(t, "t1", `
		# a reader of one slot has neither
		@ 02 02 00 A4 00 0C 02 3F 00
		< error
		@ 03 02 00 A4 00 0C 02 3F 00
		< error
		@ 00 02 00 A4 00 0C 02 3F 00
		< 02 00 90 00
	`)
}

func TestCheckData(t *testing.T) {
	for n := range 10 {
		err := CheckData(make([]byte, n))
		if ok := n == 2 || n >= 6; ok != (err == nil) || !ok && !errors.Is(err, reader.ErrInvalid) {
			t.Errorf("%d bytes: %v", n, err)
		}
	}
}

// A card's life: used at once, ejected, activated, used again. The terminal answers 64A1 for
// no card, and 64A2 for a card that is not active.
func TestCardLife(t *testing.T) {
	play(t, "twoslot", `
		ctl sim 0 remove
		@ 00 02 00 A4 00 0C 02 3F 00
		< 02 01 64 A1
		ctl sim 0 insert
		# what was put in since is opened by its first command
		@ 00 02 00 A4 00 0C 02 3F 00
		< 02 00 90 00
		sessions 1
		@ 01 02 20 15 01 00
		< 02 01 90 00
		sessions 0
		@ 00 02 00 A4 00 0C 02 3F 00
		< 02 01 64 A2
		# the other slot has nothing to do with it
		@ 02 02 00 A4 00 0C 02 3F 00
		< 02 02 90 00
		@ 01 02 20 12 01 01 00
		< 02 01 `+tokenATR+` 90 01
		sessions 1
		@ 00 02 00 A4 00 0C 02 3F 00
		< 02 00 90 00
		@ 01 02 20 14 01 00
		< 02 01 90 00
		@ 00 02 00 A4 00 0C 02 3F 00
		< 02 01 64 A2
		@ 01 02 20 11 01 00
		< 02 01 90 01
		@ 00 02 00 A4 00 0C 02 3F 00
		< 02 00 90 00
		sessions 1
		# RESET CT: all cards are off, and as at the beginning
		@ 01 02 20 14 01 00
		< 02 01 90 00
		@ 01 02 20 11 00 00
		< 02 01 90 00
		@ 00 02 00 A4 00 0C 02 3F 00
		< 02 00 90 00
		@ 02 02 00 A4 00 0C 02 3F 00
		< 02 02 90 00
		# nor does a REQUEST ICC that found none leave anything behind
		ctl sim 0 remove
		@ 00 02 00 A4 00 0C 02 3F 00
		< 02 01 64 A1
		@ 00 02 00 A4 00 0C 02 3F 00
		< 02 01 64 A1
		@ 01 02 20 12 01 00 01 05
		< 02 01 62 00
		@ 01 02 20 12 01 00
		< 02 01 62 00
		ctl sim 0 insert
		@ 00 02 00 A4 00 0C 02 3F 00
		< 02 00 90 00
		# EJECT ICC, and the card is put in again: the program has to activate it
		@ 01 02 20 15 01 00 01 05
		< 02 01 62 00
		@ 00 02 00 A4 00 0C 02 3F 00
		< 02 01 64 A2
		ctl sim 0 remove
		@ 00 02 00 A4 00 0C 02 3F 00
		< 02 01 64 A1
		@ 01 02 20 15 01 00
		< 02 01 90 00
		ctl sim 0 insert
		@ 00 02 00 A4 00 0C 02 3F 00
		< 02 01 64 A2
	`)
}

// After EJECT ICC of an empty slot an activation is needed, too.
func TestEjectEmpty(t *testing.T) {
	play(t, "t1 card=none", `
		@ 01 02 20 15 01 00
		< 02 01 90 00
		@ 00 02 00 A4 00 0C 02 3F 00
		< 02 01 64 A1
		ctl sim 0 insert token
		@ 00 02 00 A4 00 0C 02 3F 00
		< 02 01 64 A2
		@ 01 02 20 11 01 00
		< 02 01 90 01
		@ 00 02 00 A4 00 0C 02 3F 00
		< 02 00 90 00
	`)
}

// DEACTIVATE ICC also works on a card that only other programs used.
func TestDeactivateOthers(t *testing.T) {
	play(t, "t1", `
		power on
		@ 01 02 20 14 01 00
		< 02 01 90 00
		power on
		@ 00 02 00 A4 00 0C 02 3F 00
		< 02 01 64 A2
	`)
}

// "The card was reset, changed or powered off by somebody else: its security state is
// lost, and RESET CT or REQUEST ICC begins anew."
func TestCardLost(t *testing.T) {
	for _, loss := range []string{"power reset", "power off\npower on", "ctl sim 0 remove\nctl sim 0 insert\npower on"} {
		play(t, "t1", `
			# opened by its first command
			@ 00 02 00 A4 00 0C 02 3F 00
			< 02 00 90 00
			`+loss+`
			@ 00 02 00 A4 00 0C 02 3F 00
			< 02 01 64 A2
			@ 00 02 00 A4 00 0C 02 3F 00
			< 02 01 64 A2
			sessions 0
			@ 01 02 20 12 01 01 00
			< 02 01 `+tokenATR+` 90 01
			@ 00 02 00 A4 00 0C 02 3F 00
			< 02 00 90 00
			# activated; that it still is, is not so
			@ 01 02 20 12 01 01 00
			< 02 01 62 01
			`+loss+`
			@ 01 02 20 12 01 01 00
			< 02 01 `+tokenATR+` 90 01
			@ 00 02 00 A4 00 0C 02 3F 00
			< 02 00 90 00
			`+loss+`
			@ 01 02 20 11 01 00
			< 02 01 90 01
			@ 00 02 00 A4 00 0C 02 3F 00
			< 02 00 90 00
			# before the first command
			@ 01 02 20 11 01 00
			< 02 01 90 01
			`+loss+`
			@ 00 02 00 A4 00 0C 02 3F 00
			< 02 01 64 A2
			# SET INTERFACE PARAMETER is no activation
			@ 01 02 80 60 01 00 03 22 01 02
			< 02 01 90 01
			@ 00 02 00 A4 00 0C 02 3F 00
			< 02 01 64 A2
		`)
	}
	play(t, "t1", `
		# text users: 6201 is for the card that was activated
		> 20 12 01 01 00
		< `+tokenATR+` 90 01
		> 20 12 01 01 00
		< 62 01
		power reset
		> 20 12 01 01 00
		< `+tokenATR+` 90 01
		# RESET CT and DEACTIVATE ICC end that it is this program's
		> 20 11 00 00
		< 90 00
		power on
		> 20 12 01 01 00
		< `+tokenATR+` 90 01
		> 20 14 01 00
		< 90 00
		power on
		> 20 12 01 01 00
		< `+tokenATR+` 90 01
		> 20 15 01 00
		< 90 00
		power on
		> 20 12 01 01 00
		< `+tokenATR+` 90 01
	`)
}

// Setting a protocol resets the card for this program, which goes on.
func TestCardProtocol(t *testing.T) {
	play(t, "t1 card=dual", `
		@ 01 02 20 12 01 00
		< 02 01 90 01
		@ 01 02 80 60 01 00 03 22 01 02
		< 02 01 90 01
		@ 00 02 00 A4 00 0C 02 3F 00
		< 02 00 90 00
		@ 01 02 80 60 01 00 03 22 01 01
		< 02 01 90 01
		@ 00 02 00 A4 00 0C 02 3F 00
		< 02 00 90 00
		sessions 1
		# it is as much this program's as before
		@ 01 02 20 12 01 00
		< 02 01 62 01
		# one that the card does not do changes nothing
		@ 01 02 80 60 01 00 03 22 01 80
		< 02 01 6A 80
		@ 00 02 00 A4 00 0C 02 3F 00
		< 02 00 90 00
	`)
}

// A preference that the card refused is forgotten; the one before it stays.
func TestPreferenceKept(t *testing.T) {
	play(t, "t1", `
		> 80 60 01 00 03 22 01 02
		< 90 00
		> 20 12 01 00
		< 90 01
		> 80 60 01 00 03 22 01 01
		< 64 A3
		> 20 11 01 00
		< 90 01
	`)
}

// The unit is the card's where the card's status word it is.
func TestPINUnit(t *testing.T) {
	play(t, "pinpad", `
		@ 01 02 20 18 01 00 08 52 06 01 06 00 20 00 01
		< 02 01 64 A2
		@ 01 02 20 12 01 00
		< 02 01 90 01
		ctl sim 0 keys 9999
		@ 01 02 20 18 01 00 08 52 06 01 06 00 20 00 01
		< 02 00 63 C2
		@ 01 02 20 13 00 80 00
		< 02 01 80 01 05 90 00
		ctl sim 0 keys 1234
		@ 01 02 20 18 01 00 08 52 06 01 06 00 20 00 01
		< 02 00 90 00
		ctl sim 0 keys cancel
		@ 01 02 20 18 01 00 08 52 06 01 06 00 20 00 01
		< 02 01 64 01
		@ 01 02 20 18 01 00 08 52 06 01 06 00 20 00 01
		< 02 01 64 00
		ctl sim 0 keys 1234 5678 5679
		@ 01 02 20 19 01 00 09 52 07 01 06 0E 00 24 00 01
		< 02 01 64 02
		ctl sim 0 keys 1234 5678 5678
		@ 01 02 20 19 01 00 09 52 07 01 06 0E 00 24 00 01
		< 02 00 90 00
		@ 01 02 20 18 01 00 01 52
		< 02 01 67 00
		# no PIN for a card that another reset meanwhile
		power reset
		ctl sim 0 keys 5678
		@ 01 02 20 18 01 00 08 52 06 01 06 00 20 00 01
		< 02 01 64 A2
		@ 01 02 20 12 01 00
		< 02 01 90 01
		@ 01 02 20 18 01 00 08 52 06 01 06 00 20 00 01
		< 02 00 90 00
	`)
}

// CT_close switches off the cards that RESET CT or REQUEST ICC activated, unless another
// program holds them.
func TestEnd(t *testing.T) {
	play(t, "twoslot", `
		@ 02 02 00 A4 00 0C 02 3F 00
		< 02 02 90 00
		@ 01 02 20 12 01 00
		< 02 01 90 01
		@ 01 02
		< 02 01
		# the second was only used
		> 20 13 00 80 00
		< 80 02 03 05 90 00
		sessions 0
		@ 01 02 20 11 01 00
		< 02 01 90 01
		@ 01 02 20 11 02 00
		< 02 01 90 01
		@ 01 05
		< 05 01
		> 20 13 00 80 00
		< 80 02 03 03 90 00
		# it goes on as at the beginning
		@ 00 02 00 A4 00 0C 02 3F 00
		< 02 00 90 00
		@ 01 02
		< 02 01
		> 20 13 00 80 00
		< 80 02 05 03 90 00
	`)
	play(t, "twoslot", `
		# only the second
		@ 01 02 20 12 02 00
		< 02 01 90 01
		@ 01 02
		< 02 01
		> 20 13 00 80 00
		< 80 02 03 03 90 00
	`)
	play(t, "t1", `
		# another holds the transaction: the power stays
		@ 01 02 20 12 01 00
		< 02 01 90 01
		lock
		@ 01 02
		< 02 01
		unlock
		> 20 13 00 80 00
		< 80 01 05 90 00
		sessions 0
		# another reset the card: it is not this program's any more
		@ 01 02 20 11 01 00
		< 02 01 90 01
		power reset
		@ 01 02
		< 02 01
		> 20 13 00 80 00
		< 80 01 05 90 00
		# what this program deactivated and another activated
		@ 01 02 20 11 01 00
		< 02 01 90 01
		@ 01 02 20 14 01 00
		< 02 01 90 00
		power on
		@ 01 02
		< 02 01
		> 20 13 00 80 00
		< 80 01 05 90 00
		# and one whose card is gone
		@ 01 02 20 11 01 00
		< 02 01 90 01
		ctl sim 0 remove
		@ 01 02
		< 02 01
	`)
}

// Another's transaction: nothing is sent, and the caller may try again.
func TestCardLocked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := core.NewManager(core.Options{Drivers: []reader.Driver{sim.New()}})
		defer m.Close(context.Background())
		ctl(m, "attach sim t1")
		b := m.Slot(0)
		terminal := New(b, core.Caller{Owner: t, Wait: true})
		defer terminal.Close()
		command := unhex("00 02 00 A4 00 0C 02 3F 00")
		for range 2 {
			if err := b.Lock(context.Background(), core.Caller{Owner: "another"}, nil); err != nil {
				t.Fatal(err)
			}
			before := []byte{0xA5}
			if answer, err := terminal.Data(context.Background(), command, before); !errors.Is(err, reader.ErrLocked) || !bytes.Equal(answer, before) {
				t.Errorf("% X, %v", answer, err)
			}
			b.Unlock("another")
			answer, err := terminal.Data(context.Background(), command, before)
			if err != nil || !bytes.Equal(answer, unhex("A5 02 00 90 00")) {
				t.Errorf("% X, %v", answer, err)
			}
		}
		ctl(m, "sim 0 unplug")
		synctest.Wait()
		for range 2 {
			if answer, err := terminal.Data(context.Background(), command, nil); !errors.Is(err, reader.ErrGone) || len(answer) > 0 {
				t.Errorf("without the reader: % X, %v", answer, err)
			}
		}
	})
}

// Close does not switch off the cards, and leaves no session behind.
func TestClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := core.NewManager(core.Options{Drivers: []reader.Driver{sim.New()}})
		defer m.Close(context.Background())
		ctl(m, "attach sim t1")
		synctest.Wait()
		b := m.Slot(0)
		for i, first := range []string{"00 02 00 A4 00 0C 02 3F 00", "01 02 20 12 01 00", "01 02 20 11 01 00"} {
			terminal := New(b, core.Caller{Owner: t})
			if _, err := terminal.Data(context.Background(), unhex(first), nil); err != nil {
				t.Fatal(err)
			}
			during := b.Info().Sessions
			terminal.Close()
			if info := b.Info(); during != 1 || info.Sessions != 0 || info.State != "powered" {
				t.Errorf("%d: %d sessions, then %d, %s", i, during, info.Sessions, info.State)
			}
		}
	})
}
