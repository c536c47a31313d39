package eutron

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cardfs/cardfs/drivers/bus/usb"
	"github.com/cardfs/cardfs/reader"
	"github.com/cardfs/cardfs/reader/iso7816"
)

// fake is a token that answers reads one after the other, and has nothing after the last.
// Other transfers succeed, but for those in fails.
type fake struct {
	usb.Conn
	reads []reply
	again bool // the last of reads is repeated without an end
	fails map[string]reply
	gone  chan struct{}
	seen  []transfer
	in    []byte // the buffer of the latest read
}

type reply struct {
	data []byte
	n    int // if not 0, claimed instead of len(data)
	err  error
}

// transfer is one that the fake saw.
type transfer struct {
	name    string // "OUT 42 A3 0000 00"
	at      time.Time
	timeout time.Duration
}

func newFake(reads ...reply) *fake {
	return &fake{reads: reads, fails: make(map[string]reply), gone: make(chan struct{})}
}

func (f *fake) OpenUSB(context.Context, uint8) (usb.Conn, error) { return f, nil }
func (f *fake) Descriptors() []byte                              { return nil }
func (f *fake) Gone() <-chan struct{}                            { return f.gone }
func (f *fake) Close() error                                     { return nil }

func (f *fake) Control(ctx context.Context, s usb.Setup, data []byte, timeout time.Duration) (int, error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	if timeout <= 0 {
		return 0, errors.New("a transfer without a time-out")
	}
	name := fmt.Sprintf("%v %04X %02X", s, s.Value, len(data))
	f.seen = append(f.seen, transfer{name, time.Now(), timeout})
	if !s.In() {
		if r, ok := f.fails[name]; ok {
			return r.n, r.err
		}
		return len(data), nil
	}
	f.in = data
	var r reply
	if len(f.reads) > 0 {
		r = f.reads[0]
		if len(f.reads) > 1 || !f.again {
			f.reads = f.reads[1:]
		}
	}
	if r.err == usb.ErrTimeout {
		time.Sleep(timeout)
	}
	if r.err != nil {
		return 0, r.err
	}
	n := copy(data, r.data)
	if r.n != 0 {
		n = r.n
	}
	return n, nil
}

// names are the transfers that the fake saw, without their lengths.
func (f *fake) names() (all []string) {
	for _, x := range f.seen {
		all = append(all, x.name)
	}
	return all
}

var (
	nothing = reply{}
	atr     = reply{data: cardOS.ATR()}
)

// parts is data in pieces of the lengths.
func parts(data string, lengths ...int) (all []reply) {
	rest := unhex(data)
	for _, n := range lengths {
		all = append(all, reply{data: rest[:n]})
		rest = rest[n:]
	}
	return append(all, reply{data: rest})
}

