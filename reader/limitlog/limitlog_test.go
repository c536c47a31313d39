package limitlog

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// A message that a device can cause any number of times is logged ten times. After that it is
// logged every ten seconds with the number of omissions. Other messages are not held back.
func TestLimitLog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		log := New(slog.New(slog.NewTextHandler(&out, nil))).With("reader", 1).WithGroup("g")
		lines := func() []string {
			all := strings.Split(strings.TrimSpace(out.String()), "\n")
			out.Reset()
			return all
		}
		for n := range 57000 {
			log.Warn("hardware error", "code", n)
		}
		log.Warn("another")
		got := lines()
		if len(got) != logBurst+1 || !strings.Contains(got[0], "reader=1 g.code=0") || !strings.Contains(got[logBurst], "another") {
			t.Errorf("%d lines: %q", len(got), got)
		}
		for range 3 {
			time.Sleep(logPause)
			for range 100 {
				log.Warn("hardware error")
			}
		}
		got = lines()
		if len(got) != 3 || !strings.Contains(got[0], `left out"=56990`) || !strings.Contains(got[1], `left out"=99`) {
			t.Errorf("%d lines: %q", len(got), got)
		}
		time.Sleep(time.Hour)
		for range 100 {
			log.Warn("hardware error")
		}
		if got := lines(); len(got) != logBurst {
			t.Errorf("%d lines after an hour: %q", len(got), got)
		}
	})
}
