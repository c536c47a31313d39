package ftdi

import (
	"bytes"
	"errors"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/cardfs/cardfs/drivers/bus/serial"
	"github.com/cardfs/cardfs/drivers/bus/serial/serialtest"
	"github.com/cardfs/cardfs/drivers/bus/usb"
	"github.com/cardfs/cardfs/reader"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// The divisors are those that Linux's ftdi_232bm_baud_to_divisor makes; 4138 for 9600 was
// seen on a bus.
func TestBaud(t *testing.T) {
	for _, c := range []struct {
		value, index uint16
		want         int
	}{
		{0x4138, 0, 9600}, {0x809C, 0, 19200}, {0xC04E, 0, 38400}, {0x0034, 0, 57600}, {0x001A, 0, 115200},
		{0x000D, 0, 230400}, {0x4006, 0, 460800}, {0x8003, 0, 921600}, {0, 0, 3000000}, {1, 0, 2000000},
		{0x0271, 0, 4800}, {0x4E2, 0, 2400}, {0x0116, 1, 10776}, {0x0117, 0, 10752}, {0, 1, 8000000},
	} {
		if got := baud(c.value, c.index); got != c.want {
			t.Errorf("%04X %04X: %d, want %d", c.value, c.index, got, c.want)
		}
	}
}

func TestFrame(t *testing.T) {
	for value, want := range map[uint16]serial.Frame{
		0x0008: "8N1", 0x0108: "8O1", 0x0208: "8E1", 0x1208: "8E2", 0x1008: "8N2", 0x0207: "7E1", 0x0308: "8M1", 0x0408: "8S1", 0x4008: "8N1",
	} {
		if got := frame(value); got != want {
			t.Errorf("%04X: %s, want %s", value, got, want)
		}
	}
}

// The adapter does what its requests say, and each packet begins with two status bytes.
func TestAdapter(t *testing.T) {
	events := make(chan serialtest.Event, 20)
	var line *serialtest.Line
	started := make(chan struct{})
	port := Plug(serialtest.DeviceFunc(func(l *serialtest.Line) {
		line = l
		close(started)
		for {
			e, ok := l.Next()
			if !ok {
				close(events)
				return
			}
			events <- e
		}
	}), "S1")
	<-started
	const patience = time.Minute
	c, err := port.OpenUSB(t.Context(), 0)
	if err != nil {
		t.Fatal(err)
	}
	request := func(n uint8, value, index uint16) {
		t.Helper()
		if _, err := c.Control(t.Context(), usb.Setup{RequestType: 0x40, Request: n, Value: value, Index: index}, nil, patience); err != nil {
			t.Errorf("request %d: %v", n, err)
		}
	}
	event := func(want serialtest.Event) {
		t.Helper()
		select {
		case e := <-events:
			if e != want {
				t.Errorf("the device noticed %+v, want %+v", e, want)
			}
		case <-time.After(patience):
			t.Fatal("the device notices nothing")
		}
	}
	in := func(want ...byte) {
		t.Helper()
		p := make([]byte, packet)
		n, err := c.In(t.Context(), 0x81, p, patience)
		if err != nil || !bytes.Equal(p[:n], want) {
			t.Errorf("in: % X, %v; want % X", p[:n], err, want)
		}
	}
	request(0, 0, 0)
	request(3, 0xC04E, 0)
	request(4, 0x1208, 0)
	if m := line.HostMode(); m.Baud != 38400 || m.Frame != "8E2" {
		t.Errorf("mode %v", m)
	}
	line.SetMode(line.HostMode())
	request(1, 0x0303, 0)
	event(serialtest.Event{Kind: serialtest.LinesChange, Lines: serial.DTR | serial.RTS})
	request(1, 0x0200, 0) // the mask has RTS alone
	event(serialtest.Event{Kind: serialtest.LinesChange, Lines: serial.DTR})
	if _, err := c.Out(t.Context(), 0x02, []byte{0x41}, false, patience); err != nil {
		t.Fatal(err)
	}
	event(serialtest.Event{Kind: serialtest.Char, Char: 0x41, Lines: serial.DTR})
	request(4, 0x5208, 0)
	event(serialtest.Event{Kind: serialtest.Break, Lines: serial.DTR})
	request(4, 0x1208, 0)

	line.SetLines(serial.CTS|serial.CD, 0)
	in(0x91, 0x60)
	line.Send(1, 2)
	in(0x91, 0x60, 1, 2)
	line.SendWrong(3)
	in(0x91, 0x64, 3)
	line.SetMode(serial.Mode{Baud: 38400, Frame: "8N1"}) // no parity: 3B has the bit, 03 not
	line.Send(0x3B, 0x03, 0x3B)
	in(0x91, 0x60, 0x3B)
	in(0x91, 0x64, 0x03)
	in(0x91, 0x60, 0x3B)
	line.SetMode(line.HostMode())
	line.SetLines(serial.DSR|serial.RI, serial.CTS|serial.CD)
	in(0x61, 0x60)
	status := make([]byte, 2)
	if n, err := c.Control(t.Context(), usb.Setup{RequestType: 0xC0, Request: 5}, status, patience); n != 2 || err != nil || !bytes.Equal(status, []byte{0x61, 0x60}) {
		t.Errorf("status % X, %v", status, err)
	}
	request(9, 3, 0)
	if _, err := c.Control(t.Context(), usb.Setup{RequestType: 0xC0, Request: 10}, status[:1], patience); err != nil || status[0] != 3 {
		t.Errorf("latency %d, %v", status[0], err)
	}
	line.Send(bytes.Repeat([]byte{7}, 100)...)
	in(append([]byte{0x61, 0x60}, bytes.Repeat([]byte{7}, 62)...)...)
	in(append([]byte{0x61, 0x60}, bytes.Repeat([]byte{7}, 38)...)...)
	for _, s := range []usb.Setup{{RequestType: 0xC0, Request: 0x90}, {RequestType: 0x40, Request: 8}} {
		if _, err := c.Control(t.Context(), s, make([]byte, s.RequestType>>7*2), patience); !errors.Is(err, usb.ErrStall) {
			t.Errorf("request %02X: %v", s.Request, err)
		}
	}
	line.Drop() // the device's power is the adapter's
	if _, err := c.In(t.Context(), 0x81, make([]byte, 64), patience); !errors.Is(err, reader.ErrGone) {
		t.Errorf("in: %v", err)
	}
	<-port.Gone()
	c.Close()
	port.Unplug()
	for range events { // ends with the device
	}
}
