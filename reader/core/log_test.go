package core

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cardfs/cardfs/reader"
)

// Slots have a log limit each, and one limit for all together, even if they come and go.
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
		// Each message is logged for one burst, and once for each pause since.
		if n := strings.Count(out.String(), "msg=arrived"); n < logBurstOfAll || n > logBurstOfAll+100 {
			t.Errorf("%d arrivals of 300 are logged", n)
		}
	})
}

// The text of an error may reveal the length of a command, and that of VERIFY the PIN's.
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

// "No byte of a command or an answer is in `status`, an error or the log", and the length of
// VERIFY reveals the PIN's. `status` and `trace` show no number of a driver's error about a
// VERIFY or about the command that fetches its answer.
func TestErrorOfSecretCommand(t *testing.T) {
	const (
		said      = "fake: took 5 of %d bytes, len=%[1]d (0x%02[1]X), T=1 block 3: %w"
		concealed = "fake: took N of N bytes, len=N (N), T=1 block N: "
	)
	for _, tt := range []struct {
		name   string
		before string // a command that is answered
		send   func(s *Session, b *Slot) error
		secret bool
	}{
		{"READ BINARY", "", func(s *Session, b *Slot) error { return transmit(s, "00B0 0000 08") }, false},
		{"VERIFY", "", func(s *Session, b *Slot) error { return transmit(s, "0020 0001 04 31323334") }, true},
		{"GET RESPONSE after VERIFY", "0020 0001 04 31323334", func(s *Session, b *Slot) error { return transmit(s, "00C0 0000 08") }, true},
		{"GET RESPONSE after READ BINARY", "00B0 0000 08", func(s *Session, b *Slot) error { return transmit(s, "00C0 0000 08") }, false},
		{"PIN pad", "", func(s *Session, b *Slot) error {
			by := someone()
			by.At = b.Now()
			_, err := b.VerifyPIN(context.Background(), &reader.PINVerify{PINFormat: reader.PINFormat{APDU: hexb("0020 0001 04 31323334")}}, by)
			return err
		}, true},
	} {
		for _, kind := range []error{reader.ErrTimeout, reader.ErrProtocol, errors.New("another")} {
			t.Run(fmt.Sprint(tt.name, ", ", kind), func(t *testing.T) {
				bubble(t, Options{}, func(t *testing.T, r *rig) {
					slot := newFakeSlot(t)
					fake := newFakeReader(slot)
					fake.slots = []reader.Slot{&failingPad{slot, fmt.Errorf(said, 8, kind)}}
					b := r.plugReader(reader.Device{}, fake)
					s := mustOpen(t, b, someone())
					if tt.before != "" {
						if err := transmit(s, tt.before); err != nil {
							t.Fatal(err)
						}
					}
					slot.set(func(f *fakeSlot) {
						f.exchange = func(context.Context, reader.Transfer, []byte) ([]byte, error) { return nil, fmt.Errorf(said, 8, kind) }
					})
					f := b.FollowTrace()
					defer b.CloseTrace(f)
					if err := tt.send(s, b); !errors.Is(err, kind) {
						t.Fatal(err)
					}
					want := fmt.Errorf(said, 8, kind).Error()
					if tt.secret {
						want = concealed + kind.Error()
					}
					if err := b.Info().Err; err == nil || err.Error() != want || !errors.Is(err, kind) {
						t.Errorf("status has %v, want %s", err, want)
					}
					if got := traceLines(f); !strings.Contains(got, "! "+want+"\n") {
						t.Errorf("trace without %q:\n%s", want, got)
					}
				})
			})
		}
	}
}

func transmit(s *Session, command string) error {
	_, err := s.Transmit(context.Background(), hexb(command), nil)
	return err
}

// failingPad is a slot whose PIN pad fails with err.
type failingPad struct {
	*fakeSlot
	err error
}

func (p *failingPad) PINSupport() reader.PINSupport { return reader.PINSupport{Verify: true} }

func (p *failingPad) VerifyPIN(context.Context, *reader.PINVerify, []byte) ([]byte, error) {
	return nil, p.err
}

func (p *failingPad) ModifyPIN(context.Context, *reader.PINModify, []byte) ([]byte, error) {
	return nil, p.err
}

// Each line about a reader names it as errors do, and each line about a slot has the slot's
// number, too. Operators look at arrivals, failures and departures.
func TestLogNamesTheReader(t *testing.T) {
	var log strings.Builder
	bubble(t, Options{Log: newTextLog(&log), Drivers: []reader.Driver{linkDriver{}}}, func(t *testing.T, r *rig) {
		model := reader.ID{Model: "Model 1"}
		slot := newFakeSlot(t)
		fake, b := r.plug(reader.Device{Address: "a", ID: model, Slots: 1}, slot)
		fake.close = func() error { return errors.New("stuck") }
		slot.set(func(s *fakeSlot) {
			s.power = func(context.Context, reader.Reset) ([]byte, error) { return nil, reader.ErrMute }
		})
		b.Open(context.Background(), someone())
		slot.set(func(s *fakeSlot) { s.power = nil })
		transmit(mustOpen(t, b, someone()), "00 01 00 00")
		fake.unplug()
		synctest.Wait()
		r.driver.open = func(context.Context, reader.Device) (reader.Reader, error) { return nil, reader.ErrClaimed }
		r.announce(reader.Device{Address: "b"})
		synctest.Wait()
		revivals(t, r, func(int) (*fakeReader, error) {
			dead := newFakeReader(newFakeSlot(t))
			dead.unplug()
			return dead, nil
		})
		time.Sleep(time.Hour)
		r.announce(reader.Device{Address: "c", Slots: maxSlots + 1})
		synctest.Wait()
	})
	text := log.String()
	for _, want := range []string{
		`level=INFO msg=arrived reader="fake a" slot=0 model="Model 1"`,
		`level=INFO msg=ready reader="fake a" slot=0`,
		`level=WARN msg=failed reader="fake a" slot=0 error="power up: ` + reader.ErrMute.Error(),
		`level=INFO msg=powered reader="fake a" slot=0 atr=3B800181 protocol="T=1"`,
		`level=DEBUG msg=exchange reader="fake a" slot=0 took=0s outcome=answered`,
		`level=INFO msg=left reader="fake a" slot=0`,
		`level=WARN msg="the reader could not be closed" reader="fake a" error=stuck`,
		`level=WARN msg="not all slots are served" reader="fake c" slots=257 served=256`,
		`level=WARN msg=failed reader="fake b" slot=0 error="fake b: ` + reader.ErrClaimed.Error(),
		`level=WARN msg="reader died" reader="linked usb:1-1" times=1 "given up"=false error=`,
		`level=WARN msg="reader died" reader="linked usb:1-1" times=4 "given up"=true error=`,
	} {
		if !strings.Contains(text, want) {
			t.Errorf("no line %s in\n%s", want, text[:min(len(text), 4000)])
		}
	}
	for line := range strings.Lines(text) {
		if !strings.Contains(line, " reader=") {
			t.Errorf("whose is %s", line)
		}
	}
}
