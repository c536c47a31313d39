package kaan

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cardfs/cardfs/drivers/bus/serial"
	"github.com/cardfs/cardfs/drivers/bus/serial/faulttest"
	"github.com/cardfs/cardfs/drivers/bus/serial/serialtest"
	"github.com/cardfs/cardfs/drivers/kaan/emu"
	"github.com/cardfs/cardfs/reader"
	"github.com/cardfs/cardfs/reader/icc"
	"github.com/cardfs/cardfs/reader/memcard"
	"github.com/cardfs/cardfs/reader/readertest"
)

// one opens the terminal, resets the card and sends one command, which is chained.
func one(p *serialtest.Plugged) ([]byte, error) {
	r, err := KAAN(nil).Open(context.Background(), device(KAAN(nil), p))
	if err != nil {
		return nil, err
	}
	defer r.Close()
	s := r.Slots()[0]
	l := readertest.NewLink(s)
	if err := l.PowerUp(context.Background(), reader.Cold, -1); err != nil {
		return nil, err
	}
	return l.Transmit(context.Background(), append(unhex("00 EE 00 00 28"), pattern(40)...), nil)
}

// "A command is never sent twice": whatever happens to any character of a whole session, the
// command is answered rightly or fails with one of package reader's errors, soon, and the card
// has it once at most.
func TestFaults(t *testing.T) {
	k := kind{"", KAAN(nil), emu.Config{Most: 30}, t1}
	want := append(pattern(40), 0x90, 0x00)
	var sent [2]int
	synctest.Test(t, func(t *testing.T) {
		p := serialtest.Plug(newTerminal(t, k))
		defer p.Unplug()
		if got, err := one(p); err != nil || !bytes.Equal(got, want) {
			t.Fatalf("% X, %v", got, err)
		}
		sent[0], sent[1] = p.Sent()
	})
	good := 0
	faulttest.Everywhere(t, sent[0], sent[1], func(t *testing.T, f serialtest.Fault) {
		e := newTerminal(t, k)
		p := serialtest.Plug(e)
		defer p.Unplug()
		p.Inject(f)
		start := time.Now()
		got, err := one(p)
		what := fmt.Sprintf("%v of character %d, to the host %v", f.Kind, f.At, f.ToHost)
		if took := time.Since(start); took > 2*time.Minute {
			t.Errorf("%s: it took %v", what, took)
		}
		if n := e.Contacts()[0].APDUs(); n > 1 {
			t.Errorf("%s: the card had the command %d times", what, n)
		}
		switch {
		case f.Kind == serialtest.HangUp && !errors.Is(err, reader.ErrGone):
			t.Errorf("%s: % X, %v", what, got, err)
		case err == nil && !bytes.Equal(got, want):
			t.Errorf("%s: % X", what, got)
		case err == nil:
			good++
		case !errors.Is(err, reader.ErrGone) && !errors.Is(err, reader.ErrTimeout) && !errors.Is(err, reader.ErrProtocol):
			t.Errorf("%s: %v", what, err)
		case f.Kind != serialtest.HangUp && f.Kind != serialtest.Silence:
			t.Errorf("%s is not mended: %v", what, err)
		}
	})
	t.Logf("%d of %d faults were mended", good, 7*(sent[0]+sent[1]))
}

// "S(RESYNCH) never resends a card command that may have been executed": when the answer is
// lost for good, the error says that it may have been, and the next command gets its own answer.
func TestLostAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newTerminal(t, kind{cfg: emu.Config{}, card: t1})
		p := serialtest.Plug(e)
		defer p.Unplug()
		r := open(t, KAAN(nil), p)
		defer r.Close()
		l := connect(t, r.Slots()[0])
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		e.Contacts()[0].SetFaults(icc.Faults{Slow: 5 * time.Second})
		if _, err := l.Transmit(ctx, unhex("00 84 00 00 08"), nil); !errors.Is(err, context.DeadlineExceeded) {
			t.Fatal(err)
		}
		e.Contacts()[0].SetFaults(icc.Faults{})
		l = connect(t, r.Slots()[0])
		if got, err := l.Transmit(t.Context(), unhex("00 E2 00 03 03"), nil); err != nil || !bytes.Equal(got, unhex("00 01 02 90 00")) {
			t.Errorf("% X, %v", got, err)
		}
	})
}

