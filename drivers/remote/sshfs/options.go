package sshfs

import (
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/cardfs/cardfs/reader"
)

// Calls is how many calls sshfs serves at once in a Mount, those that wait included.
const Calls = 10

// KeepAlive is how long a line may be dead before ssh ends the connection.
const KeepAlive = aliveCount * aliveInterval * time.Second

const (
	aliveInterval, aliveCount = 5, 3 // seconds; questions without an answer
	connectTimeout            = 10   // seconds
)

// Options name files of ssh's, for a machine. All are absolute names; "" is ssh's default for
// the user who runs this process.
type Options struct {
	Log        *slog.Logger // of what Start cannot clear up; nil: it is dropped
	Identity   string       // the private key
	KnownHosts string       // the only file with known host keys
	Config     string       // read in place of ssh_config(5)
}

// The names of the parameters of `attach` that become Options.
const identity, knownHosts, sshConfig = "identity", "known-hosts", "ssh-config"

// Params are the names of the parameters that ParseOptions takes.
func Params() []string { return []string{identity, knownHosts, sshConfig} }

// ParseOptions reads parameters of `attach`. Errors wrap reader.ErrInvalid.
func ParseOptions(params map[string]string) (Options, error) {
	var o Options
	for _, key := range slices.Sorted(maps.Keys(params)) {
		file := params[key]
		switch key {
		case identity:
			o.Identity = file
		case knownHosts:
			o.KnownHosts = file
		case sshConfig:
			o.Config = file
		default:
			return Options{}, fmt.Errorf("ssh: no parameter %q; there are %s: %w", key, strings.Join(Params(), ", "), reader.ErrInvalid)
		}
		if file == "" {
			return Options{}, fmt.Errorf("ssh: %s= names no file: %w", key, reader.ErrInvalid)
		}
	}
	return o, o.check()
}

// file is a parameter and its value.
type file struct{ key, name string }

// files are those that were given.
func (o Options) files() []file {
	return slices.DeleteFunc([]file{{identity, o.Identity}, {knownHosts, o.KnownHosts}, {sshConfig, o.Config}},
		func(f file) bool { return f.name == "" })
}

// readable looks for the files. ssh says nothing of a key that is not there.
func (o Options) readable() error {
	for _, f := range o.files() {
		r, err := os.Open(f.name)
		if err != nil {
			return fmt.Errorf("ssh: the file of %s= for the user of this daemon: %w", f.key, err)
		}
		r.Close()
	}
	return nil
}

// check refuses names that sshfs or ssh would not take as they are: sshfs divides options at
// commas, and ssh its own as ssh_config(5) says (quotes, %h, ${HOME}, ~).
func (o Options) check() error {
	for _, f := range o.files() {
		switch {
		case !filepath.IsAbs(f.name):
			return fmt.Errorf("ssh: %s=%q: the daemon's working directory is not yours; give the whole path: %w", f.key, f.name, reader.ErrInvalid)
		case !onlyHas(f.name, "/._+@:=-"):
			return fmt.Errorf("ssh: %s=%q: of other characters than A-Z a-z 0-9 / . _ + @ : = - ssh takes some for its own: give the file another name: %w", f.key, f.name, reader.ErrInvalid)
		}
	}
	return nil
}

// Check checks a URL and the options without doing anything. name is that of Address.Name.
func Check(url string, o Options) (name string, err error) {
	a, err := Parse(url)
	if err != nil {
		return "", err
	}
	return a.Name(), o.check()
}

// arguments are those of sshfs.
func (o Options) arguments(a Address, dir string) []string {
	options := []string{
		// Without the first two, exchanges read nothing and a refused write looks like success.
		"direct_io", "sshfs_sync", "dir_cache=no", "max_conns=" + strconv.Itoa(Calls), "noexec",
		// ssh asks nobody anything, and writes no file.
		"BatchMode=yes", "StrictHostKeyChecking=yes", "UpdateHostKeys=no", "LogLevel=INFO",
		"ConnectTimeout=" + strconv.Itoa(connectTimeout), "ServerAliveInterval=" + strconv.Itoa(aliveInterval), "ServerAliveCountMax=" + strconv.Itoa(aliveCount),
		// A shared connection outlives its user, and carries 10 sessions (sshd's MaxSessions).
		"ControlMaster=no", "ControlPath=none", "PermitLocalCommand=no",
	}
	if a.Port != 0 {
		options = append(options, "Port="+strconv.Itoa(int(a.Port)))
	}
	if o.Identity != "" {
		options = append(options, "IdentityFile="+o.Identity, "IdentitiesOnly=yes")
	}
	if o.KnownHosts != "" {
		options = append(options, "UserKnownHostsFile="+o.KnownHosts, "GlobalKnownHostsFile=/dev/null")
	}
	args := []string{"-f", "-o", strings.Join(options, ",")}
	if o.Config != "" {
		args = append(args, "-F", o.Config)
	}
	return append(args, "--", a.login()+":"+a.Dir, dir)
}
