package serial_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/cardfs/cardfs/drivers/bus/serial"
	"github.com/cardfs/cardfs/drivers/bus/serial/serialtest"
	"github.com/cardfs/cardfs/reader"
	"github.com/cardfs/cardfs/reader/core"
	"github.com/cardfs/cardfs/tests/vm/machine"
	"github.com/cardfs/cardfs/tests/witness"
)

// What a pseudo-terminal does not have needs an adapter: parity, modem lines, a plug.
func TestInMachine(t *testing.T) {
	machine.RunSelf(t, "^TestFTDI", machine.Config{Modules: []string{"ftdi_sio"}})
}

func openFTDI(t *testing.T, d serialtest.Device) (port serial.Port, unplug func()) {
	t.Helper()
	a := witness.PlugAdapter(t, d, "S1")
	port, err := serial.OpenTTY(t.Context(), a.TTY, mode, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { port.Close() })
	return port, a.Unplug
}

// heard is a device that reports its events.
func heard(events chan<- serialtest.Event, then func(l *serialtest.Line, e serialtest.Event)) serialtest.Device {
	return serialtest.DeviceFunc(func(l *serialtest.Line) {
		for {
			e, ok := l.Next()
			if !ok {
				return
			}
			if then != nil {
				then(l, e)
			}
			select {
			case events <- e:
			case <-l.Context().Done():
			}
		}
	})
}

func next(t *testing.T, events <-chan serialtest.Event) serialtest.Event {
	t.Helper()
	select {
	case e := <-events:
		return e
	case <-time.After(patience):
		t.Fatal("the device noticed nothing")
		panic("unreachable")
	}
}

// "A terminal delivers every byte as it is", at each frame and speed, odd ones too.
func TestFTDIModes(t *testing.T) {
	machine.NeedGuest(t)
	var line *serialtest.Line
	got := make(chan *serialtest.Line, 1)
	port, _ := openFTDI(t, serialtest.DeviceFunc(func(l *serialtest.Line) {
		got <- l
		for {
			e, ok := l.Next()
			if !ok {
				return
			}
			if e.Kind == serialtest.Char && !e.Wrong {
				l.Send(e.Char)
			}
		}
	}))
	line = <-got
	all := make([]byte, 256)
	for i := range all {
		all[i] = byte(i)
	}
	for _, m := range []serial.Mode{
		{Baud: 9600, Frame: "8N1"}, {Baud: 9600, Frame: "8E2"}, {Baud: 9600, Frame: "8O1", Check: true},
		{Baud: 10753, Frame: "8E1", Check: true}, {Baud: 115200, Frame: "8N2"}, {Baud: 38400, Frame: "8N1", Check: true},
	} {
		if err := port.SetMode(t.Context(), m); err != nil {
			t.Fatalf("%v: %v", m, err)
		}
		now := line.HostMode()
		if off := now.Baud - m.Baud; now.Frame != m.Frame || max(off, -off)*100 > m.Baud {
			t.Errorf("%v: the adapter does %v", m, now)
		}
		line.SetMode(now)
		if err := port.Write(t.Context(), all); err != nil {
			t.Fatal(err)
		}
		back := make([]byte, 256)
		if n, err := serial.ReadFull(t.Context(), port, back, patience); err != nil || !bytes.Equal(back, all) {
			t.Errorf("%v: %d, %v: % X", m, n, err, back)
		}
	}
	if err := port.SetMode(t.Context(), serial.Mode{Baud: 9000000, Frame: "8N1"}); !errors.Is(err, reader.ErrUnsupported) {
		t.Errorf("a speed that it cannot do: %v", err)
	}
}

// "Check has Read tell characters with wrong parity from others. Without it they are taken
// as they are."
func TestFTDIParity(t *testing.T) {
	machine.NeedGuest(t)
	port, _ := openFTDI(t, serialtest.DeviceFunc(func(l *serialtest.Line) {
		l.SetMode(serial.Mode{Baud: 9600, Frame: serial.Frame8E1})
		for {
			if c, ok := l.Char(); !ok {
				return
			} else if c == 1 {
				l.Send(0xFF, 0x00, 0x11)
				l.SendWrong(0x22)
				l.Send(0x33)
				l.SendWrong(0xFF)
				l.SendWrong(0x00)
				l.Send(0xFF)
			}
		}
	}))
	want := []byte{0xFF, 0x00, 0x11, 0x22, 0x33, 0xFF, 0x00, 0xFF}
	for _, check := range []bool{false, true} {
		if err := port.SetMode(t.Context(), serial.Mode{Baud: 9600, Frame: serial.Frame8E1, Check: check}); err != nil {
			t.Fatal(err)
		}
		if err := port.Write(t.Context(), []byte{1}); err != nil {
			t.Fatal(err)
		}
		var got []byte
		var wrong []int
		for len(got) < len(want) {
			var buf [8]byte
			n, err := port.Read(t.Context(), buf[:], patience)
			got = append(got, buf[:n]...)
			if errors.Is(err, serial.ErrParity) {
				wrong = append(wrong, len(got)-1)
			} else if err != nil {
				t.Fatal(err)
			}
		}
		expect := "[]"
		if check {
			expect = "[3 5 6]"
		}
		if !bytes.Equal(got, want) || fmt.Sprint(wrong) != expect {
			t.Errorf("check %v: % X, wrong at %v; want % X, wrong at %s", check, got, wrong, want, expect)
		}
	}
}

