package sim

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cardfs/cardfs/reader"
	"github.com/cardfs/cardfs/reader/core"
)

// The words that keys accepts; no error repeats what may be a PIN.
func TestKeyWords(t *testing.T) {
	for _, x := range []struct{ words, keys, err string }{
		{"1234", "1234\r", ""},
		{"1234-", "1234", ""},
		{"1234 5678 5678", "1234\r5678\r5678\r", ""},
		{"12- clear 1234- ok", "12\b1234\r", ""},
		{"cancel", "\x1b", ""},
		{"", "", "the keys to press must follow"},
		{"-", "", "word 1 is none of digits"},
		{"1234 98765x", "", "word 2 is none of digits"},
		{strings.Repeat("1234567 ", 9), "", "more than 64 keys"},
	} {
		keys, err := keyWords(strings.Fields(x.words))
		if keys != x.keys || (err == nil) != (x.err == "") || err != nil && (!errors.Is(err, reader.ErrInvalid) || !strings.Contains(err.Error(), x.err)) {
			t.Errorf("%s: %q, %v", x.words, keys, err)
		}
		if err != nil && (strings.Contains(err.Error(), "98765") || strings.Contains(err.Error(), "1234567")) {
			t.Errorf("%s: %v", x.words, err)
		}
	}
}

// pad attaches a PIN pad in a bubble of its own time.
func pad(t *testing.T, f func(m *core.Manager, b *core.Slot, by core.Caller)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		m := core.NewManager(core.Options{Drivers: []reader.Driver{New()}})
		defer m.Close(context.Background())
		ctl(t, m, "attach sim pinpad")
		b, by := m.Slot(0), core.Caller{Owner: t, Wait: true}
		if err := b.WaitReady(context.Background(), true); err != nil {
			t.Fatal(err)
		}
		f(m, b, by)
	})
}

// The keypad returns digits until OK, or key codes. It waits 15 s for the first key, unless
// told otherwise, and 5 s for each further one.
func TestInput(t *testing.T) {
	for _, x := range []struct {
		keys string
		in   reader.KeyInput
		want string
		err  error
		took time.Duration
	}{
		{"1234", reader.KeyInput{Max: 8}, "1234", nil, 0},
		{"123456", reader.KeyInput{Max: 4}, "1234", nil, 0},
		{"ok", reader.KeyInput{Max: 4}, "", nil, 0},
		{"12- clear 34", reader.KeyInput{Max: 8}, "34", nil, 0},
		{"12- cancel", reader.KeyInput{Max: 8}, "", reader.ErrCancelled, 0},
		{"", reader.KeyInput{Max: 8}, "", reader.ErrTimeout, 15 * time.Second},
		{"", reader.KeyInput{Max: 8, First: time.Minute}, "", reader.ErrTimeout, time.Minute},
		{"12-", reader.KeyInput{Max: 8}, "", reader.ErrTimeout, 5 * time.Second},
		{"7-", reader.KeyInput{Max: 1, Raw: true}, "\x07", nil, 0},
		{"cancel ok 0-", reader.KeyInput{Max: 3, Raw: true}, "\x0A\x0B\x00", nil, 0},
	} {
		pad(t, func(m *core.Manager, b *core.Slot, by core.Caller) {
			if x.keys != "" {
				ctl(t, m, "sim 0 keys "+x.keys)
			}
			start := time.Now()
			got, err := b.Input(context.Background(), x.in, by)
			if string(got) != x.want || !errors.Is(err, x.err) || time.Since(start) != x.took {
				t.Errorf("%s: %q, %v, after %v", x.keys, got, err, time.Since(start))
			}
		})
	}
}

// status shows the text of the display for as long as it is displayed.
func TestDisplay(t *testing.T) {
	pad(t, func(m *core.Manager, b *core.Slot, by core.Caller) {
		shows := func(want string) {
			t.Helper()
			if got := b.Info().More["display"]; got != want {
				t.Errorf("display %q, want %q", got, want)
			}
		}
		shows("")
		b.Show(context.Background(), "Welcome", 3*time.Second, by)
		shows("Welcome")
		time.Sleep(3 * time.Second)
		shows("")
		b.Show(context.Background(), strings.Repeat("x", 40), 0, by)
		shows(strings.Repeat("x", 32))

		for echo, want := range map[reader.Echo]string{
			reader.EchoNothing: "Amount:", reader.EchoDigits: "Amount: 42", reader.EchoStars: "Amount: **",
		} {
			done := make(chan struct{})
			go func() {
				b.Input(context.Background(), reader.KeyInput{Prompt: "Amount:", Max: 8, Echo: echo}, by)
				close(done)
			}()
			synctest.Wait()
			shows("Amount:")
			ctl(t, m, "sim 0 keys 42-")
			synctest.Wait()
			shows(want)
			ctl(t, m, "sim 0 keys ok")
			<-done
			shows("")
		}
	})
}

// N names the slot, plugged in or not. Cards, and the data written to them, outlive the
// device.
func TestTwoSlots(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := core.NewManager(core.Options{Drivers: []reader.Driver{New()}})
		defer m.Close(context.Background())
		ctl(t, m, "attach sim t1")
		ctl(t, m, "attach sim twoslot")
		for n, atr := range map[int][]byte{1: atrToken, 2: atrT0} {
			if s := open(t, m, n); string(s.ATR()) != string(atr) {
				t.Errorf("slot %d: % X", n, s.ATR())
			}
		}
		ctl(t, m, "sim 2 remove")
		synctest.Wait()
		if a, b := m.Slot(1).Info().State, m.Slot(2).Info().State; a != "powered" || b != "empty" {
			t.Errorf("slots %s, %s", a, b)
		}
		s := open(t, m, 1)
		transmit(t, s, "00D6810002CAFE")
		ctl(t, m, "sim 1 unplug")
		synctest.Wait()
		ctl(t, m, "sim 1 remove")
		ctl(t, m, "sim 2 insert")
		ctl(t, m, "sim 1 insert")
		ctl(t, m, "sim 2 plug")
		synctest.Wait()
		if got := transmit(t, open(t, m, 1), "00B0810002"); got != "CA FE 90 00" {
			t.Error(got)
		}
		if s := open(t, m, 2); string(s.ATR()) != string(atrT0) {
			t.Errorf("% X", s.ATR())
		}
	})
}

// One command may press as many keys as can wait, and not one more. OK is a key.
func TestKeysAhead(t *testing.T) {
	for n, want := range map[int]bool{keysAhead - 1: true, keysAhead: true, keysAhead + 1: false} {
		for _, words := range [][]string{{strings.Repeat("1", n) + "-"}, {strings.Repeat("1", n-1)}, {strings.Repeat("1", n-2), "clear"}} {
			keys, err := keyWords(words)
			if (err == nil) != want || want && len(keys) != n {
				t.Errorf("%d keys in %d words: %d, %v", n, len(words), len(keys), err)
			}
		}
	}
}

// The reader's own text is displayed only while it asks for a PIN. With bNumberMessage 00
// the host's text stays.
func TestAsk(t *testing.T) {
	s := new(padSlot)
	shows := func(want string) {
		t.Helper()
		if got := s.Describe()["display"]; got != want {
			t.Errorf("display %q, want %q", got, want)
		}
	}
	for _, messages := range []byte{1, 2, 0xFF} {
		s.show("Welcome", 0)
		done := s.ask(messages)
		shows("PIN:")
		done()
		shows("")
	}
	s.show("Welcome", 0)
	done := s.ask(0)
	shows("Welcome")
	done()
	shows("Welcome")
}
