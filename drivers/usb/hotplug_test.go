package usb_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/cardfs/cardfs/drivers/usb"
	"github.com/cardfs/cardfs/drivers/usb/usbip"
	"github.com/cardfs/cardfs/reader"
	"github.com/cardfs/cardfs/tests/vm/machine"
)

// idDriver only has IDs.
type idDriver struct {
	name string
	ids  []reader.ID
}

func (d idDriver) Name() string          { return d.name }
func (d idDriver) IDs() []reader.ID      { return d.ids }
func (d idDriver) CountSlots([]byte) int { return 2 }
func (d idDriver) Open(context.Context, reader.Device) (reader.Reader, error) {
	return nil, reader.ErrUnsupported
}

var (
	loopDriver = idDriver{"loop", []reader.ID{{Vendor: 0x1209, Product: 0x0001, Model: "a loop"}}}
	ccidDriver = idDriver{"ccid", []reader.ID{{Class: 0x0B, Model: "CCID reader"}}}
)

// host collects what is announced.
type host struct {
	mu   sync.Mutex
	all  []reader.Device
	news chan reader.Device
}

func newHost() *host { return &host{news: make(chan reader.Device, 1000)} }

func (h *host) Announce(d reader.Device) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.all = append(h.all, d)
	h.news <- d
	return nil
}

func (h *host) count() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.all)
}

// next waits for the next announcement.
func (h *host) next(t *testing.T) reader.Device {
	t.Helper()
	select {
	case d := <-h.news:
		return d
	case <-time.After(patience):
		t.Fatal("nothing is announced")
		panic("unreachable")
	}
}

func awaitGone(t *testing.T, d reader.Device) {
	t.Helper()
	select {
	case <-d.Link.(interface{ Gone() <-chan struct{} }).Gone():
	case <-time.After(patience):
		t.Fatalf("%s does not leave", d.Address)
	}
}

func isGone(d reader.Device) bool {
	select {
	case <-d.Link.(interface{ Gone() <-chan struct{} }).Gone():
		return true
	default:
		return false
	}
}

func logger(t *testing.T) *slog.Logger {
	return slog.New(slog.NewTextHandler(t.Output(), nil))
}

func watch(t *testing.T, drivers ...reader.Driver) (*usb.Watcher, *host) {
	t.Helper()
	h := newHost()
	w, err := usb.Watch(t.Context(), h, drivers, logger(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.Close() })
	return w, h
}

// What is there at start is announced before Watch returns, what comes later as
// it comes; each leaves once.
func TestUSBHotplug(t *testing.T) {
	machine.NeedGuest(t)
	early := newLoop()
	early.serial = "early"
	plug(t, early)
	find(t, early.serial)
	_, h := watch(t, loopDriver, ccidDriver)
	if h.count() != 1 {
		t.Fatalf("%d devices announced at start, want 1", h.count())
	}
	d := h.next(t)
	if d.Driver != "loop" || d.Bus != "usb" || d.Address != "usb:"+d.Port || d.Serial != "early" || d.Slots != 2 ||
		d.ID != (reader.ID{Vendor: 0x1209, Product: 1, Model: "a loop"}) {
		t.Errorf("announced %+v", d)
	}
	for i := range 5 {
		l := newLoop()
		l.serial = fmt.Sprintf("late-%d", i)
		begin := time.Now()
		port := plug(t, l)
		d := h.next(t)
		came := time.Since(begin)
		if d.Serial != l.serial {
			t.Fatalf("announced %+v, want serial number %s", d, l.serial)
		}
		// At once: the kernel may not have configured the device yet.
		c, err := usb.Open(t.Context(), d, 0)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.Out(t.Context(), bulkOut, pattern(3), false, patience); err != nil {
			t.Error(err)
		}
		opened := time.Since(begin)
		begin = time.Now()
		if err := port.Unplug(); err != nil {
			t.Error(err)
		}
		<-c.Gone()
		connGone := time.Since(begin)
		awaitGone(t, d)
		t.Logf("announced after %v, used after %v; gone after %v by the connection, %v by the watcher", came, opened, connGone, time.Since(begin))
		c.Close()
		if _, err := usb.Open(t.Context(), d, 0); !errors.Is(err, reader.ErrGone) {
			t.Errorf("open what has left: %v", err)
		}
	}
	if isGone(d) || h.count() != 6 {
		t.Errorf("the first device has left, or %d were announced, want 6", h.count())
	}
}

