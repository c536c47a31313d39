package usb

import (
	"bytes"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/cardfs/cardfs/drivers/bus/usb/usbip"
	"github.com/cardfs/cardfs/drivers/bus/usb/usbtest"
	"github.com/cardfs/cardfs/drivers/emulators"
	"github.com/cardfs/cardfs/drivers/sim"
	"github.com/cardfs/cardfs/reader/icc"
	"github.com/cardfs/cardfs/tests/cc"
	"github.com/cardfs/cardfs/tests/internal/hex"
	"github.com/cardfs/cardfs/tests/vm/machine"
)

// command is a command of a session and what its card answers. at is where they differ at the
// card: the driver of the Rutoken rewrites them.
type command struct {
	tx, rx string
	at     *command
}

var (
	selectMF     = command{tx: "00A40000 02 3F00", rx: "90 00"}
	getChallenge = command{tx: "00840000 08", rx: "11 12 13 14 15 16 17 18 90 00"}
)

// wires are the sessions of the tokens' drivers, in drivers/NAME/testdata: power-up, and
// commands up to the step end. For a token that is not listed it is session.txt, of two steps.
var wires = map[string]struct {
	file     string
	end      string // step; "": the third
	commands []command
}{
	"ikey3k":   {file: "ikey3000.txt"},
	"ikey2k":   {file: "ikey2032.txt"},
	"etoken":   {file: "etoken.txt"},
	"etoken64": {file: "etoken64.txt"},
	"egate":    {commands: []command{{tx: "C0A40000 02 3F00", rx: "90 00"}, getChallenge}},
	"starkey":  {commands: []command{selectMF}},
	"rutoken": {file: "rutoken.txt", end: "refused", commands: []command{
		{"00CA0181 04", "12 34 56 78 90 00", &command{tx: "00CA0181 04", rx: "78 56 34 12 90 00"}},
		{"00A40000 02 3F00",
			"62 3D 81 02 10 00 80 02 04 00 82 02 01 00 83 02 3F 00 8A 01 05 86 28 01 02 03 04 05 06 07 08 11 00 00 00 12 00 00 00 " +
				"13 00 00 00 14 00 00 00 15 00 00 00 16 00 00 00 17 00 00 00 00 00 00 00 90 00",
			&command{tx: "00A40000 02 003F",
				rx: "00 10 00 04 01 00 00 3F 05 00 00 00 00 00 00 00 00 01 02 03 04 05 06 07 08 11 12 13 14 15 16 17 90 00"}},
	}},
}

// sheetCard has the ATR of another card and answers the commands of a session. A T=0 command
// that brings data may want an answer, which its header does not show.
type sheetCard struct {
	icc.Card
	commands []command
}

func (c *sheetCard) Process(p []byte) []byte {
	for _, x := range c.commands {
		if x.at != nil {
			x = *x.at
		}
		if tx := hex.Bytes(x.tx); bytes.Equal(p, tx) || bytes.Equal(p, append(tx, 0)) {
			return hex.Bytes(x.rx)
		}
	}
	return hex.Bytes("6D 00")
}

// Each emulated token as a USB device: ATR, APDUs, a reset, unplugging and replugging through
// the mounted files. The bytes on the wire are those of its driver's session, which is what
// OpenCT 0.6.20 was observed to send.
func TestGuestTokens(t *testing.T) {
	machine.NeedGuest(t)
	for _, e := range emulators.All() {
		if !e.Fixed || e.Driver(slog.New(slog.DiscardHandler)).Name() == "ccid" {
			continue
		}
		t.Run(e.Name, func(t *testing.T) { guestToken(t, e) })
	}
}

func guestToken(t *testing.T, e emulators.Emulator) {
	session, commands := wireSession(t, e)
	device := e.New("0123").(emulators.USB)
	standard, _ := sim.NewCard(e.Cards[0], "0123")
	contact := device.Contacts()[0]
	if err := contact.Insert(&sheetCard{standard, commands}); err != nil {
		t.Fatal(err)
	}
	atr := hex.Spaced(standard.ATR())
	exchange := func(c *channel, what string) {
		t.Helper()
		for _, x := range commands {
			if got, err := c.send(x.tx); err != nil || got != x.rx {
				t.Errorf("%s: %s: %s, %v; want %s", what, x.tx, got, err, x.rx)
			}
		}
	}
	d := mount(t, nil)
	next := d.follow()
	name := ""
	for round, what := range []string{"plugged in", "replugged", "replugged once more"} {
		log := new(usbtest.Log)
		port := device.Plug()
		port.Device().Observe(log.Add)
		plugged, err := usbip.Plug(port, usbip.Full)
		if err != nil {
			t.Fatal(err)
		}
		defer plugged.Unplug()
		if w := next("arrived"); w[1] != "0" {
			t.Errorf("%s: %q", what, w)
		}
		if got := d.text("0/atr"); got != atr {
			t.Errorf("%s: ATR %s, want %s", what, got, atr)
		}
		c, err := openChannel(d.Path("0/apdu"))
		if err != nil {
			t.Fatal(err)
		}
		exchange(c, what)
		compare(t, log.Session(), session)

		names, err := os.ReadDir(d.Path("by-id"))
		if err != nil || len(names) != 1 {
			t.Fatalf("%s: by-id: %v, %v", what, names, err)
		}
		switch got := names[0].Name(); {
		case name == "":
			name = got
			if !strings.HasPrefix(got, "usb-") || !strings.HasSuffix(got, "_0123-slot0") {
				t.Errorf("by-id name %s", got)
			}
			t.Logf("by-id/%s, status:\n%s\ntransfers:\n%v", got, d.text("0/status"), log.Session())
		case got != name:
			t.Errorf("%s: by-id name %s, was %s", what, got, name)
		}
		if to, err := os.Readlink(d.Path("by-id/" + name)); err != nil || to != "../0" {
			t.Errorf("by-id/%s is %s, %v", name, to, err)
		}
		if round == 0 && d.text("0/protocol")[:3] == "T=1" {
			before := len(log.Session())
			// The card sends a damaged block, and the host asks for it again.
			contact.SetFaults(icc.Faults{Every: 3, Seed: 1})
			for range 4 {
				exchange(c, "with damaged blocks")
			}
			contact.SetFaults(icc.Faults{})
			t.Logf("with every third block damaged:\n%v", log.Session()[before:])
		}

		if err := os.WriteFile(d.Path("0/power"), []byte("reset\n"), 0); err != nil {
			t.Errorf("%s: reset: %v", what, err)
		}
		if _, err := c.send(commands[0].tx); !errors.Is(err, syscall.ESTALE) {
			t.Errorf("%s: after a reset: %v, want ESTALE", what, err)
		}
		c.close()
		if c, err = openChannel(d.Path("0/apdu")); err != nil {
			t.Fatal(err)
		}
		exchange(c, what+", after a reset")

		if err := plugged.Unplug(); err != nil {
			t.Error(err)
		}
		next("left")
		if _, err := c.send(commands[0].tx); !isGone(err) {
			t.Errorf("%s: after unplugging: %v, want ENODEV", what, err)
		}
		c.close()
	}
}

