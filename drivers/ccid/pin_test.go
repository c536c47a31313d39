package ccid

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cardfs/cardfs/drivers/ccid/emu"
	"github.com/cardfs/cardfs/reader"
)

// From the keys to the card: how the PIN stands in the command.
func TestPINPad(t *testing.T) {
	verify := func(format, block, length byte, apdu string) *reader.PINVerify {
		return &reader.PINVerify{PINFormat: reader.PINFormat{Timeout: 30, Format: format, Block: block, Length: length,
			MinDigits: 4, MaxDigits: 8, Condition: 2, APDU: unhex(apdu)}}
	}
	cases := []struct {
		name string
		v    *reader.PINVerify
		keys string
		pin  string // the command that the card sees; "" if none
		sw   string
	}{
		{"ASCII, padded", verify(0x82, 0x08, 0, "00 20 00 01 08 FF FF FF FF FF FF FF FF"), "1234\r", "31 32 33 34 FF FF FF FF", "90 00"},
		{"ASCII, appended", verify(0x82, 0x00, 0, "00 20 00 01"), "12345\r", "31 32 33 34 35", "90 00"},
		{"ASCII, right", verify(0x86, 0x08, 0, "00 20 00 01 08 00 00 00 00 00 00 00 00"), "1234\r", "00 00 00 00 31 32 33 34", "90 00"},
		{"BCD with length: format 2", &reader.PINVerify{PINFormat: format2()}, "12345\r", "25 12 34 5F FF FF FF FF", "90 00"},
		{"a key too few, then enough", verify(0x82, 0x08, 0, "00 20 00 01 08 FF FF FF FF FF FF FF FF"), "12\r34\r", "31 32 33 34 FF FF FF FF", "90 00"},
		{"corrected", verify(0x82, 0x08, 0, "00 20 00 01 08 FF FF FF FF FF FF FF FF"), "9999\b1234\r", "31 32 33 34 FF FF FF FF", "90 00"},
		{"cancelled", verify(0x82, 0x08, 0, "00 20 00 01 08 FF FF FF FF FF FF FF FF"), "12\x1b", "", "64 01"},
		{"nobody there", verify(0x82, 0x08, 0, "00 20 00 01 08 FF FF FF FF FF FF FF FF"), "", "", "64 00"},
	}
	for _, level := range []reader.Level{reader.TPDU, reader.ShortAPDU, reader.ExtendedAPDU} {
		for _, c := range cases {
			t.Run(fmt.Sprintf("%d/%s", level, c.name), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					cfg := emu.PINPadReader()
					cfg.Level = level
					e := newDevice(cfg)
					card := &testCard{atr: atrT0}
					e.Contact(0).Insert(card)
					var log bytes.Buffer
					r, err := Driver{Log: slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))}.Open(ctx, reader.Device{Link: e})
					if err != nil {
						t.Fatal(err)
					}
					defer e.Unplug()
					defer r.Close()
					s := r.Slots()[0].(*slot)
					if _, err := s.PowerOn(ctx, reader.Cold); err != nil {
						t.Fatal(err)
					}
					time.AfterFunc(5*time.Second, func() { e.Press(0, c.keys) })
					rx, err := s.VerifyPIN(ctx, c.v, nil)
					check(t, rx, err, unhex(c.sw), nil)
					if !bytes.Equal(card.pin, unhex(c.pin)) {
						t.Errorf("PIN % X, want %s", card.pin, c.pin)
					}
					if c.pin != "" && strings.Contains(log.String(), "1234") {
						t.Errorf("the log has it: %s", log.String())
					}
				})
			})
		}
	}
}

func TestPINModify(t *testing.T) {
	for _, c := range []struct{ keys, want, sw string }{
		{"1111\r1234\r1234\r", "31 31 31 31 31 32 33 34", "90 00"},
		{"1111\r1234\r1235\r", "", "64 02"}, // EE: they differ
	} {
		synctest.Test(t, func(t *testing.T) {
			e := newDevice(emu.PINPadReader())
			card := &testCard{atr: atrT1}
			e.Contact(0).Insert(card)
			r := open(t, e)
			s := r.slots[0].(*slot)
			if _, err := s.PowerOn(ctx, reader.Cold); err != nil {
				t.Fatal(err)
			}
			e.Press(0, c.keys)
			rx, err := s.ModifyPIN(ctx, &reader.PINModify{PINFormat: reader.PINFormat{Format: 0x82, Block: 4, MinDigits: 4, MaxDigits: 4, Condition: 2,
				Messages: 3, APDU: unhex("00 24 00 01 08 00 00 00 00 00 00 00 00")}, OffsetOld: 0, OffsetNew: 4, Confirm: 3}, nil)
			check(t, rx, err, unhex(c.sw), nil)
			if !bytes.Equal(card.pin, unhex(c.want)) {
				t.Errorf("% X", card.pin)
			}
		})
	}
}

