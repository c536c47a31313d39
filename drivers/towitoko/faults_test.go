package towitoko

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cardfs/cardfs/drivers/bus/serial"
	"github.com/cardfs/cardfs/drivers/bus/serial/faulttest"
	"github.com/cardfs/cardfs/drivers/bus/serial/serialtest"
	"github.com/cardfs/cardfs/drivers/towitoko/emu"
	"github.com/cardfs/cardfs/reader"
	"github.com/cardfs/cardfs/reader/icc"
	"github.com/cardfs/cardfs/reader/readertest"
)

// known reports whether err is one that the core makes something of, without bytes.
func known(err error) bool {
	return (errors.Is(err, reader.ErrProtocol) || errors.Is(err, reader.ErrTimeout) || errors.Is(err, reader.ErrGone) || errors.Is(err, reader.ErrMute) ||
		errors.Is(err, reader.ErrStale)) && !strings.Contains(err.Error(), "84 00 00 08")
}

// Every character may fail in every way, from the first of the identification to the last of an
// answer. The card never sees a command twice. With T=1 answers are right or errors; T=0 has
// nothing but parity against what the line does. Once it is good again the reader works.
func TestFaults(t *testing.T) {
	for _, c := range []card{readertest.Plain, readertest.Block, mirror, readertest.Fast, quick} {
		var out, in int
		synctest.Test(t, func(t *testing.T) {
			p := serialtest.Plug(newReader(t, emu.Options{}, c))
			defer p.Unplug()
			s := open(t, p)
			l := newLink(s)
			powerUp(t, l, -1)
			transmit(t, l, challenge, response)
			out, in = p.Sent()
			s.Close()
		})
		faulttest.Everywhere(t, out, in, func(t *testing.T, f serialtest.Fault) { fault(t, c, f) })
	}
}

func fault(t *testing.T, c card, f serialtest.Fault) {
	e := newReader(t, emu.Options{}, c)
	p := serialtest.Plug(e)
	defer func() { p.Unplug() }()
	what := fmt.Sprintf("%s, %+v", c, f)
	p.Inject(f)
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	start := time.Now()
	r, err := Driver{}.Open(ctx, device(p))
	if took := time.Since(start); took > 15*time.Second {
		t.Errorf("%s: opened after %v", what, took)
	}
	if err != nil && (f.Kind < serialtest.Silence || !known(err) || !strings.HasPrefix(err.Error(), "towitoko /dev/ttyS0: start: ")) {
		t.Errorf("%s: %v", what, err)
	}
	if err == nil {
		defer func() { r.Close() }()
		l := newLink(r.Slots()[0])
		for range 2 {
			if err = l.PowerUp(ctx, reader.Cold, -1); err == nil {
				break
			}
			if !known(err) && !errors.Is(err, reader.ErrUnsupported) { // nor is all that a damaged ATR says
				t.Errorf("%s: power up: %v", what, err)
			}
		}
		if err != nil && f.Kind < serialtest.Silence {
			t.Errorf("%s: power up, twice: %v", what, err)
		}
		if err == nil {
			before := e.Contact.APDUs() // one of another protocol, if the ATR was damaged
			got, err := l.Transmit(ctx, challenge, nil)
			if n := e.Contact.APDUs() - before; n > 1 || err == nil && n != 1 {
				t.Errorf("%s: the card saw the command %d times, %v", what, n, err)
			}
			plainT0 := l.Params().T == 0 && f.Kind != serialtest.Parity
			if err == nil && !bytes.Equal(got, response) && !plainT0 || err != nil && !known(err) && !plainT0 {
				t.Errorf("%s: % X, %v", what, got, err)
			}
		}
	}
	if f.Kind >= serialtest.Silence { // another line
		p.Unplug()
		p = serialtest.Plug(e)
		if r != nil {
			r.Close()
		}
		if r, err = (Driver{}).Open(ctx, device(p)); err != nil {
			t.Errorf("%s: opened again: %v", what, err)
			return
		}
	}
	if r == nil {
		return
	}
	l := newLink(r.Slots()[0])
	if err := l.PowerUp(ctx, reader.Cold, -1); err != nil {
		t.Errorf("%s: afterwards: %v", what, err)
		return
	}
	before := e.Contact.APDUs()
	if got, err := l.Transmit(ctx, challenge, nil); err != nil || !bytes.Equal(got, response) || e.Contact.APDUs() != before+1 {
		t.Errorf("%s: afterwards: % X, %v", what, got, err)
	}
}

