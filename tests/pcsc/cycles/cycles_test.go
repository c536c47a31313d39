// Package cycles has programs use the PC/SC library while readers and cards come and go.
package cycles

import (
	"context"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/cardfs/cardfs/tests/cc"
	"github.com/cardfs/cardfs/tests/internal/daemon"
	"github.com/cardfs/cardfs/tests/internal/proc"
)

var program string

func TestMain(m *testing.M) { daemon.Main(m, &program) }

// cycles is how often a reader leaves and comes back.
func cycles(t *testing.T) int {
	n, err := strconv.Atoi(os.Getenv("CARDFS_SOAK"))
	if err == nil && n > 0 {
		return n
	}
	return 40
}

// "1,000 plug cycles under eight clients in GetStatusChange, Connect, Transmit: no hang, no
// wrong answer, no leak (valgrind, address and thread sanitizers)."
func TestCycles(t *testing.T) {
	for _, kind := range []struct {
		name  string
		flags []string
		under []string
	}{
		{"address,undefined", []string{"-fsanitize=address,undefined", "-fno-sanitize-recover=all"}, nil},
		{"thread", []string{"-fsanitize=thread"}, nil},
		{"valgrind", nil, []string{"valgrind", "-q", "--sim-hints=lax-ioctls", "--leak-check=full", "--show-leak-kinds=all", "--errors-for-leak-kinds=all", "--error-exitcode=9"}},
	} {
		t.Run(kind.name, func(t *testing.T) { run(t, kind.flags, kind.under) })
	}
}

func run(t *testing.T, flags, under []string) {
	client := filepath.Join(t.TempDir(), "cycles")
	target := cc.PCSC()
	target.Shared = false
	target.Sources = append(target.Sources, "tests/pcsc/cycles/testdata/cycles.c")
	target.Include = append(target.Include, "ctapi/clib/pcsc")
	target.Flags = append([]string{"-U_GNU_SOURCE", "-O1", "-fno-omit-frame-pointer"}, flags...)
	if err := cc.Build(t.Context(), client, target); err != nil {
		t.Fatal(err)
	}

	d := daemon.Start(t, program, daemon.MountPoint(t))
	for range 3 {
		d.Ctl("attach sim apdu card=echo")
	}
	for _, n := range []string{"0", "1", "2"} {
		d.Await(n+"/status", "state present")
	}

	cmd := exec.Command(client)
	if len(under) > 0 {
		cmd = exec.Command(under[0], append(under[1:], client)...)
	}
	cmd.Env = append(os.Environ(), "CARDFS_MOUNT="+d.Dir, "ASAN_OPTIONS=detect_stack_use_after_return=1")
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	log := new(proc.Log)
	p, err := proc.Start(cmd, log)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Kill()

	random := rand.New(rand.NewPCG(1, 2))
	at := func(n int, what string) { d.Ctl("sim %d %s", n, what) }
	pause := func() { time.Sleep(time.Duration(random.IntN(20)) * time.Millisecond) } // a moment that the clients do not choose
	total := cycles(t)
	for i := range total {
		n := random.IntN(3)
		switch random.IntN(3) {
		case 0:
			at(n, "remove")
			pause()
			at(n, "insert")
			pause()
		case 1:
			at(n, "remove")
			at(n, "insert echo") // another card, before a client notices
			pause()
		}
		at(n, "unplug")
		pause()
		at(n, "plug")
		if i%8 == 0 { // the clients get to use them
			for _, n := range []string{"0", "1", "2"} {
				d.Await(n+"/status", "state p")
			}
		}
		pause()
	}
	stdin.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	select {
	case <-p.Ended():
	case <-ctx.Done():
		t.Errorf("the clients do not end")
		p.Kill()
	}
	if err := p.Wait(); err != nil {
		t.Errorf("%v", err)
	}
	t.Logf("%d cycles: %s", total, log)
}
