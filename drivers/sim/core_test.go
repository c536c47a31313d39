package sim

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cardfs/cardfs/reader"
	"github.com/cardfs/cardfs/reader/core"
	"github.com/cardfs/cardfs/reader/icc"
	"github.com/cardfs/cardfs/reader/iso7816"
	"github.com/cardfs/cardfs/reader/readertest"
)

// manager is a core with this driver alone.
func manager(t testing.TB) (*core.Manager, *Driver) {
	d := New()
	m := core.NewManager(core.Options{Drivers: []reader.Driver{d}})
	t.Cleanup(func() { m.Close(t.Context()) })
	return m, d
}

func ctl(t testing.TB, m *core.Manager, line string) {
	t.Helper()
	var err error
	if words := strings.Fields(line); words[0] == "attach" {
		params := map[string]string{}
		for _, p := range words[3:] {
			key, value, _ := strings.Cut(p, "=")
			params[key] = value
		}
		err = m.Attach(words[1], words[2], params)
	} else {
		var n int
		if n, err = strconv.Atoi(words[1]); err == nil {
			err = m.CommandDriver(words[0], n, words[2:])
		}
	}
	if err != nil {
		t.Fatalf("%s: %v", line, err)
	}
}

func open(t testing.TB, m *core.Manager, n int) *core.Session {
	t.Helper()
	b := m.Slot(n)
	if b == nil {
		t.Fatalf("no slot %d", n)
	}
	s, err := b.Open(context.Background(), core.Caller{Owner: t, Wait: true})
	if err != nil {
		t.Fatalf("open slot %d: %v", n, err)
	}
	return s
}

func transmit(t testing.TB, s *core.Session, capdu string) string {
	t.Helper()
	r, err := s.Transmit(context.Background(), unhex(capdu), nil)
	if err != nil {
		t.Fatalf("%s: %v", capdu, err)
	}
	return fmt.Sprintf("% X", r)
}

var unhex = readertest.Hex

// Every emulated reader, with every card that its level carries, through the core. The cards
// were written independently of the core's protocols.
func TestThroughTheCore(t *testing.T) {
	for _, m := range models {
		for _, k := range cardKinds {
			each := func(t *testing.T) {
				if _, memory := k.make("").(*icc.Memory); memory {
					t.Skip("see TestMemoryCards")
				}
				parsed, err := iso7816.ParseATR(k.make("").ATR())
				if err != nil {
					t.Fatal(err)
				}
				if (m.name == "ikey3k" || m.name == "etoken" || m.name == "etoken64" || m.name == "starkey") && (parsed.Default() == 0 || k.name == "crc") {
					t.Skip("the token speaks T=1 with an LRC to its card")
				}
				if m.name == "ikey2k" && k.name != "datakey" {
					t.Skip("the token asks its card for an ATR of 25 bytes")
				}
				if (m.name == "iccd-a" || m.name == "egate" || m.name == "epass3k" || m.name == "cardman") && parsed.Default() != 0 {
					t.Skip("the token speaks T=0 to its card (of version A: ICCD 1.0 §6.1)")
				}
				if m.name == "rutoken" || k.name == "rutoken" {
					t.Skip("its driver rewrites commands, and its card has other files: see TestRutoken")
				}
				mgr, _ := manager(t)
				ctl(t, mgr, "attach sim "+m.name+" card="+k.name)
				s := open(t, mgr, 0)
				if want := k.make("").ATR(); !bytes.Equal(s.ATR(), want) {
					t.Errorf("ATR % X, want % X", s.ATR(), want)
				}
				if slower := mgr.Slot(0).Info().Fallback; slower != "" {
					t.Errorf("the card's rate is given up: %s", slower)
				}
				if k.name == "echo" {
					return
				}
				for _, x := range []struct{ c, r string }{
					{"00A4000C023F00", "90 00"},
					{"00A40000020001", "6A 82"},
					{"0020 0001", "63 C3"},
					{"80EE0000 04 01020304 00", "01 02 03 04 90 00"},
					{"80EE0000 04 01020304 04", "01 02 03 04 90 00"},
					{"80EC0004 04", "00 01 02 03 90 00"},
					{"80EC0004 00", "00 01 02 03 90 00"},
					{"00A4040C 08 F063617264667301", "90 00"},
					{"00B0850000", "PATTERN"},
					{"00B0851003", "10 11 12 90 00"},
					{"00B0810000", strings.Repeat("00 ", 256) + "90 00"},
				} {
					want := x.r
					if want == "PATTERN" {
						want = fmt.Sprintf("% X 90 00", masterFile().child(0x5000).child(0x5005).data[:256])
					}
					if long := len(want) > 3*254; long && m.name == "smartboard" && parsed.Default() == 0 {
						continue // more than its frames carry; in T=1 they carry blocks
					}
					if got := transmit(t, s, x.c); got != want {
						t.Errorf("%s: %s, want %s", x.c, got, want)
					}
				}
				if m.name == "smartboard" && parsed.Default() == 0 {
					return
				}
				if slices.Contains([]string{"pinpad", "ccid-short", "gempc430", "gempc410", "kaan", "b1", "cyberjack"}, m.name) {
					return // their level is that of short APDUs
				}
				// Extended length, both ways.
				data := make([]byte, 3000)
				for i := range data {
					data[i] = byte(i * 7)
				}
				c := append(append(unhex("80EE0000 00 0BB8"), data...), 0, 0)
				r, err := s.Transmit(context.Background(), c, nil)
				if err != nil || !bytes.Equal(r, append(bytes.Clone(data), 0x90, 0)) {
					t.Errorf("echo of 3000 bytes: %d bytes, %v", len(r), err)
				}
			}
			t.Run(m.name+"/"+k.name, func(t *testing.T) { synctest.Test(t, each) })
		}
	}
}

