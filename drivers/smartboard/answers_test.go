package smartboard

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

	"github.com/cardfs/cardfs/drivers/bus/serial"
	"github.com/cardfs/cardfs/drivers/bus/serial/serialtest"
	"github.com/cardfs/cardfs/drivers/smartboard/emu"
	"github.com/cardfs/cardfs/reader"
	"github.com/cardfs/cardfs/reader/icc"
)

// "61: at least 4 data bytes and bit 08h of the first set = card in; 65 card in, 66 no card; other codes = failure."
func TestStatus(t *testing.T) {
	for _, x := range []struct {
		answers []string
		want    reader.Status
		is      error
		words   string
	}{
		{[]string{after}, reader.Powered, nil, ""},
		{[]string{waits}, reader.Present, nil, ""},
		{[]string{noCard}, reader.Absent, nil, ""},
		{[]string{"00 05 61 F7 FF FF FF"}, reader.Absent, nil, ""},
		{[]string{"00 05 61 08 FF FF 01"}, reader.Powered, nil, ""},
		{[]string{"00 07 61 08 00 00 04 00 00"}, reader.Powered, nil, ""},
		{[]string{"00 04 61 08 00 00"}, 0, reader.ErrProtocol, "a status of 3 bytes, 4 are the least"},
		{[]string{"00 01 65"}, reader.Present, nil, ""},
		{[]string{"00 01 66"}, reader.Absent, nil, ""},
		{[]string{"00 01 67", "00 01 67", "00 01 67", after}, reader.Powered, nil, ""},
		{[]string{"00 01 67", "00 01 67", "00 01 67", "00 01 67", after}, 0, reader.ErrProtocol, "again and again"},
		{[]string{"00 01 62"}, 0, reader.ErrProtocol, "answer: code 62"},
		{[]string{"00 01 63"}, 0, reader.ErrProtocol, "answer: code 63"},
		{[]string{"00 01 64"}, 0, reader.ErrProtocol, "answer: code 64"},
		{[]string{"01 05 61 08 00 00 02"}, 0, reader.ErrProtocol, "a frame begins with 01"},
		{[]string{"00 00 61 08 00 00 02"}, 0, reader.ErrProtocol, "a frame without a code"},
		{[]string{after + " 01"}, 0, reader.ErrProtocol, "characters behind a frame of 7 bytes"},
		{[]string{after + " 00 01 66"}, reader.Powered, nil, ""},
		{[]string{"00 05 61 19 01 00"}, 0, reader.ErrProtocol, "6 of 7 bytes came"},
		{[]string{"00"}, 0, reader.ErrTimeout, "1 of 3 bytes came"},
		{[]string{""}, 0, reader.ErrTimeout, "nothing came"},
	} {
		synctest.Test(t, func(t *testing.T) {
			s, p := slotWith(x.answers...)
			got, err := s.Status(t.Context())
			if !errors.Is(err, x.is) || err == nil && got != x.want {
				t.Errorf("%s: %v, %v", x.answers, got, err)
			}
			if err != nil && (!strings.Contains(err.Error(), x.words) || !strings.HasPrefix(err.Error(), "smartboard /dev/ttyS0: status: ")) {
				t.Errorf("%s: %v", x.answers, err)
			}
			if n := min(len(x.answers), 4); len(p.sent) != n || slices.ContainsFunc(p.sent, func(s string) bool { return s != "00 01 65" }) {
				t.Errorf("%s: %d commands %s", x.answers, len(p.sent), p.sent)
			}
			if p.waits[0] != time.Second {
				t.Errorf("%s: %v", x.answers, p.waits)
			}
		})
	}
}

