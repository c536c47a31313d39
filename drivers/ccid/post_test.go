package ccid

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cardfs/cardfs/drivers/bus/usb"
	"github.com/cardfs/cardfs/drivers/ccid/emu"
	"github.com/cardfs/cardfs/reader"
	"github.com/cardfs/cardfs/reader/readertest"
)

// poster makes a Conn start reads together with writes, and counts them.
type poster struct {
	usb.Conn
	posts atomic.Int32 // started
	open  atomic.Int32 // not finished
}

// posterLink opens the device of another link as a poster.
type posterLink struct {
	usb.Opener
	last atomic.Pointer[poster]
}

func (l *posterLink) OpenUSB(ctx context.Context, iface uint8) (usb.Conn, error) {
	c, err := l.Opener.OpenUSB(ctx, iface)
	if err != nil {
		return nil, err
	}
	p := &poster{Conn: c}
	l.last.Store(p)
	return p, nil
}

func (p *poster) OutPost(ctx context.Context, out uint8, data []byte, in uint8, n int, timeout time.Duration) (int, usb.Posted, error) {
	p.posts.Add(1)
	p.open.Add(1)
	r := &postedRead{p: p, buf: make([]byte, n), ended: make(chan struct{})}
	var rctx context.Context
	rctx, r.cancel = context.WithCancel(context.Background())
	go func() {
		defer close(r.ended)
		r.n, r.err = p.In(rctx, in, r.buf, 0)
	}()
	moved, err := p.Out(ctx, out, data, false, timeout)
	if err != nil {
		r.Cancel()
		return moved, nil, err
	}
	return moved, r, nil
}

type postedRead struct {
	p      *poster
	buf    []byte
	cancel context.CancelFunc
	ended  chan struct{}
	n      int
	err    error
	once   sync.Once
}

func (r *postedRead) Wait(ctx context.Context, p []byte, timeout time.Duration) (int, error) {
	late := time.NewTimer(timeout)
	defer late.Stop()
	var why error
	select {
	case <-r.ended:
	case <-ctx.Done():
		why = ctx.Err()
	case <-late.C:
		why = usb.ErrTimeout
	}
	r.Cancel()
	if r.err != nil && why != nil {
		return r.n, why
	}
	return copy(p, r.buf[:r.n]), r.err
}

func (r *postedRead) Cancel() {
	r.cancel()
	<-r.ended
	r.once.Do(func() { r.p.open.Add(-1) })
}

// The suite also passes if the read of the answer starts with the write of the command.
func TestSuitePosted(t *testing.T) {
	one := emu.TwoSlotReader()
	one.BusySlots = 1
	for _, c := range []struct {
		name  string
		cfg   emu.Config
		atr   []byte
		posts bool
	}{
		{"character T=0", emu.CharacterReader(), atrT0, true},
		{"TPDU T=1", emu.TPDUReader(), atrT1, true},
		{"extended APDU", emu.ExtendedAPDUReader(), atrT1, true},
		{"two slots, one at once", one, atrT1, true},
		// The cancelled read might hold another slot's answer.
		{"two slots", emu.TwoSlotReader(), atrT1, false},
		{"ICCD A", emu.ICCDA(), atrT0, false}, // no bulk endpoints
		{"ICCD B", emu.ICCDB(), atrT1, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			var links []*posterLink
			t.Run("suite", func(t *testing.T) {
				readertest.Suite(t, func(t *testing.T) *readertest.Fixture {
					e := newDevice(c.cfg)
					link := &posterLink{Opener: e}
					links = append(links, link)
					f := &readertest.Fixture{
						Driver:  Driver{},
						Device:  reader.Device{Driver: "ccid", Address: "emulator", Link: link},
						Command: unhex("00 84 00 00 04"), Answer: unhex("00 01 02 03 90 00"),
						Unplug: e.Unplug, Close: e.Unplug,
					}
					for n := range e.Config().Slots {
						e.Contact(n).Insert(&testCard{atr: c.atr})
						f.Slots = append(f.Slots, readertest.Contact(e.Contact(n), c.cfg.Features&emu.Token != 0))
					}
					return f
				})
			})
			posts := int32(0)
			for _, l := range links {
				if p := l.last.Load(); p != nil {
					posts += p.posts.Load()
					if n := p.open.Load(); n != 0 {
						t.Errorf("%d reads left under way", n)
					}
				}
			}
			if (posts > 0) != c.posts {
				t.Errorf("%d reads began with a write", posts)
			}
		})
	}
}

// refusing is a Conn whose bulk-OUT endpoint can be made to fail.
type refusing struct {
	usb.Conn
	fail func(p []byte) (n int, err error, failed bool)
}

type refusingLink struct {
	usb.Opener
	fail func(p []byte) (n int, err error, failed bool)
}

func (l *refusingLink) OpenUSB(ctx context.Context, iface uint8) (usb.Conn, error) {
	c, err := l.Opener.OpenUSB(ctx, iface)
	return &refusing{c, l.fail}, err
}

func (r *refusing) Out(ctx context.Context, ep uint8, p []byte, zlp bool, d time.Duration) (int, error) {
	if n, err, failed := r.fail(p); failed {
		return n, err
	}
	return r.Conn.Out(ctx, ep, p, zlp, d)
}

// A command that was not sent leaves no read behind: it would take the next answer.
func TestPostedNotSent(t *testing.T) {
	for name, tt := range map[string]struct {
		n    int
		err  error
		want error
	}{
		"stall": {0, usb.ErrStall, reader.ErrProtocol},
		"late":  {0, usb.ErrTimeout, reader.ErrTimeout},
		"short": {4, nil, reader.ErrProtocol},
	} {
		t.Run(name, func(t *testing.T) {
			e := newDevice(emu.TPDUReader())
			e.Contact(0).Insert(&testCard{atr: atrT0})
			t.Cleanup(e.Unplug)
			fails := false
			out := &refusingLink{e, func(p []byte) (int, error, bool) {
				return tt.n, tt.err, fails && p[0] == cmdXfrBlock
			}}
			link := &posterLink{Opener: out}
			r, err := Driver{}.Open(ctx, reader.Device{Link: link})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { r.Close() })
			s, p := r.Slots()[0], link.last.Load()
			if _, err := s.PowerOn(ctx, reader.Cold); err != nil {
				t.Fatal(err)
			}
			random := reader.Transfer{Out: unhex("00 84 00 00 04"), Wait: time.Second}
			fails = true
			if _, err := s.Exchange(ctx, random, nil); !errors.Is(err, tt.want) {
				t.Error(err)
			}
			if n := p.open.Load(); n != 0 {
				t.Errorf("%d reads left under way", n)
			}
			fails = false
			if _, err := s.Exchange(ctx, random, nil); err != nil {
				t.Errorf("the next command: %v", err)
			}
		})
	}
}
