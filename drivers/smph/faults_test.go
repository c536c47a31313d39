package smph

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cardfs/cardfs/drivers/bus/serial/faulttest"
	"github.com/cardfs/cardfs/drivers/bus/serial/serialtest"
	"github.com/cardfs/cardfs/drivers/smph/emu"
	"github.com/cardfs/cardfs/reader"
	"github.com/cardfs/cardfs/reader/icc"
	"github.com/cardfs/cardfs/reader/readertest"
)

// counting is a card that keeps the commands that reach it.
type counting struct {
	card
	got *[]string
}

func (c counting) Process(p []byte) []byte {
	*c.got = append(*c.got, fmt.Sprintf("%X", p))
	return c.card.Process(p)
}

// session opens the interface, resets the card and sends two commands.
func session(p *serialtest.Plugged, params string) (answers [][]byte, err error) {
	r, err := Driver{}.Open(context.Background(), device(p, params))
	if err != nil {
		return nil, err
	}
	defer r.Close()
	s := r.Slots()[0]
	if _, err := s.Status(context.Background()); err != nil {
		return nil, err
	}
	l := newLink(s)
	if err := l.PowerUp(context.Background(), reader.Cold, -1); err != nil {
		return nil, err
	}
	for _, c := range [][]byte{selectMF, append(unhex("00 EE 00 00 0A"), pattern(10)...)} {
		got, err := l.Transmit(context.Background(), c, nil)
		if err != nil {
			return answers, err
		}
		answers = append(answers, got)
	}
	return answers, nil
}

// "A command is never sent twice": whatever happens to any character of a whole session, there
// and back, each command is answered rightly or fails with one of package reader's errors, soon,
// and reaches the card once at most. A reset then helps. T=1 mends what it can.
//
// A card with T=0 has no sum over what it sends: another character with right parity is
// another answer.
func TestFaults(t *testing.T) {
	for _, c := range []card{readertest.Plain, readertest.Fast, readertest.Inverse, readertest.Block, readertest.Dual, readertest.Quick} {
		want := [][]byte{unhex("90 00"), append(pattern(10), 0x90, 0x00)}
		blocks := c == readertest.Block || c == readertest.Quick
		if !blocks {
			want[1] = unhex("61 0A") // case 3
		}
		var sent [2]int
		run := func(t *testing.T, f ...serialtest.Fault) {
			what := fmt.Sprintf("%s: %v", c, f)
			var got []string
			e := newInterface(t, emu.Config{}, counting{c, &got})
			p := serialtest.Plug(e)
			p.Inject(f...)
			start := time.Now()
			answers, err := session(p, "")
			sent[0], sent[1] = p.Sent()
			p.Unplug()
			if took := time.Since(start); took > 4*time.Minute {
				t.Errorf("%s: it took %v", what, took)
			}
			changed := len(f) > 0 && !blocks && f[0].Kind != serialtest.Parity
			for i, a := range answers {
				if !bytes.Equal(a, want[i]) && !changed {
					t.Errorf("%s: % X", what, a)
				}
			}
			seen := map[string]int{}
			for _, cmd := range got {
				if seen[cmd]++; seen[cmd] > 1 {
					t.Errorf("%s: the card had a command twice", what)
				}
			}
			hungUp := len(f) > 0 && f[0].Kind == serialtest.HangUp
			switch {
			case hungUp != errors.Is(err, reader.ErrGone):
				t.Errorf("%s: %v", what, err)
			case err == nil && len(answers) != 2:
				t.Errorf("%s: %d answers", what, len(answers))
			case err != nil && !hungUp && !errors.Is(err, reader.ErrTimeout) && !errors.Is(err, reader.ErrProtocol) && !errors.Is(err, reader.ErrMute):
				t.Errorf("%s: %v", what, err)
			case err != nil && len(f) > 0 && blocks && f[0].Kind != serialtest.HangUp && f[0].Kind != serialtest.Silence:
				t.Errorf("%s is not mended: %v", what, err)
			}
			got = nil
			p = serialtest.Plug(e)
			if answers, err := session(p, ""); err != nil || !bytes.Equal(answers[1], want[1]) {
				t.Errorf("%s: then %v", what, err)
			}
			p.Unplug()
		}
		synctest.Test(t, func(t *testing.T) { run(t) })
		faulttest.Everywhere(t, sent[0], sent[1], func(t *testing.T, f serialtest.Fault) { run(t, f) })
	}
}