// The whole of a power-up: the status, the reset, and the protocol's bytes by the ATR.
func TestPowerOn(t *testing.T) {
	const atr0, atr1 = "00 05 64 3B 02 14 50", "00 0C 64 3B 84 81 31 FE 45 54 45 53 54 96"
	for name, x := range map[string]struct {
		answers []string
		sent    string // behind the status
		is      error
		words   string
	}{
		"T=0":               {[]string{waits, atr0, accepted}, "00 01 62, 00 06 61 00 00 0A 00 10", nil, ""},
		"T=1":               {[]string{after, atr1, accepted}, "00 01 62, 00 06 61 10 00 00 75 10", nil, ""},
		"T=14, then T=1":    {[]string{after, "00 06 64 3B 80 8E 01 0F", accepted}, "00 01 62, 00 06 61 10 00 00 75 10", nil, ""},
		"T=14":              {[]string{after, "00 05 64 3B 80 0E 8E"}, "00 01 62", nil, ""},
		"specific, T=1":     {[]string{after, "00 06 64 3B 80 11 01 90", accepted}, "00 01 62, 00 06 61 10 00 00 75 10", nil, ""},
		"specific, T=14":    {[]string{after, "00 06 64 3B 80 1E 0E 90"}, "00 01 62", nil, ""},
		"no ATR at all":     {[]string{after, "00 03 64 00 00"}, "00 01 62", nil, ""},
		"put in":            {[]string{"00 01 65", atr0, accepted}, "00 01 62, 00 06 61 00 00 0A 00 10", nil, ""},
		"a late status":     {[]string{waits, waits + " 00 01 65 " + atr0, noCard + accepted}, "00 01 62, 00 06 61 00 00 0A 00 10", nil, ""},
		"again":             {[]string{waits, "00 01 67", atr0, "00 01 67", accepted}, "00 01 62, 00 01 62, 00 06 61 00 00 0A 00 10, 00 06 61 00 00 0A 00 10", nil, ""},
		"no card":           {[]string{noCard}, "", reader.ErrNoCard, "reset: "},
		"taken out":         {[]string{"00 01 66"}, "", reader.ErrNoCard, "reset: "},
		"taken out then":    {[]string{waits, "00 01 66"}, "00 01 62", reader.ErrNoCard, "reset: "},
		"taken out at last": {[]string{waits, atr0, "00 01 66"}, "00 01 62, 00 06 61 00 00 0A 00 10", reader.ErrNoCard, "set the protocol T=0: "},
		"no ATR":            {[]string{waits, "00 01 64"}, "00 01 62", reader.ErrMute, "an empty ATR"},
		"silence":           {[]string{waits, ""}, "00 01 62", reader.ErrMute, "nothing came"},
		"status alone":      {[]string{waits, waits}, "00 01 62", reader.ErrMute, ""},
		"refused":           {[]string{waits, atr0, "00 01 64"}, "00 01 62, 00 06 61 00 00 0A 00 10", reader.ErrProtocol, "set the protocol T=0: answer: code 64"},
		"no answer":         {[]string{waits, atr0, ""}, "00 01 62, 00 06 61 00 00 0A 00 10", reader.ErrTimeout, "set the protocol"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, p := slotWith(x.answers...)
				atr, err := s.PowerOn(t.Context(), reader.Warm)
				if !errors.Is(err, x.is) || err != nil && (!strings.Contains(err.Error(), x.words) || !strings.HasPrefix(err.Error(), "smartboard /dev/ttyS0: ")) {
					t.Errorf("% X, %v", atr, err)
				}
				if got := strings.Join(p.sent[1:], ", "); got != x.sent || p.sent[0] != "00 01 65" {
					t.Errorf("sent %s", p.sent)
				}
				set := strings.Count(x.sent, "00 06 61") > 0 && err == nil
				if s.powered != set {
					t.Errorf("powered %v", s.powered)
				}
				if err == nil && len(atr) < 2 {
					t.Errorf("ATR % X", atr)
				}
				if want := (x.is != nil && x.is != reader.ErrNoCard || strings.Contains(name, "then") && x.is != nil); (s.trouble != fine) != want && x.is != reader.ErrNoCard && name != "no ATR" {
					t.Errorf("trouble %v", s.trouble)
				}
			})
		})
	}
}

