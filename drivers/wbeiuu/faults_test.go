package wbeiuu

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cardfs/cardfs/drivers/bus/usb"
	"github.com/cardfs/cardfs/drivers/bus/usb/faulttest"
	"github.com/cardfs/cardfs/drivers/bus/usb/usbtest"
	"github.com/cardfs/cardfs/drivers/wbeiuu/emu"
	"github.com/cardfs/cardfs/reader"
	"github.com/cardfs/cardfs/reader/icc"
	"github.com/cardfs/cardfs/reader/readertest"
)

// Each transfer may fail in each way, those of an attachment as well.
func TestFaults(t *testing.T) {
	for _, c := range []card{readertest.Plain, readertest.Block} {
		faulttest.Session{
			Driver: Driver{}, New: func() faulttest.Device { return emu.New("") }, Card: func() icc.Card { return c },
			Commands: [][2]string{{"00 A4 00 00 02 3F 00", "90 00"}, {"00 84 00 00 08", "11 12 13 14 15 16 17 18 90 00"}},
			Opening:  true, Transfers: 30, Limit: 60 * time.Second,
			// Nothing tells that the state register is wrong, or data of T=0.
			Unseen: func(_ usbtest.Line, f usbtest.Fault) bool { return f.Kind == usbtest.Garbage },
		}.Run(t)
	}
}

// What was wrong with one status does not cost the card its session.
func TestStatusFails(t *testing.T) {
	for _, f := range usbtest.Menu() {
		for skip := range 2 {
			if f.Kind == usbtest.Unplugged || f.Kind == usbtest.Dead || f.Kind == usbtest.Garbage {
				continue
			}
			synctest.Test(t, func(t *testing.T) {
				e, s, l := plug(t, readertest.Plain)
				powerUp(t, l, -1)
				f.Skip = skip
				e.Inject(f)
				s.Status(t.Context())
				e.Heal()
				if st, err := s.Status(t.Context()); st != reader.Powered || err != nil {
					t.Errorf("%v: status %v, %v", f, st, err)
				}
				transmit(t, l, challenge, response)
			})
		}
	}
}

// The port was reset, as by the system's sleep: the device has forgotten everything, and the
// driver begins anew, at the latest after two transfers that failed.
func TestPortReset(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newReader(t, readertest.Plain)
		port := e.Plug()
		defer e.Unplug()
		_, s := open(t, port)
		l := newLink(s)
		powerUp(t, l, -1)
		port.Reset()
		var st reader.Status
		var err error
		for range 3 {
			st, err = s.Status(t.Context())
		}
		if st != reader.Present || err != nil {
			t.Errorf("status %v, %v", st, err)
		}
		if _, err := s.Exchange(t.Context(), reader.Transfer{Out: challenge, Want: 1, Wait: time.Second}, nil); !errors.Is(err, reader.ErrStale) {
			t.Error(err)
		}
		powerUp(t, l, -1)
		transmit(t, l, challenge, response)
		// During an exchange.
		e.Contact.SetFaults(icc.Faults{Mute: true})
		time.AfterFunc(time.Second, port.Reset)
		_, err = s.Exchange(t.Context(), reader.Transfer{Out: challenge, Want: 1, Wait: time.Minute}, nil)
		if !errors.Is(err, reader.ErrProtocol) && !errors.Is(err, reader.ErrTimeout) {
			t.Error(err)
		}
		e.Contact.SetFaults(icc.Faults{})
		powerUp(t, l, -1)
		transmit(t, l, challenge, response)
	})
}

// A program that ended without a word may have left the UART on, characters in the reader and
// an answer in the endpoint. One after the other can attach all the same.
func TestLeftBehind(t *testing.T) {
	for i := range 6 {
		synctest.Test(t, func(t *testing.T) {
			e := newReader(t, readertest.Plain)
			port := e.Plug()
			defer e.Unplug()
			for range 4 {
				conn, err := port.OpenUSB(t.Context(), 0)
				if err != nil {
					t.Fatal(err)
				}
				r, err := Driver{}.Open(t.Context(), reader.Device{Driver: "wbeiuu", Address: "usb:1-2", Link: lent{port, conn}})
				if err != nil {
					t.Fatal(err)
				}
				l := newLink(r.Slots()[0])
				powerUp(t, l, -1)
				transmit(t, l, challenge, response)
				e.Stray(unhex("3B 02 60 90 00")...)
				for _, cmd := range []string{"03", "56", "52", "01 02 50", "56 03 56"}[:i%6] {
					if _, err := conn.Out(t.Context(), 0x02, unhex(cmd), false, time.Second); err != nil {
						t.Fatal(err)
					}
				}
				synctest.Wait()
				conn.Close() // without the driver's Close
			}
		})
	}
}

// lent is a link whose claim is another's.
type lent struct {
	*usbtest.Port
	conn usb.Conn
}

