package usb_test

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cardfs/cardfs/drivers/bus/usb"
	"github.com/cardfs/cardfs/drivers/bus/usb/internal/rig"
	"github.com/cardfs/cardfs/reader"
	"github.com/cardfs/cardfs/tests/vm/machine"
)

// A refused claim names the program that has the interface.
func TestUSBClaimed(t *testing.T) { onEach(t, testUSBClaimed) }

func testUSBClaimed(t *testing.T, open usb.Transport) {
	l, c := plugged(t, open)
	path := rig.Find(t, l.Serial)
	_, err := open(path, 0)
	want := fmt.Sprintf("%s (pid %d)", strings.TrimSpace(readFile("/proc/self/comm")), os.Getpid())
	if !errors.Is(err, reader.ErrClaimed) || !strings.Contains(err.Error(), want) {
		t.Errorf("%v, want ErrClaimed and %q", err, want)
	}
	if _, err := c.Control(t.Context(), usb.Setup{RequestType: 0x40, Request: rig.ReqStore}, nil, rig.Timeout); err != nil {
		t.Errorf("the first owner is disturbed: %v", err)
	}
	c.Close()
	c2, err := open(path, 0)
	if err != nil {
		t.Fatal(err)
	}
	c2.Close()
	if _, err := open(path, 7); !errors.Is(err, reader.ErrInvalid) {
		t.Errorf("interface 7: %v", err)
	}
}

func readFile(name string) string {
	b, _ := os.ReadFile(name)
	return string(b)
}

// A kernel driver is detached from the interface, and attached again on Close.
func TestUSBKernelDriver(t *testing.T) { onEach(t, testUSBKernelDriver) }

func testUSBKernelDriver(t *testing.T, open usb.Transport) {
	g := machine.NeedGuest(t)
	_, h := rig.Watch(t, open, rig.KeyboardDriver)
	if err := machine.Plug(t.Context(), g, "keyboard", "kbd"); err != nil {
		t.Fatal(err)
	}
	d := h.Next(t)
	defer rig.TakeOut(t, g, "kbd", d)
	link := filepath.Join("/sys/bus/usb/devices", d.Port, d.Port+":1.0", "driver")
	driver := func(want string) {
		t.Helper()
		var got string
		for end := time.Now().Add(rig.Timeout); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
			l, _ := os.Readlink(link)
			if got = filepath.Base(l); got == want {
				return
			}
		}
		t.Fatalf("the interface's driver is %q, want %q", got, want)
	}
	driver("usbhid")
	c, err := usb.Open(t.Context(), d, 0)
	if err != nil {
		t.Fatal(err)
	}
	driver("usbfs")
	// GET_REPORT goes to the keyboard (HID 1.11 §7.2.1).
	if n, err := c.Control(t.Context(), usb.Setup{RequestType: 0xA1, Request: 1, Value: 1 << 8}, make([]byte, 8), rig.Timeout); n != 8 || err != nil {
		t.Errorf("GET_REPORT: %d bytes, %v", n, err)
	}
	c.Close()
	driver("usbhid")
}

// Only the claimed interface is detached from its kernel driver, and Close gives it back.
// After a program that was killed while it had the interface, the next program's Close gives
// it back.
func TestUSBKernelDriverOfOne(t *testing.T) { onEach(t, testUSBKernelDriverOfOne) }

