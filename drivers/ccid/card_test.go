package ccid

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cardfs/cardfs/drivers/bus/usb"
	"github.com/cardfs/cardfs/drivers/bus/usb/usbtest"
	"github.com/cardfs/cardfs/drivers/ccid/emu"
	"github.com/cardfs/cardfs/reader"
	"github.com/cardfs/cardfs/reader/core"
	"github.com/cardfs/cardfs/reader/iso7816"
)

// "ESTALE: the card was reset, changed or powered off since this open": another program
// resets the reader's port, and the next XfrBlock is answered 41 FE (CCID 1.1 table
// 6.2-3: bmICCStatus 1, present and inactive). The card saw nothing of the command, so
// the error is ESTALE at once, and the command is not in doubt.
func TestResetUnderASession(t *testing.T) {
	for _, cfg := range []emu.Config{emu.ShortAPDUReader(), emu.ExtendedAPDUReader(), emu.TPDUReader(), emu.CharacterReader()} {
		for _, atr := range [][]byte{atrT0, atrT1IFSC} {
			for _, interrupt := range []bool{true, false} {
				t.Run(fmt.Sprintf("%s/%X/%v", cfg.Name, atr[1], interrupt), func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) {
						cfg.NoInterrupt = !interrupt
						card := &testCard{atr: atr}
						b := plug(t, cfg, card)
						s := b.session(0)
						transmit(t, s, unhex("00 84 00 00 01"), unhex("00 90 00"))
						b.e.port.Reset()
						if interrupt {
							synctest.Wait() // the pending interrupt transfer reports the reset
							if i := s.Slot().Info(); i.State != "present" {
								t.Errorf("state %s before anybody asks", i.State)
							}
						}
						start := time.Now()
						_, err := s.Transmit(ctx, unhex("00 84 00 00 01"), nil)
						if took := time.Since(start); !errors.Is(err, reader.ErrStale) || took > time.Second {
							t.Errorf("%v after %v", err, took)
						}
						if i := s.Slot().Info(); i.State != "present" || i.Err != nil || card.count() != 1 {
							t.Errorf("state %s, error %v, the card saw %d commands", i.State, i.Err, card.count())
						}
						transmit(t, b.session(0), unhex("00 84 00 00 01"), unhex("00 90 00"))
					})
				})
			}
		}
	}
}

// "bmICCStatus of every answer counts": if a response comes with the information that the
// card is no longer active, the core checks the card.
func TestAnswerThatSaysInactive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newDevice(emu.TPDUReader())
		e.Contact(0).Insert(&testCard{atr: atrT0})
		s := open(t, e).slots[0].(*slot)
		synctest.Wait()
		select {
		case <-s.Changes():
		default:
		}
		if _, err := s.PowerOn(ctx, reader.Cold); err != nil {
			t.Fatal(err)
		}
		for _, tt := range []struct {
			status byte
			told   bool
			active bool
		}{{0x00, false, true}, {0x01, true, false}, {0x01, false, false}} {
			s.lane.pipe.conn = &oneAnswer{Conn: s.conn, status: tt.status}
			if _, err := s.Exchange(ctx, reader.Transfer{Out: unhex("00 84 00 00 01")}, nil); err != nil {
				t.Error(err)
			}
			select {
			case <-s.Changes():
				if !tt.told {
					t.Errorf("%02X: told", tt.status)
				}
			default:
				if tt.told {
					t.Errorf("%02X: not told", tt.status)
				}
			}
			if s.active != tt.active {
				t.Errorf("%02X: active %v", tt.status, s.active)
			}
		}
	})
}