// A reader that a program left at any speed is found, and is at 9600 bit/s when it is open.
func TestLeftBehind(t *testing.T) {
	for _, baud := range []int{9600, 19200, 38400, 57600, 115200} {
		synctest.Test(t, func(t *testing.T) {
			_, p, _, l := plug(t, emu.Options{Baud: baud}, readertest.Plain)
			if got := p.Line().Mode().Baud; got != 9600 || p.Line().HostMode().Baud != 9600 {
				t.Errorf("left at %d, now at %d", baud, got)
			}
			powerUp(t, l, -1)
			transmit(t, l, challenge, response)
		})
	}
}

// A port without a reader fails within seconds, with words.
func TestNoReader(t *testing.T) {
	nothing := faulttest.Refusal{Says: "nothing that answers like a Towitoko", Is: reader.ErrTimeout}
	faulttest.Strangers{
		Driver: Driver{}, Device: device(nil), Mode: slow, Limit: 12 * time.Second,
		Mute: nothing, Echo: nothing, Leaves: faulttest.Refusal{Says: "start", Is: reader.ErrGone},
		More: []faulttest.Stranger{
			{Name: "babble", Serve: serialtest.Babble(100*time.Millisecond, 0x84, 0x10, 0x36), Refusal: faulttest.Refusal{Says: "never quiet", Is: reader.ErrProtocol}},
		},
	}.Run(t)
}

// A reader that was switched off and on has its speed and parity of the beginning again, and its
// card no power.
func TestSwitchedOff(t *testing.T) {
	for _, c := range []card{readertest.Plain, readertest.Fast, readertest.Inverse, mirror} {
		for _, o := range []emu.Options{{}, {Type: emu.KartenzwergII, Plain: true}} {
			for _, look := range []bool{true, false} {
				synctest.Test(t, func(t *testing.T) {
					e, _, s, l := plug(t, o, c)
					powerUp(t, l, -1)
					e.Switch(false)
					if look {
						for range 2 {
							start := time.Now()
							if _, err := s.Status(t.Context()); !errors.Is(err, reader.ErrTimeout) || time.Since(start) > 10*time.Second {
								t.Errorf("without power: %v after %v", err, time.Since(start))
							}
						}
					}
					e.Switch(true)
					_, err := s.Exchange(t.Context(), reader.Transfer{Out: challenge, Want: 1, Wait: time.Second, CharWait: time.Second}, nil)
					if !errors.Is(err, reader.ErrStale) {
						t.Errorf("%s: exchange with a card that has lost its power: %v", c, err)
					}
					if st, err := s.Status(t.Context()); st != reader.Present || err != nil {
						t.Errorf("%s: %v, %v", c, st, err)
					}
					if err := l.PowerUp(t.Context(), reader.Cold, -1); err != nil {
						t.Fatalf("%s, %+v, %v: %v", c, o, look, err)
					}
					transmit(t, l, challenge, response)
					if n := e.Contact.APDUs(); n != 1 {
						t.Errorf("%s: the card saw %d commands", c, n)
					}
				})
			}
		}
	}
}

