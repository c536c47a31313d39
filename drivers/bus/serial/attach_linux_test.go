package serial_test

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cardfs/cardfs/drivers/bus/serial"
	"github.com/cardfs/cardfs/drivers/bus/serial/serialtest"
	"github.com/cardfs/cardfs/reader"
	"github.com/cardfs/cardfs/reader/core"
)

// plugAt makes a pseudo-terminal with echo behind it, with a link to it at name. unplug
// takes both away.
func plugAt(t *testing.T, name string) (unplug func()) {
	t.Helper()
	plugged := serialtest.Plug(echo)
	pty, err := serialtest.OpenPTY(plugged)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(pty.Name, name); err != nil {
		t.Fatal(err)
	}
	done := false
	unplug = func() {
		if done {
			return
		}
		done = true
		os.Remove(name)
		plugged.Unplug()
		pty.Close()
	}
	t.Cleanup(unplug)
	return unplug
}

// host collects announcements.
type host chan reader.Device

func (h host) Announce(d reader.Device) error { h <- d; return nil }

func attach(t *testing.T, name string) (reader.Device, host) {
	t.Helper()
	dev, err := serial.Attach(reader.Device{Driver: "fake", Address: name}, nil)
	if err != nil {
		t.Fatal(err)
	}
	h := make(host, 10)
	dev.Host = h
	return dev, h
}

// "Until it is, the reader is starting": Open waits for the port, wherever in its name
// something is missing yet.
func TestAttachWaits(t *testing.T) {
	dir := t.TempDir()
	name := filepath.Join(dir, "serial", "by-id", "usb-FTDI")
	dev, _ := attach(t, name)
	opened := make(chan error, 1)
	var port serial.Port
	go func() {
		var err error
		port, err = serial.Open(t.Context(), dev, mode)
		opened <- err
	}()
	stillWaits := func(where string) {
		t.Helper()
		select {
		case err := <-opened:
			t.Fatalf("%s: opened, %v", where, err)
		case <-time.After(20 * time.Millisecond):
		}
	}
	stillWaits("nothing is there")
	if got := dev.Link.(reader.Describer).Describe()["port"]; got != "not there" {
		t.Errorf("port %q", got)
	}
	for _, d := range []string{"serial", "serial/by-id"} {
		if err := os.Mkdir(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
		stillWaits(d)
	}
	if err := os.Symlink("/nowhere", name); err != nil { // what udev has not removed yet
		t.Fatal(err)
	}
	stillWaits("a link to nothing")
	os.Remove(name)
	plugAt(t, name)
	if err := <-opened; err != nil {
		t.Fatal(err)
	}
	if got := dev.Link.(reader.Describer).Describe()["port"]; !strings.HasPrefix(got, "/dev/pts/") {
		t.Errorf("port %q", got)
	}
	if err := port.Close(); err != nil {
		t.Error(err)
	}
	wait(t, port.Gone())
	select {
	case <-dev.Link.Gone():
		t.Error("a port that was closed counts as gone")
	default:
	}
}

// Open ends with its context, and when the reader is detached.
func TestAttachWaitEnds(t *testing.T) {
	for _, c := range []struct {
		what string
		end  func(reader.Device, context.CancelFunc)
		want error
	}{
		{"cancelled", func(_ reader.Device, cancel context.CancelFunc) { cancel() }, context.Canceled},
		{"detached", func(d reader.Device, _ context.CancelFunc) { d.Link.(reader.Detacher).Detached() }, reader.ErrGone},
	} {
		dev, _ := attach(t, filepath.Join(t.TempDir(), "tty"))
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(10*time.Millisecond, func() { c.end(dev, cancel) })
		if _, err := serial.Open(ctx, dev, mode); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", c.what, err, c.want)
		}
		cancel()
	}
}

// "When the port leaves, the reader leaves, and is announced again at once": the link
// counts as gone before the port does, so that the core sees a departure, not a death.
func TestAttachAgain(t *testing.T) {
	name := filepath.Join(t.TempDir(), "tty")
	dev, h := attach(t, name)
	for range 3 {
		unplug := plugAt(t, name)
		port, err := serial.Open(t.Context(), dev, mode)
		if err != nil {
			t.Fatal(err)
		}
		unplug()
		wait(t, port.Gone())
		select {
		case <-dev.Link.Gone():
		default:
			t.Error("the port has gone, its link has not")
		}
		next := <-h
		if next.Link == dev.Link || next.Address != dev.Address || next.Port != dev.Port || next.Driver != "fake" {
			t.Errorf("announced %+v after %+v", next, dev)
		}
		port.Close()
		dev = next
		dev.Host = h
	}
	dev.Link.(reader.Detacher).Detached()
	wait(t, dev.Link.Gone())
	dev.Link.(reader.Detacher).Detached() // once more: no panic
}

