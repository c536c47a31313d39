package fs

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"
)

// sleepers starts a shell with a child and returns their ids. The shell alone has files.
func sleepers(t *testing.T, files ...*os.File) (shell, child int) {
	t.Helper()
	cmd := exec.Command("sh", "-c", "{ exec 3<&-; echo 0; exec sleep 60; } & echo $!; wait")
	cmd.ExtraFiles = files
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		var n int
		if _, err := fmt.Fscan(out, &n); err != nil {
			t.Fatal(err)
		}
		child = max(child, n)
	}
	t.Cleanup(func() {
		unix.Kill(child, unix.SIGKILL)
		cmd.Process.Kill()
		cmd.Wait()
	})
	return cmd.Process.Pid, child
}

func known(t *testing.T, pid int) process {
	t.Helper()
	p, fd, err := lookUp(uint32(pid))
	unix.Close(fd)
	if err != nil || p.pid != pid || p.start == 0 {
		t.Fatalf("process %d: %+v, %v", pid, p, err)
	}
	return p
}

// Any thread's id leads to the process that opened. Where /proc gives no answer, the process
// is unknown.
func TestProcessOf(t *testing.T) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	me := known(t, os.Getpid())
	var o openers
	t.Cleanup(o.drop)
	if p, err := o.processOf(uint32(unix.Gettid())); err != nil || p != me {
		t.Errorf("by its thread: %+v, %v; want %+v", p, err, me)
	}
	// A thread other than the first.
	tids := make(chan int)
	let := make(chan bool)
	for range 2 {
		go func() {
			runtime.LockOSThread()
			tids <- unix.Gettid()
			<-let
		}()
	}
	for range 2 {
		if tid := <-tids; tid != os.Getpid() {
			if p, err := o.processOf(uint32(tid)); err != nil || p != me {
				t.Errorf("by thread %d: %+v, %v; want %+v", tid, p, err, me)
			}
		}
	}
	close(let)
	for _, tid := range []uint32{0, 1 << 30} {
		if p, err := o.processOf(tid); !errors.Is(err, errUnknownProcess) || p != (process{}) {
			t.Errorf("thread %d: %+v, %v", tid, p, err)
		}
	}
}

// drop forgets all processes.
func (o *openers) drop() {
	o.forget()
	o.forget()
}

func (o *openers) pids() (pids []int) {
	for _, k := range o.kept {
		pids = append(pids, k.pid)
	}
	return pids
}

func pidfd(t *testing.T, pid int) int {
	t.Helper()
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		t.Fatal(err)
	}
	return fd
}

// isPidfd reports whether fd is a pidfd still, and of a process with this id.
func isPidfd(fd, pid int) bool {
	text, err := os.ReadFile(fmt.Sprintf("/proc/self/fdinfo/%d", fd))
	return err == nil && strings.Contains(string(text)+"\n", fmt.Sprintf("\nPid:\t%d\n", pid))
}

// A process that opened a moment ago is not looked up again while it lives. Once it ended, its
// id may belong to another.
func TestOpeners(t *testing.T) {
	var o openers
	t.Cleanup(o.drop)
	shell, child := sleepers(t)

	mark := process{pid: child, start: 7} // not what /proc says
	o.keep(mark, pidfd(t, child))
	for range 3 {
		if p, err := o.processOf(uint32(child)); err != nil || p != mark {
			t.Errorf("while it lives: %+v, %v", p, err)
		}
	}
	// Another process's id is looked up anew.
	if p, err := o.processOf(uint32(shell)); err != nil || p != known(t, shell) {
		t.Errorf("another: %+v, %v", p, err)
	}

	ended := exec.Command("true")
	if err := ended.Start(); err != nil {
		t.Fatal(err)
	}
	fd := pidfd(t, ended.Process.Pid)
	if err := ended.Wait(); err != nil {
		t.Fatal(err)
	}
	// As if the shell had the id of the one that ended.
	o.drop()
	o.keep(process{pid: shell, start: 7}, fd)
	if p, err := o.processOf(uint32(shell)); err != nil || p != known(t, shell) {
		t.Errorf("an id that is used again: %+v, %v; want %+v", p, err, known(t, shell))
	}
	if n := len(o.kept); n != 1 || o.kept[0].process != known(t, shell) {
		t.Errorf("kept: %+v", o.kept)
	}
	if isPidfd(fd, -1) { // -1: what a pidfd shows once its process was reaped
		t.Error("the descriptor of the one that ended is open")
	}

	unix.Close(o.kept[0].fd)
	if lives(o.kept[0].fd) {
		t.Error("a descriptor that is none tells of a life")
	}
	o.kept = nil
}

