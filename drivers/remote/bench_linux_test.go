package remote

import (
	"bytes"
	"encoding/hex"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/cardfs/cardfs/reader/core"
)

// An exchange by the driver, against a write and a read of the same far file: "≤ 1.5".
func BenchmarkExchange(b *testing.B) {
	far := machineThere(b, "t1")
	w := newWay(b, far.dir)
	command := []byte{0, 0xA4, 0, 0, 2, 0x3F, 0}
	b.Run("plain", func(b *testing.B) {
		fd, err := unix.Open(filepath.Join(w.at, "0/apdu"), os.O_RDWR, 0)
		if err != nil {
			b.Fatal(err)
		}
		defer unix.Close(fd)
		line := append(hex.AppendEncode(nil, command), '\n')
		buf := make([]byte, 32<<10)
		for b.Loop() {
			if _, err := unix.Write(fd, line); err != nil {
				b.Fatal(err)
			}
			if n, err := unix.Read(fd, buf); err != nil || !bytes.HasSuffix(buf[:n], []byte("90 00\n")) {
				b.Fatalf("%q, %v", buf[:n], err)
			}
		}
	})
	h := machineHere(b, "remote "+w.at)
	h.awaitState(0, core.StatePresent, core.StatePowered)
	s := h.open(0)
	b.Run("remote", func(b *testing.B) {
		for b.Loop() {
			if _, err := s.Transmit(b.Context(), command, nil); err != nil {
				b.Fatal(err)
			}
		}
	})
}
