package fs

import (
	"errors"
	"fmt"

	"github.com/cardfs/cardfs/reader"
)

const hexDigits = "0123456789ABCDEF"

// appendHex writes p as a line of spaced upper-case hex.
func appendHex(dst, p []byte) []byte {
	for i, b := range p {
		if i > 0 {
			dst = append(dst, ' ')
		}
		dst = append(dst, hexDigits[b>>4], hexDigits[b&15])
	}
	return append(dst, '\n')
}

// maxLine bounds a line that is still coming: the longest C-APDU (65,544
// bytes) fits with two blanks between its bytes and a comment behind.
const maxLine = 1 << 19

// blanks are what may be between digits.
const blanks = " \t\r\v\f"

var errOdd = errors.New("an odd number of hex digits")

// parseHex reads a line of hex: blanks anywhere between digits, case free, a
// comment from # on. The result is empty for a blank line. It appends to dst: where that
// has room for half the line, no other copy is made.
func parseHex(dst, line []byte) ([]byte, error) {
	half := -1
	for i, c := range line {
		var digit int
		switch {
		case c >= '0' && c <= '9':
			digit = int(c - '0')
		case c >= 'A' && c <= 'F':
			digit = int(c-'A') + 10
		case c >= 'a' && c <= 'f':
			digit = int(c-'a') + 10
		case c == ' ', c == '\t', c == '\r', c == '\v', c == '\f':
			continue
		case c == '#':
			line = nil
		default:
			return dst, fmt.Errorf("character %d is no hex digit: %w", i+1, reader.ErrInvalid)
		}
		if line == nil {
			break
		}
		if half < 0 {
			half = digit
		} else {
			dst = append(dst, byte(half<<4|digit))
			half = -1
		}
	}
	if half >= 0 {
		return dst, fmt.Errorf("%w: %w", errOdd, reader.ErrInvalid)
	}
	return dst, nil
}
