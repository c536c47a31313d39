// Package witness has another project's driver, in the virtual machine, and a driver of this
// project drive the same emulated device. What both get to the same answers is shown by more
// than the two who were written side by side.
//
// USB has it all for a reader of which pcscd has another driver. For other witnesses there are
// the parts: Plug, PlugAdapter and OpenTerminal for the machine's kernel and its drivers;
// Device, for USB, and OnPort for the driver of this project.
package witness

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cardfs/cardfs/drivers/bus/usb/usbtest"
	"github.com/cardfs/cardfs/reader"
	"github.com/cardfs/cardfs/tests/cc"
	"github.com/cardfs/cardfs/tests/foreign"
	"github.com/cardfs/cardfs/tests/pcscd"
	"github.com/cardfs/cardfs/tests/vm/machine"
)

// USB is the case of a USB reader of which pcscd has another driver.
type USB struct {
	// Packages are Debian's: of the other driver, which pcscd finds by its bundle, and of the
	// libraries that it needs beside those of the machine.
	Packages []string
	Driver   reader.Driver
	// Plug makes the device, plugged in, with a card in it that speaks T=protocol.
	Plug func(t *testing.T, protocol int) *usbtest.Port
}

const (
	clientEnv  = "CARDFS_TEST_PCSC_CLIENT"
	foreignEnv = "CARDFS_TEST_FOREIGN"

	bundles = "/usr/lib/pcsc/drivers"
	patient = time.Minute
)

// Host runs the test guest, which calls Guest, in the machine.
func (w USB) Host(t *testing.T, guest string) {
	if machine.Inside() {
		t.Skip("this is the machine already")
	}
	client := filepath.Join(t.TempDir(), "pcscsh")
	err := cc.Build(t.Context(), client, cc.Target{Sources: []string{"tests/ifd/testdata/pcscsh.c"}, Packages: []string{"libpcsclite"}})
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv(clientEnv, client)
	t.Setenv(foreignEnv, foreign.Unpack(t, w.Packages...))
	machine.RunSelf(t, "^"+guest+"$", machine.Config{})
}

// Guest has both drivers exchange the commands with T=0 and T=1 cards, cardfs on each
// transport.
func (w USB) Guest(t *testing.T) {
	machine.NeedGuest(t)
	root := "/run/host" + os.Getenv(foreignEnv)
	if err := unix.Mount(root+bundles, bundles, "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	defer unix.Unmount(bundles, unix.MNT_DETACH)
	for protocol := range 2 {
		t.Run(fmt.Sprintf("%s T=%d", w.Packages[0], protocol), func(t *testing.T) { w.foreign(t, root, protocol) })
		for _, transport := range Transports {
			t.Run(fmt.Sprintf("cardfs %s T=%d", transport, protocol), func(t *testing.T) {
				Device{Driver: w.Driver, Port: w.Plug(t, protocol), Exchanges: Reader(protocol)}.Cardfs(t, transport)
			})
		}
	}
}

// foreign is the other driver.
func (w USB) foreign(t *testing.T, root string, protocol int) {
	defer Plug(t, w.Plug(t, protocol))()
	srv, err := pcscd.Start(t.Context(), t.TempDir(), "", pcscd.Debug(), pcscd.Env("LD_LIBRARY_PATH="+root+"/lib/x86_64-linux-gnu"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		srv.Kill()
		srv.Close()
		if said := srv.Log(); t.Failed() {
			t.Logf("pcscd said:\n%s", said[max(0, len(said)-6000):])
		}
	}()
	l := srv.Shell(t, "/run/host"+os.Getenv(clientEnv))
	defer l.Close()
	name := l.Reader()
	if got := l.Say("soon", name); got != fmt.Sprintf("ok T=%d", protocol) {
		t.Fatalf("%s: connect: %s", name, got)
	}
	list := Reader(protocol)
	for _, x := range list {
		if got := l.Exchange(x.Command); got != x.Answer {
			t.Errorf("%s: > %s\n< %s\nwant %s", w.Packages[0], x.Command, got, x.Answer)
		}
	}
	t.Logf("%s, %s, T=%d: %d commands", w.Packages[0], name, protocol, len(list))
	l.Say("disconnect", "unpower")
}