// ISO/IEC 7816-3:2006 §8.2: the ATR is whole when all is there that T0 and the TDs announce.
func TestATR(t *testing.T) {
	longest := "3B FF 00 00 00 F0 00 00 00 F0 00 00 00 F0 00 00 00 00" + strings.Repeat("48", 15)
	for _, x := range []struct {
		name  string
		reads []reply
		want  string
		is    error
		says  string
		took  time.Duration
	}{
		{"at once", []reply{atr}, string(cardOS), nil, "", 0},
		{"after a while", []reply{nothing, nothing, nothing, atr}, string(cardOS), nil, "", 300 * time.Millisecond},
		{"in pieces", parts(string(cardOS), 1, 1, 3, 0, 4), string(cardOS), nil, "", 500 * time.Millisecond},
		{"two bytes", []reply{{data: unhex("3B 00")}}, "3B 00", nil, "", 0},
		{"33 bytes", []reply{{data: unhex(longest)}}, longest, nil, "", 0},
		{"32 bytes of 33", []reply{{data: unhex(longest)[:32]}}, "", reader.ErrProtocol, "32 bytes came, 33", 2100 * time.Millisecond},
		{"nothing", nil, "", reader.ErrMute, "no more came", 2 * time.Second},
		{"TS alone", []reply{{data: unhex("3B")}}, "", reader.ErrProtocol, "1 bytes came, 2 or more", 2000 * time.Millisecond},
		{"no TCK", []reply{{data: cardOS.ATR()[:12]}}, "", reader.ErrProtocol, "12 bytes came, 13 or more", 2100 * time.Millisecond},
		{"no end of TDs", []reply{{data: bytes.Repeat([]byte{0x80}, 64)}}, "", reader.ErrProtocol, "are announced, 33 are the most", 0},
		{"too long", []reply{{data: unhex("3B FF 00 00 00 F0 00 00 00 F0 00 00 00 F0 00 00 00 F0")}}, "", reader.ErrProtocol, "37 bytes or more are announced, 33 are the most", 0},
		{"stall", []reply{nothing, {err: usb.ErrStall}}, "", reader.ErrProtocol, "ATR: request 02", 100 * time.Millisecond},
		{"time-out", []reply{{err: usb.ErrTimeout}}, "", reader.ErrMute, "ATR: request 02", time.Second},
		{"time-out in the middle", []reply{{data: unhex("3B F2")}, {err: usb.ErrTimeout}}, "", reader.ErrProtocol, "2 bytes came, 8 or more", 1100 * time.Millisecond},
		{"gone", []reply{{data: unhex("3B F2")}, {err: reader.ErrGone}}, "", reader.ErrGone, "ATR", 100 * time.Millisecond},
	} {
		t.Run(x.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				_, s := open(t, newFake(append([]reply{nothing}, x.reads...)...))
				start := time.Now()
				got, err := s.PowerOn(t.Context(), reader.Cold)
				if took := time.Since(start); took < x.took || took > x.took {
					t.Errorf("it took %v, want %v", took, x.took)
				}
				if x.is == nil {
					if err != nil || !bytes.Equal(got, unhex(x.want)) {
						t.Errorf("% X, %v", got, err)
					}
					return
				}
				if got != nil || !errors.Is(err, x.is) || !strings.HasPrefix(err.Error(), "eutron usb:1-2: ATR: ") || !strings.Contains(err.Error(), x.says) {
					t.Errorf("% X, %v, want %v and %q", got, err, x.is, x.says)
				}
				if errors.Is(err, reader.ErrMute) && errors.Is(err, reader.ErrProtocol) {
					t.Errorf("%v: is it mute?", err)
				}
				if st, _ := s.Status(t.Context()); st == reader.Powered {
					t.Error("the card has power")
				}
			})
		})
	}
}

// A card may be slow, as long as each character comes in its time; and a token that had
// data but now has no end of them is given up.
func TestSlowATR(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var reads []reply
		for _, b := range cardOS.ATR() {
			for range 15 {
				reads = append(reads, nothing)
			}
			reads = append(reads, reply{data: []byte{b}})
		}
		f := newFake(append([]reply{nothing}, reads...)...)
		_, s := open(t, f)
		got, err := s.PowerOn(t.Context(), reader.Cold)
		if err != nil || !bytes.Equal(got, cardOS.ATR()) {
			t.Errorf("% X, %v", got, err)
		}
	})
}

