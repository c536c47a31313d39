package link

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/cardfs/cardfs/reader"
)

// template is VERIFY with room for a PIN of 8 bytes: 13 bytes, so that LEN is 0D.
var template = []byte{0x00, 0x20, 0x00, 0x01, 0x08, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF}

// PIN commands, which the reader completes: under T=1 below APDU level it gets the prologue
// of the block that carries one and gives the card's block.
func TestPIN(t *testing.T) {
	const before = "> 00 00 05 00 84 00 00 02 83\n< 00 00 02 90 00 92\n"
	for _, tt := range []struct {
		name   string
		level  reader.Level
		script string
		answer string
		err    error
		dead   bool
		next   string // the block of the next command, "": there is none
	}{
		{"T=1: the block's prologue is ours", reader.TPDU, cardT1 + before + `
			verify 00 40 0D
			< 00 40 02 63 C2 E3`, "63 C2", nil, false, "00 00 05 00 84 00 00 02 83"},
		{"T=1: the card may ask for time", reader.TPDU, cardT1 + before + `
			verify 00 40 0D
			< 00 C3 01 02 C0
			> 00 E3 01 02 E0
			< 00 40 02 90 00 D2`, "90 00", nil, false, "00 00 05 00 84 00 00 02 83"},
		{"T=1: its answer may be damaged", reader.TPDU, cardT1 + before + `
			verify 00 40 0D
			< 00 40 02 90 00 D3
			> 00 91 00 91
			< 00 40 02 90 00 D2`, "90 00", nil, false, "00 00 05 00 84 00 00 02 83"},
		{"T=1: or late, which the reader says as an error", reader.TPDU, cardT1 + before + `
			verify 00 40 0D
			! timeout
			> 00 92 00 92
			< 00 40 02 90 00 D2`, "90 00", nil, false, "00 00 05 00 84 00 00 02 83"},
		{"T=1: the block that the card did not get cannot be repeated, as the PIN is not there", reader.TPDU, cardT1 + before + `
			verify 00 40 0D
			< 00 91 00 91`, "", reader.ErrProtocol, true, ""},
		{"T=1: nor after S(RESYNCH)", reader.TPDU, cardT1 + before + `
			verify 00 40 0D
			! timeout
			> 00 92 00 92
			! timeout
			> 00 92 00 92
			! timeout
			> 00 C0 00 C0
			< 00 E0 00 E0`, "", reader.ErrTimeout, false, "00 00 05 00 84 00 00 02 83"},
		{"T=1: no PIN in time: the card knows of no block, and its number is used again", reader.TPDU, cardT1 + before + `
			verify 00 40 0D
			< 64 00`, "64 00", nil, false, "00 40 05 00 84 00 00 02 C3"},
		{"T=1: cancelled", reader.TPDU, cardT1 + before + `
			verify 00 40 0D
			< 64 01`, "64 01", nil, false, "00 40 05 00 84 00 00 02 C3"},
		{"T=1: two bytes that are none of these are no block", reader.TPDU, cardT1 + before + `
			verify 00 40 0D
			< 90 00
			> 00 92 00 92
			< 00 40 02 90 00 D2`, "90 00", nil, false, "00 00 05 00 84 00 00 02 83"},
		{"T=1: two bytes of that kind in a later block are none either", reader.TPDU, cardT1 + before + `
			verify 00 40 0D
			! timeout
			> 00 92 00 92
			< 64 01
			> 00 92 00 92
			< 00 40 02 90 00 D2`, "90 00", nil, false, "00 00 05 00 84 00 00 02 83"},
		{"T=1: a reader that refuses has sent nothing", reader.TPDU, cardT1 + before + `
			verify 00 40 0D
			! invalid`, "", reader.ErrInvalid, false, "00 40 05 00 84 00 00 02 C3"},
		{"T=1: one that cannot do it, too", reader.TPDU, cardT1 + before + `
			verify 00 40 0D
			! unsupported`, "", reader.ErrUnsupported, false, "00 40 05 00 84 00 00 02 C3"},
		{"T=1: the card left", reader.TPDU, cardT1 + before + "verify 00 40 0D\n! no card", "", reader.ErrNoCard, false, ""},
		{"T=1: the reader left", reader.TPDU, cardT1 + before + "verify 00 40 0D\n! gone", "", reader.ErrGone, false, ""},
		{"T=1: the card lost its power", reader.TPDU, cardT1 + before + "verify 00 40 0D\n! stale", "", reader.ErrStale, false, ""},
		{"T=1: the card left after the PIN", reader.TPDU, cardT1 + before + `
			verify 00 40 0D
			! timeout
			> 00 92 00 92
			! no card`, "", reader.ErrNoCard, true, ""},
		{"T=0: there is no prologue", reader.TPDU, cardT0 + "verify 00 00 00\n< 63 C2", "63 C2", nil, false, ""},
		{"APDUs: nor here", reader.ShortAPDU, cardT1 + "verify 00 00 00\n< 63 C2", "63 C2", nil, false, ""},
		{"APDUs: errors are passed on", reader.ShortAPDU, cardT1 + "verify 00 00 00\n! timeout", "", reader.ErrTimeout, false, ""},
		{"a memory card has no PIN commands", reader.Synchronous, "cold\n< A2 13 10 91\n", "", reader.ErrUnsupported, false, ""},
	} {
		for _, modify := range []bool{false, true} {
			name, text := tt.name, tt.script
			if modify {
				name, text = name+", modify", strings.ReplaceAll(text, "verify", "modify")
			}
			if tt.next != "" {
				text += "\n> " + tt.next + "\n! no card"
			}
			t.Run(name, func(t *testing.T) {
				play(t, text, "pin", func(t *testing.T, s *script, l *Link) {
					s.Level, s.IFSD = tt.level, 32
					s.pad = reader.PINSupport{Verify: !modify, Modify: modify}
					powerUp(t, l)
					if strings.Contains(text, before) {
						transmit(t, l, "00 84 00 00 02", "90 00", nil)
					}
					f := reader.PINFormat{APDU: template, Timeout: 9}
					var answer []byte
					var err error
					if modify {
						answer, err = l.ModifyPIN(t.Context(), &reader.PINModify{PINFormat: f})
					} else {
						answer, err = l.VerifyPIN(t.Context(), &reader.PINVerify{PINFormat: f})
					}
					if !errors.Is(err, tt.err) || string(answer) != string(unhex(t, tt.answer)) {
						t.Errorf("% X, %v; want %s, %v", answer, err, tt.answer, tt.err)
					}
					if l.Dead() != tt.dead {
						t.Errorf("dead: %v", l.Dead())
					}
					for _, got := range s.pinned {
						if got.Timeout != 9 || string(got.APDU) != string(template) {
							t.Errorf("the reader got %+v", got)
						}
					}
					if f.Prologue != [3]byte{} {
						t.Errorf("the caller's was changed: %+v", f)
					}
					if tt.next != "" {
						transmit(t, l, "00 84 00 00 02", "", reader.ErrNoCard)
					}
				})
			})
		}
	}
}

