package readertest

import (
	"bytes"
	"testing"

	"github.com/cardfs/cardfs/reader/link"
)

// EveryLength has a Card take and give each number of bytes that a short APDU may have: answers
// of none to 256 bytes, data of 1 to 255, and answers as long as the data.
func EveryLength(t testing.TB, l *link.Link) {
	t.Helper()
	for n := range 257 {
		tx := []byte{0x80, 0xE2, byte(n >> 8), byte(n), byte(n)}
		if n == 0 {
			tx = tx[:4]
		}
		exchange(t, l, tx, append(Pattern(n), 0x90, 0x00))
		if n == 0 || n == 256 {
			continue
		}
		tx = append([]byte{0x80, 0xE0, 0, 0, byte(n)}, Pattern(n)...)
		exchange(t, l, tx, Hex("90 00"))
		tx[1] = 0xEE
		exchange(t, l, append(tx, 0), append(Pattern(n), 0x90, 0x00))
	}
}

// Lengths has a Card take each number of bytes of nc and give each of ne for it (ISO/IEC
// 7816-3:2006 §12.1.3, the four short cases).
func Lengths(t testing.TB, l *link.Link, nc, ne []int) {
	t.Helper()
	for _, c := range nc {
		for _, e := range ne {
			tx, data := []byte{0x80, 0xE2, byte(e >> 8), byte(e)}, []byte(nil)
			if c > 0 {
				for i := range c {
					data = append(data, byte(i*3+c))
				}
				tx[1] = 0xEA
				tx = append(append(tx, byte(c)), data...)
			}
			if e > 0 {
				tx = append(tx, byte(e))
			}
			exchange(t, l, tx, mirrored(data, e))
		}
	}
}

func exchange(t testing.TB, l *link.Link, command, want []byte) {
	t.Helper()
	got, err := l.Transmit(t.Context(), command, nil)
	if err != nil || !bytes.Equal(got, want) {
		t.Fatalf("command of %d bytes, answer of %d wanted: %d bytes, %v", len(command), len(want), len(got), err)
	}
}

// mirrored is a Card's answer of n bytes to data.
func mirrored(data []byte, n int) []byte {
	var sum byte
	for i, b := range data {
		sum += b + byte(i)
	}
	answer := Pattern(n)
	for i := range answer {
		answer[i] += sum
	}
	return append(answer, 0x90, byte(len(data)))
}
