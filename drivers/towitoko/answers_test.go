package towitoko

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cardfs/cardfs/drivers/bus/serial"
	"github.com/cardfs/cardfs/drivers/bus/serial/serialtest"
	"github.com/cardfs/cardfs/drivers/towitoko/emu"
	"github.com/cardfs/cardfs/reader"
	"github.com/cardfs/cardfs/reader/iso7816"
	"github.com/cardfs/cardfs/reader/readertest"
)

// scripted is a reader that takes commands at 9600 bit/s, and gives them to f, without their checksum.
func scripted(f func(l *serialtest.Line, cmd []byte)) serialtest.Device {
	return serialtest.DeviceFunc(func(l *serialtest.Line) {
		l.SetMode(serial.Mode{Baud: 9600, Frame: serial.Frame8E2})
		var in []byte
		for {
			e, ok := l.NextWithin(100 * time.Millisecond)
			switch {
			case !ok:
				return
			case e.Kind == serialtest.Timeout:
				in = nil
			case e.Kind == serialtest.Char:
				in = append(in, e.Char)
			}
			if n := len(in) - 1; n > 0 && checksum(0, in[:n]) == in[n] && (in[0] != 0x6F || n > 2) && (in[0] != 0x80 && in[0] != 0xA0 || n == 4) {
				cmd := in[:n]
				in = nil
				f(l, cmd)
			}
		}
	})
}

// usual answers what has one answer.
func usual(l *serialtest.Line, cmd []byte) {
	send := func(p ...byte) { l.Send(append(p, checksum(1, p))...) }
	switch {
	case cmd[0] == 0x00:
		send(0x84, 0x10)
	case cmd[0] == 0x03:
		send(0x50) // no I2C chip either
	case cmd[0] >= 0x10 && cmd[0] < 0x20:
		send(bytes.Repeat([]byte{0xFF}, int(cmd[0]&15)+1)...)
	case cmd[0] == 0xA0, cmd[0] == 0x80:
	default:
		send()
	}
}

// What a reader may say of an ATR and to commands. Errors say what was tried, and no bytes.
func TestAnswers(t *testing.T) {
	for _, x := range []struct {
		name string
		cmd  byte   // to which this is
		say  string // the answer, with its checksum where it has one; / is a pause of 900 ms
		want string // the ATR, or a part of the error
		is   error
	}{
		{"at once", 0x80, "3B 02 14 50", "3B 02 14 50", nil},
		{"to the second", 0xA0, "3B 02 14 50", "3B 02 14 50", nil},
		{"in pieces", 0x80, "/3B/02/14/50", "3B 02 14 50", nil},
		{"inverse, at even parity", 0x80, "03 BF D7 F5", "3F 02 14 50", nil},
		{"inverse, converted", 0x80, "3F 02 14 50", "3F 02 14 50", nil},
		{"garbage first", 0x80, "55 55 3B", "does not answer to reset", reader.ErrMute},
		{"garbage at both", 0xA0, "55", "neither 3B nor 03", reader.ErrMute},
		{"cut", 0x80, "3B 02 14", "3 bytes came, 4 or more are announced", reader.ErrProtocol},
		{"too long", 0x80, "3B" + strings.Repeat("F0", 40), "33 are the most", reader.ErrProtocol},
		{"activation refused", 0x60, "02", "activate: answer, 1 of 1 bytes: an answer with a wrong checksum", reader.ErrProtocol},
		{"activation unanswered", 0x60, "", "activate: answer, 0 of 1 bytes", reader.ErrTimeout},
		{"parity refused", 0x6F, "00", "set the parity: answer", reader.ErrProtocol},
		{"status with a wrong checksum", 0x03, "40 82", "answer, 2 of 2 bytes: an answer with a wrong checksum", reader.ErrProtocol},
		{"status cut", 0x03, "40", "1 of 2 bytes", reader.ErrTimeout},
		{"no card", 0x03, "00 03", "no card", reader.ErrNoCard},
		{"synchronous reset refused", 0x70, "FF", "synchronous reset", reader.ErrProtocol},
		{"synchronous reset unknown", 0x70, "", "does not answer to reset", reader.ErrMute},
	} {
		t.Run(x.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := serialtest.Plug(scripted(func(l *serialtest.Line, cmd []byte) {
					if cmd[0] != x.cmd {
						usual(l, cmd)
						return
					}
					for i, part := range strings.Split(x.say, "/") {
						if i > 0 {
							time.Sleep(900 * time.Millisecond)
						}
						for _, c := range unhex(part) {
							if strings.HasPrefix(x.name, "inverse") {
								l.SendWrong(c)
							} else {
								l.Send(c)
							}
						}
					}
				}))
				defer p.Unplug()
				s := open(t, p)
				defer s.Close()
				start := time.Now()
				atr, err := s.PowerOn(t.Context(), reader.Cold)
				if took := time.Since(start); took > 12*time.Second {
					t.Errorf("it took %v", took)
				}
				if x.is == nil {
					if err != nil || !bytes.Equal(atr, unhex(x.want)) {
						t.Errorf("% X, %v", atr, err)
					}
					return
				}
				if !errors.Is(err, x.is) || !strings.Contains(err.Error(), x.want) || !strings.HasPrefix(err.Error(), "towitoko /dev/ttyS0: power up: ") {
					t.Errorf("%v", err)
				}
				if strings.Contains(err.Error(), "14") || s.powered {
					t.Errorf("bytes of the answer, or a card with power: %v", err)
				}
			})
		})
	}
}

