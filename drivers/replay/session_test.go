package replay

import (
	"errors"
	"fmt"
	"io"
	"reflect"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/cardfs/cardfs/reader"
)

// session is a session with these lines.
func session(lines ...string) string {
	return Magic + "\n" + strings.Join(lines, "\n") + "\n"
}

// Each kind of line, as it is parsed and printed.
func TestLines(t *testing.T) {
	for _, tt := range []struct {
		text string
		want Line
	}{
		{"reader Rainbow iKey 3000", Line{At: -1, Kind: Reader, Text: "Rainbow iKey 3000"}},
		{"0.000000 reset cold", Line{Kind: Reset, Text: "cold"}},
		{"reset warm", Line{At: -1, Kind: Reset, Text: "warm"}},
		{"1.250000 atr 3B 00", Line{At: 1250 * time.Millisecond, Kind: ATR, Bytes: []byte{0x3B, 0}}},
		{"86400.000001 > 00 A4 00 00", Line{At: 24*time.Hour + time.Microsecond, Kind: Command, Bytes: []byte{0, 0xA4, 0, 0}}},
		{"> 00 20 00 01 XX", Line{At: -1, Kind: Command, Bytes: []byte{0, 0x20, 0, 1}, Masked: true}},
		{"< 6A 82", Line{At: -1, Kind: Answer, Bytes: []byte{0x6A, 0x82}}},
		{"< XX 90 00", Line{At: -1, Kind: Answer, Bytes: []byte{0x90, 0}, Masked: true}},
		{"< XX", Line{At: -1, Kind: Answer, Masked: true}},
		{"! timeout no answer", Line{At: -1, Kind: Error, Text: "timeout no answer"}},
		{"lost 12", Line{At: -1, Kind: Lost, Text: "12"}},
	} {
		got, err := Parse(strings.NewReader(session("# comment", "", "  \t", tt.text)), "f")
		tt.want.Number = 5
		if err != nil || len(got) != 1 || !reflect.DeepEqual(got[0], tt.want) {
			t.Errorf("%s: %+v, %v; want %+v", tt.text, got, err, tt.want)
			continue
		}
		if s := got[0].String(); s != tt.text {
			t.Errorf("%q, was %q", s, tt.text)
		}
	}
}

// What a person may write: blanks and tabs anywhere, any case, no end of the last line,
// ends of lines as in DOS.
func TestLenient(t *testing.T) {
	for _, text := range []string{
		Magic + "\n  1   >  00a4 0000 ", Magic + "\r\n1.0\t>\t00 A40000\r\n", Magic + "\n#\n1.000 > 00A40000XX\n",
	} {
		got, err := Parse(strings.NewReader(text), "f")
		if err != nil || len(got) != 1 || got[0].At != time.Second || string(got[0].Bytes) != "\x00\xA4\x00\x00" {
			t.Errorf("%q: %+v, %v", text, got, err)
		}
	}
	if got, err := Parse(strings.NewReader(Magic), "f"); err != nil || len(got) != 0 {
		t.Error(got, err)
	}
}

// "Errors say what was tried, on what": the file and the line, and no byte of the line.
func TestBadLines(t *testing.T) {
	for _, tt := range []struct{ text, want string }{
		{"", `f:1: a session begins with the line "cardfs-session 1"`},
		{"root:x:0:0\n", `f:1: a session begins with the line "cardfs-session 1"`},
		{"cardfs-session 2\n", `f:1: the session is of a version that this cardfs does not know; it knows "cardfs-session 1"`},
		{session("> 00 A4 00"), "f:2: a command has at least CLA INS P1 P2"},
		{session("> XX"), "f:2: a command has at least CLA INS P1 P2"},
		{session("", "> 00 A4 00 0"), "f:3: what should be bytes in hexadecimal is not, or half a byte is missing"},
		{session("> 00 A4 00 00 XX 00"), "f:2: what should be bytes in hexadecimal is not, or half a byte is missing"},
		{session("< ZZ"), "f:2: what should be bytes in hexadecimal is not, or half a byte is missing"},
		{session("atr 3"), "f:2: what should be bytes in hexadecimal is not, or half a byte is missing"},
		{session("< 90"), "f:2: an answer has at least SW1 SW2"},
		{session("<"), "f:2: an answer has at least SW1 SW2"},
		{session("< XX 90"), "f:2: behind the masked bytes of an answer SW1 SW2 come, or nothing"},
		{session("< XX 01 90 00"), "f:2: behind the masked bytes of an answer SW1 SW2 come, or nothing"},
		{session("< " + strings.Repeat("00", 65539)), "f:2: an answer has at most 65538 bytes"},
		{session("reset"), "f:2: reset is cold or warm"},
		{session("reset hot"), "f:2: reset is cold or warm"},
		{session("lost"), "f:2: lost wants the number of lines that were lost"},
		{session("lost -1"), "f:2: lost wants the number of lines that were lost"},
		{session("reader"), "f:2: words must follow reader"},
		{session("!"), "f:2: words must follow !"},
		{session("1.5"), "f:2: a line begins with a time or none, then one of reader reset atr > < ! lost"},
		{session("? 00"), "f:2: a line begins with a time or none, then one of reader reset atr > < ! lost"},
		{session("1.1234567 > 00A40000"), "f:2: the time is none: seconds with up to six decimals, such as 1.250000"},
		{session("1s > 00A40000"), "f:2: the time is none: seconds with up to six decimals, such as 1.250000"},
		{session("1.x > 00A40000"), "f:2: the time is none: seconds with up to six decimals, such as 1.250000"},
		{session("1.-1 > 00A40000"), "f:2: the time is none: seconds with up to six decimals, such as 1.250000"},
		{session("315360001 > 00A40000"), "f:2: the time is none: seconds with up to six decimals, such as 1.250000"},
		{session("atr"), "f:2: no ATR of a card that can be replayed: it has at most 33 bytes and begins with 3B or 3F (sessions of memory cards cannot be replayed)"},
		{session("atr 82 13 10 91"), "f:2: no ATR of a card that can be replayed: it has at most 33 bytes and begins with 3B or 3F (sessions of memory cards cannot be replayed)"},
		{session("atr 3B" + strings.Repeat(" 00", 33)), "f:2: no ATR of a card that can be replayed: it has at most 33 bytes and begins with 3B or 3F (sessions of memory cards cannot be replayed)"},
	} {
		got, err := Parse(strings.NewReader(tt.text), "f")
		if err == nil || err.Error() != tt.want || got != nil {
			t.Errorf("%.40q: %v, %v; want %s", tt.text, got, err, tt.want)
		}
	}
	if _, err := Parse(strings.NewReader(session("315360000 > 00A40000", "< "+strings.Repeat("00", 65538))), "f"); err != nil {
		t.Error(err)
	}
}

