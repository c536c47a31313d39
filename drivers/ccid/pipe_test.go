package ccid

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cardfs/cardfs/drivers/bus/usb"
	"github.com/cardfs/cardfs/drivers/ccid/emu"
	"github.com/cardfs/cardfs/reader"
)

// odd is a reader whose bulk endpoints behave as the hooks say.
type odd struct {
	chaos
	out    func(p []byte) (int, error)
	in     func(p []byte, timeout time.Duration) (int, error)
	clears int
	resets int
}

func (o *odd) OpenUSB(context.Context, uint8) (usb.Conn, error) { return o, nil }

func (o *odd) ClearHalt(context.Context, uint8) error {
	o.clears++
	return nil
}

func (o *odd) Reset(context.Context) error {
	o.resets++
	return nil
}

func (o *odd) Out(ctx context.Context, ep uint8, p []byte, zlp bool, d time.Duration) (int, error) {
	o.last = append(o.last[:0], p...)
	if o.out != nil {
		return o.out(p)
	}
	return len(p), nil
}

func (o *odd) In(ctx context.Context, ep uint8, p []byte, d time.Duration) (int, error) {
	if o.in != nil {
		return o.in(p, d)
	}
	return copy(p, o.answer()), nil
}

// answer returns the right answer to the last message.
func (o *odd) answer(data ...byte) []byte {
	return append([]byte{answerOf(o.last[0]), byte(len(data)), 0, 0, 0, o.last[5], o.last[6], 0, 0, 0}, data...)
}

func oddReader(t *testing.T, cfg emu.Config) (*odd, *slot) {
	t.Helper()
	cfg.NoInterrupt = true
	o := &odd{chaos: chaos{desc: newDevice(cfg).Descriptors(), gone: make(chan struct{})}}
	r, err := Driver{}.Open(ctx, reader.Device{Link: o})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	return o, r.(*ifd).functions[0].own[0]
}

// A partly sent message is not a command: its answer is not waited for as long as a
// command's. The error says so without the length, which would reveal that of a PIN in
// VERIFY.
func TestShortWrite(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o, s := oddReader(t, emu.TPDUReader())
		o.out = func(p []byte) (int, error) {
			if p[0] == cmdXfrBlock {
				return len(p) - 1, nil
			}
			return len(p), nil
		}
		start := time.Now()
		_, err := s.Exchange(ctx, reader.Transfer{Out: []byte{0}}, nil)
		if !errors.Is(err, reader.ErrProtocol) || !strings.Contains(err.Error(), "not go out whole") || strings.Contains(err.Error(), "11") || time.Since(start) > 0 {
			t.Errorf("%v after %v", err, time.Since(start))
		}
	})
}

// A reader that stalls forever fails the command soon, however quickly it stalls.
func TestStallsWithoutEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o, s := oddReader(t, emu.TPDUReader())
		o.in = func([]byte, time.Duration) (int, error) { return 0, usb.ErrStall }
		_, err := s.Exchange(ctx, reader.Transfer{Out: []byte{0}}, nil)
		if !errors.Is(err, reader.ErrGone) { // nothing helps
			t.Error(err)
		}
		// Five for the command; 33 for each of three attempts to bring it back, and two.
		if o.clears > 5+3*33+2 || o.resets != 1 {
			t.Errorf("%d halts ended, %d resets", o.clears, o.resets)
		}
	})
}

// The same for a reader that sends empty packets, or too much data, forever.
func TestNoiseWithoutEnd(t *testing.T) {
	for name, err := range map[string]error{"empty": nil, "overflow": usb.ErrOverflow, "reset": usb.ErrReset} {
		synctest.Test(t, func(t *testing.T) {
			o, s := oddReader(t, emu.TPDUReader())
			reads := 0
			o.in = func([]byte, time.Duration) (int, error) { reads++; return 0, err }
			_, err := s.Exchange(ctx, reader.Transfer{Out: []byte{0}}, nil)
			if !errors.Is(err, reader.ErrGone) || reads > 4*(8*noiseLimit+1) {
				t.Errorf("%s: %v after %d reads", name, err, reads)
			}
		})
	}
}

