package serial_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/cardfs/cardfs/drivers/bus/serial"
	"github.com/cardfs/cardfs/drivers/bus/serial/serialtest"
	"github.com/cardfs/cardfs/reader"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const patience = time.Minute

// echo sends back each character, plus one.
var echo = serialtest.DeviceFunc(func(l *serialtest.Line) {
	for {
		c, ok := l.Char()
		if !ok {
			return
		}
		l.Send(c + 1)
	}
})

// openPTY is a port on a pseudo-terminal with the device behind it.
func openPTY(t *testing.T, d serialtest.Device) (serial.Port, *serialtest.PTY, *serialtest.Plugged) {
	t.Helper()
	plugged := serialtest.Plug(d)
	t.Cleanup(plugged.Unplug)
	pty, err := serialtest.OpenPTY(plugged)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pty.Close)
	port, err := serial.OpenTTY(t.Context(), pty.Name, mode, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { port.Close() })
	ptys[port] = pty.Name
	return port, pty, plugged
}

// reopen opens a port again that was closed.
func reopen(t *testing.T, port serial.Port, plugged *serialtest.Plugged) (serial.Port, error) {
	if pty, ok := ptys[port]; ok {
		return serial.OpenTTY(t.Context(), pty, mode, nil)
	}
	return plugged.OpenSerial(t.Context(), mode)
}

// ptys are the names of ports that openPTY opened.
var ptys = map[serial.Port]string{}

// ports runs a test on each kind of port that needs no kernel module.
func ports(t *testing.T, d serialtest.Device, f func(t *testing.T, port serial.Port, plugged *serialtest.Plugged)) {
	t.Run("pair", func(t *testing.T) {
		plugged := serialtest.Plug(d)
		t.Cleanup(plugged.Unplug)
		port, err := serial.Open(t.Context(), reader.Device{Link: plugged}, mode)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { port.Close() })
		f(t, port, plugged)
	})
	t.Run("pty", func(t *testing.T) {
		port, _, plugged := openPTY(t, d)
		f(t, port, plugged)
	})
}

// A terminal delivers every byte as it is: no echo, no line ends, no flow control.
func TestAllBytes(t *testing.T) {
	ports(t, echo, func(t *testing.T, port serial.Port, _ *serialtest.Plugged) {
		want := make([]byte, 256)
		out := make([]byte, 256)
		for i := range want {
			out[i], want[i] = byte(i), byte(i+1)
		}
		if err := port.Write(t.Context(), out); err != nil {
			t.Fatal(err)
		}
		got := make([]byte, 256)
		if n, err := serial.ReadFull(t.Context(), port, got, patience); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%d, %v: % X", n, err, got)
		}
	})
}

