package main

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// mutant is one edit.
type mutant struct {
	file      string // relative to the top of the tree
	line      int    // 0: anywhere
	note      string
	old, new  string
	packages  []string // to test; empty: by import
	equal     string   // why it changes nothing
	generated bool
}

func (m mutant) describe() string {
	if m.note != "" {
		return m.note
	}
	return fmt.Sprintf("`%s` -> `%s`", oneLine(m.old), oneLine(m.new))
}

// String is m as an entry of a list.
func (m mutant) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s:%d %s\n", m.file, m.line, m.note)
	b.WriteString("-" + strings.ReplaceAll(m.old, "\n", "\n-") + "\n")
	b.WriteString("+" + strings.ReplaceAll(m.new, "\n", "\n+") + "\n\n")
	return b.String()
}

// apply returns text with the edit m made.
func (m mutant) apply(text []byte) ([]byte, error) {
	var lines []string
	for line := range strings.SplitSeq(m.old, "\n") {
		lines = append(lines, regexp.QuoteMeta(strings.TrimSpace(line)))
	}
	places := regexp.MustCompile(strings.Join(lines, `[ \t]*\n\s*`)).FindAllIndex(text, -1)
	switch {
	case m.old == "":
		return nil, errors.New("no text to replace")
	case len(places) == 0:
		return nil, fmt.Errorf("`%s` is not in it", oneLine(m.old))
	case len(places) > 1 && m.line == 0:
		return nil, fmt.Errorf("`%s` is in it %d times; say which line", oneLine(m.old), len(places))
	}
	away := func(place []int) int {
		d := 1 + bytes.Count(text[:place[0]], []byte("\n")) - m.line
		return max(d, -d)
	}
	at := slices.MinFunc(places, func(a, b []int) int { return cmp.Compare(away(a), away(b)) })
	return slices.Concat(text[:at[0]], []byte(m.new), text[at[1]:]), nil
}

func readLists(names []string) ([]mutant, error) {
	var all []mutant
	for _, name := range names {
		text, err := os.ReadFile(name)
		if err != nil {
			return nil, err
		}
		list, err := parseList(string(text))
		if err != nil {
			return nil, fmt.Errorf("%s:%w", name, err)
		}
		all = append(all, list...)
	}
	return all, nil
}

// parseList reads entries, with blank lines between them. The error begins with
// the number of the line.
func parseList(text string) ([]mutant, error) {
	var all []mutant
	var old, new []string
	inside := false
	end := func(line int) error {
		if !inside {
			return nil
		}
		m := &all[len(all)-1]
		m.old = strings.TrimSpace(strings.Join(old, "\n"))
		m.new = strings.TrimSpace(strings.Join(new, "\n"))
		if m.old == "" || m.old == m.new {
			return fmt.Errorf("%d: %s changes nothing", line, m.file)
		}
		old, new, inside = nil, nil, false
		return nil
	}
	number := 0
	for line := range strings.Lines(text) {
		number++
		line = strings.TrimRight(line, "\n")
		if strings.TrimSpace(line) == "" {
			if err := end(number); err != nil {
				return nil, err
			}
			continue
		}
		mark, rest := line[0], line[1:]
		switch {
		case mark == '#':
		case !inside:
			place, note, _ := strings.Cut(line, " ")
			file, at, _ := strings.Cut(place, ":")
			m := mutant{file: file, note: strings.TrimSpace(note)}
			if at != "" {
				n, err := strconv.Atoi(at)
				if err != nil {
					return nil, fmt.Errorf("%d: %q is no line number", number, at)
				}
				m.line = n
			}
			all, inside = append(all, m), true
		case mark == '-':
			old = append(old, rest)
		case mark == '+':
			new = append(new, rest)
		case mark == '@':
			all[len(all)-1].packages = strings.Fields(rest)
		case mark == '=':
			all[len(all)-1].equal = strings.TrimSpace(rest)
		default:
			return nil, fmt.Errorf("%d: %q begins with none of - + @ =", number, line)
		}
	}
	return all, end(number)
}
