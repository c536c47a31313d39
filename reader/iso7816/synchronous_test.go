package iso7816

import (
	"errors"
	"strings"
	"testing"
)

// "Its answer to reset is four bytes, H1 to H4, and no TS", whatever they are.
func TestSynchronousATR(t *testing.T) {
	for _, tt := range []struct {
		atr  string
		size int // by H2
		says string
	}{
		{"A2 13 10 91", 256, "2-wire"},
		{"92 23 10 91", 1024, "3-wire"},
		{"82 4B 10 84", 32768, "I2C"},
		{"82 1B 10 84", 512, "DIR data at byte 4"},
		{"00 00 00 00", 0, "states no size"},
		{"3B 00 FF FF", 0, "protocol type 3"},
	} {
		b := unhex(t, tt.atr)
		a, err := ParseSynchronousATR(b)
		if err != nil {
			t.Errorf("%s: %v", tt.atr, err)
			continue
		}
		var words strings.Builder
		if err := a.Describe(&words); err != nil {
			t.Error(err)
		}
		if !a.Synchronous() || a.MemorySize() != tt.size || len(a.Protocols()) != 0 || len(a.Historical()) != 0 || len(a.Defects()) != 0 || string(a.Bytes()) != string(b) {
			t.Errorf("%s: %d bytes, protocols %v", tt.atr, a.MemorySize(), a.Protocols())
		}
		if !strings.Contains(words.String(), tt.says) || strings.Count(words.String(), "\n") != 4 {
			t.Errorf("%s: %q", tt.atr, words.String())
		}
	}
	for atr, reason := range map[string]ATRReason{"": ATREmpty, "A2 13 10": ATRMissing, "A2 13 10 91 00": ATRTooLong} {
		_, err := ParseSynchronousATR(unhex(t, atr))
		var e *ATRError
		if !errors.As(err, &e) || e.Reason != reason {
			t.Errorf("%q: %v", atr, err)
		}
	}
	if a, err := ParseATR(unhex(t, "3B 02 14 50")); err != nil || a.Synchronous() || a.MemorySize() != 0 {
		t.Errorf("an asynchronous card's: %v", err)
	}
}