// What the token holds from before the reset is thrown away, whatever it is, until there is
// no more; but not without an end.
func TestDrain(t *testing.T) {
	old := reply{data: bytes.Repeat([]byte{0x3B}, 164)}
	for _, x := range []struct {
		name  string
		reads []reply
		again bool
		is    error
		says  string
	}{
		{"nothing", []reply{nothing, atr}, false, nil, ""},
		{"some bytes", []reply{{data: unhex("3B")}, nothing, atr}, false, nil, ""},
		{"several reads", []reply{old, old, old, {data: unhex("3B 00")}, nothing, atr}, false, nil, ""},
		{"a stall", []reply{{err: usb.ErrStall}, atr}, false, nil, ""},
		{"some bytes, then a stall", []reply{old, {err: usb.ErrStall}, atr}, false, nil, ""},
		{"held", []reply{{err: usb.ErrTimeout}, atr}, false, nil, ""},
		{"noise", []reply{{err: usb.ErrOverflow}, atr}, false, reader.ErrProtocol, "left from before: request 02"},
		{"gone", []reply{{err: reader.ErrGone}}, false, reader.ErrGone, "left from before"},
		{"no end", []reply{old}, true, reader.ErrProtocol, "no end after 32 reads"},
	} {
		synctest.Test(t, func(t *testing.T) {
			f := newFake(x.reads...)
			f.again = x.again
			_, s := open(t, f)
			got, err := s.PowerOn(t.Context(), reader.Cold)
			if x.is == nil && (err != nil || !bytes.Equal(got, cardOS.ATR())) {
				t.Errorf("%s: % X, %v", x.name, got, err)
			}
			if x.is != nil && (!errors.Is(err, x.is) || !strings.Contains(err.Error(), x.says)) {
				t.Errorf("%s: %v, want %v and %q", x.name, err, x.is, x.says)
			}
			if reset := strings.Contains(strings.Join(f.names(), ","), "OUT 42 09"); reset != (x.is == nil) {
				t.Errorf("%s: the card was reset: %v", x.name, reset)
			}
			if x.is == reader.ErrProtocol { // it is still not known to be empty
				f.reads, f.seen = []reply{nothing, {data: unhex("00")}}, nil
				s.Exchange(t.Context(), reader.Transfer{Out: unhex("00"), Want: 1}, nil)
				if f.seen[0].name != "IN C2 02 0000 A4" || f.seen[1].name != "OUT 42 01 0000 01" {
					t.Errorf("%s: then %v", x.name, f.names())
				}
			}
		})
	}
}

// Reads of one answer are 100 ms apart, the first comes at once. Each asks for as many bytes
// as OpenCT's driver has room for. The time-outs are its own, but for T=1's, which the card
// says.
func TestReads(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(nothing, nothing, atr,
			reply{data: unhex("FF")}, reply{data: unhex("01 FE")},
			nothing, reply{data: unhex("00 00")}, nothing, reply{data: unhex("02 90")}, reply{data: unhex("00 92")})
		_, s := open(t, f)
		if _, err := s.PowerOn(t.Context(), reader.Cold); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Exchange(t.Context(), reader.Transfer{Out: unhex("FF 01 FE"), Want: 3, Wait: time.Minute}, nil); err != nil {
			t.Fatal(err)
		}
		x := reader.Transfer{Out: unhex("00 00 00 00"), Want: 3, Wait: 5 * time.Second, CharWait: 3 * time.Second}
		rx, err := s.Exchange(t.Context(), x, nil)
		if err == nil {
			x.Out = nil
			rx, err = s.Exchange(t.Context(), x, rx)
		}
		if err != nil || !bytes.Equal(rx, unhex("00 00 02 90 00 92")) {
			t.Fatalf("% X, %v", rx, err)
		}
		const ms = time.Millisecond
		want := []struct {
			name    string
			pause   time.Duration
			timeout time.Duration
		}{
			{"OUT 42 A3 0000 00", 0, 10000 * ms}, {"OUT 42 A1 0000 00", 0, 10000 * ms},
			{"OUT 42 A2 0000 00", 0, 10000 * ms}, {"OUT 42 A0 0000 00", 0, 10000 * ms},
			{"IN C2 02 0000 A4", 0, 1000 * ms}, {"OUT 42 09 0000 00", 0, 10000 * ms},
			{"IN C2 02 0000 40", 0, 1000 * ms}, {"IN C2 02 0000 40", 100 * ms, 1000 * ms},
			{"OUT 42 01 0000 03", 0, 1000 * ms},
			{"IN C2 02 0000 07", 0, 1000 * ms}, {"IN C2 02 0000 06", 100 * ms, 1000 * ms},
			{"OUT 42 01 0000 04", 0, 1000 * ms},
			{"IN C2 02 0000 1F3", 0, 5000 * ms}, {"IN C2 02 0000 1F3", 100 * ms, 4900 * ms},
			{"IN C2 02 0000 1F1", 100 * ms, 2900 * ms}, {"IN C2 02 0000 1F1", 100 * ms, 2800 * ms},
			{"IN C2 02 0000 1F2", 0, 5000 * ms},
		}
		for i, x := range f.seen {
			if i == len(want) {
				t.Fatalf("one more: %v", x)
			}
			pause := time.Duration(0)
			if i > 0 {
				pause = x.at.Sub(f.seen[i-1].at)
			}
			if x.name != want[i].name || pause != want[i].pause || x.timeout != want[i].timeout {
				t.Errorf("%d: %s after %v, time-out %v; want %v", i, x.name, pause, x.timeout, want[i])
			}
		}
		if len(f.seen) < len(want) {
			t.Errorf("%d of %d transfers", len(f.seen), len(want))
		}
	})
}

