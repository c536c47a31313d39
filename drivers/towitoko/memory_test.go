package towitoko

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cardfs/cardfs/drivers/bus/serial"
	"github.com/cardfs/cardfs/drivers/bus/serial/serialtest"
	"github.com/cardfs/cardfs/drivers/towitoko/emu"
	"github.com/cardfs/cardfs/reader"
	"github.com/cardfs/cardfs/reader/core"
	"github.com/cardfs/cardfs/reader/icc"
	"github.com/cardfs/cardfs/reader/memcard"
	"github.com/cardfs/cardfs/reader/readertest"
)

// chips are the kinds that the reader clocks, what is said of them at attach, their ATR and PSC.
var chips = []struct{ name, say, atr, psc string }{
	{"sle4432", "", "A2 13 10 91", ""},
	{"sle4442", "", "A2 13 10 91", "FF FF FF"},
	{"sle4418", "", "92 23 10 91", ""},
	{"sle4428", "", "92 23 10 91", "FF FF"},
	{"at24c01", "memory=i2c:128", "82 0B 10 84", ""},
	{"at24c04", "memory=i2c:512", "82 1B 10 84", ""},
	{"at24c16", "memory=i2c:2048", "82 2B 10 84", ""},
	{"at24c32", "memory=i2c:4096", "82 33 10 84", ""},
	{"at24c256", "memory=i2c:32768", "82 4B 10 84", ""},
	{"at24c512", "memory=i2c:65536", "82 53 10 84", ""},
}

// Every chip through all the layers, in every model that takes it: its ATR, its bytes, writes by
// pages, its PSC. "Nothing is written to find out what a card is."
func TestMemoryCards(t *testing.T) {
	for _, tt := range chips {
		for _, o := range []emu.Options{{}, {Type: emu.Kartenzwerg}, {Type: emu.Internal}, {Type: emu.KartenzwergII, Bare: true}} {
			t.Run(fmt.Sprintf("%s in a %02X", tt.name, o.Type), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) { memoryCard(t, o, tt.name, tt.say, tt.atr, tt.psc) })
			})
		}
	}
}

func memoryCard(t *testing.T, o emu.Options, name, say, want, psc string) {
	chip := icc.NewMemory(name)
	before := chip.Contents()
	e, _, s, _ := plug(t, o, chip, say)
	ctx := t.Context()
	atr, err := s.PowerOn(ctx, reader.Cold)
	if err != nil || !bytes.Equal(atr, unhex(want)) || s.Traits().Level != reader.Synchronous {
		t.Fatalf("% X, %v, %+v", atr, err, s.Traits())
	}
	if st, err := s.Status(ctx); st != reader.Powered || err != nil {
		t.Errorf("%v, %v", st, err)
	}
	if bits := chip.Bits(); !bytes.Equal(chip.Contents(), before) || len(writes(chip)) > 0 || len(bits.PSC) > 0 && bits.Counter&(bits.Counter+1) != 0 {
		t.Errorf("it was written to: %q", writes(chip))
	}
	c, err := memcard.Open(ctx, s)
	if err != nil {
		t.Fatal(err)
	}
	size := s.Chip().Size
	if s.Chip().PSC != len(unhex(psc)) || size != len(before) {
		t.Errorf("%+v", s.Chip())
	}
	at := size - 80
	if psc != "" {
		verifies(t, c, chip, unhex(psc), at)
	}
	data := make([]byte, 70)
	for i := range data {
		data[i] = byte(i)
	}
	if n, err := c.Write(ctx, at, data, 0); n != len(data) || err != nil || !bytes.Equal(chip.Contents()[at:at+len(data)], data) {
		t.Errorf("write: %d, %v", n, err)
	}
	got, err := c.Read(ctx, 0, size, nil)
	if err != nil || len(got) != size || !bytes.Equal(got[:at+70], chip.Contents()[:at+70]) {
		t.Errorf("read: %d bytes, %v", len(got), err)
	}
	for _, n := range []int{1, 14, 15, 16, 30, 31} {
		if got, err := c.Read(ctx, at+3, n, []byte("x")); err != nil || !bytes.Equal(got, append([]byte("x"), data[3:3+n]...)) {
			t.Errorf("read of %d: % X, %v", n, got, err)
		}
	}
	if psc != "" {
		fresh := unhex("41 42 43")[:s.Chip().PSC]
		if err := c.Change(ctx, fresh); err != nil || !bytes.Equal(chip.Bits().PSC, fresh) {
			t.Errorf("change: %v", err)
		}
	}
	if s.Chip().Protected > 0 {
		is := reader.ErrReadOnly
		if s.Chip().Bus == reader.ThreeWire { // the reader does not read its protect bits
			is = memcard.ErrNotTaken
		}
		if n, err := c.Write(ctx, 2, []byte{0x10, 0}, 0); n != 1 || !errors.Is(err, is) {
			t.Errorf("a locked byte: %d, %v", n, err)
		}
	}
	// Power takes the verification; the card is the same then, and known at once.
	if err := s.PowerOff(ctx); err != nil || s.Traits().Level == reader.Synchronous || e.Contact.Powered() {
		t.Errorf("power off: %v", err)
	}
	if _, err := s.ReadMemory(ctx, 0, 4, nil); !errors.Is(err, reader.ErrStale) {
		t.Errorf("without power: %v", err)
	}
	for _, how := range []reader.Reset{reader.Cold, reader.Warm, reader.Cold} {
		start := time.Now()
		if again, err := s.PowerOn(ctx, how); err != nil || !bytes.Equal(again, atr) || chip.Bits().Verified {
			t.Errorf("%v: % X, %v", how, again, err)
		}
		if took := time.Since(start); took > 500*time.Millisecond {
			t.Errorf("%v took %v", how, took)
		}
	}
}

