package wbeiuu

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cardfs/cardfs/drivers/bus/usb"
	"github.com/cardfs/cardfs/drivers/bus/usb/usbtest"
	"github.com/cardfs/cardfs/drivers/wbeiuu/emu"
	"github.com/cardfs/cardfs/reader"
	"github.com/cardfs/cardfs/reader/core"
	"github.com/cardfs/cardfs/reader/icc"
	"github.com/cardfs/cardfs/reader/readertest"
)

// fake answers by the table, keyed by the command; others are taken.
type fake struct {
	usb.Conn
	answers map[string][]string // each is given once; the last for ever
	due     [][]byte
	gone    chan struct{}
	buffer  []byte // that the latest command was in
}

func (f *fake) OpenUSB(context.Context, uint8) (usb.Conn, error) { return f, nil }
func (f *fake) Gone() <-chan struct{}                            { return f.gone }
func (f *fake) Close() error                                     { return nil }
func (f *fake) Descriptors() []byte                              { return nil }
func (f *fake) Reset(context.Context) error                      { return nil }
func (f *fake) ClearHalt(context.Context, uint8) error           { return nil }

func (f *fake) Control(ctx context.Context, s usb.Setup, data []byte, timeout time.Duration) (int, error) {
	return 0, ctx.Err()
}

func (f *fake) Out(ctx context.Context, ep uint8, p []byte, zlp bool, timeout time.Duration) (int, error) {
	f.buffer = p
	key := fmt.Sprintf("%X", p)
	if list := f.answers[key]; len(list) > 0 {
		for part := range strings.SplitSeq(list[0], "/") {
			f.due = append(f.due, unhex(part))
		}
		if len(list) > 1 {
			f.answers[key] = list[1:]
		}
	}
	return len(p), ctx.Err()
}

func (f *fake) In(ctx context.Context, ep uint8, p []byte, timeout time.Duration) (int, error) {
	if len(f.due) == 0 {
		select {
		case <-time.After(timeout):
			return 0, usb.ErrTimeout
		case <-ctx.Done():
			return 0, ctx.Err()
		}
	}
	d := f.due[0]
	f.due = f.due[1:]
	if len(d) > len(p) {
		return 0, usb.ErrOverflow
	}
	return copy(p, d), nil
}

