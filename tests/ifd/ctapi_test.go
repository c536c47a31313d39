package ifd

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/cardfs/cardfs/tests/cc"
	"github.com/cardfs/cardfs/tests/internal/daemon"
)

// newCT is a CT-API program on a mount: testdata/ctsh.c.
func newCT(t *testing.T, dir string) *pcsc {
	t.Helper()
	program := filepath.Join(t.TempDir(), "ctsh")
	if err := cc.Build(t.Context(), program, cc.Target{Sources: []string{"tests/ifd/testdata/ctsh.c"}}); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(program, ctLibrary)
	cmd.Env = append(os.Environ(), "CARDFS_MOUNT="+dir)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = in.Close()
		if err := cmd.Wait(); err != nil {
			t.Errorf("the CT-API program: %v", err)
		}
	})
	return &pcsc{t, in, bufio.NewReaderSize(out, 1<<18)}
}

func TestCTAPI(t *testing.T) {
	m := mount(t, "--sim", "twoslot", "--sim", "t1")
	c := newCT(t, m.Dir)
	// Answers: code, dad (2: host), sad (1: the terminal, 0 and 2: the cards).
	for _, step := range []struct{ want, do string }{
		{"-1", "init 1 77"}, // no such port
		{"0", "init 1 0"},   // the two-slot reader
		{"-8", "init 1 2"},  // ctn in use
		{"0 2 1 810201029000", "data 1 1 2013008100"},         // functional units
		{"0 2 1 800203039000", "data 1 1 2013008000"},         // two cards, no power
		{"0 2 1 " + tokenATR + "9001", "data 1 1 2012010100"}, // REQUEST ICC with the ATR
		{"0 2 1 6201", "data 1 1 2012010100"},
		{"0 2 0 9000", "data 1 0 00A4000C023F00"},
		{"0 2 1 3B77940000 53494D54309000 9001", "data 1 1 2012020100"},
		{"0 2 2 9000", "data 1 2 00A4000C023F00"},
		{"0 2 3 9000", "data 1 3 00A4000C023F00"}, // OpenCT's number of the second slot
		{"0 2 1 800205059000", "data 1 1 2013008000"},
		{"0 2 1 9000", "data 1 1 20150104"}, // EJECT ICC, the card stays
		{"0 2 1 64A2", "data 1 0 00A4000C023F00"},
		{"0 2 2 9000", "data 1 2 00A4000C023F00"},
		{"0 2 1 9001", "data 1 1 2011010000"}, // RESET CT of slot 1
		{"0 2 0 9000", "data 1 0 00A4000C023F00"},
		{"0 2 1 6D00", "data 1 1 20FF0000"},
		{"-11 1 2 ", "data 1 1 2013008000 1"},
		{"-11 1 2 ", "data 1 1 2013008000 2"}, // the answer has 6 bytes
		{"-1 1 2 ", "data 1 1 201300"},
		{"-1 4 2 ", "data 1 4 00A4000C023F00"},
		{"-8 1 2 ", "data 9 1 2013008000"},
		{"0", "init 2 1"}, // the same terminal at its second slot's port
		{"0 2 2 9000", "data 2 2 00A4000C023F00"},
		{"0", "close 2"},
		{"0", "close 1"},
		{"-8", "close 1"},
	} {
		c.ct(step.want, step.do)
	}
	// CT_close removed the power that REQUEST ICC had given.
	for _, slot := range []string{"0", "1"} {
		if got := m.Read(slot + "/power"); got != "off\n" {
			t.Errorf("power of slot %s: %q", slot, got)
		}
	}

	// The card is exchanged; the reader leaves, and another gets its number.
	c.ct("0", "init 1 2")
	c.ct("0 2 1 "+tokenATR+"9001", "data 1 1 2012010100")
	m.Ctl("sim 2 remove")
	m.Ctl("sim 2 insert")
	m.Await("2/status", "state present") // until then the exchange is with a card that has left
	// The new card has no power, and was not requested.
	c.ct("0 2 1 64A2", "data 1 0 00A4000C023F00")
	c.ct("0 2 1 64A2", "data 1 0 00A4000C023F00")
	c.ct("0 2 1 "+tokenATR+"9001", "data 1 1 2012010100")
	c.ct("0 2 0 9000", "data 1 0 00A4000C023F00")
	m.Ctl("sim 2 remove")
	m.Await("2/status", "state empty")
	c.ct("0 2 1 64A1", "data 1 0 00A4000C023F00")
	c.ct("0 2 1 64A1", "data 1 0 00A4000C023F00")
	c.ct("0 2 1 6200", "data 1 1 2012010100")
	m.Ctl("sim 2 insert")
	m.Await("2/status", "state present")
	c.ct("0 2 1 "+tokenATR+"9001", "data 1 1 2012010100")
	c.ct("0 2 0 9000", "data 1 0 00A4000C023F00")
	m.Ctl("sim 2 unplug\nsim 2 plug")
	m.Await("2/status", "state present") // it is another reader; the old one's card had power
	c.ct("-10 0 2 ", "data 1 0 00A4000C023F00")
	c.ct("-10 1 2 ", "data 1 1 2013008000")
	c.ct("0", "close 1")
	c.ct("0", "init 1 2")
	c.ct("0 2 1 "+tokenATR+"9001", "data 1 1 2012010100")

	// Extended lengths.
	for _, n := range []int{1, 255, 256, 300, 16000, 17000, 65000} {
		data := strings.Repeat("A5", n)
		c.ct("0 2 0 "+data+"9000", fmt.Sprintf("data 1 0 80EE000000%04X%s0000 %d", n, data, n+2))
	}
	c.ct("0", "close 1")
}

