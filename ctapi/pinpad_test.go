package ctapi

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cardfs/cardfs/drivers/sim"
	"github.com/cardfs/cardfs/reader"
	"github.com/cardfs/cardfs/reader/core"
)

// askedDriver is the sim driver with slots that record the requests for the keypad and answer
// as the test says.
type askedDriver struct {
	*sim.Driver
	slot *askedSlot
}

type askedSlot struct {
	reader.Slot
	verify *reader.PINVerify
	modify *reader.PINModify
	given  []byte // the command itself
	input  *reader.KeyInput
	answer []byte
	err    error
}

func (d askedDriver) Open(ctx context.Context, dev reader.Device) (reader.Reader, error) {
	r, err := d.Driver.Open(ctx, dev)
	if err != nil {
		return nil, err
	}
	d.slot.Slot = r.Slots()[0]
	return actingReader{Reader: r, slots: []reader.Slot{d.slot}}, nil
}

func (s *askedSlot) Unwrap() reader.Slot { return s.Slot }

func (s *askedSlot) PINSupport() reader.PINSupport {
	return reader.FeaturesOf(s.Slot).PINPad.PINSupport()
}

func (s *askedSlot) VerifyPIN(ctx context.Context, v *reader.PINVerify, dst []byte) ([]byte, error) {
	with := *v
	with.APDU = slices.Clone(v.APDU) // it is wiped
	s.verify, s.given = &with, v.APDU
	return append(dst, s.answer...), s.err
}

func (s *askedSlot) ModifyPIN(ctx context.Context, m *reader.PINModify, dst []byte) ([]byte, error) {
	with := *m
	with.APDU = slices.Clone(m.APDU) // it is wiped
	s.modify, s.given = &with, m.APDU
	return append(dst, s.answer...), s.err
}

func (s *askedSlot) Input(ctx context.Context, in reader.KeyInput) ([]byte, error) {
	s.input = &in
	return s.answer, s.err
}

// ask runs one command with a slot whose card has power.
func (s *askedSlot) ask(t *testing.T, command string) (answer string, err error) {
	t.Helper()
	s.verify, s.modify, s.input = nil, nil, nil
	synctest.Test(t, func(t *testing.T) {
		m := core.NewManager(core.Options{Drivers: []reader.Driver{askedDriver{sim.New(), s}}})
		defer m.Close(context.Background())
		if err := ctl(m, "attach sim pinpad"); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		terminal := New(m.Slot(0), core.Caller{Owner: t, Wait: true})
		defer terminal.Close()
		if _, err := terminal.Exchange(context.Background(), unhex("20 12 01 00"), nil); err != nil {
			t.Fatal(err)
		}
		var got []byte
		got, err = terminal.Exchange(context.Background(), unhex(command), nil)
		answer = fmt.Sprintf("% X", got)
	})
	return answer, err
}

// threeDriver is the sim driver with readers of three slots.
type threeDriver struct{ *sim.Driver }

func (d threeDriver) Open(ctx context.Context, dev reader.Device) (reader.Reader, error) {
	r, err := d.Driver.Open(ctx, dev)
	if err != nil {
		return nil, err
	}
	a := actingReader{Reader: r}
	for range 3 {
		a.slots = append(a.slots, actingPlain{r.Slots()[0], func(string) {}})
	}
	return a, nil
}

// The slots are 0, 2, 3, …; if there are only two, 3 also means the second.
func TestUnitsOfThree(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := core.NewManager(core.Options{Drivers: []reader.Driver{threeDriver{sim.New()}}})
		defer m.Close(context.Background())
		ctl(m, "attach sim t1")
		synctest.Wait()
		terminal := New(m.Slot(0), core.Caller{Owner: t})
		for dad, want := range map[byte]int{0: 1, 2: 2, 3: 3, 4: 0, 14: 0, 255: 0} {
			if got := terminal.slotOf(dad); got != want {
				t.Errorf("unit %d is slot %d, want %d", dad, got, want)
			}
		}
		for slot, want := range map[int]byte{1: 0, 2: 2, 3: 3} {
			if got := unitOf(slot); got != want {
				t.Errorf("slot %d is unit %d, want %d", slot, got, want)
			}
		}
	})
}

