package vpcd

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cardfs/cardfs/reader"
	"golang.org/x/sys/unix"
)

func TestAddresses(t *testing.T) {
	for _, tc := range []struct {
		address string
		params  map[string]string
		want    string // "" is ErrInvalid
	}{
		{"", nil, "127.0.0.1:35963"},
		{"4000", nil, "127.0.0.1:4000"},
		{":4000", nil, "127.0.0.1:4000"}, // not Go's every interface
		{"localhost:4000", nil, "127.0.0.1:4000"},
		{"127.9.9.9:4000", nil, "127.9.9.9:4000"},
		{"[::1]:4000", nil, "[::1]:4000"},
		{"[::ffff:127.0.0.1]:4000", nil, "[::ffff:127.0.0.1]:4000"},
		{"[::ffff:127.9.9.9]:4000", nil, "[::ffff:127.9.9.9]:4000"},
		{"[::ffff:192.0.2.1]:4000", nil, ""}, // mapped, and public
		{"[::ffff:192.0.2.1]:4000", map[string]string{"public": "yes"}, "[::ffff:192.0.2.1]:4000"},
		{"[::ffff:0.0.0.0]:4000", nil, ""},
		{"[::1]", nil, ""},
		{"127.0.0.1:0", nil, "127.0.0.1:0"},
		{"65535", nil, "127.0.0.1:65535"},
		{"65536", nil, ""},
		{"-1", nil, ""},
		{"127.0.0.1:4000", map[string]string{"cards": "1"}, "127.0.0.1:4000"},
		{"127.0.0.1:4000", map[string]string{"cards": "65535"}, "127.0.0.1:4000"},
		{"127.0.0.1:4000", map[string]string{"cards": "65536"}, ""},
		{"127.0.0.1:4000", map[string]string{"cards": "0"}, ""},
		{"127.0.0.1:4000", map[string]string{"cards": "-1"}, ""},
		{"127.0.0.1:4000", map[string]string{"cards": "many"}, ""},
		{"127.0.0.1:4000", map[string]string{"cards": ""}, ""},
		{"127.0.0.1:4000", map[string]string{"timeout": "-1s"}, ""},
		{"127.0.0.1:4000", map[string]string{"timeout": "1ns"}, "127.0.0.1:4000"},
		{"0.0.0.0:4000", nil, ""},
		{"[::]:4000", nil, ""},
		{"192.0.2.1:4000", nil, ""},
		{"192.0.2.1:4000", map[string]string{"public": "no"}, ""},
		{"192.0.2.1:4000", map[string]string{"public": "yes"}, "192.0.2.1:4000"},
		{"0.0.0.0:4000", map[string]string{"public": "yes"}, "0.0.0.0:4000"},
		{"127.0.0.1:4000", map[string]string{"public": "true"}, ""},
		{"example.org:4000", map[string]string{"public": "yes"}, ""},
		{"127.0.0.1", nil, ""},
		{"127.0.0.1:65536", nil, ""},
		{"127.0.0.1:x", nil, ""},
		{"70000", nil, ""},
		{"127.0.0.1:4000", map[string]string{"mode": "0600"}, ""},
		{"127.0.0.1:4000", map[string]string{"timeout": "0s"}, ""},
		{"127.0.0.1:4000", map[string]string{"timeout": "30"}, ""},
		{"127.0.0.1:4000", map[string]string{"tiemout": "30s"}, ""},
		{"127.0.0.1:4000", map[string]string{"timeout": "5m"}, "127.0.0.1:4000"},
		{"unix:/run/x.sock", nil, "unix:/run/x.sock"},
		{"/run//x.sock", nil, "unix:/run/x.sock"},
		{"unix:/run/x.sock", map[string]string{"mode": "0660"}, "unix:/run/x.sock"},
		{"unix:/run/x.sock", map[string]string{"mode": "0999"}, ""},
		{"unix:/run/x.sock", map[string]string{"mode": "4777"}, ""},
		{"unix:x.sock", nil, ""},
		{"unix:@x", nil, ""},
		{"unix:@", nil, ""},
		{"unix:", nil, ""},
		{"unix:/run/x\x00y", nil, ""},
		{"unix:/run/x.sock", map[string]string{"mode": "0777"}, "unix:/run/x.sock"},
		{"unix:/run/x.sock", map[string]string{"mode": "1000"}, ""},
		{"unix:/run/x.sock", map[string]string{"mode": "u=rw"}, ""},
		// unix(7): sun_path has 108 bytes, the last of them zero.
		{"unix:/" + strings.Repeat("x", 106), nil, "unix:/" + strings.Repeat("x", 106)},
		{"unix:/" + strings.Repeat("x", 107), nil, ""},
		{"unix:/" + strings.Repeat("x", 108), nil, ""},
	} {
		o, err := parseOptions(tc.address, tc.params)
		switch {
		case tc.want == "" && !errors.Is(err, reader.ErrInvalid):
			t.Errorf("%q %v: %v, error %v, want ErrInvalid", tc.address, tc.params, o, err)
		case tc.want != "" && (err != nil || o.String() != tc.want):
			t.Errorf("%q %v: %v, error %v, want %s", tc.address, tc.params, o, err, tc.want)
		}
	}
}

