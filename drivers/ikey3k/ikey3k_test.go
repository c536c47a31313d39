package ikey3k

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cardfs/cardfs/drivers/bus/usb"
	"github.com/cardfs/cardfs/reader"
	"github.com/cardfs/cardfs/reader/icc"
	"github.com/cardfs/cardfs/reader/readertest"
)

func unhex(s string) []byte {
	var b []byte
	if s = strings.ReplaceAll(s, " ", ""); s == "" {
		return nil
	}
	if _, err := fmt.Sscanf(s, "%X", &b); err != nil {
		panic(s + ": " + err.Error())
	}
	return b
}

// starcos answers the two commands of the sessions below.
type starcos struct{}

const atr = "3B B7 94 00 81 31 FE 65 53 50 4B 32 33 90 00 D1"

func (starcos) ATR() []byte { return unhex(atr) }
func (starcos) Reset(bool)  {}
func (starcos) Process(c []byte) []byte {
	switch fmt.Sprintf("%X", c) {
	case "00A40000023F00":
		return unhex("90 00")
	case "0084000008":
		return unhex("11 12 13 14 15 16 17 18 90 00")
	}
	return unhex("6D 00")
}

// recorder writes down the transfers that pass.
type recorder struct {
	usb.Conn
	lines []string
	waits []time.Duration // the time-outs that the transfers were given
}

func (r *recorder) OpenUSB(context.Context, uint8) (usb.Conn, error) { return r, nil }

func (r *recorder) Control(ctx context.Context, s usb.Setup, data []byte, timeout time.Duration) (int, error) {
	n, err := r.Conn.Control(ctx, s, data, timeout)
	r.lines = append(r.lines, fmt.Sprintf("%v %04X | % X", s, len(data), data[:n]))
	r.waits = append(r.waits, timeout)
	return n, err
}

func open(t testing.TB, link usb.Opener) (reader.Reader, reader.Slot) {
	t.Helper()
	r, err := Driver{}.Open(context.Background(), reader.Device{Driver: "ikey3k", Address: "usb:1-2", Link: link})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	return r, r.Slots()[0]
}

// The session in testdata, transfer by transfer: driver and emulator together
// put on the wire what OpenCT 0.6.20 was observed to send and to accept.
func TestSession(t *testing.T) {
	e := new(Emulator)
	e.Contact.Insert(starcos{})
	rec := &recorder{Conn: e.Plug()}
	_, s := open(t, rec)
	got, err := s.PowerOn(context.Background(), reader.Cold)
	if err != nil || !bytes.Equal(got, unhex(atr)) {
		t.Fatalf("ATR % X, %v", got, err)
	}
	for _, x := range []struct{ tx, rx string }{
		{"00 00 07 00 A4 00 00 02 3F 00 9E", "00 00 02 90 00 92"},
		{"00 40 05 00 84 00 00 08 C9", "00 40 0A 11 12 13 14 15 16 17 18 90 00 D2"},
		{"00 90 00 90", "00 40 0A 11 12 13 14 15 16 17 18 90 00 D2"},
		{"00 C0 00 C0", "00 E0 00 E0"},
		{"00 C1 01 B4 74", "00 E1 01 B4 54"},
	} {
		rx, err := s.Exchange(context.Background(), reader.Transfer{Out: unhex(x.tx), Wait: time.Second}, nil)
		if err != nil || !bytes.Equal(rx, unhex(x.rx)) {
			t.Errorf("%s: % X, %v", x.tx, rx, err)
		}
	}
	text, err := os.ReadFile("testdata/session.txt")
	if err != nil {
		t.Fatal(err)
	}
	var want []string
	for line := range strings.Lines(string(text)) {
		line, _, _ = strings.Cut(line, "#")
		if line = strings.Join(strings.Fields(line), " "); line != "" {
			want = append(want, line)
		}
	}
	for i := range max(len(want), len(rec.lines)) {
		var w, g string
		if i < len(want) {
			w = want[i]
		}
		if i < len(rec.lines) {
			g = strings.TrimSpace(rec.lines[i])
		}
		if g != w {
			t.Errorf("transfer %d\n got %s\nwant %s", i+1, g, w)
		}
	}
}

