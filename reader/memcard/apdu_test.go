package memcard

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/cardfs/cardfs/reader"
	"github.com/cardfs/cardfs/reader/icc"
)

// kvk is the beginning of a German health-insurance card: H1 to H4 with the DIR reference 11,
// ATR data, the DIR data with its AID, and behind them the application's object.
var kvk = unhex("A2 13 10 91 46 0B 81 15 45 46 4B 56 4B 01 02 03 04" +
	"61 0B 4F 06 D2 80 00 00 01 01 53 01 05" +
	"60 07 80 05 4F 54 54 4F 20")

// Everything that C-APDUs do, on one card after the other: answers in hex, in order.
func TestTransmit(t *testing.T) {
	type exchange struct{ command, answer string }
	for _, tt := range []struct {
		name, chip string
		fill       []byte
		exchanges  []exchange
	}{
		{"reading", "sle4442", kvk, []exchange{
			{"00 B0 00 00 04", "A2 13 10 91 90 00"},
			{"FF B0 00 11 02", "61 0B 90 00"},
			{"00 B0 00 FE 02", "FF FF 90 00"},
			{"00 B0 00 FE 03", "FF FF 62 82"},
			{"00 B0 00 FE 00", "FF FF 90 00"},
			{"00 B0 00 FE", "FF FF 90 00"},
			{"00 B0 00 FE 00 00 03", "FF FF 62 82"},
			{"00 B0 00 FE 00 00 00", "FF FF 90 00"},
			{"00 B0 01 00 01", "6B 00"},
			{"00 B0 7F FF 00", "6B 00"},
			{"00 B0 80 00 01", "6B 00"}, // no short identifier: the offset has 16 bits
			{"00 B0 00 00 01 AA", "67 00"},
			{"00 B0 00 00 02 01", "67 00"},
			{"80 B0 00 00 01", "6E 00"},
			{"01 B0 00 00 01", "6E 00"},
			{"00 CA 00 00 00", "6D 00"},
			{"FF CA 00 00 00", "6D 00"},
			{"FF 82 20 00 06 FF FF FF FF FF FF", "6D 00"},
		}},
		{"PSC of an SLE 4442", "sle4442", nil, []exchange{
			{"FF D6 00 40 01 5A", "69 82"},
			{"00 20 00 00", "63 C3"},
			{"00 20 00 00 03 01 02 03", "63 C2"},
			{"00 20 00 00 02 01 02", "67 00"},
			{"00 20 00 00 04 FF FF FF FF", "67 00"},
			{"00 20 01 00 03 FF FF FF", "6A 86"},
			{"00 20 00 00", "63 C2"},
			{"FF 20 00 00 03 FF FF FF", "90 00"},
			{"00 20 00 00", "90 00"},
			{"FF D6 00 40 01 5A", "90 00"},
			{"00 B0 00 40 01", "5A 90 00"},
			{"FF D6 00 00 01 5A", "69 86"}, // locked at the factory
			{"FF D6 00 FF 02 01 02", "6A 84"},
			{"00 B0 00 FF 01", "FF 90 00"},
			{"FF D6 01 00 01 01", "6B 00"},
			{"00 D6 00 40", "67 00"},
			{"00 D6 00 40 00", "67 00"},
			{"00 24 00 00 06 FF FF FF 0A 0B 0C", "90 00"},
			{"00 20 00 00 03 FF FF FF", "63 C2"},
			{"00 D6 00 40 01 00", "69 82"}, // a wrong PSC ends what the right one gave
			{"00 24 01 00 03 01 02 03", "69 82"},
			{"00 24 02 00 03 01 02 03", "6A 86"},
			{"00 24 00 00 05 01 02 03 04 05", "67 00"},
			{"00 24 00 00 06 01 02 03 04 05 06", "63 C1"},
			{"00 20 00 00 03 0A 0B 0C", "90 00"},
			{"00 24 01 00 03 FF FF FF", "90 00"},
			{"00 20 00 00 03 00 00 00", "63 C2"},
			{"00 20 00 00 03 00 00 00", "63 C1"},
			{"00 20 00 00 03 00 00 00", "69 83"},
			{"00 20 00 00 03 FF FF FF", "69 83"},
			{"00 20 00 00", "69 83"},
			{"00 24 00 00 06 FF FF FF 01 02 03", "69 83"},
			{"00 B0 00 40 01", "5A 90 00"},
		}},
		{"PSC of an SLE 4428", "sle4428", nil, []exchange{
			{"00 20 00 00", "63 C8"},
			{"00 20 00 00 03 FF FF FF", "67 00"},
			{"00 20 00 00 02 00 00", "63 C7"},
			{"00 B0 03 FC 00", "FF FE 00 00 90 00"},
			{"00 20 00 00 02 FF FF", "90 00"},
			{"00 D6 03 00 04 01 02 03 04", "90 00"},
			{"00 B0 02 FF 06", "FF 01 02 03 04 FF 90 00"},
			{"00 D6 03 FD 01 00", "69 86"},
			{"00 D6 03 FF 01 00", "69 86"},
			{"00 24 01 00 02 12 34", "90 00"},
			{"00 B0 03 FD 00", "FF 12 34 90 00"},
		}},
		{"no PSC", "sle4432", nil, []exchange{
			{"00 20 00 00 03 FF FF FF", "6D 00"},
			{"00 24 00 00 06 FF FF FF FF FF FF", "6D 00"},
			{"00 D6 00 40 01 5A", "90 00"},
		}},
		{"I2C", "at24c64", nil, []exchange{
			{"00 20 00 00", "6D 00"},
			{"00 D6 1F FE 02 01 02", "90 00"},
			{"00 B0 1F FE 00", "01 02 90 00"},
			{"00 B0 20 00 00", "6B 00"},
			{"00 A4 00 00 02 2F 00", "6A 82"},
		}},
		{"counter card", "sle4406", nil, []exchange{
			{"00 B0 00 00 00", "11 22 33 44 15 26 37 48 00 01 03 07 0F 90 00"},
			{"00 B0 00 0B 01", "07 90 00"},
			{"00 D6 00 00 01 00", "69 86"},
			{"00 20 00 00", "6D 00"},
		}},
		{"files", "sle4442", kvk, []exchange{
			{"00 A4 00 00 02 2F 01", "90 00"},
			{"00 B0 00 00 00", "46 0B 81 15 45 46 4B 56 4B 01 02 03 04 90 00"},
			{"00 B0 00 0C 02", "04 62 82"},
			{"00 B0 00 0D 02", "6B 00"},
			{"FF B0 00 00 02", "A2 13 90 00"}, // nothing is selected for class FF
			{"00 A4 00 00 02 2F 00", "90 00"},
			{"00 B0 00 00 00", "61 0B 4F 06 D2 80 00 00 01 01 53 01 05 90 00"},
			{"00 A4 04 00 06 D2 80 00 00 01 01 00", "90 00"},
			{"00 B0 00 00 00", "60 07 80 05 4F 54 54 4F 20 90 00"},
			{"00 A4 04 00 06 D2 80 00 00 01 02", "6A 82"},
			{"00 A4 00 00 02 50 00", "6A 82"},
			{"00 A4 08 00 02 2F 00", "6A 86"},
			{"00 A4 00 00 01 2F", "67 00"},
			{"00 A4 04 00", "67 00"},
			{"00 B0 00 00 02", "60 07 90 00"}, // what was selected stays
			{"00 A4 04 00 02 D2 80", "90 00"},
			{"00 20 00 00 03 FF FF FF", "90 00"},
			{"00 D6 00 04 05 4C 49 45 53 45", "90 00"},
			{"00 D6 00 08 02 20 20", "6A 84"},
			{"00 A4 00 00 02 3F 00", "90 00"},
			{"00 B0 00 22 05", "4C 49 45 53 45 90 00"},
			{"00 A4 00 00", "90 00"},
		}},
	} {
		synctest.Test(t, func(t *testing.T) {
			r := newRig(t, tt.chip, func(m *icc.Memory) { m.Fill(0, tt.fill) })
			for i, x := range tt.exchanges {
				if got := r.apdu(x.command); got != x.answer {
					t.Errorf("%s %d: %s: %s, want %s", tt.name, i, x.command, got, x.answer)
				}
			}
		})
	}
}