// writes are the chip's commands that are no reading.
func writes(chip *icc.Memory) []string {
	return slices.DeleteFunc(chip.Log(), func(line string) bool {
		// An I2C chip's address alone writes nothing.
		return !strings.HasSuffix(line, "/0") || strings.HasPrefix(line, "A") && len(line) <= len("A0 00 00/0") && chip.Kind()[:2] == "at"
	})
}

// secured are the chip's commands about its PSC and counter, but for those that read.
func secured(chip *icc.Memory) []string {
	return slices.DeleteFunc(writes(chip), func(line string) bool {
		if chip.Kind() == "sle4442" {
			return line[:2] != "39" && line[:2] != "33"
		}
		return line[:2] != "F2" && line[:2] != "CD" && (line[:2] != "F3" || line[3:5] < "FD")
	})
}

// verifies tries PSCs: none, a wrong one, which costs one try, and the right one.
func verifies(t *testing.T, c *memcard.Card, chip *icc.Memory, psc []byte, at int) {
	ctx := t.Context()
	chip.ClearLog()
	if _, err := c.Write(ctx, at, []byte{1}, 0); !errors.Is(err, reader.ErrNoPermission) {
		t.Errorf("write without the PSC: %v", err)
	}
	if got := secured(chip); len(got) > 0 {
		t.Errorf("a write without the PSC: %q", got)
	}
	full, _, _ := c.PSC()
	wrong := make([]byte, len(psc))
	if ok, err := c.Verify(ctx, wrong); ok || err != nil {
		t.Errorf("wrong PSC: %v, %v", ok, err)
	}
	if tries, _, _ := c.PSC(); tries != full-1 || chip.Bits().Verified {
		t.Errorf("%d tries", tries)
	}
	chip.ClearLog()
	if ok, err := c.Verify(ctx, psc); !ok || err != nil || !chip.Bits().Verified {
		t.Errorf("right PSC: %v, %v", ok, err)
	}
	if tries, _, _ := c.PSC(); tries != full {
		t.Errorf("%d tries", tries)
	}
	// The order that the data sheets give, each once.
	want := []string{"39 00 02/0", "33 01 FF/0", "33 02 FF/0", "33 03 FF/0", "39 00 FF/0"}
	if len(psc) == 2 {
		want = []string{"F2 FD FC/0", "CD FE FF/0", "CD FF FF/0", "F3 FD FF/0"}
	}
	if want[0][:2] == "39" {
		want[0] = "39 00 04/0" // 06 was left
	}
	if got := secured(chip); !slices.Equal(got, want) {
		t.Errorf("verification: %q, want %q", got, want)
	}
}