func TestReadFails(t *testing.T) {
	r := io.MultiReader(strings.NewReader(session("")), iotest.ErrReader(io.ErrClosedPipe))
	if _, err := Parse(r, "f"); !errors.Is(err, io.ErrClosedPipe) || !strings.HasPrefix(err.Error(), "f:4: ") && !strings.HasPrefix(err.Error(), "f:3: ") {
		t.Error(err)
	}
}

// endless is a file without an end.
type endless struct{}

func (endless) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = '#'
	}
	return len(p), nil
}

// Memory is bounded: an input longer than the limit is refused.
func TestEndless(t *testing.T) {
	if testing.Short() {
		t.Skip("64 MiB")
	}
	_, err := Parse(io.MultiReader(strings.NewReader(session()), endless{}), "f")
	if err == nil || !strings.Contains(err.Error(), "longer than 64 MiB") {
		t.Error(err)
	}
}

// "! WORD WORDS": the trace prints an error as the word, and replay turns it back into that
// error.
func TestErrorWords(t *testing.T) {
	for _, tt := range []struct {
		err  error
		word string
		want error
	}{
		{reader.ErrTimeout, "timeout", reader.ErrTimeout},
		{reader.ErrProtocol, "protocol", reader.ErrProtocol},
		{reader.ErrUnsupported, "unsupported", reader.ErrUnsupported},
		{reader.ErrInvalid, "invalid", reader.ErrInvalid},
		{reader.ErrGone, "failed", errRecorded},
		{reader.ErrNoCard, "failed", errRecorded},
	} {
		word := ErrorWord(fmt.Sprintf("sim t1-1: exchange: %v; the card may have executed it", tt.err))
		if word != tt.word || !errors.Is(fault(word+" words"), tt.want) || !errors.Is(fault(word), tt.want) {
			t.Errorf("%v: %s, %v", tt.err, word, fault(word))
		}
	}
}

// A session that was parsed can be printed, and parsed again.
func FuzzParse(f *testing.F) {
	f.Add(session("reader  a\x01b", "0 reset cold", "0.1 atr 3B 00", "1 > 00A40000XX", "2. < XX9000", "! timeout \u00a0x", "lost 1"))
	f.Add(session("> 00 A4 00 00", "< 90 00"))
	f.Add("cardfs-session 2")
	f.Fuzz(func(t *testing.T, text string) {
		lines, err := Parse(strings.NewReader(text), "f")
		if err != nil {
			if !strings.HasPrefix(err.Error(), "f:") || strings.Contains(err.Error(), "\n") {
				t.Errorf("%v", err)
			}
			return
		}
		var again []string
		for _, l := range lines {
			again = append(again, l.String())
		}
		got, err := Parse(strings.NewReader(session(again...)), "f")
		if err != nil {
			t.Fatalf("%q: %v", again, err)
		}
		if !slices.EqualFunc(got, lines, func(a, b Line) bool {
			a.Number, b.Number = 0, 0
			return a.String() == b.String() && a.At == b.At && a.Masked == b.Masked && string(a.Bytes) == string(b.Bytes)
		}) {
			t.Errorf("%v\nwere\n%v", got, lines)
		}
		_ = new(recording).take(lines)
	})
}
