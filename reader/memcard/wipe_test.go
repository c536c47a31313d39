package memcard

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/cardfs/cardfs/reader"
	"github.com/cardfs/cardfs/reader/icc"
)

// keeper is a reader with commands of its own that keeps the buffers it was given and gave.
type keeper struct {
	sent, got [][]byte
	answers   []string
}

func (k *keeper) send(_ context.Context, command, dst []byte) ([]byte, error) {
	answer := append(dst, unhex(k.answers[0])...)
	k.answers = k.answers[1:]
	k.sent, k.got = append(k.sent, command), append(k.got, answer)
	return answer, nil
}

// Nothing of a PSC stays in what a card's Memory keeps, or sent, once the command is over.
func TestNoPSCStays(t *testing.T) {
	const psc = "\x5A\xA5\x96"
	k := new(keeper)
	m := &Commands{Dialect: ACS, Send: k.send, chip: reader.Chip{Bus: reader.TwoWire, Size: 256, Page: 16, PSC: 3}}
	k.answers = []string{"07 5A A5 96 90 00", "90 07", "07 5A A5 96 90 00"}
	if ok, _, err := m.VerifyPSC(bg, []byte(psc)); !ok || err != nil {
		t.Fatal(ok, err)
	}
	k.answers = []string{"90 00"}
	if err := m.ChangePSC(bg, []byte(psc)); err != nil {
		t.Fatal(err)
	}
	for _, b := range append(k.sent, k.got...) {
		if bytes.Contains(b, []byte(psc)) {
			t.Errorf("% X", b)
		}
	}
	for name, want := range map[string]string{"sle4442": psc, "sle4428": psc[:2]} {
		synctest.Test(t, func(t *testing.T) {
			r := newRig(t, name, nil)
			r.Verify(bg, unhex(right[name]))
			clean := func(what string) {
				t.Helper()
				if b := r.clocked.rx[:]; !bytes.Equal(b, make([]byte, len(b))) {
					t.Errorf("%s, %s: rx % X", name, what, b)
				}
				if b := r.back[:cap(r.back)]; !bytes.Equal(b, make([]byte, len(b))) {
					t.Errorf("%s, %s: read back % X", name, what, b)
				}
			}
			clean("VERIFY")
			if err := r.Change(bg, []byte(want)); err != nil {
				t.Fatal(err)
			}
			clean("CHANGE")
			r.clocked.PSCTries(bg)
			clean("tries")
			r.Write(bg, r.Chip().Size-3, []byte{0xFF, 0x5A, 0xA5}, 0)
			r.Write(bg, 64, []byte{1, 2, 3}, 0)
			clean("write")
			h, _ := r.wires.contact.ActivateMemory(bg) // verified still
			r.clocked.Activate(bg, h, reader.Chip{})
			clean("activation")
		})
	}
}

// An error is never a success, and says nothing of tries.
func TestErrorsAreNoSuccess(t *testing.T) {
	chip := reader.Chip{Bus: reader.TwoWire, Size: 256, Page: 16, PSC: 3}
	for _, answers := range [][]string{{"90"}, {"69 81"}, {"90 00"}, {"07 00 00 00 90 00", "90"}, {"07 00 00 00 90 00", ""}, {"07 00 00 00 90 00", "90 07", "69 81"}} {
		k := &keeper{answers: answers}
		m := &Commands{Dialect: ACS, Send: k.send, chip: chip}
		if ok, left, err := m.VerifyPSC(bg, []byte{1, 2, 3}); ok || left != 0 || !errors.Is(err, reader.ErrProtocol) {
			t.Errorf("%q: %v, %d, %v", answers, ok, left, err)
		}
	}
	for _, m := range []reader.Memory{&Commands{Dialect: ACS, chip: chip}, &Clocked{chip: chip}} {
		if ok, _, err := m.VerifyPSC(bg, []byte{1, 2}); ok || !errors.Is(err, reader.ErrInvalid) {
			t.Errorf("another length: %v, %v", ok, err)
		}
		if err := m.ChangePSC(bg, []byte{1, 2}); !errors.Is(err, reader.ErrInvalid) {
			t.Errorf("change, another length: %v", err)
		}
	}
	for _, m := range []reader.Memory{&Commands{Dialect: ACS, chip: twoWire}, &Commands{Dialect: Terminal, chip: chip}, &Clocked{chip: I2C(256)}, &Clocked{chip: twoWire}} {
		ok, _, err := m.VerifyPSC(bg, []byte{1, 2, 3})
		_, tries := m.PSCTries(bg)
		if change := m.ChangePSC(bg, []byte{1, 2, 3}); ok || !errors.Is(err, reader.ErrUnsupported) || !errors.Is(tries, reader.ErrUnsupported) || !errors.Is(change, reader.ErrUnsupported) {
			t.Errorf("no PSC: %v, %v, %v, %v", ok, err, tries, change)
		}
	}
	// A failed activation leaves no card.
	k := &keeper{answers: []string{"A2 13 10 91 90 00", "90"}}
	m := &Commands{Dialect: ACS, Send: k.send}
	if _, err := m.Activate(bg, twoWire, reader.Chip{}); !errors.Is(err, reader.ErrProtocol) || m.Chip().Size != 0 {
		t.Errorf("no SW1 SW2: %v, %+v", err, m.Chip())
	}
	m = &Commands{Dialect: ACS, Send: func(_ context.Context, command, dst []byte) ([]byte, error) {
		if command[3] == 0xFE {
			return dst, reader.ErrGone
		}
		return append(dst, unhex("92 23 10 91 90 00")...), nil
	}}
	if _, err := m.Activate(bg, threeWire, reader.Chip{}); !errors.Is(err, reader.ErrGone) || m.Chip().Size != 0 {
		t.Errorf("%v, %+v", err, m.Chip())
	}
}

