// Package soak wears the mounted files out: plugging and unplugging under
// clients that open at random moments, many clients on one card, clients that
// are killed, a daemon that leaves or is killed, and a week of all that at once.
//
//	go test ./tests/soak                             a few hundred cycles, a week of 20 s
//	CARDFS_SOAK=10000 go test -timeout 60m ./tests/soak   the long version
//
// The server and its clients never share a process, since the kernel may make
// the one wait for the other: the tests run the real binary, or serve from this
// process, and this test binary runs itself again as the clients.
package soak

import (
	"os"
	"strconv"
	"testing"

	"github.com/cardfs/cardfs/tests/internal/daemon"
	"github.com/cardfs/cardfs/tests/internal/proc"
)

// program is the program, built once.
var program string

func TestMain(m *testing.M) {
	if role := os.Getenv(roleEnv); role != "" {
		os.Exit(client(role, os.Args[1:]))
	}
	daemon.Main(m, &program)
}

// soak is the number of cycles or exchanges of a test: few, or the value of CARDFS_SOAK.
func soak(t *testing.T, few int) int {
	if s := os.Getenv("CARDFS_SOAK"); s != "" {
		n, err := strconv.Atoi(s)
		if err != nil || n <= 0 {
			t.Fatalf("CARDFS_SOAK=%s: a number is wanted", s)
		}
		return n
	}
	return few
}

// measure returns what a process holds.
func measure(t testing.TB, pid int) proc.Usage {
	t.Helper()
	u, err := proc.UsageOf(pid)
	if err != nil {
		t.Fatal(err)
	}
	return u
}