// A memory card in a reader of TPDU level: the reader answers "mute" to SetParameters
// while the card is active. The card is usable, and pseudo-APDUs reach the reader.
func TestMemoryCardAtTPDULevel(t *testing.T) {
	for _, code := range []byte{0xFE, 0xF6, 0x00, 0x07, 0xFB} {
		synctest.Test(t, func(t *testing.T) {
			cfg := emu.TPDUReader()
			cfg.Features = emu.AutoClock | emu.AutoBaud // dwFeatures 00010030
			card := &testCard{atr: unhex("3B 04 17 04 FF FF")}
			b := plug(t, cfg, card)
			b.e.Inject(emu.Fault{Kind: emu.Fail, On: cmdSetParameters, Code: code, Count: -1})
			s := b.session(0)
			transmit(t, s, unhex("00 84 00 00 01"), unhex("00 90 00")) // a leading FF would be a PPS for the emulator
			transmit(t, s, unhex("FF A4 00 00 01 06"), unhex("90 00"))
			transmit(t, s, unhex("FF 84 00 00 03"), unhex("00 01 02 90 00"))
			if i := s.Slot().Info(); i.State != "powered" || i.Err != nil {
				t.Errorf("%02X: state %s, error %v", code, i.State, i.Err)
			}
		})
	}
}

// The driver's part: "with the card still active (bmICCStatus 0) a refused SetParameters
// is no reason to give it up", if the parameters asked for are in force anyway.
func TestSetParametersRefused(t *testing.T) {
	fast := iso7816.DefaultParams(0)
	fast.TA1 = 0x95
	for _, tt := range []struct {
		name     string
		features emu.Features
		code     byte
		p        iso7816.Params
		off      bool // the card has lost its power meanwhile
		ok       bool
	}{
		{"mute", emu.AutoClock | emu.AutoBaud, 0xFE, iso7816.DefaultParams(0), false, true},
		{"not supported", emu.AutoClock | emu.AutoBaud, 0x00, iso7816.DefaultParams(0), false, true},
		{"bProtocolNum", emu.AutoClock | emu.AutoBaud, 0x07, iso7816.DefaultParams(0), false, true},
		{"a rate", emu.AutoClock | emu.AutoBaud, 0xFE, fast, false, false},
		{"a rate that the reader takes from the ATR", emu.AutoParamsATR | emu.AutoClock | emu.AutoBaud, 0x00, fast, false, true},
		{"without power", emu.AutoClock | emu.AutoBaud, 0xFE, iso7816.DefaultParams(0), true, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			cfg := emu.TPDUReader()
			cfg.Features = tt.features
			e := newDevice(cfg)
			e.Contact(0).Insert(&testCard{atr: atrT0})
			s := open(t, e).slots[0].(*slot)
			if _, err := s.PowerOn(ctx, reader.Cold); err != nil {
				t.Fatal(err)
			}
			if tt.off {
				e.Contact(0).Deactivate()
			}
			e.Inject(emu.Fault{Kind: emu.Fail, On: cmdSetParameters, Code: tt.code})
			err := s.SetParams(ctx, tt.p)
			if failed := (*Error)(nil); tt.ok != (err == nil) || !tt.ok && (!errors.As(err, &failed) || failed.Code != tt.code) {
				t.Errorf("%v, want it to be given up: %v", err, !tt.ok)
			}
		})
	}
}

// "IccPowerOn answered FE twice, then well: works" (ISO/IEC 7816-3:2006 §6.2.3: three
// attempts). A token gets more, in the time that it may need to settle.
func TestThirdPowerOn(t *testing.T) {
	for _, cfg := range []emu.Config{emu.TPDUReader(), emu.ShortAPDUReader(), emu.CharacterReader(), emu.ICCDB()} {
		for n := range 4 {
			synctest.Test(t, func(t *testing.T) {
				on := byte(cmdPowerOn)
				b := plug(t, cfg, &testCard{atr: atrT0})
				synctest.Wait()
				count := n
				if cfg.Features&emu.AutoVoltage == 0 && cfg.Protocol == ProtocolCCID {
					count *= 3 // once with each voltage
				}
				if n > 0 {
					b.e.Inject(emu.Fault{Kind: emu.Fail, On: on, Code: 0xFE, Count: count})
				}
				s, err := b.open(0)
				if n == 3 && cfg.Features&emu.Token == 0 {
					if !errors.Is(err, reader.ErrMute) {
						t.Errorf("%s, %d times: %v", cfg.Name, n, err)
					}
					return
				}
				if err != nil {
					t.Errorf("%s, %d times: %v", cfg.Name, n, err)
					return
				}
				transmit(t, s, unhex("00 84 00 00 01"), unhex("00 90 00"))
			})
		}
	}
}

