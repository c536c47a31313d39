package script

import (
	"bufio"
	"fmt"
	"io"
	"strings"

	"github.com/cardfs/cardfs/cmd/cardfs/internal/exit"
)

// Script is a file of lines that are in order.
type Script struct {
	name  string
	lines []numbered
}

type numbered struct {
	number int
	step   step
}

// maxLine bounds a line, continued ones included: the longest command has 131,094 digits.
const maxLine = 1 << 20

// Parse reads a script and checks all of its lines. A backslash at the end of a line
// continues it.
func Parse(name string, r io.Reader) (*Script, error) {
	sc := &Script{name: name}
	vars := make(variables)
	in := bufio.NewScanner(r)
	in.Buffer(nil, maxLine)
	var line strings.Builder
	number, first := 0, 1
	flush := func() error {
		st, ok, err := parseLine(line.String())
		if err == nil && ok {
			err = st.check(vars)
		}
		if err != nil {
			return exit.Usage("%s:%d: %w; nothing was sent", name, first, err)
		}
		if ok {
			sc.lines = append(sc.lines, numbered{first, st})
		}
		line.Reset()
		first = number + 1
		return nil
	}
	for in.Scan() {
		number++
		text, more := strings.CutSuffix(strings.TrimRight(in.Text(), " \t\r"), `\`)
		line.WriteString(text)
		if line.Len() > maxLine {
			return nil, exit.Usage("%s:%d: %w; nothing was sent", name, first, bufio.ErrTooLong)
		}
		if more {
			line.WriteByte(' ')
			continue
		}
		if err := flush(); err != nil {
			return nil, err
		}
	}
	if err := in.Err(); err != nil {
		return nil, fmt.Errorf("%s:%d: %w; nothing was sent", name, number+1, err)
	}
	return sc, flush()
}

// Run runs the lines up to the first error, which says which it was.
func (sc *Script) Run(s *Session) error {
	for i := range sc.lines {
		if err := s.run(&sc.lines[i].step); err != nil {
			return fmt.Errorf("%s:%d: %w", sc.name, sc.lines[i].number, err)
		}
	}
	return nil
}
