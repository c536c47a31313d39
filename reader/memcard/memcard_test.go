package memcard

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cardfs/cardfs/reader"
	"github.com/cardfs/cardfs/reader/icc"
)

var right = map[string]string{"sle4442": "FF FF FF", "sle4428": "FF FF"}

// Every chip: what it is, found by reading alone; its bytes; a write over all of it, by pages,
// never across one.
func TestEveryChip(t *testing.T) {
	for _, tt := range []struct {
		name, atr string
		chip      reader.Chip
	}{
		{"sle4432", "A2 13 10 91", reader.Chip{Bus: reader.TwoWire, Size: 256, Page: 16, Protected: 32}},
		{"sle4442", "A2 13 10 91", reader.Chip{Bus: reader.TwoWire, Size: 256, Page: 16, Protected: 32, PSC: 3}},
		{"sle4418", "92 23 10 91", reader.Chip{Bus: reader.ThreeWire, Size: 1024, Page: 16, Protected: 1024}},
		{"sle4428", "92 23 10 91", reader.Chip{Bus: reader.ThreeWire, Size: 1024, Page: 16, Protected: 1024, PSC: 2, Reserved: 3}},
		{"at24c01", "82 0B 10 84", reader.Chip{Bus: reader.I2C, Size: 128, Page: 8}},
		{"at24c02", "82 13 10 84", reader.Chip{Bus: reader.I2C, Size: 256, Page: 8}},
		{"at24c04", "82 1B 10 84", reader.Chip{Bus: reader.I2C, Size: 512, Page: 16}},
		{"at24c08", "82 23 10 84", reader.Chip{Bus: reader.I2C, Size: 1024, Page: 16}},
		{"at24c16", "82 2B 10 84", reader.Chip{Bus: reader.I2C, Size: 2048, Page: 16}},
		{"at24c32", "82 33 10 84", reader.Chip{Bus: reader.I2C, Size: 4096, Page: 32}},
		{"at24c64", "82 3B 10 84", reader.Chip{Bus: reader.I2C, Size: 8192, Page: 32}},
		{"at24c128", "82 43 10 84", reader.Chip{Bus: reader.I2C, Size: 16384, Page: 64}},
		{"at24c256", "82 4B 10 84", reader.Chip{Bus: reader.I2C, Size: 32768, Page: 64}},
		{"at24c512", "82 53 10 84", reader.Chip{Bus: reader.I2C, Size: 65536, Page: 128}},
	} {
		synctest.Test(t, func(t *testing.T) {
			r := newRig(t, tt.name, nil)
			if got := fmt.Sprintf("% X", r.atr); got != tt.atr || r.Chip() != tt.chip {
				t.Errorf("%s: %s %+v", tt.name, got, r.Chip())
			}
			if psc := right[tt.name]; psc != "" {
				if ok, err := r.Verify(bg, unhex(psc)); !ok || err != nil {
					t.Fatal(tt.name, ok, err)
				}
			}
			image := filled(tt.chip.Size)
			from := 5 // H1 to H4 are locked
			if tt.chip.Bus == reader.I2C {
				from = 0
			}
			to := tt.chip.Size - tt.chip.Reserved
			if n, err := r.Write(bg, from, image[from:to], 0); n != to-from || err != nil {
				t.Fatalf("%s: %d, %v", tt.name, n, err)
			}
			if !bytes.Equal(r.chip.Contents()[from:to], image[from:to]) {
				t.Errorf("%s: not on the chip", tt.name)
			}
			for _, part := range [][2]int{{0, tt.chip.Size}, {from, 1}, {to - 1, 1}, {100, 28}} {
				got, err := r.Read(bg, part[0], part[1], []byte{1})
				if err != nil || !bytes.Equal(got[1+max(0, from-part[0]):][:min(part[1], to-part[0])-max(0, from-part[0])], image[max(from, part[0]):min(to, part[0]+part[1])]) {
					t.Errorf("%s: read %v: %v", tt.name, part, err)
				}
			}
			if got, err := r.Read(bg, tt.chip.Size-2, 10, nil); len(got) != 2 || err != nil {
				t.Errorf("%s: read over the end: %d, %v", tt.name, len(got), err)
			}
			if got, err := r.Read(bg, tt.chip.Size, 10, nil); len(got) != 0 || err != nil {
				t.Errorf("%s: read behind the end: %d, %v", tt.name, len(got), err)
			}
		})
	}
}

