package ccid

import (
	"bytes"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cardfs/cardfs/drivers/ccid/emu"
	"github.com/cardfs/cardfs/reader"
)

// A message may contain a PIN: the lane's buffer is wiped, whatever the result.
func TestMessageIsWiped(t *testing.T) {
	for _, kind := range []byte{cmdSecure, cmdXfrBlock} {
		for _, failed := range []error{nil, reader.ErrTimeout, reader.ErrGone} {
			synctest.Test(t, func(t *testing.T) {
				o, s := oddReader(t, emu.PINPadReader())
				var sent []byte
				o.out = func(p []byte) (int, error) {
					if p[0] == kind {
						sent = p // the buffer itself
						if failed != nil {
							return 0, failed
						}
					}
					return len(p), nil
				}
				pin := bytes.Repeat([]byte{0x31}, 40)
				if kind == cmdSecure {
					s.secure(ctx, pin, 0, nil)
				} else {
					s.Exchange(ctx, reader.Transfer{Out: pin}, nil)
				}
				if len(sent) != headerLen+40 || bytes.IndexByte(sent, 0x31) >= 0 {
					t.Errorf("%s, %v: % X", commandName(kind), failed, sent)
				}
			})
		}
	}
}

// A response longer than the first read moves to a longer buffer. The old buffer is
// wiped.
func TestFirstReadIsWiped(t *testing.T) {
	s := streaming(t, &stream{n: 4096})
	lane := s.slot.(*slot).lane
	before := lane.rx[:cap(lane.rx)]
	if got, err := s.exchange(); err != nil || !bytes.Equal(got, pattern(4096)) {
		t.Fatalf("%d bytes, %v", len(got), err)
	}
	if len(before) < firstRead || !bytes.Equal(before, make([]byte, len(before))) {
		t.Errorf("%d bytes, left % X", len(before), before[:32])
	}
}

// An error after time extensions says how many there were.
func TestTimeoutAfterExtensions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := opened(t, play(t, emu.TPDUReader(), hello+ask(cmdXfrBlock, 1)+`
			IN  81 | 80 00 00 00 00 00 01 80 01 00
			IN  81 | 80 00 00 00 00 00 01 80 01 00
			IN  81 | timeout
			OUT 21 01 0200 0000 0000
			OUT 02 | 72 00 00 00 00 00 02 00 00 00
			IN  81 | 81 00 00 00 00 00 02 00 00 00`)).slots[0]
		_, err := s.Exchange(ctx, reader.Transfer{Out: []byte{0}}, nil)
		if !errors.Is(err, reader.ErrTimeout) || !strings.Contains(err.Error(), "2 time extensions in ") {
			t.Error(err)
		}
	})
}

// After a failed ejection the state of the card's power is unknown.
func TestEjectThatFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o, s := oddReader(t, emu.TPDUReader())
		s.active = true
		o.out = func(p []byte) (int, error) {
			if p[0] == cmdMechanical {
				return 0, reader.ErrTimeout
			}
			return len(p), nil
		}
		o.in = func(p []byte, _ time.Duration) (int, error) { return copy(p, o.answer()), nil }
		if err := (ejecting{s}).Eject(ctx); !errors.Is(err, reader.ErrTimeout) || s.active {
			t.Errorf("%v, active %v", err, s.active)
		}
	})
}
