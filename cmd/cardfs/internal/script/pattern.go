package script

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// pattern is what an answer has to be. One of two bytes without a variable or a star is
// SW1 SW2 alone, whatever the data before it; any other is the whole answer.
type pattern []item

// item is a byte, with wildcards, any number of bytes, or a variable's.
type item struct {
	value, mask byte
	star        bool
	variable    string
}

// parsePatterns reads alternatives with "|" between them.
func parsePatterns(text string) (list []pattern, err error) {
	for alternative := range strings.SplitSeq(text, "|") {
		p, err := parsePattern(alternative)
		if err != nil {
			return nil, err
		}
		list = append(list, p)
	}
	return list, nil
}

func parsePattern(text string) (p pattern, err error) {
	var half []item // the first digit of a byte
	s := &scanner{text: []rune(text)}
	for ; s.at < len(s.text); s.at++ {
		r := s.text[s.at]
		digit := item{}
		switch {
		case r == ' ' || r == '\t':
			continue
		case isHex(r):
			digit = item{value: nibble(r), mask: 0x0F}
		case r == '.' || r == 'x' || r == 'X':
		case half != nil:
			return nil, errors.New("an odd number of digits in what is expected")
		case r == '*':
			p = append(p, item{star: true})
			continue
		case r == '$':
			name, err := s.name()
			if err != nil {
				return nil, fmt.Errorf("in what is expected: %w", err)
			}
			p = append(p, item{variable: name})
			continue
		default:
			return nil, errors.New("what is expected is hex digits, x or . for any digit, * for any bytes, $NAME, and | between alternatives")
		}
		if half == nil {
			half = []item{digit}
			continue
		}
		p = append(p, item{value: half[0].value<<4 | digit.value, mask: half[0].mask<<4 | digit.mask})
		half = nil
	}
	switch {
	case half != nil:
		return nil, errors.New("an odd number of digits in what is expected")
	case len(p) == 0:
		return nil, errors.New("nothing is expected; SW1 SW2 are the least")
	case len(p) == 1 && !p[0].star && p[0].variable == "":
		return nil, errors.New("one byte is expected; SW1 SW2 are the least")
	}
	return p, nil
}

// status reports whether the pattern is of SW1 SW2 alone.
func (p pattern) status() bool {
	return len(p) == 2 && !slices.ContainsFunc(p, func(i item) bool { return i.star || i.variable != "" })
}

// undefined is the first variable of p that is not there, "" if all are.
func (p pattern) undefined(vars variables) string {
	for _, i := range p {
		if _, ok := vars[i.variable]; i.variable != "" && !ok {
			return i.variable
		}
	}
	return ""
}

// matches reports whether an answer is as expected.
func (p pattern) matches(rapdu []byte, vars variables) bool {
	if p.status() {
		return len(rapdu) >= 2 && p.match(rapdu[len(rapdu)-2:])
	}
	var with pattern
	for _, i := range p {
		if i.variable == "" {
			with = append(with, i)
			continue
		}
		for _, b := range vars[i.variable].b {
			with = append(with, item{value: b, mask: 0xFF})
		}
	}
	return with.match(rapdu)
}

// match goes back to the last star where a byte does not fit: what stands before it fits
// already, whatever it takes.
func (p pattern) match(b []byte) bool {
	at, star, from := 0, -1, 0
	for i := 0; i < len(b); {
		switch {
		case at < len(p) && p[at].star:
			star, from = at, i
			at++
		case at < len(p) && b[i]&p[at].mask == p[at].value:
			at++
			i++
		case star >= 0:
			from++
			at, i = star+1, from
		default:
			return false
		}
	}
	for at < len(p) && p[at].star {
		at++
	}
	return at == len(p)
}