// TestCTAPICommands: every command of CT-BCS, sent by a C program to a reader with keys and
// a display. sad is the card's if the card answered.
func TestCTAPICommands(t *testing.T) {
	m := mount(t, "--sim", "pinpad")
	c := newCT(t, m.Dir)
	for _, step := range []struct{ keys, want, do string }{
		{"", "0", "init 1 0"},
		{"", "0 2 1 460F 4555434653 4352444653 30312E3030 9000", "data 1 1 2013004600"},
		{"", "0 2 1 8103 01 40 50 9000", "data 1 1 2013008100"},
		{"", "0 2 1 64A2", "data 1 1 20180100 08 5206 01 06 00200001"}, // no power yet
		{"", "0 2 1 9000", "data 1 1 20100000"},                        // RESET, B1's form: all cards off
		{"", "0 2 1 " + tokenATR + "9001", "data 1 1 2010010100"},
		{"", "0 2 0 9000", "data 1 0 00A4000C023F00"},
		{"", "0 2 1 9000", "data 1 1 20140100"}, // DEACTIVATE ICC
		{"", "0 2 1 64A2", "data 1 0 00A4000C023F00"},
		{"", "0 2 1 9001", "data 1 1 20110100"},
		{"", "0 2 0 9000", "data 1 0 00A4000C025000"},          // the DF that knows the PIN
		{"0815", "0 2 1 30383135 9000", "data 1 1 2016500008"}, // INPUT
		{"cancel", "0 2 1 6401", "data 1 1 2016500008"},
		{"", "0 2 1 9000", "data 1 1 20174000 07 5005 48656C6C6F"}, // OUTPUT
		{"", "0 2 1 6A82", "data 1 1 20174000 02 5000"},
		// PERFORM VERIFICATION, ASCII filled with FF to 8 bytes
		{"9999", "0 2 0 63C2", "data 1 1 20180100 11 520F 01 06 00200001 08 FFFFFFFFFFFFFFFF"},
		{"cancel", "0 2 1 6401", "data 1 1 20180100 11 520F 01 06 00200001 08 FFFFFFFFFFFFFFFF"},
		{"1234", "0 2 0 9000", "data 1 1 20180100 11 520F 01 06 00200001 08 FFFFFFFFFFFFFFFF"},
		// MODIFY VERIFICATION DATA: old PIN, new PIN twice; two that differ
		{"1234 ok 4321 ok 4322", "0 2 1 6402", "data 1 1 20190100 1A 5218 01 06 0E 00240001 10 FFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFF"},
		{"1234 ok 4321 ok 4321", "0 2 0 9000", "data 1 1 20190100 1A 5218 01 06 0E 00240001 10 FFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFF"},
		{"4321", "0 2 0 9000", "data 1 1 20180100 11 520F 01 06 00200001 08 FFFFFFFFFFFFFFFF"},
		{"", "0 2 1 6700", "data 1 1 20180100 01 52"},
		{"", "0 2 1 6A00", "data 1 1 20180200 08 5206 01 06 00200001"},
		{"", "0 2 1 9001", "data 1 1 80600100 03 220102"}, // SET INTERFACE PARAMETER: T=1, as it is
		{"", "0 2 0 9000", "data 1 0 00A4000C023F00"},
		{"", "0 2 1 64A3", "data 1 1 80600100 03 220101"}, // T=0: not this card
		{"", "0 2 1 6A85", "data 1 1 80600100 03 460101"},
		{"", "0 2 1 9000", "data 1 1 80700000 04 30024050"}, // FREEZE
		{"", "0 2 1 000F000F88 0000000000 9000", "data 1 1 00A40000 02 3F00"},
		{"", "0 2 1 0020010000 7F60010000 7F70010000 9000", "data 1 1 00B0000000"},
		{"", "0 2 1 7F60010000 9000", "data 1 1 00B0000505"},
		{"", "0 2 1 6A82", "data 1 1 00A40000 02 4711"},
		{"", "0 2 1 6B00", "data 1 1 00B0010000"},
		{"", "0 2 1 6200", "data 1 1 20150100 01 01"}, // EJECT ICC: not taken within a second
		{"", "0 2 1 64A2", "data 1 0 00A4000C023F00"},
		{"", "0 2 1 6E00", "data 1 1 A0100000"},
		{"", "0", "close 1"},
	} {
		if step.keys != "" {
			m.Ctl("sim 0 keys %s", step.keys)
		}
		// ctsh takes the command as one word.
		words := strings.Fields(step.do)
		if words[0] == "data" {
			words = append(words[:3], strings.Join(words[3:], ""))
		}
		c.ct(step.want, strings.Join(words, " "))
	}
}

