package usb_test

import (
	"bytes"
	"context"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cardfs/cardfs/drivers/bus/usb"
)

// speaker is a device that sends what a test gives it: messages, or errors.
type speaker struct {
	usb.Conn
	say chan any
}

func (s *speaker) Gone() <-chan struct{}                  { return nil }
func (s *speaker) ClearHalt(context.Context, uint8) error { return nil }
func (s *speaker) In(ctx context.Context, _ uint8, p []byte, _ time.Duration) (int, error) {
	select {
	case said := <-s.say:
		if err, failed := said.(error); failed {
			return 0, err
		}
		return copy(p, said.(string)), nil
	case <-ctx.Done():
		return 0, ctx.Err()
	}
}

// A message is no failure and not logged. "Missed is called when messages may have been lost:
// after a reset, when the device has lost its state too, and every second once the endpoint
// was given up."
func TestListener(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		var heard []string
		missed := 0
		s := &speaker{say: make(chan any)}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			usb.Listener{
				Endpoint: 0x81, Size: 2, Message: func(p []byte) { heard = append(heard, string(p)) },
				Missed: func() { missed++ }, Log: slog.New(slog.NewTextHandler(&log, nil)),
			}.Run(ctx, s)
		}()
		for range 3 * usb.InterruptTries {
			s.say <- "in"
		}
		synctest.Wait()
		if len(heard) != 3*usb.InterruptTries || missed != 0 || log.Len() > 0 {
			t.Errorf("heard %q, missed %d, logged %s", heard, missed, &log)
		}
		s.say <- usb.ErrReset
		s.say <- "after a reset"
		synctest.Wait()
		if missed != 1 || heard[len(heard)-1] != "after a reset" {
			t.Errorf("missed %d, heard %q", missed, heard[len(heard)-1])
		}
		for range usb.InterruptTries {
			s.say <- usb.ErrBus
		}
		time.Sleep(3*usb.FallbackPoll + time.Second)
		synctest.Wait()
		if missed < 4 || !strings.Contains(log.String(), "given up") {
			t.Errorf("missed %d, logged %s", missed, &log)
		}
		cancel()
		<-ended
	})
}
