package ccid

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cardfs/cardfs/drivers/bus/usb/hotplug"
	"github.com/cardfs/cardfs/drivers/bus/usb/transports"
	"github.com/cardfs/cardfs/drivers/bus/usb/usbip"
	"github.com/cardfs/cardfs/drivers/ccid/emu"
	"github.com/cardfs/cardfs/reader"
	"github.com/cardfs/cardfs/reader/core"
	"github.com/cardfs/cardfs/tests/cc"
	"github.com/cardfs/cardfs/tests/pcscd"
	"github.com/cardfs/cardfs/tests/vm/machine"
)

// The emulator is right if a driver of other authors agrees: libccid, under pcscd, in a
// machine with USB.
func TestLibccidInMachine(t *testing.T) {
	if machine.Inside() {
		t.Skip("this is the machine already")
	}
	client := filepath.Join(t.TempDir(), "pcscsh")
	err := cc.Build(t.Context(), client, cc.Target{Sources: []string{"tests/ifd/testdata/pcscsh.c"}, Packages: []string{"libpcsclite"}})
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv(clientEnv, client)
	machine.RunSelf(t, "^TestWitnessLibccid$", machine.Config{})
}

// The same readers, cards and commands through this driver, over usbfs.
func TestCardfsInMachine(t *testing.T) { machine.RunSelf(t, "^TestWitnessCardfs$", machine.Config{}) }

func TestFaultsInMachine(t *testing.T) { machine.RunSelf(t, "^TestWitnessFaults$", machine.Config{}) }

// Both over libusb.
func TestGousbInMachine(t *testing.T) {
	machine.RunSelf(t, "^TestWitness(Cardfs|Faults)$", machine.Config{Env: append(os.Environ(), transportEnv+"=gousb")})
}

const (
	clientEnv    = "CARDFS_TEST_PCSC_CLIENT"
	transportEnv = "CARDFS_TEST_TRANSPORT" // "": the default
)

// exchange is a command and the card's answer to a program.
type exchange struct{ tx, rx string }

// In T=0 a PC/SC program fetches the answer of case 4 itself.
var commonExchanges = []exchange{
	{"00 A4 00 00 02 3F 00", "90 00"},
	{"00 84 00 00 08", "00 01 02 03 04 05 06 07 90 00"},
	{"00 84 00 00 FA", hexOf(pattern(250)) + " 90 00"},
	{"80 E8 00 06", "90 00"}, // 600 ms
}

func hexOf(b []byte) string { return fmt.Sprintf("% X", b) }

type witnessCase struct {
	name      string
	cfg       emu.Config
	atr       []byte
	protocol  string
	exchanges []exchange
}

