package piv

import (
	"fmt"
	"hash/fnv"
	"time"

	"github.com/cardfs/cardfs/drivers/sim/applet"
	"github.com/cardfs/cardfs/reader"
)

// Instructions: SP 800-73-4 part 2 table 2, then Yubico's.
const (
	insVerify       = 0x20
	insChange       = 0x24
	insResetRetry   = 0x2C
	insGenerate     = 0x47
	insAuthenticate = 0x87
	insGetData      = 0xCB
	insPutData      = 0xDB
	insMove         = 0xF6
	insMetadata     = 0xF7
	insSerial       = 0xF8
	insAttest       = 0xF9
	insSetRetries   = 0xFA
	insReset        = 0xFB
	insVersion      = 0xFD
	insImport       = 0xFE
	insSetKey       = 0xFF
)

// aid is RID, PIX and version 1.0 (part 1 §2.2).
var aid = []byte{0xA0, 0x00, 0x00, 0x03, 0x08, 0x00, 0x00, 0x10, 0x00, 0x01, 0x00}

// The models that add Yubico's commands.
const (
	yubikey   = "yubikey"     // firmware 5.7
	yubikey54 = "yubikey-5.4" // with the management key that older tools expect
)

// App is the PIV card application.
type App struct {
	settings applet.Settings
	store    *applet.Store
	source   applet.Source
	yubikey  bool // of either firmware
	firmware []byte
	state    state

	// The security state. A key reference has the same name as in the commands.
	pin, global, manager bool
	justVerified         bool   // for keys that want the PIN each time
	challenge            []byte // that the host has to encrypt
	witness              []byte // that the host has to send back in clear
}

// New makes a card with the PIV application.
func New(s applet.Settings) (*applet.Card, error) {
	card, _, err := newApp(s)
	return card, err
}

func newApp(s applet.Settings) (*applet.Card, *App, error) {
	if err := s.Normalize(yubikey, yubikey54); err != nil {
		return nil, nil, err
	}
	store, err := applet.OpenStore(s.State)
	if err != nil {
		return nil, nil, fmt.Errorf("%w: %w", err, reader.ErrInvalid)
	}
	a := &App{settings: s, store: store, source: applet.Source{Seed: s.Seed}, yubikey: s.Model != "", firmware: firmware57}
	if s.Model == yubikey54 {
		a.firmware = firmware54
	}
	if err := a.load(); err != nil {
		store.Close()
		return nil, nil, fmt.Errorf("%w: %w", err, reader.ErrInvalid)
	}
	card := applet.NewCard(atr(s), store, a)
	card.Slow = s.Real
	return card, a, nil
}

// load takes the state from the file, or makes a new card.
func (a *App) load() error {
	found, err := a.store.Bind("piv", &a.state)
	switch {
	case err != nil:
		return err
	case found && !a.state.valid():
		return fmt.Errorf("state file %s: the part of piv is damaged: %w", a.settings.State, applet.ErrStore)
	case found && a.state.Model != a.settings.Model:
		return fmt.Errorf("state file %s: the card is of another model: %w", a.settings.State, applet.ErrStore)
	case !found:
		if err := a.issue(); err != nil {
			return err
		}
		if err := a.importKeys(); err != nil {
			return err
		}
	}
	return a.store.Flush()
}

// serial is the card's number: that of a YubiKey has four bytes.
func (a *App) serial() uint32 {
	h := fnv.New32a()
	h.Write([]byte(a.settings.Serial))
	return h.Sum32()&0x00FFFFFF | 0x01000000
}

// AID is the application's full name.
func (a *App) AID() []byte { return aid }

// Select answers the application property template (part 2 table 3).
func (a *App) Select() applet.Answer {
	parts := [][]byte{
		applet.TLV(0x4F, aid[5:]),
		applet.TLV(0x79, applet.TLV(0x4F, aid[:5])),
	}
	if !a.yubikey {
		parts = append(parts, applet.TLV(0x50, []byte("Simulated PIV card")))
	}
	// A card that is selected already keeps its security state (part 2 §3.1.1).
	return applet.Data(applet.TLV(0x61, parts...))
}

// Reset forgets the security state.
func (a *App) Reset() {
	a.pin, a.global, a.manager, a.justVerified = false, false, false, false
	a.forget()
}

// forget drops an authentication that has begun.
func (a *App) forget() { a.challenge, a.witness = nil, nil }

// Incoming reports whether an instruction brings data along.
func (a *App) Incoming(ins byte) bool {
	switch ins {
	case insVerify, insChange, insResetRetry, insGenerate, insAuthenticate, insGetData, insPutData, insImport, insSetKey:
		return true
	}
	return false
}

// Process answers a command.
func (a *App) Process(k applet.Command) applet.Answer {
	if k.INS != insAuthenticate {
		a.forget()
	}
	// "PIN Always" means verified immediately before (part 1 table 4b). On a YubiKey
	// other commands may come between.
	if k.INS != insAuthenticate && k.INS != insVerify && !a.yubikey {
		a.justVerified = false
	}
	if k.CLA != 0 {
		return applet.Status(applet.SWCLA)
	}
	switch k.INS {
	case insVerify:
		return a.verify(k)
	case insChange:
		return a.change(k)
	case insResetRetry:
		return a.resetRetry(k)
	case insGenerate:
		return a.generate(k)
	case insAuthenticate:
		return a.authenticate(k)
	case insGetData:
		return a.getData(k)
	case insPutData:
		return a.putData(k)
	}
	if a.yubikey {
		return a.processYubiKey(k)
	}
	return applet.Status(applet.SWINS)
}

// Takes is how long a real card computes.
func (a *App) Takes(k applet.Command) time.Duration {
	switch k.INS {
	case insAuthenticate:
		switch bits := rsaBits(k.P1); {
		case bits > 0:
			return applet.TimeRSA(bits)
		case keyLength(k.P1) == 0: // not the management key
			return applet.TimeCurve
		}
	case insGenerate:
		if len(k.Data) < 5 {
			break
		}
		if bits := rsaBits(k.Data[4]); bits > 0 {
			return applet.TimeRSAKey(bits)
		}
		return applet.TimeCurveKey
	case insVerify, insChange, insResetRetry:
		return applet.TimePIN
	case insPutData, insImport, insSetKey, insSetRetries, insReset, insMove:
		return applet.TimeWrite
	}
	return applet.TimeCommand
}