// connected is a slot whose card was reset.
func connected(t *testing.T, r rig, c icc.Card) (*emu.Interface, *serialtest.Plugged, *slot) {
	t.Helper()
	e := newInterface(t, r.Config, c)
	p := serialtest.Plug(e)
	t.Cleanup(p.Unplug)
	s := open(t, p, r.params)
	if _, err := s.PowerOn(t.Context(), reader.Cold); err != nil {
		t.Fatal(err)
	}
	return e, p, s
}

// The echo "of every sent byte is checked and removed": one that is missing, late, not ours, or of
// wrong parity ends the exchange with an error that says so, and tells nothing of the command.
func TestEcho(t *testing.T) {
	for _, c := range []card{readertest.Plain, readertest.Inverse} {
		for _, x := range []struct {
			kind serialtest.FaultKind
			want string
			is   error
		}{
			{serialtest.Lose, "", reader.ErrProtocol},
			{serialtest.Double, "echo: it is not what was sent", reader.ErrProtocol},
			{serialtest.Change, "echo: it is not what was sent", reader.ErrProtocol},
			{serialtest.Noise, "echo: it is not what was sent", reader.ErrProtocol},
			{serialtest.Parity, "echo: line: read: wrong parity", reader.ErrProtocol},
			{serialtest.Silence, "echo: no more came", reader.ErrTimeout},
		} {
			for at := range 4 {
				synctest.Test(t, func(t *testing.T) {
					_, p, s := connected(t, rig{}, c)
					_, from := p.Sent()
					p.Inject(serialtest.Fault{ToHost: true, At: from + at, Kind: x.kind})
					start := time.Now()
					got, err := s.Exchange(t.Context(), reader.Transfer{Out: unhex("80 11 22 33 44"), Want: 1, Wait: 10 * time.Second}, []byte("x"))
					if !errors.Is(err, x.is) || !strings.Contains(fmt.Sprint(err), "smph /dev/ttyS0: "+x.want) || string(got) != "x" {
						t.Errorf("%v of %d: % X, %v", x.kind, at, got, err)
					}
					if took := time.Since(start); took > 2*time.Second {
						t.Errorf("%v of %d: it took %v", x.kind, at, took)
					}
					if text := fmt.Sprint(err); strings.ContainsAny(strings.ReplaceAll(text, "/dev/ttyS0", ""), "0123456789") {
						t.Errorf("%v tells more than it may: %v", x.kind, err)
					}
				})
			}
		}
	}
	// An interface without an echo is none.
	synctest.Test(t, func(t *testing.T) {
		_, _, s := connected(t, rig{Config: emu.Config{NoEcho: true}}, readertest.Plain)
		_, err := s.Exchange(t.Context(), reader.Transfer{Out: challenge, Want: 1, Wait: 10 * time.Second}, nil)
		if !errors.Is(err, reader.ErrProtocol) && !errors.Is(err, reader.ErrTimeout) {
			t.Error(err)
		}
	})
}

// What came before a command belongs to something else, and is dropped.
func TestStrays(t *testing.T) {
	for _, c := range []card{readertest.Plain, readertest.Inverse, readertest.Block} {
		synctest.Test(t, func(t *testing.T) {
			e := newInterface(t, emu.Config{}, c)
			p := serialtest.Plug(e)
			defer p.Unplug()
			s := open(t, p, "")
			p.Line().Send(0x3B, 0x00)
			l := newLink(s)
			powerUp(t, l, -1)
			if !bytes.Equal(l.ATR().Bytes(), c.ATR()) {
				t.Errorf("% X", l.ATR().Bytes())
			}
			for range 3 {
				p.Line().Send(0x90, 0x00, 0x11)
				transmit(t, l, challenge, response)
			}
		})
	}
}

// An answer is waited for as long as Wait and CharWait say, from the last echo and the last
// character, and what did not come is counted.
func TestWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, p, s := connected(t, rig{}, readertest.Plain)
		e.Contact.SetFaults(icc.Faults{Mute: true})
		for _, wait := range []time.Duration{time.Second, 1900 * time.Millisecond, time.Minute} {
			start := time.Now()
			_, err := s.Exchange(t.Context(), reader.Transfer{Out: challenge, Want: 1, Wait: wait, CharWait: time.Second}, nil)
			if took := time.Since(start); !errors.Is(err, reader.ErrTimeout) || took < wait || took > wait+cardLook+time.Millisecond || !strings.Contains(err.Error(), "0 of 1") {
				t.Errorf("%v after %v, want %v", err, took, wait)
			}
		}
		// Characters with pauses.
		for _, pause := range []time.Duration{0, 900 * time.Millisecond, 1500 * time.Millisecond} {
			go func() {
				for i := range 4 {
					time.Sleep(pause)
					p.Line().Send(byte(i))
				}
			}()
			got, err := s.Exchange(t.Context(), reader.Transfer{Want: 4, Wait: 2 * time.Second, CharWait: time.Second}, nil)
			if pause > time.Second {
				if !errors.Is(err, reader.ErrTimeout) || !strings.Contains(err.Error(), "1 of 4") {
					t.Errorf("% X, %v", got, err)
				}
			} else if err != nil || !bytes.Equal(got, unhex("00 01 02 03")) {
				t.Errorf("% X, %v", got, err)
			}
			time.Sleep(10 * time.Second)
		}
	})
}