// A reader completes one I-block: what needs more, or another before it, is not sent, and
// the next command begins with the same number.
func TestPINNeedsOneBlock(t *testing.T) {
	long := &reader.PINVerify{PINFormat: reader.PINFormat{APDU: append(template[:len(template):len(template)], make([]byte, 20)...)}}
	short := &reader.PINVerify{PINFormat: reader.PINFormat{APDU: append(template[:len(template):len(template)], make([]byte, 19)...)}}
	play(t, cardT1+`
		verify 00 00 20
		< 64 00
		> 00 00 05 00 84 00 00 02 83
		! panic
		> 00 C0 00 C0
		< 00 E0 00 E0
		> 00 00 05 00 84 00 00 02 83
		< 00 00 02 90 00 92`, "pin", func(t *testing.T, s *script, l *Link) {
		s.IFSD, s.pad = 32, reader.PINSupport{Verify: true}
		powerUp(t, l)
		if _, err := l.VerifyPIN(t.Context(), long); !errors.Is(err, reader.ErrUnsupported) || !strings.Contains(err.Error(), "33 bytes") {
			t.Error(err)
		}
		if answer, err := l.VerifyPIN(t.Context(), short); err != nil || string(answer) != "\x64\x00" {
			t.Errorf("% X, %v", answer, err)
		}
		func() {
			defer func() { recover() }()
			l.Transmit(t.Context(), unhex(t, "00 84 00 00 02"), nil)
		}()
		// S(RESYNCH request) comes first now.
		if _, err := l.VerifyPIN(t.Context(), short); !errors.Is(err, reader.ErrUnsupported) {
			t.Error(err)
		}
		transmit(t, l, "00 84 00 00 02", "90 00", nil)
	})
}

// Requests that the PIN pad does not support are refused before it is asked.
func TestPINUnsupported(t *testing.T) {
	play(t, cardT1, "pin", func(t *testing.T, s *script, l *Link) {
		s.IFSD = 32
		powerUp(t, l)
		for _, only := range []reader.PINSupport{{}, {Verify: true}, {Modify: true}} {
			s.pad = only
			f := reader.PINFormat{APDU: template}
			if !only.Verify {
				if _, err := l.VerifyPIN(t.Context(), &reader.PINVerify{PINFormat: f}); !errors.Is(err, reader.ErrUnsupported) {
					t.Errorf("%+v: verify: %v", only, err)
				}
			}
			if !only.Modify {
				if _, err := l.ModifyPIN(t.Context(), &reader.PINModify{PINFormat: f}); !errors.Is(err, reader.ErrUnsupported) {
					t.Errorf("%+v: modify: %v", only, err)
				}
			}
		}
	})
}

// ctx ends the entry. The state of the card is then unknown.
func TestPINEntryEnds(t *testing.T) {
	play(t, cardT1+"verify 00 00 0D\n< 30s 64 00", "pin", func(t *testing.T, s *script, l *Link) {
		s.IFSD, s.pad = 32, reader.PINSupport{Verify: true}
		powerUp(t, l)
		ctx, cancel := context.WithCancelCause(t.Context())
		cancel(reader.ErrAborted)
		if _, err := l.VerifyPIN(ctx, &reader.PINVerify{PINFormat: reader.PINFormat{APDU: template}}); !errors.Is(err, context.Canceled) || !l.Dead() {
			t.Errorf("%v, dead %v", err, l.Dead())
		}
	})
}