func witnessCases() []witnessCase {
	t0 := append(commonExchanges[:len(commonExchanges):len(commonExchanges)],
		exchange{"80 EE 00 00 04 01 02 03 04", "61 04"}, exchange{"00 C0 00 00 04", "01 02 03 04 90 00"})
	t1 := append(commonExchanges[:len(commonExchanges):len(commonExchanges)],
		exchange{"80 EE 00 00 04 01 02 03 04 00", "01 02 03 04 90 00"},
		exchange{"80 EE 00 00 FA " + hexOf(pattern(250)) + " 00", hexOf(pattern(250)) + " 90 00"})
	long := append(t1[:len(t1):len(t1)],
		exchange{"80 EE 00 00 00 07 D0 " + hexOf(pattern(2000)) + " 00 00", hexOf(pattern(2000)) + " 90 00"})
	with := func(c emu.Config, f emu.Features) emu.Config {
		c.Features = f
		return c
	}
	slow := emu.TPDUReader()
	slow.NoInterrupt = true
	return []witnessCase{
		{"character T=0", emu.CharacterReader(), atrT0, "T=0", t0},
		{"character T=0 fast", emu.CharacterReader(), atrT0Fast, "T=0", t0},
		{"character T=1", emu.CharacterReader(), atrT1IFSC, "T=1", t1},
		{"TPDU T=0", emu.TPDUReader(), atrT0, "T=0", t0},
		{"TPDU T=0 fast", emu.TPDUReader(), atrT0Fast, "T=0", t0},
		{"TPDU T=0 inverse", emu.TPDUReader(), atrInverse, "T=0", t0},
		{"TPDU T=1", emu.TPDUReader(), atrT1, "T=1", t1},
		{"TPDU T=1 IFSC 254", emu.TPDUReader(), atrT1IFSC, "T=1", long},
		{"TPDU T=1 CRC", emu.TPDUReader(), atrT1CRC, "T=1", t1},
		{"TPDU T=1 fast", emu.TPDUReader(), atrT1Fast, "T=1", t1},
		{"TPDU T=1 specific", emu.TPDUReader(), atrSpecific, "T=1", t1},
		{"TPDU, no interrupt endpoint", slow, atrT1, "T=1", t1},
		{"TPDU, automatic PPS", with(emu.TPDUReader(), emu.AutoParamsATR|emu.AutoVoltage|emu.AutoClock|emu.AutoBaud|emu.AutoPPS), atrT1Fast, "T=1", t1},
		{"TPDU, own negotiation and IFSD", with(emu.TPDUReader(), emu.AutoVoltage|emu.AutoClock|emu.AutoBaud|emu.AutoNegotiate|emu.AutoIFSD), atrT1Fast, "T=1", t1},
		{"TPDU, voltage by the host", with(emu.TPDUReader(), emu.AutoParamsATR|emu.AutoClock|emu.AutoBaud), atrT1, "T=1", t1},
		{"short APDU T=0", emu.ShortAPDUReader(), atrT0, "T=0", append(commonExchanges[:4:4], exchange{"80 EE 00 00 04 01 02 03 04 00", "01 02 03 04 90 00"})},
		{"short APDU T=1", emu.ShortAPDUReader(), atrT1Fast, "T=1", t1},
		{"extended APDU T=0", emu.ExtendedAPDUReader(), atrT0, "T=0", append(commonExchanges[:4:4], exchange{"80 EE 00 00 04 01 02 03 04 00", "01 02 03 04 90 00"})},
		{"extended APDU T=1", emu.ExtendedAPDUReader(), atrT1Fast, "T=1", long},
		{"two slots", emu.TwoSlotReader(), atrT1, "T=1", t1},
		{"PIN pad", emu.PINPadReader(), atrT1, "T=1", t1},
		{"ICCD A", emu.ICCDA(), atrT0, "T=0", t0},
		{"ICCD B", emu.ICCDB(), atrT1, "T=1", long},
	}
}

func TestWitnessLibccid(t *testing.T) {
	machine.NeedGuest(t)
	for _, c := range witnessCases() {
		t.Run(c.name, func(t *testing.T) {
			e := newDevice(as(c.cfg, 0x04E6, 0x5116, 0x0610)) // IDs that libccid knows, without a quirk
			defer e.Unplug()
			e.Contact(0).Insert(&testCard{atr: c.atr})
			port, err := usbip.Plug(e.port, usbip.Full)
			if err != nil {
				t.Fatal(err)
			}
			defer port.Unplug()
			// Each reader has a pcscd of its own, which ends before the reader leaves:
			// pcscd 1.9.9 sometimes does not survive unplugging.
			srv, err := pcscd.Start(t.Context(), t.TempDir(), "", pcscd.Debug())
			if err != nil {
				t.Fatal(err)
			}
			defer func() {
				srv.Kill()
				srv.Close()
				if t.Failed() {
					said := srv.Log()
					if len(said) > 12000 {
						said = said[:6000] + "\n…\n" + said[len(said)-6000:]
					}
					t.Logf("pcscd said:\n%s", said)
				}
			}()
			witness(t, srv, e, c.protocol, c.exchanges)
		})
	}
}

func TestWitnessCardfs(t *testing.T) {
	machine.NeedGuest(t)
	b := newBus(t)
	for _, c := range witnessCases() {
		t.Run(c.name, func(t *testing.T) {
			e := newDevice(as(c.cfg, 0x04E6, 0x5116, 0x0610))
			e.Contact(0).Insert(&testCard{atr: c.atr})
			b.same(t, e, c.protocol, c.exchanges)
			e.Unplug()
		})
	}
}