// An answer to a command is its data and SW1 SW2, once, and nothing else.
func TestExchange(t *testing.T) {
	long := "00 FF 64 " + strings.Repeat("AA ", 252) + "90 00"
	for name, x := range map[string]struct {
		t       int
		tx      string
		answer  string
		want    string
		is      error
		words   string
		trouble trouble
	}{
		"data":              {0, "00 B0 00 00 02", "00 05 64 AA BB 90 00", "AA BB 90 00", nil, "", fine},
		"fewer":             {0, "00 B0 00 00 02", "00 03 64 6C 10", "6C 10", nil, "", fine},
		"wait":              {0, "00 B0 00 00 02", "00 01 63 00 01 63 00 05 64 AA BB 90 00", "AA BB 90 00", nil, "", fine},
		"with more":         {0, "00 B0 00 00 02", "00 02 63 01 00 05 64 AA BB 90 00", "AA BB 90 00", nil, "", fine},
		"put in, and late":  {0, "00 B0 00 00 02", "00 01 65" + after + "00 05 64 AA BB 90 00", "AA BB 90 00", nil, "", fine},
		"252 bytes":         {0, "00 B0 00 00 FC", long, strings.Repeat("AA", 252) + "90 00", nil, "", fine},
		"253 bytes":         {0, "00 B0 00 00 FD", long, "", reader.ErrProtocol, "one of this reader's has 254 bytes at most", fine},
		"256 bytes":         {0, "00 B0 00 00 00", long, "", reader.ErrProtocol, "one of this reader's has 254 bytes at most", fine},
		"more":              {0, "00 B0 00 00 01", "00 05 64 AA BB 90 00", "", reader.ErrProtocol, "an answer of 4 bytes; SW1 SW2 are the least, and 3 bytes were asked for", late},
		"data to the card":  {0, "00 D6 00 00 02 01 02", "00 04 64 AA 90 00", "", reader.ErrProtocol, "an answer of 3 bytes", late},
		"SW1 alone":         {0, "00 D6 00 00 02 01 02", "00 02 64 90", "", reader.ErrProtocol, "an answer of 1 bytes", late},
		"nothing":           {0, "00 D6 00 00 02 01 02", "00 01 64", "", reader.ErrProtocol, "an answer of 0 bytes", late},
		"no SW1":            {0, "00 B0 00 00 02", "00 05 64 90 00 AA BB", "", reader.ErrProtocol, "does not end with SW1 SW2", late},
		"T=1":               {1, "00 C1 01 20 E0", "00 06 64 00 E1 01 20 C0", "00 E1 01 20 C0", nil, "", fine},
		"T=1, anything":     {1, "00 C1 01 20 E0", "00 02 64 00", "00", nil, "", fine},
		"again":             {0, "00 20 00 01 02 31 32", "00 01 67", "", reader.ErrProtocol, "answer: code 67", late},
		"started":           {0, "00 20 00 01 02 31 32", "00 01 60", "", reader.ErrProtocol, "answer: code 60", late},
		"taken out":         {0, "00 20 00 01 02 31 32", "00 01 66", "", reader.ErrNoCard, "", late},
		"no frame":          {0, "00 20 00 01 02 31 32", "31 32", "", reader.ErrProtocol, "a frame begins with 31", late},
		"not whole":         {0, "00 20 00 01 02 31 32", "00 03 64", "", reader.ErrProtocol, "3 of 5 bytes came", late},
		"silence":           {0, "00 20 00 01 02 31 32", "", "", reader.ErrTimeout, "nothing came", lost},
		"silence then":      {0, "00 20 00 01 02 31 32", "00 01 63", "", reader.ErrTimeout, "nothing came", late},
		"a status, silence": {0, "00 20 00 01 02 31 32", after, "", reader.ErrTimeout, "nothing came", lost},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, p := slotWith(x.answer)
				s.t = x.t
				asked := 0
				began := time.Now()
				got, err := s.Exchange(t.Context(), reader.Transfer{Out: unhex(x.tx), Wait: 3 * time.Second, Until: time.Now().Add(time.Minute), Extended: func() { asked++ }}, []byte("before"))
				if x.is == nil {
					if err != nil || !bytes.Equal(got, append([]byte("before"), unhex(x.want)...)) {
						t.Errorf("% X, %v", got, err)
					}
				} else if !errors.Is(err, x.is) || !strings.Contains(err.Error(), x.words) || !strings.HasPrefix(err.Error(), "smartboard /dev/ttyS0: exchange: ") || string(got) != "before" {
					t.Errorf("%q, %v", got, err)
				}
				if len(p.sent) != 1 || s.trouble != x.trouble {
					t.Errorf("%d commands, trouble %v", len(p.sent), s.trouble)
				}
				if want := strings.Count(x.answer, "00 01 63") + strings.Count(x.answer, "00 02 63"); asked != want {
					t.Errorf("the reader asked for time %d times, was heard %d times", want, asked)
				}
				if took := time.Since(began); err != nil && errors.Is(err, serial.ErrTimeout) && took != 3*time.Second && name != "not whole" {
					t.Errorf("it took %v", took)
				}
				if s.out != [longestFrame]byte{} || s.in != [2 * longestFrame]byte{} {
					t.Error("the driver holds the command, or the answer")
				}
			})
		})
	}
}