// The time-outs of the old driver: 10 s, 1 s where the card is asked for its ATR; a
// block has what the protocol gives the card, or 10 s where that is nothing.
func TestTimeouts(t *testing.T) {
	const l, s = 10 * time.Second, time.Second
	for given, want := range map[time.Duration]time.Duration{3 * time.Second: 3 * time.Second, 1: 1, 0: l, -1: l} {
		e := new(Emulator)
		e.Contact.Insert(starcos{})
		rec := &recorder{Conn: e.Plug()}
		_, slot := open(t, rec)
		if _, err := slot.PowerOn(t.Context(), reader.Cold); err != nil {
			t.Fatal(err)
		}
		slot.Exchange(t.Context(), reader.Transfer{Out: unhex("00 00 05 00 84 00 00 08 89"), Wait: given}, nil)
		if want := []time.Duration{l, l, l, s, s, l, l, l, want}; !slices.Equal(rec.waits, want) {
			t.Errorf("wait %v: %v, want %v", given, rec.waits, want)
		}
	}
}

// What the core builds on: the token does the PPS, its card is always there, and the
// IFSD is the vendor's, whose blocks the token is known to take.
func TestTraits(t *testing.T) {
	_, s := open(t, &fake{answers: honest()})
	want := reader.Traits{Level: reader.TPDU, AutoPPS: true, IFSD: 180, Slack: time.Second, Fixed: true}
	if got := s.Traits(); got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
}

// A reset that fails leaves no card with power: nothing is known of it any more.
func TestResetFails(t *testing.T) {
	for _, transfer := range []string{identify, sendReset, getReset, sendATR, getATR, sendPPS, getPPS} {
		f := &fake{answers: honest()}
		_, s := open(t, f)
		if _, err := s.PowerOn(t.Context(), reader.Cold); err != nil {
			t.Fatal(err)
		}
		f.answers[transfer] = reply{err: usb.ErrTimeout}
		_, err := s.PowerOn(t.Context(), reader.Warm)
		if st, _ := s.Status(t.Context()); err == nil || st != reader.Present {
			t.Errorf("%s: status %v after %v", transfer, st, err)
		}
	}
}

// USB 2.0 §9.6.1: bcdDevice is bytes 12 and 13 of the device descriptor.
func TestVersion(t *testing.T) {
	whole := unhex("12 01 10 01 00 00 00 08 B9 04 00 13 34 12 00 00 00 01")
	for n, want := range map[int]string{0: "", 13: "", 14: "12.34", 18: "12.34"} {
		r, _ := open(t, &described{fake: fake{answers: honest()}, desc: whole[:n]})
		if _, more := r.(reader.Identifier).Identify(); more["version"] != want {
			t.Errorf("%d bytes: version %q, want %q", n, more["version"], want)
		}
	}
}

// described is a token with a descriptor of its own.
type described struct {
	fake
	desc []byte
}

func (d *described) OpenUSB(context.Context, uint8) (usb.Conn, error) { return d, nil }
func (d *described) Descriptors() []byte                              { return d.desc }

// fake answers transfers by the table: the first whose setup begins with the
// key, in order; what happens is its answer or error.
type fake struct {
	usb.Conn
	answers map[string]reply
	gone    chan struct{}
}

type reply struct {
	data []byte
	n    int // if not 0, claimed instead of len(data)
	err  error
}

func (f *fake) OpenUSB(context.Context, uint8) (usb.Conn, error) { return f, nil }
func (f *fake) Gone() <-chan struct{}                            { return f.gone }
func (f *fake) Close() error                                     { return nil }

// key names the transfers of a session: what is sent, and what is fetched by
// how many bytes are asked for.
func (f *fake) Control(ctx context.Context, s usb.Setup, data []byte, timeout time.Duration) (int, error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	if timeout <= 0 {
		return 0, errors.New("a transfer without a time-out")
	}
	a, ok := f.answers[fmt.Sprintf("%v %02X", s, len(data))]
	if !ok {
		return len(data), nil
	}
	if a.err != nil {
		return 0, a.err
	}
	if s.In() {
		n := copy(data, a.data)
		if a.n != 0 {
			n = a.n
		}
		return n, nil
	}
	return a.n, nil
}

