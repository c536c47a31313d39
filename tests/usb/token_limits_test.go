package usb

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"text/tabwriter"
	"time"

	"github.com/cardfs/cardfs/drivers/bus/usb"
	"github.com/cardfs/cardfs/drivers/bus/usb/transports"
	"github.com/cardfs/cardfs/drivers/bus/usb/usbip"
	"github.com/cardfs/cardfs/drivers/bus/usb/usbtest"
	"github.com/cardfs/cardfs/drivers/emulators"
	"github.com/cardfs/cardfs/drivers/sim"
	"github.com/cardfs/cardfs/tests/internal/daemon"
	"github.com/cardfs/cardfs/tests/internal/hex"
	"github.com/cardfs/cardfs/tests/vm/machine"
)

// TestTokenLimits measures every token against the iKey 3000 and against the machine's cost
// of one USB transfer.
func TestTokenLimits(t *testing.T) {
	if os.Getenv("CARDFS_BENCH") == "" && !machine.Inside() {
		t.Skip("takes minutes; make bench-vm (CARDFS_BENCH=1)")
	}
	machine.RunSelf(t, "^TestTokenBench$", machine.Config{Timeout: 20 * time.Minute})
}

// prescribed is what a token's protocol costs whoever speaks it: transfers and pauses of one
// command whose answer fits into one block, and pauses of a power-up.
type prescribed struct {
	transfers int
	pause     time.Duration
	powerUp   time.Duration
}

// tokens are those of package emulators whose card cannot be removed and that are no CCID
// devices.
var tokens = map[string]prescribed{
	"ikey3k":   {transfers: 2},
	"ikey2k":   {transfers: 2},
	"etoken":   {transfers: 2},
	"etoken64": {transfers: 2},
	"starkey":  {transfers: 2},
	"epass3k":  {transfers: 2},
	// Status, header, status twice, data, status, SW1 SW2: the emulator is busy once, and a
	// pause of 0.1 ms follows. A pause of 100 ms before each of the first three transfers of
	// a reset.
	"egate": {transfers: 7, pause: 100 * time.Microsecond, powerUp: 300 * time.Millisecond},
	// The card's answers are there at once in the emulator, so no read is repeated.
	"eutron": {transfers: 2},
	// Header, status twice, data, status twice, SW1 SW2, status.
	"rutoken": {transfers: 8},
}

const (
	fastestPlug = 1.2 // from the kernel's enumeration to the first answer, against the iKey 3000
	overhead    = 1.3 // of an APDU, over its transfers
)

