package core

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cardfs/cardfs/reader"
	"github.com/cardfs/cardfs/reader/iso7816"
)

// padSlot is a slot with everything that control reaches. Its wire is a script:
//
//	> 00 40 04 …      the core sends this block (the script leaves the LRC out)
//	pin 00 40 09 | …  the core has a PIN entered: prologue and template
//	< 00 40 02 90 00  what comes back; <= as it is, without an LRC
//	< protocol        an error
type padSlot struct {
	*fakeSlot
	support reader.PINSupport
	t       testing.TB
	steps   []string
	display string
	keys    func() ([]byte, error)
}

func newPadSlot(t testing.TB, script string) *padSlot {
	s := &padSlot{fakeSlot: newFakeSlot(t), t: t, support: reader.PINSupport{Verify: true, Modify: true, Lines: 2, Columns: 16}}
	s.traits = reader.Traits{Level: reader.TPDU, AutoPPS: true}
	for l := range strings.Lines(script) {
		if l, _, _ = strings.Cut(l, "#"); strings.TrimSpace(l) != "" {
			s.steps = append(s.steps, strings.TrimSpace(l))
		}
	}
	s.fakeSlot.exchange = func(_ context.Context, x reader.Transfer, dst []byte) ([]byte, error) {
		out := fmt.Sprintf("> % X", x.Out)
		if n := len(x.Out) - 1; s.traits.Level == reader.TPDU && n >= 3 && x.Out[n] == iso7816.LRC(x.Out[:n]) {
			out = fmt.Sprintf("> % X", x.Out[:n])
		}
		return s.next(out, dst)
	}
	t.Cleanup(func() {
		if len(s.steps) > 0 {
			t.Errorf("what the script goes on with did not happen: %q", s.steps)
		}
	})
	return s
}

func (s *padSlot) next(got string, dst []byte) ([]byte, error) {
	if len(s.steps) < 2 || s.steps[0] != got {
		s.t.Errorf("the core does %q, the script is at %q", got, s.steps)
		return dst, reader.ErrGone
	}
	kind, rest, _ := strings.Cut(s.steps[1], " ")
	s.steps = s.steps[2:]
	for word, err := range map[string]error{
		"protocol": reader.ErrProtocol, "timeout": reader.ErrTimeout, "unsupported": reader.ErrUnsupported, "invalid": reader.ErrInvalid, "no card": reader.ErrNoCard,
	} {
		if rest == word {
			return dst, err
		}
	}
	begin := len(dst)
	dst = append(dst, hexb(rest)...)
	if kind == "<" {
		dst = append(dst, iso7816.LRC(dst[begin:]))
	}
	return dst, nil
}

func (s *padSlot) PINSupport() reader.PINSupport { return s.support }

func (s *padSlot) VerifyPIN(_ context.Context, v *reader.PINVerify, dst []byte) ([]byte, error) {
	defer s.enter("verify")()
	return s.next(fmt.Sprintf("pin % X | % X", v.Prologue, v.APDU), dst)
}

func (s *padSlot) ModifyPIN(_ context.Context, m *reader.PINModify, dst []byte) ([]byte, error) {
	defer s.enter("modify")()
	return s.next(fmt.Sprintf("pin % X | % X", m.Prologue, m.APDU), dst)
}

func (s *padSlot) Escape(_ context.Context, p []byte) ([]byte, error) {
	defer s.enter("escape")()
	return append([]byte("reply to "), p...), nil
}

func (s *padSlot) Show(_ context.Context, text string, _ time.Duration) error {
	defer s.enter("show")()
	s.display = text
	return nil
}

func (s *padSlot) Input(context.Context, reader.KeyInput) ([]byte, error) {
	defer s.enter("input")()
	return s.keys()
}

