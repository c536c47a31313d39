package usb

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"
	"testing"
	"text/tabwriter"
	"time"

	"go.uber.org/goleak"

	"github.com/cardfs/cardfs/drivers/bus/usb/hotplug"
	"github.com/cardfs/cardfs/drivers/bus/usb/transports"
	"github.com/cardfs/cardfs/drivers/bus/usb/usbip"
	"github.com/cardfs/cardfs/drivers/bus/usb/usbtest"
	"github.com/cardfs/cardfs/drivers/emulators"
	"github.com/cardfs/cardfs/drivers/sim"
	"github.com/cardfs/cardfs/reader"
	"github.com/cardfs/cardfs/reader/icc"
	"github.com/cardfs/cardfs/reader/readertest"
	"github.com/cardfs/cardfs/tests/internal/hex"
	"github.com/cardfs/cardfs/tests/vm/machine"
)

// envInProcess carries what the suites in this process came to into the machine, which prints
// the table.
const envInProcess = "CARDFS_TEST_IN_PROCESS"

const inProcess = "in process"

// Every emulated device passes the suite of reader/readertest: in process, and plugged into a
// kernel, on each transport. Readers are plugged in only with CARDFS_SOAK.
func TestSuitesInMachine(t *testing.T) {
	if machine.Inside() {
		t.Skip("this is the machine already")
	}
	var cells []string
	for _, e := range emulators.All() {
		t.Run(inProcess+"/"+e.Name, func(t *testing.T) {
			// Some drivers pause between their transfers.
			results := readertest.PausingSuite(t, func(t *testing.T) *readertest.Fixture {
				x := newEmulated(t, e, "1")
				link := emulators.Plug(x.device)
				f := x.fixture(reader.Device{Address: "1", Link: link}, link.Unplug)
				f.Close = link.Unplug // a silent card still works on its answer
				if e.Name == "towitoko" {
					f.Wait = 5 * time.Second // it cannot ask for the card while it waits for one
				}
				return f
			})
			cells = append(cells, e.Name+"="+verdict(results))
		})
	}
	t.Parallel() // the suites above look for goroutines that they left behind
	machine.RunSelf(t, cmp.Or(os.Getenv("CARDFS_VM_RUN"), "^TestSuites$"), machine.Config{
		Timeout: 15 * time.Minute, Env: append(os.Environ(), envInProcess+"="+strings.Join(cells, ";")),
	})
}

// verdict is a cell of the table.
func verdict(results []readertest.Result) string {
	var passed, skipped int
	var failed []string
	for _, r := range results {
		switch {
		case r.Failed:
			failed = append(failed, r.Test)
		case r.Skipped:
			skipped++
		default:
			passed++
		}
	}
	if len(failed) > 0 {
		return "FAILED " + strings.Join(failed, " ")
	}
	return fmt.Sprintf("%d passed, %d do not apply", passed, skipped)
}

// emulatedDevice is one device of an emulator, with its cards.
type emulatedDevice struct {
	emulators.Emulator
	device emulators.Device
	cards  []icc.Card
}

func newEmulated(t *testing.T, e emulators.Emulator, serial string) *emulatedDevice {
	t.Helper()
	x := &emulatedDevice{Emulator: e, device: e.New(serial)}
	for n := range x.device.Contacts() {
		card, ok := sim.NewCard(e.Cards[n], serial)
		if !ok {
			t.Fatalf("%s: no card %s", e.Name, e.Cards[n])
		}
		x.cards = append(x.cards, card)
	}
	x.asNew(t)
	return x
}

// asNew puts the cards back and makes them answer.
func (x *emulatedDevice) asNew(t *testing.T) {
	t.Helper()
	for n, contact := range x.device.Contacts() {
		contact.SetFaults(icc.Faults{})
		if contact.Present() {
			continue
		}
		if err := contact.Insert(x.cards[n]); err != nil {
			t.Fatal(err)
		}
	}
}

func (x *emulatedDevice) fixture(dev reader.Device, unplug func()) *readertest.Fixture {
	f := &readertest.Fixture{
		Driver: x.Driver(slog.New(slog.DiscardHandler)), Device: dev,
		Command: hex.Bytes("80EE0000 03 010203 00"), Answer: hex.Bytes("01 02 03 90 00"),
		Unplug: unplug,
	}
	f.Device.Driver, f.Device.ID = f.Driver.Name(), x.ID
	for _, c := range x.device.Contacts() {
		f.Slots = append(f.Slots, readertest.Contact(c, x.Fixed))
	}
	return f
}