// A chip that fails at the n-th command: a write counts nothing that was not read back.
func TestWriteFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for fail, want := range map[int]int{1: 0, 2: 0, 3: 32} { // write, read back, write …
			r := newRig(t, "at24c32", nil)
			r.wires.sent, r.wires.fail = 0, fail
			n, err := r.Write(bg, 0, bytes.Repeat([]byte{7}, 64), 0)
			if n != want || !errors.Is(err, reader.ErrGone) {
				t.Errorf("command %d fails: %d, %v", fail, n, err)
			}
		}
		// Byte 32 of a 2-wire card has no protect bit; byte 31 has.
		r := newRig(t, "sle4432", nil)
		r.wires.deaf = true
		for at, read := range map[int]bool{31: true, 32: false} {
			r.chip.ClearLog()
			if n, err := r.Write(bg, at, []byte{0}, 0); n != 0 || !errors.Is(err, ErrNotTaken) {
				t.Errorf("byte %d: %d, %v", at, n, err)
			}
			if got := strings.Contains(strings.Join(r.chip.Log(), " "), "34 00 00/4"); got != read {
				t.Errorf("byte %d: its protect bit was read: %v", at, got)
			}
		}
	})
}

func TestForget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, "sle4442", nil)
		r.Verify(bg, unhex("FF FF FF"))
		r.Forget()
		if _, verified, _ := r.PSC(); verified {
			t.Error("verified still")
		}
		if err := r.Change(bg, []byte{1, 2, 3}); !errors.Is(err, reader.ErrNoPermission) {
			t.Errorf("change: %v", err)
		}
	})
}

func TestParseObject(t *testing.T) {
	for _, tt := range []struct {
		in          string
		head, value int
		ok          bool
	}{
		{"61 05", 2, 5, true}, {"61 00", 2, 0, true}, {"61 7F", 2, 127, true}, {"61 81 80", 3, 128, true}, {"61 82 01 02", 4, 258, true}, {"7E 01", 2, 1, true},
		{"", 0, 0, false}, {"61", 0, 0, false}, {"61 80", 0, 0, false}, {"61 81", 0, 0, false}, {"61 82 01", 0, 0, false}, {"61 83 00 00 01", 0, 0, false},
		{"00 01", 0, 0, false}, {"FF 01", 0, 0, false}, {"7F 01", 0, 0, false}, {"1F 01", 0, 0, false}, {"61 FF", 0, 0, false},
	} {
		o, ok := parseObject(unhex(tt.in))
		if ok != tt.ok || ok && (o.head != tt.head || o.value != tt.value || o.tag != unhex(tt.in)[0]) {
			t.Errorf("%s: %+v, %v", tt.in, o, ok)
		}
	}
}