// A card that asks for time without end has it until the exchange's limit is over.
func TestTimeExtension(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newTerminal(t, kind{card: t1})
		p := serialtest.Plug(e)
		defer p.Unplug()
		r := open(t, KAAN(nil), p)
		defer r.Close()
		s := r.Slots()[0]
		connect(t, s)
		asked := 0
		try := func(slow, limit time.Duration) ([]byte, error) {
			e.Contacts()[0].SetFaults(icc.Faults{Slow: slow})
			return s.Exchange(t.Context(), reader.Transfer{
				Out: unhex("00 84 00 00 08"), Until: time.Now().Add(limit), Extended: func() { asked++ },
			}, nil)
		}
		if got, err := try(30*time.Second, time.Minute); err != nil || len(got) != 10 || asked == 0 {
			t.Errorf("30 s: % X, %v, time asked for %d times", got, err, asked)
		}
		start := time.Now()
		if _, err := try(time.Hour, time.Minute); !errors.Is(err, reader.ErrTimeout) {
			t.Error(err)
		}
		if took := time.Since(start); took > 90*time.Second {
			t.Errorf("the limit of a minute was over after %v", took)
		}
	})
}

// A speed that is not the terminal's, and a terminal that is not there, are told.
func TestNoTerminal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := serialtest.Plug(emu.New(emu.Config{Baud: 115200}))
		defer p.Unplug()
		_, err := KAAN(nil).Open(t.Context(), device(KAAN(nil), p))
		if err == nil || !strings.Contains(err.Error(), "no terminal answers at this speed") {
			t.Error(err)
		}
		dev := device(KAAN(nil), p)
		dev.Params = map[string]string{"speed": "115200"}
		r, err := KAAN(nil).Open(t.Context(), dev)
		if err != nil {
			t.Fatal(err)
		}
		r.Close()
		for key, value := range map[string]string{"speed": "19200", "memory": "i2c:7", "x": "y"} {
			dev.Params = map[string]string{key: value}
			if _, err := KAAN(nil).Attach(dev); !errors.Is(err, reader.ErrInvalid) {
				t.Errorf("%s=%s: %v", key, value, err)
			}
		}
	})
}

// The digits go into the command at the terminal; what it cannot do is refused before
// anybody types.
func TestPIN(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := emu.NewKAAN()
		c := t1()
		if err := e.Contacts()[0].Insert(c); err != nil {
			t.Fatal(err)
		}
		p := serialtest.Plug(e)
		defer p.Unplug()
		r := open(t, KAAN(nil), p)
		defer r.Close()
		s := r.Slots()[0]
		connect(t, s)
		pad, _ := reader.As[reader.PINPad](s)
		if got := pad.PINSupport(); !got.Verify || got.Modify || got.Lines != 2 || got.Columns != 16 {
			t.Errorf("%+v", got)
		}
		template := unhex("00 20 00 81 08 FF FF FF FF FF FF FF FF")
		for _, tt := range []struct {
			typed  string
			format byte
			min    byte
			at     string // the command that the card gets
			answer string
		}{
			{"1234", 0x82, 4, "00 20 00 81 08 31 32 33 34 FF FF FF FF", "90 00"},
			{"12345", 0x81, 4, "00 20 00 81 08 12 34 5F FF FF FF FF FF", "90 00"},
			{"1234", 0x8A, 4, "00 20 00 81 08 FF 31 32 33 34 FF FF FF", "90 00"},
			{"123456", 0x82, 6, "00 20 00 81 08 31 32 33 34 35 36 FF FF", "90 00"},
			{"C", 0x82, 4, "", "64 01"},
			{"", 0x82, 4, "", "64 00"},
		} {
			c.last = nil
			e.Type(tt.typed)
			v := &reader.PINVerify{PINFormat: reader.PINFormat{Timeout: 25, Format: tt.format, MinDigits: tt.min, MaxDigits: 6, APDU: template}}
			got, err := pad.VerifyPIN(t.Context(), v, nil)
			if err != nil || !bytes.Equal(got, unhex(tt.answer)) || !bytes.Equal(c.last, unhex(tt.at)) {
				t.Errorf("%q, format %02X: % X, %v; the card had % X", tt.typed, tt.format, got, err, c.last)
			}
		}
		had := e.Contacts()[0].APDUs()
		for _, f := range []reader.PINFormat{
			{Format: 0x80, APDU: template}, {Format: 0x86, APDU: template}, {Format: 0x0A, APDU: template},
			{Format: 0x82, Block: 0x48, APDU: template}, {Format: 0x82, APDU: make([]byte, 126)},
		} {
			e.Type("1234")
			if _, err := pad.VerifyPIN(t.Context(), &reader.PINVerify{PINFormat: f}, nil); !errors.Is(err, reader.ErrUnsupported) {
				t.Errorf("%+v: %v", f, err)
			}
		}
		if _, err := pad.ModifyPIN(t.Context(), &reader.PINModify{}, nil); !errors.Is(err, reader.ErrUnsupported) {
			t.Error(err)
		}
		if n := e.Contacts()[0].APDUs(); n != had {
			t.Errorf("the card had %d commands more", n-had)
		}
	})
}