// A reader that always asks for more time gets it until the exchange's limit, which a silent one does not get.
func TestWaits(t *testing.T) {
	for _, x := range []struct {
		every       time.Duration // it says ansWait
		wait, limit time.Duration // of the transfer
		want        time.Duration
	}{
		{500 * time.Millisecond, 2 * time.Second, 30 * time.Second, 30 * time.Second},
		{500 * time.Millisecond, 2 * time.Second, time.Second, time.Second},
		{0, 2 * time.Second, 30 * time.Second, 2 * time.Second},
		{0, 500 * time.Millisecond, 30 * time.Second, time.Second},
		{0, 5 * time.Minute, time.Hour, 10 * time.Second},
		{0, 5 * time.Minute, 3 * time.Second, 3 * time.Second},
		{500 * time.Millisecond, 2 * time.Second, 0, 2 * time.Second},
		{5 * time.Second, 2 * time.Second, time.Minute, 2 * time.Second},
		{5 * time.Second, 6 * time.Second, time.Minute, time.Minute},
	} {
		synctest.Test(t, func(t *testing.T) {
			p := serialtest.Plug(serialtest.DeviceFunc(func(l *serialtest.Line) {
				l.SetMode(mode)
				if !l.Read(make([]byte, 8)) {
					return
				}
				for {
					if e, ok := l.NextWithin(x.every); !ok {
						return
					} else if e.Kind == serialtest.Timeout {
						l.Send(0, 1, 0x63)
					}
				}
			}))
			defer p.Unplug()
			synctest.Wait()
			port, err := p.OpenSerial(t.Context(), mode)
			if err != nil {
				t.Fatal(err)
			}
			s := &slot{name: "smartboard /dev/ttyS0", powered: true}
			s.Port = port
			tr := reader.Transfer{Out: challenge, Wait: x.wait}
			began := time.Now()
			if x.limit > 0 {
				tr.Until = began.Add(x.limit)
			}
			if _, err := s.Exchange(t.Context(), tr, nil); !errors.Is(err, reader.ErrTimeout) || time.Since(began) != x.want {
				t.Errorf("%+v: %v after %v", x, err, time.Since(began))
			}
		})
	}
}

// Events come where nobody knows: with the next status, at once, or never. Whatever comes, the status is right, and a
// card that was taken out and put in again has to be reset.
func TestEvents(t *testing.T) {
	for _, events := range []emu.Events{emu.Never, emu.Instead, emu.Unasked} {
		synctest.Test(t, func(t *testing.T) {
			e := newReader(t, emu.Options{Events: events}, t0)
			p := serialtest.Plug(e)
			defer p.Unplug()
			s := open(t, p)
			defer s.Close()
			status := func(want reader.Status) {
				t.Helper()
				if got, err := s.Status(t.Context()); got != want || err != nil {
					t.Errorf("events %v: %v, %v", events, got, err)
				}
			}
			connect(t, s)
			c := e.Contact.Remove()
			status(reader.Absent)
			status(reader.Absent)
			if err := e.Contact.Insert(c); err != nil {
				t.Fatal(err)
			}
			status(reader.Present)
			status(reader.Present)
			connect(t, s)
			status(reader.Powered)
			// Between two looks.
			e.Contact.Remove()
			if err := e.Contact.Insert(c); err != nil {
				t.Fatal(err)
			}
			status(reader.Present)
			if _, err := s.Exchange(t.Context(), reader.Transfer{Out: challenge, Wait: time.Second}, nil); !errors.Is(err, reader.ErrStale) {
				t.Errorf("events %v: %v", events, err)
			}
			connect(t, s)
			// In the middle of an exchange.
			e.Contact.SetFaults(icc.Faults{Slow: time.Minute})
			time.AfterFunc(700*time.Millisecond, func() { e.Contact.Remove() })
			began := time.Now()
			if _, err := s.Exchange(t.Context(), reader.Transfer{Out: challenge, Wait: time.Second, Until: began.Add(time.Hour)}, nil); !errors.Is(err, reader.ErrNoCard) || time.Since(began) > 2*time.Second {
				t.Errorf("events %v: %v after %v", events, err, time.Since(began))
			}
			status(reader.Absent)
		})
	}
}

