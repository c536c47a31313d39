package vpcd

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/cardfs/cardfs/reader"
	"golang.org/x/sys/unix"
)

// defaultPort is libifdvpcd's (0x8C7B).
const defaultPort = 35963

// options are the checked arguments of one `attach`.
type options struct {
	network string // "tcp" or "unix"
	address string // for net.Listen
	mode    fs.FileMode
	timeout time.Duration
	cards   int
}

// String returns the address in the form that `attach` accepts.
func (o options) String() string {
	if o.network == "unix" {
		return "unix:" + o.address
	}
	return o.address
}

// parseAddress accepts "", "PORT", ":PORT", "IP:PORT", "localhost:PORT", "unix:/PATH" and
// "/PATH". A missing IP is the loopback address: the protocol has no authentication, so
// other machines must never be admitted by default.
func (o *options) parseAddress(s, public string) error {
	if path, ok := strings.CutPrefix(s, "unix:"); ok || strings.HasPrefix(s, "/") {
		return o.parsePath(path)
	}
	bad := func(why string) error {
		return fmt.Errorf("vpcd: address %q: %s; give IP:PORT, PORT or unix:/PATH: %w", s, why, reader.ErrInvalid)
	}
	host, port := "", s
	switch {
	case s == "":
		port = strconv.Itoa(defaultPort)
	case strings.Trim(s, "0123456789") != "":
		var err error
		if host, port, err = net.SplitHostPort(s); err != nil {
			return bad("no port number")
		}
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return bad("the port is no number up to 65535")
	}
	ip := netip.AddrFrom4([4]byte{127, 0, 0, 1})
	if host != "" && host != "localhost" {
		if ip, err = netip.ParseAddr(host); err != nil {
			return bad("not an IP address")
		}
	}
	if !ip.Unmap().IsLoopback() && public != "yes" {
		return fmt.Errorf("vpcd: address %q can be reached from other machines, and whoever connects becomes a card without a password: add public=yes if that is meant: %w", s, reader.ErrInvalid)
	}
	o.network, o.address = "tcp", netip.AddrPortFrom(ip, uint16(n)).String()
	return nil
}

func (o *options) parsePath(path string) error {
	bad := func(why string) error {
		return fmt.Errorf("vpcd: socket %q: %s: %w", path, why, reader.ErrInvalid)
	}
	switch {
	case strings.HasPrefix(path, "@"):
		return bad("an abstract socket has no permissions; give a path in a directory")
	case !filepath.IsAbs(path):
		return bad("the daemon's working directory is not yours; give the whole path")
	case strings.ContainsRune(path, 0):
		return bad("a path has no zero bytes")
	case len(path) >= len(unix.RawSockaddrUnix{}.Path):
		return bad(fmt.Sprintf("longer than the %d bytes that sun_path takes", len(unix.RawSockaddrUnix{}.Path)-1))
	}
	o.network, o.address = "unix", filepath.Clean(path)
	return nil
}

func parseMode(s string) (fs.FileMode, error) {
	m, err := strconv.ParseUint(s, 8, 32)
	if err != nil || m&^0o777 != 0 {
		return 0, fmt.Errorf("vpcd: mode=%s: give octal permissions, as in mode=0660: %w", s, reader.ErrInvalid)
	}
	return fs.FileMode(m), nil
}

func (o options) listen(ctx context.Context) (net.Listener, error) {
	if o.network == "unix" {
		return o.listenUnix(ctx)
	}
	lc := net.ListenConfig{
		// A peer whose machine vanished sends no FIN; only keep-alive removes its card.
		KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: 15 * time.Second, Interval: 5 * time.Second, Count: 3},
	}
	ln, err := lc.Listen(ctx, "tcp", o.address)
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return nil, fmt.Errorf("vpcd: listen at %s: another program has this port (libifdvpcd under pcscd?); stop it or attach another port: %w", o, reader.ErrClaimed)
	case errors.Is(err, syscall.EACCES):
		return nil, fmt.Errorf("vpcd: listen at %s: ports below 1024 are root's; attach another port: %w", o, reader.ErrNoPermission)
	case err != nil:
		return nil, fmt.Errorf("vpcd: listen: %w", err)
	}
	return ln, nil
}

