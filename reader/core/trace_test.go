package core

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/cardfs/cardfs/reader"
	"github.com/cardfs/cardfs/reader/iso7816"
)

func traceLines(f *Feed[string]) string {
	var out strings.Builder
	for {
		line, _, ok, err := f.TryNext()
		if !ok || err != nil {
			return out.String()
		}
		_, line, _ = strings.Cut(line, " ") // the time
		out.WriteString(line + "\n")
	}
}

// echoT1 answers T=1 blocks: the last I-block of a chain with 90 00, the others with the
// R-block that asks for the next.
func echoT1() func(context.Context, reader.Transfer, []byte) ([]byte, error) {
	ns := byte(0)
	return func(_ context.Context, x reader.Transfer, dst []byte) ([]byte, error) {
		pcb := x.Out[1]
		begin := len(dst)
		if pcb&0x20 != 0 {
			dst = append(dst, 0, 0x80|(^pcb&0x40)>>2, 0)
		} else {
			dst = append(dst, 0, ns<<6, 2, 0x90, 0x00)
			ns ^= 1
		}
		return append(dst, iso7816.LRC(dst[begin:])), nil
	}
}

// "PIN data is masked", whatever the level, the class, the length, and in every
// block of a chain: 313233 never shows.
func TestTraceMasks(t *testing.T) {
	pin := strings.Repeat("31323334", 16) // longer than the card's IFSC of 32
	for _, tt := range []struct{ name, capdu string }{
		{"VERIFY", "00200001 40" + pin},
		{"VERIFY with Le", "00200001 40" + pin + "00"},
		{"VERIFY, extended", "00200001 000040" + pin},
		{"VERIFY, BER-TLV", "00210001 40" + pin},
		{"VERIFY of a card's own class", "80200001 40" + pin},
		{"VERIFY, chained", "10200001 40" + pin},
		{"CHANGE REFERENCE DATA", "00240001 40" + pin},
		{"RESET RETRY COUNTER", "002C0001 40" + pin},
		{"DISABLE VERIFICATION REQUIREMENT", "00260001 40" + pin},
		{"ENABLE VERIFICATION REQUIREMENT", "00280001 40" + pin},
		{"ENVELOPE", "00C20000 45 0020000140" + pin},
	} {
		for level, name := range map[reader.Level]string{reader.TPDU: "T=1", reader.ExtendedAPDU: "APDU"} {
			t.Run(tt.name+" "+name, func(t *testing.T) {
				bubble(t, Options{}, func(t *testing.T, r *rig) {
					slot := newFakeSlot(t)
					slot.traits = reader.Traits{Level: level, AutoPPS: true, AutoIFSD: true}
					if level == reader.TPDU {
						slot.exchange = echoT1()
					}
					_, b := r.plug(reader.Device{}, slot)
					f := b.FollowTrace()
					defer b.CloseTrace(f)
					s := mustOpen(t, b, someone())
					if _, err := s.Transmit(context.Background(), hexb(tt.capdu), nil); err != nil {
						t.Fatal(err)
					}
					// And the next command is not masked any more.
					if _, err := s.Transmit(context.Background(), hexb("00B0 5AA5"), nil); err != nil {
						t.Fatal(err)
					}
					got := traceLines(f)
					if strings.Contains(got, "31 32") || strings.Contains(got, "32 33") {
						t.Errorf("the trace tells the PIN:\n%s", got)
					}
					if !strings.Contains(got, "masked") || !strings.Contains(got, "00 B0 5A A5") {
						t.Errorf("trace:\n%s", got)
					}
				})
			})
		}
	}
}

// A trace that begins while a VERIFY is under way shows no PIN either. A trace that ended in
// the middle leaves nothing behind.
func TestTraceBeginsInTheMiddle(t *testing.T) {
	bubble(t, Options{}, func(t *testing.T, r *rig) {
		slot := newFakeSlot(t)
		slot.traits = reader.Traits{Level: reader.TPDU, AutoPPS: true, AutoIFSD: true}
		answer, goOn := echoT1(), make(chan struct{})
		first := true
		slot.exchange = func(ctx context.Context, x reader.Transfer, dst []byte) ([]byte, error) {
			if first {
				first = false
				<-goOn
			}
			return answer(ctx, x, dst)
		}
		_, b := r.plug(reader.Device{}, slot)
		s := mustOpen(t, b, someone())
		o := asyncTransmit(s, context.Background(), "00200001 40"+strings.Repeat("31323334", 16))
		synctest.Wait()
		f := b.FollowTrace()
		close(goOn)
		if _, err := o.get(); err != nil {
			t.Fatal(err)
		}
		got := traceLines(f)
		b.CloseTrace(f)
		if got == "" || strings.Contains(got, "31 32") || strings.Contains(got, "32 33") {
			t.Errorf("trace:\n%s", got)
		}
	})
}

// Bytes that are no C-APDU may be a PIN typed into the wrong place.
func TestTraceOfMalformed(t *testing.T) {
	bubble(t, Options{}, func(t *testing.T, r *rig) {
		_, b := r.plug(reader.Device{}, newFakeSlot(t))
		s := mustOpen(t, b, someone())
		f := b.FollowTrace()
		defer b.CloseTrace(f)
		s.Transmit(context.Background(), hexb("313233"), nil)
		if got := traceLines(f); strings.Contains(got, "31 32") {
			t.Errorf("trace:\n%s", got)
		}
	})
}

// The trace ends with the reader.
func TestTraceEnds(t *testing.T) {
	bubble(t, Options{}, func(t *testing.T, r *rig) {
		fake, b := r.plug(reader.Device{}, newFakeSlot(t))
		f := b.FollowTrace()
		o := async(func() (string, error) { l, _, err := f.Next(context.Background()); return l, err })
		synctest.Wait()
		fake.unplug()
		_, err := o.get()
		wantErr(t, "trace", err, reader.ErrGone)
		b.CloseTrace(f)
	})
}