// "67: the host repeats the same command, up to 3 more times."
func TestBusyReader(t *testing.T) {
	for busy, want := range map[int]bool{1: true, 3: true, 4: false} {
		synctest.Test(t, func(t *testing.T) {
			p := serialtest.Plug(newReader(t, emu.Options{Busy: busy}, t0))
			defer p.Unplug()
			r, err := Driver{}.Open(t.Context(), device(p))
			if want != (err == nil) || !want && !errors.Is(err, reader.ErrProtocol) {
				t.Fatalf("%d times: %v", busy, err)
			}
			if err == nil {
				connect(t, r.Slots()[0])
				r.Close()
			}
		})
	}
}

// PowerOff resets a card that may have a verified PIN, and no other.
func TestPowerOff(t *testing.T) {
	for _, x := range []struct {
		powered bool
		answers []string
		is      error
	}{
		{true, []string{"00 05 64 3B 02 14 50"}, nil},
		{false, nil, nil},
		{true, []string{"00 01 64"}, nil}, // mute
		{true, []string{""}, nil},         // mute
		{true, []string{"00 01 66"}, nil}, // taken out
		{true, []string{"00 01 60"}, reader.ErrProtocol},
	} {
		synctest.Test(t, func(t *testing.T) {
			s, p := slotWith(x.answers...)
			s.powered = x.powered
			err := s.PowerOff(t.Context())
			if !errors.Is(err, x.is) || s.powered || len(p.sent) != len(x.answers) {
				t.Errorf("%+v: %v, %s", x, err, p.sent)
			}
			if err != nil && !strings.HasPrefix(err.Error(), "smartboard /dev/ttyS0: reset instead of power off: ") {
				t.Error(err)
			}
		})
	}
}

// A port without modem lines is no obstacle, but another error of one is.
func TestNoLines(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &scripted{answers: []string{"00 01 6B", "00 05 60 54 65 73 74"}, lines: serial.ErrNoLines}
		r, err := Driver{}.Open(t.Context(), device(p))
		if err != nil || p.breaks != 1 || strings.Join(p.sent, ", ") != "00 01 6A, 00 01 60" {
			t.Fatalf("%v, %d breaks, %s", err, p.breaks, p.sent)
		}
		if _, more := r.(reader.Identifier).Identify(); more["identification"] != "Test" {
			t.Error(more)
		}
		p = &scripted{lines: reader.ErrGone}
		if _, err := (Driver{}).Open(t.Context(), device(p)); !errors.Is(err, reader.ErrGone) || len(p.sent) > 0 {
			t.Error(err)
		}
	})
}

// Attach takes a port's name and no parameters.
func TestAttach(t *testing.T) {
	dev, err := Driver{}.Attach(reader.Device{Driver: "smartboard", Address: "/dev/ttyS0"})
	if err != nil || dev.ID.Model != "Cherry SmartBoard" || dev.Bus != "serial" {
		t.Errorf("%+v, %v", dev, err)
	}
	if _, err := (Driver{}).Attach(reader.Device{Driver: "smartboard", Address: "/dev/ttyS0", Params: map[string]string{"speed": "9600"}}); !errors.Is(err, reader.ErrInvalid) || !strings.Contains(err.Error(), "speed") {
		t.Error(err)
	}
	if ids := (Driver{}).IDs(); len(ids) > 0 {
		t.Error(ids)
	}
}