// The DIR data in each of their forms, and what is none.
func TestApplication(t *testing.T) {
	const head = "A2 13 10 91 FF FF FF FF FF FF FF FF FF FF FF FF FF"
	for _, tt := range []struct{ name, dir, answer string }{
		{"AID alone", "4F 03 A0 00 01 04 02 AB CD", "04 02 AB CD"},
		{"template", "61 05 4F 03 A0 00 01 04 02 AB CD", "04 02 AB CD"},
		{"template, AID second", "61 08 50 01 41 4F 03 A0 00 01 04 02 AB CD", "04 02 AB CD"},
		{"sequence", "30 16 61 09 4F 03 A0 00 02 51 02 00 05 61 09 4F 03 A0 00 01 51 02 00 80 04 01 11", "05 01 77"},
		{"long length", "61 05 4F 03 A0 00 01 04 81 02 AB CD", "04 81 02 AB CD"},
		{"longer length", "61 05 4F 03 A0 00 01 04 82 00 02 AB CD", "04 82 00 02 AB CD"},
		{"another AID", "61 05 4F 03 A0 00 02 04 02 AB CD", ""},
		{"no object behind", "61 05 4F 03 A0 00 01", ""},
		{"no AID", "61 05 50 03 A0 00 01 04 02 AB CD", ""},
		{"AID too long for its template", "61 03 4F 03 A0 00 01 04 02 AB CD", ""},
		{"object that does not fit", "61 05 4F 03 A0 00 01 04 82 01 00", ""},
		{"path too short", "30 0A 61 08 4F 03 A0 00 01 51 01 80", ""},
		{"path behind the end", "30 0B 61 09 4F 03 A0 00 01 51 02 02 80", ""},
		{"nothing in the sequence", "30 02 61 7F", ""},
		{"no DIR data", "FF FF", ""},
		{"a tag of two bytes", "7F 05 4F 03 A0 00 01 04 02 AB CD", ""},
		{"indefinite length", "61 80 4F 03 A0 00 01 04 02 AB CD", ""},
		{"length of three bytes", "61 83 00 00 05 4F 03 A0 00 01", ""},
		{"empty AID", "61 02 4F 00 04 02 AB CD", ""},
	} {
		r := newRig(t, "sle4432", func(m *icc.Memory) {
			m.Fill(0, unhex(head+tt.dir))
			m.Fill(0x80, unhex("05 01 77"))
		})
		sw := r.apdu("00 A4 04 00 03 A0 00 01")
		if tt.answer == "" {
			if sw != "6A 82" {
				t.Errorf("%s: %s", tt.name, sw)
			}
			continue
		}
		if got := r.apdu("00 B0 00 00 00"); sw != "90 00" || got != tt.answer+" 90 00" {
			t.Errorf("%s: %s, %s", tt.name, sw, got)
		}
	}
	for _, h := range []string{"A2 13 10 11", "A2 13 11 91", "A2 13 10 83", "A2 13 10 80"} { // no category indicator, no reference, or one into H1 to H4
		r := newRig(t, "sle4432", func(m *icc.Memory) { m.Fill(0, kvk); m.Fill(0, unhex(h)) })
		for _, c := range []string{"00 A4 00 00 02 2F 00", "00 A4 00 00 02 2F 01", "00 A4 04 00 06 D2 80 00 00 01 01"} {
			if got := r.apdu(c); got != "6A 82" {
				t.Errorf("%s: %s: %s", h, c, got)
			}
		}
	}
}

