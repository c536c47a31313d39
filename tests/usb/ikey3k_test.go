package usb

import (
	"context"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	usbdev "github.com/cardfs/cardfs/drivers/bus/usb"

	"github.com/cardfs/cardfs/drivers/bus/usb/usbip"
	"github.com/cardfs/cardfs/drivers/ikey3k"
	"github.com/cardfs/cardfs/reader/icc"
	"github.com/cardfs/cardfs/tests/cc"
	"github.com/cardfs/cardfs/tests/vm/machine"
)

// starcos is the card of drivers/ikey3k's session.
type starcos struct{}

const starcosATR = "3B B7 94 00 81 31 FE 65 53 50 4B 32 33 90 00 D1"

func unhex(s string) []byte {
	b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
	if err != nil {
		panic(err)
	}
	return b
}

func (starcos) ATR() []byte { return unhex(starcosATR) }
func (starcos) Reset(bool)  {}
func (starcos) Process(c []byte) []byte {
	switch fmt.Sprintf("%X", c) {
	case "00A40000023F00":
		return unhex("90 00")
	case "0084000008":
		return unhex("11 12 13 14 15 16 17 18 90 00")
	}
	return unhex("6D 00")
}

// recorder writes down the control transfers that the kernel hands to a device.
type recorder struct {
	usbip.Device
	mu    sync.Mutex
	lines []string
}

func (r *recorder) Control(ctx context.Context, s usbdev.Setup, data []byte, timeout time.Duration) (int, error) {
	n, err := r.Device.Control(ctx, s, data, timeout)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.lines = append(r.lines, strings.TrimSpace(fmt.Sprintf("%v %04X | % X", s, len(data), data[:n])))
	return n, err
}

func (r *recorder) log() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]string(nil), r.lines...)
}

// The emulated iKey 3000 as a USB device: ATR, APDUs, unplugging and replugging
// through the mounted files; what crosses the wire is what OpenCT 0.6.20 was
// observed to send, byte for byte.
func TestGuestIKey3000(t *testing.T) {
	machine.NeedGuest(t)
	d := mount(t, nil)
	next := d.follow()
	token := &ikey3k.Emulator{Serial: "0123"}
	if err := token.Contact.Insert(starcos{}); err != nil {
		t.Fatal(err)
	}
	session := wireSession(t)
	for round := range 3 {
		rec := &recorder{Device: token.Plug()}
		port, err := usbip.Plug(rec, usbip.Low)
		if err != nil {
			t.Fatal(err)
		}
		defer port.Unplug()
		if w := next("arrived"); w[1] != "0" {
			t.Errorf("round %d: %q", round, w)
		}
		if got := d.read("0/atr"); got != starcosATR {
			t.Errorf("round %d: ATR %s", round, got)
		}
		c, err := openChannel(d.path("0/apdu"))
		if err != nil {
			t.Fatal(err)
		}
		for _, x := range []struct{ tx, rx string }{
			{"00A40000 02 3F00", "90 00"},
			{"00840000 08", "11 12 13 14 15 16 17 18 90 00"},
		} {
			if got, err := c.send(x.tx); err != nil || got != x.rx {
				t.Errorf("round %d: %s: %s, %v; want %s", round, x.tx, got, err, x.rx)
			}
		}
		compare(t, rec.log(), session)
		if round == 0 {
			t.Logf("status:\n%s\ntransfers:\n%s", d.read("0/status"), strings.Join(rec.log(), "\n"))
			t.Logf("by-id: %s", strings.TrimSpace(run(t, nil, "ls", d.path("by-id"))))
			// A block that the card sends damaged: the host asks for it again.
			token.Contact.SetFaults(icc.Faults{Every: 3, Seed: 1})
			for range 4 {
				if got, err := c.send("00840000 08"); err != nil || got != "11 12 13 14 15 16 17 18 90 00" {
					t.Errorf("with damaged blocks: %s, %v", got, err)
				}
			}
			token.Contact.SetFaults(icc.Faults{})
			t.Logf("with every third block damaged:\n%s", strings.Join(rec.log()[len(session):], "\n"))
		}
		if err := port.Unplug(); err != nil {
			t.Error(err)
		}
		next("left")
		if _, err := c.send("00840000 08"); !isGone(err) {
			t.Errorf("round %d: after unplugging: %v, want ENODEV", round, err)
		}
		c.close()
	}
}

// wireSession is drivers/ikey3k/testdata/session.txt up to the second command;
// what comes after it only shows the forms of the other blocks.
func wireSession(t *testing.T) (lines []string) {
	t.Helper()
	text, err := os.ReadFile(onHost(filepath.Join(cc.Root(), "drivers/ikey3k/testdata/session.txt")))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		line, _, _ = strings.Cut(line, "#")
		if line = strings.Join(strings.Fields(line), " "); line != "" {
			lines = append(lines, line)
		}
	}
	return lines
}

// compare tells whether the session's transfers up to its second command are
// there in their order. Between power-up and commands the host may agree on an
// IFSD, and it may ask more than once for what it asks.
func compare(t *testing.T, log, session []string) {
	t.Helper()
	const powerUpAndTwoCommands = 11
	want := session[:powerUpAndTwoCommands]
	i := 0
	var extra []string
	for _, line := range log {
		if i < len(want) && line == want[i] {
			i++
		} else {
			extra = append(extra, line)
		}
	}
	if i < len(want) {
		t.Errorf("transfer %d of the session never came: %s\nthe wire had\n%s", i+1, want[i], strings.Join(log, "\n"))
	}
	for _, line := range extra {
		if !strings.HasPrefix(line, "OUT 41 17 C100 ") && !strings.HasPrefix(line, "IN C1 01 0000 0000 00FF | 00 E1 01 ") {
			t.Errorf("a transfer that the session does not have: %s", line)
		}
	}
	t.Logf("%d transfers, %d of them the session's, %d to agree on the IFSD", len(log), i, len(extra))
}