// An exchange makes no garbage.
func TestAllocations(t *testing.T) {
	s, p := slotWith()
	p.last = "00 05 64 AA BB 90 00"
	answer := unhex(p.last)
	s.Port = &quick{scripted: p, answer: answer}
	x := reader.Transfer{Out: unhex("00 B0 00 00 02"), Wait: time.Second}
	dst := make([]byte, 0, 300)
	if n := testing.AllocsPerRun(100, func() {
		if _, err := s.Exchange(context.Background(), x, dst); err != nil {
			t.Fatal(err)
		}
	}); n > 0 {
		t.Errorf("%v allocations", n)
	}
}

// quick is a port that answers everything alike.
type quick struct {
	*scripted
	answer []byte
}

func (q *quick) Write(context.Context, []byte) error { return nil }
func (q *quick) Read(_ context.Context, b []byte, _ time.Duration) (int, error) {
	return copy(b, q.answer), nil
}

// A late answer to a command is passed over also where an event comes before it.
func TestSettle(t *testing.T) {
	for name, answers := range map[string][]string{
		"at once":           {"00 03 64 90 00" + after},
		"after some waits":  {"00 01 63 00 01 63 00 03 64 90 00" + after},
		"behind an event":   {"00 01 65", "00 03 64 90 00" + after},
		"behind two events": {"00 01 66", "00 01 65", "00 03 64 90 00" + after},
		"no status first":   {"00 03 64 90 00", after},
		"noise first":       {"AA BB", "00 03 64 90 00" + after},
		"busy":              {"00 01 67", "00 03 64 90 00" + after},
		"half a status":     {"00 04 61 08 00 00", "00 03 64 90 00" + after},
	} {
		synctest.Test(t, func(t *testing.T) {
			s, p := slotWith(append(answers, waits, "00 05 64 3B 02 14 50", accepted)...)
			s.trouble = late
			atr, err := s.PowerOn(t.Context(), reader.Cold)
			if err != nil || !bytes.Equal(atr, t0.ATR()) || s.trouble != fine || p.breaks > 0 {
				t.Errorf("%s: % X, %v; trouble %v, %d breaks; %s", name, atr, err, s.trouble, p.breaks, p.sent)
			}
		})
	}
	// One that gives no status is started again.
	synctest.Test(t, func(t *testing.T) {
		s, p := slotWith("", "", "", "00 01 6B", "00 05 60 54 65 73 74", after)
		s.trouble = late
		if st, err := s.Status(t.Context()); st != reader.Present || err != nil || p.breaks != 1 {
			t.Errorf("%v, %v, %d breaks", st, err, p.breaks)
		}
	})
}

// A reader that is started again may first say what belongs to a command that was given up.
func TestStart(t *testing.T) {
	const stopped, started = "00 01 6B", "00 05 60 54 65 73 74"
	for _, x := range []struct {
		stop, start string
		want        bool
	}{
		{stopped, started, true},
		{"00 01 63" + stopped, started, true},
		{"00 03 64 90 00" + stopped, "00 01 63 00 03 64 90 00 00 01 66" + started, true},
		{stopped, "00 01 62" + started, true},
		{"00 05 61 08 00 00 00", stopped + started, true}, // a status that was late
		{"00 00", started, false},
		{stopped, "00 01 63", false},
	} {
		synctest.Test(t, func(t *testing.T) {
			s, p := slotWith(x.stop, x.start)
			s.trouble = lost
			began := time.Now()
			err := s.ready(t.Context())
			if (err == nil) != x.want || s.powered || (s.trouble == fine) != x.want || p.breaks != 1 {
				t.Errorf("%+v: %v, trouble %v", x, err, s.trouble)
			}
			if x.stop == "00 00" && !strings.Contains(fmt.Sprint(err), "a frame without a code") || time.Since(began) > 3*time.Second {
				t.Errorf("%+v: %v after %v", x, err, time.Since(began))
			}
		})
	}
	s, _ := slotWith()
	if x := s.Traits(); x.Level != reader.TPDU || !x.AutoPPS || x.IFSC != 32 || x.IFSD != 32 || x.Fixed {
		t.Errorf("%+v", x)
	}
}
