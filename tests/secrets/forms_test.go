package secrets

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"strings"
	"testing"
)

// secret is what no output may hold, nor any part of window bytes of it.
type secret struct {
	name   string
	value  []byte
	window int
	// key: the state file may have it.
	key bool
}

// forms are the ways in which a part of a secret could be written down: the bytes, hex with and
// without spaces in either case, and base64, wherever in the text the part begins.
func (s secret) forms() map[string]string {
	all := map[string]string{}
	add := func(form string, text []byte) { all[string(text)] = s.name + " as " + form }
	for i := 0; i+s.window <= len(s.value); i++ {
		part := s.value[i : i+s.window]
		add("bytes", part)
		for _, format := range []string{"%x", "%X", "% x", "% X"} {
			add("hex", fmt.Appendf(nil, format, part))
		}
	}
	window := min(8, len(s.value)) // fewer characters of base64 are found by chance
	for i := 0; i+window <= len(s.value); i++ {
		for before := range 3 {
			padded := append(make([]byte, before), s.value[i:i+window]...)
			text := base64.RawStdEncoding.EncodeToString(padded)
			add("base64", []byte(text[(8*before+5)/6:len(padded)*8/6]))
		}
	}
	if digits := string(s.value); strings.Trim(digits, "0123456789") == "" && len(digits)%2 == 0 {
		// Two digits a byte, and that in a PIN block of format 2 (ISO 9564-1:2017 §9.3.4).
		bcd, _ := hex.DecodeString(digits)
		block := append([]byte{0x20 | byte(len(digits))}, bcd...)
		for _, coded := range [][]byte{bcd, append(block, bytes.Repeat([]byte{0xFF}, 8-len(block))...)} {
			add("BCD", coded)
			add("BCD in hex", fmt.Appendf(nil, "% X", coded))
			add("BCD in hex", fmt.Appendf(nil, "% x", coded))
			add("BCD in base64", []byte(base64.RawStdEncoding.EncodeToString(coded)[:len(coded)*8/6]))
		}
	}
	return all
}

// search reports what of the secrets is in an output.
func search(output []byte, secrets []secret) (found []string) {
	forms := map[int]map[string]string{} // by length
	for _, s := range secrets {
		for text, form := range s.forms() {
			if forms[len(text)] == nil {
				forms[len(text)] = map[string]string{}
			}
			forms[len(text)][text] = form
		}
	}
	for n, all := range forms {
		for i := 0; i+n <= len(output); i++ {
			if form, ok := all[string(output[i:i+n])]; ok {
				found = append(found, form)
			}
		}
	}
	return found
}

// The search finds what is there, in each form.
func TestForms(t *testing.T) {
	s := secret{name: "PIN", value: []byte("47110815"), window: 8}
	for _, text := range []string{"47110815", "x3437313130383135x", "34 37 31 31 30 38 31 35", "NDcxMTA4MTU=", "47 11 08 15",
		"\x47\x11\x08\x15", "28 47 11 08 15 FF FF FF", base64.StdEncoding.EncodeToString([]byte("A47110815B"))} {
		if len(search([]byte(text), []secret{s})) == 0 {
			t.Errorf("%q is not found", text)
		}
	}
}
