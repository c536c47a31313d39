package script

import (
	"bytes"
	"fmt"
	"slices"
	"strings"

	"github.com/cardfs/cardfs/cmd/cardfs/internal/exit"
	"github.com/cardfs/cardfs/cmd/cardfs/internal/explain"
	"github.com/cardfs/cardfs/reader/iso7816"
)

// Session runs lines, one after the other.
type Session struct {
	Host Host
	// OK refuses an answer that is neither 9000 nor 61xx, where the line expects none.
	OK bool

	vars    variables
	secrecy iso7816.Secrecy
}

// Do checks a line and runs it.
func (s *Session) Do(line string) error {
	step, ok, err := parseLine(line)
	if err != nil {
		return exit.Usage("%w; nothing was sent", err)
	}
	if !ok {
		return nil
	}
	return s.run(&step)
}

// run runs a step, which was parsed.
func (s *Session) run(step *step) error {
	if s.vars == nil {
		s.vars = make(variables)
	}
	switch step.verb {
	case "set":
		v, err := evaluate(step.bytes, s.vars, false)
		if err != nil {
			return exit.Usage("%w", err)
		}
		s.vars[step.name] = v
		return nil
	case "prompt":
		fill, err := evaluate(step.bytes, s.vars, false)
		if err != nil {
			return exit.Usage("%w", err)
		}
		typed, err := s.answers([]question{{what: step.name, fill: fill.b}})
		if err == nil {
			s.vars[step.name] = value{b: typed, known: true, secret: true}
		}
		return err
	case "echo":
		text, err := expand(step.text, s.vars)
		if err != nil {
			return exit.Usage("%w", err)
		}
		return s.Host.Echo(text)
	case "reset", "cold":
		s.secrecy = false
		return s.Host.Reset(step.verb)
	case "lock":
		return s.Host.Lock()
	case "unlock":
		return s.Host.Unlock()
	}
	return s.exchange(step)
}

// exchange sends a step's command, looks at what came, and keeps it.
func (s *Session) exchange(step *step) error {
	b, err := step.command(s.vars)
	if err != nil {
		return exit.Usage("%w; it was not sent", err)
	}
	for _, p := range step.want {
		if name := p.undefined(s.vars); name != "" {
			return exit.Usage("variable %s is not set; the command was not sent", name)
		}
	}
	typed, err := s.answers(b.ask)
	if err != nil {
		return err
	}
	secret := b.secret || len(b.ask) > 0
	capdu, err := b.assemble(typed)
	switch {
	case err != nil && secret: // the reason would tell a PIN's length
		return exit.Usage("with what is secret in it it is no command; it was not sent")
	case err != nil:
		return exit.Usage("%w; it was not sent", err)
	}
	if s.secrecy.Next(capdu); secret {
		s.secrecy = true
	}
	rapdu, err := s.Host.Exchange(capdu, secret)
	if err != nil {
		return err
	}
	if step.into != "" {
		data := slices.Clone(rapdu[:max(0, len(rapdu)-2)])
		s.vars[step.into] = value{b: data, known: true, secret: bool(s.secrecy)}
	}
	return s.compare(step, capdu, rapdu)
}

// compare is an error if the answer is not what the line expects. Of a secret command's
// answer it shows SW1 SW2.
func (s *Session) compare(step *step, capdu, rapdu []byte) error {
	if slices.ContainsFunc(step.want, func(p pattern) bool { return p.matches(rapdu, s.vars) }) {
		return nil
	}
	if len(step.want) == 0 {
		if s.OK && Refused(rapdu) {
			return exit.Status{Code: exit.Refused, Err: fmt.Errorf("the card answered %s", s.show(capdu, rapdu))}
		}
		return nil
	}
	want := step.wantText
	if bool(s.secrecy) && slices.ContainsFunc(step.want, func(p pattern) bool { return !p.status() }) {
		want = iso7816.Masked
	}
	return exit.Status{Code: exit.Refused, Err: fmt.Errorf("expected %s, got %s", want, s.show(capdu, rapdu))}
}

// show is an answer in hex and words.
func (s *Session) show(capdu, rapdu []byte) string {
	if bool(s.secrecy) {
		return iso7816.MaskedAnswer(rapdu)
	}
	text := fmt.Sprintf("% X", rapdu)
	if c, err := iso7816.ParseCommand(capdu); err == nil && len(rapdu) == 2 {
		text += fmt.Sprintf(" (%s)", explain.Status(c, uint16(rapdu[0])<<8|uint16(rapdu[1])))
	}
	return text
}

// Refused reports whether an answer is neither 9000 nor 61xx.
func Refused(rapdu []byte) bool {
	sw := rapdu[max(0, len(rapdu)-2):]
	return !bytes.Equal(sw, []byte{0x90, 0}) && (len(sw) < 2 || sw[0] != 0x61)
}

// answers asks the user, and puts what was typed together.
func (s *Session) answers(questions []question) (all []byte, err error) {
	var last []byte
	for _, q := range questions {
		typed, err := s.Host.Ask(q.what)
		switch {
		case err != nil:
			return nil, err
		case len(typed) == 0:
			return nil, exit.Usage("nothing was typed; nothing was sent")
		case q.same && !bytes.Equal(typed, last):
			return nil, exit.Usage("it is not the same; nothing was sent")
		case len(q.fill) > 0 && len(typed) > len(q.fill):
			return nil, exit.Usage("what was typed is too long; nothing was sent")
		}
		last = typed
		if q.same {
			continue
		}
		all = append(all, typed...)
		if len(q.fill) > len(typed) {
			all = append(all, q.fill[len(typed):]...)
		}
	}
	return all, nil
}

// Keep reports whether a line may go into a history: it is in order, and what it holds is
// no secret. What is no command, or looks like a PIN, may be one typed into the wrong place.
func (s *Session) Keep(line string) bool {
	step, ok, err := parseLine(line)
	if err != nil || !ok || looksLikePIN(strings.TrimSpace(line)) {
		return false
	}
	switch step.verb {
	case "set", "prompt":
		return false
	case "":
	default:
		return true
	}
	b, err := step.command(s.vars)
	if err != nil {
		return false
	}
	if len(b.ask) > 0 { // what is secret is typed later
		return true
	}
	capdu, err := b.assemble(nil)
	return err == nil && (!iso7816.Secret(capdu) || len(capdu) == 4)
}

// looksLikePIN reports whether a line is of digits alone, or one short word of hex in an
// unusual class.
func looksLikePIN(line string) bool {
	return !strings.ContainsFunc(line, func(r rune) bool { return r < '0' || r > '9' }) ||
		len(line) <= 16 && !strings.ContainsFunc(line, func(r rune) bool { return !isHex(r) }) && line[:2] != "00" && line[:2] != "80"
}

// expand puts hex in the place of a text's variables.
func expand(text string, vars variables) (string, error) {
	if len(text) > 1 && strings.HasPrefix(text, `"`) && strings.HasSuffix(text, `"`) {
		text = text[1 : len(text)-1]
	}
	var out strings.Builder
	s := &scanner{text: []rune(text)}
	for ; s.at < len(s.text); s.at++ {
		if s.text[s.at] != '$' {
			out.WriteRune(s.text[s.at])
			continue
		}
		name, err := s.name()
		if err != nil {
			return "", err
		}
		v, ok := vars[name]
		switch {
		case !ok:
			return "", fmt.Errorf("variable %s is not set", name)
		case v.secret:
			out.WriteString(iso7816.Masked)
		default:
			fmt.Fprintf(&out, "% X", v.b)
		}
	}
	return out.String(), nil
}