func (o options) listenUnix(ctx context.Context) (net.Listener, error) {
	if err := o.removeStale(); err != nil {
		return nil, err
	}
	ln, err := o.bind(ctx)
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return nil, fmt.Errorf("vpcd: listen at %s: the file is in the way: %w", o, reader.ErrClaimed)
	case errors.Is(err, fs.ErrPermission):
		return nil, fmt.Errorf("vpcd: listen at %s: the directory is not writable for this user: %w", o, reader.ErrNoPermission)
	case err != nil:
		return nil, fmt.Errorf("vpcd: listen: %w", err)
	}
	u := &unixListener{UnixListener: ln.(*net.UnixListener), path: o.address}
	u.SetUnlinkOnClose(false)
	if u.file, err = os.Lstat(o.address); err == nil && u.file.Mode() != o.mode|fs.ModeSocket {
		err = fmt.Errorf("they are %v, and not %v; is there a umask? %w", u.file.Mode(), o.mode|fs.ModeSocket, reader.ErrNoPermission)
	}
	if err != nil {
		if u.file != nil && u.file.Mode().Type() != fs.ModeSocket {
			u.file = nil // not ours to remove
		}
		_ = u.Close()
		return nil, fmt.Errorf("vpcd: permissions of %s: %w", o, err)
	}
	return u, nil
}

// bind makes the socket file with its final permissions. They are not changed by name
// afterwards, because another file may have the name by then. The file gets the
// permissions of the socket, less the umask (Linux net/unix/af_unix.c, unix_bind). All
// threads of a process share the umask, so bind uses a thread with a umask of its own,
// which then ends.
func (o options) bind(ctx context.Context) (ln net.Listener, err error) {
	lc := net.ListenConfig{Control: func(_, _ string, rc syscall.RawConn) error {
		var err error
		cerr := rc.Control(func(fd uintptr) { err = unix.Fchmod(int(fd), uint32(o.mode)) })
		return cmp.Or(cerr, err)
	}}
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		ownUmask()
		ln, err = lc.Listen(ctx, "unix", o.address)
	}()
	<-done
	return ln, err
}

// removeStale removes a socket file left behind by a killed daemon, and nothing else.
func (o options) removeStale() error {
	st, err := os.Lstat(o.address)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("vpcd: look at %s: %w", o, err)
	}
	if st.Mode().Type() != fs.ModeSocket {
		return fmt.Errorf("vpcd: listen at %s: a file is there that is no socket; move it away: %w", o, reader.ErrInvalid)
	}
	if owner := st.Sys().(*syscall.Stat_t).Uid; owner != uint32(os.Geteuid()) {
		return fmt.Errorf("vpcd: listen at %s: a socket of another user (uid %d) is there; move it away: %w", o, owner, reader.ErrNoPermission)
	}
	// A datagram socket cannot connect to a stream socket. The kernel returns EPROTOTYPE
	// if a program listens, which does not notice, and ECONNREFUSED if none does.
	probe, err := net.Dial("unixgram", o.address)
	switch {
	case err == nil:
		_ = probe.Close()
		return fmt.Errorf("vpcd: listen at %s: another program uses this socket: %w", o, reader.ErrClaimed)
	case errors.Is(err, syscall.EPROTOTYPE):
		return fmt.Errorf("vpcd: listen at %s: another program listens there: %w", o, reader.ErrClaimed)
	case !errors.Is(err, syscall.ECONNREFUSED):
		return fmt.Errorf("vpcd: is %s in use? %w", o, err)
	}
	if now, err := os.Lstat(o.address); err != nil || !os.SameFile(st, now) {
		return fmt.Errorf("vpcd: listen at %s: somebody else is making a socket there: %w", o, reader.ErrClaimed)
	}
	if err := unix.Unlink(o.address); err != nil {
		return fmt.Errorf("vpcd: remove the stale socket: %w", err)
	}
	return nil
}

// unixListener removes its socket file when closed, unless another file has taken its
// place meanwhile.
type unixListener struct {
	*net.UnixListener
	path string
	file fs.FileInfo
}

func (u *unixListener) Close() error {
	if st, err := os.Lstat(u.path); err == nil && u.file != nil && os.SameFile(st, u.file) {
		_ = os.Remove(u.path)
	}
	return u.UnixListener.Close()
}
