// Package doctor looks for what keeps cardfs from working on a machine, and says for each
// fault the command that mends it.
//
// A check looks at one thing and has findings about it. It changes nothing, waits for nothing
// that can hang, and needs no root: what it may not see it says. A check knows the machine by
// three things alone, which tests replace: a root directory for all files, the programs that
// it may run, and the user.
package doctor

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/cardfs/cardfs/reader"
)

// State says how grave a finding is.
type State string

const (
	OK      State = "ok"
	Warn    State = "warn"    // it works, but perhaps not as it is meant
	Wrong   State = "wrong"   // something does not work
	Unknown State = "unknown" // it could not be seen
)

// Finding is what a check says about one thing.
type Finding struct {
	Check string `json:"check"` // the name of the check
	State State  `json:"state"`
	Text  string `json:"text"` // what is, or what is wrong
	Mend  string `json:"mend"` // a shell command; empty if there is nothing to mend, or none that mends it
}

// User is who wants to use the readers.
type User struct {
	Name string
	UID  int
	// Groups are those of this process, which has them from the login. They are nil if it is
	// another user's process, as under sudo.
	Groups []int
	// Root says that this process is root's own, so that no command needs sudo.
	Root bool
}

// Host is a machine.
type Host struct {
	// Root stands before the name of every file.
	Root string
	User User
	// Getenv is the environment of the user.
	Getenv func(string) string
	// Run runs a program, by its absolute path, and returns what it prints.
	Run func(ctx context.Context, program string, args ...string) (string, error)
	// CheckConf says what is wrong in a configuration file, a line each, FILE:LINE: first.
	CheckConf func(file string) string
	Drivers   []reader.Driver
}

// Exec is Host.Run for the real machine.
func Exec(ctx context.Context, program string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	cmd.WaitDelay = 100 * time.Millisecond
	var out bytes.Buffer
	cmd.Stdout = &out
	err := cmd.Run()
	return out.String(), err
}

// How long a program may run, and a mount may take to answer. Both take milliseconds, unless
// they hang; the machine may be busy.
const (
	programTime = 10 * time.Second
	mountTime   = 2 * time.Second
)

// checks are all checks, in the order in which their findings make sense.
var checks = []struct {
	name string
	run  func(*exam)
}{
	{"fuse", (*exam).fuse},
	{"fusermount3", (*exam).fusermount},
	{"request-timeout", (*exam).requestTimeout},
	{"group", (*exam).group},
	{"conf", (*exam).conf},
	{"service", (*exam).service},
	{"mounts", (*exam).mountPoints},
	{"slots", (*exam).slots},
	{"machines", (*exam).machines},
	{"udev-rules", (*exam).udevRules},
	{"usb-access", (*exam).usbAccess},
	{"holders", (*exam).holders},
	{"pcscd", (*exam).pcscdThere},
	{"libccid", (*exam).libccid},
	{"bundle", (*exam).bundle},
	{"reader-conf", (*exam).readerConf},
	{"sandbox", (*exam).sandbox},
	{"pcsc", (*exam).pcsc},
	{"ctapi", (*exam).ctapi},
}

// Examine runs all checks.
func (h *Host) Examine(ctx context.Context) []Finding {
	e := &exam{Host: h, ctx: ctx, Findings: []Finding{}}
	e.look()
	for _, c := range checks {
		e.check = c.name
		c.run(e)
	}
	return e.Findings
}

// exam is one run of the checks, with what several of them look at.
type exam struct {
	*Host
	ctx      context.Context
	check    string
	Findings []Finding

	systemd   bool // it is the init that runs
	mounts    []mount
	devices   []device
	processes []process
	pcscd     *pcscd // nil: not installed
}

// look collects what several checks need.
func (e *exam) look() {
	e.systemd = e.exists("/run/systemd/system") && e.program("systemctl") != ""
	e.mounts = e.findMounts()
	e.devices = e.findDevices()
	e.processes = e.findProcesses()
	e.pcscd = e.findPcscd()
}

func (e *exam) add(s State, mend, format string, args ...any) {
	e.Findings = append(e.Findings, Finding{e.check, s, printable(fmt.Sprintf(format, args...)), mend})
}

// printable keeps from the terminal what a device or another's program has in its name.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, s)
}

func (e *exam) ok(format string, args ...any)          { e.add(OK, "", format, args...) }
func (e *exam) warn(mend, format string, args ...any)  { e.add(Warn, mend, format, args...) }
func (e *exam) wrong(mend, format string, args ...any) { e.add(Wrong, mend, format, args...) }

// unknown is for what cannot be seen; mend is the command that would show it.
func (e *exam) unknown(mend, format string, args ...any) { e.add(Unknown, mend, format, args...) }

// path is where a file of the machine is for this process.
func (h *Host) path(name string) string { return filepath.Join("/", h.Root, name) }