// One command skips up to noiseLimit messages.
func TestNoiseIsReadOver(t *testing.T) {
	for _, n := range []int{0, 1, noiseLimit, noiseLimit + 1} {
		synctest.Test(t, func(t *testing.T) {
			o, s := oddReader(t, emu.TPDUReader())
			left := 0
			o.out = func(p []byte) (int, error) {
				if left = 0; p[0] == cmdXfrBlock {
					left = n
				}
				return len(p), nil
			}
			o.in = func(p []byte, _ time.Duration) (int, error) {
				if left > 0 {
					left--
					return 0, nil
				}
				return copy(p, o.answer(0x90, 0)), nil
			}
			rx, err := s.Exchange(ctx, reader.Transfer{Out: []byte{0}}, nil)
			if n <= noiseLimit {
				check(t, rx, err, []byte{0x90, 0}, nil)
			} else {
				check(t, rx, err, nil, reader.ErrProtocol)
			}
		})
	}
}

// A message that another lane read and handed over counts even if the turn to read
// becomes free at the same moment. Whoever takes the turn checks the box first; otherwise
// it would wait for a message that has already come.
func TestMessageHandedOverWithTheTurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := emu.TwoSlotReader()
		o, s := oddReader(t, cfg)
		o.in = func([]byte, time.Duration) (int, error) {
			t.Error("reads on, though the message is there")
			return 0, usb.ErrTimeout
		}
		l := s.lane
		for range 20 { // receive chooses at random
			seq, err := l.begin()
			if err != nil {
				t.Fatal(err)
			}
			msg := []byte{0x80, 2, 0, 0, 0, l.slot, seq, 0, 0, 0, 0x90, 0}
			if a, err := parseAnswer(msg); err != nil || !l.pipe.deliver(&a, msg) {
				t.Fatal("not delivered")
			}
			a, err := l.receive(ctx, seq, time.Now().Add(time.Second), false)
			check(t, a.data, err, []byte{0x90, 0}, nil)
			l.end()
		}
		// A message for the previous command is not taken for the next one's.
		seq, _ := l.begin()
		a := answer{slot: l.slot, seq: seq}
		l.pipe.deliver(&a, []byte{1, 2, 3})
		l.end()
		seq, _ = l.begin()
		o.in = func(p []byte, _ time.Duration) (int, error) {
			return copy(p, []byte{0x81, 0, 0, 0, 0, l.slot, seq, 0, 0, 0}), nil
		}
		if a, err := l.receive(ctx, seq, time.Now().Add(time.Second), false); err != nil || a.kind != 0x81 {
			t.Errorf("%+v, %v", a, err)
		}
		l.end()
		if a := (answer{slot: 9}); l.pipe.deliver(&a, nil) {
			t.Error("delivered to a slot that is not there")
		}
	})
}

// CCID 1.1 §6.1.4: a response ends with bChainParameter 00 or 02, however often "not yet"
// (10) precedes it, as long as data comes in between. The longest R-APDU has 65,538
// bytes.
func TestLongResponses(t *testing.T) {
	for _, tt := range []struct {
		name  string
		parts func(n int) (param byte, size int) // of the nth answer
		want  int                                // bytes; -1: a protocol error
	}{
		{"as many empties as allowed", func(n int) (byte, int) {
			if n < noiseLimit {
				return chainEmpty, 0
			}
			return chainLast, 2
		}, 2},
		{"one more", func(n int) (byte, int) {
			if n <= noiseLimit {
				return chainEmpty, 0
			}
			return chainLast, 2
		}, -1},
		{"empties with data between", func(n int) (byte, int) {
			switch {
			case n == 100:
				return chainLast, 2
			case n%20 == 19:
				return chainMiddle, 1
			}
			return chainEmpty, 0
		}, 7},
		{"the longest", func(n int) (byte, int) {
			if n == 1 {
				return chainLast, maxResponse - 60000
			}
			return chainFirst, 60000
		}, maxResponse},
		{"the longest, and an empty end", func(n int) (byte, int) {
			switch n {
			case 0:
				return chainFirst, 60000
			case 1:
				return chainMiddle, maxResponse - 60000
			}
			return chainLast, 0
		}, maxResponse},
		{"one byte more, and no end", func(n int) (byte, int) {
			switch n {
			case 0:
				return chainFirst, 60000
			case 1:
				return chainMiddle, maxResponse - 60000 + 1
			}
			return chainLast, 2
		}, -1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			n := 0
			m := moverFunc(func() answer {
				param, size := tt.parts(n)
				n++
				return answer{param: param, data: pattern(size)}
			})
			rx, halfway, err := chained(ctx, m, 65544, []byte{0, 0x84, 0, 0, 0, 0, 0}, []byte{0xAA}, time.Second)
			switch {
			case tt.want < 0 && (!errors.Is(err, reader.ErrProtocol) || !halfway):
				t.Errorf("%v, half-way %v", err, halfway)
			case tt.want >= 0 && (err != nil || len(rx) != 1+tt.want || rx[0] != 0xAA):
				t.Errorf("%d bytes, %v", len(rx), err)
			}
		})
	}
}

