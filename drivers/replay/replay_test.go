package replay

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"

	"golang.org/x/sys/unix"

	"github.com/cardfs/cardfs/reader"
	"github.com/cardfs/cardfs/reader/core"
	"github.com/cardfs/cardfs/reader/iso7816"
	"github.com/cardfs/cardfs/reader/link"
	"github.com/cardfs/cardfs/reader/readertest"
)

const atr = "3B 80 80 01 01" // T=0, T=1

var unhex = readertest.Hex

func file(t testing.TB, lines ...string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "session.txt")
	if err := os.WriteFile(path, []byte(session(lines...)), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// attach attaches and opens a session, as the core does.
func attach(t *testing.T, params map[string]string, lines ...string) *player {
	t.Helper()
	dev, err := Driver{}.Attach(reader.Device{Driver: "replay", Address: file(t, lines...), Params: params})
	if err != nil {
		t.Fatal(err)
	}
	_, s := readertest.Open(t, Driver{}, dev)
	return s.(*player)
}

// tells sends commands and compares the answers. A line is "COMMAND: ANSWER", "COMMAND: !"
// for an error, or "reset: ATR".
func (p *player) tells(t *testing.T, script ...string) {
	t.Helper()
	for _, line := range script {
		command, want, _ := strings.Cut(line, ": ")
		var got []byte
		var err error
		if command == "reset" {
			got, err = p.PowerOn(t.Context(), reader.Warm)
		} else {
			got, err = p.Exchange(t.Context(), reader.Transfer{Out: unhex(command)}, nil)
		}
		switch {
		case (err != nil) != (want == "!"):
			t.Errorf("%s: %v", line, err)
		case err == nil && !bytes.Equal(got, unhex(want)):
			t.Errorf("%s, and not % X", line, got)
		}
	}
}

// "A command is answered by the next pair of the same command from the place on. Behind the
// last pair the search goes on at the beginning, once around."
func TestOrder(t *testing.T) {
	p := attach(t, nil, "atr "+atr,
		"> 00 B0 00 00 01", "< 01 90 00",
		"> 00 B0 00 00 02", "< 02 02 90 00",
		"> 00 B0 00 00 01", "< 03 90 00",
		"> 00 B0 00 00 03", "< 04 04 04 90 00",
		"> 00 B0 00 00 01", "< 05 90 00")
	p.tells(t, "reset: "+atr,
		"00B0000001: 019000", "00B0000001: 039000", "00B0000001: 059000", "00B0000001: 019000",
		"00B0000003: 0404049000", // skips one pair
		"00B0000001: 059000",     // so this is the pair behind it
		"00B0000002: 02029000",   // continues at the beginning
		"00B00000: 6F00",         // a command that was not recorded …
		"00B0000001: 039000",     // … leaves the place
		"00B0000003: 0404049000", //
		"00B0000003: 0404049000") // the only one, after one round
}

// "XX in a command matches any bytes, but at least one. XX in an answer is left out."
func TestMasked(t *testing.T) {
	p := attach(t, nil, "atr "+atr,
		"> 00 20 00 01 XX", "< 63 C2",
		"> 00 20 00 01", "< 63 C1",
		"> 00 20 00 01 XX", "< 90 00",
		"> 00 C0 00 00 XX", "< XX 61 04",
		"> 00 C0 00 01 XX", "< XX")
	p.tells(t, "reset: "+atr,
		"00 20 00 01 04 31 32 33 34: 63C2", "00 20 00 01: 63C1", "00 20 00 01 08 31 32 33 34 FF FF FF FF: 9000",
		"00 20 00 01: 63C1", "00 20 00 02 01 31: 6F00", "00 20 00: 6F00",
		"00 C0 00 00 08: 6104", "00 C0 00 01 08: 6F00")
}

// "A reset is answered by the next ATR from the place on, or the first one, and the place
// is behind it."
func TestResets(t *testing.T) {
	const other = "3B 00"
	p := attach(t, nil, "atr "+atr, "> 00 84 00 00", "< 90 01", "reset warm", "atr "+other, "> 00 84 00 00", "< 90 02", "> 00 84 00 00", "< 90 03")
	p.tells(t, "reset: "+atr, "00840000: 9001", "00840000: 9002", "reset: "+atr, "00840000: 9001",
		"reset: "+other, "00840000: 9002", "reset: "+atr, "reset: "+other, "00840000: 9002")
}

// "A recorded error is an error again."
func TestErrors(t *testing.T) {
	p := attach(t, nil, "reset cold", "! timeout mute", "reset cold", "atr "+atr,
		"> 00 84 00 01", "! timeout no answer",
		"> 00 84 00 02", "! protocol EDC",
		"> 00 84 00 03", "! unsupported by it",
		"> 00 84 00 04", "! failed",
		"> 00 84 00 05", // no answer was recorded
		"> 00 84 00 06", "lost 3", "reader Other",
		"> 00 84 00 07", "reader New", "< 90 00")
	p.tells(t, "reset: "+atr)
	for i, want := range []error{reader.ErrTimeout, reader.ErrProtocol, reader.ErrUnsupported, errRecorded} {
		dst, err := p.Exchange(t.Context(), reader.Transfer{Out: []byte{0, 0x84, 0, byte(1 + i)}}, []byte("kept"))
		if !errors.Is(err, want) || string(dst) != "kept" || !strings.Contains(err.Error(), "as recorded at line") {
			t.Errorf("%q, %v; want %v", dst, err, want)
		}
	}
	p.tells(t, "00840005: 6F00", "00840006: 6F00", "00840007: 9000")
	if model, _ := p.Identify(); model != "New" {
		t.Error(model)
	}
}

// "is answered with 6F00, or what unknown=SW says; with unknown=error the error is EPROTO"
func TestUnknown(t *testing.T) {
	for value, want := range map[string]string{"6F00": "6F00", "6d00": "6D00", "9000": "9000", "error": "!"} {
		p := attach(t, map[string]string{"unknown": value}, "atr "+atr)
		p.tells(t, "reset: "+atr, "00 A4 04 00 02 31 32: "+want)
		if want == "!" {
			_, err := p.Exchange(t.Context(), reader.Transfer{Out: unhex("00 A4 04 00 02 31 32")}, nil)
			if !errors.Is(err, reader.ErrProtocol) || strings.Contains(strings.ReplaceAll(err.Error(), p.path, ""), "31") {
				t.Error(err)
			}
		}
	}
}

// What attach refuses, and the message for the user.
func TestAttachRefuses(t *testing.T) {
	good := file(t, "atr "+atr)
	fifo := filepath.Join(t.TempDir(), "fifo")
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	bad := file(t, "atr "+atr, "< 90 00")
	worse := file(t, "nonsense")
	empty := file(t, "> 00 84 00 00", "< 90 00")
	for _, tt := range []struct {
		address string
		params  map[string]string
		want    string
	}{
		{"session.txt", nil, `the path of the session must begin with /`},
		{"", nil, `the path of the session must begin with /`},
		{"/nowhere/session.txt", nil, "open: no such file or directory"},
		{filepath.Dir(good), nil, "is no file with a session in it"},
		{fifo, nil, "is no file with a session in it"},
		{bad, nil, "session.txt:3: an answer without a command before it"},
		{worse, nil, "session.txt:2: a line begins with"},
		{empty, nil, `the session has no line "atr"`},
		{good, map[string]string{"level": "tpdu"}, "level=tpdu: there are short and extended"},
		{good, map[string]string{"unknown": "8000"}, "unknown=8000: say error, or SW1 SW2 such as 6F00"},
		{good, map[string]string{"unknown": "6F"}, "unknown=6F: say error"},
		{good, map[string]string{"unknown": "6F0000"}, "unknown=6F0000: say error"},
		{good, map[string]string{"unknown": "x"}, "unknown=x: say error"},
		{good, map[string]string{"x": "y"}, `no key "x"; there are level and unknown`},
	} {
		dev := reader.Device{Driver: "replay", Address: tt.address, Params: tt.params}
		_, err := Driver{}.Attach(dev)
		if !errors.Is(err, reader.ErrInvalid) || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s %v: %v; want %s", tt.address, tt.params, err, tt.want)
		}
		if r, err := (Driver{}).Open(t.Context(), dev); err == nil || r != nil {
			t.Errorf("%s %v: opened", tt.address, tt.params)
		}
	}
}

