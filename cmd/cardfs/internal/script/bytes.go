package script

import (
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
)

// value is bytes, as far as they are known before the script runs.
type value struct {
	b      []byte
	known  bool
	secret bool // typed by a user, or of a masked answer
}

type variables map[string]value

// part is a piece of bytes: one of these is set.
type part struct {
	literal  []byte
	variable string
	group    *group
}

// group is "( … )": a length and what it counts.
type group struct{ body []part }

// scanner reads bytes from a text.
type scanner struct {
	text []rune
	at   int
}

// parseBytes reads the bytes grammar, the whole text.
func parseBytes(text string) ([]part, error) {
	s := &scanner{text: []rune(text)}
	parts, err := s.parts(0)
	if err == nil && s.at < len(s.text) {
		return nil, s.errorf("a ) without its (")
	}
	return parts, err
}

func (s *scanner) errorf(format string, args ...any) error {
	return fmt.Errorf("column %d: "+format, append([]any{s.at + 1}, args...)...)
}

// maxGroups is how deep groups are nested at most.
const maxGroups = 16

// parts reads up to the end or a ")".
func (s *scanner) parts(depth int) (list []part, err error) {
	var digits []rune
	flush := func() error {
		literal, err := hex.DecodeString(string(digits))
		if err != nil { // they are digits, as was seen
			return s.errorf("an odd number of hex digits before it")
		}
		if len(literal) > 0 {
			list = append(list, part{literal: literal})
		}
		digits = nil
		return nil
	}
	for ; s.at < len(s.text); s.at++ {
		r := s.text[s.at]
		if isHex(r) {
			digits = append(digits, r)
			continue
		}
		if r == ' ' || r == '\t' {
			continue
		}
		if err := flush(); err != nil {
			return nil, err
		}
		switch r {
		case ')':
			return list, nil
		case '(':
			if depth == maxGroups {
				return nil, s.errorf("nested deeper than %d", maxGroups)
			}
			s.at++
			body, err := s.parts(depth + 1)
			if err != nil {
				return nil, err
			}
			if s.at == len(s.text) {
				return nil, s.errorf("a ) is missing")
			}
			list = append(list, part{group: &group{body}})
		case '$':
			name, err := s.name()
			if err != nil {
				return nil, err
			}
			list = append(list, part{variable: name})
		case '"':
			text, err := s.quoted()
			if err != nil {
				return nil, err
			}
			list = append(list, part{literal: []byte(text)})
		default:
			return nil, s.errorf("neither a hex digit, nor $, ( or \"")
		}
	}
	return list, flush()
}

// name reads NAME or {NAME} behind a "$", and stays on its last character.
func (s *scanner) name() (string, error) {
	rest := string(s.text[s.at+1:])
	braced := strings.HasPrefix(rest, "{")
	if braced {
		rest = rest[1:]
	}
	n := strings.IndexFunc(rest, func(r rune) bool { return !isNameRune(r) })
	if n < 0 {
		n = len(rest)
	}
	name := rest[:n]
	if !isName(name) {
		return "", s.errorf("a variable's name is letters, digits and _, and begins with a letter")
	}
	if braced && !strings.HasPrefix(rest[n:], "}") {
		return "", s.errorf("a } is missing")
	}
	s.at += n
	if braced {
		s.at += 2
	}
	return name, nil
}

// quoted reads text up to the next quotation mark, and stays on it.
func (s *scanner) quoted() (string, error) {
	for i := s.at + 1; i < len(s.text); i++ {
		if s.text[i] == '"' {
			text := string(s.text[s.at+1 : i])
			s.at = i
			return text, nil
		}
	}
	return "", s.errorf("the \" has no end")
}

func isHex(r rune) bool {
	return r >= '0' && r <= '9' || r >= 'a' && r <= 'f' || r >= 'A' && r <= 'F'
}

func isNameRune(r rune) bool {
	return r == '_' || r >= '0' && r <= '9' || r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z'
}

func isName(s string) bool {
	return s != "" && s[0] > '9' && !strings.ContainsFunc(s, func(r rune) bool { return !isNameRune(r) })
}

func nibble(r rune) byte {
	return byte(strings.IndexRune("0123456789abcdef", r|0x20)) & 0x0F
}

var errTooLong = errors.New("longer than a command can be")

// evaluate puts the variables in. A group at the fifth byte of a command is its Lc field
// and data; any other group has a BER-TLV length.
func evaluate(parts []part, vars variables, command bool) (value, error) {
	v := value{known: true}
	for _, p := range parts {
		switch {
		case p.literal != nil:
			v.b = append(v.b, p.literal...)
		case p.group != nil:
			inner, err := evaluate(p.group.body, vars, false)
			if err != nil {
				return v, err
			}
			length, err := lengthOf(len(inner.b), command && len(v.b) == 4)
			if err != nil && inner.known && v.known {
				return v, err
			}
			v.b = append(append(v.b, length...), inner.b...)
			v.known, v.secret = v.known && inner.known, v.secret || inner.secret
		default:
			is, ok := vars[p.variable]
			if !ok {
				return v, fmt.Errorf("variable %s is not set", p.variable)
			}
			v.b = append(v.b, is.b...)
			v.known, v.secret = v.known && is.known, v.secret || is.secret
		}
		if len(v.b) > 1<<17 {
			return v, errTooLong
		}
	}
	return v, nil
}

// lengthOf is the field before n bytes: Lc of ISO/IEC 7816-3:2006 §12.1.3, else the length
// of ISO/IEC 7816-4:2020 §6.3.
func lengthOf(n int, lc bool) ([]byte, error) {
	switch {
	case lc && n == 0:
		return nil, errors.New("a command has no Lc where it has no data")
	case n > 0xFFFF:
		return nil, errTooLong
	case lc && n <= 0xFF, n <= 0x7F:
		return []byte{byte(n)}, nil
	case lc:
		return []byte{0, byte(n >> 8), byte(n)}, nil
	case n <= 0xFF:
		return []byte{0x81, byte(n)}, nil
	}
	return []byte{0x82, byte(n >> 8), byte(n)}, nil
}
