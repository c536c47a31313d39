package reader

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// What a device can say as often as it likes is logged ten times, then once a minute
// with how often it was left out; nothing else is held back by it.
func TestLimitLog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		log := LimitLog(slog.New(slog.NewTextHandler(&out, nil))).With("reader", 1).WithGroup("g")
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

// Many slots that come and go, each with a limit of its own, have one together.
func TestLimitLogOfAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		r := newRig(t, Options{Log: slog.New(slog.NewTextHandler(&out, nil))})
		defer r.Close(t.Context())
		for range 300 {
			fake, _ := r.plug(Device{}, newFakeSlot(t))
			fake.unplug()
			synctest.Wait()
		}
		// For each message as many as at once, and one for each pause that went by.
		if n := strings.Count(out.String(), "msg=arrived"); n < logBurstOfAll || n > logBurstOfAll+100 {
			t.Errorf("%d arrivals of 300 are logged", n)
		}
	})
}

// Words of an error may tell the length of a command, and that of VERIFY the PIN's.
func TestLogOfSecretCommand(t *testing.T) {
	for command, told := range map[string]bool{"00 B0 00 00 08": true, "00 20 00 01 04 31 32 33 34": false} {
		synctest.Test(t, func(t *testing.T) {
			var out bytes.Buffer
			r := newRig(t, Options{Log: slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: slog.LevelDebug}))})
			defer r.Close(t.Context())
			slot := newFakeSlot(t)
			_, b := r.plug(Device{}, slot)
			s := mustOpen(t, b, someone())
			slot.set(func(f *fakeSlot) {
				f.exchange = func(_ context.Context, x Transfer, _ []byte) ([]byte, error) {
					return nil, fmt.Errorf("no answer to %d bytes: %w", len(x.Out), ErrTimeout)
				}
			})
			s.Transmit(t.Context(), hexb(command), nil)
			log := out.String()
			if strings.Contains(log, " bytes") != told || !strings.Contains(log, `msg="slot error"`) || !strings.Contains(log, fmt.Sprintf("outcome=%q", ErrTimeout)) {
				t.Errorf("%s: the log has\n%s", command, log)
			}
		})
	}
}
