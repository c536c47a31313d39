package egate

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cardfs/cardfs/drivers/bus/usb/usbtest"
	"github.com/cardfs/cardfs/drivers/egate/emu"
	"github.com/cardfs/cardfs/reader"
)

// script makes a session of words: "status 40", "header 00 84 00 00 08", "write 3F 00",
// "read 2 90 00", "reset", "wait 100us", "ATR 3B 00". A word of a failure may stand for the
// bytes to the host. The time-outs are OpenCT's.
func script(t testing.TB, words ...string) usbtest.Session {
	t.Helper()
	var text strings.Builder
	for _, w := range words {
		what, rest, _ := strings.Cut(w, " ")
		switch what {
		case "status":
			fmt.Fprintf(&text, "IN C0 A0 0000 0000 0001 1s | %s\n", rest)
		case "header":
			fmt.Fprintf(&text, "OUT 40 80 0000 0000 0005 10s | %s\n", rest)
		case "write":
			fmt.Fprintf(&text, "OUT 40 82 0000 0000 %04X 10s | %s\n", len(strings.Fields(strings.TrimSuffix(rest, "stall"))), rest)
		case "read":
			var n int
			fmt.Sscan(rest, &n)
			_, data, _ := strings.Cut(rest, " ")
			fmt.Fprintf(&text, "IN C0 81 0000 0000 %04X 1s | %s\n", n, data)
		case "ATR":
			fmt.Fprintf(&text, "IN C0 83 0000 0000 0023 1s | %s\n", rest)
		case "reset":
			fmt.Fprintf(&text, "OUT 40 90 0000 0000 0000 1s | %s\n", rest)
		default:
			fmt.Fprintln(&text, w)
		}
	}
	s, err := usbtest.Parse(text.String())
	if err != nil {
		t.Fatal(err)
	}
	return s
}

const (
	selectMF  = "C0 A4 00 00 02 3F 00"
	challenge = "00 84 00 00 08"
)