// Files are closed, whatever they contained.
func TestFilesAreClosed(t *testing.T) {
	count := func() int {
		list, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		return len(list)
	}
	good, bad := file(t, "atr "+atr), file(t, "nonsense")
	before := count()
	for _, path := range []string{good, bad, filepath.Dir(good), good} {
		_, _ = Driver{}.Attach(reader.Device{Address: path})
	}
	if n := count(); n != before {
		t.Errorf("%d descriptors, there were %d", n, before)
	}
}

// A file that would block is refused, not waited for.
func TestDescriptor(t *testing.T) {
	var fds [2]int
	if err := unix.Pipe2(fds[:], unix.O_NONBLOCK|unix.O_CLOEXEC); err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fds[0])
	defer unix.Close(fds[1])
	if _, err := Parse(descriptor(fds[0]), "f"); !errors.Is(err, syscall.EAGAIN) {
		t.Error(err)
	}
}

func TestDevice(t *testing.T) {
	path := file(t, "reader Rainbow iKey 3000", "atr "+atr)
	dev, err := Driver{}.Attach(reader.Device{Driver: "replay", Address: filepath.Dir(path) + "/../" + filepath.Base(filepath.Dir(path)) + "/./session.txt"})
	if err != nil {
		t.Fatal(err)
	}
	if dev.Address != path || dev.Port != path || dev.Bus != "replay" || dev.Slots != 1 || dev.ID.Model != "Rainbow iKey 3000" || !dev.T0Plain {
		t.Errorf("%+v", dev)
	}
	if err := os.Remove(path); err != nil { // it was read
		t.Fatal(err)
	}
	r, err := Driver{}.Open(t.Context(), dev)
	if err != nil {
		t.Fatal(err)
	}
	model, more := r.(reader.Identifier).Identify()
	if model != "Rainbow iKey 3000" || more["session"] != path {
		t.Errorf("%s, %v", model, more)
	}
}

