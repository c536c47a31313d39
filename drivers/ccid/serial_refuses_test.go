package ccid

import (
	"bytes"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cardfs/cardfs/drivers/bus/serial/serialtest"
	"github.com/cardfs/cardfs/drivers/ccid/emu"
	"github.com/cardfs/cardfs/reader"
)

// What a card has been sent, it is not sent again: a VERIFY may be a wrong PIN. A reader that
// refuses noise before a command, and then does it, has not refused the command.
func TestSerialRefusesNoise(t *testing.T) {
	for at := range 14 {
		synctest.Test(t, func(t *testing.T) {
			e := emu.NewTwin()
			e.Strict = true
			err := faultySerial(t, e, func(p *serialtest.Plugged, dev, host int) {
				p.Inject(serialtest.Fault{At: dev + at, Kind: serialtest.Noise})
			})
			if at == 0 && err != nil {
				t.Error(err)
			}
		})
	}
}

// The reader refuses something, and is at work on the command all the same: it says that it
// is busy, or asks for time.
func TestSerialRefusesAndWorks(t *testing.T) {
	for _, answer := range []string{"40 E0", "40 F2", "80 01"} {
		synctest.Test(t, func(t *testing.T) {
			e := emu.NewTwin()
			var c *testCard
			n := 0
			e.Requests = true
			err := faultySerial(t, e, func(p *serialtest.Plugged, _, _ int) {
				c = e.Contacts()[0].Card().(*testCard)
				c.slow = 1200 * time.Millisecond
				e.Corrupt(func(p []byte) []byte {
					switch n++; n {
					case 1: // the request for time
						return unhex("03 15 16")
					case 2: // the next, in place of an answer to the GetSlotStatus
						return appendFrame(nil, unhex("81 00 00 00 00 00 FC "+answer+" 00"))
					}
					return p
				})
			})
			if err != nil || n < 3 {
				t.Errorf("%s: %v, %d", answer, err, n)
			}
		})
	}
}

func TestSerialAnswers(t *testing.T) {
	change := func(at int, v byte) func(p []byte) []byte {
		return func(p []byte) []byte {
			if at < len(p) {
				p[at] ^= v
			}
			return p
		}
	}
	once := func(f func([]byte) []byte) func([]byte) []byte {
		n := 0
		return func(p []byte) []byte {
			if n++; n > 1 {
				return p
			}
			return f(p)
		}
	}
	lost := func([]byte) []byte { return nil }
	for _, c := range []struct {
		name   string
		change func([]byte) []byte
		want   error
	}{
		{"wrong sum", once(change(14, 1)), nil},
		{"wrong sum three times", func() func([]byte) []byte {
			n := 0
			return func(p []byte) []byte {
				if n++; n > serialTries {
					return p
				}
				return change(14, 1)(p)
			}
		}(), nil},
		{"always a wrong sum", change(14, 1), reader.ErrProtocol},
		{"lost", once(lost), reader.ErrTimeout},
		{"the first half", once(func(p []byte) []byte { return p[:8] }), nil},
		{"nonsense before it", once(func(p []byte) []byte { return append(unhex("00 11 22 03 06 FF 03 06 6F FF FF FF 7F"), p...) }), nil},
		{"notices before it", once(func(p []byte) []byte { return append(unhex("50 02 50 03"), p...) }), nil},
		{"requests for time before it", once(func(p []byte) []byte { return append(bytes.Repeat(unhex("FF"), 20), p...) }), nil},
		{"a refusal in it, damaged", once(func(p []byte) []byte { return append(p[:12], unhex("03 15 16 00 00 00 00")...) }), nil},
		{"always refused", func([]byte) []byte { return unhex("03 15 16") }, reader.ErrProtocol},
		{"twice", once(func(p []byte) []byte { return append(p, p...) }), nil},
		{"another's before it", once(func(p []byte) []byte {
			return append(unhex("03 06 80 02 00 00 00 00 63 00 00 00 6A 82 0C"), p...)
		}), nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := emu.NewTwin()
				err := faultySerial(t, e, func(*serialtest.Plugged, int, int) { e.Corrupt(c.change) })
				if c.want == nil && err != nil || c.want != nil && !errors.Is(err, c.want) && !errors.Is(err, reader.ErrGone) {
					t.Errorf("%v, want %v", err, c.want)
				}
				if err != nil && strings.Contains(err.Error(), "31") {
					t.Errorf("%v has bytes of the command", err)
				}
			})
		})
	}
}

// An echo with a valid sum that is of another command: the reader may have done that one.
func TestSerialForeignEcho(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := emu.NewTwin()
		e.Echo = false
		var sent []byte
		err := faultySerial(t, e, func(*serialtest.Plugged, int, int) {
			e.Corrupt(func(p []byte) []byte {
				if sent == nil {
					sent = appendFrame(nil, unhex("6F 09 00 00 00 00 03 00 00 00 00 20 00 01 04 39 39 39 39"))
					return append(sent, p...)
				}
				return p
			})
		})
		if !errors.Is(err, reader.ErrProtocol) || !strings.Contains(err.Error(), "repeated another command") {
			t.Error(err)
		}
	})
}
