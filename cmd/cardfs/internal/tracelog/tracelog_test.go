package tracelog

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cardfs/cardfs/cmd/cardfs/internal/pcapng"
	"github.com/cardfs/cardfs/drivers/replay"
	"github.com/cardfs/cardfs/reader/iso7816"
)

var now = time.Date(2026, 11, 28, 12, 0, 1, 0, time.UTC)

// at is a time of the day before now.
func at(us int) time.Time { return now.Add(time.Duration(us-1e6) * time.Microsecond) }

// Each line that package link and the core write.
func TestParse(t *testing.T) {
	for text, want := range map[string]Line{
		"> C-APDU 00 A4 00 0C 02 3F 00 SELECT": {Kind: Command, Bytes: []byte{0, 0xA4, 0, 0x0C, 2, 0x3F, 0}},
		"> C-APDU 80 EE 00 00 A NAME":          {Kind: Command, Bytes: []byte{0x80, 0xEE, 0, 0}},
		"> C-APDU 80 EE 00 00 ":                {Kind: Command, Bytes: []byte{0x80, 0xEE, 0, 0}},
		"> C-APDU 00 20 00 01 [masked] VERIFY": {Kind: Command, Bytes: []byte{0, 0x20, 0, 1}, Masked: true},
		"> PIN pad: 00 20 00 01 …":             {Kind: Command, Bytes: []byte{0, 0x20, 0, 1}, Masked: true, PINPad: true},
		"< R-APDU 6A 82":                       {Kind: Answer, Bytes: []byte{0x6A, 0x82}},
		"< R-APDU [masked] 90 00":              {Kind: Answer, Bytes: []byte{0x90, 0}, Masked: true},
		"< R-APDU [masked]":                    {Kind: Answer, Masked: true},
		"< PIN pad: 63 C2":                     {Kind: Answer, Bytes: []byte{0x63, 0xC2}, PINPad: true},
		"< PIN pad: [masked] 63 C2":            {Kind: Answer, Bytes: []byte{0x63, 0xC2}, Masked: true, PINPad: true},
		"! sim t1-1: no answer":                {Kind: Error},
		"cold reset":                           {Kind: Reset},
		"warm reset":                           {Kind: Reset},
		"ATR 3B 00":                            {Kind: ATR, Bytes: []byte{0x3B, 0}},
		">   00 00 05 00 84 00 00 02 83  I(0)": {Kind: Wire},
		"<   (nothing)":                        {Kind: Wire},
		"> malformed C-APDU [masked]":          {},
		"PPS > FF 11 12 FC < FF 11 12 FC":      {},
		"> escape [5 bytes]":                   {},
		"< keypad [masked]":                    {},
		"> display \"cold reset\"":             {},
		"hot reset":                            {},
	} {
		l := Parse("12:00:00.000250 "+text, now)
		want.At, want.Text = at(250), text
		switch want.Kind {
		case Error:
			want.Text = text[2:]
		case Reset:
			want.Text = text[:4]
		}
		if !reflect.DeepEqual(l, want) {
			t.Errorf("%s:\n%+v, want\n%+v", text, l, want)
		}
	}
	if l := Parse("# lost=12", now); l.Kind != Lost || l.Lost != 12 || !l.At.Equal(now) {
		t.Errorf("%+v", l)
	}
	if l := Parse("what is this", now); l.Kind != Other || l.Text != "what is this" || !l.At.Equal(now) {
		t.Errorf("%+v", l)
	}
}

// The name of a command is never taken for bytes.
func TestNames(t *testing.T) {
	for cla := range 256 {
		for ins := range 256 {
			name := iso7816.CommandName(byte(cla), byte(ins))
			l := Parse(fmt.Sprintf("12:00:00.000000 > C-APDU %02X %02X 00 00 %s", cla, ins, name), now)
			if len(l.Bytes) != 4 || l.Masked {
				t.Errorf("%02X %02X %s: % X", cla, ins, name, l.Bytes)
			}
		}
	}
}

