package sshfs

import (
	"errors"
	"strings"
	"testing"

	"github.com/cardfs/cardfs/reader"
)

func TestParse(t *testing.T) {
	for _, tc := range []struct {
		url  string
		want Address
		name string
	}{
		{"ssh://ann@lab", Address{"ann", "lab", 0, "/mnt/cards"}, "ann@lab"},
		{"ssh://ann@lab/", Address{"ann", "lab", 0, "/mnt/cards"}, "ann@lab"},
		{"ssh://lab.example.org:2222/srv/cards/3", Address{"", "lab.example.org", 2222, "/srv/cards/3"}, "lab.example.org:2222"},
		{"ssh://ann@192.0.2.1:22/srv/./cards/../x/", Address{"ann", "192.0.2.1", 22, "/srv/x"}, "ann@192.0.2.1"},
		// RFC 3986 §3.2.2: IPv6 in brackets; RFC 6874: its zone after %25.
		{"ssh://ann@[2001:db8::1]:2222/x", Address{"ann", "2001:db8::1", 2222, "/x"}, "ann@[2001:db8::1]:2222"},
		{"ssh://[fe80::1%25eth0]", Address{"", "fe80::1%eth0", 0, "/mnt/cards"}, "[fe80::1%eth0]"},
		// RFC 3986 §2.1: percent-encoding.
		{"ssh://ann%40corp@lab/a%20b%2Cc%3F%C3%A4", Address{"ann@corp", "lab", 0, "/a b,c?ä"}, "ann@corp@lab"},
		{"ssh://lab/%2e%2e/x", Address{"", "lab", 0, "/x"}, "lab"},
	} {
		got, err := Parse(tc.url)
		if err != nil || got != tc.want || got.Name() != tc.name {
			t.Errorf("%s: %+v, %v, called %s; want %+v, called %s", tc.url, got, err, got.Name(), tc.want, tc.name)
		}
	}
}

func TestParseRefuses(t *testing.T) {
	for url, why := range map[string]string{
		"":                                       "does not begin",
		"SSH://lab":                              "does not begin",
		"ssh:lab":                                "does not begin",
		"ssh://":                                 "names a host",
		"ssh:///mnt/cards":                       "names a host",
		"ssh://ann@":                             "names a host",
		"ssh://@lab":                             "names a user",
		"ssh://-oProxyCommand=x@lab":             "names a user",
		"ssh://-ann@lab":                         "names a user",
		"ssh://a:b@lab":                          "password",
		"ssh://ann:@lab":                         "password",
		"ssh://ann:s3cr3t@lab/%zz":               "is not a URL",
		"ssh://-lab":                             "names a host",
		"ssh://ann@-oProxyCommand=touch":         "names a host",
		"ssh://ann@[-oProxyCommand=touch]":       "",
		"ssh://[lab]":                            "",
		"ssh://[192.0.2.1]":                      "",
		"ssh://2001:db8::1/":                     "",
		"ssh://[::1":                             "is not a URL",
		"ssh://[::1]x":                           "is not a URL",
		"ssh://[fe80::1%25a%20b]":                "",
		"ssh://la,b":                             "names a host",
		"ssh://la%2Cb":                           "",
		"ssh://lab:0":                            "port",
		"ssh://lab:":                             "port",
		"ssh://lab:65536":                        "port",
		"ssh://lab:+22":                          "is not a URL",
		"ssh://lab/a\nb":                         "is not a URL",
		"ssh://lab/a%0Ab":                        "directory",
		"ssh://lab/a%00b":                        "directory",
		"ssh://lab/%C2%9B":                       "directory", // CSI, a control character of eight bits
		"ssh://lab/%FF":                          "directory",
		"ssh://lab/" + strings.Repeat("a", 2000): "directory",
		"ssh://" + strings.Repeat("a", 300):      "names a host",
		"ssh://lab/x?y":                          "? or #",
		"ssh://lab/x?":                           "? or #",
		"ssh://lab/x#":                           "? or #",
		"ssh://a%0A@lab":                         "names a user",
		"ssh://a[b@lab":                          "",
		"ssh://a%3Ab@lab":                        "names a user",
	} {
		_, err := Parse(url)
		if !errors.Is(err, reader.ErrInvalid) || !strings.Contains(err.Error(), why) {
			t.Errorf("%.60q: %v; want %q", url, err, why)
		}
		if err != nil && strings.Contains(err.Error(), "s3cr3t") {
			t.Errorf("%q: the error has the password: %v", url, err)
		}
	}
}

// Whatever Parse takes is no option of ssh's or sshfs's, means the same in its canonical form,
// and is one word to sshfs.
func FuzzParse(f *testing.F) {
	for _, url := range []string{"ssh://ann@lab:22/mnt/cards", "ssh://[fe80::1%25eth0]:2222/a%20b", "ssh://ann:x@lab", "ssh://a%40b@lab/%2e%2e/%2C", "ssh://-x@-y/"} {
		f.Add(url)
	}
	f.Fuzz(func(t *testing.T, url string) {
		a, err := Parse(url)
		if err != nil {
			if !errors.Is(err, reader.ErrInvalid) {
				t.Errorf("%q: %v", url, err)
			}
			return
		}
		again, err := Parse(a.String())
		if err != nil || again != a {
			t.Errorf("%q: %+v; %q: %+v, %v", url, a, a.String(), again, err)
		}
		args := Options{}.arguments(a, "/d")
		from := args[len(args)-2]
		if args[len(args)-3] != "--" || strings.HasPrefix(from, "-") || strings.HasPrefix(a.Host, "-") {
			t.Errorf("%q: %q", url, args)
		}
		// sshfs divides it at the first colon behind the brackets (find_base_path).
		login := strings.TrimSuffix(from, ":"+a.Dir)
		if outside := strings.ReplaceAll(login, "["+a.Host+"]", ""); strings.ContainsAny(outside, ":[],") || !strings.HasPrefix(a.Dir, "/") {
			t.Errorf("%q: %q", url, from)
		}
	})
}
