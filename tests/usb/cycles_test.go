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
	"sync/atomic"
	"syscall"
	"testing"
	"text/tabwriter"
	"time"

	"github.com/cardfs/cardfs/drivers/bus/usb/usbip"
	"github.com/cardfs/cardfs/drivers/emulators"
	"github.com/cardfs/cardfs/drivers/sim"
	"github.com/cardfs/cardfs/tests/internal/daemon"
	"github.com/cardfs/cardfs/tests/internal/hex"
	"github.com/cardfs/cardfs/tests/internal/proc"
	"github.com/cardfs/cardfs/tests/vm/machine"
)

// thing is what a cycle plugs in and unplugs.
type thing struct {
	name            string
	plug, unplug    func() error
	atrs            []string // of its slots
	command, answer string   // the same in each slot

	cycles int
	first  []float64 // from plugging in to the first answer, in ns
}

// "Too early is impossible": readers come and go by QMP under clients that open at random
// moments. Each open gives the right answer, ENOENT or ENODEV; none hangs. At the end the
// daemon holds no more than at the beginning.
func TestGuestCyclesQMP(t *testing.T) {
	g := machine.NeedGuest(t)
	ctx := t.Context()
	cycles(t, soak(t, 10), []*thing{{
		name:   "QEMU's CCID reader",
		plug:   func() error { return machine.Plug(ctx, g, "ccid", "r1") },
		unplug: func() error { return machine.Unplug(ctx, g, "r1") },
		atrs:   []string{cardATR}, command: selectPKI, answer: "61 0D",
	}})
}

// The same by vhci_hcd with every emulator, on both transports.
func TestGuestCyclesVHCI(t *testing.T) {
	machine.NeedGuest(t)
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "emulator\ttransport\tcycles\tanswered\tplug → first answer, median\t")
	for _, transport := range []string{"usbfs", "gousb"} {
		t.Run(transport, func(t *testing.T) {
			t.Setenv(envTransport, transport)
			things := emulated(t)
			cycles(t, len(things)*min(soak(t, 3), 20), things)
			for _, x := range things {
				fmt.Fprintf(w, "%s\t%s\t%d\t%d\t%v\t\n", x.name, transport, x.cycles, len(x.first), time.Duration(median(x.first)).Round(time.Millisecond))
			}
		})
	}
	w.Flush()
	t.Logf("\n%s", b.String())
}

// emulated makes one of each emulator, with its cards. Each card returns its own serial
// number.
func emulated(t *testing.T) (things []*thing) {
	t.Helper()
	const command = "00CA005A 00"
	for _, e := range emulators.All() {
		x := &thing{name: e.Name, command: command}
		device, ok := e.New(e.Name).(emulators.USB)
		if !ok {
			continue // on a serial line: somebody has to attach it
		}
		for n, contact := range device.Contacts() {
			card, ok := sim.NewCard(e.Cards[n], e.Name)
			if !ok {
				t.Fatalf("%s: no card %s", e.Name, e.Cards[n])
			}
			if err := contact.Insert(card); err != nil {
				t.Fatal(err)
			}
			x.atrs = append(x.atrs, hex.Spaced(card.ATR()))
			x.answer = hex.Spaced(card.Process(hex.Bytes(command)))
		}
		var port *usbip.Port
		x.plug = func() (err error) {
			port, err = usbip.Plug(device.Plug(), usbip.Full)
			return err
		}
		x.unplug = func() error { return port.Unplug() }
		things = append(things, x)
	}
	return things
}

// cycles plugs and unplugs n times, while clients open.
func cycles(t *testing.T, n int, things []*thing) {
	d := mount(t, nil)
	cycle(t, d, max(3, n/10, len(things)), things) // the daemon grows to its working size
	before := measure(t, d.Pid())
	begin := time.Now()
	cycle(t, d, n, things)
	took := time.Since(begin)
	var after proc.Usage
	daemon.Eventually(t, "the daemon holds no more descriptors than before", func() bool {
		after = measure(t, d.Pid())
		return after.Descriptors <= before.Descriptors
	})
	t.Logf("%d cycles in %v; the daemon before: %v; after: %v", n, took.Round(time.Millisecond), before, after)
	if after.RSS > before.RSS+16<<10 {
		t.Errorf("the daemon grew from %d to %d KiB", before.RSS, after.RSS)
	}
	d.Stop()
}