// plugPad plugs it in, and powers its card where on is true.
func (r *rig) plugPad(s *padSlot, on bool) *Slot {
	fake := newFakeReader(s.fakeSlot)
	fake.slots = []reader.Slot{s}
	b := r.plugReader(reader.Device{ID: reader.ID{Vendor: 0x076B, Product: 0x3821}}, fake)
	synctest.Wait()
	if err := b.WaitReady(context.Background(), true); err != nil {
		r.t.Fatal(err)
	}
	if on {
		mustOpen(r.t, b, someone())
	}
	synctest.Wait()
	return b
}

// pinVerifyBytes is PIN_VERIFY as a program on a little-endian machine sends it.
func pinVerifyBytes(apdu string) []byte {
	b := hexb("1E 00 82 04 00 08 04 02 FF 07 04 00 00 00 00")
	a := hexb(apdu)
	return append(append(b, byte(len(a)), 0, 0, 0), a...)
}

func pinModifyBytes(apdu string) []byte {
	b := hexb("1E 00 82 04 00 00 04 08 04 03 02 FF 07 04 00 01 02 00 00 00")
	a := hexb(apdu)
	return append(append(b, byte(len(a)), 0, 0, 0), a...)
}

// At TPDU level the reader completes one I-block of the core's T=1 (PC/SC part 10
// §2.5: bTeoPrologue). Sequence numbers go on as if the core had sent the block. The core never
// repeats it, because the template holds no PIN.
func TestPINOverT1(t *testing.T) {
	const (
		template = "00 20 00 01 04 FF FF FF FF"
		setup    = "> 00 C1 01 FE\n< 00 E1 01 FE\n"
		before   = "> 00 00 04 00 A4 00 00\n< 00 00 02 90 00\n"
		entry    = "pin 00 40 09 | " + template + "\n"
		after    = "> 00 00 04 00 A4 00 00\n< 00 00 02 90 00\n" // N(S) 0 again: 1 was used
		unused   = "> 00 40 04 00 A4 00 00\n< 00 40 02 90 00\n" // N(S) 1 was not
	)
	for _, x := range []struct {
		name, script string
		want         string
		err          error
		dead         bool
	}{
		{"the block reaches the card", entry + "< 00 40 02 90 00\n" + after, "90 00", nil, false},
		{"wrong PIN", entry + "< 00 40 02 63 C2\n" + after, "63 C2", nil, false},
		{"64 00: no PIN in time, no block", entry + "<= 64 00\n" + unused, "64 00", nil, false},
		{"64 01: cancelled", entry + "<= 64 01\n" + unused, "64 01", nil, false},
		{"64 02: the new PINs differ", entry + "<= 64 02\n" + unused, "64 02", nil, false},
		{"the card takes its time", entry + "< 00 C3 01 03\n> 00 E3 01 03\n< 00 40 02 90 00\n" + after, "90 00", nil, false},
		{"the card wants another IFSC", entry + "< 00 C1 01 40\n> 00 E1 01 40\n< 00 40 02 90 00\n" + after, "90 00", nil, false},
		{"an answer in two blocks", entry + "< 00 60 03 01 02 03\n> 00 80 00\n< 00 00 02 90 00\n" +
			"> 00 00 04 00 A4 00 00\n< 00 40 02 90 00\n", "01 02 03 90 00", nil, false},
		{"the answer is damaged: it is asked for again, not the command", entry + "<= 00 40 02 90 00 00\n> 00 91 00\n< 00 40 02 90 00\n" + after, "90 00", nil, false},
		{"the answer is lost", entry + "< timeout\n> 00 92 00\n< 00 40 02 90 00\n" + after, "90 00", nil, false},
		{"the card wants the block again", entry + "< 00 91 00\n", "", reader.ErrProtocol, true},
		{"the card did not see it", entry + "< timeout\n> 00 92 00\n< 00 90 00\n", "", reader.ErrProtocol, true},
		{"the reader cannot", entry + "< unsupported\n" + unused, "", reader.ErrUnsupported, false},
		{"the reader does not take the structure", entry + "< invalid\n" + unused, "", reader.ErrInvalid, false},
	} {
		t.Run(x.name, func(t *testing.T) {
			bubble(t, Options{}, func(t *testing.T, r *rig) {
				pad := newPadSlot(t, setup+before+x.script)
				b := r.plugPad(pad, true)
				s := mustOpen(t, b, someone())
				wantAnswer(t, s, "00 A4 00 00", "90 00")
				got, err := b.Control(context.Background(), codeVerify, pinVerifyBytes(template), someone())
				if fmt.Sprintf("% X", got) != x.want || !errors.Is(err, x.err) {
					t.Errorf("% X, %v", got, err)
				}
				if x.dead {
					_, err := s.Transmit(context.Background(), hexb("00 A4 00 00"), nil)
					wantErr(t, "the session after it", err, reader.ErrStale)
					if calls := pad.calls(); calls[len(calls)-1] != "power off" {
						t.Errorf("%q", calls)
					}
					return
				}
				wantAnswer(t, s, "00 A4 00 00", "90 00")
				if n := pad.count("verify"); n != 1 {
					t.Errorf("%d entries", n)
				}
			})
		})
	}
}