// An error of the reader is an error, and no status word: whoever asked must not take it for the card's.
func TestTransmitFails(t *testing.T) {
	for _, c := range []string{"00 B0 00 00 04", "00 A4 04 00 06 D2 80 00 00 01 01", "00 20 00 00 03 FF FF FF", "00 24 00 00 06 FF FF FF 01 02 03"} {
		r := newRig(t, "sle4442", func(m *icc.Memory) { m.Fill(0, kvk) })
		r.wires.contact.Remove()
		got, err := r.Transmit(bg, unhex(c), []byte{7})
		if !errors.Is(err, reader.ErrNoCard) || !bytes.Equal(got, []byte{7}) {
			t.Errorf("%s: % X, %v", c, got, err)
		}
	}
	r := newRig(t, "sle4442", nil)
	if _, err := r.Transmit(bg, []byte{0, 0xB0, 0}, nil); !errors.Is(err, reader.ErrInvalid) {
		t.Errorf("three bytes: %v", err)
	}
}

// talker is a reader with commands of its own: what it was sent, and what it answers.
type talker struct {
	t      *testing.T
	script []string // command, answer, command, answer …
}

func (k *talker) exchange(_ context.Context, command, dst []byte) ([]byte, error) {
	if len(k.script) == 0 || k.script[0] != fmt.Sprintf("% X", command) {
		k.t.Errorf("% X was sent, the script says %q", command, k.script)
		return dst, reader.ErrProtocol
	}
	answer := unhex(k.script[1])
	k.script = k.script[2:]
	return append(dst, answer...), nil
}

