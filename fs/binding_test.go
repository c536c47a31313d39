package fs

import (
	"bytes"
	"context"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"

	"github.com/cardfs/cardfs/drivers/sim"
	"github.com/cardfs/cardfs/fs/internal/fused"
	"github.com/cardfs/cardfs/reader"
	"github.com/cardfs/cardfs/reader/core"
)

// A command with a PIN may wait behind another in its channel. It is bound to the card that
// was there at its write(2): another card must not get the PIN, and another card's holder
// must not be asked for one.
func TestQueuedPINIsForOneCard(t *testing.T) {
	const (
		verify   = "42 33 00 06  1E 00 82 04 00 08 04 02 FF 07 04 00 00 00 00  0D 00 00 00  00 20 00 01 08 FF FF FF FF FF FF FF FF"
		modify   = "42 33 00 07  1E 00 82 04 00 00 08 08 04 03 02 FF 07 04 00 01 02 00 00 00  15 00 00 00  00 24 00 01 10 FF FF FF FF FF FF FF FF FF FF FF FF FF FF FF FF"
		ctbcs    = "20 18 01 00 08 52 06 01 06 00 20 00 01"
		ctModify = "20 19 01 00 09 52 07 01 06 0E 00 24 00 01"
	)
	swap := func(t *testing.T, m *core.Manager) {
		for _, line := range []string{"sim 0 remove", "sim 0 insert"} {
			if err := Ctl(m, line); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
		}
	}
	reset := func(t *testing.T, m *core.Manager) {
		if err := m.Slot(0).Power(bg, core.ResetCold, core.Caller{Owner: "another"}); err != nil {
			t.Fatal(err)
		}
	}
	nothing := func(*testing.T, *core.Manager) {}
	for _, tt := range []struct {
		name, file string
		change     func(*testing.T, *core.Manager)
		before     string // sent first
		command    string
		want       string
		errno      syscall.Errno
	}{
		{"control, the same card", "control", nothing, "", verify, "90 00\n", 0},
		{"control, another card", "control", swap, "", verify, "", syscall.ESTALE},
		{"control, reset", "control", reset, "", verify, "", syscall.ESTALE},
		{"control, to change it", "control", swap, "", modify, "", syscall.ESTALE},
		{"control, no newline", "control", swap, "", verify + "|", "", syscall.ESTALE},
		{"ctbcs, the same card", "ctbcs", nothing, "", ctbcs, "90 00\n", 0},
		{"ctbcs, another card", "ctbcs", swap, "", ctbcs, "64 A2\n", 0},
		{"ctbcs, to change it", "ctbcs", swap, "", ctModify, "64 A2\n", 0},
		// The program itself resets the card in between.
		{"ctbcs, activated", "ctbcs", swap, "", "20 11 01 00\n" + ctbcs, "90 01\n90 00\n", 0},
		// A card that the program activated, and that left, is not active.
		{"ctbcs, activated before", "ctbcs", swap, "20 11 01 00", ctbcs, "64 A2\n", 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := core.NewManager(core.Options{Drivers: []reader.Driver{sim.New()}})
				defer m.Close(context.Background())
				if err := Ctl(m, "attach sim pinpad"); err != nil {
					t.Fatal(err)
				}
				synctest.Wait()
				power := func() {
					s, err := m.Slot(0).Open(bg, core.Caller{Owner: "another", Wait: true})
					if err != nil {
						t.Fatal(err)
					}
					s.Close()
				}
				power()
				f := &file{mount: &mount{server: &fused.Server{}}, slot: m.Slot(0)}
				var c *channel
				if tt.file == "control" {
					h, err := openControl(bg, f, rdwr)
					if err != nil {
						t.Fatal(err)
					}
					c = h.(*controlFile).channel
				} else {
					h, err := openCTBCS(bg, f, rdwr)
					if err != nil {
						t.Fatal(err)
					}
					c = h.(*ctbcsFile).channel
				}
				defer c.Release(bg)
				c.later = func(c fused.Sender) { go c.Send() }
				text := &client{t: t, channel: c}
				if tt.before != "" {
					text.mustWrite(tt.before + "\n")
					text.read(100)
				}
				c.mu.Lock()
				c.busy = true // a command is under way
				c.mu.Unlock()
				whole, rest := strings.CutSuffix(tt.command, "|")
				if !rest {
					whole += "\n"
				}
				text.mustWrite(whole)
				tt.change(t, m)
				power()
				if tt.want != "" {
					Ctl(m, "sim 0 keys 1234")
				}
				c.mu.Lock()
				c.finish()
				c.busy = len(c.queue) > 0
				if c.busy {
					go c.Send()
				}
				c.mu.Unlock()
				got := new(bytes.Buffer)
				var errno syscall.Errno
				for range 2 {
					s, e := text.read(1 << 10)
					got.WriteString(s)
					if errno = e; s == "" {
						break
					}
					synctest.Wait()
				}
				if got.String() != tt.want || errno != tt.errno {
					t.Errorf("read %q, %v; want %q, %v", got, errno, tt.want, tt.errno)
				}
			})
		})
	}
}