// Each command of a reset may be refused, also of one that takes the power or changes the speed
// first.
func TestResetRefused(t *testing.T) {
	for cmd, want := range map[byte]string{0x61: "deactivate: ", 0x6E: "set the speed: ", 0x6F: "set the parity: ", 0x60: "activate: ", 0x03: "answer, 2 of 2"} {
		synctest.Test(t, func(t *testing.T) {
			refuse := byte(0xFF)
			p := serialtest.Plug(scripted(func(l *serialtest.Line, in []byte) {
				switch {
				case in[0] == refuse:
					l.Send(0x02, 0x02)
				case in[0] == 0x80:
					l.Send(readertest.Plain.ATR()...)
				default:
					usual(l, in)
				}
			}))
			defer p.Unplug()
			s := open(t, p)
			defer s.Close()
			if _, err := s.PowerOn(t.Context(), reader.Cold); err != nil {
				t.Fatal(err)
			}
			refuse = cmd
			var err error
			if cmd == 0x6E {
				q := iso7816.DefaultParams(0)
				q.TA1 = 0x12
				err = s.SetParams(t.Context(), q)
			} else {
				_, err = s.PowerOn(t.Context(), reader.Cold)
			}
			if !errors.Is(err, reader.ErrProtocol) || !strings.Contains(err.Error(), want) {
				t.Errorf("%02X: %v", cmd, err)
			}
			if cmd == 0x61 {
				if err := s.PowerOff(t.Context()); !errors.Is(err, reader.ErrProtocol) || !strings.HasPrefix(err.Error(), "towitoko /dev/ttyS0: power down: deactivate: ") {
					t.Error(err)
				}
			}
			refuse = 0xFF
			// What is wrong is dropped once: the next look pays for it, and none after that.
			for i := range 3 {
				start := time.Now()
				if st, err := s.Status(t.Context()); st == reader.Absent || err != nil {
					t.Errorf("%02X: %v, %v", cmd, st, err)
				}
				if took := time.Since(start); i > 1 && took > 0 {
					t.Errorf("%02X: look %d took %v", cmd, i, took)
				}
			}
		})
	}
}

// An ATR that is damaged is none, and the rest of it is not taken for another answer; of an
// exchange that is ended nothing stays behind dst.
func TestDamagedATR(t *testing.T) {
	for _, x := range []struct {
		answer string
		wrong  int // the character with wrong parity
	}{{"3B 02 14 50", 0}, {"3B 02 14 50", 1}, {"3B 02 14 50", 3}, {"3B 03 14", -1}} {
		synctest.Test(t, func(t *testing.T) {
			late := x.wrong < 0
			p := serialtest.Plug(scripted(func(l *serialtest.Line, in []byte) {
				if in[0] != 0x80 {
					usual(l, in)
					return
				}
				for i, c := range unhex(x.answer) {
					if i == x.wrong {
						l.SendWrong(c)
					} else {
						l.Send(c)
					}
				}
				if late {
					late = false
					go func() {
						time.Sleep(atrGap + 100*time.Millisecond)
						l.Send(0x40)
					}()
				}
			}))
			defer p.Unplug()
			s := open(t, p)
			defer s.Close()
			if _, err := s.PowerOn(t.Context(), reader.Cold); !errors.Is(err, reader.ErrProtocol) || !s.stray {
				t.Errorf("%v; stray %v", err, s.stray)
			}
			if st, err := s.Status(t.Context()); st != reader.Present || err != nil {
				t.Errorf("%v, %v", st, err)
			}
		})
	}
	synctest.Test(t, func(t *testing.T) {
		_, _, s, l := plug(t, emu.Options{}, readertest.Block)
		powerUp(t, l, -1)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		dst := make([]byte, 0, 64)
		// One character more than the card sends.
		got, err := s.Exchange(ctx, reader.Transfer{Out: unhex("00 C1 01 FE 3E"), Want: 6, Wait: time.Minute, CharWait: time.Minute}, dst)
		if !errors.Is(err, context.DeadlineExceeded) || len(got) > 0 || !bytes.Equal(dst[:8], make([]byte, 8)) {
			t.Errorf("% X, %v; % X", got, err, dst[:8])
		}
	})
}