func TestAttach(t *testing.T) {
	got, err := Driver{}.Attach(reader.Device{Driver: "vpcd", Params: map[string]string{"timeout": "5m"}})
	if err != nil || got.Address != "127.0.0.1:35963" || got.Port != got.Address || got.Bus != "tcp" || got.Slots != 1 {
		t.Errorf("attach without an address: %+v, %v", got, err)
	}
	if _, err := (Driver{}).Attach(reader.Device{Driver: "vpcd", Address: "0.0.0.0:1"}); !errors.Is(err, reader.ErrInvalid) {
		t.Errorf("a public address: %v, want ErrInvalid", err)
	}
}

func TestPortInUse(t *testing.T) {
	p, _ := attach(t, "127.0.0.1:0", nil)
	_, err := Driver{}.Open(t.Context(), reader.Device{Address: p.opts.String()})
	if !errors.Is(err, reader.ErrClaimed) {
		t.Errorf("second listener: %v, want ErrClaimed", err)
	}
}

func TestUnixSocket(t *testing.T) {
	old := unix.Umask(0)
	defer unix.Umask(old)
	path := filepath.Join(t.TempDir(), "card.sock")
	perm := func() os.FileMode {
		t.Helper()
		st, err := os.Lstat(path)
		if err != nil {
			t.Fatal(err)
		}
		return st.Mode()
	}

	p, h := attach(t, "unix:"+path, nil)
	if m := perm(); m != os.ModeSocket|0o600 {
		t.Errorf("mode %v, want the owner's alone", m)
	}
	card(t, p)
	until(t, p.Slots()[0], reader.Present)
	powerOn(t, p.Slots()[0])
	card(t, p)
	if d, _ := h.open(); d.Bus != "unix" {
		t.Errorf("bus %s", d.Bus)
	}
	if _, err := (Driver{}).Open(t.Context(), reader.Device{Address: path}); !errors.Is(err, reader.ErrClaimed) {
		t.Errorf("a socket in use: %v, want ErrClaimed", err)
	}
	if err := p.Close(); err != nil {
		t.Error(err)
	}
	if _, err := os.Lstat(path); !os.IsNotExist(err) {
		t.Errorf("the socket file is still there: %v", err)
	}

	// A killed daemon leaves the file behind.
	stale, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	stale.SetUnlinkOnClose(false)
	_ = stale.Close()
	unix.Umask(0o077)
	p, _ = attach(t, path, map[string]string{"mode": "0660"})
	if m := perm(); m != os.ModeSocket|0o660 {
		t.Errorf("mode %v, want 0660 whatever the umask", m)
	}

	// Another program's file of the same name stays.
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	_ = p.Close()
	if _, err := (Driver{}).Open(t.Context(), reader.Device{Address: path}); !errors.Is(err, reader.ErrInvalid) {
		t.Errorf("a file in the way: %v, want ErrInvalid", err)
	}
	if b, err := os.ReadFile(path); err != nil || string(b) != "precious" {
		t.Errorf("the file in the way: %q, %v", b, err)
	}
}

// Omitted limits have their defaults.
func TestDefaults(t *testing.T) {
	o, err := parseOptions("", nil)
	if err != nil || o.cards != 16 || o.timeout != time.Minute || o.mode != 0o600 || o.network != "tcp" {
		t.Errorf("%+v, %v", o, err)
	}
	o, err = parseOptions("unix:/x", map[string]string{"cards": "3", "timeout": "2m", "mode": "0640"})
	if err != nil || o.cards != 3 || o.timeout != 2*time.Minute || o.mode != 0o640 || o.network != "unix" {
		t.Errorf("%+v, %v", o, err)
	}
}

