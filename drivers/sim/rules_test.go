package sim

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cardfs/cardfs/reader"
	"github.com/cardfs/cardfs/reader/core"
)

// ISO/IEC 7816-4:2013 §7.3.3: naming a record by its number leaves the record pointer alone.
// Next, previous, first and last move it.
func TestRecordPointer(t *testing.T) {
	const record = " 10 00 01 02 03 04 05 06 07 08 09 0A 0B 0C 0D 0E 0F\n< 90 00\n"
	const start = `
		> 00 A4 08 0C 04 50 00 50 02
		< 90 00
		> 00 20 00 01 04 31 32 33 34
		< 90 00
		> 00 DC 02 04 10 02 01 02 03 04 05 06 07 08 09 0A 0B 0C 0D 0E 0F
		< 90 00
		> 00 B2 00 02 10                ; next: the first
		< …
	`
	const second = "> 00 B2 00 02 10 ; next: the second\n< 02 01 02 …\n"
	for name, between := range map[string]string{
		"READ RECORD":   "> 00 B2 04 04 10\n< …\n",
		"UPDATE RECORD": "> 00 DC 04 04" + record,
	} {
		t.Run(name, func(t *testing.T) { play(t, newCard(atrToken, false, "SIM"), start+between+second) })
	}
	t.Run("UPDATE RECORD, next", func(t *testing.T) {
		play(t, newCard(atrToken, false, "SIM"), start+"> 00 DC 00 02"+record+`
			> 00 B2 00 03 10        ; previous: the first again
			< …
			> 00 B2 00 02 10
			< 00 01 02 …`)
	})
}

// "Length" is wrong if a command has data that it does not use, even one byte.
func TestDataThatIsNotWanted(t *testing.T) {
	for _, command := range []string{
		"00 B0 81 00 01 AA 04", "00 B2 01 F4 01 AA 00", "00 84 00 00 01 AA 08", "00 CA 01 01 01 AA 04", "80 EC 00 03 01 AA 00",
	} {
		play(t, newCard(atrToken, false, "SIM"), "> "+command+"\n< 67 00")
	}
}

// "slow=DURATION: each command takes that much longer", in each slot, even one without a
// card at the start.
func TestSlowWithoutCards(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := core.NewManager(core.Options{Drivers: []reader.Driver{New()}})
		defer m.Close(context.Background())
		ctl(t, m, "attach sim twoslot card=none slow=300ms")
		for n, line := range []string{"sim 0 insert token", "sim 1 insert t0"} {
			ctl(t, m, line)
			s := open(t, m, n)
			begin := time.Now()
			transmit(t, s, "00A4000C023F00")
			if took := time.Since(begin); took != 300*time.Millisecond {
				t.Errorf("slot %d: a command took %v", n, took)
			}
		}
	})
}

// While a PIN is asked for, the display says so, and shows nothing of the PIN.
func TestDisplayWhileAPINIsAskedFor(t *testing.T) {
	pad(t, func(m *core.Manager, b *core.Slot, by core.Caller) {
		open(t, m, 0)
		format := reader.PINFormat{Timeout: 30, Format: 0x82, Length: 0, Block: 0x08, MinDigits: 4, MaxDigits: 8, Condition: 2, Messages: 1,
			APDU: unhex("00 20 00 01 08 FF FF FF FF FF FF FF FF")}
		change := format
		change.Messages = 3
		change.APDU = unhex("00 24 00 01 10 FF FF FF FF FF FF FF FF FF FF FF FF FF FF FF FF")
		for _, x := range []struct {
			name, keys string
			do         func() ([]byte, error)
		}{
			{"verify", "1234", func() ([]byte, error) {
				return b.VerifyPIN(context.Background(), &reader.PINVerify{PINFormat: format}, by)
			}},
			{"modify", "1234 4711 4711", func() ([]byte, error) {
				return b.ModifyPIN(context.Background(), &reader.PINModify{PINFormat: change, OffsetNew: 8, Confirm: 3}, by)
			}},
		} {
			done := make(chan error)
			go func() {
				rx, err := x.do()
				if err == nil && (len(rx) != 2 || rx[0] != 0x90) {
					err = errors.New("the card refuses")
				}
				done <- err
			}()
			synctest.Wait()
			if got := b.Info().More["display"]; got != "PIN:" {
				t.Errorf("%s: display %q", x.name, got)
			}
			ctl(t, m, "sim 0 keys 12-")
			synctest.Wait()
			if got := b.Info().More["display"]; got != "PIN:" {
				t.Errorf("%s, two keys pressed: display %q", x.name, got)
			}
			ctl(t, m, "sim 0 keys clear "+x.keys)
			if err := <-done; err != nil {
				t.Errorf("%s: %v", x.name, err)
			}
			if got := b.Info().More["display"]; got != "" {
				t.Errorf("%s, done: display %q", x.name, got)
			}
		}
	})
}

// A reader that has left has no display.
func TestDisplayOfAReaderThatLeft(t *testing.T) {
	gone := make(chan struct{})
	s := &padSlot{gone: gone}
	if err := s.Show(t.Context(), "Welcome", 0); err != nil || s.Describe()["display"] != "Welcome" {
		t.Errorf("plugged in: %v, %v", err, s.Describe())
	}
	close(gone)
	if err := s.Show(t.Context(), "Bye", 0); !errors.Is(err, reader.ErrGone) || s.Describe()["display"] == "Bye" {
		t.Errorf("unplugged: %v, %v", err, s.Describe())
	}
}

// What the display shows of the pressed keys.
func TestKeysOnTheDisplay(t *testing.T) {
	for _, x := range []struct {
		how  reader.Echo
		keys string
		want string
	}{
		{reader.EchoNothing, "12", ""}, {reader.EchoDigits, "", ""}, {reader.EchoDigits, "1", " 1"}, {reader.EchoStars, "", ""}, {reader.EchoStars, "123", " ***"},
	} {
		if got := echoed(x.how, []byte(x.keys)); got != x.want {
			t.Errorf("%v, %q: %q", x.how, x.keys, got)
		}
	}
}

// "80E6xxyy answers SW1 SW2 = xxyy (61..6F, 90..9F)", and no others.
func TestStatusWordsToOrder(t *testing.T) {
	for sw1, known := range map[string]bool{"60": false, "61": true, "6F": true, "70": false, "8F": false, "90": true, "9F": true, "A0": false, "FF": false} {
		want := "6A 86"
		if known {
			want = sw1 + " 12"
		}
		play(t, newCard(atrToken, false, "SIM"), "> 80 E6 "+sw1+" 12\n< "+want)
	}
}
