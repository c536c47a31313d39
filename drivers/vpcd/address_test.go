package vpcd

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

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

	// Somebody else's file under the same name stays.
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
