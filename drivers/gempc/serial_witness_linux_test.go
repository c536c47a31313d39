package gempc

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/cardfs/cardfs/drivers/bus/serial/serialtest"
	"github.com/cardfs/cardfs/drivers/gempc/emu"
	"github.com/cardfs/cardfs/tests/cc"
	"github.com/cardfs/cardfs/tests/foreign"
	"github.com/cardfs/cardfs/tests/pcscd"
	"github.com/cardfs/cardfs/tests/witness"
)

// witness is another driver for the serial readers.
type foreignDriver struct {
	name, lib, version string
	ttyS0              bool // it opens /dev/ttyS0, whatever it is told
}

var witnesses = []foreignDriver{
	{"libgempc410", "libGemPC410.so.1.0.8", gemPC410, false},
	// It gave the reader up, without a further command, where the version was
	// OROS-R2.99-R1.10 or OROS-R2.99-R1.21; why is not known. It sends whole APDUs to a card
	// with T=0 too.
	{"libgcr410", "libgcr410.so", "GemCore-R1.21-GM", true},
}

// The emulator is right if drivers of other authors agree: Debian's libgempc410 and
// libgcr410, under pcscd, on a pseudo-terminal; and this driver, on another.
func TestSerialWitnesses(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root, to put a pseudo-terminal in the place of /dev/ttyS0")
	}
	client := filepath.Join(t.TempDir(), "pcscsh")
	err := cc.Build(t.Context(), client, cc.Target{Sources: []string{"tests/ifd/testdata/pcscsh.c"}, Packages: []string{"libpcsclite"}})
	if err != nil {
		t.Fatal(err)
	}
	for _, w := range witnesses {
		dir := foreign.Unpack(t, w.name)
		libs, err := filepath.Glob(filepath.Join(dir, "usr/lib/pcsc/drivers/serial", w.lib))
		if err != nil || len(libs) != 1 {
			t.Fatalf("%s: %v, %v", w.name, libs, err)
		}
		for proto, c := range []card{t0, t1} {
			t.Run(fmt.Sprintf("%s T=%d", w.name, proto), func(t *testing.T) {
				theirs := underPcscd(t, w, libs[0], client, proto, c)
				for i, x := range witness.Reader(proto) {
					if theirs[i] != x.Answer {
						t.Errorf("%s: > %s\n< %s\nwant %s", w.name, x.Command, theirs[i], x.Answer)
					}
				}
				_, pty := openWitness(t, w, c)
				witness.OnPort(t, Driver{}, pty.Name, nil).Open(0, c.ATR()).Exchange(witness.Reader(proto))
			})
		}
	}
}

// openWitness puts a reader behind a pseudo-terminal.
func openWitness(t testing.TB, w foreignDriver, c card) (*serialtest.Plugged, *serialtest.PTY) {
	p := serialtest.Plug(newSerial(t, emu.SerialConfig{Version: w.version, AnyBaud: true}, c))
	t.Cleanup(p.Unplug)
	pty, err := serialtest.OpenPTY(p)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pty.Close)
	return p, pty
}

func underPcscd(t *testing.T, w foreignDriver, lib, client string, proto int, c card) (answers []string) {
	plugged, pty := openWitness(t, w, c)
	var log serialtest.Log
	plugged.Observe(log.Add)
	// pcscd 1.9.9 takes a reader as soon as it has name, library and one of device and
	// channel: so the channel is first, the library last.
	conf := fmt.Sprintf("DEVICENAME %s\nFRIENDLYNAME \"Witness\"\nLIBPATH %s\n", pty.Name, lib)
	opts := []pcscd.Option{pcscd.Debug()}
	if w.ttyS0 {
		conf = fmt.Sprintf("CHANNELID 0x0103F8\nDEVICENAME /dev/ttyS0\nFRIENDLYNAME \"Witness\"\nLIBPATH %s\n", lib)
		opts = append(opts, pcscd.Bind(pty.Name, "/dev/ttyS0"))
	}
	srv, err := pcscd.Start(t.Context(), t.TempDir(), conf, opts...)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		srv.Kill()
		srv.Close()
		if said := srv.Log(); t.Failed() {
			t.Logf("pcscd said:\n%s\nthe line had:\n%v", said[:min(len(said), 6000)], log.Session())
		}
	}()
	l := srv.Shell(t, client)
	defer l.Close()
	name := l.Reader()
	if got := l.Say("soon", name); got != fmt.Sprintf("ok T=%d", proto) {
		t.Fatalf("%s: connect: %s", name, got)
	}
	// libgcr410 takes the numbers of the protocols for each other, until the next poll of the
	// card's status.
	sent, _ := plugged.Sent()
	for end := time.Now().Add(time.Minute); w.ttyS0; time.Sleep(10 * time.Millisecond) {
		if now, _ := plugged.Sent(); now > sent {
			break
		}
		if time.Now().After(end) {
			t.Fatal("pcscd does not poll the card's status")
		}
	}
	for _, x := range witness.Reader(proto) {
		answers = append(answers, l.Exchange(x.Command))
	}
	l.Say("disconnect", "unpower")
	return answers
}