// Only a few are kept. The descriptors of the others are closed.
func TestOpenersAreFew(t *testing.T) {
	var o openers
	t.Cleanup(o.drop)
	me := os.Getpid()
	var fds []int
	for i := range mostOpeners + 3 {
		fds = append(fds, pidfd(t, me))
		o.keep(process{pid: i + 1}, fds[i])
	}
	if n := len(o.kept); n != mostOpeners || o.kept[0].pid != 4 || o.kept[n-1].pid != mostOpeners+3 {
		t.Errorf("kept: %v", o.pids())
	}
	twice := pidfd(t, me)
	o.keep(process{pid: mostOpeners}, twice)
	if n := len(o.kept); n != mostOpeners || isPidfd(twice, me) {
		t.Errorf("kept: %v", o.pids())
	}
	for i, fd := range fds {
		// The first three were dropped. (Their descriptors' numbers may be in use again.)
		if kept := i >= 3; kept && !isPidfd(fd, me) {
			t.Errorf("descriptor %d is closed", i)
		}
	}
	o.forget() // all were used since the last time
	if n := len(o.kept); n != mostOpeners {
		t.Errorf("kept: %v", o.pids())
	}
	if _, ok := o.find(5); !ok {
		t.Error("a process is not found")
	}
	o.forget()
	if got := o.pids(); len(got) != 1 || got[0] != 5 || !isPidfd(o.kept[0].fd, me) {
		t.Errorf("kept: %v", got)
	}
	o.forget()
	if len(o.kept) != 0 {
		t.Errorf("kept: %v", o.pids())
	}
	left := 0
	for _, fd := range fds {
		if isPidfd(fd, me) {
			left++
		}
	}
	if left != 0 {
		t.Errorf("%d descriptors are left open", left)
	}
}

// When nobody opens anything, no process is kept for long.
func TestOpenersAreForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var o openers
		fd := pidfd(t, os.Getpid())
		o.keep(process{pid: 1}, fd)
		for range 4 {
			time.Sleep(openersKept * 3 / 4)
			if _, ok := o.find(1); !ok {
				t.Fatal("forgotten while it opens")
			}
		}
		time.Sleep(2*openersKept + 1)
		synctest.Wait()
		if len(o.kept) != 0 || isPidfd(fd, os.Getpid()) {
			t.Errorf("kept: %v", o.pids())
		}
		// And once more.
		o.keep(process{pid: 1}, pidfd(t, os.Getpid()))
		time.Sleep(2*openersKept + 1)
		synctest.Wait()
		if len(o.kept) != 0 {
			t.Errorf("kept: %v", o.pids())
		}
	})
}

// A command's name may hold any characters.
func TestParseStat(t *testing.T) {
	rest := " 7 3 3 0 -1 4194304 1 0 0 0 0 0 0 0 20 0 1 0 %d 100 1"
	for _, name := range []string{"sh", "a b", "a) Z 9 (b", ")", "(", ""} {
		s, err := parseStat(fmt.Appendf(nil, "42 (%s) S"+rest, name, 1234))
		if err != nil || s.parent != 7 || s.start != 1234 || s.ended {
			t.Errorf("%q: %+v, %v", name, s, err)
		}
	}
	for state, ended := range map[string]bool{"S": false, "R": false, "D": false, "T": false, "Z": true, "X": true} {
		if s, err := parseStat(fmt.Appendf(nil, "42 (sh) "+state+rest, 1)); err != nil || s.ended != ended {
			t.Errorf("state %s: %+v, %v", state, s, err)
		}
	}
	// The start time, field 22, is the last that is needed.
	until22 := "42 (sh) S 7 3 3 0 -1 4194304 1 0 0 0 0 0 0 0 20 0 1 0"
	if s, err := parseStat([]byte(until22 + " 1234")); err != nil || s.start != 1234 {
		t.Errorf("22 fields: %+v, %v", s, err)
	}
	for _, bad := range []string{until22, "", "42 (sh", "42 (sh) S 7", "42 (sh) S x" + strings.Repeat(" 1", 20), "42 (sh) S 7" + strings.Repeat(" x", 20)} {
		if s, err := parseStat([]byte(bad)); err == nil {
			t.Errorf("%q: %+v", bad, s)
		}
	}
}

