package gempc

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cardfs/cardfs/drivers/bus/serial"
	"github.com/cardfs/cardfs/drivers/bus/serial/faulttest"
	"github.com/cardfs/cardfs/drivers/bus/serial/serialtest"
	"github.com/cardfs/cardfs/drivers/gempc/emu"
	"github.com/cardfs/cardfs/reader"
	"github.com/cardfs/cardfs/reader/readertest"
)

func serialDevice(link serial.Opener) reader.Device {
	return reader.Device{Driver: "gempc", Address: "/dev/ttyS0", ID: reader.ID{Model: "Gemplus serial reader"}, Link: link}
}

const gemPC410 = "OROS-R2.99-R1.21"

// newSerial makes an emulated reader with a card.
func newSerial(t testing.TB, cfg emu.SerialConfig, c card) *emu.Serial {
	t.Helper()
	if cfg.Version == "" {
		cfg.Version = gemPC410
	}
	e := emu.NewSerial(cfg)
	e.Patience = 600 * time.Millisecond
	readertest.Insert(t, &e.Contact, c)
	return e
}

func openSerial(t testing.TB, link serial.Opener) *slot {
	t.Helper()
	_, s := readertest.Open(t, Driver{}, serialDevice(link))
	return s.(*slot)
}

// connectedSerial opens a reader with a card, and powers the card up. The reader leaves at the end.
func connectedSerial(t testing.TB, cfg emu.SerialConfig, c card) (*emu.Serial, *serialtest.Plugged, *slot) {
	t.Helper()
	e := newSerial(t, cfg, c)
	p := serialtest.Plug(e)
	t.Cleanup(p.Unplug)
	s := openSerial(t, p)
	connect(t, s)
	return e, p, s
}

func loadSession(t *testing.T, name string) serialtest.Session {
	t.Helper()
	return readertest.Load(t, serialtest.Load, "testdata/"+name)
}

// The driver sends what the session's host sends, and accepts what its device answers.
func TestDriverPlaysSerialSession(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := serialtest.NewPlayer(t, loadSession(t, "gempc410.txt"))
		p.Step("start")
		r := openSerial(t, p)
		h := readertest.NewHost(t, p, r)
		h.Identify("Gemplus GemPC410", "version", gemPC410)
		h.Status("status", reader.Present)
		h.PowerOn("power on", reader.Cold, string(t0))
		h.Status("powered", reader.Powered)
		h.Step("commands")
		h.Exchange("00 A4 00 00 02 3F 00", "90 00")
		h.Exchange("00 84 00 00 08", "11 12 13 14 15 16 17 18 90 00")
		h.Exchange("B0 3C 01 00 00", "6D 00")
		h.PowerOff("power off")
		h.Step("close")
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	})
}

// The emulated reader answers the sessions' hosts as their devices do.
func TestReaderPlaysSerialSessions(t *testing.T) {
	for name, x := range map[string]struct {
		cfg emu.SerialConfig
		c   card
	}{
		"gempc410.txt": {emu.SerialConfig{}, t0},
		"openct.txt":   {emu.SerialConfig{OldBaud: true}, "3B 02 14 50"},
		"recovery.txt": {emu.SerialConfig{}, t0},
	} {
		t.Run(name, func(t *testing.T) {
			s := loadSession(t, name)
			if i := slices.IndexFunc(s, func(e serialtest.Entry) bool { return e.Kind == serialtest.Step && e.Name == "close" }); i >= 0 {
				s = s[:i] // the answer to what is sent last is for nobody
			}
			synctest.Test(t, func(t *testing.T) {
				e := newSerial(t, x.cfg, x.c)
				p := serialtest.Plug(e)
				defer p.Unplug()
				serialtest.Replay(t, s, p, map[string]func(){"the card leaves": func() { e.Contact.Remove() }})
			})
		})
	}
}

func TestSerialSuite(t *testing.T) {
	for proto, c := range []card{t0, t1} {
		t.Run(fmt.Sprintf("T=%d", proto), func(t *testing.T) {
			readertest.PausingSuite(t, func(t *testing.T) *readertest.Fixture {
				e := newSerial(t, emu.SerialConfig{Pause: time.Millisecond}, c)
				p := serialtest.Plug(e)
				return readertest.Emulated(Driver{}, serialDevice(p), p.Unplug, readertest.Contact(&e.Contact, false))
			})
		})
	}
}

// Commands and answers of every length arrive whole.
func TestSerialLengths(t *testing.T) {
	for _, c := range []card{t0, t1} {
		synctest.Test(t, func(t *testing.T) {
			p := serialtest.Plug(newSerial(t, emu.SerialConfig{}, c))
			defer p.Unplug()
			s := openSerial(t, p)
			defer s.Close()
			readertest.EveryLength(t, connect(t, s))
		})
	}
}

