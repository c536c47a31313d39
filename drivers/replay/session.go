package replay

import (
	"bufio"
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/cardfs/cardfs/reader"
	"github.com/cardfs/cardfs/reader/iso7816"
	"github.com/cardfs/cardfs/reader/words"
)

// Magic is the first line of a session; 1 is the version.
const Magic = "cardfs-session 1"

// Masked stands for any number of masked bytes.
const Masked = "XX"

// Kind is the kind of a line of a session.
type Kind string

// The words of the lines.
const (
	Reader  Kind = "reader" // its model
	Reset   Kind = "reset"  // cold or warm
	ATR     Kind = "atr"
	Command Kind = ">"
	Answer  Kind = "<"
	Error   Kind = "!" // in place of an answer
	Lost    Kind = "lost"
)

// Line is one line of a session.
type Line struct {
	Number int           // of the line, from 1
	At     time.Duration // since the session began; negative: the line has no time
	Kind   Kind
	Bytes  []byte // of ATR, Command, Answer
	Masked bool   // more bytes follow a Command; more come before an Answer, of which Bytes is SW1 SW2 or nothing
	Text   string // of Reader, Reset, Error and Lost
}

// String returns the line in the notation of the file, without a newline.
func (l Line) String() string {
	var b strings.Builder
	if l.At >= 0 {
		fmt.Fprintf(&b, "%d.%06d ", l.At/time.Second, l.At%time.Second/time.Microsecond)
	}
	b.WriteString(string(l.Kind))
	if l.Masked && l.Kind == Answer {
		b.WriteString(" " + Masked)
	}
	if len(l.Bytes) > 0 {
		fmt.Fprintf(&b, " % X", l.Bytes)
	}
	if l.Masked && l.Kind == Command {
		b.WriteString(" " + Masked)
	}
	if l.Text != "" {
		b.WriteString(" " + words.Printable(l.Text, words.MaxWords))
	}
	return b.String()
}

// ErrorWord returns the word that follows Error for an error with that text.
func ErrorWord(text string) string {
	for _, f := range faults {
		if strings.Contains(text, f.err.Error()) {
			return f.word
		}
	}
	return "failed"
}

// faults are the words that follow Error, with the errors that a replay returns.
var faults = []struct {
	word string
	err  error
}{
	{"timeout", reader.ErrTimeout},
	{"protocol", reader.ErrProtocol},
	{"unsupported", reader.ErrUnsupported},
	{"invalid", reader.ErrInvalid},
}

// errRecorded is returned by a replay for any other error.
var errRecorded = errors.New("it failed")

func fault(text string) error {
	word, _, _ := strings.Cut(text, " ")
	for _, f := range faults {
		if f.word == word {
			return f.err
		}
	}
	return errRecorded
}

const (
	// maxSession is how many bytes a session may have.
	maxSession = 64 << 20
	// maxTime bounds the time of a line, in seconds: no session lasts ten years.
	maxTime = 10 * 365 * 24 * 3600
)

// Parse reads a session. Errors begin with name and the number of the line, and contain no
// byte of the line.
func Parse(r io.Reader, name string) ([]Line, error) {
	in := bufio.NewReader(io.LimitReader(r, maxSession+1))
	var lines []Line
	for size, number := 0, 1; ; number++ {
		fail := func(format string, args ...any) ([]Line, error) {
			return nil, fmt.Errorf("%s:%d: %w", name, number, fmt.Errorf(format, args...))
		}
		text, err := in.ReadString('\n')
		if err != nil && err != io.EOF {
			return fail("%w", err)
		}
		if size += len(text); size > maxSession {
			return fail("the session is longer than %d MiB", maxSession>>20)
		}
		ended := err == io.EOF
		text = strings.TrimSuffix(strings.TrimSuffix(text, "\n"), "\r")
		switch {
		case number == 1 && text == Magic:
		case number == 1 && strings.HasPrefix(text, "cardfs-session "):
			return fail("the session is of a version that this cardfs does not know; it knows %q", Magic)
		case number == 1:
			return fail("a session begins with the line %q", Magic)
		default:
			line, ok, err := parseLine(text)
			if err != nil {
				return fail("%w", err)
			}
			if ok {
				line.Number = number
				lines = append(lines, line)
			}
		}
		if ended {
			return lines, nil
		}
	}
}