func TestDisplay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := emu.NewKAAN()
		p := serialtest.Plug(e)
		defer p.Unplug()
		r := open(t, KAAN(nil), p)
		defer r.Close()
		d, ok := r.Slots()[0].(reader.Display)
		if !ok {
			t.Fatal("it has no display")
		}
		if err := d.Show(t.Context(), "HELLO WORLD", 0); err != nil || e.Text() != "HELLO WORLD" {
			t.Errorf("%q, %v", e.Text(), err)
		}
		if err := d.Show(t.Context(), strings.Repeat("x", 33), 0); !errors.Is(err, reader.ErrInvalid) {
			t.Error(err)
		}
	})
	if got := fmt.Sprintf("% X", output("HELLO WORLD", 0)); got != "20 17 40 00 0D 50 0B 48 45 4C 4C 4F 20 57 4F 52 4C 44" {
		t.Error(got)
	}
}

// Memory cards of every kind are read and written through the terminal's own commands, and
// nothing is written to find out what they are.
func TestMemory(t *testing.T) {
	for _, name := range icc.MemoryNames() {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				card := icc.NewMemory(name)
				size := len(card.Contents())
				e := emu.New(emu.Config{})
				if err := e.Contacts()[0].Insert(card); err != nil {
					t.Fatal(err)
				}
				p := serialtest.Plug(e)
				defer p.Unplug()
				dev := device(KAAN(nil), p)
				if strings.HasPrefix(name, "at24") {
					dev.Params = map[string]string{memcard.Param: fmt.Sprintf("i2c:%d", size)}
				}
				r, err := KAAN(nil).Open(t.Context(), dev)
				if err != nil {
					t.Fatal(err)
				}
				defer r.Close()
				before := card.Contents()
				l := connect(t, r.Slots()[0])
				if l.Card() == nil {
					t.Fatal("it is no memory card")
				}
				if !bytes.Equal(card.Contents(), before) {
					t.Error("it was written to")
				}
				n := min(size, 13)
				got, err := l.ReadMemory(t.Context(), 0, n, nil)
				if err != nil || !bytes.Equal(got, card.Contents()[:n]) {
					t.Errorf("% X, %v", got, err)
				}
				if strings.HasPrefix(name, "at24") || name == "sle4432" || name == "sle4418" {
					if _, err := l.WriteMemory(t.Context(), 60, []byte("across"), time.Minute); err != nil {
						t.Error(err)
					}
					if got := card.Contents()[60:66]; string(got) != "across" {
						t.Errorf("%q", got)
					}
				}
			})
		})
	}
}

