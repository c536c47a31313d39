package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"golang.org/x/sys/unix"

	"github.com/cardfs/cardfs/cmd/cardfs/internal/client"
)

// The scripts in testdata/script run the real program, as a process of its own:
// a FUSE client and its server in one process can wait for each other for ever.

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"cardfs": main, "mount.fuse.cardfs": main, "mount.cardfs": main, "gofile": goFile})
}

// waitLimit bounds every wait for what must come; no test passes because of it.
const waitLimit = time.Minute

func TestScripts(t *testing.T) {
	// Programs inherit that a signal is ignored: SIGHUP under nohup(1), SIGINT and SIGQUIT of a
	// script's command with & behind it.
	for _, s := range []os.Signal{syscall.SIGHUP, syscall.SIGINT, syscall.SIGQUIT} {
		if signal.Ignored(s) {
			signal.Notify(make(chan os.Signal, 1), s)
		}
	}
	for program, pkg := range map[string]string{
		"dash": "dash", "bash": "bash", "fish": "fish", "busybox": "busybox", "python3": "python3", "flock": "util-linux", "setpriv": "util-linux", "tshark": "tshark",
		"sshfs": "sshfs", "/usr/lib/openssh/sftp-server": "openssh-sftp-server",
	} {
		if _, err := exec.LookPath(program); err != nil {
			t.Fatalf("%s is missing: apt-get install %s", program, pkg)
		}
	}
	wd, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	cardfs, err := exec.LookPath("cardfs") // testscript.Main put it there
	if err != nil {
		t.Fatal(err)
	}
	end := deadline(t)
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Deadline:            end,
		Setup: func(env *testscript.Env) error {
			path := []string{filepath.Dir(cardfs), "/usr/bin", "/bin", "/usr/sbin", "/sbin", env.Getenv("PATH")}
			env.Setenv("PATH", strings.Join(path, ":"))
			env.Setenv("PYTHONPATH", filepath.Join(wd, "testdata/lib"))
			env.Setenv("PYTHONDONTWRITEBYTECODE", "1")
			env.Setenv("LC_ALL", "C.UTF-8")
			env.Setenv("INSTALL", filepath.Join(wd, "install"))
			env.Setenv("GORACE", os.Getenv("GORACE")+" atexit_sleep_ms=20") // a second for each program
			env.Setenv("CARDFS_MOUNT", filepath.Join(env.WorkDir, "cards"))
			procs := &processes{byName: make(map[string]*process)}
			env.Values[processesKey{}] = procs
			// testscript kills the program that a script waits for. Then it waits for the
			// processes that still hold its output: those that the program started.
			hung := time.AfterFunc(time.Until(end), func() { endDescendants(env.WorkDir) })
			env.Defer(func() { hung.Stop(); procs.end(env.T().(testing.TB), env.WorkDir) })
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"daemon": daemon, "start": start, "signal": sendSignal, "ended": ended, "blocked": blocked,
			"exits": exits, "waitfor": waitFor, "open-to-others": openToOthers,
		},
		Condition: func(cond string) (bool, error) {
			if cond == "root" {
				return os.Geteuid() == 0, nil
			}
			return false, fmt.Errorf("no condition %q", cond)
		},
	})
}

// deadline leaves time to end the processes of a script that hangs: after -timeout there is
// no clean-up.
func deadline(t *testing.T) time.Time {
	limit := time.Now().Add(8 * time.Minute)
	if d, ok := t.Deadline(); ok && d.Add(-waitLimit).Before(limit) {
		return d.Add(-waitLimit)
	}
	return limit
}

// process is a program that a script started with daemon or start.
type process struct {
	cmd  *exec.Cmd
	fd   int           // pidfd_open(2): readable when it ended
	done chan struct{} // closed when it ended, and how is known
}

type processes struct{ byName map[string]*process }

// processesKey finds a script's processes.
type processesKey struct{}

func processesOf(ts *testscript.TestScript) *processes {
	return ts.Value(processesKey{}).(*processes)
}

