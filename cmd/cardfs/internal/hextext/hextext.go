// Package hextext reads hex as people write it.
package hextext

import (
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"unicode"
)

// Parse reads hex as the exchange files do: blanks anywhere, case free, a
// comment from # on. Its errors show nothing of the text, which may hold a PIN.
func Parse(text string) ([]byte, error) {
	text, _, _ = strings.Cut(text, "#")
	var digits []byte
	for i, r := range []rune(text) {
		switch {
		case unicode.IsSpace(r):
		case strings.ContainsRune("0123456789ABCDEFabcdef", r):
			digits = append(digits, byte(r))
		default:
			return nil, fmt.Errorf("character %d is no hex digit", i+1)
		}
	}
	if len(digits)%2 != 0 {
		return nil, errors.New("an odd number of hex digits")
	}
	return hex.AppendDecode(nil, digits)
}
