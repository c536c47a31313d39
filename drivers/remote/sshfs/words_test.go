package sshfs

import (
	"errors"
	"strings"
	"testing"

	"github.com/cardfs/cardfs/reader"
	"github.com/cardfs/cardfs/reader/words"
)

// What ssh 9.2p1 and sshfs 3.7.3 said.
func TestExplain(t *testing.T) {
	a := Address{User: "ann", Host: "lab", Port: 2222, Dir: "/srv/cards"}
	for _, tc := range []struct {
		said, want string
		kind       error
	}{
		{"No ED25519 host key is known for [lab]:2222 and you have requested strict checking.\r\nHost key verification failed.\r\nread: Connection reset by peer\n",
			"is not known", reader.ErrNoPermission},
		{"@    WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED!     @\r\nHost key verification failed.\r\nread: Connection reset by peer\n",
			"is not the one that is known", reader.ErrNoPermission},
		{"ann@lab: Permission denied (publickey).\r\nread: Connection reset by peer\n", "does not accept the key", reader.ErrNoPermission},
		{"Load key \"/k\": invalid format\r\nann@lab: Permission denied (publickey).\r\n", "the private key cannot be used", reader.ErrNoPermission},
		{"ann@lab:/srv/cards: Permission denied\n", "ann may not enter /srv/cards on ann@lab:2222", reader.ErrNoPermission},
		{"ann@lab:/srv/cards: No such file or directory\n", "there is no directory /srv/cards", nil},
		{"ann@lab:/elsewhere: No such file or directory\n", `said "ann@lab:/elsewhere: No such file or directory"`, nil},
		{"ssh: connect to host lab port 2222: Connection timed out\r\nread: Connection reset by peer\n", "does not answer", nil},
		{"ssh: Could not resolve hostname lab: Name or service not known\r\nread: Connection reset by peer\n", "resolver", nil},
		{"Timeout, server lab not responding.\r\nread: Connection reset by peer\n", "did not answer any more", nil},
		{"subsystem request failed on channel 0\r\nread: Connection reset by peer\n", "has no SFTP", reader.ErrUnsupported},
		{"remote host has disconnected\n", "the connection to ann@lab:2222 ended", nil},
		{"", "did not say why", nil},
		{"\x1b[2J\u202eevil", `said " [2J` + "\ufffd" + `evil"`, nil},
	} {
		var l complaintLog
		l.read(strings.NewReader(tc.said), func() {})
		err := a.explain(l.all())
		if !strings.Contains(err.Error(), tc.want) || tc.kind != nil && !errors.Is(err, tc.kind) {
			t.Errorf("%q: %v; want %q, %v", tc.said, err, tc.want, tc.kind)
		}
	}
}

// A connection of several that ends is noticed.
func TestLost(t *testing.T) {
	for said, want := range map[string]int{
		"remote host has disconnected\n": 1, "read: Connection reset by peer\n": 1, "write: Broken pipe\n": 1, "Banner: read: x\nread it\n": 0,
	} {
		var l complaintLog
		got := 0
		if l.read(strings.NewReader(said), func() { got++ }); got != want {
			t.Errorf("%q: %d", said, got)
		}
	}
}

// The other machine has a part in what is said: no panic, bounded memory, one line of
// printable characters.
func FuzzSaid(f *testing.F) {
	f.Add("Host key verification failed.\r\n")
	f.Add("x: Permission denied (\x1b]0;\n" + strings.Repeat("a", 5000) + "\n\nread: \n")
	f.Fuzz(func(t *testing.T, said string) {
		var l complaintLog
		l.read(strings.NewReader(said), func() {})
		n := 0
		for _, line := range l.all() {
			n += len(line)
		}
		if n > maxLine*maxLines || len(l.all()) > maxLines {
			t.Errorf("%d bytes in %d lines", n, len(l.all()))
		}
		err := Address{Host: "lab", Dir: "/mnt/cards"}.explain(l.all()).Error()
		if err != words.Printable(err, 4*words.MaxWords) {
			t.Errorf("%q", err)
		}
	})
}
