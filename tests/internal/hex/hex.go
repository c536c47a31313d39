// Package hex converts between bytes and hex as cardfs's files, logs and tests write it:
// with or without spaces, in either case.
package hex

import (
	"encoding/hex"
	"fmt"
	"strings"
)

// Decode returns the bytes of s. White space is ignored.
func Decode(s string) ([]byte, error) {
	return hex.DecodeString(strings.Join(strings.Fields(s), ""))
}

// Bytes is Decode of a constant. It panics if s is not hex.
func Bytes(s string) []byte {
	b, err := Decode(s)
	if err != nil {
		panic(fmt.Sprintf("hex.Bytes(%q): %v", s, err))
	}
	return b
}

// Spaced returns b in the form that cardfs's files use: "90 00".
func Spaced(b []byte) string { return fmt.Sprintf("% X", b) }