// What the reader may say of an ATR and of an answer. Errors name the reader and the lengths,
// and no bytes.
func TestAnswers(t *testing.T) {
	for _, x := range []struct {
		name    string
		receive []string // answers to 56 after the reset; the last is given for ever
		want    string   // the ATR, or a part of the error
		is      error
	}{
		{"at once", []string{"04/3B 02 14 50", "00"}, "3B 02 14 50", nil},
		{"in pieces", []string{"00", "01/3B", "00", "02/02 14", "01/50", "00"}, "3B 02 14 50", nil},
		{"zeros before, in pieces", []string{"02/00 00", "03/00 3B 02", "02/14 50", "00"}, "3B 02 14 50", nil},
		{"zeros behind", []string{"06/3B 02 14 50 00 00", "02/00 00", "00"}, "3B 02 14 50", nil},
		{"inverse", []string{"02/00 03", "01/BF", "02/D7 F5", "00"}, "3F 02 14 50", nil},
		{"an empty packet before", []string{"/04//3B 02 14 50", "00"}, "3B 02 14 50", nil},
		{"silent", []string{"00"}, "no more came", reader.ErrMute},
		{"zeros alone", []string{"02/00 00", "00"}, "no more came", reader.ErrMute},
		{"32 zeros", []string{"20/" + strings.Repeat("00", 32), "04/3B 02 14 50", "00"}, "3B 02 14 50", nil},
		{"33 zeros", []string{"21/" + strings.Repeat("00", 33), "04/3B 02 14 50", "00"}, "more than 32 zeros", reader.ErrMute},
		{"zeros for ever", []string{"01/00"}, "more than 32 zeros", reader.ErrMute},
		{"neither convention", []string{"01/3F", "00"}, "neither 3B nor 03", reader.ErrProtocol},
		{"cut", []string{"03/3B 02 14", "00"}, "3 bytes came, 4 or more are announced", reader.ErrProtocol},
		{"too long", []string{"FF/3B" + strings.Repeat("F0", 254)}, "33 are the most", reader.ErrProtocol},
		{"fewer than counted", []string{"04/3B 02 14", "00"}, "3 bytes came, 4 are due", reader.ErrProtocol},
		{"more than counted", []string{"04/3B 02 14 50 00", "00"}, "more than asked for", reader.ErrProtocol},
		{"a count of two bytes", []string{"04 3B", "00"}, "more than asked for", reader.ErrProtocol},
		{"a count, and nothing", []string{"04", "00"}, "timed out", reader.ErrTimeout},
		{"no count", []string{"//", "00"}, "0 bytes came, 1 are due", reader.ErrProtocol},
	} {
		t.Run(x.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := &fake{answers: map[string][]string{"03": {"01"}, "56": append([]string{"00", "00", "00"}, x.receive...)}}
				r, s := open(t, f)
				if name, more := r.(reader.Identifier).Identify(); name != model || more != nil {
					t.Errorf("%s, %v", name, more)
				}
				start := time.Now()
				atr, err := s.PowerOn(t.Context(), reader.Cold)
				if took := time.Since(start); took > 5*time.Second {
					t.Errorf("it took %v", took)
				}
				if x.is == nil {
					if err != nil || !bytes.Equal(atr, unhex(x.want)) {
						t.Errorf("% X, %v", atr, err)
					}
					return
				}
				if !errors.Is(err, x.is) || !strings.Contains(err.Error(), x.want) || !strings.HasPrefix(err.Error(), "wbeiuu usb:1-2: ") {
					t.Errorf("%v", err)
				}
				if err != nil && (strings.Contains(err.Error(), "14 50") || strings.Contains(err.Error(), "1450")) {
					t.Errorf("bytes of the answer: %v", err)
				}
				if st, err := s.Status(t.Context()); st == reader.Powered {
					t.Errorf("status %v, %v", st, err)
				}
			})
		})
	}
}

// Characters without an end are given up, and none of a command's bytes stays in the driver.
func TestExchange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fake{answers: map[string][]string{"03": {"01"}, "56": {"00", "00", "00", "04/3B 02 14 50", "00"}}}
		_, s := open(t, f)
		if _, err := s.PowerOn(t.Context(), reader.Cold); err != nil {
			t.Fatal(err)
		}
		pin := unhex("00 20 00 81 04 31 32 33 34")
		run := func(want int, receive ...string) ([]byte, error) {
			f.answers["56"] = receive
			return s.Exchange(t.Context(), reader.Transfer{Out: pin, Want: want, Wait: time.Second, CharWait: time.Second}, []byte("before"))
		}
		got, err := run(4, "00", "02/90 01", "FF/"+strings.Repeat("AA", 255), "00")
		if err != nil || !bytes.Equal(got, append([]byte("before"), 0x90, 0x01, 0xAA, 0xAA)) {
			t.Errorf("% X, %v", got, err)
		}
		if !bytes.Equal(f.buffer[:1], []byte{0x56}) || bytes.Contains(s.(*slot).frame[:], pin[5:]) {
			t.Error("the driver holds the command")
		}
		// The card stops: what there is of it.
		got, err = run(4, "00", "02/90 01", "00")
		if err != nil || !bytes.Equal(got, append([]byte("before"), 0x90, 0x01)) {
			t.Errorf("% X, %v", got, err)
		}
		if s.(*slot).in != [1024]byte{} {
			t.Error("the driver holds the answer")
		}
		for name, receive := range map[string][]string{
			"flood before": {"FF/" + strings.Repeat("AA", 255)},
			"cut":          {"00", "04/90 01"},
			"nothing":      {"00"},
		} {
			got, err = run(2000, receive...)
			if err == nil || string(got) != "before" {
				t.Errorf("%s: %d bytes, %v", name, len(got), err)
			}
			if s.(*slot).in != [1024]byte{} {
				t.Errorf("%s: the driver holds an answer", name)
			}
			f.due, f.answers["56"] = nil, []string{"00", "00", "00", "04/3B 02 14 50", "00"}
			if _, err := s.PowerOn(t.Context(), reader.Cold); err != nil {
				f.answers["56"] = []string{"00", "00", "00", "04/3B 02 14 50", "00"}
				if _, err = s.PowerOn(t.Context(), reader.Cold); err != nil {
					t.Fatal(err)
				}
			}
		}
		got, err = run(2000, "00", "FF/"+strings.Repeat("AA", 255))
		if !errors.Is(err, reader.ErrProtocol) || !strings.Contains(err.Error(), "more than 1024 characters") || string(got) != "before" {
			t.Errorf("%d bytes, %v", len(got), err)
		}
	})
}