// QEMU's reader is found by its class, a keyboard is not.
func TestUSBHotplugClass(t *testing.T) {
	g := machine.NeedGuest(t)
	ctx := t.Context()
	_, h := watch(t, loopDriver, ccidDriver)
	if err := machine.Plug(ctx, g, "keyboard", "kbd"); err != nil {
		t.Fatal(err)
	}
	defer machine.Unplug(ctx, g, "kbd")
	for range 3 {
		begin := time.Now()
		if err := machine.Plug(ctx, g, "ccid", "r1"); err != nil {
			t.Fatal(err)
		}
		d := h.next(t)
		if d.Driver != "ccid" || d.ID.Vendor != 0x08E6 || d.ID.Product != 0x4433 || d.ID.Model != "QEMU USB CCID" {
			t.Errorf("announced %+v", d)
		}
		c, err := usb.Open(ctx, d, 0)
		if err != nil {
			t.Fatal(err)
		}
		atr := powerOn(t, c)
		t.Logf("ATR % X, %v after plugging", atr, time.Since(begin))
		pending := make(chan error, 1)
		go func() {
			var err error
			for err == nil { // the card's arrival is reported first
				_, err = c.In(ctx, 0x81, make([]byte, 8), 0)
			}
			pending <- err
		}()
		begin = time.Now()
		if err := machine.Unplug(ctx, g, "r1"); err != nil {
			t.Fatal(err)
		}
		if err := <-pending; !errors.Is(err, reader.ErrGone) {
			t.Errorf("interrupt transfer at unplug: %v", err)
		}
		t.Logf("transfer ended %v after unplugging", time.Since(begin))
		awaitGone(t, d)
		c.Close()
	}
	if h.count() != 3 {
		t.Errorf("%d announced, want 3", h.count())
	}
}

// takeOut unplugs a device of QEMU's and waits until the kernel has seen it, so that
// the next test does not.
func takeOut(t *testing.T, g *machine.Guest, id string, d reader.Device) {
	t.Helper()
	if err := machine.Unplug(context.Background(), g, id); err != nil {
		t.Error(err)
	}
	awaitGone(t, d)
}

// powerOn activates the card of a CCID reader: PC_to_RDR_IccPowerOn, then
// RDR_to_PC_DataBlock (CCID 1.1 §6.1.1, §6.2.1).
func powerOn(t *testing.T, c usb.Conn) []byte {
	t.Helper()
	in, out := bulkEndpoints(c)
	for seq := byte(0); ; seq++ {
		if _, err := c.Out(t.Context(), out, []byte{0x62, 0, 0, 0, 0, 0, seq, 0, 0, 0}, false, patience); err != nil {
			t.Fatal(err)
		}
		p := make([]byte, 271)
		n, err := c.In(t.Context(), in, p, patience)
		if err != nil || n < 10 || p[0] != 0x80 || p[6] != seq {
			t.Fatalf("IccPowerOn: % X, %v", p[:n], err)
		}
		if p[7]&0xC0 == 0 {
			return p[10:n]
		}
		if seq == 50 {
			t.Fatalf("IccPowerOn: no card: % X", p[:n])
		}
		time.Sleep(20 * time.Millisecond) // the emulated card comes by itself
	}
}

func bulkEndpoints(c usb.Conn) (in, out uint8) {
	for _, e := range usb.Interfaces(c.Descriptors())[0].Endpoints {
		if e.Attributes&3 == 2 && e.Address&0x80 != 0 {
			in = e.Address
		} else if e.Attributes&3 == 2 {
			out = e.Address
		}
	}
	return in, out
}

// Many at once, and gone at once, none is missed: more than the socket holds.
func TestUSBHotplugStorm(t *testing.T) {
	machine.NeedGuest(t)
	_, h := watch(t, loopDriver)
	const n = 14
	var ports []*usbip.Port
	for i := range n {
		l := newLoop()
		l.serial = fmt.Sprintf("storm-%d", i)
		ports = append(ports, plug(t, l))
	}
	var all []reader.Device
	for range n {
		all = append(all, h.next(t))
	}
	for _, p := range ports {
		go p.Unplug()
	}
	for _, d := range all {
		awaitGone(t, d)
	}
	seen := map[string]bool{}
	for _, d := range all {
		if seen[d.Serial] {
			t.Errorf("%s announced twice", d.Serial)
		}
		seen[d.Serial] = true
	}
}