// A blocked card is told so without being sent anything, and wrong PSCs block it, one try each.
func TestBlocked(t *testing.T) {
	for name, tries := range map[string]int{"sle4442": 3, "sle4428": 8} {
		synctest.Test(t, func(t *testing.T) {
			chip := icc.NewMemory(name)
			_, _, s, _ := plug(t, emu.Options{}, chip)
			if _, err := s.PowerOn(t.Context(), reader.Cold); err != nil {
				t.Fatal(err)
			}
			for left := tries - 1; left >= 0; left-- {
				if ok, got, err := s.VerifyPSC(t.Context(), make([]byte, s.Chip().PSC)); ok || got != left || err != nil {
					t.Errorf("%s: %v, %d of %d, %v", name, ok, got, left, err)
				}
			}
			chip.ClearLog()
			right := bytes.Repeat([]byte{0xFF}, s.Chip().PSC)
			if ok, left, err := s.VerifyPSC(t.Context(), right); ok || left != 0 || err != nil || len(writes(chip)) > 0 {
				t.Errorf("%s: %v, %d, %v, %q", name, ok, left, err, writes(chip))
			}
			if got, err := s.PSCTries(t.Context()); got != 0 || err != nil {
				t.Errorf("%d, %v", got, err)
			}
		})
	}
}

// An SLE 4418 has ordinary bytes where others have the PSC, and takes them up to its end.
func TestLastBytes(t *testing.T) {
	for _, at := range []int{1000, 1008, 1020, 1021, 1022, 1023} {
		synctest.Test(t, func(t *testing.T) {
			chip := icc.NewMemory("sle4418")
			_, _, s, _ := plug(t, emu.Options{}, chip)
			if _, err := s.PowerOn(t.Context(), reader.Cold); err != nil {
				t.Fatal(err)
			}
			c, err := memcard.Open(t.Context(), s)
			if err != nil {
				t.Fatal(err)
			}
			data := pattern(1024 - at)
			if n, err := c.Write(t.Context(), at, data, 0); n != len(data) || err != nil || !bytes.Equal(chip.Contents()[at:], data) {
				t.Errorf("%d: %d, %v", at, n, err)
			}
		})
	}
}

// Nothing of a PSC stays in the driver: not of one that was presented or set, nor of one that the
// chip shows, whether or not it worked.
func TestWipe(t *testing.T) {
	for _, fail := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			_, p, s, _ := plug(t, emu.Options{}, icc.NewMemory("sle4442"))
			if _, err := s.PowerOn(t.Context(), reader.Cold); err != nil {
				t.Fatal(err)
			}
			check := func(what string, secret []byte) {
				t.Helper()
				for _, b := range [][]byte{s.frame[:], s.body[:], s.rx[:]} {
					if bytes.Contains(b, secret) {
						t.Errorf("%s: the driver holds the PSC", what)
					}
				}
			}
			ok, _, err := s.VerifyPSC(t.Context(), unhex("FF FF FF"))
			if !ok || err != nil {
				t.Fatal(err)
			}
			secret := unhex("41 42 43")
			if out, _ := p.Sent(); fail {
				p.Inject(serialtest.Fault{At: out + 9, Kind: serialtest.Change})
			}
			if err := s.ChangePSC(t.Context(), secret); (err != nil) != fail {
				t.Error(err)
			}
			check("change", secret)
			if ok, _, err := s.VerifyPSC(t.Context(), secret); ok == fail || err != nil {
				t.Errorf("%v, %v", ok, err)
			}
			check("verify", secret)
			// What was read before it failed is not left behind dst.
			_, in := p.Sent()
			p.Inject(serialtest.Fault{ToHost: true, At: in + 1 + 16 + 2, Kind: serialtest.Change})
			dst := make([]byte, 0, 64)
			got, err := s.ReadMemory(t.Context(), 0, 40, dst)
			if !errors.Is(err, reader.ErrProtocol) || len(got) != 0 || !bytes.Equal(dst[:40], make([]byte, 40)) {
				t.Errorf("% X, %v; % X", got, err, dst[:40])
			}
			if !strings.Contains(fmt.Sprint(err), "byte 15: ") {
				t.Errorf("it does not say where: %v", err)
			}
		})
	}
}

// A pause behind a write ends with its context.
func TestPauseEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, _, s, _ := plug(t, emu.Options{Type: emu.Internal}, icc.NewMemory("sle4432"))
		if _, err := s.PowerOn(t.Context(), reader.Cold); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		if err := s.WriteMemory(ctx, 64, []byte{1}); !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
		start := time.Now()
		if err := s.WriteMemory(t.Context(), 64, []byte{1}); err != nil || time.Since(start) < 90*time.Millisecond {
			t.Errorf("%v after %v", err, time.Since(start))
		}
	})
}

