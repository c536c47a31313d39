package cardman

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
	"github.com/cardfs/cardfs/drivers/cardman/emu"
	"github.com/cardfs/cardfs/reader"
	"github.com/cardfs/cardfs/reader/icc"
)

// fake is a device whose packets a test chooses: for each request a list of them, in hex, "-" for an empty one. What
// is not listed has none.
type fake struct {
	usb.Conn
	packets map[uint8][]string
	fails   map[uint8]error
	part    bool // requests take a byte less than they are given
	queue   []string
	sent    []string
	waits   []time.Duration // of reads
	big     int             // claimed for a packet
	halted  int             // ends of a halt
	inFails error
}

func (f *fake) OpenUSB(context.Context, uint8) (usb.Conn, error) { return f, nil }
func (f *fake) Gone() <-chan struct{}                            { return nil }
func (f *fake) Close() error                                     { return nil }
func (f *fake) Descriptors() []byte                              { return nil }
func (f *fake) ClearHalt(context.Context, uint8) error           { f.halted++; return nil }

func (f *fake) Control(ctx context.Context, s usb.Setup, data []byte, wait time.Duration) (int, error) {
	f.sent = append(f.sent, strings.TrimSpace(fmt.Sprintf("%02X %04X %04X % X %v", s.Request, s.Value, s.Index, data, wait)))
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	f.queue = append(f.queue, f.packets[s.Request]...)
	if f.part && len(data) > 0 {
		return len(data) - 1, nil
	}
	return len(data), f.fails[s.Request]
}

func (f *fake) In(ctx context.Context, ep uint8, p []byte, wait time.Duration) (int, error) {
	f.waits = append(f.waits, wait)
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	if wait <= 0 || ep != 0x81 || len(p) != 8 {
		return 0, fmt.Errorf("a read of %02X, %d bytes, %v", ep, len(p), wait)
	}
	if f.inFails != nil {
		return 0, f.inFails
	}
	if len(f.queue) == 0 {
		time.Sleep(wait)
		return 0, usb.ErrTimeout
	}
	next := f.queue[0]
	f.queue = f.queue[1:]
	if next == "-" {
		return 0, nil
	}
	return copy(p, unhex(next)) + f.big, nil
}

// slotOf is an open slot of a fake device.
func slotOf(f *fake) *slot {
	return &slot{wire: wire{name: "cardman usb:1-2", conn: f}, powered: true}
}

// "Card in if (byte AND 42h) is not 0." By the header C0 is a card with power and 40 one without.
func TestStatus(t *testing.T) {
	for _, x := range []struct {
		packets []string
		want    reader.Status
		is      error
		words   string
	}{
		{[]string{"00"}, reader.Absent, nil, ""},
		{[]string{"80"}, reader.Absent, nil, ""},
		{[]string{"BD"}, reader.Absent, nil, ""},
		{[]string{"40"}, reader.Present, nil, ""},
		{[]string{"42"}, reader.Present, nil, ""},
		{[]string{"C0"}, reader.Powered, nil, ""},
		{[]string{"02"}, reader.Powered, nil, ""}, // nothing is said of its power
		{[]string{"C0 00 00 00 00 00 00 00"}, reader.Powered, nil, ""},
		{[]string{"-", "-", "C0"}, reader.Powered, nil, ""},
		{[]string{"C0 01"}, 0, reader.ErrProtocol, "followed by other bytes"},
		{nil, 0, reader.ErrTimeout, "endpoint 81: "},
	} {
		synctest.Test(t, func(t *testing.T) {
			f := &fake{packets: map[uint8][]string{0x20: x.packets}}
			s := slotOf(f)
			got, err := s.Status(t.Context())
			if !errors.Is(err, x.is) || err == nil && got != x.want {
				t.Errorf("%s: %v, %v", x.packets, got, err)
			}
			if err != nil && (!strings.HasPrefix(err.Error(), "cardman usb:1-2: status: ") || !strings.Contains(err.Error(), x.words) || s.trouble != late) {
				t.Errorf("%s: %v, trouble %v", x.packets, err, s.trouble)
			}
			if len(f.sent) != 1 || f.sent[0] != "20 0000 0000  2s" || f.waits[0] != 2*time.Second {
				t.Errorf("%s: %q, %v", x.packets, f.sent, f.waits)
			}
		})
	}
}