// What the core relies on.
func TestTraits(t *testing.T) {
	_, s, _ := plug(t, readertest.Plain)
	want := reader.Traits{Level: reader.Character, IFSD: 250, IFSC: 247, ClockHz: 3_579_000, Slack: 300 * time.Millisecond}
	if got := s.Traits(); got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
}

// Requests and commands that the emulated reader refuses: before the wake-up, and those that
// nobody has seen.
func TestRefused(t *testing.T) {
	e := newReader(t, readertest.Plain)
	port := e.Plug()
	defer e.Unplug()
	out := func(p string) error {
		_, err := port.Out(t.Context(), 0x02, unhex(p), false, time.Second)
		if err != nil {
			port.ClearHalt(t.Context(), 0x02)
		}
		return err
	}
	if err := out("03"); !errors.Is(err, usb.ErrStall) {
		t.Errorf("before the wake-up: %v", err)
	}
	for _, s := range []usb.Setup{{RequestType: 0x03, Request: 2, Value: 1}, {RequestType: 0x43, Request: 2, Value: 2}} {
		if _, err := port.Control(t.Context(), s, nil, time.Second); !errors.Is(err, usb.ErrStall) {
			t.Errorf("%v: %v", s, err)
		}
	}
	if _, err := port.Control(t.Context(), usb.Setup{RequestType: 0x03, Request: 2, Value: 2}, nil, time.Second); err != nil {
		t.Error(err)
	}
	for _, p := range []string{"55", "07", "5E 01", "5E 04 03 00 00", "49 02 98", "03 FF"} {
		if err := out(p); !errors.Is(err, usb.ErrStall) {
			t.Errorf("%s: %v", p, err)
		}
	}
	for _, p := range []string{"03", "52 06 01 53", "5E 04 00", "00"} {
		if err := out(p); err != nil {
			t.Errorf("%s: %v", p, err)
		}
	}
}

// No answer of a reader makes the driver panic, wait without an end, or accept characters
// that did not arrive.
func FuzzAnswers(f *testing.F) {
	f.Add(unhex("01 00 00 01 01 00 04 3B 02 14 50 00 01 A4 02 90 00"), byte(0))
	f.Add(unhex("01 00 00 04 01 00 01 03 02 FD D7 01 F5"), byte(3))
	f.Fuzz(func(t *testing.T, in []byte, pieces byte) {
		synctest.Test(t, func(t *testing.T) {
			c := &tape{fake: fake{}, in: in, pieces: pieces}
			r, err := Driver{}.Open(t.Context(), device(c))
			if err != nil {
				return
			}
			defer r.Close()
			s := r.Slots()[0]
			start := time.Now()
			s.Status(t.Context())
			atr, err := s.PowerOn(t.Context(), reader.Cold)
			if err == nil && (len(atr) < 2 || len(atr) > 33) {
				t.Errorf("ATR % X", atr)
			}
			for _, want := range []int{1, 3, 259} {
				rx, err := s.Exchange(t.Context(), reader.Transfer{Out: challenge, Want: want, Wait: time.Second, CharWait: time.Second}, nil)
				if len(rx) > want || err == nil && len(rx) == 0 {
					t.Errorf("%d bytes and %v, %d were asked for", len(rx), err, want)
				}
			}
			s.PowerOff(t.Context())
			if took := time.Since(start); took > 10*time.Minute {
				t.Errorf("it took %v", took)
			}
		})
	})
}

// tape is a reader whose answers come from a fuzzer, whatever it is asked.
type tape struct {
	fake
	in     []byte
	pieces byte
}

func (c *tape) OpenUSB(context.Context, uint8) (usb.Conn, error) { return c, nil }

