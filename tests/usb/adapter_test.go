package usb

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cardfs/cardfs/drivers/bus/serial/serialtest/ftdi"
	"github.com/cardfs/cardfs/drivers/bus/usb/usbip"
	"github.com/cardfs/cardfs/drivers/bus/usb/usbtest"
	"github.com/cardfs/cardfs/drivers/emulators"
	"github.com/cardfs/cardfs/drivers/sim"
	"github.com/cardfs/cardfs/tests/internal/daemon"
	"github.com/cardfs/cardfs/tests/internal/hex"
	"github.com/cardfs/cardfs/tests/internal/proc"
	"github.com/cardfs/cardfs/tests/pcscd"
	"github.com/cardfs/cardfs/tests/vm/machine"
)

// A reader behind a USB-serial adapter, attached by the adapter's lasting name, is pulled and
// put back under clients of the files, and of pcscd. Each time it is the same reader and
// answers; nothing else fails than what was under way when it was pulled. Daemon and pcscd
// hold no more at the end than at the beginning.
func TestGuestPulledAdapter(t *testing.T) {
	machine.NeedGuest(t)
	for _, x := range []struct{ emulator, attach string }{
		{"ccid-serial", "ccid PORT model=twin"}, // tells of its card
		{"gempc410", "gempc PORT"},              // is polled
	} {
		t.Run(x.emulator, func(t *testing.T) {
			a := newAdapter(t, x.emulator)
			attach := strings.Replace(x.attach, "PORT", a.port, 1)
			fresh := goroutines(mount(t, nil, "--attach", attach))
			if fresh == 0 {
				t.Fatal("no goroutine is seen")
			}
			if n := a.pulled(t, attach, min(soak(t, 3), 50)); n > fresh {
				t.Errorf("the daemon had %d goroutines at the end, and one that never saw the port %d", n, fresh)
			}
		})
	}
}

// adapter is an adapter with a reader behind it.
type adapter struct {
	thing
	port string // its lasting name
}

func newAdapter(t *testing.T, name string) *adapter {
	t.Helper()
	number := "P-" + name
	a := &adapter{port: "/dev/serial/by-id/usb-FTDI_USB__-__Serial_" + number + "-if00-port0"}
	a.name, a.command = name, "00CA005A 00"
	for _, e := range emulators.All() {
		if e.Name != name {
			continue
		}
		device := e.New("").(emulators.Serial)
		card, ok := sim.NewCard(e.Cards[0], name)
		if !ok {
			t.Fatalf("no card %s", e.Cards[0])
		}
		if err := device.Contacts()[0].Insert(card); err != nil {
			t.Fatal(err)
		}
		a.atrs = []string{hex.Spaced(card.ATR())}
		a.answer = hex.Spaced(card.Process(hex.Bytes(a.command)))
		var plugged *usbtest.Port
		var port *usbip.Port
		a.plug = func() (err error) {
			plugged = ftdi.Plug(device, number)
			port, err = usbip.Plug(plugged, usbip.Full)
			return err
		}
		a.unplug = func() error {
			plugged.Unplug()
			return port.Unplug()
		}
		return a
	}
	t.Fatalf("no emulator %s", name)
	return nil
}

// pulled pulls the adapter n times under clients, and returns how many goroutines the daemon
// has then.
func (a *adapter) pulled(t *testing.T, attach string, n int) int {
	t.Helper()
	d := mount(t, nil, "--attach", attach)
	byID, err := os.ReadDir(d.Path("by-id"))
	if err != nil || len(byID) != 1 {
		t.Fatalf("by-id has %v, %v", byID, err)
	}
	srv, err := pcscd.Start(t.Context(), t.TempDir(), fmt.Sprintf("FRIENDLYNAME \"Pulled\"\nDEVICENAME cardfs:%s\nLIBPATH %s\n",
		d.Path("by-id/"+byID[0].Name()), built("libifdcardfs.so")))
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := srv.Close(); err != nil {
			t.Error(err)
		}
		if t.Failed() {
			t.Logf("pcscd said:\n%s", tail(srv.Log(), 4000))
		}
	}()
	a.cycle(t, d, srv, 2) // both grow to their working size
	before, theirs := measure(t, d.Pid()), measure(t, srv.Pid())
	begin := time.Now()
	a.cycle(t, d, srv, n)
	took := time.Since(begin).Round(time.Millisecond)
	var after, theirAfter proc.Usage
	defer func() {
		t.Logf("%s: %d cycles in %v\nthe daemon before: %v\nafter: %v\npcscd before: %v\nafter: %v", a.name, n, took, before, after, theirs, theirAfter)
	}()
	daemon.Eventually(t, "daemon and pcscd hold no more descriptors than before", func() bool {
		after, theirAfter = measure(t, d.Pid()), measure(t, srv.Pid())
		// pcscd's handler keeps the last exchange file until it opens the next.
		return after.Descriptors <= before.Descriptors && theirAfter.Descriptors <= theirs.Descriptors+2
	})
	for _, x := range []struct {
		who           string
		before, after proc.Usage
	}{{"the daemon", before, after}, {"pcscd", theirs, theirAfter}} {
		if x.after.RSS > x.before.RSS+16<<10 {
			t.Errorf("%s grew from %d to %d KiB", x.who, x.before.RSS, x.after.RSS)
		}
		if x.after.Threads > x.before.Threads+16 {
			t.Errorf("%s went from %d threads to %d", x.who, x.before.Threads, x.after.Threads)
		}
	}
	if err := srv.Close(); err != nil {
		t.Error(err)
	}
	return goroutines(d)
}