func witness(t *testing.T, srv *pcscd.Server, e *device, protocol string, exchanges []exchange) {
	l := srv.Shell(t, "/run/host"+os.Getenv(clientEnv))
	defer l.Close()
	name := l.Reader()
	if got := l.Say("soon", name); got != "ok "+protocol {
		t.Fatalf("%s: connect: %s", name, got)
	}
	for _, x := range exchanges {
		if got := l.Exchange(x.tx); got != x.rx {
			t.Errorf("libccid: > %s\n< %s\nwant %s", brief(unhex(x.tx)), got, x.rx)
		}
	}
	if e.Config().PINPad {
		pinWitness(t, l, e.Reader)
	}
	l.Say("disconnect", "unpower")
}

// pinWitness makes libccid ask for a PIN: PC/SC part 10, FEATURE_VERIFY_PIN_DIRECT.
func pinWitness(t *testing.T, l *pcscd.Shell, e *emu.Reader) {
	const getFeatures, verifyDirect = "0x42000D48", 6
	list, ok := strings.CutPrefix(l.Say("control", getFeatures), "ok ")
	if !ok {
		t.Fatalf("features: %s", list)
	}
	code := ""
	for f := unhex(list); len(f) >= 6; f = f[6:] {
		if f[0] == verifyDirect {
			code = fmt.Sprintf("0x%02X%02X%02X%02X", f[2], f[3], f[4], f[5])
		}
	}
	f := format2()
	apdu := hexOf(f.APDU)
	e.Press(0, "1234\r")
	got := l.Say("control", code, strings.ReplaceAll("1E 1E 89 47 04 08 04 02 01 09 04 00 00 00 00 0D 00 00 00 "+apdu, " ", ""))
	if got != "ok 9000" {
		t.Errorf("PIN: %s (code %s)", got, code)
	}
	if pin := hexOf(e.Contact(0).Card().(*testCard).pin); pin != "24 12 34 FF FF FF FF FF" {
		t.Errorf("the card saw %s", pin)
	}
}

// bus is cardfs on the machine's USB.
type bus struct{ m *core.Manager }

func newBus(t *testing.T) *bus {
	open, err := transports.Find(cmp.Or(os.Getenv(transportEnv), transports.Default))
	if err != nil {
		t.Fatal(err)
	}
	m := core.NewManager(core.Options{Drivers: []reader.Driver{Driver{}}, Buses: []reader.Bus{hotplug.New(open, discard)}})
	m.WatchBuses()
	t.Cleanup(func() { m.Close(context.Background()) })
	return &bus{m}
}

// plug plugs e in and waits for its slot. The returned function unplugs it.
func (b *bus) plug(t *testing.T, e *device) (*core.Slot, func()) {
	t.Helper()
	events := b.m.Follow()
	some, cancel := context.WithTimeout(t.Context(), time.Minute)
	await := func(what core.What) core.Event {
		for {
			ev, _, err := events.Next(some)
			if err != nil {
				t.Fatalf("waiting for %q: %v", what, err)
			}
			if ev.What == what {
				return ev
			}
		}
	}
	port, err := usbip.Plug(e.port, usbip.Full)
	if err != nil {
		t.Fatal(err)
	}
	slot := b.m.Slot(await(core.Arrived).Slot)
	if slot == nil {
		t.Fatal("the reader left")
	}
	return slot, func() {
		defer cancel()
		defer events.Close()
		port.Unplug()
		for len(b.m.Slots()) > 0 {
			await(core.Left)
		}
	}
}

// same runs the exchanges through this driver, over usbfs.
func (b *bus) same(t *testing.T, e *device, protocol string, exchanges []exchange) {
	slot, unplug := b.plug(t, e)
	defer unplug()
	some, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	s, err := slot.Open(some, core.Caller{Owner: t, Wait: true})
	if err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprintf("T=%d", slot.Info().Params.T); got != protocol && e.Config().Level <= reader.TPDU {
		t.Errorf("cardfs: %s, want %s", got, protocol)
	}
	for _, x := range exchanges {
		got, err := s.Transmit(some, unhex(x.tx), nil)
		if err != nil || hexOf(got) != x.rx {
			t.Errorf("cardfs: > %s\n< %s, %v\nwant %s", brief(unhex(x.tx)), brief(got), err, x.rx)
		}
	}
}

// A reader of other authors: QEMU's usb-ccid with libcacard's card.
func TestQEMUInMachine(t *testing.T) {
	machine.RunSelf(t, "^TestQEMU$", machine.Config{Devices: []string{"ccid"}})
}