// The ATR comes in packets, and ends with its own length. The PPS is that of T=0 for every card but one in specific
// mode, and one that has no T=0.
func TestPowerOn(t *testing.T) {
	const line, reset, pps, off = "30 0100 0002  10s", "10 0001 0000  2s", "01 0000 0000 FF 10 11 FE 2s", "11 0000 0000  10s"
	for name, x := range map[string]struct {
		how     reader.Reset
		status  string
		powered bool
		atr     []string
		pps     []string
		want    string
		sent    string // behind the status
		is      error
		words   string
	}{
		"one packet":     {reader.Cold, "40", false, []string{"3B 02 14 50"}, []string{"04 00"}, "3B 02 14 50", line + "," + reset + "," + pps + "," + line, nil, ""},
		"cold":           {reader.Cold, "C0", true, []string{"3B 02 14 50"}, []string{"04 00"}, "3B 02 14 50", line + "," + off + "," + reset + "," + pps + "," + line, nil, ""},
		"warm":           {reader.Warm, "C0", true, []string{"3B 02 14 50"}, []string{"04 00"}, "3B 02 14 50", line + "," + reset + "," + pps + "," + line, nil, ""},
		"padded":         {reader.Cold, "40", false, []string{"3B 02 14 50 00 00 00 00"}, []string{"04 00 00 00 00 00 00 00"}, "3B 02 14 50", line + "," + reset + "," + pps + "," + line, nil, ""},
		"single bytes":   {reader.Cold, "40", false, []string{"3B", "-", "02", "14", "50"}, []string{"04", "77"}, "3B 02 14 50", line + "," + reset + "," + pps + "," + line, nil, ""},
		"33 bytes":       {reader.Cold, "40", false, []string{"3B 1F 11 41 41 41 41 41", "41 41 41 41 41 41 41 41", "41 41"}, []string{"04 00"}, "3B 1F 11" + strings.Repeat("41", 15), line + "," + reset + "," + pps + "," + line, nil, ""},
		"inverse":        {reader.Cold, "40", false, []string{"3F 02 14 50"}, []string{"04 00"}, "3F 02 14 50", line + "," + reset + "," + pps + "," + line, nil, ""},
		"T=1":            {reader.Cold, "40", false, []string{"3B 80 01 81"}, nil, "3B 80 01 81", line + "," + reset, nil, ""},
		"T=0, then T=1":  {reader.Cold, "40", false, []string{"3B 80 80 01 01"}, []string{"04 00"}, "3B 80 80 01 01", line + "," + reset + "," + pps + "," + line, nil, ""},
		"specific mode":  {reader.Cold, "40", false, []string{"3B 80 10 00"}, nil, "3B 80 10 00", line + "," + reset, nil, ""},
		"refused":        {reader.Cold, "40", false, []string{"3B 02 14 50"}, []string{"00 00"}, "", line + "," + reset + "," + pps, reader.ErrProtocol, "PPS: the reader has no answer of the card"},
		"half an answer": {reader.Cold, "40", false, []string{"3B 02 14 50"}, []string{"04"}, "", line + "," + reset + "," + pps, reader.ErrTimeout, "PPS: endpoint 81"},
		"no card":        {reader.Cold, "00", false, nil, nil, "", "", reader.ErrNoCard, "power up: "},
		"mute":           {reader.Cold, "40", false, nil, nil, "", line + "," + reset, reader.ErrMute, "power up: endpoint 81"},
		"not whole":      {reader.Cold, "40", false, []string{"3B 02 14"}, nil, "", line + "," + reset, reader.ErrMute, "power up: endpoint 81"},
		"empty":          {reader.Cold, "40", false, []string{"-"}, nil, "", line + "," + reset, reader.ErrMute, ""},
		"no ATR":         {reader.Cold, "40", false, []string{"40"}, nil, "", line + "," + reset, reader.ErrProtocol, "begins with 40"},
		"raw inverse":    {reader.Cold, "40", false, []string{"03 02"}, nil, "", line + "," + reset, reader.ErrUnsupported, "inverse convention"},
		"without an end": {reader.Cold, "40", false, []string{"3B F0 11 11 11 F0 11 11", "11 F0 11 11 11 F0 11 11", "11 F0 11 11 11 F0 11 11", "11 F0 11 11 11 F0 11 11", "11 F0 11 11 11 F0 11 11"}, nil, "", line + "," + reset, reader.ErrProtocol, "33 are the most"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := &fake{packets: map[uint8][]string{0x20: {x.status}, 0x10: x.atr, 0x01: x.pps}}
				s := slotOf(f)
				s.powered = x.powered
				began := time.Now()
				atr, err := s.PowerOn(t.Context(), x.how)
				if !errors.Is(err, x.is) || !bytes.Equal(atr, unhex(x.want)) || s.powered != (err == nil) {
					t.Errorf("% X, %v, powered %v", atr, err, s.powered)
				}
				if err != nil && (!strings.HasPrefix(err.Error(), "cardman usb:1-2: ") || !strings.Contains(err.Error(), x.words)) {
					t.Error(err)
				}
				if x.is == reader.ErrUnsupported && errors.Is(err, reader.ErrMute) {
					t.Error("an inverse card is not mute")
				}
				if got := strings.Join(f.sent[1:], ","); got != x.sent {
					t.Errorf("sent %s\nwant %s", got, x.sent)
				}
				if took := time.Since(began); took > 3*time.Second {
					t.Errorf("it took %v", took)
				}
				if s.n > 0 {
					t.Errorf("% X is left", s.in[:s.n])
				}
			})
		})
	}
}