// goroutines ends a daemon, and returns how many goroutines waited in it, but for the runtime's and
// those that read requests of the kernel, of which there are as many as there was work. One that
// runs is not left over: an event of the kernel's may have come late.
func goroutines(d *mounted) (n int) {
	waits := false
	for line := range strings.Lines(d.Quit()) {
		line = strings.TrimSpace(line)
		switch {
		case strings.HasPrefix(line, "goroutine ") && strings.HasSuffix(line, "]:"):
			waits = !strings.HasSuffix(line, "[runnable]:") && !strings.HasSuffix(line, "[running]:")
		case strings.HasPrefix(line, "created by ") && waits && !strings.Contains(line, "by runtime.") && !strings.Contains(line, "fused.(*Server).loop"):
			n++
		}
	}
	return n
}

// cycle puts the adapter in and pulls it n times. At the end it is out.
func (a *adapter) cycle(t *testing.T, d *mounted, srv *pcscd.Server, n int) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	c := &clients{things: []*thing{&a.thing}, counts: map[string]int{}, good: make(chan *thing, 1)}
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() { c.run(ctx, d) })
	}
	card := srv.Shell(t, built("pcscsh"))
	defer card.Close()
	name := card.Reader()
	want := "ok " + strings.ReplaceAll(a.answer, " ", "")
	for i := range n + 1 {
		if err := a.plug(); err != nil {
			t.Fatalf("cycle %d: plug: %v", i, err)
		}
		switch {
		case i == n:
			// Now that it is there, opens that waited for it end.
			cancel()
			wg.Wait()
		case i%2 == 0:
			c.drain()
			c.answered(t, &a.thing)
			if got := card.Say("work", name, strings.ReplaceAll(a.command, " ", "")); got != want {
				t.Errorf("cycle %d: pcscd's client: %s, want %s", i, got, want)
			}
		default: // before it has come up, in the middle, or soon after
			time.Sleep(time.Duration(rand.IntN(1000)) * time.Millisecond)
		}
		if err := a.unplug(); err != nil {
			t.Fatalf("cycle %d: unplug: %v", i, err)
		}
		if got := card.Say("send", strings.ReplaceAll(a.command, " ", "")); strings.HasPrefix(got, "ok") {
			t.Errorf("cycle %d: pcscd's client has an answer of a reader that was pulled: %s", i, got)
		}
		card.Say("disconnect", "leave")
		if i == n || rand.IntN(2) == 0 {
			daemon.Eventually(t, "the terminal is gone", func() bool {
				all, _ := filepath.Glob("/dev/ttyUSB*")
				return len(all) == 0
			})
		}
	}
	daemon.Eventually(t, "the reader waits for its port", func() bool {
		b, err := os.ReadFile(d.Path("0/status"))
		return err == nil && strings.HasPrefix(string(b), "state starting\n")
	})
	t.Logf("%d cycles: %s", n, c)
	for what, n := range c.counts {
		if strings.HasPrefix(what, "WRONG") {
			t.Errorf("%s, %d times", what, n)
		}
	}
	if c.counts["exchange right"] == 0 {
		t.Error("no exchange: nothing was shown")
	}
}

// drain forgets an answer that came before.
func (c *clients) drain() {
	select {
	case <-c.good:
	default:
	}
}