// What the token answers in each phase, and what the driver makes of it. Nothing but the
// script is sent: no command twice, and no step of a command that has failed.
func TestAnswers(t *testing.T) {
	for _, x := range []struct {
		name, tpdu string
		script     []string
		want       string // the answer
		is         error  // or the error
		says       string
	}{
		{"the high nibble of the status counts", challenge,
			[]string{"status 0F", "header 00 84 00 00 08", "status 4A", "wait 100us", "status 17", "read 8 01 02 03 04 05 06 07 08", "status 2C", "read 2 90 00"},
			"01 02 03 04 05 06 07 08 90 00", nil, ""},
		{"data refused", selectMF, []string{"status 00", "header C0 A4 00 00 02", "status 20", "read 2 6E 00"}, "6E 00", nil, ""},
		{"no data", challenge, []string{"status 00", "header 00 84 00 00 08", "status 20", "read 2 6C 04"}, "6C 04", nil, ""},
		{"fewer data", challenge, []string{"status 00", "header 00 84 00 00 08", "status 10", "read 8 01 02", "status 20", "read 2 62 82"}, "01 02 62 82", nil, ""},
		{"data in parts, busy between", challenge,
			[]string{"status 00", "header 00 84 00 00 08", "status 10", "read 8 01 02 03", "status 40", "wait 100us", "status 10", "read 5 04 05", "status 10", "read 3 06 07 08", "status 20", "read 2 90 00"},
			"01 02 03 04 05 06 07 08 90 00", nil, ""},
		{"case 1", "00 A4 00 00 00", []string{"status 00", "header 00 A4 00 00 00", "status 20", "read 2 90 00"}, "90 00", nil, ""},
		{"busy before a command", "00 A4 00 00 00", []string{"status 40", "wait 100us", "status 00", "header 00 A4 00 00 00", "status 20", "read 2 90 00"}, "90 00", nil, ""},

		{"data announced, none came", challenge, []string{"status 00", "header 00 84 00 00 08", "status 10", "read 8"}, "", reader.ErrProtocol, "read data: announced, and none came"},
		{"data announced again, none came", challenge, []string{"status 00", "header 00 84 00 00 08", "status 10", "read 8 01 02", "status 10", "read 6"}, "", reader.ErrProtocol, "none came"},
		{"more data than Le", challenge, []string{"status 00", "header 00 84 00 00 08", "status 10", "read 8 01 02 03 04 05 06 07 08", "status 10"}, "", reader.ErrProtocol, "status: 10 where SW1 SW2 are due"},
		{"data for a command that has sent some", selectMF, []string{"status 00", "header C0 A4 00 00 02", "status 10", "write 3F 00", "status 10"}, "", reader.ErrProtocol, "status: 10 where SW1 SW2 are due"},
		{"ready in the middle", selectMF, []string{"status 00", "header C0 A4 00 00 02", "status 00"}, "", reader.ErrProtocol, "status: 00 where SW1 SW2 are due"},
		{"an undefined status", selectMF, []string{"status 00", "header C0 A4 00 00 02", "status 80"}, "", reader.ErrProtocol, "status: 80 where"},
		{"two bits", selectMF, []string{"status 00", "header C0 A4 00 00 02", "status 50"}, "", reader.ErrProtocol, "status: 50 where"},
		{"no status", selectMF, []string{"status 00", "header C0 A4 00 00 02", "status "}, "", reader.ErrProtocol, "status: 0 bytes, not 1"},
		{"one byte of SW1 SW2", challenge, []string{"status 00", "header 00 84 00 00 08", "status 20", "read 2 90"}, "", reader.ErrProtocol, "read SW1 SW2: 1 bytes, not 2"},
		{"no SW1 SW2", challenge, []string{"status 00", "header 00 84 00 00 08", "status 20", "read 2"}, "", reader.ErrProtocol, "read SW1 SW2: 0 bytes, not 2"},
		{"the header stalls", challenge, []string{"status 00", "header stall"}, "", reader.ErrProtocol, "send header: request 80: "},
		{"the data stall", selectMF, []string{"status 00", "header C0 A4 00 00 02", "status 10", "write 3F 00 stall"}, "", reader.ErrProtocol, "send data: request 82: "},
		{"the status stalls", selectMF, []string{"status 00", "header C0 A4 00 00 02", "status stall"}, "", reader.ErrProtocol, "status: request A0: "},
		{"the data time out", challenge, []string{"status 00", "header 00 84 00 00 08", "status 10", "read 8 timeout"}, "", reader.ErrTimeout, "read data: request 81: "},
		{"SW1 SW2 time out", challenge, []string{"status 00", "header 00 84 00 00 08", "status 20", "read 2 timeout"}, "", reader.ErrTimeout, "read SW1 SW2: request 81: "},

		// Not ready: the card is reset, and saw nothing of the command.
		{"SW1 SW2 left", challenge, []string{"status 20", "reset", "wait 100us", "status 00"}, "", reader.ErrStale, "status: 20 before a command"},
		{"data left", challenge, []string{"status 10", "reset", "wait 100us", "status 40", "wait 100us", "status 00"}, "", reader.ErrStale, "10 before a command"},
		{"no status before", challenge, []string{"status ", "reset", "wait 100us", "status 00"}, "", reader.ErrStale, "status: 0 bytes, not 1"},
		{"a stall before", challenge, []string{"status stall", "reset", "wait 100us", "status 00"}, "", reader.ErrStale, "the card was reset"},
		{"three resets", challenge, []string{"status 80", "reset", "wait 100us", "status 10", "reset", "wait 100us", "status 20", "reset", "wait 100us", "status 00"}, "", reader.ErrStale, "80 before a command: " + reader.ErrProtocol.Error() + "; the card was reset: "},
		{"four resets do not help", challenge,
			[]string{"status 80", "reset", "wait 100us", "status 80", "reset", "wait 100us", "status 80", "reset", "wait 100us", "status 80", "reset", "wait 100us", "status 30"}, "", reader.ErrStale, "a reset did not help (egate usb:1-2: status: 30"},
		{"the reset stalls", challenge, []string{"status 80", "reset stall"}, "", reader.ErrStale, "reset: request 90"},
		{"gone before", challenge, []string{"status gone"}, "", reader.ErrGone, "status"},
		{"gone at the reset", challenge, []string{"status 80", "reset gone"}, "", reader.ErrGone, "reset"},
		{"gone after the reset", challenge, []string{"status 80", "reset", "status gone"}, "", reader.ErrGone, "status"},

		{"no header", "00 A4 00 00", nil, "", reader.ErrInvalid, "shorter than a T=0 header"},
		{"nothing", "", nil, "", reader.ErrInvalid, "shorter than a T=0 header"},
		{"P3 too small", "00 20 00 01 03 31 32 33 34", nil, "", reader.ErrInvalid, "P3 is not the length of the data"},
		{"P3 too large", "00 20 00 01 05 31 32 33 34", nil, "", reader.ErrInvalid, "P3 is not the length of the data"},
	} {
		t.Run(x.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				_, s := open(t, usbtest.NewPlayer(t, script(t, x.script...)).Describe(emu.New("").Descriptors()))
				dst := []byte("kept")
				got, err := s.Exchange(t.Context(), reader.Transfer{Out: unhex(x.tpdu), Wait: time.Minute}, dst)
				if !bytes.HasPrefix(got, dst) || !errors.Is(err, x.is) {
					t.Fatalf("%q, %v; want %v", got, err, x.is)
				}
				if x.is == nil {
					if !bytes.Equal(got[len(dst):], unhex(x.want)) {
						t.Errorf("% X", got[len(dst):])
					}
					return
				}
				if len(got) != len(dst) || !strings.HasPrefix(err.Error(), "egate usb:1-2: ") || !strings.Contains(err.Error(), x.says) {
					t.Errorf("%d bytes, %q; want %q", len(got)-len(dst), err, x.says)
				}
				if errors.Is(err, reader.ErrStale) != (x.is == reader.ErrStale) {
					t.Errorf("%v: may the card have seen the command?", err)
				}
			})
		})
	}
}

