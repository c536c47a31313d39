package readertest

import (
	"testing"
	"time"
)

// patience bounds the wait for what takes milliseconds on an idle machine.
const patience = time.Minute

// Eventually waits for a state that no event announces.
func Eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not within %v: %s", patience, what)
		}
	}
}
