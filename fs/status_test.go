package fs

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/cardfs/cardfs/reader"
	"github.com/cardfs/cardfs/reader/core"
	"github.com/cardfs/cardfs/reader/iso7816"
	"github.com/cardfs/cardfs/reader/words"
)

func unhex(s string) []byte {
	b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
	if err != nil {
		panic(err)
	}
	return b
}

// parse parses an ATR.
func parse(t *testing.T, hex string) *iso7816.ATR {
	a, err := iso7816.ParseATR(unhex(hex))
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// "key value lines, one per line, state first": an unknown value has no line.
func TestStatus(t *testing.T) {
	fixed := iso7816.DefaultParams(1)
	chip := reader.Chip{Size: 256}
	memory, err := iso7816.ParseSynchronousATR(unhex("A2 13 10 91"))
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name string
		info core.Info
		want string
	}{
		{"starting", core.Info{State: core.StateStarting, Number: 3, ByID: "usb-x-slot0", Siblings: []int{3}, Device: reader.Device{Driver: "ccid", Address: "usb:1-1"}},
			"state starting\ndriver ccid\ndevice usb:1-1\nby-id usb-x-slot0\nslot 0 of 1\nsiblings 3\ncard-changes 0\n"},
		{"failed", core.Info{State: core.StateFailed, Err: errors.New("ccid usb:1-1: open\nagain"), Siblings: []int{4, 5}, Index: 1, Found: 300, Served: 256},
			"state failed\nerror ccid usb:1-1: open again\nslot 1 of 2\nsiblings 4 5\nslots 300, of which 256 are served\ncard-changes 0\n"},
		{"as many as are served", core.Info{State: core.StateEmpty, Siblings: []int{4}, Found: 1, Served: 1},
			"state empty\nslot 0 of 1\nsiblings 4\ncard-changes 0\n"},
		{"what the device says", core.Info{State: core.StateEmpty, Model: "M", Locked: true, More: map[string]string{"version": "1.00", "display": "", "a": "b"},
			Device: reader.Device{Bus: "usb", Serial: "S", Port: "1-1", ID: reader.ID{Vendor: 0x08E6, Product: 0x3437}}},
			"state empty\nreader M\nbus usb\nusb-id 08e6:3437\nserial S\nport 1-1\nslot 0 of 1\na b\nversion 1.00\ntransaction held\ncard-changes 0\n"},
		{"half an ID", core.Info{State: core.StateEmpty, Device: reader.Device{ID: reader.ID{Product: 1}}}, "state empty\nusb-id 0000:0001\nslot 0 of 1\ncard-changes 0\n"},
		{"a card without power", core.Info{State: core.StatePresent, Sessions: 2, Fallback: "F", Waiting: time.Hour}, "state present\nslot 0 of 1\ncard-changes 0\n"},
		{"powered", core.Info{State: core.StatePowered, ATR: unhex("3B 80 01 81"), Answer: parse(t, "3B 80 01 81"), Params: fixed, Offered: []int{1}, Sessions: 2, Fallback: "D=1, as 95 failed", Waiting: 90*time.Second + 1},
			"state powered\nslot 0 of 1\natr 3B 80 01 81\nprotocol T=1\nsessions 2\nparameters " + fixed.String() + "\nfallback D=1, as 95 failed\nwaiting 90\ncard-changes 0\n"},
		{"an ATR with defects", core.Info{State: core.StatePowered, ATR: unhex("3B 80 01"), Answer: parse(t, "3B 80 01"), Params: fixed},
			"state powered\nslot 0 of 1\natr 3B 80 01\natr-defect " + parse(t, "3B 80 01").Defects()[0].String() + "\nprotocol T=1\nsessions 0\nparameters " + fixed.String() + "\ncard-changes 0\n"},
		// "pcsc NAME II SS" always; the rest where there is something to tell.
		{"PC/SC", core.Info{State: core.StateEmpty, Model: "M", PCSC: "M 0A 00", Connections: 2, CardChanges: 7, Device: reader.Device{Driver: "d"}},
			"state empty\nreader M\npcsc M 0A 00\ndriver d\nslot 0 of 1\nconnections 2\ncard-changes 7\n"},
		{"an exclusive connection", core.Info{State: core.StateEmpty, Locked: true, Connections: 1, Exclusive: true, Process: process{pid: 4711, start: 9}},
			"state empty\nslot 0 of 1\ntransaction held\nconnections 1\nexclusive pid 4711\ncard-changes 0\n"},
		{"one of a process that is not known", core.Info{State: core.StateEmpty, Connections: 1, Exclusive: true},
			"state empty\nslot 0 of 1\nconnections 1\nexclusive held\ncard-changes 0\n"},
		{"a memory card", core.Info{State: core.StatePowered, ATR: unhex("A2 13 10 91"), Answer: memory, Params: iso7816.Params{T: iso7816.NoProtocol}, Chip: chip},
			"state powered\nslot 0 of 1\natr A2 13 10 91\nprotocol memory\nmemory " + chip.String() + "\nsessions 0\ncard-changes 0\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := string(statusLines(tt.info)); got != tt.want {
				t.Errorf("status\n%s\nwant\n%s", got, tt.want)
			}
		})
	}
}

