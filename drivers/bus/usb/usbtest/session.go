package usbtest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/cardfs/cardfs/drivers/bus/internal/notation"
	"github.com/cardfs/cardfs/drivers/bus/usb"
	"github.com/cardfs/cardfs/reader"
)

// LineKind is the kind of a session's line.
type LineKind int

const (
	Transfer  LineKind = iota // OUT and IN
	Claim                     // claim, of interface Endpoint
	Release                   // release
	ClearHalt                 // clear, of Endpoint
	Reset                     // reset
	Unplug                    // unplug
	Wait                      // wait, for Held
	Event                     // *, Name
	Step                      // ==, Name
)

// Line is one line of a session. The package comment has the notation.
type Line struct {
	Kind     LineKind
	In       bool // to the host
	Control  bool // Setup counts; Endpoint otherwise
	Setup    usb.Setup
	Endpoint uint8
	Asked    int // wLength, or what the host asked an IN endpoint for; 0 there: any
	ZLP      bool
	Timeout  time.Duration // that the host gave; 0: any
	Held     time.Duration // before the device answered
	Data     []byte
	Any      []bool // the bytes of Data that are ??; nil: none
	Err      error
	Name     string

	number int // in the text, from 1
}

// Session is what crosses the bus between a host and a device, in order.
type Session []Line

// failures are the words for errors.
var failures = []struct {
	word string
	err  error
}{
	{"stall", usb.ErrStall}, {"timeout", usb.ErrTimeout}, {"overflow", usb.ErrOverflow}, {"reset", usb.ErrReset},
	{"bus", usb.ErrBus}, {"gone", reader.ErrGone}, {"cancelled", context.Canceled},
}

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
			if len(s) == 0 || s[len(s)-1].Kind != Transfer {
				return errors.New("bytes without a transfer")
			}
			return s[len(s)-1].parseBytes(more)
		}
		l := Line{number: number}
		if err := l.parse(line); err != nil {
			return err
		}
		s = append(s, l)
		return nil
	})
	if err != nil {
		return nil, err
	}
	for i := range s {
		if err := s[i].check(); err != nil {
			return nil, fmt.Errorf("line %d, %q: %w", s[i].number, s[i].String(), err)
		}
	}
	return s, nil
}

func (l *Line) parse(line string) (err error) {
	word, rest, _ := strings.Cut(line, " ")
	rest = strings.TrimSpace(rest)
	var byteAt = func() {
		var n uint64
		n, err = strconv.ParseUint(rest, 16, 8)
		l.Endpoint = uint8(n)
	}
	switch word {
	case "OUT", "IN":
		l.In = word == "IN"
		return l.parseTransfer(rest)
	case "claim":
		l.Kind = Claim
		byteAt()
	case "release":
		l.Kind = Release
		byteAt()
	case "clear":
		l.Kind = ClearHalt
		byteAt()
	case "reset":
		l.Kind = Reset
	case "unplug":
		l.Kind = Unplug
	case "wait":
		l.Kind = Wait
		l.Held, err = time.ParseDuration(rest)
	case "*", "==":
		if l.Kind, l.Name = Event, rest; word == "==" {
			l.Kind = Step
		}
		if rest == "" {
			err = errors.New("no name")
		}
	default:
		err = fmt.Errorf("%q is no direction and no event", word)
	}
	return err
}

func (l *Line) parseTransfer(rest string) error {
	rest, data, _ := strings.Cut(rest, "|")
	words := strings.Fields(rest)
	numbers := 0
	for numbers < len(words) && isHex(words[numbers]) {
		numbers++
	}
	n := make([]uint64, numbers)
	for i := range n {
		n[i], _ = strconv.ParseUint(words[i], 16, 16)
	}
	switch {
	case numbers == 5:
		l.Control = true
		l.Setup = usb.Setup{RequestType: uint8(n[0]), Request: uint8(n[1]), Value: uint16(n[2]), Index: uint16(n[3])}
		l.Asked = int(n[4])
		if l.Setup.In() != l.In {
			return errors.New("bmRequestType has the other direction")
		}
	case numbers == 1, numbers == 2 && l.In:
		l.Endpoint = uint8(n[0])
		if numbers == 2 {
			l.Asked = int(n[1])
		}
		if l.Endpoint&0x80 != 0 != l.In {
			return errors.New("the endpoint has the other direction")
		}
	default:
		return fmt.Errorf("%d numbers are neither an endpoint nor a control transfer", numbers)
	}
	for i := numbers; i < len(words); i++ {
		var err error
		switch {
		case words[i] == "zlp":
			l.ZLP = true
		case words[i] == "held" && i+1 < len(words):
			i++
			l.Held, err = time.ParseDuration(words[i])
		default:
			l.Timeout, err = time.ParseDuration(words[i])
		}
		if err != nil {
			return err
		}
	}
	return l.parseBytes(data)
}

func isHex(word string) bool {
	return strings.Trim(word, "0123456789ABCDEF") == ""
}

// parseBytes reads the part behind a bar.
func (l *Line) parseBytes(text string) error {
	for word := range strings.FieldsSeq(text) {
		if l.Err != nil {
			return errors.New("bytes behind the failure")
		}
		if i := slices.IndexFunc(failures, func(f struct {
			word string
			err  error
		}) bool {
			return f.word == word
		}); i >= 0 {
			l.Err = failures[i].err
			continue
		}
		b := notation.Bytes{Data: l.Data, Any: l.Any}
		if b.Append(word) != nil {
			return fmt.Errorf("%q is neither bytes nor a failure", word)
		}
		l.Data, l.Any = b.Data, b.Any
	}
	return nil
}