// The results of a reader's PIN pad as status words.
func TestPINErrors(t *testing.T) {
	for _, tt := range []struct {
		answer string
		err    error
		want   string // empty: an error
	}{
		{"90 00", nil, "90 00"},
		{"01 02 63 C1", nil, "01 02 63 C1"},
		{"64 00", nil, "64 00"},
		{"", nil, "6F 00"}, // without a status word
		{"90", nil, "6F 00"},
		// the transmission failed: 6F00, and not 6400, which says that nobody typed
		{"", reader.ErrTimeout, "6F 00"},
		{"", reader.ErrProtocol, "6F 00"},
		{"", errors.New("something"), "6F 00"},
		// what the reader cannot do: 6985
		{"", fmt.Errorf("no: %w", reader.ErrInvalid), "69 85"},
		{"", fmt.Errorf("no: %w", reader.ErrUnsupported), "69 85"},
		{"", reader.ErrNoCard, "64 A1"},
		{"", reader.ErrLocked, "69 85"},
		{"", reader.ErrGone, ""},
	} {
		for _, command := range []string{"20 18 01 00 08 52 06 01 06 00 20 00 01", "20 19 01 00 09 52 07 01 06 0E 00 24 00 01"} {
			s := &askedSlot{answer: unhex(tt.answer), err: tt.err}
			got, err := s.ask(t, command)
			if (err != nil) != (tt.want == "") || got != tt.want {
				t.Errorf("%s, %v: %s, %v, want %s", tt.answer, tt.err, got, err, tt.want)
			}
		}
	}
	for _, tt := range []struct {
		err  error
		want string
	}{
		{reader.ErrTimeout, "64 00"}, {reader.ErrCancelled, "64 01"}, {reader.ErrLocked, "69 85"},
		{reader.ErrProtocol, "6F 00"}, {reader.ErrGone, ""},
	} {
		s := &askedSlot{err: tt.err}
		if got, err := s.ask(t, "20 16 50 00 08"); (err != nil) != (tt.want == "") || got != tt.want {
			t.Errorf("INPUT, %v: %s, %v, want %s", tt.err, got, err, tt.want)
		}
	}
}

// The request to the reader's PIN pad, in the terms of PC/SC part 10 §2.5.2.
func TestPINFormat(t *testing.T) {
	for _, tt := range []struct{ command, want string }{
		// time, format string, block, length, digits, condition, messages, indexes, language
		{"20 18 01 00 08 52 06 01 06 00 20 00 01", "15 82 00 00 4-16 2 255 [0 0 0] 407"},
		{"20 18 01 00 0B 80 01 1E 52 06 01 06 00 20 00 01", "30 82 00 00 4-16 2 255 [0 0 0] 407"},
		{"20 18 01 00 08 52 06 00 06 00 20 00 01", "15 81 08 00 4-16 2 255 [0 0 0] 407"},
		{"20 18 01 00 08 52 06 02 06 00 20 00 01", "15 89 47 04 4-12 2 255 [0 0 0] 407"},
		{"20 18 01 00 08 52 06 61 06 00 20 00 01", "15 82 06 00 6-6 3 255 [0 0 0] 407"},
		{"20 18 01 00 08 52 06 50 06 00 20 00 01", "15 81 03 00 5-5 3 255 [0 0 0] 407"},
		{"20 18 01 00 08 52 06 01 08 00 20 00 01", "15 92 08 00 4-8 2 255 [0 0 0] 407"},
		// object 51: fewest and most; more than there is room for is cut to it
		{"20 18 01 00 0C 51 02 05 07 52 06 01 06 00 20 00 01", "15 82 00 00 5-7 2 255 [0 0 0] 407"},
		{"20 18 01 00 0C 51 02 05 FF 52 06 01 06 00 20 00 01", "15 82 00 00 5-16 2 255 [0 0 0] 407"},
		{"20 18 01 00 0C 51 02 09 05 52 06 01 06 00 20 00 01", "15 82 00 00 5-5 2 255 [0 0 0] 407"},
		{"20 18 01 00 0F 52 0D 01 06 00 20 00 01 06 FF FF FF FF FF FF", "15 82 06 00 4-6 2 255 [0 0 0] 407"},
		// three bytes hold no four digits of ASCII
		{"20 18 01 00 0C 52 0A 01 06 00 20 00 01 03 FF FF FF", "15 82 03 00 3-3 2 255 [0 0 0] 407"},
		// a fixed length makes object 51 void
		{"20 18 01 00 0C 51 02 05 07 52 06 41 06 00 20 00 01", "15 82 04 00 4-4 3 255 [0 0 0] 407"},
		// objects 53 and 54, messages by number
		{"20 18 01 00 10 53 03 01 02 03 54 01 02 52 06 01 06 00 20 00 01", "15 82 00 00 4-16 2 2 [1 2 3] 407"},
		{"20 18 01 00 0B 53 01 05 52 06 01 06 00 20 00 01", "15 82 00 00 4-16 2 255 [5 0 0] 407"},
		// object 50, the program's own text in place of the reader's
		{"20 18 01 00 0C 50 02 'Hi' 52 06 01 06 00 20 00 01", "15 82 00 00 4-16 2 0 [0 0 0] 407"},
		{"20 18 01 00 0F 50 02 'Hi' 54 01 01 52 06 01 06 00 20 00 01", "15 82 00 00 4-16 2 1 [0 0 0] 407"},
	} {
		s := &askedSlot{answer: []byte{0x90, 0x00}}
		if got, err := s.ask(t, tt.command); got != "90 00" || err != nil || s.verify == nil {
			t.Errorf("%s: %s, %v", tt.command, got, err)
			continue
		}
		f := s.verify.PINFormat
		got := fmt.Sprintf("%d %02X %02X %02X %d-%d %d %d %v %X", f.Timeout, f.Format, f.Block, f.Length,
			f.MinDigits, f.MaxDigits, f.Condition, f.Messages, f.MessageIndexes, f.Language)
		if got != tt.want {
			t.Errorf("%s:\n%s, want\n%s", tt.command, got, tt.want)
		}
		if !bytes.Equal(s.given, make([]byte, len(s.given))) {
			t.Errorf("%s: the template is left: % X", tt.command, s.given)
		}
	}
	for _, tt := range []struct{ command, want string }{
		// positions of the old and the new PIN, bConfirmPIN: 1 twice, 2 the old one, too;
		// bmFormatString and bmPINLengthFormat count from these positions
		{"20 19 01 00 09 52 07 01 06 0E 00 24 00 01", "0 8 3 82 00"},
		{"20 19 01 00 09 52 07 41 0A 06 00 24 00 01", "4 0 3 82 00"},
		{"20 19 01 00 09 52 07 02 06 06 00 24 01 01", "0 0 1 89 04"},
		{"20 19 01 00 09 52 07 01 06 FD 00 24 00 01", "0 247 3 82 00"}, // 255 bytes of data
	} {
		s := &askedSlot{answer: []byte{0x90, 0x00}}
		got, err := s.ask(t, tt.command)
		if got != "90 00" || err != nil || s.modify == nil {
			t.Errorf("%s: %s, %v", tt.command, got, err)
			continue
		}
		if got := fmt.Sprintf("%d %d %d %02X %02X", s.modify.OffsetOld, s.modify.OffsetNew, s.modify.Confirm, s.modify.Format, s.modify.Length); got != tt.want {
			t.Errorf("%s: %s, want %s", tt.command, got, tt.want)
		}
		if !bytes.Equal(s.given, make([]byte, len(s.given))) {
			t.Errorf("%s: the template is left: % X", tt.command, s.given)
		}
		if n := len(s.modify.APDU); int(s.modify.APDU[4]) != n-5 {
			t.Errorf("%s: Lc %d of %d bytes", tt.command, s.modify.APDU[4], n)
		}
	}
	s := &askedSlot{}
	if got, err := s.ask(t, "20 19 01 00 09 52 07 01 06 FE 00 24 00 01"); got != "67 00" || err != nil || s.modify != nil {
		t.Errorf("256 bytes of data: %s, %v", got, err)
	}
}

