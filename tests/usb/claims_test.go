package usb

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/cardfs/cardfs/tests/internal/daemon"
	"github.com/cardfs/cardfs/tests/internal/proc"
	"github.com/cardfs/cardfs/tests/pcscd"
	"github.com/cardfs/cardfs/tests/vm/machine"
)

// Two programs want the same reader. The second one reports who has it, and gets it after
// the first has released it and the second was told to rescan.
func TestGuestClaims(t *testing.T) {
	g := machine.NeedGuest(t)
	plug(t, g, "r1")

	// Two daemons.
	first := mount(t, nil)
	first.works()
	second := mount(t, nil)
	second.refused(fmt.Sprintf("cardfs (pid %d)", first.Pid()))
	first.works()
	first.Stop()
	second.Ctl("rescan")
	second.works()

	// pcscd with libccid comes second. It gets nothing, and disturbs nothing.
	srv := startPcscd(t)
	wait(t, srv, "LIBUSB_ERROR_BUSY")
	second.works()
	for line := range strings.Lines(srv.Log()) {
		if strings.Contains(line, "LIBUSB_ERROR_BUSY") {
			t.Logf("pcscd with libccid, coming second: %s", strings.TrimSpace(line))
		}
	}
	second.Stop()

	// pcscd first.
	if err := srv.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	wait(t, srv, "Card ATR: "+cardATR)
	third := mount(t, nil)
	third.refused(fmt.Sprintf("pcscd (pid %d)", srv.Pid()))
	if err := srv.Shutdown(); err != nil {
		t.Fatal(err)
	}
	third.Ctl("rescan")
	third.works()
}

// startPcscd starts pcscd with Debian's drivers, libccid among them.
func startPcscd(t testing.TB, options ...pcscd.Option) *pcscd.Server {
	t.Helper()
	srv, err := pcscd.Start(t.Context(), t.TempDir(), "", options...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = srv.Close()
		if t.Failed() && os.Getenv("CARDFS_BENCH") == "" { // a missed bound is not pcscd's fault
			t.Logf("pcscd said:\n%s", tail(srv.Log(), 4000))
		}
	})
	return srv
}

func wait(t testing.TB, srv *pcscd.Server, text string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), proc.Patience)
	defer cancel()
	if err := srv.WaitLog(ctx, text); err != nil {
		t.Fatal(err)
	}
}

// works checks that the card answers.
func (d *mounted) works() {
	d.t.Helper()
	got := ""
	var err error
	// A rescan announces the reader anew.
	for end := time.Now().Add(proc.Patience); ; time.Sleep(20 * time.Millisecond) {
		if got, err = exchange(d.Path("0/apdu"), selectPKI); err == nil {
			break
		}
		if time.Now().After(end) {
			d.t.Fatalf("the reader does not work: %v", err)
		}
	}
	if got != "61 0D" {
		d.t.Errorf("the card says %s, want 61 0D", got)
	}
}

// refused waits until the slot has failed and its status names the program that has it.
func (d *mounted) refused(who string) {
	d.t.Helper()
	daemon.Eventually(d.t, "the slot has failed", func() bool { return d.status("0", "state") == "failed" })
	said := d.status("0", "error")
	d.t.Logf("status: error %s", said)
	if !strings.Contains(said, who) {
		d.t.Errorf("the error does not name %s: %s", who, said)
	}
}