type moverFunc func() answer

func (f moverFunc) xfr(context.Context, int, uint16, []byte, time.Duration) (answer, error) {
	return f(), nil
}

// A reader that is busy (F2), or whose slot is busy (E0), has not executed the command:
// it is sent again for five seconds (CCID 1.1 table 6.2-2).
func TestBusy(t *testing.T) {
	for _, code := range []byte{0xF2, 0xE0, 0xFB} {
		for _, busy := range []int{1, 50, 1000} {
			synctest.Test(t, func(t *testing.T) {
				o, s := oddReader(t, emu.TPDUReader())
				n := 0
				o.in = func(p []byte, _ time.Duration) (int, error) {
					a := o.answer()
					if o.last[0] == cmdPowerOn {
						a = o.answer(atrT0...)
						if n++; n <= busy {
							a = o.answer()
							a[7], a[8] = 0x41, code
						}
					}
					return copy(p, a), nil
				}
				start := time.Now()
				atr, err := s.PowerOn(ctx, reader.Cold)
				took := time.Since(start)
				switch {
				case code == 0xFB && (n != 1 || !errors.Is(err, reader.ErrMute)):
					t.Errorf("%02X: %d times, %v", code, n, err)
				case code == 0xFB:
				case busy < 100 && (err != nil || !bytes.Equal(atr, atrT0) || n != busy+1):
					t.Errorf("%02X, busy %d times: % X, %v", code, busy, atr, err)
				case busy > 100 && (!errors.Is(err, reader.ErrProtocol) || took < busyLimit || took > busyLimit+time.Second):
					t.Errorf("%02X: %v after %v", code, err, took)
				}
			})
		}
	}
}

// Only consecutive failures of the interrupt endpoint count. After a reset of the port,
// which no reader reports, every slot is checked.
func TestInterruptEndpoint(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newDevice(emu.TwoSlotReader())
		var log bytes.Buffer
		r, err := Driver{Log: slog.New(slog.NewTextHandler(&log, nil))}.Open(ctx, reader.Device{Link: e})
		if err != nil {
			t.Fatal(err)
		}
		defer e.Unplug()
		defer r.Close()
		told := func() (n int) {
			synctest.Wait()
			for _, s := range r.Slots() {
				select {
				case <-s.(reader.Notifier).Changes():
					n++
				default:
				}
			}
			return n
		}
		told()
		for range 3 * usb.InterruptTries {
			e.Interrupt(nil)
			time.Sleep(time.Second)
			e.Interrupt(unhex("40 00"))
			synctest.Wait()
		}
		time.Sleep(time.Minute)
		if n := told(); n != 0 || strings.Contains(log.String(), "given up") {
			t.Errorf("given up although it works between failures; %d notifications", n)
		}
		e.port.Reset()
		if n := told(); n != 2 {
			t.Errorf("%d of 2 slots are looked at after a reset", n)
		}
	})
}