// A session is complete. Over T=0 the core neither asks for more after 61xx or a warning
// without data, nor splits a long command.
func TestComplete(t *testing.T) {
	const t0 = "3B 00"
	p := attach(t, nil, "atr "+t0, "> 00 A4 00 00 02 3F 00 00", "< 61 10", "> 00 CA 00 01 02 3F 00 00", "< 62 83",
		"> 00 B0 00 00 04", "< 6C 02", "> 00 B0 00 00 00 01 00", "< 01 02 90 00")
	dev, _ := Driver{}.Attach(reader.Device{Address: p.path})
	for _, level := range []reader.Level{reader.ExtendedAPDU, reader.ShortAPDU} {
		p.level = level
		l := link.New(link.Config{Slot: p, Features: reader.FeaturesOf(p), T0Plain: dev.T0Plain})
		if err := l.PowerUp(t.Context(), reader.Cold, -1); err != nil {
			t.Fatal(err)
		}
		for command, want := range map[string]string{
			"00 A4 00 00 02 3F 00 00": "61 10", "00 CA 00 01 02 3F 00 00": "62 83", "00 B0 00 00 04": "6C 02",
		} {
			if got, err := l.Transmit(t.Context(), unhex(command), nil); err != nil || !bytes.Equal(got, unhex(want)) {
				t.Errorf("%s: % X, %v; want %s", command, got, err, want)
			}
		}
		got, err := l.Transmit(t.Context(), unhex("00 B0 00 00 00 01 00"), nil)
		if level == reader.ShortAPDU {
			if !errors.Is(err, reader.ErrUnsupported) {
				t.Errorf("an extended command at short level: % X, %v", got, err)
			}
		} else if err != nil || !bytes.Equal(got, unhex("01 02 90 00")) {
			t.Errorf("an extended command: % X, %v", got, err)
		}
	}
	if got := attach(t, map[string]string{"level": "short"}, "atr "+atr).Traits().Level; got != reader.ShortAPDU {
		t.Errorf("level=short is %v", got)
	}
	if got := attach(t, map[string]string{"level": "extended"}, "atr "+atr).Traits().Level; got != reader.ExtendedAPDU {
		t.Errorf("level=extended is %v", got)
	}
}

