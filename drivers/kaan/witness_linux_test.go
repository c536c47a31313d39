package kaan

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cardfs/cardfs/drivers/bus/serial"
	"github.com/cardfs/cardfs/drivers/kaan/emu"
	"github.com/cardfs/cardfs/tests/cc"
	"github.com/cardfs/cardfs/tests/foreign"
	"github.com/cardfs/cardfs/tests/vm/machine"
	"github.com/cardfs/cardfs/tests/witness"
)

const (
	clientEnv  = "CARDFS_TEST_CTAPI_CLIENT"
	foreignEnv = "CARDFS_TEST_FOREIGN"

	patience = time.Minute
)

// The emulator's blocks are right if a library of other authors agrees: Debian's libctapimkt1,
// of CT-API, for terminals that read German health cards. It wants parity of its port, which a
// pseudo-terminal does not have.
func TestLibctapimktInMachine(t *testing.T) {
	if machine.Inside() {
		t.Skip("this is the machine already")
	}
	client := filepath.Join(t.TempDir(), "ctsh")
	if err := cc.Build(t.Context(), client, cc.Target{Sources: []string{"tests/ifd/testdata/ctsh.c"}}); err != nil {
		t.Fatal(err)
	}
	t.Setenv(clientEnv, client)
	t.Setenv(foreignEnv, foreign.Unpack(t, "libctapimkt1"))
	machine.RunSelf(t, "^TestWitness$", machine.Config{Modules: []string{"ftdi_sio"}})
}

// step is what the witness exchanges.
type step struct {
	unit byte // DAD
	witness.Exchange
}

func toTerminal(command, answer string) step {
	return step{dadTerminal, witness.Exchange{Command: command, Answer: answer}}
}

// DADs of the witness. It makes the node from it, and the second card's node is 32.
const dadCard, dadTerminal, dadCard2 = 0, 1, 3

// toCard are commands whose blocks and answers are of all lengths: the last command is one
// block of 254 bytes from the witness, and long answers are chains.
func toCard(protocol int) []witness.Exchange {
	list := []witness.Exchange{
		{Command: "00 A4 00 00 02 3F 00", Answer: "90 00"},
		{Command: "00 84 00 00 08", Answer: "11 12 13 14 15 16 17 18 90 00"},
		{Command: "00 E2 00 F0 F0", Answer: hexOf(append(pattern(240), 0x90, 0))},
		{Command: "00 E2 01 00 00", Answer: hexOf(append(pattern(256), 0x90, 0))},
		{Command: "00 20 00 01 1C " + hexOf(pattern(28)), Answer: "90 00"},
		{Command: "00 CA 00 00 04", Answer: "6D 00"},
		{Command: "00 20 00 01 F9 " + hexOf(pattern(249)), Answer: "90 00"},
	}
	if protocol == 1 {
		list = append(list, witness.Exchange{Command: "00 EE 00 00 F8 " + hexOf(pattern(248)) + " 00", Answer: hexOf(append(pattern(248), 0x90, 0))})
	}
	return list
}

// longest is what a block to the witness may carry. It reads the rest of a block, this and
// the sum, with VMIN of that many bytes, and takes what came for all of it. Linux 6.1 ends
// such a read after 64 bytes (drivers/tty/tty_io.c, iterate_tty_read).
const longest = 63

func hexOf(b []byte) string { return fmt.Sprintf("% X", b) }

