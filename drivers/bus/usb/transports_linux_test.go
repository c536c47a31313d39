package usb_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cardfs/cardfs/drivers/bus/usb"
	"github.com/cardfs/cardfs/drivers/bus/usb/internal/rig"
	"github.com/cardfs/cardfs/drivers/bus/usb/transports"
	"github.com/cardfs/cardfs/reader"
	"github.com/cardfs/cardfs/tests/vm/machine"
)

// The transport's tests need a kernel with USB.
func TestInMachine(t *testing.T) { machine.RunSelf(t, "^TestUSB", machine.Config{}) }

// A machine of its own: one that has slept has lost its root (Linux 6.1's 9p does not
// survive), and no process can end in it.
func TestInMachineThatSleeps(t *testing.T) {
	if machine.Inside() {
		t.Skip("this is the machine already")
	}
	if testing.Short() {
		t.Skip("takes a machine of its own")
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	r, w := io.Pipe()
	defer r.Close()
	m, err := machine.Start(ctx, machine.Config{Command: []string{self, "-test.run=^TestSleepUSB$", "-test.v"}, Stdout: w, Stderr: w})
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		m.Wait()
		w.Close()
	}()
	verdict := ""
	for lines := bufio.NewScanner(r); verdict == "" && lines.Scan(); {
		t.Log(lines.Text())
		if f := strings.Fields(lines.Text()); len(f) > 1 && f[0] == "---" {
			verdict = f[1]
		}
	}
	r.Close() // so that the machine's output ends
	m.Close()
	if verdict != "PASS:" && verdict != "SKIP:" {
		t.Errorf("the test in the machine ended with %q; its console:\n%s", verdict, m.Console())
	}
}

// onEach runs a test on each transport.
func onEach(t *testing.T, test func(t *testing.T, open usb.Transport)) {
	machine.NeedGuest(t)
	for _, name := range transports.Names() {
		t.Run(name, func(t *testing.T) {
			open, err := transports.Find(name)
			if err != nil {
				t.Skip(err)
			}
			test(t, open)
		})
	}
}