// The answer to a reset.
func TestPowerOn(t *testing.T) {
	until := func(last ...string) []string {
		return append([]string{"wait 100ms", "OUT 40 90 0000 0000 0000 2s |", "wait 100ms", "status 30", "wait 100ms"}, last...)
	}
	for _, x := range []struct {
		name   string
		script []string
		want   string
		is     error
		says   string
	}{
		{"as seen", until("ATR " + atr), atr, nil, ""},
		{"the longest", until("ATR" + strings.Repeat(" 3B", 35)), strings.Repeat("3B", 35), nil, ""},
		{"one byte", until("ATR 3B"), "3B", nil, ""},
		{"none", until("ATR "), "", reader.ErrMute, "read ATR: empty"},
		{"silence", until("ATR timeout"), "", reader.ErrMute, "read ATR: request 83"},
		{"a stall", until("ATR stall"), "", reader.ErrProtocol, "read ATR: request 83"},
		{"the reset stalls", []string{"OUT 40 90 0000 0000 0000 2s | stall"}, "", reader.ErrProtocol, "reset: request 90"},
		{"no status", []string{"OUT 40 90 0000 0000 0000 2s |", "status "}, "", reader.ErrProtocol, "status: 0 bytes, not 1"},
		{"gone", []string{"OUT 40 90 0000 0000 0000 2s |", "status gone"}, "", reader.ErrGone, "status"},
	} {
		t.Run(x.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				_, s := open(t, usbtest.NewPlayer(t, script(t, x.script...)).Describe(emu.New("").Descriptors()))
				got, err := s.PowerOn(t.Context(), reader.Warm)
				if !errors.Is(err, x.is) || !bytes.Equal(got, unhex(x.want)) {
					t.Fatalf("% X, %v; want %v", got, err, x.is)
				}
				if err != nil && (!strings.HasPrefix(err.Error(), "egate usb:1-2: ") || !strings.Contains(err.Error(), x.says)) {
					t.Errorf("%q, want %q", err, x.says)
				}
				st, _ := s.Status(t.Context())
				if want := map[bool]reader.Status{true: reader.Powered, false: reader.Present}[err == nil]; x.is != reader.ErrGone && st != want {
					t.Errorf("status %v, want %v", st, want)
				}
			})
		})
	}
}