// The card leaves while a PIN is entered.
func TestPINCardLeaves(t *testing.T) {
	bubble(t, Options{}, func(t *testing.T, r *rig) {
		pad := newPadSlot(t, "> 00 C1 01 FE\n< 00 E1 01 FE\npin 00 00 04 | 00 20 00 01\n< no card")
		b := r.plugPad(pad, true)
		pad.set(func(s *fakeSlot) { s.status = reader.Absent })
		_, err := b.Control(context.Background(), codeVerify, pinVerifyBytes("00 20 00 01"), someone())
		wantErr(t, "verify", err, reader.ErrNoCard)
		if state := b.Info().State; state != "empty" {
			t.Error(state)
		}
	})
}

// A command that does not fit one block cannot be left to the reader. The attempt does no harm.
func TestPINTooLong(t *testing.T) {
	bubble(t, Options{}, func(t *testing.T, r *rig) {
		pad := newPadSlot(t, "> 00 C1 01 FE\n< 00 E1 01 FE\n> 00 00 04 00 A4 00 00\n< 00 00 02 90 00")
		b := r.plugPad(pad, true)
		_, err := b.Control(context.Background(), codeVerify, pinVerifyBytes("00 20 00 01 1C"+strings.Repeat("FF", 28)), someone())
		wantErr(t, "33 bytes for an IFSC of 32", err, reader.ErrUnsupported)
		wantAnswer(t, mustOpen(t, b, someone()), "00 A4 00 00", "90 00")
	})
}

// At the other levels, and in T=0, the reader does the whole exchange.
func TestPINWithoutPrologue(t *testing.T) {
	for _, x := range []struct {
		name  string
		level reader.Level
		atr   []byte
	}{
		{"short APDU", reader.ShortAPDU, atrT1}, {"extended APDU", reader.ExtendedAPDU, atrT1}, {"TPDU, T=0", reader.TPDU, atrT0},
	} {
		t.Run(x.name, func(t *testing.T) {
			bubble(t, Options{}, func(t *testing.T, r *rig) {
				pad := newPadSlot(t, `
					pin 00 00 00 | 00 20 00 01 04 FF FF FF FF
					<= 90 00
					pin 00 00 00 | 00 24 00 01 08 FF FF FF FF FF FF FF FF
					<= 63 C1
					pin 00 00 00 | 00 20 00 01
					<= 64 01
				`)
				pad.traits.Level, pad.atr = x.level, x.atr
				b := r.plugPad(pad, true)
				for _, c := range []struct {
					code uint32
					data []byte
					want string
				}{
					{codeVerify, pinVerifyBytes("00 20 00 01 04 FF FF FF FF"), "90 00"},
					{codeModify, pinModifyBytes("00 24 00 01 08 FF FF FF FF FF FF FF FF"), "63 C1"},
					{codeVerify, pinVerifyBytes("00 20 00 01"), "64 01"},
				} {
					// The core ignores the program's bTeoPrologue.
					c.data[12] = 0x77
					got, err := b.Control(context.Background(), c.code, c.data, someone())
					if fmt.Sprintf("% X", got) != c.want || err != nil {
						t.Errorf("% X, %v", got, err)
					}
				}
			})
		})
	}
}

