package usb

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/cardfs/cardfs/drivers/bus/usb/usbip"
	ccidemu "github.com/cardfs/cardfs/drivers/ccid/emu"
	ikeyemu "github.com/cardfs/cardfs/drivers/ikey/emu"
	"github.com/cardfs/cardfs/tests/internal/daemon"
	"github.com/cardfs/cardfs/tests/internal/proc"
	"github.com/cardfs/cardfs/tests/vm/machine"
)

// thing is what a cycle plugs in and takes out again.
type thing struct {
	plug, unplug         func() error
	atr, command, answer string
}

// "Too early is impossible": readers come and go by QMP under clients that open
// at random moments. Each open gives the right answer, ENOENT or ENODEV; none
// hangs; what the daemon holds is back where it began.
func TestGuestCyclesQMP(t *testing.T) {
	g := machine.NeedGuest(t)
	ctx := t.Context()
	cycles(t, soak(t, 10), []thing{{
		plug:   func() error { return machine.Plug(ctx, g, "ccid", "r1") },
		unplug: func() error { return machine.Unplug(ctx, g, "r1") },
		atr:    cardATR, command: selectPKI, answer: "61 0D",
	}})
}

// The same by vhci_hcd, with our own emulators.
func TestGuestCyclesVHCI(t *testing.T) {
	machine.NeedGuest(t)
	token := ikeyemu.New3000("")
	if err := token.Contact.Insert(starcos{}); err != nil {
		t.Fatal(err)
	}
	cycles(t, soak(t, 10), []thing{
		onVHCI(func() usbip.Device {
			e := ccidemu.New(ccidemu.TPDUReader())
			if err := e.Contact(0).Insert(starcos{}); err != nil {
				t.Error(err)
			}
			return e.Plug()
		}),
		onVHCI(func() usbip.Device { return token.Plug() }),
	})
}

func onVHCI(device func() usbip.Device) thing {
	var port *usbip.Port
	var err error
	return thing{
		plug: func() error {
			port, err = usbip.Plug(device(), usbip.Full)
			return err
		},
		unplug: func() error { return port.Unplug() },
		atr:    starcosATR, command: "00A40000 02 3F00", answer: "90 00",
	}
}

// cycles plugs and unplugs n times, while clients open.
func cycles(t *testing.T, n int, things []thing) {
	d := mount(t, nil)
	pid := d.Pid()
	round := func(n int) { cycle(t, d, n, things) }
	round(max(3, n/10)) // what the daemon grows to by being used
	before := measure(t, pid)
	begin := time.Now()
	round(n)
	took := time.Since(begin)
	var after proc.Usage
	daemon.Eventually(t, "the daemon holds no more descriptors than before", func() bool {
		after = measure(t, pid)
		return after.Descriptors <= before.Descriptors
	})
	t.Logf("%d cycles in %v; the daemon before: %v; after: %v", n, took.Round(time.Millisecond), before, after)
	if after.RSS > before.RSS+16<<10 {
		t.Errorf("the daemon grew from %d to %d KiB", before.RSS, after.RSS)
	}
	d.Stop()
}

func cycle(t *testing.T, d *mounted, n int, things []thing) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	c := &clients{counts: map[string]int{}, good: make(chan struct{}, 1)}
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	for range 2 {
		wg.Go(func() { c.run(ctx, d, things) })
	}
	for i := range n {
		x := things[i%len(things)]
		c.drain()
		if err := x.plug(); err != nil {
			t.Fatalf("cycle %d: plug: %v", i, err)
		}
		// Every other time until it has been of use; else at once, or soon.
		if i/len(things)%2 == 0 {
			select {
			case <-c.good:
			case <-time.After(proc.Patience):
				t.Fatalf("cycle %d: no client got an answer; %s", i, c)
			}
		} else {
			time.Sleep([]time.Duration{0, 10, 100}[rand.IntN(3)] * time.Duration(rand.IntN(3000)) * time.Microsecond)
		}
		if err := x.unplug(); err != nil {
			t.Fatalf("cycle %d: unplug: %v", i, err)
		}
		// Another device in the same port is another reader at the same number
		// only when the first has left, which ENODEV tells.
		if rand.IntN(3) > 0 {
			daemon.Eventually(t, "the directory is gone", func() bool { return d.empty() })
		}
	}
	daemon.Eventually(t, "the last directory is gone", func() bool { return d.empty() })
	cancel()
	wg.Wait()
	t.Logf("%d cycles: %s", n, c)
	for what, n := range c.counts {
		if strings.HasPrefix(what, "WRONG") {
			t.Errorf("%s, %d times", what, n)
		}
	}
}

