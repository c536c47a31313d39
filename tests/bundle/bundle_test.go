// Package bundle tests the bundle by which pcscd's own USB hotplug finds
// cardfs's readers, in a virtual machine that has USB.
package bundle

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cardfs/cardfs/drivers/bus/usb/usbip"
	ccidemu "github.com/cardfs/cardfs/drivers/ccid/emu"
	ikeyemu "github.com/cardfs/cardfs/drivers/ikey/emu"
	"github.com/cardfs/cardfs/tests/cc"
	"github.com/cardfs/cardfs/tests/internal/daemon"
	"github.com/cardfs/cardfs/tests/internal/proc"
	"github.com/cardfs/cardfs/tests/pcscd"
	"github.com/cardfs/cardfs/tests/vm/machine"
)

// builtEnv tells the tests in the machine where the built files are.
const builtEnv = "CARDFS_TEST_BUNDLE"

// TestBundle builds everything as make does, then reruns itself in the machine. It is a
// single test on both sides, so that -run cannot leave out one side.
func TestBundle(t *testing.T) {
	if machine.Inside() {
		inMachine(t)
		return
	}
	dir := t.TempDir()
	if err := cc.Build(t.Context(), dir+"/libifdcardfs.so", cc.IFDHandler()); err != nil {
		t.Fatal(err)
	}
	if err := daemon.Build(t.Context(), dir+"/cardfs"); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), "sh", "-euc",
		`"$0/cardfs" ids | ctapi/clib/ifd/bundle.sh "$0/libifdcardfs.so" "$0/ifd-cardfs.bundle"`, dir)
	cmd.Dir = cc.Root()
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("bundle.sh: %v\n%s", err, out)
	}
	t.Setenv(builtEnv, dir)
	machine.RunSelf(t, "^TestBundle$", machine.Config{})
}

// card answers every command with 9000.
type card struct{}

func (card) ATR() []byte {
	return []byte{0x3B, 0xB7, 0x94, 0x00, 0x81, 0x31, 0xFE, 0x65, 'S', 'P', 'K', '2', '3', 0x90, 0x00, 0xD1}
}
func (card) Reset(bool)            {}
func (card) Process([]byte) []byte { return []byte{0x90, 0x00} }

// unplugged stands for the moment when pcscd has forgotten all readers.
const unplugged = "unplugged"

const atr = "3b:b7:94:00:81:31:fe:65:53:50:4b:32:33:90:00:d1"

// token is an iKey 3000. pcscd's name for it contains the serial number.
func token(t *testing.T, serial string) usbip.Device {
	e := ikeyemu.New3000(serial)
	if err := e.Contact.Insert(card{}); err != nil {
		t.Fatal(err)
	}
	return e.Plug()
}

// twoSlots is a reader with two slots whose IDs are in the bundle.
func twoSlots(t *testing.T, serial string) usbip.Device {
	c := ccidemu.TwoSlotReader()
	c.Vendor, c.Product, c.Serial = 0x1DB2, 0x0600, serial
	e := ccidemu.New(c)
	for n := range 2 {
		if err := e.Contact(n).Insert(card{}); err != nil {
			t.Fatal(err)
		}
	}
	return e.Plug()
}