// A line has the time of the day where the daemon is, without a zone.
func TestWhen(t *testing.T) {
	for _, tt := range []struct{ now, stamp, want string }{
		{"2026-11-28T12:00:01Z", "12:00:00.000001", "2026-11-28T12:00:00.000001Z"},
		{"2026-11-28T12:00:01Z", "14:00:00.500000", "2026-11-28T12:00:00.5Z"},     // a zone
		{"2026-11-28T12:00:01Z", "17:45:00.500000", "2026-11-28T12:00:00.5Z"},     // Nepal
		{"2026-11-28T00:00:01Z", "23:59:59.000000", "2026-11-27T23:59:59Z"},       // midnight
		{"2026-11-28T23:59:59Z", "00:00:00.100000", "2026-11-29T00:00:00.1Z"},     // a clock that is behind
		{"2026-11-28T12:05:00Z", "12:00:00.000000", "2026-11-28T12:00:00Z"},       // read late
		{"2026-11-28T13:00:01+02:00", "11:00:00.00000", "2026-11-28T11:00:00.0Z"}, // no stamp: now
	} {
		now, err1 := time.Parse(time.RFC3339, tt.now)
		want, err2 := time.Parse(time.RFC3339Nano, tt.want)
		if err := errors.Join(err1, err2); err != nil {
			t.Fatal(err)
		}
		if len(tt.stamp) != len("15:04:05.000000") {
			want = now
		}
		if got := Parse(tt.stamp+" cold reset", now).At; !got.Equal(want) {
			t.Errorf("%s at %s: %v, want %v", tt.stamp, tt.now, got, want)
		}
	}
}

// packets are those of a capture file, "TYPE PAYLOAD | COMMENT | COMMENT": the payload
// behind the GSMTAP header, of notes their text.
func packets(file []byte) (list []string) {
	for len(file) > 0 {
		kind, n := binary.LittleEndian.Uint32(file), binary.LittleEndian.Uint32(file[4:])
		body := file[8 : n-4]
		file = file[n:]
		var s string
		switch kind {
		case 6:
			size := int(binary.LittleEndian.Uint32(body[12:]))
			packet := body[20:][:size]
			body = body[20+(size+3)/4*4:]
			if packet[30] == 0x10 {
				s = string(packet[44+84:])
			} else {
				s = fmt.Sprintf("% X", packet[44:])
			}
		case 5:
			s, body = "end", body[12:]
		default:
			continue
		}
		for {
			code, n := binary.LittleEndian.Uint16(body), int(binary.LittleEndian.Uint16(body[2:]))
			switch {
			case code == 0:
			case code == 1:
				s += " | " + string(body[4:4+n])
			case code == 5:
				s += fmt.Sprintf(" | dropped %d", binary.LittleEndian.Uint64(body[4:]))
			}
			if code == 0 {
				break
			}
			body = body[4+(n+3)/4*4:]
		}
		list = append(list, s)
	}
	return list
}