// The commands of each dialect, byte for byte.
func TestDialects(t *testing.T) {
	k := &talker{t: t}
	m := &Commands{Send: k.exchange, Dialect: ACS}
	is := func(what string, err, want error) {
		t.Helper()
		if !errors.Is(err, want) || len(k.script) != 0 {
			t.Errorf("%s: %v, left %q", what, err, k.script)
		}
	}
	for _, tt := range []struct {
		chip reader.Chip
		want string
	}{{I2C(2048), "FF A4 00 00 01 01"}, {I2C(4096), "FF A4 00 00 01 02"}, {threeWire, "FF A4 00 00 01 05"}, {twoWire, "FF A4 00 00 01 06"}, {Counter(13), "FF A4 00 00 01 07"}} {
		if got := fmt.Sprintf("% X", SelectACS(tt.chip)); got != tt.want {
			t.Errorf("%v: %s", tt.chip, got)
		}
	}
	k.script = []string{"FF B0 00 00 04", "A2 13 10 91 90 00", "FF B1 00 00 04", "07 00 00 00 90 00"}
	atr, err := m.Activate(bg, twoWire, reader.Chip{})
	if is("SLE 4442", err, nil); fmt.Sprintf("% X", atr) != "A2 13 10 91" || m.Chip().PSC != 3 {
		t.Errorf("% X %+v", atr, m.Chip())
	}
	k.script = []string{"FF B1 00 00 04", "03 00 00 00 90 00"}
	n, err := m.PSCTries(bg)
	if is("tries", err, nil); n != 2 {
		t.Errorf("%d tries", n)
	}
	k.script = []string{"FF B1 00 00 04", "07 00 00 00 90 00", "FF 20 00 00 03 01 02 03", "90 07", "FF B1 00 00 04", "07 01 02 03 90 00"}
	ok, n, err := m.VerifyPSC(bg, []byte{1, 2, 3})
	if is("right", err, nil); !ok || n != 3 {
		t.Errorf("%v %d", ok, n)
	}
	k.script = []string{"FF B1 00 00 04", "07 00 00 00 90 00", "FF 20 00 00 03 01 02 03", "90 06", "FF B1 00 00 04", "06 00 00 00 90 00"}
	ok, n, err = m.VerifyPSC(bg, []byte{1, 2, 3})
	if is("wrong", err, nil); ok || n != 2 {
		t.Errorf("%v %d", ok, n)
	}
	k.script = []string{"FF B1 00 00 04", "00 00 00 00 90 00"}
	ok, n, err = m.VerifyPSC(bg, []byte{1, 2, 3})
	if is("blocked", err, nil); ok || n != 0 {
		t.Errorf("%v %d", ok, n)
	}
	_, _, err = m.VerifyPSC(bg, []byte{1, 2})
	is("another length", err, reader.ErrInvalid)
	k.script = []string{"FF D2 00 01 03 04 05 06", "90 00"}
	is("change", m.ChangePSC(bg, []byte{4, 5, 6}), nil)
	k.script = []string{"FF D0 00 20 02 AA BB", "90 00"}
	is("write", m.WriteMemory(bg, 0x20, []byte{0xAA, 0xBB}), nil)
	k.script = []string{"FF D0 00 20 01 AA", "63 00"}
	is("refused", m.WriteMemory(bg, 0x20, []byte{0xAA}), reader.ErrProtocol)
	k.script = []string{"FF B2 00 00 04", "F0 FD FF FF 90 00"}
	locked, err := m.ReadProtection(bg, 3, 7, nil)
	if is("protection", err, nil); fmt.Sprint(locked) != "[true false false false false false true]" {
		t.Errorf("%v", locked)
	}

	k.script = []string{"FF B0 00 00 04", "92 23 10 91 90 00", "FF B0 03 FE 02", "00 00 90 00"}
	_, err = m.Activate(bg, threeWire, reader.Chip{})
	if is("SLE 4428", err, nil); m.Chip().PSC != 2 || m.Chip().Reserved != 3 {
		t.Errorf("%+v", m.Chip())
	}
	k.script = []string{"FF B1 00 00 03", "FF 00 00 90 00", "FF 20 00 00 02 01 02", "90 FF", "FF B1 00 00 03", "FF 01 02 90 00"}
	ok, n, err = m.VerifyPSC(bg, []byte{1, 2})
	if is("right", err, nil); !ok || n != 8 {
		t.Errorf("%v %d", ok, n)
	}
	k.script = []string{"FF D0 03 FE 02 03 04", "90 00"}
	is("change", m.ChangePSC(bg, []byte{3, 4}), nil)
	k.script = []string{"FF B2 01 00 02", "FE 7F 90 00"}
	locked, err = m.ReadProtection(bg, 0x107, 9, nil)
	if is("protection", err, nil); fmt.Sprint(locked) != "[false false false false false false false false true]" {
		t.Errorf("%v", locked)
	}

	for chip, script := range map[reader.Chip][]string{
		twoWire:   {"FF B0 00 00 04", "A2 13 10 91 90 00", "FF B1 00 00 04", "FF FF FF FF 90 00"},
		threeWire: {"FF B0 00 00 04", "92 23 10 91 90 00", "FF B0 03 FE 02", "FF FF 90 00"},
	} {
		k.script = script
		_, err = m.Activate(bg, chip, reader.Chip{})
		if is("without PSC", err, nil); m.Chip() != chip {
			t.Errorf("%+v", m.Chip())
		}
		_, err = m.PSCTries(bg)
		is("tries", err, reader.ErrUnsupported)
	}
	k.script = []string{"FF B0 00 00 04", "92 23 10 91 90 00"}
	_, err = m.Activate(bg, twoWire, reader.Chip{})
	if is("another card", err, reader.ErrMute); m.Chip().Size != 0 {
		t.Error(m.Chip())
	}
	k.script = []string{"FF B0 00 00 04", "FF FF FF FF 90 00"}
	_, err = m.Activate(bg, twoWire, reader.Chip{})
	is("no card at all", err, reader.ErrMute)
	k.script = []string{"FF B0 00 00 04", "FF FF FF FF 90 00", "FF B1 00 00 04", "69 81"}
	_, err = m.Activate(bg, twoWire, twoWire)
	if is("a new card, told", err, nil); m.Chip() != twoWire {
		t.Errorf("%+v", m.Chip())
	}
	k.script = []string{"FF B0 00 00 04", "69 81"}
	_, err = m.Activate(bg, twoWire, reader.Chip{})
	is("no card of that kind", err, reader.ErrProtocol)

	// A terminal gives what there is; 256 bytes at a time.
	m.Dialect, m.chip = Terminal, I2C(4096)
	k.script = []string{"00 B0 00 FF 00", strings.Repeat("11 ", 200) + "62 82", "00 B0 01 C7 64", strings.Repeat("22 ", 100) + "90 00"}
	got, err := m.ReadMemory(bg, 0xFF, 300, []byte{9})
	if is("read", err, nil); len(got) != 301 || got[0] != 9 || got[200] != 0x11 || got[201] != 0x22 {
		t.Errorf("% X", got)
	}
	for _, answer := range []string{"90 00", "11 22 33 90 00", "6B 00", "90", ""} {
		k.script = []string{"00 B0 00 00 02", answer}
		got, err := m.ReadMemory(bg, 0, 2, []byte{9})
		if is(answer, err, reader.ErrProtocol); !bytes.Equal(got, []byte{9}) {
			t.Errorf("%s: % X", answer, got)
		}
	}
	k.script = []string{"00 D0 00 20 02 AA BB", "90 00"}
	is("write", m.WriteMemory(bg, 0x20, []byte{0xAA, 0xBB}), nil)
	_, err = m.ReadProtection(bg, 0, 1, nil)
	is("protection", err, reader.ErrUnsupported)
	for _, told := range []reader.Chip{{}, I2C(256)} {
		if c := Candidates(told); told.Size > 0 != (len(c) == 1) || c[0].Bus != told.Bus && told.Size > 0 {
			t.Errorf("%v: %v", told, c)
		}
	}
}

