package core_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"regexp"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/cardfs/cardfs/reader"
	"github.com/cardfs/cardfs/reader/core"
	"github.com/cardfs/cardfs/reader/icc"
)

// wireSlot is a driver, a reader and its slot, straight on an emulated card's
// contacts, at any level. garble, if set, replaces what came.
type wireSlot struct {
	icc.Contact
	level  reader.Level
	garble func(n int, rx []byte) []byte
	n      int
	gone   chan struct{}
}

func (s *wireSlot) Name() string                                               { return "wire" }
func (s *wireSlot) IDs() []reader.ID                                           { return nil }
func (s *wireSlot) Open(context.Context, reader.Device) (reader.Reader, error) { return s, nil }
func (s *wireSlot) Slots() []reader.Slot                                       { return []reader.Slot{s} }
func (s *wireSlot) Gone() <-chan struct{}                                      { return s.gone }
func (s *wireSlot) Close() error                                               { return nil }
func (s *wireSlot) Traits() reader.Traits                                      { return reader.Traits{Level: s.level} }
func (s *wireSlot) PowerOff(context.Context) error                             { s.Deactivate(); return nil }
func (s *wireSlot) PowerOn(ctx context.Context, how reader.Reset) ([]byte, error) {
	return s.Activate(ctx, how == reader.Warm)
}

func (s *wireSlot) Status(context.Context) (reader.Status, error) {
	if s.Powered() {
		return reader.Powered, nil
	}
	return reader.Present, nil
}

func (s *wireSlot) Exchange(ctx context.Context, x reader.Transfer, dst []byte) ([]byte, error) {
	var rx []byte
	switch s.level {
	case reader.Character:
		rx = s.Chars(ctx, x.Out, x.Want)
	case reader.TPDU:
		rx = s.TPDU(ctx, x.Out)
	default:
		rx = s.APDU(ctx, x.Out)
	}
	if s.garble != nil {
		s.n++
		rx = s.garble(s.n, rx)
	}
	if rx == nil {
		return dst, reader.ErrTimeout
	}
	return append(dst, rx...), nil
}

// marked is a card that answers each command with answer.
type marked struct {
	atr      string
	answer   []byte
	incoming bool
}

func (c *marked) ATR() []byte              { return unhex(c.atr) }
func (c *marked) Reset(bool)               {}
func (c *marked) Incoming(byte, byte) bool { return c.incoming }
func (c *marked) Process([]byte) []byte    { return bytes.Clone(c.answer) }

var levels = []struct {
	name  string
	level reader.Level
	atr   string
}{
	{"T=1", reader.TPDU, atrT1},
	{"T=1, CRC", reader.TPDU, "3B 80 81 51 20 01 71"},
	{"T=1, characters", reader.Character, atrT1},
	{"T=0", reader.TPDU, atrT0},
	{"T=0, characters", reader.Character, atrT0},
	{"T=0, short APDU", reader.ShortAPDU, atrT0},
	{"T=1, short APDU", reader.ShortAPDU, atrT1},
	{"extended APDU", reader.ExtendedAPDU, atrT1},
}

// scene is a reader with such a card, its trace, events, log and status.
type scene struct {
	t       *testing.T
	slot    *wireSlot
	card    *marked
	served  *core.Slot
	session *core.Session
	trace   *core.Feed[string]
	events  *core.Feed[core.Event]
	log     bytes.Buffer
	errors  strings.Builder
}

func onStage(t *testing.T, level reader.Level, atr string, f func(*scene)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		sc := &scene{t: t, card: &marked{atr: atr}, slot: &wireSlot{level: level, gone: make(chan struct{})}}
		sc.slot.Insert(sc.card)
		m := core.NewManager(core.Options{
			Drivers: []reader.Driver{sc.slot},
			Log: slog.New(slog.NewTextHandler(&sc.log, &slog.HandlerOptions{Level: slog.LevelDebug,
				ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
					if a.Key == slog.TimeKey {
						return slog.Attr{}
					}
					return a
				}})),
		})
		defer m.Close(context.Background())
		if err := m.Announce(reader.Device{Driver: "wire", Address: "a"}); err != nil {
			t.Fatal(err)
		}
		sc.served = m.Slot(0)
		sc.open()
		sc.trace, sc.events = sc.served.FollowTrace(), sc.served.Follow()
		defer sc.served.CloseTrace(sc.trace)
		defer sc.events.Close()
		f(sc)
	})
}

func (sc *scene) open() {
	var err error
	if sc.session, err = sc.served.Open(context.Background(), core.Caller{Owner: sc, Wait: true}); err != nil {
		sc.t.Fatal(err)
	}
}

func (sc *scene) transmit(capdu []byte) ([]byte, error) {
	answer, err := sc.session.Transmit(context.Background(), capdu, nil)
	if err != nil {
		sc.errors.WriteString(err.Error() + "\n")
	}
	return answer, err
}

// said is all that anybody could read until now, times apart.
func (sc *scene) said() (trace, rest string) {
	var lines, more strings.Builder
	for {
		line, _, ok, err := sc.trace.TryNext()
		if !ok || err != nil {
			break
		}
		_, line, _ = strings.Cut(line, " ")
		lines.WriteString(line + "\n")
	}
	for {
		e, _, ok, err := sc.events.TryNext()
		if !ok || err != nil {
			break
		}
		fmt.Fprintf(&more, "%+v\n", e)
	}
	more.WriteString(sc.errors.String())
	i := sc.served.Info()
	fmt.Fprintf(&more, "%v %v %v %v\n", i.Err, i.Model, i.More, i.Fallback)
	more.WriteString(sc.log.String())
	return lines.String(), more.String()
}

// marker is a byte that nothing else has, so that one that shows is found.
const marker = 0xE7

// length is a masked line with P3, or with LEN: it would tell a PIN's length.
var length = regexp.MustCompile(`(?m)^> .*([0-9A-F]{2} ){5}\[masked\]|^>   ([0-9A-F]{2} ){3}\[masked\]`)

// wantSecret checks that nothing of the marker shows and, unless there was no
// data at all, that the trace says that something was left out.
func (sc *scene) wantSecret(what string, data bool) {
	sc.t.Helper()
	trace, rest := sc.said()
	if strings.Contains(strings.ToUpper(trace+rest), "E7") || length.MatchString(trace) {
		sc.t.Errorf("%s shows:\n%s%s", what, trace, rest)
	}
	if data && !strings.Contains(trace, "[masked]") {
		sc.t.Errorf("%s: nothing says that it is masked:\n%s", what, trace)
	}
}
