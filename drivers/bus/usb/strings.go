package usb

import (
	"context"
	"maps"
	"sync"
	"time"
	"unicode/utf16"
)

// stringTime bounds a request for a string descriptor.
const stringTime = time.Second

// StringTable reads a device's string descriptors in its first language, each once.
type StringTable struct {
	control func(context.Context, Setup, []byte, time.Duration) (int, error)

	mu    sync.Mutex
	known map[uint8]string
	lang  uint16
}

// NewStringTable makes a table that begins with the known strings and reads others with
// control, which is Conn.Control.
func NewStringTable(control func(context.Context, Setup, []byte, time.Duration) (int, error), known map[uint8]string) *StringTable {
	t := &StringTable{control: control, known: map[uint8]string{}}
	maps.Copy(t.known, known)
	return t
}

// Get implements Conn.String.
func (t *StringTable) Get(i uint8) string {
	if i == 0 {
		return ""
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	s, known := t.known[i]
	if known {
		return s
	}
	if t.lang == 0 {
		langs := t.read(0, 0)
		if len(langs) == 0 {
			return ""
		}
		t.lang = langs[0]
	}
	s = string(utf16.Decode(t.read(i, t.lang)))
	t.known[i] = s
	return s
}

// read reads a string descriptor's 16-bit units (USB 2.0 §9.6.7).
func (t *StringTable) read(i uint8, lang uint16) []uint16 {
	var b [255]byte
	n, err := t.control(context.Background(), Setup{0x80, 0x06, 3<<8 | uint16(i), lang}, b[:], stringTime)
	if err != nil || n < 2 || b[1] != 3 {
		return nil
	}
	d := b[2:max(2, min(n, int(b[0])))]
	units := make([]uint16, 0, len(d)/2)
	for ; len(d) >= 2; d = d[2:] {
		units = append(units, uint16(d[0])|uint16(d[1])<<8)
	}
	return units
}
