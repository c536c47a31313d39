package cm4000

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cardfs/cardfs/drivers/bus/chardev"
	"github.com/cardfs/cardfs/drivers/bus/chardev/chardevtest"
	"github.com/cardfs/cardfs/reader"
)

// entry is a line of the session.
type entry struct {
	kind string // ioctl, write, read, wait, *, ==, unplug
	name string // of a step or an event; the number of an ioctl
	data []byte
	eio  bool
}

func loadSession(t *testing.T) (all []entry) {
	t.Helper()
	text, err := os.ReadFile("testdata/session.txt")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		line, _, _ = strings.Cut(line, "#")
		if strings.TrimSpace(line) == "" {
			continue
		}
		head, data, _ := strings.Cut(line, "|")
		kind, name, _ := strings.Cut(strings.TrimSpace(head), " ")
		e := entry{kind: kind, name: strings.TrimSpace(name)}
		data, e.eio = strings.CutSuffix(strings.TrimSpace(data), " EIO")
		e.data = unhex(data)
		all = append(all, e)
	}
	return all
}

// request is the number of an ioctl of this machine's, whose pointers may be smaller.
func (e entry) request() uint {
	n, err := strconv.ParseUint(e.name, 16, 32)
	if err != nil {
		panic(err)
	}
	if n>>16&0xFF == 8 {
		n = n&^(0xFF<<16) | strconv.IntSize/8<<16
	}
	return uint(n)
}

// player is the device file of a session, for the driver.
type player struct {
	t    *testing.T
	rest []entry
	gone chan struct{}
}

func (p *player) next() entry {
	p.t.Helper()
	for len(p.rest) > 0 && (p.rest[0].kind == "*" || p.rest[0].kind == "wait") {
		p.rest = p.rest[1:]
	}
	if len(p.rest) == 0 {
		return entry{}
	}
	e := p.rest[0]
	p.rest = p.rest[1:]
	if e.kind == "unplug" {
		close(p.gone)
	}
	return e
}

func (p *player) step(name string) {
	p.t.Helper()
	if e := p.next(); e.kind != "==" || e.name != name {
		p.t.Fatalf("step %s: the session has %v", name, e)
	}
}

func (p *player) call(kind string, same func(e entry) bool) (entry, error) {
	p.t.Helper()
	e := p.next()
	switch {
	case e.kind == "unplug":
		return e, reader.ErrGone
	case e.kind != kind || !same(e):
		p.t.Errorf("%s; the session has %s %s | % X", kind, e.kind, e.name, e.data)
		return e, reader.ErrGone
	case e.eio:
		return e, fmt.Errorf("device: %w", syscall.EIO)
	}
	return e, nil
}

func (p *player) OpenNode(context.Context) (chardev.Node, error) { return p, nil }
func (p *player) Gone() <-chan struct{}                          { return p.gone }
func (p *player) Close() error                                   { return nil }

func (p *player) Read(_ context.Context, b []byte, _ time.Duration) (int, error) {
	e, err := p.call("read", func(entry) bool { return len(b) >= 258 })
	return copy(b, e.data), err
}

func (p *player) Write(_ context.Context, b []byte, _ time.Duration) (int, error) {
	_, err := p.call("write", func(e entry) bool { return bytes.Equal(b, e.data) })
	return len(b), err
}

func (p *player) Ioctl(_ context.Context, request uint, data []byte, _ time.Duration) error {
	e, err := p.call("ioctl", func(e entry) bool { return e.request() == request && len(data) >= len(e.data) })
	copy(data, native(e.data))
	return err
}

// native is what a little-endian machine would copy, on this one.
func native(p []byte) []byte {
	p = bytes.Clone(p)
	if len(p) >= 4 {
		binary.NativeEndian.PutUint32(p, binary.LittleEndian.Uint32(p))
	}
	return p
}

// The driver makes the session's calls, and accepts what they return.
func TestDriverPlaysSession(t *testing.T) {
	p := &player{t: t, rest: loadSession(t), gone: make(chan struct{})}
	p.step("open")
	r, err := Driver{}.Open(t.Context(), device(p))
	if err != nil {
		t.Fatal(err)
	}
	s := r.Slots()[0]
	status := func(want reader.Status) {
		t.Helper()
		if got, err := s.Status(t.Context()); got != want || err != nil {
			t.Errorf("%v, %v, want %v", got, err, want)
		}
	}
	p.step("no card")
	status(reader.Absent)
	p.step("a card has come")
	status(reader.Present)
	status(reader.Present)
	p.step("power on")
	if atr, err := s.PowerOn(t.Context(), reader.Cold); err != nil || !bytes.Equal(atr, bare.ATR()) {
		t.Fatalf("ATR % X, %v", atr, err)
	}
	p.step("commands")
	for _, x := range [][2]string{{"00 A4 00 00 02 3F 00", "90 00"}, {"00 84 00 00 08", "11 12 13 14 15 16 17 18 90 00"}} {
		got, err := s.Exchange(t.Context(), reader.Transfer{Out: unhex(x[0]), Wait: time.Second}, nil)
		if err != nil || !bytes.Equal(got, unhex(x[1])) {
			t.Errorf("%s: % X, %v", x[0], got, err)
		}
	}
	p.step("the card leaves")
	_, err = s.Exchange(t.Context(), reader.Transfer{Out: unhex("00 84 00 00 08"), Wait: time.Second}, nil)
	wants(t, err, reader.ErrNoCard)
	p.step("unplugged")
	_, err = s.Status(t.Context())
	wants(t, err, reader.ErrGone)
	if len(p.rest) > 0 {
		t.Errorf("the session goes on: %v", p.rest)
	}
}

// replay makes the session's calls on a node.
func replay(t *testing.T, n chardev.Node, events map[string]func(), all []entry) {
	t.Helper()
	ctx := t.Context()
	for i, e := range all {
		var got []byte
		var err error
		switch e.kind {
		case "==":
			continue
		case "*":
			events[e.name]()
			continue
		case "wait":
			d, _ := time.ParseDuration(e.name)
			time.Sleep(d)
			continue
		case "unplug":
			events["unplug"]()
			<-n.Gone()
			continue
		case "ioctl":
			var buf []byte
			if len(e.data) > 0 {
				buf = make([]byte, 76)
			}
			if err = n.Ioctl(ctx, e.request(), buf, 10*time.Second); len(buf) > 0 {
				got = native(buf)[:len(e.data)]
			}
		case "write":
			var sent int
			if sent, err = n.Write(ctx, e.data, 10*time.Second); err == nil {
				got = e.data[:sent]
			}
		case "read":
			buf := make([]byte, 258)
			var came int
			came, err = n.Read(ctx, buf, 10*time.Second)
			got = buf[:came]
		}
		if e.eio {
			wants(t, err, syscall.EIO)
			continue
		}
		if err != nil || !bytes.Equal(got, e.data) {
			t.Errorf("entry %d, %s %s: % X, %v, want % X", i, e.kind, e.name, got, err, e.data)
		}
	}
}

// plugged is an emulated reader in this process: its node, and what the session's events do.
func plugged(t *testing.T, d chardevtest.Device) (chardev.Node, *chardevtest.Plugged) {
	t.Helper()
	p := chardevtest.Plug(d)
	n, err := p.OpenNode(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return n, p
}
