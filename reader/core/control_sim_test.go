package core_test

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cardfs/cardfs/drivers/ccid"
	"github.com/cardfs/cardfs/drivers/ccid/emu"
	"github.com/cardfs/cardfs/drivers/sim"
	"github.com/cardfs/cardfs/reader"
	"github.com/cardfs/cardfs/reader/core"
	"github.com/cardfs/cardfs/reader/icc"
)

// control through real drivers, on emulated readers.

const (
	ctlVerify  = 0x42330006
	ctlModify  = 0x42330007
	ctlPINProp = 0x4233000A
	ctlTLV     = 0x42330012
	ctlCCIDEsc = 0x42330013
)

func unhex(s string) []byte {
	b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
	if err != nil {
		panic(err)
	}
	return b
}

// pinpad is a driver of one emulated CCID with keys.
type pinpad struct {
	ccid.Driver
	device *emu.Reader
}

func (d pinpad) Open(ctx context.Context, dev reader.Device) (reader.Reader, error) {
	dev.Link = d.device.Plug()
	return d.Driver.Open(ctx, dev)
}

// pinCard notes each command that reaches it and answers 90 00.
type pinCard struct {
	atr  string
	seen []string
}

func (c *pinCard) ATR() []byte { return unhex(c.atr) }
func (c *pinCard) Reset(bool)  {}
func (c *pinCard) Process(capdu []byte) []byte {
	c.seen = append(c.seen, fmt.Sprintf("%X", capdu))
	return []byte{0x90, 0x00}
}

var _ icc.Card = (*pinCard)(nil)

const (
	atrT1 = "3B 80 81 31 FE 45 8B"
	atrT0 = "3B 00"
)

