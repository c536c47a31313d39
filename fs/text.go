package fs

import (
	"bytes"
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
	if err := checkDigits(line); err != nil {
		return dst, err
	}
	if i := bytes.IndexByte(line, '#'); i >= 0 {
		line = line[:i]
	}
	half := -1
	for _, c := range line {
		switch digit := hexDigit(c); {
		case digit == blank:
		case half < 0:
			half = digit
		default:
			dst = append(dst, byte(half<<4|digit))
			half = -1
		}
	}
	if half >= 0 {
		return dst, fmt.Errorf("%w: %w", errOdd, reader.ErrInvalid)
	}
	return dst, nil
}

// checkDigits reports why line is not hex or the beginning of a line of hex. It decodes
// nothing, so that there is no second copy of a command to wipe.
func checkDigits(line []byte) error {
	for i, c := range line {
		switch hexDigit(c) {
		case comment:
			return nil
		case noDigit:
			return fmt.Errorf("character %d is no hex digit: %w", i+1, reader.ErrInvalid)
		}
	}
	return nil
}

// What hexDigit says of a byte that is no digit.
const (
	blank = -1 - iota
	comment
	noDigit
)

func hexDigit(c byte) int {
	switch {
	case c >= '0' && c <= '9':
		return int(c - '0')
	case c >= 'A' && c <= 'F':
		return int(c-'A') + 10
	case c >= 'a' && c <= 'f':
		return int(c-'a') + 10
	case c == ' ', c == '\t', c == '\r', c == '\v', c == '\f':
		return blank
	case c == '#':
		return comment
	}
	return noDigit
}