// scripts are traces, and what is made of them.
var scripts = []struct {
	name, trace       string
	captured, session []string
}{
	{"a session", `
		cold reset
		ATR 3B 00
		PPS > FF 11 < FF 11
		> C-APDU 00 84 00 00 02 GET CHALLENGE
		>   00 00 05 00 84 00 00 02 83  I(0)
		<   00 00 04 11 22 90 00 A7  I(0)
		< R-APDU 11 22 90 00`,
		[]string{"cold reset", "ATR 3B 00", "PPS > FF 11 < FF 11", "00 84 00 00 02 11 22 90 00"},
		[]string{"0.000000 reset cold", "0.000001 atr 3B 00", "# PPS > FF 11 < FF 11", "0.000003 > 00 84 00 00 02", "0.000006 < 11 22 90 00"}},
	{"masked", `
		> C-APDU 00 20 00 01 [masked] VERIFY
		< R-APDU 63 C2
		> C-APDU 00 2A 80 86 [masked] PERFORM SECURITY OPERATION
		< R-APDU [masked] 90 00
		> C-APDU 00 C0 00 00 [masked] GET RESPONSE
		< R-APDU [masked] 90 00
		> C-APDU 00 C0 00 00 GET RESPONSE
		< R-APDU [masked] 61 02
		> C-APDU 00 2A 80 86 [masked] PERFORM SECURITY OPERATION
		< R-APDU [masked]`,
		[]string{
			"00 20 00 01 08 FF FF FF FF FF FF FF FF 63 C2 | " + maskedWords,
			"00 2A 80 86 08 FF FF FF FF FF FF FF FF FF FF FF FF FF FF FF FF 90 00 | " + maskedWords,
			"00 C0 00 00 08 FF FF FF FF FF FF FF FF 90 00 | " + maskedWords,
			"00 C0 00 00 00 FF FF FF FF FF FF FF FF 61 02 | " + maskedWords + " | case 1: the command has no P3",
			"00 2A 80 86 08 FF FF FF FF FF FF FF FF FF FF FF FF FF FF FF FF 00 00 | " + maskedWords,
		},
		[]string{"0.000000 > 00 20 00 01 XX", "0.000001 < 63 C2", "0.000002 > 00 2A 80 86 XX", "0.000003 < XX 90 00",
			"0.000004 > 00 C0 00 00 XX", "0.000005 < XX 90 00", "0.000006 > 00 C0 00 00", "0.000007 < XX 61 02",
			"0.000008 > 00 2A 80 86 XX", "0.000009 < XX"}},
	{"a PIN pad", `
		> PIN pad: 00 20 00 01 …
		< PIN pad: 90 00
		> PIN pad: 00 24 00 01 …
		! cancelled`,
		[]string{"00 20 00 01 08 FF FF FF FF FF FF FF FF 90 00 | " + padWords,
			"00 24 00 01 08 FF FF FF FF FF FF FF FF 00 00 | error: cancelled | " + padWords},
		[]string{"0.000000 > 00 20 00 01 XX", "0.000001 < 90 00", "0.000002 > 00 24 00 01 XX", "0.000003 ! failed cancelled"}},
	{"errors", `
		> C-APDU 00 84 00 00 GET CHALLENGE
		! no answer: no answer in the time the protocol allows
		cold reset
		! mute
		> malformed C-APDU [masked]
		< R-APDU 67 00
		> C-APDU 00 84 00 01 GET CHALLENGE`,
		[]string{"00 84 00 00 00 00 00 | error: no answer: no answer in the time the protocol allows | case 1: the command has no P3",
			"cold reset", "mute", "> malformed C-APDU [masked]", "< R-APDU 67 00",
			"00 84 00 01 00 00 00 | it was not answered before the end | case 1: the command has no P3"},
		[]string{"0.000000 > 00 84 00 00", "0.000001 ! timeout no answer: no answer in the time the protocol allows",
			"0.000002 reset cold", "0.000003 ! failed mute", "# > malformed C-APDU [masked]", "# < R-APDU 67 00", "0.000006 > 00 84 00 01"}},
	{"lost", `
		> C-APDU 00 84 00 00 GET CHALLENGE
		# lost=3
		< R-APDU 90 00
		> C-APDU 00 84 00 01 GET CHALLENGE
		# lost=4
		> C-APDU 00 84 00 02 GET CHALLENGE
		> C-APDU 00 84 00 03 GET CHALLENGE
		< R-APDU 90 00`,
		[]string{"00 84 00 00 00 00 00 | its answer was lost | case 1: the command has no P3",
			"3 lines of the trace were lost here | 3 lines of the trace were lost here", "< R-APDU 90 00",
			"00 84 00 01 00 00 00 | its answer was lost | case 1: the command has no P3",
			"4 lines of the trace were lost here | 4 lines of the trace were lost here",
			"00 84 00 02 00 00 00 | its answer is missing | case 1: the command has no P3",
			"00 84 00 03 00 90 00 | case 1: the command has no P3",
			"lost 7"},
		[]string{"0.000000 > 00 84 00 00", "1.000000 lost 3", "# < R-APDU 90 00", "0.000003 > 00 84 00 01", "1.000000 lost 4",
			"0.000005 > 00 84 00 02", "0.000006 > 00 84 00 03", "0.000007 < 90 00"}},
}

// lines are those of a script, a microsecond apart.
func lines(script string) (list []Line) {
	for i, text := range strings.Split(strings.TrimSpace(strings.ReplaceAll(script, "\t", "")), "\n") {
		if !strings.HasPrefix(text, "#") {
			text = fmt.Sprintf("12:00:00.%06d %s", i, text)
		}
		list = append(list, Parse(text, now))
	}
	return list
}

