package link

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
	"unicode"

	"github.com/cardfs/cardfs/reader"
	"github.com/cardfs/cardfs/reader/iso7816"
)

// script is a slot that follows lines of text: what a Link must ask of it, in this
// order, and below each what comes of it. A semicolon begins a comment.
//
//	cold, warm, off, status      the slot's methods of these names
//	> 00 C1 01 FE 3E [+3]        Exchange, with as many characters wanted
//	set T=1 TA1=95               SetParams
//	select T=1 TA1=95            SelectProtocol
//	verify 00 00 05              the PIN pad, with the prologue of a block
//	modify 00 00 05
//
//	< 3B 00                      bytes: ATR, PPS response, block, R-APDU
//	< 3m 60                      the same, after three minutes
//	< --                         silence for as long as the Link waits
//	< T=0 TA1=11                 what SelectProtocol chose
//	< powered                    a Status
//	! no card                    an error, see faults
//	! 00 00 05 gone              the same after some bytes
type script struct {
	t     *testing.T
	lines []string
	reader.Traits
	pad    reader.PINSupport
	chosen []byte // TA1 of the rates that the reader has; nil: all
	speaks []int
	waited []reader.Transfer // what was asked for beside the bytes
	memory [][]byte          // where the bytes were, of both ways
	pinned []reader.PINFormat
}

var faults = map[string]error{
	"timeout":     reader.ErrTimeout,
	"protocol":    reader.ErrProtocol,
	"gone":        reader.ErrGone,
	"no card":     reader.ErrNoCard,
	"mute":        reader.ErrMute,
	"stale":       reader.ErrStale,
	"unsupported": reader.ErrUnsupported,
	"invalid":     reader.ErrInvalid,
	"parity":      errors.New("parity error"),
	"panic":       nil,
}

func newScript(t *testing.T, text string) *script {
	s := &script{t: t, Traits: reader.Traits{Level: reader.TPDU}}
	for l := range strings.Lines(text) {
		l, _, _ = strings.Cut(l, ";")
		if l = strings.TrimSpace(l); l != "" {
			s.lines = append(s.lines, l)
		}
	}
	return s
}

// end reports lines that were not played.
func (s *script) end() {
	s.t.Helper()
	if len(s.lines) > 0 {
		s.t.Errorf("the script goes on with %q", s.lines)
	}
}

// next takes the line that must be there now, and the answer below it, "" if none.
func (s *script) next(format string, args ...any) (answer string, err error) {
	s.t.Helper()
	got := strings.TrimSpace(fmt.Sprintf(format, args...))
	if len(s.lines) == 0 || s.lines[0] != got {
		s.t.Errorf("asked for %q, the script is at %q", got, s.lines[:min(1, len(s.lines))])
		return "", reader.ErrGone
	}
	s.lines = s.lines[1:]
	if len(s.lines) == 0 || !strings.ContainsAny(s.lines[0][:1], "<!") {
		return "", nil
	}
	answer, s.lines = s.lines[0], s.lines[1:]
	if what, ok := strings.CutPrefix(answer, "! "); ok {
		n := strings.IndexFunc(what, unicode.IsLower)
		fault, ok := faults[what[n:]]
		switch {
		case !ok:
			s.t.Errorf("no such fault: %q", what)
		case fault == nil:
			panic(what)
		}
		return what[:n], fmt.Errorf("the script's: %w", fault)
	}
	return strings.TrimPrefix(answer, "< "), nil
}

func (s *script) Status(context.Context) (reader.Status, error) {
	answer, err := s.next("status")
	if answer == "powered" {
		return reader.Powered, err
	}
	return reader.Present, err
}

func (s *script) PowerOn(ctx context.Context, how reader.Reset) ([]byte, error) {
	answer, err := s.next("%v", how)
	if err == nil {
		return s.bytes(ctx, answer, 0, nil)
	}
	return nil, err
}

func (s *script) PowerOff(context.Context) error {
	_, err := s.next("off")
	return err
}

func (s *script) Exchange(ctx context.Context, x reader.Transfer, dst []byte) ([]byte, error) {
	line := ">"
	if len(x.Out) > 0 {
		line += fmt.Sprintf(" % X", x.Out)
	}
	if x.Want > 0 {
		line += fmt.Sprintf(" +%d", x.Want)
	}
	s.memory = append(s.memory, x.Out[:len(x.Out):len(x.Out)], dst[:cap(dst)])
	x.Out = nil
	s.waited = append(s.waited, x)
	answer, err := s.next("%s", line)
	if err != nil {
		return append(dst, unhex(s.t, answer)...), err
	}
	return s.bytes(ctx, answer, x.Wait, dst)
}

