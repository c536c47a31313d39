package vpcd

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cardfs/cardfs/reader"
	"github.com/cardfs/cardfs/reader/iso7816"
	"golang.org/x/sys/unix"
)

var atr = unhex("3B 80 80 01 01")

// Each line is one message: > from the reader, < from the card.
func TestWire(t *testing.T) {
	type step struct {
		call string
		wire string
		want string // bytes, or the error
	}
	steps := []step{
		{"cold", "> 00 01 01; > 00 01 04; < 00 05 3B 80 80 01 01", "3B 80 80 01 01"},
		{"cold", "> 00 01 00; > 00 01 01; > 00 01 04; < 00 02 3B 00", "3B 00"}, // power is taken away first
		{"warm", "> 00 01 02; > 00 01 04; < 00 02 3B 00", "3B 00"},
		{"00 A4 00 0C 02 3F 00", "> 00 07 00 A4 00 0C 02 3F 00; < 00 02 90 00", "90 00"},
		{"off", "> 00 01 00", ""},
		{"off", "", ""},
		{"00 84 00 00 08", "", "error " + reader.ErrMute.Error()},
		{"warm", "> 00 01 01; > 00 01 04; < 00 02 3B 00", "3B 00"}, // a card without power is powered up, not reset
		// Answers that are invalid: the connection stays, as the framing is intact.
		{"00 84 00 00 08", "> 00 05 00 84 00 00 08; < 00 00", "error " + reader.ErrProtocol.Error()},
		{"00 84 00 00 08", "> 00 05 00 84 00 00 08; < 00 01 90", "error " + reader.ErrProtocol.Error()},
		// A length in pieces, a payload in pieces.
		{"00 84 00 00 02", "> 00 05 00 84 00 00 02; < 00; < 04 01; < 02 90; < 00", "01 02 90 00"},
		// Never sent: the card would take a single byte for a control message.
		{"01", "", "error " + reader.ErrInvalid.Error()},
		{"00 A4 00", "", "error " + reader.ErrInvalid.Error()},
		// Invalid ATRs.
		{"cold", "> 00 01 00; > 00 01 01; > 00 01 04; < 00 00", "error " + reader.ErrMute.Error()},
		{"cold", "> 00 01 01; > 00 01 04; < 00 28" + strings.Repeat(" 3B", 40), "error " + reader.ErrMute.Error()},
		{"cold", "> 00 01 01; > 00 01 04; < 00 21" + strings.Repeat(" 3B", 33), strings.TrimSpace(strings.Repeat(" 3B", 33))},
	}

	p, _ := attach(t, "127.0.0.1:0", nil)
	s := p.Slots()[0]
	nc := dial(t, p)
	until(t, s, reader.Present)
	for i, st := range steps {
		wire := make(chan error, 1)
		go func() { wire <- play(nc, st.wire) }()
		var got []byte
		var err error
		switch st.call {
		case "cold":
			got, err = s.PowerOn(t.Context(), reader.Cold)
		case "warm":
			got, err = s.PowerOn(t.Context(), reader.Warm)
		case "off":
			err = s.PowerOff(t.Context())
		default:
			got, err = s.Exchange(t.Context(), reader.Transfer{Out: unhex(st.call)}, []byte("kept "))
			if err == nil {
				var ok bool
				if got, ok = bytes.CutPrefix(got, []byte("kept ")); !ok {
					t.Errorf("step %d: the answer was not appended: % X", i, got)
				}
			}
		}
		if werr := await(t, wire, "end of the wire trace"); werr != nil {
			t.Fatalf("step %d, %s: on the wire: %v (call: %v)", i, st.call, werr, err)
		}
		what, wantErr := strings.CutPrefix(st.want, "error ")
		switch {
		case wantErr && (err == nil || !strings.Contains(err.Error(), what)):
			t.Errorf("step %d, %s: error %v, want %q", i, st.call, err, what)
		case !wantErr && err != nil:
			t.Errorf("step %d, %s: %v", i, st.call, err)
		case !wantErr && fmt.Sprintf("% X", got) != st.want:
			t.Errorf("step %d, %s: % X, want %s", i, st.call, got, st.want)
		}
	}
}

// "each connection is a card in a slot": the end of the connection is the card's removal,
// even during an exchange.
func TestInsertAndRemove(t *testing.T) {
	p, _ := attach(t, "127.0.0.1:0", nil)
	s := p.Slots()[0]
	until(t, s, reader.Absent)
	if _, err := s.PowerOn(t.Context(), reader.Cold); !errors.Is(err, reader.ErrNoCard) {
		t.Errorf("power on without a card: %v, want ErrNoCard", err)
	}
	for range 3 {
		remove := card(t, p)
		until(t, s, reader.Present)
		powerOn(t, s)
		until(t, s, reader.Powered)
		if got := exchange(t, s, "00 01 02 03"); got != "00 01 02 03 90 00" {
			t.Errorf("answer %s", got)
		}
		remove()
		until(t, s, reader.Absent)
	}

	nc := dial(t, p)
	until(t, s, reader.Present)
	go func() {
		_ = play(nc, "> 00 01 01; > 00 01 04; < 00 02 3B 00; > 00 04 00 01 02 03")
		_ = nc.Close()
	}()
	if _, err := s.PowerOn(t.Context(), reader.Cold); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Exchange(t.Context(), reader.Transfer{Out: unhex("00 01 02 03")}, nil); !errors.Is(err, reader.ErrNoCard) {
		t.Errorf("card removed in an exchange: %v, want ErrNoCard", err)
	}
	until(t, s, reader.Absent)
}