// At TPDU level with T=1 the reader builds the block behind the host's prologue.
func TestPINBlock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := emu.PINPadReader()
		cfg.Level, cfg.Features = reader.TPDU, emu.AutoVoltage|emu.AutoParamsATR|emu.AutoClock|emu.AutoBaud
		e := newDevice(cfg)
		card := &testCard{atr: atrT1}
		e.Contact(0).Insert(card)
		s := open(t, e).slots[0].(*slot)
		if _, err := s.PowerOn(ctx, reader.Cold); err != nil {
			t.Fatal(err)
		}
		e.Press(0, "1234\r")
		v := &reader.PINVerify{PINFormat: reader.PINFormat{Format: 0x82, Block: 8, MinDigits: 4, MaxDigits: 8, Condition: 2,
			Prologue: [3]byte{0, 0, 13}, APDU: unhex("00 20 00 01 08 FF FF FF FF FF FF FF FF")}}
		rx, err := s.VerifyPIN(ctx, v, nil)
		check(t, rx, err, unhex("00 00 02 90 00 92"), nil)
	})
}

// A PIN entry whose caller gives up is aborted in the reader.
func TestPINAborted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newDevice(emu.PINPadReader())
		card := &testCard{atr: atrT1}
		e.Contact(0).Insert(card)
		s := open(t, e).slots[0].(*slot)
		if _, err := s.PowerOn(ctx, reader.Cold); err != nil {
			t.Fatal(err)
		}
		some, cancel := context.WithTimeout(ctx, 3*time.Second)
		defer cancel()
		start := time.Now()
		_, err := s.VerifyPIN(some, &reader.PINVerify{PINFormat: format2()}, nil)
		if err == nil || time.Since(start) > 4*time.Second {
			t.Error(err, time.Since(start))
		}
		e.Press(0, "1234\r")
		rx, err := s.Exchange(ctx, reader.Transfer{Out: unhex("00 84 00 00 01")}, nil)
		check(t, rx, err, unhex("00 90 00"), nil)
		if card.pin != nil {
			t.Error("the card got a PIN")
		}
	})
}

// PC/SC part 10: both byte orders of the structures occur.
func TestParsePIN(t *testing.T) {
	for _, order := range []binary.AppendByteOrder{binary.LittleEndian, binary.BigEndian} {
		v := []byte{30, 30, 0x89, 0x47, 0x04}
		v = order.AppendUint16(v, 0x0408)
		v = append(v, 2, 1)
		v = order.AppendUint16(v, 0x0409)
		v = append(v, 7, 1, 2, 3)
		v = order.AppendUint32(v, 13)
		v = append(v, format2().APDU...)
		got, err := reader.ParsePINVerify(v)
		want := format2()
		want.MessageIndexes, want.Prologue = [3]byte{7}, [3]byte{1, 2, 3}
		if err != nil || fmt.Sprintf("%#v", got.PINFormat) != fmt.Sprintf("%#v", want) {
			t.Errorf("%v:\n%#v\n%#v\n%v", order, got, want, err)
		}
		m := []byte{30, 30, 0x89, 0x47, 0x04, 0, 8}
		m = order.AppendUint16(m, 0x0408)
		m = append(m, 3, 2, 3)
		m = order.AppendUint16(m, 0x0409)
		m = append(m, 4, 5, 6, 1, 2, 3)
		m = order.AppendUint32(m, 5)
		m = append(m, unhex("00 24 00 01 10")...)
		mod, err := reader.ParsePINModify(m)
		if err != nil || mod.OffsetNew != 8 || mod.Confirm != 3 || mod.MessageIndexes != [3]byte{4, 5, 6} || mod.MaxDigits != 8 || mod.MinDigits != 4 || len(mod.APDU) != 5 {
			t.Errorf("%v: %#v, %v", order, mod, err)
		}
	}
	for _, b := range [][]byte{nil, make([]byte, 22), make([]byte, 40)} {
		if _, err := reader.ParsePINVerify(b); !errors.Is(err, reader.ErrInvalid) {
			t.Error(err)
		}
	}
}

// If the reader leaves, or the caller gives up, while the reader is asked for its
// features, no PIN command goes out, and that error is returned.
func TestPINNotBegun(t *testing.T) {
	for _, modify := range []bool{false, true} {
		for _, gone := range []bool{false, true} {
			synctest.Test(t, func(t *testing.T) {
				cfg := emu.PINPadReader()
				cfg.Vendor, cfg.Product, cfg.Release = 0x08E6, 0x34C2, 0x9999 // features are asked for by Escape
				o, s := oddReader(t, cfg)
				some, cancel := context.WithCancel(ctx)
				defer cancel()
				want := context.Canceled
				if gone {
					want = reader.ErrGone
				}
				o.out = func(p []byte) (int, error) {
					switch p[0] {
					case cmdSecure:
						t.Error("a PIN command goes out")
					case cmdEscape:
						if gone {
							return 0, reader.ErrGone
						}
						cancel()
						return 0, some.Err()
					}
					return len(p), nil
				}
				var rx []byte
				var err error
				if modify {
					f := format2()
					f.Messages = 1
					rx, err = s.ModifyPIN(some, &reader.PINModify{PINFormat: f}, nil)
				} else {
					rx, err = s.VerifyPIN(some, &reader.PINVerify{PINFormat: format2()}, nil)
				}
				check(t, rx, err, nil, want)
			})
		}
	}
}