// "Wait is how long the card may take until its answer starts. CharWait is how long the card
// may pause between two characters of its answer." It has that time, and then as long as one
// pause. The characters that came are the answer. A time-out is never so short that a read
// does not end.
func TestWaits(t *testing.T) {
	const sec = time.Second
	for _, x := range []struct {
		name           string
		wait, charWait time.Duration
		reads          []reply
		got            string
		is             error
		took           time.Duration
	}{
		{"silence", 5 * sec, sec, nil, "", reader.ErrTimeout, 5 * sec},
		{"silence, a short wait", 10 * time.Millisecond, sec, nil, "", reader.ErrTimeout, 100 * time.Millisecond},
		{"no wait", 0, 0, nil, "", reader.ErrTimeout, 0},
		{"it stops", 5 * sec, 2 * sec, parts("00 00", 0), "00 00", nil, 2100 * time.Millisecond},
		{"it stops soon", 5 * sec, 10 * time.Millisecond, parts("00 00"), "00 00", nil, 100 * time.Millisecond},
		{"it comes at the end", 300 * time.Millisecond, sec, parts("00 00 00", 0, 0, 0), "00 00 00", nil, 300 * time.Millisecond},
		{"it comes when the wait is over", 250 * time.Millisecond, sec, parts("00 00 00", 0, 0, 0), "00 00 00", nil, 300 * time.Millisecond},
		{"it comes later", 200 * time.Millisecond, sec, parts("00 00 00", 0, 0, 0), "", reader.ErrTimeout, 200 * time.Millisecond},
		{"slow", sec, sec, parts("00 00 00", 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 1), "00 00 00", nil, 1700 * time.Millisecond},
		{"more than was asked for", sec, sec, parts("00 00 00 00"), "00 00 00", nil, 0},
		{"the token holds a read", 5 * sec, sec, []reply{nothing, {err: usb.ErrTimeout}}, "", reader.ErrTimeout, 5 * sec},
		{"the token holds a read after some", 5 * sec, 2 * sec, []reply{{data: unhex("00")}, {err: usb.ErrTimeout}}, "00", nil, 2 * sec},
		{"stall", 5 * sec, sec, []reply{nothing, {err: usb.ErrStall}}, "", reader.ErrProtocol, 100 * time.Millisecond},
		{"stall after some", 5 * sec, sec, []reply{{data: unhex("00")}, {err: usb.ErrStall}}, "", reader.ErrProtocol, 100 * time.Millisecond},
	} {
		synctest.Test(t, func(t *testing.T) {
			f := newFake(x.reads...)
			_, s := open(t, f)
			start := time.Now()
			dst := []byte("kept")
			got, err := s.Exchange(t.Context(), reader.Transfer{Out: unhex("00 00 00 00"), Want: 3, Wait: x.wait, CharWait: x.charWait}, dst)
			if !errors.Is(err, x.is) || err == nil && !bytes.Equal(got, append(dst, unhex(x.got)...)) || err != nil && string(got) != "kept" {
				t.Errorf("%s: % X, %v", x.name, got, err)
			}
			if took := time.Since(start); took != x.took {
				t.Errorf("%s: it took %v, want %v", x.name, took, x.took)
			}
			// Only after an answer that was whole is nothing read before the next message.
			f.seen = nil
			s.Exchange(t.Context(), reader.Transfer{Out: unhex("00 00 00 00"), Want: 3}, nil)
			whole := err == nil && len(unhex(x.got)) == 3 && x.name != "more than was asked for"
			if drained := f.seen[0].name == "IN C2 02 0000 A4"; drained == whole {
				t.Errorf("%s: then %s", x.name, f.seen[0].name)
			}
		})
	}
}