// A card that is replaced between two calls of Status must be seen absent once, without
// power. Otherwise nobody would notice the change.
func TestSwapIsSeen(t *testing.T) {
	p, h := attach(t, "127.0.0.1:0", nil)
	s := p.Slots()[0]
	first := dial(t, p)
	until(t, s, reader.Present)
	c, _, err := p.slot.get()
	if err != nil {
		t.Fatal(err)
	}
	_ = first.Close()
	await(t, c.done, "end of the first connection") // the slot knows of it
	second := dial(t, p)
	third := dial(t, p) // the place is reserved for the second
	d, _ := h.open()
	if want := p.opts.String() + "+2"; d.Address != want {
		t.Errorf("announced as %s, want %s", d.Address, want)
	}
	if st, _ := s.Status(t.Context()); st != reader.Absent {
		t.Errorf("first look after the exchange: state %d, want absent", st)
	}
	until(t, s, reader.Present)
	_ = second.Close()
	_ = third.Close()
	until(t, s, reader.Absent)
}

// "several at once": further cards are readers of their own that leave with their
// connection. The standing slot takes the next card when it is free.
func TestSeveral(t *testing.T) {
	p, h := attach(t, "127.0.0.1:0", map[string]string{"cards": "22"})
	s := p.Slots()[0]
	removeFirst := card(t, p)
	until(t, s, reader.Present)

	const guests = 20
	var remove [guests]func()
	var rs [guests]reader.Reader
	for i := range guests {
		remove[i] = card(t, p)
		var d reader.Device
		d, rs[i] = h.open()
		if want := fmt.Sprintf("%s+%d", p.opts, i+2); d.Address != want || d.Driver != "vpcd" || d.Bus != "tcp" {
			t.Errorf("announced %+v, want address %s", d, want)
		}
		powerOn(t, rs[i].Slots()[0])
	}
	powerOn(t, s)
	var wg sync.WaitGroup
	for i, r := range rs {
		wg.Go(func() {
			cmd := fmt.Sprintf("00 00 00 %02X", i)
			for range 50 {
				if got := exchange(t, r.Slots()[0], cmd); got != cmd+" 90 00" {
					t.Errorf("guest %d: %s", i, got)
				}
			}
		})
	}
	wg.Wait()

	remove[4]()
	await(t, rs[4].Gone(), "departure of a guest")
	if _, err := rs[4].Slots()[0].Exchange(t.Context(), reader.Transfer{Out: unhex("00 00 00 00")}, nil); !errors.Is(err, reader.ErrGone) {
		t.Errorf("exchange after the departure: %v, want ErrGone", err)
	}
	if err := rs[4].Close(); err != nil {
		t.Error(err)
	}
	card(t, p)
	if d, _ := h.open(); d.Address != p.opts.String()+"+6" {
		t.Errorf("the free name was not taken again: %s", d.Address)
	}

	removeFirst()
	until(t, s, reader.Absent)
	card(t, p)
	until(t, s, reader.Present)
	powerOn(t, s)

	if err := p.Close(); err != nil {
		t.Error(err)
	}
	await(t, rs[0].Gone(), "departure of a guest with its port")
	if err := p.Close(); err != nil {
		t.Errorf("second close: %v", err)
	}
}

func TestLongest(t *testing.T) {
	p, _ := attach(t, "127.0.0.1:0", nil)
	s := p.Slots()[0]
	card(t, p)
	until(t, s, reader.Present)
	powerOn(t, s)
	cmd := bytes.Repeat([]byte{0xA5}, maxMessage-2)
	got, err := s.Exchange(t.Context(), reader.Transfer{Out: cmd}, nil)
	if err != nil || !bytes.Equal(got, append(cmd, 0x90, 0x00)) {
		t.Errorf("%d bytes, %v; want %d bytes", len(got), err, maxMessage)
	}
	if _, err := s.Exchange(t.Context(), reader.Transfer{Out: make([]byte, maxMessage+1)}, nil); !errors.Is(err, reader.ErrUnsupported) || errors.Is(err, reader.ErrInvalid) {
		t.Errorf("a command that no length can announce: %v, want ErrUnsupported", err)
	}
	// "A command that is well formed but too long for the way says EOPNOTSUPP, nothing
	// sent": Nc 65,535, extended, with and without Le.
	for _, le := range []int{0, 2} {
		cmd := append([]byte{0, 0xD6, 0, 0, 0, 0xFF, 0xFF}, make([]byte, 65535+le)...)
		if _, err := s.Exchange(t.Context(), reader.Transfer{Out: cmd}, nil); !errors.Is(err, reader.ErrUnsupported) || errors.Is(err, reader.ErrInvalid) {
			t.Errorf("%d bytes: %v, want ErrUnsupported", len(cmd), err)
		}
	}
	if got := exchange(t, s, "00 84 00 00"); got != "00 84 00 00 90 00" {
		t.Errorf("the next command: %s", got) // and nothing was sent before it
	}
}

