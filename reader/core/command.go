package core

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/cardfs/cardfs/reader"
	"github.com/cardfs/cardfs/reader/words"
)

// ctlCommand is one command of `ctl`.
type ctlCommand struct {
	word, args string
	explains   string
	do         func(m *Manager, args []string) error
}

func (c *ctlCommand) String() string { return strings.TrimSpace(c.word + " " + c.args) }

// ctlCommands is the table of them; the drivers' own commands are behind it.
var ctlCommands = []ctlCommand{
	{"attach", "DRIVER DEVICE [key=value...]", "make a device a reader that nothing announces", (*Manager).AttachWords},
	{"detach", "N", "make the reader of slot N leave", slotCommand((*Manager).Detach)},
	{"abort", "N", "end the exchange under way in slot N; its card is powered off", slotCommand((*Manager).Abort)},
	{"rescan", "", "look for devices again, and open those again that failed", func(m *Manager, args []string) error {
		if len(args) != 0 {
			return fmt.Errorf("takes no argument: %w", reader.ErrInvalid)
		}
		m.Rescan()
		return nil
	}},
}

// CtlUsage lists the commands of `ctl` that need no driver, with what they do.
func CtlUsage() (commands [][2]string) {
	for i := range ctlCommands {
		commands = append(commands, [2]string{ctlCommands[i].String(), ctlCommands[i].explains})
	}
	return commands
}

// Command does one line of `ctl`: a command of the table, or `DRIVER N WORD…`, a command
// of that driver, such as `sim 0 remove`. It checks, starts and returns; what comes of it
// is in the events.
func (m *Manager) Command(line string) error {
	words := strings.Fields(line)
	if len(words) == 0 {
		return nil
	}
	for i := range ctlCommands {
		if c := &ctlCommands[i]; c.word == words[0] {
			if err := c.do(m, words[1:]); err != nil {
				return fmt.Errorf("%s: %w", c, err)
			}
			m.limited.Info("ctl", "command", c.word) // a word of the table; the line may be anything
			return nil
		}
	}
	return m.driverCommand(words)
}

// slotCommand is a command whose one argument is the number of a slot.
func slotCommand(do func(*Manager, int) error) func(*Manager, []string) error {
	return func(m *Manager, args []string) error {
		if len(args) != 1 {
			return fmt.Errorf("the number of a slot's directory must follow, and nothing else: %w", reader.ErrInvalid)
		}
		n, err := slotNumber(args[0])
		if err != nil {
			return err
		}
		return do(m, n)
	}
}

func slotNumber(word string) (int, error) {
	n, err := strconv.Atoi(word)
	if err != nil || n < 0 || word != strconv.Itoa(n) {
		return 0, fmt.Errorf("%q is no number of a slot's directory: %w", word, reader.ErrInvalid)
	}
	return n, nil
}

// Abort ends the exchange under way in slot number; its card is powered off.
func (m *Manager) Abort(number int) error {
	s := m.Slot(number)
	if s == nil {
		return fmt.Errorf("no slot %d: %w", number, reader.ErrInvalid)
	}
	return s.Abort()
}

// AttachWords is Attach for DRIVER DEVICE key=value…
func (m *Manager) AttachWords(words []string) error {
	if len(words) == 0 {
		return fmt.Errorf("a driver must follow; there are %s: %w", strings.Join(m.driverNames(), ", "), reader.ErrInvalid)
	}
	address, params := "", make(map[string]string)
	if len(words) > 1 {
		address = words[1]
		for _, p := range words[2:] {
			key, value, ok := strings.Cut(p, "=")
			if !ok || key == "" {
				return fmt.Errorf("%q is not key=value: %w", p, reader.ErrInvalid)
			}
			params[key] = value
		}
	}
	return m.Attach(words[0], address, params)
}

