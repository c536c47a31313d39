package fs

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/cardfs/cardfs/reader"
	"github.com/cardfs/cardfs/reader/core"
)

// plainDriver is a driver whose readers never become ready.
type plainDriver struct{ name string }

func (d plainDriver) Name() string   { return d.name }
func (plainDriver) IDs() []reader.ID { return nil }
func (plainDriver) Open(ctx context.Context, dev reader.Device) (reader.Reader, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}

// boxDriver has an Attach and commands of its own.
type boxDriver struct {
	plainDriver
	mu   sync.Mutex
	said []string
}

func newBox() *boxDriver { return &boxDriver{plainDriver: plainDriver{"box"}} }

func (d *boxDriver) Attach(dev reader.Device) (reader.Device, error) {
	if dev.Params["slots"] == "2" {
		dev.Slots = 2
	}
	for key := range dev.Params {
		if key != "slots" {
			return dev, errors.New("no such key")
		}
	}
	return dev, nil
}

func (d *boxDriver) Command(_ context.Context, dev reader.Device, words []string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.said = append(d.said, dev.Address+" "+strings.Join(words, " "))
	return nil
}

func (d *boxDriver) Usage() []string { return []string{"box N shake"} }

// "write attach DRIVER DEVICE [key=value…], detach N, abort N, rescan", and a driver's own
// commands. A refusal names the command and the reason.
func TestCtl(t *testing.T) {
	d := newBox()
	m := core.NewManager(core.Options{Drivers: []reader.Driver{d, plainDriver{"fake"}}})
	defer m.Close(context.Background())
	for _, tt := range []struct {
		line string
		err  string // "" done
	}{
		{"", ""},
		{"   ", ""},
		{"attach box a", ""},
		{"attach box b slots=2 t0=plain", ""},
		{"attach box a", "already attached as 0"},
		{"attach box c no=key", "no such key"},
		{"attach box c slots", "not key=value"},
		{"attach box c =2", "not key=value"},
		{"attach box c t0=odd", "attach DRIVER DEVICE"},
		{"attach", "attach DRIVER DEVICE [key=value...]: a driver must follow; there are box, fake"},
		{"attach fake", "attach DRIVER DEVICE"},
		{"attach nothing c", `no driver "nothing"; there are box, fake`},
		{"box 0 shake it", ""},
		{"box 2 shake", ""},
		{"box 7 shake", "not and was not"},
		{"box x shake", `box: "x" is no number`},
		{"box", "box N"},
		{"fake 0 shake", "no command"},
		{"box 0", ""},
		{"detach 1", ""},
		{"detach 9", "no reader 9"},
		{"detach -1", "number"},
		{"detach +0", "number"},
		{"detach 00", "number"},
		{"detach", "detach N [or DRIVER DEVICE]: the number"},
		{"detach 1 2 3", "detach N [or DRIVER DEVICE]: the number"},
		{"detach box nowhere", "nothing is attached as box nowhere"},
		{"attach box d", ""},
		{"detach box d", ""},
		{"detach 99999999999999999999", "number"},
		{"abort 0", "nothing is under way in slot 0"},
		{"abort 9", "no slot 9"},
		{"rescan", ""},
		{"rescan now", "rescan: takes no argument"},
		{"dance", `"dance" is no command; there are attach, detach, abort, rescan, box: `},
	} {
		err := Ctl(m, tt.line)
		switch {
		case tt.err == "" && err != nil:
			t.Errorf("%q: %v", tt.line, err)
		case tt.err != "" && (err == nil || !strings.Contains(err.Error(), tt.err)):
			t.Errorf("%q: %v, want … %s …", tt.line, err, tt.err)
		}
	}
	if want := []string{"a shake it", "b shake", "a "}; !slices.Equal(d.said, want) {
		t.Errorf("the driver was told %q, want %q", d.said, want)
	}
}

// "read: drivers and their state", after the commands that may be written.
func TestCtlText(t *testing.T) {
	m := core.NewManager(core.Options{Drivers: []reader.Driver{newBox(), plainDriver{"fake"}}})
	defer m.Close(context.Background())
	for _, line := range []string{"attach box a", "attach box b slots=2 t0=plain", "attach fake c\u202ed x=\x01y a=b"} {
		if err := Ctl(m, line); err != nil {
			t.Fatal(err)
		}
	}
	want := `# attach DRIVER DEVICE [key=value...]
# detach N [or DRIVER DEVICE]
# abort N
# rescan
# box N shake
instance ` + m.Instance() + `
driver box slots=3
driver fake slots=1
reader 0 box a starting
reader 1 box b starting slots=2 t0=plain
reader 2 box b starting slots=2 t0=plain
reader 3 fake c` + "\ufffd" + `d starting a=b x=_y
`
	if got := string(ctlLines(m)); got != want {
		t.Errorf("ctl:\n%s\nwant\n%s", got, want)
	}
}

