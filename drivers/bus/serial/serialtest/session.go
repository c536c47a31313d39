package serialtest

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/cardfs/cardfs/drivers/bus/internal/notation"
	"github.com/cardfs/cardfs/drivers/bus/serial"
)

// EntryKind is the kind of a session's entry. The package comment has the notation.
type EntryKind int

const (
	Out         EntryKind = iota // OUT: the host sends Data
	In                           // IN: the device sends Data
	SetMode                      // line: the host changes to Mode
	HostLines                    // host: DTR and RTS are now as in Lines
	DeviceLines                  // device: CTS, DSR, CD and RI are now as in Lines
	SendBreak                    // break, of Time
	Flush                        // flush: the host drops what has come
	Unplug                       // unplug
	Wait                         // wait, for Time
	Happens                      // *, Name
	Step                         // ==, Name
)

// Entry is one entry of a session.
type Entry struct {
	Kind    EntryKind
	Data    []byte
	Any     []bool        // the bytes of Data that are ??; nil: none
	Wrong   []bool        // the bytes of Data with wrong parity; nil: none
	Timeout time.Duration // In: that the host gives the first byte; 0: any
	Held    time.Duration // In: before the device sends
	Late    bool          // In: nothing came within Timeout
	Mode    serial.Mode
	Lines   serial.Lines
	Time    time.Duration
	Name    string

	number int // of its line in the text, from 1
}

// Session is what a host and a device do, in order.
type Session []Entry

// Load reads a session from a file.
func Load(file string) (Session, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	s, err := Parse(string(text))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return s, nil
}

// Parse reads a session.
func Parse(text string) (Session, error) {
	var s Session
	err := notation.Lines(text, func(number int, line string) error {
		if more, ok := strings.CutPrefix(line, "|"); ok {
			if len(s) == 0 || s[len(s)-1].Kind > In {
				return errors.New("bytes without a direction")
			}
			return s[len(s)-1].parseBytes(more)
		}
		e := Entry{number: number}
		if err := e.parse(line); err != nil {
			return err
		}
		s = append(s, e)
		return nil
	})
	if err != nil {
		return nil, err
	}
	for i := range s {
		if e := &s[i]; e.Kind <= In && len(e.Data) == 0 && !e.Late {
			return nil, fmt.Errorf("line %d, %q: no bytes", e.number, e)
		}
	}
	return s, nil
}

const (
	hostHas   = serial.DTR | serial.RTS
	deviceHas = serial.CTS | serial.DSR | serial.CD | serial.RI
)

func (e *Entry) parse(line string) (err error) {
	word, rest, _ := strings.Cut(line, " ")
	rest = strings.TrimSpace(rest)
	switch word {
	case "OUT":
		_, data, ok := strings.Cut(line, "|")
		if e.Kind = Out; !ok || !strings.HasPrefix(rest, "|") {
			return errors.New("no bar behind OUT")
		}
		return e.parseBytes(data)
	case "IN":
		e.Kind = In
		before, data, ok := strings.Cut(rest, "|")
		if !ok {
			return errors.New("no bar")
		}
		if err := e.parseTimes(strings.Fields(before)); err != nil {
			return err
		}
		return e.parseBytes(data)
	case "line":
		e.Kind = SetMode
		e.Mode, err = serial.ParseMode(rest)
		e.Mode.Check = false
	case "host", "device":
		have := hostHas
		if e.Kind = HostLines; word == "device" {
			e.Kind, have = DeviceLines, deviceHas
		}
		if rest != "-" {
			if e.Lines, err = serial.ParseLines(rest); err == nil && (e.Lines == 0 || e.Lines&^have != 0) {
				err = fmt.Errorf("the %s has %v; none is -", word, have)
			}
		}
	case "break", "wait":
		if e.Kind = SendBreak; word == "wait" {
			e.Kind = Wait
		}
		e.Time, err = duration(rest)
	case "flush", "unplug":
		if e.Kind = Flush; word == "unplug" {
			e.Kind = Unplug
		}
		if rest != "" {
			err = fmt.Errorf("%q behind %s", rest, word)
		}
	case "*", "==":
		if e.Kind, e.Name = Happens, rest; word == "==" {
			e.Kind = Step
		}
		if rest == "" {
			err = errors.New("no name")
		}
	default:
		err = fmt.Errorf("%q is no direction and no event", word)
	}
	return err
}

