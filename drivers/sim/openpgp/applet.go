package openpgp

import (
	"errors"
	"fmt"
	"hash/fnv"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/cardfs/cardfs/drivers/sim/applet"
	"github.com/cardfs/cardfs/reader"
)

// Name is that of the application's part of a state file.
const Name = "openpgp"

// Status words that other applications do not use (7.9).
const swTerminated = 0x6285

// state is what a state file keeps.
type state struct {
	Terminated   bool              `json:"terminated,omitempty"`
	PW1          password          `json:"pw1"`
	PW3          password          `json:"pw3"`
	RC           password          `json:"resetting_code"`
	Several      bool              `json:"pw1_for_several_signatures,omitempty"`
	Objects      map[string][]byte `json:"objects"`
	Certificates [slots][]byte     `json:"certificates"`
	Slots        [slots]slot       `json:"slots"`
	Signatures   uint32            `json:"signatures"`
	AES          []byte            `json:"aes,omitempty"`
	Made         int               `json:"made"` // keys so far, so that a seed makes a new one each time
}

// App is the application. It is the only one to use its part of the store.
type App struct {
	store  *applet.Store
	source applet.Source
	cost   applet.Cost
	aid    []byte

	state

	signs, user, admin bool // PW1 in mode 81 and 82, PW3 (4.3)
	// keys are the slots that PSO: DECIPHER and INTERNAL AUTHENTICATE use (7.2.18).
	decipherer, authenticator int
	occurrence                int // of DO 7F21 (7.2.5)
}

var _ applet.App = (*App)(nil)

// New makes a card with the application alone.
func New(s applet.Settings) (card *applet.Card, err error) {
	if s.Model != "" {
		return nil, fmt.Errorf("model=%s: this card imitates no product: %w", s.Model, reader.ErrInvalid)
	}
	if err := s.Normalize(); err != nil {
		return nil, err
	}
	store, err := applet.OpenStore(s.State)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", err, reader.ErrInvalid)
	}
	defer func() {
		if err != nil {
			store.Close()
		}
	}()
	a, err := newApp(store, s)
	if err == nil {
		err = store.Flush()
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", err, reader.ErrInvalid)
	}
	card = applet.NewCard(atr(s.ATR), store, a)
	card.Slow = s.Real
	return card, nil
}

// newApp makes the application with the state that store has of it, or in its initial state.
func newApp(store *applet.Store, s applet.Settings) (*App, error) {
	h := fnv.New32a()
	h.Write([]byte(s.Serial))
	a := &App{store: store, source: applet.Source{Seed: s.Seed}, cost: s.Cost, aid: newAID(h.Sum32())}
	found, err := store.Bind(Name, &a.state)
	if err != nil {
		return nil, err
	}
	if !found {
		a.initialize()
	}
	if !a.state.valid() {
		return nil, fmt.Errorf("state file %s: the part of %s is damaged: %w", s.State, Name, applet.ErrStore)
	}
	a.Reset()
	return a, a.importFiles(s.Keys)
}

// keyFiles are the names of PEM files for the slots, in the directory of keys=.
var keyFiles = [slots]string{signature: "sig.pem", decryption: "dec.pem", authentication: "aut.pem"}

// importFiles imports those keys for which there is a file. A slot that has a key keeps it.
func (a *App) importFiles(dir string) error {
	if dir == "" {
		return nil
	}
	found := false
	for i, name := range keyFiles {
		path := filepath.Join(dir, name)
		k, err := applet.ReadKey(path)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			continue
		case err != nil:
			return err
		}
		found = true
		j := slices.IndexFunc(offered, func(al algorithm) bool { return al.takenBy(i) && al.fits(k) })
		if j < 0 {
			return fmt.Errorf("%s: an algorithm or a size that this slot does not take: %w", path, applet.ErrKey)
		}
		if a.Slots[i].Key.PrivateKey == nil {
			a.Slots[i].Attributes = offered[j].attributes()
			a.setKey(i, k, imported)
		}
	}
	if !found {
		return fmt.Errorf("keys=%s: none of the files %s is there: %w", dir, strings.Join(keyFiles[:], ", "), applet.ErrKey)
	}
	return nil
}

