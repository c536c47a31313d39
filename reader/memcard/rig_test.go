package memcard

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cardfs/cardfs/reader"
	"github.com/cardfs/cardfs/reader/icc"
)

var bg = context.Background()

// wires is a Clock: a reader that has nothing but wires to an emulated chip.
type wires struct {
	contact *icc.Contact
	sent    int // commands to the chip
	fail    int // the number of the command that fails; 0: none
	deaf    bool
}

func (w *wires) clock(ctx context.Context, out []byte, n int) ([]byte, error) {
	w.sent++
	if w.sent == w.fail {
		return nil, fmt.Errorf("the wire broke: %w", reader.ErrGone)
	}
	for range 100 {
		if in, ok := w.contact.Clock(ctx, out, n); ok {
			return in, nil
		}
		if !w.contact.Hold(ctx, time.Millisecond) {
			return nil, reader.ErrNoCard
		}
	}
	return nil, reader.ErrTimeout
}

func (w *wires) Receive(ctx context.Context, c Command, n int, dst []byte) ([]byte, error) {
	out := c.Append(nil)
	if c.Bus == reader.TwoWire || c.Bus == reader.ThreeWire {
		out = append(out, 0)
	}
	in, err := w.clock(ctx, out, n)
	return append(dst, in...), err
}

func (w *wires) Send(ctx context.Context, c Command, p []byte) error {
	if w.deaf {
		return nil
	}
	if c.Bus == reader.I2C {
		_, err := w.clock(ctx, append(c.Append(nil), p...), 0)
		return err
	}
	for i, b := range p {
		next := c
		next.At += i
		if _, err := w.clock(ctx, append(next.Append(nil), b), 0); err != nil {
			return err
		}
	}
	return nil
}

// rig is a card, as programs use it, over a chip.
type rig struct {
	*testing.T
	*Card
	chip    *icc.Memory
	wires   *wires
	clocked *Clocked
	atr     []byte
}

// told is what a user says of a chip that does not say it itself.
func told(name string) reader.Chip {
	size := map[string]int{"at24c01": 128, "at24c02": 256, "at24c04": 512, "at24c08": 1024, "at24c16": 2048, "at24c32": 4096,
		"at24c64": 8192, "at24c128": 16384, "at24c256": 32768, "at24c512": 65536}[name]
	switch {
	case size > 0:
		return I2C(size)
	case name == "sle4406":
		return Counter(13)
	case name == "sle4436":
		return Counter(30)
	}
	return reader.Chip{}
}

func newRig(t *testing.T, name string, fill func(*icc.Memory)) *rig {
	t.Helper()
	r := &rig{T: t, chip: icc.NewMemory(name), wires: &wires{contact: new(icc.Contact)}}
	if fill != nil {
		fill(r.chip)
	}
	r.wires.contact.Insert(r.chip)
	r.clocked = NewClocked(r.wires)
	r.activate(told(name))
	return r
}

func (r *rig) activate(told reader.Chip) {
	r.Helper()
	h, err := r.wires.contact.ActivateMemory(bg)
	if err != nil {
		r.Fatal(err)
	}
	if r.atr, err = r.clocked.Activate(bg, h, told); err != nil {
		r.Fatal(err)
	}
	if r.Card, err = Open(bg, r.clocked); err != nil {
		r.Fatal(err)
	}
	r.chip.ClearLog()
}

// guarded are the commands in the chip's log that are about its PSC or the counter, but for those that read.
func (r *rig) guarded() []string {
	return slices.DeleteFunc(r.chip.Log(), func(line string) bool {
		if strings.HasPrefix(line, "39 ") || strings.HasPrefix(line, "33 0") && strings.HasSuffix(line, "/0") && r.Chip().Bus == reader.TwoWire {
			return false
		}
		if r.Chip().Bus != reader.ThreeWire {
			return true
		}
		op, at := line[:2], line[3:5]
		return !(strings.HasSuffix(line, "/0") && (op == "F2" || op == "CD" || op == "F3" && at >= "FD"))
	})
}

// apdu sends a command in hex and returns the answer in hex.
func (r *rig) apdu(command string) string {
	r.Helper()
	answer, err := r.Transmit(bg, unhex(command), nil)
	if err != nil {
		r.Errorf("%s: %v", command, err)
	}
	return fmt.Sprintf("% X", answer)
}

func unhex(s string) []byte {
	var b []byte
	for i, s := 0, strings.ReplaceAll(s, " ", ""); i+1 < len(s); i += 2 {
		var v byte
		fmt.Sscanf(s[i:i+2], "%02X", &v)
		b = append(b, v)
	}
	return b
}

func filled(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i*7 + i>>8)
	}
	return b
}

// short is a Clock that loses the last byte.
type short struct{ *wires }

func (s short) Receive(ctx context.Context, c Command, n int, dst []byte) ([]byte, error) {
	got, err := s.wires.Receive(ctx, c, n, dst)
	if len(got) > len(dst) {
		got = got[:len(got)-1]
	}
	return got, err
}