// Characters that were not asked for are kept until something is sent, and dropped then. Where more are due, another
// packet is read.
func TestExchange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fake{packets: map[uint8][]string{0x02: {"84 11 12 13 14 15 16 17", "-", "18 90 00"}}}
		s := slotOf(f)
		for i, x := range []struct {
			out  string
			want int
			rx   string
		}{{"00 84 00 00 08", 1, "84"}, {"", 8, "11 12 13 14 15 16 17 18"}, {"", 1, "90"}, {"", 1, "00"}} {
			got, err := s.Exchange(t.Context(), reader.Transfer{Out: unhex(x.out), Want: x.want, Wait: time.Second}, []byte("a"))
			if err != nil || !bytes.Equal(got, append([]byte("a"), unhex(x.rx)...)) {
				t.Errorf("%d: % X, %v", i, got, err)
			}
		}
		if len(f.sent) != 1 || f.sent[0] != "02 0000 0000 00 84 00 00 08 2s" || s.n != 0 || s.in != [len(s.in)]byte{} {
			t.Errorf("%q, %d left", f.sent, s.n)
		}
		// Less than asked for comes as it is; then nothing.
		f.packets[0x02] = []string{"84 11"}
		got, err := s.Exchange(t.Context(), reader.Transfer{Out: challenge, Want: 5, Wait: time.Second}, nil)
		if err != nil || !bytes.Equal(got, unhex("84 11")) {
			t.Errorf("% X, %v", got, err)
		}
		f.packets[0x20] = []string{"C0"}
		began := time.Now()
		if got, err = s.Exchange(t.Context(), reader.Transfer{Want: 3, Wait: 3 * time.Second}, []byte("a")); !errors.Is(err, reader.ErrTimeout) || string(got) != "a" {
			t.Errorf("% X, %v", got, err)
		}
		if took := time.Since(began); took < 3*time.Second || took > 4*time.Second || s.trouble != power {
			t.Errorf("it took %v; trouble %v", took, s.trouble)
		}
	})
}

