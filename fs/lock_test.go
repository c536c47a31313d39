package fs

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"

	"golang.org/x/sys/unix"

	"github.com/cardfs/cardfs/reader"
)

// flock(2) on a file where it means nothing else is what it is anywhere.
func TestAdvisory(t *testing.T) {
	var a advisory
	const shared, exclusive = true, false
	try := func(owner string, how bool, want error) {
		t.Helper()
		if err := a.lock(bg, owner, how, false); !errors.Is(err, want) {
			t.Errorf("%s, shared %v: %v, want %v", owner, how, err, want)
		}
	}
	try("a", shared, nil)
	try("b", shared, nil)
	try("c", exclusive, reader.ErrLocked)
	try("a", exclusive, reader.ErrLocked) // and a's shared one is gone
	a.unlock("b")
	try("c", exclusive, nil)
	try("c", exclusive, nil)
	try("a", shared, reader.ErrLocked)
	try("c", shared, nil)
	try("a", shared, nil)
	a.unlock("nobody")
	a.unlock("a")
	a.unlock("c")
	try("d", exclusive, nil)
}

func TestAdvisoryWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var a advisory
		a.lock(bg, "a", true, true)
		a.lock(bg, "b", true, true)
		done := make(chan string, 3)
		// Both want theirs to be exclusive: one after the other gets it.
		for _, owner := range []string{"a", "b"} {
			go func() {
				if err := a.lock(bg, owner, false, true); err != nil {
					t.Error(err)
				}
				a.unlock(owner)
				done <- owner
			}()
		}
		<-done
		<-done
		a.lock(bg, "a", false, true)
		ctx, cancel := context.WithCancel(bg)
		go func() {
			if err := a.lock(ctx, "c", true, true); !errors.Is(err, reader.ErrInterrupted) {
				t.Errorf("interrupted: %v", err)
			}
			done <- "c"
		}()
		synctest.Wait()
		cancel()
		<-done
		a.unlock("a")
		if len(a.holders) != 0 {
			t.Errorf("still held: %v", a.holders)
		}
	})
}

// The descent test of a lock on a read-only open: the process itself, by any of
// its threads, its children and theirs; nobody else.
func TestBegat(t *testing.T) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	me, err := processOf(uint32(unix.Gettid()))
	if err != nil || me.tgid != os.Getpid() {
		t.Fatalf("%+v, %v", me, err)
	}
	child := exec.Command("sh", "-c", "sleep 60 & echo $!; wait")
	out, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	var buf [32]byte
	n, err := out.Read(buf[:])
	if err != nil {
		t.Fatal(err)
	}
	grandchild := 0
	for _, c := range strings.TrimSpace(string(buf[:n])) {
		grandchild = grandchild*10 + int(c-'0')
	}
	theirs, err := processOf(uint32(child.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	reused := me
	reused.start = "0"
	for _, tt := range []struct {
		name string
		p    process
		tid  int
		want bool
	}{
		{"its own thread", me, unix.Gettid(), true},
		{"its own process", me, os.Getpid(), true},
		{"its child", me, child.Process.Pid, true},
		{"its grandchild", me, grandchild, true},
		{"the child's own child", theirs, grandchild, true},
		{"its parent", me, os.Getppid(), false},
		{"the child's parent", theirs, os.Getpid(), false},
		{"init", me, 1, false},
		{"nobody", me, 0, false},
		{"a thread that is gone", me, 1 << 30, false},
		{"a process that has the pid of one that ended", reused, os.Getpid(), false},
	} {
		if got := tt.p.begat(uint32(tt.tid)); got != tt.want {
			t.Errorf("%s: %v, want %v", tt.name, got, tt.want)
		}
	}
	unix.Kill(grandchild, unix.SIGKILL)
	child.Process.Kill()
	child.Wait()
	if theirs.begat(uint32(os.Getpid())) {
		t.Error("a process that ended begat somebody")
	}
}