// The protocol must cope with noise on the line. An exchange may fail, after three failures
// in a row; but no answer may be wrong, and no command may reach the card twice. The noise
// is always the same, and so is the number of failures.
func TestNoisy(t *testing.T) {
	for _, x := range []struct {
		name, part string
		most       int // failed exchanges, of 300
	}{
		{"ikey3k", "1/10", 0}, {"ikey3k", "1/4", 46},
		{"t1", "1/10", 6}, {"t1", "1/4", 23},
		{"char-t1", "1/10", 1}, {"char-t1", "1/4", 100},
	} {
		t.Run(x.name+" "+x.part, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d := New()
				mgr := core.NewManager(core.Options{Drivers: []reader.Driver{d}})
				defer mgr.Close(t.Context())
				ctl(t, mgr, "attach sim "+x.name)
				contact := d.devices[x.name+"-1"].hw.contacts()[0]
				s := open(t, mgr, 0)
				ctl(t, mgr, "sim 0 noisy "+x.part)
				failed := 0
				for i := range 300 {
					n := 1 + i%200
					want := make([]byte, n)
					for j := range want {
						want[j] = byte(i + j)
					}
					before := contact.APDUs()
					r, err := s.Transmit(context.Background(), append(append([]byte{0x80, 0xEE, 0, 0, byte(n)}, want...), 0), nil)
					if runs := contact.APDUs() - before; runs > 1 || err == nil && runs != 1 {
						t.Fatalf("command %d reached the card %d times", i, runs)
					}
					switch {
					case err == nil && !bytes.Equal(r, append(want, 0x90, 0)):
						t.Fatalf("%d: % X", i, r)
					case err == nil:
						continue
					case !errors.Is(err, reader.ErrProtocol) && !errors.Is(err, reader.ErrTimeout) && !errors.Is(err, reader.ErrStale):
						t.Fatalf("%d: %v", i, err)
					}
					failed++
					ctl(t, mgr, "sim 0 normal")
					if err := mgr.Slot(0).Power(context.Background(), core.ResetWarm, core.Caller{Owner: t, Wait: true}); err != nil {
						t.Fatal(err)
					}
					s = open(t, mgr, 0)
					ctl(t, mgr, "sim 0 noisy "+x.part)
				}
				if failed > x.most {
					t.Errorf("%d of 300 failed, at most %d may", failed, x.most)
				}
			})
		})
	}
}