// What failed is passed over before the next request: late packets are drained, and a card whose state is unknown is
// switched off.
func TestRecovery(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fake{packets: map[uint8][]string{}}
		s := slotOf(f)
		if _, err := s.Status(t.Context()); !errors.Is(err, reader.ErrTimeout) {
			t.Fatal(err)
		}
		f.queue = []string{"00", "-", "00 01"} // late
		f.packets[0x20] = []string{"C0"}
		f.sent = nil
		if st, err := s.Status(t.Context()); st != reader.Powered || err != nil || len(f.sent) != 1 {
			t.Errorf("%v, %v, %q", st, err, f.sent)
		}
		if _, err := s.Exchange(t.Context(), reader.Transfer{Out: challenge, Want: 1, Wait: time.Second}, nil); !errors.Is(err, reader.ErrTimeout) {
			t.Fatal(err)
		}
		f.queue, f.sent = []string{"84 11"}, nil
		if st, err := s.Status(t.Context()); st != reader.Present || err != nil || strings.Join(f.sent, ",") != "11 0000 0000  10s,20 0000 0000  2s" {
			t.Errorf("%v, %v, %q", st, err, f.sent)
		}
		if _, err := s.Exchange(t.Context(), reader.Transfer{Out: challenge, Want: 1, Wait: time.Second}, nil); !errors.Is(err, reader.ErrStale) {
			t.Error(err)
		}
		// Packets of a command that was given up without a word.
		s.powered, f.packets[0x02], f.packets[0x20] = true, []string{"84 11", "12 90 00"}, []string{"C0"}
		if _, err := s.Exchange(t.Context(), reader.Transfer{Out: challenge, Want: 1, Wait: time.Second}, nil); err != nil {
			t.Fatal(err)
		}
		if st, err := s.Status(t.Context()); st != reader.Powered || err != nil {
			t.Errorf("%v, %v", st, err)
		}
		s.powered, f.queue = true, nil
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		f.sent = nil
		if _, err := s.Exchange(ctx, reader.Transfer{Out: challenge, Want: 1}, nil); !errors.Is(err, context.Canceled) || len(f.sent) > 0 || s.trouble != power {
			t.Errorf("%v, %q, trouble %v", err, f.sent, s.trouble)
		}
	})
	// A device that never stops, a part of a request, a halt, a reset, a packet that is none.
	synctest.Test(t, func(t *testing.T) {
		f := &fake{packets: map[uint8][]string{}}
		s := slotOf(f)
		s.trouble = late
		for range 1000 {
			f.queue = append(f.queue, "-")
		}
		if _, err := s.Status(t.Context()); !errors.Is(err, reader.ErrProtocol) || !strings.Contains(err.Error(), "without an end") {
			t.Error(err)
		}
		s, f.queue, f.part = slotOf(f), nil, true
		if _, err := s.Exchange(t.Context(), reader.Transfer{Out: challenge, Want: 1}, nil); !errors.Is(err, reader.ErrProtocol) || !strings.Contains(err.Error(), "exchange: request 02: the reader took only a part") || !strings.Contains(err.Error(), unproven) {
			t.Error(err)
		}
		s, f.part, f.inFails = slotOf(f), false, usb.ErrStall
		if _, err := s.Status(t.Context()); !errors.Is(err, usb.ErrStall) || f.halted != 1 {
			t.Errorf("%v, %d ends of a halt", err, f.halted)
		}
		s, f.inFails = slotOf(f), usb.ErrReset
		if _, err := s.Status(t.Context()); !errors.Is(err, usb.ErrReset) || !errors.Is(err, reader.ErrProtocol) || s.trouble != power || f.halted != 1 {
			t.Errorf("%v, trouble %v", err, s.trouble)
		}
		s, f.inFails, f.fails = slotOf(f), nil, map[uint8]error{0x20: usb.ErrStall}
		if _, err := s.Status(t.Context()); !errors.Is(err, usb.ErrStall) || !strings.Contains(err.Error(), "status: request 20: ") || f.halted != 1 {
			t.Errorf("%v, %d ends of a halt", err, f.halted)
		}
		s, f.fails, f.big = slotOf(f), nil, 8
		f.packets[0x20] = []string{"C0"}
		if _, err := s.Status(t.Context()); !errors.Is(err, reader.ErrProtocol) {
			t.Error(err)
		}
	})
	// More than an answer can have.
	synctest.Test(t, func(t *testing.T) {
		f := &fake{packets: map[uint8][]string{}}
		for range 100 {
			f.packets[0x02] = append(f.packets[0x02], "01 02 03 04 05 06 07 08")
		}
		s := slotOf(f)
		if _, err := s.Exchange(t.Context(), reader.Transfer{Out: challenge, Want: 600, Wait: time.Second}, nil); !errors.Is(err, reader.ErrProtocol) || !strings.Contains(err.Error(), "an answer of more than 512 bytes") || s.in != [len(s.in)]byte{} {
			t.Error(err)
		}
	})
}

