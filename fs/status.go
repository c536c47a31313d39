package fs

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/hanwen/go-fuse/v2/fs"

	"github.com/cardfs/cardfs/reader/core"
	"github.com/cardfs/cardfs/reader/words"
)

// openStatus never waits.
func openStatus(ctx context.Context, f *file, flags uint32) (fs.FileHandle, error) {
	t := newTextFile(f)
	t.capture(true)
	return t, nil
}

func statusText(f *file) []byte { return statusLines(f.slot.Info()) }

// statusLines returns "key value" lines, state first. The words of a device are sanitised:
// they can neither end a line nor pass for another key.
func statusLines(i core.Info) []byte {
	var out []byte
	line := func(key, format string, args ...any) {
		text := strings.TrimSpace(words.Printable(fmt.Sprintf(format, args...), 2*words.MaxWords))
		if text != "" {
			out = fmt.Appendf(out, "%s %s\n", key, text)
		}
	}
	said := func(key, value string) { line(key, "%s", words.Printable(value, words.MaxValue)) }

	line("state", "%s", i.State)
	if i.Err != nil {
		line("error", "%s", words.Printable(i.Err.Error(), words.MaxWords))
	}
	said("reader", i.Model)
	line("pcsc", "%s", i.PCSC)
	said("driver", i.Device.Driver)
	said("device", i.Device.Address)
	said("bus", i.Device.Bus)
	if id := i.Device.ID; id.Vendor != 0 || id.Product != 0 {
		line("usb-id", "%04x:%04x", id.Vendor, id.Product)
	}
	said("serial", i.Device.Serial)
	said("port", i.Device.Port)
	line("by-id", "%s", i.ByID)
	line("slot", "%d of %d", i.Index, max(1, len(i.Siblings)))
	line("siblings", "%s", strings.Trim(fmt.Sprint(i.Siblings), "[]"))
	if i.Found > i.Served {
		line("slots", "%d, of which %d are served", i.Found, i.Served)
	}
	for _, key := range words.SortedKeys(i.More) {
		line(key, "%s", i.More[key])
	}
	if i.State == core.StatePowered {
		line("atr", "% X", i.ATR)
		line("atr-defect", "%s", defects(i))
		line("protocol", "%s", i.Protocol())
		if i.Chip.Size > 0 {
			line("memory", "%v", i.Chip)
		}
		if i.Chip.PSC > 0 {
			line("psc-tries", "%d", i.PSC.Tries)
			line("psc", "%s", map[bool]string{true: "verified", false: "needed"}[i.PSC.Verified])
		}
		line("sessions", "%d", i.Sessions)
		if !i.Synchronous() {
			line("parameters", "%s", i.Params)
		}
		line("fallback", "%s", i.Fallback)
		if i.Waiting > 0 {
			line("waiting", "%d", i.Waiting/time.Second)
		}
	}
	if i.Locked {
		line("transaction", "held")
	}
	if i.Connections > 0 {
		line("connections", "%d", i.Connections)
	}
	if i.Exclusive {
		by := "held"
		if p, known := i.Process.(process); known {
			by = fmt.Sprintf("pid %d", p.pid)
		}
		line("exclusive", "%s", by)
	}
	line("card-changes", "%d", i.CardChanges)
	if i.Event > 0 {
		line("event", "%d", i.Event)
	}
	line("instance", "%s", i.Instance)
	said("via", i.Device.Via)
	return out
}

// defects lists how the ATR violates the standard.
func defects(i core.Info) string {
	if i.Answer == nil {
		return ""
	}
	var list []string
	for _, d := range i.Answer.Defects() {
		list = append(list, d.String())
	}
	return strings.Join(list, "; ")
}