func TestTokenBench(t *testing.T) {
	machine.NeedGuest(t)
	d := newFiles(t)
	cost := transferCost(t)
	first, apdu, one := map[string][]float64{}, map[string][]float64{}, map[string][]float64{}
	seen := map[string]float64{}
	var names []string
	for round := range rounds {
		for _, e := range emulators.All() {
			p, ok := tokens[e.Name]
			if !ok {
				if e.Fixed && !strings.HasPrefix(e.Name, "iccd") {
					t.Errorf("%s: nothing says what its protocol costs", e.Name)
				}
				continue
			}
			if round == 0 {
				names = append(names, e.Name)
			}
			x := newToken(t, e)
			enumerated := deviceAdded(t)
			port := x.plug(t)
			var transfers atomic.Int64
			x.observe(func(l usbtest.Line) {
				if l.Kind == usbtest.Transfer {
					transfers.Add(1)
				}
			})
			slot := d.next("arrived")[1]
			if got, err := exchange(d.d.Path(slot+"/apdu"), x.command); err != nil || got != x.answer {
				t.Fatalf("%s: first answer: %s, %v; want %s", e.Name, got, err, x.answer)
			}
			first[e.Name] = append(first[e.Name], float64(time.Since(enumerated())-p.powerUp))
			one[e.Name] = append(one[e.Name], cost()...)
			transfers.Store(0)
			if _, err := exchange(d.d.Path(slot+"/apdu"), x.command); err != nil || transfers.Load() != int64(p.transfers) {
				t.Errorf("%s: a command took %d transfers, not %d (%v)", e.Name, transfers.Load(), p.transfers, err)
			}
			apdu[e.Name] = append(apdu[e.Name], times(t, run(t, nil, built("filebench"), "ioctl", strconv.Itoa(exchanges), strings.ReplaceAll(x.command, " ", ""), d.d.Path(slot+"/apdu")))...)
			seen[e.Name] += float64(transfers.Load()) / float64(1+exchanges+exchanges/10) / rounds
			if err := port.Unplug(); err != nil {
				t.Fatal(err)
			}
			d.next("left")
		}
	}
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "token\tenumerated → first APDU\tagainst ikey3k\tbound\tone APDU\ttransfers\tof\tagainst them\tbound\t")
	row := func(name string, ratio, bound float64, what string) string {
		if ratio > bound {
			t.Errorf("%s: %s: ratio %.2f, bound %.1f", name, what, ratio, bound)
			return "MISSED"
		}
		return "met"
	}
	for _, name := range names {
		p := tokens[name]
		f, a := median(first[name]), median(apdu[name])
		plug := f / median(first["ikey3k"])
		c := median(one[name])
		over := a / (float64(p.transfers)*c + float64(p.pause))
		fmt.Fprintf(w, "%s\t%v\t%.2f\t≤ %.1f %s\t%v\t%.2f\t%v\t%.2f\t≤ %.1f %s\t\n", name,
			time.Duration(f).Round(10*time.Microsecond), plug, fastestPlug, row(name, plug, fastestPlug, "first APDU"),
			time.Duration(a).Round(time.Microsecond), seen[name], time.Duration(c).Round(time.Microsecond), over, overhead, row(name, over, overhead, "one APDU"))
	}
	w.Flush()
	t.Logf("medians of %d rounds, %d APDUs each; without the pauses that the protocols prescribe\n%s", rounds, exchanges, b.String())
	d.stop()

	for _, transport := range []string{"usbfs", "gousb"} {
		t.Run("idle "+transport, func(t *testing.T) { idleTokens(t, transport, names) })
	}
}

// idleTokens plugs in all tokens at once, lets each answer once, and counts what happens
// while nobody uses them: with usbfs nothing.
func idleTokens(t *testing.T, transport string, names []string) {
	t.Setenv(envTransport, transport)
	d := newFiles(t)
	defer d.stop()
	var ports []*usbip.Port
	defer func() {
		for _, p := range ports {
			_ = p.Unplug()
		}
		daemon.Eventually(t, "the tokens have left", func() bool { return len(d.d.slots()) == 0 })
	}()
	for _, e := range emulators.All() {
		if !slices.Contains(names, e.Name) {
			continue
		}
		x := newToken(t, e)
		ports = append(ports, x.plug(t))
		slot := d.next("arrived")[1]
		if got, err := exchange(d.d.Path(slot+"/apdu"), x.command); err != nil || got != x.answer {
			t.Fatalf("%s: %s, %v", e.Name, got, err)
		}
	}
	transfers, switches := idleness(t, d.pid())
	t.Logf("%s, %d tokens, 10 s: %.0f transfers, %.0f wake-ups", transport, len(names), transfers, switches)
	if transport == "usbfs" && transfers+switches > 0 {
		t.Errorf("%.0f transfers and %.0f wake-ups while nobody uses the tokens", transfers, switches)
	}
}

// token is an emulated token with its card, and a command of the card with its answer.
type token struct {
	device          emulators.USB
	observe         func(func(usbtest.Line))
	command, answer string
}

func newToken(t *testing.T, e emulators.Emulator) *token {
	t.Helper()
	x := &token{device: e.New(e.Name).(emulators.USB)}
	card, ok := sim.NewCard(e.Cards[0], e.Name)
	if !ok {
		t.Fatalf("%s: no card %s", e.Name, e.Cards[0])
	}
	if err := x.device.Contacts()[0].Insert(card); err != nil {
		t.Fatal(err)
	}
	// Its serial number, with the Le that needs no second try in T=0.
	x.command = fmt.Sprintf("00CA005A %02X", len(card.Process(hex.Bytes("00CA005A 00")))-2)
	x.answer = hex.Spaced(card.Process(hex.Bytes(x.command)))
	return x
}

