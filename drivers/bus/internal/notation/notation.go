// Package notation is what the sessions of all buses have in common as text: lines with
// comments, and bytes. Packages usbtest and serialtest describe it.
package notation

import (
	"encoding/hex"
	"fmt"
	"strings"
)

// Lines calls f for each line of text that says something, without its comment. number
// counts from 1. An error of f ends it and is returned with the line.
func Lines(text string, f func(number int, line string) error) error {
	number := 0
	for line := range strings.Lines(text) {
		number++
		line, _, _ = strings.Cut(line, "#")
		if line = strings.TrimSpace(line); line == "" {
			continue
		}
		if err := f(number, line); err != nil {
			return fmt.Errorf("line %d, %q: %w", number, line, err)
		}
	}
	return nil
}

// Bytes are bytes of which some may be unknown.
type Bytes struct {
	Data []byte
	Any  []bool // the bytes of Data that are ??; nil: none
}

// Append appends the bytes that a word stands for: 3B, 3B02, ??.
func (b *Bytes) Append(word string) error {
	if word != "" && strings.Trim(word, "?") == "" && len(word)%2 == 0 {
		for range len(word) / 2 {
			b.Any = append(b.Any, make([]bool, len(b.Data)-len(b.Any))...)
			b.Data, b.Any = append(b.Data, 0), append(b.Any, true)
		}
		return nil
	}
	p, err := hex.DecodeString(word)
	if err != nil || word == "" {
		return fmt.Errorf("%q are no bytes", word)
	}
	b.Data = append(b.Data, p...)
	return nil
}

// Unknown reports whether byte i is ??.
func (b *Bytes) Unknown(i int) bool { return i < len(b.Any) && b.Any[i] }

// At is byte i as a word.
func (b *Bytes) At(i int) string {
	if b.Unknown(i) {
		return "??"
	}
	return fmt.Sprintf("%02X", b.Data[i])
}
