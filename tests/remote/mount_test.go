package remote

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cardfs/cardfs/drivers/remote/sshfs"
	"github.com/cardfs/cardfs/reader"
	"github.com/cardfs/cardfs/tests/internal/daemon"
	"github.com/cardfs/cardfs/tests/internal/proc"
	"github.com/cardfs/cardfs/tests/internal/sshd"
)

// options are those of a test's own keys.
func options(s *sshd.Server) sshfs.Options {
	return sshfs.Options{Identity: s.Identity, KnownHosts: s.KnownHosts}
}

// runtimeDir gives the test a directory of its own for mounts.
func runtimeDir(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	t.Setenv("RUNTIME_DIRECTORY", dir)
	return dir
}

// mounts returns the table's lines of what is mounted below dir.
func mounts(t *testing.T, dir string) (lines []string) {
	t.Helper()
	table, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(table)) {
		if strings.Contains(line, " "+dir+"/") {
			lines = append(lines, line)
		}
	}
	return lines
}

// left fails if below dir there is something mounted, or a directory of a mount.
func left(t *testing.T, dir string) {
	t.Helper()
	if m := mounts(t, dir); len(m) > 0 {
		t.Errorf("still mounted: %q", m)
	}
	if places, _ := filepath.Glob(dir + "/remote/*"); len(places) > 0 {
		t.Errorf("still there: %q", places)
	}
}

// read has cat read a file: a process can be killed, a thread in a mount not.
func read(t *testing.T, name string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*proc.Patience)
	defer cancel()
	out, err := exec.CommandContext(ctx, "cat", name).Output()
	return string(out), err
}

// A directory with one file.
func directory(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "file"), []byte("there\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return dir
}

func start(t *testing.T, url string, o sshfs.Options) *sshfs.Mount {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*proc.Patience)
	defer cancel()
	m, err := sshfs.Start(ctx, url, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.Close() })
	return m
}

func TestMount(t *testing.T) {
	at := runtimeDir(t)
	server := sshd.New(t)
	m := start(t, server.URL(server.Port, directory(t)), options(server))
	if text, err := read(t, filepath.Join(m.Dir(), "file")); text != "there\n" || err != nil {
		t.Errorf("%q, %v", text, err)
	}
	if info, err := os.Stat(filepath.Dir(m.Dir())); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("the directory is not private: %v, %v", info.Mode(), err)
	}
	if err := m.Close(); err != nil {
		t.Error(err)
	}
	if err := m.Err(); err != nil {
		t.Errorf("after Close: %v", err)
	}
	if err := m.Close(); err != nil {
		t.Errorf("second Close: %v", err)
	}
	left(t, at)
}

// What waits for a line that is held ends when the mount is closed.
func TestCloseEndsWhatWaits(t *testing.T) {
	at := runtimeDir(t)
	server := sshd.New(t)
	line := server.NewLine(t)
	m := start(t, server.URL(line.Port, directory(t)), options(server))
	line.Hold()
	reads := make(chan error, 1)
	go func() {
		_, err := read(t, filepath.Join(m.Dir(), "file"))
		reads <- err
	}()
	if err := m.Close(); err != nil {
		t.Error(err)
	}
	if err := <-reads; err == nil {
		t.Error("a read through a line that is held succeeded")
	}
	left(t, at)
}

// "A line that drops": Done and Err say so, and nothing is left. A dead line is found by
// the keep-alive.
func TestLineLost(t *testing.T) {
	for _, tc := range []struct {
		name string
		lose func(*sshd.Line)
		want string
	}{
		{"cut", (*sshd.Line).Cut, "ended"},
		{"held", (*sshd.Line).Hold, "did not answer any more"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			at := runtimeDir(t)
			server := sshd.New(t)
			line := server.NewLine(t)
			m := start(t, server.URL(line.Port, directory(t)), options(server))
			begin := time.Now()
			tc.lose(line)
			select {
			case <-m.Done():
			case <-time.After(sshfs.KeepAlive + 2*proc.Patience):
				t.Fatal("Done never closes")
			}
			t.Logf("%v until Done: %v", time.Since(begin).Round(time.Millisecond), m.Err())
			if err := m.Err(); err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("%v; want %q", err, tc.want)
			}
			if err := m.Close(); err != nil {
				t.Error(err)
			}
			left(t, at)
			line.Cut()
			start(t, server.URL(line.Port, directory(t)), options(server))
		})
	}
}

