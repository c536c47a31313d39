package usb_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cardfs/cardfs/drivers/bus/usb"
	"github.com/cardfs/cardfs/drivers/bus/usb/internal/rig"
	"github.com/cardfs/cardfs/reader"
	"github.com/cardfs/cardfs/tests/vm/machine"
)

// A device on a real bus (here QEMU's UHCI) that is unplugged during bulk transfers does not
// respond for a while before the hub reports it. That is reported as the departure, not as
// another error.
func TestUSBUnplugWhileBusy(t *testing.T) { onEach(t, testUSBUnplugWhileBusy) }

func testUSBUnplugWhileBusy(t *testing.T, open usb.Transport) {
	g := machine.NeedGuest(t)
	_, h := rig.Watch(t, open, rig.CCIDDriver)
	for i := range 5 {
		if err := machine.Plug(t.Context(), g, "ccid-empty", "busy"); err != nil {
			t.Fatal(err)
		}
		d := h.Next(t)
		c, err := usb.Open(t.Context(), d, 0)
		if err != nil {
			t.Fatal(err)
		}
		in, out := rig.BulkEndpoints(c)
		end := make(chan error, 1)
		go func() {
			// PC_to_RDR_GetSlotStatus, RDR_to_PC_SlotStatus (CCID 1.1 §6.1.3, §6.2.2).
			for seq := byte(0); ; seq++ {
				if _, err := c.Out(t.Context(), out, []byte{0x65, 0, 0, 0, 0, 0, seq, 0, 0, 0}, false, rig.Timeout); err != nil {
					end <- err
					return
				}
				if _, err := c.In(t.Context(), in, make([]byte, 64), rig.Timeout); err != nil {
					end <- err
					return
				}
			}
		}()
		time.Sleep(time.Duration(i) * 7 * time.Millisecond) // any moment
		begin := time.Now()
		if err := machine.Unplug(t.Context(), g, "busy"); err != nil {
			t.Fatal(err)
		}
		err = <-end
		t.Logf("%v after unplugging: %v", time.Since(begin), err)
		if !errors.Is(err, reader.ErrGone) {
			t.Errorf("%v, want ErrGone", err)
		}
		rig.AwaitGone(t, d)
		c.Close()
	}
}

// The system sleeps and wakes, which resets the bus: the reader stays. Linux
// Documentation/power/basic-pm-debugging.rst: pm_test stops before the hardware
// sleeps, and wakes after 5 s.
func TestSleepUSB(t *testing.T) {
	g := machine.NeedGuest(t)
	if err := os.WriteFile("/sys/power/pm_test", []byte("devices"), 0); err != nil {
		t.Skipf("the kernel cannot test suspend: %v", err)
	}
	// The machine's root is gone after sleep: everything that this process needs later must
	// be in memory.
	for line := range strings.Lines(readFile("/proc/self/maps")) {
		if i := strings.IndexByte(line, '/'); i >= 0 {
			_ = readFile(strings.TrimSpace(line[i:]))
		}
	}
	_, h := rig.Watch(t, usb.Usbfs, rig.CCIDDriver)
	if err := machine.Plug(t.Context(), g, "ccid", "sleepy"); err != nil {
		t.Fatal(err)
	}
	d := h.Next(t)
	defer rig.TakeOut(t, g, "sleepy", d)
	c, err := usb.Open(t.Context(), d, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	rig.PowerOn(t, c)
	pending := make(chan error, 1)
	go func() {
		var err error
		for err == nil {
			_, err = c.In(t.Context(), 0x81, make([]byte, 8), 0)
		}
		pending <- err
	}()
	if err := os.WriteFile("/sys/power/state", []byte("mem"), 0); err != nil {
		t.Fatalf("suspend: %v", err)
	}
	select {
	case err := <-pending:
		t.Logf("the pending transfer ended with: %v", err)
		if errors.Is(err, reader.ErrGone) {
			t.Error("want ErrReset, or nothing")
		}
	case <-time.After(time.Second):
		t.Log("the pending transfer is still pending")
	}
	t.Logf("ATR % X", rig.PowerOn(t, c))
	if rig.IsGone(d) || h.Count() != 1 {
		t.Errorf("after sleep: gone %v, announced %d times", rig.IsGone(d), h.Count())
	}
}

// An open but unused reader costs no wake-up: its pending transfer waits in the kernel.
func TestUSBIdle(t *testing.T) { onEach(t, testUSBIdle) }

func testUSBIdle(t *testing.T, open usb.Transport) {
	g := machine.NeedGuest(t)
	_, h := rig.Watch(t, open, rig.CCIDDriver)
	if err := machine.Plug(t.Context(), g, "ccid", "idle"); err != nil {
		t.Fatal(err)
	}
	d := h.Next(t)
	defer rig.TakeOut(t, g, "idle", d)
	c, err := usb.Open(t.Context(), d, 0)
	if err != nil {
		t.Fatal(err)
	}
	rig.PowerOn(t, c)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for err := error(nil); err == nil; {
			_, err = c.In(context.Background(), 0x81, make([]byte, 8), 0)
		}
	}()
	// Linux Documentation/usb/usbmon.rst: a line for each transfer submitted or
	// completed on the bus.
	mon, err := os.Open(fmt.Sprintf("/sys/kernel/debug/usb/usbmon/%du", rig.Number(filepath.Join("/sys/bus/usb/devices", d.Port), "busnum")))
	if err != nil {
		t.Fatal(err)
	}
	defer mon.Close()
	traffic := make(chan string, 1000)
	go func() {
		for lines := bufio.NewScanner(mon); lines.Scan(); {
			traffic <- lines.Text()
		}
	}()
	time.Sleep(time.Second) // the card's arrival is reported
	for len(traffic) > 0 {
		<-traffic
	}
	before := switches(t)
	time.Sleep(3 * time.Second)
	t.Logf("%d wake-ups of this process in 3 s, its runtime's among them", switches(t)-before)
	for len(traffic) > 0 {
		t.Errorf("while idle: %s", <-traffic)
	}
	c.Close()
	<-done
}

// switches counts how often the threads of this process went to sleep.
func switches(t *testing.T) (n int) {
	tasks, err := filepath.Glob("/proc/self/task/*/status")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range tasks {
		for line := range strings.Lines(readFile(f)) {
			if v, ok := strings.CutPrefix(line, "voluntary_ctxt_switches:"); ok {
				k, _ := strconv.Atoi(strings.TrimSpace(v))
				n += k
			}
		}
	}
	return n
}
