package machine

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
)

// Executor runs QMP commands: a *Machine from the host, a *Guest from inside.
type Executor interface {
	Execute(ctx context.Context, command string, args any) (json.RawMessage, error)
}

// Props are the properties of one QEMU device; "driver" and "id" among them.
type Props map[string]string

// Kind returns the QEMU devices that make one thing to plug in, outermost first. cards is
// the host's path of the card database.
type Kind func(id, cards string) []Props

// Kinds are the things that QEMU itself can emulate.
var Kinds = map[string]Kind{
	// A CCID reader (08e6:4433, TPDU level, T=0) with libcacard's CAC in it.
	// On UHCI, as with xHCI a message of exactly 64 bytes leaves a stray
	// zero-length packet that shifts every later answer (QEMU 7.2).
	"ccid": func(id, cards string) []Props {
		return append(readerProps(id), cardProps(id, id+"-card", cards))
	},
	// The same on the xHCI controller that Config.XHCI adds: a transfer waits for no frame.
	"ccid-xhci": func(id, cards string) []Props {
		return []Props{{"driver": "usb-ccid", "id": id, "bus": "xhci0.0", "port": "1"}, cardProps(id, id+"-card", cards)}
	},
	// The same reader without a card.
	"ccid-empty": func(id, _ string) []Props { return readerProps(id) },
	// Bystanders that cardfs must leave alone.
	"keyboard": func(id, _ string) []Props { return []Props{{"driver": "usb-kbd", "id": id}} },
	"tablet":   func(id, _ string) []Props { return []Props{{"driver": "usb-tablet", "id": id}} },
}

// KindNames lists Kinds in order.
func KindNames() []string { return slices.Sorted(maps.Keys(Kinds)) }

func readerProps(id string) []Props { return []Props{{"driver": "usb-ccid", "id": id}} }

func cardProps(reader, card, cards string) Props {
	return Props{
		"driver": "ccid-card-emulated", "id": card, "bus": reader + ".0",
		"backend": "certificates", "db": "sql:" + cards,
		"cert1": "cert1", "cert2": "cert2", "cert3": "cert3",
	}
}

// uhciCount UHCI controllers have two ports each.
const uhciCount = 3

// portMap assigns USB devices to ports of the UHCI controllers. Left to itself, QEMU puts a
// hub on a controller's last port, which slows the devices behind it.
type portMap struct {
	mu    sync.Mutex
	owner [uhciCount * 2]string
}

// place adds bus and port to a USB device that has none, and reports whether it did.
func (m *portMap) place(p Props) (bool, error) {
	if !strings.HasPrefix(p["driver"], "usb-") || p["bus"] != "" {
		return false, nil
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if slices.Contains(m.owner[:], p["id"]) {
		return false, nil // QEMU will refuse it
	}
	i := slices.Index(m.owner[:], "")
	if i < 0 {
		return false, fmt.Errorf("no free USB port for %s: they have %s", p["id"], strings.Join(m.owner[:], " "))
	}
	m.owner[i] = p["id"]
	p["bus"], p["port"] = fmt.Sprintf("uhci%d.0", i%uhciCount), fmt.Sprint(i/uhciCount+1)
	return true, nil
}

// free frees a device's port.
func (m *portMap) free(id string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if i := slices.Index(m.owner[:], id); i >= 0 {
		m.owner[i] = ""
	}
}

// Plug plugs in a thing of the given kind.
func Plug(ctx context.Context, x Executor, kind, id string) error {
	k, ok := Kinds[kind]
	if !ok {
		return fmt.Errorf("no device kind %q; there are: %v", kind, KindNames())
	}
	cards, err := cardsFor(ctx, x)
	if err != nil {
		return err
	}
	for _, p := range k(id, cards) {
		if _, err := x.Execute(ctx, "device_add", p); err != nil {
			return fmt.Errorf("plug %s %s: %w", kind, id, err)
		}
	}
	return nil
}

// PlugReader plugs in an empty CCID reader.
func PlugReader(ctx context.Context, x Executor, id string) error {
	return Plug(ctx, x, "ccid-empty", id)
}

// Unplug unplugs a device: a thing with everything in it, or a card.
func Unplug(ctx context.Context, x Executor, id string) error {
	_, err := x.Execute(ctx, "device_del", Props{"id": id})
	return err
}

// InsertCard puts libcacard's CAC, with the given id, into a reader.
func InsertCard(ctx context.Context, x Executor, reader, card string) error {
	cards, err := cardsFor(ctx, x)
	if err != nil {
		return err
	}
	_, err = x.Execute(ctx, "device_add", cardProps(reader, card, cards))
	return err
}

// cardsFor returns the host's path of the card database, on either side.
func cardsFor(ctx context.Context, x Executor) (string, error) {
	if _, ok := x.(*Guest); ok {
		return os.Getenv(envCards), nil
	}
	return CardDB(ctx)
}

// CardDB makes, once, the NSS database that holds the emulated card's three
// certificates and keys, and returns its directory.
func CardDB(ctx context.Context) (string, error) {
	cache, err := CacheDir()
	if err != nil {
		return "", err
	}
	unlock, err := lockDir(ctx, cache)
	if err != nil {
		return "", err
	}
	defer unlock()
	db := filepath.Join(cache, "cards")
	if _, err := os.Stat(filepath.Join(db, "cert9.db")); err == nil {
		return db, nil
	}
	work, err := os.MkdirTemp(cache, "new-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(work)
	d := "sql:" + work
	if _, err := run(ctx, "", "certutil", "-N", "-d", d, "--empty-password"); err != nil {
		return "", fmt.Errorf("card database: %w (apt-get install libnss3-tools)", err)
	}
	noise := filepath.Join(work, "noise")
	if err := os.WriteFile(noise, fmt.Appendf(nil, "%p %d %s", &work, os.Getpid(), work), 0o600); err != nil {
		return "", err
	}
	for i := 1; i <= 3; i++ {
		name := fmt.Sprintf("cert%d", i)
		if _, err := run(ctx, "", "certutil", "-S", "-d", d, "-z", noise, "-n", name, "-s", "CN="+name+",O=cardfs tests",
			"-x", "-t", "CT,CT,CT", "-m", fmt.Sprint(i), "-v", "120"); err != nil {
			return "", fmt.Errorf("card database: %w", err)
		}
	}
	os.Remove(noise)
	return db, os.Rename(work, db)
}
