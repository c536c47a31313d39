package ifd

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cardfs/cardfs/tests/internal/daemon"
	"github.com/cardfs/cardfs/tests/internal/proc"
	"github.com/cardfs/cardfs/tests/pcscd"
)

const (
	tokenATR = "3BB794008131FE6553504B32339000D1"
	selectMF = "00A4000C023F00"
)

// up starts a mount with these simulated readers, and a pcscd that has all of them under the
// names "R0 00 00", "R1 01 00" and so on.
func up(t *testing.T, sims ...string) (*daemon.Daemon, *pcsc) {
	t.Helper()
	var args []string
	for _, s := range sims {
		args = append(args, "--attach", "sim "+s)
	}
	m := mount(t, args...)
	var entries string
	for i := range sims {
		entries += conf(fmt.Sprintf("R%d", i), fmt.Sprintf("cardfs:%s/%d", m.Dir, i))
	}
	return m, newClient(t, newPcscd(t, entries))
}

func name(i int) string { return fmt.Sprintf("R%d %02X 00", i, i) }

func TestOpenSC(t *testing.T) {
	m := mount(t, "--sim", "ikey3k")
	s := newPcscd(t, conf("iKey", "cardfs:"+m.Dir+"/0"))
	out, err := s.Command(t.Context(), "opensc-tool", "--atr").CombinedOutput()
	if err != nil || !strings.Contains(string(out), "3b:b7:94:00:81:31:fe:65:53:50:4b:32:33:90:00:d1") {
		t.Errorf("opensc-tool --atr: %v\n%s", err, out)
	}
	// pcsc_scan never ends by itself with -n and a reader. It is stopped after it has shown
	// the card.
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	scan := s.Command(ctx, "pcsc_scan", "-n")
	var seen proc.Log
	scan.Stdout, scan.Stderr = &seen, &seen
	if err := scan.Start(); err != nil {
		t.Fatal(err)
	}
	for _, step := range []struct{ do, want string }{
		{"", "3B B7 94 00 81 31 FE 65 53 50 4B 32 33 90 00 D1"},
		{"sim 0 unplug", "Card removed"},
		{"sim 0 plug", "Card inserted"},
	} {
		from := seen.Len()
		if step.do != "" {
			m.Ctl("%s", step.do)
		} else {
			from = 0
		}
		if err := seen.Wait(ctx, step.want, from); err != nil {
			t.Errorf("pcsc_scan after %q: %v\n%s", step.do, err, seen.String())
		}
	}
	_ = scan.Process.Kill()
	_ = scan.Wait()
}

func TestExchange(t *testing.T) {
	_, c := up(t, "t1", "t0", "apdu", "t1 card=dual")
	c.want("ok R0 00 00|R1 01 00|R2 02 00|R3 03 00", "list")
	for i, protocol := range []string{"1", "0", "1", "0"} {
		t.Run(protocol+name(i), func(t *testing.T) {
			c.t = t
			c.want("ok T="+protocol, "connect", name(i), "shared", protocol)
			c.want("ok 9000", "send", selectMF)
			c.want("ok 01029000", "send", "80EE000002010200")
			c.want("ok 6A82", "send", "00A4000C024711") // SW1 SW2 is data
			sizes := []string{"1", "255", "256", "257", "16000", "16384", "32767", "65535"}
			if i == 3 { // the dual card knows no GET RESPONSE
				sizes = sizes[:3]
			}
			for _, n := range sizes {
				c.want("ok 9000", "get", n)
				c.want("ok 9000", "big", n)
			}
			c.want("ok", "reconnect", "reset")
			c.want("ok 9000", "send", selectMF)
			c.want("ok", "reconnect", "unpower")
			c.want("ok 9000", "send", selectMF)
			c.want("ok", "disconnect", "unpower")
		})
	}
	c.t = t
	// A card that offers both protocols, in the other one; and a card that does not.
	c.want("ok T=1", "connect", name(3), "shared", "1")
	c.want("ok 9000", "send", selectMF)
	c.want("ok", "disconnect", "reset")
	c.want("PROTO_MISMATCH", "connect", name(1), "shared", "1")
	// Raw: the active protocol carries it, and nothing is negotiated.
	c.want("ok T=-", "connect", name(0), "shared", "raw")
	c.want("ok 9000", "send", selectMF)
	c.want("ok", "disconnect", "leave")
}

