package serialtest

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/cardfs/cardfs/drivers/bus/serial"
)

// Replay is the host of a session, for an emulated device: it does what the session's host
// did, and fails the test where the device does otherwise. events are what the session's
// events do.
func Replay(t T, s Session, plugged *Plugged, events map[string]func()) {
	t.Helper()
	h := host{t: t, plugged: plugged}
	defer func() {
		if h.port != nil {
			h.port.Close()
		}
	}()
	for i := range s {
		if err := h.do(&s[i], events); err != nil {
			t.Errorf("line %d: %v\n%v", s[i].number, &s[i], err)
			return
		}
	}
	if err := h.quiet(); err != nil {
		t.Errorf("behind the session: %v", err)
	}
}

// replayTime is how long Replay waits for bytes that have no time of their own.
const replayTime = 30 * time.Second

// host does what the host of a session did.
type host struct {
	t       T
	plugged *Plugged
	port    serial.Port
}

func (h *host) do(e *Entry, events map[string]func()) (err error) {
	ctx := context.Background()
	switch e.Kind {
	case Wait:
		time.Sleep(e.Time)
		return nil
	case Happens:
		f := events[e.Name]
		if f == nil {
			return fmt.Errorf("nothing does %q", e.Name)
		}
		f()
		return nil
	case Step:
		return nil
	case Unplug:
		h.plugged.Unplug()
		return nil
	}
	if h.port == nil {
		m := serial.Mode{Baud: 9600, Frame: serial.Frame8N1}
		if e.Kind == SetMode {
			m = e.Mode
		}
		m.Check = true
		if h.port, err = h.plugged.OpenSerial(ctx, m); err != nil {
			return err
		}
	}
	switch e.Kind {
	case Out:
		if err := h.quiet(); err != nil {
			return err
		}
		return h.port.Write(ctx, e.Data)
	case In:
		return h.read(ctx, e)
	case SetMode:
		m := e.Mode
		m.Check = true
		return h.port.SetMode(ctx, m)
	case HostLines:
		return h.port.SetLines(ctx, e.Lines, hostHas&^e.Lines)
	case DeviceLines:
		return h.lines(e.Lines)
	case SendBreak:
		return h.port.Break(ctx, e.Time)
	}
	return h.port.Flush()
}

// quiet returns an error if the device has sent more than was read.
func (h *host) quiet() error {
	l := h.plugged.line
	l.mu.Lock()
	defer l.mu.Unlock()
	if n := len(l.toHost); n > 0 {
		return fmt.Errorf("the device has sent %d bytes more", n)
	}
	return nil
}

func (h *host) read(ctx context.Context, e *Entry) error {
	wait := replayTime + e.Held
	if e.Timeout > 0 {
		wait = e.Timeout
	}
	got := Entry{Kind: In, Late: e.Late}
	var c [1]byte
	for i := range max(1, len(e.Data)) {
		_, err := h.port.Read(ctx, c[:], wait)
		wrong := errors.Is(err, serial.ErrParity)
		switch {
		case e.Late && err != nil && !wrong:
			return nil
		case e.Late:
			return fmt.Errorf("it sent %02X", c[0])
		case err != nil && !wrong:
			return fmt.Errorf("%v: %w", &got, err)
		}
		got.Data, got.Wrong = append(got.Data, c[0]), append(got.Wrong, wrong)
		if c[0] != e.Data[i] && !e.any(i) || wrong != e.wrong(i) {
			return fmt.Errorf("it sent %v", &got)
		}
		wait = replayTime
	}
	return nil
}

// lines waits until the device's lines are as they have to be.
func (h *host) lines(want serial.Lines) error {
	ctx, cancel := context.WithTimeout(context.Background(), replayTime)
	defer cancel()
	got := h.plugged.line.Lines()
	for got&deviceHas != want {
		var ok bool
		if got, ok = h.plugged.line.AwaitLines(ctx, got); !ok {
			return fmt.Errorf("they are %s", orNone(got&deviceHas))
		}
	}
	return nil
}
