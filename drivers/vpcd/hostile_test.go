package vpcd

import (
	"context"
	"errors"
	"io"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cardfs/cardfs/reader"
)

// A virtual card may leave between its announcement and its Open.
func TestGuestGoneBeforeOpen(t *testing.T) {
	p, h := attach(t, "127.0.0.1:0", nil)
	card(t, p)
	until(t, p.Slots()[0], reader.Present)
	remove := card(t, p)
	d := await(t, h.seen, "announcement")
	remove()
	await(t, d.Link.(*conn).done, "end of the connection")
	r, err := Driver{}.Open(t.Context(), d)
	if err != nil {
		t.Fatal(err)
	}
	await(t, r.Gone(), "departure")
	if _, err := r.Slots()[0].PowerOn(t.Context(), reader.Cold); !errors.Is(err, reader.ErrGone) {
		t.Errorf("power on: %v, want ErrGone", err)
	}
	_ = r.Close()
}

func TestTurnedAway(t *testing.T) {
	p, h := attach(t, "127.0.0.1:0", nil)
	h.fail = errors.New("shutting down")
	card(t, p)
	until(t, p.Slots()[0], reader.Present)
	nc := dial(t, p)
	if _, err := nc.Read(make([]byte, 1)); !errors.Is(err, io.EOF) && !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("read of a card without a reader: %v, want the end", err)
	}
}

// What a hostile card may do, and the outcome. The rule behind all of it: a message that
// nobody asked for is never an answer.
func TestHostile(t *testing.T) {
	const poweredOn = "> 00 01 01; > 00 01 04; < 00 02 3B 00; "
	for _, tc := range []struct {
		name, wire string
		params     map[string]string
		want       error
	}{
		{"silent", poweredOn + "> 00 04 00 00 00 01", map[string]string{"timeout": "20ms"}, reader.ErrTimeout},
		{"half an answer", poweredOn + "> 00 04 00 00 00 01; < 00 05 90", map[string]string{"timeout": "20ms"}, reader.ErrTimeout},
		{"half an answer, then the end", poweredOn + "> 00 04 00 00 00 01; < FF FF 90; close", nil, reader.ErrNoCard},
		{"two answers", poweredOn + "> 00 04 00 00 00 01; < 00 02 90 00 00 02 6A 82", nil, reader.ErrProtocol},
		{"longer than it says", poweredOn + "> 00 04 00 00 00 01; < 00 02 90 00 FF", nil, reader.ErrProtocol},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p, _ := attach(t, "127.0.0.1:0", tc.params)
			s := p.Slots()[0]
			nc := dial(t, p)
			until(t, s, reader.Present)
			wire := make(chan error, 1)
			go func() {
				script, end := strings.CutSuffix(tc.wire, "; close")
				err := play(nc, script)
				if end {
					_ = nc.Close()
				}
				wire <- err
			}()
			if _, err := s.PowerOn(t.Context(), reader.Cold); err != nil {
				t.Fatal(err)
			}
			_, err := s.Exchange(t.Context(), reader.Transfer{Out: unhex("00 00 00 01")}, nil)
			if !errors.Is(err, tc.want) {
				t.Errorf("error %v, want %v", err, tc.want)
			}
			if err := await(t, wire, "end of the wire trace"); err != nil {
				t.Error(err)
			}
			until(t, s, reader.Absent) // the connection was ended
			if _, err := s.Exchange(t.Context(), reader.Transfer{Out: unhex("00 00 00 02")}, nil); !errors.Is(err, reader.ErrNoCard) {
				t.Errorf("next command: %v, want ErrNoCard", err)
			}
		})
	}
}

// Unrequested bytes end the connection, even an idle one.
func TestUnsolicited(t *testing.T) {
	p, _ := attach(t, "127.0.0.1:0", nil)
	s := p.Slots()[0]
	for _, early := range []string{"00", "00 02 90 00", "00 00"} {
		nc := dial(t, p)
		until(t, s, reader.Present)
		if _, err := nc.Write(unhex(early)); err != nil {
			t.Fatal(err)
		}
		until(t, s, reader.Absent)
		_ = nc.Close()
	}
}

// An exchange ends with its context. An answer that arrives later ends the connection; it
// must not answer the next command.
func TestCancel(t *testing.T) {
	p, _ := attach(t, "127.0.0.1:0", nil)
	s := p.Slots()[0]
	nc := dial(t, p)
	until(t, s, reader.Present)
	asked := make(chan error, 1)
	go func() { asked <- play(nc, "> 00 01 01; > 00 01 04; < 00 02 3B 00; > 00 04 00 00 00 01") }()
	if _, err := s.PowerOn(t.Context(), reader.Cold); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		<-asked
		cancel()
	}()
	if _, err := s.Exchange(ctx, reader.Transfer{Out: unhex("00 00 00 01")}, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v, want Canceled", err)
	}
	until(t, s, reader.Absent)
	if _, err := s.PowerOn(ctx, reader.Cold); !errors.Is(err, reader.ErrNoCard) {
		t.Errorf("power on with an ended context and no card: %v, want ErrNoCard", err)
	}
}

// A card that does not read must not hold up the exchange beyond its context.
func TestCardThatDoesNotRead(t *testing.T) {
	for _, tc := range []struct {
		name   string
		params map[string]string
		want   error
	}{
		{"context", nil, context.Canceled},
		{"timeout", map[string]string{"timeout": "50ms"}, reader.ErrTimeout},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p, _ := attach(t, "unix:"+filepath.Join(t.TempDir(), "s"), tc.params)
			s := p.Slots()[0]
			nc := dial(t, p)
			until(t, s, reader.Present)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			var stuck error
			go func() { _ = play(nc, "> 00 01 01; > 00 01 04; < 00 02 3B 00") }()
			if _, err := s.PowerOn(ctx, reader.Cold); err != nil {
				t.Fatal(err)
			}
			c, _, err := p.slot.get()
			if err != nil {
				t.Fatal(err)
			}
			if tc.want == context.Canceled {
				time.AfterFunc(50*time.Millisecond, cancel)
			}
			for stuck == nil {
				stuck = c.tell(ctx, make([]byte, maxMessage)...)
			}
			// After a message without an answer, its sender learns that the card is away, and
			// why.
			want := reader.ErrNoCard
			if tc.want == context.Canceled {
				want = tc.want
			}
			if !errors.Is(stuck, want) || want == reader.ErrNoCard && !strings.Contains(stuck.Error(), "took no more commands") {
				t.Errorf("error %v, want %v", stuck, want)
			}
			until(t, s, reader.Absent)
		})
	}
}