// TestCTAPISignals: a program with a timer of a millisecond. "After a command was
// taken, only time ends a wait", and no answer is another's.
func TestCTAPISignals(t *testing.T) {
	for _, restart := range []string{"0", "1"} {
		m := mount(t, "--sim", "t1")
		c := newCT(t, m.Dir)
		c.ct("0", "init 1 0")
		c.want("ok", "timer", "1000", restart)
		total := 0
		for range 10 {
			n, err := strconv.Atoi(c.say("echo", "1", "1000"))
			if err != nil {
				t.Fatalf("SA_RESTART %s: %v", restart, err)
			}
			total += n
		}
		if total < 100 {
			t.Errorf("%d signals in 10,000 exchanges: the test is of no use", total)
		}
		// A slow command: the card decides how long it takes, not a thousand signals.
		m.Ctl("sim 0 remove")
		m.Await("0/status", "state empty")
		c.ct("0 2 1 6200", "data 1 1 201201010102")
		m.Ctl("sim 0 insert")
		m.Await("0/status", "state present")
		c.ct("0 2 1 "+tokenATR+"9001", "data 1 1 2012010100")
		c.ct("0 2 0 9000", "data 1 0 00A4000C023F00")
		c.ct("0", "close 1")
	}
}

// TestCTAPIFork: a child inherits nothing of its parent's, and its end takes nothing from
// the parent.
func TestCTAPIFork(t *testing.T) {
	m := mount(t, "--sim", "t1")
	c := newCT(t, m.Dir)
	c.ct("0", "init 1 0")
	c.ct("0 2 1 "+tokenATR+"9001", "data 1 1 2012010100")
	c.ct("-8 -8 0", "fork 1 0 00A4000C023F00")
	if got := m.Read("0/power"); got != "on\n" {
		t.Errorf("power after the child: %q", got)
	}
	c.ct("0 2 0 9000", "data 1 0 00A4000C023F00")
	c.ct("0", "close 1")
	if got := m.Read("0/power"); got != "off\n" {
		t.Errorf("power after CT_close: %q", got)
	}
}

