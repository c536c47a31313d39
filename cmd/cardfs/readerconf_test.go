package main

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cardfs/cardfs/cmd/cardfs/internal/client"
	"github.com/cardfs/cardfs/drivers"
	"github.com/cardfs/cardfs/drivers/bus/usb/hotplug"
	"github.com/cardfs/cardfs/tests/cc"
	"github.com/cardfs/cardfs/tests/pcscd"
)

// service runs `cardfs mount` as a service manager does: it is ready when it
// says READY=1 to NOTIFY_SOCKET (sd_notify(3)), and says STOPPING=1 at the end.
func service(t *testing.T, args ...string) (dir string, process *os.Process) {
	t.Helper()
	dir = filepath.Join(t.TempDir(), "cards")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	socket := &net.UnixAddr{Name: filepath.Join(t.TempDir(), "notify"), Net: "unixgram"}
	manager, err := net.ListenUnixgram("unixgram", socket)
	if err != nil {
		t.Fatal(err)
	}
	told := make(chan string)
	go func() {
		defer close(told)
		for p := make([]byte, 100); ; {
			n, err := manager.Read(p)
			if err != nil {
				return
			}
			told <- string(p[:n])
		}
	}()
	cmd := exec.Command("cardfs", append(append([]string{"mount"}, args...), dir)...)
	cmd.Env = append(os.Environ(), "NOTIFY_SOCKET="+socket.Name)
	var log strings.Builder
	cmd.Stderr = &log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() {
		ended <- cmd.Wait()
		manager.Close()
	}()
	if got := <-told; got != "READY=1" {
		t.Fatalf("told %q, not READY=1: %v\n%s", got, <-ended, &log)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		if got := <-told; got != "STOPPING=1" {
			t.Errorf("told %q, not STOPPING=1", got)
		}
		if err := <-ended; err != nil {
			t.Errorf("cardfs: %v\n%s", err, &log)
		}
	})
	return dir, cmd.Process
}

// The real pcscd accepts the output of reader-conf: it lists every slot of every reader by the
// name in the file, even after restarts.
func TestReaderConfInPcscd(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	library := filepath.Join(t.TempDir(), "libifdcardfs.so")
	if err := cc.Build(ctx, library, cc.IFDHandler()); err != nil {
		t.Fatal(err)
	}

	dir, _ := service(t, "--sim", "ikey3k", "--sim", "twoslot", "--sim", "t1", "--attach", "sim t1 start=100ms serial=A+B#2")
	conf, err := exec.CommandContext(ctx, "cardfs", "reader-conf", "--mount", dir, "--lib", library).Output()
	if err != nil {
		t.Fatal(err)
	}
	server, err := pcscd.Start(ctx, t.TempDir(), string(conf))
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := server.Close(); err != nil {
			t.Error(err)
		}
	}()
	want := []string{
		"Rainbow iKey 3000 (IKEY3K-1) 00 00",
		"cardfs Simulated two-slot CCID reader (TWOSLOT-1) 01 00",
		"cardfs Simulated two-slot CCID reader (TWOSLOT-1) 01 01",
		"Simulated T=1 reader (T1-1) 02 00",
		"Simulated T=1 reader (A+B#2) 03 00",
	}
	for range 2 {
		out, err := server.Command(ctx, "opensc-tool", "--list-readers").CombinedOutput()
		if err != nil {
			t.Errorf("opensc-tool: %v\n%s", err, out)
		}
		for _, name := range want {
			if !strings.Contains(string(out), name+"\n") {
				t.Errorf("%s is missing in\n%s\nwith\n%s\npcscd says\n%s", name, out, conf, server.Log())
			}
		}
		if err := server.Restart(ctx); err != nil {
			t.Fatal(err)
		}
	}
	for _, bad := range []string{"tok_error", "WARNING", "init failed"} {
		if strings.Contains(server.Log(), bad) {
			t.Errorf("pcscd says %s:\n%s", bad, server.Log())
		}
	}
}

