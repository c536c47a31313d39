package remote

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/cardfs/cardfs/tests/sftp"
)

// way is a directory of another machine that sshfs mounts here. It can be cut.
type way struct {
	*sftp.Mounted
	t        testing.TB
	from, at string
	server   *sftp.Server // of the present mount; nil: cut
}

func newWay(t testing.TB, from string) *way {
	t.Helper()
	w := &way{t: t, from: from, at: filepath.Join(t.TempDir(), "mnt")}
	if err := os.Mkdir(w.at, 0o700); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.cut)
	w.restore()
	return w
}

// restore mounts.
func (w *way) restore() {
	w.t.Helper()
	server, err := sftp.Listen(0)
	if err != nil {
		w.t.Fatal(err)
	}
	if w.Mounted, err = server.Mount(w.t.Context(), w.from, w.at); err != nil {
		_ = server.Close()
		w.t.Fatal(err)
	}
	w.server = server
}

// cut ends the servers, and with them sshfs and its calls, as a line that breaks.
func (w *way) cut() {
	if w.server == nil {
		return
	}
	if err := w.server.Close(); err != nil {
		w.t.Error(err)
	}
	w.server = nil
	if err := w.Close(); err != nil {
		w.t.Error(err)
	}
}
