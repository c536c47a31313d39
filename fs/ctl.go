package fs

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/hanwen/go-fuse/v2/fs"

	"github.com/cardfs/cardfs/reader"
	"github.com/cardfs/cardfs/reader/core"
	"github.com/cardfs/cardfs/reader/words"
)

// ctlCommand is one command of `ctl`.
type ctlCommand struct {
	name, args string
	help       string
	do         func(m *core.Manager, args []string) error
}

// String is the command as it is written.
func (c *ctlCommand) String() string { return strings.TrimSpace(c.name + " " + c.args) }

// ctlCommands is the table of all commands. Errors, the text of `ctl` and `cardfs help files`
// are made from it. The drivers' own commands come after it.
var ctlCommands = []ctlCommand{
	{"attach", "DRIVER DEVICE [key=value...]", "make a device a reader that nothing announces", Attach},
	{"detach", "N [or DRIVER DEVICE]", "make a reader leave, or what was attached so", detach},
	{"abort", "N", "end the exchange under way in slot N; its card is powered off", slotCommand((*core.Manager).Abort)},
	{"rescan", "", "look for devices again, and open those again that failed", func(m *core.Manager, args []string) error {
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
		commands = append(commands, [2]string{ctlCommands[i].String(), ctlCommands[i].help})
	}
	return commands
}

// Ctl carries out one line of `ctl`: a command of the table, or `DRIVER N WORD…`, a command of
// that driver, such as `sim 0 remove`. It checks the command, starts it and returns; the
// events show the outcome.
func Ctl(m *core.Manager, line string) error {
	args := strings.Fields(line)
	if len(args) == 0 {
		return nil
	}
	for i := range ctlCommands {
		if c := &ctlCommands[i]; c.name == args[0] {
			if err := c.do(m, args[1:]); err != nil {
				return fmt.Errorf("%s: %w", c, err)
			}
			return nil
		}
	}
	return driverCommand(m, args)
}

// slotCommand is a command whose one argument is the number of a slot.
func slotCommand(do func(*core.Manager, int) error) func(*core.Manager, []string) error {
	return func(m *core.Manager, args []string) error {
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

// detach has the number of a slot, or the two words that attached something.
func detach(m *core.Manager, args []string) error {
	if len(args) == 2 {
		return m.DetachDevice(args[0], args[1])
	}
	return slotCommand((*core.Manager).Detach)(m, args)
}

func slotNumber(word string) (int, error) {
	n, err := strconv.Atoi(word)
	if err != nil || n < 0 || word != strconv.Itoa(n) {
		return 0, fmt.Errorf("%q is no number of a slot's directory: %w", word, reader.ErrInvalid)
	}
	return n, nil
}

// Attach makes a reader of a device that no bus announces: DRIVER DEVICE key=value…
func Attach(m *core.Manager, args []string) error {
	if len(args) == 0 {
		var names []string
		for _, d := range m.Drivers() {
			names = append(names, d.Name())
		}
		slices.Sort(names)
		return fmt.Errorf("a driver must follow; there are %s: %w", strings.Join(names, ", "), reader.ErrInvalid)
	}
	driver, device, params, err := AttachWords(args)
	if err != nil {
		return err
	}
	return m.Attach(driver, device, params)
}

// AttachWords parses DRIVER DEVICE key=value….
func AttachWords(args []string) (driver, device string, params map[string]string, err error) {
	if len(args) > 0 {
		driver = args[0]
	}
	params = make(map[string]string)
	if len(args) > 1 {
		device = args[1]
		for _, p := range args[2:] {
			key, value, ok := strings.Cut(p, "=")
			if !ok || key == "" {
				return "", "", nil, fmt.Errorf("%q is not key=value: %w", p, reader.ErrInvalid)
			}
			params[key] = value
		}
	}
	return driver, device, params, nil
}

// driverCommand is `DRIVER N WORD…`.
func driverCommand(m *core.Manager, args []string) error {
	if commanders := commanders(m); !slices.Contains(commanders, args[0]) {
		var names []string
		for i := range ctlCommands {
			names = append(names, ctlCommands[i].name)
		}
		return fmt.Errorf("%q is no command; there are %s: %w", args[0], strings.Join(append(names, commanders...), ", "), reader.ErrInvalid)
	}
	if len(args) < 2 {
		return fmt.Errorf("%s N: the number of a slot's directory must follow: %w", args[0], reader.ErrInvalid)
	}
	number, err := slotNumber(args[1])
	if err != nil {
		return fmt.Errorf("%s: %w", args[0], err)
	}
	return m.CommandDriver(args[0], number, args[2:])
}

// commanders are the drivers that have commands of their own.
func commanders(m *core.Manager) (names []string) {
	for _, d := range m.Drivers() {
		if _, ok := d.(reader.Commander); ok {
			names = append(names, d.Name())
		}
	}
	return names
}

// openCtl: reading lists commands, drivers and readers, a line written is a command.
func openCtl(ctx context.Context, f *file, flags uint32) (fs.FileHandle, error) {
	t := newTextFile(f)
	t.capture(true)
	t.do = func(ctx context.Context, line string) error {
		err := Ctl(f.mount.manager, line)
		logCtl(f, line, err)
		return err
	}
	return t, nil
}

// logCtl logs the outcome of a command. It names the command by its word in the table or by
// the driver alone: the rest of the line may be a command to a card.
func logCtl(f *file, line string, err error) {
	name, _, _ := strings.Cut(line, " ")
	known := slices.Contains(commanders(f.mount.manager), name) ||
		slices.ContainsFunc(ctlCommands, func(c ctlCommand) bool { return c.name == name })
	switch {
	case !known:
		f.mount.log.Warn("ctl refused", "reason", "no such command")
	case err != nil:
		f.mount.log.Warn("ctl refused", "command", name, "errno", errnoName(toErrno(err)))
	default:
		f.mount.log.Info("ctl", "command", name)
	}
}

func ctlText(f *file) []byte { return ctlLines(f.mount.manager) }

// ctlLines are the commands as comments, then a line for each driver and each slot.
func ctlLines(m *core.Manager) (out []byte) {
	for i := range ctlCommands {
		out = fmt.Appendf(out, "# %s\n", &ctlCommands[i])
	}
	for _, d := range m.Drivers() {
		for _, usage := range m.Usage(d) {
			out = fmt.Appendf(out, "# %s\n", usage)
		}
	}
	out = fmt.Appendf(out, "instance %s\n", m.Instance())
	served := make(map[string]int) // slots by driver
	var readers []core.Info
	for _, s := range m.Slots() {
		i := s.Brief()
		served[i.Device.Driver]++
		readers = append(readers, i)
	}
	for _, d := range m.Drivers() {
		out = fmt.Appendf(out, "driver %s slots=%d\n", d.Name(), served[d.Name()])
	}
	for _, h := range m.Hubs() {
		out = fmt.Appendf(out, "hub")
		out = appendDevice(out, h.Device, h.State, h.Err)
	}
	for _, i := range readers {
		out = fmt.Appendf(out, "reader %d", i.Number)
		out = appendDevice(out, i.Device, i.State, i.Err)
	}
	return out
}

// appendDevice appends the rest of a line of ctl: what was attached, how, and how it is.
func appendDevice(out []byte, dev reader.Device, state core.State, err error) []byte {
	out = fmt.Appendf(out, " %s %s %s", dev.Driver, words.Word(dev.Address, words.MaxValue), state)
	for _, key := range slices.Sorted(maps.Keys(dev.Params)) {
		out = fmt.Appendf(out, " %s=%s", words.Word(key, words.MaxValue), words.Word(dev.Params[key], words.MaxValue))
	}
	if dev.T0Plain {
		out = append(out, " t0=plain"...)
	}
	if err != nil {
		out = fmt.Appendf(out, " error=%s", words.Word(err.Error(), words.MaxWords))
	}
	return append(out, '\n')
}