// A reader that negotiates by itself may choose T=1 although the ATR offers T=0 first.
// GetParameters tells (CCID 1.1 §6.1.5), and `protocol` shows the one in force. For a
// card with one protocol it is not sent.
func TestReaderChoosesT1(t *testing.T) {
	for _, level := range []reader.Level{reader.ShortAPDU, reader.ExtendedAPDU, reader.TPDU} {
		for _, prefers := range []bool{true, false} {
			for _, atr := range [][]byte{atrBoth, atrT0} {
				synctest.Test(t, func(t *testing.T) {
					cfg := emu.ExtendedAPDUReader()
					cfg.Level, cfg.PrefersT1 = level, prefers
					e := newDevice(cfg)
					asked := 0
					e.Observe(func(r usbtest.Line) {
						if r.Endpoint == 0x02 && r.Data[0] == cmdGetParameters {
							asked++
						}
					})
					e.Contact(0).Insert(&testCard{atr: atr})
					m := core.NewManager(core.Options{Drivers: []reader.Driver{Driver{}}})
					defer e.Unplug()
					defer m.Close(context.Background())
					if err := m.Announce(reader.Device{Driver: "ccid", Address: "emulator", Link: e}); err != nil {
						t.Fatal(err)
					}
					b := &bench{t, e, m}
					s := b.session(0)
					want := 0
					if prefers && len(atr) == len(atrBoth) {
						want = 1
					}
					if p := s.Slot().Info().Params; p.T != want {
						t.Errorf("level %d, prefers T=1 %v, ATR % X: T=%d", level, prefers, atr, p.T)
					}
					if asked > 0 != (len(atr) == len(atrBoth) || level == reader.TPDU) {
						t.Errorf("level %d, ATR % X: %d GetParameters", level, atr, asked)
					}
					transmit(t, s, unhex("00 84 00 00 02"), unhex("00 01 90 00"))
				})
			}
		}
	}
}