// PIN_VERIFY and PIN_MODIFY as programs send them, at every level: the card gets the PIN
// once, at its place.
func TestPINDirect(t *testing.T) {
	tpdu := emu.TPDUReader()
	tpdu.PINPad = true
	extended := emu.ExtendedAPDUReader()
	extended.PINPad = true
	const timeout = "1E 00 "
	for _, level := range []struct {
		name   string
		config emu.Config
		atr    string
	}{
		{"TPDU, T=1", tpdu, atrT1}, {"TPDU, T=0", tpdu, atrT0},
		{"short APDU, T=1", emu.PINPadReader(), atrT1}, {"short APDU, T=0", emu.PINPadReader(), atrT0},
		{"extended APDU", extended, atrT1},
	} {
		for _, x := range []struct {
			name         string
			code         uint32
			structure    string
			keys         string
			answer, card string
		}{
			// OpenSC: ASCII, eight bytes padded by the template.
			{"ASCII, padded", ctlVerify, timeout + "82 08 00 08 04 02 FF 09 04 00 00 00 00 0D000000 0020000108 FFFFFFFFFFFFFFFF",
				"1234\r", "9000", "0020000108 31323334FFFFFFFF"},
			// OpenSC: ASCII without padding; bmPINBlockString 00, Lc for the reader to fill in.
			{"ASCII, as long as it is", ctlVerify, timeout + "82 00 00 08 04 02 FF 09 04 00 00 00 00 05000000 0020000100",
				"123456\r", "9000", "0020000106 313233343536"},
			{"ASCII, four bytes of command", ctlVerify, timeout + "82 00 00 08 04 02 FF 09 04 00 00 00 00 04000000 00200001",
				"123456\r", "9000", "0020000106 313233343536"},
			{"BCD", ctlVerify, timeout + "81 08 00 08 04 02 FF 09 04 00 00 00 00 0D000000 0020000108 FFFFFFFFFFFFFFFF",
				"12345\r", "9000", "0020000108 12345FFFFFFFFFFF"},
			{"binary, right-justified", ctlVerify, timeout + "84 06 00 06 04 02 FF 09 04 00 00 00 00 0B000000 0020000106 000000000000",
				"1234\r", "9000", "0020000106 000001020304"},
			// Length in the low half of the first byte, BCD behind it: what programs
			// for identity cards send.
			{"format 2", ctlVerify, timeout + "89 47 04 0C 04 02 FF 07 04 00 00 00 00 0D000000 0020000108 20FFFFFFFFFFFFFF",
				"123456\r", "9000", "0020000108 26123456FFFFFFFF"},
			{"big endian", ctlVerify, timeout + "89 47 04 04 0C 02 FF 04 07 00 00 00 00 0000000D 0020000108 20FFFFFFFFFFFFFF",
				"123456\r", "9000", "0020000108 26123456FFFFFFFF"},
			{"time over", ctlVerify, timeout + "82 08 00 08 04 02 FF 09 04 00 00 00 00 0D000000 0020000108 FFFFFFFFFFFFFFFF",
				"12", "6400", ""},
			{"cancelled", ctlVerify, timeout + "82 08 00 08 04 02 FF 09 04 00 00 00 00 0D000000 0020000108 FFFFFFFFFFFFFFFF",
				"12\x1b", "6401", ""},
			{"modify", ctlModify, timeout + "82 08 00 00 08 08 04 03 02 03 09 04 00 01 02 00 00 00 15000000 0024000110 FFFFFFFFFFFFFFFF FFFFFFFFFFFFFFFF",
				"1234\r567890\r567890\r", "9000", "0024000110 31323334FFFFFFFF 353637383930FFFF"},
			{"modify without the old PIN", ctlModify, timeout + "82 08 00 00 00 08 04 01 02 02 09 04 00 01 00 00 00 00 0D000000 0024010108 FFFFFFFFFFFFFFFF",
				"5678\r5678\r", "9000", "0024010108 35363738FFFFFFFF"},
			{"modify, format 2", ctlModify, timeout + "89 47 04 00 08 0C 04 03 02 03 07 04 00 01 02 00 00 00 15000000 0024000110 20FFFFFFFFFFFFFF 20FFFFFFFFFFFFFF",
				"1234\r567890\r567890\r", "9000", "0024000110 241234FFFFFFFFFF 26567890FFFFFFFF"},
			{"the new PINs differ", ctlModify, timeout + "82 08 00 00 08 08 04 03 02 03 09 04 00 01 02 00 00 00 15000000 0024000110 FFFFFFFFFFFFFFFF FFFFFFFFFFFFFFFF",
				"1234\r5678\r5679\r", "6402", ""},
		} {
			t.Run(level.name+"/"+x.name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					e := emu.New(level.config)
					card := &pinCard{atr: level.atr}
					e.Contact(0).Insert(card)
					m := core.NewManager(core.Options{Drivers: []reader.Driver{pinpad{device: e}}})
					defer m.Close(context.Background())
					if err := m.Announce(reader.Device{Driver: "ccid", Address: "pad"}); err != nil {
						t.Fatal(err)
					}
					b, by := m.Slot(0), core.Caller{Owner: t, Wait: true}
					s, err := b.Open(context.Background(), by)
					if err != nil {
						t.Fatal(err)
					}
					trace := b.FollowTrace()
					defer b.CloseTrace(trace)
					send := func(capdu, want string) {
						t.Helper()
						if got, err := s.Transmit(context.Background(), unhex(capdu), nil); fmt.Sprintf("%X", got) != want || err != nil {
							t.Errorf("%s: % X, %v", capdu, got, err)
						}
					}
					send("00A4000000", "9000")
					e.Press(0, x.keys)
					got, err := b.Control(context.Background(), x.code, unhex(x.structure), by)
					if fmt.Sprintf("%X", got) != x.answer || err != nil {
						t.Errorf("% X, %v", got, err)
					}
					send("00A4000C00", "9000")
					want := strings.ReplaceAll(x.card, " ", "")
					if want != "" && level.name == "TPDU, T=0" {
						want += "00" // the emulated T=0 card cannot know that Le was absent
					}
					var seen []string
					for _, c := range card.seen {
						if !strings.HasPrefix(c, "00A4") {
							seen = append(seen, c)
						}
					}
					if strings.Join(seen, " ") != want {
						t.Errorf("the card got %q, want %s", seen, want)
					}
					for _, ok := "", true; ok; {
						var line string
						if line, _, ok, _ = trace.TryNext(); strings.Contains(line, "31 32") || strings.Contains(line, "12 34") || strings.Contains(line, "FF FF FF") {
							t.Error(line)
						}
					}
				})
			})
		}
	}
}

