package fs

import (
	"context"
	"syscall"
	"testing"
	"testing/synctest"

	"github.com/cardfs/cardfs/drivers/sim"
	"github.com/cardfs/cardfs/fs/internal/fused"
	"github.com/cardfs/cardfs/reader"
	"github.com/cardfs/cardfs/reader/core"
)

// openTerminal opens the ctbcs file of a simulated reader.
func openTerminal(t *testing.T, flags uint32) (*ctbcsFile, *client, *core.Slot) {
	t.Helper()
	c, text, m := openTerminalOf(t, flags)
	return c, text, m.Slot(0)
}

func openTerminalOf(t *testing.T, flags uint32) (*ctbcsFile, *client, *core.Manager) {
	t.Helper()
	m := core.NewManager(core.Options{Drivers: []reader.Driver{sim.New()}})
	t.Cleanup(func() { m.Close(context.Background()) })
	if err := Ctl(m, "attach sim t1"); err != nil {
		t.Fatal(err)
	}
	synctest.Wait()
	f := &file{mount: &mount{server: &fused.Server{}}, slot: m.Slot(0)}
	h, err := openCTBCS(bg, f, flags)
	if err != nil {
		t.Fatal(err)
	}
	c := h.(*ctbcsFile)
	c.later = func(c fused.Sender) { go c.Send() }
	return c, &client{t: t, channel: c.channel}, m
}

// "From now on this open of ctbcs carries dad, sad, then the command; dad, sad, then
// the answer", by read and write and by CARDFS_EXCHANGE.
func TestCTAPIMode(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, text, slot := openTerminal(t, rdwr)
		text.mustWrite("20 13 00 80 00\n")
		text.wantRead("80 01 03 90 00\n")
		if errno := text.write("20 13 00\n"); errno != syscall.EINVAL {
			t.Errorf("a text that is no CT-BCS command: %v", errno)
		}
		if _, errno := c.Ioctl(bg, fused.IoctlCTAPI, 0, nil, nil); errno != 0 {
			t.Fatal(errno)
		}
		text.mustWrite("\x00\x05\x00\xA4\x00\x0C\x02\x3F\x00")
		text.wantRead("\x05\x00\x90\x00")
		in, out := ioctlBuffers("01 02 20 13 00 80 00", 64)
		if n, errno := c.Ioctl(bg, exchangeRequest(64), 0, in, out); n != 7 || errno != 0 || string(out[4:11]) != "\x02\x01\x80\x01\x05\x90\x00" {
			t.Errorf("%d, %v, % X", n, errno, out)
		}
		for _, bad := range []string{"\x01", "\x01\x02\x20", "\x01\x02\x20\x13\x00"} {
			if errno := text.write(bad); errno != syscall.EINVAL {
				t.Errorf("% X: %v", bad, errno)
			}
		}
		if n := slot.Info().Sessions; n != 1 {
			t.Errorf("%d sessions", n)
		}
		c.Release(bg)
		if i := slot.Info(); i.Sessions != 0 || i.State != "powered" {
			t.Errorf("after the close: %d sessions, %s", i.Sessions, i.State)
		}
	})
}

func TestCTAPIModeRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, flags := range []uint32{syscall.O_RDONLY, syscall.O_WRONLY} {
			c, _, _ := openTerminal(t, flags)
			if _, errno := c.Ioctl(bg, fused.IoctlCTAPI, 0, nil, nil); errno != syscall.EBADF || c.addressed.Load() {
				t.Errorf("flags %o: %v", flags, errno)
			}
			if _, errno := c.Ioctl(bg, fused.IoctlCTAPI+1, 0, nil, nil); errno != syscall.ENOTTY {
				t.Errorf("another ioctl: %v", errno)
			}
			c.Release(bg)
		}
		if _, errno := open(t, &fakeCard{}, rdwr).Ioctl(bg, fused.IoctlCTAPI, 0, nil, nil); errno != syscall.ENOTTY {
			t.Errorf("on apdu: %v", errno)
		}
	})
}

// The sessions of a conversation last until its last command is done.
func TestCTBCSReleaseDuring(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, text, slot := openTerminal(t, rdwr)
		text.mustWrite("20 12 01 00\n20 11 01 00\n")
		c.Release(bg)
		synctest.Wait()
		if i := slot.Info(); i.Sessions != 0 || i.State != "powered" {
			t.Errorf("%d sessions, %s", i.Sessions, i.State)
		}
	})
}
