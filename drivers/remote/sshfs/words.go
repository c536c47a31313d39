package sshfs

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"

	"github.com/cardfs/cardfs/reader"
	"github.com/cardfs/cardfs/reader/words"
)

const (
	maxLine  = 1024 // bytes of a line of stderr; the rest of it is dropped
	maxLines = 32   // that are kept
)

// complaint is something that ssh or sshfs says on stderr, in the C locale, and what it means.
// There are no underscores in what it means: in ctl they are blanks. %[1]s is the machine's name, %[2]s the directory, %[3]s the user or "the user".
type complaint struct {
	says  string // in a line
	means string
	kind  error // nil: none of package reader's
}

// complaints are in the order in which they are looked for: of several that were said, the
// first here is the reason of the others. The texts are those of OpenSSH 9.2p1 (sshconnect.c,
// sshconnect2.c, ssh.c, authfile.c, readconf.c, clientloop.c) and sshfs 3.7.3.
var complaints = []complaint{
	{"REMOTE HOST IDENTIFICATION HAS CHANGED", "the host key of %[1]s is not the one that is known: another machine answers, or it was installed anew; if you know that it was, remove the old key (ssh-keygen -R) and add the new one", reader.ErrNoPermission},
	{"REVOKED HOST KEY", "the host key of %[1]s is revoked", reader.ErrNoPermission},
	{"Host key verification failed", "the host key of %[1]s is not known: compare its fingerprint with that of the machine and add it to the known ones of the user of this daemon (ssh ssh://%[1]s asks and adds it), or name a file by known-hosts=FILE", reader.ErrNoPermission},
	{"UNPROTECTED PRIVATE KEY FILE", "others than its owner may read the private key, so ssh does not use it: chmod 600 the file", reader.ErrNoPermission},
	{"Bad configuration option", "ssh refuses its configuration: run ssh ssh://%[1]s as the user of this daemon, which says where", reader.ErrInvalid},
	{"Bad owner or permissions on", "others than its owner may write ssh's configuration, so ssh does not read it: chmod go-w the file", reader.ErrNoPermission},
	{"Load key ", "the private key cannot be used: it is no key, has a passphrase, or the user of this daemon may not read it", reader.ErrNoPermission},
	{"Too many authentication failures", "%[1]s was offered too many keys before the right one: name it by identity=FILE", reader.ErrNoPermission},
	{": Permission denied (", "%[1]s does not accept the key: add the public key of this daemon's user to those of %[3]s there (ssh-copy-id), or name the right key by identity=FILE", reader.ErrNoPermission},
	{"Could not resolve hostname", "the name of %[1]s is not known to the resolver", nil},
	{": Connection refused", "%[1]s refuses the connection: no sshd listens there", nil},
	{": Connection timed out", "%[1]s does not answer: the machine is off, or a firewall is in between", nil},
	{": No route to host", "there is no way to %[1]s: the machine is off, or the network is another", nil},
	{": Network is unreachable", "there is no way to %[1]s: no network here", nil},
	{"not responding", "%[1]s did not answer any more: the line is dead, or the machine", nil},
	{"kex_exchange_identification", "%[1]s ended the connection before the login: too many at once (MaxStartups of its sshd), or it is no sshd", nil},
	{"subsystem request failed", "%[1]s has no SFTP: its sshd needs a line Subsystem sftp", reader.ErrUnsupported},
}

// refusals are what sshfs says behind HOST:DIRECTORY of the directory itself.
var refusals = []complaint{
	{": No such file or directory", "there is no directory %[2]s on %[1]s: name cardfs's mount point there, as in ssh://HOST/mnt/cards", nil},
	{": Not a directory", "%[2]s on %[1]s is no directory, or a symbolic link: name cardfs's mount point there", nil},
	{": Permission denied", "%[3]s may not enter %[2]s on %[1]s: log in as the user who mounted it, or mount it with --allow-other", reader.ErrNoPermission},
	{": Operation not permitted", "%[2]s on %[1]s cannot be used: a stale mount of a cardfs that was killed, perhaps", nil},
}

// broken are what sshfs says when one of its connections has ended.
var broken = []string{"remote host has disconnected", "read: ", "write: "}

// explain makes an error of what sshfs and ssh said.
func (a Address) explain(said []string) error {
	user := a.User
	if user == "" {
		user = "the user"
	}
	wrap := func(c complaint) error {
		// fmt has no way to say that an argument may be left out.
		text := strings.NewReplacer("%[1]s", a.Name(), "%[2]s", words.Printable(a.Dir, words.MaxValue), "%[3]s", user).Replace(c.means)
		if c.kind == nil {
			return fmt.Errorf("ssh: %s", text)
		}
		return fmt.Errorf("ssh: %s: %w", text, c.kind)
	}
	for _, c := range complaints {
		for _, line := range said {
			if strings.Contains(line, c.says) {
				return wrap(c)
			}
		}
	}
	for _, c := range refusals {
		for _, line := range said {
			if strings.HasSuffix(line, ":"+a.Dir+c.says) {
				return wrap(c)
			}
		}
	}
	for _, line := range said {
		for _, b := range broken {
			if strings.HasPrefix(line, b) {
				return fmt.Errorf("ssh: the connection to %s ended", a.Name())
			}
		}
	}
	if len(said) == 0 {
		return fmt.Errorf("ssh: sshfs for %s ended, and did not say why", a.Name())
	}
	return fmt.Errorf("ssh: sshfs for %s ended, and said %q", a.Name(), words.Printable(said[len(said)-1], words.MaxValue))
}

// complaintLog keeps the last lines of what sshfs and ssh say. The other machine has a part in
// that, so it is bounded, and only matched against known texts or shown masked.
type complaintLog struct {
	mu    sync.Mutex
	lines []string
}

// read reads until the end. It calls lost, perhaps more than once, when sshfs says that a
// connection ended.
func (l *complaintLog) read(r io.Reader, lost func()) {
	in := bufio.NewReaderSize(r, maxLine)
	for {
		line, err := in.ReadSlice('\n')
		text := strings.TrimRight(string(line), "\r\n")
		for errors.Is(err, bufio.ErrBufferFull) {
			_, err = in.ReadSlice('\n')
		}
		if text != "" {
			l.add(text)
		}
		for _, b := range broken {
			if strings.HasPrefix(text, b) {
				lost()
			}
		}
		if err != nil {
			return
		}
	}
}

func (l *complaintLog) add(line string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.lines) == maxLines {
		l.lines = append(l.lines[:0], l.lines[1:]...)
	}
	l.lines = append(l.lines, line)
}

func (l *complaintLog) all() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append([]string(nil), l.lines...)
}