// A wait ends with its context, and when the token leaves.
func TestPauseEnds(t *testing.T) {
	for name, end := range map[string]func(f *fake, cancel func()){
		"cancelled": func(_ *fake, cancel func()) { cancel() },
		"gone":      func(f *fake, _ func()) { close(f.gone) },
	} {
		synctest.Test(t, func(t *testing.T) {
			f := newFake()
			_, s := open(t, f)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			time.AfterFunc(150*time.Millisecond, func() { end(f, cancel) })
			start := time.Now()
			_, err := s.Exchange(ctx, reader.Transfer{Out: unhex("00 00 00 00"), Want: 3, Wait: time.Minute}, nil)
			if took := time.Since(start); took != 150*time.Millisecond || !errors.Is(err, context.Canceled) && !errors.Is(err, reader.ErrGone) {
				t.Errorf("%s: %v after %v", name, err, took)
			}
		})
	}
}

// SetParams tells the token the default rate, for either protocol, and no other.
func TestSetParams(t *testing.T) {
	for _, protocol := range []int{0, 1} {
		f := newFake()
		_, s := open(t, f)
		set, _ := reader.As[reader.ParamSetter](s)
		p := iso7816.DefaultParams(protocol)
		if err := set.SetParams(t.Context(), p); err != nil {
			t.Error(err)
		}
		if got := strings.Join(f.names(), ", "); got != "OUT 42 65 0001 00, OUT 42 A1 0000 00, OUT 42 A0 0000 00" {
			t.Error(got)
		}
		f.seen, p.TA1 = nil, 0x98
		if err := set.SetParams(t.Context(), p); !errors.Is(err, reader.ErrUnsupported) || !strings.HasPrefix(err.Error(), "eutron usb:1-2: set the rate: TA1=98") || f.seen != nil {
			t.Error(err, f.names())
		}
	}
}

