package remote

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/cardfs/cardfs/tests/cc"
	"github.com/cardfs/cardfs/tests/internal/daemon"
	"github.com/cardfs/cardfs/tests/internal/proc"
	"github.com/cardfs/cardfs/tests/internal/sshd"
	"github.com/cardfs/cardfs/tests/libcacard"
	"github.com/cardfs/cardfs/tests/pcscd"
)

// patience bounds what takes seconds on an idle machine.
const patience = 5 * time.Minute

// there is a machine with readers, which others reach by ssh.
type there struct {
	*daemon.Daemon
	sshd *sshd.Server
}

func machineThere(t *testing.T, flags ...string) *there {
	t.Helper()
	// ClientAlive…: sshd asks nothing of its own accord, and a client whose cable was pulled
	// would keep its opens, and so the lock, until TCP gives up.
	server := sshd.New(t, "ClientAliveInterval 2", "ClientAliveCountMax 2")
	return &there{daemon.Start(t, program, daemon.MountPoint(t), append([]string{"--usb=off"}, flags...)...), server}
}

// attach is the words of `attach` for the machine, through a port of its sshd or of a line.
func (m *there) attach(port int) string {
	return fmt.Sprintf("remote %s identity=%s known-hosts=%s", m.sshd.URL(port, m.Dir), m.sshd.Identity, m.sshd.KnownHosts)
}

// machineHere is a machine without readers, to which the readers of another are attached.
func machineHere(t *testing.T, m *there, port int) *daemon.Daemon {
	t.Helper()
	d := daemon.Start(t, program, daemon.MountPoint(t), "--usb=off")
	d.Ctl("attach %s", m.attach(port))
	d.Await("0/status", "state ")
	return d
}