// atr is the answer to reset, whose historical bytes are those of DO 5F52.
func atr(kind string) []byte {
	switch kind {
	case "t0": // F and D 18
		return append([]byte{0x3B, 0x1A, 0x18}, historicalBytes...)
	case "contactless": // PC/SC part 3 §3.1.3.2.3.1
		return withTCK([]byte{0x3B, 0x8A, 0x80, 0x01})
	}
	// F and D 18, N 255, T=1, IFSC 254, BWI 7, CWI 5, classes A and B.
	return withTCK([]byte{0x3B, 0xDA, 0x18, 0xFF, 0x81, 0xB1, 0xFE, 0x75, 0x1F, 0x03})
}

// withTCK adds the historical bytes and the check character (ISO/IEC 7816-3:2006 §8.2.5).
func withTCK(atr []byte) []byte {
	atr = append(atr, historicalBytes...)
	var tck byte
	for _, b := range atr[1:] {
		tck ^= b
	}
	return append(atr, tck)
}

// newAID is the AID of 4.2.1: RID, application, version 3.4, the manufacturer FFFF, which
// stands for tests, and the serial number.
func newAID(serial uint32) []byte {
	return []byte{0xD2, 0x76, 0x00, 0x01, 0x24, 0x01, 0x03, 0x04, 0xFF, 0xFF,
		byte(serial >> 24), byte(serial >> 16), byte(serial >> 8), byte(serial), 0x00, 0x00}
}

// initialize is the state after ACTIVATE FILE.
func (a *App) initialize() {
	a.state = state{Objects: map[string][]byte{}, Made: a.Made}
	a.initialPasswords()
	a.RC = a.newPassword(nil)
	for i := range a.Slots {
		a.Slots[i] = slot{Attributes: defaultAttributes(), Fingerprint: make([]byte, 20), CA: make([]byte, 20), Time: make([]byte, 4)}
	}
	a.store.Changed()
}

// valid reports whether a state that was read from a file can be used.
func (s *state) valid() bool {
	ok := s.PW1.Valid() && s.PW3.Valid() && s.RC.Valid() && s.Objects != nil
	ok = ok && (len(s.AES) == 0 || len(s.AES) == 16 || len(s.AES) == 32)
	for i, t := range s.Slots {
		al, known := parseAttributes(i, t.Attributes)
		ok = ok && known && len(t.Fingerprint) == 20 && len(t.CA) == 20 && len(t.Time) == 4
		ok = ok && (t.Key.PrivateKey == nil || al.fits(t.Key))
	}
	return ok
}

// AID is the full application identifier.
func (a *App) AID() []byte { return a.aid }

// Select is SELECT (7.2.1). It answers no control information, which is optional.
func (a *App) Select() applet.Answer {
	a.Reset()
	if a.Terminated {
		return applet.Status(swTerminated)
	}
	return applet.Status(applet.OK)
}

// Reset forgets the passwords that were verified and what MANAGE SECURITY ENVIRONMENT set.
func (a *App) Reset() {
	a.signs, a.user, a.admin = false, false, false
	a.decipherer, a.authenticator = decryption, authentication
	a.occurrence = 0
}

// Incoming reports whether a command has data.
func (a *App) Incoming(ins byte) bool {
	switch ins {
	case 0x20, 0x22, 0x24, 0x2A, 0x2C, 0x47, 0x88, 0xA5, 0xDA, 0xDB:
		return true
	}
	return false
}

