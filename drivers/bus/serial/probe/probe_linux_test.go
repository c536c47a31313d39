package probe_test

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cardfs/cardfs/drivers"
	"github.com/cardfs/cardfs/drivers/bus/serial/probe"
	"github.com/cardfs/cardfs/drivers/bus/serial/serialtest"
	"github.com/cardfs/cardfs/drivers/gempc/emu"
	"github.com/cardfs/cardfs/reader"
)

// ptyWith is a pseudo-terminal with a device behind it, set as no driver sets it, and what
// reads its settings.
func ptyWith(t *testing.T, d serialtest.Device) (name string, settings func() unix.Termios) {
	t.Helper()
	plugged := serialtest.Plug(d)
	pty, err := serialtest.OpenPTY(plugged)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { plugged.Unplug(); pty.Close() })
	fd, err := unix.Open(pty.Name, unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	// A second descriptor of our own would count as another program.
	settings = func() unix.Termios {
		now, err := unix.IoctlGetTermios(fd, unix.TCGETS2)
		if err != nil {
			t.Error(err)
			return unix.Termios{}
		}
		return *now
	}
	before := settings()
	before.Iflag = unix.ICRNL | unix.IXON
	before.Oflag = unix.OPOST | unix.ONLCR
	before.Lflag = unix.ICANON | unix.ECHO | unix.ISIG
	before.Cflag = unix.CREAD | unix.CS7 | unix.CSTOPB | unix.BOTHER
	before.Ispeed, before.Ospeed = 1200, 1200
	before.Cc[unix.VMIN] = 7
	if err := unix.IoctlSetTermios(fd, unix.TCSETS2, &before); err != nil {
		t.Fatal(err)
	}
	unix.Close(fd)
	return pty.Name, func() unix.Termios {
		fd, err := unix.Open(pty.Name, unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
		if err != nil {
			t.Error(err)
			return unix.Termios{}
		}
		defer unix.Close(fd)
		now, err := unix.IoctlGetTermios(fd, unix.TCGETS2)
		if err != nil {
			t.Error(err)
			return unix.Termios{}
		}
		return *now
	}
}

func gemPC410() serialtest.Device {
	return emu.NewSerial(emu.SerialConfig{Version: "OROS-R2.99-R1.21", AnyBaud: true})
}

// "It leaves the port set as it was", whether something was found or the search was ended.
func TestPortAsItWas(t *testing.T) {
	all := drivers.All(drivers.Env{})
	log := slog.New(slog.DiscardHandler)
	t.Run("found", func(t *testing.T) {
		name, settings := ptyWith(t, gemPC410())
		before := settings()
		found, err := probe.At(t.Context(), name, all, log, nil)
		if err != nil || found.Attach() != "attach gempc "+name || found.Model != "Gemplus GemPC410" {
			t.Errorf("%+v, %v", found, err)
		}
		if after := settings(); after != before {
			t.Errorf("settings %+v, before %+v", after, before)
		}
	})
	t.Run("ended", func(t *testing.T) {
		asked := make(chan struct{})
		name, settings := ptyWith(t, serialtest.DeviceFunc(func(l *serialtest.Line) {
			l.Char()
			close(asked)
			<-l.Context().Done()
		}))
		before := settings()
		ctx, cancel := context.WithCancel(t.Context())
		go func() { <-asked; cancel() }()
		if found, err := probe.At(ctx, name, all, log, nil); !errors.Is(err, context.Canceled) {
			t.Errorf("%+v, %v", found, err)
		}
		if after := settings(); after != before {
			t.Errorf("settings %+v, before %+v", after, before)
		}
	})
}

// A port that some program has open is left alone, whether or not that program keeps others
// out.
func TestBusy(t *testing.T) {
	asked := make(chan struct{}, 1)
	name, settings := ptyWith(t, serialtest.DeviceFunc(func(l *serialtest.Line) {
		if _, ok := l.Char(); ok {
			asked <- struct{}{}
		}
	}))
	before := settings()
	holder := exec.Command("sleep", "1000")
	var err error
	if holder.Stdin, err = os.OpenFile(name, os.O_RDWR|unix.O_NOCTTY, 0); err != nil {
		t.Fatal(err)
	}
	if err := holder.Start(); err != nil {
		t.Fatal(err)
	}
	holder.Stdin.(*os.File).Close()
	defer holder.Wait()
	defer holder.Process.Kill()
	_, err = probe.At(t.Context(), name, drivers.All(drivers.Env{}), slog.New(slog.DiscardHandler), nil)
	if !errors.Is(err, reader.ErrClaimed) || !strings.Contains(err.Error(), "sleep (pid ") {
		t.Errorf("%v", err)
	}
	if after := settings(); after != before || len(asked) > 0 {
		t.Errorf("settings %+v, before %+v; asked: %d", after, before, len(asked))
	}
}

// What is no terminal is not opened.
func TestNoPort(t *testing.T) {
	dir := t.TempDir()
	os.WriteFile(filepath.Join(dir, "file"), nil, 0o600)
	unix.Mkfifo(filepath.Join(dir, "fifo"), 0o600) // opening it would wait
	for name, want := range map[string]string{
		"/dev/null": "no serial port", dir + "/file": "no serial port", dir + "/fifo": "no serial port", dir: "no serial port",
		dir + "/none": "there is no such port",
	} {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		_, err := probe.At(ctx, name, drivers.All(drivers.Env{}), slog.New(slog.DiscardHandler), nil)
		cancel()
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", name, err, want)
		}
	}
}