const (
	identify  = "IN C1 00 0000 0000 40"
	sendReset = "OUT 41 16 0000 0000 00"
	getReset  = "IN C1 01 0000 0000 02"
	sendATR   = "OUT 41 16 2005 0000 00"
	getATR    = "IN C1 01 0000 0000 20"
	sendPPS   = "OUT 41 16 0002 0000 00"
	getPPS    = "IN C1 01 0000 0000 04"
	sendBlock = "OUT 41 17 0000 0005 05"
	getBlock  = "IN C1 01 0000 0000 FF"
)

// honest is a token in order.
func honest() map[string]reply {
	return map[string]reply{
		identify: {data: unhex("0A 61 00 07 2D 2D C0 80 80 60")},
		getReset: {data: unhex("00")},
		getATR:   {data: unhex("10" + atr + "FF FF FF")},
		getPPS:   {data: unhex("FF 11 11 FF")},
		getBlock: {data: unhex("00 00 02 90 00 92")},
	}
}

// run powers up and does one exchange.
func run(ctx context.Context, s reader.Slot) (atr, rx []byte, err error) {
	if atr, err = s.PowerOn(ctx, reader.Cold); err != nil {
		return
	}
	rx, err = s.Exchange(ctx, reader.Transfer{Out: unhex("00 00 05 00 84 00 00 08 89"), Wait: time.Second}, nil)
	return
}

// What the token answers is believed only as far as it is plausible; errors say
// which transfer, on which device, and how many bytes: never which.
func TestAnswers(t *testing.T) {
	for _, x := range []struct {
		name, transfer, answer string
		is                     error  // nil: accepted
		says                   string // in the error
	}{
		{"another firmware", identify, "0A 61 00 08 2D 2D C0 80 80 60", nil, ""},
		{"identify too short", identify, "0A 61 00 07", reader.ErrProtocol, "identify: 4 bytes, not 10"},
		{"identify too long", identify, "0A 61 00 07 2D 2D C0 80 80 60 00", reader.ErrProtocol, "11 bytes, not 10"},
		{"identify empty", identify, "", reader.ErrProtocol, "0 bytes, not 10"},
		{"reset answers something else", getReset, "01", reader.ErrProtocol, "not 00"},
		{"reset answers two bytes", getReset, "00 00", reader.ErrProtocol, "2 bytes, not 1"},
		{"reset answers nothing", getReset, "", reader.ErrProtocol, "reset"},
		{"ATR without padding", getATR, "10" + atr, nil, ""},
		{"ATR of 31 bytes", getATR, "1F 3B" + strings.Repeat("00", 30), nil, ""},
		{"ATR length beyond what came", getATR, "11" + atr, reader.ErrProtocol, "17 bytes announced, 16 came"},
		{"ATR length FF", getATR, "FF" + atr, reader.ErrProtocol, "255 bytes announced"},
		{"no ATR", getATR, "00 00 00", reader.ErrProtocol, "announces none"},
		{"ATR answer empty", getATR, "", reader.ErrProtocol, "empty"},
		{"PPS response of a faster card", getPPS, "FF 11 94 7A", nil, ""},
		{"PPS response without PPS1", getPPS, "FF 01 FE", nil, ""},
		{"PPS response with wrong PCK", getPPS, "FF 11 11 FE", reader.ErrProtocol, "wrong PCK"},
		{"PPS response for T=0", getPPS, "FF 10 11 FE", reader.ErrProtocol, "T=0"},
		{"PPS response cut", getPPS, "FF 11 11", reader.ErrProtocol, "3 bytes: PPS0 announces 4"},
		{"PPS response empty", getPPS, "", reader.ErrProtocol, "PPS"},
		{"no PPS response", getPPS, "00 11 11 00", reader.ErrProtocol, "not a PPS response"},
		{"block with surplus", getBlock, "00 00 02 90 00 92 40 98 C1", nil, ""},
		{"block of 255 bytes", getBlock, "00 00 FB" + strings.Repeat("00", 251) + "FB", nil, ""},
		{"block cut", getBlock, "00 00 02 90 00", reader.ErrProtocol, "block of 6 bytes, 5 came"},
		{"block of three bytes", getBlock, "00 00 00", reader.ErrProtocol, "3 bytes are no T=1 block"},
		{"block empty", getBlock, "", reader.ErrProtocol, "no T=1 block"},
		{"LEN FF", getBlock, "00 00 FF" + strings.Repeat("00", 252), reader.ErrProtocol, "block of 259 bytes, 255 came"},
	} {
		t.Run(x.name, func(t *testing.T) {
			answers := honest()
			answers[x.transfer] = reply{data: unhex(x.answer)}
			_, s := open(t, &fake{answers: answers})
			_, _, err := run(context.Background(), s)
			if x.is == nil {
				if err != nil {
					t.Error(err)
				}
				return
			}
			if !errors.Is(err, x.is) || !strings.Contains(err.Error(), x.says) || !strings.HasPrefix(err.Error(), "ikey3k usb:1-2: ") {
				t.Errorf("%v; want %v and %q", err, x.is, x.says)
			}
			if b := unhex(x.answer); len(b) >= 2 && strings.Contains(strings.ReplaceAll(err.Error(), " ", ""), fmt.Sprintf("%X", b[:2])) {
				t.Errorf("bytes of the answer are in %q", err)
			}
		})
	}
}