// The table is complete: each listed command works under its name, has help, and is in the
// README.
func TestCtlTable(t *testing.T) {
	readme, err := os.ReadFile("../README.md")
	if err != nil {
		t.Fatal(err)
	}
	m := core.NewManager(core.Options{})
	defer m.Close(context.Background())
	for i, usage := range CtlUsage() {
		c := &ctlCommands[i]
		if usage != [2]string{c.String(), c.help} || c.help == "" {
			t.Errorf("usage %q of %s", usage, c)
		}
		if err := Ctl(m, c.name); err != nil && !strings.HasPrefix(err.Error(), c.String()+": ") {
			t.Errorf("%s: %v", c, err)
		}
		short, _, _ := strings.Cut(c.String(), " [")
		if !strings.Contains(string(readme), "`"+short+"`") {
			t.Errorf("the README has no `%s`", short)
		}
	}
}

// Only a command's name is logged: the rest of the line may be anything, even a command meant
// for a card.
func TestCtlLog(t *testing.T) {
	var log strings.Builder
	m := core.NewManager(core.Options{Drivers: []reader.Driver{newBox()}})
	defer m.Close(context.Background())
	f := &file{mount: &mount{manager: m, log: slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{
		ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
			if a.Key == slog.TimeKey {
				return slog.Attr{}
			}
			return a
		},
	}))}, spec: &specCtl}
	h, err := openCtl(context.Background(), f, 0)
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range []string{"attach box a", "box 0 shake 31323334", "detach 7", "00 20 00 01 04 31323334", "# nothing"} {
		h.(*textFile).Write(context.Background(), []byte(line+"\n"), 0)
	}
	const want = `level=INFO msg=ctl command=attach
level=INFO msg=ctl command=box
level=WARN msg="ctl refused" command=detach errno=EINVAL
level=WARN msg="ctl refused" reason="no such command"
`
	if log.String() != want {
		t.Errorf("log\n%s\nwant\n%s", log.String(), want)
	}
}

// No line written to ctl breaks anything or adds a line to what ctl and status show.
func FuzzCtl(f *testing.F) {
	for _, s := range []string{
		"attach box a", "attach box a slots=2", "detach 0", "rescan", "box 0 shake", "attach box \x00\r=",
		"attach fake a b=c d=e", "detach 18446744073709551616", "box -1", "attach", "\xff\xfe 0",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, line string) {
		m := core.NewManager(core.Options{Drivers: []reader.Driver{newBox()}})
		defer m.Close(context.Background())
		events := m.Follow()
		Ctl(m, "attach box first")
		err := Ctl(m, line)
		if err != nil && !errors.Is(err, reader.ErrInvalid) && !strings.Contains(err.Error(), "no such key") {
			t.Errorf("%q: %v is no ErrInvalid", line, err)
		}
		slots := m.Slots()
		// The commands, one of the driver, the instance, the driver, the readers.
		if got, want := strings.Count(string(ctlLines(m)), "\n"), len(ctlCommands)+3+len(slots); got != want {
			t.Errorf("%q: ctl has %d lines, want %d:\n%s", line, got, want, ctlLines(m))
		}
		for _, s := range slots {
			for l := range strings.Lines(string(statusLines(s.Info()))) {
				if !strings.Contains(l, " ") || strings.ContainsAny(strings.TrimSuffix(l, "\n"), "\r\n\x00") {
					t.Errorf("%q: status has the line %q", line, l)
				}
			}
			if strings.ContainsAny(s.Info().ByID, "/ \n") {
				t.Errorf("%q: by-id name %q", line, s.Info().ByID)
			}
		}
		for {
			e, _, ok, err := events.TryNext()
			if !ok || err != nil {
				break
			}
			if l := string(e.Append(nil)); len(strings.Fields(l)) < 3 || strings.ContainsAny(l, "\r\n") {
				t.Errorf("%q: event %q", line, l)
			}
		}
	})
}
