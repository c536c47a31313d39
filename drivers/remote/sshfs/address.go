package sshfs

import (
	"fmt"
	"net/netip"
	"net/url"
	"path"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/cardfs/cardfs/reader"
)

const (
	scheme = "ssh://"
	// defaultDir is where Debian's package of cardfs mounts the readers.
	defaultDir  = "/mnt/cards"
	defaultPort = 22
	// Lengths in bytes. POSIX has _POSIX_LOGIN_NAME_MAX 9 and Linux 32; names of domains are
	// longer. RFC 1035 §2.3.4: a host's name has 255 octets at most, 253 in text.
	maxUser, maxHost, maxDir = 128, 253, 1024
)

// IsURL reports whether an address is for this package.
func IsURL(address string) bool { return strings.HasPrefix(address, scheme) }

// Address is a directory of another machine.
type Address struct {
	User string // "": ssh's configuration decides
	Host string // a name, or an IP address without brackets
	Port uint16 // 0: ssh's configuration decides
	Dir  string // absolute and clean
}

// Parse reads ssh://[USER@]HOST[:PORT][/DIRECTORY]. An IPv6 address stands in brackets, its
// zone after %25 (RFC 6874). Without a DIRECTORY it is /mnt/cards. Errors wrap
// reader.ErrInvalid. They contain nothing of the URL's text, in which there may be a password.
func Parse(s string) (Address, error) {
	bad := func(why string) (Address, error) {
		return Address{}, fmt.Errorf("ssh: the address %s; give ssh://USER@HOST[:PORT][/DIRECTORY]: %w", why, reader.ErrInvalid)
	}
	if !IsURL(s) {
		return bad("does not begin with ssh://")
	}
	u, err := url.Parse(s)
	if err != nil {
		return bad("is not a URL")
	}
	if _, has := u.User.Password(); has {
		return bad("has a password, which would be seen in lists and logs: use a key (ssh-keygen, and ssh-copy-id)")
	}
	a := Address{User: u.User.Username(), Host: u.Hostname(), Dir: defaultDir}
	switch {
	case strings.ContainsAny(s, "?#"):
		return bad("has a ? or #; in the name of a directory they are %3F and %23")
	case u.User != nil && !isUser(a.User):
		return bad("names a user with other characters than A-Z a-z 0-9 . _ + @ -, or with - in front")
	case strings.HasPrefix(u.Host, "[") && !isIPv6(a.Host):
		return bad("has something in brackets that is no IPv6 address")
	case !strings.HasPrefix(u.Host, "[") && !isHost(a.Host):
		return bad("names a host with other characters than A-Z a-z 0-9 . _ -, with - in front, or none")
	}
	if port := u.Port(); port != "" || strings.HasSuffix(u.Host, ":") {
		n, err := strconv.ParseUint(port, 10, 16)
		if err != nil || n == 0 {
			return bad("has a port that is no number from 1 to 65535")
		}
		a.Port = uint16(n)
	}
	if dir := path.Clean("/" + u.Path); dir != "/" {
		a.Dir = dir
	}
	if len(a.Dir) > maxDir || !utf8.ValidString(a.Dir) || strings.ContainsFunc(a.Dir, unicode.IsControl) {
		return bad("names a directory with control characters, not in UTF-8, or too long")
	}
	return a, nil
}

// isUser is narrower than what servers take: the name becomes a word of ssh's arguments.
func isUser(s string) bool {
	return s != "" && len(s) <= maxUser && s[0] != '-' && onlyHas(s, "._+@-")
}

func isHost(s string) bool {
	return s != "" && len(s) <= maxHost && s[0] != '-' && onlyHas(s, "._-")
}

func isIPv6(s string) bool {
	ip, err := netip.ParseAddr(s)
	return err == nil && ip.Is6() && onlyHas(ip.Zone(), "._-")
}

// onlyHas reports whether s has only ASCII letters, digits and those of others.
func onlyHas(s, others string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool {
		return !('a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9' || strings.ContainsRune(others, r))
	})
}

// login is the user and the host as ssh takes them; brackets an IPv6 address.
func (a Address) login() string {
	host := a.Host
	if strings.Contains(host, ":") {
		host = "[" + host + "]"
	}
	if a.User != "" {
		host = a.User + "@" + host
	}
	return host
}

// Name is what the machine is called in a reader's name: HOST, or USER@HOST, with the port if
// it is not ssh's own.
func (a Address) Name() string {
	if a.Port != 0 && a.Port != defaultPort {
		return a.login() + ":" + strconv.Itoa(int(a.Port))
	}
	return a.login()
}

// String is the URL in the form that Parse takes.
func (a Address) String() string {
	u := url.URL{Scheme: "ssh", Host: a.Host, Path: a.Dir}
	if strings.Contains(a.Host, ":") {
		u.Host = "[" + a.Host + "]"
	}
	if a.Port != 0 {
		u.Host += ":" + strconv.Itoa(int(a.Port))
	}
	if a.User != "" {
		u.User = url.User(a.User)
	}
	return u.String()
}
