package fs

import (
	"strings"
	"syscall"
	"testing"
	"testing/synctest"

	"github.com/cardfs/cardfs/fs/internal/fused"
)

// client is the open as a program has it; its commands are sent in the background.
func (a *apduFile) client(t *testing.T) *client {
	a.later = func(s fused.Sender) { go s.Send() }
	return &client{t: t, channel: a.channel}
}

// "The lines power WORD, protocol WORD and control HEX, written to apdu, are what that would be
// written to the file of that name by this open: its lock admits them."
func TestLinesForOtherFiles(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDesk(t, "pinpad")
		mine := d.mustOpen(as(1000, self), "apdu", syscall.O_RDWR).(*apduFile)
		other := d.mustOpen(as(1000, 1), "apdu", syscall.O_RDWR).(*apduFile)
		a, b := mine.client(t), other.client(t)
		// The server of sshfs opens each file in another process.
		power := d.mustOpen(as(1000, 1), "power", syscall.O_RDWR).(*textFile)
		a.mustWrite("errors\nlock\n")
		synctest.Wait()
		a.wantRead("ok\nok\n")
		if _, errno := power.Write(bg, []byte("reset"), 0); errno != syscall.EBUSY {
			t.Fatalf("another process: %v", errno)
		}
		for _, tt := range []struct{ write, want string }{
			{"control 42000D48\n", "06 04 42 33 00 06 07 04 42 33 00 07 0A 04 42 33 00 0A 12 04 42 33 00 12 13 04 42 33 00 13\n"},
			{"control 4233000A # the PIN pad's lines\n", "10 02 07 00\n"},
			{"control\t42 33 00 FF\n", "error EOPNOTSUPP control code 423300FF: "},
			{"power  cold \n00A4000C023F00\n", "ok\n90 00\n"},
			{"power reset\n", "ok\n"},
			{"protocol T=1 # as before\n", "ok\n"},
			{"protocol T=0\n", "error EOPNOTSUPP "},
			{"power eject\n", "error EOPNOTSUPP eject: "},
			{"power on", "ok\n"},
			{"00A4000C023F00\n", "90 00\n"},
		} {
			a.mustWrite(tt.write)
			synctest.Wait()
			if got, errno := a.read(1000); errno != 0 || !strings.HasPrefix(got, tt.want) || strings.Count(got, "\n") != strings.Count(tt.want, "\n") && strings.HasSuffix(tt.want, "\n") {
				t.Errorf("%q: %q, %v; want %q", tt.write, got, errno, tt.want)
			}
		}
		// "A reset that the holder asks for leaves the holder's own opens valid; all others say
		// ESTALE."
		b.mustWrite("00A4000C023F00\n")
		a.mustWrite("unlock\n")
		a.wantRead("ok\n")
		synctest.Wait()
		if _, errno := b.read(100); errno != syscall.ESTALE {
			t.Errorf("another open after the holder's reset: %v", errno)
		}
		// Without the lock it is as anybody's.
		a.mustWrite("power reset\n00A4000C023F00\n")
		synctest.Wait()
		a.wantRead("ok\n")
		if got, errno := a.read(100); errno != 0 || !strings.HasPrefix(got, "error ESTALE ") {
			t.Errorf("after a reset without the lock: %q, %v", got, errno)
		}
		for _, h := range []*apduFile{mine, other} {
			h.Release(bg)
		}
		synctest.Wait()
		d.wantEmpty()
		d.m.Close(bg)
	})
}

// "EINVAL, and nothing of that write sent": of these lines, too, in one piece and in many.
func TestBadLinesForOtherFiles(t *testing.T) {
	d := newDesk(t, "pinpad")
	for _, line := range []string{
		"power\n", "power nosuch\n", "powers\n", "power reset now\n", "protocol T=2\n", "protocol\n", "protocolT=1\n", "control\n", "control 42\n",
		"control 4200\n", "control x\n", "control 42000D4\n", "controls 42000D48\n", "power 00A40000\n", "cont", "co",
	} {
		for _, pieces := range []bool{false, true} {
			h := d.mustOpen(as(1000, self), "apdu", syscall.O_RDWR).(*apduFile)
			c := h.client(t)
			errno := syscall.Errno(0)
			if pieces {
				for i := 0; i < len(line) && errno == 0; i++ {
					errno = c.write(line[i : i+1])
				}
			} else {
				errno = c.write(line)
			}
			if errno == 0 && !strings.HasSuffix(line, "\n") {
				_, errno = c.read(100)
			}
			if errno != syscall.EINVAL {
				t.Errorf("%q, in pieces %v: %v", line, pieces, errno)
			}
			c.wantRead("")
			h.Release(bg)
		}
	}
	// They are lines of apdu alone.
	control := d.mustOpen(as(1000, self), "control", syscall.O_RDWR).(*controlFile)
	if errno := (&client{t: t, channel: control.channel}).write("power reset\n"); errno != syscall.EINVAL {
		t.Errorf("power reset, to control: %v", errno)
	}
}