// Every field of PIN_VERIFY and PIN_MODIFY has its place (PC/SC part 10 §2.5.2,
// §2.5.3), in either byte order.
func TestParsePIN(t *testing.T) {
	const apdu = "00 20 00 01 00"
	want := reader.PINFormat{Timeout: 0x1E, Format: 0x89, Block: 0x47, Length: 0x04, MinDigits: 4, MaxDigits: 12,
		Condition: 2, Messages: 1, Language: 0x0409, MessageIndexes: [3]byte{7}, Prologue: [3]byte{1, 2, 3}, APDU: hexb(apdu)}
	for _, s := range []string{
		"1E 0F 89 47 04 0C 04 02 01 09 04 07 01 02 03 05 00 00 00" + apdu,
		"1E 0F 89 47 04 04 0C 02 01 04 09 07 01 02 03 00 00 00 05" + apdu,
	} {
		v, err := reader.ParsePINVerify(hexb(s))
		if err != nil || fmt.Sprintf("%#v", v.PINFormat) != fmt.Sprintf("%#v", want) {
			t.Errorf("%s: %#v, %v", s, v, err)
		}
		if again, err := reader.ParsePINVerify(v.Append(nil)); err != nil || fmt.Sprintf("%#v", again) != fmt.Sprintf("%#v", v) {
			t.Errorf("%s: appended and read again: %#v, %v", s, again, err)
		}
	}
	want.MessageIndexes = [3]byte{7, 8, 9}
	for _, s := range []string{
		"1E 0F 89 47 04 00 08 0C 04 03 02 01 09 04 07 08 09 01 02 03 05 00 00 00" + apdu,
		"1E 0F 89 47 04 00 08 04 0C 03 02 01 04 09 07 08 09 01 02 03 00 00 00 05" + apdu,
	} {
		m, err := reader.ParsePINModify(hexb(s))
		if err != nil || fmt.Sprintf("%#v", m.PINFormat) != fmt.Sprintf("%#v", want) || m.OffsetOld != 0 || m.OffsetNew != 8 || m.Confirm != 3 {
			t.Errorf("%s: %#v, %v", s, m, err)
		}
		if again, err := reader.ParsePINModify(m.Append(nil)); err != nil || fmt.Sprintf("%#v", again) != fmt.Sprintf("%#v", m) {
			t.Errorf("%s: appended and read again: %#v, %v", s, again, err)
		}
	}
}

// If the card has no power, the program gets "no card", and the card's state does not change.
func TestPINUnpowered(t *testing.T) {
	bubble(t, Options{}, func(t *testing.T, r *rig) {
		pad := newPadSlot(t, "")
		b := r.plugPad(pad, false)
		events := b.Follow()
		defer events.Close()
		before := 0
		for ; ; before++ {
			if _, _, ok, _ := events.TryNext(); !ok {
				break
			}
		}
		_, err := b.Control(context.Background(), codeVerify, pinVerifyBytes("00 20 00 01"), someone())
		wantErr(t, "verify", err, reader.ErrNoCard)
		if e, _, ok, _ := events.TryNext(); ok || b.Info().State != "present" {
			t.Errorf("%s, %v", b.Info().State, e)
		}
	})
}

