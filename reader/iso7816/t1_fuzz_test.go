package iso7816

import (
	"errors"
	"testing"
)

// FuzzT1 plays a card that sends whatever the fuzzer wants, over and over.
// Run with: go test -fuzz FuzzT1 ./reader/iso7816
func FuzzT1(f *testing.F) {
	// A mode byte, then messages: a length byte and as many bytes; length FF is
	// silence, FE damage. Bit 2 of the mode: the messages have no EDC, the
	// test adds a right one.
	f.Add([]byte{0x04, 5, 0x00, 0x00, 2, 0x90, 0x00})
	f.Add([]byte{0x04, 0xFF, 3, 0x00, 0x90, 0x00, 0xFE, 4, 0x00, 0xC3, 1, 9, 4, 0x00, 0xC1, 1, 254})
	f.Add([]byte{0x05, 3, 0x00, 0xC2, 0x00, 3, 0x00, 0xE2, 0x00, 3, 0x00, 0xE0, 0x00})
	f.Add([]byte{0x06, 5, 0x00, 0x20, 2, 0x90, 0x00, 5, 0x00, 0x60, 2, 0x90, 0x00})
	f.Add([]byte{0x02, 3, 0x00, 0x00, 0xFF})
	f.Fuzz(func(t *testing.T, in []byte) {
		if len(in) < 2 {
			return
		}
		mode, in := in[0], in[1:]
		cfg := T1Config{Params: DefaultParams(1), MaxResponse: 1000,
			Character: mode&2 != 0}
		cfg.Params.CRC = mode&1 != 0
		if mode&8 != 0 {
			cfg.Repeatable = func([]byte) bool { return true }
		}
		var pending []byte
		pos := 0
		message := func() ([]byte, error) {
			n := int(in[pos%len(in)])
			pos++
			switch n {
			case 0xFF:
				return nil, ErrTimeout
			case 0xFE:
				return nil, errors.New("damage")
			}
			b := make([]byte, n%40)
			for i := range b {
				b[i] = in[pos%len(in)]
				pos++
			}
			if mode&4 != 0 {
				b = appendEDC(b, 0, cfg.Params.CRC)
			}
			return b, nil
		}
		m := NewT1(cfg)
		run := func(s Step) {
			// The longest: 1000 response blocks of a byte, each with all its
			// failures, and the waiting time; characters one by one.
			for n := 0; !s.Done; n++ {
				if n > 200_000 {
					t.Fatal("no end")
				}
				if s.Extended && n > 1000 {
					s = m.Expire()
					continue
				}
				if len(s.Send) > 3+254+2 {
					t.Fatalf("a block of %d bytes", len(s.Send))
				}
				if len(s.Send) == 0 && !cfg.Character {
					t.Fatalf("nothing to send: %+v", s)
				}
				if (s.Want > 0) != cfg.Character || s.Wait <= 0 {
					t.Fatalf("%+v", s)
				}
				var b []byte
				var err error
				switch {
				case !cfg.Character:
					b, err = message()
				case len(s.Send) > 0:
					pending, err = message()
					fallthrough
				default:
					k := min(s.Want, len(pending))
					b, pending = pending[:k], pending[k:]
					if k == 0 && err == nil {
						err = ErrTimeout
					}
				}
				s = m.Next(b, err)
			}
			if s.Err == nil && len(m.Response()) > cfg.MaxResponse {
				t.Fatalf("a response of %d bytes", len(m.Response()))
			}
		}
		run(m.Setup())
		run(m.Start(make([]byte, 300), nil))
		run(m.Start([]byte{0, 0x84, 0, 0, 8}, nil))
	})
}
