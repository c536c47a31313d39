package fs

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"
)

// A PIN is in no log, not even where every request is logged: these are lines of
// go-fuse 2.12.1.
func TestLogHasNoPIN(t *testing.T) {
	for _, line := range []string{
		`rx 60: WRITE n3 {Fh 1 [18 +1) LOCKOWNER L 14056826312334253365 RDWR,LARGEFILE}"1234" 4b p7726`,
		`rx 68: WRITE n3 {Fh 1 [26 +9) LOCKOWNER L 14056826312334253365 RDWR,LARGEFILE}"\"\\\x041234"... 9b p7726`,
		`rx 72: IOCTL n3 {Fh 1 Flags  Cmd 0xc040cf01 Arg 0x7ffcb22a4f50, insz 64 outsz 64}"\t\x00\x001234"... 64b p7726`,
	} {
		var out bytes.Buffer
		log := slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: slog.LevelDebug}))
		logWriter{log}.Write([]byte(line + "\n"))
		if got := out.String(); strings.Contains(got, `1234\"`) || !strings.Contains(got, "[masked]") || !strings.Contains(got, "b p7726") {
			t.Errorf("logged %s", got)
		}
	}
}