// A card is without power once it was switched off, whatever the status says of it then, and whether or not the reader
// did as it was told. A line that cannot be set ends a power-up.
func TestPower(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, fails := range []error{nil, usb.ErrStall} {
			f := &fake{packets: map[uint8][]string{0x20: {"C0"}}, fails: map[uint8]error{0x11: fails}}
			s := slotOf(f)
			if err := s.PowerOff(t.Context()); !errors.Is(err, fails) || f.sent[0] != "11 0000 0000  10s" {
				t.Errorf("%v, %q", err, f.sent)
			}
			if st, err := s.Status(t.Context()); st != reader.Present || err != nil {
				t.Errorf("%v, %v", st, err)
			}
		}
		for request, what := range map[uint8]string{0x30: "set the line", 0x11: "power off", 0x10: "power up", 0x01: "PPS"} {
			f := &fake{packets: map[uint8][]string{0x20: {"C0"}, 0x10: {"3B 02 14 50"}, 0x01: {"04 00"}}, fails: map[uint8]error{request: usb.ErrStall}}
			s := slotOf(f)
			if atr, err := s.PowerOn(t.Context(), reader.Cold); atr != nil || !errors.Is(err, usb.ErrStall) || !strings.HasPrefix(err.Error(), "cardman usb:1-2: "+what+": ") || s.powered {
				t.Errorf("request %02X: % X, %v, powered %v", request, atr, err, s.powered)
			}
		}
	})
}

// A device that was reset, as by the sleep of the system, has forgotten the line: the next power-up works.
func TestPortReset(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newReader(t, t0)
		port := e.Plug()
		defer port.Unplug()
		s := open(t, port)
		connect(t, s)
		port.Reset()
		if st, err := s.Status(t.Context()); st != reader.Present || err != nil {
			t.Errorf("status %v, %v", st, err)
		}
		if _, err := s.Exchange(t.Context(), reader.Transfer{Out: challenge, Want: 1, Wait: time.Second}, nil); !errors.Is(err, reader.ErrStale) {
			t.Error(err)
		}
		if got, err := connect(t, s).Transmit(t.Context(), challenge, nil); err != nil || !bytes.Equal(got, response) {
			t.Errorf("% X, %v", got, err)
		}
		if n := e.Contact.APDUs(); n != 1 {
			t.Errorf("the card had %d commands", n)
		}
	})
}

