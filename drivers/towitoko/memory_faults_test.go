package towitoko

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cardfs/cardfs/drivers/bus/serial/faulttest"
	"github.com/cardfs/cardfs/drivers/bus/serial/serialtest"
	"github.com/cardfs/cardfs/drivers/towitoko/emu"
	"github.com/cardfs/cardfs/reader"
	"github.com/cardfs/cardfs/reader/icc"
	"github.com/cardfs/cardfs/reader/memcard"
)

// Whatever fails on the line in the middle of a verification, no PSC is presented twice, and no
// more than one try is gone.
func TestVerificationFails(t *testing.T) {
	for _, name := range []string{"sle4442", "sle4428"} {
		faulttest.Everywhere(t, 110, 110, func(t *testing.T, f serialtest.Fault) {
			chip := icc.NewMemory(name)
			_, p, s, _ := plug(t, emu.Options{}, chip)
			if _, err := s.PowerOn(t.Context(), reader.Cold); err != nil {
				t.Fatal(err)
			}
			chip.ClearLog()
			before := chip.Bits().Counter
			toDevice, fromDevice := p.Sent()
			f.At += toDevice
			if f.ToHost {
				f.At += fromDevice - toDevice
			}
			p.Inject(f)
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			ok, left, err := s.VerifyPSC(ctx, make([]byte, s.Chip().PSC))
			burned, compared := 0, 0
			for _, line := range secured(chip) {
				switch line[:2] {
				case "33", "CD":
					compared++
				case "39", "F2":
					if !strings.HasSuffix(line, "FF/0") {
						burned++
					}
				}
			}
			gone := before &^ chip.Bits().Counter
			if burned > 1 || compared > s.Chip().PSC || gone&(gone-1) != 0 || ok {
				t.Errorf("%s, %+v: %v, %d, %v; %q", name, f, ok, left, err, secured(chip))
			}
			if err != nil && !strings.HasPrefix(err.Error(), "towitoko /dev/ttyS0: memory card: ") {
				t.Errorf("%v", err)
			}
		})
	}
}

// "With fewer than len(p) it returns why": a write that fails half-way says where, and the bytes
// before are on the card.
func TestWriteFails(t *testing.T) {
	for at := 0; at < 160; at++ {
		for _, kind := range []serialtest.FaultKind{serialtest.Lose, serialtest.Change, serialtest.Silence, serialtest.HangUp} {
			synctest.Test(t, func(t *testing.T) {
				chip := icc.NewMemory("sle4432")
				_, p, s, _ := plug(t, emu.Options{}, chip)
				if _, err := s.PowerOn(t.Context(), reader.Cold); err != nil {
					t.Fatal(err)
				}
				c, err := memcard.Open(t.Context(), s)
				if err != nil {
					t.Fatal(err)
				}
				data := unhex(strings.Repeat("5A", 48))
				toDevice, _ := p.Sent()
				p.Inject(serialtest.Fault{At: toDevice + at, Kind: kind})
				n, err := c.Write(t.Context(), 0x40, data, 0)
				if !bytes.Equal(chip.Contents()[0x40:0x40+n], data[:n]) || n < len(data) != (err != nil) {
					t.Errorf("%d, %v: %d, %v", at, kind, n, err)
				}
				if err != nil && !strings.Contains(err.Error(), "byte ") {
					t.Errorf("%d, %v: it does not say where: %v", at, kind, err)
				}
			})
		}
	}
}

// A card that is pulled is not read as FF, nor is another one that is put in instead.
func TestPulled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, again := range []bool{false, true} {
			for _, do := range []func(*slot) error{
				func(s *slot) error {
					got, err := s.ReadMemory(t.Context(), 0, 100, []byte("x"))
					if string(got) != "x" {
						t.Errorf("% X", got)
					}
					return err
				},
				func(s *slot) error { _, err := s.ReadProtection(t.Context(), 0, 8, nil); return err },
				func(s *slot) error { _, _, err := s.VerifyPSC(t.Context(), make([]byte, 3)); return err },
				func(s *slot) error { _, err := s.PSCTries(t.Context()); return err },
			} {
				e, _, s, _ := plug(t, emu.Options{}, numbered("sle4442"))
				if _, err := s.PowerOn(t.Context(), reader.Cold); err != nil {
					t.Fatal(err)
				}
				e.Contact.Remove()
				want, other := reader.ErrNoCard, icc.NewMemory("sle4442")
				if again {
					want = reader.ErrStale
					e.Contact.Insert(other)
				}
				if err := do(s); !errors.Is(err, want) || len(secured(other)) > 0 {
					t.Errorf("%v, want %v; %q", err, want, secured(other))
				}
				if again {
					if st, err := s.Status(t.Context()); st != reader.Present || err != nil {
						t.Errorf("%v, %v", st, err)
					}
				}
			}
		}
	})
}