// "A Slot says [ErrStale] of an exchange that found the card without power": the card was
// reset and its ATR not read, so that it counts as without power.
func TestStaleHasNoPower(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newToken(t, newCard())
		port, s, l := connect(t, e)
		// Another program leaves a command in the middle.
		if _, err := port.Control(t.Context(), setupHeader, unhex("C0 A4 00 00 02"), time.Second); err != nil {
			t.Fatal(err)
		}
		_, err := l.Transmit(t.Context(), unhex(challenge), nil)
		if st, _ := s.Status(t.Context()); !errors.Is(err, reader.ErrStale) || st != reader.Present || e.Contact.APDUs() != 0 {
			t.Errorf("%v, status %v, %d commands", err, st, e.Contact.APDUs())
		}
		if err := l.PowerUp(t.Context(), reader.Cold, -1); err != nil {
			t.Fatal(err)
		}
		if got, err := l.Transmit(t.Context(), unhex(challenge), nil); err != nil || len(got) != 10 {
			t.Errorf("% X, %v", got, err)
		}
	})
}

// A busy card is alive: it may compute up to the exchange limit, and no longer; without one,
// for the card's waiting time. From the first second on the core is told once a second.
func TestBusy(t *testing.T) {
	for _, x := range []struct {
		takes, wait, limit time.Duration
		ok                 bool
		told               int
	}{
		{100 * time.Microsecond, time.Second, time.Hour, true, 0},
		{500 * time.Millisecond, time.Second, time.Hour, true, 0},
		{10500 * time.Millisecond, time.Second, time.Hour, true, 10},
		{2 * time.Minute, time.Second, 5 * time.Minute, true, 119},
		{2 * time.Hour, time.Second, 5 * time.Minute, false, 299},
		{2 * time.Hour, time.Minute, 0, false, 59},
		{2 * time.Hour, time.Second, 0, false, 9},
	} {
		synctest.Test(t, func(t *testing.T) {
			c := newCard()
			c.Takes = x.takes
			e := newToken(t, c)
			_, s, _ := connect(t, e)
			polls, told := 0, 0
			e.Observe(func(l usbtest.Line) {
				if l.Control && l.Setup == setupStatus {
					polls++
				}
			})
			tr := reader.Transfer{Out: unhex(challenge), Wait: x.wait, Extended: func() { told++ }}
			if x.limit > 0 {
				tr.Until = time.Now().Add(x.limit)
			}
			start := time.Now()
			_, err := s.Exchange(t.Context(), tr, nil)
			took := time.Since(start)
			if x.ok {
				if most := x.takes + x.takes/pollPart + 2*time.Millisecond; err != nil || took < x.takes || took > most || took > x.takes+12*time.Millisecond {
					t.Errorf("%v: %v after %v", x.takes, err, took)
				}
			} else {
				limit := max(x.limit, x.wait)
				if x.limit == 0 {
					limit = max(x.wait, outWait)
				}
				if !errors.Is(err, reader.ErrTimeout) || !strings.Contains(err.Error(), "status: busy for ") || took < limit || took > limit+5*time.Millisecond {
					t.Errorf("%v: %v after %v, want %v", x.takes, err, took, limit)
				}
			}
			if told < x.told-x.told/100-1 || told > x.told {
				t.Errorf("%v: the core was told %d times, want %d", x.takes, told, x.told)
			}
			// A minute costs no more than some thousand transfers, a tenth of a millisecond two.
			if most := 250 + int(took/(10*time.Millisecond)); polls > most {
				t.Errorf("%v: %d polls, at most %d", took, polls, most)
			}
			if c := e.Contact.APDUs(); c != 1 {
				t.Errorf("the card had %d commands", c)
			}
		})
	}
}