// Whatever reader is there, at whatever speed an earlier program left it, it is found, has
// its name, and works at 38400 bit/s if it can. When the driver leaves it is at 9600 again.
func TestSerialSpeeds(t *testing.T) {
	for _, x := range []struct {
		name  string
		cfg   emu.SerialConfig
		model string
		baud  int
	}{
		{"new", emu.SerialConfig{}, "Gemplus GemPC410", 38400},
		{"left at 38400", emu.SerialConfig{Baud: 38400}, "Gemplus GemPC410", 38400},
		{"answers at the old speed", emu.SerialConfig{OldBaud: true}, "Gemplus GemPC410", 38400},
		{"has one speed", emu.SerialConfig{Fixed: true}, "Gemplus GemPC410", 9600},
		{"does not count", emu.SerialConfig{Gullible: true}, "Gemplus GemPC410", 38400},
		{"GCR400", emu.SerialConfig{Version: "OROS-R2.24RM"}, "Gemplus GCR400", 38400},
		{"GCR410", emu.SerialConfig{Version: "OROS-R2.99-R1.10"}, "Gemplus GCR410", 38400},
		{"GCR410P", emu.SerialConfig{Version: "OROS-R2.99-R1.11"}, "Gemplus GCR410P", 38400},
		{"GemPC410", emu.SerialConfig{Version: "GemCore-R1.21-GM"}, "Gemplus GemPC410", 38400},
		{"GemPC413", emu.SerialConfig{Version: "OROS-R2.99-R1.32"}, "Gemplus GemPC413", 38400},
		{"another", emu.SerialConfig{Version: "OROS-R9"}, "Gemplus serial reader", 38400},
		{"no version", emu.SerialConfig{Version: "\x00"}, "Gemplus serial reader", 38400},
	} {
		t.Run(x.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := serialtest.Plug(newSerial(t, x.cfg, t0))
				defer p.Unplug()
				for range 2 { // and by who comes next
					s := openSerial(t, p)
					if model, _ := s.Identify(); model != x.model {
						t.Errorf("model %s", model)
					}
					if host, reader := p.Line().HostMode().Baud, p.Line().Mode().Baud; host != x.baud || reader != x.baud {
						t.Errorf("the port has %d bit/s, the reader %d", host, reader)
					}
					connect(t, s)
					if err := s.Close(); err != nil {
						t.Error(err)
					}
					synctest.Wait()
					if got := p.Line().Mode().Baud; got != 9600 {
						t.Errorf("left at %d bit/s", got)
					}
				}
			})
		})
	}
}

// A port without a reader fails within seconds, with words.
func TestNoSerialReader(t *testing.T) {
	nothing := faulttest.Refusal{Says: "nothing that answers like a GemPC410", Is: reader.ErrTimeout}
	gone := faulttest.Refusal{Says: "open", Is: reader.ErrGone}
	faulttest.Strangers{
		Driver: Driver{}, Device: serialDevice(nil), Mode: slow, Limit: 8 * time.Second,
		Mute: nothing, Echo: nothing, Leaves: gone,
		Unplugged: "open",
		More: []faulttest.Stranger{
			{Name: "babble", Serve: serialtest.Babble(100*time.Millisecond, 0x24, 0x00, 0x00, 0x24), Refusal: faulttest.Refusal{Says: "never quiet", Is: reader.ErrProtocol}},
			{Name: "it leaves at the new speed", Serve: func(l *serialtest.Line) {
				l.Read(make([]byte, 4))
				l.Send(0x24, 0xE0, 0, 0xC4)
				l.Read(make([]byte, 6))
				l.Drop()
			}, Refusal: gone},
		},
	}.Run(t)
}

// Every character may fail in every way. The card never sees a command twice, also if the
// reader would take one twice; answers are right or errors; and once the line is good again
// the reader works.
func TestSerialFaults(t *testing.T) {
	for _, gullible := range []bool{false, true} {
		for proto, c := range []card{t0, t1} {
			faulttest.Everywhere(t, 60, 100, func(t *testing.T, f serialtest.Fault) { serialFault(t, gullible, proto, c, f) })
		}
	}
}