func TestReset(t *testing.T) {
	m, a := up(t, "t1")
	b := newClientLike(a)
	a.want("ok T=1", "connect", name(0), "shared")
	b.want("ok T=1", "connect", name(0), "shared")
	// PC/SC: a reset by one client is reported to the other.
	b.want("ok", "reconnect", "reset")
	a.want("RESET_CARD", "send", selectMF)
	a.want("ok", "reconnect", "leave")
	a.want("ok 9000", "send", selectMF)

	// After a reset on the mount, a command meant for the card before it is not sent, and all
	// clients have to reconnect as soon as pcscd has seen it.
	count := commands(t, m)
	m.Write("0/power", "reset")
	a.want("NOT_TRANSACTED", "send", "0020000104"+"31323334")
	for _, c := range []*pcsc{a, b} {
		said := c.say("send", selectMF)
		for ; said == "NOT_TRANSACTED" || said == "REMOVED_CARD"; said = c.say("send", selectMF) {
			if said == "REMOVED_CARD" {
				c.want("ok T=1", "soon", name(0))
			}
		}
		if said != "ok 9000" {
			t.Errorf("after the reset: %s", said)
		}
	}
	if now := commands(t, m); now-count > 6 {
		t.Errorf("%d commands reached the card", now-count)
	}
}

// newClientLike is another client of the same pcscd.
func newClientLike(c *pcsc) *pcsc {
	c.t.Helper()
	return newClient(c.t, servers[c.t])
}

