package remote

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/cardfs/cardfs/drivers/sim"
	"github.com/cardfs/cardfs/fs"
	"github.com/cardfs/cardfs/reader"
	"github.com/cardfs/cardfs/reader/core"
	"github.com/cardfs/cardfs/reader/readertest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience bounds every wait, so that a failure names it.
const patience = 30 * time.Second

// there is a machine with a cardfs. Its files are served by this process, and used by the
// child that package files starts: so neither waits for itself.
type there struct {
	*core.Manager
	t   testing.TB
	dir string
	srv *fs.Server
}

func machineThere(t testing.TB, readers ...string) *there {
	t.Helper()
	dir, err := os.MkdirTemp("", "far")
	if err != nil {
		t.Fatal(err)
	}
	return machineAt(t, dir, readers...)
}

func machineAt(t testing.TB, dir string, readers ...string) *there {
	t.Helper()
	m := core.NewManager(core.Options{Drivers: []reader.Driver{&sim.Driver{}, &Driver{}}})
	srv, err := fs.Mount(dir, m, fs.Options{GID: -1})
	if err != nil {
		t.Fatal(err)
	}
	f := &there{Manager: m, t: t, dir: dir, srv: srv}
	t.Cleanup(func() {
		f.stop()
		_ = unix.Unmount(dir, unix.MNT_DETACH)
		_ = os.Remove(dir)
	})
	for _, r := range readers {
		f.ctl("attach sim " + r)
	}
	return f
}

func (f *there) stop() {
	if f.srv == nil {
		return
	}
	f.srv.Leave()
	done, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	f.Close(done)
	_ = f.srv.Close(5 * time.Second)
	f.srv = nil
}

func (f *there) ctl(line string) {
	f.t.Helper()
	if err := fs.Ctl(f.Manager, line); err != nil {
		f.t.Fatalf("%s: %v", line, err)
	}
}

// here is a cardfs without files of its own.
type here struct {
	*core.Manager
	t      testing.TB
	events *core.Feed[core.Event]
}

func machineHere(t testing.TB, attach ...string) *here {
	t.Helper()
	return machineHereLogging(t, nil, attach...)
}

func machineHereLogging(t testing.TB, log *slog.Logger, attach ...string) *here {
	t.Helper()
	m := core.NewManager(core.Options{Drivers: []reader.Driver{&sim.Driver{}, &Driver{Log: log}}, Log: log})
	h := &here{Manager: m, t: t, events: m.Follow()}
	t.Cleanup(func() {
		done, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		m.Close(done)
	})
	for _, a := range attach {
		if err := fs.Ctl(m, "attach "+a); err != nil {
			t.Fatal(err)
		}
	}
	return h
}

// next returns the next event without its number and the words that differ from run to run.
func (h *here) next() string {
	h.t.Helper()
	ctx, cancel := context.WithTimeout(h.t.Context(), patience)
	defer cancel()
	e, _, err := h.events.Next(ctx)
	if err != nil {
		h.t.Fatalf("no further event: %v", err)
	}
	return fmt.Sprintf("%d %s", e.Slot, e.What)
}

func (h *here) expect(events ...string) {
	h.t.Helper()
	for _, want := range events {
		if got := h.next(); got != want {
			h.t.Fatalf("event %q, want %q", got, want)
		}
	}
}

func (h *here) open(slot int) *core.Session {
	h.t.Helper()
	ctx, cancel := context.WithTimeout(h.t.Context(), patience)
	defer cancel()
	s, err := h.Slot(slot).Open(ctx, core.Caller{Owner: new(int), Wait: true})
	if err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(s.Close)
	return s
}