// wireSession returns the transfers of power-up and commands in the session of a token's
// driver, and the commands.
func wireSession(t *testing.T, e emulators.Emulator) (session usbtest.Session, commands []command) {
	t.Helper()
	x := wires[e.Name]
	if x.file == "" {
		x.file = "session.txt"
	}
	if x.commands == nil {
		x.commands = []command{selectMF, getChallenge}
	}
	dir := filepath.Base(reflect.TypeOf(e.Driver(slog.New(slog.DiscardHandler))).PkgPath())
	all, err := usbtest.Load(onHost(filepath.Join(cc.Root(), "drivers", dir, "testdata", x.file)))
	if err != nil {
		t.Fatal(err)
	}
	steps := 0
	for _, l := range all {
		switch {
		case l.Kind == usbtest.Step:
			if steps++; steps == 3 && x.end == "" || l.Name == x.end {
				return session, x.commands
			}
			session = append(session, l)
		case l.Kind == usbtest.Transfer:
			session = append(session, l)
		}
	}
	t.Fatalf("%s does not go on after its commands", x.file)
	return nil, nil
}

// reads is a transfer, or what a host reads from the same place again and again until it has
// all: answers in pieces, or a status that changes. How often it has to is the device's.
type reads struct {
	usbtest.Line
	data [][]byte
	any  [][]bool
	step int // of the session, from 0
}

func merge(s usbtest.Session) (all []reads) {
	step := -1
	for _, l := range s {
		if l.Kind == usbtest.Step {
			step++
		}
		if l.Kind != usbtest.Transfer {
			continue
		}
		l.Timeout, l.Held = 0, 0 // the host enforces the time, not the bus
		n := len(all)
		if n == 0 || !l.In || !all[n-1].In || l.Control != all[n-1].Control || l.Setup != all[n-1].Setup || l.Endpoint != all[n-1].Endpoint || step != all[n-1].step {
			all = append(all, reads{Line: l, step: step})
			n++
		}
		r := &all[n-1]
		r.data, r.any = append(r.data, l.Data), append(r.any, l.Any)
	}
	return all
}

// same reports whether got is what r says: the same transfer, or as many bytes in other
// pieces, or the same last status.
func (r *reads) same(got *reads) bool {
	if r.Line.Same(&got.Line) && len(r.data) == 1 && len(got.data) == 1 {
		return true
	}
	if !r.In || !got.In || r.Control != got.Control || r.Setup != got.Setup || r.Endpoint != got.Endpoint {
		return false
	}
	last, gotLast := len(r.data)-1, len(got.data)-1
	var any []bool
	for i, d := range r.data {
		if r.any[i] == nil {
			any = append(any, make([]bool, len(d))...)
		} else {
			any = append(any, r.any[i]...)
		}
	}
	return like(slices.Concat(r.data...), any, slices.Concat(got.data...)) || len(r.data)+len(got.data) > 2 && like(r.data[last], r.any[last], got.data[gotLast])
}

func like(want []byte, any []bool, got []byte) bool {
	if len(want) != len(got) {
		return false
	}
	for i, b := range want {
		if b != got[i] && (any == nil || !any[i]) {
			return false
		}
	}
	return true
}

// compare checks that the transfers of log are the session's. Between power-up and commands
// the host may negotiate an IFSD, even more than once.
func compare(t *testing.T, log, session usbtest.Session) {
	t.Helper()
	wire, want := merge(log), merge(session)
	i, extra := 0, 0
	for n := range wire {
		between := i > 0 && i < len(want) && want[i].step > want[i-1].step
		switch {
		case i < len(want) && want[i].same(&wire[n]):
			i++
		case between && extra < 6:
			extra++
		default:
			t.Errorf("a transfer that the session does not have: %v", &wire[n].Line)
		}
	}
	if i < len(want) {
		t.Errorf("transfer %d of the session never came: %v\nthe wire had\n%v", i+1, &want[i].Line, log)
	}
	t.Logf("%d transfers and polls, %d of them the session's, %d to agree on the IFSD", len(wire), i, extra)
}