// Every transfer may fail in every way; the error says which transfer and is
// one that the core can tell apart.
func TestTransferErrors(t *testing.T) {
	transfers := []string{identify, sendReset, getReset, sendATR, getATR, sendPPS, getPPS, sendBlock, getBlock}
	for _, transfer := range transfers {
		for _, x := range []struct {
			name string
			r    reply
			is   error
		}{
			{"stall", reply{err: usb.ErrStall}, reader.ErrProtocol},
			{"babble", reply{err: usb.ErrOverflow}, reader.ErrProtocol},
			{"reset", reply{err: usb.ErrReset}, reader.ErrProtocol},
			{"time-out", reply{err: usb.ErrTimeout}, reader.ErrTimeout},
			{"gone", reply{err: reader.ErrGone}, reader.ErrGone},
			{"cancelled", reply{err: context.Canceled}, context.Canceled},
			{"claims too many bytes", reply{n: 256}, reader.ErrProtocol},
			{"claims a negative number", reply{n: -1}, reader.ErrProtocol},
		} {
			t.Run(transfer+"/"+x.name, func(t *testing.T) {
				answers := honest()
				answers[transfer] = x.r
				_, s := open(t, &fake{answers: answers})
				atr, rx, err := run(context.Background(), s)
				if !errors.Is(err, x.is) || !strings.HasPrefix(err.Error(), "ikey3k usb:1-2: ") {
					t.Fatalf("%v; want %v", err, x.is)
				}
				words := strings.Fields(transfer)
				if x.r.err != nil && !strings.Contains(err.Error(), "request "+words[2]+": ") {
					t.Errorf("%v does not name the transfer %s", err, transfer)
				}
				// The length of VERIFY tells the PIN's.
				if transfer == sendBlock && strings.Contains(err.Error(), "byte") {
					t.Errorf("%q tells the command's length", err)
				}
				// NAD PCB LEN INF stand in wValue and wIndex.
				if strings.Contains(err.Error(), words[3]+" "+words[4]) {
					t.Errorf("bytes of the command are in %q", err)
				}
				if rx != nil {
					t.Errorf("% X and %v", rx, err)
				}
				powered := transfer == sendBlock || transfer == getBlock
				if st, _ := s.Status(context.Background()); (powered && x.name != "reset") != (st == reader.Powered) || powered != (atr != nil) {
					t.Errorf("status %v, ATR % X", st, atr)
				}
			})
		}
	}
}

