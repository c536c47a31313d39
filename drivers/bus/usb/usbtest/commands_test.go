package usbtest

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

// "They do not see transfers": a command comes in as many as the host makes of it. Commands
// are carried out one after the other, and an answer that was under way when the power went
// is not sent.
func TestCommands(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var ran []string
		c := &Commands{
			In: 0x81, Length: func(p []byte) int {
				if p[0] == 0xFF {
					return -1
				}
				return int(p[0])
			},
			Answer: func(ctx context.Context, p []byte) []byte {
				ran = append(ran, fmt.Sprintf("% X", p))
				if p[1] == 0xEE {
					<-ctx.Done()
					return []byte{0xEE}
				}
				if p[1] == 0x00 {
					return nil
				}
				return p[1:2]
			},
		}
		c.Device = New(Model{
			Descriptors: slices.Concat([]byte{18, 1, 0, 1, 0xFF, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1},
				[]byte{9, 2, 32, 0, 1, 1, 0, 0x80, 50, 9, 4, 0, 0, 2, 0xFF, 0, 0, 0, 7, 5, 0x81, 2, 8, 0, 0, 7, 5, 0x02, 2, 8, 0, 0}),
			Out: c.Out, Reset: c.Lost, Unplugged: c.Lost,
		})
		port := c.Device.Plug()
		defer port.Unplug()
		out := func(p ...byte) {
			t.Helper()
			if _, err := port.Out(t.Context(), 0x02, p, false, time.Second); err != nil {
				t.Fatal(err)
			}
		}
		in := func(want byte) {
			t.Helper()
			buf := make([]byte, 8)
			n, err := port.In(t.Context(), 0x81, buf, time.Second)
			if want == 0 && err == nil || want != 0 && (err != nil || n != 1 || buf[0] != want) {
				t.Errorf("% X, %v; want %02X", buf[:n], err, want)
			}
		}
		out(3)
		out(0xA1)
		out()
		out(0x00)
		in(0xA1)
		out(2, 0xA2, 0, 0, 0) // filled up
		out(0xFF, 1, 2)
		out(2, 0xA3)
		in(0xA2)
		in(0xA3)
		out(2, 0x00)
		in(0)
		out(2, 0xEE)
		out(2, 0xA4) // waits for it
		synctest.Wait()
		port.Reset()
		out(3, 0xA5, 0)
		in(0xA5)
		in(0)
		if want := []string{"03 A1 00", "02 A2", "02 A3", "02 00", "02 EE", "03 A5 00"}; !slices.Equal(ran, want) {
			t.Errorf("%q, want %q", ran, want)
		}
	})
}
