package rutoken

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cardfs/cardfs/reader"
)

// A busy card counts in the low nibble of its status. One that does so has as long as it may
// take, and says each time that it needs more; one that does not has 200 reads.
func TestBusy(t *testing.T) {
	for _, tt := range []struct {
		name   string
		status func(n int) byte // of read n, from 1 on
		until  time.Duration
		took   time.Duration
		told   int
		says   string // "": answered
	}{
		{"quick", func(int) byte { return 0x10 }, time.Hour, 0, 0, ""},
		{"busy for a minute", func(n int) byte {
			if n <= 6000 {
				return 0x40 | byte(n)&0x0F
			}
			return 0x10
		}, time.Hour, time.Minute, 5999, ""},
		{"for ever", func(n int) byte { return 0x40 | byte(n)&0x0F }, time.Minute, time.Minute, 6000, "the card is still busy"},
		{"for ever, without a limit", func(n int) byte { return 0x40 | byte(n)&0x0F }, -1, time.Minute, 6000, "the card is still busy"},
		{"for ever, with a time to wait", func(n int) byte { return 0x40 | byte(n)&0x0F }, 0, 3 * time.Second, 300, "the card is still busy"},
		{"stands still", func(int) byte { return 0x43 }, time.Hour, 2 * time.Second, 0, "the card is busy and does not work on"},
		{"counts down", func(n int) byte { return 0x40 | byte(-n)&0x0F }, time.Hour, 2 * time.Second, 0, "the card is busy and does not work on"},
		{"counts in twos", func(n int) byte { return 0x40 | byte(2*n)&0x0F }, time.Hour, 2 * time.Second, 0, "the card is busy and does not work on"},
		{"every other read", func(n int) byte { return 0x40 | byte(n/2)&0x0F }, time.Hour, 4 * time.Second, 200, "the card is busy and does not work on"},
		{"199 times, and then it is ready", func(n int) byte {
			if n <= 200 {
				return 0x43
			}
			return 0x10
		}, time.Hour, 2 * time.Second, 0, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := &fake{status: func(int) byte { return 0x10 }}
				_, s := open(t, f, "rewrite=off")
				if _, err := s.PowerOn(t.Context(), reader.Cold); err != nil {
					t.Fatal(err)
				}
				f.status, f.reads = tt.status, 0
				told := 0
				x := reader.Transfer{Out: unhex("00 84 00 00 08"), Extended: func() { told++ }}
				switch tt.until {
				case -1:
				case 0:
					x.Wait = tt.took
				default:
					x.Until = time.Now().Add(tt.until)
				}
				start := time.Now()
				_, err := s.Exchange(t.Context(), x, nil)
				took := time.Since(start)
				if tt.says == "" {
					// The fake has no SW: it says 10 for ever.
					if err == nil || !strings.Contains(err.Error(), "status 10, not 20") {
						t.Error(err)
					}
				} else if !errors.Is(err, reader.ErrTimeout) || !strings.Contains(err.Error(), tt.says) {
					t.Errorf("%v, want %q", err, tt.says)
				}
				if took != tt.took || told != tt.told {
					t.Errorf("%v, told %d times; want %v, %d", took, told, tt.took, tt.told)
				}
			})
		})
	}
}

// A busy card's time may be over at any moment: the caller's, or because the token leaves.
func TestBusyEnds(t *testing.T) {
	for _, gone := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			f := &fake{status: func(int) byte { return 0x10 }, gone: make(chan struct{})}
			_, s := open(t, f)
			if _, err := s.PowerOn(t.Context(), reader.Cold); err != nil {
				t.Fatal(err)
			}
			f.status = func(n int) byte { return 0x40 | byte(n)&0x0F }
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			want := context.Canceled
			time.AfterFunc(15*time.Millisecond, func() {
				if gone {
					close(f.gone)
				} else {
					cancel()
				}
			})
			if gone {
				want = reader.ErrGone
			}
			start := time.Now()
			if _, err := s.Exchange(ctx, reader.Transfer{Out: unhex("00 84 00 00 08")}, nil); !errors.Is(err, want) || time.Since(start) != 15*time.Millisecond {
				t.Errorf("%v after %v", err, time.Since(start))
			}
		})
	}
}
