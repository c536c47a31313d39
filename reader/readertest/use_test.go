package readertest

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cardfs/cardfs/reader"
	"github.com/cardfs/cardfs/reader/core"
	"github.com/cardfs/cardfs/reader/iso7816"
)

// witness is a reader with one slot and all that Use asks for, which notes what it was
// asked.
type witness struct {
	asked []string
	power bool
	gone  chan struct{}
	err   error // of Open
}

func (w *witness) note(format string, args ...any) {
	w.asked = append(w.asked, fmt.Sprintf(format, args...))
}

func (w *witness) Name() string     { return "witness" }
func (w *witness) IDs() []reader.ID { return nil }
func (w *witness) Open(context.Context, reader.Device) (reader.Reader, error) {
	w.gone, w.power = make(chan struct{}), false
	return w, w.err
}
func (w *witness) Slots() []reader.Slot  { return []reader.Slot{w} }
func (w *witness) Gone() <-chan struct{} { return w.gone }
func (w *witness) Close() error          { w.note("close"); return nil }
func (w *witness) Traits() reader.Traits {
	return reader.Traits{Level: reader.ExtendedAPDU, AutoPPS: true}
}

func (w *witness) Status(context.Context) (reader.Status, error) {
	if w.power {
		return reader.Powered, nil
	}
	return reader.Present, nil
}

func (w *witness) PowerOn(_ context.Context, how reader.Reset) ([]byte, error) {
	w.note("%v", how)
	w.power = true
	return []byte{0x3B, 0x80, 0x80, 0x01, 0x01}, nil
}

// SelectProtocol notes what is not the card's first.
func (w *witness) SelectProtocol(_ context.Context, p iso7816.Params) (iso7816.Params, error) {
	if p.T != 0 {
		w.note("T=%d", p.T)
	}
	return p, nil
}

func (w *witness) PowerOff(context.Context) error { w.note("off"); w.power = false; return nil }
func (w *witness) Eject(context.Context) error    { w.note("eject"); return nil }

func (w *witness) Exchange(_ context.Context, x reader.Transfer, dst []byte) ([]byte, error) {
	w.note("% X + %d", x.Out[:min(7, len(x.Out))], len(x.Out)-min(7, len(x.Out)))
	return append(dst, 0x90, 0x00), nil
}

func (w *witness) Escape(_ context.Context, p []byte) ([]byte, error) {
	w.note("escape % X", p)
	return p, nil
}

func (w *witness) PINSupport() reader.PINSupport { return reader.PINSupport{Verify: true} }

func (w *witness) VerifyPIN(_ context.Context, v *reader.PINVerify, dst []byte) ([]byte, error) {
	w.note("PIN % X", v.APDU)
	return append(dst, 0x90, 0x00), nil
}

func (w *witness) ModifyPIN(context.Context, *reader.PINModify, []byte) ([]byte, error) {
	return nil, reader.ErrUnsupported
}

// What each of Use's numbers does, as the reader sees it.
func TestUse(t *testing.T) {
	const selectFour = "00 A4 04 00 02 00 00 + 0"
	for _, tt := range []struct {
		ops  []byte
		want []string
	}{
		{nil, nil},
		{[]byte{1, 20}, []string{"cold", "warm", "T=1"}}, // 20 >> 4: T=1
		{[]byte{1, 20, 8}, []string{"cold", "warm", "T=1", "warm"}},
		{[]byte{1}, []string{"cold"}},
		{[]byte{1, 1}, []string{"cold"}},
		{[]byte{2}, []string{"cold", selectFour}},
		{[]byte{3}, []string{"cold", "00 A4 04 00 03 00 00 + 1"}},
		{[]byte{4, 5}, []string{"cold", "00 A4 04 00 04 00 00 + 2", "00 A4 04 00 05 00 00 + 3"}},
		{[]byte{14}, []string{"cold", "00 A4 04 00 0E 00 00 + 12"}},
		{[]byte{6}, nil}, // nobody has it open
		{[]byte{1, 6}, []string{"cold", "00 D6 00 00 00 04 06 + 1030"}},
		{[]byte{1, 18}, []string{"cold", "00 D6 00 00 00 04 12 + 1042"}},
		{[]byte{1, 31}, []string{"cold", "off"}},          // 31 % 5 = 1: power down
		{[]byte{1, 7}, []string{"cold", "warm"}},          // 2: warm reset
		{[]byte{1, 43}, []string{"cold", "cold"}},         // 3: cold reset
		{[]byte{1, 19}, []string{"cold", "off", "eject"}}, // 4: eject
		{[]byte{55}, []string{"cold"}},                    // 0: power up
		{[]byte{1, 9}, []string{"cold", "PIN 00 20 00 01 08 20 FF FF FF FF FF FF FF"}},
		{[]byte{10}, []string{"escape 0A"}},
		{[]byte{11}, nil},
	} {
		t.Run(fmt.Sprint(tt.ops), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := new(witness)
				own := 0
				Use(t, w, reader.Device{Driver: "witness", Address: "w"}, tt.ops, func(*core.Manager, byte) { own++ })
				got := strings.Join(w.asked, "\n")
				got = strings.TrimSuffix(strings.TrimSuffix(got, "close"), "\n")
				if want := strings.Join(tt.want, "\n"); got != want && got != want+"\noff" {
					t.Errorf("%s\nwant\n%s", got, want)
				}
				if n := slices.Index(w.asked, "close"); n != len(w.asked)-1 {
					t.Errorf("it was not closed at the end: %q", w.asked)
				}
				if own != 0 {
					t.Errorf("the caller's was called %d times", own)
				}
			})
		})
	}
}

// What may happen to the device is the caller's, with the number that is left; the reader
// may be another afterwards.
func TestUseOwn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := new(witness)
		var own []byte
		Use(t, w, reader.Device{Driver: "witness", Address: "w"}, []byte{1, 0, 25, 36, 2}, func(m *core.Manager, n byte) {
			own = append(own, n)
			if n == 0 {
				close(w.gone)
				synctest.Wait()
				if err := m.Announce(reader.Device{Driver: "witness", Address: "again"}); err != nil {
					t.Error(err)
				}
				time.Sleep(time.Minute)
			}
		})
		if string(own) != "\x00\x03" {
			t.Errorf("own: %v", own)
		}
		if !slices.Contains(w.asked, "00 A4 04 00 02 00 00 + 0") {
			t.Errorf("nothing was sent to the new reader: %q", w.asked)
		}
	})
}

// A device that cannot be opened does not matter to Use.
func TestUseWithout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		Use(t, &witness{err: reader.ErrProtocol}, reader.Device{Driver: "witness", Address: "w"}, AllOps, func(*core.Manager, byte) {})
		Use(t, &witness{}, reader.Device{Driver: "nobody", Address: "w"}, AllOps, func(*core.Manager, byte) {})
	})
}
