package vpcd

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/cardfs/cardfs/reader"
	"github.com/cardfs/cardfs/reader/readertest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var unhex = readertest.Hex

// host stands in for the core: it opens announced readers.
type host struct {
	t    testing.TB
	seen chan reader.Device
	fail error
}

func (h *host) Announce(d reader.Device) error {
	if h.fail != nil {
		return h.fail
	}
	h.seen <- d
	return nil
}

func (h *host) open() (reader.Device, reader.Reader) {
	h.t.Helper()
	d := await(h.t, h.seen, "announcement")
	r, err := Driver{}.Open(h.t.Context(), d)
	if err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() { _ = r.Close() })
	return d, r
}

// await bounds every wait, so that a failure names it.
func await[T any](t testing.TB, ch <-chan T, what string) T {
	t.Helper()
	select {
	case v := <-ch:
		return v
	case <-time.After(time.Minute):
		t.Fatalf("no %s", what)
		panic("unreachable")
	}
}

// attach opens a port as `attach vpcd ADDRESS key=value…` does.
func attach(t testing.TB, address string, params map[string]string) (*port, *host) {
	t.Helper()
	h := &host{t: t, seen: make(chan reader.Device, 64)}
	r, err := Driver{}.Open(t.Context(), reader.Device{Driver: "vpcd", Address: address, Params: params, Host: h})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return r.(*port), h
}

func dial(t testing.TB, p *port) net.Conn {
	t.Helper()
	nc, err := net.Dial(p.opts.network, p.opts.address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = nc.Close() })
	return nc
}

// until waits for a Status, asking after each notification as the core does.
func until(t testing.TB, s reader.Slot, want reader.Status) {
	t.Helper()
	for {
		st, err := s.Status(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if st == want {
			return
		}
		await(t, s.(reader.Notifier).Changes(), fmt.Sprintf("change to state %d from %d", want, st))
	}
}

// next reads one message, as a virtual card does.
func next(r io.Reader) ([]byte, error) {
	var h [2]byte
	if _, err := io.ReadFull(r, h[:]); err != nil {
		return nil, err
	}
	p := make([]byte, binary.BigEndian.Uint16(h[:]))
	_, err := io.ReadFull(r, p)
	return p, err
}

// serve plays a well-behaved card: the ATR, and each command echoed with 90 00.
func serve(nc net.Conn) {
	for {
		m, err := next(nc)
		if err != nil {
			return
		}
		switch {
		case len(m) == 1 && m[0] == ctlATR:
			m = atr
		case len(m) == 1:
			continue
		default:
			m = append(m, 0x90, 0x00)
		}
		if _, err := nc.Write(appendFrame(nil, m)); err != nil {
			return
		}
	}
}

// card connects a well-behaved card; the function disconnects it.
func card(t testing.TB, p *port) (remove func()) {
	nc := dial(t, p)
	var wg sync.WaitGroup
	wg.Go(func() { serve(nc) })
	remove = func() { _ = nc.Close(); wg.Wait() }
	t.Cleanup(remove)
	return remove
}

func powerOn(t testing.TB, s reader.Slot) {
	t.Helper()
	got, err := s.PowerOn(t.Context(), reader.Cold)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, atr) {
		t.Fatalf("ATR % X, want % X", got, atr)
	}
}

func exchange(t testing.TB, s reader.Slot, cmd string) string {
	t.Helper()
	got, err := s.Exchange(t.Context(), reader.Transfer{Out: unhex(cmd)}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("% X", got)
}

func play(nc net.Conn, script string) error {
	_ = nc.SetReadDeadline(time.Now().Add(time.Minute))
	for line := range strings.SplitSeq(script, ";") {
		line = strings.TrimSpace(line)
		if line == "" {
			continue
		}
		want := unhex(line[1:])
		if line[0] == '<' {
			if _, err := nc.Write(want); err != nil {
				return err
			}
			continue
		}
		got := make([]byte, len(want))
		if _, err := io.ReadFull(nc, got); err != nil {
			return fmt.Errorf("%s: %w", line, err)
		}
		if !bytes.Equal(got, want) {
			return fmt.Errorf("reader sent % X, want %s", got, line)
		}
	}
	return nil
}
