package remote

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cardfs/cardfs/fs"
	"github.com/cardfs/cardfs/reader"
	"github.com/cardfs/cardfs/reader/core"
)

// numbered is a command that can be told from the others at the card.
func numbered(n int) []byte { return []byte{0x00, 0xB0, byte(n >> 8), byte(n), 0x01} }

// cardLog counts the commands that reach a card.
type cardLog struct {
	slot *core.Slot
	feed *core.Feed[string]
	seen map[string]int
}

func logCard(t testing.TB, s *core.Slot) *cardLog {
	c := &cardLog{slot: s, feed: s.FollowTrace(), seen: make(map[string]int)}
	t.Cleanup(func() { s.CloseTrace(c.feed) })
	return c
}

// await reads the log until a command is in it.
func (c *cardLog) await(t testing.TB, command []byte) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for c.seen[fmt.Sprintf("% X", command)] == 0 {
		line, _, err := c.feed.Next(ctx)
		if err != nil {
			t.Fatalf("the command did not reach the card: %v", err)
		}
		c.take(line)
	}
}

func (c *cardLog) take(line string) {
	_, rest, is := strings.Cut(line, "> C-APDU ")
	if !is {
		return
	}
	var words []string
	for _, w := range strings.Fields(rest) {
		if _, err := strconv.ParseUint(w, 16, 8); err != nil || len(w) != 2 {
			break
		}
		words = append(words, w)
	}
	c.seen[strings.Join(words, " ")]++
}

// drain takes what is there.
func (c *cardLog) drain() {
	for {
		line, lost, ok, err := c.feed.TryNext()
		if !ok || err != nil || lost > 0 {
			return
		}
		c.take(line)
	}
}

// awaitState follows the events until the slot is there and in a state.
func (h *here) awaitState(slot int, states ...core.State) {
	h.t.Helper()
	for {
		if s := h.Slot(slot); s != nil {
			now := s.Info().State
			for _, want := range states {
				if now == want {
					return
				}
			}
		}
		h.next()
	}
}

// "Commands under way end with EIO in doubt and are never sent twice": the card there gets the
// command once, whenever the way is cut.
func TestInDoubt(t *testing.T) {
	far := machineThere(t, "t1")
	w := newWay(t, far.dir)
	h := machineHere(t, "remote "+w.at)
	h.awaitState(0, core.StatePresent)
	s := h.open(0)
	card := logCard(t, far.Slot(0))
	far.ctl("sim 0 slow 2s")
	command := numbered(1)
	done := make(chan error, 1)
	go func() {
		_, err := s.Transmit(context.Background(), command, nil)
		done <- err
	}()
	card.await(t, command)
	w.cut()
	select {
	case err := <-done:
		if !errors.Is(err, reader.ErrInDoubt) {
			t.Errorf("the command ended with %v, want it in doubt", err)
		}
	case <-time.After(patience):
		t.Fatal("the command hangs after the way was cut")
	}
	far.ctl("sim 0 normal")
	w.restore()
	h.awaitState(0, core.StatePresent)
	s = h.open(0)
	if _, err := s.Transmit(t.Context(), numbered(2), nil); err != nil {
		t.Error(err)
	}
	card.await(t, numbered(2))
	if n := card.seen[fmt.Sprintf("% X", command)]; n != 1 {
		t.Errorf("the card got the command %d times", n)
	}
}

// "The line cut at random moments: every command answered once or reported in doubt, never
// twice at the card; numbers and names kept." CARDFS_SOAK makes it 200 cuts.
func TestCuts(t *testing.T) {
	cuts := 5
	if os.Getenv("CARDFS_SOAK") != "" {
		cuts = 200
	}
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	far := machineThere(t, "t1")
	w := newWay(t, far.dir)
	h := machineHere(t, "remote "+w.at+" host=lab")
	h.awaitState(0, core.StatePresent)
	name, card := h.Slot(0).ByID(), logCard(t, far.Slot(0))
	answered, doubted, n := 0, 0, 0
	for range cuts {
		s := h.open(0)
		cut := make(chan struct{})
		after := time.Duration(random.IntN(20000)) * time.Microsecond
		time.AfterFunc(after, func() { w.cut(); close(cut) })
		for {
			n++
			_, err := s.Transmit(t.Context(), numbered(n), nil)
			card.drain()
			got := card.seen[fmt.Sprintf("% X", numbered(n))]
			switch {
			case err == nil:
				if answered++; got != 1 {
					t.Fatalf("command %d was answered, and reached the card %d times", n, got)
				}
				continue
			case errors.Is(err, reader.ErrInDoubt):
				doubted++
			case got != 0:
				t.Fatalf("command %d reached the card, and ended with %v", n, err)
			}
			break
		}
		<-cut
		h.awaitState(0, core.StateStarting)
		w.restore()
		h.awaitState(0, core.StatePresent)
	}
	card.drain()
	for command, times := range card.seen {
		if times != 1 {
			t.Errorf("%s reached the card %d times", command, times)
		}
	}
	if now := h.Slot(0).ByID(); now != name {
		t.Errorf("by-id %s, before %s", now, name)
	}
	t.Logf("%d cuts: %d commands answered, %d in doubt", cuts, answered, doubted)
}

