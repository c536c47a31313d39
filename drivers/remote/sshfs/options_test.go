package sshfs

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/cardfs/cardfs/reader"
)

func TestOptions(t *testing.T) {
	o, err := ParseOptions(map[string]string{"identity": "/k/id", "known-hosts": "/k/known", "ssh-config": "/k/config"})
	if err != nil {
		t.Fatal(err)
	}
	args := o.arguments(Address{User: "ann", Host: "::1", Port: 2222, Dir: "/c"}, "/d")
	for _, want := range []string{"BatchMode=yes", "StrictHostKeyChecking=yes", "direct_io", "sshfs_sync", "IdentityFile=/k/id", "UserKnownHostsFile=/k/known", "Port=2222"} {
		if !slices.Contains(strings.Split(args[2], ","), want) {
			t.Errorf("%q: no %s", args[2], want)
		}
	}
	if tail := strings.Join(args[3:], " "); tail != "-F /k/config -- ann@[::1]:/c /d" {
		t.Error(tail)
	}
	if strings.Contains(args[2], "reconnect") {
		t.Error("reconnect: a new connection in an old mount knows nothing of opens and locks before it")
	}
}

func TestOptionsRefused(t *testing.T) {
	for _, params := range []map[string]string{
		{"identity": ""}, {"identity": "id"}, {"identity": "~/id"}, {"identity": "/a,ssh_command=x"}, {"identity": "/a b"},
		{"identity": `/a"b`}, {"identity": "/%h"}, {"identity": "/${HOME}"}, {"known-hosts": "/a\nb"}, {"ssh-config": "-x"}, {"password": "x"},
	} {
		if o, err := ParseOptions(params); !errors.Is(err, reader.ErrInvalid) {
			t.Errorf("%q: %+v, %v", params, o, err)
		}
	}
}