// commands asks the card how many commands it has received so far.
func commands(t *testing.T, m *daemon.Daemon) int {
	t.Helper()
	f, err := os.OpenFile(m.Path("0/apdu"), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteString("00CA010100\n"); err != nil {
		t.Fatal(err)
	}
	var answer [64]byte
	n, err := f.Read(answer[:])
	if err != nil {
		t.Fatal(err)
	}
	var a, b, c, d int
	if _, err := fmt.Sscanf(string(answer[:n]), "%X %X %X %X 90 00", &a, &b, &c, &d); err != nil {
		t.Fatalf("%s: %v", answer[:n], err)
	}
	return a<<24 | b<<16 | c<<8 | d
}

func TestComingAndGoing(t *testing.T) {
	m, c := up(t, "t1")
	for range 10 {
		c.want("ok T=1", "connect", name(0), "shared")
		c.want("ok 9000", "send", selectMF)
		m.Ctl("sim 0 remove")
		c.want("ok", "await", name(0), "empty")
		if got := c.say("send", selectMF); got != "REMOVED_CARD" {
			t.Errorf("after a removal: %s", got)
		}
		m.Ctl("sim 0 insert t0")
		c.want("ok", "await", name(0), "present")
		c.want("ok present 3B7794000053494D54309000", "state", name(0))
		m.Ctl("sim 0 remove")
		m.Ctl("sim 0 insert token") // as fast as possible
		c.want("ok", "await", name(0), "present", tokenATR)
	}
}

// TestAbsentAtStart: without a daemon, a mount or a reader, pcscd has a reader without a
// card, and later one with a card.
func TestAbsentAtStart(t *testing.T) {
	m := newMount(t, "--attach", "sim t1 card=none")
	c := newClient(t, newPcscd(t, conf("R0", "cardfs:"+m.Dir+"/by-id/sim-t1_T1-1-slot0")+conf("R1", "cardfs:"+m.Dir+"/0")))
	c.want("ok empty", "state", "R0 00 00")
	c.want("NO_SMARTCARD", "connect", "R0 00 00", "shared")
	m.Start()
	c.want("ok empty", "state", "R0 00 00")
	m.Ctl("sim 0 insert token")
	// R1 is named by its slot number. The by-id name of R0 is not this reader's.
	c.want("ok", "await", "R1 01 00", "present")
	c.want("ok T=1", "connect", "R1 01 00", "shared")
	c.want("ok 9000", "send", selectMF)
}

var powerUpError = regexp.MustCompile(`(?i)error powering up card`)

// TestReplug is the bug report that led to cardfs. A token under pcscd is unplugged, and
// replugged after any time; a client connects as early as it can. Each time it must power up
// and transmit.
func TestReplug(t *testing.T) {
	cycles := 100
	if soak() {
		cycles = 1000
	}
	starts := []string{"0s", "1ms", "20ms", "300ms"} // how long the device takes to start
	for _, start := range starts {
		t.Run("start="+start, func(t *testing.T) { replug(t, start, cycles/len(starts)) })
	}
}

func replug(t *testing.T, start string, cycles int) {
	own, err := time.ParseDuration(start)
	if err != nil {
		t.Fatal(err)
	}
	m := newMount(t, "--attach", "sim ikey3k start="+start)
	entry := conf("R0", "cardfs:"+m.Dir+"/by-id/sim-Rainbow_iKey_3000_IKEY3K-1-slot0")
	var s *pcscd.Server
	if own > time.Millisecond { // pcscd before the token, and after it
		s = newPcscd(t, entry)
		m.Start()
	} else {
		m.Start()
		s = newPcscd(t, entry)
	}
	c := newClient(t, s)
	var took []time.Duration
	random := rand.New(rand.NewPCG(1, uint64(cycles)))
	for i := range cycles {
		c.want("ok 9000", "work", name(0), selectMF)
		if t.Failed() {
			t.Fatalf("cycle %d", i)
		}
		if i%3 == 0 {
			m.Ctl("sim 0 unplug\nsim 0 plug") // immediately
		} else {
			m.Ctl("sim 0 unplug")
			if i%3 == 1 {
				c.want("ok", "await", name(0), "empty")
			}
			time.Sleep(time.Duration(random.IntN(30)) * time.Millisecond)
			m.Ctl("sim 0 plug")
		}
		plugged := time.Now()
		if got := c.say("send", selectMF); strings.HasPrefix(got, "ok") {
			t.Fatalf("cycle %d: the old handle speaks with the new token: %s", i, got)
		}
		c.want("ok 9000", "work", name(0), selectMF)
		took = append(took, time.Since(plugged)-own)
	}
	slices.Sort(took)
	t.Logf("%d cycles, device starts in %s; from plug to first APDU, without that: median %v, worst %v",
		cycles, start, took[len(took)/2], took[len(took)-1])
	if found := powerUpError.FindString(s.Log()); found != "" {
		t.Errorf("pcscd logged %q", found)
	}
}

func TestRestarts(t *testing.T) {
	m := mount(t, "--sim", "t1")
	s := newPcscd(t, conf("R0", "cardfs:"+m.Dir+"/0"))
	c := newClient(t, s)
	c.want("ok T=1", "soon", name(0))
	c.want("ok 9000", "send", selectMF)
	for _, step := range []struct {
		what string
		do   func()
	}{
		{"pcscd restarted", func() {
			if err := s.Restart(t.Context()); err != nil {
				t.Fatal(err)
			}
		}},
		{"pcscd shut down", func() {
			if err := s.Shutdown(); err != nil {
				t.Fatal(err)
			}
			if err := s.Restart(t.Context()); err != nil {
				t.Fatal(err)
			}
		}},
		{"pcscd killed", func() {
			if err := s.Kill(); err != nil {
				t.Fatal(err)
			}
			if err := s.Restart(t.Context()); err != nil {
				t.Fatal(err)
			}
		}},
		{"cardfs restarted", func() { m.Stop(); m.Start() }},
		{"cardfs killed", func() { m.Kill(); m.Start() }},
		{"cardfs away for a while", func() {
			m.Kill()
			c.want("ok", "await", name(0), "empty")
			m.Start()
		}},
	} {
		before := time.Now()
		step.do()
		if got := c.say("send", selectMF); strings.HasPrefix(got, "ok") {
			t.Errorf("%s: the old handle still speaks: %s", step.what, got)
		}
		c.want("ok 9000", "work", name(0), selectMF)
		t.Logf("%s: works again after %v", step.what, time.Since(before))
	}
	if found := powerUpError.FindString(s.Log()); found != "" {
		t.Errorf("pcscd logged %q", found)
	}
}

// TestOthersOnTheMount: pcscd powers down an unused card 5 seconds after its arrival. A
// script that has the card open keeps it powered.
func TestOthersOnTheMount(t *testing.T) {
	m := mount(t, "--sim", "t1")
	fd, err := daemon.Open(m.Path("0/apdu"), unix.O_RDWR)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	exchange := func() string {
		t.Helper()
		write := func() (int, error) { return unix.Write(fd, []byte(selectMF+"\n")) }
		if _, err := daemon.Uninterrupted(write); err != nil {
			return err.Error()
		}
		var p [16]byte
		n, err := daemon.Uninterrupted(func() (int, error) { return unix.Read(fd, p[:]) })
		if err != nil {
			return err.Error()
		}
		return string(bytes.TrimSpace(p[:n]))
	}
	if got := exchange(); got != "90 00" {
		t.Fatal(got)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	s := newPcscd(t, conf("R0", "cardfs:"+m.Dir+"/0"), pcscd.Debug())
	if err := s.WaitLog(ctx, "powerState: POWER_STATE_UNPOWERED"); err != nil {
		t.Fatal(err)
	}
	if got := exchange(); got != "90 00" {
		t.Errorf("with pcscd idle: %s", got)
	}
	// A client of pcscd is given a freshly reset card, as it should be.
	c := newClient(t, s)
	c.want("ok 9000", "work", name(0), selectMF)
	if got := exchange(); got != unix.ESTALE.Error() {
		t.Errorf("with a client of pcscd: %s", got)
	}
}

// TestPowerDownBesideTransaction: pcscd powers down unused cards in the thread that looks
// for cards. While another program holds the transaction, that thread continues to see
// cards. The card is reset for the next client.
func TestPowerDownBesideTransaction(t *testing.T) {
	m := mount(t, "--sim", "t1")
	s := newPcscd(t, conf("R0", "cardfs:"+m.Dir+"/0"), pcscd.Debug())
	c := newClient(t, s)
	c.want("ok 9000", "work", name(0), selectMF)
	unlock := holdCard(t, m)
	c.want("ok", "disconnect", "unpower")
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := s.WaitLog(ctx, "powerState: POWER_STATE_UNPOWERED"); err != nil {
		t.Fatal(err)
	}
	// Not in the way of what the thread is for: tried for some milliseconds, and not for
	// the seconds in which whoever else wants the card waits for another's transaction.
	tries := 0
	for line := range strings.Lines(m.Read("0/stats")) {
		fmt.Sscanf(line, "error-EBUSY %d", &tries)
	}
	if tries < 1 || tries > 20 {
		t.Errorf("the power-down was tried %d times", tries)
	}
	if got := m.Read("0/power"); got != "on\n" {
		t.Errorf("the holder's card: power %q", got)
	}
	m.Ctl("sim 0 remove")
	c.want("ok", "await", name(0), "empty")
	m.Ctl("sim 0 insert")
	unlock()
	c.want("ok 9000", "work", name(0), selectMF)
}

func TestManyReaders(t *testing.T) {
	sims := make([]string, 16)
	for i := range sims {
		sims[i] = []string{"t1", "t0", "apdu", "ikey3k"}[i%4]
	}
	_, first := up(t, sims...)
	clients := make([]*pcsc, len(sims))
	for i := range clients {
		clients[i] = newClientLike(first)
		clients[i].tell("soon", name(i))
	}
	for i, c := range clients {
		if got := c.answer(); !strings.HasPrefix(got, "ok T=") {
			t.Errorf("reader %d: %s", i, got)
		}
	}
	for range 20 {
		for _, c := range clients {
			c.tell("send", selectMF)
		}
		for i, c := range clients {
			if got := c.answer(); got != "ok 9000" {
				t.Errorf("reader %d: %s", i, got)
			}
		}
	}
}
