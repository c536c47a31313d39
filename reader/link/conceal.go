package link

import (
	"strings"
	"unicode"
)

// Conceal is the error of a secret command, see concealed.
func Conceal(err error) error { return concealed{err} }

// concealed is the error of a secret command without the numbers in its text. Any number
// may be a length, and VERIFY's length tells the PIN's.
type concealed struct{ error }

func (c concealed) Unwrap() error { return c.error }

// Error has N in place of each number, but for those of T=0 and T=1.
func (c concealed) Error() string {
	text := c.error.Error()
	var out strings.Builder
	for len(text) > 0 {
		n := strings.IndexFunc(text, alphanumeric)
		if n != 0 { // what is between words, or all that is left
			if n < 0 {
				n = len(text)
			}
			out.WriteString(text[:n])
			text = text[n:]
			continue
		}
		if n = strings.IndexFunc(text, func(r rune) bool { return !alphanumeric(r) }); n < 0 {
			n = len(text)
		}
		word := text[:n]
		text = text[n:]
		protocol := strings.HasSuffix(out.String(), "T=") && (word == "0" || word == "1")
		if word[0] >= '0' && word[0] <= '9' && !protocol {
			word = "N"
		}
		out.WriteString(word)
	}
	return out.String()
}

func alphanumeric(r rune) bool { return unicode.IsLetter(r) || unicode.IsDigit(r) }