// Both protocols that the ATR offers can be chosen.
func TestProtocols(t *testing.T) {
	for want := range 2 {
		p := attach(t, nil, "atr "+atr)
		l := link.New(link.Config{Slot: p, Features: reader.FeaturesOf(p), T0Plain: true})
		if err := l.PowerUp(t.Context(), reader.Cold, want); err != nil || l.Params().T != want {
			t.Errorf("T=%d: T=%d, %v", want, l.Params().T, err)
		}
	}
}

// Without power there is no answer, and the place stays. A cancelled command changes
// nothing.
func TestNoPower(t *testing.T) {
	p := attach(t, nil, "atr "+atr, "> 00 84 00 00", "< 90 01", "> 00 84 00 00", "< 90 02")
	x := reader.Transfer{Out: unhex("00840000")}
	if _, err := p.Exchange(t.Context(), x, nil); !errors.Is(err, reader.ErrStale) {
		t.Error(err)
	}
	p.tells(t, "reset: "+atr, "00840000: 9001")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := p.Exchange(ctx, x, nil); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if _, err := p.SelectProtocol(ctx, iso7816.Params{}); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	p.tells(t, "00840000: 9002")
}

func TestSuite(t *testing.T) {
	readertest.Suite(t, func(t *testing.T) *readertest.Fixture {
		dev, err := Driver{}.Attach(reader.Device{Driver: "replay", Address: file(t, "atr "+atr, "> 00 01 02 03", "< 00 01 02 03 90 00")})
		if err != nil {
			t.Fatal(err)
		}
		s := new(spy)
		return &readertest.Fixture{
			Driver: s, Device: dev, Command: unhex("00 01 02 03"), Answer: unhex("00 01 02 03 90 00"),
			Slots:  []readertest.Slot{{Fixed: true, NeverSilent: "a session answers at once"}},
			Unplug: func() { s.opened.Close() },
		}
	})
}

// spy keeps the reader, so that a test can make it leave.
type spy struct {
	Driver
	opened reader.Reader
}

func (s *spy) Open(ctx context.Context, dev reader.Device) (reader.Reader, error) {
	r, err := s.Driver.Open(ctx, dev)
	s.opened = r
	return r, err
}

// Whatever a session contains, the core can use its reader.
func FuzzUse(f *testing.F) {
	f.Add(session("reader x", "atr "+atr, "> 00 A4 04 00 XX", "! timeout x", "> 00 A4 04 00 XX", "< XX 90 00"), readertest.AllOps)
	f.Add(session("atr 3F", "atr 3B FF"), readertest.AllOps)
	f.Fuzz(func(t *testing.T, text string, ops []byte) {
		lines, err := Parse(strings.NewReader(text), "f")
		rec := &recording{path: "/f", level: reader.ExtendedAPDU}
		if err != nil || len(ops) > 100 || rec.take(lines) != nil {
			return
		}
		synctest.Test(t, func(t *testing.T) {
			readertest.Use(t, Driver{}, reader.Device{Driver: "replay", Address: "/f", Slots: 1, T0Plain: true, Link: rec}, ops, func(*core.Manager, byte) {})
		})
	})
}