func TestSelectProtocol(t *testing.T) {
	p, _ := attach(t, "127.0.0.1:0", nil)
	sel := p.Slots()[0].(reader.ProtocolSelector)
	if _, err := sel.SelectProtocol(t.Context(), iso7816.Params{T: 1}); !errors.Is(err, reader.ErrNoCard) {
		t.Errorf("without a card: %v, want ErrNoCard", err)
	}
	card(t, p)
	until(t, p.Slots()[0], reader.Present)
	for _, want := range []iso7816.Params{{T: 0, TA1: 0x11}, {T: 1, TA1: 0x96}} {
		if got, err := sel.SelectProtocol(t.Context(), want); got != want || err != nil {
			t.Errorf("%+v, %v; want %+v", got, err, want)
		}
	}
}

// The peer is described in words that help to find it.
func TestPeer(t *testing.T) {
	for address, want := range map[string]string{
		"127.0.0.1:0": "127.0.0.1:",
		"unix:" + filepath.Join(t.TempDir(), "s"): fmt.Sprintf("pid %d", os.Getpid()),
	} {
		p, h := attach(t, address, nil)
		card(t, p)
		until(t, p.Slots()[0], reader.Present)
		card(t, p)
		_, r := h.open()
		model, more := r.(reader.Identifier).Identify()
		if model != "Virtual card" || !strings.HasPrefix(more["peer"], want) {
			t.Errorf("%s: %q, %v, want peer %s", address, model, more, want)
		}
		model, more = p.Identify()
		if model != "Virtual card port" || more["listen"] != p.opts.String() || strings.HasSuffix(more["listen"], ":0") {
			t.Errorf("%s: %q, %v", address, model, more)
		}
	}
}

func TestNoDelay(t *testing.T) {
	p, _ := attach(t, "127.0.0.1:0", nil)
	dial(t, p)
	until(t, p.Slots()[0], reader.Present)
	c, _, err := p.slot.get()
	if err != nil {
		t.Fatal(err)
	}
	for name, opt := range map[string][2]int{
		"TCP_NODELAY":  {unix.IPPROTO_TCP, unix.TCP_NODELAY},
		"SO_KEEPALIVE": {unix.SOL_SOCKET, unix.SO_KEEPALIVE},
	} {
		_ = c.raw.Control(func(fd uintptr) {
			if v, err := unix.GetsockoptInt(int(fd), opt[0], opt[1]); v == 0 || err != nil {
				t.Errorf("%s is %d, %v", name, v, err)
			}
		})
	}
}

// The exchange path allocates no memory.
func TestExchangeAllocates(t *testing.T) {
	p, _ := attach(t, "unix:"+filepath.Join(t.TempDir(), "s"), nil)
	s := p.Slots()[0]
	nc := dial(t, p)
	done := make(chan struct{})
	go func() {
		defer close(done)
		buf, answer := make([]byte, 64), unhex("00 02 90 00")
		_ = play(nc, "> 00 01 01; > 00 01 04; < 00 02 3B 00")
		_ = nc.SetReadDeadline(time.Time{})
		for {
			if _, err := nc.Read(buf); err != nil {
				return
			}
			if _, err := nc.Write(answer); err != nil {
				return
			}
		}
	}()
	until(t, s, reader.Present)
	if _, err := s.PowerOn(t.Context(), reader.Cold); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	cmd, dst := unhex("00 00 00 01"), make([]byte, 0, 64)
	n := testing.AllocsPerRun(200, func() {
		if _, err := s.Exchange(ctx, reader.Transfer{Out: cmd}, dst); err != nil {
			t.Fatal(err)
		}
	})
	if n > 0 && !raceEnabled {
		t.Errorf("%v allocations an exchange", n)
	}
	_ = nc.Close()
	<-done
}

func BenchmarkExchange(b *testing.B) {
	for _, address := range []string{"127.0.0.1:0", "unix:" + filepath.Join(b.TempDir(), "s")} {
		network, _, _ := strings.Cut(address, ":")
		b.Run(network, func(b *testing.B) {
			p, _ := attach(b, address, nil)
			s := p.Slots()[0]
			card(b, p)
			until(b, s, reader.Present)
			powerOn(b, s)
			cmd, dst := unhex("00 00 00 01"), make([]byte, 0, 64)
			b.ReportAllocs()
			for b.Loop() {
				if _, err := s.Exchange(b.Context(), reader.Transfer{Out: cmd}, dst); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
