package starkey

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cardfs/cardfs/drivers/bus/usb"
	"github.com/cardfs/cardfs/drivers/bus/usb/usbtest"
	"github.com/cardfs/cardfs/reader"
	"github.com/cardfs/cardfs/reader/readertest"
)

// fake is a token that answers by a table.
type fake = usbtest.Table

type reply = usbtest.Answer

func honest() *fake {
	return &fake{Answers: map[string]reply{"IN 81": {Data: unhex(starcos)}, "IN C0 86": {Data: answer}}}
}

// Empty messages are none. The first with something in it is the ATR, all of it, and at most
// 32 bytes; the driver asks for no more. A token that sends nothing else is mute after the
// time, which the empty messages do not prolong.
func TestMessages(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for n, want := range map[int]string{1: "3B", 32: strings.Repeat("3B ", 32)} {
			e := newToken(t)
			port := e.Plug()
			_, s := open(t, port)
			for range 5 {
				e.Send(0x81, nil)
			}
			e.Send(0x81, bytes.Repeat([]byte{0x3B}, n))
			start := time.Now()
			got, err := s.PowerOn(t.Context(), reader.Cold)
			if err != nil || !bytes.Equal(got, unhex(want)) || time.Since(start) != 50*time.Millisecond {
				t.Errorf("% X, %v after %v", got, err, time.Since(start))
			}
			port.Unplug()
		}
		f := honest()
		f.Answers["IN 81"] = reply{}
		_, s := open(t, f)
		start := time.Now()
		_, err := s.PowerOn(t.Context(), reader.Cold)
		if !errors.Is(err, reader.ErrMute) || !errors.Is(err, reader.ErrTimeout) || time.Since(start) != 10*time.Second {
			t.Errorf("%v after %v", err, time.Since(start))
		}
		if n := len(f.Waits); n > 1001 || len(f.Buffer) != 32 || f.Waits[n-1] > 10*time.Millisecond {
			t.Errorf("%d reads, of %d bytes, the last for %v", n, len(f.Buffer), f.Waits[n-1])
		}
		// In the middle of a pause.
		end := 1005 * time.Millisecond
		ctx, cancel := context.WithTimeout(t.Context(), end)
		defer cancel()
		start = time.Now()
		if _, err := s.PowerOn(ctx, reader.Cold); !errors.Is(err, context.DeadlineExceeded) || time.Since(start) != end {
			t.Errorf("%v after %v", err, time.Since(start))
		}
	})
}

// "If the token speaks only once, a second reset waits": before it waits for another message
// the driver resets the port. The first power-up does not, for the token may have spoken
// already. An earlier ATR is never the answer to a later reset, which did not happen.
func TestSecondReset(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := honest()
		_, s := open(t, f)
		for n := range 3 {
			if _, err := s.PowerOn(t.Context(), reader.Warm); err != nil || f.Resets != n {
				t.Errorf("%v after %d resets", err, f.Resets)
			}
		}
		f.Answers["IN 81"] = reply{Err: usb.ErrTimeout}
		atr, err := s.PowerOn(t.Context(), reader.Warm)
		if atr != nil || !errors.Is(err, reader.ErrMute) || !strings.HasPrefix(err.Error(), "starkey usb:1-2: power up: endpoint 81: ") || !strings.Contains(err.Error(), "plugging it in again") {
			t.Errorf("% X, %v", atr, err)
		}
		if st, _ := s.Status(t.Context()); st != reader.Present {
			t.Errorf("status %v", st)
		}
		f.Answers["reset"] = reply{Err: reader.ErrGone}
		if _, err := s.PowerOn(t.Context(), reader.Cold); !errors.Is(err, reader.ErrGone) || !strings.HasPrefix(err.Error(), "starkey usb:1-2: reset the port: ") {
			t.Errorf("%v", err)
		}
	})
	// A daemon before this one has read the ATR. The core tries again, and then there is one.
	synctest.Test(t, func(t *testing.T) {
		e := newToken(t)
		port := e.Plug()
		if n, err := port.In(t.Context(), 0x81, make([]byte, 32), time.Second); n != 16 || err != nil {
			t.Fatal(n, err)
		}
		_, s := open(t, port)
		l := readertest.NewLink(s)
		if err := l.PowerUp(t.Context(), reader.Cold, -1); err != nil {
			t.Error(err)
		}
		if rx, err := l.Transmit(t.Context(), unhex(selectMF), nil); err != nil || !bytes.Equal(rx, unhex("90 00")) {
			t.Errorf("% X, %v", rx, err)
		}
		port.Unplug()
	})
}