// The structure is wiped in any case: its template may contain a PIN.
func TestPINStructureIsWiped(t *testing.T) {
	for _, failed := range []error{nil, reader.ErrTimeout, reader.ErrGone} {
		synctest.Test(t, func(t *testing.T) {
			o, s := oddReader(t, emu.PINPadReader())
			o.out = func(p []byte) (int, error) {
				if p[0] == cmdSecure && failed != nil {
					return 0, failed
				}
				return len(p), nil
			}
			b := bytes.Repeat([]byte{0x31}, 40)
			s.secure(ctx, b, 0, nil)
			if !bytes.Equal(b, make([]byte, len(b))) {
				t.Errorf("%v: % X", failed, b)
			}
		})
	}
	synctest.Test(t, func(t *testing.T) { // waits longer than the reader does
		_, s := oddReader(t, emu.PINPadReader())
		b := bytes.Repeat([]byte{0x31}, 1<<17)
		if _, err := s.secure(ctx, b, 0, nil); !errors.Is(err, reader.ErrUnsupported) || !bytes.Equal(b, make([]byte, len(b))) {
			t.Errorf("%v, %d bytes wiped", err, bytes.Count(b, []byte{0}))
		}
	})
}

// If an answer to a PIN command breaks off, the reader still holds its rest: powering the
// card off makes the reader drop it.
func TestPINAnswerBreaksOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o, s := oddReader(t, emu.PINPadReader())
		off := false
		o.out = func(p []byte) (int, error) {
			off = off || p[0] == cmdPowerOff
			return len(p), nil
		}
		o.in = func(p []byte, _ time.Duration) (int, error) {
			a := o.answer()
			switch o.last[0] {
			case cmdSecure:
				a = o.answer(1)
				a[9] = chainFirst
			case cmdXfrBlock:
				a = o.answer(2)
				a[9] = 0x77 // not defined
			}
			return copy(p, a), nil
		}
		rx, err := s.VerifyPIN(ctx, &reader.PINVerify{PINFormat: format2()}, nil)
		check(t, rx, err, nil, reader.ErrProtocol)
		if !off {
			t.Error("the card keeps its power")
		}
	})
}

// A bNumberMessage that a reader insists on may be 0.
func TestPINMessagesOfReader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o, s := oddReader(t, emu.PINPadReader())
		s.modifyMessages, s.verifyMessages = 0, 0
		o.in = func(p []byte, _ time.Duration) (int, error) { return copy(p, o.answer(0x90, 0)), nil }
		f := format2()
		f.Messages = 3
		for at, do := range map[int]func() ([]byte, error){
			10 + 11: func() ([]byte, error) { return s.ModifyPIN(ctx, &reader.PINModify{PINFormat: f}, nil) },
			10 + 8:  func() ([]byte, error) { return s.VerifyPIN(ctx, &reader.PINVerify{PINFormat: f}, nil) },
		} {
			rx, err := do()
			if err != nil || o.last[at] != 0 || o.last[at-1] != 2 {
				t.Errorf("% X, %v: sent % X", rx, err, o.last)
			}
		}
	})
}

// A response in parts that outgrows its array leaves no part there.
func TestResponseOutgrows(t *testing.T) {
	for room := range 10 {
		synctest.Test(t, func(t *testing.T) {
			cfg := emu.PINPadReader()
			cfg.Level = reader.ExtendedAPDU
			o, s := oddReader(t, cfg)
			part := 0
			o.in = func(p []byte, _ time.Duration) (int, error) {
				parts := []string{"abc", "def", "\x90\x00"}
				a := o.answer([]byte(parts[part])...)
				a[9] = []byte{chainFirst, chainMiddle, chainLast}[part]
				part++
				return copy(p, a), nil
			}
			dst := make([]byte, 1, 1+room)
			rx, err := s.Exchange(ctx, reader.Transfer{Out: unhex("00 84 00 00 06")}, dst)
			if err != nil || string(rx) != "\x00abcdef\x90\x00" {
				t.Errorf("%q, %v", rx, err)
			}
			if left := dst[:cap(dst)]; room < 8 && bytes.ContainsAny(left, "abcdef") {
				t.Errorf("room for %d: %q is left", room, left)
			}
		})
	}
}