func get(ts *testscript.TestScript, name string) *process {
	p := processesOf(ts).byName[name]
	if p == nil {
		ts.Fatalf("no process %s", name)
	}
	return p
}

// launch runs a program whose output goes to NAME.out and NAME.err.
func launch(ts *testscript.TestScript, name string, words ...string) *process {
	cmd := exec.Command(words[0], words[1:]...)
	if path := lookPath(ts, words[0]); path != "" {
		cmd.Path, cmd.Err = path, nil
	}
	cmd.Dir = ts.MkAbs(".")
	for _, key := range []string{"PATH", "PYTHONPATH", "PYTHONDONTWRITEBYTECODE", "LC_ALL", "GORACE", "CARDFS_MOUNT", "WORK", "TMPDIR", "GOCOVERDIR", "HOME"} {
		if value := ts.Getenv(key); value != "" {
			cmd.Env = append(cmd.Env, key+"="+value)
		}
	}
	work := ts.Getenv("WORK")
	out, err := os.Create(filepath.Join(work, name+".out"))
	ts.Check(err)
	defer out.Close()
	errs, err := os.Create(filepath.Join(work, name+".err"))
	ts.Check(err)
	defer errs.Close()
	cmd.Stdout, cmd.Stderr = out, errs
	p := &process{cmd: cmd, done: make(chan struct{})}
	cmd.SysProcAttr = &syscall.SysProcAttr{PidFD: &p.fd}
	ts.Check(cmd.Start())
	ts.Defer(func() { unix.Close(p.fd) })
	go func() {
		cmd.Wait()
		close(p.done)
	}()
	processesOf(ts).byName[name] = p
	return p
}

func lookPath(ts *testscript.TestScript, program string) string {
	for dir := range strings.SplitSeq(ts.Getenv("PATH"), ":") {
		path := filepath.Join(dir, program)
		if unix.Access(path, unix.X_OK) == nil && !strings.Contains(program, "/") {
			return path
		}
	}
	return ""
}

// end ends the processes that a script left running, the clients first. A daemon whose exit
// code is not 0 failed: a data race makes it 66.
func (p *processes) end(t testing.TB, work string) {
	for daemons := range 2 {
		for name, p := range p.byName {
			isDaemon := len(p.cmd.Args) > 1 && p.cmd.Args[1] == "mount"
			if isDaemon != (daemons == 1) {
				continue
			}
			p.cmd.Process.Signal(syscall.SIGTERM)
			select {
			case <-p.done:
			case <-time.After(waitLimit):
				p.cmd.Process.Kill()
				<-p.done
			}
			if code := p.cmd.ProcessState.ExitCode(); isDaemon && code != 0 {
				log, _ := os.ReadFile(filepath.Join(work, name+".err"))
				t.Errorf("cardfs mount %s: exit code %d\n%s", name, code, log)
			}
		}
	}
	endDescendants(work)
	// Mounts that a killed daemon left.
	mounts, _ := os.ReadFile("/proc/self/mounts")
	for line := range strings.Lines(string(mounts)) {
		if dir := strings.Fields(line)[1]; strings.HasPrefix(dir, work+"/") {
			exec.Command("umount", "-l", dir).Run()
		}
	}
}

// endDescendants kills the processes that a script's programs left running, in any mount
// namespace. All of them have their script's WORK in the environment.
func endDescendants(work string) {
	environs, _ := filepath.Glob("/proc/[0-9]*/environ")
	for _, path := range environs {
		text, _ := os.ReadFile(path)
		pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(path)))
		if pid != os.Getpid() && slices.Contains(strings.Split(string(text), "\x00"), "WORK="+work) {
			syscall.Kill(pid, syscall.SIGKILL)
		}
	}
}