// A device's names cannot add a line or send a command to the terminal: "bidi, zero-width and
// format characters" are in no value, and the length of each is bounded.
func TestWhatDevicesSay(t *testing.T) {
	evil := "a\u202eb\u200bc\u2066d\ufefee\u2028f\u2029g\ue000h\U000f0000i\u00adj\x1b[2J\xed\xa0\x80\U000e0041k\u0600l\u0085m\u00a0n\nstate gone"
	bad := func(s string) bool {
		return !utf8.ValidString(s) || strings.ContainsFunc(s, func(r rune) bool { return r != '\n' && r != ' ' && words.OneLine(r) != r })
	}
	long := evil + strings.Repeat("ä", 5000)
	dev := reader.Device{Driver: "fake", Address: long, Serial: long, Port: long, Bus: long, ID: reader.ID{Model: long}, Params: map[string]string{long: long}}
	m := core.NewManager(core.Options{Drivers: []reader.Driver{plainDriver{"fake"}}})
	defer m.Close(context.Background())
	if err := m.Announce(dev); err != nil {
		t.Fatal(err)
	}
	i := m.Slot(0).Info()
	i.Err, i.Fallback, i.State = errors.New(long), long, core.StatePowered
	for what, text := range map[string]string{"status": string(statusLines(i)), "ctl": string(ctlLines(m))} {
		if bad(text) {
			t.Errorf("%s: %q", what, text)
		}
		if !strings.Contains(text, "…") {
			t.Errorf("%s: nothing says that something was cut", what)
		}
		for line := range strings.Lines(text) {
			if n := utf8.RuneCountInString(line); n > 2*words.MaxWords+20 {
				t.Errorf("%s: a line of %d characters", what, n)
			}
			if strings.HasPrefix(line, "state gone") {
				t.Errorf("%s has a line that a device made: %s", what, line)
			}
		}
	}
	if got := string(statusLines(core.Info{State: core.StateEmpty, More: map[string]string{"k": fmt.Sprint("v", evil)}})); bad(got) || strings.Count(got, "\n") != 4 {
		t.Errorf("status %q", got)
	}
}

// "What was opened before answers ENODEV" once a reader has left, and its last words never: also
// to a read that began before.
func TestStatusNeverSaysGone(t *testing.T) {
	d := newDesk(t, "t1")
	h := d.mustOpen(as(1000, self), "status", syscall.O_RDONLY).(*textFile)
	leaves := *h.file.spec
	leaves.text = func(f *file) []byte {
		if err := d.m.Detach(0); err != nil {
			t.Fatal(err)
		}
		return statusText(f)
	}
	h.file.spec = &leaves
	if s, errno := h.text(4096, 0); errno != syscall.ENODEV {
		t.Errorf("a read during which the reader left: %q, %v", s, errno)
	}
}