func cycle(t *testing.T, d *mounted, n int, things []*thing) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	c := &clients{things: things, counts: map[string]int{}, good: make(chan *thing, 1)}
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	for range 2 {
		wg.Go(func() { c.run(ctx, d) })
	}
	for i := range n {
		x := things[i%len(things)]
		c.now.Store(int64(i))
		x.cycles++
		begin := time.Now()
		if err := x.plug(); err != nil {
			t.Fatalf("cycle %d, %s: plug: %v", i, x.name, err)
		}
		// Every other time it waits until the reader has answered; otherwise it unplugs at
		// once, or soon.
		if i/len(things)%2 == 0 {
			c.answered(t, x)
			x.first = append(x.first, float64(time.Since(begin)))
		} else {
			time.Sleep([]time.Duration{0, 10, 100}[rand.IntN(3)] * time.Duration(rand.IntN(3000)) * time.Microsecond)
		}
		if err := x.unplug(); err != nil {
			t.Fatalf("cycle %d, %s: unplug: %v", i, x.name, err)
		}
		// Another device in the same port is another reader at the same number
		// only when the first has left, which ENODEV tells.
		if rand.IntN(3) > 0 {
			daemon.Eventually(t, "the directories are gone", func() bool { return len(d.slots()) == 0 })
		}
	}
	daemon.Eventually(t, "the last directory is gone", func() bool { return len(d.slots()) == 0 })
	cancel()
	wg.Wait()
	t.Logf("%d cycles: %s", n, c)
	for what, n := range c.counts {
		if strings.HasPrefix(what, "WRONG") {
			t.Errorf("%s, %d times", what, n)
		}
	}
}

// slots lists the numbers of the existing slots.
func (d *mounted) slots() (list []string) {
	d.t.Helper()
	entries, err := os.ReadDir(d.Dir)
	if err != nil {
		d.t.Error(err)
	}
	for _, e := range entries {
		if _, err := strconv.Atoi(e.Name()); err == nil {
			list = append(list, e.Name())
		}
	}
	return list
}

// clients count the outcomes of their opens.
type clients struct {
	things []*thing
	now    atomic.Int64 // the cycle under way
	good   chan *thing  // whose card has answered

	mu     sync.Mutex
	counts map[string]int
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

// answered waits until a client has an answer of x.
func (c *clients) answered(t *testing.T, x *thing) {
	t.Helper()
	late := time.After(proc.Patience)
	for {
		select {
		case got := <-c.good:
			if got == x {
				return
			}
		case <-late:
			t.Fatalf("%s: no client got an answer; %s", x.name, c)
		}
	}
}

func (c *clients) count(what string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.counts[what]++
}

func (c *clients) run(ctx context.Context, d *mounted) {
	for ctx.Err() == nil {
		time.Sleep(time.Duration(rand.IntN(10)) * time.Millisecond)
		slots := d.slots()
		if len(slots) == 0 {
			c.count("found no reader")
			continue
		}
		slot, begin := slots[rand.IntN(len(slots))], c.now.Load()
		if rand.IntN(2) == 0 {
			got, err := os.ReadFile(d.Path(slot + "/atr"))
			c.judge("ATR", err, begin, func(x *thing) bool { return slices.Contains(x.atrs, strings.TrimSpace(string(got))) })
			continue
		}
		ch, err := openChannel(d.Path(slot + "/apdu"))
		if err != nil {
			c.judge("open", err, begin, nil)
			continue
		}
		for range 1 + rand.IntN(3) {
			got, err := ch.send(c.things[0].command)
			x := c.judge("exchange", err, begin, func(x *thing) bool { return x.answer == got })
			if x == nil {
				break
			}
			select {
			case c.good <- x:
			default:
			}
		}
		ch.close()
	}
}

// judge counts what a call came to that began in the cycle begin, and returns whose answer
// it is. The right one is that of a thing which was plugged in meanwhile, or was just
// before and has not left yet.
func (c *clients) judge(what string, err error, begin int64, right func(*thing) bool) *thing {
	switch {
	case errors.Is(err, syscall.ENOENT), errors.Is(err, syscall.ENODEV):
		c.count(what + " " + errors.Unwrap(wrapped(err)).Error())
		return nil
	case errors.Is(err, syscall.ENOMEDIUM), errors.Is(err, syscall.ESTALE):
		// QMP inserts the card after the reader, and a reset at that moment may end the card's
		// session.
		c.count(what + " " + err.Error())
		return nil
	case err != nil:
		c.count("WRONG " + what + ": " + err.Error())
		return nil
	}
	for i := max(0, begin-2); i <= c.now.Load(); i++ {
		if x := c.things[int(i)%len(c.things)]; right(x) {
			c.count(what + " right")
			return x
		}
	}
	c.count("WRONG " + what + ": the answer of nothing that is plugged in")
	return nil
}

// wrapped wraps err in an error that can be unwrapped.
func wrapped(err error) error {
	if errors.Unwrap(err) != nil {
		return err
	}
	return fmt.Errorf("%w", err)
}

// measure returns what a process holds.
func measure(t testing.TB, pid int) proc.Usage {
	t.Helper()
	u, err := proc.UsageOf(pid)
	if err != nil {
		t.Fatal(err)
	}
	return u
}