// await calls ok again after each change of file, until it returns true. It gives up when p
// has ended. p may be nil.
func await(ts *testscript.TestScript, p *process, what, file string, ok func() bool) {
	c, err := watch(file)
	ts.Check(err)
	defer c.close()
	fds := []unix.PollFd{c.poll}
	if p != nil {
		fds = append(fds, unix.PollFd{Fd: int32(p.fd), Events: unix.POLLIN})
	}
	for end := time.Now().Add(waitLimit); ; c.drain() {
		ended := p != nil && fds[1].Revents != 0
		left := time.Until(end)
		switch {
		case ok():
			return
		case ended:
			ts.Fatalf("%s: the process ended before", what)
		case left <= 0:
			ts.Fatalf("%s: not within %v", what, waitLimit)
		}
		if _, err := unix.Poll(fds, 1+int(left.Milliseconds())); err != nil && err != unix.EINTR {
			ts.Fatalf("%s: poll: %v", what, err)
		}
	}
}

// changes is a descriptor that poll(2) finds ready after a change of a file.
type changes struct {
	fd   int
	poll unix.PollFd
}

// watch follows a file. inotify(7) sees changes by programs. In a mount it does not see changes
// by readers: files such as status wake with POLLPRI, and other changes come with an event.
func watch(name string) (c changes, err error) {
	dir := filepath.Dir(name)
	wakes := int16(unix.POLLIN)
	switch {
	case client.IsMount(dir):
		c.fd, err = client.OpenNow(filepath.Join(dir, "event"), unix.O_RDONLY)
	case client.IsMount(filepath.Dir(dir)):
		wakes = unix.POLLPRI
		c.fd, err = client.OpenNow(name, unix.O_RDONLY)
	default:
		if c.fd, err = unix.InotifyInit1(unix.IN_NONBLOCK | unix.IN_CLOEXEC); err == nil {
			_, err = unix.InotifyAddWatch(c.fd, dir, unix.IN_CREATE|unix.IN_MOVED_TO|unix.IN_MODIFY)
		}
	}
	c.poll = unix.PollFd{Fd: int32(c.fd), Events: wakes}
	return c, err
}

// drain consumes the wake-up, so that the next poll waits for another.
func (c changes) drain() {
	if c.poll.Events == unix.POLLPRI { // a read from the beginning gets the file as it is now
		_, _ = unix.Seek(c.fd, 0, io.SeekStart)
	}
	for buf := make([]byte, 1<<16); ; {
		if n, err := unix.Read(c.fd, buf); n <= 0 && err != unix.EINTR {
			return
		}
	}
}

func (c changes) close() { unix.Close(c.fd) }

// daemon FLAG… DIR runs `cardfs mount FLAG… DIR` until the script ends; it is
// ready when daemon returns. DIR is its name, DIR.err its log.
func daemon(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) == 0 {
		ts.Fatalf("usage: daemon FLAG… DIR")
	}
	name := args[len(args)-1]
	ts.Check(os.MkdirAll(ts.MkAbs(name), 0o755))
	p := launch(ts, name, append([]string{"cardfs", "mount"}, args...)...)
	log := filepath.Join(ts.Getenv("WORK"), name+".err")
	await(ts, p, "cardfs mount "+strings.Join(args, " ")+" is ready", log, func() bool {
		text, _ := os.ReadFile(log)
		select {
		case <-p.done:
			ts.Logf("%s", text)
		default:
		}
		return bytes.Contains(text, []byte("cardfs: mounted at"))
	})
}

// start NAME PROGRAM ARG… runs a client in the background. Its output is in NAME.out
// and NAME.err.
func start(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: start NAME PROGRAM ARG…")
	}
	launch(ts, args[0], args[1:]...)
}

// signal TERM|INT|KILL|USR1 NAME
func sendSignal(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: signal SIGNAL NAME")
	}
	s := unix.SignalNum("SIG" + args[0])
	if s == 0 {
		ts.Fatalf("no signal %s", args[0])
	}
	ts.Check(get(ts, args[1]).cmd.Process.Signal(s))
}