// "Nothing is written to find out what a card is": a look at a chip reads, and its cells and its
// counter stay as they are, whatever they hold. "Reading is free."
func TestLookingWritesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { lookAtAll(t) })
}

func lookAtAll(t *testing.T) {
	for _, name := range icc.MemoryNames() {
		for _, say := range []reader.Chip{{}, told(name), I2C(256), I2C(4096), twoWire, threeWire} {
			for _, h := range [][]byte{nil, {0xA2, 0x13, 0x10, 0x91}, {0x92, 0x23, 0x10, 0x91}, {0xFF, 0xFF, 0xFF, 0xFF}} {
				chip := icc.NewMemory(name)
				chip.Fill(4, filled(9))
				before, bits := chip.Contents(), chip.Bits()
				w := &wires{contact: new(icc.Contact)}
				w.contact.Insert(chip)
				w.contact.ActivateMemory(bg)
				m := NewClocked(w)
				if _, err := m.Activate(bg, h, say); err == nil {
					Open(bg, m)
				}
				for _, line := range chip.Log() {
					if strings.HasSuffix(line, "/0") {
						t.Errorf("%s, told %+v, % X: %s", name, say, h, line)
					}
				}
				if !bytes.Equal(chip.Contents(), before) || chip.Bits().Counter != bits.Counter {
					t.Errorf("%s: changed", name)
				}
			}
		}
	}
}

func TestRecognise(t *testing.T) {
	for _, tt := range []struct {
		h    string
		told reader.Chip
		bus  reader.MemoryBus
		atr  string
		err  error
	}{
		{"A2 13 10 91 00", I2C(128), reader.TwoWire, "A2 13 10 91", nil},
		{"92 23 10 91", twoWire, reader.ThreeWire, "92 23 10 91", nil},
		{"00 00 00 00", twoWire, reader.TwoWire, "00 00 00 00", nil},
		{"FF FF FF FF", threeWire, reader.ThreeWire, "FF FF FF FF", nil},
		{"A0 00 00 00", Counter(13), reader.CounterCard, "A0 00 00 00", nil},
		{"FF FF FF FF", I2C(256), reader.I2C, "82 13 10 84", nil},
		{"", I2C(65536), reader.I2C, "82 53 10 84", nil},
		{"", twoWire, 0, "", reader.ErrMute},
		{"A2 13 10", reader.Chip{}, 0, "", reader.ErrUnsupported},
		{"", reader.Chip{}, 0, "", reader.ErrUnsupported},
		{"82 13 10 84", reader.Chip{}, 0, "", reader.ErrUnsupported},
	} {
		c, atr, err := Recognise(unhex(tt.h), tt.told)
		if !errors.Is(err, tt.err) || err == nil && (c.Bus != tt.bus || fmt.Sprintf("% X", atr) != tt.atr) {
			t.Errorf("%s: %v % X %v", tt.h, c, atr, err)
		}
	}
	if !strings.Contains(ErrSize.Error(), "memory=i2c:BYTES") {
		t.Error(ErrSize)
	}
}

func TestTold(t *testing.T) {
	for value, want := range map[string]reader.Chip{"": {}, "2-wire": twoWire, "3-wire": threeWire, "i2c:128": I2C(128), "i2c:65536": I2C(65536)} {
		if got, err := Told(value); err != nil || got != want {
			t.Errorf("%q: %+v, %v", value, got, err)
		}
	}
	for _, value := range []string{"i2c", "i2c:", "i2c:64", "i2c:131072", "i2c:300", "i2c:-256", "i2c:0x100", "i2c:0", "4-wire", "I2C:256"} {
		if _, err := Told(value); !errors.Is(err, reader.ErrInvalid) {
			t.Errorf("%q: %v", value, err)
		}
	}
}

