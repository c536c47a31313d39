package usb

import (
	"context"
	"errors"
	"testing"
	"time"
)

// USB 2.0 §9.4.3: GET_DESCRIPTOR has the type in the high byte of wValue, the index in the
// low one, and the language in wIndex. Only the bytes that were moved belong to the
// descriptor; a failed transfer has none.
func TestStringTable(t *testing.T) {
	type answer struct {
		text string // from the start of the buffer
		n    int    // moved, as the transport says
		err  error
	}
	var asked []Setup
	var next answer
	known := map[uint8]string{9: "known"}
	table := NewStringTable(func(ctx context.Context, s Setup, data []byte, timeout time.Duration) (int, error) {
		asked = append(asked, s)
		if len(data) != 255 || timeout <= 0 || ctx.Err() != nil {
			t.Errorf("%v: room for %d bytes, time-out %v, %v", s, len(data), timeout, ctx.Err())
		}
		if s.Value == 0x0300 {
			return copy(data, "\x06\x03\x07\x04\x09\x04"), nil // German comes first
		}
		copy(data, next.text)
		return next.n, next.err
	}, known)
	known[9], known[8] = "changed", "changed"
	broken := errors.New("broken")
	for _, tt := range []struct {
		what  string
		index uint8
		answer
		want string
		asks int
	}{
		{"no string", 0, answer{"\x04\x03a\x00", 4, nil}, "", 0},
		{"known", 9, answer{"\x04\x03a\x00", 4, nil}, "known", 0},
		{"the first, and before it the languages", 8, answer{"\x04\x03\x34\x12", 4, nil}, "\u1234", 2},
		{"the same", 8, answer{"\x04\x03a\x00", 4, nil}, "\u1234", 0},
		{"another", 7, answer{"\x08\x03\x3D\xD8\x00\xDE!\x00", 8, nil}, "\U0001F600!", 1},
		{"whole, but failed", 6, answer{"\x04\x03a\x00", 4, broken}, "", 1},
		{"the same again", 6, answer{"\x04\x03a\x00", 4, nil}, "", 0},
		{"no byte", 5, answer{"\x04\x03a\x00", 0, nil}, "", 1},
		{"one byte", 4, answer{"\x04\x03a\x00", 1, nil}, "", 1},
		{"no unit", 3, answer{"\x04\x03a\x00", 2, nil}, "", 1},
		{"half a unit", 2, answer{"\x04\x03a\x00", 3, nil}, "", 1},
		{"one of two units", 1, answer{"\x06\x03a\x00b\x00", 4, nil}, "a", 1},
		{"one and a half", 10, answer{"\x06\x03a\x00b\x00", 5, nil}, "a", 1},
		{"longer than it says", 11, answer{"\x04\x03a\x00b\x00", 6, nil}, "a", 1},
		{"of another type", 12, answer{"\x04\x02a\x00", 4, nil}, "", 1},
		{"255 bytes", 255, answer{"\xFF\x03a\x00", 255, nil}, "a" + string(make([]byte, 125)), 1},
	} {
		asked, next = nil, tt.answer
		if got := table.Get(tt.index); got != tt.want {
			t.Errorf("%s: %q, want %q", tt.what, got, tt.want)
		}
		if len(asked) != tt.asks {
			t.Errorf("%s: asked %v, want %d requests", tt.what, asked, tt.asks)
		}
		if tt.asks == 2 && asked[0] != (Setup{RequestType: 0x80, Request: 6, Value: 0x0300}) {
			t.Errorf("%s: languages by %+v", tt.what, asked[0])
		}
		if want := (Setup{RequestType: 0x80, Request: 6, Value: 0x0300 | uint16(tt.index), Index: 0x0407}); tt.asks > 0 && asked[tt.asks-1] != want {
			t.Errorf("%s: by %+v, want %+v", tt.what, asked[tt.asks-1], want)
		}
	}
}