// parseLine reads a line, but not the first. ok is false if it is blank or a comment.
func parseLine(text string) (l Line, ok bool, err error) {
	text = strings.TrimSpace(strings.ReplaceAll(text, "\t", " "))
	if text == "" || text[0] == '#' {
		return l, false, nil
	}
	word, rest, _ := strings.Cut(text, " ")
	l.At = -1
	if word[0] >= '0' && word[0] <= '9' {
		if l.At, err = parseTime(word); err != nil {
			return l, false, err
		}
		word, rest, _ = strings.Cut(strings.TrimLeft(rest, " "), " ")
	}
	l.Kind, rest = Kind(word), strings.TrimSpace(rest)
	switch l.Kind {
	case Reader, Error:
		l.Text = strings.TrimSpace(words.Printable(rest, words.MaxWords))
		if l.Text == "" {
			return l, false, fmt.Errorf("words must follow %s", l.Kind)
		}
	case Reset:
		if l.Text = rest; rest != "cold" && rest != "warm" {
			return l, false, errors.New("reset is cold or warm")
		}
	case Lost:
		n, err := strconv.ParseUint(rest, 10, 64)
		if err != nil {
			return l, false, errors.New("lost wants the number of lines that were lost")
		}
		l.Text = strconv.FormatUint(n, 10)
	case ATR:
		if l.Bytes, err = parseHex(rest); err != nil {
			return l, false, err
		}
		if _, err := iso7816.ParseATR(l.Bytes); err != nil {
			return l, false, errors.New("no ATR of a card that can be replayed: it has at most 33 bytes and begins with 3B or 3F (sessions of memory cards cannot be replayed)")
		}
	case Command:
		rest, l.Masked = strings.CutSuffix(rest, Masked)
		if l.Bytes, err = parseHex(rest); err != nil {
			return l, false, err
		}
		if len(l.Bytes) < 4 {
			return l, false, errors.New("a command has at least CLA INS P1 P2")
		}
	case Answer:
		rest, l.Masked = strings.CutPrefix(rest, Masked)
		if l.Bytes, err = parseHex(rest); err != nil {
			return l, false, err
		}
		switch n := len(l.Bytes); {
		case !l.Masked && n < 2:
			return l, false, errors.New("an answer has at least SW1 SW2")
		case l.Masked && n != 0 && n != 2:
			return l, false, errors.New("behind the masked bytes of an answer SW1 SW2 come, or nothing")
		case n > iso7816.MaxResponse:
			return l, false, fmt.Errorf("an answer has at most %d bytes", iso7816.MaxResponse)
		}
	default:
		return l, false, fmt.Errorf("a line begins with a time or none, then one of %s %s %s %s %s %s %s", Reader, Reset, ATR, Command, Answer, Error, Lost)
	}
	return l, true, nil
}

// parseTime reads seconds with up to six decimals.
func parseTime(s string) (time.Duration, error) {
	whole, part, _ := strings.Cut(s, ".")
	seconds, err := strconv.ParseUint(whole, 10, 64)
	if err == nil && part != "" {
		_, err = strconv.ParseUint(part, 10, 64)
	}
	if err != nil || len(part) > 6 || seconds > maxTime {
		return 0, errors.New("the time is none: seconds with up to six decimals, such as 1.250000")
	}
	us, _ := strconv.ParseUint((part + "000000")[:6], 10, 64)
	return time.Duration(seconds)*time.Second + time.Duration(us)*time.Microsecond, nil
}

// parseHex reads bytes in hexadecimal. Blanks may be anywhere.
func parseHex(s string) ([]byte, error) {
	b, err := hex.AppendDecode(nil, bytes.ReplaceAll([]byte(s), []byte{' '}, nil))
	if err != nil {
		return nil, errors.New("what should be bytes in hexadecimal is not, or half a byte is missing")
	}
	return b, nil
}