// TestSuites is the part in the machine.
func TestSuites(t *testing.T) {
	machine.NeedGuest(t)
	names := transports.Names()
	slices.Reverse(names) // usbfs, the default, first
	columns := append([]string{inProcess}, names...)
	table := map[string]string{}
	for _, cell := range strings.Split(os.Getenv(envInProcess), ";") {
		name, v, _ := strings.Cut(cell, "=")
		table[inProcess+name] = v
	}
	for _, transport := range names {
		t.Run(transport, func(t *testing.T) { suitesOn(t, transport, table) })
	}
	var s strings.Builder
	w := tabwriter.NewWriter(&s, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "the suite's tests\t"+strings.Join(columns, "\t")+"\t")
	for _, e := range emulators.All() {
		fmt.Fprint(w, e.Name+"\t")
		for _, c := range columns {
			fmt.Fprint(w, table[c+e.Name]+"\t")
		}
		fmt.Fprintln(w)
	}
	w.Flush()
	t.Logf("\n%s", s.String())
}

// suitesOn runs the suites on one transport.
func suitesOn(t *testing.T, transport string, table map[string]string) {
	before := goleak.IgnoreCurrent()
	b, stop := watchBus(t, transport)
	for _, e := range emulators.All() {
		if _, ok := e.New("").(emulators.USB); !ok || !e.Fixed && soak(t, 0) == 0 {
			continue
		}
		t.Run(e.Name, func(t *testing.T) { table[transport+e.Name] = verdict(b.suite(t, e)) })
	}
	stop()
	goleak.VerifyNone(t, before)
}

// busOf is a transport with devices as hotplug announces them.
type busOf struct {
	transport string
	news      chan reader.Device
}

func (b *busOf) Announce(d reader.Device) error {
	b.news <- d
	return nil
}

func watchBus(t *testing.T, transport string) (b *busOf, stop func()) {
	t.Helper()
	open, err := transports.Find(transport)
	if err != nil {
		t.Fatal(err)
	}
	b = &busOf{transport, make(chan reader.Device, 1000)}
	w := hotplug.New(open, nil)
	var drivers []reader.Driver
	for _, e := range emulators.All() {
		if d := e.Driver(slog.New(slog.DiscardHandler)); !slices.ContainsFunc(drivers, func(o reader.Driver) bool { return o.Name() == d.Name() }) {
			drivers = append(drivers, d)
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	if err := w.Watch(ctx, b, drivers); err != nil {
		t.Fatal(err)
	}
	return b, func() { cancel(); w.Close() }
}

// plug plugs in d, which has that serial number, and returns what is announced.
func (b *busOf) plug(t *testing.T, d *usbtest.Port, serial string) (reader.Device, *usbip.Port) {
	t.Helper()
	port, err := usbip.Plug(d, usbip.Full)
	if err != nil {
		t.Fatal(err)
	}
	select {
	case dev := <-b.news:
		if dev.Serial != serial {
			t.Fatalf("the device %s is announced as %s", serial, dev.Serial)
		}
		return dev, port
	case <-time.After(time.Minute):
		t.Fatal("the device is not announced")
		return reader.Device{}, nil
	}
}

// suite runs the suite with one device, which stays plugged in from test to test, unless it
// was unplugged by one. Between two it is reset.
func (b *busOf) suite(t *testing.T, e emulators.Emulator) []readertest.Result {
	serial := e.Name + "-" + b.transport
	x := newEmulated(t, e, serial)
	var dev reader.Device
	var port *usbip.Port
	var bus *usbtest.Port
	unplug := func() {
		if port != nil {
			_ = port.Unplug()
			bus.Unplug() // it may work on something still
			port = nil
		}
	}
	defer unplug()
	return readertest.BusSuite(t, func(t *testing.T) *readertest.Fixture {
		x.asNew(t)
		if port == nil {
			bus = emulators.PlugUSB(x.device, "")
			dev, port = b.plug(t, bus, serial)
		} else {
			bus.Reset()
		}
		f := x.fixture(dev, unplug)
		if b.transport == "gousb" {
			f.Wait = 2 * time.Second // it cannot cancel a control transfer
		}
		return f
	})
}
