package drivers_test

import (
	"log/slog"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/cardfs/cardfs/drivers"
	"github.com/cardfs/cardfs/drivers/ccid"
	"github.com/cardfs/cardfs/drivers/sim"
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
	for _, d := range drivers.All(drivers.Env{Log: log, Quirks: quirks}) {
		switch d := d.(type) {
		case ccid.Driver:
			if d.Log != log || d.Quirks != quirks {
				t.Error("ccid has another log, or other quirks")
			}
		case *sim.Driver:
			if d.Log != log {
				t.Error("sim has another log")
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
		case <-time.After(20 * time.Second):
			t.Fatal("nothing was logged")
		}
	}
}

// Without a log the drivers are silent, and work.
func TestNoLog(t *testing.T) {
	names := map[string]bool{}
	for _, d := range drivers.All(drivers.Env{}) {
		names[d.Name()] = true
	}
	if len(names) != 6 {
		t.Errorf("drivers %v", names)
	}
}