// Attach makes a device a reader that nothing announces. A driver that completes what it
// is given may have a default for address. The key t0 is the core's own: t0=plain is
// Device.T0Plain.
func (m *Manager) Attach(driver, address string, params map[string]string) error {
	d := m.driver(driver)
	if d == nil {
		return fmt.Errorf("no driver %q; there are %s: %w", driver, strings.Join(m.driverNames(), ", "), reader.ErrInvalid)
	}
	dev := reader.Device{Driver: driver, Address: address, Params: make(map[string]string)}
	maps.Copy(dev.Params, params)
	attacher, completes := d.(reader.Attacher)
	if address == "" && !completes {
		return fmt.Errorf("driver %s wants a device: %w", driver, reader.ErrInvalid)
	}
	if v, ok := dev.Params["t0"]; ok {
		if v != "plain" {
			return fmt.Errorf("attach: t0=%s: only t0=plain is known: %w", v, reader.ErrInvalid)
		}
		dev.T0Plain = true
		delete(dev.Params, "t0")
	}
	if completes {
		var err error
		if dev, err = m.complete(attacher, dev); err != nil {
			return fmt.Errorf("%s %s: %w", dev.Driver, dev.Address, err)
		}
	}
	return m.Announce(dev)
}

func (m *Manager) complete(a reader.Attacher, dev reader.Device) (done reader.Device, err error) {
	done = dev
	defer m.recovered("driver "+dev.Driver+": Attach", &err)
	return a.Attach(dev)
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
	if _, ok := m.driver(words[0]).(reader.Commander); !ok {
		return fmt.Errorf("%q is no command; there are %s: %w", words[0], strings.Join(m.commandWords(), ", "), reader.ErrInvalid)
	}
	if len(words) < 2 {
		return fmt.Errorf("%s N: the number of a slot's directory must follow: %w", words[0], reader.ErrInvalid)
	}
	number, err := slotNumber(words[1])
	if err != nil {
		return fmt.Errorf("%s: %w", words[0], err)
	}
	return m.CommandDriver(words[0], number, words[2:])
}

// CommandDriver hands a driver a command of its own, with the device that has, or last
// had, slot number.
func (m *Manager) CommandDriver(driver string, number int, command []string) error {
	c, ok := m.driver(driver).(reader.Commander)
	if !ok {
		return fmt.Errorf("driver %s has no commands: %w", driver, reader.ErrInvalid)
	}
	m.mu.Lock()
	dev, known := m.last[number]
	m.mu.Unlock()
	if !known || dev.Driver != driver {
		return fmt.Errorf("slot %d is not and was not driver %s's: %w", number, driver, reader.ErrInvalid)
	}
	return m.commandDriver(c, dev.Device, command)
}

func (m *Manager) commandDriver(c reader.Commander, dev reader.Device, words []string) (err error) {
	defer m.recovered("driver "+dev.Driver+": Command", &err)
	return c.Command(m.ctx, dev, words)
}

func (m *Manager) commandWords() (words []string) {
	for i := range ctlCommands {
		words = append(words, ctlCommands[i].word)
	}
	for _, d := range m.options.Drivers {
		if _, ok := d.(reader.Commander); ok {
			words = append(words, d.Name())
		}
	}
	return words
}

// usage is Commander.Usage.
func (m *Manager) usage(c reader.Commander) (lines []string) {
	var err error
	defer m.recovered("Usage", &err)
	return c.Usage()
}

// Describe is what reading `ctl` gives: the commands, the drivers with what they
// serve, and the readers.
func (m *Manager) Describe() []byte {
	var out strings.Builder
	for i := range ctlCommands {
		fmt.Fprintf(&out, "# %s\n", &ctlCommands[i])
	}
	for _, d := range m.options.Drivers {
		if c, ok := d.(reader.Commander); ok {
			for _, u := range m.usage(c) {
				fmt.Fprintf(&out, "# %s\n", u)
			}
		}
	}
	units := make(map[string]int)
	slots := m.Slots()
	for _, s := range slots {
		units[s.ifd.dev.Driver]++
	}
	for _, d := range m.options.Drivers {
		fmt.Fprintf(&out, "driver %s slots=%d\n", d.Name(), units[d.Name()])
	}
	for _, s := range slots {
		i := s.brief()
		fmt.Fprintf(&out, "reader %d %s %s %s", s.number, i.Device.Driver, words.Word(i.Device.Address, words.MaxValue), i.State)
		for _, key := range slices.Sorted(maps.Keys(i.Device.Params)) {
			fmt.Fprintf(&out, " %s=%s", words.Word(key, words.MaxValue), words.Word(i.Device.Params[key], words.MaxValue))
		}
		if i.Device.T0Plain {
			out.WriteString(" t0=plain")
		}
		if i.Err != nil {
			fmt.Fprintf(&out, " error=%s", words.Word(i.Err.Error(), words.MaxWords))
		}
		out.WriteByte('\n')
	}
	return []byte(out.String())
}