// A card that does not answer to reset is mute, whichever way the token shows it.
func TestMute(t *testing.T) {
	answers := honest()
	answers[getATR] = reply{err: usb.ErrTimeout}
	_, s := open(t, &fake{answers: answers})
	if _, err := s.PowerOn(context.Background(), reader.Cold); !errors.Is(err, reader.ErrMute) || !errors.Is(err, reader.ErrTimeout) {
		t.Error(err)
	}
}

func TestInvalidBlock(t *testing.T) {
	_, s := open(t, &fake{answers: honest()})
	for _, n := range []int{0, 3, 259} {
		dst := []byte("kept")
		got, err := s.Exchange(context.Background(), reader.Transfer{Out: make([]byte, n)}, dst)
		if !errors.Is(err, reader.ErrInvalid) || string(got) != "kept" {
			t.Errorf("%d bytes: %v", n, err)
		}
	}
}

func TestIdentify(t *testing.T) {
	e := &Emulator{Serial: "42"}
	r, _ := open(t, e.Plug())
	model, more := r.(reader.Identifier).Identify()
	if model != "Rainbow iKey 3000" || more["version"] != "1.00" {
		t.Errorf("%s %v", model, more)
	}
}

func TestNotUSB(t *testing.T) {
	if _, err := (Driver{}).Open(context.Background(), reader.Device{Address: "x"}); !errors.Is(err, reader.ErrInvalid) {
		t.Error(err)
	}
}

// The token holds a fetch until its card has answered, and the host gives up
// after the waiting time.
func TestSilentCard(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := new(Emulator)
		e.Contact.Insert(starcos{})
		_, s := open(t, e.Plug())
		if _, err := s.PowerOn(context.Background(), reader.Cold); err != nil {
			t.Fatal(err)
		}
		e.Contact.SetFaults(icc.Faults{Mute: true})
		start := time.Now()
		block := reader.Transfer{Out: unhex("00 00 05 00 84 00 00 08 89"), Wait: 3 * time.Second}
		_, err := s.Exchange(context.Background(), block, nil)
		if !errors.Is(err, reader.ErrTimeout) || time.Since(start) != 3*time.Second {
			t.Errorf("%v after %v", err, time.Since(start))
		}
		// Slower than the host waits: its answer comes with the next fetch.
		e.Contact.SetFaults(icc.Faults{})
		s.PowerOn(context.Background(), reader.Cold)
		e.Contact.SetFaults(icc.Faults{Slow: 4 * time.Second})
		start = time.Now()
		_, err = s.Exchange(context.Background(), block, nil)
		if !errors.Is(err, reader.ErrTimeout) || time.Since(start) != 3*time.Second {
			t.Errorf("%v after %v", err, time.Since(start))
		}
		rx, err := s.Exchange(context.Background(), reader.Transfer{Out: unhex("00 82 00 82"), Wait: 3 * time.Second}, nil)
		if err != nil || !bytes.Equal(rx, unhex("00 00 0A 11 12 13 14 15 16 17 18 90 00 92")) {
			t.Errorf("% X, %v", rx, err)
		}
		if n := e.Contact.APDUs(); n != 1 {
			t.Errorf("the card had %d commands", n)
		}
	})
}