// The descent test on real processes.
func TestAncestors(t *testing.T) {
	shell, child := sleepers(t)
	me, sh, sleep := known(t, os.Getpid()), known(t, shell), known(t, child)
	reused := me
	reused.start--
	for _, tt := range []struct {
		name     string
		who, of  process
		want     bool
		ancestry int
	}{
		{"itself", me, me, true, 0},
		{"a child", sh, me, true, 1},
		{"a grandchild", sleep, me, true, 2},
		{"the child's own child", sleep, sh, true, 1},
		{"the parent of the opener", me, sh, false, 0},
		{"a sibling", sh, sleep, false, 0},
		{"a descendant of one that had the opener's id before", sleep, reused, false, 0},
		{"one that has another's id", reused, reused, false, 0},
		{"one that is gone", process{1 << 30, 1}, me, false, 0},
		{"everybody's ancestor", me, known(t, 1), true, -1},
	} {
		line, got := processTable(statOf).ancestors(tt.who, func(p process) bool { return p == tt.of })
		if got != tt.want || got && tt.ancestry >= 0 && len(line) != tt.ancestry {
			t.Errorf("%s: %v by %v, want %v by %d", tt.name, got, line, tt.want, tt.ancestry)
		}
	}
	if !processTable(statOf).alive(me) || processTable(statOf).alive(reused) {
		t.Error("alive")
	}
}

// made is a process table made for a test: each look at a process returns its next state.
type made struct {
	t     *testing.T
	looks map[int][]procStat
}

func (m *made) stat(pid int) (procStat, error) {
	s := m.looks[pid]
	if len(s) == 0 || s[0].pid == 0 {
		if len(s) > 1 {
			m.looks[pid] = s[1:]
		}
		return procStat{}, os.ErrNotExist
	}
	if len(s) > 1 {
		m.looks[pid] = s[1:]
	}
	return s[0], nil
}

// "Identity = process id and start time": while the ancestors are walked a parent may end, its
// children get another parent, and another process may get its id.
func TestAncestorsChange(t *testing.T) {
	const opener, parent, child, reaper = 10, 20, 30, 1
	at := func(pid, start, of int) procStat {
		return procStat{process: process{pid, uint64(start)}, parent: of}
	}
	none := procStat{}
	first := at(reaper, 1, 0)
	for _, tt := range []struct {
		name  string
		looks map[int][]procStat
		want  bool
	}{
		{"nothing changes", map[int][]procStat{
			child: {at(child, 300, parent)}, parent: {at(parent, 200, opener)}, opener: {at(opener, 100, reaper)}}, true},
		{"two in one tick", map[int][]procStat{
			child: {at(child, 300, parent)}, parent: {at(parent, 300, opener)}, opener: {at(opener, 100, reaper)}}, true},
		{"another has the opener's id", map[int][]procStat{
			child: {at(child, 300, parent)}, parent: {at(parent, 200, opener)}, opener: {at(opener, 150, reaper)}}, false},
		{"a younger one has the opener's id", map[int][]procStat{
			child: {at(child, 300, parent)}, parent: {at(parent, 200, opener)}, opener: {at(opener, 400, reaper)}}, false},
		{"the parent ends, and its id is at once that of a child of the opener", map[int][]procStat{
			child: {at(child, 300, parent), at(child, 300, reaper)}, parent: {at(parent, 250, opener)}, opener: {at(opener, 100, reaper)}}, false},
		{"the same, and it is younger", map[int][]procStat{
			child: {at(child, 300, parent)}, parent: {at(parent, 301, opener)}, opener: {at(opener, 100, reaper)}}, false},
		{"the parent ends between the looks, and the opener adopts", map[int][]procStat{
			child: {at(child, 300, parent), at(child, 300, opener)}, parent: {none}, opener: {at(opener, 100, reaper)}}, true},
		{"the middle one ends when its child was seen to have it", map[int][]procStat{
			child:  {at(child, 300, parent), at(child, 300, parent), at(child, 300, opener)},
			parent: {at(parent, 200, opener), none}, opener: {at(opener, 100, reaper)}}, true},
		{"it never holds still", map[int][]procStat{
			child: {at(child, 300, parent)}, parent: {none}}, false},
		{"the process itself ends and its id is another's", map[int][]procStat{
			child: {at(child, 300, parent), at(child, 301, opener)}, parent: {at(parent, 200, opener)}, opener: {at(opener, 100, reaper)}}, false},
		{"a circle", map[int][]procStat{
			child: {at(child, 300, parent)}, parent: {at(parent, 300, child)}}, false},
	} {
		if tt.looks[reaper] == nil {
			tt.looks[reaper] = []procStat{first}
		}
		m := &made{t, tt.looks}
		_, got := processTable(m.stat).ancestors(process{child, 300}, func(p process) bool { return p == process{opener, 100} })
		if got != tt.want {
			t.Errorf("%s: %v, want %v", tt.name, got, tt.want)
		}
	}
	// "PID 1 of a container is an opener like any other."
	m := &made{t, map[int][]procStat{child: {at(child, 300, 1)}, 1: {at(1, 1, 0)}}}
	if _, got := processTable(m.stat).ancestors(process{child, 300}, func(p process) bool { return p == process{1, 1} }); !got {
		t.Error("process 1 has no descendants")
	}
}