func (h *Host) exists(name string) bool {
	_, err := os.Stat(h.path(name))
	return err == nil
}

// read returns the text of a file, without the blanks around it; "" if there is none.
func (h *Host) read(name string) string {
	text, _ := os.ReadFile(h.path(name))
	return strings.TrimSpace(string(text))
}

// glob returns the names of files, as the machine knows them.
func (h *Host) glob(pattern string) []string {
	found, _ := filepath.Glob(h.path(pattern))
	for i, name := range found {
		found[i] = filepath.Join("/", strings.TrimPrefix(name, filepath.Clean("/"+h.Root)))
	}
	return found
}

// first returns the first of these files that is there, or "".
func (h *Host) first(names ...string) string {
	for _, name := range names {
		if h.exists(name) {
			return name
		}
	}
	return ""
}

// program returns the path of a program, or "". The directories of the system's programs are
// not in every user's PATH.
func (h *Host) program(name string) string {
	dirs := filepath.SplitList(h.Getenv("PATH"))
	dirs = append(dirs, "/usr/local/sbin", "/usr/sbin", "/sbin", "/usr/local/bin", "/usr/bin", "/bin")
	for _, dir := range dirs {
		if info, err := os.Stat(h.path(filepath.Join(dir, name))); err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0 {
			return filepath.Join(dir, name)
		}
	}
	return ""
}

var errNoProgram = errors.New("it is not installed")

// run runs a program that may not be there.
func (e *exam) run(name string, args ...string) (string, error) {
	program := e.program(name)
	if program == "" {
		return "", fmt.Errorf("%s: %w", name, errNoProgram)
	}
	ctx, cancel := context.WithTimeout(e.ctx, programTime)
	defer cancel()
	out, err := e.Run(ctx, program, args...)
	return strings.TrimSpace(out), err
}

// sudo makes commands root's: all that are chained by &&.
func (e *exam) sudo(commands ...string) string {
	if !e.User.Root {
		for i, c := range commands {
			commands[i] = "sudo " + c
		}
	}
	return strings.Join(commands, " && ")
}

// write is a command that writes what comes to it to a file that is root's.
func (e *exam) write(file string) string {
	return e.sudo("tee " + quote(file) + " >/dev/null")
}

// quote makes one word of the shell's, of whatever a file or a program is called.
func quote(s string) string {
	const plain = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-+=:,./@%"
	if s != "" && strings.Trim(s, plain) == "" {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

// packaged reports whether a package is installed, where packages are Debian's.
func (e *exam) packaged(name string) bool {
	out, err := e.run("dpkg-query", "--show", "--showformat=${db:Status-Status}", name)
	return err == nil && out == "installed"
}

// install is a command that installs a package, anew if files of it are missing.
func (e *exam) install(name string) string {
	switch {
	case e.program("apt-get") != "" && e.packaged(name):
		return e.sudo("apt-get install --reinstall " + name)
	case e.program("apt-get") == "" && e.program("dnf") != "":
		return e.sudo("dnf install " + name)
	}
	return e.sudo("apt-get install " + name)
}

// installOurs is the same for what belongs to cardfs, which need not have come as a package.
func (e *exam) installOurs(name string) string {
	if e.packaged("cardfs") {
		return e.install(name)
	}
	return e.sudo("make install") // in the source tree
}

// group is the number of a group, -1 if there is none of that name.
func (e *exam) groupID(name string) int {
	line, err := e.run("getent", "group", name)
	if err != nil {
		return -1
	}
	f := strings.Split(line, ":")
	if len(f) < 3 {
		return -1
	}
	gid, err := strconv.Atoi(f[2])
	if err != nil {
		return -1
	}
	return gid
}

// groupName is the name of a group, or its number.
func (e *exam) groupName(gid int) string {
	line, _ := e.run("getent", "group", strconv.Itoa(gid))
	if name, _, ok := strings.Cut(line, ":"); ok {
		return name
	}
	return strconv.Itoa(gid)
}

// userName is the name of a user, or its number, and the user's home.
func (e *exam) userName(uid int) (name, home string) {
	line, _ := e.run("getent", "passwd", strconv.Itoa(uid))
	if f := strings.Split(line, ":"); len(f) > 5 {
		return f[0], f[5]
	}
	return strconv.Itoa(uid), ""
}

// membership says how a user stands to a group.
type membership int

const (
	outside membership = iota
	stale              // a member, but the login is older
	member
)

// inGroup says whether the user is in a group. A login has the groups that the user had then.
func (e *exam) inGroup(gid int) membership {
	if slices.Contains(e.User.Groups, gid) {
		return member
	}
	out, _ := e.run("id", "-G", e.User.Name)
	switch {
	case !slices.Contains(strings.Fields(out), strconv.Itoa(gid)):
		return outside
	case e.User.Groups == nil:
		return member // as far as can be seen
	}
	return stale
}