// "Read reads the characters that are there, at most len(p), but at least one, for which
// it waits (ErrTimeout; 0: as long as ctx lasts)."
func TestReadEnds(t *testing.T) {
	ports(t, echo, func(t *testing.T, port serial.Port, _ *serialtest.Plugged) {
		var p [8]byte
		if n, err := port.Read(t.Context(), p[:], time.Millisecond); n != 0 || !errors.Is(err, serial.ErrTimeout) || !errors.Is(err, reader.ErrTimeout) {
			t.Errorf("nothing comes: %d, %v", n, err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(10*time.Millisecond, cancel)
		if n, err := port.Read(ctx, p[:], 0); n != 0 || !errors.Is(err, context.Canceled) {
			t.Errorf("cancelled: %d, %v", n, err)
		}
		if n, err := port.Read(ctx, p[:], 0); n != 0 || !errors.Is(err, context.Canceled) {
			t.Errorf("cancelled before: %d, %v", n, err)
		}
		// Nothing of that ends the next read.
		if err := port.Write(t.Context(), []byte{1, 2, 3}); err != nil {
			t.Fatal(err)
		}
		if n, err := serial.ReadChars(t.Context(), port, p[:2], patience, patience); n != 2 || err != nil || p[0] != 2 || p[1] != 3 {
			t.Errorf("%d, %v: % X", n, err, p)
		}
		if n, err := serial.ReadFull(t.Context(), port, p[:], 200*time.Millisecond); n != 1 || !errors.Is(err, reader.ErrTimeout) || p[0] != 4 {
			t.Errorf("%d, %v: % X", n, err, p)
		}
	})
}

// "Gone is closed as soon as the port has left, even while nothing is read."
func TestUnplug(t *testing.T) {
	ports(t, echo, func(t *testing.T, port serial.Port, plugged *serialtest.Plugged) {
		failed := make(chan error, 1)
		go func() {
			_, err := port.Read(context.Background(), make([]byte, 1), 0)
			failed <- err
		}()
		plugged.Unplug()
		wait(t, port.Gone())
		if err := <-failed; !errors.Is(err, reader.ErrGone) {
			t.Errorf("read under way: %v", err)
		}
		for what, err := range map[string]error{
			"write": port.Write(t.Context(), []byte{1}), "drain": port.Drain(t.Context()),
			"mode":  port.SetMode(t.Context(), serial.Mode{Baud: 19200, Frame: serial.Frame8N1}),
			"lines": port.SetLines(t.Context(), 0, serial.DTR), "flush": port.Flush(),
		} {
			if !errors.Is(err, reader.ErrGone) {
				t.Errorf("%s: %v", what, err)
			}
		}
	})
	ports(t, echo, func(t *testing.T, port serial.Port, plugged *serialtest.Plugged) {
		plugged.Unplug()
		wait(t, port.Gone())
	})
}

func wait(t *testing.T, c <-chan struct{}) {
	t.Helper()
	select {
	case <-c:
	case <-time.After(patience):
		t.Fatal("it never came")
	}
}

// Close ends everything under way.
func TestClose(t *testing.T) {
	ports(t, echo, func(t *testing.T, port serial.Port, _ *serialtest.Plugged) {
		failed := make(chan error, 1)
		go func() {
			_, err := port.Read(context.Background(), make([]byte, 1), 0)
			failed <- err
		}()
		time.Sleep(time.Millisecond)
		if err := port.Close(); err != nil {
			t.Error(err)
		}
		if err := <-failed; !errors.Is(err, reader.ErrGone) {
			t.Errorf("read under way: %v", err)
		}
		wait(t, port.Gone())
		if err := port.Close(); err != nil {
			t.Errorf("again: %v", err)
		}
		if err := port.Write(t.Context(), []byte{1}); !errors.Is(err, reader.ErrGone) {
			t.Errorf("write: %v", err)
		}
	})
}

// When Close returns, the port is free, whatever was under way.
func TestCloseFrees(t *testing.T) {
	port, pty, _ := openPTY(t, serialtest.DeviceFunc(func(l *serialtest.Line) { <-l.Context().Done() }))
	for i := range 50 {
		reading, failed := make(chan struct{}), make(chan error, 1)
		go func() {
			close(reading)
			_, err := port.Read(context.Background(), make([]byte, 1), patience)
			failed <- err
		}()
		<-reading
		if i%2 > 0 {
			time.Sleep(time.Millisecond)
		}
		if err := port.Close(); err != nil {
			t.Fatal(err)
		}
		again, err := serial.OpenTTY(t.Context(), pty.Name, mode, nil)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { again.Close() })
		if err := <-failed; !errors.Is(err, reader.ErrGone) {
			t.Fatalf("read under way: %v", err)
		}
		port = again
	}
}

// "Flush drops what has come and was not read."
func TestFlush(t *testing.T) {
	ports(t, echo, func(t *testing.T, port serial.Port, plugged *serialtest.Plugged) {
		var p [4]byte
		if err := port.Write(t.Context(), []byte{1, 2, 3}); err != nil {
			t.Fatal(err)
		}
		if _, err := serial.ReadFull(t.Context(), port, p[:1], patience); err != nil {
			t.Fatal(err)
		}
		time.Sleep(50 * time.Millisecond)
		if err := port.Flush(); err != nil {
			t.Fatal(err)
		}
		if n, err := port.Read(t.Context(), p[:], time.Millisecond); n != 0 || !errors.Is(err, serial.ErrTimeout) {
			t.Errorf("%d, %v", n, err)
		}
	})
}

// A pseudo-terminal "has no modem lines (ErrNoLines) and no parity, and accepts every Mode".
func TestPTYLines(t *testing.T) {
	port, _, _ := openPTY(t, echo)
	if err := port.SetLines(t.Context(), serial.DTR, serial.RTS); !errors.Is(err, serial.ErrNoLines) || !errors.Is(err, reader.ErrUnsupported) {
		t.Error(err)
	}
	if _, err := port.Lines(t.Context()); !errors.Is(err, serial.ErrNoLines) {
		t.Error(err)
	}
	for _, m := range []serial.Mode{
		{Baud: 9600, Frame: serial.Frame8E1}, {Baud: 10753, Frame: serial.Frame8O2, Check: true},
		{Baud: 115200, Frame: serial.Frame8N2}, {Baud: 38400, Frame: "7M1"}, {Baud: 9600, Frame: "8S1"},
	} {
		if err := port.SetMode(t.Context(), m); err != nil || port.Mode() != m {
			t.Errorf("%v: %v, now %v", m, err, port.Mode())
		}
	}
	if err := port.SetMode(t.Context(), serial.Mode{Baud: 9600, Frame: "9N1"}); !errors.Is(err, reader.ErrInvalid) {
		t.Error(err)
	}
	if err := port.Break(t.Context(), time.Millisecond); err != nil {
		t.Error(err)
	}
}

// Nobody else may have a port: an error says who has it. When it was closed, others may.
// Who is refused does no harm to who has it.
func TestExclusive(t *testing.T) {
	port, pty, plugged := openPTY(t, echo)
	if err := port.Write(t.Context(), []byte{1}); err != nil {
		t.Fatal(err)
	}
	for _, n := plugged.Sent(); n < 1; _, n = plugged.Sent() {
		time.Sleep(time.Millisecond)
	}
	refused := func(who string) {
		t.Helper()
		_, err := serial.OpenTTY(t.Context(), pty.Name, mode, nil)
		if !errors.Is(err, reader.ErrClaimed) || !strings.Contains(err.Error(), fmt.Sprintf("(pid %d)", os.Getpid())) {
			t.Errorf("%s: %v", who, err)
		}
	}
	refused("this process")
	serial.ForgetInUse()
	refused("as another process, by the lock")
	if setpriv, err := exec.LookPath("setpriv"); err == nil && os.Geteuid() == 0 {
		if err := os.Chmod(pty.Name, 0o666); err != nil {
			t.Fatal(err)
		}
		// tty_ioctl(4): with TIOCEXCL, who is not root cannot even open it.
		if out, err := exec.Command(setpriv, "--reuid=65534", "--clear-groups", "sh", "-c", "exec 3<>"+pty.Name).CombinedOutput(); err == nil {
			t.Errorf("another user opened it: %s", out)
		}
	}
	var p [1]byte
	if n, err := serial.ReadFull(t.Context(), port, p[:], patience); n != 1 || err != nil || p[0] != 2 {
		t.Errorf("what came for its user: %d, %v", n, err)
	}
	port.Close()
	again, err := serial.OpenTTY(t.Context(), pty.Name, mode, nil)
	if err != nil {
		t.Fatal(err)
	}
	port.Close() // once more: it has no hold on the next
	refused("behind a late Close")
	again.Close()
}

// An idle port costs nothing: while nothing comes, no thread wakes.
func TestIdle(t *testing.T) {
	switches := func() int64 {
		var u unix.Rusage
		if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
			t.Fatal(err)
		}
		return int64(u.Nvcsw) // 32 bits on some processors
	}
	idle := func() int64 {
		before := switches()
		time.Sleep(2 * time.Second)
		return switches() - before
	}
	without := idle()
	for range 16 {
		openPTY(t, echo)
	}
	runtime.GC()
	time.Sleep(100 * time.Millisecond)
	// The runtime's own threads wake now and then, on a busy machine more often. 16 ports that
	// look around every second would wake 32 times, each time that it is measured.
	var with int64
	for range 10 {
		if with = idle(); with <= without+20 {
			return
		}
	}
	t.Errorf("%d wake-ups in 2 s with 16 ports, %d without", with, without)
}

// What stays in the port when its user goes is not read by the next.
func TestStale(t *testing.T) {
	ports(t, echo, func(t *testing.T, port serial.Port, plugged *serialtest.Plugged) {
		if err := port.Write(t.Context(), []byte{1}); err != nil {
			t.Fatal(err)
		}
		for _, n := plugged.Sent(); n < 1; _, n = plugged.Sent() {
			time.Sleep(time.Millisecond)
		}
		time.Sleep(20 * time.Millisecond)
		port.Close()
		again, err := reopen(t, port, plugged)
		if err != nil {
			t.Fatal(err)
		}
		defer again.Close()
		if n, err := again.Read(t.Context(), make([]byte, 1), time.Millisecond); n != 0 || !errors.Is(err, serial.ErrTimeout) {
			t.Errorf("%d, %v", n, err)
		}
	})
}