// ended NAME CODE waits for the end and compares the exit code; a process that
// a signal ended has 128 + its number.
func ended(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: ended NAME CODE")
	}
	p := get(ts, args[0])
	select {
	case <-p.done:
	case <-time.After(waitLimit):
		ts.Fatalf("%s did not end within %v", args[0], waitLimit)
	}
	code := p.cmd.ProcessState.ExitCode()
	if s, ok := p.cmd.ProcessState.Sys().(syscall.WaitStatus); ok && s.Signaled() {
		code = 128 + int(s.Signal())
	}
	if strconv.Itoa(code) != args[1] {
		for _, ext := range []string{".out", ".err"} {
			text, _ := os.ReadFile(filepath.Join(ts.Getenv("WORK"), args[0]+ext))
			ts.Logf("%s%s:\n%s", args[0], ext, text)
		}
		ts.Fatalf("%s: exit code %d, not %s", args[0], code, args[1])
	}
	delete(processesOf(ts).byName, args[0])
}

// blocked NAME open|read|write|ioctl|flock waits until a thread of the process, or of a
// child, waits in that call for the FUSE server's answer.
func blocked(ts *testscript.TestScript, neg bool, args []string) {
	calls := map[string]int{
		"open": unix.SYS_OPENAT, "read": unix.SYS_READ, "write": unix.SYS_WRITE, "ioctl": unix.SYS_IOCTL, "flock": unix.SYS_FLOCK,
	}
	if neg || len(args) != 2 || calls[args[1]] == 0 && args[1] != "read" {
		ts.Fatalf("usage: blocked NAME open|read|write|ioctl|flock")
	}
	p := get(ts, args[0])
	call := strconv.Itoa(calls[args[1]]) + " "
	// No descriptor becomes ready when a thread begins to wait.
	for end := time.Now().Add(waitLimit); !waits(p.cmd.Process.Pid, call); time.Sleep(2 * time.Millisecond) {
		select {
		case <-p.done:
			ts.Fatalf("%s ended; it was to wait for the mount", args[0])
		default:
		}
		if time.Now().After(end) {
			ts.Fatalf("%s does not wait for the mount in %s within %v", args[0], args[1], waitLimit)
		}
	}
}

func waits(pid int, call string) bool {
	tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*", pid))
	for _, task := range tasks {
		// fs/fuse/dev.c: request_wait_answer()
		where, _ := os.ReadFile(task + "/wchan")
		now, _ := os.ReadFile(task + "/syscall")
		if string(where) == "request_wait_answer" && strings.HasPrefix(string(now), call) {
			return true
		}
		children, _ := os.ReadFile(task + "/children")
		for child := range strings.FieldsSeq(string(children)) {
			if n, err := strconv.Atoi(child); err == nil && waits(n, call) {
				return true
			}
		}
	}
	return false
}

// exits CODE PROGRAM ARG… runs a program and compares its exit code.
func exits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits CODE PROGRAM ARG…")
	}
	code := 0
	err := ts.Exec(args[1], args[2:]...)
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit):
		code = exit.ExitCode()
	case err != nil:
		ts.Fatalf("%v", err)
	}
	if strconv.Itoa(code) != args[0] {
		ts.Fatalf("exit code %d, not %s", code, args[0])
	}
}

// waitfor FILE [PATTERN] waits until FILE is there and has a line that matches.
func waitFor(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 1 || len(args) > 2 {
		ts.Fatalf("usage: waitfor FILE [PATTERN]")
	}
	var pattern *regexp.Regexp
	if len(args) == 2 {
		pattern = regexp.MustCompile("(?m)" + args[1])
	}
	await(ts, nil, strings.Join(args, ": "), ts.MkAbs(args[0]), func() bool {
		if pattern == nil {
			_, err := os.Lstat(ts.MkAbs(args[0]))
			return err == nil
		}
		text, _ := os.ReadFile(ts.MkAbs(args[0]))
		return pattern.Match(text)
	})
}

// open-to-others lets other users reach the script's directory.
func openToOthers(ts *testscript.TestScript, neg bool, args []string) {
	for dir := ts.Getenv("WORK"); len(dir) > 1 && dir != os.TempDir(); dir = filepath.Dir(dir) {
		ts.Check(os.Chmod(dir, 0o755))
	}
}
