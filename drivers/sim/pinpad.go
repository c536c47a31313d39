package sim

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/cardfs/cardfs/drivers/ccid/emu"
	"github.com/cardfs/cardfs/reader"
)

// keys is an emulated PIN pad.
type keys interface {
	HasKeys() bool
	// Press presses keys of a slot. Key waits for one, for the host rather than for the
	// reader's own PIN entry.
	Press(slot int, keys string)
	Key(ctx context.Context, slot int) (byte, error)
}

// keyboard is hardware that may have keys. press returns false if it has none.
type keyboard interface {
	press(slot int, keys string) bool
}

// keyWords reads the arguments of `keys`. Its errors do not repeat them: they may be a
// PIN.
func keyWords(words []string) (string, error) {
	const what = "digits (then OK; 12- without OK), ok, cancel or clear"
	if len(words) == 0 {
		return "", invalid("the keys to press must follow: %s", what)
	}
	var keys strings.Builder
	for i, w := range words {
		switch w {
		case "ok":
			keys.WriteByte(emu.KeyOK)
			continue
		case "cancel":
			keys.WriteByte(emu.KeyCancel)
			continue
		case "clear":
			keys.WriteByte(emu.KeyClear)
			continue
		}
		digits, open := strings.CutSuffix(w, "-")
		if digits == "" || strings.Trim(digits, "0123456789") != "" {
			return "", invalid("word %d is none of %s", i+1, what)
		}
		keys.WriteString(digits)
		if !open {
			keys.WriteByte(emu.KeyOK)
		}
	}
	if keys.Len() > keysAhead {
		return "", invalid("more than %d keys at once", keysAhead)
	}
	return keys.String(), nil
}

// keysAhead is the number of keys that can be pressed before the reader asks for them.
const keysAhead = 64

// The display of emu.PINPadReader.
const displaySize = 2 * 16

// padReader is a CCID PIN pad whose display and keys the host may use, too. The class has
// no messages for that.
type padReader struct {
	reader.Reader
	reader.Identifier
	slots []reader.Slot
}

func newPadReader(r reader.Reader, e keys) *padReader {
	p := &padReader{Reader: r, Identifier: r.(reader.Identifier)}
	for n, s := range r.Slots() {
		pad, _ := reader.As[reader.PINPad](s)
		p.slots = append(p.slots, &padSlot{Slot: s, pad: pad, emulator: e, gone: r.Gone(), number: n})
	}
	return p
}

func (p *padReader) Slots() []reader.Slot { return p.slots }

// padSlot is a slot of driver ccid with a display and a keypad beside its PIN pad.
type padSlot struct {
	reader.Slot
	pad      reader.PINPad // the slot's own
	emulator keys
	gone     <-chan struct{} // closed when the reader leaves
	number   int

	mu    sync.Mutex
	text  string    // on the display
	until time.Time // zero: for ever
}

var (
	_ reader.Display   = (*padSlot)(nil)
	_ reader.Keypad    = (*padSlot)(nil)
	_ reader.PINPad    = (*padSlot)(nil)
	_ reader.Describer = (*padSlot)(nil)
)

// Unwrap shows what else a slot of driver ccid can do.
func (s *padSlot) Unwrap() reader.Slot { return s.Slot }

// PINSupport returns that of the PIN pad.
func (s *padSlot) PINSupport() reader.PINSupport { return s.pad.PINSupport() }

// Show shows text, cut to the size of the display.
func (s *padSlot) Show(_ context.Context, text string, d time.Duration) error {
	select {
	case <-s.gone:
		return fmt.Errorf("display: %w", reader.ErrGone)
	default:
	}
	s.show(text, d)
	return nil
}

func (s *padSlot) show(text string, d time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.text, s.until = text[:min(len(text), displaySize)], time.Time{}
	if d > 0 {
		s.until = time.Now().Add(d)
	}
}

// Describe returns `display`, unless the display is empty.
func (s *padSlot) Describe() map[string]string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.text == "" || !s.until.IsZero() && !time.Now().Before(s.until) {
		return nil
	}
	return map[string]string{"display": s.text}
}

const (
	firstKey = 15 * time.Second // by default
	nextKey  = 5 * time.Second  // as REINER SCT's terminals allow
)

// Input reads digits until OK, or raw key codes.
func (s *padSlot) Input(ctx context.Context, in reader.KeyInput) ([]byte, error) {
	const codeCancel, codeOK = 0x0A, 0x0B
	prompt := in.Prompt
	if prompt == "" {
		prompt = "Input:"
	}
	defer s.show("", 0)
	var keys []byte
	for wait := in.First; ; wait = nextKey {
		if wait <= 0 {
			wait = firstKey
		}
		s.show(prompt+echoed(in.Echo, keys), 0)
		k, err := s.key(ctx, wait)
		if err != nil {
			return nil, err
		}
		digit := k >= '0' && k <= '9'
		switch {
		case in.Raw && digit:
			keys = append(keys, k-'0')
		case in.Raw && k == emu.KeyCancel:
			keys = append(keys, codeCancel)
		case in.Raw && k == emu.KeyOK:
			keys = append(keys, codeOK)
		case in.Raw:
		case k == emu.KeyOK:
			return keys, nil
		case k == emu.KeyCancel:
			return nil, fmt.Errorf("input: %w", reader.ErrCancelled)
		case k == emu.KeyClear:
			keys = nil
		case digit && len(keys) < in.Max:
			keys = append(keys, k)
		}
		if in.Raw && len(keys) >= in.Max {
			return keys, nil
		}
	}
}

// key waits for one key.
func (s *padSlot) key(ctx context.Context, wait time.Duration) (byte, error) {
	timed, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	k, err := s.emulator.Key(timed, s.number)
	if err != nil && timed.Err() != nil && ctx.Err() == nil {
		err = fmt.Errorf("input: no key within %v: %w", wait, reader.ErrTimeout)
	}
	return k, err
}

func echoed(how reader.Echo, keys []byte) string {
	switch {
	case len(keys) == 0 || how == reader.EchoNothing:
		return ""
	case how == reader.EchoStars:
		return " " + strings.Repeat("*", len(keys))
	}
	return " " + string(keys)
}

// VerifyPIN shows a prompt during the entry, but nothing of the PIN.
func (s *padSlot) VerifyPIN(ctx context.Context, v *reader.PINVerify, dst []byte) ([]byte, error) {
	defer s.ask(v.Messages)()
	return s.pad.VerifyPIN(ctx, v, dst)
}

func (s *padSlot) ModifyPIN(ctx context.Context, m *reader.PINModify, dst []byte) ([]byte, error) {
	defer s.ask(m.Messages)()
	return s.pad.ModifyPIN(ctx, m, dst)
}

// ask shows the reader's own text. With bNumberMessage 00 the host uses the display.
func (s *padSlot) ask(messages byte) (done func()) {
	if messages == 0 {
		return func() {}
	}
	s.show("PIN:", 0)
	return func() { s.show("", 0) }
}