// A PIN command waits for another's transaction, or fails if it may not wait.
func TestPINTransaction(t *testing.T) {
	bubble(t, Options{}, func(t *testing.T, r *rig) {
		pad := newPadSlot(t, "pin 00 00 00 | 00 20 00 01\n<= 90 00")
		pad.traits.Level = reader.ExtendedAPDU
		b := r.plugPad(pad, true)
		holder := someone()
		if err := b.Lock(context.Background(), holder, nil); err != nil {
			t.Fatal(err)
		}
		_, err := b.Control(context.Background(), codeVerify, pinVerifyBytes("00 20 00 01"), hasty())
		wantErr(t, "verify", err, reader.ErrLocked)
		waiting := async(func() ([]byte, error) {
			return b.Control(context.Background(), codeVerify, pinVerifyBytes("00 20 00 01"), someone())
		})
		synctest.Wait()
		if !waiting.pending() {
			t.Error("did not wait")
		}
		b.Unlock(holder.Owner)
		if got, err := waiting.get(); err != nil || !bytes.Equal(got, hexb("90 00")) {
			t.Errorf("% X, %v", got, err)
		}
	})
}

// The properties that a reader with a PIN pad reports.
func TestPINProperties(t *testing.T) {
	bubble(t, Options{}, func(t *testing.T, r *rig) {
		pad := newPadSlot(t, "")
		pad.traits.Level = reader.ExtendedAPDU
		b := r.plugPad(pad, true)
		ask := func(code uint32) string {
			got, err := b.Control(context.Background(), code, nil, someone())
			if err != nil {
				t.Error(err)
			}
			return fmt.Sprintf("% X", got)
		}
		// Tag, length, code big endian: PC/SC part 10 §2.2.
		features := "06 04 42 33 00 06 07 04 42 33 00 07 0A 04 42 33 00 0A 12 04 42 33 00 12 13 04 42 33 00 13"
		for _, code := range []uint32{CtlGetFeatures, ctlGetFeaturesWindows} {
			if got := ask(code); got != features {
				t.Errorf("features %s", got)
			}
		}
		// wLcdLayout little endian: columns, lines.
		if got := ask(ctlFeature + featureIFDPINProperties); got != "10 02 07 00" {
			t.Errorf("PIN properties %s", got)
		}
		const common = "01 02 10 02 02 01 07 03 01 00 04 02 10 00 05 02 02 00 09 01 00 "
		if got := ask(ctlFeature + featureTLVProperties); got != common+"0A 04 00 00 01 00 0B 02 6B 07 0C 02 21 38" {
			t.Errorf("TLV properties %s", got)
		}
	})
	// dwMaxAPDUDataSize: 0 for short APDUs only.
	for _, atr := range []string{"3B 80 01 81", "3B 00"} {
		bubble(t, Options{}, func(t *testing.T, r *rig) {
			pad := newPadSlot(t, "")
			pad.traits.Level, pad.atr = reader.ShortAPDU, hexb(atr)
			b := r.plugPad(pad, true)
			s := mustOpen(t, b, someone())
			defer s.Close()
			got, _ := b.Control(context.Background(), ctlFeature+featureTLVProperties, nil, someone())
			if !bytes.Contains(got, hexb("0A 04 00 00 00 00")) {
				t.Errorf("%s, short APDUs only: % X", atr, got)
			}
			if _, err := s.Transmit(context.Background(), append(hexb("00 D6 00 00 00 01 2C"), make([]byte, 300)...), nil); !errors.Is(err, reader.ErrUnsupported) {
				t.Errorf("%s, an extended APDU: %v", atr, err)
			}
		})
	}
}

// Malformed structures are refused, and an accepted one is parsed as it was sent.
func FuzzParsePIN(f *testing.F) {
	f.Add(pinVerifyBytes("00 20 00 01 04 FF FF FF FF"))
	f.Add(pinModifyBytes("00 24 00 01 08 FF FF FF FF FF FF FF FF"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if v, err := reader.ParsePINVerify(b); err == nil && (len(v.APDU) < 4 || !bytes.HasSuffix(b, v.APDU)) || err != nil && !errors.Is(err, reader.ErrInvalid) {
			t.Errorf("%v, %v", v, err)
		}
		if m, err := reader.ParsePINModify(b); err == nil && (len(m.APDU) < 4 || !bytes.HasSuffix(b, m.APDU)) || err != nil && !errors.Is(err, reader.ErrInvalid) {
			t.Errorf("%v, %v", m, err)
		}
	})
}