// A token that is busy for ever before a command is reset, and the command is not sent.
func TestBusyBefore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newToken(t, newCard())
		port, s, _ := connect(t, e)
		e.Contact.Card().(*card).Takes = time.Hour
		if _, err := port.Control(t.Context(), setupHeader, unhex(challenge), time.Second); err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		_, err := s.Exchange(t.Context(), reader.Transfer{Out: unhex(selectMF), Wait: time.Second}, nil)
		if took := time.Since(start); !errors.Is(err, reader.ErrStale) || took < readyLimit || took > readyLimit+time.Second {
			t.Errorf("%v after %v", err, took)
		}
		if n := e.Contact.APDUs(); n != 1 {
			t.Errorf("the card had %d commands", n)
		}
	})
}

// A ctx that ends during a wait for a busy card ends the exchange, and so does unplugging.
func TestBusyEnds(t *testing.T) {
	for name, want := range map[string]error{"cancelled": context.Canceled, "unplugged": reader.ErrGone} {
		synctest.Test(t, func(t *testing.T) {
			c := newCard()
			c.Takes = time.Hour
			port, s, _ := connect(t, newToken(t, c))
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			time.AfterFunc(time.Minute, func() {
				if want == reader.ErrGone {
					port.Unplug()
				}
				cancel()
			})
			start := time.Now()
			_, err := s.Exchange(ctx, reader.Transfer{Out: unhex(challenge), Until: start.Add(time.Hour)}, nil)
			if took := time.Since(start); !errors.Is(err, want) || took != time.Minute {
				t.Errorf("%s: %v after %v", name, err, took)
			}
		})
	}
}

// No byte of a command or of an answer stays in the driver, nor a part of an answer in the
// caller's buffer.
func TestWipe(t *testing.T) {
	for _, last := range []string{"read 2 90 00", "read 2 90", "read 2 stall"} {
		synctest.Test(t, func(t *testing.T) {
			lines := []string{"wait 100ms", "OUT 40 90 0000 0000 0000 2s |", "status 00", "ATR " + atr,
				"status 00", "header 00 84 00 00 08", "status 10", "read 8 01 02 03 04 05 06 07 08", "status 20", last}
			_, s := open(t, usbtest.NewPlayer(t, script(t, lines...)).Describe(emu.New("").Descriptors()))
			d := s.(interface{ Unwrap() reader.Slot }).Unwrap().(*dialect)
			wiped := func() {
				t.Helper()
				if !bytes.Equal(d.in[:], make([]byte, len(d.in))) {
					t.Errorf("%s: the driver holds % X", last, d.in)
				}
			}
			if _, err := s.PowerOn(t.Context(), reader.Cold); err != nil {
				t.Fatal(err)
			}
			wiped()
			dst := make([]byte, 0, 300)
			if _, err := s.Exchange(t.Context(), reader.Transfer{Out: unhex(challenge), Wait: time.Minute}, dst); err != nil {
				if left := dst[:cap(dst)]; !bytes.Equal(left, make([]byte, len(left))) {
					t.Errorf("%s: the caller has % X", last, left)
				}
			}
			wiped()
		})
	}
}

// "Each must end when ctx does, and soon after the device left" (reader.Slot): a power-up, too,
// in whichever pause it is.
func TestPowerOnEnds(t *testing.T) {
	for at := 50 * time.Millisecond; at < 300*time.Millisecond; at += 100 * time.Millisecond {
		for _, want := range []error{context.Canceled, reader.ErrGone} {
			synctest.Test(t, func(t *testing.T) {
				e := newToken(t, newCard())
				port := e.Plug()
				_, s := open(t, port)
				ctx, cancel := context.WithCancel(t.Context())
				time.AfterFunc(at, func() {
					if want == reader.ErrGone {
						port.Unplug()
					} else {
						cancel()
					}
				})
				start := time.Now()
				_, err := s.PowerOn(ctx, reader.Cold)
				if took := time.Since(start); !errors.Is(err, want) || took != at || !strings.HasPrefix(err.Error(), "egate usb:1-2: power up: ") {
					t.Errorf("%v after %v, want %v after %v", err, took, want, at)
				}
			})
		}
	}
}
