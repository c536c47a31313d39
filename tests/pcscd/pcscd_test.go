package pcscd

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cardfs/cardfs/tests/internal/ports"
)

// vpcd is Debian's reader for virtual cards, listening at port and port+1.
func vpcd(name string, port int) string {
	return fmt.Sprintf("CHANNELID 0x%X\nLIBPATH /usr/lib/pcsc/drivers/serial/libifdvpcd.so\nFRIENDLYNAME %q\n", port, name)
}

func TestTwoAtOnceAndRestart(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var servers []*Server
	for _, name := range []string{"First", "Second"} {
		port, err := ports.Free(2)
		if err != nil {
			t.Fatal(err)
		}
		s, err := Start(ctx, t.TempDir(), vpcd(name, port))
		if err != nil {
			t.Fatal(err)
		}
		defer func() {
			if err := s.Close(); err != nil {
				t.Error(err)
			}
			if _, err := os.Stat(s.socket); !os.IsNotExist(err) {
				t.Errorf("the socket is still there: %v", err)
			}
		}()
		servers = append(servers, s)
	}
	check := func(i int, want, not string) {
		t.Helper()
		out, err := servers[i].Command(ctx, "opensc-tool", "--list-readers").CombinedOutput()
		if err != nil || !strings.Contains(string(out), want) || strings.Contains(string(out), not) {
			t.Errorf("readers of pcscd %d: %v\n%s\n%s", i, err, out, servers[i].Log())
		}
	}
	check(0, "First", "Second")
	check(1, "Second", "First")
	if err := servers[0].Restart(ctx); err != nil {
		t.Fatal(err)
	}
	check(0, "First", "Second")
	if err := servers[0].Kill(); err != nil {
		t.Error(err)
	}
	if servers[0].Alive() {
		t.Error("alive after SIGKILL")
	}
	if err := servers[0].Restart(ctx); err != nil {
		t.Fatal(err)
	}
	check(0, "First", "Second")
	if err := servers[0].Shutdown(); err != nil {
		t.Error(err)
	}
}

func TestBadConfiguration(t *testing.T) {
	s, err := Start(t.Context(), t.TempDir(), "FRIENDLYNAME \"x\"\nDEVICENAME "+filepath.Join(t.TempDir(), "none")+"\nLIBPATH "+filepath.Join(t.TempDir(), "x.so")+"\n")
	if err == nil {
		_ = s.Close()
		t.Fatal("pcscd started")
	}
	if !strings.Contains(err.Error(), "DEVICENAME") {
		t.Errorf("the error does not show pcscd's log: %v", err)
	}
}