// FuzzAnswers: whatever a terminal answers to each command, the calls end, and without a
// panic.
func FuzzAnswers(f *testing.F) {
	f.Add([]byte{2, 0x90, 0, 4, 0x81, 2, 1, 2, 2, 0x90, 0, 8, 0x3B, 2, 0x14, 0x50, 0x90, 1, 2, 0x90, 0})
	f.Add([]byte{2, 0x6B, 0, 2, 0x90, 0, 2, 0x90, 0, 5, 0x80, 1, 1, 0x90, 0, 2, 0x62, 0xA6, 1, 7})
	f.Fuzz(func(t *testing.T, script []byte) {
		synctest.Test(t, func(t *testing.T) {
			p := serialtest.Plug(scripted(script))
			defer p.Unplug()
			ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
			defer cancel()
			r, err := KAAN(nil).Open(ctx, device(KAAN(nil), p))
			if err != nil {
				return
			}
			defer r.Close()
			for _, s := range r.Slots() {
				_, _ = s.Status(ctx)
				_, _ = s.PowerOn(ctx, reader.Cold)
				_, _ = s.Exchange(ctx, reader.Transfer{Out: unhex("00 84 00 00 08")}, nil)
				_ = s.PowerOff(ctx)
			}
			if ctx.Err() != nil {
				t.Error("it took an hour")
			}
		})
	})
}

// scripted answers one block after the other with parts of the script: a length, and as many
// bytes. From 80 on it is not INF but PCB and INF. S(RESYNCH) it answers rightly.
func scripted(script []byte) serialtest.Device {
	return serialtest.DeviceFunc(func(l *serialtest.Line) {
		l.SetMode(serial.Mode{Baud: 9600, Frame: serial.Frame8E1, Check: true})
		seq := byte(0)
		var b [260]byte
		for l.Read(b[:3]) && l.Read(b[3:4+int(min(b[2], 254))]) {
			answer := []byte{b[0]<<4 | b[0]>>4, seq, 0}
			switch {
			case b[1] == 0xC0:
				answer[1], seq = 0xE0, 0
			case len(script) == 0:
				continue
			default:
				n := int(script[0])
				part := script[1:min(len(script), 1+n&0x7F)]
				script = script[1+len(part):]
				if n&0x80 != 0 && len(part) > 0 {
					answer[1], part = part[0], part[1:]
				} else {
					seq ^= 0x40
				}
				answer[2] = byte(len(part))
				answer = append(answer, part...)
			}
			sum := byte(0)
			for _, c := range answer {
				sum ^= c
			}
			l.Send(append(answer, sum)...)
		}
	})
}

// "The initial value of IFSC is 32" (ISO 7816-3, 11.4.2): a longer block is wrong, unless the
// terminal is of those that take more.
func TestLongBlocks(t *testing.T) {
	for _, tt := range []struct {
		takes, length int
		answer        string
	}{
		{0, 32, "21 00 02 67 00 44"}, // not a display's text
		{0, 33, "21 82 00 A3"},
		{254, 33, "21 00 02 67 00 44"},
		{254, 254, "21 00 02 67 00 44"},
		{253, 254, "21 82 00 A3"},
	} {
		synctest.Test(t, func(t *testing.T) {
			p := serialtest.Plug(emu.New(emu.Config{Units: []byte{0x40}, Takes: tt.takes}))
			port, err := p.OpenSerial(t.Context(), serial.Mode{Baud: 9600, Frame: serial.Frame8E1, Check: true})
			if err != nil {
				t.Fatal(err)
			}
			synctest.Wait() // the terminal has set its line
			block := append([]byte{0x12, 0x00, byte(tt.length)}, append(unhex("20 17 40 00"), make([]byte, tt.length-4)...)...)
			sum := byte(0)
			for _, b := range block {
				sum ^= b
			}
			if err := port.Write(t.Context(), append(block, sum)); err != nil {
				t.Fatal(err)
			}
			got := make([]byte, len(unhex(tt.answer)))
			if n, err := serial.ReadChars(t.Context(), port, got, 20*time.Second, 20*time.Second); err != nil || !bytes.Equal(got, unhex(tt.answer)) {
				t.Errorf("%d bytes where it takes %d: % X, %v; want %s", tt.length, tt.takes, got[:n], err, tt.answer)
			}
			port.Close()
			p.Unplug()
		})
	}
}