// "PSC verification, order is mandatory": read the counter, clear one of its bits, compare, erase the
// counter, read it. One try is burned, in one place, and comes back if the PSC was right.
func TestVerify(t *testing.T) {
	for name, steps := range map[string][]string{
		"sle4442": {"31 00 00/4", "39 00 06/0", "33 01 FF/0", "33 02 FF/0", "33 03 FF/0", "39 00 FF/0", "31 00 00/4"},
		"sle4428": {"CE FD 00/1", "F2 FD FE/0", "CD FE FF/0", "CD FF FF/0", "F3 FD FF/0", "CE FD 00/1"},
	} {
		synctest.Test(t, func(t *testing.T) {
			r := newRig(t, name, nil)
			full, _, _ := r.PSC()
			if full != map[string]int{"sle4442": 3, "sle4428": 8}[name] {
				t.Errorf("%s: %d tries", name, full)
			}
			ok, err := r.Verify(bg, unhex(right[name]))
			if !ok || err != nil || !slices.Equal(r.chip.Log(), steps) {
				t.Errorf("%s: %v, %v, %q", name, ok, err, r.chip.Log())
			}
			if tries, verified, presented := r.PSC(); tries != full || !verified || presented != 1 || !r.chip.Bits().Verified {
				t.Errorf("%s: %d %v %d", name, tries, verified, presented)
			}
			// Wrong until blocked: each burns one try, and the last ones send nothing but the look at the counter.
			wrong := unhex(right[name])
			wrong[len(wrong)-1] ^= 1
			for left := full - 1; left >= 0; left-- {
				ok, err := r.Verify(bg, wrong)
				tries, verified, _ := r.PSC()
				if ok || err != nil || tries != left || verified || r.chip.Bits().Verified {
					t.Errorf("%s: wrong: %v, %v, %d left, want %d", name, ok, err, tries, left)
				}
			}
			r.chip.ClearLog()
			for _, psc := range [][]byte{wrong, unhex(right[name])} {
				if ok, err := r.Verify(bg, psc); ok || err != nil || len(r.guarded()) != 0 {
					t.Errorf("%s: blocked: %v, %v, %q", name, ok, err, r.guarded())
				}
			}
			if _, err := r.Write(bg, 64, []byte{1}, 0); !errors.Is(err, reader.ErrNoPermission) {
				t.Errorf("%s: blocked: write: %v", name, err)
			}
		})
	}
}

// The right PSC on the last try gives all of them back.
func TestLastTry(t *testing.T) {
	for name := range right {
		synctest.Test(t, func(t *testing.T) {
			r := newRig(t, name, nil)
			full, _, _ := r.PSC()
			for range full - 1 {
				r.Verify(bg, make([]byte, r.Chip().PSC))
			}
			if tries, _, _ := r.PSC(); tries != 1 {
				t.Fatalf("%s: %d tries", name, tries)
			}
			if ok, err := r.Verify(bg, unhex(right[name])); !ok || err != nil {
				t.Errorf("%s: %v, %v", name, ok, err)
			}
			if tries, _, _ := r.PSC(); tries != full {
				t.Errorf("%s: %d tries, want %d", name, tries, full)
			}
		})
	}
}

// "The counter is never touched except by a verify": whatever else is done, with the PSC and
// without, the chip sees no command about it. A change of the PSC writes it, and not the counter.
func TestCounterIsLeftAlone(t *testing.T) {
	for name, psc := range right {
		for _, verified := range []bool{false, true} {
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t, name, nil)
				if verified {
					r.Verify(bg, unhex(psc))
				}
				r.chip.ClearLog()
				image, _ := r.Read(bg, 0, r.Chip().Size, nil)
				for at := range r.Chip().Size {
					r.Write(bg, at, []byte{0x5A}, 0)
				}
				r.Write(bg, 0, image, 0)
				for _, c := range []string{"00 20 00 00", "00 20 00 00 01 FF", "FF 20 00 00 04 FF FF FF FF", "FF 20 01 00 03 FF FF FF", "FF B0 00 00 00", "FF B0 03 F0 00",
					"FF D6 03 FC 04 01 02 03 04", "00 24 00 00 01 FF", "00 82 00 00 08 01 02 03 04 05 06 07 08", "00 A4 04 00 06 D2 80 00 00 01 01", "00 A4 00 00 02 2F 00"} {
					r.Transmit(bg, unhex(c), nil)
				}
				r.clocked.ReadProtection(bg, 0, r.Chip().Protected, nil)
				r.clocked.VerifyPSC(bg, []byte{1})
				r.clocked.ChangePSC(bg, []byte{1})
				if got := r.guarded(); len(got) != 0 {
					t.Errorf("%s, verified %v: %q", name, verified, got)
				}
				if !verified {
					return
				}
				fresh := filled(r.Chip().PSC)
				if err := r.Change(bg, fresh); err != nil || !bytes.Equal(r.chip.Bits().PSC, fresh) {
					t.Errorf("%s: change: %v, % X", name, err, r.chip.Bits().PSC)
				}
				for _, line := range r.guarded() {
					if strings.HasPrefix(line, "39 00") || strings.HasPrefix(line, "F3 FD") || line[:2] == "F2" {
						t.Errorf("%s: the change of the PSC: %s", name, line)
					}
				}
			})
		}
	}
}

