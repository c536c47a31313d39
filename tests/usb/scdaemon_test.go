package usb

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"text/tabwriter"
	"time"

	"github.com/cardfs/cardfs/drivers/bus/usb/usbip"
	"github.com/cardfs/cardfs/drivers/emulators"
	"github.com/cardfs/cardfs/drivers/sim/applet"
	"github.com/cardfs/cardfs/drivers/sim/openpgp"
	"github.com/cardfs/cardfs/tests/cc"
	"github.com/cardfs/cardfs/tests/internal/debian"
	"github.com/cardfs/cardfs/tests/internal/gnupg"
	"github.com/cardfs/cardfs/tests/vm/machine"
)

// gpg with the CCID driver of its own that scdaemon has: neither pcscd nor cardfs is there, and
// the simulated card is in a USB reader. The other levels of readers, and those which the driver
// does not use, have their turn with CARDFS_SOAK.
func TestGuestScdaemon(t *testing.T) {
	machine.NeedGuest(t)
	if err := debian.Need(map[string]string{"gpg": "gnupg", "/usr/lib/gnupg/scdaemon": "scdaemon", "bash": "bash"}); err != nil {
		t.Fatal(err)
	}
	var table strings.Builder
	w := tabwriter.NewWriter(&table, 0, 0, 2, ' ', 0)
	for _, x := range []struct {
		reader, atr string
		why         string // gpg cannot use the card
		says        string // scdaemon's log of that, a regular expression
	}{
		{reader: "ccid", atr: "t1"},
		{reader: "ccid-ext", atr: "t1"},
		{reader: "ccid-short", atr: "t1", why: "it sends APDUs of extended length, since the card takes them, which a reader of this level does not",
			says: `raw apdu: 00 CA 5F 50 00 08 00\n(.*\n)*.*CCID command failed: Parameter error at offset 1\n`},
		{reader: "ccid-char", atr: "t1", why: "it drives no reader of this level", says: `requires that the reader supports T=1, TPDU or APDU level exchange`},
		{reader: "ccid", atr: "t0", why: "it has T=1 alone", says: `dwProtocols +3  T=0 T=1\n(.*\n)*.*update_param_by_atr failed`},
	} {
		line := func(action, result string) { fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", x.reader, x.atr, action, result) }
		if x.reader+x.atr != "ccidt1" && soak(t, 0) == 0 {
			line("card status", "not run: only with CARDFS_SOAK")
			continue
		}
		t.Run(x.reader+"-"+x.atr, func(t *testing.T) {
			g := newUSBGPG(t, x.reader, x.atr)
			if x.why != "" {
				out, err := g.run(gnupg.Status)
				if log := g.log(); err == nil || !regexp.MustCompile(x.says).MatchString(log) {
					t.Errorf("card status: %v\n%s", err, out)
				}
				line("card status", "not done: "+x.why)
				return
			}
			for _, step := range []struct{ action, script, want string }{
				{"card status", gnupg.Status, `Version \.*: 3\.4.*rsa2048 rsa2048 rsa2048.*retry counter : 3 0 3`},
				{"generate Ed25519, X25519", gnupg.Edit("admin " + gnupg.Curve25519 + " " + gnupg.Alice), `KEY_CREATED B`},
				{"sign", gnupg.Sign, `Good signature from "Alice Sample`},
				{"decrypt", gnupg.Seal, `A message\.`},
			} {
				out, err := g.run(step.script)
				if err != nil || !regexp.MustCompile("(?s)"+step.want).MatchString(out) {
					line(step.action, "FAILED")
					t.Fatalf("%s: %v\n%s", step.action, err, out)
				}
				line(step.action, "ok")
			}
		})
	}
	w.Flush()
	version, _, _ := strings.Cut(run(t, nil, "gpg", "--version"), "\n")
	t.Logf("%s, the CCID driver of scdaemon: reader, protocol, action, result\n%s", version, &table)
}

// usbGPG is a gpg whose card is in a USB reader.
type usbGPG struct {
	t    *testing.T
	home string
	env  []string
}

func newUSBGPG(t *testing.T, reader, atr string) *usbGPG {
	t.Helper()
	all := emulators.All()
	e := all[slices.IndexFunc(all, func(e emulators.Emulator) bool { return e.Name == reader })]
	device := e.New("0123")
	// A slow hash of a PIN would take longer than scdaemon waits, since everything is slow here.
	card, err := openpgp.New(applet.Settings{Serial: "0123", ATR: atr, Cost: applet.Cheap})
	if err != nil {
		t.Fatal(err)
	}
	if err := device.Contacts()[0].Insert(card); err != nil {
		t.Fatal(err)
	}
	port, err := usbip.Plug(emulators.PlugUSB(device, "0123"), usbip.Full)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = port.Unplug() })
	home, err := os.MkdirTemp("", "gpg") // short: sockets lie in it
	if err != nil {
		t.Fatal(err)
	}
	env, err := gnupg.Prepare(home, "debug-ccid-driver\ndebug-level guru\nlog-file "+home+"/scd.log\n", onHost(filepath.Join(cc.Root(), "tests/internal/gnupg/pinentry.sh")))
	if err != nil {
		t.Fatal(err)
	}
	g := &usbGPG{t, home, append(os.Environ(), append(env, "HOME="+home, "LC_ALL=C.UTF-8")...)}
	t.Cleanup(func() {
		g.run(gnupg.Forget)
		if t.Failed() {
			t.Logf("scdaemon's log ends with\n%s", tail(g.log(), 9000))
		}
	})
	return g
}

// withPIN matches lines of scdaemon's log with VERIFY, CHANGE REFERENCE DATA, or RESET RETRY COUNTER.
var withPIN = regexp.MustCompile(`(?m)^.*raw apdu: 00 (20|24|2C) .*\n`)

// log is what scdaemon says, but for PINs.
func (g *usbGPG) log() string {
	text, _ := os.ReadFile(filepath.Join(g.home, "scd.log"))
	return withPIN.ReplaceAllString(string(text), "")
}

func (g *usbGPG) run(script string) (string, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(g.t.Context()), 5*time.Minute) // dozens of programs
	defer cancel()
	cmd := exec.CommandContext(ctx, "bash", "-ec", script)
	cmd.Dir, cmd.Env = g.home, g.env
	out, err := cmd.CombinedOutput()
	return string(out), err
}