// What a USB host asks of any device.
func TestStandardRequests(t *testing.T) {
	e := &Emulator{Serial: "S1"}
	get := func(rt, rq uint8, v, i uint16, n int) string {
		data := make([]byte, n)
		n, err := e.Transfer(context.Background(), usb.Setup{RequestType: rt, Request: rq, Value: v, Index: i}, data)
		if err != nil {
			return err.Error()
		}
		return fmt.Sprintf("% X", data[:n])
	}
	for _, x := range []struct {
		name         string
		rt, rq       uint8
		value, index uint16
		n            int
		want         string
	}{
		{"device descriptor", 0x80, 6, 0x0100, 0, 64, "12 01 00 01 FF 00 00 08 B9 04 00 13 00 01 01 02 03 01"},
		{"its first 8 bytes", 0x80, 6, 0x0100, 0, 8, "12 01 00 01 FF 00 00 08"},
		{"configuration", 0x80, 6, 0x0200, 0, 255, "09 02 12 00 01 01 00 80 32 09 04 00 00 00 FF 00 00 00"},
		{"languages", 0x80, 6, 0x0300, 0, 255, "04 03 09 04"},
		{"product", 0x80, 6, 0x0302, 0x0409, 255, "14 03 69 00 4B 00 65 00 79 00 20 00 33 00 30 00 30 00 30 00"},
		{"serial number", 0x80, 6, 0x0303, 0x0409, 255, "06 03 53 00 31 00"},
		{"no such string", 0x80, 6, 0x0304, 0x0409, 255, usb.ErrStall.Error()},
		{"set configuration", 0x00, 9, 1, 0, 0, ""},
		{"get configuration", 0x80, 8, 0, 0, 1, "01"},
		{"status", 0x80, 0, 0, 0, 2, "00 00"},
		{"set interface", 0x01, 11, 0, 0, 0, ""},
		{"other class's request", 0x21, 1, 0, 0, 0, usb.ErrStall.Error()},
		{"vendor request to the device", 0xC0, 0, 0, 0, 64, usb.ErrStall.Error()},
		{"unknown card command", 0x41, 0x16, 0x0007, 0, 0, usb.ErrStall.Error()},
		{"PPS with a data byte, as the first driver sent it", 0x41, 0x16, 0x0002, 0, 1, "00"},
	} {
		if got := get(x.rt, x.rq, x.value, x.index, x.n); got != x.want {
			t.Errorf("%s: %s, want %s", x.name, got, x.want)
		}
	}
}

// The emulator survives any transfers.
func FuzzEmulator(f *testing.F) {
	f.Add(unhex("C1 00 0000 0000 40 41 16 0520 0000 00 C1 01 0000 0000 20"))
	f.Add(unhex("41 17 0000 0500 05 84 00 00 08 89 C1 01 0000 0000 FF"))
	f.Fuzz(func(t *testing.T, in []byte) {
		e := new(Emulator)
		e.Contact.Insert(starcos{})
		for len(in) >= 7 {
			s := usb.Setup{RequestType: in[0], Request: in[1],
				Value: uint16(in[2]) | uint16(in[3])<<8, Index: uint16(in[4]) | uint16(in[5])<<8}
			data := make([]byte, in[6])
			in = in[7:]
			if !s.In() {
				in = in[copy(data, in):]
			}
			if n, err := e.transfer(context.Background(), s, data); n < 0 || n > len(data) || err != nil && n != 0 {
				t.Fatalf("%v: %d, %v", s, n, err)
			}
		}
	})
}

// No answer of a token makes the driver panic or believe bytes that did not come.
func FuzzAnswers(f *testing.F) {
	a := honest()
	f.Add(a[identify].data, a[getReset].data, a[getATR].data, a[getPPS].data, a[getBlock].data)
	f.Fuzz(func(t *testing.T, id, reset, atr, pps, block []byte) {
		_, s := open(t, &fake{answers: map[string]reply{
			identify: {data: id}, getReset: {data: reset}, getATR: {data: atr}, getPPS: {data: pps}, getBlock: {data: block},
		}})
		got, rx, err := run(context.Background(), s)
		if got != nil && !bytes.HasPrefix(atr[1:], got) {
			t.Errorf("ATR % X of % X", got, atr)
		}
		if rx != nil && !bytes.HasPrefix(block, rx) {
			t.Errorf("block % X of % X", rx, block)
		}
		if err == nil && (len(rx) < 4 || len(rx) != 4+int(rx[2])) {
			t.Errorf("block % X", rx)
		}
	})
}

func TestSuite(t *testing.T) {
	readertest.Suite(t, func(t *testing.T) *readertest.Fixture {
		e := new(Emulator)
		e.Contact.Insert(starcos{})
		conn := e.Plug()
		return &readertest.Fixture{
			Driver:  Driver{},
			Device:  reader.Device{Driver: "ikey3k", Address: "usb:1-2", Link: conn},
			Slots:   []readertest.Slot{readertest.Contact(&e.Contact, true)},
			Command: unhex("00 84 00 00 08"),
			Answer:  unhex("11 12 13 14 15 16 17 18 90 00"),
			Unplug:  conn.Unplug,
		}
	})
}
