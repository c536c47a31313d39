package tracelog

import (
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/cardfs/cardfs/drivers/replay"
	"github.com/cardfs/cardfs/reader/words"
)

// Recorder writes the lines of one slot's trace as a session, which package replay
// describes. Each line is written with one Write, so that a session that is cut off has
// whole lines.
type Recorder struct {
	w       io.Writer
	start   time.Time
	command bool // the line before was a command
}

// NewRecorder begins a session. Its first lines say what writes it, of which reader, and
// the ATR of a card that has power already; "" and nil: not known.
func NewRecorder(w io.Writer, start time.Time, by, model string, atr []byte) (*Recorder, error) {
	r := &Recorder{w: w, start: start}
	head := fmt.Sprintf("%s\n# %s, %s\n", replay.Magic, words.Printable(by, words.MaxWords), start.UTC().Format(time.RFC3339))
	if _, err := io.WriteString(w, head); err != nil {
		return nil, err
	}
	if model != "" {
		if err := r.write(replay.Line{At: -1, Kind: replay.Reader, Text: model}); err != nil {
			return nil, err
		}
	}
	if len(atr) > 0 {
		return r, r.write(replay.Line{Kind: replay.ATR, Bytes: atr})
	}
	return r, nil
}

// Take takes the next line. What a replay has no use for becomes a comment.
func (r *Recorder) Take(l Line) error {
	at := max(0, l.At.Sub(r.start))
	answers := r.command
	r.command = l.Kind == Command || l.Kind == Wire && r.command
	line := replay.Line{At: at, Bytes: l.Bytes, Masked: l.Masked}
	switch l.Kind {
	case Wire:
		return nil
	case Command:
		line.Kind = replay.Command
	case Answer:
		line.Kind = replay.Answer
	case Error:
		line.Kind, line.Text = replay.Error, replay.ErrorWord(l.Text)+" "+l.Text
	case Reset:
		line.Kind, line.Text = replay.Reset, l.Text
	case ATR:
		line.Kind = replay.ATR
	case Lost:
		line.Kind, line.Text = replay.Lost, fmt.Sprint(l.Lost)
	}
	if l.Kind == Other || l.Kind == Answer && !answers {
		_, err := fmt.Fprintf(r.w, "# %s\n", words.Printable(l.Text, words.MaxWords))
		return err
	}
	return r.write(line)
}

func (r *Recorder) write(l replay.Line) error {
	var b strings.Builder
	b.WriteString(l.String())
	b.WriteByte('\n')
	_, err := io.WriteString(r.w, b.String())
	return err
}