// A change of speed or parity whose answer is lost, or that did not arrive, is found out.
func TestLostChange(t *testing.T) {
	for _, toHost := range []bool{false, true} {
		for _, change := range []func(*slot) error{
			func(s *slot) error { return s.setSpeed(context.Background(), 38400) },
			func(s *slot) error { return s.setSpeed(context.Background(), 115200) },
			func(s *slot) error { return s.setParity(context.Background(), oddParity) },
		} {
			synctest.Test(t, func(t *testing.T) {
				_, p, s, l := plug(t, emu.Options{}, readertest.Plain)
				powerUp(t, l, -1)
				out, in := p.Sent()
				f := serialtest.Fault{ToHost: toHost, At: out, Kind: serialtest.Lose}
				if toHost {
					f.At = in
				}
				p.Inject(f)
				if err := change(s); !errors.Is(err, reader.ErrTimeout) {
					t.Error(err)
				}
				want := reader.Powered
				if toHost { // it is as good as another reader
					want = reader.Present
				}
				if st, err := s.Status(t.Context()); st != want || err != nil {
					t.Errorf("%v, %v, want %v", st, err, want)
				}
				powerUp(t, l, -1)
				transmit(t, l, challenge, response)
			})
		}
	}
}

// What comes late, or was not asked for, is not taken for an answer. A late answer to a command
// that was given up is dropped, and the card saw each command once.
func TestLate(t *testing.T) {
	for _, cancelled := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			e, _, s, l := plug(t, emu.Options{}, readertest.Block)
			powerUp(t, l, -1)
			e.Contact.SetFaults(icc.Faults{Slow: 700 * time.Millisecond})
			ctx, end, wait := t.Context(), error(reader.ErrTimeout), 500*time.Millisecond
			if cancelled {
				some, cancel := context.WithTimeout(ctx, 500*time.Millisecond)
				defer cancel()
				ctx, end, wait = some, context.DeadlineExceeded, time.Minute
			}
			start := time.Now()
			_, err := s.Exchange(ctx, reader.Transfer{Out: unhex("00 00 05 00 84 00 00 08 89"), Want: 3, Wait: wait, CharWait: time.Second}, nil)
			if took := time.Since(start); !errors.Is(err, end) || took < 500*time.Millisecond || took > 1200*time.Millisecond {
				t.Fatalf("%v after %v", err, took)
			}
			e.Contact.SetFaults(icc.Faults{})
			rx, err := s.Exchange(t.Context(), reader.Transfer{Out: unhex("00 C1 01 FE 3E"), Want: 5, Wait: time.Second, CharWait: time.Second}, nil)
			if err != nil || !bytes.Equal(rx, unhex("00 E1 01 FE 1E")) {
				t.Errorf("% X, %v", rx, err)
			}
			if n := e.Contact.APDUs(); n != 1 {
				t.Errorf("%d commands", n)
			}
		})
	}
	synctest.Test(t, func(t *testing.T) {
		_, p, s, l := plug(t, emu.Options{}, readertest.Plain)
		powerUp(t, l, -1)
		p.Line().Send(0x40, 0x83, 0x90, 0x00)
		if st, err := s.Status(t.Context()); st != reader.Powered || err != nil {
			t.Errorf("%v, %v", st, err)
		}
		p.Line().Send(0x84, 0x90, 0x00)
		transmit(t, l, challenge, response)
	})
}

