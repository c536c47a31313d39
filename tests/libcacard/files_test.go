package libcacard

import (
	"bufio"
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cardfs/cardfs/tests/cc"
	"github.com/cardfs/cardfs/tests/internal/daemon"
)

// The main job: a script that uses only the mounted files reads the certificates of another
// project's card. openssl finds them equal to those in the card's database.
func TestThroughFiles(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	card, err := New(ctx, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	socket := "unix:" + filepath.Join(t.TempDir(), "card")
	mount := mountCardfs(t, ctx, "--attach", "vpcd "+socket)
	in, err := card.Insert(ctx, socket)
	if err != nil {
		t.Fatal(err)
	}
	slot := filepath.Join(mount, "0")
	await := follow(t, ctx, slot)
	await("inserted")

	for i, name := range Certificates {
		script := exec.CommandContext(ctx, filepath.Join(cc.Root(), "tests/libcacard/readcert"), slot, "A00000007901"+[]string{"00", "01", "02"}[i])
		var stderr strings.Builder
		script.Stderr = &stderr
		got, err := script.Output()
		if err != nil {
			t.Fatalf("readcert: %v\n%s", err, stderr.String())
		}
		want, err := card.Certificate(ctx, name)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, want) {
			t.Errorf("%s: %d bytes from the card, %d in the database, and not the same", name, len(got), len(want))
		}
		a, b := fingerprint(t, ctx, got), fingerprint(t, ctx, want)
		t.Logf("%s: %s", name, a)
		if a != b || !strings.Contains(a, "CN = cardfs "+name) {
			t.Errorf("%s: openssl says\n%s of the card's and\n%s of the database's", name, a, b)
		}
	}

	if err := in.Remove(); err != nil {
		t.Error(err)
	}
	await("removed")
	f, err := os.OpenFile(filepath.Join(slot, "apdu"), os.O_RDWR|syscall.O_NONBLOCK, 0)
	if err == nil {
		_ = f.Close()
	}
	if perr, ok := err.(*os.PathError); !ok || perr.Err != syscall.ENOMEDIUM {
		t.Errorf("open of apdu after the card's removal: %v, want ENOMEDIUM", err)
	}
}

func fingerprint(t *testing.T, ctx context.Context, der []byte) string {
	t.Helper()
	cmd := exec.CommandContext(ctx, "openssl", "x509", "-inform", "der", "-noout", "-subject", "-fingerprint", "-sha256")
	cmd.Stdin = bytes.NewReader(der)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("openssl x509: %v\n%s", err, out)
	}
	return string(out)
}

// mountCardfs builds the program and runs `cardfs mount ARGS DIR` until the test ends.
func mountCardfs(t *testing.T, ctx context.Context, args ...string) (dir string) {
	t.Helper()
	program := filepath.Join(t.TempDir(), "cardfs")
	if err := daemon.Build(ctx, program); err != nil {
		t.Fatal(err)
	}
	return daemon.Start(t, program, daemon.MountPoint(t), args...).Dir
}

// follow reads a slot's events. The returned function waits for the next event of kind what.
func follow(t *testing.T, ctx context.Context, slot string) (await func(what string)) {
	t.Helper()
	// cat: the context ends its wait, and it does not block a thread of ours.
	cmd := exec.CommandContext(ctx, "cat", filepath.Join(slot, "event"))
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	in := bufio.NewScanner(out)
	return func(what string) {
		t.Helper()
		for in.Scan() {
			if w := strings.Fields(in.Text()); len(w) > 2 && w[2] == what {
				return
			}
		}
		t.Fatalf("no event %q", what)
	}
}