// Le: none, or 00; the data: one object at least.
func TestPINLengths(t *testing.T) {
	for command, want := range map[string]string{
		"20 18 01 00 08 52 06 01 06 00 20 00 01 00": "90 00",
		"20 18 01 00 08 52 06 01 06 00 20 00 01 01": "67 00",
		"20 18 01 00 02 81 00":                      "6A 85",
		"20 18 01 00 01 81":                         "67 00",
		"20 18 01 00 0C 52 0A 02 06 00 20 00 01 03": "67 00",
	} {
		s := &askedSlot{answer: []byte{0x90, 0x00}}
		if got, err := s.ask(t, command); got != want || err != nil || (s.verify != nil) != (want == "90 00") {
			t.Errorf("%s: %s, %v, want %s", command, got, err, want)
		}
	}
}

// Each PIN block of format 2 begins with a 2 and room for the length.
func TestFormat2Blocks(t *testing.T) {
	for _, v := range []string{"02 06 0E 00 24 00 01", "02 06 00 00 24 00 01", "02 0E 06 00 24 00 01"} {
		p, code := parsePINCommand(unhex(v), true)
		if want := unhex("00 24 00 01 10 20 FF FF FF FF FF FF FF 20 FF FF FF FF FF FF FF"); code != swOK || !bytes.Equal(p.apdu, want) {
			t.Errorf("%s: % X, %04X, want % X", v, p.apdu, uint16(code), want)
		}
	}
}