// A card of another project, at another machine, by files and by pcscd here: its ATR, its
// certificates, and a signature that openssl verifies.
func TestCardThere(t *testing.T) {
	runtimeDir(t)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	card, err := libcacard.New(ctx, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	socket := "unix:" + filepath.Join(t.TempDir(), "card")
	far := machineThere(t, "--attach", "vpcd "+socket)
	here := machineHere(t, far, far.sshd.Port)
	in, err := card.Insert(ctx, socket)
	if err != nil {
		t.Fatal(err)
	}
	run := func(name string, args ...string) string {
		t.Helper()
		out, err := exec.CommandContext(ctx, name, args...).Output()
		if err != nil {
			t.Fatalf("%s %q: %v", name, args, err)
		}
		return string(out)
	}
	if a, b := run("cat", here.Path("0/atr")), run("cat", far.Path("0/atr")); a != b || !strings.HasPrefix(a, "3B 7A 18") {
		t.Errorf("ATR %q here, %q there", a, b)
	}
	for i, name := range libcacard.Certificates {
		got := run(filepath.Join(cc.Root(), "tests/libcacard/readcert"), here.Path("0"), fmt.Sprintf("A00000007901%02d", i))
		want, err := card.Certificate(ctx, name)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal([]byte(got), want) {
			t.Errorf("%s: %d bytes from the card, %d in the database, and not the same", name, len(got), len(want))
		}
	}

	library := filepath.Join(t.TempDir(), "libifdcardfs.so")
	if err := cc.Build(ctx, library, cc.IFDHandler()); err != nil {
		t.Fatal(err)
	}
	srv, err := pcscd.Start(ctx, t.TempDir(), fmt.Sprintf("DEVICENAME cardfs:%s/0\nLIBPATH %s\nFRIENDLYNAME \"cardfs\"\n", here.Dir, library))
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := srv.Close(); err != nil {
			t.Error(err)
		}
	}()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "data"), []byte("signed by a card at another machine\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	script := srv.Command(ctx, "sh", "-euxc", `
until opensc-tool --atr; do sleep 0.1; done
pkcs15-tool --read-certificate 0001 --output cert.pem
openssl dgst -sha256 -binary data >digest
pkcs15-crypt --sign --key 0001 --pin `+libcacard.PIN+` --pkcs1 --sha-256 --raw --input digest --output signature
openssl x509 -in cert.pem -noout -pubkey -out key.pem
openssl dgst -sha256 -verify key.pem -signature signature data`)
	script.Dir = dir
	if out, err := script.CombinedOutput(); err != nil || !strings.Contains(string(out), "Verified OK") {
		t.Errorf("through pcscd: %v\n%s\npcscd:\n%s", err, out, srv.Log())
	}
	if err := in.Remove(); err != nil {
		t.Error(err)
	}
	here.Await("0/status", "state empty")
}

// follow returns what crosses a slot of the machine from now on.
func (m *there) follow(t *testing.T, slot int) *proc.Log {
	t.Helper()
	var log proc.Log
	cat, err := proc.Start(exec.Command("cat", m.Path(fmt.Sprintf("%d/trace", slot))), &log)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cat.Kill)
	return &log
}

// numbered is a command of a client, as the trace has it.
var numbered = regexp.MustCompile(`> C-APDU 80 EE 00 00 02 (..) (..)`)

// "Sequences never interleave": clients of two machines use one card by the lines lock and
// unlock, in languages that have no flock(2), and one by flock(1). Each command is once at the
// card.
func TestSequencesDoNotInterleave(t *testing.T) {
	runtimeDir(t)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	far := machineThere(t, "--sim", "t1")
	trace := far.follow(t, 0)
	one, other := machineHere(t, far, far.sshd.Port), machineHere(t, far, far.sshd.Port)
	const rounds = 5
	clients := []struct {
		at      *daemon.Daemon
		program string
		words   []string
	}{
		{one, "perl", []string{"testdata/client.pl"}},
		{one, "java", []string{"testdata/Client.java"}},
		{other, "node", []string{"testdata/client.js"}},
		{other, "bash", []string{"testdata/client.sh"}},
		{far.Daemon, "perl", []string{"testdata/client.pl"}},
	}
	want := 0
	var running []*proc.Process
	for i, c := range clients {
		if _, err := exec.LookPath(c.program); err != nil {
			t.Logf("NOT TESTED: no %s", c.program)
			continue
		}
		want += 3 * rounds
		cmd := exec.CommandContext(ctx, c.program, append(c.words, c.at.Path("0"), fmt.Sprint(i+1), fmt.Sprint(rounds))...)
		p, err := proc.Start(cmd, new(proc.Log))
		if err != nil {
			t.Fatal(err)
		}
		running = append(running, p)
	}
	for _, p := range running {
		select {
		case <-p.Ended():
			if err := p.Wait(); err != nil {
				t.Error(err)
			}
		case <-ctx.Done():
			t.Fatalf("%s hangs; the card saw\n%s", p.Cmd, numbered.FindAllString(trace.String(), -1))
		}
	}
	if t.Failed() {
		return
	}
	// The trace may be behind the clients, but not for long.
	daemon.Eventually(t, "the trace has all commands", func() bool { return len(numbered.FindAllString(trace.String(), -1)) >= want })
	seen := numbered.FindAllStringSubmatch(trace.String(), -1)
	if len(seen) != want {
		t.Errorf("%d commands at the card, %d sent", len(seen), want)
	}
	for i, m := range seen {
		if step := i%3 + 1; m[2] != fmt.Sprintf("%02X", step) || m[1] != seen[i/3*3][1] {
			t.Fatalf("command %d is %s; sequences interleave:\n%q", i, m[0], seen)
		}
	}
}

// "The locker's machine dies": its daemon is killed, or its cable pulled. The transaction ends
// with its connection, at the latest with sshd's keep-alive.
func TestLockerDies(t *testing.T) {
	for name, dies := range map[string]func(*daemon.Daemon, *sshd.Line){
		"killed": func(d *daemon.Daemon, _ *sshd.Line) { d.Kill() },
		"pulled": func(_ *daemon.Daemon, l *sshd.Line) { l.Hold() },
	} {
		t.Run(name, func(t *testing.T) {
			runtimeDir(t)
			far := machineThere(t, "--sim", "t1")
			trace := far.follow(t, 0)
			line := far.sshd.NewLine(t)
			one, other := machineHere(t, far, line.Port), machineHere(t, far, far.sshd.Port)
			var log proc.Log
			locker, err := proc.Start(exec.Command("bash", "-ec", `exec 3<>"$0/apdu"; echo lock >&3; read -r ok <&3; echo 80EE0000020101 >&3; read -r sw <&3; echo "$ok $sw"; exec sleep inf`, one.Path("0")), &log)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(locker.Kill)
			if err := locker.Await(t.Context(), "ok 90 00"); err != nil {
				t.Fatal(err)
			}
			waiter, err := proc.Start(exec.Command("bash", "-ec", `exec 3<>"$0/apdu"; echo 80EE0000020201 >&3; echo written; read -r sw <&3; echo "$sw"`, other.Path("0")), &log)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(waiter.Kill)
			if err := waiter.Await(t.Context(), "written"); err != nil {
				t.Fatal(err)
			}
			if said := trace.String(); strings.Contains(said, "80 EE 00 00 02 02") {
				t.Errorf("a command got into another's transaction:\n%s", said)
			}
			begin, from := time.Now(), log.Len()
			dies(one, line)
			if err := waiter.AwaitFrom(t.Context(), "90 00", from); err != nil {
				t.Fatalf("%v\n%s", err, trace)
			}
			t.Logf("the next client had its answer %v later", time.Since(begin).Round(time.Millisecond))
		})
	}
}

// A wrong key, an unknown host, a directory that is no cardfs, a cardfs of another version:
// `cardfs attach` says each in words.
func TestAttachSaysWhatIsWrong(t *testing.T) {
	runtimeDir(t)
	far := machineThere(t, "--sim", "t1")
	far.sshd.Key(t, "stranger")
	none, old := far.sshd.File("none"), t.TempDir()
	for name, text := range map[string]string{none: "", filepath.Join(old, "ctl"): "driver sim\n", filepath.Join(old, "event"): ""} {
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	here := daemon.Start(t, program, daemon.MountPoint(t), "--usb=off")
	url := far.sshd.URL(far.sshd.Port, far.Dir)
	for _, tc := range []struct{ name, url, identity, known, want string }{
		{"a wrong key", url, far.sshd.File("stranger"), far.sshd.KnownHosts, "does not accept the key"},
		{"an unknown host", url, far.sshd.Identity, none, "is not known: compare its fingerprint"},
		{"no cardfs", far.sshd.URL(far.sshd.Port, t.TempDir()), far.sshd.Identity, far.sshd.KnownHosts, "no cardfs"},
		{"an older cardfs", far.sshd.URL(far.sshd.Port, old), far.sshd.Identity, far.sshd.KnownHosts, "older cardfs"},
		{"a password", "ssh://ann:secret@lab", far.sshd.Identity, far.sshd.KnownHosts, "has a password"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			out, err := exec.CommandContext(ctx, program, "attach", "--mount", here.Dir, "--wait", "2m", "remote", tc.url, "identity="+tc.identity, "known-hosts="+tc.known).CombinedOutput()
			if err == nil || !strings.Contains(string(out), tc.want) {
				t.Errorf("%v: %s\nwant %q", err, out, tc.want)
			}
			t.Logf("%s", out)
			if tc.want != "has a password" {
				here.Ctl("detach remote %s", tc.url)
			}
		})
	}
}
