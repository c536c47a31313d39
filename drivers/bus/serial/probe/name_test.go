package probe

import (
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/cardfs/cardfs/drivers"
	"github.com/cardfs/cardfs/reader"
)

// "The line for ctl, with the lasting name of the port where it has one."
func TestLastingName(t *testing.T) {
	dir, byID := t.TempDir(), t.TempDir()
	port := filepath.Join(dir, "ttyUSB0")
	for _, name := range []string{port, filepath.Join(dir, "ttyUSB1")} {
		if err := os.WriteFile(name, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	os.Symlink("nowhere", filepath.Join(byID, "a"))
	os.Symlink(filepath.Join(dir, "ttyUSB1"), filepath.Join(byID, "b"))
	if got := lasting(byID, port); got != port {
		t.Errorf("%q has no other name; %q", port, got)
	}
	os.Symlink(port, filepath.Join(byID, "c d")) // no word for ctl
	link := filepath.Join(byID, "usb-FTDI-if00-port0")
	os.Symlink(port, link)
	for _, name := range []string{port, link} {
		if got := lasting(byID, name); got != link {
			t.Errorf("%q: %q, want %q", name, got, link)
		}
	}
	if got := lasting(byID, filepath.Join(dir, "none")); got != filepath.Join(dir, "none") {
		t.Error(got)
	}
	f := Found{"kaan", "/dev/x", reader.Found{Params: map[string]string{"speed": "115200", "a": "b"}}}
	if got, want := f.Attach(), "attach kaan /dev/x a=b speed=115200"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}

// "The order in which drivers ask is in package probe, with a line for each."
func TestOrder(t *testing.T) {
	order := slices.Concat(early, late, bare)
	for i, name := range order {
		if slices.Contains(order[:i], name) {
			t.Errorf("%s asks twice", name)
		}
	}
	for _, d := range drivers.All(drivers.Env{}) {
		if _, ok := d.(reader.Prober); ok && !slices.Contains(order, d.Name()) {
			t.Errorf("%s has no place in the order", d.Name())
		}
	}
}