// "Each of its slots is a slot here": ATR, exchanges, events.
func TestCard(t *testing.T) {
	far := machineThere(t, "t1")
	h := machineHere(t, "remote "+far.dir+" host=lab")
	h.expect("0 arrived", "0 ready", "0 inserted")
	s := h.open(0)
	h.expect("0 powered")
	want := far.Slot(0).Info()
	if got := h.Slot(0).Info(); fmt.Sprintf("%X", got.ATR) != fmt.Sprintf("%X", want.ATR) || got.Protocol() != want.Protocol() {
		t.Errorf("ATR % X %s, want % X %s", got.ATR, got.Protocol(), want.ATR, want.Protocol())
	}
	answer, err := s.Transmit(t.Context(), []byte{0, 0xA4, 0, 0, 2, 0x3F, 0}, nil)
	if err != nil || !strings.HasSuffix(fmt.Sprintf("%X", answer), "9000") {
		t.Errorf("answer %X, %v", answer, err)
	}
	far.ctl("sim 0 remove")
	h.expect("0 removed")
	far.ctl("sim 0 insert")
	h.expect("0 inserted")
	if got, want := h.Slot(0).ByID(), "remote-lab:"+far.Slot(0).ByID(); got != want {
		t.Errorf("by-id %s, want %s", got, want)
	}
}

// Over sshfs an exchange is one request that writes and one that reads.
func TestRoundTrips(t *testing.T) {
	far := machineThere(t, "t1")
	w := newWay(t, far.dir)
	h := machineHere(t, "remote "+w.at)
	h.expect("0 arrived", "0 ready", "0 inserted")
	s := h.open(0)
	const exchanges = 50
	total, before := w.server.Total(), w.server.Requests()
	for range exchanges {
		if _, err := s.Transmit(t.Context(), []byte{0, 0xA4, 0, 0, 2, 0x3F, 0}, nil); err != nil {
			t.Fatal(err)
		}
	}
	after := w.server.Requests()
	if n := after["WRITE"] - before["WRITE"]; n != exchanges {
		t.Errorf("%d writes for %d exchanges", n, exchanges)
	}
	if n := after["READ"] - before["READ"]; n < exchanges || n > exchanges+1 { // and one for the event "powered"
		t.Errorf("%d reads for %d exchanges", n, exchanges)
	}
	if n := w.server.Total() - total; n > 2*exchanges+1 {
		t.Errorf("%d requests for %d exchanges", n, exchanges)
	}
}

// "slots become starting again; when it comes back, the same numbers and names."
func TestLostAndBack(t *testing.T) {
	far := machineThere(t, "t1", "t0")
	w := newWay(t, far.dir)
	h := machineHere(t, "sim t1", "remote "+w.at+" host=lab")
	await := func(slot int, state core.State) {
		t.Helper()
		for h.Slot(slot) == nil || h.Slot(slot).Info().State != state {
			h.next()
		}
	}
	await(1, core.StatePresent)
	await(2, core.StatePresent)
	names := []string{h.Slot(1).ByID(), h.Slot(2).ByID()}
	for range 3 {
		s := h.open(2)
		w.cut()
		await(2, core.StateStarting)
		await(1, core.StateStarting)
		waiting := h.Slot(1).Serial()
		if _, err := s.Transmit(t.Context(), []byte{0, 0xA4, 0, 0, 2, 0x3F, 0}, nil); err == nil {
			t.Error("a session outlived the way")
		}
		w.restore()
		await(1, core.StatePresent)
		await(2, core.StatePresent)
		if h.Slot(1).Serial() != waiting {
			t.Error("the reader that was starting left, and another came")
		}
	}
	if now := []string{h.Slot(1).ByID(), h.Slot(2).ByID()}; names[0] != now[0] || names[1] != now[1] {
		t.Errorf("names %q, before %q", now, names)
	}
}

// hubState waits until the one hub has a state with an error that has some words.
func (h *here) hubState(state core.State, words string) {
	h.t.Helper()
	readertest.Eventually(h.t, fmt.Sprintf("one hub is %s with %q", state, words), func() bool {
		hubs := h.Hubs()
		return len(hubs) == 1 && hubs[0].State == state && (words == "" || hubs[0].Err != nil && strings.Contains(hubs[0].Err.Error(), words))
	})
}