// Where no uevents come, changes of /dev/bus/usb tell.
func TestUSBHotplugWithoutUevents(t *testing.T) {
	machine.NeedGuest(t)
	h := newHost()
	w, err := usb.WatchWithoutUevents(t.Context(), h, []reader.Driver{loopDriver}, logger(t))
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	for range 3 {
		port := plug(t, newLoop())
		d := h.next(t)
		c, err := usb.Open(t.Context(), d, 0)
		if err != nil {
			t.Fatal(err)
		}
		port.Unplug()
		awaitGone(t, d)
		c.Close()
	}
}

// A reset changes nothing for the watcher.
func TestUSBHotplugReset(t *testing.T) {
	machine.NeedGuest(t)
	_, h := watch(t, loopDriver)
	l := newLoop()
	l.serial = "reset"
	plug(t, l)
	d := h.next(t)
	c, err := usb.Open(t.Context(), d, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for range 3 {
		if err := c.Reset(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := c.Out(t.Context(), bulkOut, pattern(3), false, patience); err != nil {
		t.Error(err)
	}
	if isGone(d) || h.count() != 1 {
		t.Errorf("after resets: gone %v, announced %d times", isGone(d), h.count())
	}
}

// A device that another program has is announced anew by a rescan, so that it
// is tried again.
func TestUSBHotplugRescan(t *testing.T) {
	machine.NeedGuest(t)
	l := newLoop()
	l.serial = "busy"
	plug(t, l)
	other, err := usb.OpenPath(find(t, l.serial), 0)
	if err != nil {
		t.Fatal(err)
	}
	w, h := watch(t, loopDriver)
	d := h.next(t)
	if _, err := usb.Open(t.Context(), d, 0); !errors.Is(err, reader.ErrClaimed) {
		t.Errorf("%v, want ErrClaimed", err)
	}
	other.Close()
	w.Rescan()
	awaitGone(t, d)
	d = h.next(t)
	c, err := usb.Open(t.Context(), d, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	w.Rescan()
	if isGone(d) || h.count() != 2 {
		t.Error("a rescan disturbs a device that is in use")
	}
}

// A user outside the group is told the rule; when the rules are in place the
// device is announced anew and opens.
func TestUSBHotplugPermission(t *testing.T) {
	machine.NeedGuest(t)
	if os.Getenv("CARDFS_UNPRIVILEGED") != "" {
		unprivileged(t)
		return
	}
	group, err := user.LookupGroup(usb.Group)
	if err != nil {
		t.Fatal(err)
	}
	gid, err := strconv.Atoi(group.Gid)
	if err != nil {
		t.Fatal(err)
	}
	l := newLoop()
	l.serial = "permission"
	plug(t, l)
	path := find(t, l.serial)

	cmd := exec.Command("/proc/self/exe", "-test.run=^TestUSBHotplugPermission$", "-test.v")
	cmd.Env = append(os.Environ(), "CARDFS_UNPRIVILEGED=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534, Groups: []uint32{uint32(gid)}}}
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	expect := func(what string) {
		t.Helper()
		for lines.Scan() {
			t.Logf("nobody: %s", lines.Text())
			if strings.Contains(lines.Text(), what) {
				return
			}
		}
		t.Fatalf("it did not say %q", what)
	}
	expect("refused")
	rules := "/run/udev/rules.d/" + filepath.Base(usb.RulesFile)
	if err := os.WriteFile(rules, []byte(usb.UdevRules([]reader.Driver{loopDriver})), 0o644); err != nil {
		t.Fatal(err)
	}
	defer os.Remove(rules)
	for _, args := range [][]string{{"control", "--reload"}, {"trigger", "--subsystem-match=usb"}} {
		if out, err := exec.Command("udevadm", args...).CombinedOutput(); err != nil {
			t.Fatalf("udevadm %s: %v %s", args, err, out)
		}
	}
	expect("opened")
	// The next one is given to the group while it is being opened.
	l2 := newLoop()
	l2.serial = "permission-2"
	plug(t, l2)
	expect("opened")
	for lines.Scan() {
		t.Logf("nobody: %s", lines.Text())
	}
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
	fi, err := os.Stat(path)
	if err != nil || fi.Mode().Perm() != 0o660 {
		t.Errorf("%s: %v, %v", path, fi.Mode(), err)
	}
}

// unprivileged is the user in the right group.
func unprivileged(t *testing.T) {
	_, h := watch(t, loopDriver)
	d := h.next(t)
	_, err := usb.Open(t.Context(), d, 0)
	want := `ATTR{idVendor}=="1209", ATTR{idProduct}=="0001", GROUP="plugdev"`
	if !errors.Is(err, reader.ErrNoPermission) || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), usb.RulesFile) {
		t.Errorf("%v, want ErrNoPermission and %s", err, want)
	}
	fmt.Println("refused:", err)
	for range 2 {
		d := h.next(t)
		c, err := usb.Open(t.Context(), d, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		fmt.Println("opened", d.Address)
	}
}

// The rule for a class, which most readers have, gives them to the group too, and
// leaves others alone.
func TestUSBRuleByClass(t *testing.T) {
	g := machine.NeedGuest(t)
	group, err := user.LookupGroup(usb.Group)
	if err != nil {
		t.Fatal(err)
	}
	rules := "/run/udev/rules.d/" + filepath.Base(usb.RulesFile)
	if err := os.WriteFile(rules, []byte(usb.UdevRules([]reader.Driver{ccidDriver})), 0o644); err != nil {
		t.Fatal(err)
	}
	defer os.Remove(rules)
	if out, err := exec.Command("udevadm", "control", "--reload").CombinedOutput(); err != nil {
		t.Fatalf("udevadm control: %v %s", err, out)
	}
	_, h := watch(t, ccidDriver, idDriver{"keyboard", []reader.ID{{Vendor: 0x0627, Product: 0x0001}}})
	for kind, want := range map[string]string{"ccid-empty": group.Gid, "keyboard": "0"} {
		if err := machine.Plug(t.Context(), g, kind, "ruled"); err != nil {
			t.Fatal(err)
		}
		d := h.next(t)
		if out, err := exec.Command("udevadm", "settle").CombinedOutput(); err != nil {
			t.Fatalf("udevadm settle: %v %s", err, out)
		}
		dir := filepath.Join("/sys/bus/usb/devices", d.Port)
		fi, err := os.Stat(fmt.Sprintf("/dev/bus/usb/%03d/%03d", number(dir, "busnum"), number(dir, "devnum")))
		if err != nil {
			t.Fatal(err)
		}
		if gid := fmt.Sprint(fi.Sys().(*syscall.Stat_t).Gid); gid != want {
			t.Errorf("%s has group %s, want %s; mode %v", kind, gid, want, fi.Mode())
		}
		takeOut(t, g, "ruled", d)
	}
}

// The rules name each ID once, and the class.
func TestUdevRules(t *testing.T) {
	text := usb.UdevRules([]reader.Driver{loopDriver, ccidDriver, loopDriver, idDriver{"net", nil}})
	for want, n := range map[string]int{
		`SUBSYSTEM=="usb", ENV{DEVTYPE}=="usb_device", ATTR{idVendor}=="1209", ATTR{idProduct}=="0001", GROUP="plugdev", MODE="0660", TAG+="uaccess"`: 1,
		`ENV{ID_USB_INTERFACES}=="*:0b????:*", GROUP="plugdev"`: 1,
		"# a loop\n": 1, "# net": 0, "# loop\n": 1,
	} {
		if got := strings.Count(text, want); got != n {
			t.Errorf("%q is there %d times, want %d, in\n%s", want, got, n, text)
		}
	}
}

// The table of a container: a made-up sysfs.
func TestHotplugScan(t *testing.T) {
	sys := t.TempDir()
	put := func(name string, devnum int, desc []byte) {
		d := filepath.Join(sys, name)
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
		for k, v := range map[string]string{
			"busnum": "3\n", "devnum": fmt.Sprintf("%d\n", devnum), "descriptors": string(desc),
			"bConfigurationValue": "1\n", "product": "thing\n", "manufacturer": "maker\n",
		} {
			if err := os.WriteFile(filepath.Join(d, k), []byte(v), 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	loopDesc := loopDescriptors(0)
	other := slices.Clone(loopDesc)
	other[8]++
	ccid := slices.Clone(other)
	ccid[18+9+5] = 0x0B
	put("3-1", 5, loopDesc)
	put("3-2.1", 6, other)
	put("3-2.2", 7, loopDesc[:20])
	put("3-1:1.0", 0, nil)
	put("3-4", 9, ccid)

	h := newHost()
	w := usb.NewTestWatcher(h, []reader.Driver{ccidDriver, loopDriver}, sys)
	step := func(what string, want ...string) []reader.Device {
		t.Helper()
		w.Rescan()
		var all []reader.Device
		var got []string
		for len(h.news) > 0 {
			d := <-h.news
			all = append(all, d)
			got = append(got, d.Address+" "+d.Driver+" "+d.ID.Model)
		}
		slices.Sort(got)
		if !slices.Equal(got, want) {
			t.Errorf("%s: announced %q, want %q", what, got, want)
		}
		return all
	}
	first := step("at first", "usb:3-1 loop a loop", "usb:3-4 ccid maker thing")
	step("nothing new")
	put("3-1", 8, loopDesc)
	step("another in the same port", "usb:3-1 loop a loop")
	if !isGone(first[0]) && !isGone(first[1]) {
		t.Error("the one before has not left")
	}
	if err := os.RemoveAll(filepath.Join(sys, "3-4")); err != nil {
		t.Fatal(err)
	}
	step("one less")
	if !isGone(first[0]) || !isGone(first[1]) {
		t.Error("it has not left")
	}
}

// Unplugged in the middle of bulk transfers, a device on a real bus (here QEMU's
// UHCI) answers nothing for a while before the hub tells: that is no other error.
func TestUSBUnplugWhileBusy(t *testing.T) {
	g := machine.NeedGuest(t)
	_, h := watch(t, ccidDriver)
	for i := range 5 {
		if err := machine.Plug(t.Context(), g, "ccid-empty", "busy"); err != nil {
			t.Fatal(err)
		}
		d := h.next(t)
		c, err := usb.Open(t.Context(), d, 0)
		if err != nil {
			t.Fatal(err)
		}
		in, out := bulkEndpoints(c)
		end := make(chan error, 1)
		go func() {
			// PC_to_RDR_GetSlotStatus, RDR_to_PC_SlotStatus (CCID 1.1 §6.1.3, §6.2.2).
			for seq := byte(0); ; seq++ {
				if _, err := c.Out(t.Context(), out, []byte{0x65, 0, 0, 0, 0, 0, seq, 0, 0, 0}, false, patience); err != nil {
					end <- err
					return
				}
				if _, err := c.In(t.Context(), in, make([]byte, 64), patience); err != nil {
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
		awaitGone(t, d)
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
	// The machine's root is gone after sleep: whatever this process needs later
	// must be in memory.
	for line := range strings.Lines(readFile("/proc/self/maps")) {
		if i := strings.IndexByte(line, '/'); i >= 0 {
			_ = readFile(strings.TrimSpace(line[i:]))
		}
	}
	_, h := watch(t, ccidDriver)
	if err := machine.Plug(t.Context(), g, "ccid", "sleepy"); err != nil {
		t.Fatal(err)
	}
	d := h.next(t)
	defer takeOut(t, g, "sleepy", d)
	c, err := usb.Open(t.Context(), d, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	powerOn(t, c)
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
	t.Logf("ATR % X", powerOn(t, c))
	if isGone(d) || h.count() != 1 {
		t.Errorf("after sleep: gone %v, announced %d times", isGone(d), h.count())
	}
}

// An open reader that nobody uses costs no wake-up: its pending transfer waits in
// the kernel.
func TestUSBIdle(t *testing.T) {
	g := machine.NeedGuest(t)
	_, h := watch(t, ccidDriver)
	if err := machine.Plug(t.Context(), g, "ccid", "idle"); err != nil {
		t.Fatal(err)
	}
	d := h.next(t)
	defer takeOut(t, g, "idle", d)
	c, err := usb.Open(t.Context(), d, 0)
	if err != nil {
		t.Fatal(err)
	}
	powerOn(t, c)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for err := error(nil); err == nil; {
			_, err = c.In(context.Background(), 0x81, make([]byte, 8), 0)
		}
	}()
	// Linux Documentation/usb/usbmon.rst: a line for each transfer submitted or
	// completed on the bus.
	mon, err := os.Open(fmt.Sprintf("/sys/kernel/debug/usb/usbmon/%du", number(filepath.Join("/sys/bus/usb/devices", d.Port), "busnum")))
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

// switches counts how often a thread of this process went to sleep.
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
