package reader

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// Command does one line of `ctl`. It checks, starts and returns; what comes of
// it is in the events.
//
//	attach DRIVER DEVICE [key=value…]
//	detach N
//	rescan
//	DRIVER N WORD…        a command of that driver, such as `sim 0 remove`
func (m *Manager) Command(line string) error {
	words := strings.Fields(line)
	if len(words) == 0 {
		return nil
	}
	switch words[0] {
	case "attach":
		return m.attach(words[1:])
	case "detach":
		number, err := slotNumber(words, 2)
		if err != nil {
			return err
		}
		return m.Detach(number)
	case "rescan":
		if len(words) != 1 {
			return fmt.Errorf("rescan takes no argument: %w", ErrInvalid)
		}
		if m.options.Rescan != nil {
			m.options.Rescan()
		}
		return nil
	}
	return m.driverCommand(words)
}

func slotNumber(words []string, want int) (int, error) {
	if len(words) < 2 || want > 0 && len(words) != want {
		return 0, fmt.Errorf("%s N: %w", words[0], ErrInvalid)
	}
	n, err := strconv.Atoi(words[1])
	if err != nil || n < 0 {
		return 0, fmt.Errorf("%s %q: the number of a slot's directory must follow: %w", words[0], words[1], ErrInvalid)
	}
	return n, nil
}

// attach takes DRIVER DEVICE key=value…; a driver that completes what it is given
// may have a default for DEVICE.
func (m *Manager) attach(words []string) error {
	usage := fmt.Errorf("attach DRIVER DEVICE [key=value…]: %w", ErrInvalid)
	if len(words) == 0 {
		return usage
	}
	d := m.driver(words[0])
	if d == nil {
		return fmt.Errorf("attach: no driver %q; there are %s: %w", words[0], strings.Join(m.driverNames(), ", "), ErrInvalid)
	}
	dev := Device{Driver: words[0], Params: make(map[string]string)}
	attacher, completes := d.(Attacher)
	if len(words) > 1 {
		dev.Address = words[1]
		for _, p := range words[2:] {
			key, value, ok := strings.Cut(p, "=")
			if !ok || key == "" {
				return fmt.Errorf("attach: %q is not key=value: %w", p, ErrInvalid)
			}
			dev.Params[key] = value
		}
	} else if !completes {
		return usage
	}
	if completes {
		var err error
		if dev, err = attacher.Attach(dev); err != nil {
			return fmt.Errorf("attach %s %s: %w", dev.Driver, dev.Address, err)
		}
	}
	return m.Announce(dev)
}

func (m *Manager) driverNames() []string {
	var names []string
	for _, d := range m.options.Drivers {
		names = append(names, d.Name())
	}
	slices.Sort(names)
	return names
}

func (m *Manager) driverCommand(words []string) error {
	d := m.driver(words[0])
	c, ok := d.(Commander)
	if !ok {
		return fmt.Errorf("%q is no command; there are attach, detach, rescan%s: %w", words[0], m.commanders(), ErrInvalid)
	}
	number, err := slotNumber(words, 0)
	if err != nil {
		return err
	}
	m.mu.Lock()
	dev, known := m.last[number]
	m.mu.Unlock()
	if !known || dev.Driver != words[0] {
		return fmt.Errorf("slot %d is not and was not driver %s's: %w", number, words[0], ErrInvalid)
	}
	return c.Command(m.ctx, dev, words[2:])
}

func (m *Manager) commanders() string {
	var out string
	for _, d := range m.options.Drivers {
		if _, ok := d.(Commander); ok {
			out += ", " + d.Name()
		}
	}
	return out
}

// Describe is what reading `ctl` gives: the commands, the drivers with what they
// serve, and the readers.
func (m *Manager) Describe() []byte {
	var out strings.Builder
	out.WriteString("# attach DRIVER DEVICE [key=value...]\n# detach N\n# rescan\n")
	for _, d := range m.options.Drivers {
		if c, ok := d.(Commander); ok {
			for _, u := range c.Usage() {
				fmt.Fprintf(&out, "# %s\n", u)
			}
		}
	}
	units := make(map[string]int)
	bays := m.Bays()
	for _, b := range bays {
		units[b.unit.dev.Driver]++
	}
	for _, d := range m.options.Drivers {
		fmt.Fprintf(&out, "driver %s slots=%d\n", d.Name(), units[d.Name()])
	}
	for _, b := range bays {
		i := b.Info()
		fmt.Fprintf(&out, "reader %d %s %s %s", b.number, i.Device.Driver, i.Device.Address, i.State)
		for _, key := range slices.Sorted(maps.Keys(i.Device.Params)) {
			fmt.Fprintf(&out, " %s=%s", key, i.Device.Params[key])
		}
		if i.Err != nil {
			fmt.Fprintf(&out, " error=%s", strings.Map(oneWord, i.Err.Error()))
		}
		out.WriteByte('\n')
	}
	return []byte(out.String())
}
