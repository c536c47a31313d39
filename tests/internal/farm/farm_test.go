package farm

import (
	"context"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/cardfs/cardfs/tests/internal/daemon"
	"github.com/cardfs/cardfs/tests/internal/proc"
)

var program string

func TestMain(m *testing.M) { daemon.Main(m, &program) }

func (f *Farm) send(ctx context.Context, slot int) (string, error) {
	out, err := exec.CommandContext(ctx, program, "send", "--mount", f.Dir, strconv.Itoa(slot), "00A4000C023F00").CombinedOutput()
	return strings.TrimSpace(string(out)), err
}

// "One machine that hangs disturbs no other." Its own clients wait, and go on with it.
func TestHang(t *testing.T) {
	f, err := Start(t.Context(), Options{Cardfs: program, Dir: t.TempDir(), Machines: 3, Readers: 2})
	defer func() {
		if err := f.Close(); err != nil {
			t.Error(err)
		}
	}()
	if err != nil {
		t.Fatal(err)
	}
	sound := func() {
		t.Helper()
		for _, m := range f.Machines[1:] {
			for _, n := range m.Slots {
				if out, err := f.send(t.Context(), n); err != nil || out != "90 00" {
					t.Errorf("%s, slot %d: %q, %v", m.Name, n, out, err)
				}
			}
		}
	}
	sound()
	sick := f.Machines[0]
	if out, err := f.send(t.Context(), sick.Slots[0]); err != nil || out != "90 00" {
		t.Errorf("%s: %q, %v", sick.Name, out, err)
	}
	sick.Hang()
	var log proc.Log
	waits, err := proc.Start(exec.Command(program, "send", "--mount", f.Dir, strconv.Itoa(sick.Slots[0]), "00A4000C023F00"), &log)
	if err != nil {
		t.Fatal(err)
	}
	sound()
	// One that is detached meanwhile leaves a file there that cannot be closed.
	killed, err := proc.Start(exec.Command(program, "send", "--mount", f.Dir, strconv.Itoa(sick.Slots[1]), "00A4000C023F00"), new(proc.Log))
	if err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(program, "detach", "--mount", f.Dir, strconv.Itoa(sick.Slots[1])).CombinedOutput(); err != nil {
		t.Errorf("detach: %v\n%s", err, out)
	}
	killed.Kill()
	sound()
	if out, err := exec.Command(program, "list", "--mount", f.Dir).CombinedOutput(); err != nil || strings.Count(string(out), "\n") != 1+5 {
		t.Errorf("list: %v\n%s", err, out)
	}
	if out, err := exec.Command("cat", filepath.Join(f.Dir, strconv.Itoa(sick.Slots[0]), "status")).CombinedOutput(); err != nil || !strings.Contains(string(out), "\nhost "+sick.Name+"\n") {
		t.Errorf("status: %v\n%s", err, out)
	}
	if !waits.Alive() {
		t.Errorf("an exchange with a machine that hangs has ended: %s", &log)
	}
	sick.Resume()
	if err := waits.Wait(); err != nil || log.String() != "90 00\n" {
		t.Errorf("after the machine has gone on: %q, %v", &log, err)
	}
}
