// Package tracelog follows the trace of slots, and makes capture files and recorded
// sessions of it.
//
// The trace is a log for people, and this package reads it as any program can: what the
// daemon masks, nobody gets here. Line is a line taken apart, Loop follows the traces of
// several slots, and Capture and Recorder are what is made of their lines.
package tracelog

import (
	"strconv"
	"strings"
	"time"

	"github.com/cardfs/cardfs/reader/iso7816"
)

// Kind is what a line of a trace says.
type Kind int

const (
	Other   Kind = iota // anything else, such as escape commands and what a display shows
	Command             // a C-APDU, or what a PIN pad makes one of
	Answer              // an R-APDU
	Error               // why there was none, or no ATR
	Reset               // "cold" or "warm" in Text
	ATR
	Wire // what goes over the contacts, below the APDUs
	Lost // lines were lost before the next one
)

// Line is a line of a trace.
type Line struct {
	At     time.Time
	Kind   Kind
	Bytes  []byte // of Command, Answer and ATR: what is shown
	Masked bool   // bytes are missing behind those of a Command, before those of an Answer
	PINPad bool   // a person enters what is missing
	Text   string // without time and direction
	Lost   uint64
}

// Parse takes a line apart that was read at now.
func Parse(text string, now time.Time) Line {
	if n, ok := strings.CutPrefix(text, "# lost="); ok {
		lost, _ := strconv.ParseUint(n, 10, 64)
		return Line{At: now, Kind: Lost, Lost: lost, Text: text}
	}
	l := Line{At: now, Text: text}
	stamp, rest, _ := strings.Cut(text, " ")
	if of, err := time.Parse("15:04:05.000000", stamp); err == nil {
		l.At, l.Text = when(of, now), rest
	}
	for _, form := range []struct {
		prefix string
		kind   Kind
		pad    bool
	}{
		{">   ", Wire, false}, {"<   ", Wire, false},
		{"> C-APDU ", Command, false}, {"> PIN pad: ", Command, true},
		{"< R-APDU ", Answer, false}, {"< PIN pad: ", Answer, true},
		{"ATR ", ATR, false},
		{"! ", Error, false},
	} {
		if body, ok := strings.CutPrefix(l.Text, form.prefix); ok {
			l.Kind, l.PINPad = form.kind, form.pad
			l.take(body)
			return l
		}
	}
	if how, ok := strings.CutSuffix(l.Text, " reset"); ok && (how == "cold" || how == "warm") {
		l.Kind, l.Text = Reset, how
	}
	return l
}

// take takes what follows the words that said the kind.
func (l *Line) take(body string) {
	switch l.Kind {
	case Command:
		var rest string
		l.Bytes, rest = leading(body)
		l.Masked = l.PINPad || strings.HasPrefix(rest, iso7816.Masked)
	case Answer:
		body, l.Masked = strings.CutPrefix(body, iso7816.Masked)
		l.Bytes, _ = leading(strings.TrimPrefix(body, " "))
	case ATR:
		l.Bytes, _ = leading(body)
	case Error:
		l.Text = body
	}
}

// leading is the bytes in upper-case hexadecimal at the beginning of a text, with a blank
// between two of them, and what comes then.
func leading(text string) (b []byte, rest string) {
	for {
		word, after, _ := strings.Cut(text, " ")
		if len(word) != 2 || word != strings.ToUpper(word) {
			return b, text
		}
		v, err := strconv.ParseUint(word, 16, 8)
		if err != nil {
			return b, text
		}
		b, text = append(b, byte(v)), after
	}
}

// zone is what the offsets of all time zones are multiples of.
const zone = 15 * time.Minute

// when is the time nearest to now that is of this time of the day somewhere: the daemon's
// time zone may be another than ours, and midnight may be between.
func when(of, now time.Time) time.Time {
	day := now.UTC().Truncate(24 * time.Hour)
	h, m, s := of.Clock()
	at := day.Add(time.Duration(h)*time.Hour + time.Duration(m)*time.Minute + time.Duration(s)*time.Second + time.Duration(of.Nanosecond()))
	return at.Add(now.Sub(at).Round(zone))
}