// plugged gives a loop device and a connection to it.
func plugged(t *testing.T, open usb.Transport) (*rig.Loop, usb.Conn) {
	t.Helper()
	machine.NeedGuest(t)
	l := rig.NewLoop()
	l.Serial = fmt.Sprintf("%s-%d", t.Name(), time.Now().UnixNano())
	rig.Plug(t, l)
	c, err := open(rig.Find(t, l.Serial), 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return l, c
}

func TestUSBDescriptors(t *testing.T) { onEach(t, testUSBDescriptors) }

func testUSBDescriptors(t *testing.T, open usb.Transport) {
	l, c := plugged(t, open)
	if !bytes.Equal(c.Descriptors(), l.Desc) {
		t.Errorf("descriptors\n% X, want\n% X", c.Descriptors(), l.Desc)
	}
	for i, want := range []string{"", "cardfs tests", "loop – ü", l.Serial, ""} {
		for range 2 {
			if got := c.String(uint8(i)); got != want {
				t.Errorf("string %d: %q, want %q", i, got, want)
			}
		}
	}
}

func TestUSBControl(t *testing.T) { onEach(t, testUSBControl) }

func testUSBControl(t *testing.T, open usb.Transport) {
	_, c := plugged(t, open)
	ctx := t.Context()
	for _, size := range []int{0, 1, 63, 64, 65, 512, 4096} {
		want := pattern(size)
		if n, err := c.Control(ctx, usb.Setup{RequestType: 0x40, Request: rig.ReqStore}, want, rig.Timeout); n != size || err != nil {
			t.Fatalf("store %d bytes: %d, %v", size, n, err)
		}
		if size == 4096 && strings.HasSuffix(t.Name(), "/gousb") {
			// libusb's limit. Data that was sent whole may come back truncated, which is
			// reported.
			if _, err := c.Control(ctx, usb.Setup{RequestType: 0xC0, Request: rig.ReqFetch}, make([]byte, size+10), rig.Timeout); !errors.Is(err, usb.ErrOverflow) {
				t.Errorf("fetch up to %d bytes: %v, want ErrOverflow", size+10, err)
			}
			if _, err := c.Control(ctx, usb.Setup{RequestType: 0x40, Request: rig.ReqStore}, pattern(size+1), rig.Timeout); !errors.Is(err, reader.ErrUnsupported) {
				t.Errorf("store %d bytes: %v, want ErrUnsupported", size+1, err)
			}
			continue
		}
		got := make([]byte, size+10)
		n, err := c.Control(ctx, usb.Setup{RequestType: 0xC0, Request: rig.ReqFetch}, got, rig.Timeout)
		if err != nil || !bytes.Equal(got[:n], want) {
			t.Fatalf("fetch %d bytes: %d bytes, %v", size, n, err)
		}
	}
	// USB 2.0 §8.5.3.4: a control endpoint's stall ends with the next SETUP.
	for range 2 {
		if _, err := c.Control(ctx, usb.Setup{RequestType: 0x40, Request: rig.ReqStall}, nil, rig.Timeout); !errors.Is(err, usb.ErrStall) {
			t.Errorf("stall: %v", err)
		}
	}
}

func pattern(n int) []byte {
	p := make([]byte, n)
	for i := range p {
		p[i] = byte(i + i>>8)
	}
	return p
}

func TestUSBBulkAndInterrupt(t *testing.T) { onEach(t, testUSBBulkAndInterrupt) }

func testUSBBulkAndInterrupt(t *testing.T, open usb.Transport) {
	l, c := plugged(t, open)
	ctx := t.Context()
	for _, ep := range []struct{ out, in uint8 }{{rig.BulkOut, rig.BulkIn}, {rig.IntOut, rig.IntIn}} {
		for _, size := range []int{1, 63, 64, 65, 271, 4096, 65556} {
			if ep.out == rig.IntOut && size > 4096 {
				continue
			}
			want := pattern(size)
			if n, err := c.Out(ctx, ep.out, want, false, rig.Timeout); n != size || err != nil {
				t.Fatalf("%02X: %d bytes out: %d, %v", ep.out, size, n, err)
			}
			got := make([]byte, size+64)
			n, err := c.In(ctx, ep.in, got, rig.Timeout)
			if err != nil || !bytes.Equal(got[:n], want) {
				t.Fatalf("%02X: %d bytes in: %d bytes, %v", ep.in, size, n, err)
			}
		}
	}
	if _, err := c.In(ctx, 0x85, make([]byte, 8), rig.Timeout); !errors.Is(err, reader.ErrInvalid) {
		t.Errorf("IN on an endpoint that is not there: %v", err)
	}
	if _, err := c.Out(ctx, rig.BulkIn, make([]byte, 8), false, rig.Timeout); !errors.Is(err, reader.ErrInvalid) {
		t.Errorf("OUT on an IN endpoint: %v", err)
	}
	// More than asked for is babble, unless it ends at a packet.
	l.Set(func() { l.Queue[rig.BulkIn] = [][]byte{pattern(80)} })
	if _, err := c.In(ctx, rig.BulkIn, make([]byte, 10), rig.Timeout); !errors.Is(err, usb.ErrOverflow) {
		t.Errorf("babble: %v", err)
	}
}

// A transfer that fills its last packet is followed by an empty one if zlp is
// set, and an empty transfer is one empty packet.
func TestUSBZeroLength(t *testing.T) { onEach(t, testUSBZeroLength) }

func testUSBZeroLength(t *testing.T, open usb.Transport) {
	l, c := plugged(t, open)
	ctx := t.Context()
	for _, tt := range []struct {
		n   int
		zlp bool
	}{{64, true}, {64, false}, {0, false}} {
		if n, err := c.Out(ctx, rig.BulkOut, pattern(tt.n), tt.zlp, rig.Timeout); n != tt.n || err != nil {
			t.Fatalf("%d bytes out, zlp %v: %d, %v", tt.n, tt.zlp, n, err)
		}
		l.Mu.Lock()
		last := l.Outs[len(l.Outs)-1]
		apart := tt.zlp && len(l.Outs) > 1 && last == (rig.Sent{Endpoint: rig.BulkOut}) // gousb's, which has no flag for it
		if apart {
			last = l.Outs[len(l.Outs)-2]
			last.ZLP = true
		}
		l.Mu.Unlock()
		if last != (rig.Sent{Endpoint: rig.BulkOut, Bytes: tt.n, ZLP: tt.zlp}) {
			t.Errorf("%d bytes with zlp %v reached the device as %+v", tt.n, tt.zlp, last)
		}
		if n, err := c.In(ctx, rig.BulkIn, make([]byte, 64), rig.Timeout); n != tt.n || err != nil {
			t.Errorf("back: %d bytes, %v", n, err)
		}
		if apart {
			if n, err := c.In(ctx, rig.BulkIn, make([]byte, 64), rig.Timeout); n != 0 || err != nil {
				t.Errorf("the empty packet back: %d bytes, %v", n, err)
			}
		}
	}
}

// USB 2.0 §9.4.5: an endpoint stays halted until CLEAR_FEATURE(ENDPOINT_HALT).
func TestUSBStall(t *testing.T) { onEach(t, testUSBStall) }

func testUSBStall(t *testing.T, open usb.Transport) {
	l, c := plugged(t, open)
	ctx := t.Context()
	for _, ep := range []uint8{rig.BulkOut, rig.BulkIn, rig.IntIn, rig.IntOut} {
		l.Set(func() { l.Halted[ep] = true })
		move := func() (err error) {
			if ep&0x80 != 0 {
				_, err = c.In(ctx, ep, make([]byte, 64), rig.Timeout)
			} else {
				_, err = c.Out(ctx, ep, pattern(3), false, rig.Timeout)
			}
			return err
		}
		for range 2 {
			if err := move(); !errors.Is(err, usb.ErrStall) {
				t.Errorf("%02X: %v, want a stall", ep, err)
			}
		}
		if err := c.ClearHalt(ctx, ep); err != nil {
			t.Errorf("%02X: %v", ep, err)
		}
		if ep&0x80 != 0 {
			l.Set(func() { l.Queue[ep] = [][]byte{pattern(3)} })
		}
		if err := move(); err != nil {
			t.Errorf("%02X after ClearHalt: %v", ep, err)
		}
	}
}

// A transfer that timed out or was cancelled ends soon. What the device sends later goes to
// the next transfer.
func TestUSBTimeoutAndCancel(t *testing.T) { onEach(t, testUSBTimeoutAndCancel) }

func testUSBTimeoutAndCancel(t *testing.T, open usb.Transport) {
	l, c := plugged(t, open)
	for _, ep := range []uint8{rig.BulkIn, rig.IntIn} {
		if n, err := c.In(t.Context(), ep, make([]byte, 64), 20*time.Millisecond); n != 0 || !errors.Is(err, usb.ErrTimeout) || !errors.Is(err, reader.ErrTimeout) {
			t.Errorf("%02X: %d, %v, want a time-out", ep, n, err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(20*time.Millisecond, cancel)
		if n, err := c.In(ctx, ep, make([]byte, 64), 0); n != 0 || !errors.Is(err, context.Canceled) {
			t.Errorf("%02X: %d, %v, want cancelled", ep, n, err)
		}
		if _, err := c.In(ctx, ep, make([]byte, 64), 0); !errors.Is(err, context.Canceled) {
			t.Errorf("%02X: %v, want cancelled before it began", ep, err)
		}
		l.Set(func() { l.Queue[ep] = append(l.Queue[ep], []byte("late")) })
		p := make([]byte, 64)
		if n, err := c.In(t.Context(), ep, p, rig.Timeout); err != nil || string(p[:n]) != "late" {
			t.Errorf("%02X: %q, %v", ep, p[:n], err)
		}
	}
	l.Set(func() { l.Hold[rig.BulkOut], l.Hold[0] = true, true })
	if _, err := c.Out(t.Context(), rig.BulkOut, pattern(9), false, 20*time.Millisecond); !errors.Is(err, usb.ErrTimeout) {
		t.Errorf("OUT: %v, want a time-out", err)
	}
	if _, err := c.Control(t.Context(), usb.Setup{RequestType: 0x40, Request: rig.ReqHang}, nil, 20*time.Millisecond); !errors.Is(err, usb.ErrTimeout) {
		t.Errorf("control: %v, want a time-out", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := c.Control(ctx, usb.Setup{RequestType: 0x40, Request: rig.ReqHang}, nil, 0); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("control: %v, want the context's deadline", err)
	}
	l.Set(func() { clear(l.Hold) })
	if n, err := c.Out(t.Context(), rig.BulkOut, pattern(9), false, rig.Timeout); n != 9 || err != nil {
		t.Errorf("OUT afterwards: %d, %v", n, err)
	}
	l.AwaitWaiting(t, 0)
}

// Cancelling at any moment loses no message: each one arrives, once, in order.
func TestUSBCancelLosesNothing(t *testing.T) { onEach(t, testUSBCancelLosesNothing) }

func testUSBCancelLosesNothing(t *testing.T, open usb.Transport) {
	l, c := plugged(t, open)
	const count = 300
	go func() {
		for i := range count {
			l.Set(func() { l.Queue[rig.BulkIn] = append(l.Queue[rig.BulkIn], fmt.Appendf(nil, "%d", i)) })
			time.Sleep(time.Duration(i%7) * 300 * time.Microsecond)
		}
	}()
	var got []string
	cancelled := 0
	for end := time.Now().Add(time.Minute); len(got) < count && time.Now().Before(end); {
		p := make([]byte, 64)
		n, err := c.In(t.Context(), rig.BulkIn, p, time.Duration(1+len(got)%5)*200*time.Microsecond)
		if n > 0 {
			got = append(got, string(p[:n]))
		}
		if errors.Is(err, usb.ErrTimeout) {
			cancelled++
		} else if err != nil {
			t.Fatal(err)
		}
	}
	for i, s := range got {
		if s != fmt.Sprint(i) {
			t.Fatalf("message %d is %q; got %q", i, s, got)
		}
	}
	t.Logf("%d messages, %d transfers cancelled", len(got), cancelled)
	if len(got) != count {
		t.Errorf("%d messages, want %d", len(got), count)
	}
}

// A device without a user costs no wake-ups: the goroutines sleep.
func TestUSBDescriptorsOfFiles(t *testing.T) { onEach(t, testUSBDescriptorsOfFiles) }

func testUSBDescriptorsOfFiles(t *testing.T, open usb.Transport) {
	machine.NeedGuest(t)
	before := openFiles()
	for range 10 {
		l := rig.NewLoop()
		l.Serial = fmt.Sprintf("files-%d", time.Now().UnixNano())
		port := rig.Plug(t, l)
		c, err := open(rig.Find(t, l.Serial), 0)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.Out(t.Context(), rig.BulkOut, pattern(5), false, rig.Timeout); err != nil {
			t.Error(err)
		}
		c.Close()
		port.Unplug()
	}
	if after := openFiles(); len(after) > len(before) {
		t.Errorf("open files before\n%v\nand after\n%v", before, after)
	}
}

func openFiles() (all []string) {
	fds, _ := filepath.Glob("/proc/self/fd/*")
	for _, f := range fds {
		if l, err := os.Readlink(f); err == nil {
			all = append(all, l)
		}
	}
	slices.Sort(all)
	return all
}