func (x *token) plug(t *testing.T) *usbip.Port {
	t.Helper()
	plugged := x.device.Plug()
	x.observe = plugged.Device().Observe
	port, err := usbip.Plug(plugged, usbip.Full)
	if err != nil {
		t.Fatal(err)
	}
	return port
}

// envTransfers tells a process of this binary to time transfers to an emulated device, which
// the process that started it has plugged in.
const envTransfers = "CARDFS_TEST_USB_TRANSFERS"

// transferCost times control transfers to an emulated device that answers at once, through
// the kernel. As with cardfs, another process than the emulator's asks.
func transferCost(t *testing.T) func() []float64 {
	t.Helper()
	device := usbtest.New(usbtest.Model{
		Descriptors: []byte{
			18, 1, 0x00, 0x01, 0xFF, 0, 0, 8, 0x55, 0xF0, 0xFF, 0xFF, 0, 1, 0, 0, 0, 1,
			9, 2, 18, 0, 1, 1, 0, 0x80, 50,
			9, 4, 0, 0, 0, 0xFF, 0, 0, 0,
		},
		Control: func(_ context.Context, _ usb.Setup, data []byte) (int, error) { return len(data), nil },
	})
	port, err := usbip.Plug(device.Plug(), usbip.Full)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { port.Unplug() })
	return func() (ns []float64) {
		t.Helper()
		cmd := exec.Command(os.Args[0], "-test.run", "^TestTransfers$", "-test.v")
		cmd.Env = append(os.Environ(), envTransfers+"=1")
		out := output(t, cmd, nil)
		for line := range strings.Lines(out) {
			if n, err := strconv.ParseFloat(strings.TrimSpace(line), 64); err == nil {
				ns = append(ns, n)
			}
		}
		if len(ns) == 0 {
			t.Fatalf("no times: %s", out)
		}
		return ns
	}
}

// TestTransfers is the process that transferCost starts.
func TestTransfers(t *testing.T) {
	if os.Getenv(envTransfers) == "" {
		t.Skip("started by TestTokenBench")
	}
	var conn usb.Conn
	daemon.Eventually(t, "the device can be opened", func() bool {
		conn = openDevice(t, "f055", "ffff")
		return conn != nil
	})
	defer conn.Close()
	buf := make([]byte, 37)
	for range exchanges {
		begin := time.Now()
		if _, err := conn.Control(t.Context(), usb.Setup{RequestType: 0xC0, Request: 1}, buf, time.Second); err != nil {
			t.Fatal(err)
		}
		fmt.Println(float64(time.Since(begin)))
	}
}

// openDevice opens the device with these IDs by usbfs, or returns nil.
func openDevice(t *testing.T, vendor, product string) usb.Conn {
	t.Helper()
	open, err := transports.Find("usbfs")
	if err != nil {
		t.Fatal(err)
	}
	dirs, _ := filepath.Glob("/sys/bus/usb/devices/*")
	for _, dir := range dirs {
		attribute := func(name string) string {
			b, _ := os.ReadFile(filepath.Join(dir, name))
			return strings.TrimSpace(string(b))
		}
		if attribute("idVendor") != vendor || attribute("idProduct") != product {
			continue
		}
		bus, _ := strconv.Atoi(attribute("busnum"))
		number, _ := strconv.Atoi(attribute("devnum"))
		descriptors, _ := os.ReadFile(filepath.Join(dir, "descriptors"))
		conn, err := open(usb.Place{
			Name: "usb:" + filepath.Base(dir), Path: fmt.Sprintf("/dev/bus/usb/%03d/%03d", bus, number),
			Bus: bus, Number: number, Descriptors: descriptors, Config: 1,
		}, 0)
		if err == nil {
			return conn
		}
	}
	return nil
}