func TestCapture(t *testing.T) {
	for _, tt := range scripts {
		t.Run(tt.name, func(t *testing.T) {
			var out bytes.Buffer
			w, err1 := pcapng.New(&out, "test")
			iface, err2 := w.Interface("0", "", at(0))
			c := NewCapture(iface)
			for _, l := range lines(tt.trace) {
				if err := c.Take(l); err != nil {
					t.Fatal(err)
				}
			}
			if err := errors.Join(err1, err2, c.End(now, "why")); err != nil {
				t.Fatal(err)
			}
			want := slices.Clone(tt.captured)
			if n := len(want) - 1; want[n] == "lost 7" {
				want[n] = "end | why | 7 lines of the trace were lost | dropped 7"
			} else {
				want = append(want, "end | why | dropped 0")
			}
			if got := packets(out.Bytes()); !slices.Equal(got, want) {
				t.Errorf("%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
			}
		})
	}
}

// chunks keeps the data of each Write, and fails after some.
type chunks struct {
	list []string
	left int
}

func (c *chunks) Write(p []byte) (int, error) {
	if c.left--; c.left < 0 {
		return 0, os.ErrClosed
	}
	c.list = append(c.list, string(p))
	return len(p), nil
}

// "file always complete lines": each is a Write of its own.
func TestRecorder(t *testing.T) {
	for _, tt := range scripts {
		t.Run(tt.name, func(t *testing.T) {
			out := chunks{left: 1000}
			r, err := NewRecorder(&out, at(0), "cardfs 1\n2, sim", "Reader A", []byte{0x3B, 0})
			if err != nil {
				t.Fatal(err)
			}
			for _, l := range lines(tt.trace) {
				if err := r.Take(l); err != nil {
					t.Fatal(err)
				}
			}
			want := append([]string{"cardfs-session 1\n# cardfs 1 2, sim, 2026-11-28T12:00:00Z", "reader Reader A", "0.000000 atr 3B 00"}, tt.session...)
			for i := range want {
				want[i] += "\n"
			}
			if !slices.Equal(out.list, want) {
				t.Errorf("%s\nwant\n%s", strings.Join(out.list, ""), strings.Join(want, ""))
			}
			// Whatever is cut off behind a line, it is a session.
			for n := range out.list {
				if _, err := replay.Parse(strings.NewReader(strings.Join(out.list[:n+1], "")), "f"); err != nil {
					t.Error(err)
				}
			}
		})
	}
	for n := range 3 {
		if _, err := NewRecorder(&chunks{left: n}, at(0), "", "Reader A", []byte{0x3B, 0}); !errors.Is(err, os.ErrClosed) {
			t.Errorf("after %d writes: %v", n, err)
		}
	}
	out := chunks{left: 1}
	r, err := NewRecorder(&out, at(0), "x", "", nil)
	if err != nil || len(out.list) != 1 {
		t.Fatal(out.list, err)
	}
	for _, text := range []string{"cold reset", "12:00:00.000000 > escape [1 bytes]"} {
		if err := r.Take(Parse(text, now)); !errors.Is(err, os.ErrClosed) {
			t.Error(err)
		}
	}
}

// A line of before the beginning, which waited in the daemon, is at the beginning.
func TestRecorderBefore(t *testing.T) {
	out := chunks{left: 10}
	r, _ := NewRecorder(&out, at(500), "x", "", nil)
	r.Take(Parse("12:00:00.000000 warm reset", now))
	if got := out.list[1]; got != "0.000000 reset warm\n" {
		t.Error(got)
	}
}

// Whatever a trace has, a session of it can be read, and a capture has whole packets.
func FuzzTake(f *testing.F) {
	for _, s := range scripts {
		f.Add(s.trace)
	}
	f.Add("> C-APDU 00\n< R-APDU 00\nATR 00\n! \n cold reset\n# lost=x")
	f.Fuzz(func(t *testing.T, script string) {
		var session, capture bytes.Buffer
		r, _ := NewRecorder(&session, at(0), "x", "", nil)
		w, _ := pcapng.New(&capture, "x")
		iface, _ := w.Interface("0", "", at(0))
		c := NewCapture(iface)
		for _, l := range lines(script) {
			if err := errors.Join(r.Take(l), c.Take(l)); err != nil {
				t.Fatal(err)
			}
		}
		c.End(now, "x")
		packets(capture.Bytes())
		for line := range strings.Lines(session.String()) {
			if !strings.HasSuffix(line, "\n") {
				t.Errorf("%q", line)
			}
		}
	})
}
