package main

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"unicode"
)

// parseHex reads hex as the exchange files do: blanks anywhere, case free, a
// comment from # on.
func parseHex(text string) ([]byte, error) {
	text, _, _ = strings.Cut(text, "#")
	digits := strings.Map(func(r rune) rune {
		if unicode.IsSpace(r) {
			return -1
		}
		return r
	}, text)
	b, err := hex.DecodeString(digits)
	var bad hex.InvalidByteError
	switch {
	case errors.As(err, &bad):
		return nil, fmt.Errorf("%q is no hex digit", rune(bad))
	case errors.Is(err, hex.ErrLength):
		return nil, errors.New("an odd number of hex digits")
	}
	return b, err
}

// cutLine is the rest of the first line of text that begins with prefix.
func cutLine(text []byte, prefix string) (string, bool) {
	for line := range bytes.Lines(text) {
		if rest, ok := bytes.CutPrefix(line, []byte(prefix)); ok {
			return string(bytes.TrimSpace(rest)), true
		}
	}
	return "", false
}