func plug(t *testing.T, d usbip.Device) *usbip.Port {
	t.Helper()
	p, err := usbip.Plug(d, usbip.Full)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func unplug(t *testing.T, p *usbip.Port) {
	t.Helper()
	if err := p.Unplug(); err != nil {
		t.Error(err)
	}
}

// lab is a machine with cardfs and a pcscd that has only the bundle.
type lab struct {
	t      *testing.T
	cardfs *daemon.Daemon
	pcscd  *pcscd.Server
}

// readers returns pcscd's readers that have a card with our ATR.
func (l *lab) readers() []string {
	out, _ := l.pcscd.Command(l.t.Context(), "opensc-tool", "--list-readers").CombinedOutput()
	var list []string
	for line := range strings.Lines(string(out)) {
		// "0    Yes             Rainbow iKey 3000 (1) 00 00"
		f := strings.Fields(line)
		if len(f) < 3 || f[1] != "Yes" {
			continue
		}
		name := strings.Join(f[2:], " ")
		out, _ := l.pcscd.Command(l.t.Context(), "opensc-tool", "--reader", name, "--atr").CombinedOutput()
		if strings.Contains(string(out), atr) {
			list = append(list, name)
		}
	}
	return list
}

// none reports whether pcscd lists no reader at all, with a card or without.
func (l *lab) none() bool {
	out, _ := l.pcscd.Command(l.t.Context(), "opensc-tool", "--list-readers").CombinedOutput()
	return strings.Contains(string(out), "No smart card readers found")
}

// await waits until exactly these readers have their cards. It asks repeatedly, because an
// opensc-tool shows only the state at its start.
func (l *lab) await(what string, want ...string) {
	l.t.Helper()
	begin := time.Now()
	for {
		got := l.readers()
		slices.Sort(got)
		if slices.Equal(got, want) && (what != unplugged || l.none()) {
			l.t.Logf("%s: %q after %v", what, got, time.Since(begin).Round(time.Millisecond))
			return
		}
		if time.Since(begin) > time.Minute {
			l.autopsy()
			l.t.Fatalf("%s: readers with cards are %q, want %q; pcscd says:\n%s", what, got, want, l.pcscd.Log())
		}
		time.Sleep(100 * time.Millisecond)
	}
}

// autopsy shows what cardfs and pcscd wait for. It ends cardfs: SIGQUIT makes it write all
// its goroutines to its log.
func (l *lab) autopsy() {
	l.t.Helper()
	status, _ := filepath.Glob("/mnt/cards/*/status")
	for _, name := range status {
		text, _ := os.ReadFile(name)
		l.t.Logf("%s:\n%s", name, text)
	}
	l.t.Logf("threads of pcscd:\n%s", proc.Threads(l.pcscd.Pid()))
	if l.cardfs.Running() {
		l.t.Logf("threads of cardfs:\n%s", proc.Threads(l.cardfs.Pid()))
		_ = syscall.Kill(l.cardfs.Pid(), syscall.SIGQUIT)
	}
}

// Readers appear in pcscd's list and leave it with their devices, in any order of cardfs,
// pcscd and plugging. pcscd is never restarted.
func inMachine(t *testing.T) {
	machine.NeedGuest(t)
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
	defer cancel()
	built := "/run/host" + os.Getenv(builtEnv)
	const drivers = "/usr/lib/pcsc/drivers" // the machine's own from here on
	for _, dir := range []string{drivers, "/mnt"} {
		if err := unix.Mount("tmpfs", dir, "tmpfs", 0, ""); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir("/mnt/cards", 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.CopyFS(drivers+"/ifd-cardfs.bundle", os.DirFS(built+"/ifd-cardfs.bundle")); err != nil {
		t.Fatal(err)
	}

	l := &lab{t: t, cardfs: daemon.New(t, built+"/cardfs", "/mnt/cards")}
	before := plug(t, token(t, "A"))
	l.cardfs.Start()
	var err error
	if l.pcscd, err = pcscd.Start(ctx, t.TempDir(), "", pcscd.Debug()); err != nil {
		t.Fatal(err)
	}
	defer l.pcscd.Close()
	l.await("plugged in before both", "Rainbow iKey 3000 (A) 00 00")
	unplug(t, before)
	l.await(unplugged)
	for range 2 {
		p := plug(t, token(t, "B"))
		l.await("plugged in", "Rainbow iKey 3000 (B) 00 00")
		unplug(t, p)
		l.await(unplugged)
	}

	one, two := plug(t, twoSlots(t, "C")), plug(t, token(t, "D"))
	l.await("two readers, one with two slots", l.either("DUALi DE-ABCM6 (C)", "Rainbow iKey 3000 (D)")...)
	unplug(t, one)
	unplug(t, two)
	l.await(unplugged)

	l.cardfs.Stop()
	late := plug(t, token(t, "E"))
	if err := l.pcscd.WaitLog(ctx, "Attempting startup of Rainbow iKey 3000 (E)"); err != nil {
		t.Error(err)
	}
	l.cardfs.Start()
	l.await("cardfs started after the token", "Rainbow iKey 3000 (E) 00 00")
	l.cardfs.Stop()
	l.await("cardfs ended")
	l.cardfs.Start()
	l.await("cardfs started anew", "Rainbow iKey 3000 (E) 00 00")
	unplug(t, late)
	l.await(unplugged)
	l.cardfs.Stop()
	for _, bad := range []string{"init failed", "Error powering up card"} {
		if strings.Contains(l.pcscd.Log(), bad) {
			t.Errorf("pcscd says %q:\n%s", bad, l.pcscd.Log())
		}
	}
}

// either waits until pcscd has started both readers, and returns the names of their slots.
// The kernel decides which reader is first.
func (l *lab) either(double, single string) []string {
	l.t.Helper()
	ctx, cancel := context.WithTimeout(l.t.Context(), time.Minute)
	defer cancel()
	if err := l.pcscd.WaitLog(ctx, "Attempting startup of "+double); err != nil {
		l.t.Fatal(err)
	}
	if err := l.pcscd.WaitLog(ctx, "Attempting startup of "+single); err != nil {
		l.t.Fatal(err)
	}
	if strings.Contains(l.pcscd.Log(), "Attempting startup of "+double+" 00 00") {
		return []string{double + " 00 00", double + " 00 01", single + " 01 00"}
	}
	return []string{double + " 01 00", double + " 01 01", single + " 00 00"}
}