func duration(s string) (time.Duration, error) {
	d, err := time.ParseDuration(s)
	if err == nil && d < 0 {
		err = fmt.Errorf("%q is negative", s)
	}
	return d, err
}

func (e *Entry) parseTimes(words []string) (err error) {
	for i := 0; i < len(words); i++ {
		if words[i] == "held" && i+1 < len(words) {
			i++
			e.Held, err = duration(words[i])
		} else {
			e.Timeout, err = duration(words[i])
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// parseBytes reads the part behind a bar.
func (e *Entry) parseBytes(text string) error {
	for word := range strings.FieldsSeq(text) {
		if e.Late {
			return errors.New("bytes behind timeout")
		}
		if word == "timeout" && e.Kind == In {
			if len(e.Data) > 0 || e.Timeout == 0 || e.Held > 0 {
				return errors.New("timeout stands alone, behind the time that was waited")
			}
			e.Late = true
			continue
		}
		word, wrong := strings.CutSuffix(word, "!")
		if wrong && (e.Kind == Out || len(word) != 2) {
			return fmt.Errorf("%q!: the mark is for one byte to the host", word)
		}
		b := notation.Bytes{Data: e.Data, Any: e.Any}
		if err := b.Append(word); err != nil {
			return err
		}
		e.Data, e.Any = b.Data, b.Any
		if wrong {
			e.Wrong = append(e.Wrong, make([]bool, len(e.Data)-len(e.Wrong))...)
			e.Wrong[len(e.Data)-1] = true
		}
	}
	return nil
}

func (e *Entry) any(i int) bool   { return i < len(e.Any) && e.Any[i] }
func (e *Entry) wrong(i int) bool { return i < len(e.Wrong) && e.Wrong[i] }

// String returns the entry in the notation.
func (e Entry) String() string {
	var b strings.Builder
	switch e.Kind {
	case Out:
		b.WriteString("OUT |")
	case In:
		b.WriteString("IN")
		if e.Timeout > 0 {
			b.WriteString(" " + e.Timeout.String())
		}
		if e.Held > 0 {
			b.WriteString(" held " + e.Held.String())
		}
		b.WriteString(" |")
	case SetMode:
		return "line " + e.Mode.String()
	case HostLines:
		return "host " + orNone(e.Lines)
	case DeviceLines:
		return "device " + orNone(e.Lines)
	case SendBreak:
		return "break " + e.Time.String()
	case Flush:
		return "flush"
	case Unplug:
		return "unplug"
	case Wait:
		return "wait " + e.Time.String()
	case Happens:
		return "* " + e.Name
	case Step:
		return "== " + e.Name
	}
	data := notation.Bytes{Data: e.Data, Any: e.Any}
	for i := range e.Data {
		b.WriteString(" " + data.At(i))
		if e.wrong(i) {
			b.WriteString("!")
		}
	}
	if e.Late {
		b.WriteString(" timeout")
	}
	return b.String()
}

func orNone(l serial.Lines) string {
	if l == 0 {
		return "-"
	}
	return l.String()
}

// String returns the session as text.
func (s Session) String() string {
	var b strings.Builder
	for _, e := range s {
		b.WriteString(e.String() + "\n")
	}
	return b.String()
}

// Log records a session. It is for Plugged.Observe.
type Log struct {
	mu      sync.Mutex
	entries Session
}

// Add appends an entry. Bytes of one direction that follow each other are one entry.
func (r *Log) Add(e Entry) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if n := len(r.entries); n > 0 && e.Kind <= In && r.entries[n-1].Kind == e.Kind {
		last := &r.entries[n-1]
		if slices.Contains(e.Wrong, true) {
			last.Wrong = append(last.Wrong, make([]bool, len(last.Data)-len(last.Wrong))...)
			last.Wrong = append(last.Wrong, e.Wrong...)
		}
		last.Data = append(last.Data, e.Data...)
		return
	}
	e.Data, e.Wrong = slices.Clone(e.Data), slices.Clone(e.Wrong)
	r.entries = append(r.entries, e)
}

// Session returns what was recorded so far.
func (r *Log) Session() Session {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := slices.Clone(r.entries)
	for i := range s {
		s[i].Data = slices.Clone(s[i].Data)
	}
	return s
}

// Bytes is how many characters went each way.
func (s Session) Bytes() (out, in int) {
	for _, e := range s {
		switch e.Kind {
		case Out:
			out += len(e.Data)
		case In:
			in += len(e.Data)
		}
	}
	return out, in
}