// GET_FEATURE_REQUEST lists the features of each simulated reader, and each feature answers.
func TestFeatures(t *testing.T) {
	const tlv, esc, pin = 0x12, 0x13, "06 07 0A"
	want := map[string]string{
		"ccid": "12 13", "ccid-char": "12 13", "ccid-short": "12 13", "ccid-ext": "12 13", "twoslot": "12 13", "acr39": "12 13", "ccid-serial": "12 13", "cm4040": "12 13", "pinpad": pin + " 12 13",
		"kaan": "06 0A 12", "cyberjack": "06 0A 12", // they cannot change a PIN
	}
	for _, model := range sim.Devices() {
		t.Run(model, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := core.NewManager(core.Options{Drivers: []reader.Driver{sim.New()}})
				defer m.Close(context.Background())
				if err := m.Attach("sim", model, nil); err != nil {
					t.Fatal(err)
				}
				b, by := m.Slot(0), core.Caller{Owner: t, Wait: true, Escape: true}
				if err := b.WaitReady(context.Background(), true); err != nil {
					t.Fatal(err)
				}
				ask := func(code uint32, data []byte) ([]byte, error) {
					return b.Control(context.Background(), code, data, by)
				}
				list, err := ask(core.CtlGetFeatures, nil)
				if err != nil || len(list)%6 != 0 {
					t.Fatalf("% X, %v", list, err)
				}
				var tags []byte
				for f := list; len(f) > 0; f = f[6:] {
					tags = append(tags, f[0])
					if !bytes.Equal(f[1:6], []byte{4, 0x42, 0x33, 0, f[0]}) {
						t.Errorf("% X", f[:6])
					}
				}
				expect := want[model]
				if expect == "" {
					expect = "12"
				}
				if got := fmt.Sprintf("% X", tags); got != expect {
					t.Errorf("features %s, want %s", got, expect)
				}
				if p, err := ask(ctlTLV, nil); err != nil || len(p) == 0 {
					t.Errorf("TLV properties % X, %v", p, err)
				}
				has := func(f byte) bool { return bytes.IndexByte(tags, f) >= 0 }
				if p, err := ask(ctlPINProp, nil); has(0x0A) != (err == nil) || err != nil && !errors.Is(err, reader.ErrUnsupported) {
					t.Errorf("PIN properties % X, %v", p, err)
				}
				for _, code := range []uint32{core.CtlEscape, ctlCCIDEsc} {
					// The emulator's escape is an echo, but for the serial reader's, which has other
					// commands there.
					answer, err := ask(code, []byte{1, 2, 3})
					if model == "ccid-serial" && err == nil {
						continue
					}
					if has(esc) && (err != nil || !bytes.Equal(answer, []byte{1, 2, 3})) || !has(esc) && !errors.Is(err, reader.ErrUnsupported) {
						t.Errorf("escape % X, %v", answer, err)
					}
				}
				// "escape commands are the owner's alone. Without it the refusal says so in words."
				by.Escape = false
				for _, code := range []uint32{core.CtlEscape, ctlCCIDEsc} {
					if answer, err := ask(code, []byte{1, 2, 3}); !errors.Is(err, reader.ErrNoPermission) || !strings.Contains(err.Error(), "--allow-escape") {
						t.Errorf("escape by another user: % X, %v", answer, err)
					}
				}
				if theirs, err := ask(core.CtlGetFeatures, nil); err != nil || has(esc) && !bytes.Equal(theirs, list[:len(list)-6]) || !has(esc) && !bytes.Equal(theirs, list) {
					t.Errorf("features for another user: % X, %v", theirs, err)
				}
				if state := b.Info().State; state != "present" {
					t.Errorf("the card is %s: none of it concerns it", state)
				}
			})
		})
	}
}

// A PIN entry that waits for keys ends at once when the reader leaves. When the daemon leaves,
// it ends after the grace period.
func TestEntryEnds(t *testing.T) {
	verify := unhex("3C 00 82 08 00 08 04 02 FF 09 04 00 00 00 00 0D000000 0020000108 FFFFFFFFFFFFFFFF")
	entries := map[string]func(b *core.Slot, by core.Caller) error{
		"PIN": func(b *core.Slot, by core.Caller) error {
			_, err := b.Control(context.Background(), ctlVerify, verify, by)
			return err
		},
		"input": func(b *core.Slot, by core.Caller) error {
			_, err := b.Input(context.Background(), reader.KeyInput{Max: 8, First: time.Minute}, by)
			return err
		},
	}
	for name, entry := range entries {
		for _, x := range []struct {
			name string
			end  func(m *core.Manager)
			took time.Duration
		}{
			{"unplugged", func(m *core.Manager) { m.CommandDriver("sim", 0, []string{"unplug"}) }, 0},
			{"detached", func(m *core.Manager) { m.Detach(0) }, 0},
			{"closed", func(m *core.Manager) {
				ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
				defer cancel()
				m.Close(ctx)
			}, 2 * time.Second},
		} {
			t.Run(name+" "+x.name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					m := core.NewManager(core.Options{Drivers: []reader.Driver{sim.New()}})
					defer m.Close(context.Background())
					m.Attach("sim", "pinpad", nil)
					b, by := m.Slot(0), core.Caller{Owner: t, Wait: true}
					if _, err := b.Open(context.Background(), by); err != nil {
						t.Fatal(err)
					}
					done := make(chan error)
					go func() { done <- entry(b, by) }()
					synctest.Wait()
					start := time.Now()
					go x.end(m)
					if err := <-done; !errors.Is(err, reader.ErrGone) || time.Since(start) != x.took {
						t.Errorf("%v, after %v", err, time.Since(start))
					}
				})
			})
		}
	}
}
