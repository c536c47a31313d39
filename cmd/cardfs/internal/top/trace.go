package top

import "strings"

// traceLines is how many lines of a trace are kept.
const traceLines = 2000

// trace is what was read of a slot's trace.
type trace struct {
	lines []string
	part  string // of a line whose end was not read yet
	ended string // why no more comes
	back  int    // how many lines the screen is behind the last one
}

// add takes what was read.
func (t *trace) add(text string) {
	text = t.part + text
	for {
		line, rest, whole := strings.Cut(text, "\n")
		if !whole {
			break
		}
		t.lines = append(t.lines, line)
		if t.back > 0 {
			t.back++ // what is looked at stays where it is
		}
		text = rest
	}
	t.part = text
	if over := len(t.lines) - traceLines; over > 0 {
		t.lines = append(t.lines[:0], t.lines[over:]...)
	}
	t.back = min(t.back, len(t.lines))
}

func (t *trace) scroll(k string, page int) {
	by := map[string]int{
		"up": 1, "k": 1, "down": -1, "j": -1, "pgup": page, "ctrl-b": page, "pgdn": -page, "ctrl-f": -page, " ": -page,
		"home": len(t.lines), "g": len(t.lines), "end": -len(t.lines), "G": -len(t.lines),
	}[k]
	t.back = min(max(0, t.back+by), max(0, len(t.lines)-page))
}

// shown are the lines for a screen that wide and high, long ones in pieces.
func (t *trace) shown(width, height int) []string {
	width, height = max(1, width), max(0, height)
	var out []string
	for i := len(t.lines) - 1 - t.back; i >= 0 && len(out) < height; i-- {
		var pieces []string
		for rest := []rune(t.lines[i]); ; {
			n := min(width, len(rest))
			pieces = append(pieces, string(rest[:n]))
			if rest = rest[n:]; len(rest) == 0 {
				break
			}
		}
		for j := len(pieces) - 1; j >= 0 && len(out) < height; j-- {
			out = append(out, pieces[j])
		}
	}
	for i, j := 0, len(out)-1; i < j; i, j = i+1, j-1 {
		out[i], out[j] = out[j], out[i]
	}
	return out
}