// A card with wrong parity in what it sends is heard to the end first: in T=1 the host must not send
// into the rest of a block.
func TestParityInAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, p, s := connected(t, rig{}, readertest.Plain)
		go func() {
			p.Line().Send(1)
			p.Line().SendWrong(2)
			for i := range 3 {
				time.Sleep(100 * time.Millisecond)
				p.Line().Send(byte(i))
			}
		}()
		start := time.Now()
		got, err := s.Exchange(t.Context(), reader.Transfer{Want: 5, Wait: 2 * time.Second, CharWait: time.Second}, nil)
		if took := time.Since(start); len(got) > 0 || !errors.Is(err, reader.ErrProtocol) || !strings.Contains(err.Error(), "receive: line: read: wrong parity") || took != 300*time.Millisecond {
			t.Errorf("% X, %v after %v", got, err, took)
		}
	})
}

// Nothing of a command or an answer stays in the driver.
func TestWipe(t *testing.T) {
	for _, c := range []card{readertest.Plain, readertest.Inverse} {
		for _, mute := range []bool{false, true} {
			synctest.Test(t, func(t *testing.T) {
				e, _, s := connected(t, rig{}, c)
				for i := range s.in[:33] {
					s.in[i] = 0 // of the ATR
				}
				e.Contact.SetFaults(icc.Faults{Mute: mute})
				s.Exchange(t.Context(), reader.Transfer{Out: unhex("00 20 00 01 08"), Want: 1, Wait: time.Second}, nil)
				s.Exchange(t.Context(), reader.Transfer{Out: unhex("31 32 33 34 35 36 37 38"), Want: 2, Wait: time.Second}, nil)
				if s.in != [len(s.in)]byte{} || s.out != [mostOut]byte{} {
					t.Errorf("%s: bytes are left", c)
				}
			})
		}
	}
}

// "A Slot says so [ErrStale] of an exchange that found the card without power: the card saw
// nothing of it."
func TestNoPower(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, p, s := connected(t, rig{}, readertest.Plain)
		if err := s.PowerOff(t.Context()); err != nil {
			t.Error(err)
		}
		synctest.Wait()
		if e.Contact.Powered() {
			t.Error("the card has power")
		}
		before, _ := p.Sent()
		_, err := s.Exchange(t.Context(), reader.Transfer{Out: challenge, Want: 1, Wait: time.Second}, nil)
		if now, _ := p.Sent(); !errors.Is(err, reader.ErrStale) || now != before {
			t.Errorf("%v", err)
		}
		if got, err := s.Status(t.Context()); got != reader.Present || err != nil {
			t.Errorf("%v, %v", got, err)
		}
		e.Contact.Remove()
		synctest.Wait()
		if _, err = s.Exchange(t.Context(), reader.Transfer{Out: challenge, Want: 1, Wait: time.Second}, nil); !errors.Is(err, reader.ErrNoCard) {
			t.Errorf("%v", err)
		}
		if _, err = s.PowerOn(t.Context(), reader.Warm); !errors.Is(err, reader.ErrNoCard) {
			t.Errorf("%v", err)
		}
	})
}

// A card that leaves during a long exchange is noticed within the time of a look.
func TestLeaves(t *testing.T) {
	for _, name := range []string{"phoenix", "on CD", "fed"} {
		synctest.Test(t, func(t *testing.T) {
			e, _, s := connected(t, rigs[name], readertest.Plain)
			e.Contact.SetFaults(icc.Faults{Mute: true})
			time.AfterFunc(1100*time.Millisecond, func() { e.Contact.Remove() })
			start := time.Now()
			_, err := s.Exchange(t.Context(), reader.Transfer{Out: challenge, Want: 1, Wait: time.Hour}, nil)
			if took := time.Since(start); !errors.Is(err, reader.ErrNoCard) || took > 1100*time.Millisecond+cardLook {
				t.Errorf("%s: %v after %v", name, err, took)
			}
			if st, err := s.Status(t.Context()); st != reader.Absent || err != nil {
				t.Errorf("%s: %v, %v", name, st, err)
			}
		})
	}
}