// The port can listen at the longest path that is accepted.
func TestLongestPath(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, strings.Repeat("x", 107-len(dir)-1))
	p, _ := attach(t, "unix:"+path, nil)
	card(t, p)
	until(t, p.Slots()[0], reader.Present)
}

// The file has the requested permissions whatever the umask, and the process's umask does
// not change.
func TestMode(t *testing.T) {
	old := unix.Umask(0o077)
	defer unix.Umask(old)
	for mode, want := range map[string]os.FileMode{"0600": 0o600, "0660": 0o660, "0666": 0o666, "0000": 0, "0777": 0o777} {
		path := filepath.Join(t.TempDir(), "s")
		p, _ := attach(t, path, map[string]string{"mode": mode})
		if st, err := os.Lstat(path); err != nil || st.Mode() != os.ModeSocket|want {
			t.Errorf("mode=%s: %v, %v", mode, st.Mode(), err)
		}
		_ = p.Close()
		if err := os.WriteFile(path, nil, 0o666); err != nil {
			t.Fatal(err)
		}
		if st, err := os.Lstat(path); err != nil || st.Mode() != 0o600 {
			t.Errorf("a file made later: %v, %v", st.Mode(), err)
		}
	}
}

// No link is followed, whether its target exists or not.
func TestSocketLinks(t *testing.T) {
	dir := t.TempDir()
	path, file := filepath.Join(dir, "s"), filepath.Join(dir, "precious")
	if err := os.WriteFile(file, []byte("precious"), 0o400); err != nil {
		t.Fatal(err)
	}
	other, _ := attach(t, filepath.Join(dir, "other"), nil)
	for _, target := range []string{file, filepath.Join(dir, "missing"), filepath.Join(dir, "other"), dir} {
		if err := os.Symlink(target, path); err != nil {
			t.Fatal(err)
		}
		if _, err := (Driver{}).Open(t.Context(), reader.Device{Address: path, Params: map[string]string{"mode": "0666"}}); !errors.Is(err, reader.ErrInvalid) {
			t.Errorf("a link to %s: %v, want ErrInvalid", target, err)
		}
		if got, err := os.Readlink(path); err != nil || got != target {
			t.Errorf("the link to %s is %q, %v", target, got, err)
		}
		_ = os.Remove(path)
	}
	if st, err := os.Stat(file); err != nil || st.Mode() != 0o400 {
		t.Errorf("the file is %v, %v", st.Mode(), err)
	}
	if st, err := os.Stat(other.opts.address); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("the other socket is %v, %v", st.Mode(), err)
	}
	if _, err := os.Lstat(filepath.Join(dir, "missing")); !os.IsNotExist(err) {
		t.Errorf("a link was followed: %v", err)
	}
}

// A stale socket of another user stays where it is.
func TestStaleOfAnother(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("only root can give files away")
	}
	path := filepath.Join(t.TempDir(), "s")
	stale, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	stale.SetUnlinkOnClose(false)
	_ = stale.Close()
	if err := os.Chown(path, 65534, 65534); err != nil {
		t.Fatal(err)
	}
	if _, err := (Driver{}).Open(t.Context(), reader.Device{Address: path}); !errors.Is(err, reader.ErrNoPermission) {
		t.Errorf("%v, want ErrNoPermission", err)
	}
	if _, err := os.Lstat(path); err != nil {
		t.Error(err)
	}
	if err := os.Chown(path, 0, 0); err != nil {
		t.Fatal(err)
	}
	attach(t, path, nil)
}

// A datagram socket that is in use counts as in use, too.
func TestDatagramSocket(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	c, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := (Driver{}).Open(t.Context(), reader.Device{Address: path}); !errors.Is(err, reader.ErrClaimed) {
		t.Errorf("%v, want ErrClaimed", err)
	}
	if _, err := os.Lstat(path); err != nil {
		t.Error(err)
	}
}

// The error says why the port cannot listen.
func TestListenErrors(t *testing.T) {
	dir := t.TempDir()
	if _, err := (Driver{}).Open(t.Context(), reader.Device{Address: filepath.Join(dir, "no/such/dir")}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no directory: %v", err)
	}
	if _, err := (Driver{}).Open(t.Context(), reader.Device{Address: "127.0.0.1:1", Link: new(port)}); !errors.Is(err, reader.ErrInvalid) {
		t.Errorf("a foreign link: %v", err)
	}
	if _, err := (Driver{}).Open(t.Context(), reader.Device{Address: "192.0.2.1:1", Params: map[string]string{"public": "yes"}}); err == nil {
		t.Error("an address of another machine")
	}
}