// An application's object may begin at the last two bytes, and not behind the end; a reader that
// fails in the middle of a search is no "not found".
func TestApplicationAtTheEnd(t *testing.T) {
	const dir = "A2 13 10 84 30 0B 61 09 4F 03 A0 00 01 51 02 00 "
	for at, want := range map[string]string{"FE": "6A 82", "FD": "90 00", "FF": "6A 82"} {
		r := newRig(t, "sle4432", func(m *icc.Memory) { m.Fill(0, unhex(dir+at)); m.Fill(0xFD, unhex("04 01 AA")) })
		if got := r.apdu("00 A4 04 00 03 A0 00 01"); got != want {
			t.Errorf("%s: %s", at, got)
		}
		for fail := 1; fail <= 4; fail++ {
			r.wires.sent, r.wires.fail = 0, fail
			answer, err := r.Transmit(bg, unhex("00 A4 04 00 03 A0 00 01"), nil)
			if r.wires.sent >= fail && !errors.Is(err, reader.ErrGone) {
				t.Errorf("%s, read %d fails: % X, %v", at, fail, answer, err)
			}
		}
	}
}

// The chip's own errors, step by step, from the Clocked below the Card: nothing is ok.
func TestClockedFails(t *testing.T) {
	for name, psc := range right {
		synctest.Test(t, func(t *testing.T) {
			for step := 1; step <= 8; step++ {
				r := newRig(t, name, nil)
				r.wires.sent, r.wires.fail = 0, step
				ok, left, err := r.clocked.VerifyPSC(bg, unhex(psc))
				if r.wires.sent >= step && (ok || left != 0 || !errors.Is(err, reader.ErrGone)) {
					t.Errorf("%s, step %d: %v, %d, %v", name, step, ok, left, err)
				}
			}
			for what, do := range map[string]func(r *rig) error{
				"protection": func(r *rig) error { _, err := r.clocked.ReadProtection(bg, 0, 8, nil); return err },
				"tries":      func(r *rig) error { _, err := r.clocked.PSCTries(bg); return err },
				"change":     func(r *rig) error { return r.clocked.ChangePSC(bg, unhex(psc)) },
				"read":       func(r *rig) error { _, err := r.clocked.ReadMemory(bg, 0, 8, nil); return err },
				"activation": func(r *rig) error { _, err := r.clocked.Activate(bg, r.atr, reader.Chip{}); return err },
			} {
				r := newRig(t, name, nil)
				r.wires.sent, r.wires.fail = 0, 1
				if err := do(r); !errors.Is(err, reader.ErrGone) {
					t.Errorf("%s: %s: %v", name, what, err)
				}
			}
		})
	}
	// A counter with bits that an SLE 4442's does not have: it is none, and is not written.
	r := newRig(t, "sle4432", nil)
	r.clocked.chip.PSC = 3
	if ok, _, err := r.clocked.VerifyPSC(bg, []byte{1, 2, 3}); ok || !errors.Is(err, reader.ErrProtocol) {
		t.Errorf("%v, %v", ok, err)
	}
	if got := r.guarded(); len(got) != 0 {
		t.Errorf("%q", got)
	}
}

// Which bytes are locked, over all of a chip, however the question is cut.
func TestReadProtection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, name := range []string{"sle4432", "sle4418"} {
			r := newRig(t, name, nil)
			n := r.Chip().Protected
			for _, at := range []int{9, 16, 31, n - 1} {
				out := []byte{0x3C, byte(at), 0xFF}
				if name == "sle4418" {
					out[0] = byte(at>>8)<<6 | 0x30
				}
				r.wires.contact.Clock(bg, out, 0)
			}
			want := r.chip.Bits().Locked
			for _, count := range []int{1, 3, 8, 9, 32} {
				for at := 0; at+count <= n; at += count {
					got, err := r.clocked.ReadProtection(bg, at, count, []bool{true})
					if err != nil || len(got) != count+1 || !got[0] || fmt.Sprint(got[1:]) != fmt.Sprint(want[at:at+count]) {
						t.Fatalf("%s: %d bytes at %d: %v, %v", name, count, at, got, err)
					}
				}
			}
		}
	})
	if !ACS.PSC.Right(twoWire, 0x9007) || !ACS.PSC.Right(threeWire, 0x90FF) || ACS.PSC.Right(twoWire, 0x90FF) || ACS.PSC.Right(threeWire, 0x9007) || ACS.PSC.Right(I2C(256), 0x9007) {
		t.Error("what a right PSC is")
	}
}