// A reader that was detached does not come back.
func TestAttachDetached(t *testing.T) {
	name := filepath.Join(t.TempDir(), "tty")
	dev, h := attach(t, name)
	unplug := plugAt(t, name)
	port, err := serial.Open(t.Context(), dev, mode)
	if err != nil {
		t.Fatal(err)
	}
	dev.Link.(reader.Detacher).Detached()
	wait(t, dev.Link.Gone())
	unplug()
	wait(t, port.Gone())
	port.Close()
	select {
	case d := <-h:
		t.Errorf("announced %+v", d)
	default:
	}
}

func TestAttachRefuses(t *testing.T) {
	for _, name := range []string{"", "ttyUSB0", "./tty"} {
		if _, err := serial.Attach(reader.Device{Address: name}, nil); !errors.Is(err, reader.ErrInvalid) {
			t.Errorf("%q: %v", name, err)
		}
	}
	for name, want := range map[string]error{
		"/dev/null": reader.ErrUnsupported, t.TempDir(): os.ErrInvalid,
	} {
		dev, _ := attach(t, name)
		_, err := serial.Open(t.Context(), dev, mode)
		if err == nil || want != os.ErrInvalid && !errors.Is(err, want) {
			t.Errorf("%s: %v", name, err)
		}
		t.Log(err)
	}
}

// "It follows the links of udev, but none that another user may have put there."
func TestForeignLink(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can make another user's link")
	}
	dir := t.TempDir()
	name := filepath.Join(dir, "tty")
	plugAt(t, name)
	if err := os.Lchown(name, 12345, 12345); err != nil {
		t.Fatal(err)
	}
	dev, _ := attach(t, name)
	if _, err := serial.Open(t.Context(), dev, mode); !errors.Is(err, reader.ErrNoPermission) {
		t.Errorf("%v", err)
	}
	os.Symlink("loop", filepath.Join(dir, "loop"))
	if _, err := serial.OpenTTY(t.Context(), filepath.Join(dir, "loop"), mode, nil); err == nil || !strings.Contains(err.Error(), "too many") {
		t.Errorf("%v", err)
	}
}

// echoDriver serves the echo: one slot, never with a card.
type echoDriver struct{}

func (echoDriver) Name() string     { return "echo" }
func (echoDriver) IDs() []reader.ID { return nil }
func (echoDriver) Attach(d reader.Device) (reader.Device, error) {
	return serial.Attach(d, slog.New(slog.DiscardHandler))
}
func (echoDriver) Open(ctx context.Context, dev reader.Device) (reader.Reader, error) {
	port, err := serial.Open(ctx, dev, mode)
	if err != nil {
		return nil, err
	}
	return echoReader{port}, nil
}

type echoReader struct{ serial.Port }

func (r echoReader) Slots() []reader.Slot { return []reader.Slot{echoSlot(r)} }

type echoSlot struct{ serial.Port }

func (s echoSlot) Status(ctx context.Context) (reader.Status, error) {
	if err := s.Write(ctx, []byte{1}); err != nil {
		return 0, err
	}
	_, err := serial.ReadFull(ctx, s.Port, make([]byte, 1), patience)
	return reader.Absent, err
}
func (s echoSlot) PowerOn(context.Context, reader.Reset) ([]byte, error) {
	return nil, reader.ErrNoCard
}
func (s echoSlot) PowerOff(context.Context) error { return nil }
func (s echoSlot) Traits() reader.Traits          { return reader.Traits{} }
func (s echoSlot) Exchange(context.Context, reader.Transfer, []byte) ([]byte, error) {
	return nil, reader.ErrNoCard
}

// await waits until slot 0 is in that state.
func await(t *testing.T, m *core.Manager, want core.State) *core.Slot {
	t.Helper()
	var got core.State
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(time.Millisecond) {
		got = ""
		if s := m.Slot(0); s != nil {
			if got = s.Info().State; got == want {
				return s
			}
		}
	}
	t.Fatalf("slot 0 is %q, want %q", got, want)
	return nil
}

// In the core: an attached reader is starting until its port is there, keeps its number
// when the port leaves and comes back, and can be detached while it is not there.
func TestAttachInCore(t *testing.T) {
	m := core.NewManager(core.Options{Drivers: []reader.Driver{echoDriver{}}, Poll: 5 * time.Millisecond})
	defer m.Close(t.Context())
	name := filepath.Join(t.TempDir(), "tty")
	dev, err := m.Prepare("echo", name, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := m.Announce(dev); err != nil {
		t.Fatal(err)
	}
	for range 5 { // more often than a reader may die
		await(t, m, core.StateStarting)
		unplug := plugAt(t, name)
		if got := await(t, m, core.StateEmpty).Info().ByID; got != "serial-"+strings.ReplaceAll(strings.TrimPrefix(name, "/"), "/", "_")+"-slot0" {
			t.Errorf("by-id name %s", got)
		}
		unplug()
	}
	await(t, m, core.StateStarting)
	if n := len(m.Slots()); n != 1 {
		t.Errorf("%d slots", n)
	}
	if err := m.Detach(0); err != nil {
		t.Fatal(err)
	}
	plugAt(t, name)
	time.Sleep(50 * time.Millisecond)
	if n := len(m.Slots()); n != 0 {
		t.Errorf("%d slots after detach", n)
	}
}