// holdCard makes a process that is not an ancestor of the tested one hold the transaction.
func holdCard(t *testing.T, m *daemon.Daemon) (unlock func()) {
	t.Helper()
	cmd := exec.Command("flock", m.Path("0/apdu"), "sh", "-c", "echo held; cat")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	unlock = sync.OnceFunc(func() {
		in.Close()
		if err := cmd.Wait(); err != nil {
			t.Errorf("flock: %v", err)
		}
	})
	t.Cleanup(unlock)
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "held\n" {
		t.Fatalf("flock said %q, %v", line, err)
	}
	return unlock
}

// TestCTAPITransaction: while another process holds the card, nothing reaches the card, and
// CT_close leaves the power alone. The holder's own CT-API passes.
func TestCTAPITransaction(t *testing.T) {
	m := mount(t, "--sim", "t1")
	c := newCT(t, m.Dir)
	c.ct("0", "init 1 0")
	c.ct("0 2 1 "+tokenATR+"9001", "data 1 1 2012010100")
	count := commands(t, m)
	unlock := holdCard(t, m)
	c.ct("-8 0 2", "data 1 0 00A4000C023F00") // ERR_CT: it may be tried again
	c.ct("0 2 1 6985", "data 1 1 2011010000")
	c.ct("0 2 1 6985", "data 1 1 20140100")
	c.ct("0", "close 1")
	if got := m.Read("0/power"); got != "on\n" {
		t.Errorf("power after CT_close: %q", got)
	}
	unlock()
	if now := commands(t, m); now != count+1 {
		t.Errorf("%d commands reached the card", now-count-1)
	}
	// This process's own lock lets its descendants' CT-API conversations pass.
	fd, err := daemon.Open(m.Path("0/apdu"), unix.O_RDWR)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if _, err := daemon.Uninterrupted(func() (int, error) { return 0, unix.Flock(fd, unix.LOCK_EX) }); err != nil {
		t.Fatal(err)
	}
	c.ct("0", "init 1 0")
	c.ct("0 2 1 9001", "data 1 1 2011010000")
	c.ct("0 2 0 9000", "data 1 0 00A4000C023F00")
	c.ct("0", "close 1")
	if got := m.Read("0/power"); got != "off\n" {
		t.Errorf("power after the CT_close of one who passes: %q", got)
	}
}

// TestCTAPILevel: after 10,000 rounds of CT_init and CT_close the process has as many
// descriptors and as much memory as before.
func TestCTAPILevel(t *testing.T) {
	m := mount(t, "--sim", "apdu")
	c := newCT(t, m.Dir)
	c.want("ok", "many", "10000", "5", "0")
}

// ct is want without regard to blanks, which separate groups of hex in the expected answers.
func (c *pcsc) ct(want, do string) {
	c.t.Helper()
	got := c.say(strings.Fields(do)...)
	squeeze := func(s string) string { return strings.ReplaceAll(s, " ", "") }
	if squeeze(got) == squeeze(want) {
		return
	}
	if len(got) > 200 {
		got = got[:200] + "…"
	}
	c.t.Errorf("%.100s: %s, want %.200s", do, got, want)
}

// TestCTAPIPython: ctypes, as scripts do it.
func TestCTAPIPython(t *testing.T) {
	python, err := exec.LookPath("python3")
	if err != nil {
		t.Fatal("python3 is not there: apt-get install python3")
	}
	m := mount(t, "--sim", "twoslot")
	cmd := exec.Command(python, "testdata/ctapi.py", ctLibrary)
	cmd.Env = append(os.Environ(), "CARDFS_MOUNT="+m.Dir)
	out, err := cmd.CombinedOutput()
	const want = "ATR 3bb794008131fe6553504b32339000d1\nSELECT 9000\n" +
		"REQUEST 9001\nSELECT 9000\nSTATUS 800205059000\nclosed\n"
	if err != nil || string(out) != want {
		t.Errorf("%v\n%s\nwant\n%s", err, out, want)
	}
}