// What is no memory card, or one that nobody can tell, is not taken for one.
func TestUnknownMemory(t *testing.T) {
	for _, x := range []struct {
		name, say string
		is        error
	}{
		{"at24c32", "", memcard.ErrSize},
		{"sle4406", "", memcard.ErrSize},
		{"mute", "", reader.ErrMute},
		{"mute", "memory=i2c:4096", reader.ErrMute},
	} {
		synctest.Test(t, func(t *testing.T) {
			var c icc.Card = readertest.Plain
			if m := icc.NewMemory(x.name); m != nil {
				c = m
			}
			e, _, s, _ := plug(t, emu.Options{}, c, x.say)
			if x.name == "mute" {
				e.Contact.SetFaults(icc.Faults{Mute: true})
			}
			if _, err := s.PowerOn(t.Context(), reader.Cold); !errors.Is(err, x.is) || errors.Is(err, reader.ErrMute) != (x.is == reader.ErrMute) {
				t.Errorf("%s %s: %v", x.name, x.say, err)
			}
			if m, ok := c.(*icc.Memory); ok && len(writes(m)) > 0 {
				t.Errorf("%s: %q", x.name, writes(m))
			}
		})
	}
	synctest.Test(t, func(t *testing.T) {
		_, _, s, l := plug(t, emu.Options{}, readertest.Plain)
		powerUp(t, l, -1)
		if _, err := s.ReadMemory(t.Context(), 0, 4, nil); !errors.Is(err, reader.ErrUnsupported) {
			t.Error(err)
		}
		transmit(t, l, challenge, response)
	})
	synctest.Test(t, func(t *testing.T) {
		_, _, s, _ := plug(t, emu.Options{}, icc.NewMemory("sle4442"))
		if _, err := s.PowerOn(t.Context(), reader.Cold); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Exchange(t.Context(), reader.Transfer{Out: challenge, Want: 1, Wait: time.Second}, nil); !errors.Is(err, reader.ErrUnsupported) {
			t.Error(err)
		}
	})
}

// The whole of a card through `memory`, against the least that the reader's commands need: the
// address once, and a command of 2 characters with an answer of one more than the bytes for each 15
// of them; times and characters of the line alone, without a pause. 1.1 times that is the limit.
func TestCost(t *testing.T) {
	for _, x := range []struct {
		name, say string
		address   int // characters of the command and its answer
	}{
		{"sle4442", "", 9 + 1},
		{"sle4428", "", 10 + 1},
		{"at24c256", "memory=i2c:32768", 11 + 1},
	} {
		synctest.Test(t, func(t *testing.T) {
			chip := icc.NewMemory(x.name)
			size := len(chip.Contents())
			e := newReader(t, emu.Options{}, chip)
			p := serialtest.Plug(e)
			defer p.Unplug()
			m := core.NewManager(core.Options{Drivers: []reader.Driver{Driver{}}})
			defer m.Close(context.Background())
			if err := m.Announce(device(p, x.say)); err != nil {
				t.Fatal(err)
			}
			time.Sleep(5 * time.Second)
			session, err := m.Slot(0).Open(t.Context(), core.Caller{})
			if err != nil {
				t.Fatal(err)
			}
			defer session.Close()
			if _, err := session.ReadMemory(t.Context(), 0, 1, nil); err != nil {
				t.Fatal(err)
			}
			out, in := p.Sent()
			start := time.Now()
			got, err := session.ReadMemory(t.Context(), 0, size, nil)
			if err != nil || len(got) != size || !bytes.Equal(got[:size-3], chip.Contents()[:size-3]) { // the PSC may be there
				t.Fatalf("%d bytes, %v", len(got), err)
			}
			paused := time.Since(start)
			out2, in2 := p.Sent()
			sent := out2 - out + in2 - in
			least := x.address + size/15*(2+16)
			if rest := size % 15; rest > 0 {
				least += 2 + rest + 1
			}
			line := serial.Mode{Baud: 9600, Frame: serial.Frame8E2}
			cost := float64(line.Time(sent)+paused) / float64(line.Time(least))
			t.Logf("%s: %d characters and %v of pauses, at least %d: %.3f times", x.name, sent, paused, least, cost)
			if cost > 1.1 {
				t.Errorf("%s: %.3f times the line's own time", x.name, cost)
			}
		})
	}
}
