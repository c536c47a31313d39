package hotplug_test

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/cardfs/cardfs/drivers/bus/usb"
	"github.com/cardfs/cardfs/drivers/bus/usb/hotplug"
	"github.com/cardfs/cardfs/drivers/bus/usb/internal/rig"
	"github.com/cardfs/cardfs/reader"
	"github.com/cardfs/cardfs/tests/vm/machine"
)

// A user outside the group is shown the rule. Once the rules are installed, the device is
// announced anew and opens.
func TestUSBHotplugPermission(t *testing.T) {
	machine.NeedGuest(t)
	if os.Getenv("CARDFS_UNPRIVILEGED") != "" {
		unprivileged(t)
		return
	}
	group, err := user.LookupGroup(hotplug.Group)
	if err != nil {
		t.Fatal(err)
	}
	gid, err := strconv.Atoi(group.Gid)
	if err != nil {
		t.Fatal(err)
	}
	l := rig.NewLoop()
	l.Serial = "permission"
	rig.Plug(t, l)
	path := rig.Find(t, l.Serial).Path

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
	rules := "/run/udev/rules.d/" + filepath.Base(hotplug.RulesFile)
	if err := os.WriteFile(rules, []byte(hotplug.UdevRules([]reader.Driver{rig.LoopDriver})), 0o644); err != nil {
		t.Fatal(err)
	}
	defer os.Remove(rules)
	for _, args := range [][]string{{"control", "--reload"}, {"trigger", "--subsystem-match=usb"}} {
		if out, err := exec.Command("udevadm", args...).CombinedOutput(); err != nil {
			t.Fatalf("udevadm %s: %v %s", args, err, out)
		}
	}
	expect("opened")
	// The next device is given to the group during its open.
	l2 := rig.NewLoop()
	l2.Serial = "permission-2"
	rig.Plug(t, l2)
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
	_, h := rig.Watch(t, usb.Usbfs, rig.LoopDriver)
	d := h.Next(t)
	_, err := usb.Open(t.Context(), d, 0)
	want := `ATTR{idVendor}=="1209", ATTR{idProduct}=="0001", GROUP="plugdev"`
	if !errors.Is(err, reader.ErrNoPermission) || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), hotplug.RulesFile) {
		t.Errorf("%v, want ErrNoPermission and %s", err, want)
	}
	fmt.Println("refused:", err)
	for range 2 {
		d := h.Next(t)
		c, err := usb.Open(t.Context(), d, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		fmt.Println("opened", d.Address)
	}
}

// The rule for a class, which covers most readers, gives them to the group too, and leaves
// other devices alone.
func TestUSBRuleByClass(t *testing.T) {
	g := machine.NeedGuest(t)
	group, err := user.LookupGroup(hotplug.Group)
	if err != nil {
		t.Fatal(err)
	}
	rules := "/run/udev/rules.d/" + filepath.Base(hotplug.RulesFile)
	if err := os.WriteFile(rules, []byte(hotplug.UdevRules([]reader.Driver{rig.CCIDDriver})), 0o644); err != nil {
		t.Fatal(err)
	}
	defer os.Remove(rules)
	if out, err := exec.Command("udevadm", "control", "--reload").CombinedOutput(); err != nil {
		t.Fatalf("udevadm control: %v %s", err, out)
	}
	_, h := rig.Watch(t, usb.Usbfs, rig.CCIDDriver, rig.KeyboardDriver)
	for kind, want := range map[string]string{"ccid-empty": group.Gid, "keyboard": "0"} {
		if err := machine.Plug(t.Context(), g, kind, "ruled"); err != nil {
			t.Fatal(err)
		}
		d := h.Next(t)
		if out, err := exec.Command("udevadm", "settle").CombinedOutput(); err != nil {
			t.Fatalf("udevadm settle: %v %s", err, out)
		}
		dir := filepath.Join("/sys/bus/usb/devices", d.Port)
		fi, err := os.Stat(fmt.Sprintf("/dev/bus/usb/%03d/%03d", rig.Number(dir, "busnum"), rig.Number(dir, "devnum")))
		if err != nil {
			t.Fatal(err)
		}
		if gid := fmt.Sprint(fi.Sys().(*syscall.Stat_t).Gid); gid != want {
			t.Errorf("%s has group %s, want %s; mode %v", kind, gid, want, fi.Mode())
		}
		rig.TakeOut(t, g, "ruled", d)
	}
}

// The rules name each ID once, and the class.
func TestUdevRules(t *testing.T) {
	text := hotplug.UdevRules([]reader.Driver{rig.LoopDriver, rig.CCIDDriver, rig.LoopDriver, rig.Driver{Called: "net"}})
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