// bytes appends what an answer says to dst. Time passes as it says, until ctx ends.
func (s *script) bytes(ctx context.Context, answer string, wait time.Duration, dst []byte) ([]byte, error) {
	first, rest, _ := strings.Cut(answer, " ")
	after, err := time.ParseDuration(first)
	switch {
	case answer == "--":
		after = wait
	case err == nil && strings.ContainsAny(first, "msh"):
		answer = rest
	default:
		after = 0
	}
	if after > 0 {
		select {
		case <-time.After(after):
		case <-ctx.Done():
			return dst, ctx.Err()
		}
	}
	if answer == "--" {
		return dst, fmt.Errorf("silence: %w", reader.ErrTimeout)
	}
	if ctx.Err() != nil {
		return dst, ctx.Err()
	}
	b := unhex(s.t, answer)
	for i := range b { // as drivers may that read in pieces
		dst = append(dst, b[i:i+1]...)
	}
	return dst, nil
}

func (s *script) SetParams(_ context.Context, p iso7816.Params) error {
	_, err := s.next("set T=%d TA1=%02X", p.T, p.TA1)
	return err
}

func (s *script) SelectProtocol(_ context.Context, p iso7816.Params) (iso7816.Params, error) {
	answer, err := s.next("select T=%d TA1=%02X", p.T, p.TA1)
	if err == nil && answer != "" {
		if _, err := fmt.Sscanf(answer, "T=%d TA1=%X", &p.T, &p.TA1); err != nil {
			s.t.Errorf("%q: %v", answer, err)
		}
	}
	return p, err
}

func (s *script) Supports(ta1 byte) bool { return s.chosen == nil || slices.Contains(s.chosen, ta1) }
func (s *script) Protocols() []int       { return s.speaks }

func (s *script) PINSupport() reader.PINSupport { return s.pad }

func (s *script) VerifyPIN(ctx context.Context, v *reader.PINVerify, dst []byte) ([]byte, error) {
	return s.pin(ctx, "verify", v.PINFormat, dst)
}

func (s *script) ModifyPIN(ctx context.Context, m *reader.PINModify, dst []byte) ([]byte, error) {
	return s.pin(ctx, "modify", m.PINFormat, dst)
}

func (s *script) pin(ctx context.Context, how string, f reader.PINFormat, dst []byte) ([]byte, error) {
	s.pinned = append(s.pinned, f)
	s.memory = append(s.memory, dst[:cap(dst)])
	answer, err := s.next("%s % X", how, f.Prologue)
	if err != nil {
		return dst, err
	}
	return s.bytes(ctx, answer, time.Second, dst)
}

// Traits is a method, too.
type slot struct{ *script }

func (s slot) Traits() reader.Traits { return s.script.Traits }

func unhex(t *testing.T, text string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.ReplaceAll(text, " ", ""))
	if err != nil {
		t.Errorf("%q: %v", text, err)
	}
	return b
}

// lines is a trace with a reader.
type lines []string

func (l *lines) On() bool                          { return true }
func (l *lines) Printf(format string, args ...any) { *l = append(*l, fmt.Sprintf(format, args...)) }

// features are optional interfaces of a script by name: "set", "select", "rates", "list",
// "pin".
func (s *script) features(names string) (f reader.Features) {
	for name := range strings.FieldsSeq(names) {
		switch name {
		case "set":
			f.ParamSetter = s
		case "select":
			f.ProtocolSelector = s
		case "rates":
			f.RateLimiter = s
		case "list":
			f.ProtocolLister = s
		case "pin":
			f.PINPad = s
		default:
			s.t.Errorf("no such feature: %q", name)
		}
	}
	return f
}

// play runs f in a bubble with a link to the slot of a script, which f has to use up.
// The script's Traits and what c says can still be changed in f, before the first call.
func play(t *testing.T, text, features string, f func(t *testing.T, s *script, l *Link)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		s := newScript(t, text)
		f(t, s, New(Config{Slot: slot{s}, Features: s.features(features)}))
		s.end()
	})
}

// powerUp activates the card, for tests of something else.
func powerUp(t *testing.T, l *Link) {
	t.Helper()
	if err := l.PowerUp(t.Context(), reader.Cold, -1); err != nil {
		t.Fatal(err)
	}
}

// transmit exchanges a C-APDU, and wants an R-APDU or an error.
func transmit(t *testing.T, l *Link, capdu, want string, fault error) {
	t.Helper()
	answer, err := l.Transmit(t.Context(), unhex(t, capdu), []byte("before"))
	if !errors.Is(err, fault) {
		t.Fatalf("%s: error %v, want %v", capdu, err, fault)
	}
	if want = "before" + string(unhex(t, want)); err == nil && string(answer) != want {
		t.Errorf("%s: % X, want % X", capdu, answer, want)
	}
}
