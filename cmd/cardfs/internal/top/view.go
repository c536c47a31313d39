package top

import (
	"fmt"
	"strings"

	"github.com/rivo/uniseg"
)

// look is how a piece of text is drawn. Colours only repeat what words say.
type look int

const (
	plain look = iota
	strong
	dim
	good
	warning
	wrong
	graph
)

// piece is text in a line, in so many columns; 0: as it comes.
type piece struct {
	text  string
	width int
	right bool
	look  look
}

// line is a line of the screen. The chosen row's and the titles are drawn in reverse.
type line struct {
	pieces  []piece
	reverse bool
}

func text(l look, format string, args ...any) line {
	return line{pieces: []piece{{text: fmt.Sprintf(format, args...), look: l}}}
}

// fit cuts text to a width, and fills it up to it.
func (p piece) fit(ascii bool) string {
	if p.width == 0 {
		return p.text
	}
	s, w := p.text, uniseg.StringWidth(p.text)
	if w > p.width {
		more := "…"
		if ascii {
			more = "~"
		}
		var out strings.Builder
		w = 0
		for g := uniseg.NewGraphemes(s); g.Next() && w+g.Width() < p.width; w += g.Width() {
			out.WriteString(g.Str())
		}
		s, w = out.String()+more, w+1
	}
	blanks := strings.Repeat(" ", p.width-w)
	if p.right {
		return blanks + s
	}
	return s + blanks
}

// columns of a row, for a screen that wide.
type columns struct{ reader, card, plot int }

// fixed is the width of the other columns and of the blanks between all: what view has.
const fixed = 5 + 1 + 8 + 1 + 1 + 4 + 7 + 7 + 1 + 7 + 1

func columnsOf(width int) columns {
	c := columns{plot: min(max(8, (width-fixed)/4), plotLength)}
	rest := max(12, width-fixed-c.plot)
	c.reader = rest * 9 / 20
	c.card = rest - c.reader
	return c
}

// view is the whole screen, a line for each of its lines.
func (m *model) view(ascii bool) []line {
	var out []line
	switch m.mode {
	case helping:
		out = m.helpView()
	case tracing:
		out = m.traceView()
	default:
		out = m.rowsView(ascii)
	}
	return out[:min(len(out), max(0, m.height))]
}

func (m *model) rowsView(ascii bool) []line {
	c := columnsOf(m.width)
	out := []line{m.totals(), titles(c)}
	for _, n := range m.inSight() {
		out = append(out, m.rows[n].view(c, ascii, n == m.selected))
	}
	for len(out) < m.height-2 {
		out = append(out, line{})
	}
	return append(out, m.detail(), m.lastLine())
}

func titles(c columns) line {
	return line{reverse: true, pieces: []piece{
		{text: "N", width: 5, right: true}, {text: " "}, {text: "STATE", width: 8}, {text: " "},
		{text: "READER", width: c.reader}, {text: " "}, {text: "CARD", width: c.card},
		{text: "SES", width: 4, right: true}, {text: "EXCH/S", width: 7, right: true}, {text: "TIME", width: 7, right: true},
		{text: " "}, {text: "", width: c.plot}, {text: "ERRORS", width: 7, right: true}, {text: " "},
	}}
}

func (r *row) view(c columns, ascii, chosen bool) line {
	latency := latencyText(r.latency)
	if ascii {
		latency = strings.Replace(latency, "µ", "u", 1)
	}
	sessions := ""
	if r.sessions > 0 {
		sessions = fmt.Sprint(r.sessions)
	}
	stateLook := map[string]look{"starting": warning, "failed": wrong, "empty": dim, "powered": good}[r.state]
	errors := plain
	if r.newErrors > 0 {
		errors = wrong
	}
	return line{reverse: chosen, pieces: []piece{
		{text: fmt.Sprint(r.number), width: 5, right: true}, {text: " "}, {text: r.state, width: 8, look: stateLook}, {text: " "},
		{text: r.reader, width: c.reader}, {text: " "}, {text: r.card, width: c.card},
		{text: sessions, width: 4, right: true}, {text: r.rateText(), width: 7, right: true}, {text: latency, width: 7, right: true},
		{text: " "}, {text: r.plotText(c.plot, ascii), width: c.plot, look: graph},
		{text: fmt.Sprint(r.errors), width: 7, right: true, look: errors}, {text: " "},
	}}
}