// A PIN goes only to the card that was there when the command was handed over, even if the
// program has no session with it.
func TestPINForThatCard(t *testing.T) {
	for _, exchanged := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			s := &askedSlot{answer: []byte{0x90, 0x00}}
			m := core.NewManager(core.Options{Drivers: []reader.Driver{askedDriver{sim.New(), s}}})
			defer m.Close(context.Background())
			do := func(line string) {
				t.Helper()
				if err := ctl(m, line); err != nil {
					t.Fatal(err)
				}
				synctest.Wait()
				time.Sleep(time.Second)
			}
			power := func() {
				t.Helper()
				other, err := m.Slot(0).Open(context.Background(), core.Caller{Owner: m, Wait: true})
				if err != nil {
					t.Fatal(err)
				}
				other.Close()
			}
			do("attach sim pinpad")
			power()
			terminal := New(m.Slot(0), core.Caller{Owner: t, Wait: true})
			defer terminal.Close()
			terminal.WrittenAt(m.Slot(0).Now())
			if exchanged {
				do("sim 0 remove")
				do("sim 0 insert")
				power()
			}
			got, err := terminal.Exchange(context.Background(), unhex("20 18 01 00 08 52 06 01 06 00 20 00 01"), nil)
			want := "90 00"
			if exchanged {
				want = "64 A2"
			}
			if fmt.Sprintf("% X", got) != want || err != nil || (s.verify == nil) != exchanged {
				t.Errorf("exchanged %v: % X, %v, asked %v; want %s", exchanged, got, err, s.verify != nil, want)
			}
		})
	}
}

// The request that INPUT makes.
func TestInputAsked(t *testing.T) {
	for _, tt := range []struct {
		command string
		want    reader.KeyInput
	}{
		{"20 16 50 00 08", reader.KeyInput{Max: 8, First: 15 * time.Second}},
		{"20 16 50 02 00", reader.KeyInput{Max: 256, First: 15 * time.Second, Echo: reader.EchoStars}},
		{"20 16 50 01 01 1E 04", reader.KeyInput{Max: 4, First: 30 * time.Second, Echo: reader.EchoDigits}},
		{"20 16 50 01 01 00 04", reader.KeyInput{Max: 4, First: 15 * time.Second, Echo: reader.EchoDigits}},
		{"20 16 50 10 01", reader.KeyInput{Max: 1, First: 15 * time.Second, Raw: true}},
		{"20 16 50 12 01", reader.KeyInput{Max: 1, First: 15 * time.Second, Raw: true, Echo: reader.EchoStars}},
		{"20 16 50 00 0A 50 05 'Hello' 80 01 05 04", reader.KeyInput{Max: 4, First: 5 * time.Second, Prompt: "Hello"}},
	} {
		s := &askedSlot{answer: []byte("12")}
		if got, err := s.ask(t, tt.command); got != "31 32 90 00" || err != nil || s.input == nil || *s.input != tt.want {
			t.Errorf("%s: %s, %v, asked for %+v", tt.command, got, err, s.input)
		}
		if string(s.answer) != "\x00\x00" { // it may be a PIN
			t.Errorf("%s: %q is left", tt.command, s.answer)
		}
	}
}

// Lengths of data objects have one byte, below 80.
func TestObjectLengths(t *testing.T) {
	text := strings.Repeat("41", 127)
	for _, tt := range []struct {
		data string
		want sw
	}{
		{"50 7F " + text, swOK},
		{"50 80 41" + text, swLength},
		{"50 81 80 41" + text, swLength},
		{"50 00", swOK},
		{"50 00 50", swLength},
		{"50 01", swLength},
		{"53 03 01 02 03", swOK},
		{"53 04 01 02 03 04", swLength},
		{"53 00", swLength},
		{"51 02 04 08", swOK},
		{"51 03 04 08 08", swLength},
		{"54 01 01", swOK},
		{"54 00", swLength},
		{"80 01 05", swOK},
		{"80 00", swLength},
		{"81 00", swTLV},
	} {
		if _, code := parseObjects(unhex(tt.data), tagTimeout, tagText, tagLengths, tagIndexes, tagMessages); code != tt.want {
			t.Errorf("%.20s: %04X, want %04X", tt.data, code, tt.want)
		}
	}
}

// After the time-out the slot is checked once more: an event may still be on its way.
func TestLastLook(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := core.NewManager(core.Options{Drivers: []reader.Driver{sim.New()}})
		defer m.Close(context.Background())
		ctl(m, "attach sim t1")
		synctest.Wait()
		for _, want := range []bool{true, false} {
			looks := 0
			start := time.Now()
			got, err := waitFor(context.Background(), m.Slot(0), time.Second, func(core.State) bool {
				looks++
				return want && !time.Now().Before(start.Add(time.Second))
			})
			if got != want || err != nil || looks < 2 || time.Since(start) != time.Second {
				t.Errorf("%v, %v after %d looks and %v", got, err, looks, time.Since(start))
			}
		}
	})
}