// Takes is how long a real card computes.
func (a *App) Takes(k applet.Command) time.Duration {
	uses := func(i int, rsa func(bits int) time.Duration, curve time.Duration) time.Duration {
		if al := a.algorithm(i); al.id == algRSA {
			return rsa(al.bits)
		}
		return curve
	}
	switch {
	case k.INS == 0x47 && k.P1 == 0x80:
		o, _, _ := applet.Next(k.Data)
		if i, ok := slotOf(o); ok {
			return uses(i, applet.TimeRSAKey, applet.TimeCurveKey)
		}
	case k.INS == 0x2A && k.P1P2() == 0x9E9A:
		return uses(signature, applet.TimeRSA, applet.TimeCurve)
	case k.INS == 0x2A && k.P1P2() == 0x8086 && len(k.Data) > 0 && k.Data[0] != 0x02: // which is AES
		return uses(a.decipherer, applet.TimeRSA, applet.TimeCurve)
	case k.INS == 0x88:
		return uses(a.authenticator, applet.TimeRSA, applet.TimeCurve)
	case k.INS == 0x20 || k.INS == 0x24 || k.INS == 0x2C:
		return applet.TimePIN
	case k.INS == 0xDA || k.INS == 0xDB || k.INS == 0x44 || k.INS == 0xE6:
		return applet.TimeWrite
	}
	return applet.TimeCommand
}

// Process answers a command (7.2).
func (a *App) Process(k applet.Command) applet.Answer {
	if k.CLA != 0 {
		return applet.Status(applet.SWCLA)
	}
	if a.Terminated && k.INS != 0x44 && k.INS != 0xCA && k.INS != 0xE6 {
		return applet.Status(applet.SWConditions)
	}
	switch k.INS {
	case 0x20:
		return applet.Status(a.verify(k))
	case 0x22:
		return applet.Status(a.manageEnvironment(k))
	case 0x24:
		return applet.Status(a.changeReference(k))
	case 0x2A:
		return a.performOperation(k)
	case 0x2C:
		return applet.Status(a.resetRetryCounter(k))
	case 0x44:
		return applet.Status(a.activate(k))
	case 0x47:
		return a.generateKeyPair(k)
	case 0x84:
		return a.getChallenge(k)
	case 0x88:
		return a.internalAuthenticate(k)
	case 0xA5:
		return applet.Status(a.selectData(k))
	case 0xCA:
		return a.getData(k)
	case 0xCC:
		return a.getNextData(k)
	case 0xDA:
		return applet.Status(a.putData(k))
	case 0xDB:
		return applet.Status(a.importKey(k))
	case 0xE6:
		return applet.Status(a.terminate(k))
	}
	return applet.Status(applet.SWINS)
}

// terminate is TERMINATE DF (7.2.16). Without PW3 it needs both passwords blocked.
func (a *App) terminate(k applet.Command) int {
	switch {
	case k.P1P2() != 0:
		return applet.SWP1P2
	case len(k.Data) > 0:
		return applet.SWLength
	case !a.admin && !(a.PW1.Blocked() && a.PW3.Blocked()):
		return applet.SWSecurity
	}
	a.Reset()
	a.Terminated = true
	a.store.Changed()
	return applet.OK
}

// activate is ACTIVATE FILE (7.2.17). A card in use stays as it is.
func (a *App) activate(k applet.Command) int {
	switch {
	case k.P1P2() != 0:
		return applet.SWP1P2
	case len(k.Data) > 0:
		return applet.SWLength
	case a.Terminated:
		a.initialize()
	}
	return applet.OK
}

// getChallenge is GET CHALLENGE (7.2.15).
func (a *App) getChallenge(k applet.Command) applet.Answer {
	switch {
	case k.P1P2() != 0:
		return applet.Status(applet.SWP1P2)
	case k.Le == 0 || len(k.Data) > 0:
		return applet.Status(applet.SWLength)
	}
	a.Made++ // so that a seed makes another one each time
	a.store.Changed()
	return applet.Data(a.source.Bytes(fmt.Sprint("challenge ", a.Made), min(k.Le, maxChallenge)))
}