// Data that CT_data handed over for one card does not activate a later one.
func TestQueuedDataIsForOneCard(t *testing.T) {
	for _, swapped := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			c, text, m := openTerminalOf(t, rdwr)
			defer c.Release(bg)
			if _, errno := c.Ioctl(bg, fused.IoctlCTAPI, 0, nil, nil); errno != 0 {
				t.Fatal(errno)
			}
			c.mu.Lock()
			c.busy = true
			c.mu.Unlock()
			text.mustWrite("\x00\x05\x00\xA4\x00\x0C\x02\x3F\x00")
			want := "\x05\x00\x90\x00"
			if swapped {
				want = "\x05\x01\x64\xA2" // not active
				Ctl(m, "sim 0 remove")
				synctest.Wait()
				Ctl(m, "sim 0 insert")
				synctest.Wait()
			}
			go c.Send()
			text.wantRead(want)
		})
	}
}

// An ioctl that waits behind another command is bound to the card that was there when the
// ioctl was called.
func TestWaitingIoctlIsForOneCard(t *testing.T) {
	const verify = "42330006 1E 00 82 04 00 0804 02 FF 0704 00 000000 0D000000 0020000108 FFFFFFFFFFFFFFFF"
	for _, swapped := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			m := core.NewManager(core.Options{Drivers: []reader.Driver{sim.New()}})
			defer m.Close(context.Background())
			command := func(line string) {
				t.Helper()
				if err := Ctl(m, line); err != nil {
					t.Fatal(err)
				}
				synctest.Wait()
			}
			power := func() {
				s, err := m.Slot(0).Open(bg, core.Caller{Owner: "another", Wait: true})
				if err != nil {
					t.Fatal(err)
				}
				s.Close()
			}
			command("attach sim pinpad")
			power()
			h, err := openControl(bg, &file{mount: &mount{server: &fused.Server{}}, slot: m.Slot(0)}, rdwr)
			if err != nil {
				t.Fatal(err)
			}
			c := h.(*controlFile).channel
			defer c.Release(bg)
			c.mu.Lock()
			c.busy = true // a command is under way
			c.mu.Unlock()
			in, out := ioctlBuffers(verify, 100)
			got := make(chan syscall.Errno)
			go func() {
				_, errno := c.Ioctl(bg, exchangeRequest(100), 0, in, out)
				got <- errno
			}()
			synctest.Wait()
			want := syscall.Errno(0)
			if swapped {
				command("sim 0 remove")
				command("sim 0 insert")
				power()
				want = syscall.ESTALE
			}
			command("sim 0 keys 1234")
			c.mu.Lock()
			c.finish()
			c.mu.Unlock()
			if errno := <-got; errno != want {
				t.Errorf("card swapped %v: %v, want %v", swapped, errno, want)
			}
		})
	}
}
