package core

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/cardfs/cardfs/reader"
)

// Many slots that come and go, each with a limit of its own, have one together.
func TestLimitLogOfAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		r := newRig(t, Options{Log: slog.New(slog.NewTextHandler(&out, nil))})
		defer r.Close(t.Context())
		for range 300 {
			fake, _ := r.plug(reader.Device{}, newFakeSlot(t))
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
			_, b := r.plug(reader.Device{}, slot)
			s := mustOpen(t, b, someone())
			slot.set(func(f *fakeSlot) {
				f.exchange = func(_ context.Context, x reader.Transfer, _ []byte) ([]byte, error) {
					return nil, fmt.Errorf("no answer to %d bytes: %w", len(x.Out), reader.ErrTimeout)
				}
			})
			s.Transmit(t.Context(), hexb(command), nil)
			log := out.String()
			if strings.Contains(log, " bytes") != told || !strings.Contains(log, `msg="slot error"`) || !strings.Contains(log, fmt.Sprintf("outcome=%q", reader.ErrTimeout)) {
				t.Errorf("%s: the log has\n%s", command, log)
			}
		})
	}
}
