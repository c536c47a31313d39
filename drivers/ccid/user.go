package ccid

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/cardfs/cardfs/drivers/bus/usb"
)

// Quirk is a user's addition to the table of known quirks, for one model.
type Quirk struct {
	Vendor, Product uint16
	Settings        map[string]string // see Settings
}

// setting is one key of Quirk.Settings.
type setting struct {
	name, value string
	help        string
	set         func(e *effects, value string) error
}

var settings = []setting{
	{"any-firmware", "true", "use it, whatever firmware it has",
		flag(func(e *effects, on bool) {
			if on {
				e.minFirmware = 0
			}
		})},
	{"auto-ifsd", "true", "send no S(IFS request)", flag(func(e *effects, on bool) { e.autoIFSD = on })},
	{"chains", "true", "chain, though the descriptor says that it does not", flag(func(e *effects, on bool) { e.chains = on })},
	{"ifsd", "BYTES", "dwMaxIFSD, in place of the descriptor's", number(1, 254, func(e *effects, n uint32) { e.ifsd = n })},
	{"level", "LEVEL", "what one message carries: tpdu, short or extended", setLevel},
	{"max-rate", "BIT/S", "no faster data rate", number(1, 1<<31, func(e *effects, n uint32) { e.maxRate, e.dropRates = n, true })},
	{"no-pinpad", "true", "offer no PIN pad", flag(func(e *effects, on bool) { e.noPINPad = on })},
	{"no-pps", "true", "send no PPS: the card's first protocol and rate", flag(func(e *effects, on bool) { e.noPPS = on })},
	{"power-off-first", "true", "power off before each power on", flag(func(e *effects, on bool) { e.offFirst = on })},
	{"start-delay", "DURATION", "wait before the first command", func(e *effects, value string) error {
		d, err := time.ParseDuration(value)
		if err != nil || d < 0 || d > time.Minute {
			return errors.New("a time up to 1m is wanted, such as 500ms")
		}
		e.startDelay = d
		return nil
	}},
	{"time-factor", "N", "multiply time limits", number(1, 100, func(e *effects, n uint32) { e.factor = int(n) })},
}

// flag returns the set function of a setting that is true or false.
func flag(set func(*effects, bool)) func(*effects, string) error {
	return func(e *effects, value string) error {
		if value != "true" && value != "false" {
			return errors.New("true or false is wanted")
		}
		set(e, value == "true")
		return nil
	}
}

func number(least, most uint32, set func(*effects, uint32)) func(*effects, string) error {
	return func(e *effects, value string) error {
		n, err := strconv.ParseUint(value, 10, 32)
		if err != nil || uint32(n) < least || uint32(n) > most {
			return fmt.Errorf("a number from %d to %d is wanted", least, most)
		}
		set(e, uint32(n))
		return nil
	}
}

func setLevel(e *effects, value string) error {
	levels := map[string]Features{"tpdu": LevelTPDU, "short": LevelShort, "extended": LevelExtended}
	level, known := levels[value]
	if !known {
		return errors.New("tpdu, short or extended is wanted")
	}
	e.level = level
	return nil
}

// Settings lists the possible Quirk.Settings: the key, its value, and its effect.
func Settings() (list [][3]string) {
	for _, s := range settings {
		list = append(list, [3]string{s.name, s.value, s.help})
	}
	return list
}

// CheckSetting returns an error if a key or its value is invalid.
func CheckSetting(key, value string) error {
	i := slices.IndexFunc(settings, func(s setting) bool { return s.name == key })
	if i < 0 {
		var names []string
		for _, s := range settings {
			names = append(names, s.name)
		}
		return fmt.Errorf("no setting %q; there are %s", key, strings.Join(names, ", "))
	}
	if err := settings[i].set(new(effects), value); err != nil {
		return fmt.Errorf("%s: %w", key, err)
	}
	return nil
}

func (q *Quirk) matches(d usb.Device) bool { return q.Vendor == d.Vendor && q.Product == d.Product }

// apply ignores settings that CheckSetting refuses.
func (q *Quirk) apply(e *effects) {
	for _, s := range settings {
		if value, ok := q.Settings[s.name]; ok {
			_ = s.set(e, value)
		}
	}
}

// note returns the quirk's line in `status`.
func (q *Quirk) note() string {
	var list []string
	for _, key := range slices.Sorted(maps.Keys(q.Settings)) {
		list = append(list, key+"="+q.Settings[key])
	}
	return "set by the user: " + strings.Join(list, " ")
}

// UserQuirks holds the quirks of the user, who may replace them at any time. They apply
// to readers opened afterwards. The zero value and nil are empty.
type UserQuirks struct{ list atomic.Pointer[[]Quirk] }

// Set replaces the list.
func (u *UserQuirks) Set(list []Quirk) { u.list.Store(&list) }

// Value returns what the user set for a key of another driver's device; "" for nothing.
func (u *UserQuirks) Value(vendor, product uint16, key string) (value string) {
	for _, q := range u.of(usb.Device{Vendor: vendor, Product: product}) {
		if v, ok := q.Settings[key]; ok {
			value = v
		}
	}
	return value
}

// of returns the quirks of a device.
func (u *UserQuirks) of(d usb.Device) (list []Quirk) {
	if u == nil || u.list.Load() == nil {
		return nil
	}
	for _, q := range *u.list.Load() {
		if q.matches(d) {
			list = append(list, q)
		}
	}
	return list
}