// lost=leave: "or leave (lost=leave)"; and back with the same number and name.
func TestLeaves(t *testing.T) {
	far := machineThere(t, "t1")
	w := newWay(t, far.dir)
	h := machineHere(t, "remote "+w.at+" lost=leave")
	h.awaitState(0, core.StatePresent)
	name := h.Slot(0).ByID()
	w.cut()
	for h.next() != "0 left" {
	}
	if s := h.Slot(0); s != nil {
		t.Errorf("the slot is %s", s.Info().State)
	}
	w.restore()
	h.expect("0 arrived", "0 ready", "0 inserted")
	if now := h.Slot(0).ByID(); now != name {
		t.Errorf("by-id %s, before %s", now, name)
	}
}

// What did not come back with the way leaves, once the rest is there.
func TestNotBack(t *testing.T) {
	far := machineThere(t, "t1", "t0")
	w := newWay(t, far.dir)
	h := machineHere(t, "remote "+w.at)
	h.awaitState(0, core.StatePresent)
	h.awaitState(1, core.StatePresent)
	w.cut()
	h.awaitState(1, core.StateStarting)
	events := &here{Manager: far.Manager, t: t, events: far.Follow()}
	far.ctl("sim 1 unplug")
	for events.next() != "1 left" {
	}
	w.restore()
	for h.Slot(1) != nil {
		h.next()
	}
	h.awaitState(0, core.StatePresent)
}

// A machine without readers is attached at once: there is no event to wait for.
func TestNoReaders(t *testing.T) {
	far := machineThere(t)
	h := machineHere(t, "remote "+far.dir)
	h.hubState(core.StateReady, "")
	far.ctl("attach sim t1")
	h.awaitState(0, core.StatePresent)
}

// "attach remote /mnt/lab/3: one slot of it", which is a reader of its own here.
func TestOneSlot(t *testing.T) {
	far := machineThere(t, "t1", "t0")
	h := machineHere(t, "remote "+far.dir+"/1 host=lab")
	h.awaitState(0, core.StatePresent)
	if got, want := h.Slot(0).ByID(), "remote-lab:"+far.Slot(1).ByID()+"-slot0"; got != want || len(h.Slots()) != 1 {
		t.Errorf("by-id %s of %d slots, want %s alone", got, len(h.Slots()), want)
	}
	if _, err := h.open(0).Transmit(t.Context(), numbered(1), nil); err != nil {
		t.Error(err)
	}
	far.ctl("sim 1 unplug")
	for h.next() != "0 left" {
	}
}

// 1,000 plug cycles there (CARDFS_SOAK), with a client here: each is seen, in order.
func TestPlugCycles(t *testing.T) {
	cycles := 20
	if os.Getenv("CARDFS_SOAK") != "" {
		cycles = 1000
	}
	far := machineThere(t, "t1")
	h := machineHere(t, "remote "+far.dir)
	h.expect("0 arrived", "0 ready", "0 inserted")
	for i := range cycles {
		s := h.open(0)
		h.expect("0 powered")
		if _, err := s.Transmit(t.Context(), numbered(i), nil); err != nil {
			t.Fatal(err)
		}
		far.ctl("sim 0 remove")
		if _, err := s.Transmit(t.Context(), numbered(i), nil); !errors.Is(err, reader.ErrNoCard) && !errors.Is(err, reader.ErrStale) {
			t.Fatalf("a command without a card: %v", err)
		}
		s.Close()
		h.expect("0 removed")
		far.ctl("sim 0 insert")
		h.expect("0 inserted")
	}
}

// "Detach, daemon exit must not wait": while the file system stands still, a machine is
// detached, its command ends in doubt, and another machine is served.
func TestStandstill(t *testing.T) {
	far := machineThere(t, "t1")
	w := newWay(t, far.dir)
	h := machineHere(t, "remote "+w.at)
	h.awaitState(0, core.StatePresent)
	s := h.open(0)
	if err := syscall.Kill(w.Pid(), syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	// Its threads run on until one of them has taken the signal.
	if err := unix.Waitid(unix.P_PID, w.Pid(), nil, unix.WSTOPPED|unix.WNOWAIT, nil); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() {
		_, err := s.Transmit(context.Background(), numbered(1), nil)
		done <- err
	}()
	other := machineThere(t, "t0")
	if err := fs.Ctl(h.Manager, "attach remote "+other.dir); err != nil {
		t.Fatal(err)
	}
	h.awaitState(1, core.StatePresent)
	if _, err := h.open(1).Transmit(t.Context(), numbered(2), nil); err != nil {
		t.Errorf("the other machine: %v", err)
	}
	if err := fs.Ctl(h.Manager, "detach remote "+w.at); err != nil {
		t.Error(err)
	}
	for h.next() != "0 left" {
	}
	select {
	case err := <-done:
		if err == nil {
			t.Error("a command was answered that nobody could carry")
		}
	case <-time.After(patience):
		t.Error("the command hangs after its machine was detached")
	}
}