// A name holds only ASCII that may stand between quotes on one line. It is at most 121
// characters long (MAX_READERNAME 128 less " 00 00" and NUL), and unique.
func TestFriendlyNames(t *testing.T) {
	long := strings.Repeat("x", 200)
	given := map[string]bool{}
	for _, tt := range []struct{ model, driver, serial, want string }{
		{"iKey 3000", "ikey3k", "", "iKey 3000"},
		{"iKey 3000", "ikey3k", "", "iKey 3000 2"},
		{"iKey 3000", "ikey3k", "", "iKey 3000 3"},
		{"iKey 3000", "ikey3k", "17", "iKey 3000 (17)"},
		{"vpcd 127.0.0.1:35963", "vpcd", "127.0.0.1:35963", "vpcd 127.0.0.1:35963"},
		{"", "ikey3k", "", "ikey3k"},
		{`A "B"` + "\tü # 'c' \\", "x", "", `A 'B'?? # 'c' \`},
		{long, "x", "", long[:121]},
		{long, "x", "", long[:119] + " 2"},
		{long[:119] + " 2", "x", "", long[:119] + " 3"},
	} {
		s := client.Info{Reader: tt.model, Driver: tt.driver, Status: map[string]string{"serial": tt.serial}}
		if got := unique(friendlyName(s), given); got != tt.want {
			t.Errorf("%+v: %q", tt, got)
		}
	}
}

// reader-conf leaves out the readers that the bundle finds, and no others.
func TestInBundle(t *testing.T) {
	for _, tt := range []struct {
		bus, id string
		want    bool
	}{
		{"usb", "04b9:1300", true},
		{"sim", "04b9:1300", false}, // pcscd sees no simulated device
		{"usb", "ffff:ffff", false}, // matched by its class
		{"tcp", "", false},
	} {
		s := client.Info{Status: map[string]string{"bus": tt.bus, "usb-id": tt.id}}
		if got := inBundle(s); got != tt.want {
			t.Errorf("%+v: %v", tt, got)
		}
	}
}

// The bundle and the udev rules list the same readers.
func TestIDsHaveRules(t *testing.T) {
	rules := hotplug.UdevRules(drivers.All(drivers.Env{}))
	for _, b := range hotplug.KnownIDs(drivers.All(drivers.Env{})) {
		vendor, product, _ := strings.Cut(b.ID, ":")
		if want := fmt.Sprintf(`ATTR{idVendor}=="%s", ATTR{idProduct}=="%s"`, vendor, product); !strings.Contains(rules, want) {
			t.Errorf("no rule for %s %s", b.ID, b.Name)
		}
	}
}

// pcscd's own limits: a name of 121 characters and a device of 254 fit, one more does not.
// Names are made unique.
func TestReaderConfLimits(t *testing.T) {
	given := map[string]bool{}
	long := strings.Repeat("x", 200)
	a, b, c := unique(long, given), unique(long, given), unique(long, given)
	if len(a) != maxFriendly || len(b) != maxFriendly || a == b || b == c || !strings.HasSuffix(b, "x 2") || !strings.HasSuffix(c, "x 3") {
		t.Errorf("%q %q %q", a, b, c)
	}
	if got := unique(long[:maxFriendly], map[string]bool{}); len(got) != maxFriendly {
		t.Error(len(got))
	}
	for _, x := range []struct {
		s    client.Info
		want string
	}{
		{client.Info{Reader: "R", Status: map[string]string{"serial": "S"}}, "R (S)"},
		{client.Info{Reader: "R S", Status: map[string]string{"serial": "S"}}, "R S"},
		{client.Info{Driver: "sim"}, "sim"},
		{client.Info{Reader: "a\"b\x01ü~ "}, "a'b??~ "},
	} {
		if got := friendlyName(x.s); got != x.want {
			t.Errorf("%q, want %q", got, x.want)
		}
	}
	for _, extra := range []int{0, 1} {
		c := tree(t, map[string]string{"ctl": ""})
		base := len("cardfs:" + c.Path("by-id") + "/")
		name := strings.Repeat("n", maxDevice-base+extra)
		if err := os.MkdirAll(c.Path("0"), 0o755); err != nil {
			t.Fatal(err)
		}
		os.WriteFile(c.Path("0/status"), []byte("state empty\nreader R\nby-id "+name+"\n"), 0o600)
		var out, hints bytes.Buffer
		err := readerConf(c, &out, &hints, "/lib.so", false)
		if (err != nil) != (extra == 1) || strings.Contains(out.String(), "DEVICENAME") != (extra == 0) {
			t.Errorf("%d characters: %v\n%s", maxDevice+extra, err, &out)
		}
	}
}

// Each reader has one entry, although each of its slots has a status. Readers that the bundle
// finds are left out. reader-conf waits for a reader that is starting, and lists it even if it
// fails.
func TestReaderConfEntries(t *testing.T) {
	c := tree(t, map[string]string{
		"ctl":      "",
		"0/status": "state empty\nreader A\ndriver d\nby-id a\nsiblings 0 1\n",
		"1/status": "state empty\nreader A\ndriver d\nby-id a1\nsiblings 0 1\n",
		"2/status": "state powered\nreader iKey\ndriver ikey3k\nby-id i\nbus usb\nusb-id 04b9:1300\n",
		"3/status": "state powered\nreader other\nby-id o\nbus usb\nusb-id ffff:1300\n",
		"4/status": "state powered\nreader sim\nby-id s\nbus sim\nusb-id 04b9:1300\n",
		"5/status": "state starting\nreader late\nby-id l\n",
		"5/event":  "1 5 arrived\n2 5 failed error=no_x\n",
	})
	for _, skip := range []bool{false, true} {
		var out, hints bytes.Buffer
		if err := readerConf(c, &out, &hints, "/lib.so", skip); err != nil {
			t.Fatal(err)
		}
		var got []string
		for line := range strings.Lines(out.String()) {
			if device, ok := strings.CutPrefix(line, "DEVICENAME   cardfs:"); ok {
				got = append(got, strings.ReplaceAll(strings.TrimSpace(device), c.Dir, "M"))
			}
		}
		want := []string{"slots=2:M/by-id/a", "M/by-id/i", "M/by-id/o", "M/by-id/s", "M/by-id/l"}
		if skip {
			want = slices.Delete(want, 1, 2)
		}
		if !slices.Equal(got, want) {
			t.Errorf("skip %v: %q, want %q", skip, got, want)
		}
		if said := hints.String(); strings.Contains(said, "iKey (2) is left out") != skip || !strings.Contains(said, "reader 5 failed to start: no x") {
			t.Errorf("skip %v: %s", skip, said)
		}
		for _, channel := range []string{"CHANNELID    0x0\n", "CHANNELID    0x5\n"} {
			if !strings.Contains(out.String(), channel) {
				t.Errorf("%q is missing:\n%s", channel, &out)
			}
		}
	}
}
