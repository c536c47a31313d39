package ctapi

import (
	"context"
	"testing"
	"testing/synctest"

	"github.com/cardfs/cardfs/drivers/sim"
	"github.com/cardfs/cardfs/reader"
	"github.com/cardfs/cardfs/reader/core"
)

// The terminal answers anything with a status word and goes on working. A message is several
// commands, each preceded by its length.
func FuzzExchange(f *testing.F) {
	for _, s := range []string{
		"04 20110000", "05 2011010100", "04 20120100", "06 201201010105", "05 2013004600", "05 2013008000", "05 2013008100",
		"04 20140100", "08 2015010003800105", "05 2016500004", "09 20174000045002'Hi'", "08 8060010003220101",
		"07 00A40000023F00 05 00B0000000 07 00A40000020020 05 00B0000400",
		"04 20120100 0D 201801000852060106002000 01",
		"04 20120100 0D 201801000852060206002000 01",
		"04 20120100 0E 20190100095207020600002400 01",
		"04 20120100 16 2018010011520F0206002000010828FFFFFFFFFFFFFF",
	} {
		f.Add("pinpad", unhex(s))
		f.Add("twoslot", unhex(s))
	}
	f.Fuzz(func(t *testing.T, device string, message []byte) {
		if device != "pinpad" && device != "twoslot" || len(message) > 1000 {
			return
		}
		synctest.Test(t, func(t *testing.T) {
			m := core.NewManager(core.Options{Drivers: []reader.Driver{sim.New()}})
			defer m.Close(context.Background())
			if err := ctl(m, "attach sim "+device); err != nil {
				t.Fatal(err)
			}
			by := core.Caller{Owner: t, Wait: true}
			terminal := New(m.Slot(0), by)
			for len(message) > 0 {
				n := min(int(message[0]), len(message)-1)
				command := message[1 : 1+n]
				message = message[1+n:]
				if Check(command) != nil {
					continue
				}
				if device == "pinpad" {
					ctl(m, "sim 0 keys 1234")
				}
				answer, err := terminal.Exchange(context.Background(), command, []byte{0xA5})
				if err != nil || len(answer) < 3 || answer[0] != 0xA5 || len(answer) > 1+258 {
					t.Errorf("% X: % X, %v", command, answer, err)
				}
			}
			// It still answers, and knows its slot.
			answer, err := terminal.Exchange(context.Background(), []byte{0x20, 0x13, 0x01, 0x80, 0x00}, nil)
			if err != nil || len(answer) != 5 {
				t.Errorf("GET STATUS after it: % X, %v", answer, err)
			}
		})
	})
}

// Object 52 becomes a command that the reader accepts, or a status word.
func FuzzPINCommand(f *testing.F) {
	f.Add(unhex("02 06 00 20 00 01"), false)
	f.Add(unhex("01 06 0E 00 24 00 01 10 20202020202020202020202020202020"), true)
	f.Add(unhex("41 0A 06 00 24 00 01"), true)
	f.Add(unhex("02 07 00 20 00 01 09 AA20FFFFFFFFFFFFFF"), false)
	f.Fuzz(func(t *testing.T, object []byte, modify bool) {
		if len(object) > 255 {
			return
		}
		p, code := parsePINCommand(object, modify)
		if code != swOK {
			return
		}
		v, code := p.format(objects{}, modify)
		if code != swOK {
			return
		}
		at := int(v.Format >> 3 & 15)
		end := at + int(v.Block&15)
		if modify {
			end += max(p.old, p.new)
		}
		switch {
		case v.Format&0x80 == 0 || v.MinDigits > v.MaxDigits || v.MaxDigits > 16:
			t.Errorf("%v", v)
		case len(v.APDU) == 4 && v.Block == 0:
		case int(v.APDU[4]) != len(v.APDU)-5, end > len(v.APDU)-5:
			t.Errorf("%v: position %d, % X", v, at, v.APDU)
		}
	})
}
