package script

import (
	"errors"
	"fmt"
	"strings"

	"github.com/cardfs/cardfs/reader/iso7816"
)

// step is a line, taken apart.
type step struct {
	verb string // "" for a command
	name string // the variable of set and prompt
	text string // of echo

	bytes []part // of set, of prompt's filling, of a command in hex
	call  *call  // a command by its name

	want     []pattern
	wantText string
	into     string // the variable that the answer's data goes to
}

// verbs are the words that begin lines that are no commands.
var verbs = []string{"set", "prompt", "echo", "reset", "cold", "lock", "unlock"}

// parseLine takes a line apart; of one without anything the second result is false.
func parseLine(line string) (step, bool, error) {
	line = strings.TrimSpace(withoutComment(line))
	word, rest, _ := strings.Cut(strings.ReplaceAll(line, "\t", " "), " ")
	rest = strings.TrimSpace(rest)
	var s step
	var err error
	switch s.verb = word; word {
	case "":
		return s, false, nil
	case "reset", "cold", "lock", "unlock":
		if rest != "" {
			err = fmt.Errorf("%s stands alone", word)
		}
	case "set", "prompt":
		s.name, rest, _ = strings.Cut(rest, " ")
		if !isName(s.name) {
			return s, true, fmt.Errorf("%s NAME: a name is letters, digits and _, and begins with a letter", word)
		}
		fill, filled := strings.CutPrefix(rest, "fill=")
		switch {
		case word == "set" && rest == "":
			return s, true, errors.New("set NAME HEX: there is nothing to set it to")
		case word == "prompt" && rest != "" && !filled:
			return s, true, errors.New("it is written prompt NAME [fill=HEX]; what it asks for is typed later")
		case word == "prompt":
			rest = fill
		}
		s.bytes, err = parseBytes(rest)
	case "echo":
		s.text = rest
	default:
		s.verb = ""
		s, err = parseCommand(line, word)
	}
	return s, true, err
}

// withoutComment cuts a line at the first # that is not quoted.
func withoutComment(line string) string {
	return line[:indexOutside(line, func(i int) bool { return line[i] == '#' })]
}

// indexOutside is the first place outside quotation marks where found, or the line's end.
func indexOutside(line string, found func(i int) bool) int {
	quoted := false
	for i := range len(line) {
		if line[i] == '"' {
			quoted = !quoted
		}
		if !quoted && found(i) {
			return i
		}
	}
	return len(line)
}

// parseCommand takes "COMMAND [= PATTERNS] [-> NAME]" apart.
func parseCommand(line, word string) (s step, err error) {
	m := lookUp(word)
	begins := func(i int) bool { return i == 0 || line[i-1] == ' ' || line[i-1] == '\t' || m == nil }
	arrow := indexOutside(line, func(i int) bool { return strings.HasPrefix(line[i:], "->") && begins(i) })
	if arrow < len(line) {
		if s.into = strings.TrimSpace(line[arrow+2:]); !isName(s.into) {
			return s, errors.New("-> NAME: a name is letters, digits and _, and begins with a letter")
		}
		line = line[:arrow]
	}
	equals := indexOutside(line, func(i int) bool { return line[i] == '=' && begins(i) })
	if equals < len(line) {
		s.wantText = strings.Join(strings.Fields(line[equals+1:]), " ")
		if s.want, err = parsePatterns(line[equals+1:]); err != nil {
			return s, err
		}
		line = line[:equals]
	}
	if m != nil {
		s.call, err = m.parse(strings.Fields(line)[1:])
		return s, err
	}
	if s.bytes, err = parseBytes(line); err != nil && strings.ContainsFunc(word, func(r rune) bool { return r|0x20 > 'f' && r|0x20 <= 'z' }) {
		return s, fmt.Errorf("the first word is no command's name and no hex%s", suggest(word))
	}
	if err == nil && len(s.bytes) == 0 {
		err = errors.New("there is no command before what is expected")
	}
	return s, err
}

// suggest names the command that a word is nearly.
func suggest(word string) string {
	for _, names := range [][]string{verbs, Names()} {
		for _, name := range names {
			if near(strings.ToLower(word), name) {
				return fmt.Sprintf("; did you mean %s?", name)
			}
		}
	}
	return ""
}

// near reports whether one edit, of a letter or of two neighbours, makes one of the other.
func near(a, b string) bool {
	i := 0
	for i < len(a) && i < len(b) && a[i] == b[i] {
		i++
	}
	a, b = a[i:], b[i:]
	cut := func(s string, n int) string { return s[min(n, len(s)):] }
	swapped := len(a) > 1 && len(b) > 1 && a[0] == b[1] && a[1] == b[0] && a[2:] == b[2:]
	return swapped || cut(a, 1) == b || a == cut(b, 1) || cut(a, 1) == cut(b, 1)
}

// check evaluates what is known of a step before it runs, and notes what it sets.
func (s *step) check(vars variables) error {
	switch s.verb {
	case "set":
		v, err := evaluate(s.bytes, vars, false)
		vars[s.name] = v
		return err
	case "prompt":
		_, err := evaluate(s.bytes, vars, false)
		vars[s.name] = value{}
		return err
	case "echo":
		_, err := expand(s.text, vars)
		return err
	case "":
	default:
		return nil
	}
	for _, p := range s.want {
		if name := p.undefined(vars); name != "" {
			return fmt.Errorf("variable %s is not set", name)
		}
	}
	b, err := s.command(vars)
	if err == nil && b.known {
		_, err = b.assemble(nil)
	}
	if s.into != "" {
		vars[s.into] = value{}
	}
	return err
}

// built is a command as far as it is known before a user types what it asks for.
type built struct {
	capdu   []byte           // of one in hex
	command *iso7816.Command // of one by its name
	ask     []question
	known   bool
	secret  bool
}

// question is what a user types into a command's data field.
type question struct {
	what string
	fill []byte // what is typed is laid over the beginning of these bytes, if there are any
	same bool   // it is the same as the one before, typed again, and not sent
}

func (s *step) command(vars variables) (built, error) {
	if s.call != nil {
		return s.call.build(vars)
	}
	v, err := evaluate(s.bytes, vars, true)
	return built{capdu: v.b, known: v.known, secret: v.secret}, err
}

// assemble is the command's bytes, with what the user typed.
func (b *built) assemble(typed []byte) ([]byte, error) {
	capdu := b.capdu
	if b.command != nil {
		c := *b.command
		c.Data = append(c.Data[:len(c.Data):len(c.Data)], typed...)
		var err error
		if capdu, err = c.Append(nil); err != nil {
			return nil, err
		}
	}
	_, err := iso7816.ParseCommand(capdu)
	return capdu, err
}