// An answer that comes too late is not taken for that of the next command. A card that asks for time gets it.
func TestLate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newReader(t, t0)
		port := e.Plug()
		defer port.Unplug()
		s := open(t, port)
		l := connect(t, s)
		e.Contact.SetFaults(icc.Faults{Slow: 5 * time.Second})
		if got, err := l.Transmit(t.Context(), challenge, nil); err != nil || !bytes.Equal(got, response) {
			t.Errorf("% X, %v", got, err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		if _, err := l.Transmit(ctx, []byte{0x80, 0xB0, 0, 5, 5}, nil); !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
		e.Contact.SetFaults(icc.Faults{})
		if got, err := connect(t, s).Transmit(t.Context(), challenge, nil); err != nil || !bytes.Equal(got, response) {
			t.Errorf("% X, %v", got, err)
		}
	})
}

// Every ID is listed, and the model is that of the ID.
func TestModels(t *testing.T) {
	var got []string
	for _, id := range (Driver{}).IDs() {
		got = append(got, fmt.Sprintf("%04x:%04x %s", id.Vendor, id.Product, id.Model))
		port := emu.New("").Plug()
		r, err := Driver{}.Open(t.Context(), reader.Device{Driver: "cardman", Address: "a", ID: id, Link: port})
		if err != nil {
			t.Fatal(err)
		}
		if name, _ := r.(reader.Identifier).Identify(); name != id.Model {
			t.Error(name)
		}
		r.Close()
		port.Unplug()
	}
	if s := strings.Join(got, ", "); s != "076b:0596 OMNIKEY CardMan 2020, 076b:1784 OMNIKEY CardMan 6020, 08d4:0009 Fujitsu Siemens SCR USB Reader" {
		t.Error(s)
	}
}

// An exchange makes no garbage.
func TestAllocations(t *testing.T) {
	s := slotOf(nil)
	s.conn = quick{}
	x := reader.Transfer{Out: challenge, Want: 1, Wait: time.Second}
	dst := make([]byte, 0, 300)
	if n := testing.AllocsPerRun(100, func() {
		if _, err := s.Exchange(context.Background(), x, dst); err != nil {
			t.Fatal(err)
		}
	}); n > 0 {
		t.Errorf("%v allocations", n)
	}
}

// quick is a device that answers everything alike.
type quick struct{ usb.Conn }

func (quick) Control(_ context.Context, _ usb.Setup, data []byte, _ time.Duration) (int, error) {
	return len(data), nil
}

func (quick) In(_ context.Context, _ uint8, p []byte, _ time.Duration) (int, error) {
	p[0] = 0x84
	return 1, nil
}

// Open fails if the device leaves meanwhile, and if the caller gives up; what else goes wrong with the line is for the
// power-up. An empty packet is followed by a pause.
func TestOpen(t *testing.T) {
	for _, x := range []struct{ fails, want error }{{nil, nil}, {usb.ErrStall, nil}, {usb.ErrTimeout, nil}, {reader.ErrGone, reader.ErrGone}} {
		f := &fake{fails: map[uint8]error{0x30: x.fails}}
		r, err := Driver{}.Open(t.Context(), device(f))
		if !errors.Is(err, x.want) || (err == nil) != (r != nil) || len(f.sent) != 1 || f.sent[0] != "30 0100 0002  10s" {
			t.Errorf("%v: %v, %q", x.fails, err, f.sent)
		}
	}
	s := slotOf(&fake{})
	if x := s.Traits(); x.Level != reader.Character || !x.AutoPPS || x.ClockHz != 3_720_000 || x.Fixed {
		t.Errorf("%+v", x)
	}
	synctest.Test(t, func(t *testing.T) {
		f := &fake{packets: map[uint8][]string{}}
		for range 5000 {
			f.packets[0x20] = append(f.packets[0x20], "-")
		}
		if _, err := slotOf(f).Status(t.Context()); !errors.Is(err, reader.ErrTimeout) || len(f.waits) > 201 {
			t.Errorf("%v, %d reads", err, len(f.waits))
		}
	})
}