func (d *mounted) empty() bool {
	_, err := os.Stat(d.Path("0"))
	return errors.Is(err, os.ErrNotExist)
}

// clients count what their opens come to.
type clients struct {
	mu     sync.Mutex
	counts map[string]int
	good   chan struct{}
}

func (c *clients) String() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	var words []string
	for _, what := range slices.Sorted(maps.Keys(c.counts)) {
		words = append(words, fmt.Sprintf("%d %s", c.counts[what], what))
	}
	return strings.Join(words, ", ")
}

func (c *clients) drain() {
	select {
	case <-c.good:
	default:
	}
}

func (c *clients) count(what string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.counts[what]++
}

func (c *clients) run(ctx context.Context, d *mounted, things []thing) {
	for ctx.Err() == nil {
		time.Sleep(time.Duration(rand.IntN(10)) * time.Millisecond)
		slot := c.slot(d)
		if slot == "" {
			c.count("found no reader")
			continue
		}
		if rand.IntN(2) == 0 {
			got, err := os.ReadFile(d.Path(slot + "/atr"))
			c.judge("ATR", strings.TrimSpace(string(got)), err, things, func(x thing) string { return x.atr })
			continue
		}
		ch, err := openChannel(d.Path(slot + "/apdu"))
		if err != nil {
			c.judge("open", "", err, things, nil)
			continue
		}
		for range 1 + rand.IntN(3) {
			got, err := ch.send(things[0].command)
			c.judge("exchange", got, err, things, func(x thing) string { return x.answer })
			if err != nil {
				break
			}
		}
		ch.close()
	}
}

// slot is the number of any reader there is.
func (c *clients) slot(d *mounted) string {
	entries, err := os.ReadDir(d.Dir)
	if err != nil {
		c.count("WRONG readdir: " + err.Error())
	}
	for _, e := range entries {
		if _, err := strconv.Atoi(e.Name()); err == nil {
			return e.Name()
		}
	}
	return ""
}

func (c *clients) judge(what, got string, err error, things []thing, want func(thing) string) {
	switch {
	case errors.Is(err, syscall.ENOENT), errors.Is(err, syscall.ENODEV):
		c.count(what + " " + errors.Unwrap(wrapped(err)).Error())
	case err != nil:
		// QMP puts the card in after the reader, and a reset of the last
		// moment may take the card's session away.
		if errors.Is(err, syscall.ENOMEDIUM) || errors.Is(err, syscall.ESTALE) {
			c.count(what + " " + err.Error())
			return
		}
		c.count("WRONG " + what + ": " + err.Error())
	case !slices.ContainsFunc(things, func(x thing) bool { return want(x) == got }):
		c.count("WRONG " + what + ": " + got)
	default:
		c.count(what + " right")
		if what == "exchange" {
			select {
			case c.good <- struct{}{}:
			default:
			}
		}
	}
}

// wrapped is err in something that can be unwrapped.
func wrapped(err error) error {
	if errors.Unwrap(err) != nil {
		return err
	}
	return fmt.Errorf("%w", err)
}

// measure looks at what a process holds.
func measure(t testing.TB, pid int) proc.Usage {
	t.Helper()
	u, err := proc.UsageOf(pid)
	if err != nil {
		t.Fatal(err)
	}
	return u
}