func testUSBKernelDriverOfOne(t *testing.T, open usb.Transport) {
	if at := os.Getenv("CARDFS_HOLD"); at != "" {
		if _, err := open(rig.Find(t, at), 0); err != nil {
			t.Fatal(err)
		}
		fmt.Println("holding")
		select {}
	}
	// Two keyboards in one, as a keyboard with a reader is built (HID 1.11 §6.2.1, §7.1).
	report := []byte{0x06, 0x00, 0xFF, 0x09, 0x01, 0xA1, 0x01, 0x15, 0x00, 0x26, 0xFF, 0x00, 0x75, 0x08, 0x95, 0x08, 0x09, 0x01, 0x81, 0x02, 0xC0}
	hid := func(number, ep uint8) []byte {
		return slices.Concat([]byte{9, 4, number, 0, 1, 3, 0, 0, 0},
			[]byte{9, 0x21, 0x11, 1, 0, 1, 0x22, byte(len(report)), 0}, []byte{7, 5, ep, 3, 8, 0, 10})
	}
	l := rig.NewLoop()
	l.Serial = fmt.Sprintf("hid-%d", time.Now().UnixNano())
	l.Report = report
	l.Desc = slices.Concat(l.Desc[:18], []byte{9, 2, 59, 0, 2, 1, 0, 0x80, 50}, hid(0, 0x81), hid(1, 0x82))
	rig.Plug(t, l)
	at := rig.Find(t, l.Serial)
	dir, err := filepath.EvalSymlinks(fmt.Sprintf("/sys/dev/char/189:%d", (at.Bus-1)*128+at.Number-1))
	if err != nil {
		t.Fatal(err)
	}
	driver := func(iface int, want string) {
		t.Helper()
		got := ""
		for end := time.Now().Add(rig.Timeout); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
			link, _ := os.Readlink(filepath.Join(dir, fmt.Sprintf("%s:1.%d", filepath.Base(dir), iface), "driver"))
			if got = filepath.Base(link); got == want {
				return
			}
		}
		t.Fatalf("interface %d: driver %q, want %q", iface, got, want)
	}
	const none = "." // the target of no link
	// A driver that is detached and attached again gives its device another number.
	other := func() string {
		names, _ := filepath.Glob(filepath.Join(dir, "*:1.1", "0003:*"))
		return strings.Join(names, " ")
	}
	driver(0, "usbhid")
	driver(1, "usbhid")
	before := other()
	if before == "" {
		t.Fatal("the other interface has no HID device")
	}
	c, err := open(at, 0)
	if err != nil {
		t.Fatal(err)
	}
	driver(0, "usbfs")
	if err := c.Reset(t.Context()); err != nil {
		t.Error(err)
	}
	driver(0, "usbfs")
	c.Close()
	driver(0, "usbhid")

	_, name, _ := strings.Cut(t.Name(), "/")
	cmd := exec.Command("/proc/self/exe", "-test.run=^TestUSBKernelDriverOfOne$/^"+name+"$", "-test.v")
	cmd.Env = append(os.Environ(), "CARDFS_HOLD="+l.Serial)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	held := false
	for lines := bufio.NewScanner(out); !held && lines.Scan(); {
		held = strings.Contains(lines.Text(), "holding")
	}
	if !held {
		t.Error("the other program does not hold the interface")
	}
	driver(0, "usbfs")
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	driver(0, none)
	if c, err = open(at, 0); err != nil {
		t.Fatal(err)
	}
	c.Close()
	driver(0, "usbhid")
	driver(1, "usbhid")
	if after := other(); after != before {
		t.Errorf("the other interface was %s, and is %s: it was taken from its driver too", before, after)
	}
}

// gousb takes an interface's number for its index; usbfs does not.
func TestUSBOddInterfaceNumber(t *testing.T) { onEach(t, testUSBOddInterfaceNumber) }

func testUSBOddInterfaceNumber(t *testing.T, open usb.Transport) {
	l := rig.NewLoop()
	l.Serial = fmt.Sprintf("odd-%d", time.Now().UnixNano())
	l.Desc = rig.LoopDescriptors(5)
	rig.Plug(t, l)
	c, err := open(rig.Find(t, l.Serial), 5)
	if strings.HasSuffix(t.Name(), "/gousb") {
		if !errors.Is(err, reader.ErrUnsupported) || !strings.Contains(err.Error(), "--usb=usbfs") {
			t.Errorf("%v, want ErrUnsupported and what to do", err)
		}
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Out(t.Context(), rig.BulkOut, pattern(3), false, rig.Timeout); err != nil {
		t.Error(err)
	}
}