// "A directory that is no cardfs, a far cardfs of another version: clear errors."
func TestNoCardfs(t *testing.T) {
	dir := t.TempDir()
	h := machineHere(t, "remote "+dir)
	h.hubState(core.StateStarting, "nothing is mounted there, or no cardfs")
	if err := os.WriteFile(dir+"/ctl", []byte("driver sim slots=0\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	h.hubState(core.StateFailed, "older cardfs")
	if err := fs.Ctl(h.Manager, "detach remote "+dir); err != nil {
		t.Error(err)
	}
	for _, words := range []string{"relative", "/x host=a/b", "/x host=..", "/x lost=maybe", "/x t0=plain", "/x no=key", "ssh://-x/"} {
		if err := fs.Ctl(h.Manager, "attach remote "+words); err == nil {
			t.Errorf("attach remote %s was accepted", words)
		}
	}
	if err := fs.Ctl(h.Manager, "attach remote ssh://ann:secret@lab"); err == nil || strings.Contains(err.Error(), "secret") {
		t.Errorf("a password: %v", err)
	}
}

// "A far slot that leads back to one's own daemon, directly or via other machines, is refused
// with words."
func TestLoops(t *testing.T) {
	a, b := machineThere(t, "t1"), machineThere(t)
	a.ctl("attach remote " + a.dir)
	(&here{Manager: a.Manager, t: t}).hubState(core.StateFailed, "the mount of this cardfs itself")
	a.ctl("detach remote " + a.dir)

	b.ctl("attach remote " + a.dir + " host=a")
	h := &here{Manager: b.Manager, t: t, events: b.Follow()}
	h.awaitState(0, core.StatePresent)
	a.ctl("attach remote " + b.dir + " host=b")
	(&here{Manager: a.Manager, t: t}).hubState(core.StateReady, "")
	if n := len(a.Slots()); n != 1 {
		t.Errorf("%d slots, want its own", n)
	}
	if got := b.Slot(0).Info().Device.Via; got != a.Instance() {
		t.Errorf("via %s, want %s", got, a.Instance())
	}
	// A third machine sees the card over both.
	c := machineHere(t, "remote "+b.dir+" host=b")
	c.awaitState(0, core.StatePresent)
	if got, want := c.Slot(0).Info().Device.Via, b.Instance()+","+a.Instance(); got != want {
		t.Errorf("via %s, want %s", got, want)
	}
	s := c.open(0)
	if _, err := s.Transmit(t.Context(), numbered(1), nil); err != nil {
		t.Error(err)
	}
}

// Reset and protocol are the other side's; a reset by somebody there ends the sessions here.
func TestResets(t *testing.T) {
	far := machineThere(t, "t1 card=dual")
	h := machineHere(t, "remote "+far.dir)
	h.expect("0 arrived", "0 ready", "0 inserted")
	s := h.open(0)
	me := core.Caller{Owner: new(int), Wait: true}
	before := far.Slot(0).Info().Event
	if err := h.Slot(0).Power(t.Context(), core.ResetCold, me); err != nil {
		t.Fatal(err)
	}
	if far.Slot(0).Info().Event == before {
		t.Error("the card there was not reset")
	}
	if _, err := s.Transmit(t.Context(), numbered(1), nil); !errors.Is(err, reader.ErrStale) {
		t.Errorf("a session after a reset: %v", err)
	}
	s = h.open(0)
	h.expect("0 powered", "0 reset")
	// Whoever is faster, a command or the event: it shows as a reset here, and once.
	for _, idle := range []bool{false, true} {
		if err := far.Slot(0).Power(t.Context(), core.ResetWarm, core.Caller{Owner: new(int), Wait: true}); err != nil {
			t.Fatal(err)
		}
		if idle {
			h.expect("0 reset")
		}
		if _, err := s.Transmit(t.Context(), numbered(2), nil); !errors.Is(err, reader.ErrStale) {
			t.Errorf("a session after a reset there: %v", err)
		}
		if !idle {
			h.expect("0 reset")
		}
		s = h.open(0)
		if _, err := s.Transmit(t.Context(), numbered(3), nil); err != nil {
			t.Error(err)
		}
	}
	if err := far.Slot(0).Power(t.Context(), core.PowerDown, core.Caller{Owner: new(int), Wait: true}); err != nil {
		t.Fatal(err)
	}
	h.expect("0 powered")
	if now := h.Slot(0).Info().State; now != core.StatePresent {
		t.Errorf("after power off there: %s", now)
	}
	if _, err := s.Transmit(t.Context(), numbered(2), nil); !errors.Is(err, reader.ErrStale) {
		t.Errorf("a session after power off there: %v", err)
	}
	s = h.open(0)
	if _, err := s.Transmit(t.Context(), numbered(3), nil); err != nil {
		t.Error(err)
	}
	other := 1 - h.Slot(0).Info().Params.T
	if err := h.Slot(0).SelectProtocol(t.Context(), other, me); err != nil {
		t.Error(err)
	}
	if got, want := h.Slot(0).Info().Protocol(), far.Slot(0).Info().Protocol(); got != want || got != fmt.Sprintf("T=%d", other) {
		t.Errorf("protocol %s, there %s, want T=%d", got, want, other)
	}
	s = h.open(0)
	if _, err := s.Transmit(t.Context(), numbered(4), nil); err != nil {
		t.Error(err)
	}
	if err := h.Slot(0).Power(t.Context(), core.PowerDown, me); err != nil {
		t.Fatal(err)
	}
	if got := far.Slot(0).Info().State; got != core.StatePresent {
		t.Errorf("after power off the card there is %s", got)
	}
}

// "control where the far slot has it": a PIN is entered at the reader there.
func TestPINPad(t *testing.T) {
	far := machineThere(t, "pinpad")
	h := machineHere(t, "remote "+far.dir)
	h.awaitState(0, core.StatePresent)
	h.open(0)
	far.ctl("sim 0 keys 1234")
	if got, want := h.Slot(0).PINSupport(), far.Slot(0).PINSupport(); got != want || !got.Verify {
		t.Fatalf("%+v, want %+v", got, want)
	}
	by := core.Caller{Owner: new(int), Wait: true}
	v := &reader.PINVerify{PINFormat: reader.PINFormat{Format: 0x82, MinDigits: 4, MaxDigits: 8, Condition: 2, APDU: []byte{0, 0x20, 0, 1, 0}}}
	answer, err := h.Slot(0).VerifyPIN(t.Context(), v, by)
	if err != nil || len(answer) != 2 {
		t.Errorf("% X, %v", answer, err)
	}
	if c, err := far.Slot(0).Open(t.Context(), core.Caller{Owner: new(int), Wait: true}); err != nil {
		t.Error(err)
	} else {
		c.Close()
	}
}

// One reader of a machine can be detached. It stays away until it leaves there and comes back.
func TestDetachOne(t *testing.T) {
	far := machineThere(t, "t1", "t0")
	w := newWay(t, far.dir)
	h := machineHere(t, "remote "+w.at)
	h.awaitState(0, core.StatePresent)
	h.awaitState(1, core.StatePresent)
	if err := h.Detach(0); err != nil {
		t.Fatal(err)
	}
	for h.next() != "0 left" {
	}
	w.cut()
	h.awaitState(1, core.StateStarting)
	w.restore()
	h.awaitState(1, core.StatePresent)
	if h.Slot(0) != nil {
		t.Error("a reader that was detached is back")
	}
	far.ctl("sim 0 unplug")
	far.ctl("sim 0 plug")
	h.awaitState(0, core.StatePresent)
}

// The cardfs there is ended and started again: the same numbers and names.
func TestRestartThere(t *testing.T) {
	far := machineThere(t, "t1", "pinpad")
	h := machineHere(t, "remote "+far.dir+" host=lab")
	h.awaitState(0, core.StatePresent)
	h.awaitState(1, core.StatePresent)
	names := []string{h.Slot(0).ByID(), h.Slot(1).ByID()}
	before := far.Instance()
	far.stop()
	h.hubState(core.StateStarting, "")
	again := machineAt(t, far.dir, "t1", "pinpad")
	h.awaitState(0, core.StatePresent)
	h.awaitState(1, core.StatePresent)
	if via := h.Slot(0).Info().Device.Via; via == before || via != again.Instance() {
		t.Errorf("via %s, want %s", via, again.Instance())
	}
	if now := []string{h.Slot(0).ByID(), h.Slot(1).ByID()}; names[0] != now[0] || names[1] != now[1] {
		t.Errorf("names %q, before %q", now, names)
	}
	if _, err := h.open(1).Transmit(t.Context(), numbered(1), nil); err != nil {
		t.Error(err)
	}
}
