package main

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"
)

// FuzzATRText checks that any text after `cardfs atr` gives bytes or an error, and that the
// bytes do not depend on how they are written.
func FuzzATRText(f *testing.F) {
	for _, s := range []string{"3B 00", "3b:b7:94", "3B,B7", "0x3B 0xB7", "3B#00", "0x", "::", "0x0x3B", "\u00a03B"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		b, err := parseATRText(text)
		if err != nil {
			return
		}
		for _, form := range []string{"% X", "%x", "% #x"} {
			again := fmt.Sprintf(form, b)
			for _, between := range []string{" ", ":", ", "} {
				got, err := parseATRText(strings.ReplaceAll(again, " ", between))
				if err != nil || !bytes.Equal(got, b) {
					t.Fatalf("%q is % X, %q is % X: %v", text, b, again, got, err)
				}
			}
		}
		var out strings.Builder
		if atr, err := parseATR(text); err == nil {
			if err := errors.Join(describeATR(atr, &out), atrAsJSON(atr, &out)); err != nil {
				t.Errorf("%q: %v", text, err)
			}
		}
	})
}