func TestQEMU(t *testing.T) {
	machine.NeedGuest(t)
	b := newBus(t)
	events := b.m.Follow()
	defer events.Close()
	some, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	ev, _, err := events.Next(some)
	if err != nil {
		t.Fatal(err)
	}
	slot := b.m.Slot(ev.Slot)
	if slot == nil {
		t.Fatal("the reader left")
	}
	s, err := slot.Open(some, core.Caller{Owner: t, Wait: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%s\nATR % X", fmt.Sprintf("%+v", slot.Info()), s.ATR())
	for range 20 { // the CAC's card manager
		got, err := s.Transmit(some, unhex("00 A4 04 00 07 A0 00 00 00 79 01 00 00"), nil)
		if err != nil || len(got) != 15 || got[13] != 0x90 {
			t.Fatalf("SELECT: % X, %v", got, err)
		}
	}
}

// All faults again, with a real host controller driver in between.
func TestWitnessFaults(t *testing.T) {
	machine.NeedGuest(t)
	b := newBus(t)
	for _, c := range []struct {
		name  string
		fault emu.Fault
		want  error
	}{
		{"stall before the answer", emu.Fault{Kind: emu.StallInLate}, nil},
		{"stall instead of the answer", emu.Fault{Kind: emu.StallIn}, reader.ErrTimeout},
		{"stall of the command", emu.Fault{Kind: emu.StallOut}, reader.ErrProtocol},
		{"runt", emu.Fault{Kind: emu.Runt}, reader.ErrProtocol},
		{"truncated", emu.Fault{Kind: emu.Truncated}, reader.ErrProtocol},
		{"long", emu.Fault{Kind: emu.Long}, nil},
		{"wrong dwLength", emu.Fault{Kind: emu.LengthLie}, reader.ErrProtocol},
		{"stale answer first", emu.Fault{Kind: emu.StaleFirst}, nil},
		{"wrong type", emu.Fault{Kind: emu.WrongType}, reader.ErrProtocol},
		{"babble", emu.Fault{Kind: emu.Babble}, reader.ErrProtocol},
		{"flood", emu.Fault{Kind: emu.Flood}, reader.ErrProtocol},
		{"empty packet", emu.Fault{Kind: emu.Empty}, nil},
		{"silence", emu.Fault{Kind: emu.Silence}, reader.ErrTimeout},
		{"hang", emu.Fault{Kind: emu.Stone}, reader.ErrGone},
		{"unplugged", emu.Fault{Kind: emu.Detach}, reader.ErrGone},
	} {
		t.Run(c.name, func(t *testing.T) {
			e := newDevice(as(emu.ShortAPDUReader(), 0x04E6, 0x5116, 0x0610))
			defer e.Unplug()
			card := &testCard{atr: atrT0Fast}
			e.Contact(0).Insert(card)
			slot, unplug := b.plug(t, e)
			defer unplug()
			open := func() *core.Session {
				some, cancel := context.WithTimeout(t.Context(), 30*time.Second)
				defer cancel()
				s, err := slot.Open(some, core.Caller{Owner: t, Wait: true})
				if err != nil {
					t.Fatal(err)
				}
				return s
			}
			s := open()
			transmit(t, s, unhex("00 84 00 00 04"), unhex("00 01 02 03 90 00"))
			before := card.count()
			c.fault.On = 0x6F
			e.Inject(c.fault)
			begin := time.Now()
			rx, err := s.Transmit(t.Context(), unhex("00 84 00 00 04"), nil)
			t.Logf("% X, %v, after %v", rx, err, time.Since(begin).Round(10*time.Millisecond))
			if !errors.Is(err, c.want) {
				t.Errorf("error %v, want %v", err, c.want)
			}
			if n := card.count() - before; n > 1 {
				t.Errorf("the card saw the command %d times", n)
			}
			if c.fault.Kind == emu.Stone {
				// It is announced again to report that it failed.
				events := b.m.Follow()
				defer events.Close()
				for what := core.What(""); what != core.Failed; {
					ev, _, err := events.Next(t.Context())
					if err != nil {
						t.Fatal(err)
					}
					what = ev.What
				}
			}
			if c.want != reader.ErrGone {
				transmit(t, open(), unhex("00 84 00 00 04"), unhex("00 01 02 03 90 00"))
			}
		})
	}
}