// A descriptor is recognised by its inode and by how it was opened. Its path does not count.
func TestHeldBy(t *testing.T) {
	dir := t.TempDir()
	names := []string{filepath.Join(dir, "a"), filepath.Join(dir, "b")}
	for _, name := range names {
		if err := os.WriteFile(name, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	a, err := inodeOf(names[0])
	if err != nil {
		t.Fatal(err)
	}
	want := func(what string, mode uint64, want bool) {
		t.Helper()
		if got := a.heldBy(os.Getpid(), mode); got != want {
			t.Errorf("%s, mode %d: %v", what, mode, got)
		}
	}
	want("nothing open", syscall.O_RDONLY, false)
	other, err := os.Open(names[1])
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	want("another file open", syscall.O_RDONLY, false)
	for _, mode := range []int{syscall.O_RDONLY, syscall.O_WRONLY, syscall.O_RDWR} {
		f, err := os.OpenFile(names[0], mode|syscall.O_NONBLOCK, 0)
		if err != nil {
			t.Fatal(err)
		}
		for m := range uint64(3) {
			want(fmt.Sprintf("open with %d", mode), m, m == uint64(mode))
		}
		f.Close()
	}
	if a.heldBy(1<<30, syscall.O_RDONLY) {
		t.Error("nobody holds it")
	}
}

// A file below /proc that cannot be read is an error that names it, never an empty text: a
// process that cannot be read is not admitted.
func TestReadProc(t *testing.T) {
	if text, err := readProc("/proc/self/stat"); err != nil || len(text) == 0 {
		t.Errorf("%q, %v", text, err)
	}
	for _, path := range []string{"/proc/self/none", "/proc/self", "/proc/1073741824/stat"} {
		if text, err := readProc(path); err == nil || text != nil || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: %q, %v", path, text, err)
		}
	}
	if _, err := statOf(1 << 30); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("nobody's stat: %v", err)
	}
	if _, err := processID(1 << 30); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("nobody's id: %v", err)
	}
	// No descriptor is left open: the lowest free one stays the same.
	lowest := func() int {
		fd, err := unix.Open(os.DevNull, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		unix.Close(fd)
		return fd
	}
	before := lowest()
	for range 10 {
		readProc("/proc/self/stat")
		readProc("/proc/self")
	}
	if after := lowest(); after > before {
		t.Errorf("the lowest free descriptor is %d, was %d", after, before)
	}
	if mode := accessMode(os.Getpid(), "1000000"); mode != unix.O_ACCMODE {
		t.Errorf("a descriptor that is not there was opened with %d", mode)
	}
}
