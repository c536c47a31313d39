package serialtest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cardfs/cardfs/drivers/bus/serial"
	"github.com/cardfs/cardfs/reader"
)

// taken is what a device noticed, in short: 41 a character, 41! a wrong one, b a break.
type taken struct {
	l   *Line
	got []string
}

func (d *taken) Serve(l *Line) {
	d.l, d.got = l, nil
	for {
		e, ok := l.Next()
		if !ok {
			return
		}
		switch e.Kind {
		case Break:
			d.got = append(d.got, "b")
		case LinesChange:
			d.got = append(d.got, "("+e.Lines.String()+")")
		case Char:
			s := fmt.Sprintf("%02X", e.Char)
			if e.Wrong {
				s += "!"
			}
			d.got = append(d.got, s)
		}
	}
}

// line has f use a line to a device that only listens.
func line(t *testing.T, f func(t *testing.T, d *taken, plugged *Plugged, port serial.Port)) {
	synctest.Test(t, func(t *testing.T) {
		var d taken
		plugged := Plug(&d)
		synctest.Wait()
		port, err := plugged.OpenSerial(t.Context(), serial.Mode{Baud: 9600, Frame: serial.Frame8N1, Check: true})
		if err != nil {
			t.Fatal(err)
		}
		f(t, &d, plugged, port)
		port.Close()
		plugged.Unplug()
	})
}

func (d *taken) want(t *testing.T, what, want string) {
	t.Helper()
	synctest.Wait()
	if got := fmt.Sprint(d.got); got != "["+want+"]" {
		t.Errorf("%s: the device noticed %s, want [%s]", what, got, want)
	}
	d.got = nil
}

// "The parity bit of 3B and of raw 03 is 1 and passes for the stop bit": a character that
// does not fit the receiver's frame is wrong only where its bits are.
func TestModesThatDoNotFit(t *testing.T) {
	for _, c := range []struct {
		host, device string
		want         string // of 3B 03 00 FF
	}{
		{"9600 8N1", "9600 8N1", "3B 03 00 FF"},
		{"9600 8E2", "9600 8E1", "3B 03 00 FF"},
		{"9600 8N1", "9600 8N2", "3B 03 00 FF"},
		{"9600 8E1", "9600 8O1", "3B! 03! 00! FF!"},
		{"9600 8E1", "9600 8N1", "3B 03! 00! FF!"}, // 3B has five bits, 03 two
		{"9600 8O1", "9600 8N1", "3B! 03 00 FF"},
		{"9600 8N1", "9600 8E1", "3B 03! 00! FF!"},
		{"9600 8M1", "9600 8N1", "3B 03 00 FF"},
		{"9600 8S1", "9600 8N1", "3B! 03! 00! FF!"},
		{"9600 8N1", "9700 8N1", "3B 03 00 FF"},
		{"9600 8N1", "10700 8N1", "79! 65! A5! 5A!"},
		{"9600 8N1", "115200 8N1", "79! 65! A5! 5A!"},
		{"9600 8N1", "9600 7E1", "BB! 83! 80! 7F!"},
	} {
		line(t, func(t *testing.T, d *taken, plugged *Plugged, port serial.Port) {
			host, _ := serial.ParseMode(c.host)
			device, _ := serial.ParseMode(c.device)
			host.Check = true
			d.l.SetMode(device)
			if err := port.SetMode(t.Context(), host); err != nil {
				t.Fatal(err)
			}
			d.want(t, c.host, "(DTR RTS)")
			port.Write(t.Context(), []byte{0x3B, 0x03, 0x00, 0xFF})
			d.want(t, c.host+" to "+c.device, c.want)
			// The other way it is the same, with the modes exchanged.
			port.SetMode(t.Context(), serial.Mode{Baud: device.Baud, Frame: device.Frame, Check: true})
			d.l.SetMode(host)
			d.l.Send(0x3B, 0x03, 0x00, 0xFF)
			var got []string
			for range 4 {
				var p [1]byte
				_, err := port.Read(t.Context(), p[:], time.Second)
				s := fmt.Sprintf("%02X", p[0])
				if errors.Is(err, serial.ErrParity) {
					s += "!"
				} else if err != nil {
					t.Fatal(err)
				}
				got = append(got, s)
			}
			if fmt.Sprint(got) != "["+c.want+"]" {
				t.Errorf("%s from %s: the host got %s, want [%s]", c.device, c.host, got, c.want)
			}
		})
	}
}