// Answers to GetParameters and SetParameters count only if they can be true.
func TestSelectProtocolAnswers(t *testing.T) {
	negotiating, pps, fixed := emu.ExtendedAPDUReader(), emu.ShortAPDUReader(), as(emu.CharacterReader(), 0x0B97, 0x7762, 0x200)
	t0 := iso7816.Params{T: 0, TA1: 0x95, WI: 10}
	const get, t0set, t1set = "OUT 02 | 6C 00 00 00 00 00 02 00 00 00\n", "OUT 02 | 61 05 00 00 00 00 02 00 00 00 95 00 00 0A 00\n", "OUT 02 | 61 07 00 00 00 00 02 01 00 00 95 10 00 4D 00 20 00\n"
	for _, tt := range []struct {
		name  string
		cfg   emu.Config
		want  iso7816.Params
		wire  string
		t     int
		ta1   byte
		err   error
		power []byte
	}{
		{"T=1 in force", negotiating, t0, get + "IN  81 | 82 07 00 00 00 00 02 00 00 01 11 10 00 4D 00 20 00", 1, 0x11, nil, atrBoth},
		{"T=0 in force", negotiating, t0, get + "IN  81 | 82 05 00 00 00 00 02 00 00 00 94 00 00 0A 00", 0, 0x94, nil, atrBoth},
		{"T=0 in force, at no rate", negotiating, t0, get + "IN  81 | 82 05 00 00 00 00 02 00 00 00 FF 00 00 0A 00", 0, 0x95, nil, atrBoth},
		{"not T=1", negotiating, iso7816.DefaultParams(1), get + "IN  81 | 82 05 00 00 00 00 02 00 00 00 95 00 00 0A 00", 1, 0x11, reader.ErrUnsupported, atrBoth},
		{"T=1, as asked for", negotiating, iso7816.DefaultParams(1), get + "IN  81 | 82 07 00 00 00 00 02 00 00 01 95 10 00 4D 00 20 00", 1, 0x95, nil, atrBoth},
		{"does not tell", negotiating, t0, get + "IN  81 | 82 00 00 00 00 00 02 40 00 00", 0, 0x95, nil, atrBoth},
		{"tells nothing", negotiating, t0, get + "IN  81 | 82 00 00 00 00 00 02 00 00 01", 0, 0x95, nil, atrBoth},
		{"tells nonsense", negotiating, t0, get + "IN  81 | 82 05 00 00 00 00 02 00 00 0E 95 00 00 0A 00", 0, 0x95, nil, atrBoth},
		{"the card is out", negotiating, t0, get + "IN  81 | 82 00 00 00 00 00 02 42 FE 00", 0, 0x95, reader.ErrNoCard, atrBoth},
		{"the card has no power", negotiating, t0, get + "IN  81 | 82 00 00 00 00 00 02 41 FE 00", 0, 0x95, reader.ErrStale, atrBoth},
		{"PPS by SetParameters", pps, t0, t0set + "IN  81 | 82 05 00 00 00 00 02 00 00 00 95 00 00 0A 00", 0, 0x95, nil, atrBoth},
		{"slower than asked for", pps, t0, t0set + "IN  81 | 82 05 00 00 00 00 02 00 00 00 11 00 00 0A 00", 0, 0x11, nil, atrBoth},
		{"another protocol than asked for", pps, t0, t0set + "IN  81 | 82 07 00 00 00 00 02 00 00 01 95 10 00 4D 00 20 00\n" +
			"OUT 02 | 6C 00 00 00 00 00 03 00 00 00\nIN  81 | 82 07 00 00 00 00 03 00 00 01 95 10 00 4D 00 20 00", 1, 0x95, nil, atrBoth},
		{"refused, and T=1 in force", pps, t0, t0set + "IN  81 | 82 00 00 00 00 00 02 40 00 00\n" +
			"OUT 02 | 6C 00 00 00 00 00 03 00 00 00\nIN  81 | 82 07 00 00 00 00 03 00 00 01 11 10 00 4D 00 20 00", 1, 0x11, nil, atrBoth},
		{"T=1 refused", pps, iso7816.Params{T: 1, TA1: 0x95, BWI: 4, CWI: 13, IFSC: 32}, t1set + "IN  81 | 82 00 00 00 00 00 02 40 00 00", 1, 0x95, reader.ErrUnsupported, atrBoth},
		{"refused, without power", pps, t0, t0set + "IN  81 | 82 00 00 00 00 00 02 41 FE 00", 0, 0x95, reader.ErrStale, atrBoth},
		{"no PPS", fixed, t0, "OUT 02 | 61 05 00 00 00 00 02 00 00 00 11 00 00 0A 00\nIN  81 | 82 05 00 00 00 00 02 00 00 00 11 00 00 0A 00", 0, 0x11, nil, atrBoth},
		{"no PPS, refused", fixed, t0, "OUT 02 | 61 05 00 00 00 00 02 00 00 00 11 00 00 0A 00\nIN  81 | 82 00 00 00 00 00 02 40 FE 00", 0, 0x11, nil, atrBoth},
		{"no PPS, T=1", fixed, iso7816.DefaultParams(1), "", 1, 0x11, reader.ErrUnsupported, atrBoth},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				voltage := "00"
				if tt.cfg.Features&emu.AutoVoltage == 0 {
					voltage = "01"
				}
				script := hello + fmt.Sprintf("OUT 02 | 62 00 00 00 00 00 01 %s 00 00\nIN  81 | 80 %02X 00 00 00 00 01 00 00 00 % X\n", voltage, len(tt.power), tt.power)
				s := opened(t, play(t, tt.cfg, script+tt.wire)).slots[0].(*slot)
				if _, err := s.PowerOn(ctx, reader.Cold); err != nil {
					t.Fatal(err)
				}
				before := s.pace
				got, err := s.SelectProtocol(ctx, tt.want)
				if !errors.Is(err, tt.err) || tt.err == nil && (err != nil || got.T != tt.t || got.TA1 != tt.ta1) {
					t.Errorf("%v, %v; want T=%d TA1=%02X, %v", got, err, tt.t, tt.ta1, tt.err)
				}
				if err == nil && s.pace != before.Slower(s.timing(got)) {
					t.Errorf("pace %v is not that of %v", s.pace, got)
				}
			})
		})
	}
}

