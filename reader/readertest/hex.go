package readertest

import (
	"encoding/hex"
	"strings"
)

// Hex returns the bytes of a text such as "3B 02 14 50". It panics if the text is another one:
// a test has it wrong.
func Hex(text string) []byte {
	b, err := hex.DecodeString(strings.ReplaceAll(text, " ", ""))
	if err != nil {
		panic(text + ": " + err.Error())
	}
	return b
}

// Pattern returns the bytes 0, 1, 2 … 255, 0 … n of them.
func Pattern(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i)
	}
	return b
}
