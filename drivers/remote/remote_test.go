package remote

import (
	"context"
	"fmt"
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
)

func TestMain(m *testing.M) {
	if requests := os.Getenv("CARDFS_TEST_SFTP"); requests != "" {
		os.Exit(serveSFTP(requests))
	}
	goleak.VerifyTestMain(m)
}

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
	m := core.NewManager(core.Options{Drivers: []reader.Driver{&sim.Driver{}, &Driver{}}})
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
	before, writes, reads := w.total(), w.count(sftpWrite), w.count(sftpRead)
	for range exchanges {
		if _, err := s.Transmit(t.Context(), []byte{0, 0xA4, 0, 0, 2, 0x3F, 0}, nil); err != nil {
			t.Fatal(err)
		}
	}
	if n := w.count(sftpWrite) - writes; n != exchanges {
		t.Errorf("%d writes for %d exchanges", n, exchanges)
	}
	if n := w.count(sftpRead) - reads; n < exchanges || n > exchanges+1 { // and one for the event "powered"
		t.Errorf("%d reads for %d exchanges", n, exchanges)
	}
	if n := w.total() - before; n > 2*exchanges+1 {
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
		if _, err := s.Transmit(t.Context(), []byte{0, 0xA4, 0, 0, 2, 0x3F, 0}, nil); err == nil {
			t.Error("a session outlived the way")
		}
		w.restore()
		await(1, core.StatePresent)
		await(2, core.StatePresent)
	}
	if now := []string{h.Slot(1).ByID(), h.Slot(2).ByID()}; names[0] != now[0] || names[1] != now[1] {
		t.Errorf("names %q, before %q", now, names)
	}
}