func (l lent) OpenUSB(context.Context, uint8) (usb.Conn, error) { return l.conn, nil }

// A device that hangs at the attachment is reset once.
func TestHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newReader(t, readertest.Plain)
		e.Die(false)
		_, s := open(t, e.Plug())
		powerUp(t, newLink(s), -1)
	})
	synctest.Test(t, func(t *testing.T) {
		e := newReader(t, readertest.Plain)
		e.Die(true)
		resets := 0
		e.Observe(func(l usbtest.Line) {
			if l.Kind == usbtest.Reset {
				resets++
			}
		})
		start := time.Now()
		_, err := Driver{}.Open(t.Context(), device(e.Plug()))
		if !errors.Is(err, reader.ErrTimeout) || resets != 1 || time.Since(start) > 5*time.Second {
			t.Errorf("%v, %d resets, after %v", err, resets, time.Since(start))
		}
	})
}

// Close switches UART and LED off, and does not wait for a device that hangs.
func TestClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, _, _ := plug(t, readertest.Plain)
		e.Unplug()
		r, s := open(t, e.Plug())
		powerUp(t, newLink(s), -1)
		var sent []string
		e.Observe(func(l usbtest.Line) { sent = append(sent, l.String()) })
		r.Close()
		r.Close()
		if got := strings.Join(sent, "; "); got != "OUT 02 1s | 4A; OUT 02 1s | 04 00 00 00 00 00 00 FF; release 0" {
			t.Error(got)
		}
		for _, c := range []func() error{
			func() error { _, err := s.Status(t.Context()); return err },
			func() error { _, err := s.PowerOn(t.Context(), reader.Cold); return err },
			func() error { return s.PowerOff(t.Context()) },
			func() error {
				_, err := s.Exchange(t.Context(), reader.Transfer{Out: challenge, Want: 1}, nil)
				return err
			},
		} {
			if err := c(); !errors.Is(err, reader.ErrGone) {
				t.Errorf("after Close: %v", err)
			}
		}
	})
	synctest.Test(t, func(t *testing.T) {
		e, _, _ := plug(t, readertest.Plain)
		r, _ := open(t, e.Plug())
		e.Hold(0x02, true)
		start := time.Now()
		if r.Close(); time.Since(start) > time.Second {
			t.Errorf("it took %v", time.Since(start))
		}
	})
}

// An answer that comes too late is not taken for that of the next command, whoever gave up.
func TestLateAnswer(t *testing.T) {
	for name, end := range map[string]error{"time": reader.ErrTimeout, "context": context.DeadlineExceeded} {
		synctest.Test(t, func(t *testing.T) {
			e, s, l := plug(t, readertest.Quick)
			powerUp(t, l, -1)
			e.Contact.SetFaults(icc.Faults{Slow: 1500 * time.Millisecond})
			ctx, wait := t.Context(), time.Second
			if end == context.DeadlineExceeded {
				some, cancel := context.WithTimeout(ctx, time.Second)
				defer cancel()
				ctx, wait = some, time.Minute
			}
			start := time.Now()
			_, err := s.Exchange(ctx, reader.Transfer{Out: unhex("00 00 05 00 84 00 00 08 89"), Want: 3, Wait: wait}, nil)
			if took := time.Since(start); !errors.Is(err, end) || took < time.Second || took > 1200*time.Millisecond {
				t.Fatalf("%s: %v after %v", name, err, took)
			}
			time.Sleep(2 * time.Second)
			e.Contact.SetFaults(icc.Faults{})
			rx, err := s.Exchange(t.Context(), reader.Transfer{Out: unhex("00 C1 01 FE 3E"), Want: 5, Wait: time.Second, CharWait: time.Second}, nil)
			if err != nil || !bytes.Equal(rx, unhex("00 E1 01 FE 1E")) {
				t.Errorf("%s: % X, %v", name, rx, err)
			}
		})
	}
	// Characters that nobody asked for.
	synctest.Test(t, func(t *testing.T) {
		e, _, l := plug(t, readertest.Plain)
		e.Stray(unhex("3B 02 AA BB")...)
		powerUp(t, l, -1)
		e.Stray(0, 0)
		transmit(t, l, challenge, response)
	})
	// The reader is late: the answer to a query comes when that was given up.
	synctest.Test(t, func(t *testing.T) {
		e, s, l := plug(t, readertest.Plain)
		powerUp(t, l, -1)
		e.Hold(0x82, true)
		if _, err := s.Status(t.Context()); !errors.Is(err, reader.ErrTimeout) {
			t.Error(err)
		}
		e.Hold(0x82, false)
		if st, err := s.Status(t.Context()); st != reader.Powered || err != nil {
			t.Errorf("%v, %v", st, err)
		}
		transmit(t, l, challenge, response)
	})
}
