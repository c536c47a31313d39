package sim

import (
	"context"
	"fmt"
	"hash/fnv"
	"slices"
	"strconv"
	"strings"

	"github.com/cardfs/cardfs/drivers/sim/applet"
	"github.com/cardfs/cardfs/reader"
	"github.com/cardfs/cardfs/reader/icc"
)

// usage is the table of commands; what follows a tab explains.
var usage = []string{
	"sim N unplug — the reader leaves",
	"sim N plug — and comes back, as it was",
	"sim N remove — take the card out",
	"sim N insert [CARD] — put it back in, or a new one, by its name in card= of attach",
	"sim N mute — the card answers nothing, no reset either",
	"sim N slow DURATION — each command takes that much longer",
	"sim N noisy [1/N] — one in N blocks arrives damaged, one in 8 if not said",
	"sim N normal — no more of mute, slow, noisy",
	"sim N keys KEYS… — press keys of a PIN pad: 1234 (and OK; 1234- without), ok, cancel, clear",
}

func cardNamesButNone() string {
	return strings.TrimSuffix(cardNames(), ", "+noCard)
}

// Usage lists the commands. In a reader with several slots, N says which one.
func (d *Driver) Usage() []string { return usage }

// invalid returns the error of a command that is wrong, or impossible at the moment.
func invalid(format string, args ...any) error {
	return fmt.Errorf(format+": %w", append(args, reader.ErrInvalid)...)
}

// Command executes a command of Usage, without waiting.
func (d *Driver) Command(_ context.Context, dev reader.Device, words []string) error {
	if len(words) == 0 {
		return invalid("sim: a command must follow the number: unplug, plug, remove, insert, mute, slow, noisy, normal or keys")
	}
	d.mu.Lock()
	dv := d.devices[dev.Address]
	d.mu.Unlock()
	if dv == nil {
		return invalid("sim %s: %s was detached; attach it again", words[0], dev.Address)
	}
	if err := dv.command(dev.Host, dev.Slot, words); err != nil {
		return fmt.Errorf("sim: %s %s: %w", dev.Address, words[0], err)
	}
	return nil
}

func (dv *device) command(host reader.Host, slot int, words []string) error {
	word, args := words[0], words[1:]
	most := 0
	switch word {
	case "keys":
		return dv.press(slot, args)
	case "insert", "slow", "noisy":
		most = 1
	}
	if len(args) > most {
		return invalid("%q is one word too many", args[most])
	}
	switch word {
	case "unplug":
		return dv.unplug()
	case "plug":
		return dv.plugIn(host)
	case "remove":
		return dv.remove(slot)
	case "insert":
		return dv.insert(slot, args)
	case "mute":
		return dv.change(slot, func(f *icc.Faults) { f.Mute = true })
	case "slow":
		if len(args) == 0 {
			return invalid("a duration must follow, such as 300ms or 2s")
		}
		t, err := duration(args[0])
		if err != nil {
			return invalid("%q %w", args[0], err)
		}
		return dv.change(slot, func(f *icc.Faults) { f.Slow = t })
	case "noisy":
		every, err := oneIn(args)
		if err != nil {
			return err
		}
		seed := fnv.New64a()
		seed.Write([]byte(dv.dev.Serial))
		return dv.change(slot, func(f *icc.Faults) { f.Fraction, f.Seed = 1/float64(every), seed.Sum64() })
	case "normal":
		return dv.change(slot, func(f *icc.Faults) { *f = icc.Faults{} })
	}
	return invalid("is no command; there are unplug, plug, remove, insert, mute, slow, noisy, normal and keys")
}

// oneIn reads 1/N.
func oneIn(args []string) (int, error) {
	if len(args) == 0 {
		return 8, nil
	}
	s, ok := strings.CutPrefix(args[0], "1/")
	n, err := strconv.Atoi(s)
	if !ok || err != nil || n < 1 {
		return 0, invalid("%q is no fraction such as 1/8", args[0])
	}
	return n, nil
}

func (dv *device) unplug() error {
	dv.mu.Lock()
	defer dv.mu.Unlock()
	if dv.plug == nil {
		return invalid("the reader is not plugged in")
	}
	dv.pull()
	return nil
}

// plugIn announces the device again. The core waits until its previous reader is closed.
func (dv *device) plugIn(host reader.Host) error {
	dv.mu.Lock()
	switch {
	case dv.plug != nil:
		dv.mu.Unlock()
		return invalid("the reader is plugged in already")
	case host == nil:
		dv.mu.Unlock()
		return invalid("the reader was never announced")
	}
	dv.plug = &plug{dv, make(chan struct{})}
	dv.dev.Link = dv.plug
	dev := dv.dev
	dv.mu.Unlock()
	return host.Announce(dev)
}

func (dv *device) remove(slot int) error {
	dv.mu.Lock()
	defer dv.mu.Unlock()
	if dv.model.fixed {
		return invalid("the card of a token cannot be taken out; unplug the token")
	}
	card := dv.take(dv.hw.contacts()[slot])
	if card == nil {
		return invalid("there is no card in the slot")
	}
	dv.kept[slot] = card
	return nil
}

func (dv *device) insert(slot int, args []string) error {
	dv.mu.Lock()
	defer dv.mu.Unlock()
	contact := dv.hw.contacts()[slot]
	card := dv.kept[slot]
	switch {
	case dv.model.fixed:
		return invalid("a token has its card built in; plug the token")
	case contact.Present():
		return invalid("there is a card in the slot; remove it first")
	case len(args) > 0:
		if !slices.Contains(Cards(), args[0]) {
			return invalid("no card %q; there are %s", args[0], cardNamesButNone())
		}
		closeCard(card) // the new one may have the same state file
		dv.kept[slot] = nil
		fresh, err := newCardOf(args[0], applet.NewSettings(dv.dev.Serial, dv.dev.Params))
		if err != nil {
			return err
		}
		card = fresh
	case card == nil:
		return invalid("no card was taken out; say which one to put in: %s", cardNamesButNone())
	}
	dv.kept[slot] = nil
	return dv.put(contact, card)
}

func (dv *device) change(slot int, f func(*icc.Faults)) error {
	dv.mu.Lock()
	defer dv.mu.Unlock()
	f(&dv.faults[slot])
	dv.hw.contacts()[slot].SetFaults(dv.faults[slot])
	return nil
}

// press puts keys into the queue from which the PIN pad reads.
func (dv *device) press(slot int, words []string) error {
	dv.mu.Lock()
	defer dv.mu.Unlock()
	keys, err := keyWords(words)
	if err != nil {
		return err
	}
	if dv.plug == nil {
		return invalid("the reader is not plugged in")
	}
	if k, ok := dv.hw.(keyboard); !ok || !k.press(slot, keys) {
		return invalid("this reader has no keys; there is pinpad")
	}
	return nil
}