func BenchmarkExchange(b *testing.B) {
	for _, m := range models {
		b.Run(m.name, func(b *testing.B) {
			mgr, _ := manager(b)
			ctl(b, mgr, "attach sim "+m.name)
			s := open(b, mgr, 0)
			c, dst := unhex("00A4000C023F00"), make([]byte, 0, 300)
			b.ReportAllocs()
			for b.Loop() {
				if _, err := s.Transmit(context.Background(), c, dst); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// A slow card takes as long as it should, at any level: by S(WTX request) in T=1, by NULL in
// T=0 where the core sees it.
func TestSlow(t *testing.T) {
	for _, m := range processorModels() {
		switch m.name {
		case "iccd", "iccd-a", "egate", "eutron", "rutoken":
			continue // polled for their answers
		case "acr30-serial", "gempc410", "kaan", "b1", "cardman", "cyberjack", "smartboard", "smph", "towitoko", "wbeiuu":
			continue // takes some time itself
		case "piv", "openpgp":
			continue // their cards have no such commands: see TestSlowReal
		}
		t.Run(m.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d := New()
				mgr := core.NewManager(core.Options{Drivers: []reader.Driver{d}})
				defer mgr.Close(t.Context())
				ctl(t, mgr, "attach sim "+m.name)
				s := open(t, mgr, 0)
				for _, slow := range []time.Duration{10 * time.Millisecond, 10 * time.Second, 90 * time.Second} {
					ctl(t, mgr, "sim 0 slow "+slow.String())
					start := time.Now()
					if got := transmit(t, s, "00A4000C023F00"); got != "90 00" {
						t.Error(got)
					}
					if got := time.Since(start); got != slow {
						t.Errorf("took %v, the card %v", got, slow)
					}
				}
				ctl(t, mgr, "sim 0 normal")
				start := time.Now()
				transmit(t, s, "80E80064") // 100 times 10 ms
				if got := time.Since(start); got != time.Second {
					t.Errorf("took %v", got)
				}
			})
		})
	}
}

// A card that asks for another IFSC during a command, and one that aborts chains.
func TestCardsOwnRequests(t *testing.T) {
	for _, name := range []string{"ikey3k", "t1", "char-t1"} {
		t.Run(name, func(t *testing.T) {
			mgr, d := manager(t)
			ctl(t, mgr, "attach sim "+name)
			contact := d.devices[name+"-1"].hw.contacts()[0]
			long := append(append(unhex("80EE0000 00 0258"), bytes.Repeat([]byte{0x5A}, 600)...), 0, 0)
			want := append(bytes.Repeat([]byte{0x5A}, 600), 0x90, 0)

			contact.SetFaults(icc.Faults{RequestIFS: 40})
			s := open(t, mgr, 0)
			for range 3 {
				r, err := s.Transmit(context.Background(), long, nil)
				if err != nil || !bytes.Equal(r, want) {
					t.Fatalf("%d bytes, %v", len(r), err)
				}
			}
			if got := transmit(t, s, "80EE0000 32 "+strings.Repeat("A5", 50)+"00"); !strings.HasSuffix(got, "A5 90 00") {
				t.Error(got)
			}

			contact.SetFaults(icc.Faults{AbortChain: 2})
			before := contact.APDUs()
			var failed int
			for range 4 {
				r, err := s.Transmit(context.Background(), long, nil)
				if err != nil {
					failed++
				} else if !bytes.Equal(r, want) {
					t.Errorf("%d bytes", len(r))
				}
			}
			if got := contact.APDUs() - before; failed != 2 || got != 2 {
				t.Errorf("%d of 4 failed, %d reached the card; every second was aborted", failed, got)
			}
		})
	}
}