// What is wrong is said in words, with what to do.
func TestStartSaysWhatIsWrong(t *testing.T) {
	server := sshd.New(t)
	server.Key(t, "stranger")
	none, changed := server.File("none"), server.File("changed")
	other, err := os.ReadFile(server.File("stranger.pub"))
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{none: "", changed: "[127.0.0.1]:" + strconv.Itoa(server.Port) + " " + string(other)} {
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	right := options(server)
	url := server.URL(server.Port, directory(t))
	for _, tc := range []struct {
		name, url string
		options   sshfs.Options
		want      string
		kind      error
	}{
		{"unknown host", url, sshfs.Options{Identity: right.Identity, KnownHosts: none}, "is not known: compare its fingerprint", reader.ErrNoPermission},
		{"changed host key", url, sshfs.Options{Identity: right.Identity, KnownHosts: changed}, "is not the one that is known", reader.ErrNoPermission},
		{"wrong key", url, sshfs.Options{Identity: server.File("stranger"), KnownHosts: right.KnownHosts}, "does not accept the key", reader.ErrNoPermission},
		{"no key", url, sshfs.Options{Identity: server.File("nowhere"), KnownHosts: right.KnownHosts}, "identity= for the user of this daemon: open", os.ErrNotExist},
		{"no directory", server.URL(server.Port, "/no/such/cards"), right, "there is no directory /no/such/cards on", nil},
		{"a file", server.URL(server.Port, "/etc/passwd"), right, "/etc/passwd on " + server.User, nil},
		{"no sshd", server.URL(1, "/mnt"), right, "refuses the connection: no sshd listens", nil},
		{"no name", "ssh://root@no-such-host.invalid/", right, "is not known to the resolver", nil},
		{"no configuration", url, sshfs.Options{Config: server.File("nowhere")}, "ssh-config= for the user of this daemon: open", os.ErrNotExist},
	} {
		t.Run(tc.name, func(t *testing.T) {
			at := runtimeDir(t)
			ctx, cancel := context.WithTimeout(t.Context(), 2*proc.Patience)
			defer cancel()
			m, err := sshfs.Start(ctx, tc.url, tc.options)
			if err == nil {
				m.Close()
				t.Fatal("no error")
			}
			t.Log(err)
			if !strings.Contains(err.Error(), tc.want) || tc.kind != nil && !errors.Is(err, tc.kind) {
				t.Errorf("want %q and %v", tc.want, tc.kind)
			}
			left(t, at)
		})
	}
	t.Run("not installed", func(t *testing.T) {
		runtimeDir(t)
		t.Setenv("PATH", t.TempDir())
		_, err := sshfs.Start(t.Context(), url, right)
		if !errors.Is(err, reader.ErrUnsupported) || !strings.Contains(err.Error(), "apt-get install sshfs") {
			t.Error(err)
		}
	})
	t.Run("given up", func(t *testing.T) {
		at := runtimeDir(t)
		line := server.NewLine(t)
		line.Hold()
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(10*time.Millisecond, cancel)
		if _, err := sshfs.Start(ctx, server.URL(line.Port, "/"), right); !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
		left(t, at)
	})
}

// asDaemon names a URL that this program mounts and then sleeps, until it is killed.
const asDaemon = "CARDFS_TEST_MOUNT"

func serveMount(url string) int {
	m, err := sshfs.Start(context.Background(), url, sshfs.Options{Identity: os.Getenv("IDENTITY"), KnownHosts: os.Getenv("KNOWN_HOSTS")})
	if err != nil {
		println(err.Error())
		return 1
	}
	println("mounted at", m.Dir())
	<-m.Done()
	return 1
}

// "sshfs ends with the daemon even on kill -9", with a read that waits; its mount goes with it.
func TestKilled(t *testing.T) {
	at := runtimeDir(t)
	server := sshd.New(t)
	dir := directory(t)
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), asDaemon+"="+server.URL(server.Port, dir), "IDENTITY="+server.Identity, "KNOWN_HOSTS="+server.KnownHosts)
	var log proc.Log
	run, err := proc.Start(cmd, &log)
	if err != nil {
		t.Fatal(err)
	}
	if err := run.Await(t.Context(), daemon.Ready); err != nil {
		t.Fatal(err)
	}
	if len(mounts(t, at)) != 1 {
		t.Fatalf("mounts: %q", mounts(t, at))
	}
	run.Kill()
	daemon.Eventually(t, "its mount is gone", func() bool { return len(mounts(t, at)) == 0 })
	// All ssh processes have ended, too.
	if err := server.Disconnected(t.Context()); err != nil {
		t.Fatal(err)
	}
	// Its directory goes at the next start.
	m := start(t, server.URL(server.Port, dir), options(server))
	if places, _ := filepath.Glob(at + "/remote/*"); len(places) != 1 {
		t.Errorf("%q; want only that of %s", places, m.Dir())
	}
}

// "Stale mounts from a killed daemon are cleared at the next start, only ours": one that is
// locked is another's.
func TestStale(t *testing.T) {
	at := runtimeDir(t)
	server := sshd.New(t)
	dir := directory(t)
	url := server.URL(server.Port, dir)
	mine := start(t, url, options(server))
	dead := filepath.Join(at, "remote", "ssh-stale", "cards")
	if err := os.MkdirAll(dead, 0o700); err != nil {
		t.Fatal(err)
	}
	var log proc.Log
	// Without ssh: sshfs starts its server here.
	ssh := filepath.Join(dir, "ssh")
	if err := os.WriteFile(ssh, []byte("#!/bin/sh\nexec /usr/lib/openssh/sftp-server\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	run, err := proc.Start(exec.Command("sshfs", "-f", "-o", "ssh_command="+ssh, "here:"+dir, dead), &log)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = syscall.Unmount(dead, syscall.MNT_DETACH) })
	daemon.Eventually(t, "sshfs mounts", func() bool { return daemon.Mounted(t, dead) || !run.Alive() })
	run.Kill()
	if !daemon.Mounted(t, dead) {
		t.Fatalf("no stale mount: %s", &log)
	}
	other := start(t, url, options(server))
	if daemon.Mounted(t, dead) {
		t.Error("the stale mount is still there")
	}
	for _, m := range []*sshfs.Mount{mine, other} {
		if text, err := read(t, filepath.Join(m.Dir(), "file")); text != "there\n" || err != nil {
			t.Errorf("%s: %q, %v", m.Dir(), text, err)
		}
	}
}