func (m *model) totals() line {
	var readers, cards, powered, failed int
	var rate float64
	for _, r := range m.rows {
		if r.first {
			readers++
		}
		switch r.state {
		case "powered":
			powered++
			cards++
		case "present":
			cards++
		case "failed":
			failed++
		}
		rate += r.rate
	}
	l := text(strong, "cardfs")
	l.pieces = append(l.pieces, piece{text: fmt.Sprintf("  %s, %s, %d powered", count(readers, "reader"), count(cards, "card"), powered)})
	if failed > 0 {
		l.pieces = append(l.pieces, piece{text: fmt.Sprintf(", %d failed", failed), look: wrong})
	}
	l.pieces = append(l.pieces, piece{text: fmt.Sprintf("  %.0f exch/s", rate)})
	if sort := sorts[m.sort].name; m.sort > 0 || m.reverse {
		if m.reverse {
			sort += ", reversed"
		}
		l.pieces = append(l.pieces, piece{text: "  by " + sort})
	}
	if m.filter != "" && m.mode != filtering {
		l.pieces = append(l.pieces, piece{text: fmt.Sprintf("  /%s: %d", m.filter, len(m.order))})
	}
	l.pieces = append(l.pieces, piece{text: "  " + m.dir, look: dim})
	return l
}

func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// detail is what the columns do not say of the chosen slot, or say cut.
func (m *model) detail() line {
	r := m.rows[m.selected]
	switch {
	case !m.begun:
		return line{}
	case len(m.rows) == 0:
		return text(dim, "no reader; attach one, as in: cardfs attach sim ikey3k")
	case len(m.order) == 0:
		return text(dim, "no reader matches %s", m.filter)
	case r == nil:
		return line{}
	case r.err != "":
		return text(wrong, "%d: %s", r.number, r.err)
	}
	out := fmt.Sprintf("%d: %s", r.number, r.reader)
	if r.host != "" {
		out += " at " + r.host
	}
	for _, s := range []string{r.card, r.byID} {
		if s != "" {
			out += ", " + s
		}
	}
	if r.waiting != "" {
		out += ", has asked for time for " + r.waiting + " s"
	}
	if r.held {
		out += ", transaction held"
	}
	return text(dim, "%s", out)
}

func (m *model) lastLine() line {
	switch {
	case m.mode == filtering:
		return line{pieces: []piece{{text: "/" + m.filter}, {text: "_", look: strong}, {text: fmt.Sprintf("  %d match", len(m.order)), look: dim}}}
	case m.mode == confirming:
		return text(warning, "%s", m.question)
	case m.message != "" && m.bad:
		return text(wrong, "%s", m.message)
	case m.message != "":
		return text(plain, "%s", m.message)
	}
	return text(dim, "? help  / filter  s sort  r reset  p power  e eject  t trace  q quit")
}

func (m *model) helpView() []line {
	out := []line{text(strong, "cardfs top")}
	for l := range strings.SplitSeq(Help, "\n") {
		out = append(out, text(plain, "%s", l))
	}
	return append(out, line{}, text(dim, "any key returns"))
}

func (m *model) traceView() []line {
	head := text(strong, "trace of slot %d", m.traced)
	if r := m.rows[m.traced]; r != nil {
		head.pieces = append(head.pieces, piece{text: "  " + r.reader + "  " + r.card})
	}
	out := []line{head}
	for _, l := range m.trace.shown(m.width, m.height-2) {
		out = append(out, text(plain, "%s", l))
	}
	for len(out) < m.height-1 {
		out = append(out, line{})
	}
	switch {
	case m.trace.ended != "":
		return append(out, text(wrong, "%s (q returns)", m.trace.ended))
	case m.trace.back > 0:
		return append(out, text(dim, "%d lines from the end; end goes on, q returns", m.trace.back))
	}
	return append(out, text(dim, "q returns"))
}