// Whatever a program sends to whatever card: an answer with SW1 SW2 or an error, and the counter is
// touched by VERIFY and CHANGE REFERENCE DATA of the right length alone.
func FuzzTransmit(f *testing.F) {
	for _, c := range []string{"00 B0 00 00 00", "FF D6 00 40 01 5A", "00 A4 04 00 06 D2 80 00 00 01 01", "00 20 00 00 03 FF FF FF", "00 24 00 00 06 FF FF FF 01 02 03", "00 B0 00 00 00 00 00"} {
		f.Add(byte(1), kvk, unhex(c))
	}
	f.Fuzz(func(t *testing.T, kind byte, fill, command []byte) {
		synctest.Test(t, func(t *testing.T) {
			name := icc.MemoryNames()[int(kind)%len(icc.MemoryNames())]
			chip := icc.NewMemory(name)
			chip.Fill(0, fill[:min(len(fill), len(chip.Contents()))])
			w := &wires{contact: new(icc.Contact)}
			w.contact.Insert(chip)
			h, _ := w.contact.ActivateMemory(bg)
			m := NewClocked(w)
			if _, err := m.Activate(bg, h, told(name)); err != nil {
				return
			}
			c, err := Open(bg, m)
			if err != nil {
				return
			}
			r := &rig{T: t, Card: c, chip: chip}
			chip.ClearLog()
			answer, err := c.Transmit(bg, command, nil)
			if err == nil && (len(answer) < 2 || answer[len(answer)-2]>>4 != 6 && answer[len(answer)-2]>>4 != 9) {
				t.Errorf("%s: % X: % X", name, command, answer)
			}
			if len(command) > 1 && command[1] != 0x20 && command[1] != 0x24 && len(r.guarded()) > 0 {
				t.Errorf("%s: % X: %q", name, command, r.guarded())
			}
		})
	})
}

func FuzzRecognise(f *testing.F) {
	f.Add(unhex("A2 13 10 91"), "i2c:256")
	f.Fuzz(func(t *testing.T, h []byte, say string) {
		told, err := Told(say)
		if err != nil {
			return
		}
		c, atr, err := Recognise(h, told)
		if err == nil && (len(atr) != 4 || c.Size == 0) {
			t.Errorf("% X, %s: %+v % X", h, say, c, atr)
		}
	})
}