// Every fault happens to the character that it names, once, in its direction.
func TestFaults(t *testing.T) {
	want := map[FaultKind]string{
		Lose: "01 03 04", Double: "01 02 02 03 04", Change: "01 52 03 04", Parity: "01 02! 03 04",
		Noise: "01 FE 02 03 04", Silence: "01", HangUp: "01",
	}
	if n := len(Menu(true, 0)); n != len(want) {
		t.Errorf("%d faults in the menu, want %d", n, len(want))
	}
	for _, f := range append(Menu(false, 1), Menu(true, 1)...) {
		name := fmt.Sprintf("%v, to the host %v", f.Kind, f.ToHost)
		synctest.Test(t, func(t *testing.T) {
			var d taken
			plugged := Plug(&d)
			port, err := plugged.OpenSerial(t.Context(), serial.Mode{Baud: 9600, Frame: serial.Frame8N1, Check: true})
			if err != nil {
				t.Fatal(err)
			}
			d.want(t, name, "(DTR RTS)")
			plugged.Inject(f)
			var got []string
			if f.ToHost {
				for c := range byte(4) {
					d.l.Send(c + 1)
				}
				for {
					var p [1]byte
					n, err := port.Read(t.Context(), p[:], time.Second)
					if n == 0 {
						if gone := errors.Is(err, reader.ErrGone); gone != (f.Kind == HangUp) {
							t.Errorf("%s: %v", name, err)
						}
						break
					}
					s := fmt.Sprintf("%02X", p[0])
					if errors.Is(err, serial.ErrParity) {
						s += "!"
					}
					got = append(got, s)
				}
				if f.Kind == HangUp {
					got = []string{"01"} // what had come is lost with the port
				}
			} else {
				err := port.Write(t.Context(), []byte{1, 2, 3, 4})
				if gone := errors.Is(err, reader.ErrGone); gone != (f.Kind == HangUp) {
					t.Errorf("%s: %v", name, err)
				}
				synctest.Wait()
				if got = d.got; f.Kind == HangUp {
					got = []string{"01"}
				}
			}
			if fmt.Sprint(got) != "["+want[f.Kind]+"]" {
				t.Errorf("%s: %v, want %s", name, got, want[f.Kind])
			}
			if to, from := plugged.Sent(); f.Kind < Silence && to+from != 4 {
				t.Errorf("%s: %d and %d characters counted", name, to, from)
			}
			port.Close()
			plugged.Unplug()
		})
	}
}

// A device notices breaks and modem lines in their order among characters, and sees the
// lines that the host drives; the host sees the device's.
func TestEvents(t *testing.T) {
	line(t, func(t *testing.T, d *taken, plugged *Plugged, port serial.Port) {
		ctx := t.Context()
		port.Write(ctx, []byte{1})
		port.SetLines(ctx, 0, serial.RTS)
		port.SetLines(ctx, 0, serial.RTS) // no change
		port.Write(ctx, []byte{2})
		if err := port.Break(ctx, time.Second); err != nil {
			t.Error(err)
		}
		port.SetLines(ctx, serial.RTS, serial.DTR)
		d.want(t, "events", "(DTR RTS) 01 (DTR) 02 b (RTS)")
		for _, x := range []struct{ on, off serial.Lines }{{serial.CTS, 0}, {serial.DTR, serial.DTR}, {0, serial.CD}} {
			if err := port.SetLines(ctx, x.on, x.off); !errors.Is(err, reader.ErrInvalid) {
				t.Errorf("switch %v on, %v off: %v", x.on, x.off, err)
			}
		}
		d.l.SetLines(serial.CTS|serial.CD|serial.DTR, 0) // DTR is not the device's
		if l, err := port.Lines(ctx); l != serial.RTS|serial.CTS|serial.CD || err != nil {
			t.Errorf("%v, %v", l, err)
		}
		d.l.SetLines(0, serial.CTS|serial.RTS)
		if l := d.l.Lines(); l != serial.RTS|serial.CD {
			t.Errorf("%v", l)
		}
		port.Close()
		d.want(t, "close", "(CD)")
		if _, err := port.Lines(ctx); !errors.Is(err, reader.ErrGone) {
			t.Errorf("lines after Close: %v", err)
		}
	})
}

// One port is open at a time. The next finds nothing to read. A device keeps its state
// from one plug to the next, and a line ends with its plug.
func TestOpenings(t *testing.T) {
	line(t, func(t *testing.T, d *taken, plugged *Plugged, port serial.Port) {
		if _, err := plugged.OpenSerial(t.Context(), mode9600); !errors.Is(err, reader.ErrClaimed) {
			t.Errorf("opened twice: %v", err)
		}
		if _, err := plugged.OpenSerial(t.Context(), serial.Mode{}); !errors.Is(err, reader.ErrInvalid) {
			t.Errorf("no mode: %v", err)
		}
		d.l.Send(1, 2)
		port.Close()
		again, err := plugged.OpenSerial(t.Context(), mode9600)
		if err != nil {
			t.Fatal(err)
		}
		if n, err := again.Read(t.Context(), make([]byte, 1), time.Second); n != 0 || !errors.Is(err, serial.ErrTimeout) {
			t.Errorf("stale: %d, %v", n, err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := again.Break(ctx, time.Second); !errors.Is(err, context.Canceled) {
			t.Errorf("break: %v", err)
		}
		plugged.Unplug()
		<-again.Gone()
		<-plugged.Gone()
		again.Close()
		d.l.Send(3)
		if _, err := plugged.OpenSerial(t.Context(), mode9600); !errors.Is(err, reader.ErrGone) {
			t.Errorf("open what has left: %v", err)
		}
	})
}

var mode9600 = serial.Mode{Baud: 9600, Frame: serial.Frame8N1}

// A device may wait for a time, read several characters, and lose its power by itself.
func TestDevice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var late Event
		var got [3]byte
		plugged := Plug(DeviceFunc(func(l *Line) {
			late, _ = l.NextWithin(time.Second)
			if l.Read(got[:]) {
				l.Drop()
			}
			if _, ok := l.Next(); ok || l.Read(got[:]) {
				t.Error("a device without power notices something")
			}
		}))
		time.Sleep(time.Second)
		port, err := plugged.OpenSerial(t.Context(), mode9600)
		if err != nil {
			t.Fatal(err)
		}
		port.Write(t.Context(), []byte{1})
		port.SetLines(t.Context(), 0, serial.DTR)
		port.Write(t.Context(), []byte{2, 3})
		<-port.Gone()
		if late.Kind != Timeout || !bytes.Equal(got[:], []byte{1, 2, 3}) {
			t.Errorf("%+v, % X", late, got)
		}
		port.Close()
		plugged.Unplug()
	})
}