// check returns an error if the parts of a line contradict each other.
func (l *Line) check() error {
	switch {
	case l.Kind != Transfer:
	case l.Control && !l.In && l.Err == nil && len(l.Data) != l.Asked:
		return fmt.Errorf("wLength is %d, and there are %d bytes", l.Asked, len(l.Data))
	case l.In && l.Asked > 0 && len(l.Data) > l.Asked, l.Control && l.In && len(l.Data) > l.Asked:
		return fmt.Errorf("%d bytes are more than the %d that were asked for", len(l.Data), l.Asked)
	}
	return nil
}

// address is the direction and where the transfer goes.
func (l *Line) address() string {
	dir := "OUT"
	if l.In {
		dir = "IN"
	}
	if l.Control {
		return fmt.Sprintf("%v %04X %04X %04X", l.Setup, l.Setup.Value, l.Setup.Index, l.Asked)
	}
	return fmt.Sprintf("%s %02X", dir, l.Endpoint)
}

// String returns the line in the notation, without what l leaves open.
func (l Line) String() string {
	switch l.Kind {
	case Claim:
		return fmt.Sprintf("claim %X", l.Endpoint)
	case Release:
		return fmt.Sprintf("release %X", l.Endpoint)
	case ClearHalt:
		return fmt.Sprintf("clear %02X", l.Endpoint)
	case Reset:
		return "reset"
	case Unplug:
		return "unplug"
	case Wait:
		return "wait " + l.Held.String()
	case Event:
		return "* " + l.Name
	case Step:
		return "== " + l.Name
	}
	var b strings.Builder
	b.WriteString(l.address())
	if !l.Control && l.Asked > 0 {
		fmt.Fprintf(&b, " %04X", l.Asked)
	}
	if l.ZLP {
		b.WriteString(" zlp")
	}
	if l.Timeout > 0 {
		b.WriteString(" " + l.Timeout.String())
	}
	if l.Held > 0 {
		b.WriteString(" held " + l.Held.String())
	}
	if len(l.Data) > 0 || l.Err != nil || !l.Control {
		b.WriteString(" |")
	}
	for i, data := 0, (&notation.Bytes{Data: l.Data, Any: l.Any}); i < len(l.Data); i++ {
		b.WriteString(" " + data.At(i))
	}
	if l.Err != nil {
		b.WriteString(" " + failure(l.Err))
	}
	return b.String()
}

func failure(err error) string {
	for _, f := range failures {
		if errors.Is(err, f.err) {
			return f.word
		}
	}
	return "failed"
}

// String returns the session as text.
func (s Session) String() string {
	var b strings.Builder
	for _, l := range s {
		b.WriteString(l.String() + "\n")
	}
	return b.String()
}

// Same reports whether got matches the line. What the line leaves open matches anything.
func (l *Line) Same(got *Line) bool {
	if l.Kind != got.Kind || l.In != got.In || l.Control != got.Control || l.Setup != got.Setup ||
		l.Endpoint != got.Endpoint || l.Name != got.Name || len(l.Data) != len(got.Data) {
		return false
	}
	if l.Err == nil != (got.Err == nil) || l.Err != nil && !errors.Is(got.Err, l.Err) {
		return false
	}
	if (l.Control || l.Asked > 0) && l.Asked != got.Asked || l.Timeout > 0 && l.Timeout != got.Timeout || l.ZLP != got.ZLP {
		return false
	}
	for i, c := range l.Data {
		if c != got.Data[i] && (i >= len(l.Any) || !l.Any[i]) {
			return false
		}
	}
	return true
}

// Diff describes the first difference between got and the session, or returns "". Steps,
// events and pauses do not count on either side: they are not visible on a bus.
func (s Session) Diff(got Session) string {
	s, got = s.bus(), got.bus()
	for i := range max(len(s), len(got)) {
		switch {
		case i >= len(got):
			return fmt.Sprintf("transfer %d never came\nwant %s", i+1, s[i])
		case i >= len(s):
			return fmt.Sprintf("transfer %d is one more\ngot  %s", i+1, got[i])
		case !s[i].Same(&got[i]):
			return fmt.Sprintf("transfer %d, line %d\ngot  %s\nwant %s", i+1, s[i].number, got[i], s[i])
		}
	}
	return ""
}

// bus returns the lines of a session that are visible on a bus.
func (s Session) bus() Session {
	return slices.DeleteFunc(slices.Clone(s), func(l Line) bool {
		return l.Kind == Wait || l.Kind == Event || l.Kind == Step
	})
}

// Log records a session. It is for Device.Observe.
type Log struct {
	mu    sync.Mutex
	lines Session
}

// Add appends a line.
func (r *Log) Add(l Line) {
	r.mu.Lock()
	defer r.mu.Unlock()
	l.Data = slices.Clone(l.Data)
	r.lines = append(r.lines, l)
}

// Session returns what was recorded so far, without standard requests: drivers do not
// send them, and each kernel sends different ones.
func (r *Log) Session() Session {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(r.lines), func(l Line) bool { return l.standard() })
}

// standard reports whether the line is a standard request.
func (l *Line) standard() bool {
	return l.Kind == Transfer && l.Control && isStandard(l.Setup)
}