func TestWitness(t *testing.T) {
	machine.NeedGuest(t)
	for _, w := range []struct {
		name     string
		cfg      emu.Config
		ctn      int // of which the witness takes port and speed
		speed    string
		card     func() *card
		protocol int
		begin    []step
	}{
		{"T=0", emu.Config{Units: []byte{0x40, 0x50}, Most: longest}, 9, "9600", t0, 0, []step{
			toTerminal("20 11 00 00 00", "90 00"),
			toTerminal("20 13 00 81 00", "81 03 01 40 50 90 00"),
			toTerminal("20 13 01 80 00", "80 01 03 90 00"),
			toTerminal("20 17 40 00 07 50 05 48 65 6C 6C 6F", "90 00"),
			// Nobody types a PIN in 4 s. Meanwhile the terminal asks for more time: S(WTX).
			toTerminal("20 18 01 00 0B 80 01 04 52 06 01 06 00 20 00 01", "64 00"),
		}},
		{"T=1, two slots", emu.Config{Slots: 2, Older: true, Baud: 115200, Most: 32}, 10, "115200", t1, 1, []step{
			toTerminal("20 10 00 00 00", "6B 00"),
			toTerminal("20 11 00 00 00", "90 00"),
			toTerminal("20 13 02 80 00", "03 90 00"),
		}},
	} {
		t.Run(w.name, func(t *testing.T) {
			w.cfg.Takes = 254 // the witness does not chain
			slots := max(1, w.cfg.Slots)
			theirs := w.begin
			for n, dad := range []byte{dadCard, dadCard2}[:slots] {
				theirs = append(theirs, toTerminal(fmt.Sprintf("20 12 %02X 01 00", n+1), hexOf(w.card().ATR())+" 90 01"))
				for _, x := range toCard(w.protocol) {
					theirs = append(theirs, step{dad, x})
				}
			}
			theirs = append(theirs, toTerminal("20 15 01 00 00", "62 00")) // the card stays
			e := newTerminal(t, kind{cfg: w.cfg, card: w.card})
			throughLibrary(t, plug(t, e), w.ctn, theirs)

			a := plug(t, e)
			c := witness.OnPort(t, KAAN(nil), a.TTY, map[string]string{paramSpeed: w.speed})
			for n := range slots {
				card := c.Open(n, w.card().ATR())
				mode(t, a, "cardfs")
				card.Exchange(toCard(w.protocol))
				card.Close()
			}
		})
	}
}

// plug has a terminal behind an adapter. The witness has its port's name built in.
func plug(t *testing.T, e *emu.Terminal) *witness.Adapter {
	t.Helper()
	a := witness.PlugAdapter(t, e, "S1")
	if a.TTY != "/dev/ttyUSB0" {
		t.Fatalf("the adapter is %s", a.TTY)
	}
	return a
}

// mode fails if the line is not what the terminal has.
func mode(t *testing.T, a *witness.Adapter, who string) {
	t.Helper()
	host, own := a.Line().HostMode(), a.Line().Mode()
	if host.Baud != own.Baud || host.Frame != serial.Frame8E1 {
		t.Errorf("%s has the line at %v; the terminal: %v", who, host, own)
	}
}

// throughLibrary has a program that uses the witness exchange the steps.
func throughLibrary(t *testing.T, a *witness.Adapter, ctn int, steps []step) {
	t.Helper()
	defer a.Unplug()
	libs, err := filepath.Glob("/run/host" + os.Getenv(foreignEnv) + "/usr/lib/*/libctapimkt.so.1")
	if err != nil || len(libs) != 1 {
		t.Fatalf("libraries %v, %v", libs, err)
	}
	// The library waits for an answer without an end.
	some, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	cmd := exec.CommandContext(some, "/run/host"+os.Getenv(clientEnv), libs[0])
	cmd.Stderr = os.Stderr
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
	defer func() {
		in.Close()
		if err := cmd.Wait(); err != nil {
			t.Errorf("the program with libctapimkt: %v", err)
		}
	}()
	lines := bufio.NewReader(out)
	say := func(format string, args ...any) string {
		t.Helper()
		if _, err := io.WriteString(in, fmt.Sprintf(format, args...)+"\n"); err != nil {
			t.Fatal(err)
		}
		line, err := lines.ReadString('\n')
		if err != nil {
			t.Fatalf("%.40s: the program with libctapimkt ended: %v", fmt.Sprintf(format, args...), err)
		}
		return strings.TrimSpace(line)
	}
	// The second number is for other libraries: this one takes the port from ctn.
	if code := say("init\t%d\t%[1]d", ctn); code != "0" {
		t.Fatalf("CT_init: %s", code)
	}
	mode(t, a, "libctapimkt")
	for _, x := range steps {
		// It writes a few bytes behind an answer.
		said := say("data\t%d\t%d\t%s\t600", ctn, x.unit, strings.ReplaceAll(x.Command, " ", ""))
		var code, dad, sad int
		var answer string
		if n, err := fmt.Sscan(said, &code, &dad, &sad, &answer); n != 4 || code != 0 {
			t.Fatalf("CT_data: %X > %s\n%s, %v", x.unit, x.Command, said, err)
		}
		if got := hexOf(unhex(answer)); got != x.Answer {
			t.Errorf("libctapimkt: %X > %s\n< %s\nwant %s", x.unit, x.Command, got, x.Answer)
		}
	}
	if code := say("close\t%d", ctn); code != "0" {
		t.Errorf("CT_close: %s", code)
	}
	t.Logf("libctapimkt: %d commands", len(steps))
}
