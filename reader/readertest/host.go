package readertest

import (
	"bytes"
	"context"
	"errors"
	"testing"
	"time"

	"github.com/cardfs/cardfs/reader"
	"github.com/cardfs/cardfs/reader/link"
)

// Load reads a session by the function of its bus: usbtest.Load, serialtest.Load.
func Load[S any](t testing.TB, load func(file string) (S, error), file string) S {
	t.Helper()
	s, err := load(file)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// Host is the host of a session that a Player plays: each method is something that its user
// asks for, and fails the test if another thing comes of it. Where there is a step, the session
// must have reached the step of that name. Commands, answers and ATRs are in the notation of
// Hex.
type Host struct {
	testing.TB
	Reader reader.Reader
	Slot   reader.Slot // the first
	Link   *link.Link  // over Slot
	// PPS is the step that begins with the PPS request of PowerUp; "": the session has none.
	PPS string
	// Wait is the waiting time of the card in Exchange; NewHost sets 20 s.
	Wait time.Duration

	player interface{ Step(name string) }
}

// NewHost makes the host of a session. The player plays the device that r is.
func NewHost(t testing.TB, player interface{ Step(name string) }, r reader.Reader) *Host {
	s := r.Slots()[0]
	h := &Host{TB: t, Reader: r, Slot: s, Wait: 20 * time.Second, player: player}
	h.Link = NewLink(watched{s, h})
	return h
}

// watched is a slot whose host says when the PPS begins.
type watched struct {
	reader.Slot
	h *Host
}

func (w watched) Unwrap() reader.Slot { return w.Slot }

func (w watched) Exchange(ctx context.Context, x reader.Transfer, dst []byte) ([]byte, error) {
	if w.h.PPS != "" && len(x.Out) > 0 && x.Out[0] == 0xFF {
		w.h.Step(w.h.PPS)
	}
	return w.Slot.Exchange(ctx, x, dst)
}

// Step only says that the step begins.
func (h *Host) Step(name string) {
	h.Helper()
	h.player.Step(name)
}

// Identify asks for the model, and for one more thing that is known of it.
func (h *Host) Identify(model, key, value string) {
	h.Helper()
	if got, more := h.Reader.(reader.Identifier).Identify(); got != model || more[key] != value {
		h.Errorf("%s, %v", got, more)
	}
}

// Status asks for the card.
func (h *Host) Status(step string, want reader.Status) {
	h.Helper()
	h.Step(step)
	if got, err := h.Slot.Status(h.Context()); got != want || err != nil {
		h.Errorf("%s: status %v, %v; want %v", step, got, err, want)
	}
}

// PowerOn resets the card.
func (h *Host) PowerOn(step string, how reader.Reset, atr string) {
	h.Helper()
	h.Step(step)
	if got, err := h.Slot.PowerOn(h.Context(), how); err != nil || !bytes.Equal(got, Hex(atr)) {
		h.Fatalf("%s: ATR % X, %v", step, got, err)
	}
}

// PowerUp resets the card and selects its protocol, as the core does.
func (h *Host) PowerUp(step, atr string) {
	h.Helper()
	h.Step(step)
	PowerUp(h, h.Link, -1)
	if got := h.Link.ATR().Bytes(); !bytes.Equal(got, Hex(atr)) {
		h.Fatalf("%s: ATR % X", step, got)
	}
}

// Exchange sends what the slot takes: characters, a TPDU or an APDU.
func (h *Host) Exchange(tx, rx string) {
	h.Helper()
	got, err := h.Slot.Exchange(h.Context(), reader.Transfer{Out: Hex(tx), Wait: h.Wait}, nil)
	if err != nil || !bytes.Equal(got, Hex(rx)) {
		h.Errorf("%s: % X, %v", tx, got, err)
	}
}

// Transmit sends a C-APDU, as the core does behind PowerUp.
func (h *Host) Transmit(tx, rx string) {
	h.Helper()
	Transmit(h, h.Link, Hex(tx), Hex(rx))
}

// TransmitAll sends C-APDUs, each with its R-APDU.
func (h *Host) TransmitAll(step string, commands [][2]string) {
	h.Helper()
	h.Step(step)
	for _, c := range commands {
		h.Transmit(c[0], c[1])
	}
}

// PowerOff takes the card's power.
func (h *Host) PowerOff(step string) {
	h.Helper()
	h.Step(step)
	if err := h.Slot.PowerOff(h.Context()); err != nil {
		h.Errorf("%s: %v", step, err)
	}
}

// Gone finds that the device has left.
func (h *Host) Gone(step string) {
	h.Helper()
	h.Step(step)
	if _, err := h.Slot.Status(h.Context()); !errors.Is(err, reader.ErrGone) {
		h.Errorf("%s: status after the device left: %v", step, err)
	}
}
