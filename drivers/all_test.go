package drivers_test

import (
	"log/slog"
	"net"
	"os"
	"path"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/cardfs/cardfs/drivers"
	"github.com/cardfs/cardfs/drivers/ccid"
	"github.com/cardfs/cardfs/drivers/rutoken"
	"github.com/cardfs/cardfs/reader"
)

// lines is a log; each write is one line.
type lines chan string

func (l lines) Write(p []byte) (int, error) {
	l <- string(p)
	return len(p), nil
}

// Every driver logs to the program's log, and none to slog's default.
func TestLog(t *testing.T) {
	ours, theirs := make(lines, 100), make(lines, 100)
	before := slog.Default()
	slog.SetDefault(slog.New(slog.NewTextHandler(theirs, nil)))
	defer slog.SetDefault(before)
	log := slog.New(slog.NewTextHandler(ours, nil))

	quirks := new(ccid.UserQuirks)
	quirks.Set([]ccid.Quirk{{Vendor: 0x0A89, Product: 0x20, Settings: map[string]string{"rewrite": "off"}}})
	for _, d := range drivers.All(drivers.Env{Log: log, Quirks: quirks}) {
		if c, ok := d.(ccid.Driver); ok && c.Quirks != quirks {
			t.Error("ccid has other quirks")
		}
		if r, ok := d.(rutoken.Driver); ok {
			if got := r.Rewrite(0x0A89, 0x20) + r.Rewrite(0x0A89, 0x12); got != "off" {
				t.Errorf("rutoken has other settings: %q", got)
			}
		}
		v := reflect.Indirect(reflect.ValueOf(d))
		for i := range v.NumField() {
			if v.Field(i).Type() == reflect.TypeFor[*slog.Logger]() && v.Field(i).Pointer() != reflect.ValueOf(log).Pointer() {
				t.Errorf("%s has another log", d.Name())
			}
		}
		if d.Name() != "vpcd" {
			continue
		}
		r, err := d.Open(t.Context(), reader.Device{Driver: "vpcd", Address: "127.0.0.1:0"})
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		_, more := r.(reader.Identifier).Identify()
		card, err := net.Dial("tcp", more["listen"])
		if err != nil {
			t.Fatal(err)
		}
		defer card.Close()
		if _, err := card.Write([]byte("\x00\x04PIN!")); err != nil {
			t.Fatal(err)
		}
		select {
		case got := <-ours:
			if !strings.Contains(got, `msg="virtual card disconnected" reader="vpcd 127.0.0.1:`) || strings.Contains(got, "PIN!") {
				t.Errorf("the log has %q", got)
			}
		case got := <-theirs:
			t.Errorf("slog's default has %q", got)
		case <-time.After(time.Minute):
			t.Fatal("nothing was logged")
		}
	}
}

// Without a log the drivers are there too, each under a name of its own.
func TestNames(t *testing.T) {
	names := map[string]bool{}
	for _, d := range drivers.All(drivers.Env{}) {
		if n := d.Name(); n == "" || names[n] {
			t.Errorf("two drivers are called %q, or one has no name", n)
		} else {
			names[n] = true
		}
	}
}

// driverOf finds the method of a driver that no other type has.
var driverOf = regexp.MustCompile(`(?m)^func \([^)]+\) IDs\(\) `)

// "All is the list": each package below this one that has a driver is in it.
func TestAll(t *testing.T) {
	listed := map[string]bool{}
	for _, d := range drivers.All(drivers.Env{}) {
		listed[path.Base(reflect.Indirect(reflect.ValueOf(d)).Type().PkgPath())] = true
	}
	files, err := filepath.Glob("*/*.go")
	if err != nil || len(files) == 0 {
		t.Fatalf("%d files, %v", len(files), err)
	}
	found := 0
	for _, name := range files {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if strings.HasSuffix(name, "_test.go") || !driverOf.Match(text) {
			continue
		}
		if found++; !listed[filepath.Dir(name)] {
			t.Errorf("%s has a driver that is not listed", name)
		}
	}
	if found < len(listed) {
		t.Errorf("found %d packages with drivers, %d are listed", found, len(listed))
	}
}