// Every transfer may fail in every way. The error names the transfer, and is one that the
// core can distinguish. It has no byte of a command, nor its length.
func TestTransferErrors(t *testing.T) {
	for _, transfer := range []struct{ name, what string }{
		{"OUT 42 A3 0000 00", "prepare the reset: request A3"},
		{"OUT 42 A1 0000 00", "prepare the reset: request A1"},
		{"OUT 42 A2 0000 00", "prepare the reset: request A2"},
		{"OUT 42 A0 0000 00", "prepare the reset: request A0"},
		{"OUT 42 09 0000 00", "reset: request 09"},
		{"OUT 42 65 0001 00", "set the rate: request 65"},
		{"OUT 42 01 0000 09", "send: request 01"},
	} {
		for name, x := range map[string]struct {
			reply
			is error
		}{
			"stall":                    {reply{err: usb.ErrStall}, reader.ErrProtocol},
			"time-out":                 {reply{err: usb.ErrTimeout}, reader.ErrTimeout},
			"reset":                    {reply{err: usb.ErrReset}, reader.ErrProtocol},
			"gone":                     {reply{err: reader.ErrGone}, reader.ErrGone},
			"cancelled":                {reply{err: context.Canceled}, context.Canceled},
			"claims too many bytes":    {reply{n: 10}, reader.ErrProtocol},
			"claims a negative number": {reply{n: -1}, reader.ErrProtocol},
		} {
			f := newFake(nothing, atr)
			f.fails[transfer.name] = x.reply
			_, s := open(t, f)
			set, _ := reader.As[reader.ParamSetter](s)
			_, err := s.PowerOn(t.Context(), reader.Cold)
			if err == nil {
				err = set.SetParams(t.Context(), iso7816.DefaultParams(1))
			}
			if err == nil {
				_, err = s.Exchange(t.Context(), reader.Transfer{Out: unhex("00 00 05 00 84 00 00 08 89"), Want: 3}, nil)
			}
			what := transfer.what
			if x.err == nil {
				what, _, _ = strings.Cut(what, ": ")
			}
			if !errors.Is(err, x.is) || !strings.HasPrefix(err.Error(), "eutron usb:1-2: "+what+": ") {
				t.Errorf("%s/%s: %v", transfer.name, name, err)
			}
			if strings.Contains(err.Error(), "byte") || strings.Contains(err.Error(), "84") {
				t.Errorf("%s/%s: %q tells of the command", transfer.name, name, err)
			}
		}
	}
}

// "What held a command is cleared after use": no byte of an answer stays in the driver, even
// of one that was given up.
func TestWiped(t *testing.T) {
	for name, reads := range map[string][]reply{
		"whole":         {{data: unhex("00 00 02 90 00 92")}},
		"in pieces":     parts("00 00 02 90 00 92", 1, 3),
		"stall":         {{data: unhex("00 00 02 90 00")}, {err: usb.ErrStall}},
		"it stops":      {{data: unhex("00 00 02 90 00")}},
		"then another":  {{data: unhex("00 00 02 90 00 92 DA DA DA")}},
		"old, no end":   {{data: unhex("DA DA")}},
		"stray, drains": {{data: unhex("00")}, {err: usb.ErrStall}, {data: bytes.Repeat([]byte{0xDA}, 164)}},
	} {
		synctest.Test(t, func(t *testing.T) {
			f := newFake(reads...)
			_, s := open(t, f)
			d, _ := reader.As[*dialect](s)
			held := func() {
				t.Helper()
				if d.in != [499]byte{} {
					t.Errorf("%s: the driver holds % X", name, bytes.Trim(d.in[:], "\x00"))
				}
			}
			if _, err := message(s, "00 00 04 00 A4 00 00 A0", time.Second); err != nil {
				held()
			}
			message(s, "00 40 04 00 A4 00 00 E0", time.Second)
			held()
		})
	}
}

// An exchange of which all comes at once allocates nothing.
func TestAllocations(t *testing.T) {
	f := newFake(reply{data: unhex("00 00 02 90 00 92")})
	f.again = true
	_, s := open(t, quiet{f})
	x := reader.Transfer{Out: unhex("00 00 04 00 A4 00 00 A0"), Want: 6, Wait: time.Second}
	dst := make([]byte, 0, 16)
	if n := testing.AllocsPerRun(100, func() {
		if _, err := s.Exchange(context.Background(), x, dst); err != nil {
			t.Fatal(err)
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// quiet is a fake that writes nothing down.
type quiet struct{ *fake }

func (q quiet) OpenUSB(context.Context, uint8) (usb.Conn, error) { return q, nil }
func (q quiet) Control(_ context.Context, s usb.Setup, data []byte, _ time.Duration) (int, error) {
	if s.In() {
		return copy(data, q.reads[0].data), nil
	}
	return len(data), nil
}
