package machine

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// The machine runs a command of the host, and returns its two outputs separately and its
// exit code.
func TestRunsACommand(t *testing.T) {
	if Inside() {
		t.Skip("this is the machine already")
	}
	var out, errs bytes.Buffer
	m, err := Start(t.Context(), Config{
		Command: []string{"/bin/sh", "-c", `echo "out $X"; echo err >&2; touch /cannot 2>/dev/null || touch /tmp/can; exit 3`},
		Env:     []string{"X=a 'quoted' $value", "PATH=" + os.Getenv("PATH")},
		Stdout:  &out, Stderr: &errs,
		NoUdev: true,
	})
	if err != nil {
		t.Fatal(err)
	}
	code, err := m.Wait()
	if err != nil {
		t.Fatal(err)
	}
	if code != 3 || out.String() != "out a 'quoted' $value\n" || errs.String() != "err\n" {
		t.Errorf("exit code %d, stdout %q, stderr %q", code, out.String(), errs.String())
	}
	if _, err := os.Stat("/cannot"); err == nil {
		t.Error("the guest wrote to the host's root")
	}
	if _, err := os.Stat(m.dir); err == nil {
		t.Errorf("%s is left behind", m.dir)
	}
}

// A context that ends also ends the machine.
func TestContextEndsTheMachine(t *testing.T) {
	if Inside() {
		t.Skip("this is the machine already")
	}
	ctx, cancel := context.WithCancel(t.Context())
	m, err := Start(ctx, Config{Command: []string{"/bin/sleep", "1000"}, NoUdev: true})
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	if code, err := m.Wait(); err == nil {
		t.Errorf("exit code %d, want an error", code)
	}
}

func TestRefusals(t *testing.T) {
	if _, err := Start(t.Context(), Config{}); err == nil || !strings.Contains(err.Error(), "no command") {
		t.Errorf("no command: %v", err)
	}
	_, err := Start(t.Context(), Config{Command: []string{"true"}, Devices: []string{"toaster"}})
	if err == nil || !strings.Contains(err.Error(), "toaster") || !strings.Contains(err.Error(), "ccid") {
		t.Errorf("unknown device: %v", err)
	}
}

// A command inside the machine plugs devices in and out.
func TestGuest(t *testing.T) { RunSelf(t, "^TestInGuest", Config{Devices: []string{"keyboard"}}) }

// Outside, a guest test that is asked for by its name must not seem to pass. Neither must a
// host test if the environment says that this is the machine.
func TestNothingPassesOutside(t *testing.T) {
	if Inside() {
		t.Skip("this is the machine")
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct{ run, env, want string }{
		{"^TestInGuestPlug$", "", "runs in the machine"},
		{"^TestInGuestPlug$", envInside + "=1", ErrOutside.Error()},
		{"^TestGuest$", envInside + "=1", ErrOutside.Error()},
	} {
		cmd := exec.CommandContext(t.Context(), self, "-test.run="+tt.run)
		cmd.Env = append(os.Environ(), tt.env)
		out, err := cmd.CombinedOutput()
		var exit *exec.ExitError
		if !errors.As(err, &exit) || !strings.Contains(string(out), tt.want) {
			t.Errorf("%s %s: %v, %s", tt.env, tt.run, err, out)
		}
	}
}

func TestInGuestPlug(t *testing.T) {
	g := NeedGuest(t)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if n := count("0627", "0001"); n != 1 {
		t.Errorf("%d keyboards, want the one that was there at start", n)
	}
	for range 3 {
		begin := time.Now()
		if err := PlugReader(ctx, g, "r1"); err != nil {
			t.Fatal(err)
		}
		await(t, "08e6", "4433", 1)
		t.Logf("plugged in %v", time.Since(begin))
		if err := InsertCard(ctx, g, "r1", "c1"); err != nil {
			t.Fatal(err)
		}
		if err := Unplug(ctx, g, "c1"); err != nil {
			t.Fatal(err)
		}
		begin = time.Now()
		if err := Unplug(ctx, g, "r1"); err != nil {
			t.Fatal(err)
		}
		await(t, "08e6", "4433", 0)
		t.Logf("unplugged in %v", time.Since(begin))
	}
	if err := Unplug(ctx, g, "nobody"); err == nil || !strings.Contains(err.Error(), "nobody") {
		t.Errorf("unplug of what is not there: %v", err)
	}
}

func count(vendor, product string) (n int) {
	dirs, _ := filepath.Glob("/sys/bus/usb/devices/*")
	for _, d := range dirs {
		v, _ := os.ReadFile(filepath.Join(d, "idVendor"))
		p, _ := os.ReadFile(filepath.Join(d, "idProduct"))
		if strings.TrimSpace(string(v)) == vendor && strings.TrimSpace(string(p)) == product {
			n++
		}
	}
	return n
}

func await(t *testing.T, vendor, product string, want int) {
	t.Helper()
	for end := time.Now().Add(time.Minute); count(vendor, product) != want; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%d devices %s:%s, want %d", count(vendor, product), vendor, product, want)
		}
	}
}

func TestQuote(t *testing.T) {
	for _, tt := range []struct{ in, want string }{
		{"", "''"},
		{"a b", "'a b'"},
		{"it's", `'it'\''s'`},
		{"$x`y`", "'$x`y`'"},
	} {
		if got := quote(tt.in); got != tt.want {
			t.Errorf("quote(%q) = %s, want %s", tt.in, got, tt.want)
		}
	}
}