// "A PSC that failed is never sent again by the daemon itself": after an error in any step nothing more
// of the verification is sent, and at most one try is burned.
func TestVerifyCutShort(t *testing.T) {
	for name, psc := range right {
		for step := 1; step <= 9; step++ {
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t, name, nil)
				full, _, _ := r.PSC()
				r.wires.sent, r.wires.fail = 0, step
				ok, err := r.Verify(bg, unhex(psc))
				if err == nil { // that many steps there are not
					return
				}
				if ok || !errors.Is(err, reader.ErrGone) || len(r.chip.Log()) != step-1 {
					t.Errorf("%s, step %d: %v, %v, %q", name, step, ok, err, r.chip.Log())
				}
				if tries, err := r.clocked.PSCTries(bg); err != nil || tries < full-1 {
					t.Errorf("%s, step %d: %d tries", name, step, tries)
				}
			})
		}
	}
}

// "EACCES where the PSC must be presented first, EPERM where a byte is locked for ever, ENOSPC behind the
// end, EIO where it did not take": and how many bytes before that are on the card.
func TestWhyNot(t *testing.T) {
	for _, tt := range []struct {
		name string
		psc  string
		at   int
		n    int
		done int
		err  error
		said string
	}{
		{"sle4442", "", 64, 8, 0, reader.ErrNoPermission, "PSC"},
		{"sle4442", "FF FF FF", 64, 192, 192, nil, ""},
		{"sle4442", "FF FF FF", 250, 8, 6, reader.ErrNoSpace, "byte 256"},
		{"sle4442", "", 256, 1, 0, reader.ErrNoSpace, "byte 256"},
		{"sle4432", "", 4096, 1, 0, reader.ErrNoSpace, ""},
		{"sle4432", "", 5, 60, 15, reader.ErrReadOnly, "byte 20 is locked"},
		{"sle4432", "", 0, 4, 0, reader.ErrReadOnly, "byte 0 is locked"},
		{"sle4418", "", 5, 60, 15, reader.ErrReadOnly, "byte 20 is locked"},
		{"sle4428", "FF FF", 1000, 24, 21, reader.ErrReadOnly, "byte 1021"},
		{"sle4428", "FF FF", 1022, 1, 0, reader.ErrReadOnly, "byte 1022"},
		{"at24c01", "", 120, 9, 8, reader.ErrNoSpace, "byte 128"},
		{"at24c32", "", 4095, 2, 1, reader.ErrNoSpace, ""},
		{"sle4406", "", 0, 1, 0, reader.ErrReadOnly, "counter card"},
	} {
		synctest.Test(t, func(t *testing.T) {
			r := newRig(t, tt.name, nil)
			switch r.Chip().Bus { // lock byte 20, as a card's issuer does
			case reader.TwoWire:
				if tt.psc == "" {
					r.wires.contact.Clock(bg, []byte{0x3C, 20, 0xFF}, 0)
				}
			case reader.ThreeWire:
				r.wires.contact.Clock(bg, []byte{0x30, 20, 0xFF}, 0)
			}
			if tt.psc != "" {
				r.Verify(bg, unhex(tt.psc))
			}
			r.chip.ClearLog()
			p := bytes.Repeat([]byte{0x5A}, tt.n)
			n, err := r.Write(bg, tt.at, p, 0)
			if n != tt.done || !errors.Is(err, tt.err) || tt.err != nil && !strings.Contains(err.Error(), tt.said) {
				t.Errorf("%s at %d: %d, %v", tt.name, tt.at, n, err)
			}
			if errors.Is(err, reader.ErrNoPermission) && len(r.chip.Log()) != 0 {
				t.Errorf("%s at %d: %q", tt.name, tt.at, r.chip.Log())
			}
			got, _ := r.Read(bg, tt.at, tt.done, nil)
			if !bytes.Equal(got, p[:tt.done]) {
				t.Errorf("%s at %d: % X", tt.name, tt.at, got)
			}
		})
	}
	// A locked byte that is what it should be is no error.
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, "sle4432", nil)
		if n, err := r.Write(bg, 0, []byte{0xA2, 0x13, 0x10, 0x91, 0x46}, 0); n != 5 || err != nil {
			t.Errorf("%d, %v", n, err)
		}
		r = newRig(t, "sle4428", nil)
		if n, err := r.Write(bg, 1021, []byte{0xFF, 0, 0}, 0); n != 3 || err != nil {
			t.Errorf("%d, %v", n, err)
		}
	})
}