func serialFault(t *testing.T, gullible bool, proto int, c card, f serialtest.Fault) {
	e := newSerial(t, emu.SerialConfig{Gullible: gullible}, c)
	p := serialtest.Plug(e)
	defer func() { p.Unplug() }()
	what := fmt.Sprintf("gullible %v, T=%d, %+v", gullible, proto, f)
	p.Inject(f)
	run := func(s reader.Slot, p1 byte) error {
		if _, err := s.PowerOn(t.Context(), reader.Cold); err != nil {
			return err
		}
		before := e.Contact.APDUs()
		got, err := s.Exchange(t.Context(), reader.Transfer{Out: []byte{0x80, 0xE2, 0, p1, p1}, Wait: 10 * time.Second}, nil)
		n := e.Contact.APDUs() - before
		if n > 1 || err == nil && n != 1 {
			t.Errorf("%s: the card saw the command %d times, %v", what, n, err)
		}
		if err == nil && !bytes.Equal(got, append(pattern(int(p1)), 0x90, 0)) {
			t.Errorf("%s: % X", what, got)
		}
		return err
	}
	check := func(err error) {
		t.Helper()
		if err == nil {
			return
		}
		mended := f.Kind != serialtest.Silence && f.Kind != serialtest.HangUp
		known := errors.Is(err, reader.ErrProtocol) || errors.Is(err, reader.ErrTimeout) || errors.Is(err, reader.ErrGone)
		if mended || !known || !strings.HasPrefix(err.Error(), "gempc /dev/ttyS0: ") {
			t.Errorf("%s: %v", what, err)
		}
	}
	r, err := Driver{}.Open(t.Context(), serialDevice(p))
	check(err)
	if err == nil {
		s := r.Slots()[0]
		defer r.Close()
		err = run(s, 10)
		check(err)
		if err == nil {
			if err = run(s, 11); f.Kind < serialtest.Silence && err != nil {
				t.Errorf("%s: afterwards: %v", what, err)
			}
			check(err)
		}
	}
	if f.Kind < serialtest.Silence {
		return
	}
	// Another line.
	p.Unplug()
	p = serialtest.Plug(e)
	if r, err = (Driver{}).Open(t.Context(), serialDevice(p)); err != nil {
		t.Errorf("%s: opened again: %v", what, err)
		return
	}
	defer r.Close()
	if err := run(r.Slots()[0], 12); err != nil {
		t.Errorf("%s: opened again: %v", what, err)
	}
}

// A reader that was switched off and on is at 9600 bit/s again, and its card without power.
func TestSerialSwitchedOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, _, s := connectedSerial(t, emu.SerialConfig{}, t0)
		e.Switch(false)
		if _, err := s.Status(t.Context()); !errors.Is(err, reader.ErrTimeout) {
			t.Errorf("status of a reader without power: %v", err)
		}
		if _, err := s.Status(t.Context()); !errors.Is(err, reader.ErrTimeout) || !strings.Contains(err.Error(), "nothing that answers") {
			t.Errorf("status of a reader without power: %v", err)
		}
		e.Switch(true)
		_, err := s.Exchange(t.Context(), reader.Transfer{Out: unhex("00 84 00 00 08"), Wait: time.Second}, nil)
		if !errors.Is(err, reader.ErrStale) {
			t.Errorf("exchange with a card that has lost its power: %v", err)
		}
		if st, err := s.Status(t.Context()); st != reader.Present || err != nil {
			t.Errorf("status %v, %v", st, err)
		}
		connect(t, s)
		if _, err := s.Exchange(t.Context(), reader.Transfer{Out: unhex("00 84 00 00 08"), Wait: time.Second}, nil); err != nil {
			t.Error(err)
		}
		if n := e.Contact.APDUs(); n != 1 {
			t.Errorf("the card saw %d commands", n)
		}
	})
}

// An answer that comes too late is not taken for that of the next command.
func TestSerialLate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, _, s := connectedSerial(t, emu.SerialConfig{}, t0)
		readertest.Late(t, s, &e.Contact, 2*time.Second, 5)
	})
}

// Whatever comes, a block has as many data bytes as LEN says, and its LRC is right; and as many
// bytes are waited for as a block needs at least.
func FuzzBlock(f *testing.F) {
	f.Add(unhex("24 00 03 00 90 00 B7"))
	f.Add(unhex("24 E0 00 C4"))
	f.Add(unhex("42 C0 00 82"))
	f.Fuzz(func(t *testing.T, p []byte) {
		n := missing(p)
		if n < 0 || n > longestBlock {
			t.Fatalf("%d bytes missing", n)
		}
		b, err := parseBlock(p)
		if err != nil {
			return
		}
		if n > 0 || len(b.data) != int(p[2]) || lrc(p[:blockOverhead+len(b.data)]) != 0 {
			t.Fatalf("% X: %d data bytes, %d missing", p, len(b.data), n)
		}
		if again := appendBlock(nil, b.pcb, b.data); !bytes.Equal(again[1:blockHead+len(b.data)], p[1:blockHead+len(b.data)]) {
			t.Fatalf("% X is sent as % X", p, again)
		}
	})
}

// A command that the card may have seen must not go out again: it may be a PIN that is wrong.
func TestMayRepeat(t *testing.T) {
	for op, want := range map[byte]bool{
		opOut: false, opIn: false, opAPDU: false,
		opMode: true, opLine: true, opPowerDown: true, opPowerUp: true, opStatus: true, opReadMemory: true,
	} {
		if got := mayRepeat([]byte{op, 0x00, 0x20}); got != want {
			t.Errorf("%02X: %v", op, got)
		}
	}
}