// "A protocol is used only where card and reader both have it": dwProtocols.
func TestProtocols(t *testing.T) {
	for _, tt := range []struct {
		cfg  emu.Config
		dw   uint32
		want []int
	}{{emu.TPDUReader(), 1, []int{0}}, {emu.TPDUReader(), 2, []int{1}}, {emu.TPDUReader(), 3, []int{0, 1}}, {emu.TPDUReader(), 0xFFFFFFFF, []int{0, 1}},
		{emu.TPDUReader(), 0x10000, []int{0, 1}}, {emu.ICCDA(), 3, []int{0}}, {emu.ICCDB(), 2, []int{1}}} {
		synctest.Test(t, func(t *testing.T) {
			tt.cfg.Protocols = tt.dw
			l := open(t, newDevice(tt.cfg)).slots[0].(reader.ProtocolLister)
			if got := l.Protocols(); !slices.Equal(got, tt.want) {
				t.Errorf("dwProtocols %08X: %v", tt.dw, got)
			}
		})
	}
}

// Messages that a device can cause at will do not fill the log, for instance 57,000
// reports of a hardware error in 200 ms.
func TestFloodOfTheLog(t *testing.T) {
	for name, msg := range map[string]string{"hardware error": "51 00 00 01", "unknown": "40 01 02", "slot change": "50 03", "stall": ""} {
		synctest.Test(t, func(t *testing.T) {
			var log bytes.Buffer
			e := newDevice(emu.ShortAPDUReader())
			r, err := Driver{Log: slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))}.Open(ctx, reader.Device{Link: e})
			if err != nil {
				t.Fatal(err)
			}
			defer e.Unplug()
			defer r.Close()
			for range 5000 {
				e.Interrupt(unhex(msg))
				if msg == "" {
					e.Interrupt(unhex("50 00")) // one that works, so that the endpoint is never given up
				}
			}
			synctest.Wait()
			time.Sleep(time.Minute)
			synctest.Wait()
			r.Close()
			if n := strings.Count(log.String(), "\n"); n > 30 {
				t.Errorf("%s: %d lines", name, n)
			}
			if name == "hardware error" && !strings.Contains(log.String(), "hardware error") {
				t.Error("nothing was said")
			}
		})
	}
}

// oneAnswer answers every XfrBlock with 90 00 and that bStatus.
type oneAnswer struct {
	usb.Conn
	status byte
	answer []byte
}

func (c *oneAnswer) Out(_ context.Context, _ uint8, p []byte, _ bool, _ time.Duration) (int, error) {
	c.answer = []byte{0x80, 2, 0, 0, 0, p[5], p[6], c.status, 0, 0, 0x90, 0}
	return len(p), nil
}

func (c *oneAnswer) In(_ context.Context, _ uint8, p []byte, _ time.Duration) (int, error) {
	return copy(p, c.answer), nil
}
