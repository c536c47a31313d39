package remote

import (
	"os"
	"testing"

	"github.com/cardfs/cardfs/tests/internal/daemon"
)

var program string // the real cardfs

func TestMain(m *testing.M) {
	if url := os.Getenv(asDaemon); url != "" {
		os.Exit(serveMount(url))
	}
	daemon.Main(m, &program)
}