// A chip that takes nothing: EIO, and where.
func TestNotTaken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, name := range []string{"sle4432", "at24c32", "sle4418"} {
			r := newRig(t, name, func(m *icc.Memory) { m.Fill(32, filled(16)) })
			r.wires.deaf = true
			p := filled(20)
			n, err := r.Write(bg, 32, p, 0)
			if n != 16 || !errors.Is(err, ErrNotTaken) || !strings.Contains(err.Error(), "byte 48 (0x30)") {
				t.Errorf("%s: %d, %v", name, n, err)
			}
		}
		r := newRig(t, "sle4442", nil)
		r.Verify(bg, []byte{0xFF, 0xFF, 0xFF})
		r.wires.deaf = true
		if err := r.Change(bg, []byte{1, 2, 3}); !errors.Is(err, ErrNotTaken) {
			t.Errorf("change: %v", err)
		}
	})
}

// "One write does at most about a second's pages and returns how many bytes it did."
func TestWriteLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, "at24c512", nil)
		r.wires.contact.SetFaults(icc.Faults{Slow: 50 * time.Millisecond})
		start := time.Now()
		n, err := r.Write(bg, 64, filled(60000), time.Second)
		took := time.Since(start)
		if err != nil || n%128 != 64 || n < 128 || took < time.Second || took > 1500*time.Millisecond {
			t.Errorf("%d, %v, %v", n, err, took)
		}
		if !bytes.Equal(r.chip.Contents()[64:64+n], filled(60000)[:n]) {
			t.Error("not on the chip")
		}
	})
}

// A page is one command to an I2C chip, aligned; each is read back.
func TestPages(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, "at24c32", nil)
		r.Write(bg, 0x1E, []byte{1, 2, 3, 4, 5}, 0)
		want := []string{"A0 00 1E 01 02/0", "A0 00 1E/2", "A0 00 20 03 04 05/0", "A0 00 20/3"}
		// The reader asks again while the chip is busy.
		if log := slices.Compact(r.chip.Log()); !slices.Equal(log, want) {
			t.Errorf("%q", log)
		}
	})
}

// Too few bytes from a reader are an error, and leave dst as it was.
func TestShortAnswers(t *testing.T) {
	for _, name := range []string{"sle4442", "at24c02", "sle4406", "sle4428"} {
		r := newRig(t, name, nil)
		m := NewClocked(short{r.wires})
		h, _ := r.wires.contact.ActivateMemory(bg)
		if _, err := m.Activate(bg, h, told(name)); err == nil != (name[:2] == "at" || name == "sle4406") {
			t.Errorf("%s: %v", name, err)
		}
		m.chip = r.Chip()
		if got, err := m.ReadMemory(bg, 2, 4, []byte{9}); !errors.Is(err, reader.ErrProtocol) || !bytes.Equal(got, []byte{9}) {
			t.Errorf("%s: read: % X, %v", name, got, err)
		}
		if _, err := m.ReadProtection(bg, 0, 8, nil); err == nil {
			t.Errorf("%s: protection", name)
		}
		if m.chip.PSC > 0 {
			if _, err := m.PSCTries(bg); !errors.Is(err, reader.ErrProtocol) {
				t.Errorf("%s: tries: %v", name, err)
			}
		}
	}
}
