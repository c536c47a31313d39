package remote

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/cardfs/cardfs/ctapi"
	"github.com/cardfs/cardfs/reader"
	"github.com/cardfs/cardfs/reader/core"
	"github.com/cardfs/cardfs/reader/readertest"
)

func bytesOf(t testing.TB, text string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.ReplaceAll(text, " ", ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// CT-BCS here, for a reader there: the card is requested, reset and ejected, and the terminal
// has the units that it has there.
func TestTerminal(t *testing.T) {
	far := machineThere(t, "pinpad")
	h := machineHere(t, "remote "+far.dir)
	h.awaitState(0, core.StatePresent)
	terminal := ctapi.New(h.Slot(0), core.Caller{Owner: new(int), Wait: true})
	defer terminal.Close()
	text := func(s string) string { return fmt.Sprintf("50%02X%X", len(s), s) }
	for _, x := range []struct{ what, command, answer, display, keys string }{
		{"GET STATUS: the card is in, without power", "20 13 00 80 00", "80 01 03 90 00", "", ""},
		{"its units: slot, display, keypad", "20 13 00 81 00", "81 03 01 40 50 90 00", "", ""},
		{"REQUEST ICC", "20 12 01 00 00", "90 01", "", ""},
		{"GET STATUS: the card has power", "20 13 00 80 00", "80 01 05 90 00", "", ""},
		{"RESET CT: the card", "20 11 01 00 00", "90 01", "", ""},
		{"OUTPUT", "20 17 40 00 07" + text("Hello"), "90 00", "Hello", ""},
		{"OUTPUT for two minutes", "20 17 40 00 0A 80 01 78" + text("Hallo"), "90 00", "Hallo", ""},
		{"OUTPUT without a text", "20 17 40 00 02 50 00", "6A 82", "Hallo", ""},
		{"INPUT", "20 16 50 01 08" + text("Number") + "04", "31 32 33 90 00", "", "123"},
		{"INPUT of a raw key", "20 16 50 10 03" + text("K") + "01", "0A 90 00", "", "cancel"},
		{"INPUT, cancelled", "20 16 50 00 08" + text("Number") + "04", "64 01", "", "1- cancel"},
		{"INPUT, and nobody is there", "20 16 50 00 03 80 01 01 04", "64 00", "", ""},
		{"EJECT ICC", "20 15 01 00", "90 00", "", ""},
		{"GET STATUS: the card is off", "20 13 00 80 00", "80 01 03 90 00", "", ""},
	} {
		if x.keys != "" {
			far.ctl("sim 0 keys " + x.keys)
		}
		answer, err := terminal.Exchange(t.Context(), bytesOf(t, x.command), nil)
		if got := fmt.Sprintf("% X", answer); err != nil || !strings.HasPrefix(got, x.answer) {
			t.Errorf("%s: %s, %v; want %s", x.what, got, err, x.answer)
		}
		if got := strings.TrimSpace(far.Slot(0).Info().More["display"]); got != x.display {
			t.Errorf("%s: display %q, want %q", x.what, got, x.display)
		}
	}
}

// A transaction here is another process's there for all but the card: display and keypad are
// refused at once, and nobody waits for himself.
func TestTerminalInTransaction(t *testing.T) {
	far := machineThere(t, "pinpad")
	h := machineHere(t, "remote "+far.dir)
	h.awaitState(0, core.StatePresent)
	me := core.Caller{Owner: new(int), Wait: true}
	h.open(0)
	if err := h.Slot(0).Lock(t.Context(), me, nil); err != nil {
		t.Fatal(err)
	}
	if err := h.Slot(0).Show(t.Context(), "Hello", 0, me); !errors.Is(err, reader.ErrLocked) || !strings.Contains(err.Error(), "transaction") {
		t.Errorf("display: %v", err)
	}
	if _, err := h.Slot(0).Input(t.Context(), reader.KeyInput{Max: 1, First: time.Second}, me); !errors.Is(err, reader.ErrLocked) {
		t.Errorf("keypad: %v", err)
	}
	h.Slot(0).Unlock(me.Owner)
	readertest.Eventually(t, "the transaction there has ended", func() bool { return !far.Slot(0).Info().Locked })
	if err := h.Slot(0).Show(t.Context(), strings.Repeat("x", 128), 0, me); !errors.Is(err, reader.ErrInvalid) {
		t.Errorf("a text that is too long: %v", err)
	}
	if err := h.Slot(0).Show(t.Context(), "Hello", 0, me); err != nil {
		t.Errorf("after the transaction: %v", err)
	}
	if err := h.Slot(0).Show(t.Context(), "", 0, me); err != nil || strings.TrimSpace(far.Slot(0).Info().More["display"]) != "" {
		t.Errorf("nothing to show: %v", err)
	}
}

// A reader without keys offers none here.
func TestNoTerminal(t *testing.T) {
	far := machineThere(t, "t1")
	h := machineHere(t, "remote "+far.dir)
	h.awaitState(0, core.StatePresent)
	if f := h.Slot(0).Features(); f.Display != nil || f.Keypad != nil {
		t.Errorf("display %v, keypad %v", f.Display, f.Keypad)
	}
}

// A memory card there has no file `memory` here. It takes the commands of a file card, as in
// `apdu` there, and its PSC is in no log on either side.
func TestMemoryCard(t *testing.T) {
	var log bytes.Buffer
	far := machineThere(t, "memory card=sle4442")
	h := machineHereLogging(t, slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug})), "remote "+far.dir)
	h.awaitState(0, core.StatePresent)
	var feeds []*core.Feed[string]
	for _, s := range []*core.Slot{h.Slot(0), far.Slot(0)} {
		feed := s.FollowTrace()
		defer s.CloseTrace(feed)
		feeds = append(feeds, feed)
	}
	s := h.open(0)
	info, there := h.Slot(0).Info(), far.Slot(0).Info()
	if len(there.ATR) != 4 || !bytes.Equal(info.ATR, append([]byte{0x3B, 4}, there.ATR...)) {
		t.Errorf("ATR % X, there % X", info.ATR, there.ATR)
	}
	if there.Protocol() != "memory" || info.Chip.Size != 0 {
		t.Errorf("protocol there %s, here a memory of %d bytes", there.Protocol(), info.Chip.Size)
	}
	for _, x := range []struct{ what, command, answer string }{
		{"READ BINARY", "FF B0 00 00 04", fmt.Sprintf("% X 90 00", there.ATR)},
		{"SELECT", "00 A4 00 00 02 3F 00", "90 00"},
		{"READ BINARY of the file", "00 B0 00 00 04", fmt.Sprintf("% X 90 00", there.ATR)},
		{"how many tries", "00 20 00 00", "63 C3"},
		{"UPDATE before VERIFY", "00 D6 00 40 01 77", "69 82"},
		{"VERIFY, wrong", "00 20 00 00 03 51 B2 D3", "63 C2"},
		{"VERIFY", "00 20 00 00 03 FF FF FF", "90 00"},
		{"UPDATE BINARY", "00 D6 00 40 01 77", "90 00"},
		{"what was written", "00 B0 00 40 01", "77 90 00"},
	} {
		answer, err := s.Transmit(t.Context(), bytesOf(t, x.command), nil)
		if got := fmt.Sprintf("% X", answer); err != nil || got != x.answer {
			t.Errorf("%s: %s, %v; want %s", x.what, got, err, x.answer)
		}
	}
	if psc := far.Slot(0).Info().PSC; !psc.Verified || psc.Tries != 3 {
		t.Errorf("PSC there: %+v", psc)
	}
	if _, err := s.ReadMemory(t.Context(), 0, 4, nil); !errors.Is(err, reader.ErrUnsupported) || !strings.Contains(err.Error(), "memory card") {
		t.Errorf("the file memory: %v", err)
	}
	lines := log.String()
	for _, feed := range feeds {
		for {
			line, _, ok, err := feed.TryNext()
			if !ok || err != nil {
				break
			}
			lines += line + "\n"
		}
	}
	for _, psc := range []string{"51 B2 D3", "51B2D3", "51b2d3"} {
		if strings.Contains(lines, psc) {
			t.Errorf("the PSC is in a log:\n%s", lines)
		}
	}
	if strings.Count(lines, "C-APDU 00 20 00 00 [masked]") != 4 { // twice on each side
		t.Errorf("VERIFY is not in the logs:\n%s", lines)
	}
	// Another card: what is known of this one is forgotten.
	far.ctl("sim 0 remove")
	h.awaitState(0, core.StateEmpty)
	far.ctl("sim 0 insert dual")
	h.awaitState(0, core.StatePresent)
	if answer, err := h.open(0).Transmit(t.Context(), bytesOf(t, "00 A4 00 0C 02 3F 00"), nil); err != nil || !bytes.Equal(answer, []byte{0x90, 0}) {
		t.Errorf("a card with a processor: % X, %v", answer, err)
	}
}

// A memory card whose size nobody told: in words, as there.
func TestMemoryCardError(t *testing.T) {
	far := machineThere(t, "memory card=none")
	h := machineHere(t, "remote "+far.dir)
	h.awaitState(0, core.StateEmpty)
	far.ctl("sim 0 insert at24c32")
	h.awaitState(0, core.StatePresent)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	_, err := h.Slot(0).Open(ctx, core.Caller{Owner: new(int), Wait: true})
	if !errors.Is(err, reader.ErrUnsupported) || !strings.Contains(err.Error(), "memory=") {
		t.Errorf("%v; want what to do", err)
	}
}