// DTR and RTS reach the device, CTS, DSR, CD and RI the host; a break the device.
func TestFTDILines(t *testing.T) {
	machine.NeedGuest(t)
	events := make(chan serialtest.Event, 100)
	port, _ := openFTDI(t, heard(events, func(l *serialtest.Line, e serialtest.Event) {
		if e.Kind == serialtest.Char {
			all := serial.Lines(e.Char)
			l.SetLines(all, ^all)
			l.Send(e.Char)
		}
	}))
	e := next(t, events)
	for e.Lines&(serial.DTR|serial.RTS) != serial.DTR|serial.RTS { // open
		e = next(t, events)
	}
	for _, c := range []struct{ on, off, want serial.Lines }{
		{0, serial.RTS, serial.DTR}, {serial.RTS, serial.DTR, serial.RTS},
		{0, serial.RTS, 0}, {serial.DTR | serial.RTS, 0, serial.DTR | serial.RTS},
	} {
		if err := port.SetLines(t.Context(), c.on, c.off); err != nil {
			t.Fatal(err)
		}
		for e = next(t, events); e.Lines != c.want; e = next(t, events) {
			if e.Kind != serialtest.LinesChange {
				t.Fatalf("%+v", e)
			}
		}
	}
	for _, l := range []serial.Lines{serial.CTS, serial.DSR, serial.CD, serial.RI, serial.CTS | serial.CD, 0} {
		if err := port.Write(t.Context(), []byte{byte(l)}); err != nil {
			t.Fatal(err)
		}
		if _, err := serial.ReadFull(t.Context(), port, make([]byte, 1), patience); err != nil {
			t.Fatal(err)
		}
		if got, err := port.Lines(t.Context()); err != nil || got != l|serial.DTR|serial.RTS {
			t.Errorf("%v: %v, %v", l, got, err)
		}
		next(t, events)
	}
	if err := port.Break(t.Context(), 20*time.Millisecond); err != nil {
		t.Fatal(err)
	}
	if e := next(t, events); e.Kind != serialtest.Break {
		t.Errorf("%+v", e)
	}
}

// "Gone is closed as soon as the port has left, even while nothing is read." What comes
// back under the same name is another port.
func TestFTDIUnplug(t *testing.T) {
	machine.NeedGuest(t)
	for i := range 3 {
		port, unplug := openFTDI(t, echo)
		if err := port.Write(t.Context(), []byte{1}); err != nil {
			t.Fatal(err)
		}
		if _, err := serial.ReadFull(t.Context(), port, make([]byte, 1), patience); err != nil {
			t.Fatal(err)
		}
		failed := make(chan error, 1)
		if i == 1 {
			go func() {
				_, err := port.Read(context.Background(), make([]byte, 1), 0)
				failed <- err
			}()
		}
		began := time.Now()
		unplug()
		wait(t, port.Gone())
		t.Logf("gone after %v", time.Since(began))
		if i == 1 {
			if err := <-failed; !errors.Is(err, reader.ErrGone) {
				t.Errorf("read under way: %v", err)
			}
		}
		if err := port.Write(t.Context(), []byte{1}); !errors.Is(err, reader.ErrGone) {
			t.Errorf("write: %v", err)
		}
		if _, err := port.Lines(t.Context()); !errors.Is(err, reader.ErrGone) {
			t.Errorf("lines: %v", err)
		}
		if err := port.Drain(t.Context()); !errors.Is(err, reader.ErrGone) {
			t.Errorf("drain: %v", err)
		}
		port.Close()
		witness.NoTTY(t)
		if _, err := serial.OpenTTY(t.Context(), "/dev/ttyUSB0", mode, nil); !errors.Is(err, reader.ErrGone) {
			t.Errorf("open what is not there: %v", err)
		}
	}
}

// A reader that was attached by the name that udev gives its adapter keeps its number
// however often it is unplugged and plugged in.
func TestFTDIAttach(t *testing.T) {
	machine.NeedGuest(t)
	m := core.NewManager(core.Options{Drivers: []reader.Driver{echoDriver{}}, Poll: 5 * time.Millisecond})
	defer m.Close(t.Context())
	const name = "/dev/serial/by-id/usb-FTDI_USB__-__Serial_A7-if00-port0"
	dev, err := m.Prepare("echo", name, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := m.Announce(dev); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		await(t, m, core.StateStarting)
		a := witness.PlugAdapter(t, echo, "A7")
		slot := await(t, m, core.StateEmpty)
		if got, want := slot.Info().ByID, "serial-usb-FTDI_USB__-__Serial_A7-if00-port0-slot0"; got != want {
			t.Errorf("by-id name %s, want %s", got, want)
		}
		if got := slot.Info().More["port"]; !strings.HasPrefix(got, "/dev/ttyUSB") {
			t.Errorf("port %q", got)
		}
		a.Unplug()
	}
	await(t, m, core.StateStarting)
}
