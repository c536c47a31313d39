package core

import (
	"fmt"
	"hash/fnv"
	"strings"

	"github.com/cardfs/cardfs/reader"
	"github.com/cardfs/cardfs/reader/words"
)

// ByID returns the name of the slot that survives replugging and reboot.
func (s *Slot) ByID() string {
	s.manager.mu.Lock()
	defer s.manager.mu.Unlock()
	return s.name
}

// lastingName makes the name of a slot that survives replugging and reboot, in udev's style:
// bus, model, serial number or port, and the slot in the reader.
func lastingName(dev reader.Device, index int) string {
	where, bus := dev.Serial, dev.Bus
	if where == "" {
		where = dev.Port
	}
	if where == "" {
		where = dev.Address
	}
	if bus == "" {
		bus = dev.Driver
	}
	model := dev.ID.Model
	if model != "" {
		model += "_"
	}
	name, slot := fmt.Sprintf("%s-%s%s", tame(bus), tame(model), tame(where)), fmt.Sprintf("-slot%d", index)
	if most := words.MaxName - len(slot); len(name) > most {
		// What is cut off tells it from others all the same.
		sum := fnv.New64a()
		fmt.Fprint(sum, bus, "\x00", model, "\x00", where)
		tail := fmt.Sprintf("-%016x", sum.Sum64())
		name = name[:most-len(tail)] + tail
	}
	return name + slot
}

// maxPCSC is the greatest length of a reader's name in PC/SC (MAX_READERNAME, with its NUL 128).
const maxPCSC = 127

// pcscName is the name of a slot for PC/SC programs, as pcscd forms it: the reader's name, a
// number that tells the reader from others, and the slot in it.
func pcscName(driver, model string, number, index int) string {
	name := strings.TrimSpace(strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return '?'
		}
		return r
	}, model))
	if name == "" {
		name = driver
	}
	tail := fmt.Sprintf(" %02X %02X", number, index)
	return strings.TrimRight(name[:min(len(name), maxPCSC-len(tail))], " ") + tail
}

// tame keeps the characters that udev keeps in names: letters, digits and "#+-.:=@_". A run
// of others becomes one underscore.
func tame(s string) string {
	var out strings.Builder
	for _, r := range strings.TrimSpace(s) {
		switch {
		case r >= '0' && r <= '9', r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', strings.ContainsRune("#+-.:=@_", r):
			out.WriteRune(r)
		case !strings.HasSuffix(out.String(), "_"):
			out.WriteByte('_')
		}
	}
	return out.String()
}