// At TPDU level bChainParameter of the answer to Secure is reserved; above it, it chains.
func TestPINAnswerChained(t *testing.T) {
	for level, want := range map[reader.Level]string{reader.TPDU: "01", reader.ShortAPDU: "01 90 00", reader.ExtendedAPDU: "01 90 00"} {
		synctest.Test(t, func(t *testing.T) {
			cfg := emu.PINPadReader()
			cfg.Level = level
			o, s := oddReader(t, cfg)
			o.in = func(p []byte, _ time.Duration) (int, error) {
				a := o.answer()
				switch {
				case o.last[0] == cmdSecure:
					a = o.answer(1)
					a[9] = chainFirst
				case o.last[0] == cmdXfrBlock && o.last[8] == chainEmpty:
					a = o.answer(0x90, 0)
					a[9] = chainLast
				}
				return copy(p, a), nil
			}
			rx, err := s.VerifyPIN(ctx, &reader.PINVerify{PINFormat: format2()}, nil)
			check(t, rx, err, unhex(want), nil)
		})
	}
}

// The limit of a PIN entry is at least 90 seconds, and ten seconds more than bTimerOut.
// The card's time is added.
func TestPINTime(t *testing.T) {
	for timeout, want := range map[byte]time.Duration{0: 92 * time.Second, 30: 92 * time.Second, 80: 92 * time.Second, 81: 93 * time.Second, 255: 267 * time.Second} {
		synctest.Test(t, func(t *testing.T) {
			o, s := oddReader(t, emu.PINPadReader())
			o.in = func(p []byte, d time.Duration) (int, error) {
				if o.last[0] == cmdSecure && d != want {
					t.Errorf("bTimerOut %d: waits %v, want %v", timeout, d, want)
				}
				return copy(p, o.answer(0x90, 0)), nil
			}
			f := format2()
			f.Timeout = timeout
			if _, err := s.VerifyPIN(ctx, &reader.PINVerify{PINFormat: f}, nil); err != nil && !errors.Is(err, reader.ErrProtocol) {
				t.Error(err)
			}
		})
	}
}

// bEntryValidationCondition: 1 to 7 are sent as asked for; 0 and undefined values become
// the OK key. Conditions that a Gemalto firmware does not support (Escape 6A) are
// removed; if none remains, its lowest one is used.
func TestPINCondition(t *testing.T) {
	for _, tt := range []struct {
		features string // "": the reader does not have the quirk
		ask      []byte
		want     []byte
	}{
		{"", []byte{0, 1, 2, 3, 4, 7, 8, 0xFF}, []byte{2, 1, 2, 3, 4, 7, 2, 2}},
		{"02 11 00 02 7F 00 00 00 06", []byte{0, 1, 2, 3, 4, 7, 8}, []byte{2, 2, 2, 2, 2, 2, 2}},
		{"02 11 00 06", []byte{1, 2, 3, 4, 5, 7}, []byte{2, 2, 2, 4, 4, 6}},
		{"02 11 00 05", []byte{2, 1, 6}, []byte{1, 1, 4}},
		{"02 11 00 00", []byte{1, 7, 0}, []byte{1, 7, 2}}, // none supported: not believed
		{"02 11 00", []byte{1, 7, 0}, []byte{1, 7, 2}},
		{"02 11 00 F8", []byte{1, 7, 0}, []byte{1, 7, 2}},
	} {
		for n, c := range tt.ask {
			synctest.Test(t, func(t *testing.T) {
				cfg := emu.PINPadReader()
				if tt.features != "" {
					cfg = as(cfg, 0x08E6, 0x34C2, 0x200)
				}
				o, s := oddReader(t, cfg)
				asked := 0
				o.in = func(p []byte, d time.Duration) (int, error) {
					switch o.last[0] {
					case cmdEscape:
						asked++
						return copy(p, o.answer(unhex(tt.features)...)), nil
					case cmdSecure:
						if got := o.last[headerLen+7]; got != tt.want[n] {
							t.Errorf("features %q, condition %02X: %02X, want %02X", tt.features, c, got, tt.want[n])
						}
					}
					return copy(p, o.answer(0x90, 0)), nil
				}
				f := format2()
				f.Condition = c
				for range 2 {
					if _, err := s.VerifyPIN(ctx, &reader.PINVerify{PINFormat: f}, nil); err != nil {
						t.Error(err)
					}
				}
				if asked > 1 || asked == 1 != (tt.features != "") {
					t.Errorf("asked %d times", asked)
				}
			})
		}
	}
}