func (c *tape) In(ctx context.Context, ep uint8, p []byte, timeout time.Duration) (int, error) {
	if timeout == quietWait || len(c.in) == 0 {
		time.Sleep(timeout)
		return 0, usb.ErrTimeout
	}
	n := len(p)
	if c.pieces&1 != 0 && len(p) > 1 {
		n = len(p) - int(c.in[0])%2
	}
	n = copy(p[:n], c.in)
	c.in = c.in[n:]
	return n, nil
}

// The emulated reader survives any commands.
func FuzzEmulator(f *testing.F) {
	f.Add(unhex("01 03 04 49 02 98 21 01 56 05 5E 02 02 98 01 04 52 06 0C 53 01 56"), byte(0))
	f.Add(unhex("04 49 02 98 21 02 52 53 08 5E 04 05 00 84 00 00 08 01 56 01 52 01 53 01 4A"), byte(1))
	f.Fuzz(func(t *testing.T, in []byte, options byte) {
		for _, c := range []card{readertest.Plain, readertest.Dual, readertest.Block} {
			in := in
			synctest.Test(t, func(t *testing.T) {
				e := newReader(t, c)
				e.Set(emu.Options{Drops: options&1 != 0, ZLP: options&2 != 0, Zeros: int(options >> 4)})
				e.Contact.SetFaults(icc.Faults{Slow: 20 * time.Millisecond})
				port := e.Plug()
				defer e.Unplug()
				port.Control(t.Context(), usb.Setup{RequestType: 0x03, Request: 2, Value: 2}, nil, time.Second)
				for len(in) > 0 {
					n := min(len(in)-1, int(in[0]))
					if _, err := port.Out(t.Context(), 0x02, in[1:1+n], false, time.Second); err != nil {
						port.ClearHalt(t.Context(), 0x02)
					}
					in = in[1+n:]
					var p [64]byte
					port.In(t.Context(), 0x82, p[:], time.Millisecond)
				}
			})
		}
	})
}

// What programs do with a reader that is pulled and fails, in any order.
func FuzzUse(f *testing.F) {
	f.Add(readertest.AllOps)
	f.Add([]byte{11, 1, 2, 0, 12, 1, 2, 24, 2, 36, 1, 2, 48, 11, 1, 2})
	f.Fuzz(func(t *testing.T, ops []byte) {
		if len(ops) > 40 {
			t.Skip()
		}
		synctest.Test(t, func(t *testing.T) {
			e := newReader(t, readertest.Dual)
			port := e.Plug()
			defer e.Unplug()
			faults := usbtest.Menu()
			readertest.Use(t, Driver{}, device(port), ops, func(m *core.Manager, n byte) {
				switch n % 5 {
				case 0:
					port.Unplug()
					port = e.Plug()
					m.Announce(device(port))
				case 1:
					e.Contact.Remove()
				case 2:
					e.Contact.Insert(readertest.Plain)
				case 3:
					e.Contact.Insert(readertest.Dual)
				case 4:
					e.Inject(faults[int(n/5)%len(faults)])
				}
			})
		})
	})
}

// Idle, with nobody using it: the core asks for the card, two transfers each time.
func TestIdle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newReader(t, readertest.Plain)
		m := core.NewManager(core.Options{Drivers: []reader.Driver{Driver{}}})
		defer m.Close(context.Background())
		defer e.Unplug()
		if err := m.Announce(device(e.Plug())); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		var count atomic.Int64
		e.Observe(func(usbtest.Line) { count.Add(1) })
		time.Sleep(10 * time.Second)
		transfers := count.Load()
		if t.Logf("%d transfers in 10 s", transfers); transfers == 0 || transfers > 60 {
			t.Error("that is none, or too many")
		}
		for range 3 {
			e.Contact.Remove()
			time.Sleep(time.Second)
			if st := m.Slot(0).Info().State; st != core.StateEmpty {
				t.Errorf("status %v", st)
			}
			e.Contact.Insert(readertest.Plain)
			time.Sleep(time.Second)
			if st := m.Slot(0).Info().State; st != core.StatePresent {
				t.Errorf("status %v", st)
			}
		}
	})
}