// An answer that stops is what there is of it; one with wrong parity is none.
func TestPieces(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		answer := []byte{0x90, 0x01}
		wrong := false
		p := serialtest.Plug(scripted(func(l *serialtest.Line, cmd []byte) {
			switch {
			case cmd[0] == 0x80:
				l.Send(readertest.Plain.ATR()...)
			case cmd[0] == 0x6F && cmd[2] == 0x05:
				l.Read(make([]byte, cmd[1]))
				l.Send(answer[:len(answer)-1]...)
				if wrong {
					l.SendWrong(answer[len(answer)-1])
				} else {
					l.Send(answer[len(answer)-1])
				}
			default:
				usual(l, cmd)
			}
		}))
		defer p.Unplug()
		s := open(t, p)
		defer s.Close()
		if _, err := s.PowerOn(t.Context(), reader.Cold); err != nil {
			t.Fatal(err)
		}
		pin := unhex("00 20 00 81 04 31 32 33 34")
		x := reader.Transfer{Out: pin, Want: 4, Wait: time.Second, CharWait: time.Second}
		got, err := s.Exchange(t.Context(), x, []byte("before"))
		if err != nil || !bytes.Equal(got, append([]byte("before"), 0x90, 0x01)) {
			t.Errorf("% X, %v", got, err)
		}
		if bytes.Contains(s.frame[:], pin[5:]) {
			t.Error("the driver holds the command")
		}
		wrong, x.Want = true, 2
		dst := append(make([]byte, 0, 32), "before"...)
		got, err = s.Exchange(t.Context(), x, dst)
		if string(got) != "before" || !errors.Is(err, reader.ErrProtocol) || !strings.Contains(err.Error(), "2 of 2 characters came, some with wrong parity") {
			t.Errorf("% X, %v", got, err)
		}
		if !s.stray {
			t.Error("what belongs to a damaged answer may follow, and is taken for another")
		}
		if dst = dst[:8]; dst[6] != 0 || dst[7] != 0 {
			t.Errorf("% X", dst)
		}
	})
}

// The parameters of `attach`.
func TestAttach(t *testing.T) {
	for params, want := range map[string]string{"": "", "memory=i2c:4096": "", "memory=2-wire": "", "memory=i2c:7": "towitoko: memory=i2c:7", "speed=9600": "no parameter speed"} {
		dev := device(nil, params)
		got, err := Driver{}.Attach(dev)
		if want == "" && (err != nil || got.ID.Model != "Towitoko reader" || got.Bus != "serial") || want != "" && (!errors.Is(err, reader.ErrInvalid) || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s: %+v, %v", params, got, err)
		}
		if _, err := (Driver{}).Open(t.Context(), dev); err == nil || want == "" && !errors.Is(err, reader.ErrInvalid) {
			t.Errorf("%s: %v", params, err)
		}
	}
}

// The question is two characters, and a status for who answers; what answers otherwise is none.
func TestProbe(t *testing.T) {
	for _, x := range []struct {
		answer string
		name   string
	}{
		{"84 10 35", "Towitoko Chipdrive External"}, {"61 10 30", ""}, {"84 10 36", ""}, {"00 01", ""}, {"", ""}, {"85 10 31", ""},
	} {
		synctest.Test(t, func(t *testing.T) {
			var asked []byte
			p := serialtest.Plug(serialtest.DeviceFunc(func(l *serialtest.Line) {
				l.SetMode(serial.Mode{Baud: 9600, Frame: serial.Frame8E2})
				for {
					c, ok := l.Char()
					if !ok {
						return
					}
					if asked = append(asked, c); len(asked) == 2 {
						l.Send(unhex(x.answer)...)
					} else if len(asked) == 4 {
						l.Send(0x40, 0x83)
					}
				}
			}))
			found, err := Driver{}.Probe(t.Context(), device(p))
			if (err == nil) != (x.name != "") || err == nil && (found.Model != x.name || len(found.Params) > 0) {
				t.Errorf("%s: %+v, %v", x.answer, found, err)
			}
			if err != nil && (!errors.Is(err, reader.ErrTimeout) && !errors.Is(err, reader.ErrProtocol) || !strings.HasPrefix(err.Error(), "towitoko /dev/ttyS0: identification: ")) {
				t.Errorf("%s: %v", x.answer, err)
			}
			port, err := p.OpenSerial(t.Context(), slow)
			if err != nil {
				t.Fatal(err)
			}
			port.Close()
			p.Unplug()
			if want := map[bool]string{true: "00 01 03 07", false: "00 01"}[x.name != ""]; !bytes.Equal(asked, unhex(want)) {
				t.Errorf("% X was sent", asked)
			}
			if _, err := (Driver{}).Probe(t.Context(), device(p)); !errors.Is(err, reader.ErrGone) {
				t.Error(err)
			}
		})
	}
}