// Where the facts end, the driver says so: in `status`, in the log at attach, and in the
// error of a command as long as none was answered.
func TestUnproven(t *testing.T) {
	var log bytes.Buffer
	d := Driver{Log: slog.New(slog.NewTextHandler(&log, nil))}
	r, err := d.Open(t.Context(), reader.Device{Driver: "starkey", Address: "usb:1-2", Link: honest()})
	if err != nil {
		t.Fatal(err)
	}
	if got := log.String(); !strings.Contains(got, "level=WARN") || !strings.Contains(got, "unproven") || !strings.Contains(got, `reader="starkey usb:1-2"`) {
		t.Errorf("the log says %s", got)
	}
	log.Reset()
	if _, err := d.Open(t.Context(), reader.Device{Address: "x"}); !errors.Is(err, reader.ErrInvalid) || log.Len() > 0 {
		t.Errorf("%v, log %q", err, &log)
	}
	if got := reader.FeaturesOf(r.Slots()[0]).Describer.Describe()["unproven"]; got != unproven {
		t.Errorf("status says %q", got)
	}
	f := honest()
	_, s := open(t, f)
	if _, err := s.PowerOn(t.Context(), reader.Cold); err != nil {
		t.Fatal(err)
	}
	for _, bad := range []error{usb.ErrStall, usb.ErrTimeout} {
		f.Answers["IN C0 86"] = reply{Err: bad}
		if _, err := s.Exchange(t.Context(), block, nil); !errors.Is(err, bad) || !strings.Contains(err.Error(), unproven) {
			t.Error(err)
		}
	}
	for _, known := range []error{reader.ErrGone, context.Canceled} {
		f.Answers["IN C0 86"] = reply{Err: known}
		if _, err := s.Exchange(t.Context(), block, nil); !errors.Is(err, known) || strings.Contains(err.Error(), unproven) {
			t.Error(err)
		}
	}
	f.Answers["IN C0 86"] = reply{Data: answer}
	if _, err := s.Exchange(t.Context(), block, nil); err != nil {
		t.Error(err)
	}
	f.Answers["IN C0 86"] = reply{Err: usb.ErrStall}
	if _, err := s.Exchange(t.Context(), block, nil); !errors.Is(err, usb.ErrStall) || strings.Contains(err.Error(), unproven) {
		t.Errorf("after an answer: %v", err)
	}
}

// The driver accepts only blocks, of the token and for it. Errors say which transfer, on
// which device, and how many bytes, but never the bytes, and nothing of a command. No byte of
// an answer stays in the driver.
func TestBlocks(t *testing.T) {
	f := honest()
	_, s := open(t, f)
	atr, err := s.PowerOn(t.Context(), reader.Cold)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if !bytes.Equal(atr, unhex(starcos)) {
			t.Errorf("the ATR has become % X", atr)
		}
	}()
	for _, n := range []int{0, 3, 37} {
		got, err := s.Exchange(t.Context(), reader.Transfer{Out: make([]byte, n)}, []byte("kept"))
		if !errors.Is(err, reader.ErrInvalid) || string(got) != "kept" || len(f.Waits) != 1 {
			t.Errorf("%d bytes: %q, %v", n, got, err)
		}
	}
	for _, x := range []struct {
		answer string
		says   string // "": accepted
	}{
		{"00 00 02 90 00 92", ""},
		{"00 00 02 90 00 92 00", ""},
		{"00 00 02 90 00", "fetch block: LEN announces a block of 6 bytes, 5 came"},
		{"00 00 22" + strings.Repeat("00", 34), "fetch block: LEN announces a block of 38 bytes, 37 came"},
		{"00 00 00", "fetch block: 3 bytes are no T=1 block"},
		{"", "fetch block: 0 bytes are no T=1 block"},
	} {
		f.Answers["IN C0 86"] = reply{Data: unhex(x.answer)}
		got, err := s.Exchange(t.Context(), reader.Transfer{Out: make([]byte, 36)}, []byte("kept"))
		switch {
		case x.says == "" && (err != nil || !bytes.Equal(got, append([]byte("kept"), answer...))):
			t.Errorf("%s: % X, %v", x.answer, got, err)
		case x.says != "" && (!errors.Is(err, reader.ErrProtocol) || !strings.HasPrefix(err.Error(), "starkey usb:1-2: "+x.says) || string(got) != "kept"):
			t.Errorf("%s: % X, %v", x.answer, got, err)
		}
		if !bytes.Equal(f.Buffer, make([]byte, 37)) {
			t.Errorf("after the exchange the driver holds % X", f.Buffer)
		}
	}
	for given, want := range map[time.Duration]time.Duration{3 * time.Second: 3 * time.Second, 0: 20 * time.Second} {
		s.Exchange(t.Context(), reader.Transfer{Out: block.Out, Wait: given}, nil)
		if n := len(f.Waits); f.Waits[n-2] != 10*time.Second || f.Waits[n-1] != want {
			t.Errorf("wait %v: %v, want %v", given, f.Waits[n-2:], want)
		}
	}
}
