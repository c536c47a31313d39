package fs

import (
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/cardfs/cardfs/reader/core"
)

// openedBy is an open by the process who; handle makes its kind.
func openedBy(handle func(opening) any, who process, uid uint32) core.Caller {
	o := opening{who: who, uid: uid}
	if who == (process{}) {
		o.unknown = errUnknownProcess
	}
	return core.Caller{Owner: handle(o)}
}

func anAPDU(o opening) any    { return &apduFile{opening: o} }
func aControl(o opening) any  { return &controlFile{opening: o} }
func aCTBCS(o opening) any    { return &ctbcsFile{opening: o} }
func aTextFile(o opening) any { return &textFile{opening: o} }

// The rules of holder's comment on which processes pass a lock.
func TestHolderAdmits(t *testing.T) {
	opener, child, grandchild, stranger := process{10, 100}, process{20, 200}, process{30, 300}, process{40, 150}
	table := map[int]procStat{
		10: {process: opener, parent: 1}, 20: {process: child, parent: 10}, 30: {process: grandchild, parent: 20},
		40: {process: stranger, parent: 1}, 1: {process: process{1, 1}},
	}
	stat := func(pid int) (procStat, error) {
		if s, ok := table[pid]; ok {
			return s, nil
		}
		return procStat{}, os.ErrNotExist
	}
	for _, apdus := range []bool{true, false} {
		h := &holder{opening: &opening{who: opener}, table: stat, apdus: apdus}
		for name, handle := range map[string]func(opening) any{"apdu": anAPDU, "control": aControl, "ctbcs": aCTBCS, "a text file": aTextFile} {
			for who, want := range map[process]bool{opener: true, child: true, grandchild: true, stranger: false, {}: false, {1, 1}: false} {
				want = want && (apdus || name != "apdu")
				if got := h.admits(openedBy(handle, who, 0)); got != want {
					t.Errorf("a lock that lets opens of apdu pass: %v. %s of %v: %v", apdus, name, who, got)
				}
			}
		}
		unknown := &holder{opening: &opening{unknown: errUnknownProcess}, table: stat, apdus: apdus}
		if unknown.admits(openedBy(aControl, process{}, 0)) || unknown.admits(openedBy(aControl, child, 0)) {
			t.Error("a lock of who is not known lets others pass")
		}
		if h.admits(core.Caller{Owner: "somebody"}) {
			t.Error("an open that is not ours passes")
		}
	}

	// "When a process passes, all between it and the opener are remembered too."
	h := &holder{opening: &opening{who: opener}, table: stat, apdus: true}
	if !h.admits(openedBy(anAPDU, grandchild, 0)) {
		t.Fatal("a grandchild does not pass")
	}
	delete(table, 10)
	table[20] = procStat{process: child, parent: 1}
	table[50] = procStat{process: process{50, 500}, parent: 20}
	for _, who := range []process{child, grandchild, {50, 500}} {
		if !h.admits(openedBy(anAPDU, who, 1000)) {
			t.Errorf("%v passed, or its parent did, and does not any more", who)
		}
	}
	delete(table, 20)
	table[50] = procStat{process: process{50, 500}, parent: 1}
	if !h.admits(openedBy(anAPDU, process{50, 500}, 0)) {
		t.Error("a child of who passed does not any more")
	}
	if h.admits(openedBy(anAPDU, stranger, 0)) {
		t.Error("a stranger passes")
	}
	fresh := &holder{opening: &opening{who: opener}, table: stat, apdus: true}
	if fresh.admits(openedBy(anAPDU, process{50, 500}, 0)) {
		t.Error("who passed another's lock passes this one")
	}
}

// A script may start any number of processes. The holder forgets those that ended.
func TestHolderForgets(t *testing.T) {
	h := &holder{table: func(pid int) (procStat, error) {
		if pid%100 == 0 {
			return procStat{process: process{pid, 1}}, nil
		}
		return procStat{}, os.ErrNotExist
	}}
	for pid := range 100_000 {
		h.remember([]process{{pid, 1}})
		if len(h.passed) > 4096 {
			t.Fatalf("%d are remembered after %d, of which %d live", len(h.passed), pid, pid/100)
		}
	}
	for pid := 0; pid < 100_000; pid += 100 {
		if !h.remembers(process{pid, 1}) {
			t.Fatalf("%d is forgotten and lives", pid)
		}
	}
}

// "When the opener is dead and the lock still held, a process of the opener's user passes
// if it or an ancestor holds a descriptor of this apdu."
func TestHolderIsDead(t *testing.T) {
	name := filepath.Join(t.TempDir(), "apdu")
	if err := os.WriteFile(name, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	shell, child := sleepers(t, f)
	f.Close()
	sh, sleep := known(t, shell), known(t, child)
	held, err := inodeOf(name)
	if err != nil {
		t.Fatal(err)
	}
	gone := process{1 << 30, 1}
	const uid = 1000
	for _, tt := range []struct {
		name  string
		who   process
		uid   uint32
		file  inode
		mode  uint64
		alive bool
		want  bool
	}{
		{"who holds it", sh, uid, held, syscall.O_RDONLY, false, true},
		{"its child", sleep, uid, held, syscall.O_RDONLY, false, true},
		{"another user's", sh, uid + 1, held, syscall.O_RDONLY, false, false},
		{"the opener lives", sh, uid, held, syscall.O_RDONLY, true, false},
		{"another file", sh, uid, inode{held.major, held.minor, held.number + 1}, syscall.O_RDONLY, false, false},
		{"another file system", sh, uid, inode{held.major, held.minor + 1, held.number}, syscall.O_RDONLY, false, false},
		{"an open of another kind", sh, uid, held, syscall.O_RDWR, false, false},
		{"one that is gone", gone, uid, held, syscall.O_RDONLY, false, false},
	} {
		h := &holder{opening: &opening{who: process{1<<30 + 1, 7}, uid: uid}, table: statOf, apdus: true, file: tt.file, mode: tt.mode}
		if tt.alive {
			// A process that is not an ancestor.
			other := exec.Command("sleep", "60")
			if err := other.Start(); err != nil {
				t.Fatal(err)
			}
			h.who = known(t, other.Process.Pid)
			if h.admits(openedBy(anAPDU, tt.who, tt.uid)) {
				t.Errorf("%s: it passes", tt.name)
			}
			// A process that was killed but not waited for counts as dead, and its children have
			// another parent.
			other.Process.Kill()
			if err := unix.Waitid(unix.P_PID, h.who.pid, nil, unix.WEXITED|unix.WNOWAIT, nil); err != nil {
				t.Fatal(err)
			}
			if !h.admits(openedBy(anAPDU, tt.who, tt.uid)) {
				t.Errorf("the opener is dead: who holds its descriptor does not pass")
			}
			other.Wait()
			continue
		}
		if got := h.admits(openedBy(anAPDU, tt.who, tt.uid)); got != tt.want {
			t.Errorf("%s: %v, want %v", tt.name, got, tt.want)
		}
		if got := h.remembers(sh); got != tt.want {
			t.Errorf("%s: the holder of the descriptor is remembered: %v", tt.name, got)
		}
	}
}
